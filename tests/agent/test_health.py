"""What an agent finds wrong with its node, and when it says so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import wait_for

from batchyard.agent.health import health
from batchyard.agent.health.health import FAILED, FULL, NEARLY, RESERVED_BYTES, RESERVED_INODES, Disk, Probe
from batchyard.agent.main import run
from batchyard.agent.settings import AgentSettings
from batchyard.agent.state import State
from batchyard.model.sync import NodeProblem, Orders

MB, GB = 10**6, 10**9
ROOMY = 10**7


def codes(found: list[NodeProblem]) -> list[tuple[str, str, bool]]:
    return [(problem.code, problem.details["Name"], problem.blocking) for problem in found]


@pytest.mark.parametrize(
    ("disk", "expected"),
    [
        (Disk(100 * GB, 50 * GB, ROOMY, ROOMY), []),
        (Disk(100 * GB, 5 * GB, ROOMY, ROOMY), []),
        (Disk(100 * GB, 5 * GB - 1, ROOMY, ROOMY), [(NEARLY, "bytes", False)]),
        (Disk(10 * GB, 2 << 30, ROOMY, ROOMY), []),
        (Disk(10 * GB, (2 << 30) - 1, ROOMY, ROOMY), [(NEARLY, "bytes", False)]),
        (Disk(100 * GB, RESERVED_BYTES, ROOMY, ROOMY), [(NEARLY, "bytes", False)]),
        (Disk(100 * GB, RESERVED_BYTES - 1, ROOMY, ROOMY), [(FULL, "bytes", True)]),
        (Disk(100 * GB, 0, ROOMY, ROOMY), [(FULL, "bytes", True)]),
        (Disk(100 * GB, 50 * GB, ROOMY, ROOMY // 20 - 1), [(NEARLY, "inodes", False)]),
        (Disk(100 * GB, 50 * GB, ROOMY, RESERVED_INODES - 1), [(FULL, "inodes", True)]),
        (Disk(100 * GB, 50 * GB, 0, 0), []),
        (Disk(100 * GB, 0, ROOMY, 0), [(FULL, "bytes", True), (FULL, "inodes", True)]),
    ],
)
def test_disks(disk: Disk, expected: list[tuple[str, str, bool]]) -> None:
    assert codes(health.of_disk(disk)) == expected


@pytest.mark.parametrize(
    ("before", "free", "expected"),
    [
        ([], RESERVED_BYTES, NEARLY),
        ([f"{FULL} bytes"], RESERVED_BYTES, FULL),
        ([f"{FULL} bytes"], RESERVED_BYTES * 5 // 4, NEARLY),
        ([f"{FULL} inodes"], RESERVED_BYTES, NEARLY),
        ([], 5 * GB, None),
        ([f"{NEARLY} bytes"], 5 * GB, NEARLY),
        ([f"{NEARLY} bytes"], 7 * GB, None),
    ],
)
def test_a_disk_that_was_full_is_mended_only_when_there_is_clearly_more_room(before: list[str], free: int, expected: str | None) -> None:
    found = health.of_disk(Disk(100 * GB, free, 0, 0), before)
    assert [problem.code for problem in found] == ([] if expected is None else [expected])


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**10), st.integers(0, 10**10))
def test_less_room_is_never_better(size: int, free: int, inodes: int, free_inodes: int) -> None:
    worse, better = (health.of_disk(Disk(size, left, inodes, free_inodes)) for left in (free // 2, free))
    assert sum(problem.blocking for problem in worse) >= sum(problem.blocking for problem in better)
    assert len(worse) >= len(better)
    assert all(problem.blocking == (problem.code == FULL) for problem in worse)


def test_probes() -> None:
    [bad, unjudged] = health.of_probes([Probe("gpu", 3, "no device"), Probe("net", 0, "fine"), Probe("scratch", None, "it did not end")])
    assert (bad.code, bad.blocking, bad.details) == (FAILED, True, {"Name": "gpu", "ExitCode": "3"})
    assert bad.message == "The probe gpu ended with 3: no device"
    assert unjudged.message == "The probe scratch gave no verdict: it did not end"
    assert unjudged.details == {"Name": "scratch"}


def problem(name: str, message: str = "") -> NodeProblem:
    return NodeProblem(code=FAILED, message=message, details={"Name": name})


@pytest.mark.parametrize(
    ("told", "found", "since_s", "expected"),
    [
        ([], [], 1e9, False),
        ([], [problem("a")], 0, True),
        ([problem("a")], [], 0, True),
        ([problem("a")], [problem("b")], 0, True),
        ([problem("a"), problem("b")], [problem("b"), problem("a")], 1e9, False),
        ([problem("a", "no device")], [problem("a", "no driver")], 59, False),
        ([problem("a", "no device")], [problem("a", "no driver")], 60, True),
        ([problem("a", "no device")], [problem("a", "no device")], 1e9, False),
    ],
)
def test_what_is_worth_telling(told: list[NodeProblem], found: list[NodeProblem], since_s: float, expected: bool) -> None:
    assert health.worth_telling(told, found, since_s) is expected


def test_the_sample_is_that_of_the_file_system(place: Path) -> None:
    seen = health.sample(str(place))
    assert 0 <= seen.free_bytes <= seen.bytes
    assert 0 <= seen.free_inodes <= max(seen.inodes, seen.free_inodes)


@pytest.fixture
def probe(place: Path) -> Callable[..., Path]:
    """Writes one of the operator's programs."""

    def write(name: str, script: str, mode: int = 0o755) -> Path:
        (place / "probes").mkdir(exist_ok=True, mode=0o755)
        path = place / "probes" / name
        new = place / "new"
        new.write_text(script)
        new.chmod(mode)
        new.replace(path)  # at once: one that is written while it runs would be `text file busy`
        return path

    return write


def judged(path: Path, seconds: float = 20) -> Probe:
    return health.run_probe(str(path.parent), path.name, str(path.parent), seconds)


def test_a_probe_is_judged_by_its_exit_code_and_its_last_line(probe: Callable[..., Path]) -> None:
    assert judged(probe("a", "#!/bin/sh\necho fine\n")) == Probe("a", 0, "fine")
    assert judged(probe("b", "#!/bin/sh\necho first\necho 'no device' >&2\necho\nexit 3\n")) == Probe("b", 3, "no device")
    assert judged(probe("c", "#!/bin/sh\nkill -9 $$\n")) == Probe("c", 137, "")
    assert judged(probe("d", "#!/bin/sh\nprintf 'a\\033[1mb\\377'; exit 1\n")).text == "a [1mb�"
    assert judged(probe("e", "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x; exit 1\n")).text == "x" * 300
    assert judged(probe("f", '#!/bin/sh\n[ "$AZ_BATCH_NODE_ROOT_DIR" ] && [ -z "$HOME" ]\n')).code == 0


def test_a_probe_that_cannot_be_run_gives_no_verdict(probe: Callable[..., Path]) -> None:
    assert judged(probe("a", "\0")).code is None
    assert judged(probe("b", "#!/does/not/exist\n")).text.endswith("No such file or directory: '" + str(probe("b", "")) + "'")
    open_to_all = judged(probe("c", "#!/bin/sh\n", 0o777))
    assert (open_to_all.code, "write" in open_to_all.text) == (None, True)
    path = probe("d", "#!/bin/sh\n")
    path.parent.chmod(0o777)
    assert judged(path).code is None


def test_a_probe_that_does_not_end_is_ended_with_what_it_started(probe: Callable[..., Path], alive: Callable[[int], bool]) -> None:
    path = probe("a", "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! > \"$AZ_BATCH_NODE_ROOT_DIR/pid\"\nwait\n")
    seen = judged(path, 0.3)
    assert (seen.code, seen.text) == (None, "it did not end within 0.3 s")
    wait_for(lambda: not alive(int((path.parent / "pid").read_text())), "what it started to end")


def test_of_a_talkative_probe_only_the_end_is_kept(probe: Callable[..., Path]) -> None:
    talks = probe("a", "#!/bin/sh\nhead -c 10000000 /dev/zero\necho\nstat -L -c %s /proc/$$/fd/1\n")
    seen = judged(talks)
    assert (seen.code, seen.text) == (0, "0"), "what has been printed takes so many bytes"
    assert judged(probe("b", "#!/bin/sh\nexec yes\n"), 0.3) == Probe("b", None, "it did not end within 0.3 s")


def test_a_probe_ends_with_its_first_process_whoever_still_holds_its_output(probe: Callable[..., Path]) -> None:
    assert judged(probe("a", "#!/bin/sh\nsleep 3 &\necho fine\n"), 2) == Probe("a", 0, "fine")
    assert judged(probe("b", "#!/bin/sh\nexec >&- 2>&-\nexit 3\n")) == Probe("b", 3, "")


def test_only_programs_are_probes(probe: Callable[..., Path], place: Path) -> None:
    path = probe("b", "#!/bin/sh\n")
    probe("a", "#!/bin/sh\n")
    probe("notes", "no program", 0o644)
    (path.parent / "directory").mkdir()
    assert health.programs(str(path.parent)) == ["a", "b"]


async def test_a_directory_of_probes_that_cannot_be_read_is_a_problem(place: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        found = await health.Health(str(place), str(place / "missing"), threads, list, asyncio.Event()).look()
    [failed] = [problem for problem in found if problem.code == FAILED]
    assert failed.message == f"The probe missing gave no verdict: {place}/missing: No such file or directory"


async def test_problems_are_told_at_the_join_and_then_only_when_they_change(
    server: Any, settings: AgentSettings, probe: Callable[..., Path]
) -> None:
    directory = probe("gpu", "#!/bin/sh\necho no device\nexit 1\n").parent
    agent = asyncio.create_task(run(replace(settings, probes=str(directory), health_s=0.02)))
    try:
        await server.until(lambda: server.session)
        assert [problem.message for problem in server.syncs[0].problems if problem.code == FAILED] == [
            "The probe gpu ended with 1: no device"
        ]
        probe("gpu", "#!/bin/sh\nexit 0\n")
        told = await server.until(lambda: [sync for sync in server.syncs[1:] if sync.problems is not None])
        assert [problem for problem in told[0].problems if problem.code == FAILED] == []
        session = server.session
        server.session += 1  # fences the agent off
        server.change()
        joined = await server.until(lambda: [sync for sync in server.syncs if sync.session == 0][1:])
        assert joined[0].problems == told[0].problems
        await server.until(lambda: server.session == session + 2)
        assert all(abs(sync.clock - time.time() * 1e6) < 60e6 for sync in server.syncs)
    finally:
        agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await agent


def test_a_list_of_problems_is_repeated_until_it_was_acknowledged() -> None:
    state = State()
    join = state.say()
    assert join.problems == []
    assert b'"problems":[]' in msgspec.json.encode(join)
    state.hear(join, Orders(session=1, number=join.number))
    assert not state.has_news()
    assert state.say().problems is None
    state.problems = [problem("gpu")]
    lost, again = state.say(), state.say()
    assert state.has_news()
    assert lost.problems == again.problems == [problem("gpu")]
    state.hear(again, Orders(session=1, number=again.number))
    assert not state.has_news()
    assert state.say().problems is None
    state.forget()
    assert state.say().problems == [problem("gpu")]
