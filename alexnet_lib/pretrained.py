"""Trained weights from a file on this machine, as one of the study's networks; nothing in the file is executed.

Files are torch's (``.pt``, ``.pth``: tensors alone are read, nothing is unpickled) or ``.safetensors``. They hold

- torchvision's ``alexnet`` (``features.0.weight`` to ``classifier.6.bias``), which is ``alexnet-one-tower``;
- Caffe's ``bvlc_alexnet`` as a torch state dict (``conv1.weight`` to ``fc8.bias``), for ``alexnet-paper``. It was
  trained on 227 pixels without padding, BGR, 0..255 minus the mean; given 227 pixels, ours reads none of its padding
  either. Caffe's norms span both towers and have other constants, so the edition as loaded is not yet Caffe's
  network: :func:`to_caffe` makes it that, for RGB;
- this library's own state dicts, ``net.state_dict()``, of any of its networks. Their names are those of Caffe's.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from alexnet_lib import models
from alexnet_lib.dataset import Dataset
from alexnet_lib.evaluate import Inputs
from alexnet_lib.files import load_tensors
from alexnet_lib.layers import CrossMapNorm, weight_layers
from alexnet_lib.recipes import INPUTS, Recipe, StudyError, unknown

TORCHVISION = {
    **{f"conv{layer}": f"features.{at}" for layer, at in enumerate((0, 3, 6, 8, 10), 1)},
    **{f"fc{layer}": f"classifier.{at}" for layer, at in enumerate((1, 4, 6), 6)},
}
"""torchvision's names of our layers."""
CHANNELS = {
    "torchvision": ((255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)),
    "caffe": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation of R, G and B, in grey levels, that the inputs of these networks are made with."""


def to_caffe(model: nn.Sequential) -> nn.Sequential:
    """Make ``alexnet-paper`` with Caffe's weights Caffe's network, but for RGB, in place; return it.

    The kernels of conv1 change from BGR to RGB; the norms reach across the towers, with alpha 1e-4/5 and k 1.
    """
    kernels = model.get_submodule("conv1").get_parameter("weight")
    kernels.data = kernels.data.flip(1)
    for norm in model:
        if isinstance(norm, CrossMapNorm):
            norm.alpha, norm.k, norm.towers = 1e-4 / 5, 1.0, 1
    return model


def inputs(kind: str, net: str, data: Dataset) -> Inputs:
    """Return the inputs that ``net`` was trained on: ``torchvision``'s, ``caffe``'s, or a recipe's.

    Raises:
        StudyError: no such inputs, not for this net, or images smaller than its views.
    """
    if kind not in (*CHANNELS, *INPUTS):
        raise unknown("inputs", kind, (*CHANNELS, *INPUTS))
    if kind == "caffe" and net != "alexnet-paper":
        raise StudyError(f"inputs 'caffe' are those of net 'alexnet-paper', not of {net!r}")
    size = 227 if kind == "caffe" else models.NETS[net].image_size
    if size > data.image_size:
        raise StudyError(f"{net!r} sees {size} pixels, the images of {data.name} have {data.image_size}: take larger")
    if kind in INPUTS:
        return Inputs.of(Recipe(crop=size, inputs=kind), data)
    mean, std = torch.tensor(CHANNELS[kind], device=data.test.images.device)
    return Inputs(size, mean, 1 / std)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, for `fill`.

    Raises:
        StudyError: the file is missing, damaged, or holds more than weights.
    """
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise StudyError(f"weights {path}: the name should end in .pt, .pth or .safetensors, by what wrote the file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise StudyError(f"weights {path}: can't be read ({error.strerror}): give the path of a file") from None
    try:
        values = _tensors(path)
    except Exception as error:  # readers raise almost anything on damaged files; torch's advise to unpickle them
        why = f"cut short, damaged or no weights ({type(error).__name__}): fetch the file again"
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            why = f"a pickle with code in it ({code[1]}), not run: take a file of net.state_dict() alone"
        raise StudyError(f"weights {path}: {why}") from error
    remedy = "not weights by name: save net.state_dict() alone"
    if not isinstance(values, dict):
        raise StudyError(f"weights {path}: the whole is {type(values).__name__}, {remedy}")
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise StudyError(f"weights {path}: {name} is {kind}, {remedy}")
        if not value.isfinite().all():
            raise StudyError(f"weights {path}: {name} has values that are not finite: take another file")
    return dict(values)


def _tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    with warnings.catch_warnings(action="ignore"):  # of pickles that are refused in the end
        return load_tensors(path)


def of_torchvision(values: dict[str, Tensor]) -> bool:
    """Tell torchvision's weights by their names."""
    return f"{TORCHVISION['conv1']}.weight" in values


def fill(values: dict[str, Tensor], path: Path, net: str, classes: int | None = None) -> nn.Sequential:
    """Return network ``net`` with the ``values`` that ``path`` holds, in float32 on the CPU.

    Norms, dropout and activations have no weights: that the file's are those of ``net`` is for the caller to know.
    ``classes``: those of the file, by default the net's own number.

    Raises:
        StudyError: no such net, or the weights are those of another network.
    """
    model = models.outline(net, classes=classes)
    last = weight_layers(model)[-1][0]
    renamed = TORCHVISION if of_torchvision(values) else {}
    names: dict[str, str] = {}
    for name, parameter in model.state_dict().items():
        layer, _, part = name.rpartition(".")
        names[name] = theirs = f"{renamed.get(layer, layer)}.{part}"
        has, needs = list(values[theirs].shape) if theirs in values else None, list(parameter.shape)
        if has and layer == last and has != needs and has[1:] == needs[1:]:
            raise StudyError(
                f"weights {path}: for {has[0]} classes ({theirs}), but {needs[0]} are asked for: take data of "
                f"{has[0]} classes, or weights for {needs[0]}"
            )
        if has != needs:
            told = "missing" if has is None else has
            raise StudyError(
                f"weights {path}: {theirs} is {told}, net {net!r} needs {needs}: name the net they are of"
            )
    if more := [name for name in values if name not in names.values()]:
        shape = list(values[more[0]].shape)
        raise StudyError(f"weights {path}: {more[0]} is {shape}, net {net!r} has none: name the net they are of")
    model = model.to_empty(device="cpu")
    model.load_state_dict({name: values[theirs] for name, theirs in names.items()})
    return model
