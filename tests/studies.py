"""Made-up experiments, histories and records for the tests: the study's formats without its trainings."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet_lib import experiments, records
from alexnet_lib.dataset import Dataset
from alexnet_lib.experiments import Arm
from alexnet_lib.recipes import Recipe
from alexnet_lib.records import Record
from alexnet_lib.runner import Task
from alexnet_lib.train import Epoch, Result

TINY = Recipe(
    data="synthetic:train=40,test=20",
    batch=20,
    epochs=3,
    inputs="unit",
    init="variance",
    rate=0.01,
    decay=0.0,
    target_error=0.25,
)
"""A real run of well under a second."""
ARMS = (
    Arm(name="relu-tiny", recipe=TINY, seeds=2, rates=(0.01, 0.02, 0.005)),
    Arm(name="tanh-tiny", recipe=replace(TINY, activation="tanh"), seeds=2, rates=(0.01, 0.02, 0.005)),
)
RELU, TANH = ARMS
GRID = {0.01: 3.0, 0.02: 4.0, 0.005: 5.0}
"""Epochs to the target of a whole search whose first rate is the best."""


def seeded(seed: int = 0) -> torch.Generator:
    """A stream of random numbers of one's own."""
    return torch.Generator().manual_seed(seed)


def add_experiment(monkeypatch: pytest.MonkeyPatch, arms: Sequence[Arm] = ARMS, name: str = "tiny") -> None:
    """Add an experiment to the study, at scale ``smoke`` alone."""
    monkeypatch.setitem(experiments.EXPERIMENTS, name, lambda scale: tuple(arms) if scale == "smoke" else ())


def move_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let records, checkpoints and the project's own files lie below ``home``."""
    monkeypatch.setenv("ALEXNET_RUNS", str(home / "runs"))
    monkeypatch.setenv("ALEXNET_CACHE", str(home / "cache"))
    monkeypatch.setenv("ALEXNET_COMMIT", "0" * 40)
    monkeypatch.setattr(records, "PROJECT", home)
    monkeypatch.setattr(records, "PUBLISHED", home / "data" / "runs")


def falling(epochs: float, start: float = 0.9) -> list[float]:
    """Return training errors that come down to 25 % after ``epochs`` epochs, interpolated."""
    last = math.ceil(epochs)
    before = [*[start] * (last - 2), 0.25 + 0.1 * (1 - last + epochs)] if last > 1 else []
    return [*before, 0.25 - 0.1 * (last - epochs)]


def history(
    errors: Iterable[float], after: Sequence[float] | None = None, test: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Return epochs with these training errors, as they stand in a record; the other errors are equal by default."""
    errors = list(errors)
    readings, tests = (errors if given is None else given for given in (after, test))
    return [
        asdict(Epoch(number, 2 * error, error, reading, test_error, 0.01, 1.0))
        for number, (error, reading, test_error) in enumerate(zip(errors, readings, tests, strict=True))
    ]


def record(
    task: Task | Arm,
    errors: Iterable[float],
    *,
    outcome: str = "completed",
    after: Sequence[float] | None = None,
    test: Sequence[float] | None = None,
    scores: Mapping[str, float] | None = None,
    **changes: Any,
) -> Record:
    """Return the record that a run with these training errors would leave; ``changes`` are recipe fields.

    ``scores``: of the final weights, as fractions; by default the last test error alone.
    """
    of = task if isinstance(task, Task) else Task("tiny", "smoke", task.name, task.recipe, False)
    recipe = replace(of.recipe, **changes)
    past = history(errors, after, test)
    return {
        "schema": records.SCHEMA,
        "id": recipe.id,
        "experiment": of.experiment,
        "arm": of.arm,
        "scale": of.scale,
        "seed": recipe.seed,
        "recipe": recipe.resolved(),
        "data": {"name": recipe.data, "digest": "0" * 64},
        "outcome": outcome,
        "history": past,
        "scores": dict(scores or ({"test_error": past[-1]["test_error"]} if past else {})),
        "cost": {"train_seconds": 1800.0, "evaluate_seconds": 1800.0, "peak_memory_bytes": 1.0},
        "provenance": {"commit": "0" * 40, "dirty": False, "device": "cpu", "cpu_capability": "AVX2"},
    }


def runs_of(*parts: tuple[Arm, dict[float, float]]) -> list[Record]:
    """Return seed-0 records: by arm, the epochs to the target at every rate."""
    return [record(arm, falling(n), rate=rate) for arm, epochs in parts for rate, n in epochs.items()]


def write(folder: Path, runs: Iterable[Record]) -> Path:
    """Write records as the runner does, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        with (folder / f"{run['experiment']}.jsonl").open("a") as file:
            file.write(json.dumps(run) + "\n")
    return folder


def figure1(epochs: dict[str, Sequence[float]], scale: str = "laptop") -> list[Record]:
    """Return records of Figure 1's arms: a whole search whose first rate won, and the seeds' epochs to 25 %.

    ``epochs``: by arm; a run that needs more than the cap ends there above 25 %.
    """
    arms = {arm.name: arm for arm in experiments.arms("relu_vs_tanh", scale)}
    runs = []
    for name, needed in epochs.items():
        arm = arms[name]
        task = Task("relu_vs_tanh", scale, name, arm.recipe, False)
        reached = [falling(n) if n <= arm.recipe.epochs else [0.6] * arm.recipe.epochs for n in needed]
        runs += [record(task, errors, seed=seed) for seed, errors in enumerate(reached)]
        for rate in arm.rates[1:]:
            runs.append(record(task, [0.88] * 10, outcome="abandoned: a test's", rate=rate))
    return runs


def ratio_of(setting: str, ratio: float, seeds: int = 3, spread: float = 1.001) -> dict[str, list[float]]:
    """Return epochs of a setting's arms whose ratios lie within about ``spread`` of ``ratio``."""
    return {
        f"relu-{setting}": [4.0] * seeds,
        f"tanh-{setting}": [4.0 * ratio * spread ** (seed - (seeds - 1) / 2) for seed in range(seeds)],
    }


SCORES = (
    "train_error",
    "train_error_after",
    "test_error",
    "test_error_5views",
    "test_error_10views",
    "neighbours_pixels_same_class",
    "neighbours_act7_same_class",
)


_arms = functools.cache(experiments.arms)


def ended(
    experiment: str,
    arm: str,
    scores: Iterable[Mapping[str, float] | float | None],
    *,
    scale: str = "laptop",
    errors: Sequence[float] = (0.8, 0.6, 0.4, 0.2),
    outcome: str = "completed",
) -> list[Record]:
    """Return records of seeds 0, 1, ... of an arm without a search; None leaves a seed out.

    ``scores``: by seed, in per cent; a number is the test error, and what is not given is 50 %. ``errors``: the
    training errors of every run, epoch by epoch.
    """
    (of,) = (each for each in _arms(experiment, scale) if each.name == arm)
    task = Task(experiment, scale, arm, of.recipe, False)
    runs = []
    for seed, given in enumerate(scores):
        if given is not None:
            named = given if isinstance(given, Mapping) else {"test_error": given}
            whole = {name: named.get(name, 50.0) / 100 for name in SCORES}
            runs.append(record(task, errors, scores=whole, outcome=outcome, seed=seed))
    return runs


def whole(seeds: int = 100, draw: int = 0) -> list[Record]:
    """Return laptop records of every arm without a search, each run once: up to ``seeds`` seeds an arm.

    Scores and curves are random, those of ``draw``; every score of an arm has a level of its own, so that some
    effects are clear and others are not.
    """
    runs: dict[str, Record] = {}
    for experiment in experiments.EXPERIMENTS:
        for arm in _arms(experiment, "laptop"):
            random = np.random.default_rng([draw, *arm.name.encode()])  # an arm more changes no other's numbers
            levels = {name: random.uniform(20, 22) for name in (*SCORES, "early")}
            for seed in range(0 if arm.rates else min(seeds, arm.seeds)):
                found = {name: round(level + random.normal(0, 0.4), 2) for name, level in levels.items()}
                errors = [round(0.03 * found["early"], 4), round(random.uniform(0.32, 0.6), 4), 0.3, 0.2]
                scores = {name: found[name] for name in SCORES}
                (run,) = ended(experiment, arm.name, [*[None] * seed, scores], errors=errors)
                runs.setdefault(run["id"], run)
    return list(runs.values())


def keep(run: Record, tensors: Mapping[str, Tensor], folder: Path) -> Record:
    """Keep tensors of a run's network beside the records in ``folder``, and return the record that says so."""
    content, total = records.pack(tensors)
    records.keep(run["id"], content, folder)
    return {**run, "kept": total}


def pretend(errors: Callable[[Recipe], list[float]]) -> Callable[..., Result]:
    """Return a stand-in for ``train`` whose runs have these training errors, at no cost."""

    def train(
        recipe: Recipe,
        dataset: Dataset,
        *,
        device: str,
        checkpoint: Path,
        origin: str,
        on_epoch: Callable[[Epoch], None],
        abandon: Callable[[list[Epoch]], str | None],
        snapshots: Sequence[int] = (),
    ) -> Result:
        past: list[Epoch] = []
        outcome = None
        for epoch in history(errors(recipe)):
            past.append(Epoch(**epoch))
            on_epoch(past[-1])
            outcome = outcome or abandon(past)
        cost = {"train_seconds": 1.0, "evaluate_seconds": 1.0}
        model, outcome = nn.Sequential(), outcome or "completed"
        return Result(recipe, torch.device(device), model, [origin], ["cpu; here"], past, outcome, {}, cost)

    return train


def outcome_of(run: Record) -> tuple[Any, ...]:
    """Return what two machines of a kind must agree on."""
    return run["id"], run["outcome"], without_times(run["history"]), run["scores"], run.get("kept")


def without_times(past: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a history without the seconds, which no two runs share."""
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in past]
