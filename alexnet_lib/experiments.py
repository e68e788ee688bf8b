"""The study itself: its experiments, and their arms at each scale.

An arm is a recipe; an experiment is a few arms trained with the same seeds. Where an arm declares several
learning rates, they are tried with the first seed and the other seeds use the best of them (``evidence.search``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from alexnet_lib.recipes import Recipe, StudyError, unknown

SCALES = ("smoke", "laptop", "gpu", "imagenet")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of a comparison at one scale."""

    name: str
    recipe: Recipe
    """The arm's recipe with its first seed, and its first rate where it has a grid."""
    seeds: int
    """Runs that the comparison needs: seeds 0, 1, ..."""
    rates: tuple[float, ...] = ()
    """Learning rates to try with seed 0, in this order; none: the recipe's own is the one."""
    priority: int = 0
    """Arms of a lower number are trained first."""
    keep: tuple[str, ...] = ()
    """What to keep of a trained network beside its record: ``conv1`` (its kernels), ``snapshots`` (of them, after 0,
    1, 2, 4, 8, ... epochs), ``probabilities`` (of the test images, mean over the views), ``labels`` (the images'),
    ``neighbours`` (the nearest training images of each test image; the record's scores say how many share its
    class)."""

    def recipes(self, rate: float) -> list[Recipe]:
        """Return the recipes of its seeds at a learning rate."""
        return [replace(self.recipe, rate=rate, seed=seed) for seed in range(self.seeds)]


# --- Figure 1 -------------------------------------------------------------------------------------------------

TARGET = 0.25
"""Training error rate of Figure 1's dashed line (P §3.1)."""

_CELLS = {
    # name: (inputs, init, first rates): 2012's own recipe, a modern one, and the two mixtures between them.
    "2012": ("raw", "file", (0.001, 0.002, 0.0005)),
    "modern": ("unit", "variance", (0.01, 0.02, 0.005)),
    "raw-variance": ("raw", "variance", (0.0001, 0.0002, 0.00005)),
    "unit-file": ("unit", "file", (0.01, 0.02, 0.005)),
}


def _relu_vs_tanh(scale: str) -> tuple[Arm, ...]:
    """Return Figure 1's arms: no weight decay, no augmentation, no dropout, no normalisation (P §3.1).

    The network is the three-convolution one of the 19 % file, the paper not saying which it used; the ``26pct``
    arms read "four-layer" as §3.3 does, counting hidden layers.
    """
    if scale == "imagenet":
        return ()
    base = Recipe(decay=0.0, target_error=TARGET, epochs=80)
    if scale == "smoke":  # no search, and only the two recipes that the claims are about
        base = replace(base, data="synthetic:classes=3,train=90,test=30", batch=10, epochs=5)
    if scale == "gpu":
        base = replace(base, precision="tf32")
    many, few = {"smoke": (2, 0), "laptop": (5, 3), "gpu": (20, 10)}[scale]
    arms = []
    rates: tuple[float, ...]
    for net, suffix, cells in (("cifar-19pct", "", tuple(_CELLS)), ("cifar-26pct", "-26pct", ("modern",))):
        for cell in cells:
            inputs, init, rates = _CELLS[cell]
            main = cell in ("2012", "modern") and not suffix
            for activation in ("relu", "tanh"):
                if scale == "smoke":
                    rates = (0.002,) if cell == "2012" else (0.005,)
                recipe = replace(base, net=net, activation=activation, inputs=inputs, init=init, rate=rates[0])
                arms.append(
                    Arm(
                        name=f"{activation}-{cell}{suffix}",
                        recipe=recipe,
                        seeds=many if main else few,
                        rates=rates,
                        priority=0 if main else 1,
                    )
                )
    return tuple(arm for arm in arms if arm.seeds)


# --- AlexNet-32 -----------------------------------------------------------------------------------------------

RATE = 0.01
"""Learning rate of AlexNet-32: the best on the holdout (experiment ``recipe``), for every arm, as in the paper."""
RATES = (0.01, 0.02, 0.005)
SMOKE_IMAGES = 80
LENGTHS: dict[str, dict[str, Any]] = {
    "smoke": {"data": f"synthetic:train={SMOKE_IMAGES},test=20", "batch": 10, "epochs": 2, "cuts": (1,)},
    "laptop": {"epochs": 16, "cuts": (11, 14)},
    "gpu": {"epochs": 100, "cuts": (70, 90), "precision": "tf32"},
}
"""Data and schedule of AlexNet-32 by scale. The paper cuts the rate when the validation error stops improving (P §5),
which it doesn't in trainings this short: the cuts come late, and flatten the training error before the end."""


BASE_SEEDS = {"smoke": 2, "laptop": 15, "gpu": 25}
"""Runs of AlexNet-32 as it is: enough for three, or five, disjoint ensembles of five."""


def _recipe32(scale: str, net: str = "alexnet32", **changes: Any) -> Recipe:
    """Return AlexNet-32's recipe at a scale (P §5; crops and flips of P §4.1), with changes."""
    return replace(Recipe(net=net, crop=24, flip=True, rate=RATE, **LENGTHS[scale]), **changes)


def _base(scale: str) -> Arm:
    """Return AlexNet-32 as it is: the arm that all experiments on it share, and so its runs."""
    return Arm(
        name="base", recipe=_recipe32(scale), seeds=BASE_SEEDS[scale], keep=("conv1", "probabilities", "labels")
    )


def _holdout(scale: str) -> tuple[Arm, ...]:
    """Return the search for AlexNet-32's learning rate, on training images alone."""
    if scale not in ("smoke", "laptop"):  # one search: the rate is no scale's own
        return ()
    rates = RATES if scale == "laptop" else (RATE,)
    return (Arm(name="holdout", recipe=_recipe32(scale, holdout=True, rate=rates[0]), seeds=1, rates=rates),)


def _ablation(
    changes: Mapping[str, Mapping[str, Any]], laptop: int, keep: tuple[str, ...] = (), *, by_itself: bool = False
) -> Callable[[str], tuple[Arm, ...]]:
    """Return an experiment's arms: AlexNet-32, and AlexNet-32 with each of ``changes`` to its recipe.

    At scale ``imagenet`` it is the paper's network instead. ``laptop``: seeds an arm at that scale. ``keep``: as in
    ``Arm``, of the changed ones. ``by_itself``: whether a claim is of AlexNet-32 by itself, so that all its runs
    count and not the pairs' alone.
    """

    def arms(scale: str) -> tuple[Arm, ...]:
        if scale == "imagenet":
            base, *changed = _whole(scale, changes, "imagenet", keep=keep)
        else:
            seeds = {"smoke": 2, "laptop": laptop, "gpu": 10}[scale]
            base = _base(scale)
            changed = [
                Arm(name=name, recipe=_recipe32(scale, **change), seeds=seeds, keep=keep)
                for name, change in changes.items()
            ]
        return (base, *changed) if by_itself else _paired(base, *changed)

    return arms


def _paired(base: Arm, *changed: Arm) -> tuple[Arm, ...]:
    """Return the arms, of the first no more seeds than have a pair."""
    return replace(base, seeds=max(arm.seeds for arm in changed)), *changed


def _lrn(scale: str) -> tuple[Arm, ...]:
    """Return the arms on response normalisation: AlexNet-32's, and the CIFAR-10 nets that P §3.3 speaks of.

    ``13pct`` and ``11pct`` are the released files, which differ in more than the norms; ``11pct-no-lrn`` in nothing
    else. At ``gpu`` the published schedules (cuda-convnet's 11 % parameter file), and the 18 % net.
    """
    without = {"no-lrn": {"net": "alexnet32-no-lrn"}, "code-lrn": {"net": "alexnet32-code-lrn"}}
    arms = list(_ablation(without, laptop=5)(scale))
    if scale not in ("laptop", "gpu"):
        return tuple(arms)
    local = Recipe(crop=24, flip=True, rate=0.001, **LENGTHS[scale])
    length: dict[str, Any] = (
        {"epochs": 8, "cuts": (6, 7)} if scale == "laptop" else {"epochs": 520, "cuts": (500, 510)}
    )
    recipes = {name: replace(local, net=f"cifar-{name}", **length) for name in ("13pct", "11pct", "11pct-no-lrn")}
    if scale == "gpu":
        whole = replace(local, crop=0, flip=False, epochs=140, cuts=(120, 130))
        recipes |= {name: replace(whole, net=f"cifar-{name}") for name in ("18pct", "18pct-no-lrn")}
    arms += [Arm(name=name, recipe=recipe, seeds=arms[1].seeds) for name, recipe in recipes.items()]
    return tuple(arms)


def _ensembles(scale: str) -> tuple[Arm, ...]:
    """Return AlexNet-32 with members for several ensembles of five, and one trained as long as five of them."""
    if scale == "imagenet":
        return tuple(_whole(scale, {}, "imagenet"))
    base = _base(scale) if scale != "smoke" else replace(_base(scale), seeds=5)
    recipe = replace(base.recipe, epochs=5 * base.recipe.epochs, cuts=tuple(5 * cut for cut in base.recipe.cuts))
    seeds = {"smoke": 1, "laptop": 5, "gpu": 10}[scale]
    return base, Arm(name="five-times-longer", recipe=recipe, seeds=seeds, priority=2)


# --- AlexNet itself -------------------------------------------------------------------------------------------

PAPER_EPOCHS, PAPER_IMAGES = 90, 1_200_000
"""Length of the paper's training: "about 90" epochs of "1.2 million" images (P §5)."""
LOGGED = 93
"""Epochs of net #145's training on ILSVRC-2010; its log has the rates cut before epochs 23, 51 and 78, conv1's once
more at 68 and to zero at 72 (comments of ``layer-params-145.cfg``). When the biases' rate was cut is not logged: here
with the weights' second cut, to the final rate that the file has."""
EDITIONS: dict[str, dict[str, Any]] = {
    "paper": {"net": "alexnet-paper", "colour": "printed", "bias_rate": 1.0},
    "code2012": {"net": "alexnet-code2012", "colour": "coded", "places": "shared"},
    "one-tower": {"net": "alexnet-one-tower"},
}
"""What an edition's recipe has besides the paper's update, crops and reflections: P §4.1 and §5; the 2012 code;
torchvision's widths without colour noise."""


def edition(name: str, data: str, epochs: int = LOGGED) -> Recipe:
    """Return the recipe of an AlexNet edition, the logged schedule scaled to ``epochs``.

    Raises:
        StudyError: no such edition.
    """
    if name not in EDITIONS:
        raise unknown("edition", name, EDITIONS)

    def scaled(*logged: int) -> tuple[int, ...]:
        return tuple(sorted({max(1, round(at * epochs / LOGGED)) for at in logged}))

    recipe = Recipe(
        data=data, crop=224, flip=True, rate=0.01, epochs=epochs, cuts=scaled(23, 51, 78), **EDITIONS[name]
    )
    conv1 = scaled(68, 72)
    if name != "code2012" or len(conv1) < 2:  # too short a training for both steps of the first layer
        return recipe
    return replace(recipe, bias_cuts=scaled(51), conv1=conv1)


REDUCED_LENGTH: dict[str, Any] = {"batch": 64, "rate": 0.01, "epochs": 60, "cuts": (42, 54)}
"""Batch and schedule of the reduced network at ``laptop``. Kernels need many updates to form: half the paper's batch
doubles them, and there are epochs enough for its rate, which is cut after the same shares of the training as the full
network's."""
_FEW: dict[str, Any] = {"data": "synthetic:size=256,train=16,test=8", "batch": 8, "epochs": 2, "cuts": (1,)}
"""What the whole network can do in seconds."""
WHOLE_LENGTHS: dict[str, dict[str, Any]] = {
    "smoke": _FEW,
    "laptop": {"batch": 32, "rate": 0.001, "epochs": 20, "cuts": (14, 18), "precision": "bf16"},
    "gpu": {"precision": "bf16"},
    "imagenet": {"precision": "bf16"},
}
"""What a scale changes in the recipe of the whole network (`edition`)."""


def _full(scale: str) -> tuple[Arm, ...]:
    """Return the whole network in the two editions of 2012: on Imagenette, at ``gpu`` on Tiny ImageNet as well.

    At ``laptop`` 20 epochs, one 600th of the paper's training, are made the most of: batches of 32 for four times the
    updates, cut late, in bf16, without which a CPU takes half as long again. In short trials on training images, not
    on record, 0.0025, which is the paper's rate for this batch, and 0.005 threw the loss above that of guessing
    within a dozen updates, where it stayed; 0.001 did not. After both editions comes the arm ``reduced``, the edition
    ``paper`` made small (`alexnet_lib.models.REDUCED`): a CPU can train it for longer, and with seeds enough for a
    verdict. A GPU trains the whole one instead.
    """
    keep = ("conv1", "snapshots", "probabilities", "labels", "neighbours")
    seeds = {"smoke": 1, "laptop": 1, "gpu": 10, "imagenet": 3}[scale]
    short = scale in ("smoke", "laptop")
    arms = []
    for name in ("paper", "code2012"):
        recipe = edition(name, "imagenet" if scale == "imagenet" else "imagenette")
        if short:  # nor is there time for the first layer and the biases to go their own way
            recipe = replace(recipe, bias_cuts=None, conv1=())
        recipe = replace(recipe, **WHOLE_LENGTHS[scale])
        arms.append(Arm(name=name, recipe=recipe, seeds=seeds, keep=keep))
        if scale == "gpu":
            tiny = replace(recipe, data="tiny-imagenet-200")
            arms.append(Arm(name=f"{name}-tiny", recipe=tiny, seeds=3, keep=keep, priority=1))
    if short:
        length = REDUCED_LENGTH if scale == "laptop" else {}
        recipe = replace(arms[0].recipe, net="alexnet-reduced", crop=128, **length)
        seeds = 3 if scale == "laptop" else 1
        arms.append(Arm(name="reduced", recipe=recipe, seeds=seeds, keep=keep, priority=1))
    return tuple(arms)


IMAGENETTE = 9_469
"""Training images of Imagenette."""


def _whole(
    scale: str, changes: Mapping[str, Mapping[str, Any]], of: str, suffix: str = "", keep: tuple[str, ...] = ()
) -> list[Arm]:
    """Return the paper's network, without its colour noise, and with each of ``changes`` to its recipe.

    The changes may be those of AlexNet-32. ``of``: the data set at ``gpu`` and ``imagenet``; at the latter three
    seeds, and of the network itself enough for three ensembles of five. At ``laptop`` three epochs of Imagenette in
    the batches and at the rate of `_full`, but in float32: so short a training can do without bf16, and then any CPU
    can do it. ``suffix``: of the arms' names. ``keep``: as in ``Arm``, of the changed ones.
    """
    base = replace(edition("paper", of), colour="none", **WHOLE_LENGTHS[scale])
    if scale == "laptop":
        base = replace(base, epochs=3, cuts=(), precision="float32")
    seeds = {"smoke": 1, "laptop": 3, "gpu": 10 if of == "imagenette" else 3, "imagenet": 3}[scale]

    def arm(name: str, change: Mapping[str, Any]) -> Arm:
        recipe = replace(base, **change)
        return Arm(
            name=f"{name}{suffix}",
            recipe=replace(recipe, net=recipe.net.replace("alexnet32", "alexnet-paper")),
            seeds=seeds,
            priority=1 if of == "tiny-imagenet-200" else 0,
            keep=keep,
        )

    whole = replace(
        arm("base", {}), seeds=15 if scale == "imagenet" else seeds, keep=("conv1", "probabilities", "labels")
    )
    return [whole, *(arm(name, change) for name, change in changes.items())]


def _imagenet_ablations(scale: str) -> tuple[Arm, ...]:
    """Return the paper's ablations on the network itself; below ``gpu`` one pair, which takes long enough."""
    if scale == "imagenet":
        return ()
    nets = ("no-lrn", "pool2", "half-tower", "no-dropout", "no-conv3", "no-conv4", "no-conv5")
    changes: dict[str, dict[str, Any]] = {name: {"net": f"alexnet-paper-{name}"} for name in nets}
    if scale != "gpu":
        return tuple(_whole(scale, {"no-lrn": changes["no-lrn"]}, "imagenette"))
    changes |= {
        "none": _AUGMENTATION["none"],
        "colour-coded": _AUGMENTATION["colour-coded"],
        "no-decay": _DETAILS["no-decay"],
        "bias-0": {"net": "alexnet-paper-bias0"},
    }
    return tuple(_whole(scale, changes, "imagenette") + _whole(scale, changes, "tiny-imagenet-200", "-tiny"))


def _bigger(scale: str) -> tuple[Arm, ...]:
    """Return networks of three widths, trainings on fewer images and with a start without labels (P §1, §7).

    Longer training is the ensembles' arm. At ``gpu`` the same on the paper's network and Imagenette.
    """
    if scale == "imagenet":
        return ()
    turns = {"smoke": 1, "laptop": 2, "gpu": 10}[scale]

    def changes(net: str, images: int) -> dict[str, dict[str, Any]]:
        parts = {"eighth": images // 8, "quarter": images // 4, "half": images // 2}
        return {
            **{f"{width}-width": {"net": f"{net}-{width}-width"} for width in ("half", "double")},
            **{f"{part}-data": {"images": count} for part, count in parts.items()},
            "eighth-data-pretrained": {"images": parts["eighth"], "pretrain": turns},
        }

    arms = _ablation(changes("alexnet32", SMOKE_IMAGES if scale == "smoke" else 50_000), laptop=3)(scale)
    arms = _paired(*arms, *_ensembles(scale)[1:])
    if scale == "gpu":
        arms += tuple(_whole(scale, changes("alexnet-paper", IMAGENETTE), "imagenette", "-imagenette"))
    return arms


_TOWERS = {name: {"net": f"alexnet32-{name}"} for name in ("half-tower", "one-tower", "towers-apart")}
_AUGMENTATION: dict[str, dict[str, Any]] = {
    "none": {"places": "centre", "flip": False},
    "crops": {"flip": False},
    **{f"colour-{kind}": {"colour": kind} for kind in ("printed", "coded", "lighting")},
}
_DEPTH = {f"no-conv{layer}": {"net": f"alexnet32-no-conv{layer}"} for layer in (3, 4, 5)}
_DETAILS: dict[str, dict[str, Any]] = {
    "no-decay": {"decay": 0.0},
    "bias-0.1": {"net": "alexnet32-bias0.1"},
    "bias-0": {"net": "alexnet32-bias0"},
}

EXPERIMENTS: dict[str, Callable[[str], tuple[Arm, ...]]] = {  # beside each the section of the paper
    "recipe": _holdout,
    "relu_vs_tanh": _relu_vs_tanh,  # 3.1
    "lrn": _lrn,  # 3.3
    "overlapping_pooling": _ablation({"pool2": {"net": "alexnet32-pool2"}}, laptop=5),  # 3.4
    "two_towers": _ablation(_TOWERS, laptop=5, keep=("conv1",), by_itself=True),  # 3.2, 6.1
    "dropout": _ablation({"no-dropout": {"net": "alexnet32-no-dropout"}}, laptop=3),  # 4.2
    "augmentation": _ablation(_AUGMENTATION, laptop=3),  # 4.1
    "depth": _ablation(_DEPTH, laptop=3),  # 7
    "training_details": _ablation(_DETAILS, laptop=3, by_itself=True),  # 5, 6
    "ensembles": _ensembles,  # 6
    "alexnet": _full,  # 3.5, 5, 6
    "imagenet_ablations": _imagenet_ablations,  # 3 to 7
    "bigger_and_more": _bigger,  # 1, 7
}
"""The questions of the study: each gives its arms at a scale, none where the scale can't ask it."""


def check_scale(scale: str) -> None:
    """Raise StudyError unless ``scale`` is one of the study's."""
    if not isinstance(scale, str):
        raise StudyError(f"parameter 'scale': expected str, got {type(scale).__name__} {scale!r}")
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)


def arms(experiment: str, scale: str) -> tuple[Arm, ...]:
    """Return an experiment's arms at a scale.

    Raises:
        StudyError: no such experiment or scale.
    """
    if experiment not in EXPERIMENTS:
        raise unknown("experiment", experiment, EXPERIMENTS)
    check_scale(scale)
    return EXPERIMENTS[experiment](scale)


def needed(scale: str) -> dict[str, list[Recipe]]:
    """Return by experiment the recipes of all runs of a scale, each once: under the first that needs it.

    A search's choice isn't known here: the seeds stand there with the first rate of their arm, at the same cost.

    Raises:
        StudyError: no such scale.
    """
    found: dict[str, list[Recipe]] = {}
    seen: set[str] = set()
    for name in EXPERIMENTS:
        for arm in arms(name, scale):
            for recipe in [replace(arm.recipe, rate=rate) for rate in arm.rates] + arm.recipes(arm.recipe.rate):
                if recipe.id not in seen:
                    seen.add(recipe.id)
                    found.setdefault(name, []).append(recipe)
    return found
