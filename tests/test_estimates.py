"""Statistics by hand: means, intervals, p-values, what a design could have seen, and how all of it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from alexnet_lib.estimates import (
    Estimate,
    bootstrap,
    detectable,
    estimate,
    interval,
    p_value,
    paired_ratio,
    pooled,
    show,
    show_bootstrap,
    show_detectable,
    show_interval,
    show_missed,
)

SAMPLES = [
    [0.3, -1.2, 2.5, 0.9, 1.1],
    [-0.52, -0.47, -0.6],
    [-0.1, 0.4],
    [2.0, 2.0, 2.5, 2.0, 1.5, 2.0, 3.0],
]


def made(values: Sequence[float], unit: str = "points") -> Estimate:
    found = estimate(values, unit)
    assert found
    return found


# --- the t-interval -----------------------------------------------------------------------------------------


def test_the_interval_of_three_values_by_hand() -> None:
    # mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841377, 2 + 2.4841377))


@pytest.mark.parametrize("values", SAMPLES)
def test_the_interval_is_scipy_s_t_interval(values: list[float]) -> None:
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx(tuple(map(float, expected)))


def test_one_value_has_no_finite_interval() -> None:
    assert interval([3.0]) == (-math.inf, math.inf)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


# --- the bootstrap ------------------------------------------------------------------------------------------


def test_the_bootstrap_of_two_values_reaches_from_one_to_the_other() -> None:
    # a quarter of the samples hold the lower value twice, a quarter the higher, so both 2.5 % ends are values
    assert bootstrap([1.0, 4.0]) == (1.0, 4.0)


def test_the_bootstrap_of_many_values_is_nearly_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    half = 1.959964 * np.std(values) / 20
    assert bootstrap(values) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)


@pytest.mark.parametrize("values", SAMPLES)
def test_the_bootstrap_is_the_same_on_every_call(values: list[float]) -> None:
    assert bootstrap(values) == bootstrap(values)


@pytest.mark.parametrize("values", SAMPLES)
def test_the_bootstrap_lies_within_the_values_and_holds_their_mean(values: list[float]) -> None:
    low, high = bootstrap(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)


@pytest.mark.parametrize("values", SAMPLES)
def test_the_bootstrap_of_few_values_is_narrower_than_the_t_interval(values: list[float]) -> None:
    (low, high), (again, last) = bootstrap(values), interval(values)
    assert again < low < high < last


def test_the_bootstrap_of_equal_values_has_no_width_and_of_one_value_no_end() -> None:
    assert (bootstrap([2.0, 2.0, 2.0]), bootstrap([2.0])) == ((2.0, 2.0), (-math.inf, math.inf))


# --- p-values -----------------------------------------------------------------------------------------------


def test_the_p_value_of_three_values_by_hand() -> None:
    # t = 2 sqrt(3); with two degrees of freedom p is 1 - t / sqrt(t^2 + 2)
    assert p_value([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14))


@pytest.mark.parametrize("values", SAMPLES)
def test_the_p_value_is_scipy_s_of_pairs(values: list[float]) -> None:
    below = [0.1 * number for number in range(len(values))]
    above = [value + less for value, less in zip(values, below, strict=True)]
    assert p_value(values) == pytest.approx(float(stats.ttest_rel(above, below).pvalue))


@pytest.mark.parametrize("shift", [-1.5, -0.9, -0.3, 0.0, 0.5, 1.0, 2.0])
def test_the_p_value_is_below_five_per_cent_where_the_interval_excludes_zero(shift: float) -> None:
    values = [shift + value for value in (0.2, -0.5, 0.9, -0.8, 0.2)]
    low, high = interval(values)
    assert (p_value(values) < 0.05) == (low > 0 or high < 0) == (abs(shift) > 0.85)


@pytest.mark.parametrize(("values", "p"), [([2.0, 2.0], 0.0), ([-1.0] * 3, 0.0), ([0.0] * 4, 1.0), ([7.0], None)])
def test_equal_values_have_the_p_value_of_their_being_zero_and_one_value_shows_nothing(
    values: list[float], p: float | None
) -> None:
    assert p_value(values) == p


# --- estimates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["points", "per cent", "ratio"])
def test_without_a_value_there_is_no_estimate(unit: str) -> None:
    assert estimate([], unit) is None


def test_an_estimate_in_points_by_hand() -> None:
    found = made([-1.0, -2.0, -3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((-2.0, -2 - 2.4841377, -2 + 2.4841377))
    assert (found.values, found.unit, found.n, found.at_least, found.note) == ((-1, -2, -3), "points", 3, False, "")
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_a_level_has_the_same_interval_and_no_p_value() -> None:
    level, points = made([24.0, 25.0, 27.0], "per cent"), made([24.0, 25.0, 27.0])
    assert [(found.mean, found.low, found.high, found.bootstrap) for found in (level, points)] == [
        (pytest.approx(76 / 3), pytest.approx(21.5387503), pytest.approx(29.1279163), (24.0, 27.0))
    ] * 2
    assert (level.unit, level.p) == ("per cent", None)


def test_a_ratio_is_averaged_and_tested_as_logarithms() -> None:
    found, logs = made([2.0, 8.0, 4.0], "ratio"), made([math.log(value) for value in (2, 8, 4)])
    assert found.mean == pytest.approx(4.0)
    assert (found.low, found.high) == pytest.approx((math.exp(logs.low), math.exp(logs.high)))
    assert found.bootstrap == pytest.approx(tuple(math.exp(end) for end in logs.bootstrap))
    assert (found.p, found.values) == (pytest.approx(logs.p), (2.0, 8.0, 4.0))


def test_a_ratio_and_its_inverse_are_equally_probable_without_an_effect() -> None:
    assert made([2.0, 8.0, 4.0], "ratio").p == pytest.approx(made([0.5, 0.125, 0.25], "ratio").p)


def test_a_single_pair_is_an_estimate_that_excludes_nothing() -> None:
    found = made([-1.5])
    ends = (-math.inf, math.inf)
    assert (found.mean, (found.low, found.high), found.bootstrap, found.p) == (-1.5, ends, ends, None)


@pytest.mark.parametrize(("unit", "null"), [("points", 0.0), ("ratio", 1.0)])
def test_equal_pairs_without_an_effect_have_a_p_value_of_one(unit: str, null: float) -> None:
    found = made([null] * 3, unit)
    assert (found.mean, found.low, found.high, found.p) == (null, null, null, 1.0)


def test_a_paired_ratio_is_the_geometric_mean_over_the_common_seeds() -> None:
    found = paired_ratio({0: 8.0, 1: 18.0, 7: 1.0}, {1: 2.0, 0: 2.0, 5: 1.0})
    assert found
    assert found.values == pytest.approx((4.0, 9.0))
    assert found.mean == pytest.approx(6.0)


def test_the_interval_of_a_paired_ratio_is_that_of_the_logarithms() -> None:
    found = paired_ratio({0: 8.0, 1: 18.0}, {0: 2.0, 1: 2.0})
    half = 12.7062047362 * math.log(9 / 4) / 2  # t(0.975, 1) times the standard error of two values
    assert found
    assert (found.low, found.high) == pytest.approx((6 * math.exp(-half), 6 * math.exp(half)))


def test_a_ratio_of_one_pair_has_an_interval_that_excludes_nothing() -> None:
    found = paired_ratio({0: 8.0}, {0: 2.0})
    assert found
    assert (found.mean, found.low, found.high) == pytest.approx((4.0, 0.0, math.inf))


def test_no_common_seed_gives_no_ratio() -> None:
    assert paired_ratio({0: 8.0}, {1: 2.0}) is None


# --- the smallest effect that a design sees -----------------------------------------------------------------


def spread(n: int) -> list[float]:
    """Return ``n`` values of mean 0 whose standard deviation is 1."""
    values = np.arange(n) - (n - 1) / 2
    return list(map(float, values / np.std(values, ddof=1)))


@pytest.mark.parametrize(("n", "effect"), [(5, 1.68), (10, 1.00), (20, 0.66), (34, 0.50)])
def test_the_detectable_effect_is_that_of_printed_power_tables(n: int, effect: float) -> None:
    # effect size, in standard deviations of the pairs, at a power of 0.8 and a two-sided level of 0.05
    assert detectable(made(spread(n))) == pytest.approx(effect, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_an_interval_excludes_zero_at_the_detectable_effect_with_a_chance_of_four_in_five(n: int) -> None:
    effect = detectable(made(spread(n)))
    drawn = np.random.default_rng(n).normal(effect, 1.0, (40000, n))
    half = float(stats.t.ppf(0.975, n - 1)) * drawn.std(axis=1, ddof=1) / math.sqrt(n)
    # three standard deviations of such a share are 0.006
    assert np.mean(np.abs(drawn.mean(axis=1)) > half) == pytest.approx(0.8, abs=0.008)


@pytest.mark.parametrize("unit", ["points", "ratio"])
def test_a_single_pair_could_have_seen_no_effect(unit: str) -> None:
    assert detectable(made([2.0], unit)) == math.inf


def test_the_detectable_effect_grows_with_the_spread_and_not_with_the_mean() -> None:
    narrow = detectable(made([-1.0, 0.0, 1.0]))
    assert detectable(made([3.0, 5.0, 7.0])) == pytest.approx(2 * narrow)


def test_pairs_that_do_not_differ_would_have_shown_any_effect() -> None:
    assert (detectable(made([2.0] * 3)), detectable(made([2.0] * 3, "ratio"))) == (0.0, 1.0)


def test_the_detectable_ratio_is_the_exponential_of_that_of_the_logarithms() -> None:
    ratios = [1.3, 0.9, 1.7, 1.1]
    assert detectable(made(ratios, "ratio")) == pytest.approx(
        math.exp(detectable(made([math.log(ratio) for ratio in ratios])))
    )


# --- texts --------------------------------------------------------------------------------------------------


def printed(mean: float, unit: str, **more: object) -> Estimate:
    """Return an estimate from five pairs with an interval of 1 either side, a bootstrap of a half."""
    return Estimate(mean, mean - 1, mean + 1, (mean,) * 5, unit, (mean - 0.5, mean + 0.5), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "number", "ends", "again"),
    [
        (printed(5.749, "ratio"), "5.75 x", "4.75 to 6.75", "5.25 to 6.25"),
        (printed(-0.524, "points"), "−0.52 points", "−1.52 to +0.48", "−1.02 to −0.02"),
        (printed(-0.9999, "points"), "−1.00 points", "−2.00 to +0.00", "−1.50 to −0.50"),
        (printed(1.5, "points"), "+1.50 points", "+0.50 to +2.50", "+1.00 to +2.00"),
        (printed(24.314, "per cent"), "24.31 %", "23.31 to 25.31", "23.81 to 24.81"),
        (printed(-0.314, "per cent"), "−0.31 %", "−1.31 to 0.69", "−0.81 to 0.19"),
        (printed(5.1, "ratio", at_least=True), "at least 5.10 x", "4.10 or more", "4.60 or more"),
        (printed(5.1, "ratio", note="one of 5"), "5.10 x (one of 5)", "4.10 to 6.10", "4.60 to 5.60"),
    ],
)
def test_an_estimate_is_printed_with_its_unit_and_a_true_minus(
    found: Estimate, number: str, ends: str, again: str
) -> None:
    assert (show(found), show_interval(found), show_bootstrap(found)) == (number, ends, again)


@pytest.mark.parametrize(("pairs", "shown"), [(2, False), (3, False), (4, False), (5, True), (6, True)])
def test_the_bootstrap_is_shown_from_five_pairs_on(pairs: int, shown: bool) -> None:
    assert (show_bootstrap(made(spread(pairs))) != "–") == shown


@pytest.mark.parametrize("seed", range(3))
def test_of_three_values_the_bootstrap_is_always_35_to_40_per_cent_as_wide_as_the_t_interval(seed: int) -> None:
    found = made(np.random.default_rng(seed).normal(size=3).tolist())
    low, high = found.bootstrap
    assert 0.345 < (high - low) / (found.high - found.low) < 0.405


@pytest.mark.parametrize("unit", ["ratio", "points", "per cent"])
def test_the_intervals_of_a_single_value_are_a_dash(unit: str) -> None:
    found = made([3.0], unit)
    assert (show_interval(found), show_bootstrap(found)) == ("–", "–")


def test_the_detectable_effect_is_printed_with_the_number_of_pairs() -> None:
    found = made(spread(5))
    assert show_missed(found) == (
        "smallest effect that 5 pairs of this spread would detect with 80 % power: 1.68 points"
    )


def test_the_detectable_ratio_is_printed_as_a_factor() -> None:
    found = made([math.exp(value) for value in spread(5)], "ratio")
    assert show_detectable(found) == "a factor of 5.38"


def test_a_single_pair_has_no_detectable_effect_to_print() -> None:
    assert (show_detectable(made([2.0])), show_missed(made([2.0]))) == ("", "")


def test_an_interval_that_is_known_is_shown_whatever_it_was_made_of() -> None:
    assert show_interval(Estimate(1.0, 0.5, 1.5, (), "points")) == "+0.50 to +1.50"


# --- spread within groups -----------------------------------------------------------------------------------


def test_the_spread_within_groups_is_pooled_by_degrees_of_freedom() -> None:
    # squares about the means: 2 of three values, 32 of two, none of one
    assert pooled([[1.0, 2.0, 3.0], [10.0, 18.0], [99.0]]) == (pytest.approx(math.sqrt(34 / 3)), 3)


def test_single_values_have_no_spread() -> None:
    spread, freedom = pooled([[1.0], [2.0], []])
    assert (math.isnan(spread), freedom) == (True, 0)
