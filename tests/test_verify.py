"""A repeated run is held against its record: bit for bit where that is fair, within tolerances elsewhere."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from studies import without_times

from alexnet_lib import records, verify
from alexnet_lib.data import Dataset
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Result, train

Change = Callable[[Record], Any]


def recorded(result: Result, dataset: Dataset) -> Record:
    """Return the run's record as it comes back from its file."""
    made = records.make(result, dataset, experiment="tiny", arm="relu-tiny", scale="smoke", begun=datetime.now(UTC))
    read: Record = json.loads(json.dumps(made))
    return read


@pytest.fixture
def run(recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv("ALEXNET_COMMIT", "0" * 40)
    return recorded(train(recipe, small), small)


def changed(run: Record, change: Change) -> Record:
    run = copy.deepcopy(run)
    change(run)
    return run


def on_another_machine(run: Record) -> Record:
    return changed(run, lambda r: r["provenance"].update(cpu_capability="AVX1024"))


def seeds_ending_at(run: Record, ends: list[float]) -> list[Record]:
    """Return records like ``run`` of other seeds whose last test errors are ``ends``."""

    def with_end(number: int, end: float) -> Record:
        return changed(run, lambda r: (r.update(seed=number), r["history"][-1].update(test_error=end)))

    return [with_end(number, end) for number, end in enumerate(ends)]


# --- repeat -------------------------------------------------------------------------------------------------


def test_a_repeated_run_has_the_record_s_numbers_bit_for_bit(run: Record) -> None:
    again = verify.repeat(run, "cpu")
    assert without_times(vars(epoch) for epoch in again.history) == without_times(run["history"])
    assert (again.scores, again.outcome) == (run["scores"], run["outcome"])


def test_a_run_that_was_abandoned_is_repeated_as_far_as_it_went(recipe: Recipe, small: Dataset) -> None:
    why = "abandoned: a test's"
    run = recorded(train(recipe, small, abandon=lambda past: why if len(past) == 2 else None), small)
    again = verify.repeat(run, "cpu")
    assert (len(again.history), again.outcome) == (2, why)


def test_a_run_that_diverged_is_repeated_until_it_diverges_again(recipe: Recipe, small: Dataset) -> None:
    run = recorded(train(replace(recipe, rate=1e30), small), small)
    assert run["outcome"].startswith("diverged")
    invented = changed(run, lambda r: r.update(outcome="diverged: loss not finite in epoch 0, step 77, rate 1e+30"))
    assert verify.repeat(invented, "cpu").outcome == run["outcome"]


def test_other_data_than_the_record_s_are_refused_before_training(
    run: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Recipe] = []
    monkeypatch.setattr(verify, "train", lambda recipe, *_, **__: trained.append(recipe))
    other = changed(run, lambda r: r["data"].update(digest="f" * 64))
    with pytest.raises(StudyError, match=f"run {run['id']}: data set synthetic.* differs here"):
        verify.repeat(other, "cpu")
    assert trained == []


# --- the same kind of machine -------------------------------------------------------------------------------


def test_equal_numbers_on_the_same_kind_of_machine_confirm_a_record(run: Record) -> None:
    good, lines = verify.compare(run, verify.repeat(run, "cpu"), [run])
    assert (good, lines[-1]) == (True, "equal")
    assert "bit for bit" in lines[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["history"][1].update(loss=math.nextafter(r["history"][1]["loss"], math.inf)),
        lambda r: r["history"][2].update(test_error=0.0),
        lambda r: r["scores"].update(test_error=0.0),
        lambda r: r["history"].append(r["history"][-1]),
        lambda r: r.update(outcome="abandoned: no"),
    ],
    ids=["last bit of a loss", "test error", "score", "one more epoch", "outcome"],
)
def test_any_changed_number_is_caught_on_the_same_kind_of_machine(run: Record, change: Change) -> None:
    good, lines = verify.compare(changed(run, change), verify.repeat(run, "cpu"), [run])
    assert (good, lines[-1]) == (False, "NOT equal")


def test_the_first_difference_is_shown(run: Record) -> None:
    wrong = changed(run, lambda r: r["history"][1].update(loss=1.25))
    _, lines = verify.compare(wrong, verify.repeat(run, "cpu"), [run])
    assert "recorded {'epoch': 1, 'loss': 1.25" in lines[1]


def test_other_times_are_no_difference(run: Record) -> None:
    slow = changed(run, lambda r: [epoch.update(seconds=9e9) for epoch in r["history"]])
    assert verify.compare(slow, verify.repeat(run, "cpu"), [run])[0]


# --- another kind of machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["torch", "device", "cpu", "cpu_capability", "threads", "split"])
def test_what_makes_numbers_differ_in_their_last_bits_is_named(run: Record, key: str) -> None:
    there = changed(run, lambda r: r["provenance"].update({key: "another"}))
    good, lines = verify.compare(there, verify.repeat(run, "cpu"), [run])
    assert (good, lines[0].split(":")[0]) == (True, f"other {key}")


def test_a_record_of_before_runs_were_split_is_one_of_a_whole_run(run: Record) -> None:
    first = changed(run, lambda r: r["provenance"].pop("split"))
    good, lines = verify.compare(first, verify.repeat(run, "cpu"), [run])
    assert (good, "bit for bit" in lines[0]) == (True, True)


def test_another_commit_or_hour_is_the_same_kind_of_machine(run: Record) -> None:
    later = changed(run, lambda r: r["provenance"].update(commit="f" * 40, ended="2030-01-01T00:00:00+00:00"))
    _, lines = verify.compare(later, verify.repeat(run, "cpu"), [run])
    assert "bit for bit" in lines[0]


@pytest.mark.parametrize(("off", "confirmed"), [(0.029, True), (-0.029, True), (0.031, False), (-0.031, False)])
def test_the_first_epoch_may_be_three_points_off_elsewhere(run: Record, off: float, confirmed: bool) -> None:
    first = run["history"][0]["train_error"] + off
    there = changed(on_another_machine(run), lambda r: r["history"][0].update(train_error=first))
    good, lines = verify.compare(there, verify.repeat(run, "cpu"), [])
    assert good == confirmed
    assert f"off by {100 * abs(off):.2f} points, allowed 3" in lines[1]


@pytest.mark.parametrize(("off", "confirmed"), [(0.029, True), (-0.029, True), (0.031, False), (-0.031, False)])
def test_the_end_may_be_three_deviations_from_the_seeds_mean_elsewhere(
    run: Record, off: float, confirmed: bool
) -> None:
    mean = run["history"][-1]["test_error"] + off
    seeds = seeds_ending_at(run, [mean - 0.01, mean, mean + 0.01])  # standard deviation 0.01
    good, lines = verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), seeds)
    assert good == confirmed
    assert lines[-1] == f"end of the run: {abs(off):.4g} from the mean of 3 seeds, allowed 0.03"


def test_an_end_within_the_seeds_does_not_excuse_the_first_epoch(run: Record) -> None:
    first = run["history"][0]["train_error"] + 0.031
    there = changed(on_another_machine(run), lambda r: r["history"][0].update(train_error=first))
    assert not verify.compare(there, verify.repeat(run, "cpu"), [there] * 3)[0]


def test_with_fewer_than_three_seeds_the_end_is_not_compared_and_this_is_said(run: Record) -> None:
    seeds = seeds_ending_at(run, [0.0, 0.01])
    good, lines = verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), seeds)
    assert (good, lines[-1]) == (True, "the end is not compared: 2 seeds have no known spread")


def test_the_end_of_a_run_with_a_target_is_its_crossing(run: Record) -> None:
    def aim(r: Record) -> None:
        r["recipe"]["target_error"] = 0.25
        r["history"] = [dict(r["history"][0], train_error=error) for error in (0.45, 0.35, 0.15)]

    there = changed(on_another_machine(run), aim)
    result = verify.repeat(run, "cpu")
    result.history[:] = [replace(result.history[0], train_error=error) for error in (0.45, 0.27, 0.17)]
    _, lines = verify.compare(there, result, [there] * 3)
    assert lines[-1].startswith("end of the run: 0.3 from the mean of 3 seeds")  # 2.2 against 2.5 epochs


def test_a_run_that_diverged_at_once_can_be_compared_elsewhere(recipe: Recipe, small: Dataset) -> None:
    run = recorded(train(replace(recipe, rate=1e30), small), small)
    assert run["history"] == []
    verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), [])


# --- siblings -----------------------------------------------------------------------------------------------


def test_siblings_differ_in_their_seed_alone(run: Record) -> None:
    sibling = changed(run, lambda r: r["recipe"].update(seed=1))
    faster = changed(run, lambda r: r["recipe"].update(rate=0.5))
    assert verify.siblings(run, [run, sibling, faster]) == [run, sibling]


@pytest.mark.parametrize("outcome", ["abandoned: no", "diverged: no"])
def test_a_run_that_did_not_end_well_is_no_sibling(run: Record, outcome: str) -> None:
    assert verify.siblings(run, [run, {**run, "outcome": outcome}]) == [run]


def test_siblings_with_older_records_that_lack_newer_fields(run: Record) -> None:
    older = {name: value for name, value in run["recipe"].items() if name != "warmup"}
    sibling = {**run, "recipe": {**older, "seed": 1}}
    assert verify.siblings(run, [run, sibling]) == [run, sibling]
