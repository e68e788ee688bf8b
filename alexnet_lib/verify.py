"""Train a recorded run again and hold the result against the record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from scipy import stats
from torch import nn

from alexnet_lib import data, models, records
from alexnet_lib.estimates import pooled
from alexnet_lib.evidence import crossing
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, train

FIRST_EPOCH, OTHER_MASKS = 0.005, 0.03
"""How far the first epoch's training error may be off where the arithmetic rounds differently, and where other masks
are drawn for dropout besides: on a CPU and on a GPU, or by other numbers of processes."""
SURE = 0.99
"""Share of sound runs whose end is confirmed there."""
SAME = ("torch", "device", "cpu", "cpu_capability", "threads", "split")
"""Provenance that must agree for the numbers to be the same bit for bit; the first records lack ``split``, their runs
were not."""


def repeat(record: Record, device: str) -> Record:
    """Train the record's recipe again and return the record of that; a run that was abandoned, for as many epochs.

    Raises:
        StudyError: the data set here is another one than the record's.
    """
    begun = datetime.now(UTC)
    recipe = Recipe.parse(record["recipe"])
    dataset = data.load(recipe.data)
    if dataset.digest != record["data"]["digest"]:
        raise StudyError(f"run {record['id']}: data set {recipe.data} differs here from the one it was trained on")
    outcome, length = record["outcome"], len(record["history"])

    def end(past: list[Epoch]) -> str | None:
        return outcome if len(past) >= length and outcome.startswith("abandoned") else None

    result = train(recipe, dataset, device=device, abandon=end, origin=records.origin())
    of = {key: record[key] for key in ("experiment", "arm", "scale")}
    return records.make(result, dataset, begun=begun, **of)


def compare(record: Record, again: Record, others: Sequence[Record]) -> tuple[bool, list[str]]:
    """Return whether a repeated run confirms ``record``, and what was compared, a line each.

    On the same kind of machine with the same torch every number must be equal, unless the recorded run was, or may
    have been, trained on another kind for a part of its epochs. Elsewhere rounding differs and
    training amplifies it: then the first epoch must agree within ``FIRST_EPOCH`` (``OTHER_MASKS``), and the end as
    closely as two seeds of one arm do with probability ``SURE``, by the spread that ``others`` have (`like`).
    """
    there, here = ({"split": "", **run["provenance"]} for run in (record, again))
    other = [key for key in SAME if here[key] != there[key]]
    if records.on_gpu(again):
        other.append("order of the GPU's sums")
    before, after = ([_numbers(epoch) for epoch in run["history"]] for run in (record, again))
    earlier = ([_numbers(epoch) for epoch in run.get("pretraining", [])] for run in (record, again))
    old_epochs, new_epochs = (first + rest for first, rest in zip(earlier, (before, after), strict=True))
    scores = {name: record["scores"].get(name) for name in again["scores"]}  # nearest images are scored elsewhere
    same = (old_epochs, scores, record["outcome"]) == (new_epochs, again["scores"], again["outcome"])
    if not (other or same) and _resumed_elsewhere(record):
        other.append("machine for a part of the recorded run, perhaps")
    if not other:
        lines = ["same kind of machine and same torch: every epoch and score must be equal bit for bit"]
        for old, new in zip(old_epochs, new_epochs, strict=False):
            if old != new:
                lines.append(f"first difference: recorded {old}, here {new}")
                break
        ends: list[tuple[str, object, object]] = [
            ("epochs", len(old_epochs), len(new_epochs)),
            ("scores", scores, again["scores"]),
            ("outcome", record["outcome"], again["outcome"]),
        ]
        lines += [f"{what}: recorded {there}, here {here}" for what, there, here in ends if there != here]
        return same, [*lines, "equal" if same else "NOT equal"]
    lines = [f"other {', '.join(other)}: numbers are compared within tolerances, since rounding differs"]
    outcomes = f"recorded {record['outcome']!r}, here {again['outcome']!r}"
    if again["outcome"].partition(":")[0] != record["outcome"].partition(":")[0]:
        return False, [*lines, f"ended in another way: {outcomes}"]
    if not after or not before:
        return True, [*lines, f"diverged before the end of the first epoch: {outcomes}"]
    first = abs(after[0]["train_error"] - before[0]["train_error"])
    drops = any(isinstance(layer, nn.Dropout) for layer in models.outline(record["recipe"]["net"]).modules())
    masks = drops and (records.on_gpu(record) != records.on_gpu(again) or "split" in other)
    allowed = OTHER_MASKS if masks else FIRST_EPOCH
    lines.append(f"training error of the first epoch: off by {100 * first:.2f} points, allowed {100 * allowed:g}")
    good, target = first <= allowed, record["recipe"]["target_error"]
    if target is not None and all(crossing(history, target) is None for history in (before, after)):
        return good, [*lines, "the end is not compared: neither run came down to its target"]
    spread, freedom = pooled(_ends(others))
    if not freedom:
        return good, [*lines, "the end is not compared: no arm like it has two seeds, whose spread would tell"]
    off = abs(_end(record["recipe"], after) - _end(record["recipe"], before))
    allowed = float(stats.t.ppf((1 + SURE) / 2, freedom)) * spread * math.sqrt(2)
    what = "points of test error" if target is None else "per cent of the epochs to the target"
    lines.append(f"end of the run: off by {100 * off:.2f} {what}, allowed {100 * allowed:.2f}")
    return good and off <= allowed, lines


def _resumed_elsewhere(record: Record) -> bool:
    """Return whether a run went on on another kind of machine than it began on, or may have.

    Of the first records only the last machine is known. One that was trained for longer than its last part took was
    resumed.
    """
    there = record["provenance"]
    if "machines" in there:
        return len(there["machines"]) > 1
    if "begun" not in there:
        return False
    begun, ended = (datetime.fromisoformat(there[when]) for when in ("begun", "ended"))
    seconds = (ended - begun).total_seconds() + 1  # both are whole seconds
    return bool(seconds < 0.9 * record["cost"]["train_seconds"])


def _numbers(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """Return an epoch without its time, which no two runs share."""
    return {key: value for key, value in epoch.items() if key != "seconds"}


def _end(recipe: Mapping[str, Any], history: Sequence[dict[str, Any]]) -> float:
    """Return where a run ended: its last test error, or the logarithm of the epochs to its target if it has one."""
    if recipe["target_error"] is None:
        return float(history[-1]["test_error"])
    reached = crossing(history, recipe["target_error"])
    return math.log(recipe["epochs"] if reached is None else reached)


def _ends(runs: Sequence[Record]) -> list[list[float]]:
    """Return where runs ended, those that differ in nothing but their seed together."""
    arms: dict[Recipe, list[float]] = {}
    for run in runs:
        recipe = replace(Recipe.parse(run["recipe"]), seed=0)
        arms.setdefault(recipe, []).append(_end(run["recipe"], run["history"]))
    return list(arms.values())


def like(record: Record, all_records: Sequence[Record]) -> list[Record]:
    """Return the other completed records of the same data, epochs and target: their seeds tell how runs vary."""
    keys = ("data", "epochs", "target_error")
    mine = [record["recipe"][key] for key in keys]
    found = [run for run in all_records if [run["recipe"][key] for key in keys] == mine]
    return [run for run in found if run["outcome"] == "completed" and run["id"] != record["id"]]
