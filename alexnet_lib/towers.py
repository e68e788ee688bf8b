"""The paper's two towers on two devices (P §3.2), which meet only in conv3 and in the fully-connected layers.

As in the released source (``layers-145.cfg``), both devices see the whole image, and the last layer stands undivided
on the first of them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_lib.layers import CrossMapNorm, LocallyConnected, weight_layers
from alexnet_lib.recipes import StudyError

Sent = Counter[tuple[str, str]]


class Towers(nn.Module):
    """A network's two towers, each on a device of its own, with the weights that the network has in one piece.

    A layer in two groups is divided into them. One that sees all maps below is divided by its outputs, and each tower
    gets the other's maps for it. Dropout draws for each tower by itself.

    Images (N, 3, S, S) may lie anywhere; logits (N, classes) lie on the first device.

    Raises:
        StudyError: a layer can't be divided: a normalisation across the towers, or one that shares no weights.
    """

    def __init__(self, net: nn.Sequential, devices: Sequence[torch.device | str]) -> None:
        super().__init__()
        _first, *others = weight_layers(net)
        last = others[-1][0]
        self.devices = devices
        self.meets = {name for name, layer in others if getattr(layer, "groups", 1) == 1}
        """The layers that see the maps of both towers."""
        self.sent: Sent = Counter()
        """Bytes that were copied between the towers: by the layer they were for, and ``forward`` or ``backward``."""
        self.layers = nn.ModuleDict()
        for name, layer in net.named_children():
            parts = [copy.deepcopy(layer)] if name == last else [_half(name, layer, tower) for tower in (0, 1)]
            self.layers[name] = nn.ModuleList(part.to(device) for part, device in zip(parts, devices, strict=False))

    def forward(self, images: Tensor) -> Tensor:
        """Pass images through both towers."""
        maps = [images.to(self.devices[0]), self._copy(images, 1, "images")]
        for name, halves in self.layers.items():
            if name in self.meets:
                maps = [
                    torch.cat([half if of == to else self._copy(half, to, name) for of, half in enumerate(maps)], 1)
                    for to, _ in enumerate(halves.children())
                ]
            maps = [layer(half) for layer, half in zip(halves.children(), maps, strict=True)]
        return maps[0]

    def _copy(self, maps: Tensor, to: int, name: str) -> Tensor:
        copied: Tensor = _Copy.apply(maps, self.devices[to], self.sent, name)
        return copied


class _Copy(torch.autograd.Function):
    """A copy to another device, and its gradient's way back; both are counted."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, device: torch.device, sent: Sent, name: str) -> Tensor:
        ctx.device, ctx.sent, ctx.name = maps.device, sent, name
        sent[name, "forward"] += maps.nbytes
        return maps.to(device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        ctx.sent[ctx.name, "backward"] += gradient.nbytes
        return gradient.to(ctx.device), None, None, None


def _half(name: str, layer: nn.Module, tower: int) -> nn.Module:
    """Return one tower's half of a layer: half of its outputs, from its group's inputs or from all."""
    half = copy.deepcopy(layer)
    if isinstance(half, LocallyConnected) or (isinstance(half, CrossMapNorm) and half.towers != 2):
        raise StudyError(f"layer {name} can't be divided into towers: take a network with two, e.g. alexnet-paper")
    if isinstance(half, CrossMapNorm):
        half.towers = 1
    if isinstance(half, nn.Conv2d | nn.Linear):
        for part in ("weight", "bias"):
            values = half.get_parameter(part).detach().tensor_split(2)[tower].clone()
            setattr(half, part, nn.Parameter(values))
    if isinstance(half, nn.Conv2d):
        half.out_channels, half.in_channels, half.groups = *half.weight.shape[:2], 1
    elif isinstance(half, nn.Linear):
        half.out_features = len(half.weight)
    return half
