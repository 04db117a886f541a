"""Jobs on Ray (https://www.ray.io): in parallel on this machine, or on a cluster whose nodes share the folder of results.

Ray places the jobs, and starts one anew whose worker died. Every attempt goes on from the run folder: a killed worker lets go of
the folder's lock, and what it lost is the epoch under way. Jobs tell of themselves through their run folders, and only whether
they ended through Ray.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..errors import InUse, WorkbookError
from ..places import absolute
from ..processes import python_path
from .progress import Job, Listener, Progress, Teller, sentence

INSTALL = "python -m pip install 'ray>=2.49,<2.54'"
OBJECT_STORE = 80 * 2**20  # bytes, near Ray's least: jobs hand over nothing but a sentence
LOOK = 0.3  # seconds between two looks at the logs
STARTS = 3  # a loaded machine may be too slow for the 15 seconds in which Ray wants to have started
LET_GO = 20.0  # seconds in which a process that died has let go of its folder


class Again(Exception):
    """What another attempt may cure."""


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """A local Ray that is started and stopped here or, with an address, a cluster that is joined and left running."""

    address: str = ""
    gpus_per_job: float | None = None  # None takes one where the device is not the CPU and there are any
    cpus_per_job: float = 1.0
    retries: int = 3

    def __post_init__(self):
        gpus = self.gpus_per_job or 0
        if not self.cpus_per_job > 0 or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise WorkbookError(
                "a job takes some CPU and a part of one GPU or several whole ones; "
                f"got {self.cpus_per_job:g} CPUs and {gpus:g} GPUs per job"
            )
        if self.retries < 0:
            raise WorkbookError(f"retries are 0 or more; got {self.retries}")

    def __call__(self, jobs: Sequence[Job]) -> Generator[Progress]:
        """As many at once as there are resources for, begun in the order given."""
        for job in (ended := [job for job in jobs if job.ended()]):
            yield Progress(job=job, kind="done")
        jobs = [_anywhere(job) for job in jobs if job not in ended]
        if not jobs:
            return
        with self._cluster(len(jobs)) as ray:
            gpus = self._gpus(ray, jobs)
            if not gpus:  # Ray hides none from them
                jobs = [_with(job, device="cpu") for job in jobs]
            _check_resources(ray, self.cpus_per_job, gpus)
            if self.address:
                _check_shared(ray, {job.sweep.results for job in jobs})
            remote = ray.remote(
                num_cpus=self.cpus_per_job,
                num_gpus=gpus,
                max_calls=1,  # a process for each job: nothing of one is left for the next
                max_retries=self.retries,
                retry_exceptions=[Again],
            )(_do)
            listeners = {job.task.run: Listener(job=job) for job in jobs}
            running = {remote.remote(job): job for job in jobs}
            try:
                yield from _follow(ray, running, listeners)
            finally:
                for reference in running:  # left where the reader stopped drawing
                    with suppress(Exception):
                        ray.cancel(reference, force=True)

    def _gpus(self, ray: Any, jobs: Sequence[Job]) -> float:
        devices = {str(job.sweep.settings.get("device", "auto")) for job in jobs}
        if any(":" in device for device in devices):
            raise WorkbookError(f"Ray chooses the GPU of each job: --device is auto, cpu or cuda; got {', '.join(sorted(devices))}")
        there = ray.cluster_resources().get("GPU", 0) >= 1
        gpus = float("cuda" in devices or ("auto" in devices and there)) if self.gpus_per_job is None else self.gpus_per_job
        if "cuda" in devices and not gpus:
            raise WorkbookError("--device cuda needs a GPU or a part of one; got --gpus-per-job 0")
        return gpus

    @contextmanager
    def _cluster(self, num_jobs: int) -> Iterator[Any]:
        """Inside, this process belongs to a Ray. What was joined is left as it was found, what was started here is stopped."""
        with ExitStack() as stack:
            stack.enter_context(_environment(**_quiet(), **({} if self.address else _token())))
            ray = _ray()
            if not ray.is_initialized():  # otherwise it is somebody else's
                stack.callback(ray.shutdown)  # of a cluster: only disconnects
                if self.address:
                    _join(ray, self.address)
                else:
                    _start(ray, math.ceil(num_jobs * self.cpus_per_job), stack)
            yield ray


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise WorkbookError(f"--engine ray needs the package ray, which is not installed: {INSTALL}") from None
    return ray


def _start(ray: Any, cpus: int, stack: ExitStack) -> None:
    """A Ray of our own, with as many workers as jobs can use, whose files are removed at the end."""
    place = "/tmp" if Path("/tmp").is_dir() else None  # the paths of its sockets must be short
    for number in range(1, STARTS + 1):
        files = tempfile.mkdtemp(prefix="dsara-ray-", dir=place)
        stack.callback(shutil.rmtree, files, ignore_errors=True)
        stack.callback(ray.shutdown)  # before its files are removed
        try:
            ray.init(
                address="local",
                num_cpus=max(1, min(cpus, os.cpu_count() or 1)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE,
                _temp_dir=files,
            )
            return
        except Exception as error:  # Ray names no kind
            ray.shutdown()
            if number == STARTS:
                raise WorkbookError(f"Ray did not start here: {sentence(error)}") from error


def _join(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit() and "/" not in host:  # Ray itself would ask for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, ValueError and others, by version
        raise WorkbookError(f"no Ray answers at {address!r}: {sentence(error)}") from error


def _follow(ray: Any, running: dict[Any, Job], listeners: Mapping[str, Listener]) -> Iterator[Progress]:
    """Everything that jobs tell until all have ended; those that have are taken out of `running`."""
    while running:
        ended, _ = ray.wait(list(running), num_returns=1, timeout=LOOK)
        for reference in ended:
            job = running.pop(reference)
            yield from listeners[job.task.run].new()
            yield _ending(ray, reference, job)
        for job in running.values():
            yield from listeners[job.task.run].new()


def _ending(ray: Any, reference: Any, job: Job) -> Progress:
    try:
        why, details = ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        return Progress(job=job, kind="failed", why="its worker died in every attempt, perhaps for want of memory")
    except Exception as error:  # Ray's wrapping of what the last attempt raised
        return Progress(job=job, kind="failed", why=sentence(getattr(error, "cause", None) or error), details=str(error))
    return Progress(job=job, kind="failed" if why else "done", why=why, details=details)


def _do(job: Job) -> tuple[str, str]:
    """A job in a worker: why it failed, if it did, and the traceback. Raises `Again` where another attempt may do."""
    teller = Teller(path=job.log)
    teller.tell("started")
    try:
        _patiently(job, teller)
    except (torch.OutOfMemoryError, InUse) as error:
        raise Again(sentence(error)) from error
    except (WorkbookError, FileNotFoundError) as error:
        return sentence(error), ""
    except OSError as error:  # a shared folder that was away for a moment
        raise Again(sentence(error)) from error
    except Exception as error:
        return sentence(error), traceback.format_exc()
    return "", ""


def _patiently(job: Job, teller: Teller) -> None:
    """All of the job; where the process of the attempt before is not quite gone, wait for it."""
    until = time.monotonic() + LET_GO
    while True:
        try:
            for event in job.do():
                teller.tell_event(event)
            return
        except InUse:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _anywhere(job: Job) -> Job:
    """The same job, said so that it is the same from every folder."""
    given = job.sweep.settings
    data, root = absolute(given.get("data", "digits")), os.path.abspath(given.get("data_root", "data"))
    named = _with(job, data=data, data_root=root)
    return replace(named, sweep=replace(named.sweep, results=Path(os.path.abspath(job.sweep.results))))


def _with(job: Job, **settings: Any) -> Job:
    return replace(job, sweep=replace(job.sweep, settings={**job.sweep.settings, **settings}))


def _check_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Some node can do a job; otherwise all would wait forever. Raises WorkbookError."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise WorkbookError(f"a job takes {cpus:g} CPUs and {gpus:g} GPUs, and no node has them: {there}")


def _check_shared(ray: Any, folders: set[Path]) -> None:
    """The folder of results is one and the same on all nodes. Raises WorkbookError."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def there(path: str) -> bool:  # inside, so that it needs nothing of ours on the node
        return os.path.isfile(path)

    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".shared-", dir=folder) as file:
            asked = [
                ray.remote(there).options(
                    num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                )
                for node in ray.nodes()
                if node["Alive"]
            ]
            missing = ray.get([each.remote(file.name) for each in asked]).count(False)
        if missing:
            raise WorkbookError(
                f"{missing} of the cluster's {len(asked)} nodes do not see the results of this one; "
                f"--results must be a folder that all share by the same path, here {folder}"
            )


def _quiet() -> dict[str, str]:
    """Workers find this library, nothing is sent to Ray's makers, and a job without a GPU is told so by its device alone."""
    told = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return {"PYTHONPATH": python_path(), **told}


@cache  # Ray reads it when it is imported, once in the life of a process
def _token() -> dict[str, str]:
    """Others on this machine and its network may not run code on our Ray. The token is kept nowhere."""
    if "RAY_AUTH_MODE" in os.environ or "ray" in sys.modules:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Inside, processes that are started have these."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
