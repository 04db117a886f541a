"""The smallest things that still have every part: images, a search space, a search, a network; and bits to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dsara_lib.architecture import Blueprint, Genotype, SearchSpace, Supernet
from dsara_lib.attacks import PGD
from dsara_lib.data import DataSet, Split
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints
from dsara_lib.search import MGDA, SearchConfig, SingleObjective, Stage
from dsara_lib.training import TrainConfig

SPACE = SearchSpace(operations=("max_pool_3x3", "skip_connect"), num_nodes=2)
ATTACK = PGD(eps=0.1, step_size=0.1, steps=1)
SEARCH = SearchConfig(
    space=SPACE,
    num_cells=5,
    channels=2,
    batch_size=6,
    attack=ATTACK,
    stages=(
        Stage(epochs=2, upper_level=SingleObjective(), architecture_lr=0.02),
        Stage(epochs=1, upper_level=MGDA(), architecture_lr=0.01),
    ),
    validation_images=6,
)
TRAIN = TrainConfig(epochs=3, batch_size=6, attack=ATTACK, held_out=0.25, held_out_attack=ATTACK)


def toy_data(per_class: int = 8, num_classes: int = 3, size: int = 4, seed: int = 0) -> DataSet:
    """Classes that differ in brightness. The first channel holds an image's number, so that none is mistaken."""
    count = per_class * num_classes
    labels = torch.arange(count) % num_classes
    bright = (labels * 200 // (num_classes - 1))[:, None, None, None]
    noise = torch.randint(0, 56, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    images = (bright + noise).to(torch.uint8)
    images[:, 0] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    split = Split(images=images, labels=labels)
    names = tuple("abcdefghij"[:num_classes])
    return DataSet(name="toy", classes=names, train=split, test=split, eps=0.1, crop_padding=0, flip=True)


def numbers(images: torch.Tensor) -> list[int]:
    """Which images of `toy_data` these are, as bytes or as floats in [0, 1]."""
    corner = images[:, 0, 0, 0]
    return corner.tolist() if corner.dtype == torch.uint8 else (corner * 255).round().long().tolist()


def toy_genotype(space: SearchSpace = SPACE) -> Genotype:
    """Some architecture of the space."""
    torch.manual_seed(0)
    return Supernet(space, num_cells=5, channels=2, num_classes=2).genotype("toy")


def toy_blueprint(**changes: Any) -> Blueprint:
    """A network for `toy_data`."""
    blueprint = Blueprint(genotype=toy_genotype(), space=SPACE, num_cells=5, channels=2, num_classes=3)
    return replace(blueprint, **changes)


class Noting:
    """A stand-in for a step that notes what it was given (or what `what` makes of it) and gives no metrics."""

    def __init__(self, what: Callable[..., Any] = lambda *given: given):
        self.what, self.noted = what, list[Any]()

    def __call__(self, *given: Any) -> dict[str, Any]:
        self.noted.append(self.what(*given))
        return {}


def bits(value: Any) -> Any:
    """A nested state as something that `==` compares to the bit. Leaves "seconds" out, which no two runs share."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return value


def search_outcome(folder: Path) -> Any:
    """All that a finished search has left, to the bit."""
    state, warnings = Checkpoints(folder).load()
    assert warnings == []
    history, files = read_history(folder), [folder / name for name in ("alphas.npz", "genotype.json", "ranking.jsonl")]
    return bits([state, history.steps, history.epochs, [path.read_bytes() for path in files if path.exists()]])
