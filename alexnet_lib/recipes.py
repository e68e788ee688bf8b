"""A recipe is everything that decides a run's numbers: data, network, update rule, length, seed.

Device, time and commit are not in it: they are provenance and stand in the run record.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


class StudyError(ValueError):
    """Something the reader can put right; its message says what was wrong, where, and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> StudyError:
    """Return the error for a ``name`` that does not exist, with the nearest one that does."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return StudyError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known)}")


PRECISIONS = ("float32", "tf32", "bf16")
INPUTS = ("raw", "unit")
INITS = ("file", "variance")
ACTIVATIONS = ("relu", "tanh")
PLACES = ("random", "shared", "centre")
RATE_RULES = {"linear": 1.0, "root": 0.5}
PAPER_BATCH = 128
"""Images per update in the paper (P §5)."""
COLOURS = ("none", "printed", "coded", "lighting")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, resolved: two runs of equal recipes on equal machines give equal numbers.

    Raises:
        StudyError: a value outside its range; the message names the field and what it may be.
    """

    data: str = "cifar10"
    """Data set, by a name that ``alexnet_lib.data.load`` knows."""
    net: str = "cifar-19pct"
    """Network, by its name in ``alexnet_lib.models.NETS``."""
    activation: str = "relu"
    """Non-linearity: ``relu`` or ``tanh`` (P §3.1)."""
    init: str = "file"
    """``file``: the deviations of the network's 2012 file; ``variance``: He's rule for the activation."""
    inputs: str = "raw"
    """``raw``: 0..255 minus the per-pixel mean (P §2); ``unit``: the same over its standard deviation."""
    crop: int = 0
    """Side of the training crops in pixels, and of the test views; 0 takes the whole image."""
    places: str = "random"
    """Where the training crops are cut: ``random`` (P §4.1), one place and reflection ``shared`` by 32 images (the
    2012 ImageNet code), or all from the ``centre``."""
    flip: bool = False
    """Reflect each training image horizontally with probability 1/2 (P §4.1)."""
    colour: str = "none"
    """Colour noise of the training images (P §4.1), by its reading: ``alexnet_lib.augment.colour_basis``."""
    holdout: bool = False
    """Test on the last fifth of the training images and train on the others: what choices are made on."""
    images: int = 0
    """Train on this many images, drawn by the seed alike from all classes, with as many updates as on all; 0: all."""
    pretrain: int = 0
    """Epochs of self-supervised pre-training (rotation prediction, on all training images without their labels)
    before the labelled ones; only the convolutions are kept (``alexnet_lib.train.pretrain``)."""
    batch: int = PAPER_BATCH
    """Images per update (P §5), all processes together."""
    epochs: int = 80
    """Passes over the training set; a cap where ``target_error`` is set."""
    rate: float = 0.001
    """Learning rate of the weights."""
    bias_rate: float = 2.0
    """Learning rate of the biases, as a multiple of ``rate``; every 2012 file has 2."""
    momentum: float = 0.9
    """Share of the velocity kept from one update to the next (P §5)."""
    decay: float = 1.0
    """Multiplies the weight decays of the network's file; 0 switches decay off."""
    cuts: tuple[int, ...] = ()
    """Epochs (counted from 0) before which the rates are divided by ten (P §5)."""
    bias_cuts: tuple[int, ...] | None = None
    """The same for the rate of the biases; none: with the weights'. In 2012 they went their own way."""
    warmup: int = 0
    """Epochs before the rates are whole: with n of them, epoch k (from 0) has (k + 1) / (n + 1) of each."""
    conv1: tuple[int, ...] = ()
    """Epochs before which the first layer's rates are divided by ten once more, and set to 0 (the 2012 logs)."""
    target_error: float | None = None
    """Stop after the first epoch whose training error is at or below this fraction."""
    precision: str = "float32"
    """``float32``; ``tf32`` or ``bf16`` where the device has it."""
    seed: int = 0
    """Decides initial weights, order, crops, flips, colour noise, dropout, and which images ``images`` takes."""

    def __post_init__(self) -> None:
        """Check every field by itself, and store it as its type (1 as 1.0); what needs the data is checked later."""
        for field in fields(self):
            object.__setattr__(self, field.name, _coerce(field.name, getattr(self, field.name), str(field.type)))
        for name in ("rate", "momentum", "bias_rate", "decay"):
            if not math.isfinite(getattr(self, name)):
                raise StudyError(f"recipe field {name!r}: {getattr(self, name)!r} is not a finite number")
        checks = (
            ("rate", self.rate > 0, "must be above 0 (a rate of 0 or less learns nothing)"),
            ("bias_rate", self.bias_rate >= 0, "must be 0 or more"),
            ("momentum", 0 <= self.momentum < 1, "must be at least 0 and below 1"),
            ("decay", self.decay >= 0, "must be 0 or more"),
            ("batch", self.batch >= 1, "must be 1 or more"),
            ("epochs", self.epochs >= 1, "must be 1 or more"),
            ("warmup", self.warmup >= 0, "must be 0 or more epochs"),
            ("crop", self.crop >= 0, "must be 0 (whole image) or a side in pixels"),
            ("images", self.images >= 0, "must be 0 (all) or a number of training images"),
            ("pretrain", self.pretrain >= 0, "must be 0 or more"),
            ("seed", 0 <= self.seed < 2**31, "must be 0 or more, and below 2**31"),
            *(
                (name, _rising(getattr(self, name)), "must be rising epochs, each once")
                for name in ("cuts", "bias_cuts", "conv1")
            ),
            ("conv1", len(self.conv1) in (0, 2), "must be two epochs, or none"),
            (
                "target_error",
                self.target_error is None or 0 < self.target_error < 1,
                "must be a fraction between 0 and 1",
            ),
        )
        for name, good, rule in checks:
            if not good:
                raise StudyError(f"recipe field {name!r}: {getattr(self, name)!r} {rule}")
        for name, known in (
            ("precision", PRECISIONS),
            ("inputs", INPUTS),
            ("init", INITS),
            ("colour", COLOURS),
            ("places", PLACES),
            ("activation", ACTIVATIONS),
        ):
            if getattr(self, name) not in known:
                raise unknown(f"value of recipe field {name!r}", getattr(self, name), known)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a mapping from outside (JSON, YAML, command line).

        Raises:
            StudyError: a field that does not exist (with the nearest one) or a value of another type.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown("recipe field", name, known)
        return cls(**values)

    def resolved(self) -> dict[str, Any]:
        """Return every field by name, as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def scaled(self, rule: str) -> Recipe:
        """Return the recipe with its rate, meant for batches of 128 images, scaled to its own batch.

        ``linear``: by their ratio, as in cuda-convnet2's files for several GPUs. ``root``: by its square root, at
        which the noise of an update keeps its size.
        """
        return replace(self, rate=self.rate * (self.batch / PAPER_BATCH) ** RATE_RULES[rule])

    @classmethod
    @functools.cache
    def _defaults(cls) -> dict[str, Any]:
        return cls().resolved()

    @property
    def id(self) -> str:
        """Return the run's identity: 16 hex digits over the fields that differ from their default.

        A field added later, with a default that keeps the old behaviour, thus leaves old runs their names.
        """
        given = {name: value for name, value in self.resolved().items() if value != self._defaults()[name]}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]


def _rising(epochs: tuple[int, ...] | None) -> bool:
    return epochs is None or list(epochs) == sorted({at for at in epochs if at >= 0})


def _coerce(name: str, value: Any, kind: str) -> Any:
    """Return ``value`` as the type that the field declares, or say why it can't be one."""
    optional, fits = value is None and kind.endswith("None"), type(value).__name__ == kind
    if optional or fits:
        return value
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        return tuple(_coerce(name, item, "int") for item in value)
    if kind.startswith("float") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    hint = ""
    if kind.startswith("float") and isinstance(value, str):
        hint = " (YAML and JSON read '1e-3' as text in some places: write 1.0e-3)"
    raise StudyError(f"recipe field {name!r}: expected {kind}, got {type(value).__name__} {value!r}{hint}")
