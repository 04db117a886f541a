"""What an evaluation leaves: the prediction for each image under each attack. Accuracies, worst cases and tables follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WorkbookError, unknown
from ..runs import read_json, write_json
from ..shapes import Bool, Float, Int
from .files import load_arrays, save_arrays
from .statistics import Paired, mean_over_classes, paired, unbalanced, wilson

NATURAL = "natural"
PREFIXES = "image_checksums_of_first"  # in the provenance: the checksum of the first so many images, by their number


# Rows are compared only where all of this is known and equal: a PGD step of 0.003 for 2/255 alone adds 7 to 12 points.
PROVENANCE = (
    *("data", "attack", "eps", "step_size", "steps", "targets", "queries", "start", "loss", "engine"),
    *("dtype", "image_checksum", "images"),
)


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Why two rows of results may not be held against each other; empty where they may."""
    reasons = []
    for key in PROVENANCE:
        if one.get(key) != other.get(key):
            reasons.append(f"{key} {one.get(key)!r} and {other.get(key)!r}")
        elif key in ("dtype", "image_checksum") and not one.get(key):
            reasons.append(f"{key} is not known")
    return reasons


def images_told(rows: Iterable[Mapping[str, Any]]) -> str:
    """On how many images rows stand, such as "1,000 test images" or "1,000 test images (AutoAttack, Square: the first 200)"."""
    asked = [(row["images"], row["attack"]) for row in rows]
    most, *fewer = sorted({count for count, _ in asked}, reverse=True)
    parts = [f"{', '.join(dict.fromkeys(name for count, name in asked if count == each))}: the first {each:,}" for each in fewer]
    return f"{most:,} test images" + (f" ({'; '.join(parts)})" if parts else "")


DETAILS = ("attacks", "provenance", "traces", "reached")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a network predicted for each test image under each attack; 'natural' is the clean image.

    An attack that was asked of the first images only has that many predictions. Two attacks are held against each other on the
    images that both have: `together`.
    """

    network: str
    data: str
    eps: float
    classes: tuple[str, ...]
    labels: Int[Tensor, " n"]
    predictions: Mapping[str, Int[Tensor, " first"]]
    attacks: Mapping[str, Any] = field(default_factory=dict)  # settings of each attack, for the tables
    provenance: Mapping[str, Any] = field(default_factory=dict)  # which images, seed, dtype, whether prepared
    traces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of PGD: steps, accuracy, loss
    reached: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # largest change, least and largest pixel

    def count(self, attack: str = NATURAL) -> int:
        """Of how many images, from the first, an attack was asked."""
        if attack not in self.predictions:
            raise unknown("evaluated attack", attack, self.predictions)
        return len(self.predictions[attack])

    def correct(self, attack: str = NATURAL) -> Bool[Tensor, " first"]:
        """Which images are right under an attack, of those that it was asked of."""
        return self.labels[: self.count(attack)] == self.predictions[attack]

    def together(self, attacks: Iterable[str] | None = None) -> Evaluation:
        """These attacks alone (all evaluated ones if None), on the images that all of them were asked of."""
        names = list(self.predictions if attacks is None else attacks)
        count = min((self.count(name) for name in names), default=len(self.labels))
        whole = [name for name in names if self.count(name) == count]  # what is known of a whole attack holds of no part of it
        return replace(
            self,
            labels=self.labels[:count],
            predictions={name: self.predictions[name][:count] for name in names},
            provenance={**self.provenance, "image_checksum": self._checksum(count)},
            traces={name: self.traces[name] for name in whole if name in self.traces},
            reached={name: self.reached[name] for name in whole if name in self.reached},
        )

    def _checksum(self, count: int) -> Any:
        """Of the first so many images; empty where it is not known."""
        if count == len(self.labels):
            return self.provenance.get("image_checksum", "")
        known = self.provenance.get(PREFIXES)
        return known.get(str(count), "") if isinstance(known, Mapping) else ""

    def worst_case(self, attacks: Iterable[str] | None = None) -> Bool[Tensor, " first"]:
        """Which images are right under all of these attacks (all evaluated ones if None), of those that all were asked of."""
        names = list(self.predictions if attacks is None else attacks)
        count = min(map(self.count, names))
        return torch.stack([self.correct(name)[:count] for name in names]).all(dim=0)

    def accuracy(self, attack: str = NATURAL) -> float:
        """Share of right images."""
        return self.correct(attack).float().mean().item()

    def balanced_accuracy(self, attack: str = NATURAL) -> float:
        """Mean of the accuracies on each class, of those that the attack was asked of any image of."""
        right = self.correct(attack)
        return mean_over_classes(right, self.labels[: len(right)])

    @property
    def unbalanced(self) -> bool:
        """Whether accuracy follows the large classes, so that the balanced one says more."""
        return unbalanced(self._class_counts())

    @property
    def guessing(self) -> float:
        """What is right by one answer to all: the largest class's share where classes are unbalanced, else one of so many."""
        counts = self._class_counts()
        return int(counts.max()) / int(counts.sum()) if self.unbalanced else 1 / len(counts)

    def _class_counts(self) -> Int[Tensor, " classes"]:
        _, counts = self.labels.long().unique(return_counts=True)
        return torch.cat([counts, counts.new_zeros(max(0, len(self.classes) - len(counts)))])

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
                    "targets": settings.get("targets"),
                    "queries": settings.get("queries"),
                    "start": settings.get("start", ""),
                    "loss": settings.get("loss", ""),
                    "engine": settings.get("engine", ""),
                    "dtype": self.provenance.get("dtype", ""),
                    "seed": self.provenance.get("seed"),
                    "image_checksum": self._checksum(len(right)),
                    "correct": int(right.sum()),
                    "images": len(right),
                    "accuracy": self.accuracy(name),
                    "low": low,
                    "high": high,
                    "balanced_accuracy": self.balanced_accuracy(name),
                }
            )
        return rows

    def compare(self, other: Evaluation, attack: str) -> Paired:
        """Image by image under the same attack. Raises WorkbookError where the two rows may not be compared."""
        mine, theirs = ({row["attack"]: row for row in each.rows()} for each in (self, other))
        for rows in (mine, theirs):
            if attack not in rows:
                raise unknown("evaluated attack", attack, rows)
        reasons = incomparable(mine[attack], theirs[attack])
        if reasons:
            raise WorkbookError(f"{self.network} and {other.network} cannot be compared under {attack}: {'; '.join(reasons)}")
        return paired(self.correct(attack), other.correct(attack))

    def save(self, path: str | Path) -> None:
        """Write labels and predictions as npz, and beside it as JSON how they were made."""
        save_arrays(path, {"labels": self.labels.numpy(), **{name: p.numpy() for name, p in self.predictions.items()}})
        write_json(Path(path).with_suffix(".json"), {name: getattr(self, name) for name in DETAILS})


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


def load_evaluation(path: str | Path, **described: Any) -> Evaluation:
    """What `Evaluation.save` wrote; `described` are the other fields. Never executes anything. Raises WorkbookError."""
    read = load_arrays(path, "labels")
    shape = read["labels"].shape
    for name, array in read.items():
        _require(path, name, array, shape if len(shape) == 1 and shape[0] else (1,), prefix=name != "labels")
    labels, details, beside = torch.from_numpy(read.pop("labels")), {}, Path(path).with_suffix(".json")
    if beside.is_file():
        details = read_json(beside)
        if not isinstance(details, dict) or not all(_is_table(details.get(name), name) for name in DETAILS):
            raise WorkbookError(f"{beside} does not say how an evaluation was made; run notebook 04 again")
    known = {name: details[name] for name in DETAILS if name in details}
    return Evaluation(labels=labels, predictions={k: torch.from_numpy(v) for k, v in read.items()}, **(known | described))


def load_transfer_matrix(path: str | Path, **described: Any) -> TransferMatrix:
    """The npz that `TransferMatrix.save` wrote; `described` are the other fields. Never executes anything."""
    read = load_arrays(path, "labels", "predictions", "sources", "targets")
    count, pairs = read["labels"].shape, (read["sources"].size, read["targets"].size)
    _require(path, "labels", read["labels"], count if len(count) == 1 and count[0] else (1,))
    _require(path, "predictions", read["predictions"], (*pairs, *count))
    return TransferMatrix(
        sources=tuple(map(str, read["sources"].flatten())),
        targets=tuple(map(str, read["targets"].flatten())),
        labels=torch.from_numpy(read["labels"]),
        predictions=torch.from_numpy(read["predictions"]),
        **described,
    )


def _require(path: str | Path, name: str, array: np.ndarray, shape: tuple[int, ...], prefix: bool = False) -> None:
    """Raise WorkbookError unless it is an array of classes of that shape, or one for the first images where that will do."""
    fits = array.shape == shape or (prefix and array.ndim == 1 and 0 < len(array) < shape[0])
    if array.dtype.kind not in "iu" or not fits:
        expected = f"whole numbers {[*shape]}, one for each image" + (" or for the first of them" if prefix else "")
        raise WorkbookError(f"{path}: expected {name} as {expected}; got {array.dtype} {[*array.shape]}")


def _is_table(value: Any, name: str) -> bool:
    """A dictionary, in all but the provenance of dictionaries (or of nothing: natural images have no settings)."""
    return isinstance(value, dict) and (
        name == "provenance" or all(each is None or isinstance(each, dict) for each in value.values())
    )
