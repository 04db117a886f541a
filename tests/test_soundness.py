"""The soundness board: an honest network passes, shipped broken defences are caught, and each check can do both."""

from __future__ import annotations

import copy
import random
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsara_lib.attacks import FGSM, PGD, AutoAttack
from dsara_lib.data import DataSet, Split, unit_interval
from dsara_lib.data import load as load_data
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation, Evaluator, Images, TransferMatrix, black_box, evaluate
from dsara_lib.paper import paper_tables
from dsara_lib.runs import write_json
from dsara_lib.soundness import BROKEN, CHECKS, MEASURES, Check, Evidence, board, check, inspect, load, probe, remark, save, worst

EPS = 0.15
PGD20 = PGD(eps=EPS, step_size=EPS / 4)
ATTACKS = {
    "FGSM": FGSM(eps=EPS),
    "PGD20": PGD20,
    "PGD100": replace(PGD20, steps=100),
    "AutoAttack": AutoAttack(eps=EPS, steps=10, targets=2, queries=100),
}
CAUGHT_BY = {
    "softmaxed output": "softmaxed output",
    "quantised input": "zero gradients",
    "randomised forward pass": "randomised forward pass",
    "scaled logits": "logit scale",
    "NaN gradients": "finite numbers",
    "NaN off the grid": "finite numbers",
    "batch statistics": "evaluation mode",
    "purified input": "gradients inside the forward pass",
    "shattered gradient": "gradient and loss",
}
SEEMS_BETTER = ("softmaxed output", "quantised input", "scaled logits", "purified input", "shattered gradient")


def trained(data: DataSet, epochs: int, seed: int) -> nn.Module:
    """A small network, adversarially trained on digits."""
    torch.manual_seed(seed)
    convolutions = (nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.Conv2d(12, 24, 3, padding=1))
    layers = [layer for conv in convolutions for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 16, 10))
    images, labels = unit_interval(data.train.images), data.train.labels
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * (len(labels) // 96))
    attack = PGD(eps=EPS, step_size=0.6 * EPS, steps=2)
    for _ in range(epochs):
        for at in torch.randperm(len(labels))[: len(labels) // 96 * 96].split(96):
            attacked = attack(network.eval(), images[at], labels[at])
            optimizer.zero_grad()
            F.cross_entropy(network.train()(attacked), labels[at]).backward()
            optimizer.step()
            schedule.step()
    network.zero_grad()
    return network.eval()


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load_data("digits")


@pytest.fixture(scope="session")
def split(digits: DataSet) -> Split:
    return digits.test.subset(torch.arange(0, len(digits.test), 4)[:80])


@pytest.fixture(scope="session")
def honest(digits: DataSet) -> nn.Module:
    return trained(digits, epochs=7, seed=0)


@pytest.fixture(scope="session")
def evaluation(honest: nn.Module, split: Split, digits: DataSet) -> Evaluation:
    return evaluate(honest, split, ATTACKS, name="honest", data="digits", classes=digits.classes)


@pytest.fixture(scope="session")
def probes(honest: nn.Module, split: Split) -> dict[str, Any]:
    return probe(honest, split, EPS)


# -- whole networks ----------------------------------------------------------------------------------------------------


def test_an_honest_network_passes_every_check(honest: nn.Module, split: Split, evaluation: Evaluation, digits: DataSet) -> None:
    curve = [{"network": "other", "eps": 0.0, "correct": 0, "images": 80}]
    for eps in (0.0, 0.075, 0.15, 0.5):
        attack = PGD(eps=eps, step_size=eps / 4)
        at = evaluate(honest, split, {"PGD20": attack}, name="honest")
        curve += [{**row, "eps": eps} for row in at.rows() if row["attack"] == "PGD20"]
    networks = {"honest": honest, "stranger": trained(digits, epochs=2, seed=1)}
    crossed = Evaluator(black_box(networks, PGD20), networks, split, data="digits")
    while crossed.epoch < crossed.num_epochs:
        list(crossed.run_epoch())
    checks, probes = inspect(honest, split, evaluation, curve=curve, transfer=crossed.transfer_matrix("PGD20", EPS))
    assert probes["failed"] == {}
    assert [each for each in checks if each.verdict != "pass"] == []
    assert worst(checks) == "pass" and remark(checks) == ""
    assert evaluation.accuracy("AutoAttack") > 0.5


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_defence_is_caught_by_the_check_meant_for_it(
    name: str, honest: nn.Module, split: Split, evaluation: Evaluation
) -> None:
    network = BROKEN[name](honest).eval()
    try:
        naive = evaluate(network, split, {"FGSM": ATTACKS["FGSM"], "PGD20": PGD20}, name=name)
    except WorkbookError as error:
        assert CAUGHT_BY[name] == "finite numbers" and "not finite" in str(error)
        naive = evaluate(network, split, {}, name=name)
    assert naive.accuracy() >= evaluation.accuracy() - 0.05
    if name in SEEMS_BETTER:
        assert naive.accuracy("PGD20") > evaluation.accuracy("PGD20") + 0.05
    checks, _ = inspect(network, split, naive, eps=EPS)
    verdicts = {each.name: each.verdict for each in checks}
    assert verdicts[CAUGHT_BY[name]] == "fail"
    assert worst(checks) == "fail" and CAUGHT_BY[name] in remark(checks)


def test_every_shipped_broken_defence_says_which_published_mistake_it_is() -> None:
    assert set(CAUGHT_BY) == set(BROKEN)
    assert all("20" in (each.__doc__ or "") for each in BROKEN.values())


def test_an_undefended_network_and_a_cell_network_are_not_accused(split: Split, digits: DataSet, network: nn.Module) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(plain(unit_interval(digits.train.images)), digits.train.labels).backward()
        optimizer.step()
    attacks = {key: ATTACKS[key] for key in ("FGSM", "PGD20")}
    few = Split(images=split.images[:16], labels=split.labels[:16] % 4)
    for undefended, its in ((plain, split), (network.eval(), few)):
        checks, _ = inspect(undefended, its, evaluate(undefended, its, attacks))
        assert [each for each in checks if each.verdict == "fail"] == []


# -- probes ------------------------------------------------------------------------------------------------------------


class Restless(nn.Module):
    """Changes all of itself in each pass, and all randomness there is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 10)
        self.norm = nn.BatchNorm1d(10)
        self.register_buffer("seen", torch.tensor([-0.0, torch.nan]), persistent=False)
        self.count = 0

    def forward(self, images: Tensor) -> Tensor:
        self.train()
        self.count += 1
        self.seen += 1
        self.norm.running_mean = self.norm.running_mean * 0.9 + images.mean()  # another tensor in its place, with its history
        self.fresh = torch.rand(()) + np.random.rand() + random.random()
        with torch.no_grad():
            self.linear.weight.add_(1)
        return self.norm(self.linear(images.flatten(1)))


def bits(network: nn.Module) -> list[Any]:
    """All that a network is."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    values = [(name, id(t), t.detach().numpy().tobytes(), t.requires_grad, t.is_leaf, id(t.grad)) for name, t in tensors]
    gradients = [t.grad.numpy().tobytes() for _, t in tensors if t.grad is not None]
    return [values, gradients, [m.training for m in network.modules()], getattr(network, "count", 0), hasattr(network, "fresh")]


@pytest.mark.parametrize("make", [Restless, lambda: BROKEN["batch statistics"](Restless())])
def test_a_probe_leaves_network_and_randomness_to_the_bit(make: Any, split: Split) -> None:
    network = make()
    F.cross_entropy(network(unit_interval(split.images)), split.labels).backward()
    network.zero_grad(set_to_none=False)
    network = copy.deepcopy(make())
    first, *others = network.parameters()
    first.requires_grad_(False)
    others[0].grad = torch.ones_like(others[0])
    next(iter(network.children())).eval()
    before, state = bits(network), (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    with torch.inference_mode():
        found = probe(network, split, EPS)
    assert found["modes"]["num_changed"] >= 2 and found["modes"]["still_training"] > 0
    assert bits(network) == before
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[2]
    assert (np.random.get_state()[1] == state[1]).all()
    assert sys.getprofile() is None


def test_a_probe_repeats_itself_and_is_plain_json(honest: nn.Module, split: Split, probes: dict[str, Any]) -> None:
    assert probe(honest, split, EPS) == probes
    assert probe(copy.deepcopy(honest).double(), split, EPS)["failed"] == {}
    assert set(probes) == {"at", "failed", *MEASURES}
    assert probes["at"]["indices"][0] == 0 and probes["at"]["indices"][-1] == len(split) - 1


class Answers(nn.Module):
    """A network without parameters that answers what it was given to answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


STRANGE = {
    "tuple": lambda images: (images.flatten(1)[:, :10],),
    "narrow": lambda images: images.flatten(1)[:, :2],
    "one too many": lambda images: torch.ones(len(images) + 1, 10),
    "raises": lambda images: 1 // 0,
    "constant": lambda images: torch.zeros(len(images), 10),
    "NaN": lambda images: torch.full((len(images), 10), torch.nan),
    "infinite": lambda images: images.flatten(1)[:, :10] * torch.inf,
    "detached": lambda images: images.detach().flatten(1)[:, :10],
    "numpy": lambda images: torch.from_numpy(images.detach().numpy()).flatten(1)[:, :10],
    "in numpy": lambda images: torch.from_numpy(images.numpy()).flatten(1)[:, :10],
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_network_makes_findings_and_no_exception(name: str, split: Split, evaluation: Evaluation, tmp_path: Any) -> None:
    found = probe(Answers(STRANGE[name]), split, EPS)
    checks = board(evaluation, found)
    assert worst(checks) == "fail"
    save(tmp_path / "board.json", checks, found)


def test_float_images_off_the_grid_are_told(honest: nn.Module, split: Split, evaluation: Evaluation) -> None:
    images = (unit_interval(split.images) * 0.9 + 0.0007).clamp(0, 1)
    checks, probes = inspect(honest, Images(images=images, labels=split.labels), evaluation)
    assert probes["pixels"]["off_grid"] > 0.9
    assert next(each for each in checks if each.name == "image range").verdict == "warn"


def test_modules_handed_over_in_training_mode_are_told(honest: nn.Module, split: Split, evaluation: Evaluation) -> None:
    network = copy.deepcopy(honest).train()
    found = probe(network, split, EPS)
    assert network.training
    assert check("evaluation mode", Evidence(evaluation=evaluation, probes=found)).verdict == "warn"


class Adapting(nn.Module):
    """Takes a gradient in its forward pass, in the way it is told."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.linear = way, nn.Linear(3 * 64, 10)

    def forward(self, images: Tensor) -> Tensor:
        def energy(x: Tensor) -> Tensor:
            return self.linear(x.flatten(1)).logsumexp(dim=1).sum()

        if self.way == "functional":
            moved = images + torch.func.grad(energy)(images.detach())
        elif self.way == "predicting" and torch.is_grad_enabled():
            moved = images
        else:
            with torch.enable_grad():
                x = images.detach().requires_grad_()
                energy(x).backward()
            moved = images + x.grad
        return self.linear(moved.flatten(1))


@pytest.mark.parametrize("way", ["functional", "predicting", "backward"])
def test_gradients_inside_the_forward_pass_are_seen(way: str, split: Split) -> None:
    assert probe(Adapting(way), split, EPS)["inside"]["called"]


# -- each check on made-up evidence ------------------------------------------------------------------------------------

NUM = 200
SETTINGS = {
    "type": "PGD",
    "eps": 8 / 255,
    "step_size": 2 / 255,
    "steps": 20,
    "start": "uniform",
    "loss": "cross-entropy",
    "engine": "dsara",
}


def made_up(right: dict[str, int], late: int = 0, **changes: Any) -> Evaluation:
    """So many right images in each row, the first ones; of Square those after the first `late`."""
    labels = torch.arange(NUM) % 10

    def predictions(name: str, count: int) -> Tensor:
        skipped = late if name == "Square" else 0
        place = torch.arange(NUM)
        return torch.where((place >= skipped) & (place < count + skipped), labels, (labels + 1) % 10)

    given: dict[str, Any] = {
        "network": "network",
        "data": "made up",
        "eps": 8 / 255,
        "classes": tuple("0123456789"),
        "labels": labels,
        "predictions": {name: predictions(name, count) for name, count in right.items()},
        "attacks": {name: None if name == "natural" else SETTINGS for name in right},
        "provenance": {"dtype": "float32", "seed": 0, "image_checksum": "abc", "prepared": True},
        "reached": {name: {"change": 8 / 255 + 1e-8, "low": 0.0, "high": 1.0} for name in right if name != "natural"},
        "traces": {"PGD100": {"loss": [min(step, 30) / 30 for step in range(101)]}} if "PGD100" in right else {},
    }
    return Evaluation(**{**given, **changes})


USUAL = {"natural": 180, "FGSM": 120, "PGD20": 110, "PGD100": 109, "APGD-CE": 108, "AutoAttack": 104, "Square": 125}
TRANSFER = {"network": 110, "other": 140}


def matrix(lost: int) -> TransferMatrix:
    """The network keeps 110 images under its own attack, of which a stranger's takes `lost`."""
    labels = torch.arange(NUM) % 10
    own = torch.where(torch.arange(NUM) < 110, labels, (labels + 1) % 10)
    other = torch.where(torch.arange(NUM) >= lost, labels, (labels + 1) % 10)
    predictions = torch.stack([torch.stack([own, other]), torch.stack([other, own])])
    names = ("network", "other")
    return TransferMatrix(
        sources=names, targets=names, attack="PGD20", eps=8 / 255, data="made up", labels=labels, predictions=predictions
    )


def points(*correct: int, radii: tuple[int, ...] = (0, 4, 8, 64)) -> list[dict[str, Any]]:
    """A curve of the network through so many right images."""
    rows = zip(radii, correct, strict=True)
    return [{"network": "network", "eps": eps / 255, "correct": right, "images": NUM} for eps, right in rows]


def wedge(row: str, **at: float) -> dict[str, dict[str, float]]:
    return {name: {"change": 8 / 255, "low": 0.0, "high": 1.0, **(at if name == row else {})} for name in USUAL}


RISING = {"PGD100": {"loss": [float(step) for step in range(101)]}}
OUTSIDE = {"change": 8 / 255 + 1e-4}
AGREES = {"short_wins": 0.1, "short_ratio": 0.0}
WITHOUT_STEP = {key: value for key, value in SETTINGS.items() if key != "step_size"}

# (check, verdict, changed probes or evidence)
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("evaluation mode", "fail", {"modes": {"num_changed": 1, "changed": ["mean"]}}),
    ("evaluation mode", "fail", {"modes": {"still_training": 1}}),
    ("evaluation mode", "warn", {"modes": {"found_training": 9}}),
    ("image range", "fail", {"pixels": {"high": 255.0}}),
    ("image range", "warn", {"pixels": {"high": 1 / 255}}),
    ("image range", "warn", {"pixels": {"off_grid": 0.5}}),
    ("ball and box", "fail", {"evaluation": {"reached": wedge("PGD20", **OUTSIDE)}}),
    ("ball and box", "fail", {"evaluation": {"reached": wedge("PGD20", low=-0.01)}}),
    ("ball and box", "fail", {"evaluation": {"reached": wedge("PGD20", high=float("nan"))}}),
    ("ball and box", "fail", {"evaluation": {"reached": wedge("natural", change=0.001)}}),
    ("ball and box", "warn", {"evaluation": {"reached": {"FGSM": {"change": 8 / 255, "low": 0.0, "high": 1.0}}}}),
    ("ball and box", "skipped", {"evaluation": {"reached": {}}}),
    ("randomised forward pass", "fail", {"repetition": {"logits": 0.01}}),
    ("randomised forward pass", "fail", {"repetition": {"gradients": 1.0}}),
    ("softmaxed output", "fail", {"output": {"softmaxed": True}}),
    ("softmaxed output", "warn", {"output": {"log_softmaxed": True}}),
    ("finite numbers", "fail", {"finiteness": {"off_grid_logits": 1 / 64}}),
    ("zero gradients", "fail", {"zeros": {"margin_images": 0.1}}),
    ("zero gradients", "warn", {"zeros": {"natural_images": 1 / 64}}),
    ("zero gradients", "warn", {"zeros": {"start_elements": 0.6}}),
    ("logit scale", "fail", {"scale": {"underflow": 0.1}}),
    ("logit scale", "warn", {"scale": {"loss_zero": 0.3}}),
    ("gradient and loss", "fail", {"agreement": {"long_wins": 0.1, **AGREES}}),
    ("gradient and loss", "warn", {"agreement": {"long_wins": 0.8, **AGREES}}),
    ("gradient and loss", "pass", {"agreement": AGREES}),
    ("gradients inside the forward pass", "fail", {"inside": {"called": ["torch.autograd.grad"]}}),
    ("batch dependence", "fail", {"company": {"shuffled": 0.1}}),
    ("batch dependence", "warn", {"company": {"alone": 0.003}}),
    ("order of attacks", "fail", {"right": {"APGD-CE": 130}}),
    ("order of attacks", "pass", {"right": {"APGD-CE": 111}}),
    ("order of attacks", "skipped", {"only": ["natural"]}),
    ("convergence", "warn", {"right": {"PGD100": 100}}),
    ("convergence", "warn", {"right": {"APGD-CE": 50}}),
    ("convergence", "warn", {"evaluation": {"traces": RISING}}),
    ("convergence", "skipped", {"only": ["PGD20"]}),
    ("black box or noise", "fail", {"late": 30}),
    ("black box or noise", "warn", {"late": 7}),
    ("black box or noise", "pass", {"late": 3}),
    ("black box or noise", "fail", {"noise": {"fooled": [0, 3, 6, 9, 12, 15, 18]}, "only": ["PGD100"]}),
    ("black box or noise", "pass", {"noise": {"fooled": [150, 153]}, "only": ["PGD100"]}),
    ("black box or noise", "skipped", {"at": {"labels": [1] * 64}, "only": ["PGD100"]}),
    ("black box or noise", "skipped", {"only": ["natural", "Square"]}),
    ("transfer", "fail", {"transfer": matrix(30)}),
    ("transfer", "warn", {"transfer": matrix(7)}),
    ("transfer", "skipped", {"transfer": None}),
    ("transfer", "skipped", {"transfer": matrix(30), "evaluation": {"network": "third"}}),
    ("accuracy against eps", "fail", {"curve": points(180, 60, 100, 0)}),
    ("accuracy against eps", "warn", {"curve": points(180, 140, 146, 0)}),
    ("accuracy against eps", "skipped", {"curve": points(180, 110, 100, 0)[:1]}),
    ("natural at eps 0", "fail", {"curve": points(179, 140, 110, 0)}),
    ("natural at eps 0", "skipped", {"curve": points(180, 140, 110, 0)[1:]}),
    ("natural at eps 0", "skipped", {"only": ["PGD20"]}),
    ("chance at a large eps", "fail", {"curve": points(180, 140, 110, 50)}),
    ("chance at a large eps", "pass", {"curve": points(180, 140, 110, 24)}),
    ("chance at a large eps", "skipped", {"curve": points(180, 140, 110, 50)[:3]}),
    ("chance at a large eps", "skipped", {"evaluation": {"eps": 16 / 255}}),
    ("gap from FGSM to AutoAttack", "warn", {"right": {"AutoAttack": 60}}),
    ("gap from FGSM to AutoAttack", "warn", {"right": {"FGSM": 40, "AutoAttack": 15}}),
    ("gap from FGSM to AutoAttack", "pass", {"right": {"FGSM": 10, "AutoAttack": 0}}),
    ("gap from FGSM to AutoAttack", "skipped", {"only": ["FGSM"]}),
    ("provenance", "fail", {"evaluation": {"provenance": {"dtype": "bfloat16", "seed": 0, "image_checksum": "abc"}}}),
    ("provenance", "fail", {"evaluation": {"provenance": {"dtype": "float32", "seed": 0}}}),
    ("provenance", "fail", {"evaluation": {"attacks": {**dict.fromkeys(USUAL, SETTINGS), "PGD20": WITHOUT_STEP}}}),
    ("provenance", "fail", {"evaluation": {"attacks": {**dict.fromkeys(USUAL, SETTINGS), "PGD20": {**SETTINGS, "eps": 4 / 255}}}}),
    ("provenance", "fail", {"evaluation": {"attacks": {}}}),
    ("provenance", "warn", {"evaluation": {"attacks": {**dict.fromkeys(USUAL, SETTINGS), "PGD20": {**SETTINGS, "engine": ""}}}}),
    *[(name, "pass", {}) for name in CHECKS],
]


def evidence(probes: dict[str, Any], changes: dict[str, Any]) -> Evidence:
    """The usual evidence with changes."""
    only = changes.get("only", list(USUAL))
    right = {name: count for name, count in {**USUAL, **changes.get("right", {})}.items() if name in only}
    labels = (torch.arange(NUM) % 10).tolist()
    places = {"at": {"indices": [*range(0, 192, 3)], "labels": labels[:192:3]}, "noise": {"right": 60, "fooled": []}}
    seen = {name: {**found, **places.get(name, {}), **changes.get(name, {})} for name, found in probes.items()}
    return Evidence(
        evaluation=made_up(right, changes.get("late", 0), **changes.get("evaluation", {})),
        probes=seen,
        curve=changes.get("curve", points(180, 140, 110, 0)),
        transfer=changes.get("transfer", matrix(1)),
    )


@pytest.mark.parametrize(("name", "verdict", "changes"), CASES)
def test_verdict(name: str, verdict: str, changes: dict[str, Any], probes: dict[str, Any]) -> None:
    found = check(name, evidence(probes, changes))
    assert found.verdict == verdict, found
    assert found.name == name and found.sentence.endswith(".") and "\n" not in found.sentence
    assert verdict != "skipped" or found.sentence.startswith("Needs")


FIRST = 40  # all of which are right under FGSM, PGD20 and PGD100: an accuracy on them is no less than on all


def asked_of_first(
    right: dict[str, int], late: int = 0, *, costly: tuple[str, ...] = ("APGD-CE", "AutoAttack", "Square")
) -> Evaluation:
    """As `made_up`, the costly attacks on the first images only."""
    whole = made_up(right, late)
    predictions = {name: p[:FIRST] if name in costly else p for name, p in whole.predictions.items()}
    provenance = {**whole.provenance, "image_checksums_of_first": {str(FIRST): "first"}}
    return replace(whole, predictions=predictions, provenance=provenance)


# What would be found on all images of each row is the opposite: the first images are the easy ones.
ON_COMMON_IMAGES = [
    ("gap from FGSM to AutoAttack", {"AutoAttack": 24}, 0, "warn"),  # 60 % of 200 are 60 % of 40
    ("convergence", {"APGD-CE": 22}, 0, "warn"),
    ("order of attacks", {"APGD-CE": 40, "AutoAttack": 40}, 0, "pass"),  # 54.5 % of 200 and 100 % of 40
    ("black box or noise", {}, 8, "fail"),
]


@pytest.mark.parametrize(("name", "right", "late", "verdict"), ON_COMMON_IMAGES)
def test_attacks_are_compared_on_the_images_that_both_were_asked_of(
    name: str, right: dict[str, int], late: int, verdict: str
) -> None:
    evaluation = asked_of_first({**USUAL, "AutoAttack": 40, "APGD-CE": 40, "Square": 40, **right}, late)
    found = check(name, Evidence(evaluation=evaluation))
    assert found.verdict == verdict and f"{FIRST} images" in found.sentence, found
    assert found.verdict == check(name, Evidence(evaluation=evaluation.together())).verdict
    if name == "gap from FGSM to AutoAttack":
        assert evaluation.accuracy("FGSM") == pytest.approx(evaluation.accuracy("AutoAttack"))
    if name == "order of attacks":
        assert "PGD100 54.5% of 200, APGD-CE 100.0% of 40, AutoAttack 100.0% of 40 images" in found.sentence
        assert evaluation.accuracy("APGD-CE") > evaluation.accuracy("PGD100")
    if name == "convergence":
        assert "by 0.5 and 45.0 points on 200 and 40 images" in found.sentence


def test_noise_is_held_against_what_was_asked_of_all_images(probes: dict[str, Any]) -> None:
    labels = (torch.arange(NUM) % 10).tolist()
    at = {"indices": [*range(0, 192, 3)], "labels": labels[:192:3]}
    fooled = {"at": at, "noise": {"right": 60, "fooled": [60, 63, 66, 69, 72, 75, 78]}}  # beyond the first images
    for costly, verdict, told in (((), "fail", "PGD100"), (("APGD-CE",), "fail", "PGD100"), (("PGD100", "APGD-CE"), "skipped", "")):
        right = {"natural": 180, "PGD100": 109, "APGD-CE": 108 if not costly else 40}
        evaluation = asked_of_first(right, costly=costly)
        found = check("black box or noise", Evidence(evaluation=evaluation, probes={**probes, **fooled}))
        assert found.verdict == verdict and told in found.sentence
        assert ("APGD-CE left right" in found.sentence) == (not costly)


def test_whole_board_takes_rows_of_the_first_images(probes: dict[str, Any]) -> None:
    evaluation = asked_of_first({**USUAL, "APGD-CE": 40, "AutoAttack": 39, "Square": 40})
    checks = board(evaluation, probes, curve=points(180, 140, 110, 0), transfer=matrix(1))
    assert [each.name for each in checks if each.verdict in ("warn", "fail")] == []
    (ball,) = (each for each in checks if each.name == "ball and box")
    assert "made of 40 or 200 images" in ball.sentence
    unknown = replace(evaluation, provenance={"dtype": "float32", "seed": 0, "image_checksum": "abc"})
    found = check("provenance", Evidence(evaluation=unknown))
    assert found.verdict == "fail" and "image_checksum of APGD-CE" in found.sentence


def test_every_check_is_seen_to_pass_and_to_object() -> None:
    seen = {name: {verdict for each, verdict, _ in CASES if each == name} for name in CHECKS}
    assert all("pass" in verdicts and verdicts & {"warn", "fail"} for verdicts in seen.values())


def test_without_evidence_everything_is_skipped_but_what_the_rows_lack() -> None:
    checks = board(made_up({"natural": 180}), {})
    assert {each.name for each in checks if each.verdict != "skipped"} == {"provenance"}
    assert worst(each for each in checks if each.name != "provenance") == "skipped"
    assert [each.name for each in checks] == list(CHECKS)


def test_a_measurement_that_failed_fails_its_check(probes: dict[str, Any]) -> None:
    failed = {**probes, "failed": {"output": "ZeroDivisionError: by zero"}}
    found = check("softmaxed output", Evidence(evaluation=made_up(USUAL), probes=failed))
    assert found.verdict == "fail" and "by zero" in found.sentence


@pytest.mark.parametrize("row", paper_tables()["table1"]["rows"], ids=lambda row: row[1])
def test_thresholds_tell_the_networks_of_table_1_from_abanditnas(row: list[Any]) -> None:
    names = ("natural", "FGSM", "PGD20", "PGD100", "APGD-CE", "AutoAttack")
    labels = torch.zeros(10_000, dtype=torch.int64)
    shares = dict(zip(names, row[4:], strict=True))
    predictions = {name: (torch.arange(10_000) >= round(100 * share)).long() for name, share in shares.items()}
    evaluation = made_up({}, labels=labels, predictions=predictions)
    verdicts = {
        name: check(name, Evidence(evaluation=evaluation)).verdict
        for name in ("order of attacks", "convergence", "gap from FGSM to AutoAttack")
    }
    hint = "warn" if row[1].startswith("ABanditNAS") else "pass"
    assert verdicts == {"order of attacks": "pass", "convergence": hint, "gap from FGSM to AutoAttack": hint}


# -- what is said and kept ---------------------------------------------------------------------------------------------


def line(verdict: str, name: str = "a check") -> Check:
    return Check(name=name, verdict=verdict, number="1", sentence="Something was measured.")


def test_remark_names_what_fails_and_warns() -> None:
    checks = [line("warn", "convergence"), line("fail", "transfer"), line("pass"), line("fail", "order"), line("skipped")]
    assert remark(iter(checks)) == "fails: transfer, order; warns: convergence"
    assert worst(checks) == "fail" and worst(checks[:1]) == "warn" and worst([line("skipped"), line("pass")]) == "pass"
    assert remark([line("pass"), line("skipped")]) == "" and worst([]) == "skipped"


def test_board_and_probes_survive_the_disk(evaluation: Evaluation, probes: dict[str, Any], tmp_path: Any) -> None:
    checks = board(evaluation, probes)
    save(tmp_path / "board.json", checks, probes)
    assert load(tmp_path / "board.json") == (checks, probes)
    assert board(evaluation, load(tmp_path / "board.json")[1]) == checks


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"checks": []},
        {"checks": None, "probes": {}},
        {"checks": [{"name": "a"}], "probes": {}},
        {"checks": [{"name": "a", "verdict": "great", "number": "", "sentence": ""}], "probes": {}},
        {"checks": [{"name": "a", "verdict": "pass", "number": 1, "sentence": ""}], "probes": {}},
    ],
)
def test_a_file_that_is_no_board_is_told(content: Any, tmp_path: Any) -> None:
    write_json(tmp_path / "board.json", content)
    with pytest.raises(WorkbookError, match=r"board\.json"):
        load(tmp_path / "board.json")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
