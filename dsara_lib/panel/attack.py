"""The attack explorer of notebook 04: one image, one attack on one network, and what it changes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import torch
from torch import Tensor, nn

from ..attacks import ATTACKS
from ..data import eps_text, unit_interval
from ..evaluation.evaluator import answers
from ..experiment import Experiment
from ..presets import attacks_at
from ..shapes import Float
from .choices import Choice, Shown, View, explore
from .pictures import drawing, notes, row

if TYPE_CHECKING:
    from .explorer import Explorer

FIRST_ATTACK, FAST = "PGD20", ("FGSM", "BIM", "MI-FGSM", "PGD20", "PGD100", "PGD20-any", "PGD100-any")
FEW_STEPS = 20  # computed without being asked for, on one image
SHARES_OF_EPS = (0, 0.25, 0.5, 1, 1.5, 2, 4)
STEPS = (1, 2, 5, 10, 20, 50, 100)
NUM_IMAGES, MOST_CLASSES = 50, 10
PICTURE = 190  # pixels on the page, about, whatever the image has
OWN = 0  # steps: those of the attack


def explore_attacks(experiment: Experiment, networks: Mapping[str, nn.Module], *, interactive: bool = True) -> Shown | Explorer:
    """Choose a network, a test image and an attack; see the attacked image and how the answers change."""
    split, classes, eps = experiment.test(NUM_IMAGES), experiment.data.classes, experiment.data.eps
    images, labels = unit_interval(split.images), split.labels
    all_attacks = replace(experiment.preset.evaluation, attacks=tuple(ATTACKS))  # with the profile's budgets
    radii = {
        f"{eps_text(each)}{' (as evaluated)' if share == 1 else ''}": each for share in SHARES_OF_EPS if (each := share * eps) <= 1
    }
    choices = {
        "network": Choice(name="network", options={name: name for name in networks}, first=next(iter(networks))),
        "image": Choice(name="image", options={f"{i}: {classes[label]}": i for i, label in enumerate(labels.tolist())}, first=0),
        "attack": Choice(name="attack", options={name: name for name in ATTACKS}, first=FIRST_ATTACK),
        "eps": Choice(name="eps", options=radii, first=eps),
        "steps": Choice(name="steps", options={"its own": OWN} | {str(each): each for each in STEPS}, first=OWN),
    }

    def draw(network: str, image: int, attack: str, eps: float, steps: int, asked: bool = False) -> View:
        chosen, idle = with_steps(attacks_at(all_attacks, eps)[attack], steps)
        if not (asked or is_fast(attack, chosen)):
            words = f"{attack} takes its time: press Craft to compute it"
            return View(notes([words]), words, idle)
        crafted = craft(networks[network], images[image], int(labels[image]), chosen, experiment.seed)
        return attacked(crafted, classes, f"{network}, image {image}, {attack}", idle)

    def press(explorer: Explorer) -> None:
        explorer.say("crafting …")
        explorer.paint(asked=True)

    return explore(choices, draw, buttons={"Craft": press}, interactive=interactive)


def with_steps(attack: Any, steps: int) -> tuple[Any, tuple[str, ...]]:
    """The attack with so many steps, and which choices it does not know."""
    if not hasattr(attack, "steps"):
        return attack, ("steps",)
    return (attack if steps == OWN else replace(attack, steps=steps)), ()


def is_fast(name: str, attack: Any) -> bool:
    """Whether one image takes a moment only."""
    return name in FAST and getattr(attack, "steps", 1) <= FEW_STEPS


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """An image before and after an attack, and the network's logits for both."""

    image: Float[Tensor, "c h w"]
    attacked: Float[Tensor, "c h w"]
    label: int
    eps: float
    before: Float[Tensor, " classes"]
    after: Float[Tensor, " classes"]

    @property
    def change(self) -> float:
        """Of the pixel that changed most."""
        return (self.attacked - self.image).abs().max().item()


def craft(network: nn.Module, image: Float[Tensor, "c h w"], label: int, attack: Any, seed: int) -> Crafted:
    """Attack one image."""
    labels = torch.tensor([label], device=image.device)
    changed = attack(network, image[None], labels, seed=seed)
    before, after = answers(network, torch.cat([image[None], changed]), labels.repeat(2)).cpu()
    return Crafted(image=image.cpu(), attacked=changed[0].cpu(), label=label, eps=attack.eps, before=before, after=after)


def attacked(of: Crafted, classes: Sequence[str], what: str, idle: tuple[str, ...] = ()) -> View:
    """Both images, what was added, and the answers."""
    said = verdict(of, classes)
    largest = f"largest change of a pixel {of.change:.4f}, allowed {of.eps:.4f}"
    if "/" in eps_text(of.eps):
        largest += f" ({eps_text(of.eps)})"
    if of.change > of.eps + 1e-6:
        largest += ": more than allowed"
    added = perturbation(of)
    scale = f"what was added, ×{0.5 / of.eps:.3g}" if of.eps else "nothing may be added"
    pictures = [
        ("the image", png(of.image, f"test image, {classes[of.label]}")),
        (scale, png(added, "the perturbation; grey is no change, white brighter, black darker")),
        ("attacked", png(of.attacked, "the attacked image")),
    ]
    shown = most_probable(of)
    names = [f"{classes[i]} (true)" if i == of.label else classes[i] for i in shown]
    confidences = [logits.softmax(0)[shown].tolist() for logits in (of.before, of.after)]
    logits = [each[shown].tolist() for each in (of.before, of.after)]
    caption = "{}: upper bar the image, lower bar attacked"
    charts = [
        (caption.format("confidence"), bars("confidence of each class", names, *confidences)),
        (caption.format("logits"), bars("logit of each class", names, *logits)),
    ]
    verdict_line = f'<div class="where" role="status"><b>{escape(said)}</b></div>'
    html = verdict_line + notes([f"{what}: {largest}"]) + row(pictures, "image") + row(charts)
    return View(html, f"{what}: {said}; {largest}", idle)


def verdict(of: Crafted, classes: Sequence[str]) -> str:
    """Whether the network was fooled, in words."""
    (before, sure), (after, sure_after) = (_best(each) for each in (of.before, of.after))
    if before != of.label:
        return f"Wrong without any attack: taken for {classes[before]} ({sure:.0%}); it is {classes[of.label]}"
    if after == of.label:
        return f"Not fooled: taken for {classes[before]} as it is ({sure:.0%}) and attacked ({sure_after:.0%})"
    return f"Fooled: taken for {classes[before]} as it is ({sure:.0%}), for {classes[after]} attacked ({sure_after:.0%})"


def _best(logits: Tensor) -> tuple[int, float]:
    confidence = logits.softmax(0)
    return int(confidence.argmax()), confidence.max().item()


def most_probable(of: Crafted) -> list[int]:
    """The classes to show: all where they are few, else the true one and those most believed before or after; in their order."""
    believed = torch.maximum(of.before.softmax(0), of.after.softmax(0))
    believed[of.label] = 2  # more than any
    return sorted(believed.topk(min(MOST_CLASSES, len(believed))).indices.tolist())


def perturbation(of: Crafted) -> Float[Tensor, "c h w"]:
    """What was added, so that -eps is black, nothing grey, and +eps white."""
    return ((of.attacked - of.image) / (2 * of.eps or 1) + 0.5).clamp(0, 1)


def png(image: Float[Tensor, "c h w"], words: str) -> str:
    """The image enlarged a whole number of times, every pixel a square."""
    from PIL import Image

    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    times = max(1, PICTURE // max(pixels.shape[:2]))
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture = picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    picture.save(written := io.BytesIO(), format="png")
    source = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="{source}" alt="{escape(words, {chr(34): "&quot;"})}" {size}>'


WIDTH, LEFT, RIGHT, LINE = 340, 88, 34, 22


def bars(what: str, names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> str:
    """Two bars for each name, from zero, with their numbers."""
    low, high = min(0.0, *before, *after), max(0.0, *before, *after)
    left = LEFT + (RIGHT if low < 0 else 0)  # room for the numbers of negative ones
    scale = (WIDTH - left - RIGHT) / ((high - low) or 1)
    zero = left - low * scale
    parts = []
    for i, (name, pair) in enumerate(zip(names, zip(before, after, strict=True), strict=True)):
        weight = ' font-weight="bold"' if name.endswith("(true)") else ""
        parts.append(f'<text x="{LEFT - 6}" y="{LINE * i + 14}" text-anchor="end"{weight}>{escape(_clipped(name))}</text>')
        for j, (value, color) in enumerate(zip(pair, ("--blue", "--vermillion"), strict=True)):
            y, end = LINE * i + 2 + 9 * j, zero + value * scale
            place = f'x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="8"'
            parts.append(f'<rect {place} style="fill:var({color})"/>')
            at, anchor = (end + 3, "start") if value >= 0 else (end - 3, "end")
            parts.append(f'<text x="{at:.1f}" y="{y + 7.5}" text-anchor="{anchor}">{value:.2f}</text>')
    height = LINE * len(names)
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}" stroke="var(--grey)" stroke-width=".8"/>')
    return drawing(WIDTH, height, what, parts)


def _clipped(name: str, most: int = 17) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
