"""The study's figures: direct labels, every seed drawn, colours that the colour-blind can tell apart.

Figures stand on white so that they read the same on light and dark pages, and come out as SVG with the same bytes
from the same data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from alexnet_lib.claims import Estimate
from alexnet_lib.evidence import ArmResult, crossing

RELU, TANH = "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion
ACTIVATIONS = {"relu": ("ReLU", RELU, "-"), "tanh": ("tanh", TANH, "--")}
GREY = "#595959"
STYLE: dict[Any, Any] = {
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


def table(frame: pd.DataFrame) -> HTML:
    """Return a table in the book's style, without its index."""
    return HTML(frame.to_html(index=False, border=0, classes="study", justify="left"))  # type: ignore[no-untyped-call]


def training_curves(results: Mapping[str, ArmResult], settings: Sequence[str], target: float) -> Figure:
    """Draw training error against epochs for both activations, a panel a setting, every seed a line (P Figure 1)."""
    figure, panels = plt.subplots(
        1, len(settings), figsize=(4.2 * len(settings), 3.8), sharey=True, layout="constrained", squeeze=False
    )
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
        layout="constrained",
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
        tried = {run["recipe"]["rate"] for a in ACTIVATIONS for run in results[f"{a}-{setting}"].grid}
        panel.set_xscale("log")
        panel.set_xticks(sorted(tried), [f"{rate:g}" for rate in sorted(tried)])
        panel.minorticks_off()
        panel.set(title=f"recipe: {setting}", xlabel="learning rate of the weights", ylim=(0, None))
    for spare in panels.flat[len(settings) :]:
        spare.set_axis_off()
    for row in panels:
        row[0].set_ylabel(f"epochs to {100 * target:.0f} % training error")
    return figure


def ratios(estimates: Mapping[str, Estimate | None], paper: float) -> Figure:
    """Draw the ratio of epochs with its interval and every seed, a line a setting, beside the paper's number.

    The axis ends at 1/3 and 30; wider intervals run off it.
    """
    drawn = [(name, estimate) for name, estimate in estimates.items() if estimate is not None][::-1]
    figure, panel = plt.subplots(figsize=(6.4, 1.3 + 0.5 * len(drawn)), layout="constrained")
    for height, (_, estimate) in enumerate(drawn):
        panel.plot(estimate.values, [height + 0.2] * estimate.n, "o", color=RELU, markersize=4, alpha=0.6)
        panel.plot(estimate.mean, height, ">" if estimate.at_least else "D", color="black", markersize=6)
        if estimate.n > 1:
            high = estimate.mean if estimate.at_least else estimate.high  # a lower bound has no upper end
            panel.plot([estimate.low, high], [height, height], color="black", linewidth=1.6)
    panel.axvline(1, color=GREY, linewidth=0.8)
    panel.axvline(paper, color="black", linewidth=0.8, linestyle=":")
    panel.annotate("the paper", (paper, len(drawn) - 0.4), ha="center", va="bottom", annotation_clip=False)
    panel.set_yticks(range(len(drawn)), [name for name, _ in drawn])
    panel.set_xscale("log")
    ticks = (0.5, 1, 2, 3, 4, 6, 9, 15, 30)
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    panel.set(xlabel="epochs to 25 % training error, tanh / ReLU", xlim=(1 / 3, 30), ylim=(-0.6, len(drawn) - 0.4))
    return figure
