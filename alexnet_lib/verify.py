"""Train a recorded run again and hold the result against the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from alexnet_lib import data, records
from alexnet_lib.evidence import alike, crossing
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, Result, train

FIRST_EPOCH = 0.03
"""How far the first epoch's training error may be off where the arithmetic rounds differently."""
SPREAD = 3.0
"""How many standard deviations of the arm's seeds the end may be off there."""
SAME = ("torch", "device", "cpu", "cpu_capability", "threads", "split")
"""Provenance that must agree for the numbers to be the same bit for bit; the first records lack ``split``, their runs
were not."""


def repeat(record: Record, device: str) -> Result:
    """Train the record's recipe again, for as many epochs as the record has.

    Raises:
        StudyError: the data set here is another one than the record's.
    """
    recipe = Recipe.parse(record["recipe"])
    dataset = data.load(recipe.data)
    if dataset.digest != record["data"]["digest"]:
        raise StudyError(f"run {record['id']}: data set {recipe.data} differs here from the one it was trained on")
    outcome, length = record["outcome"], len(record["history"])

    def end(past: list[Epoch]) -> str | None:
        return outcome if len(past) >= length and not outcome.startswith("diverged") else None

    return train(recipe, dataset, device=device, abandon=end)


def compare(record: Record, result: Result, seeds: Sequence[Record]) -> tuple[bool, list[str]]:
    """Return whether ``result`` confirms ``record``, and what was compared, a line each.

    On the same kind of machine with the same torch every number must be equal. Elsewhere rounding differs and
    training amplifies it: then the first epoch must agree within ``FIRST_EPOCH``, and the end lie within ``SPREAD``
    standard deviations of ``seeds``, the records of the same arm and rate.
    """
    here = {**records.provenance(result.device), "split": result.split}
    there = {"split": "", **record["provenance"]}
    other = [key for key in SAME if here[key] != there[key]]
    if result.device.type != "cpu":
        other.append("order of the GPU's sums")
    again = [_numbers(asdict(epoch)) for epoch in result.history]
    if not other:
        before = [_numbers(epoch) for epoch in record["history"]]
        scores = {name: record["scores"].get(name) for name in result.scores}  # nearest images are scored elsewhere
        same = again == before and result.scores == scores and result.outcome == record["outcome"]
        lines = ["same kind of machine and same torch: every epoch and score must be equal bit for bit"]
        for old, new in zip(before, again, strict=False):
            if old != new:
                lines.append(f"first difference: recorded {old}, here {new}")
                break
        return same, [*lines, "equal" if same else "NOT equal"]
    lines = [f"other {', '.join(other)}: numbers are compared within tolerances, since rounding differs"]
    if not again or not record["history"]:
        return result.outcome.split(":")[0] == record["outcome"].split(":")[0], [
            *lines,
            f"diverged before the end of the first epoch: recorded {record['outcome']!r}, here {result.outcome!r}",
        ]
    first = abs(again[0]["train_error"] - record["history"][0]["train_error"])
    lines.append(
        f"training error of the first epoch: off by {100 * first:.2f} points, allowed {100 * FIRST_EPOCH:.0f}"
    )
    ends = [_end(run["recipe"], run["history"]) for run in seeds]
    if len(ends) < 3:
        return first <= FIRST_EPOCH, [*lines, f"the end is not compared: {len(ends)} seeds have no known spread"]
    off = abs(_end(record["recipe"], again) - float(np.mean(ends)))
    allowed = SPREAD * float(np.std(ends, ddof=1))
    lines.append(f"end of the run: {off:.4g} from the mean of {len(ends)} seeds, allowed {allowed:.4g}")
    return first <= FIRST_EPOCH and off <= allowed, lines


def _numbers(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """Return an epoch without its time, which no two runs share."""
    return {key: value for key, value in epoch.items() if key != "seconds"}


def _end(recipe: Mapping[str, Any], history: Sequence[dict[str, Any]]) -> float:
    """Return where a run ended: the epochs to its target, or its last test error where it has none."""
    if recipe["target_error"] is None:
        return float(history[-1]["test_error"])
    reached = crossing(history, recipe["target_error"])
    return float(recipe["epochs"]) if reached is None else reached


def siblings(record: Record, all_records: Sequence[Record]) -> list[Record]:
    """Return the completed records that differ from ``record`` in nothing but their seed, itself included."""
    found = alike(Recipe.parse(record["recipe"]), all_records, but="seed")
    return [run for run in found if run["outcome"] == "completed"]
