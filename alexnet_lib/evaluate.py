"""What a trained network is worth: class probabilities over views, and error rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet_lib.augment import centre_crop, normalise, views
from alexnet_lib.data import Dataset
from alexnet_lib.recipes import Recipe, StudyError


@dataclass(frozen=True)
class Inputs:
    """How pixels become network inputs under one recipe: crop side, mean image, scale.

    The central part of the mean image is subtracted from every crop, whatever its offset, as the 2012
    code does (P §2; fact sheet 2.3).
    """

    size: int
    mean: Tensor
    scale: float

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset) -> Inputs:
        """Return the inputs of ``recipe`` on ``data``, the mean on the data's device."""
        size = recipe.crop or data.image_size
        if size > data.image_size:
            raise StudyError(
                f"recipe field 'crop': {size} pixels, but the images of {data.name} have {data.image_size}"
            )
        mean = centre_crop(data.mean[None], size)[0].contiguous()
        return cls(size, mean, 1.0 if recipe.inputs == "raw" else 1.0 / data.std)

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 crops (N, size, size, 3) into float32 (N, 3, size, size), channels_last."""
        return normalise(images, self.mean, self.scale)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which the forward pass of ``precision`` runs on ``device``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def view_probabilities(
    model: nn.Module, images: Tensor, inputs: Inputs, *, which: str = "centre", precision: str = "float32"
) -> Tensor:
    """Return the softmax outputs of every test view, float32 (V, N, classes); P §4.1 averages over the views.

    ``images``: uint8 (N, H, W, 3). ``which``: the views, as in ``augment.views``. Each image counts once.
    """
    training = model.training
    model.eval()
    parts = []
    for chunk in torch.split(images, 250 if images.device.type == "cpu" else 2500):
        with autocast(precision, images.device):
            outputs = [model(inputs(view)).float().softmax(1) for view in views(chunk, inputs.size, which)]
        parts.append(torch.stack(outputs))
    model.train(training)
    return torch.cat(parts, dim=1)


def error_rate(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the fraction of images whose label is not among the ``k`` highest of ``scores`` (N, classes)."""
    hits = (scores.topk(k, dim=1).indices == labels[:, None]).any(1)
    return 1.0 - hits.double().mean().item()
