"""Folded cells on a GPU: the constants of `folded`, computed with the kernels of `kernels`, eight launches a bundle and pass.

All kinds of convolutions that leave the same nodes start together. The pointwise convolution and ReLU between the two halves of
a separable convolution happen before its first half leaves the registers; on the way back, between the adjoints. What is kept
for the way back are those rectified middles, which say where gradients pass, and a byte for the place of each maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..shapes import Float
from .folded import (
    FoldedSupernet,
    by_bundle,
    fold_inputs,
    pointwise_constants,
    reduction_constants,
    shared_constants,
    total_bias,
)
from .fused import Bundle, MixedEdges, Reductions, Separables, Shared, grids
from .space import NUM_INPUTS

if TYPE_CHECKING:
    from .cells import MixedCell
    from .networks import Supernet

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # sums are float32 in all of them
WIDEST = 128  # channels of a node whose pointwise convolutions fit into registers
AGREEMENT = {"logits": 0.05, "image gradients": 0.3}  # as far as TF32 or bfloat16 may move them over kinks of ReLUs
PRECISION = "tf32"  # of products of float32; "ieee" keeps all bits


def can_serve(cell: MixedCell, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels exist for this cell on this device."""
    able = device.type == "cuda" and dtype in DTYPES and cell.channels <= WIDEST and find_spec("triton") is not None
    return able and all(_known(part) for bundle in cell.bundles for part in bundle.parts)  # type: ignore[union-attr]


def _known(part: nn.Module) -> bool:
    if isinstance(part, Shared):
        names = [type(pool) for pool in part.pools]
        return len(set(names)) == len(names) and all(repr(pool) in _pools(part.bundle.stride) for pool in part.pools)
    return isinstance(part, Separables | Reductions)


def _pools(stride: int) -> list[str]:
    pools = nn.MaxPool2d(3, stride, 1), nn.AvgPool2d(3, stride, 1, count_include_pad=False), nn.Identity()
    return [repr(pool) for pool in pools]


@torch.inference_mode(False)
def trouble(supernet: Supernet, images: Float[Tensor, "n c h w"], tf32: bool = False) -> str:
    """What is wrong with the kernels for this supernet on this device, found on some images; empty where nothing is.

    A kernel that fails, or computes something else than torch's own operations, must not decide what an attack finds.
    """
    try:
        pairs = []
        for kernels in (True, False):
            x = images.detach().clone().requires_grad_()
            with torch.enable_grad():
                logits = FoldedSupernet(supernet, kernels, tf32)(x)
                pairs.append((logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]))
    except Exception as error:  # compilers and drivers raise all kinds
        return f"{type(error).__name__}: {error}".splitlines()[0]
    for what, ours, theirs in zip(("logits", "image gradients"), *pairs, strict=True):
        difference = ((ours - theirs).norm() / theirs.norm()).item()
        if not difference <= AGREEMENT[what]:
            return f"their {what} differ by {difference:.1g} of their length"
    return ""


class KernelCell:
    """A `FoldedCell` by its interface."""

    def __init__(
        self,
        cell: MixedCell,
        weights: Tensor,
        dtype: torch.dtype,
        *,
        relu: bool,
        precision: str = PRECISION,
    ):
        self.channels, self.relu = cell.channels, relu
        self.before, self.previous = fold_inputs(cell, dtype)
        self.bundles = [KernelBundle(edges, w, dtype, precision) for edges, w in by_bundle(cell, weights)]
        self.bias = total_bias([bundle.bias for bundle in self.bundles]).to(dtype)

    def forward(self, before: Tensor, previous: Tensor, saved: list[Tensor]) -> Tensor:
        """Appends to `saved` what `backward` needs beside the result."""
        n, _, h, w = previous.shape
        x = previous.new_empty(n, h, w, NUM_INPUTS, self.channels)
        first, second = x.flatten(3).flatten(0, 2).split(self.channels, dim=1)
        self.before.forward(before, first)
        self.previous.forward(previous, second)
        saved.append(x)
        stride = self.bundles[0].bundle.stride
        out = x.new_empty(n, (h - 1) // stride + 1, (w - 1) // stride + 1, *self.bias.shape)
        for node, bundle in enumerate(self.bundles):
            source = x if node == 0 else out[:, :, :, node - 1 : node]
            bundle.forward(source, out[:, :, :, node:], self.bias if node == 0 else None, saved)
        result = as_image(out)
        return result.relu_() if self.relu else result

    def backward(self, gradient: Tensor, out: Tensor, saved: list[Tensor], size: torch.Size) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `before` and `previous`; `size` is the former's."""
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0) if self.relu else gradient.clone()
        sums, after = (by_node(tensor, self.channels) for tensor in (gradient, out))
        for node in reversed(range(1, len(self.bundles))):
            source = slice(node - 1, node)
            self.bundles[node].backward(sums[:, :, :, node:], after[:, :, :, source], sums[:, :, :, source], True, saved)
        x = saved.pop(0)
        found = torch.empty_like(x)
        self.bundles[0].backward(sums, x, found, False, saved)
        first, second = found.flatten(3).flatten(0, 2).split(self.channels, dim=1)
        of_previous = self.previous.backward(second, as_image(x))
        return self.before.backward(first, as_image(x), size), of_previous


class Kind(NamedTuple):
    """A separable or dilated convolution on all edges of a bundle. Every matrix is [channels in, channels out]."""

    dilation: int
    kernels: list[Tensor]  # of each level [targets, sources, k, k, channels]
    mixers: list[Tensor]  # of each level but the last [targets, sources, channels, channels]
    shifts: list[Tensor]  # of the same
    last: Tensor


class KernelBundle:
    """The mixed operations on all edges of a bundle."""

    def __init__(self, edges: MixedEdges, weights: Tensor, dtype: torch.dtype, precision: str):
        self.bundle, self.precision = edges.bundle, precision
        nodes, _, channels, _ = self.bundle
        self.bias = weights.new_zeros(nodes, channels, dtype=torch.promote_types(weights.dtype, torch.float32))
        self.kinds: list[Kind] = []
        self.pools: list[type[nn.Module]] = []
        self.scales: Tensor | None = None
        self.halves: list[Tensor] = []  # of factorised reductions, for the even and the odd grid
        for part, alphas in edges.weighted(weights):
            if isinstance(part, Separables):
                self.kinds += self._separables(part, alphas, dtype)
            elif isinstance(part, Shared):
                scales, shift = shared_constants(part, alphas)
                self.pools, self.scales = [type(pool) for pool in part.pools], scales.to(dtype)
                self.bias += shift
            else:
                assert isinstance(part, Reductions)
                halves, shift = reduction_constants(part, alphas)
                self.halves = [half.to(dtype).contiguous() for half in halves]
                self.bias += shift
        # Those with more levels first: at each level the first ones go on.
        self.kinds.sort(key=lambda kind: -len(kind.kernels))

    def _separables(self, part: Separables, alphas: Tensor, dtype: torch.dtype) -> Iterator[Kind]:
        depths = list(part.depths)
        depthwise = [[_taps(kernel, self.bundle, dtype) for kernel in depth.depthwise] for depth in depths]  # type: ignore[union-attr]
        matrices, shifts = [], []
        for depth in depths:
            matrix, shift = pointwise_constants(depth, self.bundle, alphas if depth is depths[-1] else None)
            matrices.append(matrix.to(dtype).contiguous().unbind())
            shifts.append(shift)
        self.bias += shifts.pop().sum((0, 2))
        rectified = [shift.to(dtype).unbind() for shift in shifts]
        for kind in range(len(alphas)):
            *mixers, last = (level[kind] for level in matrices)
            yield Kind(part.dilation, [level[kind] for level in depthwise], mixers, [level[kind] for level in rectified], last)

    def forward(self, x: Tensor, sums: Tensor, bias: Tensor | None, saved: list[Tensor]) -> None:
        """Writes to the sums [n, h', w', nodes, channels], with a bias, or adds to what they hold, without.

        x is [n, h, w, sources, channels]; what `backward` needs is appended to `saved`.
        """
        from . import kernels

        ys, matrices = self._convolved(x, sums, saved), [kind.last for kind in self.kinds]
        if self.halves:
            ys += [self._shared_by_nodes(by_node(grid.relu(), self.bundle.channels)) for grid in grids(as_image(x))]
            matrices += self.halves
        zs = self._pooled(x, sums, saved)
        add = bias is None
        kernels.mix(by_pixel(sums), [y.flatten(2, 4) for y in ys], matrices, zs, self.scales, bias, False, add, self.precision)

    def _convolved(self, x: Tensor, sums: Tensor, saved: list[Tensor]) -> list[Tensor]:
        """All but the last pointwise convolutions, [nodes, sources, n, h', w', channels] of each kind."""
        from . import kernels

        found: list[Tensor] = []
        ys: list[Tensor] = []
        stride, relu = self.bundle.stride, True
        xs = [x]
        for level in range(len(self.kinds[0].kernels) if self.kinds else 0):
            kinds = [kind for kind in self.kinds if len(kind.kernels) > level]
            going_on = [kind for kind in kinds if len(kind.mixers) > level]
            ys = self._empty(sums, len(kinds))
            edges = [y if level == 0 else y.flatten(0, 1).unsqueeze(0) for y in ys]
            weights = [kind.kernels[level] if level == 0 else kind.kernels[level].flatten(0, 1).unsqueeze(0) for kind in kinds]
            mixers = [_flat(kind.mixers[level], level) for kind in going_on]
            shifts = [_flat(kind.shifts[level], level) for kind in going_on]
            dilations = [kind.dilation for kind in kinds]
            kernels.spread(edges, xs, weights, dilations, mixers, shifts, None, stride, relu, self.precision)
            found = ys[len(going_on) :] + found
            xs, stride, relu = [_by_edge(y) for y in ys[: len(going_on)]], 1, False
            saved += ys[: len(going_on)]
        return found

    def _pooled(self, x: Tensor, sums: Tensor, saved: list[Tensor]) -> list[Tensor]:
        """What each pooling (or identity) makes of x, as [sources, pixels, channels]."""
        from . import kernels

        shape = (self.bundle.sources, *sums.shape[:3], self.bundle.channels)
        maxima = x.new_empty(shape) if nn.MaxPool2d in self.pools else None
        places = x.new_empty(shape, dtype=torch.uint8) if maxima is not None else None
        means = x.new_empty(shape) if nn.AvgPool2d in self.pools else None
        if maxima is not None or means is not None:
            kernels.pool(maxima, places, means, x, self.bundle.stride)
        if places is not None:
            saved.append(places)
        found = {nn.MaxPool2d: maxima, nn.AvgPool2d: means}
        return [by_pixel(x) if found.get(pool) is None else found[pool].flatten(1, 3) for pool in self.pools]  # type: ignore

    def backward(self, sums: Tensor, x: Tensor, found: Tensor, add: bool, saved: list[Tensor]) -> None:
        """From the gradient of the sums to that of the source, written or added to `found`; only the signs of x count.

        Takes from `saved` what `forward` appended.
        """
        from . import kernels

        places = saved.pop() if nn.MaxPool2d in self.pools else None
        gys = self._empty(sums, len(self.kinds))
        gzs = list(sums.new_empty(len(self.pools), self.bundle.sources, *sums.shape[:3], self.bundle.channels))
        flat = [g.flatten(2, 4) for g in gys], [g.flatten(1, 3) for g in gzs]
        if gys or gzs:
            kernels.unmix(*flat, by_pixel(sums), [kind.last for kind in self.kinds], self.scales, self.precision)
        if gzs:
            by_pool = dict(zip(self.pools, gzs, strict=True))
            parts = by_pool.get(nn.MaxPool2d), places, by_pool.get(nn.AvgPool2d), by_pool.get(nn.Identity)
            kernels.unpool(found, *parts, self.bundle.stride, add)
            add = True
        if gys:
            gys = self._to_first_level(gys, saved)
            weights, dilations = [kind.kernels[0] for kind in self.kinds], [kind.dilation for kind in self.kinds]
            kernels.gather([found], gys, weights, dilations, [], [x], None, self.bundle.stride, add, self.precision)
            add = True
        if not add:
            found.zero_()
        if self.halves:
            self._unreduce(sums, x, found)

    def _to_first_level(self, gys: list[Tensor], saved: list[Tensor]) -> list[Tensor]:
        """Gradients of the first depthwise convolutions from those of the last ones."""
        from . import kernels

        for level in reversed(range(1, len(self.kinds[0].kernels) if self.kinds else 0)):
            kinds = [kind for kind in self.kinds if len(kind.kernels) > level]
            middles = saved[-len(kinds) :]
            del saved[-len(kinds) :]
            results = [torch.empty_like(g) for g in gys[: len(kinds)]]
            kernels.gather(
                [_by_edge(result) for result in results],
                [g.flatten(0, 1).unsqueeze(0) for g in gys[: len(kinds)]],
                [kind.kernels[level].flatten(0, 1).unsqueeze(0) for kind in kinds],
                [kind.dilation for kind in kinds],
                [kind.mixers[level - 1].flatten(0, 1) for kind in kinds],
                [_by_edge(middle) for middle in middles],
                None, 1, False, self.precision,
            )  # fmt: skip
            gys = results + gys[len(kinds) :]
        return gys

    def _unreduce(self, sums: Tensor, x: Tensor, found: Tensor) -> None:
        """Add the gradient of the factorised reductions."""
        from . import kernels

        n, h, w, *_ = sums.shape
        # [1, nodes, pixels, channels] for each source.
        gradient = by_pixel(sums).unsqueeze(0).expand(self.bundle.sources, -1, -1, -1)
        for first, matrix in enumerate(self.halves):
            part = sums.new_empty(n, h, w, self.bundle.sources, self.bundle.channels)
            turned = matrix.permute(1, 0, 3, 2).contiguous()
            kernels.mix(by_pixel(part), [gradient], [turned], [], None, None, False, False, self.precision)
            at = (slice(None), slice(first, None, 2), slice(first, None, 2))
            found[at] += part[:, : found[at].shape[1], : found[at].shape[2]] * (x[at] > 0)

    def _shared_by_nodes(self, image: Tensor) -> Tensor:
        """[n, h, w, sources, channels] as [nodes, sources, n, h, w, channels], all nodes in the same memory."""
        return image.permute(3, 0, 1, 2, 4).unsqueeze(0).expand(self.bundle.nodes, -1, -1, -1, -1, -1)

    def _empty(self, sums: Tensor, number: int) -> list[Tensor]:
        nodes, sources, channels, _ = self.bundle
        return list(sums.new_empty(number, nodes, sources, *sums.shape[:3], channels))


def by_node(image: Tensor, channels: int) -> Tensor:
    """A channels-last image [n, nodes * channels, h, w] as [n, h, w, nodes, channels]: the same memory."""
    return image.permute(0, 2, 3, 1).unflatten(3, (-1, channels))


def as_image(nodes: Tensor) -> Tensor:
    """[n, h, w, nodes, channels] as a channels-last image: the same memory."""
    return nodes.flatten(3).permute(0, 3, 1, 2)


def by_pixel(image: Tensor) -> Tensor:
    """[n, h, w, nodes, channels] as [nodes, pixels, channels]: the same memory."""
    return image.flatten(0, 2).transpose(0, 1)


def _by_edge(y: Tensor) -> Tensor:
    """[nodes, sources, n, h, w, channels] as an image [n, h, w, edges, channels]: the same memory."""
    return y.flatten(0, 1).permute(1, 2, 3, 0, 4)


def _flat(constants: Tensor, level: int) -> Tensor:
    """As the first level has them, or with every edge a source of its own."""
    return constants if level == 0 else constants.flatten(0, 1).unsqueeze(0)


def _taps(kernel: Tensor, bundle: Bundle, dtype: torch.dtype) -> Tensor:
    """Packed depthwise kernels as [nodes, sources, k, k, channels]."""
    nodes, sources, channels, _ = bundle
    return kernel.detach().view(nodes, sources, channels, *kernel.shape[2:]).permute(0, 1, 3, 4, 2).to(dtype).contiguous()
