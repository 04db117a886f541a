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
from torch.utils.flop_counter import FlopCounterMode
from toys import TRAIN, toy_data

from dsara_lib.architecture import (
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
from dsara_lib.architecture.classics import DenseNet, ResNet, WideResNet
from dsara_lib.architecture.designs import Design
from dsara_lib.architecture.rivals import ABanditNAS, CodedCell, Denoising, DotProduct, Gabor, RobNet, Stack, dot_product
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
    "RobNet-free": ({"params": "5.4M"}, "5.6M parameters; the codes that its authors published give 5.4M"),
}
WITHOUT_GENOTYPE = [name for name in zoo.names() if name not in zoo.genotypes()]


def tiny(name: str, num_classes: int = 3, **options: Any) -> Any:
    small: Any = zoo.load(name).resized(num_classes, 3, 5, 2)
    if name == "RobNet-free":  # 20 cells take their time
        options["codes"] = small.design.codes[4:9]
    if name.startswith("DenseNet"):
        options["blocks"] = (2, 1, 2, 1)
    return small.with_options(**options)


def as_printed(counted: Cost, row: dict[str, Any]) -> dict[str, str]:
    """Parameters and FLOPs in the units and to the digits of a row of Table 1."""
    numbers = {"params": counted.parameters, "flops": counted.table1_flops}
    units = {"M": 1e6, "G": 1e9}
    return {k: f"{v / units[row[k][-1]]:.{len(row[k].split('.')[1]) - 1}f}{row[k][-1]}" for k, v in numbers.items()}


# ------------------------------------------------------------------------------------------------------------ the tables


def test_zoo_knows_every_network_of_tables_1_to_3() -> None:
    tables = paper_tables()
    named = {*PRINTED, *tables["table2"]["targets"], *(row[1] for row in tables["table3"]["rows"])}
    known = {*zoo.names(), *zoo.paper_only()}
    assert {zoo.full_name(name) for name in named} <= known
    assert set(zoo.ALIASES.values()) <= known and not set(zoo.ALIASES) & known


@pytest.mark.parametrize("name", [name for name in BUILT if name not in zoo.genotypes()])
def test_cost_is_that_of_table_1_or_differs_for_a_reason_that_is_told(name: str) -> None:
    row, (differs, why) = PRINTED[name], OTHERWISE.get(name, ({}, ""))
    assert as_printed(blueprint_cost(zoo.load(name).blueprint()), row) == {k: row[k] for k in ("params", "flops")} | differs
    assert not differs or any(row[key] != text for key, text in differs.items())
    assert why in zoo.load(name).note


@pytest.mark.parametrize("name", ["ResNet-18", "DenseNet-121"])
def test_flops_of_hand_designed_networks_are_those_with_1000_classes(name: str) -> None:
    assert as_printed(blueprint_cost(zoo.load(name).blueprint(1000)), PRINTED[name])["flops"] == PRINTED[name]["flops"]


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


class Both(nn.Module):
    def forward(self, *x: torch.Tensor) -> list[torch.Tensor]:
        return list(x)


class Add(nn.Module):
    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


CELLS = tiny("ABanditNAS-10").design.cells
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


@pytest.mark.parametrize("number", [0, 4])
def test_coded_cell_sums_what_its_bits_say(number: int) -> None:
    design = tiny("RobNet-free").design
    assert isinstance(design, RobNet)
    stack, width = design.body(3)
    assert isinstance(stack, Stack) and width == 4 * 4 * 2
    cell, bits = stack.cells[number], "".join(design.codes[number].split())
    assert isinstance(cell, CodedCell)
    assert sum(len(each) for each in cell.incoming) == bits.count("1") == len(cell.operations)
    assert not any(m.affine for m in cell.modules() if isinstance(m, nn.BatchNorm2d))
    one, other = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    cell.inputs = Both()
    for at in range(len(cell.operations)):  # an identity adds 1, a convolution 100
        skips = not any(isinstance(m, nn.Conv2d) for m in cell.operations[at].modules())
        cell.operations[at] = Add(1 if skips else 100)
    first = cell.eval()(one, other)[:, :2]
    pairs = [design.codes[number].split()[edge] for edge in (0, 1)]
    wanted = sum(int(p[0]) * (x + 1) + int(p[1]) * (x + 100) for p, x in zip(pairs, (one, other), strict=True))
    torch.testing.assert_close(first, wanted)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (("11 11",) * 5, "two bits for each of its 14 edges"),
        ((" ".join(["12"] * 14),) * 5, "two bits for each"),
        ((" ".join(["00"] * 2 + ["11"] * 12),) * 5, "node 2 of a cell has no edge"),
        ((" ".join(["11"] * 14),) * 4, "at least 5 cells"),
    ],
)
def test_codes_that_describe_no_stack_are_refused(codes: tuple[str, ...], says: str) -> None:
    with pytest.raises(WorkbookError, match=says):
        RobNet(codes=codes)


@pytest.mark.parametrize("size", [(2, 3, 4, 4), (2, 20, 3, 3)])
def test_dot_product_is_each_pixel_s_sum_over_all_pixels(size: tuple[int, ...]) -> None:
    x = torch.rand(size, dtype=torch.double)
    weights = torch.einsum("ncij,nckl->nijkl", x, x)
    wanted = torch.einsum("nijkl,nckl->ncij", weights, x) / x[0].numel()
    torch.testing.assert_close(dot_product(x), wanted)
    with FlopCounterMode(display=False) as counter:
        dot_product(x)
    assert 2 * DotProduct().multiply_adds(x) == counter.get_total_flops()


def test_gabor_filters_are_waves_under_a_hill_and_the_same_for_every_input_channel() -> None:
    gabor = Gabor(5).double()
    kernel, x = gabor.kernel(), torch.rand(2, 5, 6, 6, dtype=torch.double)
    assert (kernel.abs() <= 1).all()
    torch.testing.assert_close(kernel[:, 0, 1, 1], torch.cos(gabor.phase))
    torch.testing.assert_close(gabor(x), nn.functional.conv2d(x, kernel.expand(5, 5, 3, 3), padding=1))
    with FlopCounterMode(display=False) as counter:
        gabor(x)
    assert 2 * gabor.multiply_adds(x) == counter.get_total_flops()


def test_denoising_starts_as_the_identity_and_halves_what_it_is_asked_to() -> None:
    x = torch.rand(2, 3, 8, 8)
    for filtering in (Gabor(3), DotProduct()):
        torch.testing.assert_close(Denoising(filtering, 3, 1)(x), x)
        assert Denoising(filtering, 3, 2)(x).shape == (2, 3, 4, 4)


def test_cells_of_abanditnas_stand_in_their_order() -> None:
    body, width = ABanditNAS(cells=CELLS, channels=2).body(3)
    assert isinstance(body, nn.Sequential) and width == 4 * 8
    kinds = [type(layer).__name__ for layer in body[1:]]
    assert [at for at, kind in enumerate(kinds) if kind == "Denoising"] == [3, 7, 10]
    with pytest.raises(WorkbookError, match="did you mean 'gab_filt'"):
        ABanditNAS(cells=((("gabor_filt", 0),),), order=(0,))
    with pytest.raises(WorkbookError, match="from an earlier node; got 1"):
        ABanditNAS(cells=((("gab_filt", 1),),), order=(0,))
    with pytest.raises(WorkbookError, match="numbers of cells"):
        ABanditNAS(cells=CELLS, order=(6,))


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
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.9  # a product of features with themselves three times over needs a norm that knows their size
    for _ in range(4):
        model.train()(torch.rand(16, 3, 8, 8).double())
    assert norms(check(model, pixels())) == 0
    assert cost(model, 32).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["ResNet-18", "DenseNet-121-32x32", "WRN-34-R", "RobNet-free", "ABanditNAS-10"])
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


@pytest.mark.parametrize(
    ("name", "what", "other"),
    [
        ("DARTS", "parameters", 13),
        ("DARTS", "multiply_adds", 13),
        ("ResNet-18", "multiply_adds", 1),
        ("ResNet-18", "parameters", 40),
        ("WRN-34-R", "parameters", 13),
    ],
)
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
    rival = match_channels(zoo.load("DARTS").published, parameters=4_520_000)
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in rival.build().parameters())
    assert rival.channels == 42 and found == pytest.approx(4_520_000, rel=0.02)


@pytest.mark.parametrize("wanted", [{}, {"parameters": 1000, "multiply_adds": 1000}, {"parameters": 0}])
def test_match_that_says_not_what_to_match_is_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(WorkbookError, match="channels are matched to"):
        match_channels(zoo.load("DARTS").published, **wanted)
