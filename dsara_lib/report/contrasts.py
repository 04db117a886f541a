"""Claims that one row of a table is better than another, and how two rows are held against each other.

Systems are compared at the same seeds, on the same test images, under the same conditions. With three seeds or more the seeds
are what is tested, since a claim is about a method and not about one network; with fewer, the images, and the sentence says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from .. import paper
from ..evaluation import NATURAL, incomparable, t_interval
from .collection import ATTACK, Collection, Conditions, Measured
from .findings import NOT_MEASURED, SEEDS_TO_TEST, Finding, Part, judged
from .inference import (
    detectable_by_images,
    detectable_by_seeds,
    holm,
    image_interval,
    seed_test,
    sign_flip,
)

BOTH = (NATURAL, ATTACK)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The claim that one row of a table is better than another, in both accuracies."""

    name: str
    title: str
    table: str
    better: str
    worse: str


CONTRASTS = (
    Contrast(
        name="Proposition 1",
        title="Proposition 1: other cells near the output than near the input improve accuracy and robustness together",
        table="table4",
        better="5",
        worse="6",
    ),
    Contrast(
        name="placement R-A-A",
        title="Section 6.4: placement A-A-R is better than R-A-A",
        table="table4",
        better="1",
        worse="2",
    ),
    Contrast(
        name="placement A-R-A",
        title="Section 6.4: placement A-A-R is better than A-R-A",
        table="table4",
        better="1",
        worse="3",
    ),
    Contrast(
        name="MGDA over the sum",
        title="Section 6.4: MGDA is better than the sum of both losses",
        table="table5",
        better="7",
        worse="6",
    ),
    Contrast(
        name="two stages over one",
        title="Section 6.4: two stages are better than the first alone, in DSARA's space",
        table="table5",
        better="7",
        worse="4",
    ),
    Contrast(
        name="one stage over two",
        title="Section 6.4: in NASNet's space two stages are worse than one",
        table="table5",
        better="3",
        worse="5",
    ),
    Contrast(
        name="space, two stages",
        title="Section 6.4: DSARA's space is better than NASNet's, with two stages",
        table="table5",
        better="7",
        worse="5",
    ),
    Contrast(
        name="space, one stage",
        title="Section 6.4: DSARA's space is better than NASNet's, with one stage",
        table="table5",
        better="4",
        worse="3",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two rows at the same seeds under the same conditions."""

    conditions: Conditions
    size: str
    pairs: tuple[tuple[Measured, Measured], ...] = field(repr=False)

    @property
    def where(self) -> str:
        """Conditions and size in a line."""
        return f"{self.conditions.text}; {self.size}"


def pairings(collection: Collection, table: str, one: str, other: str) -> Iterator[Pairing]:
    """Where both rows were measured at the same seeds. A published architecture has its own size and no search; two that were
    searched must agree in both."""
    return pairs_of(collection.at(table, one), collection.at(table, other))


def pairs_of(ones: Sequence[Measured], others: Sequence[Measured]) -> Iterator[Pairing]:
    """Networks of two systems that may be held against each other, seed by seed."""
    groups: dict[tuple[Any, ...], list[tuple[Measured, Measured]]] = {}
    for mine in ones:
        for theirs in others:
            searched = mine.method is not None and theirs.method is not None
            same = mine.seed == theirs.seed and mine.conditions == theirs.conditions
            if same and (not searched or (mine.searched, mine.size) == (theirs.searched, theirs.size)):
                size = mine.size if mine.size == theirs.size else f"{mine.size} against {theirs.size}"
                groups.setdefault((mine.conditions, size, mine.searched, theirs.searched), []).append((mine, theirs))
    for (conditions, size, *_), pairs in groups.items():
        yield Pairing(conditions=conditions, size=size, pairs=tuple(sorted(pairs, key=lambda pair: pair[0].seed)))


def contrasted(collection: Collection, contrast: Contrast) -> list[Finding]:
    """A contrast under each set of conditions that has both of its rows."""
    printed, found = printed_difference(contrast.table, contrast.better, contrast.worse), []
    for pairing in pairings(collection, contrast.table, contrast.better, contrast.worse):
        parts = tuple(part for measure in BOTH if (part := difference(pairing, measure, printed[measure])) is not None)
        if parts:
            empty = Finding(claim=contrast.name, title=contrast.title, where=pairing.where, verdict="", sentence="", parts=parts)
            found.append(judged(empty))
    theirs = ", ".join(f"{measure} {value:+.2f}" for measure, value in printed.items())
    words = (
        f"Not measured here: it needs rows {contrast.better} and {contrast.worse} of {named(contrast.table)} at the same seed "
        f"(the paper's difference in points, one run each: {theirs})."
    )
    return found or [Finding(claim=contrast.name, title=contrast.title, where="", verdict=NOT_MEASURED, sentence=words)]


def printed_difference(table: str, one: str, other: str) -> dict[str, float]:
    """The paper's difference of two rows in points."""
    columns, rows = (paper.paper_tables()[table][key] for key in ("columns", "rows"))
    mine, theirs = (next(dict(zip(columns, row, strict=True)) for row in rows if str(row[0]) == name) for name in (one, other))
    return {NATURAL: round(mine["natural"] - theirs["natural"], 2), ATTACK: round(mine["pgd20"] - theirs["pgd20"], 2)}


def difference(pairing: Pairing, measure: str, printed: float | None = None) -> Part | None:
    """The first row less the second; None where one lacks this attack or their images are not known to be the same."""
    scores, seeds = [], []
    for mine, theirs in pairing.pairs:
        if (
            measure in mine.evaluation.predictions
            and measure in theirs.evaluation.predictions
            and not _differ(mine, theirs, measure)
        ):
            one, other = (each.evaluation.correct(measure).numpy().astype(int) for each in (mine, theirs))
            scores.append(one - other)
            seeds.append(mine.seed)
    if not scores:
        return None
    by_image, by_seed = np.sum(scores, axis=0), [float(each.mean()) for each in scores]
    shares = by_image / len(scores)
    (low, high), detectable = image_interval(shares), detectable_by_images(shares)
    if len(seeds) >= SEEDS_TO_TEST:
        p_value, test = seed_test(by_seed), "a paired t test over seeds"
        if np.ptp(by_seed) > 0:  # without any spread the images alone say how sure the difference is
            (low, high), detectable = t_interval(by_seed), detectable_by_seeds(by_seed)
    else:
        p_value = sign_flip(by_image.tolist())
        test = "McNemar's exact test" if len(seeds) == 1 else "an exact sign-flip test over images, all seeds of an image together"
    return Part(
        measure=measure,
        value=fmean(by_seed),
        low=low,
        high=high,
        p_value=p_value,
        test=test,
        detectable=detectable,
        seeds=tuple(seeds),
        images=len(by_image),
        by_seed=tuple((value, *image_interval(each)) for value, each in zip(by_seed, scores, strict=True)),
        printed=printed,
        same=tuple(mine.seed for mine, theirs in pairing.pairs if mine.blueprint == theirs.blueprint and mine.seed in seeds),
    )


def _differ(mine: Measured, theirs: Measured, measure: str) -> bool:
    rows = [next(row for row in each.evaluation.rows() if row["attack"] == measure) for each in (mine, theirs)]
    return bool(incomparable(*rows))


def against_reference(rows: Mapping[str, Sequence[Measured]], reference: str) -> list[tuple[str, Pairing, Part]]:
    """Each row of a grid less its reference, in both accuracies, p values corrected over all of them."""
    found = [
        (name, pairing, part)
        for name, mine in rows.items()
        if name != reference
        for pairing in pairs_of(mine, rows.get(reference, ()))
        for measure in BOTH
        if (part := difference(pairing, measure)) is not None
    ]
    values = holm([part.p_value for *_, part in found])
    return [(name, pairing, replace(part, corrected=value)) for (name, pairing, part), value in zip(found, values, strict=True)]


def named(table: str) -> str:
    """'table4' as 'Table 4'."""
    return table.replace("table", "Table ")
