"""Doing the study's runs: what is still missing, in which order, where, and within how much time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from alexnet_lib import data, evaluate, evidence, files, machine, models, records
from alexnet_lib.dataset import Dataset
from alexnet_lib.evidence import ArmResult
from alexnet_lib.experiments import EXPERIMENTS, SCALES, Arm, arms, check_scale
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, Result, check_device, first_kernels, out_of_memory, train

NEIGHBOUR_LAYERS = ("pool1", "pool2", "pool5", "act6", "act7")
"""Layers of AlexNet in which nearest images are looked for, besides pixels."""
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Settings of glibc's allocator: keep freed memory, and take it in huge pages. It otherwise returns every activation
to the system and faults it in again at the next step, a quarter of the time of a step here."""
GPU_PLACES = 4
"""Runs side by side on a GPU: one alone leaves it idle while the CPU prepares. Small nets fill little of it, but only
with NVIDIA's multi-process service do their kernels run at the same time (the book's "Many runs")."""


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

    Arms of low priority number come before the others. Among equals the order is what a reader gains for an hour of
    the machine:

    1. Seed 0 of everything: a first number for every claim, and the price of every run that is to follow. A search
       for a rate is part of it, and holds back its arm's other seeds.
    2. The pairs that an experiment lacks, one experiment after the other, the cheapest first. A verdict needs all
       its pairs: two claims at half of them have none, one at all and one at the first has one.
    3. Runs of an arm beyond the pairs that its experiment can make.

    ``folder``: of the records; ``also``: another one whose records count as done.
    """
    done = recorded(scale, folder, also)
    found, known, kept_of = records.by_id(done), epoch_seconds(done, usual_device(scale)), _kept_of(scale)
    ranked: list[tuple[tuple[float, ...], Task]] = []
    for place, name in enumerate(experiments):
        pairs: dict[int, int] = {}
        for arm in arms(name, scale):
            pairs[arm.priority] = min(arm.seeds, pairs.get(arm.priority, arm.seeds))
        lacking = [
            (arm.priority, 0 < task.recipe.seed < pairs[arm.priority], task)
            for arm in arms(name, scale)
            for task in _lacking(name, scale, arm, found, kept_of)
        ]
        price = sum(_hours(task.recipe, known) or 0.0 for _, pair, task in lacking if pair)
        for priority, pair, task in lacking:
            seed = task.recipe.seed
            rank = (1, price, place, seed) if pair else (2 if seed else 0, seed)
            ranked.append(((priority, *rank), task))
    ordered = [task for _, task in sorted(ranked, key=lambda item: item[0])]
    first = {task.recipe.id: task for task in reversed(ordered)}
    return [task for task in ordered if first[task.recipe.id] is task]


def _lacking(
    experiment: str, scale: str, arm: Arm, found: Mapping[str, Record], kept_of: Mapping[str, tuple[str, ...]]
) -> list[Task]:
    """Return the runs of an arm that can start and have no record; ``kept_of``: as `_kept_of`."""
    rate, missing = evidence.search(arm, found)
    seeds = [] if rate is None else arm.recipes(rate)
    return [
        Task(experiment, scale, arm.name, recipe, search=bool(missing), keep=kept_of[arm.recipe.id])
        for recipe in [*missing, *seeds]
        if recipe.id not in found
    ]


def _kept_of(scale: str) -> dict[str, tuple[str, ...]]:
    """Return what is kept of a network by the id of its arm's recipe: all that any arm with that recipe keeps.

    Arms of several experiments share their runs, and which of them a run is done for is chance.
    """
    kept: dict[str, dict[str, None]] = {}
    for name in EXPERIMENTS:
        for arm in arms(name, scale):
            kept.setdefault(arm.recipe.id, {}).update(dict.fromkeys(arm.keep))
    return {recipe: tuple(names) for recipe, names in kept.items()}


def recorded(scale: str, folder: Path | None, also: Path | None) -> list[Record]:
    """Return the records of a scale in ``folder``, and in ``also`` if there is one."""
    folders = (folder,) if also is None else (folder, also)
    return [record for place in folders for record in records.read(place, scale=scale)]


Price = tuple[str, str, str]
"""What the seconds of an epoch depend on: data set, precision and network."""


def epoch_seconds(recorded: Sequence[Record], device: str) -> dict[Price, float]:
    """Return the median seconds of an epoch recorded on ``cpu`` or ``cuda``."""
    seconds: dict[Price, list[float]] = {}
    for run in recorded:
        if records.on_gpu(run) != (device == "cuda"):
            continue
        key = run["recipe"]["data"], run["recipe"]["precision"], run["recipe"]["net"]
        seconds.setdefault(key, []).extend(epoch["seconds"] for epoch in run["history"])
    return {key: statistics.median(each) for key, each in seconds.items() if each}


def _seconds(recipe: Recipe, known: Mapping[Price, float]) -> float | None:
    """Return the seconds that an epoch will take: as recorded on the same data in the same precision, or None.

    Where the network has no record, the seconds of the one most like it are scaled by the operations of both.
    """
    alike = recipe.data, recipe.precision
    nets = {net: seconds for (*kind, net), seconds in known.items() if tuple(kind) == alike}
    if not nets:
        return None
    wanted = models.training_flops(recipe.net)
    near = min(nets, key=lambda net: (net != recipe.net, abs(math.log(models.training_flops(net) / wanted))))
    return nets[near] * wanted / models.training_flops(near)


def _hours(recipe: Recipe, known: Mapping[Price, float]) -> float | None:
    """Return the hours that a run will take if it goes through all its epochs, None where nothing tells."""
    seconds = _seconds(recipe, known)
    return None if seconds is None else (recipe.epochs + 4 * recipe.pretrain) * seconds / 3600  # in all four turns


def hours(recipes: Sequence[Recipe], recorded: Sequence[Record], device: str) -> tuple[float, int]:
    """Estimate the hours that runs take on one core (``cpu``) or GPU (``cuda``), from epochs recorded on such.

    A run counts with all its epochs, though a target or an abandoned search may end it sooner. Also returned: the
    number of those left out, for want of a record on their data and in their precision.
    """
    known = epoch_seconds(recorded, device)
    each = [_hours(recipe, known) for recipe in recipes]
    return sum(found for found in each if found is not None), each.count(None)


class OutOfTime(Exception):
    """The time given to a session of runs is over; the run's checkpoint is kept."""


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else what is left of the line is in the way of a worker's end
        raise


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
    tell: Callable[[str], None] = _say
    """What a line of progress is given to, where the run is done."""
    version: str | None = None
    """Of the library that must do the runs (`records.version`), on other machines than the caller's."""

    def over(self, seconds: float = 0.0) -> bool:
        """Return whether the time is over, or will be in ``seconds``."""
        return self.deadline is not None and time.time() + seconds > self.deadline

    def checkpoint(self, run: str) -> Path:
        """Return a run's checkpoint, outside the tree: variable ``ALEXNET_CACHE`` or ``~/.cache/alexnet-study``."""
        cache = Path(os.environ.get("ALEXNET_CACHE") or "~/.cache/alexnet-study").expanduser()
        return cache / ("again" if self.again else ".") / f"{run}.pt"

    def try_lock(self, run: str) -> contextlib.AbstractContextManager[bool]:
        """Hold a run, whose checkpoint two processes must not share: `files.try_lock`."""
        return files.try_lock(self.checkpoint(run).with_suffix(".lock"))

    def discard(self, run: str) -> None:
        """Remove the checkpoints of a run whose record is written."""
        for file in self.checkpoint(run).parent.glob(f"{run}.*pt"):
            file.unlink(missing_ok=True)


@functools.lru_cache(maxsize=2)  # of a worker's whole life
def _data(name: str) -> Dataset:
    return data.load(name)


Ended = tuple[Record, bytes | None]
"""A run's record, and what is kept of its network as a file's content."""


def _known(scale: str, session: Session) -> dict[Price, float]:
    """Return `epoch_seconds` by the records at hand."""
    return epoch_seconds(recorded(scale, session.folder, session.also), session.device)


def perform(task: Task, session: Session) -> Ended | None:
    """Do one run, or go on with it; None if time was up before its end.

    Nothing but the checkpoint is written here, and it stays: the record is on disk once `write` is through, perhaps
    on another machine.

    Raises:
        StudyError: recipe, data or machine don't allow the run.
    """
    if session.deadline is not None:
        known = _known(task.scale, session)
        first = task.recipe.pretrain and not session.checkpoint(task.recipe.id).exists()
        turns = 4 if first else 1  # of each image, which the next epoch sees
        if session.over(turns * (_seconds(task.recipe, known) or 0.0)):
            return None
    if session.device == "cpu":
        torch.set_num_threads(1)
    begun, dataset = datetime.now(UTC), _data(task.recipe.data)
    origin = records.origin()  # as it is now, before the run
    last = time.time()

    def on_epoch(epoch: Epoch) -> None:
        nonlocal last
        if not session.quiet:
            session.tell(epoch_line(task.label, epoch))
        took, last = time.time() - last, time.time()  # with evaluation and checkpoint; nothing for epochs of the past
        if session.over(1.5 * max(took, epoch.seconds)):
            raise OutOfTime

    def give_up(history: list[Epoch]) -> str | None:
        if not task.search:
            return None
        rivals = evidence.alike(task.recipe, recorded(task.scale, session.folder, session.also))
        return evidence.abandon([vars(epoch) for epoch in history], rivals)

    try:
        result = train(
            task.recipe,
            dataset,
            device=session.device,
            checkpoint=session.checkpoint(task.recipe.id),
            origin=origin,
            on_epoch=on_epoch,
            abandon=give_up,
            snapshots=[0, *(2**power for power in range(10))] if "snapshots" in task.keep else [],
        )
    except OutOfTime:
        return None
    try:
        tensors = kept(result, dataset, task.keep) if task.keep and result.outcome == "completed" else {}
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise StudyError(
            f"{task.label}: out of memory after the training, in the search for nearest images: the same command "
            "with fewer runs side by side (--jobs), or with other programs closed, goes on from the checkpoint"
        ) from error
    record = records.make(result, dataset, experiment=task.experiment, arm=task.arm, scale=task.scale, begun=begun)
    record["scores"] |= {
        f"{name}_same_class": evaluate.same_class(near, dataset.test.labels, dataset.train.labels)
        for name, near in tensors.items()
        if name.startswith("neighbours")
    }
    content = None
    if tensors:
        content, record["kept"] = records.pack(tensors)
    return record, content


def attempt(task: Task, session: Session) -> Ended | StudyError | None:
    """Do `perform`, returning a StudyError instead of raising it: executors do again what raises."""
    _end_with_parent()
    if session.version not in (None, records.version()):
        return StudyError(f"{platform.node()} has alexnet_lib of {records.version()}, the caller {session.version}")
    try:
        return perform(task, session)
    except StudyError as error:
        return StudyError(f"{platform.node()}: {error}") if session.version else error


def write(ended: Ended, session: Session) -> Record:
    """Write what `perform` returned, the record last, and only then remove the checkpoint.

    Of a run that is recorded already everything stays as it is.

    Raises:
        StudyError: something could not be written; the checkpoint is kept.
    """
    record, content = ended
    records.append(record, session.folder, content)
    session.discard(record["id"])
    return record


def kept(result: Result, dataset: Dataset, names: Sequence[str]) -> dict[str, Tensor]:
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

    What can start is worked out anew after every run, since a finished search frees its arm's seeds. Records are
    written here, whatever the executor: its workers may be on other machines. A run that another process of this
    machine is at is left to that one, and one in a precision that this machine lacks is left out, each with a line
    that says so. Once the next epoch of one does not fit into the time that is left, only runs of shorter epochs are
    started.

    Raises:
        StudyError: a run can't be done, and the others in flight end first; or none of the scale can.
    """
    flying: dict[concurrent.futures.Future[Ended | StudyError | None], Task] = {}
    failed: BaseException | None = None
    late = False
    told: set[str] = set()  # of the runs left out
    shortest = math.inf  # seconds of an epoch for which there was no time
    with contextlib.ExitStack() as leaving:
        held: dict[str, contextlib.ExitStack] = {}  # by this process, not its workers: until the record is written
        while True:
            late = late or failed is not None or session.over()
            waiting = [] if late else pending(experiments, scale, session.folder, session.also)
            if shortest < math.inf:  # what has no known price may be too long as well
                known = _known(scale, session)
                waiting = [task for task in waiting if (_seconds(task.recipe, known) or math.inf) < shortest]
            stale = False
            for task in waiting:
                run = task.recipe.id
                if len(flying) == places:
                    break
                if run in held:
                    continue
                why = _unfit(task, session)
                with contextlib.ExitStack() as lock:
                    if not why and not lock.enter_context(session.try_lock(run)):
                        why = "another process is at it"
                    if why:
                        if run not in told:
                            _say(f"{task.label}: left out, {why}")
                        told.add(run)
                    elif run in {one["id"] for one in recorded(scale, session.folder, session.also)}:
                        # by the process that held it until now
                        stale = True
                    else:
                        flying[executor.submit(attempt, task, session)] = task
                        held[run] = leaving.enter_context(lock.pop_all())
            if not flying and stale:
                continue
            if not flying:
                break
            done, _ = concurrent.futures.wait(flying, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                task = flying.pop(future)
                ended = future.exception() or future.result()
                if isinstance(ended, BaseException):
                    failed = failed or ended
                elif ended is None:
                    shortest = min(shortest, _seconds(task.recipe, _known(scale, session)) or 0.0)
                    held.pop(task.recipe.id).close()
                else:
                    try:
                        record = write(ended, session)
                    except StudyError as error:
                        failed = failed or error
                        continue
                    held.pop(task.recipe.id).close()
                    yield record
    if failed is not None:
        raise failed
    reasons = [_unfit(task, session) for task in waiting]
    if reasons and all(reasons) and not recorded(scale, session.folder, session.also):
        raise StudyError(f"no run of scale {scale!r} can be done here: {reasons[0]}")


def _unfit(task: Task, session: Session) -> str:
    """Say why this machine can't compute in a run's precision; empty where it can, or where other machines do it."""
    if session.version is not None:
        return ""
    try:
        check_device(task.recipe, torch.device(session.device))
    except StudyError as error:
        return str(error)
    return ""


def run_here(experiments: Sequence[str], scale: str, session: Session, jobs: int | None = None) -> Iterator[Record]:
    """Do `run` in ``jobs`` processes of this machine: by default as many as suit its device.

    Raises:
        StudyError: as `run`, or a process was killed.
    """
    places = jobs or places_for(scale, session.device)
    try:
        with workers(session.device, places) as executor:
            yield from run(experiments, scale, session, executor, places)
    except BrokenProcessPool as error:
        raise StudyError(
            "a process that trained was killed, for want of memory perhaps: finished runs are recorded, and the same "
            f"command with fewer runs side by side (--jobs, now {places}) goes on from the others' checkpoints"
        ) from error


def device_for(scale: str, *, elsewhere: bool = False) -> str:
    """Return where a scale's runs are trained: ``cuda`` for those whose recipes need a GPU, else ``cpu``.

    ``elsewhere``: on other machines than this one, which then needs no GPU.

    Raises:
        StudyError: the scale needs a GPU and there is none.
    """
    device = usual_device(scale)
    if device == "cuda" and not elsewhere and not torch.cuda.is_available():
        raise StudyError(f"scale {scale!r} trains on a GPU, and torch finds none here: take scale smoke or laptop")
    return device


def usual_device(scale: str) -> str:
    """Return what a scale's recipes are meant for: ``cuda`` or ``cpu``."""
    check_scale(scale)
    return "cuda" if scale in ("gpu", "imagenet") else "cpu"


def places_for(scale: str, device: str) -> int:
    """Return how many runs go side by side: one on each core, a few on a GPU, which one on all of ImageNet fills."""
    if device != "cuda":
        return machine.cores()
    return 1 if scale == "imagenet" else GPU_PLACES


def workers(device: str, jobs: int) -> concurrent.futures.Executor:
    """Return an executor of ``jobs`` processes, each with its own generators; single-threaded runs suit a CPU best.

    On a CPU they have the settings ``ALLOCATOR``, where the user has not set others.
    """
    if device == "cpu":
        for name, value in ALLOCATOR.items():
            os.environ.setdefault(name, value)
    return concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


@functools.cache  # once in a process
def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed, of whatever executor it is.

    It would else train on beside the process that takes up its run, and then keep its memory, waiting for tasks.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def epoch_line(label: str, epoch: Epoch) -> str:
    """Return one fixed-width line of progress."""
    kind, number = ("turns", epoch.epoch) if epoch.epoch < 0 else ("epoch", epoch.epoch + 1)  # pre-training: -n to -1
    return (
        f"{label:<40}  {kind} {number:3d}  loss {epoch.loss:7.4f}  train {100 * epoch.train_error:6.2f} %  "
        f"after {100 * epoch.train_error_after:6.2f} %  test {100 * epoch.test_error:6.2f} %  {epoch.seconds:7.1f} s"
    )


def study(experiment: str, scale: str, *, retrain: bool = False) -> dict[str, ArmResult]:
    """Return a notebook's results: published ones as they are, others after training what is missing.

    Records are read from and added to the folder of the variable ``ALEXNET_RUNS``; without it the published ones
    are read and the reader's own go to ``build/runs``. With ``retrain`` they go to a folder of that name with
    ``-retrained`` at its end.

    Args:
        experiment: Name of the experiment.
        scale: ``smoke``, ``laptop``, ``gpu`` or ``imagenet``.
        retrain: Train every run again that the ``-retrained`` folder lacks, so a second call goes on where the first
            stopped; delete the folder to begin anew.

    Raises:
        StudyError: an unknown name, a value of another type, or a scale that the experiment doesn't have.
    """
    check_scale(scale)
    if not isinstance(retrain, bool):
        raise StudyError(f"parameter 'retrain': expected bool, got {type(retrain).__name__} {retrain!r}")
    if not arms(experiment, scale):
        there = ", ".join(other for other in SCALES if arms(experiment, other))
        raise StudyError(f"experiment {experiment!r} has no scale {scale!r}: take one of {there}")
    folder = records.own_folder()
    if retrain:
        folder = folder.with_name(f"{folder.name}-retrained")
    elif not os.environ.get("ALEXNET_RUNS"):
        published = evidence.results(experiment, scale, records.PUBLISHED)
        if any(arm.all_runs for arm in published.values()):
            return published
    if pending([experiment], scale, folder):
        records.check_folder(folder)
        session = Session(device=device_for(scale), folder=folder, quiet=True, again=retrain)
        if scale == "smoke":  # runs of seconds: processes take as long to import torch
            with concurrent.futures.ThreadPoolExecutor(1) as thread:
                list(run([experiment], scale, session, thread))
        else:
            list(run_here([experiment], scale, session))
    return evidence.results(experiment, scale, folder)
