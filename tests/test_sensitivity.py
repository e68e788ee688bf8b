"""What the verdicts rest on: seeds in common, spread in common, devices; from made-up records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from studies import ended, write

from alexnet_lib import sensitivity
from alexnet_lib.effects import Results
from alexnet_lib.records import Record


def study(folder: Path, errors: Mapping[str, Sequence[float]], gpu: Mapping[str, int] | None = None) -> Results:
    """Return arms of the experiment on LRN with these test errors; of each the last few ``gpu`` runs are a GPU's."""
    runs: list[Record] = []
    for arm, of in errors.items():
        made = ended("lrn", arm, list(of))
        for run in made[len(made) - (gpu or {}).get(arm, 0) :]:
            run["provenance"] = run["provenance"] | {"device": "a GPU"}
        runs += made
    return sensitivity.variants("laptop", write(folder, runs))


def test_arms_are_those_of_alexnet_32_with_as_many_seeds_as_any_experiment_asks_for(tmp_path: Path) -> None:
    runs = [*ended("lrn", "base", [26.0] * 7), *ended("lrn", "no-lrn", [26.0] * 2), *ended("lrn", "11pct", [26.0])]
    found = sensitivity.variants("laptop", write(tmp_path, runs))
    assert {name: len(arm.runs) for name, arm in found.items()} == {"base": 7, "no-lrn": 2}


def test_there_are_none_where_the_whole_network_stands_in(tmp_path: Path) -> None:
    assert sensitivity.variants("imagenet", tmp_path) == {}


def test_seeds_that_are_good_or_bad_in_all_arms_alike_correlate(tmp_path: Path) -> None:
    arms = study(tmp_path, {"base": [25.0, 26.0, 27.0], "no-lrn": [30.0, 31.0, 32.0], "code-lrn": [20.0, 20.5, 21.0]})
    deviations = np.array([-1.0, 0.0, 1.0] * 2), np.array([-1.0, 0.0, 1.0, -0.5, 0.0, 0.5])
    expected = (deviations[0] @ deviations[1]) / math.sqrt(4 * 2.5)
    assert sensitivity.correlation(arms, "test_error") == (pytest.approx(expected), 6)


def test_an_arm_with_one_seed_in_common_tells_nothing_of_pairing(tmp_path: Path) -> None:
    r, pairs = sensitivity.correlation(study(tmp_path, {"base": [25.0, 26.0], "no-lrn": [30.0]}), "test_error")
    assert (math.isnan(r), pairs) == (True, 0)


def test_the_unpaired_difference_uses_all_seeds_and_the_spread_of_all_arms(tmp_path: Path) -> None:
    errors = {"base": [25.0, 26.0, 27.0], "no-lrn": [30.0, 32.0], "code-lrn": [20.0, 20.0, 23.0]}
    found = sensitivity.unpaired(study(tmp_path, errors), "no-lrn", "base", "test_error")
    assert found
    spread = math.sqrt((2.0 + 2.0 + 6.0) / 5)  # squares about the means, with 2 + 1 + 2 degrees of freedom
    half = float(stats.t.ppf(0.975, 5)) * spread * math.sqrt(1 / 3 + 1 / 2)
    assert (found.mean, found.low, found.high) == pytest.approx((5.0, 5.0 - half, 5.0 + half))


def test_of_two_arms_the_unpaired_difference_is_student_s(tmp_path: Path) -> None:
    base, other = [25.0, 26.0, 27.5], [30.0, 32.0]
    found = sensitivity.unpaired(study(tmp_path, {"base": base, "no-lrn": other}), "no-lrn", "base", "test_error")
    assert found
    interval = stats.ttest_ind(other, base).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_without_a_second_seed_in_any_arm_nothing_is_unpaired(tmp_path: Path) -> None:
    arms = study(tmp_path, {"base": [25.0], "no-lrn": [30.0]})
    assert sensitivity.unpaired(arms, "no-lrn", "base", "test_error") is None


def test_devices_are_compared_within_arms_that_have_both(tmp_path: Path) -> None:
    errors = {"base": [25.0, 26.0, 27.0, 27.0], "no-lrn": [30.0, 33.0], "code-lrn": [20.0, 21.0]}
    found, count = sensitivity.device_effect(study(tmp_path, errors, {"base": 2, "no-lrn": 1}), "test_error")
    assert found
    assert count == 2
    # base: 27 - 25.5 with weight 1; no-lrn: 33 - 30 with weight 1/2; spread from base on the CPU and from code-lrn
    assert found.mean == pytest.approx((1.5 * 1 + 3.0 * 0.5) / 1.5)
    half = float(stats.t.ppf(0.975, 3)) * math.sqrt((0.5 + 0.0 + 0.5) / 3) / math.sqrt(1.5)
    assert found.high - found.mean == pytest.approx(half)


def test_without_an_arm_on_both_devices_they_are_not_compared(tmp_path: Path) -> None:
    arms = study(tmp_path, {"base": [25.0, 26.0], "no-lrn": [30.0, 31.0]}, {"no-lrn": 2})
    assert sensitivity.device_effect(arms, "test_error") == (None, 0)
