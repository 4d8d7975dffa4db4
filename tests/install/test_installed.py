"""The wheels in empty environments: what a user has after `pip install`, as root and as somebody else, and with both of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_for
from tests.install.conftest import AGENT, AS_SOMEBODY, ROOT, SOMEBODY, Built, Place, interpreter, plain, run

import batchyard
from batchyard.cli import daemon, processes
from batchyard.cli.client import Client


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory; what runs below it is ended."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o711)
        yield Path(place)
        for state in (Path(place), Path(place, ".local", "share", "batchyard")):
            daemon.stop(state)
            for pid, started in list(processes.agents_below(state)):
                processes.end(pid, started, 5)


def who(name: str, home: Path, python: Path) -> dict[str, Any]:
    """How to start a command as this one, who then owns the home directory."""
    if name == "root":
        if os.geteuid() != 0:
            pytest.skip("only root is root")
        return {}
    if os.geteuid() != 0:
        return {}
    os.chown(home, SOMEBODY, SOMEBODY)
    if interpreter() == sys.executable and subprocess.run(["setpriv", *AS_SOMEBODY, "env", python, "-c", ""], check=False).returncode:
        pytest.skip("no Python here that another user may run")
    return {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": []}


def test_pip_finds_nothing_missing(place: Place) -> None:
    assert "No broken requirements" in place.pip("check").stdout
    assert not [name for name in place.files() if "sqlalchemy" in name.lower()]


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_command_line_says_its_version(place: Place, how: str) -> None:
    words = [place.script("batchyard")] if how == "script" else [place.python, "-m", "batchyard"]
    done = run(*words, "--version")
    assert (done.stdout, done.returncode) == (f"batchyard {batchyard.__version__}\n", 0)
    assert run(*words, "nonsense").returncode == 2


def test_every_module_is_there_with_what_it_imports(place: Place) -> None:
    code = (
        "import importlib, pkgutil, batchyard\n"
        "names = [found.name for found in pkgutil.walk_packages(batchyard.__path__, 'batchyard.')]\n"
        "missing = set()\n"
        "for name in names:\n"
        "    try:\n"
        "        name.endswith('__main__') or importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        missing.add(error.name)\n"
        "print(len(names), batchyard.__file__, *missing)"
    )
    done = run(place.python, "-I", "-c", code)
    assert done.returncode == 0, done.stderr
    number, file, *missing = done.stdout.split()
    assert missing == ["psycopg"], "what an extra brings, and nothing else"
    assert int(number) > 200
    assert file.startswith(str(place.path))


@pytest.mark.parametrize("user", ["root", "somebody"])
def test_the_first_minutes(place: Place, home: Path, user: str) -> None:
    """A server, a task, its output and the end, without any option that a newcomer would not know."""
    given = who(user, home, place.python)
    environment = plain(HOME=str(home), **({"BATCHYARD_DIR": str(home)} if user == "root" else {}))

    def batchyard_(*words: str) -> subprocess.CompletedProcess[str]:
        return run(place.script("batchyard"), *words, env=environment, cwd=home, **given)

    up = batchyard_("up", "--port", "0", "--nodes", "1")
    assert up.returncode == 0, up.stderr
    done = batchyard_("submit", "--nodes", "1", "--pool", "p", "-f", "--", "sh", "-c", "echo hello; id -u >&2")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    uid = int(done.stderr.split()[-1])
    assert (uid == SOMEBODY) == (user == "somebody" and os.geteuid() == 0)
    assert "1 pools" in (held := batchyard_("status").stdout) or "1 pool" in held
    down = batchyard_("down")
    assert down.returncode == 0, down.stderr
    assert batchyard_("status").returncode == 1


def test_the_manual_is_found_by_the_path(place: Place) -> None:
    if not shutil.which("man"):
        pytest.skip("there is no man")
    shown = run("man", "batchyard-submit", env=plain(PATH=f"{place.path}/bin:/usr/bin:/bin", MANPAGER="cat"))
    assert "--each-line FILE" in shown.stdout, shown.stderr


def test_the_completions_are_installed(place: Place) -> None:
    for shell, file in (
        ("bash", "share/bash-completion/completions/batchyard"),
        ("zsh", "share/zsh/site-functions/_batchyard"),
        ("fish", "share/fish/vendor_completions.d/batchyard.fish"),
    ):
        assert (place.path / file).read_text() == run(place.script("batchyard"), "completion", shell).stdout


@pytest.mark.parametrize("start", ["script", "module"])
def test_the_agent_alone_becomes_a_node(place: Place, agent_place: Place, home: Path, start: str) -> None:
    """It has none of the server's libraries, and asyncio for uvloop; it stages, runs, uploads and answers for files."""
    assert "No broken requirements" in agent_place.pip("check").stdout
    assert run(agent_place.python, "-c", "import batchyard").returncode == 1
    words: list[str | Path] = [agent_place.script("batchyard-agent")]
    if start == "module":
        words = [agent_place.python, "-m", "batchyard_agent"]
    assert run(*words, "--version").stdout == f"batchyard {batchyard.__version__}\n"
    assert "usage: batchyard-agent " in run(*words, "--help").stdout
    environment = plain(HOME=str(home), BATCHYARD_DIR=str(home))
    assert run(place.script("batchyard"), "up", "--port", "0", "--provider", "external", env=environment).returncode == 0
    server, account = daemon.running(home), daemon.account(home)
    assert server is not None
    submit = [place.script("batchyard"), "submit", "--nodes", "1", "--pool", "p", "--in", "given.txt", "--out", "kept.txt", "-f"]
    (home / "given.txt").write_text("given\n")
    asked = [str(word) for word in (*submit, "--", "cp", "-v", "given.txt", "kept.txt")]
    client = subprocess.Popen(asked, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    token = wait_for(lambda: next(home.glob("nodes/*/token"), None), "the token")
    node = [*map(str, words), "--server", server.url, "--root", str(home / "root"), "--token-file", str(token)]
    with (home / "agent.log").open("w") as log:
        agent = subprocess.Popen(node, env=plain(), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        out, err = client.communicate(timeout=80)
        assert (client.returncode, out) == (0, "'given.txt' -> 'kept.txt'\n"), err + (home / "agent.log").read_text()
        assert (home / "kept.txt").read_text() == "given\n"
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
        assert "uvloop" not in maps
        assert str(ROOT / "src") not in maps
        with Client(server.url, account.name, account.keys[0]) as batch:
            batch.delete("pools", "p")
        assert agent.wait(60) == 0
    finally:
        client.kill()
        agent.kill()
        agent.wait()


def test_both_can_be_installed_upgraded_and_removed_beside_each_other(built: Built, open_directory: Path) -> None:
    both = Place(open_directory / "both", ROOT)

    def works(name: str) -> bool:
        return run(both.script(name), "--version").stdout == f"batchyard {batchyard.__version__}\n"

    both.install(built.wheel)
    alone = both.files()
    both.install(built.agent_wheel)
    assert works("batchyard")
    assert works("batchyard-agent")
    both.pip("uninstall", "--yes", "batchyard-agent")
    assert both.files() == alone
    assert works("batchyard")
    both.install(built.agent_wheel)
    both.pip("install", "--no-index", "--no-compile", "--force-reinstall", "--no-deps", built.wheel)
    both.pip("uninstall", "--yes", "batchyard")
    assert works("batchyard-agent")
    left = {name for name in both.files() - alone if "batchyard_agent" not in name and "batchyard-agent" not in name}
    assert left == set()
    assert not [name for name in both.files() if "/site-packages/batchyard/" in name or "man1" in name]


def test_the_agent_refuses_a_program_that_has_batchyard_itself(built: Built, open_directory: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(AGENT / 'src')!r}); import batchyard, batchyard_agent; batchyard_agent.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "batchyard is imported already; its own agent is batchyard.agent.main" in done.stderr


def test_an_editable_agent_is_refused_with_what_to_do(tmp_path: Path) -> None:
    words = ["-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "--target", str(tmp_path), "--editable", str(AGENT)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install batchyard itself for development" in done.stdout + done.stderr
