"""Prepared sets: the paper's squares of 256 pixels as JPEG bytes in Arrow files, decoded in training.

`alexnet_lib.prepare` makes a set, `load` opens it as a `Dataset` whose images stay on disk, and `check` compares its
files with their sums. A prepared set is a folder of the data root, and its name is that of the data set:

- ``train-00000.arrow``, ``val-00000.arrow``, ...: Arrow IPC files with the columns ``jpeg`` (binary), ``label``
  (int32) and ``name`` (string);
- ``moments.safetensors``: the training images' `Moments`, for mean image, deviation and colours;
- ``report.csv``: every file that was converted, or could not be read and was left out;
- ``store.json``: version, classes, counts, and the size and sha256 of each other file.

The files are mapped into memory and rows are read at random, so an epoch's order is any permutation. In the data set
training images stand in a random order, always the same one, and test images in that of the files: the first training
images are then a sample of all classes, and so is the last fifth (`Dataset.holdout`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from alexnet_lib import machine
from alexnet_lib.dataset import Dataset, Moments, Split
from alexnet_lib.images import Report, first
from alexnet_lib.recipes import StudyError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST, MOMENTS, REPORT = "store.json", "moments.safetensors", "report.csv"
AHEAD = 3
"""Batches that are decoded while another is used."""
TASK = 8
"""Images that a thread decodes at a time."""
REMEDY = "copy it again from where it is whole, or delete the folder and prepare the set again"


class Jpegs:
    """Images of one split on disk, uint8 (N, H, H, 3), in place of the tensor that ``Split.images`` else is.

    Indexing chooses rows and decodes nothing; `split` decodes, on as many threads as there are cores. What comes out
    does not depend on their number.
    """

    dtype = torch.uint8

    def __init__(self, table: pa.Table, rows: Tensor, size: int, device: torch.device | str = "cpu") -> None:
        self.table, self.rows, self.device = table, rows, torch.device(device)
        self.shape = torch.Size((len(rows), size, size, 3))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Jpegs:
        """Return some of the images, not decoded; ``rows``: int64 (n,), or a slice."""
        chosen = self.rows[rows.cpu() if isinstance(rows, Tensor) else rows]
        return Jpegs(self.table, chosen, self.shape[1], self.device)

    def to(self, device: torch.device | str) -> Jpegs:
        """Return the images as ones that come to ``device`` once they are decoded."""
        return self if torch.device(device) == self.device else Jpegs(self.table, self.rows, self.shape[1], device)

    def split(self, size: int | list[int]) -> Iterator[Tensor]:
        """Yield the images in parts as ``torch.split`` would; the next ones are decoded meanwhile.

        Raises:
            StudyError: an image can't be decoded.
        """
        coming = deque[tuple[Tensor, list[Future[None]]]]()
        copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        with ThreadPoolExecutor(machine.cores()) as pool:
            for rows in torch.split(self.rows, size):
                coming.append(self._begin(rows.tolist(), pool))
                if len(coming) > AHEAD:
                    yield self._end(*coming.popleft(), copies)
            while coming:
                yield self._end(*coming.popleft(), copies)

    def _begin(self, rows: list[int], pool: ThreadPoolExecutor) -> tuple[Tensor, list[Future[None]]]:
        # Threads only decode: a CUDA graph can't be captured while another thread than the training one uses CUDA.
        out = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype, pin_memory=self.device.type == "cuda")
        tasks = ((rows[at : at + TASK], out[at : at + TASK].numpy()) for at in range(0, len(rows), TASK))
        return out, [pool.submit(self._decode, *task) for task in tasks]

    def _decode(self, rows: list[int], out: NDArray[np.uint8]) -> None:
        from simplejpeg import decode_jpeg

        jpegs, names = self.table.column("jpeg"), self.table.column("name")
        for row, pixels in zip(rows, out, strict=True):
            try:
                decode_jpeg(jpegs[row].as_py(), buffer=pixels)
            except ValueError as error:
                where = "python -m alexnet_lib data check NAME says in which file"
                raise StudyError(f"prepared image {names[row]} is damaged ({error}): {where}") from None

    def _end(self, out: Tensor, decoded: list[Future[None]], copies: torch.cuda.Stream | None) -> Tensor:
        for task in decoded:
            task.result()
        if copies is None:
            return out
        with torch.cuda.stream(copies):  # beside what the device computes
            images = out.to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(copies)
        images.record_stream(now)
        return images


def load(folder: Path) -> Dataset:
    """Return the prepared set in ``folder``, whose images stay on disk; their sums are left to `check`.

    Raises:
        StudyError: a file is missing, cut short or of another version, or a package is missing.
    """
    check_packages()
    manifest = _manifest(folder / MANIFEST)
    splits: list[Split] = []
    for part, shards in manifest["shards"].items():
        table = read({folder / name: entry["bytes"] for name, entry in shards.items()})
        labels = torch.from_numpy(table.column("label").to_numpy().astype(np.int64))
        rows, known = torch.arange(len(labels)), None
        if part == "train":
            rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
            known = _moments(folder, manifest["sums"][MOMENTS])
        splits.append(Split(Jpegs(table, rows, manifest["size"]), labels[rows], known))
    train, test = splits
    report = Report(**manifest["report"] | {"unreadable": tuple(manifest["report"]["unreadable"])})
    return Dataset(folder.name, train, test, tuple(manifest["classes"]), manifest["digest"], report)


def check(folder: Path) -> None:
    """Compare every file of a prepared set with the sum that was written of it.

    Raises:
        StudyError: files are missing or altered; the message names them.
    """
    manifest = _manifest(folder / MANIFEST)
    shards = {name: entry["sha256"] for part in manifest["shards"].values() for name, entry in part.items()}
    wrong = []
    for name, wanted in tqdm(
        (shards | manifest["sums"]).items(), folder.name, leave=False, unit="file", disable=None
    ):
        try:
            if file_sum(folder / name) != wanted:
                wrong.append(f"{name} is altered or cut short")
        except OSError as error:
            wrong.append(f"{name} can't be read ({error.strerror})")
    if wrong:
        raise StudyError(f"prepared set {folder}: {first(wrong)}: {REMEDY}")


def check_packages() -> None:
    """Raise StudyError where a package is missing that prepared sets need."""
    for module, package in (("PIL", "pillow"), *((name, name) for name in ("pyarrow", "simplejpeg", "torchvision"))):
        if importlib.util.find_spec(module) is None:
            raise StudyError(f"prepared sets need the package {package}: pip install 'alexnet-study[imagenet]'")


def read(paths: Mapping[Path, int | None]) -> pa.Table:
    """Return the rows of shards, mapped into memory, in order; ``paths``: with their sizes in bytes where known.

    Raises:
        StudyError: a file is missing, cut short or no Arrow file.
    """
    import pyarrow as pa

    tables: list[pa.Table] = []
    for path, size in paths.items():
        try:
            if size not in (None, path.stat().st_size):
                raise OSError(f"{path.stat().st_size} bytes where {size} were written")
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().select(["jpeg", "label", "name"])
            table.validate(full=True)  # else a flipped bit in an offset ends the process, not in an error
            if tables and table.schema != tables[0].schema:
                raise pa.ArrowInvalid("its columns are others than those of the first file")
            tables.append(table)
        except (OSError, KeyError, TypeError, pa.ArrowException) as error:
            raise StudyError(f"{path} is missing, cut short or altered ({error}): {REMEDY}") from None
    return pa.concat_tables(tables)


def file_sum(path: Path) -> str:
    """Return the sha256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_sum(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a manifest without its field ``digest``, which holds this very sum."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise StudyError(f"{path.parent} is no prepared set: it has no {path.name}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, whole = manifest["format"], manifest["digest"] == manifest_sum(manifest)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StudyError(f"{path} is missing, cut short or altered ({error}): {REMEDY}") from None
    if version != FORMAT:
        raise StudyError(f"{path} is of version {version}, and this library reads {FORMAT}: prepare the set again")
    if not whole:
        raise StudyError(f"{path} is altered (its digest is not that of its content): {REMEDY}")
    return manifest


def _moments(folder: Path, wanted: str) -> Moments:
    try:
        if file_sum(folder / MOMENTS) != wanted:
            raise OSError("wrong checksum")
        return Moments(**safetensors.torch.load_file(folder / MOMENTS))
    except (OSError, safetensors.SafetensorError) as error:
        raise StudyError(f"{folder / MOMENTS} is missing, cut short or altered ({error}): {REMEDY}") from None
