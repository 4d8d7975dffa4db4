"""What starts Batchyard elsewhere: the systemd units, run as they are written but for their directory, and the Containerfile, read."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import wait_for
from tests.install.conftest import AGENT, ROOT, Place, plain

from batchyard.cli import daemon, grammar, homes, main, processes
from batchyard.cli.client import Client

SERVER_UNIT, AGENT_UNIT = ROOT / "packaging" / "batchyard.service", AGENT / "batchyard-agent.service"
CONTAINERFILE = ROOT / "packaging" / "Containerfile"


def unit(path: Path) -> configparser.ConfigParser:
    """A unit's settings; none of ours stands there twice."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def start_line(path: Path, place: Place, variables: dict[str, str]) -> list[str]:
    """The words that systemd would start, with the program where it is installed here."""
    text = unit(path)["Service"]["ExecStart"].replace(f"/opt/{path.stem}/", f"{place.path}/")
    return [re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word) for word in shlex.split(text)]


@pytest.fixture
def state() -> Iterator[Path]:
    """A StateDirectory; what runs below it is ended."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(int(unit(SERVER_UNIT)["Service"]["StateDirectoryMode"], 8))
        yield Path(place)
        daemon.stop(Path(place))
        for pid, started in list(processes.agents_below(Path(place))):
            processes.end(pid, started, 5)


def test_the_start_lines_of_both_units_work_together(place: Place, agent_place: Place, state: Path) -> None:
    words = start_line(SERVER_UNIT, place, {"STATE_DIRECTORY": str(state)})
    log = (state / "log").open("w")
    server = subprocess.Popen([*words, "--port", "0", "--provider", "external"], env=plain(), cwd="/", stdout=log, stderr=log)
    agent = None
    try:
        running = wait_for(lambda: server.poll() is None and daemon.running(state), "the server")
        assert running.pid == server.pid  # type: ignore[union-attr]
        account = daemon.account(state)
        with Client(running.url, account.name, account.keys[0]) as batch:  # type: ignore[union-attr]
            size = {"vmSize": homes.SIZE, "targetDedicatedNodes": 1}
            batch.post("pools", body={"id": "p", "virtualMachineConfiguration": homes.MACHINE, **size})
            token = wait_for(lambda: next(state.glob("nodes/*/token"), None), "the token")
            (state / "agent").mkdir(mode=int(unit(AGENT_UNIT)["Service"]["StateDirectoryMode"], 8))
            variables = {"BATCHYARD_SERVER": running.url, "STATE_DIRECTORY": str(state / "agent")}  # type: ignore[union-attr]
            words = start_line(AGENT_UNIT, agent_place, variables)
            words[words.index("--token-file") + 1] = str(token)
            agent = subprocess.Popen(words, env=plain(), cwd="/", stdout=log, stderr=log)
            wait_for(lambda: [one for one in batch.listed("pools", "p", "nodes") if one["state"] == "idle"], "the node")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        for process in (server, agent):
            if process is not None:
                process.kill()
                process.wait()
        log.close()


@pytest.mark.parametrize("path", [SERVER_UNIT, AGENT_UNIT], ids=lambda path: path.stem)
def test_systemd_takes_the_unit(path: Path, place: Place, agent_place: Place, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze")
    where = place if path == SERVER_UNIT else agent_place
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(f"/opt/{path.stem}/", f"{where.path}/"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, said) == (0, []), done.stderr
    assert (where.path / "share" / path.stem / path.name).read_text() == path.read_text()


@pytest.mark.parametrize("path", [SERVER_UNIT, AGENT_UNIT], ids=lambda path: path.stem)
def test_a_crash_of_the_unit_costs_no_task(path: Path) -> None:
    """What would end tasks beside the process that crashed, or one that took too much memory with all the others."""
    service = unit(path)["Service"]
    wanted = {"KillMode": "process", "OOMPolicy": "continue", "Delegate": "yes", "Restart": "on-failure"}
    assert {name: service[name] for name in wanted} == wanted


class Step(NamedTuple):
    """A line of the Containerfile."""

    stage: int
    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE))
    found, stage = [], 0
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        found.append(Step(stage, word, rest))
    return found


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out; the last pattern that matches decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        parts = [path.rsplit("/", cut)[0] for cut in range(path.count("/") + 1)]
        if line and not line.startswith("#") and any(fnmatch.fnmatch(part, pattern) for part in parts):
            out = not line.startswith("!")
    return out


def test_the_base_image_is_an_argument_of_every_stage() -> None:
    first, *rest = steps()
    assert (first.word, first.stage) == ("ARG", 0)
    assert first.rest.startswith("BASE=")
    stages = [step.rest for step in rest if step.word == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE} AS agent", "${BASE} AS server"]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK"}
    assert {step.word for step in rest} <= known


def test_what_the_containerfile_copies_is_there() -> None:
    copied = [step.rest.split() for step in steps() if step.word == "COPY"]
    own = [source for words in copied if not words[0].startswith("--") for source in words[:-1]]
    for source in own:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "README.md", "src", "packaging", *project["project"]["license-files"]}
    assert needed <= set(own)
    assert ignored("tests/conftest.py")
    assert ignored(".venv/bin/python")
    made = {place for step in steps() if step.word == "RUN" for place in re.findall(r"venv (\S+)", step.rest)}
    assert {words[1] for words in copied if words[0].startswith("--from=build")} == made


def test_what_the_containerfile_installs_is_there() -> None:
    for step in steps():
        if step.word == "RUN":
            make, _, install = step.rest.partition(" && ")
            place = make.removeprefix("python3 -m venv ")
            found = re.fullmatch(rf"{place}/bin/pip install --no-cache-dir --constraint (\S+) (\S+)", install)
            assert found, step.rest
            assert (ROOT / found[1]).is_file()
            assert (ROOT / found[2] / "pyproject.toml").is_file()


def test_what_the_containerfile_starts_is_there() -> None:
    scripts = {}
    for project in (ROOT, AGENT):
        known = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        scripts |= {f"/opt/{known['name']}/bin/{name}": name for name in known["scripts"]}
    entries = [(step.stage, json.loads(step.rest)) for step in steps() if step.word == "ENTRYPOINT"]
    assert [scripts[words[0]] for _, words in entries] == ["batchyard-agent", "batchyard"]
    server = entries[-1][0]
    words = {step.word: step.rest for step in steps() if step.stage == server}
    for text in (words["CMD"], words["HEALTHCHECK"].removeprefix("CMD ")):
        given = [word for word in json.loads(text) if word not in scripts]
        _, verb, rest = main.find(given)
        assert grammar.parse(verb, rest)
        if verb.name == "serve":
            assert rest[rest.index("--port") + 1] == words["EXPOSE"]
    assert words["ENV"].removeprefix("BATCHYARD_DIR=") == json.loads(words["VOLUME"])[0]
    assert os.fspath(daemon.default_directory())  # the variable that ENV sets is the one that is read
    assert "BATCHYARD_DIR" in Path(str(daemon.__file__)).read_text()
