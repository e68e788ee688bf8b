"""The ledger does what its rules say: every verdict, every judge, and how a claim stands in its row."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from scipy import stats
from studies import ended, figure1, history, keep, ratio_of, whole, write

from alexnet_lib import claims, effects, evidence, experiments
from alexnet_lib.claims import NOT_TESTED, Claim, judge, verdict
from alexnet_lib.effects import Results
from alexnet_lib.estimates import Estimate
from alexnet_lib.filters import Split
from alexnet_lib.recipes import StudyError
from alexnet_lib.records import Record

PROJECT = Path(__file__).resolve().parent.parent
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
    assert KEYS <= claim.keys() <= allowed | {"planned", "effect", "mean_decides", "decided_by"}


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
        assert rule.startswith(("needs data", "no experiment"))
        wanted = [claims.NOT_TESTED]
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


TESTED = [claim for claim in CLAIMS if claim["experiment"]]
WITH_EFFECT = [claim for claim in CLAIMS if "effect" in claim]


@pytest.mark.parametrize("claim", TESTED, ids=lambda claim: claim["id"])
def test_a_claim_with_an_experiment_has_an_effect_or_a_judge_of_its_own_and_not_both(claim: Claim) -> None:
    assert ("effect" in claim) != (claim["id"] in claims.JUDGES)


def test_no_claim_without_an_experiment_has_an_effect_or_a_judge() -> None:
    assert {claim["id"] for claim in WITH_EFFECT} | claims.JUDGES.keys() == {claim["id"] for claim in TESTED}


@pytest.mark.parametrize("claim", WITH_EFFECT, ids=lambda claim: claim["id"])
def test_an_effect_is_a_known_metric_of_one_arm_or_of_two_different_ones(claim: Claim) -> None:
    effect = claim["effect"]
    assert effect["metric"] in effects.METRICS
    if "arm" in effect:
        assert effect.keys() == {"metric", "arm"}
    else:
        assert effect.keys() == {"metric", "with", "without"}
        assert effect["with"] != effect["without"]
        assert claim["unit"] == "points"


@pytest.mark.parametrize("claim", WITH_EFFECT, ids=lambda claim: claim["id"])
def test_the_arms_of_an_effect_exist_at_every_scale_that_tests_it(claim: Claim) -> None:
    wanted = {name for key, name in claim["effect"].items() if key != "metric"}
    assert claim["test"]
    for scale in claim["test"]:
        assert wanted <= {arm.name for arm in experiments.arms(claim["experiment"], scale)}, scale


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
        ("", "should be a list of claims"),
        ("id: a\n", "should be a list of claims"),
        ("- a\n", "should be a list of claims"),
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


# --- the verdict on an effect -------------------------------------------------------------------------------

RATIO = {"unit": "ratio", "better": "higher", "paper": 6, "band": [4, 9], "number_at": ["laptop"]}
POINTS = {"unit": "points", "better": "lower", "paper": -1.4, "band": [-2.0, -0.8], "number_at": ["imagenet"]}


def estimate(low: float, mean: float, high: float, *, at_least: bool = False) -> Estimate:
    return Estimate(mean, low, high, (mean,) * 5, at_least=at_least)


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


def test_a_direction_alone_is_the_claim_only_where_the_scale_tests_it() -> None:
    claim = BY_ID["crops-and-flips"]
    assert verdict(claim, estimate(-3.0, -2.0, -1.0), "smoke") == "direction reproduced"
    assert verdict(claim, estimate(1.0, 2.0, 3.0), "gpu") == "contradicted"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (estimate(12.9, 13.2, 13.6), "reproduced"),  # the interval holds 13
        (estimate(13.1, 13.4, 13.7), "reproduced"),  # the mean lies in the band
        (estimate(11.0, 12.0, 12.4), "direction reproduced"),  # fewer errors than claimed
        (estimate(13.6, 14.0, 14.4), "contradicted"),
        (estimate(11.0, 12.0, 12.7), "inconclusive"),  # below 13, and reaches into the band
        (estimate(13.4, 14.0, 14.6), "inconclusive"),
    ],
)
def test_the_verdict_on_an_error_rate(found: Estimate, expected: str) -> None:
    assert verdict(BY_ID["cifar10-13-per-cent"], found, "gpu") == expected


# --- Figure 1 from made-up records --------------------------------------------------------------------------


def study(folder: Path, epochs: dict[str, Sequence[float]]) -> Results:
    return evidence.results("relu_vs_tanh", "laptop", write(folder, figure1(epochs)))


def several(tmp_path: Path, epochs: dict[str, Sequence[float]]) -> tuple[Estimate | None, str]:
    return judge(BY_ID["relu-several-times-faster"], study(tmp_path, epochs), "laptop")


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
    assert (least.mean, least.note) == (pytest.approx(2.5), "modern, the smallest of 3 of 5 settings")


def test_several_fold_is_open_while_a_setting_lacks_pairs(tmp_path: Path) -> None:
    _, judged = several(tmp_path, ratio_of("2012", 6.0, seeds=5) | ratio_of("modern", 5.0, seeds=2))
    assert judged == "inconclusive"


def test_several_fold_says_how_many_settings_refuse_it_and_that_a_capped_one_never_can_be_judged(
    tmp_path: Path,
) -> None:
    epochs = ratio_of("2012", 6.0, seeds=5) | ratio_of("modern", 1.4, seeds=5) | ratio_of("unit-file", 1.5)
    capped = {"relu-raw-variance": [70.0, 81.0, 81.0]}
    least, judged = several(tmp_path, epochs | ratio_of("modern-26pct", 5.0) | capped)
    assert least
    assert (judged, least.p) == ("inconclusive", None)
    assert least.why == (
        "2 of 4 intervals lie below 2, the reading of 'several' here; no verdict can come: in raw-variance ReLU "
        "itself stopped at its cap"
    )


def test_several_fold_is_open_while_no_setting_has_three_pairs(tmp_path: Path) -> None:
    assert several(tmp_path, ratio_of("2012", 6.0, seeds=2)) == (None, NOT_TESTED)


# --- effects and levels from made-up records ----------------------------------------------------------------


def results_of(folder: Path, experiment: str, *runs: Record, scale: str = "laptop") -> Results:
    return evidence.results(experiment, scale, write(folder, runs))


def pairs(experiment: str, with_: str, without: str, differences: Sequence[float], **more: Any) -> list[Record]:
    """Return records of two arms whose test errors differ by these points, seed by seed."""
    below = [20.0 + seed for seed in range(len(differences))]
    above = [error + points for error, points in zip(below, differences, strict=True)]
    return [*ended(experiment, with_, above, **more), *ended(experiment, without, below, **more)]


def about(middle: float, n: int, spread: float = 0.05) -> list[float]:
    """Return ``n`` numbers around ``middle``."""
    return [middle + spread * (number - (n - 1) / 2) for number in range(n)]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        (about(-2.0, 3), "reproduced"),
        ([-2.0, 1.0, -1.0], "inconclusive"),
        (about(0.5, 3), "contradicted"),
    ],
)
def test_a_direction_is_judged_from_the_runs_of_its_two_arms(
    tmp_path: Path, differences: list[float], expected: str
) -> None:
    claim = {**BY_ID["crops-and-flips"], "effect": {"metric": "test_error", "with": "base", "without": "none"}}
    found, judged = judge(
        claim, results_of(tmp_path, "augmentation", *pairs("augmentation", "base", "none", differences)), "laptop"
    )
    assert found
    assert (found.values, judged) == (pytest.approx(tuple(differences)), expected)


def test_the_gap_is_test_minus_training_error_of_the_arms_that_the_claim_names(tmp_path: Path) -> None:
    runs = [
        *ended(
            "dropout", "base", [{"test_error": 22.0, "train_error_after": 15.0 + 0.1 * seed} for seed in range(3)]
        ),
        *ended("dropout", "no-dropout", [{"test_error": 24.0, "train_error_after": 4.0} for _ in range(3)]),
    ]
    found, judged = judge(BY_ID["dropout-against-overfitting"], results_of(tmp_path, "dropout", *runs), "laptop")
    assert found
    assert (found.values, judged) == (pytest.approx((-13.0, -13.1, -13.2)), "reproduced")


@pytest.mark.parametrize(
    ("scale", "seeds", "expected"), [("laptop", 5, "direction reproduced"), ("gpu", 10, "reproduced")]
)
def test_the_paper_s_difference_is_only_reproduced_with_the_paper_s_data_and_schedule(
    tmp_path: Path, scale: str, seeds: int, expected: str
) -> None:
    scores = [[{"test_error_10views": error} for error in about(middle, seeds)] for middle in (11.0, 13.0)]
    arms = [ended("lrn", arm, each, scale=scale) for arm, each in zip(("11pct", "11pct-no-lrn"), scores, strict=True)]
    arms[1][0]["scores"]["test_error_10views"] += 0.001
    _, judged = judge(BY_ID["lrn-cifar10"], results_of(tmp_path, "lrn", *arms[0], *arms[1], scale=scale), scale)
    assert judged == expected


def test_an_effect_of_one_arm_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    gains = about(-1.2, 15)
    runs = ended("training_details", "base", [{"test_error": 20, "test_error_10views": 20 + gain} for gain in gains])
    found, judged = judge(BY_ID["ten-views"], results_of(tmp_path, "training_details", *runs), "laptop")
    assert found
    assert (found.values, found.unit, judged) == (pytest.approx(tuple(gains)), "points", "direction reproduced")


@pytest.mark.parametrize(("scale", "expected"), [("laptop", NOT_TESTED), ("gpu", "reproduced")])
def test_a_level_is_printed_at_every_scale_and_judged_where_the_number_is_tested(
    tmp_path: Path, scale: str, expected: str
) -> None:
    scores = [{"test_error_10views": error} for error in about(11.1, 10)]
    results = results_of(tmp_path, "lrn", *ended("lrn", "11pct", scores, scale=scale), scale=scale)
    found, judged = judge(BY_ID["cifar10-11-per-cent"], results, scale)
    assert found
    assert (found.unit, found.mean, judged) == ("per cent", pytest.approx(11.1, abs=0.2), expected)


@pytest.mark.parametrize("seeds", [1, 4, 5])
def test_a_claim_is_open_until_every_seed_that_the_scale_declares_has_ended(tmp_path: Path, seeds: int) -> None:
    results = results_of(tmp_path, "lrn", *pairs("lrn", "base", "no-lrn", about(-1.4, seeds)))
    found, judged = judge(BY_ID["lrn-imagenet"], results, "laptop")
    assert found
    assert (found.n, judged) == (seeds, "direction reproduced" if seeds == 5 else "inconclusive")


def test_a_level_is_open_until_every_seed_has_ended(tmp_path: Path) -> None:
    scores = [{"test_error_10views": error} for error in about(11.0, 9)]
    results = results_of(tmp_path, "lrn", *ended("lrn", "11pct", scores, scale="gpu"), scale="gpu")
    assert judge(BY_ID["cifar10-11-per-cent"], results, "gpu")[1] == "inconclusive"


def test_a_run_that_diverged_leaves_its_claim_open(tmp_path: Path) -> None:
    *runs, last = pairs("lrn", "base", "no-lrn", about(-1.4, 5))
    failed = {**last, "outcome": "diverged: loss not finite", "scores": {}}
    found, judged = judge(BY_ID["lrn-imagenet"], results_of(tmp_path, "lrn", *runs, failed), "laptop")
    assert found
    assert (found.n, judged) == (4, "inconclusive")


@pytest.mark.parametrize("claim", TESTED, ids=lambda claim: claim["id"])
def test_a_claim_without_runs_or_without_arms_is_not_tested(tmp_path: Path, claim: Claim) -> None:
    assert judge(claim, results_of(tmp_path, claim["experiment"]), "laptop") == (None, NOT_TESTED)
    assert judge(claim, {}, "imagenet") == (None, NOT_TESTED)


# --- judges of their own ------------------------------------------------------------------------------------


def neighbours(arm: str, gains: Sequence[float], scale: str = "laptop") -> list[Record]:
    """Return runs whose neighbours share the class more often in the last hidden layer than in pixels, by points."""
    pixels, hidden = (f"neighbours_{where}_same_class" for where in ("pixels", "act7"))
    return ended("alexnet", arm, [{pixels: 30.0, hidden: 30.0 + gain} for gain in gains], scale=scale)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([20.0, 25.0, 22.0], "reproduced"),
        ([20.0, 25.0], "inconclusive"),  # a seed is missing
        ([2.0, -1.0, 1.0], "inconclusive"),
        ([-9.0, -8.0, -10.0], "contradicted"),
    ],
)
def test_neighbours_are_judged_on_a_laptop_by_the_reduced_network(
    tmp_path: Path, gains: list[float], expected: str
) -> None:
    runs = [*neighbours("reduced", gains), *neighbours("paper", [-50.0])]
    claim = BY_ID["neighbours-are-not-close-in-pixels"]
    found, judged = judge(claim, results_of(tmp_path, "alexnet", *runs), "laptop")
    assert found
    assert (found.values, found.unit, judged) == (pytest.approx(tuple(gains)), "points", expected)
    limits = "of the class alone, not of the pixels; on a reduced network and ten classes"
    assert (limits in found.why) == (judged != "inconclusive")
    assert not found.why.startswith(";")


def test_neighbours_are_judged_on_a_gpu_by_the_full_network_of_the_paper(tmp_path: Path) -> None:
    runs = [*neighbours("paper", about(20.0, 10), "gpu"), *neighbours("code2012", [-50.0], "gpu")]
    claim = BY_ID["neighbours-are-not-close-in-pixels"]
    found, judged = judge(claim, results_of(tmp_path, "alexnet", *runs, scale="gpu"), "gpu")
    assert found
    assert (found.n, judged) == (10, "reproduced")
    assert "of the class alone" in found.why
    assert "reduced" not in found.why


def dropout(folder: Path, with_: Sequence[int], without: Sequence[int]) -> tuple[Estimate | None, str]:
    """Judge runs that need so many epochs to 30 % training error."""
    runs = []
    for arm, epochs in (("base", with_), ("no-dropout", without)):
        for run, needed in zip(ended("dropout", arm, [20.0] * len(epochs)), epochs, strict=True):
            runs.append({**run, "history": history([0.6] * (needed - 1) + [0.3])})
    return judge(BY_ID["dropout-doubles-iterations"], results_of(folder, "dropout", *runs), "laptop")


@pytest.mark.parametrize(
    ("with_", "expected"),
    [
        ([20, 21, 20], "reproduced"),  # about twice the epochs
        ([17, 17, 18], "reproduced"),  # the mean lies in the band
        ([12, 13, 12], "direction reproduced"),
        ([12, 9, 11], "inconclusive"),
        ([8, 7, 8], "contradicted"),
        ([20, 21], "inconclusive"),  # the scale declares three
        ([], NOT_TESTED),
    ],
)
def test_the_slow_down_of_dropout_is_judged_as_a_ratio(tmp_path: Path, with_: list[int], expected: str) -> None:
    found, judged = dropout(tmp_path, with_, [10, 10, 10])
    assert (found.values if found else (), judged) == (pytest.approx([n / 10 for n in with_]), expected)


@pytest.mark.parametrize(
    ("with_", "without", "helped"),
    [
        ([12, 13, 12], [10, 11, 9], True),  # the rate is cut after 11 epochs
        ([12, 13, 11], [10, 11, 9], False),  # one got there before the cut
        ([14, 15, 16], [10, 12, 9], False),  # so did one without dropout after it
        ([12, 13, 10], [10, 11, 11], False),
    ],
)
def test_the_slow_down_of_dropout_tells_where_a_cut_of_the_rate_helped_one_side_alone(
    tmp_path: Path, with_: list[int], without: list[int], helped: bool
) -> None:
    found, _ = dropout(tmp_path, with_, without)
    assert found
    assert ("the rate cut before the level was reached" in found.why) == helped


LAYERS = ("no-conv3", "no-conv4", "no-conv5")
OF_VERDICT = {
    "reproduced": [-2.1, -2.0, -1.9],
    "direction reproduced": [-0.6, -0.5, -0.4],
    "inconclusive": [-1.0, 0.0, 1.5],
    "contradicted": [0.9, 1.0, 1.1],
}
"""Differences whose verdict by themselves is this one, where the paper's number is tested."""


@pytest.mark.parametrize(("scale", "points"), [("laptop", -1.0), ("gpu", -1.0), ("imagenet", -2.0)])
def test_on_imagenet_the_test_error_is_that_of_ten_views(tmp_path: Path, scale: str, points: float) -> None:
    base = ended("overlapping_pooling", "base", [{"test_error": 20, "test_error_10views": 18}] * 3, scale=scale)
    pool2 = ended("overlapping_pooling", "pool2", [{"test_error": 21, "test_error_10views": 20}] * 3, scale=scale)
    found, _ = judge(
        BY_ID["overlapping-pooling"], results_of(tmp_path, "overlapping_pooling", *base, *pool2, scale=scale), scale
    )
    assert found
    assert found.mean == pytest.approx(points)


@pytest.mark.parametrize(
    ("level", "expected"), [(40.7, "reproduced"), (39.0, "direction reproduced"), (43.0, "contradicted")]
)
def test_the_error_on_imagenet_is_judged_by_ten_views_of_the_network_of_2012(
    tmp_path: Path, level: float, expected: str
) -> None:
    scores = [{"test_error": 50.0, "test_error_10views": level + 0.05 * seed} for seed in range(3)]
    results = results_of(
        tmp_path, "alexnet", *ended("alexnet", "code2012", scores, scale="imagenet"), scale="imagenet"
    )
    assert judge(BY_ID["ilsvrc-2012-one-network"], results, "imagenet")[1] == expected


def without_a_layer(folder: Path, differences: dict[str, list[float]], scale: str = "laptop") -> Results:
    """Return the experiment on depth with these differences, base minus the network without the layer.

    They are in the metric that the scale is judged by; in the other all networks are alike.
    """
    metric = "test_error_10views" if scale == "imagenet" else "test_error"

    def errors(of: Sequence[float]) -> list[dict[str, float]]:
        return [{metric: one} for one in of]

    each = differences.items()
    runs = [run for name, points in each for run in ended("depth", name, errors([30 - one for one in points]))]
    return results_of(folder, "depth", *ended("depth", "base", errors([30.0] * 3)), *runs)


@pytest.mark.parametrize("verdicts", list(itertools.product(OF_VERDICT, repeat=3)), ids=", ".join)
def test_depth_is_judged_by_all_three_layers_together(tmp_path: Path, verdicts: tuple[str, ...]) -> None:
    differences = {layer: OF_VERDICT[one] for layer, one in zip(LAYERS, verdicts, strict=True)}
    found, judged = judge(BY_ID["depth"], without_a_layer(tmp_path, differences, "imagenet"), "imagenet")
    if "contradicted" in verdicts:
        expected = "contradicted"
    elif "inconclusive" in verdicts:
        expected = "inconclusive"
    else:
        expected = "reproduced" if set(verdicts) == {"reproduced"} else "direction reproduced"
    assert judged == expected
    assert found
    means = {layer: sum(points) / 3 for layer, points in differences.items()}
    assert found.mean == pytest.approx(max(means.values()))
    decided = {layer for layer, verdict in zip(LAYERS, verdicts, strict=True) if verdict == expected}
    printed = max(means, key=lambda layer: means[layer])
    assert ("decided by" in found.why) == (printed not in decided)
    assert any(layer in found.why for layer in decided) or printed in decided


def test_depth_prints_the_effect_least_in_the_paper_s_favour_with_the_largest_p_value(tmp_path: Path) -> None:
    differences = {"no-conv3": [-2.1, -2.0, -1.9], "no-conv4": [-0.5, -0.4, -0.45], "no-conv5": [-5.0, -1.0, -2.0]}
    found, judged = judge(BY_ID["depth"], without_a_layer(tmp_path, differences), "laptop")
    assert found
    assert (found.note, judged) == ("conv4, of 3 layers the one least in the paper's favour", "inconclusive")
    assert found.values == pytest.approx((-0.5, -0.4, -0.45))
    assert found.p == pytest.approx(float(stats.ttest_1samp(differences["no-conv5"], 0).pvalue))


def test_the_p_value_of_depth_contradicted_by_any_layer_counts_all_three(tmp_path: Path) -> None:
    differences = {
        "no-conv3": [-2.1, -2.0, -1.0],
        "no-conv4": OF_VERDICT["contradicted"],
        "no-conv5": [-5.0, -1.0, 2.0],
    }
    found, judged = judge(BY_ID["depth"], without_a_layer(tmp_path, differences), "laptop")
    assert found
    smallest = float(stats.ttest_1samp(OF_VERDICT["contradicted"], 0).pvalue)
    assert (judged, found.p) == ("contradicted", pytest.approx(3 * smallest))


@pytest.mark.parametrize("lacking", [{"no-conv4": []}, {"no-conv4": [-2.0, -2.1]}])
def test_depth_is_open_while_a_layer_lacks_runs(tmp_path: Path, lacking: dict[str, list[float]]) -> None:
    differences = {layer: OF_VERDICT["reproduced"] for layer in LAYERS} | lacking
    found, judged = judge(BY_ID["depth"], without_a_layer(tmp_path, differences), "laptop")
    assert found
    assert (found.note.split(", ")[1], judged) == (
        f"of {2 if lacking == {'no-conv4': []} else 3} layers the one least in the paper's favour",
        "inconclusive",
    )
    assert found.why == "open, 1 of 3 layers can't be judged yet"


def test_depth_with_a_run_that_diverged_waits_for_nothing(tmp_path: Path) -> None:
    results = without_a_layer(tmp_path, {layer: OF_VERDICT["reproduced"] for layer in LAYERS})
    results["no-conv5"].runs[2] |= {"outcome": "diverged: loss not finite", "scores": {}}
    found, judged = judge(BY_ID["depth"], results, "laptop")
    assert found
    assert (found.why, judged) == ("all runs have ended, 1 of 3 layers can't be judged", "inconclusive")


def networks(folder: Path, mistakes: Sequence[int]) -> tuple[Estimate | None, str]:
    """Judge networks that err on so many of 100 images each, no two in a set of five on the same, and mildly."""
    runs = []
    for seed, (run, wrong) in enumerate(
        zip(ended("ensembles", "base", [50.0] * len(mistakes)), mistakes, strict=True)
    ):
        right = torch.full((100,), 0.9)
        right[20 * (seed % 5) :][:wrong] = 0.4
        tensors = {"probabilities": torch.stack([right, 1 - right], 1), "labels": torch.zeros(100, dtype=torch.uint8)}
        runs.append(keep(run, tensors, folder))
    return judge(BY_ID["five-networks"], results_of(folder, "ensembles", *runs), "laptop")


def test_five_networks_are_judged_over_disjoint_sets_of_five(tmp_path: Path) -> None:
    found, judged = networks(tmp_path, [9, 9, 9, 9, 9, 10, 10, 10, 10, 10, 11, 10, 12, 11, 11])
    assert found
    assert (found.values, found.unit, judged) == (pytest.approx((-9, -10, -11)), "points", "direction reproduced")


@pytest.mark.parametrize(
    ("members", "expected"), [(4, (0, NOT_TESTED)), (5, (1, "inconclusive")), (14, (2, "inconclusive"))]
)
def test_five_networks_are_open_while_a_set_lacks_members(
    tmp_path: Path, members: int, expected: tuple[int, str]
) -> None:
    found, judged = networks(tmp_path, [10] * members)
    assert (found.n if found else 0, judged) == expected


def towers(monkeypatch: pytest.MonkeyPatch, folder: Path, p_values: Sequence[float], seeds: int = 15) -> Any:
    """Judge networks whose towers have these p-values, of an arm that declares so many seeds."""
    splits = {seed: Split((), 0.5, p) for seed, p in enumerate(p_values)}
    monkeypatch.setattr(effects, "specialised", lambda arm: splits)
    results = results_of(folder, "two_towers")
    base = replace(results["base"], arm=replace(results["base"].arm, seeds=seeds))
    return judge(BY_ID["towers-specialise"], {**results, "base": base}, "laptop")


@pytest.mark.parametrize(
    ("special", "seeds", "low", "high", "expected"),
    [
        # ends of the Clopper-Pearson interval, in per cent, from a printed table
        (15, 15, 78.20, 100.00, "reproduced"),
        (14, 15, 68.05, 99.83, "direction reproduced"),
        (4, 15, 7.79, 55.10, "direction reproduced"),
        (3, 15, 4.33, 48.09, "inconclusive"),
        (1, 15, 0.17, 31.95, "inconclusive"),
        (0, 15, 0.00, 21.80, "contradicted"),
        (0, 5, 0.00, 52.18, "inconclusive"),
        (5, 5, 47.82, 100.00, "direction reproduced"),  # the interval begins below 50
        (6, 6, 54.07, 100.00, "reproduced"),
    ],
)
def test_towers_are_judged_by_the_share_of_seeds_that_specialise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, special: int, seeds: int, low: float, high: float, expected: str
) -> None:
    found, judged = towers(monkeypatch, tmp_path, [0.049] * special + [0.05] * (seeds - special), seeds)
    assert (found.mean, found.low, found.high) == pytest.approx((100 * special / seeds, low, high), abs=0.006)
    assert (found.n, found.unit, judged) == (seeds, "per cent", expected)


def test_the_p_value_of_the_towers_is_that_of_five_per_cent_by_chance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, _ = towers(monkeypatch, tmp_path, [0.01] * 2 + [0.5] * 3, 5)
    chance = sum(math.comb(5, k) * 0.05**k * 0.95 ** (5 - k) for k in range(2, 6))
    assert found.p == pytest.approx(chance)


def test_towers_are_open_until_every_seed_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, judged = towers(monkeypatch, tmp_path, [0.01] * 14)
    assert (found.n, judged) == (14, "inconclusive")


def test_towers_are_judged_from_the_kernels_that_the_runs_kept(tmp_path: Path) -> None:
    noise = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    noise[:8] = noise[:8, :1]  # the first tower is grey
    runs = [keep(run, {"conv1": noise}, tmp_path) for run in ended("two_towers", "base", [20.0] * 3)]
    found, judged = judge(BY_ID["towers-specialise"], results_of(tmp_path, "two_towers", *runs), "laptop")
    assert found
    assert (found.values, judged) == ((100.0, 100.0, 100.0), "inconclusive")


@pytest.mark.parametrize(
    ("special", "said"),
    [
        (8, "not shown to be more than where nothing divides them (0 of 5, p = 0.051)"),
        (9, "more than where nothing divides them (0 of 5, p = 0.03)"),
    ],
)
def test_towers_stand_beside_networks_that_nothing_divides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, special: int, said: str
) -> None:
    counts = {"base": [0.01] * special + [0.5] * (15 - special), "one-tower": [0.5] * 5}
    monkeypatch.setattr(
        effects, "specialised", lambda arm: {n: Split((), 0.5, p) for n, p in enumerate(counts[arm.arm.name])}
    )
    found, _ = judge(BY_ID["towers-specialise"], results_of(tmp_path, "two_towers"), "laptop")
    assert found
    assert f"by chance 5 % would; {said}" in found.why


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
        "cost": "14.0 core h",  # 5 + 5 runs and 2 + 2 of the searches, an hour each
        "chapter": "01_relu_vs_tanh",
    }
    found = row(ledger, "relu-six-times-faster")
    assert {key: found[key] for key in expected} == expected


def test_hours_of_a_core_and_of_a_gpu_are_told_apart(tmp_path: Path) -> None:
    runs = figure1(FIVE)
    for run in runs[:3]:
        run["provenance"]["device"] = "NVIDIA H100"
    assert (
        row(claims.ledger("laptop", write(tmp_path, runs)), "relu-six-times-faster")["cost"]
        == "11.0 core h + 3.0 GPU h"
    )


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
        "–",
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


FAMILY = {
    # claim -> what the metric of its arms differs by, seed by seed
    "lrn-imagenet": [-1.0, -1.3, -1.1, -1.2, -0.9],
    "overlapping-pooling": [-0.5, 0.1, -0.4, -0.6, -0.1],
    "two-towers-against-half": [-0.4, -0.1, -0.2, -0.2],
    "pca-colour-noise": [0.3, 0.2, -0.4],
    "biases-of-one-speed-up-the-start": [-0.8],
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return the ledger of made-up records: five effects, a level that isn't judged, and Figure 1."""
    runs = figure1(FIVE)
    for name, differences in FAMILY.items():
        effect = BY_ID[name]["effect"]
        other, sign = (effect["without"], -1) if effect["with"] == "base" else (effect["with"], 1)
        errors = [20.0 + sign * points for points in differences]
        early = 0.808 if effect["metric"] == "early_train_error" else 0.8  # of a single seed
        runs += ended(BY_ID[name]["experiment"], other, errors, errors=[early, 0.6, 0.4, 0.2])
    runs += ended("lrn", "base", [{"test_error": 20.0, "test_error_10views": 20.0}] * 5, errors=[0.8, 0.6, 0.4, 0.2])
    runs += ended("lrn", "13pct", [15.0, 15.1])
    return claims.ledger("laptop", write(tmp_path_factory.mktemp("family"), runs))


def test_p_values_are_adjusted_over_all_judged_claims_as_benjamini_and_hochberg_did(family: pd.DataFrame) -> None:
    raw = {name: float(stats.ttest_1samp(values, 0).pvalue) for name, values in FAMILY.items() if len(values) > 1}
    raw["overlapping-pooling-overfits-less"] = raw["overlapping-pooling"]  # all training errors are equal
    raw["relu-six-times-faster"] = float(stats.ttest_1samp([math.log(ratio) for ratio in (6, 5, 7, 6, 5)], 0).pvalue)
    raw["ten-views"] = 1.0  # ten views are as good as one
    ranked = sorted(raw, key=raw.__getitem__)
    adjusted, least = {}, 1.0
    for rank in range(len(ranked), 0, -1):
        least = min(least, raw[ranked[rank - 1]] * len(ranked) / rank)
        adjusted[ranked[rank - 1]] = f"{least:.2g}"
    printed = {name: p for name, p in zip(family["id"], family["p"], strict=True) if p}
    assert printed == adjusted
    assert len(set(printed.values())) >= 5


def holds_no_effect(found: dict[str, str]) -> bool:
    """Return whether the printed interval of an effect in points or of a ratio holds its value of no effect."""
    low, high = (float(end.replace("−", "-")) for end in found["interval"].split(" to "))
    return low <= (1.0 if " x" in found["ours"] else 0.0) <= high


def test_what_could_have_been_seen_stands_beside_inconclusive_effects_alone(family: pd.DataFrame) -> None:
    verdicts = {one["id"]: one["verdict"] for one in family.to_dict("records") if one["detectable"]}
    assert set(verdicts.values()) == {"inconclusive"}
    several = family[(family["verdict"] == "inconclusive") & (family["n"] != "1")]  # a single pair shows nothing
    settled = {name for name in several["id"] if not holds_no_effect(row(family, name))}
    assert settled
    assert verdicts.keys() == set(several["id"]) - settled
    assert len(verdicts) < sum(family["n"] != "")
    points = row(family, "pca-colour-noise")["detectable"]
    assert re.fullmatch(r"\d\.\d\d points", points)
    assert row(family, "biases-of-one-speed-up-the-start")["why"] == "open, 1 of 3 pairs of seeds"


def test_an_effect_s_row_from_made_up_records(family: pd.DataFrame) -> None:
    # mean -1.1, standard error 0.15811 / sqrt(5); t(0.975, 4) = 2.776445
    expected = {
        "ours": "−1.10 points",
        "interval": "−1.30 to −0.90",
        "n": "5",
        "detectable": "",
        "verdict": "direction reproduced",
        "cost": "12.0 core h",  # 5 + 5 + 2 runs, an hour each
        "chapter": "02_lrn",
    }
    found = row(family, "lrn-imagenet")
    assert {key: found[key] for key in expected} == expected
    low, high = (float(end.replace("−", "-")) for end in found["bootstrap"].split(" to "))
    assert -1.3 <= low < -1.1 < high <= -0.9


def test_a_level_is_printed_without_verdict_p_value_or_detectable_effect(family: pd.DataFrame) -> None:
    found = row(family, "cifar10-13-per-cent")
    assert found["ours"] == "50.00 %"
    assert (found["n"], found["p"], found["detectable"], found["verdict"]) == ("2", "", "", NOT_TESTED)


@pytest.mark.parametrize("claim", ["relu-six-times-faster", "lrn-imagenet"])
def test_a_single_pair_has_a_dash_for_its_interval_and_no_bootstrap(tmp_path: Path, claim: str) -> None:
    runs = [*figure1({"relu-2012": [4.0], "tanh-2012": [24.0]}), *pairs("lrn", "base", "no-lrn", [-1.0])]
    found = row(claims.ledger("laptop", write(tmp_path, runs)), claim)
    assert (found["n"], found["interval"], found["bootstrap"]) == ("1", "–", "")


def test_a_capped_or_incomplete_level_of_the_towers_has_no_detectable_effect(tmp_path: Path) -> None:
    kernels = torch.ones(16, 3, 2, 2)
    runs = [keep(run, {"conv1": kernels}, tmp_path) for run in ended("two_towers", "base", [20.0] * 2)]
    found = row(claims.ledger("laptop", write(tmp_path, runs)), "towers-specialise")
    assert (found["ours"], found["bootstrap"], found["detectable"], found["verdict"]) == (
        "0.00 % (0 of 2 networks)",
        "",
        "",
        "inconclusive",
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every run of the laptop scale but for some of Figure 1's, made up."""
    folder = tmp_path_factory.mktemp("everything")
    base = {arm.recipe.net for arm in experiments.arms("lrn", "laptop") if arm.name == "base"}
    right = torch.linspace(0.1, 0.9, 9)
    tensors = {
        "conv1": torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(1)),
        "probabilities": torch.stack([right, 1 - right], 1),
        "labels": torch.zeros(9, dtype=torch.uint8),
    }
    runs = [keep(run, tensors, folder) if run["recipe"]["net"] in base else run for run in whole()]
    return write(folder, [*runs, *figure1(FIVE)])


@pytest.mark.parametrize("claim", TESTED, ids=lambda claim: claim["id"])
def test_the_smoke_scale_measures_and_judges_nothing(everything: Path, claim: Claim) -> None:
    results = evidence.results(claim["experiment"], "laptop", everything)
    found, _ = judge(claim, results, "laptop")
    assert found
    assert judge(claim, results, "smoke") == (replace(found, why=""), NOT_TESTED)


def test_every_claim_that_runs_of_a_scale_judge_has_an_adjusted_p_value_and_no_other(everything: Path) -> None:
    ledger = claims.ledger("laptop", everything)
    judged = ledger[ledger["id"].isin([claim["id"] for claim in TESTED]) & (ledger["verdict"] != NOT_TESTED)]
    levels = {claim["id"] for claim in TESTED if claim["unit"] == "per cent" and "laptop" not in claim["number_at"]}
    assert set(judged["id"]) == {claim["id"] for claim in TESTED} - levels
    assert set(ledger[ledger["p"] != ""]["id"]) == set(judged["id"]) - {"relu-several-times-faster"}


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
    "other-layers-368872-neurons": (186_624 + 2 * 64_896 + 43_264 + 2 * 4096 + 1000, "reproduced"),
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


# --- the network's own ablations --------------------------------------------------------------------------------


def test_one_pair_of_the_network_s_own_ablations_answers_its_rows_of_the_ledger_and_no_other(tmp_path: Path) -> None:
    runs = pairs("imagenet_ablations", "base", "no-lrn", [-1.0, -1.1, -0.9])
    results = results_of(tmp_path, "imagenet_ablations", *runs)
    judged = {
        claim["id"]: judge(claim, results, "laptop")
        for claim in TESTED
        if claim["experiment"] not in ("relu_vs_tanh", "bigger_and_more", "alexnet")
    }
    answered = {name: (found.mean, verdict) for name, (found, verdict) in judged.items() if found}
    assert answered.keys() == {"lrn-imagenet", "ten-views"}
    assert answered["lrn-imagenet"] == (pytest.approx(-1.0), "direction reproduced")


# --- why: what a verdict rests on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "scale", "why"),
    [
        (about(-1.4, 3), "imagenet", "the interval holds the paper's number"),
        (
            about(-1.1, 3, 0.001),
            "imagenet",
            "the mean lies in the band −2 to −0.8 around the paper's number; the number is outside the interval",
        ),
        (about(-4.0, 5), "laptop", "the paper's number is not tested at this scale"),
        (about(4.0, 5), "laptop", "in direction: the paper's own data are not tested at this scale"),
        (about(0.0, 5), "imagenet", "the interval includes zero and excludes the paper's number"),
        (about(0.0, 5, 5.0), "imagenet", "the interval includes zero"),
        (about(0.0, 5), "laptop", "the interval includes zero; the paper's number is not tested at this scale"),
    ],
)
def test_a_verdict_says_which_part_of_the_rule_decided(
    tmp_path: Path, differences: list[float], scale: str, why: str
) -> None:
    def scored(arm: str, values: Sequence[float]) -> list[Record]:
        return ended("lrn", arm, [{"test_error": one, "test_error_10views": one} for one in values], scale=scale)

    runs = [*scored("base", [30 + one for one in differences]), *scored("no-lrn", [30.0] * len(differences))]
    found, _ = judge(BY_ID["lrn-imagenet"], results_of(tmp_path, "lrn", *runs, scale=scale), scale)
    assert found
    small = scale == "laptop" and "includes" not in why
    assert found.why == why + ("; on AlexNet-32, a miniature" if small else "")


def test_a_verdict_on_a_network_of_2012_is_not_the_miniature_s_though_it_stands_beside(tmp_path: Path) -> None:
    def scored(arm: str, values: Sequence[float]) -> list[Record]:
        return ended("lrn", arm, [{"test_error": one, "test_error_10views": one} for one in values])

    with_norms, without = [[error + seed / 10 for seed in range(5)] for error in (26, 27)]
    runs = [*scored("base", [30.0]), *scored("11pct", with_norms), *scored("11pct-no-lrn", without)]
    found, judged = judge(BY_ID["lrn-cifar10"], results_of(tmp_path, "lrn", *runs), "laptop")
    assert judged == "direction reproduced"
    assert found
    assert found.why == "the paper's number is not tested at this scale; after 8 epochs"


def test_a_verdict_on_a_gap_has_the_test_error_beside_it(tmp_path: Path) -> None:
    def scored(arm: str, trained: float, tested: Sequence[float]) -> list[Record]:
        return ended("augmentation", arm, [{"test_error": one, "train_error_after": trained} for one in tested])

    runs = [*scored("base", 25.0, [27.0, 27.1, 26.9]), *scored("none", 19.0, [26.0, 26.2, 26.1])]
    found, judged = judge(BY_ID["crops-and-flips"], results_of(tmp_path, "augmentation", *runs), "laptop")
    assert found
    assert judged == "reproduced"
    assert "of the gap alone: test error +0.90 points (+0.65 to +1.15)" in found.why


def test_a_verdict_that_waits_says_for_what(tmp_path: Path) -> None:
    runs = pairs("lrn", "base", "no-lrn", about(-4.0, 2))
    found, judged = judge(BY_ID["lrn-imagenet"], results_of(tmp_path, "lrn", *runs), "laptop")
    assert found
    assert (judged, found.why) == ("inconclusive", "open, 2 of 5 pairs of seeds")


def test_a_verdict_without_runs_to_wait_for_says_that_some_gave_no_number(tmp_path: Path) -> None:
    *runs, last = pairs("lrn", "base", "no-lrn", about(-1.4, 5))
    failed = {**last, "outcome": "diverged: loss not finite", "scores": {}}
    found, judged = judge(BY_ID["lrn-imagenet"], results_of(tmp_path, "lrn", *runs, failed), "laptop")
    assert found
    expected = "all runs have ended, 4 of 5 pairs of seeds with a number"
    assert (judged, found.why) == ("inconclusive", expected)


def test_the_slow_down_of_dropout_waits_for_the_runs_of_both_arms(tmp_path: Path) -> None:
    found, judged = dropout(tmp_path, [20], [10, 10, 10])
    assert found
    assert (judged, found.why) == ("inconclusive", "open, 1 of 3 pairs of seeds")


def test_a_relu_run_at_its_cap_leaves_no_ratio_to_judge(tmp_path: Path) -> None:
    runs = figure1({"relu-2012": [4.0] * 4 + [81.0], "tanh-2012": [24.0] * 5})
    found, judged = judge(
        BY_ID["relu-six-times-faster"], evidence.results("relu_vs_tanh", "laptop", write(tmp_path, runs)), "laptop"
    )
    assert found
    assert (judged, found.why) == ("inconclusive", "a ReLU run stopped at its cap: the ratio is no bound")


def test_an_interval_that_holds_the_number_is_not_enough_where_the_mean_decides() -> None:
    claim, scale = BY_ID["pca-colour-noise"], "imagenet"
    wide = Estimate(-0.6, -1.1, -0.1, (-0.6,) * 3, "points")
    assert claims.verdict(claim, wide, scale) == "direction reproduced"
    assert claims.verdict(claim, replace(wide, mean=-1.05, low=-1.3, high=-0.8), scale) == "reproduced"


def test_a_single_run_has_no_level_to_judge() -> None:
    one = Estimate(11.0, -math.inf, math.inf, (11.0,), "per cent")
    assert claims.verdict(BY_ID["cifar10-11-per-cent"], one, "gpu") == "inconclusive"
