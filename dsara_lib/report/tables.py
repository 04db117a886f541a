"""Tables 1 to 5 of the paper and ours side by side, as plain lines: what the page and the notebooks show.

A line is either the paper's (hollow) or ours (filled). Ours are means over the seeds of one system under one set of conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from .. import paper
from ..architecture import zoo
from ..evaluation import NATURAL, t_interval, wilson
from .collection import ATTACK, Collection, Conditions, Measured, Transfer, ablation_rows
from .page import amount

ABOUT = {
    "table1": "Table 1, white-box attacks on CIFAR-10; below the paper's systems all others that were measured here",
    "table3": "Table 3, CIFAR-100, SVHN and Tiny-ImageNet-200",
    "table4": "Table 4, what the search space adds",
    "table5": "Table 5, what each part of the method adds",
}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, kw_only=True)
class Number:
    """An accuracy of ours, its interval at 95 %, and what the interval spans."""

    value: float
    low: float
    high: float
    over: str  # "seeds" (Student's t) or "images" (Wilson)
    images: int

    def images_told(self, usual: int) -> str:
        """Such as ", n = 200" where that is not the usual number of images."""
        return "" if self.images == usual else f", n = {self.images:,}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """The paper's line of a system, or one of ours below it."""

    row: str
    about: str
    ours: bool
    printed: Mapping[str, float]  # the paper's numbers in percent, by attack
    measured: tuple[Measured, ...] = ()
    parameters: str = ""
    flops: str = ""

    @property
    def conditions(self) -> Conditions | None:
        """Of ours."""
        return self.measured[0].conditions if self.measured else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of ours."""
        return tuple(each.seed for each in self.measured)

    @property
    def seeds_told(self) -> str:
        """Of ours, in words."""
        return f"seed{'' if len(self.seeds) == 1 else 's'} {', '.join(map(str, self.seeds))}"

    @property
    def origin(self) -> str:
        """Where our architecture comes from."""
        if not self.measured:
            return ""
        return "searched and trained here" if self.measured[0].method else "published architecture, trained here"

    def number(self, attack: str) -> Number | None:
        """Ours under an attack, over the seeds that have it on most images; over one seed the interval is over the images."""
        found = [each.evaluation for each in self.measured if attack in each.evaluation.predictions]
        images = max((each.count(attack) for each in found), default=0)
        found = [each for each in found if each.count(attack) == images]
        values = [each.accuracy(attack) for each in found]
        if not values:
            return None
        value, right = fmean(values), sum(int(e.correct(attack).sum()) for e in found)
        low, high = wilson(right if len(found) == 1 else round(value * images), images)
        if len(set(values)) > 1:
            low, high = t_interval(values)
            return Number(value=value, low=max(0.0, low), high=min(1.0, high), over="seeds", images=images)
        return Number(value=value, low=low, high=high, over="images", images=images)


def columns_of(table: str) -> list[str]:
    """The attacks of a table."""
    return [name for name, key in paper.COLUMNS.items() if key in paper.paper_tables()[table]["columns"]]


def lines_of(collection: Collection, table: str) -> list[Line]:
    """Each row of the paper's, with ours below it; below Table 1 what stands for no row of the paper."""
    lines = []
    for row, about, told in printed_rows(table):
        printed = {name: told[key] for name, key in paper.COLUMNS.items() if key in told}
        parameters, flops = (str(told.get(key, "")) for key in ("params", "flops"))
        lines.append(Line(row=row, about=about, ours=False, printed=printed, parameters=parameters, flops=flops))
        lines += _ours(collection.at(table, row), row)
    if table == "table1":
        lines += _ours([each for each in collection.measured if not each.places], "")
    return lines


def printed_rows(table: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, meaning and numbers of each row."""
    found, tables, methods = [], paper.paper_tables()[table], {(t, row): method for t, row, method in ablation_rows()}
    for values in tables["rows"]:
        told = dict(zip(tables["columns"], values, strict=True))
        if table == "table1":
            found.append((told["model"], told["category"], told))
        elif table == "table3":
            found.append((f"{told['dataset']}: {told['model']}", "", told))
        else:
            method = methods.get((table, str(told["row"])))
            found.append((str(told["row"]), f"{told['method']}, as published" if method is None else method.text, told))
    return found


def placement_name(row: str) -> str:
    """A row of Table 4 as Figure 6 names it: each cell's kind with its filters as a subscript, such as A₁A₂R₂."""
    (told,) = (each for name, _, each in printed_rows("table4") if name == row)
    kinds, filters = told["placement"].split("-"), told["filters"].split("-")
    return "".join(f"{kind}{number}".translate(SUBSCRIPTS) for kind, number in zip(kinds, filters, strict=True))


def _ours(measured: Sequence[Measured], row: str) -> list[Line]:
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for each in measured:
        groups.setdefault(each.line, []).append(each)
    lines = []
    for group in groups.values():
        mine = tuple(sorted(group, key=lambda each: each.seed))
        parameters, flops = (_amounts([getattr(m.cost, key) for m in mine]) for key in ("parameters", "table1_flops"))
        name = row or mine[0].system
        lines.append(Line(row=name, about=mine[0].system, ours=True, printed={}, measured=mine, parameters=parameters, flops=flops))
    return lines


def _amounts(numbers: Sequence[int]) -> str:
    """One number, or from the least to the most over seeds."""
    ends = dict.fromkeys(amount(number) for number in (min(numbers), max(numbers)))
    return " to ".join(ends)


def comparable(conditions: Conditions, table: str = "table1") -> str:
    """Whether numbers made so may be held against the paper's, said plainly."""
    theirs = {"cifar100", "svhn", "tiny-imagenet"} if table == "table3" else {"cifar10"}
    where = (
        f"the paper's are on {' or '.join(paper.DATA[name] for name in sorted(theirs))}, 200 epochs, eps 8/255, 10,000 test images"
    )
    if conditions.data not in theirs:
        return f"{conditions.text}: other data, so not comparable with the paper's numbers; {where}."
    epochs = 90 if conditions.data == "tiny-imagenet" else 200
    whole = (conditions.epochs, conditions.images, conditions.limit) == (epochs, 10_000, None)
    if conditions.profile != "paper" or not whole or abs(conditions.eps - 8 / 255) > 1e-9:
        return f"{conditions.text}: the paper's data, but other conditions; {where}."
    return f"{conditions.text}: the paper's data and profile."


class GridRow(Protocol):
    """What is needed of a row of a sweep's grid."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def paper(self) -> Mapping[str, float]: ...
    @property
    def architecture(self) -> str: ...


def grid_lines(collection: Collection, rows: Sequence[GridRow], runs: Mapping[str, Sequence[str]]) -> list[Line]:
    """The rows of a sweep's grid, the paper's numbers where it has them, and below each what its runs measured."""
    lines, networks = [], grid_networks(collection, rows, runs)
    for row in rows:
        if row.paper:
            lines.append(Line(row=row.name, about=row.about, ours=False, printed=row.paper))
        lines += _ours(networks[row.name], row.name)
    return lines


def grid_networks(collection: Collection, rows: Sequence[GridRow], runs: Mapping[str, Sequence[str]]) -> dict[str, list[Measured]]:
    """The networks of each row of a grid, whose runs are named; a run may hold others beside its row's own."""
    return {
        row.name: [
            each for each in collection.measured if each.run in runs[row.name] and (each.method is None) == bool(row.architecture)
        ]
        for row in rows
    }


def text_rows(lines: Sequence[Line], attacks: Sequence[str]) -> list[dict[str, str]]:
    """For a notebook: a line each, accuracies in percent with their intervals, the paper's marked as such."""
    rows = []
    for line in lines:
        told = {"row": line.row, "numbers are": "measured here" if line.ours else "the paper's", "what": line.about}
        told["under"] = "as printed" if line.conditions is None else f"{line.conditions.text}; {line.measured[0].size}"
        for attack in attacks:
            number, printed = line.number(attack), line.printed.get(attack)
            ours = ""
            if number is not None and line.conditions is not None:
                images = number.images_told(line.conditions.images)
                ours = f"{100 * number.value:.1f} ({100 * number.low:.1f} to {100 * number.high:.1f}{images})"
            told[attack] = ours if printed is None else f"{printed:.2f}"
        rows.append(told | {"seeds": ", ".join(map(str, line.seeds)), "FLOPs": line.flops})
    return rows


def points_of(lines: Sequence[Line], table: str = "") -> dict[Conditions, list[dict[str, Any]]]:
    """For the scatter of Figure 6: under each set of conditions, our rows with natural and PGD20 accuracy and their intervals."""
    panels: dict[Conditions, list[dict[str, Any]]] = {}
    for line in lines:
        natural, robust = (line.number(name) if line.ours else None for name in (NATURAL, ATTACK))
        if line.conditions is not None and natural is not None and robust is not None:
            panels.setdefault(line.conditions, []).append(
                {
                    "name": point_name(table, line.row),
                    "natural": natural.value,
                    "robust": robust.value,
                    "natural_interval": (natural.low, natural.high),
                    "robust_interval": (robust.low, robust.high),
                }
            )
    return panels


def printed_points(lines: Sequence[Line], table: str = "") -> list[dict[str, Any]]:
    """The paper's rows for the same scatter."""
    return [
        {"name": point_name(table, line.row), "natural": line.printed[NATURAL] / 100, "robust": line.printed[ATTACK] / 100}
        for line in lines
        if not line.ours and {NATURAL, ATTACK} <= set(line.printed)
    ]


def point_name(table: str, row: str) -> str:
    """Rows of Table 4 by their cells, numbered ones by their numbers, others by their names."""
    if table == "table4":
        return f"{row}: {placement_name(row)}"
    return f"row {row}" if row.isdigit() else row


def transfers_of(collection: Collection, attack: str = ATTACK) -> list[list[Transfer]]:
    """Transfer matrices of the same systems under the same conditions, seed by seed."""
    groups: dict[tuple[Any, ...], list[Transfer]] = {}
    for each in collection.transfers:
        if each.matrix.attack == attack:
            groups.setdefault((each.systems, each.conditions), []).append(each)
    return [sorted({each.seed: each for each in group}.values(), key=lambda each: each.seed) for group in groups.values()]


def transfer_number(group: Sequence[Transfer], source: int, target: int) -> Number:
    """The accuracy of a target on a source's images, over the seeds of a group."""
    values = [float(each.matrix.accuracy[source, target]) for each in group]
    images = group[0].matrix.num_images
    low, high = wilson(round(fmean(values) * images), images)
    if len(set(values)) > 1:
        low, high = t_interval(values)
    spans = "seeds" if len(set(values)) > 1 else "images"
    return Number(value=fmean(values), low=max(0.0, low), high=min(1.0, high), over=spans, images=images)


def table2_name(system: str) -> str:
    """As Table 2 names it."""
    return next((name for name in paper.transfer_table()[0] if zoo.full_name(name) == system), system)
