"""Runs on a Dask cluster give the records of a serial session, also when a worker is killed in the middle of one."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from studies import TINY, add_experiment, move_in, outcome_of

from alexnet_lib import __main__ as cli
from alexnet_lib import cluster, records, runner
from alexnet_lib.experiments import Arm
from alexnet_lib.recipes import StudyError
from alexnet_lib.runner import Session, Task

pytest.importorskip("distributed")

TESTS = Path(__file__).parent
RECIPE = replace(TINY, epochs=12, target_error=None)
ARM = Arm(name="tiny", recipe=RECIPE, seeds=3, keep=("conv1",))


@dataclass
class Dask:
    """A scheduler, and workers that each have a folder of checkpoints of their own."""

    home: Path
    address: str
    client: Any
    stack: contextlib.ExitStack

    def worker(self, name: str, first: str = "") -> int:
        """Start a worker that does ``first`` before all else; return its process id once the scheduler knows it."""
        before = self.client.scheduler_info()["workers"]
        program = f"{first}\nfrom distributed.cli.dask_worker import main\nmain()"
        flags = ("--nthreads=1", "--no-nanny", "--no-dashboard", f"--local-directory={self.home / 'dask'}")
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program, self.address, *flags],
                env={**os.environ, "PYTHONPATH": path, "ALEXNET_CACHE": str(self.home / name)},
                stdout=log,
                stderr=log,
            )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        self.client.wait_for_workers(len(before) + 1, timeout=60)
        return process.pid

    @property
    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.home.rglob("*.pt"))


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    from distributed import LocalCluster

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("ALEXNET_COMMIT", "0" * 40)
        scheduler = stack.enter_context(LocalCluster(n_workers=0, dashboard_address=None))
        client = stack.enter_context(cluster.connect(scheduler.scheduler_address.replace("tcp", "dask")))
        found = Dask(tmp_path_factory.mktemp("dask"), scheduler.scheduler_address, client, stack)
        for name in ("one", "two"):
            found.worker(name)
        yield found


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    move_in(monkeypatch, tmp_path)
    add_experiment(monkeypatch, [ARM])


@pytest.fixture
def there(dask: Dask, tmp_path: Path) -> Callable[..., list[records.Record]]:
    """Do the runs of the tests' experiment on the cluster, into ``tmp_path / "there"``."""

    def run(tell: Callable[[str], None] = lambda line: None) -> list[records.Record]:
        session = Session(folder=tmp_path / "there", tell=tell)
        return list(cluster.run(["tiny"], "smoke", session, dask.address.replace("tcp", "dask")))

    return run


def test_a_killed_worker_s_run_is_done_again_elsewhere_and_all_records_are_those_of_a_serial_session(
    dask: Dask, there: Callable[..., list[records.Record]], tmp_path: Path
) -> None:
    victim = dask.worker("victim")
    pids = dask.client.run(os.getpid)
    epochs: list[tuple[str, ...]] = []  # label, number and worker

    def tell(line: str) -> None:
        name, _, rest = line.partition("  epoch ")
        epochs.append((name.rstrip(), rest.split()[0], line.split()[-1]))
        if pids[epochs[-1][2]] == victim and epochs[-1][1] == "1":
            os.kill(victim, 9)

    done = there(tell)
    (lost,) = {label for label, _, worker in epochs if pids[worker] == victim}
    assert {worker for label, number, worker in epochs if (label, number) == (lost, "1")} > {
        worker for _, _, worker in epochs if pids[worker] == victim
    }, "it began anew on another worker"
    with ThreadPoolExecutor(1) as executor:
        serial = list(runner.run(["tiny"], "smoke", Session(folder=tmp_path / "here", quiet=True), executor))
    assert sorted(map(outcome_of, done)) == sorted(map(outcome_of, serial))
    assert records.read(tmp_path / "there") == done
    for run in done:
        assert records.kept(run, tmp_path / "there").keys() == {"conv1"}
    lost_run = {run["id"] for run in done if f"seed {run['seed']}" in lost}
    assert dask.checkpoints == [f"{run}.pt" for run in lost_run], "but for the killed worker's, none is left"


def test_the_command_prints_the_epochs_of_all_workers_and_each_record(
    dask: Dask, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    address = dask.address.replace("tcp", "dask")
    assert cli.main(["run", "tiny", "--budget", "9m", "--jobs", "2", "--executor", address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "  epoch " in line]) == ARM.seeds * RECIPE.epochs
    assert [line.split()[1] for line in lines if line.startswith("recorded ")] == [
        run["id"] for run in records.read()
    ]


def test_an_interrupted_session_leaves_no_worker_busy(
    dask: Dask, there: Callable[..., list[records.Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = replace(RECIPE, epochs=10**6)
    add_experiment(monkeypatch, [replace(ARM, recipe=endless)])
    busy, due = set(), time.monotonic()

    def interrupt(line: str) -> None:
        nonlocal due
        busy.add(line.partition("  epoch ")[0])
        if len(busy) > 1 and time.monotonic() > due:  # once the session does nothing but wait
            due = time.monotonic() + 20
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            there(interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    for worker in dask.client.scheduler_info()["workers"]:
        assert dask.client.submit(os.getpid, workers=[worker], pure=False).result(timeout=60)
    assert f"{endless.id}.pt" in dask.checkpoints


def fail_once() -> None:
    """Let the next run of this process fail as a device does."""
    whole = runner.train

    def fail(*_: object, **__: object) -> None:
        runner.train = whole
        raise RuntimeError("of all things")

    runner.train = fail


def test_a_run_that_fails_is_tried_again(
    dask: Dask, there: Callable[..., list[records.Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_experiment(monkeypatch, [replace(ARM, seeds=1)])
    dask.client.run(fail_once)
    assert [run["seed"] for run in there()] == [0]


def test_what_the_reader_must_put_right_is_told_with_the_worker_s_machine(
    there: Callable[..., list[records.Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_experiment(monkeypatch, [replace(ARM, recipe=replace(RECIPE, batch=50))])
    with pytest.raises(StudyError, match=f"{platform.node()}: recipe field 'batch': 50 images"):
        there()


# --- workers that can't do the runs --------------------------------------------------------------------------


def test_a_worker_with_another_version_is_refused_with_both(
    dask: Dask, there: Callable[..., list[records.Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_COMMIT", "1" * 40)
    records.commit.cache_clear()
    with pytest.raises(
        StudyError, match=r"worker tcp://\S+ has alexnet_lib of commit 0{10}, .* here it is commit 1{10},"
    ):
        there()


def test_a_worker_that_joined_later_with_another_version_does_no_run() -> None:
    told = runner.attempt(Task("tiny", "smoke", "tiny", RECIPE, search=False), Session(version="commit 1111111111"))
    assert isinstance(told, StudyError)
    assert re.search(r"has alexnet_lib of commit 0{10}, .* the caller commit 1{10}", str(told))


def test_a_worker_without_the_package_is_refused_before_any_run(
    dask: Dask, there: Callable[..., list[records.Record]]
) -> None:
    pid = dask.worker("bare", first="import sys; sys.modules['alexnet_lib'] = None")
    try:
        with pytest.raises(StudyError, match=r"worker tcp://\S+ can't load alexnet_lib .* here it is commit 0{10}"):
            there(lambda line: pytest.fail("a run has begun"))
    finally:
        os.kill(pid, 9)


def workers(**each: Any) -> Any:
    """Return a client with one worker that is like the others but for ``each``."""
    worker = {"nthreads": 1, "resources": {"GPU": 1}, "version": records.version(), "cuda": True} | each
    return SimpleNamespace(
        scheduler_info=lambda: {"workers": {"tcp://worker": worker}}, run=lambda *_, **__: {"tcp://worker": worker}
    )


@pytest.mark.parametrize(
    ("device", "each", "message"),
    [
        ("cpu", {"nthreads": 4}, r"worker tcp://worker would do several runs in one process: .* --nthreads 1`"),
        ("cuda", {"resources": {"GPU": 2}}, "would do several runs in one process: .* --resources GPU=1`"),
        ("cuda", {"resources": {}}, r"no worker for device cuda: start some with .* --resources GPU=1`"),
        ("cuda", {"cuda": False}, "worker tcp://worker has the resource GPU, but torch finds none there"),
    ],
)
def test_a_worker_that_can_not_do_one_run_at_a_time_is_refused(
    device: str, each: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        cluster.usable(workers(**each), device)


@pytest.mark.parametrize(("device", "resources"), [("cuda", {"GPU": 1}), ("cpu", {"GPU": 1}), ("cpu", {})])
def test_runs_on_gpus_go_to_workers_with_the_resource_others_to_all(device: str, resources: dict[str, int]) -> None:
    assert cluster.usable(workers(resources=resources), device) == ["tcp://worker"]


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["tcp://host:8786", "dask://host", "dask://host:x", "dask://:8786", "host:8786"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(StudyError, match=r"--executor '.*': write dask://HOST:PORT"):
        cluster.connect(address)


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_that_does_not_answer_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if listens:
            mute.listen()
        port = mute.getsockname()[1]
        with pytest.raises(StudyError, match=rf"no Dask scheduler answers at 127.0.0.1:{port} .*start one there"):
            cluster.connect(f"dask://127.0.0.1:{port}")


def test_another_service_at_the_address_is_told_too() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        guests: list[socket.socket] = []

        def greet() -> None:
            with contextlib.suppress(OSError):  # once it is closed
                while True:
                    guests.append(other.accept()[0])
                    guests[-1].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=greet, daemon=True).start()
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match=rf"no Dask scheduler answers at 127.0.0.1:{port} .*correct the address"):
            cluster.connect(f"dask://127.0.0.1:{port}")
    for guest in guests:
        guest.close()


def test_without_dask_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StudyError, match="install the package distributed"):
        cluster.connect("dask://127.0.0.1:8786")
