"""Image files in folders and zip archives, read into memory by class. Nothing is written to the disk.

Two layouts: image folders, `train/<class>/<image>` and `test/<class>/<image>`, and the official one of Tiny ImageNet. What becomes
of a file's pixels stands in `pixels.py`. Images are grey, of one channel, where every file is stored as grey; else RGB, the grey
ones among them by three equal channels. All must be square and of the size of the first, or `Reading.size` brings them to one.
The order is fixed: class after class, by file name inside a class.

Files may come from strangers; see also `pixels.py`. How large a file is is known before anything is unpacked. A link in an archive
is not followed; in a folder it is, since that is how people lay out data without copying it, but to ordinary files alone: devices
and pipes never end.
"""

from __future__ import annotations

import glob
import os
import stat
import warnings
import zipfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath, PureWindowsPath
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import WorkbookError
from .pixels import FORMATS, decoded
from .places import split_paths
from .shapes import UInt8

SPLITS = ("train", "test")
LARGEST_FILE = 64 * 2**20  # bytes, unpacked
UNPACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # as all programs write; Python unpacks others without a bound
SIZES = (8, 224)  # that images can be brought to, least and most
LITTER = ("thumbs.db", "desktop.ini")  # of systems, beside the files of people
NAMED = 20  # files that a sentence names
HOW_TO_SIZE = f"images of other sizes are brought to one by a size from {SIZES[0]} to {SIZES[1]}: --size 64, SIZE in a notebook"
HOW_TO_SKIP = "mend them, or leave them out by --skip-unreadable, SKIP_UNREADABLE in a notebook"
THREADS = 4  # that decode at once; Pillow lets others run meanwhile
TOGETHER = 8  # files that a thread takes at once: for one small image the way to the thread and back costs as much as decoding it

LabelledImages = tuple[Tensor, Tensor]  # uint8 [n, c, h, w] and int64 [n]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which image files are read, and what is made of them. Raises WorkbookError."""

    limit: int | None = None  # images of each class: the first by name
    size: int | None = None  # width and height that each image is brought to, see `pixels.py`; None where all have one
    colour: bool = False  # three channels also where every file is stored as grey
    skip_unreadable: bool = False  # leave out what is no whole image

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise WorkbookError(f"limit is the number of images per class, at least 1; got {self.limit}")
        if self.size is not None and not SIZES[0] <= self.size <= SIZES[1]:
            raise WorkbookError(f"size is the width and height to bring images to, {SIZES[0]} to {SIZES[1]}; got {self.size}")


READING = Reading()


class Pictures(NamedTuple):
    """What was read, and the names of the files that were left out."""

    classes: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages
    skipped: tuple[str, ...] = ()


class Folder:
    """What lies in a folder and fits one of the patterns; hidden files are passed over.

    Here and in an archive names are relative, with "/" between their parts, and those of folders end in "/".
    """

    def __init__(self, path: Path, patterns: Iterable[str]):
        self.path = path
        found = {name for pattern in patterns for name in glob.glob(pattern, root_dir=path)}
        plain = [PurePath(name).as_posix() + "/" * (path / name).is_dir() for name in found]
        self.names = [name for name in plain if not is_hidden(name)]

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
        self._lock = Lock()  # zipfile counts its readers without one
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
        with self._lock, self._zip.open(member) as file:
            return file.read(LARGEST_FILE)  # with a bound: else a member that says too little of its size is unpacked whole


Source = Folder | Archive


def is_hidden(name: str) -> bool:
    """What systems put beside the files, such as .DS_Store and Thumbs.db, and __MACOSX in archives."""
    parts = name.split("/")
    return parts[-1].lower() in LITTER or any(part.startswith((".", "__MACOSX")) and part != ".." for part in parts)


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


class Fault(NamedTuple):
    """Why a file is not read. No exception: those keep alive what was read until then."""

    file: File
    sentence: str


def decode_one(file: File, formats: tuple[str, ...], size: int | None = None) -> np.ndarray | Fault:
    """The image, grey [h, w] or RGB [h, w, 3]. `formats` says what to try, in which order."""
    content = b""
    try:
        content = file.source.read(file.name)
        return decoded(content, formats, size)
    except MemoryError as error:  # says nothing of the file
        raise WorkbookError(f"the memory here does not suffice to read {file} ({len(content)} bytes)") from error
    except Exception as error:  # Each format of Pillow fails in its own way, and so does each fault of an archive.
        reason = " ".join(str(error).split())
        return Fault(file, f"{file} ({len(content)} bytes) is not a whole image that can be read: {reason}")


def decode_each(files: Sequence[File], size: int | None) -> Generator[np.ndarray | Fault]:
    """Every image in this order, as it is asked for. Several threads work a little ahead; what comes does not depend on them."""
    from PIL import Image

    format_of = Image.registered_extensions()

    def some(part: Sequence[File]) -> list[np.ndarray | Fault]:
        # The format that the name promises comes first: otherwise Pillow tries them in turn, at twice the time.
        promised = [format_of.get(PurePath(file.name).suffix.lower()) for file in part]
        formats = [(name, *FORMATS) if name in FORMATS else FORMATS for name in promised]
        return [decode_one(file, each, size) for file, each in zip(part, formats, strict=True)]

    ahead: deque[Future[list[np.ndarray | Fault]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(files), TOGETHER):
            if len(ahead) > THREADS:
                yield from ahead.popleft().result()
            ahead.append(pool.submit(some, files[start : start + TOGETHER]))
        while ahead:
            yield from ahead.popleft().result()


class Stack:
    """Images one upon another, with one channel until the first colour image comes."""

    def __init__(self, count: int, reading: Reading):
        self._room, self._reading, self._count = count, reading, 0
        self._images = np.empty((0, 0, 0, 0), dtype=np.uint8)

    def add(self, image: np.ndarray, file: File) -> None:
        """Raises WorkbookError for an image of another size."""
        height, width = image.shape[:2]
        channels = 3 if image.ndim == 3 or self._reading.colour else 1
        if not self._count:
            self._begin(file, width, height, channels)
        elif (height, width) != self._images.shape[2:]:
            expected = f"{self._images.shape[3]}x{self._images.shape[2]}, as {self._first} has"
            raise WorkbookError(f"{file} has {width}x{height} pixels; expected {expected}; {HOW_TO_SIZE}")
        elif channels > self._images.shape[1]:
            require_memory(self._room, width, height)
            grey, self._images = self._images, np.empty((self._room, 3, height, width), dtype=np.uint8)
            self._images[: self._count] = grey[: self._count]
        self._images[self._count] = image.transpose(2, 0, 1) if image.ndim == 3 else image
        self._count += 1

    def _begin(self, file: File, width: int, height: int, channels: int) -> None:
        if width != height:
            raise WorkbookError(f"{file} has {width}x{height} pixels; expected square images; {HOW_TO_SIZE}")
        require_memory(self._room, width, height, channels)
        self._first, self._images = file, np.empty((self._room, channels, height, width), dtype=np.uint8)

    def whole(self) -> UInt8[Tensor, "n c h w"]:
        """All that were added."""
        return torch.from_numpy(self._images[: self._count])


def decode(files: Sequence[File], reading: Reading) -> tuple[UInt8[Tensor, "n c h w"], list[Fault]]:
    """All images that can be read, in this order, and what is wrong with the others. Raises WorkbookError."""
    stack, faults = Stack(len(files), reading), list[Fault]()
    with warnings.catch_warnings(), closing(decode_each(files, reading.size)) as done:
        warnings.simplefilter("ignore")  # of EXIF data and the like in strangers' files
        for file, image in zip(files, done, strict=True):
            if isinstance(image, Fault):
                faults.append(image)
            else:
                stack.add(image, file)
    if faults and not reading.skip_unreadable:
        what = f"{len(faults)} of {len(files):,} files cannot be read; {HOW_TO_SKIP}: "
        raise WorkbookError(what + few([fault.sentence for fault in faults], "; "))
    return stack.whole(), faults


def few(texts: Sequence[str], between: str = ", ") -> str:
    """The first of them, and how many more there are."""
    return between.join(texts[:NAMED]) + f"{between}and {len(texts) - NAMED:,} more" * (len(texts) > NAMED)


def require_memory(count: int, width: int, height: int, channels: int = 3) -> None:
    """Raise WorkbookError where so many images do not fit this machine; where it does not tell its memory, do nothing."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    needed, there = channels * count * width * height, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise WorkbookError(
            f"{count:,} images of {width}x{height} pixels take {needed / 1e9:,.0f} GB, more than the {there / 1e9:,.0f} GB of "
            "memory here; take fewer with a limit on the images of each class, or a smaller size"
        )


class Place(NamedTuple):
    """Where an image belongs."""

    is_test: bool
    label: int


def in_order(train: Classes, test: Classes, limit: int | None) -> Iterator[tuple[File, Place]]:
    """The files to read, of each class the first by name; labels in the order of `train`'s classes."""
    for is_test, by_class in enumerate((train, test)):
        for label, name in enumerate(train):
            files = sorted(by_class[name], key=lambda file: file.name)
            if not files:
                raise WorkbookError(f"class {name} has no {SPLITS[is_test]} images")
            for one, other in pairwise(files):
                if one.name == other.name:
                    raise WorkbookError(f"{one.name} stands in {one.source.path} and again in {other.source.path}")
            yield from ((file, Place(bool(is_test), label)) for file in files[:limit])


def read_splits(names: tuple[str, ...], train: Classes, test: Classes, reading: Reading) -> Pictures:
    """Decode both splits; `names` are those of `train`'s classes."""
    place_of = dict(in_order(train, test, reading.limit))
    images, faults = decode(list(place_of), reading)  # together, so that both splits are held to one image size
    unread = {fault.file: place_of.pop(fault.file) for fault in faults}
    for is_test, label in sorted({*unread.values()} - {*place_of.values()}):
        why = few([fault.sentence for fault in faults if unread[fault.file] == (is_test, label)], "; ")
        raise WorkbookError(f"class {names[label]} has no {SPLITS[is_test]} images that can be read: {why}")
    labels = torch.tensor([place.label for place in place_of.values()])
    num_train = sum(not place.is_test for place in place_of.values())
    train_part, test_part = ((images[part], labels[part]) for part in (slice(num_train), slice(num_train, None)))
    return Pictures(names, train_part, test_part, tuple(file.name for file in unread))


# ------------------------------------------------------------------------------------------------------- image folders


def read_image_folders(paths: str, reading: Reading = READING) -> Pictures:
    """What lies in `train/<class>/<image>` and `test/<class>/<image>`.

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
        return read_splits(tuple(train), train, test, reading)


def expand(paths: str) -> list[Path]:
    """The folders and archives that `paths` means, each once."""
    found: list[Path] = []
    for text in split_paths(paths):
        path = Path(text).expanduser()
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
            raise WorkbookError(
                f"{', '.join(map(str, classes_of))} holds no {split}/<class>/<image>; parts are called train and test"
            )
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


def read_tiny_imagenet(root: str, reading: Reading = READING) -> Pictures:
    """The official test images have no labels: here the validation images are the test."""
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
        # A line of words.txt gives synonyms, the usual word first: "goldfish, Carassius auratus".
        names = tuple(words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids)
        return read_splits(names, train, test, reading)


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
