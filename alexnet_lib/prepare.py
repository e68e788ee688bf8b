"""Making a prepared set (`alexnet_lib.store`) of pictures: in parallel, resumable, with a report of every odd file.

Images are prepared as `alexnet_lib.images` says: the shorter side to 256 pixels, the central square, RGB. They are
written as JPEG of quality 90, colours at half the resolution, in shards of 256 source files.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO, StringIO
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from alexnet_lib import images, store
from alexnet_lib.data import KINDS
from alexnet_lib.dataset import Moments
from alexnet_lib.files import atomic_write, try_lock
from alexnet_lib.images import SIZE, Report
from alexnet_lib.recipes import StudyError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

QUALITY = 90
SHARD = 256
"""Source files in a shard: what a preparation that is killed loses at most."""


@dataclass(frozen=True)
class _Part:
    """One split of a source."""

    labels: NDArray[np.int64]
    files: list[str]
    """What tells the source from another one."""
    read: Callable[[range], list[tuple[str, str | BytesIO]]]
    """Gives the names and files (paths, or what is in them) of some rows that follow each other."""


def prepare(source: Path, folder: Path) -> None:
    """Make a prepared set of pictures, in ``folder``, which then appears whole.

    The work stands in ``folder.partial`` until then, and a preparation that was stopped goes on from there, to the
    same bytes. Images are prepared as `alexnet_lib.images` says, on all cores.

    Args:
        source: ``{train,val or test}/CLASS/IMAGE``; the archives of ILSVRC-2012, which are unpacked there; or Parquet
            files of the Hugging Face Hub, with columns ``image`` (bytes, path) and ``label``.
        folder: a folder of the data root that isn't there yet.

    Raises:
        StudyError: a source that is missing, damaged or of none of these forms; classes that differ between the
            splits, or have no readable image; labels out of range; a name that is taken; a full disk; another
            process that prepares the set, or unpacks its source.
    """
    if folder.name in {*KINDS, *images.SOURCES} or not re.fullmatch(r"\w[\w-]*", folder.name):
        raise StudyError(f"prepared set {folder.name!r}: take another name, of letters, digits, - and _")
    if folder.exists() and not (folder / store.MANIFEST).exists():
        raise StudyError(f"{folder} is there already and is no prepared set: take another name")
    if folder.exists():
        raise StudyError(f"{folder} is there already: see data check {folder.name}, or delete it to prepare it again")
    store.check_packages()
    ignored: Counter[str] = Counter()
    try:
        classes, parts = _source(source, ignored)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise StudyError(f"source {source}: {error}") from None
    for name in (name for part in parts.values() for name in part.files):
        if not name.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in name):
            raise StudyError(f"source {source}: the file name {name!r} is no UTF-8: rename it")
    with _locked(folder.with_suffix(".lock"), f"{folder} is being prepared"):
        if not folder.exists():  # else another process has made it meanwhile
            _prepare(source, folder, classes, parts, ignored)


@contextlib.contextmanager
def _locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock file: two processes that write the same files would cut short each other's."""
    with try_lock(path) as free:
        if not free:
            raise StudyError(f"{doing} by another process: wait for it, and give the same command again")
        yield


def _prepare(
    source: Path, folder: Path, classes: tuple[str, ...], parts: dict[str, _Part], ignored: Counter[str]
) -> None:
    """Write the set, in the only process that does."""
    whole = [store.FORMAT, SIZE, QUALITY, SHARD, classes]
    whole += [(name, part.files, part.labels.tolist()) for name, part in parts.items()]
    plan = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    work = folder.with_suffix(".partial")
    shards = {
        work / f"{name}-{start // SHARD:05}.arrow": (part, range(len(part.labels))[start : start + SHARD])
        for name, part in parts.items()
        for start in range(0, len(part.labels), SHARD)
    }
    left = {path: rows for path, rows in shards.items() if not _begun(path, plan)}
    count, to_do = (sum(len(rows) for _, rows in some.values()) for some in (shards, left))
    progress = tqdm(desc=folder.name, total=count, initial=count - to_do, smoothing=0, unit="image", disable=None)
    with images.decoders() as pool, progress as bar:
        for path, (part, rows) in left.items():
            _write(path, _shard(part, rows, plan, pool))
            bar.update(len(rows))
    paths = {name: [path for path in shards if path.name.startswith(f"{name}-")] for name in parts}
    _finish(source, work, classes, paths, dict(sorted(ignored.items())))
    os.replace(work, folder)


def _begun(path: Path, plan: str) -> bool:
    """Return whether a shard is there; refuse one that was made of another source."""
    if not path.exists():
        return False
    if store.read({path: None}).schema.metadata[b"plan"].decode() != plan:
        other = "was begun with another source, or by another version"
        raise StudyError(f"{path.parent} {other}: go on with that one, or delete the folder to begin anew")
    return True


def _shard(part: _Part, rows: range, plan: str, pool: ThreadPoolExecutor) -> pa.Buffer:
    """Prepare a range of images; return the Arrow file of those that are readable, with notes on the others."""
    import pyarrow as pa

    named = part.read(rows)
    found = list(pool.map(_jpeg, (file for _, file in named)))
    good = [at for at, (jpeg, _, _) in enumerate(found) if jpeg]
    notes = [(name, kinds, why) for (name, _), (_, kinds, why) in zip(named, found, strict=True) if kinds or why]
    table = pa.table(
        {
            "jpeg": pa.array([found[at][0] for at in good], pa.binary()),
            "label": pa.array(part.labels[rows.start : rows.stop][good], pa.int32()),
            "name": pa.array([named[at][0] for at in good], pa.string()),
        },
        metadata={"plan": plan, "notes": json.dumps(notes)},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _jpeg(file: str | BytesIO) -> tuple[bytes, list[str], str]:
    """Return the prepared image as JPEG, what was converted, and why it is unreadable."""
    from simplejpeg import encode_jpeg

    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    kinds, why = images.prepare(file, pixels)
    return b"" if why else encode_jpeg(pixels, QUALITY, "RGB", "420"), kinds, why


def _write(path: Path, content: Any) -> None:
    then = "make room or see to the permissions, and give the same command again: it goes on from there"
    with atomic_write(path, then) as partial, partial.open("wb") as file:
        file.write(content)


def _finish(
    source: Path, work: Path, classes: tuple[str, ...], paths: dict[str, list[Path]], ignored: dict[str, int]
) -> None:
    """Write what concerns all shards: the training images' moments, the report and the manifest."""
    notes: list[tuple[str, list[str], str]] = []
    shards: dict[str, dict[str, Any]] = {}
    for part, files in paths.items():
        tables = {path: store.read({path: None}) for path in files}
        found = [note for table in tables.values() for note in json.loads(table.schema.metadata[b"notes"])]
        labels = {label for table in tables.values() for label in table.column("label").to_pylist()}
        bad = [f"{name} ({why})" for name, _, why in found if why]
        images.check_classes(source / part, classes, [("", label) for label in labels], bad)
        shards[part] = {
            path.name: {"images": len(table), "bytes": path.stat().st_size, "sha256": store.file_sum(path)}
            for path, table in tables.items()
        }
        notes += found
    unreadable = tuple(f"{name} ({why})" for name, _, why in notes if why)
    count = len(unreadable) + sum(entry["images"] for part in shards.values() for entry in part.values())
    kinds = Counter(kind for _, found, _ in notes for kind in found)
    moments = _moments(store.read(dict.fromkeys(paths["train"])))
    _write(work / store.MOMENTS, safetensors.torch.save(vars(moments)))
    _write(work / store.REPORT, _table(notes).encode())
    manifest = {
        "format": store.FORMAT,
        "size": SIZE,
        "classes": classes,
        "shards": shards,
        "sums": {name: store.file_sum(work / name) for name in (store.MOMENTS, store.REPORT)},
        "report": asdict(Report(count, dict(sorted(kinds.items())), unreadable, ignored)),
    }
    manifest["digest"] = store.manifest_sum(manifest)
    _write(work / store.MANIFEST, json.dumps(manifest, indent=1).encode())


def _moments(table: pa.Table) -> Moments:
    """Return the moments of stored images as training sees them, decoded."""
    parts = store.Jpegs(table, torch.arange(len(table)), SIZE).split(64)
    with tqdm(parts, "mean image", -(-len(table) // 64), leave=False, unit="batch", disable=None) as bar:
        return functools.reduce(add, map(Moments.of, bar))


def _table(notes: Sequence[tuple[str, Sequence[str], str]]) -> str:
    """Return notes on odd files as CSV."""
    lines = StringIO()
    rows = [("file", "converted", "unreadable"), *((name, ", ".join(kinds), why) for name, kinds, why in notes)]
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


# --- sources --------------------------------------------------------------------------------------------------


def _source(source: Path, ignored: Counter[str]) -> tuple[tuple[str, ...], dict[str, _Part]]:
    """Return the classes and both splits of a source, whichever of the three forms it has."""
    if files := sorted([*source.glob("*.parquet"), *source.glob("*/*.parquet")]):
        return _parquet(source, files)
    if (source / "ILSVRC2012_img_train.tar").exists() and not _unpacked(source):
        with _locked(source / "unpacking.lock", f"{source} is being unpacked"):
            _unpack(source)
    classes, splits = images.folders(source, ignored)
    for part, found in splits.items():
        images.check_classes(source / part, classes, found, ())  # before an hour of decoding
    return classes, {part: _folder(source, found) for part, found in splits.items()}


def _unpacked(source: Path) -> bool:
    """Return whether there is nothing to unpack, in a folder that may be one to read alone."""
    return (source / "train").exists() and (source / "val").exists()


def _unpack(source: Path) -> None:
    """Let torchvision check and unpack ILSVRC-2012's archives; a split appears whole or not at all."""
    from torchvision.datasets import imagenet

    for part, parse in (("train", imagenet.parse_train_archive), ("val", imagenet.parse_val_archive)):
        if not (source / part).exists():
            if part == "val":
                imagenet.parse_devkit_archive(source)
            shutil.rmtree(source / f"{part}.partial", ignore_errors=True)
            parse(source, folder=f"{part}.partial")
            os.replace(source / f"{part}.partial", source / part)


def _folder(source: Path, found: images.Files) -> _Part:
    names = [Path(path).relative_to(source).as_posix() for path, _ in found]

    def read(rows: range) -> list[tuple[str, str | BytesIO]]:
        return [(names[row], found[row][0]) for row in rows]

    return _Part(np.array([label for _, label in found]), names, read)


def _parquet(source: Path, files: list[Path]) -> tuple[tuple[str, ...], dict[str, _Part]]:
    """Return the classes and both splits of Parquet files as the Hugging Face Hub has them.

    A file's name, or else its folder's, begins with that of its split; classes are named in the files, or numbered.
    """
    found: dict[str, dict[Path, NDArray[np.int64]]] = {"train": {}, "val": {}, "test": {}}
    classes: tuple[str, ...] = ()
    for path in files:
        begins = re.match("train|val|test", path.name) or re.match("train|val|test", path.parent.name)
        if begins:
            found[begins[0]][path], named = _labels(path)
            if named and classes and named != classes:
                raise StudyError(f"{path} names other classes, or in another order, than the files before it")
            classes = classes or named
    chosen = [part for part in found if found[part]][:2]
    if len(chosen) < 2 or chosen[0] != "train":
        have = images.first([path.name for path in files])
        raise StudyError(f"{source} needs Parquet files train* and validation* (or test*); it has {have}")
    count = len(classes) or 1 + max(int(labels.max(initial=0)) for labels in found["train"].values())
    classes = classes or tuple(str(label) for label in range(count))
    for part in chosen:
        for path, labels in found[part].items():
            wrong = np.flatnonzero((labels < 0) | (labels >= count))
            if len(wrong):
                which = f"row {wrong[0]}: label {labels[wrong[0]]} is none of the {count} classes, 0 to {count - 1}"
                raise StudyError(f"{path}, {which}: leave such rows out")
        if missing := set(range(count)).difference(*(labels.tolist() for labels in found[part].values())):
            names = images.first([classes[label] for label in missing])
            raise StudyError(f"{source}, split {part}: no image of class {names}: fetch the files that are missing")
    return classes, {part: _parquet_part(source, found[part]) for part in chosen}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, and name it in what goes wrong with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, KeyError, TypeError, AttributeError, ValueError, pa.ArrowException) as error:
        columns = "a Parquet file with columns image (bytes, path) and label, of whole numbers"
        raise StudyError(f"{path} is cut short, damaged or not {columns} ({error}): fetch it again") from None


def _labels(path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of a Parquet file, and the names of all classes if it has them."""
    import pyarrow as pa

    with _opened(path) as file:
        file.schema_arrow.field("image").type.field("bytes")
        labels = file.read(columns=["label"]).column("label").cast(pa.int64()).combine_chunks()
        about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = about.get("info", {}).get("features", {}).get("label", {}).get("names", ())
        return labels.fill_null(-1).to_numpy(), tuple(names)


def _parquet_part(source: Path, labels: dict[Path, NDArray[np.int64]]) -> _Part:
    groups: list[tuple[Path, int, range]] = []  # a file, the number of a row group there, and its rows in the split
    begins: dict[Path, int] = {}
    total = 0
    for path in labels:
        begins[path] = total
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                rows = range(total, total + file.metadata.row_group(group).num_rows)
                groups.append((path, group, rows))
                total = rows.stop

    @functools.lru_cache(maxsize=1)  # a shard often begins in the group that the last one ended in
    def cells(path: Path, group: int) -> pa.ChunkedArray:
        with _opened(path) as file:
            return file.read_row_group(group, columns=["image"]).column("image")

    def read(rows: range) -> list[tuple[str, str | BytesIO]]:
        named: list[tuple[str, str | BytesIO]] = []
        for path, group, held in groups:
            for row in range(max(rows.start, held.start), min(rows.stop, held.stop)):
                cell = cells(path, group)[row - held.start].as_py() or {}
                name = f"{path.relative_to(source)} row {row - begins[path]} {cell.get('path') or ''}".strip()
                named.append((name, BytesIO(cell.get("bytes") or b"")))
        return named

    sizes = [f"{path.relative_to(source)} {path.stat().st_size}" for path in labels]
    return _Part(np.concatenate([*labels.values()]), sizes, read)
