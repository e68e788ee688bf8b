"""The contenders of a bench do the work that they are timed for, and its report holds what was measured."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alexnet_lib import bench, data, machine, models, runner
from alexnet_lib.dataset import Dataset
from alexnet_lib.recipes import Recipe, StudyError

LARGE = replace(bench.ALEXNET, net="alexnet-reduced", crop=128, batch=4)


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)


@pytest.fixture
def photos() -> Dataset:
    return data.load("synthetic:size=132,train=8,test=2,classes=3")


def rates(report: str) -> dict[str, float]:
    """Return images a second by contender."""
    found = re.findall(r"^(\S.*?) {2,}([\d,.]+) +[\d,.]+ +[\d,.]+$", report, re.MULTILINE)
    return {name: float(rate.replace(",", "")) for name, rate in found}


def test_jpeg_files_hold_the_images_a_folder_a_class(photos: Dataset, tmp_path: Path) -> None:
    bench.write_jpegs(photos.train, tmp_path)
    assert [path.parent.name for path in sorted(tmp_path.glob("*/*.jpg"), key=lambda path: path.name)] == [
        f"{label:04d}" for label in photos.train.labels.tolist()
    ]
    with Image.open(tmp_path / "0001" / "000004.jpg") as image:
        off = np.asarray(image).astype(float) - photos.train.images[4].numpy()
    assert np.sqrt(np.square(off).mean()) < 12  # grey levels that encoding costs


def test_torch_s_norms_equal_ours_within_one_tower() -> None:
    ours, theirs = (models.build("alexnet32-one-tower", generator=torch.Generator().manual_seed(0)) for _ in "ab")
    bench.torch_norms(theirs)
    kinds = [type(layer) for layer in theirs]
    assert kinds.count(nn.LocalResponseNorm) == 2
    images = 50 * torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(theirs.eval()(images), ours.eval()(images))


def test_the_reference_loop_learns_from_the_files_alone(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class Seen(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return super().forward(x.flatten(1))

    net = Seen(3 * 128 * 128, 3)
    before = net.weight.detach().clone()
    monkeypatch.setattr(bench, "_network", lambda recipe, data: net)
    bench.write_jpegs(photos.train, tmp_path)
    bench.reference(LARGE, photos, tmp_path, 12, torch.device("cpu"))()  # of 8 files
    assert seen == [(4, 3, 128, 128)] * 3
    assert not torch.equal(net.weight, before)


def test_the_network_alone_is_given_one_random_batch_as_often_as_an_epoch_has_batches(
    photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []
    monkeypatch.setattr(
        bench.Trainer,
        "train_step",
        lambda trainer, images, labels: given.append(images) or (torch.ones(()), labels[0]),
    )
    assert bench.alone(LARGE, photos, "cpu")() == 2.0
    assert given[0] is given[1]
    assert abs(given[0].mean()) < 0.05
    assert given[0].std().item() == pytest.approx(1.0, abs=0.05)
    assert given[0].is_contiguous(memory_format=torch.channels_last)


def _settings() -> dict[str, str]:
    return {name: os.environ[name] for name in runner.ALLOCATOR if name in os.environ}


BEGUN: list[tuple[Any, ...]] = []  # in the process


def _begin(*files: Any) -> None:
    BEGUN.append(files)


def _kinds() -> list[str]:
    return [type(each).__name__ for each in BEGUN[-1]]


def test_an_ordinary_process_has_none_of_our_allocator_settings(
    photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in runner.ALLOCATOR.items():
        monkeypatch.setenv(name, value)
    submitted = []

    class Pool(concurrent.futures.ProcessPoolExecutor):
        def submit(self, *task: Any) -> Any:
            submitted.append(super().submit(_settings).result())
            return super().submit(*task)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(bench, "_begin", _begin)
    monkeypatch.setattr(bench, "_epoch", _kinds)
    with bench.ordinary((LARGE, photos, tmp_path, 8, torch.device("cpu"))) as epoch:
        assert _settings() == runner.ALLOCATOR
        assert epoch() == ["Recipe", "Dataset", "PosixPath", "int", "device"]  # type: ignore[func-returns-value]
    assert submitted == [{}, {}]


def test_the_roofline_is_the_time_of_the_operations_and_then_of_the_update() -> None:
    recipe = Recipe(net="alexnet-paper", batch=128)
    arithmetic = bench.roofline(recipe, 1000, operations=4.13561e12, memory=float("inf"))
    update = bench.roofline(recipe, 1000, operations=float("inf"), memory=20 * 60_965_224)
    assert arithmetic == pytest.approx(1000, rel=1e-4)
    assert update == pytest.approx(128)
    both = bench.roofline(recipe, 1000, operations=4.13561e12, memory=20 * 60_965_224)
    assert both == pytest.approx(1 / (1 / 1000 + 1 / 128), rel=1e-4)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_large_images_are_timed_on_alexnet_with_its_ratios_and_the_paper_s_training(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    # Of AlexNet a miniature, since bf16 is emulated where the CPU lacks it.
    monkeypatch.setattr(bench, "ALEXNET", replace(LARGE, net="alexnet32", crop=24))
    monkeypatch.setattr(bench, "BATCHES", {"cpu": (4,)})
    monkeypatch.setattr(bench, "IMAGES", {"cpu": 8})
    monkeypatch.setattr(bench, "machine_rates", lambda device, precision: (1e11, 1e10))
    monkeypatch.setattr(bench, "ordinary", lambda files: contextlib.nullcontext(bench.reference(*files)))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    report = "\n".join(bench.report("synthetic:size=28,train=5,test=2", rounds=1))
    assert "24-pixel crops and reflections of 8 images" in report
    parts = report.split("batches of 4, ")[1:]
    assert [part.split()[0] for part in parts] == ["float32", "bf16"][: 1 + has_bf16]
    assert ("bf16 not measured: precision 'bf16': this CPU has no bf16 arithmetic" in report) != has_bf16
    for part in parts:
        found = rates(part)
        assert set(found) == {bench.A, bench.B, bench.ALLOCATED, bench.C, bench.D}
        a, *others = (found[name] for name in (bench.A, bench.B, bench.C, bench.D))
        ratios = [float(ratio) for ratio in re.findall(r"^a / [bcd]: +([\d.]+) x", part, re.MULTILINE)]
        assert ratios == pytest.approx([a / other for other in others], rel=0.05, abs=0.01)
        (same,) = re.findall(r"^a / b with our allocator settings: ([\d.]+) x", part, re.MULTILINE)
        assert float(same) == pytest.approx(a / found[bench.ALLOCATED], rel=0.05, abs=0.01)
        (hours,) = re.findall(r"90 epochs of 1,200,000 images at a: ([\d,]+) hours", part)
        assert float(hours.replace(",", "")) == pytest.approx(90 * 1_200_000 / a / 3600, rel=0.05, abs=0.5)


def test_small_images_are_timed_on_one_core_against_the_tutorial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RECIPE", replace(bench.RECIPE, batch=16))
    report = "\n".join(bench.report("synthetic:train=32,test=4", rounds=1))
    assert "threads: 1" in report
    assert list(rates(report))[:2] == ["tutorial loop, float32", "our loop, float32"]
    with pytest.raises(StudyError, match="images of 32 pixels are timed on a core: take --device cpu"):
        next(bench.report("synthetic:train=32,test=4", device="cuda", rounds=1))
