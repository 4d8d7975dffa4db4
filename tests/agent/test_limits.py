"""Memory and cores of a node: what the facts promise is held, what cannot be held is said."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.main import run
from batchyard.agent.process import cgroups, control, limits
from batchyard.agent.process.limits import Limits
from batchyard.agent.process.process import Command, Spawners
from batchyard.agent.settings import AgentSettings

GROWS = "sh -c 'x=0123456789; while :; do x=$x$x; done'"
SPINS = """sh -c 'timeout 1 sh -c "while :; do :; done" & timeout 1 sh -c "while :; do :; done"; wait'"""


MEMORY = ("/memory.max", "/memory.limit_in_bytes")


def content(path: str) -> str:
    """Content of a control file; empty when it is not there."""
    return Path(path).read_text().strip() if os.path.exists(path) else ""


@pytest.fixture
def found(place: Path) -> Limits:
    return limits.probe(place.name, control.probe(place.name))[0]


@pytest.fixture
def held(server: Any) -> None:
    """The node gets less than the machine has."""
    server.setup |= {"memory_bytes": 96 << 20, "cores": 1}


async def test_facts_say_what_is_held_and_why_the_rest_is_not(node: Any, found: Limits) -> None:
    assert node.facts.limits == found.names
    said = [sentence for sentence in node.facts.not_isolated if "not held to the node's" in sentence]
    assert len(said) + len(found.names) == 2
    assert said == found.obstacles
    assert node.facts.disk_bytes > 1 << 20
    assert node.facts.system


@pytest.mark.usefixtures("held")
async def test_a_task_that_takes_too_much_memory_is_ended_and_the_node_goes_on(node: Any, place: Path, found: Limits) -> None:
    if "memory" not in found.names:
        assert any("memory cgroup" in sentence for sentence in node.facts.not_isolated)
        return
    node.order("idle", "sleep 1000")
    await node.until(lambda: "idle" in node.syncs[-1].has)
    end = await node.result("greedy", GROWS)
    assert (end.exit_code, end.failure.code) == (137, "FailureExitCode")
    assert (await node.result("modest", "sh -c 'echo fine'")).exit_code == 0
    assert (place / "root/workitems/job/job-1/modest/stdout.txt").read_text() == "fine\n"
    assert "idle" in node.syncs[-1].has
    assert (await node.file("get", "stderr.txt", base="workitems/job/job-1/greedy"))[0].error is None


@pytest.mark.usefixtures("held")
async def test_tasks_get_no_more_cores_than_the_node_has(node: Any, found: Limits) -> None:
    end = await node.result("spins", SPINS)
    assert end.exit_code == 0
    assert end.user_cpu_us + end.kernel_cpu_us <= 1_400_000 or "cpu" not in found.names


@pytest.mark.usefixtures("held")
async def test_groups_are_there_while_the_agent_is_and_gone_afterwards(server: Any, settings: AgentSettings, place: Path) -> None:
    agent = asyncio.create_task(run(settings))
    await server.result("task", "cat /proc/self/cgroup")
    text = (place / "root/workitems/job/job-1/task/stdout.txt").read_text()
    tag = hashlib.sha256(str(place / "root").encode()).hexdigest()[:12]
    assert text.count(cgroups.PREFIX + tag) >= len(server.facts.limits)
    places = [f"{home}/{cgroups.PREFIX}{tag}" for name in ("memory", "cpu", "cgroup2", "freezer") for home in control.places(name)]
    assert any(os.path.isdir(place) for place in places) or not server.facts.limits
    quotas = [content(place + name) for place in places for name in ("/cpu.max", "/cpu.cfs_quota_us")]
    assert {"100000", "100000 100000"} & set(quotas) or "cpu" not in server.facts.limits
    assert "96" in {str(int(size) >> 20) for place in places for name in MEMORY if (size := content(place + name)).isdigit()} or (
        "memory" not in server.facts.limits
    )
    agent.cancel()
    await asyncio.wait({agent})
    assert not any(os.path.isdir(place) for place in places)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may protect a process")
async def test_the_spawner_is_never_chosen_when_memory_runs_out_and_tasks_cannot_be_spared(place: Path) -> None:
    spawners, own = Spawners(control.probe(place.name, "session"), 1), Path("/proc/self/oom_score_adj").read_text().strip()
    place.chmod(0o777)
    born = "read score < /proc/self/oom_score_adj; echo $score"
    itself = "while grep -qx 500 /proc/$PPID/oom_score_adj; do :; done; cat /proc/$PPID/oom_score_adj"  # again, once it has started this
    script = f"{born}; {itself}; echo 0 > /proc/self/oom_score_adj && echo lowered"
    logs = str(place / "out"), str(place / "err")
    command = Command(["sh", "-c", script], {"PATH": "/bin:/usr/bin"}, str(place), *logs, 70_123, 20)
    try:
        for key in (1, 2):
            assert not (await spawners.run(key, command)).overdue
            assert (place / "out").read_text().split() == ["500", *(["-1000"] if may_forbid() else [own, "lowered"])]
    finally:
        await spawners.close()


def may_forbid() -> bool:
    """True where root has the capability (CAP_SYS_RESOURCE) that makes a score stick."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    return bool(int(line.split()[1], 16) >> 24 & 1)
