"""Figures of training and evaluation (Sections 5.3 and 6): curves, images, accuracy under attack, transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from ..data import eps_text
from ..legend import (
    BLUE,
    CYCLE,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    SKY,
    VERMILLION,
    darker,
)
from .base import (
    HEAT,
    LINES,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    Records,
    accuracy_limits,
    as_numpy,
    brief,
    chance_line,
    epoch_axis,
    last_epoch,
    new_figure,
    note,
    series,
    styled,
)


@styled
def training_curves(epochs: Records) -> Figure:
    """Training by epoch: loss, accuracy on the images held out, learning rate. The star is the best epoch, on the curve that
    chose it: adversarial accuracy, or natural where the training has no attack."""
    figure, axes = new_figure(1, 3, TWO_COLUMNS, 2.0, width_ratios=(1, 1, 0.8))
    loss, accuracy, rate = axes[0]
    for ax, metric, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        for key, color, line, marker, label in (
            (f"train/adversarial_{metric}", ORANGE, ":", "D", "train, adversarial"),
            (f"train/natural_{metric}", SKY, ":", "^", "train, natural"),
            (f"validation/adversarial_{metric}", VERMILLION, "--", "s", "held out, adversarial"),
            (f"validation/natural_{metric}", BLUE, "-", "o", "held out, natural"),
        ):
            x, y = series(epochs, key)
            if len(x):
                ax.plot(x, scale * y, line, color=color, marker=marker, markevery=max(1, len(x) // 8), label=label)
    x, y = series(epochs, "learning_rate")
    rate.plot(x, y, color=INK, drawstyle="steps-mid", marker="o" if len(x) == 1 else None)
    loss.set(title="Loss", ylabel="cross-entropy")
    accuracy.set(title="Accuracy", ylabel="accuracy (%)")
    rate.set(title="Learning rate", ylabel="learning rate")
    if len(y) and y.min() > 0 and y.max() / y.min() > 20:
        rate.set_yscale("log")
    else:
        rate.set_ylim(bottom=0)
    for ax in axes[0]:
        epoch_axis(ax, last_epoch(epochs))
    best = epochs[-1].get("best_epoch") if epochs else None
    if best is not None:
        for ax in axes[0]:
            ax.axvline(best, color=INK, linewidth=0.9, zorder=1.5)
        at = next((r for r in epochs if r["epoch"] == best), {})
        decisive = "natural" if "train/adversarial_accuracy" not in at and "train/natural_accuracy" in at else "adversarial"
        height = at.get(f"validation/{decisive}_accuracy")
        number = f"best: epoch {best}" + (f", {100 * height:.1f} %" if height is not None else "")
        accuracy.set_title(f"Accuracy ({number})")
        if height is not None:
            accuracy.plot([best], [100 * height], "*", color=INK, markersize=8, zorder=4, clip_on=False, gid="best")
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="outside lower center")
    return figure


@styled
def images_grid(images: Any, labels: Any, classes: Sequence[str], columns: int = 10) -> Figure:
    """A sample of the data with its classes' names."""
    pictures = [_picture(image) for image in as_numpy(images)]
    rows = math.ceil(len(pictures) / columns)
    figure, axes = new_figure(rows, columns, TWO_COLUMNS, rows * (TWO_COLUMNS / columns + 0.14))
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, label in zip(axes.flat, pictures, as_numpy(labels), strict=False):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(brief(classes[int(label)]), fontsize=6, loc="center", pad=2)
    return figure


def _picture(image: np.ndarray) -> np.ndarray:
    """[c, h, w] in [0, 1] or uint8 as what imshow takes."""
    image = image.astype(float) / 255 if image.dtype == np.uint8 else image
    image = np.clip(np.moveaxis(image, 0, -1), 0, 1)
    return image[..., 0] if image.shape[-1] == 1 else image


@styled
def adversarial_examples(
    clean: Any,
    attacked: Any,
    labels: Any,
    predicted_clean: Any,
    predicted_attacked: Any,
    classes: Sequence[str],
    eps: float,
) -> Figure:
    """Images as they are, what the attack added, and their sum, with the network's predictions (✓ right, ✗ wrong)."""
    clean, attacked, labels = as_numpy(clean), as_numpy(attacked), as_numpy(labels)
    # From -eps..eps to 0..1, so that grey is no change and black and white are the whole budget.
    added = 0.5 + (attacked - clean) / (2 * eps)
    rows = [("natural", clean, as_numpy(predicted_clean)), ("added", added, None)]
    rows += [("adversarial", attacked, as_numpy(predicted_attacked))]
    size = min((TWO_COLUMNS - 0.45) / len(clean), 0.95)
    figure, axes = new_figure(3, len(clean), size * len(clean) + 0.45, 3 * size + 0.75)
    for (name, images, predictions), line in zip(rows, axes, strict=True):
        for index, (ax, image) in enumerate(zip(line, images, strict=True)):
            ax.imshow(_picture(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            right = predictions is None or predictions[index] == labels[index]
            color = GREY if predictions is None else BLUE if right else VERMILLION
            for spine in ax.spines.values():
                spine.set(visible=True, color=color, linewidth=0.6 if predictions is None else 1.6)
            if predictions is not None:
                words = f"{'✓' if right else '✗'} {brief(classes[int(predictions[index])])}"
                ax.set_xlabel(words, color=darker(color), fontsize=6.5, labelpad=2)
        line[0].set_ylabel(name)
    figure.supxlabel(
        f"Added: ×{1 / (2 * eps):.3g} around grey, so that black is −{eps_text(eps)} and white +{eps_text(eps)}. ✓ right, ✗ wrong.",
        fontsize=6.5,
    )
    return figure


@styled
def accuracy_by_attack(evaluations: Sequence[Any], chance: float | None = None) -> Figure:
    """Accuracy of each network under each attack with its 95 % interval (Wilson) over the same images.

    `evaluations` are `Evaluation`s; chance is that of one answer to all unless given. An attack that was asked of another
    number of images than the title says has its own below its name.
    """
    attacks = list(dict.fromkeys(attack for each in evaluations for attack in each.predictions))
    figure, axes = new_figure(width=max(ONE_COLUMN, min(TWO_COLUMNS, 0.95 * len(attacks) + 1.4)), height=2.4)
    ax = axes[0, 0]
    spread = min(0.24, 0.7 / max(1, len(evaluations)))
    for index, each in enumerate(evaluations):
        color, marker = CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)]
        places = [i for i, attack in enumerate(attacks) if attack in each.predictions]
        y = np.array([each.accuracy(attacks[i]) for i in places])
        bounds = np.array([each.interval(attacks[i]) for i in places]).T
        x = np.array(places) + spread * (index - (len(evaluations) - 1) / 2)
        interval = {"elinewidth": 1.0, "capsize": 2, "capthick": 0.8}
        errors = 100 * np.abs(bounds - y)
        ax.errorbar(x, 100 * y, errors, fmt=marker, color=color, markersize=4.5, label=each.network, **interval)
        if len(evaluations) <= 3:
            for at, value, high in zip(x, y, bounds[1], strict=True):
                look = {"ha": "center", "va": "bottom", "fontsize": 5.5}
                note(ax, f"{100 * value:.1f}", (at, 100 * high), (0, 1), ("data", "data"), darker(color), **look)
    chance_line(ax, evaluations[0].guessing if chance is None else chance)
    first = evaluations[0]
    ax.set_xticks(range(len(attacks)), [_with_images(attack, evaluations, len(first.labels)) for attack in attacks])
    highest = max((100 * each.interval(attack)[1] for each in evaluations for attack in each.predictions), default=100.0)
    ax.set(xlim=(-0.6, len(attacks) - 0.4), ylim=accuracy_limits(highest), ylabel="accuracy (%)")
    ax.grid(False, axis="x")
    ax.set_title(f"{first.data}, linf eps {eps_text(first.eps)}, n = {len(first.labels):,}")
    figure.legend(ncols=min(4, len(evaluations)), loc="outside lower center")
    return figure


def _with_images(attack: str, evaluations: Sequence[Any], usual: int) -> str:
    """The attack's name, and its number of images where that is not the usual one."""
    counts = sorted({each.count(attack) for each in evaluations if attack in each.predictions})
    return attack if counts == [usual] else f"{attack}\nn = {' or '.join(f'{count:,}' for count in counts)}"


@styled
def accuracy_against_eps(rows: Records, training_eps: float | None = None, chance: float | None = None) -> Figure:
    """Accuracy against the size of the attack, from natural images (eps 0) down to nothing, with 95 % intervals.

    Each row has network, eps, accuracy and, if known, low and high. A curve that does not reach zero at a large eps
    means an attack that does not work (masked gradients), not a robust network.
    """
    figure, axes = new_figure(height=2.4)
    ax = axes[0, 0]
    for index, network in enumerate(dict.fromkeys(row["network"] for row in rows)):
        mine = sorted((row for row in rows if row["network"] == network), key=lambda row: row["eps"])
        color, marker = CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)]
        x = np.array([255 * row["eps"] for row in mine])
        y = np.array([100 * row["accuracy"] for row in mine])
        low, high = (np.array([100 * row.get(key, row["accuracy"]) for row in mine]) for key in ("low", "high"))
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(x, y, LINES[index % len(LINES)], color=color, marker=marker, label=network)
    if training_eps is not None:
        ax.axvline(255 * training_eps, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
        note(ax, "eps in\ntraining", (255 * training_eps, 1), (3, -1), ("data", "axes fraction"), va="top")
    chance_line(ax, chance)
    attacks = list(dict.fromkeys(str(row["attack"]) for row in rows if row.get("attack") and row["eps"]))
    ax.set(title="Accuracy against eps" + (f" ({', '.join(attacks)})" if attacks else ""), ylabel="accuracy (%)")
    ax.set_xlabel("eps in steps of 1/255")
    ax.set_ylim(*accuracy_limits(max((100 * row.get("high", row["accuracy"]) for row in rows), default=100.0)))
    ax.set_xlim(left=0)
    ax.legend(loc="upper right")
    return figure


@styled
def transfer_matrix(matrix: Any) -> Figure:
    """Black-box accuracy: attacks made on the source (row), shown to the target (column). Frames: white box."""
    accuracy = 100 * as_numpy(matrix.accuracy).astype(float)
    rows, columns = accuracy.shape
    figure, axes = new_figure(width=min(TWO_COLUMNS, 0.62 * columns + 1.9), height=0.34 * rows + 1.25)
    ax = axes[0, 0]
    image = ax.imshow(accuracy, cmap=HEAT, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    for row, source in enumerate(matrix.sources):
        for column, target in enumerate(matrix.targets):
            value = accuracy[row, column]
            color = "white" if value > 55 else INK
            ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
            if source == target:
                corner = (column - 0.48, row - 0.46)
                look = Rectangle(corner, 0.96, 0.92, fill=False, edgecolor=VERMILLION, linewidth=1.6, gid="white box")
                ax.add_patch(look)
    ax.set_xticks(range(columns), matrix.targets, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(rows), matrix.sources)
    ax.set(xlabel="target (evaluated)", ylabel="source (attacked)")
    ax.set_title(f"{matrix.attack}, eps {eps_text(matrix.eps)}, n = {matrix.num_images:,}; framed: white box")
    ax.tick_params(length=0)
    ax.grid(False)
    figure.colorbar(image, ax=ax, label="accuracy of target (%)", pad=0.03).outline.set_visible(False)
    return figure
