"""What a network shows when it is touched: plain measurements on a few images, from which `board` draws its verdicts.

The mistakes looked for are those of Athalye et al. 2018, Carlini et al. 2019 and Croce et al. 2022. Nothing here judges, and
nothing raises for a strange network: a measure that fails leaves its sentence under "failed".
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks.base import check_radius, gradient_at, under_attack
from ..attacks.gradient import cross_entropies
from ..attacks.square import margins
from ..data import Split, unit_interval
from ..errors import WorkbookError
from ..evaluation import Images
from ..runs import seeded
from ..shapes import Float, Int

NUM_DIRECTIONS, NUM_NOISES, NUM_ALONE = 8, 10, 8


def probe(
    network: nn.Module, split: Split | Images, eps: float, *, seed: int = 0, num_images: int = 64, batch_size: int = 64
) -> dict[str, Any]:
    """All `MEASURES` by name, as plain JSON, on images spread evenly over the split. The network is left as it was found."""
    check_radius(eps)
    with torch.inference_mode(False):
        subject = Subject(network, split, eps, num_images, batch_size)
    at = {"eps": eps, "seed": seed, "indices": subject.indices.tolist(), "labels": subject.labels.tolist()}
    found: dict[str, Any] = {"at": at, "failed": {}}
    for name, measure in MEASURES.items():
        try:
            with as_found(network), under_attack(network), seeded("soundness", seed, name, device=subject.images.device):
                found[name] = _plain(measure(subject))
        except Exception as error:  # a strange network raises what it likes; that it does is the finding
            found["failed"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return found


@contextmanager
def as_found(network: nn.Module) -> Iterator[None]:
    """Afterwards the network is what it was, to the bit: modes, attributes, parameters, buffers, gradients; so is randomness."""
    tensors = [tensor for tensor in _state(network).values() if tensor.is_leaf]
    values = [(t, t.detach().clone(), t.requires_grad) for t in tensors]
    gradients = [(t, t.grad, None if t.grad is None else t.grad.clone()) for t in tensors]
    tables = ("_parameters", "_buffers", "_modules")
    attributes = [(vars(m), dict(vars(m)), {name: dict(vars(m)[name]) for name in tables}) for m in network.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for now, before, tabled in attributes:
            for name in set(now) - set(before):
                del now[name]
            now.update(before)
            for name, entries in tabled.items():
                now[name].clear()
                now[name].update(entries)
        for tensor, value, wanted in values:
            if not wanted:
                tensor.detach_()  # written to in a pass that took gradients, it carries them
            _restore(tensor, value)
            tensor.requires_grad_(wanted)
        for tensor, gradient, kept in gradients:
            if gradient is not None and kept is not None:
                _restore(gradient, kept)
            tensor.grad = gradient


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


@torch.no_grad()
def _restore(tensor: Tensor, value: Tensor) -> None:
    if not _same(tensor, value):
        tensor.copy_(value)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal to the bit, also where a bit makes a NaN or a sign of zero."""
    return one.shape == other.shape and torch.equal(*(t.detach().reshape(-1).view(torch.uint8) for t in (one, other)))


class Subject:
    """A network with the images it is asked about."""

    def __init__(self, network: nn.Module, split: Split | Images, eps: float, num_images: int, batch_size: int):
        if not len(split):
            raise WorkbookError("a probe needs at least one image; the split has none")
        self.network, self.eps, self.batch_size = network, eps, batch_size
        self.found_training = sum(module.training for module in network.modules())
        self.indices = torch.linspace(0, len(split) - 1, min(num_images, len(split))).round().long()
        weight = next((p for p in network.parameters() if p.is_floating_point()), None)
        images, labels = split.take(self.indices)
        images = images if images.is_floating_point() else unit_interval(images)
        self.images = images if weight is None else images.to(weight)
        self.labels = labels.to(self.images.device)

    def __len__(self) -> int:
        return len(self.labels)

    def ask(self, images: Tensor, labels: Tensor) -> Float[Tensor, "n classes"]:
        """Logits of one batch. Raises WorkbookError where they are not a matrix wide enough for the labels."""
        logits = self.network(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise WorkbookError(f"a network returns logits [n, classes]; expected {len(images)} rows, got {got}")
        if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise WorkbookError(f"labels are {int(labels.min())} to {int(labels.max())}; the network has {logits.shape[1]} logits")
        return logits

    @torch.no_grad()
    def logits(self, images: Tensor) -> Float[Tensor, "n classes"]:
        """Logits, batch by batch."""
        pairs = zip(images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        return torch.cat([self.ask(x, y).detach() for x, y in pairs])

    def gradient(
        self, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropies
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n classes"]]:
        """The gradient of each image's loss, taken as attacks take it, and the logits."""
        gradients, answers = [], []
        for x, y in zip(images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            x = x.detach().clone().requires_grad_()
            with torch.enable_grad():
                logits = self.ask(x, y)
                gradients.append(gradient_at(loss(logits, y).sum(), x))
            answers.append(logits.detach())
        return torch.cat(gradients), torch.cat(answers)

    def noisy(self, corners: bool = False) -> Float[Tensor, "n c h w"]:
        """The images with noise of size eps, uniform or at corners of the ball."""
        noise = 2 * torch.rand_like(self.images) - 1
        return (self.images + self.eps * (noise.sign() if corners else noise)).clamp(0, 1)


def modes(subject: Subject) -> dict[str, Any]:
    """Modules in training mode as found and in spite of `eval()`; parameters and buffers that a forward pass changes."""
    before = {name: value.detach().clone() for name, value in _state(subject.network).items()}
    still = sum(module.training for module in subject.network.modules())
    subject.logits(subject.images)
    still = max(still, sum(module.training for module in subject.network.modules()))
    after = _state(subject.network)
    changed = [name for name, value in before.items() if name not in after or not _same(after[name], value)]
    return {"found_training": subject.found_training, "still_training": still, "num_changed": len(changed), "changed": changed[:5]}


def pixels(subject: Subject) -> dict[str, Any]:
    """The images' range, and the share of pixels off the grid of 8-bit images."""
    levels = subject.images.double() * 255
    off = ((levels - levels.round()).abs() > 1e-3).double().mean()
    return {"low": subject.images.min(), "high": subject.images.max(), "off_grid": off}


def repetition(subject: Subject) -> dict[str, Any]:
    """How far two passes over the same images, and two gradients, lie apart."""
    first, second = subject.logits(subject.images), subject.logits(subject.images)
    gradients = [subject.gradient(subject.images)[0] for _ in range(2)]
    differ = (first.argmax(dim=1) != second.argmax(dim=1)).double().mean()
    return {"logits": _apart(first, second), "gradients": _apart(*gradients), "predictions": differ}


def output(subject: Subject) -> dict[str, Any]:
    """Whether what should be logits looks like probabilities or their logarithms."""
    found = subject.logits(subject.images).double()
    in_range = bool(((found >= 0) & (found <= 1)).all())
    softmaxed = in_range and bool(((found.sum(dim=1) - 1).abs() < 1e-3).all())
    logarithms = bool((found <= 1e-6).all()) and bool((found.logsumexp(dim=1).abs() < 1e-3).all())
    return {"softmaxed": softmaxed, "log_softmaxed": logarithms}


def finiteness(subject: Subject) -> dict[str, Any]:
    """Shares of images with logits or gradients that are not finite: natural, noisy, and just off the 8-bit grid."""
    third = 0.3 / 255
    off_grid = torch.where(subject.images < 0.5, subject.images + third, subject.images - third)
    found = {}
    for kind, images in {"natural": subject.images, "noisy": subject.noisy(), "off_grid": off_grid}.items():
        gradient, logits = subject.gradient(images)
        found[f"{kind}_logits"] = (~logits.isfinite()).any(dim=1).double().mean()
        found[f"{kind}_gradients"] = (~gradient.isfinite()).flatten(1).any(dim=1).double().mean()
    return found


def zeros(subject: Subject) -> dict[str, Any]:
    """Shares of images without any gradient and of zero elements in the others, by loss and place."""
    kinds = {
        "natural": (subject.images, cross_entropies),
        "start": (subject.noisy(), cross_entropies),
        "margin": (subject.images, margins),
    }
    found: dict[str, Any] = {}
    for kind, (images, loss) in kinds.items():
        zero = (subject.gradient(images, loss)[0] == 0).flatten(1)
        without = zero.all(dim=1)
        found[f"{kind}_images"] = without.double().mean()
        found[f"{kind}_elements"] = zero[~without].double().mean() if not without.all() else 1.0
    return found


def scale(subject: Subject) -> dict[str, Any]:
    """The gap between the two largest logits, and where it is too wide for float32 cross-entropy and its gradient."""
    gradient, logits = subject.gradient(subject.images)
    two = logits.topk(2, dim=1).values
    largest = gradient.flatten(1).abs().amax(dim=1)
    sloped = (subject.gradient(subject.images, margins)[0] != 0).flatten(1).any(dim=1)
    return {
        "gap": (two[:, 0] - two[:, 1]).median(),
        "loss_zero": (cross_entropies(logits, subject.labels) == 0).double().mean(),
        "underflow": ((largest < torch.finfo(gradient.dtype).tiny) & sloped).double().mean(),
    }


def agreement(subject: Subject) -> dict[str, Any]:
    """How much more a step along the gradient's sign raises the loss than the best of random steps of the same length.

    Two lengths, eps / 8 and eps (1/255 for both where eps is 0): an honest gradient wins at one of them nearly always.
    """
    gradient, logits = subject.gradient(subject.images)
    before = _loss(logits, subject.labels)
    found = {}
    for name, length in {"short": subject.eps / 8 or 1 / 255, "long": subject.eps or 1 / 255}.items():

        def rise(direction: Tensor, length: float = length) -> Tensor:
            stepped = (subject.images + length * direction.sign()).clamp(0, 1)
            return _loss(subject.logits(stepped), subject.labels) - before

        along = rise(gradient)
        others = torch.stack([rise(torch.rand_like(gradient) - 0.5) for _ in range(NUM_DIRECTIONS)]).amax(dim=0)
        found[f"{name}_wins"] = (along > others).double().mean()
        found[f"{name}_ratio"] = (along / others.abs().clamp_min(1e-12)).nan_to_num().median()
    return found


def inside(subject: Subject) -> dict[str, Any]:
    """Which functions that take gradients a forward pass calls."""
    called: set[str] = set()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and getattr(argument, "__name__", "") == "run_backward":
            called.add("run_backward")
        elif event == "call" and frame.f_code.co_name in DIFFERENTIATES.get(frame.f_globals.get("__name__", ""), ()):
            called.add(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")

    before = sys.getprofile()
    images, labels = subject.images[:NUM_ALONE].clone().requires_grad_(), subject.labels[:NUM_ALONE]
    for graded in (True, False):  # as gradients are taken, and as predictions are made
        with torch.set_grad_enabled(graded):
            try:
                sys.setprofile(watch)
                subject.ask(images, labels)
            finally:
                sys.setprofile(before)
    return {"called": sorted(called)}


DIFFERENTIATES: Mapping[str, Sequence[str]] = {
    "torch.autograd": ("grad", "backward"),
    "torch.autograd.functional": ("jacobian", "hessian", "vjp", "jvp", "vhp", "hvp"),
    "torch.autograd.forward_ad": ("make_dual",),
    "torch._functorch.eager_transforms": ("grad_impl", "grad_and_value_impl", "_vjp_with_argnums", "_jvp_with_argnums"),
}


def noise(subject: Subject) -> dict[str, Any]:
    """Which images, right as they are, are wrong under the worst of ten noises of size eps; half of them corners of the ball."""
    right = subject.logits(subject.images).argmax(dim=1) == subject.labels
    fooled = torch.zeros_like(right)
    for number in range(NUM_NOISES):
        fooled |= right & (subject.logits(subject.noisy(corners=number % 2 == 1)).argmax(dim=1) != subject.labels)
    return {"right": right.sum(), "fooled": subject.indices[fooled.cpu()].tolist()}


def company(subject: Subject) -> dict[str, Any]:
    """How far an image's logits depend on the other images of its batch: alone, and in another order with others."""
    whole = subject.logits(subject.images)
    few = range(min(NUM_ALONE, len(subject)))
    with torch.no_grad():
        alone = torch.cat([subject.ask(subject.images[i : i + 1], subject.labels[i : i + 1]) for i in few])
        order = torch.randperm(len(subject)).to(subject.images.device)[: max(1, (len(subject) + 1) // 2)]
        mixed = subject.ask(subject.images[order], subject.labels[order])
    return {"alone": _apart(alone, whole[: len(alone)]), "shuffled": _apart(mixed, whole[order])}


MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "modes": modes,
    "pixels": pixels,
    "repetition": repetition,
    "output": output,
    "finiteness": finiteness,
    "zeros": zeros,
    "scale": scale,
    "agreement": agreement,
    "inside": inside,
    "noise": noise,
    "company": company,
}


def _loss(logits: Tensor, labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy in float64, so that one that is tiny in float32 can still be seen to rise."""
    return cross_entropies(logits.double(), labels)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference, as a share of the largest value; where one alone is finite, all of it."""
    known = one.isfinite() & other.isfinite()
    if not (one.isfinite() == other.isfinite()).all():
        return one.new_ones(())
    size = torch.maximum(one.abs(), other.abs())[known]
    if not len(size) or not size.max():
        return one.new_zeros(())
    return (one - other).abs()[known].max() / size.max()


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as JSON has them; None for those that are not finite."""
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in found.items()}
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()}
