"""What tasks of different users can do to each other, with real users and processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.settings import AgentSettings
from batchyard.model.sync import NodeAccount

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run tasks as other users")
POOL: dict[str, Any] = {}
OWN = {"userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}}}
ADMIN = {"userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "admin"}}}
ALICE, BOB, CHIEF, SYSTEM = ({"userIdentity": {"username": name}} for name in ("alice", "bob", "chief", "system"))
ACCOUNTS = [
    NodeAccount(name="alice"),
    NodeAccount(name="bob", uid=61_234, gid=61_235),
    NodeAccount(name="chief", admin=True),
    NodeAccount(name="system", uid=1, gid=1),
]


@pytest.fixture
def setup(server: Any) -> None:
    server.setup["accounts"] = ACCOUNTS


def stdout(place: Path, task: str) -> str:
    return (place / "root/workitems/job/job-1" / task / "stdout.txt").read_text()


@needs_root
@pytest.mark.usefixtures("setup")
async def test_who_tasks_run_as(node: Any, place: Path, settings: AgentSettings) -> None:
    script = (
        "sh -c 'echo $(id -u) $(id -g) $(id -G) $USER $LOGNAME $AZ_BATCH_TASK_USER_IDENTITY;"
        " [ $HOME = $PWD ] && [ $AZ_BATCH_TASK_USER = $USER ]'"
    )
    alice, own = settings.uid_base + 900, settings.uid_base + 1
    for name, identity, expected in (
        ("pool", POOL, f"{settings.uid_base} {settings.uid_base} {settings.uid_base} _azbatch _azbatch PoolNonAdmin"),
        ("alice", ALICE, f"{alice} {alice} {alice} alice alice alice"),
        ("bob", BOB, "61234 61235 61235 bob bob bob"),
        ("chief", CHIEF, "0 0 0 root root chief"),
        ("admin", ADMIN, "0 0 0 root root TaskAdmin"),
        ("pool-admin", {"userIdentity": {"autoUser": {"elevationLevel": "admin"}}}, "0 0 0 root root PoolAdmin"),
        ("own", OWN, f"{own} {own} {own} _azbatch1 _azbatch1 TaskNonAdmin"),
    ):
        end = await node.result(name, script, **identity)
        assert (end.exit_code, stdout(place, name).strip()) == (0, expected)


@pytest.mark.usefixtures("setup")
async def test_unknown_users_are_a_clear_failure(node: Any) -> None:
    end = await node.result("unknown", "true", userIdentity={"username": "mallory"})
    assert (end.failure.code, end.exit_code) == ("CommandLaunchFailed", None)
    assert "'mallory'" in end.failure.message


@needs_root
@pytest.mark.usefixtures("setup")
async def test_a_uid_of_the_system_is_a_clear_failure(node: Any) -> None:
    end = await node.result("system", "true", **SYSTEM)
    assert (end.failure.code, end.exit_code) == ("CommandLaunchFailed", None)
    assert "uid 1 belongs to the system" in end.failure.message


@needs_root
@pytest.mark.usefixtures("setup")
@pytest.mark.parametrize(("victim", "spy"), [(OWN, OWN), (OWN, POOL), (POOL, OWN), (ALICE, POOL), (POOL, ALICE), (ALICE, BOB), (BOB, OWN)])
async def test_different_users_neither_read_nor_signal_each_other(
    pipe: Any, node: Any, place: Path, alive: Callable[[int], bool], victim: dict[str, Any], spy: dict[str, Any]
) -> None:
    node.order("victim", f"sh -c 'umask 077; echo s > secret; echo $$ > {pipe}; sleep 1000'", **victim)
    pid = int(await pipe.line())
    directory = f"{place}/root/workitems/job/job-1/victim"
    for number, attempt in enumerate(
        (
            f"cat {directory}/wd/secret",
            f"ls {directory}",
            f"cat {directory}/stdout.txt",
            f"touch {directory}/wd/x",
            f"cat /proc/{pid}/environ",
        )
    ):
        assert (await node.result(f"spy{number}", attempt, **spy)).exit_code != 0
    assert (await node.result("killer", f"sh -c 'kill -9 {pid}'", **spy)).exit_code != 0
    assert alive(pid)


@needs_root
@pytest.mark.usefixtures("setup")
@pytest.mark.parametrize(("one", "other"), [(POOL, POOL), (ALICE, ALICE), (OWN, ADMIN), (ALICE, CHIEF)])
async def test_the_same_user_and_admins_share(pipe: Any, node: Any, place: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    node.order("one", f"sh -c 'umask 077; echo s > secret; echo $$ > {pipe}; sleep 1000'", **one)
    pid = int(await pipe.line())
    assert (await node.result("reader", f"cat {place}/root/workitems/job/job-1/one/wd/secret", **other)).exit_code == 0
    assert (await node.result("killer", f"sh -c 'kill -9 {pid}'", **other)).exit_code == 0
    assert (await node.end_of("one")).exit_code == 137


@needs_root
@pytest.mark.usefixtures("setup")
async def test_resource_files_belong_to_the_named_user_and_its_group(node: Any, place: Path) -> None:
    files = [{"httpUrl": node.url + "/agent/file", "filePath": "sub/file"}]
    end = await node.result("bob", "sh -c 'stat -c %u:%g sub sub/file . ..; cat sub/file'", resourceFiles=files, **BOB)
    assert end.exit_code == 0
    assert stdout(place, "bob") == "61234:61235\n" * 4 + "content"
