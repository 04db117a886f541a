"""Data sets, splits, augmentation and batches: what they promise to search and training."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_capture import META, NothingWaits

from dsara_lib.data import (
    DATASETS,
    Augmentation,
    Batches,
    DataSet,
    Split,
    eps_text,
    halves,
    hold_out,
    load,
    sample,
    unit_interval,
)
from dsara_lib.errors import WorkbookError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(counts: list[int], size: int = 4) -> Split:
    """A split whose every image holds its own number, so that none can be mistaken for another."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(1))]
    numbers = torch.arange(len(labels))
    images = torch.stack([numbers // 256, numbers % 256, labels], dim=1)[:, :, None, None].to(torch.uint8)
    return Split(images=images.repeat(1, 1, size, size), labels=labels)


def numbers(images: torch.Tensor) -> list[int]:
    """The numbers that images of `numbered` hold."""
    corner = images[:, :, 0, 0].long()
    return (corner[:, 0] * 256 + corner[:, 1]).tolist()


def toy(**changes) -> DataSet:
    fields = dict(classes=("a", "b"), train=numbered([3, 3]), test=numbered([2, 2]), eps=8 / 255, crop_padding=1, flip=True)
    return DataSet(name="toy", **(fields | changes))


# ------------------------------------------------------------------- every data set, from small files in its own format


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_cifar(folder: Path, files: dict[str, str], meta: str, num_classes: int) -> None:
    """`files` maps each file to the key of its labels."""
    folder.mkdir()
    names = {"label_names": [f"class {i}" for i in range(num_classes)]}
    names["fine_label_names"] = names["label_names"]
    (folder / meta).write_bytes(pickle.dumps(names, protocol=2))
    for seed, (file, key) in enumerate(files.items()):
        batch = {"data": random_bytes(2 * num_classes, 3072, seed=seed), key: [*range(num_classes)] * 2}
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))


def make_cifar10(root: Path, monkeypatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    write_cifar(root / "cifar-10-batches-py", dict.fromkeys(files, "labels"), "batches.meta", 10)


def make_cifar100(root: Path, monkeypatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    write_cifar(root / "cifar-100-python", dict.fromkeys(["train", "test"], "fine_labels"), "meta", 100)


def make_svhn(root: Path, monkeypatch) -> None:
    from scipy.io import savemat

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: Path(path).is_file())
    for seed, split in enumerate(("train", "test")):
        labels = np.array([[*range(1, 11)] * 2], dtype=np.uint8).T
        savemat(root / f"{split}_32x32.mat", {"X": random_bytes(32, 32, 3, 20, seed=seed), "y": labels})


def make_tiny_imagenet(root: Path, monkeypatch) -> None:
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
        top = "tiny-imagenet-200"
        archive.writestr(f"{top}/wnids.txt", "n1\nn2\n")
        archive.writestr(f"{top}/words.txt", "n1\tgoldfish, Carassius auratus\nn2\ttarantula\n")
        archive.writestr(f"{top}/val/val_annotations.txt", "val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn1\t0\t0\t9\t9\n")
        images = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n1", "n2") for i in range(2)]
        for seed, name in enumerate([*images, "val/images/val_0.JPEG", "val/images/val_1.JPEG"]):
            with archive.open(f"{top}/{name}", "w") as file:
                Image.fromarray(random_bytes(64, 64, 3, seed=seed)).save(file, "JPEG")


MAKERS = {
    "digits": lambda root, monkeypatch: None,
    "cifar10": make_cifar10,
    "cifar100": make_cifar100,
    "svhn": make_svhn,
    "tiny-imagenet": make_tiny_imagenet,
}


@pytest.fixture(params=DATASETS)
def home(request, tmp_path, monkeypatch) -> tuple[str, Path]:
    """(name, root) of each data set in the table, its files in place."""
    if request.param not in MAKERS:
        pytest.skip(f"no small files of {request.param}; write MAKERS[{request.param!r}]")
    MAKERS[request.param](tmp_path, monkeypatch)
    return request.param, tmp_path


def test_data_set_has_every_class_in_both_splits_and_settings_that_make_sense(home):
    name, root = home
    data = load(name, root=root, download=False)
    assert data.name == name and len({*data.classes}) == data.num_classes
    for split in (data.train, data.test):
        assert split.images.is_contiguous() and split.images.shape[1:] == (3, data.image_size, data.image_size)
        assert sorted({*split.labels.tolist()}) == [*range(data.num_classes)]
    assert 0 < data.eps < 1 and data.crop_padding == data.image_size // 8
    assert data.learning_rate == (0.01 if name == "svhn" else 0.1)
    assert data.flip == (name not in ("digits", "svhn"))  # a mirrored digit is no digit


def test_data_set_loads_the_same_twice(home):
    name, root = home
    one, other = (load(name, root=str(root), download=False) for _ in range(2))
    assert torch.equal(one.train.images, other.train.images) and torch.equal(one.test.labels, other.test.labels)


def test_limit_keeps_the_first_images_of_each_class_in_their_order(home):
    name, root = home
    whole, limited = load(name, root=root, download=False), load(name, root=root, limit=1, download=False)
    for one, other in ((whole.train, limited.train), (whole.test, limited.test)):
        labels = one.labels.tolist()
        first = sorted(labels.index(label) for label in range(whole.num_classes))
        assert torch.equal(other.images, one.images[first]) and torch.equal(other.labels, one.labels[first])


def test_the_summary_says_where_a_limit_may_hide_images(home):
    name, root = home
    limited, enough = (load(name, root=root, limit=limit, download=False).summary() for limit in (1, 10_000))
    assert "limit         the first 1 images of a class" in limited and "limit" not in enough


def test_summary_names_classes_size_radius_and_augmentation(home):
    name, root = home
    text = load(name, root=root, download=False).summary()
    size = {"digits": "8x8", "tiny-imagenet": "64x64"}.get(name, "32x32")
    assert name in text and size in text and ("eps 0.15" if name == "digits" else "eps 8/255") in text
    assert ("no flip" if name in ("digits", "svhn") else "horizontal flip") in text


def test_digits_are_split_four_to_one_and_span_the_grey_levels():
    data = load("digits")
    assert len(data.train) + len(data.test) == 1797
    shares = data.test.labels.bincount() / (data.test.labels.bincount() + data.train.labels.bincount())
    assert shares.min() > 0.19 and shares.max() <= 0.2
    assert data.train.images.max() == 255 and data.train.images.min() == 0
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert {*data.train.images.unique().tolist()} == {int(np.rint(value * 255 / 16)) for value in range(17)}


def test_cifar_images_keep_planes_and_labels_of_the_files(tmp_path, monkeypatch):
    make_cifar10(tmp_path, monkeypatch)
    data = load("cifar10", root=tmp_path, download=False)
    assert len(data.train) == 100 and data.classes[3] == "class 3" and data.train.labels[13] == 3
    assert torch.equal(data.train.images[23], torch.from_numpy(random_bytes(20, 3072, seed=1)[3].reshape(3, 32, 32)))
    assert torch.equal(data.test.images[0], torch.from_numpy(random_bytes(20, 3072, seed=5)[0].reshape(3, 32, 32)))


def test_svhn_label_ten_is_the_digit_zero(tmp_path, monkeypatch):
    make_svhn(tmp_path, monkeypatch)
    data = load("svhn", root=tmp_path, download=False)
    assert data.classes == tuple("0123456789") and data.train.labels[:10].tolist() == [*range(1, 10), 0]
    assert torch.equal(data.train.images[7], torch.from_numpy(random_bytes(32, 32, 3, 20)[..., 7]).permute(2, 0, 1))


def write_tree(root: Path, size: tuple[int, int] = (16, 16), classes: tuple[str, ...] = ("ant", "cat")) -> Path:
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.fromarray(random_bytes(*size, 3)).save(root / split / name / "0.png")
    return root


def test_image_folder_is_a_data_set_with_the_settings_of_photographs(tmp_path):
    name = f"folder:{write_tree(tmp_path)}"
    data = load(name, root="nowhere")
    assert (data.name, data.classes, data.image_size) == (name, ("ant", "cat"), 16)
    assert (data.eps, data.crop_padding, data.flip, data.learning_rate) == (8 / 255, 2, True, 0.1)


def test_pictures_of_many_sizes_are_a_data_set_of_the_size_that_is_given(tmp_path):
    name = f"folder:{write_tree(tmp_path, size=(16, 24))}"
    data = load(name, size=32)
    assert (data.image_size, data.channels, data.crop_padding) == (32, 3, 4)


def test_a_data_set_that_is_not_read_from_image_files_keeps_its_size():
    assert load("digits", limit=1, size=8).image_size == 8
    with pytest.raises(WorkbookError, match=r"digits has 8x8 pixels; a size is for image files, got 16"):
        load("digits", limit=1, size=16)


def test_files_that_were_left_out_are_named_in_the_summary(tmp_path):
    root = write_tree(tmp_path)
    for i in range(1, 8):
        (root / "train" / "ant" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(WorkbookError, match="7 of 11 files cannot be read"):
        load(f"folder:{root}")
    data = load(f"folder:{root}", skip_unreadable=True)
    assert data.skipped == tuple(f"train/ant/{i}.png" for i in range(1, 8)) and len(data.train) == 2
    assert "skipped       7 unreadable files: train/ant/1.png, train/ant/2.png" in data.summary()
    assert "skipped" not in toy().summary()


def test_image_folder_with_one_class_or_oblong_images_is_refused(tmp_path):
    with pytest.raises(WorkbookError, match=r"1 class.*at least two"):
        load(f"folder:{write_tree(tmp_path / 'one', classes=('ant',))}")
    with pytest.raises(WorkbookError, match=r"24x16 pixels.*square"):
        load(f"folder:{write_tree(tmp_path / 'oblong', size=(16, 24))}")


@pytest.mark.parametrize("name", ["cifra10", "folder", "folder:", "CIFAR-10", "image:cats"])
def test_unknown_data_set_is_answered_with_the_known_ones(name):
    with pytest.raises(WorkbookError, match=r"unknown data set .*digits, cifar10, .*folder:PATH"):
        load(name)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit):
    with pytest.raises(WorkbookError, match="at least 1"):
        load("digits", limit=limit)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny-imagenet"])
def test_missing_files_are_named_with_the_folder_where_they_may_be_put(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.* put "):
        load(name, root=tmp_path, download=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_impossible_download_is_told_with_its_reason_and_the_folder(tmp_path, monkeypatch, name):
    def offline(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", offline)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}, and could not be downloaded \(no network\); put it there"):
        load(name, root=tmp_path)


# ------------------------------------------------------------------------------------------------------------ data sets


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(classes=("a",)), "at least two"),
        (dict(test=numbered([2, 2], size=5)), "training images .* but test images"),
        (dict(test=numbered([1, 1, 1])), "test labels 0 to 2; expected 0 to 1"),
        (dict(train=numbered([0, 0])), "no training images"),
    ],
)
def test_faulty_data_set_is_refused(changes, sentence):
    with pytest.raises(WorkbookError, match=sentence):
        toy(**changes)


def test_split_refuses_float_images_and_labels_of_another_number(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would be first to complain
    split = numbered([2, 2])
    with pytest.raises(WorkbookError, match="expected uint8 images"):
        Split(images=split.images.float(), labels=split.labels)
    with pytest.raises(WorkbookError, match="expected 4 int64 labels"):
        Split(images=split.images, labels=split.labels[:3])


def test_channel_statistics_are_mean_and_deviation_in_the_unit_interval():
    data = load("digits", limit=3)
    pixels = data.train.images.double() / 255
    means, deviations = data.channel_statistics()
    torch.testing.assert_close(torch.tensor(means), pixels.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(deviations), pixels.std(dim=(0, 2, 3), correction=0).float())


def test_summary_is_compact_where_classes_are_equal_and_lists_or_ranges_where_not():
    assert "6 images: 2 classes x 3" in toy().summary()
    assert "5 images: a 2, b 3" in toy(train=numbered([2, 3])).summary()
    many = toy(classes=tuple(f"c{i}" for i in range(20)), train=numbered([*range(1, 21)]))
    assert "210 images: 20 classes, 1 to 20 images each" in many.summary()


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (2 / 255, "2/255"), (0.2, "0.2"), (0.1, "0.1"), (0.0, "0"), (1.0, "1"), (1 / 510, "0.001961")],
)
def test_eps_is_written_as_people_write_it(eps, text):
    assert eps_text(eps) == text


def test_pixels_are_exact_255ths():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = torch.tensor([level / 255 for level in range(256)]).view(1, 1, 16, 16)
    assert torch.equal(unit_interval(levels), expected)


# --------------------------------------------------------------------------------------------------------------- halves


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_halves_are_disjoint_cover_all_and_share_every_class_evenly(counts, seed):
    split = numbered(counts)
    first, second = halves(split, generator(seed))
    assert sorted(numbers(first.images) + numbers(second.images)) == [*range(len(split))]
    shared = [half.labels.bincount(minlength=len(counts)) for half in (first, second)]
    assert (shared[0] - shared[1]).abs().max() <= 1 and abs(len(first) - len(second)) <= 1
    for half in (first, second):
        assert torch.equal(half.images[:, 2, 0, 0].long(), half.labels)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(20, 40), min_size=2, max_size=5),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_held_out_part_is_disjoint_and_has_its_fraction_of_each_class(counts, fraction, seed):
    split = numbered(counts)
    kept, held = hold_out(split, fraction, generator(seed))
    assert sorted(numbers(kept.images) + numbers(held.images)) == [*range(len(split))]
    assert len(held) == int(len(split) * fraction + 1e-9)
    for count, held_count in zip(counts, held.labels.bincount(minlength=len(counts)).tolist(), strict=True):
        assert abs(held_count - fraction * count) < 1 + 1e-6


def test_halves_depend_on_the_generator_and_on_nothing_else():
    split = numbered([20, 20])
    torch.manual_seed(5)
    one = halves(split, generator(3))[0]
    torch.rand(1)
    assert torch.equal(one.images, halves(split, generator(3))[0].images)
    assert not torch.equal(one.images, halves(split, generator(4))[0].images)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), 0.01])
def test_hold_out_refuses_a_part_without_images(fraction):
    with pytest.raises(WorkbookError, match="hold"):
        hold_out(numbered([3, 3]), fraction, generator())


def test_a_class_keeps_its_only_image_where_a_small_part_is_held_out():
    data = numbered([1] * 20 + [10])
    kept, held = hold_out(data, 0.1, generator())
    assert set(kept.labels.tolist()) == set(range(21)) and set(held.labels.tolist()) <= {20}


# --------------------------------------------------------------------------------------------------------- augmentation


def plain_augmentation(images: torch.Tensor, drawn: torch.Tensor, padding: int) -> torch.Tensor:
    """One image after the other, as the words say it."""
    done = []
    for image, (top, left, flip) in zip(images, drawn.tolist(), strict=True):
        channels, height, width = image.shape
        canvas = image.new_zeros(channels, height + 2 * padding, width + 2 * padding)
        canvas[:, padding : padding + height, padding : padding + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        done.append(crop.flip(-1) if flip else crop)
    return torch.stack(done)


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (4, True)])
@pytest.mark.parametrize("shape", [(16, 3, 8, 8), (5, 1, 6, 9)])
def test_augmentation_equals_the_plain_reference(padding, flip, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    augmentation = Augmentation(padding, flip)
    drawn = augmentation.draw(len(images), generator(7))
    assert torch.equal(augmentation(images, generator(7)), plain_augmentation(images, drawn, padding))


def test_augmentation_without_padding_and_flip_is_the_identity():
    images = torch.randint(0, 256, (8, 3, 5, 5), dtype=torch.uint8, generator=generator())
    assert torch.equal(Augmentation(crop_padding=0, flip=False)(images, generator()), images)


def test_augmentation_draws_every_corner_and_flips_half():
    drawn = Augmentation(crop_padding=2, flip=True).draw(5000, generator())
    for column in (0, 1):
        counts = drawn[:, column].bincount()
        assert len(counts) == 5 and counts.min() > 850
    assert abs(drawn[:, 2].float().mean() - 0.5) < 0.03


def test_augmentation_refuses_negative_padding():
    with pytest.raises(WorkbookError, match="at least 0"):
        Augmentation(-1, True)


# -------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("batch_size", "drop_last", "sizes"), [(4, False, [4, 4, 2]), (4, True, [4, 4]), (64, False, [10])])
def test_one_pass_sees_each_image_once_with_its_label(batch_size, drop_last, sizes):
    batches = Batches(numbered([5, 5]), batch_size, generator(), drop_last=drop_last)
    got = list(batches)
    assert [len(images) for images, _ in got] == sizes and len(batches) == len(sizes)
    images = torch.cat([images for images, _ in got]) * 255
    assert torch.equal(images[:, 2, 0, 0].round().long(), torch.cat([labels for _, labels in got]))
    seen = numbers(images.round())
    assert len({*seen}) == len(seen) == sum(sizes)


def test_batches_are_floats_in_the_unit_interval():
    split = load("digits", limit=4).train
    for images, labels in Batches(split, 16, generator(), Augmentation(1, False)):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.min() >= 0 and images.max() == 1


def test_every_pass_is_shuffled_anew():
    batches = Batches(numbered([20, 20]), 40, generator())
    (first, _), (second, _) = next(iter(batches)), next(iter(batches))
    assert not torch.equal(first, second)


def test_same_generator_state_gives_the_same_passes():
    split, source = numbered([9, 9], size=8), generator(3)
    batches = Batches(split, 4, source, Augmentation(2, True))
    list(batches)
    state = source.get_state()
    expected = list(batches)
    again = Batches(split, 4, generator(99), Augmentation(2, True))
    again.generator.set_state(state)
    torch.manual_seed(0)
    for (images, labels), (other_images, other_labels) in zip(expected, again, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_a_pass_draws_all_it_needs_when_it_begins():
    source = generator()
    batches = Batches(numbered([9, 9]), 4, source, Augmentation(2, True))
    begun = iter(batches)
    state = source.get_state()
    list(begun)
    assert torch.equal(source.get_state(), state)


def test_between_the_batches_of_a_pass_nothing_waits_for_the_device_or_comes_from_elsewhere():
    begun = iter(Batches(numbered([9, 9]).to(META), 4, generator(), Augmentation(2, True)))
    with NothingWaits():
        batches = list(begun)
    assert [(images.device, len(images), labels.device) for images, labels in batches[:2]] == [(META, 4, META)] * 2


def test_batches_augment_each_image_as_drawn():
    split = Split(images=torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8), labels=torch.arange(10))
    augmentation = Augmentation(2, True)
    source = generator(4)
    order = torch.randperm(10, generator=source)
    expected = plain_augmentation(split.images[order], augmentation.draw(10, source), 2)
    images = torch.cat([images for images, _ in Batches(split, 3, generator(4), augmentation)])
    assert torch.equal(images, expected / 255)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sentence"),
    [(0, False, "at least 1"), (7, True, "6 images do not fill one batch of 7")],
)
def test_batches_refuse_what_would_give_none(batch_size, drop_last, sentence):
    with pytest.raises(WorkbookError, match=sentence):
        Batches(numbered([3, 3]), batch_size, generator(), drop_last=drop_last)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_have_the_same_bits_on_the_gpu():
    data = load("digits")
    on_gpu = data.to("cuda")
    augmentation = Augmentation(2, True)
    passes = [Batches(split, 64, generator(5), augmentation) for split in (data.train, on_gpu.train)]
    for (images, labels), (gpu_images, gpu_labels) in zip(*passes, strict=True):
        assert gpu_images.is_cuda and torch.equal(images, gpu_images.cpu()) and torch.equal(labels, gpu_labels.cpu())
    assert torch.equal(halves(data.train, generator())[1].images, halves(on_gpu.train, generator())[1].images.cpu())


# ---------------------------------------------------------------------------------------- a named data set as image files


def write_images(root: Path, names: list[str], num_classes: int) -> None:
    """An archive for each split, as image folders: two images of each class."""
    for split, name in zip(("train", "test"), names, strict=True):
        with zipfile.ZipFile(root / name, "w") as archive:
            for label in range(num_classes):
                for i in range(2):
                    with archive.open(f"{split}/class {label:02}/{i}.png", "w") as file:
                        Image.fromarray(random_bytes(8, 8, 3, seed=2 * label + i)).save(file, "PNG")


def test_cifar_is_also_read_from_image_files_of_its_name_and_never_from_those_of_another(tmp_path, monkeypatch):
    write_images(tmp_path, ["cifar10-train-0.zip", "cifar10-test.zip"], 10)
    (tmp_path / "cifar100-notes.txt").write_text("no archive")
    data = load("cifar10", root=tmp_path, download=False)
    assert data.name == "cifar10" and data.num_classes == 10 and len(data.train) == len(data.test) == 20
    assert (data.eps, data.flip, data.learning_rate) == (8 / 255, True, 0.1)
    with pytest.raises(FileNotFoundError, match="no whole cifar-100-python"):
        load("cifar100", root=tmp_path, download=False)
    make_cifar10(tmp_path, monkeypatch)  # the official files come first
    assert load("cifar10", root=tmp_path, download=False).image_size == 32


def test_image_files_with_another_number_of_classes_are_not_taken_for_cifar(tmp_path):
    write_images(tmp_path, ["cifar10-train.zip", "cifar10-test.zip"], 3)
    with pytest.raises(WorkbookError, match=r"cifar10 has 10 classes; .* have 3"):
        load("cifar10", root=tmp_path)


def test_a_sample_has_the_same_share_of_each_class_and_all_images_where_more_are_asked_for():
    split = numbered([10, 20, 30])
    some = sample(split, 12, torch.Generator().manual_seed(0))
    assert torch.bincount(some.labels).tolist() == [2, 4, 6]
    assert sample(split, None, torch.Generator()) is sample(split, 60, torch.Generator()) is split
