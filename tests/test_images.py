"""Pictures on disk become the paper's squares, whatever their format, and no file is lost without being named."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import alexnet_lib.__main__ as cli
from alexnet_lib import images, machine, train
from alexnet_lib.data import data_root, load, some, synthetic
from alexnet_lib.dataset import Dataset, Split
from alexnet_lib.recipes import Recipe, StudyError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data root that every test has to itself."""
    return tmp_path / "data"


def packed(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(colour: object = RED, mode: str = "RGB", side: int = 8) -> Image.Image:
    return Image.new(mode, (side, side), colour)


def photograph(width: int, height: int) -> Image.Image:
    """A piece of the embedded set, whose noise is as strong in every octave as in photographs."""
    pixels = synthetic(size=max(width, height), classes=2, train=1, test=1).train.images[0]
    return Image.fromarray(pixels[:height, :width].contiguous().numpy())


def lay_out(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def in_one_class(root: Path, files: Mapping[str, bytes]) -> Dataset:
    """Return the set of these training files, of a class called ``a``, at 8 pixels."""
    folder = root / "pictures"
    lay_out(folder, {f"train/a/{name}": content for name, content in files.items()})
    lay_out(folder, {"val/a/x.png": packed(plain())})
    return load("folder:path=pictures,size=8")


def pixels(root: Path, image: Image.Image, size: int) -> np.ndarray:
    lay_out(root / "one", {"train/a/x.png": packed(image), "val/a/x.png": packed(image)})
    return load(f"folder:path=one,size={size}").train.images[0].numpy()


def rms(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(one.astype(float) - other).mean()))


@pytest.fixture
def zoo(root: Path) -> Path:
    """Two classes in ``zoo``, whose images are grey of levels that count up in the set's order."""
    order = [f"train/{name}" for name in ("ape/B.PNG", "ape/a.png", "ape/deeper/a.png", "bee/1.png", "bee/10.png")]
    order += ["val/ape/x.png", "val/bee/x.png"]
    files = {name: packed(plain(10 * (at + 1), "L")) for at, name in enumerate(order)}
    lay_out(root / "zoo", dict(reversed(files.items())))
    return root / "zoo"


def greys(split: Split) -> list[tuple[int, int]]:
    """Return the images' levels of grey with their labels, sorted."""
    return sorted(zip(split.images[:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))


# --- order, names, splits ---------------------------------------------------------------------------------


def test_test_images_are_sorted_and_training_images_always_shuffled_alike(zoo: Path) -> None:
    found = load("folder:path=zoo,size=8")
    assert found.classes == ("ape", "bee")
    assert found.train.images[:, 0, 0, 0].tolist() == [50, 10, 20, 40, 30]
    assert found.train.labels.tolist() == [1, 0, 0, 1, 0]
    assert found.test.images[:, 0, 0, 0].tolist() == [60, 70]
    assert found.test.labels.tolist() == [0, 1]


def test_a_few_images_are_those_at_their_places_and_no_other_is_read(zoo: Path) -> None:
    whole = load("folder:path=zoo,size=8").train
    (zoo / "train" / "ape" / "a.png").write_bytes(b"no image")  # the third
    few = some("folder:path=zoo,size=8", "train", [4, 0, 4], of=5)
    assert torch.equal(few.images, whole.images[[4, 0, 4]])
    assert few.labels.tolist() == [0, 1, 0]
    assert some("folder:path=zoo,size=8", "test", [1], of=2).images.unique().tolist() == [70]


@pytest.mark.parametrize(
    ("rows", "of", "message"),
    [([0], 4, "5 train files where 4 are meant"), ([2], 5, r"a\.png: not an image")],
)
def test_a_few_images_of_another_set_or_an_unreadable_one_are_refused(
    zoo: Path, rows: list[int], of: int, message: str
) -> None:
    (zoo / "train" / "ape" / "a.png").write_bytes(b"no image")
    with pytest.raises(StudyError, match=message):
        some("folder:path=zoo,size=8", "train", rows, of=of)


def test_a_split_is_one_contiguous_tensor_of_the_size_asked_for(zoo: Path) -> None:
    found = load("folder:path=zoo,size=12")
    assert found.train.images.shape == (5, 12, 12, 3)
    assert found.train.images.is_contiguous()
    assert load("folder:path=zoo").image_size == 256


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("folder:size=256,path=zoo/", "folder:path=zoo"),
        ("folder:size=016,path=./zoo", "folder:path=zoo,size=16"),
        ("imagenette:size=256", "imagenette"),
        ("imagenette:size=8", "imagenette:size=8"),
    ],
)
def test_a_name_leaves_out_what_is_at_its_default(zoo: Path, root: Path, asked: str, name: str) -> None:
    (root / "imagenette").symlink_to(zoo)
    assert load(asked).name == name


def test_the_test_split_is_val_or_else_test(zoo: Path) -> None:
    (zoo / "val").rename(zoo / "test")
    assert len(load("folder:path=zoo,size=8").test) == 2
    lay_out(zoo, {f"val/{name}/x.png": packed(plain(99, "L")) for name in ("ape", "bee")})
    assert load("folder:path=zoo,size=8").test.images.unique().tolist() == [99]


def test_hidden_files_and_folders_and_other_extensions_are_left_alone(zoo: Path) -> None:
    before = load("folder:path=zoo,size=8")
    others = [".DS_Store", ".a.png", ".ipynb_checkpoints/a.png", "readme.txt", "b.TXT", "film.gif", "Makefile"]
    lay_out(zoo, {f"train/ape/{name}": b"x" for name in others})
    lay_out(zoo, {"train/.trash/a.png": b"x", "train/list.csv": b"x"})
    found = load("folder:path=zoo,size=8")
    assert found.digest == before.digest
    assert found.report.ignored == {".txt": 2, ".gif": 1, "without extension": 1}
    assert (found.report.files, found.report.unreadable) == (7, ())


def test_any_number_of_workers_gives_the_same_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{n:03}.jpg": packed(photograph(20 + n % 7, 15 + n % 5).rotate(n), "JPEG") for n in range(60)}
    files |= {"007.jpg": b"", "031.jpg": files["031.jpg"][:400]}
    digests = set()
    for workers in (1, 2, 16):
        monkeypatch.setattr(machine, "cores", lambda workers=workers: workers)
        with pytest.warns(UserWarning, match="left out: 2"):
            digests.add(in_one_class(root, files).digest)
    assert len(digests) == 1


# --- size and shape ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [False, True])
def test_the_central_square_is_kept(root: Path, turn: bool) -> None:
    image = Image.new("RGB", (60, 20), GREEN)
    image.paste(RED, (0, 0, 20, 20))
    image.paste(BLUE, (40, 0, 60, 20))
    found = pixels(root, image.transpose(Image.Transpose.ROTATE_90) if turn else image, 10)
    assert (found[1:-1, 1:-1] == GREEN).all()


def test_square_and_size_are_those_of_resizing_first_and_cropping_then(root: Path) -> None:
    image = photograph(64, 32)
    resized = image.resize((32, 16), Image.Resampling.HAMMING)
    assert (pixels(root, image, 16) == np.asarray(resized.crop((8, 0, 24, 16)))).all()


def test_an_image_of_the_right_size_keeps_its_pixels(root: Path) -> None:
    image = photograph(24, 24)
    assert (pixels(root, image, 24) == np.asarray(image)).all()


def test_enlarging_is_bicubic(root: Path) -> None:
    image = photograph(16, 16)
    assert (pixels(root, image, 24) == np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))).all()


@pytest.mark.parametrize("size", [27, 32, 40, 45])
def test_shrinking_comes_closest_to_the_mean_over_areas(root: Path, size: int) -> None:
    image = photograph(72, 72)
    edges = np.arange(size + 1) * 72 / size
    low, high, at = edges[:-1, None], edges[1:, None], np.arange(72)
    weights = (np.minimum(high, at + 1) - np.maximum(low, at)).clip(0) * size / 72
    area = np.einsum("ij,jkc,lk->ilc", weights, np.asarray(image).astype(float), weights)
    ours = rms(pixels(root, image, size), area)
    for other in (Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        assert ours < 0.9 * rms(np.asarray(image.resize((size, size), other)), area)


# --- kinds of files ---------------------------------------------------------------------------------------


def png_of_16_bits(colour: tuple[int, int, int]) -> bytes:
    """A PNG of 8 x 8 pixels of 16-bit colours, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + struct.pack(">3H", *colour) * 8) * 8
    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep(value: int, dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, dtype))


def palette(**options: object) -> bytes:
    image = plain(3, "P")
    image.putpalette([0, 0, 0] * 3 + [200, 100, 50])
    return packed(image, **options)


KINDS: dict[str, tuple[bytes, tuple[int, int, int], set[str]]] = {
    "rgb.png": (packed(plain((1, 2, 3))), (1, 2, 3), set()),
    "rgb.bmp": (packed(plain((1, 2, 3)), "BMP"), (1, 2, 3), set()),
    "rgb.webp": (packed(plain((1, 2, 3)), "WEBP", lossless=True), (1, 2, 3), set()),
    "baseline.jpeg": (packed(plain((90, 90, 90)), "JPEG"), (90, 90, 90), set()),
    "progressive.jpg": (packed(plain((90, 90, 90)), "JPEG", progressive=True), (90, 90, 90), set()),
    "grey.png": (packed(plain(77, "L")), (77, 77, 77), {"greyscale"}),
    "grey.jpg": (packed(plain(77, "L"), "JPEG"), (77, 77, 77), {"greyscale"}),
    "bits.png": (packed(plain(1, "1")), (255, 255, 255), {"greyscale"}),
    "palette.png": (palette(), (200, 100, 50), {"palette"}),
    "cmyk.tif": (packed(plain((0, 255, 255, 0), "CMYK"), "TIFF"), RED, {"CMYK"}),
    "cmyk.jpg": (packed(plain((0, 0, 0, 155), "CMYK"), "JPEG"), (100, 100, 100), {"CMYK"}),
    "half.png": (packed(plain((255, 100, 0, 128), "RGBA")), (128, 50, 0), {"transparent"}),
    "clear.png": (packed(plain((255, 255, 255, 0), "RGBA")), (0, 0, 0), {"transparent"}),
    "opaque.png": (packed(plain((9, 8, 7, 255), "RGBA")), (9, 8, 7), {"transparent"}),
    "clear palette.png": (palette(transparency=3), (0, 0, 0), {"palette", "transparent"}),
    "opaque palette.png": (palette(transparency=1), (200, 100, 50), {"palette", "transparent"}),
    "half grey.png": (packed(plain((200, 128), "LA")), (100, 100, 100), {"greyscale", "transparent"}),
    "clear grey.png": (packed(plain(77, "L"), transparency=77), (0, 0, 0), {"greyscale", "transparent"}),
    "deep.png": (packed(deep(40000)), (156, 156, 156), {"greyscale", "16-bit"}),
    "deep.tif": (packed(deep(40000), "TIFF"), (156, 156, 156), {"greyscale", "16-bit"}),
    "deep big-endian.tif": (packed(deep(40000, ">u2"), "TIFF"), (156, 156, 156), {"greyscale", "16-bit"}),
    "deep.pgm": (packed(deep(40000), "PPM"), (156, 156, 156), {"greyscale", "16-bit"}),
    "deepest.png": (packed(deep(65535)), (255, 255, 255), {"greyscale", "16-bit"}),
    "deep dark.png": (packed(deep(200)), (0, 0, 0), {"greyscale", "16-bit"}),
    "deep colour.png": (png_of_16_bits((65535, 40000, 200)), (255, 156, 0), {"16-bit"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_becomes_rgb_and_is_counted(root: Path, name: str) -> None:
    content, colour, kinds = KINDS[name]
    found = in_one_class(root, {name: content})
    assert found.train.images.flatten(0, 2).unique(dim=0).tolist() == [list(colour)]
    assert found.report.kinds == dict.fromkeys(kinds, 1)


def test_kinds_are_counted_over_all_files_of_both_splits(root: Path) -> None:
    lay_out(root / "pictures", {"val/a/grey.png": KINDS["grey.png"][0]})
    found = in_one_class(root, {name: content for name, (content, _, _) in KINDS.items()})
    counts = {kind: sum(kind in kinds for _, _, kinds in KINDS.values()) for kind in found.report.kinds}
    assert found.report.kinds == counts | {"greyscale": counts["greyscale"] + 1}
    assert found.report.files == len(KINDS) + 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_turned_by_exif_are_turned_back(root: Path, kind: str, orientation: int) -> None:
    image, exif = photograph(12, 8), Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    content = packed(image, kind, exif=exif, **lossless)
    found = in_one_class(root, {f"x.{kind.lower()}": content})
    with Image.open(BytesIO(content)) as opened:
        expected = ImageOps.fit(ImageOps.exif_transpose(opened), (8, 8))
    assert (found.train.images[0].numpy() == np.asarray(expected)).all()
    assert found.report.kinds == ({"turned by EXIF": 1} if 2 <= orientation <= 8 else {})


def test_a_16_bit_image_is_turned_too(root: Path) -> None:
    values, exif = np.repeat([[0], [40000]], 4, 0).repeat(8, 1).astype("<u2"), Image.Exif()
    exif[0x0112] = 3
    found = in_one_class(root, {"x.png": packed(Image.fromarray(values), exif=exif)})
    assert found.train.images[0, :, 0, 0].tolist() == [156] * 4 + [0] * 4


def with_exif(exif: bytes) -> bytes:
    return packed(photograph(8, 8), exif=b"Exif\0\0" + exif)


def test_damaged_exif_data_do_not_cost_a_sound_image(root: Path) -> None:
    content = with_exif(b"no TIFF header")
    with pytest.raises(SyntaxError), Image.open(BytesIO(content)) as image:
        image.getexif()
    found = in_one_class(root, {"x.png": content})
    assert (found.train.images[0].numpy() == np.asarray(photograph(8, 8))).all()
    assert found.report.unreadable == ()


def test_pillows_warnings_about_sound_pixels_stay_inside(root: Path) -> None:
    cut = struct.pack("<2sHIHHHI", b"II", 42, 8, 2, 0x0112, 3, 1)  # two entries promised, and less than one there
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(BytesIO(with_exif(cut))) as image:
        image.getexif()
    assert in_one_class(root, {"x.png": with_exif(cut)}).report.unreadable == ()


# --- unreadable files -------------------------------------------------------------------------------------


def noise(kind: str, **options: object) -> bytes:
    return packed(photograph(64, 64), kind, **options)


UNREADABLE = {
    "empty.png": b"",
    "text.jpg": b"404 not found",
    "cut.jpg": noise("JPEG")[:-300],
    "cut progressive.jpg": noise("JPEG", progressive=True)[:600],
    "cut.png": noise("PNG")[:-2000],
    "cut.bmp": noise("BMP")[:-20],
    "cut.webp": noise("WEBP")[:-20],
    "cut.tif": noise("TIFF")[:400],
    "header.png": noise("PNG")[:20],
    "floats.tif": packed(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
    "32 bits.tif": packed(Image.fromarray(np.full((8, 8), 40000, np.int32)), "TIFF"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_left_out_and_named(root: Path, name: str) -> None:
    with pytest.warns(UserWarning, match=rf"left out: 1: train/a/{name} \(.+\)$"):
        found = in_one_class(
            root, {"a.png": packed(plain(RED)), name: UNREADABLE[name], "z.png": packed(plain(BLUE))}
        )
    assert sorted(found.train.images[:, 0, 0].tolist()) == sorted([list(RED), list(BLUE)])
    (named,) = found.report.unreadable
    assert named.startswith(f"train/a/{name} (")
    assert str(root) not in named
    assert (found.report.files, found.report.kinds) == (4, {})


def test_a_folder_named_like_an_image_is_a_folder(root: Path) -> None:
    found = in_one_class(root, {"x.png/y.png": packed(plain(BLUE))})
    assert found.train.images[0, 0, 0].tolist() == list(BLUE)


@pytest.mark.parametrize("side", [11, 15])
def test_an_image_above_pillows_limit_is_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above the limit and refuses above its double
    with pytest.warns(UserWarning, match=rf"left out: 1: train/a/big.png \(Image size \({side**2} pixels\) exceeds"):
        found = in_one_class(root, {"big.png": packed(plain(side=side)), "small.png": packed(plain(side=10))})
    assert len(found.train) == 1


def test_a_file_that_may_not_be_read_is_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Image.open

    def refuse(path: str) -> Image.Image:
        if "secret" in path:
            raise PermissionError(13, "Permission denied", path)
        return whole(path)

    monkeypatch.setattr(Image, "open", refuse)  # an administrator may read a file whatever its permissions
    with pytest.warns(UserWarning, match=r"train/a/secret.png \(Permission denied\)$"):
        in_one_class(root, {"secret.png": packed(plain()), "x.png": packed(plain())})


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_failure_of_the_machine_leaves_no_image_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(path: str) -> Image.Image:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(
        StudyError, match=r"x.png was not read \((Too many open files|MemoryError)\): see to that, then"
    ):
        in_one_class(root, {"x.png": packed(plain())})


def test_labels_follow_their_images_over_the_gaps(zoo: Path) -> None:
    lay_out(zoo, {"train/ape/B.PNG": b"", "train/bee/1.png": b"", "val/ape/0.png": b""})
    with pytest.warns(UserWarning, match="left out: 3"):
        found = load("folder:path=zoo,size=8")
    assert greys(found.train) == [(20, 0), (30, 0), (50, 1)]
    assert found.test.labels.tolist() == [0, 1]


def test_one_warning_gives_the_number_and_the_first_names(zoo: Path) -> None:
    lay_out(zoo, {f"{part}/ape/bad{n}.png": b"" for part in ("train", "val") for n in range(4)})
    with pytest.warns(UserWarning, match="'folder:path=zoo,size=8'") as caught:
        load("folder:path=zoo,size=8")
    (only,) = caught
    names = [f"train/ape/bad{n}.png (not an image)" for n in range(4)] + ["val/ape/bad0.png (not an image)"]
    assert str(only.message).endswith(f"left out: 8: {', '.join(names)} and 3 more")
    assert only.filename == __file__


def test_readable_files_give_no_warning(zoo: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load("folder:path=zoo,size=8")
    assert caught == []


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("imagenete", r"unknown data set 'imagenete': did you mean 'imagenette'\?"),
        ("imagenette:sise=64", r"unknown option of data set 'imagenette' 'sise': did you mean 'size'\?"),
        ("imagenette:path=zoo", "unknown option of data set 'imagenette' 'path'"),
        ("tiny-imagenet-200:path=zoo", "unknown option of data set 'tiny-imagenet-200' 'path'"),
        ("folder:path=zoo,train=9", "unknown option of data set 'folder' 'train': known: path, size"),
        ("imagenette:size=7", "size=7 should be a whole number of pixels, 8 to 1024"),
        ("imagenette:size=1025", "size=1025 should be"),
        ("imagenette:size=-64", "size=-64 should be"),
        ("imagenette:size=64.0", "size=64.0 should be"),
        (f"imagenette:size={'9' * 5000}", "should be a whole number"),
        ("folder", r"'folder': path= is no folder in the data root: write folder:path=NAME"),
        ("folder:path=.", r"path=\. is no folder"),
        ("folder:path=../zoo", r"path=\.\./zoo is no folder"),
        ("folder:path=/zoo", "path=/zoo is no folder"),
    ],
)
def test_a_wrong_option_is_refused(zoo: Path, name: str, complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        load(name)


@pytest.mark.parametrize(
    ("name", "folder", "source"),
    [
        ("imagenette", "imagenette", "https://github.com/fastai/imagenette"),
        ("tiny-imagenet-200", "tiny-imagenet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
        ("folder:path=made/up", "made", "folder:path=NAME"),
    ],
)
def test_a_set_that_the_root_lacks_is_named_with_its_source(root: Path, name: str, folder: str, source: str) -> None:
    with pytest.raises(StudyError) as caught:
        load(name)
    for needed in (name, f"no folder {root / folder}", source, f"ALEXNET_DATA to the folder that holds {folder}"):
        assert needed in str(caught.value)


@pytest.mark.parametrize(("missing", "left"), [(["val"], "train"), (["train"], "val"), (["train", "val"], "none")])
def test_a_missing_split_is_named(zoo: Path, missing: list[str], left: str) -> None:
    for part in missing:
        (zoo / part).rename(zoo / f"not {part}")
    with pytest.raises(StudyError, match=rf"zoo needs two folders, train and val \(or test\); it has {left}$"):
        load("folder:path=zoo")


def test_without_train_val_and_test_are_no_pair(zoo: Path) -> None:
    (zoo / "train").rename(zoo / "test")
    with pytest.raises(StudyError, match="it has test, val"):
        load("folder:path=zoo")


def test_class_folders_of_one_split_only_are_named(zoo: Path) -> None:
    (zoo / "val" / "bee").rename(zoo / "val" / "wasp")
    with pytest.raises(StudyError, match=r"2 class folders .*: bee \(only in train\), wasp \(only in val\)"):
        load("folder:path=zoo")


def test_a_split_without_class_folders_is_refused(zoo: Path) -> None:
    (zoo / "val").rename(zoo / "elsewhere")
    (zoo / "val").mkdir()
    with pytest.raises(StudyError, match=r"'folder:path=zoo': Couldn't find any class folder in .*val"):
        load("folder:path=zoo")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_without_images_is_named_before_anything_is_decoded(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(Image, "open", None)
    for other in ("train", "val"):
        (zoo / other / "cow").mkdir()
    lay_out(zoo, {f"{other}/cow/x.{'txt' if other == part else 'png'}": b"x" for other in ("train", "val")})
    with pytest.raises(StudyError, match=rf"{part}: no readable image in class cow \(files need one of \.jpg "):
        load("folder:path=zoo")


def test_a_class_of_unreadable_images_is_named_with_them(zoo: Path) -> None:
    lay_out(zoo, {"val/bee/x.png": b"", "val/ape/bad.png": b""})
    with pytest.raises(StudyError, match=r"class bee \(unreadable: val/ape/bad.png \(.*\), val/bee/x.png \(not an"):
        load("folder:path=zoo")


def test_an_embedded_set_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(StudyError, match=r"data set 'synthetic' takes 6\.29e\+06 GB, and .*: draw fewer, or smaller"):
        load("synthetic:size=1024,train=1999999999")


def test_a_set_larger_than_the_memory_is_refused(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = 7 * 64 * 64 * 3
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": need // 4, "SC_PAGE_SIZE": 4}.__getitem__)
    assert load("folder:path=zoo,size=64").image_size == 64
    with pytest.raises(StudyError, match=r"size=65' takes 8\.87e-05 GB, and this machine has 8\.6e-05 GB .*smaller"):
        load("folder:path=zoo,size=65")


# --- Tiny ImageNet ----------------------------------------------------------------------------------------

BOX = "\t0\t0\t7\t7"


@pytest.fixture
def tiny(root: Path) -> Path:
    """Two classes in Tiny ImageNet's layout, whose validation images are mixed and counted backwards."""
    folder = root / "tiny-imagenet-200"
    files = {f"train/n0{k}/images/n0{k}_{n}.JPEG": packed(plain(50 * k + 9 * n, "L")) for k in (1, 2) for n in (0, 1)}
    files |= {f"train/n0{k}/n0{k}_boxes.txt": b"n\t0\t0\t7\t7\n" for k in (1, 2)}
    files |= {f"val/images/val_{n}.JPEG": packed(plain(200 + n, "L")) for n in range(4)}
    lines = "".join(f"val_{n}.JPEG\tn0{1 + n % 2}{BOX}\n" for n in (3, 2, 1, 0))
    files |= {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\tape\n", "val/val_annotations.txt": lines.encode()}
    lay_out(folder, {**files, "test/images/test_0.JPEG": b"unlabelled"})
    return folder


def test_tiny_imagenet_is_read_as_it_is_handed_out(tiny: Path) -> None:
    found = load("tiny-imagenet-200:size=8")
    assert found.classes == ("n01", "n02")
    assert greys(found.train) == [(50, 0), (59, 0), (100, 1), (109, 1)]
    assert found.test.images[:, 0, 0, 0].tolist() == [200, 202, 201, 203]
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert (found.report.files, found.report.ignored) == (8, {".txt": 2})
    assert load("tiny-imagenet-200").image_size == 256


def test_tiny_imagenet_in_class_folders_is_the_same_set(tiny: Path) -> None:
    before = load("tiny-imagenet-200:size=8").digest
    for n in range(4):
        content = (tiny / f"val/images/val_{n}.JPEG").read_bytes()
        lay_out(tiny.parent / "again", {f"val/n0{1 + n % 2}/val_{n}.JPEG": content})
    (tiny.parent / "again" / "train").symlink_to(tiny / "train")
    assert load("folder:path=again,size=8").digest == before


@pytest.mark.parametrize(
    "line",
    [
        "val_4.JPEG",
        f"val_4.JPEG n01{BOX}",
        f"val_4.JPEG\tn03{BOX}",
        "val_4.JPEG\tn01\t0\t0\t7",
        f"val_0.JPEG\tn01{BOX}",
    ],
)
def test_a_wrong_line_of_the_annotations_is_named(tiny: Path, line: str) -> None:
    table = tiny / "val" / "val_annotations.txt"
    table.write_text(f"{table.read_text()}{line}\n")
    with pytest.raises(StudyError) as caught:
        load("tiny-imagenet-200")
    assert f"{table}, line 5: {line!r} should be a new file" in str(caught.value)


def drop_image(tiny: Path) -> None:
    (tiny / "val/images/val_2.JPEG").unlink()


def drop_line(tiny: Path) -> None:
    table = tiny / "val" / "val_annotations.txt"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "val_2" not in line))


def drop_class(tiny: Path) -> None:
    (tiny / "wnids.txt").write_text("n01\n")


def drop_list(tiny: Path) -> None:
    (tiny / "wnids.txt").unlink()


def drop_table(tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").unlink()


def scramble_table(tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").write_bytes(b"\xff\xfe\xff")


def empty_class(tiny: Path) -> None:
    for path in (tiny / "train/n02/images").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (drop_image, r"val_annotations\.txt and the images beside it don't match: val_2\.JPEG: unpack"),
        (drop_line, r"val_annotations\.txt and the images beside it don't match: val_2\.JPEG: unpack"),
        (drop_class, r"in one only of wnids\.txt and train: n02"),
        (drop_list, r"No such file .*wnids\.txt.* unpack the set again"),
        (drop_table, r"No such file .*val_annotations\.txt.* unpack the set again"),
        (scramble_table, r"'tiny-imagenet-200': 'utf-8' codec can't decode .* unpack the set again"),
        (empty_class, r"train: no readable image in class n02"),
    ],
)
def test_what_is_wrong_in_tiny_imagenet_is_named(tiny: Path, harm: Callable[[Path], None], complaint: str) -> None:
    harm(tiny)
    with pytest.raises(StudyError, match=complaint):
        load("tiny-imagenet-200")


# --- use --------------------------------------------------------------------------------------------------


def test_a_net_trains_on_a_folder(root: Path, recipe: Recipe) -> None:
    part = synthetic(size=40, train=40, test=20)
    for name, split in (("train", part.train), ("val", part.test)):
        for n, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            content = packed(Image.fromarray(image.numpy()), "JPEG")
            lay_out(root / "patterns", {f"{name}/{label}/{n}.jpg": content})
    asked = replace(
        recipe, data="folder:path=patterns,size=36", crop=32, flip=True, colour="coded", batch=20, epochs=1
    )
    result = train.train(asked, load(asked.data))
    assert result.outcome == "completed"
    assert len(result.history) == 1
    assert 0 <= result.scores["test_error"] <= 1


def test_the_command_line_prints_the_report(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(zoo, {f"train/ape/bad{n}.png": b"" for n in range(9)} | {"train/ape/notes.txt": b"x"})
    with pytest.warns(UserWarning, match="left out: 9"):
        assert cli.main(["data", "folder:path=zoo,size=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "5 training and 2 test images of 8 pixels, 2 classes" in lines[1]
    assert lines[2] == "  16 image files; 7 greyscale; other files ignored: 1 .txt; unreadable and left out: 9"
    assert lines[3:] == [f"  train/ape/bad{n}.png (not an image)" for n in range(9)]


def test_the_report_goes_along_to_another_device(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load("folder:path=zoo,size=8")
    monkeypatch.setattr(Split, "to", lambda split, device: Split(split.images.clone(), split.labels))
    moved = found.to("elsewhere")
    assert moved is not found
    assert moved.report == found.report


def test_the_modules_import_where_the_packages_for_pictures_are_missing() -> None:
    missing = "PIL=None, torchvision=None, pyarrow=None, simplejpeg=None"
    code = f"import sys; sys.modules.update({missing}); import alexnet_lib.images, alexnet_lib.prepare"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="module")
def real() -> Dataset:
    """The real Imagenette at 32 pixels, where this machine has it."""
    if not (data_root() / "imagenette").exists():
        pytest.skip("no Imagenette under the data root: set ALEXNET_DATA to run this test")
    return load("imagenette:size=32")


def test_the_real_imagenette_is_the_one_that_the_study_used(real: Dataset) -> None:
    assert (len(real.train), len(real.test)) == (9469, 3925)
    assert real.classes == tuple(images.IMAGENETTE)
    assert real.train.labels.bincount().min() > 800
    assert real.report.kinds == {"greyscale": 242}
    assert real.report.unreadable == ()


def test_the_real_colours_are_those_of_photographs(real: Dataset) -> None:
    assert real.train.images.float().mean((0, 1, 2)) == pytest.approx(torch.tensor([117.94, 116.77, 109.68]), abs=0.1)
