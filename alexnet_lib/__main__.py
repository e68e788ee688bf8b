"""The command line: ``python -m alexnet_lib COMMAND --help`` shows an example of each command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import yaml

from alexnet_lib.recipes import RATE_RULES, Recipe, StudyError, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 where a check found a difference, 2 for a mistake."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a minus sign is no reason to stop
    options = _parser().parse_args(arguments)
    try:
        if "TORCHELASTIC_RUN_ID" in os.environ and options.command is not _train:
            raise StudyError(f"torchrun starts many processes for one training: run {options.name!r} without it")
        code = int(options.command(options) or 0)
        sys.stdout.flush()
        return code
    except StudyError as error:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            from alexnet_lib import parallel

            if not parallel.first_to_tell(str(error)):
                return 2
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, e.g. `| head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        if options.command in (_pending, _claims):
            return 0
        try:
            print(f"stopped, for want of a reader: {_left(options)}", file=sys.stderr)
        except BrokenPipeError:  # of both, as in `2>&1 | head`
            os.dup2(nowhere, sys.stderr.fileno())
        return 141  # what a shell shows for SIGPIPE
    except KeyboardInterrupt:
        print(f"interrupted: {_left(options)}", file=sys.stderr)
        return 130


def _left(options: argparse.Namespace) -> str:
    """Say what an interrupted command leaves behind."""
    if options.command in (_run, _notebook):
        return "finished runs are recorded, the others go on from their checkpoints"
    if options.command is _train and options.checkpoint:
        return f"the same command goes on from {options.checkpoint}, if an epoch had ended"
    if options.command is _data and options.sets[:1] == ["prepare"]:
        return "the same command goes on after the last shard that was written"
    return "nothing is kept of what was under way: the same command begins anew"


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers a misspelt command with the nearest one."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument command: invalid choice: '([^']*)'", message)
        if wrong:
            message = str(unknown("command", wrong[1], COMMANDS))
        print(f"error: {message}\n{self.format_usage()}", file=sys.stderr, end="")
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m alexnet_lib", description="The AlexNet study: train, check and count.")
    parts = parser.add_subparsers(dest="name", metavar="command", required=True, parser_class=_Parser)
    for name, (function, help_text, example, declare) in COMMANDS.items():
        part = parts.add_parser(
            name,
            help=help_text,
            description=help_text,
            epilog=f"example:\n  python -m alexnet_lib {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        part.set_defaults(command=function)
        declare(part)
    return parser


# --- train ----------------------------------------------------------------------------------------------------


def _declare_train(part: argparse.ArgumentParser) -> None:
    part.add_argument("net", help="network, e.g. cifar-19pct; alexnet for an edition with its own recipe")
    part.add_argument("--edition", help="of alexnet: paper (the default), code2012 or one-tower")
    part.add_argument("--data", default="cifar10", help="data set: cifar10, synthetic, synthetic:size=224,train=200")
    where = part.add_mutually_exclusive_group()
    where.add_argument("--device", default="cpu", help="cpu or cuda")
    where.add_argument("--devices", metavar="A,B", help="two devices, one per tower (instead of --device)")
    part.add_argument("--checkpoint", type=Path, help="file to save to after every epoch and to go on from")
    part.add_argument("--out", type=Path, help="folder to add the run's record to (default: none is written)")
    part.add_argument(
        "--set",
        action="extend",
        nargs="*",
        default=[],
        metavar="FIELD=VALUE",
        help="other recipe fields, e.g. rate=0.01 seed=1",
    )
    part.add_argument(
        "--scale-rate", choices=RATE_RULES, help="take the rate as one for batches of 128, and scale it to the batch"
    )


def _train(options: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from alexnet_lib import data, experiments, models, parallel, records, runner, store, train

    begun, origin = datetime.now(UTC), records.origin()
    device, *second = _devices(options)
    fields = {"data": options.data, **_fields(options.set)}
    if "net" in fields:
        raise StudyError("--set net=...: the network is named before the options, as in `train cifar-19pct`")
    if fields["data"] != options.data:
        raise StudyError("--set data=...: the data set has an option of its own, --data")
    if options.edition and options.net != "alexnet":
        raise StudyError(f"--edition {options.edition}: of alexnet alone, not of {options.net!r}")
    if options.net == "alexnet":
        Recipe.parse(fields)  # before anything is reckoned from them
        length = {"epochs": fields["epochs"]} if "epochs" in fields else {}
        fields = experiments.edition(options.edition or "paper", options.data, **length).resolved() | fields
    else:
        fields["net"] = options.net
    recipe = Recipe.parse(fields)
    if options.scale_rate:
        recipe = recipe.scaled(options.scale_rate)
    told = parallel.rank() == 0
    total, hidden = recipe.pretrain + recipe.epochs, not (told and sys.stderr.isatty())
    bar = tqdm(total=total, unit="epoch", disable=hidden, leave=False)

    def on_epoch(epoch: train.Epoch) -> None:
        bar.update()
        if told:
            tqdm.write(runner.epoch_line(recipe.net, epoch), file=sys.stdout)
            sys.stdout.flush()

    models.outline(recipe.net)  # refuses an unknown one before minutes of decoding
    train.check_device(recipe, torch.device(device))
    if options.out:
        records.check_folder(options.out)
        _check_new(recipe.id, records.OWN, options.out)
    dataset = data.load(recipe.data)
    with parallel.process_group(device), bar, _alone(options.checkpoint):
        result = train.train(
            recipe,
            dataset,
            device=device,
            second=second[0] if second else None,
            checkpoint=options.checkpoint,
            origin=origin,
            on_epoch=on_epoch,
        )
    if not told:
        return
    recorded = ""
    if options.out:  # before a reader of what is printed can be gone
        record = records.make(result, dataset, experiment="train", arm=recipe.net, scale=records.OWN, begun=begun)
        recorded = f"recorded {record['id']}: {records.append(record, options.out)}"
    print(f"{result.outcome}; " + ", ".join(f"{name} {value:.4f}" for name, value in result.scores.items()))
    if isinstance(dataset.train.images, store.Jpegs) and result.cost["train_seconds"]:  # none without a whole epoch
        share = result.cost["wait_seconds"] / result.cost["train_seconds"]
        print(f"{100 * share:.1f} % of the training's time went by in waiting for images from disk")
    if recorded:
        print(recorded)


def _check_new(run: str, scale: str, folder: Path) -> None:
    """Refuse a folder that holds a record of the run already, which would be the one that is kept."""
    from alexnet_lib import records

    if any(record["id"] == run for record in records.read(folder, scale=scale)):
        raise StudyError(f"run {run} is recorded in {folder} already: name another folder (--out)")


@contextlib.contextmanager
def _alone(checkpoint: Path | None) -> Iterator[None]:
    """Keep other trainings from a checkpoint, which each would overwrite with its own.

    Raises:
        StudyError: another one is at it.
    """
    import torch

    from alexnet_lib import files, parallel

    if checkpoint is not None and checkpoint.is_dir():
        raise StudyError(f"checkpoint {checkpoint} is a folder: name a file")
    lock: contextlib.AbstractContextManager[bool] = contextlib.nullcontext(True)
    if checkpoint is not None and parallel.rank() == 0:  # which writes it
        lock = files.try_lock(checkpoint.with_name(f"{checkpoint.name}.lock"))
    with lock as alone:
        if parallel.all_reduce_sum(torch.tensor(float(not alone))):  # known to all processes of the run
            raise StudyError(f"checkpoint {checkpoint}: another training is at it: name another file, or wait")
        yield


def _fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Return recipe fields given as FIELD=VALUE, each value read as YAML."""
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise StudyError(f"--set {pair!r}: write FIELD=VALUE, e.g. rate=0.01")
        try:
            fields[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StudyError(f"--set {pair!r}: the value is no YAML ({' '.join(str(error).split())})") from error
    return fields


def _devices(options: argparse.Namespace) -> list[str]:
    """Return the device of a training, or the two of its towers."""
    import torch

    from alexnet_lib import parallel

    if options.devices is None:
        return [_device(options)]
    names: list[str] = options.devices.split(",")
    known = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    for name in names:
        if name not in known:
            raise unknown("device", name, known)
    if len(names) != 2 or parallel.launched():
        raise StudyError("--devices: name two, one for each tower, without torchrun, whose processes have one each")
    torch.set_num_threads(1)
    return names


def _device(options: argparse.Namespace, *, elsewhere: bool = False) -> str:
    import torch

    if options.device not in ("cpu", "cuda"):
        raise unknown("device", options.device, ("cpu", "cuda"))
    if options.device == "cuda" and not elsewhere and not torch.cuda.is_available():
        raise StudyError("device 'cuda': torch finds no GPU here: take --device cpu")
    if options.device == "cpu":
        torch.set_num_threads(1)
    return str(options.device)


# --- evaluate -------------------------------------------------------------------------------------------------


def _declare_evaluate(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "file", type=Path, help="trained weights of torchvision, Caffe or this library: .pth, .safetensors"
    )
    part.add_argument("--net", required=True, help="the network that they are of, e.g. alexnet-one-tower")
    part.add_argument("--data", required=True, help="data set with as many classes, in their order, e.g. imagenette")
    part.add_argument(
        "--inputs", help="pixels it was trained on: raw, unit, caffe or torchvision (default: where names tell)"
    )
    part.add_argument("--device", default="cpu", help="cpu or cuda")


def _evaluate(options: argparse.Namespace) -> None:
    from alexnet_lib import data, evaluate, pretrained

    device, values = _device(options), pretrained.read(options.file)
    kind = options.inputs or ("torchvision" if pretrained.of_torchvision(values) else None)
    if kind is None:
        raise StudyError(f"weights {options.file}: no name tells what they were trained on: add --inputs, e.g. raw")
    found = data.load(options.data)
    model = pretrained.fill(values, options.file, options.net, len(found.classes)).to(device)
    found = found.to(device)
    inputs = pretrained.inputs(kind, options.net, found)
    if kind == "caffe":
        pretrained.to_caffe(model)
    seen = evaluate.view_probabilities(model, found.test.images, inputs, which="corners")
    print(f"{options.net} of {options.file}, inputs {kind}, on {len(found.test)} test images of {found.name}")
    for views, mean in (("1 view", seen[4]), ("10 views", seen.mean(0))):  # the fifth is the centre
        top = {k: 100 * evaluate.error_rate(mean, found.test.labels, k) for k in (1, 5)}
        print(f"{views:>8}: " + ", ".join(f"top-{k} error {error:.2f} %" for k, error in top.items()))


# --- run, pending ---------------------------------------------------------------------------------------------


def _declare_study(part: argparse.ArgumentParser) -> None:
    part.add_argument("experiments", nargs="*", help="experiments (all by default), e.g. relu_vs_tanh")
    part.add_argument("--scale", default="smoke", help="smoke, laptop, gpu or imagenet (default: %(default)s)")
    part.add_argument("--out", type=Path, help="folder of the records (default: ALEXNET_RUNS, else build/runs)")


def _declare_run(part: argparse.ArgumentParser) -> None:
    _declare_study(part)
    part.add_argument(
        "--pending", action="store_true", help="only what the published records, data/runs, lack as well"
    )
    part.add_argument("--device", help="cpu or cuda (default: what the scale's recipes need)")
    part.add_argument(
        "--jobs", type=int, help="runs side by side (default: one per core, a few on a GPU, one at scale imagenet)"
    )
    part.add_argument("--budget", help="stop cleanly within this time, e.g. 9m, 90s, 2h")
    part.add_argument("--executor", help="do the runs on a Dask cluster, each worker one at a time: dask://HOST:PORT")


def _out(options: argparse.Namespace) -> Path:
    """Return the folder that one's own records go to; published ones are added to by naming ``data/runs``."""
    from alexnet_lib import records

    return (options.out or records.own_folder()).expanduser()


def _named(options: argparse.Namespace) -> list[str]:
    from alexnet_lib import experiments

    names = options.experiments or list(experiments.EXPERIMENTS)
    asked = [name for name in names if experiments.arms(name, options.scale)]
    if not asked:
        raise StudyError(f"no arms at scale {options.scale!r} in: {', '.join(names)}")
    return asked


LEAVING = 6.0
"""Seconds that processes may take to end."""


def _run(options: argparse.Namespace) -> None:
    # Importing torch takes seconds, and so do processes that end: both are part of the time.
    deadline = None if options.budget is None else time.time() + _seconds(options.budget) - LEAVING

    names = _named(options)

    from alexnet_lib import cluster, records, runner

    options.device = options.device or runner.device_for(options.scale, elsewhere=bool(options.executor))
    device = _device(options, elsewhere=bool(options.executor))
    if options.jobs is not None and options.jobs < 1:
        raise StudyError(f"--jobs {options.jobs}: take 1 or more")
    records.check_folder(_out(options))
    also = records.PUBLISHED if options.pending else None
    session = runner.Session(device=device, folder=_out(options), deadline=deadline, also=also)
    if options.executor:
        done = cluster.run(names, options.scale, session, options.executor, options.jobs)
    else:
        done = runner.run_here(names, options.scale, session, options.jobs)
    for record in done:
        print(f"recorded {record['id']}  {record['experiment']}  {record['arm']}  {record['outcome']}", flush=True)


def _seconds(text: str) -> float:
    """Return the seconds of a time written as 90s, 9m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match:
        raise StudyError(f"--budget {text!r}: write a number and s, m or h, e.g. 9m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _pending(options: argparse.Namespace) -> None:
    names = _named(options)

    from alexnet_lib import records, runner

    tasks = runner.pending(names, options.scale, _out(options), records.PUBLISHED)
    for task in tasks:
        search = "  (search for the rate)" if task.search else ""
        print(f"{task.recipe.id}  {task.experiment}  {task.label}{search}")
    if not tasks:
        print(f"nothing pending at scale {options.scale}")
        return
    device = runner.usual_device(options.scale)
    recorded = runner.recorded(options.scale, _out(options), records.PUBLISHED)
    cost, uncounted = runner.hours([task.recipe for task in tasks], recorded, device)
    without = f" ({uncounted} of them not counted: no recorded run tells what they cost)" if uncounted else ""
    print(
        f"{len(tasks)} runs can start, up to {cost:.1f} hours of one {'GPU' if device == 'cuda' else 'core'}{without}"
    )


def _declare_publish(part: argparse.ArgumentParser) -> None:
    part.add_argument("folder", type=Path, help="folder of records, as run --out wrote it")


def _publish(options: argparse.Namespace) -> int:
    from alexnet_lib import records

    if not options.folder.is_dir():
        raise StudyError(f"{options.folder} is no folder: name the one that run --out wrote, e.g. build/runs")
    added, refused = records.publish(options.folder)
    for record in added:
        print(f"published {record['id']}  {record['experiment']}  {record['arm']}  seed {record['seed']}")
    for record in refused:
        own = record["scale"] == records.OWN
        why = "of no experiment" if own else "trained by code that no commit holds: commit it and run again"
        print(f"refused   {record['id']}: {why}")
    print(f"{len(added)} added to {records.PUBLISHED}; execute the notebooks anew: notebook --publish")
    return 1 if refused else 0


# --- verify, data, claims -------------------------------------------------------------------------------------


def _declare_verify(part: argparse.ArgumentParser) -> None:
    part.add_argument("run", help="id of a recorded run, or its first digits")
    part.add_argument("--device", default="cpu", help="cpu or cuda")
    part.add_argument("--out", type=Path, help="folder that keeps the repeated run, in EXPERIMENT.jsonl")


def _verify(options: argparse.Namespace) -> int:
    from alexnet_lib import records, verify

    record, device = records.find(options.run), _device(options)
    print(
        f"run {record['id']}: {record['experiment']}, {record['arm']}, rate {record['recipe']['rate']:g}, "
        f"seed {record['seed']}; {len(record['history'])} epochs took {record['cost']['train_seconds']:.0f} s",
        flush=True,
    )
    if options.out:
        records.check_folder(options.out)
        _check_new(record["id"], record["scale"], options.out)
    again = verify.repeat(record, device)
    good, lines = verify.compare(record, again, verify.like(record, records.read()))
    print("\n".join([*lines, "confirmed" if good else "NOT CONFIRMED"]), flush=True)
    if options.out:
        records.append(again, options.out)
    return 0 if good else 1


def _declare_data(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "sets",
        nargs="*",
        default=["cifar10", "synthetic"],
        help="data sets to show; or: prepare NAME, which makes one of pictures; check NAME, which compares sums",
    )
    part.add_argument("--download", action="store_true", help="fetch what is missing and can be fetched")
    part.add_argument(
        "--source", type=Path, help="of prepare: {train,val}/CLASS/IMAGE, ILSVRC's archives, or Parquet"
    )


def _data(options: argparse.Namespace) -> None:
    from alexnet_lib import data, prepare, store

    home, names, task = data.data_root(), options.sets, ""
    if names[:1] in (["prepare"], ["check"]):
        task, *names = names
    if (task and len(names) != 1) or (task == "prepare") != bool(options.source):
        raise StudyError("write: data prepare NAME --source FOLDER, or data check NAME")
    if task and options.download:
        raise StudyError(f"--download: data {task} takes what lies under the data root: leave it out")
    print(f"data root: {home}", flush=True)
    if task == "prepare":
        if Path(names[0]).name != names[0]:
            raise StudyError(f"prepared set {names[0]!r}: give a name; the set is made under the data root, {home}")
        prepare.prepare(options.source, home / names[0])
    if task == "check":
        store.check(home / names[0])
        print("every file is as it was written")
    for name in names:
        found = data.load(name, download=options.download)
        print(
            f"{found.name}: {len(found.train)} training and {len(found.test)} test images of {found.image_size} "
            f"pixels, {len(found.classes)} classes, sha256 {found.digest}"
        )
        if found.report:
            print("\n  ".join([f"  {found.report}", *found.report.unreadable]))


def _declare_claims(part: argparse.ArgumentParser) -> None:
    part.add_argument("--scale", default="laptop", help="smoke, laptop, gpu or imagenet (default: %(default)s)")
    part.add_argument("--csv", type=Path, help="write the whole ledger there instead of printing it")


def _claims(options: argparse.Namespace) -> None:
    from alexnet_lib import claims

    table = claims.ledger(options.scale)
    if options.csv:
        try:
            table.to_csv(options.csv, index=False)
        except OSError as error:
            raise StudyError(
                f"--csv {options.csv} was not written ({error}): name a file in a folder there is"
            ) from None
        print(f"{len(table)} claims: {options.csv}")
        return
    for row in table.to_dict("records"):
        ours = f"{row['ours']} [{row['interval']}] n={row['n']}" if row["interval"] and row["n"] else row["ours"]
        print(f"{row['section']:>8}  {row['id']:<36} paper {row['paper']:<28} {ours:<40} {row['verdict']}".rstrip())


# --- bench ----------------------------------------------------------------------------------------------------


def _declare_bench(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--data",
        default="cifar10",
        help="data set: its images' size decides the network, e.g. imagenette for AlexNet",
    )
    part.add_argument("--device", default="cpu", help="cpu or cuda")
    part.add_argument("--rounds", type=int, default=7, help="times that everything is measured")
    part.add_argument("--input", metavar="NAME", help="measure how fast a prepared set's images come, instead")
    part.add_argument("--source", type=Path, help="of --input: the folder that the set was made of")


def _bench(options: argparse.Namespace) -> None:
    from alexnet_lib import bench, bench_input, runner

    if options.rounds < 1:
        raise StudyError(f"--rounds {options.rounds}: take 1 or more")
    if bool(options.input) != bool(options.source):
        raise StudyError("write: bench --input NAME --source FOLDER, of the pictures that the set was made of")
    if options.input and options.device != "cpu":
        raise StudyError("bench --input measures the processor: leave --device out")
    # A process like those that train: it has their settings of the memory allocator.
    with runner.workers(_device(options), 1) as executor:
        if options.input:
            print(executor.submit(bench_input.report, options.input, options.source, options.rounds).result())
        else:
            executor.submit(bench.show, options.data, options.device, options.rounds).result()


# --- notebook -------------------------------------------------------------------------------------------------


def _declare_notebook(part: argparse.ArgumentParser) -> None:
    part.add_argument("notebooks", nargs="*", help="notebooks (all by default), e.g. 01_relu_vs_tanh")
    part.add_argument("--scale", help="smoke, laptop, gpu or imagenet (default: the notebook's own, published runs)")
    part.add_argument(
        "--set", action="extend", nargs="*", default=[], metavar="NAME=VALUE", help="other parameters of the notebook"
    )
    part.add_argument("--out", type=Path, default=Path("build/notebooks"), help="folder of the executed notebooks")
    part.add_argument("--publish", action="store_true", help="execute with defaults and keep the outputs in place")


def _notebook(options: argparse.Namespace) -> None:
    from alexnet_lib import notebooks

    parameters = _fields(options.set) | ({"scale": options.scale} if options.scale else {})
    if options.publish and parameters:
        raise StudyError("--publish executes with the notebook's defaults: leave --scale and --set out")
    for name in options.notebooks or [path.stem for path in sorted(notebooks.FOLDER.glob("*.ipynb"))]:
        path = notebooks.find(name)
        output = options.out / path.name
        seconds = notebooks.publish(path, output) if options.publish else notebooks.execute(path, output, parameters)
        print(f"{path if options.publish else output}: {seconds:.0f} s", flush=True)


COMMANDS = {
    "train": (
        _train,
        "train one network (start it with torchrun for several processes)",
        "train cifar-19pct --set inputs=unit init=variance rate=0.01 decay=0 epochs=2",
        _declare_train,
    ),
    "evaluate": (
        _evaluate,
        "measure the error rates of trained weights in a file, with one view and ten",
        "evaluate alexnet.pth --net alexnet-one-tower --data imagenet",
        _declare_evaluate,
    ),
    "run": (
        _run,
        "do the runs of the study that have no record yet",
        "run relu_vs_tanh --scale smoke",
        _declare_run,
    ),
    "pending": (
        _pending,
        "list the runs that can start and have no record, published or own",
        "pending --scale laptop",
        _declare_study,
    ),
    "publish": (
        _publish,
        "add one's own records to the published ones, data/runs",
        "publish build/runs",
        _declare_publish,
    ),
    "verify": (_verify, "train a published run again and compare", "verify 0a4d85ca", _declare_verify),
    "data": (
        _data,
        "show data sets, their sizes and hashes; prepare or check one that is read from disk in training",
        "data prepare imagenet --source ILSVRC2012",
        _declare_data,
    ),
    "claims": (_claims, "print the ledger of the paper's claims", "claims --scale laptop", _declare_claims),
    "bench": (
        _bench,
        "measure speed against loops as PyTorch and torchvision write them, and against the machine's peak rates",
        "bench --data imagenette --rounds 3",
        _declare_bench,
    ),
    "notebook": (
        _notebook,
        "execute notebooks with papermill",
        "notebook 01_relu_vs_tanh --scale smoke",
        _declare_notebook,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
