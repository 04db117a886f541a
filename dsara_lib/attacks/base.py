"""What every attack promises.

`attack(model, images, labels, generator=None, noise=None) -> attacked images`, all images in [0, 1] as [n, c, h, w]:

- the result lies in the linf ball of radius eps around the images and in [0, 1];
- the model is attacked in evaluation mode and found afterwards as it was: mode of each module, batch-norm statistics,
  `requires_grad` and `.grad` of each parameter, also when the attack fails;
- no gradient for a parameter is computed;
- the random start is `noise` in [-1, 1] times eps where noise is given, else drawn from `generator` (a CPU generator, so
  that the start is the same on every device), else from torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import WorkbookError
from ..shapes import Float, Int


class Attack(Protocol):
    """A frozen dataclass of settings that makes adversarial images."""

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
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images for a model that returns logits."""
        ...


def check_radius(eps: float, step_size: float | None = None, steps: int | None = None) -> None:
    """Raise WorkbookError for an eps that is not meant for images in [0, 1], and for a useless step."""
    if not _in_unit_interval(eps):
        raise WorkbookError(f"eps is a radius from 0 to 1 for images in [0, 1], such as 8/255 = 0.0314; got {eps!r}")
    if step_size is not None and not _in_unit_interval(step_size):
        raise WorkbookError(f"step_size is a length from 0 to 1 for images in [0, 1], such as 2/255; got {step_size!r}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise WorkbookError(f"steps is a whole number of at least 1; got {steps!r}")


def _in_unit_interval(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_images(images: Tensor, labels: Tensor) -> None:
    """Raise WorkbookError unless images are a float batch with one label each; their range is not looked at."""
    if images.ndim != 4 or not images.is_floating_point():
        raise WorkbookError(f"images are a float tensor [n, c, h, w]; got {images.dtype} {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise WorkbookError(f"expected one label for each of {len(images)} images; got labels {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise WorkbookError(f"labels are int64 numbers of classes; got {labels.dtype}")


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
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


def project(attacked: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest images inside the ball and inside [0, 1]."""
    return torch.minimum(torch.maximum(attacked, images - eps), images + eps).clamp_(0, 1)


def uniform_noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise in [-1, 1] of the images' shape, drawn on the CPU."""
    drawn = torch.rand(images.shape, generator=generator, dtype=images.dtype)
    return drawn.mul_(2).sub_(1).to(images.device, non_blocking=True)
