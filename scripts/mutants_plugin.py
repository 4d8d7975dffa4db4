"""pytest for scripts/mutants: once it has collected, each change is tried in a process forked for it, which imports and collects nothing.

`MUTANTS_ASKED` names a file: the changes with their tests in order, how many processes, until when, and where the verdicts go, a line each.
`MUTANTS_LINES` names one instead that takes the lines that each test runs through, and its seconds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import time
from collections import deque
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import coverage
import pytest
from _pytest.main import pytest_runtestloop as run_tests

FAILED, BROKE, TOO_LONG = 1, 3, 24


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Try every change, or write lines down, instead of only running the tests."""
    if "MUTANTS_LINES" in os.environ:
        _record(session, Path(os.environ["MUTANTS_LINES"]))
        return True
    asked = json.loads(Path(os.environ["MUTANTS_ASKED"]).read_text())
    items = {item.nodeid: item for item in session.items}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.collect()
    gc.freeze()
    waiting, running = deque(asked["changes"]), dict[int, dict[str, Any]]()
    with Path(asked["verdicts"]).open("a", buffering=1) as verdicts:
        try:
            while (waiting or running) and time.monotonic() < asked["until"]:
                while waiting and len(running) < asked["children"]:
                    change = waiting.popleft()
                    running[_start(session, change, items)] = change | {"until": time.monotonic() + change["limit_s"]}
                time.sleep(0.02)
                for pid, code in _ended(running).items():
                    verdicts.write(json.dumps({"name": running.pop(pid)["name"], "code": code}) + "\n")
        finally:
            for pid in running:
                _end(pid)
    return True


class _Contexts:
    """Says to the measurement which test runs, and notes how long each one takes that passes."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._measured.switch_context(item.nodeid)
        begun, failed = time.monotonic(), item.session.testsfailed
        done = yield
        if item.session.testsfailed == failed:
            self.seconds[item.nodeid] = time.monotonic() - begun
        return done


def _record(session: pytest.Session, place: Path) -> None:
    """Run the tests and write down who runs through which line."""
    measured = coverage.Coverage(data_file=None, include=["src/batchyard/*"], config_file=False)
    measured.start()
    contexts = _Contexts(measured)
    session.config.pluginmanager.register(contexts)
    run_tests(session)
    measured.stop()
    data = measured.get_data()
    lines = {
        os.path.relpath(file): {line: [test for test in tests if test] for line, tests in data.contexts_by_lineno(file).items()}
        for file in data.measured_files()
    }
    place.write_text(json.dumps({"lines": lines, "seconds": contexts.seconds}))


def _start(session: pytest.Session, change: Mapping[str, Any], items: Mapping[str, pytest.Item]) -> int:
    pid = os.fork()
    if not pid:
        _try(session, change["name"], [items[name] for name in change["tests"] if name in items])
    return pid


def _try(session: pytest.Session, name: str, tests: list[pytest.Item]) -> NoReturn:
    code = BROKE
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        os.environ["MUTANT_UNDER_TEST"] = name
        session.items = tests
        run_tests(session)
        code = FAILED if session.testsfailed else 0
    except session.Failed:
        code = FAILED
    finally:
        os._exit(code)


def _ended(running: Mapping[int, Mapping[str, Any]]) -> dict[int, int]:
    """Processes that ended, or ran for too long, and what came of them."""
    found = dict[int, int]()
    for pid, change in running.items():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found[pid] = os.waitstatus_to_exitcode(status)
            _end(pid)
        elif time.monotonic() > change["until"]:
            _end(pid)
            os.waitpid(pid, 0)
            found[pid] = TOO_LONG
    return found


def _end(pid: int) -> None:
    """End what is left of a try, with all that its tests started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
