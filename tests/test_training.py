"""Adversarial training: what it trains on, what it keeps, and that a network's folder gives the same network again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_capture import Rehearsal
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toys import ATTACK, SPACE, TRAIN, Noting, bits, numbers, toy_blueprint, toy_data, toy_genotype

from dsara_lib import training
from dsara_lib.architecture import Prepared
from dsara_lib.attacks import PGD, gradient
from dsara_lib.attacks.base import uniform_noise
from dsara_lib.capture import Graphs
from dsara_lib.data import load
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints, generator
from dsara_lib.training import (
    Cosine,
    Drops,
    OneCycle,
    TrainConfig,
    Trainer,
    add_measurements,
    few_held_out,
    few_steps,
    load_card,
    load_network,
    measure,
    measuring,
    natural,
    save_network,
)

DATA = toy_data()
OPTIONS: dict[str, tuple[TrainConfig, dict[str, Any]]] = {
    "plain": (TRAIN, {}),
    "all options": (replace(TRAIN, cutout=2, schedule=OneCycle()), {"drop_path": 0.3, "auxiliary": True}),
}


def trainer(config: TrainConfig = TRAIN, seed: int = 0, graphs: Graphs | None = None, **blueprint: Any) -> Trainer:
    return Trainer(toy_blueprint(**blueprint), DATA, config, seed=seed, graphs=graphs)


def run(job: Trainer, folder: Path) -> Trainer:
    for _ in run_epochs(job, folder):
        pass
    return job


def weights_of(job: Trainer) -> torch.Tensor:
    """All weights but those of an auxiliary head."""
    named = job.network.named_parameters()
    return torch.cat([weight.detach().flatten() for name, weight in named if not name.startswith("auxiliary")])


def outcome(folder: Path) -> Any:
    """All that a finished training has left, to the bit."""
    state, warnings = Checkpoints(folder).load()
    assert warnings == []
    history = read_history(folder)
    written = {
        f"{which}/{name}": (folder / which / name).read_bytes()
        for which in ("best", "last")
        for name in ("weights.safetensors", "card.json")
    }
    return bits([state, history.steps, history.epochs, written])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Trainer, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return run(trainer(replace(TRAIN, epochs=4)), folder), folder


# ----------------------------------------------------------------------------------------------------------- schedules


def test_the_papers_rate_drops_tenfold_at_each_milestone():
    factors = [Drops()(epoch, 200) for epoch in (0, 99.99, 100, 149.99, 150, 199.99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert Drops(milestones=(), factor=0.1)(199, 200) == 1


def test_cosine_falls_from_one_to_its_floor_and_holds_within_an_epoch():
    for floor in (0.0, 0.04):
        cosine = Cosine(floor=floor)
        values = [cosine(epoch, 30) for epoch in range(31)]
        assert values[0] == 1 and values[15] == pytest.approx((1 + floor) / 2) and values[30] == pytest.approx(floor)
        assert values == sorted(values, reverse=True) and cosine(7.9, 30) == values[7] > cosine(8, 30)
    assert Cosine()(29, 30) == pytest.approx((1 + math.cos(math.pi * 29 / 30)) / 2), "DARTS's last epoch"


def test_one_cycle_climbs_to_one_at_its_peak_and_falls_to_its_floor():
    cycle = OneCycle(peak=0.25, start=0.1, floor=0.02)
    assert [cycle(epoch, 20) for epoch in (0, 2.5, 5, 12.5, 20)] == pytest.approx([0.1, 0.55, 1, 0.51, 0.02])
    values = [cycle(epoch / 10, 20) for epoch in range(201)]
    assert values[:51] == sorted(values[:51]) and values[50:] == sorted(values[50:], reverse=True)
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.02, "no jumps"


@pytest.mark.parametrize("schedule", [Drops(milestones=(1, 2)), Cosine(), OneCycle()])
def test_each_step_uses_the_rate_of_its_schedule(monkeypatch, schedule):
    job = trainer(replace(TRAIN, schedule=schedule, learning_rate=0.2))
    step = Noting(lambda *_: job.optimizer.param_groups[0]["lr"])
    monkeypatch.setattr(job, "step", step)
    told = [row["learning_rate"] for _ in range(3) for row in job.run_epoch() if row]
    assert job.num_batches == 3 and step.noted == told
    assert told == pytest.approx([0.2 * schedule(step / 3, 3) for step in range(9)])


# ------------------------------------------------------------------------------------------------------- the paper's


def test_the_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate, config.momentum) == (200, 32, 0.1, 0.9)
    assert (config.weight_decay, config.gradient_clip, config.cutout) == (1e-4, 5.0, 0)
    assert config.schedule == Drops(milestones=(100, 150), factor=0.1)
    assert config.attack == PGD(eps=8 / 255, step_size=0.01, steps=7)
    blueprint = toy_blueprint()
    assert (blueprint.auxiliary, blueprint.drop_path, blueprint.normalisation) == (False, 0.0, None)


# ---------------------------------------------------------------------------------------------- a step, by a second way


def test_a_step_is_plain_sgd_on_the_loss_of_attacked_images():
    config = replace(TRAIN, learning_rate=0.05, gradient_clip=1e9)
    job, plain = trainer(config), trainer(config)
    network, velocity = plain.network, [torch.zeros_like(weight) for weight in plain.network.parameters()]
    for index in range(3):
        images, labels = DATA.train.images[index * 6 : index * 6 + 6].float() / 255, DATA.train.labels[:6]
        metrics = job.step(images, labels, index)
        attacked = ATTACK(network, images, labels, plain.noise_from)
        network.train()
        loss = F.cross_entropy(network(attacked), labels)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight, speed in zip(network.parameters(), velocity, strict=True):
                assert weight.grad is not None
                speed.mul_(0.9).add_(weight.grad + 1e-4 * weight)
                weight.sub_(config.learning_rate * speed)
        assert metrics["train/adversarial_loss"] == pytest.approx(loss.item())
    for name, weight in network.named_parameters():
        torch.testing.assert_close(job.network.get_parameter(name), weight, rtol=1e-5, atol=1e-6)
    assert all(weight.grad is None for weight in job.network.parameters())


def test_the_gradient_is_clipped():
    plain = replace(TRAIN, learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    lengths = {}
    for clip in (1e-3, 1e9):
        job = trainer(replace(plain, gradient_clip=clip))
        before = weights_of(job)
        job.step(DATA.train.images[:6].float() / 255, DATA.train.labels[:6], 0)
        lengths[clip] = (weights_of(job) - before).norm().item()
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert lengths[1e9] > 1e-2


def test_only_the_loss_step_moves_batch_norm_once_and_in_training_mode():
    modes = []

    class Spied(PGD):
        def __call__(self, model, images, labels, generator=None, noise=None):
            modes.append(model.training)
            return super().__call__(model, images, labels, generator, noise)

    job = trainer(replace(TRAIN, attack=Spied(eps=0.1, step_size=0.1, steps=2)))
    for _ in islice(job.run_epoch(), 2):
        pass
    assert modes == [True, True], "the network was left in evaluation mode"
    counts = {int(buffer) for name, buffer in job.network.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {2}


def test_natural_training_attacks_only_to_measure(monkeypatch):
    config = natural(replace(TRAIN, epochs=1))
    crafted = []

    def attack(self: PGD, model: Any, images: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        crafted.append(len(images))
        return images

    monkeypatch.setattr(PGD, "__call__", attack)
    job = trainer(config)
    rows = [row for row in job.run_epoch() if row]
    assert sum(crafted) == len(job.held_out)
    assert all({"train/natural_loss", "train/natural_accuracy"} <= set(row) for row in rows)
    assert not any("adversarial" in name for row in rows for name in row)


# ------------------------------------------------------------------------------------------------- on what it is crafted


def batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return DATA.train.images[6 * index : 6 * index + 6].float() / 255, DATA.train.labels[:6]


@pytest.mark.parametrize("options", [{}, {"drop_path": 0.3, "auxiliary": True, "normalisation": ((0.5,) * 3, (0.2,) * 3)}])
@pytest.mark.usefixtures("without_shape_check")
def test_each_step_crafts_on_what_equals_the_present_network(options):
    job = trainer(**options)
    for index in range(3):
        images, labels = batch(index)
        noise = uniform_noise(images, generator("noise", index))
        expected = ATTACK(job.network, images, labels, noise=noise)
        # Where a gradient is all but zero, its sign hangs on rounding.
        assert (job.craft(images, labels, noise) - expected).abs().gt(1e-6).float().mean() < 0.01
        assert torch.allclose(job.source()(images), job.network.eval()(images), rtol=1e-4, atol=1e-5)
        job.step(images, labels, index)
    source = job.source()
    assert isinstance(source, Prepared) and source.original is job.network


@pytest.mark.usefixtures("without_shape_check")
def test_what_is_crafted_on_is_no_part_of_the_state():
    job, other = trainer(), trainer()
    before = bits([job.state_dict(), job.settings()])
    random = torch.get_rng_state()
    assert isinstance(job.source(), Prepared) and torch.equal(torch.get_rng_state(), random)
    assert bits([job.state_dict(), job.settings()]) == before == bits([other.state_dict(), other.settings()])


@pytest.mark.usefixtures("without_shape_check")
def test_crafting_and_gradients_never_wait_for_the_device(monkeypatch):
    class Waiting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "is_nonzero"), func
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(gradient, "check_images", lambda *_: None)  # asked on a CPU only
    monkeypatch.setattr(gradient, "check_logits", lambda logits, _: logits)
    monkeypatch.setattr(gradient, "finite", lambda slope: slope)
    job, (images, labels) = trainer(drop_path=0.3, auxiliary=True), batch(0)
    assert isinstance(job.source(), Prepared)
    with Waiting():
        job.gradients(job.craft(images, labels, torch.zeros_like(images)), labels)
        with pytest.raises(AssertionError):
            labels.sum().item()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_recorded_training_equals_the_plain_one_to_the_bit(tmp_path, options):
    """Also where what a pass returned is gone as soon as the next is called."""
    config, blueprint = OPTIONS[options]
    graphs = Rehearsal()
    run(trainer(config, **blueprint), tmp_path / "plain")
    run(trainer(config, graphs=graphs, **blueprint), tmp_path / "recorded")
    assert outcome(tmp_path / "recorded") == outcome(tmp_path / "plain")
    assert graphs.noted.count("replay") == 2 * 8 and graphs.noted[-1] == "wait"


@pytest.mark.usefixtures("without_shape_check")
def test_recordings_are_made_once_and_released_after_the_last_epoch():
    graphs = Rehearsal()
    job, kept = trainer(graphs=graphs), []
    for _ in range(job.num_epochs):
        list(job.run_epoch())
        kept.append(job.num_graphs)
    assert kept == [2, 2, 0] and graphs.noted.count("record") == 2


def test_where_one_pass_cannot_be_recorded_the_training_is_the_same_and_it_is_told_once(tmp_path, recwarn):
    class CraftsOnly(Rehearsal):
        def record(self, function: Any, inputs: Any) -> Any:
            self.fails = "capture failed" if function.__name__ == "gradients" else ""
            return super().record(function, inputs)

    run(trainer(), tmp_path / "plain")
    run(trainer(graphs=CraftsOnly()), tmp_path / "broken")
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "plain")
    assert sum("gradients could not be recorded" in str(each.message) for each in recwarn) == 1


def test_an_attack_that_asks_which_images_are_left_is_not_recorded():
    graphs = Rehearsal()
    job = trainer(replace(TRAIN, attack=replace(ATTACK, early_stop=True)), graphs=graphs)
    list(islice(job.run_epoch(), 3))
    assert graphs.noted == [] and job.num_graphs == 0


# ----------------------------------------------------------------------------------------------------------- held out


def test_held_out_images_are_a_share_of_each_class_and_never_trained_on(monkeypatch):
    job = trainer()
    held, kept = numbers(job.held_out.images), numbers(job.train.images)
    assert sorted(held + kept) == list(range(24))
    assert job.held_out.labels.bincount().tolist() == [2, 2, 2]
    step = Noting(lambda images, *_: numbers(images))
    monkeypatch.setattr(job, "step", step)
    for _ in range(2):
        list(job.run_epoch())
    assert sorted(n for seen in step.noted for n in seen) == sorted(kept * 2)


def scripted(scores: list[float], quantity: str) -> Any:
    """A stand-in for `measuring` that gives these values of one quantity, and the opposite of the other."""
    values: Iterator[float] = iter(scores)

    def measured(*_: Any, **__: Any) -> Iterator[dict[str, float]]:
        yield {}
        value = next(values)
        both = {"natural_accuracy": 1 - value, "adversarial_accuracy": 1 - value} | {quantity: value}
        return {"natural_loss": 1.0, "adversarial_loss": 1.0, **both}

    return measured


@pytest.mark.parametrize("quantity", ["adversarial_accuracy", "natural_accuracy"])
def test_best_is_the_first_epoch_of_the_best_held_out_accuracy_and_last_the_last(tmp_path, monkeypatch, quantity):
    monkeypatch.setattr(training, "measuring", scripted([0.2, 0.6, 0.6, 0.3], quantity))
    config = replace(TRAIN, epochs=4)
    job = trainer(config if quantity == "adversarial_accuracy" else natural(config))
    weights, best_after = {}, []
    for event in run_epochs(job, tmp_path):
        if event.kind == "epoch":
            weights[event.epoch] = bits(job.network.state_dict())
            best_after.append(event.metrics["best_epoch"])
            assert load_card(tmp_path / "best")["epoch"] == job.best_epoch, "best is not there while training goes on"
    assert best_after == [1, 2, 2, 2]
    for which, epoch, score in (("best", 2, 0.6), ("last", 4, 0.3)):
        card = load_card(tmp_path / which)
        assert (card["which"], card["epoch"], card["held_out"][f"validation/{quantity}"]) == (which, epoch, score)
        assert bits(load_network(tmp_path / which).state_dict()) == weights[epoch]


def test_a_kept_network_measures_what_its_card_says(trained):
    job, folder = trained
    epochs = read_history(folder).epochs
    best = max(row["validation/adversarial_accuracy"] for row in epochs)
    for which in ("best", "last"):
        card, network = load_card(folder / which), load_network(folder / which)
        measured = measure(network, job.held_out, TRAIN.held_out_attack, 128, job.seed)
        assert {f"validation/{name}": value for name, value in measured.items()} == card["held_out"]
        assert card["held_out"].items() <= epochs[card["epoch"] - 1].items()
        if which == "best":
            assert measured["adversarial_accuracy"] == best == job.best_accuracy


# --------------------------------------------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("prepared", [False, True])  # the shape check keeps networks from being traced
@pytest.mark.parametrize("options", OPTIONS)
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(tmp_path, request, options, prepared):
    if prepared:
        request.getfixturevalue("without_shape_check")
    config, blueprint = OPTIONS[options]
    job = run(trainer(config, **blueprint), tmp_path / "uninterrupted")
    assert isinstance(job.source(), Prepared) == prepared
    expected = outcome(tmp_path / "uninterrupted")
    for stop in (2, 6, 9):  # within the first epoch, within the second, after the second epoch's commit
        torch.manual_seed(stop)  # what else happens in the process must not matter
        list(islice(run_epochs(trainer(config, **blueprint), tmp_path / "stopped"), stop))
    run(trainer(config, **blueprint), tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == expected


@pytest.mark.parametrize(
    "changes", [{"cutout": 2}, {"drop_path": 0.3}, {"auxiliary": True}, {"held_out": 0.5}, {"seed": 1}, {"attack": None}]
)
def test_each_option_changes_what_is_learned(changes):
    def weights(job: Trainer) -> torch.Tensor:
        list(islice(job.run_epoch(), 2))
        return weights_of(job)

    config = {name: value for name, value in changes.items() if hasattr(TRAIN, name)}
    others = {name: value for name, value in changes.items() if not hasattr(TRAIN, name)}
    torch.manual_seed(0)
    assert not torch.equal(weights(trainer()), weights(trainer(replace(TRAIN, **config), **others)))


def test_a_folder_of_another_training_is_refused(tmp_path):
    list(islice(run_epochs(trainer(), tmp_path), 1))
    with pytest.raises(WorkbookError, match="learning_rate"):
        run(trainer(replace(TRAIN, learning_rate=0.2)), tmp_path)
    with pytest.raises(WorkbookError, match="channels"):
        run(trainer(channels=4), tmp_path)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_network_for_other_images_is_refused():
    with pytest.raises(WorkbookError, match=r"4 classes; toy has 3 and 3"):
        trainer(num_classes=4)
    with pytest.raises(WorkbookError, match=r"1 channels and 3 classes"):
        trainer(in_channels=1)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(WorkbookError, match="training set has 18 images, fewer than one batch of 19"):
        trainer(replace(TRAIN, batch_size=19))
    assert trainer(replace(TRAIN, batch_size=18)).num_batches == 1


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"held_out": 0.0}, {"held_out": 1.0}, {"stored": "int8"}]
)
def test_useless_settings_are_refused_by_name(wrong):
    with pytest.raises(WorkbookError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_a_training_of_few_steps_is_told_with_what_to_change():
    config = replace(TRAIN, epochs=10, batch_size=20, held_out=0.25)
    assert few_steps(config, 160) == ""
    assert "10 epochs of 100 images are 30 steps of 20" in few_steps(config, 100)


def test_an_epoch_that_chance_would_choose_is_told():
    assert few_held_out(replace(TRAIN, held_out=0.1), 500) == ""
    assert "by 16 held-out images, on which an accuracy is known to 24 points" in few_held_out(replace(TRAIN, held_out=0.1), 160)


# ----------------------------------------------------------------------------------------------------- a network's folder


def test_a_loaded_network_gives_the_same_logits_to_the_bit(trained):
    job, folder = trained
    network = load_network(folder / "last")
    images = DATA.test.images.float() / 255
    assert not network.training
    expected = job.network.eval()(images)
    job.network.train()
    assert torch.equal(network(images), expected)


def test_weights_stored_in_half_are_rounded_but_for_what_belongs_to_a_channel_and_training_goes_on_exactly(trained, tmp_path):
    from safetensors.torch import load

    exact, folder = trained
    job = run(trainer(replace(TRAIN, epochs=4, stored="float16")), tmp_path)
    weights, kept = job.network.state_dict(), exact.network.state_dict()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    stored, network = load((tmp_path / "last" / "weights.safetensors").read_bytes()), load_network(tmp_path / "last")
    for name, value in network.state_dict().items():
        assert stored[name].dtype == (torch.float16 if value.ndim > 1 else value.dtype)
        assert torch.equal(value, kept[name].half().float() if value.ndim > 1 else kept[name])
    sizes = [(path / "last" / "weights.safetensors").stat().st_size for path in (tmp_path, folder)]
    assert sizes[0] < sizes[1]


def test_the_card_says_what_the_network_is_and_where_it_comes_from(trained):
    _, folder = trained
    card = json.loads((folder / "best" / "card.json").read_text())
    assert card["name"] == "toy" and card["schema"] == training.CARD_SCHEMA and card["measured"] == []
    assert card["data"] == {"name": "toy", "classes": ["a", "b", "c"], "images": 18, "image_size": 4, "eps": 0.1}
    assert card["training"]["type"] == "TrainConfig" and card["training"]["attack"]["type"] == "PGD"
    assert card["blueprint"]["genotype"]["cells"].keys() == {"accurate", "robust", "reduction"}
    assert {"validation/adversarial_accuracy", "validation/natural_loss"} <= card["held_out"].keys()


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for name in ("card.json", "weights.safetensors"):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def other_weights(folder: Path) -> None:
    save_network(folder, toy_blueprint(channels=4).build().state_dict(), json.loads((folder / "card.json").read_text()))


def change_card(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | changes))

    return change


def overwrite(name: str, content: Any) -> Any:
    return lambda folder: (folder / name).write_bytes(content((folder / name).read_bytes()))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (overwrite("weights.safetensors", lambda old: old[:-7]), "weights.safetensors"),
        (overwrite("weights.safetensors", lambda old: b"\xff" * 8 + old[8:]), "weights.safetensors"),
        (overwrite("weights.safetensors", lambda _: b""), "weights.safetensors"),
        (other_weights, "weights.safetensors"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda folder: (folder / "card.json").unlink(), "card.json"),
        (overwrite("card.json", lambda old: old[: len(old) // 2]), "card.json"),
        (overwrite("card.json", lambda _: b"[]"), "card.json"),
        (change_card(schema=0), "card.json"),
        (change_card(blueprint=None), "card.json"),
        (change_card(blueprint={"genotype": 1}), "card.json"),
    ],
)
def test_a_damaged_folder_is_told_in_one_sentence(trained, tmp_path, damage, named):
    folder = copy(trained[1] / "best", tmp_path / "copy")
    load_network(folder)
    damage(folder)
    with pytest.raises((WorkbookError, FileNotFoundError), match=named) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)


def test_measured_numbers_take_the_place_of_earlier_ones_of_the_same_attack(trained, tmp_path):
    folder = copy(trained[1] / "best", tmp_path / "copy")
    before = load_card(folder)
    add_measurements(folder, [{"attack": "FGSM", "accuracy": 0.1}, {"attack": "PGD20", "accuracy": 0.2}])
    add_measurements(folder, [{"attack": "FGSM", "accuracy": 0.3}])
    expected = [{"attack": "PGD20", "accuracy": 0.2}, {"attack": "FGSM", "accuracy": 0.3}]
    assert load_card(folder) == before | {"measured": expected}


def test_writing_the_same_weights_again_keeps_what_was_measured_and_others_lose_it(tmp_path):
    weights, card = {"a": torch.zeros(2)}, {"epoch": 3, "measured": []}
    save_network(tmp_path, weights, card)
    add_measurements(tmp_path, [{"attack": "FGSM", "accuracy": 0.1}])
    save_network(tmp_path, weights, card)
    assert len(load_card(tmp_path)["measured"]) == 1
    save_network(tmp_path, weights, card | {"epoch": 4})
    assert load_card(tmp_path)["measured"] == []


# ------------------------------------------------------------------------------------------------------------- measure


def test_measure_leaves_the_network_and_all_random_numbers_as_found_and_repeats():
    network = toy_blueprint().build().train()
    network.stem.eval()  # some modes differ, as when a part is frozen
    modes = [module.training for module in network.modules()]
    state, random = bits(network.state_dict()), torch.get_rng_state()
    first = measure(network, DATA.test, ATTACK, 8, 3)
    assert [module.training for module in network.modules()] == modes
    assert bits(network.state_dict()) == state and torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert measure(network, DATA.test, ATTACK, 8, 3) == first
    assert measure(network, DATA.test, ATTACK, 8, 4) != first, "the noise does not depend on the seed"


def test_measure_leaves_the_modes_as_found_also_when_it_fails():
    network = toy_blueprint().build().train()

    class Failing(PGD):
        def __call__(self, *_, **__):
            raise MemoryError

    with pytest.raises(MemoryError):
        measure(network, DATA.test, Failing(), 8, 0)
    assert all(module.training for module in network.modules())


def test_measure_counts_every_image_once_whatever_the_batches():
    network = toy_blueprint().build().eval()
    images, labels = DATA.test.images.float() / 255, DATA.test.labels
    noise = uniform_noise(images, generator("measure", 0))
    measured = measure(network, DATA.test, ATTACK, len(DATA.test), 0)
    for kind, shown in (("natural", images), ("adversarial", ATTACK(network, images, labels, noise=noise))):
        logits = network(shown)
        assert measured[f"{kind}_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert measured[f"{kind}_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    for batch_size in (1, 7, 100):
        in_parts = measure(network, DATA.test, ATTACK, batch_size, 0)
        assert in_parts["natural_loss"] == pytest.approx(measured["natural_loss"], rel=1e-5)
        assert in_parts["natural_accuracy"] == pytest.approx(measured["natural_accuracy"])
    assert measured["adversarial_loss"] > measured["natural_loss"]


def test_measuring_pauses_after_each_batch_without_leaving_anything_switched():
    network, batches = toy_blueprint().build().train(), 0
    walk = measuring(network, DATA.test, ATTACK, 10, 0)
    while True:
        try:
            assert next(walk) == {} and torch.is_grad_enabled()
            batches += 1
        except StopIteration as end:
            assert end.value == measure(network, DATA.test, ATTACK, 10, 0)
            break
    assert batches == -(-len(DATA.test) // 10)
    walk = measuring(network, DATA.test, ATTACK, 10, 0)
    next(walk)
    walk.close()
    assert all(module.training for module in network.modules()), "left in evaluation mode by one who went away"


# -------------------------------------------------------------------------------------------------------------- it works


def test_training_lowers_the_adversarial_loss_of_digits():
    genotype = toy_genotype(replace(SPACE, operations=("sep_conv_3x3",)))
    blueprint = toy_blueprint(genotype=genotype, channels=8, num_classes=10)
    job = Trainer(blueprint, load("digits", limit=2), replace(TRAIN, batch_size=15))
    images, labels = job.train.images.float() / 255, job.train.labels
    losses = [job.step(images, labels, index)["train/adversarial_loss"] for index in range(9)]
    assert losses[-1] < 0.4 * losses[0], losses


def test_a_training_whose_logits_are_no_longer_finite_says_what_to_do_and_keeps_the_last_commit(tmp_path):
    trainer = Trainer(toy_blueprint(), toy_data(), replace(TRAIN, learning_rate=1e38))
    with pytest.raises(WorkbookError, match=r"not finite in epoch 1; the last commit \(epoch 0\) is kept; a smaller learning rate"):
        for _ in run_epochs(trainer, tmp_path):
            pass
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None and state["job"]["epoch"] == 0
