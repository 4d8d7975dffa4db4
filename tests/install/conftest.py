"""The distributions as they would be uploaded, built once per run, and environments that they are installed into without a network."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "packaging" / "agent"


SOMEBODY = 64_321
"""A uid that no account has."""
AS_SOMEBODY = (f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups")


class Built(NamedTuple):
    """What `python -m build` made of both projects; each wheel from its sdist."""

    directory: Path
    wheel: Path
    sdist: Path
    agent_wheel: Path
    agent_sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions; the workers of a run share them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = shared / "dist"
    with (shared / "dist.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            made = shared / "dist.new"
            for project in (ROOT, AGENT):
                command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(project)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
            made.rename(directory)
    found = (next(directory.glob(name)) for name in ("batchyard-*.whl", "batchyard-*.gz", "batchyard_agent-*.whl", "batchyard_agent-*.gz"))
    return Built(directory, *found)


def needed(*names: str) -> dict[str, Distribution]:
    """Distributions and all that they need here, as they are installed beside the tests. Extras are not followed."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found[name] = distribution(name)
            wishes = [wish.partition(";") for wish in found[name].requires or ()]
            waiting += [re.match(r"[\w.-]+", wish)[0] for wish, _, marker in wishes if _wanted(marker)]  # type: ignore[index]
    return found


def _wanted(marker: str) -> bool:
    from packaging.markers import Marker

    return not marker or Marker(marker).evaluate({"extra": ""})


def wishes(project: Path) -> list[str]:
    """The names of what a project depends on."""
    import tomllib

    given = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.match(r"[\w-]+", wish)[0] for wish in given]  # type: ignore[index]


def _same(file: str, target: Path) -> None:
    """The same file once more; pip replaces files and never writes into one."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


@functools.cache
def interpreter() -> str:
    """The Python of these tests, or the system's of the same version where nobody else may run that one."""
    system = "/usr/bin/python{}.{}".format(*sys.version_info)
    for python in (sys.executable, system):
        if os.geteuid() != 0 or not subprocess.run(["setpriv", *AS_SOMEBODY, "env", python, "-c", ""], capture_output=True).returncode:
            return python
    return sys.executable


class Place:
    """A virtual environment that has what a project depends on, and nothing else; not even pip."""

    def __init__(self, path: Path, *projects: Path) -> None:
        self.path = path
        subprocess.run([interpreter(), "-m", "venv", "--without-pip", str(path)], check=True)
        site = next(path.glob("lib/python3*/site-packages"))
        for found in needed(*(name for project in projects for name in wishes(project))).values():
            for file in found.files or ():
                if ".." not in file.parts:  # scripts, which nobody calls
                    target = site / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _same(str(found.locate_file(file)), target)

    def pip(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run pip for this environment, without any index."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, *wheels: Path) -> None:
        """Install wheels; pip refuses when something that they need is missing."""
        self.pip("install", "--no-index", "--no-compile", *wheels)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    def script(self, name: str) -> Path:
        """One of its commands."""
        return self.path / "bin" / name

    def files(self) -> set[str]:
        """All that is in it but compiled modules."""
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file() and file.suffix != ".pyc"}


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.fixture(scope="session")
def place(built: Built, open_directory: Path) -> Place:
    """An environment with batchyard installed from its wheel."""
    made = Place(open_directory / "batchyard", ROOT)
    made.install(built.wheel)
    return made


@pytest.fixture(scope="session")
def agent_place(built: Built, open_directory: Path) -> Place:
    """An environment with the agent alone."""
    made = Place(open_directory / "agent", AGENT)
    made.install(built.agent_wheel)
    return made


def run(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """A command in a plain environment, to its end."""
    given = {"capture_output": True, "text": True, "timeout": 90, "check": False, "env": plain(), "cwd": "/", **more}
    return subprocess.run([str(word) for word in words], **given)  # type: ignore[call-overload, no-any-return]


def plain(**more: str) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "LANG": "C.UTF-8", **more}
