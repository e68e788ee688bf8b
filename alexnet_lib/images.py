"""Pictures on disk as data sets: `load` reads Imagenette, Tiny ImageNet or any folder of class folders.

Preparation is the paper's (P §2): RGB, the shorter side brought to ``size`` pixels (256), the central square.
cuda-convnet2's data script interpolates by area when shrinking and by cubics when enlarging. Pillow has bicubic but
no area interpolation; of its filters HAMMING stays closest: 0.8 to 1.7 grey levels off (root mean square) on
photographs shrunk 1.4 to 6 times, where BICUBIC is 1.6 to 2.9 off, LANCZOS 2.8 to 4.3, and BOX, which weighs whole
pixels, 2 to 5 unless the ratio is a whole number. Square and size are cut in one step, at fractions of a pixel.

Every file becomes RGB: greyscale and palette by their colours, CMYK by Pillow's formula, 16 bits by their high
byte, transparency over black; EXIF turns are undone, colour profiles and later frames are left out. Files that
can't be decoded are left out of the set, named and counted: see `Report`. Bytes don't depend on the number of
workers; JPEG decoders of other versions may round a pixel differently, which shows in the set's digest.

What must be known of a set beside its numbers stands in `CAVEATS`. Of Imagenette's files 242 are greyscale.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from alexnet_lib import machine
from alexnet_lib.dataset import Dataset, Split, check_room, digest
from alexnet_lib.files import ROOT_VARIABLE
from alexnet_lib.recipes import StudyError, unknown

if TYPE_CHECKING:
    from PIL import Image

PASSING = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""System errors that say nothing about the file that is read."""
SIZE = 256
"""Side of the prepared images in pixels, unless the name says otherwise (P §2)."""
SOURCES = {
    "imagenette": "unpack an archive of https://github.com/fastai/imagenette and give its folder that name",
    "tiny-imagenet-200": "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip into the data root",
    "folder": "write folder:path=NAME for {train,val}/CLASS/IMAGE in a folder NAME of the data root",
}
"""The kinds of set that `load` knows, and how to get one."""
CAVEATS = {
    "imagenette": (
        "Ten classes of ILSVRC in a split of their own: images of ILSVRC's validation set are among the training "
        "images. The study's copy was squashed to 224 x 224 pixels, aspect ratio not kept, and encoded again; the "
        "paper's 256 pixels are enlarged from these. The public archive holds other pixels: "
        "with it these runs can be repeated, but not verified."
    ),
    "tiny-imagenet-200": "Two hundred classes of ILSVRC at 64 pixels, enlarged to the paper's 256.",
    "synthetic": "Drawn by code: it shows that every step runs, and nothing about photographs.",
}
"""What must be known of a set beside its numbers, by its kind."""
IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Imagenette's classes in the order of their labels: WordNet's number and word."""
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))
"""Pillow's ``Transpose`` that undoes each value of EXIF's orientation: mirrored, upside down, ..., on its side."""

Files = list[tuple[str, int]]
"""Path and label of each image."""


@dataclass(frozen=True)
class Report:
    """What the files of a set were; both splits together."""

    files: int
    """Files with an image's extension (torchvision's IMG_EXTENSIONS), hidden ones aside."""
    kinds: Mapping[str, int]
    """Files of each kind that had to be converted; one file can be of several."""
    unreadable: tuple[str, ...]
    """Files left out of the set, as ``train/CLASS/FILE (why)``."""
    ignored: Mapping[str, int]
    """Files with other extensions, never opened, by extension."""

    def __str__(self) -> str:
        """Return the counts on one line."""
        parts = [f"{self.files} image files", *(f"{n} {kind}" for kind, n in self.kinds.items())]
        if self.ignored:
            parts.append(f"other files ignored: {', '.join(f'{n} {end}' for end, n in self.ignored.items())}")
        return "; ".join([*parts, f"unreadable and left out: {len(self.unreadable)}"])


def load(kind: str, options: Mapping[str, str], home: Path) -> Dataset:
    """Return a set of pictures: training images from ``train``, test images from ``val``, else ``test``.

    Test images stand in the order of the sorted class folders, and of the sorted file names within; a class's
    sub-folders are read too. Training images are that order shuffled, always in the same way, so that the first or
    the last ones are a fair sample. All threads of the machine decode into one tensor for each split, which takes
    size * size * 3 bytes per image: Imagenette at 256 pixels 2.6 GB, Tiny ImageNet 22 GB (at 64 pixels 1.4 GB).

    Args:
        kind: ``imagenette``, ``tiny-imagenet-200`` (official layout, labels of ``val`` in its annotations), or
            ``folder`` for any other ``{train,val or test}/CLASS/IMAGE``, in torchvision's IMG_EXTENSIONS.
        options: ``size``, 8 to 1024 pixels; of a ``folder`` also ``path``, relative to the data root.
        home: the data root.

    Raises:
        StudyError: a wrong option; a folder, split or annotation that is missing or wrong; classes that differ
            between the splits, or have no readable image; a set larger than the machine's memory.
    """
    found = _find(kind, options, home)
    count, size = sum(map(len, found.splits.values())), found.size
    check_room(found.name, count, size, "give a smaller size=PIXELS")

    kinds: Counter[str] = Counter()
    unreadable: list[str] = []
    train, test = (
        _read(files, found.folder / part, size, found.classes, kinds, unreadable)
        for part, files in found.splits.items()
    )
    report = Report(
        count, dict(sorted(kinds.items())), tuple(sorted(unreadable)), dict(sorted(found.ignored.items()))
    )
    if unreadable:
        warnings.warn(f"data set {found.name!r}: {report}: {first(unreadable)}", stacklevel=3)
    return Dataset(found.name, train, test, found.classes, digest(train, test), report)


def some(kind: str, options: Mapping[str, str], home: Path, *, part: str, rows: Sequence[int], of: int) -> Split:
    """Return a few images of a set's ``train`` or ``test`` as `load` would, without decoding the others.

    Args:
        kind: as for `load`, and so are ``options`` and ``home``.
        part: ``train`` or ``test``.
        rows: places in the split.
        of: how many images the split has where the places come from; among other files they would mean others.

    Raises:
        StudyError: what `load` raises; another number of files; an image that can't be decoded.
    """
    found = _find(kind, options, home)
    files = [*found.splits.values()][part == "test"]
    if len(files) != of:
        raise StudyError(
            f"data set {found.name!r}: {len(files)} {part} files where {of} are meant: take the same set"
        )
    images = torch.empty(len(rows), found.size, found.size, 3, dtype=torch.uint8)
    for row, out in zip(rows, images.numpy(), strict=True):
        if why := prepare(files[row][0], out)[1]:
            raise StudyError(f"data set {found.name!r}: {files[row][0]}: {why}")
    return Split(images, torch.tensor([files[row][1] for row in rows]))


@dataclass(frozen=True)
class _Found:
    """The files of a set, before any is opened."""

    name: str
    folder: Path
    size: int
    classes: tuple[str, ...]
    splits: dict[str, Files]
    ignored: Counter[str]


def _find(kind: str, options: Mapping[str, str], home: Path) -> _Found:
    """Check a set's name and list its files."""
    known = ("path", "size") if kind == "folder" else ("size",)
    for key in options:
        if key not in known:
            raise unknown(f"option of data set {kind!r}", key, known)
    text, below = options.get("size", str(SIZE)), options.get("path", "") if kind == "folder" else kind
    if not (text.isdecimal() and len(text) < 5 and 8 <= int(text) <= 1024):
        raise StudyError(f"data set {kind!r}: size={text} should be a whole number of pixels, 8 to 1024")
    size, path = int(text), PurePosixPath(below)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise StudyError(f"data set 'folder': path={below} is no folder in the data root: {SOURCES[kind]}")
    given = ([f"path={path}"] if kind == "folder" else []) + ([f"size={size}"] if size != SIZE else [])
    name, folder = f"{kind}:{','.join(given)}" if given else kind, home / path
    if not folder.is_dir():
        how = f"{SOURCES[kind]}, or set {ROOT_VARIABLE} to the folder that holds {path.parts[0]}"
        raise StudyError(f"data set {name!r}: there is no folder {folder}: {how}")

    ignored: Counter[str] = Counter()
    try:
        classes, splits = (_tiny if kind == "tiny-imagenet-200" else folders)(folder, ignored)
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"data set {name!r}: {error}: make it readable, or unpack the set again") from None
    for part, files in splits.items():
        check_classes(folder / part, classes, files, ())  # before an hour of decoding
    shuffled = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(0)).tolist()
    splits["train"] = [splits["train"][at] for at in shuffled]
    return _Found(name, folder, size, classes, splits, ignored)


def first(names: Collection[str], most: int = 5) -> str:
    """Name the first few of names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def folders(folder: Path, ignored: Counter[str]) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return the classes and the files of both splits of an ImageFolder layout; count other files in ``ignored``.

    Raises:
        StudyError: a split that is missing, or a class folder that is in one split only.
    """
    parts = [part for part in ("train", "val", "test") if (folder / part).is_dir()][:2]
    if len(parts) < 2 or parts[0] != "train":
        raise StudyError(f"{folder} needs two folders, train and val (or test); it has {first(parts) or 'none'}")
    classes, others = (_classes(folder / part) for part in parts)
    if odd := set(classes) ^ set(others):
        alone = ", ".join(f"{name} (only in {parts[name in others]})" for name in sorted(odd)[:5])
        raise StudyError(f"{folder}: {len(odd)} class folders are in one split only: {alone}: add or remove them")
    return classes, {part: _files(folder / part, classes, ignored) for part in parts}


def _tiny(folder: Path, ignored: Counter[str]) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return the classes (sorted wnids) and the files of both splits of Tiny ImageNet as it is handed out."""
    classes, listed = _classes(folder / "train"), (folder / "wnids.txt").read_text().split()
    if odd := set(classes) ^ set(listed):
        raise StudyError(f"{folder}: in one only of wnids.txt and train: {first(odd)}: unpack the set again")
    table = folder / "val" / "val_annotations.txt"
    labels: dict[str, int] = {}
    for number, line in enumerate(table.read_text().splitlines(), 1):
        file, *rest = line.split("\t")
        if len(rest) != 5 or rest[0] not in listed or file in labels:
            rule = "a new file, a class of wnids.txt and the four sides of a box, with tabs between"
            raise StudyError(f"{table}, line {number}: {line!r} should be {rule}: unpack the set again")
        labels[file] = classes.index(rest[0])
    paths = {os.path.basename(path): path for path, _ in _files(folder / "val", ("images",), ignored)}
    if odd := labels.keys() ^ paths.keys():
        raise StudyError(f"{table} and the images beside it don't match: {first(odd)}: unpack the set again")
    # The order of the same images in class folders, so both layouts have one digest.
    val = [(paths[file], label) for file, label in sorted(labels.items(), key=lambda item: (item[1], item[0]))]
    return classes, {"train": _files(folder / "train", classes, ignored), "val": val}


def _classes(folder: Path) -> tuple[str, ...]:
    from torchvision.datasets.folder import find_classes

    return tuple(name for name in find_classes(folder)[0] if not name.startswith("."))


def _files(folder: Path, classes: tuple[str, ...], ignored: Counter[str]) -> Files:
    """Return the images below the class folders, and count in ``ignored`` what is none by its extension."""
    from torchvision.datasets.folder import is_image_file, make_dataset

    def is_image(path: str) -> bool:
        inside = Path(path).relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            return False
        if not is_image_file(path):
            ignored[inside.suffix.lower() or "without extension"] += 1
            return False
        return True

    labels = {name: label for label, name in enumerate(classes)}
    # Empty classes are allowed here, because they are better named together with unreadable files.
    found: Files = make_dataset(folder, labels, is_valid_file=is_image, allow_empty=True)
    return found


def check_classes(folder: Path, classes: tuple[str, ...], files: Files, unreadable: Collection[str]) -> None:
    """Raise StudyError where a split has no image of some class; ``unreadable`` ones are named as the cause."""
    if empty := set(range(len(classes))) - {label for _, label in files}:
        from torchvision.datasets.folder import IMG_EXTENSIONS

        why = f"unreadable: {first(unreadable)}" if unreadable else f"files need one of {' '.join(IMG_EXTENSIONS)}"
        names = first([classes[label] for label in empty])
        raise StudyError(f"{folder}: no readable image in class {names} ({why}): add some, or remove the class")


def _read(
    files: Files, folder: Path, size: int, classes: tuple[str, ...], kinds: Counter[str], unreadable: list[str]
) -> Split:
    """Return the prepared split; add to the counts of ``kinds`` and to the names of the ``unreadable``."""
    images = torch.empty(len(files), size, size, 3, dtype=torch.uint8)
    rows = images.numpy()
    with decoders() as pool:
        each = pool.map(prepare, (path for path, _ in files), rows)
        found = list(tqdm(each, folder.name, len(files), leave=False, unit="image", disable=None))
    good: Files = []
    bad: list[str] = []
    for at, ((path, label), (kind, why)) in enumerate(zip(files, found, strict=True)):
        kinds.update(kind)
        if why:
            bad.append(f"{Path(path).relative_to(folder.parent).as_posix()} ({why})")
            continue
        rows[len(good)] = rows[at]  # close the gaps in place: no second tensor
        good.append((path, label))
    check_classes(folder, classes, good, bad)
    unreadable += bad
    return Split(images[: len(good)], torch.tensor([label for _, label in good]))


@contextlib.contextmanager
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Give a thread for each core to `prepare` images on; meanwhile Pillow warns of nothing."""
    from PIL import Image

    Image.init()  # load Pillow's formats before there are threads
    with warnings.catch_warnings(), ThreadPoolExecutor(machine.cores()) as pool:
        warnings.simplefilter("ignore")  # of damaged EXIF data beside sound pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield pool


def prepare(file: str | BytesIO, out: NDArray[np.uint8]) -> tuple[list[str], str]:
    """Write the prepared image to ``out``, uint8 (size, size, 3); return its kinds, and why it is unreadable.

    Raises:
        StudyError: the machine failed, and not the image, which another attempt may read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            kinds, picture = _kinds(image), _rgb(image)
        shrinks = min(picture.size) > len(out)
        method = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
        out[:] = np.asarray(ImageOps.fit(picture, out.shape[:2], method))
    except UnidentifiedImageError:
        return [], "not an image"
    except Exception as error:  # decoders raise almost anything on damaged files
        why = str(getattr(error, "strerror", None) or error) or type(error).__name__
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING:
            which = file if isinstance(file, str) else "in the Parquet files"
            raise StudyError(f"image {which} was not read ({why}): see to that, then try again") from error
        return [], why
    return kinds, ""


def _kinds(image: Image.Image) -> list[str]:
    """Name what has to be converted in an image that is opened but not decoded yet."""
    tile = str(getattr(image, "tile", ""))  # its raw mode alone tells 16 bits of colour, which Pillow reads as 8
    found = {
        "greyscale": image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;16"),
        "palette": image.mode in ("P", "PA"),
        "CMYK": image.mode == "CMYK",
        "16-bit": ";16" in tile or image.mode == "I",
        "transparent": image.has_transparency_data,
        "turned by EXIF": _orientation(image) in TURNS,
    }
    return [kind for kind, is_it in found.items() if is_it]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112) or 0)
    except Exception:  # damaged EXIF data beside sound pixels, on which ImageOps.exif_transpose gives up
        return 0


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, in RGB of 8 bits."""
    from PIL import Image

    image.load()  # of TIFF files this undoes the turn, too
    turn = TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(Image.Transpose(turn))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow's own conversion clips at 255; the high byte is also what it takes of 16-bit colours.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no stated range")
    if upright.has_transparency_data:
        black = Image.new("RGBA", upright.size, "black")
        upright = Image.alpha_composite(black, upright.convert("RGBA"))
    return upright.convert("RGB")
