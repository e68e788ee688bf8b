"""The update is the paper's, with each layer's decay, each parameter's rate and each schedule's cuts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from studies import seeded
from torch import Tensor, nn

from alexnet_lib import models
from alexnet_lib.optim import PaperSGD, decay_leaves, optimiser, set_rates
from alexnet_lib.recipes import Recipe

# --- the update --------------------------------------------------------------------------------------------

MOMENTUM, RATE, BIAS_RATE, DECAY, STEPS = 0.9, 0.1, 0.2, 0.03, 6


@pytest.fixture
def gradients() -> list[tuple[Tensor, Tensor]]:
    """One for the weights (3, 4) and one for the biases (4,), step by step."""
    draw = seeded(1)
    return [
        (torch.randn(3, 4, generator=draw).double(), torch.randn(4, generator=draw).double())
        for _ in range(2 * STEPS)
    ]


def parameters() -> tuple[nn.Parameter, nn.Parameter]:
    draw = seeded(2)
    return (
        nn.Parameter(torch.randn(3, 4, generator=draw).double()),
        nn.Parameter(torch.randn(4, generator=draw).double()),
    )


def step(
    update: PaperSGD | torch.optim.Optimizer, w: nn.Parameter, b: nn.Parameter, at: tuple[Tensor, Tensor]
) -> None:
    w.grad, b.grad = (gradient.clone() for gradient in at)
    update.step()


def paper(w: nn.Parameter, b: nn.Parameter, decay: float = DECAY) -> PaperSGD:
    groups = [{"params": [w], "rate": RATE, "decay": decay}, {"params": [b], "rate": BIAS_RATE, "decay": 0.0}]
    return PaperSGD(groups, MOMENTUM)


def test_the_update_is_the_papers_with_decay_on_the_weights_and_the_biases_own_rate(
    gradients: list[tuple[Tensor, Tensor]],
) -> None:
    w, b = parameters()
    update = paper(w, b)
    w_, b_ = w.detach().clone(), b.detach().clone()
    v, u = torch.zeros_like(w_), torch.zeros_like(b_)
    for at in gradients:
        step(update, w, b, at)
        v = MOMENTUM * v - DECAY * RATE * w_ - RATE * at[0]
        w_ = w_ + v
        u = MOMENTUM * u - BIAS_RATE * at[1]
        b_ = b_ + u
    torch.testing.assert_close((w.detach(), b.detach()), (w_, b_), rtol=1e-12, atol=1e-12)


def test_at_a_constant_rate_the_update_is_torchs(gradients: list[tuple[Tensor, Tensor]]) -> None:
    (w, b), (w_, b_) = parameters(), parameters()
    update = paper(w, b)
    torchs = torch.optim.SGD(
        [{"params": [w_], "lr": RATE, "weight_decay": DECAY}, {"params": [b_], "lr": BIAS_RATE}],
        momentum=MOMENTUM,
    )
    for at in gradients:
        step(update, w, b, at)
        step(torchs, w_, b_, at)
    torch.testing.assert_close((w, b), (w_, b_), rtol=1e-12, atol=1e-12)


def test_after_a_cut_the_old_velocity_keeps_its_size_where_torch_cuts_it_too(
    gradients: list[tuple[Tensor, Tensor]],
) -> None:
    """Under the same gradients the two end apart by the old velocity's echo, times the share torch took away."""
    (w, b), (w_, b_) = parameters(), parameters()
    update = paper(w, b, decay=0.0)
    torchs = torch.optim.SGD([{"params": [w_], "lr": RATE}, {"params": [b_], "lr": BIAS_RATE}], momentum=MOMENTUM)
    for at in gradients[:STEPS]:
        step(update, w, b, at)
        step(torchs, w_, b_, at)
    velocity = update.param_groups[0]["velocities"][0].clone()
    for ours, theirs in zip(update.param_groups, torchs.param_groups, strict=True):
        ours["rate"] *= 0.1
        theirs["lr"] *= 0.1
    for at in gradients[STEPS:]:
        step(update, w, b, at)
        step(torchs, w_, b_, at)
    echo = sum(MOMENTUM**k for k in range(1, STEPS + 1))
    torch.testing.assert_close((w - w_).detach(), 0.9 * echo * velocity, rtol=1e-9, atol=1e-12)


def test_velocities_go_on_from_a_state(gradients: list[tuple[Tensor, Tensor]]) -> None:
    (w, b), (w_, b_) = parameters(), parameters()
    whole, first = paper(w, b), paper(w_, b_)
    for at in gradients[:3]:
        step(whole, w, b, at)
        step(first, w_, b_, at)
    again = paper(w_, b_)
    again.load_state_dict(first.state_dict())
    for at in gradients[3:]:
        step(whole, w, b, at)
        step(again, w_, b_, at)
    assert torch.equal(w, w_)
    assert torch.equal(b, b_)


def test_a_gpu_s_update_in_one_pass_is_the_papers_through_cuts_and_a_rate_of_zero(
    gradients: list[tuple[Tensor, Tensor]],
) -> None:
    (w, _), (w_, _) = parameters(), parameters()
    group = {"params": [w], "rate": RATE, "decay": DECAY}
    update, velocities = PaperSGD([group], MOMENTUM), [torch.zeros_like(w)]
    for (gradient, _), rate in zip(gradients, (RATE, RATE, RATE / 10, RATE / 10, 0.0, RATE), strict=False):
        update.param_groups[0]["rate"] = rate
        w.grad = gradient.clone()
        update.step()
        with torch.no_grad():
            PaperSGD._fused([w_], [gradient], velocities, update.param_groups[0])
        torch.testing.assert_close(
            (w, update.param_groups[0]["velocities"][0]), (w_, velocities[0]), rtol=1e-12, atol=1e-12
        )


@pytest.fixture
def groups() -> dict[str, dict[str, Any]]:
    """The optimiser's group of each parameter of the 19 % net, under half its decay and rate 0.1."""
    model = models.build("cifar-19pct", generator=seeded())
    update = optimiser(model, Recipe(rate=0.1, bias_rate=2.0, decay=0.5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in update.param_groups for p in group["params"]}


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = models.build("cifar-19pct", generator=seeded())
    update = optimiser(model, Recipe())
    grouped = [id(parameter) for group in update.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_every_weight_has_its_layers_decay_times_the_recipes(groups: dict[str, dict[str, Any]]) -> None:
    decays = {name: group["decay"] for name, group in groups.items() if name.endswith("weight")}
    assert decays == {"conv1.weight": 0.002, "conv2.weight": 0.002, "conv3.weight": 0.002, "fc4.weight": 1.5}


def test_no_bias_has_decay(groups: dict[str, dict[str, Any]]) -> None:
    assert {group["decay"] for name, group in groups.items() if name.endswith("bias")} == {0.0}


def test_weights_have_the_recipes_rate(groups: dict[str, dict[str, Any]]) -> None:
    assert {group["rate"] for name, group in groups.items() if name.endswith("weight")} == {0.1}


def test_biases_have_a_multiple_of_it(groups: dict[str, dict[str, Any]]) -> None:
    assert {group["rate"] for name, group in groups.items() if name.endswith("bias")} == {0.2}


def test_the_optimiser_has_the_recipes_momentum() -> None:
    update = optimiser(models.build("cifar-19pct", generator=seeded()), Recipe(momentum=0.5))
    assert {group["momentum"] for group in update.param_groups} == {0.5}


# --- the rates ---------------------------------------------------------------------------------------------


def rates(recipe: Recipe, epochs: int) -> dict[str, list[float]]:
    """The rate of conv1's and fc4's weights and biases in every epoch of the 19 % net's training."""
    model = models.build("cifar-19pct", generator=seeded())
    update = optimiser(model, recipe)
    wanted = {name: value for name, value in model.named_parameters() if name.startswith(("conv1", "fc4"))}
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for epoch in range(epochs):
        set_rates(update, recipe, epoch)
        for name, value in wanted.items():
            found[name] += [
                group["rate"] for group in update.param_groups if any(p is value for p in group["params"])
            ]
    return found


def test_biases_can_have_cuts_of_their_own() -> None:
    found = rates(Recipe(rate=0.01, cuts=(1, 3), bias_cuts=(2,)), 4)
    assert found["fc4.weight"] == pytest.approx([0.01, 0.001, 0.001, 0.0001])
    assert found["fc4.bias"] == pytest.approx([0.02, 0.02, 0.002, 0.002])


def test_biases_can_be_spared_all_cuts() -> None:
    assert rates(Recipe(rate=0.01, cuts=(1, 2), bias_cuts=()), 3)["fc4.bias"] == pytest.approx([0.02] * 3)


def test_the_first_layer_is_cut_once_more_and_then_frozen() -> None:
    found = rates(Recipe(rate=0.01, cuts=(3,), conv1=(1, 2)), 4)
    assert found["conv1.weight"] == pytest.approx([0.01, 0.001, 0.0, 0.0])
    assert found["conv1.bias"] == pytest.approx([0.02, 0.002, 0.0, 0.0])
    assert found["fc4.weight"] == pytest.approx([0.01, 0.01, 0.01, 0.001])


def test_what_decay_leaves_is_what_updates_without_gradients_leave() -> None:
    recipe = Recipe(net="alexnet32", data="synthetic", rate=0.001, decay=100.0, batch=32, epochs=4, cuts=(2,))
    left, velocity = 1.0, 0.0
    for rate in [0.001] * 20 + [0.0] * 200:  # two epochs of ten batches, and then until the velocity has faded
        velocity = recipe.momentum * velocity - rate * 0.05 * left
        left += velocity
    net = models.outline("alexnet32")
    assert decay_leaves(net, replace(recipe, epochs=2), 320) == pytest.approx(left, rel=1e-4)
    assert decay_leaves(net, recipe, 320) == pytest.approx(
        left**1.1, rel=1e-4
    )  # the rate is a tenth in the other two


def test_rates_rise_by_equal_steps_while_a_run_warms_up() -> None:
    found = rates(Recipe(rate=0.01, warmup=3, cuts=(5,)), 6)
    assert found["fc4.weight"] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.001])
    assert found["fc4.bias"] == pytest.approx([2 * rate for rate in found["fc4.weight"]])
