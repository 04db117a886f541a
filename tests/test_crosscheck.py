"""Our AutoAttack against the authors' own code: the same verdicts on three kinds of network."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import bits

from dsara_lib.attacks import PGD, AutoAttack, Draws
from dsara_lib.attacks.base import errs
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import NATURAL, PyAutoAttack, evaluate

NUM_IMAGES = 128
# Networks by what they are: activation, the radius they are trained at, the radius they are attacked at.
KINDS: dict[str, tuple[type[nn.Module], float, float]] = {
    "undefended": (nn.ReLU, 0.0, 0.12),
    "adversarially trained": (nn.ReLU, 0.15, 0.25),
    "smooth": (nn.Softplus, 0.1, 0.2),
}
HALF = AutoAttack(steps=50, targets=9, queries=1000)  # enough for these networks; the whole of it for one of them
BRIEF = AutoAttack(eps=0.1, steps=5, targets=3, queries=20)


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 8x8 digits in [0, 1], mixed."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(found.images).float()[order, None] / 16, torch.from_numpy(found.target).long()[order]


def untrained(activation: type[nn.Module], classes: int = 10) -> nn.Module:
    first = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), activation())
    second = (nn.Conv2d(8, 16, 3, stride=2, padding=1), activation())
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, classes))


@pytest.fixture(scope="session")
def networks(digits: tuple[Tensor, Tensor]) -> dict[str, nn.Module]:
    """One of each kind, trained on what the tests do not attack."""
    images, labels = (each[NUM_IMAGES:] for each in digits)
    trained = {}
    for name, (activation, eps, _) in KINDS.items():
        torch.manual_seed(0)
        model = untrained(activation)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        attack = PGD(eps=eps, step_size=eps / 3, steps=4)
        for _ in range(6):
            for kept in torch.randperm(len(images)).split(64):
                x, y = images[kept], labels[kept]
                x = attack(model, x, y) if eps else x
                optimizer.zero_grad()
                F.cross_entropy(model.train()(x), y).backward()
                optimizer.step()
        trained[name] = model.eval()
    return trained


def chosen(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What is attacked."""
    images, labels = digits
    return images[:NUM_IMAGES], labels[:NUM_IMAGES]


# The whole budget for all three takes three minutes; LOG.md has the numbers.
@pytest.mark.parametrize(("kind", "budget"), [*((kind, HALF) for kind in KINDS), (list(KINDS)[-1], AutoAttack())])
def test_verdicts_are_those_of_the_authors_code(kind: str, budget: AutoAttack, networks: Any, digits: Any) -> None:
    pytest.importorskip("pyautoattack")
    attacks = {"AutoAttack": replace(budget, eps=KINDS[kind][2])}
    ours, theirs = (
        evaluate(networks[kind], chosen(digits), attacks, name=engine, engine=engine) for engine in ("dsara", "pyautoattack")
    )
    assert torch.equal(ours.predictions[NATURAL], theirs.predictions[NATURAL])
    one, other = ours.correct("AutoAttack"), theirs.correct("AutoAttack")
    print(f"{kind}: {ours.correct().sum()} of {NUM_IMAGES} right, ours leaves {one.sum()}, theirs {other.sum()}")
    assert 0 < one.sum() < NUM_IMAGES / 3 and abs(int(one.sum()) - int(other.sum())) <= 1
    assert (one != other).sum() <= 2
    assert [each.rows()[-1]["engine"] for each in (ours, theirs)] == ["dsara", "pyautoattack"]
    with pytest.raises(WorkbookError, match="engine 'dsara' and 'pyautoattack'"):
        ours.compare(theirs, "AutoAttack")


def test_what_they_find_lies_in_the_ball_and_follows_from_the_seed(networks: Any, digits: Any) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (each[:20] for each in chosen(digits))
    model, attack = networks["undefended"], PyAutoAttack.like(BRIEF)
    attacked = attack(model, images, labels, seed=1)
    assert errs(model, attacked, labels).any()
    assert (attacked - images).abs().max() <= 0.1 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    assert torch.equal(attacked, attack(model, images, labels, seed=Draws.of(1, images)))


def test_they_are_given_the_same_budgets(monkeypatch: pytest.MonkeyPatch, networks: Any, digits: Any) -> None:
    package = pytest.importorskip("pyautoattack")
    made: list[Any] = []
    run = package.AutoAttack.run_standard_evaluation

    def noted(self: Any, *given: Any, **named: Any) -> Any:
        made.append(self)
        return run(self, *given, **named)

    monkeypatch.setattr(package.AutoAttack, "run_standard_evaluation", noted)
    attack = AutoAttack(eps=0.1, steps=50, targets=3, queries=7)
    PyAutoAttack.like(attack)(networks["undefended"], *(each[:4] for each in chosen(digits)), seed=0)
    (theirs,) = made
    assert theirs.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"] and theirs.epsilon == 0.1
    assert {part.n_restarts for part in (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square)} == {1}
    for part in (theirs.apgd, theirs.apgd_targeted, theirs.fab):
        assert part.n_iter == 50 and part.eps == 0.1
    for part in (theirs.apgd, theirs.apgd_targeted):  # also when the step size is looked at
        made_for_50 = type(part)(None, n_iter=50, eps=0.1)
        for name in ("n_iter_2", "n_iter_min", "size_decr"):
            assert getattr(part, name) == getattr(made_for_50, name)
    assert theirs.apgd_targeted.n_target_classes == theirs.fab.n_target_classes == 3 and theirs.square.n_queries == 7


def test_their_code_leaves_the_network_and_torch_as_they_were(networks: Any, digits: Any) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (each[:8] for each in chosen(digits))
    model = copy.deepcopy(networks["undefended"]).train()
    model[1].eval()
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)

    def condition() -> Any:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        return modes, [(p.requires_grad, bits(p.grad)) for p in model.parameters()], bits(state), bits(torch.get_rng_state())

    before = condition()
    PyAutoAttack.like(BRIEF)(model, images, labels, seed=0)
    assert condition() == before
    with torch.inference_mode():
        PyAutoAttack.like(BRIEF)(model, images.clone(), labels.clone(), seed=0)
    assert condition() == before


def test_too_few_classes_and_other_precisions_are_refused_in_a_sentence(digits: Any) -> None:
    pytest.importorskip("pyautoattack")
    images, labels = (each[:8] for each in chosen(digits))
    attack = PyAutoAttack.like(BRIEF)
    for classes in (2, 3):
        with pytest.raises(WorkbookError, match=f"needs at least four classes; the network has {classes}"):
            attack(untrained(nn.ReLU, classes), images, labels % classes)
    attack(untrained(nn.ReLU, 4), images, labels % 4, seed=0)  # fewer than ten, where the package alone would fail
    with pytest.raises(WorkbookError, match=r"pyautoattack computes in float32; the images are torch\.float64"):
        attack(untrained(nn.ReLU).double(), images.double(), labels)


def test_a_missing_package_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    images, labels = (each[:8] for each in chosen(digits))
    monkeypatch.setitem(sys.modules, "pyautoattack", None)  # as if it were not there
    with pytest.raises(WorkbookError, match="engine 'pyautoattack' needs the package of that name: pip install pyautoattack"):
        evaluate(untrained(nn.ReLU), (images, labels), {"AutoAttack": BRIEF}, engine="pyautoattack")
    found = evaluate(untrained(nn.ReLU), (images, labels), {"AutoAttack": BRIEF})  # ours needs nothing
    assert "AutoAttack" in found.predictions
