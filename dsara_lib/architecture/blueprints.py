"""Blueprints of every kind: how they are read back, and how wide one has to be to cost as much as another."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from ..errors import WorkbookError
from .cost import Cost, cost
from .designs import DesignBlueprint
from .networks import Blueprint, Classifier

FEWEST_CHANNELS = 2
HARMLESS = 2**31  # bytes that a network may take before its weights are looked at
FEW_PARAMETERS = 20_000_000


class AnyBlueprint(Protocol):
    """What can be trained, kept beside its weights, built again and counted."""

    @property
    def name(self) -> str: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def drop_path(self) -> float: ...
    @property
    def size(self) -> str: ...
    def with_options(self, **options: Any) -> AnyBlueprint: ...
    def build(self) -> Classifier: ...
    def to_dict(self) -> dict[str, Any]: ...


def blueprint_from_dict(written: Any, where: str = "the blueprint") -> AnyBlueprint:
    """The blueprint that some `to_dict` wrote: one with a `kind` is of a design, one without of a genotype.

    Raises WorkbookError.
    """
    kind = DesignBlueprint if isinstance(written, dict) and "kind" in written else Blueprint
    return kind.from_dict(written, where)


def blueprint_cost(blueprint: AnyBlueprint, image_size: int = 32) -> Cost:
    """What its network costs for one image. No weights are drawn."""
    return cost(blank(blueprint), image_size, blueprint.in_channels)


def blank(blueprint: AnyBlueprint) -> Classifier:
    """Its network without drawn weights, to be run for shapes alone, on the device on which that is quick."""
    network = _shapes(blueprint)
    # On the meta device nothing is computed, but each operation takes long: that pays where the operations are few and large.
    if sum(parameter.numel() for parameter in network.parameters()) < FEW_PARAMETERS:
        network = network.to_empty(device="cpu")
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.detach().zero_()
    return network


def _shapes(blueprint: AnyBlueprint) -> Classifier:
    with torch.device("meta"):
        return blueprint.build()


def require_at_most(blueprint: AnyBlueprint, num_bytes: int) -> None:
    """Raise WorkbookError where the parameters take more, as where a stranger's card asks for more than any memory holds.

    They are counted without memory, but only where a bound that is quickly computed does not do.
    """
    if isinstance(blueprint, Blueprint) and 4 * _bound(blueprint) < HARMLESS:
        return
    needed = sum(parameter.numel() * parameter.element_size() for parameter in _shapes(blueprint).parameters())
    if needed > num_bytes:
        raise WorkbookError(f"{blueprint.name!r} has {needed:,} bytes of parameters; there are {num_bytes:,}")


def _bound(blueprint: Blueprint) -> int:
    """More parameters than any network of these cells has."""
    width, nodes = blueprint.channels * max(blueprint.space.filters), blueprint.space.num_nodes
    edge, ends = 4 * width * (width + 25), width * (blueprint.in_channels * 27 + nodes * blueprint.num_classes)
    auxiliary = 768 * (128 + nodes * width + blueprint.num_classes) * 4
    return blueprint.num_cells * nodes * (2 * edge + 4 * width * width) + ends + auxiliary


def match_channels(
    blueprint: AnyBlueprint, *, parameters: int | None = None, multiply_adds: int | None = None, image_size: int = 32
) -> AnyBlueprint:
    """The same network at the number of channels with which it comes nearest to so many parameters or multiply-adds.

    Raises WorkbookError unless exactly one of the two is asked for.
    """
    if (parameters is None) == (multiply_adds is None):
        raise WorkbookError("channels are matched to parameters or to multiply_adds: give one of the two")
    wanted = parameters if multiply_adds is None else multiply_adds
    if wanted is None or wanted < 1:
        raise WorkbookError(f"channels are matched to a positive number; got {wanted}")
    costs: dict[int, int] = {}

    def at(channels: int) -> int:
        if channels not in costs:
            resized = blueprint.with_options(channels=channels)
            if multiply_adds is None:
                named = _shapes(resized).named_parameters()
                costs[channels] = sum(each.numel() for name, each in named if not name.startswith("auxiliary."))
            else:
                costs[channels] = blueprint_cost(resized, image_size).multiply_adds
        return costs[channels]

    guess = max(blueprint.channels, FEWEST_CHANNELS)
    below, above = FEWEST_CHANNELS - 1, None  # it costs too little, or as much; and too much
    while above is None or above - below > 1:
        if at(guess) <= wanted:
            below = guess
        else:
            above = guess
        # Nearly all of a cost grows with the square of the channels.
        guess = max(round(guess * (wanted / at(guess)) ** 0.5), below + 1)
        guess = guess if above is None else min(guess, above - 1)
    candidates = [each for each in (below, above) if each >= FEWEST_CHANNELS]
    return blueprint.with_options(channels=min(candidates, key=lambda each: abs(at(each) - wanted)))
