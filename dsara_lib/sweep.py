"""Grids of runs: the rows of an ablation, each searched, trained and attacked once for each seed, and a table of what came out.

Every row and seed is a run folder of its own, made by the same calls as in the notebooks; what is done is not done again, and what
was stopped goes on from its last commit. Rows are compared on the same test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine import Event, run_epochs
from .errors import WorkbookError, unknown
from .evaluation import Evaluation, load_evaluation, mean_and_spread, write_csv
from .experiment import FOUND, Experiment, open_experiment
from .paper import paper_tables
from .presets import VARIANTS
from .runs import RUN_NAME
from .training import load_card, load_network

ATTACK = "PGD20"  # under which rows are compared, as the paper's ablations do


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table: a variant that is searched, or a published architecture that is only trained."""

    name: str
    about: str
    paper: Mapping[str, float]  # natural and PGD20 accuracy in percent, as printed
    variant: str = ""
    architecture: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The rows of a table, and the one that the others are compared with."""

    name: str
    rows: tuple[Row, ...]
    reference: str

    def row(self, name: str) -> Row:
        """The row of that name. Raises WorkbookError."""
        for each in self.rows:
            if each.name == name:
                return each
        raise unknown(f"row of {self.name}", name, [each.name for each in self.rows])


def grids() -> dict[str, Grid]:
    """Tables 4 and 5 of the paper."""
    tables, found = paper_tables(), {}
    for table, reference in (("table4", "1"), ("table5", "7")):
        columns, rows = tables[table]["columns"], []
        for values in tables[table]["rows"]:
            told = dict(zip(columns, values, strict=True))
            number, variant = str(told["row"]), f"{table}-{told['row']}"
            paper = {"natural": told["natural"], ATTACK: told["pgd20"]}
            if variant in VARIANTS:
                rows.append(Row(name=number, about=VARIANTS[variant].about, paper=paper, variant=variant))
            else:
                name = told["method"]
                rows.append(Row(name=number, about=f"{name}, as published", paper=paper, architecture=name))
        found[table] = Grid(name=table, rows=tuple(rows), reference=reference)
    return found


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row at one seed."""

    row: Row
    seed: int
    run: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid at a profile, on a data set, for some seeds."""

    name: str
    grid: Grid
    seeds: tuple[int, ...]
    results: Path
    settings: Mapping[str, Any]  # of `open_experiment`, the same for all: profile, data, limit, changes, device

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise WorkbookError(f"a sweep has one seed or more, each once; got {self.seeds!r}")
        if not RUN_NAME.fullmatch(f"{self.name}-row1-seed0"):
            raise WorkbookError(f"a sweep's name has letters, digits, '.', '_' and '-'; got {self.name!r}")

    def tasks(self, rows: Sequence[str] = ()) -> list[Task]:
        """Every row at every seed, seed by seed, so that whole tables come early; only some rows, where they are named."""
        chosen = [self.grid.row(name) for name in rows] if rows else list(self.grid.rows)
        return [Task(row=row, seed=seed, run=f"{self.name}-row{row.name}-seed{seed}") for seed in self.seeds for row in chosen]

    def open(self, task: Task) -> Experiment:
        """The task's run, made or gone on with."""
        return open_experiment(task.run, seed=task.seed, variant=task.row.variant, results=self.results, **self.settings)

    def do(self, task: Task) -> Iterator[Event]:
        """Search, train, attack; each goes on where it stopped."""
        experiment, name = self.open(task), task.row.architecture or FOUND
        experiment.use_its_threads()
        if not task.row.architecture:
            yield from run_epochs(experiment.searcher(), experiment.search_folder)
        yield from run_epochs(experiment.trainer(name), experiment.network_folder(name))
        network = load_network(experiment.network_folder(name) / "best", experiment.device)
        evaluator = experiment.white_box(name, network)
        yield from run_epochs(evaluator, experiment.run.path("evaluation", name))
        evaluation = evaluator.evaluation(name, eps=experiment.data.eps, classes=experiment.data.classes)
        evaluation.save(experiment.run.path("evaluation", f"{name}.npz"))

    def evaluation(self, task: Task) -> Evaluation | None:
        """What came out of a task; None while it is not done."""
        folder, name = self.results / task.run, task.row.architecture or FOUND
        path = folder / "evaluation" / f"{name}.npz"
        if not path.is_file():
            return None
        data = load_card(folder / "networks" / name / "best")["data"]
        described = {"data": data["name"], "eps": data["eps"], "classes": tuple(data["classes"])}
        return load_evaluation(path, network=task.run, **described)

    def table(self) -> list[dict[str, Any]]:
        """A line for each row of the grid that has something to tell: means over seeds in percent, and how it compares."""
        done = {(task.row.name, task.seed): found for task in self.tasks() if (found := self.evaluation(task)) is not None}
        lines = []
        for row in self.grid.rows:
            by_seed = {seed: done[row.name, seed] for seed in self.seeds if (row.name, seed) in done}
            line: dict[str, Any] = {"row": row.name, "about": row.about, "seeds": len(by_seed)}
            for attack, printed in row.paper.items():
                values = [round(100 * each.accuracy(attack), 4) for each in by_seed.values()]
                mean, spread = mean_and_spread(values) if values else (None, None)
                line |= {attack: mean, f"{attack} spread": spread, f"{attack} paper": printed}
            reference = {seed: done.get((self.grid.reference, seed)) for seed in by_seed}
            pairs = [each.compare(other, ATTACK) for seed, each in by_seed.items() if (other := reference[seed]) is not None]
            if row.name != self.grid.reference and pairs:
                line["against reference"] = ", ".join(
                    f"{sum(pair.verdict == verdict for pair in pairs)} {verdict}"
                    for verdict in ("better", "worse", "no evidence")
                    if any(pair.verdict == verdict for pair in pairs)
                )
            lines.append(line)
        return lines

    def write(self) -> Path:
        """The table as it is now, as CSV in the folder of all runs."""
        path = self.results / f"{self.name}.csv"
        lines = self.table()
        columns = list(dict.fromkeys(column for line in lines for column in line))
        write_csv(path, [{column: "" if line.get(column) is None else line[column] for column in columns} for line in lines])
        return path


def text(lines: Sequence[Mapping[str, Any]], grid: Grid) -> str:
    """The table in plain characters, the paper's numbers in brackets."""
    rows = [("row", "natural (paper)", f"{ATTACK} (paper)", "seeds", f"against row {grid.reference}", "what")]
    for line in lines:
        told = [_number(line, attack) for attack in ("natural", ATTACK)]
        rows.append((line["row"], *told, str(line["seeds"]), line.get("against reference", ""), line["about"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _number(line: Mapping[str, Any], attack: str) -> str:
    printed = f"({line[f'{attack} paper']:.2f})"
    if line[attack] is None:
        return f"- {printed}"
    spread = f" ± {line[f'{attack} spread']:.1f}" if line["seeds"] > 1 else ""
    return f"{line[attack]:.1f}{spread} {printed}"
