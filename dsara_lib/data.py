"""Data sets, their splits, and the batches that search and training draw from them.

A data set is two splits of uint8 images in memory, and what belongs to it: attack radius, augmentation, learning rate.
To add one, write a loader that returns (class names, training split, test split) and give it a line in `DATASETS`.
Images become floats in [0, 1] only as batches; nothing is normalised here, so eps always means pixels (Section 5.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import WorkbookError, unknown
from .image_files import Pictures, Reading, few, read_image_folders, read_tiny_imagenet
from .shapes import Float, Int, UInt8
from .streaming import memory_of, stays_on_host, stream

MOST_IMAGES = 2**62  # of a class: all there are
IMAGES_AT_ONCE = 1024  # where many are looked at
PHOTOGRAPH_EPS = 8 / 255  # the paper's radius on all its data sets (Section 5.3)


# ------------------------------------------------------------------------------------------------ splits and data sets


class Split:
    """Images with their labels; both are handed out on one device.

    A `part` shares the bytes of what it is taken from: it holds the places of its images there, and `images` gathers them each
    time. Many images are therefore asked for `in_batches`. Places and labels lie on the host, where order is drawn.
    """

    def __init__(self, *, images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"]):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise WorkbookError(f"expected uint8 images [n, c, h, w]; got {images.dtype} {[*images.shape]}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} {[*labels.shape]}"
            raise WorkbookError(f"expected {len(images)} int64 labels, one for each image; got {got}")
        self._stored, self._labels, self._device = images, labels.cpu(), images.device
        self._places: Tensor | None = None  # of the images among those stored; these themselves for None
        self._streams = False

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def images(self) -> UInt8[Tensor, "n c h w"]:
        """All of them, on the device."""
        return self._gathered().to(self._device)

    @property
    def images_on_host(self) -> UInt8[Tensor, "n c h w"]:
        """The same on the CPU; nothing is brought to a device and back."""
        return self._gathered().cpu()

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Theirs, on the device."""
        return self._labels.to(self._device)

    @property
    def labels_on_host(self) -> Int[Tensor, " n"]:
        """The same on the CPU, without waiting for the device."""
        return self._labels

    @property
    def device(self) -> torch.device:
        """Where images and labels are handed out."""
        return self._device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self._stored.shape[1:]
        return channels, height, width

    @property
    def placement(self) -> str:
        """In words, where the images lie."""
        if not self._streams:
            return f"images in the memory of {self._device}"
        return f"images stay on the host and stream to {self._device}, of whose memory they would take more than a tenth"

    def to(self, device: str | torch.device) -> Split:
        """The same split for work on that device. Images that are too many for its memory stay on the host and stream to it."""
        device = torch.empty(0, device=device).device  # with its number
        num_bytes = len(self) * math.prod(self.image_shape)
        if self._stored.device.type == "cpu" and stays_on_host(num_bytes, memory_of(device)):
            return self._changed(_device=device, _streams=True)
        if device == self._stored.device:
            return self if device == self._device else self._changed(_device=device, _streams=False)
        return self._changed(_stored=self._gathered().to(device), _device=device, _places=None, _streams=False)

    def subset(self, indices: Int[Tensor, " m"]) -> Split:
        """A copy of the images at these indices, in their order; the same split where these are all in order."""
        indices = indices.cpu()
        if torch.equal(indices, torch.arange(len(self))):
            return self
        part = self.part(indices)
        return part._changed(_stored=part._gathered(), _places=None)

    def part(self, indices: Int[Tensor, " m"]) -> Split:
        """The images at these indices, in their order, which share the bytes of this split."""
        indices = indices.cpu()
        return self._changed(_labels=self._labels.index_select(0, indices), _places=self._at(indices))

    def take(self, indices: Int[Tensor, " m"]) -> tuple[UInt8[Tensor, "m c h w"], Int[Tensor, " m"]]:
        """Images and labels at these indices, on the device."""
        return next(self.in_batches(indices, max(1, len(indices))))

    def first(self, count: int) -> tuple[UInt8[Tensor, "m c h w"], Int[Tensor, " m"]]:
        """So many of the first images with their labels, or all where there are fewer."""
        return self.take(torch.arange(min(count, len(self))))

    def in_batches(self, order: Int[Tensor, " m"], batch_size: int) -> Iterator[tuple[UInt8[Tensor, "n c h w"], Int[Tensor, " n"]]]:
        """Images and labels in that order, so many at a time, on the device, for which nothing waits in between."""
        order = order.cpu()
        labels = self._labels.index_select(0, order).to(self._device).split(batch_size)
        places = self._at(order)
        if self._streams:
            return zip(stream(self._stored, places.split(batch_size), self._device), labels, strict=True)
        # On the CPU 20 times faster than images[places].
        images = (self._stored.index_select(0, at) for at in places.to(self._stored.device).split(batch_size))
        return zip(images, labels, strict=True)

    def _at(self, indices: Tensor) -> Tensor:
        return indices if self._places is None else self._places.index_select(0, indices)

    def _gathered(self) -> Tensor:
        """The images where they are stored."""
        return self._stored if self._places is None else self._stored.index_select(0, self._places.to(self._stored.device))

    def _changed(self, **changes: Any) -> Split:
        other = copy(self)
        vars(other).update(changes)
        return other


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """Training and test images of the same classes and size, with the settings that belong to them."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    eps: float
    crop_padding: int
    flip: bool
    learning_rate: float = 0.1
    skipped: tuple[str, ...] = ()  # files that could not be read and were left out
    limit: int | None = None  # images of each class that were taken at most; None for all

    def __post_init__(self):
        if len(self.classes) < 2:
            raise WorkbookError(f"{self.name} has {len(self.classes)} class, {self.classes}; expected at least two")
        shapes = [split.image_shape for split in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise WorkbookError(f"{self.name} has training images {shapes[0]} but test images {shapes[1]}")
        if shapes[0][1] != shapes[0][2]:
            raise WorkbookError(f"{self.name} has images of {_pixels(shapes[0])}; expected square ones")
        for what, labels in (("training", self.train.labels_on_host), ("test", self.test.labels_on_host)):
            if not len(labels):
                raise WorkbookError(f"{self.name} has no {what} images")
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= len(self.classes):
                raise WorkbookError(f"{self.name} has {what} labels {least} to {most}; expected 0 to {len(self.classes) - 1}")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def channels(self) -> int:
        return self.train.image_shape[0]

    @property
    def image_size(self) -> int:
        return self.train.image_shape[1]

    @property
    def augmentation(self) -> Augmentation:
        """What the paper does to training images: crop and flip."""
        return Augmentation(self.crop_padding, self.flip)

    def to(self, device: str | torch.device) -> DataSet:
        """The same data set on that device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training images in [0, 1]."""
        levels = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        # Counting the 256 levels is exact, part by part, and needs no copy of the images.
        counts = torch.zeros(self.channels, 256, dtype=torch.int64)
        for images, _ in self.train.in_batches(torch.arange(len(self.train)), IMAGES_AT_ONCE):
            counts += torch.stack([torch.bincount(each.flatten(), minlength=256) for each in images.unbind(dim=1)]).cpu()
        for count in counts:
            weights = count / count.sum()
            mean = (weights * levels).sum()
            means.append(mean.item())
            deviations.append((weights * (levels - mean) ** 2).sum().sqrt().item())
        return tuple(means), tuple(deviations)

    def _limited(self) -> list[str]:
        """A line of the summary where there may be more images than were taken."""
        largest = max(int(torch.bincount(split.labels_on_host).max()) for split in (self.train, self.test))
        if self.limit is None or largest < self.limit:
            return []
        return [f"limit         the first {self.limit:,} images of a class, whether there are more or not (LIMIT, --limit)"]

    def summary(self) -> str:
        """What a reader wants to know of the data, in a few lines."""
        means, deviations = (" ".join(f"{value:.4f}" for value in values) for values in self.channel_statistics())
        skipped = [f"skipped       {len(self.skipped):,} unreadable files: {few(self.skipped)}"] if self.skipped else []
        crop = f"random crop after zero padding of {self.crop_padding}" if self.crop_padding else "no crop"
        return "\n".join(
            [
                f"{self.name}: {self.num_classes} classes, {_pixels(self.train.image_shape)}",
                f"training      {_counts(self.train, self.classes)}",
                f"test          {_counts(self.test, self.classes)}",
                *self._limited(),
                *skipped,
                f"channels      mean {means}, standard deviation {deviations} (training images in [0, 1])",
                f"attack        linf, eps {eps_text(self.eps)}",
                f"augmentation  {crop}, {'horizontal flip' if self.flip else 'no flip'}",
            ]
        )


def eps_text(eps: float) -> str:
    """The radius as people write it: "8/255" in grey levels where those are whole, "0.2" where that is shorter."""
    short, levels = f"{eps:.4g}", round(eps * 255)
    is_whole, is_short = abs(eps * 255 - levels) < 1e-9, abs(eps - float(short)) < 1e-12
    return f"{levels}/255" if is_whole and not is_short else short


def _pixels(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels, {channels} channel{'s' if channels > 1 else ''}"


def _counts(split: Split, classes: Sequence[str]) -> str:
    """Such as "5,000 images: 10 classes x 500"; unequal counts are listed where they are few, else as a range."""
    counts = torch.bincount(split.labels_on_host, minlength=len(classes)).tolist()
    total = f"{len(split):,} images: "
    least, most = min(counts), max(counts)
    if least == most:
        return f"{total}{len(classes)} classes x {least:,}"
    if len(classes) <= 12:
        return total + ", ".join(f"{name} {count:,}" for name, count in zip(classes, counts, strict=True))
    return f"{total}{len(classes)} classes, {least:,} to {most:,} images each"


def _rank_in_class(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """For each image, how many of its class stand before it."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return rank


def hold_out(split: Split, fraction: float, generator: torch.Generator) -> tuple[Split, Split]:
    """(kept, held): disjoint parts of the split; `held` has that fraction of each class, to within one image.

    Of a fraction below a half no class is held as a whole. Raises WorkbookError where one part would be empty.
    """
    if not 0 < fraction < 1:
        raise WorkbookError(f"the fraction to hold out lies between 0 and 1; got {fraction}")
    labels = split.labels_on_host
    order = torch.randperm(len(split), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    # Shuffled inside each class and class after class, every 1/fraction-th image is held. Without the small number,
    # 100 * 0.29 = 28.999... would hold out 28.
    quota = (torch.arange(len(split) + 1, dtype=torch.float64) * fraction + 1e-9).floor()
    is_held = quota[1:] > quota[:-1]
    if fraction < 0.5:  # then a class that would be held as a whole has one image
        is_held &= torch.bincount(labels)[labels[order]] > 1
    if is_held.all() or not is_held.any():
        raise WorkbookError(
            f"holding out {fraction:g} of {len(split)} images leaves one part empty; give more images, or another part"
        )
    kept, held = order[~is_held].sort().values, order[is_held].sort().values
    return split.part(kept), split.part(held)


def halves(split: Split, generator: torch.Generator) -> tuple[Split, Split]:
    """Two disjoint halves with the same classes: weights learn on the first, alphas on the second (Section 5.3)."""
    return hold_out(split, 0.5, generator)


def sample(split: Split, count: int | None, generator: torch.Generator) -> Split:
    """So many of the images in their order, the same share of each class; all of them for None, and where there are no more."""
    return split if count is None or count >= len(split) else hold_out(split, count / len(split), generator)[1]


# -------------------------------------------------------------------------------------------- augmentation and batches


def unit_interval(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Pixels as floats in [0, 1], the same bits on every device."""
    # Divided by a tensor: CUDA multiplies by the rounded reciprocal of a plain number.
    return images.float() / torch.full((), 255.0, device=images.device)


@dataclass(frozen=True)
class Augmentation:
    """Each image on its own: zero padding and a random crop back to its size, then a flip with probability 1/2."""

    crop_padding: int
    flip: bool

    def __post_init__(self):
        if self.crop_padding < 0:
            raise WorkbookError(f"crop_padding is a number of pixels, at least 0; got {self.crop_padding}")

    def draw(self, num_images: int, generator: torch.Generator) -> Int[Tensor, "n 3"]:
        """Top and left corner of the crop, and whether to flip, for each image. The draw is on the CPU."""
        corners = torch.randint(0, 2 * self.crop_padding + 1, (num_images, 2), generator=generator)
        flips = torch.randint(0, 1 + self.flip, (num_images, 1), generator=generator)
        return torch.cat([corners, flips], dim=1)

    def apply(self, images: UInt8[Tensor, "n c h w"], drawn: Int[Tensor, "n 3"]) -> UInt8[Tensor, "n c h w"]:
        """Crop and flip as drawn; `drawn` lies on the images' device."""
        n, channels, height, width = images.shape
        padded = F.pad(images, (self.crop_padding,) * 4)
        top, left, flip = drawn.unsqueeze(-1).unbind(dim=1)
        columns = torch.arange(width, device=images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.where(flip > 0, width - 1 - columns, columns)
        pixels = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)  # [n, h, w], where each pixel comes from
        # One gather over flat pixels: 3 to 6 times faster than indexing with rows and columns.
        pixels = pixels.view(n, 1, height * width).expand(n, channels, height * width)
        return padded.flatten(2).gather(2, pixels).view_as(images)

    def __call__(self, images: UInt8[Tensor, "n c h w"], generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
        """Augmented images; the generator is on the CPU, so that every device sees the same."""
        return self.apply(images, self.draw(len(images), generator).to(images.device))


class Batches:
    """Shuffled batches of a split: each `iter()` is one pass that sees each image once.

    All that is random in a pass is drawn from the caller's CPU generator when the pass begins. The same generator state
    gives the same bits on every device, and between the batches of a pass nothing waits for the device.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
        drop_last: bool = False,
    ):
        if batch_size < 1:
            raise WorkbookError(f"batch_size is at least 1; got {batch_size}")
        if generator.device.type != "cpu":
            raise WorkbookError(f"batches are drawn with a generator on the CPU; got one on {generator.device}")
        if len(split) < (batch_size if drop_last else 1):
            raise WorkbookError(f"{len(split)} images do not fill one batch of {batch_size}")
        self.split, self.batch_size, self.generator = split, batch_size, generator
        self.augmentation, self.drop_last = augmentation, drop_last

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return (len(self.split) if self.drop_last else len(self.split) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]]:
        order = torch.randperm(len(self.split), generator=self.generator)
        drawn = None
        if self.augmentation is not None:
            drawn = self.augmentation.draw(len(self.split), self.generator).to(self.split.device)
        batches = self.split.in_batches(order[: len(self) * self.batch_size], self.batch_size)
        return (self._batch(images, labels, drawn, i * self.batch_size) for i, (images, labels) in enumerate(batches))

    def _batch(self, images: Tensor, labels: Tensor, drawn: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
        if self.augmentation is not None and drawn is not None:
            images = self.augmentation.apply(images, drawn[start : start + len(images)])
        return unit_interval(images), labels


# ------------------------------------------------------------------------------------------------------------- loaders


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a loader finds."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    skipped: tuple[str, ...] = ()  # names of files that were left out


def _digits(root: str, reading: Reading, download: bool) -> Parts:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn; every fifth of a class is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise WorkbookError("the data set digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    grey = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    everything = Split(images=grey.unsqueeze(1).repeat(1, 3, 1, 1), labels=labels)
    is_test = _rank_in_class(labels) % 5 == 4
    classes = tuple(str(name) for name in bunch.target_names)
    train, test = (everything.subset(part.nonzero().flatten()) for part in (~is_test, is_test))
    return Parts(classes=classes, train=train, test=test)


def _obtain(make: Callable[[bool], Any], files: str, root: str, download: bool) -> tuple[Any, Any]:
    """(training, test) as torchvision reads them, or one sentence that says where the files may be put."""
    try:
        return make(True), make(False)
    except (OSError, RuntimeError, HTTPException) as error:
        why = f"could not be downloaded ({' '.join(str(error).split())})" if download else "download is off"
        raise FileNotFoundError(
            f"no whole {files} in {Path(root).resolve()}, and {why}; put it there, or read image files as folder:PATH"
        ) from error


def _cifar(kind: str, packed: str, unpacked: str, root: str, reading: Reading, download: bool) -> Parts:
    """The official files; where they are not there, image files (`as_images`); else the official files, downloaded."""
    official = any((Path(root) / name).exists() for name in (packed, unpacked))
    found = [] if official else as_images(kind.lower(), root)
    if found:
        parts = _image_folder(",".join(map(str, found)), reading, download)
        if len(parts.classes) != (count := int(kind.removeprefix("CIFAR"))):
            raise WorkbookError(f"{kind.lower()} has {count} classes; {', '.join(map(str, found))} have {len(parts.classes)}")
        return parts
    from torchvision import datasets

    make = getattr(datasets, kind)
    files = packed if download else unpacked  # torchvision unpacks only where it may download
    train, test = _obtain(lambda train: make(root, train=train, download=download), files, root, download)
    splits = [_split_of(part.data.transpose(0, 3, 1, 2), part.targets) for part in (train, test)]
    return Parts(classes=tuple(train.classes), train=splits[0], test=splits[1])


def as_images(name: str, root: str | Path) -> list[Path]:
    """Folders and zip archives in `root` that hold a data set as image files, such as cifar10/ or cifar10-train.zip."""
    found = {path for pattern in (name, f"{name}.zip", f"{name}-*") for path in Path(root).glob(pattern)}
    return sorted(path for path in found if path.is_dir() or path.suffix == ".zip")


def _svhn(root: str, reading: Reading, download: bool) -> Parts:
    from torchvision import datasets

    train, test = _obtain(
        lambda train: datasets.SVHN(root, split="train" if train else "test", download=download),
        "train_32x32.mat and test_32x32.mat",
        root,
        download,
    )
    # In the files the digit 0 has the label 10; torchvision has made it 0.
    splits = [_split_of(part.data, part.labels) for part in (train, test)]
    return Parts(classes=tuple("0123456789"), train=splits[0], test=splits[1])


def _split_of(images: np.ndarray, labels: Any) -> Split:
    images = np.ascontiguousarray(images, dtype=np.uint8)
    return Split(images=torch.from_numpy(images), labels=torch.as_tensor(labels, dtype=torch.int64))


def _from_files(found: Pictures) -> Parts:
    train, test = (Split(images=images, labels=labels) for images, labels in (found.train, found.test))
    return Parts(classes=found.classes, train=train, test=test, skipped=found.skipped)


def _tiny_imagenet(root: str, reading: Reading, download: bool) -> Parts:
    """The official layout, from the folder or straight from the zip; the validation images are the test split."""
    return _from_files(read_tiny_imagenet(root, reading))


def _image_folder(paths: str, reading: Reading, download: bool) -> Parts:
    """`train/<class>/<image>` and `test/<class>/<image>`, spread over any number of folders and zip archives."""
    return _from_files(read_image_folders(paths, reading))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a data set is loaded, and the settings that belong to it."""

    load: Callable[[str, Reading, bool], Parts]  # (root, what of its files and how, may it download)
    eps: float = PHOTOGRAPH_EPS
    flip: bool = True
    learning_rate: float = 0.1  # at the start of retraining (Section 5.3)


DATASETS: dict[str, Entry] = {
    # 8/255 is half a grey level of these 17. The smallest radius at which nothing is left of an undefended network (LOG.md,
    # 2026-11-22: 3 convolutions, 98.9 % natural; PGD20 leaves 77 % at 0.05, 9.9 % at 0.1, 0.6 % at 0.15) is a real test.
    "digits": Entry(load=_digits, eps=0.15, flip=False),
    "cifar10": Entry(load=partial(_cifar, "CIFAR10", "cifar-10-python.tar.gz", "cifar-10-batches-py")),
    "cifar100": Entry(load=partial(_cifar, "CIFAR100", "cifar-100-python.tar.gz", "cifar-100-python")),
    "svhn": Entry(load=_svhn, flip=False, learning_rate=0.01),
    "tiny-imagenet": Entry(load=_tiny_imagenet),
}
IMAGE_FOLDER = Entry(load=_image_folder)  # the name "folder:PATH", PATH relative to the working folder


def load(
    name: str,
    *,
    root: str | Path = "data",
    limit: int | None = None,
    size: int | None = None,
    skip_unreadable: bool = False,
    colour: bool = False,
    device: str | torch.device = "cpu",
    download: bool = True,
) -> DataSet:
    """The data set of that name: one of `DATASETS`, or "folder:PATH" for image files (see `image_files.py`).

    `root` is where downloads lie, `limit` keeps that many images of each class in both splits. Of image files `size` brings each to
    size x size, `skip_unreadable` leaves out and names those that cannot be read, and `colour` keeps three channels also where all
    are grey.
    """
    reading = Reading(limit=limit, size=size, colour=colour, skip_unreadable=skip_unreadable)
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        entry, place = IMAGE_FOLDER, path
    elif name in DATASETS:
        entry, place = DATASETS[name], str(Path(root).expanduser())
    else:
        raise unknown("data set", name, [*DATASETS, "folder:PATH"])
    parts = entry.load(place, reading, download)
    splits = [parts.train, parts.test]
    if limit is not None:
        most = min(limit, MOST_IMAGES)  # a tensor is compared with no larger number
        splits = [split.subset((_rank_in_class(split.labels) < most).nonzero().flatten()) for split in splits]
    train, test = splits
    there = train.image_shape[2]
    if size not in (None, there):
        raise WorkbookError(f"{name} has {there}x{there} pixels; a size is for image files, got {size}")
    return DataSet(
        name=name,
        classes=parts.classes,
        train=train,
        test=test,
        eps=entry.eps,
        crop_padding=there // 8,  # 4 pixels for 32x32 (Section 5.3), as large a part of other sizes
        flip=entry.flip,
        learning_rate=entry.learning_rate,
        skipped=parts.skipped,
        limit=limit,
    ).to(device)
