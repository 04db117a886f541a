"""All mixed operations that leave the same nodes of a supernet's cell, Eq. (2), computed together.

Edge by edge, a small supernet would spend its time starting hundreds of tiny convolutions. Here one depthwise and one
grouped pointwise convolution serve a family of operations on all edges; pooling and its batch norm run once per node.
In evaluation mode, where attacks are crafted, batch norm is a constant affine map: it is folded, with the alphas, into the
last pointwise convolution, which then sums all edges into a node at once. Both equal the plain sum up to rounding; the
plain one, a module for each operation and edge, is `tests/reference/plain_supernet.py`.

Channels are ordered (operation, node, source, channel); folding puts the node first. Tensors are channels-last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .operations import FactorisedReduction


class Bundle(NamedTuple):
    """The edges from `sources` nodes to each of `nodes` later ones, ordered by node, then by source."""

    nodes: int
    sources: int
    channels: int
    stride: int

    @property
    def edges(self) -> int:
        return self.nodes * self.sources


class Place(NamedTuple):
    """Where a tensor of one operation on one edge lies: block `at` of `blocks` along the first axis of `name`."""

    name: str
    at: int
    blocks: int
    operation: int
    edge: int
    plain: str  # its name in the operation's own module

    def block(self, tensor: Tensor) -> Tensor:
        """The view of a packed tensor that belongs to this operation and edge."""
        return tensor if self.blocks == 1 else tensor.unflatten(0, (self.blocks, -1))[self.at]


class Norm(nn.BatchNorm2d):
    """Batch norm without parameters of its own: a scale for each channel may be given, and it folds into (scale, shift)."""

    def __init__(self, channels: int):
        super().__init__(channels, affine=False)

    def forward(self, x: Float[Tensor, "n c h w"], scale: Float[Tensor, " c"] | None = None) -> Tensor:
        if scale is None:
            return super().forward(x)
        assert self.num_batches_tracked is not None and self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        # Torch 2.15 silently gives wrong gradients for an expanded scale of a channels-last batch norm on the CPU.
        scale = scale.contiguous()
        return F.batch_norm(x, self.running_mean, self.running_var, scale, None, self.training, self.momentum, self.eps)

    def folded(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """(scale, shift) of what it does in evaluation mode."""
        assert self.running_mean is not None and self.running_var is not None
        scale = torch.rsqrt(self.running_var + self.eps)
        return scale, -self.running_mean * scale

    @staticmethod
    def places(name: str, at: int, blocks: int, operation: int, edge: int, plain: str) -> Iterator[Place]:
        yield Place(f"{name}.running_mean", at, blocks, operation, edge, f"{plain}.running_mean")
        yield Place(f"{name}.running_var", at, blocks, operation, edge, f"{plain}.running_var")
        yield Place(f"{name}.num_batches_tracked", 0, 1, operation, edge, f"{plain}.num_batches_tracked")


class Depth(nn.Module):
    """Depthwise, pointwise, batch norm of all operations of a family on all edges."""

    def __init__(self, bundle: Bundle, kernels: Sequence[int]):
        super().__init__()
        self.bundle, self.largest = bundle, max(kernels)
        width = bundle.edges * bundle.channels
        self.depthwise = nn.ParameterList(torch.empty(width, 1, kernel, kernel) for kernel in kernels)
        self.pointwise = nn.Parameter(torch.empty(len(kernels) * width, bundle.channels, 1, 1))
        self.norm = Norm(len(kernels) * width)

    def spatial(self, x: Tensor, stride: int, dilation: int, by_node: bool) -> Tensor:
        """The depthwise convolutions. Smaller kernels lie in the largest: that costs less than to join the results."""
        weights = [_embed(weight, self.largest) for weight in self.depthwise]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        weight = self.by_node(weight) if by_node else weight
        return F.conv2d(x, weight, None, stride, dilation * (self.largest - 1) // 2, dilation, groups=len(weight))

    def by_node(self, packed: Tensor) -> Tensor:
        """Reorder the first axis from (operation, node, ...) to (node, operation, ...)."""
        kinds = len(self.depthwise)
        if kinds == 1:
            return packed
        return packed.unflatten(0, (kinds, self.bundle.nodes, -1)).transpose(0, 1).flatten(0, 2)

    def mix_channels(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.pointwise, groups=len(self.pointwise) // self.bundle.channels)

    def folded(self, x: Tensor) -> Tensor:
        """Pointwise convolution and batch norm in evaluation mode, channels by node."""
        scale, shift = self.norm.folded()
        weight = self.by_node(self.pointwise * scale.view(-1, 1, 1, 1))
        return F.conv2d(x, weight, self.by_node(shift), groups=len(weight) // self.bundle.channels)

    def folded_sum(self, x: Tensor, alphas: Tensor) -> Tensor:
        """The same, weighted by `alphas` and summed over operations and sources: one dense convolution into each node."""
        nodes, sources, channels, _ = self.bundle
        scale, shift = (part.view(-1, nodes, sources, channels) * alphas.unsqueeze(-1) for part in self.norm.folded())
        weight = self.pointwise.view(-1, nodes, sources, channels, channels) * scale.unsqueeze(-1)
        weight = weight.permute(1, 3, 0, 2, 4).reshape(nodes * channels, -1, 1, 1)
        return F.conv2d(x, weight, shift.sum((0, 2)).flatten(), groups=nodes)


class Separables(nn.Module):
    """ReLU, depthwise, pointwise, batch norm, once or several times: separable and dilated convolutions."""

    def __init__(self, bundle: Bundle, operations: Sequence[int], shapes: Sequence[SeparableShape]):
        super().__init__()
        self.bundle, self.operations = bundle, list(operations)
        self.dilation = shapes[0].dilation
        self.depths = nn.ModuleList(Depth(bundle, kernels) for kernels in zip(*(s.kernels for s in shapes), strict=True))

    def forward(self, x: Tensor, alphas: Float[Tensor, "k t s"]) -> Tensor:
        x, stride, dilation = x.relu(), self.bundle.stride, self.dilation
        phased = False
        if dilation == 2 and stride == 2:  # only the even pixels are looked at
            x, stride, dilation = x[:, :, ::2, ::2], 1, 1
        elif dilation == 2 and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
            # Dilated depthwise convolutions are four times as slow, and the four phases of the pixels never meet.
            x, phased, dilation = to_phases(x), True, 1
        x = repeat(x, len(self.operations) * self.bundle.nodes)
        for number, depth in enumerate(self.depths, 1):
            assert isinstance(depth, Depth)
            x = depth.spatial(x, stride, dilation, by_node=not self.training)
            stride = 1
            if number < len(self.depths):
                x = depth.norm(depth.mix_channels(x)).relu_() if self.training else depth.folded(x).relu_()
            elif self.training:
                x = depth.norm(depth.mix_channels(x), _by_channel(alphas, self.bundle.channels))
                x = sum_edges(x, self.bundle)
            else:
                x = depth.folded_sum(x, alphas)
        return from_phases(x) if phased else x

    def places(self) -> Iterator[Place]:
        """Every tensor of the plain modules."""
        edges, kinds = self.bundle.edges, len(self.operations)
        for number in range(len(self.depths)):
            name, first = f"depths.{number}", 4 * number
            for kind, operation in enumerate(self.operations):
                for edge in range(edges):
                    at, blocks = kind * edges + edge, kinds * edges
                    yield Place(f"{name}.depthwise.{kind}", edge, edges, operation, edge, f"{first + 1}.weight")
                    yield Place(f"{name}.pointwise", at, blocks, operation, edge, f"{first + 2}.weight")
                    yield from Norm.places(f"{name}.norm", at, blocks, operation, edge, f"{first + 3}")


class SeparableShape(NamedTuple):
    """What must be known of a stack of ReLU, depthwise, pointwise and batch norm."""

    kernels: tuple[int, ...]
    dilation: int


def separable_shape(module: nn.Module, bundle: Bundle) -> SeparableShape | None:
    """The shape of a module that `Separables` can compute, else None."""
    layers = list(module) if type(module) is nn.Sequential else []
    if not layers or len(layers) % 4:
        return None
    kernels = []
    dilation = layers[1].dilation[0] if isinstance(layers[1], nn.Conv2d) else 0
    if dilation not in (1, 2) or (dilation == 2 and len(layers) > 4):
        return None
    for at in range(0, len(layers), 4):
        relu, depthwise, pointwise, norm = layers[at : at + 4]
        if type(relu) is not nn.ReLU or not isinstance(depthwise, nn.Conv2d) or not isinstance(pointwise, nn.Conv2d):
            return None
        width, kernel, stride = bundle.channels, depthwise.kernel_size[0], bundle.stride if at == 0 else 1
        same = nn.Conv2d(
            width, width, kernel, stride, dilation * (kernel - 1) // 2, dilation, groups=width, bias=False, device="meta"
        )
        dense = nn.Conv2d(width, width, 1, bias=False, device="meta")
        if kernel % 2 == 0 or repr(depthwise) != repr(same) or repr(pointwise) != repr(dense) or not _is_norm(norm, width):
            return None
        kernels.append(kernel)
    return SeparableShape(tuple(kernels), dilation)


class Shared(nn.Module):
    """Pooling and identity: alike on all edges that leave a node, so computed once and mixed by the alphas."""

    def __init__(self, bundle: Bundle, operations: Sequence[int], modules: Sequence[nn.Module]):
        super().__init__()
        self.bundle, self.operations = bundle, list(operations)
        self.pools = nn.ModuleList(module[0] if isinstance(module, nn.Sequential) else module for module in modules)
        width = bundle.sources * bundle.channels
        self.norms = nn.ModuleList(Norm(width) if isinstance(module, nn.Sequential) else nn.Identity() for module in modules)

    def forward(self, x: Tensor, alphas: Float[Tensor, "k t s"]) -> Tensor:
        nodes, _, channels, _ = self.bundle
        features = [pool(x) for pool in self.pools]
        if self.training:
            features = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        mixed = alphas.unsqueeze(-1).expand(-1, -1, -1, channels)
        shift = None
        if not self.training:
            scales, shifts = zip(*(self._folded(norm, mixed) for norm in self.norms), strict=True)
            shift = (mixed * torch.stack(shifts)).sum((0, 2)).flatten()
            mixed = mixed * torch.stack(scales)
        weight = torch.diag_embed(mixed).permute(1, 3, 0, 2, 4).reshape(nodes * channels, -1, 1, 1)
        return F.conv2d(torch.cat(features, dim=1), weight, shift)

    def _folded(self, norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, self.bundle.sources, self.bundle.channels)
        if isinstance(norm, Norm):
            scale, shift = norm.folded()
            return scale.view(shape), shift.view(shape)
        return like.new_ones(shape), like.new_zeros(shape)

    def places(self) -> Iterator[Place]:
        """Every tensor of the plain modules; edges that leave the same node share theirs."""
        sources = self.bundle.sources
        for number, (operation, norm) in enumerate(zip(self.operations, self.norms, strict=True)):
            for edge in range(self.bundle.edges if isinstance(norm, Norm) else 0):
                yield from Norm.places(f"norms.{number}", edge % sources, sources, operation, edge, "1")


def is_shared(module: nn.Module, bundle: Bundle) -> bool:
    """True for an identity and for a pooling, without indices, that is followed by batch norm."""
    if type(module) is nn.Sequential and len(module) == 2:
        return type(module[0]) in (nn.MaxPool2d, nn.AvgPool2d) and _is_norm(module[1], bundle.channels)
    return type(module) is nn.Identity


class Reductions(nn.Module):
    """Factorised reductions: the identity of the edges of stride 2."""

    def __init__(self, bundle: Bundle, operations: Sequence[int], modules: Sequence[FactorisedReduction]):
        super().__init__()
        self.bundle, self.operations = bundle, list(operations)
        even, odd = modules[0].even, modules[0].odd
        width = len(modules) * bundle.edges
        self.even = nn.Parameter(torch.empty(width * even.out_channels, bundle.channels, 1, 1))
        self.odd = nn.Parameter(torch.empty(width * odd.out_channels, bundle.channels, 1, 1))
        self.norm = Norm(width * bundle.channels)

    def forward(self, x: Tensor, alphas: Float[Tensor, "k t s"]) -> Tensor:
        x = x.relu()
        shifted = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        halves = []
        for grid, weight in ((x, self.even), (shifted, self.odd)):
            grids = repeat(grid[:, :, ::2, ::2], len(self.operations) * self.bundle.nodes)
            groups = len(self.operations) * self.bundle.edges
            half = F.conv2d(grids, weight, groups=groups)
            halves.append(half.permute(0, 2, 3, 1).unflatten(3, (groups, -1)))
        both = torch.cat(halves, dim=4).flatten(3).permute(0, 3, 1, 2)
        return sum_edges(self.norm(both, _by_channel(alphas, self.bundle.channels)), self.bundle)

    def places(self) -> Iterator[Place]:
        """Every tensor of the plain modules."""
        edges = self.bundle.edges
        for kind, operation in enumerate(self.operations):
            for edge in range(edges):
                at, blocks = kind * edges + edge, len(self.operations) * edges
                yield Place("even", at, blocks, operation, edge, "even.weight")
                yield Place("odd", at, blocks, operation, edge, "odd.weight")
                yield from Norm.places("norm", at, blocks, operation, edge, "norm")


class Separately(nn.Module):
    """Any other operation: its own module on each edge."""

    def __init__(self, bundle: Bundle, operations: Sequence[int], candidates: Sequence[Sequence[nn.Module]]):
        super().__init__()
        self.bundle, self.operations = bundle, list(operations)
        self.candidates = nn.ModuleList(nn.ModuleList(edge[operation] for edge in candidates) for operation in operations)

    def forward(self, x: Tensor, alphas: Float[Tensor, "k t s"]) -> Tensor:
        inputs = x.chunk(self.bundle.sources, dim=1)
        totals: list[Tensor] = []
        for node in range(self.bundle.nodes):
            terms = [
                alphas[kind, node, source] * modules[node * self.bundle.sources + source](inputs[source])  # type: ignore[index]
                for kind, modules in enumerate(self.candidates)
                for source in range(self.bundle.sources)
            ]
            totals.append(torch.stack(terms).sum(0))
        return torch.cat(totals, dim=1)

    def places(self) -> Iterator[Place]:
        """Every tensor of the plain modules, each on its own."""
        for kind, operation in enumerate(self.operations):
            for edge in range(self.bundle.edges):
                for name in self.candidates[kind][edge].state_dict():  # type: ignore[index]
                    yield Place(f"candidates.{kind}.{edge}.{name}", 0, 1, operation, edge, name)


Part = Separables | Shared | Reductions | Separately


class MixedEdges(nn.Module):
    """Eq. (2) on all edges of a bundle: [n, sources * channels, h, w] to [n, nodes * channels, h', w'].

    `candidates[edge][operation]` are the plain modules; their weights are taken over.
    """

    def __init__(self, bundle: Bundle, candidates: Sequence[Sequence[nn.Module]]):
        super().__init__()
        self.bundle = bundle
        self.parts = nn.ModuleList(_parts(bundle, candidates))
        state = dict(self.state_dict(keep_vars=True))
        with torch.no_grad():
            for place in self.places():
                plain = candidates[place.edge][place.operation].state_dict()[place.plain]
                place.block(state[place.name]).copy_(plain)

    def forward(self, x: Float[Tensor, "n c h w"], weights: Float[Tensor, "edges operations"]) -> Tensor:
        by_operation = weights.t().unflatten(1, (self.bundle.nodes, self.bundle.sources))
        terms = [part(x, _rows(by_operation, part.operations)) for part in self.parts]  # type: ignore[arg-type]
        return sum(terms[1:], terms[0])

    def places(self) -> Iterator[Place]:
        """Where each tensor of each plain module lies."""
        for number, part in enumerate(self.parts):
            for place in part.places():  # type: ignore[operator]
                yield place._replace(name=f"parts.{number}.{place.name}")


def _parts(bundle: Bundle, candidates: Sequence[Sequence[nn.Module]]) -> Iterator[Part]:
    """Sort the operations into families that can be computed together."""
    separables: dict[tuple[int, int], list[tuple[int, SeparableShape]]] = {}
    shared, reductions, others = [], [], []
    for operation, module in enumerate(candidates[0]):
        shape = separable_shape(module, bundle)
        if shape is not None:
            separables.setdefault((len(shape.kernels), shape.dilation), []).append((operation, shape))
        elif is_shared(module, bundle):
            shared.append(operation)
        elif type(module) is FactorisedReduction and bundle.stride == 2 and not module.norm.affine:
            reductions.append(operation)
        else:
            others.append(operation)
    for family in separables.values():
        operations, shapes = zip(*family, strict=True)
        yield Separables(bundle, operations, shapes)
    if shared:
        yield Shared(bundle, shared, [candidates[0][operation] for operation in shared])
    if reductions:
        yield Reductions(bundle, reductions, [candidates[0][operation] for operation in reductions])  # type: ignore[misc]
    if others:
        yield Separately(bundle, others, candidates)


def _is_norm(module: nn.Module, channels: int) -> bool:
    return type(module) is nn.BatchNorm2d and repr(module) == repr(nn.BatchNorm2d(channels, affine=False, device="meta"))


def _rows(table: Tensor, rows: list[int]) -> Tensor:
    """Some rows; neighbours, as in most spaces, without a copy. A list as index would make a GPU wait."""
    first, last = rows[0], rows[-1] + 1
    return table[first:last] if rows == list(range(first, last)) else torch.stack([table[row] for row in rows])


def _embed(weight: Tensor, kernel: int) -> Tensor:
    border = (kernel - weight.shape[-1]) // 2
    return F.pad(weight, (border,) * 4) if border else weight


def _by_channel(alphas: Tensor, channels: int) -> Tensor:
    return alphas.unsqueeze(-1).expand(*alphas.shape, channels).flatten()


def repeat(x: Float[Tensor, "n c h w"], times: int) -> Float[Tensor, "n c2 h w"]:
    """All channels so many times over."""
    if times == 1:
        return x
    return x.permute(0, 2, 3, 1).unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(3).permute(0, 3, 1, 2)


def sum_edges(x: Tensor, bundle: Bundle) -> Float[Tensor, "n c h w"]:
    """Sum over operations and sources; what remains is (node, channel)."""
    nodes, sources, channels, _ = bundle
    x = x.permute(0, 2, 3, 1)
    if x.shape[3] > bundle.edges * channels:
        x = x.unflatten(3, (-1, bundle.edges * channels)).sum(3)
    if sources > 1:
        x = x.unflatten(3, (nodes, sources, channels)).sum(4).flatten(3)
    return x.permute(0, 3, 1, 2)


def to_phases(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n4 c h2 w2"]:
    """Even and odd rows and columns as four images."""
    x = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def from_phases(x: Float[Tensor, "n4 c h2 w2"]) -> Float[Tensor, "n c h w"]:
    """What `to_phases` took apart."""
    x = x.permute(0, 2, 3, 1).unflatten(0, (2, 2, -1))
    return x.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
