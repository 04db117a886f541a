"""What cells are made of: receptive fields against autograd, the permutation test against counting, and their figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from dsara_lib import plots
from dsara_lib.architecture import OPERATIONS, Edge, discretise, make_operation, zoo
from dsara_lib.architecture.anatomy import Anatomy, anatomies, chance_of_distance, common_edges, distance, family, reach, shares
from dsara_lib.architecture.space import SearchSpace

SPACE = SearchSpace()


def seen(operation: str) -> int:
    """Side of the square of pixels that the middle pixel of the output depends on, by trying each of them."""
    module = make_operation(operation, 2, 1).eval()
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.constant_(each.weight, 1.0)
    images = torch.zeros(1 + 25 * 25, 2, 25, 25)
    for pixel in range(25 * 25):
        images[1 + pixel, 0, pixel // 25, pixel % 25] = 1
    with torch.no_grad():
        middle = module(images)[:, :, 12, 12]
    moved = (middle[1:] - middle[:1]).abs().amax(dim=1).view(25, 25) > 0
    return int(moved.any(dim=0).nonzero().max() - moved.any(dim=0).nonzero().min()) + 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reach_is_what_one_output_pixel_depends_on(operation):
    assert 1 + reach(operation) == seen(operation)


def test_every_operation_has_a_family():
    assert {family(name) for name in OPERATIONS} == {"separable", "dilated", "pooling", "identity"}
    assert family("squeeze_excite") == "squeeze_excite"


def test_anatomy_of_a_chain_and_of_a_fan():
    chain = tuple((Edge("sep_conv_3x3", i), Edge("skip_connect", i + 1)) for i in range(4))
    fan = ((Edge("dil_conv_5x5", 0), Edge("max_pool_3x3", 1)),) * 4
    assert Anatomy.of(fan).depth == 1 and Anatomy.of(fan).from_inputs == 8
    assert Anatomy.of(fan).receptive_field == Anatomy.of(fan).mean_receptive_field == 9
    # Nodes 2, 3, 4, 5 take separable convolutions of nodes 0, 1, 2, 3.
    assert Anatomy.of(chain).depth == 2 and Anatomy.of(chain).from_inputs == 3
    assert Anatomy.of(chain).receptive_field == 9


@pytest.mark.parametrize("name", zoo.genotypes())
def test_shares_of_each_cell_sum_to_one(name):
    for anatomy in anatomies(zoo.load(name).genotype).values():
        assert sum(shares(anatomy).values()) == pytest.approx(1)
        assert set(shares(anatomy)) == {"separable", "dilated", "pooling", "identity"}


def test_published_accurate_and_robust_cell_have_no_operation_in_common(genotype):
    accurate, robust = genotype.cells["accurate"], genotype.cells["robust"]
    assert distance(accurate, robust) == 1 and common_edges(accurate, robust) == 0
    chance = chance_of_distance(accurate, robust, draws=4000, generator=torch.Generator().manual_seed(0))
    assert chance < 0.003  # exactly 2 of the dealings of 16 edges into 8 and 8, which are 12870


def test_chance_of_distance_agrees_with_counting():
    one = ((Edge("sep_conv_3x3", 0), Edge("sep_conv_3x3", 1)),)
    other = ((Edge("skip_connect", 0), Edge("skip_connect", 1)),)
    draws = 4000
    chance = chance_of_distance(one, other, draws=draws, generator=torch.Generator().manual_seed(0))
    exact = 2 / math.comb(4, 2)
    assert chance == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / draws))
    assert chance_of_distance(one, one, draws=10, generator=torch.Generator()) == 1.0


def test_distance_is_a_metric_of_shares(genotype):
    cells = list(genotype.cells.values())
    for one in cells:
        assert distance(one, one) == 0 and common_edges(one, one) == 8
        assert common_edges(one[:2], one) == common_edges(one, one[:2]) == 4  # of nodes that only one has, none
        for other in cells:
            assert distance(one, other) == distance(other, one)
            assert 0 <= distance(one, other) <= 1


def test_random_cells_share_as_many_edges_as_notebook_06_says():
    draw = torch.Generator().manual_seed(0)
    cells = [discretise({k: torch.randn(14, 7, generator=draw) for k in SPACE.kinds}, SPACE).cells["robust"] for _ in range(400)]
    mean = np.mean([common_edges(one, other) for one, other in zip(cells[::2], cells[1::2], strict=True)])
    assert mean == pytest.approx(sum(4 / node for node in SPACE.nodes) / 7, abs=0.2)


# -- figures -----------------------------------------------------------------------------------------------------------


def searched(epochs: int = 3) -> tuple[dict, list[dict]]:
    draw = np.random.default_rng(0)
    alphas = {kind: np.cumsum(draw.normal(size=(epochs + 1, 14, 7)), axis=0) for kind in SPACE.kinds}
    rows = []
    for epoch in range(1, epochs + 1):
        genotype = discretise({k: torch.as_tensor(v[epoch]) for k, v in alphas.items()}, SPACE)
        rows.append({"epoch": epoch, "stage": 1 if epoch < epochs else 2, "genotype": genotype.to_dict()})
    edges = np.array([f"{source}->{node}" for source, node in SPACE.edges])
    return alphas | {"operations": np.array(SPACE.operations), "edges": edges}, rows


def drawn(figure) -> str:
    return plots.to_bytes(figure, "svg").decode()


def test_operation_counts_has_a_box_for_each_operation_of_each_cell(genotype):
    figure = plots.operation_counts({"one": genotype, "NASNet's space": zoo.load("DARTS").genotype})
    boxes = [len(ax.patches) for ax in figure.axes]
    expected = [
        sum(len(anatomies(each)[kind].operations) for each in (genotype, zoo.load("DARTS").genotype) if kind in each.cells)
        for kind in ("accurate", "robust", "reduction")
    ]
    assert boxes == expected
    assert "NASNet" in drawn(figure)


@pytest.mark.parametrize("chosen", [None, 2])
def test_edge_history_draws_eight_edges_an_epoch(chosen):
    alphas, rows = searched()
    figure = plots.edge_history(rows, alphas["edges"], chosen)
    marks = 0 if chosen is None else 1
    assert [len(ax.patches) for ax in figure.axes] == [8 * 3 + marks] * 3
    assert ("chosen epoch" in drawn(figure)) is (chosen is not None)


def test_decisions_fills_what_the_genotype_keeps():
    alphas, _ = searched()
    figure = plots.decisions(alphas)
    for ax in figure.axes:
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(dots) == 14
        assert sum(line.get_markerfacecolor() != "white" for line in dots) == 8
    assert "uniform" in drawn(figure)


@pytest.mark.parametrize("theta, theta_bar", [((1, 0), (0, 1)), ((1, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 0), (-1, 0))])
def test_shortest_combination_draws_any_two_gradients(theta, theta_bar):
    figure = plots.shortest_combination(torch.tensor(theta).float(), torch.tensor(theta_bar).float(), 0.5)
    assert "0.50" in drawn(figure)
