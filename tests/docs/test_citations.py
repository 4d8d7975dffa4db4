"""What the code and the documents cite leads somewhere in this repository (decision D23)."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CITED = re.compile(r"\b(contract|clients(?:\.md)?)(?:\]\([^)]*\))? ((?:sections? )?[A-E0-9][.\d]*(?:(?:,| and) [A-E0-9][.\d]*)*)")
DECISIONS = re.compile(r"\bD(\d{1,2})\b")
NOTES = re.compile(r"\b(?:decision|note) (\d{1,4})\b|decisions/(\d{4})\b")
LINKS = re.compile(r"\]\(([^)#\s]+\.md)\)")


def texts() -> Iterator[tuple[str, str]]:
    """Path and text of every tracked file of ours that may cite something."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name.endswith((".py", ".md", ".sql")) and (ROOT / name).is_file() and not name.endswith(Path(__file__).name):
            yield name, (ROOT / name).read_text()


def headings(document: str) -> set[str]:
    """The numbers of a document's sections."""
    return {
        m[1].rstrip(".") for m in re.finditer(r"^#+ ([A-E]?\.?\d*(?:\.\d+)*)[. ]", (ROOT / "docs" / document).read_text(), re.M) if m[1]
    }


def sections_cited() -> Iterator[tuple[str, str, str]]:
    for name, text in texts():
        for match in CITED.finditer(text):
            document = "contract.md" if match[1] == "contract" else "clients.md"
            for part in re.findall(r"[A-E](?:\.\d+)?|\d+(?:\.\d+)*", match[2]):
                yield name, document, part


def test_every_cited_section_is_there() -> None:
    known = {document: headings(document) for document in ("contract.md", "clients.md")}
    cited = list(sections_cited())
    assert len(cited) > 100, "the pattern finds too little"
    assert [c for c in cited if c[2] not in known[c[1]]] == []


def test_every_cited_decision_is_in_the_architecture() -> None:
    known = {m[1] for m in re.finditer(r"^\| D(\d+) \|", (ROOT / "docs/architecture.md").read_text(), re.M)}
    cited = [(name, m[1]) for name, text in texts() if name.startswith(("src/", "tests/", "bench/")) for m in DECISIONS.finditer(text)]
    assert cited, "the pattern finds nothing"
    assert [c for c in cited if c[1] not in known] == []


def test_every_cited_note_is_there() -> None:
    known = {int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    cited = [(name, int(m[1] or m[2])) for name, text in texts() for m in NOTES.finditer(text)]
    assert cited, "the pattern finds nothing"
    assert [c for c in cited if c[1] not in known] == []


@pytest.mark.parametrize("document", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]))
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    links = [link for link in LINKS.findall(path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
