"""Every number that stands in the folder of all runs, with all that decides whether it may be held against another.

A number is known by its system (which row of which of the paper's tables it stands for), its conditions (data, training, attack,
test images), its size, how its architecture was searched, and its seed. Only numbers that share all but the seed are averaged.
Folders that are damaged or were made by something else are told and left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import paper
from ..architecture import Cost, blueprint_cost, blueprint_from_dict, zoo
from ..data import eps_text
from ..errors import WorkbookError
from ..evaluation import Evaluation, TransferMatrix, load_evaluation, load_transfer_matrix
from ..runs import Run, RunStore, with_defaults
from ..search import SearchConfig
from ..training import TrainConfig, load_card
from .descent import counted

FOUND, ATTACK = "found", "PGD20"
PAPERS_OWN = ("dsara", "adversarial-darts")  # variants by other names that are rows of Tables 4 and 5
NOT_OURS = (WorkbookError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, ArithmeticError)
ADVERSARIAL, TWO_STAGES = ("adversarial",), ("adversarial", "MGDA")
DSARA_SPACE, NASNET_SPACE = ("A-A-R", (1, 2, 2)), ("A-A-A", (1, 2, 4))


@dataclass(frozen=True, kw_only=True)
class Method:
    """What an ablation varies: the space, and what the alphas follow in each stage."""

    placement: str
    filters: tuple[int, ...]
    stages: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a person would say it."""
        return f"{self.placement}, {'-'.join(map(str, self.filters))}, {' then '.join(self.stages)}"


DSARA = Method(placement=DSARA_SPACE[0], filters=DSARA_SPACE[1], stages=TWO_STAGES)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under what a number was measured: data, training, attack and test images."""

    data: str
    limit: int | None  # images per class
    profile: str
    epochs: int  # of training
    batch_size: int
    learning_rate: float
    eps: float
    attack: str  # PGD20 with its steps
    images: int
    checksum: str  # of the test images
    training: str  # a digest of all its settings

    @property
    def text(self) -> str:
        """In a line."""
        limit = f", {self.limit} images per class" if self.limit else ""
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        steps = f"batch {self.batch_size}, learning rate {self.learning_rate:g}"
        return f"{self.data}{limit}, profile {self.profile}, {epochs}, {steps}, {self.attack}, {self.images:,} test images"


@dataclass(kw_only=True)
class Shared:
    """What is found out once for all runs of a collection: of a thousand, most are built alike and stand for the same rows."""

    costs: dict[tuple[str, int], Cost] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    places: dict[tuple[Any, ...], frozenset[tuple[str, str]]] = field(default_factory=dict)
    published: frozenset[str] = field(default_factory=lambda: frozenset(zoo.names()))

    def size(self, blueprint: Mapping[str, Any], match: str | None) -> str:
        """See `size_of`."""
        key = _digest([blueprint, match])
        if key not in self.sizes:
            self.sizes[key] = size_of(blueprint, match)
        return self.sizes[key]

    def places_of(self, *what: Any) -> frozenset[tuple[str, str]]:
        """See the function of this name."""
        if what not in self.places:
            self.places[what] = places_of(*what)
        return self.places[what]


@dataclass(frozen=True, kw_only=True)
class Costed:
    """What a blueprint costs, counted once for all networks of a collection that are built alike."""

    blueprint: Mapping[str, Any]
    shape: str  # a digest
    image_size: int
    known: dict[tuple[str, int], Cost]

    def __call__(self) -> Cost:
        """The cost."""
        key = (self.shape, self.image_size)
        if key not in self.known:
            self.known[key] = blueprint_cost(blueprint_from_dict(self.blueprint), self.image_size)
        return self.known[key]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One trained network and its predictions."""

    run: str
    seed: int
    system: str
    places: frozenset[tuple[str, str]]  # (table, row) of the paper that it stands for
    method: Method | None  # None: a published architecture
    searched: str  # a digest of how, apart from the method; empty for a published architecture
    size: str
    conditions: Conditions
    blueprint: str  # a digest
    evaluation: Evaluation
    costed: Costed = field(repr=False)

    @property
    def cost(self) -> Cost:
        """Parameters and FLOPs, counted when they are first asked for."""
        return self.costed()

    @property
    def line(self) -> tuple[Any, ...]:
        """What numbers share that may be averaged over seeds."""
        return (self.system, self.method, self.searched, self.size, self.conditions)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Who fools whom in one run."""

    run: str
    seed: int
    systems: tuple[str, ...]
    conditions: tuple[Conditions, ...]
    matrix: TransferMatrix


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One search, and what its steps say of MGDA's promise."""

    run: str
    seed: int
    descent: Counter[str]


@dataclass(kw_only=True)
class Collection:
    """All that was found, and what was left out and why."""

    measured: list[Measured] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def at(self, table: str, row: str) -> list[Measured]:
        """The networks that stand for a row of the paper."""
        return [each for each in self.measured if (table, row) in each.places]


def collect(results: str | Path, runs: Sequence[str] | None = None) -> Collection:
    """What the runs of a folder measured, of all of them or of those named."""
    collection, shared, wanted = Collection(), Shared(), None if runs is None else set(runs)
    for run in RunStore(Path(results)).runs():
        if wanted is None or run.name in wanted:
            _guarded(collection, run.name, partial(_read_run, collection, run, shared))
    _count_seeds_once(collection)
    return collection


def _guarded(collection: Collection, what: str, read: Callable[[], None]) -> None:
    try:
        read()
    except NOT_OURS as error:
        collection.notes.append(f"{what} is left out: {type(error).__name__}: {str(error).replace(chr(10), ' ')[:200]}")


def _read_run(collection: Collection, run: Run, shared: Shared) -> None:
    settings = run.card()["settings"]
    if "preset" not in settings:
        raise WorkbookError("its run.json holds no settings of a run")
    here: dict[str, Measured] = {}
    paths = sorted(run.path("evaluation").glob("*.npz"))
    for path in paths:
        if not path.stem.startswith("transfer"):
            _guarded(collection, f"{run.name}/{path.name}", partial(_read_network, here, run, settings, path, shared))
    collection.measured += here.values()
    for path in paths:
        if path.stem == f"transfer-{ATTACK}":
            _guarded(collection, f"{run.name}/{path.name}", partial(_read_transfer, collection, run, settings, path, here))
    if run.path("search", "history.jsonl").is_file():
        _guarded(collection, f"{run.name}/search", partial(_read_search, collection, run, settings))


def _read_network(here: dict[str, Measured], run: Run, settings: Mapping[str, Any], path: Path, shared: Shared) -> None:
    """Only the best weights of networks trained on adversarial images, as in the paper's tables; a run's report has the others."""
    name = path.stem
    published = zoo.full_name(name) in shared.published
    if name != FOUND and not published:
        return
    card = load_card(run.path("networks", name, "best"))
    if not card["training"].get("attack"):
        return
    data = card["data"]
    described = {"data": str(data["name"]), "eps": float(data["eps"]), "classes": tuple(map(str, data["classes"]))}
    evaluation = load_evaluation(path, network=run.name, **described)
    if ATTACK not in evaluation.predictions or "natural" not in evaluation.predictions:
        raise WorkbookError(f"has no {ATTACK}, by which systems are compared")
    given, known_as = settings.get("from") or {}, name
    if name == FOUND and given.get("kind") == "published":
        known_as, published = str(given["name"]), True
    variant, method = str(settings.get("variant", "")), None if published else method_of(settings["preset"])
    conditions, shape = conditions_of(settings, card, evaluation), _digest(_shape(card["blueprint"]))
    system = zoo.full_name(known_as) if method is None else system_of(method, variant)
    here[name] = Measured(
        run=run.name,
        seed=int(settings["seed"]),
        system=f"{system}, published cells" if method is None and system == "DSARA" else system,
        places=shared.places_of(system, method, variant, conditions.data),
        method=method,
        searched="" if method is None else searched_with(settings),
        size=shared.size(card["blueprint"], settings["preset"].get("match")),
        conditions=conditions,
        blueprint=shape,
        evaluation=evaluation,
        costed=Costed(blueprint=card["blueprint"], shape=shape, image_size=int(data["image_size"]), known=shared.costs),
    )


def _read_transfer(collection: Collection, run: Run, settings: Mapping[str, Any], path: Path, here: Mapping[str, Measured]) -> None:
    described = {"attack": path.stem.removeprefix("transfer-"), "eps": float(settings["eps"]), "data": str(settings["data"])}
    whole = load_transfer_matrix(path, **described)
    kept = [name for name in whole.sources if name in here and name in whole.targets]
    if len(kept) < 2:
        return
    rows, columns = ([names.index(name) for name in kept] for names in (whole.sources, whole.targets))
    predictions = whole.predictions[rows][:, columns]
    matrix = replace(whole, sources=tuple(kept), targets=tuple(kept), predictions=predictions)
    mine = [here[name] for name in kept]
    collection.transfers.append(
        Transfer(
            run=run.name,
            seed=int(settings["seed"]),
            systems=tuple(each.system for each in mine),
            conditions=tuple(each.conditions for each in mine),
            matrix=matrix,
        )
    )


def _read_search(collection: Collection, run: Run, settings: Mapping[str, Any]) -> None:
    stages = tuple(stage["upper_level"] for stage in settings["preset"]["search"]["stages"])
    descent = counted(run.path("search"), stages)
    collection.searches.append(Searched(run=run.name, seed=int(settings["seed"]), descent=descent))


def _count_seeds_once(collection: Collection) -> None:
    """The same seed under the same settings gives the same network: a second copy of it is no further evidence."""
    first: dict[tuple[Any, ...], Measured] = {}
    for each in collection.measured:
        kept = first.setdefault((*each.line, each.seed), each)
        if kept is not each:
            collection.notes.append(f"{each.run} repeats {each.system} at seed {each.seed} from {kept.run}; it is counted once")
    collection.measured = list(first.values())


# -- what a number stands for ------------------------------------------------------------------------------------------


def method_of(preset: Mapping[str, Any]) -> Method:
    """The space and the stages of a run's settings."""
    space, stages = preset["search"]["space"], preset["search"]["stages"]
    told = tuple(_told(stage["upper_level"]) for stage in stages)
    return Method(placement=str(space["placement"]), filters=tuple(map(int, space["filters"])), stages=told)


def _told(level: Mapping[str, Any]) -> str:
    """What the alphas follow, in a word; settings that are not the usual ones are added."""
    usual = {"objectives": ["natural", "adversarial"], "loss_scales": None, "scaling": "none", "weights": None}
    kind = str(level["type"])
    if kind == "SingleObjective":
        return str(level["objective"])
    if kind in ("MGDA", "SumOfLosses"):
        other = [f"{key} {value}" for key, value in level.items() if key != "type" and value != usual.get(key)]
        return ("MGDA" if kind == "MGDA" else "sum") + (f" ({', '.join(other)})" if other else "")
    return kind


def system_of(method: Method, variant: str) -> str:
    """A name for what was searched."""
    if not is_papers_own(variant):
        return f"searched: {variant}"
    return "DSARA" if method == DSARA else f"searched: {method.text}"


def is_papers_own(variant: str) -> bool:
    """Whether a variant is all of a row of the paper's. A rival's may share space and stages and still search in another way."""
    return not variant or variant.startswith(("table4-", "table5-")) or variant in PAPERS_OWN


def places_of(system: str, method: Method | None, variant: str, data: str) -> frozenset[tuple[str, str]]:
    """The rows of the paper's tables that a system stands for."""
    tables, places = paper.paper_tables(), set[tuple[str, str]]()
    where, system = paper.DATA.get(data, data), system.removesuffix("-32x32")  # the other stem of the same network
    if where in {row[0] for row in tables["table3"]["rows"]}:
        places |= {("table3", f"{where}: {row[1]}") for row in tables["table3"]["rows"] if (row[0], row[1]) == (where, system)}
    else:
        places |= {("table1", row["model"]) for row in paper.table1(tables) if zoo.full_name(row["model"]) == system}
    searched = {(table, row) for table, row, _ in ablation_rows()}  # by us; DSARA's published cells are none of these
    places |= {("table5", str(row[0])) for row in tables["table5"]["rows"] if method is None and row[1] == system} - searched
    if method is not None and is_papers_own(variant):
        places |= {(table, row) for table, row, each in ablation_rows() if each == method}
    return frozenset(places)


def ablation_rows() -> Iterator[tuple[str, str, Method]]:
    """The rows of Tables 4 and 5 that are searched, and what they search by."""
    tables = paper.paper_tables()
    for number, placement, filters, *_ in tables["table4"]["rows"]:
        multiples = tuple(int(part) for part in filters.split("-"))
        yield "table4", str(number), Method(placement=placement, filters=multiples, stages=TWO_STAGES)
    for number, _, searches, dsara_space, two_stages, mgda, *_ in tables["table5"]["rows"]:
        space = DSARA_SPACE if dsara_space else NASNET_SPACE
        stages = ADVERSARIAL if not two_stages else TWO_STAGES if mgda else ("adversarial", "sum")
        if searches:
            yield "table5", str(number), Method(placement=space[0], filters=space[1], stages=stages)


def conditions_of(settings: Mapping[str, Any], card: Mapping[str, Any], evaluation: Evaluation) -> Conditions:
    """Under what a network was trained and attacked."""
    attack = evaluation.attacks.get(ATTACK) or {}
    asked = evaluation.together([ATTACK])
    step = f" of {eps_text(attack['step_size'])}" if attack.get("step_size") is not None else ""
    told = f"{ATTACK} (eps {eps_text(attack.get('eps', evaluation.eps))}" + (f", {attack['steps']} steps{step})" if step else ")")
    training = with_defaults(card["training"], TrainConfig())  # a setting that has been added since separates no runs
    return Conditions(
        data=evaluation.data,
        limit=settings["limit"] if settings.get("limit") else None,
        profile=str(settings["profile"]),
        epochs=int(card["training"]["epochs"]),
        batch_size=int(card["training"]["batch_size"]),
        learning_rate=float(card["training"]["learning_rate"]),
        eps=evaluation.eps,
        attack=told,
        images=len(asked.labels),
        checksum=str(asked.provenance.get("image_checksum", "")),
        training=_digest([training, evaluation.provenance.get("dtype"), attack, card["data"].get("images")]),
    )


def searched_with(settings: Mapping[str, Any]) -> str:
    """A digest of all of the search but its method: of the stages only how many epochs they have together, and the changes that
    were asked for."""
    search = dict(with_defaults(settings["preset"]["search"], SearchConfig()))
    space = {key: value for key, value in search.pop("space").items() if key not in ("placement", "filters")}
    stages = search.pop("stages")
    epochs = sum(int(stage["epochs"]) for stage in stages)
    return _digest([search, space, epochs, stages[0]["architecture_lr"], sorted(str(settings.get("changes", "")).split())])


def size_of(blueprint: Mapping[str, Any], match: str | None = None) -> str:
    """In words, without the space, which is part of the method. Raises WorkbookError for what is no blueprint."""
    read = blueprint_from_dict(blueprint)
    if match:
        return f"as large as {match}"
    if "kind" in blueprint:
        return read.size
    return f"{blueprint['num_cells']} cells, {blueprint['channels']} channels"


def _shape(blueprint: Mapping[str, Any]) -> Any:
    """What is built, without the names and the strengths with which edges won."""
    genotype = blueprint.get("genotype")
    cells = genotype.get("cells") if isinstance(genotype, Mapping) else None
    return blueprint if cells is None else {**blueprint, "genotype": cells}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
