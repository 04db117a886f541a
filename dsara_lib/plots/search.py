"""Figures of the search (Sections 4.3 and 4.4): what the alphas do, what moves them, and which epoch is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..architecture import SearchSpace, discretise
from ..errors import WorkbookError
from ..legend import (
    BLUE,
    GREEN,
    GREY,
    INK,
    KIND_COLORS,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILLION,
    edge_name,
    edges_of,
    operation_color,
    paler,
    short,
)
from .base import (
    AROUND,
    LINES,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    Records,
    epoch_axis,
    last_epoch,
    mark_stages,
    name_ends,
    new_figure,
    note,
    raw_and_smooth,
    say,
    series,
    styled,
)


def softmax(alphas: np.ndarray) -> np.ndarray:
    """Eq. (2), over the last axis."""
    powers = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def kept_edges(alphas: Mapping[str, np.ndarray], epoch: int = -1) -> dict[str, set[tuple[int, int]]]:
    """For each kind, the (edge, operation) indices that the genotype of that epoch keeps."""
    names, edges = _names(alphas)
    placement = "A-A-R" if "robust" in alphas else "A-A-A"
    space = SearchSpace(placement=placement, operations=tuple(names), num_nodes=max(node for _, node in edges) - 1)
    if edges != space.edges:
        raise WorkbookError(f"the alphas' edges are not those of a cell with {space.num_nodes} nodes: {edges}")
    most_skips = int(alphas["most_skips"]) if "most_skips" in alphas else None
    here = {kind: torch.as_tensor(_at(alphas, kind, epoch)) for kind in space.kinds}
    cells = discretise(here, space, most_skips=most_skips).cells
    return {
        kind: {
            (edges.index((edge.source, node)), names.index(edge.operation))
            for node, incoming in zip(space.nodes, cell, strict=True)
            for edge in incoming
        }
        for kind, cell in cells.items()
    }


def _names(alphas: Mapping[str, Any]) -> tuple[list[str], tuple[tuple[int, int], ...]]:
    return [str(name) for name in alphas["operations"]], edges_of(alphas["edges"])


def _kinds(alphas: Mapping[str, Any]) -> list[str]:
    return [kind for kind in KIND_COLORS if kind in alphas]


def _at(alphas: Mapping[str, Any], kind: str, epoch: int) -> np.ndarray:
    values = np.asarray(alphas[kind], dtype=float)
    return values if values.ndim == 2 else values[epoch]


@styled
def alpha_lines(alphas: Mapping[str, Any], epochs: Records = ()) -> Figure:
    """How the search decides: for each kind of cell, the mean weight of each operation over all edges (wide lines), and
    the weights of the edges and operations that are kept in the end (thin lines)."""
    kinds, (names, _) = _kinds(alphas), _names(alphas)
    figure, axes = new_figure(1, len(kinds), TWO_COLUMNS, 2.35, sharey=True)
    chosen = kept_edges(alphas)
    for ax, kind in zip(axes[0], kinds, strict=True):
        weights = softmax(np.asarray(alphas[kind], dtype=float))
        x = np.arange(len(weights))
        for edge, operation in sorted(chosen[kind]):
            ax.plot(x, weights[:, edge, operation], color=operation_color(names[operation]), linewidth=0.5, alpha=0.8)
        means = weights.mean(axis=1)
        for index, name in enumerate(names):
            ax.plot(x, means[:, index], color=operation_color(name), linewidth=1.8, label=short(name))
        ax.axhline(1 / len(names), color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
        ax.set_title(f"{kind} cell")
        epoch_axis(ax, len(weights) - 1)
        mark_stages([ax], epochs, words=ax is axes[0, 0])
    axes[0, 0].set_ylabel("softmax(α)")
    words = "Wide: mean over all edges. Thin: the edges and operations kept in the end. Dotted: uniform."
    figure.supxlabel(words, fontsize=6.5)
    figure.draw_without_rendering()
    for ax, kind in zip(axes[0], kinds, strict=True):
        last = softmax(_at(alphas, kind, -1)).mean(axis=0)
        ends = {short(name): (value, operation_color(name)) for name, value in zip(names, last, strict=True)}
        name_ends(ax, ends)
    return figure


@styled
def alpha_heatmaps(alphas: Mapping[str, Any], epoch: int = -1) -> Figure:
    """Softmaxed alphas of each kind of cell after an epoch (0: before the first). Frames with a number mark what the
    genotype keeps: of each node the two incoming edges whose best operation weighs most."""
    kinds, (names, edges) = _kinds(alphas), _names(alphas)
    weights = {kind: softmax(_at(alphas, kind, epoch)) for kind in kinds}
    # White is no preference; at least 0.02 to each side, so that noise around it stays pale.
    uniform = 1 / len(names)
    low = min(uniform - 0.02, *(float(each.min()) for each in weights.values()))
    top = max(uniform + 0.02, *(float(each.max()) for each in weights.values()))
    colors = TwoSlopeNorm(uniform, low, top)
    chosen = kept_edges(alphas, epoch)
    figure, axes = new_figure(1, len(kinds), TWO_COLUMNS, 0.175 * len(edges) + 0.85, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        image = ax.imshow(weights[kind], cmap=AROUND, norm=colors, aspect="auto", interpolation="nearest")
        for edge, operation in sorted(chosen[kind]):
            value = weights[kind][edge, operation]
            frame = Rectangle((operation - 0.46, edge - 0.44), 0.92, 0.88, fill=False, linewidth=1.3, gid="kept")
            ax.add_patch(frame)
            color = "white" if colors(value) > 0.75 else INK
            ax.text(operation, edge, f"{value:.2f}"[1:], ha="center", va="center", fontsize=5.5, color=color)
        for above in (i for i in range(1, len(edges)) if edges[i][1] != edges[i - 1][1]):
            ax.axhline(above - 0.5, color=GREY, linewidth=0.5)
        ax.set_title(f"{kind} cell")
        look = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(names)), [short(name) for name in names], **look)
        ax.set_yticks(range(len(edges)), [edge_name(*edge) for edge in edges])
        ax.tick_params(length=0)
        ax.grid(False)
    axes[0, 0].set_ylabel("edge")
    bar = figure.colorbar(image, ax=axes[0], label="softmax(α)    white: uniform, framed: kept", shrink=0.9, pad=0.01, aspect=30)
    bar.set_ticks([low, *np.linspace(uniform, top, 4)])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{2 if top - low > 0.1 else 3}f}"))
    bar.outline.set_visible(False)
    return figure


@styled
def entropy(epochs: Records, num_operations: int = 7) -> Figure:
    """Mean entropy of the operations' weights on an edge: ln 7 where all weigh alike, 0 for a clear choice."""
    figure, axes = new_figure()
    ax = axes[0, 0]
    ends = {}
    for (kind, color), line, marker in zip(KIND_COLORS.items(), LINES, MARKERS, strict=False):
        x, y = series(epochs, f"entropy/{kind}")
        if len(x):
            ax.plot(x, y, line, color=color, marker=marker, markevery=max(1, len(x) // 8), label=kind)
            ends[kind] = (float(y[-1]), color)
    uniform = math.log(num_operations)
    ax.axhline(uniform, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0.5)
    ends[f"ln {num_operations}: uniform"] = (uniform, "#7A7A7A")
    low = ax.get_ylim()[0]
    ax.set_ylim(low, uniform + max(0.2 * (uniform - low), 0.002))
    ax.set(title="Entropy of the alphas", ylabel="nats per edge")
    epoch_axis(ax, last_epoch(epochs))
    mark_stages([ax], epochs)
    figure.draw_without_rendering()
    name_ends(ax, ends)
    return figure


@styled
def gamma_and_cosine(steps: Records) -> Figure:
    """The second stage from step to step: MGDA's weight of the natural objective (Eq. 8), the cosine of the two
    gradients (below 0 they are in conflict) and their norms. Pale: each step; full: running mean."""
    figure, axes = new_figure(3, 1, ONE_COLUMN, 3.8, sharex=True)
    gamma, cosine, norm = axes[:, 0]
    single = "one objective only"
    if raw_and_smooth(gamma, steps, "gamma", PURPLE, "gamma"):
        gamma.set(ylim=(-0.04, 1.3), yticks=(0, 0.5, 1))  # gamma is often 1: room above for the stage's name
    else:
        say(gamma, single)
    if raw_and_smooth(cosine, steps, "gradient_cosine", GREEN, "cosine"):
        cosine.axhline(0, color=GREY, linewidth=0.8)
        low, high = cosine.get_ylim()
        cosine.set_ylim(min(low, -0.1), max(high, 0.1))
    else:
        say(cosine, single)
    found = [
        raw_and_smooth(norm, steps, f"gradient_norm/{name}", color, name, line)
        for name, color, line in (("natural", BLUE, "-"), ("adversarial", VERMILLION, "--"))
    ]
    if any(found):
        norm.set_yscale("log")
        # Inside so low an axes it would lie on a curve.
        figure.legend(*norm.get_legend_handles_labels(), ncols=2, loc="outside lower center")
    else:
        say(norm, single)
    gamma.set(title="Weight γ of the natural objective", ylabel="γ")
    cosine.set(title="Cosine of natural and adversarial gradient", ylabel="cosine")
    norm.set(title="Norm of the alphas' gradients", ylabel="norm")
    # The first stage has one objective and nothing to show here.
    shown = [record["epoch"] for record in steps if record.get("gamma") is not None]
    epoch_axis(norm, last_epoch(steps), start=max(0, min(shown) - 2) if shown else 0)
    mark_stages(axes[:, 0], steps)
    return figure


@styled
def search_losses(steps: Records, epochs: Records = ()) -> Figure:
    """Losses of the search: the weights' on their half of the data, the alphas' on the other. Pale: each step; full:
    running mean; hollow: the weights' mean of a whole epoch, and what the alphas' half measures at its end in evaluation mode,
    also where the alphas do not follow that loss."""
    figure, axes = new_figure(width=TWO_COLUMNS * 0.75, height=2.4)
    ax = axes[0, 0]
    kinds = (
        ("train/adversarial_loss", ORANGE, "weights: adversarial", "-", "o"),
        ("validation/adversarial_loss", VERMILLION, "alphas: adversarial", "--", "s"),
        ("validation/natural_loss", BLUE, "alphas: natural", "-.", "^"),
    )
    ends = {}
    for key, color, label, line, marker in kinds:
        drawn = raw_and_smooth(ax, steps, key, color, label, line)
        x, y = series(epochs, key)
        if len(x):
            hollow = {"markerfacecolor": "white", "markeredgecolor": color, "markersize": 3, "linewidth": 0.5}
            ax.plot(x, y, ":" if len(x) > 1 else "", color=color, marker=marker, **hollow)
        last = y[-1:] if len(y) else series(steps, key)[1][-1:]
        if drawn or len(x):
            ends[label] = (float(last[0]), color)
    ax.set(title="Losses of the search (pale: steps, lines: running means, hollow: epochs)", ylabel="cross-entropy")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if ax.get_ylim()[0] < 0.3 else None)
    epoch_axis(ax, last_epoch(steps or epochs))
    mark_stages([ax], steps or epochs)
    figure.draw_without_rendering()
    name_ends(ax, ends)
    return figure


def genotype_changes(epochs: Records) -> list[dict[str, int]]:
    """For each epoch after the first and each kind of cell, how many kept edges are new (edge or operation)."""
    changes = []
    cells = [record["genotype"]["cells"] for record in epochs if record.get("genotype")]
    for before, after in pairwise(cells):
        changes.append({kind: len(_kept_edges(after[kind]) - _kept_edges(before[kind])) for kind in after})
    return changes


def _kept_edges(cell: Sequence[Sequence[Sequence[Any]]]) -> set[tuple[int, str, int]]:
    return {(node, str(operation), int(source)) for node, edges in enumerate(cell) for operation, source in edges}


@styled
def validation(epochs: Records, chosen: int | None = None) -> Figure:
    """What the choice of the genotype rests on: the supernet's accuracies by epoch, how much the genotype still
    changes, and how many identities each cell holds (eight of eight is a collapsed cell)."""
    figure, axes = new_figure(3, 1, ONE_COLUMN, 4.0, sharex=True, height_ratios=(1.6, 1, 1))
    accuracy, change, skip = axes[:, 0]
    accuracies: dict[str, tuple[float, str]] = {}
    for name, color, line, marker in (("natural", BLUE, "-", "o"), ("adversarial", VERMILLION, "--", "s")):
        x, y = series(epochs, f"validation/{name}_accuracy")
        accuracy.plot(x, 100 * y, line, color=color, marker=marker, markersize=2.5, label=name)
        if len(y):
            accuracies[name] = (100 * float(y[-1]), color)
    accuracy.margins(y=0.16)
    accuracy.set(title="Accuracy of the supernet on the alphas' half", ylabel="accuracy (%)")
    with_genotype = [record["epoch"] for record in epochs if record.get("genotype")]
    bottom = np.zeros(max(0, len(with_genotype) - 1))
    changes = genotype_changes(epochs)
    if changes:
        for (kind, color), hatch in zip(KIND_COLORS.items(), ("", "////", "...."), strict=True):
            counts = np.array([each.get(kind, 0) for each in changes], dtype=float)
            look = {"color": paler(color, 0.35), "edgecolor": color, "linewidth": 0.3, "hatch": hatch}
            change.bar(with_genotype[1:], counts, 0.8, bottom, label=kind, **look)
            bottom = bottom + counts
        change.legend(ncols=3, loc="upper right", borderaxespad=0.1, columnspacing=1.0, handlelength=1.2)
        change.set_ylim(0, max(1.0, bottom.max()) * 1.3)
        change.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    else:
        say(change, "one epoch: nothing to compare")
    change.set(title="Kept edges that the epoch before did not keep", ylabel="edges")
    ends = {}
    for (kind, color), line, marker in zip(KIND_COLORS.items(), LINES, MARKERS, strict=False):
        x, y = series(epochs, f"skips/{kind}")
        if len(x):
            skip.plot(x, y, line, color=color, marker=marker, markersize=2.5, drawstyle="steps-mid", label=kind)
            ends[kind] = (float(y[-1]), color)
    skip.set(title="Identities among the kept edges", ylabel="skips", ylim=(-0.4, 8.4), yticks=(0, 4, 8))
    last = last_epoch(epochs)
    epoch_axis(skip, last)
    skip.set_xlim(0.4, last + 0.6)
    mark_stages(axes[:, 0], epochs)
    if chosen is not None:
        for ax in (accuracy, change, skip) if changes else (accuracy, skip):
            ax.axvline(chosen, color=INK, linewidth=0.9, zorder=1.5)
        side = "right" if chosen > last / 2 else "left"
        look = {"ha": side, "va": "bottom", "fontweight": "bold"}
        shift = (-3 if side == "right" else 3, 2)
        note(accuracy, f"chosen: epoch {chosen}", (chosen, 0), shift, ("data", "axes fraction"), INK, **look)
    figure.draw_without_rendering()
    name_ends(accuracy, accuracies)
    name_ends(skip, ends)
    return figure
