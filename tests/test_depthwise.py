"""Depthwise convolutions are those of torch, by other sums where torch is slow; networks cannot tell."""

from __future__ import annotations

import copy
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dsara_lib.architecture import depthwise as module
from dsara_lib.architecture import make_operation
from dsara_lib.architecture.depthwise import ENOUGH, Depthwise, depthwise

EXACT = 1e-9
KINDS = sorted(ENOUGH)


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it paid for the smallest images too."""
    monkeypatch.setattr(module, "ENOUGH", dict.fromkeys(ENOUGH, 0))


def library(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))


def drawn(kernel: int, size: tuple[int, int] = (8, 8), n: int = 2, c: int = 3, dtype: Any = torch.float64) -> list[Tensor]:
    """Images in channels-last and kernels, both of which want a gradient."""
    x = torch.randn(n, c, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return [x.requires_grad_(), torch.randn(c, 1, kernel, kernel, dtype=dtype).requires_grad_()]


def gradients(function: Any, x: Tensor, weight: Tensor, *geometry: int) -> list[Tensor]:
    """Of a sum of the output in which each number has another weight; the output first."""
    out = function(x, weight, *geometry)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad((out * direction).sum(), [each for each in (x, weight) if each.requires_grad])]


def took_its_own_way(out: Tensor) -> bool:
    return "_Depthwise" in type(out.grad_fn).__name__


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= EXACT * theirs.norm()


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 6), (4, 4), (3, 5), (2, 1), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), list(product(range(1, 8), (1, 2), (1, 2))))
def test_equals_the_library(kernel: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    for padding in sorted({0, 1, dilation * (kernel // 2), dilation * (kernel // 2) + 1}):
        if min(size) + 2 * padding <= dilation * (kernel - 1):
            continue
        x, weight = drawn(kernel, size)
        assert_close(*(gradients(f, x, weight, stride, padding, dilation) for f in (depthwise, library)))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KINDS)
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_goes_its_own_way_and_computes_no_gradient_that_nobody_wants(
    monkeypatch: pytest.MonkeyPatch, kernel: int, stride: int, dilation: int, wanted: tuple[bool, bool]
) -> None:
    x, weight = (each.detach().requires_grad_(wants) for each, wants in zip(drawn(kernel), wanted, strict=True))
    geometry = (stride, dilation * (kernel // 2), dilation)
    expected = gradients(library, x, weight, *geometry)
    assert took_its_own_way(depthwise(x, weight, *geometry))
    if not wanted[1]:
        monkeypatch.setattr(module, "_weight_gradient", None)
    names = []

    class Naming(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Naming():
        found = gradients(depthwise, x, weight, *geometry)
    assert_close(found, expected)
    assert ("flip" in names, "convolution_backward" in names) == wanted


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KINDS)
def test_second_derivatives_are_right(kernel: int, stride: int, dilation: int) -> None:
    x, weight = drawn(kernel, (5, 4))
    geometry = (stride, dilation * (kernel // 2), dilation)

    def second(function: Any) -> list[Tensor]:
        out = function(x, weight, *geometry)
        first = torch.autograd.grad(out.pow(3).sum(), [x, weight], create_graph=True)
        return list(torch.autograd.grad(first[0].pow(2).sum() + first[1].pow(2).sum(), [x, weight]))

    assert_close(second(depthwise), second(library))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), KINDS)
@pytest.mark.parametrize("size", [8, 16])
def test_single_precision_is_about_as_close_to_the_truth_as_the_library(kernel: int, stride: int, dilation: int, size: int) -> None:
    x, weight = drawn(kernel, (size, size), n=16, c=16, dtype=torch.float32)
    geometry = (stride, dilation * (kernel // 2), dilation)
    truth = gradients(library, x.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), *geometry)
    for ours, theirs, true in zip(
        gradients(depthwise, x, weight, *geometry), gradients(library, x, weight, *geometry), truth, strict=True
    ):
        assert (ours - true).norm() <= 5 * (theirs - true).norm() + 1e-7 * true.norm()


@pytest.mark.parametrize("dilation", [1, 2])
def test_many_images_cost_no_digits(monkeypatch: pytest.MonkeyPatch, dilation: int) -> None:
    x, weight = drawn(5, (16, 16), n=64, c=2, dtype=torch.float32)
    errors = []
    truth = gradients(library, *(each.detach().double().requires_grad_() for each in (x, weight)), 1, 2 * dilation, dilation)[2]
    for at_once in (module.AT_ONCE, 10**9):
        monkeypatch.setattr(module, "AT_ONCE", at_once)
        errors.append((gradients(depthwise, x, weight, 1, 2 * dilation, dilation)[2] - truth).norm())
    assert errors[0] < 1e-6 * truth.norm() and errors[0] < errors[1]


def test_the_librarys_own_way_is_kept_where_it_is_meant() -> None:
    x, weight = drawn(5)
    same = (1, 2, 1)
    assert took_its_own_way(depthwise(x, weight, *same))
    with torch.no_grad():
        assert not depthwise(x, weight, *same).requires_grad
    assert not depthwise(x.detach(), weight.detach(), *same).requires_grad
    assert not took_its_own_way(depthwise(x.detach().contiguous().requires_grad_(), weight, *same)), "not channels-last"
    assert not took_its_own_way(depthwise(*drawn(3), 1, 1, 1)), "fast in the library"
    meta = depthwise(x.to("meta").requires_grad_(), weight.to("meta"), 2, 4, 2)
    assert meta.shape == (2, 3, 4, 4) and not took_its_own_way(meta)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise(x.float(), weight.float(), *same)
    assert out.dtype == torch.bfloat16 and torch.autograd.grad(out.sum(), weight)[0].dtype == weight.dtype


def test_small_images_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENOUGH", ENOUGH)
    assert not took_its_own_way(depthwise(*drawn(5), 1, 2, 1))
    assert took_its_own_way(depthwise(*drawn(5, (16, 16), n=8, c=64), 1, 2, 1))


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were a GPU, of which nothing is known yet."""
    monkeypatch.setattr(module, "WITH_KERNELS", ("cpu",))
    monkeypatch.setattr(module, "TROUBLES", {})


@pytest.mark.usefixtures("with_kernels")
def test_kernels_that_fail_are_left_alone_with_one_warning() -> None:
    x, weight = drawn(3, dtype=torch.float32)
    with pytest.warns(UserWarning, match="our kernels failed") as warned:  # Triton is not there, or finds no GPU
        found = [gradients(depthwise, x, weight, 1, 1, 1) for _ in range(2)]
    assert len(warned) == 1
    for each in found:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(each, gradients(library, x, weight, 1, 1, 1), strict=True))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_kernels_that_compute_something_else_are_left_alone(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    class Wrong:
        @staticmethod
        def apply(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
            return library(x, factor * weight, stride, dilation, dilation)

    monkeypatch.setattr(module, "_ByKernels", Wrong)
    x, weight = drawn(3, dtype=torch.float32)
    with pytest.warns(UserWarning, match="our results differ"):
        assert torch.equal(depthwise(x, weight, 2, 1, 1), library(x, weight, 2, 1, 1))


@pytest.mark.usefixtures("with_kernels")
def test_kernels_are_tried_once_for_each_kind_and_never_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(module, "_trouble", lambda *arguments: tried.append(arguments) or "")
    x, weight = drawn(3)
    on_gpu = SimpleNamespace(is_cuda=True, device=x.device, dtype=x.dtype)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not module._trusted(on_gpu, weight, 1, 1) and not tried  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for stride in (1, 2, 2, 1):
        assert module._trusted(on_gpu, weight, stride, 1)  # type: ignore[arg-type]
    assert len(tried) == 2
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert module._trusted(on_gpu, weight, 2, 1), "what is known holds"  # type: ignore[arg-type]


@pytest.mark.usefixtures("with_kernels")
def test_kernels_are_asked_only_for_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "_trusted", lambda *arguments: bool(asked.append(arguments)))
    x, weight = drawn(3, dtype=torch.float32)
    for images, kernels, geometry in (
        (x.double(), weight.double(), (1, 1, 1)),
        (x.contiguous(memory_format=torch.contiguous_format), weight, (1, 1, 1)),
        (x, weight, (1, 0, 1)),
        (x, weight, (3, 1, 1)),
        (x[:0], weight, (1, 1, 1)),
        (x, torch.randn(3, 1, 7, 7), (1, 3, 1)),
    ):
        depthwise(images, kernels, *geometry)
    assert not asked
    depthwise(x, weight, 1, 1, 1)
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"])
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_look_are_saved_and_compute_as_ever(name: str, stride: int) -> None:
    operation = make_operation(name, 3, stride).double()
    plain = copy.deepcopy(operation)
    for at, layer in enumerate(plain.children()):
        if isinstance(layer, Depthwise):
            geometry = layer.stride, layer.padding, layer.dilation
            conv = nn.Conv2d(3, 3, layer.kernel_size, *geometry, groups=3, bias=False).double()  # type: ignore[arg-type]
            plain[at] = conv  # type: ignore[operator]
    plain.load_state_dict(operation.state_dict())
    assert repr(operation) == repr(plain) and operation.state_dict().keys() == plain.state_dict().keys()
    x = drawn(1)[0]
    found, expected = operation(x), plain(x)
    ours = torch.autograd.grad(found.pow(3).sum(), [x, *operation.parameters()])
    assert_close([found, *ours], [expected, *torch.autograd.grad(expected.pow(3).sum(), [x, *plain.parameters()])])
