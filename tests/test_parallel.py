"""Processes under torchrun train like one, count each image once, outlive a kill, and say once what went wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import DROPOUT, RECIPE
from studies import without_times
from torch import distributed

from alexnet_lib import __main__ as cli
from alexnet_lib import data, files, parallel, records
from alexnet_lib.dataset import Dataset
from alexnet_lib.recipes import StudyError
from alexnet_lib.train import Result, Trainer, train

CPU = torch.device("cpu")
Told = tuple[Path, subprocess.CompletedProcess[str]]
PROCESSES = Path(__file__).with_name("processes.py")


def torchrun(folder: Path, count: int, what: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Start processes with torch's launcher, and return what they said and how they ended."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *options]
    where = {"PYTHONPATH": str(PROCESSES.parents[1]), "ALEXNET_COMMIT": "0" * 40, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(PROCESSES), what],
        cwd=folder,
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        timeout=300,
    )


def kept(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    """Return what a process left."""
    found: dict[str, Any] = torch.load(folder / f"{name}-{rank}.pt")
    return found


@pytest.fixture(scope="module")
def images() -> Dataset:
    return data.load(RECIPE.data)


@pytest.fixture(scope="module")
def alone(images: Dataset) -> Result:
    """The run of one process."""
    return train(RECIPE, images)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes left, one of which was killed in the second epoch of their last run."""
    folder = tmp_path_factory.mktemp("killed")
    ended = torchrun(folder, 3, "killed", "--max-restarts=1")
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What two processes left and said, one of which hung in the end; another training was at ``held.pt``."""
    folder = tmp_path_factory.mktemp("told")
    with files.try_lock(folder / "held.pt.lock"):
        return folder, torchrun(folder, 2, "told")


# --- the same updates, the same errors -----------------------------------------------------------------------


def test_three_processes_end_with_the_weights_of_one(killed: Path, alone: Result, images: Dataset) -> None:
    initial, found = Trainer(RECIPE, images, CPU).model.state_dict(), kept(killed, "plain")["weights"]
    for name, weight in alone.model.state_dict().items():
        moved, apart = (weight - initial[name]).norm(), (weight - found[name]).norm()
        assert apart < 1e-4 * moved, f"{name}: {apart:.2g} apart after moving by {moved:.2g}"


def test_all_processes_hold_the_same_weights(killed: Path) -> None:
    first, *others = (kept(killed, "undisturbed", rank)["weights"] for rank in range(3))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.parametrize("count", [2, 3])
def test_curves_and_scores_are_those_of_one_process(
    count: int, request: pytest.FixtureRequest, alone: Result
) -> None:
    if count == 3:
        found = kept(request.getfixturevalue("killed"), "plain")
    else:
        (found,) = records.read(request.getfixturevalue("told")[0] / "runs")
    wanted = [asdict(epoch) for epoch in alone.history]
    losses = [[epoch["loss"] for epoch in past] for past in (found["history"], wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    without = [[{**e, "loss": 0} for e in without_times(past)] for past in (found["history"], wanted)]
    assert (without[0], found["scores"]) == (without[1], alone.scores)


def test_evaluation_looks_at_each_image_once(killed: Path) -> None:
    assert [kept(killed, "inside", rank)["evaluated"] for rank in range(3)] == [17 + 8, 16 + 8, 16 + 7]


def test_each_process_has_dropout_masks_of_its_own(killed: Path) -> None:
    ours, theirs = (kept(killed, "inside", rank)["dropped"] for rank in (0, 1))
    assert 0.4 < (ours == theirs).double().mean() < 0.6


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 24])
def test_parts_are_consecutive_and_hold_each_row_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(rows)
    monkeypatch.setattr(parallel, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(parallel.shard(whole))
    assert torch.equal(torch.cat(parts), whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


# --- kill and restart ----------------------------------------------------------------------------------------


def test_a_run_goes_on_after_a_kill_and_ends_with_the_same_numbers(killed: Path) -> None:
    disturbed, undisturbed = (kept(killed, name) for name in ("disturbed", "undisturbed"))
    assert all(torch.equal(weight, undisturbed["weights"][name]) for name, weight in disturbed["weights"].items())
    assert without_times(disturbed["history"]) == without_times(undisturbed["history"])
    assert disturbed["scores"] == undisturbed["scores"]


def test_it_does_only_the_epochs_that_the_checkpoint_lacks(killed: Path) -> None:
    assert [kept(killed, "disturbed", rank)["updates"] for rank in range(3)] == [2 * 3] * 3


def test_a_checkpoint_is_not_gone_on_from_by_another_number_of_processes(killed: Path, images: Dataset) -> None:
    with pytest.raises(StudyError, match=r"3 processes, this is .*half of each"):
        Trainer(DROPOUT, images, CPU).load(killed / "run.pt")


# --- one record, each message once, and the cause --------------------------------------------------------------


def test_there_is_one_record_which_names_the_processes(told: Told) -> None:
    (record,) = records.read(told[0] / "runs")
    assert (record["id"], record["provenance"]["split"]) == (RECIPE.id, "2 processes")


def test_each_epoch_is_printed_once(told: Told) -> None:
    assert re.findall(r"epoch +(\d)", told[1].stdout) == ["1", "2"]


def test_all_processes_refuse_a_batch_that_they_can_t_share_and_go_on_together(told: Told) -> None:
    assert [kept(told[0], "codes", rank)["codes"] for rank in range(2)] == [[2, 0, 2, 2]] * 2


@pytest.mark.parametrize(
    "message",
    [
        "recipe field 'batch': 2 processes can't share 25 images evenly",
        "checkpoint held.pt: another training is at it",
        "checkpoint run.pt: some processes of this run find none there",
        "another process of this run has ended, or did not answer for 5 s",
    ],
    ids=["batch", "lock", "checkpoint", "hang"],
)
def test_what_all_have_to_tell_is_told_once(told: Told, message: str) -> None:
    assert told[1].stderr.count(f"error: {message}") == 1, told[1].stderr


def test_a_process_that_hangs_ends_the_run(told: Told) -> None:
    assert told[1].returncode != 0
    assert "Root Cause (first observed failure)" in told[1].stderr


def test_a_process_that_hangs_while_all_join_is_told(launched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise distributed.DistStoreError("wait timeout after 5000ms, keys: name 1")

    monkeypatch.setattr(parallel, "_fresh_store", wait)
    with pytest.raises(StudyError, match=r"another process .* did not answer for"), parallel.process_group("cpu"):
        pass


# --- a launch that can't be ------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes that torchrun started it, as the third of three on its machine."""
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "first_to_tell", lambda message: True)


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pending", "torchrun starts many processes for one training: run 'pending' without it"),
        ("train alexnet32 --devices cpu,cpu", "--devices: name two, one for each tower, without torchrun"),
    ],
)
def test_torchrun_is_refused_where_it_makes_no_sense(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.usefixtures("launched")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(StudyError, match="take --nproc-per-node=2"), parallel.process_group("cuda"):
        pass


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), True),
        (distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
    ids=["gloo", "NCCL", "own"],
)
def test_the_loss_of_a_process_is_told_from_errors_of_one_s_own(error: RuntimeError, lost: bool) -> None:
    assert parallel.is_peer_failure(error) == lost
