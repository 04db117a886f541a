"""Image files in folders and zip archives: what is read, in which order, and which faults are named."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsara_lib import image_files
from dsara_lib.errors import WorkbookError
from dsara_lib.image_files import Pictures, Reading, read_image_folders, read_tiny_imagenet

ARCHIVES = Path(__file__).parents[2] / "shared" / "data"


def encoded(seed: int = 0, size: tuple[int, int] = (8, 8), format: str = "PNG", mode: str = "RGB") -> bytes:
    """A random image; lossless but for JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **({"lossless": True} if format == "WEBP" else {}))
    return buffer.getvalue()


def decoded(content: bytes) -> torch.Tensor:
    """The plain way to read an image, [3, h, w]."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


def tree_files(num_train: int = 3, num_test: int = 2, classes: tuple[str, ...] = ("cat", "ant")) -> dict[str, bytes]:
    """Names and contents of a small image folder."""
    names = [
        f"{split}/{name}/{i:02}.png"
        for split, count in (("train", num_train), ("test", num_test))
        for name in classes
        for i in range(count)
    ]
    return {name: encoded(seed) for seed, name in enumerate(names)}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def equal(one: Pictures, other: Pictures) -> bool:
    tensors = zip([*one.train, *one.test], [*other.train, *other.test], strict=True)
    return one.classes == other.classes and all(torch.equal(a, b) for a, b in tensors)


# ------------------------------------------------------------------------------------------------------- image folders


def test_images_come_class_after_class_and_by_name_whatever_the_order_of_the_files(tmp_path):
    files = tree_files()
    shuffled = dict(sorted(files.items(), key=lambda item: item[1]))
    classes, (images, labels), (test_images, test_labels), _ = read_image_folders(str(write_zip(tmp_path / "a.zip", shuffled)))
    assert classes == ("ant", "cat")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and test_labels.tolist() == [0, 0, 1, 1]
    in_order = [f"train/{name}/{i:02}.png" for name in classes for i in range(3)]
    assert torch.equal(images, torch.stack([decoded(files[name]) for name in in_order]))
    assert torch.equal(test_images[3], decoded(files["test/cat/01.png"]))


def test_a_folder_an_archive_parts_of_it_and_an_archive_of_the_folder_give_the_same(tmp_path):
    files = tree_files()
    expected = read_image_folders(str(write_folder(tmp_path / "tree", files)))
    names = [*files]
    parts = tmp_path / "parts"
    parts.mkdir()
    write_zip(parts / "train-0.zip", {name: files[name] for name in names[0:6:2]})
    write_zip(parts / "train-1.zip", {name: files[name] for name in names[1:6:2]})
    write_folder(tmp_path / "test-only", {name: files[name] for name in names[6:]})
    write_zip(parts / "test.zip", {name: files[name] for name in names[6:]})
    write_zip(tmp_path / "whole.zip", files)
    extra = {"__MACOSX/pets/train/cat/._00.png": b"x", "pets/train/.DS_Store": b"x", "pets/train/cat/": b""}
    write_zip(tmp_path / "in-folder.zip", {f"pets/{name}": content for name, content in files.items()} | extra)
    for paths in (
        f"{tmp_path}/whole.zip",
        f"{tmp_path}/in-folder.zip",
        f"{parts}",
        f"{parts}/*.zip",
        f"{parts}/train-1.zip,{parts}/train-*.zip, {parts}/test.zip",
        f"{parts}/train-?.zip,{tmp_path}/test-only",
    ):
        assert equal(read_image_folders(paths), expected), paths


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "BMP", "GIF"])
def test_every_format_is_read_as_pillow_reads_it_even_under_a_wrong_suffix(tmp_path, format):
    files = {name: encoded(seed, format=format) for seed, name in enumerate(tree_files())}
    images, _ = read_image_folders(str(write_folder(tmp_path, files))).train
    assert torch.equal(images[3], decoded(files["train/cat/00.png"]))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_grey_and_palette_images_among_colour_ones_become_rgb(tmp_path, mode):
    files = tree_files() | {"train/ant/00.png": encoded(5, mode=mode)}
    images, _ = read_image_folders(str(write_folder(tmp_path, files))).train
    assert torch.equal(images[0], decoded(files["train/ant/00.png"]))
    assert (mode not in "L1") or torch.equal(images[0, 0], images[0, 2])


def test_a_limit_reads_no_file_beyond_it(tmp_path):
    files = tree_files(num_train=4, num_test=3)
    late = {name: b"never read" for name in files if name.endswith(("02.png", "03.png"))}
    limited = Reading(limit=2)
    _, (images, labels), (_, test_labels), _ = read_image_folders(str(write_zip(tmp_path / "a.zip", files | late)), limited)
    assert labels.tolist() == test_labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(images[2], decoded(files["train/cat/00.png"]))


def test_hidden_files_of_a_folder_are_passed_over_and_linked_classes_are_read(tmp_path):
    files = tree_files()
    expected = read_image_folders(str(write_folder(tmp_path / "tree", files)))
    (tmp_path / "tree/train/cat/.DS_Store").write_bytes(b"x")
    (tmp_path / "tree/train/README.md").write_bytes(b"x")
    shutil.move(tmp_path / "tree/train/cat", tmp_path / "elsewhere")
    (tmp_path / "tree/train/cat").symlink_to(tmp_path / "elsewhere")
    assert equal(read_image_folders(str(tmp_path / "tree")), expected)


def test_a_path_with_a_comma_in_its_name_is_one_path(tmp_path):
    write_folder(tmp_path / "cats, ants", tree_files())
    assert read_image_folders(str(tmp_path / "cats, ants")).classes == ("ant", "cat")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train/cat/01.png": b""}, r"train/cat/01.png in .* \(0 bytes\) .*empty"),
        ({"train/cat/01.png": b"no image"}, r"train/cat/01.png in .* \(8 bytes\) is not a whole image"),
        ({"test/ant/01.png": encoded(1)[:60]}, r"test/ant/01.png in .* \(60 bytes\) is not a whole image"),
        (
            {"train/ant/01.jpg": encoded(1, format="JPEG")[:400]},
            r"train/ant/01.jpg in .* \(400 bytes\) is not a whole image",
        ),
        (
            {"test/ant/00.png": encoded(1, size=(9, 8))},
            r"test/ant/00.png in .* 9x8 pixels; expected 8x8, as train/ant/00.* --size",
        ),
        ({"train/dog/00.png": encoded(1)}, r"train and test differ: only train has dog"),
        ({"test/dog/00.png": encoded(1), "train/cow/00.png": encoded(2)}, r"only train has cow; only test has dog"),
        ({"train/cat/deep/00.png": encoded(1)}, r"train/cat/deep/.* lies deeper than train/<class>/<image>"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_faulty_file_is_named(tmp_path, kind, changes, sentence):
    files = tree_files() | changes
    path = write_zip(tmp_path / "a.zip", files) if kind == "zip" else write_folder(tmp_path / "a", files)
    with pytest.raises(WorkbookError, match=sentence):
        read_image_folders(str(path))


def test_an_empty_class_is_named(tmp_path):
    write_folder(tmp_path, tree_files())
    (tmp_path / "train/dog").mkdir()
    (tmp_path / "test/dog").mkdir()
    with pytest.raises(WorkbookError, match="class dog has no train images"):
        read_image_folders(str(tmp_path))


def test_a_missing_split_is_named(tmp_path):
    write_folder(tmp_path, tree_files(num_test=0))
    with pytest.raises(WorkbookError, match="holds no test/<class>/<image>"):
        read_image_folders(str(tmp_path))


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere"):
        read_image_folders(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*\*\.zip"):
        read_image_folders(str(tmp_path / "*.zip"))
    with pytest.raises(FileNotFoundError, match="holds neither"):
        read_image_folders(str(tmp_path))


def test_an_archive_without_images_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"readme.txt": b"x"})
    with pytest.raises(WorkbookError, match=r"a\.zip holds neither"):
        read_image_folders(str(path))


def test_a_cut_archive_is_named_with_its_size(tmp_path):
    path = write_zip(tmp_path / "a.zip", tree_files())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WorkbookError, match=rf"a\.zip \({path.stat().st_size} bytes\) is not a whole zip archive"):
        read_image_folders(str(path))


def test_a_damaged_member_is_named(tmp_path):
    files = tree_files()
    path = write_zip(tmp_path / "a.zip", files)
    content = bytearray(path.read_bytes())
    content[content.index(files["test/cat/00.png"]) + 70] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkbookError, match=r"test/cat/00\.png in .*CRC"):
        read_image_folders(str(path))


@pytest.mark.parametrize("name", ["../outside/train/cat/00.png", "train/../../cat/00.png", "/train/cat/00.png"])
def test_a_member_that_points_out_of_the_archive_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", tree_files() | {name: encoded(1)})
    with pytest.raises(WorkbookError, match="points out of the archive"):
        read_image_folders(str(path))


def test_the_same_image_in_two_archives_is_named(tmp_path):
    write_zip(tmp_path / "a.zip", tree_files())
    write_zip(tmp_path / "b.zip", {name: tree_files()[name] for name in ("train/cat/01.png", "train/ant/01.png")})
    with pytest.raises(WorkbookError, match=r"train/ant/01\.png stands in .* and again in"):
        read_image_folders(str(tmp_path))


def test_two_data_sets_do_not_pass_for_one(tmp_path):
    write_zip(tmp_path / "a.zip", tree_files())
    write_zip(tmp_path / "b.zip", tree_files(classes=("red", "blue")))
    with pytest.raises(WorkbookError, match=r"different classes.*only a\.zip has ant, cat; only b\.zip has blue, red"):
        read_image_folders(str(tmp_path))


# ------------------------------------------------------------------------------------------ channels, sizes, unreadable files


def read(folder: Path, files: dict[str, bytes], **reading: Any) -> Pictures:
    return read_image_folders(str(write_folder(folder, files)), Reading(**reading))


def in_mode(mode: str, **changes: bytes) -> dict[str, bytes]:
    return {name: encoded(seed, mode=mode) for seed, name in enumerate(tree_files())} | changes


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_where_every_file_is_stored_as_grey_there_is_one_channel(tmp_path, mode):
    files = {name: encoded(seed, mode="L" if mode == "I;16" else mode) for seed, name in enumerate(tree_files())}
    if mode == "I;16":
        deep = io.BytesIO()
        Image.fromarray(np.full((8, 8), 257 * 99, dtype=np.uint16)).save(deep, "PNG")
        files["train/cat/00.png"] = deep.getvalue()
    found = read(tmp_path, files)
    assert found.train[0].shape == (6, 1, 8, 8) and found.test[0].shape == (4, 1, 8, 8)
    if mode == "I;16":
        assert found.train[0][3].unique().tolist() == [99]
    three = read(tmp_path, files, colour=True)
    assert torch.equal(three.train[0], found.train[0].expand(-1, 3, -1, -1))


@pytest.mark.parametrize("name", ["train/ant/00.png", "train/cat/01.png", "test/cat/01.png"])
def test_one_colour_image_anywhere_makes_three_equal_channels_of_the_grey_ones(tmp_path, name):
    files = in_mode("L") | {name: encoded(7)}
    found = read(tmp_path, files)
    in_order = [
        f"{split}/{each}/{i:02}.png" for split, n in (("train", 3), ("test", 2)) for each in ("ant", "cat") for i in range(n)
    ]
    assert torch.equal(torch.cat([found.train[0], found.test[0]]), torch.stack([decoded(files[each]) for each in in_order]))


def test_grey_things_in_colour_files_or_with_a_palette_are_colour(tmp_path):
    for mode in ("RGB", "P"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(encoded(mode="L"))).convert(mode).save(buffer, "PNG")
        assert read(tmp_path / mode, dict.fromkeys(tree_files(), buffer.getvalue())).train[0].shape[1] == 3


def test_a_size_brings_pictures_of_every_size_together(tmp_path):
    sizes = [(8, 8), (300, 20), (20, 300), (3, 5), (100, 90), (1, 1)]
    files = {name: encoded(seed, sizes[seed % len(sizes)]) for seed, name in enumerate(tree_files())}
    found = read(tmp_path, files, size=12)
    assert found.train[0].shape == (6, 3, 12, 12) and found.test[0].shape == (4, 3, 12, 12)
    with pytest.raises(
        WorkbookError, match=r"expected .* images of other sizes are brought to one by a size from 8 to 224: --size"
    ) as e:
        read(tmp_path, files)
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("size", [0, 7, 225, -3])
def test_a_size_out_of_bounds_is_refused(size):
    with pytest.raises(WorkbookError, match=f"8 to 224; got {size}"):
        Reading(size=size)


def broken(count: int) -> dict[str, bytes]:
    """A tree of two classes with so many unreadable training files of the first, and one of the test files of the other."""
    files = tree_files(num_train=30)
    return files | {f"train/ant/{i:02}.png": b"no image" for i in range(count)} | {"test/cat/01.png": b""}


def test_all_unreadable_files_are_counted_the_first_named_and_the_way_on_is_said(tmp_path):
    with pytest.raises(WorkbookError) as caught:
        read(tmp_path, broken(22))
    told = str(caught.value)
    assert told.startswith("23 of 64 files cannot be read; mend them, or leave them out by --skip-unreadable")
    assert all(f"train/ant/{i:02}.png in {tmp_path} (8 bytes) is not a whole image" in told for i in range(20))
    assert told.endswith("; and 3 more") and len(told.splitlines()) == 1


def test_unreadable_files_are_left_out_and_named_where_that_is_asked_for(tmp_path):
    files = broken(3)
    found = read(tmp_path, files, skip_unreadable=True)
    assert found.skipped == ("train/ant/00.png", "train/ant/01.png", "train/ant/02.png", "test/cat/01.png")
    assert found.train[1].tolist() == [0] * 27 + [1] * 30 and found.test[1].tolist() == [0, 0, 1]
    assert torch.equal(found.train[0][0], decoded(files["train/ant/03.png"]))
    assert torch.equal(found.test[0][2], decoded(files["test/cat/00.png"]))
    assert read(tmp_path / "whole", tree_files(), skip_unreadable=True).skipped == ()


def test_what_systems_put_beside_pictures_is_passed_over(tmp_path):
    files = {f"train/ant/{name}": b"no image" for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._00.png")}
    plain, found = read(tmp_path / "plain", tree_files()), read(tmp_path / "found", tree_files() | files)
    assert torch.equal(plain.train[0], found.train[0])


def test_a_class_whose_files_are_all_unreadable_is_refused(tmp_path):
    with pytest.raises(WorkbookError, match=r"class ant has no train images that can be read: train/ant/00.*; and 10 more"):
        read(tmp_path, broken(30), skip_unreadable=True)
    nothing = dict.fromkeys(tree_files(), b"")
    with pytest.raises(WorkbookError, match="class ant has no train images that can be read"):
        read(tmp_path / "nothing", nothing, skip_unreadable=True)


def test_a_lack_of_memory_is_never_taken_for_an_unreadable_file(tmp_path, monkeypatch):
    def exhausted(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(image_files, "decoded", exhausted)
    with pytest.raises(WorkbookError, match="the memory here does not suffice"):
        read(tmp_path, tree_files(), skip_unreadable=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_read_does_not_depend_on_the_threads(tmp_path, monkeypatch, threads):
    files = tree_files(num_train=40)
    write_zip(tmp_path / "a.zip", files)
    expected = read_image_folders(str(tmp_path / "a.zip"))
    monkeypatch.setattr(image_files, "THREADS", threads)
    monkeypatch.setattr(image_files, "TOGETHER", 3)
    assert equal(read_image_folders(str(tmp_path / "a.zip")), expected)


def test_only_some_images_are_decoded_ahead_of_those_that_are_taken(tmp_path, monkeypatch):
    files, seen = tree_files(num_train=300), list[bytes]()

    def watched(content: bytes, *_: Any) -> np.ndarray:
        seen.append(content)
        return np.zeros((8, 8, 3), dtype=np.uint8)

    monkeypatch.setattr(image_files, "decoded", watched)
    monkeypatch.setattr(image_files.Stack, "add", stopped)
    with pytest.raises(InterruptedError):
        read(tmp_path, files)
    assert len(seen) <= 2 * (image_files.THREADS + 1) * image_files.TOGETHER < 600


def stopped(*_: Any) -> None:
    raise InterruptedError


# -------------------------------------------------------------------------------------------------------- Tiny ImageNet

WORDS = {"n02": "goldfish, Carassius auratus", "n01": "tarantula", "n09": "a word of another data set"}
ANNOTATIONS = {"val_0.JPEG": "n01", "val_1.JPEG": "n02", "val_2.JPEG": "n01", "val_3.JPEG": "n02"}


def tiny_files(num_train: int = 3) -> dict[str, bytes]:
    """A small Tiny ImageNet in the official layout."""
    images = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n01", "n02") for i in range(num_train)]
    images += [f"val/images/{name}" for name in ANNOTATIONS] + ["test/images/test_0.JPEG"]
    texts = {
        "wnids.txt": "n02\nn01\n",
        "words.txt": "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()),
        "val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in ANNOTATIONS.items()),
        "train/n01/n01_boxes.txt": "n01_0.JPEG\t0\t10\t63\t58\n",
    }
    return {name: text.encode() for name, text in texts.items()} | {
        name: encoded(seed, size=(16, 16), format="JPEG") for seed, name in enumerate(images)
    }


def test_tiny_imagenet_validation_images_are_regrouped_by_their_annotations(tmp_path):
    files = tiny_files()
    write_folder(tmp_path / "tiny-imagenet-200", files)
    classes, (images, labels), (test_images, test_labels), _ = read_tiny_imagenet(str(tmp_path))
    assert classes == ("goldfish", "tarantula")  # in the order of wnids.txt
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and test_labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(images[4], decoded(files["train/n01/images/n01_1.JPEG"]))
    in_order = [f"val/images/val_{i}.JPEG" for i in (1, 3, 0, 2)]
    assert torch.equal(test_images, torch.stack([decoded(files[name]) for name in in_order]))


def test_tiny_imagenet_reads_the_same_from_its_folder_and_its_archive(tmp_path):
    files = tiny_files()
    expected = read_tiny_imagenet(str(write_folder(tmp_path / "a" / "tiny-imagenet-200", files)))
    (tmp_path / "b").mkdir()
    archive = write_zip(tmp_path / "b" / "tiny-imagenet-200-part.zip", {f"tiny-imagenet-200/{name}": files[name] for name in files})
    for root in (tmp_path / "a", tmp_path / "b", archive):
        assert equal(read_tiny_imagenet(str(root)), expected), root
    assert read_tiny_imagenet(str(archive), Reading(limit=1)).train[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("words.txt", None, "lacks words.txt"),
        ("val/val_annotations.txt", None, "lacks val/val_annotations.txt"),
        ("val/images/val_2.JPEG", None, "lacks val/images/val_2.JPEG, which val_annotations.txt names"),
        ("val/images/val_9.JPEG", b"x", "val/images/val_9.JPEG in .* has no line in val_annotations.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG n01\n", "line 1 of val/val_annotations.txt in .* has no tab"),
        ("wnids.txt", b"n01\n", "n02.*which wnids.txt does not name"),
        ("wnids.txt", b"n01\nn02\nn03\n", "class n03 has no train images"),
        ("words.txt", b"\xff\xfe", "words.txt in .* is not readable text"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_faulty_tiny_imagenet_is_named(tmp_path, kind, name, content, sentence):
    files = {key: value for key, value in (tiny_files() | {name: content}).items() if value is not None}
    path = tmp_path / "tiny-imagenet-200.zip"
    if kind == "zip":
        write_zip(path, {f"tiny-imagenet-200/{key}": value for key, value in files.items()})
    else:
        write_folder(tmp_path / "tiny-imagenet-200", files)
    with pytest.raises((WorkbookError, FileNotFoundError), match=sentence):
        read_tiny_imagenet(str(tmp_path))


def test_a_missing_tiny_imagenet_says_where_it_may_be_put(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}; put tiny-imagenet-200.zip"):
        read_tiny_imagenet(str(tmp_path))


# -------------------------------------------------------------------------------------------------------- real archives


@pytest.mark.skipif(not (ARCHIVES / "cifar10-test.zip").exists(), reason="the CIFAR-10 archives are not beside the project")
def test_real_cifar10_archives_are_read():
    classes, (images, labels), (test_images, _), _ = read_image_folders(f"{ARCHIVES}/cifar10-*.zip", Reading(limit=3))
    assert classes[:3] == ("airplane", "automobile", "bird") and labels.bincount().tolist() == [3] * 10
    assert images.shape == test_images.shape == (30, 3, 32, 32)
    with zipfile.ZipFile(ARCHIVES / "cifar10-train-0.zip") as archive:
        # Every second image lies in the other archive: the first of one is the first or second of both.
        first = decoded(archive.read("train/airplane/aeroplane_s_000004.webp"))
    assert any(torch.equal(first, image) for image in images[:2])


@pytest.mark.skipif(not ARCHIVES.exists(), reason="the archive of Tiny ImageNet is not beside the project")
def test_real_tiny_imagenet_archive_is_read():
    classes, (images, labels), (test_images, test_labels), _ = read_tiny_imagenet(str(ARCHIVES), Reading(limit=1))
    assert len({*classes}) == 200 and classes[0] == "Egyptian cat"
    assert images.shape == test_images.shape == (200, 3, 64, 64)
    assert labels.tolist() == test_labels.tolist() == [*range(200)]
