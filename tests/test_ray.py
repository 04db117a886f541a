"""Sweeps on Ray: real local workers, one killed on the way, to the bits of the sequential sweep; what the engine asks of Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_sweep import CHANGES
from toys import bits

import dsara_lib
from dsara_lib.cli import main
from dsara_lib.errors import WorkbookError
from dsara_lib.runs import Checkpoints, held
from dsara_lib.sweep import ENGINES, Job, OnRay, Progress, Sequential, Sweep, grids, make_engine, on_ray

ROOT = Path(dsara_lib.__file__).parents[1]
NETWORKS = ("RACL", "AdvRush")  # rows 1 and 2 of Table 5, which need no search
LONGER = f"{CHANGES} training.epochs=3 training.batch_size=4 baseline_size=[5,4]"


def jobs(results: Path, rows: tuple[str, ...] = ("1", "2"), changes: str = LONGER) -> list[Job]:
    settings = {"profile": "demo", "data": "digits", "limit": 4, "changes": changes, "device": "cpu"}
    made = Sweep(name="tiny", grid=grids()["table5"], seeds=(0,), results=results, settings=settings)
    return [Job(sweep=made, task=task) for task in made.tasks(rows)]


def kinds(told: list[Progress], job: Job) -> list[str]:
    return [each.kind for each in told if each.job.task.run == job.task.run and each.kind != "event"]


# ------------------------------------------------------------------------------------------------------------- real workers


@dataclass
class Killed:
    """What two workers did of which one was killed with SIGKILL in its second epoch, and what the command did without Ray."""

    there: list[Job]
    here: list[Job]
    told: list[Progress]
    log: list[dict[str, Any]]
    victim: int


def kill_in_the_second_epoch(log: Path, killed: list[int], stop: threading.Event) -> None:
    while not killed and not stop.wait(0.005):
        lines = log.read_bytes().splitlines() if log.is_file() else []
        if len(lines) >= 2:
            killed.append(json.loads(lines[0])["pid"])
            os.kill(killed[0], signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    if find_spec("ray") is None:
        pytest.skip("the package ray is not installed")
    there, here = (jobs(tmp_path_factory.mktemp(name)) for name in ("there", "here"))
    # In a process of its own, as the workers are: this one calculates by other rules (conftest.py).
    command = [sys.executable, "-m", "dsara_lib", "sweep", "table5", "--name", "tiny", "--rows", "1,2", "--device", "cpu"]
    command += ["--limit", "4", "--set", LONGER, "--results", str(here[0].sweep.results)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sequential = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    victims: list[int] = []
    stop = threading.Event()
    watch = threading.Thread(target=kill_in_the_second_epoch, args=(there[0].log, victims, stop))
    watch.start()
    try:
        told = list(OnRay(cpus_per_job=0.5)(there))
    finally:
        stop.set()
        watch.join()
        assert sequential.wait(timeout=300) == 0
    log = [json.loads(line) for line in there[0].log.read_text().splitlines()]
    yield Killed(there=there, here=here, told=told, log=log, victim=victims[0])


def test_a_killed_worker_is_replaced_and_all_jobs_end(killed: Killed) -> None:
    assert kinds(killed.told, killed.there[0]) == ["started", "started", "done"]
    assert kinds(killed.told, killed.there[1]) == ["started", "done"]
    assert next(row["pid"] for row in killed.log if row["kind"] == "started") == killed.victim
    assert len({row["pid"] for row in killed.log}) == 2


def test_epochs_done_before_the_kill_are_not_done_again(killed: Killed) -> None:
    again = [row["pid"] for row in killed.log].index(killed.log[-1]["pid"])
    training = [row for row in killed.log if row["kind"] == "event" and row["num_epochs"] == 3]
    assert [row["epoch"] for row in training if row["what"] == "epoch"] == [1, 2, 3]
    restored = killed.log[again + 1]
    assert (restored["what"], restored["epoch"]) == ("restored", max(row.get("epoch", 0) for row in killed.log[:again]))


def test_the_results_are_those_of_the_sequential_sweep_to_the_bit(killed: Killed) -> None:
    for one, other, name in zip(killed.there, killed.here, NETWORKS, strict=True):
        folders = [job.sweep.results / job.task.run for job in (one, other)]
        for part in (f"networks/{name}", f"evaluation/{name}"):
            states = [Checkpoints(folder / part).load()[0] for folder in folders]
            assert bits(states[0]["job"]) == bits(states[1]["job"])  # type: ignore[index]
        for file in (f"networks/{name}/best/weights.safetensors", f"networks/{name}/last/weights.safetensors", "settings.json"):
            assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
        found = [job.sweep.evaluation(job.task) for job in (one, other)]
        assert found[0] is not None and found[1] is not None
        assert bits(dict(found[0].predictions)) == bits(dict(found[1].predictions))


def test_nothing_of_ray_is_left(killed: Killed) -> None:
    import ray

    assert not ray.is_initialized() and "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert sorted(path.name for path in killed.there[0].sweep.results.iterdir()) == ["tiny-row1-seed0", "tiny-row2-seed0"]
    assert [each.kind for each in OnRay()(killed.there)] == ["done", "done"] and not ray.is_initialized()  # what is done needs none


# ---------------------------------------------------------------------------------------------------------------- a stand-in


@dataclass
class StandIn:
    """As much of Ray as the engine asks for; a task ends when it is waited for, in the way that `ending` says."""

    ending: Callable[[Job], Any] = lambda job: ("", "")
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0})
    asked: dict[str, Any] = field(default_factory=dict)
    tasks: list[Job] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    class exceptions:
        class WorkerCrashedError(Exception):
            pass

    def is_initialized(self) -> bool:
        return True

    def shutdown(self) -> None:
        raise AssertionError("what was joined is not shut down")

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.resources}]

    def remote(self, **asked: Any) -> Any:
        self.asked = asked

        def submit(job: Job) -> int:
            self.tasks.append(job)
            return len(self.tasks) - 1

        return lambda function: SimpleNamespace(remote=submit)

    def wait(self, references: list[int], **_: Any) -> tuple[list[int], list[int]]:
        return references[:1], references[1:]

    def get(self, reference: int) -> Any:
        ended = self.ending(self.tasks[reference])
        if isinstance(ended, Exception):
            raise ended
        return ended

    def cancel(self, reference: int, force: bool) -> None:
        self.cancelled.append(reference)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(on_ray, "_ray", lambda: made)
    return made


def test_one_failed_job_does_not_stop_the_others(stand_in: StandIn, tmp_path: Path) -> None:
    made = jobs(tmp_path, ("1", "2", "3"))
    ends = {"1": StandIn.exceptions.WorkerCrashedError(), "2": ("wrong", ""), "3": ("", "")}
    stand_in.ending = lambda job: ends[job.task.row.name]
    told = {each.job.task.row.name: (each.kind, each.why) for each in OnRay()(made)}
    assert told["3"] == ("done", "") and told["2"] == ("failed", "wrong")
    assert told["1"][0] == "failed" and "worker died" in told["1"][1]


def test_jobs_left_when_the_reader_stops_are_cancelled(stand_in: StandIn, tmp_path: Path) -> None:
    progress = OnRay()(jobs(tmp_path, ("1", "2", "3")))
    assert next(progress).kind == "done"
    progress.close()
    assert stand_in.cancelled == [1, 2]


@pytest.mark.parametrize(
    ("settings", "device", "resources", "expected"),
    [
        ({}, "auto", {"CPU": 2.0}, (1.0, 0.0, "cpu")),
        ({}, "auto", {"CPU": 2.0, "GPU": 1.0}, (1.0, 1.0, "auto")),
        ({"gpus_per_job": 0.5, "cpus_per_job": 2}, "cuda", {"CPU": 2.0, "GPU": 1.0}, (2, 0.5, "cuda")),
        ({}, "cpu", {"CPU": 2.0, "GPU": 1.0}, (1.0, 0.0, "cpu")),
        ({}, "cuda", {"CPU": 2.0}, "a job takes 1 CPUs and 1 GPUs, and no node has them: 2 CPUs, 0 GPUs"),
        ({"cpus_per_job": 3}, "cpu", {"CPU": 2.0}, "a job takes 3 CPUs"),
        ({"gpus_per_job": 0}, "cuda", {"CPU": 2.0, "GPU": 1.0}, "--device cuda needs a GPU"),
        ({}, "cuda:0", {"CPU": 2.0, "GPU": 1.0}, "Ray chooses the GPU"),
    ],
)
def test_jobs_get_what_was_asked_for_or_a_sentence(
    settings: dict[str, float], device: str, resources: dict[str, float], expected: Any, stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.resources = resources
    made = [replace(job, sweep=replace(job.sweep, settings={**job.sweep.settings, "device": device})) for job in jobs(tmp_path)]
    if isinstance(expected, str):
        with pytest.raises(WorkbookError, match=expected):
            list(OnRay(**settings)(made))
        return
    list(OnRay(retries=5, **settings)(made))
    given = stand_in.asked["num_cpus"], stand_in.asked["num_gpus"], stand_in.tasks[0].sweep.settings["device"]
    assert given == expected and stand_in.asked["max_retries"] == 5


def test_workers_are_given_paths_that_do_not_depend_on_where_they_stand(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = jobs(Path("results"), ("1",))
    list(OnRay()([replace(job, sweep=replace(job.sweep, settings={**job.sweep.settings, "data": "folder:a,b"}))]))
    (sent,) = stand_in.tasks
    assert sent.sweep.results == tmp_path / "results" and sent.sweep.settings["data_root"] == str(tmp_path / "data")
    assert sent.sweep.settings["data"] == f"folder:{tmp_path / 'a'},{tmp_path / 'b'}"


def test_an_address_where_nobody_answers_is_told_before_ray_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(WorkbookError, match=f"no Ray answers at '{address}'"):
        on_ray._join(None, address)


# ------------------------------------------------------------------------------------------------------------- in a worker


def test_a_wrong_setting_fails_at_once_with_its_sentence_and_a_folder_in_use_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "LET_GO", 0.2)
    (job,) = jobs(tmp_path, ("1",))
    why, details = on_ray._do(replace(job, sweep=replace(job.sweep, settings={**job.sweep.settings, "limit": 0})))
    assert "limit is the number of images per class" in why and details == ""
    with held(tmp_path / job.task.run / "networks" / "RACL", alone=True), pytest.raises(on_ray.Again, match="at work already"):
        on_ray._do(job)
    assert [json.loads(line)["kind"] for line in job.log.read_text().splitlines()] == ["started", "started"]


def test_a_listener_takes_whole_lines_and_only_new_ones(tmp_path: Path) -> None:
    from dsara_lib.sweep.progress import Listener, Teller

    (job,) = jobs(tmp_path, ("1",))
    teller = Teller(path=job.log)
    teller.tell("started")
    listener = Listener(job=job)
    assert list(listener.new()) == []
    teller.tell("started")
    with job.log.open("a") as file:
        file.write('{"kind": "sta')
    assert [(each.kind, each.attempt) for each in listener.new()] == [("started", 1)]
    with job.log.open("a") as file:
        file.write("\n")  # half a line, left by a kill
    teller.tell("started")
    assert [(each.kind, each.attempt) for each in listener.new()] == [("started", 2)]


# --------------------------------------------------------------------------------------------------------- the table of engines


def test_a_failed_job_does_not_stop_a_sequential_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def do(self: Job) -> Generator[Any, None, None]:
        if self.task.row.name == "1":
            raise WorkbookError("wrong")
        if self.task.row.name == "2":
            raise RuntimeError("worse")
        yield from ()

    monkeypatch.setattr(Job, "do", do)
    told = [each for each in Sequential()(jobs(tmp_path, ("1", "2", "3"))) if each.kind != "started"]
    assert [(each.kind, each.why, bool(each.details)) for each in told] == [
        ("failed", "wrong", False),
        ("failed", "RuntimeError: worse", True),
        ("done", "", False),
    ]


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("rai", {}, "unknown engine 'rai'; did you mean 'ray'"),
        ("sequential", {"gpus_per_job": 1.0}, "does not take all of --gpus-per-job"),
        ("ray", {"gpus_per_job": 1.5}, "a part of one GPU or several whole ones"),
        ("ray", {"cpus_per_job": 0}, "a job takes some CPU"),
        ("ray", {"retries": -1}, "retries are 0 or more"),
    ],
)
def test_wrong_engines_end_in_a_sentence(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WorkbookError, match=sentence):
        make_engine(name, **settings)


def test_every_engine_of_the_table_can_be_made() -> None:
    assert {type(make_engine(name)) for name in ENGINES} == {Sequential, OnRay}


def test_without_ray_one_sentence_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "table5", "--rows", "1", "--engine", "ray", "--limit", "4", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "pip install" in error and len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_dry_sweep_lists_what_is_to_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["sweep", "table5", "--rows", "1,2", "--data", "digits", "--data", "cifar10", "--results", str(tmp_path)]
    (tmp_path / "table5-demo-digits-row2-seed0").mkdir()
    (tmp_path / "table5-demo-digits-row2-seed0" / "run.json").touch()
    assert main([*given, "--dry"]) == 0
    said = [line.split("  ")[:2] for line in capsys.readouterr().out.splitlines()]
    assert [(state.strip(), run.split(":")[0]) for state, run in said] == [
        ("to do", "table5-demo-digits-row1-seed0"),
        ("begun", "table5-demo-digits-row2-seed0"),
        ("to do", "table5-demo-cifar10-row1-seed0"),
        ("to do", "table5-demo-cifar10-row2-seed0"),
    ]
    assert main([*given, "--data", "digits"]) == 2 and "names that differ" in capsys.readouterr().err
