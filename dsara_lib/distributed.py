"""One process, or several that share every batch and average their gradients, as DistributedDataParallel does.

Each process of a group draws what a single one would: batches, augmentation, noise. Then it takes its rows of the batch, so that
the same settings mean the same steps in one process and in eight. What is averaged lies in one tensor, one call a step, where DDP
hooks each parameter's `.grad`: gradients here come from `autograd.grad`, often out of a CUDA graph, and have no hooks.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import distributed_c10d
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .errors import Everywhere, WorkbookError
from .shapes import Float

Made = TypeVar("Made")
CONNECT = timedelta(seconds=100)
WAIT = timedelta(minutes=30)  # for one that loads data or commits; one that dies is noticed at once


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes that work at one job, as this one sees them. A group of one does nothing at all."""

    rank: int = 0
    size: int = 1
    synchronised: bool = False  # batch norm takes the statistics of the whole batch, not of this process's rows

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    # -- sharing and averaging ---------------------------------------------------------------------------------------

    def rows(self, total: int) -> slice:
        """Which rows of a batch are this process's; the shares differ by one at most."""
        return slice(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def share(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """This process's rows of tensors that belong to one batch."""
        return tensors if self.size == 1 else tuple(tensor[self.rows(len(tensor))] for tensor in tensors)

    def mean(self, tensors: Sequence[Tensor], total: int) -> list[Tensor]:
        """Means over the whole batch of `total` images, of what each process found as means over its rows; alike in each."""
        if self.size == 1:
            return list(tensors)
        rows = self.rows(total)
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]) * ((rows.stop - rows.start) / total)
        _summed(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        # Strides are kept: a GPU's optimizer takes all weights in one kernel only where gradients lie as they do.
        return [torch.empty_like(tensor).copy_(part.view(tensor.shape)) for tensor, part in zip(tensors, parts, strict=True)]

    @torch.no_grad()
    def align(self, tensors: Sequence[Tensor], total: int) -> None:
        """Put the means in the place of what each process has, such as its batch-norm statistics."""
        if self.size > 1:
            tensors = [tensor for tensor in tensors if tensor.is_floating_point()]  # counts are alike
            torch._foreach_copy_(list(tensors), self.mean(tensors, total))

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over all processes, by name."""
        if self.size == 1:
            return dict(numbers)
        sums = torch.tensor(list(numbers.values()), dtype=torch.float64)
        _summed(sums)
        return dict(zip(numbers, sums.tolist(), strict=True))

    def any(self, asked: bool) -> bool:
        """Whether one of the processes says yes."""
        if self.size == 1:
            return asked
        return bool(self.total({"asked": float(asked)})["asked"])

    def normalising(self) -> AbstractContextManager[Any]:
        """To be held around passes in training mode: batch norm over the whole batch, where that is wanted."""
        return _WholeBatch(self) if self.synchronised and self.size > 1 else nullcontext()

    # -- what only the first does ------------------------------------------------------------------------------------

    def by_first(self, make: Callable[[], Made]) -> Made:
        """What the first process makes: numbers, text, tensors and collections of them. Its errors are raised in all of them."""
        if self.size == 1:
            return make()
        if not self.is_first:
            told = _unpacked(self._broadcast(b""))
            if "error" in told:
                raise Everywhere(told["error"])
            return told["made"]
        try:
            made = make()
        except Exception as error:
            self._broadcast(_packed({"error": str(error)}))
            raise
        self._broadcast(_packed({"made": made}))
        return made

    def after_first(self, make: Callable[[], Made]) -> Made:
        """What each process makes, when the first has made its own and left files that the others only read."""
        made: list[Made] = []
        self.by_first(lambda: made.append(make()))
        return made[0] if made else make()

    def _broadcast(self, content: bytes) -> bytes:
        length = torch.tensor(len(content))
        _told(length)
        data = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if self.is_first
            else torch.empty(int(length), dtype=torch.uint8)
        )
        _told(data)
        return data.numpy().tobytes()


ALONE = Group()


@contextmanager
def _with_the_others() -> Iterator[None]:
    """Inside, one call that all processes make. Raises WorkbookError where one of them does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise WorkbookError(
            "another process of the group is gone or stuck; what was committed is kept; torchrun starts all of them again where "
            "--max-restarts is given, else give the same command"
        ) from error


def _summed(tensor: Tensor) -> None:
    """Sum a tensor over all processes, in place."""
    with _with_the_others():
        dist.all_reduce(tensor)


def _told(tensor: Tensor) -> None:
    """Overwrite a tensor with the first process's, in place."""
    with _with_the_others():
        dist.broadcast(tensor, 0)


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


# ---------------------------------------------------------------------------------------------------------- batch norm


class _WholeBatch(TorchFunctionMode):
    """Inside, `F.batch_norm` in training mode knows the whole batch. torch's own SyncBatchNorm needs a GPU, and other modules."""

    def __init__(self, group: Group):
        super().__init__()
        self.group = group

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def batch_norm(
        self,
        x: Float[Tensor, "n c h w"],
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As torch's, with mean and variance of all processes' rows; running statistics move by the same rule."""
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        wide = x if x.dtype == torch.float64 else x.float()
        pixels = wide.new_tensor([x.numel() / x.shape[1]])
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        found = _FromAll.apply(torch.cat([mean, var, pixels]), self.group, float(len(x)))
        means, variances, counts = found.split([x.shape[1], x.shape[1], 1], dim=1)
        count = counts.sum()
        shares = counts / count
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
        scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(shift[:, None, None], wide, scale[:, None, None]).to(x.dtype)


class _FromAll(torch.autograd.Function):
    """Each process's vector [k] as a row of [processes, k] on all of them.

    The loss is the mean of all processes' losses, weighted by their images; as each later weighs what it has found by its own, what
    flows back here is weighted with that of the process it came from.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Group, images: float) -> Tensor:
        ctx.rank, ctx.images = group.rank, images
        everyone = own.new_zeros(group.size, len(own))
        everyone[group.rank] = own
        _summed(everyone)
        return everyone

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        gradient = gradient * ctx.images
        _summed(gradient)
        return gradient[ctx.rank] / ctx.images, None, None


# ------------------------------------------------------------------------------------------------------------- torchrun


@contextmanager
def joined(device: str = "auto", *, synchronised: bool = False) -> Iterator[tuple[Group, str]]:
    """The group that torchrun has started this process in, and its device; a group of one where it was started as any other.

    Raises WorkbookError where there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE, device
        return
    device = _own_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    connect("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Group(rank=dist.get_rank(), size=size, synchronised=synchronised), device
    finally:
        dist.destroy_process_group()


def connect(backend: str) -> None:
    """Join all processes of torchrun's environment into torch's default group. Raises WorkbookError where that fails."""
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=WAIT)))
        own = dist.PrefixStore(_name_of_start(store, rank, size), store)
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=CONNECT)
    except RuntimeError as error:
        raise WorkbookError("the processes could not be connected; torchrun tries again where --max-restarts is given") from error
    set_timeout = getattr(distributed_c10d, "set_timeout", None) or distributed_c10d._set_pg_timeout  # not public before torch 2.15
    set_timeout(WAIT)


def _name_of_start(store: dist.Store, rank: int, size: int) -> str:
    """A name for this start of the processes, the same in each: torchrun starts them again with a store full of old addresses.

    Each of the others says hello with a word of its own and waits until the first has repeated it, which nothing old can have.
    """
    own, deadline = uuid4().hex, time.monotonic() + WAIT.total_seconds()
    if rank:
        store.set(f"hello {rank}", own)
    while time.monotonic() < deadline:
        if rank:
            repeated, name = _read(store, f"answer {rank}").partition(" ")[::2]
            if repeated == own:
                store.set(f"heard {rank}", name)
                return name
        else:
            others = range(1, size)
            for other in others:
                store.set(f"answer {other}", f"{_read(store, f'hello {other}')} {own}")
            if all(_read(store, f"heard {other}") == own for other in others):
                return own
        time.sleep(0.05)
    raise WorkbookError(f"not all of {size} processes came within {WAIT.total_seconds():.0f} s")


def _read(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _own_device(device: str, local_rank: int) -> str:
    """Each process of a machine takes the GPU of its number there."""
    count = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not count):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise WorkbookError(f"under torchrun each process takes a GPU of its own: give --device cuda, auto or cpu; got {device!r}")
    if local_rank >= count:
        raise WorkbookError(
            f"torch sees {count} CUDA devices, none for process {local_rank + 1}; start fewer, or give --device cpu"
        )
    return f"cuda:{local_rank}"
