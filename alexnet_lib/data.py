"""Data sets by name, from files or drawn by code (`alexnet_lib.dataset` says what a set is).

A set is named by a recipe's ``data`` field: ``cifar10``, ``synthetic``, or ``synthetic`` with options as in
``synthetic:size=224,train=200,test=100``; pictures on disk are ``imagenette``, ``tiny-imagenet-200`` and
``folder:path=NAME`` (see `alexnet_lib.images`); any other name is that of a prepared set (`alexnet_lib.store`), whose
images stay on disk. Files are looked for under the data root (see `data_root`).
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from alexnet_lib import images, store
from alexnet_lib.dataset import Dataset, Split, check_room, digest, resident
from alexnet_lib.files import ROOT_VARIABLE
from alexnet_lib.recipes import StudyError, unknown

CIFAR10_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
KINDS = ("cifar10", "synthetic")
"""The sets that `load` knows beside pictures on disk (`alexnet_lib.images.SOURCES`) and prepared sets."""


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
    kind, options = options_of(name)
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
    kind, options = options_of(name)
    if kind in images.SOURCES:
        return images.some(kind, options, data_root(), part=part, rows=rows, of=of)
    whole = load(name, download=False)
    split = whole.test if part == "test" else whole.train
    chosen = torch.tensor(rows)
    return Split(resident(split.images[chosen]), split.labels[chosen])


def options_of(name: str) -> tuple[str, dict[str, str]]:
    """Take a set's name apart, into its kind and its options.

    Raises:
        StudyError: an option without a value, or given twice.
    """
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
        StudyError: an argument out of its range, or more images than the machine has memory for.
    """
    given = {"size": size, "classes": classes, "train": train, "test": test, "seed": seed}
    lowest = {"size": 8, "classes": 2, "train": 1, "test": 1, "seed": 0}
    highest = {"size": 1024, "classes": 1024}
    for key, value in given.items():
        if not lowest[key] <= value <= highest.get(key, 2**31):
            bounds = f"{lowest[key]} to {highest.get(key, 2**31)}"
            raise StudyError(f"data set 'synthetic': {key}={value} should be {bounds}")
    check_room("synthetic", train + test, size, "draw fewer, or smaller ones")
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
