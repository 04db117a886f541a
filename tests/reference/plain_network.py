"""A network, PGD, and the steps of training and search as careful published code runs them: eager, and nothing prepared.

Each operation of an edge is a module of its own, weights and images lie as torch makes them (NCHW), and PGD asks for the
gradient of the image only, with `autograd.grad` and frozen parameters. The library's faster ones must compute the same;
`bench` times both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsara_lib.architecture import Blueprint, Supernet
from dsara_lib.architecture.cells import Inputs, edge_stride
from dsara_lib.architecture.networks import Normalisation
from dsara_lib.architecture.operations import make_operation
from dsara_lib.architecture.space import NUM_INPUTS, STEM_MULTIPLIER, Slot
from dsara_lib.attacks import PGD
from dsara_lib.search import SearchConfig
from dsara_lib.training import TrainConfig

Batch = tuple[Tensor, Tensor]


class PlainCell(nn.Module):
    """A cell of a genotype: each node sums its two kept edges; the output concatenates the nodes."""

    def __init__(self, blueprint: Blueprint, slot: Slot):
        super().__init__()
        nodes = blueprint.genotype.cells[slot.kind]
        self.inputs = Inputs(slot, affine=True)
        self.sources = [[edge.source for edge in node] for node in nodes]
        self.edges = nn.ModuleList(
            nn.ModuleList(make_operation(edge.operation, slot.channels, edge_stride(slot, edge.source)) for edge in node)
            for node in nodes
        )

    def forward(self, before: Tensor, previous: Tensor) -> Tensor:
        states = self.inputs(before, previous)
        for sources, operations in zip(self.sources, self.edges, strict=True):
            one, other = (operation(states[source]) for source, operation in zip(sources, operations, strict=True))
            states.append(one + other)
        return torch.cat(states[NUM_INPUTS:], dim=1)


class PlainNetwork(nn.Module):
    """The network of a blueprint without drop path and auxiliary head; its state is that of the library's."""

    def __init__(self, blueprint: Blueprint):
        super().__init__()
        assert not blueprint.drop_path and not blueprint.auxiliary
        slots = blueprint.space.slots(blueprint.num_cells, blueprint.channels)
        width = STEM_MULTIPLIER * blueprint.channels
        self.normalisation = Normalisation(*blueprint.normalisation) if blueprint.normalisation else nn.Identity()
        self.stem = nn.Sequential(nn.Conv2d(blueprint.in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.cells = nn.ModuleList(PlainCell(blueprint, slot) for slot in slots)
        self.classifier = nn.Linear(blueprint.space.num_nodes * slots[-1].channels, blueprint.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        before = previous = self.stem(self.normalisation(images))
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return self.classifier(F.adaptive_avg_pool2d(previous, 1).flatten(1))


def plain_attack(network: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, attack: PGD) -> Tensor:
    """PGD against the network in evaluation mode; its mode is found as it was."""
    training, parameters = network.training, list(network.parameters())
    network.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    low, high = images - attack.eps, images + attack.eps
    attacked = _inside(images + attack.eps * noise, low, high)
    for _ in range(attack.steps):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(attacked), labels), attacked)
        attacked = _inside(attacked.detach() + attack.step_size * gradient.sign(), low, high)
    for parameter in parameters:
        parameter.requires_grad_(True)
    network.train(training)
    return attacked


def _inside(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(images, low), high).clamp(0, 1)


def noise_like(images: Tensor, noise_from: torch.Generator) -> Tensor:
    """Noise in [-1, 1], drawn on the CPU."""
    return (2 * torch.rand(images.shape, generator=noise_from, dtype=images.dtype) - 1).to(images.device)


def apply(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], clip: float = 0
) -> None:
    """One step of the optimizer with these gradients, clipped to length `clip` where one is given."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class PlainTrainer:
    """Adversarial training of a network."""

    def __init__(self, network: nn.Module, config: TrainConfig, noise_from: torch.Generator):
        assert config.attack is not None
        self.network, self.config, self.attack, self.noise_from = network, config, config.attack, noise_from
        self.weights = list(network.parameters())
        self.optimizer = torch.optim.SGD(
            self.weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Craft, then a step of SGD; the loss."""
        attacked = plain_attack(self.network.train(), images, labels, noise_like(images, self.noise_from), self.attack)
        loss = F.cross_entropy(self.network(attacked), labels)
        gradients = torch.autograd.grad(loss, self.weights)
        apply(self.optimizer, self.weights, gradients, self.config.gradient_clip)
        return {"train/adversarial_loss": loss.detach()}


class PlainSearcher:
    """Algorithm 2's loop body on a plain supernet, in the settings of the first stage of `config`."""

    def __init__(self, supernet: Supernet, config: SearchConfig, noise_from: torch.Generator):
        assert not config.alphas_first and not config.second_order
        self.supernet, self.config, self.noise_from = supernet, config, noise_from
        self.level = config.stages[0].upper_level
        self.weights, self.alphas = list(supernet.weights()), list(supernet.alphas.values())
        self.weights_optimizer = torch.optim.SGD(
            self.weights, lr=config.weights_lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.alphas_optimizer = torch.optim.Adam(
            self.alphas,
            lr=config.stages[0].architecture_lr,
            betas=config.architecture_betas,
            weight_decay=config.architecture_weight_decay,
        )

    def step(self, weights_batch: Batch, alphas_batch: Batch) -> dict[str, Tensor]:
        """The weights on one batch, then the alphas on the other; the losses."""
        images, labels = weights_batch
        gradients, loss = self.weights_gradients(self.craft(images, labels, noise_like(images, self.noise_from)), labels)
        self.update_weights(gradients)
        images, labels = alphas_batch
        rows, losses = [], {"train/adversarial_loss": loss}
        for objective in self.level.objectives:
            shown = images
            if objective == "adversarial":
                shown = self.craft(images, labels, noise_like(images, self.noise_from))
            row, losses[f"validation/{objective}_loss"] = self.alphas_gradient(shown, labels)
            rows.append(row)
        self.update_alphas(torch.stack(rows), torch.stack(list(losses.values())[1:]))
        return losses

    def craft(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Adversarial images."""
        return plain_attack(self.supernet, images, labels, noise, self.config.attack)

    def folded(self) -> nn.Module:
        """What PGD sees: the supernet as it is."""
        return self.supernet

    def weights_gradients(self, images: Tensor, labels: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Of the loss on these images, with respect to the weights alone; the loss."""
        loss = F.cross_entropy(self.supernet.train()(images), labels)
        return torch.autograd.grad(loss, self.weights), loss.detach()

    def alphas_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of the loss on these images, with respect to the alphas alone, flattened; the loss."""
        loss = F.cross_entropy(self.supernet.train()(images), labels)
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, self.alphas)]), loss.detach()

    def update_weights(self, gradients: Sequence[Tensor]) -> None:
        """A step of SGD."""
        apply(self.weights_optimizer, self.weights, gradients, self.config.gradient_clip)

    def update_alphas(self, jacobian: Tensor, losses: Tensor) -> None:
        """Algorithm 3: weigh the rows, then a step of Adam."""
        direction = (self.level.weigh(jacobian, losses) @ jacobian.double()).to(jacobian.dtype)
        parts = direction.split([alpha.numel() for alpha in self.alphas])
        apply(self.alphas_optimizer, self.alphas, [part.view_as(alpha) for part, alpha in zip(parts, self.alphas, strict=True)])


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Batch norms know these images afterwards: a freshly drawn network in evaluation mode would be no network one attacks."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
