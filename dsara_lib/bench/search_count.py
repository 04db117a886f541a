"""A step of the search counted on the meta device, part by part, plain and fast; and what a GPU needs at least for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..architecture import Supernet
from ..search import Sampling, SearchConfig
from ..search.passes import Passes
from ..training import apply_gradients
from .contests import NUM_CLASSES, reference, search_config
from .counting import Count, Roof, counted, kept_bytes
from .sizes import Sizes

META = "meta"
STEPS_PER_EPOCH = 390  # of 25,000 images a half, in batches of 64
EPOCHS = (20, 10)  # of the two stages


class SearchPasses(Protocol):
    """The passes of a step, plain or fast."""

    @property
    def craft(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Attacked images of images, labels and noise."""
        ...

    def folded(self) -> nn.Module:
        """What PGD sees of the supernet."""
        ...

    @property
    def weights_gradients(self) -> Callable[[Tensor, Tensor], Any]:
        """Of the loss on images."""
        ...

    @property
    def alphas_gradient(self) -> Callable[[Tensor, Tensor], Any]:
        """Of the loss on images."""
        ...


@dataclass(frozen=True, kw_only=True)
class StepCount:
    """What each part of a step dispatches; `crafting` is one attack with all its steps."""

    crafting: Count
    weights_pass: Count
    alphas_pass: Count
    optimizers: Count

    def step(self, objectives: int = 2) -> Count:
        """A whole step: the weights' attack, and one for the alphas; a pass for each objective (stage one has one)."""
        return self.passes(objectives) + self.optimizers

    def passes(self, objectives: int = 2) -> Count:
        """The same without the optimizers, as the issue counts: how many operations they are depends on the device."""
        return 2 * self.crafting + self.weights_pass + objectives * self.alphas_pass


Make = Callable[[SearchConfig, str], tuple[Supernet, SearchPasses]]


def plain_passes(config: SearchConfig, device: str = META) -> tuple[Supernet, SearchPasses]:
    """The reference supernet and its passes."""
    plain = reference("plain_supernet").PlainSupernet
    net = plain(config.space, num_cells=config.num_cells, channels=config.channels, num_classes=NUM_CLASSES).to(device)
    return net, reference("plain_network").PlainSearcher(net, config, torch.Generator())


def fast_passes(config: SearchConfig, device: str = META) -> tuple[Supernet, SearchPasses]:
    """The library's supernet and its passes."""
    net = Supernet(config.space, num_cells=config.num_cells, channels=config.channels, num_classes=NUM_CLASSES).to(device)
    return net, Passes(net, config.attack, precision=config.precision, device=device)


def count_step(make: Make, sizes: Sizes, device: str = META) -> StepCount:
    """Count each part once. An attack is what it is with one step, and what the second adds for each further one."""
    images, labels, noise = batch(sizes, device)
    config = search_config(sizes, sizes.counted_batch)
    one, two = (
        counted(partial(make(replace(config, attack=sizes.attack(steps)), device)[1].craft, images, labels, noise))
        for steps in (1, 2)
    )
    net, passes = make(config, device)
    return StepCount(
        crafting=one + (sizes.steps - 1) * (two - one),
        weights_pass=counted(partial(passes.weights_gradients, images, labels)),
        alphas_pass=counted(partial(passes.alphas_gradient, images, labels)),
        optimizers=count_optimizers(net, config),
    )


def count_optimizers(net: Supernet, config: SearchConfig) -> Count:
    """A step of SGD with clipped gradients and one of Adam, tensor by tensor; neither is its first."""
    weights, alphas = list(net.weights()), list(net.alphas.values())
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=config.momentum, weight_decay=config.weight_decay)
    adam = torch.optim.Adam(alphas, betas=config.architecture_betas, weight_decay=config.architecture_weight_decay)
    level = config.stages[0].upper_level
    assert not isinstance(level, Sampling)  # which has no gradient to weigh
    jacobian = alphas[0].new_zeros(len(level.objectives), sum(alpha.numel() for alpha in alphas))

    def update() -> None:
        apply_gradients(sgd, weights, _like(weights), config.gradient_clip)
        level.weigh(jacobian, jacobian[:, 0])
        apply_gradients(adam, alphas, _like(alphas))

    update()
    return counted(update)


def _like(parameters: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(parameter, requires_grad=False) for parameter in parameters)


def batch(sizes: Sizes, device: str = META) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and noise."""
    images = torch.zeros(sizes.counted_batch, 3, sizes.image_size, sizes.image_size, device=device)
    return images, torch.zeros(sizes.counted_batch, dtype=torch.int64, device=device), torch.zeros_like(images)


def saved_bytes(make: Make, sizes: Sizes) -> int:
    """Kept for backward in one pass of crafting: through what PGD sees, frozen and in evaluation mode."""
    net, passes = make(search_config(sizes, sizes.counted_batch), META)
    net.eval().requires_grad_(False)
    with torch.no_grad():
        model = passes.folded()
    return kept_bytes(model, batch(sizes)[0])


def search_minutes(seconds: Callable[[Count], float], count: StepCount) -> float:
    """The whole search at the paper's scale, where a step takes `seconds` of its count."""
    return (
        sum(epochs * STEPS_PER_EPOCH * seconds(count.step(objectives)) for epochs, objectives in zip(EPOCHS, (1, 2), strict=True))
        / 60
    )


def roofline(plain: StepCount, fast: StepCount, roof: Roof | None = None) -> str:
    """A table of what a step asks, and the least time that one H200 needs for it."""
    roof = roof or Roof()
    lines = [
        "a step of the second stage, counted; least times on one H200 (4.3 TB/s, 67 TFLOP/s float32, 6 or 2 us a launch)",
        f"{'':18}{'operations':>11}{'views':>9}{'TB moved':>10}{'TFLOP':>8}{'memory':>9}{'arithm.':>9}{'eager':>9}{'graph':>9}",
    ]
    for name, side in (("plain", plain), ("fast", fast)):
        rows = {name: side.step(), "  one attack": side.crafting, "  weights' pass": side.weights_pass}
        rows |= {"  alphas' pass": side.alphas_pass, "  optimizers": side.optimizers}
        lines += [_row(words, count, roof) for words, count in rows.items()]
        minutes = [search_minutes(seconds, side) for seconds in (roof.eager, roof.graph)]
        lines.append(f"  whole search of 30 epochs at least {minutes[0]:.0f} min eager, {minutes[1]:.0f} min as a graph")
    return "\n".join(lines)


def _row(words: str, count: Count, roof: Roof) -> str:
    times = (seconds(count) for seconds in (roof.memory, roof.arithmetic, roof.eager, roof.graph))
    return (
        f"{words:18}{count.operations:>11,}{count.views:>9,}{count.bytes_moved / 1e12:>10.3f}{count.flops / 1e12:>8.2f}"
        + "".join(f"{1000 * time:>6.0f} ms" for time in times)
    )
