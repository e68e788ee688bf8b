"""A record is written whole or not at all, read back as it was, and says where its numbers come from."""

from __future__ import annotations

import copy
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alexnet_lib import machine, records
from alexnet_lib.dataset import Dataset
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.records import Record
from alexnet_lib.train import Epoch, Result

EPOCH = Epoch(epoch=0, loss=2.3, train_error=0.9, train_error_after=0.85, test_error=0.875, rate=0.01, seconds=1.5)
BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ended(recipe: Recipe) -> Result:
    """A run of two epochs, as if it had been trained."""
    return Result(
        recipe=recipe,
        device=torch.device("cpu"),
        model=nn.Sequential(),
        origins=["abc", "def"],
        machines=["cpu; one", "cpu; two"],
        history=[EPOCH, replace(EPOCH, epoch=1, loss=0.1 + 0.2)],
        outcome="completed",
        scores={"test_error": 0.875},
        cost={"train_seconds": 3.0, "evaluate_seconds": 1.0},
    )


@pytest.fixture
def record(small: Dataset) -> Record:
    recipe = Recipe(data=small.name, rate=0.01, seed=3)
    return records.make(ended(recipe), small, experiment="trial", arm="relu", scale="smoke", begun=BEGUN)


def another(record: Record, **changes: object) -> Record:
    """The record of a run that differs in some fields of its recipe."""
    recipe = Recipe.parse({**record["recipe"], **changes})
    return {**copy.deepcopy(record), "id": recipe.id, "seed": recipe.seed, "recipe": recipe.resolved()}


def written(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def line(record: Record) -> bytes:
    return json.dumps(record).encode()


# --- one line a run ----------------------------------------------------------------------------------------------


def test_a_record_is_one_line(record: Record) -> None:
    path = records.append(record)
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


def test_a_record_is_read_back_as_it_was(record: Record) -> None:
    records.append(record)
    assert records.read() == [record]


def test_an_experiment_has_a_file_of_its_own_in_the_folder_of_the_variable(record: Record, tmp_path: Path) -> None:
    assert records.append(record) == tmp_path / "runs" / "trial.jsonl"


def test_a_folder_that_is_named_comes_before_the_variable(record: Record, tmp_path: Path) -> None:
    assert records.append(record, tmp_path / "mine") == tmp_path / "mine" / "trial.jsonl"


def test_without_the_variable_records_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_RUNS")
    assert records.runs_folder() == records.PROJECT / "data" / "runs"


def test_records_are_read_in_the_order_they_were_written(record: Record) -> None:
    runs = [another(record, seed=seed) for seed in (5, 1, 3)]
    for run in runs:
        records.append(run)
    assert records.read() == runs


def test_a_new_record_leaves_the_old_ones_byte_for_byte(record: Record) -> None:
    before = records.append(record).read_bytes()
    assert records.append(another(record, seed=4)).read_bytes().startswith(before)


def test_records_of_one_experiment_can_be_read_alone(record: Record) -> None:
    records.append(record)
    records.append({**another(record, seed=4), "experiment": "other"})
    assert [run["experiment"] for run in records.read(experiment="other")] == ["other"]


def test_records_of_one_scale_can_be_read_alone(record: Record) -> None:
    records.append(record)
    records.append({**another(record, seed=4), "scale": "gpu"})
    assert [run["scale"] for run in records.read(scale="gpu")] == ["gpu"]


def test_no_folder_of_records_means_no_records() -> None:
    assert records.read() == []


def test_of_two_records_of_one_run_the_first_counts(record: Record) -> None:
    records.append(record)
    records.append({**record, "outcome": "abandoned: later"})
    assert [run["outcome"] for run in records.read()] == ["completed"]


def test_a_record_has_the_keys_of_its_schema(record: Record) -> None:
    assert list(record) == list(records.KEYS)


def test_a_record_keeps_every_digit(record: Record) -> None:
    records.append(record)
    assert records.read()[0]["history"][1]["loss"] == 0.1 + 0.2


def test_a_record_names_its_data_their_hash_and_their_numbers(record: Record, small: Dataset) -> None:
    assert record["data"] == {"name": small.name, "digest": small.digest, "train": 64, "test": 32}


def test_a_record_from_before_images_were_counted_is_read(record: Record) -> None:
    old = {**record, "data": {"name": "small", "digest": "0" * 64}}
    records.append(old)
    assert records.read() == [old]


def test_a_record_whose_numbers_are_not_finite_is_refused(record: Record) -> None:
    record["scores"]["test_error"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        records.append(record)


# --- a disk that is full -----------------------------------------------------------------------------------------


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_record_that_finds_no_space_is_an_error_that_says_what_to_do(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError, match=r"trial\.jsonl.*No space left.*free some space and run again"):
        records.append(record)


def test_a_record_that_finds_no_space_leaves_the_file_byte_for_byte(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = records.append(record)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StudyError):
        records.append(another(record, seed=4))
    assert path.read_bytes() == before


@pytest.mark.parametrize("room", [0, 1, 1000, 4096, 6000, 8192, 9000])
def test_a_disk_that_fills_within_a_line_leaves_the_file_byte_for_byte(
    record: Record, largest_file: Callable[[int], AbstractContextManager[None]], room: int
) -> None:
    path = records.append(record)
    before = path.read_bytes()
    long = another(record, seed=4)
    long["history"] = long["history"] * 40
    assert len(line(long)) > 9000
    with largest_file(len(before) + room), pytest.raises(StudyError):
        records.append(long)
    assert path.read_bytes() == before


def test_once_there_is_space_again_the_record_is_written(
    record: Record, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    records.append(record)
    with largest_file(10), pytest.raises(StudyError):
        records.append(another(record, seed=4))
    records.append(another(record, seed=4))
    assert [run["seed"] for run in records.read()] == [3, 4]


def test_a_folder_that_is_a_file_is_an_error_that_names_it(record: Record, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/trial\.jsonl"):
        records.append(record, tmp_path / "file")


# --- damaged lines -----------------------------------------------------------------------------------------------

DAMAGED = {
    "cut short": lambda record: line(record)[:200],
    "not text": lambda record: b"\xff\xfe\x00\x01",
    "empty": lambda record: b"",
    "another value": lambda record: b"[1, 2]",
    "another schema": lambda record: line({**record, "schema": 99}),
    "a key is missing": lambda record: line({k: v for k, v in record.items() if k != "scores"}),
    "a recipe with an unknown field": lambda record: line({**record, "recipe": {"colour": 1}}),
    "a recipe that is a list": lambda record: line({**record, "recipe": []}),
    "an epoch without its numbers": lambda record: line({**record, "history": [{}]}),
    "an epoch that is a number": lambda record: line({**record, "history": [1]}),
    "no commit": lambda record: line({**record, "provenance": {}}),
    "no cost": lambda record: line({**record, "cost": {}}),
    "no recipe": lambda record: line({**record, "recipe": None}),
    "an experiment that is a list": lambda record: line({**record, "experiment": ["trial"]}),
    "an id that is not its recipe's": lambda record: line({**record, "id": "0" * 16}),
    "an edited recipe": lambda record: line({**record, "recipe": {**record["recipe"], "rate": 0.02}}),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_named_with_file_and_line(
    record: Record, tmp_path: Path, damage: Callable[[Record], bytes]
) -> None:
    written(tmp_path / "runs" / "trial.jsonl", line(record), damage(another(record, seed=4)))
    with pytest.warns(UserWarning, match=r"trial\.jsonl, line 2: passed over: "):
        records.read()


def test_a_records_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "trial.jsonl").mkdir()
    with pytest.raises(StudyError, match=r"records .*trial\.jsonl can't be read \(Is a directory\): set its"):
        records.read(tmp_path)


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_passed_over_alone(
    record: Record, tmp_path: Path, damage: Callable[[Record], bytes]
) -> None:
    runs = [another(record, seed=seed) for seed in (1, 2, 3)]
    written(tmp_path / "runs" / "trial.jsonl", line(runs[0]), damage(runs[1]), line(runs[2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert records.read() == [runs[0], runs[2]]


def test_an_id_that_is_not_its_recipes_is_told_the_one_that_is(record: Record, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "trial.jsonl", line({**record, "id": "0" * 16}))
    with pytest.warns(UserWarning, match=f"id 0000000000000000 is not its recipe's .{record['id']}."):
        records.read()


def test_a_line_that_lacks_keys_is_told_which(record: Record, tmp_path: Path) -> None:
    written(tmp_path / "runs" / "trial.jsonl", line({"schema": records.SCHEMA, "id": record["id"]}))
    with pytest.warns(UserWarning, match="lacks experiment, arm, scale"):
        records.read()


@pytest.mark.parametrize("key", ["provenance", "data", "scores", "cost", "outcome"])
def test_a_field_of_another_kind_is_told(record: Record, tmp_path: Path, key: str) -> None:
    written(tmp_path / "runs" / "trial.jsonl", line({**record, key: None}))
    with pytest.warns(UserWarning, match=f"{key} is no "):
        assert records.read() == []


def test_reading_leaves_a_damaged_file_as_it_is(record: Record, tmp_path: Path) -> None:
    path = written(tmp_path / "runs" / "trial.jsonl", line(record), b"{")
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="passed over"):
        records.read()
    assert path.read_bytes() == before


def test_a_record_after_a_line_that_a_power_cut_left_unended_is_not_lost(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "trial.jsonl"
    path.parent.mkdir()
    path.write_bytes(line(another(record, seed=1))[:300])
    records.append(record)
    with pytest.warns(UserWarning, match="line 1: passed over"):
        assert records.read() == [record]


# --- several runs that end together ------------------------------------------------------------------------------


def _append_many(record: Record, folder: Path, seeds: range) -> None:
    for seed in seeds:
        records.append(another(record, seed=seed), folder)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_records_of_two_processes_do_not_mix(record: Record, tmp_path: Path) -> None:
    long = {**record, "history": record["history"] * 100}
    context = multiprocessing.get_context("fork")  # the others would import torch again
    processes = [
        context.Process(target=_append_many, args=(long, tmp_path, range(start, start + 20))) for start in (0, 20)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(run["seed"] for run in records.read(tmp_path)) == list(range(40))


def test_a_record_is_written_while_no_other_process_may(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    path = records.append(record)
    refused = []

    def meanwhile(descriptor: int) -> None:
        with path.open("ab") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(True)

    monkeypatch.setattr(os, "fsync", meanwhile)
    records.append(another(record, seed=4))
    assert refused == [True]


def test_the_file_is_free_again_afterwards(record: Record) -> None:
    with records.append(record).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_record_is_on_the_disk_before_append_returns(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    path = records.append(record)
    assert sizes == [path.stat().st_size]


# --- what is kept of a network -----------------------------------------------------------------------------------

KERNELS = {"conv1": torch.arange(96.0).view(2, 3, 4, 4), "probabilities": torch.full((5, 10), 0.1).half()}
PACKED, SUM = records.pack(KERNELS)
OTHER, _ = records.pack({"conv1": KERNELS["conv1"] + 1})


@pytest.fixture
def keeping(record: Record) -> Record:
    """A record whose tensors are kept."""
    records.keep(record["id"], PACKED)
    return {**record, "kept": SUM}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_kept_tensors_are_read_back_as_they_were(keeping: Record) -> None:
    assert same(records.kept(keeping), KERNELS)


def test_kept_tensors_lie_beside_the_records_in_a_file_of_the_run_s_name(keeping: Record, tmp_path: Path) -> None:
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")] == [
        f"runs/filters/{keeping['id']}.safetensors"
    ]


@pytest.mark.parametrize("name", ["data/runs", "{}/data/runs"])
def test_kept_tensors_of_published_runs_lie_beside_their_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "data" / "runs")
    records.keep("0" * 16, PACKED, Path(name.format(tmp_path)))
    assert (tmp_path / "data" / "filters" / f"{'0' * 16}.safetensors").exists()


def test_a_run_that_another_experiment_has_recorded_leaves_its_tensors_and_its_record_alone(keeping: Record) -> None:
    path = records.append(keeping)
    assert records.append({**keeping, "experiment": "other", "kept": "1" * 64}, content=OTHER) == path
    assert records.read() == [keeping]
    assert [file.name for file in path.parent.glob("*.jsonl")] == [path.name]
    assert same(records.kept(keeping), KERNELS)


def test_packing_tells_the_sum_of_the_file(keeping: Record) -> None:
    assert keeping["kept"] == hashlib.sha256(records.kept_file(keeping["id"]).read_bytes()).hexdigest()


def test_a_record_with_kept_tensors_is_read_back_as_it_was(keeping: Record) -> None:
    records.append(keeping)
    assert records.read() == [keeping]


def test_kept_tensors_that_are_missing_are_an_error_that_names_file_and_run(keeping: Record) -> None:
    path = records.kept_file(keeping["id"])
    path.unlink()
    with pytest.raises(StudyError, match=f"run {keeping['id']} kept its tensors in {path}"):
        records.kept(keeping)


@pytest.mark.parametrize("place", [0, 10, -1])
def test_kept_tensors_with_an_altered_byte_are_refused(keeping: Record, place: int) -> None:
    path = records.kept_file(keeping["id"])
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(StudyError, match=f"{path.name} is not what run {keeping['id']} wrote"):
        records.kept(keeping)


def test_the_whole_file_of_another_run_is_refused(keeping: Record) -> None:
    records.keep(keeping["id"], OTHER)
    with pytest.raises(StudyError, match="is not what run"):
        records.kept(keeping)


def test_a_record_that_keeps_nothing_is_refused_whatever_file_is_there(keeping: Record) -> None:
    del keeping["kept"]
    with pytest.raises(StudyError):
        records.kept(keeping)


@pytest.mark.parametrize("room", [0, 1, 100, 400])
def test_a_disk_that_fills_leaves_nothing_of_the_kept_tensors(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]], room: int
) -> None:
    with largest_file(room), pytest.raises(StudyError, match=r"safetensors was not written .*free some space"):
        records.keep("0" * 16, PACKED)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_disk_that_fills_leaves_an_older_file_as_it_was(
    keeping: Record, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with largest_file(100), pytest.raises(StudyError):
        records.keep(keeping["id"], OTHER)
    assert same(records.kept(keeping), KERNELS)


# --- provenance --------------------------------------------------------------------------------------------------


def test_provenance_says_what_a_stranger_needs(record: Record) -> None:
    assert record["provenance"].keys() >= {
        "commit", "dirty", "torch", "cuda", "python", "platform", "device", "cpu", "cpu_capability", "threads",
        "begun", "ended",
    }  # fmt: skip


def test_provenance_has_torchs_version(record: Record) -> None:
    assert record["provenance"]["torch"] == torch.__version__


def test_provenance_has_the_number_of_threads(record: Record) -> None:
    assert record["provenance"]["threads"] == 1


def test_provenance_has_the_kind_of_cpu(record: Record) -> None:
    assert record["provenance"]["cpu"] == machine.cpu_model() != ""


def test_provenance_has_the_beginning_in_utc(record: Record) -> None:
    assert record["provenance"]["begun"] == "2026-01-02T03:04:05+00:00"


def test_provenance_has_all_commits_of_a_resumed_run(record: Record) -> None:
    assert record["provenance"]["commits"] == ["abc", "def"]


def test_provenance_has_all_machines_of_a_resumed_run(record: Record) -> None:
    assert record["provenance"]["machines"] == ["cpu; one", "cpu; two"]


def test_a_run_on_a_cpu_has_no_cuda_version(record: Record) -> None:
    assert (record["provenance"]["device"], record["provenance"]["cuda"]) == ("cpu", None)


def test_a_commit_is_handed_over_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_COMMIT", "abc123")
    assert records.commit() == {"commit": "abc123", "dirty": None}


def test_code_without_a_history_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.commit() == {"commit": None, "dirty": None}


def test_a_copy_inside_another_repository_does_not_take_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(records, "PROJECT", tmp_path / "site-packages")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: pytest.fail("git was asked"))
    assert records.commit() == {"commit": None, "dirty": None}


def test_a_machine_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.commit() == {"commit": None, "dirty": None}


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one commit."""
    folder = tmp_path / "project"
    (folder / "data" / "runs").mkdir(parents=True)
    (folder / "alexnet_lib").mkdir()
    (folder / "alexnet_lib" / "code.py").write_text("a = 1\n")
    (folder / "data" / "runs" / "trial.jsonl").write_text("{}\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(records, "PROJECT", folder)
    return folder


@needs_git
def test_the_commit_is_the_projects(project: Path) -> None:
    assert records.commit() == {"commit": git(project, "rev-parse", "HEAD"), "dirty": False}


@needs_git
@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_a_changed_or_new_file_makes_the_tree_dirty(project: Path, name: str) -> None:
    (project / "alexnet_lib" / name).write_text("a = 2\n")
    assert records.commit()["dirty"] is True


@needs_git
def test_the_origin_of_a_part_of_a_run_says_whether_the_code_was_changed(project: Path) -> None:
    assert records.origin() == git(project, "rev-parse", "HEAD")
    (project / "alexnet_lib" / "new.py").touch()
    records.commit.cache_clear()
    assert records.origin() == f"{git(project, 'rev-parse', 'HEAD')}, changed"


@needs_git
def test_prose_does_not_make_the_tree_dirty(project: Path) -> None:
    (project / "README.md").write_text("a\n")
    assert records.commit()["dirty"] is False


@needs_git
def test_a_commit_made_while_a_process_trains_is_not_the_one_it_runs(project: Path) -> None:
    first = records.commit()
    git(project, "commit", "--quiet", "--allow-empty", "--message", "second")
    assert records.commit() == first


@needs_git
def test_new_records_do_not_make_the_tree_dirty(project: Path) -> None:
    (project / "data" / "runs" / "trial.jsonl").write_text("{}\n{}\n")
    assert records.commit()["dirty"] is False


# --- finding one -------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_the_beginning_of_its_id(record: Record) -> None:
    records.append(record)
    records.append(another(record, seed=4))
    assert records.find(record["id"][:8]) == record


def test_a_run_in_two_experiments_is_found(record: Record) -> None:
    records.append(record)
    records.append({**record, "experiment": "other"})
    assert records.find(record["id"])["id"] == record["id"]


def test_a_beginning_of_several_ids_is_answered_with_them(record: Record) -> None:
    runs = [record, another(record, seed=4)]
    for run in runs:
        records.append(run)
    with pytest.raises(StudyError, match="2 runs") as error:
        records.find("")
    assert all(run["id"] in str(error.value) for run in runs)


def test_a_run_that_is_not_there_is_an_error_that_names_the_folder(record: Record, tmp_path: Path) -> None:
    records.append(record)
    with pytest.raises(StudyError, match=f"0 runs in {tmp_path / 'runs'} .*'zzzz'"):
        records.find("zzzz")


# --- the published records -----------------------------------------------------------------------------------


@needs_git
def test_every_published_record_names_a_clean_commit_of_the_history() -> None:
    project = Path(__file__).parents[1]
    try:
        if git(project, "rev-parse", "--is-shallow-repository") == "true":
            pytest.skip("a shallow clone holds no history")
        commits = set(git(project, "rev-list", "HEAD").split())
    except subprocess.CalledProcessError:
        pytest.skip("the project lies outside version control here")
    origins = [run["provenance"] for run in records.read(records.PUBLISHED)]
    assert origins
    assert [origin for origin in origins if origin["commit"] not in commits or origin["dirty"]] == []
    assert {part for origin in origins for part in origin.get("commits", [])} <= commits
