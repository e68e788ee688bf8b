"""A prepared set is what its pictures are, byte for byte the same however it was made, and no damage goes unseen."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import imagenet

import alexnet_lib.__main__ as cli
from alexnet_lib import files, machine, runner, store
from alexnet_lib import prepare as preparation
from alexnet_lib.data import load, synthetic
from alexnet_lib.dataset import Dataset, Split, digest, resident
from alexnet_lib.prepare import prepare
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.train import Trainer, train

CLASSES = ("ape", "bee", "cow")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data root that every test has to itself."""
    return tmp_path / "data"


def packed(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """21 training and 6 validation pictures of 40 x 30 pixels in three classes, by path."""
    found = synthetic(size=40, classes=3, train=21, test=6)
    return {
        f"{part}/{CLASSES[label]}/{row:02}.jpg": packed(Image.fromarray(image.numpy()[:30]))
        for part, split in (("train", found.train), ("val", found.test))
        for row, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True))
    }


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def source(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    return lay_out(tmp_path / "pictures", pictures)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight files in a shard: three shards of training and one of validation images."""
    monkeypatch.setattr(preparation, "SHARD", 8)


@pytest.fixture
def zoo(source: Path, root: Path, small_shards: None) -> Dataset:
    prepare(source, root / "zoo")
    return load("zoo")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_memory(found: Dataset) -> Dataset:
    """Return the set as it would be if it had come from a folder: pixels in one tensor, nothing known beforehand."""
    train, test = (Split(resident(split.images), split.labels) for split in (found.train, found.test))
    return Dataset(found.name, train, test, found.classes, found.digest)


# --- what is in it ----------------------------------------------------------------------------------------


def test_images_are_the_paper_s_squares_at_jpeg_s_precision(zoo: Dataset, source: Path, root: Path) -> None:
    (root / "pictures").symlink_to(source)
    squares = load("folder:path=pictures")
    assert zoo.classes == squares.classes == CLASSES
    assert zoo.test.labels.tolist() == squares.test.labels.tolist()
    noise = (resident(zoo.test.images).float() - squares.test.images.float()).square().mean().sqrt()
    assert noise < 4
    assert zoo.train.labels.bincount().tolist() == squares.train.labels.bincount().tolist()


def test_every_decoder_gives_the_same_pixels(zoo: Dataset) -> None:
    table = zoo.train.images.table
    for row, image in zip(zoo.train.images.rows.tolist(), resident(zoo.train.images), strict=True):
        other = Image.open(io.BytesIO(table["jpeg"][row].as_py()))
        assert (image.numpy() == np.asarray(other)).all()


def test_labels_and_names_follow_their_images_into_the_random_order(zoo: Dataset, source: Path) -> None:
    jpegs = zoo.train.images
    names = [jpegs.table["name"][row].as_py() for row in jpegs.rows.tolist()]
    assert sorted(names) == sorted(path.relative_to(source).as_posix() for path in source.glob("train/*/*"))
    assert names != sorted(names)
    assert [name.split("/")[1] for name in names] == [CLASSES[label] for label in zoo.train.labels]
    again = load("zoo").train.images
    assert torch.equal(again.rows, jpegs.rows)


def test_a_holdout_is_a_sample_of_the_training_images(zoo: Dataset) -> None:
    held = zoo.holdout()
    assert (len(held.train), len(held.test)) == (17, 4)
    whole = resident(zoo.train.images)
    assert torch.equal(resident(held.test.images), whole[17:])
    assert torch.equal(held.mean, (whole[:17].double().mean(0)).float())
    assert held.digest != zoo.digest


def test_what_is_known_of_the_pixels_is_what_the_pixels_give(zoo: Dataset) -> None:
    other = in_memory(zoo)
    assert torch.equal(zoo.mean, other.mean)
    assert zoo.std == other.std
    assert all(torch.equal(one, two) for one, two in zip(zoo.colours, other.colours, strict=True))


def test_the_digest_of_pixels_on_disk_is_that_of_pixels_in_memory(zoo: Dataset) -> None:
    assert digest(zoo.train, zoo.test) == digest(
        *(Split(resident(s.images), s.labels) for s in (zoo.train, zoo.test))
    )


# --- training ---------------------------------------------------------------------------------------------


@pytest.fixture
def asked(recipe: Recipe) -> Recipe:
    """Crops, reflections and colour noise, in batches of 8, 8 and 5."""
    return replace(recipe, data="zoo", crop=224, flip=True, colour="printed", batch=8, epochs=2)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_from_disk_are_those_from_memory(
    zoo: Dataset, asked: Recipe, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: threads)
    monkeypatch.setattr(store, "TASK", 3)
    streamed, held = (Trainer(asked, found, torch.device("cpu")) for found in (zoo, in_memory(zoo)))
    for _ in range(2):
        pairs = list(zip(streamed.batches(), held.batches(), strict=True))
        assert [len(labels) for (_, labels), _ in pairs] == [8, 8, 5]
        assert all(torch.equal(one, two) for pair in pairs for one, two in zip(*pair, strict=True))


def test_a_run_from_disk_is_the_run_from_memory(zoo: Dataset, asked: Recipe) -> None:
    streamed, held = (train(asked, found) for found in (zoo, in_memory(zoo)))
    assert streamed.scores == held.scores
    assert [replace(epoch, seconds=0) for epoch in streamed.history] == [replace(e, seconds=0) for e in held.history]
    assert torch.equal(streamed.probabilities, held.probabilities)


def test_a_run_says_how_long_it_waited_for_images(zoo: Dataset, asked: Recipe) -> None:
    cost = train(asked, zoo).cost
    assert 0 < cost["wait_seconds"] < cost["train_seconds"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_batches_from_disk_are_those_from_memory(zoo: Dataset, asked: Recipe) -> None:
    streamed, held = (Trainer(asked, found, torch.device("cuda")) for found in (zoo, in_memory(zoo)))
    for one, two in zip(streamed.batches(), held.batches(), strict=True):
        assert all(torch.equal(mine, other) for mine, other in zip(one, two, strict=True))
    result = train(replace(asked, batch=2), zoo, device="cuda")  # ten batches: some are replayed
    assert result.outcome == "completed"
    assert 0 < result.cost["wait_seconds"] < result.cost["train_seconds"]


def test_later_batches_are_decoded_while_one_is_used(zoo: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    begin = store.Jpegs._begin
    monkeypatch.setattr(store.Jpegs, "_begin", lambda self, rows, pool: begun.append(1) or begin(self, rows, pool))
    parts = zoo.train.images.split(3)
    next(parts)
    assert len(begun) == 1 + store.AHEAD
    parts.close()


def test_an_image_that_can_t_be_decoded_is_named() -> None:
    table = pa.table({"jpeg": [b"no JPEG"], "name": ["train/ape/00.jpg"]})
    with pytest.raises(StudyError, match=r"image train/ape/00\.jpg is damaged .*data check NAME"):
        next(store.Jpegs(table, torch.tensor([0]), 256).split(1))


# --- odd files --------------------------------------------------------------------------------------------


def test_odd_files_are_converted_or_left_out_and_each_is_named(source: Path, root: Path) -> None:
    grey = Image.new("L", (9, 9), 77)
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = packed(Image.new("RGB", (64, 64), (9, 99, 200)))
    lay_out(
        source / "train" / "ape",
        {
            "grey.png": packed(grey, "PNG"),
            "cmyk.jpg": packed(Image.new("CMYK", (9, 9))),
            "deep.png": packed(Image.fromarray(np.full((8, 8), 40000, np.uint16)), "PNG"),
            "turned.jpg": packed(Image.new("RGB", (9, 5)), exif=turned),
            "empty.jpg": b"",
            "cut.jpg": whole[:-60],
            "page, lost.jpg": b"404 not found",
            "notes.txt": b"no picture",
        },
    )
    prepare(source, root / "odd")
    found = load("odd")
    assert len(found.train) == 25
    assert found.report.kinds == {"16-bit": 1, "CMYK": 1, "greyscale": 2, "turned by EXIF": 1}
    assert (found.report.files, found.report.ignored) == (34, {".txt": 1})
    assert [name.partition(" (")[0] for name in found.report.unreadable] == [
        f"train/ape/{name}.jpg" for name in ("cut", "empty", "page, lost")
    ]
    lines = list(csv.DictReader((root / "odd" / store.REPORT).read_text().splitlines()))
    assert {line["file"].removeprefix("train/ape/"): line["converted"] for line in lines} == {
        "cmyk.jpg": "CMYK",
        "cut.jpg": "",
        "deep.png": "greyscale, 16-bit",
        "empty.jpg": "",
        "grey.png": "greyscale",
        "page, lost.jpg": "",
        "turned.jpg": "turned by EXIF",
    }
    assert [line["unreadable"] != "" for line in lines] == [not line["converted"] for line in lines]


def test_a_shard_of_unreadable_files_is_empty(source: Path, root: Path, small_shards: None) -> None:
    lay_out(source / "train" / "ape", {f"-{n:02}.jpg": b"" for n in range(8)})
    prepare(source, root / "odd")
    assert len(load("odd").train) == 21


def test_a_class_of_unreadable_files_is_refused(source: Path, root: Path) -> None:
    lay_out(source, {path.relative_to(source).as_posix(): b"" for path in source.glob("val/bee/*")})
    with pytest.raises(StudyError, match=r"val: no readable image in class bee \(unreadable: val/bee/"):
        prepare(source, root / "odd")
    assert not (root / "odd").exists()


# --- Parquet ----------------------------------------------------------------------------------------------


def parquet(path: Path, cells: object, labels: object, names: tuple[str, ...] = CLASSES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"info": {"features": {"label": {"names": names}}}} if names else {}
    table = pa.table({"image": cells, "label": labels}, metadata={"huggingface": json.dumps(about)})
    pq.write_table(table, path, row_group_size=4)


@pytest.fixture
def hub(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    """The pictures in Parquet files of up to eleven rows."""
    folder = tmp_path / "hub"
    for part, name in (("train", "train"), ("val", "validation")):
        rows = [(path, content) for path, content in sorted(pictures.items()) if path.startswith(part)]
        for number, start in enumerate(range(0, len(rows), 11)):
            some = rows[start : start + 11]
            cells = [{"bytes": content, "path": os.path.basename(path)} for path, content in some]
            labels = [CLASSES.index(path.split("/")[1]) for path, _ in some]
            parquet(folder / "data" / f"{name}-{number:05}-of-00002.parquet", cells, labels)
    return folder


def test_parquet_files_give_the_images_of_the_folder(zoo: Dataset, hub: Path, root: Path) -> None:
    prepare(hub, root / "hub")
    found = load("hub")
    assert found.classes == CLASSES
    for one, two in ((zoo.train, found.train), (zoo.test, found.test)):
        assert one.images.table["jpeg"].to_pylist() == two.images.table["jpeg"].to_pylist()
        assert torch.equal(one.labels, two.labels)
    names = found.train.images.table["name"].to_pylist()
    assert names[0] == "data/train-00000-of-00002.parquet row 0 00.jpg"
    assert names[-1].startswith("data/train-00001-of-00002.parquet row 9 ")


def test_classes_without_names_are_numbered(hub: Path, root: Path) -> None:
    for path in hub.glob("data/*.parquet"):
        table = pq.read_table(path)
        parquet(path, table["image"], table["label"], names=())
    prepare(hub, root / "hub")
    assert load("hub").classes == ("0", "1", "2")


def cut_short(hub: Path) -> None:
    path = hub / "data" / "validation-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-40])


def of_other_columns(hub: Path) -> None:
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), hub / "data" / "train-00000-of-00002.parquet")


def of_words(hub: Path) -> None:
    parquet(hub / "data" / "train-00000-of-00002.parquet", [{"bytes": b"", "path": ""}], ["ape"])


def unlabelled(hub: Path) -> None:
    path = hub / "data" / "validation-00000-of-00002.parquet"
    table = pq.read_table(path)
    parquet(path, table["image"], [0, 1, -1, 2, 2, 2])


def too_high(hub: Path) -> None:
    path = hub / "data" / "train-00001-of-00002.parquet"
    table = pq.read_table(path)
    parquet(path, table["image"], [0, 1, 2, 3, *[0] * 6])


def without_a_class(hub: Path) -> None:
    path = hub / "data" / "validation-00000-of-00002.parquet"
    table = pq.read_table(path)
    parquet(path, table["image"], [0, 0, 0, 2, 2, 2])


def of_bare_bytes(hub: Path) -> None:
    path = hub / "data" / "train-00000-of-00002.parquet"
    pq.write_table(pa.table({"image": pa.array([b"a picture"]), "label": [0]}), path)


def with_damaged_notes(hub: Path) -> None:
    path = hub / "data" / "train-00000-of-00002.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": "{"}), path)


def of_other_names(hub: Path) -> None:
    path = hub / "data" / "validation-00000-of-00002.parquet"
    table = pq.read_table(path)
    parquet(path, table["image"], table["label"], names=CLASSES[::-1])


def without_a_split(hub: Path) -> None:
    (hub / "data" / "validation-00000-of-00002.parquet").unlink()


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (of_bare_bytes, r"train-00000-of-00002\.parquet .* with columns image \(bytes, path\) and label"),
        (with_damaged_notes, r"train-00000-of-00002\.parquet is cut short, damaged or not a Parquet file"),
        (
            cut_short,
            r"validation-00000-of-00002\.parquet is cut short, damaged or not a Parquet file .* fetch it again",
        ),
        (of_other_columns, r"train-00000-of-00002\.parquet .* with columns image \(bytes, path\) and label"),
        (of_words, r"train-00000-of-00002\.parquet .* label, of whole numbers"),
        (unlabelled, r"validation-00000-of-00002\.parquet, row 2: label -1 is none of the 3 classes, 0 to 2: leave"),
        (too_high, r"train-00001-of-00002\.parquet, row 3: label 3 is none of the 3 classes"),
        (of_other_names, r"validation-00000-of-00002\.parquet names other classes, or in another order, than"),
        (without_a_class, r"hub, split val: no image of class bee: fetch the files that are missing"),
        (without_a_split, r"needs Parquet files train\* and validation\* .*; it has train-00000-of-00002\.parquet, "),
    ],
)
def test_what_is_wrong_in_parquet_files_is_named(
    hub: Path, root: Path, harm: Callable[[Path], None], complaint: str
) -> None:
    harm(hub)
    with pytest.raises(StudyError, match=complaint):
        prepare(hub, root / "hub")
    assert not root.exists()


# --- ILSVRC-2012 ------------------------------------------------------------------------------------------


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, each in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(each)
            archive.addfile(entry, io.BytesIO(each))
    return content.getvalue()


@pytest.fixture
def official(tmp_path: Path, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures as ILSVRC-2012's archives: a tar of a tar for each class, and one of mixed validation images."""
    inner = {
        f"{name}.tar": tar(
            {os.path.basename(path): content for path, content in pictures.items() if f"train/{name}/" in path}
        )
        for name in CLASSES
    }
    val = [(path, content) for path, content in pictures.items() if path.startswith("val")]
    synsets = [(n + 1, name, f"{name}, an animal", "", 0) for n, name in enumerate(CLASSES)]
    fields = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "i4")]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array(synsets, fields)})
    truth = "".join(f"{CLASSES.index(path.split('/')[1]) + 1}\n" for path, _ in val)
    kit = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    archives = {
        "train": tar(inner),
        "val": tar({f"ILSVRC2012_val_{n:08}.JPEG": content for n, (_, content) in enumerate(val, 1)}),
        "devkit": tar({f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in kit.items()}, "w:gz"),
    }
    known = {
        part: (name, hashlib.md5(archives[part]).hexdigest()) for part, (name, _) in imagenet.ARCHIVE_META.items()
    }
    monkeypatch.setattr(imagenet, "ARCHIVE_META", known)
    return lay_out(tmp_path / "ILSVRC2012", {name: archives[part] for part, (name, _) in known.items()})


def test_the_official_archives_are_unpacked_and_prepared(official: Path, zoo: Dataset, root: Path) -> None:
    lay_out(official / "train.partial", {"n01/half.JPEG": b""})  # of an unpacking that was killed
    prepare(official, root / "imagenet")
    found = load("imagenet")
    assert sorted(path.name for path in official.iterdir() if path.is_dir()) == ["train", "val"]
    assert found.classes == CLASSES
    assert found.train.images.table["jpeg"].to_pylist() == zoo.train.images.table["jpeg"].to_pylist()
    assert sorted(found.test.images.table["jpeg"].to_pylist()) == sorted(zoo.test.images.table["jpeg"].to_pylist())
    assert found.test.labels.bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize("part", ["train", "val", "devkit"])
def test_a_corrupt_or_missing_archive_is_named(official: Path, root: Path, part: str) -> None:
    path = official / imagenet.ARCHIVE_META[part][0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match=rf"source .*: The archive {path.name} is not present .* or is corrupted\."):
        prepare(official, root / "imagenet")
    assert not root.exists()
    assert (official / "train").exists() == (part != "train")
    assert not (official / "val").exists()


# --- stopping and going on --------------------------------------------------------------------------------

KILLED_TWICE = """
import os, signal, sys
import pyarrow, torchvision  # once, not in each child
from pathlib import Path
from alexnet_lib import prepare

source, folder = map(Path, sys.argv[1:])
prepare.SHARD, replace, calls = 8, os.replace, []

def kill(*names):
    calls.append(names)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

for _ in range(2):
    if not os.fork():
        os.replace = kill
        prepare.prepare(source, folder)
    assert os.wait()[1] == signal.SIGKILL
    made = sorted(folder.with_suffix(".partial").glob("*.arrow"))
    print(len(made), made[0].stat().st_mtime_ns)
"""


def test_killed_twice_on_the_way_a_preparation_ends_with_the_same_bytes(
    source: Path, root: Path, small_shards: None
) -> None:
    lay_out(source / "train" / "bee", {"broken.jpg": b""})
    command = [sys.executable, "-c", KILLED_TWICE, source, root / "killed"]
    told = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    (first, made), (second, still) = (line.split() for line in told.stdout.splitlines())
    assert (first, second) == ("1", "2")
    prepare(source, root / "killed")
    prepare(source, root / "whole")
    assert contents(root / "killed") == contents(root / "whole")
    end = str((root / "killed" / "train-00000.arrow").stat().st_mtime_ns)
    assert made == still == end, "the first shard is made once"
    assert not list(root.glob("*.partial"))


@pytest.mark.parametrize("threads", [1, 4])
def test_any_number_of_threads_makes_the_same_bytes(
    source: Path, root: Path, zoo: Dataset, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: threads)
    prepare(source, root / "other")
    assert contents(root / "other") == contents(root / "zoo")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the third file that is written be the last that fits, but for its end."""
    sync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_leaves_nothing_half_written_and_the_next_call_goes_on(
    source: Path, root: Path, zoo: Dataset, full_disk: None
) -> None:
    with pytest.raises(StudyError, match=r"train-00002\.arrow was not written \(No space left .* same command again"):
        prepare(source, root / "again")
    assert sorted(contents(root / "again.partial")) == ["train-00000.arrow", "train-00001.arrow"]
    prepare(source, root / "again")
    assert contents(root / "again") == contents(root / "zoo")


def test_a_file_that_can_grow_no_further_is_not_kept(
    source: Path, root: Path, largest_file: Callable[[int], contextlib.AbstractContextManager[None]]
) -> None:
    with largest_file(20_000), pytest.raises(StudyError, match="was not written"):
        prepare(source, root / "zoo")
    assert not contents(root / "zoo.partial")


def test_a_set_that_another_process_prepares_is_left_to_it(source: Path, root: Path) -> None:
    with (
        files.try_lock(root / "zoo.lock"),
        pytest.raises(StudyError, match="zoo is being prepared by another process"),
    ):
        prepare(source, root / "zoo")
    assert list(root.iterdir()) == []
    prepare(source, root / "zoo")
    assert [path.name for path in root.iterdir()] == ["zoo"]


def test_archives_that_another_process_unpacks_are_left_to_it(official: Path, root: Path) -> None:
    before = sorted(official.iterdir())
    with (
        files.try_lock(official / "unpacking.lock"),
        pytest.raises(StudyError, match=r"is being unpacked by another process: wait for it"),
    ):
        prepare(official, root / "zoo")
    assert sorted(official.iterdir()) == before


def test_another_source_on_the_way_is_refused(source: Path, root: Path, small_shards: None, full_disk: None) -> None:
    with pytest.raises(StudyError, match="No space left"):
        prepare(source, root / "zoo")
    lay_out(source, {"val/cow/more.jpg": b""})
    with pytest.raises(StudyError, match=r"zoo\.partial was begun with another source, .* or delete the folder"):
        prepare(source, root / "zoo")


# --- damage -----------------------------------------------------------------------------------------------


def changed(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["train-00001.arrow", "val-00000.arrow", store.MOMENTS, store.REPORT])
def test_a_flipped_byte_is_found_by_a_check(zoo: Dataset, root: Path, name: str) -> None:
    store.check(root / "zoo")
    changed(root / "zoo" / name, (root / "zoo" / name).stat().st_size // 2)
    with pytest.raises(StudyError, match=rf"zoo: {name} is altered or cut short: copy it again .* prepare the set"):
        store.check(root / "zoo")


def test_a_shard_with_any_flipped_bit_outside_its_pictures_is_refused_or_read(zoo: Dataset, root: Path) -> None:
    path = root / "zoo" / "train-00000.arrow"
    whole = path.read_bytes()
    pictures = store.read({path: None}).column("jpeg")
    first, last = (whole.index(pictures[row].as_py()) for row in (0, -1))
    outside = [*range(first), *range(last + len(pictures[-1].as_py()), len(whole))]
    refused = 0
    for at in random.Random(0).sample(outside, 200):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            store.read({path: None}).to_pylist()  # follows every offset
        except StudyError as error:
            refused += 1
            assert "train-00000.arrow is missing, cut short or altered" in str(error)  # noqa: PT017 - some are read
    assert 50 < refused < 200


def test_a_check_names_all_that_is_wrong(zoo: Dataset, root: Path) -> None:
    (root / "zoo" / "train-00000.arrow").unlink()
    changed(root / "zoo" / "train-00002.arrow", 1000)
    with pytest.raises(
        StudyError, match=r"train-00000\.arrow can't be read \(No such .*, train-00002\.arrow is altered"
    ):
        store.check(root / "zoo")


def test_moments_with_a_flipped_byte_are_not_trained_on(zoo: Dataset, root: Path) -> None:
    changed(root / "zoo" / store.MOMENTS, (root / "zoo" / store.MOMENTS).stat().st_size // 2)
    with pytest.raises(StudyError, match=rf"{store.MOMENTS} is missing, cut short or altered \(wrong checksum\)"):
        load("zoo")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("name", ["train-00001.arrow", "val-00000.arrow", store.MOMENTS, store.MANIFEST])
@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_set_that_is_cut_short_is_not_opened(
    zoo: Dataset, root: Path, harm: Callable[[Path], None], name: str
) -> None:
    harm(root / "zoo" / name)
    wrong = (
        "unknown data set 'zoo'" if (harm, name) == (Path.unlink, store.MANIFEST) else rf"zoo/{name} is missing, cut"
    )
    with pytest.raises(StudyError, match=wrong):
        load("zoo")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, r"store\.json is of version 2, and this library reads 1: prepare the set again"),
        ({"classes": ["ape", "bee"]}, r"store\.json is altered \(its digest is not that of its content\)"),
    ],
)
def test_another_version_and_an_altered_manifest_are_told_apart(
    zoo: Dataset, root: Path, change: dict[str, object], complaint: str
) -> None:
    path = root / "zoo" / store.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StudyError, match=complaint):
        load("zoo")


def test_labels_outside_the_classes_are_refused(zoo: Dataset, root: Path) -> None:
    path = root / "zoo" / store.MANIFEST
    manifest = json.loads(path.read_text()) | {"classes": ["ape", "bee"]}
    path.write_text(json.dumps(manifest | {"digest": store.manifest_sum(manifest)}))
    with pytest.raises(
        StudyError, match="zoo: training labels run from 0 to 2, but its 2 classes are numbered 0 to 1"
    ):
        load("zoo")


# --- names and commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "folder", "a b", "a:b", "a.b", "-x", ""])
def test_a_name_that_means_something_else_is_refused(source: Path, root: Path, name: str) -> None:
    with pytest.raises(StudyError, match="take another name, of letters, digits, - and _"):
        prepare(source, Path(f"{root}/{name}") if name else Path("/"))


def test_a_folder_of_pictures_is_no_prepared_set_and_nobody_is_told_to_delete_it(root: Path) -> None:
    lay_out(root / "mine", {"train/a/one.JPEG": b""})
    with pytest.raises(StudyError, match=r"mine is there already and is no prepared set: take another name$"):
        prepare(root / "mine", root / "mine")
    with pytest.raises(StudyError, match=rf"mine is no prepared set: it has no {store.MANIFEST}$"):
        store.check(root / "mine")


def test_a_folder_that_is_there_is_left_alone(zoo: Dataset, source: Path, root: Path) -> None:
    before = contents(root / "zoo")
    with pytest.raises(StudyError, match=r"zoo is there already: see data check zoo, or delete it"):
        prepare(source, root / "zoo")
    assert contents(root / "zoo") == before


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [("val", r"needs two folders, train and val \(or test\); it has train"), ("val/cow", r"cow \(only in train\)")],
)
def test_a_source_that_lacks_a_split_or_a_class_is_refused(
    source: Path, root: Path, harm: str, complaint: str
) -> None:
    shutil.rmtree(source / harm)
    with pytest.raises(StudyError, match=complaint):
        prepare(source, root / "zoo")
    assert not root.exists()


def test_a_set_that_isn_t_prepared_is_named_with_how_to(zoo: Dataset) -> None:
    with pytest.raises(StudyError, match=r"unknown data set 'zo': did you mean 'zoo'\? .*data prepare zo --source"):
        load("zo")


def test_the_commands_prepare_check_and_show(source: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "prepare", "zoo", "--source", str(source)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("zoo: 21 training and 6 test images of 256 pixels, 3 classes, sha256 ")
    assert lines[2] == "  27 image files; unreadable and left out: 0"
    assert cli.main(["data", "check", "zoo"]) == 0
    assert capsys.readouterr().out.splitlines() == [lines[0], "every file is as it was written", *lines[1:]]
    (root / "zoo" / "train-00000.arrow").unlink()  # which loading would give up at
    changed(root / "zoo" / store.REPORT, 3)
    assert cli.main(["data", "check", "zoo"]) == 2
    told = capsys.readouterr().err
    assert "train-00000.arrow can't be read" in told
    assert "report.csv is altered" in told


@pytest.mark.usefixtures("recipe")
def test_training_from_disk_prints_the_share_of_waiting(zoo: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "tiny", "--data", "zoo", "--set", "epochs=1", "batch=7"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    share, _, rest = last.partition(" % ")
    assert 0 <= float(share) <= 100
    assert rest == "of the training's time went by in waiting for images from disk"


def test_the_benchmark_names_every_loop_and_the_ratios(
    zoo: Dataset, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "workers", lambda device, jobs: ThreadPoolExecutor(jobs))
    assert cli.main(["bench", "--input", "zoo", "--source", str(source), "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours, theirs = ("squares, uint8", "crops, uint8", "inputs, float32"), ("same JPEGs", "originals")
    names = (*ours, *(f"ImageFolder, {files}" for files in theirs))
    assert [line[:28].rstrip() for line in lines[3:8]] == list(names)
    rates = {line[:28].rstrip(): float(line[28:40].replace(",", "")) for line in lines[3:8]}
    for line in lines[9:]:
        one, two = line.split(":")[0].split(" / ")
        assert float(line.split(":")[1].split()[0]) == pytest.approx(rates[one] / rates[two], abs=0.05)
    assert len(lines[9:]) == 6


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--input zoo", "write: bench --input NAME --source FOLDER"),
        ("--input synthetic --source x", "not a prepared set"),
        ("--input zoo --source nowhere", "bench --source nowhere: needs pictures as train/CLASS/IMAGE"),
        ("--input zoo --source x --device cuda", "bench --input measures the processor: leave --device out"),
    ],
)
@pytest.mark.usefixtures("zoo")
def test_a_benchmark_without_what_it_needs_is_refused(
    line: str, complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "workers", lambda device, jobs: ThreadPoolExecutor(jobs))
    assert cli.main(["bench", *line.split()]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("line", ["prepare zoo", "prepare --source x", "check", "check a b", "zoo --source x"])
def test_an_incomplete_command_says_what_is_meant(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", *line.split()]) == 2
    assert "write: data prepare NAME --source FOLDER, or data check NAME" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pillow", "pyarrow", "simplejpeg", "torchvision"])
def test_a_missing_package_is_named(zoo: Dataset, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    module = {"pillow": "PIL"}.get(package, package)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(StudyError, match=rf"need the package {package}: pip install 'alexnet-study\[imagenet\]'"):
        load("zoo")
