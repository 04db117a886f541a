"""How much the supernet can stretch a change of its input: a bound of its Lipschitz constant in the l2 norm, and its quantiles.

A node adds its edges, so that its constant is at most the sum over sources and operations of w_o * L_o * L_source; a cell
concatenates its nodes, which is the root of the sum of squares. L_o are bounds of the operation's layers (`spectral`) in evaluation
mode, each with its batch norm. All is float64 and in logarithms.

RACL (Dong et al. 2020, arXiv 2009.00902) takes the mixing weights as log-normal, the bound as one log-normal number, and asks
that it holds with a confidence: `LipschitzBound` is the logarithm of that quantile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..architecture import SearchSpace, Supernet
from ..architecture.cells import Inputs, MixedCell
from ..architecture.fused import Depth, MixedEdges, Norm, Reductions, Separables, Shared, affine
from ..architecture.operations import FactorisedReduction
from ..errors import WorkbookError
from ..shapes import Float
from .spectral import TINY, by_shape, convolution_norm, depthwise_norms, pooling_norm, spectral_norms

# ---------------------------------------------------------------------------------------------------- parts of a supernet


class CellConstants(NamedTuple):
    """Logarithms of the constants of a cell's two inputs and of each operation on each of its edges."""

    inputs: Float[Tensor, " 2"]
    operations: Float[Tensor, "edges operations"]


def cell_constants(supernet: Supernet, image_size: tuple[int, int]) -> list[CellConstants]:
    """Of all cells, at the present weights and running statistics. Raises WorkbookError for an operation of no known family."""
    norms, found = layer_norms(supernet), []
    for cell, slot in zip(supernet.cells, supernet.slots, strict=True):
        assert isinstance(cell, MixedCell)
        tables = []
        for bundle in cell.bundles:
            assert isinstance(bundle, MixedEdges)
            entering = _shrunk(image_size, slot.resolution_divisor // bundle.bundle.stride)
            tables.append(_bundle_table(bundle, cell.order.device, supernet.space, entering, norms))
        inputs = torch.cat([norms[cell.inputs.before], norms[cell.inputs.previous]])
        operations = torch.cat(tables)[torch.argsort(cell.order)]  # as the alphas are ordered
        found.append(CellConstants(inputs.clamp_min(TINY).log(), operations.clamp_min(TINY).log()))
    return found


def layer_norms(supernet: Supernet) -> dict[nn.Module, Float[Tensor, " groups"]]:
    """The norms of all that has weights in the cells, all of one shape together: `Depth`, `Reductions` and a cell's two inputs."""
    depths = [module for module in supernet.modules() if isinstance(module, Depth)]
    kernels = iter(by_shape(depthwise_norms, [kernel for depth in depths for kernel in depth.depthwise]))
    pairs: list[tuple[nn.Module, Tensor]] = []
    for depth in depths:
        before = torch.cat([next(kernels) for _ in depth.depthwise])
        pairs.append((depth, _pointwise_after(before, depth)))
    for module in supernet.modules():
        if isinstance(module, Reductions):
            pairs += [(module, each) for each in _two_grids(module, module.even, module.odd)]
        elif isinstance(module, FactorisedReduction):
            pairs += [(module, each) for each in _two_grids(module, module.even.weight, module.odd.weight)]
        elif isinstance(module, Inputs):
            inputs = (module.before, module.previous)
            pairs += [(each, _normed(each)) for each in inputs if isinstance(each, nn.Sequential)]
    found: dict[nn.Module, Tensor] = {}
    for (module, _), norms in zip(pairs, by_shape(spectral_norms, [matrices for _, matrices in pairs]), strict=True):
        found[module] = torch.maximum(found[module], norms) if module in found else norms
    return found


def _pointwise_after(before: Float[Tensor, " n"], depth: Depth) -> Float[Tensor, "groups c c"]:
    """diag(scale) P diag(d), d the norms of the depthwise kernels before it: its norm bounds that of both, and is at most the
    product of theirs."""
    after = affine(depth.norm, torch.float64)[0]
    matrices = after[:, None] * depth.pointwise.double()[:, :, 0, 0]
    channels = depth.bundle.channels
    return matrices.unflatten(0, (-1, channels)) * before.unflatten(0, (-1, 1, channels))


def _two_grids(module: Reductions | FactorisedReduction, even: Tensor, odd: Tensor) -> Iterator[Float[Tensor, "groups c c2"]]:
    """A factorised reduction: as its convolutions look at different pixels and fill different channels, its norm is the larger."""
    groups = len(module.operations) * module.bundle.edges if isinstance(module, Reductions) else 1
    scales = affine(module.norm, torch.float64)[0].unflatten(0, (groups, -1))
    for weight, scale in zip((even, odd), scales.split([len(even) // groups, len(odd) // groups], dim=1), strict=True):
        yield scale[:, :, None] * weight.double()[:, :, 0, 0].unflatten(0, (groups, -1))


def _normed(module: nn.Sequential) -> Float[Tensor, "1 c c2"]:
    _, convolution, norm = module
    scale = affine(norm, torch.float64)[0]
    return (scale[:, None] * cast(nn.Conv2d, convolution).weight.double()[:, :, 0, 0])[None]


def _shrunk(image_size: tuple[int, int], divisor: int) -> tuple[int, int]:
    height, width = image_size
    return -(-height // divisor), -(-width // divisor)


def _bundle_table(
    bundle: MixedEdges, device: torch.device, space: SearchSpace, size: tuple[int, int], norms: dict[nn.Module, Tensor]
) -> Float[Tensor, "edges operations"]:
    columns: dict[int, Tensor] = {}
    for part in bundle.parts:
        operations = cast(list[int], part.operations)
        if isinstance(part, Separables):
            found = torch.stack([norms[depth] for depth in part.depths]).prod(0).unflatten(0, (len(operations), -1))
        elif isinstance(part, Shared):
            found = torch.stack(list(_shared(part, size, device)))
        elif isinstance(part, Reductions):
            found = norms[part].unflatten(0, (len(operations), -1))
        else:
            names = ", ".join(space.operations[operation] for operation in operations)
            raise WorkbookError(
                f"a Lipschitz bound is known for convolutions, pooling and identity as this library has them, not for {names}"
            )
        columns |= dict(zip(operations, found, strict=True))
    return torch.stack([columns[operation] for operation in range(len(columns))], dim=1)


def _shared(part: Shared, size: tuple[int, int], device: torch.device) -> Iterator[Float[Tensor, " edges"]]:
    """Pooling times the largest scale of its batch norm; an identity keeps all distances."""
    for pool, norm in zip(part.pools, part.norms, strict=True):
        if isinstance(norm, Norm):
            scales = affine(norm, torch.float64)[0].unflatten(0, (part.bundle.sources, -1))
            yield (pooling_norm(pool, size) * scales.abs().amax(dim=1)).repeat(part.bundle.nodes)
        else:
            yield torch.ones(part.bundle.edges, dtype=torch.float64, device=device)


# ------------------------------------------------------------------------------------------------- log-normal numbers


class LogNormal(NamedTuple):
    """Numbers whose logarithms are normal, of these means and variances."""

    mean: Tensor
    variance: Tensor

    def quantile(self, confidence: float) -> Tensor:
        """Logarithm of what a number stays below with that probability; without a variance, of the number."""
        # Below any variance that matters; the slope of a root at 0 has no number.
        return self.mean + NormalDist().inv_cdf(confidence) * self.variance.clamp_min(TINY).sqrt()

    def total(self) -> LogNormal:
        """The sum over the last axis, taken as independent, by the log-normal of the same mean and variance (Fenton and Wilkinson).

        With M_i the means and v_i = Var_i / M_i^2: M = sum of M_i, v = sum of (M_i / M)^2 v_i.
        """
        logs = self.mean + self.variance / 2
        relative = (torch.softmax(logs, dim=-1).square() * torch.expm1(self.variance)).sum(-1)
        variance = torch.log1p(relative)
        return LogNormal(torch.logsumexp(logs, dim=-1) - variance / 2, variance)


class Joint(NamedTuple):
    """Several log-normal numbers that depend on each other: means and covariances of their logarithms."""

    means: Float[Tensor, "*batch n"]
    covariance: Float[Tensor, "*batch n n"]

    def powers(self, exponents: Float[Tensor, " n"]) -> Joint:
        """Each to its own power. Exact."""
        return Joint(self.means * exponents, self.covariance * exponents * exponents[:, None])

    def with_sum(self, factors: LogNormal) -> Joint:
        """One more: the sum of all, each times an independent factor. Its mean, variance and covariances are exact, and
        that it is log-normal is Fenton's and Wilkinson's approximation."""
        own = torch.diag_embed(factors.variance) + self.covariance
        logs = self.means + factors.mean + own.diagonal(dim1=-2, dim2=-1) / 2
        shares = torch.softmax(logs, dim=-1)[..., None, :]
        variance = torch.log1p(shares @ torch.expm1(own) @ shares.mT)
        beside = torch.log1p(shares @ torch.expm1(self.covariance))
        mean = torch.logsumexp(logs, dim=-1, keepdim=True) - variance[..., 0] / 2
        above = torch.cat([self.covariance, beside.mT], dim=-1)
        return Joint(torch.cat([self.means, mean], dim=-1), torch.cat([above, torch.cat([beside, variance], dim=-1)], dim=-2))


def cells_growth(
    constants: list[CellConstants], weights: list[Float[Tensor, "*batch edges operations"]], deviation: float = 0.0
) -> LogNormal:
    """How much the last cell can stretch a change of the stem's output: one for each cell of constants and of mixing weights,
    whose logarithms have that deviation."""
    zeros = constants[0].inputs.new_zeros(*weights[0].shape[:-2], 2, 2)
    states = Joint(zeros[..., 0], zeros)  # the outputs of the cells k-2 and k-1
    for cell, mixing in zip(constants, weights, strict=True):
        states = _after_cell(cell, mixing.double().clamp_min(TINY).log(), states, deviation)
    return LogNormal(states.means[..., -1], states.covariance[..., -1, -1])


def _after_cell(cell: CellConstants, log_weights: Tensor, states: Joint, deviation: float) -> Joint:
    """The outputs of the cells k-1 and k, of those of k-2 and k-1."""
    one = cell.inputs.new_ones(1)
    previous = states
    states = Joint(states.means + cell.inputs, states.covariance)
    edges, at = log_weights + cell.operations, 0
    while at < edges.shape[-2]:  # a node has an edge from each one before it
        count = states.means.shape[-1]
        terms = edges[..., at : at + count, :]
        states = states.with_sum(LogNormal(terms, torch.full_like(terms, deviation**2)).total())
        at += count
    num_nodes = states.means.shape[-1] - 2
    states = Joint(torch.cat([previous.means, states.means[..., 2:]], dim=-1), states.covariance)
    squares = states.powers(torch.cat([one, one, 2 * one.expand(num_nodes)]))
    nodes = torch.cat([(-math.inf * one).expand(2), (0 * one).expand(num_nodes)])  # the inputs are no part of the output
    total = squares.with_sum(LogNormal(nodes, torch.zeros_like(nodes)))
    output = total.powers(torch.cat([one.expand(num_nodes + 2), 0.5 * one]))
    both = slice(1, None, num_nodes + 1)  # the second and the last
    return Joint(output.means[..., both], output.covariance[..., both, both])


def log_bound(supernet: Supernet, image_size: tuple[int, int]) -> Float[Tensor, ""]:
    """Logarithm of a bound of |logits(x) - logits(y)| / |x - y| in evaluation mode, at the present weights and alphas."""
    convolution, norm = cast(nn.Sequential, supernet.stem)
    scale = affine(norm, torch.float64)[0]
    stem = convolution_norm(scale[:, None, None, None] * cast(nn.Conv2d, convolution).weight)
    pixels = math.prod(_shrunk(image_size, supernet.slots[-1].resolution_divisor))
    classifier = spectral_norms(supernet.classifier.weight[None])[0] / math.sqrt(pixels)  # after a mean over so many
    mixing = supernet.mixing_weights()
    growth = cells_growth(cell_constants(supernet, image_size), [mixing[slot.kind] for slot in supernet.slots])
    return (stem * classifier).log() + growth.mean


# ---------------------------------------------------------------------------------------------------------- objective


@dataclass(frozen=True, kw_only=True)
class LipschitzBound:
    """Logarithm of what the bound stays below with probability `confidence`, less the same at equal alphas: 0 there.

    So a limit of -1 asks for a bound e times as small as that of all operations alike, however deep the supernet is. Stem,
    classifier and the mean over pixels are the same for all alphas and cancel. A loss for `OBJECTIVES`: images give their size.

    Assumed, since RACL is known here from its abstract: medians of the weights are the softmaxed alphas, their logarithms have
    one deviation, and they are independent, also between cells; sums are matched by Fenton and Wilkinson (`Joint`).
    """

    confidence: float = 0.9  # eta
    deviation: float = 0.1  # of the logarithm of a mixing weight

    def __post_init__(self):
        if not 0 < self.confidence < 1 or not self.deviation >= 0:
            raise WorkbookError(
                f"a confidence lies between 0 and 1 and a deviation is at least 0; got {self.confidence!r} and {self.deviation!r}"
            )

    def __call__(self, supernet: Supernet, precision: str, images: Float[Tensor, "n c h w"], labels: Tensor) -> tuple[Tensor]:
        """The loss; nothing passes through the supernet, and no precision changes it."""
        constants = cell_constants(supernet, (images.shape[2], images.shape[3]))
        both = {kind: torch.stack([each.double(), alike(each)]) for kind, each in supernet.mixing_weights().items()}
        found = cells_growth(constants, [both[slot.kind] for slot in supernet.slots], self.deviation).quantile(self.confidence)
        return (found[0] - found[1],)


def alike(weights: Float[Tensor, "edges operations"]) -> Float[Tensor, "edges operations"]:
    """Equal weights for the operations that still take part."""
    present = (weights > 0).double()
    return present / present.sum(dim=-1, keepdim=True).clamp_min(1)
