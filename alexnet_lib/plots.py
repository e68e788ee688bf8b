"""The study's figures: direct labels, every seed drawn, colours that the colour-blind can tell apart.

Figures stand on white so that they read the same on light and dark pages, and come out as SVG with the same bytes
from the same data.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from alexnet_lib import filters
from alexnet_lib.estimates import Estimate
from alexnet_lib.evidence import ArmResult, crossing
from alexnet_lib.filters import Split
from alexnet_lib.models import LayerRow

BLUE, RED, GREY = "#0072b2", "#d55e00", "#595959"  # Okabe and Ito's blue and vermilion
LINES = (
    (BLUE, "-"),
    (RED, "--"),
    ("#009e73", "-."),
    ("#cc79a7", ":"),
    ("#e69f00", "-"),
    ("black", "--"),
    ("#56b4e9", "-."),
    (GREY, ":"),
)
"""Colour and dashes of an arm's line, in the order of the arms."""
ACTIVATIONS = {"relu": ("ReLU", BLUE, "-"), "tanh": ("tanh", RED, "--")}
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "svg.hashsalt": "alexnet",
    "legend.frameon": False,
}


def setup() -> None:
    """Make notebooks draw in the study's style, as SVG without dates or random names."""
    import matplotlib_inline.backend_inline as inline

    matplotlib.rcParams.update(STYLE)
    inline.set_matplotlib_formats("svg", metadata={"Date": None})  # type: ignore[no-untyped-call]


def training_curves(results: Mapping[str, ArmResult], settings: Sequence[str], target: float) -> Figure:
    """Draw training error against epochs for both activations, a panel a setting, every seed a line (P Figure 1)."""
    figure, panels = plt.subplots(1, len(settings), figsize=(4.2 * len(settings), 3.8), sharey=True, squeeze=False)
    for panel, setting in zip(panels[0], settings, strict=True):
        for place, (activation, (name, colour, line)) in enumerate(ACTIVATIONS.items()):
            arm = results[f"{activation}-{setting}"]
            for run in arm.runs.values():
                errors = [100 * epoch["train_error"] for epoch in run["history"]]
                panel.plot(range(1, len(errors) + 1), errors, line, color=colour, linewidth=1.1, alpha=0.8)
            label = f"{name}, rate {arm.rate:g}, n = {len(arm.runs)}" if arm.runs else f"{name}: no run yet"
            panel.text(
                0.98, 0.97 - 0.08 * place, label, color=colour, ha="right", va="top", transform=panel.transAxes
            )
        panel.axhline(100 * target, color=GREY, linewidth=0.8, linestyle=":")
        panel.set(title=f"recipe: {setting}", xlabel="epochs", ylim=(0, 90), xlim=(0, None))
    panels[0][0].set_ylabel("training error, %")
    return figure


def rate_grids(results: Mapping[str, ArmResult], settings: Sequence[str], target: float) -> Figure:
    """Draw epochs to the target against the learning rates tried with the first seed, a panel a setting.

    A hollow mark stands where a run was abandoned or stopped at its cap, at the epochs it had; a cross at the foot
    where the loss was not finite. The chosen rate is ringed.
    """
    rows = -(-len(settings) // 2)
    figure, panels = plt.subplots(
        rows,
        min(2, len(settings)),
        figsize=(4.2 * min(2, len(settings)), 3.2 * rows),
        squeeze=False,
    )
    for panel, setting in zip(panels.flat, settings, strict=False):
        for place, (activation, (name, colour, _)) in enumerate(ACTIVATIONS.items()):
            arm = results[f"{activation}-{setting}"]
            points = [(run["recipe"]["rate"], crossing(run["history"], target), run) for run in arm.grid]
            reached = [(rate, epochs) for rate, epochs, _ in points if epochs is not None]
            panel.plot(*zip(*reached, strict=True) if reached else ([], []), "o-", color=colour, markersize=5)
            for rate, epochs, run in points:
                if run["outcome"].startswith("diverged"):
                    panel.plot(rate, 0, "x", color=colour, clip_on=False)
                elif epochs is None:
                    panel.plot(rate, len(run["history"]), "o", color=colour, markerfacecolor="white", markersize=5)
                if rate == arm.rate:
                    height = len(run["history"]) if epochs is None else epochs
                    panel.plot(rate, height, "o", color=colour, markerfacecolor="none", markersize=11)
            panel.text(0.98, 0.97 - 0.1 * place, name, color=colour, ha="right", va="top", transform=panel.transAxes)
        runs = [run for activation in ACTIVATIONS for run in results[f"{activation}-{setting}"].grid]
        tried = sorted({run["recipe"]["rate"] for run in runs})
        named = tried[:: 1 + len(tried) // 7]  # numbers of nine would run into each other
        highest = max((len(run["history"]) for run in runs), default=1)  # the names stand above it
        panel.set_xscale("log")
        panel.set_xticks(tried, [f"{rate:g}" if rate in named else "" for rate in tried])
        panel.minorticks_off()
        panel.set(title=f"recipe: {setting}", xlabel="learning rate of the weights", ylim=(0, 1.35 * highest))
    for spare in panels.flat[len(settings) :]:
        spare.set_axis_off()
    for row in panels:
        row[0].set_ylabel(f"epochs to {100 * target:.0f} % training error")
    return figure


def effects(
    estimates: Mapping[str, Estimate | None], paper: float | None, label: str, *, of_all: bool = False
) -> Figure:
    """Draw effects with their intervals and every seed, a line each.

    ``paper``: the paper's number for the first line, or for every line (``of_all``). Ratios stand on a logarithmic
    axis from 1/3 to 30, points on one around the seeds, the paper's number and the intervals of three seeds or more:
    wider intervals, and those of two seeds, may run off the axis.
    """
    drawn = [(name, found) for name, found in estimates.items() if found is not None][::-1]
    ratio = any(found.unit == "ratio" for _, found in drawn)
    figure, panel = plt.subplots(figsize=(6.8, 1.3 + 0.5 * max(1, len(drawn))))
    for height, (_, found) in enumerate(drawn):
        panel.plot(found.values, [height + 0.2] * found.n, "o", color=BLUE, markersize=4, alpha=0.6)
        panel.plot(found.mean, height, ">" if found.at_least else "D", color="black", markersize=6)
        if found.n > 1:
            high = found.mean if found.at_least else found.high  # a lower bound has no upper end
            panel.plot([found.low, high], [height, height], color="black", linewidth=1.6)
    if drawn:
        panel.axvline(1 if ratio else 0, color=GREY, linewidth=0.8)
    if paper is not None and drawn and drawn[-1][0] == next(iter(estimates)):
        top = len(drawn) - 1
        low = (0 if of_all else top) - 0.4
        panel.plot([paper, paper], [low, top + 0.4], color="black", linewidth=0.8, linestyle=":")
        panel.annotate("the paper", (paper, top + 0.6), ha="center", va="bottom", annotation_clip=False)
    panel.set_yticks(range(len(drawn)), [name for name, _ in drawn])
    if ratio:
        panel.set_xscale("log")
        ticks = (0.5, 1, 2, 3, 4, 6, 9, 15, 30)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlim(1 / 3, 30)
    else:
        reach = [0.0, *([] if paper is None else [paper]), *(value for _, found in drawn for value in found.values)]
        margin = max(0.5, max(reach) - min(reach)) * 0.4
        ends = [end for _, found in drawn if found.n > 2 for end in (found.low, found.high)]
        panel.set_xlim(min([min(reach) - margin, *ends]), max([max(reach) + margin, *ends]))
    panel.set(xlabel=label, ylim=(-0.6, len(drawn) - 0.4))
    if not drawn:
        _no_run(panel)
    return figure


def by_level(
    lines: Mapping[str, Mapping[float, Estimate | None]], level: float, paper: float | None, label: str
) -> Figure:
    """Draw a ratio of epochs against the training error that they are counted to, a line each with its interval.

    ``lines``: label -> {training error as a fraction: ratio}. ``level``: the one that the claim is about, where the
    paper's number is marked.
    """
    figure, panel = plt.subplots(figsize=(6.8, 3.6))
    for (name, ratios), (colour, line) in zip(lines.items(), itertools.cycle(LINES), strict=False):
        found = {100 * at: ratio for at, ratio in ratios.items() if ratio is not None and ratio.n > 1}
        low, mean, high = ([getattr(ratio, end) for ratio in found.values()] for end in ("low", "mean", "high"))
        panel.plot(list(found), mean, line, color=colour, label=name)
        panel.fill_between(list(found), low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(1, color=GREY, linewidth=0.8)
    panel.axvline(100 * level, color=GREY, linewidth=0.8, linestyle=":")
    if paper is not None:
        panel.plot(100 * level, paper, "k*", markersize=11, label="the paper")
    ticks = (0.7, 1, 1.5, 2, 3, 4, 6, 9)
    panel.set_yscale("log")
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.invert_xaxis()  # training goes on to the right
    panel.set(xlabel="training error counted to, %", ylabel=label)
    panel.legend(loc="upper left")
    return figure


def curves(results: Mapping[str, ArmResult], names: Mapping[str, str] | None = None) -> Figure:
    """Draw training and test error against epochs, every seed a line, and the test error that each seed ended at.

    All of one view after the epoch, without augmentation and dropout. The last panel, which names the arms and shows
    their means, has a scale of its own, where arms a point apart can be told apart. ``names``: the arms to draw ->
    their labels.
    """
    figure, (training, test, end) = plt.subplots(1, 3, figsize=(10.0, 3.9), width_ratios=(3, 3, 2))
    test.sharey(training)
    labels = names or {name: name for name in results}
    for place, (name, (colour, line)) in enumerate(zip(labels, itertools.cycle(LINES), strict=False)):
        runs = list(results[name].runs.values())
        for panel, key in ((training, "train_error_after"), (test, "test_error")):
            for run in runs:
                errors = [100 * epoch[key] for epoch in run["history"]]
                panel.plot(range(1, len(errors) + 1), errors, line, color=colour, linewidth=1.0, alpha=0.8)
        ends = [100 * run["history"][-1]["test_error"] for run in runs if run["outcome"] == "completed"]
        if ends:
            end.plot([place] * len(ends), ends, "o", color=colour, markersize=4, alpha=0.6)
            end.plot([place - 0.4, place + 0.4], [statistics.fmean(ends)] * 2, line, color=colour)
    for panel, title in ((training, "training images"), (test, "test images")):
        panel.set(title=title, xlabel="epochs", ylim=(0, None), xlim=(0, None))
        panel.locator_params(axis="x", integer=True)
    test.tick_params(labelleft=False)
    training.set_ylabel("error, %")
    end.set(title="test images, at the end", xlim=(-0.6, len(labels) - 0.4))
    names_and_runs = [f"{label}, n = {len(results[name].runs)}" for name, label in labels.items()]
    end.set_xticks(range(len(labels)), names_and_runs, rotation=35, ha="right", rotation_mode="anchor")
    if not test.lines:
        _no_run(training)
    return figure


def scaling(panels: Mapping[str, Mapping[float, Estimate | None]]) -> Figure:
    """Draw error levels against what was made larger, a panel each: every seed a dot, the means joined.

    ``panels``: label of the (logarithmic) axis -> where on it -> the level there, or None.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), sharey=True, squeeze=False)
    for panel, (label, levels) in zip(axes[0], panels.items(), strict=True):
        found = {size: level for size, level in sorted(levels.items()) if level is not None}
        for size, level in found.items():
            panel.plot([size] * level.n, level.values, "o", color=BLUE, markersize=4, alpha=0.6)
        panel.plot(
            list(found), [level.mean for level in found.values()], "_-", color="black", linewidth=1.0, markersize=12
        )
        panel.set_xscale("log")
        panel.set_xticks(sorted(levels), [f"{size:,.4g}" for size in sorted(levels)])
        panel.minorticks_off()
        panel.set_xlabel(label)
        if not found:
            _no_run(panel)
    axes[0][0].set_ylabel("test error, %")
    return figure


def hours(lines: Mapping[str, Mapping[int, float]], marks: Mapping[str, tuple[int, float]]) -> Figure:
    """Draw hours on the clock against a number of GPUs, both logarithmic, a line each; ``marks``: single points."""
    figure, panel = plt.subplots(figsize=(6.8, 3.8))
    for (label, found), (colour, dashes) in zip(lines.items(), itertools.cycle(LINES), strict=False):
        panel.plot(list(found), list(found.values()), "o" + dashes, color=colour, label=label)
    for label, (gpus, length) in marks.items():
        panel.plot(gpus, length, "s", color="black", markersize=6)
        panel.annotate(label, (gpus, length), xytext=(8, 0), textcoords="offset points", va="center")
    counts = sorted({count for found in lines.values() for count in found} | {gpus for gpus, _ in marks.values()})
    panel.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="hours")
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.minorticks_off()
    panel.legend(fontsize=9)
    return figure


def towers(rows: Sequence[LayerRow], image_size: int) -> Figure:
    """Draw a network of two towers, a column for each layer with weights, and what each half sees (P Figure 2).

    ``rows``: of `alexnet_lib.models.layer_table`; layers between those with weights stand by name in the box before.
    """
    figure, panel = plt.subplots(figsize=(8.0, 3.1))
    panel.text(0, 0, f"image\n{image_size} × {image_size}\n× 3", ha="center", va="center", fontsize=8)
    columns = [number for number, row in enumerate(rows) if row.parameters]
    sides: tuple[float, ...] = (0.0,)  # where the column before has its boxes
    for place, (number, following) in enumerate(itertools.pairwise([*columns, len(rows)]), 1):
        row, before = rows[number], sides
        sides = (0.0,) if following == len(rows) else (1.0, -1.0)
        maps = row.shape[0] // len(sides)
        size = f"{row.shape[1]} × {row.shape[2]}\n× {maps}" if len(row.shape) == 3 else str(maps)
        then = [other.name.rstrip("0123456789") for other in rows[number + 1 : following]]
        said = ", ".join(name for name in then if name in ("norm", "pool", "drop"))
        for side in sides:
            panel.text(place, side, f"{row.name}\n{size}\n{said}".rstrip(), ha="center", va="center", fontsize=8)
            panel.add_patch(Rectangle((place - 0.38, side - 0.6), 0.76, 1.2, facecolor="none", edgecolor=GREY))
            for other in before:
                if row.groups == 1 or other == side:
                    crosses = 0 not in (side, other) and other != side
                    colour = RED if crosses else GREY
                    panel.plot([place - 0.62, place - 0.38], [other, side], "-", color=colour, linewidth=1.2)
    panel.text(place / 2, -1.95, "red: between the GPUs", color=RED, ha="center", fontsize=9)
    panel.set(xlim=(-0.6, place + 0.6), ylim=(-2.1, 1.8))
    panel.axis("off")
    return figure


def _mosaic(weights: Tensor) -> np.ndarray[Any, Any]:
    """Lay kernels (maps, 3, side, side) out in rows, each of one tower: float (H, W, 3), a gap between towers."""
    stretched = 0.5 + 0.5 * weights / weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
    tower = len(weights) // 2
    across = max(width for width in range(1, 17) if tower % width == 0)
    padded = np.pad(
        stretched.permute(0, 2, 3, 1).double().numpy(), ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=1
    )
    rows = [np.concatenate(list(row), axis=1) for row in np.split(padded, len(padded) // across)]
    gap = np.ones((2, *rows[0].shape[1:]))
    half = len(rows) // 2
    return np.concatenate([*rows[:half], gap, *rows[half:]])


def _no_run(panel: Axes) -> None:
    panel.set_xticks([])
    panel.text(0.5, 0.5, "no run yet", ha="center", va="center", color=GREY, transform=panel.transAxes)


def members(by_size: Mapping[int, Sequence[float]], beside: Mapping[str, Estimate | None]) -> Figure:
    """Draw the error of averages against the number of networks averaged, and other networks' as dashed lines."""
    figure, panel = plt.subplots(figsize=(6.8, 3.9))
    sizes = list(by_size)
    if sizes:
        low, high = (np.array([np.quantile(by_size[size], share) for size in sizes]) for share in (0.025, 0.975))
        panel.fill_between(sizes, low, high, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(sizes, [float(np.mean(by_size[size])) for size in sizes], "o-", color=BLUE, markersize=4)
        panel.set_xticks(sizes)
    else:
        _no_run(panel)
    for label, found in beside.items():
        if found is not None:
            panel.axhline(found.mean, color=RED, linestyle="--", linewidth=1.2)
            panel.annotate(
                f"{label}, n = {found.n}",
                (0.99, found.mean),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=RED,
            )
    panel.set(xlabel="networks averaged", ylabel="test error of ten views, %")
    return figure


def selectivity(splits: Mapping[str, Mapping[int, Split]]) -> Figure:
    """Draw the colour selectivity of every kernel, a panel a network, a column a seed, a mark a tower."""
    figure, panels = plt.subplots(
        1,
        max(1, len(splits)),
        figsize=(3.6 * max(1, len(splits)), 3.6),
        sharey=True,
        squeeze=False,
    )
    for panel, (name, by_seed) in zip(panels[0], splits.items(), strict=False):
        for seed, split in by_seed.items():
            halves = np.split(np.array(split.selectivity), 2)
            for place, values, mark, colour in zip((-0.15, 0.15), halves, "ox", (BLUE, RED), strict=True):
                panel.plot([seed + place] * len(values), values, mark, color=colour, markersize=4, alpha=0.7)
        if not by_seed:
            _no_run(panel)
        else:
            panel.set_xlim(min(by_seed) - 0.6, max(by_seed) + 0.6)
        panel.set(title=name, xlabel="seed", ylim=(0, 1))
        panel.set_xticks(list(by_seed))
    panels[0][0].set_ylabel("colour selectivity of a kernel")
    return figure


def holdout(arm: ArmResult) -> Figure:
    """Draw the error on the holdout against epochs, a line a rate tried."""
    figure, panel = plt.subplots(figsize=(6.8, 3.6))
    for run, (colour, line) in zip(arm.all_runs, itertools.cycle(LINES), strict=False):
        errors = [100 * epoch["test_error"] for epoch in run["history"]]
        panel.plot(range(1, len(errors) + 1), errors, line, color=colour, label=f"rate {run['recipe']['rate']:g}")
    panel.set(xlabel="epochs", ylabel="error on the holdout, %", ylim=(0, None), xlim=(0, None))
    if panel.lines:
        panel.legend()
    else:
        _no_run(panel)
    return figure


# --- What the first layer learns --------------------------------------------------------------------------------


def mosaics(columns: Mapping[str, Mapping[str, Tensor]], most: int | None = None) -> Figure:
    """Draw first-layer kernels over the page's width, a column a network, a row a label, tower 1 above tower 2.

    ``columns``: network -> label -> kernels (maps, 3, side, side), as in P Figure 3. ``most``: draw that many of each
    tower. Each kernel is stretched to the whole range of grey levels by its own largest weight: zero is mid-grey.
    """
    drawn = {
        name: {label: _mosaic(_first(some, most)) for label, some in rows.items()} for name, rows in columns.items()
    }
    images = [image for rows in drawn.values() for image in rows.values()]
    wide, high = max(1, len(drawn)), max([1, *(len(rows) for rows in drawn.values())])
    shape = max((image.shape[0] / image.shape[1] for image in images), default=0.2)
    figure, panels = plt.subplots(high, wide, figsize=(7.0, high * (7.0 / wide * shape + 0.3)), squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for column, (name, rows) in zip(panels.T, drawn.items(), strict=False):
        for panel, (label, image) in zip(column, rows.items(), strict=False):
            panel.imshow(image, interpolation="nearest")
            panel.set_title(", ".join(filter(None, (name, label))), fontsize=10)
    if not images:
        _no_run(panels[0][0])
    return figure


def _first(weights: Tensor, most: int | None) -> Tensor:
    """Return the first ``most`` kernels of each tower."""
    half = len(weights) // 2
    return torch.cat([weights[:half][:most], weights[half:][:most]])


def noise(by_arm: Mapping[str, Mapping[int, Mapping[int, float]]]) -> Figure:
    """Draw the noise of first-layer kernels against epochs, every seed a line and an arm a colour.

    ``by_arm``: arm -> seed -> epochs -> mean of ``filters.noise``. Epochs stand on a logarithmic axis with a zero.
    """
    figure, panel = plt.subplots(figsize=(7.0, 3.6))
    for (name, seeds), (colour, line) in zip(by_arm.items(), itertools.cycle(LINES), strict=False):
        for number, found in enumerate(seeds.values()):
            label = "" if number else f"{name}, n = {len(seeds)}"
            panel.plot([*found], [*found.values()], line, marker="o", markersize=4, color=colour, label=label)
    panel.set(xlabel="epochs", ylabel="mean noise of the kernels")
    if not panel.lines:
        _no_run(panel)
        return figure
    ticks = sorted({epochs for seeds in by_arm.values() for found in seeds.values() for epochs in found})
    panel.set_xscale("symlog", linthresh=1, base=2)
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.legend(loc="lower left")
    panel.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    panel.annotate(
        "random weights",
        (0.99, 1),
        xycoords=("axes fraction", "data"),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=GREY,
    )
    panel.margins(y=0.12)
    panel.set_ylim(0, None)
    return figure


def tuning(networks: Mapping[str, Tensor]) -> Figure:
    """Draw every kernel's tuning curves as a line of greys, a row of panels a network: orientation, frequency, twice.

    On the left its grey part, on the right its colour part, both as shares of the kernel's largest answer to any
    grating. Orientation: at the part's best frequency. Frequency: the largest over orientations. Within a tower
    kernels are sorted by preferred orientation, those that prefer a uniform field last.
    """
    rows = max(1, len(networks))
    figure, panels = plt.subplots(rows, 4, figsize=(7.0, 2.4 * rows + 0.3), sharex="col", squeeze=False)
    for panel in panels.flat:
        panel.set_yticks([])
    for row, (label, kernels) in zip(panels, networks.items(), strict=False):
        whole, tower = filters.tuning(kernels), len(kernels) // 2
        order = np.concatenate([start + np.argsort(whole.orientation[start:][:tower]) for start in (0, tower)])
        largest = np.maximum(whole.amplitude.max((1, 2)), 1e-30)[:, None]
        for place, part in enumerate(map(filters.tuning, filters.parts(kernels))):
            for panel, curves, grid in (
                (row[2 * place], part.curve, filters.ORIENTATIONS),
                (row[2 * place + 1], part.amplitude.max(1), filters.FREQUENCIES),
            ):
                half = (grid[1] - grid[0]) / 2
                panel.imshow(
                    (curves / largest)[order],
                    extent=(grid[0] - half, grid[-1] + half, len(order), 0),
                    aspect="auto",
                    interpolation="nearest",
                    cmap="Greys",
                    vmin=0,
                    vmax=1,
                )
                panel.axhline(tower, color=RED, linewidth=1)
        row[0].set_yticks([tower / 2, 1.5 * tower], ["tower 1", "tower 2"], rotation=90, va="center")
        row[0].set_ylabel(label)
    for panel, (title, unit, ticks) in zip(
        panels[-1],
        itertools.cycle(
            (("orientation", "degrees", (0, 45, 90, 135)), ("frequency", "cycles a pixel", (0, 0.25, 0.5)))
        ),
        strict=False,
    ):
        panel.set_xlabel(f"{title},\n{unit}")
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0][0].set_title("grey part")
    panels[0][2].set_title("colour part")
    if not networks:
        _no_run(panels[0][0])
    return figure


COLOURFUL = LinearSegmentedColormap.from_list("colourful", ["black", "#8a8a8a", "#e69f00"])
"""From black for a grey kernel to Okabe and Ito's orange for one that sees colour alone."""


def preferences(networks: Mapping[str, Tensor], chance: float | None = None) -> Figure:
    """Draw orientation selectivity against preferred frequency, a panel a network, a mark a kernel of its tower.

    A mark's colour is the kernel's colour selectivity. ``chance``: a selectivity to compare with, as a dotted line.
    """
    rows = max(1, -(-len(networks) // 2))
    figure, panels = plt.subplots(rows, 2, figsize=(7.0, 2.9 * rows + 0.3), sharex=True, sharey=True, squeeze=False)
    for panel, (label, kernels) in zip(panels.flat, networks.items(), strict=False):
        found, colour = filters.tuning(kernels), filters.colour_selectivity(kernels.float()).numpy()
        for place, (half, mark) in enumerate(zip(np.split(np.arange(len(colour)), 2), "ox", strict=True), 1):
            marks = panel.scatter(
                found.frequency[half],
                found.selectivity[half],
                s=26,
                c=colour[half],
                marker=mark,
                cmap=COLOURFUL,
                vmin=0,
                vmax=1,
                label=f"tower {place}",
            )
        if chance is not None:
            panel.axhline(chance, color=GREY, linewidth=0.8, linestyle=":")
        panel.set(title=label, xlim=(-0.02, 0.52), ylim=(0, 1))
    for spare in panels.flat[max(1, len(networks)) :]:
        spare.set_axis_off()
    for panel in panels.flat[: max(1, len(networks))]:
        panel.set(xlabel="preferred frequency, cycles a pixel", ylabel="orientation selectivity")
        panel.tick_params(labelbottom=True, labelleft=True)
    if networks:
        panels[0][0].legend(fontsize=9)
        figure.colorbar(marks, ax=panels, label="colour selectivity", shrink=0.6)
    else:
        _no_run(panels[0][0])
    return figure


# --- What the network sees --------------------------------------------------------------------------------------


def same_class(by_arm: Mapping[str, Mapping[int, Mapping[str, float]]], chance: float | None = None) -> Figure:
    """Draw how many of the nearest images are of the same class, layer by layer, a seed a line and an arm a colour.

    ``by_arm``: arm -> seed -> place in the network -> per cent. ``chance``: of images drawn blindly, a dotted line.
    """
    figure, panel = plt.subplots(figsize=(7.0, 3.6))
    for (name, seeds), (colour, line) in zip(by_arm.items(), itertools.cycle(LINES), strict=False):
        for number, shares in enumerate(seeds.values()):
            label = "" if number else f"{name}, n = {len(seeds)}"
            panel.plot([*shares], [*shares.values()], line, marker="o", markersize=4, color=colour, label=label)
    panel.set(ylabel="neighbours of the same class, %", ylim=(0, 100))
    if not panel.lines:
        _no_run(panel)
        return figure
    panel.legend(loc="upper left")
    if chance is not None:
        panel.axhline(chance, color=GREY, linewidth=0.8, linestyle=":")
        panel.text(0.99, chance + 1, "chance", ha="right", color=GREY, transform=panel.get_yaxis_transform())
    return figure


def predictions(
    probabilities: Tensor, labels: Tensor, words: Sequence[str], pictures: Tensor | None = None, across: int = 4
) -> Figure:
    """Draw the five likeliest classes of some images as bars, the right one's blue and bold (P Figure 4, left).

    ``probabilities`` float (n, classes), ``labels`` (n,), ``words`` the classes' names; ``pictures`` uint8 (n, side,
    side, 3), drawn above the bars.
    """
    heights = [1.25] if pictures is None else [2.2, 1.25]
    each, rows = len(heights), -(-len(labels) // across)
    figure, panels = plt.subplots(
        each * rows,
        across,
        figsize=(9.0, rows * (sum(heights) + 0.2)),
        height_ratios=heights * rows,
        squeeze=False,
    )
    for panel in panels.flat:
        panel.set_axis_off()
    for number, (row, label) in enumerate(zip(probabilities.float(), labels.tolist(), strict=True)):
        column = panels[each * (number // across) :, number % across]
        column[0].set_title(words[label], fontsize=10, pad=9)
        if pictures is not None:
            column[0].imshow(pictures[number].numpy())
        best = row.topk(min(5, len(row)))
        bars = column[each - 1]
        for place, (share, one) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            right = one == label
            bars.barh(place, 100 * share, color="#56b4e9" if right else "#d9d9d9")
            bars.text(2, place, words[one], va="center", fontsize=9, fontweight="bold" if right else "normal")
        bars.set_axis_on()
        bars.set_yticks([])
        bars.set_xticks([0, 50, 100], ["0", "50", "100 %"], fontsize=8)
        bars.set(xlim=(0, 100), ylim=(len(best.values) - 0.5, -0.5))
    return figure


def neighbours(queries: Tensor, near: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draw images in a column, and beside each the ones nearest to it, framed if of its class (P Figure 4, right).

    ``queries``: uint8 (n, side, side, 3). ``near``: measure -> neighbours (n, k, side, side, 3), and which are of the
    query's class, bool (n, k).
    """
    groups = {"query": (queries[:, None], torch.zeros(len(queries), 1).bool())} | dict(near)
    across = [pictures.shape[1] for pictures, _ in groups.values()]
    figure, panels = plt.subplots(
        1,
        len(groups),
        figsize=(10.0, 10.0 * len(queries) / sum(across) + 0.4),
        width_ratios=across,
    )
    blue = (255 * np.array(matplotlib.colors.to_rgb(BLUE))).astype(np.uint8)
    for panel, (name, (pictures, alike)) in zip(panels, groups.items(), strict=True):
        edge = max(2, pictures.shape[2] // 16)
        framed = np.pad(pictures.numpy(), ((0, 0), (0, 0), (edge, edge), (edge, edge), (0, 0)), constant_values=255)
        frame = np.ones(framed.shape[2:4], dtype=bool)
        frame[edge:-edge, edge:-edge] = False
        framed[alike.numpy()[:, :, None, None] & frame] = blue
        panel.imshow(np.concatenate([np.concatenate(row, axis=1) for row in framed]))
        panel.set_title(name, fontsize=10)
        panel.set_axis_off()
    return figure
