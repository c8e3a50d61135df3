"""Which pages the documentation has, and their order. The start page is README.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
START = "README"
# Paths from the root of the repository, without `.md`.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("docs/install", "docs/architecture", "docs/options"),
    "Migrate": ("docs/migration", "docs/migration_celery", "docs/parity"),
    "Operate": (
        "docs/operations", "docs/routine", "docs/upgrade", "docs/troubleshooting", "docs/alerts", "docs/metrics", "docs/ui",
        "docs/warm-pods", "docs/sizing", "docs/redis", "docs/kubernetes", "docs/helm",
    ),
    "Judge": ("docs/security", "SECURITY", "docs/performance", "tests/benchmarks/results/two_builds",
              "tests/benchmarks/results/latest", "docs/chaos"),
    "Contribute": ("docs/contributing", "docs/releasing", "CHANGELOG"),
}  # fmt: skip


def sections() -> dict[str, list[str]]:
    """The sections of the navigation. A page of `docs/` that none of them names is under `More`."""
    found = {title: [page for page in names if (ROOT / f"{page}.md").is_file()] for title, names in SECTIONS.items()}
    named = {page for names in found.values() for page in names}
    others = [f"docs/{path.stem}" for path in sorted((ROOT / "docs").glob("*.md"))]
    found["More"] = [page for page in others if page not in named]
    return {title: names for title, names in found.items() if names}


def pages() -> list[str]:
    """Every page, the start page first."""
    return [START, *(page for names in sections().values() for page in names)]


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Sphinx takes the navigation from the start page, which must not show it in the repository."""
    if page == START:
        source[0] += "".join(_toctree(title, names) for title, names in sections().items())


def _toctree(title: str, names: list[str]) -> str:
    entries = "".join(f"/{name}\n" for name in names)
    if title == next(iter(SECTIONS)):
        entries = f"Start <self>\n{entries}"
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_navigation)
    return {"parallel_read_safe": True}
