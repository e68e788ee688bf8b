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

BLOCK = 1024
"""Values that a group of threads takes."""


class GpuNorm(torch.autograd.Function):
    """What `layers.CrossMapNorm` computes, in float32 whatever the type of ``x``, of which only ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, towers: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
        """Normalise ``x``: float (N, maps, H, W)."""
        x = x.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        ctx.save_for_backward(x)
        ctx.setting = (alpha, beta, k, x.shape[1] // towers, size // 2, BLOCK)
        _values[_grid(x)](x, out, x.numel(), *ctx.setting)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Return the gradient of the loss with respect to ``x``."""
        (x,) = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        _gradients[_grid(x)](x, gradient, out, x.numel(), *ctx.setting)
        return out, None, None, None, None, None


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)


@triton.jit
def _base(x, here, place, inside, alpha, k, MAPS: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return ``k + alpha * sum(x**2)`` over the neighbours of the values ``here``, at ``place`` in their tower."""
    total = tl.zeros(place.shape, tl.float32)
    for shift in tl.static_range(-HALF, HALF + 1):
        there = inside & (place + shift >= 0) & (place + shift < MAPS)
        value = tl.load(x + here + shift, mask=there, other=0.0).to(tl.float32)
        total += value * value
    return k + alpha * total


@triton.jit
def _places(MAPS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return where this group's values are in memory, and in their tower: maps lie side by side, tower by tower."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    each = tl.arange(0, BLOCK)
    return start + each, ((start % MAPS).to(tl.int32) + each) % MAPS


@triton.jit
def _values(  # type: ignore[no-untyped-def]
    x, out, count, alpha, beta, k, MAPS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    here, place = _places(MAPS, BLOCK)
    inside = here < count
    scale = tl.exp2(-beta * tl.log2(_base(x, here, place, inside, alpha, k, MAPS, HALF)))
    value = tl.load(x + here, mask=inside).to(tl.float32)
    tl.store(out + here, (value * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gradients(  # type: ignore[no-untyped-def]
    x, gradient, out, count, alpha, beta, k, MAPS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    here, place = _places(MAPS, BLOCK)
    inside = here < count
    total = tl.zeros(place.shape, tl.float32)
    for shift in tl.static_range(-HALF, HALF + 1):
        there = inside & (place + shift >= 0) & (place + shift < MAPS)
        base = _base(x, here + shift, place + shift, there, alpha, k, MAPS, HALF)
        value = tl.load(x + here + shift, mask=there, other=0.0).to(tl.float32)
        theirs = tl.load(gradient + here + shift, mask=there, other=0.0).to(tl.float32)
        total += theirs * value * tl.exp2((-beta - 1.0) * tl.log2(base))
    base = _base(x, here, place, inside, alpha, k, MAPS, HALF)
    value = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
    own = tl.load(gradient + here, mask=inside, other=0.0).to(tl.float32)
    result = own * tl.exp2(-beta * tl.log2(base)) - 2.0 * alpha * beta * value * total
    tl.store(out + here, result.to(out.dtype.element_ty), mask=inside)
