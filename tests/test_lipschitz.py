"""The Lipschitz bound of the supernet bounds, its layers are exact where they say so, and its quantiles are those of samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsara_lib.architecture import OPERATIONS, SearchSpace, Supernet
from dsara_lib.architecture.operations import make_operation
from dsara_lib.errors import WorkbookError
from dsara_lib.search import NADAR, OBJECTIVES, RACL, Searcher, Stage
from dsara_lib.search.lipschitz import (
    CellConstants,
    Joint,
    LipschitzBound,
    LogNormal,
    alike,
    cell_constants,
    cells_growth,
    log_bound,
)
from dsara_lib.search.objectives import LIPSCHITZ
from dsara_lib.search.spectral import convolution_norm, depthwise_norms, pooling_norm, spectral_norms
from tests.reference.plain_supernet import PlainSupernet, fused_state
from tests.toys import SEARCH, toy_data

SIZE = {"num_cells": 5, "channels": 4, "num_classes": 3}
SPACE = SearchSpace(operations=("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3", "skip_connect"), num_nodes=2)
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0])


def drawn(space: SearchSpace = SPACE, seed: int = 0, spread: float = 1.0) -> Supernet:
    """A supernet in float64 with decided alphas and random batch statistics, in evaluation mode."""
    torch.manual_seed(seed)
    supernet = Supernet(space, **SIZE).double().eval()
    with torch.no_grad():
        for alphas in supernet.alphas.values():
            alphas.copy_(spread * torch.randn_like(alphas))
        for name, buffer in supernet.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.randn_like(buffer) if name.endswith("mean") else torch.rand_like(buffer) + 0.5)
    return supernet


def dense(layer: nn.Module, channels: int, size: int) -> Tensor:
    """The matrix of a linear layer on images of that size: its results on the identity, a row for each number."""
    unit = torch.eye(channels * size * size, dtype=torch.float64).view(-1, channels, size, size)
    return layer(unit).detach().flatten(1)


def norm_of(matrix: Tensor) -> float:
    return torch.linalg.svdvals(matrix)[0].item()


def objective(supernet: Supernet, **settings: float) -> Tensor:
    return LipschitzBound(**settings)(supernet, "float32", IMAGES, LABELS)[0]


# -------------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("shape", [(7, 5, 5), (6, 48, 12), (6, 12, 48), (3, 1, 9)])
def test_spectral_norms_are_singular_values_and_never_fall_short(shape):
    matrices = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * 10.0 ** torch.arange(-3, shape[0] - 3)[:, None, None]
    )
    share = spectral_norms(matrices) / torch.linalg.svdvals(matrices)[:, 0]
    assert share.min() >= 1 - 1e-12 and share.max() <= min(shape[1:]) ** (1 / 256)


def test_spectral_norms_hold_where_all_singular_values_are_equal_or_0():
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q
    assert spectral_norms(torch.stack([3 * rotation, 0 * rotation])).tolist() == pytest.approx([3, 0], rel=0.011, abs=1e-100)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 1, 2), (5, 2, 2)])
def test_depthwise_norms_bound_the_operator_with_its_zeros_around(kernel, stride, dilation):
    torch.manual_seed(kernel)
    layers = [nn.Conv2d(1, 1, kernel, stride, dilation * (kernel - 1) // 2, dilation, bias=False).double() for _ in range(3)]
    bounds = depthwise_norms(torch.cat([layer.weight for layer in layers]))
    for layer, bound in zip(layers, bounds.tolist(), strict=True):
        measured = norm_of(dense(layer, 1, 12))
        assert measured <= bound
        assert stride == 2 or dilation == 2 or measured >= 0.8 * bound  # not idle: most of it is reached on twelve pixels


def test_the_grid_of_frequencies_misses_no_maximum():
    kernels = torch.randn(30, 1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    finer = torch.fft.fft2(kernels[:, 0], s=(200, 200)).abs().flatten(1).amax(1)
    share = depthwise_norms(kernels) / finer
    assert share.min() >= 1 and share.max() < 1.08
    assert depthwise_norms(kernels.abs()).tolist() == pytest.approx(kernels.abs().sum(dim=(1, 2, 3)).tolist())


def test_a_dense_convolution_is_bounded_as_an_operator_and_not_as_a_matrix():
    torch.manual_seed(3)
    layer = nn.Conv2d(3, 6, 3, padding=1, bias=False).double()
    measured, bound = norm_of(dense(layer, 3, 10)), convolution_norm(layer.weight).item()
    assert measured <= bound <= 1.15 * measured
    assert measured > norm_of(layer.weight.detach().flatten(1))  # what is often taken for it


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 4, 8])
def test_the_mean_over_a_window_has_the_norm_of_its_matrix(stride, size):
    pool = make_operation("avg_pool_3x3", 1, stride)
    found = pooling_norm(pool, (size, size))
    assert found == pytest.approx(norm_of(dense(pool, 1, size)), rel=0.011) and found >= norm_of(dense(pool, 1, size)) - 1e-12


@pytest.mark.parametrize(("stride", "expected"), [(1, 3), (2, 2)])
def test_a_maximum_stretches_one_bright_pixel_as_far_as_its_bound(stride, expected):
    pool = make_operation("max_pool_3x3", 1, stride)
    assert pooling_norm(pool, (8, 8)) == expected
    dark = torch.zeros(1, 1, 8, 8)
    spike = dark.clone()
    spike[..., 3, 3] = 1
    assert (pool(spike) - pool(dark)).norm().item() == expected


# ------------------------------------------------------------------------------------------------------------ operations


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_on_each_edge_stays_within_its_constant(name):
    """Measured on the plain modules: from random pairs, and along a few steps of ascent."""
    space = SearchSpace(operations=(name,), num_nodes=2)
    torch.manual_seed(4)
    plain = PlainSupernet(space, **SIZE).double()
    fused = drawn(space)
    fused.load_state_dict(fused_state(fused, plain.state_dict()))
    plain.eval(), fused.eval()
    for number, (cell, slot) in enumerate(zip(plain.cells, fused.slots, strict=True)):
        if number not in (0, 1):
            continue
        constants = cell_constants(fused, (8, 8))[number].operations.exp()
        size = 8 // slot.resolution_divisor * (2 if slot.reduction else 1)
        for edge, ((source, _), mixed) in enumerate(zip(space.edges, cell.edges, strict=True)):
            side = size if source < 2 else 8 // slot.resolution_divisor
            module = mixed.candidates[0]
            measured = stretch(module, torch.randn(4, slot.channels, side, side, dtype=torch.float64))
            assert 0 < measured <= constants[edge, 0] * (1 + 1e-9), (number, edge)


def stretch(function: nn.Module, x: Tensor, steps: int = 4) -> float:
    """The largest |f(x) - f(y)| / |x - y| that ascent over y finds."""
    there, largest = function(x).detach(), 0.0
    y = x + 0.1 * torch.randn_like(x)
    for _ in range(steps):
        y = y.detach().requires_grad_()
        ratio = (function(y) - there).flatten(1).norm(dim=1) / (y - x).flatten(1).norm(dim=1)
        largest = max(largest, ratio.max().item())
        (slope,) = torch.autograd.grad(ratio.sum(), y)
        moved = (y - x).detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        y = y + moved * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
    return largest


@pytest.mark.parametrize("seed", range(2))
def test_logits_never_move_further_than_the_bound(seed):
    supernet = drawn(seed=seed)
    bound = log_bound(supernet, (8, 8)).exp().item()
    measured = stretch(supernet, IMAGES[:2], steps=3)
    assert 0 < measured <= bound


def test_the_bound_of_a_cell_of_identities_is_the_sum_by_hand():
    space = SearchSpace(placement="A-A-A", operations=("skip_connect", "avg_pool_3x3"), num_nodes=1)
    supernet = drawn(space)
    slots = [slot for slot in supernet.slots if not slot.reduction][:1]
    constants = [each for each, slot in zip(cell_constants(supernet, (8, 8)), supernet.slots, strict=True) if slot in slots]
    weights = [torch.tensor([[0.25, 0.0], [0.5, 0.0]])]
    by_hand = 0.25 * constants[0].inputs[0].exp() + 0.5 * constants[0].inputs[1].exp()
    assert cells_growth(constants, weights).mean.exp().item() == pytest.approx(by_hand.item())
    before, previous = (
        conv[1].weight.detach()[:, :, 0, 0] for conv in (supernet.cells[0].inputs.before, supernet.cells[0].inputs.previous)
    )
    scales = [
        torch.rsqrt(norm[2].running_var + 1e-5)[:, None]
        for norm in (supernet.cells[0].inputs.before, supernet.cells[0].inputs.previous)
    ]
    norms = [norm_of(scale * weight) for scale, weight in zip(scales, (before, previous), strict=True)]
    assert by_hand.item() == pytest.approx(0.25 * norms[0] + 0.5 * norms[1], rel=0.011)


def test_a_bound_of_an_unknown_operation_is_refused_by_its_name(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "curve", lambda channels, stride, searching: nn.AvgPool2d(1, stride))
    supernet = Supernet(SearchSpace(operations=("skip_connect", "curve"), num_nodes=1), **SIZE)
    with pytest.raises(WorkbookError, match="not for curve"):
        log_bound(supernet, (8, 8))


# ------------------------------------------------------------------------------------------------------------- objective


def test_at_equal_alphas_the_objective_is_0():
    assert objective(drawn(spread=0.0)).item() == pytest.approx(0, abs=1e-12)
    assert abs(objective(drawn()).item()) > 0.01


def test_its_gradient_is_that_of_finite_differences():
    supernet = drawn()
    for kind, alphas in supernet.alphas.items():
        (slope,) = torch.autograd.grad(objective(supernet), alphas)
        assert slope.norm() > 0, kind
        for at in (0, 21):
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    alphas.view(-1)[at] += step
                    sides.append(objective(supernet).item())
                    alphas.view(-1)[at] -= step
            assert slope.view(-1)[at].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_weight_on_what_stretches_least_lowers_it_and_on_what_stretches_most_raises_it():
    supernet = drawn(spread=0.0)
    constants = {slot.kind: each.operations for each, slot in zip(cell_constants(supernet, (8, 8)), supernet.slots, strict=True)}
    for choose, sign in ((torch.argmin, -1), (torch.argmax, 1)):
        seen = [0.0]
        for weight in (1.0, 2.0):
            for kind, alphas in supernet.alphas.items():
                chosen = F.one_hot(choose(constants[kind].detach(), dim=1), alphas.shape[1])
                alphas.data = weight * chosen.double()
            seen.append(sign * objective(supernet).item())
        assert seen == sorted(seen) and seen[-1] > 0.1


def test_operations_that_take_no_part_change_nothing():
    supernet = drawn()
    constants = cell_constants(supernet, (8, 8))
    mixing = [supernet.mixing_weights()[slot.kind].detach() for slot in supernet.slots]
    without = [weights.clone() for weights in mixing]
    for weights in without:
        weights[:, 3] = 0
    without = [weights.requires_grad_() for weights in without]
    found = cells_growth(constants, without, 0.1).quantile(0.9)
    changed = [each._replace(operations=each.operations.index_fill(1, torch.tensor([3]), 5.0)) for each in constants]
    assert (
        cells_growth(changed, without, 0.1).quantile(0.9).item()
        == found.item()
        < cells_growth(constants, mixing, 0.1).quantile(0.9)
    )
    assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(found, without))
    assert alike(without[0]).unique().tolist() == pytest.approx([0, 1 / 4])


def test_second_order_sees_how_weights_change_it():
    supernet = drawn()
    weight = supernet.cells[0].inputs.previous[1].weight
    (slope,) = torch.autograd.grad(objective(supernet), weight)
    assert torch.isfinite(slope).all() and slope.norm() > 0


# ----------------------------------------------------------------------------------------------------------- confidence


def test_a_sum_of_log_normals_has_the_mean_and_variance_of_samples():
    mean, variance = (
        torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64),
        torch.tensor([0.1, 0.02, 0.3, 0.0], dtype=torch.float64),
    )
    found = LogNormal(mean, variance).total()
    normal = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    totals = (mean + variance.sqrt() * normal).exp().sum(1)
    assert (found.mean + found.variance / 2).exp().item() == pytest.approx(totals.mean().item(), rel=5e-3)
    relative = totals.var().item() / totals.mean().item() ** 2
    assert torch.expm1(found.variance).item() == pytest.approx(relative, rel=0.03)
    for confidence in (0.1, 0.5, 0.9, 0.99):
        assert found.quantile(confidence).exp().item() == pytest.approx(totals.quantile(confidence).item(), rel=0.02)


def test_quantiles_of_one_number_and_of_powers_are_exact():
    one = LogNormal(torch.tensor([2.0], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64))
    assert one.total().mean.item() == pytest.approx(2) and one.total().variance.item() == pytest.approx(0.25)
    assert one.quantile(0.975).item() == pytest.approx(2 + 1.959964 * 0.5)
    joint = Joint(one.mean, one.variance[:, None]).powers(torch.tensor([3.0]))
    assert (joint.means.item(), joint.covariance.item()) == pytest.approx((6, 9 * 0.25))


def test_the_supernets_quantile_is_that_of_drawn_weights():
    supernet, deviation = drawn(), 0.3
    constants = [CellConstants(*(part.detach() for part in each)) for each in cell_constants(supernet, (8, 8))]
    mixing = [supernet.mixing_weights()[slot.kind].detach() for slot in supernet.slots]
    found = cells_growth(constants, mixing, deviation)
    generator = torch.Generator().manual_seed(6)
    noise = [torch.randn(10_000, *weights.shape, generator=generator, dtype=torch.float64) for weights in mixing]
    samples = cells_growth(constants, [w * (deviation * n).exp() for w, n in zip(mixing, noise, strict=True)]).mean
    assert found.variance.sqrt().item() == pytest.approx(samples.std().item(), rel=0.05)
    for confidence in (0.1, 0.5, 0.9, 0.99):
        assert found.quantile(confidence).item() == pytest.approx(samples.quantile(confidence).item(), abs=0.05), confidence


@pytest.mark.parametrize(("settings", "said"), [({"confidence": 1.0}, "between 0 and 1"), ({"deviation": -0.1}, "at least 0")])
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(WorkbookError, match=said):
        LipschitzBound(**settings)


def test_more_confidence_asks_for_more():
    supernet = drawn()
    constants = cell_constants(supernet, (8, 8))
    weights = [supernet.mixing_weights()[slot.kind] for slot in supernet.slots]
    growth = cells_growth(constants, weights, 0.2)
    assert growth.quantile(0.5) < growth.quantile(0.9) < growth.quantile(0.99)
    assert objective(supernet, deviation=0.0).isfinite()


# ----------------------------------------------------------------------------------------------------------- upper level


def test_the_multiplier_of_racl_grows_while_the_bound_is_violated_and_returns_to_0():
    level, jacobian = RACL(bound=-0.5, rho=0.1), torch.randn(2, 4)
    memory, seen = level.start(jacobian), []
    for found in (0.5, 0.5, -1.5, -1.5, -1.5):
        losses = torch.tensor([found, 2.0])
        assert level.weigh(jacobian, losses, memory).tolist() == [level.remember(losses, memory).item(), 1]
        memory = level.remember(losses, memory)
        seen.append(memory.item())
    assert seen == pytest.approx([0.1, 0.2, 0.1, 0, 0], abs=1e-12)
    assert level.objectives == ("lipschitz", "natural") and NADAR().objectives == ("natural", "adversarial")


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_limit_that_is_no_number_is_refused(bound):
    with pytest.raises(WorkbookError, match="bound of the lipschitz loss"):
        RACL(bound=bound)


def test_a_search_with_racl_keeps_the_bound_lower_than_one_without_a_limit():
    ends = []
    for bound in (-3.0, 100.0):
        stages = (Stage(epochs=1, upper_level=RACL(bound=bound, rho=1.0), architecture_lr=0.1),)
        searcher = Searcher(toy_data(), replace(SEARCH, stages=stages), device="cpu")
        rows = [row for row in searcher.run_epoch() if row]
        ends.append(rows[-1]["validation/lipschitz_loss"])
        multipliers = [row["weight/lipschitz"] for row in rows]
        assert multipliers == sorted(multipliers) and (multipliers[-1] > 0) == (bound < 0)
    assert ends[0] < ends[1]
    assert isinstance(OBJECTIVES[LIPSCHITZ].loss, LipschitzBound)
