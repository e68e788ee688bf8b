"""Kernels have the colour, tuning and noise that they were given, and halves differ where they were made to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_lib import filters
from alexnet_lib.filters import colour_selectivity, split, tuning

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


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("colour", "expected"), list(zip(CORNERS, SELECTIVITY, strict=True)))
def test_the_parts_share_out_a_kernel_s_energy(colour: tuple[float, float, float], expected: float) -> None:
    kernels = painted(colour)
    grey_part, colour_part = (part.square().sum((1, 2, 3)) for part in filters.parts(kernels))
    energy = kernels.double().square().sum((1, 2, 3))
    torch.testing.assert_close(grey_part + colour_part, energy)
    torch.testing.assert_close(colour_part / energy, torch.full((4,), expected, dtype=torch.float64))


# --- tuning -------------------------------------------------------------------------------------------------

GREY, BLUE_YELLOW = (1.0, 1.0, 1.0), (-1.0, -1.0, 2.0)


def grating(
    orientation: float,
    frequency: float,
    colour: tuple[float, float, float] = GREY,
    phase: float = 0.3,
    side: int = 11,
    width: float = math.inf,
) -> Tensor:
    """Return a kernel of stripes under a Gaussian of ``width`` pixels: float64 (1, 3, side, side).

    Stripes run along (cos, sin) of the orientation, with y upwards, and rows count downwards.
    """
    middle = side // 2
    across = torch.zeros(side, side, dtype=torch.float64)
    window = torch.zeros(side, side, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            x, y, angle = column - middle, middle - row, math.radians(orientation)
            across[row, column] = x * math.sin(angle) - y * math.cos(angle)  # distance from the stripe in the middle
            window[row, column] = math.exp(-(x * x + y * y) / (2 * width**2))
    stripes = torch.cos(2 * math.pi * frequency * across + phase) * window
    return torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1) * stripes


@pytest.mark.parametrize("orientation", [0.0, 30.0, 45.0, 90.0, 120.0, 175.0])
@pytest.mark.parametrize("frequency", [0.15, 0.25, 0.4])
@pytest.mark.parametrize("colour", [GREY, BLUE_YELLOW])
def test_a_grating_is_answered_most_by_its_own_kernel(
    orientation: float, frequency: float, colour: tuple[float, float, float]
) -> None:
    found = tuning(grating(orientation, frequency, colour, phase=math.pi / 4, side=21, width=4.0))
    assert found.orientation.tolist() == [orientation]
    assert found.frequency == pytest.approx([frequency])


def test_a_horizontal_kernel_has_equal_rows_and_a_rising_one_equal_steps_up() -> None:
    flat, rising = grating(0.0, 0.2)[0, 0], grating(45.0, 0.2)[0, 0]
    torch.testing.assert_close(flat[:, 3], flat[:, 7])
    torch.testing.assert_close(rising[5, 4], rising[4, 5])  # one to the right, one up


@pytest.mark.parametrize("phase", [0.0, 0.7, math.pi / 2, 3.0])
def test_the_phase_of_a_whole_number_of_stripes_does_not_matter(phase: float) -> None:
    found = tuning(grating(90.0, 0.25, phase=phase, side=12)[:, :1])
    place = (filters.ORIENTATIONS.tolist().index(90.0), int(np.flatnonzero(np.isclose(filters.FREQUENCIES, 0.25))[0]))
    assert found.amplitude[0][place] == pytest.approx(12 * 12 / 2)


def test_an_answer_is_the_fourier_amplitude() -> None:
    kernels = noise(5, side=10)[:, :1]
    spectrum = torch.fft.fft2(kernels[:, 0].double()).abs()
    frequencies = [int(np.flatnonzero(np.isclose(filters.FREQUENCIES, step / 10))[0]) for step in range(6)]
    along = {angle: filters.ORIENTATIONS.tolist().index(angle) for angle in (0.0, 90.0)}
    found = tuning(kernels).amplitude
    np.testing.assert_allclose(found[:, along[0.0]][:, frequencies], spectrum[:, :6, 0].numpy())
    np.testing.assert_allclose(found[:, along[90.0]][:, frequencies], spectrum[:, 0, :6].numpy())


def test_squared_answers_of_the_parts_add_up_to_the_whole_kernel_s() -> None:
    kernels = noise(6)
    grey_part, colour_part = (tuning(part).amplitude for part in filters.parts(kernels))
    np.testing.assert_allclose(np.hypot(grey_part, colour_part), tuning(kernels).amplitude)


def test_a_part_that_a_kernel_lacks_answers_nothing() -> None:
    grey_part, colour_part = filters.parts(torch.cat([grating(30.0, 0.2), grating(30.0, 0.2, BLUE_YELLOW)]))
    assert tuning(grey_part).amplitude.max((1, 2)) == pytest.approx([104, 0], abs=5)
    assert tuning(colour_part).amplitude.max((1, 2)) == pytest.approx([0, 147], abs=7)


def test_selectivity_is_one_minus_the_circular_variance_of_the_curve() -> None:
    pair = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)  # answers 2 |sin(pi f sin(orientation))|, most at half a cycle
    angles = [math.radians(5 * step) for step in range(36)]
    answers = [2 * abs(math.sin(math.pi / 2 * math.sin(angle))) for angle in angles]
    x, y = (sum(a * f(2 * t) for a, t in zip(answers, angles, strict=True)) for f in (math.cos, math.sin))
    found = tuning(pair)
    assert (found.frequency.tolist(), found.orientation.tolist()) == ([0.5], [90.0])
    assert found.curve[0] == pytest.approx(answers)
    assert found.selectivity == pytest.approx([math.hypot(x, y) / sum(answers)])


def test_longer_stripes_are_more_selective() -> None:
    found = [tuning(grating(60.0, 0.25, side=21, width=width)).selectivity[0] for width in (1.0, 2.0, 4.0)]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[2]


@pytest.mark.parametrize("colour", [GREY, BLUE_YELLOW])
def test_a_blob_prefers_a_uniform_field_and_has_no_orientation(colour: tuple[float, float, float]) -> None:
    found = tuning(grating(0.0, 0.0, colour, phase=0.0, width=2.0))
    assert (found.frequency.tolist(), np.isnan(found.orientation).tolist()) == ([0.0], [True])
    assert found.selectivity == pytest.approx([0.0], abs=1e-9)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_constant_kernel_is_measured_without_a_division_by_zero(level: float) -> None:
    constant = torch.full((2, 3, 11, 11), level)
    with np.errstate(all="raise"):
        found, (_, share) = tuning(constant), filters.hue(constant)
        assert filters.noise(constant).tolist() == [0.0, 0.0]
    assert (found.frequency.tolist(), np.isnan(found.orientation).tolist()) == ([0.0, 0.0], [True, True])
    assert [*found.selectivity, *share] == pytest.approx([0.0] * 4, abs=1e-5)


@pytest.mark.parametrize("factor", [-3.0, 0.001])
def test_size_and_sign_of_a_kernel_change_no_preference(factor: float) -> None:
    one, other = tuning(noise(8).double()), tuning(factor * noise(8).double())
    np.testing.assert_array_equal(one.orientation, other.orientation)
    np.testing.assert_array_equal(one.frequency, other.frequency)
    np.testing.assert_allclose(one.selectivity, other.selectivity)


def test_random_kernels_prefer_no_orientation() -> None:
    found = tuning(filters.random_kernels(600, 11))
    shares = np.histogram(found.orientation, bins=[0, 45, 90, 135, 180])[0] / 600
    assert shares == pytest.approx([0.25] * 4, abs=0.06)
    assert np.median(found.selectivity) < 0.15


# --- hue ----------------------------------------------------------------------------------------------------

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("colour", "axis"),
    [
        (RED, 0.0),
        ((0.0, 1.0, 1.0), 0.0),
        (BLUE, 60.0),
        (BLUE_YELLOW, 60.0),
        (GREEN, 120.0),
        ((1.0, 0.0, 1.0), 120.0),
        ((1.0, 0.5, 0.0), 30.0),
    ],
)
def test_a_colour_and_its_opposite_are_one_axis(colour: tuple[float, float, float], axis: float) -> None:
    found, share = filters.hue(painted(colour).double())
    assert np.minimum(np.abs(found - axis), 180 - np.abs(found - axis)) == pytest.approx([0.0] * 4, abs=1e-6)
    assert share == pytest.approx([1.0] * 4)


def test_a_grey_pattern_changes_no_hue() -> None:
    plain, mixed = painted(BLUE_YELLOW).double(), painted(BLUE_YELLOW).double() + 3 * grey(4, 0.0, 7).double()
    np.testing.assert_allclose(filters.hue(mixed)[0], filters.hue(plain)[0])


def test_three_colours_in_equal_shares_have_no_axis() -> None:
    kernel = torch.eye(3, dtype=torch.float64).view(1, 3, 1, 3)
    assert filters.hue(kernel)[1] == pytest.approx([0.0], abs=1e-9)


def test_random_weights_lie_on_an_axis_as_far_as_chance_has_it() -> None:
    share = filters.hue(filters.random_kernels(2000, 11))[1]
    assert share.mean() == pytest.approx(math.sqrt(math.pi / (2 * 121)), abs=0.004)


# --- noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 5, 11])
@pytest.mark.parametrize("law", ["normal", "two values"])
def test_random_weights_have_a_noise_of_one_at_every_size(side: int, law: str) -> None:
    kernels = filters.random_kernels(4000, side)
    found = filters.noise(kernels if law == "normal" else kernels.sign())
    assert found.mean().item() == pytest.approx(1.0, abs=4 * found.std().item() / 4000**0.5)
    assert found.mean().item() == pytest.approx(1.0, abs=0.02)


def test_noise_is_two_for_a_chequerboard_and_falls_as_kernels_become_smooth() -> None:
    board = torch.ones(1, 3, 6, 6)
    board[:, :, ::2, 1::2] = board[:, :, 1::2, ::2] = -1
    assert filters.noise(board).tolist() == [2.0]
    smooth, rough = grating(30.0, 0.08, width=3.0), filters.random_kernels(1, 11)
    found = [filters.noise(smooth + share * rough).item() for share in (0.0, 0.1, 0.3, 1.0)]
    assert found == sorted(found)
    assert found[0] < 0.15


@pytest.mark.parametrize("frequency", [0.05, 0.125, 0.25, 0.5])
def test_the_noise_of_a_clean_grating_follows_from_its_frequency(frequency: float) -> None:
    found = filters.noise(grating(90.0, frequency, side=161))
    assert found.item() == pytest.approx(0.5 - math.cos(2 * math.pi * frequency) / 2, abs=0.02)


def test_a_step_of_one_pair_counts_by_its_squares() -> None:
    kernel = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    assert filters.noise(kernel).tolist() == [pytest.approx(4 / 10)]


# --- over training ------------------------------------------------------------------------------------------


def test_kernels_come_by_their_epochs_and_the_last_in_full_precision() -> None:
    last = noise(4)
    kept = {f"conv1_after_{epochs}": noise(4, epochs).half() for epochs in (16, 0, 2, 20)}
    found = filters.over_training({"conv1": last, "probabilities": torch.ones(3), **kept}, 20)
    assert [*found] == [0, 2, 16, 20]
    assert torch.equal(found[20], last)
    assert {kernels.dtype for kernels in found.values()} == {torch.float32}
    torch.testing.assert_close(found[2], noise(4, 2), atol=2e-3, rtol=0)


def test_a_run_without_snapshots_has_its_last_kernels_alone() -> None:
    assert [*filters.over_training({"conv1": noise(4)}, 7)] == [7]
