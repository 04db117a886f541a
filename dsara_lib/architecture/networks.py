"""The two readings of a search space: the supernet that is searched and the network that is retrained.

Both take images in [0, 1] as [n, channels, h, w] and return logits [n, classes]. Normalisation, if any, is a layer inside,
so that eps always means pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WorkbookError, unknown
from ..shapes import Bool, Float
from .cells import Cell, MixedCell
from .folded import FoldedSupernet, can_fold
from .genotype import Genotype, discretise, require_kinds
from .space import STEM_MULTIPLIER, WIDEST, SearchSpace

ALPHA_SCALE = 1e-3


class Normalisation(nn.Module):
    """(images - mean) / deviation by channel, as a layer of the network."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return (images - self.mean) / self.deviation


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    out = STEM_MULTIPLIER * channels
    return nn.Sequential(nn.Conv2d(in_channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))


class Supernet(nn.Module):
    """All architectures of the space at once. `alphas` are parameters: one [edges, operations] matrix for each kind of cell.

    They are part of the state and follow `.to()`; `weights()` and `alphas` split the parameters into the two levels of Eq. (3).
    It can be restricted to some of its operations, down to a single network.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        num_cells: int,
        channels: int,
        num_classes: int,
        in_channels: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        slots = space.slots(num_cells, channels)
        self.space, self.slots, self.num_classes = space, slots, num_classes
        self.stem = _stem(in_channels, channels)
        self.cells = nn.ModuleList(MixedCell(space, slot) for slot in slots)
        self.classifier = nn.Linear(space.num_nodes * slots[-1].channels, num_classes)
        shape = (len(space.edges), len(space.operations))
        self.alphas = nn.ParameterDict(
            {kind: nn.Parameter(ALPHA_SCALE * torch.randn(shape, generator=generator)) for kind in space.kinds}
        )
        self.restricted = self.damped = False

    def weights(self) -> Iterator[nn.Parameter]:
        """The network weights: every parameter that is not an alpha."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("alphas."))

    def restrict(self, allowed: Mapping[str, Bool[Tensor, "edges operations"]] | None) -> None:
        """Leave each edge only the operations that are allowed for its kind of cell; an edge without any gives 0.

        None lifts it. What is not allowed is computed all the same, and weighs 0. From one restriction to another nothing but
        the content of buffers changes, so that a recorded pass follows; with none and with one, passes are different ones.
        """
        self.restricted = allowed is not None
        if allowed is not None:
            self._fill("allowed", allowed)

    def damp(self, factors: Mapping[str, Float[Tensor, "edges operations"]] | None) -> None:
        """In training mode multiply the mixing weights by these, for instance by 0 and 1 / keep. None and recordings: as above."""
        self.damped = factors is not None
        if factors is not None:
            self._fill("factors", factors)

    @torch.no_grad()
    def _fill(self, name: str, values: Mapping[str, Tensor]) -> None:
        """Copy into buffers of that name, made when they are first needed; they are no part of the state."""
        for kind, alphas in self.alphas.items():
            value = values[kind]
            if not hasattr(self, f"{name}_{kind}"):
                self.register_buffer(f"{name}_{kind}", torch.empty_like(alphas, dtype=value.dtype), persistent=False)
            getattr(self, f"{name}_{kind}").copy_(value, non_blocking=True)

    def allowed(self) -> dict[str, Bool[Tensor, "edges operations"]] | None:
        """What it is restricted to; None where to nothing."""
        return {kind: getattr(self, f"allowed_{kind}") for kind in self.alphas} if self.restricted else None

    def mixing_weights(self) -> dict[str, Float[Tensor, "edges operations"]]:
        """The alphas of each kind of cell, softmaxed over the operations that are allowed, Eq. (2)."""
        allowed = self.allowed()
        if allowed is None:
            return {kind: torch.softmax(alphas, dim=-1) for kind, alphas in self.alphas.items()}
        return {kind: _softmax_over(alphas, allowed[kind]) for kind, alphas in self.alphas.items()}

    def forward(self, images: Float[Tensor, "n c h w"], mixing: dict[str, Tensor] | None = None) -> Float[Tensor, "n classes"]:
        """Logits. `mixing` replaces the softmaxed alphas, for instance by 0 and 1."""
        mixing = self._mixed() if mixing is None else mixing
        before = previous = self.stem(images)
        for cell in self.cells:
            assert isinstance(cell, MixedCell)
            before, previous = previous, cell(before, previous, mixing[cell.kind])
        return self.classifier(previous.mean(dim=(2, 3)))

    def _mixed(self) -> dict[str, Tensor]:
        weights = self.mixing_weights()
        if not (self.damped and self.training):
            return weights
        return {kind: weight * getattr(self, f"factors_{kind}") for kind, weight in weights.items()}

    def folded(self, kernels: bool = True, tf32: bool = False) -> nn.Module:
        """What it computes in evaluation mode at its present weights and alphas, made to be attacked (see `folded.py`).

        Where an operation is of no known family it is the supernet itself. `kernels`: whether a GPU may use kernels of our own;
        `tf32`: whether these may round the factors of products to TF32.
        """
        return FoldedSupernet(self, kernels, tf32) if can_fold(self) else self

    def genotype(self, name: str = "found", most_skips: int | None = None) -> Genotype:
        """The discrete architecture of the present alphas, made of what is allowed."""
        return discretise(dict(self.alphas.items()), self.space, name, allowed=self.allowed(), most_skips=most_skips)

    def entropy(self) -> dict[str, float]:
        """Mean entropy of the edges of each kind of cell, in nats; log 7 = 1.95 at the start, 0 once decided."""
        found = {}
        for kind, weights in self.mixing_weights().items():
            found[kind] = torch.special.entr(weights.detach()).sum(-1).mean().item()
        return found


def _softmax_over(
    alphas: Float[Tensor, "edges operations"], allowed: Bool[Tensor, "edges operations"]
) -> Float[Tensor, "edges operations"]:
    """Softmax over the allowed operations of each edge; exactly 0 for others, and no NaN where there are none."""
    least = torch.finfo(alphas.dtype).min / 2
    return torch.softmax(alphas.masked_fill(~allowed, least), dim=-1) * allowed


class Classifier(nn.Module):
    """What is retrained, attacked and evaluated: images in, logits out. A second pair of logits is for training only."""

    num_classes: int

    def forward_with_auxiliary(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor | None]:
        """Logits of the classifier and of the auxiliary head (None where there is none)."""
        return self(images), None


class Auxiliary(nn.Module):
    """A second classifier on the features after two thirds of the cells, used in training only (off by default)."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, num_classes),
        )

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.layers(features)


class Network(Classifier):
    """The network of a genotype: stem, cells, global average pooling, linear classifier."""

    def __init__(
        self,
        genotype: Genotype,
        space: SearchSpace,
        *,
        num_cells: int,
        channels: int,
        num_classes: int,
        in_channels: int = 3,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        auxiliary: bool = False,
        drop_path: float = 0.0,
        searching: bool = False,
    ):
        """`searching` builds the operations as the supernet has them (no affine batch norms, a norm after pooling).

        Raises WorkbookError where the genotype lacks a kind of cell that the space places.
        """
        super().__init__()
        require_kinds(genotype, space)
        if not 0 <= drop_path < 1:
            raise WorkbookError(f"drop_path is a probability from 0 to below 1; got {drop_path}")
        slots = space.slots(num_cells, channels)
        self.num_classes = num_classes
        self.normalisation = Normalisation(*normalisation) if normalisation else nn.Identity()
        self.stem = _stem(in_channels, channels)
        # As in DARTS, deeper cells are dropped no more often than earlier ones: one probability for all.
        self.cells = nn.ModuleList(Cell(genotype, slot, drop_path, searching) for slot in slots)
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(space.num_nodes * slots[-1].channels, num_classes)
        self.auxiliary_at = 2 * num_cells // 3
        self.auxiliary = Auxiliary(space.num_nodes * slots[self.auxiliary_at].channels, num_classes) if auxiliary else None

    def features(self, images: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "n c2 h2 w2"]]:
        """The output of each cell in turn."""
        # Channels last is how the convolutions of both devices want it: 1.3 to 1.7 times as fast on the CPU.
        images = images.contiguous(memory_format=torch.channels_last)
        before = previous = self.stem(self.normalisation(images))
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
            yield previous

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self._classify(*deque(self.features(images), maxlen=1))

    def forward_with_auxiliary(self, images: Float[Tensor, "n c h w"]) -> tuple[Tensor, Tensor | None]:
        """Logits of the classifier and of the auxiliary head (None where there is none)."""
        last, second = images, None
        for index, last in enumerate(self.features(images)):
            if index == self.auxiliary_at and self.auxiliary is not None:
                second = self.auxiliary(last)
        return self._classify(last), second

    def _classify(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.classifier(self.pooling(features).flatten(1))


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """All that is needed to build a network again: genotype, space and size. Kept in the card beside its weights."""

    genotype: Genotype
    space: SearchSpace
    num_cells: int
    channels: int
    num_classes: int
    in_channels: int = 3
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    auxiliary: bool = False
    drop_path: float = 0.0

    def __post_init__(self):
        for name in ("num_cells", "channels", "num_classes", "in_channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= WIDEST:
                raise WorkbookError(f"{name} is a whole number of at least 1 and at most {WIDEST}; got {value!r}")
        require_kinds(self.genotype, self.space)
        self.space.slots(self.num_cells, self.channels)

    @property
    def name(self) -> str:
        """The genotype's."""
        return self.genotype.name

    @property
    def size(self) -> str:
        """How large it is, in words."""
        filters = "-".join(map(str, self.space.filters))
        return f"{self.num_cells} cells, {self.channels} channels, {self.space.placement} with {filters}"

    def with_options(self, **options: Any) -> Blueprint:
        """The same with other fields. Raises WorkbookError for what is none."""
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise unknown(f"option of {self.name}", name, known)
        return replace(self, **options)

    def build(self) -> Network:
        """A new network with freshly drawn weights, laid out channels last."""
        network = Network(**{field.name: getattr(self, field.name) for field in fields(self)})
        return network.to(memory_format=torch.channels_last)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: plain JSON."""
        return asdict(self) | {"genotype": self.genotype.to_dict(), "space": asdict(self.space)}

    @classmethod
    def from_dict(cls, written: Any, where: str = "the blueprint") -> Blueprint:
        """The blueprint that `to_dict` wrote. Raises WorkbookError."""
        with reading_blueprint(where):
            read = dict(written)
            read["genotype"] = Genotype.from_dict(read["genotype"], "its genotype")
            space: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in read["space"].items()}
            read["space"] = SearchSpace(**space)
            return cls(**read | {"normalisation": as_normalisation(read.get("normalisation"))})


@contextmanager
def reading_blueprint(where: str) -> Iterator[None]:
    """Whatever is wrong with a written blueprint is told as a WorkbookError that says where it stands."""
    try:
        yield
    except KeyError as error:
        raise WorkbookError(f"{where} does not describe a network: it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise WorkbookError(f"{where} does not describe a network: {error}") from error


def as_normalisation(written: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Means and deviations as JSON has them."""
    if written is None:
        return None
    mean, deviation = written
    return tuple(mean), tuple(deviation)
