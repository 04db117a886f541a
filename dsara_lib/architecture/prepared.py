"""A network made ready to be attacked: the same logits and image gradients up to rounding, in a fraction of the time.

An attack asks one frozen network for many thousand forward passes and image gradients, so it is rewritten once (`rewriting.py`).
Nothing is taken on trust: the rewritten network is compared with the original, and where they differ, or where the original
cannot be rewritten, a plain copy is used and `report` says why.

Where the network changes between attacks, as in adversarial training, `Prepared.refresh` takes over its present numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import rounding
from ..shapes import Float
from .rewriting import Recipe, channels_last, rewrite

NUM_COMPARED = 8  # images
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest logit
# A deep network magnifies rounding. Ours may then be so many times as far from float64 as the original, within these bounds.
TIMES_AS_FAR = 5
FARTHEST = {"logits": 0.05, "gradient": 0.3}  # from the original, of the largest logit and of the gradient's length


class Prepared(nn.Module):
    """A frozen copy of `original` in evaluation mode, where it stays. `folded` and `report` say what was done."""

    original: nn.Module
    copied: nn.Module | None

    def __init__(
        self,
        original: nn.Module,
        network: Callable[[Tensor], Tensor],
        report: str,
        *,
        copied: nn.Module | None = None,
        recipes: Sequence[Recipe] = (),
        folded: bool = False,
        channels_last: bool = False,
    ):
        """`network` is made of tensors of `copied`, a copy of the original, and of recipes. Without `copied` it is the original."""
        super().__init__()
        self.__dict__.update(original=original, copied=copied)  # no submodules: not all of their parameters are ours
        self.network, self.report, self.folded, self.channels_last = network, report, folded, channels_last
        self.recipes = list(recipes)
        self.eval()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last) if self.channels_last else images)

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self, original: nn.Module | None = None) -> None:
        """Compute what the original computes now; `original` takes its place, a network of the same kind.

        Only its parameters and buffers are looked at. All is written in place, nothing is waited for: a CUDA graph may hold it.
        """
        if original is not None:
            self.__dict__["original"] = original
        if self.copied is None:
            return
        both = list(zip(_tensors(self.copied), _tensors(self.original), strict=True))
        for dtype in {ours.dtype for ours, _ in both}:  # one kernel for many, where they are of one type
            ours, theirs = zip(*(pair for pair in both if pair[0].dtype == dtype), strict=True)
            torch._foreach_copy_(ours, theirs)
        for recipe in self.recipes:
            recipe.follow()

    def train(self, mode: bool = True) -> Prepared:
        return super().train(False)


@torch.inference_mode(False)
def prepare(model: nn.Module, like: Float[Tensor, "n c h w"]) -> Prepared:
    """`model` in evaluation mode, frozen and as fast as can be; `like` are some of its images. `model` stays as it is."""
    try:
        reference = _frozen_copy(model)
    except Exception as error:
        return Prepared(model, _InEvaluation(model), f"used as it is: it cannot be copied ({_short(error)})")
    like = like.detach()[:NUM_COMPARED].clone()

    def plain(report: str) -> Prepared:
        copied = _frozen_copy(model)
        return Prepared(model, copied, report, copied=copied)

    reasons = list[str]()
    with _undisturbed(like):
        try:
            behaviour = _Behaviour(reference, like)
        except Exception as error:
            return plain(f"a plain copy: {_short(error)}")
        for how in (rewrite, channels_last):
            try:
                copied = _frozen_copy(model)
                network, done, recipes = how(copied, like)
                report, folded = "; ".join([done, *reasons]), how is rewrite
                prepared = Prepared(model, network, report, copied=copied, recipes=recipes, folded=folded, channels_last=True)
                behaviour.require(prepared)
                return prepared
            except Exception as error:
                reasons.append(_short(error))
    return plain("; ".join(["a plain copy", *reasons]))


class _InEvaluation:
    """The original itself, in evaluation mode during each pass only."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            return self.model.eval()(images)
        finally:
            for module, mode in modes:
                module.training = mode


class _Behaviour:
    """A model's logits on some real and as many random images, and a gradient on the real ones."""

    def __init__(self, model: nn.Module, like: Tensor, images: Tensor | None = None):
        """Raises ValueError for a model that gives no logits, or not always the same."""
        generator = torch.Generator().manual_seed(0)
        self.model, self.like = model, like
        noise = torch.rand(like.shape, generator=generator).to(like)
        self.images = torch.cat([like, like.amin() + (like.amax() - like.amin()) * noise]) if images is None else images
        with torch.no_grad():
            self.logits, *again = (model(self.images) for _ in range(3))
        if not isinstance(self.logits, Tensor) or self.logits.dim() != 2 or len(self.logits) != len(self.images):
            raise ValueError("its output is no matrix of logits")
        if self.logits.dtype not in TOLERANCE:
            raise ValueError(f"its numbers are {self.logits.dtype}")
        if not all(torch.equal(self.logits, other) for other in again):
            raise ValueError("its logits differ from pass to pass")
        self.weights = torch.rand(self.logits[: len(like)].shape, generator=generator).to(like)
        self.gradient = self.gradient_of(model)

    def gradient_of(self, model: nn.Module) -> Tensor:
        """Of a sum of the logits in which each has another weight."""
        images = self.like.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad((model(images) * self.weights).sum(), images)[0]

    @cached_property
    def exact(self) -> _Behaviour:
        """The same in float64."""
        return _Behaviour(copy.deepcopy(self.model).double(), self.like.double(), self.images.double())

    def require(self, model: nn.Module) -> None:
        """Raise ValueError unless the model behaves so. Logits so close also mean the same classes, ties apart."""
        tolerance = TOLERANCE[self.logits.dtype]
        with torch.no_grad():
            self._require("logits", model(self.images), tolerance, order=torch.inf)
        # A rounded number may fall on the other side of a kink, so gradients may differ by more: 0.0025 in a sound ResNet.
        self._require("gradient", self.gradient_of(model), 30 * tolerance, order=2)

    def _require(self, what: str, found: Tensor, tolerance: float, *, order: float) -> None:
        wanted = getattr(self, what)
        difference, size = _length(found - wanted, order), _length(wanted, order)
        if difference <= tolerance * size:
            return
        if wanted.dtype == torch.float32 and difference <= FARTHEST[what] * size:
            exact = getattr(self.exact, what)
            if _length(found - exact, order) <= TIMES_AS_FAR * _length(wanted - exact, order):
                return
        raise ValueError(f"rewritten, its {what} differed by {difference:.1g}")


def _length(tensor: Tensor, order: float) -> float:
    return torch.linalg.vector_norm(tensor, order).item()


@contextmanager
def _undisturbed(like: Tensor, backends: Any = torch.backends) -> Iterator[None]:
    """Random numbers are as before afterwards; meanwhile a GPU does not round to TF32, nor choose its kernels by timing them."""
    before = backends.cudnn.benchmark
    with torch.random.fork_rng([like.device] if like.is_cuda else []), rounding("ieee", like.device, backends):
        backends.cudnn.benchmark = False
        try:
            yield
        finally:
            backends.cudnn.benchmark = before


def _frozen_copy(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200].removeprefix("ValueError: ")
