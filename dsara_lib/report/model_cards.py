"""A model card for each network of a run: what it is, how it was trained, what it withstands, and what was not tried.

Written from the run folder alone, as README.md beside the weights, so that it never says other numbers than the tables there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..architecture import blueprint_cost, blueprint_from_dict
from ..data import eps_text
from ..evaluation import NATURAL
from ..runs import write_atomically
from ..soundness import remark
from .collection import FOUND
from .page import percent
from .record import LAST, Record, read
from .sections import told

CARD = "README.md"
USE = """```python
from dsara_lib.training import load_network

network = load_network("results/{run}/networks/{name}/best")  # JSON and safetensors: nothing is executed
logits = network(images)  # images [n, {channels}, {size}, {size}] in [0, 1], nothing normalised; logits [n, {classes}]
```"""


def write_model_cards(run_folder: str | Path) -> list[Path]:
    """Write a card beside the weights of each trained network of a run; their paths. Raises FileNotFoundError or WorkbookError."""
    record = read(Path(run_folder).resolve())
    paths = []
    for name in (name for name in record.cards if not name.endswith(f"-{LAST}")):
        paths.append(record.folder / "networks" / name / CARD)
        write_atomically(paths[-1], model_card(record, name))
    return paths


def model_card(record: Record, name: str) -> str:
    """The card of a network, in Markdown."""
    card = record.cards[name]
    data = card["data"]
    use = {"channels": card["blueprint"].get("in_channels", 3), "size": data["image_size"], "classes": len(data["classes"])}
    parts = [
        f"# {plain(name)}, of run {plain(record.name)}",
        what_it_is(record, name),
        markdown_table(["", ""], [[key, value] for key, value in facts(record, name)]),
        "## What it withstands",
        *withstood(record, name),
        "## How to use it",
        USE.format(run=record.name, name=name, **use),
        "## What was not tried",
        "\n".join(f"- {each}" for each in limits(record, name)),
    ]
    return "\n\n".join(parts) + "\n"


def what_it_is(record: Record, name: str) -> str:
    """In two sentences."""
    card = record.cards[name]
    data, attack = card["data"], card["training"].get("attack")
    against = f"against linf attacks with eps {eps_text(attack['eps'])}" if attack else "on clean images, as a comparison"
    origin = "Its architecture was published; only its weights are ours."
    if name.startswith(FOUND):
        source = record.source
        origin = "Its cells were searched in this run." if source is None else f"Its architecture is that {plain(source.about)}."
    classes = [str(each) for each in data["classes"]]
    named = ", ".join(classes) if len(classes) <= 20 else f"{', '.join(classes[:5])} and {len(classes) - 5} more"
    return f"A classifier of {len(classes)} kinds of images ({plain(named)}), trained {against}. {origin}"


def facts(record: Record, name: str) -> Iterator[tuple[str, str]]:
    """Architecture, data, training, weights, and what it was made with."""
    card = record.cards[name]
    data, training = card["data"], card["training"]
    blueprint = blueprint_from_dict(card["blueprint"], name)
    cost = blueprint_cost(blueprint, data["image_size"])
    yield "architecture", f"{blueprint.size}; {cost.parameters:,} parameters, {cost.multiply_adds:,} multiply-adds"
    if genotype := card["blueprint"].get("genotype"):
        yield "cells from", str(genotype.get("source") or genotype.get("name"))
    yield "trained on", f"{data['images']:,} images of {data['name']}, {data['image_size']}x{data['image_size']} pixels"
    yield "training", trained(training)
    yield "weights", ", ".join(filter(None, [chosen(card), stored(record, name)]))
    seconds = sum(epoch.get("seconds", 0.0) for epoch in record.training.get(name, []))
    yield "seed and time", f"{card.get('seed', 'unknown')}; {seconds / 60:,.0f} min by the clock"
    yield "made with", made_with(record.environment, str(record.card.get("library", "")))


def trained(training: Mapping[str, Any]) -> str:
    """How, in a line."""
    parts = [f"{training['epochs']} epochs", f"batch {training['batch_size']}"]
    parts.append(
        f"SGD at {training['learning_rate']:g} ({training['schedule']['type']}), weight decay {training['weight_decay']:g}"
    )
    attack = training.get("attack")
    if attack:
        step = eps_text(attack["step_size"])
        parts.append(f"PGD of {attack['steps']} steps of {step} in eps {eps_text(attack['eps'])} on every batch")
    return "; ".join(parts)


def chosen(card: Mapping[str, Any]) -> str:
    """Which epoch, and by what."""
    held = card["held_out"].get("validation/adversarial_accuracy")
    by = "" if held is None else f" ({percent(held)} adversarial accuracy on held-out training images)"
    return f"{card['which']}, epoch {card['epoch']} of {card['training']['epochs']}{by}"


def stored(record: Record, name: str) -> str:
    """Precision, size and checksum of the file."""
    path = record.folder / "networks" / name / "best" / "weights.safetensors"
    if not path.is_file():
        return ""
    data = path.read_bytes()
    precision = record.cards[name]["training"].get("stored", "float32")
    return f"{precision}, {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def made_with(environment: Mapping[str, Any], library: str) -> str:
    """Library, torch and device."""
    devices = ", ".join(map(str, environment.get("cuda_devices") or ())) or f"CPU ({environment.get('cpu', 'unknown')})"
    versions = [f"{name} {environment[name]}" for name in ("torch", "python") if name in environment]
    return ", ".join([f"dsara_lib {library}", *versions, devices])


def withstood(record: Record, name: str) -> Iterator[str]:
    """Its accuracies with all that they depend on, and what the soundness board says of them."""
    rows = [row for row in record.white_box if row["network"] == name]
    if not rows:
        yield "It has not been attacked yet: notebook 04 does."
        return
    head = ["attack", "eps", "steps", "right", "accuracy (95 %, Wilson)"]
    yield markdown_table(head, [[row["attack"], *radius_and_steps(row), right(row), told(row)] for row in rows])
    images = f"Test images of {rows[0]['data']}; none of them was used to choose anything."
    yield f"Soundness board: {board_told(record, name)}. {images}"


def radius_and_steps(row: Mapping[str, Any]) -> tuple[str, str]:
    """Empty for clean images."""
    if row["attack"] == NATURAL:
        return "", ""
    amounts = {"steps": row.get("steps"), "targets": row.get("targets"), "queries": row.get("queries")}
    known = [f"{value} {key}" for key, value in amounts.items() if value is not None]
    return eps_text(row["eps"]), ", ".join(known) or "1 step"


def right(row: Mapping[str, Any]) -> str:
    """A count of images."""
    return f"{row['correct']:,} of {row['images']:,}"


def board_told(record: Record, name: str) -> str:
    """What the soundness board says of a network, in few words."""
    return remark(record.boards[name]) or "all checks pass" if name in record.boards else "not run"


def limits(record: Record, name: str) -> Iterator[str]:
    """What nobody should conclude from the card."""
    rows = [row for row in record.white_box if row["network"] == name]
    if rows:
        radius = eps_text(max(row["eps"] for row in rows))
        yield f"Other changes than linf ones up to eps {radius}: other norms, rotations, noise, other cameras, other classes."
        yield "Accuracy under attack is an upper bound: a better attack can find more."
    limit = record.settings.get("limit")
    few = f" and {limit:,} images per class" if limit else ""
    if record.settings.get("profile") not in ("paper", "published-code"):
        yield f"The paper's scale: profile {record.settings.get('profile')}{few} is smaller, and so are the numbers."
    yield "Any use beyond research: it is made to compare architectures, not to decide anything about people or their safety."


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(map(plain, head)), ["---"] * len(head), *(list(map(plain, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text that may come from a stranger's folder, as Markdown that shows it and makes nothing of it."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))
