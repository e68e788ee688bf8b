"""Two towers on two devices compute what the grouped network computes, and copy only where the paper says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_lib import __main__ as cli
from alexnet_lib import data, layers, models, records, train
from alexnet_lib.dataset import Dataset
from alexnet_lib.optim import optimiser
from alexnet_lib.recipes import Recipe, StudyError
from alexnet_lib.towers import Towers

NETS = ("alexnet-paper", "alexnet-code2012", "alexnet32", "alexnet32-towers-apart", "cifar-18pct-no-lrn")
MEET = ("conv3", "fc6", "fc7", "fc8")
"""Where the paper's towers meet: P §3.2 and §3.5."""


def build(net: str) -> tuple[nn.Sequential, Towers]:
    """Return a network without dropout's noise, and its two towers on two devices of one kind."""
    whole = models.build(net, classes=7, init="variance", generator=torch.Generator().manual_seed(0)).eval()
    return whole, Towers(whole, ("cpu", "cpu")).eval()


def batch(net: str, images: int = 2) -> tuple[Tensor, Tensor]:
    side = models.NETS[net].image_size
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(1)), torch.arange(images)


def joined(towers: Towers, values: Callable[[Tensor], Tensor | None] = lambda weight: weight) -> dict[str, Tensor]:
    """Return the towers' weights, or what belongs to each, by their names in the network in one piece."""
    parts: dict[str, list[Tensor]] = {}
    for name, weight in towers.named_parameters():
        _, layer, _, kind = name.split(".")
        found = values(weight)
        assert found is not None
        parts.setdefault(f"{layer}.{kind}", []).append(found.detach())
    return {name: torch.cat(halves) for name, halves in parts.items()}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_values_and_gradients_are_those_of_the_network_in_one_piece(
    net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = models.linear  # 64 units for 4096, which are most of the weights and nothing to the towers

    def narrow(inputs: int, outputs: int, **settings: Any) -> nn.Linear:
        return linear(64 if inputs == 4096 else inputs, 64 if outputs == 4096 else outputs, **settings)

    monkeypatch.setattr(models, "linear", narrow)
    whole, towers = build(net)
    images, labels = batch(net)
    outputs = [model(images) for model in (whole, towers)]
    for each in outputs:
        nn.functional.cross_entropy(each, labels).backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(
        joined(towers, lambda weight: weight.grad), {name: weight.grad for name, weight in whole.named_parameters()}
    )


def test_the_towers_have_the_network_s_weights_and_each_its_half_of_them() -> None:
    whole, towers = build("alexnet32")
    assert all(torch.equal(weight, joined(towers)[name]) for name, weight in whole.named_parameters())
    halves = [
        [half.weight.numel() for half in layer.children()]
        for name, layer in towers.layers.items()
        if name.startswith(("conv", "fc"))
    ]
    assert [len(half) for half in halves] == [2] * 7 + [1]  # the last layer stands on the first device
    assert all(left == right for left, right in halves[:-1])


def arithmetic(net: str, meets: tuple[str, ...]) -> Counter[tuple[str, str]]:
    """Bytes an image from the layer table: all inputs of a layer where towers meet, for the last one half of them."""
    rows = models.layer_table(models.outline(net), models.NETS[net].image_size)
    sent: Counter[tuple[str, str]] = Counter({("images", "forward"): 4 * 3 * models.NETS[net].image_size ** 2})
    for below, row in pairwise(rows):
        if row.name in meets:
            inputs = math.prod(below.shape) // (2 if row.name == "fc8" else 1)
            sent[row.name, "forward"] = sent[row.name, "backward"] = 4 * inputs
    return sent


@pytest.mark.parametrize("net", ["alexnet-paper", "alexnet-code2012", "alexnet32"])
def test_what_is_copied_is_what_the_paper_s_connections_need(net: str) -> None:
    towers = Towers(models.outline(net), ("meta", "meta"))
    side = models.NETS[net].image_size
    towers(torch.empty(1, 3, side, side, device="meta")).sum().backward()
    assert towers.sent == arithmetic(net, MEET)


def test_towers_that_meet_at_every_layer_copy_the_inputs_of_each() -> None:
    net = models.outline("alexnet-paper-one-tower")
    for layer in net:
        if isinstance(layer, layers.CrossMapNorm):
            layer.towers = 2
    towers = Towers(net, ("meta", "meta"))
    towers(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
    assert towers.sent == arithmetic("alexnet-paper", ("conv2", "conv4", "conv5", *MEET))


def test_the_bytes_of_a_batch_are_those_of_its_images() -> None:
    counts = []
    for images in (1, 3):
        _, towers = build("alexnet32")
        towers(batch("alexnet32", images)[0]).sum().backward()
        counts.append(towers.sent)
    assert counts[1] == Counter({where: 3 * sent for where, sent in counts[0].items()})


def test_nothing_reaches_the_other_device_but_by_a_counted_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses to compute with tensors of two devices, here the CPU and the one without values."""
    monkeypatch.setattr(Towers, "_copy", lambda self, maps, to, _: torch.zeros_like(maps, device=self.devices[to]))
    towers = Towers(build("alexnet32")[0], ("cpu", "meta"))
    assert towers(batch("alexnet32")[0]).device.type == "cpu"


@pytest.mark.parametrize(
    ("net", "layer"), [("alexnet32-one-tower", "norm1"), ("cifar-11pct", "norm1"), ("cifar-13pct", "local3")]
)
def test_a_network_that_has_no_two_towers_is_refused(net: str, layer: str) -> None:
    with pytest.raises(StudyError, match=f"layer {layer} can't be divided into towers"):
        Towers(models.outline(net), ("meta", "meta"))


# --- training ------------------------------------------------------------------------------------------------

TWO = Recipe(
    data="synthetic:train=40,test=20",
    net="alexnet32-no-dropout",
    crop=24,
    inputs="unit",
    init="variance",
    rate=0.01,
    batch=16,
    epochs=2,
    conv1=(1, 2),
)


@pytest.fixture(scope="module")
def images() -> Dataset:
    return data.load(TWO.data)


def test_training_ends_with_the_weights_of_the_network_in_one_piece(images: Dataset) -> None:
    whole, divided = train.train(TWO, images), train.train(TWO, images, second="cpu")
    assert isinstance(divided.model, Towers)
    torch.testing.assert_close(joined(divided.model), dict(whole.model.named_parameters()), rtol=1e-4, atol=1e-6)
    assert divided.scores == whole.scores


def test_a_layer_s_own_rates_are_those_of_both_halves() -> None:
    update = optimiser(build("alexnet32")[1], replace(TWO, conv1=(1, 2)))
    assert sum(len(group["params"]) for group in update.param_groups if group["first"]) == 4


def test_a_checkpoint_of_two_towers_is_not_gone_on_from_in_one_piece(tmp_path: Path, images: Dataset) -> None:
    train.train(replace(TWO, epochs=1), images, second="cpu", checkpoint=tmp_path / "run.pt")
    with pytest.raises(StudyError, match=r"a device for each tower, this is .*half of each"):
        train.train(replace(TWO, epochs=1), images, checkpoint=tmp_path / "run.pt")


def test_the_command_line_trains_two_towers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"train alexnet32 --data {TWO.data} --devices cpu,cpu --out {tmp_path} --set epochs=1 batch=20 crop=24"
    assert cli.main(line.split()) == 0
    (record,) = records.read(tmp_path)
    assert capsys.readouterr().out.endswith(f"recorded {record['id']}: {tmp_path / 'train.jsonl'}\n")
    assert record["provenance"]["split"] == "a device for each tower"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("cpu", "--devices: name two"),
        ("cpu,cpu,cpu", "--devices: name two"),
        ("cpu,cuda:99", "unknown device 'cuda:99'"),
        ("cpu,gpu", "unknown device 'gpu': did you mean 'cpu'"),
    ],
)
def test_devices_that_can_t_be_are_refused(devices: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "alexnet32", "--devices", devices]) == 2
    assert message in capsys.readouterr().err
