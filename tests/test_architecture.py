"""Operations, geometry, genotypes, networks and their cost: what they promise to search, training and the reader."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dsara_lib.architecture import (
    KINDS,
    OPERATIONS,
    Blueprint,
    Edge,
    Genotype,
    Network,
    SearchSpace,
    Supernet,
    cost,
    discretise,
    make_operation,
    zoo,
)
from dsara_lib.architecture.cells import DropPath
from dsara_lib.architecture.operations import FactorisedReduction, Halving
from dsara_lib.errors import WorkbookError
from dsara_lib.paper import table1

EVERY_OPERATION = pytest.mark.parametrize("name", OPERATIONS)
NASNET = SearchSpace(placement="A-A-A", filters=(1, 2, 4))


def sentence(raised: pytest.ExceptionInfo[WorkbookError]) -> str:
    """The error's text, which is one line that a person can read to its end."""
    text = str(raised.value)
    assert "\n" not in text and 20 < len(text) < 400
    return text


# --------------------------------------------------------------------------------------------------------- operations


@EVERY_OPERATION
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 6), (1, 1)])
@pytest.mark.parametrize("searching", [True, False])
def test_operation_keeps_channels_and_divides_the_size(name: str, stride: int, size: tuple[int, int], searching: bool) -> None:
    made = make_operation(name, 5, stride, searching)(torch.rand(2, 5, *size))
    assert made.shape == (2, 5, *(math.ceil(side / stride) for side in size))


@EVERY_OPERATION
@pytest.mark.parametrize("stride", [1, 2])
def test_norms_carry_parameters_only_outside_of_the_search(name: str, stride: int) -> None:
    def norms(searching: bool) -> list[nn.BatchNorm2d]:
        made = make_operation(name, 4, stride, searching)
        return [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]

    assert [norm.affine for norm in norms(True)] == [False] * len(norms(True))
    assert [norm.affine for norm in norms(False)] == [True] * len(norms(False))
    # A pooling is followed by a norm only while it competes; a convolution ends with one in both.
    pooled, bare = "pool" in name, name == "skip_connect" and stride == 1
    assert (bool(norms(True)), bool(norms(False))) == (not bare, not bare and not pooled)


@pytest.mark.parametrize(("name", "value"), [("avg_pool_3x3", 1.0), ("max_pool_3x3", -1.0)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [6, 7])
def test_pooling_does_not_see_the_padding(name: str, value: float, stride: int, size: int) -> None:
    constant = torch.full((1, 2, size, size), value)
    made = make_operation(name, 2, stride)(constant)
    assert torch.equal(made, torch.full_like(made, value))


def reach(operation: nn.Module, size: int = 13) -> set[tuple[int, int]]:
    """Offsets of the pixels on which the middle of the output depends."""
    operation.eval()
    for module in operation.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    disturbed = torch.ones(size * size, 1, size, size)
    disturbed.view(size * size, -1).fill_diagonal_(2)  # each image has another pixel changed
    middle = size // 2
    with torch.no_grad():
        plain = operation(torch.ones(1, 1, size, size))[0, 0, middle, middle]
        changed = operation(disturbed)[:, 0, middle, middle] != plain
    return {(int(i) // size - middle, int(i) % size - middle) for i in changed.nonzero()}


def grid(*offsets: int) -> set[tuple[int, int]]:
    return {(i, j) for i in offsets for j in offsets}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sep_conv_3x3", grid(*range(-2, 3))),  # twice 3x3
        ("sep_conv_5x5", grid(*range(-4, 5))),  # twice 5x5
        ("dil_conv_3x3", grid(-2, 0, 2)),
        ("dil_conv_5x5", grid(-4, -2, 0, 2, 4)),
        ("max_pool_3x3", grid(-1, 0, 1)),
        ("avg_pool_3x3", grid(-1, 0, 1)),
        ("skip_connect", grid(0)),
    ],
)
def test_operation_sees_exactly_its_receptive_field(name: str, expected: set[tuple[int, int]]) -> None:
    assert reach(make_operation(name, 1, 1)) == expected


@pytest.mark.parametrize("size", [6, 7])
def test_factorised_reduction_sees_both_diagonals_of_pixels(size: int) -> None:
    reduction = FactorisedReduction(1, 2, affine=False).eval()
    for convolution in (reduction.even, reduction.odd):
        nn.init.ones_(convolution.weight)
    image = torch.rand(1, 1, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(reduction(image).sum(), image)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    assert torch.equal(gradient[0, 0] != 0, rows % 2 == columns % 2)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_halving_is_a_1x1_convolution_of_stride_2(size: int, layout: torch.memory_format) -> None:
    halving = Halving(3, 4).double()
    image = torch.rand(2, 3, size, size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()

    def gradients(out: torch.Tensor) -> list[torch.Tensor]:
        return [out, *torch.autograd.grad((out * torch.arange(1.0, 5)[:, None, None]).sin().sum(), [image, halving.weight])]

    plain = gradients(F.conv2d(image, halving.weight, stride=2))
    for one, other in zip(gradients(halving(image)), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_no_network_asks_a_cpu_for_the_weight_gradient_that_writes_beyond_its_memory(monkeypatch) -> None:
    """oneDNN's, of a 1x1 convolution of stride 2 of few channels: whatever network, it must not be reached."""
    convolve, asked = F.conv2d, list[tuple[int, ...]]()

    def watched(x, weight, bias=None, stride=1, *others, **settings):
        asked.append((weight.shape[-1], *nn.modules.utils._pair(stride)))
        return convolve(x, weight, bias, stride, *others, **settings)

    monkeypatch.setattr(F, "conv2d", watched)
    for name in zoo.names():
        network = zoo.load(name).resized(10, 3, 5, 4).build().eval()
        network(torch.rand(1, 3, 32, 32))
    assert asked
    assert (1, 2, 2) not in asked


def test_unknown_operation_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(WorkbookError) as raised:
        make_operation("sep_conv_3X3 ", 4, 1)
    assert "did you mean 'sep_conv_3x3'" in sentence(raised) and all(name in str(raised.value) for name in OPERATIONS)


# ------------------------------------------------------------------------------------------------------------ geometry


def test_geometry_of_the_search_is_the_papers() -> None:
    slots = SearchSpace().slots(8, 24)
    assert [slot.kind for slot in slots] == [
        *("accurate", "accurate", "reduction", "accurate", "accurate", "reduction", "robust", "robust")
    ]
    assert [slot.channels for slot in slots] == [24, 24, 48, 48, 48, 48, 48, 48]
    assert [slot.in_channels for slot in slots] == [
        *((72, 72), (72, 96), (96, 96), (96, 192), (192, 192), (192, 192), (192, 192), (192, 192))
    ]
    assert [slot.resolution_divisor for slot in slots] == [1, 1, 2, 2, 2, 4, 4, 4]
    assert [slot.index for slot in slots if slot.previous_reduction] == [3, 6]


@pytest.mark.parametrize(
    ("space", "channels", "stages"),
    [
        (SearchSpace(), [64, 128, 128], ["accurate", "accurate", "robust"]),
        (SearchSpace(placement="R-A-A"), [64, 128, 128], ["robust", "accurate", "accurate"]),
        (SearchSpace(placement="A-R-A", filters=(1, 2, 3)), [64, 128, 192], ["accurate", "robust", "accurate"]),
        (NASNET, [64, 128, 256], ["accurate", "accurate", "accurate"]),
    ],
)
def test_geometry_of_the_evaluation_is_the_papers(space: SearchSpace, channels: list[int], stages: list[str]) -> None:
    slots = space.slots(20, 64)
    assert [slot.index for slot in slots if slot.reduction] == [6, 13]
    lengths = [6, 7, 7]
    assert [slot.channels for slot in slots] == [c for c, n in zip(channels, lengths, strict=True) for _ in range(n)]
    kept = [slot.kind for slot in slots if not slot.reduction]
    assert kept == [kind for kind in stages for _ in range(6)]
    assert space.kinds == (("accurate", "reduction") if space is NASNET else KINDS)


@given(
    num_cells=st.integers(5, 40),
    channels=st.integers(2, 64),
    placement=st.sampled_from(["A-A-R", "R-A-A", "A-R-A", "A-A-A", "R-R-R", "R-A-R"]),
    filters=st.tuples(*[st.integers(1, 4)] * 3),
    num_nodes=st.integers(1, 6),
)
def test_stack_of_any_size_has_every_kind_and_fits_together(
    num_cells: int, channels: int, placement: str, filters: tuple[int, int, int], num_nodes: int
) -> None:
    space = SearchSpace(placement=placement, filters=filters, num_nodes=num_nodes)
    slots = space.slots(num_cells, channels)
    assert {slot.kind for slot in slots} == set(space.kinds)
    assert [slot.index for slot in slots] == [*range(num_cells)]
    assert [slot.index for slot in slots if slot.reduction] == [num_cells // 3, 2 * num_cells // 3]
    assert slots[0].in_channels == (3 * channels, 3 * channels)
    for previous, slot in pairwise(slots):
        assert slot.in_channels == (previous.in_channels[1], num_nodes * previous.channels)
        assert slot.resolution_divisor == previous.resolution_divisor * (2 if slot.reduction else 1)
        assert slot.previous_reduction == previous.reduction


def test_edges_of_a_cell_are_the_fourteen_of_the_paper() -> None:
    edges = SearchSpace().edges
    assert len(edges) == 14 and set(edges) == {(i, j) for j in (2, 3, 4, 5) for i in range(j)}
    assert [node for _, node in edges] == sorted(node for _, node in edges)


@pytest.mark.parametrize("num_cells", [4, 3, 0, -1])
@pytest.mark.parametrize("what", ["slots", "supernet", "network", "blueprint"])
def test_fewer_than_five_cells_are_refused_in_a_sentence(num_cells: int, what: str, genotype: Genotype) -> None:
    space, size = SearchSpace(), {"num_cells": num_cells, "channels": 4, "num_classes": 2}
    makers: dict[str, Any] = {
        "slots": lambda: space.slots(num_cells, 4),
        "supernet": lambda: Supernet(space, **size),
        "network": lambda: Network(genotype, space, **size),
        "blueprint": lambda: Blueprint(genotype=genotype, space=space, **size),
    }
    with pytest.raises(WorkbookError, match="at least") as raised:
        makers[what]()
    assert str(num_cells) in sentence(raised)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"placement": "A-A"}, "'A-A-R'"),
        ({"placement": "A-F-R"}, "'A-F-R'"),
        ({"filters": (1, 2)}, r"\(1, 2\)"),
        ({"filters": (1, 2, 0)}, r"\(1, 2, 0\)"),
        ({"operations": ("max_pol_3x3",)}, "did you mean 'max_pool_3x3'"),
        ({"operations": ("skip_connect", "skip_connect")}, "each once"),
        ({"operations": ()}, "at least one operation"),
        ({"num_nodes": 0}, "1 to 50 intermediate nodes"),
    ],
)
def test_wrong_space_is_refused_in_a_sentence(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(WorkbookError, match=says) as raised:
        SearchSpace(**wrong)
    sentence(raised)


# ----------------------------------------------------------------------------------------------------------- genotypes


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    kinds = draw(st.sampled_from([KINDS, ("accurate", "reduction"), ("robust", "reduction")]))
    num_nodes = draw(st.integers(1, 5))

    def node(number: int) -> tuple[Edge, ...]:
        sources = draw(st.permutations(range(number)))[:2]
        return tuple(Edge(draw(st.sampled_from([*OPERATIONS])), source) for source in sources)

    cells = {kind: tuple(node(2 + i) for i in range(num_nodes)) for kind in kinds}
    share = st.floats(0, 1)
    strengths = {kind: tuple((draw(share), draw(share)) for _ in cell) for kind, cell in cells.items()}
    return Genotype(
        name=draw(st.text(max_size=20)),
        cells=cells,
        source=draw(st.text(max_size=20)),
        strengths=draw(st.sampled_from([None, strengths])),
    )


@given(genotypes())
def test_genotype_survives_json(genotype: Genotype) -> None:
    read = Genotype.from_dict(json.loads(json.dumps(genotype.to_dict())))
    assert read == genotype and hash(read) == hash(genotype) and read.same_cells(genotype)
    assert read.strengths == genotype.strengths and [*read.cells] == [*genotype.cells]


def test_genotype_survives_its_file(tmp_path: Path, genotype: Genotype) -> None:
    genotype.save(tmp_path / "new" / "genotype.json")
    assert Genotype.load(tmp_path / "new" / "genotype.json") == genotype


def written() -> dict[str, Any]:
    """A whole genotype as its file has it."""
    cell = [[["skip_connect", 0], ["sep_conv_3x3", 1]], [["max_pool_3x3", 0], ["dil_conv_5x5", 2]]]
    strengths = [[0.5, 0.25], [0.5, 0.25]]
    return {
        "schema": 1,
        "name": "toy",
        "cells": {kind: copy.deepcopy(cell) for kind in KINDS},
        "strengths": {kind: copy.deepcopy(strengths) for kind in KINDS},
    }


def changed(*at: str | int, to: Any) -> str:
    """The text of that file with one place changed; None removes it."""
    whole = place = written()
    for key in at[:-1]:
        place = place[key]  # type: ignore[index]
    if to is None:
        del place[at[-1]]  # type: ignore[arg-type]
    else:
        place[at[-1]] = to  # type: ignore[index]
    return json.dumps(whole)


EDGE = ("cells", "robust", 1, 0)
DEEP = 100_000
BAD_FILES = {
    "source behind its node": (changed(*EDGE, to=["skip_connect", 3]), "from node 3; expected a source node from 0 to 2"),
    "source below zero": (changed(*EDGE, to=["skip_connect", -1]), "from node -1"),
    "source not whole": (changed(*EDGE, to=["skip_connect", 1.0]), "from node 1.0"),
    "source a truth": (changed(*EDGE, to=["skip_connect", True]), "from node True"),
    "source text": (changed(*EDGE, to=["skip_connect", "0"]), "from node '0'"),
    "source twice": (changed(*EDGE, to=["skip_connect", 2]), "2 different source nodes"),
    "one edge": (changed(*EDGE, to=None), "2 different source nodes"),
    "unknown operation": (changed(*EDGE, to=["sep_conv_4x4", 0]), "did you mean 'sep_conv_"),
    "operation a list": (changed(*EDGE, to=[["skip_connect"], 0]), "an edge is [operation, source node]"),
    "edge of three": (changed(*EDGE, to=["skip_connect", 0, 1]), "an edge is [operation, source node]"),
    "edge a number": (changed(*EDGE, to=7), "an edge is [operation, source node]; got 7"),
    "node a number": (changed("cells", "robust", 1, to=7), "the robust cell is a list of nodes"),
    "cell nothing": (changed("cells", "robust", to=[]), "the robust cell has no nodes"),
    "cell text": (changed("cells", "robust", to="skip"), "the robust cell is a list of nodes"),
    "cells a list": (changed("cells", to=[]), "'cells' maps a kind to a cell"),
    "no cells": (changed("cells", to={}), "expected"),
    "cells missing": (changed("cells", to=None), "expected a JSON object with"),
    "unknown kind": (changed("cells", "robbust", to=written()["cells"]["robust"]), "did you mean 'robust'"),
    "no reduction cell": (changed("cells", "reduction", to=None), "expected a reduction cell"),
    "only a reduction cell": (changed("cells", to={"reduction": written()["cells"]["robust"]}), "accurate or robust"),
    "other schema": (changed("schema", to=2), "expected genotype schema 1; got 2"),
    "no schema": (changed("schema", to=None), "expected genotype schema 1; got None"),
    "name a number": (changed("name", to=3), "name and source are text"),
    "strength not a number": (changed("strengths", "robust", 0, 0, to=math.nan), "numbers from 0 to 1"),
    "strength endless": (changed("strengths", "robust", 0, 0, to=math.inf), "numbers from 0 to 1"),
    "strength a word": (changed("strengths", "robust", 0, 0, to="strong"), "numbers from 0 to 1"),
    "strength missing": (changed("strengths", "robust", 0, 0, to=None), "one strength for each edge"),
    "strengths of a kind missing": (changed("strengths", "robust", to=None), "one strength for each edge"),
    "strengths a list": (changed("strengths", to=[1]), "strengths are numbers"),
    "a list": ("[]", "expected a JSON object with"),
    "not JSON": ("{'schema': 1}", "not valid JSON"),
    "cut off": (changed("schema", to=1)[:-20], "not valid JSON"),
    "empty": ("", "not valid JSON"),
    "nested deeply": ("[" * DEEP + "]" * DEEP, "not valid JSON"),
    "endless number": ('{"schema": 1' + "0" * 10_000 + "}", "not valid JSON"),
    "not text": (b"\x80\x04\x95\xff", "not valid JSON"),
}


@pytest.mark.parametrize(("content", "says"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_genotype_file_gets_one_sentence_that_names_it(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WorkbookError) as raised:
        Genotype.load(path)
    assert str(path) in sentence(raised) and says in str(raised.value)


def test_missing_genotype_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Genotype.load(tmp_path / "nowhere.json")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, each in inner for place in places(each, (*at, key)))]


def with_anything(draw: st.DrawFn, whole: Any) -> Any:
    """The same JSON with something arbitrary in one place."""
    *path, last = draw(st.sampled_from(places(whole)[1:]))
    place = whole = copy.deepcopy(whole)
    for key in path:
        place = place[key]
    place[last] = draw(ANYTHING)
    return whole


@given(st.composite(with_anything)(written()))
def test_genotype_with_anything_inside_is_read_or_refused(text: Any) -> None:
    try:
        Genotype.from_dict(text, "that file")
    except WorkbookError as error:
        assert str(error).startswith("that file: ")


# ------------------------------------------------------------------------------------------------------ discretisation


def random_alphas(space: SearchSpace, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    shape = (len(space.edges), len(space.operations))
    return {kind: scale * torch.randn(shape, generator=drawn, dtype=torch.float64) for kind in space.kinds}


SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(1, 5), st.sampled_from(["A-A-R", "A-A-A"]))
def test_discretisation_equals_a_search_through_all_pairs_of_edges(seed: int, num_nodes: int, placement: str) -> None:
    space = SearchSpace(num_nodes=num_nodes, placement=placement)
    alphas = random_alphas(space, seed)
    found = discretise(alphas, space)
    assert [*found.cells] == [*space.kinds]
    for kind in space.kinds:
        best: dict[tuple[int, int], tuple[float, str]] = {}
        for edge, row in zip(space.edges, alphas[kind].tolist(), strict=True):
            total = sum(map(math.exp, row))
            best[edge] = max((math.exp(a) / total, name) for a, name in zip(row, space.operations, strict=True))
        for number, kept, strengths in zip(space.nodes, found.cells[kind], found.strengths[kind], strict=True):
            pairs = combinations([edge for edge in space.edges if edge[1] == number], 2)
            won = max(pairs, key=lambda pair: best[pair[0]][0] + best[pair[1]][0])
            assert kept == tuple(Edge(best[edge][1], edge[0]) for edge in won)
            assert strengths == pytest.approx([best[edge][0] for edge in won], abs=1e-12)


@given(SEEDS, SEEDS)
def test_discretisation_does_not_see_a_constant_added_to_an_edge(seed: int, other: int) -> None:
    space = SearchSpace()
    alphas = random_alphas(space, seed)
    constants = random_alphas(space, other, scale=5)
    shifted = {kind: alphas[kind] + constants[kind][:, :1] for kind in space.kinds}
    assert discretise(shifted, space).same_cells(discretise(alphas, space))


def test_discretisation_compares_softmaxed_alphas_not_raw_ones() -> None:
    space = SearchSpace(placement="A-A-A", num_nodes=2)
    alphas = torch.zeros(5, 7)
    alphas[2] = 9  # large and undecided
    alphas[3, 4] = alphas[4, 1] = 1  # small and decided
    found = discretise({"accurate": alphas, "reduction": torch.zeros(5, 7)}, space)
    assert found.cells["accurate"][1] == (Edge(space.operations[4], 1), Edge(space.operations[1], 2))


def test_equal_alphas_keep_the_earlier_edges_and_operations() -> None:
    space = SearchSpace()
    found = discretise({kind: torch.zeros(14, 7) for kind in space.kinds}, space)
    first = space.operations[0]
    assert found.cells == {kind: ((Edge(first, 0), Edge(first, 1)),) * 4 for kind in space.kinds}
    assert found.strengths == {kind: (pytest.approx((1 / 7, 1 / 7)),) * 4 for kind in space.kinds}


def test_skips_are_counted_in_one_cell(genotype: Genotype) -> None:
    assert {kind: genotype.skips(kind) for kind in genotype.cells} == {"accurate": 3, "robust": 0, "reduction": 0}


# ---------------------------------------------------------------------------------------------------------------- cost

TABLE1 = {row["model"]: row for row in table1()}
IN_TABLE1 = {"DSARA": "DSARA", "DARTS": "DARTS", "P-DARTS": "PDARTS", "RACL": "RACL", "AdvRush": "AdvRush"}


@pytest.mark.parametrize("name", zoo.genotypes())
def test_cost_of_a_published_architecture_is_that_of_table_1_to_the_last_digit(name: str) -> None:
    counted = cost(zoo.load(name).blueprint().build())
    giga = counted.table1_flops >= 1e9
    flops = f"{counted.table1_flops / 1e9:.2f}G" if giga else f"{counted.table1_flops / 1e6:.2f}M"
    row = TABLE1[IN_TABLE1[name]]
    assert (f"{counted.parameters / 1e6:.1f}M", flops) == (row["params"], row["flops"])


@pytest.mark.parametrize("size", [8, 11])
def test_multiply_adds_equal_those_that_torch_counts(network: Network, size: int) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.rand(1, 3, size, size))
    assert 2 * cost(network, size).multiply_adds == counter.get_total_flops()


def test_table_1_counts_each_module_by_its_convention() -> None:
    layers = {
        nn.Conv2d(3, 4, 3, padding=1): (4 * 8 * 8 * 27, 0),
        nn.BatchNorm2d(4): (0, 2 * 4 * 64),
        nn.BatchNorm2d(4, affine=False): (0, 4 * 64),
        nn.ReLU(): (0, 4 * 64),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4): (4 * 16 * 9, 0),
        nn.MaxPool2d(3, 1, 1): (0, 4 * 16),
        nn.AvgPool2d(3, 2, 1): (0, 4 * 16),
        nn.AdaptiveAvgPool2d(1): (0, 0),
        nn.Flatten(): (0, 0),
        nn.Linear(4, 10): (40, 0),
    }
    counted = cost(nn.Sequential(*layers), image_size=8)
    assert counted.multiply_adds == sum(macs for macs, _ in layers.values())
    assert counted.table1_flops == sum(macs + extra for macs, extra in layers.values())
    assert counted.parameters == (108 + 4) + 8 + (36 + 4) + 50


def test_counting_leaves_the_network_as_it_was(network: Network) -> None:
    network.cells[0].eval()
    network.classifier.weight.requires_grad_(False)
    before = copy.deepcopy(network)
    cost(network, 8)
    for (name, one), (_, other) in zip(network.named_modules(), before.named_modules(), strict=True):
        assert (one.training, len(one._forward_hooks)) == (other.training, 0), name
    for (name, one), (_, other) in zip(network.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(one, other) and one.requires_grad == other.requires_grad and one.grad is None, name
    for (name, one), (_, other) in zip(network.named_buffers(), before.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_auxiliary_head_costs_nothing_in_the_table(genotype: Genotype) -> None:
    plain = Blueprint(genotype=genotype, space=SearchSpace(), num_cells=5, channels=2, num_classes=4)
    assert cost(replace(plain, auxiliary=True).build(), 8) == cost(plain.build(), 8)


# ------------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(("size", "in_channels"), [(8, 3), (7, 3), (9, 1)])
def test_network_gives_one_logit_for_each_class(genotype: Genotype, size: int, in_channels: int) -> None:
    network = Network(genotype, SearchSpace(), num_cells=5, channels=3, num_classes=4, in_channels=in_channels, drop_path=0.2)
    assert network(torch.rand(2, in_channels, size, size)).shape == (2, 4)


def test_normalisation_is_a_layer_inside(genotype: Genotype, network: Network, images: Tensor) -> None:
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    inside = Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4, normalisation=(mean, deviation)).eval()
    inside.load_state_dict(network.state_dict(), strict=False)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    assert torch.equal(inside(images), network.eval()(by_hand))
    assert not torch.equal(inside(images), network(images))
    assert [*dict(inside.normalisation.named_parameters())] == []


def test_auxiliary_head_reads_the_cell_after_two_thirds_and_changes_no_logit(
    genotype: Genotype, network: Network, images: Tensor
) -> None:
    with_head = Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4, auxiliary=True)
    with_head.load_state_dict(network.state_dict(), strict=False)
    with_head.eval(), network.eval()
    logits, second = with_head.forward_with_auxiliary(images)
    assert torch.equal(logits, network(images)) and torch.equal(logits, with_head(images))
    assert second is not None and with_head.auxiliary is not None
    features = [*with_head.features(images)]
    assert [each.shape[2] for each in features] == [8, 4, 4, 2, 2]  # cell 3 = 2 * 5 // 3 is the second reduction
    assert torch.equal(second, with_head.auxiliary(features[3]))
    assert network.forward_with_auxiliary(images)[1] is None


def test_drop_path_keeps_the_mean_and_drops_whole_images() -> None:
    drop = DropPath(0.3)
    ones = torch.ones(20_000, 2, 2, 2)
    dropped = drop(ones)
    assert torch.equal(dropped, dropped[:, :1, :1, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(ones), ones)


def test_drop_path_acts_in_training_only_and_never_on_an_identity(genotype: Genotype, images: Tensor) -> None:
    dropping = Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4, drop_path=0.5)
    plain = Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4)
    plain.load_state_dict(dropping.state_dict())
    assert torch.equal(dropping.eval()(images), plain.eval()(images))
    dropping.train(), plain.train()
    assert not torch.equal(dropping(images), dropping(images))
    assert torch.equal(plain(images), plain(images))
    # One for each kept edge but DSARA's three identities in each of two accurate cells.
    assert sum(isinstance(module, DropPath) for module in dropping.modules()) == 5 * 8 - 2 * 3


@pytest.mark.parametrize("probability", [1, -0.1, math.nan])
def test_drop_path_that_is_no_probability_is_refused(genotype: Genotype, probability: float) -> None:
    with pytest.raises(WorkbookError, match="drop_path"):
        Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4, drop_path=probability)


def test_network_of_a_genotype_without_a_placed_kind_is_refused() -> None:
    with pytest.raises(WorkbookError, match="has no robust cell; placement A-A-R needs") as raised:
        Network(zoo.load("DARTS").genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4)
    assert "'DARTS'" in sentence(raised)


# -------------------------------------------------------------------------------------------------- blueprints and zoo


OPTIONS: list[dict[str, Any]] = [
    {},
    {"auxiliary": True, "drop_path": 0.2},
    {"num_classes": 7, "in_channels": 1, "normalisation": ((0.5,), (0.25,))},
]


@pytest.mark.parametrize("name", zoo.genotypes())
@pytest.mark.parametrize("options", OPTIONS)
def test_blueprint_survives_json_and_builds_the_same_network(name: str, options: dict[str, Any]) -> None:
    blueprint = zoo.load(name).blueprint(num_cells=5, channels=2, **options)
    read = Blueprint.from_dict(json.loads(json.dumps(blueprint.to_dict())))
    assert read == blueprint
    with torch.device("meta"):
        shapes = [{k: v.shape for k, v in each.build().state_dict().items()} for each in (read, blueprint)]
    assert shapes[0] == shapes[1]


def blueprint_written() -> dict[str, Any]:
    return json.loads(json.dumps(zoo.load("DSARA").blueprint(num_cells=5, channels=2).to_dict()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_cells": 4}, "at least 5 cells"),
        ({"num_cells": "20"}, "num_cells is a whole number of at least 1 and at most 65536; got '20'"),
        ({"num_classes": 0}, "num_classes is a whole number"),
        ({"channels": 2.5}, "channels is a whole number"),
        ({"in_channels": True}, "in_channels is a whole number"),
        ({"space": {"placement": 5}}, "describe a network"),
        ({"space": {"placement": "A-A"}}, "'A-A-R'"),
        ({"space": {"operations": ["sep_conv_3x"]}}, "did you mean 'sep_conv_3x3'"),
        ({"space": {"colour": 1}}, "colour"),
        ({"genotype": {}}, "its genotype: expected a JSON object"),
        ({"genotype": None}, "its genotype: expected a JSON object"),
        ({"depth": 3}, "depth"),
    ],
)
def test_bad_blueprint_gets_one_sentence_that_names_its_file(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(WorkbookError) as raised:
        Blueprint.from_dict(blueprint_written() | wrong, "card.json")
    assert sentence(raised).startswith("card.json does not describe a network: ") and says in str(raised.value)


@pytest.mark.parametrize("written", [None, 3, "text", [1], {}])
def test_what_is_no_blueprint_is_refused(written: Any) -> None:
    with pytest.raises(WorkbookError, match=r"card\.json does not describe a network") as raised:
        Blueprint.from_dict(written, "card.json")
    sentence(raised)


@given(st.composite(with_anything)(blueprint_written()))
def test_blueprint_with_anything_inside_is_read_or_refused(text: Any) -> None:
    try:
        Blueprint.from_dict(text, "card.json")
    except WorkbookError as error:
        assert str(error).startswith("card.json ")


def test_zoo_holds_the_five_genotypes_of_table_1() -> None:
    assert set(zoo.genotypes()) == set(IN_TABLE1) and set(IN_TABLE1) < set(zoo.names())


@pytest.mark.parametrize("name", zoo.genotypes())
def test_published_architecture_is_placed_as_in_its_paper(name: str) -> None:
    entry = zoo.load(name)
    assert (entry.num_cells, entry.channels) == ((20, 64) if name == "DSARA" else (20, 36))
    assert entry.space == (SearchSpace() if name == "DSARA" else NASNET)
    assert set(entry.genotype.cells) == set(entry.space.kinds) and entry.genotype.num_nodes == 4
    assert entry.genotype.name == name and entry.genotype.source


@pytest.mark.parametrize(("asked", "near"), [("dsara", "DSARA"), ("advrush", "AdvRush")])
def test_unknown_architecture_is_answered_with_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(WorkbookError, match=f"unknown architecture '{asked}'; did you mean '{near}'") as raised:
        zoo.load(asked)
    assert all(name in sentence(raised) for name in zoo.names())
