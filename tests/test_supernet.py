"""The supernet equals the plain one, a module for each operation and edge, and its discrete readings."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dsara_lib.architecture import OPERATIONS, Edge, Genotype, Network, SearchSpace, Supernet
from dsara_lib.architecture.cells import MixedCell
from dsara_lib.architecture.fused import Norm
from dsara_lib.errors import WorkbookError
from tests.reference.plain_supernet import PlainMixedCell, PlainSupernet, fused_state, plain_state

SIZE = {"num_cells": 5, "channels": 2, "num_classes": 3}
TOLERANCE = 1e-9
FEW = ("sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "skip_connect")  # one of each family, where more would say nothing
SMALL = SearchSpace(operations=FEW, num_nodes=2)


def pair(space: SearchSpace, **size: int) -> tuple[PlainSupernet, Supernet]:
    """A plain and a fused supernet in float64 with the same weights, decided alphas and random batch statistics."""
    torch.manual_seed(0)
    plain = PlainSupernet(space, **(SIZE | size)).double()
    with torch.no_grad():
        for alphas in plain.alphas.values():
            alphas.normal_()
        shared: dict[tuple[str, str, int], Tensor] = {}
        for name, buffer in plain.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.randn_like(buffer) if name.endswith("mean") else torch.rand_like(buffer) + 0.5)
        _agree_on_pooling(plain, shared)
    fused = Supernet(space, **(SIZE | size)).double()
    fused.load_state_dict(fused_state(fused, plain.state_dict()))
    return plain, fused


def _agree_on_pooling(plain: PlainSupernet, shared: dict) -> None:
    """A pooling has the same statistics on all edges that leave a node: a search never gives others."""
    for number, cell in enumerate(plain.cells):
        for (source, _), edge in zip(plain.space.edges, cell.edges, strict=True):
            for operation, module in zip(plain.space.operations, edge.candidates, strict=True):
                if "pool" in operation:
                    first = shared.setdefault((str(number), operation, source), module)
                    module.load_state_dict(first.state_dict())


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    error = (found.double() - expected.double()).norm()
    assert error <= TOLERANCE * expected.double().norm() + 1e-12, f"{what}: {error:.2e}"


def assert_equal(plain: PlainSupernet, fused: Supernet, size: tuple[int, int] = (8, 8), num_images: int = 3) -> None:
    """Same logits, gradients and batch statistics in training mode; same logits and gradients in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num_images, 3, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    names = [name for name, _ in fused.named_parameters()]
    for training in (True, False):
        plain.train(training), fused.train(training)
        expected, found = plain(images), fused(images)
        assert_close(found, expected, "logits")
        direction = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
        theirs = torch.autograd.grad((expected * direction).sum(), [images, *plain.parameters()])
        ours = torch.autograd.grad((found * direction).sum(), [images, *fused.parameters()])
        assert ours[0].norm() > 0
        assert_close(ours[0], theirs[0], "gradient of the images")
        gradients = plain_state(fused, dict(zip(names, ours[1:], strict=True)))
        assert gradients.keys() == dict(plain.named_parameters()).keys()
        largest = max(gradient.norm() for gradient in theirs[1:])
        for (name, _), gradient in zip(plain.named_parameters(), theirs[1:], strict=True):
            # Where a gradient vanishes (a weight before a norm may be scaled), what is left is rounding.
            assert (gradients[name] - gradient).norm() <= TOLERANCE * gradient.norm() + 1e-13 * largest, name
    state = plain_state(fused, fused.state_dict())
    assert state.keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert_close(state[name], tensor, name)


@pytest.mark.parametrize("filters", [(1, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize("placement", ["A-A-R", "R-A-A", "A-R-A", "A-A-A"])
def test_equals_the_plain_supernet_for_each_placement(placement, filters):
    assert_equal(*pair(replace(SMALL, placement=placement, filters=filters)))


@pytest.mark.parametrize("size", [(7, 7), (9, 8), (6, 10)])
def test_equals_the_plain_supernet_for_odd_image_sizes(size):
    assert_equal(*pair(SearchSpace(num_nodes=2)), size=size)


@pytest.mark.parametrize("num_nodes", [1, 4])
def test_equals_the_plain_supernet_for_any_number_of_nodes(num_nodes):
    assert_equal(*pair(SearchSpace(num_nodes=num_nodes)))


@pytest.mark.parametrize(
    "operations",
    [
        *[(name,) for name in OPERATIONS],
        tuple(reversed(OPERATIONS)),
        ("sep_conv_5x5", "skip_connect", "sep_conv_3x3", "avg_pool_3x3"),
        ("max_pool_3x3", "dil_conv_3x3", "skip_connect"),
    ],
    ids="+".join,
)
def test_equals_the_plain_supernet_for_some_operations_in_any_order(operations):
    assert_equal(*pair(SearchSpace(operations=operations, num_nodes=2)))


def test_odd_channels_and_more_cells_equal_too():
    assert_equal(*pair(SMALL, num_cells=7, channels=3))


class Squeeze(nn.Module):
    """An operation of a kind that `fused` does not know, with parameters, a buffer and a norm of its own."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))
        self.layers = nn.Sequential(nn.Conv2d(channels, channels, 2, stride), nn.SiLU(), nn.BatchNorm2d(channels, momentum=0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(nn.functional.pad(x, (0, 1, 0, 1))) * self.scale


CUSTOM = {
    "squeeze": lambda channels, stride, searching: Squeeze(channels, stride),
    "none": lambda channels, stride, searching: nn.AvgPool2d(1, stride),
    "sep_conv_7x7_thrice": lambda channels, stride, searching: nn.Sequential(
        *(
            layer
            for at in range(3)
            for layer in (
                nn.ReLU(),
                nn.Conv2d(channels, channels, 7, 1 if at else stride, 3, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels, affine=False),
            )
        )
    ),
    "biased": lambda channels, stride, searching: nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
    ),
    "affine": lambda channels, stride, searching: nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(channels)),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_an_added_operation_runs_without_more_code(name, monkeypatch):
    monkeypatch.setitem(OPERATIONS, name, CUSTOM[name])
    assert_equal(*pair(SearchSpace(operations=("skip_connect", name, "dil_conv_3x3"), num_nodes=2)))


def one_hot(space: SearchSpace, genotype: Genotype) -> dict[str, Tensor]:
    """Mixing weights of 0 and 1 that leave the edges of a genotype."""
    mixing = {kind: torch.zeros(len(space.edges), len(space.operations), dtype=torch.float64) for kind in space.kinds}
    for kind in space.kinds:
        for node, kept in zip(space.nodes, genotype.cells[kind], strict=True):
            for operation, source in kept:
                mixing[kind][space.edges.index((source, node)), space.operations.index(operation)] = 1
    return mixing


def test_with_weights_of_0_and_1_equals_the_network():
    space = SearchSpace(num_nodes=3)
    names = list(space.operations)
    cells = {
        kind: tuple(
            (Edge(names[(3 * at + node) % 7], node - 2), Edge(names[(3 * at + 2 * node + 1) % 7], node - 1)) for node in space.nodes
        )
        for at, kind in enumerate(space.kinds)
    }
    genotype = Genotype(name="test", cells=cells)
    plain, fused = pair(space)
    network = Network(genotype, space, **SIZE, searching=True).double()
    state = plain.state_dict()
    for number, (cell, slot) in enumerate(zip(plain.cells, space.slots(5, 2), strict=True)):
        for node, kept in enumerate(cells[slot.kind]):
            for at, (operation, source) in enumerate(kept):
                edge = cell.edges[space.edges.index((source, node + 2))]
                module = edge.candidates[space.operations.index(operation)]
                for name, tensor in module.state_dict().items():
                    state[f"cells.{number}.edges.{node}.{at}.{name}"] = tensor
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    images, mixing = torch.rand(3, 3, 8, 8, dtype=torch.float64), one_hot(space, genotype)
    for training in (True, False):
        fused.train(training), network.train(training)
        assert_close(fused(images, mixing), network(images), f"training: {training}")


def test_gradients_reach_mixing_weights_given_from_outside():
    plain, fused = pair(SMALL)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for training in (True, False):
        rows = []
        for net in (plain.train(training), fused.train(training)):
            mixing = {kind: weights.detach().requires_grad_() for kind, weights in plain.mixing_weights().items()}
            rows.append(torch.autograd.grad(net(images, mixing).square().sum(), list(mixing.values())))
        for theirs, ours in zip(*rows, strict=True):
            assert_close(ours, theirs, "mixing weights")


def test_starts_with_the_same_weights_as_the_plain_cell():
    space = SearchSpace(num_nodes=2)
    for slot in space.slots(5, 4):
        torch.manual_seed(slot.index)
        plain = PlainMixedCell(space, slot).state_dict()
        torch.manual_seed(slot.index)
        cell = MixedCell(space, slot)
        state = cell.state_dict()
        for edge, place in cell.places():
            expected = plain[f"edges.{edge}.candidates.{place.operation}.{place.plain}"]
            assert torch.equal(place.block(state[place.name]), expected)


def test_states_of_plain_and_fused_carry_over_both_ways():
    plain, fused = pair(SMALL)
    state = plain_state(fused, fused.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    again = fused_state(fused, state)
    assert all(torch.equal(again[name], tensor) for name, tensor in fused.state_dict().items())


def test_in_float32_is_as_near_to_the_truth_as_the_plain_one():
    plain, fused = pair(SMALL, channels=4)
    truth, plain, fused = copy.deepcopy(plain), plain.float(), fused.float()
    images = torch.rand(8, 3, 8, 8)
    for training in (True, False):
        gradients = []
        for net in (truth.train(training), plain.train(training), fused.train(training)):
            x = images.to(net.classifier.weight.dtype).requires_grad_()
            gradients.append(torch.autograd.grad(net(x).square().sum(), x)[0].double())
        exact, theirs, ours = gradients
        assert (ours - exact).norm() <= 5 * (theirs - exact).norm() + 1e-7 * exact.norm()


def test_alphas_belong_to_the_state_and_not_to_the_weights():
    space = SMALL
    net = Supernet(space, **SIZE)
    assert {f"alphas.{kind}" for kind in space.kinds} <= net.state_dict().keys()
    weights = {id(weight) for weight in net.weights()}
    assert not weights & {id(alphas) for alphas in net.alphas.values()}
    assert len(weights) + len(net.alphas) == len(list(net.parameters()))
    net.to(torch.float64)
    assert all(alphas.dtype == torch.float64 for alphas in net.alphas.values())
    assert all(alphas.device.type == "meta" for alphas in copy.deepcopy(net).to("meta").alphas.values())
    other = Supernet(space, **SIZE).double()
    other.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(other.eval()(images), net.eval()(images))


def test_fewer_than_five_cells_are_refused():
    with pytest.raises(WorkbookError, match="at least 5 cells"):
        Supernet(SearchSpace(), **(SIZE | {"num_cells": 4}))


def test_evaluation_changes_no_statistics():
    _, net = pair(SMALL)
    before = copy.deepcopy(net.state_dict())
    net.eval()(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_norm_has_right_gradients_for_an_expanded_scale():
    """Torch 2.15 has not, for channels-last images on the CPU."""
    images = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    scale = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    direction = torch.arange(600, dtype=torch.float64).view(4, 6, 5, 5).sin()
    found = torch.autograd.grad((Norm(6).double()(images, scale.expand(6)) * direction).sum(), [images, scale])
    by_hand = nn.functional.batch_norm(images, None, None, training=True) * scale
    expected = torch.autograd.grad((by_hand * direction).sum(), [images, scale])
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, "gradient")


class Convolutions(TorchDispatchMode):
    """Count the convolutions that are started."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_starts_few_convolutions():
    images = torch.rand(2, 3, 8, 8)
    counts = []
    for net in (PlainSupernet(SearchSpace(), **SIZE), Supernet(SearchSpace(), **SIZE)):
        net, images = net.to("meta"), images.to("meta")
        with Convolutions() as counted:
            net(images)
        counts.append(counted.number)
    assert counts[0] > 3 * counts[1]


def test_edges_are_ordered_node_by_node():
    """`MixedCell` and checkpoints stand on it."""
    edges = SearchSpace().edges
    assert all(a < b for a, b in pairwise((node, source) for source, node in edges))
