"""Every row of the zoo at its smallest: it trains, is attacked, is kept and read back, and can be drawn."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from test_drawing import ids, texts
from test_zoo import tiny
from toys import TRAIN, toy_data

from dsara_lib.architecture import DesignBlueprint, zoo
from dsara_lib.architecture.pieces import pieces
from dsara_lib.architecture.rivals import Denoising, Gabor
from dsara_lib.attacks import PGD
from dsara_lib.cli import main
from dsara_lib.drawing import cell_graphs, cell_name, draw_cell, draw_network, network_svg
from dsara_lib.errors import WorkbookError
from dsara_lib.panel.architecture import PRINTED_FOR, designed, designs
from dsara_lib.training import Trainer, load_card, load_network

ROWS = pytest.mark.parametrize("name", zoo.names())
DATA = toy_data(per_class=4)
TWO_STEPS = replace(TRAIN, epochs=1, batch_size=4)
CODED, SINGLE = "RobNet-free", "ABanditNAS-10"


@ROWS
def test_a_row_is_trained_attacked_kept_and_read_back(name: str, tmp_path: Path) -> None:
    blueprint = tiny(name)
    job = Trainer(blueprint, DATA, TWO_STEPS)
    job._source = job.network  # what preparing it for attacks promises has tests of its own, and takes as long as all of this
    before = {key: weight.detach().clone() for key, weight in job.network.named_parameters()}
    losses = [metrics["train/adversarial_loss"] for metrics in job.run_epoch() if metrics]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    moved = [not torch.equal(weight, before[key]) for key, weight in job.network.named_parameters()]
    assert sum(moved) > 0.9 * len(moved)  # a Gabor filter behind a norm that begins at 0 waits for its turn

    job.export(tmp_path)
    read = load_network(tmp_path / "last")
    assert load_card(tmp_path / "last")["blueprint"] == json.loads(json.dumps(blueprint.to_dict()))
    state = read.state_dict()
    assert all(torch.equal(state[key], value) for key, value in job.network.state_dict().items())

    images, labels = DATA.test.images[:6].float() / 255, DATA.test.labels[:6]
    with torch.random.fork_rng():
        attacked = PGD(eps=0.1, step_size=0.05, steps=2)(read, images, labels)
    assert 0 < (attacked - images).abs().max() <= 0.1 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    assert torch.isfinite(read(attacked)).all()


# ------------------------------------------------------------------------------------------------------------- drawings


@ROWS
def test_a_row_is_drawn_with_all_its_parts(name: str) -> None:
    blueprint = tiny(name, 10, channels=4)
    stack, said = pieces(blueprint), texts(network_svg(blueprint))
    groups = [(kind, len(list(group))) for kind, group in groupby(piece.kind for piece in stack)]
    words = "|".join({kind for kind, _ in groups})
    found = [re.fullmatch(rf"(?:(\d+)× )?({words})", each) for each in said.elements()]
    drawn = Counter[str]()
    for count, kind in (each.groups() for each in found if each):
        drawn[kind] += int(count or 1)
    assert drawn == Counter(piece.kind for piece in stack)
    for piece in stack:
        assert f"{piece.size}×{piece.size}" in said
    assert f"{name}: {blueprint.size}" in said and "10 classes" in said


@pytest.mark.parametrize("name", ["DSARA", CODED, SINGLE, "ResNet-18", "DenseNet-121", "DenseNet-121-32x32", "WRN-34-R"])
def test_parts_give_on_what_the_built_network_does(name: str) -> None:
    blueprint = tiny(name, channels=4)
    network, given = blueprint.build().eval(), list[Any]()
    owner: Any = network.body if isinstance(blueprint, DesignBlueprint) else network
    parts = [owner.stem, *owner.cells] if hasattr(owner, "cells") else list(owner)
    for part in parts:
        part.register_forward_hook(lambda _, __, output: given.append(tuple(output.shape[1:3])))
    network(torch.zeros(1, 3, 32, 32))
    told = [(piece.channels, piece.size) for piece in pieces(blueprint)]
    # Layers of a stem come one by one here; a norm at the end changes nothing.
    assert [each for each, _ in groupby(given)][-len([each for each, _ in groupby(told)]) :] == [each for each, _ in groupby(told)]
    assert sum(piece.number > 0 for piece in pieces(blueprint)) == (
        len(owner.cells) if hasattr(owner, "cells") else 10 * (name == SINGLE)
    )


def test_each_cell_of_robnet_is_drawn_by_its_own_code() -> None:
    blueprint: Any = zoo.load(CODED).published
    design = blueprint.design
    assert list(cell_graphs(blueprint)) == [f"cell {number}" for number in range(1, 21)]
    for number in (1, 14):
        svg = draw_cell(blueprint, cell_name(blueprint, number), backend="matplotlib").decode()
        edges = dict(zip(design.SPACE.edges, design.codes[number - 1].split(), strict=True))
        said = {"10": "skip", "01": "sep 3x3", "11": "sep 3x3 + skip"}
        wanted = Counter(said[bits] for bits in edges.values() if bits != "00")
        assert wanted <= texts(svg) and sum(wanted.values()) == sum(
            " 3x3" in each or each == "skip" for each in texts(svg).elements()
        )
        named = ("k-2", "k-1", "2", "3", "4", "5")
        lines = {f"cell {number}:{named[source]}->{named[node]}" for (source, node), bits in edges.items() if bits != "00"}
        assert lines <= ids(svg)
    assert cell_graphs(blueprint)["cell 1"] != cell_graphs(blueprint)["cell 2"]


def test_filters_against_noise_are_marked_wherever_abanditnas_has_them() -> None:
    blueprint: Any = zoo.load(SINGLE).published
    svg = draw_cell(blueprint, backend="matplotlib").decode()
    named = Counter(operation for cell in blueprint.design.cells for operation, _ in cell)
    assert texts(svg)["Gabor filter"] == named["gab_filt"] > 0 and texts(svg)["denoising"] == named["dtp_blok"] > 0
    assert "k-2" not in texts(svg) and texts(svg)["k-1"] == len(blueprint.design.cells)
    order = blueprint.design.order
    same = [cell_name(blueprint, 1 + at) == cell_name(blueprint, 1 + other) for at in range(10) for other in range(10)]
    assert same == [order[at] == order[other] for at in range(10) for other in range(10)]
    built = tiny(SINGLE).build()
    assert any(isinstance(module, Gabor) for module in built.modules())
    behind = sum(isinstance(layer, Denoising) for layer in built.body.children())
    assert sum(piece.kind == "denoising" for piece in pieces(tiny(SINGLE))) == behind == 3


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_same_picture_comes_each_time(format: str) -> None:
    beginnings = {"svg": b"<?xml", "png": b"\x89PNG"}
    for draw in (
        lambda: draw_network(tiny("DSARA"), format=format),
        lambda: draw_cell(tiny("DSARA"), "robust cell", format=format),
    ):
        assert draw() == draw() and draw().startswith(beginnings[format])


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["ResNet-18"], "resnet-18.svg"),
        (["WRN-34-10", "--out", "wide.pdf"], "wide.pdf"),
        (["PDARTS", "--kind", "reduction"], "p-darts-reduction-cell.svg"),
        ([CODED, "--cell", "20", "--out", "last.png"], "last.png"),
        (["mine.json", "--cell", "1"], "mine-accurate-cell.svg"),
    ],
)
def test_draw_writes_a_file(arguments: list[str], written: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    replace(zoo.load("DSARA").genotype, name="mine").save(tmp_path / "mine.json")
    assert main(["draw", *arguments]) == 0 and written in capsys.readouterr().out
    beginning = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[Path(written).suffix]
    assert (tmp_path / written).read_bytes().startswith(beginning)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["NADAR"], "NADAR: No genotype was published"),
        (["ResNet-19"], "did you mean 'ResNet-18'"),
        (["DenseNet-121", "--cell", "1"], "DenseNet-121 has no cells: it is a stack of blocks"),
        (["DSARA", "--kind", "robus"], "did you mean 'robust cell'"),
        (["DSARA", "--cell", "21"], "DSARA has cells 1 to 20; got 21"),
        (["DARTS", "--out", "darts.gif"], "unknown picture format 'gif'"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_sentence(arguments: list[str], sentence: str, capsys: Any) -> None:
    assert main(["draw", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_a_network_of_blocks_has_no_cells() -> None:
    with pytest.raises(WorkbookError, match="no cells"):
        cell_graphs(tiny("WRN-34-R"))
    assert not any(piece.number for piece in pieces(tiny("WRN-34-R")))


# ------------------------------------------------------------------------------------------------------------- explorer


def test_the_explorer_shows_a_design_with_its_cells_and_cost() -> None:
    view = designed(designs()[SINGLE], channels=4, images=(8, 1, 10))
    assert view.html.count("<svg") == 1 + 6 and "8×8 pixels, 1 channel, 10 classes" in view.words
    assert view.idle == ("placement", "filters", "num_cells") and "printed in Table 1" not in view.html


def test_at_its_own_size_a_design_stands_beside_table_1() -> None:
    view = designed(designs()["ResNet-18"], channels=64, images=PRINTED_FOR)
    assert view.html.count("<svg") == 1 and "printed in Table 1" in view.html and zoo.load("ResNet-18").note[:30] in view.html
    assert "11.18M parameters" in view.words
