"""The training loop does what the paper says, can be stopped anywhere, and says what went wrong."""

from __future__ import annotations

import errno
import math
import os
import pickle
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_lib import layers, machine, models
from alexnet_lib import train as training
from alexnet_lib.dataset import Dataset
from alexnet_lib.evaluate import Inputs, view_probabilities
from alexnet_lib.optim import PaperSGD
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.train import Epoch, Result, Trainer, check_device, train

CPU = torch.device("cpu")


def curve(result: Result) -> list[Epoch]:
    """The history without its times, which no two runs share."""
    return [replace(epoch, seconds=0.0) for epoch in result.history]


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(epochs: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch + 1 == epochs:
            raise Stopped

    return on_epoch


# --- an epoch ----------------------------------------------------------------------------------------------


class Watch:
    """A trainer on the marked images: which of them its network meets in training and in evaluation."""

    def __init__(self, recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.trainer = Trainer(replace(recipe, inputs="raw", rate=1e-6, batch=8), marked, CPU)
        self.trained: list[Tensor] = []
        self.evaluated: list[Tensor] = []
        self.steps = 0

        def met(model: nn.Module, args: tuple[Tensor]) -> None:
            into = self.trained if model.training else self.evaluated
            into.append(pixels(args[0], self.trainer.inputs.mean))

        step = self.trainer.optimiser.step

        def stepped() -> None:
            step()
            self.steps += 1

        self.trainer.model.register_forward_pre_hook(met)
        vars(self.trainer.optimiser)["step"] = stepped

    def numbers(self) -> list[int]:
        """The numbers of the training images in the order they were met."""
        return torch.cat(self.trained)[:, 0, 0, 0].tolist()

    def tested(self) -> list[int]:
        return torch.cat(self.evaluated)[:, 0, 0, 0].tolist()


@pytest.fixture
def watch(recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]) -> Watch:
    return Watch(recipe, marked, pixels)


def test_the_optimiser_steps_once_per_batch_the_short_last_one_included(watch: Watch) -> None:
    watch.trainer.run_epoch()
    assert watch.steps == 3


def test_the_last_batch_holds_what_is_left(watch: Watch) -> None:
    watch.trainer.run_epoch()
    assert [len(batch) for batch in watch.trained] == [8, 8, 4]


def test_every_image_is_met_once_per_epoch(watch: Watch) -> None:
    watch.trainer.run_epoch()
    assert sorted(watch.numbers()) == list(range(20))


def test_every_epoch_has_an_order_of_its_own(watch: Watch) -> None:
    watch.trainer.run_epoch()
    watch.trainer.run_epoch()
    assert watch.numbers()[:20] != watch.numbers()[20:]


def test_evaluation_counts_each_training_and_test_image_once(watch: Watch) -> None:
    watch.trainer.run_epoch()
    assert watch.tested() == [*range(20), *range(100, 108)]


def test_the_error_after_an_epoch_is_measured_on_the_first_training_images(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "measured_again", lambda images: images // 4)
    watch.trainer.run_epoch()
    assert watch.tested() == [*range(5), *range(100, 108)]


@pytest.mark.parametrize(
    ("images", "some"),
    [
        (20, 20),
        (1_000, 1_000),
        (3_000, 1_000),
        (9_469, 1_894),
        (40_000, 10_000),
        (50_000, 10_000),
        (1_281_167, 10_000),
    ],
)
def test_the_error_is_measured_on_ten_thousand_images_or_a_fifth_of_a_smaller_set(images: int, some: int) -> None:
    assert training.measured_again(images) == some


def test_images_keep_their_labels(watch: Watch, pixels: Callable[[Tensor, Tensor], Tensor]) -> None:
    for images, labels in watch.trainer.batches():
        numbers = pixels(images, watch.trainer.inputs.mean)[:, 0, 0, 0]
        assert torch.equal(numbers % 2, labels)


def test_without_crops_and_flips_images_are_met_as_they_are(watch: Watch, marked: Dataset) -> None:
    watch.trainer.run_epoch()
    assert torch.equal(torch.cat(watch.trained), marked.train.images[watch.numbers()])


@pytest.fixture
def cropped(recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]) -> Watch:
    """After two epochs with crops of 24 pixels and reflections."""
    watch = Watch(replace(recipe, crop=24, flip=True), marked, pixels)
    watch.trainer.run_epoch()
    watch.trainer.run_epoch()
    return watch


def test_crops_and_reflections_are_cut_out_of_the_image_they_come_from(cropped: Watch, marked: Dataset) -> None:
    for image in torch.cat(cropped.trained):
        number, y, x = image.flatten(0, 1).amin(0).tolist()
        cut = marked.train.images[number, y : y + 24, x : x + 24]
        assert torch.equal(image, cut) or torch.equal(image, cut.flip(1))


def places(images: Tensor) -> dict[int, tuple[int, int]]:
    """Upper left corner of each crop in its image, by the number of the image."""
    return {number: (y, x) for number, y, x in (image.flatten(0, 1).amin(0).tolist() for image in images)}


def test_images_of_one_batch_are_cut_at_places_of_their_own(cropped: Watch) -> None:
    assert len(set(places(cropped.trained[0]).values())) > 4  # of 8 images, 81 places


def test_an_image_is_cut_at_another_place_in_the_next_epoch(cropped: Watch) -> None:
    epochs = (places(torch.cat(cropped.trained[:3])), places(torch.cat(cropped.trained[3:])))
    assert sum(epochs[0][number] == epochs[1][number] for number in range(20)) < 5


def test_images_that_follow_each_other_share_place_and_reflection(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SHARING", 4)
    watch = Watch(replace(recipe, crop=24, flip=True, places="shared"), marked, pixels)
    watch.trainer.run_epoch()
    met = torch.cat(watch.trained)[..., 1:]  # what is left of an image without its number: where it was cut, and how
    runs = [{str(each.tolist()) for each in some} for some in met.split(4)]
    assert [len(run) for run in runs] == [1] * 5
    assert len(set.union(*runs)) == 5


@pytest.fixture
def central(recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]) -> Watch:
    """As ``cropped``, every crop cut from the centre."""
    watch = Watch(replace(recipe, crop=24, flip=True, places="centre"), marked, pixels)
    watch.trainer.run_epoch()
    watch.trainer.run_epoch()
    return watch


def test_crops_from_the_centre_are_all_cut_there(central: Watch) -> None:
    assert set(places(torch.cat(central.trained)).values()) == {(4, 4)}


@pytest.mark.parametrize("crop", [24, 25, 32])
def test_training_crops_from_the_centre_are_what_evaluation_sees(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor], crop: int
) -> None:
    watch = Watch(replace(recipe, crop=crop, places="centre"), marked, pixels)
    watch.trainer.run_epoch()
    assert torch.equal(torch.cat(watch.trained), torch.cat(watch.evaluated)[watch.numbers()])


def test_arms_with_random_and_central_crops_meet_the_images_in_the_same_order(cropped: Watch, central: Watch) -> None:
    assert central.numbers() == cropped.numbers()


def test_arms_with_random_and_central_crops_reflect_the_same_images(cropped: Watch, central: Watch) -> None:
    def reflected(watch: Watch) -> list[bool]:
        images = torch.cat(watch.trained)
        return (images[:, 0, 0, 2] > images[:, 0, -1, 2]).tolist()

    assert reflected(central) == reflected(cropped)


def test_some_images_are_reflected_and_some_are_not(cropped: Watch) -> None:
    images = torch.cat(cropped.trained)
    assert set((images[:, 0, 0, 2] > images[:, 0, -1, 2]).tolist()) == {True, False}


def test_without_flip_no_crop_is_reflected(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]
) -> None:
    watch = Watch(replace(recipe, crop=24), marked, pixels)
    watch.trainer.run_epoch()
    images = torch.cat(watch.trained)
    assert (images[:, 0, 0, 2] < images[:, 0, -1, 2]).all()


def test_without_crop_reflected_images_are_whole(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]
) -> None:
    watch = Watch(replace(recipe, flip=True), marked, pixels)
    watch.trainer.run_epoch()
    columns = torch.cat(watch.trained)[:, 0, :, 2].sort(dim=1).values
    assert torch.equal(columns, torch.arange(32).byte().expand(20, 32))


def test_evaluation_sees_the_centre_of_each_image(cropped: Watch, marked: Dataset) -> None:
    assert torch.equal(torch.cat(cropped.evaluated)[:20], marked.train.images[:, 4:28, 4:28])


def test_evaluation_sees_no_colour_noise(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]
) -> None:
    watch = Watch(replace(recipe, colour="printed"), marked, pixels)
    watch.trainer.run_epoch()
    assert torch.equal(torch.cat(watch.evaluated)[:20], marked.train.images)


def shifts(recipe: Recipe, data: Dataset, divisor: float = 1.0) -> Tensor:
    """What colour noise adds to each image of an epoch, (64, 3, 32, 32)."""
    return divisor * batches(recipe, data) - batches(replace(recipe, colour="none"), data)


@pytest.mark.parametrize(("colour", "divisor"), [("printed", 1.0), ("coded", 1.1), ("lighting", 1.0)])
def test_colour_noise_shifts_all_pixels_of_an_image_alike(
    recipe: Recipe, small: Dataset, colour: str, divisor: float
) -> None:
    found = shifts(replace(recipe, colour=colour), small, divisor)
    torch.testing.assert_close(found, found[:, :, :1, :1].expand_as(found), rtol=0, atol=1e-5)


def test_colour_noise_is_another_for_each_image(recipe: Recipe, small: Dataset) -> None:
    found = shifts(replace(recipe, colour="printed"), small)[:, :, 0, 0]
    assert len({tuple(shift) for shift in found.tolist()}) == 64


def test_colour_noise_has_the_size_of_the_images_own_colours(recipe: Recipe, small: Dataset) -> None:
    """As coded, its deviations are a tenth of the pixels' along each principal component."""
    found = torch.cat([shifts(replace(recipe, colour="coded", seed=s), small, 1.1)[:, :, 0, 0] for s in range(30)])
    variances, directions = small.colours
    torch.testing.assert_close(
        (found.double() @ directions).std(0), 0.1 * variances.sqrt() / small.std, rtol=0.1, atol=0
    )


def test_colour_noise_as_coded_is_off_in_the_last_quarter(recipe: Recipe, small: Dataset) -> None:
    off = []
    for colour in ("none", "coded"):
        trainer = Trainer(replace(recipe, colour=colour, epochs=4), small, CPU)
        for _ in range(3):
            trainer.run_epoch()
        off.append(torch.cat([images for images, _ in trainer.batches()]))
    assert torch.equal(*off)


def test_a_holdout_run_trains_on_the_first_images_and_tests_on_the_last(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]
) -> None:
    watch = Watch(replace(recipe, holdout=True), marked, pixels)
    watch.trainer.run_epoch()
    assert (sorted(watch.numbers()), watch.tested()) == (list(range(16)), list(range(20)))


def test_dropout_is_on_in_training(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(replace(recipe, net="tiny-dropout"), small, CPU)
    zeros = []
    trainer.model.drop1.register_forward_hook(
        lambda layer, args, output: zeros.append((output == 0).double().mean()) if layer.training else None
    )
    trainer.run_epoch()
    assert min(zeros) > 0.3


# --- what the history says -----------------------------------------------------------------------------------


def by_hand(model: nn.Module, data: Dataset) -> Tensor:
    """Outputs for all training images under ``inputs="unit"``, written out."""
    images = data.train.images.double()
    mean = images.mean(0)
    deviation = ((images - mean) ** 2).mean().sqrt()
    with torch.no_grad():
        outputs: Tensor = model(((images - mean) / deviation).float().permute(0, 3, 1, 2))
    return outputs


@pytest.fixture
def still(recipe: Recipe, small: Dataset) -> Trainer:
    """A trainer whose rate is too small to change a weight, after an epoch."""
    trainer = Trainer(replace(recipe, rate=1e-30), small, CPU)
    trainer.run_epoch()
    return trainer


def test_an_epoch_is_the_papers_update_with_the_mean_gradient_of_each_batch_alone(
    recipe: Recipe, small: Dataset
) -> None:
    recipe = replace(recipe, decay=0.5)
    trainer, twin = (Trainer(recipe, small, CPU) for _ in range(2))
    trainer.run_epoch()
    w = list(twin.model.parameters())
    decays, biases = [0.005, 0.0, 0.5, 0.0], [1.0, 2.0, 1.0, 2.0]
    v = [torch.zeros_like(x) for x in w]
    for images, labels in twin.batches():
        loss = -twin.model(images).log_softmax(1)[range(len(labels)), labels].mean()
        gradient = torch.autograd.grad(loss, w)
        with torch.no_grad():
            for i, x in enumerate(w):
                rate = recipe.rate * biases[i]
                v[i] = recipe.momentum * v[i] - decays[i] * rate * x - rate * gradient[i]
                x += v[i]
    torch.testing.assert_close(weights(trainer.model), [x.detach() for x in w])


def test_the_training_error_is_the_share_of_images_met_that_were_wrong(still: Trainer, small: Dataset) -> None:
    wrong = by_hand(still.model, small).argmax(1) != small.train.labels
    assert still.history[0].train_error == wrong.sum().item() / 64


def test_the_loss_is_the_mean_over_images_not_over_batches(still: Trainer, small: Dataset) -> None:
    loss = nn.functional.cross_entropy(by_hand(still.model, small), small.train.labels)
    assert still.history[0].loss == pytest.approx(loss.item(), rel=1e-5)


def test_a_network_that_does_not_change_has_the_same_error_afterwards(still: Trainer) -> None:
    assert still.history[0].train_error_after == still.history[0].train_error


def test_the_training_error_counts_images_before_their_update(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(replace(recipe, batch=64), small, CPU)
    wrong = by_hand(trainer.model, small).argmax(1) != small.train.labels
    trainer.run_epoch()
    assert trainer.history[0].train_error == wrong.sum().item() / 64


def test_the_error_afterwards_counts_them_after_it(recipe: Recipe, small: Dataset) -> None:
    """With all images in one batch the next epoch meets them in the very same state."""
    history = train(replace(recipe, batch=64, epochs=5), small).history
    assert [e.train_error_after for e in history[:-1]] == [e.train_error for e in history[1:]]


def test_the_train_scores_are_those_of_the_last_epoch(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small)
    last = result.history[-1]
    assert (result.scores["train_error"], result.scores["train_error_after"]) == (
        last.train_error,
        last.train_error_after,
    )


@pytest.mark.parametrize("crop", [0, 24])
def test_the_test_score_of_a_single_view_is_that_of_the_last_epoch(recipe: Recipe, small: Dataset, crop: int) -> None:
    result = train(replace(recipe, crop=crop), small)
    assert result.scores["test_error"] == result.history[-1].test_error


def test_a_recipe_with_crops_is_also_scored_over_five_and_ten_views(recipe: Recipe, small: Dataset) -> None:
    scores = train(replace(recipe, crop=24, epochs=1), small).scores
    assert {name for name in scores if "views" in name} == {
        f"test_error{top}_{views}views" for top in ("", "_top5") for views in (5, 10)
    }


def test_the_views_five_are_the_unreflected_ones_and_the_single_one_is_the_centre(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = nn.functional.one_hot(small.test.labels, 10).float()
    wrong = right.roll(1, 1)
    corners, reflected = [right, right, right, right, wrong], [wrong] * 5  # the centre is the fifth

    def seen(model: nn.Module, images: Tensor, inputs: Inputs, *, which: str = "centre", precision: str) -> Tensor:
        return torch.stack(corners + reflected if which == "corners" else [wrong])[:, : len(images)]

    trainer = Trainer(replace(recipe, crop=24), small, CPU)
    trainer.run_epoch()
    monkeypatch.setattr(training, "view_probabilities", seen)
    scores = {name: value for name, value in trainer.final_scores()[0].items() if name.startswith("test")}
    del scores["test_error_top5"]  # all others are equally unlikely in the single view
    assert scores == {
        "test_error": 1.0,
        "test_error_5views": 0.0,
        "test_error_top5_5views": 0.0,
        "test_error_10views": 1.0,
        "test_error_top5_10views": 0.0,
    }


def test_the_views_at_the_end_are_counted_as_evaluation(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(recipe, small, CPU)
    trainer.run_epoch()
    before = dict(trainer.seconds)
    trainer.final_scores()
    assert trainer.seconds.pop("evaluate") > before.pop("evaluate")
    assert trainer.seconds == before


@pytest.mark.parametrize(("crop", "views"), [(0, "centre"), (24, "corners")])
def test_the_probabilities_are_the_mean_over_the_views_of_each_test_image(
    recipe: Recipe, small: Dataset, crop: int, views: str
) -> None:
    result = train(replace(recipe, crop=crop), small)
    seen = view_probabilities(result.model, small.test.images, Inputs.of(result.recipe, small), which=views)
    assert result.probabilities is not None
    torch.testing.assert_close(result.probabilities, seen.mean(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("crop", "score"), [(0, "test_error"), (24, "test_error_10views")])
def test_the_probabilities_have_the_error_of_the_scores(
    recipe: Recipe, small: Dataset, crop: int, score: str
) -> None:
    result = train(replace(recipe, crop=crop), small)
    assert result.probabilities is not None
    wrong = result.probabilities.argmax(1) != small.test.labels
    assert result.scores[score] == pytest.approx(wrong.double().mean().item())


def test_the_probabilities_of_a_holdout_run_are_those_of_the_holdout(recipe: Recipe, marked: Dataset) -> None:
    result = train(replace(recipe, holdout=True, batch=8, epochs=1), marked)
    assert result.probabilities is not None
    assert result.probabilities.shape == (4, 2)


def test_a_set_of_two_classes_has_a_top_two(recipe: Recipe, marked: Dataset) -> None:
    assert train(replace(recipe, batch=8, epochs=1), marked).scores["test_error_top5"] == 0.0


def test_the_cost_tells_training_from_evaluation(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small)
    assert result.cost["train_seconds"] == pytest.approx(sum(epoch.seconds for epoch in result.history))


# --- schedule and end ----------------------------------------------------------------------------------------


def test_each_cut_divides_all_rates_by_ten_before_its_epoch(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(replace(recipe, rate=0.01, epochs=5, cuts=(1, 3)), small, CPU)
    used: list[tuple[float, ...]] = []
    update, step = trainer.optimiser, trainer.optimiser.step

    def stepped() -> None:
        used.append(tuple(group["rate"] for group in update.param_groups))
        step()

    vars(update)["step"] = stepped
    for _ in range(5):
        trainer.run_epoch()
    assert used[::3] == used[1::3] == used[2::3]  # three updates in each epoch
    expected = [0.01, 0.001, 0.001, 0.0001, 0.0001]
    assert used[::3] == [pytest.approx((rate, 2 * rate)) for rate in expected]


def test_the_history_has_the_rate_of_each_epoch(recipe: Recipe, small: Dataset) -> None:
    history = train(replace(recipe, rate=0.01, epochs=5, cuts=(1, 3)), small).history
    assert [epoch.rate for epoch in history] == pytest.approx([0.01, 0.001, 0.001, 0.0001, 0.0001])


def test_a_run_ends_at_its_last_epoch(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small)
    assert (result.outcome, [epoch.epoch for epoch in result.history]) == ("completed", [0, 1, 2])


def test_a_run_ends_after_the_first_epoch_at_or_below_its_target(recipe: Recipe, small: Dataset) -> None:
    free = train(replace(recipe, epochs=6), small).history
    errors = [epoch.train_error for epoch in free]
    best = min(errors[:-1])
    aimed = train(replace(recipe, epochs=6, target_error=best), small)
    assert (aimed.outcome, len(aimed.history)) == ("completed", errors.index(best) + 1)


def test_a_run_that_misses_its_target_ends_at_its_last_epoch(recipe: Recipe, small: Dataset) -> None:
    result = train(replace(recipe, rate=1e-9, target_error=0.001), small)
    assert (result.outcome, len(result.history)) == ("completed", 3)


def test_every_epoch_is_told_as_it_ends(recipe: Recipe, small: Dataset) -> None:
    told: list[Epoch] = []
    result = train(recipe, small, on_epoch=told.append)
    assert told == result.history


def test_a_reason_to_abandon_ends_the_run_and_is_its_outcome(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small, abandon=lambda past: "abandoned: why not" if len(past) == 2 else None)
    assert (result.outcome, len(result.history)) == ("abandoned: why not", 2)


def test_an_abandoned_run_is_scored_as_far_as_it_came(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small, abandon=lambda past: "abandoned" if len(past) == 2 else None)
    assert result.scores["test_error"] == result.history[1].test_error


def test_nothing_is_abandoned_before_its_first_epoch(recipe: Recipe, small: Dataset) -> None:
    assert len(train(recipe, small, abandon=lambda past: "abandoned").history) == 1


# --- seeds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"net": "tiny-dropout"}, {"crop": 24, "flip": True}])
def test_the_same_seed_gives_the_same_numbers_bit_for_bit(
    recipe: Recipe, small: Dataset, change: dict[str, Any]
) -> None:
    one, two = (train(replace(recipe, **change), small) for _ in range(2))
    assert (curve(one), one.scores, equal(weights(one.model), weights(two.model))) == (
        curve(two),
        two.scores,
        True,
    )


def test_another_seed_gives_other_numbers(recipe: Recipe, small: Dataset) -> None:
    assert curve(train(recipe, small)) != curve(train(replace(recipe, seed=1), small))


def test_the_numbers_do_not_depend_on_torchs_own_stream_before(recipe: Recipe, small: Dataset) -> None:
    change = replace(recipe, net="tiny-dropout")
    torch.manual_seed(1)
    one = train(change, small)
    torch.manual_seed(2)
    assert curve(train(change, small)) == curve(one)


def batches(recipe: Recipe, data: Dataset) -> Tensor:
    return torch.cat([images for images, _ in Trainer(recipe, data, CPU).batches()])


PAIRED: list[dict[str, Any]] = [
    {"activation": "tanh"},
    {"init": "file"},
    {"rate": 0.5},
    {"net": "tiny-dropout"},
]


@pytest.mark.parametrize("change", PAIRED)
def test_arms_of_one_seed_meet_the_images_in_the_same_order(
    recipe: Recipe, small: Dataset, change: dict[str, Any]
) -> None:
    assert torch.equal(batches(recipe, small), batches(replace(recipe, **change), small))


def test_arms_with_and_without_flips_meet_the_images_in_the_same_order(recipe: Recipe, marked: Dataset) -> None:
    plain = replace(recipe, batch=8, inputs="raw")
    numbers = [batches(replace(plain, flip=flip), marked)[:, 0, 0, 0] for flip in (False, True)]
    assert torch.equal(*numbers)


def test_arms_with_and_without_colour_noise_share_their_crops_and_flips(recipe: Recipe, small: Dataset) -> None:
    found = shifts(replace(recipe, colour="printed", crop=24, flip=True), small)
    torch.testing.assert_close(found, found[:, :, :1, :1].expand_as(found), rtol=0, atol=1e-5)


def test_arms_with_random_and_central_crops_share_their_colour_noise(recipe: Recipe, small: Dataset) -> None:
    noisy = replace(recipe, colour="printed", crop=24)
    noise = [shifts(replace(noisy, places=where), small)[:, :, 0, 0] for where in ("random", "centre")]
    torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=1e-5)


def test_arms_with_random_and_central_crops_start_from_the_same_weights(recipe: Recipe, small: Dataset) -> None:
    starts = [Trainer(replace(recipe, crop=24, places=where), small, CPU).model for where in ("random", "centre")]
    assert equal(*(weights(model) for model in starts))


@pytest.mark.parametrize("where", ["random", "centre"])
def test_places_draw_nothing_from_the_stream_of_dropout(recipe: Recipe, small: Dataset, where: str) -> None:
    trainer = Trainer(replace(recipe, crop=24, places=where), small, CPU)
    state = torch.get_rng_state()
    list(trainer.batches())
    assert torch.equal(torch.get_rng_state(), state)


def test_no_two_streams_of_a_run_draw_the_same_numbers(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(recipe, small, CPU)
    streams = (trainer.order, trainer.places, trainer.flips, trainer.colour)
    assert len({torch.rand(1, generator=stream).item() for stream in streams}) == 4


def test_arms_that_differ_in_the_activation_start_from_the_same_weights(recipe: Recipe, small: Dataset) -> None:
    plain = replace(recipe, init="file")
    starts = [Trainer(replace(plain, activation=a), small, CPU).model for a in ("relu", "tanh")]
    assert equal(*(weights(model) for model in starts))


def test_arms_with_weights_fit_to_the_activation_start_from_the_same_normals(recipe: Recipe, small: Dataset) -> None:
    relu, tanh = (
        Trainer(replace(recipe, activation=a), small, CPU).model.conv1.weight.detach() for a in ("relu", "tanh")
    )
    torch.testing.assert_close(relu / relu.std(), tanh / tanh.std())


# --- fewer images, and images without labels ----------------------------------------------------------------


def test_a_run_on_fewer_images_sees_only_them_in_as_many_updates(
    recipe: Recipe, marked: Dataset, pixels: Callable[[Tensor, Tensor], Tensor]
) -> None:
    watch = Watch(replace(recipe, images=4), marked, pixels)
    watch.trainer.run_epoch()
    chosen = marked.subset(4, recipe.seed).train.images[:, 0, 0, 0].unique().tolist()
    assert (watch.steps, len(watch.numbers())) == (3, len(marked.train))
    assert sorted(set(watch.numbers())) == chosen


@pytest.fixture
def turning(recipe: Recipe) -> Recipe:
    return replace(recipe, pretrain=2, epochs=1, flip=True, cuts=(0,), conv1=(0, 1), warmup=1)


def test_pre_training_asks_for_the_turn_of_all_images_at_a_constant_rate(turning: Recipe, small: Dataset) -> None:
    result = train(replace(turning, images=10), small)
    alone = replace(turning, pretrain=0, epochs=2, flip=False, cuts=(), conv1=(), warmup=0)
    expected = [replace(epoch, epoch=epoch.epoch - 2) for epoch in curve(train(alone, small.turned()))]
    assert [replace(epoch, seconds=0.0) for epoch in result.pretraining] == expected


def test_the_convolutions_of_pre_training_are_taken_over_and_nothing_else(turning: Recipe, small: Dataset) -> None:
    plain, taken = (Trainer(turning, small, CPU) for _ in range(2))
    before = training.pretrain(taken, small, None, lambda epoch: None)
    taken.load_convolutions(before)
    for name in ("weight", "bias"):
        theirs, ours, own = (getattr(t.model.conv1, name) for t in (before, taken, plain))
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, own)
    assert torch.equal(taken.model.fc2.weight, plain.model.fc2.weight)


def test_pre_training_sees_no_image_of_the_holdout(turning: Recipe, small: Dataset) -> None:
    run = Trainer(replace(turning, holdout=True), small, CPU)
    held = training.pretrain(run, small, None, lambda epoch: None)
    assert held.data.digest == small.holdout().turned().digest


def test_a_pre_trained_run_costs_both_its_parts(turning: Recipe, small: Dataset) -> None:
    result = train(turning, small)
    epochs = [*result.pretraining, *result.history]
    assert result.cost["train_seconds"] == pytest.approx(sum(epoch.seconds for epoch in epochs))


def test_a_pre_training_that_diverges_is_told_as_such(turning: Recipe, small: Dataset) -> None:
    result = train(replace(turning, rate=1e30), small)
    assert result.outcome.startswith("diverged: loss not finite in epoch 0")
    assert (result.history, result.scores) == ([], {})


# --- stopping and going on -------------------------------------------------------------------------------------

RESUMED: list[dict[str, Any]] = [
    {},
    {"colour": "coded", "epochs": 4},
    {"holdout": True},
    {"net": "tiny-dropout"},
    {"crop": 24, "flip": True},
    {"cuts": (1, 2), "decay": 0.1},
    {"net": "cifar-19pct", "activation": "tanh"},
    {"images": 20, "pretrain": 1, "net": "tiny-dropout", "flip": True},
]


@pytest.mark.parametrize("change", RESUMED)
def test_a_run_killed_between_epochs_ends_with_the_numbers_of_an_uninterrupted_one(
    recipe: Recipe, small: Dataset, tmp_path: Path, change: dict[str, Any]
) -> None:
    recipe, checkpoint = replace(recipe, **change), tmp_path / "run.pt"
    whole = train(recipe, small)
    for epochs in (1, 2):
        with pytest.raises(Stopped):
            train(recipe, small, checkpoint=checkpoint, on_epoch=stop_after(epochs))
    ended = train(recipe, small, checkpoint=checkpoint)
    assert (curve(ended), ended.scores, equal(weights(ended.model), weights(whole.model))) == (
        curve(whole),
        whole.scores,
        True,
    )


@pytest.mark.parametrize("told", [-1, 0])
def test_a_run_killed_in_its_pre_training_ends_with_the_numbers_of_an_uninterrupted_one(
    recipe: Recipe, small: Dataset, tmp_path: Path, told: int
) -> None:
    recipe, checkpoint = replace(recipe, net="tiny-dropout", pretrain=2, epochs=1), tmp_path / "run.pt"
    whole = train(recipe, small)
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=checkpoint, on_epoch=stop_after(told))
    heard: list[int] = []
    ended = train(recipe, small, checkpoint=checkpoint, on_epoch=lambda epoch: heard.append(epoch.epoch))
    assert heard == [-2, -1, 0]
    assert (curve(ended), ended.scores, equal(weights(ended.model), weights(whole.model))) == (
        curve(whole),
        whole.scores,
        True,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_run_killed_within_an_epoch_does_that_epoch_again(
    recipe: Recipe, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipe, net="tiny-dropout")
    whole, steps, step = train(recipe, small), iter(range(5)), PaperSGD.step

    def kill(update: PaperSGD) -> None:
        step(update)
        if next(steps, None) is None:
            raise Stopped

    monkeypatch.setattr(PaperSGD, "step", kill)
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=tmp_path / "run.pt")
    monkeypatch.setattr(PaperSGD, "step", step)
    ended = train(recipe, small, checkpoint=tmp_path / "run.pt")
    assert (curve(ended), ended.scores) == (curve(whole), whole.scores)


def test_a_resumed_run_does_not_do_its_past_again(
    recipe: Recipe, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=tmp_path / "run.pt", on_epoch=stop_after(2))
    done: list[int] = []
    epoch = Trainer.run_epoch

    def noted(self: Trainer) -> None:
        done.append(len(self.history))
        epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", noted)
    train(recipe, small, checkpoint=tmp_path / "run.pt")
    assert done == [2]


def test_a_resumed_run_tells_its_past_too(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=tmp_path / "run.pt", on_epoch=stop_after(2))
    told: list[int] = []
    train(recipe, small, checkpoint=tmp_path / "run.pt", on_epoch=lambda epoch: told.append(epoch.epoch))
    assert told == [0, 1, 2]


def test_a_resumed_run_counts_the_seconds_of_its_past(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=tmp_path / "run.pt", on_epoch=stop_after(2))
    result = train(recipe, small, checkpoint=tmp_path / "run.pt")
    assert result.cost["train_seconds"] == pytest.approx(sum(epoch.seconds for epoch in result.history))


def test_a_run_that_has_ended_is_not_trained_further(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    ended = train(recipe, small, checkpoint=tmp_path / "run.pt")
    again = train(recipe, small, checkpoint=tmp_path / "run.pt")
    assert (again.history, again.scores) == (ended.history, ended.scores)


@pytest.fixture
def checkpoint(recipe: Recipe, small: Dataset, tmp_path: Path) -> Path:
    """The checkpoint of a run after its first epoch."""
    path = tmp_path / "kept" / "run.pt"
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=path, on_epoch=stop_after(1))
    return path


def in_the_weights(content: bytes, recipe: Recipe, small: Dataset) -> int:
    """Where in the checkpoint the weights after the first epoch stand."""
    trainer = Trainer(recipe, small, CPU)
    trainer.run_epoch()
    return content.index(trainer.model.fc2.weight.detach().numpy().tobytes())


def refused(recipe: Recipe, data: Dataset, path: Path) -> str:
    """The error that a checkpoint is refused with."""
    with pytest.raises(StudyError) as error:
        train(recipe, data, checkpoint=path)
    return str(error.value)


@pytest.mark.parametrize("field", ["colour", "holdout"])
def test_a_checkpoint_from_before_a_field_existed_is_gone_on_from(
    recipe: Recipe, small: Dataset, checkpoint: Path, field: str
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state["recipe"][field]
    torch.save(state, checkpoint)
    assert train(recipe, small, checkpoint=checkpoint).outcome == "completed"


@pytest.mark.parametrize("length", ["nothing", "half", "all but one byte"])
def test_a_checkpoint_cut_short_is_refused_by_name(
    recipe: Recipe, small: Dataset, checkpoint: Path, length: str
) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: {"nothing": 0, "half": len(content) // 2}.get(length, -1)])
    assert f"{checkpoint}: damaged" in refused(recipe, small, checkpoint)


@pytest.mark.parametrize(
    "state",
    [b"not a checkpoint", b"PK\x03\x04", pickle.dumps({"recipe": {}, "digest": ""})],
    ids=["text", "the start of a zip file", "a pickle"],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(
    recipe: Recipe, small: Dataset, checkpoint: Path, state: bytes
) -> None:
    checkpoint.write_bytes(state)
    assert f"{checkpoint}: damaged" in refused(recipe, small, checkpoint)


def test_a_checkpoint_with_an_altered_weight_is_refused(recipe: Recipe, small: Dataset, checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[in_the_weights(bytes(content), recipe, small) + 3] ^= 0x40
    checkpoint.write_bytes(content)
    assert f"{checkpoint}: damaged" in refused(recipe, small, checkpoint)


@pytest.mark.parametrize(
    "part",
    ["model", "optimiser", "generators", "dropout", "history", "seconds", "digest", "recipe", "origins"],
)
def test_a_checkpoint_that_lacks_a_part_is_refused(
    recipe: Recipe, small: Dataset, checkpoint: Path, part: str
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state[part]
    torch.save(state, checkpoint)
    assert f"{checkpoint}: damaged" in refused(recipe, small, checkpoint)


@pytest.mark.parametrize("state", [[1, 2], torch.zeros(3), {"recipe": 1, "digest": ""}], ids=type)
def test_a_file_of_torchs_with_something_else_in_it_is_refused(
    recipe: Recipe, small: Dataset, checkpoint: Path, state: object
) -> None:
    torch.save(state, checkpoint)
    assert f"{checkpoint}: damaged" in refused(recipe, small, checkpoint)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return evil, ("ran",)


RAN: list[str] = []


def evil(word: str) -> None:
    RAN.append(word)


def test_code_in_a_checkpoint_is_not_run(recipe: Recipe, small: Dataset, checkpoint: Path) -> None:
    torch.save({"recipe": Evil(), "digest": ""}, checkpoint)
    RAN.clear()
    refused(recipe, small, checkpoint)
    assert RAN == []


def test_a_checkpoint_of_another_recipe_is_refused_with_the_fields_that_differ(
    recipe: Recipe, small: Dataset, checkpoint: Path
) -> None:
    message = refused(replace(recipe, rate=0.1, flip=True), small, checkpoint)
    assert f"{checkpoint}: written by another recipe (other flip, rate)" in message


def test_a_checkpoint_of_other_data_is_refused(recipe: Recipe, small: Dataset, checkpoint: Path) -> None:
    train_set = replace(small.train, images=small.train.images.flip(0))
    message = refused(recipe, replace(small, train=train_set, digest="0" * 64), checkpoint)
    assert f"{checkpoint}: written on other data" in message


def test_a_folder_is_no_checkpoint(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    assert refused(recipe, small, tmp_path) == f"checkpoint {tmp_path} is a folder: name a file"


def test_a_checkpoint_may_have_any_name(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    for name in ("run.partial", "rate0.01", "rate0.02"):
        train(recipe, small, checkpoint=tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rate0.01", "rate0.02", "run.partial"]


def test_a_refused_checkpoint_is_left_as_it_is(recipe: Recipe, small: Dataset, checkpoint: Path) -> None:
    damaged = checkpoint.read_bytes()[:-100]
    checkpoint.write_bytes(damaged)
    refused(recipe, small, checkpoint)
    assert checkpoint.read_bytes() == damaged


def test_another_recipe_leaves_the_checkpoint_as_it_is(recipe: Recipe, small: Dataset, checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    refused(replace(recipe, seed=1), small, checkpoint)
    assert checkpoint.read_bytes() == before


# --- a disk that is full ---------------------------------------------------------------------------------------


def full(state: object, path: Path) -> None:
    if path.suffix == ".partial":
        path.write_bytes(b"half a checkpoint")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_finds_no_space_is_an_error_that_says_what_to_do(
    recipe: Recipe, small: Dataset, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StudyError, match=r"was not written .*No space left on device.*free some space"):
        train(recipe, small, checkpoint=checkpoint)


@pytest.mark.parametrize(("module", "function"), [(torch, "save"), (os, "replace")], ids=["save", "replace"])
def test_a_checkpoint_that_finds_no_space_leaves_the_old_one_alone(
    recipe: Recipe,
    small: Dataset,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    function: str,
) -> None:
    before = checkpoint.read_bytes()
    monkeypatch.setattr(module, function, full)
    with pytest.raises(StudyError):
        train(recipe, small, checkpoint=checkpoint)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == {checkpoint: before}


def test_a_disk_that_fills_half_way_is_an_error_that_says_what_to_do(
    recipe: Recipe,
    small: Dataset,
    checkpoint: Path,
    largest_file: Callable[[int], AbstractContextManager[None]],
) -> None:
    with largest_file(4096), pytest.raises(StudyError, match=r"was not written .*free some space"):
        train(recipe, small, checkpoint=checkpoint)


def test_a_disk_that_fills_half_way_leaves_the_old_checkpoint_alone(
    recipe: Recipe,
    small: Dataset,
    checkpoint: Path,
    largest_file: Callable[[int], AbstractContextManager[None]],
) -> None:
    before = checkpoint.read_bytes()
    with largest_file(4096), pytest.raises((StudyError, RuntimeError)):
        train(recipe, small, checkpoint=checkpoint)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == {checkpoint: before}


def test_an_interrupt_while_a_checkpoint_is_written_leaves_nothing_half_written(
    recipe: Recipe, small: Dataset, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(state: object, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    before = checkpoint.read_bytes()
    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, small, checkpoint=checkpoint)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == {checkpoint: before}


def test_a_checkpoint_below_a_file_is_an_error_that_names_it(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/run\.pt"):
        train(recipe, small, checkpoint=tmp_path / "file" / "run.pt")


# --- runs that go wrong ------------------------------------------------------------------------------------------


def test_a_run_whose_loss_is_not_finite_names_epoch_step_and_rate(recipe: Recipe, small: Dataset) -> None:
    result = train(replace(recipe, rate=1e30), small)
    assert result.outcome == "diverged: loss not finite in epoch 0, step 1, rate 1e+30"


def test_a_run_that_diverges_after_a_cut_names_the_rate_it_had_then(recipe: Recipe, small: Dataset) -> None:
    trainer = Trainer(replace(recipe, rate=0.5, cuts=(1,)), small, CPU)
    trainer.run_epoch()
    with torch.no_grad():
        trainer.model.fc2.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 0, rate 0\.05"):
        trainer.run_epoch()


def test_a_diverged_run_has_no_probabilities(recipe: Recipe, small: Dataset) -> None:
    assert train(replace(recipe, rate=1e30), small).probabilities is None


def test_a_diverged_run_has_no_scores(recipe: Recipe, small: Dataset) -> None:
    assert train(replace(recipe, rate=1e30), small).scores == {}


def test_a_diverged_epoch_is_not_in_the_history(recipe: Recipe, small: Dataset) -> None:
    assert train(replace(recipe, rate=1e30), small).history == []


def test_a_run_that_diverges_in_its_last_update_is_no_result_either(recipe: Recipe, small: Dataset) -> None:
    result = train(replace(recipe, rate=1e38, batch=64, epochs=1, momentum=0.0), small)
    assert result.outcome.startswith("diverged")


def test_a_diverged_epoch_is_not_checkpointed(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    train(replace(recipe, rate=1e30), small, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


def test_a_batch_larger_than_the_set_is_refused_with_both_sizes(recipe: Recipe, small: Dataset) -> None:
    with pytest.raises(StudyError, match=r"'batch': 65 images, but synthetic.* only 64"):
        train(replace(recipe, batch=65), small)


def test_a_batch_larger_than_what_a_holdout_leaves_is_refused(recipe: Recipe, small: Dataset) -> None:
    with pytest.raises(StudyError, match=r"'batch': 64 images, but synthetic.* only 52"):
        train(replace(recipe, batch=64, holdout=True), small)


def test_a_batch_as_large_as_the_set_is_allowed(recipe: Recipe, small: Dataset) -> None:
    assert train(replace(recipe, batch=64, epochs=1), small).outcome == "completed"


def test_a_crop_larger_than_the_images_is_refused(recipe: Recipe, small: Dataset) -> None:
    with pytest.raises(StudyError, match="'crop': 33 pixels"):
        train(replace(recipe, crop=33), small)


def test_an_unknown_net_is_answered_with_the_nearest_one(recipe: Recipe, small: Dataset) -> None:
    with pytest.raises(StudyError, match="did you mean 'cifar-19pct'"):
        train(replace(recipe, net="cifar-19pc"), small)


class Hungry(nn.Module):
    """Asks for more memory than any machine has, or for what the GPU would say it lacks, above ``most`` images."""

    def __init__(self, error: Exception | None, most: int) -> None:
        super().__init__()
        self.error, self.most = error, most
        self.asked: list[tuple[int, int]] = []
        self.given: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append((len(x), sum(batch() is not None for batch in self.given)))
        self.given.append(weakref.ref(x))
        if len(x) <= self.most:
            return x
        if self.error is not None:
            raise type(self.error)(*self.error.args)
        return x + torch.empty(1 << 50).sum()


Starve = Callable[[int, Exception | None], Hungry]


@pytest.fixture
def starve(monkeypatch: pytest.MonkeyPatch) -> Starve:
    """Add a net called ``hungry`` that finds memory for some images only; return its first layer."""

    def add(most: int, error: Exception | None) -> Hungry:
        first = Hungry(error, most)

        def hungry(classes: int, act: layers.Activation) -> nn.Sequential:
            return nn.Sequential(first, nn.Flatten(), layers.linear(3072, classes, std=0.1, decay=0.0))

        monkeypatch.setitem(models.NETS, "hungry", models.Net(32, 10, hungry))
        return first

    return add


out_of_memory = pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), None], ids=["gpu", "cpu"]
)


@out_of_memory
@pytest.mark.parametrize(
    ("most", "message"),
    [
        (11, r"with batches of 24: batches of 6 fit: set the recipe field 'batch'"),
        (1, r"with batches of 24: batches of 1 fit"),
        (0, r"with batches of 24: not even one image fits: take a smaller network"),
    ],
)
def test_a_run_that_is_out_of_memory_says_which_batches_were_tried_and_which_fit(
    recipe: Recipe, small: Dataset, starve: Starve, error: Exception | None, most: int, message: str
) -> None:
    starve(most, error)
    with pytest.raises(StudyError, match=f"^out of memory on cpu {message}"):
        train(replace(recipe, net="hungry"), small)


def test_a_device_without_room_for_data_and_network_is_told_what_to_do(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(data: Dataset, device: torch.device) -> Dataset:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Dataset, "to", no_room)
    with pytest.raises(StudyError, match=r"^out of memory on cpu, which has no room for .+: train fewer runs side"):
        train(recipe, small)


def test_a_run_that_is_out_of_memory_beside_its_batches_says_that_they_fit(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluation(*arguments: Any, **options: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "view_probabilities", evaluation)
    with pytest.raises(StudyError, match="with batches of 24: one alone fits, so something else"):
        train(recipe, small)


def test_an_evaluation_without_memory_is_done_again_without_the_recorded_update(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, plain = Trainer(recipe, small, CPU), training.view_probabilities
    trainer.graphed = [0.1], None  # type: ignore[assignment]  # no graph is recorded on a CPU

    def evaluation(*arguments: Any, **options: Any) -> Tensor:
        if trainer.graphed is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*arguments, **options)

    monkeypatch.setattr(training, "view_probabilities", evaluation)
    assert trainer._probabilities(small.test.images, "centre").shape == (1, 32, 10)


def test_a_run_whose_final_evaluation_is_out_of_memory_says_so(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(trainer: Trainer) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "final_scores", scores)
    with pytest.raises(StudyError, match=r"^out of memory on cpu with batches of 24: one alone fits"):
        train(recipe, small)


@out_of_memory
def test_what_a_batch_held_is_let_go_before_a_smaller_one_is_tried(
    recipe: Recipe, small: Dataset, starve: Starve, error: Exception | None
) -> None:
    first = starve(6, error)
    with pytest.raises(StudyError):
        train(replace(recipe, net="hungry", crop=32), small)
    assert first.asked == [(24, 0), (24, 0), (12, 0), (6, 0)]


def test_the_batches_tried_update_nothing(
    recipe: Recipe, small: Dataset, starve: Starve, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[PaperSGD] = []
    monkeypatch.setattr(PaperSGD, "step", lambda update: steps.append(update))
    starve(6, None)
    with pytest.raises(StudyError):
        train(replace(recipe, net="hungry"), small)
    assert steps == []


# --- devices and precisions ----------------------------------------------------------------------------------------


def test_tf32_is_refused_on_a_cpu(recipe: Recipe, small: Dataset) -> None:
    with pytest.raises(StudyError, match="'tf32' needs a CUDA device: take 'float32'"):
        train(replace(recipe, precision="tf32"), small)


def test_bf16_is_refused_on_a_cpu_that_lacks_it(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(StudyError, match=r"'bf16': this CPU .*: take 'float32'"):
        train(replace(recipe, precision="bf16"), small)


def test_bf16_is_allowed_on_a_cpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    check_device(Recipe(precision="bf16"), CPU)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_gpu_that_can_only_imitate_a_precision_refuses_it(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(StudyError, match=f"'{precision}': this GPU .*: take 'float32'"):
        check_device(Recipe(precision=precision), torch.device("cuda"))


needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a CPU with bf16 arithmetic"
)


@needs_bf16
def test_in_bf16_the_first_epoch_is_close_to_the_one_in_float32(recipe: Recipe, small: Dataset) -> None:
    recipe = replace(recipe, rate=0.001, epochs=1)
    full, half = (train(replace(recipe, precision=p), small).history[0].loss for p in ("float32", "bf16"))
    assert 0 < abs(half - full) < 0.02 * full


@needs_bf16
def test_in_bf16_the_weights_stay_float32(recipe: Recipe, small: Dataset) -> None:
    model = train(replace(recipe, precision="bf16", epochs=1), small).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_lie_channels_last(recipe: Recipe, small: Dataset) -> None:
    weight = Trainer(recipe, small, CPU).model.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_inputs_lie_channels_last(recipe: Recipe, small: Dataset) -> None:
    images, _ = next(Trainer(recipe, small, CPU).batches())
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_on_a_gpu_the_first_epoch_is_close_to_the_cpus(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        monkeypatch.setattr(backend, "allow_tf32", backend.allow_tf32)  # put back after the test
    recipe = replace(recipe, net="cifar-19pct", rate=0.001, epochs=1, crop=32, flip=True)
    cpu = train(recipe, small)
    gpu = train(replace(recipe, precision=precision), small, device="cuda")
    assert gpu.history[0].loss == pytest.approx(cpu.history[0].loss, rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("net", ["tiny", "alexnet32-no-dropout"])
@pytest.mark.parametrize("cuts", [(), (1, 2)])
def test_on_a_gpu_replayed_updates_are_those_launched_one_by_one(
    recipe: Recipe, small: Dataset, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...], net: str
) -> None:
    recipe = replace(recipe, net=net, batch=6, crop=24, flip=True, cuts=cuts, rate=0.001)  # 10 updates and a rest
    replayed = train(recipe, small, device="cuda")
    monkeypatch.setattr(training, "WARM_UPDATES", 100)
    single = train(recipe, small, device="cuda")
    assert [e.loss for e in replayed.history] == pytest.approx([e.loss for e in single.history], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_resumed_run_with_dropout_goes_on_with_the_same_masks(
    recipe: Recipe, small: Dataset, tmp_path: Path
) -> None:
    recipe, path = replace(recipe, net="tiny-dropout"), tmp_path / "run.pt"
    whole = train(recipe, small, device="cuda")
    with pytest.raises(Stopped):
        train(recipe, small, device="cuda", checkpoint=path, on_epoch=stop_after(1))
    ended = train(recipe, small, device="cuda", checkpoint=path)
    assert [e.loss for e in ended.history] == pytest.approx([e.loss for e in whole.history], rel=1e-3)


def test_a_resumed_run_has_the_machines_of_both_its_parts(
    recipe: Recipe, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = replace(recipe, epochs=2), tmp_path / "run.pt"
    for name in ("one", "another"):
        monkeypatch.setattr(machine, "described", lambda device, name=name: name)
        ended = train(recipe, small, checkpoint=path)
    assert ended.machines == ["one", "another"]


def test_the_machine_of_a_checkpoint_from_before_they_were_kept_is_unknown(
    recipe: Recipe, small: Dataset, tmp_path: Path
) -> None:
    recipe, path = replace(recipe, epochs=2), tmp_path / "run.pt"
    train(recipe, small, checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["machines"]
    torch.save(state, path)
    assert train(recipe, small, checkpoint=path).machines == ["unknown", machine.described(torch.device("cpu"))]


def test_a_machine_is_described_by_what_decides_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX1024")
    monkeypatch.setattr(machine, "cpu_model", lambda: "model 7")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert machine.described(torch.device("cpu")) == "cpu; model 7; AVX1024; threads: 3"


def test_a_resumed_run_has_the_commits_of_both_its_parts(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    train(replace(recipe, epochs=2), small, checkpoint=tmp_path / "run.pt", origin="first")
    again = train(replace(recipe, epochs=2), small, checkpoint=tmp_path / "run.pt", origin="second")
    assert again.origins == ["first", "second"]


def test_a_checkpoint_of_another_torch_is_not_continued(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(replace(recipe, epochs=2), small, checkpoint=path)
    state = torch.load(path, weights_only=True)
    torch.save(state | {"written by": "torch 1.0 on cpu, format 1"}, path)
    with pytest.raises(StudyError, match=r"written by torch 1\.0 on cpu"):
        train(replace(recipe, epochs=2), small, checkpoint=path)


def test_snapshots_of_the_first_kernels_are_taken_at_the_epochs_asked_for(recipe: Recipe, small: Dataset) -> None:
    result = train(recipe, small, snapshots=(0, 2, 3, 9))
    initial = Trainer(recipe, small, CPU).model.get_parameter("conv1.weight")
    assert result.snapshots.keys() == {0, 2, 3}
    assert torch.equal(result.snapshots[0], initial)
    assert torch.equal(result.snapshots[3], result.model.get_parameter("conv1.weight"))
    assert not torch.equal(result.snapshots[2], result.snapshots[3])


def test_a_resumed_run_has_the_snapshots_of_both_its_parts(recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe, small, checkpoint=tmp_path / "run.pt", on_epoch=stop_after(2), snapshots=(0, 1, 2, 3))
    ended = train(recipe, small, checkpoint=tmp_path / "run.pt", snapshots=(0, 1, 2, 3)).snapshots
    whole = train(recipe, small, snapshots=(0, 1, 2, 3)).snapshots
    assert {epoch: kernels.tolist() for epoch, kernels in ended.items()} == {
        epoch: kernels.tolist() for epoch, kernels in whole.items()
    }
