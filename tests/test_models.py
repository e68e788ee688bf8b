"""The networks compute what the paper, the 2012 files and torchvision say, and are the sizes they report."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from studies import seeded
from torch import Tensor, nn

from alexnet_lib import layers, models
from alexnet_lib.layers import CrossMapNorm, LayerSetting, SameMapNorm
from alexnet_lib.models import build, outline
from alexnet_lib.recipes import StudyError

CIFAR = [name for name in models.NETS if name.startswith("cifar")]
TWO_TOWERS = ["alexnet-paper", "alexnet-code2012"]


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach() for name, layer in layers.weight_layers(net)}


def table(name: str) -> dict[str, models.LayerRow]:
    rows = models.layer_table(outline(name), models.NETS[name].image_size)
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def paper() -> nn.Sequential:
    return build("alexnet-paper", classes=2, generator=seeded())


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cifar-26pct", 145_578),
        ("cifar-19pct", 89_578),
        ("cifar-18pct", 89_578),
        ("cifar-13pct", 1_116_490),
        ("cifar-11pct", 2_112_970),
        ("cifar-18pct-no-lrn", 89_578),
        ("cifar-11pct-no-lrn", 2_112_970),
        ("alexnet-paper", 60_965_224),
        ("alexnet-code2012", 60_965_224),
        ("alexnet-one-tower", 61_100_840),
    ],
)
def test_a_net_has_the_number_of_parameters_of_its_source(name: str, parameters: int) -> None:
    assert models.n_parameters(outline(name)) == parameters
    assert sum(row.parameters for row in table(name).values()) == parameters


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_the_two_tower_layers_have_the_parameters_of_the_fact_sheet(name: str) -> None:
    counts = {row.name: row.parameters for row in table(name).values() if row.parameters}
    assert counts == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_the_two_tower_maps_have_the_sizes_of_the_paper(name: str) -> None:
    rows = table(name)
    names = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv5", "pool5")
    shapes = {layer: rows[layer].shape for layer in names}
    assert shapes == {
        "conv1": (96, 55, 55),
        "pool1": (96, 27, 27),
        "conv2": (256, 27, 27),
        "pool2": (256, 13, 13),
        "conv3": (384, 13, 13),
        "conv5": (256, 13, 13),
        "pool5": (256, 6, 6),
    }


def test_only_the_second_fourth_and_fifth_convolutions_keep_to_their_tower() -> None:
    groups = {row.name: row.groups for row in table("alexnet-paper").values() if row.kind == "Conv2d"}
    assert groups == {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_the_neurons_sum_to_the_650000_of_the_abstract(name: str) -> None:
    neurons = [row.neurons for row in table(name).values() if row.neurons]
    # P Figure 2's caption has 253,440 in the first place: 55 x 48 x 96, a slip for 55 x 55 x 96.
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272
    assert sum(neurons) - 290_400 + 55 * 48 * 96 == 622_312


def test_one_image_costs_724_million_multiply_accumulates_and_1135_without_groups() -> None:
    rows = table("alexnet-paper").values()
    assert sum(row.macs for row in rows) == 724_406_816
    assert round(sum(row.macs * row.groups for row in rows) / 1e6) == 1135


def test_the_three_convolution_net_costs_12_million_multiply_accumulates() -> None:
    assert sum(row.macs for row in table("cifar-19pct").values()) == 12_298_240


@pytest.mark.parametrize(("name", "sides"), [("cifar-19pct", [32, 16, 8, 4]), ("cifar-13pct", [24, 12, 6])])
def test_pooling_rounds_the_map_size_up_as_in_2012(name: str, sides: list[int]) -> None:
    pooled = [row.shape[1] for row in table(name).values() if "Pool" in row.kind]
    assert pooled == sides[1:]


def test_average_pooling_divides_by_the_part_of_the_window_inside_the_map() -> None:
    pool = outline("cifar-19pct").get_submodule("pool2")
    assert torch.equal(pool(torch.ones(1, 1, 16, 16)), torch.ones(1, 1, 8, 8))


def test_the_layer_table_describes_every_kind_of_layer() -> None:
    rows = table("alexnet-code2012") | {"local3": table("cifar-13pct")["local3"]}
    names = ("pad1", "conv1", "norm1", "mapnorm2", "pool5", "local3", "fc6")
    windows = {name: rows[name].window for name in names}
    assert windows == {
        "pad1": "left 0, right 3, top 0, bottom 3",
        "conv1": "11 / 4 / 0",
        "norm1": "5 maps",
        "mapnorm2": "5 / 1 / 2",
        "pool5": "3 / 2 / 0",
        "local3": "3 / 1 / 1",
        "fc6": "",
    }
    assert rows["local3"].macs == 36 * 32 * 64 * 9


def test_the_layer_table_leaves_net_and_random_state_alone() -> None:
    net = build("alexnet32", generator=seeded())
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    models.layer_table(net, 24)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# --- editions ---------------------------------------------------------------------------------------------


def test_the_editions_order_the_layers_as_their_sources_do() -> None:
    def first_layers(name: str) -> str:
        names = [layer for layer, _ in outline(name).named_children()]
        return " ".join(names[: names.index("conv3")])

    assert first_layers("alexnet-paper") == "pad1 conv1 act1 norm1 pool1 conv2 act2 norm2 pool2"
    assert first_layers("alexnet-code2012") == "pad1 conv1 norm1 pool1 act1 conv2 act2 norm2 mapnorm2 pool2"
    assert first_layers("alexnet-one-tower") == "conv1 act1 pool1 conv2 act2 pool2"


def test_dropout_follows_fc6_and_fc7_in_the_paper_and_precedes_them_in_torchvision() -> None:
    def top(name: str) -> str:
        kinds = [type(layer).__name__ for layer in outline(name)]
        return " ".join(kinds[kinds.index("Flatten") + 1 :])

    assert top("alexnet-paper") == "Linear ReLU Dropout Linear ReLU Dropout Linear"
    assert top("alexnet-code2012") == top("alexnet-paper")
    assert top("alexnet-one-tower") == "Dropout Linear ReLU Dropout Linear ReLU Linear"
    dropouts = [layer for name in models.NETS for layer in outline(name) if isinstance(layer, nn.Dropout)]
    assert {layer.p for layer in dropouts} == {0.5}


def test_the_editions_have_the_norm_constants_of_their_sources() -> None:
    def norms(name: str) -> list[tuple[float, ...]]:
        found = [m for m in outline(name) if isinstance(m, CrossMapNorm | SameMapNorm)]
        return [(m.size, m.alpha, m.beta, m.k, getattr(m, "towers", 0)) for m in found]

    assert norms("alexnet-paper") == [(5, 1e-4, 0.75, 2, 2)] * 2
    assert norms("alexnet-code2012") == [(5, 2e-5, 0.75, 2, 2)] * 2 + [(5, 4e-5, 0.75, 1, 0)]
    without = ("alexnet-one-tower", "cifar-26pct", "cifar-19pct", "cifar-13pct")
    for name in (*without, "cifar-11pct-no-lrn", "cifar-18pct-no-lrn"):
        assert norms(name) == []
    assert norms("cifar-11pct") == [(9, 1e-3 / 9, 0.75, 1, 1)] * 2
    assert norms("cifar-18pct") == [(3, 5e-5 / 9, 0.75, 1, 0)] * 2


def test_the_editions_start_from_the_deviations_and_biases_of_their_sources() -> None:
    def settings(name: str) -> dict[str, LayerSetting]:
        return {layer: layers.setting_of(module) for layer, module in layers.weight_layers(outline(name))}

    biases = {"conv1": 0, "conv2": 1, "conv3": 0, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1, "fc8": 0}
    wide = ("conv3", "conv4", "conv5")
    paper = {layer: LayerSetting(0.01, bias, 5e-4) for layer, bias in biases.items()}
    code = paper | {layer: LayerSetting(0.03, biases[layer], 5e-4) for layer in wide}
    assert settings("alexnet-paper") == settings("alexnet-one-tower") == paper
    assert settings("alexnet-code2012") == code


@pytest.mark.parametrize(
    ("name", "stds", "decays"),
    [
        ("cifar-26pct", [1e-4, 0.01, 0.01, 0.1, 0.1], [0.004, 0.004, 0.004, 0.03, 0.03]),
        ("cifar-19pct", [1e-4, 0.01, 0.01, 0.01], [0.004, 0.004, 0.004, 3]),
        ("cifar-18pct", [1e-4, 0.01, 0.01, 0.01], [0.004, 0.004, 0.004, 1]),
        ("cifar-13pct", [1e-4, 0.01, 0.04, 0.04, 0.01], [0, 0, 0.004, 0.004, 0.004]),
        ("cifar-11pct", [1e-4, 0.01, 0.04, 0.04, 0.01], [0, 0, 0.004, 0.004, 0.01]),
    ],
)
def test_the_cifar_nets_have_the_deviations_and_decays_of_their_files(
    name: str, stds: list[float], decays: list[float]
) -> None:
    settings = [layers.setting_of(layer) for _, layer in layers.weight_layers(outline(name))]
    assert settings == [LayerSetting(std, 0.0, decay) for std, decay in zip(stds, decays, strict=True)]


def test_the_first_maps_are_those_of_the_image_padded_right_and_below(paper: nn.Sequential) -> None:
    image = noise(1, 3, 224, 224, dtype=torch.float32)
    padded = torch.zeros(1, 3, 227, 227)
    padded[:, :, :224, :224] = image
    conv1 = paper.get_submodule("conv1")
    assert isinstance(conv1, nn.Conv2d)
    expected = F.conv2d(padded, conv1.weight, conv1.bias, stride=4)
    assert torch.equal(paper[:2](image), expected)


def test_the_one_tower_edition_computes_what_torchvision_computes() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.alexnet(num_classes=2)
    ours = build("alexnet-one-tower", classes=2, init="variance", generator=seeded()).eval()
    values = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(values, assign=True)
    image = noise(1, 3, 224, 224, dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(ours(image), theirs.eval()(image), atol=1e-6)


# --- initial values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CIFAR)
def test_file_init_has_the_deviation_and_bias_of_each_layer(name: str) -> None:
    for _, layer in layers.weight_layers(build(name, generator=seeded())):
        setting, weight = layers.setting_of(layer), layer.weight.detach()
        tolerance = 4 / math.sqrt(weight.numel())
        assert weight.std().item() == pytest.approx(setting.std, rel=tolerance)
        assert abs(weight.mean().item()) < tolerance * setting.std
        assert layer.bias is not None
        assert torch.all(layer.bias == setting.bias)


def test_file_init_sets_the_papers_biases(paper: nn.Sequential) -> None:
    biases = {name: bias for name, bias in paper.named_parameters() if name.endswith("bias")}
    ones = {name for name, bias in biases.items() if torch.all(bias == 1)}
    assert ones == {f"{layer}.bias" for layer in ("conv2", "conv4", "conv5", "fc6", "fc7")}
    assert not any(biases[name].any() for name in biases.keys() - ones)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_variance_init_is_torchs_kaiming_normal_with_a_linear_last_layer(activation: str) -> None:
    net = build("cifar-26pct", activation=activation, init="variance", generator=seeded(3))
    generator = seeded(3)
    for name, layer in layers.weight_layers(net):
        follows = "linear" if name == "fc5" else activation
        expected = torch.empty_like(layer.weight)
        nn.init.kaiming_normal_(expected, nonlinearity=follows, generator=generator)  # type: ignore[arg-type]
        torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-6, atol=0)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_variance_init_counts_the_inputs_of_one_position_of_a_local_layer() -> None:
    local = weights(build("cifar-13pct", init="variance", generator=seeded()))["local3"]
    assert local.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.01)


def test_variance_init_replaces_the_files_deviations_and_biases_but_not_the_draws(paper: nn.Sequential) -> None:
    net = build("alexnet-paper", classes=2, init="variance", generator=seeded())
    filed, kept = weights(paper)["conv2"] / 0.01, weights(net)["conv2"] / math.sqrt(2 / (48 * 25))
    torch.testing.assert_close(kept, filed, rtol=1e-5, atol=0)
    assert not any(value.any() for name, value in net.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("name", ["cifar-19pct", "cifar-13pct"])
def test_variance_init_keeps_the_scale_of_the_signal_and_file_init_loses_it(name: str) -> None:
    size = models.NETS[name].image_size
    x = noise(16, 3, size, size, dtype=torch.float32)
    with torch.no_grad():
        assert 0.1 < build(name, init="variance", generator=seeded())(x).std().item() < 3
        assert build(name, init="file", generator=seeded())(x).std().item() < 0.01


def test_arms_of_one_seed_share_their_standard_normals() -> None:
    arms = [
        weights(build("cifar-13pct", activation=activation, init=init, generator=seeded(5)))
        for activation, init in itertools.product(("relu", "tanh"), ("file", "variance"))
    ]
    for name in arms[0]:
        normals = [arm[name] / arm[name].std() for arm in arms]
        for other in normals[1:]:
            torch.testing.assert_close(other, normals[0], rtol=1e-4, atol=1e-6)


def test_a_seed_decides_the_weights_and_the_global_random_state_does_not() -> None:
    torch.manual_seed(1)
    first = weights(build("cifar-19pct", generator=seeded(1)))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = (weights(build("cifar-19pct", generator=seeded(seed))) for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


# --- building ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.NETS)
def test_every_activation_is_replaced_and_nothing_else(name: str) -> None:
    relu, tanh = ([type(m) for m in outline(name, activation=a).modules()] for a in ("relu", "tanh"))
    assert nn.Tanh not in relu
    assert [nn.Tanh if kind is nn.ReLU else kind for kind in relu] == tanh
    assert tanh.count(nn.Tanh) == len(layers.weight_layers(outline(name))) - 1


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_cifar_net_gives_logits_for_any_number_of_classes_and_gradients_everywhere(
    name: str, activation: str
) -> None:
    size = models.NETS[name].image_size
    net = build(name, classes=7, activation=activation, init="variance", generator=seeded())
    logits = net(noise(2, 3, size, size, dtype=torch.float32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", CIFAR)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    size = models.NETS[name].image_size
    net = build(name, init="variance", generator=seeded()).requires_grad_(False)
    x = noise(2, 3, size, size, dtype=torch.float32)
    plain = net(x)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5)


def test_alexnet_gives_logits_for_any_number_of_classes(paper: nn.Sequential) -> None:
    with torch.no_grad():
        logits = paper.eval()(noise(1, 3, 224, 224, dtype=torch.float32))
    assert logits.shape == (1, 2)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", CIFAR)
def test_a_bf16_forward_pass_stays_near_the_float32_one(name: str) -> None:
    size = models.NETS[name].image_size
    net = build(name, init="variance", generator=seeded()).requires_grad_(False)
    x = noise(2, 3, size, size, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), net(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"net": "cifar-19pc"}, "unknown net 'cifar-19pc'.*'cifar-19pct'"),
        ({"activation": "than"}, "unknown activation 'than'.*'tanh'"),
        ({"init": "variances"}, "unknown init 'variances'.*'variance'"),
        ({"classes": 1}, "'cifar-19pct' needs at least 2 classes, got 1"),
    ],
)
def test_what_cannot_be_built_is_named_with_what_can(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build(**({"net": "cifar-19pct", "generator": seeded()} | wrong))  # type: ignore[arg-type]


# --- The paper's ablations ---


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("alexnet-paper-half-tower", 59_798_312), ("alexnet-paper-one-tower", 62_378_344)],
)
def test_the_tower_ablations_have_the_parameters_of_the_released_files(name: str, parameters: int) -> None:
    assert models.n_parameters(outline(name)) == parameters


def test_without_overlap_the_maps_are_those_of_layers_147() -> None:
    rows = models.layer_table(outline("alexnet-paper-pool2"), 224)
    sides = [row.shape[-1] for row in rows if row.name.startswith(("conv", "pool"))]
    assert sides == [55, 28, 26, 13, 13, 13, 11, 6]


@pytest.mark.parametrize("suffix", models.CHANGES)
def test_every_ablation_of_the_miniature_ends_in_maps_of_three_pixels(suffix: str) -> None:
    rows = models.layer_table(outline(f"alexnet32{suffix}"), 24)
    assert next(row.shape for row in rows if row.name == "pool5")[1:] == (3, 3)


def test_the_reduced_network_has_the_paper_s_first_layer_at_a_fifth_of_its_cost() -> None:
    whole, reduced = table("alexnet-paper"), table("alexnet-reduced")
    assert reduced["conv1"].window == whole["conv1"].window == "11 / 4 / 0"
    assert reduced["conv1"].parameters == whole["conv1"].parameters
    assert vars(outline("alexnet-reduced").get_submodule("norm1"))["towers"] == 2
    assert [row.shape[1] for row in reduced.values() if row.kind == "MaxPool2d"] == [15, 7, 3]
    assert models.training_flops("alexnet-reduced") == 784_153_728
    assert models.training_flops("alexnet-reduced") <= models.training_flops("alexnet-paper") / 5


def test_the_reduced_network_starts_with_deviations_that_keep_the_full_one_s_signal() -> None:
    full, reduced = (dict(layers.weight_layers(outline(f"alexnet-{name}"))) for name in ("paper", "reduced"))
    for name, layer in full.items():
        fewer = models._fan_in(layer) / models._fan_in(reduced[name])
        expected = layers.setting_of(layer).std * math.sqrt(fewer)
        assert layers.setting_of(reduced[name]).std == pytest.approx(expected, rel=0.02)


def test_towers_apart_do_not_see_each_other_before_the_last_layer() -> None:
    net = models.build("alexnet32-towers-apart", generator=torch.Generator().manual_seed(0)).eval()
    head = net[: list(dict(net.named_children())).index("fc8")]
    images = torch.rand(2, 3, 24, 24)
    before = head(images)
    with torch.no_grad():
        net.conv1.weight[:12].zero_()  # the first tower's kernels
    after = head(images)
    half = before.shape[1] // 2
    assert torch.equal(before[:, half:], after[:, half:])
    assert not torch.equal(before[:, :half], after[:, :half])


WITHOUT = [
    ("cifar-11pct", "cifar-11pct-no-lrn", CrossMapNorm),
    ("cifar-18pct", "cifar-18pct-no-lrn", SameMapNorm),
    ("alexnet32", "alexnet32-no-lrn", CrossMapNorm),
    ("alexnet32", "alexnet32-no-dropout", nn.Dropout),
]


@pytest.mark.parametrize(("name", "without", "kind"), WITHOUT)
def test_a_net_without_one_kind_of_layer_has_all_the_others(name: str, without: str, kind: type[nn.Module]) -> None:
    whole = table(name)
    assert sum(row.kind == kind.__name__ for row in whole.values()) == 2
    assert [row for row in whole.values() if row.kind != kind.__name__] == list(table(without).values())


@pytest.mark.parametrize(("name", "without"), [(name, without) for name, without, _ in WITHOUT])
def test_a_net_without_one_kind_of_layer_starts_and_decays_as_the_whole_one(name: str, without: str) -> None:
    def settings(net: str) -> list[LayerSetting]:
        return [layers.setting_of(layer) for _, layer in layers.weight_layers(outline(net))]

    assert settings(without) == settings(name)


@pytest.mark.parametrize(("name", "without"), [(name, without) for name, without, _ in WITHOUT])
def test_a_net_without_one_kind_of_layer_has_the_weights_of_the_whole_one(name: str, without: str) -> None:
    whole, part = (build(net, generator=seeded(3)).state_dict() for net in (name, without))
    assert whole.keys() == part.keys()
    assert all(torch.equal(whole[key], part[key]) for key in whole)


def test_the_miniature_with_the_coded_alpha_differs_in_the_norms_factor_alone() -> None:
    def norms(net: str) -> list[tuple[float, ...]]:
        found = [layer for layer in outline(net) if isinstance(layer, CrossMapNorm)]
        return [(norm.size, norm.alpha, norm.beta, norm.k, norm.towers) for norm in found]

    assert norms("alexnet32") == [(5, 1e-4, 0.75, 2, 2)] * 2
    assert norms("alexnet32-code-lrn") == [(5, 1e-4 / 5, 0.75, 2, 2)] * 2
    assert table("alexnet32") == table("alexnet32-code-lrn")


@pytest.mark.parametrize("name", ["alexnet32", "alexnet-paper"])
@pytest.mark.parametrize(("suffix", "times"), [("-half-width", 0.5), ("-double-width", 2)])
def test_a_wider_network_has_as_many_times_the_maps_in_the_same_towers(name: str, suffix: str, times: float) -> None:
    size = models.NETS[name].image_size
    base, other = (models.layer_table(outline(f"{name}{more}"), size) for more in ("", suffix))
    for row, wider in zip(base, other, strict=True):
        maps, *sides = row.shape
        if row.name not in ("pad1", "fc8"):
            assert (wider.name, wider.shape, wider.groups) == (row.name, (times * maps, *sides), row.groups)


@pytest.mark.parametrize("suffix", ["-half-width", "-double-width"])
def test_a_wider_network_passes_on_as_much_signal(suffix: str) -> None:
    for (name, layer), (_, other) in zip(
        layers.weight_layers(outline("alexnet32")), layers.weight_layers(outline(f"alexnet32{suffix}")), strict=True
    ):
        sums = [layers.setting_of(each).std * math.sqrt(each.weight[0].numel()) for each in (layer, other)]
        assert sums[1] == pytest.approx(sums[0]), name


@pytest.mark.parametrize(("suffix", "bias"), [("-bias0.1", 0.1), ("-bias0", 0.0)])
def test_the_miniature_with_other_biases_has_them_where_the_paper_has_ones(suffix: str, bias: float) -> None:
    def settings(net: str) -> dict[str, LayerSetting]:
        return {name: layers.setting_of(layer) for name, layer in layers.weight_layers(outline(net))}

    expected = {
        name: replace(setting, bias=bias) if setting.bias == 1 else setting
        for name, setting in settings("alexnet32").items()
    }
    assert settings(f"alexnet32{suffix}") == expected
    assert table(f"alexnet32{suffix}") == table("alexnet32")


def test_leaving_out_conv3_makes_the_towers_meet_in_conv4() -> None:
    assert outline("alexnet32-no-conv3").conv4.groups == 1


def test_the_miniature_starts_with_the_gain_of_the_original_layer_by_layer() -> None:
    def gains(name: str) -> list[float]:
        found = [layer for _, layer in layers.weight_layers(outline(name))]
        return [layers.setting_of(layer).std * layer.weight[0].numel() ** 0.5 for layer in found]

    assert gains("alexnet32") == pytest.approx(gains("alexnet-paper"), rel=0.02)


@pytest.mark.parametrize(("net", "million"), [("alexnet-paper", 4135.6), ("alexnet32", 45.3), ("cifar-19pct", 68.9)])
def test_training_takes_the_operations_of_the_fact_sheet(net: str, million: float) -> None:
    assert models.training_flops(net) / 1e6 == pytest.approx(million, abs=0.05)
