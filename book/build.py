"""Execute the notebooks and build the book: ``python book/build.py [--scale smoke|laptop|gpu | --kept]``.

Without an option: the book of the published records (``data/runs``). With ``--scale``: the whole study is trained at
that scale into ``build/runs-SCALE`` first (what is there already is not trained again) and the book shows those runs.
With ``--kept``: no notebook is executed, the pages show the outputs kept in ``notebooks/``, which nbval holds against
the published records.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import html
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from alexnet_lib import claims, experiments, machine, notebooks, records, runner
from alexnet_lib.__main__ import COMMANDS
from alexnet_lib.recipes import Recipe, StudyError

BOOK = Path(__file__).resolve().parent
PROJECT = BOOK.parent
STAGE = BOOK / "_stage"
PAGES = BOOK / "_build" / "html"
FRONT = "00_ledger"
PUBLISHED_SCALE = "laptop"
PACKAGES = [
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "papermill",
    "jupyter-book",
    "sphinx",
    "sphinx-book-theme",
    "sphinx-mathjax-offline",
]


def main() -> int:
    """Build and say where the front page is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--scale", choices=["smoke", "laptop", "gpu"], help="train the study at this scale first")
    source.add_argument("--kept", action="store_true", help="show the outputs kept in the notebooks, execute none")
    arguments = parser.parse_args()
    scale = arguments.scale
    if arguments.kept:
        os.environ.pop("ALEXNET_RUNS", None)  # the outputs kept are those of the published records
    begun = time.perf_counter()
    try:
        if scale:
            train_study(scale)
        shown = scale or PUBLISHED_SCALE
        stage_pages(shown, own=scale is not None)
        stage_library()
        seconds = stage_notebooks(scale, kept=arguments.kept)
        write_status(shown, seconds)
        run_sphinx()
        check_pages()
    except StudyError as error:
        print(f"book: {error}", file=sys.stderr)
        return 1
    print(f"book: {len(list(PAGES.rglob('*.html')))} pages in {time.perf_counter() - begun:.0f} s; front page:")
    print(PAGES / "index.html")
    return 0


def train_study(scale: str) -> None:
    """Train what has no record at ``scale`` into a folder of its own, and point everything after it there."""
    os.environ["ALEXNET_RUNS"] = str(PROJECT / "build" / f"runs-{scale}")
    command = [sys.executable, "-m", "alexnet_lib", "run", "--scale", scale]
    if subprocess.run(command, cwd=PROJECT).returncode:
        raise StudyError(f"the study did not train at scale {scale}: see above; the same command goes on from there")


# --- What the pages are made of -----------------------------------------------------------------------------


def stage_pages(scale: str, *, own: bool) -> None:
    """Start the staging folder: pages, static files and data."""
    shutil.rmtree(STAGE, ignore_errors=True)
    (STAGE / "api").mkdir(parents=True)
    for page in [*BOOK.glob("*.md"), BOOK / "_toc.yml", BOOK / "references.bib"]:
        shutil.copy(page, STAGE)
    shutil.copytree(BOOK / "static", STAGE / "static")
    (STAGE / "static" / "mathjax").mkdir()
    shutil.copy(mathjax(), STAGE / "static" / "mathjax")

    config = yaml.safe_load((BOOK / "_config.yml").read_text())
    config["html"]["announcement"] = announcement(scale, records.read(scale=scale), own=own)
    if importlib.util.find_spec("triton") is None:  # which torch brings on Linux alone
        config["sphinx"]["config"]["autodoc_mock_imports"] = ["triton"]
    (STAGE / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))

    data = STAGE / "extra" / "data"
    (data / "runs").mkdir(parents=True)
    shutil.copy(PROJECT / "data" / "claims.yml", data)
    for file in sorted(records.runs_folder().glob("*.jsonl")):
        shutil.copy(file, data / "runs")
    claims.ledger(scale).to_csv(data / "ledger.csv", index=False)
    shutil.copytree(data, STAGE / "data")  # for links in Markdown, which Sphinx looks up beside the pages


def stage_library() -> None:
    """Write a page for every module, their list for the overview, and the page of the command line."""
    lines = []
    for source in sorted((PROJECT / "alexnet_lib").glob("[a-z]*.py")):
        name, text = source.stem, ast.get_docstring(ast.parse(source.read_text())) or ""
        directive = f"```{{eval-rst}}\n.. automodule:: alexnet_lib.{name}\n   :members:\n```"
        (STAGE / "api" / f"{name}.md").write_text(f"# {name}\n\n{directive}\n")
        summary = " ".join(text.partition("\n\n")[0].split())
        lines.append(f"- [{name}](api/{name}.md): {summary}")
    (STAGE / "_modules.txt").write_text("\n".join(lines) + "\n")
    (STAGE / "command_line.md").write_text(command_line_page())


def mathjax() -> Path:
    """Return MathJax in one file (SVG output, no fonts, no requests), from the package that carries it.

    The package's name has dashes, so it is found, not imported.
    """
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "static" / "mathjax" / "tex-svg-full.js"
        if file.is_file():
            return file
    raise StudyError("no MathJax: install the book's packages (make setup, or pip install sphinx-mathjax-offline)")


def announcement(scale: str, runs: list[dict[str, Any]], *, own: bool) -> str:
    """Return the line at the top of every page: which scale, and whose runs."""
    if not own:
        return f"Published runs, scale <b>{scale}</b>."
    dates = sorted(run["provenance"]["ended"][:10] for run in runs)
    when = f", {dates[-1]}" if dates else ""
    caveat = " (generated images: it shows that everything runs and tests no claim)" if scale == "smoke" else ""
    return f"Your own runs, scale <b>{scale}</b>{when}{caveat}."


def command_line_page() -> str:
    """Return the page with the help of every command."""
    parts = ["# The command line"]
    for command in ["", *COMMANDS]:
        title = f"## {command}" if command else "Every command explains itself."
        call = [sys.executable, "-m", "alexnet_lib", *([command] if command else []), "--help"]
        environment = os.environ | {"COLUMNS": "88"}
        result = subprocess.run(call, cwd=PROJECT, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise StudyError(f"{' '.join(call[1:])} failed: {result.stderr.strip()}")
        parts.append(f"{title}\n\n```text\n{result.stdout.strip()}\n```")
    return "\n\n".join(parts) + "\n"


# --- Notebooks ----------------------------------------------------------------------------------------------


def stage_notebooks(scale: str | None, *, kept: bool) -> dict[str, float]:
    """Put every notebook into the staging folder, executed or as ``kept``; return the seconds that executing took."""
    pages = {
        source: STAGE / ("index.ipynb" if source.stem == FRONT else source.name)
        for source in sorted(notebooks.FOLDER.glob("*.ipynb"))
    }
    if not pages:
        raise StudyError(f"no notebooks in {notebooks.FOLDER.name}/")
    seconds = {} if kept else execute_notebooks(pages, scale)
    for source, staged in pages.items():
        notebook = nbformat.read(source if kept else staged, as_version=4)
        prepare(notebook, source.stem, staged.name)
        nbformat.write(notebook, staged)
    return seconds


def execute_notebooks(pages: Mapping[Path, Path], scale: str | None) -> dict[str, float]:
    """Execute each notebook into its page and return the seconds that each took, by the notebook's name."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    parameters: dict[str, object] = {"scale": scale} if scale else {}
    seconds = {}
    # Most of a notebook's time is one thread importing torch, so they are executed side by side.
    with concurrent.futures.ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("spawn")) as pool:
        spent = pool.map(notebooks.execute, pages, pages.values(), [parameters] * len(pages))
        for source, took in zip(pages, spent, strict=True):
            print(f"book: {source.name} {took:.1f} s", flush=True)
            seconds[source.stem] = took
    return seconds


def prepare(notebook: Any, stem: str, page: str) -> None:
    """Fit an executed notebook into the book: links, hidden parameters, how to run it again.

    Raises:
        StudyError: a cell ended in an error, which Jupyter Book itself would print and let pass.
    """
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise StudyError(f"{stem}.ipynb: a cell failed")
    for part in (notebook, *notebook.cells):  # papermill's notes name folders of this machine
        for key in ("papermill", "execution"):
            part.metadata.pop(key, None)
    hidden: list[str] = []
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\(\.\./(book/)?", "](", cell.source).replace(f"({FRONT}.ipynb", "(index.ipynb")
        elif any(output.output_type == "error" for output in cell.outputs):
            raise StudyError(f"{stem}.ipynb: cell {number} ended in an error")
        if "parameters" in tags:
            hidden = [tag for tag in tags if tag.startswith(("remove-", "hide-"))]
        elif "injected-parameters" in tags:
            cell.metadata["tags"] = tags + hidden
    notebook.cells.append(nbformat.v4.new_markdown_cell(run_it_yourself(stem, page), id="run-it-yourself"))


def run_it_yourself(stem: str, page: str) -> str:
    """Return the section that ends every notebook's page."""
    return f"""## Run it yourself

<a href="_sources/{page}" download="{stem}.ipynb">Download this notebook</a> with the outputs of this
page. In a copy of the project, train what it needs at another scale and see it with those runs:

```bash
python -m alexnet_lib notebook {stem} --scale smoke
```

or with papermill, which takes the same parameters:

```bash
mkdir -p build && papermill notebooks/{stem}.ipynb build/{stem}.ipynb --cwd notebooks -p scale smoke
```
"""


# --- Status -------------------------------------------------------------------------------------------------


def write_status(scale: str, seconds: dict[str, float]) -> None:
    """Write the tables of the status page: this build, its notebooks, and the machines behind the records."""
    versions = [
        ("Python", platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in PACKAGES),
    ]
    here = [
        ("Processor", machine.cpu_model()),
        ("Cores", str(machine.cores())),
        ("System", f"{platform.system()} {platform.machine()}"),
        ("Commit of the book", short_commit(records.commit())),
        ("Built on", time.strftime("%Y-%m-%d")),
    ]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in records.read(scale=scale):
        groups[machine_of(run["provenance"])].append(run)
    tables = {
        "notebooks": table(["Notebook", "Seconds"], [(name, f"{value:.1f}") for name, value in seconds.items()])
        if seconds
        else "This build shows the outputs kept in the notebooks, and executed none.\n",
        "versions": table(["Package", "Version"], versions),
        "machine": table(["", "This build"], here),
        "records": table(
            [
                "Device",
                "Processor",
                "Vector unit",
                "Threads",
                "torch",
                "Runs",
                "Hours",
                "Outcomes",
                "Commits",
            ],
            [(*key, *summary(runs)) for key, runs in groups.items()],
        )
        if groups
        else f"There are no records at scale {scale}.\n",
        "costs": costs(scale),
    }
    for name, text in tables.items():
        (STAGE / f"_status_{name}.txt").write_text(text)


def short_commit(found: dict[str, Any]) -> str:
    """Return a commit as people write it."""
    if not found["commit"]:
        return "not under version control"
    return f"{found['commit'][:10]}{' with changes' if found['dirty'] else ''}"


def machine_of(provenance: dict[str, Any]) -> tuple[str, ...]:
    """Return what a record says about the machine that trained it."""
    return tuple(str(provenance[key]) for key in ("device", "cpu", "cpu_capability", "threads", "torch"))


def summary(runs: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Return number, hours, outcomes and commits of some runs."""
    spent = sum(map(records.seconds, runs))
    outcomes = Counter(run["outcome"].split(":")[0] for run in runs)
    commits = sorted({short_commit(run["provenance"]) for run in runs})
    return (
        str(len(runs)),
        f"{spent / 3600:.1f}",
        ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
        ", ".join(commits),
    )


def costs(scale: str) -> str:
    """Return what a scale's runs take on one core, by the epochs that each kind of CPU recorded."""
    units: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in records.read(scale=scale):
        if not records.on_gpu(run):
            units[run["provenance"]["cpu_capability"]].append(run)
    if not units:
        return f"There are no records of a CPU at scale {scale}.\n"

    def spent(recipes: list[Recipe], unit: str) -> str:
        hours, uncounted = runner.hours(recipes, units[unit], "cpu")
        if uncounted == len(recipes):
            return "not recorded"
        return f"{hours:.1f}" + (f", without {uncounted} runs" if uncounted else "")

    needed = experiments.needed(scale)
    needed["all"] = [recipe for recipes in needed.values() for recipe in recipes]
    rows = [(name, str(len(each)), *(spent(each, unit) for unit in sorted(units))) for name, each in needed.items()]
    return table(["Experiment", "Runs", *(f"Hours, {unit}" for unit in sorted(units))], rows)


def table(head: list[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Return an HTML table in a box of its own that scrolls."""
    cells = [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table class="table"><tr>{names}</tr>\n' + "\n".join(cells) + "\n</table></div>\n"


# --- Sphinx -------------------------------------------------------------------------------------------------


def run_sphinx() -> None:
    """Build the staged pages; any warning is an error."""
    shutil.rmtree(BOOK / "_build", ignore_errors=True)
    # jupyter-book adds colour and a greeting around Sphinx's own lines: shown only where something is wrong.
    start = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(STAGE)]
    command = [*start, "--path-output", str(BOOK), "-W", "-n", "--keep-going"]
    paths = os.pathsep.join([str(BOOK), *sys.path[1:]])  # finds study_docstrings
    result = subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        raise StudyError(f"Sphinx found something to complain about:\n{result.stdout}")


def check_pages() -> None:
    """Hold the pages against what was staged: a build that silently builds less must not pass."""
    sources = [p for p in STAGE.rglob("*") if p.suffix in (".md", ".ipynb") and "static" not in p.parts]
    expected = {p.relative_to(STAGE).with_suffix(".html").as_posix() for p in sources}
    missing = sorted(name for name in expected if not (PAGES / name).is_file())
    if missing:
        raise StudyError(f"{len(missing)} of {len(expected)} pages were not built: {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(main())
