"""Files that appear whole or not at all, and files that say which process is at work on something."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alexnet_lib.recipes import StudyError

ROOT_VARIABLE = "ALEXNET_DATA"
"""Names the folder of all data sets, the data root."""


@contextlib.contextmanager
def atomic_write(path: Path, remedy: str) -> Iterator[Path]:
    """Give a path to write to; what is there in the end takes the place of ``path``, else nothing is left of it.

    Raises:
        StudyError: something could not be written; ``remedy`` says what to do.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        why = getattr(error, "strerror", None) or error
        raise StudyError(f"{path} was not written ({why}): {remedy}") from error
    finally:  # after Ctrl-C too
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def load_tensors(path: Path) -> Any:
    """Return what ``torch.save`` wrote, tensors on the CPU; nothing in the file is executed.

    Raises:
        zipfile.BadZipFile: a checksum is wrong, at which torch itself does not look.
        OSError, RuntimeError, EOFError, pickle.UnpicklingError: the file is missing, cut short, or holds code.
    """
    import torch  # takes seconds, which commands that compute nothing don't need

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("wrong checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock file as long as the context lasts; False, at once, where another process holds it.

    The system gives the lock back when its process ends, however it ends: nobody needs to remove a lock file.

    Raises:
        StudyError: the file can't be made or locked.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a process that is killed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        pass  # another's: `lock.is_locked` stays False
    except OSError as error:
        raise StudyError(
            f"lock file {path} can't be held ({error}): choose a folder that can be written to"
        ) from error
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is still held: afterwards it could be another's
            lock.release()
