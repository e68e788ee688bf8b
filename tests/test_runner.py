"""Missing runs are done once, in the order of their priority; killed ones go on where they stopped."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from studies import (
    ARMS,
    GRID,
    RELU,
    TANH,
    TINY,
    add_experiment,
    falling,
    move_in,
    outcome_of,
    pretend,
    record,
    runs_of,
    write,
)

from alexnet_lib import data, evidence, experiments, machine, models, records, runner
from alexnet_lib import train as training
from alexnet_lib.experiments import Arm
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.runner import Session, Task, pending, study
from alexnet_lib.train import Epoch, Result

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
        return list(runner.run(["tiny"], "smoke", session, executor))


# --- what is missing ----------------------------------------------------------------------------------------


def test_at_first_only_the_searches_are_pending(tmp_path: Path) -> None:
    tasks = pending(["tiny"], "smoke", tmp_path)
    assert [(task.arm, task.recipe.rate, task.recipe.seed, task.search) for task in tasks] == [
        (arm.name, rate, 0, True) for arm in ARMS for rate in arm.rates
    ]


def test_a_search_that_has_not_ended_holds_back_its_own_arm_s_seeds_alone(tmp_path: Path) -> None:
    write(tmp_path, runs_of((RELU, GRID), (TANH, {0.01: 3.0})))
    tasks = pending(["tiny"], "smoke", tmp_path)
    assert {(t.arm, t.recipe.seed, t.search) for t in tasks} == {
        ("tanh-tiny", 0, True),
        ("relu-tiny", 1, False),
    }


def test_the_seeds_take_the_chosen_rate(tmp_path: Path) -> None:
    write(tmp_path, runs_of((RELU, {0.005: 4.0, 0.01: 5.0, 0.02: 3.0, 0.04: 6.0}), (TANH, GRID)))
    assert [(task.arm, task.recipe.rate) for task in pending(["tiny"], "smoke", tmp_path)] == [
        ("relu-tiny", 0.02),
        ("tanh-tiny", 0.01),
    ]


def test_main_arms_come_first_then_searches_then_low_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    side = replace(RELU, name="side", recipe=replace(TINY, net="cifar-26pct"), priority=1)
    searching = replace(RELU, name="searching", recipe=replace(TINY, init="file"), priority=0)
    add_experiment(monkeypatch, [side, *(replace(arm, seeds=3) for arm in ARMS), searching])
    write(tmp_path, runs_of((RELU, GRID), (TANH, GRID)))
    assert [(task.arm, task.recipe.seed) for task in pending(["tiny"], "smoke", tmp_path)] == [
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
    assert [(task.arm, task.recipe.seed) for task in pending(["tiny"], "smoke", tmp_path)] == [
        ("relu-tiny", 1),
        ("relu-tiny", 2),
        ("side", 1),
    ]


def test_nothing_is_pending_once_all_is_recorded(tmp_path: Path) -> None:
    seeds = [record(arm, falling(3), seed=1) for arm in ARMS]
    write(tmp_path, [*runs_of((RELU, GRID), (TANH, GRID)), *seeds])
    assert pending(["tiny"], "smoke", tmp_path) == []


def test_a_record_of_another_scale_replaces_no_run(tmp_path: Path) -> None:
    write(tmp_path, [{**run, "scale": "gpu"} for run in runs_of((RELU, GRID), (TANH, GRID))])
    assert len(pending(["tiny"], "smoke", tmp_path)) == 6


# --- runs that several experiments share --------------------------------------------------------------------

BASE = Arm(name="base", recipe=TINY, seeds=2)
OTHER = Arm(name="changed", recipe=replace(TINY, flip=True), seeds=2)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two experiments that share their first arm, and ask for three and two of its runs."""
    add_experiment(monkeypatch, [replace(BASE, seeds=3)], "first")
    add_experiment(monkeypatch, [BASE, OTHER], "second")
    return ["first", "second"]


def test_a_run_that_experiments_share_is_pending_once(shared: list[str], tmp_path: Path) -> None:
    ids = [task.recipe.id for task in pending(shared, "smoke", tmp_path)]
    assert len(ids) == len(set(ids)) == 5


def test_the_first_seed_of_everything_comes_before_the_second_of_anything(shared: list[str], tmp_path: Path) -> None:
    tasks = pending(shared, "smoke", tmp_path)
    assert [(task.arm, task.recipe.seed) for task in tasks[:2]] == [("base", 0), ("changed", 0)]


@pytest.mark.parametrize("cheap", ["first", "second"])
def test_then_the_experiment_whose_verdict_costs_least_gets_all_its_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cheap: str
) -> None:
    for name in ("first", "second"):
        base, changed = (replace(recipe, epochs=3 if name == cheap else 30) for recipe in (TINY, OTHER.recipe))
        arms = [Arm(name="base", recipe=base, seeds=3), Arm(name="changed", recipe=changed, seeds=3)]
        add_experiment(monkeypatch, arms, name)
    write(tmp_path, [record(RELU, [0.9])])  # tells the seconds of an epoch
    order = [(task.experiment, task.recipe.seed) for task in pending(["first", "second"], "smoke", tmp_path)]
    dear = {"first": "second", "second": "first"}[cheap]
    assert sorted(order[:3]) == sorted(item for item in order if item[1] == 0)
    assert order[3:] == [(name, seed) for name in (cheap, dear) for seed in (1, 1, 2, 2)]


def test_runs_beyond_an_experiment_s_pairs_come_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_experiment(monkeypatch, [replace(BASE, seeds=4), OTHER])
    assert [(task.arm, task.recipe.seed) for task in pending(["tiny"], "smoke", tmp_path)] == [
        *[("base", 0), ("changed", 0), ("base", 1), ("changed", 1)],
        *[("base", 2), ("base", 3)],
    ]


def test_a_shared_run_belongs_to_the_experiment_that_wants_it_first(shared: list[str], tmp_path: Path) -> None:
    tasks = pending(shared[::-1], "smoke", tmp_path)
    assert {task.recipe.seed: task.experiment for task in tasks if task.arm == "base"} == {
        0: "second",
        1: "second",
        2: "first",
    }


def test_a_run_that_another_experiment_recorded_is_not_pending(shared: list[str], tmp_path: Path) -> None:
    done = record(runner.Task("second", "smoke", "base", TINY, False), falling(3))
    write(tmp_path, [done])
    assert [task.recipe.seed for task in pending(["first"], "smoke", tmp_path)] == [1, 2]


def test_arms_of_low_priority_number_come_before_the_others_of_all_experiments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_experiment(monkeypatch, [replace(OTHER, priority=2), replace(BASE, priority=1)], "first")
    add_experiment(monkeypatch, [replace(BASE, name="main", recipe=replace(TINY, net="cifar-26pct"))], "second")
    tasks = pending(["first", "second"], "smoke", tmp_path)
    assert [task.arm for task in tasks] == ["main", "main", "base", "base", "changed", "changed"]


def test_a_shared_run_is_as_urgent_as_in_the_experiment_that_wants_it_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_experiment(monkeypatch, [BASE, replace(OTHER, priority=1)], "first")
    add_experiment(monkeypatch, [replace(BASE, priority=2)], "second")
    tasks = pending(["first", "second"], "smoke", tmp_path)
    assert [task.arm for task in tasks] == ["base", "base", "changed", "changed"]


def test_a_session_trains_a_shared_run_once(
    shared: list[str], monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: falling(3)))
    with ThreadPoolExecutor(2) as executor:
        done = list(runner.run(shared, "smoke", quiet, executor, 2))
    assert len(done) == len({run["id"] for run in done}) == 5


def test_every_experiment_has_the_runs_that_it_shares(
    shared: list[str], monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: falling(3)))
    with ThreadPoolExecutor(1) as executor:
        list(runner.run(shared, "smoke", quiet, executor))
    found = [evidence.results(name, "smoke", quiet.folder)["base"].runs.keys() for name in shared]
    assert found == [{0, 1, 2}, {0, 1}]


def test_runs_recorded_elsewhere_count_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_experiment(monkeypatch, [replace(RELU, rates=(), seeds=2)])
    write(tmp_path / "published", [record(RELU, [0.2], rate=RELU.recipe.rate)])
    left = pending(["tiny"], "smoke", tmp_path / "own", tmp_path / "published")
    assert [task.recipe.seed for task in left] == [1]


# --- doing it -----------------------------------------------------------------------------------------------


def by_rate(recipe: Recipe) -> list[float]:
    """Return training errors that are fastest at 0.02, so that the grid grows once."""
    return falling({0.005: 6.0, 0.01: 5.0, 0.02: 3.0, 0.04: 4.0}[recipe.rate] + recipe.seed)


def test_a_session_records_every_run_once(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    do(quiet)
    lines = (quiet.folder / "tiny.jsonl").read_text().splitlines()
    assert sorted((r["arm"], r["recipe"]["rate"], r["seed"]) for r in map(json.loads, lines)) == sorted(
        (arm.name, rate, seed)
        for arm in ARMS
        for rate, seed in [(0.005, 0), (0.01, 0), (0.02, 0), (0.04, 0), (0.02, 1)]
    )


def test_a_session_yields_what_it_records(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    assert do(quiet) == records.read(quiet.folder)


def test_a_second_session_does_nothing(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    do(quiet)
    before = (quiet.folder / "tiny.jsonl").read_bytes()
    assert (do(quiet), (quiet.folder / "tiny.jsonl").read_bytes()) == ([], before)


def test_a_session_goes_on_from_partial_records(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    write(quiet.folder, [record(RELU, by_rate(replace(TINY, rate=rate)), rate=rate) for rate in (0.01, 0.02)])
    assert len(do(quiet)) == 8


def test_search_runs_are_abandoned_for_the_rivals_recorded_meanwhile(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    ended = {run["recipe"]["rate"]: run["outcome"] for run in do(quiet) if run["arm"] == "relu-tiny"}
    assert ended[0.005] == "abandoned: rate 0.02 reached the target in 3.00 epochs"


def test_a_seed_s_run_is_never_abandoned(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: falling(30) if recipe.seed else by_rate(recipe)))
    assert [run["outcome"] for run in do(quiet) if run["seed"] == 1] == ["completed", "completed"]


def test_two_runs_side_by_side_are_two_different_ones(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    with ThreadPoolExecutor(3) as executor:
        done = list(runner.run(["tiny"], "smoke", quiet, executor, 3))
    assert len(done) == len({run["id"] for run in done}) == 10


def test_a_run_in_a_precision_that_the_machine_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Arm(name="other", recipe=replace(TINY, precision="tf32"), seeds=1)
    add_experiment(monkeypatch, [other, ONE])
    assert [run["arm"] for run in do(quiet)] == [ONE.name]
    assert capsys.readouterr().out == (
        "other rate 0.01 seed 0: left out, precision 'tf32' needs a CUDA device: take 'float32' here\n"
    )


def test_a_machine_that_can_do_no_run_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    add_experiment(monkeypatch, [Arm(name="other", recipe=replace(TINY, precision="tf32"), seeds=1)])
    with pytest.raises(StudyError, match=r"no run of scale 'smoke' can be done here: .*needs a CUDA device"):
        do(quiet)


def test_a_run_that_another_process_is_at_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    hold = (
        "import sys\nfrom pathlib import Path\nfrom alexnet_lib import files\n"
        "with files.try_lock(Path(sys.argv[1])):\n    print(flush=True)\n    input()\n"
    )
    lock = quiet.checkpoint(TINY.id).with_suffix(".lock")
    with subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert TINY.id not in {run["id"] for run in do(quiet)}
        other.kill()
    assert capsys.readouterr().out == "relu-tiny rate 0.01 seed 0: left out, another process is at it\n"
    assert TINY.id in {run["id"] for run in do(quiet)}  # a killed process holds nothing


def test_a_run_is_held_until_its_record_is_written(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    taken: list[bool] = []

    def append(run: Record, *given: Any) -> None:
        with quiet.try_lock(run["id"]) as free:
            taken.append(not free)
        plain(run, *given)

    plain = records.append
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    monkeypatch.setattr(records, "append", append)
    assert taken == [True] * len(do(quiet))
    assert list(quiet.checkpoint(TINY.id).parent.iterdir()) == []


def test_a_run_that_another_process_recorded_meanwhile_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    trained: list[str] = []

    def alone(session: Session, run: str) -> Any:
        if not trained and run == TINY.id:
            write(quiet.folder, [record(RELU, by_rate(TINY))])
        return plain(session, run)

    def errors(recipe: Recipe) -> list[float]:
        trained.append(recipe.id)
        return by_rate(recipe)

    plain = Session.try_lock
    monkeypatch.setattr(Session, "try_lock", alone)
    monkeypatch.setattr(runner, "train", pretend(errors))
    assert len(do(quiet)) == len(trained) == 9
    assert TINY.id not in trained


def test_a_worker_that_is_killed_ends_the_session_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    def killed(*_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(runner, "run", killed)
    with pytest.raises(StudyError, match=r"was killed, .* fewer runs side by side \(--jobs, now 3\)"):
        list(runner.run_here(["tiny"], "smoke", quiet, 3))


class InOrder(ThreadPoolExecutor):
    """Threads whose runs end in the order in which they began."""

    last: concurrent.futures.Future[Any] | None = None

    def submit(self, run: Callable[..., Any], /, *given: Any, **named: Any) -> concurrent.futures.Future[Any]:
        before = self.last

        def after() -> Any:
            try:
                return run(*given, **named)
            finally:
                concurrent.futures.wait([before] if before else [])

        self.last = super().submit(after)
        return self.last


def test_a_run_that_fails_ends_the_session_but_no_run_in_flight(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    def errors(recipe: Recipe) -> list[float]:
        if recipe.rate == 0.01:
            raise StudyError("no such luck")
        return by_rate(recipe)

    monkeypatch.setattr(runner, "train", pretend(errors))
    with InOrder(2) as executor, pytest.raises(StudyError, match="no such luck"):
        list(runner.run(["tiny"], "smoke", quiet, executor, 2))
    assert [run["recipe"]["rate"] for run in records.read(quiet.folder)] == [0.02]


def test_a_record_that_can_not_be_written_loses_no_run_in_flight(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    def append(run: Record, *given: Any) -> None:
        if run["recipe"]["rate"] == 0.01:
            raise StudyError("no space left")
        plain(run, *given)

    plain = records.append
    monkeypatch.setattr(runner, "train", pretend(by_rate))
    monkeypatch.setattr(records, "append", append)
    with InOrder(2) as executor, pytest.raises(StudyError, match="no space left"):
        list(runner.run(["tiny"], "smoke", quiet, executor, 2))
    assert [run["recipe"]["rate"] for run in records.read(quiet.folder)] == [0.02]


def test_epochs_are_printed_unless_the_session_is_quiet(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9]))
    task = pending(["tiny"], "smoke", quiet.folder)[0]
    runner.perform(task, quiet)
    silent = capsys.readouterr().out
    runner.perform(task, replace(quiet, quiet=False))
    assert (silent, capsys.readouterr().out.count("relu-tiny rate 0.01 seed 0")) == ("", 1)


@pytest.mark.parametrize(
    ("number", "printed"), [(-2, "turns  -2"), (-1, "turns  -1"), (0, "epoch   1"), (19, "epoch  20")]
)
def test_a_line_of_progress_tells_training_from_what_precedes_it(number: int, printed: str) -> None:
    epoch = Epoch(number, 2.25, 0.75, 0.5, 0.625, 0.01, 3.0)
    line = runner.epoch_line("half-data rate 0.01 seed 0", epoch)
    assert line == f"{'half-data rate 0.01 seed 0':<40}  {printed}  loss  2.2500  " + (
        "train  75.00 %  after  50.00 %  test  62.50 %      3.0 s"
    )


# --- real runs: interrupted, resumed, in another process ----------------------------------------------------

ONE = Arm(name="relu-one", recipe=TINY, seeds=1, rates=(0.01,))

KILLED = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import studies, test_runner
from alexnet_lib import experiments, runner

def die_in_the_second_epoch(label, epoch):
    if epoch.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return label

runner.epoch_line = die_in_the_second_epoch
experiments.EXPERIMENTS["tiny"] = lambda scale: (test_runner.ONE,)
with ThreadPoolExecutor(1) as executor:
    list(runner.run(["tiny"], "smoke", runner.Session(folder=Path(sys.argv[1])), executor))
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
    epoch: Callable[[training.Trainer], None] = training.Trainer.run_epoch

    def count(trainer: training.Trainer) -> None:
        counted.append(len(trainer.history))
        epoch(trainer)

    monkeypatch.setattr(training.Trainer, "run_epoch", count)
    return counted


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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_workers_end_with_the_process_that_started_them_though_it_is_killed(tmp_path: Path) -> None:
    lines = [
        "import os, pathlib, signal",
        "from alexnet_lib import runner",
        "if __name__ == '__main__':",
        "    pool = runner.workers('cpu', 1)",
        "    refused = pool.submit(runner.attempt, None, runner.Session(version='another')).result()",
        "    assert 'the caller another' in str(refused)",
        "    worker = pool.submit(os.getpid).result()",
        "    pathlib.Path('worker').write_text(str(worker))",
        "    os.kill(os.getpid(), signal.SIGKILL)",
    ]
    (tmp_path / "script.py").write_text("\n".join(lines))
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    killed = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    worker = int((tmp_path / "worker").read_text())
    for _ in range(300):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker is there after 30 seconds")


def alive(process: int) -> bool:
    """Say whether a process is there and no zombie, which it stays in containers where nobody asks how it ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here, or gone since
        return not Path("/proc").is_dir()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, quiet: Session, epochs_trained: list[int]) -> Session:
    """Return a session whose time is up once one epoch is trained."""
    clock = SimpleNamespace(time=lambda: 2e6 if epochs_trained else 0.0)
    monkeypatch.setattr(runner, "time", clock)
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


def test_all_runs_in_flight_when_time_is_up_keep_their_checkpoints_and_end_like_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, brief: Session, uninterrupted: Record
) -> None:
    add_experiment(monkeypatch, [replace(ONE, rates=(), seeds=4)])
    together, epoch = threading.Barrier(3), training.Trainer.run_epoch

    def wait_for_the_others(trainer: training.Trainer) -> None:
        if not trainer.history:
            together.wait(timeout=60)
        epoch(trainer)

    monkeypatch.setattr(training.Trainer, "run_epoch", wait_for_the_others)
    with ThreadPoolExecutor(3) as executor:
        assert list(runner.run(["tiny"], "smoke", brief, executor, 3)) == []
    begun = {replace(TINY, seed=seed).id for seed in range(3)}
    assert {path.stem for path in (tmp_path / "cache").iterdir()} == begun
    monkeypatch.setattr(training.Trainer, "run_epoch", epoch)
    done = {run["seed"]: run for run in do(replace(brief, deadline=None))}
    assert done.keys() == {0, 1, 2, 3}
    assert outcome_of(done[0]) == outcome_of(uninterrupted)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_run_whose_first_epoch_would_end_too_late_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, epochs_trained: list[int]
) -> None:
    write(quiet.folder, [record(RELU, [0.9])])  # an epoch took a second
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: 0.0))
    task = Task("tiny", "smoke", "relu-tiny", replace(TINY, seed=1), search=False)
    assert runner.perform(task, replace(quiet, deadline=0.9)) is None
    assert epochs_trained == []
    assert runner.perform(task, replace(quiet, deadline=1e6)) is not None


def test_a_run_too_long_for_the_time_left_makes_way_for_shorter_ones(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    nets = {"long": "alexnet32", "unknown": "alexnet32-no-lrn", "short": TINY.net}
    arms = [Arm(name=name, recipe=replace(TINY, net=net), seeds=3) for name, net in nets.items()]
    add_experiment(monkeypatch, arms)
    for arm, seconds in ((arms[0], 1000.0), (arms[2], 0.1)):
        done = record(arm, [0.9])
        done["history"][0]["seconds"] = seconds
        write(records.runs_folder(quiet.folder), [done])
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: 0.0))
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9]))
    ended = do(replace(quiet, deadline=40.0))
    assert [(run["arm"], run["seed"]) for run in ended] == [("short", 1), ("short", 2)]


def test_a_run_as_long_as_one_that_was_stopped_for_time_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, tmp_path: Path
) -> None:
    arm, told = Arm(name="alike", recipe=TINY, seeds=3), []
    add_experiment(monkeypatch, [arm])
    done = record(arm, [0.9])
    done["history"][0]["seconds"] = 10.0
    write(records.runs_folder(quiet.folder), [done])
    # Epochs take 13 s with evaluation: after two a third would end at 39, and so would another run's first.
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: 13.0 * len(told)))
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9] * 5))
    assert do(replace(quiet, quiet=False, tell=told.append, deadline=38.0)) == []
    assert len(told) == 2


def test_what_passes_between_epochs_counts_too(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    told: list[str] = []
    # Epochs of a second, then 99 for evaluation and checkpoint: the second would end at 200.
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: 100.0 * len(told)))
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9] * 3))
    session = replace(quiet, quiet=False, tell=told.append, deadline=190.0)
    assert runner.perform(Task("tiny", "smoke", "relu-tiny", TINY, search=False), session) is None
    assert len(told) == 1


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
    task = pending(["tiny"], "smoke", quiet.folder)[0]
    assert runner.perform(task, replace(quiet, deadline=0.0)) is None
    assert epochs_trained == []


@pytest.mark.usefixtures("one")
def test_a_recorded_run_leaves_no_checkpoint(tmp_path: Path, quiet: Session) -> None:
    do(quiet)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("one")
def test_a_record_that_can_not_be_written_keeps_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: Session
) -> None:
    def full(*_: object) -> None:
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
    with runner.workers("cpu", 1) as executor:
        (run,) = runner.run(["tiny"], "smoke", quiet, executor)
    assert outcome_of(run) == outcome_of(uninterrupted)


def test_runs_side_by_side_have_a_process_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "")
    with runner.workers("cpu", 2) as cpu, runner.workers("cuda", 2) as gpu:
        kinds = [type(cpu), type(gpu)]
    assert kinds == [concurrent.futures.ProcessPoolExecutor] * 2


# --- what is kept of a network ------------------------------------------------------------------------------

KEEP = ("conv1", "probabilities", "labels")


class Kept(NamedTuple):
    """A real run that kept tensors of its network: its session, its result and its record."""

    session: Session
    result: Result
    record: Record

    @property
    def file(self) -> Path:
        assert self.session.folder
        return self.session.folder / "filters" / f"{self.record['id']}.safetensors"


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    home = tmp_path_factory.mktemp("kept")
    results: list[Result] = []

    def train(*given: Any, **named: Any) -> Result:
        results.append(training.train(*given, **named))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        move_in(patch, home)
        add_experiment(patch, [replace(ONE, keep=KEEP)])
        patch.setattr(runner, "train", train)
        session = Session(folder=home / "runs", quiet=True)
        (run,) = do(session)
    return Kept(session, results[0], run)


def read_kept(run: Kept) -> dict[str, torch.Tensor]:
    return records.kept(run.record, run.session.folder)


def test_the_peak_of_memory_is_taken_after_the_work_on_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    taken: list[str] = []

    def kept(*_: object) -> dict[str, torch.Tensor]:
        taken.append("kept")
        return {}

    monkeypatch.setattr(runner, "train", pretend(by_rate))
    monkeypatch.setattr(runner, "kept", kept)
    monkeypatch.setattr(records, "peak_memory", lambda device: float(len(taken)))
    add_experiment(monkeypatch, [replace(ONE, keep=("conv1",))])
    assert [run["cost"]["peak_memory_bytes"] for run in do(quiet)] == [1.0]


def test_a_run_keeps_its_tensors_in_a_file_beside_its_record(kept_run: Kept) -> None:
    assert [path.name for path in kept_run.file.parent.iterdir()] == [kept_run.file.name]


def test_the_record_holds_the_sum_of_the_kept_file(kept_run: Kept) -> None:
    (recorded,) = records.read(kept_run.session.folder)
    assert recorded["kept"] == hashlib.sha256(kept_run.file.read_bytes()).hexdigest()


def test_the_kept_kernels_are_the_network_s(kept_run: Kept) -> None:
    assert torch.equal(read_kept(kept_run)["conv1"], kept_run.result.model.conv1.weight)


def test_the_kept_probabilities_are_those_of_the_test_images_as_float16(kept_run: Kept) -> None:
    found = read_kept(kept_run)["probabilities"]
    assert found.shape == (20, 10)
    assert kept_run.result.probabilities is not None
    assert torch.equal(found, kept_run.result.probabilities.to(torch.float16))


def test_the_kept_labels_are_the_test_images_own(kept_run: Kept) -> None:
    assert read_kept(kept_run)["labels"].tolist() == data.load(TINY.data).test.labels.tolist()


@pytest.mark.parametrize("name", KEEP)
def test_a_run_keeps_only_what_its_arm_asks_for(kept_run: Kept, name: str) -> None:
    assert runner.kept(kept_run.result, data.load(TINY.data), [name]).keys() == {name}


def test_a_run_can_keep_how_its_kernels_formed(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    add_experiment(monkeypatch, [replace(ONE, keep=("conv1", "snapshots"))])
    (run,) = do(quiet)
    found = records.kept(run, quiet.folder)
    assert {"conv1", "conv1_after_0", "conv1_after_1", "conv1_after_2"} == found.keys()  # of three epochs
    assert found["conv1_after_0"].shape == found["conv1"].shape


def test_a_run_that_keeps_neighbours_scores_how_many_share_the_class(
    monkeypatch: pytest.MonkeyPatch, quiet: Session
) -> None:
    monkeypatch.setattr(runner, "NEIGHBOUR_LAYERS", ("pool1",))
    add_experiment(monkeypatch, [replace(ONE, keep=("neighbours",))])
    (run,) = do(quiet)
    found, small = records.kept(run, quiet.folder), data.load(TINY.data)
    for where in ("pixels", "pool1"):
        share = (
            (small.train.labels[found[f"neighbours_{where}"].long()] == small.test.labels[:, None]).double().mean()
        )
        assert run["scores"][f"neighbours_{where}_same_class"] == share


def test_keeping_changes_no_number_of_a_run(kept_run: Kept, uninterrupted: Record) -> None:
    assert outcome_of(kept_run.record)[:4] == outcome_of(uninterrupted)[:4]


def test_the_results_read_what_is_kept_where_the_records_lie(kept_run: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    add_experiment(monkeypatch, [replace(ONE, keep=KEEP)])
    found = evidence.results("tiny", "smoke", kept_run.session.folder)[ONE.name].kept(0)
    assert torch.equal(found["conv1"], kept_run.result.model.conv1.weight)


def test_a_run_of_an_arm_that_keeps_nothing_leaves_no_file(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9] * 3))
    ended = runner.perform(runner.Task("tiny", "smoke", "relu-tiny", TINY, search=False), quiet)
    assert ended is not None
    run = runner.write(ended, quiet)
    assert ("kept" in run, (quiet.folder / "filters").exists()) == (False, False)


def test_an_abandoned_run_keeps_nothing(monkeypatch: pytest.MonkeyPatch, quiet: Session) -> None:
    monkeypatch.setattr(runner, "train", pretend(lambda recipe: [0.9] * 3))
    write(quiet.folder, [record(RELU, falling(1), rate=0.02)])
    ended = runner.perform(runner.Task("tiny", "smoke", "relu-tiny", TINY, search=True, keep=KEEP), quiet)
    assert ended is not None
    run, content = ended
    assert run["outcome"].startswith("abandoned")
    assert ("kept" in run, content) == (False, None)


def test_a_diverged_run_keeps_nothing(quiet: Session) -> None:
    task = runner.Task("tiny", "smoke", "wild", replace(TINY, rate=1e30), search=False, keep=KEEP)
    ended = runner.perform(task, quiet)
    assert ended is not None
    run, content = ended
    assert run["outcome"].startswith("diverged")
    assert ("kept" in run, content) == (False, None)


def test_a_run_that_is_recorded_already_keeps_its_record_and_its_tensors(kept_run: Kept) -> None:
    records_file = kept_run.session.folder / "tiny.jsonl"
    before = kept_run.file.read_bytes(), records_file.read_bytes()
    runner.write(({**kept_run.record, "arm": "later"}, b"other tensors"), kept_run.session)
    assert (kept_run.file.read_bytes(), records_file.read_bytes()) == before


def test_a_run_whose_tensors_find_no_space_is_not_recorded_and_not_trained_again(
    monkeypatch: pytest.MonkeyPatch, quiet: Session, epochs_trained: list[int]
) -> None:
    def full(*_: object) -> str:
        raise StudyError("no space left")

    add_experiment(monkeypatch, [replace(ONE, keep=KEEP)])
    with monkeypatch.context() as patch:
        patch.setattr(records, "keep", full)
        with pytest.raises(StudyError, match="no space left"):
            do(quiet)
    assert records.read(quiet.folder) == []
    (again,) = do(quiet)
    assert (epochs_trained, records.kept(again, quiet.folder).keys()) == ([0, 1, 2], set(KEEP))


# --- study: what a notebook calls ---------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend to train, in this process, and list the ids that were."""
    ids: list[str] = []

    def errors(recipe: Recipe) -> list[float]:
        ids.append(recipe.id)
        return by_rate(recipe)

    monkeypatch.setattr(runner, "train", pretend(errors))
    monkeypatch.setattr(runner, "workers", lambda device, jobs: ThreadPoolExecutor(1))
    return ids


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_RUNS")


@pytest.mark.parametrize(("scale", "started"), [("smoke", []), ("laptop", [3])])
def test_a_notebook_starts_no_process_for_runs_of_seconds(
    trained: list[str], monkeypatch: pytest.MonkeyPatch, scale: str, started: list[int]
) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", lambda scale: ARMS)  # at every scale
    asked: list[int] = []

    def workers(device: str, jobs: int) -> ThreadPoolExecutor:
        asked.append(jobs)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(runner, "workers", workers)
    monkeypatch.setattr(machine, "cores", lambda: 3)
    study("tiny", scale)
    assert (asked, len(trained)) == (started, 10)


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
def test_an_experiment_is_trained_where_only_another_one_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Arm(name="other", recipe=replace(TINY, net="cifar-26pct"), seeds=1)
    add_experiment(monkeypatch, [other], "another")
    write(tmp_path / "data" / "runs", [{**record(other, [0.2]), "experiment": "another"}])
    assert len(study("tiny", "smoke")["relu-tiny"].runs) == 2


def test_one_run_keeps_the_same_whichever_experiment_it_is_done_for(tmp_path: Path) -> None:
    asked: dict[str, set[str]] = {}
    for scale in experiments.SCALES:
        for name in experiments.EXPERIMENTS:
            for arm in experiments.arms(name, scale):
                asked.setdefault(f"{scale} {arm.recipe.id}", set()).update(arm.keep)
        for name in experiments.EXPERIMENTS:
            for task in pending([name], scale, tmp_path):
                first = replace(task.recipe, seed=0)
                if f"{scale} {first.id}" in asked:  # not of another rate of a search
                    assert set(task.keep) == asked[f"{scale} {first.id}"], (scale, name, task)


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
    known = record(RELU, falling(5), rate=0.01)
    known["data"]["digest"] = data.load(RELU.recipe.data).digest  # the same images as those of the runs to come
    write(tmp_path / "runs", [known])
    study("tiny", "smoke")
    assert (len(trained), len(records.read(tmp_path / "runs"))) == (9, 10)


def test_complete_records_of_a_gpu_are_read_where_there_is_none(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study("tiny", "smoke")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runner, "usual_device", lambda scale: "cuda")
    assert len(study("tiny", "smoke")["relu-tiny"].runs) == 2
    assert len(trained) == 10
    *complete, _ = records.read(tmp_path / "runs")
    (tmp_path / "runs" / "tiny.jsonl").unlink()
    write(tmp_path / "runs", complete)
    with pytest.raises(StudyError, match="torch finds none here"):
        study("tiny", "smoke")


def test_retraining_leaves_the_records_of_the_variable_s_folder_aside(trained: list[str], tmp_path: Path) -> None:
    write(tmp_path / "runs", runs_of((RELU, GRID), (TANH, GRID)))
    study("tiny", "smoke", retrain=True)
    assert (len(trained), len(records.read(tmp_path / "runs-retrained"))) == (10, 10)


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


# --- where a scale's runs are trained -----------------------------------------------------------------------


def test_a_scale_that_needs_a_gpu_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="scale 'gpu' trains on a GPU, and torch finds none here"):
        runner.device_for("gpu")


def test_a_gpu_trains_a_few_runs_side_by_side() -> None:
    assert runner.places_for("gpu", "cuda") == runner.GPU_PLACES
    assert runner.places_for("imagenet", "cuda") == 1


# --- what runs cost -----------------------------------------------------------------------------------------


def test_a_run_costs_its_epochs_at_the_recorded_seconds_of_its_network() -> None:
    task = Task("tiny", "smoke", "relu", replace(TINY, epochs=100), search=False)
    assert runner.hours([task.recipe], [record(task, [0.9, 0.8])], "cpu") == (pytest.approx(100 / 3600), 0)


def test_pre_training_costs_four_epochs_for_each_of_its_own() -> None:
    task = Task("tiny", "smoke", "relu", replace(TINY, epochs=100, pretrain=5), search=False)
    assert runner.hours([task.recipe], [record(task, [0.9])], "cpu") == (pytest.approx(120 / 3600), 0)


def test_another_network_s_seconds_are_scaled_by_the_operations_of_both() -> None:
    known, wanted = (
        Task("tiny", "smoke", net, replace(TINY, net=net), search=False) for net in ("cifar-19pct", "cifar-13pct")
    )
    ratio = models.training_flops("cifar-13pct") / models.training_flops("cifar-19pct")
    found, _ = runner.hours([wanted.recipe], [record(known, [0.9])], "cpu")
    assert found == pytest.approx(wanted.recipe.epochs * ratio / 3600)


def test_seconds_of_a_gpu_say_nothing_about_a_core() -> None:
    task = Task("tiny", "smoke", "relu", replace(TINY, epochs=100), search=False)
    there = record(task, [0.9])
    there["provenance"]["device"] = "NVIDIA H100"
    assert runner.hours([task.recipe], [there], "cpu") == (0.0, 1)
    assert runner.hours([task.recipe], [there], "cuda") == (pytest.approx(100 / 3600), 0)


@pytest.mark.parametrize("other", [{"data": "cifar10"}, {"precision": "bf16"}])
def test_a_run_unlike_every_record_is_counted_as_unknown(other: dict[str, Any]) -> None:
    task = Task("tiny", "smoke", "relu", replace(TINY, **other), search=False)
    assert runner.hours([task.recipe], [record(RELU, [0.9])], "cpu") == (0.0, 1)
