"""Data sets as one uint8 tensor per split, with their per-pixel mean and a hash of their content.

A set is named by a recipe's ``data`` field: ``cifar10``, ``synthetic``, or ``synthetic`` with options as in
``synthetic:size=224,train=200,test=100``; pictures on disk are ``imagenette``, ``tiny-imagenet-200`` and
``folder:path=NAME`` (see `alexnet_lib.images`); any other name is that of a prepared set (`alexnet_lib.store`), whose
images stay on disk. Files are looked for under the data root (see `data_root`).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import operator
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alexnet_lib.recipes import StudyError, unknown

if TYPE_CHECKING:
    from alexnet_lib.images import Report
    from alexnet_lib.store import Jpegs

ROOT_VARIABLE = "ALEXNET_DATA"
CIFAR10_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
KINDS = ("cifar10", "synthetic")
"""The sets that `load` knows beside pictures on disk (`alexnet_lib.images.SOURCES`) and prepared sets."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over images from which mean, deviation and colours follow; those of parts add up to those of the whole.

    All are of whole numbers and exact, so neither the device nor the order of addition matters.
    """

    sums: Tensor
    """Of each value over the images: int64 (H, W, 3)."""
    products: Tensor
    """Of each two colours over all pixels: float64 (3, 3)."""

    @classmethod
    def of(cls, images: Tensor) -> Moments:
        """Return the moments of images uint8 (N, H, W, 3), fewer than eight million."""
        # As many pixels at a time as stay in a processor's cache, or as occupy a GPU.
        many, multiply = (2**22, _summed_products) if images.is_cuda else (2**16, _matrix_product)
        products = functools.reduce(operator.add, map(multiply, torch.split(images.reshape(-1, 3), many)))
        return cls(images.sum(0, dtype=torch.int32).long(), products)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.sums + other.sums, self.products + other.products)


def _matrix_product(pixels: Tensor) -> Tensor:
    values = pixels.double()  # sums of whole numbers below 2**53 are exact
    return values.T @ values


def _summed_products(pixels: Tensor) -> Tensor:
    """Return the same on a GPU, whose product of so thin matrices has one of its cores do all the sums."""
    values = pixels.T.int()
    return (values[:, None] * values).sum(2).double()


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in a fixed order.

    Channels stand last, so gathering rows gives a batch in ``channels_last`` memory after one permute.

    Raises:
        StudyError: no images, another shape or type than stated, or not one label per image.
    """

    images: Tensor | Jpegs
    """uint8 (N, H, W, 3), RGB 0..255, contiguous; or on disk, where a prepared set has them."""
    labels: Tensor
    """int64 (N,), class indices from 0."""
    known: Moments | None = None
    """The images' moments where they were stored with them."""

    def __post_init__(self) -> None:
        """Check shapes and types."""
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise StudyError(f"images are {self.images.dtype} {shape}: need square RGB, uint8 (N, H, H, 3)")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise StudyError(f"labels are {got}: need one int64 per image, ({shape[0]},)")
        if not len(self):
            raise StudyError("a split without images: training and test set need at least one image each")

    def __len__(self) -> int:
        """Return the number of images."""
        return self.images.shape[0]

    def to(self, device: torch.device | str) -> Split:
        """Return the split on ``device`` (itself where it is there already)."""
        images, labels = self.images.to(device), self.labels.to(device)
        return self if images is self.images else Split(images, labels, self.known)

    @cached_property
    def moments(self) -> Moments:
        """The images' moments, on the CPU where they were stored, else on the images' device."""
        return self.known or functools.reduce(operator.add, map(Moments.of, self.images.split(64)))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split over the same classes.

    Raises:
        StudyError: a label outside the classes, or splits of different image size.
    """

    name: str
    """The name `load` knows the set by; options at their default are left out."""
    train: Split
    test: Split
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    digest: str
    """sha256 (hex) over shapes, pixels and labels of both splits: see `digest`; of a set made of another, over that
    one's digest and what was done."""
    report: Report | None = None
    """What the files were that the images come from, where they are pictures on disk."""

    def __post_init__(self) -> None:
        """Check that the splits fit each other and the classes."""
        for part, split in (("training", self.train), ("test", self.test)):
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise StudyError(
                    f"{self.name}: {part} labels run from {low} to {high}, "
                    f"but its {len(self.classes)} classes are numbered 0 to {len(self.classes) - 1}"
                )
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            sizes = f"{self.train.images.shape[1]} and {self.test.images.shape[1]}"
            raise StudyError(f"{self.name}: training and test images differ in size ({sizes} pixels)")

    @property
    def image_size(self) -> int:
        """Side of the (square) images in pixels."""
        return self.train.images.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        """Mean of each pixel over the training images (P §2): float32 (H, W, 3), 0..255."""
        return (self.train.moments.sums.double() / len(self.train)).float().to(self.train.labels.device)

    @cached_property
    def std(self) -> float:
        """Standard deviation of all training values about their pixel's `mean`, in grey levels."""
        n, sums = len(self.train), self.train.moments.sums.flatten().tolist()
        squares = int(self.train.moments.products.trace())
        return math.sqrt(n * squares - sum(total**2 for total in sums)) / (n * math.sqrt(len(sums)))

    @cached_property
    def colours(self) -> tuple[Tensor, Tensor]:
        """Principal components of the RGB values of all training pixels (P §4.1), on the CPU.

        Variances float64 (3,), rising, in squared grey levels; directions float64 (3, 3), one in each column.
        """
        sums, products = self.train.moments.sums.cpu(), self.train.moments.products.cpu()
        count = len(self.train) * self.image_size**2
        mean = sums.sum((0, 1)).double() / count
        variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))
        return variances.clamp_min(0), directions  # of grey images two are zero, or rounded to just below

    def holdout(self) -> Dataset:
        """Return the set that choices are made on: the last fifth of the training images is its test split.

        For CIFAR-10 that is training file 5, the validation set of the 2012 files' methodology.
        """
        keep = len(self.train) - len(self.train) // 5
        train = Split(self.train.images[:keep], self.train.labels[:keep])
        test = Split(self.train.images[keep:], self.train.labels[keep:])
        return self._derived("holdout", train, test, self.classes)

    def subset(self, count: int, seed: int) -> Dataset:
        """Return the set with ``count`` of its training images, each repeated, so that an epoch is as long as before.

        They are the first of an order drawn by ``seed`` in which the classes take turns, so what a smaller count
        takes, a larger one takes too.

        Raises:
            StudyError: there are fewer training images.
        """
        import pandas as pd  # for this alone: every process that trains would wait for it

        many, labels = len(self.train), self.train.labels
        if count > many:
            raise StudyError(f"recipe field 'images': {count}, but {self.name} has only {many} training images")
        order = torch.randperm(many, generator=torch.Generator().manual_seed(seed))
        drawn = labels.cpu()[order]
        turn = pd.Series(drawn).groupby(drawn.numpy()).cumcount()  # 0 for the first of its class
        first = order[(torch.tensor(turn.to_numpy()) * len(self.classes) + drawn).argsort()[:count]]
        rows = first.repeat(-(-many // count))[:many].to(labels.device)
        train = Split(self.train.images[rows], labels[rows])
        return self._derived(f"{count} training images of seed {seed}", train, self.test, self.classes)

    def turned(self) -> Dataset:
        """Return the set whose classes are quarter turns, which nobody has to label (rotation prediction).

        Each training image appears in all four rotations, one after the other; test image i in rotation i mod 4.

        Raises:
            StudyError: the images are on disk.
        """
        if not isinstance(self.train.images, Tensor) or not isinstance(self.test.images, Tensor):
            raise StudyError(
                f"recipe field 'pretrain': only images in memory are turned, those of {self.name} aren't"
            )
        every, tested = (
            torch.stack([images.rot90(turn, (1, 2)) for turn in range(4)], dim=1)
            for images in (self.train.images, self.test.images)
        )
        turns = torch.arange(4, device=every.device)
        train = Split(every.flatten(0, 1), turns.repeat(len(self.train)))
        rows = torch.arange(len(self.test), device=every.device)
        test = Split(tested[rows, rows % 4], rows % 4)
        return self._derived("turned", train, test, ("upright", "a quarter", "a half", "three quarters"))

    def _derived(self, how: str, train: Split, test: Split, classes: tuple[str, ...]) -> Dataset:
        """Return what was made of this set; its digest is that of this one's and of how."""
        total = hashlib.sha256(f"{self.digest}, {how}".encode())
        return Dataset(f"{self.name}, {how}", train, test, classes, total.hexdigest())

    def to(self, device: torch.device | str) -> Dataset:
        """Return the set with both splits on ``device``."""
        train, test = self.train.to(device), self.test.to(device)
        if train is self.train and test is self.test:
            return self
        return Dataset(self.name, train, test, self.classes, self.digest, self.report)


def digest(*splits: Split) -> str:
    """Return the sha256 (hex) of the splits' content, the same on every machine.

    For each split in turn: the shape of the images as decimal text, the pixels row by row, and the labels as
    little-endian 64-bit integers.
    """
    total = hashlib.sha256()
    for split in splits:
        total.update(repr(tuple(split.images.shape)).encode())
        for images in split.images.split(256):
            total.update(images.cpu().contiguous().numpy().data)
        total.update(split.labels.cpu().numpy().astype("<i8").data)
    return total.hexdigest()


def parts(images: Tensor | Jpegs, rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the images of each part of rows, int64 (n,); from disk, the next parts are decoded meanwhile."""
    if isinstance(images, Tensor):
        return (images.index_select(0, some) for some in rows)  # by whole images; [some] goes by bytes
    return images[torch.cat([*rows])].split([len(some) for some in rows])


def resident(images: Tensor | Jpegs) -> Tensor:
    """Return the images as one tensor, which those on disk may be too large for."""
    return images if isinstance(images, Tensor) else torch.cat([*images.split(256)])


def data_root() -> Path:
    """Return the folder that data sets are read from; it need not exist yet.

    The first of: the environment variable ``ALEXNET_DATA``; the project's ``data`` folder, or ``data`` in the current
    folder where the package is installed away from the project.

    Raises:
        StudyError: the root is a file, lies below a file, or can't be read.
    """
    given = os.environ.get(ROOT_VARIABLE)
    project = Path(__file__).resolve().parents[1]
    home = project if (project / "pyproject.toml").is_file() else Path()
    path = Path(given).expanduser() if given else home / "data"
    try:
        os.listdir(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise StudyError(
            f"data root {path} is a file, or lies below one: {ROOT_VARIABLE} must name a folder"
        ) from None
    except OSError as error:
        raise StudyError(
            f"data root {path} can't be read ({error.strerror}): set its permissions, "
            f"or point {ROOT_VARIABLE} at another folder"
        ) from None
    return path


def load(name: str, *, download: bool = True) -> Dataset:
    """Return the data set called ``name``, on the CPU, from `data_root`.

    Args:
        name: ``cifar10``, or ``synthetic`` with any of `synthetic`'s arguments as options, in any order:
            ``synthetic:size=224,train=200``. Pictures on disk, with `alexnet_lib.images.load`'s options:
            ``imagenette``, ``tiny-imagenet-200`` and ``folder:path=NAME``. Else the name of a prepared set.
        download: fetch CIFAR-10 where the root lacks it.

    Raises:
        StudyError: an unknown name or option, a value out of range, or a set that is missing or damaged.
    """
    from alexnet_lib import images, store

    kind, options = _options(name)
    if kind == "cifar10" and options:
        raise StudyError(f"data set 'cifar10' takes no options; given: {', '.join(options)}")
    if kind == "cifar10":
        return cifar10(download=download)
    if kind == "synthetic":
        return synthetic(**_numbers(options))
    if kind in images.SOURCES:
        return images.load(kind, options, data_root())
    stores = [path.parent.name for path in data_root().glob(f"*/{store.MANIFEST}")]
    if name not in stores:
        how = f"python -m alexnet_lib data prepare {name} --source FOLDER makes one of pictures"
        raise StudyError(f"{unknown('data set', name, [*KINDS, *images.SOURCES, *stores])}; {how}")
    return store.load(data_root() / name)


def some(name: str, part: str, rows: Sequence[int], *, of: int) -> Split:
    """Return a few images of the set called ``name``: of pictures on disk, the others are not read.

    Args:
        name: as for `load`.
        part: ``train`` or ``test``.
        rows: places in the split.
        of: how many images the split has where the places come from.

    Raises:
        StudyError: what `load` raises; pictures on disk of another number.
    """
    from alexnet_lib import images

    kind, options = _options(name)
    if kind in images.SOURCES:
        return images.some(kind, options, data_root(), part=part, rows=rows, of=of)
    whole = load(name, download=False)
    split = whole.test if part == "test" else whole.train
    chosen = torch.tensor(rows)
    return Split(resident(split.images[chosen]), split.labels[chosen])


def _options(name: str) -> tuple[str, dict[str, str]]:
    """Take a set's name apart, into its kind and its options."""
    kind, _, text = name.partition(":")
    options: dict[str, str] = {}
    for item in text.split(",") if text else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value or key in options:
            raise StudyError(f"data set {name!r}: {item!r} should be option=value, each option once")
        options[key] = value
    return kind, options


def _numbers(options: dict[str, str]) -> dict[str, int]:
    values = {}
    for key, value in options.items():
        if key not in SYNTHETIC_DEFAULTS:
            raise unknown("option of data set 'synthetic'", key, SYNTHETIC_DEFAULTS)
        try:
            values[key] = int(value)
        except ValueError:
            raise StudyError(f"data set 'synthetic': {key}={value} should be a whole number") from None
    return values


def cifar10(*, download: bool = True) -> Dataset:
    """Return CIFAR-10 in its official order: 50,000 training and 10,000 test images of 32 pixels.

    The official files are read, and their md5 checked, by ``torchvision.datasets.CIFAR10``. Files that are
    there are never replaced: a download happens only where ``cifar-10-batches-py`` is absent, and is moved
    into place when complete. A ``cifar-10-python.tar.gz`` that lies in the root is unpacked instead.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Raises:
        StudyError: the set is absent and can't be downloaded, or a file is missing, cut short or altered.
    """
    from torchvision.datasets import CIFAR10

    home = data_root()
    if not (home / CIFAR10.base_folder).exists():
        if not download:
            raise StudyError(_absent(home, "and downloading was not asked for"))
        _download_cifar10(home)
    try:
        parts = [CIFAR10(home, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise StudyError(_damage(home, error)) from None
    train, test = (Split(torch.from_numpy(p.data).contiguous(), torch.tensor(p.targets)) for p in parts)
    return Dataset("cifar10", train, test, tuple(parts[0].classes), digest(train, test))


def _absent(home: Path, why: str) -> str:
    from torchvision.datasets import CIFAR10

    return (
        f"CIFAR-10 is not under the data root {home} ({CIFAR10.base_folder} is missing), {why}. "
        f"Set {ROOT_VARIABLE} to the folder that holds {CIFAR10.base_folder}, or fetch {CIFAR10.filename} "
        f"from {CIFAR10_PAGE} and put it, packed as it is, into {home}"
    )


def _download_cifar10(home: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive = home / CIFAR10.filename
    if archive.exists() and not check_integrity(archive, CIFAR10.tgz_md5):
        raise StudyError(
            f"{archive} is cut short or altered (its md5 is not {CIFAR10.tgz_md5}): delete it and run again"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".cifar-10-") as folder:
            if archive.exists():
                shutil.copy(archive, folder)
            CIFAR10(folder, download=True)
            (Path(folder) / CIFAR10.base_folder).rename(home / CIFAR10.base_folder)
    except (RuntimeError, OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return  # another process finished the same download first
        raise StudyError(_absent(home, f"and the download failed ({error})")) from None


def _damage(home: Path, error: Exception) -> str:
    """Say which files of the CIFAR-10 under ``home`` are not the official ones, and what to do."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = home / CIFAR10.base_folder
    official = {**dict(CIFAR10.train_list + CIFAR10.test_list), CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}
    wrong = []
    for name, md5 in official.items():
        try:
            if not (folder / name).exists():
                wrong.append(f"{name} is missing")
            elif not check_integrity(folder / name, md5):
                wrong.append(f"{name} is cut short or altered (its md5 is not {md5})")
        except OSError as error:
            wrong.append(f"{name} can't be read ({error.strerror})")
    return (
        f"CIFAR-10 in {folder}: {'; '.join(wrong) or error}. Nothing was changed: delete that folder to have "
        f"it downloaded again, or point {ROOT_VARIABLE} at the root of a sound copy"
    )


def synthetic(*, size: int = 32, classes: int = 10, train: int = 1000, test: int = 500, seed: int = 0) -> Dataset:
    """Return the embedded set: oriented coloured gratings on noise, drawn by code, so that no file is needed.

    A class is an orientation, a spatial frequency (3, 5 or 7 cycles per image) and a hue. Each image has its
    own phase, contrast and tint, a small rotation, and noise whose octaves are equally strong, as in
    photographs. Labels take turns: 0, 1, 2, ... The arithmetic is in integers, so a seed gives the same bytes
    on every machine. At the default size the three-conv net of 2012 needs a few epochs to learn it, not one.

    Args:
        size: side of the images in pixels, 8 to 1024.
        classes: number of classes, 2 to 1024.
        train: number of training images.
        test: number of test images.
        seed: seed of both splits, 0 or more.

    Raises:
        StudyError: an argument out of its range.
    """
    given = {"size": size, "classes": classes, "train": train, "test": test, "seed": seed}
    lowest = {"size": 8, "classes": 2, "train": 1, "test": 1, "seed": 0}
    highest = {"size": 1024, "classes": 1024}
    for key, value in given.items():
        if not lowest[key] <= value <= highest.get(key, 2**31):
            bounds = f"{lowest[key]} to {highest.get(key, 2**31)}"
            raise StudyError(f"data set 'synthetic': {key}={value} should be {bounds}")
    generator = torch.Generator().manual_seed(seed)
    parts = [_draw(n, size, classes, generator) for n in (train, test)]
    changed = ",".join(f"{key}={value}" for key, value in given.items() if value != SYNTHETIC_DEFAULTS[key])
    return Dataset(
        name=f"synthetic:{changed}" if changed else "synthetic",
        train=parts[0],
        test=parts[1],
        classes=tuple(f"pattern {k}" for k in range(classes)),
        digest=digest(*parts),
    )


SYNTHETIC_DEFAULTS: dict[str, int] = synthetic.__kwdefaults__ or {}
"""The options of the embedded set, and the values they have when left out."""

_CHUNK = 2**18  # pixels drawn at a time: few enough for a processor's cache
_TURN = 2**16  # one full turn of an angle or a phase
_COSINE = torch.tensor([round(2**14 * math.cos(math.pi * i / 128)) for i in range(256)], dtype=torch.int32)


def _draw(n: int, size: int, classes: int, generator: torch.Generator) -> Split:
    images = torch.empty(n, size, size, 3, dtype=torch.uint8)
    labels = torch.arange(n) % classes
    step = max(1, _CHUNK // size**2)
    for some, out in zip(torch.split(labels, step), torch.split(images, step), strict=True):
        out.copy_(_patterns(some, size, generator))
    return Split(images, labels)


def _patterns(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one image per label: int16 (n, size, size, 3) within 0..255."""
    n = len(labels)

    def jitter(most: int, *shape: int) -> Tensor:
        return torch.randint(-most, most + 1, (n, *shape), generator=generator, dtype=torch.int32)

    # Multiples of two irrational fractions of a turn spread any number of classes over orientations and hues.
    k = labels.int().view(n, 1)
    angle = k * 10126 + jitter(1100, 1)  # half a turn holds all orientations; 1100 is 6 degrees
    cosine, sine = (_COSINE[(a >> 8) & 255] for a in (angle, angle - _TURN // 4))
    cycles = 3 + 2 * (k % 3)  # per image
    pixels = torch.arange(size, dtype=torch.int32)
    across, down = (cycles * 4 * part * pixels // size for part in (cosine, sine))
    across += jitter(_TURN // 2, 1)
    hue = k * 24703 + jitter(3000, 1) + torch.arange(3, dtype=torch.int32) * (_TURN // 3)
    colour = (96 + _wave(hue) // 2) * (36 + jitter(16, 1)) >> 6
    tint = 128 + jitter(24, 3)

    grating = _wave(across.view(n, 1, size) + down.view(n, size, 1))
    images = grating.view(n, size, size, 1) * _per_image(colour)
    images >>= 7
    images += _noise(n, size, generator).view(n, size, size, 1)
    images += torch.randint(-12, 13, images.shape, generator=generator, dtype=torch.int16)
    images += _per_image(tint)
    return images.clamp_(0, 255)


def _per_image(colour: Tensor) -> Tensor:
    return colour.short().view(-1, 1, 1, 3)


def _wave(phase: Tensor) -> Tensor:
    """Triangle wave: phase int32, 65536 to the turn -> int16, -128..128."""
    return (((phase & (_TURN - 1)) - _TURN // 2).abs_().sub_(_TURN // 4) >> 7).short()


def _noise(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw noise of equal strength in every octave: int16 (n, size, size), about zero."""
    sides = [size]
    while sides[-1] > 4:
        sides.append((sides[-1] + 1) // 2 + 1)
    total = torch.zeros(n, sides[-1], sides[-1], dtype=torch.int16)
    for side in reversed(sides):
        if side != sides[-1]:
            total = _between(_between(total).transpose(1, 2))[:, :side, :side] >> 2
        total = total + torch.randint(-24, 25, total.shape, generator=generator, dtype=torch.int16)
    return total


def _between(rows: Tensor) -> Tensor:
    """Put a row halfway between each two, all twice as large: (n, m, w) -> (n, 2 m - 2, w)."""
    here, below = rows[:, :-1], rows[:, 1:]
    return torch.stack((2 * here, here + below), 2).flatten(1, 2)
