"""Images that are too many for a GPU's memory: they stay on the host, and each batch is brought to the GPU when its turn comes.

While the GPU works on a batch, a thread gathers the next one on the host, into pinned memory, from which it is copied without
waiting. Pinned is what crosses, not all images: to gather bytes is the host's work, and several processes may share a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .shapes import UInt8

TENTH = 10  # images take at most one part in so many of a GPU's memory


def stays_on_host(num_bytes: int, device_memory: int | None) -> bool:
    """Whether so many bytes of images are too many for a device of that memory; never where it has none of its own (None)."""
    return device_memory is not None and TENTH * num_bytes > device_memory


def memory_of(device: torch.device) -> int | None:
    """Bytes of a GPU's own memory; None for a device that works in the host's."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def stage(images: UInt8[Tensor, "m c h w"], count: int, device: torch.device) -> UInt8[Tensor, "n c h w"]:
    """Memory on the host for so many of the images on their way to the device, pinned for a GPU."""
    # Torch gives pinned memory to another batch only when the copy out of it is done.
    return torch.empty((count, *images.shape[1:]), dtype=images.dtype, pin_memory=device.type == "cuda")


def stream(images: UInt8[Tensor, "m c h w"], places: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """For each batch of places the images there, on the device; the next is gathered while the caller works with one."""
    with ThreadPoolExecutor(max_workers=1) as worker:

        def begin(at: Tensor) -> Future[Tensor]:
            # The thread only moves bytes on the host: while a graph is recorded, no other thread may ask anything of the GPU.
            staged = stage(images, len(at), device)
            return worker.submit(torch.index_select, images, 0, at, out=staged)

        waiting = iter(places)
        ahead = [begin(at) for at in (next(waiting, None),) if at is not None]
        while ahead:
            gathered = ahead.pop().result()
            ahead += [begin(at) for at in (next(waiting, None),) if at is not None]
            yield gathered.to(device, non_blocking=True)
