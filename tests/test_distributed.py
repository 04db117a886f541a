"""Two processes that share batches: gradients, whole runs, stops and restarts beside those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from together import JOBS, end_of
from torch import Tensor, nn
from torch.nn import functional as F
from toys import bits

from dsara_lib import distributed
from dsara_lib.distributed import ALONE, Group, joined
from dsara_lib.engine import other_processes, until_stopped
from dsara_lib.errors import Stopped, WorkbookError

HERE = Path(__file__).parent
PAIR = [Group(rank=rank, size=2) for rank in range(2)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `together.py` left, run once by two processes."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(HERE / "together.py"), str(folder)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def seen(ran: Path) -> list[dict[str, Any]]:
    """What each of the two processes saw."""
    return [torch.load(ran / f"{rank}.pt", weights_only=True) for rank in range(2)]


def furthest(one: Any, other: Any) -> float:
    """The largest difference between two nested states, relative where numbers are above 1; text and counts must be equal."""
    if isinstance(one, Tensor) and one.is_floating_point():
        return ((one - other).abs() / one.abs().clamp_min(1)).max().item() if one.numel() else 0.0
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
        return 0.0
    if isinstance(one, float):
        return abs(one - other) / max(1.0, abs(one))
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((furthest(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return max((furthest(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    assert one == other
    return 0.0


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, alphas, optimizers and random numbers to 1e-9; what steps measured to what float32 holds of an accuracy."""
    ends = end_of(one), end_of(other)
    assert furthest(ends[0]["job"], ends[1]["job"]) < 1e-9
    assert furthest(ends[0]["steps"], ends[1]["steps"]) < 1e-6


# ------------------------------------------------------------------------------------------------------- two processes


def test_gradients_of_two_processes_are_those_of_one_for_the_same_batch(seen: list[dict[str, Any]]) -> None:
    alone = seen[0]["gradients alone"]
    for name, gradients in seen[0]["gradients"].items():
        assert bits(gradients) == bits(seen[1]["gradients"][name])
        measured = 2 if name == "search" else 1  # loss and accuracy, in float32
        assert furthest(gradients[measured:], alone[name][measured:]) < 1e-12, name
        assert max(gradient.abs().max().item() for gradient in gradients[measured:]) > 1e-3


def test_without_synchronised_batch_norm_gradients_are_those_of_torchs_distributed_data_parallel(
    seen: list[dict[str, Any]],
) -> None:
    for ours, theirs in (each["ddp"] for each in seen):
        assert furthest(ours, theirs) < 1e-12 and max(gradient.abs().max().item() for gradient in theirs) > 1e-3


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_end_where_one_does_up_to_rounding(ran: Path, seen: list[dict[str, Any]], name: str) -> None:
    assert_same_end(ran / "two" / name, ran / "one" / name)
    assert all(each["alike"][name] for each in seen), "the two processes hold other weights or statistics"


def test_without_synchronised_batch_norm_the_end_is_another(ran: Path) -> None:
    ends = [end_of(ran / place / "training")["job"]["network"] for place in ("own", "one")]
    assert furthest(*ends) > 1e-4


@pytest.mark.parametrize("name", ["search", "training"])
def test_two_processes_stopped_within_an_epoch_go_on_to_the_same_bits(ran: Path, seen: list[dict[str, Any]], name: str) -> None:
    assert bits(end_of(ran / "own resumed" / name)) == bits(end_of(ran / "own" / name))
    assert seen[0]["warnings"][f"resumed {name}"] == []


@pytest.mark.parametrize("name", ["search", "training"])
@pytest.mark.parametrize("way", ["one then two", "two then one"])
def test_a_run_goes_on_with_another_number_of_processes_and_says_what_that_means(
    ran: Path, seen: list[dict[str, Any]], name: str, way: str
) -> None:
    assert_same_end(ran / way / name, ran / "one" / name)
    (told,) = next(each["warnings"][f"{way} {name}"] for each in seen if f"{way} {name}" in each["warnings"])
    before, now = ("1 process", "2 processes") if way == "one then two" else ("2 processes", "1 process")
    assert told.startswith(f"committed by {before}, goes on with {now}:") and "the same up to rounding" in told


def test_a_signal_to_one_process_stops_both_after_the_same_step_and_nothing_is_lost(ran: Path, seen: list[dict[str, Any]]) -> None:
    assert [each["stopped"] for each in seen] == [{"number": 15, "steps": 2}] * 2
    assert bits(end_of(ran / "two" / "stopped")) == bits(end_of(ran / "two" / "training"))


def test_a_killed_process_is_started_again_by_torchrun_and_the_end_has_the_same_bits(ran: Path) -> None:
    assert bits(end_of(ran / "two" / "killed")) == bits(end_of(ran / "two" / "training"))


def test_what_the_first_process_refuses_both_refuse_with_the_same_sentence(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["refused"] == seen[1]["refused"]
    told = seen[0]["refused"]
    assert "made with other settings" in told["settings"] and "is at work already" in told["held"]
    assert "a batch of 1 images cannot be shared by 2 processes" in told["batch"] and "epoch 1" in told["infinite"]


@pytest.mark.parametrize("group", [PAIR[0], ALONE], ids=["of a group", "alone"])
def test_a_second_sigterm_takes_the_commit_under_way_only_from_a_process_alone(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "any", lambda self, asked: asked)
    committed = []

    def events() -> Generator[int, None, None]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            yield 1
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun, when another process has left
            committed.append(True)

    with pytest.raises(Stopped):
        list(until_stopped(events(), group))
    assert committed == ([True] if group is PAIR[0] else [])


# --------------------------------------------------------------------------------------------------------- one process


def test_a_group_of_one_gives_back_the_very_tensors_and_asks_nobody() -> None:
    tensors = [torch.ones(3), torch.zeros(2)]
    assert all(one is other for one, other in zip(ALONE.mean(tensors, 3), tensors, strict=True))
    assert ALONE.share(*tensors) == tuple(tensors) and ALONE.total({"a": 1.5}) == {"a": 1.5}
    assert ALONE.any(True) and not ALONE.any(False) and ALONE.by_first(lambda: 3) == 3 and ALONE.after_first(lambda: 4) == 4


@pytest.mark.parametrize("total", [2, 5, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_row_of_a_batch_belongs_to_one_process_and_shares_differ_by_one_at_most(total: int, size: int) -> None:
    shares = [Group(rank=rank, size=size).rows(total) for rank in range(size)]
    assert [row for share in shares for row in range(total)[share]] == list(range(total))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


class Told:
    """Collective calls of a process whose only other one, in everything, has said `other` before it."""

    def __init__(self, *others: Tensor):
        self.others = list(others)

    def __call__(self, tensor: Tensor) -> None:
        tensor += self.others.pop(0)


def test_means_weigh_each_process_by_its_images_and_keep_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    monkeypatch.setattr(distributed.dist, "all_reduce", Told(torch.cat([torch.full((2 * 3 * 4 * 5,), 3 / 5), torch.tensor([6.0])])))
    mean, scalar = Group(rank=0, size=2).mean([wide, torch.tensor(10.0)], 5)  # 2 images here, 3 there
    torch.testing.assert_close(mean, wide * 2 / 5 + 3 / 5)
    assert mean.stride() == wide.stride() and scalar.item() == pytest.approx(10 * 2 / 5 + 6)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_a_whole_batch_is_torchs_where_the_batch_is_here(affine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(Told):
        def __call__(self, tensor: Tensor) -> None:
            """The other process has no images: its share weighs nothing."""

    monkeypatch.setattr(distributed.dist, "all_reduce", Zero())
    ours, torchs = (nn.BatchNorm2d(3, affine=affine, dtype=torch.float64) for _ in range(2))
    images = [torch.rand(4, 3, 5, 5, dtype=torch.float64).requires_grad_() for _ in range(1)] * 2
    with Group(rank=0, size=2, synchronised=True).normalising():
        found = ours(images[0])
        again = F.relu(found)  # other functions pass
    expected = torchs(images[1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(again, found.relu())
    for one, other in zip(ours.buffers(), torchs.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum() + each[0].sum(), images[0])[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    with Group(rank=0, size=2, synchronised=True).normalising():
        torch.testing.assert_close(ours.eval()(images[0]), torchs.eval()(images[0]))


@pytest.mark.parametrize(
    ("before", "now", "word"),
    [
        ((1, False), ALONE, ""),
        ((1, True), ALONE, ""),
        ((2, False), PAIR[0], ""),
        ((1, False), PAIR[0], "other numbers"),
        ((1, False), Group(size=2, synchronised=True), "up to rounding"),
        ((2, True), PAIR[0], "other numbers"),
        ((8, False), ALONE, "other numbers"),
        ((8, True), Group(size=4, synchronised=True), "up to rounding"),
    ],
)
def test_a_change_of_processes_is_told_with_what_it_means(before: tuple[int, bool], now: Group, word: str) -> None:
    told = other_processes(before, now, "training.batch_size")
    assert (len(told) == 1 and word in told[0]) if word else told == []


def test_outside_torchrun_a_process_is_alone_and_under_it_each_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu", synchronised=True) as (group, device):
        assert group == ALONE and device == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [distributed._own_device(name, rank) for name, rank in (("auto", 0), ("cuda", 1), ("cpu", 5))] == [
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(WorkbookError, match="torch sees 2 CUDA devices, none for process 3"):
        distributed._own_device("auto", 2)
    with pytest.raises(WorkbookError, match="a GPU of its own: give --device cuda, auto or cpu; got 'cuda:1'"):
        distributed._own_device("cuda:1", 0)
