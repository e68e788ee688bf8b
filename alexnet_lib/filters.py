"""First-layer kernels as numbers: how much of each is colour, and how two towers share it (P §6.1, Figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

Array = np.ndarray[Any, Any]


def colour_selectivity(kernels: Tensor) -> Tensor:
    """Return the share of each kernel's energy that is not grey: float (maps,), 0 for a grey kernel, to 1.

    At every pixel of a kernel the part along (1, 1, 1) answers to brightness, and the rest, orthogonal to it, to
    colour alone. Independent random weights give 2/3.

    Args:
        kernels: float (maps, 3, height, width), channels R, G, B.
    """
    energy = kernels.square().sum((1, 2, 3))
    grey = 3 * kernels.mean(1).square().sum((1, 2))
    return 1 - grey / energy.clamp_min(1e-30)


@dataclass(frozen=True)
class Split:
    """How the colour is shared between the first and the second half of a layer's kernels, its towers."""

    selectivity: tuple[float, ...]
    """Of every kernel, in the layer's order."""
    difference: float
    """Mean of the first half minus mean of the second."""
    p: float
    """Share of random splits into halves whose means differ at least as much."""


def split(kernels: Tensor) -> Split:
    """Compare the two halves of ``kernels`` (maps, 3, height, width) with 9,999 random splits of them."""
    found = colour_selectivity(kernels.float()).double().numpy()
    halves = np.split(found, 2)

    def apart(first: Array, second: Array, axis: int) -> Array:
        return np.asarray(np.abs(first.mean(axis) - second.mean(axis)))

    test = stats.permutation_test(
        halves, apart, vectorized=True, n_resamples=9999, alternative="greater", rng=np.random.default_rng(0)
    )
    return Split(tuple(found.tolist()), float(halves[0].mean() - halves[1].mean()), float(test.pvalue))
