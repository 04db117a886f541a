"""Accuracy under attack, image by image (Sections 6.1 and 6.2).

White-box: each attack is crafted on the network that it is evaluated on. Black-box: crafted on a source, evaluated on targets.
Both are one job, `Evaluator`: rows of (source, attack) against target networks, one row an epoch, so that a long evaluation
commits after each attack. What is kept is the prediction for each image; accuracies, worst cases and paired comparisons follow.
The start of an attack depends on (seed, image) alone, not on batches.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attacks.base import Attack
from .data import Split, unit_interval
from .engine import Metrics
from .errors import WorkbookError, unknown
from .runs import derive_seed, describe, write_atomically
from .shapes import Bool, Float, Int

NATURAL = "natural"


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927): honest near 0 and 1 and for few images."""
    if not 0 <= successes <= trials or trials < 1:
        raise WorkbookError(f"expected 0 <= successes <= trials with at least one trial; got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


def image_noise(shape: tuple[int, ...], first: int, seed: int) -> Float[Tensor, "n c h w"]:
    """Noise in [-1, 1] for images first, first + 1, ...: each from its own seed."""
    rows = [
        torch.rand(shape[1:], generator=torch.Generator().manual_seed(derive_seed("image", seed, first + i)))
        for i in range(shape[0])
    ]
    return torch.stack(rows).mul_(2).sub_(1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Adversarial images of one attack on one source; no attack means the images themselves."""

    source: nn.Module
    attack: Attack | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network predicted for each test image under each attack; 'natural' is the clean image."""

    network: str
    data: str
    eps: float
    classes: tuple[str, ...]
    labels: Int[Tensor, " n"]
    predictions: Mapping[str, Int[Tensor, " n"]]
    attacks: Mapping[str, Any] = field(default_factory=dict)  # settings of each attack, for the tables

    def correct(self, attack: str = NATURAL) -> Bool[Tensor, " n"]:
        """Which images are right under an attack."""
        if attack not in self.predictions:
            raise unknown("evaluated attack", attack, self.predictions)
        return self.predictions[attack] == self.labels

    def worst_case(self, attacks: Iterable[str] | None = None) -> Bool[Tensor, " n"]:
        """Which images are right under all of these attacks (all evaluated ones if None)."""
        masks = [self.correct(name) for name in (self.predictions if attacks is None else attacks)]
        return torch.stack(masks).all(dim=0)

    def accuracy(self, attack: str = NATURAL) -> float:
        """Share of right images."""
        return self.correct(attack).float().mean().item()

    def interval(self, attack: str = NATURAL, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of the accuracy."""
        right = self.correct(attack)
        return wilson(int(right.sum()), len(right), confidence)

    def rows(self) -> list[dict[str, Any]]:
        """One row an attack, with all that a reader needs to compare it."""
        rows = []
        for name in self.predictions:
            settings = self.attacks.get(name) or {}
            right, (low, high) = self.correct(name), self.interval(name)
            rows.append(
                {
                    "network": self.network,
                    "data": self.data,
                    "attack": name,
                    "eps": settings.get("eps", 0.0),
                    "step_size": settings.get("step_size"),
                    "steps": settings.get("steps"),
                    "correct": int(right.sum()),
                    "images": len(right),
                    "accuracy": self.accuracy(name),
                    "low": low,
                    "high": high,
                }
            )
        return rows

    def save(self, path: str | Path) -> None:
        """Write labels and predictions as npz."""
        save_arrays(path, {"labels": self.labels.numpy(), **{name: p.numpy() for name, p in self.predictions.items()}})


@dataclass(frozen=True, kw_only=True)
class TransferMatrix:
    """Targets' predictions on each source's adversarial images, as in Table 2."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    attack: str
    eps: float
    data: str
    labels: Int[Tensor, " n"]
    predictions: Int[Tensor, "sources targets n"]

    @property
    def num_images(self) -> int:
        """How many images each number stands on."""
        return len(self.labels)

    @property
    def accuracy(self) -> Float[Tensor, "sources targets"]:
        """Accuracy of each target on each source's images."""
        return (self.predictions == self.labels).float().mean(dim=2)

    def rows(self) -> list[dict[str, Any]]:
        """One row a pair; the success rate is 1 - accuracy, as in Section 6.2."""
        rows = []
        for s, source in enumerate(self.sources):
            for t, target in enumerate(self.targets):
                right = int((self.predictions[s, t] == self.labels).sum())
                low, high = wilson(right, self.num_images)
                share = right / self.num_images
                rows.append(
                    {
                        "source": source,
                        "target": target,
                        "data": self.data,
                        "attack": self.attack,
                        "eps": self.eps,
                        "correct": right,
                        "images": self.num_images,
                        "accuracy": share,
                        "low": low,
                        "high": high,
                        "success_rate": 1 - share,
                    }
                )
        return rows

    def save(self, path: str | Path) -> None:
        """Write labels and predictions as npz."""
        names = {"sources": np.array(self.sources), "targets": np.array(self.targets)}
        save_arrays(path, {"labels": self.labels.numpy(), "predictions": self.predictions.numpy(), **names})


class Evaluator:
    """Predictions of the targets on the images of each row; a job for `engine.run_epochs`, one row an epoch."""

    def __init__(
        self,
        rows: Mapping[str, Row],
        targets: Mapping[str, nn.Module],
        split: Split,
        *,
        data: str,
        batch_size: int = 256,
        seed: int = 0,
    ):
        if not rows or not targets or not len(split):
            raise WorkbookError(
                f"an evaluation needs attacks, networks and images; got {len(rows)}, {len(targets)} and {len(split)}"
            )
        self.rows, self.targets, self.split = dict(rows), dict(targets), split
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epoch, self.num_epochs = 0, len(self.rows)
        self.predictions: dict[str, dict[str, Tensor]] = {}
        self._settings = {
            "rows": {name: [digest(row.source), describe(row.attack)] for name, row in self.rows.items()},
            "targets": {name: digest(target) for name, target in self.targets.items()},
            "data": [data, checksum(split.labels, split.images), len(split)],
            "seed": seed,
        }

    def run_epoch(self) -> Iterator[Metrics]:
        """Craft one row's images and ask every target; a batch a step."""
        name, row = list(self.rows.items())[self.epoch]
        found: dict[str, list[Tensor]] = {target: [] for target in self.targets}
        modes = [(m, m.training) for model in [row.source, *self.targets.values()] for m in model.modules()]
        try:
            for model in [row.source, *self.targets.values()]:
                model.eval()
            for start in range(0, len(self.split), self.batch_size):
                images = unit_interval(self.split.images[start : start + self.batch_size])
                labels = self.split.labels[start : start + self.batch_size]
                if row.attack is not None:
                    noise = image_noise(tuple(images.shape), start, self.seed).to(images.device)
                    images = row.attack(row.source, images, labels, noise=noise)
                with torch.no_grad():
                    for target, model in self.targets.items():
                        found[target].append(predict(model, images, len(labels)))
                yield {
                    "epoch": self.epoch + 1,
                    "step": self.epoch * self._batches() + start // self.batch_size,
                    "row": name,
                }
        finally:
            for module, mode in modes:
                module.training = mode
        self.predictions[name] = {target: torch.cat(parts) for target, parts in found.items()}
        self.epoch += 1

    def _batches(self) -> int:
        return math.ceil(len(self.split) / self.batch_size)

    def epoch_metrics(self) -> Metrics:
        """Accuracy of each target on the row just done."""
        name = list(self.rows)[self.epoch - 1]
        labels = self.split.labels.cpu()
        shares = {t: (p == labels).float().mean().item() for t, p in self.predictions[name].items()}
        return {"epoch": self.epoch, "row": name, **{f"accuracy/{target}": share for target, share in shares.items()}}

    def settings(self) -> Any:
        """Attacks, weights (by checksum) and images."""
        return self._settings

    def state_dict(self) -> dict[str, Any]:
        """The rows done."""
        return {"epoch": self.epoch, "predictions": self.predictions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after them."""
        self.epoch, self.predictions = state["epoch"], {k: dict(v) for k, v in state["predictions"].items()}

    def export(self, folder: Path) -> None:
        """Nothing: `Evaluation` and `TransferMatrix` are written by who asked."""

    def evaluation(self, network: str, *, eps: float, classes: tuple[str, ...]) -> Evaluation:
        """The result for one target."""
        predictions = {name: found[network] for name, found in self.predictions.items()}
        attacks = {name: describe(row.attack) for name, row in self.rows.items()}
        return Evaluation(
            network=network,
            data=self.data,
            eps=eps,
            classes=classes,
            labels=self.split.labels.cpu(),
            predictions=predictions,
            attacks=attacks,
        )

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


def white_box(network: nn.Module, attacks: Mapping[str, Attack]) -> dict[str, Row]:
    """Rows for one network: clean images, then each attack crafted on the network itself."""
    return {NATURAL: Row(source=network, attack=None), **{n: Row(source=network, attack=a) for n, a in attacks.items()}}


def black_box(networks: Mapping[str, nn.Module], attack: Attack) -> dict[str, Row]:
    """Rows for a transfer matrix: the same attack crafted on each source."""
    return {name: Row(source=network, attack=attack) for name, network in networks.items()}


def evaluate(
    network: nn.Module,
    split: Split,
    attacks: Mapping[str, Attack],
    *,
    name: str = "network",
    data: str = "images",
    classes: tuple[str, ...] | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Evaluation:
    """Evaluate any module that maps images in [0, 1] to logits, in one call and without a run folder."""
    evaluator = Evaluator(white_box(network, attacks), {name: network}, split, data=data, batch_size=batch_size, seed=seed)
    for _ in range(evaluator.num_epochs):
        for _ in evaluator.run_epoch():
            pass
    classes = tuple(str(c) for c in range(int(split.labels.max()) + 1)) if classes is None else classes
    return evaluator.evaluation(name, eps=max((attack.eps for attack in attacks.values()), default=0.0), classes=classes)


def predict(model: nn.Module, images: Float[Tensor, "n c h w"], expected: int) -> Int[Tensor, " n"]:
    """Predicted classes, on the CPU. Raises WorkbookError unless the model returns finite logits [n, classes]."""
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WorkbookError(f"a network returns logits [n, classes]; expected {expected} rows, got {got}")
    if not torch.isfinite(logits).all():
        raise WorkbookError("the network's logits are not finite; an accuracy would mean nothing")
    return logits.argmax(dim=1).cpu()


def digest(model: nn.Module) -> str:
    """A checksum of a model's weights and buffers."""
    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        if isinstance(value, Tensor):
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:16]


def checksum(*tensors: Tensor) -> str:
    """A checksum of the values."""
    values = hashlib.sha256()
    for tensor in tensors:
        values.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return values.hexdigest()[:16]


def write_csv(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, at once or not at all."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed npz, at once or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_csv(path: str | Path, *needed: str) -> list[dict[str, Any]]:
    """The rows that `write_csv` wrote, numbers as numbers.

    Raises FileNotFoundError, and WorkbookError where the file is damaged or lacks a needed column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restkey="further", strict=True)
        try:
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows += [{key: _number(key, value) for key, value in row.items()} for row in reader]
        except (TypeError, ValueError, csv.Error) as error:
            raise WorkbookError(f"{path}, line {reader.line_num}: {error}") from error
    if missing:
        raise WorkbookError(f"{path} has no column {' and no '.join(missing)}")
    return rows


COUNTS, NUMBERS = ("steps", "correct", "images"), ("eps", "step_size", "accuracy", "low", "high", "success_rate")


def _number(key: str, text: str) -> Any:
    if text == "" and key in ("steps", "step_size"):  # natural images and FGSM have none
        return None
    return int(text) if key in COUNTS else float(text) if key in NUMBERS else text


def load_arrays(path: str | Path, *needed: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises FileNotFoundError, and WorkbookError where it is damaged or lacks a needed one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            read = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise WorkbookError(f"{path} is not an npz file of plain arrays: {error}") from error
    missing = [name for name in needed if name not in read]
    if missing:
        raise WorkbookError(f"{path} has no array {' and no '.join(missing)}")
    return read


def load_evaluation(path: str | Path, **described: Any) -> Evaluation:
    """The npz that `Evaluation.save` wrote; `described` are the other fields. Never executes anything."""
    read = {name: torch.from_numpy(array) for name, array in load_arrays(path, "labels").items()}
    labels = read.pop("labels")
    return Evaluation(labels=labels, predictions=read, **described)


def load_transfer_matrix(path: str | Path, **described: Any) -> TransferMatrix:
    """The npz that `TransferMatrix.save` wrote; `described` are the other fields. Never executes anything."""
    read = load_arrays(path, "labels", "predictions", "sources", "targets")
    return TransferMatrix(
        sources=tuple(map(str, read["sources"])),
        targets=tuple(map(str, read["targets"])),
        labels=torch.from_numpy(read["labels"]),
        predictions=torch.from_numpy(read["predictions"]),
        **described,
    )
