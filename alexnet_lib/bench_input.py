"""Speed of input from disk: a prepared set beside torchvision's ``ImageFolder`` loop, in one run."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import data as torch_data

from alexnet_lib import augment, machine
from alexnet_lib.bench import batched_augmentation, chosen, measure, table, transforms
from alexnet_lib.data import load
from alexnet_lib.dataset import Dataset, parts
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.store import Jpegs

IMAGES = 512
"""Of the set that are read: its first training images."""


def report(name: str, source: Path, rounds: int) -> str:
    """Measure how fast images of a prepared set come, beside torchvision's ``ImageFolder`` loop; return it as text.

    Torchvision reads the pictures in ``source`` that the set was made of, and the set's own JPEGs as files. Rates are
    of processor time, all threads together: images a second and core, whatever else the machine does.

    Raises:
        StudyError: ``name`` is no prepared set, or ``source`` has no folders of classes, which torchvision reads.
    """
    from torchvision.transforms.v2 import Resize

    torch.set_num_threads(1)
    whole = load(name)
    data = chosen(whole, torch.arange(min(IMAGES, len(whole.train))))
    if isinstance(data.train.images, Tensor):
        raise StudyError(f"bench --input {name}: not a prepared set: make one with data prepare")
    if not (source / "train").is_dir():
        raise StudyError(f"bench --source {source}: needs pictures as train/CLASS/IMAGE, which torchvision reads")
    batch = min(128, len(data.train))
    recipe = Recipe(data=name, net="cifar-19pct", crop=224, flip=True, batch=batch)  # the net itself is not run
    with tempfile.TemporaryDirectory() as folder:
        write_files(data.train.images, Path(folder, "all"))
        contenders = {
            "squares, uint8": squares(recipe, data),
            "crops, uint8": uint8_crops(recipe, data),
            "inputs, float32": batched_augmentation(recipe, data),
            "ImageFolder, same JPEGs": image_folder(recipe, data, Path(folder)),
            "ImageFolder, originals": image_folder(recipe, data, source / "train", Resize(data.image_size)),
        }
        rows = measure(contenders, len(data.train), rounds, time.process_time)
    lines = [
        f"{machine.cpu_model()}; torch {torch.__version__}; {machine.cores()} decoding threads",
        f"{recipe.crop}-pixel crops, reflections, of {len(data.train)} images of {name}, batches of {recipe.batch}; "
        f"median of {rounds} rounds, seconds of processor time",
        *table("", rows),
    ]
    for mine, theirs in itertools.product(list(contenders)[:3], list(contenders)[3:]):
        ratio = f"{mine} / {theirs}:"
        lines.append(f"{ratio:<46}{rows[mine].rate / rows[theirs].rate:6.2f} x   (target: 3)")
    return "\n".join(lines)


def squares(recipe: Recipe, data: Dataset) -> Callable[[], None]:
    """Return an epoch of images as they are handed to a GPU, which crops, reflects and does the arithmetic."""

    def epoch() -> None:
        for _ in parts(data.train.images, torch.split(torch.randperm(len(data.train)), recipe.batch)):
            pass

    return epoch


def uint8_crops(recipe: Recipe, data: Dataset) -> Callable[[], None]:
    """Return an epoch of crops and reflections in bytes."""
    generator, border = torch.Generator().manual_seed(0), data.image_size - recipe.crop

    def epoch() -> None:
        for some in parts(data.train.images, torch.split(torch.randperm(len(data.train)), recipe.batch)):
            places, flips = augment.offsets(len(some), border, generator), augment.flips(len(some), generator)
            augment.crop(some, places, recipe.crop, flips)

    return epoch


def image_folder(recipe: Recipe, data: Dataset, folder: Path, *first: Callable[[Any], Any]) -> Callable[[], None]:
    """Return an epoch of torchvision's reference loop over files: Pillow, transforms one by one, ``DataLoader``."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    files = ImageFolder(folder, v2.Compose([*first, transforms(recipe, data)]))
    some = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[: len(data.train)].tolist()
    loader = torch_data.DataLoader(torch_data.Subset(files, some), batch_size=recipe.batch, shuffle=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def write_files(images: Jpegs, folder: Path) -> None:
    """Write prepared images as the files that they could have been."""
    folder.mkdir()
    for row in images.rows.tolist():
        (folder / f"{row}.jpg").write_bytes(images.table.column("jpeg")[row].as_py())
