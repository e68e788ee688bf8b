"""What runs show, by hand: metrics of a record, differences by seed, averages of networks, towers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import TINY, add_experiment, ended, figure1, history, keep, record, write
from torch import Tensor

from alexnet_lib import effects, evidence
from alexnet_lib.effects import (
    METRICS,
    Results,
    by_seed,
    change_of_speed_up,
    difference,
    epochs_to,
    level,
    slow_down,
    speed_up,
)
from alexnet_lib.evidence import ArmResult
from alexnet_lib.experiments import Arm
from alexnet_lib.recipes import StudyError
from alexnet_lib.records import Record


def results_of(folder: Path, experiment: str, *runs: Record) -> Results:
    return evidence.results(experiment, "laptop", write(folder, runs))


# --- Figure 1 -----------------------------------------------------------------------------------------------


def study(folder: Path, epochs: dict[str, Sequence[float]]) -> Results:
    return results_of(folder, "relu_vs_tanh", *figure1(epochs))


def test_the_speed_up_divides_tanh_s_epochs_by_relu_s_seed_by_seed(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0, 5.0], "tanh-2012": [24.0, 20.0]}), "2012")
    assert found
    assert (found.values, found.at_least, found.unit) == (pytest.approx((6.0, 4.0)), False, "ratio")


def test_a_tanh_run_at_its_cap_makes_the_speed_up_a_lower_bound(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0, 5.0], "tanh-2012": [24.0, 200.0]}), "2012")
    assert found
    assert (found.values, found.at_least) == (pytest.approx((6.0, 16.0)), True)


def test_a_capped_tanh_run_without_its_relu_run_bounds_nothing(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0], "tanh-2012": [24.0, 200.0]}), "2012")
    assert found
    assert (found.n, found.at_least) == (1, False)


def test_a_relu_run_at_its_cap_is_named(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0, 200.0], "tanh-2012": [24.0, 20.0]}), "2012")
    assert found
    assert (found.values, found.note) == (pytest.approx((6.0, 0.25)), "ReLU runs stopped at their cap")


@pytest.mark.parametrize(
    ("second", "values", "note"), [(20.0, (4.0, 2.0), ""), (200.0, (4.0, 8.0), "runs stopped at their cap")]
)
def test_a_change_of_the_speed_up_is_the_ratio_of_two_seed_by_seed_and_names_a_cap(
    tmp_path: Path, second: float, values: tuple[float, float], note: str
) -> None:
    epochs = {
        "relu-2012": [4.0, 5.0],
        "tanh-2012": [24.0, second],
        "relu-modern": [4.0, 5.0],
        "tanh-modern": [6.0, 10.0],
    }
    found = change_of_speed_up(study(tmp_path, epochs), "2012", "modern")
    assert found is not None
    assert (found.values, found.note) == (pytest.approx(values, rel=1e-6), note)


def test_a_setting_that_a_scale_lacks_changes_no_speed_up(tmp_path: Path) -> None:
    results = study(tmp_path, {"relu-2012": [4.0], "tanh-2012": [24.0]})
    results = {name: result for name, result in results.items() if name.endswith("-2012")}
    assert change_of_speed_up(results, "2012", "unit-file") is None


def test_without_a_pair_there_is_no_speed_up(tmp_path: Path) -> None:
    assert speed_up(study(tmp_path, {"relu-2012": [4.0]}), "2012") is None


def test_the_settings_are_those_of_both_activations_in_the_arms_order(tmp_path: Path) -> None:
    assert effects.settings(study(tmp_path, {})) == ["2012", "modern", "raw-variance", "unit-file", "modern-26pct"]


# --- metrics of a record ------------------------------------------------------------------------------------

SCORES = {
    "train_error": 0.11,
    "train_error_after": 0.07,
    "test_error": 0.2,
    "test_error_5views": 0.19,
    "test_error_10views": 0.18,
    "test_error_top5": 0.05,
    "test_error_top5_10views": 0.02,
    "neighbours_pixels_same_class": 0.3,
    "neighbours_act7_same_class": 0.65,
}
BY_HAND = {
    "test_error": 0.2,
    "test_error_5views": 0.19,
    "test_error_10views": 0.18,
    "gap": 0.13,
    "train_error": 0.11,
    "early_train_error": 0.8,  # the second of 20 epochs
    "test_error_top5": 0.05,
    "test_error_top5_10views": 0.02,
    "gain_of_views": -0.02,
    "gain_of_views_top5": -0.03,
    "gain_over_pixels": 0.35,
}
ARM = Arm(name="base", recipe=TINY, seeds=4)


def run(seed: int = 0, epochs: int = 20, **scores: float) -> Record:
    """Return a record whose training error falls from 90 % by 10 points an epoch, to 10."""
    falling = [max(0.1, 0.9 - 0.1 * number) for number in range(epochs)]
    return record(ARM, falling, after=[0.5] * epochs, scores=SCORES | scores, seed=seed)


def arm(*runs: Record, seeds: int = 4, folder: Path | None = None) -> ArmResult:
    return ArmResult(replace(ARM, seeds=seeds), TINY.rate, {one["seed"]: one for one in runs}, [], False, folder)


def test_every_metric_is_worked_out_here_by_hand() -> None:
    assert METRICS.keys() == BY_HAND.keys()


@pytest.mark.parametrize("metric", BY_HAND)
def test_a_metric_of_a_record_by_hand(metric: str) -> None:
    assert METRICS[metric](run()) == pytest.approx(BY_HAND[metric])


@pytest.mark.parametrize(("epochs", "early"), [(1, 0.9), (3, 0.9), (8, 0.9), (16, 0.8), (30, 0.7)])
def test_the_first_tenth_ends_with_a_whole_epoch(epochs: int, early: float) -> None:
    assert METRICS["early_train_error"](run(epochs=epochs)) == pytest.approx(early)


def test_a_metric_is_counted_in_per_cent_by_seed() -> None:
    assert by_seed(arm(run(0), run(2, test_error=0.25)), "test_error") == pytest.approx({0: 20.0, 2: 25.0})


@pytest.mark.parametrize("outcome", ["diverged: loss not finite", "abandoned: a test's"])
def test_a_run_that_did_not_end_well_has_no_metric(outcome: str) -> None:
    failed = {**run(1), "outcome": outcome, "scores": {}}
    assert by_seed(arm(run(0), failed), "test_error") == pytest.approx({0: 20.0})


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="unknown metric 'test_eror': did you mean 'test_error'"):
        by_seed(arm(run()), "test_eror")


def test_a_level_is_the_mean_over_the_seeds_in_per_cent() -> None:
    found = level(arm(run(0), run(1, test_error_10views=0.22)), "test_error_10views")
    assert found
    assert (found.mean, found.values, found.unit) == (pytest.approx(20.0), pytest.approx((18.0, 22.0)), "per cent")


def test_a_level_is_by_default_that_of_the_test_error_and_none_without_runs() -> None:
    found = level(arm(run()))
    assert found
    assert (found.mean, level(arm())) == (pytest.approx(20.0), None)


# --- differences --------------------------------------------------------------------------------------------


def compared(folder: Path, with_: Sequence[float | None], without: Sequence[float | None]) -> Results:
    return results_of(folder, "lrn", *ended("lrn", "base", with_), *ended("lrn", "no-lrn", without))


def test_a_difference_is_paired_by_seed(tmp_path: Path) -> None:
    found = difference(compared(tmp_path, [20.0, 22.0, 27.0], [21.5, 21.0, 24.0]), "base", "no-lrn")
    assert found
    assert (found.values, found.mean, found.unit) == (
        pytest.approx((-1.5, 1.0, 3.0)),
        pytest.approx(2.5 / 3),
        "points",
    )


def test_a_difference_is_with_minus_without(tmp_path: Path) -> None:
    results = compared(tmp_path, [20.0], [21.5])
    there, back = difference(results, "base", "no-lrn"), difference(results, "no-lrn", "base")
    assert there
    assert back
    assert (there.mean, back.mean) == (pytest.approx(-1.5), pytest.approx(1.5))


def test_a_seed_that_one_arm_lacks_is_left_out(tmp_path: Path) -> None:
    found = difference(compared(tmp_path, [20.0, None, 27.0], [21.5, 30.0, 24.0, 90.0]), "base", "no-lrn")
    assert found
    assert found.values == pytest.approx((-1.5, 3.0))


def test_a_run_that_diverged_is_left_out_with_its_pair(tmp_path: Path) -> None:
    failed = ended("lrn", "no-lrn", [None, 90.0], outcome="diverged: loss not finite")
    runs = [*ended("lrn", "base", [20.0, 22.0]), *ended("lrn", "no-lrn", [21.5]), *failed]
    found = difference(results_of(tmp_path, "lrn", *runs), "base", "no-lrn")
    assert found
    assert found.values == pytest.approx((-1.5,))


def test_another_metric_is_compared_where_it_is_named(tmp_path: Path) -> None:
    scores = {"test_error": 20.0, "train_error_after": 5.0}
    runs = [*ended("lrn", "base", [scores]), *ended("lrn", "no-lrn", [{**scores, "train_error_after": 2.0}])]
    found = difference(results_of(tmp_path, "lrn", *runs), "base", "no-lrn", "gap")
    assert found
    assert found.values == pytest.approx((-3.0,))


@pytest.mark.parametrize("pair", [("base", "no-lrn"), ("base", "18pct"), ("18pct", "base")])
def test_without_a_pair_or_with_an_arm_that_the_scale_lacks_there_is_no_difference(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    results = compared(tmp_path, [20.0, None], [None, 21.0])
    assert "18pct" not in results
    assert difference(results, *pair) is None


# --- dropout's slow-down ------------------------------------------------------------------------------------


def trained(name: str, seed: int, after: Sequence[float]) -> Record:
    """Return a record of the experiment on dropout; its error over the epoch is at the level from the start."""
    (made,) = ended("dropout", name, [*[None] * seed, 20.0])
    return {**made, "history": history([0.1] * len(after), after)}


def test_the_slow_down_divides_the_epochs_to_thirty_per_cent_after_the_epoch(tmp_path: Path) -> None:
    runs = [
        trained("base", 0, [0.6, 0.5, 0.4, 0.3]),  # 4 epochs against 2
        trained("no-dropout", 0, [0.6, 0.3, 0.2, 0.1]),
        trained("base", 1, [0.6, 0.5, 0.4, 0.2]),  # 3.5 epochs against 1
        trained("no-dropout", 1, [0.3, 0.2, 0.1, 0.1]),
    ]
    found = slow_down(results_of(tmp_path, "dropout", *runs))
    assert found
    assert (found.values, found.unit) == (pytest.approx((2.0, 3.5)), "ratio")


@pytest.mark.parametrize("late", ["base", "no-dropout"])
def test_a_seed_with_a_run_that_never_reached_the_level_is_left_out(tmp_path: Path, late: str) -> None:
    runs = [trained(name, seed, [0.6, 0.3]) for name in ("base", "no-dropout") for seed in (0, 1)]
    runs = [one for one in runs if (one["arm"], one["seed"]) != (late, 1)]
    found = slow_down(results_of(tmp_path, "dropout", *runs, trained(late, 1, [0.9, 0.31])))
    assert found
    assert found.values == (1.0,)


def test_the_slow_down_to_another_level_is_counted_there(tmp_path: Path) -> None:
    runs = [trained("base", 0, [0.6, 0.5, 0.4, 0.3]), trained("no-dropout", 0, [0.4, 0.3, 0.2, 0.1])]
    found = slow_down(results_of(tmp_path, "dropout", *runs), 0.4)
    assert found
    assert found.values == (pytest.approx(3.0),)


def test_epochs_are_counted_to_any_level_where_a_run_got_there_and_ended_well(tmp_path: Path) -> None:
    runs = [trained("base", seed, [0.6, 0.4, 0.2][: seed + 1]) for seed in range(3)]
    base = results_of(tmp_path, "dropout", *runs, trained("no-dropout", 0, [0.1]))["base"]
    assert epochs_to(base, 0.5, "train_error_after") == pytest.approx({1: 1.5, 2: 1.5})
    base.runs[2]["outcome"] = "diverged: loss not finite"
    assert epochs_to(base, 0.5, "train_error_after") == pytest.approx({1: 1.5})


def test_without_a_pair_that_reached_the_level_there_is_no_slow_down(tmp_path: Path) -> None:
    assert slow_down(results_of(tmp_path, "dropout", trained("base", 0, [0.2]))) is None


# --- averages of networks -----------------------------------------------------------------------------------


def member(wrong: Mapping[int, float], images: int = 6) -> dict[str, Tensor]:
    """Return what a network of two classes keeps: sure of class 1, the truth, but for images in ``wrong``.

    ``wrong``: image -> the probability it gives to the wrong class.
    """
    mistaken = torch.tensor([wrong.get(image, 0.1) for image in range(images)])
    return {
        "probabilities": torch.stack([mistaken, 1 - mistaken], 1).half(),
        "labels": torch.ones(images, dtype=torch.uint8),
    }


def kept(folder: Path, members: Sequence[dict[str, Tensor] | None]) -> ArmResult:
    """Return an arm whose seeds keep these tensors, the last seed's run first; None keeps nothing."""
    seeds = list(enumerate(members))[::-1]
    runs = [run(seed) if one is None else keep(run(seed), one, folder) for seed, one in seeds]
    return arm(*runs, seeds=len(members), folder=folder)


def test_averaging_mends_errors_that_the_members_do_not_share(tmp_path: Path) -> None:
    members = [member({seed: 0.6}) for seed in range(3)]
    assert [each[:2] for each in effects.ensembles(kept(tmp_path, members), 3)] == [pytest.approx((0.0, 100 / 6))]


def test_averaging_keeps_errors_that_the_members_share(tmp_path: Path) -> None:
    members = [member({0: 0.6, seed: 0.6}) for seed in range(1, 4)]
    assert [each[:2] for each in effects.ensembles(kept(tmp_path, members), 3)] == [pytest.approx((100 / 6, 200 / 6))]


def test_probabilities_are_averaged_and_not_votes(tmp_path: Path) -> None:
    members = [member({0: 0.95}), member({0: 0.3}), member({0: 0.3})]  # one sure error outweighs two right votes
    assert [each[:2] for each in effects.ensembles(kept(tmp_path, members), 3)] == [
        pytest.approx((100 / 6, 100 / 18))
    ]


def test_the_gain_of_a_set_has_a_standard_error_over_test_images(tmp_path: Path) -> None:
    members = [member({seed: 0.6}) for seed in range(3)]  # on three of six images a third of the members errs
    ((*_, error),) = effects.ensembles(kept(tmp_path, members), 3)
    gains = [-1 / 3] * 3 + [0.0] * 3
    assert error == pytest.approx(100 * float(np.std(gains, ddof=1)) / math.sqrt(6))


def test_sets_of_members_are_disjoint_in_the_order_of_the_seeds(tmp_path: Path) -> None:
    errors: list[dict[int, float]] = [{}, {0: 0.6}, {0: 0.6, 1: 0.6}, {0: 0.6, 1: 0.6, 2: 0.6}, {5: 0.9}]
    found = effects.ensembles(kept(tmp_path, [member(wrong) for wrong in errors]), 2)
    assert [alone for _, alone, _ in found] == pytest.approx([100 * 0.5 / 6, 100 * 2.5 / 6])


def test_a_seed_that_kept_nothing_is_no_member(tmp_path: Path) -> None:
    members = [member({0: 0.6}), None, member({1: 0.6, 2: 0.6}), member({})]
    found = effects.ensembles(kept(tmp_path, members), 2)
    assert [alone for _, alone, _ in found] == pytest.approx([100 * 1.5 / 6])


@pytest.mark.parametrize(("members", "sets"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2)])
def test_there_are_as_many_sets_as_the_members_fill(tmp_path: Path, members: int, sets: int) -> None:
    assert len(effects.ensembles(kept(tmp_path, [member({})] * members), 5)) == sets


FOUR: list[dict[int, float]] = [{0: 0.6}, {1: 0.7}, {2: 0.8, 3: 0.55}, {0: 0.95, 4: 0.6}]


def test_subsets_of_one_are_the_members_and_of_all_the_ensemble(tmp_path: Path) -> None:
    base = kept(tmp_path, [member(wrong) for wrong in FOUR])
    found = effects.subsets(base)
    ((together, alone, _),) = effects.ensembles(base, 4)
    assert list(found) == [1, 2, 3, 4]
    assert found[4] == [pytest.approx(together)]
    assert sorted(found[1]) == pytest.approx(sorted(100 * len(wrong) / 6 for wrong in FOUR))
    assert sum(found[1]) / 4 == pytest.approx(alone)


def test_subsets_of_a_size_are_different_sets_of_that_size(tmp_path: Path) -> None:
    base = kept(tmp_path, [member(wrong) for wrong in FOUR])
    # image 0 is wrong for member 3 with each of the others: 0.775, 0.525, 0.525; all else is mended
    pairs = {(0, 1): 0, (0, 2): 0, (0, 3): 1, (1, 2): 0, (1, 3): 1, (2, 3): 1}
    assert effects.subsets(base)[2] == pytest.approx([100 * wrong / 6 for wrong in pairs.values()])


def test_subsets_are_no_more_than_asked_for_and_the_same_on_every_call(tmp_path: Path) -> None:
    base = kept(tmp_path, [member({seed: 0.6}) for seed in range(6)])
    found = effects.subsets(base, most=4)
    assert [1 <= len(some) <= 4 for some in found.values()] == [True] * 6
    assert effects.subsets(base, most=4) == found


def test_without_members_there_are_no_subsets_and_no_pairs(tmp_path: Path) -> None:
    assert (effects.subsets(kept(tmp_path, [None])), effects.agreement(kept(tmp_path, [None]))) == ({}, [])


def test_agreement_by_hand(tmp_path: Path) -> None:
    base = kept(tmp_path, [member(wrong) for wrong in ({0: 0.6, 1: 0.6}, {0: 0.9}, {2: 0.6})])
    # wrong: images 0 and 1; image 0; image 2. Pairs: second with first, third with first, third with second
    expected = [(5, 1), (3, 0), (4, 0)]
    assert effects.agreement(base) == [pytest.approx((100 * same / 6, 100 * both / 6)) for same, both in expected]


def test_two_networks_can_err_without_naming_the_same_class(tmp_path: Path) -> None:
    labels = torch.zeros(2, dtype=torch.uint8)
    rows = ([[0.1, 0.9, 0.0], [0.9, 0.1, 0.0]], [[0.1, 0.0, 0.9], [0.9, 0.1, 0.0]])
    members = [{"probabilities": torch.tensor(each), "labels": labels} for each in rows]
    assert effects.agreement(kept(tmp_path, members)) == [(50.0, 50.0)]


# --- towers -------------------------------------------------------------------------------------------------


def test_every_kept_seed_s_kernels_are_split_into_its_towers(tmp_path: Path) -> None:
    noise = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    equal, coloured = noise.clone(), noise.clone()
    equal[8:] = equal[:8]
    coloured[:8] = coloured[:8, :1]  # the first tower is grey
    found = effects.specialised(kept(tmp_path, [{"conv1": equal}, None, {"conv1": coloured}]))
    assert list(found) == [0, 2]
    assert [split.p < 0.05 for split in found.values()] == [False, True]
    assert found[2].difference < -0.4


def test_the_runs_of_an_arm_are_found_whichever_experiment_trained_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_experiment(monkeypatch, [ARM])
    made = keep({**run(), "experiment": "another"}, member({0: 0.6}), tmp_path)
    base = evidence.results("tiny", "smoke", write(tmp_path, [made]))["base"]
    assert effects.ensembles(base, 1) == [pytest.approx((100 / 6, 100 / 6, 0.0))]


def test_a_run_that_was_scored_on_no_views_has_none_of_their_metrics() -> None:
    whole = run(0)
    del whole["scores"]["test_error_10views"]
    assert by_seed(arm(whole, run(1)), "test_error_10views").keys() == {1}
