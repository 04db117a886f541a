"""Files from strangers: every reader of the library against damaged and hostile ones.

A reader may refuse a file with a sentence (`WorkbookError`, `FileNotFoundError`) and nothing else. With `tests` on the path,
`python tests/fuzzing.py 100000` tries so many inputs of each target at random (further arguments: a seed, and targets), and
`python tests/fuzzing_atheris.py genotype CORPUS -runs=100000` lets atheris look for new ways through the code.
`test_fuzz.py` tries a few each time, and what once went wrong.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from toys import TRAIN, toy_blueprint, toy_data

from dsara_lib.architecture import Genotype, blueprint_from_dict, zoo
from dsara_lib.bench.entries import read as read_benchmarks
from dsara_lib.bench.entries import table as table_of_benchmarks
from dsara_lib.data import DataSet, load
from dsara_lib.engine import History, begin
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import load_arrays, load_evaluation, load_transfer_matrix, read_csv
from dsara_lib.experiment import find_experiment
from dsara_lib.image_files import Reading, read_image_folders, read_tiny_imagenet
from dsara_lib.notebooks import parameters_of
from dsara_lib.panel.runs import CURVES, browser, known_runs
from dsara_lib.presets import fit, make_preset
from dsara_lib.report.collection import collect
from dsara_lib.report.record import read as read_record
from dsara_lib.runs import Checkpoints, RunStore, describe, read_json, read_jsonl
from dsara_lib.soundness import load as load_board
from dsara_lib.sweep.progress import Listener
from dsara_lib.training import Trainer, load_card, load_network

STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        2,
        10**30,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "skip_connect",
        "../..",
        "\ud800",
        "a" * 300,
    ),
    *([], {}, [[]], [None], {"": {}}, ["skip_connect", 0], {"schema": 1}, [1, [2, [3, [4]]]]),
)


class Choices:
    """Decisions read from bytes, so that whoever invents the bytes decides; when they run out, the first of all is taken."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def among(self, count: int) -> int:
        """A number below `count`."""
        taken = self.data[self.at : self.at + 2]
        self.at += 2
        return int.from_bytes(taken, "big") % max(count, 1)


def altered(document: Any, choices: Choices) -> Any:
    """A JSON document with one to four places changed, dropped or put elsewhere."""
    document = json.loads(json.dumps(document))
    for _ in range(1 + choices.among(4)):
        parents = [each for each in walk(document) if isinstance(each, dict | list) and each]
        if not parents:
            return document
        parent = parents[choices.among(len(parents))]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[choices.among(len(keys))]
        match choices.among(5):
            case 0:
                del parent[key]
            case 1:
                parent[key] = [parent[key], parent[key]]
            case 2:
                donors = list(walk(document))
                parent[key] = json.loads(json.dumps(donors[choices.among(len(donors))]))
            case _:
                parent[key] = json.loads(json.dumps(STRANGE[choices.among(len(STRANGE))]))
    return document


def walk(value: Any) -> Any:
    """The document and everything in it."""
    yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        yield from walk(each)


def other_arrays(arrays: dict[str, np.ndarray], choices: Choices) -> dict[str, np.ndarray]:
    """The arrays of a file with one to three of them of another shape or type, renamed or left out."""
    changed = dict(arrays)
    for _ in range(1 + choices.among(3)):
        name = [*arrays][choices.among(len(arrays))]
        array = changed.pop(name, np.zeros(3))
        made = (
            *(None, array[:0] if array.ndim else array, array.reshape(-1, 1), array.flatten()[0] if array.size else array),
            *(
                array.astype(str),
                array.astype(str) == "1",
                np.full(array.shape, np.nan),
                np.full(array.shape, -(2**40)),
                array[None],
            ),
        )[choices.among(9)]
        if made is not None:
            changed[name if choices.among(4) else f"{name}?"] = np.asarray(made)
    return changed


def flipped(content: bytes, choices: Choices) -> bytes:
    """Bytes with one to eight of them changed, or cut off, or with something inserted."""
    changed = bytearray(content)
    for _ in range(1 + choices.among(8)):
        at = choices.among(len(changed))
        match choices.among(6):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = bytes([choices.among(256)]) * (1 + choices.among(20))
            case _:
                changed[at : at + 1] = bytes([choices.among(256)])
    return bytes(changed)


RAW = 255  # a first byte that says: the others are the file


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader, and what it should be given: JSON, arrays, bytes, a state with tensors, or files of a folder by name.

    The reader gets an empty folder and the content; of files, the name of the damaged one and "\\0" come before it.
    """

    name: str
    whole: Any
    read: Callable[[Path, bytes], object]

    def content(self, data: bytes) -> bytes:
        """The damaged file that these bytes decide on."""
        choices = Choices(data)
        if isinstance(self.whole, Files):
            name = sorted(self.whole)[choices.among(len(self.whole))]
            return name.encode() + b"\0" + damaged(self.whole[name], choices)
        return data[1:] if data[:1] == bytes([RAW]) else damaged(self.whole, choices)

    def read_whole(self) -> None:
        """Read it undamaged, which must go well."""
        with tempfile.TemporaryDirectory() as folder:
            self.read(Path(folder), b"\0" if isinstance(self.whole, Files) else written(self.whole))

    def attempt(self, data: bytes) -> None:
        """Read it. Raises what a user must never see."""
        with tempfile.TemporaryDirectory() as folder, suppress(WorkbookError, FileNotFoundError):
            self.read(Path(folder), self.content(data))


class Files(dict[str, Any]):
    """Files of a folder by name."""


class Lines(list[Any]):
    """A document a line."""


class State(dict[str, Any]):
    """What a checkpoint holds."""


def written(whole: Any) -> bytes:
    """The undamaged file."""
    if isinstance(whole, bytes):
        return whole
    if isinstance(whole, State):
        return saved(dict(whole))
    if isinstance(whole, Lines):
        return "".join(json.dumps(each) + "\n" for each in whole).encode()
    arrays = isinstance(whole, dict) and isinstance(next(iter(whole.values())), np.ndarray)
    return npz(**whole) if arrays else json.dumps(whole).encode()


def damaged(whole: Any, choices: Choices) -> bytes:
    """The file with something wrong inside, or with other bytes."""
    if isinstance(whole, bytes) or choices.among(4) == 0:
        return flipped(written(whole), choices)
    if isinstance(whole, State):
        return saved(other_state(dict(whole), choices))
    if isinstance(whole, Lines):
        return written(Lines(altered(list(whole), choices)))
    arrays = isinstance(whole, dict) and isinstance(next(iter(whole.values())), np.ndarray)
    return npz(**other_arrays(whole, choices)) if arrays else json.dumps(altered(whole, choices)).encode()


def other_state(state: Any, choices: Choices) -> Any:
    """A nested state with one to three places dropped or replaced by something else of it, by strange values or shapes."""
    state = copied(state)
    for _ in range(1 + choices.among(3)):
        places = [each for each in walk(state) if isinstance(each, dict | list) and each]
        parent = places[choices.among(len(places))]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[choices.among(len(keys))]
        strange = (*STRANGE, torch.zeros(0), torch.zeros(3, 2), torch.full((2,), float("nan")), torch.zeros(2, dtype=torch.int64))
        match choices.among(3):
            case 0:
                del parent[key]
            case 1:
                donors = list(walk(state))
                parent[key] = copied(donors[choices.among(len(donors))])
            case _:
                parent[key] = copied(strange[choices.among(len(strange))])
    return state


def copied(state: Any) -> Any:
    """The same dictionaries and lists anew."""
    if isinstance(state, dict):
        return {key: copied(each) for key, each in state.items()}
    return [copied(each) for each in state] if isinstance(state, list) else state


def placed(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """Write the content under that name, then read that file."""

    def both(folder: Path, content: bytes) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return both


def beside_weights(folder: Path, content: bytes) -> None:
    """A network whose card is damaged."""
    (folder / "card.json").write_bytes(content)
    (folder / "weights.safetensors").write_bytes(WEIGHTS)
    load_network(folder)


def beside_card(folder: Path, content: bytes) -> None:
    """A network whose weights are damaged."""
    (folder / "card.json").write_text(json.dumps(CARD))
    (folder / "weights.safetensors").write_bytes(content)
    load_network(folder)


def as_checkpoint(folder: Path, content: bytes) -> None:
    """A checkpoint whose name has the right checksum, as a stranger would see to."""
    (folder / f"epoch-000001.{sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    Checkpoints(folder).load()


def run_folder(folder: Path, content: bytes) -> None:
    """A run whose card is damaged: found, listed and reported."""
    run = folder / "results" / "strange"
    run.mkdir(parents=True)
    (run / "run.json").write_bytes(content)
    list(RunStore(folder / "results").runs())
    read_record(run)
    RunStore(folder / "results").find("strange")


def opened_again(folder: Path, content: bytes) -> None:
    """A run whose card is damaged: gone on with."""
    run = folder / "strange"
    run.mkdir()
    (run / "run.json").write_bytes(content)
    with patch("dsara_lib.experiment.load", without_downloads):
        find_experiment("strange", results=folder, data_root=folder)


def without_downloads(name: str, *, root: Path, limit: int | None, **reading: Any) -> DataSet:
    """As a machine without a network loads data; the digits, which take long, once."""
    if name == "digits" and limit == SETTINGS["limit"]:
        return digits()
    return load(name, root=root, limit=limit, download=False, **reading)


@cache
def digits() -> DataSet:
    return load("digits", limit=SETTINGS["limit"])


def job_state(folder: Path, content: bytes) -> None:
    """A checkpoint of a training: gone on with."""
    as_checkpoint(folder, content)
    begin(Trainer(BLUEPRINT, toy_data(), TRAIN), folder, History())


def one_of_a_folder(folder: Path, content: bytes) -> None:
    """A whole run in which one file is damaged: read for its report, for the run browser and for the comparison of all runs."""
    name, _, damaged = content.partition(b"\0")
    run = folder / "results" / "strange"
    for each, whole in FOLDER.items():
        path = run / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged if each == name.decode() else written(whole))
    read_record(run)
    for curves in CURVES:
        browser(run.parent, known_runs(run.parent), order="newest first", chosen=["strange"], curves=curves)
    collect(run.parent)


def listened(folder: Path, content: bytes) -> None:
    """What a process elsewhere wrote of a job."""
    log = folder / "job.jsonl"
    listener = Listener(job=SimpleNamespace(log=log))  # type: ignore[arg-type]
    log.write_bytes(content)
    list(listener.new())


def benchmarks(folder: Path, content: bytes) -> None:
    """The file of a device's benchmarks."""
    (folder / "cpu.json").write_bytes(content)
    table_of_benchmarks(read_benchmarks(folder / "cpu.json"))


def tiny_imagenet() -> bytes:
    """The official layout, with two classes of one image each."""
    buffer = io.BytesIO()
    texts = {"wnids.txt": "n1\nn2\n", "words.txt": "n1\tcat\nn2\tdog\n", "val/val_annotations.txt": "a.png\tn1\t0\nb.png\tn2\t0\n"}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(f"tiny-imagenet-200/{name}", text)
        for name in ("train/n1/images/1.png", "train/n2/images/1.png", "val/images/a.png", "val/images/b.png"):
            archive.writestr(f"tiny-imagenet-200/{name}", png())
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def described(folder: Path, content: bytes) -> None:
    """An evaluation beside which is told how it was made, damaged."""
    (folder / "found.npz").write_bytes(npz(**PREDICTIONS))
    (folder / "found.json").write_bytes(content)
    load_evaluation(folder / "found.npz", **EVALUATION).rows()


def settings_text(folder: Path, content: bytes) -> None:
    """What `--set` and CHANGES are given."""
    make_preset("demo", content.decode("utf-8", "replace"))


def archive() -> bytes:
    """A zip of two classes with a training and a test image each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                archive.writestr(f"{split}/{name}/1.png", png())
    return buffer.getvalue()


def picture(format: str) -> bytes:
    """What takes other ways through the reader: depth, orientation, frames and clear colours."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    pixels = np.arange(0, 12 * 4000, 1000, dtype=np.uint16).reshape(6, 8)
    if format == "TIFF":
        Image.fromarray(pixels).save(buffer, format, exif=exif)
    elif format == "JPEG":
        Image.fromarray((pixels // 257).astype(np.uint8)).convert("CMYK").save(buffer, format, exif=exif)
    else:
        frames = [Image.fromarray((pixels // 257).astype(np.uint8) + i).convert("P") for i in range(2)]
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:], transparency=4)
    return buffer.getvalue()


def among_whole_ones(folder: Path, content: bytes) -> None:
    """A picture in a folder whose others are whole: brought to a size, and left out where it cannot be read."""
    for name, inside in {"train/cat/1": png(), "train/dog/1": png(), "test/cat/1": png(), "test/dog/1": png()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).with_suffix(".png").write_bytes(inside)
    (folder / "train" / "cat" / "2.png").write_bytes(content)
    found = read_image_folders(str(folder), Reading(size=8, skip_unreadable=True))
    assert len(found.train[0]) + len(found.skipped) == 3
    read_image_folders(str(folder), Reading(size=8))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


BLUEPRINT = toy_blueprint()
WEIGHTS = save({name: each.contiguous() for name, each in BLUEPRINT.build().state_dict().items()})
DATA = {"name": "toy", "classes": ["a", "b", "c"], "image_size": 4, "images": 24, "eps": 0.1}
CARD = {"schema": 1, "name": "x", "which": "best", "epoch": 1, "blueprint": BLUEPRINT.to_dict(), "training": describe(TRAIN)}
CARD |= {"seed": 0, "data": DATA, "held_out": {}, "measured": []}
SETTINGS = {
    "profile": "demo",
    "changes": "",
    "data": "digits",
    "limit": 100,
    "seed": 0,
    "eps": 0.15,
    "preset": describe(fit(make_preset("demo"), replace(toy_data(), eps=0.15))),
}
RUN = {"schema": 1, "settings": SETTINGS, "library": "0.1.0", "created": "2026-01-01T00:00:00+00:00"}
CHECK = {"name": "convergence", "verdict": "pass", "number": "1", "sentence": "It has converged."}
PREDICTIONS = {"labels": np.arange(4), "natural": np.arange(4), "PGD20": np.zeros(4, dtype=np.int64)}
TABLE = b"network,attack,eps,correct,images,accuracy\nfound,natural,0.0,3,4,0.75\nfound,PGD20,0.15,1,4,0.25\n"
HISTORY = b'{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": 2.25}\n'
EVALUATION = {"network": "found", "data": "toy", "eps": 0.1, "classes": ("a", "b", "c", "d")}
MATRIX = {"labels": np.arange(4), "predictions": np.zeros((1, 2, 4), dtype=np.int64), "sources": np.array(["a"])}
MATRIX |= {"targets": np.array(["a", "b"])}
TRANSFER = {"attack": "PGD20", "eps": 0.1, "data": "toy"}
BENCH = {"name": "search_step", "device": "cpu-x", "dtype": "float32", "batch": 64, "plain": 2.0, "fast": 0.5, "unit": "s"}
BENCH |= {"ratio": 4.0, "ratio_min": 3.5, "ratio_max": 4.5}
LOG = b"".join(
    json.dumps(row).encode() + b"\n"
    for row in (
        {"kind": "started", "pid": 1},
        {"kind": "event", "pid": 1, "what": "epoch", "epoch": 1, "num_epochs": 2, "metrics": {"loss": 2.5}, "warnings": []},
    )
)
NOTEBOOK: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
NOTEBOOK["cells"] = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["RUN: str = 'demo'  # name\n"]}]
DETAILS = {"attacks": {"PGD20": {"eps": 0.1}}, "provenance": {"seed": 0}, "traces": {}, "reached": {}}


def folder_of_a_run() -> Files:
    """The texts of a whole run that an earlier version made, JSON as documents."""
    with zipfile.ZipFile(Path(__file__).parent / "earlier" / "ad99ff5.zip") as archive:
        files = {name.removeprefix("finished/"): archive.read(name) for name in archive.namelist() if name.startswith("finished/")}
    suffixes = (".json", ".jsonl", ".csv", ".npz")
    return Files({name: document(name, each) for name, each in files.items() if name.endswith(suffixes)})


def document(name: str, content: bytes) -> Any:
    """The file as something of which parts can be changed."""
    if name.endswith(".jsonl"):
        return Lines(map(json.loads, content.splitlines()))
    return json.loads(content) if name.endswith(".json") else content


def state_of_a_job() -> State:
    """What a training commits before its first step."""
    with tempfile.TemporaryDirectory() as folder:
        begin(Trainer(BLUEPRINT, toy_data(), TRAIN), folder, History())
        state, _ = Checkpoints(Path(folder)).load()
    assert state is not None
    return State(state)


FOLDER = folder_of_a_run()
CHECKPOINT = State(settings={}, job={"weights": torch.zeros(3)}, steps=[], epochs=[])

TARGETS: dict[str, Target] = {
    each.name: each
    for each in (
        Target(name="genotype", whole=zoo.load("DSARA").genotype.to_dict(), read=placed("genotype.json", Genotype.load)),
        Target(
            name="blueprint", whole=BLUEPRINT.to_dict(), read=placed("x.json", lambda path: blueprint_from_dict(read_json(path)))
        ),
        Target(
            name="design",
            whole=zoo.load("RobNet-free").published.to_dict(),
            read=placed("x.json", lambda path: blueprint_from_dict(read_json(path))),
        ),
        Target(
            name="settings",
            whole=b"search.channels=8 search.stages.0.epochs=3 baselines=DARTS,RACL match=DSARA",
            read=settings_text,
        ),
        Target(name="history", whole=HISTORY, read=placed("history.jsonl", read_jsonl)),
        Target(name="run", whole=RUN, read=run_folder),
        Target(name="experiment", whole=RUN, read=opened_again),
        Target(name="card", whole=CARD, read=placed("card.json", lambda path: load_card(path.parent))),
        Target(name="network card", whole=CARD, read=beside_weights),
        Target(name="weights", whole=WEIGHTS, read=beside_card),
        Target(
            name="checkpoint", whole=State(settings={}, job={"weights": torch.zeros(3)}, steps=[], epochs=[]), read=as_checkpoint
        ),
        Target(name="state of a job", whole=state_of_a_job(), read=job_state),
        Target(name="board", whole={"checks": [CHECK], "probes": {}}, read=placed("found-soundness.json", load_board)),
        Target(name="table", whole=TABLE, read=placed("white_box.csv", lambda path: read_csv(path, "network", "attack"))),
        Target(
            name="alphas", whole={"operations": np.array(["a"]), "robust": np.zeros((2, 3))}, read=placed("alphas.npz", load_arrays)
        ),
        Target(
            name="evaluation",
            whole=PREDICTIONS,
            read=placed("found.npz", lambda path: load_evaluation(path, **EVALUATION).rows()),
        ),
        Target(name="transfer", whole=MATRIX, read=placed("t.npz", lambda path: load_transfer_matrix(path, **TRANSFER).rows())),
        Target(name="evaluation's details", whole=DETAILS, read=described),
        Target(name="folder of a run", whole=FOLDER, read=one_of_a_folder),
        Target(name="log of a job", whole=LOG, read=listened),
        Target(name="benchmarks", whole=[BENCH], read=benchmarks),
        Target(name="notebook", whole=NOTEBOOK, read=placed("strange.ipynb", parameters_of)),
        Target(name="tiny imagenet", whole=tiny_imagenet(), read=placed("tiny.zip", lambda path: read_tiny_imagenet(str(path)))),
        *(Target(name=f"picture ({each})", whole=picture(each), read=among_whole_ones) for each in ("TIFF", "JPEG", "GIF")),
        Target(name="archive", whole=archive(), read=placed("images.zip", lambda path: read_image_folders(str(path)))),
    )
}


def at_random(runs: int, seed: int, names: list[str]) -> int:
    """Try so many inputs of each target and print those that go wrong, each kind once; how many kinds there are."""
    kinds: set[str] = set()
    for target in (TARGETS[name] for name in names or TARGETS):
        draw, started = random.Random(f"{seed} {target.name}"), time.monotonic()
        for _ in range(runs):
            data = draw.randbytes(draw.choice((4, 8, 16, 32, 64)))
            try:
                target.attempt(data)
            except Exception as error:
                trace, place = error.__traceback__, ""
                while trace is not None:
                    place, trace = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
                kind = f"{target.name}: {type(error).__name__} at {place}"
                if kind not in kinds:
                    print(f"{kind}: {str(error)[:120]!r} from bytes.fromhex({data.hex()!r})", flush=True)
                kinds.add(kind)
        print(f"{target.name}: {runs:,} inputs in {time.monotonic() - started:.0f} s", flush=True)
    return len(kinds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(min(at_random(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0, sys.argv[3:]), 1))
