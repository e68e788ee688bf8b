"""What all of ImageNet takes: hours, bytes, energy and money, by arithmetic from inputs that have a source each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_lib import experiments, models, records
from alexnet_lib.recipes import PAPER_BATCH
from alexnet_lib.records import Record

NET = "alexnet-paper"


@dataclass(frozen=True)
class Input:
    """A number that the plan starts from."""

    value: float
    unit: str
    source: str


INPUTS = {
    "images": Input(1_281_167, "training images", "ILSVRC-2012, counted by cuda-convnet2's data script"),
    "validation images": Input(50_000, "images", "of the same"),
    "epochs": Input(experiments.PAPER_EPOCHS, "epochs", "the paper, section 5"),
    "operations": Input(models.training_flops(NET), "operations per image", "counted: forward and backward"),
    "parameters": Input(models.n_parameters(models.outline(NET)), "parameters", "counted from the layers"),
    "originals": Input(147_897_477_120 + 6_744_924_160, "bytes", "ILSVRC2012_img_train.tar and its _val.tar"),
    "prepared": Input(22.3e3, "bytes per prepared picture", "mean of 1,000 at 256 pixels, quality 90, measured"),
    "decoded": Input(4085, "pictures decoded per second per core", "simplejpeg, AMD EPYC of family 26, measured"),
    "pixels": Input(256 * 256 * 3, "bytes per decoded picture", "256 x 256 pixels of three colours"),
    "peak": Input(989e12, "operations per second, one H200 in bf16", "NVIDIA, data sheet of the SXM form, dense"),
    "link": Input(450e9, "bytes per second between GPUs of a server, each way", "NVIDIA, fourth NVLink"),
    "watts": Input(700, "watts of an H200 at most", "NVIDIA, thermal design power of the SXM form"),
    "paper images": Input(experiments.PAPER_IMAGES, "training images", "the paper, section 5"),
    "paper days": Input(5.5, "days", "the paper, section 5: five to six"),
    "paper GPUs": Input(2, "GTX 580 of 3 GB", "the paper, section 5"),
    "paper peak": Input(2 * 512 * 1.544e9, "operations per second, one GTX 580", "512 cores, 1.544 GHz, 2 at a time"),
    "paper watts": Input(244, "watts of a GTX 580 at most", "NVIDIA, board power"),
}
"""Everything that the plan takes from outside; watts are those of the GPUs alone."""


def bound() -> float:
    """Return the images a second that one of today's GPUs can't exceed by direct convolutions: at peak arithmetic."""
    return INPUTS["peak"].value / INPUTS["operations"].value


def measured(recorded: Sequence[Record]) -> dict[tuple[str, str], tuple[float, int]]:
    """Return by device and precision the images a second at which the paper's network was trained, by how many runs.

    The precision of a CPU has its vector unit beside it. From the records of networks of its size, by the operations
    of both: of each run its median epoch, since a machine may stall in one, and of the runs the median. Runs that
    share a device are each slower than one alone; runs spread over several, or on a part of the images, are left out.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    for run in recorded:
        net, images = run["recipe"]["net"], run["data"].get("train")
        if run["provenance"].get("split") or run["recipe"].get("holdout") or run["recipe"].get("images"):
            continue
        if images and run["history"] and models.NETS[net].image_size == models.FULL.image:
            rate = images / statistics.median(epoch["seconds"] for epoch in run["history"])
            scaled = rate * models.training_flops(net) / INPUTS["operations"].value
            unit = "" if records.on_gpu(run) else f", {run['provenance']['cpu_capability']}"
            key = run["provenance"]["device"], f"{run['recipe']['precision']}{unit}"
            rates.setdefault(key, []).append(scaled)
    return {key: (statistics.median(each), len(each)) for key, each in rates.items()}


def runs(scale: str) -> dict[str, float]:
    """Return the study's runs of networks of the paper's size at a scale, id -> cost.

    The cost is in runs of the paper's network and length, by operations and epochs. Runs on Tiny ImageNet are left
    out: they stand in for all of ImageNet, as those on Imagenette do.
    """
    return {
        recipe.id: models.training_flops(arm.recipe.net)
        / INPUTS["operations"].value
        * (arm.recipe.epochs + 4 * arm.recipe.pretrain)
        / INPUTS["epochs"].value
        for name in experiments.EXPERIMENTS
        for arm in experiments.arms(name, scale)
        if models.NETS[arm.recipe.net].image_size == models.FULL.image and arm.recipe.data != "tiny-imagenet-200"
        for recipe in arm.recipes(arm.recipe.rate)
    }


@dataclass(frozen=True)
class Need:
    """What ``runs`` runs of the paper's length take on ``gpus`` GPUs of ``rate`` images a second each.

    Training alone, all GPUs busy all the time: a lower bound of the hours.
    """

    runs: float
    gpus: int
    rate: float

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        return self.runs * INPUTS["images"].value * INPUTS["epochs"].value / self.rate / 3600

    @property
    def hours(self) -> float:
        """Hours on the clock."""
        return self.gpu_hours / self.gpus

    @property
    def kilowatt_hours(self) -> float:
        """Energy of the GPUs."""
        return self.gpu_hours * INPUTS["watts"].value / 1000

    @property
    def read(self) -> float:
        """Bytes of prepared pictures a second, by all GPUs together."""
        return self.gpus * self.rate * INPUTS["prepared"].value

    @property
    def cores(self) -> float:
        """Cores that decode as fast as all GPUs train."""
        return self.gpus * self.rate / INPUTS["decoded"].value

    @property
    def exchanged(self) -> float:
        """Bytes a second that each GPU sends where all train one run together: gradients in float32, in a ring."""
        return 2 * (self.gpus - 1) / self.gpus * 4 * INPUTS["parameters"].value * self.rate / PAPER_BATCH
