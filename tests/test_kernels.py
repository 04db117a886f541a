"""The Triton kernels equal plain torch, in Triton's interpreter; they compile for an H200; who uses them computes the same.

The interpreter must be chosen before Triton is imported, and a compiler for a GPU that is not there needs a driver that only
pretends: so this file is also a script, and the tests read what it found in processes of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))  # kernel, dilation
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


class Case(NamedTuple):
    """A bundle and its images; with few programs, neighbouring pixels are computed together."""

    channels: int
    targets: int
    sources: int
    stride: int
    size: tuple[int, int]
    biased: bool = False
    few: bool = True
    dtype: torch.dtype = torch.float32

    def draw(self, *shape: int) -> Tensor:
        """Random numbers of its type."""
        return torch.randn(shape).to(self.dtype)

    @property
    def image(self) -> Tensor:
        """[n, h, w, sources, channels], not contiguous."""
        return self.draw(2, *self.size, self.sources + 1, self.channels)[..., 1:, :]

    @property
    def out(self) -> tuple[int, int]:
        """The size of results."""
        return (self.size[0] - 1) // self.stride + 1, (self.size[1] - 1) // self.stride + 1


CASES = (
    Case(4, 2, 2, 1, (5, 6)),
    Case(3, 3, 2, 2, (5, 4), biased=True),
    Case(24, 2, 1, 1, (4, 3), few=False),
    Case(24, 1, 1, 2, (6, 5), biased=True),
    Case(24, 2, 1, 1, (3, 5), dtype=torch.bfloat16),
)
# For the compiler: like the first cells of a search at the paper's scale, and like a reduction of its last ones under autocast.
COMPILED = (Case(24, 2, 2, 1, (32, 32)), Case(96, 2, 2, 2, (16, 16), dtype=torch.bfloat16))


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative error."""
    assert found.shape == expected.shape
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-9)).item()


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """The plain version of `spread`: one convolution for each edge, in float32."""
    x, weight = x.float().permute(3, 0, 4, 1, 2), weight.float().permute(0, 1, 4, 2, 3).unsqueeze(3)
    padding = dilation * (weight.shape[-1] - 1) // 2
    edges = [
        torch.stack([F.conv2d(a, w, None, stride, padding, dilation, groups=len(w)) for a, w in zip(x, target, strict=True)])
        for target in weight
    ]
    return torch.stack(edges).permute(0, 1, 2, 4, 5, 3)


# ------------------------------------------------------------------------------------------------ in the interpreter


def check_spread_and_gather(case: Case) -> float:
    """Both, all kinds at once, into given memory; returns the largest error."""
    from dsara_lib.architecture import kernels

    channels, targets, sources, stride, *_ = case
    x, bias = case.image, case.draw(sources, channels) if case.biased else None
    weights = [case.draw(targets, sources, kernel, kernel, channels) for kernel, _ in KINDS]
    mixers = [case.draw(targets, sources, channels, channels) for _ in KINDS[:2]]
    shifts = [case.draw(targets, sources, channels) for _ in KINDS[:2]]
    dilations = [dilation for _, dilation in KINDS]
    outs = [case.draw(targets, sources, 2, *case.out, channels) for _ in KINDS]
    kernels.spread(outs, [x], weights, dilations, mixers, shifts, bias, stride, True, "ieee")
    leaf = x.float().requires_grad_()
    plain = [
        depthwise((leaf if bias is None else leaf + bias.float()).relu(), w, stride, d)
        for w, d in zip(weights, dilations, strict=True)
    ]
    mixed = [_mixed(*parts) for parts in zip(plain, mixers, shifts, strict=False)]
    errors = [difference(a, b.detach()) for a, b in zip(outs, [*mixed, *plain[2:]], strict=True)]

    gradients = [case.draw(*y.shape) for y in plain]
    (expected,) = torch.autograd.grad(sum((y * g.float()).sum() for y, g in zip(plain, gradients, strict=True)), leaf)  # type: ignore
    found = case.draw(2, *case.size, sources + 2, channels)[..., :sources, :]
    before = found.clone()
    kernels.gather([found], gradients, weights, dilations, [], [x], bias, stride, True, "ieee")
    return max(*errors, difference(found, expected + before.float()))


def _mixed(y: Tensor, mixer: Tensor, shift: Tensor) -> Tensor:
    return torch.einsum("tsnhwc,tscd->tsnhwd", y, mixer.float()).add(shift.float()[:, :, None, None, None]).relu()


def check_several_images(case: Case) -> float:
    """The middle of separable convolutions: an image, a mask and a result for each kind; the way back mixes, too."""
    from dsara_lib.architecture import kernels

    channels, _, edges, *_ = case
    xs = [case.image for _ in KINDS[:2]]
    weights = [case.draw(1, edges, kernel, kernel, channels) for kernel, _ in KINDS[:2]]
    outs = [case.draw(1, edges, 2, *case.size, channels) for _ in xs]
    kernels.spread(outs, xs, weights, [1, 1], [], [], None, 1, False, "ieee")
    errors = [difference(out, depthwise(x, w, 1, 1)) for out, x, w in zip(outs, xs, weights, strict=True)]
    mixers = [case.draw(edges, channels, channels) for _ in xs]
    found = [torch.empty_like(x) for x in xs]
    kernels.gather(found, outs, weights, [1, 1], mixers, xs, None, 1, False, "ieee")
    for x, weight, out, mixer, result in zip(xs, weights, outs, mixers, found, strict=True):
        leaf = x.float().requires_grad_()
        (gradient,) = torch.autograd.grad((depthwise(leaf.relu(), weight, 1, 1) * out.float()).sum(), leaf)
        errors.append(difference(result, torch.einsum("nhwso,sio->nhwsi", gradient, mixer.float())))
    return max(errors)


def check_mix_and_unmix(channels: int, inputs: int, dtype: torch.dtype) -> float:
    """With ys for each target and one for all of them, poolings, a bias, and what is there already."""
    from dsara_lib.architecture import kernels

    case = Case(channels, 2, 2, 1, (1, 1), dtype=dtype)
    pixels = 35
    ys = [case.draw(2, 2, pixels, inputs), case.draw(1, 2, pixels, inputs).expand(2, -1, -1, -1)]
    weights = [case.draw(2, 2, inputs, channels) for _ in ys]
    zs = [case.draw(2, pixels, channels), case.draw(pixels, 2, channels).transpose(0, 1)]
    scales, bias = case.draw(2, 2, 2, channels), case.draw(2, channels)
    out = case.draw(pixels, 3, channels)[:, 1:].transpose(0, 1)
    expected = out.float() + bias.float().unsqueeze(1)
    expected += sum((y.float().relu() @ w.float()).sum(1) for y, w in zip(ys, weights, strict=True))
    expected += sum((z.float() * s.float().unsqueeze(2)).sum(1) for z, s in zip(zs, scales, strict=True))
    kernels.mix(out, ys, weights, zs, scales, bias, True, True, "ieee")
    errors = [difference(out, expected)]
    gys, gzs = (
        [torch.empty(2, 2, pixels, inputs, dtype=dtype) for _ in ys],
        [torch.empty(2, pixels, channels, dtype=dtype) for _ in zs],
    )
    kernels.unmix(gys, gzs, out, weights, scales, "ieee")
    errors += [difference(gy, out.float().unsqueeze(1) @ w.float().mT) for gy, w in zip(gys, weights, strict=True)]
    plain = [(out.float().unsqueeze(1) * s.float().unsqueeze(2)).sum(0) for s in scales]
    return max(errors + [difference(gz, expected) for gz, expected in zip(gzs, plain, strict=True)])


def check_pool_and_unpool(case: Case) -> float:
    """Maxima of equal pixels go to the first of them, as in torch."""
    from dsara_lib.architecture import kernels

    channels, _, sources, stride, *_ = case
    x = (2 * case.image).round()
    shape = (sources, 2, *case.out, channels)
    maxima, means, places = case.draw(*shape), case.draw(*shape), torch.empty(shape, dtype=torch.uint8)
    kernels.pool(maxima, places, means, x, stride)
    leaf = x.float().requires_grad_()
    images = leaf.permute(3, 0, 4, 1, 2).flatten(0, 1)
    pooled = F.max_pool2d(images, 3, stride, 1), F.avg_pool2d(images, 3, stride, 1, count_include_pad=False)
    plain = [y.unflatten(0, (sources, 2)).permute(0, 1, 3, 4, 2) for y in pooled]
    errors = [difference(a, b.detach()) for a, b in zip((maxima, means), plain, strict=True)]
    of_maxima, of_means, same = case.draw(*shape), case.draw(*shape), case.draw(sources, 2, *case.size, channels)
    total = (plain[0] * of_maxima).sum() + (plain[1] * of_means).sum() + (leaf.permute(3, 0, 1, 2, 4) * same).sum()
    (expected,) = torch.autograd.grad(total, leaf)
    found = torch.empty_like(x)
    kernels.unpool(found, of_maxima, places, of_means, same, stride, False)
    return max(*errors, difference(found, expected))


def check_depthwise(kernel: int, stride: int, dilation: int) -> float:
    """A training pass through `architecture.depthwise`, of several channels and sizes, against the truth."""
    errors = []
    wide = (1, 64, 6, 4) if kernel == 3 else (1, 96, 3, 5)
    for n, channels, height, width in ((2, 3, 5, 6), (2, 24, 4, 7), wide):
        x, weight = images_and_kernels(n, channels, height, width, kernel)
        with Names() as names:
            found = trained(x, weight, stride, dilation)
        assert names.found == {"convolve": 2, "correlate": 1}
        errors += [difference(*pair) for pair in zip(found, truth(x, weight, stride, dilation), strict=True)]
    return max(errors)


def check_many_pixels() -> float:
    """The weight gradient in two parts of several tiles, of which the last is not full; the same bits each time."""
    x, weight = images_and_kernels(3, 32, 4, 9, 5)
    found = trained(x, weight, 1, 1)[2]
    assert torch.equal(found, trained(x, weight, 1, 1)[2])
    return difference(found, truth(x, weight, 1, 1)[2])


def check_autocast() -> float:
    """Images are cast, and weights are not: so their gradients keep all digits."""
    x, weight = images_and_kernels(1, 8, 4, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(x, weight, 2, 1)
    assert [each.dtype for each in found] == [torch.bfloat16, torch.float32, torch.float32]
    return max(difference(*pair) for pair in zip(found, truth(x, weight, 2, 1), strict=True))


def check_first_use() -> float:
    """Finds nothing wrong."""
    from dsara_lib.architecture.depthwise import _trouble

    x, weight = images_and_kernels(1, 4, 1, 1, 3)
    found = [_trouble(x.to(dtype), weight, stride, 2) for dtype, stride in ((torch.float32, 1), (torch.bfloat16, 2))]
    assert found == ["", ""], found
    return 0.0


def check_one_gradient_and_second_derivatives() -> float:
    """No gradient that nobody wants; what is to be derived again is the library's."""
    from dsara_lib.architecture.depthwise import depthwise

    x, weight = images_and_kernels(1, 3, 4, 5, 3)
    for wanted, launched in ((x, {"convolve": 2}), (weight, {"convolve": 1, "correlate": 1})):
        leaves = [leaf if leaf is wanted else leaf.detach() for leaf in (x, weight)]
        with Names() as names:
            torch.autograd.grad(depthwise(*leaves, 1, 1, 1).sum(), wanted)
        assert names.found == launched

    def second(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(function(x, weight).pow(3).sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, weight))

    ours, theirs = partial(depthwise, stride=1, padding=1, dilation=1), partial(F.conv2d, padding=1, groups=3)
    return max(difference(*pair) for pair in zip(second(ours), second(theirs), strict=True))


def images_and_kernels(n: int, channels: int, height: int, width: int, kernel: int) -> tuple[Tensor, Tensor]:
    """In channels-last; both want a gradient."""
    x = torch.randn(n, channels, height, width).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(channels, 1, kernel, kernel, requires_grad=True)


def trained(x: Tensor, weight: Tensor, stride: int, dilation: int, function: Any = None) -> tuple[Tensor, ...]:
    """Result and both gradients."""
    from dsara_lib.architecture.depthwise import depthwise

    out = (function or depthwise)(x, weight, stride=stride, padding=dilation * (weight.shape[-1] // 2), dilation=dilation)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, (x, weight), direction.to(out))


def truth(x: Tensor, weight: Tensor, stride: int, dilation: int) -> tuple[Tensor, ...]:
    """The library's, in float64."""
    leaves = (leaf.detach().double().requires_grad_() for leaf in (x, weight))
    return trained(*leaves, stride, dilation, partial(F.conv2d, groups=len(weight)))


def check_cells(place: int) -> float:
    """Logits and image gradients of a supernet one of whose cells is computed by the kernels, against the plain folded one."""
    from dsara_lib.architecture.folded import FoldedSupernet
    from dsara_lib.architecture.gpu import KernelCell

    supernet = small_supernet()
    plain, mixed = FoldedSupernet(supernet), FoldedSupernet(supernet)
    with torch.no_grad():
        cell = supernet.cells[place]
        weights = supernet.mixing_weights()[cell.kind]
        mixed.cells[place] = KernelCell(cell, weights, torch.float32, relu=place < 4, precision="ieee")  # type: ignore
    images, direction = torch.rand(1, 3, 4, 5, requires_grad=True), torch.randn(1, 3)
    (expected, theirs), (found, ours) = (
        (logits.detach(), torch.autograd.grad((logits * direction).sum(), images)[0]) for logits in (plain(images), mixed(images))
    )
    assert theirs.norm() > 0
    return max(difference(found, expected), difference(ours, theirs))


def small_supernet(**size: int) -> Any:
    """With decided alphas and random batch statistics."""
    from dsara_lib.architecture import SearchSpace, Supernet

    operations = ("sep_conv_5x5", "dil_conv_3x3", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
    supernet = Supernet(
        SearchSpace(operations=operations, num_nodes=2), **({"num_cells": 5, "channels": 3, "num_classes": 3} | size)
    )
    with torch.no_grad():
        for alphas in supernet.alphas.values():
            alphas.normal_()
        for name, buffer in supernet.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.randn_like(buffer) / 3 if name.endswith("mean") else torch.rand_like(buffer) + 0.5)
    return supernet.eval()


def checks() -> dict[str, tuple[Callable[[], float], bool, float]]:
    """By name: what returns the largest error, whether with few programs, and what is allowed."""
    found: dict[str, tuple[Callable[[], float], bool, float]] = {}
    for number, case in enumerate(CASES):
        name, rest = f"case {number}", (case.few, TOLERANCES[case.dtype])
        found[f"spread and gather, {name}"] = (partial(check_spread_and_gather, case), *rest)
        found[f"pool and unpool, {name}"] = (partial(check_pool_and_unpool, case), *rest)
    for number in (0, 2, 4):
        case = CASES[number]
        found[f"several images, case {number}"] = (partial(check_several_images, case), case.few, TOLERANCES[case.dtype])
    for channels, inputs, dtype in (
        (3, 4, torch.float32),
        (24, 72, torch.float32),
        (24, 24, torch.bfloat16),
        (128, 80, torch.float32),
    ):
        name = f"mix and unmix, {inputs} to {channels} channels, {dtype}"
        found[name] = (partial(check_mix_and_unmix, channels, inputs, dtype), False, TOLERANCES[dtype])
    for kernel, stride, dilation in itertools.product((3, 5), (1, 2), (1, 2)):
        name = f"depthwise {kernel}x{kernel}, stride {stride}, dilation {dilation}"
        found[name] = (partial(check_depthwise, kernel, stride, dilation), False, 2e-7)
    found["depthwise of many pixels"] = (check_many_pixels, True, 2e-7)
    found["depthwise at first use"] = (check_first_use, False, 0.0)
    found["depthwise under autocast"] = (check_autocast, False, 1e-2)
    found["depthwise, one gradient and second derivatives"] = (check_one_gradient_and_second_derivatives, False, 1e-5)
    for place, what in ((1, "reduction"), (4, "last")):
        found[f"{what} cell"] = (partial(check_cells, place), True, 1e-5)
    return found


def product(matmul: Callable[..., Any], a: Any, b: Any, total: Any, *settings: Any) -> Any:
    """Of matrices. Triton 3.9's interpreter keeps bfloat16 as whole numbers, which it would multiply as such."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    wide = [
        TensorHandle((x.data.astype("uint32") << 16).view("float32"), tl.float32) if x.dtype == tl.bfloat16 else x for x in (a, b)
    ]
    return matmul(*wide, total, *settings)


def interpret() -> dict[str, float]:
    """The largest error of each check."""
    from triton.runtime import interpreter

    from dsara_lib.architecture import depthwise, kernels

    depthwise.WITH_KERNELS = ("cpu",)
    depthwise._trusted = lambda *_: True
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)  # as when compiled; four times as fast
    builder.create_dot = partial(product, builder.create_dot)
    torch.set_num_threads(1)
    errors, enough = {}, kernels.ENOUGH_PROGRAMS
    for name, (check, few, _) in checks().items():
        torch.manual_seed(0)
        kernels.ENOUGH_PROGRAMS = 1 if few else enough
        errors[name] = check()
    return errors


# ------------------------------------------------------------------------------------------------ for the H200


class Pretended:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> Any:
        """An H200."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The first one."""
        return 0


def compile_all() -> dict[str, dict[str, int]]:
    """What each kernel needs of a multiprocessor, in small and in large cells."""
    from triton.runtime import driver

    from dsara_lib.architecture import kernels

    driver.set_active(Pretended())  # type: ignore[arg-type]
    needs: dict[str, dict[str, int]] = {}

    def compile_instead(kernel: Any, grid: tuple[int, ...], warps: int, *arguments: Any, **constants: Any) -> None:
        compiled = kernel.warmup(*arguments, **constants, num_warps=warps, **kernels.OPTIONS, grid=grid)
        found = usage(compiled.asm["cubin"]) | {"SHARED": compiled.metadata.shared}
        needs[kernel.__name__] = {name: max(number, needs.get(kernel.__name__, found)[name]) for name, number in found.items()}

    kernels.launch = compile_instead
    for case in COMPILED:
        call_all(case, 64)
    return needs


def call_all(case: Case, n: int) -> None:
    """Every kernel once, on memory that nobody looks at."""
    from dsara_lib.architecture import depthwise_kernels, kernels

    channels, targets, sources, stride, size, *_ = case
    edges = targets, sources
    empty = partial(torch.empty, dtype=case.dtype)
    x, y = empty(n, *size, sources, channels), empty(*edges, n, *case.out, channels)
    flat, pooled = y.flatten(2, 4), empty(sources, n, *case.out, channels)
    sums, zs = flat[:, 0].clone(), [pooled.flatten(1, 3)] * 2
    weights = [empty(*edges, kernel, kernel, channels) for kernel in (5, 3)]
    mixer, vector = empty(*edges, channels, channels), empty(*edges, channels)
    scales, places = torch.stack([vector] * 2), pooled.to(torch.uint8)
    kernels.spread([y, y], [x], weights, [1, 2], [mixer], [vector], None, stride, True, "tf32")
    kernels.gather([x], [y, y], weights, [1, 2], [], [x], None, stride, True, "tf32")
    kernels.mix(sums, [flat, flat], [mixer, mixer], zs, scales, None, False, True, "tf32")
    kernels.unmix([flat, flat], zs, sums, [mixer, mixer], scales, "tf32")
    kernels.pool(pooled, places, pooled.clone(), x, stride)
    kernels.unpool(x, pooled, places, pooled, pooled, stride, True)
    image, out, taps = x[:, :, :, 0].clone(), pooled[0], torch.empty(25, channels)
    depthwise_kernels.convolve(out, image, taps, stride, stride, False)
    depthwise_kernels.convolve(image, out, taps, stride, stride, True)
    depthwise_kernels.correlate(torch.empty(channels, 25), out, image, stride, 1)


def usage(binary: bytes) -> dict[str, int]:
    """Registers of a thread (REG) and what did not fit into them (STACK, LOCAL), in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        done = subprocess.run([tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if "REG:" in line)
    return {name: int(number) for name, number in (word.split(":") for word in line.split()[:4])}


def tool(name: str) -> Path:
    """A program that comes with Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


# ------------------------------------------------------------------------------------------------ the tests


def result_of(what: str, **environment: str) -> Any:
    """What this file prints as a script."""
    pytest.importorskip("triton", reason="Triton is not installed")
    root = Path(__file__).parents[1]
    settings = os.environ | {"PYTHONPATH": str(root)} | environment
    done = subprocess.run([sys.executable, __file__, what], cwd=root, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    return result_of("interpret", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def needs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    pytest.importorskip("triton", reason="Triton is not installed")
    if not all(tool(name).exists() for name in ("ptxas", "cuobjdump")):
        pytest.skip("ptxas does not come with this Triton")
    return result_of("compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton")))


@pytest.mark.parametrize("name", checks())
def test_kernel_equals_its_plain_version(name: str, errors: dict[str, float]) -> None:
    assert errors[name] <= checks()[name][2]


KERNELS = ("spread", "gather", "mix", "unmix", "pool", "unpool", "convolve", "correlate")


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles_for_the_h200_and_keeps_all_in_registers(name: str, needs: dict[str, dict[str, int]]) -> None:
    found = needs[f"_{name}_kernel"]
    assert found["STACK"] == found["LOCAL"] == 0, "registers spill into memory"
    assert found["REG"] <= 168, "fewer than three blocks of four warps fit"
    assert found["SHARED"] <= 76_000, "fewer than three blocks fit"


class Names(TorchDispatchMode):
    """Counts our operations while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "dsara":
            self.found[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_bundle_starts_eight_kernels_in_a_crafting_pass() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from dsara_lib.architecture.folded import FoldedSupernet
    from dsara_lib.architecture.gpu import KernelCell

    supernet = small_supernet().to("meta")
    folded = FoldedSupernet(supernet)
    with torch.no_grad():
        mixing = supernet.mixing_weights()
        folded.cells = [KernelCell(cell, mixing[cell.kind], torch.float32, relu=True) for cell in supernet.cells]  # type: ignore
    images = torch.empty(64, 3, 32, 32, device="meta", requires_grad=True)
    with Names() as names:
        (gradient,) = torch.autograd.grad(folded(images).sum(), images)
    assert gradient.shape == images.shape
    bundles, reductions = 5 * 2, 2
    assert names.found == {
        "spread": 2 * bundles,  # both halves of separable convolutions
        "gather": 2 * bundles,
        "mix": bundles + 2 * reductions,  # the adjoint of a factorised reduction, of either half, is a sum, too
        "unmix": bundles,
        "pool": bundles,
        "unpool": bundles,
    }


def test_training_pass_starts_three_kernels_for_each_depthwise_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from dsara_lib.architecture import depthwise, kernels

    monkeypatch.setattr(depthwise, "WITH_KERNELS", ("cpu",))
    monkeypatch.setattr(depthwise, "_trusted", lambda *_: True)
    monkeypatch.setattr(kernels, "launch", lambda *arguments, **constants: None)
    supernet = small_supernet().train()
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with Names() as names:
        torch.autograd.grad(supernet(images).sum(), list(supernet.parameters()), allow_unused=True)
    convolutions = 3 * 5 * 2  # two of a separable convolution and a dilated one, in each bundle
    assert names.found == {"convolve": 2 * convolutions, "correlate": convolutions}


def test_kernels_serve_only_gpus_and_the_precisions_that_they_sum_in() -> None:
    from dsara_lib.architecture.gpu import can_serve

    pytest.importorskip("triton", reason="Triton is not installed")
    cell = small_supernet().cells[0]
    assert can_serve(cell, torch.float32, torch.device("cuda")) and can_serve(cell, torch.bfloat16, torch.device("cuda"))
    assert not can_serve(cell, torch.float32, torch.device("cpu"))
    assert not can_serve(cell, torch.float64, torch.device("cuda"))
    wide = small_supernet(channels=130).cells[0]
    assert not can_serve(wide, torch.float32, torch.device("cuda"))


if __name__ == "__main__":
    print(json.dumps({"interpret": interpret, "compile": compile_all}[sys.argv[1]]()))
