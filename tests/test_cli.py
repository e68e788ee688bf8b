"""The command line: examples, the nearest name for every misspelt one, exit codes 0, 1 and 2."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from studies import ARMS, add_experiment, ended, falling, figure1, keep, move_in, pretend, record, write

from alexnet_lib import __main__ as cli
from alexnet_lib import bench, claims, data, experiments, files, notebooks, records, runner
from alexnet_lib.dataset import Dataset
from alexnet_lib.recipes import Recipe
from alexnet_lib.records import Record
from alexnet_lib.train import train

RELU = ARMS[0]
FAST = "--set inputs=unit init=variance rate=0.05 decay=0 batch=24 epochs=2"


class Told:
    """What a command said, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Tell = Callable[[str], Told]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Give a command and return what it said."""

    def call(line: str) -> Told:
        try:
            code = cli.main(shlex.split(line))
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Told(code, said.out, said.err)

    return call


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add an experiment of pretended runs; return the folder of the records."""
    move_in(monkeypatch, tmp_path)
    add_experiment(monkeypatch)
    monkeypatch.setattr(runner, "workers", lambda device, jobs: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(runner, "train", pretend(lambda r: falling({0.01: 3.0}.get(r.rate, 4.0))))
    return tmp_path / "runs"


# --- help ---------------------------------------------------------------------------------------------------


def test_the_study_has_its_commands() -> None:
    assert set(cli.COMMANDS) >= {
        "train",
        "evaluate",
        "run",
        "pending",
        "publish",
        "verify",
        "data",
        "claims",
        "bench",
        "notebook",
    }


def test_help_lists_every_command(tell: Tell) -> None:
    told = tell("--help")
    assert told.code == 0
    assert all(re.search(rf"^\s+{name}\s", told.out, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_s_help_ends_with_an_example_that_parses(tell: Tell, command: str) -> None:
    told = tell(f"{command} --help")
    (example,) = re.findall(r"^example:\n  python -m alexnet_lib (.+)\Z", told.out.rstrip(), re.MULTILINE)
    assert told.code == 0
    assert cli._parser().parse_args(shlex.split(example)).name == command


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_says_what_it_is(command: str) -> None:
    subcommands = cli._parser()._subparsers
    assert subcommands
    part = subcommands._group_actions[0].choices[command]  # type: ignore[index,call-overload]
    assert [action.dest for action in part._actions if not action.help] == []


# --- what is unknown ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("study", "recipe")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian cifar-19pct", "unknown command 'trian': did you mean 'train'?"),
        ("run tinny", "unknown experiment 'tinny': did you mean 'tiny'?"),
        ("pending tinny", "unknown experiment 'tinny': did you mean 'tiny'?"),
        ("run tiny --scale smokee", "unknown scale 'smokee': did you mean 'smoke'?"),
        ("pending --scale lapttop", "unknown scale 'lapttop': did you mean 'laptop'?"),
        ("claims --scale lapttop", "unknown scale 'lapttop': did you mean 'laptop'?"),
        (
            f"train cifar-19pc --data synthetic {FAST}",
            "unknown net 'cifar-19pc': did you mean 'cifar-19pct'?",
        ),
        ("train tiny --data synthetik", "unknown data set 'synthetik': did you mean 'synthetic'?"),
        ("data synthetik", "unknown data set 'synthetik': did you mean 'synthetic'?"),
        ("train tiny --set raet=0.1", "unknown recipe field 'raet': did you mean 'rate'?"),
        (
            "train tiny --set init=varianse",
            "unknown value of recipe field 'init' 'varianse': did you mean 'variance'?",
        ),
        ("train tiny --data synthetic --device cdua", "unknown device 'cdua': did you mean 'cuda'?"),
        ("run tiny --device cdua", "unknown device 'cdua': did you mean 'cuda'?"),
        ("notebook 01_relu_vs_tahn", "unknown notebook '01_relu_vs_tahn': did you mean '01_relu_vs_tanh'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tell: Tell, line: str, message: str) -> None:
    told = tell(line)
    assert (told.code, told.err.count("\n")) == (2, 2 if "command" in message else 1)
    assert told.err.startswith(f"error: {message}")


@pytest.mark.usefixtures("study", "recipe")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train tiny --set rate=0", "recipe field 'rate': 0.0 must be above 0"),
        ("train tiny --set rate=-0.1", "recipe field 'rate': -0.1 must be above 0"),
        ("train tiny --set rate=fast", "recipe field 'rate': expected float, got str 'fast'"),
        ("train tiny --set rate=1e-3", "recipe field 'rate': expected float, got str '1e-3' (YAML"),
        ("train tiny --set rate", "--set 'rate': write FIELD=VALUE"),
        ("train tiny --set net=cifar-19pct", "--set net=...: the network is named before the options"),
        ("train tiny --edition paper", "--edition paper: of alexnet alone, not of 'tiny'"),
        ("data check zoo --download", "--download: data check takes what lies under the data root"),
        ("bench --source pictures", "write: bench --input NAME --source FOLDER"),
        ("train tiny --set rate=", "recipe field 'rate': expected float, got NoneType"),
        ("train alexnet --set epochs=1e2", "recipe field 'epochs': expected int, got str '1e2'"),
        ("train tiny --data synthetic:train=8", "recipe field 'batch': 128 images, but synthetic"),
        ("run tiny --budget soon", "--budget 'soon': write a number and s, m or h"),
        ("run tiny --executor local", "--executor 'local': write dask://HOST:PORT"),
        ("verify 0123", "0 runs in "),
        ("data cifar10", "CIFAR-10 is not under the data root"),
    ],
)
def test_a_value_that_can_not_be_is_named_with_what_to_do(tell: Tell, line: str, message: str) -> None:
    told = tell(line)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert told.err.startswith(f"error: {message}")


def test_a_value_that_is_no_yaml_is_named(tell: Tell) -> None:
    told = tell("train tiny --set cuts=[1")
    assert (told.code, told.err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("jobs", [0, -1])
def test_a_number_of_jobs_below_one_is_refused(tell: Tell, jobs: int) -> None:
    assert tell(f"run tiny --jobs {jobs}").code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_said_to_be_missing(tell: Tell) -> None:
    told = tell("run relu_vs_tanh --device cuda")
    assert (told.code, told.err) == (2, "error: device 'cuda': torch finds no GPU here: take --device cpu\n")


def test_fields_may_be_set_one_by_one(tell: Tell) -> None:
    told = tell("train tiny --data synthetic:train=64,test=32 --set epochs=1 batch=32 --set rate=-1")
    assert "recipe field 'rate'" in told.err
    told = tell("train tiny --data synthetic:train=64,test=32 --set epochs=0 --set rate=0.1")
    assert "recipe field 'epochs'" in told.err


@pytest.mark.parametrize("line", ["", "train", "verify", "run --epochs 3"])
def test_a_line_that_lacks_or_adds_something_is_answered_with_the_usage(tell: Tell, line: str) -> None:
    told = tell(line)
    assert told.code == 2
    assert "usage: python -m alexnet_lib" in told.err


# --- train --------------------------------------------------------------------------------------------------


def test_training_prints_a_line_of_one_width_for_each_epoch(tell: Tell, recipe: Recipe) -> None:
    told = tell(f"train tiny --data {recipe.data} {FAST}")
    *epochs, end = told.out.splitlines()
    assert [re.findall(r"epoch +(\d+)", line) for line in epochs] == [["1"], ["2"]]
    assert len({len(line) for line in epochs}) == 1
    assert end.startswith("completed; ")
    assert told.code == 0


def test_without_a_terminal_there_is_no_bar(tell: Tell, recipe: Recipe) -> None:
    told = tell(f"train tiny --data {recipe.data} {FAST}")
    assert (told.err, "\r" in told.out) == ("", False)


def test_the_command_trains_what_the_library_trains(tell: Tell, recipe: Recipe, small: Dataset) -> None:
    fields = {"inputs": "unit", "init": "variance", "rate": 0.05, "decay": 0.0, "batch": 24, "epochs": 2}
    result = train(Recipe(net="tiny", data=recipe.data, **fields), small)  # type: ignore[arg-type]
    told = tell(f"train tiny --data {recipe.data} {FAST}")
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.scores.items())
    assert told.out.splitlines()[-1] == f"completed; {scores}"


def test_training_leaves_a_record_where_one_is_asked_for(tell: Tell, recipe: Recipe, tmp_path: Path) -> None:
    told = tell(f"train tiny --data {recipe.data} --out {tmp_path / 'mine'} --scale-rate linear {FAST}")
    (run,) = records.read(tmp_path / "mine")
    assert told.out.endswith(f"recorded {run['id']}: {tmp_path / 'mine' / 'train.jsonl'}\n")
    assert (run["arm"], run["scale"], run["recipe"]["rate"]) == ("tiny", "own", pytest.approx(0.05 * 24 / 128))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("tinny", "unknown net 'tinny': did you mean 'tiny'?"),
        ("tiny --set precision=tf32", "precision 'tf32' needs a CUDA device"),
        ("tiny --out {file}", "records can't be written to"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_images_are_decoded(
    tell: Tell, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, said: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(data, "load", lambda _: pytest.fail("decoded first"))
    told = tell(f"train {asked.format(file=tmp_path / 'file')} --data {recipe.data}")
    assert (told.code, said in told.err) == (2, True), told.err


def test_training_goes_on_from_its_checkpoint(tell: Tell, recipe: Recipe, tmp_path: Path) -> None:
    line = f"train tiny --data {recipe.data} --checkpoint {tmp_path}/run.pt {FAST}"
    first = tell(line).out
    scores = tell(line).out.splitlines()[-1]
    assert first.splitlines()[-1] == scores


def test_a_checkpoint_of_another_recipe_is_refused(tell: Tell, recipe: Recipe, tmp_path: Path) -> None:
    line = f"train tiny --data {recipe.data} --checkpoint {tmp_path}/run.pt {FAST}"
    tell(line)
    told = tell(f"{line} seed=1")
    assert told.code == 2
    assert "written by another recipe (other seed)" in told.err


def test_a_checkpoint_that_is_a_folder_is_refused(tell: Tell, recipe: Recipe, tmp_path: Path) -> None:
    told = tell(f"train tiny --data {recipe.data} --checkpoint {tmp_path} {FAST}")
    assert (told.code, told.err) == (2, f"error: checkpoint {tmp_path} is a folder: name a file\n")


def test_a_checkpoint_that_another_training_is_at_is_left_to_it(tell: Tell, recipe: Recipe, tmp_path: Path) -> None:
    line = f"train tiny --data {recipe.data} --checkpoint {tmp_path}/run.pt {FAST}"
    with files.try_lock(tmp_path / "run.pt.lock"):
        told = tell(line)
    assert (told.code, list(tmp_path.iterdir())) == (2, [])
    assert told.err == f"error: checkpoint {tmp_path}/run.pt: another training is at it: name another file, or wait\n"
    assert tell(line).code == 0


# --- run, pending -------------------------------------------------------------------------------------------


def test_pending_lists_what_can_start(study: Path, tell: Tell) -> None:
    write(study, [record(RELU, falling(n), rate=rate) for rate, n in {0.01: 3, 0.02: 4, 0.005: 5}.items()])
    told = tell("pending tiny")
    *listed, summed = told.out.splitlines()
    assert summed == "4 runs can start, up to 0.0 hours of one core"
    assert [line.split("  ", 1)[1] for line in listed] == [
        "tiny  tanh-tiny rate 0.01 seed 0  (search for the rate)",
        "tiny  tanh-tiny rate 0.02 seed 0  (search for the rate)",
        "tiny  tanh-tiny rate 0.005 seed 0  (search for the rate)",
        "tiny  relu-tiny rate 0.01 seed 1",
    ]


def test_pending_changes_nothing(study: Path, tell: Tell) -> None:
    tell("pending tiny")
    assert not study.exists()


def test_run_does_what_is_pending_and_names_each_record(study: Path, tell: Tell) -> None:
    told = tell("run tiny --jobs 1")
    done = [line.split()[1] for line in told.out.splitlines() if line.startswith("recorded ")]
    assert told.code == 0
    assert done == [run["id"] for run in records.read(study)]
    assert tell("pending tiny").out == "nothing pending at scale smoke\n"


def test_run_writes_where_it_is_told(study: Path, tell: Tell, tmp_path: Path) -> None:
    tell(f"run tiny --jobs 1 --out {tmp_path}/mine")
    assert (len(records.read(tmp_path / "mine")), study.exists()) == (8, False)


@pytest.mark.usefixtures("study")
def test_a_budget_ends_the_session_with_exit_code_0(tell: Tell) -> None:
    told = tell("run tiny --jobs 1 --budget 0s")
    assert (told.code, [line for line in told.out.splitlines() if line.startswith("recorded")]) == (0, [])


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("2h", 7200), ("1.5h", 5400), ("0.5m", 30)])
def test_a_budget_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert cli._seconds(text) == seconds


@pytest.mark.parametrize("text", ["9", "m", "-1m", "9 m", "9min", "1h30m", "1e3s", ""])
def test_any_other_budget_is_refused(text: str) -> None:
    with pytest.raises(cli.StudyError, match=r"write a number and s, m or h, e\.g\. 9m"):
        cli._seconds(text)


@pytest.mark.usefixtures("study")
def test_an_interrupted_session_says_what_is_kept(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    told = tell("run tiny --jobs 1")
    assert told.code == 130
    assert told.err.startswith("interrupted: finished runs are recorded")


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("train cifar-19pct --checkpoint run.pt", "the same command goes on from run.pt"),
        ("train cifar-19pct", "nothing is kept"),
        ("data prepare zoo --source zoo", "the same command goes on after the last shard"),
        ("claims", "nothing is kept"),
        ("notebook", "finished runs are recorded"),
    ],
)
def test_an_interrupted_command_says_what_is_kept_of_it(line: str, left: str) -> None:
    assert cli._left(cli._parser().parse_args(line.split())).startswith(left)


def test_a_benchmark_of_no_round_is_refused(tell: Tell) -> None:
    assert tell("bench --rounds 0").err == "error: --rounds 0: take 1 or more\n"


def test_a_terminal_without_a_minus_sign_gets_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="ascii", write_through=True) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert cli.main(["claims"]) == 0
        assert "paper ?1.4" in written.getvalue().decode("ascii")


def test_a_ledger_that_can_not_be_written_is_named(tell: Tell, tmp_path: Path) -> None:
    told = tell(f"claims --scale smoke --csv {tmp_path}/missing/x.csv")
    assert told.code == 2
    assert told.err.startswith(f"error: --csv {tmp_path}/missing/x.csv was not written")


# --- publish ------------------------------------------------------------------------------------------------


def test_publish_adds_what_the_published_records_lack_and_nothing_twice(study: Path, tell: Tell) -> None:
    runs = [record(RELU, falling(3.0), rate=rate) for rate in RELU.rates]
    write(study, runs)
    write(records.PUBLISHED, runs[:1])
    told = tell(f"publish {study}")
    assert told.code == 0
    assert re.findall(r"^published (\w+)  tiny  relu-tiny  seed 0$", told.out, re.MULTILINE) == [
        run["id"] for run in runs[1:]
    ]
    assert records.read(records.PUBLISHED) == runs
    assert tell(f"publish {study}").out.startswith("0 added to ")
    assert records.read(records.PUBLISHED) == runs


def test_publish_refuses_a_run_of_no_experiment(study: Path, tell: Tell) -> None:
    run = record(RELU, falling(3.0)) | {"experiment": "train", "scale": records.OWN}
    told = tell(f"publish {write(study, [run])}")
    assert told.code == 1
    assert records.read(records.PUBLISHED) == []


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_the_folders_of_two_machines_merge_to_each_run_once(
    study: Path, tell: Tell, tmp_path: Path, order: tuple[str, str]
) -> None:
    done = [record(RELU, falling(3.0), seed=seed) for seed in range(4)]
    again = {**record(RELU, falling(3.1), seed=1), "experiment": "another"}  # the other machine had it for that one
    twice = {**done[2], "experiment": "another"}
    folders = {"one": done[:2], "two": [again, done[2], twice, done[3]]}
    for name in order:
        write(tmp_path / name, folders[name])
        assert tell(f"publish {tmp_path / name}").code == 0
    found = records.read(records.PUBLISHED)
    assert sorted(run["seed"] for run in found) == [0, 1, 2, 3]
    assert (again in found) == (order[0] == "two"), "of two, the first published stays"


def test_publish_takes_what_is_kept_of_a_network_along(study: Path, tell: Tell) -> None:
    kernels = {"conv1": torch.arange(24.0).view(2, 3, 2, 2)}
    made = keep(record(RELU, falling(3.0)), kernels, study)
    write(study, [made])
    assert tell(f"publish {study}").code == 0
    assert torch.equal(records.kept(made, records.PUBLISHED)["conv1"], kernels["conv1"])


@pytest.mark.parametrize(
    "provenance",
    [
        {"commit": "0" * 40, "dirty": True},
        {"commit": None, "dirty": None},
        {"commit": "0" * 40, "dirty": False, "commits": [f"{'1' * 40}{records.CHANGED}", "0" * 40]},
        {"commit": "0" * 40, "dirty": False, "commits": ["unknown", "0" * 40]},
    ],
)
def test_publish_refuses_runs_of_code_that_no_commit_holds(
    study: Path, tell: Tell, provenance: dict[str, object]
) -> None:
    good, bad = (record(RELU, falling(3.0), seed=seed) for seed in (0, 1))
    write(study, [{**bad, "provenance": {**bad["provenance"], **provenance}}, good])
    told = tell(f"publish {study}")
    assert (told.code, f"refused   {bad['id']}: " in told.out) == (1, True)
    assert records.read(records.PUBLISHED) == [good]


def test_publish_of_a_folder_that_is_not_there_is_a_mistake(study: Path, tell: Tell) -> None:
    told = tell(f"publish {study}/none")
    assert (told.code, records.PUBLISHED.exists()) == (2, False)
    assert told.err.startswith(f"error: {study}/none is no folder: name the one that run --out wrote")


# --- verify -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(recipe: Recipe, small: Dataset, tmp_path: Path) -> Record:
    """Return a real run's record, which stands in the folder of records."""
    made = records.make(
        train(recipe, small), small, experiment="tiny", arm="tiny", scale="smoke", begun=datetime.now(UTC)
    )
    records.append(made)
    return made


def test_a_confirmed_record_gives_exit_code_0(run: Record, tell: Tell) -> None:
    told = tell(f"verify {run['id'][:8]}")
    assert (told.code, told.out.splitlines()[-1]) == (0, "confirmed")


def test_the_repeated_run_is_kept_where_it_is_asked_for(run: Record, tell: Tell, tmp_path: Path) -> None:
    assert tell(f"verify {run['id']} --out {tmp_path / 'again'}").code == 0
    (again,) = records.read(tmp_path / "again")
    assert (again["id"], again["scores"]) == (run["id"], run["scores"])
    assert again["provenance"]["begun"] >= run["provenance"]["ended"]


@pytest.mark.parametrize(
    "command", ["verify {id}", "train tiny --data synthetic:train=64,test=32", "run recipe --scale smoke"]
)
def test_a_folder_that_can_t_be_written_to_is_told_before_the_training(
    run: Record, tell: Tell, command: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told = tell(f"{command.format(id=run['id'])} --out {tmp_path / 'file' / 'folder'}")
    assert (told.code, told.out.count("epoch  ")) == (2, 0)
    assert "records can't be written to" in told.err


@pytest.mark.parametrize("command", ["verify {id}", f"train tiny --data synthetic:train=64,test=32 {FAST}"])
def test_a_run_that_a_folder_holds_is_not_trained_into_it_again(
    run: Record, tell: Tell, command: str, tmp_path: Path
) -> None:
    asked = f"{command.format(id=run['id'])} --out {tmp_path / 'kept'}"
    assert tell(asked).code == 0
    told = tell(asked)
    assert (told.code, told.out.count("epoch  ")) == (2, 0)
    assert re.search("run [0-9a-f]{16} is recorded in .*kept already: name another folder", told.err)


def test_a_record_with_a_changed_number_gives_exit_code_1(run: Record, tell: Tell, tmp_path: Path) -> None:
    run["history"][-1]["loss"] += 1e-9
    (tmp_path / "runs" / "tiny.jsonl").write_text(json.dumps(run) + "\n")
    told = tell(f"verify {run['id']}")
    assert (told.code, told.out.splitlines()[-1]) == (1, "NOT CONFIRMED")


def test_a_record_is_compared_with_the_seeds_that_other_experiments_trained(
    run: Record, recipe: Recipe, small: Dataset, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = train(replace(recipe, seed=1), small)
    records.append(records.make(other, small, experiment="other", arm="x", scale="smoke", begun=datetime.now(UTC)))
    seen: list[list[int]] = []

    def compare(record: Record, again: object, siblings: list[Record]) -> tuple[bool, list[str]]:
        seen.append(sorted(one["seed"] for one in siblings))
        return True, []

    monkeypatch.setattr("alexnet_lib.verify.compare", compare)
    assert tell(f"verify {run['id']}").code == 0
    assert seen == [[1]]


# --- data, claims, bench, notebook --------------------------------------------------------------------------


def test_data_shows_sizes_classes_and_hash(tell: Tell) -> None:
    found = data.load("synthetic:train=30,test=20,classes=3")
    told = tell("data synthetic:train=30,test=20,classes=3")
    assert "30 training and 20 test images of 32 pixels, 3 classes" in told.out
    assert told.out.rstrip().endswith(f"sha256 {found.digest}")


def test_claims_prints_a_line_for_every_claim(tell: Tell, tmp_path: Path) -> None:
    write(tmp_path / "runs", figure1({"relu-2012": [4.0, 5.0], "tanh-2012": [24.0, 25.0]}))
    lines = tell("claims").out.splitlines()
    (line,) = [line for line in lines if "relu-six-times-faster" in line]
    assert line.split("  ")[-1].strip() == "inconclusive"
    assert re.search(r"paper 6 x +5\.48 x \[1\.72 to 17\.44\] n=2 ", line)
    assert len(lines) == len(claims.load())


def test_claims_prints_an_effect_with_its_interval(tell: Tell, tmp_path: Path) -> None:
    runs = [*ended("lrn", "base", [20.0, 20.5]), *ended("lrn", "no-lrn", [21.0, 21.7])]
    write(tmp_path / "runs", runs)
    (line,) = [line for line in tell("claims").out.splitlines() if "lrn-imagenet" in line]
    assert re.search(r"paper −1\.4 / −1\.2 points +−1\.10 points \[−2\.37 to \+0\.17\] n=2 +inconclusive$", line)


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_claims_are_printed_for_every_scale(tell: Tell, scale: str) -> None:
    told = tell(f"claims --scale {scale}")
    assert (told.code, len(told.out.splitlines())) == (0, len(claims.load()))


def test_claims_writes_the_whole_ledger_as_csv(tell: Tell, tmp_path: Path) -> None:
    told = tell(f"claims --scale gpu --csv {tmp_path}/ledger.csv")
    with (tmp_path / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert told.out == f"{len(rows)} claims: {tmp_path}/ledger.csv\n"
    columns = "id section claim paper log ours interval bootstrap n p detectable scale verdict"
    assert list(rows[0]) == [*columns.split(), "why", "measured", "cost", "runs", "chapter"]
    assert {row["verdict"] for row in rows if row["id"] == "parameters-60-million"} == {"reproduced"}


def test_bench_measures_the_named_set_as_often_as_told(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "workers", lambda device, jobs: ThreadPoolExecutor(jobs))
    monkeypatch.setattr(bench, "report", lambda name, device, rounds: iter([f"{name}, {rounds} rounds, {device}"]))
    assert tell("bench --data synthetic:train=30 --rounds 2").out == "synthetic:train=30, 2 rounds, cpu\n"


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, object]]]:
    """Execute no notebook; list which would be, with where to and with what."""
    done: list[tuple[str, str, dict[str, object]]] = []

    def execute(notebook: Path, output: Path, parameters: dict[str, object]) -> float:
        done.append((notebook.stem, output.as_posix(), parameters))
        return 1.0

    monkeypatch.setattr(notebooks, "execute", execute)
    return done


def test_a_notebook_is_executed_with_its_parameters(
    tell: Tell, executed: list[tuple[str, str, dict[str, object]]]
) -> None:
    told = tell("notebook relu_vs_tanh --scale smoke --set retrain=true --set more=1 --out here")
    parameters = {"scale": "smoke", "retrain": True, "more": 1}
    assert executed == [("01_relu_vs_tanh", "here/01_relu_vs_tanh.ipynb", parameters)]
    assert told.out.startswith("here/01_relu_vs_tanh.ipynb: 1 s")


def test_without_a_name_every_notebook_is_executed(
    tell: Tell, executed: list[tuple[str, str, dict[str, object]]]
) -> None:
    tell("notebook")
    assert [stem for stem, _, _ in executed] == sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))
    assert [parameters for _, _, parameters in executed] == [{}] * len(executed)


# --- as a program -------------------------------------------------------------------------------------------


def test_the_package_is_a_program_with_exit_codes(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "alexnet_lib", "pending", "relu_vs_tahn"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("error: unknown experiment 'relu_vs_tahn': did you mean 'relu_vs_tanh'?")


def test_a_training_whose_reader_leaves_says_what_is_kept_of_it(tmp_path: Path) -> None:
    fields = ["batch=8", "epochs=500"]
    command = [
        "train",
        "cifar-26pct",
        "--data",
        "synthetic:train=16,test=8",
        "--checkpoint",
        "run.pt",
        "--set",
        *fields,
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "alexnet_lib", *command],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as training:
        assert training.stdout
        assert training.stderr
        assert "epoch   1" in training.stdout.readline()
        training.stdout.close()
        said = training.stderr.read()
    assert said == "stopped, for want of a reader: the same command goes on from run.pt, if an epoch had ended\n"
    assert training.returncode == 141


def test_both_readers_of_a_session_may_leave(tmp_path: Path) -> None:
    command = f"{sys.executable} -m alexnet_lib run dropout --scale smoke --jobs 1 --out {tmp_path}"
    told = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} 2>&1 | head -n 1"],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent), "ALEXNET_CACHE": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 141
    assert (len(told.stdout.splitlines()), told.stderr) == (1, "")


def test_the_library_is_imported_only_by_the_command_that_needs_it() -> None:
    program = "import sys, alexnet_lib.__main__; print(sorted({'torch', 'matplotlib'} & sys.modules.keys()))"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "[]\n"


def test_the_runs_that_readme_and_help_name_exist() -> None:
    texts = [(records.PROJECT / "README.md").read_text(), *(example for _, _, example, _ in cli.COMMANDS.values())]
    named = {name for text in texts for name in re.findall(r"verify ([0-9a-f]{8})", text)}
    published = {run["id"][:8] for run in records.read(records.PUBLISHED)}
    assert named
    assert named <= published
