"""How large the things are that `bench` measures: the paper's sizes, and small ones for a first look."""

from __future__ import annotations

from dataclasses import dataclass

from ..architecture import SearchSpace
from ..attacks import PGD, AutoAttack

CRAFTING_RADIUS = 2 / 255  # of the search's attack


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The defaults are the issue's; the supernet is the paper's, and so is the retrained network."""

    image_size: int = 32
    space: SearchSpace = SearchSpace()
    num_cells: int = 8  # of the supernet
    channels: int = 24
    steps: int = 7  # of PGD, in search and retraining
    network_cells: int = 20
    network_channels: int = 64
    evaluation_steps: int = 20
    attacked_cells: int = 8  # of the network that AutoAttack is measured on
    attacked_channels: int = 16
    # So small a radius that every image survives: all parts of the cascade work on all images.
    autoattack: AutoAttack = AutoAttack(eps=0.01 / 255, steps=10, targets=2, queries=50)
    counted_batch: int = 64
    search_batches: tuple[int, ...] = (8, 16)
    search_batches_gpu: tuple[int, ...] = (64,)
    network_batches: tuple[int, ...] = (8,)
    network_batches_gpu: tuple[int, ...] = (32,)
    rounds: int = 3
    rounds_gpu: int = 10
    # Each of images, cells and steps is varied while the others stay at the first of their values but the smallest.
    sweep_images: tuple[int, ...] = (4, 8, 16, 32)
    sweep_cells: tuple[int, ...] = (5, 8, 11)
    sweep_steps: tuple[int, ...] = (1, 3, 7)
    sweep_channels: int = 8
    sweep_images_gpu: tuple[int, ...] = (64, 128, 256, 512)
    sweep_channels_gpu: int = 24

    def attack(self, steps: int | None = None) -> PGD:
        """The attack of search."""
        return PGD(eps=CRAFTING_RADIUS, step_size=CRAFTING_RADIUS / 4, steps=self.steps if steps is None else steps)


FULL = Sizes()
QUICK = Sizes(
    image_size=8,
    space=SearchSpace(num_nodes=2),
    num_cells=5,
    channels=2,
    steps=2,
    network_cells=5,
    network_channels=2,
    evaluation_steps=3,
    attacked_cells=5,
    attacked_channels=2,
    autoattack=AutoAttack(eps=0.01 / 255, steps=3, targets=2, queries=5),
    counted_batch=4,
    search_batches=(4,),
    search_batches_gpu=(4,),
    network_batches=(4,),
    network_batches_gpu=(4,),
    rounds=1,
    rounds_gpu=1,
    sweep_images=(2, 4),
    sweep_cells=(5, 6),
    sweep_steps=(1, 2),
    sweep_channels=2,
    sweep_images_gpu=(2, 4),
    sweep_channels_gpu=2,
)
