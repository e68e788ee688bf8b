"""The paper's update and its step schedule (P §5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_lib import layers
from alexnet_lib.recipes import Recipe


class PaperSGD:
    """Stochastic gradient descent as P §5 writes it, with ``weights.cu``'s separate rates for biases.

    ``v <- momentum * v - rate * (decay * w + gradient)``, then ``w <- w + v``. The rate enters the velocity,
    so after a cut the old velocity keeps its size; ``torch.optim.SGD`` multiplies the whole velocity by the
    new rate and differs for the 10 to 20 updates that the old one takes to fade. At a constant rate both agree.

    No subclass of ``torch.optim.Optimizer``, whose constructor imports torch's compiler: that takes as long as
    importing torch itself, in every process that trains.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float) -> None:
        """Start without velocity; a group has ``params``, their ``rate`` and ``decay``, and what the caller adds."""
        self.param_groups = [
            {**group, "momentum": momentum, "velocities": [torch.zeros_like(w) for w in group["params"]]}
            for group in groups
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Do one update from the gradients at hand."""
        for group in self.param_groups:
            weights, velocities = group["params"], group["velocities"]
            gradients = [w.grad for w in weights if w.grad is not None]
            if weights[0].is_cuda and group["momentum"]:  # without one torch's kernel wants no velocities
                self._fused(weights, gradients, velocities, group)
                continue
            # Weight by weight, not by torch._foreach_*: a CPU then finds in its caches what the line before met.
            for w, gradient, velocity in zip(weights, gradients, velocities, strict=True):
                velocity.mul_(group["momentum"]).add_(gradient, alpha=-group["rate"])
                if group["decay"]:
                    velocity.add_(w, alpha=-group["rate"] * group["decay"])
                w.add_(velocity)

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for group in self.param_groups:
            for w in group["params"]:
                w.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the velocities by the weights' numbers, over all groups; rates are the recipe's, epoch by epoch."""
        return {"state": {number: {"velocity": velocity} for number, velocity in enumerate(self._velocities())}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from velocities that `state_dict` returned."""
        for number, velocity in enumerate(self._velocities()):
            velocity.copy_(state["state"][number]["velocity"])

    def _velocities(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["velocities"]

    @staticmethod
    def _fused(
        weights: list[Tensor], gradients: list[Tensor], velocities: list[Tensor], group: dict[str, Any]
    ) -> None:
        """Do the update in one pass over memory, by the kernel of ``torch.optim.SGD(fused=True)``.

        Its ``v <- momentum * v + (1 - dampening) * (decay * w + gradient)``, ``w <- w - lr * v`` is the paper's
        with the rate in the dampening and an ``lr`` of -1.
        """
        torch._fused_sgd_(
            weights,
            gradients,
            velocities,
            weight_decay=group["decay"],
            momentum=group["momentum"],
            lr=-1.0,
            dampening=1.0 + group["rate"],
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


def optimiser(model: nn.Module, recipe: Recipe) -> PaperSGD:
    """Return the recipe's optimiser: each weight with its layer's decay, biases with their rate and no decay."""
    groups: dict[tuple[bool, bool, float, torch.device], list[Tensor]] = {}
    for name, layer in layers.weight_layers(model):
        assert layer.bias is not None
        first, device = bool(recipe.conv1) and "conv1" in name.split("."), layer.weight.device
        decay = layers.setting_of(layer).decay * recipe.decay
        groups.setdefault((first, False, decay, device), []).append(layer.weight)
        groups.setdefault((first, True, 0.0, device), []).append(layer.bias)
    update = PaperSGD(
        [{"params": w, "decay": decay, "bias": bias, "first": one} for (one, bias, decay, _), w in groups.items()],
        recipe.momentum,
    )
    set_rates(update, recipe, epoch=0)
    return update


def set_rates(optimiser: PaperSGD, recipe: Recipe, epoch: int) -> float:
    """Give every group of weights its rate in an epoch, counted from 0; return that of the weights above conv1."""

    def cut(epochs: tuple[int, ...]) -> float:
        return 0.1 ** sum(at <= epoch for at in epochs)

    rate = recipe.rate * min(1.0, (epoch + 1) / (recipe.warmup + 1))
    for group in optimiser.param_groups:
        own = recipe.bias_cuts if group["bias"] and recipe.bias_cuts is not None else recipe.cuts
        group["rate"] = rate * (recipe.bias_rate if group["bias"] else 1.0) * cut(own)
        if group["first"]:
            group["rate"] *= 0.0 if epoch >= recipe.conv1[1] else cut(recipe.conv1[:1])
    return rate * cut(recipe.cuts)


def decay_leaves(model: nn.Module, recipe: Recipe, images: int) -> float:
    """Return what share of an initial weight of ``conv1`` decay alone would leave: P §5's update without gradients.

    ``images``: in the training set.
    """
    update, total = optimiser(model, recipe), 0.0
    first = model.get_submodule("conv1").weight
    (group,) = (some for some in update.param_groups if any(weight is first for weight in some["params"]))
    for epoch in range(recipe.epochs):
        set_rates(update, recipe, epoch)
        total += group["rate"] * group["decay"] * math.ceil(images / recipe.batch)
    return math.exp(-total / (1 - recipe.momentum))
