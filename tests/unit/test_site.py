"""The documentation as a site: it builds without a warning, has every page, and a browser requests nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site.navigation import pages, sections

# Drawing the pictures alone takes seconds, and more on a busy machine.
pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).resolve().parents[2]
# What a browser loads by itself: element and attribute.
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}
ELSEWHERE = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
IN_A_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "--quiet",
        "--conf-dir",
        str(ROOT / "docs" / "site"),
    ]
    command += ["--doctree-dir", str(target.with_name("doctrees")), str(source), str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. A broken link or anchor anywhere fails here."""
    target: Path = tmp_path_factory.mktemp("site") / "html"
    built = build(ROOT, target)
    assert built.returncode == 0, built.stderr
    return target


class Loads(HTMLParser):
    """The addresses that a page makes a browser load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if (tag, name) in LOADED]
        self.addresses += [
            found for name, value in attrs if name == "style" for found in IN_A_STYLE.findall(value or "")
        ]


def loaded(site: Path) -> Iterator[tuple[str, str]]:
    for path in site.rglob("*"):
        if path.suffix == ".html":
            text = path.read_text("utf-8")
            yield from ((path.name, address) for address in [*Loads(text).addresses, *IN_A_STYLE.findall(text)])
        elif path.suffix in (".css", ".svg"):
            yield from ((path.name, address) for address in IN_A_STYLE.findall(path.read_text("utf-8")))


def test_every_page_is_built_and_found_by_the_search(site: Path) -> None:
    assert [page for page in pages() if not (site / f"{page}.html").is_file()] == []
    index = (site / "searchindex.js").read_text("utf-8")
    assert [page for page in pages() if f'"{page}"' not in index] == []
    assert "README.html" in (site / "index.html").read_text("utf-8")


def test_every_page_has_its_place_in_the_navigation() -> None:
    assert "More" not in sections(), "name these in docs/site/navigation.py"


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    found = list(loaded(site))
    assert {name for name, _ in found} >= {"README.html", "operations.html", "furo.css"}
    assert [(name, address) for name, address in found if ELSEWHERE.match(address)] == []


def test_what_a_page_loads_is_in_the_site(site: Path) -> None:
    for path in site.rglob("*.html"):
        for address in Loads(path.read_text("utf-8")).addresses:
            name = address.partition("?")[0].partition("#")[0]
            assert name.startswith("data:") or not name or (path.parent / name).exists(), (path.name, address)


def test_every_picture_is_drawn(site: Path) -> None:
    for page in pages():
        blocks = (ROOT / f"{page}.md").read_text("utf-8").count("\n```mermaid\n")
        assert (site / f"{page}.html").read_text("utf-8").count('<svg id="picture-') == blocks, page


MISTAKES = """\
# A page

[no page](docs/nothing.md), [no anchor](#nothing), [no anchor there](SECURITY.md#nothing)

```mermaid
flowchart LR
    a --> [
```
"""


def test_mistakes_of_a_page_fail_the_build(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(MISTAKES)
    (tmp_path / "SECURITY.md").write_text("# Another page\n")
    built = build(tmp_path, tmp_path / "out" / "html")
    assert built.returncode != 0
    for mistake in ("docs/nothing.md", "'nothing'", "in doc 'SECURITY'", "Mermaid: "):
        assert mistake in built.stderr, (mistake, built.stderr)
