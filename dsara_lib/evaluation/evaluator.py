"""Accuracy under attack, image by image (Sections 6.1 and 6.2).

White-box: each attack is crafted on the network that it is evaluated on. Black-box: crafted on a source, evaluated on targets.
Both are one job, `Evaluator`: rows of (source, attack) against target networks, a batch of a row an epoch, so that a long
evaluation commits after each batch. What is kept is the prediction for each image; all else follows from it.

The source is prepared once (`architecture.prepared`), and each prediction is that of the original network in its own precision.
Images that are wrong without attack are not attacked, in a cascade only those that still stand are; PGD20 is read off on the way
to PGD100. A costly attack may be asked of the first images only; its predictions are that much fewer. What is random belongs to
(seed, image), so no number depends on batches, order or restarts, and none on how many images follow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..architecture import prepare
from ..attacks import APGD, APGDT, FABT, PGD, Attack, AutoAttack, Square
from ..attacks.base import check_images, check_logits, check_range
from ..attacks.draws import Draws
from ..data import Split, unit_interval
from ..distributed import ALONE
from ..engine import Metrics
from ..errors import WorkbookError, unknown
from ..runs import describe
from ..shapes import Float, Int
from .crosscheck import PyAutoAttack
from .results import NATURAL, PREFIXES, Evaluation, TransferMatrix

PENDING = -1  # the prediction for an image whose turn has not come
ENGINES = ("dsara", "pyautoattack")
COSTLY = (AutoAttack, PyAutoAttack, APGD, APGDT, FABT, Square)  # AutoAttack and what it consists of


def image_noise(images: Float[Tensor, "n c h w"], seed: int, first: int = 0) -> Float[Tensor, "n c h w"]:
    """The noise in [-1, 1) from which an evaluation starts on images first, first + 1, ..."""
    return Draws.of(seed, images, first).noise(images)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Adversarial images of one attack on one source; no attack means the images themselves.

    With `after`, the name of an earlier row, only what is right there is attacked, and the other images keep its predictions.
    `whole` is the attack that the row completes, where it is the last part of a cascade. `first` asks it of the first so many
    images only; a row that comes after another is asked of no more than that one.
    """

    source: nn.Module
    attack: Attack | None
    after: str | None = None
    whole: Attack | None = None
    first: int | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """Float images in [0, 1] with their labels, where a `Split` would hold bytes. Raises WorkbookError."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]

    def __post_init__(self):
        check_images(self.images, self.labels)
        check_range(self.images)  # also on a GPU

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images_on_host(self) -> Float[Tensor, "n c h w"]:
        """The same on the CPU."""
        return self.images.cpu()

    def take(self, indices: Int[Tensor, " m"]) -> tuple[Float[Tensor, "m c h w"], Int[Tensor, " m"]]:
        """Images and labels at these indices."""
        return self.images[indices.to(self.images.device)], self.labels[indices.to(self.labels.device)]


@dataclass(frozen=True)
class Task:
    """Rows that are crafted together: one, or PGD of several lengths, the longest of which is run."""

    row: Row
    names: Mapping[str, int | None]  # row names; of PGD with the step at which each is read off


def tasks_of(rows: Mapping[str, Row]) -> list[Task]:
    """The rows, those that are prefixes of a longer PGD joined with it, in the order of the first."""
    tasks: list[Task] = []
    done: set[str] = set()
    for name, row in rows.items():
        if name in done:
            continue
        names: dict[str, int | None] = {name: None}
        attack = row.attack
        if isinstance(attack, PGD) and not attack.early_stop:
            for other, each in rows.items():
                same = each.source is row.source and (each.after, each.first) == (row.after, row.first)
                same = same and isinstance(each.attack, PGD)
                if same and other not in done and replace(each.attack, steps=attack.steps) == attack:  # type: ignore[type-var]
                    names[other] = each.attack.steps  # type: ignore[union-attr]
            attack = replace(attack, steps=max(steps for steps in names.values() if steps))
        tasks.append(Task(replace(row, attack=attack), names))
        done |= set(names)
    return tasks


class Evaluator:
    """Predictions of the targets on the images of each row; a job for `engine.run_epochs`, one batch of a row an epoch."""

    commits_steps = False  # an epoch is one batch, which is nothing until it is whole
    batch_setting = "evaluation.batch_size"
    group = ALONE

    def __init__(
        self,
        rows: Mapping[str, Row],
        targets: Mapping[str, nn.Module],
        split: Split | Images,
        *,
        data: str,
        batch_size: int = 256,
        seed: int = 0,
        prepared: bool = True,
    ):
        if not rows or not targets or not len(split):
            raise WorkbookError(
                f"an evaluation needs attacks, networks and images; got {len(rows)}, {len(targets)} and {len(split)}"
            )
        if batch_size < 1:
            raise WorkbookError(f"batch_size is a whole number of at least 1; got {batch_size!r}")
        self.rows = {name: _on_its_images(name, row, len(split)) for name, row in rows.items()}
        self.targets, self.split = dict(targets), split
        for name, row in self.rows.items():
            before = list(self.rows)[: list(self.rows).index(name)]
            if row.after is None:
                continue
            if row.after not in before:
                raise unknown(f"earlier row (for {name!r} to come after)", row.after, before)
            if self._count(name) > self._count(row.after):
                counts = f"{self._count(name)} images, {row.after!r} of {self._count(row.after)}"
                raise WorkbookError(f"a row is asked of no more images than the one it comes after; {name!r} is asked of {counts}")
        self.data, self.batch_size, self.seed, self.prepared = data, batch_size, seed, prepared
        self.tasks = tasks_of(self.rows)
        self.epoch, self._task, self._at = 0, 0, 0  # batches done; the present task, and how many of its images are done
        self._found: dict[str, dict[str, Tensor]] = {}
        self._attacked: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._reached: dict[str, dict[str, float]] = {}
        self._ready: tuple[nn.Module, nn.Module] | None = None
        self._settings = {
            # A row of all images is written as it was before there were others.
            "rows": {
                name: [digest(row.source), row.attack, row.after, *([row.first] if row.first else [])]
                for name, row in self.rows.items()
            },
            "targets": {name: digest(target) for name, target in self.targets.items()},
            "data": [data, checksum(split.labels, split.images_on_host), len(split)],
            "seed": seed,
        }

    # -- the job -----------------------------------------------------------------------------------------------------

    @property
    def num_epochs(self) -> int:
        """Batches done and still to do; fewer when a cascade leaves fewer images than it might."""
        left = 0
        for number, task in enumerate(self.tasks[self._task :]):
            begun = number == 0 and all(name in self._found for name in task.names)
            images = self._left() if begun else int(self._right(task.row.after)[: self._count(next(iter(task.names)))].sum())
            left += math.ceil(images / self.batch_size)
        return self.epoch + left

    def run_epoch(self) -> Iterator[Metrics]:
        """Craft one batch of a row's images and ask every target."""
        task = self.tasks[self._task]
        if not self._at:
            self._begin(task)
        indices = self._todo(task)[: self.batch_size]
        where = {"epoch": self.epoch + 1, "step": self.epoch, "row": " ".join(task.names), "images": len(indices)}
        models = [task.row.source, *self.targets.values()]
        modes = [(module, module.training) for model in models for module in model.modules()]
        try:
            for model in models:
                model.eval()
            yield where
            self._batch(task, indices)
        finally:
            for module, mode in modes:
                module.training = mode
        self._last = {"epoch": self.epoch + 1, "row": " ".join(task.names), **self._accuracies(task)}
        self.epoch, self._at = self.epoch + 1, self._at + len(indices)
        while self._task < len(self.tasks):
            task = self.tasks[self._task]
            if not self._at:
                self._begin(task)
            if len(self._todo(task)):
                break
            self._task, self._at = self._task + 1, 0

    def epoch_metrics(self) -> Metrics:
        """Accuracy of each target on the row just done; while it is not, how many of its images are."""
        return self._last

    def settings(self) -> Any:
        """Attacks, weights (by checksum) and images."""
        return self._settings

    def state_dict(self) -> dict[str, Any]:
        """The predictions so far and where they end."""
        return {
            "epoch": self.epoch,
            "task": self._task,
            "at": self._at,
            "found": {row: dict(found) for row, found in self._found.items()},
            "attacked": dict(self._attacked),
            "sums": dict(self._sums),
            "reached": {row: dict(reached) for row, reached in self._reached.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch, self._task, self._at = state["epoch"], state["task"], state["at"]
        self._found = {row: {t: p.clone() for t, p in found.items()} for row, found in state["found"].items()}
        self._attacked = {row: mask.clone() for row, mask in state["attacked"].items()}
        self._sums = {row: sums.clone() for row, sums in state["sums"].items()}
        self._reached = {row: dict(reached) for row, reached in state["reached"].items()}

    def export(self, folder: Path) -> None:
        """Nothing: `Evaluation` and `TransferMatrix` are written by who asked."""

    # -- one batch ---------------------------------------------------------------------------------------------------

    def _begin(self, task: Task) -> None:
        """Take over what need not be crafted: what was wrong before, and what an equal row has found."""
        for name in task.names:
            if name in self._found:  # resumed before its first batch
                continue
            after, count = task.row.after, self._count(name)
            empty = torch.full((count,), PENDING)
            found = {t: empty if after is None else self._found[after][t] for t in self.targets}
            self._found[name] = {t: predictions[:count].clone() for t, predictions in found.items()}
            self._attacked[name] = self._right(after)[:count].clone()
            if not self._attacked[name].any():  # nothing is left to attack
                before = self._reached[str(after)] if count == self._count(str(after)) else self._unattacked(task.row.source, count)
                self._reached[name] = {**before, "change": 0.0}
            for predictions in self._found[name].values():
                predictions[self._attacked[name]] = PENDING
            self._take_over(name)

    def _take_over(self, name: str) -> None:
        """What an equal row has found; of one that is asked of more images not how far it went is known of ours alone."""
        mine = self.rows[name]
        for other, row in self.rows.items():
            if other not in self._attacked or other == name or row.source is not mine.source or row.attack != mine.attack:
                continue
            count = self._count(other)
            if count > self._count(name):
                continue
            for target, predictions in self._found[name].items():
                theirs = self._found[other][target]
                known = self._attacked[other] & self._attacked[name][:count] & (theirs != PENDING)
                predictions[:count][known] = theirs[known]
            if other in self._reached:
                self._reached.setdefault(name, dict(self._reached[other]))

    def _unattacked(self, source: nn.Module, count: int) -> dict[str, float]:
        """How far the first images reach as they are."""
        images, _ = self.split.take(torch.arange(count))
        ends = torch.stack([images.amin(), images.amax()]).view(2, 1, 1, 1)  # all as floats would take much memory
        ends = (ends if ends.is_floating_point() else unit_interval(ends)).to(dtype_of(source))
        return reach(ends, ends)

    def _count(self, name: str) -> int:
        """Of how many images a row is asked."""
        return self.rows[name].first or len(self.split)

    def _right(self, row: str | None) -> Tensor:
        """Which images are to be attacked after a row: those that some target has right or that it has not come to."""
        labels = self.split.labels.cpu()
        found = self._found.get(row, {}) if row is not None else {}
        masks = [(predictions == labels[: len(predictions)]) | (predictions == PENDING) for predictions in found.values()]
        return torch.stack(masks).any(dim=0) if masks else torch.ones(len(labels), dtype=torch.bool)

    def _todo(self, task: Task) -> Tensor:
        """Images of a task that has begun whose turn has not come."""
        pending = [found == PENDING for name in task.names for found in self._found[name].values()]
        return torch.stack(pending).any(dim=0).nonzero().squeeze(1)

    def _left(self) -> int:
        return len(self._todo(self.tasks[self._task]))

    def _batch(self, task: Task, indices: Tensor) -> None:
        chosen, labels = self.split.take(indices)
        images = chosen if chosen.is_floating_point() else unit_interval(chosen)
        dtype = dtype_of(task.row.source)
        for name, attacked in self._craft(task, images.to(dtype), labels, Draws(self.seed, indices.to(images.device))).items():
            reached = reach(attacked, images.to(dtype))
            before = self._reached.setdefault(name, reached)
            for key, worst in (("change", max), ("low", min), ("high", max)):
                before[key] = worst(before[key], reached[key])
            for target, model in self.targets.items():
                logits = answers(model, attacked.to(dtype_of(model)), labels)
                self._found[name][target][indices] = logits.argmax(dim=1).cpu()
                if name in self._sums and model is task.row.source:
                    self._sums[name][-1] += _loss_and_right(logits, labels.to(logits.device)).cpu()

    def _craft(self, task: Task, images: Tensor, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The attacked images of each row of the task."""
        attack, (first, *_) = task.row.attack, task.names
        if attack is None:
            return {first: images}
        model = self._prepared(task.row.source, images)
        if not isinstance(attack, PGD) or attack.early_stop:
            return {first: attack(model, images, labels, seed=draws)}
        found, seen = {}, []
        for step, attacked, logits in attack.iterates(model, images, labels, seed=draws):
            if logits is not None:
                seen.append(_loss_and_right(logits, labels))
            found.update({name: attacked for name, steps in task.names.items() if step == steps})
        sums = torch.stack(seen).cpu()
        for name, steps in task.names.items():
            part = torch.cat([sums[:steps], sums.new_zeros(1, 2)])  # the end is added by the original network
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        return found

    def _prepared(self, source: nn.Module, images: Tensor) -> nn.Module:
        """The source as attacks see it; only the present one is kept."""
        if not self.prepared:
            return source
        if self._ready is None or self._ready[0] is not source:
            self._ready = (source, prepare(source, images[:8]))
        return self._ready[1]

    def _accuracies(self, task: Task) -> Metrics:
        left, metrics = self._left(), dict[str, Any]()
        if left:
            attacked = int(self._attacked[next(iter(task.names))].sum())
            return {"done": f"{attacked - left:,} of {attacked:,} images"}
        if task.row.first:
            metrics["done"] = f"the first {task.row.first:,} images"
        for name in task.names:
            for target, predictions in self._found[name].items():
                key = f"accuracy/{target}" if len(task.names) == 1 else f"{name} accuracy/{target}"
                metrics[key] = (predictions == self.split.labels[: len(predictions)].cpu()).float().mean().item()
        return metrics

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def predictions(self) -> dict[str, dict[str, Tensor]]:
        """Predictions of each target on each row that is done, in the order of the rows."""
        done = {name for task in self.tasks[: self._task] for name in task.names}
        return {name: self._found[name] for name in self.rows if name in done}

    def evaluation(self, network: str, *, eps: float, classes: tuple[str, ...]) -> Evaluation:
        """The result for one target."""
        predictions = {name: found[network] for name, found in self.predictions.items()}
        traces = {}
        for name, sums in self._sums.items():
            if name in predictions and self.rows[name].source is self.targets[network]:
                total, attacked = self._count(name), max(1, int(self._attacked[name].sum()))
                loss, right = (column.tolist() for column in sums.unbind(1))
                steps = list(range(len(sums)))
                traces[name] = {"steps": steps, "accuracy": [r / total for r in right], "loss": [v / attacked for v in loss]}
        return Evaluation(
            network=network,
            data=self.data,
            eps=eps,
            classes=classes,
            labels=self.split.labels.cpu(),
            predictions=predictions,
            attacks={name: describe_attack(row.whole or row.attack) for name, row in self.rows.items()},
            provenance={
                "dtype": str(dtype_of(self.targets[network])).removeprefix("torch."),
                "seed": self.seed,
                "image_checksum": checksum(self.split.labels, self.split.images_on_host),
                "prepared": self.prepared,
                **self._prefixes(),
            },
            traces=traces,
            reached={name: dict(reached) for name, reached in self._reached.items() if name in predictions},
        )

    def _prefixes(self) -> dict[str, dict[str, str]]:
        """Checksums of the first images, for each number that rows are asked of; nothing where all are asked of all."""
        labels, images = self.split.labels, self.split.images_on_host
        fewer = sorted({row.first for row in self.rows.values() if row.first})
        return {PREFIXES: {str(count): checksum(labels[:count], images[:count]) for count in fewer}} if fewer else {}

    def transfer_matrix(self, attack: str, eps: float) -> TransferMatrix:
        """The result for all pairs."""
        stacked = [torch.stack([self.predictions[row][target] for target in self.targets]) for row in self.rows]
        return TransferMatrix(
            sources=tuple(self.rows),
            targets=tuple(self.targets),
            attack=attack,
            eps=eps,
            data=self.data,
            labels=self.split.labels.cpu(),
            predictions=torch.stack(stacked),
        )


# -- rows and calls ----------------------------------------------------------------------------------------------------


def white_box(network: nn.Module, attacks: Mapping[str, Attack], autoattack_images: int | None = None) -> dict[str, Row]:
    """Rows for one network: clean images, then each attack crafted on the network itself.

    AutoAttack becomes a row for each of its parts on what the parts before have left: APGD-CE, +APGD-T, +FAB-T, and under the
    attack's own name what stands after all four. AutoAttack and what it consists of, also where that stands alone, are asked of
    the first `autoattack_images` only.
    """
    rows, few = {NATURAL: Row(source=network, attack=None)}, autoattack_images
    for name, attack in attacks.items():
        if not isinstance(attack, AutoAttack):
            rows[name] = Row(source=network, attack=attack, after=NATURAL, first=few if isinstance(attack, COSTLY) else None)
            continue
        after = NATURAL
        *parts, end = attack.parts().items()
        for number, (part, each) in enumerate(parts):
            row = Row(source=network, attack=each, after=after, first=few)
            short = part if number == 0 else f"+{part}"
            # The caller may have an attack of this name.
            own = Row(source=network, attack=attacks[short], after=NATURAL, first=few) if short in attacks else row
            after = short if rows.get(short, own) == row == own else f"{name}: {short}"
            rows[after] = row
        rows[name] = Row(source=network, attack=end[1], after=after, whole=attack, first=few)
    return rows


def black_box(networks: Mapping[str, nn.Module], attack: Attack) -> dict[str, Row]:
    """Rows for a transfer matrix: the same attack crafted on each source."""
    return {name: Row(source=network, attack=attack) for name, network in networks.items()}


def evaluate(
    network: nn.Module,
    split: Split | Images | tuple[Tensor, Tensor],
    attacks: Mapping[str, Attack],
    *,
    name: str = "network",
    data: str = "images",
    classes: tuple[str, ...] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    engine: str = "dsara",
    prepared: bool = True,
    autoattack_images: int | None = None,
) -> Evaluation:
    """Evaluate any module that maps images in [0, 1] to logits, in one call and without a run folder.

    `split` may be a pair of float images [n, c, h, w] in [0, 1] and labels [n]. `engine="pyautoattack"` lets the authors' package
    do what AutoAttack does. `prepared=False` attacks the network as it is. `autoattack_images` asks AutoAttack and what it consists
    of about the first so many images only. Raises WorkbookError.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine == "pyautoattack":
        attacks = {key: PyAutoAttack.like(each) if isinstance(each, AutoAttack) else each for key, each in attacks.items()}
    split = Images(images=split[0], labels=split[1]) if isinstance(split, tuple) else split
    rows = white_box(network, attacks, autoattack_images)
    evaluator = Evaluator(rows, {name: network}, split, data=data, batch_size=batch_size, seed=seed, prepared=prepared)
    while evaluator.epoch < evaluator.num_epochs:
        for _ in evaluator.run_epoch():
            pass
    classes = tuple(str(c) for c in range(int(split.labels.max()) + 1)) if classes is None else classes
    return evaluator.evaluation(name, eps=max((attack.eps for attack in attacks.values()), default=0.0), classes=classes)


def _on_its_images(name: str, row: Row, available: int) -> Row:
    """The row, asked of all images where it names as many as there are or more. Raises WorkbookError for none."""
    if row.first is not None and row.first < 1:
        raise WorkbookError(f"a row is asked of at least one image; {name!r} of the first {row.first!r}")
    return replace(row, first=None) if row.first is not None and row.first >= available else row


# -- small things ------------------------------------------------------------------------------------------------------


def predict(model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Predicted classes, on the CPU. Raises WorkbookError unless the model returns finite logits [n, classes] for the labels."""
    return answers(model, images, labels).argmax(dim=1).cpu()


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, labels: Tensor) -> Float[Tensor, "n classes"]:
    """The model's checked logits."""
    return check_logits(model(images), labels.to(images.device))


def _loss_and_right(logits: Tensor, labels: Tensor) -> Float[Tensor, " 2"]:
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss.double(), (logits.argmax(dim=1) == labels).sum().double()])


def reach(attacked: Tensor, images: Tensor) -> dict[str, float]:
    """How far an attack went. Raises WorkbookError where it left numbers that are none."""
    change, low, high = ((attacked - images).abs().max(), attacked.min(), attacked.max())
    if not torch.isfinite(change):
        raise WorkbookError("the attacked images are not finite: the network's gradients are not; an accuracy would mean nothing")
    return {"change": change.item(), "low": low.item(), "high": high.item()}


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision a network computes in; float32 where it has no parameters."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def describe_attack(attack: Attack | None) -> dict[str, Any] | None:
    """Settings of an attack with what it climbs, where it starts and whose code it is."""
    if attack is None:
        return None
    about = {"loss": getattr(attack, "LOSS", ""), "start": getattr(attack, "START", "")}
    return {**describe(attack), **about, "engine": getattr(attack, "ENGINE", "dsara")}


def digest(model: nn.Module) -> str:
    """A checksum of a model's weights and buffers."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        if isinstance(value, Tensor):
            _hash(state, value)
    return state.hexdigest()[:16]


def checksum(*tensors: Tensor) -> str:
    """A checksum of the values."""
    values = hashlib.sha256()
    for tensor in tensors:
        _hash(values, tensor)
    return values.hexdigest()[:16]


def _hash(state: Any, tensor: Tensor) -> None:
    state.update(tensor.detach().cpu().contiguous().numpy().data)
