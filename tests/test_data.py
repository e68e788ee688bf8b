"""Data sets hold what they say, are the same everywhere, and a damaged one is named and left as it is."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from alexnet_lib import data
from alexnet_lib.data import data_root, load, synthetic
from alexnet_lib.dataset import Dataset, Split, _matrix_product, _summed_products, digest
from alexnet_lib.recipes import StudyError

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
CLOSED_PORT = "http://127.0.0.1:9/cifar-10-python.tar.gz"


def split(n: int = 6, size: int = 8, classes: int = 3) -> Split:
    values = torch.arange(n * size * size * 3) * 37 % 251
    return Split(values.to(torch.uint8).view(n, size, size, 3), torch.arange(n) % classes)


def dataset(train: Split, test: Split, classes: int = 3) -> Dataset:
    return Dataset("made", train, test, tuple("abcdefgh"[:classes]), digest(train, test))


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with ten images per batch in the official layout, whose md5 torchvision takes for the official ones."""
    folder = tmp_path / "root" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in BATCHES:
        batch = {"data": draw.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "url", CLOSED_PORT)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ALEXNET_DATA", str(folder.parent))
    return tmp_path / "root"


@pytest.fixture
def archive(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same set packed, outside an otherwise empty root."""
    packed = cifar.parent / CIFAR10.filename
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(cifar / CIFAR10.base_folder, CIFAR10.base_folder)
    for path in (cifar / CIFAR10.base_folder).iterdir():
        path.unlink()
    (cifar / CIFAR10.base_folder).rmdir()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    return packed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of a server, for this test alone, of the files beside the root."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *details: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- splits and sets --------------------------------------------------------------------------------------


def test_mean_is_the_exact_mean_of_each_training_pixel() -> None:
    images = torch.randint(0, 256, (300, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = dataset(Split(images, torch.arange(300) % 3), split())
    assert made.mean.dtype == torch.float32
    assert torch.equal(made.mean, torch.from_numpy(images.numpy().mean(0, dtype=np.float64)).float())


def test_std_is_measured_about_each_pixels_own_mean() -> None:
    made = dataset(split(100), split())
    pixels = made.train.images.double()
    assert made.std == pytest.approx((pixels - pixels.mean(0)).square().mean().sqrt().item(), rel=1e-12)


def test_a_gpu_s_sums_of_colours_multiplied_are_the_cpus() -> None:
    pixels = synthetic(size=64, train=2, test=1).train.images.reshape(-1, 3)
    assert torch.equal(_summed_products(pixels), _matrix_product(pixels))


def test_mean_and_std_do_not_look_at_the_test_split() -> None:
    one, other = dataset(split(), split(3)), dataset(split(), split(5))
    assert torch.equal(one.mean, other.mean)
    assert one.std == other.std


def test_digest_is_over_shapes_pixels_and_labels_of_both_splits() -> None:
    train, test = split(4), split(2)
    total = hashlib.sha256()
    for part, n in ((train, 4), (test, 2)):
        total.update(f"({n}, 8, 8, 3)".encode())
        total.update(part.images.numpy().tobytes())
        total.update(part.labels.numpy().astype("<i8").tobytes())
    assert digest(train, test) == total.hexdigest()


@pytest.mark.parametrize("part", ["images", "labels"])
def test_digest_notices_one_changed_value(part: str) -> None:
    changed = split()
    getattr(changed, part)[0] += 1
    assert digest(changed, split()) != digest(split(), split())


def test_moving_to_the_device_it_is_on_copies_nothing() -> None:
    made = dataset(split(), split())
    assert made.to("cpu") is made


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 8, 8, 3), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 8, 9, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2)),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)),
    ],
    ids=["float pixels", "channels first", "not square", "too many labels", "float labels", "empty"],
)
def test_a_split_of_another_form_is_refused(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(StudyError, match="need"):
        Split(images, labels)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_refused(label: int) -> None:
    bad = split()
    bad.labels[0] = label
    with pytest.raises(StudyError, match=r"test labels run from .* 3 classes are numbered 0 to 2"):
        dataset(split(), bad)


def test_splits_of_different_image_size_are_refused() -> None:
    with pytest.raises(StudyError, match="8 and 9 pixels"):
        dataset(split(), split(size=9))


# --- names and roots --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10", "did you mean 'cifar10'"),
        ("synthetic:sise=24", "did you mean 'size'"),
        ("synthetic:size", "'size' should be option=value"),
        ("synthetic:size=24,size=32", "each option once"),
        ("synthetic:size=1e2", "size=1e2 should be a whole number"),
        ("synthetic:size=4", "size=4 should be 8 to 1024"),
        ("synthetic:train=0", "train=0 should be 1 to"),
        ("synthetic:classes=1", "classes=1 should be 2 to 1024"),
        ("synthetic:seed=-1", "seed=-1 should be 0 to"),
        ("cifar10:size=24", "'cifar10' takes no options; given: size"),
    ],
)
def test_a_wrong_name_or_option_is_named(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load(name)


def test_options_may_stand_in_any_order_and_the_name_says_which_were_changed() -> None:
    one = load("synthetic:train=6, size=16, test=2, seed=0")
    other = load("synthetic:test=2,seed=0,size=16,train=6")
    assert one.name == other.name == "synthetic:size=16,train=6,test=2"
    assert one.digest == other.digest == load(one.name).digest


def test_root_is_the_variable_then_the_projects_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DATA", str(tmp_path / "variable"))
    assert data_root() == tmp_path / "variable"
    monkeypatch.delenv("ALEXNET_DATA")
    assert data_root() == Path(data.__file__).resolve().parents[1] / "data"


def test_root_of_a_package_installed_elsewhere_is_under_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    monkeypatch.setattr(data, "__file__", str(tmp_path / "site-packages" / "alexnet_lib" / "data.py"))
    assert data_root() == Path("data")


@pytest.mark.parametrize("below", ["", "data"])
def test_a_root_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_DATA", str(tmp_path / "file" / below))
    with pytest.raises(StudyError, match=r"is a file.*ALEXNET_DATA must name a folder"):
        load("cifar10")


def test_an_unreadable_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("ALEXNET_DATA", str(tmp_path))
    monkeypatch.setattr(os, "listdir", refuse)  # an administrator may read a folder whatever its permissions
    with pytest.raises(StudyError, match=r"can't be read \(Permission denied\): set its permissions"):
        load("cifar10")


# --- CIFAR-10 ---------------------------------------------------------------------------------------------


def test_cifar10_is_read_in_its_official_order_with_channels_last(cifar: Path) -> None:
    found = load("cifar10")
    first = pickle.loads((cifar / CIFAR10.base_folder / "data_batch_1").read_bytes())
    assert found.train.images.shape == (50, 32, 32, 3)
    assert found.train.images.is_contiguous()
    assert np.array_equal(found.train.images[3].numpy(), first["data"][3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert found.train.labels.tolist() == list(range(10)) * 5
    assert found.test.labels.tolist() == list(range(10))
    assert found.classes[9] == "class 9"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def alter(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize(
    ("harm", "complaint"),
    [(cut_short, "is cut short or altered"), (alter, "is cut short or altered"), (Path.unlink, "is missing")],
)
def test_a_harmed_file_is_named_and_nothing_is_replaced(cifar: Path, name: str, harm, complaint: str) -> None:
    harm(cifar / CIFAR10.base_folder / name)
    before = contents(cifar)
    with pytest.raises(StudyError, match=rf"{name} {complaint}.*delete that folder.*ALEXNET_DATA") as caught:
        load("cifar10")
    assert not any(other in str(caught.value) for other in {*BATCHES, "batches.meta"} - {name})
    assert contents(cifar) == before


def test_without_set_and_network_the_error_names_root_variable_and_source(archive: Path, cifar: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load("cifar10")
    for needed in (str(cifar), "ALEXNET_DATA", "https://www.cs.toronto.edu/~kriz/cifar.html", "download failed"):
        assert needed in str(caught.value)
    assert contents(cifar) == {}


def test_no_download_is_tried_where_it_is_not_wanted(
    archive: Path, cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DATA", str(cifar / "deeper"))
    with pytest.raises(StudyError, match="downloading was not asked for"):
        load("cifar10", download=False)
    assert not (cifar / "deeper").exists()


def test_a_download_makes_the_root_and_leaves_only_the_set(
    archive: Path, cifar: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{server}/{archive.name}")
    monkeypatch.setenv("ALEXNET_DATA", str(cifar / "deeper"))
    assert len(load("cifar10").train) == 50
    assert [path.name for path in (cifar / "deeper").iterdir()] == [CIFAR10.base_folder]


def test_a_download_that_is_cut_short_leaves_nothing(
    archive: Path, cifar: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(archive)
    monkeypatch.setattr(CIFAR10, "url", f"{server}/{archive.name}")
    with pytest.raises(StudyError, match="the download failed"):
        load("cifar10")
    assert contents(cifar) == {}


def test_an_archive_in_the_root_is_unpacked_and_kept(archive: Path, cifar: Path) -> None:
    packed = archive.rename(cifar / archive.name)
    assert len(load("cifar10").test) == 10
    assert packed.exists()


def test_a_cut_archive_in_the_root_is_named_and_kept(archive: Path, cifar: Path) -> None:
    packed = archive.rename(cifar / archive.name)
    cut_short(packed)
    before = contents(cifar)
    with pytest.raises(StudyError, match=r"cifar-10-python\.tar\.gz is cut short or altered"):
        load("cifar10")
    assert contents(cifar) == before


@pytest.fixture(scope="module")
def real() -> Dataset:
    """The real set, where this machine has it."""
    if not (data_root() / CIFAR10.base_folder).exists():
        pytest.skip("no CIFAR-10 under the data root: set ALEXNET_DATA to run this test")
    return load("cifar10", download=False)


def test_the_real_set_is_the_official_one(real: Dataset) -> None:
    assert real.digest == "85d212b49fbcdd74bd5059429cc84be1bc8a65ab11159c9b87ba6abfa74d8e0f"


def test_the_real_classes_are_balanced(real: Dataset) -> None:
    assert real.train.labels.bincount().tolist() == [5000] * 10
    assert real.test.labels.bincount().tolist() == [1000] * 10
    assert real.classes[:2] == ("airplane", "automobile")


def test_the_real_mean_colour_is_the_published_one(real: Dataset) -> None:
    assert real.mean.mean((0, 1)).tolist() == pytest.approx([125.307, 122.950, 113.865], abs=1e-3)


# --- sets made of others ------------------------------------------------------------------------------------


@pytest.fixture
def uneven() -> Dataset:
    """Twelve training images, of which class 0 has six, 1 has four and 2 has two; each image is its number."""
    images = torch.arange(12).byte()[:, None, None, None].expand(-1, 8, 8, 3).contiguous()
    return dataset(Split(images, torch.tensor([0] * 6 + [1] * 4 + [2] * 2)), split())


def drawn(made: Dataset) -> list[int]:
    return made.train.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("count", "of_each"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (6, [2, 2, 2]), (8, [3, 3, 2])])
def test_a_subset_takes_the_classes_in_turns(uneven: Dataset, count: int, of_each: list[int]) -> None:
    labels = uneven.train.labels[torch.tensor(drawn(uneven.subset(count, 0))).unique()]
    assert labels.bincount(minlength=3).tolist() == of_each


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_a_subset_is_as_long_as_the_whole_and_has_each_image_as_often(uneven: Dataset, count: int) -> None:
    found = drawn(uneven.subset(count, 0))
    often = [found.count(image) for image in set(found)]
    assert (len(found), len(often)) == (12, count)
    assert max(often) - min(often) <= 1


def test_a_larger_subset_holds_the_smaller_one_and_another_seed_draws_another(uneven: Dataset) -> None:
    small, large, other = (drawn(uneven.subset(count, seed)) for count, seed in ((3, 0), (7, 0), (3, 1)))
    assert set(small) < set(large)
    assert set(small) != set(other)


def test_a_subset_keeps_images_and_labels_together_and_leaves_the_test_images(uneven: Dataset) -> None:
    made = uneven.subset(5, 0)
    assert made.train.labels.tolist() == uneven.train.labels[drawn(made)].tolist()
    assert made.test is uneven.test


def test_a_subset_of_more_images_than_there_are_is_refused(uneven: Dataset) -> None:
    with pytest.raises(StudyError, match=r"'images': 13, but made has only 12"):
        uneven.subset(13, 0)


def test_turned_training_images_come_in_all_four_turns_with_the_turn_as_label(uneven: Dataset) -> None:
    whole = synthetic(size=8, train=3, test=2)
    made = whole.turned().train
    for image, turn in itertools.product(range(3), range(4)):
        turned = np.rot90(whole.train.images[image].numpy(), turn)
        assert any(np.array_equal(turned, some) for some in made.images[made.labels == turn].numpy()), (
            f"image {image} in turn {turn}"
        )
    assert made.labels.bincount().tolist() == [3, 3, 3, 3]


def test_turned_test_images_come_once(uneven: Dataset) -> None:
    whole = synthetic(size=8, train=1, test=9)
    made = whole.turned().test
    for image, turn, turned in zip(whole.test.images, made.labels, made.images, strict=True):
        assert np.array_equal(np.rot90(image.numpy(), int(turn)), turned.numpy())
    assert made.labels.bincount().tolist() == [3, 2, 2, 2]


def test_sets_made_of_others_have_digests_of_their_own(uneven: Dataset) -> None:
    made = [uneven, uneven.subset(3, 0), uneven.subset(3, 1), uneven.subset(4, 0), uneven.turned()]
    assert len({some.digest for some in made}) == len(made)
    assert uneven.turned().digest == made[-1].digest


# --- the embedded set -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic", "adbd3717ee2523b22074056d2aeb441f6847b54edd2b0fdab4e8ad3eccd7a100"),
        (
            "synthetic:size=224,train=4,test=2",
            "4446ff1ebc4210fbed9e982ba81fa6b2f7ff3d211d2d525244ad963e40c0e0e6",
        ),
        (
            "synthetic:size=30,classes=1000,train=40,test=2,seed=3",
            "86e2d3e54a818b0c88884257f59f303d346b10587c85007c5a95d70d99826d8d",
        ),
    ],
)
def test_the_embedded_set_is_the_same_bytes_everywhere(name: str, expected: str) -> None:
    assert load(name).digest == expected


@pytest.mark.parametrize("size", [8, 15, 33])
def test_the_embedded_set_has_the_sizes_asked_for(size: int) -> None:
    made = synthetic(size=size, classes=7, train=20, test=5)
    assert made.train.images.shape == (20, size, size, 3)
    assert made.image_size == size
    assert len(made.classes) == 7
    assert made.test.labels.tolist() == [0, 1, 2, 3, 4]


def test_every_image_of_the_embedded_set_is_another() -> None:
    made = synthetic(size=8, classes=2, train=40, test=40)
    every = torch.cat((made.train.images, made.test.images)).flatten(1)
    assert len(every.unique(dim=0)) == 80


def test_another_seed_gives_other_images() -> None:
    assert synthetic(size=8, train=2, test=2).digest != synthetic(size=8, train=2, test=2, seed=1).digest


def test_patterns_use_the_range_of_grey_levels_and_rarely_leave_it() -> None:
    images = synthetic(train=200, test=1).train.images
    assert images.float().mean().item() == pytest.approx(128, abs=5)
    assert 30 < images.float().std().item() < 80
    assert ((images == 0) | (images == 255)).float().mean().item() < 0.02


def test_classes_of_the_embedded_set_differ_in_structure_and_not_in_mean_image() -> None:
    made = synthetic()

    def error(features: Tensor, unseen: Tensor) -> float:
        centres = torch.stack([features[made.train.labels == k].mean(0) for k in range(10)])
        return (torch.cdist(unseen, centres).argmin(1) != made.test.labels).double().mean().item()

    pixels = [part.images.float().flatten(1) for part in (made.train, made.test)]
    spectra = [torch.fft.rfft2(p.view(-1, 32, 32, 3).mean(3)).abs().flatten(1) for p in pixels]
    assert error(*pixels) > 0.5
    assert error(*spectra) < 0.3


def test_a_few_made_up_images_are_those_at_their_places() -> None:
    name = "synthetic:size=8,train=6,test=4"
    whole = load(name)
    for part, split in (("train", whole.train), ("test", whole.test)):
        few = data.some(name, part, [3, 0], of=len(split))
        assert torch.equal(few.images, split.images[[3, 0]])
        assert torch.equal(few.labels, split.labels[[3, 0]])
