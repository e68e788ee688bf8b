"""The ledger does what its rules say: statistics by hand, every verdict, the published numbers once more."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from scipy import stats
from studies import figure1, write

from alexnet_lib import claims, evidence, experiments
from alexnet_lib.claims import NOT_TESTED, Claim, Estimate, interval, paired_ratio, speed_up, verdict
from alexnet_lib.recipes import StudyError

PROJECT = Path(__file__).resolve().parent.parent
PUBLISHED = PROJECT / "data" / "runs" / "relu_vs_tanh.jsonl"
CLAIMS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "data" / "claims.yml").read_text())
BY_ID = {claim["id"]: claim for claim in CLAIMS}
KEYS = {
    "id",
    "section",
    "statement",
    "paper",
    "paper_text",
    "log",
    "log_text",
    "metric",
    "unit",
    "better",
    "protocol",
    "test",
    "number_at",
    "rule",
    "band",
    "chapter",
    "experiment",
}


# --- claims.yml ---------------------------------------------------------------------------------------------


def test_every_claim_has_an_id_of_its_own() -> None:
    assert len(BY_ID) == len(CLAIMS)


def test_the_ledger_lists_the_paper_s_claims() -> None:
    assert len(CLAIMS) >= 22


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_a_claim_has_the_keys_that_the_head_of_the_file_explains(claim: Claim) -> None:
    allowed = KEYS | ({"threshold"} if claim["id"] == "relu-several-times-faster" else set())
    assert KEYS <= claim.keys() <= allowed | {"planned"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_a_claim_uses_the_file_s_own_words(claim: Claim) -> None:
    assert claim["unit"] in {"ratio", "points", "per cent", "count"}
    assert claim["better"] in {"higher", "lower"}
    assert set(claim["test"]) <= set(experiments.SCALES)
    assert set(claim["number_at"]) <= set(claim["test"])


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_a_rule_says_what_every_verdict_needs(claim: Claim) -> None:
    rule = claim["rule"].lower()
    if not claim["test"]:
        wanted = ["needs data", claims.NOT_TESTED]
    elif rule.startswith("no verdict"):
        wanted = ["is printed beside the paper's"]
    elif claim["metric"] == "count":
        wanted = ["reproduced if", "contradicted otherwise"]
    else:
        wanted = ["reproduced if", "contradicted if", "else inconclusive"]
    assert [words for words in wanted if words not in rule] == []


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c["band"]], ids=lambda claim: claim["id"])
def test_a_band_holds_the_paper_s_number(claim: Claim) -> None:
    low, high = claim["band"]
    assert low <= claim["paper"] <= high


@pytest.mark.parametrize("claim", [c for c in CLAIMS if c["chapter"]], ids=lambda claim: claim["id"])
def test_the_chapter_that_a_claim_names_exists(claim: Claim) -> None:
    assert (PROJECT / "notebooks" / f"{claim['chapter']}.ipynb").is_file()


@pytest.mark.parametrize("claim", [c for c in CLAIMS if not c["chapter"]], ids=lambda claim: claim["id"])
def test_a_claim_without_chapter_says_where_it_is_planned_or_that_it_can_not_be_tested(claim: Claim) -> None:
    assert claim["planned"] or not claim["test"]


def test_every_experiment_that_a_claim_names_exists() -> None:
    assert {claim["experiment"] for claim in CLAIMS} - {None} <= experiments.EXPERIMENTS.keys()


def test_every_claim_with_an_experiment_has_a_judge_and_no_other_has() -> None:
    assert {claim["id"] for claim in CLAIMS if claim["experiment"]} == set(claims.JUDGES)


def test_the_head_of_the_file_and_the_library_know_the_same_verdicts() -> None:
    comment = re.search(r"# Verdicts: (.*)\.", (PROJECT / "data" / "claims.yml").read_text())
    assert comment
    assert tuple(comment[1].split(", ")) == claims.VERDICTS


# --- load ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: a\n- id: a\n", "missing or twice: .*a"),
        ("- section: '1'\n", "missing or twice: id"),
        ("- id: [\n", "claims.yml"),
    ],
)
def test_a_damaged_claims_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        claims.load(path)


def test_a_missing_claims_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"claims file .*none\.yml"):
        claims.load(tmp_path / "none.yml")


# --- statistics ---------------------------------------------------------------------------------------------


def test_the_interval_of_three_values_by_hand() -> None:
    # mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841377, 2 + 2.4841377))


def test_the_interval_is_scipy_s_t_interval() -> None:
    values = [0.3, -1.2, 2.5, 0.9, 1.1]
    expected = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert interval(values) == pytest.approx(tuple(map(float, expected)))


def test_one_value_has_no_finite_interval() -> None:
    assert interval([3.0]) == (-math.inf, math.inf)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_a_paired_ratio_is_the_geometric_mean_over_the_common_seeds() -> None:
    estimate = paired_ratio({0: 8.0, 1: 18.0, 7: 1.0}, {1: 2.0, 0: 2.0, 5: 1.0})
    assert estimate
    assert estimate.values == pytest.approx((4.0, 9.0))
    assert estimate.mean == pytest.approx(6.0)


def test_the_interval_of_a_paired_ratio_is_that_of_the_logarithms() -> None:
    estimate = paired_ratio({0: 8.0, 1: 18.0}, {0: 2.0, 1: 2.0})
    half = 12.7062047362 * math.log(9 / 4) / 2  # t(0.975, 1) times the standard error of two values
    assert estimate
    assert (estimate.low, estimate.high) == pytest.approx((6 * math.exp(-half), 6 * math.exp(half)))


def test_a_ratio_of_one_pair_has_an_interval_that_excludes_nothing() -> None:
    estimate = paired_ratio({0: 8.0}, {0: 2.0})
    assert estimate
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((4.0, 0.0, math.inf))


def test_no_common_seed_gives_no_ratio() -> None:
    assert paired_ratio({0: 8.0}, {1: 2.0}) is None


# --- the verdict on an effect -------------------------------------------------------------------------------

RATIO = {"unit": "ratio", "better": "higher", "paper": 6, "band": [4, 9], "number_at": ["laptop"]}
POINTS = {"unit": "points", "better": "lower", "paper": -1.4, "band": [-2.0, -0.8], "number_at": ["imagenet"]}


def estimate(low: float, mean: float, high: float, *, at_least: bool = False) -> Estimate:
    return Estimate(mean, low, high, (mean,) * 5, at_least)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (estimate(5.0, 5.5, 6.1), "reproduced"),  # the interval holds 6
        (estimate(3.0, 3.5, 6.0), "reproduced"),  # 6 is its end
        (estimate(4.5, 4.8, 5.2), "reproduced"),  # the mean lies in the band
        (estimate(2.0, 2.5, 3.0), "direction reproduced"),
        (estimate(9.5, 10.0, 11.0), "direction reproduced"),
        (estimate(0.9, 2.0, 6.5), "inconclusive"),
        (estimate(1.0, 5.0, 7.0), "inconclusive"),  # an interval that begins at 1 does not exclude it
        (estimate(0.5, 0.7, 0.9), "contradicted"),
        (estimate(0.0, 6.0, math.inf), "inconclusive"),  # one seed
    ],
)
def test_the_verdict_on_a_ratio_that_should_be_higher(found: Estimate, expected: str) -> None:
    assert verdict(RATIO, found, "laptop") == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (estimate(-1.5, -0.7, -0.1), "reproduced"),  # the interval holds -1.4
        (estimate(-1.3, -1.0, -0.7), "reproduced"),  # the mean lies in the band
        (estimate(-0.6, -0.4, -0.2), "direction reproduced"),
        (estimate(-1.5, -0.5, 0.5), "inconclusive"),
        (estimate(0.2, 0.4, 0.6), "contradicted"),
    ],
)
def test_the_verdict_on_points_that_should_be_lower(found: Estimate, expected: str) -> None:
    assert verdict(POINTS, found, "imagenet") == expected


@pytest.mark.parametrize("claim", [RATIO, POINTS])
def test_the_paper_s_number_is_only_reproduced_where_the_scale_tests_it(claim: Claim) -> None:
    sign = 1 if claim is RATIO else -1
    low, high = sorted((claim["paper"] - 0.1, claim["paper"] + 0.1))
    assert sign * low > 0
    assert verdict(claim, estimate(low, claim["paper"], high), "gpu") == "direction reproduced"


def test_a_lower_bound_reproduces_no_more_than_the_direction() -> None:
    assert verdict(RATIO, estimate(5.0, 5.5, 6.1, at_least=True), "laptop") == "direction reproduced"


@pytest.mark.parametrize("found", [(0.9, 2.0, 6.5), (0.5, 0.7, 0.9)])
def test_a_lower_bound_leaves_weaker_verdicts_as_they_are(found: tuple[float, float, float]) -> None:
    bound = verdict(RATIO, estimate(*found, at_least=True), "laptop")
    assert bound == verdict(RATIO, estimate(*found), "laptop")


def test_where_the_paper_gives_a_direction_alone_the_direction_reproduces_the_claim() -> None:
    claim = BY_ID["crops-and-flips"]
    assert "Reproduced if the interval excludes zero in the paper's direction" in claim["rule"]
    assert verdict(claim, estimate(-3.0, -2.0, -1.0), "gpu") == "reproduced"


# --- Figure 1 from made-up records --------------------------------------------------------------------------


def study(tmp_path: Path, epochs: dict[str, Sequence[float]]) -> claims.Results:
    write(tmp_path, figure1(epochs))
    return evidence.results("relu_vs_tanh", "laptop", tmp_path)


def ratio_of(setting: str, ratio: float, seeds: int = 3, spread: float = 1.001) -> dict[str, list[float]]:
    """Return epochs of a setting's arms whose ratios lie within about ``spread`` of ``ratio``."""
    return {
        f"relu-{setting}": [4.0] * seeds,
        f"tanh-{setting}": [4.0 * ratio * spread ** (seed - (seeds - 1) / 2) for seed in range(seeds)],
    }


def test_the_speed_up_divides_tanh_s_epochs_by_relu_s_seed_by_seed(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0, 5.0], "tanh-2012": [24.0, 20.0]}), "2012")
    assert found
    assert (found.values, found.at_least) == (pytest.approx((6.0, 4.0)), False)


def test_a_tanh_run_at_its_cap_makes_the_speed_up_a_lower_bound(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0, 5.0], "tanh-2012": [24.0, 200.0]}), "2012")
    assert found
    assert (found.values, found.at_least) == (pytest.approx((6.0, 16.0)), True)


def test_a_capped_tanh_run_without_its_relu_run_bounds_nothing(tmp_path: Path) -> None:
    found = speed_up(study(tmp_path, {"relu-2012": [4.0], "tanh-2012": [24.0, 200.0]}), "2012")
    assert found
    assert (found.n, found.at_least) == (1, False)


def test_without_a_pair_there_is_no_speed_up(tmp_path: Path) -> None:
    assert speed_up(study(tmp_path, {"relu-2012": [4.0]}), "2012") is None


def several(tmp_path: Path, epochs: dict[str, Sequence[float]]) -> tuple[Estimate | None, str]:
    claim = BY_ID["relu-several-times-faster"]
    return claims.JUDGES[claim["id"]](claim, study(tmp_path, epochs), "laptop")


@pytest.mark.parametrize(
    ("modern", "spread", "expected"),
    [
        (2.1, 1.001, "reproduced"),
        (1.9, 1.001, "direction reproduced"),
        (2.1, 1.1, "direction reproduced"),  # the interval reaches below 2
        (1.1, 1.3, "inconclusive"),
        (0.8, 1.001, "contradicted"),
    ],
)
def test_several_fold_is_judged_by_its_weakest_setting(
    tmp_path: Path, modern: float, spread: float, expected: str
) -> None:
    others = ratio_of("2012", 6.0, seeds=5) | ratio_of("raw-variance", 5.0) | ratio_of("unit-file", 5.0)
    weakest = ratio_of("modern", modern, seeds=5, spread=spread)
    _, judged = several(tmp_path, others | ratio_of("modern-26pct", 5.0) | weakest)
    assert judged == expected


def test_several_fold_prints_the_smallest_ratio_and_the_number_of_settings(tmp_path: Path) -> None:
    epochs = ratio_of("2012", 6.0) | ratio_of("modern", 2.5) | ratio_of("unit-file", 3.0)
    least, _ = several(tmp_path, epochs)
    assert least
    assert (least.mean, least.note) == (pytest.approx(2.5), "smallest of 3 of 5 settings: modern")


def test_several_fold_is_open_while_a_setting_lacks_pairs(tmp_path: Path) -> None:
    _, judged = several(tmp_path, ratio_of("2012", 6.0, seeds=5) | ratio_of("modern", 5.0, seeds=2))
    assert judged == "inconclusive"


def test_several_fold_is_open_while_no_setting_has_three_pairs(tmp_path: Path) -> None:
    assert several(tmp_path, ratio_of("2012", 6.0, seeds=2)) == (None, NOT_TESTED)


# --- the ledger ---------------------------------------------------------------------------------------------

FIVE = {"relu-2012": [4.0, 5.0, 4.0, 5.0, 4.0], "tanh-2012": [24.0, 25.0, 28.0, 30.0, 20.0]}


def row(ledger: pd.DataFrame, claim: str) -> dict[str, Any]:
    (found,) = ledger[ledger["id"] == claim].to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_a_claim_s_row_from_made_up_records(tmp_path: Path) -> None:
    ledger = claims.ledger("laptop", write(tmp_path, figure1(FIVE)))
    # ratios 6, 5, 7, 6, 5: logarithms of mean 1.749661 and standard error 0.063790; t(0.975, 4) = 2.776445
    expected = {
        "section": "3.1",
        "paper": "6 x",
        "log": "",
        "ours": "5.75 x",
        "interval": "4.82 to 6.87",
        "n": "5",
        "scale": "laptop",
        "verdict": "reproduced",
        "cost": "14.0 h",  # 5 + 5 runs and 2 + 2 of the searches, an hour each
        "chapter": "01_relu_vs_tanh",
    }
    found = row(ledger, "relu-six-times-faster")
    assert {key: found[key] for key in expected} == expected


def test_a_lower_bound_is_printed_as_one(tmp_path: Path) -> None:
    epochs = {**FIVE, "tanh-2012": [24.0, 100.0, 28.0, 30.0, 20.0]}
    found = row(claims.ledger("laptop", write(tmp_path, figure1(epochs))), "relu-six-times-faster")
    assert found["ours"].startswith("at least ")
    assert found["verdict"] == "direction reproduced"


def test_one_pair_is_printed_without_interval_and_decides_nothing(tmp_path: Path) -> None:
    runs = write(tmp_path, figure1({"relu-2012": [4.0], "tanh-2012": [24.0]}))
    found = row(claims.ledger("laptop", runs), "relu-six-times-faster")
    assert (found["ours"], found["interval"], found["n"], found["verdict"]) == (
        "6.00 x",
        "-",
        "1",
        "inconclusive",
    )


def test_a_claim_without_runs_is_printed_as_not_tested(tmp_path: Path) -> None:
    found = row(claims.ledger("laptop", tmp_path), "relu-six-times-faster")
    assert (found["ours"], found["n"], found["verdict"]) == ("", "0", NOT_TESTED)


def test_the_ledger_lists_every_claim_in_the_file_s_order(tmp_path: Path) -> None:
    assert list(claims.ledger("laptop", tmp_path)["id"]) == list(BY_ID)


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_a_claim_that_a_scale_does_not_test_says_so(tmp_path: Path, scale: str) -> None:
    ledger = claims.ledger(scale, tmp_path)
    untested = {claim["id"] for claim in CLAIMS if scale not in claim["test"]}
    assert set(ledger[ledger["id"].isin(untested)]["verdict"]) <= {claims.NOT_TESTED}


def test_made_up_images_decide_no_claim(tmp_path: Path) -> None:
    runs = write(tmp_path, figure1({"relu-2012": [2.0, 3.0], "tanh-2012": [6.0, 7.0]}, scale="smoke"))
    found = row(claims.ledger("smoke", runs), "relu-six-times-faster")
    assert (found["n"], found["verdict"]) == ("2", claims.NOT_TESTED)


def test_an_unknown_scale_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="unknown scale 'lapttop': did you mean 'laptop'"):
        claims.ledger("lapttop", tmp_path)


# --- counts: the numbers of the fact sheet ------------------------------------------------------------------

COUNTS = {
    "parameters-60-million": (60_965_224, "reproduced"),
    "neurons-650-thousand": (659_272, "reproduced"),
    "first-layer-253440-neurons": (290_400, "contradicted"),  # 55 x 55 x 96; the caption has 55 x 48 x 96
    "input-150528-dimensional": (150_528, "reproduced"),
    "convolutions-hold-one-per-cent": (100 * 885_120 / 60_965_224, "contradicted"),  # conv3
    "crops-and-flips-2048-fold": (33 * 33 * 2, "contradicted"),
}


def test_every_claim_of_metric_count_is_counted() -> None:
    assert {claim["id"] for claim in CLAIMS if claim["metric"] == "count"} == set(COUNTS)


@pytest.mark.parametrize(("claim", "number"), [(claim, number) for claim, (number, _) in COUNTS.items()])
def test_a_count_is_the_fact_sheet_s(claim: str, number: float) -> None:
    assert claims.count(claim) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_counts_are_decided_at_every_scale(tmp_path: Path, scale: str) -> None:
    ledger = claims.ledger(scale, tmp_path).set_index("id")
    assert {claim: ledger.loc[claim, "verdict"] for claim in COUNTS} == {c: v for c, (_, v) in COUNTS.items()}


# --- the published numbers, recomputed from the lines of the file with plain arithmetic ---------------------

T = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445, 5: 2.570582, 6: 2.446912, 7: 2.364624, 8: 2.306004}
"""97.5 % quantiles of Student's t by degrees of freedom, from a printed table."""
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


def check(path: Path) -> None:
    """Hold both Figure 1 rows of the ledger against numbers recomputed from the file's lines."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ledger = claims.ledger("laptop", path.parent)
    found = row(ledger, "relu-six-times-faster")
    n, ratio, low, high, at_least = recompute(lines, "2012")
    assert found["n"] == str(n)
    if n:
        assert found["ours"] == f"{'at least ' if at_least else ''}{ratio:.2f} x"
        ends = f"{low:.2f} or more" if at_least else f"{low:.2f} to {high:.2f}"
        assert found["interval"] == ("-" if n == 1 else ends)
        assert found["verdict"] == six_times(n, ratio, low, high, at_least)
    settings = sorted({run["arm"].split("-", 1)[1] for run in lines if run["scale"] == "laptop"})
    enough = {s: numbers for s in settings if (numbers := recompute(lines, s))[0] >= 3}
    found = row(ledger, "relu-several-times-faster")
    if not enough:
        assert (found["n"], found["verdict"]) == ("0", NOT_TESTED)
        return
    least = min(enough, key=lambda setting: enough[setting][1])
    n, ratio, low, high, at_least = enough[least]
    assert found["n"] == str(n)
    note = f" (smallest of {len(enough)} of 5 settings: {least})"
    assert found["ours"] == f"{'at least ' if at_least else ''}{ratio:.2f} x{note}"
    lows, highs = [numbers[2] for numbers in enough.values()], [numbers[3] for numbers in enough.values()]
    judged = "contradicted" if min(highs) < 1 else "inconclusive"
    judged = "reproduced" if min(lows) > 2 else "direction reproduced" if min(lows) > 1 else judged
    whole = {"2012": 5, "modern": 5, "raw-variance": 3, "unit-file": 3, "modern-26pct": 3}
    complete = all(recompute(lines, setting)[0] >= seeds for setting, seeds in whole.items())
    assert found["verdict"] == (judged if complete else "inconclusive")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="no published runs of relu_vs_tanh yet")
def test_the_published_numbers_follow_from_the_records_by_plain_arithmetic() -> None:
    check(PUBLISHED)


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
def test_plain_arithmetic_agrees_on_made_up_records_whole_or_partial(
    tmp_path: Path, epochs: dict[str, Sequence[float]]
) -> None:
    runs = figure1(epochs) or figure1({"relu-2012": [4.0]})[:1]
    write(tmp_path, runs)
    check(tmp_path / "relu_vs_tanh.jsonl")
