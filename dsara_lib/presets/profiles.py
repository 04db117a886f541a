"""Profiles: what `--profile` and the notebooks' PROFILE choose from.

A preset combines the settings that stand beside what they set. Its radii and learning rate are those of the paper's photographs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..architecture import zoo
from ..attacks import PGD, AutoAttack, make_attack
from ..errors import WorkbookError, unknown
from ..evaluation import ENGINES
from ..runs import FOR_READERS
from ..search import MGDA, SearchConfig, Selection, SingleObjective, Stage
from ..training import OneCycle, TrainConfig


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
    autoattack_images: int | None = None  # AutoAttack, its parts and Square on the first so many of these; None: on all
    curve_images: int = 1_000
    probe_images: int = 64  # on which the soundness board tries the network
    batch_size: int = 250

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.autoattack_images is not None and (type(self.autoattack_images) is not int or self.autoattack_images < 1):
            raise WorkbookError(f"autoattack_images is a whole number of at least 1, or None; got {self.autoattack_images!r}")
        for name in (*self.attacks, *self.black_box_attacks, self.curve_attack):
            make_attack(name)  # raises for an unknown one


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that decides a result, from search to evaluation."""

    name: str
    about: str = field(metadata=FOR_READERS)
    search: SearchConfig = SearchConfig()
    training: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    num_cells: int = 20  # of the retrained network
    channels: int = 64
    baselines: tuple[str, ...] = ()  # published architectures trained beside the found one
    baseline_size: tuple[int, int] | None = None  # their (num_cells, channels); None takes the published ones
    match: str | None = (
        None  # a published architecture: all networks get as many parameters as it has in `num_cells` and `channels`
    )
    natural_twin: bool = False  # train the found architecture on clean images, too
    limit: int | None = None  # images per class
    threads: int | None = None  # of torch on the CPU; None leaves them as they are

    def __post_init__(self):
        if self.match is not None:
            zoo.load(self.match)  # raises for an unknown one


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

BESIDE = ("DSARA", "DARTS", "AdvRush", "ResNet-18-32x32")  # what the campaign trains beside its own, at equal parameters

GPU = replace(
    SHORT,
    name="gpu",
    about="the campaign on one GPU: the paper's search, and five networks of equal parameters retrained as in `short`",
    training=replace(SHORT_TRAINING, stored="float16"),
    evaluation=EvaluationConfig(autoattack_images=1_000),
    baselines=BESIDE,
    match="DSARA",
)

CPU = replace(
    GPU,
    name="cpu",
    about="the same in some hours on two CPU cores (with --jobs 2): smaller networks, fewer images and steps",
    search=SearchConfig(
        num_cells=5,
        channels=8,
        stages=(
            Stage(epochs=8, upper_level=SingleObjective(), architecture_lr=1e-2),
            Stage(epochs=4, upper_level=MGDA(), architecture_lr=3e-3),
        ),
        attack=PGD(eps=2 / 255, step_size=1.25 / 255, steps=2),
        images=2_400,
        batch_size=48,
        weights_lr=0.1,
        validation_images=240,
        selection=Selection(window=3, tolerance=0.02),
    ),
    training=replace(
        GPU.training,
        epochs=5,
        batch_size=32,
        attack=PGD(step_size=5 / 255, steps=2),
        learning_rate=0.1,
        held_out=0.04,
    ),
    evaluation=EvaluationConfig(
        autoattack=AutoAttack(steps=30, targets=3, queries=500),
        autoattack_images=200,
        curve=(0.5, 1.0, 2.0, 8.0),
        test_images=1_000,
        curve_images=200,
        probe_images=32,
        batch_size=100,
    ),
    num_cells=5,
    channels=12,
    baseline_size=(5, 12),
    limit=1_000,
    threads=1,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DEMO, CPU, SHORT, PAPER, GPU, PUBLISHED_CODE)}
