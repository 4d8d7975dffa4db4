"""The built site (make docs): every link and anchor leads somewhere, nothing comes from elsewhere, every page is reached and searched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PAGES = [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]]
NAVIGATION = (ROOT / "docs" / "site" / "contents.rst").read_text("utf-8")


class Page(HTMLParser):
    """What a page links to, what it loads, and what in it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note them."""
        for name, value in attrs:
            if name == "id" and value:
                self.names.add(value)
            elif name == "href" and value and tag == "a":
                self.links.append(value)
            elif value and ((name == "src") or (name == "href" and tag == "link")):
                self.loads.append(value)


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    """All its pages."""
    if not SITE.exists():
        pytest.fail("there is no site: make docs")
    return {path: Page(path) for path in SITE.rglob("*.html")}


@pytest.mark.site
def test_every_link_leads_somewhere(site: dict[Path, Page]) -> None:
    dead = []
    for path, page in site.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme:
                continue
            known = site[target].names | {"", "top"} if target in site else None
            if not target.exists() or (known is not None and unquote(parts.fragment) not in known):
                dead.append((path.relative_to(SITE).as_posix(), link))
    assert dead == []


@pytest.mark.site
def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    assert [load for page in site.values() for load in page.loads if urlsplit(load).scheme] == []
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text("utf-8")), style


@pytest.mark.site
def test_what_draws_diagrams_comes_with_the_pages_that_have_some(site: dict[Path, Page]) -> None:
    for path, page in site.items():
        draws = any("mermaid" in load for load in page.loads)
        assert draws == ("highlight-mermaid" in path.read_text("utf-8")), path
    assert (SITE / "_static" / "mermaid.min.js").stat().st_size > 1_000_000


@pytest.mark.site
def test_every_page_is_built_and_searched(site: dict[Path, Page]) -> None:
    text = (SITE / "searchindex.js").read_text("utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    assert {page.with_suffix("").as_posix() for page in PAGES} <= set(index["docnames"])
    found = index["terms"]["cookbook"]
    assert index["docnames"].index("README") in (found if isinstance(found, list) else [found])


def test_every_page_has_a_place_in_the_navigation() -> None:
    named = set(re.findall(r"^   (?:.*<)?/([\w/.-]+?)>?$", NAVIGATION, re.MULTILINE))
    by_pattern = re.compile(r"docs/decisions/0.*|[^/R][^/]*")
    assert [page for page in PAGES if (name := page.with_suffix("").as_posix()) not in named and not by_pattern.fullmatch(name)] == []
