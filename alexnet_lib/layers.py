"""The layers that torch lacks, and layers with weights that carry what a network's file says about them."""

from __future__ import annotations

import functools
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Activation = Callable[[], nn.Module]

CACHED = 2**18
"""Values that each of a CPU's threads normalises at a time: what it computes with them stays in its caches."""
ACTIVATIONS: dict[str, Activation] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class CrossMapNorm(nn.Module):
    """Local response normalisation over neighbouring maps (P §3.3).

    ``b[i] = a[i] / (k + alpha * sum(a[j]**2 for j from i - size//2 to i + size//2)) ** beta``, for odd
    ``size`` from 3; the sum ends at the first and last map of a tower: no tower sees the other's maps.

    ``alpha`` is the factor of each term, as the paper prints it. The 2012 code divides its file's value by
    ``size`` first, and so does ``torch.nn.LocalResponseNorm``, whose alpha is ``size`` times the one here.
    For size 5: the paper as printed is 1e-4 here, 5e-4 there; the 2012 code is 1e-4/5 here, 1e-4 there.

    Shapes: float (N, maps, H, W) in and out, the latter in ``channels_last`` memory; ``towers`` divides ``maps``; the
    dtype is kept.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float, towers: int = 1) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        # On a GPU kernels of its own, for the power that all nets have.
        special = x.is_cuda and x.dtype != torch.float64 and self.beta == 0.75
        norm = _gpu_norm() if special else _CrossMapNorm
        out: Tensor = norm.apply(x, self.towers, self.size, self.alpha, self.beta, self.k)
        return out


@functools.cache
def _gpu_norm() -> type[torch.autograd.Function]:
    """Return the norm in kernels of its own, or the other one, with a warning, where they can't be compiled.

    They take Triton, which torch brings on Linux, and Triton takes a C compiler and Python's headers.
    """
    try:
        from alexnet_lib.gpu_norm import GpuNorm

        GpuNorm.apply(torch.ones(1, 8, 1, 1, device="cuda"), 1, 5, 1.0, 0.75, 1.0)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"response normalisation takes much of a training's time here, since its GPU kernels can't be compiled "
            f"({error}): install a C compiler and Python's headers (Debian, Ubuntu: gcc, python3-dev)",
            stacklevel=2,
        )
        return _CrossMapNorm
    return GpuNorm


class _CrossMapNorm(torch.autograd.Function):
    """``x * d**-beta`` with ``d = k + alpha * sums(x**2)`` over a `Window`, its gradient written out.

    Left to autograd it would keep three more tensors and take half as long again. A CPU goes through all steps with a
    few pixels before it takes the next, so that none waits for memory: two to three times as fast at AlexNet's size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, towers: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
        maps, wide = x.shape[1], _wide(x.dtype)
        rows = x.permute(0, 2, 3, 1).reshape(-1, towers, maps // towers)  # no copy of a channels_last tensor
        sums, scale = (torch.empty(rows.shape, dtype=wide, device=x.device) for _ in range(2))
        out = torch.empty_like(rows)
        window = Window(rows, size, wide)
        for some, some_sums, some_scale, some_out in window.chunks(rows, sums, scale, out):
            values = some.to(wide)
            torch.mul(values, values, out=window.terms(len(some)))
            torch.mul(window.sums(len(some)), alpha, out=some_sums).add_(k)
            torch.mul(values, _inverse_power(some_sums, beta, out=some_scale), out=some_out)
        ctx.save_for_backward(rows, sums, scale)
        ctx.size, ctx.factor = size, -2 * alpha * beta
        return _maps(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        rows, sums, scale = ctx.saved_tensors
        (gradient,) = gradients
        theirs = gradient.permute(0, 2, 3, 1).reshape(rows.shape)
        ours = torch.empty_like(theirs)
        window = Window(rows, ctx.size, sums.dtype)
        for some, values, some_sums, some_scale, some_out in window.chunks(theirs, rows, sums, scale, ours):
            values = values.to(sums.dtype)
            direct = some.to(sums.dtype) * some_scale
            torch.div(direct * values, some_sums, out=window.terms(len(some)))
            torch.addcmul(direct, window.sums(len(some)), values, value=ctx.factor, out=some_out)
        return _maps(ours, gradient), None, None, None, None, None


class Window:
    """Sums over neighbouring maps of one tower, for a few rows (pixels) at a time: as many as stay in a CPU's caches.

    What is added lies 0 to ``size`` - 1 places further on in memory, with zeros between the towers.
    """

    def __init__(self, rows: Tensor, size: int, dtype: torch.dtype) -> None:
        """Make room for the terms of a few of ``rows`` (n, towers, maps); ``size``: maps in a window, odd, from 3."""
        count, towers, self.maps = rows.shape
        if rows.device.type == "cpu":
            count = min(count, CACHED * torch.get_num_threads() // (towers * self.maps) + 1)
        self.size, self.count = size, max(1, count)
        self.padded = torch.zeros(self.count, towers, self.maps + size - 1, dtype=dtype, device=rows.device)

    def chunks(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield tensors of equally many rows chunk by chunk."""
        return zip(*(torch.split(part, self.count) for part in rows), strict=True)

    def terms(self, count: int) -> Tensor:
        """Return what is to be filled with the terms of the sums of ``count`` rows: (count, towers, maps)."""
        return self.padded[:count, :, self.size // 2 :][..., : self.maps]

    def sums(self, count: int) -> Tensor:
        """Return the sums: at each map over the ``size`` maps around it, fewer at a tower's ends."""
        padded = self.padded[:count]
        line = padded.view(-1)
        length = max(0, len(line) - self.size + 1)
        total = line[:length] + line[1 : 1 + length]
        for shift in range(2, self.size):
            total += line[shift : shift + length]
        return total.as_strided((count, *self.terms(count).shape[1:]), padded.stride())


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    count, maps, height, width = like.shape
    return rows.view(count, height, width, maps).permute(0, 3, 1, 2)


class SameMapNorm(nn.Module):
    """Response normalisation over a ``size`` x ``size`` window of one map (``rnorm`` of the 2012 release).

    As :class:`CrossMapNorm`, the sum taken over the window; pixels outside the map count as zero. ``alpha``
    is the factor of each term: the file's ``scale`` over ``size**2``. The paper does not mention this layer.

    Shapes: float (N, maps, H, W) in and out; dtype and memory format are kept.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        wide = x.to(_wide(x.dtype))
        sums = F.avg_pool2d(wide.square(), self.size, 1, self.size // 2, divisor_override=1)
        return (wide * _inverse_power(self.k + self.alpha * sums, self.beta)).to(x.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    # Squares summed in bf16 would add a rounding error as large as the one of the format itself.
    return torch.promote_types(dtype, torch.float32)


def _inverse_power(x: Tensor, beta: float, out: Tensor | None = None) -> Tensor:
    if beta == 0.75:  # every net's; on a CPU a compiled norm is four times faster with roots than with pow
        root = x.rsqrt()
        return torch.mul(root, root.sqrt(), out=out)
    return torch.pow(x, -beta, out=out)


class LocallyConnected(nn.Module):
    """A convolution of stride 1 that shares no weights and biases between positions (``local`` in the files).

    ``map_size`` is the side S of the square input maps. Shapes: float (N, in_maps, S, S) to (N, maps, T, T)
    with T = S + 2 * padding - kernel + 1; weight (T*T, in_maps * kernel**2, maps), bias (T*T, 1, maps).
    """

    def __init__(self, in_maps: int, maps: int, kernel: int, map_size: int, padding: int) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel, 1, padding
        self.out_size = map_size + 2 * padding - kernel + 1
        self.weight = nn.Parameter(torch.empty(self.out_size**2, in_maps * kernel**2, maps))
        self.bias = nn.Parameter(torch.empty(self.out_size**2, 1, maps))

    def forward(self, x: Tensor) -> Tensor:
        """Give each position the response of its own filters."""
        patches = F.unfold(x, self.kernel_size, padding=self.padding).permute(2, 0, 1)
        maps = torch.baddbmm(self.bias, patches, self.weight)
        return maps.permute(1, 2, 0).reshape(*maps.shape[1:], self.out_size, self.out_size)


class Conv2d(nn.Conv2d):
    """A convolution; in bf16 on a GPU in the forms that its tensor cores are fast at, equal but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``: float (N, in_maps, H, W)."""
        return self.rearranged(x) if x.is_cuda and torch.is_autocast_enabled("cuda") else super().forward(x)

    def rearranged(self, x: Tensor) -> Tensor:
        """Do the towers one after the other, and the strides over an image as steps of one over blocks of pixels.

        A weight gradient of two groups at once takes up to five times as long as two. The tensor cores take input
        maps by the eight; with three colours most of each step is empty, with 48 in blocks of 4 x 4 nothing.
        """
        assert self.bias is not None
        if self.stride[0] > 1 and self.groups == 1 and x.shape[2] == x.shape[3]:
            return F.conv2d(*self._in_blocks(x), self.bias)
        if self.stride[0] > 1 or self.groups == 1:
            return super().forward(x)
        seen, weights, biases = x.chunk(self.groups, 1), self.weight.chunk(self.groups), self.bias.chunk(self.groups)
        maps = [
            F.conv2d(some.contiguous(memory_format=torch.channels_last), w, b, padding=self.padding)
            for some, w, b in zip(seen, weights, biases, strict=True)
        ]
        # By pixels, each of which has a tower's maps side by side: five times as fast as by maps.
        return torch.cat([each.permute(0, 2, 3, 1) for each in maps], 3).permute(0, 3, 1, 2)

    def _in_blocks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and weights as blocks of ``stride`` x ``stride`` pixels, zeros added right and below."""
        stride, pad, side = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        steps = (x.shape[3] + 2 * pad - side) // stride
        kernel = -(-side // stride) * stride
        more = steps * stride + kernel - x.shape[3] - pad  # fewer than none where the last pixels are in no window
        return (
            _blocks(F.pad(x, (pad, more, pad, more)), stride),
            _blocks(F.pad(self.weight, (0, kernel - side, 0, kernel - side)), stride),
        )


def _blocks(x: Tensor, side: int) -> Tensor:
    """Put the pixels of each block into maps: (n, maps, H, W) to (n, side * side * maps, H / side, W / side)."""
    count, maps, height, width = x.shape
    blocks = x.permute(0, 2, 3, 1).reshape(count, height // side, side, width // side, side, maps).transpose(2, 3)
    return blocks.reshape(count, height // side, width // side, side * side * maps).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class LayerSetting:
    """What a network's file says about the parameters of one layer.

    ``std``: standard deviation of the initial weights; ``bias``: initial value of the biases; ``decay``:
    coefficient in ``v <- m*v - eps*(decay*w + gradient)`` (P §5), for the weights only.
    """

    std: float
    bias: float
    decay: float


WeightLayer = nn.Conv2d | nn.Linear | LocallyConnected
Layer = TypeVar("Layer", bound=WeightLayer)


def conv(
    in_maps: int,
    maps: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    std: float,
    bias: float = 0.0,
    decay: float,
) -> nn.Conv2d:
    """Make a convolution, (n, in_maps, H, W) to (n, maps, H', W').

    ``groups=2``: each tower sees its own half of the maps. ``std``, ``bias``, ``decay``: see `LayerSetting`.
    """
    layer = Conv2d(in_maps, maps, kernel, stride, padding, groups=groups)
    return _given(layer, LayerSetting(std, bias, decay))


def linear(inputs: int, outputs: int, *, std: float, bias: float = 0.0, decay: float) -> nn.Linear:
    """Make a fully-connected layer, (n, inputs) to (n, outputs); the rest as `conv`."""
    return _given(nn.Linear(inputs, outputs), LayerSetting(std, bias, decay))


def local(
    in_maps: int, maps: int, kernel: int, *, map_size: int, padding: int, std: float, bias: float = 0.0, decay: float
) -> LocallyConnected:
    """Make a locally connected layer for maps of ``map_size`` pixels a side; the rest as `conv`."""
    return _given(LocallyConnected(in_maps, maps, kernel, map_size, padding), LayerSetting(std, bias, decay))


def _given(layer: Layer, setting: LayerSetting) -> Layer:
    vars(layer)["setting"] = setting  # past nn.Module, which would look for parameters in it
    return layer


def setting_of(layer: WeightLayer) -> LayerSetting:
    """Return the setting of a layer made by :func:`conv`, :func:`linear` or :func:`local`."""
    setting = vars(layer)["setting"]
    assert isinstance(setting, LayerSetting)
    return setting


def weight_layers(net: nn.Module) -> list[tuple[str, WeightLayer]]:
    """List the layers with weights by name, the input's side first."""
    return [(name, layer) for name, layer in net.named_modules() if isinstance(layer, WeightLayer)]
