"""Kernels have the colour that they were given, and halves differ where they were made to."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from alexnet_lib.filters import colour_selectivity, split

CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0), (1.0, 0.0, 0.0), (1.0, 1.0, 0.0))
SELECTIVITY = (0.0, 1.0, 1.0, 2 / 3, 1 / 3)
"""Of a kernel of such a colour: grey; two that sum to zero; one channel; two channels."""


def noise(maps: int, seed: int = 0, side: int = 5) -> Tensor:
    return torch.randn(maps, 3, side, side, generator=torch.Generator().manual_seed(seed))


def painted(colour: tuple[float, float, float], maps: int = 4) -> Tensor:
    """Return kernels of a pattern each, all in one colour."""
    return noise(maps)[:, :1] * torch.tensor(colour).view(1, 3, 1, 1)


def grey(maps: int, colour: float = 0.1, seed: int = 0) -> Tensor:
    """Return grey kernels with a little noise in all channels."""
    return noise(maps, seed)[:, :1].expand(-1, 3, -1, -1) + colour * noise(maps, seed + 1)


# --- colour selectivity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("colour", "expected"), list(zip(CORNERS, SELECTIVITY, strict=True)))
def test_a_kernel_of_one_colour_has_the_selectivity_of_that_colour(
    colour: tuple[float, float, float], expected: float
) -> None:
    torch.testing.assert_close(colour_selectivity(painted(colour)), torch.full((4,), expected), atol=1e-6, rtol=0)


def test_pixels_count_by_their_energy() -> None:
    kernel = torch.zeros(1, 3, 1, 2)
    kernel[0, :, 0, 0] = 2.0  # grey: an energy of 12
    kernel[0, :, 0, 1] = torch.tensor((1.0, -1.0, 0.0))  # colour: an energy of 2
    assert colour_selectivity(kernel).tolist() == pytest.approx([2 / 14])


def test_opposite_greys_at_two_pixels_are_no_colour() -> None:
    kernel = torch.tensor((1.0, -1.0)).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert colour_selectivity(kernel).tolist() == pytest.approx([0.0], abs=1e-6)


def test_random_weights_are_two_thirds_colour_on_average() -> None:
    assert colour_selectivity(noise(2000)).mean().item() == pytest.approx(2 / 3, abs=0.005)


@pytest.mark.parametrize("factor", [-3.0, 0.001])
def test_the_size_and_sign_of_a_kernel_do_not_matter(factor: float) -> None:
    torch.testing.assert_close(colour_selectivity(factor * noise(8)), colour_selectivity(noise(8)))


def test_every_kernel_is_measured_by_itself_in_the_layer_s_order() -> None:
    layer = torch.cat([painted(colour, 1) for colour in CORNERS])
    assert colour_selectivity(layer).tolist() == pytest.approx(SELECTIVITY, abs=1e-6)


# --- two halves ---------------------------------------------------------------------------------------------


def test_towers_that_share_the_colour_unevenly_are_told_apart() -> None:
    found = split(torch.cat([grey(16), noise(16, 7)]))
    assert found.p < 0.001
    assert found.difference == pytest.approx(0.02 - 2 / 3, abs=0.03)


@pytest.mark.parametrize(("first", "sign"), [("grey", -1), ("coloured", 1)])
def test_the_difference_is_the_first_half_s_minus_the_second_s(first: str, sign: int) -> None:
    halves = [painted(CORNERS[0]), painted(CORNERS[1])]
    found = split(torch.cat(halves if first == "grey" else halves[::-1]))
    assert found.difference == pytest.approx(sign)


def test_the_sign_of_the_difference_does_not_change_its_p_value() -> None:
    halves = [grey(6, 0.5), noise(6, 3)]
    p = [split(torch.cat(order)).p for order in (halves, halves[::-1])]
    assert p[0] == pytest.approx(p[1])
    assert p[0] < 0.5


def test_equal_halves_differ_as_little_as_any() -> None:
    layer = noise(8)
    found = split(torch.cat([layer, layer]))
    assert (found.difference, found.p) == (0.0, 1.0)


def test_mixed_halves_are_not_told_apart() -> None:
    mixed = torch.stack([grey(16), noise(16, 7)], 1).flatten(0, 1)  # grey, coloured, grey, ...
    assert split(mixed).p > 0.5


def test_chance_alone_tells_few_exchangeable_halves_apart() -> None:
    seen = [split(noise(12, seed, side=3)).p < 0.05 for seed in range(60)]
    assert sum(seen) <= 8  # more than 8 of 60 at 5 % each have a probability of 0.3 %


def test_the_p_value_of_few_kernels_is_the_share_of_all_their_splits() -> None:
    layer = torch.cat([grey(3, 0.6), noise(3, 5)])
    values = colour_selectivity(layer).double().tolist()

    def apart(chosen: tuple[int, ...]) -> float:
        inside = [values[one] for one in chosen]
        outside = [value for one, value in enumerate(values) if one not in chosen]
        return abs(sum(inside) - sum(outside)) / 3

    every = [apart(chosen) for chosen in itertools.combinations(range(6), 3)]
    assert len(every) == 20
    assert split(layer).p == pytest.approx(sum(one >= apart((0, 1, 2)) - 1e-12 for one in every) / 20)


def test_a_split_holds_the_selectivity_of_every_kernel_and_is_the_same_on_every_call() -> None:
    layer = noise(12, 4)
    found = split(layer)
    assert found.selectivity == pytest.approx(colour_selectivity(layer).tolist())
    assert split(layer) == found


def test_kernels_kept_in_half_precision_are_measured_in_single() -> None:
    layer = grey(8)
    assert split(layer.half()).selectivity == pytest.approx(split(layer).selectivity, abs=1e-3)
