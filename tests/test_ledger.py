"""The ledger's numbers once more, from the lines of the records' files with plain arithmetic.

Nothing here reads records, chooses runs or computes an estimate with the library: only what is declared (claims,
arms, defaults of a recipe) comes from it, and the ledger that is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from studies import ended, figure1, ratio_of, whole, write

from alexnet_lib import claims, effects, evidence, experiments, sensitivity
from alexnet_lib.estimates import paired_ratio
from alexnet_lib.recipes import Recipe
from alexnet_lib.records import Record

PROJECT = Path(__file__).resolve().parent.parent
PUBLISHED = PROJECT / "data" / "runs"
CLAIMS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "data" / "claims.yml").read_text())
WITH_EFFECT = [claim for claim in CLAIMS if "effect" in claim and "laptop" in claim["test"]]
NOT_TESTED = "not tested at this scale"
T = dict(
    enumerate(
        (
            *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
            *(2.200985, 2.178813, 2.160369, 2.144787),
        ),
        1,
    )
)
"""97.5 % quantiles of Student's t by degrees of freedom, from a printed table."""


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the laptop records of a folder, in the order of its files and their lines."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [run for run in map(json.loads, lines) if run["scale"] == "laptop"]


def row(ledger: pd.DataFrame, claim: str) -> dict[str, Any]:
    (found,) = ledger[ledger["id"] == claim].to_dict("records")
    return {str(key): value for key, value in found.items()}


# --- effects and levels of AlexNet-32 -----------------------------------------------------------------------


def first_tenth(run: dict[str, Any]) -> float:
    epochs: list[dict[str, float]] = run["history"]
    return epochs[{4: 0, 8: 0, 16: 1}[len(epochs)]]["train_error"]


MEASURED: dict[str, Callable[[dict[str, Any]], float]] = {
    "test_error": lambda run: run["scores"]["test_error"],
    "test_error_10views": lambda run: run["scores"]["test_error_10views"],
    "gap": lambda run: run["scores"]["test_error"] - run["scores"]["train_error_after"],
    "train_error": lambda run: run["scores"]["train_error"],
    "early_train_error": first_tenth,
    "gain_of_views": lambda run: run["scores"]["test_error_10views"] - run["scores"]["test_error"],
}


def but_seed(recipe: dict[str, Any]) -> str:
    """Return a recipe without its seed as text; fields from after the run was recorded have their default."""
    return json.dumps({**Recipe().resolved(), **recipe, "seed": None}, sort_keys=True)


def measured(lines: list[dict[str, Any]], arm: experiments.Arm, metric: str) -> dict[int, float]:
    """Return a metric in per cent, by seed, of the runs of the arm's recipe that ended; of two equal the first."""
    groups: dict[str, dict[int, dict[str, Any]]] = {}
    for run in lines:
        groups.setdefault(but_seed(run["recipe"]), {}).setdefault(run["recipe"]["seed"], run)
    runs = groups.get(but_seed(arm.recipe.resolved()), {})
    return {
        seed: 100 * MEASURED[metric](run)
        for seed, run in sorted(runs.items())
        if run["outcome"] == "completed" and seed < arm.seeds
    }


def values_of(lines: list[dict[str, Any]], claim: dict[str, Any]) -> tuple[list[float], int]:
    """Return the claim's values by seed, and how many of them the scale declares."""
    arms = {arm.name: arm for arm in experiments.arms(claim["experiment"], "laptop")}
    effect = claim["effect"]
    if "arm" in effect:
        arm = arms[effect["arm"]]
        return list(measured(lines, arm, effect["metric"]).values()), arm.seeds
    first, second = arms[effect["with"]], arms[effect["without"]]
    above, below = measured(lines, first, effect["metric"]), measured(lines, second, effect["metric"])
    return [above[seed] - below[seed] for seed in above if seed in below], min(first.seeds, second.seeds)


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % t-interval."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return mean, -math.inf, math.inf
    half = T[n - 1] * math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, mean - half, mean + half


def judged(claim: dict[str, Any], n: int, declared: int, numbers: tuple[float, float, float]) -> str:
    """Return the verdict as the rules of effects word it; all of them have a direction downwards."""
    mean, low, high = numbers
    if claim["unit"] == "per cent":
        return NOT_TESTED  # at this scale levels are printed and not judged
    assert claim["better"] == "lower"
    if n < declared or low <= 0 <= high:
        return "inconclusive"
    if low > 0:
        return "contradicted"
    if "laptop" not in claim["number_at"]:
        return "direction reproduced"
    if claim["paper"] is None:
        return "reproduced"
    inside = claim["band"] and claim["band"][0] <= mean <= claim["band"][1]
    return "reproduced" if inside or low <= claim["paper"] <= high else "direction reproduced"


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def check_effect(ledger: pd.DataFrame, lines: list[dict[str, Any]], claim: dict[str, Any]) -> int:
    """Hold a claim's row against what its lines give by plain arithmetic; return the number of values."""
    found = row(ledger, claim["id"])
    values, declared = values_of(lines, claim)
    n = len(values)
    assert found["n"] == str(n)
    if n == 0:
        assert (found["ours"], found["interval"], found["verdict"]) == ("", "", NOT_TESTED)
        return 0
    mean, low, high = mean_and_interval(values)
    digits, unit = found["ours"].split(" ", 1)
    assert unit == ("%" if claim["unit"] == "per cent" else "points")
    assert (digits[0] in "+−") == (unit == "points" and digits != "0.00")
    assert number(digits) == pytest.approx(mean, abs=0.00501)
    if n == 1:
        assert found["interval"] == "–"
    else:
        ends = [number(end) for end in found["interval"].split(" to ")]
        assert ends == pytest.approx([low, high], abs=0.00501)
    assert found["verdict"] == judged(claim, n, declared, (mean, low, high))
    return n


def test_every_metric_that_a_claim_names_is_measured_here_again() -> None:
    assert {claim["effect"]["metric"] for claim in WITH_EFFECT} == MEASURED.keys()


def nothing() -> list[Record]:
    """No run of AlexNet-32 has ended yet."""
    return figure1({"relu-2012": [4.0]})


def unpaired() -> list[Record]:
    """Arms have other seeds than the one they are compared with, or none."""
    return [run for run in whole() if (run["seed"] < 2) == (run["arm"] == "base")]


def spoilt() -> list[Record]:
    """A run diverged, one was recorded twice with other numbers, recipes and scales are mixed, seeds in any order."""
    runs = whole(draw=3)[::-1]
    for run in runs:
        if run["seed"] == 1 and run["arm"] not in ("base", "pool2"):
            run |= {"outcome": "diverged: loss not finite", "scores": {}}
    twice = [{**run, "scores": {name: 0.9 for name in run["scores"]}} for run in runs if run["seed"] == 2]
    other = ended("lrn", "no-lrn", [90.0] * 2, scale="gpu")
    longer = [{**run, "arm": "no-lrn"} for run in ended("ensembles", "five-times-longer", [80.0] * 3)]
    return [*runs, *twice, *other, *longer]


def older() -> list[Record]:
    """Runs from before a recipe field existed."""
    runs = whole(draw=4)
    for run in runs:
        if run["recipe"]["places"] == Recipe().places:
            del run["recipe"]["places"]
    return runs


MADE_UP: dict[str, tuple[Callable[[], list[Record]], dict[str, int]]] = {
    # name: (records, number of values of some claims)
    "nothing": (nothing, {"lrn-imagenet": 0, "ten-views": 0}),
    "unpaired": (unpaired, {"lrn-imagenet": 0, "ten-views": 2, "cifar10-11-per-cent": 3}),
    "one seed": (lambda: whole(1, draw=1), {"lrn-imagenet": 1, "cifar10-13-per-cent": 1}),
    "two seeds": (lambda: whole(2, draw=2), {"lrn-imagenet": 2, "pca-colour-noise": 2}),
    "all": (lambda: whole(draw=7), {"lrn-imagenet": 5, "pca-colour-noise": 3, "ten-views": 15}),
    "spoilt": (spoilt, {"lrn-imagenet": 4, "overlapping-pooling": 5, "crops-and-flips": 2}),
    "older": (older, {"lrn-imagenet": 5, "crops-and-flips": 3}),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_plain_arithmetic_agrees_on_every_effect_of_made_up_records(tmp_path: Path, name: str) -> None:
    make, expected = MADE_UP[name]
    folder = write(tmp_path, make())
    ledger, lines = claims.ledger("laptop", folder), lines_of(folder)
    found = {claim["id"]: check_effect(ledger, lines, claim) for claim in WITH_EFFECT}
    assert {claim: found[claim] for claim in expected} == expected


def test_made_up_records_lead_to_every_verdict_that_an_effect_can_have_here(tmp_path: Path) -> None:
    ledger = claims.ledger("laptop", write(tmp_path, whole(draw=7)))
    assert {row(ledger, claim["id"])["verdict"] for claim in WITH_EFFECT} == set(claims.VERDICTS)


@pytest.fixture(scope="module")
def published() -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    return claims.ledger("laptop", PUBLISHED), lines_of(PUBLISHED)


@pytest.mark.parametrize("claim", WITH_EFFECT, ids=lambda claim: claim["id"])
def test_the_published_effects_follow_from_the_records_by_plain_arithmetic(
    published: tuple[pd.DataFrame, list[dict[str, Any]]], claim: dict[str, Any]
) -> None:
    check_effect(*published, claim)


# --- Figure 1 -----------------------------------------------------------------------------------------------

CAP = 80.0


def epochs_to_a_quarter(run: dict[str, Any]) -> float:
    errors = [epoch["train_error"] for epoch in run["history"]]
    for n, error in enumerate(errors):
        if error <= 0.25:
            return float(n + 1) if n == 0 else n + (errors[n - 1] - 0.25) / (errors[n - 1] - error)
    return math.inf


def seeds_at_the_chosen_rate(lines: list[dict[str, Any]], arm: str) -> dict[int, float]:
    """Return the epochs by seed at the fastest rate of the search, empty while it lies at the grid's edge."""
    runs: dict[tuple[float, int], dict[str, Any]] = {}
    for run in lines:
        if run["arm"] == arm and run["scale"] == "laptop":
            runs.setdefault((run["recipe"]["rate"], run["recipe"]["seed"]), run)
    grid = {rate: run for (rate, seed), run in runs.items() if seed == 0}
    ended = {rate: run for rate, run in grid.items() if run["outcome"] == "completed"}
    if not ended:
        return {}
    best = min(ended, key=lambda rate: (epochs_to_a_quarter(ended[rate]), ended[rate]["history"][-1]["train_error"]))
    if len(grid) < 3 or not min(grid) < best < max(grid):
        return {}
    return {seed: epochs_to_a_quarter(run) for (rate, seed), run in runs.items() if rate == best}


def recompute(lines: list[dict[str, Any]], setting: str) -> tuple[int, float, float, float, bool]:
    """Return n, ratio, both ends of its interval, and whether a tanh run stopped at the cap."""
    relu = seeds_at_the_chosen_rate(lines, f"relu-{setting}")
    tanh = seeds_at_the_chosen_rate(lines, f"tanh-{setting}")
    pairs = [(min(tanh[seed], CAP), min(relu[seed], CAP)) for seed in sorted(relu.keys() & tanh.keys())]
    n = len(pairs)
    if n == 0:
        return 0, math.nan, math.nan, math.nan, False
    logs = [math.log(upper / lower) for upper, lower in pairs]
    mean = sum(logs) / n
    capped = any(math.isinf(tanh[seed]) for seed in relu.keys() & tanh.keys())
    if n == 1:
        return 1, math.exp(mean), 0.0, math.inf, capped
    half = T[n - 1] * math.sqrt(sum((x - mean) ** 2 for x in logs) / (n - 1) / n)
    return n, math.exp(mean), math.exp(mean - half), math.exp(mean + half), capped


def six_times(n: int, ratio: float, low: float, high: float, at_least: bool) -> str:
    """Return the verdict as the rule of the claim words it."""
    if n < 5:  # the protocol's number of seeds
        return "inconclusive"
    if low > 1:
        number = low <= 6 <= high or 4 <= ratio <= 9
        return "reproduced" if number and not at_least else "direction reproduced"
    return "contradicted" if high < 1 else "inconclusive"


def check_figure1(ledger: pd.DataFrame, lines: list[dict[str, Any]]) -> None:
    """Hold both Figure 1 rows of the ledger against numbers recomputed from the files' lines."""
    lines = [run for run in lines if run["experiment"] == "relu_vs_tanh"]
    found = row(ledger, "relu-six-times-faster")
    n, ratio, low, high, at_least = recompute(lines, "2012")
    assert found["n"] == str(n)
    if n:
        assert found["ours"] == f"{'at least ' if at_least else ''}{ratio:.2f} x"
        ends = f"{low:.2f} or more" if at_least else f"{low:.2f} to {high:.2f}"
        assert found["interval"] == ("–" if n == 1 else ends)
        assert found["verdict"] == six_times(n, ratio, low, high, at_least)
    settings = sorted({run["arm"].split("-", 1)[1] for run in lines})
    enough = {s: numbers for s in settings if (numbers := recompute(lines, s))[0] >= 3}
    found = row(ledger, "relu-several-times-faster")
    if not enough:
        assert (found["n"], found["verdict"]) == ("0", NOT_TESTED)
        return
    least = min(enough, key=lambda setting: enough[setting][1])
    n, ratio, low, high, at_least = enough[least]
    assert found["n"] == str(n)
    note = f" ({least}, the smallest of {len(enough)} of 5 settings)"
    assert found["ours"] == f"{'at least ' if at_least else ''}{ratio:.2f} x{note}"
    lows, highs = [numbers[2] for numbers in enough.values()], [numbers[3] for numbers in enough.values()]
    weak = "contradicted" if min(highs) < 1 else "inconclusive"
    expected = "reproduced" if min(lows) > 2 else "direction reproduced" if min(lows) > 1 else weak
    wanted = {"2012": 5, "modern": 5, "raw-variance": 3, "unit-file": 3, "modern-26pct": 3}
    complete = all(recompute(lines, setting)[0] >= seeds for setting, seeds in wanted.items())
    relu = [seeds_at_the_chosen_rate(lines, f"relu-{setting}") for setting in settings]
    capped = any(math.isinf(epochs) for runs in relu for epochs in runs.values())
    assert found["verdict"] == (expected if complete and not capped else "inconclusive")


def test_the_published_ratios_follow_from_the_records_by_plain_arithmetic(
    published: tuple[pd.DataFrame, list[dict[str, Any]]],
) -> None:
    check_figure1(*published)


@pytest.mark.parametrize(
    "epochs",
    [
        {},
        {"relu-2012": [4.2]},
        {"relu-2012": [4.2], "tanh-2012": [20.7]},
        {"relu-2012": [4.2, 3.9, 4.4], "tanh-2012": [20.7, 31.3]},
        ratio_of("2012", 5.5, seeds=4, spread=1.2) | ratio_of("modern", 1.7, spread=1.3),
        ratio_of("2012", 25.0, seeds=5, spread=1.2) | ratio_of("unit-file", 0.7),
    ],
)
def test_plain_arithmetic_agrees_on_ratios_of_made_up_records_whole_or_partial(
    tmp_path: Path, epochs: dict[str, Sequence[float]]
) -> None:
    folder = write(tmp_path, figure1(epochs))
    check_figure1(claims.ledger("laptop", folder), lines_of(folder))


def test_the_readme_counts_the_verdicts_as_the_ledger_does(
    published: tuple[pd.DataFrame, list[dict[str, Any]]],
) -> None:
    ledger, _ = published
    verdicts = ledger[(ledger["interval"] != "exact") & (ledger["verdict"] != NOT_TESTED)]["verdict"].value_counts()
    said = (
        f"Of the {verdicts.sum()} claims that runs of scale `laptop` judge, {verdicts['reproduced']} are reproduced, "
        f"{verdicts['direction reproduced']} in direction, {verdicts['contradicted']} is contradicted, "
        f"{verdicts['inconclusive']} are inconclusive"
    )
    assert said in " ".join((PROJECT / "README.md").read_text().split())


# --- what chapters say in prose of the published records ------------------------------------------------------


def test_second_looks_at_normalisation_and_dropout_end_as_their_chapters_say() -> None:
    arms = sensitivity.variants("laptop", PUBLISHED)
    paired = effects.difference(arms, "code-lrn", "no-lrn")
    common = sensitivity.unpaired(arms, "code-lrn", "no-lrn", "test_error")
    assert paired
    assert common
    assert common.high - common.low > paired.high - paired.low, "chapter 2: wider"
    assert common.low < 0 < common.high, "chapter 2: and includes zero"
    gap = sensitivity.unpaired(arms, "no-dropout", "base", "gap")
    assert gap
    assert gap.low > 0, "chapter 6: excludes zero in the paper's direction"


def test_the_ratio_runs_from_level_to_level_as_the_caption_of_chapter_1_says() -> None:
    results = evidence.results("relu_vs_tanh", "laptop", PUBLISHED)

    def ratio(setting: str, level: float) -> float:
        tanh, relu = (effects.epochs_to(results[f"{name}-{setting}"], level / 100) for name in ("tanh", "relu"))
        found = paired_ratio(tanh, relu)
        assert found
        return found.mean

    grown = [ratio("2012", level) for level in (60, 50, 40, 30, 28)]
    assert grown == sorted(grown)
    assert [ratio("2012", level) for level in (28, 27, 26, 25)] == pytest.approx([6.5] * 4, abs=0.05)
    assert ratio("unit-file", 60) == pytest.approx(0.8, abs=0.05)
    for setting in ("modern", "unit-file", "modern-26pct"):
        assert [ratio(setting, level) for level in (50, 45, 40)] == pytest.approx([1.0] * 3, abs=0.11)
        assert ratio(setting, 40) < ratio(setting, 30) < ratio(setting, 25)


def test_without_its_last_sentence_the_rule_of_several_times_would_say_what_chapter_1_says() -> None:
    results = evidence.results("relu_vs_tanh", "laptop", PUBLISHED)
    found = effects.speed_up(results, "raw-variance")
    assert found
    assert found.high < 1
    assert results["relu-raw-variance"].capped()
    assert not results["tanh-raw-variance"].capped()
