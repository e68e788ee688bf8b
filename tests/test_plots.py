"""Figures show the records' own numbers, every seed, and come out with the same bytes from the same data."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from studies import falling, figure1, record, write

from alexnet_lib import claims, evidence, experiments, plots
from alexnet_lib.claims import Estimate, Results
from alexnet_lib.runner import Task

RELU = {0: 4.0, 1: 5.5}
TANH = {0: 20.0, 1: 30.25}


@pytest.fixture(autouse=True)
def _drawing() -> Iterator[None]:
    matplotlib.use("Agg")
    with matplotlib.rc_context(plots.STYLE):
        yield
    pyplot.close("all")


def study(folder: Path, epochs: dict[str, Sequence[float]]) -> Results:
    write(folder, figure1(epochs))
    return evidence.results("relu_vs_tanh", "laptop", folder)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return study(tmp_path, {"relu-2012": [*RELU.values()], "tanh-2012": [*TANH.values()]})


def points(line: Line2D) -> list[tuple[float, float]]:
    return list(zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True))


def drawn(panel: Axes, **properties: object) -> list[Line2D]:
    """Return the panel's lines that have these properties."""
    return [line for line in panel.get_lines() if all(line.properties()[k] == v for k, v in properties.items())]


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def words(panel: Axes) -> str:
    return " ".join(text.get_text() for text in panel.texts)


# --- Figure 1 -----------------------------------------------------------------------------------------------


def test_every_seed_s_curve_is_its_record_s_training_error_in_per_cent(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    expected = [
        [(n, 100 * epoch["train_error"]) for n, epoch in enumerate(run["history"], 1)]
        for arm in ("relu-2012", "tanh-2012")
        for run in results[arm].runs.values()
    ]
    assert [points(line) for line in drawn(panel, alpha=0.8)] == [pytest.approx(np.array(e)) for e in expected]


def test_relu_is_solid_and_tanh_dashed_as_in_the_paper(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    styles = [(line.get_linestyle(), line.get_color()) for line in drawn(panel, alpha=0.8)]
    assert styles == [("-", plots.RELU)] * 2 + [("--", plots.TANH)] * 2


def test_the_target_is_drawn_in_per_cent(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    (line,) = drawn(panel, linestyle=":")
    assert [y for _, y in points(line)] == [25.0, 25.0]


def test_rate_and_number_of_seeds_stand_in_the_panel(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    assert "ReLU, rate 0.001" in words(panel)
    assert words(panel).count("n = 2") == 2


def test_a_setting_without_runs_is_drawn_empty(results: Results) -> None:
    panels = plots.training_curves(results, ["2012", "modern"], 0.25).axes
    assert drawn(panels[1], alpha=0.8) == []


def test_every_setting_has_a_panel_of_its_own_with_axes_in_words(results: Results) -> None:
    panels = plots.training_curves(results, ["2012", "modern"], 0.25).axes
    assert ["2012" in p.get_title("left") + p.get_title() for p in panels] == [True, False]
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("epochs", "training error, %")


# --- the search ---------------------------------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path: Path) -> Results:
    """Return an arm's search: a rate that won, a slower one, one abandoned, one that diverged."""
    arm = experiments.arms("relu_vs_tanh", "laptop")[0]
    task = Task("relu_vs_tanh", "laptop", arm.name, arm.recipe, True)
    first, double, half = arm.rates
    runs = [
        record(task, falling(7.0), rate=half),
        record(task, falling(4.5), rate=first),
        record(task, [0.5] * 10, rate=double, outcome="abandoned: a test's"),
        record(task, [0.9] * 3, rate=2 * double, outcome="diverged: a test's"),
    ]
    return evidence.results("relu_vs_tanh", "laptop", write(tmp_path, runs))


def test_the_rates_that_reached_the_target_stand_at_their_epochs(searched: Results) -> None:
    panel = plots.rate_grids(searched, ["2012"], 0.25).axes[0]
    (line, *_) = [line for line in drawn(panel, linestyle="-") if len(points(line)) > 1]
    assert points(line) == pytest.approx(np.array([(0.0005, 7.0), (0.001, 4.5)]))


def test_an_abandoned_rate_is_hollow_at_the_epochs_it_had(searched: Results) -> None:
    panel = plots.rate_grids(searched, ["2012"], 0.25).axes[0]
    assert [points(line) for line in drawn(panel, marker="o", markerfacecolor="white")] == [[(0.002, 10.0)]]


def test_a_diverged_rate_is_a_cross_at_the_foot(searched: Results) -> None:
    panel = plots.rate_grids(searched, ["2012"], 0.25).axes[0]
    assert [points(line) for line in drawn(panel, marker="x")] == [[(0.004, 0.0)]]


def test_the_chosen_rate_is_ringed(searched: Results) -> None:
    panel = plots.rate_grids(searched, ["2012"], 0.25).axes[0]
    assert searched["relu-2012"].rate == 0.001
    assert [points(line) for line in drawn(panel, markersize=11.0)] == [[(0.001, pytest.approx(4.5))]]


def test_the_chosen_rate_is_ringed_where_no_rate_reached_the_target(tmp_path: Path) -> None:
    results = study(tmp_path, {"relu-2012": [100.0]})
    assert results["relu-2012"].rate == 0.001
    panel = plots.rate_grids(results, ["2012"], 0.25).axes[0]
    assert [points(line) for line in drawn(panel, markersize=11.0)] == [[(0.001, 80.0)]]


@pytest.mark.parametrize("settings", [["2012"], ["2012", "modern"]])
def test_every_panel_of_the_search_shows_a_setting(searched: Results, settings: list[str]) -> None:
    panels = plots.rate_grids(searched, settings, 0.25).axes
    assert [panel.get_title("left") for panel in panels if panel.axison] == [f"recipe: {s}" for s in settings]


# --- the ratios ---------------------------------------------------------------------------------------------

ESTIMATES = {
    "2012": Estimate(5.5, 4.5, 6.7, (5.0, 6.0, 5.5)),
    "modern": Estimate(3.0, 2.0, 4.5, (2.5, 3.6), at_least=True),
    "unit-file": None,
    "raw-variance": Estimate(2.0, 0.0, np.inf, (2.0,)),
}


def test_every_seed_is_a_dot_at_its_ratio() -> None:
    (panel,) = plots.ratios(ESTIMATES, 6).axes
    dots = [[x for x, _ in points(line)] for line in drawn(panel, marker="o")]
    assert dots == [[2.0], [2.5, 3.6], [5.0, 6.0, 5.5]]


def test_the_means_are_marked_and_lower_bounds_differently() -> None:
    (panel,) = plots.ratios(ESTIMATES, 6).axes
    assert [x for line in drawn(panel, marker="D") for x, _ in points(line)] == [2.0, 5.5]
    assert [x for line in drawn(panel, marker=">") for x, _ in points(line)] == [3.0]


def test_intervals_are_drawn_where_there_are_at_least_two_seeds() -> None:
    (panel,) = plots.ratios(ESTIMATES, 6).axes
    assert [[x for x, _ in points(line)] for line in drawn(panel, linewidth=1.6)] == [[2.0, 3.0], [4.5, 6.7]]


def test_the_paper_s_number_is_a_dotted_line() -> None:
    paper = next(claim["paper"] for claim in claims.load() if claim["id"] == "relu-six-times-faster")
    (panel,) = plots.ratios(ESTIMATES, paper).axes
    (line,) = drawn(panel, linestyle=":")
    assert [x for x, _ in points(line)] == [6.0, 6.0]


def test_settings_are_named_from_the_top_without_those_that_have_no_runs() -> None:
    (panel,) = plots.ratios(ESTIMATES, 6).axes
    marks = {label.get_text(): y for label, y in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True)}
    assert marks == {"raw-variance": 0, "modern": 1, "2012": 2}


def test_no_estimate_at_all_gives_an_empty_figure() -> None:
    (panel,) = plots.ratios({"2012": None}, 6).axes
    assert drawn(panel, marker="o") == []


# --- all figures --------------------------------------------------------------------------------------------


def test_the_colours_are_the_same_two_in_every_figure(results: Results) -> None:
    figures = [plots.training_curves(results, ["2012"], 0.25), plots.rate_grids(results, ["2012"], 0.25)]
    for figure in figures:
        colours = {line.get_color() for line in figure.axes[0].get_lines()} - {plots.GREY}
        assert colours == {plots.RELU, plots.TANH}


def test_figures_stand_on_white(results: Results) -> None:
    assert same_color(plots.training_curves(results, ["2012"], 0.25).get_facecolor(), "white")


def draw(folder: Path, seed_1: float) -> list[bytes]:
    results = study(folder, {"relu-2012": [4.0, seed_1], "tanh-2012": [20.0, 30.25]})
    estimates = {setting: claims.speed_up(results, setting) for setting in claims.settings(results)}
    return [
        svg(plots.training_curves(results, ["2012"], 0.25)),
        svg(plots.ratios(estimates, 6)),
        svg(plots.rate_grids(results, ["2012"], 0.25)),
    ]


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "one", 5.5) == draw(tmp_path / "two", 5.5)


def test_other_data_give_other_bytes(tmp_path: Path) -> None:
    one, two = draw(tmp_path / "one", 5.5), draw(tmp_path / "two", 5.51)
    assert [a == b for a, b in zip(one, two, strict=True)] == [
        False,
        False,
        True,
    ]  # the search had seed 0 alone


def test_a_table_has_the_book_s_class_and_no_index() -> None:
    html = plots.table(pd.DataFrame({"arm": ["relu"], "n": [5]})).data
    assert 'class="dataframe study"' in html
    assert html.count("<th>") == 2
    assert html.count("<td>") == 2
