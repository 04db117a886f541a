"""Figures of robustness draw the numbers they are given, say what a colour says, and keep their words apart and inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.text import Annotation, Text

from dsara_lib import plots
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation
from dsara_lib.legend import VERMILLION, darker
from dsara_lib.plots import base, robustness
from dsara_lib.plots.robustness import CASCADE

CLASSES = ("plane", "car", "bird", "cat")


def evaluation(network: str, wrong: dict[str, int], images: int = 40, classes: Sequence[str] = CLASSES) -> Evaluation:
    """So many of the first images are taken for the next class under each attack."""
    labels = torch.arange(images) % len(classes)
    predictions = {}
    for attack, number in wrong.items():
        predictions[attack] = labels.clone()
        predictions[attack][:number] = (labels[:number] + 1) % len(classes)
    found = {"labels": labels, "predictions": predictions}
    return Evaluation(network=network, data="toy", eps=8 / 255, classes=tuple(classes), **found)


FALLING = dict(zip(CASCADE, (4, 16, 20, 20, 22), strict=True))
FOUND, OTHER = evaluation("found", FALLING), evaluation("other", dict.fromkeys(("natural", "AutoAttack"), 40))
MANY = evaluation("many", {"natural": 100, "PGD20": 330}, 600, [f"class {i}" for i in range(200)])
STEPS = list(range(121))
TRACES = {
    "level": {
        "steps": STEPS,
        "accuracy": [0.5 + 0.4 * math.exp(-s / 5) for s in STEPS],
        "loss": [2 - math.exp(-s / 5) for s in STEPS],
    },
    "rising": {"steps": STEPS, "accuracy": [0.9 - s / 200 for s in STEPS], "loss": [1 + s / 100 for s in STEPS]},
}
GRID = np.linspace(-16, 16, 17) / 255
SLOPE = 1 + 20 * GRID[:, None] + 0 * GRID[None]
PAIRS = [
    {
        "one": "found",
        "other": "a long name",
        "attack": attack,
        "alone": alone,
        "other_alone": other,
        "both": 50,
        "neither": 1000,
        "p_value": p,
    }
    for attack, alone, other, p in (("natural", 30, 25, 0.059), ("PGD20", 180, 90, 1e-7), ("AutoAttack", 0, 6, 0.049))
]
SEEDS = [
    {"network": "found", "attack": "natural", "values": [0.80, 0.82, 0.84]},
    {"network": "other", "attack": "natural", "values": [0.81]},
    {"network": "found", "attack": "PGD20", "values": [0.5, 0.5]},
]


def check(name: str, verdict: str, number: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, verdict=verdict, number=number, sentence="Something was looked at.")


BOARDS = {
    "found": [check("more steps", "pass", "51.2 → 51.1"), check("large eps", "fail", "12 %"), check("noise", "skipped")],
    "other": [check("large eps", "warn", "0.3 %")],
}
IMAGES = torch.full((6, 3, 6, 6), 0.5)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
TAKEN = torch.tensor([1, 1, 3, 0, 0, 2])  # four fell: the first, third, fourth and last
MARGINS = torch.tensor([0.5, -9.0, 3.0, 2.0, -8.0, 1.0])


def worst(count: int = 3, **changed: Any) -> plots.Figure:
    given = {"labels": LABELS, "margins": MARGINS, "predicted": TAKEN} | changed
    return plots.worst_images(IMAGES, IMAGES + 0.1, classes=CLASSES, eps=0.1, count=count, **given)


CASES: dict[str, Callable[[], plots.Figure]] = {
    "cascade": lambda: plots.cascade([FOUND, OTHER]),
    "attack_steps": lambda: plots.attack_steps(TRACES, "PGD", 8 / 255, 1000),
    "worst_images": worst,
    "per_class": lambda: plots.per_class([FOUND, OTHER]),
    "confusion": lambda: plots.confusion(FOUND, "AutoAttack"),
    "loss_surface": lambda: plots.loss_surface(GRID, GRID, SLOPE, 8 / 255, SLOPE > 1.5),
    "soundness_board": lambda: plots.soundness_board(BOARDS),
    "paired": lambda: plots.paired(PAIRS, 8 / 255),
    "spread": lambda: plots.spread(SEEDS, 8 / 255, 1000),
}
EDGES: dict[str, Callable[[], plots.Figure]] = {
    "cascade of one": lambda: plots.cascade([FOUND]),
    "cascade where nothing is left": lambda: plots.cascade([evaluation("all fooled", dict.fromkeys(CASCADE, 1), 1)] * 4),
    "one step": lambda: plots.attack_steps({"found": {"steps": [0, 1], "accuracy": [1, 0], "loss": [1, 2]}}),
    "one image": lambda: worst(1),
    "one class of two missing": lambda: plots.per_class(evaluation("one", {"natural": 0}, 1, ("a", "b"))),
    "200 classes": lambda: plots.per_class(MANY),
    "confusion of 200 classes": lambda: plots.confusion(MANY, "PGD20"),
    "confusion of two, one missing": lambda: plots.confusion(evaluation("one", {"natural": 1}, 1, ("a", "b")), "natural"),
    "flat and all wrong": lambda: plots.loss_surface(GRID, GRID, 0 * SLOPE, 0.1, SLOPE > -9),
    "board of one": lambda: plots.soundness_board({"found": BOARDS["found"][:1]}),
    "one image, paired": lambda: plots.paired([PAIRS[0] | {"alone": 0, "other_alone": 0, "both": 1, "neither": 0}]),
    "one seed": lambda: plots.spread(SEEDS[1:2]),
}


def written(figure: plots.Figure) -> Iterator[Text]:
    """All words that are seen; ticks outside of an axis's view are not."""
    yield from (text for legend in figure.legends for text in legend.get_texts())
    yield from figure.texts
    for ax in (ax for ax in figure.axes if ax.axison):
        yield from ax.texts
        yield from (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label)
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            yield from (
                tick for at, tick in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False) if low <= at <= high
            )


def titles(figure: plots.Figure) -> str:
    said = [ax.get_title("left") for ax in figure.axes] + [figure.get_suptitle(), figure.get_supxlabel()]
    return " ".join(" ".join(said).split())


def words(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_each_figure_has_a_case_and_is_exported() -> None:
    public = {name for name, each in vars(robustness).items() if getattr(each, "__module__", "") == robustness.__name__}
    assert {name for name in public if not name.startswith("_")} == set(CASES) <= set(plots.__all__)


@pytest.mark.parametrize("name", CASES | EDGES)
def test_words_lie_inside_the_figure_and_do_not_touch(name: str) -> None:
    figure = (CASES | EDGES)[name]()
    figure.draw_without_rendering()
    frame = figure.bbox
    boxes = []
    for text in (text for text in written(figure) if text.get_visible() and text.get_text().strip()):
        # An annotation's own window also holds its arrow and its far end.
        box = Text.get_window_extent(text) if isinstance(text, Annotation) else text.get_window_extent()
        assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1, (text.get_text(), "is cut at a side")
        assert frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1, (text.get_text(), "is cut above or below")
        assert np.isfinite(box.extents).all() and "nan" not in text.get_text()
        if text.get_rotation() in (0, 90):
            boxes.append((text.get_text(), box.padded(-1.0)))
    touching = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]
    assert not touching
    assert figure.get_figwidth() <= plots.base.TWO_COLUMNS + 0.5


@pytest.mark.parametrize("name", ["cascade", "loss_surface", "soundness_board"])
def test_same_data_give_the_same_svg(name: str) -> None:
    assert plots.to_bytes(CASES[name](), "svg") == plots.to_bytes(CASES[name](), "svg")


@pytest.mark.parametrize(
    "name", ["cascade", "attack_steps", "worst_images", "per_class", "confusion", "loss_surface", "paired", "spread"]
)
def test_titles_say_eps_and_number_of_images(name: str) -> None:
    said = titles(CASES[name]())
    assert ("eps 0.1" if name == "worst_images" else "eps 8/255") in said
    number = {"worst_images": 6, "attack_steps": "1,000", "spread": "1,000"}.get(name, 40)
    assert name == "loss_surface" or f"n = {number}" in said or (name == "paired" and "n = 1,105 or 1,320 or 1,056" in said)


EMPTY: dict[str, Callable[[], plots.Figure]] = {
    "cascade": lambda: plots.cascade([]),
    "no stage of the cascade": lambda: plots.cascade([evaluation("found", {"FGSM": 1})]),
    "attack steps": lambda: plots.attack_steps({}),
    "not one of each": lambda: plots.attack_steps({"found": {"steps": [0, 1], "accuracy": [1], "loss": [1, 2]}}),
    "must be finite": lambda: plots.attack_steps({"found": {"steps": [0, 1], "accuracy": [1, 0], "loss": [1, math.nan]}}),
    "no image fell": lambda: worst(predicted=LABELS),
    "margins must be finite": lambda: worst(margins=MARGINS / 0),
    "by class": lambda: plots.per_class([]),
    "same classes": lambda: plots.per_class([FOUND, MANY]),
    "unknown evaluated attack 'CW'": lambda: plots.per_class(FOUND, ["CW"]),
    "unknown evaluated attack 'PGD'": lambda: plots.confusion(FOUND, "PGD"),
    r"grid of 17x16": lambda: plots.loss_surface(GRID, GRID[1:], SLOPE, 0.1),
    "board of checks": lambda: plots.soundness_board({"found": []}),
    "verdict 'good'": lambda: plots.soundness_board({"found": [check("steps", "good")]}),
    "paired comparison": lambda: plots.paired([]),
    "spread over seeds": lambda: plots.spread([]),
    "found under PGD20": lambda: plots.spread([SEEDS[2] | {"values": []}]),
}


@pytest.mark.parametrize("said", EMPTY)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(said: str) -> None:
    with pytest.raises(WorkbookError, match=said):
        EMPTY[said]()


# Cascade and steps


def test_cascade_falls_from_natural_to_what_is_left_and_writes_each_loss() -> None:
    ax, short = plots.cascade([FOUND, OTHER]).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CASCADE)
    bars = [bar for container in ax.containers if hasattr(container, "patches") for bar in container.patches]
    left, losses = bars[:5], bars[5:]
    np.testing.assert_allclose([bar.get_height() for bar in left], [90, 60, 50, 50, 45], rtol=1e-6)
    np.testing.assert_allclose([bar.get_y() for bar in losses], [60, 50, 50, 45], rtol=1e-6)
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in losses], [90, 60, 50, 50], rtol=1e-6)
    assert all(bar.get_hatch() for bar in losses) and not any(bar.get_hatch() for bar in left)
    assert words(ax)[:4] == ["−30.0", "−10.0", "0", "−5.0"]
    ends = [each[2][0].get_segments()[0] for each in ax.containers if not hasattr(each, "patches")]
    for segment, place, name in zip(ends, (0, 4), ("natural", "AutoAttack"), strict=True):
        np.testing.assert_allclose(segment, [[place, 100 * bound] for bound in FOUND.interval(name)])
    assert ax.get_title("left") == "found: 90.0 → 45.0 %" and short.get_title("left") == "other: 0.0 → 0.0 %"
    assert any(set(line.get_ydata()) == {25.0} for line in ax.lines), "chance is one of four"
    assert [label.get_text() for label in short.get_xticklabels()] == ["natural", "AutoAttack"]


def asked_of_first(number: int, found: Evaluation = FOUND) -> Evaluation:
    """The cascade on the first images only."""
    return replace(found, predictions={name: p if name == "natural" else p[:number] for name, p in found.predictions.items()})


def test_cascade_shows_all_stages_on_the_images_that_all_were_asked_of() -> None:
    figure = plots.cascade([asked_of_first(25), OTHER])
    ax, whole = figure.axes
    bars = [bar.get_height() for container in ax.containers if hasattr(container, "patches") for bar in container.patches]
    np.testing.assert_allclose(bars[:5], [100 * (25 - wrong) / 25 for wrong in FALLING.values()], rtol=1e-6)
    assert ax.get_title("left") == "found: 84.0 → 12.0 %" and whole.get_title("left") == "other: 0.0 → 0.0 %"
    assert "n = 25;" in titles(figure) and "n = 40)" in titles(figure).replace("\n", " ")


def test_classes_and_confusion_are_of_the_images_that_were_asked() -> None:
    few = asked_of_first(10)
    alone = replace(FOUND, labels=FOUND.labels[:10], predictions={name: p[:10] for name, p in FOUND.predictions.items()})
    for draw in (plots.per_class, lambda each: plots.confusion(each, "AutoAttack")):
        one, other = draw(few), draw(alone)
        assert titles(one) == titles(other) and "n = 10" in titles(one).replace("\n", " ")
        assert [words(ax) for ax in one.axes] == [words(ax) for ax in other.axes]
    assert "n = 40" in titles(plots.per_class(few, ["natural"])).replace("\n", " "), "which was asked of all"


def test_pairs_of_other_numbers_of_images_say_theirs() -> None:
    (one, *_), few = PAIRS, PAIRS[0] | {"attack": "AutoAttack", "both": 0, "neither": 0}
    ax = plots.paired([one, few]).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["natural\nn = 1,105", "AutoAttack\nn = 55"]
    assert [label.get_text() for label in plots.paired([one]).axes[0].get_yticklabels()] == ["natural"]


def test_cascade_takes_other_stages_in_their_order() -> None:
    ax = plots.cascade([FOUND], stages=("+APGD-T", "natural"), chance=0.5).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["+APGD-T", "natural"]
    assert words(ax)[0] == "+40.0"
    assert any(set(line.get_ydata()) == {50.0} for line in ax.lines)


def test_steps_are_the_traces_mark_20_and_100_and_say_whose_loss_still_rises() -> None:
    figure = plots.attack_steps(TRACES)
    accuracy, loss = figure.axes
    for number, trace in enumerate(TRACES.values()):
        np.testing.assert_allclose(accuracy.lines[number].get_ydata(), 100 * np.array(trace["accuracy"]))
        np.testing.assert_allclose(loss.lines[number].get_xydata(), np.column_stack([trace["steps"], trace["loss"]]))
        assert accuracy.lines[number].get_markevery() == [0, 20, 100, 120]
    for ax in (accuracy, loss):
        assert words(ax) == ["20", "100"]
        assert [line.get_xdata()[0] for line in ax.lines[2:]] == [20, 100]
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["level: loss level at the end", "rising: loss still rises, +0.01 a step"]


def test_only_steps_that_were_taken_are_marked() -> None:
    short = {"found": {key: values[:51] for key, values in TRACES["level"].items()}}
    assert words(plots.attack_steps(short).axes[0]) == ["20"]


# Images and classes


def test_worst_images_are_those_that_fell_with_the_largest_margin() -> None:
    natural, added, adversarial = np.array(worst().axes).reshape(3, 3)
    assert [ax.get_xlabel() for ax in natural] == ["bird", "cat", "car"]
    assert [ax.get_xlabel() for ax in adversarial] == ["✗ cat\n+3.00", "✗ plane\n+2.00", "✗ bird\n+1.00"]
    assert all(same_color(ax.xaxis.label.get_color(), darker(VERMILLION)) for ax in adversarial)
    np.testing.assert_allclose(added[0].images[0].get_array(), 1.0, atol=1e-5)
    assert "3 of the 4 images that fell (PGD20, linf eps 0.1, n = 6)" in titles(worst(attack="PGD20"))
    assert len(worst(99).axes) == 3 * 4, "no more than fell"


def test_margins_may_be_measured_either_way_round() -> None:
    labels = [[ax.get_xlabel() for ax in worst(margins=sign * MARGINS).axes] for sign in (1, -1)]
    assert labels[0] == labels[1]


def test_classes_are_sorted_by_what_survives_and_drawn_with_their_intervals() -> None:
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    attacked = labels.clone()
    attacked[[0, 1, 2, 4]] = 2
    given = {"classes": CLASSES, "labels": labels, "predictions": {"natural": labels, "weak": labels, "PGD20": attacked}}
    ax = plots.per_class(Evaluation(network="found", data="toy", eps=0.1, **given)).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bird", "car", "plane", "cat"]
    natural, robust = ax.containers
    assert (natural.get_label(), robust.get_label()) == ("natural", "PGD20"), "the strongest attack"
    np.testing.assert_allclose(natural[0].get_xdata(), [100, 100, 100])
    np.testing.assert_allclose(robust[0].get_xdata(), [100, 75, 25])
    assert np.round(robust[0].get_ydata()).tolist() == [0, 1, 2]
    assert (robust[0].get_ydata() > natural[0].get_ydata()).all(), "below, as the axis points down"
    np.testing.assert_allclose(robust[2][0].get_segments()[1][:, 0], [30.064, 95.441], atol=1e-3)  # Wilson, 3 of 4
    assert words(ax) == ["no image"] and ax.texts[0].xy[1] == 3
    first, last = ax.get_ylim()
    assert first > last, "the best class stands above"


def test_networks_share_the_order_of_the_first_and_the_attacks_asked_for() -> None:
    first, second = plots.per_class([FOUND, OTHER], ["AutoAttack"]).axes
    assert [each.get_label() for each in second.containers] == ["natural", "AutoAttack"]
    np.testing.assert_allclose(second.containers[0][0].get_xdata(), 0)
    assert (first.get_title("left"), second.get_title("left")) == ("found", "other")


def test_of_many_classes_the_ten_best_and_worst_are_shown_and_it_is_said() -> None:
    figure = plots.per_class(MANY)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    # The first 330 of 600 images fall: classes 0 to 129 lose two of three, the others one.
    assert names == [f"class {i}" for i in (*range(130, 140), *range(120, 130))]
    assert "10 best and 10 worst of 200 classes" in titles(figure)
    np.testing.assert_allclose(figure.axes[0].containers[1][0].get_xdata(), [100 * 2 / 3] * 10 + [100 / 3] * 10, rtol=1e-5)


def test_confusion_is_percent_of_the_true_class_and_names_the_commonest_error() -> None:
    labels = torch.tensor([0] * 4 + [1] * 5 + [3])
    taken = torch.tensor([0, 0, 0, 3, 1, 1, 2, 2, 0, 3])
    given = {"classes": CLASSES, "labels": labels, "predictions": {"FGSM": taken, "natural": labels}}
    found = Evaluation(network="found", data="toy", eps=0.1, **given)
    figure = plots.confusion(found, "FGSM")
    expected = [[75, 0, 0, 25], [20, 40, 40, 0], [0, 0, 0, 0], [0, 0, 0, 100]]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(c, r): f"{expected[r][c]}" for r in (0, 1, 3) for c in range(4)}
    assert "bird (no image)" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "most frequent error: car → bird, 2 of 5 (40 %)" in titles(figure)
    assert "no error" in titles(plots.confusion(found, "natural"))


def test_confusion_of_many_classes_is_a_heat_map_only() -> None:
    ax = plots.confusion(MANY, "PGD20").axes[0]
    assert ax.images[0].get_array().shape == (200, 200) and words(ax) == []
    assert len(ax.get_yticklabels()) == 20
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).sum(axis=1), 100)


# Surface, checks, comparisons


def test_surface_lies_the_right_way_round_and_marks_the_box_and_the_errors() -> None:
    second = GRID[:9]
    figure = plots.loss_surface(GRID, second, SLOPE[:, :9], 8 / 255, SLOPE[:, :9] > 1.5)
    ax = figure.axes[0]
    box = next(patch for patch in ax.patches if patch.get_gid() == "eps box")
    np.testing.assert_allclose([*box.get_xy(), box.get_width(), box.get_height()], [-8, -8, 16, 16])
    image = next(line for line in ax.lines if line.get_gid() == "image")
    assert (image.get_xdata()[0], image.get_ydata()[0]) == (0, 0)
    assert ax.get_xlabel().startswith("sign of the gradient") and ax.get_ylabel().startswith("random direction")
    np.testing.assert_allclose([*ax.get_xlim(), ax.get_ylim()[0]], [-16, 16, -16])
    assert ax.get_ylim()[1] > 8, "the box is seen where the grid ends before it"
    filled, lines, hatched, border = ax.collections
    np.testing.assert_allclose([filled.levels[0], filled.levels[-1]], [SLOPE.min(), SLOPE.max()])
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        np.testing.assert_allclose(1 + 20 * path.vertices[:, 0] / 255, level, rtol=1e-6)  # the loss depends on the first alone
    assert hatched.hatches == ["////"]
    np.testing.assert_allclose(border.get_paths()[0].vertices[:, 0], 7)  # between 6 and 8 of 255: 1.47 and 1.63
    assert "network errs (29 %)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_surface_without_errors_has_no_hatching() -> None:
    assert len(plots.loss_surface(GRID, GRID, SLOPE, 0.1).axes[0].collections) == 2
    nowhere = plots.loss_surface(GRID, GRID, SLOPE, 0.1, SLOPE > 99)
    assert len(nowhere.axes[0].collections) == 2
    assert "network errs (0 %)" in [text.get_text() for text in nowhere.legends[0].get_texts()]


def test_board_shows_each_verdict_as_a_drawn_symbol_with_its_number() -> None:
    figure = plots.soundness_board(BOARDS)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["found", "other"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["more steps", "large eps", "noise"]
    symbols = {(round(line.get_xdata()[0]), line.get_ydata()[0]): line.get_marker() for line in ax.lines}
    assert symbols == {(0, 0): "$✓$", (0, 1): "$✗$", (0, 2): "$–$", (1, 1): "$!$"}
    cells = {tuple(np.round(patch.get_center()).astype(int)): patch.get_gid() for patch in ax.patches}
    assert cells == {(0, 0): "pass", (0, 1): "fail", (0, 2): "skipped", (1, 1): "warn"}
    numbers = {(round(x), y): text.get_text() for text in ax.texts for x, y in [text.get_position()] if text.get_text()}
    assert numbers == {(0, 0): "51.2 → 51.1", (0, 1): "12 %", (1, 1): "0.3 %"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pass (1)", "warn (1)", "fail (1)", "skipped (1)"]
    assert "✓" not in plots.to_bytes(figure, "svg").decode().split("<defs>", 1)[1].replace("<!-- $✓$", "")


def test_pairs_diverge_and_say_whether_they_differ() -> None:
    ax = plots.paired(PAIRS).axes[0]
    right, left = ([container.patches[0] for container in ax.containers[side::2]] for side in (0, 1))
    assert [bar.get_width() for bar in right] == [30, 180, 0]
    assert [bar.get_x() + bar.get_width() for bar in left] == [-25, -90, -6]
    assert [bool(bar.get_hatch()) for bar in (*right, *left)] == [False] * 3 + [True] * 3
    assert [label.get_text().split("\n")[0] for label in ax.get_yticklabels()] == ["natural", "PGD20", "AutoAttack"]
    said = words(ax)
    assert said[:2] == ["30 found alone", "25 a long name alone"]
    assert [line.split("\n")[0] for line in said[2::3]] == ["p = 0.059: no evidence", "p < 0.001: differ", "p = 0.049: differ"]
    assert said[2].split("\n")[1] == "both 50, neither 1,000"


def test_spread_draws_each_seed_and_the_mean_and_writes_the_deviation() -> None:
    natural, attacked = plots.spread(SEEDS).axes
    dots = [line for line in natural.lines if line.get_gid() != "mean"]
    means = [line for line in natural.lines if line.get_gid() == "mean"]
    np.testing.assert_allclose(dots[0].get_xdata(), [80, 82, 84])
    assert list(dots[0].get_ydata()) == [0, 0, 0] and list(dots[1].get_ydata()) == [1]
    np.testing.assert_allclose([line.get_xdata() for line in means], [[82, 82], [81, 81]])
    assert words(natural) == ["82.00 % (sd 2.00, 3 seeds)", "81.00 % (one seed)"]
    assert words(attacked) == ["50.00 % (sd 0.00, 2 seeds)"]
    assert [ax.get_title("left") for ax in (natural, attacked)] == ["natural", "PGD20"]
    assert [label.get_text() for label in natural.get_yticklabels()] == ["found", "other"]


def test_of_a_thousand_classes_confusion_shows_those_with_most_errors_and_all_others_together() -> None:
    names = tuple(f"class number {i:04}" for i in range(1000))
    labels = torch.arange(1000).repeat(2)
    taken = labels.clone()
    taken[[7, 1007, 500]] = torch.tensor([9, 9, 7])
    many = Evaluation(network="n", data="d", eps=0.1, classes=names, labels=labels, predictions={"natural": taken})
    figure = plots.confusion(many, "natural")
    ax = figure.axes[0]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert len(shown) == 21 and {names[7], names[9], names[500]} < set(shown) and shown[-1] == "all others"
    assert "the 20 classes with most errors: most frequent error: class number 0007" in titles(figure)
    percent = ax.images[0].get_array()
    assert percent[shown.index(names[7])].tolist()[shown.index(names[9])] == 100 and percent[-1, -1] == 100


@pytest.mark.parametrize(
    ("name", "shown"), [("cat", "cat"), ("golden retriever", "golden…riever"), ("class number 0017", "class …r 0017")]
)
def test_long_names_of_classes_keep_their_beginning_and_their_end_under_images(name: str, shown: str) -> None:
    assert base.brief(name) == shown and len(shown) <= 13
