"""The table of a sweep as it stands: size, means over seeds with intervals, and how each row compares with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ..architecture import blueprint_cost, blueprint_from_dict
from ..evaluation import NATURAL, Evaluation, mean_and_spread, t_interval, write_csv
from ..paper import COLUMNS
from .grids import ATTACK, Grid, Row
from .sweep import Sweep, Task

SHOWN = (NATURAL, ATTACK, "AutoAttack")  # in the table on the screen; the file has all
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a task: predictions, and what its network costs for one image."""

    evaluation: Evaluation
    parameters: int
    multiply_adds: int


@dataclass(kw_only=True)
class Table:
    """Reads what is done, each task once, and tells it."""

    sweep: Sweep
    _read: dict[str, tuple[int, Outcome]] = field(default_factory=dict)  # by run, with the time at which its file was written

    def outcome(self, task: Task) -> Outcome | None:
        """What came out of a task; None while it is not done."""
        path = self.sweep.evaluation_path(task)
        if not path.is_file():
            return None
        written = path.stat().st_mtime_ns
        if task.run not in self._read or self._read[task.run][0] != written:
            self._read[task.run] = (written, self._fresh(task))
        return self._read[task.run][1]

    def _fresh(self, task: Task) -> Outcome:
        card = self.sweep.card(task)
        counted = blueprint_cost(blueprint_from_dict(card["blueprint"], task.run), card["data"]["image_size"])
        evaluation = self.sweep.evaluation(task)
        assert evaluation is not None
        return Outcome(evaluation=evaluation, parameters=counted.parameters, multiply_adds=counted.multiply_adds)

    def lines(self) -> list[dict[str, Any]]:
        """A line for each row of the grid; accuracies in percent, None where nothing is measured."""
        done = {(task.row.name, task.seed): found for task in self.sweep.tasks() if (found := self.outcome(task)) is not None}
        by_row = {
            row.name: {s: done[row.name, s] for s in self.sweep.seeds if (row.name, s) in done} for row in self.sweep.grid.rows
        }
        attacks = _attacks(self.sweep.grid, done.values())
        reference = by_row[self.sweep.grid.reference]
        lines = []
        for row in self.sweep.grid.rows:
            mine = by_row[row.name]
            line = _line(row, list(mine.values()), attacks)
            if row.name != self.sweep.grid.reference:
                line |= _against(mine, reference)
            lines.append(line)
        return lines

    def write(self) -> Path:
        """The table as it is now, as CSV in the folder of all runs."""
        path, lines = self.sweep.results / f"{self.sweep.name}.csv", self.lines()
        columns = list(dict.fromkeys(column for line in lines for column in line))
        write_csv(path, [{column: "" if line.get(column) is None else line[column] for column in columns} for line in lines])
        return path

    def text(self) -> str:
        """The table in plain characters, the paper's numbers in brackets."""
        lines, reference = self.lines(), self.sweep.grid.reference
        shown = [attack for attack in SHOWN if any(line.get(attack) is not None or f"{attack} paper" in line for line in lines)]
        heads = [f"{attack} (paper)" for attack in shown]
        rows = [("row", "params", "mult-adds", *heads, "95 % interval", f"against {reference}", "what")]
        for line in lines:
            size = [_amount(line[key]) for key in ("parameters", "multiply_adds")]
            numbers = [_number(line, attack) for attack in shown]
            rows.append((line["row"], *size, *numbers, line["interval"], line.get("against reference", ""), line["about"]))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _attacks(grid: Grid, done: Any) -> list[str]:
    """All that is printed or measured, in the paper's order."""
    named = {attack for row in grid.rows for attack in row.paper} | {a for each in done for a in each.evaluation.predictions}
    return [*(attack for attack in COLUMNS if attack in named), *sorted(named - set(COLUMNS))]


def _line(row: Row, outcomes: Sequence[Outcome], attacks: Sequence[str]) -> dict[str, Any]:
    evaluations = [each.evaluation for each in outcomes]
    line: dict[str, Any] = {"row": row.name, "about": row.about, "seeds": len(outcomes), "interval": _kind(evaluations)}
    for size in ("parameters", "multiply_adds"):  # genotypes differ between seeds
        line[size] = round(fmean(getattr(each, size) for each in outcomes)) if outcomes else None
    for attack in attacks:
        line |= _accuracy(attack, [each for each in evaluations if attack in each.predictions])
        if attack in row.paper:
            line[f"{attack} paper"] = row.paper[attack]
    return line


def _kind(evaluations: Sequence[Evaluation]) -> str:
    """What the intervals of a row tell: other seeds, or other test images."""
    if len(evaluations) > 1:
        return f"t, {len(evaluations)} seeds"
    return f"Wilson, {len(evaluations[0].labels)} images" if evaluations else ""


def _accuracy(attack: str, evaluations: Sequence[Evaluation]) -> dict[str, float | None]:
    """Mean, deviation over seeds and 95 % interval of an accuracy in percent."""
    if not evaluations:
        return dict.fromkeys((attack, f"{attack} spread", f"{attack} low", f"{attack} high"))
    values = [100 * each.accuracy(attack) for each in evaluations]
    mean, spread = mean_and_spread(values)
    if len(values) > 1:
        low, high = t_interval(values)
    else:
        low, high = (100 * share for share in evaluations[0].interval(attack, CONFIDENCE))
    told = {attack: mean, f"{attack} spread": spread, f"{attack} low": max(low, 0.0), f"{attack} high": min(high, 100.0)}
    if evaluations[0].count(attack) < len(evaluations[0].labels):
        told[f"{attack} images"] = evaluations[0].count(attack)
    return {key: round(value, 4) for key, value in told.items()}


def _against(mine: Mapping[int, Outcome], reference: Mapping[int, Outcome]) -> dict[str, str]:
    """How many seeds are better, worse or neither than the reference's, image by image."""
    both = [(each, reference[seed]) for seed, each in mine.items() if seed in reference]
    verdicts = [each.evaluation.compare(other.evaluation, ATTACK).verdict for each, other in both]
    told = [f"{verdicts.count(kind)} {kind}" for kind in ("better", "worse", "no evidence") if kind in verdicts]
    return {"against reference": ", ".join(told)} if told else {}


def _amount(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e6:.2f}M" if number >= 1e6 else f"{number / 1e3:.1f}k"


def _number(line: Mapping[str, Any], attack: str) -> str:
    printed = f" ({line[f'{attack} paper']:.2f})" if f"{attack} paper" in line else ""
    if line.get(attack) is None:
        return f"-{printed}"
    spread = f" ± {line[f'{attack} spread']:.1f}" if line["seeds"] > 1 else ""
    images = f" n = {line[f'{attack} images']:,}" if f"{attack} images" in line else ""
    return f"{line[attack]:.1f}{spread} [{line[f'{attack} low']:.1f}, {line[f'{attack} high']:.1f}]{images}{printed}"
