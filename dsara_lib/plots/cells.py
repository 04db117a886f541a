"""Figures of the cells that a search finds (Section 6.5, Figure 5): their operations, how firm they are, when they came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..architecture import OPERATIONS, Genotype
from ..legend import GREY, INK, KIND_COLORS, edge_name, edges_of, operation_color, short
from .base import TWO_COLUMNS, Figure, Records, epoch_axis, last_epoch, new_figure, note, stage_starts, styled
from .search import kept_edges, softmax


@styled
def operation_counts(genotypes: Mapping[str, Genotype]) -> Figure:
    """Which operations the kept edges of each kind of cell have: a bar for each genotype, a box for each operation."""
    kinds = [kind for kind in KIND_COLORS if any(kind in each.cells for each in genotypes.values())]
    figure, axes = new_figure(1, len(kinds), TWO_COLUMNS, 0.3 * len(genotypes) + 0.95, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        for place, genotype in enumerate(genotypes.values()):
            counts = Counter(edge.operation for node in genotype.cells.get(kind, ()) for edge in node)
            left = 0
            for name in sorted(counts, key=[*OPERATIONS].index):
                look = {"color": operation_color(name), "edgecolor": "white", "linewidth": 0.8}
                ax.barh(place, counts[name], 0.72, left, **look)
                ax.text(left + counts[name] / 2, place, str(counts[name]), color="white", ha="center", va="center", fontsize=6.5)
                left += counts[name]
        ax.set_title(f"{kind} cell")
        ax.set_xlabel("kept edges")
        ax.set_xticks(range(0, 9, 2))
        ax.grid(False, axis="y")
    axes[0, 0].set_yticks(range(len(genotypes)), list(genotypes))
    axes[0, 0].set_ylim(len(genotypes) - 0.45, -0.55)
    handles = [Rectangle((0, 0), 1, 1, color=operation_color(name), label=short(name)) for name in OPERATIONS]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center", handlelength=0.9, columnspacing=1.2)
    return figure


@styled
def edge_history(epochs: Records, edges: Any, chosen: int | None = None) -> Figure:
    """Which edges the genotype of each epoch keeps, and with which operation (colour); white: not kept.

    `edges` are names such as '0->2', in the order in which they are drawn.
    """
    pairs = list(edges_of(edges))
    genotypes = [(record["epoch"], record["genotype"]["cells"]) for record in epochs if record.get("genotype")]
    kinds = [kind for kind in KIND_COLORS if genotypes and kind in genotypes[0][1]]
    figure, axes = new_figure(1, max(1, len(kinds)), TWO_COLUMNS, 0.15 * len(pairs) + 0.95, sharey=True)
    shown: set[str] = set()
    for ax, kind in zip(axes[0], kinds, strict=False):
        for epoch, cells in genotypes:
            for node, incoming in enumerate(cells[kind], start=2):
                for operation, source in incoming:
                    at = pairs.index((source, node))
                    ax.add_patch(Rectangle((epoch - 1, at - 0.42), 1, 0.84, color=operation_color(operation), linewidth=0))
                    shown.add(operation)
        ax.set_title(f"{kind} cell")
        epoch_axis(ax, last_epoch(epochs))
        for above in (i for i in range(1, len(pairs)) if pairs[i][1] != pairs[i - 1][1]):
            ax.axhline(above - 0.5, color=GREY, linewidth=0.5)
        for start in list(stage_starts(epochs).values())[1:]:
            ax.axvline(start, color="#7A6F45", linewidth=1.0, linestyle=(0, (3, 2)))
        if chosen is not None:
            ax.axvspan(chosen - 1, chosen, facecolor="none", edgecolor=INK, linewidth=1.3, zorder=3)
        ax.grid(False)
    axes[0, 0].set_yticks(range(len(pairs)), [edge_name(*pair) for pair in pairs])
    axes[0, 0].set_ylim(len(pairs) - 0.5, -0.5)
    axes[0, 0].set_ylabel("edge")
    handles: list[Any] = [
        Rectangle((0, 0), 1, 1, color=operation_color(name), label=short(name)) for name in OPERATIONS if name in shown
    ]
    if len(stage_starts(epochs)) > 1:
        handles.append(Line2D([], [], color="#7A6F45", linestyle=(0, (3, 2)), label="next stage"))
    if chosen is not None:
        handles.append(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=INK, label="chosen epoch"))
    figure.legend(handles=handles, ncols=5, loc="outside lower center", handlelength=1.1)
    return figure


@styled
def decisions(alphas: Mapping[str, Any], epoch: int = -1) -> Figure:
    """How firmly each edge has decided: the weight of its best operation (filled where the genotype keeps the edge,
    hollow where not), the bar below it down to the second best, and the level at which all weigh alike."""
    kinds = [kind for kind in KIND_COLORS if kind in alphas]
    names, pairs = [str(name) for name in alphas["operations"]], edges_of(alphas["edges"])
    kept = kept_edges(alphas, epoch)
    figure, axes = new_figure(1, len(kinds), TWO_COLUMNS, 2.5, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        weights = softmax(np.asarray(alphas[kind], dtype=float)[epoch])
        on = {edge for edge, _ in kept[kind]}
        for edge, row in enumerate(weights):
            best = int(row.argmax())
            color = operation_color(names[best])
            second = float(np.sort(row)[-2])
            ax.plot([edge, edge], [second, row[best]], color=color, linewidth=2.2, alpha=0.5, solid_capstyle="butt")
            face = color if edge in on else "white"
            ax.plot(edge, row[best], "o", color=color, markerfacecolor=face, markersize=4.5)
        ax.axhline(1 / len(names), color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0.5)
        look = {"rotation": 90, "fontsize": 6}
        ax.set_xticks(range(len(pairs)), [edge_name(*pair) for pair in pairs], **look)
        for above in (i for i in range(1, len(pairs)) if pairs[i][1] != pairs[i - 1][1]):
            ax.axvline(above - 0.5, color=GREY, linewidth=0.5)
        ax.set_title(f"{kind} cell")
        ax.grid(False, axis="x")
    axes[0, 0].set_ylabel("softmax(α)")
    note(axes[0, -1], "uniform", (1, 1 / len(names)), (-2, 2), ("axes fraction", "data"), "#6A6A6A", ha="right")
    handles: list[Any] = [Rectangle((0, 0), 1, 1, color=operation_color(name), label=short(name)) for name in names]
    handles.append(Line2D([], [], marker="o", ls="", color=INK, markersize=4, label="kept"))
    handles.append(Line2D([], [], marker="o", ls="", color=INK, mfc="white", markersize=4, label="not kept"))
    figure.legend(handles=handles, ncols=9, loc="outside lower center", handlelength=0.9, columnspacing=1.0)
    return figure
