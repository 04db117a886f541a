"""How passes through a network run on a device: at which precision, repeatably or not, and on a GPU recorded and replayed.

A step of the search starts tens of thousands of small kernels, which takes a GPU longer than to compute them. `Captured` records
what a function starts in a CUDA graph, and starts it all with one call from then on.
"""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import unknown

Tensors = tuple[Tensor, ...]
Outputs = Tensor | Tensors
Function = Callable[..., Outputs]

# ----------------------------------------------------------------------------------------------------------- precision


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What may be rounded inside of a pass. Losses, gradients, batch statistics and optimizers are float32 in any case."""

    tf32: bool  # a GPU may round the factors of convolutions and matrix products to 10 bits; their sums are float32
    autocast: torch.dtype | None  # what convolutions and matrix products take and give


# TF32 is what torch itself lets convolutions use; "ieee" is torch's word for float32 without it.
PRECISIONS: dict[str, Precision] = {
    "float32": Precision(tf32=True, autocast=None),
    "ieee": Precision(tf32=False, autocast=None),
    "bfloat16": Precision(tf32=True, autocast=torch.bfloat16),
}


def precision_of(name: str) -> Precision:
    """The precision of that name. Raises WorkbookError with the nearest known one."""
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return PRECISIONS[name]


def autocast(name: str, device: torch.device) -> AbstractContextManager[object]:
    """To be held around what is computed in that precision's smaller type, if it has one."""
    dtype = precision_of(name).autocast
    # Without the cache of cast weights: it would outlive the weights that a step or a graph changes.
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype, cache_enabled=False)


class Autocast(nn.Module):
    """A module that computes in a smaller type; its parameters, its gradients and what it returns stay float32."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, images: Tensor) -> Tensor:
        with autocast(self.name, images.device):
            answers = self.module(images)
        return answers.float()


def at_precision(module: nn.Module, name: str) -> nn.Module:
    """The module, or one around it that computes in the smaller type of that precision."""
    return module if precision_of(name).autocast is None else Autocast(module, name)


@contextmanager
def rounding(name: str, device: torch.device, backends: Any = torch.backends) -> Iterator[None]:
    """Inside, a GPU uses TF32 where that precision allows it; afterwards the process is set as it was."""
    wanted = precision_of(name).tf32
    switches = _tf32_switches(backends) if device.type == "cuda" else []
    before = [(at, attribute, getattr(at, attribute)) for at, attribute, _ in switches]
    try:
        for at, attribute, values in switches:
            setattr(at, attribute, values[wanted])
        yield
    finally:
        for at, attribute, value in before:
            setattr(at, attribute, value)


def _tf32_switches(backends: Any) -> list[tuple[Any, str, tuple[Any, Any]]]:
    """(place, attribute, (off, on)). From torch 2.9 on only the new names: to read an old one after writing a new one raises."""
    if hasattr(backends.cudnn, "conv"):
        return [(at, "fp32_precision", ("ieee", "tf32")) for at in (backends.cuda.matmul, backends.cudnn.conv)]
    return [(at, "allow_tf32", (False, True)) for at in (backends.cuda.matmul, backends.cudnn)]


# --------------------------------------------------------------------------------------------------------- repeatably

DETERMINISTIC = "DSARA_DETERMINISTIC"  # an environment variable: kernels of notebooks and workers of a sweep inherit it


def compute_as_asked(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Where DSARA_DETERMINISTIC=1 asks for it, a GPU gives the same bits each time from now on; see docs/determinism.md.

    What torch can do in one order only by chance then raises RuntimeError. To be called before anything runs on the GPU.
    """
    asked = environment.get(DETERMINISTIC, "") not in ("", "0")
    if asked:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may choose by the stream that it runs on
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return asked


# --------------------------------------------------------------------------------------------------- record and replay


class Recording(Protocol):
    """What a function started, ready to be started again."""

    def replay(self, inputs: Tensors) -> Outputs:
        """What the function would give for these inputs, in the same tensors each time."""
        ...


class Graphs(Protocol):
    """Records on one device. Those who share it share its memory, and run one after the other."""

    most: int  # recordings of one function
    broken: bool  # a recording has failed: what they share is in doubt, so all of them go on with ordinary calls

    def eagerly(self, function: Function, inputs: Tensors) -> Outputs:
        """Call the function, so that a recording may follow."""
        ...

    def record(self, function: Function, inputs: Tensors) -> Recording:
        """Run through the function without computing anything. Where it cannot be recorded, be `broken` and raise RuntimeError."""
        ...

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        ...


class NoGraphs:
    """Every call is an ordinary one, as on a CPU."""

    most, broken = 0, False

    def eagerly(self, function: Function, inputs: Tensors) -> Outputs:
        """Call the function."""
        return function(*inputs)

    def record(self, function: Function, inputs: Tensors) -> Recording:
        """Never asked for."""
        raise NotImplementedError

    def wait(self) -> None:
        """Nothing is under way."""


class CudaGraphs:
    """CUDA graphs on one GPU, in one pool of memory."""

    most = 4  # batches of a run have two or three sizes; each graph keeps its inputs and outputs

    def __init__(self, device: torch.device):
        self.device, self.broken = device, False
        # What is warm on one stream is cold on another: handles and workspaces of cuBLAS, and the streams that autograd has noted.
        self.stream = torch.cuda.Stream(device)
        self._alive: weakref.WeakSet[CudaRecording] = weakref.WeakSet()

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On our own stream, after all that was asked for before and before all that follows."""
        with torch.cuda.device(self.device):
            outside = torch.cuda.current_stream()
            self.stream.wait_stream(outside)
            # Also where a failing capture leaves its stream behind as the current one.
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                outside.wait_stream(self.stream)

    def eagerly(self, function: Function, inputs: Tensors) -> Outputs:
        """Call the function on the stream on which it will be recorded."""
        with self._beside():
            return function(*inputs)

    def record(self, function: Function, inputs: Tensors) -> CudaRecording:
        """Capture the function, with copies of the inputs to read from."""
        static = tuple(each.clone() for each in inputs)
        # The pool of a graph that lives: one whose graphs are all gone must not be used again.
        pool = next((recording.graph.pool() for recording in self._alive), None)
        # What an earlier backward pass has left in cycles would tie this one to that one's stream.
        gc.collect()
        graph = torch.cuda.CUDAGraph()
        # Other threads of a notebook may use the GPU meanwhile.
        capture = torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local")
        try:
            with self._beside(), capture:
                outputs = function(*static)
        except RuntimeError:
            self.broken = True  # torch may still take the shared pool for one that is being recorded into
            raise
        recording = CudaRecording(graph, static, outputs)
        self._alive.add(recording)
        return recording

    def wait(self) -> None:
        """Until the GPU has nothing left to do."""
        torch.cuda.synchronize(self.device)


class CudaRecording:
    """A captured graph with the tensors that it reads and writes."""

    def __init__(self, graph: Any, inputs: Tensors, outputs: Outputs):
        self.graph, self.inputs, self.outputs = graph, inputs, outputs

    def replay(self, inputs: Tensors) -> Outputs:
        """Copy the inputs to where the graph reads them, and start it."""
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


def graphs_on(device: torch.device) -> Graphs:
    """CUDA graphs on a GPU; elsewhere ordinary calls."""
    return CudaGraphs(device) if device.type == "cuda" else NoGraphs()


class Captured:
    """A function of tensors that is recorded where that pays: `captured(*tensors)` gives what `function(*tensors)` gives.

    For each set of shapes and types the first call is an ordinary one, the second records and replays, later ones replay; each
    takes effect once, on batch-norm statistics too. After `graphs.most` sets of shapes the others stay ordinary calls, and
    where a recording fails, a warning says so and all that share `graphs` drop theirs: every call is an ordinary one from then on.

    - What is returned is overwritten by the next call of anything that shares `graphs`: clone what is kept longer.
    - The function returns a tensor or a flat tuple of them, free of autograd's graph, never waits for the device, and does what
      it does by tensors alone: when it is replayed, no Python runs, and numbers are those of the recording.
    - Other tensors that it reads (weights, statistics) are changed in place and never replaced.
    """

    def __init__(self, function: Function, device: str | torch.device, graphs: Graphs | None = None):
        self.function = function
        self.graphs = graphs_on(torch.device(device)) if graphs is None else graphs
        self._recordings: dict[Any, Recording | None] = {}  # None where there was one ordinary call so far

    @property
    def num_graphs(self) -> int:
        """Recordings so far: a run makes one for each set of shapes."""
        return sum(recording is not None for recording in self._recordings.values())

    def __call__(self, *inputs: Tensor) -> Any:
        if self.graphs.broken:
            self._give_up()
        key = tuple((each.shape, each.dtype) for each in inputs)
        if key not in self._recordings:
            if len(self._recordings) < self.graphs.most:
                self._recordings[key] = None
            return self.graphs.eagerly(self.function, inputs)
        recording = self._recordings[key] or self._record(key, inputs)
        return self.function(*inputs) if recording is None else recording.replay(inputs)

    def release(self) -> None:
        """Drop all recordings and the memory they hold; the next calls begin anew."""
        self.graphs.wait()
        self._recordings.clear()

    def _give_up(self) -> None:
        """Ordinary calls from now on. What was returned stays with who holds it."""
        self.release()
        self.graphs = NoGraphs()

    def _record(self, key: Any, inputs: Tensors) -> Recording | None:
        """The recording; None, from now on, where there can be none."""
        try:
            recording = self._recordings[key] = self.graphs.record(self.function, inputs)
            return recording
        except RuntimeError as error:
            self._give_up()
            name = getattr(self.function, "__name__", type(self.function).__name__)
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"{name} could not be recorded as a CUDA graph ({reason}); all goes on kernel by kernel: same results, less speed",
                stacklevel=3,
            )
            return None
