"""What the tests share: folders of their own, one thread, small data sets and a net that trains in milliseconds."""

from __future__ import annotations

import contextlib
import functools
import gc
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alexnet_lib import data, layers, models, records
from alexnet_lib.dataset import Dataset, Split, digest
from alexnet_lib.recipes import Recipe


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads round differently from run to run of another machine's load."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # imports and collected tests outlive every test: no later collection need look through them
    yield
    gc.unfreeze()  # else triton takes what is left at the end for leaks, and says so


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's records, checkpoints and data sets."""
    for variable, folder in (("RUNS", "runs"), ("CACHE", "cache"), ("DATA", "data")):
        monkeypatch.setenv(f"ALEXNET_{variable}", str(tmp_path / folder))
    monkeypatch.delenv("ALEXNET_COMMIT", raising=False)
    records.commit.cache_clear()


@pytest.fixture(scope="session")
def small() -> Dataset:
    """64 training and 32 test images of 32 pixels in ten classes."""
    return data.load("synthetic:size=32,train=64,test=32")


@pytest.fixture(scope="session")
def marked() -> Dataset:
    """Images whose pixels say where they come from: (number of the image, row, column).

    20 training images, numbers 0 to 19, and 8 test images, numbers 100 to 107, of 32 pixels in two classes.
    """

    def split(numbers: range) -> Split:
        rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        images = [torch.stack((torch.full_like(rows, number), rows, columns), 2) for number in numbers]
        return Split(torch.stack(images).byte(), torch.arange(len(numbers)) % 2)

    train, test = split(range(20)), split(range(100, 108))
    return Dataset("marked", train, test, ("even", "odd"), digest(train, test))


def _tiny(classes: int, act: layers.Activation, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=layers.conv(3, 4, 5, stride=4, std=0.1, decay=0.01),
            act1=act(),
            pool1=nn.AdaptiveAvgPool2d(4),
            flatten=nn.Flatten(),
            drop1=nn.Dropout(dropout),
            fc2=layers.linear(4 * 4 * 4, classes, std=0.1, decay=1.0),
        )
    )


@pytest.fixture
def recipe(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Three epochs of ``small`` in batches of 24, 24 and 16, on a net called ``tiny``.

    ``tiny`` takes images of any size, so crops too; ``tiny-dropout`` is the same with dropout.
    """
    for name, dropout in (("tiny", 0.0), ("tiny-dropout", 0.5)):
        net = models.Net(32, 10, functools.partial(_tiny, dropout=dropout))
        monkeypatch.setitem(models.NETS, name, net)
    return Recipe(
        data=small.name, net="tiny", init="variance", inputs="unit", rate=0.05, decay=0.0, batch=24, epochs=3
    )


@pytest.fixture
def largest_file() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """``with largest_file(bytes):`` lets no file grow further: writes fail half-way, as on a full disk."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def pixels() -> Callable[[Tensor, Tensor], Tensor]:
    """``pixels(inputs, mean)`` turns raw network inputs (N, 3, H, H) back to pixels (N, H, H, 3)."""
    return lambda inputs, mean: (inputs.permute(0, 2, 3, 1) + mean).round().byte()
