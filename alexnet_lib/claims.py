"""The ledger: every claim of the paper, our estimate with its interval, and the verdict by the claim's own rule.

``data/claims.yml`` holds the claims and their rules, written before the runs; this module only carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from alexnet_lib import evidence, experiments, models, records
from alexnet_lib.evidence import ArmResult
from alexnet_lib.recipes import StudyError

CLAIMS = records.PROJECT / "data" / "claims.yml"
CONFIDENCE = 0.95
NOT_TESTED = "not tested at this scale"
VERDICTS = ("reproduced", "direction reproduced", "inconclusive", "contradicted", NOT_TESTED)

Claim = Mapping[str, Any]
Results = Mapping[str, ArmResult]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``at_least`` marks a lower bound, from runs that stopped at their cap."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]
    """One value a seed, in the order of the seeds."""
    at_least: bool = False
    note: str = ""

    @property
    def n(self) -> int:
        """Number of pairs of seeds."""
        return len(self.values)


def load(path: Path = CLAIMS) -> list[Claim]:
    """Return the claims in the order of the file.

    Raises:
        StudyError: the file is missing, no YAML, or has a claim without id or with another's.
    """
    try:
        claims = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"claims file {path}: {error}") from error
    ids = [claim.get("id") for claim in claims]
    twice = sorted({str(name) for name in ids if ids.count(name) > 1})
    if None in ids or twice:
        raise StudyError(f"claims file {path}: every claim needs an id of its own; missing or twice: {twice or 'id'}")
    return claims  # type: ignore[no-any-return]


# --- Statistics -----------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean; infinitely wide for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean - half, mean + half


def paired_ratio(upper: Mapping[int, float], lower: Mapping[int, float]) -> Estimate | None:
    """Return the geometric mean of ``upper / lower`` over the seeds that both have, or None without any.

    The interval is the t-interval of the logarithms, carried back.
    """
    seeds = sorted(upper.keys() & lower.keys())
    if not seeds:
        return None
    logs = [math.log(upper[seed] / lower[seed]) for seed in seeds]
    low, high = interval(logs)
    return Estimate(
        mean=math.exp(float(np.mean(logs))),
        low=math.exp(low),
        high=math.exp(high),
        values=tuple(math.exp(value) for value in logs),
    )


def verdict(claim: Claim, estimate: Estimate, scale: str) -> str:
    """Return the verdict on an effect by the claim's rule.

    An interval that excludes no effect in the paper's direction reproduces the direction. It reproduces the claim
    where the scale tests the paper's own number (``number_at``) and the interval holds it or the mean lies in the
    band; a lower bound can't show that.
    """
    null = 1.0 if claim["unit"] == "ratio" else 0.0
    toward = "higher" if estimate.low > null else "lower" if estimate.high < null else None
    if toward is None:
        return "inconclusive"
    if toward != claim["better"]:
        return "contradicted"
    if claim["paper"] is None:  # the direction is all that the paper claims
        return "reproduced" if scale in claim["number_at"] and not estimate.at_least else "direction reproduced"
    holds = estimate.low <= claim["paper"] <= estimate.high
    inside = claim["band"] is not None and claim["band"][0] <= estimate.mean <= claim["band"][1]
    if scale in claim["number_at"] and (holds or inside) and not estimate.at_least:
        return "reproduced"
    return "direction reproduced"


# --- Figure 1 -------------------------------------------------------------------------------------------------


def speed_up(results: Results, setting: str, key: str = "train_error") -> Estimate | None:
    """Return how many times the epochs of ReLU its tanh counterpart takes to 25 % training error (P §3.1).

    ``setting``: an arm's name without its activation, e.g. ``2012``. ``key``: the reading of training error. A tanh
    run that stopped at its cap counts with the cap, so that the ratio is a lower bound.
    """
    relu, tanh = results[f"relu-{setting}"], results[f"tanh-{setting}"]
    estimate = paired_ratio(tanh.epochs_to_target(key), relu.epochs_to_target(key))
    if estimate is None:
        return None
    return replace(
        estimate,
        at_least=bool(set(tanh.capped(key)) & relu.runs.keys()),
        note="ReLU runs stopped at their cap" if set(relu.capped(key)) & tanh.runs.keys() else "",
    )


def settings(results: Results) -> list[str]:
    """Return the settings of Figure 1's experiment in the order of its arms."""
    return [name.removeprefix("relu-") for name in results if name.startswith("relu-")]


def _open(results: Results, setting: str, estimate: Estimate | None, seeds: int) -> bool:
    """Return whether a setting can't be judged yet, or at all.

    So it is while fewer than ``seeds`` pairs, or fewer than the arms declare, have ended with a number, and where a
    ReLU run stopped at its cap, which makes the ratio neither a lower nor an upper bound.
    """
    relu = results[f"relu-{setting}"]
    return estimate is None or estimate.n < max(seeds, relu.arm.seeds) or bool(relu.capped())


def _six_times(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the ratio under the recipe of 2012."""
    estimate = speed_up(results, "2012")
    if estimate is None:
        return None, NOT_TESTED
    return estimate, "inconclusive" if _open(results, "2012", estimate, 5) else verdict(claim, estimate, scale)


def _several_times(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the smallest ratio of all declared settings by the rule of several-fold."""
    found = {setting: speed_up(results, setting) for setting in settings(results)}
    ended = {setting: estimate for setting, estimate in found.items() if estimate is not None and estimate.n >= 3}
    if not ended:
        return None, NOT_TESTED
    setting, least = min(ended.items(), key=lambda item: item[1].mean)
    least = replace(least, note=f"smallest of {len(ended)} of {len(found)} settings: {setting}")
    if any(_open(results, name, estimate, 3) for name, estimate in found.items()):
        return least, "inconclusive"
    if all(e.low > claim["threshold"] for e in ended.values()):
        return least, "reproduced"
    if all(e.low > 1 for e in ended.values()):
        return least, "direction reproduced"
    return least, "contradicted" if any(e.high < 1 for e in ended.values()) else "inconclusive"


JUDGES: dict[str, Callable[[Claim, Results, str], tuple[Estimate | None, str]]] = {
    "relu-six-times-faster": _six_times,
    "relu-several-times-faster": _several_times,
}
"""How a claim's experiment gives estimate and verdict, by the claim's id."""


def judge(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Return a claim's estimate and verdict from its experiment's results.

    The smoke scale shows that the machinery runs; its patterns are not the paper's question, so it has no verdict.
    """
    estimate, found = JUDGES[claim["id"]](claim, results, scale)
    return estimate, NOT_TESTED if scale == "smoke" else found


# --- Counts ---------------------------------------------------------------------------------------------------


def count(claim: str) -> float:
    """Return what a claim of metric ``count`` counts, by arithmetic on the network of the edition ``paper``."""
    size = models.NETS["alexnet-paper"].image_size
    rows = models.layer_table(models.outline("alexnet-paper"), size)
    total = sum(row.parameters for row in rows)
    border = 256 - size  # P §2: crops are taken from 256 x 256 pixels
    return {
        "parameters-60-million": total,
        "neurons-650-thousand": sum(row.neurons for row in rows),
        "first-layer-253440-neurons": next(row.neurons for row in rows if row.name == "conv1"),
        "input-150528-dimensional": size * size * 3,
        "convolutions-hold-one-per-cent": 100
        * max(row.parameters for row in rows if row.name.startswith("conv"))
        / total,
        "crops-and-flips-2048-fold": (border + 1) ** 2 * 2,
    }[claim]


# --- The ledger -----------------------------------------------------------------------------------------------


def ledger(scale: str, runs: Path | None = None) -> pd.DataFrame:
    """Return all claims with what the records of one scale say about them, a row each, in the paper's order.

    Columns: id, section, claim, paper, log, ours, interval, n, scale, verdict, cost (core or GPU hours of the
    claim's experiment), chapter; the four from ``ours`` on are empty text where nothing is measured.
    """
    experiments.check_scale(scale)
    return pd.DataFrame([_row(claim, scale, runs) for claim in load()])


def _row(claim: Claim, scale: str, runs: Path | None) -> dict[str, Any]:
    row = {
        "id": claim["id"],
        "section": claim["section"],
        "claim": " ".join(claim["statement"].split()),
        "paper": claim["paper_text"] or "",
        "log": claim["log_text"] or "",
        "ours": "",
        "interval": "",
        "n": "",
        "scale": scale,
        "verdict": NOT_TESTED,
        "cost": "",
        "chapter": claim["chapter"] or "",
    }
    if claim["metric"] == "count":
        if claim["chapter"]:
            value = count(claim["id"])
            low, high = claim["band"]
            row |= {
                "ours": f"{value:.2f} %" if claim["unit"] == "per cent" else f"{value:,.0f}",
                "interval": "exact",
                "scale": "any",
                "verdict": "reproduced" if low <= value <= high else "contradicted",
            }
    elif claim["id"] in JUDGES and scale in claim["test"]:
        found = evidence.results(claim["experiment"], scale, runs)
        estimate, judged = judge(claim, found, scale)
        hours = cost_hours(records.read(runs, experiment=claim["experiment"], scale=scale))
        row |= {
            "n": str(estimate.n) if estimate else "0",
            "verdict": judged,
            "cost": f"{hours:.1f} h",
        }
        if estimate:
            row |= {"ours": show(estimate), "interval": show_interval(estimate)}
    return row


def show(estimate: Estimate) -> str:
    """Return a ratio as the ledger prints it, e.g. ``at least 5.1 x``."""
    note = f" ({estimate.note})" if estimate.note else ""
    return f"{'at least ' if estimate.at_least else ''}{estimate.mean:.2f} x{note}"


def show_interval(estimate: Estimate) -> str:
    """Return the interval as the ledger prints it: a dash where one seed gives none, no upper end of a bound."""
    if estimate.n < 2:
        return "-"
    return f"{estimate.low:.2f} or more" if estimate.at_least else f"{estimate.low:.2f} to {estimate.high:.2f}"


def cost_hours(runs: Sequence[records.Record]) -> float:
    """Return the hours of one core (or GPU) that runs took, training and evaluation together."""
    return sum(float(run["cost"]["train_seconds"] + run["cost"]["evaluate_seconds"]) for run in runs) / 3600
