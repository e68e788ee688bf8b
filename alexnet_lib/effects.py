"""What the runs of an experiment show, as estimates: effects of one change, speed-ups, ensembles, towers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from alexnet_lib import filters
from alexnet_lib.estimates import Estimate, estimate, paired_ratio
from alexnet_lib.evidence import ArmResult
from alexnet_lib.recipes import unknown
from alexnet_lib.records import Record

Results = Mapping[str, ArmResult]


# --- Figure 1 -------------------------------------------------------------------------------------------------


def speed_up(results: Results, setting: str, key: str = "train_error") -> Estimate | None:
    """Return how many times the epochs of ReLU its tanh counterpart takes to 25 % training error (P §3.1).

    ``setting``: an arm's name without its activation, e.g. ``2012``. ``key``: the reading of training error. A tanh
    run that stopped at its cap counts with the cap, so that the ratio is a lower bound.
    """
    relu, tanh = results[f"relu-{setting}"], results[f"tanh-{setting}"]
    found = paired_ratio(tanh.epochs_to_target(key), relu.epochs_to_target(key))
    if found is None:
        return None
    return replace(
        found,
        at_least=bool(set(tanh.capped(key)) & relu.runs.keys()),
        note="ReLU runs stopped at their cap" if set(relu.capped(key)) & tanh.runs.keys() else "",
    )


def change_of_speed_up(results: Results, setting: str, other: str) -> Estimate | None:
    """Return by what factor the speed-up in one setting exceeds another's, paired by seed; None without a pair."""
    found: list[dict[int, float]] = []
    capped: set[int] = set()
    for name in (setting, other):
        if f"relu-{name}" not in results:  # a setting that this scale doesn't have
            return None
        sides = [results[f"{activation}-{name}"] for activation in ("relu", "tanh")]
        relu, tanh = (side.epochs_to_target() for side in sides)
        found.append({seed: tanh[seed] / relu[seed] for seed in tanh.keys() & relu.keys()})
        capped.update(*(side.capped() for side in sides))
    factor = paired_ratio(*found)
    there = capped & found[0].keys() & found[1].keys()
    return replace(factor, note="runs stopped at their cap") if factor and there else factor


def settings(results: Results) -> list[str]:
    """Return the settings of Figure 1's experiment in the order of its arms."""
    return [name.removeprefix("relu-") for name in results if name.startswith("relu-")]


# --- Effects of one change ------------------------------------------------------------------------------------

LEVEL = 0.30
"""Training error rate, measured after the epoch, up to which "converging" is counted with and without dropout."""


def same_class(run: Record, where: str) -> float:
    """Return the share of the nearest training images, in ``pixels`` or a layer, that are of a test image's class."""
    return float(run["scores"][f"neighbours_{where}_same_class"])


def _early(run: Record) -> float:
    """Return the training error over the last epoch of the first tenth."""
    return float(run["history"][max(1, round(len(run["history"]) / 10)) - 1]["train_error"])


METRICS: dict[str, Callable[[Record], float]] = {
    "test_error": lambda run: run["scores"]["test_error"],
    "test_error_5views": lambda run: run["scores"]["test_error_5views"],
    "test_error_10views": lambda run: run["scores"]["test_error_10views"],
    "test_error_top5": lambda run: run["scores"]["test_error_top5"],
    "test_error_top5_10views": lambda run: run["scores"]["test_error_top5_10views"],
    "gap": lambda run: run["scores"]["test_error"] - run["scores"]["train_error_after"],
    "train_error": lambda run: run["scores"]["train_error"],
    "early_train_error": _early,
    "gain_of_views": lambda run: run["scores"]["test_error_10views"] - run["scores"]["test_error"],
    "gain_of_views_top5": lambda run: run["scores"]["test_error_top5_10views"] - run["scores"]["test_error_top5"],
    "gain_over_pixels": lambda run: same_class(run, "act7") - same_class(run, "pixels"),
}
"""What is compared, as a fraction, by name: final test error of the centre view, five and ten, top-5 of the centre
view and ten; test minus training error, both of one view of the final weights; training error over the last epoch,
and over the one that ends the first tenth; ten views minus one, top-1 and top-5; share of the nearest training images
that are of a test image's class, in the last hidden layer minus in pixels."""
DIFFERENCES = {"gap", "gain_of_views", "gain_of_views_top5", "gain_over_pixels"}
"""The metrics that are a difference of two shares, and so are shown in points."""


def by_seed(arm: ArmResult, metric: str) -> dict[int, float]:
    """Return a metric in per cent for every run of an arm that has ended well, by seed; without those that lack it.

    A network that is trained on whole images, for one, is scored on no views.

    Raises:
        StudyError: no such metric.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    found = {}
    for seed, run in arm.runs.items():
        if run["outcome"] == "completed":
            with contextlib.suppress(KeyError):
                found[seed] = 100 * METRICS[metric](run)
    return found


def level(arm: ArmResult, metric: str = "test_error") -> Estimate | None:
    """Return the mean of a metric over an arm's seeds: in per cent, a difference of two errors in points."""
    return estimate(list(by_seed(arm, metric).values()), "points" if metric in DIFFERENCES else "per cent")


def difference(results: Results, with_: str, without: str, metric: str = "test_error") -> Estimate | None:
    """Return by how many points arm ``with_`` lies above arm ``without``, paired by seed; None without a pair."""
    if not {with_, without} <= results.keys():  # arms that this scale doesn't have
        return None
    upper, lower = by_seed(results[with_], metric), by_seed(results[without], metric)
    return estimate([upper[seed] - lower[seed] for seed in sorted(upper.keys() & lower.keys())], "points")


# --- Dropout, ensembles, towers --------------------------------------------------------------------------------


def epochs_to(arm: ArmResult, level: float, key: str = "train_error") -> dict[int, float]:
    """Return `ArmResult.epochs_to` of the runs that ended well."""
    found = arm.epochs_to(level, key)
    return {seed: epochs for seed, epochs in found.items() if arm.runs[seed]["outcome"] == "completed"}


def slow_down(results: Results, level: float = LEVEL) -> Estimate | None:
    """Return how many times the epochs dropout takes to a training error of ``level``, after the epoch (P §4.2)."""
    base, without = _to_level(results, level)
    return paired_ratio(base, without)


def only_after_cut(results: Results, level: float = LEVEL) -> bool:
    """Return whether with dropout every pair's run came to ``level`` after the first cut of the rate, without before.

    The cut lets the error fall at once, so that their ratio is then smaller than dropout alone would make it.
    """
    base, without = _to_level(results, level)
    cuts, pairs = results["base"].arm.recipe.cuts, base.keys() & without.keys()
    return bool(cuts and pairs) and all(without[seed] <= cuts[0] < base[seed] for seed in pairs)


def _to_level(results: Results, level: float) -> tuple[dict[int, float], dict[int, float]]:
    """Return the epochs to a training error after the epoch, by seed, with dropout and without."""
    base, without = (epochs_to(results[name], level, "train_error_after") for name in ("base", "no-dropout"))
    return base, without


def subsets(base: ArmResult, most: int = 50) -> dict[int, list[float]]:
    """Return by size the error rates, in per cent, of averages over ``most`` random sets of an arm's networks."""
    members = _members(base)
    random, found = np.random.default_rng(0), {}
    for size in range(1, len(members) + 1):
        drawn = {tuple(sorted(random.choice(len(members), size, replace=False).tolist())) for _ in range(most)}
        found[size] = [100 * _mistakes([members[one] for one in some]).mean().item() for some in sorted(drawn)]
    return found


def agreement(base: ArmResult) -> list[tuple[float, float]]:
    """Return for every two of an arm's networks how often they agree, in per cent of the test images.

    Each: the share on which both name the same class, and the share that both get wrong.
    """
    members = _members(base)
    named = [member["probabilities"].float().argmax(1) for member in members]
    wrong = [classes != members[0]["labels"] for classes in named]
    return [
        (
            100 * (named[one] == named[two]).double().mean().item(),
            100 * (wrong[one] & wrong[two]).double().mean().item(),
        )
        for one in range(len(named))
        for two in range(one)
    ]


def _keeping(arm: ArmResult) -> list[int]:
    """Return the seeds whose run has kept tensors of its network."""
    return sorted(seed for seed, run in arm.runs.items() if "kept" in run)


def _members(arm: ArmResult) -> list[dict[str, Tensor]]:
    """Return what an arm's networks have kept, in the order of the seeds."""
    return [arm.kept(seed) for seed in _keeping(arm)]


def _mistakes(members: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return for every test image whether the members' mean probabilities name another class: float64, 0 or 1."""
    mean = torch.stack([member["probabilities"].float() for member in members]).mean(0)
    return (mean.topk(1).indices[:, 0] != members[0]["labels"]).double()


def ensembles(base: ArmResult, size: int) -> list[tuple[float, float, float]]:
    """Return for disjoint sets of ``size`` members, in the order of the seeds, what averaging them does.

    Each: the error rate of the mean probabilities, the mean of the members' own error rates, in per cent, and the
    standard error of their difference over the test images, in points.
    """
    members = _members(base)
    found = []
    for start in range(0, len(members) - size + 1, size):
        several = members[start : start + size]
        alone = torch.stack([_mistakes([one]) for one in several]).mean(0)
        together = _mistakes(several)
        over_images = float((together - alone).std()) / math.sqrt(len(together))
        found.append((100 * together.mean().item(), 100 * alone.mean().item(), 100 * over_images))
    return found


def specialised(arm: ArmResult) -> dict[int, filters.Split]:
    """Return by seed how the towers of an arm's networks share the colour between them."""
    return {seed: filters.split(arm.kept(seed)["conv1"]) for seed in _keeping(arm)}


def against_control(count: int, of: int, control: int, controls: int) -> float:
    """Return the p-value of ``count`` networks ``of`` all, were they as frequent as among the controls (Fisher's)."""
    table = np.array([[count, of - count], [control, controls - control]])
    return float(stats.fisher_exact(table, "greater").pvalue)
