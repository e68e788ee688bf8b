"""What the records say about an experiment: the rate that an arm's search has chosen, and the runs it has so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet_lib import records
from alexnet_lib.experiments import Arm, arms
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record

GRID_STEP = 2.0
"""A grid of learning rates is extended by this factor while its best rate is its first or last."""
MOST_RATES = 8
"""Rates after which the search ends for an arm that learns at none."""


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


def _merit(record: Record) -> tuple[float, float]:
    """Return what the search for a rate minimises.

    Epochs to the recipe's target, then the last training error; the last test error, of the holdout, where a recipe
    has no target.
    """
    target = record["recipe"]["target_error"]
    if record["outcome"] != "completed":
        return math.inf, math.inf
    if target is None:
        return math.inf, record["history"][-1]["test_error"]
    reached = crossing(record["history"], target)
    return math.inf if reached is None else reached, record["history"][-1]["train_error"]


def search(arm: Arm, found: Mapping[str, Record]) -> tuple[float | None, list[Recipe]]:
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
        best = min(rates, key=lambda rate: _merit(found[grid[rate].id]))
        if len(arm.rates) == 1 or min(rates) < best < max(rates):
            return best, []
        rates.append(best * GRID_STEP if best == max(rates) else best / GRID_STEP)


def abandon(history: Sequence[dict[str, Any]], rivals: Iterable[Record]) -> str | None:
    """Return why a run of the rate search can't win any more, or None.

    It ends when a finished rival with another rate needed no more epochs than it has had already, when (from the
    eighth epoch on) it is behind where the best rival, at the target or at its cap, stood after half as many, or when
    after 20 epochs it still guesses: more than 85 % errors.
    """
    done = len(history)
    if done >= 20 and history[-1]["train_error"] > 0.85:
        return "abandoned: still above 85 % training error after 20 epochs"
    finished = [record for record in rivals if math.isfinite(_merit(record)[0]) or _capped(record)]
    if not finished:
        return None
    rival = min(finished, key=_merit)
    name = f"rate {rival['recipe']['rate']:g}"
    if _merit(rival)[0] <= done:
        return f"abandoned: {name} reached the target in {_merit(rival)[0]:.2f} epochs"
    if done >= 8 and history[-1]["train_error"] > rival["history"][done // 2 - 1]["train_error"]:
        return f"abandoned: after {done} epochs behind {name} after {done // 2}"
    return None


def _capped(record: Record) -> bool:
    """Return whether a run had all its epochs and did not reach the target that it had."""
    recipe = record["recipe"]
    ended = record["outcome"] == "completed" and recipe["target_error"] is not None
    return ended and len(record["history"]) >= recipe["epochs"]


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
    folder: Path | None = None
    """Where the records were read."""

    @property
    def all_runs(self) -> list[Record]:
        """The runs of the search and of the seeds, each once, by rising rate and seed."""
        found = {run["id"]: run for run in [*self.grid, *self.runs.values()]}
        return sorted(found.values(), key=lambda run: (run["recipe"]["rate"], run["seed"]))

    def images(self, part: str) -> int | None:
        """Return how many images the data set's ``train`` or ``test`` has; None where no run says so.

        The first records don't.
        """
        return next((run["data"][part] for run in self.all_runs if part in run["data"]), None)

    def kept(self, seed: int) -> dict[str, Tensor]:
        """Return what is kept of a run's network (``Arm.keep``), by name.

        Raises:
            StudyError: nothing is kept of it, or the file is missing or altered.
        """
        return records.kept(self.runs[seed], self.folder)

    @property
    def state(self) -> str:
        """The chosen rate as text, or why there is none."""
        if self.rate is not None:
            return f"{self.rate:g}"
        return "not chosen yet" if self.searching else "none: learns at no rate tried"

    def epochs_to(self, level: float, key: str = "train_error") -> dict[int, float]:
        """Return by seed how many epochs ``key`` took to an error rate of ``level``, where a run got there."""
        found = {seed: crossing(run["history"], level, key) for seed, run in self.runs.items()}
        return {seed: epochs for seed, epochs in found.items() if epochs is not None}

    def epochs_to_target(self, key: str = "train_error") -> dict[int, float]:
        """Return by seed how many epochs ``key`` took to the recipe's target; the cap where it never did.

        A run that ended below its target before ``key`` came down to it (the reading after the epoch can lag) is
        left out.
        """
        target, cap = self.arm.recipe.target_error, self.arm.recipe.epochs
        assert target is not None
        return self.epochs_to(target, key) | dict.fromkeys(self.capped(key), float(cap))

    def capped(self, key: str = "train_error") -> list[int]:
        """Return the seeds whose run went on to its cap without ``key`` coming down to the target."""
        target, cap = self.arm.recipe.target_error, self.arm.recipe.epochs
        assert target is not None
        reached = self.epochs_to(target, key)
        return [seed for seed, run in self.runs.items() if seed not in reached and len(run["history"]) >= cap]


def results(experiment: str, scale: str, folder: Path | None = None) -> dict[str, ArmResult]:
    """Return what the records hold for every arm of an experiment at a scale, by the arm's name.

    A run counts for every arm that asks for its recipe, whichever experiment trained it.

    Raises:
        StudyError: runs that would be compared saw different images under one data set's name.
    """
    recorded = records.by_id(records.read(folder, scale=scale))
    outcome = {}
    for arm in arms(experiment, scale):
        rate, missing = search(arm, recorded)
        recipes = [] if rate is None else arm.recipes(rate)
        outcome[arm.name] = ArmResult(
            arm=arm,
            rate=rate,
            runs={recipe.seed: recorded[recipe.id] for recipe in recipes if recipe.id in recorded},
            grid=sorted(
                alike(arm.recipe, recorded.values()) if arm.rates else [],
                key=lambda record: record["recipe"]["rate"],
            ),
            searching=bool(missing),
            folder=folder,
        )
    _check_images([run for result in outcome.values() for run in result.all_runs])
    return outcome


def _check_images(compared: Iterable[Record]) -> None:
    """Refuse runs whose data set has one name and two contents."""
    first: dict[str, Record] = {}
    for run in compared:
        name, digest = run["data"]["name"], run["data"]["digest"]
        other = first.setdefault(name, run)
        if other["data"]["digest"] != digest:
            raise StudyError(
                f"data set {name!r}: runs {other['id']} and {run['id']} saw different images under this name "
                "(the digests in their records differ) and can't be compared: remove the records of one kind, or "
                "give the other images a name of their own"
            )


def alike(recipe: Recipe, recorded: Iterable[Record]) -> list[Record]:
    """Return the records whose recipe differs from ``recipe`` in nothing but the learning rate, if at all.

    Older records lack the fields that recipes have got since: they count with their defaults.
    """
    return [record for record in recorded if Recipe.parse({**record["recipe"], "rate": recipe.rate}) == recipe]
