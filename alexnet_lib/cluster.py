"""Runs on the workers of a Dask cluster: checked before they get one, heard while they do it, done again if lost.

Dask finds a free worker for every run, gives what a lost worker had to another, and brings its own deployers for
Slurm, Kubernetes, SSH and clouds; here stands only what the study asks of workers. They need share no file system:
each has its own data (``ALEXNET_DATA``) and checkpoints (``ALEXNET_CACHE``), and sends records back to the caller,
who writes them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from alexnet_lib import records, runner
from alexnet_lib.recipes import StudyError
from alexnet_lib.records import Record
from alexnet_lib.runner import Session

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "alexnet-epochs"
"""Where workers say what they have done, and the caller listens."""
ANSWER = 5.0
"""Seconds in which a scheduler must answer."""
RETRIES = 2
"""Times that a run is done again after an error that the reader can't put right, such as a device's."""


def identity() -> dict[str, Any]:
    """Return what a process trains with: commit and code of the library, and whether torch finds a GPU."""
    return {"version": records.version(), "cuda": torch.cuda.is_available()}


def connect(address: str) -> Client:
    """Return a client of the scheduler at ``dask://HOST:PORT``.

    Raises:
        StudyError: no such address, nothing that answers there, or Dask is not installed.
    """
    try:
        from distributed import Client
    except ImportError:
        raise StudyError("runs on a cluster need Dask: install the package distributed, here and there") from None
    url = urlsplit(address)
    try:
        if url.scheme != "dask" or not url.hostname or not url.port:
            raise ValueError
    except ValueError:  # from url.port, too
        raise StudyError(f"--executor {address!r}: write dask://HOST:PORT, as `dask scheduler` prints them") from None
    try:
        # A client waits for ever for what is no scheduler; a scheduler speaks first.
        with socket.create_connection((url.hostname, url.port), ANSWER) as probe:
            probe.recv(1)
        return Client(f"tcp://{url.netloc}", timeout=ANSWER, set_as_default=False)
    except (OSError, MemoryError) as error:  # Dask takes another service's greeting for a length
        raise StudyError(
            f"no Dask scheduler answers at {url.netloc} ({error}): start one there (`dask scheduler`), or correct "
            "the address"
        ) from error


def usable(client: Client, device: str) -> list[str]:
    """Return the addresses of the workers that runs go to: on GPUs those with the resource ``GPU=1``, else all.

    Raises:
        StudyError: there is none, or one can't do this process's runs; the message names it.
    """
    workers = client.scheduler_info()["workers"]
    if device == "cuda":
        workers = {name: worker for name, worker in workers.items() if "GPU" in worker["resources"]}
    start = "`dask worker ADDRESS --nthreads 1" + (" --resources GPU=1`" if device == "cuda" else "`")
    if not workers:
        raise StudyError(f"the Dask scheduler has no worker for device {device}: start some with {start}")
    for name, worker in workers.items():
        if worker["nthreads"] != 1 or worker["resources"].get("GPU", 1) != 1:
            # Dropout draws from the random numbers of the process.
            raise StudyError(f"worker {name} would do several runs in one process: start it with {start}")
    mine = records.version()
    for name, found in client.run(identity, workers=list(workers), on_error="return").items():
        if isinstance(found, Exception):
            raise StudyError(
                f"worker {name} can't load alexnet_lib ({found}); here it is {mine}: install it there, of this commit"
            )
        if found["version"] != mine:
            raise StudyError(
                f"worker {name} has alexnet_lib of {found['version']}, here it is {mine}: install the same there (a "
                "copy without .git is told its commit by ALEXNET_COMMIT) and start the worker anew"
            )
        if device == "cuda" and not found["cuda"]:
            raise StudyError(f"worker {name} has the resource GPU, but torch finds none there")
    return list(workers)


def tell(line: str) -> None:
    """Send a line of progress to the caller, from within a run.

    Raises:
        OutOfTime: the caller is gone, or wants the run no more.
    """
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(TOPIC, f"{line}  {worker.address}")
    if worker.state.tasks[worker.get_current_task()].state == "cancelled":
        raise runner.OutOfTime


def run(
    experiments: Sequence[str], scale: str, session: Session, address: str, places: int | None = None
) -> Iterator[Record]:
    """Do `runner.run` on the workers of a Dask cluster, ``places`` runs at a time: by default one on each worker.

    A run whose worker is lost begins anew on another, or goes on where they share ``ALEXNET_CACHE``. A search's run
    is abandoned for its rivals only where the workers can read the session's folder of records.

    Raises:
        StudyError: as `connect`, `usable` and `runner.run`, or the cluster was lost.
    """
    client = connect(address)
    from distributed import KilledWorker
    from distributed.client import ClosedClientError

    try:
        workers = usable(client, session.device)
        client.subscribe_topic(TOPIC, lambda event: None if session.quiet else session.tell(event[1]))
        there = replace(session, tell=tell, quiet=False, version=records.version())
        device = {"resources": {"GPU": 1}} if session.device == "cuda" else {}
        executor = client.get_executor(pure=False, retries=RETRIES, **device)
        try:
            for record in runner.run(experiments, scale, there, executor, places or len(workers)):
                with contextlib.suppress(OSError):  # of a worker that is lost
                    client.run(session.discard, record["id"], on_error="ignore")
                yield record
        finally:
            if client.status == "running":
                executor.shutdown(wait=False)  # what is still in flight stops at its next epoch
    except KilledWorker as error:
        raise StudyError(f"{error} Was it memory? Finished runs are recorded.") from error
    except (concurrent.futures.CancelledError, ClosedClientError) as error:
        raise StudyError(
            f"the Dask scheduler at {address} was lost: finished runs are recorded, and the same command goes on"
        ) from error
    finally:
        client.close()
