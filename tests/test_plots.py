"""Figures hold the data they were given, name their axes, and come out the same each time."""

from __future__ import annotations

import inspect
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import same_color, to_rgba
from matplotlib.text import Text
from test_plots_ablation import CASES as ABLATION
from test_plots_robustness import CASES as ROBUSTNESS

from dsara_lib import plots
from dsara_lib.architecture import KINDS, OPERATIONS, SearchSpace, discretise, zoo
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation
from dsara_lib.legend import BLUE, VERMILLION, edge_name, edges_of
from dsara_lib.plots import base

SPACE = SearchSpace()
NAMES = list(OPERATIONS)


def alphas(epochs: int) -> dict[str, np.ndarray]:
    """As the search stores them: one row more than epochs."""
    random = np.random.default_rng(0)
    values = {kind: np.cumsum(random.normal(0, 0.3, (epochs + 1, 14, 7)), axis=0) for kind in KINDS}
    return values | {"operations": np.array(NAMES), "edges": np.array([f"{a}->{b}" for a, b in SPACE.edges])}


def search_history(epochs: int, stage_one: int, steps: int = 4) -> tuple[list[dict], list[dict]]:
    """Steps and epochs; two objectives after stage one."""
    kept = alphas(epochs)
    by_step: list[dict] = []
    by_epoch: list[dict] = []
    for epoch in range(1, epochs + 1):
        stage = 1 if epoch <= stage_one else 2
        common = {"epoch": epoch, "stage": stage}
        for step in range(steps):
            number = (epoch - 1) * steps + step
            row = common | {"step": number, "train/adversarial_loss": 2.0 / (1 + number), "validation/adversarial_loss": 1.5}
            if stage == 2:
                row |= {"validation/natural_loss": 1.0, "gamma": 0.25, "gradient_cosine": -0.1}
                row |= {"gradient_norm/natural": 0.1, "gradient_norm/adversarial": 0.2}
            by_step.append(row)
        genotype = discretise({kind: torch.tensor(kept[kind][epoch]) for kind in KINDS}, SPACE)
        entropy = {f"entropy/{kind}": 1.9 - 0.1 * epoch for kind in KINDS}
        skips = {f"skips/{kind}": genotype.skips(kind) for kind in KINDS}
        accuracy = {"validation/natural_accuracy": 0.1 * epoch, "validation/adversarial_accuracy": 0.05 * epoch}
        losses = {"validation/adversarial_loss": 1.5, "validation/natural_loss": 1.2, "train/adversarial_loss": 1.7}
        by_epoch.append(common | entropy | skips | accuracy | losses | {"genotype": genotype.to_dict()})
    return by_step, by_epoch


def training_history(epochs: int) -> list[dict]:
    """Best at the second epoch, or the first where there is but one."""
    return [
        {
            "epoch": epoch,
            "learning_rate": 0.1 if epoch < 3 else 0.001,
            "train/adversarial_loss": 2.0 / epoch,
            "train/adversarial_accuracy": 0.1 * epoch,
            "validation/natural_accuracy": 0.2 * epoch,
            "validation/adversarial_accuracy": 0.4 if epoch == 2 else 0.3,
            "validation/natural_loss": 1.0,
            "validation/adversarial_loss": 1.8,
            "best_epoch": min(2, epochs),
        }
        for epoch in range(1, epochs + 1)
    ]


def evaluation(network: str, wrong: dict[str, int], images: int = 40) -> Evaluation:
    """So many wrong predictions under each attack."""
    labels = torch.arange(images) % 4
    predictions = {}
    for attack, number in wrong.items():
        predictions[attack] = labels.clone()
        predictions[attack][:number] = (labels[:number] + 1) % 4
    classes = ("a", "b", "c", "d")
    return Evaluation(network=network, data="toy", eps=8 / 255, classes=classes, labels=labels, predictions=predictions)


EVALUATIONS = [
    evaluation("found", {"natural": 2, "FGSM": 14, "PGD20": 20}),
    evaluation("other", {"natural": 1, "PGD20": 40}),
]
EPS_ROWS = [
    {
        "network": name,
        "attack": "PGD20" if level else "natural",
        "eps": level / 255,
        "accuracy": value,
        "low": value * 0.9,
        "high": value,
    }
    for name, values in (("found", (0.9, 0.5, 0.0)), ("other", (0.8, 0.1, 0.0)))
    for level, value in zip((0, 8, 64), values, strict=True)
]
MATRIX = SimpleNamespace(
    sources=("found", "other"),
    targets=("found", "other", "third"),
    accuracy=torch.tensor([[0.5, 0.6, 0.7], [0.81, 0.4, 0.9]]),
    num_images=1200,
    attack="PGD20",
    eps=8 / 255,
)
OURS = [
    {"network": "found", "data": "toy", "natural": 0.9, "robust": 0.5},
    {"network": "other", "data": "toy", "natural": 0.95, "robust": 0.4},
]
PAPER = [
    {"network": name, "data": "CIFAR-10", "natural": natural, "robust": robust}
    for name, natural, robust in (("DSARA", 0.8592, 0.5587), ("AdvRush", 0.8559, 0.5276), ("RACL", 0.8397, 0.5213))
]
COSTS = [
    {"network": "DSARA", "parameters": 4.52e6, "flops": 1.268e9, "paper_parameters": 4.5e6, "paper_flops": 1.27e9},
    {"network": "found", "parameters": 0.4e6, "flops": 0.05e9},
    {"network": "ResNet-18", "paper_parameters": 11.2e6},
]


def adversarial_examples(copies: int = 1) -> plots.Figure:
    """Four grey images; the attack changed the first half of each by eps, and the network errs on one and then two."""
    clean = torch.full((4 * copies, 3, 6, 6), 0.5)
    attacked = clean.clone()
    attacked[:, :, :3] += 0.1
    labels, before, after = (torch.tensor(each).repeat(copies) for each in ([0, 1, 2, 3], [0, 1, 2, 0], [1, 1, 2, 0]))
    return plots.adversarial_examples(clean, attacked, labels, before, after, "abcd", eps=0.1)


def figures(epochs: int, stage_one: int) -> dict[str, Callable[[], plots.Figure]]:
    """Each figure, of a search and a training of so many epochs."""
    steps, by_epoch = search_history(epochs, stage_one)
    return {
        "alpha_lines": lambda: plots.alpha_lines(alphas(epochs), by_epoch),
        "alpha_heatmaps": lambda: plots.alpha_heatmaps(alphas(epochs)),
        "entropy": lambda: plots.entropy(by_epoch),
        "gamma_and_cosine": lambda: plots.gamma_and_cosine(steps),
        "search_losses": lambda: plots.search_losses(steps, by_epoch),
        "validation": lambda: plots.validation(by_epoch, chosen=epochs),
        "training_curves": lambda: plots.training_curves(training_history(epochs)),
        "decisions": lambda: plots.decisions(alphas(epochs)),
        "edge_history": lambda: plots.edge_history(by_epoch, alphas(epochs)["edges"], epochs),
    }


OTHERS: dict[str, Callable[[], plots.Figure]] = {
    "adversarial_examples": adversarial_examples,
    "images_grid": lambda: plots.images_grid(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3), "abc", 2),
    "accuracy_by_attack": lambda: plots.accuracy_by_attack(EVALUATIONS),
    "accuracy_against_eps": lambda: plots.accuracy_against_eps(EPS_ROWS, 8 / 255, 0.25),
    "transfer_matrix": lambda: plots.transfer_matrix(MATRIX),
    "pareto": lambda: plots.pareto(OURS, PAPER),
    "cost_dots": lambda: plots.cost_dots(COSTS),
    "stack": lambda: plots.stack(SPACE.slots(8, 24), 32),
    "operation_counts": lambda: plots.operation_counts(zoo.genotypes()),
    "shortest_combination": lambda: plots.shortest_combination(torch.tensor([1.0, 1, 0]), torch.tensor([1.0, -1, 0]), 0.5),
}
OTHERS |= ROBUSTNESS | ABLATION
TIMED = {"device": "cpu-x", "device_name": "CPU x", "dtype": "float32", "batch": 8, "unit": "seconds", "plain": 4.0, "fast": 1.0}
TIMED |= {"ratio": 4.0, "ratio_min": 3.5, "ratio_max": 4.2}
SWEEP = [
    TIMED | {"name": "scaling", "what": what, "value": value, "plain": 2.0 * value, "fast": 0.5 * value, "seconds": 0.5 * value}
    for what in ("images", "cells", "steps")
    for value in (2, 4, 8)
]
OTHERS |= {
    "plain_and_fast": lambda: plots.plain_and_fast([TIMED | {"name": "search_step"}, TIMED | {"name": "retrain_step"}]),
    "scaling": lambda: plots.scaling(SWEEP),
}
CASES = {name: (name, make) for name, make in (figures(4, 2) | OTHERS).items()}
CASES |= {f"{name} of one epoch": (name, make) for name, make in figures(1, 1).items()}
CASES |= {"adversarial_examples, many": ("adversarial_examples", lambda: adversarial_examples(5))}
PICTURES = ("images_grid", "adversarial_examples", "stack", "worst_images")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, plots.Figure, bytes]:
    """Name, figure and its file, drawn once for the tests that look at all."""
    name, make = CASES[request.param]
    figure = make()
    if request.param != name:
        figure.set_layout_engine("none")  # half of the time; the longer histories have it
    return name, figure, plots.to_bytes(figure, "svg")


def words(svg: bytes) -> list[str]:
    """The text elements of an SVG."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_every_figure_is_in_a_case() -> None:
    functions = {name: getattr(plots, name) for name in plots.__all__ if name != "Figure"}
    made = {name for name, each in functions.items() if inspect.signature(each).return_annotation == "Figure"}
    assert made == {name for name, _ in CASES.values()}


def test_every_figure_says_what_it_shows_and_names_its_axes(case: tuple[str, plots.Figure, bytes]) -> None:
    name, figure, _ = case
    drawn = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
    titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]
    assert any(titles) or figure.get_supxlabel()
    if name in PICTURES:
        return
    for ax in drawn:
        shared = [other for other in drawn if other is ax or ax.get_shared_x_axes().joined(ax, other)]
        assert any(other.get_xlabel() or other.get_xticklabels() for other in shared)
        beside = [other for other in drawn if other is ax or ax.get_shared_y_axes().joined(ax, other)]
        assert any(other.get_ylabel() or other.get_yticklabels() for other in beside)


def test_every_figure_keeps_its_text_as_text(case: tuple[str, plots.Figure, bytes]) -> None:
    _, figure, svg = case
    written = " ".join(words(svg))
    for ax in figure.axes:
        for line in (ax.get_title("left"), ax.get_xlabel(), ax.get_ylabel()):
            assert line.replace("\n", " ") in written


def test_every_figure_fits_a_two_column_page_in_letters_that_can_be_read(case: tuple[str, plots.Figure, bytes]) -> None:
    """Between one column and two, never wider; nothing is written smaller than 5 points at that width."""
    _, figure, _ = case
    assert isinstance(figure, matplotlib.figure.Figure)
    assert plots.base.ONE_COLUMN - 0.01 <= figure.get_figwidth() <= plots.base.TWO_COLUMNS + 0.01
    letters = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert letters and min(text.get_fontsize() for text in letters) >= 5


def test_every_figure_is_saved_as_svg_and_png(case: tuple[str, plots.Figure, bytes], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(plots.base, "to_bytes", partial(plots.to_bytes, dpi=36))  # a tenth of the pixels
    svg, png = plots.save(case[1], tmp_path, "figure")
    assert (svg.name, png.name) == ("figure.svg", "figure.png")
    assert b"</svg>" in svg.read_bytes()[-20:] and png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["entropy", "transfer_matrix"])
def test_same_data_give_the_same_svg(name: str) -> None:
    first, second = (plots.to_bytes(CASES[name][1](), "svg") for _ in range(2))
    assert first == second and b"<dc:date>" not in first


def test_save_writes_svg_and_png_and_nothing_else(tmp_path: Path) -> None:
    paths = plots.save(plots.entropy(search_history(2, 1)[1]), tmp_path / "figures", "entropy")
    assert sorted(path.name for path in paths) == sorted(os.listdir(tmp_path / "figures")) == ["entropy.png", "entropy.svg"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_drawing_changes_no_global_setting_and_a_notebook_shows_the_figure() -> None:
    before = dict(matplotlib.rcParams)
    figure = plots.entropy(search_history(2, 1)[1])
    data, size = figure._repr_png_()
    assert dict(matplotlib.rcParams) == before
    assert data.startswith(b"\x89PNG") and size["width"] == round(96 * figure.get_figwidth())


# Search


def darts_rule(weights: np.ndarray) -> set[tuple[int, int]]:
    """By hand, without the library: two edges of each node with the greatest best weight."""
    kept = set()
    for node, first, number in ((2, 0, 2), (3, 2, 3), (4, 5, 4), (5, 9, 5)):
        assert number == node
        incoming = sorted(range(first, first + number), key=lambda edge: weights[edge].max())[-2:]
        kept |= {(edge, int(weights[edge].argmax())) for edge in incoming}
    return kept


@pytest.mark.parametrize("epoch", [0, 2, -1])
def test_heatmaps_show_the_softmax_and_frame_what_the_darts_rule_keeps(epoch: int) -> None:
    values = alphas(3)
    figure = plots.alpha_heatmaps(values, epoch)
    for ax, kind in zip(figure.axes, KINDS, strict=False):
        weights = torch.softmax(torch.tensor(values[kind][epoch]), dim=-1).numpy()
        np.testing.assert_allclose(ax.images[0].get_array(), weights)
        frames = [patch.get_center() for patch in ax.patches if patch.get_gid() == "kept"]
        assert {(round(y), round(x)) for x, y in frames} == darts_rule(weights) and len(frames) == 8
        assert [label.get_text() for label in ax.get_xticklabels()][-1] == "skip"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:3] == ["k-2→2", "k-1→2", "k-2→3"]


def test_heatmaps_take_one_matrix_a_kind_and_a_space_of_two_kinds() -> None:
    values = {key: value[-1] if key in KINDS else value for key, value in alphas(2).items() if key != "robust"}
    figure = plots.alpha_heatmaps(values)
    assert [ax.get_title("left") for ax in figure.axes[:2]] == ["accurate cell", "reduction cell"]


def test_alphas_of_unknown_edges_are_refused() -> None:
    with pytest.raises(WorkbookError, match="edges"):
        plots.alpha_heatmaps(alphas(1) | {"edges": np.array([f"{b}->{a}" for a, b in SPACE.edges[::-1]])})


def test_alpha_lines_show_the_mean_of_each_operation_and_the_kept_edges() -> None:
    values = alphas(5)
    figure = plots.alpha_lines(values, search_history(5, 3)[1])
    for ax, kind in zip(figure.axes, KINDS, strict=True):
        weights = torch.softmax(torch.tensor(values[kind]), dim=-1).numpy()
        wide = {line.get_label(): line.get_ydata() for line in ax.lines if line.get_linewidth() > 1.5}
        np.testing.assert_allclose(wide["skip"], weights[:, :, NAMES.index("skip_connect")].mean(axis=1))
        assert len(wide) == 7
        thin = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 0.5]
        expected = [weights[:, edge, operation] for edge, operation in sorted(darts_rule(weights[-1]))]
        np.testing.assert_allclose(thin, expected)


def test_second_stage_is_shaded_from_the_end_of_the_first() -> None:
    steps, epochs = search_history(4, 3)
    assert base.stage_starts(steps) == base.stage_starts(epochs) == {1: 0, 2: 3}
    for figure in (plots.entropy(epochs), plots.gamma_and_cosine(steps)):
        assert [patch.get_x() for patch in figure.axes[0].patches] == [3.0]
        assert "stage 2" in [text.get_text() for text in figure.axes[0].texts]
    assert not plots.entropy(search_history(3, 3)[1]).axes[0].patches


def test_a_search_with_one_objective_says_so_in_place_of_gamma() -> None:
    figure = plots.gamma_and_cosine(search_history(2, 2)[0])
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["one objective only"] * 3


def test_gamma_lies_in_its_own_epochs() -> None:
    gamma = plots.gamma_and_cosine(search_history(4, 2)[0]).axes[0]
    x = gamma.lines[0].get_xdata()
    assert min(x) == 2.25 and max(x) == 4 and set(gamma.lines[0].get_ydata()) == {0.25}


def test_missing_and_infinite_values_are_left_out_not_drawn_as_zero() -> None:
    records = [{"epoch": 1, "a": 1.0}, {"epoch": 2}, {"epoch": 3, "a": math.nan}, {"epoch": 4, "a": 3.0}, {"epoch": 5, "a": None}]
    x, y = base.series(records, "a")
    assert (x.tolist(), y.tolist()) == ([1, 4], [1, 3])
    assert base.series(records, "b")[0].size == 0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 40))
def test_running_mean_stays_within_the_values_and_keeps_a_constant(values: list[float], window: int) -> None:
    array = np.array(values)
    smooth = base.smooth(array, window)
    assert len(smooth) == len(array)
    assert array.min() - 1e-9 <= smooth.min() and smooth.max() <= array.max() + 1e-9
    np.testing.assert_allclose(base.smooth(np.full(len(array), 2.5), window), 2.5)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12).map(sorted), st.floats(0.01, 2))
def test_words_are_moved_apart_and_only_where_they_touch(values: list[float], gap: float) -> None:
    moved = base.apart(values, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    assert math.isclose(sum(moved), sum(values), abs_tol=1e-6)
    if all(b - a >= gap for a, b in pairwise(values)):
        np.testing.assert_allclose(moved, values, atol=1e-9)


def test_genotype_changes_count_new_edges_and_new_operations() -> None:
    edges = [["sep_conv_3x3", 0], ["skip_connect", 1]]
    cells = [{"accurate": [edges, edges]}, {"accurate": [edges, edges[::-1]]}]
    cells.append({"accurate": [edges, [["sep_conv_5x5", 0], ["skip_connect", 2]]]})
    records = [{"epoch": epoch, "genotype": {"cells": each}} for epoch, each in enumerate(cells, start=1)]
    assert plots.genotype_changes(records) == [{"accurate": 0}, {"accurate": 2}]


def test_validation_marks_the_chosen_epoch_and_stacks_the_changes() -> None:
    _, epochs = search_history(4, 2)
    accuracy, change, skips = plots.validation(epochs, chosen=3).axes
    for ax in (accuracy, change, skips):
        assert any(list(line.get_xdata()) == [3, 3] for line in ax.lines)
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [10, 20, 30, 40])
    heights = [[bar.get_height() for bar in bars] for bars in change.containers]
    expected = [[each[kind] for each in plots.genotype_changes(epochs)] for kind in KINDS]
    assert heights == expected


# Training and evaluation


def test_training_curves_mark_the_best_epoch_at_its_height() -> None:
    figure = plots.training_curves(training_history(4))
    star = next(line for line in figure.axes[1].lines if line.get_gid() == "best")
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [40.0])
    assert "best: epoch 2, 40.0 %" in figure.axes[1].get_title("left")


def test_training_curves_mark_a_natural_training_on_the_curve_that_chose_its_epoch() -> None:
    rows = [{key.replace("train/adversarial", "train/natural"): value for key, value in row.items()} for row in training_history(4)]
    figure = plots.training_curves(rows)
    star = next(line for line in figure.axes[1].lines if line.get_gid() == "best")
    assert list(star.get_ydata()) == [100 * rows[1]["validation/natural_accuracy"]]


def test_dots_and_intervals_are_the_evaluations() -> None:
    ax = plots.accuracy_by_attack(EVALUATIONS).axes[0]
    attacks = [label.get_text() for label in ax.get_xticklabels()]
    assert attacks == ["natural", "FGSM", "PGD20"] and len(ax.containers) == 2
    for each, (dots, _, (interval,)) in zip(EVALUATIONS, ax.containers, strict=True):
        mine = [attack for attack in attacks if attack in each.predictions]
        np.testing.assert_allclose(dots.get_ydata(), [100 * each.accuracy(attack) for attack in mine])
        assert [attacks[round(x)] for x in dots.get_xdata()] == mine
        for segment, attack in zip(interval.get_segments(), mine, strict=True):
            np.testing.assert_allclose(segment[:, 1], 100 * np.array(each.interval(attack)))
    assert any(set(line.get_ydata()) == {25.0} for line in ax.lines), "chance is one of four"
    assert "8/255" in ax.get_title("left") and "n = 40" in ax.get_title("left")


def test_attack_of_other_images_than_the_title_says_has_its_own_number() -> None:
    few = replace(
        EVALUATIONS[0], predictions={name: p[: 40 if name == "natural" else 20] for name, p in EVALUATIONS[0].predictions.items()}
    )
    ax = plots.accuracy_by_attack([few, EVALUATIONS[1]]).axes[0]
    attacks = {
        attack: {each.count(attack) for each in (few, EVALUATIONS[1]) if attack in each.predictions} for attack in few.predictions
    }
    told = [
        name if numbers == {40} else f"{name}\nn = {' or '.join(map(str, sorted(numbers)))}" for name, numbers in attacks.items()
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == told and "FGSM\nn = 20" in " ".join(told)
    np.testing.assert_allclose(ax.containers[0][0].get_ydata(), [100 * few.accuracy(name) for name in few.predictions])
    assert "n = 40" in ax.get_title("left")


def test_accuracy_against_eps_starts_natural_and_keeps_every_row() -> None:
    ax = plots.accuracy_against_eps(EPS_ROWS[::-1], training_eps=8 / 255).axes[0]
    curves = {line.get_label(): line.get_xydata() for line in ax.lines if line.get_label() in ("found", "other")}
    np.testing.assert_allclose(curves["found"], [[0, 90], [8, 50], [64, 0]])
    np.testing.assert_allclose(curves["other"], [[0, 80], [8, 10], [64, 0]])
    assert ax.get_title("left") == "Accuracy against eps (PGD20)"


def test_transfer_matrix_writes_percent_and_frames_the_white_box() -> None:
    ax = plots.transfer_matrix(MATRIX).axes[0]
    written = {(round(y), round(x)): text.get_text() for text in ax.texts for x, y in [text.get_position()]}
    assert written == {(i, j): f"{100 * MATRIX.accuracy[i, j]:.1f}" for i in range(2) for j in range(3)}
    frames = [patch.get_center() for patch in ax.patches if patch.get_gid() == "white box"]
    assert {(round(y), round(x)) for x, y in frames} == {(0, 0), (1, 1)}
    assert ax.get_title("left").startswith("PGD20, eps 8/255, n = 1,200")


def test_adversarial_examples_mark_what_is_wrong_by_sign_and_color() -> None:
    natural, added, adversarial = np.array(adversarial_examples().axes).reshape(3, 4)
    assert [ax.get_xlabel() for ax in natural] == ["✓ a", "✓ b", "✓ c", "✗ a"]
    assert [ax.get_xlabel() for ax in adversarial] == ["✗ b", "✓ b", "✓ c", "✗ a"]
    colors = [ax.spines["left"].get_edgecolor() for ax in adversarial]
    assert [same_color(color, VERMILLION) for color in colors] == [True, False, False, True]
    assert same_color(colors[1], BLUE)
    picture = np.asarray(added[0].images[0].get_array())
    np.testing.assert_allclose(picture[:3], 1.0, atol=1e-5)
    np.testing.assert_allclose(picture[3:], 0.5, atol=1e-5)


def test_images_are_shown_as_they_are() -> None:
    images = (torch.arange(2 * 3 * 4 * 4) % 256).to(torch.uint8).reshape(2, 3, 4, 4)
    figure = plots.images_grid(images, torch.tensor([1, 0]), ("cat", "dog"), columns=2)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    np.testing.assert_allclose(shown, images[1].permute(1, 2, 0).numpy() / 255)
    assert [ax.get_title() for ax in figure.axes] == ["dog", "cat"]


# Beside the paper


def test_paper_is_hollow_ours_is_filled_and_other_data_stand_in_another_panel() -> None:
    figure = plots.pareto(OURS, PAPER, ours="measured here (profile demo)")
    paper, ours = figure.axes
    assert paper.get_title("left") == "CIFAR-10: reported in the paper"
    assert ours.get_title("left") == "toy: measured here (profile demo)"
    assert len(paper.collections[0].get_facecolors()) == 0
    np.testing.assert_allclose(ours.collections[0].get_facecolors(), [to_rgba(BLUE)])
    np.testing.assert_allclose(ours.collections[0].get_offsets(), [[90, 50], [95, 40]])
    both = plots.pareto([point | {"data": "CIFAR-10"} for point in OURS], PAPER).axes
    assert len(both) == 1 and [len(each.get_facecolors()) for each in both[0].collections] == [0, 1]


def test_names_of_points_do_not_touch_each_other() -> None:
    crowd = [
        {"network": f"network {i}", "data": "toy", "natural": 0.8 + 0.01 * (i % 3), "robust": 0.5 + 0.004 * i} for i in range(7)
    ]
    figure = plots.pareto(crowd)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    floats = [(float(x), float(y)) for x, y in points]
    kept = plots.front(floats)
    best = [floats[i] for i in kept]
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(best))
    for point in floats:
        assert any(b[0] >= point[0] and b[1] >= point[1] for b in best)
        beaten = any(b != point and b[0] >= point[0] and b[1] >= point[1] for b in best)
        assert beaten == (point not in best)


def test_accuracies_in_percent_are_refused() -> None:
    with pytest.raises(WorkbookError, match=r"\[0, 1\]; DSARA on CIFAR-10 has 85.92"):
        plots.pareto([], [{"network": "DSARA", "data": "CIFAR-10", "natural": 85.92, "robust": 55.87}])


def test_costs_of_the_paper_are_hollow_and_counted_ones_filled() -> None:
    size, flops = plots.cost_dots(COSTS).axes
    places: dict[bool, list[Any]] = {True: [], False: []}
    for dots in size.collections:
        places[len(dots.get_facecolors()) > 0] += dots.get_offsets().tolist()
    np.testing.assert_allclose(places[True], [[4.52, 0], [0.4, 1]])
    np.testing.assert_allclose(places[False], [[4.5, 0], [11.2, 2]])
    assert len(flops.collections) == 3
    assert [label.get_text() for label in size.get_yticklabels()] == ["DSARA", "found", "ResNet-18"]


def test_costs_of_small_networks_are_written_in_small_units_without_a_key_for_the_paper() -> None:
    figure = plots.cost_dots([{"network": "found", "parameters": 9566, "flops": 205_984}])
    size, flops = figure.axes
    assert (size.get_xlabel(), flops.get_xlabel()) == ("parameters (k)", "FLOPs (M)")
    assert ([text.get_text() for text in size.texts], [text.get_text() for text in flops.texts]) == (["9.57"], ["0.21"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["counted here"]


def test_the_key_of_the_gradients_norms_lies_on_no_curve() -> None:
    figure = plots.gamma_and_cosine(search_history(4, 2)[0])
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 <= figure.axes[2].get_tightbbox().y0


@pytest.mark.parametrize("num_cells", [5, 8, 20])
def test_stack_draws_each_cell_between_stem_and_classifier(num_cells: int) -> None:
    slots = SPACE.slots(num_cells, 8)
    ax = plots.stack(slots, 32).axes[0]
    letters = [text.get_text() for text in ax.texts if len(text.get_text()) == 1]
    assert letters == [{"accurate": "A", "robust": "R", "reduction": "↓"}[slot.kind] for slot in slots]
    assert len(ax.patches) == num_cells + 2
    assert any("robust\n16 channels\n8×8" in text.get_text() for text in ax.texts)


def test_edges_are_read_in_both_spellings_and_named_by_the_cells_inputs() -> None:
    assert edges_of(["0->2", "1→3"]) == ((0, 2), (1, 3))
    assert edge_name(0, 2) == "k-2→2" and edge_name(3, 5) == "3→5"


@pytest.mark.parametrize(("highest", "top"), [(3.0, 10), (12.0, 20), (47.0, 50), (50.1, 100), (99.0, 100)])
def test_an_axis_of_accuracies_ends_at_100_unless_half_of_it_would_be_empty(highest: float, top: float) -> None:
    low, high = base.accuracy_limits(highest)
    assert high == pytest.approx(1.04 * top) and low < 0 < highest < high
