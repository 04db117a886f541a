"""What a step of the paper's search dispatches and keeps, counted on the meta device at batch 64: free of noise, so it is a test.

The plain supernet must come out as the issue counted it by other means; then the counter can be believed on the fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsara_lib.architecture import SearchSpace, Supernet
from dsara_lib.bench.contests import search_config
from dsara_lib.bench.counting import Alive, Count, Roof, Tally, counted, differentiated, kept_bytes, size_of
from dsara_lib.bench.search_count import (
    StepCount,
    batch,
    count_step,
    fast_passes,
    plain_passes,
    saved_bytes,
    search_minutes,
)
from dsara_lib.bench.sizes import FULL, QUICK
from tests.reference.plain_supernet import PlainSupernet

# As many operations as at full size, which are tested to depend on no size; counted in a fraction of the time.
SMALL = replace(FULL, image_size=8, channels=2, counted_batch=2)


@pytest.fixture(scope="module")
def fast() -> StepCount:
    """The library's step, at full size."""
    return count_step(fast_passes, FULL)


# ------------------------------------------------------------------------------------------------------ the counted targets


def test_a_search_step_dispatches_at_most_80000_operations(fast: StepCount) -> None:
    assert fast.step().operations <= 80_000


def test_crafting_keeps_at_most_4_gigabytes_for_backward() -> None:
    assert saved_bytes(fast_passes, FULL) <= 4e9


def test_no_gradient_of_a_weight_is_computed_while_crafting(fast: StepCount) -> None:
    assert fast.crafting.weight_gradients == 0
    assert fast.weights_pass.weight_gradients > 0, "the counter would see one"


@pytest.mark.parametrize("make", [plain_passes, fast_passes])
def test_nothing_but_the_images_can_be_differentiated_while_crafting(make: Callable) -> None:
    """So no matrix product that is no convolution gives a weight's gradient either."""
    net, passes = make(search_config(QUICK, QUICK.counted_batch))
    with watched(net) as logits:
        passes.craft(*batch(QUICK))
    assert logits, "PGD has asked the network"
    for each in logits:
        (leaf,) = differentiated(each)
        assert leaf.shape == batch(QUICK)[0].shape


@pytest.mark.slow
def test_the_plain_step_is_the_189000_operations_of_the_issue() -> None:
    """Without optimizers and views: 17 passes."""
    small = count_step(plain_passes, SMALL, "cpu")
    assert small.passes().operations == pytest.approx(189_000, rel=0.02)
    assert small.crafting.weight_gradients == 0


@pytest.mark.slow
def test_plain_crafting_keeps_the_8_and_a_half_gigabytes_of_the_issue() -> None:
    assert saved_bytes(plain_passes, FULL) == pytest.approx(8.5e9, rel=0.03)


# ---------------------------------------------------------------------------------------------------------- the counter


def test_the_number_of_plain_operations_depends_on_no_size() -> None:
    counts = []
    for sizes in (QUICK, replace(QUICK, channels=3, image_size=12)):
        passes = plain_passes(search_config(sizes, sizes.counted_batch, steps=1), "cpu")[1]
        counts.append(counted(partial(passes.craft, *batch(sizes, "cpu"))))
    small, larger = counts
    assert (small.operations, small.views) == (larger.operations, larger.views)
    assert small.bytes_moved < larger.bytes_moved and small.flops < larger.flops


def test_an_operation_is_counted_with_what_it_reads_writes_and_computes() -> None:
    a, b = torch.zeros(2, 3, device="meta"), torch.zeros(3, 5, device="meta")
    assert counted(lambda: a @ b) == Count(operations=1, bytes_moved=4 * (6 + 15 + 10), flops=2 * 2 * 3 * 5)
    assert counted(lambda: a.add_(1)) == Count(operations=1, bytes_moved=4 * (6 + 6))
    assert counted(lambda: a.new_empty(7)) == Count(operations=1)
    assert counted(lambda: torch.zeros_like(a)) == Count(operations=1, bytes_moved=4 * 6)


def test_views_start_nothing() -> None:
    a = torch.zeros(2, 3, device="meta")
    assert counted(lambda: a.t().unsqueeze(0).expand(4, 3, 2).detach()[1]) == Count(views=5)


def test_an_expanded_tensor_is_as_large_as_what_is_stored_of_it() -> None:
    assert size_of(torch.zeros(3, 1).expand(3, 100)) == 12
    assert size_of(torch.zeros(0, 3)) == 0


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_and_each_of_its_gradients_cost_the_same(groups: int) -> None:
    images = torch.zeros(2, 4, 6, 6, device="meta", requires_grad=True)
    weight = torch.zeros(8, 4 // groups, 3, 3, device="meta", requires_grad=True)
    flops = 2 * (2 * 8 * 6 * 6) * (4 // groups * 9)
    out = F.conv2d(images, weight, padding=1, groups=groups)
    for wanted in ([images], [weight], [images, weight]):
        with Tally() as tally:
            torch.autograd.grad(out, wanted, torch.zeros_like(out), retain_graph=True)
        assert tally.count.flops == len(wanted) * flops
        assert tally.count.weight_gradients == int(wanted[-1] is weight)
    transposed = torch.zeros(4, 8 // groups, 3, 3, device="meta")
    assert counted(lambda: F.conv_transpose2d(images, transposed, groups=groups)).flops == 2 * images.numel() * (8 // groups * 9)


def test_counts_add_up() -> None:
    one, other = Count(operations=1, views=2, flops=5), Count(operations=10, bytes_moved=3)
    assert one + other == Count(operations=11, views=2, bytes_moved=3, flops=5)
    assert 3 * one - one == 2 * one


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_kept_bytes_are_those_that_autograd_saves(device: str) -> None:
    """Counted another way: by hooks on what is saved, each storage once, the model's own left out."""
    net = PlainSupernet(SearchSpace(num_nodes=2), num_cells=5, channels=2, num_classes=3).to(device).eval().requires_grad_(False)
    images, saved = torch.zeros(2, 3, 8, 8, device=device, requires_grad=True), dict[int, torch.UntypedStorage]()

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = net(images)
    for own in (*net.parameters(), *net.buffers()):
        saved.pop(own.untyped_storage()._cdata, None)
    assert logits.requires_grad
    assert kept_bytes(net, images) == sum(storage.nbytes() for storage in saved.values())


class Hiding(torch.autograd.Function):
    """Keeps what autograd's own hooks do not see."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = [x * 2, x[:1] + 1]
        return x * 3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * sum(each.sum() for each in ctx.kept)


def test_what_a_function_keeps_by_itself_counts_too() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Hiding.apply(x * 1)

    images = torch.zeros(4, 5)
    assert kept_bytes(Net(), images) == 4 * (20 + 20 + 5)


def test_memory_is_given_back() -> None:
    with Alive() as alive:
        a = torch.zeros(10)
        b = a.view(2, 5) + 1
        a.add_(1)
        del a
        c = b * 2
        assert (alive.now, alive.most) == (80, 80)
        del b, c
    assert alive.now == 0


def test_differentiated_finds_each_leaf_once() -> None:
    a, b, c = (torch.zeros(3, requires_grad=True) for _ in range(3))
    found = differentiated((a * b + a.detach() * b) @ c.detach())
    assert {id(leaf) for leaf in found} == {id(a), id(b)}
    assert len(found) == 2


# ------------------------------------------------------------------------------------------------------- limits of a GPU


def test_the_least_time_is_that_of_what_is_scarcest() -> None:
    roof = Roof(bytes_per_second=10, flops_per_second=100, eager_launch=0.5, graph_launch=0.1)
    assert roof.eager(Count(operations=4, bytes_moved=10, flops=100)) == 2
    assert roof.graph(Count(operations=4, bytes_moved=10, flops=100)) == 1
    assert roof.graph(Count(operations=1, bytes_moved=10, flops=1000)) == 10


def test_stage_one_has_one_pass_less() -> None:
    count = StepCount(
        crafting=Count(operations=7),
        weights_pass=Count(operations=1),
        alphas_pass=Count(operations=1),
        optimizers=Count(),
    )
    assert (count.step().operations, count.step(1).operations) == (17, 16)
    assert search_minutes(lambda each: each.operations, count) == 390 * (20 * 16 + 10 * 17) / 60


# --------------------------------------------------------------------------------------------------------------- helpers


@contextmanager
def watched(net: Supernet) -> Iterator[list[Tensor]]:
    """The answers that an attack gets, of the supernet or of what it is folded into."""
    answers: list[Tensor] = []
    folded = type(net).folded

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            answers.append(output)

    def noting(self: Supernet, kernels: bool = True, tf32: bool = False) -> nn.Module:
        model = folded(self, kernels, tf32)
        model.register_forward_hook(note)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(net), "folded", noting)
        handle = net.register_forward_hook(note)
        yield answers
        handle.remove()
