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

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float
from .fused import Bundle, MixedEdges, Norm, Reductions, Separables, Separately, Shared, pick, rows
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
            scale, shift = _affine(supernet.stem[1])
            weight = supernet.stem[0].weight
            assert isinstance(weight, Tensor)
            self.stem = [part.to(self.dtype) for part in (weight * scale.view(-1, 1, 1, 1), shift)]
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
        before, previous = cell.inputs.before, cell.inputs.previous
        self.before = FoldedReduction(before, dtype) if isinstance(before, FactorisedReduction) else FoldedInput(before, dtype)
        self.previous = FoldedInput(previous, dtype)
        by_bundle = weights[cell.order].split([len(edges) for edges in cell.bundle_edges])
        self.bundles = [FoldedBundle(bundle, w, dtype) for bundle, w in zip(cell.bundles, by_bundle, strict=True)]  # type: ignore
        # What is added to a node, whatever leaves for it.
        width = len(self.bundles[0].bias)
        self.bias = sum((F.pad(bundle.bias, (width - len(bundle.bias), 0)) for bundle in self.bundles), weights.new_zeros(()))
        self.bias = self.bias.to(dtype)

    def forward(self, before: Tensor, previous: Tensor, saved: list[Tensor]) -> Tensor:
        """Appends to `saved` what `backward` needs beside the result."""
        n, _, h, w = previous.shape
        x = _empty(previous, n, NUM_INPUTS * self.channels, h, w)
        first, second = rows(x).split(self.channels, dim=1)
        self.before.forward(before, first)
        self.previous.forward(previous, second)
        stride = self.bundles[0].bundle.stride
        out = _empty(x, n, len(self.bias), (h - 1) // stride + 1, (w - 1) // stride + 1)
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
        self._even: Tensor | None = None

    @property
    def even(self) -> Tensor:
        """The even pixels of the ReLU."""
        if self._even is None:
            self._even = grid(self.relu, 0)
        return self._even

    @property
    def odd(self) -> Tensor:
        """The odd pixels of the ReLU; at odd sizes zeros take the place of the missing ones."""
        return odd_grid(self.relu, self.even.shape)


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
        even, odd = self.found.get("even"), self.found.get("odd")
        full = self.found.get("relu")
        if full is None and (even is not None or odd is not None):
            full = torch.zeros_like(self.relu)
        if full is not None:
            if even is not None:
                full[:, :, ::2, ::2].add_(even)
            if odd is not None:
                full[:, :, 1::2, 1::2].add_(odd[:, :, : full.shape[2] // 2, : full.shape[3] // 2])
            full = torch.ops.aten.threshold_backward(full, self.relu, 0)
        plain = self.found.get("x")
        if full is None or plain is None:
            return torch.zeros_like(self.relu) if full is plain else plain if full is None else full  # type: ignore[return-value]
        return full.add_(plain)


class FoldedBundle:
    """The mixed operations on all edges of a bundle: adds their weighted sums to the columns of the nodes that they lead to.

    The bundle of the inputs leads to all nodes, that of a node to the later ones.
    """

    def __init__(self, edges: MixedEdges, weights: Float[Tensor, "edges operations"], dtype: torch.dtype):
        self.bundle = edges.bundle
        by_operation = weights.t().unflatten(1, (self.bundle.nodes, self.bundle.sources))
        self.parts = [FOLDS[type(part)](part, pick(by_operation, part.operations), dtype) for part in edges.parts]  # type: ignore
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
        nodes, sources, channels, _ = self.bundle
        self.kernels = [[kernel.detach().to(dtype, copy=True) for kernel in depth.depthwise] for depth in depths]
        self.inner = [InnerPointwise(depth, self.bundle, dtype) for depth in depths[:-1]]
        scale, shift = (p.view(-1, nodes, sources, channels) * alphas.unsqueeze(-1) for p in depths[-1].norm.folded())
        last = depths[-1].pointwise.view(-1, nodes, sources, channels, channels) * scale.unsqueeze(-1)
        # [(source, channel in), channel out] for each kind and node.
        self.last = [kind.unbind() for kind in last.transpose(3, 4).flatten(2, 3).to(dtype).unbind()]
        self.last_turned = [[weight.t() for weight in kind] for kind in self.last]
        self.bias = shift.sum((0, 2)).flatten()
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
        like = grid(found.relu, 0) if self.even_only else found.relu
        size = self._group(like)
        by_node = sums.split(self.bundle.channels, dim=1)
        kernels = self._kernels(size)
        total: Tensor | None = None
        n, c, h, w = like.shape
        out_h, out_w = (h - 1) // stride + 1, (w - 1) // stride + 1
        for kind, weights in reversed(list(enumerate(self.last_turned))):
            for group in reversed(range(self.bundle.nodes // size)):
                g = _empty(like, n, size * c, out_h, out_w)
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
        scale, shift = depth.norm.folded()
        weight = (depth.pointwise * scale.view(-1, 1, 1, 1)).view(-1, nodes, sources, channels, channels)
        # [(source, channel in), (source, channel out)] for each kind and node, zero between different sources.
        blocks = weight.new_zeros(len(weight), nodes, sources, channels, sources, channels, dtype=dtype)
        for source in range(sources):
            blocks[:, :, source, :, source] = weight[:, :, source].mT
        self.weight = [kind.unbind() for kind in blocks.flatten(4).flatten(2, 3).unbind()]
        self.turned = [[matrix.t() for matrix in kind] for kind in self.weight]
        self.bias = shift.to(dtype).view(-1, nodes * sources * channels).unbind()

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
        nodes, sources, channels, _ = self.bundle
        shape = (1, sources, channels)
        self.weights, bias = [], alphas.new_zeros(nodes, channels)
        for norm, weight in zip(part.norms, alphas, strict=True):
            mixed = weight.unsqueeze(-1).expand(-1, -1, channels)
            if isinstance(norm, Norm):
                scale, shift = (p.view(shape) for p in norm.folded())
                bias = bias + (mixed * shift).sum(1)
                mixed = mixed * scale
            # [(source, channel), (node, channel)], a diagonal for each source and node.
            self.weights.append(torch.diag_embed(mixed).permute(1, 2, 0, 3).reshape(sources * channels, -1).to(dtype))
        self.bias = bias.flatten()

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """As `FoldedBundle.forward`."""
        for pool, weight in zip(self.pools, self.weights, strict=True):
            sums.addmm_(rows(self._pooled(pool, source.x, saved)), weight)

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """As `FoldedBundle.backward`."""
        relu, stride = found.relu, self.bundle.stride
        n, c, h, w = relu.shape
        shape = (n, (h - 1) // stride + 1, (w - 1) // stride + 1, c)
        for pool, weight in reversed(list(zip(self.pools, self.weights, strict=True))):
            g = torch.mm(sums, weight.t()).view(shape).permute(0, 3, 1, 2)
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
        nodes, sources, channels, _ = part.bundle
        scale, shift = (p.view(-1, nodes, sources, channels) * alphas.unsqueeze(-1) for p in part.norm.folded())
        self.bias = shift.sum((0, 2)).flatten()
        first = part.even.shape[0] // (len(alphas) * part.bundle.edges)
        halves = []
        for weight, out in ((part.even, slice(0, first)), (part.odd, slice(first, channels))):
            by_edge = weight.view(*scale.shape[:3], -1, channels) * scale[..., out, None]
            dense = by_edge.new_zeros(sources, channels, nodes, channels)
            dense[..., out] = by_edge.sum(0).permute(1, 3, 0, 2)
            halves.append(dense.flatten(2).flatten(0, 1).to(dtype))
        self.even, self.odd = halves

    def forward(self, source: Source, sums: Tensor, saved: list[Tensor]) -> None:
        """As `FoldedBundle.forward`."""
        sums.addmm_(rows(source.even), self.even)
        sums.addmm_(rows(source.odd), self.odd)

    def backward(self, sums: Tensor, found: Gradients, saved: list[Tensor]) -> None:
        """As `FoldedBundle.backward`."""
        n, c, h, w = found.relu.shape
        for form, weight in (("odd", self.odd), ("even", self.even)):
            found.add(form, torch.mm(sums, weight.t()).view(n, (h + 1) // 2, (w + 1) // 2, c).permute(0, 3, 1, 2))


class FoldedInput:
    """How a cell brings the (rectified) output of an earlier one to its own width: 1x1 convolution and batch norm."""

    def __init__(self, module: nn.Sequential, dtype: torch.dtype):
        scale, shift = _affine(module[2])
        weight = module[1].weight
        assert isinstance(weight, Tensor)
        self.weight, self.bias = (weight.flatten(1) * scale.view(-1, 1)).t().to(dtype), shift.to(dtype)

    def forward(self, relu: Tensor, out: Tensor) -> None:
        """Writes the rows of `out`."""
        torch.addmm(self.bias, rows(relu), self.weight, out=out)

    def backward(self, gradient: Tensor, like: Tensor, size: torch.Size | None = None) -> Tensor:
        """From rows to an image of the spatial size of `like`."""
        n, _, h, w = like.shape
        return torch.mm(gradient, self.weight.t()).view(n, h, w, -1).permute(0, 3, 1, 2)


class FoldedReduction:
    """The same where the output comes from before a reduction: a factorised reduction."""

    def __init__(self, module: FactorisedReduction, dtype: torch.dtype):
        scale, shift = _affine(module.norm)
        self.first = module.even.out_channels
        self.bias = shift.to(dtype)
        weights = (module.even.weight.flatten(1), module.odd.weight.flatten(1))
        parts = zip(weights, scale.split([self.first, len(scale) - self.first]), strict=True)
        self.even, self.odd = ((weight * part.unsqueeze(1)).t().to(dtype) for weight, part in parts)

    def forward(self, relu: Tensor, out: Tensor) -> None:
        """Writes the rows of `out`."""
        even = grid(relu, 0)
        widths = [self.first, len(self.bias) - self.first]
        first, second = out.split(widths, dim=1)
        bias = self.bias.split(widths)
        torch.addmm(bias[0], rows(even), self.even, out=first)
        torch.addmm(bias[1], rows(odd_grid(relu, even.shape)), self.odd, out=second)

    def backward(self, gradient: Tensor, like: Tensor, size: torch.Size) -> Tensor:
        """From rows to an image of that size."""
        n, _, h, w = like.shape
        parts = zip(gradient.split([self.first, gradient.shape[1] - self.first], dim=1), (self.even, self.odd), strict=True)
        even, odd = (torch.mm(part, weight.t()).view(n, h, w, -1).permute(0, 3, 1, 2) for part, weight in parts)
        full = torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last).zero_()
        full[:, :, ::2, ::2] = even
        full[:, :, 1::2, 1::2] = odd[:, :, : size[2] // 2, : size[3] // 2]
        return full


FOLDS: dict[type[nn.Module], Callable[..., Any]] = {
    Separables: FoldedSeparables,
    Shared: FoldedShared,
    Reductions: FoldedReductions,
}


def image(table: Float[Tensor, "pixels c"], like: Float[Tensor, "n c2 h w"]) -> Float[Tensor, "n c h w"]:
    """The rows of a matrix as an image of the spatial size of `like`."""
    n, _, h, w = like.shape
    return table.view(n, h, w, -1).permute(0, 3, 1, 2)


def grid(x: Float[Tensor, "n c h w"], first: int) -> Float[Tensor, "n c h2 w2"]:
    """Every second pixel, channels last."""
    return x[:, :, first::2, first::2].contiguous(memory_format=torch.channels_last)


def odd_grid(x: Float[Tensor, "n c h w"], size: torch.Size) -> Float[Tensor, "n c h2 w2"]:
    """The odd pixels, with zeros where one is missing."""
    odd = grid(x, 1)
    missing = (0, size[3] - odd.shape[3], 0, size[2] - odd.shape[2])
    return F.pad(odd, missing) if any(missing) else odd


def _depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] - 1) // 2, dilation, groups=len(weight))


def _depthwise_backward(g: Tensor, kernel: Kernel, stride: int, dilation: int, size: tuple[int, ...]) -> Tensor:
    """The gradient with respect to the input of that size."""
    if stride == 1:
        return _depthwise(g, kernel.turned, 1, dilation)
    padding = dilation * (kernel.weight.shape[-1] - 1) // 2
    like = torch.empty(size, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
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


def _empty(like: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    return torch.empty((n, c, h, w), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(scale, shift) of a batch norm in evaluation mode."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _dtype_of(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    reduced = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if reduced else weight.dtype


def _without_autocast(kind: str) -> AbstractContextManager[object]:
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
