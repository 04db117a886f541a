"""Settings by name: what `--profile` and the notebooks' PROFILE choose from.

A preset combines the settings that stand beside what they set. Its radii and learning rate are those of the paper's photographs;
`fit` brings them to a data set. `override` changes single settings by their dotted names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from .attacks import PGD, Attack, AutoAttack, at_radius, make_attack
from .data import PHOTOGRAPH_EPS, DataSet
from .errors import WorkbookError, unknown
from .evaluation import ENGINES, PyAutoAttack
from .search import MGDA, SearchConfig, Selection, SingleObjective, Stage, SumOfLosses
from .training import OneCycle, TrainConfig

PAPER_LEARNING_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Attacks of the white-box table, those of the transfer matrices, and the radii of the accuracy-against-eps curve."""

    attacks: tuple[str, ...] = ("FGSM", "PGD20", "PGD100", "AutoAttack", "Square")
    autoattack: AutoAttack = AutoAttack()  # budgets, also of its parts where they stand alone; the radius is the data set's
    engine: str = "dsara"  # or "pyautoattack": the authors' package does AutoAttack
    black_box_attacks: tuple[str, ...] = ("PGD20", "MI-FGSM")  # the paper's, and one that transfers better
    curve_attack: str = "PGD20"
    curve: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 8.0)  # times eps; 0 is the natural accuracy
    test_images: int = 10_000  # the first so many of the test set, in a fixed shuffled order
    curve_images: int = 1_000
    probe_images: int = 64  # on which the soundness board tries the network
    batch_size: int = 250

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        for name in (*self.attacks, *self.black_box_attacks, self.curve_attack):
            make_attack(name)  # raises for an unknown one


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that decides a result, from search to evaluation."""

    name: str
    about: str
    search: SearchConfig = SearchConfig()
    training: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    num_cells: int = 20  # of the retrained network
    channels: int = 64
    baselines: tuple[str, ...] = ()  # published architectures trained beside the found one
    baseline_size: tuple[int, int] | None = None  # their (num_cells, channels); None takes the published ones
    natural_twin: bool = False  # train the found architecture on clean images, too
    limit: int | None = None  # images per class
    threads: int | None = None  # of torch on the CPU; None leaves them as they are


Change = Callable[[Preset], Preset]

PAPER = Preset(name="paper", about="all settings of Section 5.3; for a GPU")

SHORT_TRAINING = TrainConfig(
    epochs=30,
    batch_size=128,
    learning_rate=0.2,
    schedule=OneCycle(),
    weight_decay=5e-4,
)

SHORT = replace(
    PAPER,
    name="short",
    about="the paper's search, one-cycle retraining of 30 epochs; for a GPU",
    training=SHORT_TRAINING,
)

PUBLISHED_CODE = replace(
    PAPER,
    name="published-code",
    about="where the later public release of the method differs: larger radius, MGDA throughout, second order",
    search=SearchConfig(
        stages=(Stage(epochs=30, upper_level=MGDA(loss_scales=(1.0, 0.1)), architecture_lr=3e-4),),
        attack=PGD(eps=8 / 255, step_size=2 / 255, steps=7),
        batch_size=32,
        weights_lr_floor=0.001,
        alphas_first=True,
        second_order=True,
    ),
)

DEMO = Preset(
    name="demo",
    about="the whole chain in minutes on two CPU cores; every step real, every size small",
    search=SearchConfig(
        num_cells=5,
        channels=4,
        stages=(
            Stage(epochs=5, upper_level=SingleObjective(), architecture_lr=1e-2),
            Stage(epochs=2, upper_level=MGDA(), architecture_lr=3e-3),
        ),
        attack=PGD(eps=2 / 255, step_size=1.25 / 255, steps=2),
        batch_size=120,
        weights_lr=0.1,
        validation_images=128,
        selection=Selection(window=3, tolerance=0.02),
    ),
    training=TrainConfig(
        epochs=10,
        batch_size=64,
        attack=PGD(step_size=4 / 255, steps=3),
        learning_rate=0.1,
        schedule=OneCycle(),
        weight_decay=5e-4,
        held_out=0.1,
        held_out_attack=PGD(steps=4),
    ),
    evaluation=EvaluationConfig(
        autoattack=AutoAttack(steps=20, targets=3, queries=100),
        curve=(0.5, 1.0, 8.0),
        test_images=100,
        curve_images=100,
        probe_images=32,
    ),
    num_cells=5,
    channels=4,
    baselines=("AdvRush",),
    baseline_size=(5, 4),
    natural_twin=True,
    limit=100,
    threads=1,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DEMO, SHORT, PAPER, PUBLISHED_CODE)}


# ------------------------------------------------------------------------------------------------------------ ablations


def placed(placement: str, filters: tuple[int, int, int]) -> Change:
    """With other kinds of cell in the three parts of the stack, and other multiples of C (Section 4.2)."""

    def change(preset: Preset) -> Preset:
        space = replace(preset.search.space, placement=placement, filters=filters)
        return replace(preset, search=replace(preset.search, space=space))

    return change


def one_stage(preset: Preset) -> Preset:
    """The first stage for as many epochs as all stages have: adversarial loss alone."""
    search = preset.search
    return replace(preset, search=replace(search, stages=(replace(search.stages[0], epochs=search.epochs),)))


def summed(preset: Preset) -> Preset:
    """Both losses added up where MGDA weighs them."""
    search = preset.search
    levels = [SumOfLosses() if isinstance(stage.upper_level, MGDA) else stage.upper_level for stage in search.stages]
    stages = tuple(replace(stage, upper_level=level) for stage, level in zip(search.stages, levels, strict=True))
    return replace(preset, search=replace(search, stages=stages))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the paper's ablations: what it changes of any preset."""

    about: str
    changes: tuple[Change, ...] = ()

    def __call__(self, preset: Preset) -> Preset:
        """The preset, so changed."""
        for change in self.changes:
            preset = change(preset)
        return preset


DSARA_SPACE, NASNET_SPACE = ("A-A-R", (1, 2, 2)), ("A-A-A", (1, 2, 4))
PLACEMENTS = (DSARA_SPACE, ("R-A-A", (1, 2, 2)), ("A-R-A", (1, 2, 2)), ("A-A-R", (1, 2, 3)), ("A-A-R", (1, 2, 4)), NASNET_SPACE)
VARIANTS: dict[str, Variant] = {
    **{
        f"table4-{number}": Variant(about=f"{space[0]}, {'-'.join(map(str, space[1]))}", changes=(placed(*space),))
        for number, space in enumerate(PLACEMENTS, 1)
    },
    # Rows 1 and 2 of Table 5 are the published architectures of RACL and AdvRush.
    "table5-3": Variant(about="adversarial loss alone, NASNet's space", changes=(placed(*NASNET_SPACE), one_stage)),
    "table5-4": Variant(about="adversarial loss alone, DSARA's space", changes=(placed(*DSARA_SPACE), one_stage)),
    "table5-5": Variant(about="two stages with MGDA, NASNet's space", changes=(placed(*NASNET_SPACE),)),
    "table5-6": Variant(about="two stages with the sum of losses, DSARA's space", changes=(placed(*DSARA_SPACE), summed)),
    "table5-7": Variant(about="two stages with MGDA, DSARA's space", changes=(placed(*DSARA_SPACE),)),
}


def make_preset(name: str, changes: str = "", variant: str = "") -> Preset:
    """The preset of that name with `changes` such as "search.channels=8 training.epochs=3", and of that a variant.

    Raises WorkbookError.
    """
    if name not in PRESETS:
        raise unknown("profile", name, PRESETS)
    if variant and variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    preset: Preset = PRESETS[name]
    for change in changes.split():
        path, equals, value = change.partition("=")
        if not equals:
            raise WorkbookError(f"a setting is changed as name=value, such as training.epochs=3; got {change!r}")
        preset = override(preset, path.split("."), value, path)
    return VARIANTS[variant](preset) if variant else preset


def override(settings: Any, path: list[str], value: str, whole: str) -> Any:
    """The same settings with one value changed; tuples take an index, as in search.stages.0.epochs."""
    if not path:
        return _as_type_of(settings, value, whole)
    head, rest = path[0], path[1:]
    if isinstance(settings, tuple):
        if not head.isdigit() or int(head) >= len(settings):
            raise WorkbookError(f"unknown setting {whole!r}: {head!r} is not an index from 0 to {len(settings) - 1}")
        at = int(head)
        return (*settings[:at], override(settings[at], rest, value, whole), *settings[at + 1 :])
    known = [field.name for field in fields(settings)] if is_dataclass(settings) else []
    if head not in known or head in ("name", "about"):
        raise unknown("setting", whole, [n for n in known if n not in ("name", "about")] or ["none below that"])
    return replace(settings, **{head: override(getattr(settings, head), rest, value, whole)})


def _as_type_of(present: Any, text: str, whole: str) -> Any:
    if is_dataclass(present):
        raise WorkbookError(f"{whole} is a group of settings: {', '.join(f.name for f in fields(present))}")
    if isinstance(present, str):
        return text
    if isinstance(present, tuple) and all(isinstance(each, str) for each in present):
        return tuple(part for part in text.split(",") if part)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (present is not None and type(value) is not type(present)) or isinstance(value, str | Mapping):
        raise WorkbookError(f"{whole} is {present!r}; expected a value of the same kind, got {text!r}")
    return value


def fit(preset: Preset, data: DataSet) -> Preset:
    """The preset for a data set: every radius in proportion to the data set's eps, the learning rate to its own.

    For data with eps 8/255 and learning rate 0.1 nothing changes, to the bit.
    """
    scale, rate = data.eps / PHOTOGRAPH_EPS, data.learning_rate / PAPER_LEARNING_RATE
    if scale == 1 and rate == 1:
        return preset
    training = preset.training
    return replace(
        preset,
        search=replace(preset.search, attack=_scaled(preset.search.attack, scale)),
        training=replace(
            training,
            attack=_scaled(training.attack, scale) if training.attack else None,
            held_out_attack=_scaled(training.held_out_attack, scale),
            learning_rate=training.learning_rate * rate,
        ),
    )


def _scaled(attack: PGD, scale: float) -> PGD:
    return at_radius(attack, min(1.0, attack.eps * scale))


def attacks_at(config: EvaluationConfig, eps: float) -> dict[str, Attack]:
    """The attacks of the white-box table at a radius. AutoAttack and its parts have the budgets of `config.autoattack`."""
    cascade: AutoAttack = at_radius(config.autoattack, eps)
    whole = PyAutoAttack.like(cascade) if config.engine == "pyautoattack" else cascade
    budgeted: dict[str, Attack] = {"AutoAttack": whole, **cascade.parts()}
    return {name: budgeted[name] if name in budgeted else make_attack(name, eps) for name in config.attacks}


__all__ = [
    "DEMO",
    "PAPER",
    "PRESETS",
    "PUBLISHED_CODE",
    "SHORT",
    "VARIANTS",
    "EvaluationConfig",
    "Preset",
    "Variant",
    "attacks_at",
    "fit",
    "make_preset",
    "override",
]
