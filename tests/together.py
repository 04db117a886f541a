"""What two processes of a group do together, started by `test_distributed.py` under torchrun; each writes what it saw to a file.

Everything is float64, so that the ends of whole runs can be compared: in float32 rounding turns the sign of some gradient of an
attack, and two runs part.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from toys import SEARCH, TRAIN, toy_blueprint, toy_data

from dsara_lib import data, training
from dsara_lib.distributed import ALONE, Group, joined
from dsara_lib.engine import Job, held_by_first, run_epochs, until_stopped
from dsara_lib.errors import Stopped, WorkbookError
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints
from dsara_lib.search import RandomPaths, Ranking, Searcher, Stage, ranking
from dsara_lib.training import Trainer

Make = Callable[[Group], Job]
DATA = toy_data()
RANKED = replace(
    SEARCH,
    stages=(Stage(epochs=1, upper_level=RandomPaths(), architecture_lr=0.01),),
    selection=Ranking(samples=3, recalibration=1, fsp_share=0.4),
)
JOBS: dict[str, Make] = {
    "search": lambda group: Searcher(DATA, SEARCH, group=group),
    "search in shares that differ": lambda group: Searcher(DATA, replace(SEARCH, batch_size=5), group=group),
    "search of second order": lambda group: Searcher(DATA, replace(SEARCH, second_order=True), group=group),
    "search by ranked paths": lambda group: Searcher(DATA, RANKED, group=group),
    "training": lambda group: Trainer(toy_blueprint(), DATA, replace(TRAIN, cutout=2), group=group),
    "training on natural images": lambda group: Trainer(toy_blueprint(), DATA, replace(TRAIN, attack=None), group=group),
}


def in_float64() -> None:
    """Make networks and images of double precision from now on."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    for module in (data, training, ranking):
        module.unit_interval = lambda images: images.double() / 255  # type: ignore[attr-defined]


def finish(job: Job, folder: Path) -> list[str]:
    """Run to the end; the warnings."""
    return [warning for event in run_epochs(job, folder) for warning in event.warnings]


def begin(job: Job, folder: Path, steps: int) -> None:
    """So many steps, then stop."""
    events = run_epochs(job, folder)
    while steps:
        steps -= next(events).kind == "step"
    events.close()


def end_of(folder: Path) -> dict[str, Any]:
    """The last state and the steps of a run, without what no two runs share."""
    state, _ = Checkpoints(folder).load()
    assert state is not None
    kept = {key: value for key, value in state["job"].items() if key not in ("measured", "best_measured")}
    return {"job": kept, "steps": read_history(folder).steps}


def alike(value: Any, group: Group) -> bool:
    """Whether both processes hold the same bits."""
    sums = torch.stack([tensor.double().sum() for tensor in value if tensor.is_floating_point()])
    theirs = [torch.empty_like(sums) for _ in range(group.size)]
    dist.all_gather(theirs, sums)
    return all(torch.equal(each, sums) for each in theirs)


def gradients_of(make: Make, group: Group) -> tuple[Tensor, ...]:
    """Of the first batch: of the weights in training, of the alphas in the search's last stage."""
    job = make(group)
    images, labels = (each[:5] for each in next(iter(data.Batches(DATA.train, 6, torch.Generator().manual_seed(0)))))
    shared = group.share(images, labels)
    if isinstance(job, Trainer):
        return tuple(group.mean(job.gradients(*shared), len(images)))
    assert isinstance(job, Searcher)
    found = [*job.passes.weights_gradients(*shared), *job.passes.alphas_gradient(*shared)]
    return tuple(group.mean(found, len(images)))


def against_ddp(group: Group) -> tuple[list[Tensor], list[Tensor]]:
    """Our gradients and those of torch's own DistributedDataParallel, each process with its own batch norm."""
    trainer, reference = (Trainer(toy_blueprint(), DATA, TRAIN, group=replace(group, synchronised=False)) for _ in range(2))
    images, labels = DATA.train.images[:6].double() / 255, DATA.train.labels[:6]
    shared = group.share(images, labels)
    _, *ours = group.mean(trainer.gradients(*shared), len(images))
    network = DistributedDataParallel(reference.network.train())
    F.cross_entropy(network(shared[0]), shared[1]).backward()
    return ours, [weight.grad for weight in reference.network.parameters() if weight.grad is not None]


def refusals(group: Group, folder: Path) -> dict[str, str]:
    """What both processes are told where the first finds something wrong, and where a batch is too small for them."""
    told = {}
    acts: Mapping[str, Callable[[], object]] = {
        "settings": lambda: finish(Searcher(DATA, replace(SEARCH, channels=3), group=group), folder / "search"),
        "batch": lambda: Trainer(toy_blueprint(), DATA, replace(TRAIN, batch_size=1), group=group),
        "infinite": lambda: finish(
            Trainer(toy_blueprint(), DATA, replace(TRAIN, learning_rate=1e300), group=group), folder / "infinite"
        ),
        "held": lambda: in_use(group, folder / "search"),
    }
    for name, act in acts.items():
        try:
            act()
        except WorkbookError as error:
            told[name] = str(error)
    return told


def in_use(group: Group, folder: Path) -> None:
    """Ask for a folder in which a thread of the first process works alone."""
    from dsara_lib.runs import held

    if group.is_first:
        with held(folder, alone=True), held_by_first(group, folder):
            pass
    else:
        with held_by_first(group, folder):
            pass


def stopped_by_the_second(group: Group, folder: Path) -> dict[str, Any]:
    """A signal comes to one process only; both keep the same step and leave."""
    seen = 0
    try:
        for event in until_stopped(run_epochs(JOBS["training"](group), folder), group):
            seen += event.kind == "step"
            if seen == 2 and not group.is_first:
                os.kill(os.getpid(), signal.SIGTERM)
    except Stopped as stopped:
        finish(JOBS["training"](group), folder)
        return {"number": int(stopped.number), "steps": seen}
    return {}


def killed_in_the_middle(group: Group, folder: Path) -> None:
    """The second process dies without a word; torchrun starts both anew."""
    seen = 0
    for event in run_epochs(JOBS["training"](group), folder):
        seen += event.kind == "step"
        if seen == 4 and not group.is_first:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    """All of it; the results in `<rank>.pt`."""
    in_float64()
    with joined("cpu", synchronised=True) as (group, device):
        if (folder / "0.pt").exists():  # killed before
            finish(JOBS["training"](group), folder / "two" / "killed")
            return
        if group.is_first:
            rmtree(folder)  # of a start that failed
            folder.mkdir()
        dist.barrier()
        seen: dict[str, Any] = {"device": device, "warnings": {}, "alike": {}}
        for name, make in JOBS.items():
            job = make(group)
            finish(job, folder / "two" / name)
            module: torch.nn.Module = job.supernet if isinstance(job, Searcher) else job.network  # type: ignore[attr-defined]
            seen["alike"][name] = alike([*module.parameters(), *module.buffers()], group)
        seen["gradients"] = {name: gradients_of(JOBS[name], group) for name in ("search", "training")}
        seen["ddp"] = against_ddp(group)
        own = replace(group, synchronised=False)
        for name in ("search", "training"):
            finish(JOBS[name](own), folder / "own" / name)
            begin(JOBS[name](own), folder / "own resumed" / name, 3)
            seen["warnings"][f"resumed {name}"] = finish(JOBS[name](own), folder / "own resumed" / name)
            begin(JOBS[name](group), folder / "two then one" / name, 3)
            if group.is_first:
                begin(JOBS[name](ALONE), folder / "one then two" / name, 3)
            dist.barrier()
            seen["warnings"][f"one then two {name}"] = finish(JOBS[name](group), folder / "one then two" / name)
        seen["refused"] = refusals(group, folder / "two")
        seen["stopped"] = stopped_by_the_second(group, folder / "two" / "stopped")
        alone(folder, list(JOBS)[group.rank :: group.size], seen)
        torch.save(seen, folder / f"{group.rank}.pt")
        dist.barrier()
        killed_in_the_middle(group, folder / "two" / "killed")


def alone(folder: Path, names: Sequence[str], seen: dict[str, Any]) -> None:
    """The same as one process; each does a part."""
    for name in names:
        finish(JOBS[name](ALONE), folder / "one" / name)
    seen["gradients alone"] = {name: gradients_of(JOBS[name], ALONE) for name in ("search", "training")}
    for name in names:
        if (folder / "two then one" / name).is_dir():
            seen["warnings"][f"two then one {name}"] = finish(JOBS[name](ALONE), folder / "two then one" / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
