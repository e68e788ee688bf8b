"""Figures show the records' own numbers, every seed, and come out with the same bytes from the same data."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from studies import ended, falling, figure1, history, record, write

from alexnet_lib import claims, effects, evidence, experiments, filters, models, plots
from alexnet_lib.effects import Results
from alexnet_lib.estimates import Estimate, estimate
from alexnet_lib.filters import Split
from alexnet_lib.records import Record
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
    assert styles == [("-", plots.BLUE)] * 2 + [("--", plots.RED)] * 2


def test_the_target_is_drawn_in_per_cent(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    (line,) = drawn(panel, linestyle=":")
    assert [y for _, y in points(line)] == [25.0, 25.0]


def test_rate_and_number_of_seeds_stand_in_the_panel(results: Results) -> None:
    (panel,) = plots.training_curves(results, ["2012"], 0.25).axes
    assert "ReLU, rate 0.001" in words(panel)
    assert words(panel).count("n = 2") == 2


def test_a_setting_without_runs_is_drawn_empty_and_says_so(results: Results) -> None:
    panels = plots.training_curves(results, ["2012", "modern"], 0.25).axes
    assert drawn(panels[1], alpha=0.8) == []
    assert words(panels[1]) == "ReLU: no run yet tanh: no run yet"


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


# --- effects ---------------------------------------------------------------------------------------------

ESTIMATES = {
    "2012": Estimate(5.5, 4.5, 6.7, (5.0, 6.0, 5.5)),
    "modern": Estimate(3.0, 2.0, 4.5, (2.5, 3.6), at_least=True),
    "unit-file": None,
    "raw-variance": Estimate(2.0, 0.0, np.inf, (2.0,)),
}


def test_every_seed_is_a_dot_at_its_ratio() -> None:
    (panel,) = plots.effects(ESTIMATES, 6, "tanh / ReLU").axes
    dots = [[x for x, _ in points(line)] for line in drawn(panel, marker="o")]
    assert dots == [[2.0], [2.5, 3.6], [5.0, 6.0, 5.5]]


def test_the_means_are_marked_and_lower_bounds_differently() -> None:
    (panel,) = plots.effects(ESTIMATES, 6, "tanh / ReLU").axes
    assert [x for line in drawn(panel, marker="D") for x, _ in points(line)] == [2.0, 5.5]
    assert [x for line in drawn(panel, marker=">") for x, _ in points(line)] == [3.0]


def test_intervals_are_drawn_where_there_are_at_least_two_seeds() -> None:
    (panel,) = plots.effects(ESTIMATES, 6, "tanh / ReLU").axes
    assert [[x for x, _ in points(line)] for line in drawn(panel, linewidth=1.6)] == [[2.0, 3.0], [4.5, 6.7]]


def test_the_paper_s_number_is_a_dotted_line_beside_the_first_effect_alone() -> None:
    paper = next(claim["paper"] for claim in claims.load() if claim["id"] == "relu-six-times-faster")
    (panel,) = plots.effects(ESTIMATES, paper, "tanh / ReLU").axes
    (line,) = drawn(panel, linestyle=":")
    assert points(line) == [(6.0, 1.6), (6.0, 2.4)]
    (panel,) = plots.effects({"2012": None, "modern": ESTIMATES["modern"]}, paper, "tanh / ReLU").axes
    assert (drawn(panel, linestyle=":"), words(panel)) == ([], "")


def test_settings_are_named_from_the_top_without_those_that_have_no_runs() -> None:
    (panel,) = plots.effects(ESTIMATES, 6, "tanh / ReLU").axes
    marks = {label.get_text(): y for label, y in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True)}
    assert marks == {"raw-variance": 0, "modern": 1, "2012": 2}


def test_ratios_stand_on_a_logarithmic_axis_with_a_line_at_no_effect() -> None:
    (panel,) = plots.effects(ESTIMATES, 6, "tanh / ReLU").axes
    assert (panel.get_xscale(), panel.get_xlabel()) == ("log", "tanh / ReLU")
    assert panel.get_xlim() == pytest.approx((1 / 3, 30))
    assert [points(line)[0][0] for line in drawn(panel, color=plots.GREY)] == [1.0]


POINTS = {
    "narrow": Estimate(-1.5, -2.0, -1.0, (-1.25, -1.75), "points"),
    "wide": Estimate(0.5, -12.2, 13.2, (-0.5, 1.5), "points"),
}


def test_points_stand_on_a_linear_axis_with_a_line_at_no_effect() -> None:
    (panel,) = plots.effects(POINTS, None, "test error, points").axes
    assert panel.get_xscale() == "linear"
    assert [points(line)[0][0] for line in drawn(panel, color=plots.GREY)] == [0.0]
    assert [[x for x, _ in points(line)] for line in drawn(panel, linewidth=1.6)] == [[-12.2, 13.2], [-2.0, -1.0]]


@pytest.mark.parametrize("paper", [None, -6.0, 4.0])
def test_the_axis_of_points_holds_zero_every_seed_and_the_paper_s_number_but_no_wide_interval(
    paper: float | None,
) -> None:
    (panel,) = plots.effects(POINTS, paper, "points").axes
    low, high = panel.get_xlim()
    assert -12 < low < min(-1.75, paper or 0)
    assert max(1.5, paper or 0) < high < 13


def test_the_interval_of_three_seeds_lies_within_the_axis() -> None:
    (panel,) = plots.effects({"three": Estimate(0.0, -9.0, 9.0, (-0.5, 0.0, 0.5), "points")}, None, "points").axes
    low, high = panel.get_xlim()
    assert low <= -9 < 9 <= high


def test_the_paper_s_number_may_be_that_of_every_line() -> None:
    for of_all, length in ((False, 0.8), (True, 1.8)):
        (panel,) = plots.effects(POINTS, -1.4, "points", of_all=of_all).axes
        (((_, below), (_, above)),) = (points(line) for line in drawn(panel, linestyle=":"))
        assert above - below == pytest.approx(length)


def test_without_a_number_of_the_paper_no_line_is_called_its() -> None:
    (panel,) = plots.effects(POINTS, None, "points").axes
    assert (drawn(panel, linestyle=":"), words(panel)) == ([], "")
    (panel,) = plots.effects(POINTS, -1.4, "points").axes
    assert [[x for x, _ in points(line)] for line in drawn(panel, linestyle=":")] == [[-1.4, -1.4]]
    assert words(panel) == "the paper"


@pytest.mark.parametrize("estimates", [{"2012": None}, {}])
def test_no_estimate_at_all_gives_a_figure_that_says_so(estimates: dict[str, Estimate | None]) -> None:
    (panel,) = plots.effects(estimates, 6, "tanh / ReLU").axes
    assert drawn(panel, marker="o") == []
    assert "no run yet" in words(panel)


# --- curves -------------------------------------------------------------------------------------------------


def trained(arm: str, seed: int, after: Sequence[float], test: Sequence[float]) -> Record:
    """Return a record of the experiment on dropout with these errors, epoch by epoch."""
    (made,) = ended("dropout", arm, [*[None] * seed, 20.0])
    return {**made, "history": history([0.99] * len(after), after, test)}


@pytest.fixture
def dropout(tmp_path: Path) -> Results:
    runs = [
        trained("base", 0, [0.5, 0.4, 0.3], [0.6, 0.5, 0.4]),
        trained("base", 1, [0.5, 0.4, 0.2], [0.6, 0.5, 0.3]),
        trained("no-dropout", 0, [0.4, 0.1], [0.5, 0.45]),
    ]
    return evidence.results("dropout", "laptop", write(tmp_path, runs))


def test_ratios_by_level_run_to_the_right_as_training_does() -> None:
    ratios = {
        0.5: estimate([2.0, 2.2], "ratio"),
        0.25: estimate([6.0, 7.0], "ratio"),
        0.2: estimate([9.0], "ratio"),
        0.1: None,
    }
    (panel,) = plots.by_level({"2012": ratios, "modern": {}}, 0.25, 6.0, "tanh / ReLU").axes
    (line,) = drawn(panel, label="2012")
    assert points(line) == [(50.0, pytest.approx(math.sqrt(4.4))), (25.0, pytest.approx(math.sqrt(42.0)))]
    assert panel.xaxis_inverted()
    (star,) = drawn(panel, label="the paper")
    assert points(star) == [(25.0, 6.0)]


def test_without_a_number_of_the_paper_levels_have_no_star() -> None:
    (panel,) = plots.by_level({"2012": {}}, 0.3, None, "").axes
    assert not drawn(panel, label="the paper")


def test_curves_are_the_errors_of_one_view_after_the_epoch_in_per_cent(dropout: Results) -> None:
    training, test, _ = plots.curves(dropout).axes
    assert (training.get_title("left"), test.get_title("left")) == ("training images", "test images")
    for panel, key in ((training, "train_error_after"), (test, "test_error")):
        expected = [
            [(n, 100 * epoch[key]) for n, epoch in enumerate(run["history"], 1)]
            for arm in ("base", "no-dropout")
            for run in dropout[arm].runs.values()
        ]
        assert [points(line) for line in panel.get_lines()] == [pytest.approx(np.array(each)) for each in expected]


def test_every_arm_has_its_colour_and_dashes_and_every_seed_the_arm_s(dropout: Results) -> None:
    for panel in plots.curves(dropout).axes[:2]:
        styles = [(line.get_color(), line.get_linestyle()) for line in panel.get_lines()]
        assert styles == [(plots.BLUE, "-")] * 2 + [(plots.RED, "--")]


def legend(panel: Axes) -> list[str]:
    found = panel.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def arms_named(panel: Axes) -> list[str]:
    return [label.get_text() for label in panel.get_xticklabels()]


def test_the_last_panel_names_every_arm_with_its_runs(dropout: Results) -> None:
    assert arms_named(plots.curves(dropout).axes[2]) == ["base, n = 2", "no-dropout, n = 1"]


def test_only_the_arms_that_are_asked_for_are_drawn_by_their_names(dropout: Results) -> None:
    training, _, end = plots.curves(dropout, {"no-dropout": "without"}).axes
    assert (len(training.get_lines()), arms_named(end)) == (1, ["without, n = 1"])


def test_the_errors_at_the_end_are_dots_of_the_arm_s_colour_with_their_mean(dropout: Results) -> None:
    end = plots.curves(dropout).axes[2]
    for place, arm in enumerate(("base", "no-dropout")):
        dots, mean = end.get_lines()[2 * place : 2 * place + 2]
        errors = [100 * run["history"][-1]["test_error"] for run in dropout[arm].runs.values()]
        assert points(dots) == pytest.approx(np.array([(place, error) for error in errors]))
        assert points(mean) == pytest.approx(np.array([(place + x, np.mean(errors)) for x in (-0.4, 0.4)]))
        assert (dots.get_color(), mean.get_color(), mean.get_linestyle()) == [
            (plots.BLUE, plots.BLUE, "-"),
            (plots.RED, plots.RED, "--"),
        ][place]


def test_a_run_that_diverged_in_its_first_epoch_has_no_curve_and_no_end(dropout: Results) -> None:
    (run,) = dropout["no-dropout"].runs.values()
    run |= {"outcome": "diverged: loss not finite", "history": []}
    training, _, end = plots.curves(dropout).axes
    assert [len(points(line)) for line in training.get_lines()][-1] == 0
    assert len(end.get_lines()) == 2  # those of the other arm


def test_the_highest_test_error_is_in_sight(dropout: Results) -> None:
    for run in dropout["base"].runs.values():
        for epoch in run["history"]:
            epoch["test_error"] = 2 * epoch["train_error_after"]
    training, test, _ = plots.curves(dropout).axes
    highest = max(np.max(line.get_ydata()) for line in test.get_lines())
    assert test.get_ylim() == training.get_ylim()
    assert test.get_ylim()[1] > highest


def test_curves_without_a_run_say_so(tmp_path: Path) -> None:
    training, *_, end = plots.curves(evidence.results("dropout", "laptop", tmp_path)).axes
    assert (words(training), arms_named(end)) == ("no run yet", ["base, n = 0", "no-dropout, n = 0"])


# --- kernels ------------------------------------------------------------------------------------------------


def mosaics(panel: Axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in panel.get_images()]


def test_kernels_are_laid_out_tower_by_tower_with_white_between() -> None:
    weights = torch.stack([torch.full((3, 2, 2), level) for level in (1.0, -1.0, 1.0, -1.0)])
    (panel,) = plots.mosaics({"": {"a": weights}}).axes
    (image,) = mosaics(panel)
    black = {(int(row), int(column)) for row, column in np.argwhere((image == 0).all(2))}
    # cells of 3 pixels, the first row and column white; two rows more between the towers
    assert image.shape == (8, 6, 3)
    assert black == {(row, column) for row in (1, 2, 6, 7) for column in (4, 5)}
    assert (image[(image != 0).any(2)] == 1).all()


def test_every_kernel_is_stretched_by_its_own_largest_weight_about_mid_grey() -> None:
    weights = torch.zeros(2, 3, 1, 2)
    weights[0, 0, 0] = torch.tensor((4.0, -2.0))
    weights[1, 2, 0] = torch.tensor((-0.01, 0.005))
    (panel,) = plots.mosaics({"": {"a": weights}}).axes
    (image,) = mosaics(panel)
    assert image[1, 1:].tolist() == [[1.0, 0.5, 0.5], [0.25, 0.5, 0.5]]
    assert image[-1, 1:].tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, pytest.approx(0.75)]]


@pytest.mark.parametrize("maps", [16, 24, 32, 96])
def test_no_row_of_kernels_holds_two_towers(maps: int) -> None:
    weights = torch.ones(maps, 3, 1, 1)
    weights[maps // 2 :] = -1.0
    (panel,) = plots.mosaics({"": {"a": weights}}).axes
    (image,) = mosaics(panel)
    black = np.argwhere((image == 0).all(2))
    assert len(black) == maps // 2
    assert len({(int(row), int(column)) for row, column in black}) == maps // 2
    assert black[:, 0].min() > image.shape[0] / 2


@pytest.mark.parametrize("columns", [{}, {"one": {}, "two": {}}])
def test_kernels_of_no_network_say_so(columns: dict[str, dict[str, torch.Tensor]]) -> None:
    panels = plots.mosaics(columns).axes
    assert words(panels[0]) == "no run yet"
    assert [mosaics(panel) for panel in panels] == [[]] * max(1, len(columns))
    assert not any(panel.axison for panel in panels)


# --- members ------------------------------------------------------------------------------------------------

LONGER = Estimate(15.0, 14.0, 16.0, (14.5, 15.0, 15.5), "per cent")


def test_averages_are_drawn_at_their_mean_by_the_number_of_networks() -> None:
    (panel,) = plots.members({1: [20.0, 22.0], 2: [18.0, 19.0], 3: [17.0]}, {}).axes
    assert [points(line) for line in drawn(panel, marker="o")] == [[(1, 21.0), (2, 18.5), (3, 17.0)]]
    assert list(panel.get_xticks()) == [1, 2, 3]


def test_ninety_five_per_cent_of_the_sets_lie_in_the_band() -> None:
    (panel,) = plots.members({1: [20.0, 22.0], 2: [18.0, 19.0]}, {}).axes
    (band,) = panel.collections
    corners = {(float(x), round(float(y), 4)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1, 20.05), (1, 21.95), (2, 18.025), (2, 18.975)}


def test_other_networks_are_named_lines_beside_the_averages() -> None:
    (panel,) = plots.members({1: [20.0]}, {"five times as long": LONGER, "none yet": None}).axes
    assert [[y for _, y in points(line)] for line in drawn(panel, linestyle="--")] == [[15.0, 15.0]]
    assert words(panel) == "five times as long, n = 3"


def test_averages_of_no_network_say_so() -> None:
    (panel,) = plots.members({}, {"none yet": None}).axes
    assert (panel.get_lines()[:], words(panel)) == ([], "no run yet")


# --- selectivity --------------------------------------------------------------------------------------------


def test_every_kernel_is_a_mark_of_its_tower_at_its_seed() -> None:
    splits = {0: Split((0.1, 0.2, 0.8, 0.9), -0.7, 0.3), 2: Split((0.5, 0.6, 0.3, 0.4), 0.2, 0.6)}
    full, empty = plots.selectivity({"towers": splits, "apart": {}}).axes
    assert [points(line) for line in drawn(full, marker="o", color=plots.BLUE)] == [
        [(-0.15, 0.1), (-0.15, 0.2)],
        [(1.85, 0.5), (1.85, 0.6)],
    ]
    assert [points(line) for line in drawn(full, marker="x", color=plots.RED)] == [
        [(0.15, 0.8), (0.15, 0.9)],
        [(2.15, 0.3), (2.15, 0.4)],
    ]
    assert [list(map(float, panel.get_xticks())) for panel in (full, empty)] == [[0.0, 2.0], []]
    assert [panel.get_title("left") for panel in (full, empty)] == ["towers", "apart"]
    assert (words(full), words(empty), empty.get_lines()[:]) == ("", "no run yet", [])


# --- the holdout --------------------------------------------------------------------------------------------


def test_every_rate_tried_is_a_line_of_its_errors_on_the_holdout(tmp_path: Path) -> None:
    (arm,) = experiments.arms("recipe", "laptop")
    task = Task("recipe", "laptop", arm.name, arm.recipe, True)
    tests = {0.02: [0.5, 0.35], 0.005: [0.6, 0.4], 0.01: [0.5, 0.3]}
    runs = [record(task, [0.9] * 2, test=errors, rate=rate) for rate, errors in tests.items()]
    (panel,) = plots.holdout(evidence.results("recipe", "laptop", write(tmp_path, runs))["holdout"]).axes
    assert [points(line) for line in panel.get_lines()] == [
        pytest.approx(np.array([(1, 100 * tests[rate][0]), (2, 100 * tests[rate][1])])) for rate in sorted(tests)
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in panel.get_lines()}) == 3
    assert legend(panel) == ["rate 0.005", "rate 0.01", "rate 0.02"]


def test_a_holdout_without_a_run_says_so(tmp_path: Path) -> None:
    (panel,) = plots.holdout(evidence.results("recipe", "laptop", tmp_path)["holdout"]).axes
    assert (words(panel), panel.get_legend()) == ("no run yet", None)


# --- what the first layer learns ----------------------------------------------------------------------------


def layer(maps: int = 6, side: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(maps, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_mosaics_are_a_column_a_network_and_a_row_a_label() -> None:
    one, other = layer(), layer(seed=1)
    figure = plots.mosaics({"a": {"epoch 0": one, "epoch 1": other}, "b": {"epoch 0": other}})
    assert figure.get_figwidth() == 7.0
    assert [panel.get_title("left") for panel in figure.axes] == ["a, epoch 0", "b, epoch 0", "a, epoch 1", ""]
    for panel, kernels in zip(figure.axes, (one, other, other), strict=False):
        (expected,) = mosaics(plots.mosaics({"": {"": kernels}}).axes[0])
        (image,) = mosaics(panel)
        np.testing.assert_array_equal(image, expected)


def test_mosaics_can_show_the_first_kernels_of_each_tower_alone() -> None:
    kernels = layer(8)
    (some,) = plots.mosaics({"": {"a": kernels}}, most=2).axes
    (alone,) = plots.mosaics({"": {"a": kernels[[0, 1, 4, 5]]}}).axes
    np.testing.assert_array_equal(*mosaics(some), *mosaics(alone))
    assert some.get_title("left") == "a"


def test_noise_is_drawn_at_its_epochs_an_arm_a_colour_and_a_seed_a_line() -> None:
    found = {0: {0: 1.01, 1: 0.9, 16: 0.4}, 3: {0: 0.99, 1: 0.8, 16: 0.5}}
    (panel,) = plots.noise({"paper": found, "code2012": {0: {0: 1.0, 20: 0.7}}, "later": {}}).axes
    lines = drawn(panel, marker="o")
    assert [points(line) for line in lines] == [[*found[0].items()], [*found[3].items()], [(0, 1.0), (20, 0.7)]]
    assert [line.get_color() for line in lines] == [plots.BLUE, plots.BLUE, plots.RED]
    assert legend(panel) == ["paper, n = 2", "code2012, n = 1"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1", "16", "20"]
    assert [points(line)[0][1] for line in drawn(panel, linestyle=":")] == [1]
    assert panel.get_ylim()[0] == 0


def stripes(orientations: Sequence[float]) -> torch.Tensor:
    """Return grey kernels of 11 x 11 pixels with stripes of these orientations; NaN is a uniform one."""
    rows, columns = np.indices((11, 11))
    angles = np.deg2rad(orientations)[:, None, None]
    waves = np.cos(2 * np.pi * 0.2 * (np.sin(angles) * columns + np.cos(angles) * rows))
    grey = torch.from_numpy(np.nan_to_num(waves, nan=0.5)).float()
    return grey[:, None].expand(-1, 3, -1, -1)


def test_tuning_curves_are_shares_of_a_kernel_s_largest_answer_sorted_within_its_tower() -> None:
    kernels = stripes([120, np.nan, 30, 60, 90, 0])
    panels = plots.tuning({"a": kernels}).axes
    order = [2, 0, 1, 5, 3, 4]
    whole = filters.tuning(kernels)
    for place, part in enumerate(filters.parts(kernels)):
        found = filters.tuning(part)
        curves, envelope = mosaics(panels[2 * place])[0], mosaics(panels[2 * place + 1])[0]
        largest = whole.amplitude.max((1, 2))[order][:, None]
        np.testing.assert_allclose(curves, found.curve[order] / largest)
        np.testing.assert_allclose(envelope, found.amplitude.max(1)[order] / largest)
    assert [filters.ORIENTATIONS[row.argmax()] for row in mosaics(panels[0])[0]][:2] == [30, 120]
    assert mosaics(panels[0])[0].max(1) == pytest.approx(np.ones(6))
    assert mosaics(panels[2])[0].max() < 1e-6
    assert [panel.get_title("left") for panel in panels] == ["grey part", "", "colour part", ""]


def test_tuning_curves_stand_at_their_orientations_and_frequencies_with_a_line_between_towers() -> None:
    figure = plots.tuning({"a": layer(), "b": layer(seed=1)})
    assert [panel.get_ylabel() for panel in figure.axes] == ["a", "", "", "", "b", "", "", ""]
    orientation, frequency = figure.axes[:2]
    assert orientation.get_images()[0].get_extent() == pytest.approx([-2.5, 177.5, 6, 0])
    assert frequency.get_images()[0].get_extent() == pytest.approx([-0.005, 0.505, 6, 0])
    assert [points(line)[0][1] for line in drawn(orientation, color=plots.RED)] == [3]
    assert [label.get_text() for label in orientation.get_yticklabels()] == ["tower 1", "tower 2"]


def test_preferences_are_a_mark_a_kernel_with_its_tower_s_mark_and_its_own_colour() -> None:
    kernels = torch.cat([stripes([0, 45, 90]), layer(3, 11)])
    figure = plots.preferences({"a": kernels, "b": layer()}, chance=0.2)
    found, colour = filters.tuning(kernels), filters.colour_selectivity(kernels)
    first, second = figure.axes[0].collections
    for marks, half in ((first, slice(0, 3)), (second, slice(3, 6))):
        expected = np.stack([found.frequency[half], found.selectivity[half]], 1)
        np.testing.assert_allclose(np.asarray(marks.get_offsets()), expected)
        np.testing.assert_allclose(np.asarray(marks.get_array()), colour[half])
        assert marks.get_clim() == (0, 1)
    assert legend(figure.axes[0]) == ["tower 1", "tower 2"]
    assert [panel.get_title("left") for panel in figure.axes[:2]] == ["a", "b"]
    assert [points(line)[0][1] for line in drawn(figure.axes[1], linestyle=":")] == [0.2]


def test_an_odd_number_of_networks_leaves_one_panel_out() -> None:
    figure = plots.preferences({name: layer() for name in "abc"})
    assert [panel.axison for panel in figure.axes[:4]] == [True, True, True, False]


@pytest.mark.parametrize("draw", [plots.mosaics, plots.noise, plots.tuning, plots.preferences])
def test_a_first_layer_without_a_run_says_so(draw: Callable[[dict], Figure]) -> None:
    panels = draw({}).axes
    assert words(panels[0]) == "no run yet"
    assert [len(panel.get_images()) + len(panel.get_lines()) + len(panel.collections) for panel in panels] == [
        0 for _ in panels
    ]


def test_arms_without_a_run_have_no_noise_to_draw() -> None:
    (panel,) = plots.noise({"paper": {}, "code2012": {}}).axes
    assert words(panel) == "no run yet"


# --- all figures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [None, 10.0])
def test_the_share_of_neighbours_is_drawn_layer_by_layer_an_arm_a_colour_and_a_seed_a_line(
    chance: float | None,
) -> None:
    found = {"paper": {0: {"pixels": 20.0, "fc7": 60.0}, 1: {"pixels": 21.0, "fc7": 55.0}}, "reduced": {}}
    (panel,) = plots.same_class(found, chance).axes
    lines = drawn(panel, marker="o")
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[20.0, 60.0], [21.0, 55.0]]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["pixels", "fc7"]
    assert legend(panel) == ["paper, n = 2"]
    assert ("chance" in words(panel)) == (chance is not None)


def test_neighbours_of_no_network_say_so() -> None:
    (panel,) = plots.same_class({"paper": {}}).axes
    assert words(panel) == "no run yet"


def bars(panel: Axes) -> list[tuple[str, float, bool]]:
    """Return class, per cent, and whether it is marked as the right one."""
    marked = [text.get_fontweight() == "bold" for text in panel.texts]
    widths = [patch.get_width() for patch in panel.patches if isinstance(patch, Rectangle)]
    return [(t.get_text(), w, m) for t, w, m in zip(panel.texts, widths, marked, strict=True)]


PROBABILITIES = torch.tensor([[0.05, 0.5, 0.1, 0.02, 0.3, 0.03], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])


def test_predictions_are_the_five_likeliest_classes_with_the_right_one_marked() -> None:
    panels = plots.predictions(PROBABILITIES.half(), torch.tensor([4, 3]), list("abcdef")).axes
    first, second = (panel for panel in panels if panel.axison)
    expected = [("b", 50.0, False), ("e", 30.0, True), ("c", 10.0, False), ("a", 5.0, False), ("f", 3.0, False)]
    assert bars(first) == [(name, pytest.approx(share, abs=0.1), right) for name, share, right in expected]
    assert [panel.get_title("left") for panel in (first, second)] == ["e", "d"]
    assert bars(second)[0] == ("d", 100.0, True)


def test_predictions_stand_below_their_pictures_where_there_are_any() -> None:
    pictures = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    figure = plots.predictions(PROBABILITIES[[0, 1, 0]], torch.tensor([1, 0, 4]), list("abcdef"), pictures, across=2)
    grid = np.array(figure.axes).reshape(4, 2)
    shown = [grid[0, 0], grid[0, 1], grid[2, 0]]
    assert np.array_equal([panel.images[0].get_array() for panel in shown], pictures.numpy())
    assert [panel.get_title("left") for panel in shown] == ["b", "a", "e"]
    assert [bars(panel)[0][0] for panel in (grid[1, 0], grid[1, 1], grid[3, 0])] == ["b", "d", "b"]
    assert not grid[2, 1].images
    assert not grid[3, 1].axison


def test_neighbours_stand_beside_their_query_and_are_framed_if_of_its_class() -> None:
    queries = torch.full((2, 32, 32, 3), 10, dtype=torch.uint8)
    near = torch.arange(2 * 3, dtype=torch.uint8).view(2, 3, 1, 1, 1).expand(2, 3, 32, 32, 3)
    alike = torch.tensor([[True, False, False], [False, False, True]])
    query, other = plots.neighbours(queries, {"in pixels": (near, alike)}).axes
    (shown,) = other.images
    tiles = np.asarray(shown.get_array()).reshape(2, 36, 3, 36, 3).swapaxes(1, 2)
    assert (tiles[:, :, 2:-2, 2:-2] == near.numpy()).all()
    white = (tiles[:, :, :2] == 255).all((2, 3, 4))
    assert white.tolist() == (~alike).tolist()
    assert same_color(tiles[0, 0, 0, 0] / 255, plots.BLUE)
    assert [panel.get_title("left") for panel in (query, other)] == ["query", "in pixels"]


def test_the_colours_are_the_same_two_in_every_figure(results: Results) -> None:
    figures = [plots.training_curves(results, ["2012"], 0.25), plots.rate_grids(results, ["2012"], 0.25)]
    for figure in figures:
        colours = {line.get_color() for line in figure.axes[0].get_lines()} - {plots.GREY}
        assert colours == {plots.BLUE, plots.RED}


def test_figures_stand_on_white(results: Results) -> None:
    assert same_color(plots.training_curves(results, ["2012"], 0.25).get_facecolor(), "white")


def draw(folder: Path, seed_1: float) -> list[bytes]:
    results = study(folder, {"relu-2012": [4.0, seed_1], "tanh-2012": [20.0, 30.25]})
    estimates = {setting: effects.speed_up(results, setting) for setting in effects.settings(results)}
    return [
        svg(plots.training_curves(results, ["2012"], 0.25)),
        svg(plots.effects(estimates, 6, "tanh / ReLU")),
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


# --- what is made larger, and what it takes -------------------------------------------------------------------


def test_levels_stand_at_what_was_made_larger_with_every_seed_and_their_means_joined() -> None:
    levels = {2.0: estimate([20.0, 22.0], "per cent"), 1.0: estimate([30.0], "per cent"), 4.0: None}
    figure = plots.scaling({"times the width": levels, "images": {1.0: None}})
    first, second = figure.axes
    assert [points(line) for line in drawn(first, color=plots.BLUE)] == [[(1, 30)], [(2, 20), (2, 22)]]
    assert [points(line) for line in drawn(first, color="black")] == [[(1, 30), (2, 21)]]
    assert (first.get_xscale(), first.get_xlabel()) == ("log", "times the width")
    assert [text.get_text() for text in first.get_xticklabels()] == ["1", "2", "4"]
    assert [text.get_text() for text in second.texts] == ["no run yet"]


def test_hours_fall_with_the_number_of_gpus_beside_what_was_once() -> None:
    figure = plots.hours({"one run": {1: 8.0, 8: 1.0}}, {"the paper": (2, 132.0)})
    (panel,) = figure.axes
    assert [points(line) for line in panel.get_lines()] == [[(1, 8), (8, 1)], [(2, 132)]]
    assert [text.get_text() for text in panel.texts] == ["the paper"]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "2", "8"]


def test_towers_meet_where_a_layer_has_no_groups() -> None:
    net = "alexnet-paper"
    (panel,) = plots.towers(models.layer_table(models.outline(net), 224), 224).axes
    texts = [text.get_text() for text in panel.texts]
    assert texts.count("conv1\n55 × 55\n× 48\nnorm, pool") == 2
    assert texts.count("conv3\n13 × 13\n× 192") == 2
    assert texts.count("fc8\n1000") == 1
    crossing = [line for line in panel.get_lines() if same_color(line.get_color(), plots.RED)]
    assert sorted(round(max(points(line))[0]) for line in crossing) == [3, 3, 6, 6, 7, 7]  # conv3, fc6, fc7
