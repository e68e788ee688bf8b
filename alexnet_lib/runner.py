"""Doing the study's runs: what is still missing, in which order, where, and within how much time."""

from __future__ import annotations

import concurrent.futures
import functools
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from alexnet_lib import data, evaluate, evidence, models, records
from alexnet_lib.evidence import ArmResult
from alexnet_lib.experiments import arms, check_scale
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, Result, first_kernels, train

NEIGHBOUR_LAYERS = ("pool1", "pool2", "pool5", "act6", "act7")
"""Layers of AlexNet in which nearest images are looked for, besides pixels."""
GPU_PLACES = 4
"""Runs side by side on a GPU: one alone leaves it idle while the CPU prepares, and small nets fill little of it."""


@dataclass(frozen=True)
class Task:
    """One run that is still to be done; ``search`` says whether it may be abandoned for a better rate."""

    experiment: str
    scale: str
    arm: str
    recipe: Recipe
    search: bool
    keep: tuple[str, ...] = ()
    """Tensors of the trained network to keep beside the record: see ``Arm.keep``."""

    @property
    def label(self) -> str:
        """Name the run in a line of progress."""
        return f"{self.arm} rate {self.recipe.rate:g} seed {self.recipe.seed}"


def pending(
    experiments: Sequence[str], scale: str, folder: Path | None = None, also: Path | None = None
) -> list[Task]:
    """Return the runs that can start now, the most wanted first, each once.

    Arms of low priority number come before the others, rate searches before seeds, low seeds before high ones over
    all experiments: every arm has its minimum before any has more. A search that has not ended holds back its arm's
    seeds. ``folder``: of the records; ``also``: another one whose records count as done.
    """
    found = {record["id"]: record for record in _recorded(scale, folder, also)}
    tasks: list[tuple[tuple[int, int], Task]] = []
    for name in experiments:
        for arm in arms(name, scale):
            rate, missing = evidence.search(arm, found)
            seeds = [] if rate is None else [replace(arm.recipe, rate=rate, seed=seed) for seed in range(arm.seeds)]
            for recipe in [*missing, *seeds]:
                if recipe.id not in found:
                    task = Task(name, scale, arm.name, recipe, search=bool(missing), keep=arm.keep)
                    tasks.append(((arm.priority, recipe.seed), task))
    ordered = [task for _, task in sorted(tasks, key=lambda item: item[0])]
    first = {task.recipe.id: task for task in reversed(ordered)}
    return [task for task in ordered if first[task.recipe.id] is task]


def _recorded(scale: str, folder: Path | None, also: Path | None) -> list[Record]:
    folders = (folder,) if also is None else (folder, also)
    return [record for place in folders for record in records.read(place, scale=scale)]


def hours(tasks: Sequence[Task], recorded: Sequence[Record]) -> tuple[float, int]:
    """Estimate what tasks cost, in hours of one core or GPU, from the seconds of recorded epochs on the same data.

    Where a network has no record, another's seconds are scaled by the operations of both. A run counts with all its
    epochs, though a target or an abandoned search may end it sooner. Also returned: the tasks left out, on data
    without any record.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    for run in recorded:
        key = run["recipe"]["data"], run["recipe"]["net"]
        seconds.setdefault(key, []).extend(epoch["seconds"] for epoch in run["history"])
    total, unknown = 0.0, 0
    for task in tasks:
        known = {
            net: statistics.median(each) for (name, net), each in seconds.items() if name == task.recipe.data and each
        }
        if not known:
            unknown += 1
            continue
        wanted = models.training_flops(task.recipe.net)
        near = task.recipe.net
        if near not in known:
            near = min(known, key=lambda net: abs(math.log(models.training_flops(net) / wanted)))
        total += task.recipe.epochs * known[near] * wanted / models.training_flops(near)
    return total / 3600, unknown


class OutOfTime(Exception):
    """The time given to a session of runs is over; the run's checkpoint is kept."""


@dataclass(frozen=True)
class Session:
    """How runs are done: where, with how much time, into which folder of records."""

    device: str = "cpu"
    folder: Path | None = None
    deadline: float | None = None
    """``time.time()`` before which everything has ended."""
    quiet: bool = False
    again: bool = False
    """Whether these runs repeat others, whose checkpoints are then not theirs."""
    also: Path | None = None
    """Another folder whose records count as done."""

    def over(self, seconds: float = 0.0) -> bool:
        """Return whether the time is over, or will be in ``seconds``."""
        return self.deadline is not None and time.time() + seconds > self.deadline

    def checkpoint(self, recipe: Recipe) -> Path:
        """Return the run's checkpoint, outside the tree: variable ``ALEXNET_CACHE`` or ``~/.cache/alexnet-study``."""
        cache = Path(os.environ.get("ALEXNET_CACHE") or Path.home() / ".cache" / "alexnet-study")
        return cache / ("again" if self.again else ".") / f"{recipe.id}.pt"


@functools.cache
def _data(name: str) -> data.Dataset:
    return data.load(name)


def perform(task: Task, session: Session) -> Record | None:
    """Do one run, or go on with it, and write its record; None if time was up before its end.

    Raises:
        StudyError: recipe, data or machine don't allow the run.
    """
    if session.over():
        return None
    torch.set_num_threads(1 if session.device == "cpu" else torch.get_num_threads())
    begun, dataset = datetime.now(UTC), _data(task.recipe.data)
    origin = records.commit()["commit"] or "unknown"  # as it is now, before the run

    def on_epoch(epoch: Epoch) -> None:
        if not session.quiet:
            print(epoch_line(task.label, epoch), flush=True)
        # A worker outlives a parent that was killed; going on would race with the run that takes its place.
        parent = multiprocessing.parent_process()
        if session.over(1.5 * epoch.seconds) or (parent is not None and not parent.is_alive()):
            raise OutOfTime

    def give_up(history: list[Epoch]) -> str | None:
        if not task.search:
            return None
        recorded = _recorded(task.scale, session.folder, session.also)
        return evidence.abandon([vars(epoch) for epoch in history], evidence.rivals(task.recipe, recorded))

    checkpoint = session.checkpoint(task.recipe)
    try:
        result = train(
            task.recipe,
            dataset,
            device=session.device,
            checkpoint=checkpoint,
            origin=origin,
            on_epoch=on_epoch,
            abandon=give_up,
            snapshots=[0, *(2**power for power in range(10))] if "snapshots" in task.keep else [],
        )
    except OutOfTime:
        return None
    record = records.make(result, dataset, experiment=task.experiment, arm=task.arm, scale=task.scale, begun=begun)
    if task.keep and result.outcome == "completed":
        tensors = kept(result, dataset, task.keep)
        record["scores"] |= {
            f"{name}_same_class": evaluate.same_class(near, dataset.test.labels, dataset.train.labels)
            for name, near in tensors.items()
            if name.startswith("neighbours")
        }
        record["kept"] = records.keep(record["id"], tensors, session.folder)
    records.append(record, session.folder)
    checkpoint.unlink(missing_ok=True)
    return record


def kept(result: Result, dataset: data.Dataset, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a trained network that its arm keeps (``Arm.keep``), by name, on the CPU."""
    assert result.probabilities is not None
    found = {
        "conv1": first_kernels(result.model),
        "probabilities": result.probabilities.half(),
        "labels": dataset.test.labels.to(torch.int16),
    }
    tensors = {name: found[name].cpu().contiguous() for name in names if name in found}
    if "snapshots" in names:
        tensors |= {f"conv1_after_{epoch}": kernels.half() for epoch, kernels in result.snapshots.items()}
    if "neighbours" in names:
        here = dataset.to(result.device)
        near = evaluate.neighbours(result.model, here, evaluate.Inputs.of(result.recipe, here), NEIGHBOUR_LAYERS)
        tensors |= {f"neighbours_{layer}": rows.int().cpu() for layer, rows in near.items()}
    return tensors


def run(
    experiments: Sequence[str], scale: str, session: Session, executor: concurrent.futures.Executor, places: int = 1
) -> Iterator[Record]:
    """Do the missing runs of ``experiments``, ``places`` of them side by side, and yield each record as its run ends.

    What can start is worked out anew after every run, since a finished search frees its arm's seeds.

    Raises:
        StudyError: a run can't be done; the others in flight end first.
    """
    flying: dict[concurrent.futures.Future[Record | None], Task] = {}
    late = False
    while True:
        late = late or session.over()
        away = {task.recipe.id for task in flying.values()}
        waiting = [t for t in pending(experiments, scale, session.folder, session.also) if t.recipe.id not in away]
        for task in waiting[: 0 if late else places - len(flying)]:
            flying[executor.submit(perform, task, session)] = task
        if not flying:
            return
        done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            del flying[future]
            record = future.result()
            late = late or record is None
            if record is not None:
                yield record


def device_for(scale: str) -> str:
    """Return where a scale's runs are trained: ``cuda`` for those whose recipes need a GPU, else ``cpu``.

    Raises:
        StudyError: the scale needs a GPU and there is none.
    """
    check_scale(scale)
    if scale not in ("gpu", "imagenet"):
        return "cpu"
    if not torch.cuda.is_available():
        raise StudyError(f"scale {scale!r} trains on a GPU, and torch finds none here: take scale smoke or laptop")
    return "cuda"


def places_for(device: str) -> int:
    """Return how many runs go side by side: one on each core, a few on a GPU."""
    return GPU_PLACES if device == "cuda" else os.cpu_count() or 1


def workers(device: str, jobs: int) -> concurrent.futures.Executor:
    """Return an executor of ``jobs`` processes, each with its own generators; single-threaded runs suit a CPU best.

    On a CPU they keep freed memory and take it in huge pages. glibc otherwise returns every activation to the system
    and faults it in again at the next step, a quarter of the time of a step here.
    """
    if device == "cpu":
        os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**40))
        os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    return concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def epoch_line(label: str, epoch: Epoch) -> str:
    """Return one fixed-width line of progress."""
    return (
        f"{label:<40}  epoch {epoch.epoch + 1:3d}  loss {epoch.loss:7.4f}  train {100 * epoch.train_error:6.2f} %  "
        f"after {100 * epoch.train_error_after:6.2f} %  test {100 * epoch.test_error:6.2f} %  {epoch.seconds:7.1f} s"
    )


def published(scale: str) -> bool:
    """Return whether the project's own ``data/runs`` holds records of the scale."""
    return bool(records.read(records.PUBLISHED, scale=scale))


def study(experiment: str, scale: str, *, retrain: bool = False) -> dict[str, ArmResult]:
    """Return a notebook's results: published ones as they are, others after training what is missing.

    Records are read from and added to the folder of the variable ``ALEXNET_RUNS``; without it the published ones
    are read and the reader's own go to ``build/runs`` (``build/runs-retrained`` with ``retrain``).

    Args:
        experiment: Name of the experiment.
        scale: ``smoke``, ``laptop``, ``gpu`` or ``imagenet``.
        retrain: Train every run again instead of reading published ones; a second call goes on where it stopped.

    Raises:
        StudyError: an unknown name, a value of another type, or a scale that the experiment doesn't have.
    """
    check_scale(scale)
    if not isinstance(retrain, bool):
        raise StudyError(f"parameter 'retrain': expected bool, got {type(retrain).__name__} {retrain!r}")
    if not arms(experiment, scale):
        raise StudyError(f"experiment {experiment!r} has no scale {scale!r}: take smoke, laptop or gpu")
    if os.environ.get("ALEXNET_RUNS"):
        folder = records.runs_folder()
    elif retrain:
        folder = records.PROJECT / "build" / "runs-retrained"
    elif published(scale):
        return evidence.results(experiment, scale, records.PUBLISHED)
    else:
        folder = records.PROJECT / "build" / "runs"
    device = device_for(scale)
    session = Session(device=device, folder=folder, quiet=True, again=retrain)
    places = places_for(device)
    with workers(device, places) as executor:
        for _ in run([experiment], scale, session, executor, places):
            pass
    return evidence.results(experiment, scale, folder)
