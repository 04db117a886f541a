"""The contract that `attacks/base.py` states, over the table of attacks, and each attack against its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_capture import META, NothingWaits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dsara_lib.architecture import SearchSpace, Supernet, zoo
from dsara_lib.attacks import (
    APGD,
    APGDT,
    ATTACKS,
    BIM,
    FABT,
    FGSM,
    MIFGSM,
    PGD,
    AutoAttack,
    Draws,
    Square,
    at_radius,
    make_attack,
)
from dsara_lib.attacks.base import errs, uniform_noise
from dsara_lib.errors import WorkbookError

STEPPED = {name: attack for name, attack in ATTACKS.items() if hasattr(attack, "step_size")}
# These go on to the largest loss; the others let an image go as soon as it fools.
CLIMBING = ["FGSM", "BIM", "PGD20", "PGD100", "MI-FGSM"]
EVERY_ATTACK = pytest.mark.parametrize("attack", [pytest.param(each, id=name) for name, each in ATTACKS.items()])
EVERY_KIND = pytest.mark.parametrize("kind", [FGSM, BIM, PGD, MIFGSM, APGD, APGDT, FABT, Square, AutoAttack])
EVERY_CLIMBER = pytest.mark.parametrize("attack", [pytest.param(ATTACKS[name], id=name) for name in CLIMBING])


def within(attack: Any, **budgets: int) -> Any:
    """The same attack with at most these steps, queries and targets."""
    return replace(attack, **{name: min(getattr(attack, name), most) for name, most in budgets.items() if hasattr(attack, name)})


def brief(attack: Any, eps: float = 0.1) -> Any:
    """The same attack with very little to spend, in a larger ball."""
    return within(at_radius(attack, eps), steps=3, queries=8, targets=2)


def small_model() -> nn.Module:
    """A network whose output depends on its mode: batch norm and dropout, and sizes that no two weights share."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 7, 3, stride=2),
        nn.BatchNorm2d(7),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 4),
    )


def network_model() -> nn.Module:
    return zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build()


def supernet_model() -> nn.Module:
    space = SearchSpace(operations=("sep_conv_3x3", "max_pool_3x3", "skip_connect"), num_nodes=2)
    return Supernet(space, num_cells=5, channels=2, num_classes=4)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "small": small_model,
    "network": network_model,
    "supernet": supernet_model,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A model as found in the middle of something: modes mixed, one parameter frozen, two with gradients."""
    made = MODELS[request.param]().train()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    parameters = list(made.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad, parameters[-1].grad = torch.ones_like(parameters[1]), torch.ones_like(parameters[-1])
    return made


@contextmanager
def found_as_left(model: nn.Module) -> Iterator[None]:
    """Inside, whatever happens; afterwards the model is to the bit what it was."""

    def look() -> list[Any]:
        modes = [module.training for module in model.modules()]
        wanted = [(parameter.requires_grad, id(parameter.grad)) for parameter in model.parameters()]
        return [modes, wanted]

    def tensors() -> list[Tensor]:
        gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        return [*model.state_dict().values(), *gradients]

    before, kept = look(), [tensor.clone() for tensor in tensors()]
    yield
    assert look() == before
    assert all(torch.equal(one, other) for one, other in zip(tensors(), kept, strict=True))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small model that has learnt to tell four grey levels with a pattern, and images that it tells well."""
    torch.manual_seed(1)
    patterns = torch.rand(4, 3, 8, 8)
    labels = torch.arange(4).repeat(32)
    images = (0.35 + 0.3 * patterns[labels] + 0.05 * torch.randn(128, 3, 8, 8)).clamp(0, 1)
    made = small_model()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(made(images), labels).backward()
        optimizer.step()
    made.eval()
    assert (made(images).argmax(1) == labels).float().mean() > 0.95
    return made, images, labels


def total_loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="sum").item()


# -------------------------------------------------------------------------------------------------------- the contract


@EVERY_ATTACK
def test_attack_leaves_the_model_as_found(attack: Any, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with found_as_left(model):
        brief(attack)(model, images, labels)


@EVERY_ATTACK
@pytest.mark.parametrize("calls", [0, 1])
def test_attack_leaves_the_model_as_found_when_it_fails(
    attack: Any, calls: int, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    calls_left = min(calls, getattr(attack, "steps", 1) - 1)

    def fail(module: nn.Module, inputs: Any) -> None:
        nonlocal calls_left
        if not calls_left:
            raise KeyboardInterrupt
        calls_left -= 1

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(fail)
    with found_as_left(model), pytest.raises(KeyboardInterrupt):
        brief(attack)(model, images, labels)


@EVERY_ATTACK
def test_attack_sees_the_model_in_evaluation_mode_only(attack: Any, images: Tensor, labels: Tensor) -> None:
    one, other = small_model(), small_model()
    other.load_state_dict(one.state_dict())
    noise = torch.zeros_like(images)
    assert torch.equal(
        brief(attack)(one.train(), images, labels, noise=noise, seed=0),
        brief(attack)(other.eval(), images, labels, noise=noise, seed=0),
    )


class WeightGradients(TorchDispatchMode):
    """Counts the gradients of weights that are computed, by what the backward operators are asked for."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.endswith("_backward") and args and isinstance(args[-1], list):  # the mask of outputs: input, weight, bias
            self.count += sum(args[-1][1:])
        if name == "mm" and {tuple(made.shape), tuple(made.shape[::-1])} & self.shapes:
            self.count += 1
        return made


@EVERY_ATTACK
def test_no_gradient_of_a_weight_is_computed_or_prepared(attack: Any, images: Tensor, labels: Tensor) -> None:
    model = small_model()
    wanted: list[bool] = []
    handle = model.register_forward_pre_hook(lambda *_: wanted.extend(p.requires_grad for p in model.parameters()))
    with WeightGradients(model) as computed:
        brief(attack)(model, images, labels)
    assert computed.count == 0
    assert wanted and not any(wanted)  # else what their gradients need would be kept in memory
    handle.remove()
    with WeightGradients(model) as computed:  # the count itself sees them
        F.cross_entropy(model(images), labels).backward()
    assert computed.count == 9


@EVERY_ATTACK
@pytest.mark.parametrize(("outer", "wanted"), [(torch.no_grad, False), (torch.enable_grad, True)])
def test_result_is_cut_off_from_the_graph_and_nothing_given_is_written_to(
    attack: Any, outer: Any, wanted: bool, images: Tensor, labels: Tensor
) -> None:
    noise = torch.rand_like(images)
    given_ones = [images, labels, noise]
    kept = [tensor.clone() for tensor in given_ones]
    images.requires_grad_(wanted)
    with outer():
        attacked = brief(attack)(small_model(), images, labels, noise=noise)
    assert not attacked.requires_grad and attacked.grad_fn is None
    assert images.requires_grad == wanted and images.grad is None
    assert attacked.shape == images.shape and attacked.dtype == images.dtype
    assert attacked.data_ptr() != images.data_ptr()
    assert all(torch.equal(one, other) for one, other in zip(given_ones, kept, strict=True))


@given(
    name=st.sampled_from([*ATTACKS]),
    eps=st.floats(0, 1) | st.sampled_from([8 / 255, 1e-3]),
    step=st.floats(0, 1),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_result_lies_in_the_ball_and_in_the_unit_interval(
    name: str, eps: float, step: float, seed: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).to(dtype)
    images = (torch.rand(4, 3, 4, 4, dtype=dtype) * 1.5 - 0.25).clamp(0, 1)  # a third of the pixels black or white
    attack = brief(ATTACKS[name], eps)
    attack = replace(attack, step_size=step) if hasattr(attack, "step_size") else attack
    attacked = attack(model, images, torch.tensor([0, 1, 2, 0]))
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert (attacked - images).abs().max() <= eps + 2 * torch.finfo(dtype).eps


@EVERY_ATTACK
def test_radius_zero_gives_the_images_themselves(attack: Any, images: Tensor, labels: Tensor) -> None:
    assert torch.equal(brief(attack, 0)(small_model(), images, labels), images)


@EVERY_CLIMBER
def test_radius_one_can_turn_black_into_white(attack: Any, labels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 2, bias=False))
    nn.init.ones_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0] = -1  # class 0 hates white
    attack = brief(attack, 1)
    attack = replace(attack, step_size=1.0) if hasattr(attack, "step_size") else attack
    attacked = attack(model, torch.zeros(2, 3, 3, 3), torch.tensor([0, 0]))
    assert torch.equal(attacked, torch.ones(2, 3, 3, 3))


@EVERY_ATTACK
def test_radius_one_fools_any_linear_model(attack: Any, images: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    labels = model(images).argmax(dim=1)
    assert errs(model, within(at_radius(attack, 1), queries=200)(model, images, labels, seed=0), labels).all()


@EVERY_ATTACK
def test_every_image_is_attacked_as_if_alone(attack: Any, images: Tensor, labels: Tensor) -> None:
    model, images = small_model().double(), images.double()
    draws, attack = Draws.of(3, images, first=40), brief(attack)
    together = attack(model, images, labels, seed=draws)
    for parts in ([[i] for i in range(6)], [[5, 2, 0], [1, 3]]):
        for kept in map(torch.tensor, parts):
            alone = attack(model, images[kept], labels[kept], seed=draws[kept])
            assert torch.allclose(together[kept], alone, rtol=0, atol=1e-12)


@EVERY_ATTACK
def test_noise_given_is_each_images_own(attack: Any, images: Tensor, labels: Tensor) -> None:
    model, images = small_model().double(), images.double()
    noise, attack, draws = torch.rand_like(images) * 2 - 1, brief(attack), Draws.of(3, images)
    labels = torch.where(torch.arange(6) < 4, model.eval()(images).argmax(dim=1), labels)  # a cascade skips what is wrong
    together = attack(model, images, labels, noise=noise, seed=draws)
    for i in range(len(images)):
        kept = torch.tensor([i])
        alone = attack(model, images[kept], labels[kept], noise=noise[kept], seed=draws[kept])
        assert torch.allclose(together[kept], alone, rtol=0, atol=1e-12)


def noisy(images: Tensor, eps: float) -> Tensor:
    signs = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    return (images + eps * signs).clamp(0, 1)


@EVERY_CLIMBER
def test_attack_does_more_harm_than_noise(attack: Any, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    attack = within(at_radius(attack, 0.05), steps=20)
    attacked = total_loss(model, attack(model, images, labels), labels)
    assert attacked > 2 * total_loss(model, noisy(images, 0.05), labels) and attacked > 2 * total_loss(model, images, labels)


@EVERY_ATTACK
def test_attack_fools_more_than_noise_does(attack: Any, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    attacked = within(at_radius(attack, 0.15), steps=20, queries=100, targets=3)(model, images, labels, seed=0)
    harm, chance = (int(errs(model, each, labels).sum()) for each in (attacked, noisy(images, 0.15)))
    assert harm > 2 * chance + 5


def test_steps_find_what_one_step_does_not(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    losses = {name: total_loss(model, at_radius(ATTACKS[name], 0.1)(model, images, labels), labels) for name in CLIMBING}
    assert losses["PGD20"] > losses["FGSM"] and losses["PGD100"] >= 0.999 * losses["PGD20"]


@EVERY_ATTACK
@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad, torch.inference_mode])
def test_caller_may_be_in_any_mode(attack: Any, outer: Any, labels: Tensor) -> None:
    model, attack = small_model(), brief(attack)
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = attack(model, images, labels, seed=1)
    with outer():
        made_inside, noise = images.clone(), torch.zeros_like(images)
        attacked = attack(model, made_inside, labels.clone(), seed=1)
        assert torch.equal(attacked, expected) and not attacked.is_inference()
        attack(model, made_inside, labels.clone(), noise=noise)
        assert torch.is_inference_mode_enabled() == (outer is torch.inference_mode)
    # What was made in inference mode is also attacked outside of it, and what comes out can be trained on.
    attacked = attack(model, made_inside, labels, seed=1)
    assert torch.equal(attacked, expected)
    F.cross_entropy(model(attacked), labels).backward()


@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad, torch.inference_mode])
def test_iterates_that_are_left_leave_no_mode_behind(outer: Any, images: Tensor, labels: Tensor) -> None:
    model = small_model().train()
    before = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    with found_as_left(model):
        with outer():
            inside = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
            walk = PGD().iterates(model, images, labels)
            for _ in range(3):
                assert not next(walk).images.is_inference()
                assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == inside
        walk.close()  # type: ignore[attr-defined]
    assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == before


# ---------------------------------------------------------------------------------------------------------- randomness


@EVERY_ATTACK
def test_same_seed_gives_the_same_attack(attack: Any, images: Tensor, labels: Tensor) -> None:
    model, attack = small_model(), brief(attack)

    def drawn(seed: int) -> dict[str, Tensor]:
        return {
            "seed": attack(model, images, labels, seed=seed),
            "draws": attack(model, images, labels, seed=Draws.of(seed, images)),
            "generator": attack(model, images, labels, torch.Generator().manual_seed(seed)),
        }

    one, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(one[key], again[key]) for key in one) and torch.equal(one["seed"], one["draws"])
    random = attack.START not in ("image", "distance") and not isinstance(attack, FABT)
    assert all(torch.equal(one[key], other[key]) != random for key in one)
    torch.manual_seed(3)
    assert torch.equal(one["generator"], attack(model, images, labels))


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD20", "MI-FGSM"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_gradient_attack_never_waits_for_the_device(name: str, kind: str, images: Tensor, labels: Tensor) -> None:
    """Values are checked on the CPU only; elsewhere, as on this device without values, an attack can be recorded."""
    model, noise = MODELS[kind]().to(META), uniform_noise(images, None)
    far = [each.to(META) for each in (images, labels, noise)]
    with NothingWaits():
        attacked = brief(ATTACKS[name])(model, *far[:2], noise=far[2])
    assert attacked.device == META and attacked.shape == images.shape and attacked.dtype == images.dtype


def test_pgd_starts_from_the_noise_of_generator_or_seed(images: Tensor, labels: Tensor) -> None:
    model, attack = small_model(), brief(PGD())
    drawn = attack(model, images, labels, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, attack(model, images, labels, noise=uniform_noise(images, torch.Generator().manual_seed(3))))
    seeded = attack(model, images, labels, seed=3)
    assert torch.equal(seeded, attack(model, images, labels, noise=Draws.of(3, images).noise(images)))


@EVERY_ATTACK
@pytest.mark.parametrize("source", ["generator", "seed"])
def test_attack_with_its_own_randomness_leaves_torchs_alone(attack: Any, source: str, images: Tensor, labels: Tensor) -> None:
    own: dict[str, Any] = {"generator": torch.Generator()} if source == "generator" else {"seed": 0}
    model, before = small_model(), torch.get_rng_state()
    brief(attack)(model, images, labels, **own)
    assert torch.equal(before, torch.get_rng_state())


def test_random_start_is_uniform_in_the_ball() -> None:
    grey = torch.full((100, 3, 10, 10), 0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    start = PGD(eps=0.2, step_size=0.0, steps=1)(model, grey, torch.zeros(100, dtype=torch.int64))
    share = ((start - grey) / 0.2 + 1) / 2
    quantiles = torch.linspace(0, 1, 11)
    assert torch.allclose(torch.quantile(share.flatten(), quantiles), quantiles, atol=0.01)


# ------------------------------------------------------------------------------------- each attack against its formula


@pytest.fixture
def exact(images: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in float64, images with black and white pixels, noise in [-1, 1]."""
    return small_model().double().eval(), images.double(), torch.rand(images.shape, dtype=torch.float64) * 2 - 1


def slope(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the mean loss, as textbooks write it."""
    images = images.clone().requires_grad_()
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    assert images.grad is not None
    return images.grad


def test_fgsm_is_one_step_along_the_sign(exact: tuple[nn.Module, Tensor, Tensor], labels: Tensor) -> None:
    model, images, noise = exact
    expected = (images + 0.1 * slope(model, images, labels).sign()).clamp(0, 1)
    assert torch.allclose(FGSM(eps=0.1)(model, images, labels, noise=noise), expected, rtol=0, atol=1e-12)


def test_pgd_equals_a_textbook_loop_over_the_perturbation(exact: tuple[nn.Module, Tensor, Tensor], labels: Tensor) -> None:
    model, images, noise = exact
    eps, step_size = 0.07, 0.03
    delta = (images + eps * noise).clamp(0, 1) - images
    for _ in range(6):
        delta = delta + step_size * slope(model, images + delta, labels).sign()
        delta = delta.clamp(-eps, eps)
        delta = (images + delta).clamp(0, 1) - images
    attacked = PGD(eps=eps, step_size=step_size, steps=6)(model, images, labels, noise=noise)
    assert torch.allclose(attacked, images + delta, rtol=0, atol=1e-12)


def test_bim_is_pgd_without_its_start(exact: tuple[nn.Module, Tensor, Tensor], labels: Tensor) -> None:
    model, images, noise = exact
    settings = {"eps": 0.07, "step_size": 0.03, "steps": 5}
    bim = BIM(**settings)(model, images, labels, noise=noise)
    pgd = PGD(**settings)
    assert torch.equal(bim, pgd(model, images, labels, noise=torch.zeros_like(images)))
    assert not torch.equal(bim, pgd(model, images, labels, noise=noise))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_mi_fgsm_equals_a_textbook_loop(exact: tuple[nn.Module, Tensor, Tensor], labels: Tensor, decay: float) -> None:
    model, images, _ = exact
    attacked, momentum = images, torch.zeros_like(images)
    for _ in range(6):
        gradient = slope(model, attacked, labels)
        momentum = decay * momentum + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)  # Eq. (6) of Dong et al.
        attacked = attacked + 0.03 * momentum.sign()
        attacked = images + (attacked - images).clamp(-0.07, 0.07)
        attacked = attacked.clamp(0, 1)
    made = MIFGSM(eps=0.07, step_size=0.03, steps=6, decay=decay)(model, images, labels)
    assert torch.allclose(made, attacked, rtol=0, atol=1e-12)
    if decay == 0:
        assert torch.equal(made, BIM(eps=0.07, step_size=0.03, steps=6)(model, images, labels))


def test_image_without_a_gradient_is_left_where_it_is(images: Tensor, labels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.zeros_(model[1].weight)
    for attack in (FGSM(), BIM(), MIFGSM()):
        assert torch.equal(attack(model, images, labels), images)


class Shattered(nn.Module):
    """Has no gradient: it computes behind the back of autograd, or rounds."""

    def __init__(self, how: str):
        super().__init__()
        self.how, self.inner = how, nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def forward(self, images: Tensor) -> Tensor:
        if self.how == "rounded":
            return self.inner((images * 4).round())
        if self.how == "constant":
            return torch.eye(4).repeat(len(images), 1)[: len(images)]
        with torch.no_grad():
            return self.inner(images)


@EVERY_ATTACK
@pytest.mark.parametrize("how", ["detached", "rounded", "constant"])
def test_a_model_without_gradients_is_attacked_as_well_as_can_be(attack: Any, how: str, images: Tensor, labels: Tensor) -> None:
    attacked = brief(attack)(Shattered(how), images, labels, seed=0)
    assert (attacked - images).abs().max() <= 0.1 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1


def test_gradients_that_are_no_numbers_show_in_the_images(monkeypatch: pytest.MonkeyPatch, images: Tensor, labels: Tensor) -> None:
    """As on a GPU, where no step waits for an answer: the sign of NaN is 0, and the network would seem robust."""

    def broken(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(images, math.nan), model(images)

    monkeypatch.setattr("dsara_lib.attacks.gradient.image_gradient", broken)
    for name in CLIMBING:
        assert brief(ATTACKS[name])(small_model(), images, labels).isnan().all()


# --------------------------------------------------------------------------------------------- against another's library


@pytest.mark.usefixtures("without_shape_check")  # which cannot be traced
@pytest.mark.parametrize("way", ["as is", "prepared", "split"])
@pytest.mark.parametrize("kind", ["PGD", "FGSM"])
def test_every_pixel_is_where_foolbox_and_the_textbook_have_it(way: str, kind: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    model, images = network_model().double().eval(), torch.rand(12, 3, 8, 8).double()
    images[0], images[1] = 0, 1
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2), module.running_var.uniform_(0.5, 2)
    labels, noise = torch.arange(12) % 4, torch.rand_like(images) * 2 - 1
    eps, step_size, steps = 0.05, 0.013, 10
    start = images if kind == "FGSM" else (images + eps * noise).clamp(0, 1)
    steps, step_size = (1, eps) if kind == "FGSM" else (steps, step_size)

    theirs = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=kind == "PGD")
    if kind == "FGSM":
        theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    theirs.get_random_start = lambda x, epsilon: type(x)(start)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    expected = theirs.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=eps)

    textbook = start
    for _ in range(steps):
        textbook = textbook + step_size * slope(model, textbook, labels).sign()
        textbook = (images + (textbook - images).clamp(-eps, eps)).clamp(0, 1)

    ours = FGSM(eps=eps) if kind == "FGSM" else PGD(eps=eps, step_size=step_size, steps=steps)
    victim = model
    if way == "prepared":
        victim = pytest.importorskip("dsara_lib.architecture.prepared").prepare(model, images)
        assert victim.folded and victim.channels_last, victim.report
    parts = [[3], [11, 0, 7, 5], [1, 2, 4, 6, 8, 9, 10]] if way == "split" else [list(range(12))]
    for kept in map(torch.tensor, parts):
        attacked = ours(victim, images[kept], labels[kept], noise=noise[kept])
        assert torch.allclose(attacked, expected[kept], rtol=0, atol=1e-6)
        assert torch.allclose(attacked, textbook[kept], rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------------------------- settings and names


def test_table_has_the_papers_settings() -> None:
    assert ATTACKS["FGSM"] == FGSM(eps=8 / 255)
    assert ATTACKS["PGD20"] == PGD(eps=8 / 255, step_size=2 / 255, steps=20)
    assert ATTACKS["PGD100"] == PGD(eps=8 / 255, step_size=2 / 255, steps=100)


@EVERY_ATTACK
def test_attack_is_frozen(attack: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        attack.eps = 8


@EVERY_KIND
@pytest.mark.parametrize("eps", [8, 1.001, -0.1, -8 / 255, "8/255", "0.1", True, math.nan, math.inf, None])
def test_radius_on_another_scale_is_refused_in_a_sentence(kind: Any, eps: Any) -> None:
    for make in (lambda: kind(eps=eps), lambda: at_radius(kind(), eps)):
        with pytest.raises(WorkbookError, match=r"eps is a radius from 0 to 1 .* such as 8/255") as raised:
            make()
        assert str(raised.value).endswith(f"got {eps!r}")


@pytest.mark.parametrize("kind", [BIM, PGD, MIFGSM])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("steps", value) for value in (0, -1, 2.5, "7", True)),
        *(("step_size", value) for value in (2, -0.1, "2/255", True, math.nan)),
    ],
)
def test_useless_steps_are_refused_in_a_sentence(kind: Any, setting: str, value: Any) -> None:
    with pytest.raises(WorkbookError, match=f"^{setting} is a .*; got {value!r}$"):
        kind(**{setting: value})


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf, "1", True])
def test_useless_decay_is_refused_in_a_sentence(decay: Any) -> None:
    with pytest.raises(WorkbookError, match=f"^decay is a number of at least 0; got {decay!r}$"):
        MIFGSM(decay=decay)


WRONG_BATCHES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str]] = {
    "uint8 images": (lambda x: (255 * x).to(torch.uint8), lambda y: y, "float tensor .* got torch.uint8"),
    "one image": (lambda x: x[0], lambda y: y[:1], r"\[n, c, h, w\]; got torch.float32 \(3, 8, 8\)"),
    "too few labels": (lambda x: x, lambda y: y[:-1], r"each of 6 images; got labels \(5,\)"),
    "one-hot labels": (lambda x: x, lambda y: F.one_hot(y), r"each of 6 images; got labels \(6, 4\)"),
    "float labels": (lambda x: x, lambda y: y.float(), "labels are int64 .* got torch.float32"),
    "pixels to 255": (lambda x: 255 * x, lambda y: y, r"in \[0, 1\], .* got 0 to 255; normalisation belongs into"),
    "centred pixels": (lambda x: x - 0.5, lambda y: y, r"pixels in \[0, 1\], .* got -0.5 to 0.5"),
    "no number": (lambda x: x.clone().index_fill_(3, torch.tensor([2]), math.nan), lambda y: y, "pixels in .* got nan"),
    "a class too many": (lambda x: x, lambda y: y + 1, "4 logits for classes 0 to 3; labels are 1 to 4"),
    "a class below zero": (lambda x: x, lambda y: y - 1, "4 logits for classes 0 to 3; labels are -1 to 2"),
}


@EVERY_ATTACK
@pytest.mark.parametrize("wrong", WRONG_BATCHES)
@pytest.mark.usefixtures("without_shape_check")
def test_wrong_images_and_labels_are_refused_in_a_sentence(attack: Any, wrong: str, images: Tensor, labels: Tensor) -> None:
    of_images, of_labels, says = WRONG_BATCHES[wrong]
    with pytest.raises(WorkbookError, match=says):
        brief(attack)(small_model(), of_images(images), of_labels(labels))


@EVERY_ATTACK
@pytest.mark.usefixtures("without_shape_check")
def test_noise_of_another_shape_is_refused_in_a_sentence(attack: Any, images: Tensor, labels: Tensor) -> None:
    if attack.START == "image" or isinstance(attack, FABT):
        brief(attack)(small_model(), images, labels, noise=images[:1])  # not used
        return
    with pytest.raises(WorkbookError, match=r"noise has the images' shape \(6, 3, 8, 8\); got \(1, 3, 8, 8\)"):
        brief(attack)(small_model(), images, labels, noise=images[:1])


class Odd(nn.Module):
    """Answers with what another function makes of a real network's logits."""

    def __init__(self, answer: Callable[[Tensor], Any]):
        super().__init__()
        self.inner, self.answer = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Dropout()), answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.inner(images))


class BadGradient(torch.autograd.Function):
    """Passes logits through, and NaN back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


ODD = {
    "NaN": (lambda z: z * math.nan, "logits are not finite"),
    "one infinite": (lambda z: z.index_fill(1, torch.tensor([3]), math.inf), "logits are not finite"),
    "too narrow": (lambda z: z[:, :3], "3 logits for classes 0 to 2; labels are 0 to 3"),
    "fewer rows": (lambda z: z[1:], r"expected 6 rows, got \(5, 4\)"),
    "a map": (lambda z: z[..., None], r"expected 6 rows, got \(6, 4, 1\)"),
    "a tuple": (lambda z: (z, z), "expected 6 rows, got tuple"),
}


@EVERY_ATTACK
@pytest.mark.parametrize("wrong", ODD)
@pytest.mark.usefixtures("without_shape_check")
def test_logits_that_mean_nothing_are_refused_in_a_sentence(attack: Any, wrong: str, images: Tensor, labels: Tensor) -> None:
    answer, says = ODD[wrong]
    model = Odd(answer).train()
    with found_as_left(model), pytest.raises(WorkbookError, match=says):
        brief(attack)(model, images, labels, seed=0)


@EVERY_ATTACK
def test_gradients_that_are_no_numbers_are_refused_in_a_sentence(attack: Any, images: Tensor) -> None:
    model = Odd(BadGradient.apply).train()
    labels = model.inner[:2](images).argmax(dim=1)
    if isinstance(attack, Square):  # needs none
        brief(attack)(model, images, labels, seed=0)
        return
    with found_as_left(model), pytest.raises(WorkbookError, match="gradients are not finite"):
        brief(attack)(model, images, labels, seed=0)


@pytest.mark.parametrize(("asked", "near"), [("PGD-20", "PGD20"), ("fgsm", "FGSM"), ("MIFGSM", "MI-FGSM")])
def test_unknown_attack_is_answered_with_the_nearest_and_all_known(asked: str, near: str) -> None:
    with pytest.raises(WorkbookError, match=f"unknown attack '{asked}'; did you mean '{near}'") as raised:
        make_attack(asked)
    assert all(name in str(raised.value) for name in ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_named_attack_is_that_of_the_table_at_any_radius(name: str) -> None:
    assert make_attack(name) is ATTACKS[name]
    assert make_attack(name, ATTACKS[name].eps) is ATTACKS[name]
    assert make_attack(name, 0.2) == at_radius(ATTACKS[name], 0.2)


@given(name=st.sampled_from([*STEPPED]), eps=st.floats(0, 1))
def test_step_keeps_its_share_of_the_radius(name: str, eps: float) -> None:
    attack = STEPPED[name]
    moved = at_radius(attack, eps)
    assert moved.eps == eps and moved.step_size == pytest.approx(eps * attack.step_size / attack.eps, rel=1e-12)
    assert replace(moved, eps=attack.eps, step_size=attack.step_size) == attack


def test_step_longer_than_the_ball_never_grows_beyond_the_range_of_pixels() -> None:
    assert at_radius(PGD(eps=0.1, step_size=0.3), 0.5).step_size == 1


def test_attack_of_radius_zero_has_no_share_to_keep() -> None:
    with pytest.raises(WorkbookError, match="an attack of radius 0 has no step to scale"):
        at_radius(PGD(eps=0, step_size=0.0), 0.1)
    assert at_radius(FGSM(eps=0), 0.1) == FGSM(eps=0.1)
