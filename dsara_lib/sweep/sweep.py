"""A grid at a profile, on a data set, for some seeds: its tasks, and how one of them is done."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture import compute_as_asked
from ..data import load
from ..engine import Event, run_epochs
from ..errors import WorkbookError
from ..evaluation import Evaluation, load_evaluation
from ..experiment import FOUND, Experiment, open_experiment
from ..presets import make_preset
from ..runs import RUN_NAME
from ..training import load_card, load_network
from .grids import Grid, Row


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row at one seed."""

    row: Row
    seed: int
    run: str

    @property
    def network(self) -> str:
        """What its network is called in the run's folder."""
        return self.row.architecture or FOUND


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid at a profile, on a data set, for some seeds."""

    name: str
    grid: Grid
    seeds: tuple[int, ...]
    results: Path
    settings: Mapping[str, Any]  # of `open_experiment`, the same for all: profile, data, limit, size, changes, device

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise WorkbookError(f"a sweep has one seed or more, each once; got {self.seeds!r}")
        if not RUN_NAME.fullmatch(self.name) or not all(RUN_NAME.fullmatch(task.run) for task in self.tasks()):
            raise WorkbookError(
                "a sweep's name has letters, digits, '.', '_' and '-', and with row and seed at most 100 of them; "
                f"got {self.name!r}"
            )

    def tasks(self, rows: Sequence[str] = ()) -> list[Task]:
        """Every row at every seed, seed by seed, so that whole tables come early; only some rows, where they are named."""
        chosen = [self.grid.row(name) for name in rows] if rows else list(self.grid.rows)
        return [Task(row=row, seed=seed, run=f"{self.name}-{row.label}-seed{seed}") for seed in self.seeds for row in chosen]

    def check(self) -> None:
        """Settings that no row could be opened with end here, before anything is done. Raises WorkbookError."""
        for row in self.grid.rows:
            make_preset(self.settings.get("profile", "demo"), self.settings.get("changes", ""), row.variant)
        known = {key: self.settings[key] for key in ("limit", "size", "skip_unreadable") if key in self.settings}
        load(self.settings.get("data", "digits"), root=self.settings.get("data_root", "data"), **known)  # downloads it once for all

    def open(self, task: Task, **other: Any) -> Experiment:
        """The task's run, made or gone on with; `other` are settings that take the place of the sweep's, such as the device."""
        settings = {**self.settings, **other}
        return open_experiment(task.run, seed=task.seed, variant=task.row.variant, results=self.results, **settings)

    def do(self, task: Task) -> Generator[Event, None, None]:
        """Search, train, attack; each goes on where it stopped."""
        compute_as_asked()
        experiment, name = self.open(task), task.network
        experiment.use_its_threads()
        if not task.row.architecture:
            yield from run_epochs(experiment.searcher(), experiment.search_folder)
        yield from run_epochs(experiment.trainer(name), experiment.network_folder(name))
        network = load_network(experiment.network_folder(name) / "best", experiment.device)
        evaluator = experiment.white_box(name, network)
        yield from run_epochs(evaluator, experiment.run.path("evaluation", name))
        evaluation = evaluator.evaluation(name, eps=experiment.data.eps, classes=experiment.data.classes)
        evaluation.save(self.evaluation_path(task))

    def evaluation_path(self, task: Task) -> Path:
        """The file that a task ends with."""
        return self.results / task.run / "evaluation" / f"{task.network}.npz"

    def card(self, task: Task) -> dict[str, Any]:
        """What a task's trained network says of itself."""
        return load_card(self.results / task.run / "networks" / task.network / "best")

    def evaluation(self, task: Task) -> Evaluation | None:
        """What came out of a task; None while it is not done."""
        path = self.evaluation_path(task)
        if not path.is_file():
            return None
        data = self.card(task)["data"]
        described = {"data": data["name"], "eps": data["eps"], "classes": tuple(data["classes"])}
        return load_evaluation(path, network=task.run, **described)
