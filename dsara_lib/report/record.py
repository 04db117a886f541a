"""What a run folder holds, as far as its steps have been run. A part that is missing is None or empty; a damaged one is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..architecture import Genotype
from ..errors import WorkbookError
from ..evaluation import Evaluation, TransferMatrix, load_arrays, load_evaluation, load_transfer_matrix, read_csv
from ..history import History, Metrics, read_epochs, read_history
from ..presets import Source, recorded
from ..runs import Run, read_json
from ..soundness import Check
from ..soundness import load as load_board
from ..training import load_card

Part = TypeVar("Part")
BEST, LAST = "best", "last"
COLUMNS = ("data", "attack", "eps", "correct", "images", "accuracy", "low", "high")


@dataclass(kw_only=True)
class Record:
    """A run folder, read."""

    folder: Path
    card: dict[str, Any]  # run.json
    environment: dict[str, Any] = field(default_factory=dict)
    search: History = field(default_factory=History)
    alphas: dict[str, np.ndarray] = field(default_factory=dict)
    genotype: Genotype | None = None
    training: dict[str, list[Metrics]] = field(default_factory=dict)  # the epochs of each network
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each network that `evaluation` names
    white_box: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    matrices: dict[str, TransferMatrix] = field(default_factory=dict)  # by attack
    boards: dict[str, list[Check]] = field(default_factory=dict)  # by network
    seeds: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # white-box rows of runs that differ in their seed alone
    figures: dict[str, Path] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was opened with."""
        return self.card["settings"]

    @property
    def preset(self) -> dict[str, Any]:
        """All settings that decide a result."""
        return self.settings["preset"]

    @property
    def source(self) -> Source | None:
        """Where the architecture comes from, if not from a search of this run. Raises WorkbookError where that is not whole."""
        return recorded(self.settings, self.name) if "from" in self.settings else None

    @property
    def data(self) -> str:
        """The data set as the evaluation names it, else as the run was given it."""
        named = [row["data"] for row in self.white_box] + [card["data"]["name"] for card in self.cards.values()]
        return str(named[0] if named else self.settings["data"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty before a network is trained."""
        return next((tuple(map(str, card["data"]["classes"])) for card in self.cards.values()), ())

    @property
    def chosen_epoch(self) -> int | None:
        """The epoch of the search whose genotype was taken."""
        told = re.search(r"epoch (\d+) of \d+$", self.genotype.source if self.genotype else "")
        return int(told[1]) if told else None

    def saved(self, figure: str, source: str) -> Path | None:
        """A figure that a notebook saved from `source` as it is now; None where there is none or an older one."""
        path, numbers = self.figures.get(figure), self.folder / source
        if path is None or not numbers.exists() or path.stat().st_mtime_ns < numbers.stat().st_mtime_ns:
            return None
        return path

    def row(self, network: str, attack: str) -> dict[str, Any] | None:
        """The white-box result of a network under an attack."""
        return next((row for row in self.white_box if row["network"] == network and row["attack"] == attack), None)


def read(folder: Path) -> Record:
    """Read a run folder. Raises FileNotFoundError or WorkbookError where it is none."""
    card = Run(folder).card()
    if not isinstance(card["settings"], dict) or "preset" not in card["settings"]:
        raise WorkbookError(f"{folder.name}/run.json holds no settings of a run")
    record = Record(folder=folder, card=card)

    def part(reader: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return reader()
        except FileNotFoundError:
            return otherwise
        except (WorkbookError, KeyError, IndexError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
            record.troubles.append(f"{type(error).__name__}: {error}".replace(str(folder), folder.name))
            return otherwise

    record.environment = part(lambda: dict(read_json(folder / "environment.json")), {})
    record.search = part(lambda: read_history(folder / "search"), History())
    record.alphas = part(lambda: load_arrays(folder / "search" / "alphas.npz", "operations", "edges"), {})
    record.genotype = part(lambda: Genotype.load(folder / "search" / "genotype.json"), None)
    places = sorted((folder / "networks").glob("*"), key=lambda place: (not place.name.startswith("found"), place.name))
    for place in places:
        for which in (BEST, LAST):
            written = part(partial(load_card, place / which), None)
            if written is not None:
                record.cards[place.name if which == BEST else f"{place.name}-{LAST}"] = written
        record.training[place.name] = part(partial(read_epochs, place), [])
    evaluation = folder / "evaluation"
    record.white_box = part(lambda: read_csv(evaluation / "white_box.csv", "network", *COLUMNS), [])
    record.curve = part(lambda: read_csv(evaluation / "accuracy_against_eps.csv", "network", *COLUMNS), [])
    record.transfer = part(lambda: read_csv(evaluation / "transfer.csv", "source", "target", *COLUMNS), [])
    record.evaluations = part(lambda: evaluations(evaluation, record.white_box, record.classes), {})
    record.matrices = part(lambda: matrices(evaluation, record.transfer), {})
    boards = {}
    for path in sorted(evaluation.glob("*-soundness.json")):
        checks = part(partial(load_board, path), None)
        if checks is not None:
            boards[path.name.removesuffix("-soundness.json")] = checks[0]
    record.boards = {name: boards[name] for name in (*record.evaluations, *boards) if name in boards}  # in the table's order
    record.seeds = part(lambda: other_seeds(record), {})
    record.figures = {path.stem: path for path in sorted((folder / "figures").glob("*.svg"))}
    return record


def evaluations(folder: Path, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> dict[str, Evaluation]:
    """The predictions image by image of each network in the table, where they agree with it."""
    found = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        _require_plain(network)
        if not (folder / f"{network}.npz").is_file():
            continue
        attacks: dict[str, Mapping[str, Any]] = {row["attack"]: row for row in mine if row["attack"] != "natural"}
        eps = max((row["eps"] for row in mine), default=0.0)
        described = {"network": network, "data": mine[0]["data"], "eps": eps, "classes": classes, "attacks": attacks}
        read = load_evaluation(folder / f"{network}.npz", **described)
        told = {row["attack"]: (row["correct"], row["images"]) for row in mine}
        if told != {name: (int(read.correct(name).sum()), read.count(name)) for name in read.predictions}:
            raise WorkbookError(f"evaluation/{network}.npz and white_box.csv do not tell the same; run notebook 04 again")
        found[network] = read
    return found


def _require_plain(name: str) -> None:
    """Raise WorkbookError for a name in a table that, as part of a file's, would lead out of the folder."""
    if not name or Path(name).name != name:
        raise WorkbookError(f"evaluation/ names {str(name)[:60]!r}, which no file there can be called")


def matrices(folder: Path, rows: list[dict[str, Any]]) -> dict[str, TransferMatrix]:
    """The transfer matrix of each attack, where its predictions and its rows are there."""
    found = {}
    for row in {row["attack"]: row for row in rows}.values():
        _require_plain(row["attack"])
        described = {name: row[name] for name in ("attack", "eps", "data")}
        found[row["attack"]] = load_transfer_matrix(folder / f"transfer-{row['attack']}.npz", **described)
    return found


def other_seeds(record: Record) -> dict[int, list[dict[str, Any]]]:
    """White-box rows by seed of the evaluated runs beside this one that have its settings; empty where there is no other seed."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in sorted(record.folder.parent.glob("*/evaluation/white_box.csv")):
        settings = dict(Run(path.parent.parent).card()["settings"] or {})
        seed = settings.pop("seed", None)
        if seed is not None and settings == {name: value for name, value in record.settings.items() if name != "seed"}:
            found.setdefault(int(seed), read_csv(path, "network", *COLUMNS))
    return found if len(found) > 1 else {}
