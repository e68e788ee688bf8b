"""First-layer kernels as numbers: colour, how two towers share it, tuning to gratings, noise (P §6.1, Figure 3).

All of it comes from the kernels alone, without an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

_Array = np.ndarray[Any, Any]


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

    @property
    def specialised(self) -> bool:
        """Whether the halves differ more than 95 % of random ones do."""
        return self.p < 0.05


def split(kernels: Tensor) -> Split:
    """Compare the two halves of ``kernels`` (maps, 3, height, width) with 9,999 random splits of them."""
    found = colour_selectivity(kernels.float()).double().numpy()
    halves = np.split(found, 2)

    def apart(first: _Array, second: _Array, axis: int) -> _Array:
        return np.asarray(np.abs(first.mean(axis) - second.mean(axis)))

    test = stats.permutation_test(
        halves, apart, vectorized=True, n_resamples=9999, alternative="greater", rng=np.random.default_rng(0)
    )
    return Split(tuple(found.tolist()), float(halves[0].mean() - halves[1].mean()), float(test.pvalue))


# --- Tuning ---------------------------------------------------------------------------------------------------

ORIENTATIONS: _Array = np.arange(0.0, 180.0, 5.0)
"""Of a grating's stripes in degrees: 0 is horizontal, 45 rises to the right, 90 is vertical."""
FREQUENCIES: _Array = np.linspace(0.0, 0.5, 51)
"""Cycles a pixel: from uniform to the finest that a row or a column of pixels holds."""


def parts(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each kernel's grey part, float64 (maps, 1, height, width), and its colour part (maps, 2, height, width).

    The three planes are coordinates of the weights (maps, 3, height, width) on orthogonal axes of length 1, so that
    they share out a kernel's energy: grey; red against cyan; and across these, from green to blue.
    """
    axes = torch.tensor([[1.0, 1, 1], [2, -1, -1], [0, 1, -1]], dtype=torch.float64)
    found = torch.einsum("ac,mchw->mahw", axes / axes.norm(dim=1, keepdim=True), kernels.double())
    return found[:, :1], found[:, 1:]


@dataclass(frozen=True)
class Tuning:
    """What gratings each kernel of a layer answers to."""

    amplitude: _Array
    """(maps, orientations, frequencies): the answer to a grating of amplitude 1 in its best phase."""
    frequency: _Array
    """(maps,): of the grating that is answered most, in cycles a pixel."""
    orientation: _Array
    """(maps,): of the same grating, in degrees; NaN where it is uniform and has none."""
    curve: _Array
    """(maps, orientations): the amplitudes at the best frequency."""
    selectivity: _Array
    """(maps,): for orientation, at the best frequency, 0 where all are answered alike, to 1."""


def tuning(planes: Tensor) -> Tuning:
    """Measure the answers of kernels to every orientation and frequency, whatever the phase.

    An answer is the length of a kernel's dot products with the sine and the cosine of a grating, which is the
    kernel's Fourier amplitude there. Several planes count with the root of their summed squares, which is the same
    on all orthogonal axes: whole kernels in R, G, B need no `parts`. Selectivity is one minus the circular variance:
    the size of the sum of R exp(2i theta), over the sum of the answers R to the orientations theta (Ringach, Shapley
    and Hawken, J. Neurosci. 22 (2002) 5639).

    Args:
        planes: float (maps, planes, height, width), kernels or a part of them.
    """
    angles = np.deg2rad(ORIENTATIONS)
    rows, columns = np.indices(planes.shape[2:])
    across = np.sin(angles)[:, None, None] * columns + np.cos(angles)[:, None, None] * rows
    phases = 2 * np.pi * FREQUENCIES[:, None, None] * across[:, None]
    waves = np.stack([np.cos(phases), np.sin(phases)])
    answers = np.tensordot(planes.double().numpy(), waves, axes=((2, 3), (3, 4)))
    amplitude = np.sqrt(np.square(answers).sum((1, 2)))
    amplitude[:, :, 0] = amplitude[:, :1, 0]  # a uniform field has no orientation: let rounding give it none
    best, at = np.unravel_index(amplitude.reshape(len(amplitude), -1).argmax(1), amplitude.shape[1:])
    curve = amplitude[np.arange(len(amplitude)), :, at]
    return Tuning(
        amplitude=amplitude,
        frequency=FREQUENCIES[at],
        orientation=np.where(at > 0, ORIENTATIONS[best], np.nan),
        curve=curve,
        selectivity=np.abs(curve @ np.exp(2j * angles)) / np.maximum(curve.sum(1), 1e-30),
    )


def hue(kernels: Tensor) -> tuple[_Array, _Array]:
    """Return the axis of each kernel's colour in degrees from 0 to 180, and how far one axis holds it all, 0 to 1.

    0 sets red against cyan, 60 yellow against blue, 120 green against magenta. As with a grating's phase, which end
    of the axis a pixel is at doesn't count. Random weights of n pixels hold about sqrt(pi / 2n) by chance.

    Args:
        kernels: float (maps, 3, height, width), channels R, G, B.
    """
    red, across = parts(kernels)[1].flatten(2).numpy().swapaxes(0, 1)
    colour = red + 1j * across
    doubled = np.square(colour).sum(1)
    energy = np.square(np.abs(colour)).sum(1)
    return np.rad2deg(np.angle(doubled)) / 2 % 180, np.abs(doubled) / np.maximum(energy, 1e-30)


# --- Noise ----------------------------------------------------------------------------------------------------


def noise(kernels: Tensor) -> Tensor:
    """Return how rough each kernel is: float64 (maps,), 0 for a uniform one, to 2 for a chequerboard.

    Over all neighbours in rows and columns, the sum of (a - b)^2 over that of a^2 + b^2. The expected value for
    independent weights, each as likely positive as negative, is exactly 1 at every size: turning the signs of every
    other pixel turns that of each product ab, so values above and below 1 are equally likely. A clean grating isn't
    free of it, but has 1 minus the mean of cos(2 pi f) over the frequencies f in rows and in columns.

    Args:
        kernels: float (maps, channels, height, width).
    """
    weights = kernels.double()
    pairs = ((weights[:, :, 1:], weights[:, :, :-1]), (weights[..., 1:], weights[..., :-1]))
    apart = sum((one - other).square().sum((1, 2, 3)) for one, other in pairs)
    energy = sum((one.square() + other.square()).sum((1, 2, 3)) for one, other in pairs)
    return apart / torch.as_tensor(energy).clamp_min(1e-30)


def random_kernels(maps: int, side: int) -> Tensor:
    """Return kernels as they are before training, up to a factor: normal weights, float64 (maps, 3, side, side)."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((maps, 3, side, side)))


def over_training(kept: Mapping[str, Tensor], epochs: int) -> dict[int, Tensor]:
    """Return a run's first-layer kernels by the epochs they had, from what it has kept (``Arm.keep``) at its end."""
    name = "conv1_after_"
    found = {int(key.removeprefix(name)): some.float() for key, some in kept.items() if key.startswith(name)}
    return dict(sorted((found | {epochs: kept["conv1"].float()}).items()))
