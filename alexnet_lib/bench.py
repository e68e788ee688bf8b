"""Speed, as ratios taken in one run: our loop and augmentation against PyTorch's tutorial and torchvision's.

Every contender does the same work on the same images in turn, round after round, on one core; a row of the report
is the median over the rounds.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import data as torch_data

from alexnet_lib import augment, models, records
from alexnet_lib.data import Dataset, Split, load, parts, resident
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.train import Trainer, check_device

if TYPE_CHECKING:
    from alexnet_lib.store import Jpegs

RECIPE = Recipe(net="alexnet32-no-lrn", crop=24, flip=True, inputs="unit", init="variance", rate=0.01)
"""What is timed: 24-pixel crops of 32-pixel images and reflections, batches of 128, float32."""


@dataclass(frozen=True)
class Row:
    """One contender: images a second (median over the rounds) and the slowest and fastest round."""

    name: str
    rate: float
    slowest: float
    fastest: float


def tutorial(recipe: Recipe, data: Dataset) -> Callable[[], None]:
    """Return one epoch of training as PyTorch's CIFAR-10 tutorial writes it.

    A ``DataLoader`` over images that torchvision's transforms crop, reflect and normalise one by one; float32 in
    the default memory format; ``torch.optim.SGD``; the running loss read after every step.
    """
    transform, pixels = per_image_transform(recipe, data), resident(data.train.images)

    class Images(torch_data.Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(data.train)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return transform(pixels[index]), int(data.train.labels[index])

    net = models.build(
        recipe.net, classes=len(data.classes), init=recipe.init, generator=torch.Generator().manual_seed(0)
    )
    loader = torch_data.DataLoader(Images(), batch_size=recipe.batch, shuffle=True)
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum)

    def epoch() -> None:
        running = 0.0
        for images, labels in loader:
            optimiser.zero_grad()
            loss = functional.cross_entropy(net(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            running += loss.item()

    return epoch


def per_image_transform(recipe: Recipe, data: Dataset) -> Callable[[Tensor], Tensor]:
    """Return torchvision's transforms for one uint8 (H, W, 3) array, as an image file would come out of a reader."""
    from PIL import Image
    from torchvision.transforms import v2

    mean = (data.mean.mean((0, 1)) / 255).tolist()
    chain = v2.Compose(
        [
            v2.RandomCrop(recipe.crop),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, [data.std / 255] * 3),
        ]
    )

    def transform(image: Tensor) -> Tensor:
        return chain(Image.fromarray(image.numpy()))  # type: ignore[no-any-return]

    return transform


def ours(recipe: Recipe, data: Dataset) -> Callable[[], Any]:
    """Return one epoch of training by our loop."""
    return Trainer(recipe, data, torch.device("cpu")).updates


def around(recipe: Recipe, data: Dataset) -> Callable[[], float]:
    """Return a measurement of one epoch of ours: the share of its time outside the network's two passes.

    Clocks stand at the network's entrance and exit and around ``backward``, inside the loop itself: a loop without
    its surroundings would find other things in the processor's caches.
    """
    trainer = Trainer(recipe, data, torch.device("cpu"))
    marks: list[float] = []

    def mark(*_: Any) -> None:
        marks.append(time.perf_counter())

    def backward(loss: Tensor) -> None:
        mark()
        plain(loss)  # type: ignore[no-untyped-call]
        mark()

    plain = Tensor.backward
    trainer.model.register_forward_pre_hook(mark)
    trainer.model.register_forward_hook(mark)

    def epoch() -> float:
        marks.clear()
        begin = time.perf_counter()
        with mock.patch.object(Tensor, "backward", backward):
            trainer.updates()
        whole = time.perf_counter() - begin
        return 1 - sum(end - start for start, end in zip(marks[::2], marks[1::2], strict=True)) / whole

    return epoch


def batched_augmentation(recipe: Recipe, data: Dataset) -> Callable[[], None]:
    """Return crops, reflections and normalisation of all images by our batched code."""
    trainer = Trainer(recipe, data, torch.device("cpu"))

    def epoch() -> None:
        for _ in trainer.batches():
            pass

    return epoch


def torchvision_augmentation(recipe: Recipe, data: Dataset) -> Callable[[], None]:
    """Return the same by torchvision, image by image, stacked to batches."""
    transform, pixels = per_image_transform(recipe, data), resident(data.train.images)

    def epoch() -> None:
        order = torch.randperm(len(data.train)).tolist()
        for start in range(0, len(order), recipe.batch):
            torch.stack([transform(pixels[row]) for row in order[start : start + recipe.batch]])

    return epoch


def measure(
    contenders: dict[str, Callable[[], Any]],
    images: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Row]:
    """Time the contenders in turn, ``rounds`` times after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, epoch in contenders.items():
            begin = clock()
            epoch()
            seconds[name].append(clock() - begin)
    rates = {name: [images / each for each in times[1:]] for name, times in seconds.items()}
    return {name: Row(name, statistics.median(r), min(r), max(r)) for name, r in rates.items()}


def report(name: str, *, images: int = 2560, rounds: int = 7) -> str:
    """Measure everything on the first ``images`` training images of data set ``name``; return the report as text."""
    torch.set_num_threads(1)
    whole = load(name)
    data = replace(whole, train=Split(whole.train.images[:images], whole.train.labels[:images]))
    bf16 = replace(RECIPE, precision="bf16")
    contenders: dict[str, Callable[[], Any]] = {
        "tutorial loop, float32": tutorial(RECIPE, data),
        "our loop, float32": ours(RECIPE, data),
        "torchvision augmentation": torchvision_augmentation(RECIPE, data),
        "our augmentation": batched_augmentation(RECIPE, data),
    }
    refused = ""
    try:
        check_device(bf16, torch.device("cpu"))
        contenders["our loop, bf16"] = ours(bf16, data)
    except StudyError as error:
        refused = str(error)
    rows = measure(contenders, len(data.train), rounds)
    share = around(RECIPE, data)
    shares = [share() for _ in range(rounds)]
    lines = [
        f"{records.cpu_model()}; {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}; one thread",
        f"{RECIPE.net}: {RECIPE.crop}-pixel crops and reflections of {len(data.train)} images of {data.name}, "
        f"batches of {RECIPE.batch}; median of {rounds} rounds",
        f"{'':<28}{'images/s':>12}{'slowest':>12}{'fastest':>12}",
        *(f"{row.name:<28}{row.rate:>12,.0f}{row.slowest:>12,.0f}{row.fastest:>12,.0f}" for row in rows.values()),
        "",
        *_ratios({name: row.rate for name, row in rows.items()}, statistics.median(shares)),
        *([f"bf16 not measured: {refused}"] if refused else []),
    ]
    return "\n".join(lines)


def _ratios(rate: dict[str, float], share: float) -> list[str]:
    """Return the comparisons that the study states a target for."""
    base = rate["tutorial loop, float32"]
    augmentation = rate["our augmentation"] / rate["torchvision augmentation"]
    lines = [
        f"our augmentation / torchvision's:        {augmentation:6.1f} x   (target: 15)",
        f"our loop / tutorial loop, float32:       {rate['our loop, float32'] / base:6.2f} x   (target: 1.4)",
        f"outside forward and backward, float32:   {100 * share:6.1f} %   (target: under 3)",
    ]
    if "our loop, bf16" in rate:
        lines.append(f"our loop in bf16 / tutorial, float32:    {rate['our loop, bf16'] / base:6.2f} x   (target: 3)")
    return lines


# --- input from disk ------------------------------------------------------------------------------------------


def input_report(name: str, source: Path, *, images: int = 512, rounds: int = 5) -> str:
    """Measure how fast images of a prepared set come, beside torchvision's ``ImageFolder`` loop; return it as text.

    Torchvision reads the pictures in ``source`` that the set was made of, and the set's own JPEGs as files. Rates are
    of processor time, all threads together: images a second and core, whatever else the machine does.
    """
    from torchvision.transforms import Resize

    torch.set_num_threads(1)
    whole = load(name)
    data = replace(whole, train=Split(whole.train.images[:images], whole.train.labels[:images]))
    if isinstance(data.train.images, Tensor):
        raise StudyError(f"bench --input {name}: not a prepared set: make one with data prepare")
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
        f"{records.cpu_model()}; torch {torch.__version__}; {os.cpu_count()} decoding threads",
        f"{recipe.crop}-pixel crops, reflections, of {len(data.train)} images of {name}, batches of {recipe.batch}; "
        f"median of {rounds} rounds, seconds of processor time",
        f"{'':<28}{'images/s':>12}{'slowest':>12}{'fastest':>12}",
        *(f"{row.name:<28}{row.rate:>12,.0f}{row.slowest:>12,.0f}{row.fastest:>12,.0f}" for row in rows.values()),
        "",
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
    from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

    mean = (data.mean.mean((0, 1)) / 255).tolist()
    last = [RandomCrop(recipe.crop), RandomHorizontalFlip(), ToTensor(), Normalize(mean, [data.std / 255] * 3)]
    files = ImageFolder(folder, Compose([*first, *last]))
    chosen = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))[: len(data.train)].tolist()
    loader = torch_data.DataLoader(torch_data.Subset(files, chosen), batch_size=recipe.batch, shuffle=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def write_files(images: Jpegs, folder: Path) -> None:
    """Write prepared images as the files that they could have been."""
    folder.mkdir()
    for row in images.rows.tolist():
        (folder / f"{row}.jpg").write_bytes(images.table.column("jpeg")[row].as_py())
