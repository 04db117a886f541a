"""Recording and replaying: what is called when, that each call takes effect once, and what happens where recording fails.

No GPU is needed: `Rehearsal` stands in for CUDA graphs and `StagedCuda` for the calls to torch that make them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dsara_lib.architecture import prepare
from dsara_lib.architecture.prepared import _undisturbed
from dsara_lib.capture import (
    PRECISIONS,
    Captured,
    CudaGraphs,
    NoGraphs,
    Outputs,
    Tensors,
    at_precision,
    graphs_on,
    precision_of,
    rounding,
)
from dsara_lib.errors import WorkbookError

CPU, GPU, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))


class NothingWaits(TorchDispatchMode):
    """Refuses what would make a GPU wait or could not be recorded: to look at a number, and to bring one from elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "lift_fresh"), name
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        assert all(each.device == META for each in given if isinstance(each, Tensor)), f"{name} of a tensor from elsewhere"
        return func(*args, **(kwargs or {}))


def as_tuple(outputs: Outputs) -> Tensors:
    return outputs if isinstance(outputs, tuple) else (outputs,)


class Rehearsal:
    """Graphs on the CPU that notes what is asked of it. As on a GPU, to record computes nothing, outputs are the same tensors each
    time, and a replay may overwrite what other recordings gave."""

    def __init__(self, most: int = 4, fails: str = ""):
        self.most, self.fails, self.broken, self.noted, self.recordings = most, fails, False, list[str](), list[Any]()

    def eagerly(self, function: Any, inputs: Tensors) -> Outputs:
        self.noted.append("eagerly")
        return function(*inputs)

    def record(self, function: Any, inputs: Tensors) -> RehearsedRecording:
        self.noted.append("record")
        if self.fails:
            self.broken = True
            raise RuntimeError(self.fails)
        self.recordings.append(RehearsedRecording(self, function, tuple(each.clone() for each in inputs)))
        return self.recordings[-1]

    def wait(self) -> None:
        self.noted.append("wait")


class RehearsedRecording:
    """Its static inputs begin as anything: only what is copied into them counts."""

    def __init__(self, graphs: Rehearsal, function: Any, inputs: Tensors):
        self.graphs, self.function, self.inputs, self.outputs = graphs, function, inputs, None
        for static in inputs:
            static.zero_()

    def replay(self, inputs: Tensors) -> Outputs:
        self.graphs.noted.append("replay")
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        found = self.function(*self.inputs)
        for recording in self.graphs.recordings:
            for output in as_tuple(recording.outputs) if recording.outputs is not None else ():
                output.fill_(float("nan"))
        if self.outputs is None:
            self.outputs = tuple(each.clone() for each in found) if isinstance(found, tuple) else found.clone()
        else:
            for output, new in zip(as_tuple(self.outputs), as_tuple(found), strict=True):
                output.copy_(new)
        return self.outputs


class Adding:
    """Adds up what it is given, so that a call that takes effect twice or never shows."""

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.total += x.sum()
        return x + y, self.total.clone()


def pair(start: float, size: int = 3, dtype: torch.dtype = torch.float32) -> Tensors:
    return torch.full((size,), start, dtype=dtype), torch.arange(size, dtype=dtype)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x * torch.tensor([1.0, 2.0], device=META),
        lambda x: x.cpu(),
    ],
    ids=["a number", "a decision", "a selection", "numbers from here", "a copy to here"],
)
def test_what_would_wait_for_the_device_is_noticed(wait):
    with NothingWaits(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        wait(torch.ones(2, device=META))


# --------------------------------------------------------------------------------------------------- record and replay


def test_elsewhere_than_on_a_gpu_every_call_is_an_ordinary_one():
    for device in ("cpu", "meta"):
        captured = Captured(lambda x: x, device)
        x = torch.ones(2, device=device)
        assert all(captured(x) is x for _ in range(4))
        assert isinstance(captured.graphs, NoGraphs) and captured.num_graphs == 0


def test_the_first_call_is_an_ordinary_one_the_second_records_and_from_then_on_it_is_replayed():
    graphs = Rehearsal()
    captured = Captured(Adding(), CPU, graphs)
    for _ in range(4):
        captured(*pair(1.0))
    assert graphs.noted == ["eagerly", "record", "replay", "replay", "replay"] and captured.num_graphs == 1


def test_every_call_takes_effect_once_and_gives_what_the_function_gives():
    adding, plain = Adding(), Adding()
    captured = Captured(adding, CPU, Rehearsal())
    for start in (1.0, 20.0, 300.0, 4000.0):
        given = pair(start)
        kept = [each.clone() for each in given]
        assert all(map(torch.equal, captured(*given), plain(*given)))
        assert all(map(torch.equal, given, kept)), "what was given was written to"
    assert adding.total == plain.total == 3 * 4321


def test_a_replay_reads_copies_and_writes_the_same_tensors_again():
    captured = Captured(lambda x: 2 * x, CPU, Rehearsal())
    x = torch.ones(3)
    captured(x)
    first = captured(x)
    x.fill_(5.0)
    assert first.tolist() == [2, 2, 2]
    second = captured(x)
    assert second is first and second.tolist() == [10, 10, 10]


def test_each_set_of_shapes_and_types_has_its_own_recording_and_nothing_is_recorded_twice():
    graphs = Rehearsal()
    captured = Captured(lambda x, y: x + y, CPU, graphs)
    kinds = [(3, torch.float32), (2, torch.float32), (3, torch.float64)]
    for _ in range(5):
        for size, dtype in kinds:
            given = pair(1.0, size, dtype)
            assert torch.equal(captured(*given), given[0] + given[1])
    assert captured.num_graphs == graphs.noted.count("record") == graphs.noted.count("eagerly") == 3


def test_after_so_many_sets_of_shapes_the_others_are_ordinary_calls():
    graphs, adding = Rehearsal(most=2), Adding()
    captured = Captured(adding, CPU, graphs)
    for _ in range(3):
        for size in (1, 2, 3, 4):
            captured(*pair(1.0, size))
    assert captured.num_graphs == 2 and graphs.noted.count("eagerly") == 2 + 3 * 2 and adding.total == 3 * 10


def test_where_recording_fails_it_is_told_once_and_the_calls_go_on_with_the_same_results():
    graphs, adding = Rehearsal(fails="operation not permitted when stream is capturing\nmore"), Adding()
    captured = Captured(adding, CPU, graphs)
    captured(*pair(1.0))
    with pytest.warns(UserWarning, match=r"Adding could not be recorded .*when stream is capturing\).*same results") as told:
        for size in (3, 3, 3, 2, 2, 2):
            given = pair(1.0, size)
            assert torch.equal(captured(*given)[0], given[0] + given[1])
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert adding.total == 3 + 9 + 6 and graphs.noted == ["eagerly", "record", "wait"] and captured.num_graphs == 0


def test_after_one_failure_all_that_share_the_graphs_drop_their_recordings_and_go_on_with_the_same_results(recwarn):
    graphs, adding, plain = Rehearsal(), Adding(), Adding()
    first, failing, fresh = Captured(adding, CPU, graphs), Captured(lambda x: 3 * x, CPU, graphs), Captured(adding, CPU, graphs)
    for start in (1.0, 2.0):
        assert all(map(torch.equal, first(*pair(start)), plain(*pair(start))))
    failing(torch.ones(3))
    graphs.fails, held = "capture failed", first(*pair(3.0))
    kept = [each.clone() for each in plain(*pair(3.0))]
    assert torch.equal(failing(held[0]), 3 * kept[0]) and len(recwarn) == 1
    graphs.noted.clear()
    for start in (4.0, 5.0, 6.0):
        for captured in (first, fresh):
            assert all(map(torch.equal, captured(*pair(start)), plain(*pair(start))))
        failing(*pair(start)[:1])
    assert all(map(torch.equal, held, kept)), "what a caller still held was overwritten"
    assert graphs.noted == ["wait", "wait"] and len(recwarn) == 1
    assert [each.num_graphs for each in (first, failing, fresh)] == [0, 0, 0] and not first._recordings


def test_graphs_of_their_own_are_not_troubled_by_the_failure_of_others():
    broken, sound = (Captured(lambda x: 2 * x, CPU, Rehearsal(fails=fails)) for fails in ("capture failed", ""))
    broken(torch.ones(2))
    with pytest.warns(UserWarning, match="could not be recorded"):
        broken(torch.ones(2))
    for _ in range(2):
        sound(torch.ones(2))
    assert (broken.num_graphs, sound.num_graphs) == (0, 1)


def test_what_the_function_itself_complains_about_is_no_failure_of_recording():
    def refuse(x: Tensor) -> Tensor:
        raise WorkbookError("not these")

    captured = Captured(refuse, CPU, Rehearsal())
    for _ in range(3):
        with pytest.raises(WorkbookError, match="not these"):
            captured(torch.ones(1))


def test_released_it_waits_drops_its_recordings_and_begins_anew():
    graphs = Rehearsal()
    captured = Captured(Adding(), CPU, graphs)
    for _ in range(3):
        captured(*pair(1.0))
    captured.release()
    assert captured.num_graphs == 0
    captured(*pair(1.0))
    captured(*pair(1.0))
    assert graphs.noted == ["eagerly", "record", "replay", "replay", "wait", "eagerly", "record", "replay"]


# ------------------------------------------------------------------------------------------------- how torch is called


class StagedCuda:
    """Stands in for `torch.cuda`: notes what happens on which stream."""

    def __init__(self, fails: bool = False):
        self.noted, self.fails, self.now = list[Any](), fails, "main"

    def put(self, monkeypatch: pytest.MonkeyPatch) -> StagedCuda:
        for name in ("Stream", "current_stream", "stream", "device", "synchronize", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        return self

    def Stream(self, device: torch.device) -> Any:
        return self._stream("side")

    def current_stream(self) -> Any:
        return self._stream(self.now)

    def _stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.noted.append(f"{name} waits for {other.name}"))

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream.name
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    def synchronize(self, device: torch.device) -> None:
        self.noted.append("synchronize")

    def CUDAGraph(self) -> Any:
        number = sum(isinstance(each, tuple) for each in self.noted)
        return SimpleNamespace(pool=lambda: f"pool {number}", replay=lambda: self.noted.append(f"replay on {self.now}"))

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.noted.append(("capture", pool, stream.name, self.now))
        self.now = stream.name
        yield
        if self.fails:
            raise RuntimeError("capture failed")  # and the stream stays the current one


AROUND = ["side waits for main", "main waits for side"]


def test_on_a_gpu_the_ordinary_call_and_the_recording_run_on_one_stream_of_their_own(monkeypatch):
    cuda = StagedCuda().put(monkeypatch)
    captured = Captured(lambda x: (cuda.noted.append(f"run on {cuda.now}"), x + 1)[1], GPU)
    assert isinstance(captured.graphs, CudaGraphs)
    captured(torch.zeros(2))
    assert cuda.noted == [AROUND[0], "run on side", AROUND[1]]
    cuda.noted.clear()
    captured(torch.zeros(2))
    assert cuda.noted == [AROUND[0], ("capture", None, "side", "side"), "run on side", AROUND[1], "replay on main"]
    cuda.noted.clear()
    captured(torch.full((2,), 7.0))
    assert cuda.noted == ["replay on main"]
    (recording,) = captured._recordings.values()
    assert recording.inputs[0].tolist() == [7, 7]


def test_graphs_that_live_at_the_same_time_share_a_pool_and_one_that_is_gone_lends_none(monkeypatch):
    cuda = StagedCuda().put(monkeypatch)
    graphs = graphs_on(GPU)
    one, other = (Captured(lambda x: x + 1, GPU, graphs) for _ in range(2))

    def pool_of(captured: Captured) -> Any:
        for _ in range(2):
            captured(torch.zeros(2))
        return next(each[1] for each in reversed(cuda.noted) if isinstance(each, tuple))

    assert pool_of(one) is None and pool_of(other) == "pool 0"
    one.release()
    assert pool_of(one) == "pool 1"  # of the other, which lives
    one.release()
    other.release()
    assert pool_of(one) is None and "synchronize" in cuda.noted


def test_a_capture_that_fails_leaves_the_stream_as_it_was(monkeypatch):
    cuda = StagedCuda(fails=True).put(monkeypatch)
    captured = Captured(lambda x: x + 1, GPU)
    captured(torch.zeros(2))
    with pytest.warns(UserWarning, match="lambda.* could not be recorded"):
        assert captured(torch.zeros(2)).tolist() == [1, 1]
    assert cuda.now == "main" and cuda.noted[-2:] == [AROUND[1], "synchronize"] and captured(torch.ones(2)).tolist() == [2, 2]


def test_a_capture_that_fails_ends_the_replays_of_all_on_that_gpu_after_they_are_done(monkeypatch):
    cuda = StagedCuda().put(monkeypatch)
    graphs = graphs_on(GPU)
    one, other = (Captured(lambda x: x + 1, GPU, graphs) for _ in range(2))
    for captured in (one, one, other):
        captured(torch.zeros(2))
    cuda.fails = True
    with pytest.warns(UserWarning, match="could not be recorded"):
        other(torch.zeros(2))
    cuda.noted.clear()
    assert graphs.broken and [one(torch.ones(2)).tolist() for _ in range(2)] == [[2, 2]] * 2
    assert cuda.noted == ["synchronize"] and not list(graphs._alive)


def gpu_function(norm: nn.Module, weight: Tensor) -> Any:
    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.nn.functional.conv2d(norm(images), weight).square().mean()
        return loss.detach(), torch.autograd.grad(loss, weight)[0]

    return function


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_replay_equals_the_ordinary_call():
    def made() -> tuple[nn.BatchNorm2d, Tensor]:
        torch.manual_seed(0)
        return nn.BatchNorm2d(3).to(GPU), torch.randn(4, 3, 3, 3).to(GPU).requires_grad_()

    (norm, weight), (plain_norm, plain_weight) = made(), made()
    captured, plain = Captured(gpu_function(norm, weight), GPU), gpu_function(plain_norm, plain_weight)
    for _ in range(5):
        images = torch.rand(8, 3, 8, 8, device=GPU)
        for found, expected in zip(captured(images), plain(images), strict=True):
            torch.testing.assert_close(found, expected)
        with torch.no_grad():
            weight.mul_(0.9)
            plain_weight.mul_(0.9)
    assert captured.num_graphs == 1
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 5
    torch.testing.assert_close(norm.running_var, plain_norm.running_var)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_cannot_be_recorded_goes_on():
    captured = Captured(lambda x: x + x.sum().item(), GPU)
    x = torch.ones(2, device=GPU)
    captured(x)
    with pytest.warns(UserWarning, match="could not be recorded"):
        assert captured(x).tolist() == [3, 3]
    assert captured(x).tolist() == [3, 3]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_failure_ends_the_replays_of_others_and_leaves_what_they_gave():
    graphs, x = graphs_on(GPU), torch.ones(2, device=GPU)
    sound, failing = Captured(lambda x: 2 * x, GPU, graphs), Captured(lambda x: x + x.sum().item(), GPU, graphs)
    sound(x)
    failing(x)
    held = sound(x)
    with pytest.warns(UserWarning, match="could not be recorded"):
        assert failing(held).tolist() == [6, 6]
    assert sound(3 * x).tolist() == [6, 6] and held.tolist() == [2, 2] and sound.num_graphs == 0


# ----------------------------------------------------------------------------------------------------------- precision


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))


def test_an_unknown_precision_is_answered_with_the_known_ones():
    for call in (precision_of, lambda name: at_precision(small(), name)):
        with pytest.raises(WorkbookError, match="unknown precision 'bfloat'; did you mean 'bfloat16'") as caught:
            call("bfloat")
        assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in PRECISIONS)


@pytest.mark.parametrize("name", ["float32", "ieee"])
def test_float32_is_the_module_itself(name):
    module = small()
    assert at_precision(module, name) is module


@pytest.mark.parametrize("gradients", ["of weights and images", "of frozen weights", "none"])
def test_bfloat16_rounds_inside_and_keeps_everything_else_float32(gradients):
    torch.manual_seed(0)
    plain, images = small(), torch.rand(6, 3, 4, 4)
    rounded = at_precision(plain, "bfloat16")
    plain.requires_grad_(gradients == "of weights and images")
    images.requires_grad_(gradients != "none")
    seen = []
    plain[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    logits, expected = rounded(images), plain(images)
    assert seen == [torch.bfloat16, torch.float32] and logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.05)
    assert not torch.equal(logits, expected)
    wanted = [each for each in (images, *plain.parameters()) if each.requires_grad]
    found = torch.autograd.grad(logits.square().sum(), wanted) if wanted else ()
    assert {each.dtype for each in (*found, *plain.parameters(), plain[1].running_mean, plain[1].running_var)} == {torch.float32}


def test_a_weight_that_changes_counts_at_the_next_pass_also_within_an_outer_autocast():
    plain, images = small().requires_grad_(True), torch.rand(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = at_precision(plain.eval(), "bfloat16")
        before = rounded(images)
        with torch.no_grad():
            plain[4].bias.add_(10.0)
            plain[4].weight.zero_()
        assert (rounded(images) > 5).all() and not (before > 5).any()


def settings_of(backends: Any) -> list[Any]:
    if hasattr(backends.cudnn, "conv"):
        return [backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision]
    return [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32]


OLD = SimpleNamespace(
    cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)), cudnn=SimpleNamespace(allow_tf32=True, benchmark=True)
)
NEW = SimpleNamespace(
    cuda=SimpleNamespace(matmul=SimpleNamespace(fp32_precision="none")),
    cudnn=SimpleNamespace(conv=SimpleNamespace(fp32_precision="tf32"), benchmark=True),
)
TF32 = {name: [{True: "tf32", False: "ieee"}[precision.tf32]] * 2 for name, precision in PRECISIONS.items()}


@pytest.mark.parametrize("backends", [OLD, torch.backends], ids=["torch 2.8", "this torch"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_tf32_is_as_the_precision_has_it_inside_and_as_it_was_outside(name, backends):
    before = settings_of(backends)
    with pytest.raises(KeyboardInterrupt), rounding(name, GPU, backends):
        inside = settings_of(backends)
        raise KeyboardInterrupt
    assert inside == TF32[name] or inside == [PRECISIONS[name].tf32] * 2
    assert settings_of(backends) == before
    with rounding(name, CPU, backends):
        assert settings_of(backends) == before, "no business of the CPU"


@pytest.mark.usefixtures("without_shape_check")
@pytest.mark.parametrize("backends", [OLD, NEW], ids=["torch 2.8", "torch 2.9"])
def test_a_network_is_prepared_without_tf32_or_timed_kernels_and_afterwards_all_is_as_it_was(backends):
    before, like = settings_of(backends), SimpleNamespace(device=GPU, is_cuda=False)  # there are no random numbers of a GPU here
    with pytest.raises(KeyboardInterrupt), _undisturbed(like, backends):
        assert settings_of(backends) in ([False, False], ["ieee", "ieee"]) and backends.cudnn.benchmark is False
        raise KeyboardInterrupt
    assert settings_of(backends) == before and backends.cudnn.benchmark is True


@pytest.mark.usefixtures("without_shape_check")
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_network_is_prepared_also_where_tf32_was_set_by_the_new_names(name):
    with rounding(name, GPU):
        assert prepare(small(), torch.rand(2, 3, 4, 4)).folded


def test_torchs_own_questions_about_tf32_are_answered_as_before():
    """Of the two ways to set it, torch from 2.9 on refuses to answer by one what was set by the other."""
    before = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for name in PRECISIONS:
        with rounding(name, GPU):
            pass
        after = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        assert after == before
