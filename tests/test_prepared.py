"""Preparing a network for attack changes its speed and nothing else, and where it cannot be sure it changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toys import bits

from dsara_lib.architecture import Prepared, fused, prepare, zoo
from dsara_lib.architecture.prepared import TOLERANCE

# What traces a network is no tensor, which the shape check would be first to complain about.
pytestmark = pytest.mark.usefixtures("without_shape_check")
EXACT = 1e-9


def trained(model: nn.Module) -> nn.Module:
    """As if training had left its traces, in double precision."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.3, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.double()


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    logits = model(images)
    return torch.autograd.grad(F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1]), images)[0]


def assert_same(prepared: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Equal logits and image gradients, with and without autograd, up to the rounding of doubles."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        expected, found = model(images), prepared(images)
    slopes, slope = gradient(model, images), gradient(prepared, images)
    for module, mode in modes:
        module.training = mode
    assert (found - expected).abs().amax() <= EXACT * expected.abs().amax()
    assert (prepared(images) - expected).abs().amax() <= EXACT * expected.abs().amax()
    assert (slope - slopes).norm() <= EXACT * slopes.norm()
    assert not prepared.training


def found(model: nn.Module) -> Any:
    """All that preparing must leave as it is."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return (
        bits(model.state_dict()),
        [(name, module.training) for name, module in model.named_modules()],
        [(name, tensor.data_ptr(), tensor.stride(), tensor.requires_grad, bits(tensor.grad)) for name, tensor in tensors.items()],
    )


def check(model: nn.Module, images: Tensor, folded: bool = True) -> Prepared:
    """Prepare a model and require what always holds."""
    before, drawn = found(model), torch.get_rng_state()
    prepared = prepare(model, images)
    assert found(model) == before and torch.equal(torch.get_rng_state(), drawn)
    assert prepared.folded == folded, prepared.report
    assert prepared.original is model and not any(parameter.requires_grad for parameter in prepared.parameters())
    assert_same(prepared, model, images)
    assert found(model) == before
    return prepared


def norms(prepared: Prepared) -> int:
    """Batch norms that the traced graph calls."""
    assert isinstance(prepared.network, fx.GraphModule)
    called = [prepared.network.get_submodule(str(n.target)) for n in prepared.network.graph.nodes if n.op == "call_module"]
    return sum(isinstance(module, nn.BatchNorm2d) for module in called)


def pixels(size: int = 8, count: int = 3) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=torch.float64)


class Head(nn.Module):
    """A body between three channels and four logits."""

    def __init__(self, *layers: nn.Module, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).mean((2, 3)))


def written(forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> nn.Module:
    """A module whose class has this forward."""
    model = type("Written", (nn.Module,), {"forward": forward})()
    for name, module in modules.items():
        model.add_module(name, module)
    return trained(model)


@pytest.mark.parametrize("name", zoo.genotypes())
def test_published_networks_give_the_same_without_batch_norm(name: str) -> None:
    model = trained(zoo.load(name).blueprint(4, num_cells=5, channels=2).build())
    prepared = check(model, pixels())
    assert norms(prepared) == 0
    assert_same(prepared, model, pixels(9, 2))


def test_networks_of_every_option_give_the_same() -> None:
    blueprint = zoo.load("AdvRush").blueprint(
        3, num_cells=5, channels=2, auxiliary=True, drop_path=0.2, normalisation=((0.5,) * 3, (0.2,) * 3)
    )
    assert norms(check(trained(blueprint.build().eval()), pixels())) == 0


def test_resnet_gives_the_same() -> None:
    model = trained(torchvision.models.resnet18(weights=None, num_classes=3))
    prepared = check(model, pixels(17, 2))
    assert norms(prepared) == 0
    assert_same(prepared, model, pixels(20, 1))


def test_single_precision_stays_single() -> None:
    model = trained(zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build()).float()
    prepared = prepare(model, pixels().float())
    assert prepared.folded and prepared(pixels().float()).dtype == torch.float32


def conv(*args: Any, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs)


@pytest.mark.parametrize(
    "layers",
    [
        [conv(3, 4, 3), nn.BatchNorm2d(4)],
        [conv(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)],
        [conv(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
        [conv(3, 6, 3, groups=3), nn.BatchNorm2d(6), conv(6, 4, 3, padding="same", groups=2, dilation=2), nn.BatchNorm2d(4)],
        [conv(3, 6, 3, groups=3, padding=4), conv(6, 4, 1, bias=False), nn.ReLU(), conv(4, 4, 1, stride=2)],
        [conv(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), conv(4, 4, 1), nn.ReLU6(inplace=True)],
        [nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3, 5, padding=4, dilation=2, groups=3), conv(3, 4, 1)],
        [conv(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.BatchNorm2d(4)],
    ],
)
def test_batch_norms_of_all_kinds_are_folded(layers: list[nn.Module]) -> None:
    assert norms(check(trained(Head(*layers)), pixels())) == 0


def test_batch_norms_that_look_at_the_batch_are_left_alone() -> None:
    class Awake(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Awake:
            return super().train(True)

    prepared = check(trained(Head(conv(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), conv(4, 4, 1))), pixels())
    assert norms(prepared) == 1
    awake = prepare(trained(Head(conv(3, 4, 3), Awake(4))), pixels())
    assert any(isinstance(module, Awake) for module in awake.modules())


def test_shared_and_observed_modules_are_not_folded_wrongly() -> None:
    def twice(self: Any, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.conv(x).relu().mean((2, 3)) + self.norm(self.conv(x)).mean((2, 3)) + self.other(self.conv(x)).mean((2, 3))

    check(written(twice, conv=conv(3, 3, 1), norm=nn.BatchNorm2d(3), other=nn.BatchNorm2d(3)), pixels())

    def both(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))

    check(written(both, conv=conv(3, 4, 3), norm=nn.BatchNorm2d(4)), pixels())

    def joined(self: Any, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return self.narrow(torch.cat([one, one], 1)).mean((2, 3)) + self.wide(torch.cat([self.one(x), two], dim=1)).mean((2, 3))

    model = written(joined, one=conv(3, 2, 1), two=conv(3, 2, 1), narrow=nn.BatchNorm2d(4), wide=nn.BatchNorm2d(4))
    assert norms(check(model, pixels())) == 0


def test_sums_of_pointwise_convolutions_may_be_shared_broadcast_or_repeated() -> None:
    def sums(self: Any, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x.relu())
        total = one + two + one + x.mean((2, 3), keepdim=True) + 2
        same = self.one(torch.cat([x[:, :1], x[:, 1:]], dim=1))
        return (total.relu() + self.three(torch.cat([total, two], 1).relu()) + (same + same)).mean((2, 3))

    check(written(sums, one=conv(3, 3, 1), two=conv(3, 3, 1, bias=False), three=conv(6, 3, 1)), pixels())


def test_what_is_written_in_place_is_read_by_the_right_ones() -> None:
    def before(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        rectified = F.relu(x)
        x.add_(1)
        return (rectified + F.relu(x) + F.relu(x, True) + self.conv2(x)).mean((2, 3))

    check(written(before, conv=conv(3, 4, 1), conv2=conv(4, 4, 1)), pixels())

    def view(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.relu(self.identity(x)[:, :2])
        return self.conv2(x).mean((2, 3)) + y.mean()

    check(written(view, conv=conv(3, 4, 1), conv2=conv(4, 4, 1), relu=nn.ReLU(inplace=True), identity=nn.Identity()), pixels())
    images = pixels() - 0.5
    kept = images.clone()
    check(trained(Head(nn.ReLU(), conv(3, 4, 3))), images)
    assert torch.equal(images, kept)


def hooked(kind: str) -> nn.Module:
    model = Head(conv(3, 4, 3), nn.BatchNorm2d(4))
    getattr(model.body[1], f"register_{kind}")(
        lambda module, args, output=None: output * 2 if output is not None else tuple(2 * x for x in args)
    )
    return model


def parametrized(normalise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return Head(normalise(conv(3, 4, 3)), nn.BatchNorm2d(4))


def spectral() -> nn.Module:
    return Head(nn.utils.spectral_norm(conv(3, 4, 3)), nn.BatchNorm2d(4))


def with_own_forward() -> nn.Module:
    model = Head(conv(3, 4, 3), nn.BatchNorm2d(4))
    model.body[1].forward = lambda x: x + 1
    return model


def without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return self.conv(x).mean((2, 3))


def by_data(self: Any, x: Tensor) -> Tensor:
    x = self.conv(x)
    return (x if x.sum() > 0 else -x).mean((2, 3))


@pytest.mark.parametrize(
    "model",
    [
        hooked("forward_hook"),
        hooked("forward_pre_hook"),
        parametrized(nn.utils.parametrizations.weight_norm),
        spectral(),
        with_own_forward(),
        written(by_data, conv=conv(3, 4, 3)),
        written(lambda self, x: self.linear(x.view(len(x), -1)), linear=nn.Linear(192, 4)),
        written(without_gradient, conv=conv(3, 4, 3)),
    ],
    ids=["hook", "pre-hook", "parametrization", "old spectral norm", "own forward", "control flow", "view", "no gradient"],
)
def test_what_cannot_be_rewritten_is_copied(model: nn.Module) -> None:
    model = trained(model)
    prepared = prepare(model, pixels())
    assert not prepared.folded and prepared.report
    images = pixels()
    assert torch.allclose(prepared(images), model.eval()(images), rtol=EXACT, atol=0)


def test_random_and_unusual_networks_are_copied() -> None:
    noisy = prepare(written(lambda self, x: F.dropout(self.conv(x), 0.5, True).mean((2, 3)), conv=conv(3, 4, 3)), pixels())
    assert not noisy.folded and "pass to pass" in noisy.report
    pair = prepare(written(lambda self, x: (self.conv(x), x), conv=conv(3, 4, 3)), pixels())
    assert not pair.folded and len(pair(pixels())) == 2
    broken = prepare(written(lambda self, x: self.conv(x[:, :2]), conv=conv(3, 4, 3)), pixels())
    assert not broken.folded and "RuntimeError" in broken.report


def test_a_network_that_keeps_count_is_left_as_it_is() -> None:
    def counted(self: Any, x: Tensor) -> Tensor:
        self.norm.num_batches_tracked += 1
        return self.norm(self.conv(x)).mean((2, 3)) * self.norm.num_batches_tracked

    model = written(counted, conv=conv(3, 4, 3), norm=nn.BatchNorm2d(4))
    before = found(model)
    assert not prepare(model, pixels()).folded
    assert found(model) == before


def test_a_network_that_cannot_be_copied_is_used_in_evaluation_mode() -> None:
    model = trained(Head(conv(3, 4, 3), nn.BatchNorm2d(4)))
    model.lock = (_ for _ in ())  # a generator cannot be copied
    before = found(model)
    prepared = prepare(model, pixels())
    assert "cannot be copied" in prepared.report
    assert_same(prepared, model, pixels())
    assert found(model) == before and model.training and not list(prepared.parameters())


def test_a_rewriting_that_changes_the_result_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dsara_lib.architecture.fused.affine", lambda norm, dtype: (norm.running_var.double(), norm.running_mean.double())
    )
    prepared = check(trained(Head(conv(3, 4, 3), nn.BatchNorm2d(4))), pixels(), folded=False)
    assert "logits differed" in prepared.report


def magnifying() -> nn.Module:
    """Subtracts numbers so large that float32 leaves few digits of their difference."""
    model = trained(Head(conv(3, 4, 3), nn.BatchNorm2d(4))).float().eval()
    with torch.no_grad():
        model.body[0].bias += 2e5
        model.body[1].running_mean += 2e5
    return model


def test_where_the_original_itself_is_inexact_float64_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = magnifying(), pixels().float()
    prepared = prepare(model, images)
    plain, ours, exact = model(images), prepared(images), copy.deepcopy(model).double()(images.double())
    assert (ours - plain).abs().amax() > TOLERANCE[torch.float32] * plain.abs().amax()
    assert (ours - exact).abs().amax() < (plain - exact).abs().amax()
    assert prepared.folded

    affine = fused.affine
    monkeypatch.setattr(fused, "affine", lambda norm, dtype: (affine(norm, dtype)[0] * 1.1, affine(norm, dtype)[1]))
    wrong = prepare(model, images)
    assert not wrong.folded and "logits differed" in wrong.report


def test_prepared_stays_in_evaluation_mode_and_may_be_made_anywhere() -> None:
    model = trained(zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build())
    with torch.inference_mode():
        prepared = prepare(model, pixels())
    assert prepared.folded and not prepared.train().training
    assert_same(prepared, model, pixels())


def test_gradients_of_the_new_layers_are_right_also_of_second_order_and_with_double_use() -> None:
    model = trained(zoo.load("P-DARTS").blueprint(2, num_cells=5, channels=2).build())
    prepared, images = prepare(model, pixels(4, 1)), pixels(4, 2).requires_grad_()
    model.eval()

    def second(network: nn.Module) -> Tensor:
        first = torch.autograd.grad((network(images) * network(images * 0.5)).sum(), images, create_graph=True)[0]
        return torch.autograd.grad(first.pow(2).sum(), images)[0]

    expected = second(model)
    assert prepared.folded and (second(prepared) - expected).norm() <= EXACT * expected.norm()


# -------------------------------------------------------------------------------------------------------------- refreshed


def with_constants() -> nn.Module:
    """What is computed from parameters and buffers before the images are looked at changes with them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.conv((x - self.shift * 2) / self.norm.running_var.mean())
        return self.norm(x).relu().mean((2, 3)) + self.conv.bias.exp()

    model = written(forward, conv=conv(3, 4, 3), norm=nn.BatchNorm2d(4))
    model.register_buffer("shift", torch.rand(3, 1, 1, dtype=torch.float64))
    return model


def mixed_and_shared() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        one, two = self.norm(self.one(x)), self.two(x)
        both = torch.cat([one, two, self.deep(two)], 1).relu()
        return (self.three(both) + self.four(two) + self.after(x.abs())).mean((2, 3))

    return written(
        forward,
        one=conv(3, 3, 1),
        norm=nn.BatchNorm2d(3),
        two=conv(3, 3, 1),
        deep=conv(3, 3, 3, padding=1, groups=3),
        three=conv(9, 3, 1),
        four=conv(3, 3, 1),
        after=nn.BatchNorm2d(3),
    )


REFRESHED: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: zoo.load(name).blueprint(4, num_cells=5, channels=2).build() for name in zoo.genotypes()},
    "ResNet-18": lambda: torchvision.models.resnet18(weights=None, num_classes=4),
    "constants": with_constants,
    "mixed": mixed_and_shared,
    "hooked": lambda: hooked("forward_hook"),
}


def change(model: nn.Module) -> None:
    """As if training had gone on."""
    trained(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name in ("shift", "mean"):
                buffer.add_(0.1)


def tensors(prepared: Prepared) -> list[Tensor]:
    return [*prepared.parameters(), *prepared.buffers()]


@pytest.mark.parametrize("name", REFRESHED)
def test_a_refreshed_network_equals_its_changed_original_and_before_that_the_old_one(name: str) -> None:
    model, images = trained(REFRESHED[name]()), pixels(17)
    prepared, old = prepare(model, images), copy.deepcopy(model)
    assert prepared.folded == (name != "hooked"), prepared.report
    places = [tensor.data_ptr() for tensor in tensors(prepared)]
    for _ in range(2):
        change(model)
        assert_same(prepared, old, images)
        prepared.refresh()
        assert_same(prepared, model, images)
        old = copy.deepcopy(model)
    fresh = prepare(model, images)
    assert bits(tensors(prepared)) == bits(tensors(fresh)), "not to the bit"
    assert torch.equal(prepared(images), fresh(images))
    assert [tensor.data_ptr() for tensor in tensors(prepared)] == places, "a CUDA graph would read old memory"


def test_refreshing_leaves_the_original_as_it_is_and_may_change_to_another() -> None:
    model, other = (trained(zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build()) for _ in range(2))
    prepared, before = prepare(model, pixels()), (found(model), found(other))
    with torch.inference_mode():
        prepared.refresh(other)
    assert prepared.original is other and (found(model), found(other)) == before
    assert_same(prepared, other, pixels())
    prepared.refresh()
    assert_same(prepared, other, pixels())


def test_a_network_that_cannot_be_copied_needs_no_refreshing() -> None:
    model = trained(Head(conv(3, 4, 3), nn.BatchNorm2d(4)))
    model.lock = (_ for _ in ())
    prepared = prepare(model, pixels())
    change(model)
    prepared.refresh()
    assert_same(prepared, model, pixels())


# ---------------------------------------------------------------------------------------------------- what it saves


class Counting(TorchDispatchMode):
    """Notes the operations that are dispatched, and whether any gave the gradient of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        if "backward" in self.names[-1] and isinstance(result, tuple):
            self.weights += sum(part is not None and part.numel() > 0 for part in result[1:])
        return result


VIEWS = {"permute", "view", "detach", "slice", "t", "alias", "as_strided", "_unsafe_view", "split_with_sizes", "empty", "squeeze"}


def test_crafting_takes_fewer_operations_and_no_gradient_of_weights() -> None:
    model = trained(zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build()).eval()
    prepared, images = prepare(model, pixels()), pixels()
    with Counting() as plain:
        gradient(model, images)
    with Counting() as fast:
        gradient(prepared, images)
    assert fast.weights == 0
    slow = ("batch_norm", "convolution", "threshold", "relu", "cat")
    assert not any("batch_norm" in name for name in fast.names)
    assert sum(name not in VIEWS for name in fast.names) < 0.9 * sum(name not in VIEWS for name in plain.names)
    assert sum(any(part in name for part in slow) for name in fast.names) < 0.5 * sum(
        any(part in name for part in slow) for name in plain.names
    )
