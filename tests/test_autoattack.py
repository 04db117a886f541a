"""AutoAttack against its papers: random numbers, DLR loss, Auto-PGD, FAB's hyperplanes, Square's schedule, the cascade."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dsara_lib.attacks import APGD, APGDT, FABT, PGD, AutoAttack, Draws, Square
from dsara_lib.attacks.apgd import _check_step, on_the_sphere, targeted_dlr
from dsara_lib.attacks.base import Rows, errs
from dsara_lib.attacks.fab import to_hyperplane
from dsara_lib.attacks.square import margins
from dsara_lib.errors import WorkbookError

BRIEF: dict[str, Any] = {"steps": 8, "targets": 2, "queries": 30}
EPS = 0.07


def small_model(classes: int = 4) -> nn.Module:
    """Kinks, curves and pooling, in float64 so that no rounding decides."""
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.Tanh(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(72, classes)).double().eval()


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A model that has learnt ten patterns in noise, and images: some wrong, some easily fooled, some never."""
    torch.manual_seed(3)
    patterns, labels = torch.rand(10, 3, 8, 8), torch.arange(10).repeat(12)
    images = (0.2 + 0.6 * patterns[labels] + 0.25 * torch.randn(120, 3, 8, 8)).clamp(0, 1).double()
    model = small_model(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(images[40:]), labels[40:]).backward()
        optimizer.step()
    return model.requires_grad_(False), images[:40], labels[:40]


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """How many images each forward pass has held."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        yield seen
    finally:
        handle.remove()


# -- random numbers ----------------------------------------------------------------------------------------------------

WORD = 2**64


def split_mix(state: int) -> int:
    """One output of SplitMix64 in Python's whole numbers, as Vigna publishes it."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_reference_gives_the_published_numbers():
    assert split_mix(0) == 0xE220A8397B1DCDAF
    assert split_mix(1234567) == 6457827717110365317


@given(st.integers(0, 2**62), st.integers(0, 2**31), st.integers(0, 10_000))
def test_draws_are_split_mix(seed: int, number: int, first: int):
    gamma = 0x9E3779B97F4A7C15
    drawn = Draws(seed, torch.tensor([number])).uniform(3, first)[0].tolist()
    key = split_mix((split_mix((number * gamma + seed - gamma) % WORD) - gamma) % WORD)
    stream = [split_mix((key + step * gamma) % WORD) for step in range(first, first + 3)]
    assert drawn == [(value >> 40) / 2**24 for value in stream]


def test_draws_are_uniform():
    values = Draws.of(5, torch.empty(100, 0)).uniform(1000)
    assert values.min() >= 0 and values.max() < 1
    ends = torch.linspace(0, 1, 21)
    assert torch.allclose(torch.quantile(values.flatten(), ends), ends, atol=0.004)
    rows = values.sum(dim=1)  # each image's stream by itself: mean 500, deviation sqrt(1000 / 12)
    assert (rows - 500).abs().max() < 4.5 * math.sqrt(1000 / 12)


def test_draws_of_neighbours_are_not_correlated():
    values = Draws.of(5, torch.empty(100, 0)).uniform(1000) - 0.5
    other = Draws.of(6, torch.empty(100, 0)).uniform(1000) - 0.5
    keyed = Draws.of(5, torch.empty(100, 0)).keyed("other").uniform(1000) - 0.5
    pairs = {
        "images": (values[:-1], values[1:]),
        "counters": (values[:, :-1], values[:, 1:]),
        "diagonal": (values[:-1, 1:], values[1:, :-1]),
        "seeds": (values, other),
        "keys": (values, keyed),
        "seed and image": (values[1:], other[:-1]),
    }
    for name, (one, two) in pairs.items():
        correlation = 12 * (one * two).mean().item()
        assert abs(correlation) < 4.5 / math.sqrt(one.numel()), name
        assert (one == two).float().mean() < 1e-4, name


@given(st.integers(0, 40), st.integers(0, 40), st.permutations(range(6)))
def test_a_slice_of_the_stream_is_that_of_the_whole(first: int, count: int, order: list[int]):
    draws = Draws.of(9, torch.empty(6, 0), first=3)
    whole, kept = draws.uniform(80), torch.tensor(order)
    assert torch.equal(draws.uniform(count, first), whole[:, first : first + count])
    assert torch.equal(draws[kept].uniform(80), whole[kept])
    assert torch.equal(draws[kept].keyed("a", 1).uniform(5), draws.keyed("a", 1).uniform(5)[kept])


def test_noise_is_the_same_in_every_precision():
    like = torch.empty(3, 2, 4, 4)
    single, double = Draws.of(1, like).noise(like), Draws.of(1, like).noise(like.double())
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(single.double(), double) and single.min() >= -1 and single.max() < 1


# -- the targeted DLR loss ---------------------------------------------------------------------------------------------

logits_of = st.integers(2, 10).flatmap(
    lambda classes: st.tuples(
        st.lists(st.integers(-1000, 1000), min_size=classes, max_size=classes, unique=True),
        st.permutations(range(classes)),
    )
)


@given(logits_of)
def test_targeted_dlr_is_its_formula(drawn: tuple[list[int], list[int]]):
    values, (label, target, *_) = drawn
    logits = [value / 100 for value in values]
    best = sorted(logits, reverse=True)
    scale = {2: 1.0, 3: best[0] - best[-1]}.get(len(best)) or best[0] - (best[2] + best[3]) / 2
    expected = -(logits[label] - logits[target]) / scale
    found = targeted_dlr(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]), torch.tensor([target]))
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(logits_of, st.floats(-50, 50), st.floats(0.01, 100))
def test_targeted_dlr_is_indifferent_to_shift_scale_and_names(drawn: tuple[list[int], list[int]], shift: float, scale: float):
    values, order = drawn
    logits, place = torch.tensor([values], dtype=torch.float64) / 100, torch.tensor(order)
    label, target = place[:1], place[1:2]
    found = targeted_dlr(logits, label, target).item()
    assert (found > 0) == (logits[0, target] > logits[0, label]).item()
    assert targeted_dlr(logits + shift, label, target).item() == pytest.approx(found, rel=1e-6)
    if len(values) > 2:
        assert targeted_dlr(logits * scale, label, target).item() == pytest.approx(found, rel=1e-6)
    named = targeted_dlr(logits[:, place], torch.tensor([0]), torch.tensor([1]))
    assert named.item() == pytest.approx(found, rel=1e-12)


# -- Auto-PGD ----------------------------------------------------------------------------------------------------------


def textbook_auto_pgd(
    model: nn.Module, image: Tensor, start: Tensor, loss: Any, eps: float, steps: int
) -> tuple[Tensor, float, bool]:
    """Algorithm 1 of Croce and Hein, one image and one line after another: the best point, the last step, whether it fooled.

    Where paper and authors' code differ it follows the code: exactly three quarters of rising steps are too few, and the first
    rise after a restart from the best point is counted from the point before it.
    """

    def look(x: Tensor) -> tuple[float, Tensor, bool]:
        x = x.clone().requires_grad_()
        value, fooled = loss(model(x[None]))
        return value.item(), torch.autograd.grad(value, x)[0], fooled

    def inside(x: Tensor) -> Tensor:
        return (image + (x - image).clamp(-eps, eps)).clamp(0, 1)

    shares, checks = [0.0, 0.22], []
    while shares[-1] <= 1:
        checks.append(math.ceil(round(shares[-1] * steps, 9)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    x, step = start, 2 * eps
    value, gradient, any_fooled = look(x)
    best, best_value, best_gradient = x, value, gradient
    previous, values, bests, halved, last_check = x, [value], [value], False, 0
    for k in range(1, steps + 1):
        z = inside(x + step * gradient.sign())
        following = z if k == 1 else inside(x + 0.75 * (z - x) + 0.25 * (x - previous))
        previous, x = x, following
        value, gradient, fooled = look(x)
        any_fooled |= fooled
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        bests.append(best_value)
        if k in checks:
            rises = sum(values[i + 1] > values[i] for i in range(last_check, k))
            too_few = rises <= 0.75 * (k - last_check)
            stuck = not halved and bests[last_check] == best_value
            halved = too_few or stuck
            if halved:
                step, x, gradient = step / 2, best, best_gradient
            last_check = k
    return best, step, any_fooled


@pytest.mark.parametrize("kind", [APGD, APGDT])
def test_auto_pgd_is_the_textbooks(kind: Any):
    torch.manual_seed(0)
    model, images, noise = small_model(), torch.rand(8, 3, 8, 8).double(), torch.rand(8, 3, 8, 8).double() * 2 - 1
    images[0], images[1] = 0, 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4  # a bumpy loss,
        model[-1].weight *= 0.1
        model[-1].bias[0] += 2  # and one class that is hard to leave
    labels, targets = model(images).topk(2, dim=1).indices.unbind(1)
    eps = 0.04
    attack = APGD(eps=eps) if kind is APGD else APGDT(eps=eps, targets=1)
    attacked = attack(model, images, labels, noise=noise)
    same, steps = 0, set()
    for i in range(8):

        def loss(logits: Tensor, i: int = i) -> tuple[Tensor, bool]:
            fooled = bool(logits.argmax() != labels[i])
            if kind is APGD:
                return -logits.log_softmax(dim=1)[0, labels[i]], fooled
            order = logits[0].sort(descending=True).values
            gap = logits[0, labels[i]] - logits[0, targets[i]]
            return -gap / (order[0] - (order[2] + order[3]) / 2), fooled

        start = (images[i] + eps * noise[i] / noise[i].abs().max()).clamp(0, 1)
        best, step, fooled = textbook_auto_pgd(model, images[i], start, loss, eps, 100)
        if fooled:
            assert model(attacked[i : i + 1]).argmax() != labels[i]
        else:
            same += 1
            steps.add(step)
            assert torch.allclose(attacked[i], best, rtol=0, atol=1e-9)
    assert same >= 5 and min(steps) < eps / 4 and len(steps) > 1  # halved, and for each image in its own time


@pytest.mark.parametrize(
    ("rises", "halved", "improved", "halves"),
    # Of 16 steps more than 12 have to rise; and once in two looks at the step the best has to become better.
    [(12, False, True, True), (13, False, True, False), (13, False, False, True), (13, True, False, False), (12, True, True, True)],
)
def test_step_is_halved_where_too_few_steps_rise_or_none_to_a_new_best(rises: int, halved: bool, improved: bool, halves: bool):
    one = torch.ones(1, 1, 1, 1)
    rows = Rows(x=one, best=2 * one, gradient=3 * one, best_gradient=4 * one, step=8 * one)
    rows.rises, rows.halved = torch.tensor([rises]), torch.tensor([halved])
    rows.loss_at_check, rows.best_loss = torch.zeros(1), torch.tensor([float(improved)])
    _check_step(rows, 16)
    found = [tensor.item() for tensor in (rows.step, rows.x, rows.gradient, rows.halved, rows.rises, rows.loss_at_check)]
    assert found == [*((4, 2, 4) if halves else (8, 1, 3)), halves, 0, improved]


def test_noise_is_stretched_to_the_sphere():
    noise = torch.rand(5, 3, 4, 4) - 0.5
    noise[4] = 0
    stretched = on_the_sphere(noise, 0.3)
    assert torch.allclose(stretched[:4].abs().amax(dim=(1, 2, 3)), torch.full((4,), 0.3)) and not stretched[4].any()
    assert torch.equal(stretched.sign(), noise.sign())


def test_images_leave_as_soon_as_they_fool(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    for attack in (APGD(eps=EPS, steps=8), PGD(eps=EPS, step_size=EPS / 4, steps=8, early_stop=True)):
        with counted(model) as passes:
            attacked = attack(model, images, labels, seed=0)
        fooled = errs(model, attacked, labels)
        assert passes == sorted(passes, reverse=True) and 0 < passes[-1] < passes[0] == len(images)
        assert passes[-1] >= (~fooled).sum()


def test_early_stop_fools_whatever_any_iterate_does(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    attack = PGD(eps=EPS, step_size=EPS / 2, steps=6)
    ever = torch.zeros(len(images), dtype=torch.bool)
    for _, iterate, _ in attack.iterates(model, images, labels, seed=4):
        ever |= errs(model, iterate, labels)
    stopped = replace(attack, early_stop=True)(model, images, labels, seed=4)
    assert torch.equal(errs(model, stopped, labels), ever)
    whole = attack(model, images, labels, seed=4)
    assert torch.allclose(stopped[~ever], whole[~ever], rtol=0, atol=1e-12)


def test_iterates_of_a_long_pgd_are_the_results_of_short_ones(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    attack = PGD(eps=EPS, step_size=EPS / 4, steps=5)
    (_, before, nothing), *others = attack.iterates(model, images, labels, seed=1)
    assert nothing is None and len(others) == 5
    for step, iterate, logits in others:
        assert torch.equal(iterate, replace(attack, steps=step)(model, images, labels, seed=1))
        assert torch.equal(logits, model(before))
        before = iterate


# -- FAB ---------------------------------------------------------------------------------------------------------------

coordinates = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=size, max_size=size),
        st.lists(st.floats(-5, 5).filter(lambda w: w == 0 or abs(w) > 1e-3), min_size=size, max_size=size),
    )
)


def moved(drawn: tuple[list[float], list[float]], share: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Points, normal, room, an offset that is this share of what the box allows, and the displacement."""
    points, normal = (torch.tensor([each], dtype=torch.float64) for each in drawn)
    signed = normal if share >= 0 else -normal
    room = torch.where(signed > 0, 1 - points, points) * (normal != 0)
    offset = (normal.abs() * room).sum(dim=1) * share
    return points, normal, room, offset, to_hyperplane(points, normal, offset)


@given(coordinates, st.floats(-1, 1))
def test_way_to_the_hyperplane_is_the_shortest_among_images(drawn: tuple[list[float], list[float]], share: float):
    points, normal, room, offset, way = moved(drawn, share)
    assert ((points + way) >= -1e-12).all() and ((points + way) <= 1 + 1e-12).all()
    assert (normal * way).sum().item() == pytest.approx(offset.item(), rel=1e-9, abs=1e-12)
    low, high = 0.0, 1.0  # bisection for the least length with which the box reaches the plane
    for _ in range(60):
        middle = (low + high) / 2
        enough = (normal.abs() * room.clamp(max=middle)).sum() >= offset.abs()
        low, high = (low, middle) if enough else (middle, high)
    assert way.abs().max().item() == pytest.approx(high, rel=1e-6, abs=1e-9) or not offset.any()


@given(coordinates, st.floats(1.001, 10), st.sampled_from([-1, 1]))
def test_where_no_image_lies_on_the_hyperplane_all_go_as_far_as_they_can(
    drawn: tuple[list[float], list[float]], beyond: float, sign: int
):
    points, normal, room, offset, _ = moved(drawn, float(sign))
    way = to_hyperplane(points, normal, offset * beyond)
    if offset.abs() > 1e-9:
        assert torch.allclose(way, normal.sign() * sign * room, rtol=0, atol=1e-12)


def test_without_a_slope_or_a_distance_nothing_moves():
    points, zero = torch.rand(2, 5), torch.zeros(2, 5)
    assert not to_hyperplane(points, zero, torch.tensor([1.0, -1.0])).any()
    assert not to_hyperplane(points, torch.randn(2, 5), torch.zeros(2)).any()


def test_hyperplane_of_many_pixels_is_reached_in_a_few_steps(monkeypatch: pytest.MonkeyPatch):
    points, normal = torch.rand(16, 3072).mul(1.4).sub(0.2).clamp(0, 1), torch.randn(16, 3072)
    room = torch.where(normal > 0, 1 - points, points)
    calls, minimum = [], torch.minimum
    monkeypatch.setattr(torch, "minimum", lambda *given: (calls.append(1), minimum(*given))[1])
    for share in (1e-3, 0.05, 0.5, 0.99, 1.01):
        calls.clear()
        to_hyperplane(points, normal, (normal.abs() * room).sum(dim=1) * share)
        assert len(calls) < 30


@pytest.fixture
def line() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model in float64, grey images, its own labels, and how far in linf the nearest other class is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double()
    images = 0.5 + 0.1 * torch.rand(6, 3, 4, 4).double()
    logits, weight = model(images).detach(), model[1].weight.detach()
    labels = logits.argmax(dim=1)
    lengths = (weight[None] - weight[labels][:, None]).abs().sum(dim=2)
    distances = (logits.gather(1, labels[:, None]) - logits) / lengths.clamp_min(1e-12)
    return model, images, labels, distances.scatter(1, labels[:, None], math.inf).amin(dim=1)


@pytest.mark.parametrize(("share", "steps", "found"), [(1.06, 1, True), (1.01, 1, False), (1.01, 2, True), (0.999, 30, False)])
def test_fab_finds_the_boundary_of_a_linear_model(line: Any, share: float, steps: int, found: bool):
    model, images, labels, distances = line
    for i, distance in enumerate(distances.tolist()):
        x, y = images[i : i + 1], labels[i : i + 1]
        attacked = FABT(eps=share * distance, steps=steps, targets=4)(model, x, y)
        assert bool(model(attacked).argmax(dim=1) != y) == found
        assert torch.equal(attacked, x) != found


def test_fab_ends_in_the_ball_with_what_fools_or_where_it_began(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    attacked = FABT(eps=EPS, steps=10, targets=3)(model, images, labels)
    fooled = errs(model, attacked, labels)
    assert (attacked - images).abs().max() <= EPS + 1e-15 and attacked.min() >= 0 and attacked.max() <= 1
    assert torch.equal(attacked[~fooled], images[~fooled]) and fooled.any() and not fooled.all()


# -- Square ------------------------------------------------------------------------------------------------------------

# The authors' table: side of the square in 32x32 until so many of 10,000 queries, of which AutoAttack spends 5,000.
SIDES = {10: 29, 50: 20, 200: 14, 500: 10, 1000: 7, 2000: 5, 4000: 4, 6000: 3}


def test_squares_shrink_as_published():
    square = AutoAttack().parts()["Square"]
    assert square == Square() == Square(queries=5000, schedule=10_000, first_share=0.8)
    for query in range(5000):
        side = next(side for until, side in SIDES.items() if query <= until)
        assert square.side(query, 32, 32) == side, query  # type: ignore[attr-defined]
    short = replace(square, schedule=1000)  # type: ignore[type-var]
    assert [short.side(query, 32, 32) for query in (1, 2, 5, 6, 999)] == [29, 20, 20, 14, 1]  # type: ignore[attr-defined]
    assert Square().side(0, 4, 30) == 4


def test_margin_never_rises_with_more_queries(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    before = torch.full((len(images),), math.inf, dtype=torch.float64)
    for queries in (1, 2, 3, 8, 33, 34, 70):
        attacked = Square(eps=EPS, queries=queries)(model, images, labels, seed=2)
        margin = margins(model(attacked), labels)
        assert (margin <= before + 1e-12).all()
        moved = (attacked - images).abs()
        at_border = (attacked == 0) | (attacked == 1)
        assert ((moved - EPS).abs() < 1e-12)[~at_border].all()  # always plus or minus eps
        before = margin
    assert 0 < (before < 0).sum() < len(images)


def test_square_asks_no_more_than_it_may(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    for queries in (1, 5, 40):
        with counted(model) as passes:
            attacked = Square(eps=EPS, queries=queries)(model, images, labels, seed=2)
        assert len(passes) == queries and passes == sorted(passes, reverse=True)
        assert passes[-1] >= (~errs(model, attacked, labels)).sum()


def test_margin_is_the_gap_to_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert margins(logits, torch.tensor([0, 2])).tolist() == [1.0, -4.0]


# -- the cascade -------------------------------------------------------------------------------------------------------


def test_autoattack_is_the_union_of_its_parts(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    cascade = AutoAttack(eps=EPS, steps=3, targets=3, queries=60)
    attacked = cascade(model, images, labels, seed=7)
    wrong = errs(model, images, labels)
    assert torch.equal(attacked[wrong], images[wrong]) and wrong.any()  # already wrong: returned as they are
    left, alone, counts = ~wrong, wrong.clone(), []
    for part in cascade.parts().values():
        found = part(model, images, labels, seed=7)
        fooled = errs(model, found, labels)
        alone |= fooled
        assert torch.allclose(attacked[left & fooled], found[left & fooled], rtol=0, atol=1e-12)
        left &= ~fooled
        counts.append(int(left.sum()))
    assert torch.equal(errs(model, attacked, labels), alone)
    assert torch.allclose(attacked[left], found[left], rtol=0, atol=1e-12)
    assert counts[0] > counts[-1] > 0


def test_verdicts_do_not_depend_on_batches_or_order(trained: tuple[nn.Module, Tensor, Tensor]):
    model, images, labels = trained
    attack, draws = AutoAttack(eps=EPS, **BRIEF), Draws.of(7, images)
    whole = attack(model, images, labels, seed=7)
    for parts in (torch.arange(40).split(1), torch.arange(40).split(7), (torch.randperm(40),), (torch.arange(39, -1, -3),)):
        for kept in parts:
            assert torch.allclose(attack(model, images[kept], labels[kept], seed=draws[kept]), whole[kept], rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_few_classes_are_enough(classes: int):
    model, images = small_model(classes), torch.rand(6, 3, 8, 8).double()
    labels = model(images).argmax(dim=1)
    small, large = (AutoAttack(eps=eps, **BRIEF | {"targets": 9})(model, images, labels, seed=0) for eps in (1e-4, 1.0))
    assert not errs(model, small, labels).any() and errs(model, large, labels).all()


def test_useless_budgets_are_refused():
    for setting in ("steps", "targets", "queries"):
        with pytest.raises(WorkbookError, match=f"{setting} is a whole number of at least 1; got 0"):
            AutoAttack(**{setting: 0})
    with pytest.raises(WorkbookError, match="eps is a radius"):
        AutoAttack(eps=8)
    with pytest.raises(WorkbookError, match="first_share"):
        Square(first_share=0.0)


# -- nothing counts that the original network does not confirm ---------------------------------------------------------


class Lying(nn.Module):
    """Stands in for a badly prepared network: takes something from the true class's logit of the original, which errs less."""

    def __init__(self, original: nn.Module, labels: Tensor, taken: float):
        super().__init__()
        self.__dict__["original"] = original
        self.labels, self.taken = labels, taken

    def forward(self, images: Tensor) -> Tensor:
        return self.original(images) - self.taken * F.one_hot(self.labels[:1], 5)


STOPPING = {
    "PGD-any": (PGD(eps=EPS, step_size=EPS / 4, steps=6, early_stop=True), 6),
    "APGD-CE": (APGD(eps=EPS, steps=6), 7),
    "Square": (Square(eps=EPS, queries=20), 20),
}


@pytest.mark.parametrize("name", STOPPING)
def test_who_only_fools_the_prepared_network_is_attacked_on(name: str, line: Any):
    attack, passes_in_all = STOPPING[name]
    original, images, labels, _ = line
    with torch.no_grad():
        original[1].bias[labels[0]] += 100  # nothing fools it
    labels = labels[:1].expand(6)
    lying = Lying(original, labels, 200)  # nothing but errors
    with counted(lying) as passes:
        attacked = attack(lying, images, labels, seed=0)
    assert passes == passes_in_all * [6]
    assert not errs(lying, attacked, labels).any() and (lying(attacked).argmax(dim=1) != labels).all()


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=EPS, step_size=EPS / 20, steps=60, early_stop=True),
        APGD(eps=EPS, steps=10),
        APGDT(eps=EPS, steps=10, targets=4),
        AutoAttack(eps=EPS, **BRIEF | {"targets": 4}),
    ],
)
def test_who_fools_the_prepared_network_first_goes_on_until_the_original_errs(attack: Any, line: Any):
    original, images, labels, distances = line
    fooled = 0
    for i, distance in enumerate(distances.tolist()):
        x, y = images[i : i + 1], labels[i : i + 1]
        logits = original(x).topk(2).values[0]
        lying = Lying(original, y, 0.5 * (logits[0] - logits[1]).item())  # its boundary is half as far
        just = replace(attack, eps=1.5 * distance)
        just = replace(just, step_size=distance / 20) if hasattr(just, "step_size") else just
        attacked = just(lying, x, y, seed=0)
        fooled += int(original(attacked).argmax(dim=1) != y)
    assert fooled == len(images)


def test_fab_takes_no_point_that_the_original_does_not_confirm(line: Any):
    original, images, labels, _distances = line
    labels = labels[:1].expand(6)
    with torch.no_grad():
        original[1].bias[labels[0]] += 100
    assert torch.equal(FABT(eps=EPS, steps=5, targets=4)(Lying(original, labels, 100), images, labels), images)


def test_prepared_networks_verdict_is_the_originals(trained: tuple[nn.Module, Tensor, Tensor]):
    prepare = pytest.importorskip("dsara_lib.architecture.prepared").prepare
    model, images, labels = trained
    attack = AutoAttack(eps=EPS, **BRIEF)
    prepared = prepare(model, images)
    assert prepared.original is model
    one, other = attack(prepared, images, labels, seed=7), attack(model, images, labels, seed=7)
    assert torch.equal(errs(model, one, labels), errs(model, other, labels))
    assert torch.allclose(one, other, rtol=0, atol=1e-6)
