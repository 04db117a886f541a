"""How a frozen network is rewritten to be attacked faster: a traced graph, and the modules that take the place of its own.

In evaluation mode batch norm is a constant affine map and folds into the convolution before it. Then, on the CPU, where it pays:
all 1x1 convolutions whose results are summed, or whose inputs were concatenated, become one chain of matrix products (`Mixed`);
and the gradient of a depthwise convolution of stride 1 is a convolution with the turned kernel (`Turned`), up to ten times as
fast as the library's gradient of a dilated one. `prepared.py` compares the result with the original before it is used.

A rewritten tensor is computed by a `Recipe` from tensors of the network, so it can be computed again when those have changed.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .depthwise import Depthwise
from .fused import add_grids, affine, empty_image, fold, grids, image, rows
from .operations import FactorisedReduction, Halving

ADDITIONS = (operator.add, torch.add)
IN_PLACE = {"setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"}
CONVOLUTIONS = (nn.Conv2d, Depthwise, Halving)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Recipe(NamedTuple):
    """Some tensors are `function(*sources)`, of modules, tensors and numbers, whenever `follow` has been called."""

    targets: list[nn.Parameter]
    function: Callable[..., Sequence[Tensor]]
    sources: tuple[Any, ...]

    def follow(self) -> None:
        """Compute the tensors anew, where they lie."""
        for target, found in zip(self.targets, self.function(*self.sources), strict=True):
            target.copy_(found)


# What rewritten networks are made of.


class Mixed(nn.Module):
    """The sum of 1x1 convolutions, each of its own input, and of further inputs as they are: matrix products in one place."""

    def __init__(self, weights: Sequence[nn.Parameter], bias: Tensor | None):
        super().__init__()
        self.weights, self.bias = nn.ParameterList(weights), bias

    def forward(self, *inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return _Mix.apply(self.bias, *self.weights, *inputs)
        return _mix(self.bias, list(self.weights), inputs)


def _mix(bias: Tensor | None, weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    n, _, h, w = inputs[0].shape
    out = empty_image(inputs[0], n, len(weights[0]), h, w)
    table = rows(out)
    if bias is None:
        torch.mm(rows(inputs[0]), weights[0].t(), out=table)
    else:
        torch.addmm(bias, rows(inputs[0]), weights[0].t(), out=table)
    for x, weight in zip(inputs[1:], weights[1:], strict=False):
        table.addmm_(rows(x), weight.t())
    for x in inputs[len(weights) :]:
        out.add_(x)
    return out


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor | None, *both: Tensor) -> Tensor:
        ctx.weights = [x for x in both if x.dim() == 2]
        inputs = both[len(ctx.weights) :]
        return _mix(bias, ctx.weights, inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        table, count = rows(gradient), len(ctx.weights)
        wanted = ctx.needs_input_grad[1 + count :]
        gradients = [
            (image(table @ ctx.weights[at], gradient) if at < count else gradient) if wants else None
            for at, wants in enumerate(wanted)
        ]
        return (None, *[None] * count, *gradients)


class Turned(nn.Module):
    """A convolution of stride 1 whose gradient is a convolution with the turned kernel."""

    def __init__(self, conv: nn.Conv2d, turned: nn.Parameter):
        super().__init__()
        self.weight, self.bias, self.turned = conv.weight, conv.bias, turned
        assert not isinstance(conv.padding, str)
        self.groups, self.dilation, self.padding = conv.groups, conv.dilation, conv.padding
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        self.turned_padding = tuple(r - p for r, p in zip(reach, self.padding, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Turn.apply(x, self)
        return self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation, self.groups)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: Turned) -> Tensor:
        ctx.conv = conv
        return conv.plain(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        conv = ctx.conv
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return F.conv2d(gradient, conv.turned, None, 1, conv.turned_padding, conv.dilation, conv.groups), None


class Grids(nn.Module):
    """The two grids of a factorised reduction, even and odd pixels, after ReLU; inputs are joined along the channels."""

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        return _Grid.apply(*parts)


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shapes = [part.shape for part in parts]
        even, odd = (torch.cat(found, dim=1).relu_() for found in zip(*map(grids, parts), strict=True))
        ctx.save_for_backward(even, odd)
        return even, odd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]
        even, odd = (gradient * (grid > 0) for gradient, grid in zip(gradients, ctx.saved_tensors, strict=True))
        widths = [shape[1] for shape in ctx.shapes]
        parts = zip(ctx.shapes, even.split(widths, 1), odd.split(widths, 1), strict=True)
        return tuple(add_grids(empty_image(even, *shape).zero_(), *both) for shape, *both in parts)


class Affine(nn.Module):
    """A batch norm in evaluation mode that follows nothing it could be folded into."""

    def __init__(self, scale: nn.Parameter, shift: nn.Parameter):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


# How a network is rewritten.


def channels_last(model: nn.Module, like: Tensor) -> tuple[nn.Module, str, list[Recipe]]:
    """The network itself with its weights laid out channels last, these words, and no recipes."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model, "a plain copy, channels last", []


def rewrite(model: nn.Module, like: Tensor) -> tuple[nn.Module, str, list[Recipe]]:
    """The traced network, folded, what was done, and the recipes of all that is not `model`'s own, to be followed in turn.

    Raises where that would lose something or cannot be done.
    """
    for module in model.modules():
        if any(getattr(module, hooks) for hooks in HOOKS) or "forward" in vars(module) or parametrize.is_parametrized(module):
            raise ValueError("it has hooks, parametrizations or a forward of its own")
    on_cpu = like.device.type == "cpu"
    tracer = _Tracer(on_cpu)
    graph = _Graph(fx.GraphModule(model, tracer.trace(model)))
    graph.drop_identities()
    folded = graph.fold() + graph.expand_reductions()
    pure = graph.drop_mutations()
    if pure:
        graph.share_relus()
    if pure and on_cpu:
        graph.mix(like)
    if on_cpu:
        graph.turn()
    if pure:
        graph.relus_in_place()
    network = graph.finish()
    return channels_last(network, like)[0], f"{folded} batch norms folded", graph.recipes


class _Tracer(fx.Tracer):
    """Does not look into a plain factorised reduction, if so told: it is known what that does."""

    proxy_buffer_attributes = True  # what is computed from buffers follows them too

    def __init__(self, keep_reductions: bool):
        super().__init__()
        self.keep_reductions = keep_reductions

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is FactorisedReduction and self.keep_reductions:
            halves = (m.even, m.odd)
            plain = all(type(c) is Halving and (c.kernel_size, c.stride, c.bias) == ((1, 1), (2, 2), None) for c in halves)
            return plain and type(m.relu) is nn.ReLU and _is_constant(m.norm)
        return type(m) in CONVOLUTIONS or super().is_leaf_module(m, module_qualified_name)


class _Graph:
    """A traced network that is being rewritten."""

    def __init__(self, network: fx.GraphModule):
        self.network, self.added, self.recipes = network, 0, list[Recipe]()

    def derive(self, function: Callable[..., Sequence[Tensor]], *sources: Any) -> list[nn.Parameter]:
        """New tensors of the network, computed from others now and whenever the recipes are followed."""
        targets = [nn.Parameter(found.detach().clone(), requires_grad=False) for found in function(*sources)]
        self.recipes.append(Recipe(targets, function, sources))
        return targets

    def nodes(self) -> list[fx.Node]:
        return list(self.network.graph.nodes)

    def module(self, node: Any) -> nn.Module | None:
        """The module that a node calls with one tensor, or with several ones, else None."""
        plain = isinstance(node, fx.Node) and node.op == "call_module" and not node.kwargs
        return self.network.get_submodule(str(node.target)) if plain else None

    def insert(self, before: fx.Node, module: nn.Module, *args: Any) -> fx.Node:
        """A new node that calls a new module."""
        name, self.added = f"prepared_{self.added}", self.added + 1
        self.network.add_submodule(name, module)
        with self.network.graph.inserting_before(before):
            return self.network.graph.call_module(name, args)

    def call(self, before: fx.Node, function: Callable[..., Any], *args: Any) -> fx.Node:
        with self.network.graph.inserting_before(before):
            return self.network.graph.call_function(function, args)

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        node.replace_all_uses_with(new)
        self.network.graph.erase_node(node)

    def conv(self, node: Any) -> nn.Conv2d | None:
        """The convolution that a node calls, else None."""
        module = self.module(node)
        return module if isinstance(module, nn.Conv2d) and type(module) in CONVOLUTIONS and len(node.args) == 1 else None

    def drop_identities(self) -> None:
        for node in self.nodes():
            module = self.module(node)
            if type(module) is nn.Identity or (isinstance(module, nn.modules.dropout._DropoutNd) and not module.training):
                self.replace(node, node.args[0])  # type: ignore[arg-type]

    def fold(self) -> int:
        """Every batch norm with running statistics is folded, or a multiplication and an addition; how many."""
        count = 0
        for node in self.nodes():
            norm = self.module(node)
            if not _is_constant(norm):
                continue
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
            count += 1
            source = node.args[0]
            assert isinstance(source, fx.Node)
            parts = _concatenated(source) or [source]
            convs = [self.conv(part) for part in parts]
            alone = len(source.users) == 1 and len(set(parts)) == len(parts) and all(len(part.users) == 1 for part in parts)
            if not alone or None in convs:
                self.replace(node, self.insert(node, Affine(*self.derive(_by_pixel, norm)), source))
                continue
            derived = iter(self.derive(_scaled, norm, *convs))
            for part, conv in zip(parts, convs, strict=True):
                # A copy for each call: the module may be called elsewhere too.
                scaled: Any = copy.deepcopy(conv)
                scaled.weight, scaled.bias = next(derived), next(derived)
                self.replace(part, self.insert(part, scaled, part.args[0]))
            self.replace(node, node.args[0])  # type: ignore[arg-type]
        return count

    def expand_reductions(self) -> int:
        """Write a factorised reduction as one mix of its two grids; how many."""
        count = 0
        for node in self.nodes():
            module = self.module(node)
            if type(module) is not FactorisedReduction:
                continue
            count += 1
            grids = self.insert(node, Grids(), *node.args)
            both = [self.call(node, operator.getitem, grids, at) for at in (0, 1)]
            *weights, bias = self.derive(_of_grids, module)
            self.replace(node, self.insert(node, Mixed(weights, bias), *both))
        return count

    def drop_mutations(self) -> bool:
        """Write a ReLU to a new place where nobody else sees the old one; whether nothing is written in place any more."""
        for node in self.nodes():
            source = _relu_of(node, in_place=True) or self._relu_module_of(node)
            if source is not None and (self._is_ours(source) or not self._writes(node)):
                self.replace(node, self.call(node, torch.relu, source))
        return not any(self._writes(node) for node in self.nodes())

    def _relu_module_of(self, node: fx.Node) -> fx.Node | None:
        return node.args[0] if type(self.module(node)) is nn.ReLU and isinstance(node.args[0], fx.Node) else None

    def _writes(self, node: fx.Node) -> bool:
        """Whether a node may change what others read."""
        if node.op == "call_module":
            return getattr(self.network.get_submodule(str(node.target)), "inplace", False)
        if node.op not in ("call_function", "call_method"):
            return False
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "_")
        flags = [node.kwargs.get("inplace"), *node.args]
        return name.endswith("_") or name in IN_PLACE or "out" in node.kwargs or any(flag is True for flag in flags)

    def _is_ours(self, node: fx.Node) -> bool:
        """Whether a node makes a new tensor that only one other node reads, and that no gradient needs."""
        if len(node.users) != 1:
            return False
        if node.op == "call_function":
            return node.target in ADDITIONS
        makers = (*CONVOLUTIONS, nn.Linear, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, Affine, Mixed, Turned)
        return type(self.module(node)) in makers

    def share_relus(self) -> None:
        """One ReLU for each tensor."""
        first: dict[fx.Node, fx.Node] = {}
        for node in self.nodes():
            source = _relu_of(node)
            if source is not None and first.setdefault(source, node) is not node:
                self.replace(node, first[source])

    def mix(self, like: Tensor) -> None:
        """Collect 1x1 convolutions, the concatenations before and the sums after them; only where nothing is written in place."""
        ShapeProp(self.network).propagate(like[:1].repeat(2, 1, 1, 1))
        for node in self.nodes():
            if self._is_pointwise(node):
                self._mix_one(node)
            elif type(self.module(node)) is Grids and (parts := _concatenated(node.args[0])):
                node.args = tuple(parts)
        self.network.graph.eliminate_dead_code()
        self.share_relus()
        for node in self.nodes():
            if node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs:
                self._mix_sum(node, *node.args)

    def _is_pointwise(self, node: fx.Node) -> bool:
        conv = self.conv(node)
        if conv is None or len(_shape(node)) != 4:
            return False
        return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)

    def _mix_one(self, node: fx.Node) -> None:
        source, conv = node.args[0], self.conv(node)
        assert conv is not None and isinstance(source, fx.Node)
        inner = _relu_of(source)
        parts = _concatenated(source) or [source]
        joined = inner is not None and all(self._is_pointwise(user) or user is node for user in source.users)
        if inner is not None and joined and (inside := _concatenated(inner)):
            parts = []
            for part in inside:
                with self.network.graph.inserting_after(part):
                    parts.append(self.network.graph.call_function(torch.relu, (part,)))
                parts[-1].meta = part.meta
        weights = self.derive(_by_input, conv, [_shape(part)[1] for part in parts])
        new = self.insert(node, Mixed(weights, conv.bias), *parts)
        new.meta = node.meta
        self.replace(node, new)

    def _mix_sum(self, node: fx.Node, left: Any, right: Any) -> None:
        terms = [left, right]
        mixed = [term for term in terms if type(self.module(term)) is Mixed and len(term.users) == 1]
        if not mixed or left is right or not all(isinstance(term, fx.Node) and _like(term, node) for term in terms):
            return
        modules: list[Any] = [self.module(term) for term in mixed]
        biases = [module.bias for module in modules if module.bias is not None]
        weights = [weight for module in modules for weight in module.weights]
        counts = [len(module.weights) for module in modules]
        inputs = [x for term, count in zip(mixed, counts, strict=True) for x in term.args[:count]]
        others = [x for term, count in zip(mixed, counts, strict=True) for x in term.args[count:]]
        others += [term for term in terms if term not in mixed]
        bias = self.derive(_total, *biases)[0] if len(biases) > 1 else next(iter(biases), None)
        new = self.insert(node, Mixed(weights, bias), *inputs, *others)
        new.meta = node.meta
        self.replace(node, new)
        for term in mixed:
            self.network.graph.erase_node(term)

    def turn(self) -> None:
        for node in self.nodes():
            conv = self.conv(node)
            # Measured: where all channels meet, nothing is gained.
            if (
                conv
                and conv.groups > 1
                and conv.stride == (1, 1)
                and conv.padding_mode == "zeros"
                and not isinstance(conv.padding, str)
            ):
                turned = Turned(conv, *self.derive(_turned, conv))
                if min(turned.turned_padding) >= 0:
                    self.replace(node, self.insert(node, turned, node.args[0]))

    def relus_in_place(self) -> None:
        for node in self.nodes():
            source = _relu_of(node)
            if source is not None and self._is_ours(source):
                self.replace(node, self.call(node, torch.relu_, source))

    def finish(self) -> fx.GraphModule:
        # What is written in place may be read under another name.
        self.network.graph.eliminate_dead_code(lambda node: node.is_impure() or self._writes(node))
        self.network.graph.lint()
        self.network.delete_all_unused_submodules()
        self.network.recompile()
        return self.network


def _is_constant(norm: Any) -> bool:
    """Whether it is a batch norm that does the same to every batch."""
    return type(norm) is nn.BatchNorm2d and not norm.training and norm.running_mean is not None and norm.running_var is not None


def _by_pixel(norm: nn.BatchNorm2d) -> list[Tensor]:
    """What to multiply images by and to add to them."""
    assert norm.running_mean is not None
    return [part.to(norm.running_mean).view(-1, 1, 1) for part in affine(norm, torch.double)]


def _scaled(norm: nn.BatchNorm2d, *convs: nn.Conv2d) -> list[Tensor]:
    """Weight and bias of each convolution with the batch norm that follows them together."""
    pairs = zip(fold(norm, *convs, dtype=torch.double), convs, strict=True)
    return [part.to(conv.weight) for both, conv in pairs for part in both]


def _of_grids(module: FactorisedReduction) -> list[Tensor]:
    """Weights for the even and the odd grid of a factorised reduction, and its bias."""
    even, first, odd, second = _scaled(module.norm, module.even, module.odd)
    both = F.pad(even.flatten(1), (0, 0, 0, len(odd))), F.pad(odd.flatten(1), (0, 0, len(even), 0))
    return [*both, torch.cat([first, second])]


def _by_input(conv: nn.Conv2d, widths: list[int]) -> Sequence[Tensor]:
    """The matrix of a 1x1 convolution for each of its inputs, so many channels each."""
    return conv.weight.flatten(1).split(widths, dim=1)


def _total(first: Tensor, *others: Tensor) -> list[Tensor]:
    return [sum(others, first)]


def _turned(conv: nn.Conv2d) -> list[Tensor]:
    """The kernel by which a convolution of the output's gradient is the input's gradient."""
    by_group = conv.weight.detach().unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
    return [by_group.contiguous(memory_format=torch.channels_last)]


def _relu_of(node: Any, in_place: bool = False) -> fx.Node | None:
    """What a node takes the ReLU of, else None."""
    if not isinstance(node, fx.Node) or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    names = {"call_function": (torch.relu, F.relu), "call_method": ("relu",)}
    if in_place:
        names = {"call_function": (torch.relu, torch.relu_, F.relu, F.relu_), "call_method": ("relu", "relu_")}
    return node.args[0] if node.target in names.get(node.op, ()) else None


def _concatenated(node: Any) -> list[fx.Node] | None:
    """What a node concatenates along the channels, else None."""
    if node.target is not torch.cat or not node.args:
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return list(node.args[0]) if dim == 1 else None  # type: ignore[arg-type]


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape) if hasattr(node.meta.get("tensor_meta"), "shape") else ()


def _like(node: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes are images of the same shape and numbers."""
    ours, theirs = node.meta.get("tensor_meta"), other.meta.get("tensor_meta")
    return len(_shape(node)) == 4 and _shape(node) == _shape(other) and ours.dtype == theirs.dtype  # type: ignore[union-attr]
