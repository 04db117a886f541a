"""MGDA of one batch drawn: two gradients, and the shortest of all convex combinations of them (Section 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from ..legend import BLUE, GREY, INK, PURPLE, VERMILLION
from .base import TWO_COLUMNS, Figure, as_numpy, new_figure, styled


@styled
def shortest_combination(natural: Any, adversarial: Any, gamma: float) -> Figure:
    """Left: both gradients in the plane that they span, and the chosen direction. Right: Eq. (7) against gamma."""
    theta, theta_bar = (as_numpy(each).astype(float).ravel() for each in (natural, adversarial))
    (x, y), (length_bar, _) = _plane(theta, theta_bar)
    unit = max(np.hypot(x, y), length_bar) or 1.0
    a, b = np.array([x, y]) / unit, np.array([length_bar, 0.0]) / unit
    v = gamma * a + (1 - gamma) * b
    figure, axes = new_figure(1, 2, TWO_COLUMNS, 2.3, width_ratios=(1.25, 1))
    plane, length = axes[0]
    plane.plot(*zip(a, b, strict=True), color=GREY, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1)
    arrows = ((a, BLUE, "θ, natural", 0.008), (b, VERMILLION, "θ̄, adversarial", 0.008), (v, PURPLE, "v = γ*θ + (1 − γ*)θ̄", 0.02))
    for end, color, _, width in arrows:
        plane.quiver(0, 0, *end, angles="xy", scale_units="xy", scale=1, color=color, width=width, zorder=3 if width < 0.02 else 2)
    plane.update_datalim([(0, 0), a, b, v])
    plane.set_aspect("equal", adjustable="datalim")
    plane.margins(0.2, 0.25)
    plane.set(title="Both gradients in their plane (longer one: 1)", xlabel="along θ̄", ylabel="across")
    share = np.linspace(0, 1, 201)
    squared = ((share[:, None] * a + (1 - share)[:, None] * b) ** 2).sum(axis=1)
    length.plot(share, squared, color=INK)
    length.plot(gamma, (v**2).sum(), "o", color=PURPLE, markersize=6, zorder=3)
    length.set(title=f"|γθ + (1 − γ)θ̄|², least at γ* = {gamma:.2f}", xlabel="γ")
    length.set_ylim(0, 1.08 * squared.max() or 1)
    handles = [Line2D([], [], color=color, linewidth=200 * width, label=words) for _, color, words, width in arrows]
    figure.legend(handles=handles, ncols=3, loc="outside lower center")
    return figure


def _plane(theta: np.ndarray, theta_bar: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Coordinates of both in a basis whose first axis lies along theta_bar."""
    length = float(np.linalg.norm(theta_bar))
    axis = theta_bar / length if length else np.zeros_like(theta_bar)
    along = float(theta @ axis)
    across = float(np.linalg.norm(theta - along * axis))
    return (along, across), (length, 0.0)
