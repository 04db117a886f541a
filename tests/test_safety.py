"""What strangers may send: code that waits to be unpickled, archives that lead out or fill the memory, names that are commands."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from fuzzing import FOLDER, TARGETS, Files, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsara_lib import image_files, notebooks
from dsara_lib.architecture import Genotype, blueprint_from_dict, zoo
from dsara_lib.architecture.blueprints import HARMLESS, _bound, require_at_most
from dsara_lib.data import load
from dsara_lib.drawing import cell_svg, network_svg, save_cells
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import load_arrays
from dsara_lib.image_files import Reading, read_image_folders, read_tiny_imagenet
from dsara_lib.panel.runs import CURVES, browser, known_runs
from dsara_lib.report.record import read as read_record
from dsara_lib.runs import Checkpoints, read_json

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def torch_file(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def arrays(write: Callable[..., None], *given: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *given, **named)
    return buffer.getvalue()


def objects(evil: Evil) -> np.ndarray:
    found = np.empty(1, dtype=object)
    found[0] = evil
    return found


FORMS: dict[str, Callable[[Evil], bytes]] = {
    "pickle": lambda evil: pickle.dumps(evil),
    "old pickle": lambda evil: pickle.dumps(evil, protocol=0),
    "torch": lambda evil: torch_file({"settings": {}, "job": evil, "steps": [], "epochs": []}),
    "old torch": lambda evil: torch_file({"job": evil}, _use_new_zipfile_serialization=False),
    "npz": lambda evil: arrays(np.savez, labels=objects(evil), predictions=objects(evil), operations=objects(evil)),
    "npy": lambda evil: arrays(np.save, objects(evil), allow_pickle=True),
}


def run_it(form: str, content: bytes) -> None:
    """Read it as nobody should."""
    if "torch" in form:
        torch.load(io.BytesIO(content), weights_only=False)
    elif "np" in form:
        read = np.load(io.BytesIO(content), allow_pickle=True)
        _ = read["labels"] if form == "npz" else read
    else:
        pickle.loads(content)


# -- code that waits to be unpickled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_pickle_in_the_place_of_any_file_never_runs(form: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    content = FORMS[form](Evil(marker))
    for name, target in TARGETS.items():
        names = sorted(target.whole) if isinstance(target.whole, Files) else [""]
        for number, file in enumerate(names):
            folder = tmp_path / f"{name} {number}"
            folder.mkdir()
            try:
                target.read(folder, file.encode() + b"\0" + content if file else content)
            except (WorkbookError, FileNotFoundError) as refused:
                assert "\n" not in str(refused), name
            else:  # what reads on without it
                assert name in ("checkpoint", "state of a job", "folder of a run", "log of a job"), f"{name} took it for its own"
            assert not marker.exists(), f"{name} ran it"
    run_it(form, content)
    assert marker.exists(), "the file was harmless, so the test showed nothing"


@pytest.mark.parametrize("name", [name for name in sorted(FOLDER) if name != "run.json"])
def test_a_hostile_pickle_in_a_run_is_told_and_the_rest_of_the_run_is_read(name: str, tmp_path: Path) -> None:
    marker, content = tmp_path / "executed", FORMS["npz" if name.endswith(".npz") else "pickle"](Evil(tmp_path / "executed"))
    TARGETS["folder of a run"].read(tmp_path, name.encode() + b"\0" + content)
    record = read_record(tmp_path / "results" / "strange")
    assert not marker.exists() and record.settings["data"] == "digits"
    read_by_nobody = ("settings.json", "-against-eps/", "transfer-PGD20/", "found/history.jsonl", "found/epochs.jsonl")
    being_written = "search/history.jsonl"  # for which a line without an end is taken
    assert record.troubles or name == being_written or any(each in name for each in read_by_nobody)


@pytest.mark.parametrize(
    ("data", "files"),
    [
        (
            "cifar10",
            [f"cifar-10-batches-py/{n}" for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")],
        ),
        ("cifar100", [f"cifar-100-python/{name}" for name in ("train", "test", "meta")]),
        ("svhn", ["train_32x32.mat", "test_32x32.mat"]),
    ],
)
def test_the_published_data_sets_are_unpickled_only_with_the_published_checksum(
    data: str, files: list[str], tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FORMS["pickle"](Evil(marker)))
    with pytest.raises(FileNotFoundError, match="no whole"):
        load(data, root=tmp_path, download=False)
    assert not marker.exists()


def test_a_packed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file({"x": torch.zeros(1000)}))) as whole, zipfile.ZipFile(buffer, "w", 8) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    (tmp_path / f"epoch-000001.{sha256(buffer.getvalue()).hexdigest()[:16]}.pt").write_bytes(buffer.getvalue())
    state, warnings = Checkpoints(tmp_path).load()
    assert state is None and len(warnings) == 1


# -- archives and folders of images ------------------------------------------------------------------------------------


def png(width: int = 4, height: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 7, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    return {f"{split}/{name}/1.png": png() for split in ("train", "test") for name in ("cat", "dog")}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.png", "train/../../evil.png", "/tmp/evil.png", "..", "train/cat/..", "//host/share/evil.png"),
        *("C:/evil.png", "C:evil.png", "c:\\evil.png", "..\\evil.png", "train\\..\\..\\evil.png", "\\\\host\\share\\evil.png"),
    ],
)
def test_a_name_that_leads_out_of_its_archive_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = zipped(tmp_path / "inside" / "a.zip", images())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), png())
    for reads in (read_image_folders, read_tiny_imagenet):
        with pytest.raises(WorkbookError, match="points out of the archive"):
            reads(str(path))
    assert [each.name for each in tmp_path.rglob("*")] == ["inside", "a.zip"]


def test_reading_an_archive_writes_nothing(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", images() | {"train/cat/2\0.txt": png()})
    classes, (train, _), *_ = read_image_folders(str(path))
    assert classes == ("cat", "dog") and len(train) == 3
    assert [each.name for each in tmp_path.iterdir()] == ["a.zip"]


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", images())
    (tmp_path / "secret.png").write_bytes(png())
    link = zipfile.ZipInfo("train/cat/2.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(tmp_path / "secret.png"))
    with pytest.raises(WorkbookError, match=r"train/cat/2\.png .*is not a whole image"):
        read_image_folders(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_links_in_a_folder_lead_to_ordinary_files_alone(tmp_path: Path) -> None:
    for name, content in images().items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    (tmp_path / "elsewhere.png").write_bytes(png())
    link = tmp_path / "data" / "train" / "cat" / "2.png"
    link.symlink_to(tmp_path / "elsewhere.png")
    assert len(read_image_folders(str(tmp_path / "data")).train[0]) == 3
    for endless in ("/dev/zero", tmp_path / "pipe"):
        link.unlink()
        if isinstance(endless, Path):
            os.mkfifo(endless)
        link.symlink_to(endless)
        with pytest.raises(WorkbookError, match="no ordinary file"):
            read_image_folders(str(tmp_path / "data"))
        assert read_image_folders(str(tmp_path / "data"), Reading(skip_unreadable=True)).skipped == ("train/cat/2.png",)


def lying(path: Path, claimed: int) -> Path:
    """The archive with its first member's size written down as another, in both places."""
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(mark)
        content[start + at : start + at + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("claimed", [None, 100, 2**32 - 2])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_unpacks_to_much_more_fills_no_memory(
    claimed: int | None, method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "LARGEST_FILE", 2**16)
    path = zipped(tmp_path / "a.zip", images() | {"train/cat/1.png": bytes(2**23)}, method)
    if claimed is not None:
        lying(path, claimed)
    tracemalloc.start()
    try:
        with pytest.raises(WorkbookError, match=r"train/cat/1\.png"):
            read_image_folders(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_an_image_that_says_it_is_huge_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    content = bytearray(png())
    for side, told in ((9_000, "9000x9000 pixels, more than 67,108,864 in all"), (60_000, "3600000000 pixels")):
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = crc32(bytes(content[12:29])).to_bytes(4, "big")
        for size in (None, 8):
            with pytest.raises(WorkbookError, match=told):
                files = images() | {"train/cat/1.png": bytes(content)}
                read_image_folders(str(zipped(tmp_path / "a.zip", files)), Reading(size=size))


def test_files_that_are_left_out_keep_no_memory(tmp_path: Path) -> None:
    files = images() | {f"train/cat/{i + 2}.png": bytes(2**20) for i in range(40)}
    path = str(zipped(tmp_path / "a.zip", files))
    tracemalloc.start()
    try:
        assert len(read_image_folders(path, Reading(skip_unreadable=True)).skipped) == 40
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_images_that_do_not_fit_the_memory_are_refused_before_it_is_taken() -> None:
    with pytest.raises(WorkbookError, match=r"10,000,000 images of 4096x4096 pixels take .* GB, more than"):
        image_files.require_memory(10_000_000, 4096, 4096)
    image_files.require_memory(1, 4, 4)


def test_no_program_is_started_to_read_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(eps)) as image, pytest.raises(AssertionError):
        image.load()
    for name in ("train/cat/1.eps", "train/cat/1.png"):
        files = {each: content for each, content in images().items() if each != "train/cat/1.png"} | {name: eps}
        with pytest.raises(WorkbookError, match="is not a whole image"):
            read_image_folders(str(zipped(tmp_path / "a.zip", files)))


def test_arrays_that_would_fill_the_memory_are_refused_by_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsara_lib.evaluation.files.LARGEST", 10_000)
    np.savez_compressed(tmp_path / "a.npz", labels=np.zeros(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(WorkbookError, match="more than 10,000"):
            load_arrays(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_card_that_asks_for_more_than_its_weights_hold_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = zoo.load("DSARA").blueprint(10)
    require_at_most(blueprint, 0)  # small enough to be looked at
    with pytest.raises(WorkbookError, match="bytes of parameters; there are 1,000"):
        require_at_most(replace(blueprint, channels=20_000, num_cells=5), 1000)


@pytest.mark.parametrize(
    "change", [{"num_cells": 10**30}, {"num_cells": 10**7}, {"channels": 10**30}, {"num_classes": 10**12}, {"in_channels": 10**9}]
)
def test_sizes_that_no_machine_holds_are_refused_at_once(change: dict[str, int]) -> None:
    written = zoo.load("DSARA").blueprint(10).to_dict()
    with pytest.raises(WorkbookError, match="at most"):
        blueprint_from_dict({**written, **change})
    for space in ({"num_nodes": 10**9}, {"filters": [1, 2, 10**12]}):
        with pytest.raises(WorkbookError, match="does not describe a network"):
            blueprint_from_dict({**written, "space": written["space"] | space})


@pytest.mark.parametrize("name", ["DSARA", "RACL"])
def test_the_quick_bound_lies_above_the_parameters_of_any_network(name: str) -> None:
    for size in ({"num_cells": 6, "channels": 3, "num_classes": 200}, {"num_cells": 5, "channels": 130}):
        blueprint = replace(zoo.load(name).blueprint(10), **size, auxiliary=True)
        with torch.device("meta"):
            parameters = sum(each.numel() for each in blueprint.build().parameters())
        assert parameters < _bound(blueprint) < HARMLESS


# -- names that are commands -------------------------------------------------------------------------------------------


def commands(marker: Path) -> list[str]:
    """Texts that would make the marker if anything ran them."""
    make = f"open({str(marker)!r}, 'w')"
    shell = f"touch {marker}"
    return [
        *(f'"); {make}; ("', f"'); {make}; ('", f'"""\n{make}\n"""', f"{{{make}}}", f"\\\n{make}", f'\\"; {make} #'),
        *(f"\n!{shell}\n", f"\n%sx {shell}\n", f"%%bash\n{shell}", f"\u2028!{shell}", f"\x85{make}", f"\r{make}", f"\x0c{make}"),
        *(f"$({shell})", f"`{shell}`", f"; {shell} #", f"| {shell}", f"__import__('os').system({shell!r})", "a\\", "\\", '"', "'"),
        *(f"!{shell}", f"?{make}", "\x1b]0;x\x07", "a" * 100_000, "\N{RIGHT-TO-LEFT OVERRIDE}x", "%r %s {x!r}", "../" * 20 + "etc"),
    ]


def template(folder: Path, names: list[str]) -> Path:
    """A notebook with a parameters cell as ours, which checks what came and writes it down."""
    from nbformat import v4, write

    parameters = v4.new_code_cell("\n".join(f'{name}: str = "default"  # a text' for name in names))
    parameters.metadata["tags"] = ["parameters"]
    check = "import json\nfrom pathlib import Path\nfrom dsara_lib.notebooks import checked_parameters\n"
    check += (
        "given = checked_parameters(globals())\nPath(given.pop('WHERE')).write_text(json.dumps(given))\nprint('all texts came')"
    )
    notebook = v4.new_notebook(cells=[parameters, v4.new_code_cell(check)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write(notebook, folder / "strange.ipynb")
    return folder / "strange.ipynb"


def test_a_notebook_that_is_really_run_gets_every_text_as_it_is_runs_none_and_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, texts = tmp_path / "executed", commands(tmp_path / "executed")
    given = {f"TEXT{number}": text for number, text in enumerate(texts)}
    path = template(tmp_path, ["WHERE", *given])
    assert notebooks.typed(path, given) == given
    with notebooks.one_kernel() as manager:
        notebooks.execute(path, tmp_path / "out.ipynb", {"WHERE": str(tmp_path / "came.json"), **given}, manager)
    assert json.loads((tmp_path / "came.json").read_text()) == given
    assert not marker.exists()
    assert "    all texts came\n" in capsys.readouterr().out


def only_assigns(source: str) -> dict[str, Any]:
    """The values that a cell assigns, as a notebook would run it; fails where it does anything else."""
    from IPython.core.inputtransformer2 import TransformerManager

    assert TransformerManager().transform_cell(source) == source  # no line of it is a command of IPython's
    found = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["RUN", "DATA", "CHANGES"]), st.text() | st.lists(st.text()), min_size=1))
def test_an_injected_cell_is_nothing_but_values(given: dict[str, Any]) -> None:
    from papermill.translators import PythonTranslator

    assert only_assigns(PythonTranslator.codify(given)) == given


def test_papermill_itself_passes_texts_and_loads_no_objects_from_yaml(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from nbformat import read
    from papermill.cli import papermill

    marker = tmp_path / "executed"
    texts = [each for each in commands(marker) if "\0" not in each]
    path, out = template(tmp_path, ["WHERE", "RUN"]), tmp_path / "out.ipynb"
    for text in texts:
        for option in ("-p", "-r"):
            done = CliRunner().invoke(papermill, [str(path), str(out), option, "RUN", text, "--prepare-only"])
            assert done.exit_code == 0, done.output
            (injected,) = (cell for cell in read(out, 4).cells if "injected-parameters" in cell.metadata.tags)
            assert only_assigns(injected.source) == {"RUN": text}
    yaml = f"RUN: !!python/object/apply:os.system ['touch {marker}']"
    assert CliRunner().invoke(papermill, [str(path), str(out), "-y", yaml, "--prepare-only"]).exit_code != 0
    assert not marker.exists()


@pytest.mark.parametrize("name", ["RUN; import os", "RUN = 1\nimport os #", "%sx ls", "run", "", "__builtins__"])
def test_a_parameter_by_a_name_that_the_notebook_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WorkbookError, match="unknown parameter"):
        notebooks.typed(template(tmp_path, ["RUN"]), {name: "x"})


# -- markup ------------------------------------------------------------------------------------------------------------


def spoilt(document: Any, draw: random.Random) -> Any:
    """The same with every text that no reader needs to know made hostile, by chance."""
    if isinstance(document, dict):
        return {key: spoilt(each, draw) for key, each in document.items()}
    if isinstance(document, list):
        return [spoilt(each, draw) for each in document]
    return SCRIPT if isinstance(document, str) and draw.random() < 0.5 else document


@pytest.mark.parametrize("seed", range(6))
def test_nothing_of_a_strangers_run_becomes_markup_in_the_browser_of_runs(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    for name in ("one", "two"):
        for file, whole in FOLDER.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if file == "run.json":
                card = whole | {"settings": spoilt(whole["settings"], draw), "created": SCRIPT, "library": SCRIPT}
                card["settings"][SCRIPT] = name
                path.write_text(json.dumps(card))
            elif file.endswith(".json"):
                path.write_text(json.dumps(spoilt(whole, draw)))
            elif file.endswith(".csv"):
                path.write_bytes(whole.replace(b"digits", SCRIPT.replace('"', '""').encode()).replace(b"FGSM", b"<script>"))
            else:
                path.write_bytes(written(whole))
    (tmp_path / "one" / "search" / "epochs.jsonl").write_text(SCRIPT)
    runs = known_runs(tmp_path)
    view = browser(tmp_path, runs, order="name", chosen=["one", "two"], curves="losses of the search")
    assert "<script" not in view.html and "<img src=x" not in view.html and "alert(1)" in view.html


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e308", "-1e308"])
def test_numbers_that_cannot_be_drawn_leave_the_browser_of_runs_standing(number: str, tmp_path: Path) -> None:
    TARGETS["folder of a run"].read(tmp_path, b"\0")
    run = tmp_path / "results" / "strange"
    card = (run / "run.json").read_text()
    (run / "run.json").write_text(card.replace('"eps": 0.15', f'"eps": {number}', 1))
    for epochs in (run / "search" / "epochs.jsonl", run / "networks" / "found" / "epochs.jsonl"):
        first, *others = map(json.loads, epochs.read_text().splitlines())
        strange = {k: float(number) if isinstance(v, float) else v for k, v in first.items()}
        epochs.write_text("".join(json.dumps(each) + "\n" for each in (strange, *others)))
    table = run / "evaluation" / "white_box.csv"
    table.write_text(table.read_text().replace("0.05,", f"{number.lower()},", 2))
    for curves in CURVES:
        view = browser(run.parent, known_runs(run.parent), order="newest first", chosen=["strange"], curves=curves)
        assert "strange" in view.html


@pytest.mark.parametrize("backend", ["pygraphviz", "matplotlib"])
@pytest.mark.parametrize(
    "name",
    [
        *("<<table><tr><td>x</td></tr></table>>", '"]; x [label="y', SCRIPT, "a\\", "$a_$ $", '\n"', "a\0b", "\\N"),
        "<<table><tr><td><img src='/etc/hostname'/></td></tr></table>>",
    ],
)
def test_a_genotypes_name_is_a_title_in_a_drawing_and_nothing_else(name: str, backend: str) -> None:
    found = replace(zoo.load("DSARA").genotype, name=name)
    drawn = cell_svg(found, "robust", title=found.name, backend=backend)
    plain = cell_svg(found, "robust", title="x", backend=backend)
    for mark in ("<script", "<img", "<image", "<a ", "<table", "onerror=alert(2)>"):
        assert mark not in drawn
    assert drawn.count("<path") >= plain.count("<path") and drawn.count("<ellipse") == plain.count("<ellipse")


def test_a_networks_name_is_a_title_in_its_drawing_and_nothing_else() -> None:
    blueprint = zoo.load("DSARA").blueprint(10, num_cells=5, channels=4)
    for name in (SCRIPT, "$a_$ $", "<<table>"):
        drawn = network_svg(replace(blueprint, genotype=replace(blueprint.genotype, name=name)))
        assert "<script" not in drawn and "<img" not in drawn


def test_a_genotypes_name_leads_to_no_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.setattr("dsara_lib.drawing.save_cells", lambda genotype, folder: save_cells(genotype, folder, backend="matplotlib"))
    run = type("Run", (), {"path": lambda self, *parts: (tmp_path / "results" / "run").joinpath(*parts)})()
    whole = zoo.load("DSARA").genotype
    strange = replace(whole, name="../../../evil", cells={"reduction": whole.cells["reduction"]})
    notebooks.show_cells(type("Experiment", (), {"run": run})(), strange)
    assert {path.parent.parent for path in tmp_path.rglob("*.svg")} == {tmp_path / "results" / "run" / "figures"}


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "", "a/b"])
def test_a_name_in_a_table_leads_to_no_other_folder(name: str, tmp_path: Path) -> None:
    run = tmp_path / "results" / "strange"
    content = FOLDER["evaluation/white_box.csv"].replace(b"\nfound,", f"\n{name},".encode())
    TARGETS["folder of a run"].read(tmp_path, b"evaluation/white_box.csv\0" + content)
    (tmp_path / "results" / "evil.npz").write_bytes((run / "evaluation" / "found.npz").read_bytes())
    record = read_record(run)
    assert record.evaluations == {} and record.troubles


def test_half_a_letter_is_refused_where_it_enters(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_text(json.dumps(zoo.load("DSARA").genotype.to_dict() | {"name": "\ud800"}))
    with pytest.raises(WorkbookError, match="not valid JSON"):
        Genotype.load(tmp_path / "genotype.json")
    (tmp_path / "whole.json").write_text(json.dumps({"name": "\U0001f600"}))
    assert read_json(tmp_path / "whole.json") == {"name": "\U0001f600"}
