"""Makes two toy runs with the library of the checkout it is started in, by `PYTHONPATH=. python make_folders.py FOLDER`.

`stopped` is a search that was stopped within its second epoch; `finished` is searched, retrained and evaluated by that library's
notebooks.
"""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import torch

from dsara_lib.engine import run_epochs
from dsara_lib.experiment import open_experiment
from dsara_lib.presets import make_preset

SEARCH = (
    *("num_cells=5", "channels=2", "stages.0.epochs=1", "stages.1.epochs=1", "batch_size=20", "validation_images=20"),
    *("space.operations=max_pool_3x3,skip_connect", "space.num_nodes=2"),
)
TRAINING = ("training.epochs=1", "num_cells=5", "channels=2", "baselines=", "natural_twin=false")
EVALUATION = {  # as far as the library has them
    "test_images": "20",
    "curve_images": "20",
    "curve": "[1.0,8.0]",
    "attacks": "FGSM,PGD20",
    "probe_images": "8",
    "black_box_attacks": "PGD20",
}


def changes() -> str:
    """Everything as small as it can be."""
    known = {field.name for field in fields(make_preset("demo").evaluation)}
    evaluation = [f"evaluation.{name}={value}" for name, value in EVALUATION.items() if name in known]
    return " ".join([*(f"search.{each}" for each in SEARCH), *TRAINING, *evaluation])


def stop_a_search(results: Path) -> None:
    """After the first step of the second epoch."""
    experiment = open_experiment(
        "stopped", profile="demo", data="digits", limit=12, changes=changes(), device="cpu", results=results
    )
    events = run_epochs(experiment.searcher(), experiment.search_folder)
    for event in events:
        if event.kind == "step" and event.epoch == 1:
            break
    events.close()


def finish(results: Path) -> None:
    """By the notebooks."""
    command = [sys.executable, "-m", "dsara_lib", "run", "--profile", "demo", "--data", "digits", "--limit", "12"]
    command += ["--set", changes(), "--run", "finished", "--device", "cpu", "--results", str(results)]
    subprocess.run(command, check=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stop_a_search(Path(sys.argv[1]))
    finish(Path(sys.argv[1]))
