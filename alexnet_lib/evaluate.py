"""What a trained network is worth: class probabilities over views, and error rates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet_lib.augment import centre_crop, normalise, views
from alexnet_lib.dataset import Dataset
from alexnet_lib.recipes import Recipe, StudyError, unknown
from alexnet_lib.store import Jpegs

BANK = 250
"""Images whose layers' answers are held at a time."""


@dataclass(frozen=True)
class Inputs:
    """How pixels become network inputs under one recipe: crop side, mean image, scale.

    The central part of the mean image is subtracted from every crop, whatever its offset, as the 2012
    code does (P §2 doesn't say).
    """

    size: int
    mean: Tensor
    """float32 (size, size, 3), or (3,) of the channels."""
    scale: float | Tensor
    """Of all values, or float32 (3,) of the channels."""

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset) -> Inputs:
        """Return the inputs of ``recipe`` on ``data``, the mean on the data's device."""
        size = recipe.crop or data.image_size
        if size > data.image_size:
            raise StudyError(
                f"recipe field 'crop': {size} pixels, but the images of {data.name} have {data.image_size}"
            )
        mean = centre_crop(data.mean[None], size)[0].contiguous()
        if recipe.inputs != "raw" and not data.std:
            raise StudyError(
                f"recipe field 'inputs': {recipe.inputs!r} divides by the deviation of the images, and those of "
                f"{data.name} are all alike: take 'raw', or other images"
            )
        return cls(size, mean, 1.0 if recipe.inputs == "raw" else 1.0 / data.std)

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 crops (N, size, size, 3) into float32 (N, 3, size, size), channels_last."""
        return normalise(images, self.mean, self.scale)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which the forward pass of ``precision`` runs on ``device``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def chunk_size(images: Tensor | Jpegs) -> int:
    """Return how many of the images are looked at together: as many as 2**27 values hold, 2500 at most, 250 on a CPU.

    As float32 with a network's first answers 2500 images of AlexNet's size would take 15 to 20 GB. Those of 64 pixels
    and less are always as many: numbers on record depend on it in their last bits.
    """
    return min(250 if images.device.type == "cpu" else 2500, max(1, 2**27 // (3 * images.shape[1] ** 2)))


@contextlib.contextmanager
def _test_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into test mode, and back into the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.inference_mode()
def view_probabilities(
    model: nn.Module,
    images: Tensor | Jpegs,
    inputs: Inputs,
    *,
    which: str = "centre",
    precision: str = "float32",
) -> Tensor:
    """Return the softmax outputs of every test view, float32 (V, N, classes); P §4.1 averages over the views.

    ``images``: uint8 (N, H, W, 3). ``which``: the views, as in ``augment.views``. Each image counts once.
    """
    parts = []
    with _test_mode(model):
        for chunk in images.split(chunk_size(images)):
            with autocast(precision, images.device):
                outputs = [model(inputs(view)).float().softmax(1) for view in views(chunk, inputs.size, which)]
            parts.append(torch.stack(outputs))
    return torch.cat(parts, dim=1)


@torch.inference_mode()
def features(model: nn.Module, images: Tensor | Jpegs, inputs: Inputs, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return what layers answer to the centre view of every image: float32 (N, values), by the layer's name.

    Args:
        model: An ``nn.Sequential`` of named layers (``models.build``).
        images: uint8 (N, H, H, 3).
        inputs: The recipe's.
        layers: Names of layers of ``model``; ``pixels`` is the view itself, uint8.

    Raises:
        StudyError: the model has no such layer.
    """
    names = ["pixels", *(name for name, _ in model.named_children())]
    for layer in layers:
        if layer not in names:
            raise unknown("layer", layer, names)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with _test_mode(model):
        for chunk in images.split(BANK):
            view = views(chunk, inputs.size, "centre")[0]
            answer = inputs(view)
            if "pixels" in parts:
                parts["pixels"].append(view.flatten(1))
            for name, layer_of in model.named_children():
                answer = layer_of(answer)
                if name in parts:
                    parts[name].append(answer.float().flatten(1))
    return {layer: torch.cat(parts.pop(layer)) for layer in layers}  # a layer at a time is held twice


class Nearest:
    """The ``k`` rows nearest to each query (Euclidean) among all that `look` was given, the nearest first.

    ``queries``: uint8 or float (Q, values). ``rows``: int64 (Q, k), or fewer columns until so many rows were seen,
    numbered in the order in which they came.
    """

    def __init__(self, queries: Tensor, k: int) -> None:
        self.queries, self.k, self.seen = queries, k, 0
        self.away = torch.empty(len(queries), 0, device=queries.device)
        self.rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)

    @torch.inference_mode()
    def look(self, bank: Tensor) -> None:
        """Compare the next rows, (n, values), with every query."""
        there = bank.float()
        away = torch.cat([torch.cdist(some.float(), there) for some in torch.split(self.queries, 512)])
        rows = torch.arange(self.seen, self.seen + len(bank), device=bank.device).expand_as(away)
        away, rows = torch.cat((self.away, away), 1), torch.cat((self.rows, rows), 1)
        smallest = away.topk(min(self.k, away.shape[1]), largest=False, sorted=True)
        self.away, self.rows = smallest.values, rows.gather(1, smallest.indices)
        self.seen += len(bank)


def neighbours(
    model: nn.Module, data: Dataset, inputs: Inputs, layers: Sequence[str], k: int = 6
) -> dict[str, Tensor]:
    """Return the nearest training images of every test image, in pixels and in the answers of layers (P §6.1).

    ``data`` lies on the model's device. Returned are int64 (test images, k), by the layer's name and ``pixels``, of
    the centre views. One pass over each split, the answers to the test images being held: of AlexNet's five layers
    and the pixels 0.7 MB an image.
    """
    places = ["pixels", *layers]
    found = {
        place: Nearest(answers, k) for place, answers in features(model, data.test.images, inputs, places).items()
    }
    for some in data.train.images.split(BANK):
        for place, answers in features(model, some, inputs, places).items():
            found[place].look(answers)
    return {place: near.rows for place, near in found.items()}


def same_class(neighbours: Tensor, labels: Tensor, bank_labels: Tensor) -> float:
    """Return the share of the neighbours (Q, k), rows of the bank, that are of their query's class."""
    return (bank_labels[neighbours] == labels[:, None]).double().mean().item()


def error_rate(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the fraction of images whose label is not among the ``k`` highest of ``scores`` (N, classes).

    With fewer classes than ``k`` none is wrong.
    """
    hits = (scores.topk(min(k, scores.shape[1]), dim=1).indices == labels[:, None]).any(1)
    return 1.0 - hits.double().mean().item()
