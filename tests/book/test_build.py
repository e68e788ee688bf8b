"""What the builder does to a notebook before Sphinx sees it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from studies import TINY, add_experiment, move_in, record

from alexnet_lib import experiments, records
from alexnet_lib.experiments import Arm
from alexnet_lib.recipes import StudyError
from alexnet_lib.runner import Task

BUILD = Path(__file__).resolve().parents[2] / "book" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("book_build", BUILD)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook(*cells: Any) -> Any:
    return nbformat.v4.new_notebook(cells=list(cells))


def test_links_that_work_from_the_notebooks_folder_work_in_the_book(build: ModuleType) -> None:
    text = "[a](../book/methods.md) [b](../data/claims.yml) [c](00_ledger.ipynb) [d](editions.ipynb)"
    staged = notebook(nbformat.v4.new_markdown_cell(text))
    build.prepare(staged, "editions", "editions.ipynb")
    assert staged.cells[0].source == "[a](methods.md) [b](data/claims.yml) [c](index.ipynb) [d](editions.ipynb)"


@pytest.mark.parametrize("kept", [False, True])
def test_pages_show_a_fresh_execution_or_the_outputs_kept(
    build: ModuleType, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = nbformat.v4.new_output("stream", text="kept")
    cell = nbformat.v4.new_code_cell("print('fresh')", outputs=[old], execution_count=1)
    (tmp_path / "stage").mkdir()
    source = notebook(cell)
    source.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(source, tmp_path / "02_lrn.ipynb")
    monkeypatch.setattr(build.notebooks, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "STAGE", tmp_path / "stage")
    seconds = build.stage_notebooks(None, kept=kept)
    staged = nbformat.read(tmp_path / "stage" / "02_lrn.ipynb", as_version=4)
    assert [output.text.strip() for output in staged.cells[0].outputs] == ["kept" if kept else "fresh"]
    assert list(seconds) == ([] if kept else ["02_lrn"])
    assert "Run it yourself" in staged.cells[-1].source


def test_a_cell_that_ended_in_an_error_stops_the_build(build: ModuleType) -> None:
    failed = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])])
    with pytest.raises(StudyError, match=r"02_lrn\.ipynb: cell 1 ended in an error"):
        build.prepare(notebook(nbformat.v4.new_markdown_cell("# LRN"), failed), "02_lrn", "02_lrn.ipynb")


def test_a_notebook_that_papermill_gave_up_stops_the_build(build: ModuleType) -> None:
    staged = notebook()
    staged.metadata["papermill"] = {"exception": True}
    with pytest.raises(StudyError, match="a cell failed"):
        build.prepare(staged, "02_lrn", "02_lrn.ipynb")


def test_parameters_that_papermill_put_in_are_shown_as_the_notebook_shows_its_own(build: ModuleType) -> None:
    own = nbformat.v4.new_code_cell("scale = 'laptop'", metadata={"tags": ["parameters", "remove-cell"]})
    put_in = nbformat.v4.new_code_cell("scale = 'smoke'", metadata={"tags": ["injected-parameters"]})
    build.prepare(notebook(own, put_in), "02_lrn", "02_lrn.ipynb")
    assert put_in.metadata["tags"] == ["injected-parameters", "remove-cell"]


def test_every_notebook_ends_with_how_to_run_it(build: ModuleType) -> None:
    staged = notebook()
    build.prepare(staged, "02_lrn", "02_lrn.ipynb")
    assert "python -m alexnet_lib notebook 02_lrn --scale smoke" in staged.cells[-1].source
    assert "papermill notebooks/02_lrn.ipynb" in staged.cells[-1].source


def test_the_line_on_every_page_tells_own_runs_from_published_ones(build: ModuleType) -> None:
    runs = [{"provenance": {"ended": "2026-01-02T03:04:05+00:00"}}]
    assert build.announcement("laptop", runs, own=False) == "Published runs, scale <b>laptop</b>."
    assert build.announcement("gpu", runs, own=True) == "Your own runs, scale <b>gpu</b>, 2026-01-02."
    assert "tests no claim" in build.announcement("smoke", [], own=True)


def test_what_runs_take_is_told_for_each_kind_of_cpu_by_its_own_records(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    move_in(monkeypatch, tmp_path)
    monkeypatch.setattr(experiments, "EXPERIMENTS", {})
    long = replace(TINY, epochs=1800)
    add_experiment(monkeypatch, [Arm(name="relu-tiny", recipe=long, seeds=2, rates=(0.01, 0.02, 0.005))])
    assert "no records of a CPU" in build.costs("smoke")
    for unit, precision in (("FAST", "float32"), ("SLOW", "bf16")):
        recipe = replace(long, precision=precision)
        run = record(Task("tiny", "smoke", "relu-tiny", recipe, search=False), [0.9])  # of one second
        run["provenance"]["cpu_capability"] = unit
        records.append(run)
    page = build.costs("smoke")
    assert "<th>Hours, FAST</th><th>Hours, SLOW</th>" in page
    assert "<td>tiny</td><td>4</td><td>2.0</td><td>not recorded</td>" in page


def test_mathjax_comes_as_one_file_from_its_package(build: ModuleType) -> None:
    assert build.mathjax().stat().st_size > 2_000_000
