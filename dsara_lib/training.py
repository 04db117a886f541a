"""Adversarial training of a network (Section 5.3): PGD examples of each batch, then a step of SGD on their loss.

`Trainer` is a job for `engine.run_epochs`. A part of the training set is held out; the weights of the epoch with the best
held-out adversarial accuracy are kept as `best` beside `last`, because robust overfitting begins after the first drop of the
learning rate. Test images play no part here.

A step crafts on a prepared network, which equals the trained one and gives image gradients in half of the time. A GPU replays
crafting and gradients from CUDA graphs (`capture.py`), and is waited for once a step, where its metrics are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import AnyBlueprint, Classifier, Prepared, blueprint_from_dict, prepare, require_at_most
from .attacks import PGD
from .attacks.base import Attack, uniform_noise
from .capture import Captured, Graphs, NoGraphs, graphs_on
from .data import Augmentation, Batches, DataSet, Split, hold_out, unit_interval
from .distributed import ALONE, Group
from .engine import Metrics, Within, diverging, to_cpu
from .errors import WorkbookError, unknown
from .runs import describe, generator, read_json, seeded, write_atomically, write_json
from .shapes import Float, Int

CARD_SCHEMA = 1
STORED = ("float32", "float16")  # the second rounds kernels and matrices, and keeps what belongs to a channel as it is
FEWEST_STEPS = 60  # of a training
FEWEST_HELD_OUT = 50  # images
NUM_LIKE = 8  # images on which the prepared network is compared


class Schedule(Protocol):
    """A learning rate over the epochs, as a factor of the initial one."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor after `epoch` (with its fraction) of `epochs`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Drops:
    """Times `factor` at each milestone, an epoch."""

    milestones: tuple[int, ...] = (100, 150)
    factor: float = 0.1

    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor after `epoch`."""
        return self.factor ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from 1 down to `floor`, one value an epoch as in DARTS."""

    floor: float = 0.0

    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor during the epoch that `epoch` lies in."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * math.floor(epoch) / epochs)) / 2


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Linearly up to 1 until `peak` of the way, then linearly down to `floor`; changes with each step."""

    peak: float = 0.3
    start: float = 0.1
    floor: float = 0.0

    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor after `epoch`."""
        done = epoch / epochs
        if done < self.peak:
            return self.start + (1 - self.start) * done / self.peak
        return self.floor + (1 - self.floor) * (1 - done) / (1 - self.peak)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The paper's retraining; `attack=None` trains on clean images. Options that are off follow the paper."""

    epochs: int = 200
    batch_size: int = 32
    attack: PGD | None = PGD(step_size=0.01, steps=7)
    learning_rate: float = 0.1
    schedule: Drops | Cosine | OneCycle = Drops()
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    held_out: float = 0.02  # share of the training images on which `best` is chosen
    held_out_attack: PGD = PGD(steps=10)
    cutout: int = 0  # side of a blacked-out square
    stored: str = "float32"  # how `best` and `last` are written, see `STORED`
    auxiliary_weight: float = 0.4  # where the network has an auxiliary head

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise WorkbookError(f"{name} is a whole number of at least 1; got {getattr(self, name)!r}")
        if self.stored not in STORED:
            raise unknown("stored precision", self.stored, STORED)
        if not self.learning_rate > 0:
            raise WorkbookError(f"learning_rate is above 0; got {self.learning_rate!r}")
        if not 0 < self.held_out < 1:
            raise WorkbookError(f"held_out is a share between 0 and 1 of the training images; got {self.held_out!r}")


def accuracy(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of right predictions."""
    return (logits.argmax(dim=1) == labels).float().mean()


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    gradients: tuple[Tensor, ...],
    clip: float | None = None,
) -> None:
    """One optimizer step with exactly these gradients; nothing stays in `.grad`."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the strides of its weight: only then a GPU's optimizer takes all of them in one kernel."""
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next steps use this rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def whole_batches(split: Split, batch_size: int, of: str, group: Group = ALONE) -> int:
    """Batches of an epoch. Raises WorkbookError where there is not one, and where it has no image for some process."""
    if batch_size < group.size:
        raise WorkbookError(f"a batch of {batch_size} images cannot be shared by {group.size} processes; take fewer of them")
    if len(split) < batch_size:
        raise WorkbookError(
            f"{of} has {len(split)} images, fewer than one batch of {batch_size}; take more images or a smaller batch_size"
        )
    return len(split) // batch_size


def measure(model: nn.Module, split: Split, attack: Attack, batch_size: int, seed: int) -> Metrics:
    """Natural and adversarial loss and accuracy in evaluation mode; the same noise each time, the model left as found."""
    batches = measuring(model, split, attack, batch_size, seed)
    while True:
        try:
            next(batches)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def measuring(
    model: nn.Module,
    split: Split,
    attack: Attack,
    batch_size: int,
    seed: int,
    inside: Callable[[], AbstractContextManager[object]] = nullcontext,
    group: Group = ALONE,
) -> Generator[Metrics, None, Metrics]:
    """`measure` batch by batch: yields nothing of note after each, and returns what was measured. `inside` is held around each.

    The processes of a group share each batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    noise_from = generator("measure", seed)
    totals = {"natural_loss": 0.0, "natural_accuracy": 0.0, "adversarial_loss": 0.0, "adversarial_accuracy": 0.0}
    model.eval()
    try:
        for images, labels in split.in_batches(torch.arange(len(split)), batch_size):
            with inside():
                images = unit_interval(images)
                images, labels, noise = group.share(images, labels, uniform_noise(images, noise_from))
                if len(labels):
                    attacked = attack(model, images, labels, noise=noise)
                    for kind, shown in (("natural", images), ("adversarial", attacked)):
                        logits = model(shown)
                        totals[f"{kind}_loss"] += F.cross_entropy(logits, labels, reduction="sum").item()
                        totals[f"{kind}_accuracy"] += (logits.argmax(dim=1) == labels).sum().item()
            yield {}
    finally:
        for module, mode in modes:
            module.training = mode
    return {name: total / len(split) for name, total in group.total(totals).items()}


def cut_out(images: Float[Tensor, "n c h w"], size: int, noise_from: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Black out a square of side `size` around a random pixel of each image."""
    n, _, height, width = images.shape
    rows = torch.randint(height, (n, 1, 1, 1), generator=noise_from).to(images.device, non_blocking=True)
    columns = torch.randint(width, (n, 1, 1, 1), generator=noise_from).to(images.device, non_blocking=True)
    y = torch.arange(height, device=images.device).view(1, 1, -1, 1) - rows
    x = torch.arange(width, device=images.device).view(1, 1, 1, -1) - columns
    half = size // 2
    inside = (y >= -half) & (y < size - half) & (x >= -half) & (x < size - half)
    return images.masked_fill(inside, 0)


def few_steps(config: TrainConfig, num_images: int) -> str:
    """A sentence where a training on so many images ends before batch norm's running statistics can be right; else "".

    They forget a tenth with each step: after 20 steps a deep network may be right in training and name one class in evaluation.
    """
    steps = config.epochs * (round(num_images * (1 - config.held_out)) // config.batch_size)
    if steps >= FEWEST_STEPS:
        return ""
    return (
        f"{config.epochs} epochs of {num_images:,} images are {steps} steps of {config.batch_size}; batch norm's statistics "
        f"take some {FEWEST_STEPS} to follow: lower training.batch_size or raise training.epochs"
    )


def few_held_out(config: TrainConfig, num_images: int) -> str:
    """A sentence where so few images are held out that chance chooses the best epoch; else ""."""
    count = max(1, round(num_images * config.held_out))
    if count >= FEWEST_HELD_OUT:
        return ""
    return (
        f"the best epoch is chosen by {count} held-out images, on which an accuracy is known to {98 / count**0.5:.0f} "
        "points at best: raise training.held_out, or go by the last epoch"
    )


class Trainer:
    """Adversarial training of one blueprint on one data set; a job for `engine.run_epochs`."""

    commits_steps = True
    batch_setting = "training.batch_size"

    def __init__(
        self,
        blueprint: AnyBlueprint,
        data: DataSet,
        config: TrainConfig,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        name: str | None = None,
        graphs: Graphs | None = None,
        group: Group = ALONE,
    ):
        """`graphs` replaces what records the parts of a step: by default CUDA graphs on a GPU; `NoGraphs()` for none.

        The processes of a `group` share each batch.
        """
        self.group = group
        if blueprint.num_classes != data.num_classes or blueprint.in_channels != data.channels:
            raise WorkbookError(
                f"the network takes {blueprint.in_channels} channels and {blueprint.num_classes} classes; "
                f"{data.name} has {data.channels} and {data.num_classes}"
            )
        self.blueprint, self.config, self.seed, self.data_name = blueprint, config, seed, data.name
        self.name = blueprint.name if name is None else name
        self.classes, self.eps = data.classes, data.eps
        self.device = torch.device(device)
        self.train, self.held_out = hold_out(data.train.to(self.device), config.held_out, generator("hold-out", seed))
        self.num_batches = whole_batches(self.train, config.batch_size, "the training set", group)
        self.augmentation = Augmentation(crop_padding=data.crop_padding, flip=data.flip)
        self.noise_from = generator("training", seed)
        with seeded("weights", seed):
            self.network: Classifier = blueprint.build().to(self.device)
        self.weights = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(
            self.weights,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.epoch, self.num_epochs = 0, config.epochs
        self._within: Within | None = None
        self.best_epoch, self.best_accuracy = 0, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self._measured: Metrics = {}
        self._best_measured: Metrics = {}
        self._source: nn.Module | None = None
        if config.attack and config.attack.early_stop:
            graphs = NoGraphs()  # it asks after each step which images are left
        elif graphs is None:
            graphs = graphs_on(self.device)
        self._replay_craft = Captured(self.craft, self.device, graphs)
        # What processes tell each other within a pass is not recorded.
        together = group.synchronised and group.size > 1
        self._replay_gradients = Captured(self.gradients, self.device, NoGraphs() if together else graphs)

    def run_epoch(self) -> Iterator[Metrics]:
        """One pass over the kept training images, then the held-out measurement."""
        with diverging(self.epoch):
            yield from self._epoch()

    def _epoch(self) -> Iterator[Metrics]:
        batches = Batches(self.train, self.config.batch_size, self.noise_from, self.augmentation, drop_last=True)
        within = Within(self.noise_from) if self._within is None else self._within
        self._within = within
        for index, (images, labels) in within.rest_of(lambda: iter(batches), self.noise_from):
            rate = self._rate(index)
            set_learning_rate(self.optimizer, rate)
            metrics = self.step(images, labels, self.epoch * self.num_batches + index)
            within.add(metrics)
            yield {
                "epoch": self.epoch + 1,
                "step": self.epoch * self.num_batches + index,
                "learning_rate": rate,
                **metrics,
            }
        size = max(self.config.batch_size, 128)
        held = yield from measuring(self.network, self.held_out, self.config.held_out_attack, size, self.seed, group=self.group)
        rate, sums, self._within = self._rate(self.num_batches - 1), within.sums, None
        self.epoch += 1
        # Naturally trained networks have no adversarial accuracy to choose by.
        decisive = held["adversarial_accuracy" if self.config.attack else "natural_accuracy"]
        if decisive > self.best_accuracy:
            self.best_epoch, self.best_accuracy = self.epoch, decisive
            self.best_weights = to_cpu(self.network.state_dict())
        self._measured = {
            "epoch": self.epoch,
            "learning_rate": rate,
            **{key: value / self.num_batches for key, value in sums.items()},
            **{f"validation/{key}": value for key, value in held.items()},
            "best_epoch": self.best_epoch,
        }
        if self.best_epoch == self.epoch:
            self._best_measured = self._measured
        if self.epoch == self.num_epochs:
            self.release()

    def _rate(self, index: int) -> float:
        """The learning rate of a step of this epoch."""
        return self.config.learning_rate * self.config.schedule(self.epoch + index / self.num_batches, self.num_epochs)

    def step(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], index: int) -> Metrics:
        """Craft in evaluation mode, then one step of the weights in training mode. Each process takes its share of the batch."""
        self.network.train()
        total, kind = len(images), "natural"
        if self.config.cutout:
            images = cut_out(images, self.config.cutout, self.noise_from)
        if self.config.attack is not None:
            images, labels, noise = self.group.share(images, labels, uniform_noise(images, self.noise_from))
            images, kind = self._replay_craft(images, labels, noise), "adversarial"
        else:
            images, labels = self.group.share(images, labels)
        with self._drawing(index):
            found = self._replay_gradients(images, labels)
        measured, *gradients = self.group.mean(found, total)
        if not self.group.synchronised:
            self.group.align(list(self.network.buffers()), total)
        apply_gradients(self.optimizer, self.weights, tuple(gradients), self.config.gradient_clip)
        loss, right = measured.tolist()
        return {f"train/{kind}_loss": loss, f"train/{kind}_accuracy": right}

    def craft(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Attacked images for the network in evaluation mode, as its weights and statistics are now."""
        assert self.config.attack is not None
        source = self.source()
        if isinstance(source, Prepared):
            source.refresh()
        return self.config.attack(source, images, labels, noise=noise)

    def gradients(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> tuple[Tensor, ...]:
        """Loss and accuracy in one tensor, and the gradient of each weight; batch-norm statistics move once."""
        with self.group.normalising():
            logits, second = self.network.forward_with_auxiliary(images)
        loss = total = F.cross_entropy(logits, labels)
        if second is not None:
            total = loss + self.config.auxiliary_weight * F.cross_entropy(second, labels)
        gradients = torch.autograd.grad(total, self.weights)
        return torch.stack([loss.detach(), accuracy(logits, labels)]), *map(laid_out_like, self.weights, gradients)

    def source(self) -> nn.Module:
        """What is attacked: the prepared network, where it can be folded. It is made when it is first asked for.

        It is made from fresh weights, so that nothing depends on when training was stopped and taken up again.
        """
        if self._source is None:
            like = unit_interval(self.train.first(NUM_LIKE)[0])
            with seeded("weights", self.seed), torch.no_grad():
                twin = self.blueprint.build().to(self.device)
                twin(like)  # statistics that are not 0 and 1
            prepared = prepare(twin, like)
            prepared.refresh(self.network)
            self._source = prepared if prepared.folded else self.network
        return self._source

    @property
    def num_graphs(self) -> int:
        """Recordings so far, of crafting and of gradients."""
        return self._replay_craft.num_graphs + self._replay_gradients.num_graphs

    def release(self) -> None:
        """Give back the memory of all recordings; the next steps begin anew."""
        self._replay_craft.release()
        self._replay_gradients.release()

    def _drawing(self, index: int) -> AbstractContextManager[None]:
        """Drop path draws from torch's own generator; seeded by the step, it repeats after a restart."""
        rank = [self.group.rank] if self.group.rank else []  # else each process would drop alike
        return seeded("drop-path", self.seed, index, *rank, device=self.device) if self.blueprint.drop_path else nullcontext()

    def epoch_metrics(self) -> Metrics:
        """Means over the steps, and the held-out measurement."""
        return self._measured

    def settings(self) -> Any:
        """What a checkpoint must agree with."""
        return {
            "blueprint": self.blueprint.to_dict(),
            "config": self.config,
            "seed": self.seed,
            "data": self.data_name,
            "images": [len(self.train), len(self.held_out)],
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, momentum, random numbers, and the best weights so far."""
        return {
            "epoch": self.epoch,
            "network": to_cpu(self.network.state_dict()),
            "optimizer": to_cpu(self.optimizer.state_dict()),
            "generator": self.noise_from.get_state(),
            "within": None if self._within is None else self._within.state_dict(),
            "best": {"epoch": self.best_epoch, "accuracy": self.best_accuracy, "weights": self.best_weights},
            "measured": self._measured,
            "best_measured": self._best_measured,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise_from.set_state(state["generator"])
        self._within = Within.of(state.get("within"), self.noise_from)
        best = state["best"]
        self.best_epoch, self.best_accuracy, self.best_weights = best["epoch"], best["accuracy"], dict(best["weights"])
        self._measured, self._best_measured = dict(state["measured"]), dict(state["best_measured"])

    def export(self, folder: Path) -> None:
        """Write `best/` when it is new and both `best/` and `last/` at the end: weights and card."""
        ended = self.epoch == self.num_epochs
        if self.best_weights and (ended or self.best_epoch == self.epoch):
            save_network(folder / "best", self._stored(self.best_weights), self._card("best", self._best_measured))
        if ended:
            save_network(folder / "last", self._stored(self.network.state_dict()), self._card("last", self._measured))

    def _stored(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are written. What is evaluated is what was written, so that its numbers belong to the file."""
        halved = self.config.stored == "float16"
        return {k: v.half() if halved and v.is_floating_point() and v.ndim > 1 else v for k, v in to_cpu(weights).items()}

    def _card(self, which: str, measured: Metrics) -> dict[str, Any]:
        return {
            "name": self.name,
            "which": which,
            "epoch": measured["epoch"],
            "blueprint": self.blueprint.to_dict(),
            "training": describe(self.config),
            "seed": self.seed,
            "data": {
                "name": self.data_name,
                "classes": list(self.classes),
                "image_size": self.train.image_shape[1],
                "images": len(self.train),
                "eps": self.eps,
            },
            "held_out": {key: value for key, value in measured.items() if key.startswith("validation/")},
            "measured": [],
        }


def save_network(folder: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights.safetensors and card.json. Numbers measured before on the same weights are kept."""
    from safetensors.torch import save  # not needed to train

    write_atomically(folder / "weights.safetensors", save({k: v.detach().cpu().contiguous() for k, v in weights.items()}))
    kept: list[dict[str, Any]] = []
    if (folder / "card.json").is_file():
        old = read_json(folder / "card.json")
        kept = old.get("measured", []) if old.get("epoch") == card["epoch"] else []
    write_json(folder / "card.json", {"schema": CARD_SCHEMA, **card, "measured": kept})


def add_measurements(folder: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write evaluated numbers into a network's card, in place of earlier ones of the same attack."""
    path = Path(folder) / "card.json"
    card = read_json(path)
    new = {row["attack"] for row in rows}
    card["measured"] = [row for row in card["measured"] if row["attack"] not in new] + rows
    write_json(path, card)


def load_network(folder: str | Path, device: str | torch.device = "cpu") -> Classifier:
    """The network of a folder that `Trainer` wrote, in evaluation mode. Reads JSON and safetensors: nothing is executed.

    Raises FileNotFoundError or WorkbookError that names the file.
    """
    from safetensors.torch import load

    folder = Path(folder)
    card = load_card(folder)
    blueprint = blueprint_from_dict(card.get("blueprint"), str(folder / "card.json"))
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        require_at_most(blueprint, 2 * path.stat().st_size)  # weights may be stored in half
        network = blueprint.build()
        network.load_state_dict(load(path.read_bytes()))
    except Exception as error:  # safetensors and load_state_dict raise several kinds for a foreign file
        reason = str(error).strip().splitlines()[0]
        raise WorkbookError(f"{path} does not hold the weights of the network in card.json: {reason}") from error
    return network.to(device).eval()


def load_card(folder: str | Path) -> dict[str, Any]:
    """The card beside a network's weights. Raises FileNotFoundError or WorkbookError."""
    path = Path(folder) / "card.json"
    card = read_json(path)
    if not isinstance(card, dict) or card.get("schema") != CARD_SCHEMA:
        schema = card.get("schema") if isinstance(card, dict) else None
        newer = "; a newer version of this library made it" if isinstance(schema, int) and schema > CARD_SCHEMA else ""
        raise WorkbookError(f"{path}: expected a network card of schema {CARD_SCHEMA}; got {str(schema)[:60]!r}{newer}")
    return card


def natural(config: TrainConfig) -> TrainConfig:
    """The same training without an attack."""
    return replace(config, attack=None)
