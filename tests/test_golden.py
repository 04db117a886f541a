"""Ten steps of a tiny search and of a training in float64 are those of the day on which they were written down.

They guard refactorings: another order of the two levels, another sign or rate, a random number drawn more or less all show. What
is meant to change them rewrites them: `DSARA_REWRITE_GOLDEN=1 python3 -m pytest tests/test_golden.py`, and says why in its commit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SEARCH, TRAIN, toy_blueprint, toy_data, toy_genotype

from dsara_lib import data, training
from dsara_lib.architecture import SearchSpace
from dsara_lib.attacks import PGD
from dsara_lib.search import Searcher
from dsara_lib.training import Trainer

STEPS = 10
SPACE = SearchSpace(operations=("sep_conv_3x3", "max_pool_3x3", "skip_connect"), num_nodes=2)
ATTACK = PGD(eps=0.1, step_size=0.04, steps=2)
# Far above what float64 rounds differently from one CPU or torch to another, far below what any other step would do.
TOLERANCE = {"rel_tol": 1e-7, "abs_tol": 1e-10}


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is made in double precision, images too."""
    for module in (data, training):
        monkeypatch.setattr(module, "unit_interval", lambda images: images.double() / 255)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def told(tensors: Iterable[torch.Tensor]) -> list[float]:
    """Length of all numbers together, and a sum in which each has another weight."""
    flat = torch.cat([each.detach().flatten() for each in tensors])
    assert flat.dtype == torch.float64
    return [flat.norm().item(), (flat * torch.arange(len(flat)).double().cos()).sum().item()]


def searched() -> Iterator[dict[str, Any]]:
    """What each step of a search measures, the alphas after it, and the weights in short."""
    stages = tuple(replace(stage, epochs=2) for stage in SEARCH.stages)
    searcher = Searcher(toy_data(size=8), replace(SEARCH, space=SPACE, attack=ATTACK, stages=stages, batch_size=4))
    for _ in range(searcher.num_epochs):
        for metrics in filter(None, searcher.run_epoch()):
            alphas = {kind: each.flatten().tolist() for kind, each in searcher.supernet.alphas.items()}
            yield {**metrics, "alphas": alphas, "weights": told(searcher.weights)}


def trained() -> Iterator[dict[str, Any]]:
    """What each step of a training measures, and the weights in short."""
    blueprint = toy_blueprint(space=SPACE, genotype=toy_genotype(SPACE), drop_path=0.2)
    trainer = Trainer(blueprint, toy_data(size=8), replace(TRAIN, attack=ATTACK, held_out_attack=ATTACK, cutout=2))
    for _ in range(trainer.num_epochs + 1):
        for metrics in filter(None, trainer.run_epoch()):
            yield {**metrics, "weights": told(trainer.weights), "statistics": told(b.double() for b in trainer.network.buffers())}


def unlike(found: Any, written: Any, at: str = "") -> list[str]:
    """Where they differ by more than rounding."""
    if isinstance(written, dict) and isinstance(found, dict) and found.keys() == written.keys():
        return [line for key in written for line in unlike(found[key], written[key], f"{at}/{key}")]
    if isinstance(written, list) and isinstance(found, list) and len(found) == len(written):
        return [line for i in range(len(written)) for line in unlike(found[i], written[i], f"{at}/{i}")]
    numbers = isinstance(found, float | int) and isinstance(written, float | int)
    same = math.isclose(found, written, **TOLERANCE) if numbers else found == written
    return [] if same else [f"{at}: {found}, written down was {written}"]


@pytest.mark.parametrize("steps", [searched, trained], ids=lambda steps: steps.__name__)
def test_ten_steps_are_those_that_were_written_down(steps: Any) -> None:
    path = Path(__file__).parent / "golden" / f"{steps.__name__}.json"
    found = [step for step, _ in zip(steps(), range(STEPS), strict=False)]
    assert len(found) == STEPS
    if "DSARA_REWRITE_GOLDEN" in os.environ:
        path.write_text("[\n" + ",\n".join(json.dumps(step) for step in found) + "\n]\n", encoding="utf-8")
    assert unlike(found, json.loads(path.read_text(encoding="utf-8"))) == []


def test_a_number_that_is_off_by_a_millionth_is_found() -> None:
    written = [{"loss": 1.0, "alphas": {"robust": [0.5, 0.25]}}]
    assert unlike([{"loss": 1 + 1e-9, "alphas": {"robust": [0.5, 0.25]}}], written) == []
    assert unlike([{"loss": 1 + 1e-6, "alphas": {"robust": [0.5]}}], written)[0].startswith("/0/loss: 1.000001")
    assert len(unlike([{"loss": 1 + 1e-6, "alphas": {"robust": [0.5]}}], written)) == 2
