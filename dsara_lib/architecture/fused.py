"""All mixed operations that leave the same nodes of a supernet's cell, Eq. (2), computed together.

Edge by edge, a small supernet would spend its time starting hundreds of tiny convolutions. Here one depthwise convolution
serves an operation on all edges; pooling and its batch norm run once per node. It equals the plain sum up to rounding; the
plain one, a module for each operation and edge, is `tests/reference/plain_supernet.py`. Attacks are crafted on `folded.py`.

Channels are ordered (operation, node, source, channel). Tensors are channels-last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .depthwise import depthwise
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
    """Batch norm without parameters of its own: a scale for each channel may be given."""

    def __init__(self, channels: int):
        super().__init__(channels, affine=False)

    def forward(self, x: Float[Tensor, "n c h w"], scale: Float[Tensor, " c"] | None = None) -> Tensor:
        if scale is None:
            return super().forward(x)
        return self.parts([x], [scale])[0]

    def parts(self, tensors: Sequence[Tensor], scales: Sequence[Tensor] | None) -> list[Tensor]:
        """The norm of some images whose channels together are its own, each multiplied by its scales."""
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        widths = [x.shape[1] for x in tensors]
        statistics = zip(self.running_mean.split(widths), self.running_var.split(widths), strict=True)
        # Torch 2.15 silently gives wrong gradients for an expanded scale of a channels-last batch norm on the CPU.
        each = [None] * len(widths) if scales is None else [scale.contiguous() for scale in scales]
        return [
            F.batch_norm(x, mean, var, scale, None, self.training, self.momentum, self.eps)
            for x, (mean, var), scale in zip(tensors, statistics, each, strict=True)
        ]

    @staticmethod
    def places(name: str, at: int, blocks: int, operation: int, edge: int, plain: str) -> Iterator[Place]:
        yield Place(f"{name}.running_mean", at, blocks, operation, edge, f"{plain}.running_mean")
        yield Place(f"{name}.running_var", at, blocks, operation, edge, f"{plain}.running_var")
        yield Place(f"{name}.num_batches_tracked", 0, 1, operation, edge, f"{plain}.num_batches_tracked")


class Depth(nn.Module):
    """Depthwise, pointwise, batch norm of all operations of a family on all edges."""

    def __init__(self, bundle: Bundle, kernels: Sequence[int]):
        super().__init__()
        self.bundle = bundle
        width = bundle.edges * bundle.channels
        self.depthwise = nn.ParameterList(torch.empty(width, 1, kernel, kernel) for kernel in kernels)
        self.pointwise = nn.Parameter(torch.empty(len(kernels) * width, bundle.channels, 1, 1))
        self.norm = Norm(len(kernels) * width)

    def forward(self, inputs: Sequence[Tensor], stride: int, dilation: int, scales: Sequence[Tensor] | None = None) -> list[Tensor]:
        """One image for each operation to one for each; `scales` multiply their channels at the end."""
        found = []
        for x, kernel, weight in zip(inputs, self.depthwise, self.pointwise.chunk(len(inputs)), strict=True):
            x = depthwise(x, kernel, stride, dilation * (kernel.shape[-1] - 1) // 2, dilation)
            found.append(pointwise(x, weight))
        return self.norm.parts(found, scales)


class Separables(nn.Module):
    """ReLU, depthwise, pointwise, batch norm, once or several times: separable and dilated convolutions."""

    def __init__(self, bundle: Bundle, operations: Sequence[int], shapes: Sequence[SeparableShape]):
        super().__init__()
        self.bundle, self.operations = bundle, list(operations)
        self.dilation = shapes[0].dilation
        self.depths = nn.ModuleList(Depth(bundle, kernels) for kernels in zip(*(s.kernels for s in shapes), strict=True))

    def forward(self, x: Tensor, alphas: Float[Tensor, "k t s"]) -> Tensor:
        x, stride, dilation = x.relu(), self.bundle.stride, self.dilation
        if dilation == 2 and stride == 2:  # only the even pixels are looked at
            x, stride, dilation = grids(x)[0].contiguous(memory_format=torch.channels_last), 1, 1
        features = [repeat(x, self.bundle.nodes)] * len(self.operations)
        *inner, last = self.depths
        for depth in inner:
            features = [feature.relu_() for feature in depth(features, stride, dilation)]
            stride = 1
        scales = [_by_channel(alpha, self.bundle.channels) for alpha in alphas]
        return sum_edges(last(features, stride, dilation, scales), self.bundle)

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
        features = [norm(pool(x)) for pool, norm in zip(self.pools, self.norms, strict=True)]
        weights = diagonals(alphas.unsqueeze(-1).expand(-1, -1, -1, self.bundle.channels)).unbind()
        total = rows(features[0]) @ weights[0]
        for feature, weight in zip(features[1:], weights[1:], strict=True):
            total = torch.addmm(total, rows(feature), weight)
        return image(total, features[0])

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
        halves = []
        for grid, weight in zip(grids(x.relu()), (self.even, self.odd), strict=True):
            groups = len(self.operations) * self.bundle.edges
            half = F.conv2d(repeat(grid, len(self.operations) * self.bundle.nodes), weight, groups=groups)
            halves.append(half.permute(0, 2, 3, 1).unflatten(3, (groups, -1)))
        both = torch.cat(halves, dim=4).flatten(3).permute(0, 3, 1, 2)
        return sum_edges([self.norm(both, _by_channel(alphas, self.bundle.channels))], self.bundle)

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
        terms = [part(x, alphas) for part, alphas in self.weighted(weights)]
        return sum(terms[1:], terms[0])

    def weighted(self, weights: Float[Tensor, "edges operations"]) -> list[tuple[Part, Float[Tensor, "k t s"]]]:
        """Each part with the weights of its operations."""
        by_operation = weights.t().unflatten(1, (self.bundle.nodes, self.bundle.sources))
        return [(part, pick(by_operation, part.operations)) for part in self.parts]  # type: ignore[arg-type, misc]

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


@torch.no_grad()
def affine(norm: nn.Module, dtype: torch.dtype | None = None) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """(scale, shift) of a batch norm in evaluation mode, computed in that precision or its own."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.to(dtype=dtype) + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def fold(norm: nn.Module, *convs: Any, dtype: torch.dtype | None = None) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of convolutions whose results, one after the other along the channels, go through a batch norm."""
    widths = [conv.out_channels for conv in convs]
    parts = zip(convs, *(part.split(widths) for part in affine(norm, dtype)), strict=True)
    return [
        (conv.weight * scale.view(-1, 1, 1, 1), shift if conv.bias is None else shift + scale * conv.bias)
        for conv, scale, shift in parts
    ]


def pick(table: Tensor, rows: list[int]) -> Tensor:
    """Some rows; neighbours, as in most spaces, without a copy. A list as index would make a GPU wait."""
    first, last = rows[0], rows[-1] + 1
    return table[first:last] if rows == list(range(first, last)) else torch.stack([table[row] for row in rows])


def _by_channel(alphas: Tensor, channels: int) -> Tensor:
    return alphas.unsqueeze(-1).expand(*alphas.shape, channels).flatten()


def repeat(x: Float[Tensor, "n c h w"], times: int) -> Float[Tensor, "n c2 h w"]:
    """All channels so many times over."""
    if times == 1:
        return x
    return x.permute(0, 2, 3, 1).unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(3).permute(0, 3, 1, 2)


def sum_edges(terms: Sequence[Tensor], bundle: Bundle) -> Float[Tensor, "n c h w"]:
    """Sum over operations and sources; what remains is (node, channel)."""
    nodes, sources, channels, _ = bundle
    width = bundle.edges * channels
    parts = [part for term in terms for part in (term.split(width, dim=1) if term.shape[1] > width else (term,))]
    total = sum(parts[1:], parts[0])
    if sources == 1:
        return total
    by_source = total.permute(0, 2, 3, 1).unflatten(3, (nodes, sources, channels)).unbind(4)
    return sum(by_source[1:], by_source[0]).flatten(3).permute(0, 3, 1, 2)


def pointwise(x: Float[Tensor, "n c h w"], weight: Float[Tensor, "c c2 1 1"]) -> Float[Tensor, "n c h w"]:
    """A 1x1 convolution in groups of as many channels as a row of the weight has."""
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return _Pointwise.apply(x, weight)
    return F.conv2d(x, weight, groups=len(weight) // weight.shape[1])


class _Pointwise(torch.autograd.Function):
    """Matrix products in one place: torch's grouped convolution on the CPU copies each group to its own image and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _by_group(x, _groups(weight).mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            of_image = pointwise(gradient, _groups(weight).mT.reshape(weight.shape))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, gradient, weight)
        return of_image, of_weight


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    width = weight.shape[1]
    if torch.is_grad_enabled():  # second derivatives are wanted
        g, inner = (rows(part).unflatten(1, (-1, width)) for part in (gradient, x))
        return torch.einsum("pgo,pgi->goi", g, inner).reshape(weight.shape)
    found = torch.empty_like(weight)
    both = zip(rows(gradient).split(width, dim=1), rows(x).split(width, dim=1), strict=True)
    for (g, part), out in zip(both, _groups(found), strict=True):
        torch.mm(g.t(), part, out=out)
    return found


def _groups(weight: Tensor) -> Float[Tensor, "groups c c"]:
    return weight.view(-1, weight.shape[1], weight.shape[1])


def _by_group(x: Tensor, matrices: Tensor) -> Tensor:
    """Each group of channels times its own matrix."""
    out, width = torch.empty_like(x), matrices.shape[1]
    for part, matrix, result in zip(rows(x).split(width, dim=1), matrices, rows(out).split(width, dim=1), strict=True):
        torch.mm(part, matrix, out=result)
    return out


def rows(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "pixels c"]:
    """A channels-last image as a matrix with a row for each pixel: the same memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def image(table: Float[Tensor, "pixels c"], like: Float[Tensor, "n c2 h w"], stride: int = 1) -> Float[Tensor, "n c h2 w2"]:
    """The rows of a matrix as an image of the spatial size of `like`, or after that stride."""
    n, _, h, w = like.shape
    return table.view(n, (h - 1) // stride + 1, (w - 1) // stride + 1, -1).permute(0, 3, 1, 2)


def empty_image(like: Tensor, n: int, c: int, h: int, w: int) -> Float[Tensor, "n c h w"]:
    """Channels last, on the device and in the precision of `like`."""
    return torch.empty((n, c, h, w), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def diagonals(scales: Float[Tensor, "k t s c"]) -> Float[Tensor, "k sc tc"]:
    """Matrices [(source, channel), (node, channel)] with a diagonal for each source and node."""
    return torch.diag_embed(scales).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


def grids(x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n c h2 w2"], Float[Tensor, "n c h2 w2"]]:
    """The even and the odd pixels; at odd sizes zeros take the place of the missing ones."""
    even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    missing = (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2])
    return even, F.pad(odd, missing) if any(missing) else odd


def add_grids(x: Float[Tensor, "n c h w"], even: Tensor, odd: Tensor | None = None) -> Float[Tensor, "n c h w"]:
    """The adjoint of `grids`: adds to the even and the odd pixels, in place."""
    x[:, :, ::2, ::2].add_(even)
    if odd is not None:
        x[:, :, 1::2, 1::2].add_(odd[:, :, : x.shape[2] // 2, : x.shape[3] // 2])
    return x
