"""The runs that are committed in `results/`: whole, small, and what they say of their networks is true of their weights.

Where a run's images are at hand (`data/` here, `shared/data` beside this folder, or DSARA_DATA_ROOT) each network is attacked
again on a slice of the test images; without them, its logits for images made from a formula are those of the day it was committed.
`DSARA_REWRITE_GOLDEN=1` writes these down anew.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch

from dsara_lib.architecture import Genotype
from dsara_lib.attacks import make_attack
from dsara_lib.data import as_images, unit_interval
from dsara_lib.evaluation import digest, image_noise, predict, wilson
from dsara_lib.experiment import Experiment, find_experiment
from dsara_lib.report import model_card, readme_part
from dsara_lib.report.readme import BEGIN, END, figures_of
from dsara_lib.report.record import Record, read
from dsara_lib.training import load_card, load_network

ROOT = Path(__file__).parents[1]
SHOWN: tuple[str, ...] = ("cpu-cifar10", "cpu-cifar100-from-cpu-cifar10")  # in the README
RUNS = (*SHOWN, "cpu-tiny-imagenet-from-cpu-cifar10")
GOLDEN = Path(__file__).parent / "golden" / "reference_networks.json"
NATURAL, ROBUST = 100, 32  # test images that are looked at again
FEW = 10  # logits of an image that are kept
MOST_BYTES = 12 * 2**20  # of a network's weights
NETWORKS = [(run, path.name) for run in RUNS for path in sorted((ROOT / "results" / run / "networks").glob("*"))]


@cache
def record(run: str) -> Record:
    return read(ROOT / "results" / run)


def patterned(channels: int, size: int) -> torch.Tensor:
    """Eight images in [0, 1] that no generator of random numbers decides."""
    n, c, h, w = torch.meshgrid(*(torch.arange(float(length)) for length in (8, channels, size, size)), indexing="ij")
    return 0.5 + 0.5 * torch.sin((n + 1) * (0.3 * h + 0.2 * w) + c)


@pytest.mark.parametrize("run", RUNS)
def test_a_reference_run_is_whole_and_has_alphas_of_every_epoch(run: str) -> None:
    found, settings = record(run), record(run).preset
    assert found.troubles == []
    epochs = sum(stage["epochs"] for stage in settings["search"]["stages"]) if found.source is None else 0
    assert len(found.search.epochs) == epochs
    lengths = {len(alphas) for kind, alphas in found.alphas.items() if kind in ("accurate", "robust", "reduction")}
    assert lengths == ({epochs + 1} if epochs else set())
    assert Genotype.load(found.folder / "search" / "genotype.json") == found.genotype
    names = {"found", *settings["baselines"]}
    assert names == {name for _, name in NETWORKS if _ == run} and names <= {row["network"] for row in found.white_box}
    assert names <= set(found.boards) and found.matrices and found.curve
    assert next(iter(found.boards)) == "found"  # boards stand in the table's order
    assert (found.folder / "report.html").is_file()


@pytest.mark.parametrize(("run", "name"), NETWORKS)
def test_a_card_and_the_tables_say_the_same_of_weights_that_are_small(run: str, name: str) -> None:
    folder = ROOT / "results" / run / "networks" / name
    assert (folder / "best" / "weights.safetensors").stat().st_size <= MOST_BYTES
    measured = {row["attack"]: row["accuracy"] for row in load_card(folder / "best")["measured"]}
    assert measured == {row["attack"]: row["accuracy"] for row in record(run).white_box if row["network"] == name}
    evaluation = record(run).evaluations[name]
    assert measured == {attack: pytest.approx(evaluation.accuracy(attack)) for attack in evaluation.predictions}
    assert (folder / "README.md").read_text("utf-8") == model_card(record(run), name)


@pytest.mark.parametrize(("run", "name"), NETWORKS)
def test_a_network_computes_what_it_did_when_it_was_committed(run: str, name: str) -> None:
    folder = ROOT / "results" / run / "networks" / name / "best"
    network = load_network(folder)
    with torch.no_grad():
        logits = network(patterned(3, load_card(folder)["data"]["image_size"]))[:, :FEW]
    written = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.is_file() else {}
    if "DSARA_REWRITE_GOLDEN" in os.environ:
        written[f"{run}/{name}"] = {"digest": digest(network), "logits": [[round(v, 5) for v in row] for row in logits.tolist()]}
        GOLDEN.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    assert written[f"{run}/{name}"]["digest"] == digest(network)
    torch.testing.assert_close(logits, torch.tensor(written[f"{run}/{name}"]["logits"]), rtol=1e-3, atol=1e-3)


@cache
def opened(run: str) -> Experiment:
    """The run with its images, where they are at hand as they were."""
    places = [os.environ.get("DSARA_DATA_ROOT"), ROOT / "data", ROOT.parent / "shared" / "data"]
    data = record(run).settings["data"]
    for place in filter(None, places):
        if as_images(data, place) or any(Path(place).glob(f"{data}*.zip")):
            return find_experiment(run, device="cpu", results=ROOT / "results", data_root=place)
    pytest.skip(f"{data} as image files is not at hand; DSARA_DATA_ROOT says where")


@pytest.mark.parametrize(("run", "name"), NETWORKS)
def test_measured_again_on_a_slice_of_the_test_images_the_accuracies_lie_in_their_intervals(run: str, name: str) -> None:
    experiment, before = opened(run), record(run).evaluations[name]
    network, eps = load_network(experiment.trained()[name]), experiment.data.eps
    shown = experiment.test(NATURAL)
    images, labels = unit_interval(shown.images), shown.labels
    assert torch.equal(labels, before.labels[:NATURAL])
    moved = make_attack("PGD20", eps)(
        network, images[:ROBUST], labels[:ROBUST], noise=image_noise(images[:ROBUST], experiment.seed)
    )
    natural, attacked = predict(network, images, labels), predict(network, moved, labels[:ROBUST])
    stood = natural[:ROBUST] == labels[:ROBUST]  # what is wrong without attack is not attacked in an evaluation
    again = {"natural": natural, "PGD20": torch.where(stood, attacked, natural[:ROBUST])}
    for attack, found in again.items():
        same = (found == before.predictions[attack][: len(found)]).float().mean().item()
        assert same >= 0.95, f"{attack}: {same:.0%} of {len(found)} predictions are as before"
        low, high = wilson_of_slice(before.correct(attack)[: len(found)])
        assert low <= (found == labels[: len(found)]).float().mean().item() <= high


def wilson_of_slice(right: torch.Tensor) -> tuple[float, float]:
    """The interval of what was measured before on the same images."""
    return wilson(int(right.sum()), len(right))


@pytest.mark.parametrize("shown", SHOWN)
def test_the_readme_shows_the_run_as_its_folder_has_it(shown: str) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    begin = BEGIN.format(run=shown)
    assert text.count(begin) == 1
    assert text.split(begin)[1].split(END)[0].strip() == readme_part(record(shown), Path("docs"))
    assert all((ROOT / "docs" / f"{name}.png").is_file() for name in figures_of(record(shown)))
