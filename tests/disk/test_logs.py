"""Logs on a disk that is full, behind a pipe that nobody reads, and with values that cannot be shown: never an exception."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SmallDisk

from batchyard.disk.logs import Sink

SCRIPT = """
import asyncio, logging, os, sys, threading, warnings
import structlog
log = structlog.get_logger()
from batchyard.disk import logs
logs.begin()

class Odd:
    def __repr__(self):
        raise OSError(28, "No space left on device")

def everything():
    log.info("structlog", path="\\udcff\\u2603")
    log.warning("odd", value=Odd())
    logging.getLogger("library").error("library %s", "said")
    logging.getLogger("library").error("wrong %d", "number")
    print("printed"), sys.stderr.write("written\\n"), sys.stdout.flush(), sys.stderr.flush()
    warnings.warn("warned")
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        log.exception("failed")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

async def loop():
    asyncio.get_running_loop().call_exception_handler({"message": "in the loop"})

for line in sys.stdin:
    everything()
    asyncio.run(loop())
    os.write(int(sys.argv[1]), b".")
"""


def begun(output: int) -> tuple[subprocess.Popen[str], int]:
    """A process that logs in every way whenever it gets a line, and a descriptor that tells when it has."""
    done, tell = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tell)], stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[tell], text=True
    )
    os.close(tell)
    return child, done


def go(child: subprocess.Popen[str], done: int) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    assert os.read(done, 1) == b"."


def end(child: subprocess.Popen[str], done: int) -> None:
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(30) == 0
    os.close(done)


def test_a_full_disk_costs_lines_and_nothing_else(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(4 << 20)
    path = disk.path / "log"
    with path.open("ab") as output:
        child, done = begun(output.fileno())
    go(child, done)
    said = path.read_text()
    for words in (
        "structlog",
        "library said",
        "printed",
        "written",
        "warned",
        "failed",
        "No space left",
        "ZeroDivisionError",
        "in the loop",
    ):
        assert words in said, words
    for _ in range(2):
        disk.fill()
        for _ in range(30):
            go(child, done)
        torn = path.stat().st_size
        disk.relieve()
        go(child, done)
        written = path.read_bytes()
        after = written[torn:]
        assert b" writes to this log were lost\n" in after
        assert after.index(b"were lost") < after.index(b"event='structlog'")
        assert b"\n" in (written[torn - 1 : torn], after[:1]), "a line begins at the beginning of one"
    end(child, done)


def test_a_disk_that_is_full_at_the_end_is_no_exit_code(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(1 << 20)
    disk.fill()
    with (disk.path / "ballast").open("ab") as output:
        child, done = begun(output.fileno())
    go(child, done)
    end(child, done)


def test_a_pipe_that_nobody_reads_any_more(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    child, done = begun(theirs)
    os.close(theirs)
    os.close(ours)
    go(child, done)
    end(child, done)


@pytest.mark.parametrize("closed", [False, True])
def test_a_sink_counts_what_it_loses(tmp_path: Path, closed: bool) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink = Sink(descriptor)
    assert (sink.write("one\n"), sink.lost) == (4, 0)
    os.close(descriptor) if closed else os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
    for number in range(1, 4):
        assert (sink.write("lost\n"), sink.lost) == (5, number)
    os.dup2(os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND), descriptor)
    sink.write("two\n")
    assert sink.lost == 0
    assert "one\n" in (text := (tmp_path / "log").read_text())
    assert text.endswith("3 writes to this log were lost\ntwo\n")
    os.close(descriptor)
