"""What a step asks of a machine, counted where nothing is computed: on the meta device.

An operation is what torch dispatches, forward or backward, that makes or changes a tensor; views are counted apart, since they
start no kernel. Bytes moved are those of all tensors that an operation reads and writes. Kept for backward is all
that was made in the forward pass and is still held at its end. Together they bound the time on a GPU (`Roof`).
"""

from __future__ import annotations

import gc
import math
import re
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

CONVOLUTION, CONVOLUTION_BACKWARD = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
CONVOLUTIONS = (CONVOLUTION, CONVOLUTION_BACKWARD)
READS_NOTHING = re.compile(r"(empty|zeros|ones|full|new_|rand|arange|scalar_tensor).*|.*_like")
WRITES_NOTHING = re.compile(r"(new_)?empty.*")


@dataclass(frozen=True, kw_only=True)
class Count:
    """Operations, views, bytes moved, floating-point operations, convolutions of a weight's gradient."""

    operations: int = 0
    views: int = 0
    bytes_moved: int = 0
    flops: int = 0
    weight_gradients: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def __sub__(self, other: Count) -> Count:
        return self + -1 * other

    def __rmul__(self, times: int) -> Count:
        return Count(**{name: times * mine for name, mine in vars(self).items()})


class Tally(TorchDispatchMode):
    """Counts all that is dispatched while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = Counter[str]()

    @property
    def count(self) -> Count:
        """What came so far."""
        return Count(**self.sums)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if function.is_view or function is torch.ops.aten._unsafe_view.default:
            self.sums["views"] += 1
        elif function.namespace != "profiler":
            self._add(function.overloadpacket, args, kwargs, out)
        return out

    def _add(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = () if READS_NOTHING.fullmatch(packet.__name__) else tensors((args, kwargs))
        made = () if WRITES_NOTHING.fullmatch(packet.__name__) else tensors(out)
        self.sums["operations"] += 1
        self.sums["bytes_moved"] += sum(map(size_of, given)) + sum(map(size_of, made))
        self.sums["flops"] += flops_of(packet, args, kwargs, out)
        self.sums["weight_gradients"] += int(packet is CONVOLUTION_BACKWARD and args[-1][1])


def tensors(values: Any) -> list[Tensor]:
    """The tensors in a nest of values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def size_of(tensor: Tensor) -> int:
    """Bytes that must be read to know the tensor: an expanded one has fewer than it shows."""
    shown = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return math.prod(shown) * tensor.element_size()


def flops_of(packet: Any, args: Any, kwargs: Any, out: Any) -> int:
    """A multiply-add is two. Torch's own formula counts the weight's gradient of a grouped convolution once for each group."""
    if packet not in CONVOLUTIONS:
        formula = flop_registry.get(packet)
        return int(formula(*args, **kwargs, out_val=out)) if formula else 0
    backward = packet is CONVOLUTION_BACKWARD
    image, weight = args[1:3] if backward else args[:2]
    result = args[0] if backward else out
    transposed = args[7 if backward else 6]
    products = (image if transposed else result).numel() * (weight.numel() // len(weight))
    return 2 * products * (sum(args[-1][:2]) if backward else 1)


def counted(action: Callable[[], Any]) -> Count:
    """What the action dispatches."""
    with Tally() as tally:
        action()
    return tally.count


# ------------------------------------------------------------------------------------------------------------- memory


class Alive(TorchDispatchMode):
    """Bytes of the tensors made while it is entered that are still held, by Python or by autograd: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        made = tensors(out)
        given = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))} if made else ()
        for storage in (tensor.untyped_storage() for tensor in made):
            if storage._cdata not in given and storage._cdata not in self._known:
                self._hold(storage)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        # A storage's Python object lives as long as the storage itself.
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes()).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes kept for the gradient of the images between the forward and the backward pass: images, and what was made of them.

    What the model holds itself is not counted.
    """
    images = images.detach().clone().requires_grad_()
    with Alive() as alive:
        logits = model(images)
    gc.collect()
    return alive.now + size_of(images) - size_of(logits)


def differentiated(logits: Tensor) -> list[Tensor]:
    """The tensors that a gradient of the logits could be asked for; of a crafting pass the images alone."""
    found: dict[int, Tensor] = {}
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        waiting += [following for following, _ in node.next_functions]
    return list(found.values())


# ------------------------------------------------------------------------------------------------ limits of a machine


@dataclass(frozen=True, kw_only=True)
class Roof:
    """Limits of a GPU; the defaults are those of one H200. Times are in seconds."""

    bytes_per_second: float = 4.3e12
    flops_per_second: float = 67e12  # float32 without tensor cores; bfloat16 with them: 790e12
    eager_launch: float = 6e-6
    graph_launch: float = 2e-6

    def memory(self, count: Count) -> float:
        """To move the bytes."""
        return count.bytes_moved / self.bytes_per_second

    def arithmetic(self, count: Count) -> float:
        """To compute."""
        return count.flops / self.flops_per_second

    def eager(self, count: Count) -> float:
        """The least time where each operation is launched from Python."""
        return max(self.memory(count), self.arithmetic(count), count.operations * self.eager_launch)

    def graph(self, count: Count) -> float:
        """The least time where all of them are launched as one graph."""
        return max(self.memory(count), self.arithmetic(count), count.operations * self.graph_launch)
