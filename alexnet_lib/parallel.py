"""One run in several processes: ``torchrun`` starts them, each takes its part of every batch and every evaluation.

Launcher, rendezvous, restarts, the exchange of gradients: all torch's own (NCCL between GPUs, gloo between CPUs).
Without ``torchrun`` everything here leaves what it is given as it is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from alexnet_lib.recipes import StudyError
from alexnet_lib.store import Jpegs

Rows = TypeVar("Rows", Tensor, Jpegs, Tensor | Jpegs)
LOADING = timedelta(minutes=30)
"""How long processes wait for the one that is the last to have its data."""
ANSWER = timedelta(seconds=45)
"""How long they wait for each other from then on: a process that hangs ends the run within a minute."""


def launched() -> bool:
    """Return whether ``torchrun`` started this process."""
    return distributed.is_torchelastic_launched()


def world() -> int:
    """Return the number of the run's processes."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def rank() -> int:
    """Return this process's number among them; number 0 prints and writes."""
    return int(os.environ["RANK"]) if launched() else 0


@functools.cache
def _store() -> Store:
    """Return what all processes read and write; ``torchrun`` keeps it, from one restart to the next."""
    store, *_ = next(rendezvous("env://", timeout=LOADING))
    return store  # type: ignore[no-any-return]


def _fresh_store() -> Store:
    """Wait for all processes, and return a part of the store that only they have used.

    After a restart the store still holds the addresses of processes that are gone, and torch would take them for
    those of now (pytorch issue 135712). So each gives itself a new name, and they have met where all found the same
    names: a name that is gone answers no more.
    """
    _store().set(f"name {rank()}", uuid.uuid4().hex)
    everyone = range(world())
    while True:
        names = _store().multi_get([f"name {number}" for number in everyone])
        meeting = hashlib.sha256(b"".join(names)).hexdigest()
        _store().set(f"{meeting} {rank()}", "")
        if _store().check([f"{meeting} {number}" for number in everyone]):
            return PrefixStore(meeting, _store())
        time.sleep(0.1)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the run's processes, each with the GPU of its number where ``device`` is ``cuda``; alone, do nothing.

    Everything that may take one process longer than another, as loading data does, comes before. After an error
    nothing is taken apart: the process ends, and ``torchrun`` ends the others.

    Raises:
        StudyError: more processes on this machine than GPUs, or another process is gone.
    """
    try:
        if launched():
            if device == "cuda":
                gpu, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
                if gpu >= gpus:
                    raise StudyError(f"torchrun: more processes than GPUs on a machine: take --nproc-per-node={gpus}")
                torch.cuda.set_device(gpu)
            distributed.init_process_group(store=_fresh_store(), rank=rank(), world_size=world(), timeout=ANSWER)
        yield
    except RuntimeError as error:
        if not is_peer_failure(error):
            raise
        raise StudyError(
            f"another process of this run has ended, or did not answer for {ANSWER.seconds} s: torchrun says at its "
            "end which was the first to fail, and that one says above why"
        ) from error
    if launched():
        distributed.destroy_process_group()


def is_peer_failure(error: RuntimeError) -> bool:
    """Return whether an exchange failed because another process was not there for it."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Return ``model`` so that its gradients are the mean of all processes'."""
    if world() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def shard(rows: Rows) -> Rows:
    """Return this process's share of rows that all have; shares differ by one row at most, and may be empty."""
    each, more = divmod(len(rows), world())
    start = rank() * each + min(rank(), more)
    return rows[start : start + each + (rank() < more)]


def gather(mine: Tensor, count: int) -> Tensor:
    """Return all ``count`` rows from what each process computed for its `shard` of them, on all processes."""
    if world() == 1:
        return mine
    rows = mine.new_zeros((count, *mine.shape[1:]))
    shard(rows).copy_(mine)
    return all_reduce_sum(rows)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of the processes' ``values``, on all processes."""
    if world() > 1:
        distributed.all_reduce(values)
    return values


def first_to_tell(message: str) -> bool:
    """Return whether no other process has told ``message``: what all have to tell is printed once."""
    return _store().add(message, 1) == 1
