"""What the command line costs: CPU of its start beyond a bare interpreter, rows a second of a list, beside `az` on the same server."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from table import Line

from server import Server

STARTS = 7
ROWS = 50_000
TASKS = 500
"""Of a submission whose output is shown or fetched."""
_COMMAND = [sys.executable, "-P", "-m", "batchyard.cli.main"]
_AZ_ROWS = 2_000


def lines(server: Server) -> Iterator[Line]:
    """Start costs of three commands and of an agent, and the rate of a list."""
    environment = {**os.environ, "BATCHYARD_DIR": str(server.directory)}
    environment = {name: value for name, value in environment.items() if not name.startswith("AZURE_")}
    bare = _cpu([sys.executable, "-P", "-c", "pass"], environment)
    _run(["job", "create", "rows", "--pool", "empty"], environment)
    for words in ("--help", "jobs", "submit --job rows -- true"):
        each = _cpu([*_COMMAND, *words.split()], environment) - bare
        yard = f"bare interpreter {bare:.3f} s"
        yield Line(f"batchyard {words}, CPU beyond it", f"{each:.3f} s", yard, value=each, goals=(0.15,), unit=" s", floor=False)
    agent = _cpu([sys.executable, "-P", "-m", "batchyard.agent.main", "--version"], environment)
    yield Line("start of an agent, CPU", f"{agent:.3f} s", yard, value=agent, goals=(0.3,), unit=" s", floor=False)
    _run(["submit", "--job", "rows", "--id", "row", "--array", f"1-{ROWS}", "--", "true"], environment)
    begun = time.monotonic()
    most = _memory(["task", "list", "rows", "-o", "jsonl"], environment)
    rate = ROWS / (time.monotonic() - begun)
    grown = most - _memory(["task", "list", "rows", "-o", "jsonl", "--limit", str(ROWS // 10)], environment)
    yield from _shown(server, environment)
    az = _az(server, environment)
    yard = f"az {az:,.0f}/s" if az else "no az"
    yield Line("task list -o jsonl", f"{rate:,.0f} rows/s", yard, rate / az if az else None, rate, (20_000.0,), " rows/s")
    name = f"its memory, from {ROWS // 10:,} rows to {ROWS:,}"
    yield Line(name, f"{grown:+.1f} MB", f"{most:.0f} MB in all", value=grown, goals=(4.0,), unit=" MB", floor=False)


def _shown(server: Server, environment: dict[str, str]) -> Iterator[Line]:
    """What it costs to show or to fetch what many short tasks write, beside waiting for them."""
    server.add_pool("shown", 1, 16)
    _run(["job", "create", "shown", "--pool", "shown"], environment)
    with tempfile.TemporaryDirectory() as into:
        ways = {"--wait": ["--wait"], "-f": ["-f"], "--out": ["--wait", "--out", "out.txt", "--out-dir", into]}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(3):
            for way, options in ways.items():
                begun = time.monotonic()
                id_ = f"{way.strip('-')}-{number}"
                command = ["sh", "-c", "echo out | tee out.txt"]
                _run(["submit", "--job", "shown", "--id", id_, "--array", f"1-{TASKS}", *options, "--", *command], environment)
                taken[way].append(time.monotonic() - begun)
    plain = min(taken["--wait"])
    for way in ("-f", "--out"):
        value = min(taken[way]) / plain
        yield Line(
            f"submit {way} of {TASKS} tasks by --wait", f"{value:.2f}", f"--wait {plain:.2f} s", value=value, goals=(1.3,), floor=False
        )


def _run(words: Sequence[str], environment: dict[str, str]) -> None:
    subprocess.run([*_COMMAND, *words], env=environment, check=True, stdout=subprocess.DEVNULL)


def _memory(words: Sequence[str], environment: dict[str, str]) -> float:
    """The most that a command held, in MB."""
    with subprocess.Popen([*_COMMAND, *words], env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return used.ru_maxrss / 1024


def _cpu(words: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of CPU of a process, the least of several."""
    used = []
    for _ in range(STARTS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(used)


def _az(server: Server, environment: dict[str, str]) -> float | None:
    """Rows a second of `az batch task list` over a shorter list; None where there is no az."""
    az = os.environ.get("BATCHYARD_AZ", "")
    if not Path(az).is_file():
        return None
    _run(["job", "create", "fewer", "--pool", "empty"], environment)
    _run(["submit", "--job", "fewer", "--id", "row", "--array", f"1-{_AZ_ROWS}", "--", "true"], environment)
    exports = subprocess.run([*_COMMAND, "env"], env=environment, check=True, capture_output=True, text=True).stdout
    words = ["sh", "-c", 'eval "$1"; exec "$2" batch task list --job-id fewer -o json', "sh", exports, az]
    begun = time.monotonic()
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    return _AZ_ROWS / (time.monotonic() - begun)
