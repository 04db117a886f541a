"""Figures of whole networks (Section 4.2, Table 1): how the cells are stacked, and what the network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..legend import (
    BLUE,
    GREY,
    KIND_COLORS,
    PALE,
    darker,
    paler,
)
from .base import (
    TWO_COLUMNS,
    Figure,
    Records,
    new_figure,
    note,
    styled,
)

GAP = 0.16
LETTERS = {"accurate": "A", "robust": "R", "reduction": "↓"}
COSTS = (("parameters", "M", "parameters"), ("flops", "G", "FLOPs"))  # in the paper's units, or smaller ones where all is small
UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


@styled
def cost_dots(rows: Records) -> Figure:
    """Parameters and FLOPs of architectures: hollow as their paper's table says, filled as counted here.

    Each row has network and any of parameters, flops, paper_parameters, paper_flops (numbers).
    """
    figure, axes = new_figure(1, 2, TWO_COLUMNS, 0.24 * len(rows) + 0.95, sharey=True)
    paper, here = "#5F5F5F", BLUE
    for ax, (key, letter, words) in zip(axes[0], COSTS, strict=True):
        largest = max((row[name] for row in rows for name in (key, f"paper_{key}") if row.get(name) is not None), default=math.inf)
        letter = next((each for each in ("G", "M", "k") if UNITS[each] <= UNITS[letter] and 0.1 * UNITS[each] <= largest), "k")
        unit = UNITS[letter]
        for place, row in enumerate(rows):
            reported, counted = row.get(f"paper_{key}"), row.get(key)
            known = [value / unit for value in (reported, counted) if value is not None]
            ax.plot(known, [place] * len(known), color=GREY, linewidth=0.8, zorder=1)
            if reported is not None:
                ax.scatter(reported / unit, place, 40, facecolors="none", edgecolors=paper, linewidths=1.1, zorder=2)
            if counted is not None:
                ax.scatter(counted / unit, place, 14, color=here, zorder=3)
            if known:
                note(ax, f"{known[-1]:.2f}", (max(known), place), (7, 0), ("data", "data"), va="center", fontsize=6)
        ax.set_xlabel(f"{words} ({letter})")
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlim(0, 1.15 * ax.dataLim.x1)
    axes[0, 0].set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    axes[0, 0].set_title("Size")
    axes[0, 1].set_title("Cost, in the convention of Table 1")
    handles = [
        Line2D([], [], marker="o", ls="", color=paper, mfc="none", ms=6, label="the paper's table"),
        Line2D([], [], marker="o", ls="", color=here, label="counted here"),
    ]
    if not any(row.get(f"paper_{key}") is not None for row in rows for key, _, _ in COSTS):
        del handles[0]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")
    return figure


@styled
def stack(slots: Sequence[Any], image_size: int | None = None) -> Figure:
    """The whole network, left to right: one box for each cell, as high as its output is large and as wide as it has
    channels; with `image_size` the sizes are in pixels."""
    widest = max(slot.channels for slot in slots)
    figure, axes = new_figure(width=TWO_COLUMNS, height=1.9)
    ax = axes[0, 0]
    _box(ax, 0, 0.5, 1, 1, PALE, GREY, "stem")
    x, before = 0.5 + GAP, 1.0
    for _, group in groupby(slots, key=lambda slot: (slot.kind, slot.resolution_divisor, slot.channels)):
        members, start = list(group), x
        slot = members[0]
        color, height, width = KIND_COLORS[slot.kind], 1 / slot.resolution_divisor, 0.45 + 0.55 * slot.channels / widest
        for member in members:
            _box(ax, x, width, before, height, paler(color, 0.45), color, LETTERS[member.kind])
            x, before = x + width + GAP, height
        size = "full size" if height == 1 else f"1/{slot.resolution_divisor}"
        if image_size is not None:
            size = f"{image_size // slot.resolution_divisor}×{image_size // slot.resolution_divisor}"
        count = f"{len(members)}× " if len(members) > 1 else ""
        words = f"{count}{slot.kind}\n{slot.channels} channels\n{size}"
        ax.text((start + x - GAP) / 2, -0.56, words, ha="center", va="top", fontsize=6.5, color=darker(color))
    _box(ax, x, 0.5, 0.48, 0.48, PALE, GREY, "classifier")
    ax.set(xlim=(-0.3, x + 0.8), ylim=(-1.0, 0.55))
    ax.set_title(f"{len(slots)} cells; height: resolution, width: channels of a node, ↓: halves the resolution")
    ax.axis("off")
    return figure


def _box(ax: Axes, x: float, width: float, left: float, right: float, face: str, edge: str, words: str) -> None:
    """A trapezium from height `left` to height `right`."""
    corners = [(x, -left / 2), (x, left / 2), (x + width, right / 2), (x + width, -right / 2)]
    ax.fill(*zip(*corners, strict=True), facecolor=face, edgecolor=edge, linewidth=0.8)
    upright = len(words) == 1
    look: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": 8 if upright else 6,
        "rotation": 0 if upright else 90,
    }
    ax.text(x + width / 2, 0, words, **look)
