"""Architectures that are retrained elsewhere without a search (Table 3): found by another run, published, or in a file.

Such a run keeps what it was given in its own settings, so that the run it comes from may be moved, changed or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import paper
from ..architecture import Genotype, SearchSpace, zoo
from ..data import DataSet, eps_text
from ..errors import WorkbookError, unknown
from ..runs import RunStore
from ..training import Drops
from .making import make_preset
from .profiles import PAPER, Preset

RUN, PUBLISHED, FILE = "run", "published", "file"
DSARA, NASNET = SearchSpace(), SearchSpace(placement="A-A-A", filters=(1, 2, 4))
SMALL_STEM = {"ResNet-18": "ResNet-18-32x32"}  # with the other stem a quarter of small images would be left
LARGE = 128  # pixels of a side from which the other stem is the usual one
OTHERWISE = ("ResNet-18", "P-DARTS")  # beside it on data that Table 3 does not have


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an architecture comes from: a run with how that was opened, a published architecture, or a genotype file."""

    name: str
    kind: str
    genotype: Genotype
    opened: Mapping[str, Any]  # of a run: profile, changes, variant and data; else empty

    def written(self) -> dict[str, Any]:
        """As a run's settings hold it."""
        return {"name": self.name, "kind": self.kind, "genotype": self.genotype.to_dict(), "opened": dict(self.opened)}

    @property
    def about(self) -> str:
        """In a sentence for people."""
        if self.kind == RUN:
            return f"found by run {self.name!r} on {self.opened['data']} (profile {self.opened['profile']})"
        return f"published as {self.name}" if self.kind == PUBLISHED else f"of the file {self.name}"

    @property
    def variant(self) -> str:
        """The method that found it, where that is another than the profile's."""
        return str(self.opened.get("variant", ""))

    def applied(self, preset: Preset, data: DataSet, changes: str = "") -> Preset:
        """The preset with the search that found it, and beside it what Table 3 has on these data, unless `changes` name others."""
        if self.kind == RUN:
            search = make_preset(self.opened["profile"], self.opened["changes"], self.variant).search
        else:
            space = zoo.load(self.name).space if self.kind == PUBLISHED else space_of(self.genotype)
            search = replace(preset.search, space=space)
        stems = SMALL_STEM if data.image_size < LARGE else {}
        beside = tuple(stems.get(name, name) for name in beside_on(data.name) if name != self.name)
        if any(change.startswith("baselines=") for change in changes.split()):
            beside = preset.baselines
        return at_the_size_for(replace(preset, search=search, baselines=beside), data)


def source_of(name: str, results: str | Path) -> Source:
    """The architecture of a run of that name, of the zoo, or of a file that ends in .json.

    Raises WorkbookError, FileNotFoundError where the run has not found one yet.
    """
    store = RunStore(Path(results))
    if name in {run.name for run in store.runs()}:
        run = store.find(name)
        settings = run.card()["settings"]
        if isinstance(settings.get("from"), Mapping):
            return recorded(settings, run.name)
        genotype = Genotype.load(run.require("search", "genotype.json", made_by="notebook 02 (search)"))
        opened = {key: settings.get(key, "") for key in ("profile", "changes", "variant", "data")}
        return Source(name=name, kind=RUN, genotype=genotype, opened=opened)
    if name.endswith(".json"):
        return Source(name=Path(name).name, kind=FILE, genotype=Genotype.load(name), opened={})
    published = zoo.genotypes()
    if zoo.full_name(name) in published:
        return Source(name=zoo.full_name(name), kind=PUBLISHED, genotype=published[zoo.full_name(name)], opened={})
    if zoo.full_name(name) in zoo.names():
        raise WorkbookError(
            f"{name} is not made of one genotype's cells; it can only stand beside one, as in --set baselines={name}"
        )
    raise unknown("run or architecture", name, [*(run.name for run in store.runs()), *published, "a file that ends in .json"])


def recorded(settings: Mapping[str, Any], run: str) -> Source:
    """The source that a run's settings hold. Raises WorkbookError where they hold none."""
    told = settings.get("from")
    parts: dict[str, Any] = dict(told) if isinstance(told, Mapping) else {}
    name, kind, opened = (str(parts.get("name", ""))), parts.get("kind"), parts.get("opened")
    needed = ("profile", "changes", "data") if kind == RUN else ()
    if not name or kind not in (RUN, PUBLISHED, FILE) or not isinstance(opened, Mapping) or not set(needed) <= set(opened):
        raise WorkbookError(f"run {run!r}: its run.json does not say from where its architecture comes")
    genotype = Genotype.from_dict(parts.get("genotype"), f"run.json of {run}")
    return Source(name=name, kind=str(kind), genotype=genotype, opened={key: str(value) for key, value in opened.items()})


def space_of(genotype: Genotype) -> SearchSpace:
    """The space that a genotype of a file is of, by its kinds of cells."""
    return DSARA if "robust" in genotype.cells else NASNET


def beside_on(data: str) -> tuple[str, ...]:
    """The other networks of Table 3 on these data."""
    rows = [row for row in paper.paper_tables()["table3"]["rows"] if row[0] == paper.DATA.get(data)]
    return tuple(zoo.full_name(row[1]) for row in rows if row[1] != "DSARA") or OTHERWISE


def at_the_size_for(preset: Preset, data: DataSet) -> Preset:
    """On Tiny-ImageNet the paper's networks have 14 cells and 84 channels, and learn for 90 epochs with drops at 30 and 60."""
    if data.name != "tiny-imagenet" or (preset.num_cells, preset.channels) != (PAPER.num_cells, PAPER.channels):
        return preset
    training, papers = preset.training, PAPER.training
    if (training.epochs, training.schedule) == (papers.epochs, papers.schedule):
        training = replace(training, epochs=90, schedule=Drops(milestones=(30, 60)))
    return replace(preset, num_cells=14, channels=84, training=training)


def decided_by(data: DataSet, preset: Preset) -> dict[str, tuple[str, str]]:
    """What follows from the data in a preset that was fitted to them: by its name, here and in the paper on CIFAR-10."""
    size, theirs = data.image_size, PAPER.training
    matched = f", then as many parameters as {preset.match}" if preset.match else ""
    return {
        "outputs of the head": (f"{data.num_classes:,}", "10"),
        "input": (f"{data.channels} channel{'s' if data.channels > 1 else ''}, {size}x{size}", "3 channels, 32x32"),
        "random crop after padding": (f"{data.crop_padding}", "4"),
        "horizontal flip": ("yes" if data.flip else "no", "yes"),
        "radius eps": (eps_text(data.eps), eps_text(theirs.attack.eps) if theirs.attack else "0"),
        "learning rate": (f"{preset.training.learning_rate:g}", f"{theirs.learning_rate:g}"),
        "epochs of training": (f"{preset.training.epochs}", f"{theirs.epochs}"),
        "cells, channels": (f"{preset.num_cells}, {preset.channels}{matched}", f"{PAPER.num_cells}, {PAPER.channels}"),
    }
