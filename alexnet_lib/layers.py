"""The layers that torch lacks, and layers with weights that carry what a network's file says about them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Activation = Callable[[], nn.Module]

ACTIVATIONS: dict[str, Activation] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class CrossMapNorm(nn.Module):
    """Local response normalisation over neighbouring maps (P §3.3).

    ``b[i] = a[i] / (k + alpha * sum(a[j]**2 for j from i - size//2 to i + size//2)) ** beta``, for odd
    ``size``; the sum ends at the first and last map of a tower: no tower sees the other's maps.

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
        wide = _wide(x)
        # A product of matrices would else be one in bf16; the meta device has no autocast.
        with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            band = _band(x.shape[1], self.size, self.towers, wide.dtype, wide.device)
            out: Tensor = _CrossMapNorm.apply(wide, band, self.alpha, self.beta, self.k)
        return out.to(x.dtype)


class _CrossMapNorm(torch.autograd.Function):
    """``x * d**-beta`` with ``d = k + alpha * x**2 @ band``, its gradient written out.

    The sum over neighbouring maps is a product with a matrix of ones near the diagonal: on a CPU core 2.5 times as
    fast, both ways, as sums of shifted slices are, and no slower than those compiled. Left to autograd it would keep
    three more tensors and take half as long again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> Tensor:
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # no copy of a channels_last tensor
        sums = torch.mm(rows.square(), band).mul_(alpha).add_(k)
        scale = _inverse_power(sums, beta)
        ctx.save_for_backward(rows, sums, scale, band)
        ctx.factor = -2 * alpha * beta
        return _maps(rows * scale, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, sums, scale, band = ctx.saved_tensors
        (gradient,) = gradients
        direct = gradient.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]) * scale
        through_sums = torch.mm((direct * rows).div_(sums), band)  # the band is symmetric
        return _maps(direct.addcmul_(through_sums, rows, value=ctx.factor), gradient), None, None, None, None


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    count, maps, height, width = like.shape
    return rows.view(count, height, width, maps).permute(0, 3, 1, 2)


@functools.cache
def _band(maps: int, size: int, towers: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return which maps add to which sums, (maps, maps): 1 within ``size // 2`` and the same tower, else 0."""
    with torch.inference_mode(False):  # a test's first use must not make it unfit for training
        each = torch.arange(maps, device=device)
        near = (each[:, None] - each).abs() <= size // 2
        return (near & (each[:, None] * towers // maps == each * towers // maps)).to(dtype)


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
        wide = _wide(x)
        sums = F.avg_pool2d(wide.square(), self.size, 1, self.size // 2, divisor_override=1)
        return (wide * _inverse_power(self.k + self.alpha * sums, self.beta)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    # Squares summed in bf16 would add a rounding error as large as the one of the format itself.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse_power(x: Tensor, beta: float) -> Tensor:
    if beta == 0.75:  # every net's; on a CPU a compiled norm is four times faster with roots than with pow
        root = x.rsqrt()
        return root * root.sqrt()
    return x**-beta


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
    layer = nn.Conv2d(in_maps, maps, kernel, stride, padding, groups=groups)
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
