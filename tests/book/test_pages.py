"""The built book, page by page: run after `python book/build.py`. The first half needs no browser."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
BOOK = PROJECT / "book"
ROOT = BOOK / "_build" / "html"
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.html") if "_static" not in p.parts)
GENERATED = ("genindex.html", "py-modindex.html", "search.html")
CODE = [page for page in PAGES if page.startswith("_modules")]
WRITTEN = [page for page in PAGES if page not in (*CODE, *GENERATED)]
CHROMIUM = shutil.which("chromium")

if not PAGES:
    pytest.skip("the book is not built: run `make book` first", allow_module_level=True)


class Page(HTMLParser):
    """What the tests ask of one page."""

    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self._skipped = 0
        self.feed((ROOT / name).read_text(encoding="utf-8"))
        self.shown = re.sub(r"\s+", " ", "".join(self.text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loads.append(str(found["href"]))
        if tag in ("script", "img", "iframe", "source", "video", "object") and (
            found.get("src") or found.get("data")
        ):
            self.loads.append(str(found.get("src") or found.get("data")))
        if tag == "img":
            self.images.append(found)
        self._skipped += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text.append(data)


@functools.cache
def parsed(name: str) -> Page:
    return Page(name)


def broken(page: str, link: str) -> bool:
    """Say whether a link of ``page`` leads nowhere inside the book; links to other sites are not followed."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto", "data", "javascript"):
        return False
    target = ((ROOT / page).parent / unquote(parts.path)).resolve() if parts.path else ROOT / page
    if not target.is_relative_to(ROOT) or not target.is_file():
        return True
    if not parts.fragment or target.suffix != ".html":
        return False
    return unquote(parts.fragment) not in parsed(target.relative_to(ROOT).as_posix()).ids


# --- Files alone --------------------------------------------------------------------------------------------


def test_every_notebook_and_page_of_the_sources_is_in_the_book() -> None:
    sources = [*(PROJECT / "notebooks").glob("*.ipynb"), *BOOK.glob("*.md")]
    expected = {("index" if p.stem == "00_ledger" else p.stem) + ".html" for p in sources}
    assert expected <= set(PAGES)


def test_every_module_has_an_api_page() -> None:
    modules = {p.stem for p in (PROJECT / "alexnet_lib").glob("*.py") if not p.stem.startswith("__")}
    assert {f"api/{module}.html" for module in modules} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(page: str) -> None:
    assert [link for link in parsed(page).links if broken(page, link)] == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    outside = [file for file in parsed(page).loads if urlsplit(file).scheme or file.startswith("//")]
    assert [file for file in outside if not file.startswith("data:")] == []
    assert [file for file in parsed(page).loads if file not in outside and broken(page, file)] == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_which_scale_and_whose_runs_they_show(page: str) -> None:
    assert re.search(r"(Published|Your own) runs, scale (smoke|laptop|gpu|imagenet)", parsed(page).shown)


@pytest.mark.parametrize("page", WRITTEN)
def test_figures_have_a_text_alternative(page: str) -> None:
    # Sphinx falls back to the file's name, which is no text.
    images = [image for image in parsed(page).images if "logo" not in str(image.get("class"))]
    assert [i["src"] for i in images if not i.get("alt") or re.search(r"\.(png|svg)$", str(i["alt"]))] == []


@pytest.mark.parametrize("page", WRITTEN)
def test_no_page_shows_an_error_or_a_path_of_the_build_machine(page: str) -> None:
    assert "Traceback (most recent call last)" not in parsed(page).shown
    assert str(PROJECT) not in (ROOT / page).read_text(encoding="utf-8")


def test_notebooks_can_be_downloaded_and_have_no_error_output() -> None:
    for source in (PROJECT / "notebooks").glob("*.ipynb"):
        page = "index" if source.stem == "00_ledger" else source.stem
        text = (ROOT / "_sources" / f"{page}.ipynb").read_text(encoding="utf-8")
        assert str(PROJECT) not in text
        notebook = json.loads(text)
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert outputs, f"{page}: nothing was executed"
        assert not [output for output in outputs if output["output_type"] == "error"]
        assert f"_sources/{page}.ipynb" in parsed(f"{page}.html").links
        assert f"alexnet_lib notebook {source.stem} --scale smoke" in parsed(f"{page}.html").shown


def test_the_front_page_lists_every_claim_with_a_verdict() -> None:
    claims = yaml.safe_load((PROJECT / "data" / "claims.yml").read_text(encoding="utf-8"))
    front = parsed("index.html")
    assert {claim["id"] for claim in claims} <= front.ids


def test_the_ledger_is_there_as_csv() -> None:
    claims = yaml.safe_load((ROOT / "data" / "claims.yml").read_text(encoding="utf-8"))
    with (ROOT / "data" / "ledger.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [claim["id"] for claim in claims]
    assert all(row["verdict"] for row in rows)


# --- In a browser -------------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(ROOT))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def view() -> Iterator[Any]:
    """Give one window for all pages, which keeps what they share: with a new one for each they take twice as long."""
    if CHROMIUM is None:
        pytest.skip(
            "no chromium on this machine (Debian: apt-get install chromium): pages not looked at in a browser"
        )
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(reduced_motion="reduce")
        page.add_init_script(UNTIL)
        yield page
        browser.close()


class Watch:
    """What a window loads from outside ``local`` addresses, and the errors it meets, while the block runs."""

    def __init__(self, view: Any, *local: str) -> None:
        self.view, self.local = view, (*local, "data:", "blob:")
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.handlers: dict[str, Any] = {
            "request": lambda r: None if r.url.startswith(self.local) else self.outside.append(r.url),
            "response": lambda r: self.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None,
            "pageerror": lambda error: self.errors.append(str(error)),
        }

    def __enter__(self) -> Watch:
        for event, handler in self.handlers.items():
            self.view.on(event, handler)
        return self

    def __exit__(self, *error: object) -> None:
        for event, handler in self.handlers.items():
            self.view.remove_listener(event, handler)


LOOKS = [("light", 1280), ("dark", 1280), ("dark", 360), ("light", 360)]


UNTIL = """window.until = async done => {
  for (const end = performance.now() + 10_000; !done() && performance.now() < end;)
    await new Promise(requestAnimationFrame);
}"""

# One call for all questions about a look or a page: each takes the browser a frame and more.
LOOKED_AT = """async scheme => {
  const root = document.documentElement;
  await until(() => root.dataset.theme === scheme);
  const wider = root.scrollWidth - root.clientWidth;
  // WCAG 2: relative luminance, and a contrast of 4.5 for text.
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const unreadable = [...document.querySelectorAll('.bd-article :is(p, td, th, li, .verdict, small)')]
    .filter(e => e.checkVisibility() && e.innerText.trim())
    .filter(e => contrast(luminance(getComputedStyle(e).color), luminance(ground(e))) < 4.5)
    .map(e => e.innerText.slice(0, 60)).slice(0, 5);
  return [root.dataset.theme, wider, unreadable];
}"""

DRAWN = """async () => {
  const count = selector => document.querySelectorAll(selector).length;
  const lacking = () => Math.max(0, count('.math') - count('mjx-container'));
  await until(() => lacking() === 0);
  const images = [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src);
  return [images, lacking(), count('mjx-merror'), count('.bd-article h1')];
}"""


# The pages of source code are alike: the largest stands for all.
@pytest.mark.parametrize("page", [*WRITTEN, *GENERATED, max(CODE, key=lambda page: (ROOT / page).stat().st_size)])
def test_page_in_a_browser(view: Any, address: str, page: str) -> None:
    look(view, *LOOKS[0])
    with Watch(view, address) as watch:
        view.goto(f"{address}/{page}", wait_until="load")
        no_images, no_formulas, wrong_formulas, headings = view.evaluate(DRAWN)
    assert (watch.outside, watch.errors) == ([], [])
    assert (no_images, no_formulas, wrong_formulas) == ([], 0, 0)
    assert page not in WRITTEN or headings == 1
    for scheme, width in LOOKS:
        look(view, scheme, width)
        theme, wider, unreadable = view.evaluate(LOOKED_AT, scheme)
        assert theme == scheme
        assert wider <= 0, f"{scheme}, {width} pixels: the page is {wider} pixels wider than the window"
        assert unreadable == [] or page in GENERATED, f"{scheme}, {width} pixels: text hard to tell from its ground"


def look(view: Any, scheme: str, width: int) -> None:
    view.emulate_media(color_scheme=scheme)
    view.set_viewport_size({"width": width, "height": 800})


def test_the_book_opens_from_the_file_system(view: Any) -> None:
    with Watch(view, "file:") as watch:
        view.goto((ROOT / "index.html").as_uri(), wait_until="load")
    assert view.locator(".bd-article h1").count() == 1
    assert (watch.outside, watch.errors) == ([], [])
