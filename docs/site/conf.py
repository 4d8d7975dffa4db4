"""The documentation as a site (`make docs`): the repository's own pages; their links are the same here and where the source is read."""

from pathlib import Path

from pygments.lexers.special import TextLexer

project = "Batchyard"
html_title = "Batchyard"
copyright = "the authors of Batchyard"
extensions = ["myst_parser"]
root_doc = "docs/site/contents"
include_patterns = ["*.md", "docs/*.md", "docs/decisions/*.md", "docs/site/contents.rst"]
myst_heading_anchors = 5
templates_path = ["templates"]
html_theme = "furo"
html_static_path = ["static", str(Path(__file__).parents[2] / ".venv-docs" / "mermaid.min.js")]
html_additional_pages = {"index": "index.html"}
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False


def _draw(app, page, template, context, doctree) -> None:
    """Give pages with diagrams what draws them."""
    if doctree is not None and any(block.get("language") == "mermaid" for block in doctree.findall() if block.tagname == "literal_block"):
        app.add_js_file("mermaid.min.js")
        app.add_js_file("diagrams.js")


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("html-page-context", _draw)
