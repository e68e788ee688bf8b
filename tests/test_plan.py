"""The plan's arithmetic, done again from the inputs in plain numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from studies import record

from alexnet_lib import experiments, plan
from alexnet_lib.experiments import Arm
from alexnet_lib.plan import INPUTS, Need
from alexnet_lib.recipes import Recipe

IMAGES = 1_281_167 * 90


def test_one_gpu_takes_the_images_of_ninety_epochs_at_its_rate() -> None:
    assert Need(1, 1, 1000.0).gpu_hours == pytest.approx(IMAGES / 1000 / 3600)


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_more_gpus_share_the_hours_and_not_the_gpu_hours_or_the_energy(gpus: int) -> None:
    one, many = Need(3, 1, 500.0), Need(3, gpus, 500.0)
    assert many.hours == pytest.approx(one.hours / gpus)
    assert (many.gpu_hours, many.kilowatt_hours) == (one.gpu_hours, one.kilowatt_hours)
    assert many.kilowatt_hours == pytest.approx(3 * IMAGES / 500 / 3600 * 700 / 1000)


def test_pictures_are_read_and_decoded_as_fast_as_all_gpus_train() -> None:
    need = Need(1, 8, 1000.0)
    assert (need.read, need.cores) == pytest.approx((8 * 1000 * 22_300, 8 * 1000 / 4085))


@pytest.mark.parametrize(("gpus", "times"), [(1, 0.0), (2, 1.0), (8, 1.75), (64, 2 * 63 / 64)])
def test_each_gpu_sends_its_part_of_a_ring_after_every_update(gpus: int, times: float) -> None:
    assert Need(1, gpus, 1280.0).exchanged == pytest.approx(times * 4 * 60_965_224 * 10)


def test_the_bound_is_the_peak_over_the_operations_of_an_image() -> None:
    assert plan.bound() == pytest.approx(989e12 / 4.1356e9, rel=1e-4)


def test_the_paper_s_gpus_did_what_its_days_say() -> None:
    seconds = INPUTS["paper days"].value * 86400
    rate = 90 * INPUTS["paper images"].value / seconds
    assert 208 < rate < 250  # six days, five days
    peak = INPUTS["paper GPUs"].value * INPUTS["paper peak"].value
    assert 0.25 < rate * INPUTS["operations"].value / peak < 0.35


def test_every_input_has_a_unit_and_a_source() -> None:
    assert all(entry.unit and entry.source for entry in INPUTS.values())


# --- rates of records -----------------------------------------------------------------------------------------

WHOLE = Arm(name="whole", recipe=Recipe(net=plan.NET, data="imagenette"), seeds=1)


def trained(arm: Arm, images: int, device: str, **changes: object) -> dict[str, object]:
    """Return the record of a run of two epochs of a second each."""
    run = record(arm, [0.9, 0.8], **changes)
    return {**run, "data": {**run["data"], "train": images}, "provenance": {**run["provenance"], "device": device}}


def test_rates_are_medians_of_the_runs_of_each_device() -> None:
    runs = [trained(WHOLE, images, "a GPU", seed=seed) for seed, images in enumerate((100, 300, 200))]
    assert plan.measured([*runs, trained(WHOLE, 5, "cpu")]) == {
        ("a GPU", "float32"): (200.0, 3),
        ("cpu", "float32, AVX2"): (5.0, 1),
    }


def test_rates_of_precisions_and_of_kinds_of_cpu_are_kept_apart() -> None:
    runs = [trained(WHOLE, images, "cpu", precision=name) for images, name in ((10, "float32"), (30, "bf16"))]
    other = trained(WHOLE, 20, "cpu")
    other["provenance"]["cpu_capability"] = "AVX512"  # type: ignore[index]
    assert plan.measured([*runs, other]) == {
        ("cpu", "float32, AVX2"): (10.0, 1),
        ("cpu", "bf16, AVX2"): (30.0, 1),
        ("cpu", "float32, AVX512"): (20.0, 1),
    }


def test_an_epoch_in_which_the_machine_stalled_does_not_count() -> None:
    run = trained(WHOLE, 100, "cpu")
    run["history"] = [{**run["history"][0], "seconds": seconds} for seconds in (2.0, 900.0, 2.0)]  # type: ignore[index]
    assert plan.measured([run]) == {("cpu", "float32, AVX2"): (50.0, 1)}


def test_a_cheaper_network_s_rate_is_scaled_to_the_paper_s_by_their_operations() -> None:
    half = replace(WHOLE, recipe=replace(WHOLE.recipe, net="alexnet-paper-half-width"))
    (rate, _) = plan.measured([trained(half, 1000, "a GPU")])["a GPU", "float32"]
    assert rate == pytest.approx(1000 * 1145.461824 / 4135.610496)


def test_small_networks_and_records_without_the_number_of_images_tell_no_rate() -> None:
    small = replace(WHOLE, recipe=Recipe(net="alexnet32"))
    unknown = record(WHOLE, [0.9])
    unknown["provenance"]["device"] = "a GPU"
    assert plan.measured([trained(small, 1000, "a GPU"), unknown]) == {}


@pytest.mark.parametrize("part", [{"holdout": True}, {"images": 50}, {"split": "8 processes"}])
def test_runs_over_several_devices_or_on_a_part_of_the_images_tell_no_rate(part: dict[str, Any]) -> None:
    run = trained(WHOLE, 1000, "a GPU")
    run["provenance" if "split" in part else "recipe"].update(part)  # type: ignore[attr-defined]
    assert plan.measured([run]) == {}


# --- the study's runs -----------------------------------------------------------------------------------------


def test_each_run_on_pictures_counts_once_whichever_experiments_ask_for_it() -> None:
    arms = [arm for name in experiments.EXPERIMENTS for arm in experiments.arms(name, "gpu")]
    ids = {
        replace(arm.recipe, seed=seed).id
        for arm in arms
        if arm.recipe.data == "imagenette"
        for seed in range(arm.seeds)
    }
    assert plan.runs("gpu").keys() == ids


@pytest.mark.parametrize(
    ("arm", "cost"),
    [
        ("base-imagenette", 93 / 90),
        ("double-width-imagenette", 15_649.968384 / 4135.610496 * 93 / 90),
        ("eighth-data-pretrained-imagenette", (93 + 4 * 10) / 90),
    ],
)
def test_a_run_costs_its_operations_and_its_pre_training(arm: str, cost: float) -> None:
    (found,) = [each for each in experiments.arms("bigger_and_more", "gpu") if each.name == arm]
    assert plan.runs("gpu")[found.recipe.id] == pytest.approx(cost)


def test_all_runs_on_imagenet_are_counted() -> None:
    arms = [arm for name in experiments.EXPERIMENTS for arm in experiments.arms(name, "imagenet")]
    assert plan.runs("imagenet").keys() == {
        replace(arm.recipe, seed=seed).id for arm in arms for seed in range(arm.seeds)
    }
