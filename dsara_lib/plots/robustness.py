"""How robust a network is, and how far its numbers can be believed: what falls to which attack, where, and against whom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from ..data import eps_text
from ..errors import WorkbookError
from ..legend import BLUE, CYCLE, GREEN, GREY, INK, MARKERS, ORANGE, VERMILLION, darker, paler
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
    new_figure,
    note,
    styled,
)
from .evaluation import adversarial_examples

CASCADE = ("natural", "APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack")
VERDICTS = {"pass": ("✓", GREEN), "warn": ("!", ORANGE), "fail": ("✗", VERMILLION), "skipped": ("–", GREY)}
FALL: dict[str, Any] = {"color": paler(VERMILLION, 0.6), "edgecolor": VERMILLION, "hatch": "/////", "linewidth": 0.6}
MANY = 20  # classes; of more, the best and the worst ten are shown
SEEN = 250  # classes of a confusion matrix whose cells can still be seen
LEVEL = 0.01  # a loss that gains less than this share of its whole rise over the last tenth of the steps has levelled off


def _some(what: str, values: Any) -> Any:
    if not len(values):
        raise WorkbookError(f"{what} needs at least one entry, and got none")
    return values


def _finite(what: str, values: Any) -> np.ndarray:
    array = as_numpy(values).astype(float)
    if not np.isfinite(array).all():
        raise WorkbookError(f"{what} must be finite; {int((~np.isfinite(array)).sum())} of {array.size} are not")
    return array


def _conditions(attack: str = "", eps: float | None = None, num_images: int | None = None, data: str = "") -> str:
    size, number = eps and f"linf eps {eps_text(eps)}", num_images and f"n = {num_images:,}"
    return ", ".join(part for part in (data, attack, size, number) if part)


def _of(evaluations: Iterable[Any], attack: str = "") -> str:
    return "; ".join(dict.fromkeys(_conditions(attack, each.eps, len(each.labels), each.data) for each in evaluations))


def _wrapped(words: str, inches: float, size: float = 8) -> str:
    """Broken into lines that fit, never around = or before %; a letter is a little wider than half of its height."""
    held = words.replace(" = ", "\xa0=\xa0").replace(" → ", "\xa0→ ").replace(" %", "\xa0%")
    return fill(held, int(inches * 72 / (0.53 * size))).replace("\xa0", " ")


def _headline(figure: Figure, words: str) -> None:
    figure.suptitle(_wrapped(words, figure.get_figwidth()), x=0.01, ha="left", fontsize=8)


def _panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """At most three panels a row; those that stay empty are hidden."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure, axes = new_figure(rows, columns, min(TWO_COLUMNS, max(ONE_COLUMN, width * columns)), rows * height + 0.3, **options)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, list(axes.flat[:count])


@styled
def cascade(evaluations: Sequence[Any], chance: float | None = None, stages: Sequence[str] = CASCADE) -> Figure:
    """What is left after each attack of a cascade, and (hatched) what it cost; 95 % intervals (Wilson) at both ends.

    `evaluations` are `Evaluation`s whose predictions hold some of the stages; chance is that of one answer to all unless given.
    All stages of a network are shown on the images that all of them were asked of.
    """
    for each in _some("a cascade", evaluations):
        if not any(stage in each.predictions for stage in stages):
            raise WorkbookError(
                f"{each.network} has no stage of the cascade {', '.join(stages)}; it has {', '.join(each.predictions)}"
            )
    evaluations = [each.together(stage for stage in stages if stage in each.predictions) for each in evaluations]
    figure, axes = _panels(len(evaluations), 2.3, 2.2, sharey=True)
    limits = accuracy_limits(max(100 * each.interval(name)[1] for each in evaluations for name in each.predictions))
    for ax, each in zip(axes, evaluations, strict=True):
        names = list(each.predictions)
        left = [100 * each.accuracy(name) for name in names]
        ends = {index: 100 * np.array(each.interval(names[index])) for index in (0, len(names) - 1)}
        ax.bar(range(len(names)), left, 0.7, color=paler(BLUE, 0.45), edgecolor=BLUE, linewidth=0.6, label="right")
        for index in range(1, len(names)):
            before, after = left[index - 1], left[index]
            ax.bar(index, before - after, 0.7, after, label="fell to this attack", **FALL)
            top = max(before, after, *ends.get(index, ()))
            words = f"{after - before:+.1f}".replace("-", "−") if after != before else "0"
            note(ax, words, (index, top), (0, 2), ("data", "data"), darker(VERMILLION), ha="center", fontsize=6)
        for index, bounds in ends.items():
            errors = np.abs(bounds - left[index])[:, None]
            ax.errorbar(index, left[index], errors, fmt="o", color=INK, markersize=2.5, elinewidth=1, capsize=2.5, capthick=0.8)
        chance_line(ax, each.guessing if chance is None else chance)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        ax.set(xlim=(-0.6, len(names) + 0.45), ylim=limits)  # room for the word at the line of chance
        ax.grid(False, axis="x")
        ax.set_title(_wrapped(f"{each.network}: {left[0]:.1f} → {left[-1]:.1f} %", figure.get_figwidth() / min(3, len(axes)) - 0.4))
    for ax in axes[::3]:
        ax.set_ylabel("accuracy (%)")
    _headline(figure, f"Right after each attack ({_of(evaluations)}); hatched: lost to it")
    return figure


def _last_slope(steps: np.ndarray, loss: np.ndarray) -> float:
    """What the loss gains a step over the last tenth of the steps (least squares); 0 where it has levelled off."""
    window = steps >= steps[-1] - max(2, 0.1 * (steps[-1] - steps[0]))
    if window.sum() < 2:
        return 0.0
    slope = float(np.polyfit(steps[window], loss[window], 1)[0])
    gained = slope * float(np.ptp(steps[window]))
    return slope if gained > LEVEL * float(np.ptp(loss)) else 0.0


@styled
def attack_steps(
    traces: Mapping[str, Mapping[str, Any]], attack: str = "PGD", eps: float | None = None, num_images: int | None = None
) -> Figure:
    """Accuracy and mean loss against the number of steps, 20 and 100 marked; the legend says whose loss still rises.

    `traces` is {network: {"steps": [0..N], "accuracy": [...], "loss": [...]}}. A loss that still rises at the end means that
    more steps would find more.
    """
    figure, axes = new_figure(1, 2, TWO_COLUMNS, 2.35)
    marked = set()
    for index, (network, trace) in enumerate(_some("a plot of attack steps", traces).items()):
        steps, accuracy, loss = (_finite(f"{key} of {network}", trace[key]) for key in ("steps", "accuracy", "loss"))
        if not len(steps) == len(accuracy) == len(loss) > 0:
            raise WorkbookError(
                f"{network} has {len(steps)} steps, {len(accuracy)} accuracies and {len(loss)} losses: not one of each"
            )
        slope = _last_slope(steps, loss)
        end = f"loss still rises, {slope:+.2g} a step" if slope else "loss level at the end"
        look: dict[str, Any] = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)]}
        look |= {"linestyle": LINES[index % len(LINES)], "label": f"{network}: {end}"}
        look["markevery"] = [i for i, step in enumerate(steps) if step in (20, 100) or i in (0, len(steps) - 1)]
        marked |= {20, 100} & set(steps.tolist())
        for ax, values in zip(axes[0], (100 * accuracy, loss), strict=True):
            ax.plot(steps, values, **look)
    for ax, title, label in zip(axes[0], ("Accuracy", "Mean loss"), ("accuracy (%)", "cross-entropy"), strict=True):
        ax.set(title=f"{title} against the steps of the attack", xlabel="steps", ylabel=label)
        ax.locator_params(axis="x", integer=True)
        ax.set_xlim(left=0)
        ax.margins(y=0.15)
        for step in sorted(marked):
            ax.axvline(step, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
            note(ax, f"{step:.0f}", (step, 1), (2, -1), ("data", "axes fraction"), va="top")
    _headline(figure, _conditions(attack, eps, num_images))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=min(2, len(traces)), loc="outside lower center")
    return figure


@styled
def worst_images(
    clean: Any,
    attacked: Any,
    labels: Any,
    margins: Any,
    predicted: Any,
    classes: Sequence[str],
    eps: float,
    count: int = 8,
    attack: str = "",
) -> Figure:
    """The images that fell with the largest margin: as they are, what the attack added, and what the network took them for.

    A margin is how far the logit of the predicted class lies above that of the true one; of images that fell its sign is ignored.
    """
    labels, predicted, margins = as_numpy(labels), as_numpy(predicted), np.abs(_finite("margins", margins))
    fallen = np.flatnonzero(predicted != labels)
    if not len(fallen):
        raise WorkbookError(f"no image fell: the network is right on all {len(labels)}, so there is no worst one")
    worst = fallen[np.argsort(-margins[fallen], kind="stable")][:count]
    true, taken = labels[worst], predicted[worst]
    figure = adversarial_examples(as_numpy(clean)[worst], as_numpy(attacked)[worst], true, true, taken, classes, eps)
    natural, _, adversarial = np.reshape(np.array(figure.axes), (3, len(worst)))
    for top, bottom, index in zip(natural, adversarial, worst, strict=True):
        top.set_xlabel(brief(classes[int(labels[index])]), color=INK, fontsize=6.5, labelpad=2)
        for spine in top.spines.values():
            spine.set(color=GREY, linewidth=0.6)
        bottom.set_xlabel(f"{bottom.get_xlabel()}\n+{margins[index]:.2f}", color=darker(VERMILLION), fontsize=6.5, labelpad=2)
    figure.set_size_inches(max(ONE_COLUMN, figure.get_figwidth()), figure.get_figheight() + 0.35)
    told = f"{len(worst)} of the {len(fallen):,} images that fell ({_conditions(attack, eps, len(labels))}): the most certain "
    told += (
        f"errors. Below: true class; ✗ predicted class, + its logit above the true one's. Added: ×{1 / (2 * eps):.3g} around grey,"
    )
    told += f" so that black is −{eps_text(eps)} and white +{eps_text(eps)}."
    figure.supxlabel(_wrapped(told, figure.get_figwidth(), 6.5), fontsize=6.5)
    return figure


def _by_class(each: Any) -> dict[int, Any]:
    """For each class that has images the evaluation on these alone."""
    masks = {index: each.labels == index for index in range(len(each.classes))}
    return {
        index: replace(each, labels=each.labels[mask], predictions={name: p[mask] for name, p in each.predictions.items()})
        for index, mask in masks.items()
        if mask.any()
    }


@styled
def per_class(evaluations: Any, attacks: Sequence[str] | None = None) -> Figure:
    """Accuracy by class, natural and attacked, with 95 % intervals (Wilson); classes sorted by what survives all that is shown.

    One `Evaluation` or several of the same classes, in the order of the first, each on the images that all that is shown was asked
    of; the attack is the strongest unless given. Of more than twenty classes the ten best and the ten worst are shown.
    """
    several = _some("a plot by class", evaluations if isinstance(evaluations, Sequence) else [evaluations])
    first = several[0]
    if any(each.classes != first.classes for each in several):
        raise WorkbookError(f"networks are compared on the same classes; {first.network}'s are not those of all others")
    shared = [name for name in first.predictions if all(name in each.predictions for each in several)]
    strongest = sorted((name for name in shared if name != "natural"), key=first.together(shared).accuracy)[:1]
    names = list(dict.fromkeys([*(name for name in shared if name == "natural"), *(strongest if attacks is None else attacks)]))
    _some("a plot by class of all networks' attacks", names)
    several = [each.together(names) for each in several]
    parts = [_by_class(each) for each in several]
    robust = {index: each.worst_case(names).float().mean().item() for index, each in parts[0].items()}
    order = sorted(robust, key=lambda index: (-robust[index], index))
    if many := len(order) > MANY:
        order = [*order[: MANY // 2], *order[-(MANY // 2) :]]
    else:
        order += [index for index in range(len(first.classes)) if index not in robust]
    figure, axes = _panels(len(several), 2.5, 0.16 * max(4, len(order)) + 0.9, sharey=True)
    for ax, each, mine in zip(axes, several, parts, strict=True):
        for number, name in enumerate(names):
            rows = [row for row, index in enumerate(order) if index in mine]
            x = 100 * np.array([mine[order[row]].accuracy(name) for row in rows])
            bounds = 100 * np.array([mine[order[row]].interval(name) for row in rows]).reshape(-1, 2).T
            y = np.array(rows) + 0.36 * (number / max(1, len(names) - 1) - 0.5)
            look: dict[str, Any] = {"color": CYCLE[number % len(CYCLE)], "fmt": MARKERS[number % len(MARKERS)], "label": name}
            ax.errorbar(x, y, xerr=np.abs(bounds - x), markersize=3.2, elinewidth=0.7, capsize=0, **look)
        for row in (row for row, index in enumerate(order) if index not in mine):
            note(ax, "no image", (2, row), (0, 0), ("data", "data"), "#6A6A6A", va="center", style="italic")
        if many:
            ax.axhline(MANY / 2 - 0.5, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
        ax.set_yticks(range(len(order)), [first.classes[index] for index in order])
        ax.set(xlim=(-2, 102), ylim=(len(order) - 0.4, -0.6), xlabel="accuracy (%)")
        ax.set_title(each.network)
        ax.tick_params(axis="y", length=0)
    part = f": {MANY // 2} best and {MANY // 2} worst of {len(robust)} classes" if many else ""
    whose = f", of {first.network}" if len(several) > 1 else ""
    _headline(figure, f"Accuracy by class ({_of(several)}){part}, sorted by the share right under {' and '.join(names)}{whose}")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=min(4, len(names)), loc="outside lower center")
    return figure


@styled
def confusion(evaluation: Any, attack: str) -> Figure:
    """What each class (row) is taken for (column) under an attack, in percent of the row; the title says the commonest error."""
    evaluation = evaluation.together([attack])
    counts = np.zeros((len(evaluation.classes),) * 2, dtype=int)
    np.add.at(counts, (as_numpy(evaluation.labels), as_numpy(evaluation.predictions[attack])), 1)
    said = _commonest_error(counts, evaluation.classes)
    counts, classes = _most_confused(counts, evaluation.classes)
    part = f", the {MANY} classes with most errors" if len(classes) < len(evaluation.classes) else ""
    totals = counts.sum(axis=1)
    percent = 100 * counts / np.maximum(totals, 1)[:, None]
    small = len(classes) <= 12
    figure, axes = new_figure(
        width=max(ONE_COLUMN, 0.4 * len(classes) + 1.5) if small else 4.4,
        height=max(2.2, 0.3 * len(classes) + 1.3) if small else 4.2,
    )
    ax = axes[0, 0]
    # Errors are spread over many columns where there are many classes: the root keeps them visible beside the diagonal.
    image = ax.imshow(percent, cmap=HEAT, norm=PowerNorm(1 if small else 0.5, 0, 100), aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(counts.shape) if small else ():
        if totals[row]:
            color = "white" if percent[row, column] > 55 else INK
            ax.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", color=color, fontsize=6.5)
    step = math.ceil(len(classes) / 20) if len(classes) > 30 else 1
    names = [name if total else f"{name} (no image)" for name, total in zip(classes, totals, strict=True)]
    look: dict[str, Any] = {"fontsize": 7 if small else 5}
    ax.set_xticks(range(0, len(classes), step), classes[::step], rotation=45, ha="right", rotation_mode="anchor", **look)
    ax.set_yticks(range(0, len(classes), step), names[::step], **look)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.tick_params(length=0)
    ax.grid(False)
    words = f"{evaluation.network}, {attack} ({_of([evaluation])}){part}: {said}"
    ax.set_title(_wrapped(words, figure.get_figwidth() - 1 - (0.055 if small else 0.04) * max(map(len, names))))
    figure.colorbar(image, ax=ax, label="of the true class (%)", pad=0.03).outline.set_visible(False)
    return figure


def _errors(counts: np.ndarray) -> np.ndarray:
    return counts * (1 - np.eye(len(counts), dtype=int))


def _commonest_error(counts: np.ndarray, classes: Sequence[str]) -> str:
    errors, total = _errors(counts), counts.sum(axis=1)
    row, column = map(int, np.unravel_index(errors.argmax(), errors.shape))
    if not errors.any():
        return "no error"
    share = 100 * errors[row, column] / total[row]
    return f"most frequent error: {classes[row]} → {classes[column]}, {errors[row, column]:,} of {total[row]:,} ({share:.0f} %)"


def _most_confused(counts: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """As it is for so many classes as can be seen; else the classes with most errors, and all others together."""
    if len(classes) <= SEEN:
        return counts, classes
    errors = _errors(counts)
    worst = np.sort(np.argsort(-(errors.sum(axis=0) + errors.sum(axis=1)), kind="stable")[:MANY])
    place = np.full(len(classes), MANY)
    place[worst] = np.arange(MANY)
    merged = np.zeros((MANY + 1, MANY + 1), dtype=int)
    np.add.at(merged, (place[:, None], place[None, :]), counts)
    return merged, [*(classes[each] for each in worst.tolist()), "all others"]


@styled
def loss_surface(
    first: Any,
    second: Any,
    losses: Any,
    eps: float,
    wrong: Any = None,
    names: tuple[str, str] = ("sign of the gradient", "random direction"),
) -> Figure:
    """The loss around one image, `losses` [first, second], displacements in units of pixels in [0, 1]; the frame is the eps box.

    Where `wrong` is true the network errs (hatched). A surface steep at the image and ragged around it is a masked gradient.
    """
    x, y, heights = 255 * _finite("displacements", first), 255 * _finite("displacements", second), _finite("losses", losses)
    mask = np.zeros(heights.shape, bool) if wrong is None else as_numpy(wrong).astype(bool)
    if not heights.shape == mask.shape == (len(x), len(y)) or min(heights.shape) < 2:
        raise WorkbookError(
            f"expected losses (and errors) on a grid of {len(x)}x{len(y)}, at least 2x2; got {heights.shape}, {mask.shape}"
        )
    figure, axes = new_figure(width=ONE_COLUMN, height=3.2)
    ax = axes[0, 0]
    levels = np.linspace(heights.min(), heights.max() if np.ptp(heights) else heights.min() + 1, 13)
    filled = ax.contourf(x, y, heights.T, levels, cmap=HEAT)
    if np.ptp(heights):
        lines = ax.contour(x, y, heights.T, levels[2:-1:2], colors=INK, linewidths=0.5)
        for label in ax.clabel(lines, fontsize=5.5, fmt="%.2g", inline=False, colors=INK):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8})
            inside = ax.transAxes.inverted().transform(ax.transData.transform(label.get_position()))
            label.set_visible(bool((np.abs(inside - 0.5) < 0.42).all()))  # at the border they would be cut
    if mask.any():
        hatched = ax.contourf(x, y, mask.T.astype(float), [0.5, 1.5], colors="none", hatches=["////"])
        hatched.set(edgecolor=VERMILLION, linewidth=0)
        if not mask.all():
            ax.contour(x, y, mask.T.astype(float), [0.5], colors=VERMILLION, linewidths=1.4)
    corner, side = (-255 * eps, -255 * eps), 2 * 255 * eps
    ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=INK, linewidth=1.2, linestyle="--", gid="eps box"))
    ax.plot(0, 0, "P", color="white", markeredgecolor=INK, markersize=6, linestyle="none", gid="image")
    ax.set(xlabel=f"{names[0]} (in steps of 1/255)", ylabel=f"{names[1]} (in steps of 1/255)")
    ax.set_title(f"Loss around one image, eps {eps_text(eps)}")
    handles: list[Any] = [Line2D([], [], marker="P", color="white", markeredgecolor=INK, linestyle="none", label="the image")]
    handles.append(Line2D([], [], color=INK, linestyle="--", label=f"eps box, ±{eps_text(eps)}"))
    if wrong is not None:
        share = f"network errs ({100 * mask.mean():.0f} %)"
        handles.append(Patch(facecolor="white", edgecolor=VERMILLION, hatch="////", label=share))
    figure.legend(handles=handles, ncols=3, loc="outside lower center", columnspacing=1, handletextpad=0.5)
    figure.colorbar(filled, ax=ax, label="loss", pad=0.03, format="%.2g").outline.set_visible(False)
    return figure


@styled
def soundness_board(boards: Mapping[str, Sequence[Any]]) -> Figure:
    """Checks (rows) of each network (column): passed, to be looked at, failed or skipped, and the number that says so.

    `boards` is {network: [check, ...]}; a check has name, verdict, number, sentence. Symbols are drawn: no font can lack them.
    """
    found = [{check.name: check for check in checks} for checks in boards.values()]
    checks = _some("a board of checks", list(dict.fromkeys(name for each in found for name in each)))
    given = [check for each in found for check in each.values()]
    for check in given:
        if check.verdict not in VERDICTS:
            raise WorkbookError(f"check {check.name!r} has verdict {check.verdict!r}; known: {', '.join(VERDICTS)}")
    cell = max(0.8, *(0.065 * len(network) + 0.15 for network in boards), *(0.075 * len(check.number) for check in given))
    beside = 0.058 * max(len(name) for name in checks) + 0.3
    width = min(TWO_COLUMNS, max(ONE_COLUMN, cell * len(boards) + beside))
    letters = 6 * min(1, (width - beside) / len(boards) / cell)
    figure, axes = new_figure(width=width, height=0.21 * len(checks) + 0.95)
    ax = axes[0, 0]
    for column, mine in enumerate(found):
        for row, name in enumerate(checks):
            if name not in mine:
                continue
            symbol, color = VERDICTS[mine[name].verdict]
            place = (column - 0.48, row - 0.44)
            ax.add_patch(Rectangle(place, 0.96, 0.88, color=paler(color, 0.8), linewidth=0, gid=mine[name].verdict))
            side = column - 0.34 if mine[name].number else column
            ax.plot(side, row, marker=f"${symbol}$", color=darker(color), markersize=6, markeredgewidth=0.2, gid=name)
            ax.text(column - 0.2, row, mine[name].number, va="center", fontsize=letters)
    ax.set_xticks(range(len(boards)), list(boards))
    ax.set_yticks(range(len(checks)), checks)
    ax.set(xlim=(-0.5, len(boards) - 0.5), ylim=(len(checks) - 0.5, -0.5))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    numbers = [sum(check.verdict == verdict for check in given) for verdict in VERDICTS]
    handles = [
        Line2D([], [], linestyle="none", marker=f"${s}$", color=darker(c), markersize=6, markeredgewidth=0.2)
        for s, c in VERDICTS.values()
    ]
    words = [f"{verdict} ({number})" for verdict, number in zip(VERDICTS, numbers, strict=True)]
    figure.legend(handles, words, ncols=4, loc="outside lower center", handletextpad=0.2, columnspacing=1.2)
    ax.set_title(_wrapped("Checks of the attacks: can their numbers be believed?", width - beside))
    return figure


@styled
def paired(pairs: Records, eps: float | None = None) -> Figure:
    """Two networks on the same images: how many only the one gets right (to the right) and only the other (to the left).

    Each pair has one, other, attack, alone, other_alone, both, neither (counts of images) and p_value (McNemar).
    """
    figure, axes = new_figure(width=TWO_COLUMNS, height=0.42 * len(_some("a paired comparison", pairs)) + 0.85)
    ax = axes[0, 0]
    reach = 4.0
    for row, pair in enumerate(pairs):
        sides = ((pair["alone"], pair["one"], BLUE, ""), (-pair["other_alone"], pair["other"], VERMILLION, "////"))
        for value, network, color, hatch in sides:
            ax.barh(row, value, 0.56, color=paler(color, 0.5), edgecolor=color, hatch=hatch, linewidth=0.6)
            look: dict[str, Any] = {"va": "center", "ha": "right" if hatch else "left"}
            words = fill(f"{abs(value):,} {network} alone", 26)
            reach = max(reach, abs(value) / (1 - 0.021 * max(map(len, words.split("\n")))))  # the words stand beside the bar
            note(ax, words, (value, row), (-3 if hatch else 3, 0), ("data", "data"), darker(color), **look)
        p = "p < 0.001" if pair["p_value"] < 0.001 else f"p = {pair['p_value']:.3g}"
        verdict = "differ" if pair["p_value"] < 0.05 else "no evidence"
        words = f"{p}: {verdict}\nboth {pair['both']:,}, neither {pair['neither']:,}"
        note(ax, words, (1, row), (4, 0), ("axes fraction", "data"), va="center")
    ax.axvline(0, color=INK, linewidth=0.8)
    counts = [sum(pair[key] for key in ("alone", "other_alone", "both", "neither")) for pair in pairs]
    totals = dict.fromkeys(counts)
    own = ["" if len(totals) == 1 else f"\nn = {count:,}" for count in counts]
    ax.set_yticks(range(len(pairs)), [f"{pair['attack']}{words}" for pair, words in zip(pairs, own, strict=True)])
    ax.set(xlim=(-reach, reach), ylim=(len(pairs) - 0.4, -0.6), xlabel="images that only one of the two gets right")
    ax.locator_params(axis="x", integer=True)
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    number = "n = " + " or ".join(f"{total:,}" for total in totals)
    size = _conditions(eps=eps)
    ax.set_title(f"Paired on the same images ({', '.join(part for part in (size, number) if part)}), differ: p < 5 %")
    return figure


@styled
def spread(rows: Records, eps: float | None = None, num_images: int | None = None) -> Figure:
    """Accuracy over seeds: a dot a seed, a line at the mean, and in words mean and standard deviation (n − 1).

    Each row has network, attack and values, shares of one; each attack has its own panel and its own axis.
    """
    for row in _some("a plot of the spread over seeds", rows):
        _some(f"the spread of {row['network']} under {row['attack']}", row["values"])
    networks = list(dict.fromkeys(row["network"] for row in rows))
    groups = {attack: [row for row in rows if row["attack"] == attack] for attack in dict.fromkeys(row["attack"] for row in rows)}
    heights = [len(mine) + 1.8 for mine in groups.values()]
    figure, axes = new_figure(len(groups), 1, 4.6, 0.21 * sum(heights) + 0.4, height_ratios=heights)
    for ax, (attack, mine) in zip(axes[:, 0], groups.items(), strict=True):
        for place, row in enumerate(mine):
            values = 100 * _finite(f"accuracies of {row['network']}", row["values"])
            number = networks.index(row["network"])
            color, marker, mean = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)], values.mean()
            ax.plot(values, [place] * len(values), marker, color=color, markersize=4, alpha=0.6, markeredgewidth=0)
            ax.plot([mean, mean], [place - 0.36, place + 0.36], color=darker(color), linewidth=1.6, gid="mean")
            deviation = f"sd {values.std(ddof=1):.2f}, {len(values)} seeds" if len(values) > 1 else "one seed"
            words = f"{mean:.2f} % ({deviation})"
            note(ax, words, (1, place), (4, 0), ("axes fraction", "data"), darker(color), va="center")
        ax.set_yticks(range(len(mine)), [row["network"] for row in mine])
        ax.set(ylim=(len(mine) - 0.4, -0.6), title=attack)
        ax.margins(x=0.08)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
    axes[-1, 0].set_xlabel("accuracy (%)")
    _headline(
        figure, ", ".join(part for part in ("Mean and spread over seeds", _conditions(eps=eps, num_images=num_images)) if part)
    )
    return figure
