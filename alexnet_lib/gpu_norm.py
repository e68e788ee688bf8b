"""Response normalisation on a GPU: one kernel for its values and one for its gradient.

Written with torch's operations it is most of what AlexNet reads and writes in a training step. Here every value is
read once from memory and written once; its neighbours come out of the cache. Triton comes with torch's CUDA packages.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 512
"""Values that a group of threads takes."""


class GpuNorm(torch.autograd.Function):
    """What `layers.CrossMapNorm` computes, in float32 whatever the type of ``x``, of which only ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, towers: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
        """Normalise ``x``: float (N, maps, H, W); ``beta`` is 0.75."""
        x = x.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        ctx.save_for_backward(x)
        ctx.setting = (x.numel(), alpha, k, x.shape[1] // towers, size // 2, BLOCK)
        with torch.cuda.device_of(x):  # Triton takes the current device, whatever the tensors' own
            _values[_grid(x)](x, out, *ctx.setting, enable_fp_fusion=True)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Return the gradient of the loss with respect to ``x``."""
        (x,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        with torch.cuda.device_of(x):
            _forward_backward[_grid(x)](x, gradient, out, *ctx.setting, enable_fp_fusion=True)
        return out, None, None, None, None, None


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


@triton.jit
def _places(count, MAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Return where this group's values begin and each one's place in its tower, whose maps lie side by side.

    And where the tower begins and ends: nowhere for what is beyond the last value.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    each = tl.arange(0, BLOCK)
    inside = each < count - start
    place = ((start % MAPS).to(tl.int32) + each) % MAPS
    return start, each, inside, place, tl.where(inside, 0, 2 * MAPS), tl.where(inside, MAPS, -MAPS)


@triton.jit
def _neighbour(pointer, shift: tl.constexpr, place, begin, end):
    """Return the values ``shift`` maps further on, 0 beyond the tower."""
    there = place + shift < end if shift > 0 else place + shift >= begin
    return tl.load(pointer + shift, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _root(squares, at: tl.constexpr, HALF: tl.constexpr, alpha, k):
    """Return the inverse root of what the value at place ``at`` of ``squares`` is normalised by."""
    total = squares[at - HALF]
    for n in tl.static_range(at - HALF + 1, at + HALF + 1):
        total += squares[n]
    return tl.rsqrt(k + alpha * total)


@triton.jit
def _values(x, out, count, alpha, k, MAPS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr):
    start, each, inside, place, begin, end = _places(count, MAPS, BLOCK)
    pointer = x + start + each
    squares = ()
    for shift in tl.static_range(-HALF, HALF + 1):
        value = _neighbour(pointer, shift, place, begin, end)
        squares = squares + (value * value,)  # noqa: RUF005  # what Triton understands
    root = _root(squares, HALF, HALF, alpha, k)
    value = _neighbour(pointer, 0, place, begin, end)
    tl.store(out + start + each, (value * root * tl.sqrt(root)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _forward_backward(x, gradient, out, count, alpha, k, MAPS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr):
    start, each, inside, place, begin, end = _places(count, MAPS, BLOCK)
    values = ()
    squares = ()
    for shift in tl.static_range(-2 * HALF, 2 * HALF + 1):
        value = _neighbour(x + start + each, shift, place, begin, end)
        values = values + (value,)  # noqa: RUF005
        squares = squares + (value * value,)  # noqa: RUF005
    direct = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for shift in tl.static_range(-HALF, HALF + 1):
        theirs = _neighbour(gradient + start + each, shift, place, begin, end)
        root = _root(squares, 2 * HALF + shift, HALF, alpha, k)
        scaled = theirs * root * tl.sqrt(root)
        total += scaled * values[2 * HALF + shift] * root * root
        if shift == 0:
            direct = scaled
    result = direct - 1.5 * alpha * values[2 * HALF] * total  # 2 * beta
    tl.store(out + start + each, result.to(out.dtype.element_ty), mask=inside)
