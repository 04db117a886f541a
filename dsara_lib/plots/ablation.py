"""Figures of the ablations (Tables 4 and 5): the scatter of Figure 6, and how far rows lie from what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..errors import WorkbookError
from ..legend import BLUE, GREY, INK, darker
from .base import ONE_COLUMN, TWO_COLUMNS, Figure, Record, Records, new_figure, note, styled
from .paper import PAPER, name_points

MOST_PANELS = 3  # beside each other
SEED_MARKS = ("o", "s", "^", "D", "v", "P", "X")


@styled
def ablation_scatter(panels: Mapping[str, Records], paper: Records = (), robust: str = "PGD20") -> Figure:
    """Natural against robust accuracy of the rows of an ablation, as Figure 6: the paper's hollow, ours filled with a cross
    of intervals at 95 %.

    `panels` are our rows by the conditions under which they were measured, each under its own; the paper's have the first panel.
    Each row has name, natural and robust in [0, 1], ours natural_interval and robust_interval as well.
    """
    shown: list[tuple[str, Records, bool]] = [("reported in the paper", paper, False)] if len(paper) else []
    shown += [(title, rows, True) for title, rows in panels.items()]
    if not shown or not all(len(rows) for _, rows, _ in shown):
        raise WorkbookError("a scatter of an ablation needs at least one row in each panel; got none")
    for title, rows, ours in shown:
        for row in rows:
            _check(title, row, ours)
    columns = min(MOST_PANELS, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure, axes = new_figure(lines, columns, ONE_COLUMN if columns == 1 else TWO_COLUMNS, 2.7 * lines + 0.25)
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    for ax, (title, rows, ours) in zip(axes.flat, shown, strict=False):
        _scatter(ax, rows, ours)
        ax.set_title(_broken(title, 34 if columns > 2 else 50), fontsize=7)
        ax.set(xlabel="natural accuracy (%)", ylabel=f"{robust} accuracy (%)")
    edge, face, *_ = PAPER
    handles = [Line2D([], [], marker="o", ls="none", color=edge, mfc=face, label="reported in the paper, one run each")] * bool(
        len(paper)
    )
    if panels:
        handles.append(
            Line2D(
                [],
                [],
                marker="o",
                ls="-",
                lw=0.8,
                color=BLUE,
                label="measured here, 95 % intervals (some may go on beyond the panel)",
            )
        )
    figure.legend(handles=handles, ncols=len(handles) if columns > 1 else 1, loc="outside lower center")
    figure.draw_without_rendering()
    for ax, (_, rows, _) in zip(axes.flat, shown, strict=False):
        name_points(ax, [(100 * row["natural"], 100 * row["robust"], row["name"]) for row in rows])
    return figure


def _check(title: str, row: Record, ours: bool) -> None:
    values = [row["natural"], row["robust"], *(row["natural_interval"] if ours else ()), *(row["robust_interval"] if ours else ())]
    if not all(0 <= value <= 1 for value in values):
        raise WorkbookError(f"expected accuracies in [0, 1]; {row['name']} ({title}) has {', '.join(map(str, values))}")


def _scatter(ax: Axes, rows: Records, ours: bool) -> None:
    edge, face, *_ = PAPER
    for row in rows:
        x, y = 100 * row["natural"], 100 * row["robust"]
        if ours:
            for (low, high), at, along in ((row["natural_interval"], y, "x"), (row["robust_interval"], x, "y")):
                ends, others = [100 * low, 100 * high], [at, at]
                places = (ends, others) if along == "x" else (others, ends)
                ax.plot(*places, color=BLUE, linewidth=0.8, alpha=0.55, solid_capstyle="butt", gid="interval", zorder=2)
    x, y = ([100 * row[key] for row in rows] for key in ("natural", "robust"))
    ax.scatter(x, y, 26, facecolors=BLUE if ours else face, edgecolors=BLUE if ours else edge, linewidths=1.1, zorder=3)
    for values, intervals, set_limits in (
        (x, [row.get("natural_interval", ()) for row in rows], ax.set_xlim),
        (y, [row.get("robust_interval", ()) for row in rows], ax.set_ylim),
    ):
        set_limits(*_view(values, [100 * end for each in intervals for end in each]))


def _view(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """Limits that hold all points; an interval much longer than the points lie apart must not push them together."""
    span = max(values) - min(values)
    most = max(1.2 * span, 6.0)
    low, high = max(min([*values, *ends]), min(values) - most), min(max([*values, *ends]), max(values) + most)
    space = 0.14 * max(high - low, 1.0)
    return max(low - space, -4.0), min(high + space, 104.0)


@styled
def forest(rows: Records, title: str = "", unit: str = "points") -> Figure:
    """Differences to a reference: a filled diamond and a line for all seeds together with its 95 % interval, small marks for each
    seed, a hollow circle for the paper's difference where it has one. Left of 0 the row is worse, right of it better.

    Each row has measure (its panel), name, value, low and high in points, and, if known, by_seed {seed: (value, low, high)},
    printed and p_value; value None draws the paper's alone.
    """
    if not len(rows):
        raise WorkbookError("a forest plot needs at least one row; got none")
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    seeds = sorted({seed for row in rows for seed in row.get("by_seed") or {}})
    height = 0.36 * len(names) + 0.5 + 0.16 * bool(title) + 0.35
    figure, axes = new_figure(1, len(measures), TWO_COLUMNS, height, sharey=True)
    for ax, measure in zip(axes[0], measures, strict=True):
        for row in rows:
            if row["measure"] == measure:
                _difference(ax, names.index(row["name"]), row, seeds)
        ax.axvline(0, color=INK, linewidth=0.8, zorder=1, gid="no difference")
        ax.set(xlabel=f"difference in {measure} accuracy ({unit})", ylim=(len(names) - 0.4, -0.6), title=measure)
        ax.set_yticks(range(len(names)), [_broken(name, 42) for name in names])
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.08)
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, -1), max(high, 1))
    handles = [Line2D([], [], marker="D", color=BLUE, markersize=5, lw=1.2, label="all seeds, 95 % interval")]
    handles += [
        Line2D([], [], marker=SEED_MARKS[i % 7], ls="none", color=GREY, markersize=3, label=f"seed {s}")
        for i, s in enumerate(seeds[:6])
    ]
    if any(row.get("printed") is not None for row in rows):
        handles.append(Line2D([], [], marker="o", ls="none", color=PAPER[0], mfc="none", label="the paper's, one run each"))
    figure.legend(handles=handles, ncols=min(len(handles), 6), loc="outside lower center", columnspacing=1, handletextpad=0.4)
    if title:
        figure.suptitle(_broken(title, 120), x=0.01, ha="left", fontsize=8)
    return figure


def _difference(ax: Axes, place: int, row: Record, seeds: Sequence[Any]) -> None:
    if row.get("printed") is not None:
        ax.plot(row["printed"], place - 0.26, "o", color=PAPER[0], markerfacecolor="none", markersize=5, gid="paper", zorder=3)
    if row.get("value") is None:
        return
    ax.plot([row["low"], row["high"]], [place, place], color=BLUE, linewidth=1.4, solid_capstyle="butt", gid="interval", zorder=2)
    ax.plot(row["value"], place, "D", color=BLUE, markersize=5, gid="pooled", zorder=4)
    mine = row.get("by_seed") or {}
    for number, seed in enumerate(seeds):
        if seed in mine and len(mine) > 1:
            at, (value, low, high) = place + 0.16 + 0.2 * number / max(1, len(seeds) - 1), mine[seed]
            ax.plot([low, high], [at, at], color=GREY, linewidth=0.5, alpha=0.7, zorder=1.5, gid="seed interval")
            ax.plot(value, at, SEED_MARKS[number % 7], color=GREY, markersize=2.6, markeredgewidth=0, gid="seed", zorder=3)
    if row.get("p_value") is not None:
        p = "p < 0.001" if row["p_value"] < 0.001 else f"p = {row['p_value']:.3f}"
        note(ax, p, (1, place), (-2, 4), ("axes fraction", "data"), darker(BLUE), ha="right", fontsize=5.5)


def _broken(words: str, letters: int) -> str:
    """In lines of at most so many letters, where words allow it."""
    lines = [""]
    for word in words.split():
        fits = len(lines[-1]) + len(word) < letters
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if fits or not lines[-1] else [*lines, word]
    return "\n".join(lines)
