"""Run records: one line of JSON a run, written once, when the run has ended.

A record holds the recipe, its curves and scores, and the provenance that a stranger needs to repeat it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from alexnet_lib.dataset import Dataset
from alexnet_lib.files import atomic_write
from alexnet_lib.machine import cpu_model, peak_memory
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.train import UNKNOWN, Epoch, Result

SCHEMA = 1
PROJECT = Path(__file__).resolve().parent.parent
PUBLISHED = PROJECT / "data" / "runs"
Record = dict[str, Any]
OWN = "own"
"""The scale of a run that belongs to no experiment."""
CHANGED = ", changed"
"""What follows the commit of code that differs from it."""
KEYS: dict[str, type] = {
    "schema": int,
    "id": str,
    "experiment": str,
    "arm": str,
    "scale": str,
    "seed": int,
    "recipe": dict,
    "data": dict,
    "outcome": str,
    "history": list,
    "scores": dict,
    "cost": dict,
    "provenance": dict,
}
INNER = {
    "data": {"name", "digest"},
    "history": {field.name for field in fields(Epoch)},  # of each epoch
    "cost": {"train_seconds", "evaluate_seconds"},
    "provenance": {"commit", "device", "dirty"},
}
"""What readers of records rely on within them."""


def runs_folder(folder: Path | None = None) -> Path:
    """Return the folder of records: ``folder``, else the variable ``ALEXNET_RUNS``, else ``data/runs``."""
    return folder or Path(os.environ.get("ALEXNET_RUNS") or PUBLISHED).expanduser()


def own_folder() -> Path:
    """Return the folder that one's own records go to: the variable ``ALEXNET_RUNS``, else ``build/runs``."""
    return Path(os.environ.get("ALEXNET_RUNS") or PROJECT / "build" / "runs").expanduser()


def seconds(record: Record) -> float:
    """Return the seconds of a run's training and evaluation; waiting for images is part of the training."""
    return float(record["cost"]["train_seconds"] + record["cost"]["evaluate_seconds"])


def make(result: Result, data: Dataset, *, experiment: str, arm: str, scale: str, begun: datetime) -> Record:
    """Return the record of a run, after the last of its work: the peak of memory is that of now."""
    return {
        "schema": SCHEMA,
        "id": result.recipe.id,
        "experiment": experiment,
        "arm": arm,
        "scale": scale,
        "seed": result.recipe.seed,
        "recipe": result.recipe.resolved(),
        "data": {"name": data.name, "digest": data.digest, "train": len(data.train), "test": len(data.test)},
        "outcome": result.outcome,
        "history": [asdict(epoch) for epoch in result.history],
        **({"pretraining": [asdict(epoch) for epoch in result.pretraining]} if result.pretraining else {}),
        "scores": result.scores,
        "cost": result.cost | {"peak_memory_bytes": peak_memory(result.device)},
        "provenance": {
            **provenance(result.device),
            "split": result.split,
            "commits": result.origins,
            "machines": result.machines,
            "begun": begun.isoformat(timespec="seconds"),
        },
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Return where a run comes from: commit, versions, hardware, time."""
    cuda = device.type == "cuda"
    return {
        **commit(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def on_gpu(record: Record) -> bool:
    """Return whether a run was trained on a GPU."""
    return bool(record["provenance"]["device"] != "cpu")


@functools.cache
def commit() -> dict[str, Any]:
    """Return the commit, and whether the code differs from it, as they were when this process first asked.

    A process that trains asks before it trains: what is committed or edited meanwhile is not what it runs. Where
    the code has no ``.git`` (a copy on another machine) the variable ``ALEXNET_COMMIT`` hands the commit over;
    whether the copy was changed is then not known.
    """
    given = os.environ.get("ALEXNET_COMMIT")
    if given:
        return {"commit": given, "dirty": None}
    if not (PROJECT / ".git").exists():  # git would answer for a repository around an installed copy
        return {"commit": None, "dirty": None}
    git = ["git", "-C", str(PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        # Only what can change a run's numbers counts: not records, notebooks or prose.
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", "alexnet_lib", "pyproject.toml", "requirements.txt"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}


def origin() -> str:
    """Return the commit in the words that a checkpoint keeps of each part of a run: changed code says so."""
    found = commit()
    return (found["commit"] or UNKNOWN) + (CHANGED if found["dirty"] else "")


def version() -> str:
    """Return which library this process runs: its commit, and a hash of its source as the process first saw it."""
    return f"commit {(commit()['commit'] or 'unknown')[:10]}, source {_source()[:10]}"


@functools.cache
def _source() -> str:
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def check_folder(folder: Path) -> None:
    """Refuse a folder that no record can be written to, before hours are spent on one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StudyError(f"records can't be written to {folder} ({error.strerror}): choose another folder") from error


def append(record: Record, folder: Path | None = None, content: bytes | None = None) -> Path:
    """Add a record to its experiment's file, all of it or nothing, and return the file.

    Before it, ``content`` is written, what `pack` made of the run's tensors. Where the run is recorded already, in
    this file or in that of another experiment with the same recipe, neither is: its tensors must stay those that its
    record has the sum of.

    Raises:
        StudyError: a file could not be written; what was in the records' file is unharmed.
    """
    path = runs_folder(folder) / f"{record['experiment']}.jsonl"
    line = json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob("*.jsonl"):
            if other != path and _holds(other.read_bytes(), record):
                return other
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # runs end at about the same time; closing gives it back
            size = os.fstat(file.fileno()).st_size
            if _holds(os.pread(file.fileno(), size, 0), record):
                return path
            if content is not None:
                keep(record["id"], content, folder)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line  # the last line was cut short; this one must not be lost with it
            try:
                if file.write(line) != len(line):
                    raise OSError("written in part only")
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "choose another folder (--out, ALEXNET_RUNS)"
        raise StudyError(
            f"record {record['id']} was not written to {path} ({error}): {remedy} and run again; a run that has a "
            "checkpoint goes on from it, so nothing is trained twice"
        ) from error
    return path


def _holds(content: bytes, record: Record) -> bool:
    """Return whether a file of records has a whole one of the same run and scale."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # of damaged lines, which `read` names
            if record["id"].encode() in line:
                found = json.loads(line)
                _check(found)
                if (found["id"], found["scale"]) == (record["id"], record["scale"]):
                    return True
    return False


def read(folder: Path | None = None, *, experiment: str = "*", scale: str | None = None) -> list[Record]:
    """Return the records of an experiment (all by default) at a scale (any by default), in file order.

    A line that is damaged is named in a warning (file, line, reason) and passed over; of two records of one
    experiment, scale and id the first counts.

    Raises:
        StudyError: a file can't be read.
    """
    found: dict[tuple[str, str, str], Record] = {}
    for path in sorted(runs_folder(folder).glob(f"{experiment}.jsonl")):
        try:
            with path.open("rb") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_SH)
                lines = file.read().splitlines()
        except OSError as error:
            raise StudyError(
                f"records {path} can't be read ({error.strerror}): set its permissions, or name another folder"
            ) from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                _check(record)
            except (ValueError, TypeError) as error:
                warnings.warn(f"{path}, line {number}: passed over: {error}", stacklevel=2)
                continue
            if scale in (None, record["scale"]):
                found.setdefault((record["experiment"], record["scale"], record["id"]), record)
    return list(found.values())


def by_id(found: Iterable[Record]) -> dict[str, Record]:
    """Return records by id; of two of one id the first counts."""
    first: dict[str, Record] = {}
    for record in found:
        first.setdefault(record["id"], record)
    return first


def kept_file(run: str, folder: Path | None = None) -> Path:
    """Return the file of what is kept of a run's network: ``data/filters`` for published runs, else beside them."""
    home = runs_folder(folder)
    return (home.parent if home.resolve() == PUBLISHED.resolve() else home) / "filters" / f"{run}.safetensors"


def pack(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Return tensors of a run's network as a file's content and its sha256, the record's ``kept``."""
    content = safetensors.torch.save(dict(tensors))
    return content, hashlib.sha256(content).hexdigest()


def keep(run: str, content: bytes, folder: Path | None = None) -> None:
    """Write what `pack` made of a run's tensors beside its record, all of it or nothing.

    Raises:
        StudyError: the file could not be written.
    """
    with atomic_write(kept_file(run, folder), "free some space, or choose another folder") as partial:
        partial.write_bytes(content)


def kept(record: Record, folder: Path | None = None) -> dict[str, Tensor]:
    """Return what is kept of a recorded run's network, by name.

    Raises:
        StudyError: the record keeps nothing, or the file is missing or not the one that the run wrote.
    """
    return safetensors.torch.load(_content(record, folder))


def _content(record: Record, folder: Path | None) -> bytes:
    """Return the file of a run's tensors, once it has proved to be the one that the run packed."""
    path = kept_file(record["id"], folder)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(f"run {record['id']} kept its tensors in {path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != record.get("kept"):
        raise StudyError(f"{path} is not what run {record['id']} wrote: take the file that came with the record")
    return content


def publish(folder: Path) -> tuple[list[Record], list[Record]]:
    """Add the records of ``folder`` that ``data/runs`` lacks to it, with what is kept of their networks.

    A run counts once, whichever machine did it and for whichever experiment: folders of several machines merge in any
    order, and of a run that two of them did the first stays.

    Returns:
        The records added, and those refused: of no experiment, or trained by code that no commit holds.

    Raises:
        StudyError: a kept file is missing or altered, or something could not be written.
    """
    there = {(record["scale"], record["id"]) for record in read(PUBLISHED)}
    new = []
    for record in read(folder):
        if (record["scale"], record["id"]) not in there:
            there.add((record["scale"], record["id"]))
            new.append(record)
    refused = [record for record in new if not _committed(record["provenance"]) or record["scale"] == OWN]
    added = [record for record in new if record not in refused]
    for record in added:
        append(record, PUBLISHED, _content(record, folder) if "kept" in record else None)
    return added, refused


def _committed(provenance: Mapping[str, Any]) -> bool:
    """Return whether a commit holds the code of every part of a run; the first records name only the last part's."""
    parts: list[str] = provenance.get("commits", [])
    doubtful = any(part == UNKNOWN or part.endswith(CHANGED) for part in parts)
    return bool(provenance["commit"]) and not provenance["dirty"] and not doubtful


def _check(record: Any) -> None:
    """Raise ValueError unless ``record`` is a whole one of this schema whose id is its recipe's."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"not a record of schema {SCHEMA}")
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for key, kind in KEYS.items():
        if not isinstance(record[key], kind):
            raise ValueError(f"{key} is no {kind.__name__}")
    for key, names in INNER.items():
        for part in record[key] if key == "history" else [record[key]]:
            missing = sorted(names.difference(part if isinstance(part, dict) else ()))
            if missing:
                raise ValueError(f"{key} lacks {', '.join(missing)}")
    identity = Recipe.parse(record["recipe"]).id
    if record["id"] != identity:
        raise ValueError(f"id {record['id']} is not its recipe's ({identity}): edited by hand?")


def find(run: str, folder: Path | None = None) -> Record:
    """Return the record whose id begins with ``run``.

    Raises:
        StudyError: there is none, or more than one run.
    """
    found = [record for record in read(folder) if record["id"].startswith(run)]
    ids = sorted({record["id"] for record in found})
    if len(ids) != 1:
        raise StudyError(
            f"{len(ids)} runs in {runs_folder(folder)} have an id that begins with {run!r}"
            + (f": {', '.join(ids[:5])}" if ids else ": the ids stand in the files there")
        )
    return found[0]
