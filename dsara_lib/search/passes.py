"""The passes of a step through the supernet: crafting, and the gradients of weights and of alphas.

They are functions of tensors that never wait for the device, so that a GPU can record them. What is random comes in as noise, and
what they find stays where it is until `Searcher` reads it, once a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..architecture import Supernet
from ..architecture.gpu import trouble
from ..attacks import PGD
from ..capture import Captured, Graphs, NoGraphs, at_precision, autocast, graphs_on, precision_of, rounding
from ..distributed import ALONE, Group
from ..shapes import Float, Int
from ..training import accuracy, laid_out_like
from .objectives import Loss, Objective, cross_entropy


class Passes:
    """`craft`, `weights_gradients` and `alphas_gradient` of one supernet; on a GPU recorded, with the promises of `Captured`.

    They share their memory: what one returns lasts until the next of them is called.
    """

    def __init__(
        self,
        supernet: Supernet,
        attack: PGD,
        *,
        precision: str = "float32",
        device: str | torch.device = "cpu",
        graphs: Graphs | None = None,
        group: Group = ALONE,
    ):
        self.group = group
        self.supernet, self.attack, self.precision, self.device = supernet, attack, precision, torch.device(device)
        self.weights, self.alphas = list(supernet.weights()), list(supernet.alphas.values())
        if attack.early_stop:
            graphs = NoGraphs()  # it asks after each step which images are left
        elif graphs is None:
            graphs = graphs_on(self.device)
        self._kernels: bool | None = None  # whether they are to be used; not known yet
        self.craft = Captured(self._craft, self.device, graphs)
        self.judge = Captured(self._judge, self.device, graphs)
        # What processes tell each other within a pass is not recorded.
        self._graphs = NoGraphs() if group.synchronised and group.size > 1 else graphs
        self.weights_gradients = Captured(self._weights_gradients, self.device, self._graphs)
        self.alphas_gradient = Captured(self._alphas_gradient, self.device, self._graphs)
        self._by_loss: dict[Loss, Captured] = {cross_entropy: self.alphas_gradient}

    def _craft(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """Attacked images. Batch norm, weights and alphas are folded anew, since each step changes them."""
        with torch.no_grad(), self.rounding():
            if self._kernels is None:  # the first call is never recorded
                self._kernels = self._trusted(images)
            return self.attack(self.folded(), images, labels, noise=noise)

    def _trusted(self, images: Tensor) -> bool:
        """Whether the GPU's own kernels do what torch's operations do; a warning where they do not."""
        if images.device.type != "cuda":
            return True
        with autocast(self.precision, self.device):
            wrong = trouble(self.supernet, images[:8], precision_of(self.precision).tf32)
        if wrong:
            warnings.warn(
                f"crafting goes on with torch's own operations, since the kernels for it are wrong: {wrong}", stacklevel=2
            )
        return not wrong

    def _weights_gradients(self, attacked: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> tuple[Tensor, ...]:
        """Loss, accuracy, and the gradient of each of the weights. Batch-norm statistics move once."""
        with self.training(), without_gradients(self.alphas):
            logits = self.training_logits(attacked)
            loss = F.cross_entropy(logits, labels)
            gradients = torch.autograd.grad(loss, self.weights)
            return loss.detach(), accuracy(logits, labels), *map(laid_out_like, self.weights, gradients)

    def _alphas_gradient(
        self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], loss: Loss = cross_entropy
    ) -> tuple[Tensor, ...]:
        """Loss, accuracy where the loss has one, and the gradient of all alphas [parameters] on natural or attacked images."""
        with self.training(), without_gradients(self.weights):
            found, *accuracies = loss(self.supernet, self.precision, images, labels)
            return found.detach(), *accuracies, flat(torch.autograd.grad(found, self.alphas))

    def _judge(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """Loss and accuracy in evaluation mode; nothing is changed."""
        with torch.no_grad(), self.rounding():
            logits = self.folded().eval()(images)
            return F.cross_entropy(logits, labels), accuracy(logits, labels)

    def objective_gradient(self, objective: Objective) -> Captured:
        """`alphas_gradient` of that objective's loss. Objectives with the same loss share it, and so its recording."""
        if objective.loss not in self._by_loss:
            function = partial(self._alphas_gradient, loss=objective.loss)
            self._by_loss[objective.loss] = Captured(function, self.device, self._graphs)
        return self._by_loss[objective.loss]

    def training_logits(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits in training mode."""
        return at_precision(self.supernet.train(), self.precision)(images)

    def folded(self) -> nn.Module:
        """What the supernet computes in evaluation mode at its present weights and alphas; before the first `craft`, which
        looks whether a GPU's kernels can be trusted, by torch's own operations."""
        with autocast(self.precision, self.device):  # its tensors take the type in which it is made
            folded = self.supernet.folded(bool(self._kernels), precision_of(self.precision).tf32)
        return at_precision(folded, self.precision)

    def rounding(self) -> AbstractContextManager[None]:
        """To be held around passes: what a GPU may round."""
        return rounding(self.precision, self.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """To be held around passes in training mode: `rounding`, and whose statistics batch norm takes."""
        with self.rounding(), self.group.normalising():
            yield

    def replayed_attack(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        noise: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, "n c h w"]:
        """`craft` where an attack on `folded()` is expected."""
        return self.craft(images, labels, noise)

    @property
    def records(self) -> bool:
        """Whether passes are recorded at all."""
        return not isinstance(self.craft.graphs, NoGraphs)

    @property
    def num_graphs(self) -> int:
        """Recordings so far, of all passes."""
        return sum(part.num_graphs for part in self._parts())

    def release(self) -> None:
        """Give back the memory of all recordings; the next passes begin anew."""
        for part in self._parts():
            part.release()

    def _parts(self) -> tuple[Captured, ...]:
        return self.craft, self.weights_gradients, self.judge, *self._by_loss.values()


@contextmanager
def without_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters whose gradients nobody asks for: functions of our own would else compute them for nothing."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def flat(tensors: Sequence[Tensor]) -> Float[Tensor, " numbers"]:
    """All their numbers in a row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
