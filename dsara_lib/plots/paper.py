"""Our results beside the paper's, in a way that does not pass one off as the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..errors import WorkbookError
from ..legend import (
    BLUE,
    GREY,
)
from .base import (
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    Record,
    Records,
    new_figure,
    points_per_pixel,
    styled,
)

# Edge, face, line and name of the points that the paper reports, and of those measured here.
PAPER = ("#5F5F5F", "none", "--", "reported in the paper")
OURS = (BLUE, BLUE, "-")


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats or equals in both and beats in one, by growing first coordinate."""

    def dominated(i: int) -> bool:
        return any(p != points[i] and p[0] >= points[i][0] and p[1] >= points[i][1] for p in points)

    return sorted((i for i in range(len(points)) if not dominated(i)), key=lambda i: points[i])


@styled
def pareto(points_ours: Records, points_paper: Records = (), robust: str = "PGD20", ours: str = "measured here") -> Figure:
    """Natural against robust accuracy, one panel for each data set. The paper's points are hollow, ours are filled, and
    each group has a front of its own, since data, size of the networks and training may differ between them.

    Each point has network, data, natural and robust, the accuracies in [0, 1]; `ours` says how ours were made.
    """
    groups: list[tuple[Records, str, str, str, str]] = [(points_paper, *PAPER), (points_ours, *OURS, ours)]
    for point in (*points_ours, *points_paper):
        if not (0 <= point["natural"] <= 1 and 0 <= point["robust"] <= 1):
            came = f"{point['natural']} and {point['robust']}"
            raise WorkbookError(f"expected accuracies in [0, 1]; {point['network']} on {point['data']} has {came}")
    panels = list(dict.fromkeys(point["data"] for points, *_ in groups for point in points))
    width = ONE_COLUMN if len(panels) < 2 else TWO_COLUMNS
    figure, axes = new_figure(1, max(1, len(panels)), width, 3.1)
    for ax, data in zip(axes[0], panels, strict=False):
        here = [group for group in groups if _on(data, group[0])]
        for points, color, face, line, _ in here:
            mine = _on(data, points)
            x, y = 100 * np.array([point["natural"] for point in mine]), 100 * np.array([p["robust"] for p in mine])
            ax.scatter(x, y, 26, facecolors=face, edgecolors=color, linewidths=1.1, zorder=3)
            edge = front(list(zip(x.tolist(), y.tolist(), strict=True)))
            if len(edge) > 1:  # steps: what lies below and left of them is beaten
                ax.plot(x[edge], y[edge], line, color=color, linewidth=0.8, drawstyle="steps-pre", zorder=2)
        ax.set_title(data if len(here) > 1 else f"{data}: {here[0][-1]}")
        ax.margins(0.22, 0.16)
        ax.set(xlabel="natural accuracy (%)", ylabel=f"{robust} accuracy (%)")
    handles = [
        Line2D([], [], marker="o", ls=line, color=color, mfc=face, lw=0.8, label=f"{whose}, with front")
        for points, color, face, line, whose in groups
        if points
    ]
    figure.legend(handles=handles, ncols=len(axes[0]), loc="outside lower center")
    figure.draw_without_rendering()
    for ax, data in zip(axes[0], panels, strict=False):
        mine = _on(data, [*points_paper, *points_ours])
        name_points(ax, [(100 * p["natural"], 100 * p["robust"], p["network"]) for p in mine])
    return figure


def _on(data: str, points: Records) -> list[Record]:
    return [point for point in points if point["data"] == data]


def name_points(ax: Axes, points: Sequence[tuple[float, float, str]], size: float = 6) -> None:
    """Write each name beside its point, where it covers no point, line or other name; a leader line to a far one."""
    scale = points_per_pixel(ax)
    spots = ax.transData.transform([(x, y) for x, y, _ in points]) * scale
    inside = np.array(ax.get_window_extent().extents) * scale
    obstacles = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    obstacles += [(x - 1, y - 1, x + 1, y + 1) for line in ax.lines for x, y in _along(line, scale)]
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": size, "va": "bottom", "zorder": 4}
    texts = [ax.annotate(name, (x, y), (0, 0), **look) for x, y, name in points]
    sizes = [np.array(text.get_window_extent().size) * scale for text in texts]
    boxes: dict[int, Box] = {}
    for _ in range(4):  # each gives way to the others, until all have found a place
        for i, (spot, size_of) in enumerate(zip(spots, sizes, strict=True)):
            taken = np.array([*obstacles, *(box[:4] for j, box in boxes.items() if j != i)])
            cost = partial(_cost, taken=taken, strangers=np.delete(spots, i, axis=0), inside=inside)
            boxes[i] = min(_label_places(*spot, *size_of), key=cost)
    for i, (left, low, right, high, distance) in boxes.items():
        x, y = spots[i]
        texts[i].set_position((left - x, low - y))
        if distance > 9:
            end = (min(max(x, left), right) - x, (high if high < y else low) - y)
            leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            ax.annotate("", points[i][:2], end, textcoords="offset points", arrowprops=leader, zorder=2.5)


def _along(line: Line2D, scale: float) -> Iterator[tuple[float, float]]:
    """Places every two points along a line of steps."""
    corners = line.get_transform().transform(line.get_xydata()) * scale
    for (x0, y0), (x1, y1) in pairwise(corners):
        for way in (((x0, y0), (x0, y1)), ((x0, y1), (x1, y1))):
            number = max(2, int(math.dist(*way) / 2))
            yield from zip(*(np.linspace(a, b, number) for a, b in zip(*way, strict=True)), strict=True)


Box = tuple[float, float, float, float, float]


def _label_places(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Boxes around a point and their distances from it, the pleasant ones first: right, left, above, below, farther."""
    for distance in (5, 8, 13, 19, 26):
        for turn in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200):
            dx, dy = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            left = x + distance * dx - width * (1 - dx) / 2
            low = y + distance * dy - height * (1 - dy) / 2
            yield left, low, left + width, low + height, distance


def _cost(place: Box, taken: np.ndarray, strangers: np.ndarray, inside: np.ndarray) -> float:
    """How bad a place is: what it covers, where it leaves the axes, whether it seems to name another point, how far it is."""
    left, low, right, high, distance = place
    shared = np.minimum((right, high), taken[:, 2:]) - np.maximum((left, low), taken[:, :2])
    covered = np.prod(np.maximum(shared, 0), axis=1).sum()
    over = (inside[0] - left, right - inside[2], inside[1] - low, high - inside[3])
    outside = sum(max(0.0, each) for each in over)
    ways = strangers - np.clip(strangers, (left, low), (right, high))
    nearest = min(np.hypot(*ways.T), default=math.inf)
    return 20 * covered + 50 * outside + (12 if nearest < distance else 0) + distance
