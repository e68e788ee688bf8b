"""Speed, as ratios taken in one run: our loop and augmentation against PyTorch's tutorial and torchvision's.

Every contender does the same work on the same images in turn, round after round; a row of the report is the median
over the rounds. Small images are timed on one core, AlexNet itself on all of them or a GPU, beside the machine's
floor.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import data as torch_data

from alexnet_lib import experiments, machine, models, runner
from alexnet_lib.data import load
from alexnet_lib.dataset import Dataset, Split, resident
from alexnet_lib.evaluate import autocast
from alexnet_lib.layers import CrossMapNorm
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.train import Trainer, check_device

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

    loader = torch_data.DataLoader(Images(), batch_size=recipe.batch, shuffle=True)
    return _plain_loop(_network(recipe, data), loader, recipe, torch.device("cpu"))


def reference(recipe: Recipe, data: Dataset, folder: Path, images: int, device: torch.device) -> Callable[[], None]:
    """Return an epoch of ``images`` as torchvision's reference script trains it, on the JPEG files in ``folder``.

    As many workers as there are cores decode, crop, reflect and normalise image by image; the norms are
    ``nn.LocalResponseNorm``, over both towers; eager, with the recipe's precision as autocast. The files are of the
    prepared size, so that nothing is resized, and the workers live on from epoch to epoch.
    """
    from torchvision.datasets import ImageFolder

    files = ImageFolder(str(folder), transforms(recipe, data))
    loader = torch_data.DataLoader(
        files,
        batch_size=recipe.batch,
        sampler=torch_data.RandomSampler(files, num_samples=images),
        num_workers=machine.cores(),
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    return _plain_loop(torch_norms(_network(recipe, data)).to(device), loader, recipe, device)


def _network(recipe: Recipe, data: Dataset) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    return models.build(recipe.net, classes=len(data.classes), init=recipe.init, generator=generator)


def _plain_loop(
    net: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], recipe: Recipe, device: torch.device
) -> Callable[[], None]:
    """Return one epoch of a plain PyTorch training loop."""
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.rate, momentum=recipe.momentum)

    def epoch() -> None:
        running = 0.0
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with autocast(recipe.precision, device):
                loss = functional.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            running += loss.item()

    return epoch


def torch_norms(net: nn.Sequential) -> nn.Sequential:
    """Put torch's own response normalisation in the place of ours, which it equals within one tower."""
    for name, layer in net.named_children():
        if isinstance(layer, CrossMapNorm):
            setattr(net, name, nn.LocalResponseNorm(layer.size, layer.size * layer.alpha, layer.beta, layer.k))
    return net


def write_jpegs(split: Split, folder: Path) -> None:
    """Write images as JPEG files of quality 90, a folder a class."""
    from PIL import Image

    def write(number: int) -> None:
        path = folder / f"{labels[number]:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(images[number]).save(path, quality=90)

    images, labels = resident(split.images).numpy(), split.labels.tolist()
    with concurrent.futures.ThreadPoolExecutor(machine.cores()) as pool:
        list(pool.map(write, range(len(labels))))


def transforms(recipe: Recipe, data: Dataset) -> Any:
    """Return torchvision's transforms of one image as Pillow has it, to the recipe's inputs."""
    from torchvision.transforms import v2

    mean = (data.mean.mean((0, 1)) / 255).tolist()
    return v2.Compose(
        [
            v2.RandomCrop(recipe.crop),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, [data.std / 255] * 3),
        ]
    )


def per_image_transform(recipe: Recipe, data: Dataset) -> Callable[[Tensor], Tensor]:
    """Return torchvision's transforms for one uint8 (H, W, 3) array, as an image file would come out of a reader."""
    from PIL import Image

    chain = transforms(recipe, data)

    def transform(image: Tensor) -> Tensor:
        return chain(Image.fromarray(image.numpy()))  # type: ignore[no-any-return]

    return transform


def ours(recipe: Recipe, data: Dataset, device: str = "cpu") -> Callable[[], float]:
    """Return one epoch of training by our loop; as in training, the losses are read at its end."""
    trainer = Trainer(recipe, data, torch.device(device))
    return lambda: trainer.train_epoch()[0].sum().item()


def alone(recipe: Recipe, data: Dataset, device: str) -> Callable[[], float]:
    """Return an epoch of our trainer's updates on one batch over and over: forward, backward and update alone."""
    trainer = Trainer(recipe, data, torch.device(device))
    images, labels = next(trainer.batches())
    batch = torch.randn_like(images), labels.clone()
    repeat = functools.partial(itertools.repeat, batch, len(data.train) // recipe.batch)
    trainer.batches = lambda: iter(repeat())  # type: ignore[method-assign]
    return lambda: trainer.train_epoch()[0].sum().item()


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
            trainer.train_epoch()
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
    """Return crops, reflections and normalisation by torchvision, image by image, stacked to batches."""
    transform, pixels = per_image_transform(recipe, data), resident(data.train.images)

    def epoch() -> None:
        order = torch.randperm(len(data.train)).tolist()
        for start in range(0, len(order), recipe.batch):
            torch.stack([transform(pixels[row]) for row in order[start : start + recipe.batch]])

    return epoch


def measure(
    contenders: Mapping[str, Callable[[], Any]],
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


def report(name: str, *, device: str = "cpu", rounds: int = 7) -> Iterator[str]:
    """Measure everything on the first training images of data set ``name``; yield the report's lines as they come.

    Images as large as AlexNet's crops are for AlexNet, smaller ones for its miniature on one core.

    Raises:
        StudyError: the set is not there, has too few images for a batch, or its images are timed on a core alone.
    """
    whole = load(name)
    if whole.image_size >= ALEXNET.crop:
        yield from full(whole, device, rounds)
        return
    if device != "cpu":
        raise StudyError(
            f"data set {name!r}: images of {whole.image_size} pixels are timed on a core: take --device cpu"
        )
    yield from small(chosen(whole, torch.arange(min(2560, len(whole.train)))), rounds)


def show(name: str, device: str, rounds: int) -> None:
    """Print the report line by line."""
    for line in report(name, device=device, rounds=rounds):
        print(line, flush=True)


def chosen(data: Dataset, rows: Tensor) -> Dataset:
    """Return the set with these training images alone."""
    return replace(data, train=Split(data.train.images[rows], data.train.labels[rows]))


def small(data: Dataset, rounds: int) -> list[str]:
    """Return the report on small images, on one core."""
    torch.set_num_threads(1)
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
    return [
        *_head("cpu", RECIPE, data, rounds),
        *table(f"batches of {RECIPE.batch}", rows),
        *_ratios({name: row.rate for name, row in rows.items()}, statistics.median(shares)),
        *([f"bf16 not measured: {refused}"] if refused else []),
    ]


def _head(device: str, recipe: Recipe, data: Dataset, rounds: int) -> list[str]:
    processor = torch.cuda.get_device_name() if device == "cuda" else machine.cpu_model()
    return [
        f"{processor}; {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}; "
        f"threads: {torch.get_num_threads()}",
        f"{recipe.net}: {recipe.crop}-pixel crops and reflections of {len(data.train)} images of {data.name}, "
        f"median of {rounds} rounds",
    ]


def table(title: str, rows: dict[str, Row]) -> list[str]:
    """Return the lines of a table of rates."""
    digits = 0 if min(row.rate for row in rows.values()) > 100 else 1
    return [
        f"{title:<28}{'images/s':>12}{'slowest':>12}{'fastest':>12}",
        *(
            f"{row.name:<28}" + "".join(f"{rate:>12,.{digits}f}" for rate in (row.rate, row.slowest, row.fastest))
            for row in rows.values()
        ),
        "",
    ]


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


# --- AlexNet itself -------------------------------------------------------------------------------------------

ALEXNET = Recipe(net="alexnet-paper", crop=224, flip=True, inputs="unit", rate=0.01)
BATCHES = {"cpu": (32,), "cuda": (128, 1024)}
IMAGES = {"cpu": 128, "cuda": 2**14}
"""Images of an epoch, the set's first ones as often as it takes."""
TIMES = {"cpu": 2.0, "cuda": 4.0}
"""How many times the rate of the reference loop ours should have."""
ALONE = {128: 25_000, 1024: 40_000}
"""Images a second that the network alone should take on a GPU, by batch."""
A, B, C, D = "a: our trainer", "b: reference loop, JPEG", "c: our network alone", "d: floor"
ALLOCATED = "b, our allocator settings"
_begun: list[Callable[[], None]] = []  # in a process of `ordinary`


def full(data: Dataset, device: str, rounds: int) -> Iterator[str]:
    """Yield the report on AlexNet, which has all cores, or the GPU in bf16; a CPU that has bf16 is timed in both."""
    torch.set_num_threads(machine.cores())
    place, images = torch.device(device), torch.arange(IMAGES[device])
    few = chosen(data, images[: len(data.train)])
    data = chosen(few, images % len(few.train)).to(place)
    yield from _head(device, ALEXNET, data, rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(few.train, Path(folder))
        for precision in ("bf16",) if device == "cuda" else ("float32", "bf16"):
            try:
                check_device(replace(ALEXNET, precision=precision), place)
            except StudyError as error:
                yield f"{precision} not measured: {error}"
                continue
            operations, memory = machine_rates(place, precision)
            yield f"{precision} products {operations / 1e12:.3g} TFLOP/s, memory {memory / 1e9:.3g} GB/s\n"
            for batch in BATCHES[device]:
                recipe = replace(ALEXNET, batch=batch, precision=precision)
                contenders: dict[str, Callable[[], Any]] = {A: ours(recipe, data, device)}
                files = (recipe, few, Path(folder), len(images), place)
                with contextlib.ExitStack() as stack:
                    if device == "cpu":
                        contenders |= {B: stack.enter_context(ordinary(files)), ALLOCATED: reference(*files)}
                    else:
                        contenders[B] = reference(*files)
                    contenders[C] = alone(recipe, data, device)
                    rows = measure(contenders, len(images), rounds)
                most = roofline(recipe, len(data.classes), operations, memory)
                rows[D] = Row(D, most, most, most)
                yield from table(f"batches of {batch}, {precision}", rows)
                yield from _against(device, batch, {name: row.rate for name, row in rows.items()})


@contextlib.contextmanager
def ordinary(files: tuple[Any, ...]) -> Iterator[Callable[[], None]]:
    """Give an epoch of `reference` in a process as Python starts it, as such scripts are run.

    The study's own processes have other settings of the memory allocator (`runner.workers`).
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, _begin, files) as process:
        with mock.patch.dict(os.environ):  # which the process takes over as it begins
            for name in runner.ALLOCATOR:
                os.environ.pop(name, None)
            process.submit(torch.set_num_threads, machine.cores()).result()
        yield lambda: process.submit(_epoch).result()


def _begin(*files: Any) -> None:
    _begun.append(reference(*files))


def _epoch() -> None:
    _begun[-1]()


def machine_rates(device: torch.device, precision: str) -> tuple[float, float]:
    """Measure operations a second in a large product of matrices, and bytes read and written a second in a copy."""
    side = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix, source = torch.ones(side, side, dtype=dtype, device=device), torch.ones(2**26, device=device)
    product, target = torch.empty_like(matrix), torch.ones_like(source)
    contenders = {
        "product": lambda: torch.mm(matrix, matrix, out=product)[0, 0].item(),
        "copy": lambda: target.copy_(source)[0].item(),
    }
    rates = {name: row.fastest for name, row in measure(contenders, 1, 5).items()}
    return 2 * side**3 * rates["product"], 2 * source.nbytes * rates["copy"]


def roofline(recipe: Recipe, classes: int, operations: float, memory: float) -> float:
    """Return the images a second if a step were its counted operations and then its update, and nothing else.

    The update reads weights, velocities and gradients and writes the first two, in float32: 20 bytes a weight.
    """
    weights = models.n_parameters(models.outline(recipe.net, classes=classes))
    step = recipe.batch * models.training_flops(recipe.net) / operations + 20 * weights / memory
    return recipe.batch / step


def _against(device: str, batch: int, rate: dict[str, float]) -> list[str]:
    """Return the comparisons that the study states a target for, and what ours makes of the paper's training."""
    hours = experiments.PAPER_EPOCHS * experiments.PAPER_IMAGES / rate[A] / 3600
    gpu = device == "cuda"
    same = [f"a / b with our allocator settings: {rate[A] / rate[ALLOCATED]:.2f} x"] if ALLOCATED in rate else []
    return [
        f"a / b:   {rate[A] / rate[B]:6.2f} x   (target: {TIMES[device]:g})",
        *same,
        f"a / c:   {rate[A] / rate[C]:6.2f} x" + ("   (target: 0.9)" if gpu else ""),
        f"a / d:   {rate[A] / rate[D]:6.2f} x",
        *([f"c:       {rate[C]:6,.0f} images/s   (target: {ALONE[batch]:,})"] if gpu else []),
        f"{experiments.PAPER_EPOCHS} epochs of {experiments.PAPER_IMAGES:,} images at a: "
        + (f"{60 * hours:,.0f} minutes" if hours < 2 else f"{hours:,.0f} hours"),
        "",
    ]
