"""A data set in memory: one uint8 tensor per split, with their per-pixel mean and a hash of their content."""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alexnet_lib.recipes import StudyError

if TYPE_CHECKING:
    from alexnet_lib.images import Report
    from alexnet_lib.store import Jpegs


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


def check_room(name: str, count: int, size: int, remedy: str) -> None:
    """Refuse ``count`` images of ``size`` pixels that take more memory than the machine has."""
    need, have = count * size**2 * 3, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > have:
        memory = f"takes {need / 1e9:.3g} GB, and this machine has {have / 1e9:.3g} GB of memory"
        raise StudyError(f"data set {name!r} {memory}: {remedy}")


def resident(images: Tensor | Jpegs) -> Tensor:
    """Return the images as one tensor, which those on disk may be too large for."""
    return images if isinstance(images, Tensor) else torch.cat([*images.split(256)])
