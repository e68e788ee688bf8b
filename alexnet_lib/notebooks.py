"""Notebooks from outside: papermill behind a check of the parameters' names."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from alexnet_lib.files import ROOT_VARIABLE, atomic_write
from alexnet_lib.recipes import StudyError, unknown

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
FOLDERS = (ROOT_VARIABLE, "ALEXNET_RUNS", "ALEXNET_CACHE")
"""Variables that name folders."""


def find(name: str) -> Path:
    """Return the notebook called ``name``, with or without its number and ending.

    Raises:
        StudyError: there is none.
    """
    paths = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    short = {stem.split("_", 1)[1]: path for stem, path in paths.items() if stem[:2].isdigit()}
    stem = Path(name).stem
    if stem not in paths | short:
        raise unknown("notebook", stem, paths)
    return (short | paths)[stem]


def execute(notebook: Path, output: Path, parameters: Mapping[str, object]) -> float:
    """Execute a notebook with papermill, write the result to ``output``, and return the seconds it took.

    papermill itself only warns about a parameter that the notebook doesn't have, and runs with the default.

    Raises:
        StudyError: the notebook has no such parameter, its process was killed, or a cell failed: the output then
            holds the traceback.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of notebook {notebook.stem!r}:", name, known)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"folder {output.parent} can't be made ({error.strerror}): choose another (--out)"
        ) from error
    # The notebook runs in its own folder, where a relative path would name another place.
    places = {name: str(Path(os.environ[name]).expanduser().absolute()) for name in FOLDERS if os.environ.get(name)}
    begin = time.perf_counter()
    try:
        with mock.patch.dict(os.environ, places):
            papermill.execute_notebook(
                str(notebook),
                str(output),
                dict(parameters),
                cwd=str(notebook.parent),
                progress_bar=False,
                extra_arguments=["--log-level=ERROR"],  # else each kernel warns that it talks unencrypted
            )
    except papermill.PapermillExecutionError as error:
        raise StudyError(
            f"notebook {notebook.stem}, cell {error.exec_count}: {error.ename}: {error.evalue} "
            f"(whole traceback in {output})"
        ) from error
    except DeadKernelError as error:
        raise StudyError(
            f"notebook {notebook.stem}: its process was killed, for want of memory perhaps: close other programs and "
            "execute it again; finished runs are recorded"
        ) from error
    return time.perf_counter() - begin


def publish(notebook: Path, output: Path) -> float:
    """Execute a notebook with its defaults and keep the result in its place; return the seconds it took.

    The same records give the same file: what papermill notes about time and machine is dropped, and no data set is to
    be found, so that none of its pictures gets into the repository.

    Raises:
        StudyError: a cell failed; the notebook is then as it was.
    """
    import nbformat

    with tempfile.TemporaryDirectory() as nothing, mock.patch.dict(os.environ, {ROOT_VARIABLE: nothing}):
        os.environ.pop("ALEXNET_RUNS", None)  # the published records, whichever others the shell names
        seconds = execute(notebook, output, {})
    executed = nbformat.read(output, as_version=4)  # type: ignore[no-untyped-call]
    for part in (executed, *executed.cells):
        for key in ("papermill", "execution", "widgets"):
            part.metadata.pop(key, None)
    with atomic_write(notebook, "free some space") as partial:
        nbformat.write(executed, partial)  # type: ignore[no-untyped-call]
    return seconds
