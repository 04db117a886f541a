"""A supernet made ready to be attacked: its logits in evaluation mode at its present weights and alphas, and image gradients.

While PGD examples are crafted nothing but the images changes. Batch norm in evaluation mode is then a constant affine map: it
is folded, with the softmaxed alphas of Eq. (2), into the pointwise convolutions, so that the last ones of all edges into a node
are matrix products added up in one place. Forward and backward of a cell are written out by hand: no gradient but the images'
is ever computed, depthwise convolutions go back as convolutions with the turned kernel (several times as fast on the CPU as the
library's gradient), and only what decides the signs of ReLUs and the places of maxima is kept for the way back.

A folded supernet is a snapshot; it is made anew for each attack, which costs little beside one of its passes.
Every tensor is channels last; `rows` is the same memory as a matrix with a row for each pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .fused import (
    Bundle,
    MixedEdges,
    Norm,
    Reductions,
    Separables,
    Separately,
    Shared,
    add_grids,
    affine,
    diagonals,
    empty_image,
    fold,
    grids,
    image,
    rows,
)
from .operations import FactorisedReduction
from .space import NUM_INPUTS

if TYPE_CHECKING:
    from .cells import MixedCell
    from .networks import Supernet

# On the CPU one convolution serves all nodes of a bundle only where its input stays smaller than this and so in the cache.
WIDE_BYTES = 2**20


class FoldedSupernet(nn.Module):
    """What the supernet computes in evaluation mode, frozen as it is now. It has no parameters.

    On a GPU its cells run on the kernels of `gpu.py`, unless `kernels` is False or there are none for them; with `tf32` these
    round the factors of products to TF32.
    """

    def __init__(self, supernet: Supernet, kernels: bool = True, tf32: bool = False):
        super().__init__()
        from .gpu import KernelCell, can_serve  # stands on this module

        self.dtype = _dtype_of(supernet.classifier.weight)
        device = supernet.classifier.weight.device
        with torch.no_grad():
            mixing = supernet.mixing_weights()
            conv, norm = supernet.stem
            self.stem = [part.to(self.dtype) for part in fold(norm, conv)[0]]
            self.classifier = [part.detach().to(self.dtype, copy=True) for part in supernet.classifier.parameters()]
            last = len(supernet.cells) - 1
            self.cells: list[FoldedCell | KernelCell] = []
            for at, cell in enumerate(supernet.cells):
                arguments: Any = (cell, mixing[cell.kind], self.dtype)  # type: ignore[index]
                if kernels and can_serve(cell, self.dtype, device):  # type: ignore[arg-type]
                    self.cells.append(KernelCell(*arguments, relu=at < last, precision="tf32" if tf32 else "ieee"))
                else:
                    self.cells.append(FoldedCell(*arguments, relu=at < last))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits, in the images' own precision."""
        with _without_autocast(images.device.type):
            x = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
            before = previous = F.conv2d(x, self.stem[0], self.stem[1], padding=1).relu()
            for cell in self.cells:
                before, previous = previous, _Cell.apply(before, previous, cell)
            return F.linear(previous.mean(dim=(2, 3)), *self.classifier).to(images.dtype)


def can_fold(supernet: Supernet) -> bool:
    """Whether all its operations are of known families."""
    return not any(isinstance(part, Separately) for part in supernet.modules())


class _Cell(torch.autograd.Function):
    """A folded cell as one step of the graph."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, previous: Tensor, cell: FoldedCell) -> Tensor:
        saved: list[Tensor] = []
        out = cell.forward(before, previous, saved)
        ctx.cell, ctx.size = cell, before.shape
        ctx.save_for_backward(out, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError("a folded supernet has first derivatives only; take second ones of the supernet itself")
        out, *saved = ctx.saved_tensors
        return (*ctx.cell.backward(gradient, out, saved, ctx.size), None)


class FoldedCell:
    """A mixed cell: the ReLU of the outputs of the cells k-2 and k-1 to the ReLU of its own (of the last cell, the output)."""

    def __init__(self, cell: MixedCell, weights: Float[Tensor, "edges operations"], dtype: torch.dtype, *, relu: bool):
        self.channels, self.relu = cell.channels, relu
        self.before, self.previous = fold_inputs(cell, dtype)
        self.bundles = [FoldedBundle(edges, w, dtype) for edges, w in by_bundle(cell, weights)]
        self.bias = total_bias([bundle.bias for bundle in self.bundles]).to(dtype).flatten()

    def forward(self, before: Tensor, previous: Tensor, saved: list[Tensor]) -> Tensor:
        """Appends to `saved` what `backward` needs beside the result."""
        n, _, h, w = previous.shape
        x = empty_image(previous, n, NUM_INPUTS * self.channels, h, w)
        first, second = rows(x).split(self.channels, dim=1)
        self.before.forward(before, first)
        self.previous.forward(previous, second)
        stride = self.bundles[0].bundle.stride
        out = empty_image(x, n, len(self.bias), (h - 1) // stride + 1, (w - 1) // stride + 1)
        sums = rows(out)
        sums.copy_(self.bias.expand_as(sums))
        for node, bundle in enumerate(self.bundles):
            source = Source(x if node == 0 else image(self._node(sums, node - 1), out))
            if node == 0:
                saved.append(source.relu)
            bundle.forward(source, sums[:, node * self.channels :], saved)
        return out.relu_() if self.relu else out

    def backward(self, gradient: Tensor, out: Tensor, saved: list[Tensor], size: torch.Size) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `before` and `previous`; `size` is the former's."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0) if self.relu else gradient.clone()
        sums, after = rows(gradient), rows(out)
        for node in reversed(range(1, len(self.bundles))):
            relu = image(self._node(after, node - 1).contiguous(), out)
            found = Gradients(relu if self.relu else relu.relu())
            self.bundles[node].backward(sums[:, node * self.channels :], found, saved)
            self._node(sums, node - 1).add_(rows(found.total()))
        found = Gradients(saved.pop(0))
        self.bundles[0].backward(sums, found, saved)
        first, second = rows(found.total()).split(self.channels, dim=1)
        of_previous = self.previous.backward(second, found.relu)
        return self.before.backward(first, found.relu, size), of_previous

    def _node(self, table: Tensor, number: int) -> Tensor:
        return table[:, number * self.channels : (number + 1) * self.channels]


class Source:
    """What leaves a node (or both inputs), in the forms that the operations want, each computed once."""

    def __init__(self, x: Tensor):
        self.x, self.relu = x, x.relu()

    @cached_property
    def even(self) -> Tensor:
        """The even pixels of the ReLU."""
        return grids(self.relu)[0].contiguous(memory_format=torch.channels_last)

    @property
    def odd(self) -> Tensor:
        """The odd pixels of the ReLU."""
        return grids(self.relu)[1]


class Gradients:
    """Gradients with respect to the forms of a `Source`, added up."""

    def __init__(self, relu: Tensor):
        self.relu = relu  # the source's own, which says where gradients pass
        self.found: dict[str, Tensor] = {}

    def add(self, form: str, gradient: Tensor) -> None:
        """Takes the gradient over."""
        if form in self.found:
            self.found[form].add_(gradient)
        else:
            self.found[form] = gradient

    def total(self) -> Tensor:
        """With respect to the source itself."""
        full, plain = self.found.get("relu"), self.found.get("x")
        if "even" in self.found:
            full = torch.zeros_like(self.relu) if full is None else full
            add_grids(full, self.found["even"], self.found.get("odd"))
        if full is None:
            return torch.zeros_like(self.relu) if plain is None else plain
        full = torch.ops.aten.threshold_backward(full, self.relu, 0)
        return full if plain is None else full.add_(plain)


class FoldedBundle:
    """The mixed operations on all edges of a bundle: adds their weighted sums to the columns of the nodes that they lead to.

    The bundle of the inputs leads to all nodes, that of a node to the later ones.
    """

    def __init__(self, edges: MixedEdges, weights: Float[Tensor, "edges operations"], dtype: torch.dtype):
        self.bundle = edges.bundle
        self.parts = [FOLDS[type(part)](part, alphas, dtype) for part, alphas in edges.weighted(weights)]
        self.bias = sum((part.bias for part in self.parts), weights.new_zeros(()))

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """`sums` are rows of [nodes * channels]; what `backward` needs is appended to `saved`."""
        for part in self.parts:
            part.forward(source, sums, saved)

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """From the gradient with respect to the sums to the source's; takes from `saved` what `forward` appended."""
        for part in reversed(self.parts):
            part.backward(sums, found, saved)


class Kernel(NamedTuple):
    """A depthwise kernel of some targets' edges, as it is and turned by 180 degrees."""

    weight: Float[Tensor, "c 1 k k"]
    turned: Float[Tensor, "c 1 k k"]


class FoldedSeparables:
    """Separable and dilated convolutions: ReLU, depthwise, pointwise, batch norm, once or several times."""

    def __init__(self, part: Separables, alphas: Float[Tensor, "k t s"], dtype: torch.dtype):
        self.bundle, self.dilation = part.bundle, part.dilation
        self.even_only = part.dilation == 2 and part.bundle.stride == 2  # only the even pixels are looked at
        depths: list[Any] = list(part.depths)
        self.kernels = [[kernel.detach().to(dtype, copy=True) for kernel in depth.depthwise] for depth in depths]
        self.inner = [InnerPointwise(depth, self.bundle, dtype) for depth in depths[:-1]]
        last, shift = pointwise_constants(depths[-1], self.bundle, alphas)
        # [(source, channel in), channel out] for each kind and node.
        self.last = [kind.unbind() for kind in last.flatten(2, 3).to(dtype).unbind()]
        self.last_turned = [[weight.t() for weight in kind] for kind in self.last]
        self.bias = shift.sum((0, 2))
        self._by_size: dict[int, list[list[list[Kernel]]]] = {}

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """As `FoldedBundle.forward`."""
        x, stride, dilation = self._input(source)
        size = self._group(x)
        repeated = torch.cat([x] * size, dim=1) if size > 1 else x
        by_node = sums.split(self.bundle.channels, dim=1)
        kernels = self._kernels(size)
        for kind, weights in enumerate(self.last):
            for group in range(self.bundle.nodes // size):
                y = _depthwise(repeated, kernels[0][kind][group].weight, stride, dilation)
                for level, inner in enumerate(self.inner, 1):
                    y = inner.forward(y, kind, group, size).relu_()
                    saved.append(y)
                    y = _depthwise(y, kernels[level][kind][group].weight, 1, dilation)
                for at, part in enumerate(_blocks(y, size), group * size):
                    by_node[at].addmm_(part, weights[at])

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """As `FoldedBundle.backward`."""
        form, stride, dilation = ("even", 1, 1) if self.even_only else ("relu", self.bundle.stride, self.dilation)
        like = grids(found.relu)[0] if self.even_only else found.relu
        size = self._group(like)
        by_node = sums.split(self.bundle.channels, dim=1)
        kernels = self._kernels(size)
        total: Tensor | None = None
        n, c, h, w = like.shape
        out_h, out_w = (h - 1) // stride + 1, (w - 1) // stride + 1
        for kind, weights in reversed(list(enumerate(self.last_turned))):
            for group in reversed(range(self.bundle.nodes // size)):
                g = empty_image(like, n, size * c, out_h, out_w)
                for at, part in enumerate(_blocks(g, size), group * size):
                    torch.mm(by_node[at], weights[at], out=part)
                for level in reversed(range(1, len(self.inner) + 1)):
                    g = _depthwise(g, kernels[level][kind][group].turned, 1, dilation)
                    g = torch.ops.aten.threshold_backward(g, saved.pop(), 0)
                    g = self.inner[level - 1].backward(g, kind, group, size)
                g = _depthwise_backward(g, kernels[0][kind][group], stride, dilation, (n, size * c, h, w))
                total = g if total is None else total.add_(g)
        assert total is not None
        found.add(form, _sum_blocks(total, size))

    def _input(self, source: Source) -> tuple[Tensor, int, int]:
        if self.even_only:
            return source.even, 1, 1
        return source.relu, self.bundle.stride, self.dilation

    def _group(self, x: Tensor) -> int:
        """For how many nodes one convolution works: all, or one where that many would leave the cache."""
        wide = x.device.type != "cpu" or x.numel() * x.element_size() * self.bundle.nodes <= WIDE_BYTES
        return self.bundle.nodes if wide else 1

    def _kernels(self, size: int) -> list[list[list[Kernel]]]:
        """[level][kind][group], for groups of that many nodes."""
        if size not in self._by_size:
            groups = self.bundle.nodes // size
            self._by_size[size] = [
                [[Kernel(*both) for both in zip(k.chunk(groups), k.flip(2, 3).chunk(groups), strict=True)] for k in level]
                for level in self.kernels
            ]
        return self._by_size[size]


class InnerPointwise:
    """A pointwise convolution and batch norm that another depthwise convolution follows: each edge by itself."""

    def __init__(self, depth: Any, bundle: Bundle, dtype: torch.dtype):
        nodes, sources, channels, _ = bundle
        self.bundle = bundle
        weight, shift = pointwise_constants(depth, bundle)
        # [(source, channel in), (source, channel out)] for each kind and node, zero between different sources.
        blocks = weight.new_zeros(len(weight), nodes, sources, channels, sources, channels, dtype=dtype)
        for source in range(sources):
            blocks[:, :, source, :, source] = weight[:, :, source]
        self.weight = [kind.unbind() for kind in blocks.flatten(4).flatten(2, 3).unbind()]
        self.turned = [[matrix.t() for matrix in kind] for kind in self.weight]
        self.bias = shift.to(dtype).flatten(1).unbind()

    def forward(self, y: Tensor, kind: int, group: int, size: int) -> Tensor:
        """For the nodes of a group, without the ReLU."""
        out = torch.empty_like(y, memory_format=torch.channels_last)
        for at, (a, b) in enumerate(zip(_blocks(y, size), _blocks(out, size), strict=True), group * size):
            torch.mm(a, self.weight[kind][at], out=b)
        width = y.shape[1]
        rows(out).add_(self.bias[kind][group * width : (group + 1) * width])
        return out

    def backward(self, g: Tensor, kind: int, group: int, size: int) -> Tensor:
        """The gradient with respect to y."""
        out = torch.empty_like(g, memory_format=torch.channels_last)
        for at, (a, b) in enumerate(zip(_blocks(g, size), _blocks(out, size), strict=True), group * size):
            torch.mm(a, self.turned[kind][at], out=b)
        return out


class FoldedShared:
    """Pooling and identity: computed once for each source; each target takes a multiple of every channel."""

    def __init__(self, part: Shared, alphas: Float[Tensor, "k t s"], dtype: torch.dtype):
        self.bundle, self.pools = part.bundle, list(part.pools)
        scales, self.bias = shared_constants(part, alphas)
        self.weights = diagonals(scales).to(dtype).unbind()

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """As `FoldedBundle.forward`."""
        for pool, weight in zip(self.pools, self.weights, strict=True):
            sums.addmm_(rows(self._pooled(pool, source.x, saved)), weight)

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """As `FoldedBundle.backward`."""
        relu = found.relu
        for pool, weight in reversed(list(zip(self.pools, self.weights, strict=True))):
            g = image(torch.mm(sums, weight.t()), relu, self.bundle.stride)
            if isinstance(pool, nn.MaxPool2d):
                shape_of = _pairs((pool.kernel_size, pool.stride, pool.padding, pool.dilation))
                g = torch.ops.aten.max_pool2d_with_indices_backward(g, relu, *shape_of, pool.ceil_mode, saved.pop())
            elif isinstance(pool, nn.AvgPool2d):
                shape_of = _pairs((pool.kernel_size, pool.stride, pool.padding))
                rest = (pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
                g = torch.ops.aten.avg_pool2d_backward(g, relu, *shape_of, *rest)
            found.add("x", g)

    @staticmethod
    def _pooled(pool: nn.Module, x: Tensor, saved: list[Tensor]) -> Tensor:
        if isinstance(pool, nn.MaxPool2d):
            x, where = F.max_pool2d(
                x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
            )
            saved.append(where)
            return x
        return pool(x)


class FoldedReductions:
    """Factorised reductions: the identity of the edges of stride 2."""

    def __init__(self, part: Reductions, alphas: Float[Tensor, "k t s"], dtype: torch.dtype):
        halves, self.bias = reduction_constants(part, alphas)
        # [(source, channel in), (node, channel out)].
        self.even, self.odd = (half.permute(1, 2, 0, 3).flatten(2).flatten(0, 1).to(dtype) for half in halves)

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """As `FoldedBundle.forward`."""
        sums.addmm_(rows(source.even), self.even)
        sums.addmm_(rows(source.odd), self.odd)

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """As `FoldedBundle.backward`."""
        for form, weight in (("odd", self.odd), ("even", self.even)):
            found.add(form, image(torch.mm(sums, weight.t()), found.relu, 2))


class FoldedInput:
    """How a cell brings the (rectified) output of an earlier one to its own width: 1x1 convolution and batch norm."""

    def __init__(self, module: nn.Sequential, dtype: torch.dtype):
        _, conv, norm = module
        ((weight, bias),) = fold(norm, conv)
        self.weight, self.bias = weight.flatten(1).t().to(dtype), bias.to(dtype)

    def forward(self, relu: Tensor, out: Tensor) -> None:
        """Writes the rows of `out`."""
        torch.addmm(self.bias, rows(relu), self.weight, out=out)

    def backward(self, gradient: Tensor, like: Tensor, size: torch.Size | None = None) -> Tensor:
        """From rows to an image of the spatial size of `like`."""
        return image(torch.mm(gradient, self.weight.t()), like)


class FoldedReduction:
    """The same where the output comes from before a reduction: a factorised reduction."""

    def __init__(self, module: FactorisedReduction, dtype: torch.dtype):
        self.widths = [module.even.out_channels, module.odd.out_channels]
        weights, biases = zip(*fold(module.norm, module.even, module.odd), strict=True)
        self.weights = [weight.flatten(1).t().to(dtype) for weight in weights]
        self.biases = [bias.to(dtype) for bias in biases]

    def forward(self, relu: Tensor, out: Tensor) -> None:
        """Writes the rows of `out`."""
        parts = zip(self.biases, grids(relu), self.weights, out.split(self.widths, dim=1), strict=True)
        for bias, grid, weight, part in parts:
            torch.addmm(bias, rows(grid), weight, out=part)

    def backward(self, gradient: Tensor, like: Tensor, size: torch.Size) -> Tensor:
        """From rows to an image of that size."""
        parts = zip(gradient.split(self.widths, dim=1), self.weights, strict=True)
        return add_grids(empty_image(like, *size).zero_(), *(image(torch.mm(part, weight.t()), like) for part, weight in parts))


FOLDS: dict[type[nn.Module], Callable[..., Any]] = {
    Separables: FoldedSeparables,
    Shared: FoldedShared,
    Reductions: FoldedReductions,
}


# The constants of a cell, which `gpu.py` lays out in its own way. Letters: k operations, t nodes, s sources, c channels.


def fold_inputs(cell: MixedCell, dtype: torch.dtype) -> tuple[FoldedInput | FoldedReduction, FoldedInput]:
    """How a cell brings the outputs of the cells k-2 and k-1 to its own width."""
    before, previous = cell.inputs.before, cell.inputs.previous
    first = FoldedReduction(before, dtype) if isinstance(before, FactorisedReduction) else FoldedInput(before, dtype)
    return first, FoldedInput(previous, dtype)


def by_bundle(cell: MixedCell, weights: Float[Tensor, "edges operations"]) -> Iterator[tuple[MixedEdges, Tensor]]:
    """The edges of each bundle with their weights."""
    return zip(cell.bundles, weights[cell.order].split([len(edges) for edges in cell.bundle_edges]), strict=True)  # type: ignore


def total_bias(biases: Sequence[Tensor]) -> Float[Tensor, "t c"]:
    """What is added to each node: the first bundle leads to all of them, that of a node to the later ones."""
    total = biases[0].clone()
    for node, bias in enumerate(biases[1:], 1):
        total[node:] += bias
    return total


def pointwise_constants(depth: Any, bundle: Bundle, alphas: Float[Tensor, "k t s"] | None = None) -> tuple[Tensor, Tensor]:
    """Pointwise convolutions with their norm, weighted: matrices [k, t, s, in, out] and shifts [k, t, s, c]."""
    scale, shift = _by_edge(depth.norm, bundle, alphas)
    return (depth.pointwise.view(*scale.shape, -1) * scale.unsqueeze(-1)).mT, shift


def shared_constants(part: Shared, alphas: Float[Tensor, "k t s"]) -> tuple[Float[Tensor, "k t s c"], Float[Tensor, "t c"]]:
    """What each source's channels are multiplied by, and the sum of all shifts."""
    nodes, sources, channels, _ = part.bundle
    scales, bias = [], alphas.new_zeros(nodes, channels)
    for norm, weight in zip(part.norms, alphas, strict=True):
        mixed = weight.unsqueeze(-1).expand(-1, -1, channels)
        if isinstance(norm, Norm):
            scale, shift = (p.view(1, sources, channels) for p in affine(norm))
            bias = bias + (mixed * shift).sum(1)
            mixed = mixed * scale
        scales.append(mixed)
    return torch.stack(scales), bias


def reduction_constants(part: Reductions, alphas: Float[Tensor, "k t s"]) -> tuple[list[Tensor], Float[Tensor, "t c"]]:
    """Matrices [t, s, in, out] for the even and the odd grid, and the sum of all shifts."""
    scale, shift = _by_edge(part.norm, part.bundle, alphas)
    channels = part.bundle.channels
    first = part.even.shape[0] // scale[..., 0].numel()
    halves = []
    for weight, columns in ((part.even, slice(0, first)), (part.odd, slice(first, channels))):
        by_edge = weight.view(*scale.shape[:3], -1, channels) * scale[..., columns, None]
        halves.append(F.pad(by_edge.sum(0).mT, (columns.start, channels - columns.stop)))
    return halves, shift.sum((0, 2))


def _by_edge(norm: nn.Module, bundle: Bundle, alphas: Tensor | None) -> list[Float[Tensor, "k t s c"]]:
    """Scale and shift of a norm, weighted."""
    found = [part.view(-1, *bundle[:3]) for part in affine(norm)]
    return found if alphas is None else [part * alphas.unsqueeze(-1) for part in found]


def _depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] - 1) // 2, dilation, groups=len(weight))


def _depthwise_backward(g: Tensor, kernel: Kernel, stride: int, dilation: int, size: tuple[int, ...]) -> Tensor:
    """The gradient with respect to the input of that size."""
    if stride == 1:
        return _depthwise(g, kernel.turned, 1, dilation)
    padding = dilation * (kernel.weight.shape[-1] - 1) // 2
    like = empty_image(g, *size)
    settings = (*_pairs((stride, padding, dilation)), False, (0, 0), size[1], (True, False, False))
    return torch.ops.aten.convolution_backward(g, like, kernel.weight, None, *settings)[0]


def _blocks(x: Tensor, number: int) -> Sequence[Tensor]:
    """The rows of so many equal parts of the channels."""
    table = rows(x)
    return (table,) if number == 1 else table.chunk(number, dim=1)


def _sum_blocks(x: Tensor, number: int) -> Tensor:
    if number == 1:
        return x
    first, *others = x.chunk(number, dim=1)
    total = first.contiguous(memory_format=torch.channels_last)
    for other in others:
        total.add_(other)
    return total


def _pairs(settings: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    return tuple((value, value) if isinstance(value, int) else tuple(value) for value in settings)


def _dtype_of(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    reduced = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if reduced else weight.dtype


def _without_autocast(kind: str) -> AbstractContextManager[object]:
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
