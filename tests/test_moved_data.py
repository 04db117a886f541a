"""A run knows its data by their checksum: moved or renamed they are the same, altered they are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsara_lib import experiment
from dsara_lib.data import Split, load
from dsara_lib.errors import WorkbookError
from dsara_lib.experiment import IDENTITY, SKIPPED, checksum_of, find_experiment, open_experiment


def photographs(folder: Path, seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """Two classes of two images in each split."""
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(2):
                pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / split / name / f"{number}.png")
    return folder


def settings_of(run: Path) -> dict[str, Any]:
    """What the card says, and settings.json with it."""
    card = json.loads((run / "run.json").read_text())["settings"]
    assert json.loads((run / "settings.json").read_text()) == card
    return card


def made(tmp_path: Path) -> Path:
    """The results folder of a run on `pets`."""
    results = tmp_path / "results"
    open_experiment("one", data=f"folder:{photographs(tmp_path / 'pets')}", device="cpu", results=results)
    return results


def test_data_that_moved_and_were_renamed_are_the_same_data_and_are_found_from_then_on(tmp_path: Path) -> None:
    results = made(tmp_path)
    before = settings_of(results / "one")
    moved = shutil.move(tmp_path / "pets", tmp_path / "elsewhere" / "animals")
    with pytest.raises(FileNotFoundError, match=r"'one' are no longer where they were .*--data folder:NEW") as caught:
        find_experiment("one", results=results, device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    opened = open_experiment("one", data=f"folder:{moved}", device="cpu", results=results)
    found = find_experiment("one", results=results, device="cpu")
    assert opened.data.name == found.data.name == "folder:pets", "the name that is in its checkpoints and tables"
    assert settings_of(results / "one") == before | {"data": "folder:../elsewhere/animals"}


def test_a_comma_in_a_path_is_part_of_it(tmp_path: Path) -> None:
    pets = photographs(tmp_path / "cats, dogs")
    made = open_experiment("one", data=f"folder:{pets}", device="cpu", results=tmp_path / "results")
    found = find_experiment("one", results=tmp_path / "results", device="cpu")
    assert made.data.name == found.data.name == "folder:cats, dogs"
    assert settings_of(tmp_path / "results" / "one")["data"] == "folder:../cats, dogs"


def test_results_that_move_without_their_data_are_told_the_place_once(tmp_path: Path) -> None:
    results = made(tmp_path)
    there = shutil.move(results, tmp_path / "far" / "away" / "results")
    with pytest.raises(FileNotFoundError, match="no longer where they were"):
        find_experiment("one", results=there, device="cpu")
    open_experiment("one", data=f"folder:{tmp_path / 'pets'}", device="cpu", results=there)
    assert find_experiment("one", results=there, device="cpu").data.num_classes == 2


def test_results_and_data_that_move_together_are_found(tmp_path: Path) -> None:
    made(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert find_experiment("one", results=tmp_path / "there" / "results", device="cpu").data.name == "folder:pets"


@pytest.mark.parametrize("place", ["pets", "others"])
def test_other_images_are_refused_at_the_same_place_and_at_another(tmp_path: Path, place: str) -> None:
    results = made(tmp_path)
    photographs(tmp_path / place, seed=1)
    before = {path.name: path.read_bytes() for path in (results / "one").iterdir()}
    with pytest.raises(WorkbookError, match=r"run 'one' was made on other images or labels: .*; give it the data") as caught:
        open_experiment("one", data=f"folder:{tmp_path / place}", device="cpu", results=results)
    assert len(str(caught.value).splitlines()) == 1
    if place == "pets":
        with pytest.raises(WorkbookError, match="other images or labels"):
            find_experiment("one", results=results, device="cpu")
    assert {path.name: path.read_bytes() for path in (results / "one").iterdir()} == before


def test_other_settings_are_refused_before_a_new_place_is_written(tmp_path: Path) -> None:
    results = made(tmp_path)
    before = settings_of(results / "one")
    moved = shutil.move(tmp_path / "pets", tmp_path / "animals")
    with pytest.raises(WorkbookError, match=r"other settings \(seed: 0 here, 1 there"):
        open_experiment("one", data=f"folder:{moved}", seed=1, device="cpu", results=results)
    assert settings_of(results / "one") == before


def test_a_run_made_before_there_were_checksums_opens_by_name_and_gets_one(tmp_path: Path) -> None:
    results = made(tmp_path)
    whole = settings_of(results / "one")
    for name in ("settings.json", "run.json"):
        written = json.loads((results / "one" / name).read_text())
        (written if name == "settings.json" else written["settings"]).pop(IDENTITY)
        (results / "one" / name).write_text(json.dumps(written))
    shutil.copytree(tmp_path / "pets", tmp_path / "copy")
    with pytest.raises(WorkbookError, match="made with other settings"):
        open_experiment("one", data=f"folder:{tmp_path / 'copy'}", device="cpu", results=results)
    find_experiment("one", results=results, device="cpu")
    assert settings_of(results / "one") == whole


def test_a_data_set_with_a_name_whose_images_were_altered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = open_experiment("two", limit=4, device="cpu", results=tmp_path).data
    altered = replace(digits, name="digits", train=Split(images=digits.train.images, labels=digits.train.labels.flip(0)))
    monkeypatch.setattr(experiment, "load", lambda *_, **__: altered)
    with pytest.raises(WorkbookError, match="those of digits have the checksum"):
        open_experiment("two", limit=4, device="cpu", results=tmp_path)


def test_a_checksum_follows_from_classes_images_and_labels_alone(tmp_path: Path) -> None:
    digits = open_experiment("two", limit=4, device="cpu", results=tmp_path).data
    assert checksum_of(replace(digits, name="other", eps=0.5)) == checksum_of(digits)
    images = digits.test.images.clone()
    images[0, 0, 0, 0] ^= 1
    others = [
        replace(digits, test=Split(images=images, labels=digits.test.labels)),
        replace(digits, train=digits.test, test=digits.train),
        replace(digits, classes=("nought", *digits.classes[1:])),
    ]
    assert len({checksum_of(each) for each in (digits, *others)}) == 4


# -- how images are read is a setting of the run -----------------------------------------------------------------------


def test_size_and_what_is_left_out_are_settings_that_a_run_is_found_with(tmp_path: Path) -> None:
    pets, results = photographs(tmp_path / "pets", size=(12, 20)), tmp_path / "results"
    (pets / "train" / "cat" / "2.png").write_bytes(b"no image")
    given: dict[str, Any] = {"data": f"folder:{pets}", "device": "cpu", "results": results}
    with pytest.raises(WorkbookError, match=r"expected square images; .* --size"):
        open_experiment("one", **given)
    with pytest.raises(WorkbookError, match=r"1 of 9 files cannot be read; .* --skip-unreadable"):
        open_experiment("one", size=16, **given)
    assert not results.exists()
    made = open_experiment("one", size=16, skip_unreadable=True, **given)
    assert settings_of(results / "one")["size"] == 16 and settings_of(results / "one")["skip_unreadable"] is True
    found = find_experiment("one", device="cpu", results=results)
    assert found.data.image_size == 16 and found.data.skipped == ("train/cat/2.png",)
    assert (results / "one" / SKIPPED).read_text() == "train/cat/2.png\n"
    assert checksum_of(found.data) == checksum_of(made.data)
    with pytest.raises(WorkbookError, match="made on other images"):
        open_experiment("one", size=32, skip_unreadable=True, **given)


def test_runs_that_are_given_none_of_it_say_nothing_of_it(tmp_path: Path) -> None:
    assert not {"size", "skip_unreadable", "channels"} & settings_of(made(tmp_path) / "one").keys()


def test_a_run_on_grey_images_has_one_channel_and_one_of_before_keeps_its_three(tmp_path: Path) -> None:
    results, given = tmp_path / "results", {"data": f"folder:{photographs(tmp_path / 'pets', mode='L')}", "device": "cpu"}
    assert open_experiment("now", results=results, **given).data.channels == 1
    assert settings_of(results / "now")["channels"] == 1
    assert find_experiment("now", device="cpu", results=results).data.channels == 1
    colours = checksum_of(load(given["data"], colour=True))
    for name in ("settings.json", "run.json"):  # as an earlier version wrote them
        written = json.loads((results / "now" / name).read_text())
        card = written if name == "settings.json" else written["settings"]
        card.pop("channels")
        card[IDENTITY]["checksum"] = colours
        (results / "now" / name).write_text(json.dumps(written))
    before = settings_of(results / "now")
    assert find_experiment("now", device="cpu", results=results).data.channels == 3
    assert settings_of(results / "now") == before


@pytest.mark.parametrize(
    ("name", "value"), [("size", "16"), ("size", True), ("size", None), ("skip_unreadable", 1), ("variant", 3)]
)
def test_a_card_that_gives_such_a_setting_another_type_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    card = made(tmp_path) / "one" / "run.json"
    written = json.loads(card.read_text())
    written["settings"][name] = value
    card.write_text(json.dumps(written))
    with pytest.raises(WorkbookError, match=f"names no {name} but"):
        find_experiment("one", device="cpu", results=tmp_path / "results")
