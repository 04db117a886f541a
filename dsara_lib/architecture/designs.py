"""Networks that are not stacks of one genotype's cells: hand-designed ones, and rivals whose cells are of another kind.

A design is a frozen dataclass that makes a body, from images to features; a `DesignBlueprint` gives it a name, classes and a
classifier. What has a blueprint is trained, kept, attacked and counted as the network of a genotype is.
To add a design, write such a dataclass and one line in `DESIGNS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..errors import WorkbookError, unknown
from ..shapes import Float
from .classics import DenseNet, ResNet, WideResNet, require_count
from .networks import Classifier, Normalisation, as_normalisation, reading_blueprint
from .rivals import ABanditNAS, RobNet

Normalised = tuple[tuple[float, ...], tuple[float, ...]] | None  # means and deviations of the channels


class Design(Protocol):
    """`channels` scales every width of the network; all else about a design is its own."""

    @property
    def channels(self) -> int: ...

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        """A module from images to features, with freshly drawn weights, and how many channels the features have."""
        ...


class DesignNetwork(Classifier):
    """The network of a design: its body, global average pooling, linear classifier."""

    def __init__(self, design: Design, *, num_classes: int, in_channels: int = 3, normalisation: Normalised = None):
        super().__init__()
        self.num_classes = num_classes
        self.normalisation = Normalisation(*normalisation) if normalisation else nn.Identity()
        self.body, width = design.body(in_channels)
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.pooling(self.body(self.normalisation(images))).flatten(1))


@dataclass(frozen=True, kw_only=True)
class DesignBlueprint:
    """All that is needed to build the network of a design again, as `Blueprint` is for a genotype's."""

    name: str
    design: Design
    num_classes: int
    in_channels: int = 3
    normalisation: Normalised = None
    drop_path: ClassVar[float] = 0.0

    def __post_init__(self):
        for name in ("num_classes", "in_channels"):
            require_count(name, getattr(self, name))

    @property
    def channels(self) -> int:
        """What the widths of the network are multiples of."""
        return self.design.channels

    @property
    def size(self) -> str:
        """How large it is, in words."""
        return f"{self.channels} channels"

    def with_options(self, **options: Any) -> DesignBlueprint:
        """The same with other fields, of its own or of its design. Raises WorkbookError for what neither has."""
        own = [field.name for field in fields(self) if field.name not in ("name", "design")]
        theirs = [field.name for field in fields(self.design)]  # type: ignore[arg-type]
        for name in options:
            if name not in (*own, *theirs):
                raise unknown(f"option of {self.name}", name, (*own, *theirs))
        design = replace(self.design, **{k: v for k, v in options.items() if k in theirs})  # type: ignore[type-var]
        return replace(self, design=design, **{k: v for k, v in options.items() if k in own})

    def build(self) -> DesignNetwork:
        """A new network with freshly drawn weights, laid out channels last."""
        network = DesignNetwork(
            self.design, num_classes=self.num_classes, in_channels=self.in_channels, normalisation=self.normalisation
        )
        return network.to(memory_format=torch.channels_last)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: plain JSON."""
        return {"kind": type(self.design).__name__} | asdict(self)

    @classmethod
    def from_dict(cls, written: Any, where: str = "the blueprint") -> DesignBlueprint:
        """The blueprint that `to_dict` wrote. Raises WorkbookError."""
        with reading_blueprint(where):
            read = dict(written)
            read["design"] = make_design(read.pop("kind"), dict(read["design"]))
            if not isinstance(read["name"], str):
                raise WorkbookError(f"its name is text; got {read['name']!r}")
            return cls(**read | {"normalisation": as_normalisation(read.get("normalisation"))})


def make_design(kind: Any, settings: dict[str, Any]) -> Design:
    """A design of `DESIGNS` with settings as JSON has them. Raises WorkbookError or TypeError."""
    if not isinstance(kind, str) or kind not in DESIGNS:
        raise unknown("design", kind, DESIGNS)
    return DESIGNS[kind](**{name: _frozen(value) for name, value in settings.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


DESIGNS: dict[str, Callable[..., Design]] = {
    design.__name__: design for design in (ResNet, WideResNet, DenseNet, RobNet, ABanditNAS)
}
