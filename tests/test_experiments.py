"""Rates are searched by the rule, missing runs are done once, killed ones go on where they stopped."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from studies import (
    ARMS,
    TINY,
    add_experiment,
    falling,
    figure1,
    history,
    move_in,
    pretend,
    record,
    without_times,
    write,
)
from torch import nn

from alexnet_lib import experiments, layers, models, records
from alexnet_lib import train as training
from alexnet_lib.experiments import Arm, Session, abandon, crossing, pending, results, search, study
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record

RELU, TANH = ARMS
TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    move_in(monkeypatch, tmp_path)
    add_experiment(monkeypatch)


@pytest.fixture
def quiet(tmp_path: Path) -> Session:
    return Session(folder=tmp_path / "runs", quiet=True)


def do(session: Session) -> list[Record]:
    with ThreadPoolExecutor(1) as executor:
        return list(experiments.run(["tiny"], "smoke", session, executor))


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


def test_a_rival_that_missed_the_target_ends_no_run() -> None:
    assert abandon(history([0.9] * 8), [record(RELU, [0.3, 0.26])]) is None


def test_the_fastest_rival_counts() -> None:
    rivals = [record(RELU, falling(7.5), rate=0.005), record(RELU, falling(4.5), rate=0.02)]
    assert abandon(history([0.9] * 8), rivals) == "abandoned: rate 0.02 reached the target in 4.50 epochs"


# --- what is missing ----------------------------------------------------------------------------------------


def runs_of(*parts: tuple[Arm, dict[float, float]]) -> list[Record]:
    """Return seed-0 records: by arm, the epochs to the target at every rate."""
    return [record(arm, falling(n), rate=rate) for arm, epochs in parts for rate, n in epochs.items()]


GRID = {0.01: 3.0, 0.02: 4.0, 0.005: 5.0}


def test_at_first_only_the_searches_are_pending(tmp_path: Path) -> None:
    tasks = pending("tiny", "smoke", tmp_path)
    assert [(task.arm, task.recipe.rate, task.recipe.seed, task.search) for task in tasks] == [
        (arm.name, rate, 0, True) for arm in ARMS for rate in arm.rates
    ]


def test_a_search_that_has_not_ended_holds_back_its_own_arm_s_seeds_alone(tmp_path: Path) -> None:
    write(tmp_path, runs_of((RELU, GRID), (TANH, {0.01: 3.0})))
    tasks = pending("tiny", "smoke", tmp_path)
    assert {(t.arm, t.recipe.seed, t.search) for t in tasks} == {
        ("tanh-tiny", 0, True),
        ("relu-tiny", 1, False),
    }


def test_the_seeds_take_the_chosen_rate(tmp_path: Path) -> None:
    write(tmp_path, runs_of((RELU, {0.005: 4.0, 0.01: 5.0, 0.02: 3.0, 0.04: 6.0}), (TANH, GRID)))
    assert [(task.arm, task.recipe.rate) for task in pending("tiny", "smoke", tmp_path)] == [
        ("relu-tiny", 0.02),
        ("tanh-tiny", 0.01),
    ]


def test_main_arms_come_first_then_searches_then_low_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    side = replace(RELU, name="side", recipe=replace(TINY, net="cifar-26pct"), priority=1)
    searching = replace(RELU, name="searching", recipe=replace(TINY, init="file"), priority=0)
    add_experiment(monkeypatch, [side, *(replace(arm, seeds=3) for arm in ARMS), searching])
    write(tmp_path, runs_of((RELU, GRID), (TANH, GRID)))
    assert [(task.arm, task.recipe.seed) for task in pending("tiny", "smoke", tmp_path)] == [
        *[("searching", 0)] * 3,
        ("relu-tiny", 1),
        ("tanh-tiny", 1),
        ("relu-tiny", 2),
        ("tanh-tiny", 2),
        *[("side", 0)] * 3,
    ]


def test_a_side_arm_s_first_seed_comes_after_a_main_arm_s_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    side = replace(RELU, name="side", recipe=replace(TINY, net="cifar-26pct"), priority=1, seeds=2)
    add_experiment(monkeypatch, [side, replace(RELU, seeds=3)])
    write(tmp_path, runs_of((side, GRID), (RELU, GRID)))
    assert [(task.arm, task.recipe.seed) for task in pending("tiny", "smoke", tmp_path)] == [
        ("relu-tiny", 1),
        ("relu-tiny", 2),
        ("side", 1),
    ]


def test_nothing_is_pending_once_all_is_recorded(tmp_path: Path) -> None:
    seeds = [record(arm, falling(3), seed=1) for arm in ARMS]
    write(tmp_path, [*runs_of((RELU, GRID), (TANH, GRID)), *seeds])
    assert pending("tiny", "smoke", tmp_path) == []


def test_a_record_of_another_scale_replaces_no_run(tmp_path: Path) -> None:
    write(tmp_path, [{**run, "scale": "gpu"} for run in runs_of((RELU, GRID), (TANH, GRID))])
    assert len(pending("tiny", "smoke", tmp_path)) == 6


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


# --- doing it -----------------------------------------------------------------------------------------------


def by_rate(recipe: Recipe) -> list[float]:
    """Return training errors that are fastest at 0.02, so that the grid grows once."""
    return falling({0.005: 6.0, 0.01: 5.0, 0.02: 3.0, 0.04: 4.0}[recipe.rate] + recipe.seed)


def test_a_session_records_every_run_once(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    do(quiet)
    lines = (quiet.folder / "tiny.jsonl").read_text().splitlines()
    assert sorted((r["arm"], r["recipe"]["rate"], r["seed"]) for r in map(json.loads, lines)) == sorted(
        (arm.name, rate, seed)
        for arm in ARMS
        for rate, seed in [(0.005, 0), (0.01, 0), (0.02, 0), (0.04, 0), (0.02, 1)]
    )


def test_a_session_yields_what_it_records(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    assert do(quiet) == records.read(quiet.folder)


def test_a_second_session_does_nothing(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    do(quiet)
    before = (quiet.folder / "tiny.jsonl").read_bytes()
    assert (do(quiet), (quiet.folder / "tiny.jsonl").read_bytes()) == ([], before)


def test_a_session_goes_on_from_partial_records(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    write(quiet.folder, [record(RELU, by_rate(replace(TINY, rate=rate)), rate=rate) for rate in (0.01, 0.02)])
    assert len(do(quiet)) == 8


def test_search_runs_are_abandoned_for_the_rivals_recorded_meanwhile(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    ended = {run["recipe"]["rate"]: run["outcome"] for run in do(quiet) if run["arm"] == "relu-tiny"}
    assert ended[0.005] == "abandoned: rate 0.02 reached the target in 3.00 epochs"


def test_a_seed_s_run_is_never_abandoned(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(lambda recipe: falling(30) if recipe.seed else by_rate(recipe)))
    assert [run["outcome"] for run in do(quiet) if run["seed"] == 1] == ["completed", "completed"]


def test_two_runs_side_by_side_are_two_different_ones(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(experiments, "train", pretend(by_rate))
    with ThreadPoolExecutor(3) as executor:
        done = list(experiments.run(["tiny"], "smoke", quiet, executor, 3))
    assert len(done) == len({run["id"] for run in done}) == 10


def test_a_run_that_fails_ends_the_session_but_no_run_in_flight(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    def errors(recipe: Recipe) -> list[float]:
        if recipe.rate == 0.01:
            raise StudyError("no such luck")
        return by_rate(recipe)

    monkeypatch.setattr(experiments, "train", pretend(errors))
    with ThreadPoolExecutor(2) as executor, pytest.raises(StudyError, match="no such luck"):
        list(experiments.run(["tiny"], "smoke", quiet, executor, 2))
    assert [run["recipe"]["rate"] for run in records.read(quiet.folder)] == [0.02]


def test_epochs_are_printed_unless_the_session_is_quiet(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments, "train", pretend(lambda recipe: [0.9]))
    task = pending("tiny", "smoke", quiet.folder)[0]
    experiments.perform(task, quiet)
    silent = capsys.readouterr().out
    experiments.perform(task, replace(quiet, quiet=False))
    assert (silent, capsys.readouterr().out.count("relu-tiny rate 0.01 seed 0")) == ("", 1)


# --- real runs: interrupted, resumed, in another process ----------------------------------------------------

ONE = Arm(name="relu-one", recipe=TINY, seeds=1, rates=(0.01,))

KILLED = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import studies, test_experiments
from alexnet_lib import experiments

def die_in_the_second_epoch(label, epoch):
    if epoch.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return label

experiments.epoch_line = die_in_the_second_epoch
experiments.EXPERIMENTS["tiny"] = experiments.Experiment("tiny", "", lambda scale: (test_experiments.ONE,))
with ThreadPoolExecutor(1) as executor:
    list(experiments.run(["tiny"], "smoke", experiments.Session(folder=Path(sys.argv[1])), executor))
"""


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> None:
    add_experiment(monkeypatch, [ONE])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Record:
    home = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        move_in(patch, home)
        add_experiment(patch, [ONE])
        (run,) = do(Session(folder=home / "runs", quiet=True))
    return run


@pytest.fixture
def epochs_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the epochs that are trained from here on."""
    counted: list[int] = []
    epoch: Callable[[training.Trainer], None] = training.Trainer.epoch

    def count(trainer: training.Trainer) -> None:
        counted.append(len(trainer.history))
        epoch(trainer)

    monkeypatch.setattr(training.Trainer, "epoch", count)
    return counted


def outcome_of(run: Record) -> tuple[Any, ...]:
    return run["id"], run["outcome"], without_times(run["history"]), run["scores"]


@pytest.mark.usefixtures("one")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_goes_on_from_its_checkpoint_to_the_numbers_of_an_uninterrupted_one(
    quiet: Session, uninterrupted: Record, epochs_trained: list[int]
) -> None:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(quiet.folder)], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert records.read(quiet.folder) == []
    (again,) = do(quiet)
    assert epochs_trained == [2], "the first two epochs are in the checkpoint"
    assert outcome_of(again) == outcome_of(uninterrupted)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, quiet: Session, epochs_trained: list[int]) -> Session:
    """Return a session whose time is up once one epoch is trained."""
    clock = SimpleNamespace(time=lambda: 2e6 if epochs_trained else 0.0)
    monkeypatch.setattr(experiments, "time", clock)
    return replace(quiet, deadline=1e6)


@pytest.mark.usefixtures("one")
def test_a_session_out_of_time_keeps_the_checkpoint_and_records_nothing(tmp_path: Path, brief: Session) -> None:
    assert do(brief) == []
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{TINY.id}.pt"]


@pytest.mark.usefixtures("one")
def test_a_run_stopped_for_time_ends_like_an_uninterrupted_one(
    brief: Session, uninterrupted: Record, epochs_trained: list[int]
) -> None:
    do(brief)
    (again,) = do(replace(brief, deadline=None))
    assert epochs_trained == [0, 1, 2]
    assert outcome_of(again) == outcome_of(uninterrupted)


def test_a_session_out_of_time_starts_no_other_run(brief: Session, epochs_trained: list[int]) -> None:
    do(brief)
    assert epochs_trained == [0]


def test_a_session_whose_time_was_up_before_it_began_trains_nothing(
    quiet: Session, epochs_trained: list[int]
) -> None:
    do(replace(quiet, deadline=0.0))
    assert epochs_trained == []


def test_a_run_that_waited_in_the_queue_until_its_time_was_up_is_not_begun(
    quiet: Session, epochs_trained: list[int]
) -> None:
    task = pending("tiny", "smoke", quiet.folder)[0]
    assert experiments.perform(task, replace(quiet, deadline=0.0)) is None
    assert epochs_trained == []


@pytest.mark.usefixtures("one")
def test_a_recorded_run_leaves_no_checkpoint(tmp_path: Path, quiet: Session) -> None:
    do(quiet)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("one")
def test_a_record_that_can_not_be_written_keeps_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: Session
) -> None:
    def full(run: Record, folder: Path | None) -> None:
        raise StudyError("no space left")

    monkeypatch.setattr(records, "append", full)
    with pytest.raises(StudyError, match="no space left"):
        do(quiet)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{TINY.id}.pt"]


@pytest.mark.usefixtures("one")
def test_a_worker_process_computes_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, uninterrupted: Record
) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "")  # so that what workers() sets is taken back after the test
        monkeypatch.delenv(name)
    with experiments.workers("cpu", 1) as executor:
        (run,) = experiments.run(["tiny"], "smoke", quiet, executor)
    assert outcome_of(run) == outcome_of(uninterrupted)


def test_runs_on_a_cpu_have_a_process_each_and_on_a_gpu_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "")
    with experiments.workers("cpu", 2) as many, experiments.workers("cuda", 1) as one:
        kinds = [type(many), type(one)]
    assert kinds == [concurrent.futures.ProcessPoolExecutor, ThreadPoolExecutor]


# --- study: what a notebook calls ---------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend to train, in this process, and list the ids that were."""
    ids: list[str] = []

    def errors(recipe: Recipe) -> list[float]:
        ids.append(recipe.id)
        return by_rate(recipe)

    monkeypatch.setattr(experiments, "train", pretend(errors))
    monkeypatch.setattr(experiments, "workers", lambda device, jobs: ThreadPoolExecutor(1))
    return ids


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_RUNS")


@pytest.mark.usefixtures("at_home")
def test_published_records_are_read_without_training(trained: list[str], tmp_path: Path) -> None:
    write(tmp_path / "data" / "runs", runs_of((RELU, GRID)))
    assert study("tiny", "smoke")["relu-tiny"].epochs_to_target() == pytest.approx({0: 3.0})
    assert trained == []


@pytest.mark.usefixtures("at_home", "trained")
def test_a_scale_without_published_records_is_trained_beside_them(tmp_path: Path) -> None:
    published = write(tmp_path / "data" / "runs", [{**run, "scale": "gpu"} for run in runs_of((RELU, GRID))])
    before = (published / "tiny.jsonl").read_bytes()
    assert len(study("tiny", "smoke")["relu-tiny"].runs) == 2
    assert len(records.read(tmp_path / "build" / "runs")) == 10
    assert (published / "tiny.jsonl").read_bytes() == before


@pytest.mark.usefixtures("at_home", "trained")
def test_retraining_reads_no_published_record(tmp_path: Path) -> None:
    write(tmp_path / "data" / "runs", runs_of((RELU, {rate: 2.0 for rate in GRID})))
    assert study("tiny", "smoke", retrain=True)["relu-tiny"].epochs_to_target() == pytest.approx({0: 3.0, 1: 4.0})
    assert len(records.read(tmp_path / "build" / "runs-retrained")) == 10


@pytest.mark.usefixtures("at_home")
def test_retraining_goes_on_where_it_stopped(trained: list[str]) -> None:
    study("tiny", "smoke", retrain=True)
    first = len(trained)
    study("tiny", "smoke", retrain=True)
    assert (first, len(trained)) == (10, 10)


def test_the_variable_names_the_folder_that_is_read_and_added_to(trained: list[str], tmp_path: Path) -> None:
    write(tmp_path / "data" / "runs", runs_of((RELU, GRID), (TANH, GRID)))
    write(tmp_path / "runs", [record(RELU, falling(5), rate=0.01)])
    study("tiny", "smoke")
    assert (len(trained), len(records.read(tmp_path / "runs"))) == (9, 10)


def test_an_empty_variable_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, trained: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ALEXNET_RUNS", "")
    published = write(tmp_path / "data" / "runs", runs_of((RELU, GRID)))
    before = (published / "tiny.jsonl").read_bytes()
    study("tiny", "smoke")
    assert (trained, (published / "tiny.jsonl").read_bytes()) == ([], before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"scale": "smok"},
            r"unknown scale 'smok': did you mean 'smoke'\? known: gpu, imagenet, laptop, smoke",
        ),
        ({"experiment": "tinny"}, r"unknown experiment 'tinny': did you mean 'tiny'\?"),
        ({"scale": 3}, "parameter 'scale': expected str, got int 3"),
        ({"scale": ["smoke"]}, "parameter 'scale': expected str, got list"),
        ({"retrain": "False"}, "parameter 'retrain': expected bool, got str 'False'"),
        ({"retrain": 1}, "parameter 'retrain': expected bool, got int 1"),
        ({"scale": "imagenet"}, "experiment 'tiny' has no scale 'imagenet'"),
    ],
)
def test_a_wrong_parameter_ends_a_study_before_it_begins(
    trained: list[str], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        study(**{"experiment": "tiny", "scale": "smoke"} | given)
    assert trained == []


# --- Figure 1's arms ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laptop() -> dict[str, Arm]:
    return {arm.name: arm for arm in experiments.arms("relu_vs_tanh", "laptop")}


def settings(arms: dict[str, Arm]) -> list[str]:
    return [name.removeprefix("relu-") for name in arms if name.startswith("relu-")]


def test_every_relu_arm_has_a_tanh_arm_that_differs_in_nothing_but_the_activation(
    laptop: dict[str, Arm],
) -> None:
    pairs = [(laptop[f"relu-{setting}"], laptop[f"tanh-{setting}"]) for setting in settings(laptop)]
    assert len(laptop) == 2 * len(pairs)
    for relu, tanh in pairs:
        assert tanh == replace(relu, name=tanh.name, recipe=replace(relu.recipe, activation="tanh"))


def test_arms_of_one_network_differ_in_activation_inputs_initialisation_and_rate_alone(
    laptop: dict[str, Arm],
) -> None:
    free = dict(net="cifar-19pct", activation="relu", inputs="raw", init="file", rate=1.0)
    assert len({replace(arm.recipe, **free) for arm in laptop.values()}) == 1


def test_inputs_and_initialisation_make_a_whole_factorial(laptop: dict[str, Arm]) -> None:
    cells = [
        (arm.recipe.activation, arm.recipe.inputs, arm.recipe.init)
        for arm in laptop.values()
        if arm.recipe.net == "cifar-19pct"
    ]
    assert sorted(cells) == sorted(itertools.product(("relu", "tanh"), ("raw", "unit"), ("file", "variance")))


def test_the_recipe_of_2012_has_raw_pixels_file_deviations_and_biases_at_twice_the_rate(
    laptop: dict[str, Arm],
) -> None:
    recipe = laptop["relu-2012"].recipe
    assert (recipe.inputs, recipe.init, recipe.bias_rate) == ("raw", "file", 2.0)


def test_another_network_checks_the_reading_of_four_layers(laptop: dict[str, Arm]) -> None:
    assert {arm.recipe.net for arm in laptop.values()} > {"cifar-19pct"}


@pytest.mark.parametrize("name", [arm.name for arm in experiments.arms("relu_vs_tanh", "laptop")])
def test_no_arm_is_regularised(laptop: dict[str, Arm], name: str) -> None:
    recipe = laptop[name].recipe  # P §3.1: "no regularisation of any kind"
    net = models.build(recipe.net, activation=recipe.activation, generator=torch.Generator().manual_seed(0))
    assert not any(isinstance(layer, nn.Dropout) for layer in net.modules())
    assert {group["decay"] for group in training.optimiser(net, recipe).param_groups} == {0.0}
    assert (recipe.crop, recipe.flip) == (0, False)


def test_no_arm_normalises_responses(laptop: dict[str, Arm]) -> None:
    found = [layer for arm in laptop.values() for layer in models.outline(arm.recipe.net).modules()]
    assert not any(isinstance(layer, layers.CrossMapNorm | layers.SameMapNorm) for layer in found)


def test_every_arm_trains_on_cifar10_to_a_quarter_of_errors_or_eighty_epochs(laptop: dict[str, Arm]) -> None:
    assert {(a.recipe.data, a.recipe.target_error) for a in laptop.values()} == {("cifar10", 0.25)}
    assert min(arm.recipe.epochs for arm in laptop.values()) >= 80


@pytest.mark.parametrize(("scale", "seeds"), [("laptop", 5), ("gpu", 20)])
def test_the_main_arms_have_their_seeds(scale: str, seeds: int) -> None:
    arms = {arm.name: arm for arm in experiments.arms("relu_vs_tanh", scale)}
    main = [f"{activation}-{cell}" for activation in ("relu", "tanh") for cell in ("2012", "modern")]
    assert all(arms[name].seeds >= seeds for name in main)


def test_the_main_arms_are_trained_before_the_others(laptop: dict[str, Arm]) -> None:
    first = {name for name, arm in laptop.items() if arm.priority == 0}
    assert first == {"relu-2012", "tanh-2012", "relu-modern", "tanh-modern"}


def test_every_arm_at_the_published_scales_searches_at_least_three_rates() -> None:
    arms = [arm for scale in ("laptop", "gpu") for arm in experiments.arms("relu_vs_tanh", scale)]
    assert all(len(set(arm.rates)) >= 3 for arm in arms)


def test_the_smoke_scale_trains_on_made_up_images_alone() -> None:
    assert {arm.recipe.data.partition(":")[0] for arm in experiments.arms("relu_vs_tanh", "smoke")} == {"synthetic"}


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_scales_for_any_machine_compute_in_float32(scale: str) -> None:
    assert {arm.recipe.precision for arm in experiments.arms("relu_vs_tanh", scale)} == {"float32"}


def test_no_two_runs_of_the_study_share_an_identity() -> None:
    recipes = [
        replace(arm.recipe, rate=rate, seed=seed)
        for scale in experiments.SCALES
        for arm in experiments.arms("relu_vs_tanh", scale)
        for rate in arm.rates
        for seed in range(arm.seeds)
    ]
    assert len({recipe.id for recipe in recipes}) == len(recipes)


def test_figure_1_s_arms_are_read_from_its_records(tmp_path: Path) -> None:
    write(tmp_path, figure1({"relu-2012": [6.5, 7.0], "tanh-2012": [40.0, 100.0]}))
    found = results("relu_vs_tanh", "laptop", tmp_path)
    assert found["relu-2012"].epochs_to_target() == pytest.approx({0: 6.5, 1: 7.0})
    assert found["tanh-2012"].epochs_to_target() == pytest.approx({0: 40.0, 1: 80.0})
    assert found["tanh-2012"].capped() == [1]


# --- where a scale's runs are trained -----------------------------------------------------------------------


def test_a_scale_that_needs_a_gpu_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="scale 'gpu' trains on a GPU, and torch finds none here"):
        experiments.device_for("gpu")


def test_a_gpu_trains_one_run_at_a_time() -> None:
    assert experiments.places_for("cuda") == 1


def test_a_search_goes_down_while_every_rate_diverges() -> None:
    rates = {rate: [0.9] for rate in RELU.rates}
    _, missing = search(RELU, tried(rates, dict.fromkeys(rates, "diverged: loss not finite")))
    assert [recipe.rate for recipe in missing] == [min(RELU.rates) / experiments.GRID_STEP]


def test_a_search_goes_up_while_every_rate_still_guesses() -> None:
    rates = {rate: [0.9] * 20 for rate in RELU.rates}
    _, missing = search(RELU, tried(rates, dict.fromkeys(rates, "abandoned: still above 85 %")))
    assert [recipe.rate for recipe in missing] == [max(RELU.rates) * experiments.GRID_STEP]


def test_runs_recorded_elsewhere_count_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_experiment(monkeypatch, [replace(RELU, rates=(), seeds=2)])
    write(tmp_path / "published", [record(RELU, [0.2], rate=RELU.recipe.rate)])
    left = pending("tiny", "smoke", tmp_path / "own", tmp_path / "published")
    assert [task.recipe.seed for task in left] == [1]


def test_a_worker_whose_parent_was_killed_stops_at_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: Session
) -> None:
    class Gone:
        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(experiments.multiprocessing, "parent_process", Gone)
    task = experiments.Task("tiny", "smoke", "relu-tiny", TINY, search=False)
    assert experiments.perform(task, quiet) is None
    assert (tmp_path / "cache" / f"{TINY.id}.pt").exists()
