"""The networks: Krizhevsky's CIFAR-10 nets of 2012 and AlexNet in three editions.

A network is a plain ``nn.Sequential`` of named layers; the function that builds it reads like the layer
table of its source: the paper (``P §3.5``), the 2012 release (``layers-145.cfg`` is the paper's net), the
example layers of cuda-convnet (``layers-19pct.cfg`` and its siblings), or torchvision. Each layer with
weights carries what its file says about them: see :class:`~alexnet_lib.layers.LayerSetting`.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from alexnet_lib.layers import (
    ACTIVATIONS,
    Activation,
    CrossMapNorm,
    LocallyConnected,
    SameMapNorm,
    WeightLayer,
    conv,
    linear,
    local,
    setting_of,
    weight_layers,
)
from alexnet_lib.recipes import INITS, StudyError, unknown


def _max_pool() -> nn.Module:
    # The 2012 code makes 1 + ceil((side - 3) / 2) windows, the last cut off at the edge: 32 -> 16 -> 8 -> 4.
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _avg_pool() -> nn.Module:
    return nn.AvgPool2d(3, stride=2, ceil_mode=True)  # divides by the part of the window inside, as in 2012


def _net(**layers: nn.Module | None) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


def _cifar_conv(act: Activation, *, norm: bool = False, **top: nn.Module) -> nn.Sequential:
    """Build the three convolutions that the 26 %, 19 % and 18 % nets share, with ``top`` on them."""
    return _net(
        conv1=conv(3, 32, 5, padding=2, std=0.0001, decay=0.004),
        pool1=_max_pool(),
        act1=act(),
        norm1=SameMapNorm(3, 5e-5 / 9, 0.75, 1.0) if norm else None,
        conv2=conv(32, 32, 5, padding=2, std=0.01, decay=0.004),
        act2=act(),
        pool2=_avg_pool(),
        norm2=SameMapNorm(3, 5e-5 / 9, 0.75, 1.0) if norm else None,
        conv3=conv(32, 64, 5, padding=2, std=0.01, decay=0.004),
        act3=act(),
        pool3=_avg_pool(),
        flatten=nn.Flatten(),
        **top,
    )


def _cifar_26pct(classes: int, act: Activation) -> nn.Sequential:
    fc4, fc5 = linear(1024, 64, std=0.1, decay=0.03), linear(64, classes, std=0.1, decay=0.03)
    return _cifar_conv(act, fc4=fc4, act4=act(), fc5=fc5)


def _cifar_19pct(classes: int, act: Activation) -> nn.Sequential:
    return _cifar_conv(act, fc4=linear(1024, classes, std=0.01, decay=3.0))


def _cifar_18pct(classes: int, act: Activation, *, norm: bool = True) -> nn.Sequential:
    return _cifar_conv(act, norm=norm, fc4=linear(1024, classes, std=0.01, decay=1.0))


def _cifar_local(classes: int, act: Activation, *, norm: bool, maps3: int, decay5: float) -> nn.Sequential:
    """Build conv-conv-local-local; the files of the 13 % and 11 % nets differ in these three ways."""
    return _net(
        conv1=conv(3, 64, 5, padding=2, std=0.0001, decay=0.0),
        act1=act(),
        pool1=_max_pool(),
        norm1=CrossMapNorm(9, 1e-3 / 9, 0.75, 1.0) if norm else None,
        conv2=conv(64, 64, 5, padding=2, std=0.01, decay=0.0),
        act2=act(),
        norm2=CrossMapNorm(9, 1e-3 / 9, 0.75, 1.0) if norm else None,
        pool2=_max_pool(),
        local3=local(64, maps3, 3, map_size=6, padding=1, std=0.04, decay=0.004),
        act3=act(),
        local4=local(maps3, 32, 3, map_size=6, padding=1, std=0.04, decay=0.004),
        act4=act(),
        flatten=nn.Flatten(),
        fc5=linear(1152, classes, std=0.01, decay=decay5),
    )


DECAY = 5e-4
"""Weight decay of every AlexNet layer (P §5)."""


@dataclass(frozen=True)
class Sizes:
    """An AlexNet's widths and windows: the paper's own, or those of its miniature."""

    image: int
    """Side of the input in pixels."""
    conv1: tuple[int, int]
    """Kernel and stride of the first convolution."""
    padding: tuple[int, int, int, int]
    """Zeros around the image: left, right, top, bottom."""
    maps: tuple[int, int, int, int, int]
    """Maps of the five convolutions, both towers together."""
    units: int
    """Units of the first and of the second fully-connected layer."""
    side: int
    """Side of the maps after the last pooling."""
    separate: tuple[int, int]
    """Padding of conv2 and conv5 that keeps ``side`` where pooling windows don't overlap (``layers-147.cfg``)."""
    stds: tuple[float, ...]
    """Deviations of the initial weights of the eight layers."""

    def widened(self, times: float) -> Sizes:
        """Return the sizes with as many times the maps and units; each layer passes on as much of its signal."""
        m1, m2, m3, m4, m5 = (round(times * maps) for maps in self.maps)
        first, *others = self.stds  # conv1's inputs are the three colours, whatever the width
        stds = (first, *(std / math.sqrt(times) for std in others))
        return replace(self, maps=(m1, m2, m3, m4, m5), units=round(times * self.units), stds=stds)


FULL = Sizes(224, (11, 4), (0, 3, 0, 3), (96, 256, 384, 384, 256), 4096, 6, separate=(1, 0), stds=(0.01,) * 8)
"""P §3.5; the paper does not say how 224 pixels give 55 x 55 maps, the padding is the 2012 code's."""
MINI = Sizes(
    24,
    (5, 1),
    (2, 2, 2, 2),
    (24, 64, 80, 80, 64),
    512,
    3,
    separate=(2, 1),
    stds=(0.022, 0.02, 0.02, 0.022, 0.022, 0.04, 0.028, 0.028),
)
"""AlexNet-32: the same architecture for 24-pixel crops of 32-pixel images, 45 MFLOP an image in training.

The first kernels are those of the 2012 CIFAR-10 nets, without stride: 24 pixels leave nothing to skip. Maps then
halve at each pooling as in the original (24, 12, 6, 3). Widths are a quarter of the original's, conv3 and conv4 a
little less and the fully-connected layers an eighth, to hold the cost. Initial weights are larger by the root of
what their layer has fewer inputs, so that each layer passes on as much of its signal as the original's at 0.01.
"""
REDUCED = replace(
    FULL,
    image=128,
    maps=(96, 192, 288, 288, 192),
    units=512,
    side=3,
    stds=(0.01, 0.01, 0.0115, 0.0115, 0.0115, 0.023, 0.028, 0.028),
)
"""The network reduced to what a CPU can train for as long as first-layer kernels need to form: 0.78 GFLOP an image in
training, 19 % of the original's 4.14.

What is looked at stays: the 96 kernels of 11 x 11 in two towers, their stride of 4, norm, pooling and initial
weights; in crops of the same 256-pixel images they see patterns at the same size. Crops of 128 pixels give them a
third of the places, and maps that halve as the original's do (31, 15, 7, 3 for 55, 27, 13, 6). The other convolutions
have three quarters of the maps: with all of them the cost would be 28 %. The fully-connected layers have an eighth of
the units: the original's 59 million weights there would be read and written at every update. Initial weights are
larger where layers have fewer inputs, by the rule of `MINI`.
"""


def _alexnet(
    classes: int,
    act: Activation,
    sizes: Sizes = FULL,
    *,
    alpha: float | None = 1e-4,
    pool: int = 3,
    towers: str = "two",
    dropout: bool = True,
    without: str = "",
    bias: float = 1.0,
    width: float = 1.0,
) -> nn.Sequential:
    """Build AlexNet as printed (layers P §3.5, norms §3.3, dropout §4.2, initial values §5), or with one change.

    ``alpha``: factor in the norms' sum, None for no norms. ``pool``: side of the pooling windows, 3 (overlapping) or
    2 (P §3.4). ``towers``: ``two`` as in the paper; ``half``, one tower of half the kernels in conv1 to conv4, which
    is the paper's comparison (P §3.2, footnote 2; ``layers-145-half.cfg``); ``one``, all kernels in one tower;
    ``apart``, two that meet in the last layer only. ``without``: a convolution to leave out (P §7); the towers then
    meet in the next one. ``bias``: initial bias where the paper has 1. ``width``: times the maps and units (P §7).
    """
    sizes = sizes.widened(width)
    half, split = towers == "half", 1 if towers in ("half", "one") else 2
    m1, m2, m3, m4 = (maps // 2 if half else maps for maps in sizes.maps[:4])
    pad2, pad5 = (2, 1) if pool == 3 else sizes.separate
    window = functools.partial(nn.MaxPool2d, pool, stride=2, ceil_mode=True)
    norm = functools.partial(CrossMapNorm, 5, alpha, 0.75, 2.0, split) if alpha else (lambda: None)
    deep: dict[str, nn.Module] = {}
    inputs, meet = m2, towers != "apart"
    stds = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), sizes.stds, strict=True))
    for name, maps, start, pad in (("3", m3, 0.0, 1), ("4", m4, bias, 1), ("5", sizes.maps[4], bias, pad5)):
        if without == f"conv{name}":
            continue
        groups, meet = (1 if meet else split), False
        deep[f"conv{name}"] = conv(
            inputs, maps, 3, padding=pad, groups=groups, std=stds[f"conv{name}"], bias=start, decay=DECAY
        )
        deep[f"act{name}"] = act()
        inputs = maps
    return _net(
        pad1=nn.ZeroPad2d(sizes.padding),
        conv1=conv(3, m1, sizes.conv1[0], stride=sizes.conv1[1], std=stds["conv1"], decay=DECAY),
        act1=act(),
        norm1=norm(),
        pool1=window(),
        conv2=conv(m1, m2, 5, padding=pad2, groups=split, std=stds["conv2"], bias=bias, decay=DECAY),
        act2=act(),
        norm2=norm(),
        pool2=window(),
        **deep,
        pool5=window(),
        **_top(classes, act, inputs, sizes, apart=towers == "apart", dropout=dropout, bias=bias),
    )


def _top(
    classes: int,
    act: Activation,
    maps: int,
    sizes: Sizes = FULL,
    *,
    apart: bool = False,
    dropout: bool = True,
    bias: float = 1.0,
) -> dict[str, nn.Module | None]:
    """Build the three fully-connected layers; ``apart`` keeps each tower's units to itself up to the last."""
    units, area = sizes.units, sizes.side**2
    std6, std7, std8 = sizes.stds[5:]
    return {
        "flatten": None if apart else nn.Flatten(),
        # A fully-connected layer in two groups is a convolution with a window as large as its map.
        "fc6": conv(maps, units, sizes.side, groups=2, bias=bias, std=std6, decay=DECAY)
        if apart
        else linear(maps * area, units, bias=bias, std=std6, decay=DECAY),
        "act6": act(),
        "drop6": nn.Dropout(0.5) if dropout else None,
        "fc7": conv(units, units, 1, groups=2, bias=bias, std=std7, decay=DECAY)
        if apart
        else linear(units, units, bias=bias, std=std7, decay=DECAY),
        "act7": act(),
        "drop7": nn.Dropout(0.5) if dropout else None,
        "flatten7": nn.Flatten() if apart else None,
        "fc8": linear(units, classes, std=std8, decay=DECAY),
    }


def _alexnet_code2012(classes: int, act: Activation) -> nn.Sequential:
    """Build net #145 of the 2012 release (``layers-145.cfg``): its logs hold the paper's numbers."""
    return _net(
        pad1=nn.ZeroPad2d((0, 3, 0, 3)),  # the last kernels reach beyond the image and read zeros there
        conv1=conv(3, 96, 11, stride=4, std=0.01, decay=DECAY),
        norm1=CrossMapNorm(5, 1e-4 / 5, 0.75, 2.0, towers=2),
        pool1=_max_pool(),
        act1=act(),
        conv2=conv(96, 256, 5, padding=2, groups=2, std=0.01, bias=1.0, decay=DECAY),
        act2=act(),
        norm2=CrossMapNorm(5, 1e-4 / 5, 0.75, 2.0, towers=2),
        mapnorm2=SameMapNorm(5, 1e-3 / 25, 0.75, 1.0),  # ``cnorm2``, not in the paper
        pool2=_max_pool(),
        conv3=conv(256, 384, 3, padding=1, std=0.03, decay=DECAY),
        act3=act(),
        conv4=conv(384, 384, 3, padding=1, groups=2, std=0.03, bias=1.0, decay=DECAY),
        act4=act(),
        conv5=conv(384, 256, 3, padding=1, groups=2, std=0.03, bias=1.0, decay=DECAY),
        pool5=_max_pool(),
        act5=act(),
        **_top(classes, act, 256),
    )


def _alexnet_one_tower(classes: int, act: Activation) -> nn.Sequential:
    """Build torchvision's ``alexnet``: one tower, no norms, dropout on the inputs of fc6 and fc7.

    torchvision leaves initial values to the framework; here they are the paper's, layer by layer (P §5).
    """
    return _net(
        conv1=conv(3, 64, 11, stride=4, padding=2, std=0.01, decay=DECAY),
        act1=act(),
        pool1=_max_pool(),
        conv2=conv(64, 192, 5, padding=2, std=0.01, bias=1.0, decay=DECAY),
        act2=act(),
        pool2=_max_pool(),
        conv3=conv(192, 384, 3, padding=1, std=0.01, decay=DECAY),
        act3=act(),
        conv4=conv(384, 256, 3, padding=1, std=0.01, bias=1.0, decay=DECAY),
        act4=act(),
        conv5=conv(256, 256, 3, padding=1, std=0.01, bias=1.0, decay=DECAY),
        act5=act(),
        pool5=_max_pool(),
        flatten=nn.Flatten(),
        drop5=nn.Dropout(0.5),
        fc6=linear(256 * 6 * 6, 4096, std=0.01, bias=1.0, decay=DECAY),
        act6=act(),
        drop6=nn.Dropout(0.5),
        fc7=linear(4096, 4096, std=0.01, bias=1.0, decay=DECAY),
        act7=act(),
        fc8=linear(4096, classes, std=0.01, decay=DECAY),
    )


@dataclass(frozen=True)
class Net:
    """The side of a network's RGB input in pixels, the classes that it has in its source, and its layers."""

    image_size: int
    classes: int
    layers: Callable[[int, Activation], nn.Sequential]


CHANGES: dict[str, dict[str, Any]] = {
    "": {},
    "-no-lrn": {"alpha": None},
    "-code-lrn": {"alpha": 1e-4 / 5},
    "-pool2": {"pool": 2},
    "-half-tower": {"towers": "half"},
    "-one-tower": {"towers": "one"},
    "-towers-apart": {"towers": "apart"},
    "-no-dropout": {"dropout": False},
    "-no-conv3": {"without": "conv3"},
    "-no-conv4": {"without": "conv4"},
    "-no-conv5": {"without": "conv5"},
    "-bias0.1": {"bias": 0.1},
    "-bias0": {"bias": 0.0},
    "-half-width": {"width": 0.5},
    "-double-width": {"width": 2.0},
}
"""The changes that the paper speaks of, by the suffix of the network's name."""

NETS: dict[str, Net] = {
    # cuda-convnet's example layers
    "cifar-26pct": Net(32, 10, _cifar_26pct),  # layers-80sec.cfg
    "cifar-19pct": Net(32, 10, _cifar_19pct),
    "cifar-18pct": Net(32, 10, _cifar_18pct),
    "cifar-18pct-no-lrn": Net(32, 10, functools.partial(_cifar_18pct, norm=False)),
    "cifar-13pct": Net(24, 10, functools.partial(_cifar_local, norm=False, maps3=32, decay5=0.004)),
    "cifar-11pct": Net(24, 10, functools.partial(_cifar_local, norm=True, maps3=64, decay5=0.01)),
    "cifar-11pct-no-lrn": Net(24, 10, functools.partial(_cifar_local, norm=False, maps3=64, decay5=0.01)),
    # AlexNet
    "alexnet-code2012": Net(224, 1000, _alexnet_code2012),  # 2012 release, layers-145.cfg
    "alexnet-one-tower": Net(224, 1000, _alexnet_one_tower),  # torchvision
    "alexnet-reduced": Net(128, 1000, functools.partial(_alexnet, sizes=REDUCED)),
    **{
        f"{name}{suffix}": Net(sizes.image, classes, functools.partial(_alexnet, sizes=sizes, **changes))
        for name, sizes, classes in (("alexnet-paper", FULL, 1000), ("alexnet32", MINI, 10))
        for suffix, changes in CHANGES.items()
    },
}


def outline(net: str, *, classes: int | None = None, activation: str = "relu") -> nn.Sequential:
    """Return a network without values, on the meta device: enough for its layer table, and free.

    Raises:
        StudyError: no such net or activation, or fewer than two classes.
    """
    if net not in NETS:
        raise unknown("net", net, NETS)
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    classes = NETS[net].classes if classes is None else classes
    if classes < 2:
        raise StudyError(f"net {net!r} needs at least 2 classes, got {classes}")
    with torch.device("meta"):
        return NETS[net].layers(classes, ACTIVATIONS[activation])


def build(
    net: str, *, classes: int | None = None, activation: str = "relu", init: str = "file", generator: torch.Generator
) -> nn.Sequential:
    """Build a network with its initial values, on the CPU: a seed means the same weights on every device.

    ``init="file"``: each layer's deviation and bias as its file has them. ``init="variance"``: deviations
    that keep the signal's variance (gain / sqrt(fan-in), He et al. 2015; the last layer's gain is 1), biases
    0. All randomness is ``generator``'s (a CPU generator); in equal states it gives the same standard normals
    under both and for any activation, so that arms can be paired.

    The result maps float (N, 3, S, S), S the ``image_size`` of the net, to logits (N, classes).

    Raises:
        StudyError: no such net, activation or init, or fewer than two classes.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    model = outline(net, classes=classes, activation=activation)
    layers = [layer for _, layer in weight_layers(model)]
    for layer in layers:
        std, bias = setting_of(layer).std, setting_of(layer).bias
        if init == "variance":
            follows = "linear" if layer is layers[-1] else activation
            gain = nn.init.calculate_gain(follows)  # type: ignore[arg-type]
            std, bias = gain / math.sqrt(_fan_in(layer)), 0.0
        assert layer.bias is not None
        # Not by to_empty(), which takes a second to import what it needs.
        layer.weight = nn.Parameter(
            torch.empty(layer.weight.shape, device="cpu").normal_(generator=generator).mul_(std)
        )
        layer.bias = nn.Parameter(torch.full(layer.bias.shape, bias, device="cpu"))
    return model


def _fan_in(layer: WeightLayer) -> int:
    return layer.weight.shape[1] if isinstance(layer, LocallyConnected) else layer.weight[0].numel()


@dataclass(frozen=True)
class LayerRow:
    """One layer's row of :func:`layer_table`, for one image.

    ``shape`` is the output's; ``window`` reads kernel / stride / padding; ``macs`` are multiply-accumulates,
    biases left out; ``neurons`` are the outputs of layers with weights, as P Figure 2 counts them.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    window: str
    groups: int
    parameters: int
    macs: int
    neurons: int


def layer_table(net: nn.Sequential, image_size: int) -> list[LayerRow]:
    """Return one row for each layer of ``net``, in order, for an RGB image of side ``image_size``.

    An image of zeros runs through layers of zeros: an `outline` will do, and neither values nor random states change.
    Not on the meta device, whose first convolution imports torch's compiler: 2 to 3 seconds in every process.
    """
    rows: list[LayerRow] = []
    output = torch.zeros(1, 3, image_size, image_size)
    for name, layer in net.named_children():
        if isinstance(layer, nn.Linear):  # no need to spend the memory of the largest matrices
            output = torch.zeros(1, layer.out_features)
        else:
            zeros = {key: torch.zeros(value.shape) for key, value in layer.named_parameters()}
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):  # dropout draws
                output = torch.func.functional_call(layer, zeros, output)
        shape = tuple(output.shape[1:])
        neurons, fan_in = (math.prod(shape), _fan_in(layer)) if isinstance(layer, WeightLayer) else (0, 0)
        rows.append(
            LayerRow(
                name,
                type(layer).__name__,
                shape,
                _window(layer),
                getattr(layer, "groups", 1),
                n_parameters(layer),
                macs=neurons * fan_in,
                neurons=neurons,
            )
        )
    return rows


@functools.cache
def training_flops(net: str) -> int:
    """Return the floating-point operations of one image in training: products and sums of the layers with weights.

    Backward costs twice the forward pass, less the gradient of the image itself, which nobody needs. torch's own
    counter says more: it counts the gradients of grouped convolutions once for each group.
    """
    macs = [row.macs for row in layer_table(outline(net), NETS[net].image_size) if row.macs]
    return 2 * (3 * sum(macs) - macs[0])


def _window(layer: nn.Module) -> str:
    if isinstance(layer, CrossMapNorm):
        return f"{layer.size} maps"
    if isinstance(layer, SameMapNorm):
        return f"{layer.size} / 1 / {layer.size // 2}"
    if isinstance(layer, nn.ZeroPad2d):
        return "left {}, right {}, top {}, bottom {}".format(*layer.padding)
    numbers = [getattr(layer, name, None) for name in ("kernel_size", "stride", "padding")]
    return " / ".join(str(n[0] if isinstance(n, tuple) else n) for n in numbers if n is not None)


def n_parameters(net: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(parameter.numel() for parameter in net.parameters())
