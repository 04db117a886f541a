"""Variants of the method: what a row of an ablation, or a rival search method, changes of any preset.

`run --variant` and the notebooks' VARIANT choose from `VARIANTS`, and the grids of `sweep` are made of them. All variants of a
preset search for as many epochs, on the same data and against the same attack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..architecture.space import FEWEST_CELLS
from ..search import (
    DSRNA,
    MGDA,
    NADAR,
    RACL,
    AdvRush,
    AntiBandit,
    RandomPaths,
    Ranking,
    Sampling,
    Selection,
    SingleObjective,
    SumOfLosses,
    UpperLevel,
)
from .profiles import Preset

Change = Callable[[Preset], Preset]


def placed(placement: str, filters: tuple[int, int, int]) -> Change:
    """With other kinds of cell in the three parts of the stack, and other multiples of C (Section 4.2)."""

    def change(preset: Preset) -> Preset:
        space = replace(preset.search.space, placement=placement, filters=filters)
        return replace(preset, search=replace(preset.search, space=space))

    return change


def led_by(level: UpperLevel | Sampling) -> Change:
    """One upper level, or sampling, for as many epochs as all stages have, at the rate of the first stage."""

    def change(preset: Preset) -> Preset:
        search = preset.search
        stage = replace(search.stages[0], epochs=search.epochs, upper_level=level)
        return replace(preset, search=replace(search, stages=(stage,)))

    return change


def warmed_up(level: UpperLevel, share: float) -> Change:
    """The natural loss for that share of the epochs, then another upper level; one epoch alone is the level's."""

    def change(preset: Preset) -> Preset:
        alone = led_by(level)(preset)
        epochs, (stage,) = preset.search.epochs, alone.search.stages
        warm = min(max(1, round(share * epochs)), epochs - 1)
        if warm == 0:
            return alone
        stages = (
            replace(stage, epochs=warm, upper_level=SingleObjective(objective="natural")),
            replace(stage, epochs=epochs - warm),
        )
        return replace(alone, search=replace(alone.search, stages=stages))

    return change


def chosen_by(rule: Selection | Ranking) -> Change:
    """Another rule for the choice among epochs, or the best of sampled paths in place of an epoch's."""
    return lambda preset: replace(preset, search=replace(preset.search, selection=rule))


def progressive(preset: Preset) -> Preset:
    """P-DARTS: the epochs in three parts, each in a deeper supernet with fewer candidates (Chen et al., ICCV 2019).

    There 5, 11 and 17 cells, 8, 5 and 3 operations, and dropout of identities at 0, 0.4 and 0.7; here the depths keep that
    proportion to the preset's (8 cells give 5, 11 and 17), and candidates that to the number of operations.
    """
    search, parts = preset.search, min(3, preset.search.epochs)
    operations = len(search.space.operations)
    stages = tuple(
        replace(
            search.stages[0],
            epochs=search.epochs * (part + 1) // parts - search.epochs * part // parts,
            upper_level=SingleObjective(objective="natural"),
            num_cells=max(FEWEST_CELLS, round(search.num_cells * (5 + 6 * part) / 8)),
            candidates=max(1, round(operations * (1, 5 / 8, 3 / 8)[part])) if part else None,
            skip_dropout=(0.0, 0.4, 0.7)[part],
        )
        for part in range(parts)
    )
    return replace(preset, search=replace(search, stages=stages, most_skips=2))


def second_order(preset: Preset) -> Preset:
    """With one unrolled step of the weights in the gradients of the alphas."""
    return replace(preset, search=replace(preset.search, second_order=True))


def in_place_of_mgda(level: UpperLevel) -> Change:
    """Another upper level where MGDA weighs both losses."""

    def change(preset: Preset) -> Preset:
        search = preset.search
        stages = (replace(each, upper_level=level) if isinstance(each.upper_level, MGDA) else each for each in search.stages)
        return replace(preset, search=replace(search, stages=tuple(stages)))

    return change


def as_large_as(name: str) -> Change:
    """Networks with as many parameters as that published architecture has at the preset's size."""
    return lambda preset: replace(preset, match=name)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a row of a table changes of any preset."""

    about: str
    changes: tuple[Change, ...] = ()
    printed: tuple[str, str] | None = None  # table and row where the paper has its numbers

    def __call__(self, preset: Preset) -> Preset:
        """The preset, so changed."""
        for change in self.changes:
            preset = change(preset)
        return preset

    def and_then(self, about: str, *changes: Change) -> Variant:
        """The same with more changes."""
        return replace(self, about=f"{self.about}, {about}", changes=(*self.changes, *changes))


DSARA_SPACE, NASNET_SPACE = ("A-A-R", (1, 2, 2)), ("A-A-A", (1, 2, 4))
PLACEMENTS = (DSARA_SPACE, ("R-A-A", (1, 2, 2)), ("A-R-A", (1, 2, 2)), ("A-A-R", (1, 2, 3)), ("A-A-R", (1, 2, 4)), NASNET_SPACE)
NATURAL, ADVERSARIAL = led_by(SingleObjective(objective="natural")), led_by(SingleObjective())

TABLE4 = {
    f"table4-{number}": Variant(about=f"{space[0]}, {'-'.join(map(str, space[1]))}", changes=(placed(*space),))
    for number, space in enumerate(PLACEMENTS, 1)
}
ABLATIONS: dict[str, Variant] = {
    **TABLE4,
    # The paper compares networks of different sizes there.
    **{f"{name}-matched": row.and_then("as large as DSARA", as_large_as("DSARA")) for name, row in TABLE4.items()},
    # Rows 1 and 2 of Table 5 are the published architectures of RACL and AdvRush.
    "table5-3": Variant(about="adversarial loss alone, NASNet's space", changes=(placed(*NASNET_SPACE), ADVERSARIAL)),
    "table5-4": Variant(about="adversarial loss alone, DSARA's space", changes=(placed(*DSARA_SPACE), ADVERSARIAL)),
    "table5-5": Variant(about="two stages with MGDA, NASNet's space", changes=(placed(*NASNET_SPACE),)),
    "table5-6": Variant(
        about="two stages with the sum of losses, DSARA's space", changes=(placed(*DSARA_SPACE), in_place_of_mgda(SumOfLosses()))
    ),
    "table5-7": Variant(about="two stages with MGDA, DSARA's space", changes=(placed(*DSARA_SPACE),)),
}

# By norm, so that no gradient takes all weight because it is the shortest.
SMALL = MGDA(objectives=("natural", "adversarial", "cost"), scaling="norm")

# Search methods on one supernet, in the preset's space unless `placed`. One line each: it is a row of `sweep methods`, too.
METHODS: dict[str, Variant] = {
    "dsara": Variant(about="the profile as it is: DSARA", printed=("table1", "DSARA")),
    "dsara-norm": Variant(about="MGDA on gradients of length one", changes=(in_place_of_mgda(MGDA(scaling="norm")),)),
    "dsara-small": Variant(about="accurate, robust and small: multiply-adds as a third loss", changes=(in_place_of_mgda(SMALL),)),
    "darts": Variant(about="natural loss alone", changes=(NATURAL,), printed=("table1", "DARTS")),
    "darts-second-order": Variant(about="natural loss alone, weights one step ahead", changes=(NATURAL, second_order)),
    "adversarial-darts": Variant(
        about="adversarial loss alone, NASNet's space", changes=(placed(*NASNET_SPACE), ADVERSARIAL), printed=("table5", "3")
    ),
    "advrush": Variant(
        about="natural loss, at last with its curvature", changes=(warmed_up(AdvRush(), 5 / 6),), printed=("table1", "AdvRush")
    ),
    "dsrna": Variant(about="natural loss and norm of the Jacobian", changes=(led_by(DSRNA()),), printed=("table1", "DSRNA")),
    "nadar": Variant(about="adversarial loss, the natural one bounded", changes=(led_by(NADAR()),), printed=("table1", "NADAR")),
    "racl": Variant(about="natural loss, the Lipschitz bound limited", changes=(led_by(RACL()),), printed=("table1", "RACL")),
    "p-darts": Variant(about="natural loss, deeper in three parts", changes=(progressive,), printed=("table1", "P-DARTS")),
    "abanditnas": Variant(
        about="sampled and abandoned by confidence bounds",
        # The last epoch's, when one operation is left on each edge.
        changes=(led_by(AntiBandit()), chosen_by(Selection(window=1, tolerance=1.0))),
        printed=("table1", "ABanditNAS-10"),
    ),
    "robnet": Variant(
        about="random paths, filtered by their flow of solution and ranked",
        changes=(led_by(RandomPaths()), chosen_by(Ranking(fsp_share=0.5))),
        printed=("table1", "RobNet-free"),
    ),
    "random": Variant(about="random paths, ranked with shared weights", changes=(led_by(RandomPaths()), chosen_by(Ranking()))),
}

VARIANTS: dict[str, Variant] = {**METHODS, **ABLATIONS}
