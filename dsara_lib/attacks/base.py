"""What every attack promises.

`attack(model, images, labels, generator=None, noise=None, seed=None) -> attacked images`, all images in [0, 1] as [n, c, h, w]:

- the result lies in the linf ball of radius eps around the images and in [0, 1];
- the model is attacked in evaluation mode and found afterwards as it was: mode of each module, batch-norm statistics,
  `requires_grad` and `.grad` of each parameter, also when the attack fails;
- no gradient for a parameter is computed; the caller may be inside `no_grad` or `inference_mode`;
- what is random follows from `seed` where one is given: a number, or `Draws` that also say which images these are, so that
  nothing depends on the batch. Else it comes from `generator` (a CPU generator, the same on every device), else from torch's own.
  `noise` in [-1, 1] replaces the random start: eps times noise is added to the images.

A model may carry another one as `original` (a prepared network does): gradients come from the model, and no image counts as
fooled unless the original errs on it. LOSS and START say what an attack climbs and where it begins, for tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..errors import NotFinite, WorkbookError
from ..shapes import Bool, Float, Int
from .draws import Draws

Seed = int | Draws | None
PHOTOGRAPH_EPS = 8 / 255  # the radius of the paper's data sets (Section 5.3)


class Attack(Protocol):
    """A frozen dataclass of settings that makes adversarial images."""

    LOSS: ClassVar[str]
    START: ClassVar[str]

    @property
    def eps(self) -> float:
        """Radius of the linf ball, for images in [0, 1]."""
        ...

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images for a model that returns logits."""
        ...


def check_radius(eps: float, step_size: float | None = None, steps: int | None = None) -> None:
    """Raise WorkbookError for an eps that is not meant for images in [0, 1], and for a useless step."""
    if not _in_unit_interval(eps):
        raise WorkbookError(f"eps is a radius from 0 to 1 for images in [0, 1], such as 8/255 = 0.0314; got {eps!r}")
    if step_size is not None and not _in_unit_interval(step_size):
        raise WorkbookError(f"step_size is a length from 0 to 1 for images in [0, 1], such as 2/255; got {step_size!r}")
    if steps is not None:
        check_count("steps", steps)


def check_count(name: str, value: object) -> None:
    """Raise WorkbookError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WorkbookError(f"{name} is a whole number of at least 1; got {value!r}")


def _in_unit_interval(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_images(images: Tensor, labels: Tensor, noise: Tensor | None = None) -> None:
    """Raise WorkbookError unless images are a float batch in [0, 1] with one label each.

    On a GPU the range is not looked at, since the answer would have to be waited for; `evaluation` does.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise WorkbookError(f"images are a float tensor [n, c, h, w]; got {images.dtype} {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise WorkbookError(f"expected one label for each of {len(images)} images; got labels {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise WorkbookError(f"labels are int64 numbers of classes; got {labels.dtype}")
    if noise is not None and noise.shape != images.shape:
        raise WorkbookError(f"noise has the images' shape {tuple(images.shape)}; got {tuple(noise.shape)}")
    if images.device.type == "cpu":
        check_range(images)


def check_range(images: Tensor) -> None:
    """Raise WorkbookError unless all pixels are numbers in [0, 1]."""
    if not images.numel():
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also where one is NaN
        raise WorkbookError(
            f"images have pixels in [0, 1], so that eps means pixels; got {low:.4g} to {high:.4g}; "
            "normalisation belongs into the network as its first layer"
        )


def check_logits(logits: Any, labels: Tensor) -> Tensor:
    """The logits. Raises WorkbookError unless they are [n, classes], finite, and wide enough for the labels."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise WorkbookError(f"a network returns logits [n, classes]; expected {len(labels)} rows, got {got}")
    classes = logits.shape[1]
    least, most = (int(end) for end in labels.aminmax()) if len(labels) else (0, 0)
    if least < 0 or most >= classes:
        raise WorkbookError(f"the network has {classes} logits for classes 0 to {classes - 1}; labels are {least} to {most}")
    if not torch.isfinite(logits).all():
        raise NotFinite("the network's logits are not finite; an accuracy would mean nothing")
    return logits


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters; everything as it was on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
    """Frozen, and gradients allowed. Not to be held where something is yielded: the mode would go on outside."""
    with frozen(model), torch.inference_mode(False):
        yield


def usable(tensor: Tensor) -> Tensor:
    """The tensor cut off from the caller's graph; a copy where it was made in inference mode. Called `under_attack`."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def project(attacked: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest images inside the ball and inside [0, 1]."""
    return torch.minimum(torch.maximum(attacked, images - eps), images + eps).clamp_(0, 1)


def uniform_noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise in [-1, 1] of the images' shape, drawn on the CPU."""
    # A GPU copies on from pinned memory without being waited for.
    drawn = torch.rand(images.shape, generator=generator, dtype=images.dtype, pin_memory=images.is_cuda)
    return drawn.mul_(2).sub_(1).to(images.device, non_blocking=True)


def draws_of(images: Tensor, generator: torch.Generator | None, seed: Seed) -> Draws:
    """The streams of these images: those given, or of a seed, which `generator` draws where there is none."""
    if isinstance(seed, Draws):
        return seed
    if seed is None:
        seed = int(torch.randint(2**62, (), generator=generator))
    return Draws.of(seed, images)


def start_noise(images: Tensor, generator: torch.Generator | None, noise: Tensor | None, seed: Seed) -> Tensor:
    """The random start of gradient attacks, in [-1, 1]."""
    if noise is not None:
        return noise
    return uniform_noise(images, generator) if seed is None else draws_of(images, None, seed).noise(images)


# -- attacks in which images leave as soon as they fool ----------------------------------------------------------------


class Rows:
    """Tensors with one row for each image that still stands; rows leave all of them together."""

    def __init__(self, **tensors: Tensor):
        self.__dict__.update(tensors)

    if TYPE_CHECKING:  # whatever tensors are given

        def __getattr__(self, name: str) -> Tensor: ...

        def __setattr__(self, name: str, value: Tensor) -> None: ...

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def keep(self, kept: Bool[Tensor, " n"]) -> None:
        """Let the others go."""
        if kept.all():
            return
        for name, tensor in vars(self).items():
            setattr(self, name, tensor[kept])


def gradient_at(loss: Tensor, images: Tensor) -> Tensor:
    """The gradient of a loss with respect to the images; zero where it does not depend on them (the soundness board tells)."""
    found = torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None
    return torch.zeros_like(images) if found is None else found


def evaluated(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [n], the gradient of each with respect to its image, and logits. Raises WorkbookError where one is not finite."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = check_logits(model(images), labels)
        losses = loss(logits, labels)
        gradient = finite(gradient_at(losses.sum(), images))
    return losses.detach(), gradient, logits.detach()


def finite(gradient: Tensor) -> Tensor:
    """The gradient. Raises WorkbookError unless it consists of numbers."""
    if not torch.isfinite(gradient).all():
        raise WorkbookError("the network's gradients are not finite; an attack that follows them would mean nothing")
    return gradient


@torch.no_grad()
def errs(model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor | None = None) -> Bool[Tensor, " n"]:
    """Which images are taken for another class, by the model (`logits` are its answers) and by the original one, if it has one."""
    wrong = (check_logits(model(images), labels) if logits is None else logits).argmax(dim=1) != labels
    original = getattr(model, "original", None)
    if original is not None and wrong.any():
        with under_attack(original):
            answers = check_logits(original(images[wrong]), labels[wrong])
        wrong[wrong.clone()] = answers.argmax(dim=1) != labels[wrong]
    return wrong
