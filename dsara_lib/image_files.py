"""Image files in folders and zip archives, read into memory by class. Nothing is written to the disk.

Two layouts: image folders, `train/<class>/<image>` and `test/<class>/<image>`, and the official one of Tiny ImageNet.
Every image becomes RGB, grey ones by three equal channels, and all must have the size of the first. The order is fixed: class
after class, by file name inside a class.

Files may come from strangers. Formats are those of `FORMATS`, which Pillow decodes itself: for others, such as EPS, it starts
programs. Sizes are known before anything is unpacked or decoded. A link in an archive is not followed; in a folder it is, since
that is how people lay out data without copying it, but to ordinary files alone: devices and pipes never end.
"""

from __future__ import annotations

import glob
import io
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path, PurePath, PureWindowsPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import WorkbookError
from .shapes import UInt8

SPLITS = ("train", "test")
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "PCX", "JPEG2000")
LARGEST_SIDE = 4096  # of an image, in pixels
LARGEST_FILE = 64 * 2**20  # bytes, unpacked
UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as all programs write; Python unpacks others without a bound

LabelledImages = tuple[Tensor, Tensor]  # uint8 [n, 3, h, w] and int64 [n]


class Folder:
    """What lies in a folder and fits one of the patterns; hidden files are passed over.

    Here and in an archive names are relative, with "/" between their parts, and those of folders end in "/".
    """

    def __init__(self, path: Path, patterns: Iterable[str]):
        self.path = path
        found = {name for pattern in patterns for name in glob.glob(pattern, root_dir=path)}
        self.names = [PurePath(name).as_posix() + "/" * (path / name).is_dir() for name in found]

    def read(self, name: str) -> bytes:
        path = self.path / name
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no ordinary file")
        require_size(found.st_size)
        return path.read_bytes()


class Archive:
    """The members of a zip archive, read in place and open as long as the stack is."""

    def __init__(self, path: Path, stack: ExitStack):
        self.path = path
        try:
            self._zip = stack.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # also of an unknown version, and misspelt names
            raise WorkbookError(f"{path} ({path.stat().st_size} bytes) is not a whole zip archive: {error}") from error
        for name in self._zip.namelist():
            if points_out(name):
                raise WorkbookError(f"{path} holds {name!r}, which points out of the archive")
        names = [name for name in self._zip.namelist() if not is_hidden(name)]
        tops = {name.split("/")[0] for name in names}
        # An archive of a whole folder holds everything below that folder's name.
        self._prefix = f"{min(tops)}/" if len(tops) == 1 and not tops & {*SPLITS, "val"} else ""
        self.names = [name.removeprefix(self._prefix) for name in names]

    def read(self, name: str) -> bytes:
        member = self._zip.getinfo(self._prefix + name)
        if member.compress_type not in UNPACKED:
            raise ValueError("it is packed in another way than zip's usual one, deflate")
        require_size(member.file_size)
        with self._zip.open(member) as file:
            return file.read(LARGEST_FILE)  # with a bound: else a member that says too little of its size is unpacked whole


Source = Folder | Archive


def is_hidden(name: str) -> bool:
    """What systems put beside the files, such as .DS_Store, and __MACOSX in archives."""
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.split("/"))


def points_out(name: str) -> bool:
    """Whether a member's name leads out of its archive, on whatever system."""
    path = PureWindowsPath(name)  # which knows drives, and both strokes
    return bool(path.anchor) or ".." in path.parts


def require_size(size: int) -> None:
    """Raise ValueError for a file that no image of a data set is."""
    if size > LARGEST_FILE:
        raise ValueError(f"it has {size:,} bytes, more than {LARGEST_FILE:,}")


class File(NamedTuple):
    """One image file, not yet read."""

    name: str
    source: Source

    def __str__(self) -> str:
        return f"{self.name} in {self.source.path}"


Classes = dict[str, list[File]]


def decode_one(file: File, formats: tuple[str, ...]) -> np.ndarray:
    """The image as RGB [h, w, 3]. `formats` says what to try, in which order."""
    from PIL import Image

    content = b""
    try:
        content = file.source.read(file.name)
        if not content:
            raise EOFError("the file is empty")
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if max(image.size) > LARGEST_SIDE:
                raise ValueError(f"it has {image.size[0]}x{image.size[1]} pixels, more than {LARGEST_SIDE} on a side")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits per channel, mode {image.mode}")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Each format of Pillow fails in its own way, and so does each fault of an archive.
        reason = " ".join(str(error).split())
        raise WorkbookError(f"{file} ({len(content)} bytes) is not a whole image of 8 bits: {reason}") from error


def decode(files: Sequence[File]) -> UInt8[Tensor, "n 3 h w"]:
    """All images, in this order, all of the size of the first."""
    from PIL import Image

    format_of = Image.registered_extensions()
    first = decode_one(files[0], FORMATS)
    height, width, _ = first.shape
    require_memory(len(files), width, height)
    images = np.empty((len(files), 3, height, width), dtype=np.uint8)
    images[0] = first.transpose(2, 0, 1)
    for i, file in enumerate(files[1:], start=1):
        # The format that the name promises comes first: otherwise Pillow tries them in turn, at twice the time.
        promised = format_of.get(PurePath(file.name).suffix.lower())
        image = decode_one(file, (promised, *FORMATS) if promised in FORMATS else FORMATS)
        if image.shape != first.shape:
            raise WorkbookError(
                f"{file} has {image.shape[1]}x{image.shape[0]} pixels; expected {width}x{height}, as {files[0]} has"
            )
        images[i] = image.transpose(2, 0, 1)
    return torch.from_numpy(images)


def require_memory(count: int, width: int, height: int) -> None:
    """Raise WorkbookError where so many images do not fit this machine; where it does not tell its memory, do nothing."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    needed, there = 3 * count * width * height, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise WorkbookError(
            f"{count:,} images of {width}x{height} pixels take {needed / 1e9:,.0f} GB, more than the {there / 1e9:,.0f} GB of "
            "memory here; take fewer with a limit on the images of each class"
        )


def read_splits(train: Classes, test: Classes, limit: int | None) -> tuple[LabelledImages, LabelledImages]:
    """Decode both splits, labels in the order of `train`'s classes; of each class the first `limit` files by name."""
    files: list[File] = []
    labels: list[int] = []
    for split, by_class in zip(SPLITS, (train, test), strict=True):
        for label, name in enumerate(train):
            in_order = sorted(by_class[name], key=lambda file: file.name)
            if not in_order:
                raise WorkbookError(f"class {name} has no {split} images")
            for one, other in pairwise(in_order):
                if one.name == other.name:
                    raise WorkbookError(f"{one.name} stands in {one.source.path} and again in {other.source.path}")
            files += in_order[:limit]
            labels += [label] * len(in_order[:limit])
        if split == "train":
            num_train = len(files)
    # Together, so that both splits are held to one image size.
    images, targets = decode(files), torch.tensor(labels)
    return (images[:num_train], targets[:num_train]), (images[num_train:], targets[num_train:])


# ------------------------------------------------------------------------------------------------------- image folders


def read_image_folders(paths: str, limit: int | None = None) -> tuple[tuple[str, ...], LabelledImages, LabelledImages]:
    """(class names, train, test) of `train/<class>/<image>` and `test/<class>/<image>`.

    `paths` is a folder, a zip archive, a folder of zip archives, a pattern such as `cifar10-*.zip`, or several of
    these with commas between them; what they hold is put together.
    """
    train: Classes = {}
    test: Classes = {}
    with ExitStack() as stack:
        classes_of: dict[Path, set[str]] = {}
        for path in expand(paths):
            is_archive = path.is_file()
            source = Archive(path, stack) if is_archive else Folder(path, [f"{s}/{p}" for s in SPLITS for p in ("*", "*/*")])
            classes_of[path] = sort_into_classes(source, {"train": train, "test": test})
        check_classes(train, test, classes_of)
        train = dict(sorted(train.items()))
        return tuple(train), *read_splits(train, test, limit)


def expand(paths: str) -> list[Path]:
    """The folders and archives that `paths` means, each once."""
    found: list[Path] = []
    for text in [paths] if Path(paths).exists() else paths.split(","):
        path = Path(text.strip()).expanduser()
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            raise FileNotFoundError(f"there is no file or folder {path}")
        for match in matches:
            is_tree = match.is_file() or any((match / split).is_dir() for split in SPLITS)
            inside = [match] if is_tree else sorted(match.glob("*.zip"))
            if not inside:
                raise FileNotFoundError(f"{match} holds neither train/<class>/<image>, test/<class>/<image> nor zip archives")
            found += inside
    return list({path.resolve(): path for path in found}.values())


def sort_into_classes(source: Source, splits: Mapping[str, Classes]) -> set[str]:
    """Add the source's files to the classes of their split; the classes that it holds."""
    classes = set()
    for name in source.names:
        match name.split("/"):
            case [split, class_name, image] if split in splits:
                classes.add(class_name)
                files = splits[split].setdefault(class_name, [])
                if image:  # "train/cat/" is the folder itself: it says that there is such a class
                    files.append(File(name, source))
            case [split, _, _, *_] if split in splits:
                raise WorkbookError(f"{File(name, source)} lies deeper than {split}/<class>/<image>")
    if not classes:
        raise WorkbookError(f"{source.path} holds neither train/<class>/<image> nor test/<class>/<image>")
    return classes


def check_classes(train: Classes, test: Classes, classes_of: Mapping[Path, set[str]]) -> None:
    """Both splits have the same classes, and so have all sources: else two data sets would pass for one."""
    for split, by_class in zip(SPLITS, (train, test), strict=True):
        if not by_class:
            raise WorkbookError(f"{', '.join(map(str, classes_of))} holds no {split}/<class>/<image>")
    if train.keys() != test.keys():
        raise WorkbookError(f"the classes of train and test differ: {difference('train', train, 'test', test)}")
    (first, expected), *others = classes_of.items()
    for path, classes in others:
        if classes != expected:
            raise WorkbookError(
                f"{first} and {path} have different classes, so they are not one data set: "
                f"{difference(first.name, expected, path.name, classes)}"
            )


def difference(one_name: str, one: Iterable[str], other_name: str, other: Iterable[str]) -> str:
    """ "only train has cat, dog", at most five names a side."""
    sides = ((one_name, sorted({*one} - {*other})), (other_name, sorted({*other} - {*one})))
    return "; ".join(
        f"only {name} has {', '.join(extra[:5])}" + f" and {len(extra) - 5} more" * (len(extra) > 5)
        for name, extra in sides
        if extra
    )


# -------------------------------------------------------------------------------------------------------- Tiny ImageNet


def read_tiny_imagenet(root: str, limit: int | None = None) -> tuple[tuple[str, ...], LabelledImages, LabelledImages]:
    """(class names, train, test). The official test images have no labels: here the validation images are the test."""
    with ExitStack() as stack:
        source = find_tiny_imagenet(Path(root), stack)
        wnids = read_text(source, "wnids.txt").split()
        words = dict(read_table(source, "words.txt"))
        wnid_of = dict(read_table(source, "val/val_annotations.txt"))
        train: Classes = {wnid: [] for wnid in wnids}
        test: Classes = {wnid: [] for wnid in wnids}
        for name in source.names:
            match name.split("/"):
                case ["train", wnid, "images", image] if image:
                    by_class = train
                case ["val", "images", image] if image:
                    if image not in wnid_of:
                        raise WorkbookError(f"{File(name, source)} has no line in val_annotations.txt")
                    by_class, wnid = test, wnid_of.pop(image)
                case _:
                    continue
            if wnid not in by_class:
                raise WorkbookError(f"{File(name, source)} is of class {wnid}, which wnids.txt does not name")
            by_class[wnid].append(File(name, source))
        if wnid_of:
            raise FileNotFoundError(f"{source.path} lacks val/images/{min(wnid_of)}, which val_annotations.txt names")
        splits = read_splits(train, test, limit)
    # A line of words.txt gives synonyms, the usual word first: "goldfish, Carassius auratus".
    return tuple(words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids), *splits


def find_tiny_imagenet(root: Path, stack: ExitStack) -> Source:
    """The folder or archive itself, or the one that lies in `root`."""
    if root.is_file():
        return Archive(root, stack)
    for folder in (root / "tiny-imagenet-200", root):
        if (folder / "wnids.txt").is_file():
            return Folder(folder, ["train/*/images/*", "val/images/*"])
    for path in (root / "tiny-imagenet-200.zip", *sorted(root.glob("tiny-imagenet-200*.zip"))):
        if path.is_file():
            return Archive(path, stack)
    raise FileNotFoundError(
        f"Tiny ImageNet is not in {root.resolve()}; put tiny-imagenet-200.zip, or the folder it holds, into that folder"
    )


def read_text(source: Source, name: str) -> str:
    try:
        return source.read(name).decode()
    except (KeyError, OSError) as error:
        raise FileNotFoundError(f"{source.path} lacks {name}, a part of Tiny ImageNet") from error
    except Exception as error:  # zipfile and zlib raise many kinds for a damaged member
        raise WorkbookError(f"{name} in {source.path} is not readable text: {error}") from error


def read_table(source: Source, name: str) -> list[tuple[str, str]]:
    """The first two columns of a table with tabs."""
    rows = [line.split("\t") for line in read_text(source, name).splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise WorkbookError(f"line {number} of {name} in {source.path} has no tab; got {row[0]!r}")
    return [(row[0], row[1]) for row in rows]
