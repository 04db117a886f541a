"""The figures of the ablations: every number they were given is where it belongs, and ours is never taken for the paper's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color, to_rgba

from dsara_lib import plots
from dsara_lib.errors import WorkbookError
from dsara_lib.legend import BLUE

PAPER = [{"name": "row 6", "natural": 0.8504, "robust": 0.5372}, {"name": "row 7", "natural": 0.8592, "robust": 0.5587}]
OURS = [
    {"name": "row 6", "natural": 0.9, "robust": 0.5, "natural_interval": (0.85, 0.93), "robust_interval": (0.4, 0.6)},
    {"name": "row 7", "natural": 0.92, "robust": 0.55, "natural_interval": (0.88, 0.95), "robust_interval": (0.45, 0.65)},
]
BY_SEED = {0: (-2.0, -6.0, 2.0), 1: (-4.0, -8.0, 0.0)}
FIRST = {"measure": "PGD20", "name": "row 6 − row 7", "value": -3.0, "low": -5.5, "high": -0.5, "by_seed": BY_SEED}
ROWS = [
    FIRST | {"printed": -2.15, "p_value": 0.02},
    {"measure": "natural", "name": "row 6 − row 7", "value": 0.5, "low": -1.0, "high": 2.0, "printed": -0.88, "p_value": 0.0001},
    {"measure": "natural", "name": "row 5 − row 7", "value": None, "printed": -2.76},
]
CASES: dict[str, Callable[[], plots.Figure]] = {
    "ablation_scatter": lambda: plots.ablation_scatter({"digits, 100 test images": OURS}, PAPER),
    "forest": lambda: plots.forest(ROWS, "Rows less the reference"),
}


def marked(ax: Axes, gid: str) -> list[np.ndarray]:
    return [line.get_xydata() for line in ax.lines if line.get_gid() == gid]


def test_the_papers_rows_are_hollow_and_ours_filled_in_a_panel_of_their_own() -> None:
    paper, ours = CASES["ablation_scatter"]().axes
    np.testing.assert_allclose(paper.collections[0].get_offsets(), [[85.04, 53.72], [85.92, 55.87]])
    np.testing.assert_allclose(ours.collections[0].get_offsets(), [[90, 50], [92, 55]])
    assert len(paper.collections[0].get_facecolors()) == 0 and not marked(paper, "interval")
    np.testing.assert_allclose(ours.collections[0].get_facecolors(), [to_rgba(BLUE)])
    assert (paper.get_title("left"), ours.get_title("left")) == ("reported in the paper", "digits, 100 test images")
    for ax in (paper, ours):
        assert {text.get_text() for text in ax.texts if text.get_text()} == {"row 6", "row 7"}


def test_each_of_our_points_has_a_cross_of_its_intervals() -> None:
    crosses = marked(CASES["ablation_scatter"]().axes[1], "interval")
    np.testing.assert_allclose(crosses[0], [[85, 50], [93, 50]])
    np.testing.assert_allclose(crosses[1], [[90, 40], [90, 60]])
    assert len(crosses) == 4


def test_an_interval_of_two_seeds_does_not_push_the_points_together() -> None:
    wide = [row | {"natural_interval": (0.0, 1.0), "robust_interval": (0.0, 1.0)} for row in OURS]
    ax = plots.ablation_scatter({"here": wide}).axes[0]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert right - left < 25 and high - low < 30 and left < 90 < 92 < right <= 104 and low < 50 < 55 < high


def test_protocols_have_panels_of_their_own() -> None:
    titles = [ax.get_title("left") for ax in plots.ablation_scatter({"A": OURS, "B": OURS[:1]}, PAPER).axes]
    assert titles == ["reported in the paper", "A", "B"]
    assert [ax.get_title("left") for ax in plots.ablation_scatter({}, PAPER).axes] == ["reported in the paper"]


def test_accuracies_in_percent_and_empty_panels_are_refused() -> None:
    with pytest.raises(WorkbookError, match=r"\[0, 1\]; row 6 \(here\) has 90"):
        plots.ablation_scatter({"here": [OURS[0] | {"natural": 90}]})
    for panels in ({}, {"here": []}):
        with pytest.raises(WorkbookError, match="at least one row"):
            plots.ablation_scatter(panels)
    with pytest.raises(WorkbookError, match="at least one row"):
        plots.forest([])


def test_forest_has_a_panel_for_each_measure_with_a_line_at_no_difference() -> None:
    figure = CASES["forest"]()
    assert [ax.get_title("left") for ax in figure.axes] == ["PGD20", "natural"]
    for ax in figure.axes:
        assert [set(line[:, 0]) for line in marked(ax, "no difference")] == [{0.0}]
        assert ax.get_xlim()[0] < 0 < ax.get_xlim()[1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["row 6 − row 7", "row 5 − row 7"]


def test_forest_shows_all_seeds_together_each_seed_and_the_papers_difference_hollow() -> None:
    first, second = CASES["forest"]().axes
    np.testing.assert_allclose(marked(first, "pooled"), [[[-3, 0]]])
    np.testing.assert_allclose(marked(first, "interval"), [[[-5.5, 0], [-0.5, 0]]])
    assert [line[0][0] for line in marked(first, "seed")] == [-2, -4]
    assert [line[:, 0].tolist() for line in marked(first, "seed interval")] == [[-6, 2], [-8, 0]]
    assert [line[0][0] for line in marked(second, "paper")] == [-0.88, -2.76]
    hollow = [line for line in second.lines if line.get_gid() == "paper"]
    assert all(line.get_markerfacecolor() == "none" for line in hollow)
    filled = [line for line in second.lines if line.get_gid() == "pooled"]
    assert len(filled) == 1 and same_color(filled[0].get_markerfacecolor(), BLUE)


def test_forest_says_how_sure_a_difference_is_and_never_a_bare_zero() -> None:
    first, second = CASES["forest"]().axes
    assert [text.get_text() for text in first.texts] == ["p = 0.020"]
    assert [text.get_text() for text in second.texts] == ["p < 0.001"]


def test_one_seed_is_not_drawn_twice() -> None:
    ax = plots.forest([FIRST | {"by_seed": {3: (-3.0, -5.5, -0.5)}}]).axes[0]
    assert not marked(ax, "seed") and len(marked(ax, "pooled")) == 1
