"""README, tutorial, cookbook and the page of the command line are true: each is followed from top to bottom and does what it says."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import wait_for
from tests.docs import ordinary, pages
from tests.docs.pages import ROOT, SDK14_PYTHON, Step

from batchyard.cli import daemon, processes

pytestmark = pytest.mark.timeout(300)

PAGES = ["README.md", "docs/tutorial.md", "docs/cookbook.md", "docs/cli.md"]
BEGIN = Step(0, "batchyard up --nodes 4", "…\n")
"""Pages that start no server have one that runs."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for a reader and a state directory in it, whose server ends with it."""
    path = Path(tempfile.mkdtemp(prefix="batchyard-reader-"))
    path.chmod(0o755)
    yield path
    daemon.stop(path / "state")
    shutil.rmtree(path, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """What a reader's shell has: nothing of ours but the place of the state, and any port, since 8777 may be somebody else's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "BATCHYARD_"))}
    sdk14 = {SDK14_PYTHON: os.environ[SDK14_PYTHON]} if SDK14_PYTHON in os.environ else {}
    return {**kept, **sdk14, "HOME": str(home), "BATCHYARD_DIR": str(home / "state"), "BATCHYARD_PORT": "0"}


def follow(name: str, home: Path, *before: str) -> None:
    page = ROOT / name
    todo = pages.steps(page)
    if SDK14_PYTHON not in os.environ:
        todo = [step for step in todo if SDK14_PYTHON not in step.command]
    if not any(step.command.startswith("batchyard up") for step in todo):
        todo = [BEGIN, *todo]
    work = home / "work"
    work.mkdir()
    if before:
        for path in (home, work):
            os.chown(path, ordinary.UID, ordinary.UID)
    shown = pages.run(todo, environment(home), work, before=before)
    assert not (wrong := pages.false(shown, page)), "\n".join(wrong)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_true_from_top_to_bottom(name: str, home: Path) -> None:
    follow(name, home)


def test_the_readme_is_true_for_an_ordinary_user(home: Path) -> None:
    before = ordinary.become(ROOT, Path(os.environ.get(SDK14_PYTHON) or ROOT).parents[1])
    follow("README.md", home, *before)


PAGE = """
Text.

    true
    false

```console
$ echo a \\
> b
a b
$ echo c; sleep 0
d
```

<!-- file: x -->
```json
{}
```

```sh
test -e x
test -e y
```
"""


def test_what_is_not_true_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    wrong = pages.false(pages.run(pages.steps(page), os.environ, tmp_path), page)
    assert [each.splitlines()[0] for each in wrong] == ["page.md:5: $ false", "page.md:11: $ echo c; sleep 0", "page.md:22: $ test -e y"]


def test_a_block_that_says_nothing_of_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```json\n{}\n```\n")
    with pytest.raises(ValueError, match="line 2"):
        pages.steps(tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- not run: it is an example of what is stored -->\n```json\n{}\n```\n")
    assert pages.steps(tmp_path / "page.md") == []


def test_nothing_that_a_page_starts_outlives_it(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```console\n$ sleep 1000 > /dev/null 2>&1 & echo $! > pid\n```\n")
    pages.run(pages.steps(tmp_path / "page.md"), os.environ, tmp_path)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: processes.start_time(pid) is None, "the end of what the page started")
