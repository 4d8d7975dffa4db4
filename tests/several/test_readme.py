"""What the README says of more than one machine: its own lines, with names and places of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs import pages
from tests.docs.pages import ROOT, SDK14_PYTHON, Step

import postgres
from batchyard.cli import daemon

README = ROOT / "README.md"
BIN = Path(sys.executable).parent


def section() -> str:
    found = re.search(r"^## More than one machine\n(.*?)^##", README.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found[1]


def lines() -> list[str]:
    """The commands of the section, as they stand there."""
    return [line[4:] for line in section().splitlines() if line.startswith("    ")]


def test_it_is_short() -> None:
    assert len([line for line in section().splitlines() if line]) <= 25


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="batchyard-test-"))
    made.chmod(0o711)
    yield made
    for name in ("one", "two"):
        daemon.stop(made / name)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def location() -> Iterator[str]:
    made = postgres.fresh()
    yield made
    postgres.remove(made)


def environment(place: Path, machine: str) -> dict[str, str]:
    """What a shell on that machine has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "BATCHYARD_"))}
    sdk14 = {SDK14_PYTHON: os.environ[SDK14_PYTHON]} if SDK14_PYTHON in os.environ else {}
    return {**kept, **sdk14, "HOME": str(place), "BATCHYARD_DIR": str(place / machine), "BATCHYARD_PORT": "0"}


def run(place: Path, machine: str, *commands: Step | str) -> list[str]:
    """What commands print that are typed there."""
    todo = [each if isinstance(each, Step) else Step(0, each, None) for each in commands]
    work = place / f"work-{machine}"
    work.mkdir(exist_ok=True)
    shown = pages.run(todo, environment(place, machine), work)
    assert not (wrong := pages.false(shown, README)), "\n".join(wrong)
    return [each.printed for each in shown]


@contextlib.contextmanager
def joined(place: Path, line: str) -> Iterator[None]:
    """A third machine, on which the printed line is typed."""
    words = [str(BIN / "batchyard"), *line.split()[1:], "--home", str(place / "three")]
    with (place / "three.log").open("ab") as log:
        agent = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(place, "none"))
    try:
        yield
    finally:
        agent.terminate()
        agent.wait(60)


@pytest.mark.timeout(400)
def test_two_servers_a_joined_machine_and_both_sdks_over_https(place: Path, location: str) -> None:
    export, up, env, create, token, join = lines()
    export = export.replace("postgresql://batchyard@db.example.com/batch", f"'{location}'")
    up = up.replace("0.0.0.0", "127.0.0.1").replace("one.example.com", "localhost").replace("/srv/blobs", str(place / "blobs"))
    assert location in export
    for wanted in ("--tls auto", "127.0.0.1", "--name localhost", str(place / "blobs")):
        assert wanted in up
    for machine in ("one", "two"):
        run(place, machine, export, up)
    printed = run(place, "one", env, create, token)[-1]
    line = next(each for each in printed.splitlines() if each.startswith("batchyard join https://localhost:"))
    assert line.split()[:2] == join.split()[:2]
    assert line.split()[3].startswith("--token")
    programs = [step for step in pages.steps(README) if ".py <<" in step.command]
    if SDK14_PYTHON not in os.environ:
        programs = [step for step in programs if SDK14_PYTHON not in step.command]
    assert any("sdk15" in step.command for step in programs)
    with joined(place, line):
        said = run(place, "two", env, "echo $AZURE_BATCH_ENDPOINT", "batchyard submit --pool joined -f -- echo a third machine", *programs)
    assert said[1].startswith("https://localhost:")
    assert "a third machine" in said[2]
