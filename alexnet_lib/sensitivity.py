"""What the verdicts on AlexNet-32 rest on: pairing by seed, the spread of seeds, and the device a run was trained on.

None of it decides a verdict; all of it was written after the first runs, on 27 November 2026.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from alexnet_lib import evidence, experiments, records
from alexnet_lib.effects import Results, by_seed
from alexnet_lib.estimates import CONFIDENCE, Estimate, pooled
from alexnet_lib.evidence import ArmResult


def variants(scale: str, runs: Path | None = None) -> dict[str, ArmResult]:
    """Return the arms of AlexNet-32 of all experiments, by name, each with as many seeds as any of them asks for.

    None at scale ``imagenet``, where the whole network stands in.

    They are trained on the same test and training images for as many updates; the search for the rate is not among
    them.
    """
    found: dict[str, ArmResult] = {}
    for name in experiments.EXPERIMENTS:
        for arm, result in evidence.results(name, scale, runs).items():
            recipe, least = result.arm.recipe, len(found[arm].runs) if arm in found else 0
            same_length = recipe.epochs == experiments.LENGTHS.get(scale, {}).get("epochs")
            same_images = not (recipe.holdout or recipe.images or recipe.pretrain)
            if recipe.net.startswith("alexnet32") and same_length and same_images and len(result.runs) > least:
                found[arm] = result
    return found


def correlation(arms: Results, metric: str) -> tuple[float, int]:
    """Return how runs of one seed correlate between ``base`` and each other arm, and how many pairs of runs tell.

    Arms count with their deviations from their own mean over the seeds that both have, so only what a seed has in
    common remains: 1 if a seed is equally good in all arms, 0 if pairing by seed brings nothing.
    """
    base, pairs = by_seed(arms["base"], metric), []
    for name, arm in arms.items():
        other = by_seed(arm, metric)
        both = sorted(base.keys() & other.keys())
        if name != "base" and len(both) > 1:
            sides = np.array([[side[seed] for seed in both] for side in (base, other)])
            pairs.append(sides - sides.mean(axis=1, keepdims=True))
    if not pairs:
        return math.nan, 0
    one, two = np.concatenate(pairs, axis=1)
    return float((one * two).sum() / math.sqrt((one**2).sum() * (two**2).sum())), len(one)


def spread(arms: Results, metric: str) -> tuple[float, int]:
    """Return the standard deviation of seeds about their arm's mean, in points, and its degrees of freedom."""
    return pooled(list(by_seed(arm, metric).values()) for arm in arms.values())


def unpaired(arms: Results, with_: str, without: str, metric: str) -> Estimate | None:
    """Return the difference of two arms' means over all their seeds, by the spread that all ``arms`` have in common.

    It has far more degrees of freedom than a few pairs, for the price of an assumption: that the seeds of all arms
    vary alike. None where an arm has no run, or no arm two.
    """
    deviation, freedom = spread(arms, metric)
    upper, lower = (list(by_seed(arms[name], metric).values()) for name in (with_, without))
    if not (upper and lower and freedom):
        return None
    error = deviation * math.sqrt(1 / len(upper) + 1 / len(lower))
    return _estimate(float(np.mean(upper) - np.mean(lower)), error, freedom)


def device_effect(arms: Results, metric: str) -> tuple[Estimate | None, int]:
    """Return by how much runs on a GPU lie above runs on a CPU of the same arm, and how many arms have both.

    The mean of the arms' differences, weighted by what each tells; None where no arm has both.
    """
    differences, weights, groups = [], [], []
    for arm in arms.values():
        by_device: Mapping[bool, list[float]] = {False: [], True: []}
        for seed, value in by_seed(arm, metric).items():
            by_device[records.on_gpu(arm.runs[seed])].append(value)
        cpu, gpu = by_device.values()
        groups += [cpu, gpu]
        if cpu and gpu:
            differences.append(float(np.mean(gpu) - np.mean(cpu)))
            weights.append(len(cpu) * len(gpu) / (len(cpu) + len(gpu)))
    deviation, freedom = pooled(groups)
    if not differences or not freedom:
        return None, 0
    mean = float(np.average(differences, weights=weights))
    return _estimate(mean, deviation / math.sqrt(sum(weights)), freedom), len(differences)


def _estimate(mean: float, error: float, freedom: int) -> Estimate:
    """Return an effect in points with the t-interval of its standard error."""
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return Estimate(mean, mean - half, mean + half, (), "points")
