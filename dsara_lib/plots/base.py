"""The style of all figures, how they are saved and shown, and the parts that several of them share."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from itertools import count, groupby
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap

from ..legend import (
    BLUE,
    GREY,
    INK,
    darker,
)
from ..runs import write_atomically

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches, of a two-column paper
SCREEN_DPI, PRINT_DPI = 192, 300
LINES = ("-", "--", ":", "-.")
AROUND = LinearSegmentedColormap.from_list("brown to white to blue", ["#E3D7C1", "#F1EBE0", "#FFFFFF", "#7FB8DA", "#00406A"])
HEAT = LinearSegmentedColormap.from_list("white to blue", ["#FFFFFF", "#BBD9EC", BLUE, "#00324F"])
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.edgecolor": "#606060",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#404040",
    "ytick.color": "#404040",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dsara",  # the same figure gives the same bytes
}

Record = Mapping[str, Any]
Records = Sequence[Record]


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        data = to_bytes(self, "png", SCREEN_DPI)
        width, height = self.get_size_inches() * SCREEN_DPI / 2
        return data, {"width": round(width), "height": round(height)}


def style() -> AbstractContextManager[None]:
    """Inside, matplotlib draws in this library's style; for figures of one's own beside these."""
    return matplotlib.rc_context(RC)


def to_bytes(figure: matplotlib.figure.Figure, format: str, dpi: int = PRINT_DPI) -> bytes:
    """The figure as an SVG or PNG file; the same figure gives the same bytes."""
    written = io.BytesIO()
    with style():
        figure.savefig(written, format=format, dpi=dpi, metadata={"Date": None} if format == "svg" else None)
    return written.getvalue()


def save(figure: matplotlib.figure.Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `name`.svg and `name`.png, each whole or not at all; the paths written."""
    paths = [Path(folder) / f"{name}.{format}" for format in ("svg", "png")]
    for path in paths:
        write_atomically(path, to_bytes(figure, path.suffix[1:]))
    return paths


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(function)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with style():
            return function(*args, **kwargs)

    return drawn


def new_figure(rows: int = 1, columns: int = 1, width: float = ONE_COLUMN, height: float = 2.1, **options: Any):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def series(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and values of a metric where it was measured: stage one has no gamma, and a missing value is no zero.

    Records of steps lie evenly within their epoch, which ends at its number.
    """
    x, y = [], []
    for epoch, group in groupby(records, key=lambda record: record["epoch"]):
        steps = list(group)
        for index, record in enumerate(steps, start=1):
            value = record.get(key)
            if value is not None and math.isfinite(value):
                x.append(epoch - 1 + index / len(steps))
                y.append(value)
    return np.array(x, dtype=float), np.array(y, dtype=float)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Means over `window` neighbours, fewer at the ends, so that a constant stays itself."""
    if window < 2 or len(values) < 3:
        return values
    ones = np.ones(min(window, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def stage_starts(records: Records) -> dict[int, int]:
    """For each stage of the search the epoch before its first: 0 and, after twenty epochs of stage one, 20."""
    starts: dict[int, int] = {}
    for record in records:
        if "stage" in record:
            starts.setdefault(record["stage"], record["epoch"] - 1)
    return starts


def mark_stages(axes: Sequence[Axes], records: Records, words: bool = True) -> None:
    """Shade what comes after the first stage, and write the stage's number where it begins."""
    starts = stage_starts(records)
    if len(starts) < 2:
        return
    for stage, start in starts.items():
        end = min((other for other in starts.values() if other > start), default=last_epoch(records))
        for number, ax in enumerate(axes):
            if stage > 1:
                ax.axvspan(start, end, color="#F3EFE2", zorder=0, linewidth=0)
                ax.axvline(start, color="#B9AE87", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
            if words and number == 0:
                left, right = ax.get_xlim()
                if left <= start < right:
                    note(ax, f"stage {stage}", (start, 1), (3, -3), ("data", "axes fraction"), "#7A6F45", va="top")


def note(
    ax: Axes,
    words: str,
    at: tuple[float, float],
    shift: tuple[float, float],
    coordinates: tuple[str, str],
    color: str = INK,
    **options: Any,
) -> None:
    """Small words, `shift` points from a place in the axes."""
    look: dict[str, Any] = {"fontsize": 6.5, "color": color, "annotation_clip": False} | options
    ax.annotate(words, at, shift, xycoords=coordinates, textcoords="offset points", **look)


def epoch_axis(ax: Axes, last: int, start: float = 0) -> None:
    """From the start to the last epoch, with at most nine ticks at whole ones."""
    round_steps = (factor * 10**power for power in count() for factor in (1, 2, 2.5, 5) if power or factor != 2.5)
    step = int(next(step for step in round_steps if last <= 8 * step))
    ax.set_xlim(start, last if last > 1 else 1.5)
    ax.set_xticks([tick for tick in range(0, last + 1, step) if tick >= start])
    ax.set_xlabel("epoch")


def last_epoch(records: Records) -> int:
    return max((record["epoch"] for record in records), default=1)


def points_per_pixel(ax: Axes) -> float:
    """Points, of which an inch has 72, to one pixel of the figure."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return 72 / figure.dpi


def name_ends(ax: Axes, ends: Mapping[str, tuple[float, str]], size: float = 6.5) -> None:
    """Words at the right border beside their lines' last heights, in their colours, moved apart where they touch."""
    if not ends:
        return
    low, high = ax.get_ylim()
    points = ax.get_window_extent().height * points_per_pixel(ax)
    gap = (high - low) * 1.25 * size / points
    names = sorted(ends, key=lambda name: ends[name][0])
    heights = apart([ends[name][0] for name in names], gap)
    for name, height in zip(names, heights, strict=True):
        look = {"va": "center", "fontsize": size}
        note(ax, name, (1, height), (4, 0), ("axes fraction", "data"), darker(ends[name][1]), **look)


def apart(sorted_values: Sequence[float], gap: float) -> list[float]:
    """The values moved as little as keeps `gap` between neighbours (least squares: blocks that touch move as one)."""
    blocks: list[list[float]] = []
    for index, value in enumerate(sorted_values):
        blocks.append([value - index * gap])
        while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) > sum(blocks[-1]) / len(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [sum(block) / len(block) for block in blocks for _ in block]
    return [level + index * gap for index, level in enumerate(levels)]


def raw_and_smooth(ax: Axes, records: Records, key: str, color: str, label: str, line: str = "-") -> bool:
    """The raw values pale and their running mean in full colour; False where there are none."""
    x, y = series(records, key)
    if not len(x):
        return False
    ax.plot(x, y, color=color, alpha=0.3, linewidth=0.6, marker="." if len(x) == 1 else None)
    ax.plot(x, smooth(y, max(1, len(y) // 20)), line, color=color, label=label, marker="o" if len(x) == 1 else None)
    return True


def say(ax: Axes, words: str) -> None:
    """Words in place of data that this run does not have."""
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes, color=GREY, style="italic")
    ax.set_yticks([])
    ax.grid(False)


def accuracy_limits(highest: float) -> tuple[float, float]:
    """Bounds of an axis of accuracies in percent: from 0, to 100 unless less than half of that is needed."""
    top = 100.0 if highest > 50 else max(10.0, 10.0 * math.ceil(highest / 10))
    return -0.02 * top, 1.04 * top


def chance_line(ax: Axes, chance: float | None) -> None:
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0.5)
        look = {"ha": "right", "va": "bottom"}
        note(ax, "chance", (1, 100 * chance), (-2, 1), ("axes fraction", "data"), "#6A6A6A", **look)


def brief(name: str, most: int = 13) -> str:
    """A class's name where there is room for so many letters: of a longer one the beginning and the end, which tell more."""
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def as_numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
