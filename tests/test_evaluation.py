"""Evaluation: intervals that are right, numbers that do not depend on batches or restarts, and networks left as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import ATTACK, bits, toy_blueprint, toy_data

from dsara_lib.architecture import Network
from dsara_lib.attacks import FGSM, PGD, Attack
from dsara_lib.data import Split, unit_interval
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import (
    NATURAL,
    Evaluation,
    Evaluator,
    black_box,
    evaluate,
    image_noise,
    load_evaluation,
    load_transfer_matrix,
    read_csv,
    white_box,
    wilson,
    write_csv,
)
from dsara_lib.runs import derive_seed

DATA = toy_data(per_class=4)
ATTACKS: dict[str, Attack] = {"FGSM": FGSM(eps=0.1), "PGD2": PGD(eps=0.1, step_size=0.05, steps=2)}
Z = 1.959963984540054


def linear(seed: int = 0) -> nn.Module:
    """The simplest module that maps images to logits."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))


def network(seed: int = 0) -> Network:
    """A real network, trained for nothing, in training mode."""
    blueprint = toy_blueprint()
    torch.manual_seed(seed)
    return blueprint.build()


def evaluator(model: nn.Module, split: Split = DATA.test, batch_size: int = 5, seed: int = 0) -> Evaluator:
    return Evaluator(white_box(model, ATTACKS), {"net": model}, split, data="toy", batch_size=batch_size, seed=seed)


def finished(job: Evaluator, folder: Path) -> Evaluator:
    for _ in run_epochs(job, folder):
        pass
    return job


def result(job: Evaluator) -> Evaluation:
    return job.evaluation("net", eps=0.1, classes=DATA.classes)


# -- Wilson intervals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, Table I, method 3; its last two are the ends of the range.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0)],
)
def test_wilson_interval_is_the_published_one(successes: int, trials: int, low: float, high: float):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


counts = st.integers(1, 20_000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(counts)
def test_wilson_ends_are_where_the_score_test_just_rejects(count: tuple[int, int]):
    successes, trials = count
    share = successes / trials
    for end in wilson(successes, trials):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / trials), rel=1e-6, abs=1e-12)


@given(counts)
def test_wilson_interval_holds_the_share_and_mirrors(count: tuple[int, int]):
    successes, trials = count
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1 and low < high
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wide = wilson(successes, trials, confidence=0.99)
    assert wide[0] <= low and high <= wide[1]
    more = wilson(4 * successes, 4 * trials)
    assert more[1] - more[0] < high - low


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes: int, trials: int):
    with pytest.raises(WorkbookError, match="successes"):
        wilson(successes, trials)


# -- what a number depends on ------------------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(0, 1000))
def test_noise_of_an_image_depends_on_seed_and_image_alone(cut: int, seed: int):
    whole = image_noise((6, 3, 2, 2), 0, seed)
    parts = [image_noise((size, 3, 2, 2), first, seed) for first, size in ((0, cut), (cut, 6 - cut)) if size]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.abs().max() <= 1 and len({image.numpy().tobytes() for image in whole}) == 6
    assert not torch.equal(whole, image_noise((6, 3, 2, 2), 0, seed + 1))


@pytest.mark.parametrize("model", [linear(), network()], ids=["linear", "network"])
def test_predictions_are_the_same_for_every_batch_size(model: nn.Module, tmp_path: Path):
    first, *others = [
        result(finished(evaluator(model, batch_size=size), tmp_path / str(size))).predictions for size in (1, 7, len(DATA.test))
    ]
    assert all(bits(dict(each)) == bits(dict(first)) for each in others)


def test_resumed_evaluation_equals_an_uninterrupted_one(tmp_path: Path):
    whole = finished(evaluator(network()), tmp_path / "whole")
    for stop in (0, 4, 7, 10):  # within an attack and between two
        folder = tmp_path / f"stopped {stop}"
        for index, _ in enumerate(run_epochs(evaluator(network()), folder)):
            if index == stop:
                break
        assert bits(finished(evaluator(network()), folder).predictions) == bits(whole.predictions)


def test_done_evaluation_is_read_and_not_made_again(tmp_path: Path):
    finished(evaluator(network()), tmp_path)
    events = list(run_epochs(evaluator(network()), tmp_path))
    assert [event.kind for event in events] == ["restored", "done"]


def other_weights() -> Evaluator:
    return evaluator(network(seed=1))


def other_images() -> Evaluator:
    return evaluator(network(), split=replace(DATA.test, images=DATA.test.images.flip(0)))


def other_seed() -> Evaluator:
    return evaluator(network(), seed=1)


def fewer_images() -> Evaluator:
    return evaluator(network(), split=DATA.test.subset(torch.arange(5)))


@pytest.mark.parametrize("other", [other_weights, other_images, other_seed, fewer_images])
def test_results_of_something_else_are_refused(other, tmp_path: Path):
    finished(evaluator(network()), tmp_path)
    with pytest.raises(WorkbookError, match="other settings"):
        finished(other(), tmp_path)


# -- the networks ------------------------------------------------------------------------------------------------------


def mixed_modes() -> Network:
    """In training mode but for one cell; some parameters frozen, one with a gradient."""
    model = network()
    model.cells[0].eval()
    model.stem.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    return model


def condition(model: nn.Module) -> object:
    modes = [module.training for module in model.modules()]
    return modes, [(p.requires_grad, bits(p.grad)) for p in model.parameters()], bits(dict(model.state_dict()))


def test_evaluation_leaves_networks_as_it_found_them():
    source, target = mixed_modes(), mixed_modes()
    before = condition(source), condition(target)
    job = Evaluator(black_box({"a": source}, ATTACK), {"a": source, "b": target}, DATA.test, data="toy", batch_size=5)
    assert sum(1 for _ in job.run_epoch()) == 3
    assert (condition(source), condition(target)) == before
    steps = job.predictions  # a row that is left in the middle
    job.epoch = 0
    walk: Iterator[object] = job.run_epoch()
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert (condition(source), condition(target)) == before and job.predictions == steps


class Odd(nn.Module):
    """Returns what it was given."""

    def __init__(self, returned):
        super().__init__()
        self.returned, self.dropout = returned, nn.Dropout()

    def forward(self, images: torch.Tensor) -> object:
        return self.returned(images)


ODD = {
    "not finite": lambda images: torch.full((len(images), 3), math.nan) + 0 * images.sum(),
    "expected 12 rows": lambda images: images.sum(dim=(1, 2, 3))[:, None].expand(-1, 3)[1:],
    r"got \(12, 3, 1\)": lambda images: images.sum(dim=(2, 3))[..., None],
    "got tuple": lambda images: (images, images),
}


@pytest.mark.parametrize("sentence", ODD)
def test_logits_that_mean_nothing_are_refused_in_a_sentence(sentence: str):
    model = Odd(ODD[sentence]).train()
    with pytest.raises(WorkbookError, match=sentence):
        evaluate(model, DATA.test, {})
    assert model.training and model.dropout.training


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(WorkbookError, match="needs attacks, networks and images"):
        Evaluator({}, {"a": linear()}, DATA.test, data="toy")
    with pytest.raises(WorkbookError, match="needs attacks, networks and images"):
        evaluate(linear(), DATA.test.subset(torch.arange(0)), ATTACKS)


# -- results -----------------------------------------------------------------------------------------------------------


def test_any_module_is_evaluated_in_one_call():
    model = linear()
    found = evaluate(model, DATA.test, ATTACKS, name="linear", classes=DATA.classes)
    with torch.no_grad():
        logits = model(unit_interval(DATA.test.images))
    assert torch.equal(found.predictions[NATURAL], logits.argmax(dim=1))
    assert list(found.predictions) == [NATURAL, *ATTACKS] and found.eps == 0.1 and found.network == "linear"
    assert found.accuracy() == pytest.approx((logits.argmax(dim=1) == DATA.test.labels).float().mean().item())
    # On a linear model every step goes the same way, so that PGD ends where FGSM does or short of it.
    assert found.accuracy("FGSM") <= found.accuracy("PGD2") <= found.accuracy()


def test_predictions_are_those_on_the_attacked_images():
    model, images = network().eval(), unit_interval(DATA.test.images)
    found = evaluate(model, DATA.test, ATTACKS)
    for name, attack in ATTACKS.items():
        attacked = attack(model, images, DATA.test.labels, noise=image_noise(tuple(images.shape), 0, 0))
        assert torch.equal(found.predictions[name], model(attacked).argmax(dim=1))


@pytest.fixture
def matrix():
    networks = {"one": network(0), "two": network(1), "three": linear()}
    job = Evaluator(black_box(networks, ATTACKS["PGD2"]), networks, DATA.test, data="toy", batch_size=5)
    for _ in range(job.num_epochs):
        list(job.run_epoch())
    return networks, job.transfer_matrix("PGD2", 0.1)


def test_transfer_diagonal_is_the_white_box_attack(matrix):
    networks, found = matrix
    assert found.sources == found.targets == tuple(networks) and found.accuracy.shape == (3, 3)
    for index, model in enumerate(networks.values()):
        assert torch.equal(found.predictions[index, index], evaluate(model, DATA.test, ATTACKS).predictions["PGD2"])


def test_transfer_rows_and_files_say_what_the_matrix_says(matrix, tmp_path: Path):
    _, found = matrix
    rows = found.rows()
    assert [(row["source"], row["target"]) for row in rows] == [(s, t) for s in found.sources for t in found.targets]
    for row in rows:
        s, t = found.sources.index(row["source"]), found.targets.index(row["target"])
        assert row["accuracy"] == row["correct"] / row["images"] == pytest.approx(found.accuracy[s, t].item())
        assert row["success_rate"] == 1 - row["accuracy"] and row["low"] <= row["accuracy"] <= row["high"]
    write_csv(tmp_path / "transfer.csv", rows)
    assert read_csv(tmp_path / "transfer.csv") == rows
    found.save(tmp_path / "transfer.npz")
    again = load_transfer_matrix(tmp_path / "transfer.npz", attack="PGD2", eps=0.1, data="toy")
    assert again.rows() == rows and again.num_images == len(DATA.test)


def test_table_has_a_row_for_each_attack_and_survives_its_file(tmp_path: Path):
    found = evaluate(network(), DATA.test, ATTACKS, name="net", data="toy", classes=DATA.classes)
    rows = found.rows()
    columns = ["network", "data", "attack", "eps", "step_size", "steps", "correct", "images", "accuracy", "low", "high"]
    assert [list(row) for row in rows] == 3 * [columns]
    assert [(row["attack"], row["eps"], row["step_size"], row["steps"]) for row in rows] == [
        (NATURAL, 0.0, None, None),
        ("FGSM", 0.1, None, None),
        ("PGD2", 0.1, 0.05, 2),
    ]
    for row in rows:
        assert row["accuracy"] == pytest.approx(row["correct"] / row["images"]) and row["images"] == len(DATA.test)
        assert (row["low"], row["high"]) == wilson(row["correct"], row["images"])
    write_csv(tmp_path / "white_box.csv", rows)
    assert read_csv(tmp_path / "white_box.csv") == rows
    found.save(tmp_path / "net.npz")
    described = {"network": "net", "data": "toy", "eps": 0.1, "classes": DATA.classes, "attacks": found.attacks}
    assert load_evaluation(tmp_path / "net.npz", **described).rows() == rows


predictions = st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4)


@given(predictions)
def test_worst_case_is_the_intersection(drawn: list[list[int]]):
    labels = torch.tensor([0, 1, 2, 0, 1])
    named = {f"attack {i}": torch.tensor(each) for i, each in enumerate(drawn)}
    found = Evaluation(network="n", data="d", eps=0.1, classes=("a", "b", "c"), labels=labels, predictions=named)
    right = [all(each[i] == labels[i] for each in drawn) for i in range(5)]
    assert found.worst_case().tolist() == right
    assert sum(right) <= min(int(found.correct(name).sum()) for name in named)
    assert torch.equal(found.worst_case(["attack 0"]), found.correct("attack 0"))


def test_attack_that_was_not_evaluated_is_named_with_the_nearest():
    with pytest.raises(WorkbookError, match="did you mean 'FGSM'"):
        evaluate(linear(), DATA.test, ATTACKS).accuracy("fgsn")


# -- files that are none -----------------------------------------------------------------------------------------------


def test_damaged_files_are_named(tmp_path: Path):
    described = {"network": "n", "data": "d", "eps": 0.1, "classes": ("a",)}
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    np.savez(tmp_path / "objects.npz", labels=np.array([object()], dtype=object))
    for name, told in (("text", "plain arrays"), ("other", "no array labels"), ("objects", "plain arrays")):
        with pytest.raises(WorkbookError, match=rf"{name}\.npz .*{told}"):  # objects would have to be unpickled, which runs code
            load_evaluation(tmp_path / f"{name}.npz", **described)
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        load_evaluation(tmp_path / "missing.npz", **described)
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        read_csv(tmp_path / "missing.csv")
    (tmp_path / "rows.csv").write_text("network,accuracy\nfound,high\n")
    with pytest.raises(WorkbookError, match="line 2"):
        read_csv(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("network,accuracy\nfound,0.5\n")
    with pytest.raises(WorkbookError, match="no column low and no high"):
        read_csv(tmp_path / "rows.csv", "accuracy", "low", "high")


def test_noise_comes_from_a_seed_that_no_machine_changes():
    # Stored numbers: a change here changes every evaluation that was ever made.
    assert derive_seed("image", 0, 0) == 5514369932084744
