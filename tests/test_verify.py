"""A repeated run is held against its record: bit for bit where that is fair, within tolerances elsewhere."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from studies import without_times

from alexnet_lib import records, verify
from alexnet_lib.dataset import Dataset
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


def ending_at(run: Record, ends: Sequence[float], rate: float = 0.5) -> list[Record]:
    """Return records of another arm, a seed for each of the last test errors ``ends``."""

    def with_end(number: int, end: float) -> Record:
        def change(r: Record) -> None:
            r["recipe"].update(seed=number, rate=rate)
            r["history"][-1].update(test_error=end)

        return changed(run, change)

    return [with_end(number, end) for number, end in enumerate(ends)]


# --- repeat -------------------------------------------------------------------------------------------------


def test_a_repeated_run_has_the_record_s_numbers_bit_for_bit(run: Record) -> None:
    again = verify.repeat(run, "cpu")
    assert without_times(again["history"]) == without_times(run["history"])
    same = ("id", "experiment", "arm", "scale", "seed", "recipe", "data", "outcome", "scores")
    assert {key: again[key] for key in same} == {key: run[key] for key in same}


def test_a_run_that_was_abandoned_is_repeated_as_far_as_it_went(recipe: Recipe, small: Dataset) -> None:
    why = "abandoned: a test's"
    run = recorded(train(recipe, small, abandon=lambda past: why if len(past) == 2 else None), small)
    again = verify.repeat(run, "cpu")
    assert (len(again["history"]), again["outcome"]) == (2, why)


def test_a_run_that_diverged_is_repeated_until_it_diverges_again(recipe: Recipe, small: Dataset) -> None:
    run = recorded(train(replace(recipe, rate=1e30), small), small)
    assert run["outcome"].startswith("diverged")
    invented = changed(run, lambda r: r.update(outcome="diverged: loss not finite in epoch 0, step 77, rate 1e+30"))
    assert verify.repeat(invented, "cpu")["outcome"] == run["outcome"]


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
    assert "recorded" in lines[1]


def test_the_first_difference_is_shown(run: Record) -> None:
    wrong = changed(run, lambda r: r["history"][1].update(loss=1.25))
    _, lines = verify.compare(wrong, verify.repeat(run, "cpu"), [run])
    assert "recorded {'epoch': 1, 'loss': 1.25" in lines[1]


def test_other_times_are_no_difference(run: Record) -> None:
    slow = changed(run, lambda r: [epoch.update(seconds=9e9) for epoch in r["history"]])
    assert verify.compare(slow, verify.repeat(run, "cpu"), [run])[0]


# --- resumed on another machine -----------------------------------------------------------------------------


def lasting(run: Record, clock: float) -> None:
    """Let a record be of before machines were kept, of a run that trained for 100 s and took as long by the clock."""
    run["provenance"].pop("machines")
    run["provenance"].update(
        begun="2026-11-20T00:00:00+00:00", ended=f"2026-11-20T00:{int(clock) // 60:02}:{int(clock) % 60:02}+00:00"
    )
    run["cost"]["train_seconds"] = 100.0


@pytest.mark.parametrize(
    ("change", "elsewhere"),
    [
        (lambda r: r["provenance"].update(machines=["one", "another"]), True),
        (lambda r: r["provenance"].update(machines=["one"]), False),
        (lambda r: lasting(r, 50), True),
        (lambda r: lasting(r, 130), False),
    ],
    ids=["two machines", "one", "clock too short", "clock long enough"],
)
def test_a_run_that_went_on_on_another_machine_is_compared_within_tolerances(
    run: Record, change: Change, elsewhere: bool
) -> None:
    def last_bit(r: Record) -> None:
        change(r)
        r["history"][1].update(loss=math.nextafter(r["history"][1]["loss"], math.inf))

    good, lines = verify.compare(changed(run, last_bit), verify.repeat(run, "cpu"), [run])
    assert (good, "machine for a part of the recorded run" in lines[0]) == (elsewhere, elsewhere)


def test_a_resumed_run_that_is_equal_all_the_same_is_told_as_equal(run: Record) -> None:
    there = changed(run, lambda r: r["provenance"].update(machines=["one", "another"]))
    good, lines = verify.compare(there, verify.repeat(run, "cpu"), [run])
    assert (good, lines[-1]) == (True, "equal")


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


@pytest.mark.parametrize(("off", "confirmed"), [(0.0049, True), (-0.0049, True), (0.0051, False), (-0.0051, False)])
def test_the_first_epoch_may_be_half_a_point_off_elsewhere(run: Record, off: float, confirmed: bool) -> None:
    first = run["history"][0]["train_error"] + off
    there = changed(on_another_machine(run), lambda r: r["history"][0].update(train_error=first))
    good, lines = verify.compare(there, verify.repeat(run, "cpu"), [])
    assert good == confirmed
    assert f"off by {100 * abs(off):.2f} points, allowed 0.5" in lines[1]


@pytest.mark.parametrize(
    ("provenance", "net", "allowed"),
    [
        ({"device": "a GPU"}, "alexnet32", 3),
        ({"split": "2 processes"}, "alexnet32", 3),
        ({"device": "a GPU"}, "alexnet32-no-dropout", 0.5),
        ({"cpu": "another"}, "alexnet32", 0.5),
    ],
)
def test_the_first_epoch_may_be_three_points_off_where_other_units_were_dropped(
    run: Record, provenance: dict[str, str], net: str, allowed: float
) -> None:
    there = changed(run, lambda r: (r["provenance"].update(provenance), r["recipe"].update(net=net)))
    _, lines = verify.compare(there, verify.repeat(run, "cpu"), [])
    assert lines[1].endswith(f"allowed {allowed}")


# t of 99 % with 2 degrees of freedom, 9.925 in any table, times a deviation of 0.01 and the square root of 2
@pytest.mark.parametrize(("off", "confirmed"), [(0.1403, True), (-0.1403, True), (0.1404, False), (-0.1404, False)])
def test_the_end_may_be_as_far_off_elsewhere_as_two_seeds_of_one_arm(
    run: Record, off: float, confirmed: bool
) -> None:
    there = changed(
        on_another_machine(run), lambda r: r["history"][-1].update(test_error=run["history"][-1]["test_error"] + off)
    )
    good, lines = verify.compare(there, verify.repeat(run, "cpu"), ending_at(run, [0.29, 0.30, 0.31]))
    assert good == confirmed
    assert lines[-1] == f"end of the run: off by {100 * abs(off):.2f} points of test error, allowed 14.04"


def test_the_spread_of_all_arms_is_pooled_and_their_levels_don_t_matter(run: Record) -> None:
    others = [*ending_at(run, [0.29, 0.30, 0.31]), *ending_at(run, [0.62, 0.60, 0.61], rate=0.25)]
    _, lines = verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), others)
    assert lines[-1].endswith("allowed 6.51")  # 4.604 with 4 degrees of freedom, times 0.01 and the root of 2


def test_of_sound_runs_one_in_a_hundred_is_not_confirmed_elsewhere(run: Record) -> None:
    drawn = np.random.default_rng(0).normal(0.3, 0.01, (300, 5))
    again, there = verify.repeat(run, "cpu"), on_another_machine(run)
    refused = 0
    for *ends, end, recorded_end in drawn:
        again["history"][-1]["test_error"] = end
        there["history"][-1]["test_error"] = recorded_end
        refused += not verify.compare(there, again, ending_at(run, ends))[0]
    assert 1 <= refused <= 8  # three are expected


def test_an_end_as_recorded_does_not_excuse_the_first_epoch(run: Record) -> None:
    first = run["history"][0]["train_error"] + 0.0051
    there = changed(on_another_machine(run), lambda r: r["history"][0].update(train_error=first))
    assert not verify.compare(there, verify.repeat(run, "cpu"), ending_at(run, [0.1, 0.9]))[0]


def test_without_an_arm_of_two_seeds_the_end_is_not_compared_and_this_is_said(run: Record) -> None:
    good, lines = verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), ending_at(run, [0.0]))
    assert (good, lines[-1].split(":")[0]) == (True, "the end is not compared")


def test_the_end_of_a_run_with_a_target_is_its_crossing(run: Record) -> None:
    def aim(r: Record) -> None:
        r["recipe"]["target_error"] = 0.25
        r["history"] = [dict(r["history"][0], train_error=error) for error in (0.45, 0.35, 0.15)]

    there = changed(on_another_machine(run), aim)
    again = verify.repeat(run, "cpu")
    again["history"] = [dict(again["history"][0], train_error=error) for error in (0.45, 0.27, 0.17)]
    others = [{**there, "recipe": there["recipe"] | {"seed": seed}} for seed in (1, 2)]
    _, lines = verify.compare(there, again, others)
    off = 100 * math.log(2.5 / 2.2)
    assert lines[-1] == f"end of the run: off by {off:.2f} per cent of the epochs to the target, allowed 0.00"


def test_the_end_is_not_compared_where_neither_run_came_down_to_its_target(run: Record) -> None:
    def aim(r: Record) -> None:
        r["recipe"]["target_error"] = 0.01
        r["history"] = [dict(r["history"][0], train_error=error) for error in (0.45, 0.35, 0.15)]

    there = changed(on_another_machine(run), aim)
    again = changed(there, lambda r: r["history"][-1].update(train_error=0.4))
    again["provenance"]["cpu_capability"] = run["provenance"]["cpu_capability"]
    good, lines = verify.compare(there, again, [])
    assert (good, lines[-1]) == (True, "the end is not compared: neither run came down to its target")


@pytest.mark.parametrize("outcome", ["diverged: loss not finite in epoch 2, step 0, rate 0.05", "abandoned: no"])
def test_a_run_that_ended_in_another_way_elsewhere_is_not_confirmed(run: Record, outcome: str) -> None:
    good, lines = verify.compare(on_another_machine(run), {**run, "outcome": outcome}, [])
    assert (good, lines[-1].split(":")[0]) == (False, "ended in another way")


def test_a_run_that_diverged_at_once_can_be_compared_elsewhere(recipe: Recipe, small: Dataset) -> None:
    run = recorded(train(replace(recipe, rate=1e30), small), small)
    assert run["history"] == []
    verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), [])


def test_a_run_that_reached_its_target_is_repeated_until_it_does_again(recipe: Recipe, small: Dataset) -> None:
    aim = replace(recipe, target_error=0.65, epochs=8)
    run = recorded(train(aim, small), small)
    assert 1 < len(run["history"]) < 8
    elsewhere = changed(run, lambda r: r["history"].pop())  # there it got to the target an epoch sooner
    assert len(verify.repeat(elsewhere, "cpu")["history"]) == len(run["history"])


def test_epochs_before_the_first_are_compared_too(recipe: Recipe, small: Dataset) -> None:
    run = recorded(train(replace(recipe, pretrain=1), small), small)
    again = verify.repeat(run, "cpu")
    assert verify.compare(run, again, [])[0]
    assert not verify.compare(changed(run, lambda r: r["pretraining"][0].update(loss=99.0)), again, [])[0]


# --- like ---------------------------------------------------------------------------------------------------


def test_runs_tell_how_far_seeds_differ_if_they_have_data_epochs_and_target_in_common(run: Record) -> None:
    seed, rate, longer, target, other = (
        {**run, "id": f"{number}", "recipe": run["recipe"] | change}
        for number, change in enumerate(
            ({"seed": 1}, {"rate": 0.5}, {"epochs": 99}, {"target_error": 0.1}, {"data": "synthetic:seed=9"})
        )
    )
    assert verify.like(run, [run, seed, rate, longer, target, other]) == [seed, rate]


@pytest.mark.parametrize("outcome", ["abandoned: no", "diverged: no"])
def test_a_run_that_did_not_end_well_tells_nothing(run: Record, outcome: str) -> None:
    assert verify.like(run, [{**run, "id": "other", "outcome": outcome}]) == []


def test_older_records_that_lack_newer_fields_are_of_the_same_arm(run: Record) -> None:
    older = {name: value for name, value in run["recipe"].items() if name != "warmup"}
    others = [run, {**run, "recipe": {**older, "seed": 1}}]
    good, lines = verify.compare(on_another_machine(run), verify.repeat(run, "cpu"), others)
    assert (good, lines[-1]) == (True, "end of the run: off by 0.00 points of test error, allowed 0.00")


# --- records trained again ----------------------------------------------------------------------------------


def test_methods_tells_what_the_first_rule_said_of_the_record_that_it_refused() -> None:
    recorded_runs = records.read(records.PUBLISHED)
    (again,) = (
        run for run in records.read(records.PROJECT / "data" / "verified") if run["id"].startswith("87316070")
    )
    mine = replace(Recipe.parse(again["recipe"]), seed=0)
    arm = [run for run in recorded_runs if replace(Recipe.parse(run["recipe"]), seed=0) == mine]
    ends = [run["history"][-1]["test_error"] for run in arm]
    off, allowed = abs(again["history"][-1]["test_error"] - np.mean(ends)), 3 * np.std(ends, ddof=1)
    said = f"87316070 was not, {100 * off:.2f} points from the mean of its arm where {100 * allowed:.2f} were allowed"
    assert said in " ".join((records.PROJECT / "book" / "methods.md").read_text().split())
