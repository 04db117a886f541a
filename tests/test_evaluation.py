"""Evaluation: intervals that are right, numbers that do not depend on batches or restarts, and networks left as they were."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from toys import ATTACK, bits, numbers, toy_blueprint, toy_data

from dsara_lib.architecture import Network
from dsara_lib.attacks import APGD, FGSM, PGD, Attack, AutoAttack, Draws, Square
from dsara_lib.data import Split, unit_interval
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import (
    NATURAL,
    Evaluation,
    Evaluator,
    Images,
    Row,
    black_box,
    evaluate,
    image_noise,
    incomparable,
    load_evaluation,
    load_transfer_matrix,
    predict,
    read_csv,
    white_box,
    wilson,
    write_csv,
)
from dsara_lib.experiment import open_experiment
from dsara_lib.presets.profiles import EvaluationConfig
from dsara_lib.runs import derive_seed

DATA = toy_data(per_class=4)
LESSONS = 12
ATTACKS: dict[str, Attack] = {"FGSM": FGSM(eps=0.1), "PGD2": PGD(eps=0.1, step_size=0.05, steps=2)}
CASCADE: dict[str, Attack] = {
    "PGD2": PGD(eps=0.1, step_size=0.05, steps=2),
    "AutoAttack": AutoAttack(eps=0.1, steps=3, targets=2, queries=6),
    "PGD4": PGD(eps=0.1, step_size=0.05, steps=4),
    "Square": Square(eps=0.1, queries=6, schedule=12),
}
ROWS = [NATURAL, "PGD2", "APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack", "PGD4", "Square"]
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


@functools.cache
def learnt() -> nn.Module:
    """A convolutional network in float64 that is right on most images of `DATA`, and on some of them also under attack."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)).double()
    images, optimizer = unit_interval(DATA.test.images).double(), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(LESSONS):
        optimizer.zero_grad()
        F.cross_entropy(model(images), DATA.test.labels).backward()
        optimizer.step()
    return model


def cascade(batch_size: int = 5, few: int | None = None, split: Split = DATA.test, **changes: Any) -> Evaluator:
    model = learnt()
    settings = {"data": "toy", "batch_size": batch_size, "prepared": False} | changes
    return Evaluator(white_box(model, CASCADE, few), {"net": model}, split, **settings)


def walked(job: Evaluator) -> Evaluator:
    while job.epoch < job.num_epochs:
        list(job.run_epoch())
    return job


def everything(job: Evaluator) -> object:
    found = result(job)
    return bits([dict(found.predictions), dict(found.traces), dict(found.reached)])


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
    six = torch.empty(6, 3, 2, 2)
    whole = image_noise(six, seed)
    parts = [image_noise(six[:cut], seed), image_noise(six[cut:], seed, first=cut)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.abs().max() <= 1 and len({image.numpy().tobytes() for image in whole}) == 6
    assert not torch.equal(whole, image_noise(six, seed + 1))
    assert torch.equal(image_noise(six.double(), seed), whole.double())


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


@pytest.mark.parametrize("few", [None, 7])
def test_evaluation_cut_anywhere_equals_an_uninterrupted_one(few: int | None):
    """Also in the middle of a row, of PGD of two lengths at once and of a cascade, be it of all images or of the first."""
    size = 5 if few is None else 3
    whole, cuts = cascade(size, few), []
    while whole.epoch < whole.num_epochs:
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        cuts.append(buffer.getvalue())
        list(whole.run_epoch())
    assert len(cuts) > 12 and list(whole.predictions) == ROWS
    for cut in cuts:
        job = cascade(size, few)
        job.load_state_dict(torch.load(io.BytesIO(cut), weights_only=True))
        assert everything(walked(job)) == everything(whole)


def test_number_of_epochs_never_grows_and_is_reached():
    for batch_size, few in ((1, None), (5, None), (5, 7), (12, None)):
        job, before = cascade(batch_size, few), math.inf
        while job.epoch < job.num_epochs:
            assert job.num_epochs <= before
            before, epoch = job.num_epochs, job.epoch
            list(job.run_epoch())
            assert job.epoch == epoch + 1
        assert job.epoch == job.num_epochs <= before and list(job.predictions) == ROWS
        assert all(int(found["net"].min()) >= 0 for found in job.predictions.values())


def test_every_row_is_the_same_for_every_batch_size_and_engine_run(tmp_path: Path):
    whole = result(walked(cascade(12)))
    for batch_size in (1, 5, 7):
        other = result(walked(cascade(batch_size)))
        assert bits(dict(other.predictions)) == bits(dict(whole.predictions))
        for row, trace in whole.traces.items():
            assert other.traces[row]["accuracy"] == trace["accuracy"]
            assert other.traces[row]["loss"] == pytest.approx(trace["loss"], rel=1e-9)
    assert everything(finished(cascade(12), tmp_path)) == everything(walked(cascade(12)))


COSTLY_ROWS = ["APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack", "Square"]


@pytest.mark.parametrize(("few", "start"), [(7, 0), (1, 1)])
def test_row_of_the_first_images_is_that_of_an_evaluation_of_these_alone(few: int, start: int):
    split = DATA.test.subset(torch.arange(12).roll(-start))
    found, whole = result(walked(cascade(few=few, split=split))), result(walked(cascade(split=split)))
    alone = result(walked(cascade(split=split.subset(torch.arange(few)))))
    assert alone.correct().any() == (start == 0)  # the second time nothing is left to attack
    for name in ROWS:
        expected = alone if name in COSTLY_ROWS else whole
        assert bits(found.predictions[name]) == bits(expected.predictions[name]) and found.count(name) == expected.count(name)
        assert found.reached[name] == expected.reached[name]
        mine, theirs = ({row["attack"]: row for row in each.rows()}[name] for each in (found, expected))
        assert mine == theirs and mine["images"] == (few if name in COSTLY_ROWS else 12)  # and the checksum of their images
        assert found.compare(expected, name).alone == 0
    assert bits(dict(found.traces)) == bits(dict(whole.traces))
    together = found.together()
    assert len(together.labels) == few and together.provenance["image_checksum"] == alone.provenance["image_checksum"]
    assert torch.equal(found.worst_case(), alone.worst_case()) and torch.equal(together.worst_case(), alone.worst_case())
    assert [row["images"] for row in together.rows()] == len(ROWS) * [few]


def test_as_many_images_as_there_are_is_what_all_of_them_were_before():
    before = walked(cascade())
    for few in (12, 1000):
        job = walked(cascade(few=few))
        assert bits(job.state_dict()) == bits(before.state_dict()) and everything(job) == everything(before)
        assert job.settings() == before.settings() and result(job).provenance == result(before).provenance
    assert all(len(row) == 3 for row in before.settings()["rows"].values())  # as checkpoints on the disk have it
    assert list(result(before).provenance) == ["dtype", "seed", "image_checksum", "prepared"]
    assert bits(dict(result(before).together().predictions)) == bits(dict(result(before).predictions))


def test_progress_tells_the_images_of_the_row():
    job, told = cascade(batch_size=3, few=7), {}
    while job.epoch < job.num_epochs:
        list(job.run_epoch())
        metrics = job.epoch_metrics()
        told.setdefault(metrics["row"], []).append(metrics)
    found = result(job)
    for name in COSTLY_ROWS:
        for metrics in told.get(name, [])[-1:]:
            assert metrics["accuracy/net"] == pytest.approx(found.accuracy(name)) and metrics["done"] == "the first 7 images"
    standing = int(found.correct()[:7].sum())
    assert told["APGD-CE"][0]["done"] == f"3 of {standing} images"


def test_other_number_of_first_images_is_another_evaluation(tmp_path: Path):
    finished(cascade(few=7), tmp_path)
    finished(cascade(few=7), tmp_path)
    for few in (None, 6):
        with pytest.raises(WorkbookError, match="other settings"):
            finished(cascade(few=few), tmp_path)
    seven, six, whole = (result(walked(cascade(few=few))) for few in (7, 6, None))
    for other in (six, whole):
        with pytest.raises(WorkbookError, match=r"cannot be compared under AutoAttack: image_checksum .* images 7 and"):
            seven.compare(other, "AutoAttack")
        assert seven.compare(other, "PGD4").alone == 0


def test_rows_of_no_image_or_of_more_than_those_before_are_refused():
    model = linear()
    for first in (0, -1):
        with pytest.raises(WorkbookError, match=f"at least one image; 'FGSM' of the first {first}"):
            Evaluator({"FGSM": Row(source=model, attack=FGSM(), first=first)}, {"net": model}, DATA.test, data="toy")
    rows = {NATURAL: Row(source=model, attack=None, first=5), "FGSM": Row(source=model, attack=FGSM(), after=NATURAL, first=6)}
    with pytest.raises(WorkbookError, match="'FGSM' is asked of 6 images, 'natural' of 5"):
        Evaluator(rows, {"net": model}, DATA.test, data="toy")


def test_profile_says_of_how_many_images_costly_attacks_are_asked(tmp_path: Path):
    changes = "evaluation.test_images=10 evaluation.attacks=FGSM,PGD20,AutoAttack,APGD-T,Square"
    for few, expected in (("", None), (" evaluation.autoattack_images=6", 6), (" evaluation.autoattack_images=10", None)):
        experiment = open_experiment(f"run{few[-1:]}", limit=4, changes=changes + few, device="cpu", results=tmp_path)
        rows = experiment.white_box("net", linear()).rows  # type: ignore[arg-type]
        asked = {name: row.first for name, row in rows.items()}
        costly = ["APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack", "APGD-T", "Square"]
        assert asked == dict.fromkeys([NATURAL, "FGSM", "PGD20"], None) | dict.fromkeys(costly, expected)
    for few in (0, -1, 2.5):
        with pytest.raises(WorkbookError, match=f"autoattack_images is a whole number of at least 1, or None; got {few}"):
            EvaluationConfig(autoattack_images=few)  # type: ignore[arg-type]


def test_lengths_of_one_attack_share_their_steps_only_on_the_same_images():
    """And what a row of fewer images has found is not asked again by one of more."""
    model, pgd2, pgd4 = learnt(), CASCADE["PGD2"], CASCADE["PGD4"]
    rows = {
        "few": Row(source=model, attack=pgd2, first=5),
        "long": Row(source=model, attack=pgd4),
        "all": Row(source=model, attack=pgd2, first=12),
        "again": Row(source=model, attack=pgd2, first=3),
    }
    job = Evaluator(rows, {"net": model}, DATA.test, data="toy", batch_size=12, prepared=False)
    assert [list(task.names) for task in job.tasks] == [["few"], ["long", "all"], ["again"]]
    found = result(walked(job))
    assert torch.equal(found.predictions["few"], found.predictions["all"][:5])
    assert torch.equal(found.predictions["again"], found.predictions["all"][:3])
    alone = Evaluator({"again": rows["again"]}, {"net": model}, DATA.test, data="toy", batch_size=12, prepared=False)
    assert found.reached["again"] == result(walked(alone)).reached["again"]


def test_cascade_only_loses_images_and_some_stand():
    found = result(walked(cascade()))
    counts = [int(found.correct(row).sum()) for row in (NATURAL, "APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack")]
    assert counts == sorted(counts, reverse=True) and len(DATA.test) > counts[0] > counts[-1] > 0
    assert found.correct("PGD4").sum() >= found.correct("AutoAttack").sum()


@pytest.mark.parametrize("name", CASCADE)
def test_every_attack_finds_in_company_what_it_finds_alone(name: str):
    together = result(walked(cascade()))
    alone = evaluate(learnt(), DATA.test, {name: CASCADE[name]}, batch_size=5, prepared=False)
    assert torch.equal(together.predictions[name], alone.predictions[name])
    assert bits(dict(together.traces.get(name, {}))) == bits(dict(alone.traces.get(name, {})))
    if name != "Square":  # which is spared what AutoAttack has found, and reports how far both went
        assert together.reached[name] == alone.reached[name]


def test_only_what_still_stands_is_attacked_and_nothing_else_changes():
    model, attack = learnt(), CASCADE["PGD2"]
    rows = {
        NATURAL: Row(source=model, attack=None),
        "all": Row(source=model, attack=attack),
        "standing": Row(source=model, attack=attack, after=NATURAL),
    }
    found = result(walked(Evaluator(rows, {"net": model}, DATA.test, data="toy", batch_size=5, prepared=False)))
    right = found.correct()
    assert not right.all() and right.any()
    assert torch.equal(found.predictions["standing"], torch.where(right, found.predictions["all"], found.predictions[NATURAL]))
    with pytest.raises(WorkbookError, match="unknown earlier row"):
        Evaluator(dict(reversed(rows.items())), {"net": model}, DATA.test, data="toy")


def test_equal_row_asks_the_network_nothing_twice():
    job, passes = cascade(12), []
    handle = learnt().register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    try:
        while job.tasks[job._task].row.attack != CASCADE["Square"] or "AutoAttack" not in job.predictions:
            list(job.run_epoch())
        passes.clear()
        walked(job)
    finally:
        handle.remove()
    found = result(job)
    # Those that stood before Square are known; the others are attacked, and asked once more for their prediction.
    assert passes and max(passes) == int((found.correct() & ~found.correct("+FAB-T")).sum())


def test_square_after_a_cascade_that_left_nothing_to_attack():
    attacks = {"AutoAttack": AutoAttack(eps=1, steps=3, queries=6), "Square": Square(eps=1, queries=6, schedule=12)}
    found = evaluate(learnt(), DATA.test, attacks, prepared=False)
    assert found.accuracy("+FAB-T") == 0 and found.reached["Square"]["change"] > 0.5
    alone = evaluate(learnt(), DATA.test, {"Square": attacks["Square"]}, prepared=False)
    assert torch.equal(found.predictions["Square"], alone.predictions["Square"])


def test_parts_of_two_cascades_and_attacks_of_their_names_are_not_mixed_up():
    model, one = learnt(), CASCADE["AutoAttack"]
    other, weak = replace(one, eps=0.02), APGD(eps=0.001, steps=1)  # type: ignore[type-var]
    rows = white_box(model, {"AutoAttack": one, "other": other, "APGD-CE": weak})
    assert rows["APGD-CE"] == Row(source=model, attack=weak, after=NATURAL)
    for name, whole in (("AutoAttack", one), ("other", other)):
        attacks, row = [], rows[name]
        while row.attack is not None:
            attacks.append(row.attack)
            row = rows[row.after or ""]
        assert attacks[::-1] == list(whole.parts().values()) and rows[name].whole == whole  # type: ignore[attr-defined]
    shared = white_box(model, {"APGD-CE": one.parts()["APGD-CE"], "AutoAttack": one, "again": one})  # type: ignore[attr-defined]
    assert list(shared) == [NATURAL, "APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack", "again"]


def test_prepared_network_gives_the_verdicts_of_the_plain_one():
    plain = result(walked(cascade()))
    prepared = result(walked(cascade(prepared=True)))
    assert bits(dict(prepared.predictions)) == bits(dict(plain.predictions))
    assert prepared.provenance["prepared"] and not plain.provenance["prepared"]


class Breaking(nn.Module):
    """A network whose gradients turn NaN at one image, until it is mended."""

    def __init__(self, mended: bool):
        super().__init__()
        self.inner, self.mended = linear(), mended

    def forward(self, images: Tensor) -> Tensor:
        bad = images.requires_grad and not self.mended and 7 in numbers(images.detach())
        return self.inner(images) * (math.nan if bad else 1)


def test_what_was_done_is_kept_when_numbers_break_in_the_middle(tmp_path: Path):
    def job(mended: bool) -> Evaluator:
        attacks = {"FGSM": FGSM(eps=0.0), "PGD2": PGD(eps=0.0, step_size=0.0, steps=2)}  # they keep the images' numbers
        model = Breaking(mended)
        rows = {name: replace(row, after=None) for name, row in white_box(model, attacks).items()}
        return Evaluator(rows, {"net": model}, DATA.test, data="toy", batch_size=5, prepared=False)

    with pytest.raises(WorkbookError, match="not finite"):
        finished(job(False), tmp_path)
    events = list(run_epochs(broken := job(True), tmp_path))
    assert events[0].kind == "restored" and events[0].epoch == 4  # all natural batches, and the first of FGSM
    assert everything(broken) == everything(walked(job(True)))


def test_done_evaluation_is_read_and_not_made_again(tmp_path: Path):
    finished(evaluator(network()), tmp_path)
    events = list(run_epochs(evaluator(network()), tmp_path))
    assert [event.kind for event in events] == ["restored", "done"]


def other_weights() -> Evaluator:
    return evaluator(network(seed=1))


def other_images() -> Evaluator:
    return evaluator(network(), split=Split(images=DATA.test.images.flip(0), labels=DATA.test.labels))


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
    assert sum(1 for _ in job.run_epoch()) == 1
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
        attacked = attack(model, images, DATA.test.labels, noise=image_noise(images, 0))
        clean = model(images).argmax(dim=1)  # what is wrong already is not attacked
        expected = torch.where(clean == DATA.test.labels, model(attacked).argmax(dim=1), clean)
        assert torch.equal(found.predictions[name], expected)


def test_traces_and_reach_are_those_of_a_plain_loop():
    model, images, labels = learnt().eval(), unit_interval(DATA.test.images).double(), DATA.test.labels
    found = result(walked(cascade()))
    kept = found.correct().nonzero().squeeze(1)
    x, y = images[kept], labels[kept]
    attack, accuracy, loss = CASCADE["PGD4"], [], []
    for _, attacked, _ in attack.iterates(model, x, y, seed=Draws(0, kept)):  # type: ignore[attr-defined]
        logits = model(attacked)
        accuracy.append((logits.argmax(dim=1) == y).sum().item() / len(labels))
        loss.append(F.cross_entropy(logits, y).item())
    assert found.traces["PGD4"]["steps"] == [0, 1, 2, 3, 4] and found.traces["PGD2"]["steps"] == [0, 1, 2]
    assert found.traces["PGD4"]["accuracy"] == pytest.approx(accuracy) and accuracy[-1] == pytest.approx(found.accuracy("PGD4"))
    assert found.traces["PGD4"]["loss"] == pytest.approx(loss) and found.traces["PGD2"]["loss"] == pytest.approx(loss[:3])
    reached = {"change": (attacked - x).abs().max().item(), "low": attacked.min().item(), "high": attacked.max().item()}
    assert found.reached["PGD4"] == pytest.approx(reached) and found.reached[NATURAL]["change"] == 0
    for name in ROWS[1:]:
        if name in found.reached:
            assert found.reached[name]["change"] <= 0.1 + 1e-12


def test_floats_are_evaluated_as_the_bytes_they_come_from():
    model = linear()
    one = evaluate(model, DATA.test, ATTACKS)
    other = evaluate(model, (unit_interval(DATA.test.images), DATA.test.labels), ATTACKS)
    assert bits(dict(one.predictions)) == bits(dict(other.predictions)) and other.classes == ("0", "1", "2")
    assert torch.equal(predict(model, unit_interval(DATA.test.images), DATA.test.labels), one.predictions[NATURAL])


@pytest.mark.usefixtures("without_shape_check")
def test_images_that_are_none_are_refused_in_a_sentence():
    images, labels = unit_interval(DATA.test.images), DATA.test.labels
    for wrong, says in (
        ((images * 255, labels), "pixels in"),
        ((images * math.nan, labels), "pixels in"),
        ((images, labels[:-1]), "one label for each of 12 images"),
        ((images[0], labels), "float tensor"),
        ((DATA.test.images, labels), "float tensor .* got torch.uint8"),
        ((images, labels + 1), "3 logits for classes 0 to 2; labels are 1 to 3"),
        ((images, labels - 1), "labels are -1 to 1"),
    ):
        with pytest.raises(WorkbookError, match=says):
            evaluate(linear(), wrong, ATTACKS)
    with pytest.raises(WorkbookError, match="3 logits for classes 0 to 2; labels are 1 to 3"):
        evaluate(linear(), Split(images=DATA.test.images, labels=labels + 1), ATTACKS)
    assert len(Images(images=images, labels=labels)) == 12
    with pytest.raises(WorkbookError, match="unknown engine 'pyautoatack'; did you mean 'pyautoattack'"):
        evaluate(linear(), DATA.test, ATTACKS, engine="pyautoatack")


def test_rows_say_what_they_stand_on_and_only_like_is_compared_with_like():
    def found(attack: Attack = ATTACKS["PGD2"], model: nn.Module | None = None, split: Any = DATA.test, **more: Any) -> Evaluation:
        return evaluate(model or linear(), split, {"PGD": attack}, **({"data": "toy"} | more))

    one = found()
    row = one.rows()[1]
    assert {key: row[key] for key in ("attack", "eps", "step_size", "steps", "start", "loss", "engine", "dtype", "seed")} == {
        "attack": "PGD", "eps": 0.1, "step_size": 0.05, "steps": 2, "start": "uniform", "loss": "cross-entropy",
        "engine": "dsara", "dtype": "float32", "seed": 0,
    }  # fmt: skip
    assert incomparable(row, found(model=linear(1)).rows()[1]) == []
    assert one.compare(found(model=linear(1), seed=3), "PGD").both <= 12  # another network, other noise
    flipped = Split(images=DATA.test.images.flip(3), labels=DATA.test.labels)
    pgd = PGD(eps=0.1, step_size=0.05, steps=2)
    for key, other in {
        "data": found(data="other"),
        "eps": found(replace(pgd, eps=0.2)),
        "step_size": found(replace(pgd, step_size=0.01)),
        "steps": found(replace(pgd, steps=3)),
        "start": found(FGSM(eps=0.1)),
        "dtype": found(model=linear().double()),
        "image_checksum": found(split=flipped),
        "images": found(split=DATA.test.subset(torch.arange(5))),
        "loss": found(Square(eps=0.1, queries=2)),
    }.items():
        reasons = incomparable(row, other.rows()[1])
        assert any(reason.startswith(f"{key} ") for reason in reasons), key
        with pytest.raises(WorkbookError, match=f"cannot be compared under PGD: .*{key} "):
            one.compare(other, "PGD")
    assert incomparable(row, {**row, "engine": "pyautoattack"}) == ["engine 'dsara' and 'pyautoattack'"]
    assert incomparable({**row, "dtype": ""}, {**row, "dtype": ""}) == ["dtype is not known"]
    more, fewer = (found(Square(eps=0.1, queries=queries)) for queries in (2, 3))
    assert incomparable(more.rows()[1], fewer.rows()[1]) == ["queries 2 and 3"]
    with pytest.raises(WorkbookError, match="unknown evaluated attack 'FGSM'"):
        one.compare(one, "FGSM")


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
    columns = ["network", "data", "attack", "eps", "step_size", "steps", "targets", "queries", "start", "loss", "engine", "dtype"]
    columns += ["seed", "image_checksum", "correct", "images", "accuracy", "low", "high", "balanced_accuracy"]
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


def test_rows_of_the_first_images_survive_their_file_and_longer_ones_are_refused(tmp_path: Path):
    found, path = result(walked(cascade(few=7))), tmp_path / "net.npz"
    found.save(path)
    described = {"network": "net", "data": "toy", "eps": 0.1, "classes": DATA.classes}
    again = load_evaluation(path, **described)
    assert again.rows() == found.rows() and bits(dict(again.predictions)) == bits(dict(found.predictions))
    assert again.together().rows() == found.together().rows()
    labels = found.labels.numpy()
    for name, array in {"long": np.append(labels, 0), "none": labels[:0], "square": labels.reshape(3, 4)}.items():
        np.savez(path, labels=labels, **{name: array})
        with pytest.raises(WorkbookError, match=f"expected {name} as whole numbers .12., one for each image or for the first"):
            load_evaluation(path, **described)
    stranger = replace(found, provenance={"image_checksum": "a", "image_checksums_of_first": ["b"]})
    assert [row["image_checksum"] for row in stranger.rows()][2:4] == ["", ""]  # and so comparable with nothing


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
