"""What every chapter shows of its experiment: arms, results, effects beside the paper's, verdicts, runs."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping

import pandas as pd
from IPython.display import HTML, Markdown

from alexnet_lib import data, images, models, records
from alexnet_lib.claims import Claim
from alexnet_lib.effects import Results, level
from alexnet_lib.estimates import DASH, Estimate, show, show_bootstrap, show_interval, show_missed
from alexnet_lib.recipes import Recipe

CLASSES = {"tiny-imagenet-200": 200, "imagenet": 1000}
"""Classes of the study's data sets that have other than ten, where their names don't say it."""


def table(rows: Iterable[Mapping[str, object]] | pd.DataFrame) -> HTML:
    """Return rows, column -> text, as a table in the book's style: a dash where there is no text."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return HTML(frame.replace("", DASH).to_html(index=False, border=0, classes="study", justify="left"))  # type: ignore[no-untyped-call]


def arms(results: Results) -> HTML:
    """Return the arms as a table: what each changes, its size and cost, and how many of its seeds have ended."""
    first = next(iter(results.values())).arm.recipe

    def parameters(recipe: Recipe) -> int:
        kind, options = data.options_of(recipe.data)
        classes = int(options.get("classes", CLASSES.get(kind, 10)))
        return models.n_parameters(models.outline(recipe.net, classes=classes))

    return table(
        [
            {
                "arm": name,
                "network": result.arm.recipe.net,
                "other changes": _changes(first, result.arm.recipe) or DASH,
                "parameters": f"{parameters(result.arm.recipe):,}",
                "epochs": result.arm.recipe.epochs,
                "seeds": f"{len(result.runs)} of {result.arm.seeds}",
            }
            for name, result in results.items()
        ]
    )


def labels(results: Results) -> dict[str, str]:
    """Return the arms' names of AlexNet itself as figures and tables show them; what stands in for it is marked."""
    return {name: f"{name} (not the whole network)" if name == "reduced" else f"edition {name}" for name in results}


def _changes(first: Recipe, other: Recipe) -> str:
    """Name the fields, apart from the network's and the schedule's, in which a recipe differs from another."""
    one, two = first.resolved(), other.resolved()
    return ", ".join(
        f"{name} {two[name]}" for name in two if name not in ("net", "epochs", "cuts") and one[name] != two[name]
    )


def data_sets(results: Results) -> Markdown:
    """Return the images that runs were trained on, how many there are, and what must be known of them."""
    parts = {"train": "training", "test": "test"}
    counts: dict[str, str] = {}
    for result in results.values():
        numbers = [(result.images(part), word) for part, word in parts.items()]
        said = " and ".join(f"{count:,} {word} images" for count, word in numbers if count)
        counts[result.arm.recipe.data] = counts.get(result.arm.recipe.data) or said
    lines = []
    for name, said in counts.items():
        told = ". ".join(filter(None, (said, images.CAVEATS.get(name.partition(":")[0]))))
        lines.append(f"- `{name}`" + (f": {told}" if told else ""))
    return Markdown("\n".join(lines))  # type: ignore[no-untyped-call]


def levels(results: Results, metrics: Mapping[str, str]) -> HTML:
    """Return every arm's mean with its 95 % interval over seeds; ``metrics``: of ``effects.METRICS`` -> title."""
    return table(
        [
            {"arm": name, "n": sum(run["outcome"] == "completed" for run in result.runs.values())}
            | {title: shown(level(result, metric)) for metric, title in metrics.items()}
            for name, result in results.items()
        ]
    )


def shown(found: Estimate | None) -> str:
    """Return an estimate with its interval, where it has one; a dash where there is none."""
    if found is None:
        return DASH
    return show(found) if math.isinf(found.high) else f"{show(found)} ({show_interval(found)})"


def effects(found: Mapping[str, tuple[str, Estimate | None]]) -> HTML:
    """Return effects beside the paper's numbers: what is compared -> (the paper's number as text, our estimate)."""
    return table(
        [
            {
                "comparison": name,
                "paper": paper,
                "ours": DASH if ours is None else show(ours),
                "95 % interval (t)": DASH if ours is None else show_interval(ours),
                "bootstrap": DASH if ours is None else show_bootstrap(ours),
                "n": 0 if ours is None else ours.n,
            }
            for name, (paper, ours) in found.items()
        ]
    )


def takeaway(words: str, claim: Claim, found: Estimate | None, judged: str) -> str:
    """Return a line that opens a chapter: our number with its interval beside the paper's, and the verdict."""
    if found is None:
        return f"- {words}: no runs to compare yet. Paper: {claim['paper_text']}."
    why = f" ({found.why})" if found.why else ""
    ends = f"95 % interval {show_interval(found)}, n = {found.n}" if found.n > 1 else "n = 1, no interval"
    return f"- {words}: **{show(found)}** ({ends}). Paper: {claim['paper_text']}. Verdict: **{judged}**{why}."


def progress(results: Results, scale: str) -> str:
    """Return a line that says how many of the runs that a scale asks for are recorded."""
    wanted, done = sum(r.arm.seeds for r in results.values()), sum(len(r.runs) for r in results.values())
    return f"- {done} of the {wanted} runs that scale `{scale}` asks for are recorded."


def verdict(claim: Claim, found: Estimate | None, judged: str) -> Markdown:
    """Return a claim, its rule, and what the rule gives; beside an inconclusive result, what it could have missed."""
    ours = f": {show(found)}, interval {show_interval(found)}, n = {found.n}" if found else ""
    why = [found.why] if found else []
    if found and judged == "inconclusive" and found.unsettled:
        why.append(show_missed(found))
    because = "".join(f". {each[0].upper()}{each[1:]}" for each in why if each)
    statement, rule = (" ".join(claim[part].split()) for part in ("statement", "rule"))
    scales = f"scale {' and '.join(claim['number_at'])}" if claim["number_at"] else "scales of which none is here"
    rule = rule.replace("the scales named under number_at", scales)
    return Markdown(f"{statement}\n\n> {rule}\n\n**{judged}**{ours}{because}")  # type: ignore[no-untyped-call]


def devices(results: Results) -> str:
    """Return where the runs of each arm were trained, where that is not one kind of device for all; else no text."""
    arms_of: dict[str, list[str]] = {}
    for name, result in results.items():
        kinds = sorted({"GPU" if records.on_gpu(run) else "CPU" for run in result.all_runs})
        if kinds:
            arms_of.setdefault(" and ".join(kinds), []).append(name)
    if len(arms_of) < 2 and "CPU and GPU" not in arms_of:
        return ""
    said = "; ".join(f"on {kinds}: {', '.join(names)}" for kinds, names in arms_of.items())
    return (
        f"Trained {said}. Where the sides of an effect differ in this, so may rounding, versions and the masks of "
        "dropout, and a part of the effect can be theirs."
    )


def runs(results: Results) -> HTML:
    """Return every run behind a chapter, by the first digits of its id and commit, and where it was trained."""
    listed = table(
        [
            {
                "arm": name,
                "rate": f"{run['recipe']['rate']:g}",
                "seed": run["seed"],
                "epochs": len(run["history"]),
                "outcome": run["outcome"],
                "test error": f"{100 * run['scores']['test_error']:.2f} %" if run["scores"] else DASH,
                "on": "GPU" if records.on_gpu(run) else "CPU",
                "run": run["id"][:8],
                "commit": (run["provenance"]["commit"] or "unknown")[:8],
            }
            for name, result in results.items()
            for run in result.all_runs
        ]
    )
    said = devices(results)
    return HTML(f"<p>{html.escape(said)}</p>\n{listed.data}") if said else listed  # type: ignore[no-untyped-call]
