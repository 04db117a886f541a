"""One run from search to evaluation: its folder, settings and data, and the jobs that each step of it needs.

The notebooks and the command line meet here. `open_experiment` makes a run or goes on with one; `find_experiment` reads
profile, data and seed from an existing folder, so that later steps only need its name.

A run keeps the checksum of its images and labels. `folder:` data are known by it: they may be moved or renamed, and the same
place with other images is refused, as it is for data sets with a name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .architecture import AnyBlueprint, Blueprint, Classifier, Genotype, blueprint_cost, match_channels, zoo
from .attacks import make_attack
from .data import DataSet, Split, load
from .distributed import ALONE, Group
from .errors import WorkbookError, unknown
from .evaluation import Evaluation, Evaluator, Row, TransferMatrix, black_box, digest, load_evaluation, white_box
from .image_files import expand
from .places import FOLDER, each_path, portable, short_name
from .presets import Preset, Source, attacks_at, fit, make_preset, recorded, source_of
from .runs import RUN_NAME, Run, RunStore, environment, generator, read_json, write_atomically
from .search import Searcher
from .soundness import Check, board, probe, save
from .soundness import load as load_board
from .training import TrainConfig, Trainer, few_held_out, few_steps, load_card, load_network, natural

FOUND, LAST = "found", "last"
TWINS = (FOUND, f"{FOUND}-natural")  # of which the accuracy is measured against the radius
BITS_DEPEND_ON = {"all": ("torch", "platform"), "cpu": ("cpu", "threads"), "cuda": ("cuda_devices", "deterministic")}
OPTIONS = {"variant": str, "size": int, "skip_unreadable": bool}  # of `open_experiment`; not in a run's settings where not given
SKIPPED = "unreadable_files.txt"  # of a run: the files that were left out, a line each
IDENTITY = "data_identity"  # in a run's settings: what its data are called and their checksum, wherever they lie


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run folder with the settings and the data it was opened with."""

    run: Run
    preset: Preset
    data: DataSet
    seed: int
    device: torch.device
    source: Source | None = None  # of an architecture that was found elsewhere

    def use_its_threads(self) -> None:
        """Let torch use as many threads as the profile says: on small tensors and a busy machine several wait for each other."""
        if self.preset.threads is not None:
            torch.set_num_threads(self.preset.threads)

    def changed_since_begun(self) -> str:
        """A sentence on what is not as it was when the run was made and may change the last bits of what follows, or ""."""
        path = self.run.path("environment.json")
        before, now = read_json(path) if path.is_file() else {}, environment()
        names = [*BITS_DEPEND_ON["all"], *BITS_DEPEND_ON[self.device.type]]
        if self.preset.threads is not None:
            names = [name for name in names if name != "threads"]
        changed = [f"{name} {before[name]} then, {now[name]} now" for name in names if name in before and before[name] != now[name]]
        if not changed:
            return ""
        return f"what follows may differ in its last bits from an uninterrupted run: {'; '.join(changed)}"

    def warnings(self) -> list[str]:
        """What a reader should know before anything is done."""
        asked = self.preset.training, len(self.data.train)
        return [words for words in (self.changed_since_begun(), few_steps(*asked), few_held_out(*asked)) if words]

    @cached_property
    def learnt_from(self) -> DataSet:
        """The data with training images for work on the device, brought there once for search and trainings."""
        return replace(self.data, train=self.data.train.to(self.device))

    # -- search ------------------------------------------------------------------------------------------------------

    @property
    def search_folder(self) -> Path:
        """Checkpoints, history and alphas of the search."""
        return self.run.path("search")

    def searcher(self, group: Group = ALONE) -> Searcher:
        """The search at its beginning; `run_epochs(searcher, search_folder)` takes it to where it stopped.

        Raises WorkbookError in a run whose architecture comes from elsewhere.
        """
        if self.source is not None:
            raise WorkbookError(f"run {self.run.name!r} searches nothing: its architecture is that {self.source.about}")
        return Searcher(self.learnt_from, self.preset.search, seed=self.seed, device=self.device, group=group)

    def genotype(self) -> Genotype:
        """What the search found. Raises FileNotFoundError where it has not ended."""
        return Genotype.load(self.run.require("search", "genotype.json", made_by="notebook 02 (search)"))

    # -- training ----------------------------------------------------------------------------------------------------

    @property
    def network_names(self) -> tuple[str, ...]:
        """The found architecture, its naturally trained twin, and the published architectures beside it."""
        return network_names(self.preset)

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """These of `network_names`; all where none is named. Raises WorkbookError for an unknown one."""
        for name in names:
            if name not in self.network_names:
                raise unknown("network of this run", name, self.network_names)
        return tuple(names) or self.network_names

    def networks_to_train(self) -> dict[str, tuple[AnyBlueprint, TrainConfig]]:
        """Network and training of each of `network_names`. Raises FileNotFoundError where the search has not ended."""
        return {name: self.network_to_train(name) for name in self.network_names}

    def network_to_train(self, name: str) -> tuple[AnyBlueprint, TrainConfig]:
        """Network and training of that name; published architectures do not wait for the search."""
        if not name.startswith(FOUND):
            return self.published(name)
        training = self.preset.training
        return self.matched(self._found()), training if name == FOUND else natural(training)

    def _found(self) -> Blueprint:
        return Blueprint(
            genotype=self.genotype(),
            space=self.preset.search.space,
            num_cells=self.preset.num_cells,
            channels=self.preset.channels,
            num_classes=self.data.num_classes,
            in_channels=self.data.channels,
        )

    def published(self, name: str) -> tuple[AnyBlueprint, TrainConfig]:
        """A published architecture at the size of this profile's baselines."""
        entry, images, size = zoo.load(name), (self.data.num_classes, self.data.channels), self.preset.baseline_size
        return self.matched(entry.blueprint(*images) if size is None else entry.resized(*images, *size)), self.preset.training

    def matched(self, blueprint: AnyBlueprint) -> AnyBlueprint:
        """The network at the size of the one that the preset's `match` names; as it is where nothing is named.

        That one has the preset's `num_cells` and `channels`, and the channels are those that come nearest to its parameters.
        """
        if self.preset.match is None:
            return blueprint
        images, size = (self.data.num_classes, self.data.channels), (self.preset.num_cells, self.preset.channels)
        wanted = blueprint_cost(zoo.load(self.preset.match).resized(*images, *size), self.data.image_size).parameters
        return match_channels(blueprint, parameters=wanted)

    def network_folder(self, name: str) -> Path:
        """Checkpoints and history of a training, and its `best/` and `last/`."""
        return self.run.path("networks", name)

    def trainer(self, name: str, group: Group = ALONE) -> Trainer:
        """The training of one of `networks_to_train`, or of any published architecture."""
        blueprint, config = self.network_to_train(name)
        return Trainer(blueprint, self.learnt_from, config, seed=self.seed, device=self.device, name=name, group=group)

    def trained(self) -> dict[str, Path]:
        """Folder of the weights of each network trained so far: `best` of each, and `last` of the found one where it is another."""
        folders: dict[str, Path] = {}
        for name in self.network_names:
            if (self.network_folder(name) / LAST / "card.json").is_file():
                folders[name] = self.network_folder(name) / "best"
                last = self.network_folder(name) / LAST
                if name == FOUND and load_card(last)["epoch"] != load_card(folders[name])["epoch"]:
                    folders[f"{FOUND}-{LAST}"] = last
        if not folders:
            raise FileNotFoundError(f"run {self.run.name!r} has no trained network yet; notebook 03 (retrain) trains them")
        return folders

    def networks(self) -> dict[str, Classifier]:
        """The trained networks, in evaluation mode."""
        return {name: load_network(folder, self.device) for name, folder in self.trained().items()}

    # -- evaluation --------------------------------------------------------------------------------------------------

    def test(self, num_images: int | None = None) -> Split:
        """The test images of this profile: the first so many of one fixed shuffled order."""
        wanted = self.preset.evaluation.test_images if num_images is None else num_images
        order = torch.randperm(len(self.data.test), generator=generator("test images"))
        return self.data.test.part(order[:wanted]).to(self.device)

    def white_box(self, name: str, network: Classifier) -> Evaluator:
        """Natural accuracy and every attack of the profile, crafted on the network itself."""
        config = self.preset.evaluation
        rows = white_box(network, attacks_at(config, self.data.eps), autoattack_images=config.autoattack_images)
        return self._evaluator(rows, {name: network}, self.test())

    def white_box_result(self, name: str) -> Evaluation:
        """What notebook 04 found for a network. Raises FileNotFoundError where it has not been run."""
        path = self.run.require("evaluation", f"{name}.npz", made_by="notebook 04 (white-box attacks)")
        return load_evaluation(path, network=name, data=self.data.name, eps=self.data.eps, classes=self.data.classes)

    def against_eps(self, name: str, network: Classifier) -> Evaluator:
        """The curve's attack at each radius, named by it; '0' is the natural accuracy."""
        config = self.preset.evaluation
        rows = {"0": Row(source=network, attack=None)}
        for factor in config.curve:
            eps = min(1.0, factor * self.data.eps)
            rows[f"{eps:.6g}"] = Row(source=network, attack=make_attack(config.curve_attack, eps), after="0")
        return self._evaluator(rows, {name: network}, self.test(config.curve_images))

    def black_box(self, networks: dict[str, Classifier], attack: str | None = None) -> Evaluator:
        """Every network as source and as target, under the first black-box attack of the profile or the one named."""
        name = self.preset.evaluation.black_box_attacks[0] if attack is None else attack
        return self._evaluator(black_box(networks, make_attack(name, self.data.eps)), networks, self.test())

    def evaluations(
        self, networks: Sequence[str] = (), attacks: Sequence[str] | None = None
    ) -> Iterator[tuple[str, Evaluator, str]]:
        """What notebooks 04 and 05 evaluate: what it is, the job, and its folder below `evaluation`.

        Of the networks named (all, where none is), then under the black-box attacks; only these where some are named. Raises
        WorkbookError for an unknown name, FileNotFoundError for a network that is not trained.
        """
        known = self.preset.evaluation.black_box_attacks
        for name in attacks or ():
            if name not in known:
                raise unknown("black-box attack of this run", name, known)
        if attacks is None:
            yield from self._white_boxes(self.chosen(networks))
            attacks = () if networks else known
        trained = self.trained()
        for attack in attacks:
            if untrained := [name for name in self.network_names if name not in trained]:
                raise FileNotFoundError(f"run {self.run.name!r} has not trained {', '.join(untrained)} yet; `train` does")
            yield f"black box, {attack}", self.black_box(self.transferring(), attack), f"transfer-{attack}"

    def _white_boxes(self, names: Sequence[str]) -> Iterator[tuple[str, Evaluator, str]]:
        trained = self.trained()
        for name in names:
            if name not in trained:
                raise FileNotFoundError(f"run {self.run.name!r} has not trained {name} yet; `train --networks {name}` does")
            for each in (name, f"{name}-{LAST}"):
                if each in trained:
                    network = load_network(trained[each], self.device)
                    yield each, self.white_box(each, network), each
                    if each in TWINS:
                        yield f"{each} against eps", self.against_eps(each, network), f"{each}-against-eps"

    def transferring(self) -> dict[str, Classifier]:
        """The networks that are attacked with each other's images: all but `found-last`, which is too near to `found`."""
        return {name: network for name, network in self.networks().items() if name != f"{FOUND}-{LAST}"}

    def soundness(
        self,
        network: Classifier,
        evaluation: Evaluation,
        *,
        curve: Sequence[Mapping[str, Any]] = (),
        transfer: TransferMatrix | None = None,
    ) -> list[Check]:
        """Whether the network's numbers can be believed: checks, kept beside its evaluation."""
        path = self.run.path("evaluation", f"{evaluation.network}-soundness.json")
        probes: dict[str, Any] = load_board(path)[1] if path.is_file() else {}
        tried = {"network": digest(network), "images": self.preset.evaluation.probe_images}
        if probes.get("tried") != tried:  # notebook 05 adds the transfer attacks to what notebook 04 has measured
            options = {"num_images": self.preset.evaluation.probe_images, "seed": self.seed}
            probes = {**probe(network, self.test(), evaluation.eps, **options), "tried": tried}
        mine = [row for row in curve if row["network"] == evaluation.network]
        checks = board(evaluation, probes, curve=mine, transfer=transfer)
        save(path, checks, probes)
        return checks

    def _evaluator(self, rows: dict[str, Row], targets: dict[str, Classifier], split: Split) -> Evaluator:
        size = self.preset.evaluation.batch_size
        return Evaluator(rows, targets, split, data=self.data.name, batch_size=size, seed=self.seed)


def network_names(preset: Preset) -> tuple[str, ...]:
    """What a run of that preset trains."""
    return (FOUND, *([f"{FOUND}-natural"] if preset.natural_twin else []), *preset.baselines)


def choose_device(name: str = "auto") -> torch.device:
    """'auto' takes a GPU where there is one. Raises WorkbookError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise WorkbookError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:0, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WorkbookError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; cpu is")
    return device


def open_experiment(
    run: str,
    *,
    profile: str = "demo",
    data: str = "digits",
    limit: int | None = None,
    size: int | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
    changes: str = "",
    variant: str = "",
    source: str = "",
    device: str = "auto",
    results: str | Path = "results",
    data_root: str | Path = "data",
) -> Experiment:
    """Make the run or go on with it. With a `source`, a run, a published architecture or a genotype file, it searches nothing.

    `limit`, `size` and `skip_unreadable` are those of `data.load`.

    Raises WorkbookError for unknown names, and where the folder has other settings or was made on other images.
    """
    made = _made_on(RunStore(Path(results)), run)
    taken = _taken_from(source, made, run, results)
    variant = taken.variant if taken else variant
    preset = make_preset(profile, changes, variant)
    limit = preset.limit if limit is None else limit
    where = choose_device(device)
    # A run that says nothing of channels has three, also one of an earlier version on images that are all grey.
    colour = made is not None and made.get("channels") != 1
    loaded = load(data, root=data_root, limit=limit, size=size, skip_unreadable=skip_unreadable, colour=colour)
    preset = fit(taken.applied(preset, loaded, changes) if taken else preset, loaded)
    chosen: dict[str, Any] = {"profile": profile, "changes": changes, "data": portable(data, results), "limit": limit, "seed": seed}
    grey = 1 if loaded.channels == 1 else None
    special: dict[str, Any] = {"variant": variant, "size": size, "skip_unreadable": skip_unreadable, "channels": grey}
    special["from"] = taken.written() if taken else None
    chosen |= {name: value for name, value in special.items() if value}
    settings = {**chosen, "eps": loaded.eps, "preset": preset}
    opened, known_as = _open_on(loaded, RunStore(Path(results)), run, settings)
    if loaded.skipped:
        write_atomically(opened.path(SKIPPED), "".join(f"{name}\n" for name in loaded.skipped))
    if taken and not opened.path("search", "genotype.json").is_file():
        taken.genotype.save(opened.path("search", "genotype.json"))
    data_set = replace(loaded, name=known_as)
    return Experiment(run=opened, preset=preset, data=data_set, seed=seed, device=where, source=taken)


def _taken_from(source: str, made: Mapping[str, Any] | None, run: str, results: str | Path) -> Source | None:
    """What a run takes its architecture from; where it has been made, as it was then, whatever became of the source."""
    if source and made and isinstance(made.get("from"), dict) and made["from"].get("name") in (source, Path(source).name):
        return recorded(made, run)
    return source_of(source, results) if source else None


def _open_on(data: DataSet, store: RunStore, run: str, settings: dict[str, Any]) -> tuple[Run, str]:
    """The run of that name on these data, and what it calls them. Raises WorkbookError where it was made on others."""
    place = settings["data"]
    known = {"name": short_name(place, store.root), "checksum": checksum_of(data)}
    made = _made_on(store, run)
    if made is None:
        opened = store.open(run, {**settings, IDENTITY: known})
    elif IDENTITY not in made:  # made before there were checksums: its data are known by their place, as they were
        opened = store.open(run, settings)
    else:
        moved = place.startswith(FOLDER) and str(made["data"]).startswith(FOLDER)
        before = made[IDENTITY] if isinstance(made[IDENTITY], dict) else {}
        if before.get("checksum") != known["checksum"] and (moved or place == made["data"]):
            raise WorkbookError(
                f"run {run!r} was made on other images or labels: those of {place} have the checksum {known['checksum']}, "
                f"its own {before.get('checksum')}; give it the data it was made on, or choose another run name"
            )
        known = {**known, "name": str(before.get("name"))}
        opened = store.open(run, {**settings, "data": made["data"] if moved else place, IDENTITY: known})
    store.amend(opened, {**settings, IDENTITY: known})
    return opened, known["name"]


def _made_on(store: RunStore, run: str) -> dict[str, Any] | None:
    """The settings in a run's folder; None where there is no such run."""
    if not RUN_NAME.fullmatch(run) or not (Path(store.root) / run / "run.json").is_file():
        return None
    return _as_opened(store.find(run))


def checksum_of(data: DataSet) -> str:
    """A checksum of classes, images and labels, in training and test; 0.1 s for each 100 MB."""
    values = hashlib.sha256(repr(data.classes).encode())
    for split in (data.train, data.test):
        values.update(repr((len(split), *split.image_shape)).encode())
        for tensor in (split.images_on_host, split.labels_on_host):
            values.update(tensor.contiguous().numpy().data)
    return values.hexdigest()[:16]


def find_experiment(
    run: str, *, device: str = "auto", results: str | Path = "results", data_root: str | Path = "data"
) -> Experiment:
    """The run of that name with the settings in its folder.

    Raises FileNotFoundError that lists the runs there are, or says how to tell where its images now lie.
    """
    settings = _as_opened(RunStore(Path(results)).find(run))
    data = each_path(settings["data"], lambda path: os.path.normpath(os.path.join(results, path)), results)
    _still_there(run, data)
    return open_experiment(
        run,
        profile=settings["profile"],
        data=data,
        limit=settings["limit"],
        seed=settings["seed"],
        changes=settings["changes"],
        **{name: settings[name] for name in OPTIONS if name in settings},
        source=recorded(settings, run).name if "from" in settings else "",
        device=device,
        results=results,
        data_root=data_root,
    )


def _still_there(run: str, data: str) -> None:
    if data.startswith(FOLDER):
        try:
            expand(data.removeprefix(FOLDER))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the images of run {run!r} are no longer where they were ({error}); say once where they are now, by the command "
                "that made the run with --data folder:NEW in it, or move them back"
            ) from error


def _as_opened(run: Run) -> dict[str, Any]:
    """How a run was opened. Raises WorkbookError where its folder does not say."""
    settings = run.card()["settings"]
    kinds = {"profile": str, "data": str, "changes": str, "seed": int, "limit": int | None}
    for name, kind in kinds.items():
        if not isinstance(settings, dict) or not isinstance(settings.get(name, run), kind):
            raise WorkbookError(f"run {run.name!r}: its run.json does not say with which {name} it was opened")
    for name, option in OPTIONS.items():
        if name in settings and type(settings[name]) is not option:
            raise WorkbookError(f"run {run.name!r}: its run.json names no {name} but {settings[name]!r}")
    return settings
