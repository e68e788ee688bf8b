"""The chapters' tables and lines say what the records hold, and a dash where they hold nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from IPython.display import HTML
from studies import ended, write

from alexnet_lib import claims, evidence, images, models, report
from alexnet_lib.effects import Results
from alexnet_lib.estimates import Estimate, estimate
from alexnet_lib.records import Record

CLAIM = {
    "statement": "Norms  lower\nthe error.",
    "rule": "Paired over\n  seeds.",
    "paper_text": "-1.4 / -1.2 points",
    "number_at": ["imagenet"],
}


def rows(table: HTML) -> list[dict[str, str]]:
    """Return a table's cells as text, a mapping of column to cell for every row."""
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", str(table.data), re.DOTALL)
    head, *body = [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", line)] for line in lines]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def results_of(folder: Path, experiment: str, *runs: Record, scale: str = "laptop") -> Results:
    return evidence.results(experiment, scale, write(folder, runs))


def made(values: Sequence[float], unit: str = "points") -> Estimate:
    found = estimate(values, unit)
    assert found
    return found


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[{"arm": "<relu>", "n": 5}], pd.DataFrame({"arm": ["<relu>"], "n": [5]})])
def test_a_table_has_the_book_s_class_and_no_index(given: list[dict[str, object]] | pd.DataFrame) -> None:
    table = report.table(given)
    assert 'class="dataframe study"' in str(table.data)
    assert rows(table) == [{"arm": "<relu>", "n": "5"}]


def test_rows_can_come_one_by_one() -> None:
    assert rows(report.table({"number": number} for number in (1, 2))) == [{"number": "1"}, {"number": "2"}]


# --- arms ---------------------------------------------------------------------------------------------------


def test_arms_are_counted_against_the_seeds_that_the_scale_declares(tmp_path: Path) -> None:
    runs = [*ended("dropout", "base", [20.0] * 2), *ended("dropout", "no-dropout", [None, 20.0])]
    found = rows(report.arms(results_of(tmp_path, "dropout", *runs)))
    assert [(row["arm"], row["seeds"]) for row in found] == [("base", "2 of 3"), ("no-dropout", "1 of 3")]


def test_an_arm_is_described_by_its_network_size_and_length(tmp_path: Path) -> None:
    base, longer = rows(report.arms(results_of(tmp_path, "ensembles")))
    table = models.layer_table(models.outline("alexnet32"), models.NETS["alexnet32"].image_size)
    parameters = f"{sum(row.parameters for row in table):,}"
    assert {key: base[key] for key in ("network", "other changes", "parameters", "epochs")} == {
        "network": "alexnet32",
        "other changes": "–",
        "parameters": parameters,
        "epochs": "16",
    }
    assert (longer["network"], longer["other changes"], longer["epochs"]) == ("alexnet32", "–", "80")


def test_parameters_are_counted_with_the_classes_of_the_data(tmp_path: Path) -> None:
    found = {row["arm"]: row["parameters"] for row in rows(report.arms(results_of(tmp_path, "alexnet", scale="gpu")))}
    a_class = 4097  # fc8's weights and bias
    assert found["paper"] == f"{60_965_224 - 990 * a_class:,}"
    assert found["paper-tiny"] == f"{60_965_224 - 800 * a_class:,}"


def test_parameters_are_counted_with_the_classes_that_a_set_s_name_says(tmp_path: Path) -> None:
    found = rows(report.arms(results_of(tmp_path, "relu_vs_tanh", scale="smoke")))
    net = models.outline("cifar-19pct", classes=3)
    assert {row["parameters"] for row in found if row["network"] == "cifar-19pct"} == {
        f"{models.n_parameters(net):,}"
    }


def test_the_changes_of_an_arm_are_named_against_the_first(tmp_path: Path) -> None:
    found = {row["arm"]: row["other changes"] for row in rows(report.arms(results_of(tmp_path, "augmentation")))}
    assert found == {
        "base": "–",
        "none": "places centre, flip False",
        "crops": "flip False",
        "colour-printed": "colour printed",
        "colour-coded": "colour coded",
        "colour-lighting": "colour lighting",
    }


def test_another_network_is_no_other_change(tmp_path: Path) -> None:
    _, *others = rows(report.arms(results_of(tmp_path, "depth")))
    assert [(row["network"], row["other changes"]) for row in others] == [
        (f"alexnet32-no-conv{layer}", "–") for layer in (3, 4, 5)
    ]


def test_the_reduced_network_is_not_taken_for_the_whole_one(tmp_path: Path) -> None:
    assert report.labels(results_of(tmp_path, "alexnet")) == {
        "paper": "edition paper",
        "code2012": "edition code2012",
        "reduced": "reduced (not the whole network)",
    }


# --- data sets ----------------------------------------------------------------------------------------------


def test_data_sets_come_with_their_numbers_and_what_must_be_known_of_them(tmp_path: Path) -> None:
    runs = ended("alexnet", "paper", [30.0]) + ended("alexnet", "code2012", [30.0])
    runs[1]["data"] |= {"train": 9469, "test": 3925}
    said = str(report.data_sets(results_of(tmp_path, "alexnet", *runs)).data)
    assert said == f"- `imagenette`: 9,469 training images and 3,925 test images. {images.CAVEATS['imagenette']}"


def test_data_sets_without_a_run_or_a_caveat_are_named_alone(tmp_path: Path) -> None:
    assert str(report.data_sets(results_of(tmp_path, "dropout")).data) == "- `cifar10`"
    assert str(report.data_sets(results_of(tmp_path, "alexnet")).data).startswith("- `imagenette`: Ten classes")


# --- levels, effects ----------------------------------------------------------------------------------------

TITLES = {"test_error": "one view", "gap": "gap"}


def test_levels_are_means_with_intervals_and_a_dash_where_an_arm_has_no_run(tmp_path: Path) -> None:
    scores = [{"test_error": error, "train_error_after": 10.0} for error in (20.0, 22.0)]
    found = rows(report.levels(results_of(tmp_path, "dropout", *ended("dropout", "base", scores)), TITLES))
    # standard error 1; t(0.975, 1) = 12.7062
    assert found == [
        {"arm": "base", "n": "2", "one view": "21.00 % (8.29 to 33.71)", "gap": "+11.00 points (−1.71 to +23.71)"},
        {"arm": "no-dropout", "n": "0", "one view": "–", "gap": "–"},
    ]


def test_an_estimate_from_all_arms_at_once_has_an_interval_though_no_value_of_its_own() -> None:
    assert report.shown(Estimate(0.02, -0.62, 0.66, (), "points")) == "+0.02 points (−0.62 to +0.66)"


def test_the_level_of_a_single_run_has_no_interval(tmp_path: Path) -> None:
    base, _ = rows(report.levels(results_of(tmp_path, "dropout", *ended("dropout", "base", [20.0])), TITLES))
    assert (base["n"], base["one view"]) == ("1", "20.00 %")


def test_effects_stand_beside_the_paper_s_numbers_with_both_intervals() -> None:
    found = rows(
        report.effects(
            {
                "with minus without": ("-1.4 points", made([-1.0, -2.0])),
                "a ratio": ("", made([2.0] * 5, "ratio")),
                "one pair": ("x", made([1.0])),
                "none yet": ("6 x", None),
            }
        )
    )
    columns = ["comparison", "paper", "ours", "95 % interval (t)", "bootstrap", "n"]
    assert [[row[column] for column in columns] for row in found] == [
        ["with minus without", "-1.4 points", "−1.50 points", "−7.85 to +4.85", "–", "2"],
        ["a ratio", "–", "2.00 x", "2.00 to 2.00", "2.00 to 2.00", "5"],
        ["one pair", "x", "+1.00 points", "–", "–", "1"],
        ["none yet", "6 x", "–", "–", "–", "0"],
    ]


# --- lines --------------------------------------------------------------------------------------------------


def test_a_takeaway_holds_our_number_the_paper_s_and_the_verdict() -> None:
    assert report.takeaway("With norms", CLAIM, made([-1.0, -2.0]), "inconclusive") == (
        "- With norms: **−1.50 points** (95 % interval −7.85 to +4.85, n = 2). "
        "Paper: -1.4 / -1.2 points. Verdict: **inconclusive**."
    )


def test_a_takeaway_says_why_and_that_a_single_run_has_no_interval() -> None:
    found = replace(made([-1.0]), why="open, 1 of 5 pairs of seeds")
    assert report.takeaway("With norms", CLAIM, found, "inconclusive") == (
        "- With norms: **−1.00 points** (n = 1, no interval). Paper: -1.4 / -1.2 points. "
        "Verdict: **inconclusive** (open, 1 of 5 pairs of seeds)."
    )


def test_devices_are_told_where_they_differ(tmp_path: Path) -> None:
    runs = [*ended("dropout", "base", [20.0]), *ended("dropout", "no-dropout", [20.0])]
    assert report.devices(results_of(tmp_path, "dropout", *runs)) == ""
    on_gpu = {**runs[1], "provenance": runs[1]["provenance"] | {"device": "NVIDIA H200"}}
    results = results_of(tmp_path / "both", "dropout", runs[0], on_gpu)
    assert report.devices(results).startswith("Trained on CPU: base; on GPU: no-dropout. Where the sides")
    assert str(report.runs(results).data).startswith("<p>Trained on CPU: base; on GPU: no-dropout.")


def test_a_takeaway_without_runs_says_so_and_has_no_verdict() -> None:
    line = report.takeaway("With norms", CLAIM, None, claims.NOT_TESTED)
    assert line == "- With norms: no runs to compare yet. Paper: -1.4 / -1.2 points."


def test_progress_counts_the_runs_that_the_scale_asks_for(tmp_path: Path) -> None:
    runs = [*ended("dropout", "base", [20.0] * 4), *ended("dropout", "no-dropout", [20.0])]  # a base too many
    line = report.progress(results_of(tmp_path, "dropout", *runs), "laptop")
    assert line == "- 4 of the 6 runs that scale `laptop` asks for are recorded."


def verdict(found: Estimate | None, judged: str) -> list[str]:
    return str(report.verdict(CLAIM, found, judged).data).split("\n\n")


def test_a_verdict_stands_below_the_claim_and_its_rule() -> None:
    assert verdict(made([-1.0, -2.0, -1.5]), "direction reproduced") == [
        "Norms lower the error.",
        "> Paired over seeds.",
        "**direction reproduced**: −1.50 points, interval −2.74 to −0.26, n = 3",
    ]


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        (["imagenet"], "scale imagenet"),
        (["laptop", "gpu"], "scale laptop and gpu"),
        ([], "scales of which none is here"),
    ],
)
def test_a_rule_names_the_scales_that_its_file_has_a_key_for(scales: list[str], said: str) -> None:
    claim = CLAIM | {"rule": "Open only at the scales named under number_at.", "number_at": scales}
    assert f"> Open only at {said}." in str(report.verdict(claim, None, claims.NOT_TESTED).data)


def test_beside_an_inconclusive_effect_stands_what_it_could_have_missed() -> None:
    last = verdict(made([-1.0, 2.0]), "inconclusive")[-1]
    assert re.fullmatch(
        r"\*\*inconclusive\*\*: \+0\.50 points, interval −18\.56 to \+19\.56, n = 2\. "
        r"Smallest effect that 2 pairs of this spread would detect with 80 % power: [\d.]+ points",
        last,
    )


@pytest.mark.parametrize(
    ("found", "judged"),
    [(made([-1.0, 2.0]), "contradicted"), (made([20.0, 21.0], "per cent"), "inconclusive"), (None, "inconclusive")],
)
def test_nothing_missed_stands_beside_other_verdicts_levels_and_claims_without_runs(
    found: Estimate | None, judged: str
) -> None:
    assert "mallest effect" not in verdict(found, judged)[-1]


def test_the_verdict_without_runs_is_its_words_alone() -> None:
    assert verdict(None, claims.NOT_TESTED)[-1] == "**not tested at this scale**"


# --- runs ---------------------------------------------------------------------------------------------------


def test_every_run_behind_a_chapter_is_listed_with_its_id_and_commit(tmp_path: Path) -> None:
    base = ended("dropout", "base", [20.04, 21.0], errors=[0.5, 0.4, 0.3])
    (failed,) = ended("dropout", "no-dropout", [20.0], outcome="diverged: loss not finite")
    failed |= {"scores": {}, "provenance": {"commit": None, "dirty": None, "device": "NVIDIA H100"}}
    found = rows(report.runs(results_of(tmp_path, "dropout", *base[::-1], failed)))
    assert [row["run"] for row in found] == [run["id"][:8] for run in (*base, failed)]
    assert found[0] == {
        "arm": "base",
        "rate": "0.01",
        "seed": "0",
        "epochs": "3",
        "outcome": "completed",
        "test error": "20.04 %",
        "on": "CPU",
        "run": base[0]["id"][:8],
        "commit": "00000000",
    }
    assert {key: found[2][key] for key in ("arm", "outcome", "test error", "on", "commit")} == {
        "arm": "no-dropout",
        "on": "GPU",
        "outcome": "diverged: loss not finite",
        "test error": "–",
        "commit": "unknown",
    }
