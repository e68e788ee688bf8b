"""Rates are searched by the rule, hopeless runs end early, and every run of a recipe counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import GRID, RELU, TANH, TINY, add_experiment, falling, figure1, history, record, runs_of, write

from alexnet_lib import evidence
from alexnet_lib.evidence import abandon, crossing, results, search
from alexnet_lib.recipes import StudyError
from alexnet_lib.records import Record


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    add_experiment(monkeypatch)


# --- crossing -----------------------------------------------------------------------------------------------


def test_a_crossing_is_interpolated_between_epochs() -> None:
    assert crossing(history([0.5, 0.3, 0.2]), 0.25) == pytest.approx(2.5)


def test_a_first_epoch_below_the_target_counts_as_one_epoch() -> None:
    assert crossing(history([0.1, 0.05]), 0.25) == 1.0


def test_an_error_that_is_the_target_exactly_has_reached_it() -> None:
    assert crossing(history([0.5, 0.25]), 0.25) == 2.0


@pytest.mark.parametrize("errors", [[], [0.9], [0.5, 0.3, 0.26]])
def test_an_error_that_never_comes_down_has_no_crossing(errors: list[float]) -> None:
    assert crossing(history(errors), 0.25) is None


def test_the_first_of_two_crossings_counts() -> None:
    assert crossing(history([0.3, 0.2, 0.4, 0.2]), 0.25) == pytest.approx(1.5)


def test_a_crossing_can_be_read_from_the_pass_after_the_epoch() -> None:
    past = history([0.9, 0.9, 0.9], after=[0.4, 0.3, 0.2])
    assert crossing(past, 0.25, "train_error_after") == pytest.approx(2.5)


# --- search -------------------------------------------------------------------------------------------------


def tried(runs: dict[float, list[float]], outcomes: dict[float, str] | None = None) -> dict[str, Record]:
    """Return seed-0 records of the ReLU arm by id, from the training errors of each rate."""
    outcomes = outcomes or {}
    made = [record(RELU, e, rate=rate, outcome=outcomes.get(rate, "completed")) for rate, e in runs.items()]
    return {run["id"]: run for run in made}


def test_the_search_asks_for_the_declared_rates_in_their_order() -> None:
    chosen, missing = search(RELU, {})
    assert (chosen, [recipe.rate for recipe in missing]) == (None, [0.01, 0.02, 0.005])


def test_the_search_takes_the_rate_with_the_fewest_epochs_to_the_target() -> None:
    found = tried({0.005: falling(9.2), 0.01: falling(4.4), 0.02: falling(4.5)})
    assert search(RELU, found) == (0.01, [])


def test_where_no_rate_reaches_the_target_the_lowest_last_error_wins() -> None:
    rising = replace(RELU, rates=(0.005, 0.01, 0.02))
    found = tried({0.005: [0.9, 0.5], 0.01: [0.9, 0.4], 0.02: [0.3, 0.6]})
    assert search(rising, found) == (0.01, [])


def test_a_rate_that_reaches_the_target_beats_a_lower_last_error() -> None:
    found = tried({0.005: [0.9] * 3, 0.01: falling(3), 0.02: [0.9, 0.9, 0.26]})
    assert search(RELU, found) == (0.01, [])


@pytest.mark.parametrize("outcome", ["abandoned: too slow", "diverged: loss not finite"])
def test_a_run_that_did_not_end_well_is_not_chosen(outcome: str) -> None:
    found = tried({0.005: [0.9, 0.5], 0.01: [0.9, 0.6], 0.02: [0.1]}, {0.02: outcome, 0.005: outcome})
    assert search(RELU, found) == (0.01, [])


@pytest.mark.parametrize(("best", "asked"), [(0.02, 0.04), (0.005, 0.0025)])
def test_the_grid_grows_beyond_a_best_rate_at_its_edge(best: float, asked: float) -> None:
    found = tried({rate: falling(3 if rate == best else 6) for rate in RELU.rates})
    chosen, missing = search(RELU, found)
    assert (chosen, [recipe.rate for recipe in missing]) == (None, [asked])


@pytest.mark.parametrize(("best", "further"), [(0.04, 0.08), (0.0025, 0.00125)])
def test_the_grid_grows_until_its_best_rate_lies_inside(best: float, further: float) -> None:
    speeds = {0.005: 6, 0.01: 8, 0.02: 6, best: 4, further: 5}
    speeds[best * 2 if best < 0.01 else best / 2] = 4.5  # the edge that led there
    assert search(RELU, tried({rate: falling(n) for rate, n in speeds.items()})) == (best, [])


@pytest.mark.parametrize("outcome", ["abandoned: still guessing", "diverged: loss not finite"])
def test_no_rate_is_chosen_where_no_run_ended_well(outcome: str) -> None:
    rates = {rate: [0.9] * 3 for rate in (0.0025, 0.005, 0.01, 0.02, 0.04)}
    chosen, _ = search(RELU, tried(rates, dict.fromkeys(rates, outcome)))
    assert chosen is None


def test_a_grid_of_one_rate_is_not_extended() -> None:
    arm = replace(RELU, rates=(0.01,))
    assert search(arm, tried({0.01: falling(3)})) == (0.01, [])


def test_an_arm_without_rates_has_its_recipe_s_own() -> None:
    assert search(replace(RELU, rates=()), {}) == (TINY.rate, [])


def test_a_search_goes_down_while_every_rate_diverges() -> None:
    rates = {rate: [0.9] for rate in RELU.rates}
    _, missing = search(RELU, tried(rates, dict.fromkeys(rates, "diverged: loss not finite")))
    assert [recipe.rate for recipe in missing] == [min(RELU.rates) / evidence.GRID_STEP]


def test_a_search_goes_up_while_every_rate_still_guesses() -> None:
    rates = {rate: [0.9] * 20 for rate in RELU.rates}
    _, missing = search(RELU, tried(rates, dict.fromkeys(rates, "abandoned: still above 85 %")))
    assert [recipe.rate for recipe in missing] == [max(RELU.rates) * evidence.GRID_STEP]


HELD = replace(RELU, name="held", recipe=replace(TINY, target_error=None, holdout=True))
"""An arm whose rate is chosen on the holdout."""


def on_holdout(tests: dict[float, list[float]], outcomes: dict[float, str] | None = None) -> dict[str, Record]:
    """Return records of ``HELD`` by id, by test errors of each rate; training errors fall as the rate rises."""
    outcomes = outcomes or {}
    made = [
        record(HELD, [0.1 - rate] * len(t), test=t, rate=rate, outcome=outcomes.get(rate, "completed"))
        for rate, t in tests.items()
    ]
    return {run["id"]: run for run in made}


def test_without_a_target_the_search_takes_the_lowest_test_error_whatever_the_training_errors() -> None:
    assert search(HELD, on_holdout({0.005: [0.5], 0.01: [0.3], 0.02: [0.4]})) == (0.01, [])


def test_without_a_target_the_test_error_of_the_last_epoch_counts() -> None:
    assert search(HELD, on_holdout({0.005: [0.1, 0.5], 0.01: [0.4, 0.3], 0.02: [0.2, 0.4]})) == (0.01, [])


def test_without_a_target_a_run_that_did_not_end_well_is_not_chosen() -> None:
    found = on_holdout({0.005: [0.5], 0.01: [0.3], 0.02: [0.1]}, {0.02: "diverged: loss not finite"})
    assert search(HELD, found) == (0.01, [])


def test_without_a_target_the_grid_grows_beyond_its_edge_too() -> None:
    chosen, missing = search(HELD, on_holdout({0.005: [0.5], 0.01: [0.3], 0.02: [0.2]}))
    assert (chosen, [recipe.rate for recipe in missing]) == (None, [0.04])


# --- abandon ------------------------------------------------------------------------------------------------


def test_a_run_goes_on_while_there_is_no_rival() -> None:
    assert abandon(history([0.9] * 10), []) is None


def test_a_run_ends_when_a_rival_needed_no_more_epochs_than_it_had() -> None:
    rival = record(RELU, falling(4.5), rate=0.02)
    assert abandon(history([0.9] * 5), [rival]) == "abandoned: rate 0.02 reached the target in 4.50 epochs"


def test_a_run_goes_on_while_it_has_had_fewer_epochs_than_the_rival_needed() -> None:
    assert abandon(history([0.9] * 4), [record(RELU, falling(4.5))]) is None


def test_from_the_eighth_epoch_a_run_ends_when_behind_the_rival_at_half_its_age() -> None:
    rival = record(RELU, [0.9, 0.8, 0.7, 0.6, *falling(16)], rate=0.02)
    assert abandon(history([0.61] * 8), [rival]) == "abandoned: after 8 epochs behind rate 0.02 after 4"


@pytest.mark.parametrize("errors", [[0.71] * 7, [0.6] * 8])
def test_a_run_goes_on_that_is_young_or_not_behind_the_rival_at_half_its_age(errors: list[float]) -> None:
    rival = record(RELU, [0.9, 0.8, 0.7, 0.6, *falling(16)])
    assert abandon(history(errors), [rival]) is None


def test_after_twenty_epochs_of_guessing_a_run_ends_by_itself() -> None:
    assert abandon(history([0.86] * 20), []) == "abandoned: still above 85 % training error after 20 epochs"


@pytest.mark.parametrize("errors", [[0.86] * 19, [0.86] * 19 + [0.85]])
def test_a_run_goes_on_that_guesses_for_less_than_twenty_epochs(errors: list[float]) -> None:
    assert abandon(history(errors), []) is None


@pytest.mark.parametrize("outcome", ["abandoned: too slow", "diverged: loss not finite"])
def test_only_a_finished_rival_ends_a_run(outcome: str) -> None:
    assert abandon(history([0.9] * 8), [record(RELU, falling(2), outcome=outcome)]) is None


def test_a_rival_that_has_not_had_all_its_epochs_ends_no_run() -> None:
    assert abandon(history([0.9] * 8), [record(RELU, [0.3, 0.26])]) is None


def test_a_rival_that_missed_the_target_at_its_cap_ends_a_run_that_is_far_behind() -> None:
    rival = record(RELU, [0.7] * 9 + [0.5], rate=0.02, epochs=10)
    assert abandon(history([0.71] * 8), [rival]) == "abandoned: after 8 epochs behind rate 0.02 after 4"
    assert abandon(history([0.69] * 9), [rival]) is None


def test_of_two_rivals_the_one_that_reached_the_target_is_the_better() -> None:
    capped = record(RELU, [0.3] * 10, rate=0.04, epochs=10)
    reached = record(RELU, [0.9, 0.8, 0.7, 0.6, *falling(16)], rate=0.02)
    assert abandon(history([0.55] * 8), [capped, reached]) is None


def test_the_fastest_rival_counts() -> None:
    rivals = [record(RELU, falling(7.5), rate=0.005), record(RELU, falling(4.5), rate=0.02)]
    assert abandon(history([0.9] * 8), rivals) == "abandoned: rate 0.02 reached the target in 4.50 epochs"


def test_without_a_target_no_rival_ends_a_run() -> None:
    assert abandon(history([0.8] * 10), [record(HELD, [0.1] * 3, rate=0.02)]) is None


# --- results ------------------------------------------------------------------------------------------------


def test_results_hold_the_runs_at_the_chosen_rate_by_seed(tmp_path: Path) -> None:
    write(tmp_path, [*runs_of((RELU, GRID)), record(RELU, falling(2.5), seed=1)])
    assert results("tiny", "smoke", tmp_path)["relu-tiny"].epochs_to_target() == pytest.approx({0: 3.0, 1: 2.5})


def test_an_arm_whose_search_has_not_ended_has_no_rate_and_no_runs(tmp_path: Path) -> None:
    write(tmp_path, runs_of((RELU, {0.01: 3.0})))
    arm = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert (arm.rate, arm.runs, len(arm.grid)) == (None, {}, 1)


def test_the_grid_of_an_arm_is_sorted_by_rate_and_holds_no_other_seed(tmp_path: Path) -> None:
    write(tmp_path, [*runs_of((RELU, GRID), (TANH, GRID)), record(RELU, falling(2), seed=1)])
    grid = results("tiny", "smoke", tmp_path)["relu-tiny"].grid
    assert [(run["arm"], run["recipe"]["rate"], run["seed"]) for run in grid] == [
        ("relu-tiny", 0.005, 0),
        ("relu-tiny", 0.01, 0),
        ("relu-tiny", 0.02, 0),
    ]


def test_a_run_that_missed_the_target_counts_with_the_cap_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, [*runs_of((RELU, GRID)), record(RELU, [0.9, 0.5, 0.3], seed=1)])
    arm = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert (arm.epochs_to_target()[1], arm.capped()) == (TINY.epochs, [1])


def test_a_run_that_ended_early_does_not_count_with_the_cap_in_the_other_reading(tmp_path: Path) -> None:
    past = {
        "errors": [0.5, 0.24],
        "after": [0.5, 0.26],
    }  # ended at its target, while the other reading just missed
    arm = replace(RELU, recipe=replace(TINY, epochs=80))
    write(tmp_path, [record(arm, **past, rate=rate) for rate in RELU.rates])
    with pytest.MonkeyPatch.context() as patch:
        add_experiment(patch, [arm])
        found = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert found.epochs_to_target("train_error_after").get(0) != 80


def test_figure_1_s_arms_are_read_from_its_records(tmp_path: Path) -> None:
    write(tmp_path, figure1({"relu-2012": [6.5, 7.0], "tanh-2012": [40.0, 100.0]}))
    found = results("relu_vs_tanh", "laptop", tmp_path)
    assert found["relu-2012"].epochs_to_target() == pytest.approx({0: 6.5, 1: 7.0})
    assert found["tanh-2012"].epochs_to_target() == pytest.approx({0: 40.0, 1: 80.0})
    assert found["tanh-2012"].capped() == [1]


def recorded_for(run: Record, **changes: str) -> Record:
    """Return the record as another experiment's or arm's."""
    return {**run, **changes}


def test_a_run_counts_for_every_arm_that_asks_for_its_recipe(tmp_path: Path) -> None:
    runs = [*runs_of((RELU, GRID)), record(RELU, falling(2.5), seed=1)]
    write(tmp_path, [recorded_for(run, experiment="other", arm="base") for run in runs])
    arm = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert arm.epochs_to_target() == pytest.approx({0: 3.0, 1: 2.5})


def test_a_run_of_another_scale_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, [recorded_for(run, scale="gpu") for run in runs_of((RELU, GRID))])
    arm = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert (arm.rate, arm.runs, arm.grid) == (None, {}, [])


def test_the_grid_holds_the_runs_of_its_recipe_whichever_arm_tried_them(tmp_path: Path) -> None:
    write(tmp_path, [recorded_for(run, experiment="other", arm="base") for run in runs_of((RELU, GRID))])
    grid = results("tiny", "smoke", tmp_path)["relu-tiny"].grid
    assert [run["recipe"]["rate"] for run in grid] == [0.005, 0.01, 0.02]


@pytest.mark.parametrize("change", [{"epochs": 4}, {"activation": "tanh"}, {"seed": 1}, {"target_error": 0.2}])
def test_the_grid_holds_no_run_of_another_recipe_under_the_arm_s_name(
    tmp_path: Path, change: dict[str, object]
) -> None:
    write(tmp_path, [*runs_of((RELU, GRID)), record(RELU, falling(2), rate=0.04, **change)])
    grid = results("tiny", "smoke", tmp_path)["relu-tiny"].grid
    assert [run["recipe"]["rate"] for run in grid] == [0.005, 0.01, 0.02]


def test_the_grid_holds_runs_from_before_a_recipe_field_existed(tmp_path: Path) -> None:
    runs = runs_of((RELU, GRID))
    for run in runs:
        del run["recipe"]["places"]
    write(tmp_path, runs)
    assert len(results("tiny", "smoke", tmp_path)["relu-tiny"].grid) == 3


def test_the_images_of_an_arm_are_those_that_its_runs_count_and_the_first_records_don_t(tmp_path: Path) -> None:
    old, new = runs_of((RELU, {0.01: 3.0, 0.02: 4.0}))
    assert results("tiny", "smoke", write(tmp_path / "old", [old]))["relu-tiny"].images("train") is None
    new["data"] |= {"train": 40, "test": 20}
    arm = results("tiny", "smoke", write(tmp_path / "both", [old, new]))["relu-tiny"]
    assert (arm.images("train"), arm.images("test")) == (40, 20)


def test_an_arm_without_a_search_has_no_grid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_experiment(monkeypatch, [replace(RELU, rates=())])
    write(tmp_path, runs_of((RELU, GRID)))
    arm = results("tiny", "smoke", tmp_path)["relu-tiny"]
    assert (arm.rate, arm.grid, list(arm.runs)) == (TINY.rate, [], [0])


# --- one name, two contents ---------------------------------------------------------------------------------


def test_runs_on_different_images_of_one_name_are_not_compared(tmp_path: Path) -> None:
    runs = figure1({"relu-2012": [4.0, 4.1], "tanh-2012": [24.0, 25.0]})
    runs[-1]["data"] = runs[-1]["data"] | {"digest": "f" * 64}
    with pytest.raises(StudyError, match=f"and {runs[-1]['id']} saw different images under this name"):
        results("relu_vs_tanh", "laptop", write(tmp_path, runs))
