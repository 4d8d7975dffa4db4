"""The start task: its directory, its variables, its user, and that it can be run again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.settings import AgentSettings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run tasks as other users")
OWN = {"userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}}}
AS_ADMIN = {"userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}}


def stdout(place: Path) -> str:
    return (place / "root/startup/stdout.txt").read_text()


async def test_it_runs_in_startup_and_knows_no_job(node: Any, place: Path) -> None:
    settings = [{"name": "MINE", "value": "x"}, {"name": "AZ_BATCH_JOB_ID", "value": "forged"}]
    end = await node.result("start", "env -0", start=True, environmentSettings=settings)
    assert (end.exit_code, end.failure) == (0, None)
    found = dict(line.split("=", 1) for line in stdout(place).rstrip("\0").split("\0"))
    startup = str(place / "root/startup")
    assert not {"AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID", "AZ_BATCH_JOB_PREP_DIR"} & found.keys()
    assert (found["AZ_BATCH_TASK_DIR"], found["AZ_BATCH_TASK_WORKING_DIR"]) == (startup, startup + "/wd")
    assert (found["AZ_BATCH_NODE_STARTUP_DIR"], found["AZ_BATCH_NODE_ID"]) == (startup, "node")
    assert (found["HOME"], found["MINE"]) == (startup + "/wd", "x")


async def test_a_retry_keeps_the_files_and_writes_new_logs(node: Any, place: Path) -> None:
    end = await node.result("start", "sh -c 'echo first and longer; echo oops >&2; echo kept > kept; exit 3'", start=True)
    assert (end.exit_code, end.failure.code) == (3, "FailureExitCode")
    assert (place / "root/startup/stderr.txt").read_text() == "oops\n"
    end = await node.result("start.2", "cat kept", start=True)
    assert (end.exit_code, stdout(place)) == (0, "kept\n")
    assert (place / "root/startup/stderr.txt").read_text() == ""


@pytest.mark.parametrize("identity", [{}, AS_ADMIN])
async def test_a_rerun_finds_a_fresh_working_directory_and_all_else_that_was_left(node: Any, place: Path, identity: dict[str, Any]) -> None:
    """After whatever made the node join again: a reboot, a repair, a lost session."""
    leave = "echo x > old; mkdir -p a/b; ln -s / out; touch ../beside $AZ_BATCH_NODE_SHARED_DIR/shared"
    for attempt in ("start", "start.2"):
        end = await node.result(attempt, f"sh -c '{leave}'", start=True, **identity)
        assert end.exit_code in (0, 1)
    node.session += 10
    node.change()
    await node.until(lambda: node.session == 12)
    files = [{"httpUrl": node.url + "/agent/file", "filePath": "brought"}]
    end = await node.result("start.3", "sh -c 'ls -A; ls -A ..; ls $AZ_BATCH_NODE_SHARED_DIR'", start=True, resourceFiles=files, **identity)
    assert (end.exit_code, stdout(place)) == (0, "brought\nbeside\nstderr.txt\nstdout.txt\nwd\nshared\n")
    end = await node.result("start.4", "ls -A", start=True, **identity)
    assert (end.exit_code, stdout(place)) == (0, "brought\n"), "a retry goes on with what there is"


async def test_a_link_in_the_place_of_the_working_directory_goes_alone(node: Any, place: Path) -> None:
    (place / "outside").mkdir(mode=0o777)
    (place / "outside/file").touch()
    await node.result("start", f"sh -c 'cd ..; rmdir wd; ln -s {place}/outside wd'", start=True)
    node.session += 10
    node.change()
    await node.until(lambda: node.session == 12)
    end = await node.result("start.2", "ls -A", start=True)
    assert (end.exit_code, stdout(place)) == (0, "")
    assert (place / "outside/file").exists()


async def test_a_missing_resource_file_fails_it_before_it_runs(node: Any) -> None:
    end = await node.result("start", "true", start=True, resourceFiles=[{"httpUrl": node.url + "/missing", "filePath": "x"}])
    assert (end.exit_code, end.stage, end.failure.code) == (None, "preprocessing", "BlobNotFound")


@needs_root
@pytest.mark.parametrize(("identity", "offset"), [({}, 0), (OWN, 899), (AS_ADMIN, None)])
async def test_it_has_its_directory_full_and_others_read_it(
    node: Any, place: Path, settings: AgentSettings, identity: dict[str, Any], offset: int | None
) -> None:
    files = [{"httpUrl": node.url + "/agent/file", "filePath": "sub/brought"}]
    end = await node.result("start", "sh -c 'id -u; echo made > made; touch ../beside'", start=True, resourceFiles=files, **identity)
    assert end.exit_code == 0
    assert int(stdout(place)) == (0 if offset is None else settings.uid_base + offset)
    read = "cat ../../../../../startup/wd/made ../../../../../startup/stdout.txt ../../../../../startup/wd/sub/brought"
    assert (await node.result("reads", read, **OWN)).exit_code == 0
    end = await node.result("writes", "sh -c 'echo x >> ../../../../../startup/wd/made'", **OWN)
    assert end.exit_code != 0
    end = await node.result("plants", "touch ../../../../../startup/planted", **OWN)
    assert end.exit_code != 0
    end = await node.result("again", "sh -c 'ls && echo again > made'", start=True)  # as the pool's user now
    assert (end.exit_code, stdout(place)) == (0, "made\nsub\n" if identity == {} else "")
    assert not (place / "root/startup/beside").exists() or identity == {}


@needs_root
async def test_root_runs_nothing_that_tasks_of_the_pools_user_put_there(node: Any, place: Path) -> None:
    assert (await node.result("start", "true", start=True)).exit_code == 0
    plant = "cd ../../../../../startup/wd && cp /bin/false ls && chmod 755 ls && mkdir ../stderr.txt.d"
    assert (await node.result("plants", f"sh -c '{plant}'")).exit_code == 0
    end = await node.result("start.2", "ls -A .. .", start=True, **AS_ADMIN)
    assert (end.exit_code, stdout(place)) == (0, ".:\n\n..:\nstderr.txt\nstdout.txt\nwd\n")
    assert os.stat(place / "root/startup").st_uid == os.stat(place / "root/startup/wd").st_uid == 0
