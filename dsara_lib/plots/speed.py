"""Figures of the benchmarks: what the fast ways gain, and how the cost of crafting grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D

from ..legend import BLUE, GREY, INK
from .base import ONE_COLUMN, TWO_COLUMNS, Figure, Record, Records, new_figure, note, say, styled

SIDES = (("plain", GREY, "s"), ("fast", BLUE, "o"))
VARIED = (("images", "images in a batch"), ("cells", "cells of the supernet"), ("steps", "steps of PGD"))


@styled
def scaling(entries: Records) -> Figure:
    """Seconds of crafting against images, cells and PGD steps, with the straight lines that fit best.

    Each entry has what ("images", "cells" or "steps"), value, plain and fast (seconds).
    """
    figure, axes = new_figure(1, 3, TWO_COLUMNS, 2.2)
    for ax, (what, words) in zip(axes[0], VARIED, strict=True):
        rows = sorted((entry for entry in entries if entry["what"] == what), key=lambda entry: entry["value"])
        ax.set_xlabel(words)
        if not rows:
            say(ax, "not measured")
            continue
        x = np.array([row["value"] for row in rows], dtype=float)
        for number, (side, color, marker) in enumerate(SIDES):
            y = np.array([row[side] for row in rows], dtype=float)
            ax.plot(x, y, marker, color=color)
            if len(x) > 1:
                slope, start = np.polyfit(x, y, 1)
                ax.plot([0, x[-1]], [start, start + slope * x[-1]], color=color, linewidth=0.9)
                spread = ((y - y.mean()) ** 2).sum()
                fit = 1 - ((y - start - slope * x) ** 2).sum() / spread if spread else 1.0
                place = (0.04, 0.97 - 0.1 * number)
                note(ax, f"{side}: R² = {fit:.3f}", place, (0, 0), ("axes fraction", "axes fraction"), color, va="top")
        ax.set_xlim(0, 1.06 * x[-1])
        ax.set_ylim(0, 1.3 * max(max(row["plain"], row["fast"]) for row in rows))
        ax.set_xticks(x)
    axes[0, 0].set_title("Crafting, one thing varied at a time")
    axes[0, 0].set_ylabel("seconds")
    handles = [Line2D([], [], color=color, marker=marker, label=f"{side} supernet") for side, color, marker in SIDES]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")
    return figure


@styled
def plain_and_fast(entries: Records) -> Figure:
    """What the fast way takes of the plain one's time (or operations, or bytes), which is 100 %, and how many times less that is.

    Each entry has name, dtype, batch, plain, fast, ratio and unit, and perhaps ratio_min and ratio_max.
    """
    figure, axes = new_figure(1, 1, ONE_COLUMN * 1.5, 0.3 * len(entries) + 0.7)
    ax = axes[0, 0]
    for place, entry in enumerate(entries):
        share = 100 / entry["ratio"]
        ax.barh(place, 100, 0.66, color="#EDEDED", zorder=1)
        ax.barh(place, share, 0.66, color=BLUE, zorder=2)
        if "ratio_min" in entry:
            ends = [100 / entry["ratio_max"], 100 / entry["ratio_min"]]
            ax.plot(ends, [place] * 2, color=INK, linewidth=1, zorder=3)
        words = f"{entry['ratio']:.2f}× {_less(entry)}"
        note(ax, words, (1, place), (5, 0), ("axes fraction", "data"), va="center")
    ax.set_yticks(range(len(entries)), _names(entries))
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.set_xlim(0, max(100, *(100 / entry.get("ratio_min", entry["ratio"]) for entry in entries)))
    ax.set_title("How much the fast way takes")
    ax.set_xlabel("fast, in percent of plain; the line: all rounds")
    ax.grid(False, axis="y")
    return figure


def _less(entry: Record) -> str:
    return {"operations": "fewer", "bytes": "less"}.get(entry["unit"], "as fast")


def _names(entries: Sequence[Record]) -> list[str]:
    dtypes = len({entry["dtype"] for entry in entries}) > 1
    return [f"{e['name'].replace('_', ' ')}, batch {e['batch']}{', ' + e['dtype'] if dtypes else ''}" for e in entries]
