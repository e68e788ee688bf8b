"""What the processes of ``test_parallel.py`` do: ``torchrun ... processes.py killed``, or ``told``, in a folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from alexnet_lib import __main__ as cli
from alexnet_lib import data, parallel
from alexnet_lib.recipes import Recipe
from alexnet_lib.train import Result, Trainer, train

RECIPE = Recipe(
    # In batches of 24 the last has one image, so that one process has it and the others nothing; 2 and 3 don't
    # divide the number of test images.
    data="synthetic:train=49,test=23",
    net="alexnet32-no-dropout",
    crop=24,
    flip=True,
    colour="printed",
    inputs="unit",
    init="variance",
    rate=0.003,  # at 0.01 a difference in the last bit decides which of two maxima is pooled, and shows everywhere
    batch=24,
    epochs=2,
)
DROPOUT = replace(RECIPE, net="alexnet32", epochs=3)


def keep(name: str, **values: object) -> None:
    """Leave values of this process for the test to read."""
    torch.save(values, f"{name}-{parallel.rank()}.pt")


def keep_run(name: str, result: Result, **values: object) -> None:
    """Leave what a run came to."""
    history = [asdict(epoch) for epoch in result.history]
    weights = result.model.state_dict()
    keep(name, weights=weights, history=history, scores=result.scores, split=result.split, **values)


def killed() -> None:
    """Train without dropout and with it; then again with a kill in the second epoch, and go on after the restart."""
    images, first_attempt = data.load(RECIPE.data), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    updates, plain = 0, Trainer.train_step

    def update(trainer: Trainer, images: Tensor, labels: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        nonlocal updates
        updates += 1
        if first_attempt and parallel.rank() == 1 and updates == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(trainer, images, labels, size)

    with parallel.process_group("cpu"):
        if first_attempt:
            keep_run("plain", train(RECIPE, images))
            keep_run("undisturbed", train(DROPOUT, images))
            look_inside(Trainer(DROPOUT, images, torch.device("cpu")))
        Trainer.train_step = update  # type: ignore[method-assign]
        result = train(DROPOUT, images, checkpoint=Path("run.pt"))
        keep_run("disturbed", result, updates=updates)


def look_inside(trainer: Trainer) -> None:
    """Leave the first dropout mask of a run, and how many images an epoch's evaluation looked at."""
    dropped = trainer.model.get_submodule("drop6")(torch.ones(1000)) == 0
    evaluated: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda model, inputs: None if model.training else evaluated.append(len(inputs[0]))
    )
    trainer.run_epoch()
    keep("inside", dropped=dropped, evaluated=sum(evaluated))


def told() -> None:
    """Give a command that all refuse, one that they do, two with a checkpoint not theirs, one that hangs."""
    asked = {name: value for name, value in RECIPE.resolved().items() if value != Recipe().resolved()[name]}
    fields = [f"{name}={value}" for name, value in asked.items() if name != "net"]
    command = ["train", RECIPE.net, "--data", RECIPE.data, "--out", "runs", "--checkpoint", "run.pt"]

    def tell(*more: str) -> int:
        if distributed.is_initialized():  # the command before failed
            distributed.destroy_process_group()
        return cli.main([*command, "--set", *fields, *more])

    codes = [tell("batch=25"), tell(), tell("--checkpoint", "held.pt", "--out", "others")]
    own = Path(f"machine-{parallel.rank()}")
    own.mkdir()
    if parallel.rank() == 0:
        shutil.copy("run.pt", own)
    os.chdir(own)
    codes.append(tell())
    os.chdir("..")
    keep("codes", codes=codes)
    Path("run.pt").unlink(missing_ok=True)
    parallel.ANSWER = timedelta(seconds=5)
    if parallel.rank() == 1:
        Trainer.train_step = lambda *_: time.sleep(600)  # type: ignore[assignment,method-assign,return-value]
    sys.exit(tell("seed=1"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"killed": killed, "told": told}[sys.argv[1]]()
