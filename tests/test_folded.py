"""A folded supernet equals the plain one in evaluation mode, and nothing but the images' gradient is computed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dsara_lib.architecture import OPERATIONS, SearchSpace, Supernet, folded, gpu
from dsara_lib.attacks import PGD
from tests.test_supernet import CUSTOM, SIZE, SMALL, assert_close, pair


@pytest.fixture(params=["one node at a time", "all nodes at once"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a bundle's convolutions can be cut."""
    monkeypatch.setattr(folded, "WIDE_BYTES", 0 if request.param.startswith("one") else 2**40)


def gradient(net: nn.Module, images: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the image gradient of their product with a direction."""
    images = images.clone().requires_grad_()
    logits = net(images)
    return logits.detach(), torch.autograd.grad((logits * direction).sum(), images)[0]


def assert_folds(space: SearchSpace, size: tuple[int, int] = (8, 8), **sizes: int) -> None:
    """Logits and image gradients of the plain supernet."""
    plain, net = pair(space, **sizes)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(3, 3, *size, dtype=torch.float64, generator=generator)
    direction = torch.randn(3, SIZE["num_classes"], dtype=torch.float64, generator=generator)
    fast = net.folded()
    assert isinstance(fast, folded.FoldedSupernet)
    expected, found = gradient(plain.eval(), images, direction), gradient(fast, images, direction)
    assert expected[1].norm() > 0
    assert_close(found[0], expected[0], "logits")
    assert_close(found[1], expected[1], "gradient of the images")


@pytest.mark.parametrize("filters", [(1, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize("placement", ["A-A-R", "R-A-A", "A-R-A", "A-A-A"])
def test_equals_the_plain_supernet_for_each_placement(placement, filters, width):
    assert_folds(replace(SMALL, placement=placement, filters=filters))


@pytest.mark.parametrize("size", [(7, 7), (9, 8), (6, 10)])
def test_equals_the_plain_supernet_for_odd_image_sizes(size, width):
    assert_folds(SearchSpace(num_nodes=2), size)


@pytest.mark.parametrize("num_nodes", [1, 4])
def test_equals_the_plain_supernet_for_any_number_of_nodes(num_nodes, width):
    assert_folds(SearchSpace(num_nodes=num_nodes))


@pytest.mark.parametrize("operations", [*[(name,) for name in OPERATIONS], tuple(reversed(OPERATIONS))], ids="+".join)
def test_equals_the_plain_supernet_for_some_operations_in_any_order(operations, width):
    assert_folds(SearchSpace(operations=operations, num_nodes=2))


def test_odd_channels_and_more_cells_equal_too(width):
    assert_folds(SMALL, num_cells=7, channels=3)


@pytest.mark.parametrize("name", ["none", "sep_conv_7x7_thrice"])
def test_an_added_operation_of_a_known_family_is_folded(name, width, monkeypatch):
    monkeypatch.setitem(OPERATIONS, name, CUSTOM[name])
    space = SearchSpace(operations=("skip_connect", name, "dil_conv_3x3"), num_nodes=2)
    if name == "none":  # of stride 2 it is of no known family
        assert pair(space)[1].folded().__class__ is Supernet
    else:
        assert_folds(space)


def test_an_operation_of_no_known_family_is_attacked_as_it_is(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "squeeze", CUSTOM["squeeze"])
    _, net = pair(SearchSpace(operations=("skip_connect", "squeeze"), num_nodes=2))
    assert net.folded() is net


def test_pgd_finds_the_same_images():
    plain, net = pair(SMALL)
    images, labels = torch.rand(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    noise = 2 * torch.rand_like(images) - 1
    attack = PGD(eps=0.1, step_size=0.03, steps=4)
    expected, found = (attack(model, images, labels, noise=noise) for model in (plain, net.folded()))
    assert_close(found, expected, "attacked images")


def test_is_a_snapshot_and_leaves_the_supernet_as_it_was():
    _, net = pair(SMALL)
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    fast = net.train().folded()
    logits, _ = gradient(fast, images, images.new_ones(2, 3))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    assert torch.equal(fast(images), logits)
    assert not list(fast.parameters())


class Gradients(TorchDispatchMode):
    """Counts convolutions that compute the gradient of a weight."""

    weights = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.weights += any(args[-1][1:])
        return function(*args, **(kwargs or {}))


def test_no_gradient_of_a_weight_is_computed():
    _, net = pair(SMALL)
    images, labels = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    with Gradients() as counted:
        PGD(steps=2)(net.folded(), images, labels)
    assert counted.weights == 0
    net.train()
    with Gradients() as counted:  # the counter counts
        torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.weights()))
    assert counted.weights > 0


def test_without_gradients_nothing_is_kept_and_the_logits_are_the_same():
    _, net = pair(SMALL)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    fast = net.folded()
    expected = fast(images.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(fast(images), expected)
    with torch.inference_mode():
        assert torch.equal(net.folded()(images), expected)


def test_in_float32_is_as_near_to_the_truth_as_the_plain_one():
    plain, net = pair(SMALL, channels=4)
    truth = copy.deepcopy(plain).eval()
    plain, net = plain.float().eval(), net.float()
    images = torch.rand(8, 3, 8, 8)
    gradients = []
    for model in (truth, plain, net.folded()):
        x = images.to(torch.float64 if model is truth else torch.float32).requires_grad_()
        gradients.append(torch.autograd.grad(model(x).square().sum(), x)[0].double())
    exact, theirs, ours = gradients
    assert (ours - exact).norm() <= 5 * (theirs - exact).norm() + 1e-7 * exact.norm()


def test_made_under_autocast_it_computes_in_that_type():
    _, net = pair(SMALL, channels=4)
    net = net.float()
    images, direction = torch.rand(4, 3, 8, 8), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = net.folded()
    assert isinstance(fast, folded.FoldedSupernet) and fast.dtype == torch.bfloat16
    (rough, rough_gradient), (exact, exact_gradient) = (gradient(model, images, direction) for model in (fast, net.folded()))
    assert rough.dtype == rough_gradient.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.1 * exact.norm()
    assert F.cosine_similarity(rough_gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.7


def test_runs_where_nothing_is_computed():
    net = Supernet(SearchSpace(), **SIZE).to("meta")
    images = torch.empty(4, 3, 8, 8, device="meta", requires_grad=True)
    logits = net.folded()(images)
    assert logits.shape == (4, 3)
    assert torch.autograd.grad(logits.sum(), images)[0].shape == images.shape


def test_second_derivatives_are_refused_rather_than_wrong():
    _, net = pair(SMALL)
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(net.folded()(images).square().sum(), images, create_graph=True)


class Served(folded.FoldedCell):
    """A folded cell in the place of a GPU's."""

    def __init__(self, *args, precision, **settings):
        super().__init__(*args, **settings)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that take the place of a GPU's."""
    monkeypatch.setattr(gpu, "can_serve", lambda *_: True)
    monkeypatch.setattr(gpu, "KernelCell", Served)


def test_kernels_that_agree_are_trusted(served):
    _, net = pair(SMALL)
    assert gpu.trouble(net, torch.rand(2, 3, 8, 8, dtype=torch.float64)) == ""


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_kernels_that_compute_something_else_are_found_out(method, served, monkeypatch):
    class Wrong(Served):
        def forward(self, before, previous, saved):
            out = super().forward(before, previous, saved)
            return out + 1 if method == "forward" else out

        def backward(self, gradient, out, saved, size):
            found = super().backward(gradient, out, saved, size)
            return found if method == "forward" else (found[0], 2 * found[1])

    monkeypatch.setattr(gpu, "KernelCell", Wrong)
    assert "differ" in gpu.trouble(pair(SMALL)[1], torch.rand(2, 3, 8, 8, dtype=torch.float64))


def test_kernels_that_fail_are_found_out(served, monkeypatch):
    def fail(*args, **settings):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(gpu, "KernelCell", fail)
    assert gpu.trouble(pair(SMALL)[1], torch.rand(2, 3, 8, 8, dtype=torch.float64)) == "RuntimeError: no such instruction"
