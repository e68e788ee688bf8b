"""The training loop: epochs, precision, checkpoint and resume."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_lib import augment, files, layers, machine, models, parallel
from alexnet_lib.dataset import Dataset, parts
from alexnet_lib.evaluate import Inputs, autocast, error_rate, view_probabilities
from alexnet_lib.optim import optimiser, set_rates
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.store import Jpegs
from alexnet_lib.towers import Towers

CHECKPOINT_FORMAT = 1
# fmt: off
HELD = {
    "origins", "recipe", "digest", "model", "optimiser", "generators", "dropout",
    "cuda_generator", "history", "snapshots", "pretraining", "seconds",
}
# fmt: on
"""What a checkpoint holds beside who wrote it."""
TRAIN_SAMPLE = 10_000
"""Training images whose error is measured again after each epoch, in one pass: the first ones, as all sets stand in
an order that mixes the classes. Of fewer than 40,000 a fifth, a small part of an epoch's cost, but at least 1,000."""
SHARING = 32
"""Images that share a crop and a reflection in the 2012 ImageNet code."""
AHEAD = 2**26
"""Input values that a GPU makes at a time: 300 batches of 24-pixel crops, 3 of 224-pixel ones."""
UNKNOWN = "unknown"
"""Origin of a run whose code nobody has named; machine of a checkpoint from before these were kept."""
WARM_UPDATES = 3
"""Ordinary updates before one is captured as a CUDA graph: in the first of a process cuDNN chooses algorithms."""


def measured_again(images: int) -> int:
    """Return of how many training images the error is measured again after each epoch: see ``TRAIN_SAMPLE``."""
    return TRAIN_SAMPLE if images >= 40_000 else min(images, max(1_000, -(-images // 5)))


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set, as it stands in a record's ``history``."""

    epoch: int
    loss: float
    """Mean cross-entropy of the images as they were met, in nats."""
    train_error: float
    """Error rate of the images as they were met, in training mode: what cuda-convnet printed."""
    train_error_after: float
    """Error rate of the first training images (`measured_again`) in one pass after the epoch."""
    test_error: float
    rate: float
    seconds: float
    """Training alone; the two evaluations are not in it."""


@dataclass
class Result:
    """A run that has ended: ``outcome`` is ``completed``, or starts with ``abandoned`` or ``diverged``."""

    recipe: Recipe
    device: torch.device
    model: nn.Module
    origins: list[str]
    """The commits that trained it, more than one where the run was resumed by another."""
    machines: list[str]
    """The kinds of machine that trained it, of several processes that of the first; more than one where it was
    resumed on another, or has a tower on each of two kinds of device."""
    history: list[Epoch]
    outcome: str
    scores: dict[str, float]
    cost: dict[str, float]
    probabilities: Tensor | None = None
    """Of the test images, (N, classes), mean over the views; None where the run diverged."""
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    """First-layer kernels after the epochs asked for, 0 being the initial ones."""
    pretraining: list[Epoch] = field(default_factory=list)
    """Epochs before the first, numbered below 0, in which the network learnt to tell turns: see `pretrain`."""
    split: str = ""
    """Over what the run was spread: ``4 processes``, ``a device for each tower``; empty for one process on one."""


def check_device(recipe: Recipe, device: torch.device) -> None:
    """Refuse a precision that the device lacks or can only imitate."""
    if recipe.precision == "float32":
        return
    if device.type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):  # both came with NVIDIA's Ampere
            raise StudyError(f"precision {recipe.precision!r}: this GPU has no such arithmetic: take 'float32'")
    elif recipe.precision == "tf32":
        raise StudyError("precision 'tf32' needs a CUDA device: take 'float32' here")
    elif not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise StudyError(
            "precision 'bf16': this CPU has no bf16 arithmetic and would run about 30 times slower than in "
            "float32: take 'float32'"
        )


class Trainer:
    """One run between its first and its last epoch: all that a checkpoint must hold."""

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        device: torch.device,
        origin: str = UNKNOWN,
        second: torch.device | None = None,
    ) -> None:
        """Build the run's start: seeded weights, no velocity, the data on the device.

        With a ``second`` device each of the network's two towers has one of them.
        """
        self.origins = [origin]
        self.machines = list(dict.fromkeys(map(machine.described, (device, second or device))))
        check_device(recipe, device)
        if recipe.batch % (world := parallel.world()):
            raise StudyError(
                f"recipe field 'batch': {world} processes can't share {recipe.batch} images evenly: set it to a "
                f"multiple of {world}, or start another number of processes (torchrun --nproc-per-node)"
            )
        data = data.holdout() if recipe.holdout else data
        data = data.subset(recipe.images, recipe.seed) if recipe.images else data
        if recipe.batch > len(data.train):
            raise StudyError(
                f"recipe field 'batch': {recipe.batch} images, but {data.name} has only {len(data.train)} "
                "training images"
            )
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # else the next line refuses ``cuda:0``
            torch.cuda.reset_peak_memory_stats(device)
            torch.backends.cuda.matmul.allow_tf32 = recipe.precision == "tf32"
            torch.backends.cudnn.allow_tf32 = recipe.precision == "tf32"
        self.recipe, self.device, self.data = recipe, device, data.to(device)
        self.inputs = Inputs.of(recipe, self.data)
        # One stream each, so that arms which differ in one of them still share the others.
        weights, self.order, self.places, self.flips, self.colour = (
            torch.Generator().manual_seed(recipe.seed * 1_000 + stream) for stream in (0, 1, 2, 4, 5)
        )
        # Dropout draws from torch's own stream, one for each process: they drop units of different images.
        torch.manual_seed(recipe.seed * 1_000 + 3 + 10 * parallel.rank())
        net = models.build(
            recipe.net,
            classes=len(data.classes),
            activation=recipe.activation,
            init=recipe.init,
            generator=weights,
        ).to(memory_format=torch.channels_last)
        self.model: nn.Module = net.to(device) if second is None else Towers(net, (device, second))
        if second is not None and second.type == "cuda":  # else it would drop the units that the first GPU drops
            with torch.cuda.device(second):
                torch.cuda.manual_seed(recipe.seed * 1_000 + 6)
        self.ddp_model: nn.Module = self.model
        """The model as it is trained: of several processes in DistributedDataParallel (`parallel.wrap_ddp`)."""
        self.optimiser = optimiser(self.model, recipe)
        self.history: list[Epoch] = []
        self.snapshots: dict[int, Tensor] = {}
        self.pretraining: list[Epoch] = []
        self.seconds = {"train": 0.0, "evaluate": 0.0, "wait": 0.0}
        self.waits: list[tuple[Any, Any]] = []  # when this epoch's updates began and ceased to wait for images
        self.graphed: tuple[list[float], _GraphedStep] | None = None  # with the rates that are part of it

    def run_epoch(self) -> None:
        """Pass over the training set once, measure what came of it, and add it to the history.

        Raises:
            FloatingPointError: the loss was not finite; the message names epoch, step and rate.
        """
        number, train = len(self.history), self.data.train
        rate = set_rates(self.optimiser, self.recipe, number)
        self.waits.clear()
        begin = self._clock()
        losses, errors = self.train_epoch()
        trained = self._clock()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            raise FloatingPointError(f"loss not finite in epoch {number}, step {int(bad[0])}, rate {rate:g}")
        some = measured_again(len(train))
        after = self._error(train.images[:some], train.labels[:some])
        test_error = self._error(self.data.test.images, self.data.test.labels)
        if after is None or test_error is None:
            raise FloatingPointError(f"outputs not finite after epoch {number}, rate {rate:g}")
        self.history.append(
            Epoch(
                epoch=number,
                loss=losses.sum().item() / len(train.labels),
                train_error=errors.sum().item() / len(train.labels),
                train_error_after=after,
                test_error=test_error,
                rate=rate,
                seconds=trained - begin,
            )
        )
        self.seconds["train"] += trained - begin
        self.seconds["evaluate"] += self._clock() - trained
        gpu = self.device.type == "cuda"
        self.seconds["wait"] += sum(a.elapsed_time(b) / 1000 if gpu else b - a for a, b in self.waits)

    def load_convolutions(self, before: Trainer) -> None:
        """Take the convolutions of a network trained before this run, and count what that took."""
        theirs = dict(layers.weight_layers(before.model))
        for name, layer in layers.weight_layers(self.model):
            if any(part.startswith("conv") for part in name.split(".")):  # of two towers: layers.conv1.0
                layer.load_state_dict(theirs[name].state_dict())
        self.origins = list(dict.fromkeys([*before.origins, *self.origins]))
        self.machines = list(dict.fromkeys([*before.machines, *self.machines]))
        self.pretraining = [_before(epoch, before.recipe) for epoch in before.history]
        self.seconds = dict(before.seconds)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch's batches, network inputs and labels, in a new random order; each image comes once.

        The last batch holds what is left and makes a full-sized step of its own (``data.cu``). Of several processes
        each draws for all images and makes its part of every batch, which may be empty in the last.
        """
        train, device = self.data.train, self.device
        order = torch.randperm(len(train), generator=self.order).to(device)
        places = self._corners(order) if self.recipe.crop else None
        flips = (
            self._each(order, functools.partial(augment.flips, generator=self.flips)) if self.recipe.flip else None
        )
        shifts = self._colour_shifts(len(train))
        # On a GPU a few hundred small batches are made at once, so that launching their kernels costs nothing; on a
        # CPU a few, which share the cost of the calls and stay in the caches.
        batch_values = self.recipe.batch * self.inputs.size**2 * 3
        ahead = max(1, (augment.CACHED if device.type == "cpu" else AHEAD) // batch_values)
        mine = [parallel.shard(batch) for batch in torch.split(order, self.recipe.batch)]
        groups = [mine[start : start + ahead] for start in range(0, len(mine), ahead)]
        chunks = [torch.cat(group) for group in groups]
        for group, rows, images in zip(groups, chunks, self._timed_input(parts(train.images, chunks)), strict=True):
            if places is not None or flips is not None:
                corner = torch.zeros_like(rows)[:, None].expand(-1, 2) if places is None else places[rows]
                images = augment.crop(images, corner, self.inputs.size, None if flips is None else flips[rows])
            inputs = self.inputs(images)
            if shifts is not None:
                inputs = inputs + shifts[rows, :, None, None]
                if self.recipe.colour == "coded":
                    inputs = inputs / 1.1
            if self.recipe.precision == "bf16" and device.type == "cuda" and isinstance(self.model, nn.Sequential):
                inputs = inputs.bfloat16()  # what autocast makes of them in conv1, in half the bytes from here on
            sizes = [len(each) for each in group]
            batches = (torch.split(values, sizes) for values in (inputs, train.labels[rows]))
            yield from zip(*batches, strict=True)

    def _timed_input(self, images: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass images on, and note when the device was ready for them and when it had them."""
        while True:
            begin = self._timestamp()
            some = next(images, None)
            if some is None:
                return
            self.waits.append((begin, self._timestamp()))
            yield some

    def _timestamp(self) -> float | torch.cuda.Event:
        """Return the time, on a GPU as an event of its own: it may be far behind in what it was given to do."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _corners(self, order: Tensor) -> Tensor:
        """Return the upper left corners of one epoch's crops, (N, 2), by image."""
        border = self.data.image_size - self.inputs.size
        if self.recipe.places == "centre":
            return torch.full((len(order), 2), border // 2, device=self.device)
        return self._each(order, lambda count: augment.offsets(count, border, self.places))

    def _each(self, order: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
        """Draw for every image, or once for each 32 that follow each other in ``order`` where the recipe shares."""
        if self.recipe.places != "shared":
            return draw(len(order)).to(self.device)
        drawn = draw(-(-len(order) // SHARING)).to(self.device).repeat_interleave(SHARING, 0)[: len(order)]
        return torch.empty_like(drawn).index_copy_(0, order, drawn)

    def _colour_shifts(self, count: int) -> Tensor | None:
        """Draw one epoch's colour noise in units of the inputs, (count, 3), or None where there is none.

        The 2012 code divides noisy batches by 1.1, and has the noise off for the last quarter of training.
        """
        off = self.recipe.colour == "coded" and len(self.history) >= 0.75 * self.recipe.epochs
        if self.recipe.colour == "none" or off:
            return None
        basis = augment.colour_basis(self.recipe.colour, self.data.colours) * self.inputs.scale
        return (torch.randn(count, 3, generator=self.colour) @ basis).to(self.device)

    def train_epoch(self) -> tuple[Tensor, Tensor]:
        """Update the weights once per batch; return each batch's summed loss (float64) and its errors.

        Nothing in the loop waits for the device.
        """
        losses, errors = [], []
        self.model.train()
        # Anew each epoch, as after a restart: torch arranges the sums of the gradients by what its first update met.
        self.ddp_model = parallel.wrap_ddp(self.model)
        step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = self.train_step
        full, left = divmod(len(self.data.train), self.recipe.batch)
        replays = self.device.type == "cuda" and isinstance(self.ddp_model, nn.Sequential)  # nothing crosses devices
        for number, (images, labels) in enumerate(self.batches()):
            if replays and number < full and (self.graphed or number >= WARM_UPDATES):
                step = self._graphed_step(images, labels)
            loss, wrong = step(images, labels) if number < full else self.train_step(images, labels, left)
            losses.append(loss)
            errors.append(wrong)
        self.ddp_model = self.model
        return parallel.all_reduce_sum(torch.stack(losses)), parallel.all_reduce_sum(torch.stack(errors))

    def _graphed_step(self, images: Tensor, labels: Tensor) -> _GraphedStep:
        """Return the update as one launch, recorded from a batch like this one where there is none of these rates."""
        rates = [group["rate"] for group in self.optimiser.param_groups]
        if self.graphed is None or self.graphed[0] != rates:
            self.graphed = None  # its memory is free before the next one takes as much
            self.graphed = rates, _GraphedStep(self.train_step, images, labels)
        return self.graphed[1]

    def train_step(self, images: Tensor, labels: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Update the weights from one batch; return its summed loss (float64) and the number of its errors.

        Of several processes each has a part of the batch, which holds ``size`` images (default: the recipe's), and
        returns the sums of its part.
        """
        share = (size or self.recipe.batch) / parallel.world()
        loss, outputs = self._forward_backward(images, labels, share)
        self.optimiser.step()
        return loss.detach().double() * share, (outputs.detach().argmax(1) != labels).sum()

    def _forward_backward(self, images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Compute one batch's gradients; return its mean loss and its outputs.

        The mean is taken over ``share`` images, the processes' average: their own numbers differ in the last batch.
        """
        with autocast(self.recipe.precision, self.device):
            outputs = self.ddp_model(images)
        loss = functional.cross_entropy(outputs.float(), labels, reduction="sum") / share
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, outputs

    def fits(self, batch: int) -> bool:
        """Say whether memory holds what a batch of that size needs, for a run that has ended in the lack of it.

        A batch is made and its gradients are computed; weights and velocities don't change.
        """
        self.ddp_model = self.model  # other processes don't take part
        self.graphed = None
        self.optimiser.zero_grad()
        self.model.train()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        trial = copy.copy(self)
        trial.recipe = replace(self.recipe, batch=batch)
        try:
            trial._forward_backward(*next(trial.batches()), share=batch)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def _error(self, images: Tensor | Jpegs, labels: Tensor) -> float | None:
        """Return the single-view error rate of the network as it is, None where its outputs are not finite."""
        mine = self._probabilities(parallel.shard(images), "centre")
        seen = parallel.gather(mine[0], len(images))
        return error_rate(seen, labels) if bool(seen.isfinite().all()) else None

    def _probabilities(self, images: Tensor | Jpegs, which: str) -> Tensor:
        """Return `view_probabilities`; where memory lacks for them, without the recorded update, which holds some."""
        see = functools.partial(
            view_probabilities, self.model, images, self.inputs, which=which, precision=self.recipe.precision
        )
        try:
            return see()
        except RuntimeError as error:
            if self.graphed is None or not out_of_memory(error):
                raise
        self.graphed = None
        torch.cuda.empty_cache()
        return see()

    @property
    def _writer(self) -> str:
        """What must be the same from a run's first epoch to its last."""
        split = f", {self.split}" if self.split else ""
        return f"torch {torch.__version__} on {self.device.type}, format {CHECKPOINT_FORMAT}{split}"

    @property
    def split(self) -> str:
        """Over what this run is spread: see `Result`."""
        if isinstance(self.model, Towers):
            return "a device for each tower"
        return f"{parallel.world()} processes" if parallel.world() > 1 else ""

    @property
    def _streams(self) -> list[torch.Generator]:
        return [self.order, self.places, self.flips, self.colour]

    @property
    def _gpus(self) -> list[torch.device]:
        """The GPUs that hold the network: each draws its own dropout."""
        return [gpu for gpu in dict.fromkeys(w.device for w in self.model.parameters()) if gpu.type == "cuda"]

    def _clock(self) -> float:
        """Return seconds, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def final_scores(self) -> tuple[dict[str, float], Tensor]:
        """Return the error rates at the end and the mean probabilities of the test images over all views.

        Errors of one view, and of five and ten where the recipe crops (P §4.1).
        """
        begin = self._clock()
        last, labels = self.history[-1], self.data.test.labels
        which = "corners" if self.recipe.crop else "centre"
        seen = self._probabilities(parallel.shard(self.data.test.images), which)
        found = {"": seen[4] if self.recipe.crop else seen[0]}
        if self.recipe.crop:  # four corners and the centre, then their reflections
            found |= {"_5views": seen[:5].mean(0), "_10views": seen.mean(0)}
        scores = {"train_error": last.train_error, "train_error_after": last.train_error_after}
        for suffix, mine in found.items():
            mean = parallel.gather(mine, len(labels))
            scores[f"test_error{suffix}"] = error_rate(mean, labels)
            scores[f"test_error_top5{suffix}"] = error_rate(mean, labels, k=5)
        self.seconds["evaluate"] += self._clock() - begin
        return scores, mean

    def save(self, path: Path) -> None:
        """Write a checkpoint; a crash on the way leaves the old one as it was. Of several processes one writes."""
        states = [torch.cuda.get_rng_state(gpu) for gpu in self._gpus]
        state = {
            "written by": self._writer,
            "origins": self.origins,
            "machines": self.machines,
            "recipe": self.recipe.resolved(),
            "digest": self.data.digest,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": [stream.get_state() for stream in self._streams],
            "dropout": parallel.gather(torch.get_rng_state()[None], parallel.world()),
            "cuda_generator": parallel.gather(torch.cat(states)[None], parallel.world()) if states else None,
            "history": [asdict(epoch) for epoch in self.history],
            "snapshots": self.snapshots,
            "pretraining": [asdict(epoch) for epoch in self.pretraining],
            "seconds": self.seconds,
        }
        if parallel.rank():
            return
        with files.atomic_write(path, "free some space there, or choose another folder (ALEXNET_CACHE)") as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of this very recipe and data.

        Raises:
            StudyError: the file is damaged, or was written by another recipe or on other data.
        """
        state = _read_checkpoint(path)
        mine = self.recipe.resolved()
        theirs = Recipe().resolved() | state["recipe"]  # a field that came later: its default
        differs = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs[name])
        if differs:
            raise StudyError(
                f"checkpoint {path}: written by another recipe (other {', '.join(differs)}): move it away, or run "
                "that recipe"
            )
        if state["written by"] != self._writer:
            raise StudyError(
                f"checkpoint {path}: written by {state['written by']}, this is {self._writer}, and the run would be "
                "half of each: delete it to start the run again"
            )
        if state["digest"] != self.data.digest:
            raise StudyError(f"checkpoint {path}: written on other data than {self.data.name}: move it away")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for stream, saved in zip(self._streams, state["generators"], strict=True):
            stream.set_state(saved)
        torch.set_rng_state(state["dropout"][parallel.rank()].clone())  # torch crashes on a part of a tensor
        if self._gpus:
            mine = state["cuda_generator"][parallel.rank()]
            for gpu, own in zip(self._gpus, mine.chunk(len(self._gpus)), strict=True):
                torch.cuda.set_rng_state(own.clone(), gpu)
        self.origins = list(dict.fromkeys([*state["origins"], *self.origins]))
        self.machines = list(dict.fromkeys([*state.get("machines", [UNKNOWN]), *self.machines]))
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.snapshots = state["snapshots"]
        self.pretraining = [Epoch(**epoch) for epoch in state["pretraining"]]
        self.seconds = state["seconds"]


class _GraphedStep:
    """An update as a CUDA graph: its hundred kernels are launched as one, which would else take longer than they do.

    A graph reads and writes the same memory each time, so batches are copied in and results out. It holds the rates
    of the moment; dropout draws anew on every replay.
    """

    def __init__(self, update: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], images: Tensor, labels: Tensor):
        self.images, self.labels = images.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = update(self.images, self.labels)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        loss, wrong = self.results
        return loss.clone(), wrong.clone()


_DAMAGED = (OSError, ValueError, RuntimeError, TypeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError)
"""What reading a damaged checkpoint can raise."""


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `Trainer.save` wrote; nothing in the file is executed.

    Raises:
        StudyError: the file is damaged, cut short, or no checkpoint of this library.
    """
    if path.is_dir():
        raise StudyError(f"checkpoint {path} is a folder: name a file")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no file of torch.save")
        state = files.load_tensors(path)
        if isinstance(state, dict) and "written by" not in state:
            raise ValueError("written by another version")
        if not set(state) >= HELD or not isinstance(state["recipe"], dict):
            raise ValueError("not a checkpoint of this library")
    except _DAMAGED as error:
        raise StudyError(
            f"checkpoint {path}: damaged, cut short or of another version ({error}): delete it to start the run again"
        ) from error
    return state  # type: ignore[no-any-return]


def train(
    recipe: Recipe,
    data: Dataset,
    *,
    device: str = "cpu",
    second: str | None = None,
    checkpoint: Path | None = None,
    origin: str = UNKNOWN,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    abandon: Callable[[list[Epoch]], str | None] = lambda history: None,
    snapshots: Sequence[int] = (),
) -> Result:
    """Train one network to the recipe's end and score it.

    Args:
        recipe: What to train.
        data: The set that ``recipe.data`` names.
        device: ``cpu`` or ``cuda``.
        second: Device of the second tower, where each shall have its own (P §3.2).
        checkpoint: File that the run is saved to after every epoch, and goes on from if it is there.
        origin: The commit of the code; a resumed run has those of all its parts.
        on_epoch: Called with every epoch, those of a resumed run's past and of a pre-training
            that is done now included.
        abandon: Called with the history after every epoch; a reason ends the run there.
        snapshots: Numbers of epochs after which conv1's kernels are copied; 0 is before the first.

    In processes that ``torchrun`` started (`parallel.process_group`) all call this with the same arguments, get the
    same result, and find the checkpoint in the same file.

    Returns:
        The trained network, its curves and its scores; a run whose loss is not finite has no scores.

    Raises:
        StudyError: recipe, data, device and checkpoint don't fit together, or memory ran out.
    """
    other = None if second is None else torch.device(second)
    try:
        trainer = Trainer(recipe, data, torch.device(device), origin, other)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise StudyError(
            f"out of memory on {device}, which has no room for {data.name} and the network: train fewer runs side by "
            "side (--jobs), or take smaller images or a device with more memory"
        ) from error
    there = checkpoint is not None and checkpoint.exists()
    if checkpoint is not None and there:
        trainer.load(checkpoint)
    if len(set(parallel.gather(torch.tensor([len(trainer.history) + there]), parallel.world()).tolist())) > 1:
        raise StudyError(
            f"checkpoint {checkpoint}: some processes of this run find none there: put it on a file system that all "
            "machines share"
        )
    scores: dict[str, float] = {}
    probabilities: Tensor | None = None
    try:
        if recipe.pretrain and not there:
            early = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.turned.pt")
            trainer.load_convolutions(pretrain(trainer, data, early, on_epoch, other))
            if checkpoint is not None and early is not None:
                trainer.save(checkpoint)
                if not parallel.rank():  # which wrote it
                    early.unlink()
        outcome = _epochs(trainer, checkpoint, on_epoch, abandon, snapshots)
        scores, probabilities = trainer.final_scores()
    except FloatingPointError as error:
        outcome = f"diverged: {error}"
    except RuntimeError as error:
        if out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold what the failed batch had allocated
            raise StudyError(
                f"out of memory on {device} with batches of {recipe.batch}: {_remedy(trainer)}"
            ) from error
        size, meant = trainer.inputs.size, models.NETS[recipe.net].image_size
        if size == meant or trainer.history or parallel.is_peer_failure(error):
            raise
        raise StudyError(
            f"net {recipe.net!r} is made for images of {meant} pixels, and can't take {size} ({error}): set the "
            "recipe field 'crop', or take another data set"
        ) from error
    return Result(
        recipe=recipe,
        device=trainer.device,
        model=trainer.model,
        origins=trainer.origins,
        machines=trainer.machines,
        history=trainer.history,
        outcome=outcome,
        scores=scores,
        probabilities=probabilities,
        snapshots=trainer.snapshots,
        pretraining=trainer.pretraining,
        split=trainer.split,
        cost={f"{name}_seconds": seconds for name, seconds in trainer.seconds.items()},
    )


def _epochs(
    trainer: Trainer,
    checkpoint: Path | None,
    on_epoch: Callable[[Epoch], None],
    abandon: Callable[[list[Epoch]], str | None] = lambda history: None,
    snapshots: Sequence[int] = (),
) -> str:
    """Train to the recipe's end and return the outcome: see `train`."""
    for past in trainer.history:
        on_epoch(past)
    while True:
        if len(trainer.history) in snapshots:
            trainer.snapshots[len(trainer.history)] = first_kernels(trainer.model)
        outcome = (_ending(trainer.recipe, trainer.history) or abandon(trainer.history)) if trainer.history else None
        if outcome is not None:
            return outcome
        trainer.run_epoch()
        if checkpoint is not None:
            trainer.save(checkpoint)
        on_epoch(trainer.history[-1])


def pretrain(
    run: Trainer,
    data: Dataset,
    checkpoint: Path | None,
    on_epoch: Callable[[Epoch], None],
    second: torch.device | None = None,
) -> Trainer:
    """Train a run's network, with four outputs, to tell by how many quarters an image is turned.

    It is the pre-training without labels of Gidaris, Singh and Komodakis (2018), by this study's update: all
    training images in all four turns, ``recipe.pretrain`` times, at a constant rate and without reflections, which
    make of one quarter three. ``data``: the set that the recipe names; the others as in `train`.
    """
    recipe, whole = run.recipe, data.holdout() if run.recipe.holdout else data
    alone = replace(recipe, pretrain=0, epochs=recipe.pretrain, holdout=False, images=0, target_error=None)
    alone = replace(alone, flip=False, cuts=(), bias_cuts=None, conv1=(), warmup=0)
    trainer = Trainer(alone, whole.turned(), run.device, run.origins[0], second)
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    _epochs(trainer, checkpoint, lambda epoch: on_epoch(_before(epoch, alone)))
    return trainer


def _before(epoch: Epoch, recipe: Recipe) -> Epoch:
    """Number an epoch of pre-training: the last one is -1."""
    return replace(epoch, epoch=epoch.epoch - recipe.epochs)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means out of memory: CUDA's has a class of its own, the CPU's is known by its text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _remedy(trainer: Trainer) -> str:
    """Say which batch would fit: the run's own, halved until one does."""
    batch = trainer.recipe.batch
    sizes = [batch >> halvings for halvings in range(batch.bit_length())]
    fitting = next((size for size in sizes if trainer.fits(size)), None)
    if fitting is None:
        return "not even one image fits: take a smaller network, or a device with more memory"
    if fitting == batch:
        return "one alone fits, so something else takes the memory: close other programs, or take less data"
    return f"batches of {fitting} fit: set the recipe field 'batch', to {fitting} or less"


def first_kernels(model: nn.Module) -> Tensor:
    """Return a copy of the first convolution's weights, (maps, 3, height, width), on the CPU."""
    return model.get_submodule("conv1").get_parameter("weight").detach().cpu().contiguous().clone()


def _ending(recipe: Recipe, history: list[Epoch]) -> str | None:
    """Return ``completed`` once the recipe's target or its last epoch is reached."""
    reached = recipe.target_error is not None and history[-1].train_error <= recipe.target_error
    return "completed" if reached or len(history) >= recipe.epochs else None
