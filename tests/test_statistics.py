"""What counts say: McNemar's test against numbers worked out by hand and another way to compute them, and spread over seeds."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation, Paired, mean_and_spread, mean_over_classes, paired, unbalanced

counts = st.integers(0, 300)


def differing(alone: int, other_alone: int, both: int = 0, neither: int = 0) -> Paired:
    return Paired(alone=alone, other_alone=other_alone, both=both, neither=neither)


# -- McNemar -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alone", "other_alone", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (3, 3, 1.0),  # the middle is in both tails
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (7, 1, 2 * (1 + 8) / 256),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 1, 1.0),  # 2 * (1 + 3) / 8
        (4, 1, 2 * (1 + 5) / 32),
    ],
)
def test_p_value_is_that_worked_out_by_hand(alone: int, other_alone: int, p: float):
    assert differing(alone, other_alone).p_value == p


@given(counts, counts)
def test_p_value_is_that_of_the_binomial_test(alone: int, other_alone: int):
    binomtest = pytest.importorskip("scipy.stats").binomtest
    if alone + other_alone:
        expected = binomtest(alone, alone + other_alone, 0.5).pvalue
        assert differing(alone, other_alone).p_value == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(counts, counts, counts, counts)
def test_comparison_is_symmetric_and_ignores_images_both_treat_alike(alone: int, other: int, both: int, neither: int):
    one, two = differing(alone, other, both, neither), differing(other, alone)
    assert one.p_value == two.p_value and 0 <= one.p_value <= 1
    opposite = {"better": "worse", "worse": "better", "no evidence": "no evidence"}
    assert two.verdict == opposite[one.verdict]


@given(counts, counts)
def test_the_more_uneven_the_less_likely(alone: int, other: int):
    more, fewer = max(alone, other), min(alone, other)
    assert differing(more + 1, fewer).p_value <= differing(more, fewer).p_value
    if more > fewer:
        assert differing(more, fewer).p_value <= differing(more, fewer + 1).p_value


def test_huge_counts_do_not_overflow():
    assert 0 < differing(5100, 4900).p_value < 0.05  # 2**10000 is no float
    assert differing(10_000, 0).p_value == 0 and differing(10_000, 0).verdict == "better"
    assert differing(5000, 5000).p_value == 1
    # Two standard deviations from the middle: the normal distribution's share with a correction for whole counts.
    p = differing(5100, 4900).p_value
    assert p == pytest.approx(math.erfc(199 / math.sqrt(10_000) / math.sqrt(2)), rel=1e-3)


@pytest.mark.parametrize(
    ("alone", "other", "verdict"),
    [(6, 0, "better"), (0, 6, "worse"), (5, 0, "no evidence"), (9, 1, "better"), (8, 2, "no evidence"), (0, 0, "no evidence")],
)
def test_better_is_said_at_five_percent(alone: int, other: int, verdict: str):
    assert differing(alone, other).verdict == verdict


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_images_are_counted(pairs: list[tuple[bool, bool]]):
    found = paired(torch.tensor([one for one, _ in pairs]), torch.tensor([other for _, other in pairs]))
    assert (found.alone, found.other_alone) == (pairs.count((True, False)), pairs.count((False, True)))
    assert (found.both, found.neither) == (pairs.count((True, True)), pairs.count((False, False)))


@pytest.mark.usefixtures("without_shape_check")
def test_other_numbers_of_images_are_refused():
    with pytest.raises(WorkbookError, match="needs the same images; got 3 and 4"):
        paired(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))


# -- several seeds -----------------------------------------------------------------------------------------------------


def test_mean_and_spread_are_those_worked_out_by_hand():
    assert mean_and_spread([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3)))
    assert mean_and_spread([0.5, 0.5]) == (0.5, 0.0)
    assert mean_and_spread([0.7]) == (0.7, 0.0)
    with pytest.raises(WorkbookError, match="at least one value"):
        mean_and_spread([])


values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9)


@given(values, st.floats(-10, 10))
def test_spread_ignores_a_shift_and_the_order(drawn: list[float], shift: float):
    mean, spread = mean_and_spread(drawn)
    assert (mean, spread) == pytest.approx((statistics.fmean(drawn), math.sqrt(statistics.variance(drawn))), abs=1e-9)
    moved = mean_and_spread([value + shift for value in reversed(drawn)])
    assert moved == pytest.approx((mean + shift, spread), abs=1e-9)
    assert min(drawn) - 1e-9 <= mean <= max(drawn) + 1e-9 and spread >= 0


# -- unbalanced classes ------------------------------------------------------------------------------------------------


def evaluation(labels: list[int], predictions: list[int], classes: int = 2) -> Evaluation:
    names = tuple(f"class {i}" for i in range(classes))
    found = {"natural": torch.tensor(predictions), "PGD20": torch.tensor(predictions[:4])}
    return Evaluation(network="n", data="d", eps=0.1, classes=names, labels=torch.tensor(labels), predictions=found)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60))
def test_balanced_accuracy_is_the_mean_of_the_classes_that_are_there(drawn: list[tuple[int, bool]]):
    labels, right = (torch.tensor(each) for each in zip(*drawn, strict=True))
    by_class = [[hit for label, hit in drawn if label == each] for each in {label for label, _ in drawn}]
    expected = statistics.fmean(statistics.fmean(hits) for hits in by_class)
    assert math.isclose(mean_over_classes(right, labels), expected, abs_tol=1e-12)


def test_one_answer_to_all_is_worth_the_largest_class_and_balanced_no_more_than_any_answer():
    one = evaluation([0] * 80 + [1] * 20, [0] * 100)
    assert one.unbalanced and one.accuracy() == pytest.approx(0.8) and one.balanced_accuracy() == 0.5
    assert one.guessing == 0.8 and [row["balanced_accuracy"] for row in one.rows()] == [0.5, 1.0]
    even = evaluation([0, 1] * 30, [0] * 60)
    assert not even.unbalanced and even.guessing == 0.5 and even.balanced_accuracy() == even.accuracy()


@pytest.mark.parametrize(
    ("counts", "is_so"),
    [
        ([50, 50], False),
        ([80, 20], True),
        ([60, 41], False),  # less than 1.5 times
        ([4, 2], False),  # so few say nothing
        ([35, 20, 28, 31, 24, 27, 30, 26, 33, 25], False),  # 279 images drawn from equal classes
        ([350, 200, 280, 310, 240, 270, 300, 260, 330, 250], True),
        ([1] * 120 + [0] * 880, False),  # a few images of a thousand equal classes
        ([30] * 500 + [3] * 500, True),
    ],
)
def test_classes_are_unbalanced_where_they_differ_by_half_and_by_more_than_chance(counts: list[int], is_so: bool):
    assert unbalanced(torch.tensor(counts)) is is_so
