"""The ledger: every claim of the paper, our estimate with its interval, and the verdict by the claim's own rule.

``data/claims.yml`` holds the claims and their rules, written before the runs; this module only carries them out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from scipy import stats

from alexnet_lib import effects, evidence, experiments, models, records
from alexnet_lib.effects import Results
from alexnet_lib.estimates import (
    CONFIDENCE,
    MINUS,
    Estimate,
    estimate,
    show,
    show_bootstrap,
    show_detectable,
    show_interval,
)
from alexnet_lib.evidence import ArmResult
from alexnet_lib.recipes import StudyError

CLAIMS = records.PROJECT / "data" / "claims.yml"
NOT_TESTED = "not tested at this scale"
VERDICTS = ("reproduced", "direction reproduced", "inconclusive", "contradicted", NOT_TESTED)

# fmt: off
COLUMNS = (
    "id", "section", "claim", "paper", "log", "ours", "interval", "bootstrap", "n",
    "p", "detectable", "scale", "verdict", "why", "measured", "cost", "runs", "chapter",
)
# fmt: on
"""Of the `ledger`."""
Claim = Mapping[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: Python's takes a fifth of a second for the claims."""


def load(path: Path = CLAIMS) -> list[Claim]:
    """Return the claims in the order of the file.

    Raises:
        StudyError: the file is missing, no YAML, or has a claim without id or with another's.
    """
    try:
        claims = yaml.load(path.read_text(), LOADER)
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"claims file {path}: {error}") from error
    if not (isinstance(claims, list) and all(isinstance(claim, dict) for claim in claims)):
        raise StudyError(f"claims file {path}: it should be a list of claims, each with its fields")
    ids = [claim.get("id") for claim in claims]
    twice = sorted({str(name) for name in ids if ids.count(name) > 1})
    if None in ids or twice:
        raise StudyError(f"claims file {path}: every claim needs an id of its own; missing or twice: {twice or 'id'}")
    return claims


def verdict(claim: Claim, found: Estimate, scale: str) -> str:
    """Return the verdict on an effect by the claim's rule.

    An interval that excludes no effect in the paper's direction reproduces the direction. It reproduces the claim
    where the scale tests the paper's own number (``number_at``) and the interval holds it or the mean lies in the
    band; a lower bound can't show that.
    """
    if claim["unit"] == "per cent":
        return _level(claim, found)
    null = 1.0 if claim["unit"] == "ratio" else 0.0
    toward = "higher" if found.low > null else "lower" if found.high < null else None
    if toward is None:
        return "inconclusive"
    if toward != claim["better"]:
        return "contradicted"
    if claim["paper"] is None:  # the direction is all that the paper claims
        return "reproduced" if scale in claim["number_at"] and not found.at_least else "direction reproduced"
    inside = claim["band"] is not None and claim["band"][0] <= found.mean <= claim["band"][1]
    if scale in claim["number_at"] and (_holds(claim, found) or inside) and not found.at_least:
        return "reproduced"
    return "direction reproduced"


def _holds(claim: Claim, found: Estimate) -> bool:
    """Return whether the interval holds the paper's number, where the rule lets that decide."""
    return not claim.get("mean_decides") and found.low <= claim["paper"] <= found.high


def _level(claim: Claim, found: Estimate) -> str:
    """Return the verdict on an error rate itself; lower than claimed is the paper's direction."""
    low, high = claim["band"]
    if math.isinf(found.low):  # a single run
        return "inconclusive"
    if _holds(claim, found) or low <= found.mean <= high:
        return "reproduced"
    if found.high < low:
        return "direction reproduced"
    return "contradicted" if found.low > high else "inconclusive"


def _open(results: Results, setting: str, found: Estimate | None, seeds: int) -> bool:
    """Return whether a setting can't be judged yet, or at all.

    So it is while fewer than ``seeds`` pairs, or fewer than the arms declare, have ended with a number, and where a
    ReLU run stopped at its cap, which makes the ratio neither a lower nor an upper bound.
    """
    relu = results[f"relu-{setting}"]
    return found is None or found.n < max(seeds, relu.arm.seeds) or bool(relu.capped())


def _six_times(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the ratio under the recipe of 2012."""
    found = effects.speed_up(results, "2012")
    if found is None:
        return None, NOT_TESTED
    if _open(results, "2012", found, 5):
        if results["relu-2012"].capped():
            return replace(found, why="a ReLU run stopped at its cap: the ratio is no bound"), "inconclusive"
        arms = [results["relu-2012"], results["tanh-2012"]]
        return _waits(found, max(5, results["relu-2012"].arm.seeds), arms)
    return found, verdict(claim, found, scale)


def _several_times(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the smallest ratio of all declared settings by the rule of several-fold."""
    found = {setting: effects.speed_up(results, setting) for setting in effects.settings(results)}
    ended = {setting: ratio for setting, ratio in found.items() if ratio is not None and ratio.n >= 3}
    if not ended:
        return None, NOT_TESTED
    setting, least = min(ended.items(), key=lambda item: item[1].mean)
    threshold = claim["threshold"]
    below = [name for name, ratio in ended.items() if ratio.high < threshold]
    least = replace(
        least,
        note=f"{setting}, the smallest of {len(ended)} of {len(found)} settings",
        p=None,  # "no effect" is a ratio of 1, and the claim is of more
        why=f"{len(below)} of {len(ended)} intervals lie below {threshold}, the reading of 'several' here"
        if below
        else "",
    )
    waiting = [name for name, ratio in found.items() if _open(results, name, ratio, 3)]
    if waiting:
        arms = [results[f"{activation}-{name}"] for name in waiting for activation in ("relu", "tanh")]
        lacks = _unjudged(f"{len(waiting)} of {len(found)} settings", arms)
        if capped := [name for name in waiting if results[f"relu-{name}"].capped()]:
            lacks = f"no verdict can come: in {', '.join(capped)} ReLU itself stopped at its cap"
        return replace(least, why="; ".join(filter(None, (least.why, lacks)))), "inconclusive"
    if all(e.low > threshold for e in ended.values()):
        return replace(least, why=f"above {threshold} in all settings"), "reproduced"
    if all(e.low > 1 for e in ended.values()):
        return replace(
            least, why=least.why or f"above 1 in all settings, not above {threshold}"
        ), "direction reproduced"
    return least, "contradicted" if any(e.high < 1 for e in ended.values()) else "inconclusive"


def _waits(
    found: Estimate, wanted: int, arms: Sequence[ArmResult], what: str = "pairs of seeds"
) -> tuple[Estimate, str]:
    """Return the verdict while fewer than ``wanted`` have a number, and whether runs of ``arms`` are to come."""
    if _lacking(arms):
        return replace(found, why=f"open, {found.n} of {wanted} {what}"), "inconclusive"
    return replace(found, why=f"all runs have ended, {found.n} of {wanted} {what} with a number"), "inconclusive"


def _lacking(arms: Sequence[ArmResult]) -> bool:
    """Return whether runs of ``arms`` are to come."""
    return any(arm.searching or (arm.rate is not None and len(arm.runs) < arm.arm.seeds) for arm in arms)


def _unjudged(parts: str, arms: Sequence[ArmResult]) -> str:
    """Say that ``parts`` of a claim have no verdict, and whether runs of ``arms`` may bring it."""
    return f"open, {parts} can't be judged yet" if _lacking(arms) else f"all runs have ended, {parts} can't be judged"


def _metric(name: str, scale: str) -> str:
    """Return the metric that a scale measures: on ImageNet the test error is that of ten views, as in the paper."""
    return "test_error_10views" if name == "test_error" and scale == "imagenet" else name


def _by_effect(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge what a claim's entry ``effect`` describes: one change, paired by seed, or a level."""
    of = claim["effect"]
    metric = _metric(of["metric"], scale)
    arms = [results[of[side]] for side in ("with", "without", "arm") if of.get(side) in results]
    if "without" in of:
        found = effects.difference(results, of["with"], of["without"], metric)
    else:
        found = effects.level(arms[0], metric) if arms else None
    return _ended(claim, found, scale, arms)


def _ended(
    claim: Claim, found: Estimate | None, scale: str, arms: Sequence[ArmResult]
) -> tuple[Estimate | None, str]:
    """Return the verdict once every run that ``arms`` declare in common has ended."""
    if found is None:
        return None, NOT_TESTED
    if claim["unit"] == "per cent" and scale not in claim["number_at"]:
        other = "other images and classes" if claim["number_at"] == ["imagenet"] else "another schedule"
        return replace(found, why=f"the level of {other}, not judged"), NOT_TESTED
    wanted = min(arm.arm.seeds for arm in arms)
    if found.n < wanted:
        return _waits(found, wanted, arms, "seeds" if len(arms) == 1 else "pairs of seeds")
    return found, verdict(claim, found, scale)


def _doubles(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the ratio of epochs with and without dropout."""
    if "no-dropout" not in results:  # of the network's own ablations, some scales train one pair
        return None, NOT_TESTED
    return _ended(claim, effects.slow_down(results), scale, [results["base"], results["no-dropout"]])


def _depth(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the three convolutions together by the effect that is least in the paper's favour."""
    layers = ("no-conv3", "no-conv4", "no-conv5")
    metric = _metric("test_error", scale)
    found = {layer: effects.difference(results, "base", layer, metric) for layer in layers}
    ended = {layer: points for layer, points in found.items() if points is not None}
    if not ended:
        return None, NOT_TESTED
    layer, least = max(ended.items(), key=lambda item: item[1].mean)
    note = f"{layer.removeprefix('no-')}, of {len(ended)} layers the one least in the paper's favour"
    known = [points.p for points in ended.values() if points.p is not None]
    least = replace(least, note=note, p=max(known) if len(known) == len(ended) else None)  # all three must show it
    waiting = [layer for layer in layers if layer not in ended or ended[layer].n < results[layer].arm.seeds]
    if waiting:
        arms = [results[name] for name in ("base", *waiting)]
        return replace(least, why=_unjudged(f"{len(waiting)} of 3 layers", arms)), "inconclusive"
    verdicts = {name: verdict(claim, points, scale) for name, points in ended.items()}
    judged = next(
        each
        for each in ("contradicted", "inconclusive", "direction reproduced", "reproduced")
        if each in verdicts.values()
    )
    decided = layer if verdicts[layer] == judged else next(name for name in layers if verdicts[name] == judged)
    if judged == "contradicted":  # by any one of them: Bonferroni's correction
        least = replace(least, p=min(1.0, len(layers) * min(known)))
    by = "" if decided == layer else f"decided by {decided}, {show(ended[decided])}"
    return replace(least, why="; ".join(filter(None, (by, _why(claim, ended[decided], judged, scale))))), judged


def _five_networks(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge what averaging five networks gains, over disjoint sets of five."""
    base = results["base"]
    found = estimate([together - alone for together, alone, _ in effects.ensembles(base, 5)], "points")
    if found is None:
        return None, NOT_TESTED
    if found.n < base.arm.seeds // 5:
        return _waits(found, base.arm.seeds // 5, [base], "sets of five")
    return found, verdict(claim, found, scale)


def _towers_specialise(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge the share of seeds in which the towers' colour selectivity differs more than random halves do."""
    splits = effects.specialised(results["base"])
    if not splits:
        return None, NOT_TESTED
    counts = [split.specialised for split in splits.values()]
    test = stats.binomtest(sum(counts), len(counts), 1 - CONFIDENCE, alternative="greater")
    ci = stats.binomtest(sum(counts), len(counts)).proportion_ci(CONFIDENCE, method="exact")
    found = Estimate(
        mean=100 * sum(counts) / len(counts),
        low=100 * float(ci.low),
        high=100 * float(ci.high),
        values=tuple(100.0 * count for count in counts),
        unit="per cent",
        note=f"{sum(counts)} of {len(counts)} networks",
        why=("" if all(counts) else f"not in every run: {counts.count(False)} of {len(counts)} do not; ")
        + f"by chance {100 * (1 - CONFIDENCE):.0f} % would"
        + _beside_control(counts, results),
        p=float(test.pvalue) if len(counts) > 1 else None,
    )
    if found.n < results["base"].arm.seeds:
        return _waits(found, results["base"].arm.seeds, [results["base"]], "networks")
    if all(counts) and found.low > 50:
        return found, "reproduced"
    if found.low > 100 * (1 - CONFIDENCE):
        return found, "direction reproduced"
    return found, "contradicted" if not any(counts) and found.high < 50 else "inconclusive"


def _beside_control(counts: Sequence[bool], results: Results) -> str:
    """Say how many networks of one tower, cut in two, count as well, and what that leaves of the difference."""
    if "one-tower" not in results:
        return ""
    control = [split.specialised for split in effects.specialised(results["one-tower"]).values()]
    if not control:
        return ""
    p = effects.against_control(sum(counts), len(counts), sum(control), len(control))
    shown = "more" if p < 1 - CONFIDENCE else "not shown to be more"
    return f"; {shown} than where nothing divides them ({sum(control)} of {len(control)}, p = {p:.2g})"


def _neighbours(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Judge how many more neighbours are of the same class in the last hidden layer than in pixels."""
    arm = next(results[name] for name in claim["decided_by"] if name in results)
    return _ended(claim, effects.level(arm, "gain_over_pixels"), scale, [arm])


JUDGES: dict[str, Callable[[Claim, Results, str], tuple[Estimate | None, str]]] = {
    "relu-six-times-faster": _six_times,
    "relu-several-times-faster": _several_times,
    "dropout-doubles-iterations": _doubles,
    "depth": _depth,
    "five-networks": _five_networks,
    "towers-specialise": _towers_specialise,
    "neighbours-are-not-close-in-pixels": _neighbours,
}
"""How a claim's experiment gives estimate and verdict, by the claim's id, where its entry ``effect`` can't say it."""


def judge(claim: Claim, results: Results, scale: str) -> tuple[Estimate | None, str]:
    """Return a claim's estimate and verdict from its experiment's results.

    The smoke scale shows that the machinery runs; its patterns are not the paper's question, so it has no verdict.
    """
    if not results:  # the experiment has no arms at this scale
        return None, NOT_TESTED
    found, judged = JUDGES.get(claim["id"], _by_effect)(claim, results, scale)
    if found is None:
        return None, NOT_TESTED
    if scale == "smoke":
        return replace(found, why=""), NOT_TESTED
    why = found.why or _why(claim, found, judged, scale)
    return replace(found, why="; ".join(filter(None, (why, *_limits(claim, results, judged))))), judged


def _why(claim: Claim, found: Estimate, judged: str, scale: str) -> str:
    """Return which part of the rule decided, as the book prints it beside the verdict."""
    number_tested = scale in claim["number_at"]
    if judged == "inconclusive":
        if claim["unit"] == "per cent":
            return "the interval reaches beyond the band"
        said = f"the interval includes {1 if claim['unit'] == 'ratio' else 'zero'}"
        if claim["paper"] is not None and not number_tested:
            return f"{said}; the paper's number is not tested at this scale"
        return said + (" and excludes the paper's number" if _excluded(claim, found) else "")
    if judged == "contradicted":
        return "" if number_tested else "in direction: the paper's own data are not tested at this scale"
    if claim["paper"] is None:
        return "the paper gives no size, and none is judged"
    if not number_tested:
        return "the paper's number is not tested at this scale"
    if judged == "direction reproduced":
        return "a lower bound" if found.at_least else f"the mean lies outside {_band(claim)}"
    if _holds(claim, found):
        return "the interval holds the paper's number"
    beside = "; the number is outside the interval" if _excluded(claim, found) else ""
    return f"the mean lies in {_band(claim)}{beside}"


def _excluded(claim: Claim, found: Estimate) -> bool:
    """Return whether the paper has a number and the interval does not hold it."""
    return claim["paper"] is not None and not found.at_least and not found.low <= claim["paper"] <= found.high


def _limits(claim: Claim, results: Results, judged: str) -> list[str]:
    """Return what must stand beside a verdict that is decided: on what it was measured, and what a gap leaves out."""
    if judged in ("inconclusive", NOT_TESTED):
        return []
    limits = []
    if claim["id"] == "dropout-doubles-iterations" and effects.only_after_cut(results):
        limits.append(
            "only with dropout was the rate cut before the level was reached, which can only lower the ratio"
        )
    if claim["id"] == "neighbours-are-not-close-in-pixels":
        limits.append("of the class alone, not of the pixels")
        limits += ["on a reduced network and ten classes"] if "reduced" in results else []
    of = claim.get("effect") or {}
    if of.get("metric") == "gap":  # which narrows as training images get harder to fit, whatever test images do
        error = effects.difference(results, of["with"], of["without"])
        limits += [f"of the gap alone: test error {show(error)} ({show_interval(error)})"] if error else []
    compared = {of[part] for part in ("with", "without", "arm") if part in of} or results.keys()
    if any(results[arm].arm.recipe.net.startswith("alexnet32") for arm in compared & results.keys()):
        limits.append("on AlexNet-32, a miniature")
    if "with" in of and results[of["with"]].arm.recipe.net.startswith("cifar-"):  # in 2012 trained for far longer
        limits.append(f"after {results[of['with']].arm.recipe.epochs} epochs")
    return limits


def _band(claim: Claim) -> str:
    low, high = (f"{end:g}".replace("-", MINUS) for end in claim["band"])
    return f"the band {low} to {high} around the paper's number"


# --- Counts ---------------------------------------------------------------------------------------------------


@functools.cache
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
        "other-layers-368872-neurons": sum(row.neurons for row in rows if row.name != "conv1"),
        "input-150528-dimensional": size * size * 3,
        "convolutions-hold-one-per-cent": 100
        * max(row.parameters for row in rows if row.name.startswith("conv"))
        / total,
        "crops-and-flips-2048-fold": (border + 1) ** 2 * 2,
    }[claim]


# --- The ledger -----------------------------------------------------------------------------------------------


def ledger(scale: str, runs: Path | None = None) -> pd.DataFrame:
    """Return all claims with what the records of one scale say about them, a row each, in the paper's order.

    ``interval`` is the t-interval, ``p`` of no effect, adjusted; ``detectable`` the smallest effect that an
    inconclusive design would detect with 80 % power; ``why`` says which part of the rule decided, or what is missing;
    ``measured`` is network, data and epochs, ``cost`` the hours of the claim's experiment (see `cost`), ``runs`` the
    files in ``data/runs`` that hold them. Columns from ``ours`` to ``detectable`` are empty text where nothing is
    measured.

    ``p`` is adjusted for the false discovery rate (Benjamini and Hochberg) over the family of all claims of the
    ledger that runs of this scale judge: of those below 0.05 at most 5 % are false, on average.
    """
    experiments.check_scale(scale)
    claims = load()
    found = {name: evidence.results(name, scale, runs) for name in experiments.EXPERIMENTS}
    judged = {
        claim["id"]: judge(claim, found[claim["experiment"]], scale)
        for claim in claims
        if claim["experiment"] and scale in claim["test"]
    }
    raw = {
        name: result.p
        for name, (result, what) in judged.items()
        if result is not None and result.p is not None and what != NOT_TESTED
    }
    adjusted = dict(zip(raw, stats.false_discovery_control(list(raw.values())) if raw else [], strict=True))
    costs = {name: cost([run for arm in results.values() for run in arm.all_runs]) for name, results in found.items()}
    rows = []
    for claim in claims:
        row = _row(claim, scale)
        if claim["id"] in judged:
            runs_of = {run["experiment"] for arm in found[claim["experiment"]].values() for run in arm.all_runs}
            row |= _measured(*judged[claim["id"]]) | {
                "measured": _setting(claim, found[claim["experiment"]]),
                "cost": costs[claim["experiment"]],
                "runs": " ".join(sorted(runs_of)),
            }
        if claim["id"] in adjusted:
            row["p"] = f"{adjusted[claim['id']]:.2g}"
        rows.append(row)
    return pd.DataFrame(rows)


def _measured(found: Estimate | None, judged: str) -> dict[str, str]:
    """Return the columns that runs fill."""
    if found is None:
        return {"n": "0", "verdict": judged, "why": "no runs to compare yet"}
    return {
        "ours": show(found),
        "interval": show_interval(found),
        "bootstrap": show_bootstrap(found) if math.isfinite(found.bootstrap[1]) else "",
        "n": str(found.n),
        "detectable": show_detectable(found) if judged == "inconclusive" and found.unsettled else "",
        "verdict": judged,
        "why": found.why,
    }


def _setting(claim: Claim, results: Results) -> str:
    """Return what a claim's runs train: network, data, epochs."""
    if not results:
        return ""
    of = claim.get("effect") or {}
    names = [*filter(None, map(of.get, ("with", "arm"))), *claim.get("decided_by", ()), *results]
    recipe = next(results[name] for name in names if name in results).arm.recipe
    epochs = f"up to {recipe.epochs}" if recipe.target_error else f"{recipe.epochs}"
    return f"{recipe.net}, {recipe.data}, {epochs} epochs"


def _row(claim: Claim, scale: str) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS, "") | {
        "id": claim["id"],
        "section": claim["section"],
        "claim": " ".join(claim["statement"].split()),
        "paper": claim["paper_text"] or "",
        "log": claim["log_text"] or "",
        "scale": scale,
        "verdict": NOT_TESTED,
        "chapter": claim["chapter"] or "",
    }
    if claim["metric"] == "count" and claim["chapter"]:
        value = count(claim["id"])
        low, high = claim["band"]
        row |= {
            "ours": f"{value:.2f} %" if claim["unit"] == "per cent" else f"{value:,.0f}",
            "interval": "exact",
            "scale": "any",
            "verdict": "reproduced" if low <= value <= high else "contradicted",
        }
    return row


def cost(runs: Sequence[records.Record]) -> str:
    """Return the hours that runs took, training and evaluation together: of a CPU's core, and of a GPU.

    Runs that share a GPU each count whole.
    """
    hours = {"core": 0.0, "GPU": 0.0}
    for run in runs:
        hours["GPU" if records.on_gpu(run) else "core"] += records.seconds(run) / 3600
    return " + ".join(f"{spent:.{1 if spent >= 1 else 2}f} {of} h" for of, spent in hours.items() if spent) or "0 h"
