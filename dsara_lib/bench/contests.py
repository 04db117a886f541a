"""The plain and the fast way to do the same, ready to be timed: one function for each benchmark.

The plain ways are those of `tests/reference`, so a checkout is needed. Both sides start from the same weights, images and
noise, and `Contest.agree` compares what they gave when they first ran: nothing is timed that does not compute the same.
"""

from __future__ import annotations

import copy
import gc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..architecture import Classifier, prepare, zoo
from ..attacks import ATTACKS, PGD, AutoAttack
from ..attacks.base import uniform_noise
from ..attacks.draws import Draws
from ..capture import rounding
from ..data import DataSet, Split
from ..errors import WorkbookError
from ..evaluation import PyAutoAttack
from ..runs import generator, seeded
from ..search import MGDA, SearchConfig, Searcher, Stage
from ..shapes import Float
from ..training import TrainConfig, Trainer
from .sizes import Sizes
from .timing import Action

NUM_CLASSES = 10
# Rounding moves some pixels over the kinks of a network, and each step of PGD sends those on elsewhere: after seven steps on a
# freshly drawn supernet the plain one in float32 has 71 % of the pixels, and a loss 1 % higher, than the plain one in float64.
# So the first step must be alike, and what follows near. On a GPU factors are rounded to ten or eight bits.
SAME_PIXELS = {"cpu": 0.99, "cuda": 0.9, "bfloat16": 0.7}  # after one step
TIMES_AS_MANY = 1.5
STILL_SAME = 0.4  # at the end
LOSS_TOLERANCE = {"cpu": 3e-2, "cuda": 5e-2, "bfloat16": 1e-1}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Two ways to do the same. `agree` says in words how far their first results are alike, and raises WorkbookError if not.

    `others` are further ways to do it, timed beside the two where they can be had.
    """

    plain: Action
    fast: Action
    agree: Callable[[Any, Any], str]
    settings: Mapping[str, Any]
    others: Mapping[str, Action]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how large."""

    sizes: Sizes
    batch: int
    device: torch.device
    dtype: str = "float32"  # of the fast side: the plain one is float32

    @property
    def tolerance(self) -> str:
        """The key of what is allowed to differ."""
        return self.dtype if self.dtype == "bfloat16" else self.device.type

    def images(self, part: str = "images") -> tuple[Tensor, Tensor]:
        """Images that are noise, and labels."""
        drawn = generator("bench", part, self.batch)
        shape = (self.batch, 3, self.sizes.image_size, self.sizes.image_size)
        labels = torch.randint(NUM_CLASSES, (self.batch,), generator=drawn)
        return torch.rand(shape, generator=drawn).to(self.device), labels.to(self.device)

    def data(self) -> DataSet:
        """A data set just large enough for a batch of each half; nothing of it is looked at."""
        count = NUM_CLASSES * (self.batch // 4 + 2)
        images = torch.zeros(count, 3, self.sizes.image_size, self.sizes.image_size, dtype=torch.uint8)
        split = Split(images=images, labels=torch.arange(count) % NUM_CLASSES)
        classes = tuple(str(number) for number in range(NUM_CLASSES))
        return DataSet(name="noise", classes=classes, train=split, test=split, eps=8 / 255, crop_padding=0, flip=False)

    def as_library(self, action: Action) -> Action:
        """The action with the roundings that the library allows a GPU in float32."""

        def allowed() -> Any:
            with rounding("float32", self.device):
                return action()

        return allowed


def reference(name: str) -> Any:
    """A plain version from the checkout's tests. Raises WorkbookError where there is none."""
    try:
        return importlib.import_module(f"tests.reference.{name}")
    except ImportError as error:
        raise WorkbookError(
            "bench compares with the plain versions in tests/reference, which only a checkout has; "
            "run python3 workbook.py bench in one"
        ) from error


Make = Callable[[Setting], Contest]


def afresh(make: Make) -> Make:
    """The same contest, made where nothing is left of the one before: neither its memory nor its peak is measured with this one."""

    @wraps(make)
    def made(setting: Setting) -> Contest:
        clear(setting.device)
        return make(setting)

    return made


def clear(device: torch.device) -> None:
    """Give back the memory of models and recordings that nobody holds, and let peaks be counted from here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # before recordings go
    gc.collect()  # passes and what records them hold each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


# ------------------------------------------------------------------------------------------------------- the supernet


def search_config(sizes: Sizes, batch: int, precision: str = "float32", steps: int | None = None) -> SearchConfig:
    """The paper's second stage at these sizes."""
    return SearchConfig(
        space=sizes.space,
        num_cells=sizes.num_cells,
        channels=sizes.channels,
        stages=(Stage(epochs=1, upper_level=MGDA(), architecture_lr=5e-5),),
        attack=sizes.attack(steps),
        batch_size=batch,
        validation_images=batch,
        precision=precision,
    )


def searchers(setting: Setting) -> tuple[Any, Searcher]:
    """A plain and a fast searcher with the same weights, statistics and generators."""
    config, plain = search_config(setting.sizes, setting.batch, setting.dtype), reference("plain_supernet")
    fast = Searcher(setting.data(), config, device=setting.device)
    with seeded("bench"):
        net = plain.PlainSupernet(config.space, num_cells=config.num_cells, channels=config.channels, num_classes=NUM_CLASSES)
    net, steps = net.to(setting.device), reference("plain_network")
    steps.settle(net, setting.images()[0])
    fast.supernet.load_state_dict(plain.fused_state(fast.supernet, net.state_dict()))
    noise_from = torch.Generator()
    noise_from.set_state(fast.noise_from.get_state())
    return steps.PlainSearcher(net, config, noise_from), fast


@afresh
def search_step(setting: Setting) -> Contest:
    """A step of the second stage: weights, then alphas, both optimizers included."""
    plain, fast = searchers(setting)
    batches = setting.images("weights"), setting.images("alphas")
    first = first_step(setting, setting.sizes.attack(), (plain.supernet, fast.passes.folded()), *batches[0])
    return Contest(
        plain=setting.as_library(partial(plain.step, *batches)),
        fast=partial(fast.step, *batches),
        agree=partial(same_losses, setting.tolerance, first),
        settings=_of_supernet(setting),
        others={},
    )


@afresh
def craft_supernet(setting: Setting) -> Contest:
    """PGD against the supernet, folding included."""
    plain, fast = searchers(setting)
    images, labels = setting.images()
    noise = uniform_noise(images, generator("bench", "noise"))
    attack = setting.sizes.attack()
    first = first_step(setting, attack, (plain.supernet, fast.passes.folded()), images, labels)
    return Contest(
        plain=setting.as_library(partial(plain.craft, images, labels, noise)),
        fast=partial(fast.passes.craft, images, labels, noise),
        agree=partial(same_images, setting.tolerance, first),
        settings=_of_supernet(setting),
        others={},
    )


def _of_supernet(setting: Setting) -> dict[str, Any]:
    sizes = setting.sizes
    return {"image_size": sizes.image_size, "num_cells": sizes.num_cells, "channels": sizes.channels, "steps": sizes.steps}


# --------------------------------------------------------------------------------------------------------- the network


@afresh
def retrain_step(setting: Setting) -> Contest:
    """A step of adversarial training, SGD included."""
    sizes = setting.sizes
    blueprint = zoo.load("DSARA").blueprint(num_cells=sizes.network_cells, channels=sizes.network_channels)
    attack = replace(TrainConfig().attack or sizes.attack(), steps=sizes.steps)
    config = TrainConfig(batch_size=setting.batch, attack=attack, held_out=0.5)
    fast = Trainer(blueprint, setting.data(), config, device=setting.device)
    steps = reference("plain_network")
    network = steps.PlainNetwork(blueprint).to(setting.device)
    steps.settle(fast.network, setting.images()[0])
    network.load_state_dict(fast.network.state_dict())
    noise_from = torch.Generator()
    noise_from.set_state(fast.noise_from.get_state())
    plain = steps.PlainTrainer(network, config, noise_from)
    images, labels = setting.images("training")
    first = first_step(setting, attack, (network, fast.network), images, labels)
    return Contest(
        plain=setting.as_library(partial(plain.step, images, labels)),
        fast=partial(fast.step, images, labels, 0),
        agree=partial(same_losses, setting.tolerance, first),
        settings=_of_network(setting, sizes.network_cells, sizes.network_channels) | {"steps": sizes.steps},
        others={},
    )


def networks(setting: Setting, num_cells: int, channels: int) -> tuple[Any, Classifier]:
    """A plain network and the library's, with the same weights and statistics, in evaluation mode."""
    blueprint, steps = zoo.load("DSARA").blueprint(num_cells=num_cells, channels=channels), reference("plain_network")
    with seeded("bench"):
        network = blueprint.build().to(setting.device)
    plain = steps.PlainNetwork(blueprint).to(setting.device)
    steps.settle(network, setting.images()[0])
    plain.load_state_dict(network.state_dict())
    return plain.eval(), network.eval()


@afresh
def pgd20_eval(setting: Setting) -> Contest:
    """PGD20 against a network, prepared as evaluation does; that it is prepared once for all its images is not timed."""
    sizes = setting.sizes
    plain, network = networks(setting, sizes.network_cells, sizes.network_channels)
    images, labels = setting.images("evaluation")
    attack = replace(ATTACKS["PGD20"], steps=sizes.evaluation_steps)
    noise = Draws.of(0, images).noise(images)
    prepared = prepare(network, images)
    first = first_step(setting, attack, (plain, prepared), images, labels)
    return Contest(
        plain=setting.as_library(partial(reference("plain_network").plain_attack, plain, images, labels, noise, attack)),
        fast=setting.as_library(partial(attack, prepared, images, labels, noise=noise)),
        agree=partial(same_strength, setting.tolerance, first, plain, labels),
        settings=_of_network(setting, sizes.network_cells, sizes.network_channels)
        | {"steps": attack.steps, "prepared": prepared.report},
        others={},
    )


@afresh
def autoattack_eval(setting: Setting) -> Contest:
    """Our AutoAttack at a reduced budget; `package` is `pyautoattack` on the plain network."""
    sizes, attack = setting.sizes, setting.sizes.autoattack
    plain, network = networks(setting, sizes.attacked_cells, sizes.attacked_channels)
    images, _ = setting.images("evaluation")
    prepared = prepare(network, images)
    with torch.no_grad():
        labels = plain(images).argmax(dim=1)
    others = {}
    if importlib.util.find_spec("pyautoattack"):
        others["package"] = setting.as_library(partial(PyAutoAttack.like(attack), plain, images, labels, seed=0))
    return Contest(
        plain=setting.as_library(partial(attack, plain, images, labels, seed=0)),
        fast=setting.as_library(partial(attack, prepared, images, labels, seed=0)),
        agree=partial(same_verdicts, plain, labels),
        settings=_of_network(setting, sizes.attacked_cells, sizes.attacked_channels) | _budget(attack),
        others=others,
    )


def _of_network(setting: Setting, num_cells: int, channels: int) -> dict[str, Any]:
    return {"image_size": setting.sizes.image_size, "num_cells": num_cells, "channels": channels, "genotype": "DSARA"}


def _budget(attack: AutoAttack) -> dict[str, Any]:
    return {"steps": attack.steps, "targets": attack.targets, "queries": attack.queries, "eps": attack.eps}


# ----------------------------------------------------------------------------------------------------------- agreement


class First(NamedTuple):
    """The images that each side gives after one step of the attack, and what the plain side gives in float64."""

    plain: Tensor
    fast: Tensor
    exact: Tensor


def first_step(setting: Setting, attack: PGD, models: tuple[Any, Any], images: Tensor, labels: Tensor) -> First:
    """One step of the plain attack on the one model and of the library's on the other."""
    one, noise = replace(attack, steps=1), uniform_noise(images, generator("bench", "first step"))
    step = reference("plain_network").plain_attack
    plain = setting.as_library(partial(step, models[0], images, labels, noise, one))
    fast = setting.as_library(partial(one, models[1], images, labels, noise=noise))
    exact = step(copy.deepcopy(models[0]).double(), images.double(), labels, noise.double(), one)
    return First(plain(), fast(), exact.to(images))


def same_start(tolerance: str, first: First) -> str:
    """The images after the first step are those of the plain attack, but where rounding turned a sign.

    A deep network magnifies rounding: there the fast side may turn half as many signs again as the plain one.
    """
    share = alike(first.plain, first.fast)
    theirs, ours = (alike(side, first.exact) for side in (first.plain, first.fast))
    if not share >= SAME_PIXELS[tolerance] and not (share >= STILL_SAME and 1 - ours <= TIMES_AS_MANY * (1 - theirs)):
        raise WorkbookError(
            f"plain and fast have only {share:.1%} of the pixels alike after one step (with float64: {theirs:.1%} and "
            f"{ours:.1%}), so nothing was timed"
        )
    return f"{share:.2%} of the attacked pixels alike after one step (with float64: plain {theirs:.2%}, fast {ours:.2%})"


def same_losses(tolerance: str, first: First, plain: Mapping[str, Any], fast: Mapping[str, Any]) -> str:
    """The attack begins alike, and the losses of a step are near those of the plain one."""
    started = same_start(tolerance, first)
    apart = max(abs(float(fast[name]) / float(loss) - 1) for name, loss in plain.items())
    if not apart <= LOSS_TOLERANCE[tolerance]:
        raise WorkbookError(f"the losses of plain and fast differ by a share of {apart:.1g}, so nothing was timed")
    return f"{started}, losses to a share of {apart:.0e}"


def same_images(tolerance: str, first: First, plain: Float[Tensor, "n c h w"], fast: Float[Tensor, "n c h w"]) -> str:
    """The attack begins alike, and most pixels end alike."""
    started, share = same_start(tolerance, first), alike(plain, fast)
    if not share >= STILL_SAME:
        raise WorkbookError(f"plain and fast have only {share:.1%} of the attacked pixels alike, so nothing was timed")
    return f"{started}, {share:.2%} after the last"


@torch.no_grad()
def same_strength(tolerance: str, first: First, network: Any, labels: Tensor, plain: Tensor, fast: Tensor) -> str:
    """The attack begins alike and climbs as high. On 20 freshly drawn cells, twenty steps leave a tenth of the pixels equal."""
    started = same_start(tolerance, first)
    theirs, ours = (F.cross_entropy(network.eval()(images), labels).item() for images in (plain, fast))
    apart = abs(ours / theirs - 1)
    if not apart <= LOSS_TOLERANCE[tolerance]:
        raise WorkbookError(f"the losses that plain and fast climb to differ by a share of {apart:.1g}, so nothing was timed")
    return f"{started}, losses climbed to a share of {apart:.0e}"


def alike(one: Tensor, other: Tensor) -> float:
    """The share of equal pixels, up to rounding."""
    return ((one - other).abs() < 1e-5).float().mean().item()


@torch.no_grad()
def same_verdicts(network: Any, labels: Tensor, plain: Tensor, fast: Tensor) -> str:
    """The same images survive."""
    survive = [network.eval()(images).argmax(dim=1) == labels for images in (plain, fast)]
    if not torch.equal(*survive):
        raise WorkbookError("other images survive the plain attack than the fast one, so nothing was timed")
    return f"the same {int(survive[0].sum())} of {len(labels)} images survive"


CONTESTS: dict[str, Make] = {
    "search_step": search_step,
    "craft_supernet": craft_supernet,
    "retrain_step": retrain_step,
    "pgd20_eval": pgd20_eval,
    "autoattack_eval": autoattack_eval,
}
OF_SUPERNET = ("search_step", "craft_supernet")
