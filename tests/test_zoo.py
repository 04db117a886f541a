"""The networks of the paper's tables: their cost beside what is printed, and that all is done with each as with any other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architecture import with_anything
from test_prepared import check, norms, pixels, trained
from torch import nn
from toys import TRAIN, toy_data

from dsara_lib.architecture import (
    AnyBlueprint,
    Blueprint,
    Cost,
    DesignBlueprint,
    SearchSpace,
    blueprint_cost,
    blueprint_from_dict,
    cost,
    match_channels,
    zoo,
)
from dsara_lib.architecture.designs import DenseNet, Design, ResNet, WideResNet
from dsara_lib.cli import main
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.experiment import open_experiment
from dsara_lib.paper import paper_tables, table1
from dsara_lib.training import Trainer, load_network

PRINTED = {zoo.full_name(row["model"]): row for row in table1()}
BUILT = [name for name in PRINTED if name in zoo.names()]
# Where the network that can be built does not come out as printed: what comes out, and why.
OTHERWISE: dict[str, tuple[dict[str, str], str]] = {
    "ResNet-18": ({"flops": "37.17M"}, "with 1000 classes"),
    "DenseNet-121": ({"flops": "58.82M"}, "with 1000 classes"),
}
NOT_YET = {"RobNet-free", "ABanditNAS-10"}
WITHOUT_GENOTYPE = [name for name in zoo.names() if name not in zoo.genotypes()]


def tiny(name: str, num_classes: int = 3, **options: Any) -> AnyBlueprint:
    return zoo.load(name).resized(num_classes, 3, 5, 2).with_options(**options)


def as_printed(counted: Cost) -> dict[str, str]:
    flops = counted.table1_flops
    return {
        "params": f"{counted.parameters / 1e6:.1f}M",
        "flops": f"{flops / 1e9:.2f}G" if flops >= 1e9 else f"{flops / 1e6:.2f}M",
    }


# ------------------------------------------------------------------------------------------------------------ the tables


def test_zoo_knows_every_network_of_tables_1_to_3() -> None:
    tables = paper_tables()
    named = {*PRINTED, *tables["table2"]["targets"], *(row[1] for row in tables["table3"]["rows"])}
    known = {*zoo.names(), *zoo.paper_only()}
    assert {zoo.full_name(name) for name in named} - known == NOT_YET
    assert set(zoo.ALIASES.values()) <= known and not set(zoo.ALIASES) & known


@pytest.mark.parametrize("name", [name for name in BUILT if name not in zoo.genotypes()])
def test_cost_is_that_of_table_1_or_differs_for_a_reason_that_is_told(name: str) -> None:
    row, (differs, why) = PRINTED[name], OTHERWISE.get(name, ({}, ""))
    assert as_printed(blueprint_cost(zoo.load(name).blueprint())) == {k: row[k] for k in ("params", "flops")} | differs
    assert not differs or any(row[key] != text for key, text in differs.items())
    assert why in zoo.load(name).note


@pytest.mark.parametrize("name", ["ResNet-18", "DenseNet-121"])
def test_flops_of_hand_designed_networks_are_those_with_1000_classes(name: str) -> None:
    assert as_printed(blueprint_cost(zoo.load(name).blueprint(1000)))["flops"] == PRINTED[name]["flops"]


@pytest.mark.parametrize(("name", "parameters"), [("WideResNet-34-10", 46_160_474), ("WRN-34-R", 68_116_698)])
def test_wide_networks_have_as_many_parameters_as_their_papers_say(name: str, parameters: int) -> None:
    assert blueprint_cost(zoo.load(name).blueprint()).parameters == parameters


@pytest.mark.parametrize("name", zoo.paper_only())
def test_what_was_not_published_is_refused_and_its_printed_numbers_are_shown(name: str, capsys: Any) -> None:
    assert name in ("DSRNA", "NADAR") and name not in zoo.names()
    with pytest.raises(WorkbookError, match=f"{name}: No genotype was published"):
        zoo.load(name)
    assert main(["cost", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"] is None and shown["printed"]["params"] == PRINTED[name]["params"]
    assert main(["cost", name]) == 0
    assert PRINTED[name]["flops"] in capsys.readouterr().out


def test_other_names_of_a_network_load_it() -> None:
    assert all(zoo.load(alias) == zoo.load(name) for alias, name in zoo.ALIASES.items())
    with pytest.raises(WorkbookError, match="did you mean 'ResNet-18'"):
        zoo.load("resnet18")


def test_network_of_no_genotype_says_so() -> None:
    with pytest.raises(WorkbookError, match="ResNet-18 is not a stack"):
        _ = zoo.load("ResNet-18").genotype
    with pytest.raises(WorkbookError, match="unknown option of ResNet-18 'num_cells'"):
        zoo.load("ResNet-18").blueprint(num_cells=5)
    with pytest.raises(WorkbookError, match="unknown option of DARTS 'chanels'; did you mean 'channels'"):
        zoo.load("DARTS").blueprint(chanels=5)


# ----------------------------------------------------------------------------------------------------------- the networks


def take_over(ours: nn.Module, theirs: nn.Module) -> None:
    """Give our network the numbers of another with the same tensors in the same order, but for where a shortcut stands."""
    by_shape: dict[tuple[int, ...], Iterator[torch.Tensor]] = {}
    shapes = {tuple(value.shape) for value in theirs.state_dict().values()}
    for shape in shapes:
        by_shape[shape] = iter([value for value in theirs.state_dict().values() if tuple(value.shape) == shape])
    ours.load_state_dict({name: next(by_shape[tuple(value.shape)]) for name, value in ours.state_dict().items()})
    assert all(next(rest, None) is None for rest in by_shape.values())


SMALL_DENSE = {"growth_rate": 3, "block_config": (2, 1, 2, 1), "num_init_features": 6, "num_classes": 4}
KNOWN: dict[str, tuple[Design, Any]] = {
    "ResNet-18": (ResNet(), lambda: torchvision.models.resnet18(num_classes=4)),
    "DenseNet": (DenseNet(channels=3, blocks=(2, 1, 2, 1)), lambda: torchvision.models.DenseNet(**SMALL_DENSE)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_hand_designed_networks_compute_what_the_well_known_ones_do(name: str) -> None:
    design, make = KNOWN[name]
    ours = DesignBlueprint(name=name, design=design, num_classes=4).build().double()
    theirs = trained(make()).eval()
    take_over(ours, theirs)
    images = torch.rand(2, 3, 32, 32).double()
    torch.testing.assert_close(ours.eval()(images), theirs(images))


def test_wide_block_is_norm_relu_convolution_twice() -> None:
    body, width = WideResNet(channels=3, filters=(1, 2), blocks=(1, 2)).body(3)
    assert width == 6 and isinstance(body, nn.Sequential)
    norms_first = [isinstance(m, nn.BatchNorm2d) for m in body.modules() if isinstance(m, nn.BatchNorm2d | nn.Conv2d)]
    assert norms_first == [False, *([True, False, True, False, False] * 2), *[True, False] * 2, True]
    assert body(torch.rand(2, 3, 8, 8)).shape == (2, 6, 4, 4)
    for block in (m for m in body.modules() if type(m).__name__ == "WideBlock"):
        nn.init.zeros_(block.convolutions[3].weight)  # what is left is the shortcut
    last, x = body[3], torch.rand(2, 6, 4, 4)
    assert torch.equal(last(x), x)


def test_stem_for_small_images_keeps_their_resolution() -> None:
    for name in ("ResNet-18", "DenseNet-121"):
        small, large = (tiny(which).build() for which in (f"{name}-32x32", name))
        assert isinstance(small.body, nn.Sequential) and isinstance(large.body, nn.Sequential)
        x = torch.rand(2, 3, 32, 32)
        assert small.body(x).shape[2:] == (4, 4) and large.body(x).shape[2:] == (1, 1)


@pytest.mark.parametrize("name", WITHOUT_GENOTYPE)
def test_blueprint_of_any_kind_survives_json(name: str) -> None:
    for blueprint in (zoo.load(name).published, tiny(name, 7, in_channels=1, normalisation=((0.5,), (0.25,)))):
        read = blueprint_from_dict(json.loads(json.dumps(blueprint.to_dict())))
        assert read == blueprint and read.name == name and read.size == blueprint.size
    assert [v.shape for v in read.build().state_dict().values()] == [v.shape for v in blueprint.build().state_dict().values()]


def test_blueprint_of_a_genotype_is_written_as_before_and_read_from_old_cards() -> None:
    written = json.loads(json.dumps(tiny("DARTS").to_dict()))
    assert "kind" not in written and blueprint_from_dict(written) == tiny("DARTS")
    assert blueprint_from_dict(written) == Blueprint.from_dict(written)


@settings(max_examples=20)
@given(st.composite(with_anything)(json.loads(json.dumps(tiny("WRN-34-R").to_dict()))))
def test_blueprint_of_a_design_with_anything_inside_is_read_or_refused(text: Any) -> None:
    try:
        blueprint_from_dict(text, "card.json")
    except WorkbookError as error:
        assert str(error).startswith("card.json ")


@pytest.mark.parametrize("name", WITHOUT_GENOTYPE)
@pytest.mark.usefixtures("without_shape_check")  # it would be traced, too
def test_network_is_prepared_for_attacks(name: str) -> None:
    model = trained(tiny(name, 4).build())
    assert norms(check(model, pixels())) == 0
    assert cost(model, 32).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["ResNet-18", "DenseNet-121-32x32", "WRN-34-R"])  # one of each design
def test_network_is_trained_and_read_back(name: str, tmp_path: Any) -> None:
    data = toy_data()
    job = Trainer(tiny(name, data.num_classes), data, replace(TRAIN, epochs=1))
    for _ in run_epochs(job, tmp_path):
        pass
    assert job.name == name
    read = load_network(tmp_path / "last")
    images = torch.rand(3, 3, 4, 4)
    assert torch.equal(read(images), job.network.eval()(images)) and read(images).shape == (3, 3)


def test_any_network_can_be_a_baseline(tmp_path: Any) -> None:
    baselines = ",".join(zoo.names())
    experiment = open_experiment("beside", limit=4, changes=f"baselines={baselines}", device="cpu", results=tmp_path)
    zoo.load("DSARA").genotype.save(experiment.search_folder / "genotype.json")
    plans = experiment.networks_to_train()
    assert set(zoo.names()) < set(plans)
    for name in zoo.names():
        assert (plans[name][0].channels, plans[name][0].num_classes) == (experiment.preset.channels, 10)


# ----------------------------------------------------------------------------------------------------------- equal size


@pytest.mark.parametrize("name", ["DARTS", "DSARA"])
def test_any_genotype_stands_in_any_space(name: str) -> None:
    for placement in ("A-A-R", "A-A-A", "R-R-R"):
        space = SearchSpace(placement=placement, filters=(1, 2, 1))
        placed = zoo.load(name).blueprint(4, space=space, num_cells=5, channels=2)
        assert placed.build()(torch.rand(1, 3, 8, 8)).shape == (1, 4)
        assert isinstance(placed, Blueprint) and placed.space == space and placed.name == name
        own = zoo.load(name).genotype
        assert all(placed.genotype.cells[kind] in own.cells.values() for kind in space.kinds)
        assert all(placed.genotype.cells[kind] == cell for kind, cell in own.cells.items())
    with pytest.raises(WorkbookError, match="4 nodes; expected 3"):
        zoo.load(name).blueprint(space=SearchSpace(num_nodes=3))


@pytest.mark.parametrize("name", ["DARTS", "ResNet-18", "WRN-34-R"])
@pytest.mark.parametrize("what", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("other", [1, 13])
def test_channels_are_matched_to_the_nearest_cost(name: str, what: str, other: int) -> None:
    blueprint = tiny(name, channels=6)

    def count(channels: int) -> int:
        number: int = getattr(cost(blueprint.with_options(channels=channels).build(), 8), what)
        return number

    wanted = 1 if other == 1 else count(other) + 17  # nothing is as small as 1
    matched = match_channels(blueprint, **{what: wanted}, image_size=8)
    assert matched.channels == max(other, 2) and matched == blueprint.with_options(channels=matched.channels)
    if other > 1:
        nearer = [abs(count(each) - wanted) for each in (other - 1, other, other + 1)]
        assert min(nearer) == nearer[1]


def test_rivals_are_brought_to_the_size_of_dsara() -> None:
    ours = blueprint_cost(zoo.load("DSARA").published)
    rival = match_channels(zoo.load("DARTS").published, parameters=ours.parameters)
    assert rival.channels == 42
    assert blueprint_cost(rival).parameters == pytest.approx(ours.parameters, rel=0.03)


@pytest.mark.parametrize("wanted", [{}, {"parameters": 1000, "multiply_adds": 1000}, {"parameters": 0}])
def test_match_that_says_not_what_to_match_is_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(WorkbookError, match="channels are matched to"):
        match_channels(zoo.load("DARTS").published, **wanted)
