"""What the panel shows of a search and of a training: words and pictures, made of a state, metrics and what was seen of the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..architecture import Genotype, SearchSpace, discretise
from ..drawing import cell_svg
from ..engine import Job, Metrics
from ..search import Searcher
from ..search.searcher import collapse, uniform_entropy
from ..training import Trainer
from .control import State, Work
from .pictures import MOST_POINTS, Chart, Line, chart, heat_map, notes, row

Seen = Any
NUM_NOTES = 4
DRAWN = 64  # cell graphs kept, at 40 ms each


class View(Protocol):
    """What a panel asks of the kind of work it shows."""

    parts: tuple[str, ...]  # of the panel, from above
    replays: bool  # whether past epochs can be looked at

    def look(self, job: Job) -> Seen:
        """A copy of what is drawn of the job, taken between its steps."""
        ...

    def draw(self, state: State, work: Work, seen: Seen, at: int | None) -> dict[str, str]:
        """HTML of each part, after epoch `at` or, where it is None, now."""
        ...


class Curve:
    """A metric over the epochs, in means over `size` steps: each value is read once, however often it is drawn."""

    def __init__(self, size: int):
        self.size, self.means, self.open = size, list[tuple[float, float]](), list[tuple[float, float]]()

    def add(self, epochs: float, value: float, stands_for: int = 1) -> None:
        """A value, after so many epochs, that stands for so many steps."""
        self.open.append((epochs, value))
        if len(self.open) * stands_for >= self.size:
            self.means.append((epochs, sum(value for _, value in self.open) / len(self.open)))
            self.open.clear()

    @property
    def points(self) -> list[tuple[float, float]]:
        """The means, and the last value where it is in none of them."""
        return self.means + self.open[-1:]


class Lines:
    """`lines(name, metric, color, dash)` over the steps of a job so far or, with `ends`, over the ends of its epochs."""

    def __init__(self, work: Work):
        self.work, self.num_batches = work, int(work.job.num_batches)  # type: ignore[attr-defined]
        self.size = -(-work.job.num_epochs * self.num_batches // MOST_POINTS)
        self.curves: dict[tuple[str, bool], Curve] = {}
        self.steps_read, self.epochs_read = 0, 0

    def follow(self) -> Lines:
        """Read what is new in the job's history."""
        history = self.work.history
        steps, self.steps_read = history.sample.since(self.steps_read)
        for step in steps:
            self._add(step, False, (step["step"] + 1) / self.num_batches, history.stride)
        epochs = history.epochs[self.epochs_read :]
        self.epochs_read += len(epochs)
        for epoch in epochs:
            self._add(epoch, True, epoch["epoch"])
        return self

    def _add(self, record: Metrics, ends: bool, epochs: float, stands_for: int = 1) -> None:
        for metric, value in record.items():
            if isinstance(value, int | float):
                self._curve(metric, ends).add(epochs, value, stands_for)

    def __call__(self, name: str, metric: str, color: str, dash: str = "", *, ends: bool = False) -> Line:
        return Line(name=name, color=color, dash=dash, points=self._curve(metric, ends).points)

    def _curve(self, metric: str, ends: bool) -> Curve:
        return self.curves.setdefault((metric, ends), Curve(1 if ends else self.size))


class AllLines:
    """The lines of each job that a view shows."""

    def __init__(self) -> None:
        self.by_folder: dict[Path, Lines] = {}

    def of(self, work: Work) -> Lines:
        """Up to date."""
        return self.by_folder.setdefault(work.folder, Lines(work)).follow()


class SearchView:
    """Three heat maps of alphas, losses, gamma and cosine, entropy, and the cells that would be kept."""

    parts: tuple[str, ...] = ("alphas", "curves", "cells", "notes")
    replays: bool = True

    def __init__(self) -> None:
        self.lines = AllLines()

    def look(self, job: Job) -> dict[str, Tensor]:
        """The alphas."""
        assert isinstance(job, Searcher)
        return {kind: alpha.detach().to("cpu", copy=True) for kind, alpha in job.supernet.alphas.items()}

    def draw(self, state: State, work: Work, seen: dict[str, Tensor], at: int | None) -> dict[str, str]:
        """See `View`."""
        job = work.job
        assert isinstance(job, Searcher)
        space = job.config.space
        alphas = seen if at is None else job.alphas_by_epoch[at]
        genotype = discretise(alphas, space, "now", most_skips=job.config.most_skips)
        return {
            "alphas": row([self._heat_map(kind, alphas[kind], genotype, space) for kind in space.kinds], "heat"),
            "curves": row(self._curves(work, job, at)),
            "cells": row([self._cell(genotype, kind) for kind in space.kinds], "cell"),
            "notes": notes(self._notes(state, work.history.epochs, genotype, at)),
        }

    def _heat_map(self, kind: str, alpha: Tensor, genotype: Genotype, space: SearchSpace) -> tuple[str, str]:
        kept = {
            (edge.source, node): edge.operation
            for node, incoming in zip(space.nodes, genotype.cells[kind], strict=True)
            for edge in incoming
        }
        words = f"weights of the operations on each edge of the {kind} cell"
        return f"{kind} cell: softmax(α)", heat_map(alpha.softmax(-1).tolist(), space.operations, space.edges, kept, words)

    def _curves(self, work: Work, job: Searcher, at: int | None) -> list[tuple[str, str]]:
        line = self.lines.of(work)
        common: dict[str, Any] = {"epochs": job.num_epochs, "at": at, "starts": stage_starts(job)}
        losses = [
            line("weights, adversarial", "train/adversarial_loss", "orange"),
            line("alphas, adversarial", "validation/adversarial_loss", "vermillion", "7 2"),
            line("alphas, natural", "validation/natural_loss", "blue", "2 2"),
        ]
        pull = [line("γ", "gamma", "purple"), line("cosine", "gradient_cosine", "green", "7 2")]
        low = -1.0 if any(value < 0 for line_ in pull for _, value in line_.points) else 0.0
        styles = (("blue", ""), ("vermillion", "7 2"), ("green", "2 2"))
        entropy = [
            line(kind, f"entropy/{kind}", color, dash, ends=True)
            for kind, (color, dash) in zip(job.config.space.kinds, styles, strict=False)
        ]
        accuracy = [
            line("natural", "validation/natural_accuracy", "blue", ends=True),
            line("adversarial", "validation/adversarial_accuracy", "vermillion", "7 2", ends=True),
        ]
        undecided = uniform_entropy(job.config.space)
        charts = {
            "losses, each on its half": Chart(lines=losses, **common),
            "γ, and cosine of both gradients": Chart(lines=pull, low=low, high=1, empty="one objective so far", **common),
            f"entropy of an edge, of {undecided:.4g} nats": Chart(lines=entropy, empty="after the first epoch", **common),
            "accuracy on the alphas' half": Chart(lines=accuracy, low=0, high=1, empty="after the first epoch", **common),
        }
        return [(caption, chart(caption, each)) for caption, each in charts.items()]

    def _cell(self, genotype: Genotype, kind: str) -> tuple[str, str]:
        skips, edges = genotype.skips(kind), sum(len(node) for node in genotype.cells[kind])
        said = f"; {skips} of {edges} edges skip" if skips else ""
        return f"{kind} cell{said}", cell_graph(genotype, kind)

    def _notes(self, state: State, epochs: Sequence[Metrics], genotype: Genotype, at: int | None) -> list[str]:
        told, stage, warning = list(state.notes), 1, ""
        for each in epochs:
            if each["stage"] != stage:
                told.append(f"epoch {each['epoch']}: stage {each['stage']} began")
            if each.get("warning", "") not in ("", warning):
                told.append(f"epoch {each['epoch']}: {each['warning']}")
            stage, warning = each["stage"], each.get("warning", "")
        now = collapse(genotype) if at is None else ""
        if now not in ("", warning):
            told.append(f"now: {now}")
        return told[-NUM_NOTES:]


def stage_starts(job: Searcher) -> dict[int, float]:
    """The epochs done when each stage begins."""
    starts, done = {}, 0
    for number, stage in enumerate(job.config.stages, 1):
        starts[number] = float(done)
        done += stage.epochs
    return starts


def cell_graph(genotype: Genotype, kind: str) -> str:
    """The graph of one of its cells, drawn anew only where something else is to be seen: strengths are written with two digits."""
    strengths = (genotype.strengths or {}).get(kind, ())
    return drawn_cell(genotype.cells[kind], tuple(tuple(round(each, 2) for each in node) for node in strengths), kind)


@lru_cache(maxsize=DRAWN)
def drawn_cell(cell: Any, strengths: tuple[tuple[float, ...], ...], kind: str) -> str:
    """The cell's graph."""
    genotype = Genotype(name="now", cells={kind: cell}, strengths={kind: strengths} if strengths else None)
    svg = cell_svg(genotype, kind)
    # On the page's own background.
    return svg[svg.index("<svg") :].replace('<polygon fill="white"', '<polygon fill="none"', 1)


class TrainingView:
    """Losses, accuracies on training and held-out images, and the learning rate."""

    parts: tuple[str, ...] = ("curves", "notes")
    replays: bool = False

    def __init__(self) -> None:
        self.lines = AllLines()

    def look(self, job: Job) -> None:
        """Metrics say it all."""

    def draw(self, state: State, work: Work, seen: None, at: int | None) -> dict[str, str]:
        """See `View`."""
        job = work.job
        assert isinstance(job, Trainer)
        line = self.lines.of(work)
        kind = "adversarial" if job.config.attack else "natural"
        held = (("natural", "blue", "2 2"), ("adversarial", "vermillion", "7 2"))
        losses = [
            line(f"training, {kind}", f"train/{kind}_loss", "orange"),
            *(line(f"held out, {each}", f"validation/{each}_loss", color, dash, ends=True) for each, color, dash in held),
        ]
        accuracies = [
            line(f"training, {kind}", f"train/{kind}_accuracy", "orange"),
            *(line(f"held out, {each}", f"validation/{each}_accuracy", color, dash, ends=True) for each, color, dash in held),
        ]
        attack = f"adversarial: PGD{job.config.held_out_attack.steps}"
        charts = {
            "loss": Chart(lines=losses, epochs=job.num_epochs),
            f"accuracy (held out, {attack})": Chart(lines=accuracies, epochs=job.num_epochs, low=0, high=1),
            "learning rate": Chart(lines=[line("rate", "learning_rate", "green")], epochs=job.num_epochs, low=0),
        }
        epochs = work.history.epochs
        best = [f"best held-out epoch so far: {epochs[-1]['best_epoch']}"] if epochs else []
        return {
            "curves": row([(caption, chart(caption, each)) for caption, each in charts.items()]),
            "notes": notes([*state.notes, *best][-NUM_NOTES:]),
        }


def view_of(work: Mapping[str, Work]) -> View:
    """The view for jobs of one kind."""
    return SearchView() if all(isinstance(each.job, Searcher) for each in work.values()) else TrainingView()
