"""The search space (Section 4.2): which cells stand where, how wide they are, and which edges and operations they have.

`SearchSpace.slots` is the one place for the geometry. The supernet and the network are two readings of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import WorkbookError, unknown
from .operations import OPERATIONS

LETTERS = {"A": "accurate", "R": "robust"}
REDUCTION = "reduction"
KINDS = (*LETTERS.values(), REDUCTION)
NUM_INPUTS = 2
STEM_MULTIPLIER = 3
FEWEST_CELLS, MOST_CELLS, MOST_NODES = 5, 1000, 50  # beyond, a file asks for more than any machine holds
WIDEST = 2**16


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place in the stack: the kind of its cell, its width, and what it receives."""

    index: int
    kind: str
    channels: int  # of each node; the cell's output has num_nodes times as many
    in_channels: tuple[int, int]  # of the outputs of the cells k-2 and k-1
    previous_reduction: bool  # cell k-1 reduced, so that the output of k-2 is twice as large
    resolution_divisor: int  # image size over size of this cell's output

    @property
    def reduction(self) -> bool:
        """True where the edges that leave the input nodes have stride 2."""
        return self.kind == REDUCTION


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Placement and filter multipliers by stage, operations by edge. The defaults are DSARA's; A-A-A with 1-2-4 is NASNet's."""

    placement: str = "A-A-R"
    filters: tuple[int, int, int] = (1, 2, 2)
    operations: tuple[str, ...] = tuple(OPERATIONS)
    num_nodes: int = 4

    def __post_init__(self):
        letters = self.placement.split("-")
        if len(letters) != 3 or not set(letters) <= set(LETTERS):
            raise WorkbookError(f"a placement names the cells of three stages, as in 'A-A-R', with A or R; got {self.placement!r}")
        if len(self.filters) != 3 or any(not isinstance(f, int) or not 1 <= f <= WIDEST for f in self.filters):
            raise WorkbookError(f"filters are three positive whole numbers, as in (1, 2, 2); got {self.filters!r}")
        for operation in self.operations:
            if operation not in OPERATIONS:
                raise unknown("operation", operation, OPERATIONS)
        if len(set(self.operations)) != len(self.operations) or not self.operations:
            raise WorkbookError(f"a search space needs at least one operation and each once; got {self.operations!r}")
        if not 1 <= self.num_nodes <= MOST_NODES:
            raise WorkbookError(f"a cell has 1 to {MOST_NODES} intermediate nodes; got {self.num_nodes}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cell that occur, in the order accurate, robust, reduction."""
        return tuple(kind for kind in KINDS if kind == REDUCTION or kind in self.stages)

    @property
    def stages(self) -> tuple[str, ...]:
        """The kind of the cells of each of the three stages."""
        return tuple(LETTERS[letter] for letter in self.placement.split("-"))

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(source, node) of each edge, node by node; nodes 0 and 1 are the inputs. 14 edges for four nodes."""
        return tuple((source, node) for node in self.nodes for source in range(node))

    @property
    def nodes(self) -> range:
        """The numbers of the intermediate nodes."""
        return range(NUM_INPUTS, NUM_INPUTS + self.num_nodes)

    def slots(self, num_cells: int, channels: int) -> tuple[Slot, ...]:
        """The stack of `num_cells` cells whose first stage is `channels` wide; reductions at a third and two thirds.

        Raises WorkbookError where a stage would be left without a cell of its own.
        """
        if num_cells < FEWEST_CELLS:
            raise WorkbookError(
                f"a stack needs at least {FEWEST_CELLS} cells, so that each of its three stages has one beside the "
                f"two reduction cells; got {num_cells}"
            )
        if num_cells > MOST_CELLS:
            raise WorkbookError(f"a stack has at most {MOST_CELLS} cells; got {num_cells}")
        if channels < 2:
            raise WorkbookError(f"a stack needs at least 2 channels; got {channels}")
        reductions = (num_cells // 3, 2 * num_cells // 3)
        slots: list[Slot] = []
        before, previous = STEM_MULTIPLIER * channels, STEM_MULTIPLIER * channels
        for index in range(num_cells):
            stage = sum(index >= at for at in reductions)
            slot = Slot(
                index=index,
                kind=REDUCTION if index in reductions else self.stages[stage],
                channels=channels * self.filters[stage],
                in_channels=(before, previous),
                previous_reduction=index - 1 in reductions,
                resolution_divisor=2**stage,
            )
            slots.append(slot)
            before, previous = previous, self.num_nodes * slot.channels
        return tuple(slots)
