"""MGDA of one batch drawn: two gradients, and the shortest of all convex combinations of them (Section 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..legend import BLUE, GREY, INK, PURPLE, VERMILLION
from .base import TWO_COLUMNS, Figure, as_numpy, new_figure, note, styled


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
    for end, color, words, width in (
        (a, BLUE, "θ natural", 0.008),
        (b, VERMILLION, "θ̄ adversarial", 0.008),
        (v, PURPLE, "v", 0.012),
    ):
        plane.quiver(0, 0, *end, angles="xy", scale_units="xy", scale=1, color=color, width=width, zorder=3)
        above = 1 if end is a or (end is v and gamma < 0.5) else -1
        look = {"ha": "center", "va": "bottom" if above > 0 else "top", "fontsize": 7}
        note(plane, words, tuple(end * (0.62 if end is not v else 0.8)), (0, 5 * above), ("data", "data"), color, **look)
    plane.set_aspect("equal", adjustable="datalim")
    plane.margins(0.2, 0.25)
    plane.set(title="Both gradients in their plane (longer one: 1)", xlabel="along θ̄", ylabel="across")
    share = np.linspace(0, 1, 201)
    squared = ((share[:, None] * a + (1 - share)[:, None] * b) ** 2).sum(axis=1)
    length.plot(share, squared, color=INK)
    length.plot(gamma, (v**2).sum(), "o", color=PURPLE, markersize=6, zorder=3)
    note(
        length,
        f"γ* = {gamma:.2f}",
        (gamma, (v**2).sum()),
        (6 if gamma < 0.7 else -6, 8),
        ("data", "data"),
        PURPLE,
        ha="left" if gamma < 0.7 else "right",
        fontsize=7,
    )
    length.set(title="Length of γθ + (1 − γ)θ̄, squared", xlabel="γ", ylabel="(longer one: 1)")
    length.set_ylim(bottom=0)
    return figure


def _plane(theta: np.ndarray, theta_bar: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Coordinates of both in a basis whose first axis lies along theta_bar."""
    length = float(np.linalg.norm(theta_bar))
    axis = theta_bar / length if length else np.zeros_like(theta_bar)
    along = float(theta @ axis)
    across = float(np.linalg.norm(theta - along * axis))
    return (along, across), (length, 0.0)
