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

from ..architecture import Supernet
from ..architecture.cells import MixedCell
from ..architecture.fused import MixedEdges, Norm, Part, Reductions, Separables, Shared, affine
from ..architecture.operations import FactorisedReduction
from ..errors import WorkbookError
from ..shapes import Float
from .spectral import TINY, convolution_norm, depthwise_norms, pooling_norm, spectral_norms

# ---------------------------------------------------------------------------------------------------- parts of a supernet


class CellConstants(NamedTuple):
    """Logarithms of the constants of a cell's two inputs and of each operation on each of its edges."""

    inputs: Float[Tensor, " 2"]
    operations: Float[Tensor, "edges operations"]


def cell_constants(supernet: Supernet, image_size: tuple[int, int]) -> list[CellConstants]:
    """Of all cells, at the present weights and running statistics. Raises WorkbookError for an operation of no known family."""
    found = []
    for cell, slot in zip(supernet.cells, supernet.slots, strict=True):
        assert isinstance(cell, MixedCell)
        tables = []
        for bundle in cell.bundles:
            assert isinstance(bundle, MixedEdges)
            entering = _shrunk(image_size, slot.resolution_divisor // bundle.bundle.stride)
            tables.append(_bundle_table(bundle, supernet, entering))
        inputs = torch.stack([_input_norm(cell.inputs.before), _input_norm(cell.inputs.previous)])
        operations = torch.cat(tables)[torch.argsort(cell.order)]  # as the alphas are ordered
        found.append(CellConstants(inputs.clamp_min(TINY).log(), operations.clamp_min(TINY).log()))
    return found


def _shrunk(image_size: tuple[int, int], divisor: int) -> tuple[int, int]:
    height, width = image_size
    return -(-height // divisor), -(-width // divisor)


def _bundle_table(bundle: MixedEdges, supernet: Supernet, size: tuple[int, int]) -> Float[Tensor, "edges operations"]:
    columns: dict[int, Tensor] = {}
    for part in bundle.parts:
        operations = cast(list[int], part.operations)
        columns |= dict(zip(operations, _part_norms(cast(Part, part), supernet, size), strict=True))
    return torch.stack([columns[operation] for operation in range(len(columns))], dim=1)


def _part_norms(part: Part, supernet: Supernet, size: tuple[int, int]) -> Float[Tensor, "k edges"]:
    """The constant of each operation of a family on each edge."""
    if isinstance(part, Separables):
        return _separables(part)
    if isinstance(part, Shared):
        return torch.stack(list(_shared(part, size, supernet.classifier.weight.device)))
    if isinstance(part, Reductions):
        scales = affine(part.norm, torch.float64)[0].unflatten(0, (len(part.operations) * part.bundle.edges, -1))
        return _two_grids(part.even, part.odd, scales).unflatten(0, (len(part.operations), -1))
    names = ", ".join(supernet.space.operations[operation] for operation in part.operations)
    raise WorkbookError(
        f"a Lipschitz bound is known for convolutions, pooling and identity as this library has them, not for {names}"
    )


def _separables(part: Separables) -> Float[Tensor, "k edges"]:
    """Depth after depth: |diag(scale) P diag(d)|, d the norms of the depthwise kernels, bounds pointwise after depthwise and
    is at most the product of their norms."""
    channels, total = part.bundle.channels, None
    for depth in part.depths:
        before = torch.cat([depthwise_norms(kernels) for kernels in depth.depthwise])  # type: ignore[union-attr, arg-type]
        after = affine(cast(Norm, depth.norm), torch.float64)[0]
        matrices = after[:, None] * cast(Tensor, depth.pointwise).double()[:, :, 0, 0]
        norms = spectral_norms(matrices.unflatten(0, (-1, channels)) * before.unflatten(0, (-1, 1, channels)))
        total = norms if total is None else total * norms
    assert total is not None
    return total.unflatten(0, (len(part.operations), -1))


def _shared(part: Shared, size: tuple[int, int], device: torch.device) -> Iterator[Float[Tensor, " edges"]]:
    """Pooling times the largest scale of its batch norm; an identity keeps all distances."""
    for pool, norm in zip(part.pools, part.norms, strict=True):
        if isinstance(norm, Norm):
            scales = affine(norm, torch.float64)[0]
            largest = scales.unflatten(0, (part.bundle.sources, -1)).abs().amax(dim=1)
            yield (pooling_norm(pool, size, scales) * largest).repeat(part.bundle.nodes)
        else:
            yield torch.ones(part.bundle.edges, dtype=torch.float64, device=device)


def _two_grids(even: Tensor, odd: Tensor, scales: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """A factorised reduction: its two convolutions look at different pixels and fill different channels."""
    groups, first = len(scales), len(even) // len(scales)
    parts = zip((even, odd), scales.split([first, scales.shape[1] - first], dim=1), strict=True)
    norms = [spectral_norms(scale[:, :, None] * w.double()[:, :, 0, 0].unflatten(0, (groups, -1))) for w, scale in parts]
    return torch.maximum(*norms)


def _input_norm(module: nn.Module) -> Float[Tensor, ""]:
    """The constant of what brings a cell's input to its width."""
    if isinstance(module, FactorisedReduction):
        return _two_grids(module.even.weight, module.odd.weight, affine(module.norm, torch.float64)[0][None])[0]
    _, convolution, norm = cast(nn.Sequential, module)
    scale = affine(norm, torch.float64)[0]
    return spectral_norms((scale[:, None] * cast(nn.Conv2d, convolution).weight.double()[:, :, 0, 0])[None])[0]


# ------------------------------------------------------------------------------------------------- log-normal numbers


class LogNormal(NamedTuple):
    """Numbers whose logarithms are normal, of these means and variances."""

    mean: Tensor
    variance: Tensor

    def quantile(self, confidence: float) -> Tensor:
        """Logarithm of what a number stays below with that probability; without a variance, of the number."""
        # Below any variance that matters; the slope of a root at 0 has no number.
        return self.mean + NormalDist().inv_cdf(confidence) * self.variance.clamp_min(TINY).sqrt()

    def power(self, exponent: float) -> LogNormal:
        """Exact."""
        return LogNormal(exponent * self.mean, exponent**2 * self.variance)

    def total(self) -> LogNormal:
        """The sum over the last axis, taken as independent, by the log-normal of the same mean and variance (Fenton and Wilkinson).

        With M_i the means and v_i = Var_i / M_i^2: M = sum of M_i, v = sum of (M_i / M)^2 v_i.
        """
        logs = self.mean + self.variance / 2
        relative = (torch.softmax(logs, dim=-1).square() * torch.expm1(self.variance)).sum(-1)
        variance = torch.log1p(relative)
        return LogNormal(torch.logsumexp(logs, dim=-1) - variance / 2, variance)


def cells_growth(
    constants: list[CellConstants], weights: list[Float[Tensor, "edges operations"]], deviation: float = 0.0
) -> LogNormal:
    """How much the last cell can stretch a change of the stem's output: one for each cell of constants and of mixing weights,
    whose logarithms have that deviation."""
    zero = constants[0].inputs.new_zeros(())
    before = previous = LogNormal(zero, zero)
    for cell, mixing in zip(constants, weights, strict=True):
        before, previous = previous, _cell_growth(cell, mixing.double().clamp_min(TINY).log(), before, previous, deviation)
    return previous


def _cell_growth(cell: CellConstants, log_weights: Tensor, before: LogNormal, previous: LogNormal, deviation: float) -> LogNormal:
    means = list(cell.inputs + torch.stack([before.mean, previous.mean]))
    variances = [before.variance, previous.variance]
    inputs, terms, at = len(means), log_weights + cell.operations, 0
    while at < len(terms):  # a node has an edge from each one before it
        edges = terms[at : at + len(means)]
        spread = (torch.stack(variances) + deviation**2)[:, None].expand_as(edges)
        node = LogNormal((torch.stack(means)[:, None] + edges).flatten(), spread.flatten()).total()
        at += len(edges)
        means.append(node.mean)
        variances.append(node.variance)
    return LogNormal(torch.stack(means[inputs:]), torch.stack(variances[inputs:])).power(2).total().power(0.5)


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
    one deviation, and they are independent, also between cells; sums are matched by Fenton and Wilkinson as if nodes that share
    sources were independent, which takes the spread for a little smaller than it is.
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
        found = []
        mixing = supernet.mixing_weights()
        for weights in (mixing, {kind: alike(each) for kind, each in mixing.items()}):
            growth = cells_growth(constants, [weights[slot.kind] for slot in supernet.slots], self.deviation)
            found.append(growth.quantile(self.confidence))
        return (found[0] - found[1],)


def alike(weights: Float[Tensor, "edges operations"]) -> Float[Tensor, "edges operations"]:
    """Equal weights for the operations that still take part."""
    present = (weights > 0).double()
    return present / present.sum(dim=-1, keepdim=True).clamp_min(1)
