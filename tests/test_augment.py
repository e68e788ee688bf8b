"""Batched crops, reflections and views equal what slicing image by image gives."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from studies import seeded
from torch import Tensor

from alexnet_lib.augment import centre_crop, colour_basis, crop, flips, normalise, offsets, views
from alexnet_lib.dataset import Dataset, Split, digest
from alexnet_lib.recipes import StudyError


def pixels(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=seeded(seed))


def sliced(images: Tensor, places: Tensor, size: int, flip: Tensor) -> Tensor:
    out = []
    for image, (y, x), turned in zip(images, places.tolist(), flip.tolist(), strict=True):
        part = image[y : y + size, x : x + size]
        out.append(part.flip(1) if turned else part)
    return torch.stack(out)


# --- draws ------------------------------------------------------------------------------------------------


def test_all_places_and_both_reflections_are_equally_likely() -> None:
    draw, n = seeded(), 81 * 2 * 50
    places, turned = offsets(n, 8, draw), flips(n, draw)
    variant = (places[:, 0] * 9 + places[:, 1]) * 2 + turned
    counts = variant.bincount(minlength=162)
    assert len(counts) == 162  # 9 * 9 places, twice: the fact sheet's 162 variants
    assert counts.min() > 0
    assert chisquare(counts.numpy()).pvalue > 0.001


def test_a_border_of_zero_leaves_one_place() -> None:
    assert offsets(5, 0, seeded()).tolist() == [[0, 0]] * 5


def test_draws_have_the_stated_types() -> None:
    assert (offsets(3, 8, seeded()).dtype, flips(3, seeded()).dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize("first", [1, 17, 99])
def test_drawing_in_two_calls_gives_the_same_numbers(first: int) -> None:
    whole, parts = seeded(), seeded()
    assert torch.equal(offsets(100, 8, whole), torch.cat((offsets(first, 8, parts), offsets(100 - first, 8, parts))))
    assert torch.equal(flips(100, whole), torch.cat((flips(first, parts), flips(100 - first, parts))))


# --- crops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "size"), [(32, 24), (32, 32), (9, 4), (5, 1), (40, 37), (99, 95), (99, 96)])
def test_crops_equal_slices(height: int, size: int) -> None:
    images, draw = pixels(50, height), seeded(1)
    places, turned = offsets(50, height - size, draw), flips(50, draw)
    cut = crop(images, places, size, turned)
    assert cut.is_contiguous()
    assert torch.equal(cut, sliced(images, places, size, turned))


def test_no_images_give_no_crops() -> None:
    none = torch.empty(0, 32, 32, 3, dtype=torch.uint8)
    assert crop(none, torch.empty(0, 2, dtype=torch.int64), 24).shape == (0, 24, 24, 3)


def test_without_reflections_crops_equal_slices() -> None:
    images, places = pixels(20, 12), offsets(20, 4, seeded())
    assert torch.equal(crop(images, places, 8), sliced(images, places, 8, torch.zeros(20)))


@pytest.mark.parametrize("turned", [False, True])
def test_crops_reach_all_four_corners(turned: bool) -> None:
    images, places = pixels(4, 32), torch.tensor([[0, 0], [0, 8], [8, 0], [8, 8]])
    flip = torch.full((4,), turned)
    assert torch.equal(crop(images, places, 24, flip), sliced(images, places, 24, flip))


def test_a_batch_may_be_split_anywhere() -> None:
    images, draw = pixels(30, 16), seeded()
    places, turned = offsets(30, 4, draw), flips(30, draw)
    parts = [crop(images[s], places[s], 12, turned[s]) for s in (slice(0, 1), slice(1, 13), slice(13, 30))]
    assert torch.equal(crop(images, places, 12, turned), torch.cat(parts))


@pytest.mark.parametrize("layout", ["every second", "channels first", "one image for all"])
def test_images_need_not_lie_in_one_piece(layout: str) -> None:
    images = {
        "every second": pixels(20, 12)[::2],
        "channels first": pixels(10, 12).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "one image for all": pixels(1, 12).expand(10, -1, -1, -1),
    }[layout]
    places, turned = offsets(10, 4, seeded()), flips(10, seeded(1))
    assert torch.equal(crop(images, places, 8, turned), sliced(images, places, 8, turned))


def test_cropping_leaves_the_images_alone() -> None:
    images = pixels(10, 12)
    before = images.clone()
    crop(images, offsets(10, 4, seeded()), 8, torch.ones(10, dtype=torch.bool)).zero_()
    crop(images, offsets(10, 0, seeded()), 12).zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("place", [[-1, 0], [0, 9]])
def test_a_crop_that_leaves_its_image_is_refused(place: list[int]) -> None:
    with pytest.raises(StudyError, match="offsets must be 0 to 8 for 24 of 32 pixels"):
        crop(pixels(2, 32), torch.tensor([[0, 0], place]), 24)


@pytest.mark.parametrize("size", [0, 33])
def test_a_crop_larger_than_the_image_is_refused(size: int) -> None:
    with pytest.raises(StudyError, match="take 1 to 32"):
        crop(pixels(1, 32), torch.zeros(1, 2, dtype=torch.int64), size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_crops_as_the_cpu() -> None:
    images, draw = pixels(64, 32), seeded()
    places, turned = offsets(64, 8, draw), flips(64, draw)
    there = crop(images.cuda(), places.cuda(), 24, turned.cuda())
    assert torch.equal(there.cpu(), crop(images, places, 24, turned))


# --- inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.25, torch.tensor([0.1, 0.2, 0.3])])
@pytest.mark.parametrize("mean", ["image", "channels"])
@pytest.mark.parametrize(("count", "size"), [(6, 8), (15, 224)])  # all at once, and in parts of 6
def test_normalise_subtracts_the_mean_then_scales(count: int, size: int, mean: str, scale: float | Tensor) -> None:
    images = pixels(count, size)
    shape = (size, size, 3) if mean == "image" else (3,)
    subtracted = torch.rand(shape, generator=seeded()) * 255
    inputs = normalise(images, subtracted, scale)
    assert inputs.dtype == torch.float32
    for image, found in zip(images, inputs, strict=True):
        assert torch.equal(found, ((image.float() - subtracted) * scale).permute(2, 0, 1))


def test_normalised_batches_are_channels_last() -> None:
    inputs = normalise(pixels(6, 8), torch.zeros(8, 8, 3), 1.0)
    assert inputs.shape == (6, 3, 8, 8)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_normalise_leaves_the_pixels_alone() -> None:
    images = pixels(6, 8)
    before = images.clone()
    normalise(images, torch.ones(8, 8, 3), 2.0)
    assert torch.equal(images, before)


# --- test views -------------------------------------------------------------------------------------------


def test_centre_crop_of_24_from_32_starts_at_4() -> None:
    images = pixels(3, 32)
    assert torch.equal(centre_crop(images, 24), images[:, 4:28, 4:28])


def test_centre_crop_leaves_an_odd_pixel_right_and_below() -> None:
    images = pixels(3, 9)
    assert torch.equal(centre_crop(images, 4), images[:, 2:6, 2:6])


def test_centre_crop_takes_the_mean_image_too() -> None:
    mean = torch.rand(1, 12, 12, 3, generator=seeded())
    assert torch.equal(centre_crop(mean, 8)[0], mean[0, 2:10, 2:10])


def test_the_single_view_is_the_centre_crop() -> None:
    images = pixels(3, 32)
    assert torch.equal(views(images, 24, "centre"), centre_crop(images, 24)[None])


def test_the_ten_views_are_corners_and_centre_then_their_reflections() -> None:
    images = pixels(3, 32)
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    expected = [sliced(images, torch.tensor([p] * 3), 24, torch.full((3,), f)) for f in (0, 1) for p in places]
    assert torch.equal(views(images, 24, "corners"), torch.stack(expected))


@pytest.mark.parametrize(("which", "count"), [("centre", 1), ("corners", 10)])
def test_views_of_the_whole_image_are_the_image_or_its_reflection(which: str, count: int) -> None:
    images = pixels(2, 8)
    found = views(images, 8, which)
    assert len(found) == count
    assert all(torch.equal(view, images) or torch.equal(view, images.flip(2)) for view in found)


def test_unknown_views_are_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match="did you mean 'corners'"):
        views(pixels(1, 8), 4, "corner")


def test_views_larger_than_the_image_are_refused() -> None:
    with pytest.raises(StudyError, match="take 1 to 8"):
        views(pixels(1, 8), 9, "corners")


def test_grey_images_have_a_finite_colour_basis() -> None:
    grey = torch.randint(0, 256, (20, 8, 8, 1), generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 3)
    split = Split(grey.to(torch.uint8).contiguous(), torch.arange(20) % 2)
    found = Dataset("grey", split, split, ("a", "b"), digest(split, split))
    assert colour_basis("coded", found.colours).isfinite().all()
