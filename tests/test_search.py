"""The two-stage search: what each level sees and changes, the weighing of gradients, and that it can be stopped anywhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_capture import META, NothingWaits, Rehearsal
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from toys import ATTACK, SEARCH, SPACE, Noting, bits, numbers, search_outcome, toy_data

from dsara_lib.architecture import KINDS, Genotype, SearchSpace
from dsara_lib.attacks import PGD
from dsara_lib.attacks.base import uniform_noise
from dsara_lib.attacks.gradient import image_gradient
from dsara_lib.capture import PRECISIONS, NoGraphs
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.history import read_history
from dsara_lib.search import (
    DSRNA,
    MGDA,
    NADAR,
    OBJECTIVES,
    STRATEGIES,
    AdvRush,
    Sampling,
    SearchConfig,
    Searcher,
    Selection,
    SingleObjective,
    Stage,
    SumOfLosses,
    make_strategy,
    upper_level,
)
from dsara_lib.search import searcher as module
from dsara_lib.search.objectives import ADVERSARIAL, COST, CURVATURE, JACOBIAN, NATURAL, curvature_of, jacobian_norm_of
from dsara_lib.search.searcher import collapse
from dsara_lib.search.upper_level import min_norm_weight, min_norm_weights
from tests.reference.plain_supernet import PlainSupernet

DATA = toy_data()
BOTH = replace(SEARCH, stages=(Stage(epochs=2, upper_level=MGDA(), architecture_lr=0.02),))
STRIDED = SearchSpace(operations=("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3", "skip_connect"), num_nodes=2)
CANDIDATES = [("avg_pool_3x3", "skip_connect"), ("sep_conv_3x3", "max_pool_3x3")]
NO_ATTACK = PGD(eps=0.0, step_size=0.0, steps=1)  # what it makes are the images themselves, so that formulas are exact
UPPER_LEVELS = [name for name, level in STRATEGIES.items() if not isinstance(level, Sampling)]  # samplings: test_sampling.py
Batch = tuple[Tensor, Tensor]


def search(config: SearchConfig = SEARCH, seed: int = 0) -> Searcher:
    return Searcher(DATA, config, seed=seed)


def batch(start: int, dtype: torch.dtype = torch.float32) -> Batch:
    chosen = slice(start, start + SEARCH.batch_size)
    return DATA.train.images[chosen].to(dtype) / 255, DATA.train.labels[chosen]


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def exact(searcher: Searcher) -> Searcher:
    """The same in float64."""
    searcher.supernet.double()
    return searcher


def weights_of(searcher: Searcher) -> Any:
    return bits([*searcher.supernet.weights()])


def alphas_of(searcher: Searcher) -> Any:
    return bits([*searcher.supernet.alphas.values()])


def statistics_of(searcher: Searcher) -> Any:
    return bits([*searcher.supernet.buffers()])


# -------------------------------------------------------------------------------------------------- what each level sees


def test_the_halves_are_disjoint_and_stratified_and_validation_is_of_the_alphas_half():
    searcher = search()
    weights, alphas = numbers(searcher.weights_half.images), numbers(searcher.alphas_half.images)
    assert sorted(weights + alphas) == list(range(24))
    assert searcher.weights_half.labels.bincount().tolist() == searcher.alphas_half.labels.bincount().tolist() == [4] * 3
    validation = numbers(searcher.validation.images)
    assert len(validation) == len(set(validation)) == SEARCH.validation_images and set(validation) < set(alphas)


def test_a_search_takes_so_many_images_when_told_the_same_share_of_each_class():
    job = Searcher(toy_data(), replace(SEARCH, images=18))
    halves = [job.weights_half, job.alphas_half]
    assert [len(half) for half in halves] == [9, 9]
    assert torch.bincount(torch.cat([half.labels for half in halves])).tolist() == [6, 6, 6]
    assert not {*numbers(halves[0].images)} & {*numbers(halves[1].images)}
    with pytest.raises(WorkbookError, match="at least two images; got 1"):
        replace(SEARCH, images=1)


def test_over_an_epoch_each_image_of_each_half_is_seen_once_by_its_own_level_in_new_order(monkeypatch):
    searcher, step = search(), Noting(lambda *batches: [numbers(images) for images, _ in batches])
    monkeypatch.setattr(searcher, "step", step)
    for _ in range(2):
        assert sum(bool(row) for row in searcher.run_epoch()) == searcher.num_batches == 2
    for level, half in enumerate((searcher.weights_half, searcher.alphas_half)):
        first, second = ([n for seen in epoch for n in seen[level]] for epoch in (step.noted[:2], step.noted[2:]))
        assert sorted(first) == sorted(second) == sorted(numbers(half.images))
        assert first != second


@pytest.mark.parametrize(("alphas_first", "expected"), [(False, "wa"), (True, "aw")])
def test_a_step_takes_the_weights_first_unless_told_otherwise(monkeypatch, alphas_first, expected):
    searcher, order = search(replace(SEARCH, alphas_first=alphas_first)), ""
    batches = batch(0), batch(6)

    def step_weights(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nonlocal order
        order += "w"
        assert numbers(images) == numbers(batches[0][0])
        return {"w": torch.tensor(1.0)}

    def step_architecture(images: Tensor, labels: Tensor, weights_batch: Batch, unread: Any = None) -> dict[str, Any]:
        nonlocal order
        order += "a"
        assert numbers(images) == numbers(batches[1][0]) and numbers(weights_batch[0]) == numbers(batches[0][0])
        return module.read(unread or {}) | {"a": 1}

    monkeypatch.setattr(searcher, "step_weights", step_weights)
    monkeypatch.setattr(searcher, "step_architecture", step_architecture)
    assert searcher.step(*batches) == {"w": 1, "a": 1}
    assert order == expected


def test_images_are_augmented_as_the_data_set_says():
    flipping, still = Searcher(DATA, SEARCH), Searcher(replace(DATA, flip=False, crop_padding=1), SEARCH)
    assert (flipping.augmentation.flip, flipping.augmentation.crop_padding) == (True, 0)
    assert (still.augmentation.flip, still.augmentation.crop_padding) == (False, 1)


# ----------------------------------------------------------------------------------------------- what each level changes


@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
def test_each_level_changes_its_own_parameters_and_leaves_no_gradient(second_order):
    searcher = search(replace(BOTH, second_order=second_order))
    weights, alphas = weights_of(searcher), alphas_of(searcher)
    searcher.step_weights(*batch(0))
    assert alphas_of(searcher) == alphas and weights_of(searcher) != weights
    weights = weights_of(searcher)
    searcher.step_architecture(*batch(6), batch(0))
    assert weights_of(searcher) == weights and alphas_of(searcher) != alphas
    assert all(old != new for old, new in zip(alphas, alphas_of(searcher), strict=True)), "a kind of cell is left out"
    assert all(p.grad is None and p.requires_grad for p in searcher.supernet.parameters())


@dataclass(frozen=True, kw_only=True)
class Spied(PGD):
    """PGD that notes whether crafting changes the supernet, and in which mode it finds it."""

    def __call__(self, model, images, labels, generator=None, noise=None):
        before = bits(model.state_dict()), model.training
        attacked = super().__call__(model, images, labels, generator, noise)
        NOTES.append(before == (bits(model.state_dict()), model.training))
        return attacked


NOTES: list[bool] = []


def test_crafting_does_not_move_batch_norm_but_each_loss_does_once():
    NOTES.clear()
    searcher = search(replace(BOTH, attack=Spied(eps=0.1, step_size=0.1, steps=2)))
    before = statistics_of(searcher)
    searcher.step_weights(*batch(0))
    assert statistics_of(searcher) != before
    searcher.step_architecture(*batch(6), batch(0))
    assert NOTES == [True, True]
    buffers = searcher.supernet.named_buffers()
    assert {int(value) for name, value in buffers if name.endswith("num_batches_tracked")} == {3}  # 1 + 2 objectives


def plain_steps(searcher: Searcher, steps: int) -> None:
    """Algorithms 2 and 3 written a second time, with `backward`, SGD and Adam spelt out, on the same supernet."""
    net, config = searcher.supernet, searcher.config
    weights, alphas = list(net.weights()), list(net.alphas.values())
    velocity = [torch.zeros_like(w) for w in weights]
    first, second = ([torch.zeros_like(a) for a in alphas] for _ in range(2))

    def gradients(images: Tensor, labels: Tensor, parameters: list[Any]) -> list[Tensor]:
        net.train()
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        found = [parameter.grad.clone() for parameter in parameters]
        net.zero_grad()
        return found

    for step in range(1, steps + 1):
        images, labels = batch(0, torch.float64)
        found = gradients(config.attack(net, images, labels, searcher.noise_from), labels, weights)
        length = flat(found).norm()
        clip = min(1.0, config.gradient_clip / (length.item() + 1e-6))
        with torch.no_grad():
            for w, g, v in zip(weights, found, velocity, strict=True):
                v.mul_(0.9).add_(clip * g + 3e-4 * w)
                w.sub_(0.025 * v)
        images, labels = batch(6, torch.float64)
        theta = gradients(images, labels, alphas)
        theta_bar = gradients(config.attack(net, images, labels, searcher.noise_from), labels, alphas)
        one, other = flat(theta).double(), flat(theta_bar).double()
        gamma = ((other - one) @ other / (one - other).square().sum()).clamp(0, 1).item()
        with torch.no_grad():
            for a, t, b, m, s in zip(alphas, theta, theta_bar, first, second, strict=True):
                g = gamma * t + (1 - gamma) * b + 1e-3 * a
                m.mul_(0.5).add_(0.5 * g)
                s.mul_(0.999).add_(0.001 * g * g)
                a.sub_(3e-4 * (m / (1 - 0.5**step)) / ((s / (1 - 0.999**step)).sqrt() + 1e-8))


def test_steps_equal_the_algorithms_written_a_second_way():
    stage = Stage(epochs=1, upper_level=MGDA(), architecture_lr=3e-4)
    # In float64, because Adam turns the rounding of a small gradient into a large step.
    searcher, plain = (exact(search(replace(SEARCH, stages=(stage,)))) for _ in range(2))
    for _ in range(2):
        searcher.step(batch(0, torch.float64), batch(6, torch.float64))
    plain_steps(plain, 2)
    for (name, found), expected in zip(searcher.supernet.named_parameters(), plain.supernet.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9, msg=name)


def test_the_adversarial_loss_is_taken_on_attacked_images_and_the_natural_on_clean_ones():
    searcher = search(BOTH)
    for _ in range(2):
        searcher.step(batch(0), batch(6))
    net, noise_from = copy.deepcopy(searcher.supernet), torch.Generator()
    noise_from.set_state(searcher.noise_from.get_state())
    images, labels = batch(6)
    metrics = searcher.step_architecture(images, labels, batch(0))
    attacked = ATTACK(net, images, labels, noise_from)
    for kind, shown in ((NATURAL, images), (ADVERSARIAL, attacked)):
        loss = F.cross_entropy(net.train()(shown), labels).item()
        assert metrics[f"validation/{kind}_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["validation/adversarial_loss"] != metrics["validation/natural_loss"]


def test_of_a_supernet_that_has_learned_the_adversarial_loss_is_above_the_natural_one():
    searcher = search(replace(BOTH, attack=PGD(eps=0.3, step_size=0.1, steps=3)))
    net, (images, labels) = searcher.supernet.train(), batch(6)
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.9  # so that few steps suffice for evaluation mode, in which images are attacked
    learn = torch.optim.SGD(searcher.weights, lr=0.1, momentum=0.9)
    for _ in range(20):
        learn.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        learn.step()
    metrics = searcher.step_architecture(images, labels, batch(0))
    assert metrics["validation/natural_loss"] < 0.1
    assert metrics["validation/adversarial_loss"] > 2 * metrics["validation/natural_loss"]
    assert metrics["validation/adversarial_accuracy"] <= metrics["validation/natural_accuracy"]


def test_a_gradient_of_the_alphas_that_is_not_finite_is_told_and_the_step_not_taken(monkeypatch):
    for broken in (float("nan"), float("inf")):
        searcher = search(BOTH)
        searcher.step(batch(0), batch(6))
        before = alphas_of(searcher), bits(searcher.alphas_optimizer.state_dict())
        jacobian = torch.ones(2, flat(searcher.alphas).numel())
        jacobian[1, 3] = broken
        monkeypatch.setattr(searcher, "_jacobian", lambda *_, j=jacobian: (j, torch.ones(2), {}))
        with pytest.raises(WorkbookError, match="not finite in epoch 1") as caught:
            searcher.step_architecture(*batch(6), batch(0))
        assert "\n" not in str(caught.value)
        assert (alphas_of(searcher), bits(searcher.alphas_optimizer.state_dict())) == before


@pytest.mark.parametrize("name", UPPER_LEVELS)
def test_every_strategy_searches(name):
    stage = Stage(epochs=1, upper_level=make_strategy(name), architecture_lr=0.02)
    searcher = search(replace(SEARCH, stages=(stage,)))
    before = alphas_of(searcher)
    metrics = searcher.step_architecture(*batch(6), batch(0))
    objectives = stage.upper_level.objectives
    assert {f"validation/{each}_loss" for each in objectives} | {f"gradient_norm/{each}" for each in objectives} <= set(metrics)
    two = len(objectives) == 2
    assert ("gradient_cosine" in metrics) == two and ("gamma" in metrics) == (two and name.startswith("mgda"))
    assert all(np.isfinite(value) for value in metrics.values()) and alphas_of(searcher) != before


# ------------------------------------------------------------------------------------------------- cost as an objective


def set_alphas(searcher: Searcher, operation: int | None) -> None:
    """All equal, or one operation taken on every edge."""
    with torch.no_grad():
        for alphas in searcher.alphas:
            alphas.zero_()
            if operation is not None:
                alphas[:, operation] = 100


@pytest.mark.parametrize("size", [8, 11])
def test_the_cost_is_one_at_equal_alphas_and_the_share_of_its_operations_once_decided(size):
    images, labels = torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.int64)
    searcher = search(replace(SEARCH, space=STRIDED, channels=4))
    shares, counts = [], []
    for operation in (None, *range(len(STRIDED.operations))):
        set_alphas(searcher, operation)
        (share,) = OBJECTIVES[COST].loss(searcher.supernet, "float32", images, labels)
        shares.append(share.item())
        # As torch counts it, of a plain supernet with that operation alone.
        kept = STRIDED.operations if operation is None else STRIDED.operations[operation : operation + 1]
        plain = PlainSupernet(replace(STRIDED, operations=kept), num_cells=5, channels=4, num_classes=3).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            plain(images[:1])
        counts.append(counter.get_total_flops())
    fixed = counts[1 + STRIDED.operations.index("max_pool_3x3")]  # of stem, inputs and classifier: pooling multiplies nothing
    uniform = (counts[0] - fixed) / len(STRIDED.operations)
    assert shares[0] == pytest.approx(1)
    assert shares[1:] == pytest.approx([(count - fixed) / uniform for count in counts[1:]], rel=1e-5, abs=1e-6)


def test_a_step_against_the_costs_gradient_makes_the_expected_network_smaller():
    stage = Stage(epochs=1, upper_level=SingleObjective(objective=COST), architecture_lr=0.1)
    searcher = search(replace(SEARCH, space=STRIDED, stages=(stage,)))
    costs = []
    for _ in range(5):
        metrics = searcher.step_architecture(*batch(6), batch(0))
        costs.append(metrics["validation/cost_loss"])
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.9 * costs[0]
    assert "validation/cost_accuracy" not in metrics


@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
def test_the_cost_needs_no_pass_through_the_supernet(monkeypatch, second_order):
    config = replace(BOTH, second_order=second_order)
    both = replace(config, stages=(replace(BOTH.stages[0], upper_level=SumOfLosses()),))
    three = replace(config, stages=(replace(BOTH.stages[0], upper_level=SumOfLosses(objectives=(NATURAL, ADVERSARIAL, COST))),))
    passes = []
    for each in (both, three):
        searcher, forward = search(each), Noting()
        searcher.supernet.register_forward_pre_hook(lambda module, inputs, note=forward: note() or None)
        searcher.step_architecture(*batch(6), batch(0))
        passes.append(len(forward.noted))
    assert passes[0] == passes[1] > 0


def test_a_third_objective_changes_nothing_of_what_the_first_two_measure():
    rows = []
    for objectives in ((NATURAL, ADVERSARIAL), (NATURAL, ADVERSARIAL, COST)):
        searcher = search(replace(BOTH, stages=(replace(BOTH.stages[0], upper_level=MGDA(objectives=objectives)),)))
        rows.append(searcher.step_architecture(*batch(6), batch(0)))
    two, three = rows
    shared = [key for key in two if key not in ("gamma", "gradient_cosine")]
    assert {key: three[key] for key in shared} == {key: two[key] for key in shared}
    assert three.keys() - two.keys() == {
        "validation/cost_loss",
        "gradient_norm/cost",
        *(f"weight/{each}" for each in (NATURAL, ADVERSARIAL, COST)),
    }
    assert two.keys() == {
        *(f"validation/{kind}_{what}" for kind in (NATURAL, ADVERSARIAL) for what in ("loss", "accuracy")),
        "gradient_norm/natural",
        "gradient_norm/adversarial",
        "gradient_cosine",
        "gamma",
    }


def test_counting_the_cost_draws_no_random_numbers():
    from dsara_lib.architecture import edge_costs
    from dsara_lib.architecture.cost import _operation_cost

    _operation_cost.cache_clear()
    state = torch.get_rng_state()
    counts = edge_costs(SearchSpace(), SearchSpace().slots(8, 24))
    assert torch.equal(state, torch.get_rng_state())
    assert {kind: tuple(count.shape) for kind, count in counts.items()} == dict.fromkeys(KINDS, (14, 7))


# ------------------------------------------------------------------------------------------------------------- rivals


def test_the_curvature_of_a_quadratic_is_exact():
    matrix = torch.randn(12, 12, dtype=torch.float64)
    matrix = matrix + matrix.T
    images = torch.rand(4, 3, 2, 2, dtype=torch.float64)
    found = curvature_of(lambda shown: 0.5 * ((shown.flatten(1) @ matrix) * shown.flatten(1)).sum(dim=1), images, 0.3)
    z = (images.flatten(1) @ matrix).sign()
    z = z / z.norm(dim=1, keepdim=True)
    assert found.item() == pytest.approx(0.3 * (z @ matrix).norm(dim=1).mean().item(), rel=1e-12)
    slope = torch.rand(12, dtype=torch.float64)
    assert curvature_of(lambda shown: shown.flatten(1) @ slope, images, 0.3).item() == pytest.approx(0, abs=1e-12)
    assert curvature_of(lambda shown: 0 * shown.flatten(1).sum(dim=1), images, 0.3).item() == 0


def test_the_jacobian_norm_of_a_linear_model_is_the_norm_of_its_matrix():
    matrix, images = torch.randn(12, 5, dtype=torch.float64), torch.rand(4, 3, 2, 2, dtype=torch.float64)
    found = jacobian_norm_of(lambda shown: shown.flatten(1) @ matrix + 1, images)
    assert found.item() == pytest.approx(matrix.norm().item(), rel=1e-12)
    squared = jacobian_norm_of(lambda shown: shown.flatten(1).square() @ matrix, images)
    assert squared.item() == pytest.approx(
        torch.stack([(2 * image[:, None] * matrix).norm() for image in images.flatten(1)]).mean().item(), rel=1e-12
    )


@pytest.mark.parametrize("name", [CURVATURE, JACOBIAN])
@pytest.mark.parametrize("operations", CANDIDATES, ids=" ".join)
def test_the_gradient_of_a_regulariser_is_that_of_finite_differences(name, operations):
    searcher = exact(search(replace(SEARCH, channels=4, space=replace(SPACE, operations=operations))))
    for norm in searcher.supernet.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.9  # so that evaluation mode has statistics
    for _ in range(3):
        searcher.supernet.train()(batch(12, torch.float64)[0])
    passes, (images, labels) = searcher.passes, batch(0, torch.float64)
    statistics = statistics_of(searcher)
    loss, gradient = passes.objective_gradient(OBJECTIVES[name])(images, labels)
    assert statistics_of(searcher) == statistics and loss > 0 and all(p.requires_grad for p in searcher.supernet.parameters())
    along, shift, sides = [torch.randn_like(alpha) for alpha in searcher.alphas], 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for alpha, way in zip(searcher.alphas, along, strict=True):
                alpha.add_((1 if sign > 0 else -2) * shift * way)
        sides.append(OBJECTIVES[name].loss(searcher.supernet, "ieee", images, labels)[0].item())
    expected = (sides[0] - sides[1]) / (2 * shift)
    assert (gradient @ flat(along)).item() == pytest.approx(expected, rel=1e-4, abs=1e-7) and abs(expected) > 0


def test_advrush_and_dsrna_add_their_regulariser_to_the_natural_loss():
    jacobian = torch.randn(2, 5)
    assert AdvRush().objectives == (NATURAL, CURVATURE) and DSRNA().objectives == (NATURAL, JACOBIAN)
    assert AdvRush(gamma=0.5, strength=4.0).weigh(jacobian, torch.ones(2)).tolist() == [1, 2]
    assert DSRNA(gamma=0.5).weigh(jacobian, torch.ones(2)).tolist() == [1, 0.5]


def test_the_warm_up_of_advrush_is_a_stage_that_spends_nothing_on_curvature():
    stages = (
        Stage(epochs=1, upper_level=make_strategy("natural"), architecture_lr=0.02),
        Stage(epochs=1, upper_level=make_strategy("advrush"), architecture_lr=0.02),
    )
    searcher = search(replace(SEARCH, stages=stages))
    for measured in (False, True):
        rows = [row for row in searcher.run_epoch() if row]
        assert ["validation/curvature_loss" in row for row in rows] == [measured] * searcher.num_batches


def test_the_multiplier_grows_while_the_constraint_is_violated_and_falls_to_0_where_it_holds():
    level, jacobian = NADAR(bound=0.5, rho=0.1), torch.randn(2, 4)
    memory, seen = level.start(jacobian), []
    for natural in (1.5, 1.5, 1.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        losses = torch.tensor([natural, 2.0])
        weights = level.weigh(jacobian, losses, memory)
        memory = level.remember(losses, memory)
        assert weights.tolist() == [memory.item(), 1]
        seen.append(memory.item())
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0, 0, 0], abs=1e-12)
    # The weights are the gradient of the augmented Lagrangian.
    natural = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    lagrangian = ((0.2 + 0.1 * (natural - 0.5)).clamp_min(0).square() - 0.2**2) / (2 * 0.1)
    (slope,) = torch.autograd.grad(lagrangian, natural)
    weights = level.weigh(jacobian, torch.tensor([1.2, 1.0]), torch.tensor([0.2], dtype=torch.float64))
    assert weights[0].item() == pytest.approx(slope.item())


def test_an_augmented_lagrangian_finds_the_constrained_minimum():
    """Minimise (x - 3)^2 where x^2 <= 1: x = 1, and mu = 2."""
    level, x = NADAR(bound=1.0, rho=0.5), torch.zeros(1)
    memory = level.start(x[None])
    for _ in range(2000):
        jacobian, losses = torch.stack([2 * x, 2 * (x - 3)]), torch.cat([x**2, (x - 3) ** 2])
        x = x - 0.02 * (level.weigh(jacobian, losses, memory) @ jacobian.double()).float()
        memory = level.remember(losses, memory)
    assert (x.item(), memory.item()) == pytest.approx((1, 2), abs=1e-3)


def test_what_an_upper_level_remembers_is_told_kept_by_stage_and_not_taken_from_a_refused_step(monkeypatch):
    stages = tuple(Stage(epochs=1, upper_level=NADAR(bound=bound), architecture_lr=0.02) for bound in (0.1, 100.0))
    searcher = search(replace(SEARCH, stages=stages))
    rows = [row for row in searcher.run_epoch() if row]
    assert 0 < rows[0]["weight/natural"] < rows[1]["weight/natural"] == searcher.memories[1].item()
    list(searcher.run_epoch())
    assert searcher.memories[2].item() == 0 and searcher.memories[1].item() == rows[1]["weight/natural"]
    searcher.epoch = 0
    broken = torch.full((2, flat(searcher.alphas).numel()), float("nan"))
    monkeypatch.setattr(searcher, "_jacobian", lambda *_: (broken, torch.ones(2), {}))
    with pytest.raises(WorkbookError, match="not finite"):
        searcher.step_architecture(*batch(6), batch(0))
    assert searcher.memories[1].item() == rows[1]["weight/natural"]


# -------------------------------------------------------------------------------------- nothing waits, and GPUs record

AFAR = replace(BOTH, space=STRIDED, attack=replace(ATTACK, steps=2))


@pytest.fixture
def afar(monkeypatch) -> Callable[..., tuple[Searcher, list[Tensor]]]:
    """A search on the meta device, whose tensors have no numbers that one could wait for; images, labels and noise."""
    monkeypatch.setattr(module, "to_cpu", lambda state: state)
    images, labels = batch(0)
    given = [each.to(META) for each in (images, labels, uniform_noise(images, None))]
    return lambda config: (Searcher(DATA, config, device=META), given)


def test_no_pass_waits_for_the_device_or_brings_anything_there(afar):
    searcher, (images, labels, noise) = afar(AFAR)
    with NothingWaits():
        attacked = searcher.passes.craft(images, labels, noise)
        found = searcher.passes.weights_gradients(attacked, labels)
        natural = searcher.passes.alphas_gradient(images, labels)
    assert attacked.shape == images.shape and attacked.dtype == torch.float32
    assert [each.shape for each in found] == [(), (), *(weight.shape for weight in searcher.weights)]
    assert [each.stride() for each in found[2:]] == [weight.stride() for weight in searcher.weights]
    assert [each.shape for each in natural] == [(), (), flat(searcher.alphas).shape]
    assert not any(each.requires_grad or each.dtype != torch.float32 for each in (attacked, *found, *natural))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_waits_for_the_device_once_it_was_called(afar, name):
    searcher, (images, labels, _) = afar(AFAR)
    part = searcher.passes.objective_gradient(OBJECTIVES[name])
    part(images, labels)  # never recorded
    with NothingWaits():
        loss, *right, gradient = part(images, labels)
    assert loss.shape == () and len(right) <= 1 and gradient.shape == flat(searcher.alphas).shape
    assert not any(each.requires_grad for each in (loss, *right, gradient))


@pytest.mark.parametrize("name", UPPER_LEVELS)
def test_no_strategy_waits_for_the_device_or_brings_anything_there(name):
    level = make_strategy(name)
    objectives = len(level.objectives)
    with NothingWaits():
        weights = level.weigh(torch.ones(objectives, 5, device=META), torch.ones(objectives, device=META))
    assert weights.device == META and weights.dtype == torch.float64


@pytest.mark.parametrize("first", ["weights", "alphas"])
def test_a_step_asks_the_device_for_numbers_once_before_it_changes_the_alphas(monkeypatch, afar, first):
    searcher, (images, labels, _) = afar(replace(BOTH, alphas_first=first == "alphas"))
    asked: list[list[str]] = []

    def answer(scalars: dict[str, Tensor]) -> dict[str, float]:
        asked.append([*scalars, f"alphas have moved: {bool(searcher.alphas_optimizer.state)}"])
        return dict.fromkeys(scalars, 1.0)

    monkeypatch.setattr(module, "read", answer)
    monkeypatch.setattr(searcher, "noise_from", torch.Generator())
    metrics = searcher.step((images, labels), (images, labels))  # whatever else would wait has nothing to wait for here
    of_weights = ["train/adversarial_loss", "train/adversarial_accuracy"]
    assert set(of_weights) < set(metrics) and "finite" not in metrics
    if first == "weights":
        (names,) = asked
        assert names[:2] == of_weights and names[-2:] == ["finite", "alphas have moved: False"]
    else:
        assert asked[1] == [*of_weights, "alphas have moved: True"] and asked[0][-2:] == ["finite", "alphas have moved: False"]


def test_what_is_read_is_what_each_number_is():
    scalars = {"a": torch.tensor(0.1), "b": torch.tensor(0.1, dtype=torch.float64), "c": torch.tensor(True)}
    assert module.read(scalars) == {name: each.item() for name, each in scalars.items()}
    assert module.read({}) == {}


def test_a_recorded_search_equals_the_plain_one_to_the_bit(uninterrupted, tmp_path):
    """Also where what a pass returned is gone as soon as the next is called."""
    config, _, folder = uninterrupted
    graphs = Rehearsal()
    run(Searcher(DATA, config, graphs=graphs), tmp_path)
    assert search_outcome(tmp_path) == search_outcome(folder)
    assert graphs.noted.count("replay") > graphs.noted.count("record") and graphs.noted[-1] == "wait"


def test_nothing_is_recorded_again_within_a_run():
    searcher = Searcher(DATA, replace(SEARCH, validation_images=8), graphs=Rehearsal())
    for _ in range(searcher.num_epochs - 1):
        list(searcher.run_epoch())
    craft, weights, alphas = (
        part.num_graphs for part in (searcher.passes.craft, searcher.passes.weights_gradients, searcher.passes.alphas_gradient)
    )
    assert (craft, weights, alphas) == (2, 1, 1), "batches of six, and what is left of the validation images"
    list(searcher.run_epoch())
    recorded = searcher.passes.craft.graphs.noted.count("record")
    assert recorded == 4 and searcher.passes.num_graphs == 0, "recorded again, or kept after the last epoch"


def test_an_attack_that_asks_which_images_are_left_is_not_recorded():
    searcher = Searcher(DATA, replace(SEARCH, attack=replace(ATTACK, early_stop=True)), graphs=Rehearsal())
    assert isinstance(searcher.passes.craft.graphs, NoGraphs)
    searcher.step(batch(0), batch(6))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["ieee", "bfloat16"])
def test_on_a_gpu_recorded_steps_equal_plain_ones(precision):
    config = replace(AFAR, precision=precision)
    with torch.random.fork_rng():
        recorded = Searcher(DATA, config, device="cuda")
        plain = Searcher(DATA, config, device="cuda", graphs=NoGraphs())
    torch.use_deterministic_algorithms(False)
    try:
        rows = [[searcher.step(*on_gpu(searcher)) for _ in range(5)] for searcher in (recorded, plain)]
    finally:
        torch.use_deterministic_algorithms(True)
    assert recorded.passes.num_graphs == 3 and plain.passes.num_graphs == 0
    exactness = 1e-3 if precision == "ieee" else 0.1
    for one, other in zip(*rows, strict=True):
        assert one["validation/natural_loss"] == pytest.approx(other["validation/natural_loss"], rel=exactness)
    assert statistics_of_counts(recorded) == statistics_of_counts(plain) == {3 * 5}


def on_gpu(searcher: Searcher) -> list[Batch]:
    return [(images.to(searcher.device), labels.to(searcher.device)) for images, labels in (batch(0), batch(6))]


def statistics_of_counts(searcher: Searcher) -> set[int]:
    buffers = searcher.supernet.named_buffers()
    return {int(value) for name, value in buffers if name.endswith("num_batches_tracked")}


# ----------------------------------------------------------------------------------------------------------- precision


def rounding_effect(data: Any, config: SearchConfig, steps: int) -> dict[str, float]:
    """What bfloat16 changes: first at the weights of a float32 search after `steps` steps, on equal images and noise; then by as
    many steps of its own."""
    exact, rounded = (Searcher(data, replace(config, precision=name), seed=0) for name in ("float32", "bfloat16"))
    start = flat(exact.alphas).detach().clone()
    rows = [[row for _, row in zip(range(steps), searcher.run_epoch(), strict=False)] for searcher in (exact, rounded)]
    moved = [flat(searcher.alphas).detach() - start for searcher in (exact, rounded)]
    same = Searcher(data, replace(config, precision="bfloat16"), seed=0)
    same.supernet.load_state_dict(exact.supernet.state_dict())
    (images, labels), other = islice(exact._batches(exact.alphas_half), 2)
    noise = uniform_noise(images, torch.Generator().manual_seed(0))
    signs, losses, gradients, attacked = [], [], [], []
    for searcher in (exact, same):
        attacked.append(searcher.passes.craft(images, labels, noise))
        signs.append(image_gradient(searcher.passes.folded().eval(), images, labels)[0].sign())
    for searcher in (exact, same):
        loss, _, gradient = searcher.passes.alphas_gradient(attacked[0], labels)
        losses.append(loss.item())
        gradients.append(gradient)
    nonzero = signs[0] != 0
    elsewhere = exact.passes.alphas_gradient(*other)[2]
    return {
        "steps": len(rows[0]),
        "loss, float32": losses[0],
        "relative difference of the loss": abs(losses[1] / losses[0] - 1),
        "share of equal signs of the images' gradient": (signs[0] == signs[1])[nonzero].float().mean().item(),
        "share of equal pixels after PGD": ((attacked[0] - attacked[1]).abs() < 1e-6).float().mean().item(),
        "cosine of the alphas' gradients": F.cosine_similarity(*gradients, dim=0).item(),
        "the same between two batches, float32": F.cosine_similarity(gradients[0], elsewhere, dim=0).item(),
        "cosine of the alphas' ways": F.cosine_similarity(*moved, dim=0).item(),
        "length of the alphas' way, float32": moved[0].norm().item(),
        "length of their difference": (moved[1] - moved[0]).norm().item(),
        "last natural loss, float32": rows[0][-1]["validation/natural_loss"],
        "last natural loss, bfloat16": rows[1][-1]["validation/natural_loss"],
    }


def test_bfloat16_changes_a_search_a_little_and_float32_is_what_is_kept():
    config = replace(BOTH, channels=4)
    effect = rounding_effect(DATA, config, 1)
    assert 0 < effect["relative difference of the loss"] < 0.02
    assert effect["share of equal signs of the images' gradient"] > 0.8
    assert 0.8 < effect["cosine of the alphas' gradients"] < 1
    searcher = search(replace(config, precision="bfloat16"))
    metrics = searcher.step(batch(0), batch(6))
    assert all(np.isfinite(value) for value in metrics.values())
    states = [searcher.supernet.state_dict(), searcher.weights_optimizer.state_dict(), searcher.alphas_optimizer.state_dict()]
    kept = {each.dtype for each in torch.utils._pytree.tree_leaves(states) if isinstance(each, Tensor)}
    assert kept == {torch.float32, torch.int64}


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_convolution_of_a_step_is_computed_in_the_precision(name):
    searcher = search(replace(AFAR, precision=name))
    dtypes: set[torch.dtype] = set()

    class Looking(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in ("convolution", "convolution_backward", "mm", "addmm", "addmm_"):
                dtypes.update(each.dtype for each in args if isinstance(each, Tensor))
            return func(*args, **(kwargs or {}))

    images, labels = batch(0)
    noise = uniform_noise(images, None)
    for part, inputs in (
        (searcher.passes.craft, (images, labels, noise)),
        (searcher.passes.weights_gradients, (images, labels)),
        (searcher.passes.alphas_gradient, (images, labels)),
    ):
        dtypes.clear()
        with Looking():
            part(*inputs)
        assert dtypes == {PRECISIONS[name].autocast or torch.float32}, part.function


def test_an_unknown_precision_is_refused_and_another_one_is_another_search(tmp_path):
    with pytest.raises(WorkbookError, match="unknown precision 'float16'; did you mean"):
        replace(SEARCH, precision="float16")
    list(islice(run_epochs(search(), tmp_path), 1))
    with pytest.raises(WorkbookError, match='precision: "float32" here, "bfloat16" there'):
        run(search(replace(SEARCH, precision="bfloat16")), tmp_path)


# --------------------------------------------------------------------------------------------------------- second order


@pytest.fixture
def small_shift(monkeypatch) -> None:
    """So small a finite difference that no kink of ReLU or pooling lies within."""
    monkeypatch.setattr(module, "SHIFT", 1e-7)


@pytest.mark.parametrize("operations", CANDIDATES, ids=" ".join)
def test_the_hessian_vector_product_equals_exact_autograd(small_shift, operations):
    searcher = exact(search(replace(SEARCH, space=replace(SPACE, operations=operations))))
    net, weights, alphas = searcher.supernet.train(), searcher.weights, searcher.alphas
    (images, labels), (others, their_labels) = batch(0, torch.float64), batch(6, torch.float64)
    vector = torch.autograd.grad(F.cross_entropy(net(others), their_labels), weights)
    slopes = torch.autograd.grad(F.cross_entropy(net(images), labels), weights, create_graph=True)
    along = torch.stack([(slope * v).sum() for slope, v in zip(slopes, vector, strict=True)]).sum()
    expected = flat(torch.autograd.grad(along, alphas))
    found = searcher.hessian_vector(images, labels, [w.detach().clone() for w in weights], vector, len(images))
    assert (found - expected).norm() < 1e-4 * expected.norm() and expected.norm() > 0


def test_the_unrolled_gradient_equals_differentiation_through_a_step_of_sgd(small_shift):
    config = replace(BOTH, second_order=True, attack=NO_ATTACK, weights_lr=0.5, gradient_clip=0.5)
    searcher = exact(search(config))
    searcher.step_weights(*batch(12, torch.float64))  # so that there is momentum
    net, names = searcher.supernet, [n for n, _ in searcher.supernet.named_parameters() if not n.startswith("alphas.")]
    (images, labels), (train_images, train_labels) = batch(6, torch.float64), batch(0, torch.float64)
    found, losses, _ = searcher._unrolled_jacobian(MGDA(), images, labels, train_images, train_labels)

    net.train()
    slopes = torch.autograd.grad(F.cross_entropy(net(train_images), train_labels), searcher.weights, create_graph=True)
    ahead = {}
    for name, weight, slope in zip(names, searcher.weights, slopes, strict=True):
        momentum = searcher.weights_optimizer.state[weight]["momentum_buffer"]
        ahead[name] = weight - 0.5 * (slope + 3e-4 * weight + 0.9 * momentum)
    loss = F.cross_entropy(functional_call(net, ahead, (images,)), labels)
    expected = flat(torch.autograd.grad(loss, searcher.alphas, retain_graph=True))
    held = {name: value.detach() for name, value in ahead.items()}
    explicit = flat(torch.autograd.grad(F.cross_entropy(functional_call(net, held, (images,)), labels), searcher.alphas))

    assert losses.tolist() == pytest.approx([loss.item()] * 2)
    implicit = (expected - explicit).norm()
    assert implicit > 0.05 * explicit.norm(), "the second-order term is too small to show anything"
    for row in found:
        assert (row - expected).norm() < 1e-4 * implicit


def test_the_unrolled_step_leaves_weights_statistics_and_momentum_as_found(monkeypatch):
    searcher = search(replace(BOTH, second_order=True))
    searcher.step_weights(*batch(12))
    before = bits(searcher.supernet.state_dict()), bits(searcher.weights_optimizer.state_dict())
    searcher._unrolled_jacobian(MGDA(), *batch(6), *batch(0))
    assert (bits(searcher.supernet.state_dict()), bits(searcher.weights_optimizer.state_dict())) == before

    original = searcher.hessian_vector

    def fail(*arguments: Any) -> Tensor:
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(searcher, "hessian_vector", fail)
    with pytest.raises(KeyboardInterrupt):
        searcher._unrolled_jacobian(MGDA(), *batch(6), *batch(0))
    assert (bits(searcher.supernet.state_dict()), bits(searcher.weights_optimizer.state_dict())) == before


# ------------------------------------------------------------------------------------------------ schedules and settings


def test_the_defaults_are_the_papers():
    config = SearchConfig()
    assert (config.epochs, config.batch_size, config.num_cells, config.channels) == (30, 64, 8, 24)
    assert config.attack == PGD(eps=2 / 255, step_size=1 / 510, steps=7)
    assert (config.weights_lr, config.momentum, config.weight_decay, config.gradient_clip) == (0.025, 0.9, 3e-4, 5.0)
    assert (config.architecture_betas, config.architecture_weight_decay) == ((0.5, 0.999), 1e-3)
    assert not config.alphas_first and not config.second_order and config.weights_lr_floor == 0


def test_the_papers_two_stages_set_upper_level_and_rates_epoch_by_epoch(monkeypatch):
    paper = SearchConfig()
    searcher = search(replace(SEARCH, stages=paper.stages, batch_size=12))
    seen: list[tuple[Any, ...]] = []

    def jacobian(level: Any, *_: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        rates = [optimizer.param_groups[0]["lr"] for optimizer in (searcher.alphas_optimizer, searcher.weights_optimizer)]
        seen.append((level, *rates))
        return torch.ones(len(level.objectives), flat(searcher.alphas).numel()), torch.ones(len(level.objectives)), {}

    scores = {f"{kind}_{what}": 0.5 for kind in (NATURAL, ADVERSARIAL) for what in ("loss", "accuracy")}

    def measured(*_: Any) -> Iterator[dict[str, float]]:
        yield {}
        return scores

    monkeypatch.setattr(module, "measuring", measured)
    monkeypatch.setattr(searcher, "step_weights", Noting())
    monkeypatch.setattr(searcher, "_jacobian", jacobian)
    stages = [row["stage"] for _ in range(30) for row in searcher.run_epoch() if row]
    assert stages == [1] * 20 + [2] * 10
    levels, alphas_lr, weights_lr = zip(*seen, strict=True)
    assert list(levels) == [SingleObjective(objective=ADVERSARIAL)] * 20 + [MGDA()] * 10
    assert list(alphas_lr) == [3e-4] * 20 + [5e-5] * 10
    cosine = [0.025 * (1 + np.cos(np.pi * epoch / 30)) / 2 for epoch in range(30)]
    assert list(weights_lr) == pytest.approx(cosine) and weights_lr[0] == 0.025
    group = searcher.alphas_optimizer.param_groups[0]
    assert isinstance(searcher.alphas_optimizer, torch.optim.Adam)
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 1e-3)


def test_the_weights_rate_ends_at_its_floor():
    searcher = search(replace(SEARCH, weights_lr_floor=0.001))
    rates = [searcher.config.weights_lr * searcher.schedule(epoch, 30) for epoch in range(31)]
    assert rates[0] == 0.025 and rates[30] == pytest.approx(0.001) and min(rates) >= 0.001 - 1e-12


def test_useless_settings_and_too_few_images_are_refused():
    for wrong in ((), (replace(SEARCH.stages[0], epochs=0),)):
        with pytest.raises(WorkbookError, match="stage"):
            replace(SEARCH, stages=wrong)
    with pytest.raises(WorkbookError, match="batch_size"):
        replace(SEARCH, batch_size=1)
    with pytest.raises(WorkbookError, match="half has 12 images, fewer than one batch of 13"):
        search(replace(SEARCH, batch_size=13))
    with pytest.raises(WorkbookError, match="5 cells"):
        search(replace(SEARCH, num_cells=4))


# ---------------------------------------------------------------------------------------------------- weighing gradients

numbers_32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
tame = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)


def pairs(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Tensor]:
    def of(n: int) -> st.SearchStrategy[Tensor]:
        return st.lists(elements, min_size=2 * n, max_size=2 * n).map(lambda x: torch.tensor(x).view(2, n))

    return st.integers(1, 6).flatmap(of)


HUGE, TINY = 3e38, 1e-45
AWKWARD = [
    torch.zeros(2, 3),
    torch.full((2, 3), HUGE),
    torch.full((2, 3), TINY),
    torch.tensor([[HUGE, -HUGE], [-HUGE, HUGE]]),
    torch.tensor([[TINY, 0.0], [0.0, -TINY]]),
    torch.tensor([[HUGE], [TINY]]),
    torch.tensor([[0.0, 0.0], [1.0, 2.0]]),
    torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
]
LEVELS = [
    MGDA(loss_scales=scales, scaling=scaling)
    for scaling in ("none", "norm", "loss")
    for scales in ((1.0, 1.0), (1.0, 0.1), (100.0, 100.0))
]


def descends(level: MGDA, jacobian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """The direction in float64, and how far a step against it goes down each loss."""
    jacobian = jacobian.double()
    direction = level.weigh(jacobian, losses) @ jacobian
    return direction, jacobian @ direction


@given(pairs(numbers_32), st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)))
@settings(max_examples=25)
def test_weights_are_finite_and_not_negative_whatever_the_gradients(jacobian, losses):
    for level in LEVELS:
        weights = level.weigh(jacobian, torch.tensor(losses))
        assert torch.isfinite(weights).all() and (weights >= 0).all(), level
        if level.scaling != "none":
            assert weights.sum().item() == pytest.approx(1)


for _jacobian in AWKWARD:
    for _losses in ((1.0, 1.0), (0.0, 0.0), (1e-40, 1e30)):
        test_weights_are_finite_and_not_negative_whatever_the_gradients = example(_jacobian, _losses)(
            test_weights_are_finite_and_not_negative_whatever_the_gradients
        )


@given(pairs(numbers_32))
def test_gamma_is_a_share_and_one_half_for_equal_gradients(jacobian):
    theta, theta_bar = jacobian
    assert 0 <= min_norm_weight(theta, theta_bar) <= 1
    assert min_norm_weight(theta, theta.clone()) == 0.5
    swapped = min_norm_weight(theta_bar, theta)
    assert swapped.item() == pytest.approx(1 - min_norm_weight(theta, theta_bar).item(), abs=1e-6)


@given(pairs(tame))
def test_no_convex_combination_is_shorter(jacobian):
    direction, _ = descends(MGDA(), jacobian, torch.ones(2))
    gammas = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    lengths = (gammas * jacobian[0].double() + (1 - gammas) * jacobian[1].double()).norm(dim=1)
    assert direction.norm() <= lengths.min() + 1e-9 * (1 + lengths.max())


@given(pairs(tame))
def test_the_shortest_combination_descends_on_both_losses_by_its_square_at_least(jacobian):
    direction, descent = descends(MGDA(), jacobian, torch.ones(2))
    slack = 1e-9 * jacobian.double().square().sum()
    assert (descent >= direction @ direction - slack).all()


@given(pairs(tame), st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)))
@settings(max_examples=25)
def test_scaled_gradients_still_give_a_common_descent_direction(jacobian, losses):
    for level in LEVELS:
        _, descent = descends(level, jacobian, torch.tensor(losses))
        assert (descent >= -1e-9 * jacobian.double().square().sum() * max(1, *level.scales)).all(), level


def test_scaling_by_norm_keeps_the_shorter_of_two_agreeing_gradients_from_taking_all():
    jacobian = torch.tensor([[1.0, 0.1], [100.0, 0.0]])
    raw = MGDA().weigh(jacobian, torch.ones(2))
    assert raw.tolist() == [1, 0]
    shares = MGDA(scaling="norm").weigh(jacobian, torch.ones(2))[:, None] * jacobian.double()
    assert shares[0].norm().item() == pytest.approx(shares[1].norm().item(), rel=1e-6)
    by_loss = MGDA(scaling="loss").weigh(jacobian, torch.tensor([1.0, 100.0]))
    assert by_loss[0] < 1 and by_loss[1] > 0


def test_the_published_codes_scale_of_the_adversarial_loss_is_mgda_on_the_scaled_gradients():
    jacobian = torch.tensor([[1.0, -0.2, 0.0], [-4.0, 3.0, 1.0]])
    scaled = torch.stack([jacobian[0], 0.1 * jacobian[1]])
    expected = MGDA().weigh(scaled, torch.ones(2)) @ scaled.double()
    found = MGDA(loss_scales=(1.0, 0.1)).weigh(jacobian, torch.ones(2)) @ jacobian.double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_logged_gamma_is_the_weight_of_the_natural_gradient_before_scaling(monkeypatch):
    jacobian = torch.randn(2, flat(search().alphas).numel())
    for scales in ((1.0, 1.0), (2.0, 0.1)):
        stage = replace(BOTH.stages[0], upper_level=MGDA(loss_scales=scales))
        searcher = search(replace(BOTH, stages=(stage,)))
        monkeypatch.setattr(searcher, "_jacobian", lambda *_: (jacobian, torch.ones(2), {}))
        metrics = searcher.step_architecture(*batch(6), batch(0))
        expected = min_norm_weight(scales[0] * jacobian[0].double(), scales[1] * jacobian[1].double()).item()
        assert 0 < expected < 1 and metrics["gamma"] == pytest.approx(expected)
        assert metrics["gradient_norm/natural"] == pytest.approx(jacobian[0].norm().item())
        cosine = F.cosine_similarity(jacobian[0], jacobian[1], dim=0).item()
        assert metrics["gradient_cosine"] == pytest.approx(cosine, abs=1e-6)


# ------------------------------------------------------------------------------------------- more than two gradients

some_rows = st.integers(1, 5).flatmap(
    lambda n: st.integers(1, 6).flatmap(
        lambda p: st.lists(tame, min_size=n * p, max_size=n * p).map(lambda x: torch.tensor(x, dtype=torch.float64).view(n, p))
    )
)
AWKWARD_ROWS = [
    torch.zeros(3, 2),
    torch.ones(4, 3),
    torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]]),  # parallel: the shortest
    torch.tensor([[1.0, 0.0], [-2.0, 0.0], [4.0, 0.0]]),  # opposed: none
    torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]),  # the same twice
    torch.tensor([[1.0, 0.0], [-0.5, 1.0], [-0.5, -1.0]]),  # 0 lies inside the triangle
    torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [3.0, -1.0, 2.0]]),
    torch.tensor([[1.0, 0.0], [1.0, 1e-9], [1.0, -1e-9]]),
    torch.tensor([[HUGE, 0.0], [0.0, HUGE], [TINY, TINY]]),
    1e-20 * torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]),
]


def shortest(rows: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weights, the combination, and the square of the longest row."""
    weights = min_norm_weights(rows)
    return weights, weights @ rows.double(), rows.double().square().sum(dim=1).max().item()


@given(some_rows)
def test_the_shortest_combination_of_many_meets_its_optimality_condition(rows):
    weights, v, scale = shortest(rows)
    assert torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (rows.double() @ v >= v @ v - 1e-9 * scale).all(), "a step against v goes down less on some loss than by its square"


for _rows in AWKWARD_ROWS:
    test_the_shortest_combination_of_many_meets_its_optimality_condition = example(_rows)(
        test_the_shortest_combination_of_many_meets_its_optimality_condition
    )


@given(some_rows, st.randoms(use_true_random=False))
def test_the_shortest_combination_of_many_does_not_depend_on_their_order(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    (_, v, scale), (_, shuffled, _) = shortest(rows), shortest(rows[order])
    assert (v - shuffled).norm() <= 1e-6 * scale**0.5  # |v|^2 is flat around its minimum: half the digits
    assert abs(v @ v - shuffled @ shuffled) <= 1e-10 * scale


def test_by_faces_two_gradients_weigh_as_by_equation_8():
    """A third one, beyond the shortest combination of both, gets nothing."""
    rows = torch.randn(200, 2, 5, dtype=torch.float64)
    for pair in rows:
        gamma = min_norm_weight(pair[0], pair[1])
        far = torch.cat([pair, 50 * (gamma * pair[0] + (1 - gamma) * pair[1])[None]])
        found = min_norm_weights(far)
        torch.testing.assert_close(found, torch.stack([gamma, 1 - gamma, torch.zeros_like(gamma)]), rtol=0, atol=1e-12)


def test_duplicates_share_the_weight_and_a_zero_gradient_takes_it_all():
    assert min_norm_weights(torch.ones(3, 4)).tolist() == pytest.approx([1 / 3] * 3)
    assert min_norm_weights(torch.ones(1, 4)).tolist() == [1]
    assert min_norm_weights(torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 1.0]])).tolist() == [0, 1, 0]
    assert min_norm_weights(torch.tensor([[4.0, 0.0], [1.0, 0.0], [2.0, 0.0]])).tolist() == [0, 1, 0]


def test_many_gradients_agree_with_torchjd_and_with_a_solver_of_quadratic_programs():
    from scipy.optimize import minimize

    torchjd = pytest.importorskip("torchjd.aggregation")
    # Its Frank-Wolfe converges like 1 / steps, so it comes close only from above.
    theirs = torchjd.MGDA(epsilon=1e-9, max_iters=3000)
    for n, parameters in ((3, 7), (3, 40), (5, 4), (6, 30)):
        rows = torch.randn(n, parameters, dtype=torch.float64) + 0.3
        weights, v, _ = shortest(rows)
        other = theirs(rows)
        assert v.norm() <= other.norm() + 1e-12 and (v - other).norm() < 0.02 * rows.norm(dim=1).max()
        gram = (rows @ rows.T).numpy()
        solved = minimize(
            lambda w, g=gram: w @ g @ w,
            np.full(n, 1 / n),
            jac=lambda w, g=gram: 2 * g @ w,
            bounds=[(0, 1)] * n,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        assert (v @ v).item() <= solved.fun + 1e-12 and weights.numpy() == pytest.approx(solved.x, abs=1e-5)


def test_mgda_of_three_descends_on_all_and_tells_each_weight(monkeypatch):
    monkeypatch.setitem(upper_level.OBJECTIVES, "third", upper_level.OBJECTIVES[NATURAL])
    jacobian = torch.randn(3, 9) + 0.5
    for scaling in ("none", "norm", "loss"):
        level = MGDA(objectives=(NATURAL, ADVERSARIAL, "third"), scaling=scaling)
        _, descent = descends(level, jacobian, torch.tensor([1.0, 2.0, 0.5]))
        assert (descent > 0).all(), level
        told = module._weighed(level, jacobian, level.weigh(jacobian, torch.ones(3)))
        assert {"weight/natural", "weight/adversarial", "weight/third"} < set(told) and "gamma" not in told


def test_one_objective_and_the_sum_of_losses_weigh_by_ones():
    assert SingleObjective().objectives == (ADVERSARIAL,) and SingleObjective(objective=NATURAL).objectives == (NATURAL,)
    assert SingleObjective().weigh(torch.randn(1, 4), torch.ones(1)).tolist() == [1]
    assert SumOfLosses().objectives == MGDA().objectives == (NATURAL, ADVERSARIAL)
    assert SumOfLosses().weigh(torch.randn(2, 4), torch.ones(2)).tolist() == [1, 1]
    assert SumOfLosses(weights=(1.0, 0.25)).weigh(torch.randn(2, 4), torch.ones(2)).tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_strategy("mdga"), "unknown strategy 'mdga'; did you mean 'mgda'"),
        (lambda: MGDA(scaling="norms"), "did you mean 'norm'"),
        (lambda: SingleObjective(objective="clean"), "known: natural, adversarial"),
        (lambda: MGDA(loss_scales=(1.0, 0.0)), "loss_scales"),
        (lambda: MGDA(loss_scales=(1.0,)), "loss_scales are 2 numbers above 0, one for each objective"),
        (lambda: MGDA(objectives=("natural", "adverserial")), "did you mean 'adversarial'"),
        (lambda: MGDA(objectives=()), "at least one objective"),
        (lambda: SumOfLosses(objectives=("natural", "natural")), "each once"),
        (lambda: SumOfLosses(weights=(1.0, -1.0)), "weights are 2 numbers above 0"),
        (lambda: AdvRush(gamma=0.0), "of AdvRush are 2 numbers above 0"),
        (lambda: DSRNA(gamma=-1.0), "of DSRNA are 2 numbers above 0"),
        (lambda: NADAR(rho=0.0), "rho above 0; got 1.0 and 0.0"),
        (lambda: min_norm_weights(torch.ones(11, 2)), "1 to 10 gradients; got 11"),
    ],
)
def test_wrong_upper_levels_are_refused_with_what_is_known(make: Callable[[], Any], said):
    with pytest.raises(WorkbookError) as caught:
        make()
    assert said in str(caught.value)


# --------------------------------------------------------------------------------------------------- stopped and resumed

CONFIGS = {
    "paper": SEARCH,
    "published-code": replace(
        SEARCH,
        stages=(Stage(epochs=2, upper_level=MGDA(loss_scales=(1.0, 0.1)), architecture_lr=0.02),),
        alphas_first=True,
        second_order=True,
        weights_lr_floor=0.001,
        batch_size=12,
    ),
    "rivals": replace(
        SEARCH,
        stages=(
            Stage(epochs=2, upper_level=NADAR(bound=0.5, rho=0.2), architecture_lr=0.02),
            Stage(epochs=1, upper_level=AdvRush(), architecture_lr=0.02),
        ),
    ),
}


def run(searcher: Searcher, folder: Path) -> Searcher:
    for _ in run_epochs(searcher, folder):
        pass
    return searcher


@pytest.fixture(scope="module", params=CONFIGS)
def uninterrupted(request, tmp_path_factory) -> Iterator[tuple[SearchConfig, Searcher, Path]]:
    folder = tmp_path_factory.mktemp("search")
    torch.manual_seed(0)
    yield CONFIGS[request.param], run(search(CONFIGS[request.param]), folder), folder


def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(uninterrupted, tmp_path):
    config, _, folder = uninterrupted
    steps = 2 * 6 // config.batch_size
    # Within the first epoch, at the commit before the last epoch (the change of stage), within the last.
    for stop in (1, (config.epochs - 1) * (steps + 1), 3):
        torch.manual_seed(stop)  # what else happens in the process must not matter
        list(islice(run_epochs(search(config), tmp_path), stop))
    run(search(config), tmp_path)
    assert search_outcome(tmp_path) == search_outcome(folder)


@pytest.mark.parametrize("uninterrupted", ["paper"], indirect=True)
def test_stepped_by_hand_equals_uninterrupted_to_the_bit(uninterrupted, tmp_path):
    """As in a notebook: between the events numbers are drawn, the supernet is looked at, and the loop is begun again."""
    config, _, folder = uninterrupted
    searcher = search(config)
    events = run_epochs(searcher, tmp_path)
    for count, _ in enumerate(events, 1):
        torch.rand(3)
        with torch.no_grad():
            searcher.supernet.eval()(batch(0)[0])
        if count == 4:
            break
    for _ in run_epochs(searcher, tmp_path):
        pass
    assert search_outcome(tmp_path) == search_outcome(folder)


def test_a_search_follows_from_its_seed(tmp_path):
    def first_alphas(seed: int) -> Any:
        searcher = search(seed=seed)
        list(islice(searcher.run_epoch(), 1))
        return alphas_of(searcher), numbers(searcher.weights_half.images)

    torch.manual_seed(1)
    one = first_alphas(3)
    torch.manual_seed(2)
    assert first_alphas(3) == one
    assert first_alphas(4) != one and first_alphas(4)[1] != one[1]


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    list(islice(run_epochs(search(), tmp_path), 1))
    with pytest.raises(WorkbookError, match=r"stages\.1\.epochs: 1 here, 2 there"):
        run(search(replace(SEARCH, stages=(SEARCH.stages[0], replace(SEARCH.stages[1], epochs=2)))), tmp_path)
    with pytest.raises(WorkbookError, match="seed"):
        run(search(seed=1), tmp_path)
    with pytest.raises(WorkbookError, match="images"):
        run(Searcher(toy_data(per_class=10), SEARCH), tmp_path)


# --------------------------------------------------------------------------------------------- what is found and written


def test_alphas_of_every_epoch_are_written_from_the_initialisation_on(uninterrupted):
    config, searcher, folder = uninterrupted
    with np.load(folder / "alphas.npz") as written:
        assert written["operations"].tolist() == list(SPACE.operations)
        assert written["edges"].tolist() == ["0->2", "1->2", "0->3", "1->3", "2->3"]
        fresh = search(config).supernet.alphas
        for kind in SPACE.kinds:
            assert written[kind].shape == (config.epochs + 1, 5, 2)
            assert np.array_equal(written[kind][0], fresh[kind].detach().numpy())
            assert np.array_equal(written[kind][-1], searcher.supernet.alphas[kind].detach().numpy())
            assert not np.array_equal(written[kind][0], written[kind][1])


def test_the_written_genotype_is_that_of_the_chosen_epoch(uninterrupted):
    config, searcher, folder = uninterrupted
    written, rows = Genotype.load(folder / "genotype.json"), read_history(folder).epochs
    scores = [row["validation/adversarial_accuracy"] for row in rows]
    epoch = config.selection(scores)
    assert written.to_dict() == searcher.chosen().to_dict()
    assert written.same_cells(Genotype.from_dict(rows[epoch - 1]["genotype"]))
    assert f"epoch {epoch} of {config.epochs}" in written.source
    for row in rows:
        assert {"entropy/accurate", "entropy/robust", "entropy/reduction", "skips/reduction", "stage"} <= set(row)
        assert 0 <= row["entropy/robust"] <= np.log(2) + 1e-6
    json.dumps(rows)


def test_no_genotype_is_written_or_chosen_before_its_time(tmp_path):
    searcher = search()
    with pytest.raises(WorkbookError, match="no epoch"):
        searcher.chosen()
    list(islice(run_epochs(searcher, tmp_path), 4))  # into the second epoch
    assert (tmp_path / "alphas.npz").exists() and not (tmp_path / "genotype.json").exists()


@pytest.mark.parametrize(
    ("rule", "accuracies", "chosen"),
    [
        (Selection(), [0.3], 1),
        (Selection(), [0.1, 0.2, 0.3, 0.4], 4),
        (Selection(window=1, tolerance=0.0), [0.1, 0.4, 0.3, 0.2], 2),
        (Selection(window=1, tolerance=0.01), [0.3, 0.5, 0.49, 0.48], 3),
        (Selection(window=1, tolerance=0.01), [0.3, 0.5, 0.4899], 2),
        (Selection(window=1, tolerance=0.0), [0.5, 0.5, 0.4], 2),
        (Selection(window=1, tolerance=1.0), [0.9, 0.0], 2),
        # One lucky epoch does not decide: smoothed 0.2, 0.55, 0.43, 0.6, 0.4, 0.4.
        (Selection(window=3, tolerance=0.01), [0.2, 0.9, 0.2, 0.7, 0.3, 0.2], 4),
        # Degradation after a plateau: smoothed ... 0.5, 0.5, 0.43.
        (Selection(window=3, tolerance=0.01), [0.5, 0.5, 0.5, 0.5, 0.3], 4),
    ],
)
def test_the_last_epoch_near_the_best_smoothed_accuracy_is_chosen(rule, accuracies, chosen):
    assert rule(accuracies) == chosen


def cells(skips: int) -> Genotype:
    operations = iter(["skip_connect"] * skips + ["max_pool_3x3"] * (4 - skips))
    nodes = [[[next(operations), 0], [next(operations), 1]] for _ in range(2)]
    rest = [[["sep_conv_3x3", 0], ["sep_conv_3x3", 1]]] * 2
    written = {"schema": 1, "name": "x", "cells": {"accurate": rest, "robust": rest, "reduction": nodes}}
    return Genotype.from_dict(written)


def test_a_collapse_to_identities_is_told_with_its_cell(monkeypatch):
    assert [bool(collapse(cells(skips))) for skips in range(5)] == [False, False, False, True, True]
    sentence = collapse(cells(3))
    assert "3 of the 4 edges of the reduction cell" in sentence and "robust" not in sentence
    searcher = search(replace(SEARCH, batch_size=12))
    monkeypatch.setattr(searcher, "step", Noting())
    with torch.no_grad():
        for alphas in searcher.alphas:
            alphas[:, SPACE.operations.index("skip_connect")] = 5
    list(searcher.run_epoch())
    assert "accurate" in searcher.epoch_metrics()["warning"]
