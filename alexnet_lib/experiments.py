"""The study itself: its experiments, their arms, and the runs that each scale still lacks.

An arm is a recipe; an experiment is a few arms trained with the same seeds. Where an arm declares several
learning rates, they are tried with the first seed and the other seeds use the one that reaches the target first.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alexnet_lib import data, records
from alexnet_lib.recipes import Recipe, StudyError, unknown
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, train

SCALES = ("smoke", "laptop", "gpu", "imagenet")
GRID_STEP = 2.0
"""A grid of learning rates is extended by this factor while its best rate is its first or last."""
MOST_RATES = 8
"""Rates after which the search ends for an arm that learns at none."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison at one scale."""

    name: str
    recipe: Recipe
    """The arm's recipe with its first seed, and its first rate where it has a grid."""
    seeds: int
    """Runs that the comparison needs: seeds 0, 1, ..."""
    rates: tuple[float, ...] = ()
    """Learning rates to try with seed 0, in this order; none: the recipe's own is the one."""
    priority: int = 0
    """Arms of a lower number are trained first."""


@dataclass(frozen=True)
class Experiment:
    """A question of the study: ``arms(scale)`` gives its sides, or nothing where the scale can't ask it."""

    name: str
    title: str
    arms: Callable[[str], tuple[Arm, ...]]


@dataclass(frozen=True)
class Task:
    """One run that is still to be done; ``search`` says whether it may be abandoned for a faster rate."""

    experiment: str
    scale: str
    arm: str
    recipe: Recipe
    search: bool

    @property
    def label(self) -> str:
        """Name the run in a line of progress."""
        return f"{self.arm} rate {self.recipe.rate:g} seed {self.recipe.seed}"


# --- Figure 1 -------------------------------------------------------------------------------------------------

TARGET = 0.25
"""Training error rate of Figure 1's dashed line (P §3.1)."""

_CELLS = {
    # name: (inputs, init, first rates): 2012's own recipe, a modern one, and the two mixtures between them.
    "2012": ("raw", "file", (0.001, 0.002, 0.0005)),
    "modern": ("unit", "variance", (0.01, 0.02, 0.005)),
    "raw-variance": ("raw", "variance", (0.0001, 0.0002, 0.00005)),
    "unit-file": ("unit", "file", (0.01, 0.02, 0.005)),
}


def _relu_vs_tanh(scale: str) -> tuple[Arm, ...]:
    """Return Figure 1's arms: no weight decay, no augmentation, no dropout, no normalisation (P §3.1).

    The network is the three-convolution one of the 19 % file, the paper not saying which it used; the ``26pct``
    arms read "four-layer" as §3.3 does, counting hidden layers.
    """
    if scale == "imagenet":
        return ()
    base = Recipe(decay=0.0, target_error=TARGET, epochs=80)
    if scale == "smoke":  # no search, and only the two recipes that the claims are about
        base = replace(base, data="synthetic:train=400,test=100", batch=32, epochs=8)
    if scale == "gpu":
        base = replace(base, precision="tf32")
    many, few = {"smoke": (2, 0), "laptop": (5, 3), "gpu": (20, 10)}[scale]
    arms = []
    rates: tuple[float, ...]
    for net, suffix, cells in (("cifar-19pct", "", tuple(_CELLS)), ("cifar-26pct", "-26pct", ("modern",))):
        for cell in cells:
            inputs, init, rates = _CELLS[cell]
            main = cell in ("2012", "modern") and not suffix
            for activation in ("relu", "tanh"):
                if scale == "smoke":
                    rates = (0.002,) if cell == "2012" else (0.005,)
                recipe = replace(base, net=net, activation=activation, inputs=inputs, init=init, rate=rates[0])
                arms.append(
                    Arm(
                        name=f"{activation}-{cell}{suffix}",
                        recipe=recipe,
                        seeds=many if main else few,
                        rates=rates,
                        priority=0 if main else 1,
                    )
                )
    return tuple(arm for arm in arms if arm.seeds)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (Experiment("relu_vs_tanh", "ReLU against tanh (Figure 1)", _relu_vs_tanh),)
}


def check_scale(scale: str) -> None:
    """Raise StudyError unless ``scale`` is one of the study's."""
    if not isinstance(scale, str):
        raise StudyError(f"parameter 'scale': expected str, got {type(scale).__name__} {scale!r}")
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)


def arms(experiment: str, scale: str) -> tuple[Arm, ...]:
    """Return an experiment's arms at a scale.

    Raises:
        StudyError: no such experiment or scale.
    """
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS)
    check_scale(scale)
    return EXPERIMENTS[experiment].arms(scale)


# --- Learning rates -------------------------------------------------------------------------------------------


def crossing(history: Sequence[dict[str, Any]], target: float, key: str = "train_error") -> float | None:
    """Return after how many epochs ``key`` came down to ``target``, interpolated, or None where it never did.

    The error of the n-th epoch stands at n epochs, as Figure 1 draws it; the line starts at the first epoch.
    """
    before = None
    for number, epoch in enumerate(history, 1):
        error = epoch[key]
        if error <= target:
            return float(number) if before is None else number - (target - error) / (before - error)
        before = error
    return None


def _speed(record: Record) -> tuple[float, float]:
    """Return what the search for a rate minimises: epochs to the target, then the last training error."""
    if record["outcome"] != "completed":
        return math.inf, math.inf
    reached = crossing(record["history"], record["recipe"]["target_error"])
    return math.inf if reached is None else reached, record["history"][-1]["train_error"]


def search(arm: Arm, found: dict[str, Record]) -> tuple[float | None, list[Recipe]]:
    """Return the arm's chosen rate, once its grid is done, and the recipes of the grid that still lack a record.

    The grid is the arm's own, extended by ``GRID_STEP`` beyond its best rate as long as that is at its edge; where no
    rate learns, downwards while all diverge and upwards while all still guess, to ``MOST_RATES`` rates. An arm that
    learns at none of them has no rate. ``found``: the records at hand by id.
    """
    if not arm.rates:
        return arm.recipe.rate, []
    rates = list(arm.rates)
    while True:
        grid = {rate: replace(arm.recipe, rate=rate) for rate in rates}
        missing = [recipe for recipe in grid.values() if recipe.id not in found]
        if missing:
            return None, missing
        outcomes = [found[recipe.id]["outcome"] for recipe in grid.values()]
        if "completed" not in outcomes:
            diverged = [outcome.startswith("diverged") for outcome in outcomes]
            if len(rates) >= MOST_RATES or (any(diverged) and not all(diverged)):
                return None, []
            rates.append(min(rates) / GRID_STEP if all(diverged) else max(rates) * GRID_STEP)
            continue
        best = min(rates, key=lambda rate: _speed(found[grid[rate].id]))
        if len(arm.rates) == 1 or min(rates) < best < max(rates):
            return best, []
        rates.append(best * GRID_STEP if best == max(rates) else best / GRID_STEP)


def abandon(history: Sequence[dict[str, Any]], rivals: Iterable[Record]) -> str | None:
    """Return why a run of the rate search can't win any more, or None.

    It ends when a finished rival with another rate needed no more epochs than it has had already, when (from the
    eighth epoch on) it is behind where the fastest rival stood after half as many, or when after 20 epochs it
    still guesses: more than 85 % errors.
    """
    done = len(history)
    if done == 0:
        return None
    if done >= 20 and history[-1]["train_error"] > 0.85:
        return "abandoned: still above 85 % training error after 20 epochs"
    finished = [record for record in rivals if math.isfinite(_speed(record)[0])]
    if not finished:
        return None
    rival = min(finished, key=_speed)
    name = f"rate {rival['recipe']['rate']:g}"
    if _speed(rival)[0] <= done:
        return f"abandoned: {name} reached the target in {_speed(rival)[0]:.2f} epochs"
    if done >= 8 and history[-1]["train_error"] > rival["history"][done // 2 - 1]["train_error"]:
        return f"abandoned: after {done} epochs behind {name} after {done // 2}"
    return None


# --- What is there --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmResult:
    """An arm and the records it has so far."""

    arm: Arm
    rate: float | None
    """The chosen learning rate; None while its search has not ended."""
    runs: dict[int, Record]
    """The runs at the chosen rate, by seed."""
    grid: list[Record]
    """The runs of the search, by rising rate; the chosen rate's run is among them."""
    searching: bool
    """Whether runs of the search are still to come."""

    @property
    def state(self) -> str:
        """Say what the search for the rate has come to."""
        if self.rate is not None:
            return f"{self.rate:g}"
        return "not chosen yet" if self.searching else "none: learns at no rate tried"

    def epochs_to_target(self, key: str = "train_error") -> dict[int, float]:
        """Return by seed how many epochs ``key`` took to the recipe's target; the cap where it never did.

        A run that ended below its target before ``key`` came down to it (the reading after the epoch can lag) is
        left out.
        """
        target, cap = self.arm.recipe.target_error, self.arm.recipe.epochs
        assert target is not None
        found = {seed: crossing(run["history"], target, key) for seed, run in self.runs.items()}
        reached = {seed: epochs for seed, epochs in found.items() if epochs is not None}
        return reached | dict.fromkeys(self.capped(key), float(cap))

    def capped(self, key: str = "train_error") -> list[int]:
        """Return the seeds whose run went on to its cap without ``key`` coming down to the target."""
        target, cap = self.arm.recipe.target_error, self.arm.recipe.epochs
        assert target is not None
        return [
            seed
            for seed, run in self.runs.items()
            if crossing(run["history"], target, key) is None and len(run["history"]) >= cap
        ]


def results(experiment: str, scale: str, folder: Path | None = None) -> dict[str, ArmResult]:
    """Return what the records hold for every arm of an experiment at a scale, by the arm's name."""
    recorded = records.read(folder, experiment=experiment, scale=scale)
    found = {record["id"]: record for record in recorded}
    outcome = {}
    for arm in arms(experiment, scale):
        rate, missing = search(arm, found)
        recipes = [] if rate is None else [replace(arm.recipe, rate=rate, seed=seed) for seed in range(arm.seeds)]
        tried = [r for r in recorded if r["arm"] == arm.name and r["seed"] == arm.recipe.seed]
        outcome[arm.name] = ArmResult(
            arm=arm,
            rate=rate,
            runs={recipe.seed: found[recipe.id] for recipe in recipes if recipe.id in found},
            grid=sorted(tried, key=lambda record: record["recipe"]["rate"]),
            searching=bool(missing),
        )
    return outcome


# --- What is missing, and doing it ----------------------------------------------------------------------------


def pending(experiment: str, scale: str, folder: Path | None = None, also: Path | None = None) -> list[Task]:
    """Return the runs that can start now, the most wanted first.

    The arms of the main comparison come before the others, rate searches before seeds, low seeds before high
    ones: every arm has its minimum before any has more. A search that has not ended holds back its arm's seeds.
    ``folder``: of the records; ``also``: another one whose records count as done.
    """
    found = {record["id"]: record for record in _recorded(experiment, scale, folder, also)}
    tasks: list[tuple[tuple[int, int], Task]] = []
    for arm in arms(experiment, scale):
        rate, missing = search(arm, found)
        for recipe in missing:
            tasks.append(((arm.priority, 0), Task(experiment, scale, arm.name, recipe, search=True)))
        if rate is not None:
            for seed in range(arm.seeds):
                recipe = replace(arm.recipe, rate=rate, seed=seed)
                if recipe.id not in found:
                    task = Task(experiment, scale, arm.name, recipe, search=False)
                    tasks.append(((arm.priority, seed), task))
    return [task for _, task in sorted(tasks, key=lambda item: item[0])]


def _recorded(experiment: str, scale: str, folder: Path | None, also: Path | None) -> list[Record]:
    folders = (folder,) if also is None else (folder, also)
    return [record for place in folders for record in records.read(place, experiment=experiment, scale=scale)]


class OutOfTime(Exception):
    """The time given to a session of runs is over; the run's checkpoint is kept."""


@dataclass(frozen=True)
class Session:
    """How runs are done: where, with how much time, into which folder of records."""

    device: str = "cpu"
    folder: Path | None = None
    deadline: float | None = None
    """``time.time()`` before which everything has ended."""
    quiet: bool = False
    again: bool = False
    """Whether these runs repeat others, whose checkpoints are then not theirs."""
    also: Path | None = None
    """Another folder whose records count as done."""

    def over(self, seconds: float = 0.0) -> bool:
        """Return whether the time is over, or will be in ``seconds``."""
        return self.deadline is not None and time.time() + seconds > self.deadline

    def checkpoint(self, recipe: Recipe) -> Path:
        """Return the run's checkpoint, outside the tree: variable ``ALEXNET_CACHE`` or ``~/.cache/alexnet-study``."""
        cache = Path(os.environ.get("ALEXNET_CACHE") or Path.home() / ".cache" / "alexnet-study")
        return cache / ("again" if self.again else ".") / f"{recipe.id}.pt"


@functools.cache
def _data(name: str) -> data.Dataset:
    return data.load(name)


def perform(task: Task, session: Session) -> Record | None:
    """Do one run, or go on with it, and write its record; None if time was up before its end.

    Raises:
        StudyError: recipe, data or machine don't allow the run.
    """
    if session.over():
        return None
    torch.set_num_threads(1 if session.device == "cpu" else torch.get_num_threads())
    begun, dataset = datetime.now(UTC), _data(task.recipe.data)
    origin = records.commit()["commit"] or "unknown"  # as it is now, before the run

    def on_epoch(epoch: Epoch) -> None:
        if not session.quiet:
            print(epoch_line(task.label, epoch), flush=True)
        # A worker outlives a parent that was killed; going on would race with the run that takes its place.
        parent = multiprocessing.parent_process()
        if session.over(1.5 * epoch.seconds) or (parent is not None and not parent.is_alive()):
            raise OutOfTime

    def give_up(history: list[Epoch]) -> str | None:
        if not task.search:
            return None
        rivals = [
            record
            for record in _recorded(task.experiment, task.scale, session.folder, session.also)
            if record["arm"] == task.arm and record["seed"] == task.recipe.seed
        ]
        return abandon([vars(epoch) for epoch in history], rivals)

    checkpoint = session.checkpoint(task.recipe)
    try:
        result = train(
            task.recipe,
            dataset,
            device=session.device,
            checkpoint=checkpoint,
            origin=origin,
            on_epoch=on_epoch,
            abandon=give_up,
        )
    except OutOfTime:
        return None
    record = records.make(result, dataset, experiment=task.experiment, arm=task.arm, scale=task.scale, begun=begun)
    records.append(record, session.folder)
    checkpoint.unlink(missing_ok=True)
    return record


def run(
    experiments: Sequence[str], scale: str, session: Session, executor: concurrent.futures.Executor, places: int = 1
) -> Iterator[Record]:
    """Do the missing runs of ``experiments``, ``places`` of them side by side, and yield each record as its run ends.

    What can start is worked out anew after every run, since a finished search frees its arm's seeds.

    Raises:
        StudyError: a run can't be done; the others in flight end first.
    """
    flying: dict[concurrent.futures.Future[Record | None], Task] = {}
    late = False
    while True:
        late = late or session.over()
        waiting = [
            t
            for name in experiments
            for t in pending(name, scale, session.folder, session.also)
            if t not in flying.values()
        ]
        for task in waiting[: 0 if late else places - len(flying)]:
            flying[executor.submit(perform, task, session)] = task
        if not flying:
            return
        done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            del flying[future]
            record = future.result()
            late = late or record is None
            if record is not None:
                yield record


def device_for(scale: str) -> str:
    """Return where a scale's runs are trained: ``cuda`` for those whose recipes need a GPU, else ``cpu``.

    Raises:
        StudyError: the scale needs a GPU and there is none.
    """
    check_scale(scale)
    if scale not in ("gpu", "imagenet"):
        return "cpu"
    if not torch.cuda.is_available():
        raise StudyError(f"scale {scale!r} trains on a GPU, and torch finds none here: take scale smoke or laptop")
    return "cuda"


def places_for(device: str) -> int:
    """Return how many runs go side by side: one on each core, one on a GPU."""
    return 1 if device == "cuda" else os.cpu_count() or 1


def workers(device: str, jobs: int) -> concurrent.futures.Executor:
    """Return an executor of ``jobs`` workers: processes on a CPU, as single-threaded runs side by side are fastest.

    The processes keep freed memory and take it in huge pages. glibc otherwise returns every activation to the
    system and faults it in again at the next step, a quarter of the time of a step here.
    """
    if device != "cpu":
        return concurrent.futures.ThreadPoolExecutor(jobs)
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**40))
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def epoch_line(label: str, epoch: Epoch) -> str:
    """Return one fixed-width line of progress."""
    return (
        f"{label:<40}  epoch {epoch.epoch + 1:3d}  loss {epoch.loss:7.4f}  train {100 * epoch.train_error:6.2f} %  "
        f"after {100 * epoch.train_error_after:6.2f} %  test {100 * epoch.test_error:6.2f} %  {epoch.seconds:7.1f} s"
    )


def published(experiment: str, scale: str) -> bool:
    """Return whether the project's own ``data/runs`` holds records of the experiment at the scale."""
    return bool(records.read(records.PUBLISHED, experiment=experiment, scale=scale))


def study(experiment: str, scale: str, *, retrain: bool = False) -> dict[str, ArmResult]:
    """Return a notebook's results: published ones as they are, others after training what is missing.

    Records are read from and added to the folder of the variable ``ALEXNET_RUNS``; without it the published ones
    are read and the reader's own go to ``build/runs`` (``build/runs-retrained`` with ``retrain``).

    Args:
        experiment: Name of the experiment.
        scale: ``smoke``, ``laptop``, ``gpu`` or ``imagenet``.
        retrain: Train every run again instead of reading published ones; a second call goes on where it stopped.

    Raises:
        StudyError: an unknown name, a value of another type, or a scale that the experiment doesn't have.
    """
    check_scale(scale)
    if not isinstance(retrain, bool):
        raise StudyError(f"parameter 'retrain': expected bool, got {type(retrain).__name__} {retrain!r}")
    if not arms(experiment, scale):
        raise StudyError(f"experiment {experiment!r} has no scale {scale!r}: take smoke, laptop or gpu")
    if os.environ.get("ALEXNET_RUNS"):
        folder = records.runs_folder()
    elif retrain:
        folder = records.PROJECT / "build" / "runs-retrained"
    elif published(experiment, scale):
        return results(experiment, scale, records.PUBLISHED)
    else:
        folder = records.PROJECT / "build" / "runs"
    device = device_for(scale)
    session = Session(device=device, folder=folder, quiet=True, again=retrain)
    places = places_for(device)
    with workers(device, places) as executor:
        for _ in run([experiment], scale, session, executor, places):
            pass
    return results(experiment, scale, folder)
