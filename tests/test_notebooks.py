"""Notebooks run with parameters they have, say which cell failed, and stand executed in the repository."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from alexnet_lib import notebooks
from alexnet_lib.notebooks import execute, find
from alexnet_lib.recipes import StudyError

PROJECT = Path(__file__).resolve().parent.parent
COMMITTED = sorted((PROJECT / "notebooks").glob("*.ipynb"))
IN_CHAPTERS = [claim for claim in yaml.safe_load((PROJECT / "data" / "claims.yml").read_text()) if claim["chapter"]]
BY_RUNS = [claim for claim in IN_CHAPTERS if claim["experiment"]]


def write(path: Path, *sources: str) -> Path:
    """Write a notebook: a typed parameters cell, then a cell for every source."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    first = nbformat.v4.new_code_cell('scale: str = "smoke"  # smoke | laptop\ntimes: int = 2')
    first.metadata["tags"] = ["parameters"]
    nb.cells = [first, *(nbformat.v4.new_code_cell(source) for source in sources)]
    nbformat.write(nb, path)
    return path


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return found


def code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in cells(path) if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def printed(path: Path) -> str:
    return "".join(
        "".join(output.get("text", ""))
        for cell in cells(path)
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    )


# --- execute ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scal", "unknown parameter of notebook 'study': 'scal': did you mean 'scale'"),
        ("learning", "unknown parameter of notebook 'study': 'learning': known: scale, times"),
    ],
)
def test_a_parameter_that_the_notebook_lacks_is_refused_and_nothing_runs(
    tmp_path: Path, name: str, message: str
) -> None:
    notebook = write(tmp_path / "study.ipynb", "open('ran', 'w').close()")
    with pytest.raises(StudyError, match=re.escape(message)):
        execute(notebook, tmp_path / "out" / "study.ipynb", {"times": 3, name: "laptop"})
    assert [path.name for path in tmp_path.iterdir()] == ["study.ipynb"]


def test_a_process_that_is_killed_is_told_with_what_to_do(tmp_path: Path) -> None:
    notebook = write(tmp_path / "study.ipynb", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(StudyError, match="notebook study: its process was killed, for want of memory perhaps"):
        execute(notebook, tmp_path / "out" / "study.ipynb", {})


def test_parameters_reach_the_notebook_which_runs_in_its_own_folder(tmp_path: Path) -> None:
    notebook = write(tmp_path / "study.ipynb", "import os\nprint(scale, times + 1, os.path.basename(os.getcwd()))")
    before = notebook.read_bytes()
    seconds = execute(notebook, tmp_path / "new" / "out.ipynb", {"times": 3})
    assert printed(tmp_path / "new" / "out.ipynb") == f"smoke 4 {tmp_path.name}\n"
    assert notebook.read_bytes() == before
    assert seconds > 0


def test_folders_that_variables_name_are_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ALEXNET_DATA", "ALEXNET_RUNS", "ALEXNET_CACHE")
    (tmp_path / "there").mkdir()
    notebook = write(tmp_path / "there" / "study.ipynb", f"import os\nprint([os.environ.get(n) for n in {names}])")
    monkeypatch.chdir(tmp_path)
    for name, value in zip(names, ("here/data", "~/runs", ""), strict=True):
        monkeypatch.setenv(name, value)
    execute(notebook, tmp_path / "out.ipynb", {})
    assert printed(tmp_path / "out.ipynb") == f"{[str(tmp_path / 'here' / 'data'), str(Path.home() / 'runs'), '']}\n"
    assert os.environ["ALEXNET_DATA"] == "here/data"


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"folder .*file can't be made \(File exists\): choose another \(--out\)"):
        execute(write(tmp_path / "study.ipynb"), tmp_path / "file" / "study.ipynb", {})


def test_a_failing_cell_is_named_and_its_output_kept(tmp_path: Path) -> None:
    notebook = write(
        tmp_path / "study.ipynb",
        "print('so far')",
        "raise ValueError('of all things')",
        "open('ran', 'w').close()",
    )
    output = tmp_path / "out.ipynb"
    with pytest.raises(StudyError, match=r"notebook study, cell 3: ValueError: of all things .*out\.ipynb") as told:
        execute(notebook, output, {})
    assert "\n" not in str(told.value)
    assert printed(output).startswith("so far")
    assert [o["ename"] for cell in code(output) for o in cell["outputs"] if o["output_type"] == "error"] == [
        "ValueError"
    ]
    assert not (tmp_path / "ran").exists()


# --- publish ------------------------------------------------------------------------------------------------


def test_a_notebook_is_published_without_the_data_sets_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DATA", str(tmp_path))
    (tmp_path / "imagenette").mkdir()
    here = "import os\nprint(os.listdir(os.environ['ALEXNET_DATA']))"
    notebook = write(tmp_path / "study.ipynb", here)
    notebooks.publish(notebook, tmp_path / "out" / "study.ipynb")
    assert printed(notebook) == "[]\n"
    assert os.environ["ALEXNET_DATA"] == str(tmp_path)


# --- find ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("01_relu_vs_tanh", "02_lrn", "editions"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("01_relu_vs_tanh", "01_relu_vs_tanh"),
        ("relu_vs_tanh", "01_relu_vs_tanh"),
        ("01_relu_vs_tanh.ipynb", "01_relu_vs_tanh"),
        ("lrn.ipynb", "02_lrn"),
        ("notebooks/editions.ipynb", "editions"),
    ],
)
def test_a_notebook_is_found_with_or_without_number_and_ending(shelf: Path, name: str, stem: str) -> None:
    assert find(name) == shelf / f"{stem}.ipynb"


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(("name", "nearest"), [("01_relu_vs_tahn", "01_relu_vs_tanh"), ("edition", "editions")])
def test_an_unknown_notebook_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(StudyError, match=f"unknown notebook '{name}': did you mean '{nearest}'"):
        find(name)


# --- the committed notebooks --------------------------------------------------------------------------------

every = pytest.mark.parametrize("notebook", COMMITTED, ids=lambda path: path.stem)


def test_the_study_has_a_notebook_for_every_chapter_of_a_claim() -> None:
    assert {path.stem for path in COMMITTED} >= {
        "00_ledger",
        "alexnet32",
        *(claim["chapter"] for claim in IN_CHAPTERS),
    }


@pytest.mark.parametrize("claim", BY_RUNS, ids=lambda claim: claim["id"])
def test_a_claim_s_chapter_judges_it_by_the_runs_of_its_experiment(claim: dict[str, Any]) -> None:
    (notebook,) = [path for path in COMMITTED if path.stem == claim["chapter"]]
    source = "\n".join("".join(cell["source"]) for cell in code(notebook))
    assert re.findall(r'runner\.study\("(\w+)", scale, retrain=retrain\)', source) == [claim["experiment"]]
    assert source.count(f'report.verdict(claim["{claim["id"]}"], ') == 1


@pytest.mark.parametrize("chapter", sorted({claim["chapter"] for claim in BY_RUNS}))
def test_a_chapter_gives_no_verdict_on_a_claim_that_is_not_its_own(chapter: str) -> None:
    (notebook,) = [path for path in COMMITTED if path.stem == chapter]
    judged = re.findall(
        r'report\.verdict\(claim\["([\w-]+)"\]', "".join("".join(c["source"]) for c in code(notebook))
    )
    assert judged == [claim["id"] for claim in BY_RUNS if claim["chapter"] == chapter]


@every
def test_a_notebook_is_a_valid_one(notebook: Path) -> None:
    nbformat.validate(nbformat.read(notebook, as_version=4))


@every
def test_a_notebook_begins_with_its_one_title(notebook: Path) -> None:
    texts = ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "markdown"]
    assert cells(notebook)[0]["cell_type"] == "markdown"
    assert [line for text in texts for line in text.splitlines() if line.startswith("# ")] == [
        texts[0].splitlines()[0]
    ]


@every
def test_a_notebook_has_one_parameters_cell_of_typed_names_with_scale_first(notebook: Path) -> None:
    (source,) = ["".join(c["source"]) for c in code(notebook) if "parameters" in c["metadata"].get("tags", [])]
    lines = ast.parse(source).body
    assert all(isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Constant) for line in lines)
    assert re.match(r'scale: str = "(smoke|laptop|gpu|imagenet)"  # smoke \| laptop', source)


@every
def test_a_notebook_is_committed_executed_from_top_to_bottom(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@every
def test_a_committed_notebook_holds_no_error_and_nothing_from_stderr(notebook: Path) -> None:
    bad = [
        output
        for cell in code(notebook)
        for output in cell["outputs"]
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert bad == []


@every
def test_a_cell_that_draws_pictures_of_a_data_set_is_committed_without_them(notebook: Path) -> None:
    drawn = [cell["outputs"] for cell in code(notebook) if "nbval-ignore-output" in cell["metadata"].get("tags", [])]
    assert not re.search("<image|image/png|image/jpeg", json.dumps(drawn))


@every
def test_a_committed_notebook_names_no_path_of_a_machine(notebook: Path) -> None:
    unix = r"(?<![\w.:/])/(?:home|root|tmp|work|opt|mnt|var|Users)/[\w./-]*"
    windows = r"\b[A-Z]:\\\\[\w\\]+"
    assert re.findall(f"{unix}|{windows}", notebook.read_text()) == []


@every
def test_a_committed_notebook_holds_no_date_address_or_trailing_semicolon(notebook: Path) -> None:
    assert not re.search(r"<dc:date>| at 0x[0-9a-f]{6,}", notebook.read_text())
    assert [cell for cell in code(notebook) if "".join(cell["source"]).rstrip().endswith(";")] == []


@every
def test_a_committed_notebook_was_run_with_its_own_parameters(notebook: Path) -> None:
    tags = [tag for cell in cells(notebook) for tag in cell["metadata"].get("tags", [])]
    assert "injected-parameters" not in tags


@every
def test_the_book_shows_no_code_unasked(notebook: Path) -> None:
    tags = [" ".join(cell["metadata"].get("tags", [])) for cell in code(notebook)]
    assert [number for number, words in enumerate(tags) if not re.search(r"\b(hide|remove)-", words)] == []
