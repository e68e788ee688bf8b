"""Trained weights from files compute what their own library's network computes; bad files are named and never run."""

from __future__ import annotations

import functools
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms import functional as transforms

from alexnet_lib import __main__ as cli
from alexnet_lib import data, models, pretrained
from alexnet_lib.evaluate import Inputs, error_rate, view_probabilities
from alexnet_lib.recipes import Recipe, StudyError

Values = dict[str, Tensor]
SMALL = "cifar-19pct"
CLASSES = 6
SCENES = f"synthetic:size=256,classes={CLASSES},train=1,test=5"


def load(path: Path, net: str, classes: int | None = None) -> nn.Sequential:
    return pretrained.fill(pretrained.read(path), path, net, classes)


def weight(generator: torch.Generator, *shape: int) -> Tensor:
    """Random weights that keep a signal's size; large ones overlap in memory, so that their file is small."""
    numbers = 3 * shape[0] + shape[1] if len(shape) == 2 else math.prod(shape)
    line = torch.randn(numbers, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
    return line.as_strided(shape, (3, 1)) if len(shape) == 2 else line.view(shape)


def weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Values:
    generator = torch.Generator().manual_seed(seed)
    values: Values = {}
    for layer, shape in shapes.items():
        values[f"{layer}.weight"] = weight(generator, *shape)
        values[f"{layer}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return values


ONE_TOWER = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (CLASSES, 4096),
}
TWO_TOWERS = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (CLASSES, 4096),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A file as torchvision's, and torchvision's network with the same weights."""
    path, values = tmp_path_factory.mktemp("torchvision") / "alexnet.pth", weights(ONE_TOWER, 0)
    torch.save(values, path)
    with torch.device("meta"):
        net = torchvision.models.alexnet(num_classes=CLASSES)
    net.load_state_dict({name: value.contiguous() for name, value in values.items()}, assign=True)
    return path, net.eval()


@pytest.fixture(scope="module")
def caffe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Values]:
    """A file as of Caffe's network, and its weights."""
    path, values = tmp_path_factory.mktemp("caffe") / "bvlc_alexnet.pt", weights(TWO_TOWERS, 1)
    torch.save(values, path)
    return path, values


def small_weights(**changes: Tensor | None) -> Values:
    net = models.build(SMALL, init="variance", generator=torch.Generator().manual_seed(2))
    values: dict[str, Any] = {
        **net.state_dict(),
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def equal(ours: nn.Module, values: Values) -> bool:
    return all(torch.equal(value, values[name]) for name, value in ours.state_dict().items())


# --- torchvision's network --------------------------------------------------------------------------------------


def test_a_file_of_torchvisions_gives_torchvisions_answers(theirs: tuple[Path, nn.Module]) -> None:
    path, net = theirs
    ours = load(path, "alexnet-one-tower", CLASSES).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), net(images), rtol=1e-5, atol=1e-5)


def test_a_file_of_torchvisions_gives_torchvisions_gradients_where_dropout_is_off(
    theirs: tuple[Path, nn.Module],
) -> None:
    path, net = theirs
    ours = load(path, "alexnet-one-tower", CLASSES)
    nets = [ours, net]
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(4))
    for each in nets:
        each.train()
        for layer in each.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        F.cross_entropy(each(images), torch.tensor([1, 4])).backward()
    mine, yours = ([w.grad for w in each.parameters()] for each in nets)
    net.zero_grad()
    net.eval()
    assert all(gradient is not None and gradient.any() for gradient in mine)
    for ours_, theirs_ in zip(mine, yours, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-5, atol=1e-5)


def test_torchvisions_inputs_are_those_of_its_own_transform() -> None:
    found = data.load("synthetic:size=256,train=1,test=2")
    inputs = pretrained.inputs("torchvision", "alexnet-one-tower", found)
    view = found.test.images[:, 16:240, 16:240]
    pixels = view.permute(0, 3, 1, 2) / 255
    expected = transforms.normalize(pixels, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert inputs.size == 224
    torch.testing.assert_close(inputs(view), expected, rtol=1e-5, atol=1e-6)


# --- Caffe's network --------------------------------------------------------------------------------------------


def norm(x: Tensor, alpha: float, k: float, towers: int) -> Tensor:
    """P §3.3's formula, term by term, in each tower by itself."""
    parts = []
    for tower in x.chunk(towers, 1):
        squares = F.pad(tower.square(), (0, 0, 0, 0, 2, 2))
        sums = sum(squares[:, shift : shift + tower.shape[1]] for shift in range(5))
        parts.append(tower / (k + alpha * sums) ** 0.75)
    return torch.cat(parts, 1)


def two_towers(values: Values, images: Tensor, normed: Callable[[Tensor], Tensor]) -> Tensor:
    """Caffe's layers: no padding of the 227 pixels, groups in conv2, conv4 and conv5."""

    def conv(x: Tensor, layer: str, **options: int) -> Tensor:
        return F.conv2d(x, values[f"{layer}.weight"], values[f"{layer}.bias"], **options).relu()

    def full(x: Tensor, layer: str) -> Tensor:
        return F.linear(x, values[f"{layer}.weight"], values[f"{layer}.bias"])

    x = F.max_pool2d(normed(conv(images, "conv1", stride=4)), 3, 2)
    x = F.max_pool2d(normed(conv(x, "conv2", padding=2, groups=2)), 3, 2)
    x = conv(conv(x, "conv3", padding=1), "conv4", padding=1, groups=2)
    x = F.max_pool2d(conv(x, "conv5", padding=1, groups=2), 3, 2)
    return full(full(full(x.flatten(1), "fc6").relu(), "fc7").relu(), "fc8")


@pytest.fixture
def images() -> Tensor:
    """Two of 227 pixels, in grey levels about the mean: large enough for the norms to matter."""
    return 60 * torch.randn(2, 3, 227, 227, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_a_file_of_caffes_gives_the_answers_of_its_layers_with_the_papers_norms(
    caffe: tuple[Path, Values], images: Tensor
) -> None:
    path, values = caffe
    ours = load(path, "alexnet-paper", CLASSES).eval()(images)
    expected = two_towers(values, images, functools.partial(norm, alpha=1e-4, k=2.0, towers=2))
    across = two_towers(values, images, functools.partial(norm, alpha=1e-4, k=2.0, towers=1))
    scale = expected.abs().max()
    torch.testing.assert_close(ours / scale, expected / scale, rtol=1e-5, atol=1e-5)
    assert ((ours - across).abs().max() / scale) > 1e-3


@torch.no_grad()
def test_made_caffes_it_gives_rgb_images_the_answers_that_caffe_gives_to_bgr_ones(
    caffe: tuple[Path, Values], images: Tensor
) -> None:
    path, values = caffe
    ours = pretrained.to_caffe(load(path, "alexnet-paper", CLASSES)).eval()(images.flip(1))
    expected = two_towers(values, images, nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
    scale = expected.abs().max()
    torch.testing.assert_close(ours / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_caffes_inputs_are_227_pixels_less_the_mean_of_their_channel() -> None:
    found = data.load("synthetic:size=256,train=1,test=1")
    inputs = pretrained.inputs("caffe", "alexnet-paper", found)
    view = found.test.images[:, :227, :227]
    assert inputs.size == 227
    assert torch.equal(inputs(view)[:, 0], view[..., 0] - 123.0)
    assert torch.equal(inputs(view)[:, 2], view[..., 2] - 104.0)


# --- files ------------------------------------------------------------------------------------------------------


def save_legacy(values: Values, path: Path) -> None:
    torch.save(values, path, _use_new_zipfile_serialization=False)


FORMATS: dict[str, tuple[str, Callable[[Values, Path], None]]] = {
    "pth": ("w.pth", torch.save),
    "pt": ("w.pt", torch.save),
    "legacy": ("w.pth", save_legacy),
    "safetensors": ("w.safetensors", safetensors.torch.save_file),
}
formats = pytest.mark.parametrize(("file", "save"), FORMATS.values(), ids=FORMATS)


@formats
def test_this_librarys_own_weights_come_back_as_they_were(
    tmp_path: Path, file: str, save: Callable[[Values, Path], None]
) -> None:
    save(small_weights(), tmp_path / file)
    assert equal(load(tmp_path / file, SMALL), small_weights())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    values = {name: value.to(dtype) for name, value in small_weights().items()}
    torch.save(values, tmp_path / "w.pt")
    ours = load(tmp_path / "w.pt", SMALL)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert equal(ours, {name: value.float() for name, value in values.items()})


def test_a_loaded_network_can_be_trained(tmp_path: Path) -> None:
    torch.save(small_weights(), tmp_path / "w.pt")
    net = load(tmp_path / "w.pt", SMALL)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def refused(path: Path, *, net: str = SMALL, classes: int | None = None) -> str:
    """Return what is said of a file, without the path that it starts with."""
    with pytest.raises(StudyError) as told:
        load(path, net, classes)
    said = str(told.value)
    assert said.startswith(f"weights {path}: ")
    return said.removeprefix(f"weights {path}: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.pth") == "can't be read (No such file or directory): give the path of a file"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").mkdir()
    assert refused(tmp_path / "w.pth").startswith("can't be read (Is a directory)")


def test_a_file_of_another_ending_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "w.caffemodel").write_bytes(b"weights")
    assert refused(tmp_path / "w.caffemodel").startswith("the name should end in .pt, .pth or .safetensors")


@formats
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.5, 0.9999])
def test_a_file_cut_short_is_refused(
    tmp_path: Path, file: str, save: Callable[[Values, Path], None], share: float
) -> None:
    path = tmp_path / file
    save(small_weights(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert re.search("fetch the file again|code in it", refused(path))


def test_a_file_with_an_altered_byte_is_refused(tmp_path: Path) -> None:
    torch.save(small_weights(), tmp_path / "w.pt")
    altered = bytearray((tmp_path / "w.pt").read_bytes())
    altered[len(altered) // 2] ^= 1
    (tmp_path / "w.pt").write_bytes(altered)
    assert refused(tmp_path / "w.pt") == "cut short, damaged or no weights (BadZipFile): fetch the file again"


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_a_page_in_place_of_the_weights_is_refused(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / file).write_bytes(content)
    assert "no weights" in refused(tmp_path / file)


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, protocol: int, by_torch: bool) -> None:
    path, content = tmp_path / "w.pth", {"conv1.weight": Code(tmp_path / "ran")}
    if by_torch:
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert "weights_only" not in refused(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_with_code_in_it_is_called_that(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Code(tmp_path / "ran")}, tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth") == (
        "a pickle with code in it (posix.mkdir), not run: take a file of net.state_dict() alone"
    )


def test_a_whole_network_is_code_too(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth").startswith(
        "a pickle with code in it (torch.nn.modules.linear.Linear), not run"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1.0], "the whole is list"),
        (torch.zeros(3), "the whole is Tensor"),
        ({"model": {}, "recipe": {}}, "model is dict"),
        ({"conv1.weight": torch.zeros(3, dtype=torch.int8)}, "conv1.weight is torch.int8"),
        ({"conv1.weight": torch.tensor([1.0, float("nan")])}, "conv1.weight has values that are not finite"),
    ],
)
def test_what_is_not_weights_by_name_is_named(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth").startswith(told)


# --- other networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"conv2__weight": torch.zeros(32, 16, 5, 5), "conv3__bias": torch.zeros(9)},
            "conv2.weight is [32, 16, 5, 5], net 'cifar-19pct' needs [32, 32, 5, 5]",
        ),
        ({"conv3__bias": None, "fc4__bias": None}, "conv3.bias is missing, net 'cifar-19pct' needs [64]"),
        ({"conv3__bias": torch.tensor(1.0)}, "conv3.bias is [], net 'cifar-19pct' needs [64]"),
        ({"bn1__weight": torch.zeros(32)}, "bn1.weight is [32], net 'cifar-19pct' has none"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named_with_both_shapes(
    tmp_path: Path, changes: dict[str, Tensor | None], told: str
) -> None:
    torch.save(small_weights(**changes), tmp_path / "w.pt")
    assert refused(tmp_path / "w.pt") == f"{told}: name the net they are of"


def test_torchvisions_weights_in_another_edition_are_named_as_in_the_file(theirs: tuple[Path, nn.Module]) -> None:
    told = refused(theirs[0], net="alexnet-paper", classes=CLASSES)
    assert told.startswith("features.0.weight is [64, 3, 11, 11], net 'alexnet-paper' needs [96, 3, 11, 11]")


def test_weights_of_other_networks_of_torchvision_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.squeezenet1_1().state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / "squeezenet.pth")
    told = refused(tmp_path / "squeezenet.pth", net="alexnet-one-tower")
    assert told.startswith("features.0.weight is [64, 3, 3, 3], net 'alexnet-one-tower' needs [64, 3, 11, 11]")


@pytest.mark.parametrize("classes", [7, 1000])
def test_weights_for_more_or_fewer_classes_are_told_from_those_of_other_networks(
    tmp_path: Path, classes: int
) -> None:
    torch.save(small_weights(), tmp_path / "w.pt")
    assert refused(tmp_path / "w.pt", classes=classes) == (
        f"for 10 classes (fc4.weight), but {classes} are asked for: take data of 10 classes, or weights for {classes}"
    )


def test_a_network_has_its_own_number_of_classes_where_none_is_given(theirs: tuple[Path, nn.Module]) -> None:
    told = refused(theirs[0], net="alexnet-one-tower")
    assert told.startswith(f"for {CLASSES} classes (classifier.6.weight), but 1000 are asked for")


def test_an_unknown_net_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    torch.save(small_weights(), tmp_path / "w.pt")
    with pytest.raises(StudyError, match="did you mean 'cifar-19pct'"):
        load(tmp_path / "w.pt", "cifar-19pc")


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Evaluate a file and return the exit code and what was said."""

    def call(path: Path, net: str, name: str, *more: str) -> tuple[int, str]:
        code = cli.main(["evaluate", str(path), "--net", net, "--data", name, *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


Tell = Callable[..., tuple[int, str]]


def lines(one: Tensor, ten: Tensor, labels: Tensor) -> str:
    def top(mean: Tensor) -> str:
        return ", ".join(f"top-{k} error {100 * error_rate(mean, labels, k):.2f} %" for k in (1, 5))

    return f"  1 view: {top(one)}\n10 views: {top(ten)}\n"


def test_evaluate_gives_the_error_rates_that_torchvision_gives_with_its_own_views(
    theirs: tuple[Path, nn.Module], tell: Tell
) -> None:
    path, net = theirs
    test = data.load(SCENES).test
    pixels = transforms.normalize(
        test.images.permute(0, 3, 1, 2) / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        seen = torch.stack([net(view).softmax(1) for view in transforms.ten_crop(pixels, [224, 224])])
    code, said = tell(path, "alexnet-one-tower", SCENES)
    first, rest = said.split("\n", 1)
    assert code == 0
    assert first == f"alexnet-one-tower of {path}, inputs torchvision, on 5 test images of {data.load(SCENES).name}"
    assert rest == lines(seen[4], seen.mean(0), test.labels)


@pytest.mark.parametrize("kind", ["raw", "unit"])
def test_evaluate_gives_this_librarys_weights_the_inputs_of_their_recipe(
    tmp_path: Path, tell: Tell, kind: str
) -> None:
    found = data.load("synthetic:train=20,test=30")
    net = models.build("alexnet32", init="variance", generator=torch.Generator().manual_seed(6))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    inputs = Inputs.of(Recipe(crop=24, inputs=kind), found)
    seen = view_probabilities(net, found.test.images, inputs, which="corners")
    code, said = tell(tmp_path / "w.pt", "alexnet32", found.name, "--inputs", kind)
    assert code == 0
    assert said.endswith(lines(seen[4], seen.mean(0), found.test.labels))


def test_evaluate_turns_caffes_weights_to_rgb(
    caffe: tuple[Path, Values], tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned: list[nn.Sequential] = []
    turn = pretrained.to_caffe
    monkeypatch.setattr(pretrained, "to_caffe", lambda net: turned.append(net) or turn(net))
    scene = SCENES.replace("test=5", "test=1")
    code, said = tell(caffe[0], "alexnet-paper", scene, "--inputs", "caffe")
    assert (code, len(turned)) == (0, 1)
    assert "inputs caffe, on 1 test images" in said


@pytest.mark.parametrize(
    ("net", "name", "more", "told"),
    [
        (SMALL, "synthetic", [], "no name tells what they were trained on: add --inputs, e.g. raw"),
        (SMALL, "synthetic", ["--inputs", "rawr"], "unknown inputs 'rawr': did you mean 'raw'?"),
        (SMALL, "synthetic", ["--inputs", "caffe"], "inputs 'caffe' are those of net 'alexnet-paper', not of"),
        (SMALL, "synthetic:classes=4", ["--inputs", "raw"], "for 10 classes (fc4.weight), but 4 are asked for"),
        (SMALL, "synthetic:size=24", ["--inputs", "raw"], "'cifar-19pct' sees 32 pixels, the images of synthetic"),
    ],
)
def test_evaluate_refuses_what_would_give_wrong_numbers(
    tmp_path: Path, tell: Tell, net: str, name: str, more: list[str], told: str
) -> None:
    torch.save(small_weights(), tmp_path / "w.pt")
    code, said = tell(tmp_path / "w.pt", net, name, *more)
    assert code == 2
    assert told in said
