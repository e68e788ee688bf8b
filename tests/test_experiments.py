"""The study asks what it says it asks: arms that differ in nothing else, with seeds enough."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from studies import TINY
from torch import nn

from alexnet_lib import claims, data, experiments, layers, models
from alexnet_lib.experiments import Arm
from alexnet_lib.optim import optimiser
from alexnet_lib.recipes import Recipe, StudyError

# --- Figure 1's arms ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laptop() -> dict[str, Arm]:
    return {arm.name: arm for arm in experiments.arms("relu_vs_tanh", "laptop")}


def settings(arms: dict[str, Arm]) -> list[str]:
    return [name.removeprefix("relu-") for name in arms if name.startswith("relu-")]


def test_every_relu_arm_has_a_tanh_arm_that_differs_in_nothing_but_the_activation(
    laptop: dict[str, Arm],
) -> None:
    pairs = [(laptop[f"relu-{setting}"], laptop[f"tanh-{setting}"]) for setting in settings(laptop)]
    assert len(laptop) == 2 * len(pairs)
    for relu, tanh in pairs:
        assert tanh == replace(relu, name=tanh.name, recipe=replace(relu.recipe, activation="tanh"))


def test_arms_of_one_network_differ_in_activation_inputs_initialisation_and_rate_alone(
    laptop: dict[str, Arm],
) -> None:
    free = dict(net="cifar-19pct", activation="relu", inputs="raw", init="file", rate=1.0)
    assert len({replace(arm.recipe, **free) for arm in laptop.values()}) == 1


def test_inputs_and_initialisation_make_a_whole_factorial(laptop: dict[str, Arm]) -> None:
    cells = [
        (arm.recipe.activation, arm.recipe.inputs, arm.recipe.init)
        for arm in laptop.values()
        if arm.recipe.net == "cifar-19pct"
    ]
    assert sorted(cells) == sorted(itertools.product(("relu", "tanh"), ("raw", "unit"), ("file", "variance")))


def test_the_recipe_of_2012_has_raw_pixels_file_deviations_and_biases_at_twice_the_rate(
    laptop: dict[str, Arm],
) -> None:
    recipe = laptop["relu-2012"].recipe
    assert (recipe.inputs, recipe.init, recipe.bias_rate) == ("raw", "file", 2.0)


def test_another_network_checks_the_reading_of_four_layers(laptop: dict[str, Arm]) -> None:
    assert {arm.recipe.net for arm in laptop.values()} > {"cifar-19pct"}


@pytest.mark.parametrize("name", [arm.name for arm in experiments.arms("relu_vs_tanh", "laptop")])
def test_no_arm_is_regularised(laptop: dict[str, Arm], name: str) -> None:
    recipe = laptop[name].recipe  # P §3.1: "no regularisation of any kind"
    net = models.build(recipe.net, activation=recipe.activation, generator=torch.Generator().manual_seed(0))
    assert not any(isinstance(layer, nn.Dropout) for layer in net.modules())
    assert {group["decay"] for group in optimiser(net, recipe).param_groups} == {0.0}
    assert (recipe.crop, recipe.flip) == (0, False)


def test_no_arm_normalises_responses(laptop: dict[str, Arm]) -> None:
    found = [layer for arm in laptop.values() for layer in models.outline(arm.recipe.net).modules()]
    assert not any(isinstance(layer, layers.CrossMapNorm | layers.SameMapNorm) for layer in found)


def test_every_arm_trains_on_cifar10_to_a_quarter_of_errors_or_eighty_epochs(laptop: dict[str, Arm]) -> None:
    assert {(a.recipe.data, a.recipe.target_error) for a in laptop.values()} == {("cifar10", 0.25)}
    assert min(arm.recipe.epochs for arm in laptop.values()) >= 80


@pytest.mark.parametrize(("scale", "seeds"), [("laptop", 5), ("gpu", 20)])
def test_the_main_arms_have_their_seeds(scale: str, seeds: int) -> None:
    arms = {arm.name: arm for arm in experiments.arms("relu_vs_tanh", scale)}
    main = [f"{activation}-{cell}" for activation in ("relu", "tanh") for cell in ("2012", "modern")]
    assert all(arms[name].seeds >= seeds for name in main)


def test_the_main_arms_are_trained_before_the_others(laptop: dict[str, Arm]) -> None:
    first = {name for name, arm in laptop.items() if arm.priority == 0}
    assert first == {"relu-2012", "tanh-2012", "relu-modern", "tanh-modern"}


def test_every_arm_at_the_published_scales_searches_at_least_three_rates() -> None:
    arms = [arm for scale in ("laptop", "gpu") for arm in experiments.arms("relu_vs_tanh", scale)]
    assert all(len(set(arm.rates)) >= 3 for arm in arms)


# --- AlexNet-32's arms --------------------------------------------------------------------------------------

CHANGED: dict[str, dict[str, dict[str, Any]]] = {
    "lrn": {"no-lrn": {"net": "alexnet32-no-lrn"}, "code-lrn": {"net": "alexnet32-code-lrn"}},
    "overlapping_pooling": {"pool2": {"net": "alexnet32-pool2"}},
    "two_towers": {
        "half-tower": {"net": "alexnet32-half-tower"},
        "one-tower": {"net": "alexnet32-one-tower"},
        "towers-apart": {"net": "alexnet32-towers-apart"},
    },
    "dropout": {"no-dropout": {"net": "alexnet32-no-dropout"}},
    "augmentation": {
        "none": {"places": "centre", "flip": False},
        "crops": {"flip": False},
        "colour-printed": {"colour": "printed"},
        "colour-coded": {"colour": "coded"},
        "colour-lighting": {"colour": "lighting"},
    },
    "depth": {
        "no-conv3": {"net": "alexnet32-no-conv3"},
        "no-conv4": {"net": "alexnet32-no-conv4"},
        "no-conv5": {"net": "alexnet32-no-conv5"},
    },
    "training_details": {
        "no-decay": {"decay": 0.0},
        "bias-0.1": {"net": "alexnet32-bias0.1"},
        "bias-0": {"net": "alexnet32-bias0"},
    },
}
"""What each arm changes of AlexNet-32's recipe, by experiment."""
ON_ALEXNET32 = [*CHANGED, "ensembles"]
BY_ITSELF = ("two_towers", "training_details")  # the towers' colours, the test views: claims of the base alone
TRAINED = ("smoke", "laptop", "gpu")
EVERYTHING = [(name, scale) for name in experiments.EXPERIMENTS for scale in experiments.SCALES]
ARMS = [(name, scale, arm) for name, scale in EVERYTHING for arm in experiments.arms(name, scale)]


def named(experiment: str, scale: str) -> dict[str, Arm]:
    return {arm.name: arm for arm in experiments.arms(experiment, scale)}


def on_alexnet32(experiment: str, scale: str) -> dict[str, Arm]:
    """Return the arms on AlexNet-32: ``lrn`` has others, too."""
    return {name: arm for name, arm in named(experiment, scale).items() if arm.recipe.net.startswith("alexnet32")}


def difference(ours: Recipe, theirs: Recipe) -> dict[str, Any]:
    """Return what ``theirs`` has else, field by field."""
    return {
        f.name: getattr(theirs, f.name) for f in fields(Recipe) if getattr(ours, f.name) != getattr(theirs, f.name)
    }


@pytest.mark.parametrize("scale", TRAINED)
@pytest.mark.parametrize("experiment", CHANGED)
def test_an_arm_differs_from_the_base_in_what_its_name_says_and_nothing_else(experiment: str, scale: str) -> None:
    arms = on_alexnet32(experiment, scale)
    base = arms.pop("base").recipe
    assert {name: difference(base, arm.recipe) for name, arm in arms.items()} == CHANGED[experiment]


@pytest.mark.parametrize("scale", TRAINED)
def test_all_experiments_share_the_base_and_so_its_runs(scale: str) -> None:
    bases = [named(name, scale)["base"] for name in ON_ALEXNET32]
    assert {(arm.recipe, arm.rates, arm.keep) for arm in bases} == {(bases[0].recipe, (), bases[0].keep)}


@pytest.mark.parametrize("scale", TRAINED)
@pytest.mark.parametrize("experiment", CHANGED)
def test_every_seed_of_a_changed_arm_has_its_pair_in_the_base(experiment: str, scale: str) -> None:
    arms = on_alexnet32(experiment, scale)
    base = arms.pop("base")
    (seeds,) = {arm.seeds for arm in arms.values()}
    assert base.seeds == (experiments.BASE_SEEDS[scale] if experiment in BY_ITSELF else seeds)


SEEDS = {name: 5 if name in ("lrn", "overlapping_pooling", "two_towers") else 3 for name in CHANGED}


@pytest.mark.parametrize("experiment", CHANGED)
def test_every_arm_has_seeds_enough_on_a_laptop(experiment: str) -> None:
    assert min(arm.seeds for arm in named(experiment, "laptop").values()) >= SEEDS[experiment]


@pytest.mark.parametrize("experiment", ON_ALEXNET32)
def test_every_arm_has_at_least_ten_seeds_on_a_gpu(experiment: str) -> None:
    assert min(arm.seeds for arm in named(experiment, "gpu").values()) >= 10


@pytest.mark.parametrize("scale", TRAINED)
@pytest.mark.parametrize("experiment", ON_ALEXNET32)
def test_the_base_keeps_its_kernels_and_what_it_thinks_of_the_test_images(experiment: str, scale: str) -> None:
    assert set(named(experiment, scale)["base"].keep) >= {"conv1", "probabilities", "labels"}


@pytest.mark.parametrize("scale", TRAINED)
def test_every_arm_of_the_towers_keeps_its_kernels(scale: str) -> None:
    assert all("conv1" in arm.keep for arm in named("two_towers", scale).values())


@pytest.mark.parametrize("scale", TRAINED)
def test_one_network_is_trained_five_times_as_long_with_five_times_as_late_cuts(scale: str) -> None:
    arms = named("ensembles", scale)
    base = arms["base"].recipe
    assert difference(base, arms["five-times-longer"].recipe) == {
        "epochs": 5 * base.epochs,
        "cuts": tuple(5 * cut for cut in base.cuts),
    }


@pytest.mark.parametrize(("scale", "ensembles"), [("smoke", 1), ("laptop", 3), ("gpu", 5)])
def test_the_base_has_members_for_its_ensembles_of_five(scale: str, ensembles: int) -> None:
    assert named("ensembles", scale)["base"].seeds == 5 * ensembles


@pytest.mark.parametrize(("scale", "seeds"), [("laptop", 3), ("gpu", 10)])
def test_the_longer_training_has_seeds_and_comes_last(scale: str, seeds: int) -> None:
    longer = named("ensembles", scale)["five-times-longer"]
    others = [arm for arm in experiments.arms("ensembles", scale) if arm != longer]
    assert longer.seeds >= seeds
    assert longer.priority > max(arm.priority for arm in others)


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_the_11_percent_net_without_its_norms_differs_in_the_net_alone(scale: str) -> None:
    arms = named("lrn", scale)
    assert difference(arms["11pct"].recipe, arms["11pct-no-lrn"].recipe) == {"net": "cifar-11pct-no-lrn"}
    assert replace(arms["11pct"], name="", recipe=TINY) == replace(arms["11pct-no-lrn"], name="", recipe=TINY)


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_the_released_13_and_11_percent_nets_are_trained_alike(scale: str) -> None:
    arms = named("lrn", scale)
    assert difference(arms["13pct"].recipe, arms["11pct"].recipe) == {"net": "cifar-11pct"}


def test_the_18_percent_net_without_its_norms_differs_in_the_net_alone() -> None:
    arms = named("lrn", "gpu")
    assert difference(arms["18pct"].recipe, arms["18pct-no-lrn"].recipe) == {"net": "cifar-18pct-no-lrn"}


def test_the_nets_of_2012_have_their_published_schedules_on_a_gpu() -> None:
    recipes = {name: named("lrn", "gpu")[name].recipe for name in ("18pct", "13pct", "11pct")}
    assert {name: (r.epochs, r.cuts, r.crop, r.flip, r.rate) for name, r in recipes.items()} == {
        "18pct": (140, (120, 130), 0, False, 0.001),
        "13pct": (520, (500, 510), 24, True, 0.001),
        "11pct": (520, (500, 510), 24, True, 0.001),
    }


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_the_rate_is_searched_on_the_holdout_with_the_base_s_recipe(scale: str) -> None:
    (arm,) = experiments.arms("recipe", scale)
    base = named("lrn", scale)["base"].recipe
    assert arm.recipe.holdout
    assert replace(arm.recipe, holdout=False, rate=base.rate) == base


def test_the_search_on_the_holdout_tries_three_rates_and_the_base_s_is_among_them() -> None:
    (arm,) = experiments.arms("recipe", "laptop")
    assert len(set(arm.rates)) >= 3
    assert named("lrn", "laptop")["base"].recipe.rate in arm.rates


@pytest.mark.parametrize("experiment", ON_ALEXNET32)
@pytest.mark.parametrize("scale", TRAINED)
def test_no_choice_of_alexnet_32_is_made_on_its_test_images(experiment: str, scale: str) -> None:
    arms = experiments.arms(experiment, scale)
    assert not any(arm.rates or arm.recipe.holdout for arm in arms)


# --- every arm of the study ---------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS)
def test_the_smoke_scale_trains_on_few_made_up_images_alone(experiment: str) -> None:
    names = {arm.recipe.data for arm in experiments.arms(experiment, "smoke")}
    assert {name.partition(":")[0] for name in names} == {"synthetic"}
    found = [data.load(name) for name in names]
    assert max(max(len(some.train), len(some.test)) for some in found) <= 400


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS)
def test_the_smoke_scale_is_over_soon(experiment: str) -> None:
    runs = [(arm.recipe.epochs, arm.seeds) for arm in experiments.arms(experiment, "smoke")]
    assert max(epochs for epochs, _ in runs) <= 15
    assert sum(seeds for _, seeds in runs) <= 16


def pictures(scale: str, *, whole: bool) -> set[str]:
    """Return what networks for photographs train on at a scale, or the small ones."""
    arms = [arm for _, at, arm in ARMS if at == scale]
    return {arm.recipe.data for arm in arms if (models.NETS[arm.recipe.net].image_size > 32) == whole}


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_the_published_scales_train_small_networks_on_cifar_10(scale: str) -> None:
    assert pictures(scale, whole=False) == {"cifar10"}


def test_networks_for_photographs_train_on_them() -> None:
    assert pictures("laptop", whole=True) == {"imagenette"}
    assert pictures("gpu", whole=True) == {"imagenette", "tiny-imagenet-200"}


# --- the ablations on AlexNet itself, and what is bigger ------------------------------------------------------


def on_pictures(suffix: str) -> dict[str, Arm]:
    """Return the arms on one data set at scale ``gpu`` by the names that claims know them by."""
    arms = named("imagenet_ablations", "gpu")
    return {
        name.removesuffix(suffix): arm for name, arm in arms.items() if name.endswith("-tiny") == (suffix == "-tiny")
    }


@pytest.mark.parametrize(("suffix", "of", "seeds"), [("", "imagenette", 10), ("-tiny", "tiny-imagenet-200", 3)])
def test_the_ablations_on_alexnet_change_what_those_on_the_miniature_do(suffix: str, of: str, seeds: int) -> None:
    arms = on_pictures(suffix)
    base = arms.pop("base").recipe
    small = {name: change for experiment in CHANGED.values() for name, change in experiment.items()}
    assert base.data == of
    assert {arm.seeds for arm in arms.values()} == {seeds}
    for name, arm in arms.items():
        expected = {
            key: value.replace("alexnet32", "alexnet-paper") if key == "net" else value
            for key, value in small[name].items()
        }
        assert difference(base, arm.recipe) == expected


@pytest.mark.parametrize("suffix", ["", "-tiny"])
def test_the_ablations_on_alexnet_have_every_arm_that_a_claim_compares_at_laptop(suffix: str) -> None:
    on_cifar = {"lrn": {"11pct", "11pct-no-lrn", "13pct"}, "bigger_and_more": set(named("bigger_and_more", "gpu"))}
    wanted = {
        claim["effect"][side]
        for claim in claims.load()
        if "effect" in claim and "laptop" in claim["test"]
        for side in ("with", "without", "arm")
        if side in claim["effect"] and claim["effect"][side] not in on_cifar.get(claim["experiment"], set())
    }
    assert on_pictures(suffix).keys() >= wanted


@pytest.mark.parametrize("experiment", CHANGED)
def test_on_imagenet_the_paper_s_network_is_changed_as_the_miniature_is(experiment: str) -> None:
    arms = named(experiment, "imagenet")
    base = arms.pop("base")
    assert (base.recipe.net, base.recipe.data, base.recipe.epochs, base.seeds) == (
        "alexnet-paper",
        "imagenet",
        93,
        15 if experiment in BY_ITSELF else 3,
    )
    assert {"conv1", "probabilities", "labels"} <= set(base.keep)
    assert arms.keys() == CHANGED[experiment].keys()
    for name, change in CHANGED[experiment].items():
        expected = {
            key: value.replace("alexnet32", "alexnet-paper") if key == "net" else value
            for key, value in change.items()
        }
        assert difference(base.recipe, arms[name].recipe) == expected
        assert arms[name].seeds == 3


def test_on_imagenet_both_editions_have_the_logged_schedule() -> None:
    arms = named("alexnet", "imagenet")
    assert arms.keys() == {"paper", "code2012"}
    for name, arm in arms.items():
        assert arm.recipe == replace(experiments.edition(name, "imagenet"), precision="bf16")
        assert arm.seeds == 3


@pytest.mark.parametrize(("scale", "seeds"), [("smoke", 1), ("laptop", 3)])
def test_below_a_gpu_one_pair_on_alexnet_is_trained(scale: str, seeds: int) -> None:
    arms = named("imagenet_ablations", scale)
    assert {name: arm.seeds for name, arm in arms.items()} == {"base": seeds, "no-lrn": seeds}
    assert difference(arms["base"].recipe, arms["no-lrn"].recipe) == {"net": "alexnet-paper-no-lrn"}


BIGGER = [
    *(("smoke", "", "alexnet32", 80, 1), ("laptop", "", "alexnet32", 50_000, 2)),
    *(("gpu", "", "alexnet32", 50_000, 10), ("gpu", "-imagenette", "alexnet-paper", experiments.IMAGENETTE, 10)),
]


@pytest.mark.parametrize(("scale", "suffix", "net", "images", "turns"), BIGGER)
def test_width_data_and_pre_training_are_changed_one_at_a_time(
    scale: str, suffix: str, net: str, images: int, turns: int
) -> None:
    arms = named("bigger_and_more", scale)
    base = arms[f"base{suffix}"].recipe
    assert base.net == net
    found = {
        name: difference(base, arms[f"{name}{suffix}"].recipe)
        for name in ("half-width", "double-width", "half-data", "quarter-data", "eighth-data")
    }
    assert found == {
        "half-width": {"net": f"{net}-half-width"},
        "double-width": {"net": f"{net}-double-width"},
        "half-data": {"images": images // 2},
        "quarter-data": {"images": images // 4},
        "eighth-data": {"images": images // 8},
    }
    few = arms[f"eighth-data{suffix}"].recipe
    assert difference(few, arms[f"eighth-data-pretrained{suffix}"].recipe) == {"pretrain": turns}


def test_imagenette_on_a_gpu_is_the_same_run_in_both_experiments() -> None:
    assert named("bigger_and_more", "gpu")["base-imagenette"].recipe == on_pictures("")["base"].recipe


def test_the_reduced_network_has_the_paper_s_recipe_but_for_size_and_length_and_comes_after_the_editions() -> None:
    small, laptop = named("alexnet", "smoke"), named("alexnet", "laptop")
    assert difference(small["paper"].recipe, small["reduced"].recipe).keys() == {"net", "crop"}
    changes = difference(laptop["paper"].recipe, laptop["reduced"].recipe).keys()
    assert {"net", "crop", "epochs"} <= changes <= {"net", "crop", "epochs", "batch", "rate", "cuts"}
    assert laptop["reduced"].keep == laptop["paper"].keep
    assert laptop["reduced"].priority > max(laptop[name].priority for name in ("paper", "code2012"))
    assert laptop["reduced"].seeds >= 3  # the claim on neighbours is judged by them


def test_an_edition_s_schedule_is_the_logged_one() -> None:
    recipe = experiments.edition("code2012", "imagenette")
    assert (recipe.epochs, recipe.cuts, recipe.conv1, recipe.bias_cuts) == (93, (23, 51, 78), (68, 72), (51,))


def test_an_edition_s_schedule_is_scaled_to_its_length() -> None:
    recipe = experiments.edition("code2012", "imagenette", epochs=31)
    assert (recipe.cuts, recipe.conv1, recipe.bias_cuts) == ((8, 17, 26), (23, 24), (17,))


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("name", experiments.EDITIONS)
def test_an_edition_can_be_trained_for_few_epochs(name: str, epochs: int) -> None:
    recipe = experiments.edition(name, "imagenette", epochs)
    assert (recipe.epochs, min(recipe.cuts) > 0) == (epochs, True)  # the paper's rate is the first epoch's


def test_the_editions_differ_in_net_noise_crops_and_bias_rates() -> None:
    paper, code = (experiments.edition(name, "imagenette").resolved() for name in ("paper", "code2012"))
    differ = {field for field in paper if paper[field] != code[field]}
    assert differ == {"net", "colour", "places", "bias_rate", "bias_cuts", "conv1"}


def test_an_unknown_edition_is_told_the_known_ones() -> None:
    with pytest.raises(StudyError, match="code2012"):
        experiments.edition("code2013", "imagenette")


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_scales_for_any_machine_compute_in_float32_but_for_the_whole_networks_long_training(scale: str) -> None:
    others = {arm.recipe.precision for name, at, arm in ARMS if at == scale and name != "alexnet"}
    assert others == {"float32"}
    whole = {arm.recipe.precision for name, at, arm in ARMS if at == scale and name == "alexnet"}
    assert whole == {"bf16" if scale == "laptop" else "float32"}


@pytest.mark.parametrize("net", sorted({arm.recipe.net for _, _, arm in ARMS}))
def test_a_net_of_the_study_is_given_images_of_its_size(net: str) -> None:
    sizes = {arm.recipe.crop or 32 for _, _, arm in ARMS if arm.recipe.net == net}
    assert sizes == {models.NETS[net].image_size}


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS)
def test_no_two_runs_of_an_experiment_share_an_identity(experiment: str) -> None:
    recipes = [
        replace(arm.recipe, rate=rate, seed=seed)
        for name, _, arm in ARMS
        if name == experiment
        for rate in arm.rates or (arm.recipe.rate,)
        for seed in range(arm.seeds)
    ]
    assert recipes
    assert len({recipe.id for recipe in recipes}) == len(recipes)


def test_arms_of_an_experiment_have_names_of_their_own() -> None:
    assert all(len(named(name, scale)) == len(experiments.arms(name, scale)) for name, scale in EVERYTHING)


@pytest.mark.parametrize("scale", experiments.SCALES)
def test_a_scale_needs_every_arm_s_grid_and_seeds_and_each_run_once(scale: str) -> None:
    wanted = {
        replace(arm.recipe, rate=rate, seed=seed).id
        for _, at, arm in ARMS
        if at == scale
        for rate, seed in [
            *((rate, arm.recipe.seed) for rate in arm.rates),
            *((arm.recipe.rate, seed) for seed in range(arm.seeds)),
        ]
    }
    needed = [recipe.id for recipes in experiments.needed(scale).values() for recipe in recipes]
    assert sorted(needed) == sorted(wanted)
