"""The two-stage search, Algorithms 1-3: weights on one half of the training images, alphas on the other.

`Searcher` is a job for `engine.run_epochs`; `Searcher.step` is one pass of Algorithm 2's loop body over a batch of each half.
The passes through the supernet are in `passes`; what a step has measured is read once, by `read`, before the alphas change.
Where paths are sampled, `sampling` takes the place of Algorithm 3, and `ranking` may take that of the choice among epochs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..architecture import Genotype, SearchSpace, Supernet
from ..attacks.base import uniform_noise
from ..capture import Graphs
from ..data import Augmentation, Batches, DataSet, halves, sample
from ..distributed import ALONE, Group
from ..engine import COMMIT, Metrics, Within, diverging, to_cpu
from ..errors import WorkbookError
from ..runs import generator, seeded, write_atomically, write_jsonl
from ..shapes import Float, Int
from ..training import Cosine, apply_gradients, measuring, set_learning_rate, whole_batches
from .objectives import ADVERSARIAL, OBJECTIVES
from .passes import Passes, flat
from .paths import DROPPED, Allowed, alphas_of, dropped_skips, everything, genotype_of, strongest
from .ranking import FILTERED, PathScores, Ranking, Row, best_of, ranking
from .sampling import Learning, RandomPaths, Sampling
from .settings import SearchConfig, Stage
from .upper_level import MGDA, Remembering, UpperLevel

SHIFT = 0.01  # length by which the finite difference of `second_order` moves the weights, as in DARTS
COLLAPSE_SHARE = 0.5  # more than this share of identities in a cell is called a collapse
FINITE = "finite"
MEASURED = ("natural_loss", "natural_accuracy", "adversarial_loss", "adversarial_accuracy")
Scalars = dict[str, Tensor]  # metrics that still lie on the device


class Searcher:
    """The search of one data set; a job for `engine.run_epochs`."""

    commits_steps = True
    batch_setting = "search.batch_size"

    def __init__(
        self,
        data: DataSet,
        config: SearchConfig,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        graphs: Graphs | None = None,
        group: Group = ALONE,
    ):
        """`graphs` replaces what records the parts of a step: by default CUDA graphs on a GPU; `NoGraphs()` for none.

        The processes of a `group` share each batch.
        """
        self.group = group
        self.config, self.seed, self.data_name = config, seed, data.name
        self.device = torch.device(device)
        images = sample(data.train, config.images, generator("images", seed)).to(self.device)
        self.weights_half, self.alphas_half = halves(images, generator("halves", seed))
        self.num_batches = min(
            whole_batches(self.weights_half, config.batch_size, "the weights' half", group),
            whole_batches(self.alphas_half, config.batch_size, "the alphas' half", group),
        )
        shown = torch.randperm(len(self.alphas_half), generator=generator("validation", seed))[: config.validation_images]
        self.validation = self.alphas_half.part(shown)
        self.augmentation = Augmentation(crop_padding=data.crop_padding, flip=data.flip)
        self.noise_from = generator("search", seed)
        self._graphs, self._images = graphs, (data.num_classes, data.channels)
        self._build(1)
        self.epoch, self.num_epochs = 0, config.epochs
        self.schedule = Cosine(floor=config.weights_lr_floor / config.weights_lr)
        self.memories: dict[int, Tensor] = {}  # of upper levels that remember, by the number of their stage
        self.allowed: Allowed = everything(config.space)  # the candidates of this stage
        self.path: Allowed = self.allowed  # of the step under way, where paths are sampled
        self.ranked: list[Row] = []
        self._within: Within | None = None
        self._set_up(1)
        self.alphas_by_epoch: list[dict[str, Tensor]] = [to_cpu(dict(self.supernet.alphas.items()))]
        self.genotypes: list[Genotype] = []
        self.scores: list[float] = []
        self._measured: Metrics = {}

    # -- stages ------------------------------------------------------------------------------------------------------

    def _build(self, number: int) -> None:
        """The supernet of the stage of that number at its beginning, its passes and its optimizers."""
        config, (num_classes, in_channels) = self.config, self._images
        # The first is named as it was when there was but one.
        with seeded("supernet", self.seed, *([number] if number > 1 else [])):
            supernet = Supernet(
                config.space,
                num_cells=config.depth(number),
                channels=config.channels,
                num_classes=num_classes,
                in_channels=in_channels,
            )
        self.supernet = supernet.to(self.device)
        self.passes = Passes(
            self.supernet,
            config.attack,
            precision=config.precision,
            device=self.device,
            graphs=self._graphs,
            group=self.group,
        )
        self.weights, self.alphas = self.passes.weights, self.passes.alphas
        self.weights_optimizer = torch.optim.SGD(
            self.weights, lr=config.weights_lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.alphas_optimizer = torch.optim.Adam(
            self.alphas,
            lr=config.stages[number - 1].architecture_lr,
            betas=config.architecture_betas,
            weight_decay=config.architecture_weight_decay,
        )

    def _enter(self, number: int) -> None:
        """Begin the stage of that number: its candidates, and a new supernet where it has another depth."""
        stage = self.config.stages[number - 1]
        if stage.candidates is not None:
            self.allowed = strongest(dict(self.supernet.alphas.items()), self.allowed, stage.candidates)
        if self.config.depth(number) != self.config.depth(self.number):
            self.passes.release()
            self._build(number)
        self._set_up(number)
        self._sink()

    def _set_up(self, number: int) -> None:
        """Restrict and damp the supernet as the stage of that number wants it; recordings follow, or are dropped."""
        self.number, stage = number, self.config.stages[number - 1]
        restricted = isinstance(stage.upper_level, Sampling) or not all(table.all() for table in self.allowed.values())
        damped = stage.skip_dropout > 0
        if (restricted, damped) != (self.supernet.restricted, self.supernet.damped):
            self.passes.release()
        self.supernet.restrict(self.allowed if restricted else None)
        self.supernet.damp(dropped_skips(self.config.space, 0.0, torch.Generator()) if damped else None)

    @torch.no_grad()
    def _sink(self) -> None:
        """Alphas of what is no candidate lie where softmax makes almost nothing of them: weight decay would lift them."""
        allowed = self.supernet.allowed()
        if allowed is not None and not isinstance(self.config.stages[self.number - 1].upper_level, Sampling):
            for kind, alphas in self.supernet.alphas.items():
                alphas.masked_fill_(~allowed[kind], DROPPED)

    @torch.no_grad()
    def _set_alphas(self, values: Mapping[str, Tensor]) -> None:
        for kind, alphas in self.supernet.alphas.items():
            alphas.copy_(values[kind], non_blocking=True)

    # -- one step ----------------------------------------------------------------------------------------------------

    def step(self, weights_batch: tuple[Tensor, Tensor], alphas_batch: tuple[Tensor, Tensor]) -> Metrics:
        """Algorithm 2, lines 3-7: the weights, then the alphas (or the other way round, where the settings say so)."""
        self._draw()
        if self.config.alphas_first:
            architecture = self.step_architecture(*alphas_batch, weights_batch)
            metrics = read(self.step_weights(*weights_batch)) | architecture
        else:
            unread = self.step_weights(*weights_batch)
            metrics = self.step_architecture(*alphas_batch, weights_batch, unread)
        if not self.group.synchronised:
            self.group.align(list(self.supernet.buffers()), self.config.batch_size)
        return metrics

    def _draw(self) -> None:
        """What is random of the supernet in the next step: its path, and which identities are dropped."""
        number, stage = self.config.stage_at(self.epoch)
        if isinstance(stage.upper_level, Sampling):
            memory = self.memories.get(number)
            self.path = stage.upper_level.draw(self.config.space, self.allowed, memory, self.noise_from)
            self.supernet.restrict(self.path)
        if stage.skip_dropout > 0:
            left = 1 - (self.epoch - self.config.begins(number)) / stage.epochs
            self.supernet.damp(dropped_skips(self.config.space, stage.skip_dropout * left, self.noise_from))

    def step_weights(self, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Scalars:
        """Minimise the adversarial loss on a batch of the weights' half."""
        found = self.passes.weights_gradients(*self._shown(ADVERSARIAL, images, labels))
        loss, right, *gradients = self.group.mean(found, len(images))
        measured = {"train/adversarial_loss": loss.clone(), "train/adversarial_accuracy": right.clone()}
        apply_gradients(self.weights_optimizer, self.weights, tuple(gradients), self.config.gradient_clip)
        return measured

    def step_architecture(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        weights_batch: tuple[Tensor, Tensor],
        unread: Scalars | None = None,
    ) -> Metrics:
        """Algorithm 3 on a batch of the alphas' half: weigh the gradients of the stage's objectives, then a step of Adam.

        `unread` is what was measured before and is read with the rest.
        """
        number, stage = self.config.stage_at(self.epoch)
        level = stage.upper_level
        if isinstance(level, Sampling):
            return self._reward(number, level, images, labels, unread)
        if self.config.second_order:
            jacobian, losses, measured = self._unrolled_jacobian(level, images, labels, *weights_batch)
        else:
            jacobian, losses, measured = self._jacobian(level, images, labels)
        if isinstance(level, Remembering):
            memory = self.memories.get(number, level.start(jacobian))
            weights, memory = level.weigh(jacobian, losses, memory), level.remember(losses, memory)
        else:
            weights, memory = level.weigh(jacobian, losses), None
        weights = weights.to(jacobian.device)
        finite = {FINITE: torch.isfinite(jacobian).all()}
        metrics = read((unread or {}) | measured | _weighed(level, jacobian, weights) | finite)
        if not metrics.pop(FINITE):
            raise WorkbookError(
                f"a gradient of the alphas is not finite in epoch {self.epoch + 1}; this step was not taken; "
                "a smaller weights_lr or gradient_clip usually helps"
            )
        direction = (weights @ jacobian.double()).to(jacobian.dtype)
        apply_gradients(self.alphas_optimizer, self.alphas, self._split(direction))
        self._sink()
        if memory is not None:
            self.memories[number] = memory
        return metrics

    def _reward(self, number: int, level: Sampling, images: Tensor, labels: Tensor, unread: Scalars | None) -> Metrics:
        """In place of Algorithm 3: the adversarial accuracy of the step's path, for a sampling that learns from it."""
        if not isinstance(level, Learning):
            return read(unread or {})
        space, steps = self.config.space, self.config.stages[number - 1].epochs * self.num_batches
        memory = self.memories.get(number)
        memory = level.start(space, self.allowed) if memory is None else memory
        loss, right = self.group.mean(self.passes.judge(*self._shown(ADVERSARIAL, images, labels)), len(images))
        metrics = read((unread or {}) | _told(ADVERSARIAL, loss.clone(), right.clone()))
        reward = metrics[f"validation/{ADVERSARIAL}_accuracy"]
        self.memories[number] = level.learn(space, self.allowed, memory, self.path, reward, steps)
        self._set_alphas(level.alphas(space, self.memories[number]))
        return metrics

    def _shown(self, objective: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images on which an objective's loss is taken, and their labels: of a batch what is this process's."""
        if OBJECTIVES[objective].attacked:
            images, labels, noise = self.group.share(images, labels, uniform_noise(images, self.noise_from))
            return self.passes.craft(images, labels, noise), labels
        images, labels = self.group.share(images, labels)
        return images, labels

    def _jacobian(self, level: UpperLevel, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Scalars]:
        """Gradients of each objective with respect to all alphas at the present weights (first order)."""
        rows, losses, measured = [], [], Scalars()
        for objective in level.objectives:
            found = self.passes.objective_gradient(OBJECTIVES[objective])(*self._shown(objective, images, labels))
            # Clones, because the next objective overwrites them.
            loss, *right, row = (each.clone() for each in self.group.mean(found, len(images)))
            rows.append(row)
            losses.append(loss)
            measured |= _told(objective, loss, *right)
        return torch.stack(rows), torch.stack(losses), measured

    def _unrolled_jacobian(
        self, level: UpperLevel, images: Tensor, labels: Tensor, train_images: Tensor, train_labels: Tensor
    ) -> tuple[Tensor, Tensor, Scalars]:
        """The same at the weights after one step on the weights' batch, with that step's dependence on the alphas.

        d L_val(w', a)/da = partial_a L_val - lr * d2 L_train/(da dw) . grad_w' L_val, the product by central differences as in
        DARTS. Weights and batch-norm statistics are found afterwards as they were.
        """
        attacked, train_labels = (each.clone() for each in self._shown(ADVERSARIAL, train_images, train_labels))
        total = len(train_images)
        buffers = [buffer.clone() for buffer in self.supernet.buffers()]
        here = [weight.detach().clone() for weight in self.weights]
        rate = self.weights_optimizer.param_groups[0]["lr"]
        rows, losses, measured = [], [], Scalars()
        try:
            with self.passes.training():
                loss = F.cross_entropy(self.passes.training_logits(attacked), train_labels)
                gradients = self.group.mean(torch.autograd.grad(loss, self.weights), total)
            ahead = self._unrolled(here, gradients, rate)
            for objective in level.objectives:
                self._set_weights(ahead)
                shown = self._shown(objective, images, labels)
                with self.passes.training():
                    loss, *right = OBJECTIVES[objective].loss(self.supernet, self.config.precision, *shown)
                    found = torch.autograd.grad(loss, [*self.alphas, *self.weights], allow_unused=True)
                row, slopes = flat(found[: len(self.alphas)]), found[len(self.alphas) :]
                depends = any(slope is not None for slope in slopes)  # not the cost, which no weight changes
                vector = [torch.zeros_like(w) if slope is None else slope for w, slope in zip(here, slopes, strict=True)]
                (loss, *right), row, vector = self._averaged([loss, *right], row, vector, len(images))
                if depends:
                    row = row - rate * self.hessian_vector(attacked, train_labels, here, vector, total)
                rows.append(row)
                losses.append(loss)
                measured |= _told(objective, loss, *right)
        finally:
            self._set_weights(here)
            with torch.no_grad():
                for buffer, saved in zip(self.supernet.buffers(), buffers, strict=True):
                    buffer.copy_(saved)
        return torch.stack(rows), torch.stack(losses), measured

    def hessian_vector(
        self, images: Tensor, labels: Tensor, weights: Sequence[Tensor], vector: Sequence[Tensor], total: int
    ) -> Float[Tensor, " parameters"]:
        """d2 L_train/(da dw) . vector at `weights`, by central differences of the alphas' gradient; leaves weights shifted.

        `images` are this process's share of a batch of `total`.
        """
        radius = SHIFT / flat(vector).norm().clamp_min(1e-12)
        sides = []
        for sign in (1, -1):
            self._set_weights([w + sign * radius * v for w, v in zip(weights, vector, strict=True)])
            with self.passes.training():
                loss = F.cross_entropy(self.passes.training_logits(images), labels)
                sides += self.group.mean([flat(torch.autograd.grad(loss, self.alphas))], total)
        return (sides[0] - sides[1]) / (2 * radius)

    def _averaged(
        self, measured: list[Tensor], row: Tensor, vector: list[Tensor], total: int
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Means over the processes, of tensors without a graph."""
        means = self.group.mean([*(each.detach() for each in measured), row, *vector], total)
        count = len(measured)
        return means[:count], means[count], means[count + 1 :]

    def _unrolled(self, here: Sequence[Tensor], gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """Where the next SGD step would lead: momentum and weight decay as the optimizer has them."""
        ahead = []
        for weight, value, gradient in zip(self.weights, here, gradients, strict=True):
            buffer = self.weights_optimizer.state.get(weight, {}).get("momentum_buffer")
            moved = gradient + self.config.weight_decay * value
            if buffer is not None:
                moved = moved + self.config.momentum * buffer
            ahead.append(value - rate * moved)
        return ahead

    @torch.no_grad()
    def _set_weights(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    def _split(self, flat: Tensor) -> tuple[Tensor, ...]:
        parts = flat.split([alpha.numel() for alpha in self.alphas])
        return tuple(part.view_as(alpha) for part, alpha in zip(parts, self.alphas, strict=True))

    # -- epochs ------------------------------------------------------------------------------------------------------

    def run_epoch(self) -> Iterator[Metrics]:
        """One pass over both halves in step, then the validation measurement and the epoch's genotype."""
        with diverging(self.epoch):
            yield from self._epoch()

    def _epoch(self) -> Iterator[Metrics]:
        number, stage = self.config.stage_at(self.epoch)
        if number != self.number:
            self._enter(number)
        begun, epochs = self.config.life(number)
        rate = self.config.weights_lr * self.schedule(self.epoch - begun, epochs)
        set_learning_rate(self.weights_optimizer, rate)
        set_learning_rate(self.alphas_optimizer, stage.architecture_lr)
        sums = yield from self._stepping(number)
        measured = yield from self._measuring(stage)
        self.epoch, self._within = self.epoch + 1, None
        means = {key: value / self.num_batches for key, value in sums.items() if not key.startswith("validation/")}
        rates = {"weights_lr": rate, "architecture_lr": stage.architecture_lr}
        self._finish_epoch({"epoch": self.epoch, "stage": number, **rates, **means}, measured)

    def _stepping(self, number: int) -> Generator[Metrics, None, dict[str, float]]:
        """The steps of an epoch; returns the sums of their metrics."""
        within = Within(self.noise_from) if self._within is None else self._within
        self._within = within

        def pairs() -> Iterator[Any]:
            return zip(self._batches(self.weights_half), self._batches(self.alphas_half), strict=False)

        for index, (weights_batch, alphas_batch) in within.rest_of(pairs, self.noise_from):
            metrics = self.step(weights_batch, alphas_batch)
            within.add(metrics)
            step = self.epoch * self.num_batches + index
            yield {"epoch": self.epoch + 1, "step": step, "stage": number, **metrics}
        return within.sums

    def _batches(self, half: Any) -> Batches:
        return Batches(half, self.config.batch_size, self.noise_from, self.augmentation, drop_last=True)

    def _measuring(self, stage: Stage) -> Generator[Metrics, None, Metrics]:
        """What the supernet is worth on the validation images; where paths are sampled, the one that the alphas prefer."""
        rule = self.config.selection
        if isinstance(rule, Ranking) and self.epoch + 1 == self.num_epochs:
            return (yield from self._ranking(rule))
        if isinstance(stage.upper_level, Sampling):
            alphas = dict(self.supernet.alphas.items())
            path = stage.upper_level.shown(self.config.space, self.allowed, alphas)
            return (yield from self._path_scores().measuring(path))
        # Where crafting is recorded, it is replayed, although it folds anew for each batch.
        attack: Any = self.passes.replayed_attack if self.passes.num_graphs else self.config.attack
        with torch.no_grad(), self.passes.rounding():
            folded = self.passes.folded()
        return (
            yield from measuring(
                folded, self.validation, attack, self.config.batch_size, self.seed, self.passes.rounding, self.group
            )
        )

    def _path_scores(self) -> PathScores:
        rule = self.config.selection
        return PathScores(
            self.supernet,
            self.passes,
            self.weights_half,
            self.validation,
            batch_size=self.config.batch_size,
            recalibration=rule.recalibration if isinstance(rule, Ranking) else Ranking.recalibration,
            seed=self.seed,
            group=self.group,
        )

    def _ranking(self, rule: Ranking) -> Generator[Metrics, None, Metrics]:
        """Measure sampled paths; the best becomes what the alphas say. Committed now and then, as it takes long."""
        space = self.config.space
        drawn_from, sampling = generator("ranking", self.seed), RandomPaths()
        attacked = self.num_epochs * self.num_batches * self.config.batch_size
        count = rule.num_samples(attacked, len(self.validation))
        paths = [sampling.draw(space, self.allowed, None, drawn_from) for _ in range(count)]
        if not self.supernet.restricted:
            self.passes.release()
        self.supernet.restrict(self.allowed)
        if not self.ranked:
            genotypes = [genotype_of(path, space, f"path {at}") for at, path in enumerate(paths, 1)]
            self.ranked = [{"genotype": replace(each, strengths=None).to_dict(), FILTERED: False} for each in genotypes]
            yield COMMIT
        yield from ranking(rule, self._path_scores(), paths, self.ranked)
        best = best_of(self.ranked)
        self.supernet.restrict(paths[best])
        self._set_alphas(alphas_of(paths[best]))
        return {key: value for key, value in self.ranked[best].items() if key in MEASURED}

    def _finish_epoch(self, metrics: Metrics, measured: Metrics) -> None:
        if isinstance(self.config.stages[self.number - 1].upper_level, Sampling) and not self.ranked:
            self.supernet.restrict(self.allowed)
        most_skips = None if self.ranked else self.config.most_skips
        genotype = self.supernet.genotype(f"{self.data_name} epoch {self.epoch}", most_skips)
        self.alphas_by_epoch.append(to_cpu(dict(self.supernet.alphas.items())))
        self.genotypes.append(genotype)
        self.scores.append(measured["adversarial_accuracy"])
        metrics |= {f"validation/{key}": value for key, value in measured.items()}
        metrics |= {f"entropy/{kind}": value for kind, value in self.supernet.entropy().items()}
        metrics |= {f"skips/{kind}": genotype.skips(kind) for kind in genotype.cells}
        metrics["genotype"] = genotype.to_dict()
        collapsed = collapse(genotype)
        if collapsed:
            metrics["warning"] = collapsed
        self._measured = metrics
        if self.epoch == self.num_epochs:
            self.passes.release()

    def epoch_metrics(self) -> Metrics:
        """Means over the steps, validation scores, entropy, genotype and its skips."""
        return self._measured

    @property
    def chosen_epoch(self) -> int:
        """The epoch that the selection rule picks from those done so far."""
        if not self.scores:
            raise WorkbookError("no epoch of the search is done yet, so there is no architecture to choose")
        return self.config.selection(self.scores)

    def chosen(self, name: str = "found") -> Genotype:
        """The genotype of the chosen epoch."""
        genotype = self.genotypes[self.chosen_epoch - 1]
        ranked = f"best of {len(self.ranked)} ranked paths, " if self.ranked else ""
        return Genotype(
            name=name,
            cells=genotype.cells,
            strengths=genotype.strengths,
            source=f"search on {self.data_name}, {ranked}epoch {self.chosen_epoch} of {self.num_epochs}",
        )

    def settings(self) -> Any:
        """What a checkpoint must agree with."""
        images = [len(self.weights_half), len(self.alphas_half)]
        return {"config": self.config, "seed": self.seed, "data": self.data_name, "images": images}

    def state_dict(self) -> dict[str, Any]:
        """Weights, alphas, both optimizers, random numbers, what upper levels remember, and what was found in each epoch."""
        return {
            "epoch": self.epoch,
            "stage": self.number,
            "allowed": dict(self.allowed),
            "ranked": [dict(row) for row in self.ranked],
            "within": None if self._within is None else self._within.state_dict(),
            "supernet": to_cpu(self.supernet.state_dict()),
            "weights_optimizer": to_cpu(self.weights_optimizer.state_dict()),
            "alphas_optimizer": to_cpu(self.alphas_optimizer.state_dict()),
            "generator": self.noise_from.get_state(),
            "memories": to_cpu(self.memories),
            "alphas_by_epoch": self.alphas_by_epoch,
            "genotypes": [genotype.to_dict() for genotype in self.genotypes],
            "scores": self.scores,
            "measured": self._measured,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]
        number = state.get("stage", self.config.stage_at(max(0, self.epoch - 1))[0])
        if self.config.depth(number) != self.config.depth(self.number):
            self.passes.release()
            self._build(number)
        self.allowed = state.get("allowed", everything(self.config.space))
        self.ranked = [dict(row) for row in state.get("ranked", [])]
        self._within = Within.of(state.get("within"), self.noise_from)
        self._set_up(number)
        self.supernet.load_state_dict(state["supernet"])
        self.weights_optimizer.load_state_dict(state["weights_optimizer"])
        self.alphas_optimizer.load_state_dict(state["alphas_optimizer"])
        self.noise_from.set_state(state["generator"])
        self.memories = {at: memory.to(self._memory_device(at)) for at, memory in state.get("memories", {}).items()}
        self.alphas_by_epoch = [dict(alphas) for alphas in state["alphas_by_epoch"]]
        self.genotypes = [Genotype.from_dict(written) for written in state["genotypes"]]
        self.scores, self._measured = list(state["scores"]), dict(state["measured"])

    def _memory_device(self, number: int) -> torch.device:
        """What a sampling remembers stays on the CPU, where it draws."""
        sampling = isinstance(self.config.stages[number - 1].upper_level, Sampling)
        return torch.device("cpu") if sampling else self.device

    def export(self, folder: Path) -> None:
        """Write alphas.npz, and at the end the chosen genotype and what it was ranked with, beside the histories."""
        arrays: dict[str, Any] = {
            kind: np.stack([alphas[kind].numpy() for alphas in self.alphas_by_epoch]) for kind in self.config.space.kinds
        }
        arrays["operations"] = np.array(self.config.space.operations)
        arrays["edges"] = np.array([f"{source}->{node}" for source, node in self.config.space.edges])
        if self.config.most_skips is not None:
            arrays["most_skips"] = np.array(self.config.most_skips)  # without it figures would frame other edges than are kept
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / "alphas.npz", buffer.getvalue())
        if self.epoch == self.num_epochs:
            self.chosen().save(folder / "genotype.json")
            if self.ranked:
                best = best_of(self.ranked)
                write_jsonl(folder / "ranking.jsonl", [row | {"chosen": at == best} for at, row in enumerate(self.ranked)])


def collapse(genotype: Genotype) -> str:
    """A sentence about cells that are mostly identities; empty where there is none."""
    found = []
    for kind, cell in genotype.cells.items():
        edges = sum(len(node) for node in cell)
        if genotype.skips(kind) > COLLAPSE_SHARE * edges:
            found.append(f"{genotype.skips(kind)} of the {edges} edges of the {kind} cell are identities")
    return f"collapse: {'; '.join(found)}" if found else ""


def read(scalars: Scalars) -> dict[str, float]:
    """The numbers: the one place of a step that waits for the device."""
    if not scalars:
        return {}
    return dict(zip(scalars, torch.stack([each.double() for each in scalars.values()]).tolist(), strict=True))


def _told(objective: str, loss: Tensor, *right: Tensor) -> Scalars:
    """What a step tells of an objective: its loss, and its accuracy where it has one."""
    return {f"validation/{objective}_loss": loss, **{f"validation/{objective}_accuracy": each for each in right}}


def _weighed(level: UpperLevel, jacobian: Tensor, weights: Tensor) -> Scalars:
    """What a step tells of its gradients: lengths, the angle between them, and their weights."""
    told = {f"gradient_norm/{name}": row.norm() for name, row in zip(level.objectives, jacobian, strict=True)}
    if len(jacobian) == 2:
        told["gradient_cosine"] = F.cosine_similarity(jacobian[0].double(), jacobian[1].double(), dim=0)
    if len(jacobian) > 2 or isinstance(level, Remembering):
        told |= {f"weight/{name}": weight for name, weight in zip(level.objectives, weights, strict=True)}
    elif isinstance(level, MGDA):
        told["gamma"] = weights[0] / (level.scales[0] if level.scaling == "none" else 1.0)
    return told


def uniform_entropy(space: SearchSpace) -> float:
    """The entropy of an undecided edge, in nats."""
    return math.log(len(space.operations))
