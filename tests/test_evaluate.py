"""Error rates and views are those of a hand count, and evaluation leaves the network as it was."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from alexnet_lib.dataset import Dataset, Split, digest
from alexnet_lib.evaluate import (
    Inputs,
    Nearest,
    chunk_size,
    error_rate,
    features,
    neighbours,
    same_class,
    view_probabilities,
)
from alexnet_lib.recipes import Recipe, StudyError

SIDE = 8


@pytest.fixture(scope="module")
def photos() -> Dataset:
    """Noise of 8 pixels in three classes: 12 training and 260 test images, more than evaluation takes at once."""
    draw = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        images = torch.randint(0, 256, (n, SIDE, SIDE, 3), generator=draw, dtype=torch.uint8)
        return Split(images, torch.arange(n) % 3)

    train, test = split(12), split(260)
    return Dataset("photos", train, test, ("a", "b", "c"), digest(train, test))


@pytest.fixture
def linear() -> nn.Sequential:
    """Three outputs that depend on the place of every pixel of a 6-pixel view."""
    layer = nn.Linear(6 * 6 * 3, 3)
    with torch.no_grad():
        layer.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def crops(photos: Dataset) -> Inputs:
    return Inputs.of(Recipe(crop=6, inputs="unit"), photos)


def test_images_that_are_all_alike_can_t_be_scaled() -> None:
    grey = Split(torch.full((4, 8, 8, 3), 7, dtype=torch.uint8), torch.arange(4) % 2)
    alike = Dataset("grey", grey, grey, ("a", "b"), digest(grey, grey))
    with pytest.raises(StudyError, match=r"'inputs': 'unit' .* those of grey are all alike: take 'raw'"):
        Inputs.of(Recipe(inputs="unit"), alike)
    assert Inputs.of(Recipe(inputs="raw"), alike).scale == 1.0


def by_hand(model: nn.Module, images: Tensor, y: int, x: int, photos: Dataset, flip: bool = False) -> Tensor:
    """Softmax outputs for the 6-pixel views at (y, x), written out from the pixels."""
    known = photos.train.images.double()
    mean, std = known.mean(0), (known - known.mean(0)).square().mean().sqrt()
    view = images[:, y : y + 6, x : x + 6].double()
    view = view.flip(2) if flip else view
    inputs = (view - mean[1:7, 1:7]) / std
    with torch.no_grad():
        outputs: Tensor = model(inputs.float().permute(0, 3, 1, 2))
    return outputs.softmax(1)


# --- error rates -----------------------------------------------------------------------------------------------

SCORES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1], [0.2, 0.3, 0.5]])
LABELS = torch.tensor([0, 1, 2, 0])  # ranks 1, 2, 3, 3


@pytest.mark.parametrize(("k", "expected"), [(1, 0.75), (2, 0.5), (3, 0.0)])
def test_the_error_rate_is_the_share_of_labels_not_among_the_highest(k: int, expected: float) -> None:
    assert error_rate(SCORES, LABELS, k) == expected


def test_the_error_rate_is_top_1_unless_said() -> None:
    assert error_rate(SCORES, LABELS) == error_rate(SCORES, LABELS, 1)


# --- inputs ----------------------------------------------------------------------------------------------------


def test_the_central_part_of_the_mean_image_belongs_to_every_crop(photos: Dataset) -> None:
    assert torch.equal(crops(photos).mean, photos.mean[1:7, 1:7])


def test_without_a_crop_the_whole_mean_image_is_subtracted(photos: Dataset) -> None:
    assert torch.equal(Inputs.of(Recipe(), photos).mean, photos.mean)


def test_raw_inputs_are_pixels_minus_the_mean(photos: Dataset) -> None:
    inputs = Inputs.of(Recipe(inputs="raw"), photos)(photos.test.images)
    expected = (photos.test.images.double() - photos.train.images.double().mean(0)).permute(0, 3, 1, 2)
    torch.testing.assert_close(inputs, expected.float(), rtol=0, atol=1e-4)


def test_unit_inputs_have_unit_variance_over_the_training_set(photos: Dataset) -> None:
    inputs = Inputs.of(Recipe(inputs="unit"), photos)(photos.train.images)
    assert inputs.double().square().mean().item() == pytest.approx(1.0, abs=1e-5)


def test_a_crop_larger_than_the_images_is_refused_with_both_sizes(photos: Dataset) -> None:
    with pytest.raises(StudyError, match="'crop': 9 pixels, but the images of photos have 8"):
        Inputs.of(Recipe(crop=9), photos)


def test_a_crop_as_large_as_the_images_is_allowed(photos: Dataset) -> None:
    assert Inputs.of(Recipe(crop=8), photos).size == 8


# --- probabilities ----------------------------------------------------------------------------------------------


def test_a_single_view_is_the_centre_of_each_image_in_order(photos: Dataset, linear: nn.Sequential) -> None:
    found = view_probabilities(linear, photos.test.images, crops(photos))
    torch.testing.assert_close(found, by_hand(linear, photos.test.images, 1, 1, photos)[None])


def test_ten_views_are_the_corners_the_centre_and_their_reflections(photos: Dataset, linear: nn.Sequential) -> None:
    places = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    views = [by_hand(linear, photos.test.images, *at, photos, flip) for flip in (False, True) for at in places]
    found = view_probabilities(linear, photos.test.images, crops(photos), which="corners")
    torch.testing.assert_close(found, torch.stack(views))


def test_the_probabilities_of_each_view_add_up_to_one(photos: Dataset, linear: nn.Sequential) -> None:
    found = view_probabilities(linear, photos.test.images, crops(photos), which="corners")
    torch.testing.assert_close(found.sum(2), torch.ones(10, 260))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_network_in_the_mode_it_was_in(
    photos: Dataset, linear: nn.Sequential, training: bool
) -> None:
    linear.train(training)
    view_probabilities(linear, photos.test.images, crops(photos))
    assert {layer.training for layer in linear.modules()} == {training}


def test_dropout_is_off_in_evaluation(photos: Dataset, linear: nn.Sequential) -> None:
    dropped = nn.Sequential(nn.Dropout(0.5), *linear).train()
    plain, found = (view_probabilities(net, photos.test.images, crops(photos)) for net in (linear, dropped))
    assert torch.equal(found, plain)


def test_evaluation_draws_no_random_numbers(photos: Dataset, linear: nn.Sequential) -> None:
    before = torch.get_rng_state()
    view_probabilities(nn.Sequential(nn.Dropout(0.5), *linear), photos.test.images, crops(photos), which="corners")
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_leaves_no_gradients_behind(photos: Dataset, linear: nn.Sequential) -> None:
    assert not view_probabilities(linear, photos.test.images, crops(photos)).requires_grad


def test_the_probabilities_are_float32_in_bf16_too(photos: Dataset, linear: nn.Sequential) -> None:
    found = view_probabilities(linear, photos.test.images, crops(photos), precision="bf16")
    assert found.dtype == torch.float32


def test_bf16_reaches_the_networks_arithmetic(photos: Dataset, linear: nn.Sequential) -> None:
    dtypes: set[torch.dtype] = set()
    linear.register_forward_hook(lambda model, args, output: dtypes.add(output.dtype))
    view_probabilities(linear, photos.test.images, crops(photos), precision="bf16")
    assert dtypes == {torch.bfloat16}


def test_an_image_counts_the_same_whatever_stands_beside_it(photos: Dataset, linear: nn.Sequential) -> None:
    images, inputs = photos.test.images, crops(photos)
    alone = torch.cat([view_probabilities(linear, image[None], inputs) for image in images[:20]], 1)
    torch.testing.assert_close(alone, view_probabilities(linear, images, inputs)[:, :20])


# --- features and neighbours ------------------------------------------------------------------------------


def nearest(queries: Tensor, bank: Tensor, k: int, part: int) -> Tensor:
    found = Nearest(queries, k)
    for some in bank.split(part):
        found.look(some)
    return found.rows


@pytest.fixture
def deep() -> nn.Sequential:
    """A named convolution, ReLU and linear layer for 6-pixel views, with dropout between them."""
    torch.manual_seed(0)
    parts = {"conv1": nn.Conv2d(3, 4, 3), "act1": nn.ReLU(), "drop1": nn.Dropout(0.5), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts, fc2=nn.Linear(64, 3)))


def test_features_are_what_the_layers_answer_to_the_centre_view_in_test_mode(
    photos: Dataset, deep: nn.Sequential
) -> None:
    inputs = crops(photos)
    found = features(deep, photos.test.images, inputs, ["act1", "fc2"])
    centre = inputs(photos.test.images[:, 1:7, 1:7])
    answers = deep[:2](centre)
    torch.testing.assert_close(found["act1"], answers.flatten(1))
    torch.testing.assert_close(found["fc2"], deep[3:](answers))
    assert deep.training


def test_an_unknown_layer_is_told_the_known_ones(photos: Dataset, deep: nn.Sequential) -> None:
    with pytest.raises(StudyError, match="did you mean 'conv1'"):
        features(deep, photos.test.images, crops(photos), ["conv2"])


@pytest.mark.parametrize("part", [1, 3, 7, 20])
def test_the_nearest_rows_are_those_of_the_smallest_distances_whatever_the_parts(part: int) -> None:
    draw = torch.Generator().manual_seed(0)
    queries, bank = (torch.randint(0, 256, (n, 7), generator=draw, dtype=torch.uint8) for n in (3, 20))
    distances = torch.stack([(bank.float() - query.float()).square().sum(1) for query in queries])
    assert torch.equal(nearest(queries, bank, 4, part), distances.argsort(1)[:, :4])


def test_more_queries_than_are_compared_at_a_time_find_each_itself() -> None:
    rows = torch.randn(1100, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(rows, rows, 1, 400)[:, 0], torch.arange(1100))


def test_the_share_of_the_same_class_is_counted_over_all_neighbours() -> None:
    rows = torch.tensor([[0, 1], [2, 3], [0, 3]])
    assert same_class(rows, torch.tensor([5, 6, 5]), torch.tensor([5, 6, 6, 5])) == pytest.approx(4 / 6)


def test_neighbours_are_training_images_in_pixels_and_in_a_layer_of_the_centre_view(
    photos: Dataset, deep: nn.Sequential
) -> None:
    found = neighbours(deep, photos, crops(photos), ["fc2"], k=2)
    answers = [features(deep, split.images, crops(photos), ["fc2"])["fc2"] for split in (photos.test, photos.train)]
    pixels = [split.images[:, 1:7, 1:7].flatten(1) for split in (photos.test, photos.train)]
    assert torch.equal(found["fc2"], nearest(*answers, 2, 12))
    assert torch.equal(found["pixels"], nearest(*pixels, 2, 12))
    assert found["pixels"].shape == (260, 2)


@pytest.mark.parametrize(
    ("device", "size", "images"),
    [
        ("cpu", 32, 250),
        ("cpu", 64, 250),
        ("cpu", 224, 250),
        ("meta", 32, 2500),
        ("meta", 64, 2500),
        ("meta", 224, 891),
    ],
)
def test_images_are_evaluated_in_chunks_that_fit_memory(device: str, size: int, images: int) -> None:
    assert chunk_size(torch.empty(1, size, size, 3, dtype=torch.uint8, device=device)) == images
