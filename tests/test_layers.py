"""The layers that torch lacks compute what their sources say, in every number format that nets are trained in."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_lib import layers
from alexnet_lib.layers import Conv2d, CrossMapNorm, LocallyConnected, SameMapNorm, Window


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cross_map_loop(x: Tensor, size: int, alpha: float, beta: float, k: float, towers: int) -> Tensor:
    """P §3.3, one map at a time."""
    a = x.unbind(1)
    per_tower = len(a) // towers
    out = []
    for i in range(len(a)):
        first = i // per_tower * per_tower
        total = torch.zeros_like(a[i])
        for j in range(max(first, i - size // 2), min(first + per_tower - 1, i + size // 2) + 1):
            total = total + a[j] ** 2
        out.append(a[i] / (k + alpha * total) ** beta)
    return torch.stack(out, 1)


def same_map_loop(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    images, maps, height, width = x.shape
    out = []
    for n, i, y, z in itertools.product(range(images), range(maps), range(height), range(width)):
        total = x.new_zeros(())
        for down, right in itertools.product(range(-(size // 2), size // 2 + 1), repeat=2):
            if 0 <= y + down < height and 0 <= z + right < width:
                total = total + x[n, i, y + down, z + right] ** 2
        out.append(x[n, i, y, z] / (k + alpha * total) ** beta)
    return torch.stack(out).view_as(x)


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x, noise(*value.shape, seed=1).to(value))
    return value.detach(), gradient


@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (9, 0.75), (3, 0.5)])
def test_the_cross_map_norm_equals_the_papers_formula_in_value_and_gradient(
    size: int, beta: float, towers: int
) -> None:
    x = noise(2, 8, 2, 3)
    ours = value_and_gradient(CrossMapNorm(size, 0.3, beta, 2.0, towers), x)
    loop = value_and_gradient(lambda a: cross_map_loop(a, size, 0.3, beta, 2.0, towers), x)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (3, 0.75), (3, 0.5)])
def test_the_same_map_norm_equals_its_formula_in_value_and_gradient(size: int, beta: float) -> None:
    x = noise(2, 2, 6, 7)
    ours = value_and_gradient(SameMapNorm(size, 0.3, beta, 1.0), x)
    loop = value_and_gradient(lambda a: same_map_loop(a, size, 0.3, beta, 1.0), x)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("alpha", "torch_alpha"), [(1e-4, 5e-4), (1e-4 / 5, 1e-4)])
def test_each_reading_of_alpha_is_torchs_alpha_over_the_window_size(alpha: float, torch_alpha: float) -> None:
    x = 50 * noise(2, 12, 3, 3)
    theirs = nn.LocalResponseNorm(5, alpha=torch_alpha, beta=0.75, k=2.0)
    torch.testing.assert_close(CrossMapNorm(5, alpha, 0.75, 2.0)(x), theirs(x), rtol=1e-13, atol=1e-13)


def test_norms_inside_the_towers_change_only_the_maps_beside_the_seam() -> None:
    x = 50 * noise(1, 96, 2, 2)
    apart = CrossMapNorm(5, 1e-4, 0.75, 2.0, towers=2)(x)
    across = CrossMapNorm(5, 1e-4, 0.75, 2.0, towers=1)(x)
    differ = (apart != across).flatten(2).any(2).nonzero()[:, 1].tolist()
    assert differ == [46, 47, 48, 49]


@pytest.mark.parametrize("norm", [CrossMapNorm(5, 1e-4, 0.75, 2.0, 2), SameMapNorm(3, 1e-4, 0.75, 1.0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_keep_bf16_and_channels_last(norm: nn.Module, layout: torch.memory_format) -> None:
    x = (50 * noise(2, 8, 5, 5)).to(torch.bfloat16).to(memory_format=layout)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert layout is torch.contiguous_format or out.is_contiguous(memory_format=layout)
    # Right to the last bit that bf16 has: only the result is rounded.
    torch.testing.assert_close(out.double(), norm(x.double()), rtol=2**-8, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_the_cross_map_norm_s_written_gradient_is_that_of_its_values(
    beta: float, towers: int, layout: torch.memory_format
) -> None:
    x = noise(2, 6, 2, 2).to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(CrossMapNorm(3, 0.3, beta, 2.0, towers), (x,))


def test_the_cross_map_norm_takes_a_gradient_that_is_the_same_everywhere() -> None:
    """A sum hands one number down, expanded without memory of its own."""
    norm, x = CrossMapNorm(5, 0.3, 0.75, 2.0), noise(2, 8, 2, 3).requires_grad_()
    (ours,) = torch.autograd.grad(norm(x).sum(), x)
    (loop,) = torch.autograd.grad(cross_map_loop(x, 5, 0.3, 0.75, 2.0, 1).sum(), x)
    torch.testing.assert_close(ours, loop, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 5, 9])
@pytest.mark.parametrize("shape", [(7, 2, 12), (1, 1, 3), (0, 2, 12)])
def test_a_window_s_sums_are_those_of_neighbouring_maps(
    shape: tuple[int, ...], size: int, dtype: torch.dtype
) -> None:
    values = (50 * noise(*shape)).to(dtype)
    window = Window(values, size, dtype)
    window.terms(len(values)).copy_(values)
    loop = [values[:, :, max(0, i - size // 2) : i + size // 2 + 1].sum(2) for i in range(shape[2])]
    torch.testing.assert_close(window.sums(len(values)), torch.stack(loop, 2))


GPU_NORM = """
import pathlib, sys, torch
from alexnet_lib.gpu_norm import GpuNorm

torch.set_num_threads(1)
path, done = pathlib.Path(sys.argv[1]), []
for x, gradient, setting in torch.load(path):
    x.requires_grad_()
    out = GpuNorm.apply(x, *setting)
    out.backward(gradient)
    done.append((out.detach(), x.grad))
torch.save(done, path)
"""
SHAPES = ((2, 8, 3, 3), (2, 96, 3, 3))
"""A window wider than a tower; values for three groups of threads and a part of a fourth."""
NORMS = [
    *((shape, size, towers, torch.float32) for shape in SHAPES for size in (3, 5, 9) for towers in (1, 2)),
    (SHAPES[1], 5, 2, torch.bfloat16),
    ((3, 8, 1, 1), 5, 2, torch.float32),
    ((0, 8, 3, 3), 5, 2, torch.float32),
]


@pytest.fixture(scope="module")
def on_a_gpu(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, Tensor]]:
    """Values and gradients of ``NORMS`` by the GPU's kernels, which Triton's interpreter runs on the CPU."""
    pytest.importorskip("triton")
    path = tmp_path_factory.mktemp("norms") / "norms.pt"
    cases = []
    for number, (shape, size, towers, dtype) in enumerate(NORMS):
        x = norm_input(shape, dtype)
        layout = torch.channels_last if number % 2 else torch.contiguous_format
        cases.append(
            (x.to(memory_format=layout), noise(*shape, seed=1).to(dtype), (towers, size, 0.3, 0.75, 2.0)),
        )
    torch.save(cases, path)
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", GPU_NORM, str(path)], check=True, env=interpreted, timeout=300)
    done: list[tuple[Tensor, Tensor]] = torch.load(path)
    return done


def norm_input(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (3 * noise(*shape)).to(dtype)


@pytest.mark.parametrize("case", range(len(NORMS)), ids=[str(norm) for norm in NORMS])
def test_a_gpu_s_norm_equals_the_papers_formula_in_value_and_gradient(
    on_a_gpu: list[tuple[Tensor, Tensor]], case: int
) -> None:
    shape, size, towers, dtype = NORMS[case]
    ours = on_a_gpu[case]
    assert {(each.shape, each.dtype) for each in ours} == {(shape, dtype)}
    if not shape[0]:
        return
    x, gradient = norm_input(shape, dtype).double(), noise(*shape, seed=1).to(dtype).double()
    x.requires_grad_()
    loop = cross_map_loop(x, size, 0.3, 0.75, 2.0, towers)
    (wanted,) = torch.autograd.grad(loop, x, gradient)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 2**-8}
    torch.testing.assert_close([each.double() for each in ours], [loop.detach(), wanted], **close)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_on_a_gpu_the_cross_map_norm_is_the_cpus(dtype: torch.dtype, layout: torch.memory_format) -> None:
    norm, x = CrossMapNorm(5, 1e-3, 0.75, 2.0, 2), (50 * noise(3, 96, 5, 5)).to(dtype).to(memory_format=layout)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        there = value_and_gradient(norm, x.cuda())
    here = value_and_gradient(norm, x.double())
    assert there[0].dtype == dtype
    assert there[0].is_contiguous(memory_format=torch.channels_last)
    close = {"rtol": 2**-7, "atol": 2**-7} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close([t.cpu().double() for t in there], list(here), **close)


@pytest.mark.parametrize("cached", [1, 40, 10**6])
def test_the_cross_map_norm_is_the_same_however_many_values_a_cpu_takes_at_a_time(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm, x = CrossMapNorm(5, 1e-4, 0.75, 2.0, 2), (50 * noise(3, 8, 5, 5)).float()
    whole = value_and_gradient(norm, x)
    monkeypatch.setattr(layers, "CACHED", cached)
    value, gradient = value_and_gradient(norm, x)
    assert torch.equal(value, whole[0])
    assert torch.equal(gradient, whole[1])


def test_the_cross_map_norm_takes_a_batch_without_images() -> None:
    """Of several processes one may have no part of the last batch."""
    value, gradient = value_and_gradient(CrossMapNorm(5, 1e-4, 0.75, 2.0, 2), noise(0, 8, 3, 3))
    assert (value.shape, gradient.shape) == ((0, 8, 3, 3), (0, 8, 3, 3))


def test_under_autocast_the_cross_map_norm_computes_in_float32() -> None:
    norm, x = CrossMapNorm(5, 1e-4, 0.75, 2.0, 2), (50 * noise(2, 8, 3, 3)).float()
    plain = value_and_gradient(norm, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_ = x.clone().requires_grad_()
        value = norm(x_)
    (gradient,) = torch.autograd.grad(value, x_, noise(*value.shape, seed=1).float())
    torch.testing.assert_close((value.detach(), gradient), plain, rtol=0, atol=0)


def test_under_autocast_the_cross_map_norm_rounds_bf16_once() -> None:
    norm, x = CrossMapNorm(5, 1e-4, 0.75, 2.0, 2), (50 * noise(2, 8, 3, 3)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x)
    assert torch.equal(out, norm(x.float()).bfloat16())


CONVOLUTIONS = [  # of AlexNet's editions, and one whose last pixels are in no window
    ({"in_channels": 3, "out_channels": 8, "kernel_size": 11, "stride": 4}, 227),
    ({"in_channels": 3, "out_channels": 8, "kernel_size": 11, "stride": 4, "padding": 2}, 224),
    ({"in_channels": 3, "out_channels": 8, "kernel_size": 11, "stride": 4}, 46),
    ({"in_channels": 8, "out_channels": 12, "kernel_size": 5, "padding": 2, "groups": 2}, 9),
    ({"in_channels": 8, "out_channels": 12, "kernel_size": 3}, 9),
]


@pytest.mark.parametrize("images", [2, 0])  # a process may have no part of the last batch
@pytest.mark.parametrize(("settings", "side"), CONVOLUTIONS)
def test_a_convolution_rearranged_for_tensor_cores_is_the_same_in_value_and_gradients(
    settings: dict[str, int], side: int, images: int
) -> None:
    layer = Conv2d(**settings).double().to(memory_format=torch.channels_last)
    x = noise(images, 3 if "stride" in settings else 8, side, side).to(memory_format=torch.channels_last)
    found = []
    for forward in (layer.forward, layer.rearranged):
        out, gradient = value_and_gradient(forward, x)
        assert not images or out.is_contiguous(memory_format=torch.channels_last)
        weights = torch.autograd.grad(forward(x).square().sum(), [*layer.parameters()])
        found.append((out, gradient, *weights))
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(1, 4, 9, 9), (1, 3, 9, 11)])
def test_a_convolution_that_is_not_rearranged_is_left_as_it_is(shape: tuple[int, ...]) -> None:
    """Strides in two groups, and over an image that is not square: no network has them."""
    layer = Conv2d(shape[1], 4, 3, stride=2, groups=2 if shape[1] == 4 else 1).double()
    assert torch.equal(layer.rearranged(noise(*shape)), layer(noise(*shape)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("settings", "side"), CONVOLUTIONS)
def test_on_a_gpu_a_convolution_in_bf16_is_close_to_the_cpus(settings: dict[str, int], side: int) -> None:
    layer = Conv2d(**settings).to(memory_format=torch.channels_last)
    x = noise(2, 3 if "stride" in settings else 8, side, side).float().to(memory_format=torch.channels_last)
    here = value_and_gradient(layer, x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        there = value_and_gradient(layer.cuda(), x.cuda())
    assert there[0].dtype == torch.bfloat16
    torch.testing.assert_close([t.cpu().float() for t in there], list(here), rtol=0.02, atol=0.02)


def test_where_the_gpu_s_kernels_can_t_be_compiled_the_other_norm_takes_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "alexnet_lib.gpu_norm", raising=False)
    layers._gpu_norm.cache_clear()
    with pytest.warns(UserWarning, match="install a C compiler and Python's headers"):
        assert layers._gpu_norm() is layers._CrossMapNorm
    layers._gpu_norm.cache_clear()


@pytest.mark.parametrize(("kernel", "padding", "side"), [(3, 1, 4), (3, 0, 5), (1, 0, 3)])
def test_a_local_layer_gives_each_position_its_own_filters(kernel: int, padding: int, side: int) -> None:
    layer = LocallyConnected(2, 3, kernel, side, padding).double()
    with torch.no_grad():
        layer.weight.copy_(noise(*layer.weight.shape, seed=1))
        layer.bias.copy_(noise(*layer.bias.shape, seed=2))
    x = noise(2, 2, side, side)
    padded = F.pad(x, (padding,) * 4)
    out = layer(x)
    assert out.shape == (2, 3, layer.out_size, layer.out_size)
    for n, y, z, o in itertools.product(range(2), range(layer.out_size), range(layer.out_size), range(3)):
        position = y * layer.out_size + z
        patch = padded[n, :, y : y + kernel, z : z + kernel].flatten()
        expected = patch @ layer.weight[position, :, o] + layer.bias[position, 0, o]
        assert math.isclose(out[n, o, y, z].item(), expected.item(), rel_tol=1e-12, abs_tol=1e-13)


def test_a_local_layer_takes_a_batch_without_images() -> None:
    assert LocallyConnected(2, 3, 3, 6, 1)(torch.empty(0, 2, 6, 6)).shape == (0, 3, 6, 6)


def test_a_local_layer_with_equal_filters_everywhere_is_a_convolution_in_value_and_gradient() -> None:
    layer = LocallyConnected(2, 3, 3, 6, 1).double()
    filters, x = noise(3, 2, 3, 3, seed=1), noise(2, 2, 6, 6)
    with torch.no_grad():
        layer.weight.copy_(filters.flatten(1).T.expand_as(layer.weight))
        layer.bias.fill_(0.5)

    def convolve(images: Tensor) -> Tensor:
        return F.conv2d(images, filters, torch.full((3,), 0.5, dtype=torch.float64), padding=1)

    ours, shared = value_and_gradient(layer, x), value_and_gradient(convolve, x)
    torch.testing.assert_close(ours, shared, rtol=1e-12, atol=1e-13)
