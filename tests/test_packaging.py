"""The files that install the study agree with each other, and the lock names no machine and no index."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PINS = [
    *PYPROJECT["project"]["dependencies"],
    *(pin for group in PYPROJECT["project"]["optional-dependencies"].values() for pin in group),
    *PYPROJECT["build-system"]["requires"],
]
needs_git = pytest.mark.skipif(
    shutil.which("git") is None or not (PROJECT / ".git").exists(), reason="not a git checkout"
)


def normal(name: str) -> str:
    """Spell a package's name as package indexes compare it: ``PyYAML`` and ``pyyaml`` are one package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, str, int]]:
    """Return the lock as name -> (version, environment marker, number of sha256 hashes)."""
    entries: dict[str, tuple[str, str, int]] = {}
    for entry in re.split(r"\n(?=\S)", (PROJECT / "requirements.txt").read_text()):
        if found := re.match(r"([\w.-]+)==([\w.+!-]+)(?: ; ([^\\]+))? \\\n", entry):
            name, version, marker = found.groups()
            assert normal(name) not in entries, f"{name} is locked twice"
            entries[normal(name)] = version, (marker or "").strip(), entry.count("--hash=sha256:")
    return entries


def recipe(target: str) -> str:
    """Return the Makefile's lines for one target."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found[0]


@pytest.mark.parametrize("pin", PINS)
def test_the_lock_holds_every_direct_dependency_at_its_version_with_hashes(pin: str) -> None:
    name, _, version = pin.partition("==")
    assert version, f"{pin}: pyproject.toml names one version, as name==version"
    found, _, hashes = locked()[normal(name)]
    assert found == version, "run `make lock`"
    assert hashes > 0


def imported(path: Path) -> set[str]:
    """Return the packages that a module imports, wherever in it, without Python's and the study's own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"alexnet_lib"}


def declared(*extras: str) -> set[str]:
    """Return what the study declares, with these extras: the names of imports, where they differ from packages'."""
    groups = PYPROJECT["project"]["optional-dependencies"]
    pins = [*PYPROJECT["project"]["dependencies"], *(pin for extra in extras for pin in groups[extra])]
    modules = {"pyyaml": "yaml", "pillow": "PIL", "ipython": "IPython", "matplotlib-inline": "matplotlib_inline"}
    return {modules.get(name, name) for name in (pin.partition("==")[0] for pin in pins)}


@pytest.mark.parametrize("path", sorted((PROJECT / "alexnet_lib").glob("*.py")), ids=lambda path: path.stem)
def test_every_package_that_the_library_imports_is_declared(path: Path) -> None:
    brought = {"triton"}  # by torch on Linux; elsewhere `layers` does without
    assert imported(path) - declared("notebooks", "imagenet", "cluster") - brought == set()


@pytest.mark.parametrize("module", ["prepare", "store", "images", "data"])
def test_the_extra_for_imagenet_has_all_that_prepared_sets_need(module: str) -> None:
    assert imported(PROJECT / "alexnet_lib" / f"{module}.py") - declared("imagenet") == set()


def test_every_line_of_the_lock_is_a_pin_a_hash_or_a_comment() -> None:
    known = re.compile(
        r"[a-z0-9.-]+==[a-z0-9.]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    # via [^/]+|#[^/]*"
    )
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not known.fullmatch(line)] == []


def test_the_lock_takes_the_public_torch_with_its_cuda_packages_on_linux_alone() -> None:
    entries = locked()
    assert "+" not in entries["torch"][0]
    cuda = {name: marker for name, (_, marker, _) in entries.items() if name.startswith("nvidia-")}
    assert cuda
    assert all("sys_platform == 'linux'" in marker for marker in cuda.values())


def test_the_lock_serves_other_machines_than_the_one_that_wrote_it() -> None:
    # One wheel per Python and platform, so a compiled package has many; one hash would fit one machine.
    assert all(locked()[name][2] > 10 for name in ("numpy", "pandas", "scipy", "torch"))


def test_conda_users_get_the_lock() -> None:
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    pip = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == [["-r requirements.txt"]]
    conda = [part for part in environment["dependencies"] if isinstance(part, str)]
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert conda == [f"python={oldest}", "pip"], "nothing that conda could install at another version"


def test_one_version_and_name_in_every_file() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    author = PYPROJECT["project"]["authors"][0]["name"]
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["authors"] == [{"name": author}]
    assert author in (PROJECT / "LICENSE").read_text()


def test_make_alone_lists_every_target_with_its_cost() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    listed = re.findall(r'@echo "make (\w+) .* \d+ (?:s|min) ', recipe("help"))
    assert set(phony[1].split()) - {"help"} == set(listed)
    assert ".DEFAULT_GOAL := help" in (PROJECT / "Makefile").read_text()


def test_make_installs_by_hash_and_builds_nothing_it_downloads() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    assert "LOCKED := --require-hashes --only-binary :all: -r requirements.txt" in makefile
    assert "--no-deps --no-build-isolation --editable ." in makefile


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3.6"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "-f", PROJECT / "Makefile", f"PYTHON={old}", f"VENV={tmp_path}/venv", "setup"]
    made = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert f"'{old}' is not Python 3.11 or newer" in made.stderr
    assert not (tmp_path / "venv").exists()


@needs_git
@pytest.mark.parametrize(
    "path",
    [
        ".venv/bin/python",
        "build/runs-smoke/figure1.jsonl",
        "book/_build/html/index.html",
        "data/cifar-10-batches-py/data_batch_1",
        "data/cifar-10-python.tar.gz",
        "data/imagenette/train/n01440764/n01440764_10026.JPEG",
        "data/tiny-imagenet-200/wnids.txt",
        "data/imagenet/store.json",
        "data/imagenet.partial/train-00000.arrow",
        "data/mine/train/a/x.jpg",
        "alexnet_lib/__pycache__/data.cpython-311.pyc",
    ],
)
def test_git_ignores_data_sets_and_what_is_built(path: str) -> None:
    assert ignored(path)


@needs_git
@pytest.mark.parametrize(
    "path",
    [
        "data/claims.yml",
        "data/runs/figure1.jsonl",
        "data/filters/conv1.safetensors",
        "data/verified/lrn.jsonl",
        "book/build.py",
    ],
)
def test_git_keeps_what_the_study_is_made_of(path: str) -> None:
    assert not ignored(path)


def ignored(path: str) -> bool:
    """Say whether git's ignore files name the path, which need not exist."""
    command = ["git", "check-ignore", "--no-index", "--quiet", path]
    return subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
