"""The same seed gives the same bits: what that depends on is told, and on a GPU it can be asked for (docs/determinism.md)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import SEARCH, TRAIN, toy_blueprint, toy_data

from dsara_lib import notebooks
from dsara_lib.architecture import SearchSpace
from dsara_lib.capture import DETERMINISTIC, compute_as_asked
from dsara_lib.experiment import find_experiment, open_experiment
from dsara_lib.search import Searcher
from dsara_lib.training import Trainer


def learned(device: str) -> str:
    """A checksum of what a small search and a training learn there, with every operation of the paper."""
    data = toy_data(size=8)
    stages = tuple(replace(stage, epochs=1) for stage in SEARCH.stages)
    searcher = Searcher(data, replace(SEARCH, space=SearchSpace(num_nodes=2), stages=stages), device=device)
    trainer = Trainer(toy_blueprint(drop_path=0.2), data, replace(TRAIN, cutout=2), device=device)
    bits = hashlib.sha256()
    for job, epochs, tensors in ((searcher, 2, [*searcher.weights, *searcher.alphas]), (trainer, 1, trainer.weights)):
        for _ in range(epochs):
            for _ in job.run_epoch():
                pass
        for tensor in tensors:
            bits.update(tensor.detach().cpu().numpy().tobytes())
    return bits.hexdigest()


@pytest.fixture
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def test_what_is_learned_has_the_same_bits_each_time() -> None:
    once = learned("cpu")
    torch.manual_seed(99)  # somebody else's random numbers
    assert learned("cpu") == once


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_two_processes_that_were_asked_learn_the_same_bits() -> None:
    script = (
        "from dsara_lib.capture import compute_as_asked; compute_as_asked(); import test_determinism as t; print(t.learned('cuda'))"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here)])
    command, asked = [sys.executable, "-c", script], {**os.environ, DETERMINISTIC: "1", "PYTHONPATH": path}
    told = [subprocess.run(command, env=asked, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert told[0] == told[1] != ""


@pytest.mark.parametrize(("value", "asked"), [("1", True), ("0", False), ("", False), (None, False)])
def test_repeatable_algorithms_are_chosen_only_where_the_environment_asks(
    settings_restored: None, value: str | None, asked: bool
) -> None:
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    environment = {} if value is None else {DETERMINISTIC: value}
    assert compute_as_asked(environment) == asked == torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == (not asked) and ("CUBLAS_WORKSPACE_CONFIG" in environment) == asked


def test_a_notebook_computes_as_asked_and_its_run_says_so(
    settings_restored: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DETERMINISTIC, "1")
    torch.use_deterministic_algorithms(False)
    given = {"RUN": "one", "PROFILE": "demo", "DATA": "digits", "LIMIT": 4, "CHANGES": "", "DEVICE": "cpu"}
    given["RESULTS"] = os.path.relpath(tmp_path, notebooks.FOLDER)
    opened = notebooks.begin({"__annotations__": {name: type(value).__name__ for name, value in given.items()}, **given})
    assert torch.are_deterministic_algorithms_enabled()
    assert json.loads(opened.run.path("environment.json").read_text())["deterministic"] is True


@pytest.mark.parametrize(("profile", "told"), [("paper", True), ("demo", False)], ids=["as many as there are", "of the profile"])
def test_going_on_with_another_torch_or_number_of_threads_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: str, told: bool
) -> None:
    made = open_experiment("one", profile=profile, limit=4, device="cpu", results=tmp_path)
    assert made.changed_since_begun() == ""
    path = made.run.path("environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "2.8.0", "threads": 64}))
    names = {"__annotations__": {"RUN": "str", "DEVICE": "str", "RESULTS": "str"}, "RUN": "one", "DEVICE": "cpu"}
    notebooks.begin(names | {"RESULTS": os.path.relpath(tmp_path, notebooks.FOLDER)})
    few = ("steps of", "held-out images")  # what is said of so few images
    (line,) = (each for each in capsys.readouterr().out.splitlines() if not any(words in each for words in few))
    assert (
        line.startswith("warning: what follows may differ in its last bits")
        and f"torch 2.8.0 then, {torch.__version__} now" in line
    )
    assert ("threads 64 then, 1 now" in line) == told
    path.unlink()
    assert find_experiment("one", device="cpu", results=tmp_path).changed_since_begun() == ""
