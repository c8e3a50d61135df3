"""Draws the pictures of the pages as SVG while Sphinx builds: no script draws them in the browser, and none is downloaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import mmdr
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class Mermaid(SphinxDirective):
    """A block in the language of Mermaid. A mistake in it is an error of the build."""

    has_content = True
    option_spec = {"alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        try:
            return [nodes.raw("", draw(text, f"picture-{self.env.new_serialno('mermaid')}"), format="html")]
        except Exception as error:
            raise self.error(f"Mermaid: {error}") from error


def draw(text: str, identifier: str) -> str:
    """A picture as inline SVG. A page is high and narrow, so a chart that runs to the right runs down here.

    :raises RuntimeError: the text is not a picture in Mermaid's language.
    """
    drawn: Any = mmdr.render(re.sub(r"\Aflowchart LR", "flowchart TB", text))
    svg: str = drawn.svg()
    return f'<div class="picture">{svg.replace("merman", identifier)}</div>'


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True}
