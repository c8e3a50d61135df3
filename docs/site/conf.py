"""Sphinx builds the documentation from the Markdown files of the repository: `make docs`.

The pages are those that the repository shows by itself; nothing in them is for Sphinx only. Sphinx' source folder is the root
of the repository, so that a link leads to the same file in both. A link to a file that is no page becomes a download.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "executor")]

from docs.site.navigation import pages  # noqa: E402
from podrelay import __version__  # noqa: E402

project = "podrelay"
release = version = __version__
project_copyright = "The podrelay authors. Apache License 2.0"
html_title = f"podrelay {release}"

extensions = ["myst_parser", "docs.site.navigation", "docs.site.mermaid"]
root_doc = "README"
include_patterns = [f"{page}.md" for page in pages()]
exclude_patterns = [".*", "build", "dist", "**/__pycache__"]
# index.html, which leads to the first page.
html_extra_path = ["root"]

# Anchors as the repository's web view makes them, for headings of each level. A link to a missing one is an error (-W).
myst_heading_anchors = 6
myst_fence_as_directive = ["mermaid"]
nitpicky = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["podrelay.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"
