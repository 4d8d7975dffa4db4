"""An agent against a server that speaks sync: orders, ends, fences, broken connections, users, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import batchyard
from batchyard.agent.main import run
from batchyard.agent.settings import AgentSettings
from batchyard.agent.transfer import logs
from batchyard.model.states import ErrorCategory
from batchyard.model.sync import FileEntry, Removal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run tasks as other users")
WITH_OWN_USER = {"userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}}}
PATHS = {
    "PYTHONPATH": ":".join(str(Path(module.__file__ or "").parent.parent) for module in (batchyard, httpx)),
    "PATH": os.environ["PATH"],
}
AS_ADMIN = {"userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}}


def stdout(place: Path, task: str, job: str = "job/job-1") -> str:
    return (place / "root/workitems" / job / task / "stdout.txt").read_text()


async def test_an_order_becomes_a_process_and_its_end_is_told_once(node: Any, place: Path) -> None:
    end = await node.result("hello", "echo 'hello  world' $HOME")
    assert (end.exit_code, end.failure, end.stage) == (0, None, "run")
    assert 0 < end.started <= end.ended
    assert stdout(place, "hello") == "hello  world $HOME\n"
    await node.result("second", "true")
    await node.until(lambda: node.syncs[-1].has == [])
    assert [each.attempt for each in node.told].count("hello") == 1


async def test_what_double_quotes_escape_reaches_the_shell(node: Any, place: Path) -> None:
    await node.result("quoted", 'sh -c "x=1; echo \\$x \\`echo 2\\` \\"\\\\$x\\"" \\\n ignored', job="job")
    assert stdout(place, "quoted") == "1 2 $x\n"


async def test_facts_name_what_is_isolated(node: Any) -> None:
    facts = node.facts
    assert facts.cores >= 1
    assert facts.memory_bytes > 1 << 26
    assert facts.process_control in ("cgroup2", "freezer", "session")
    assert facts.switches_users == (os.geteuid() == 0)
    lacks = [not facts.switches_users, facts.process_control == "session", "memory" not in facts.limits, "cpu" not in facts.limits]
    assert len(facts.not_isolated) == sum(lacks)


async def test_a_bad_exit_code_is_a_user_error_with_details(node: Any) -> None:
    end = await node.result("bad", "sh -c 'exit 7'")
    assert end.exit_code == 7
    assert (end.failure.category, end.failure.code) == (ErrorCategory.USER_ERROR, "FailureExitCode")
    assert end.failure.message == "The task exited with an exit code representing a failure"
    assert [(pair.name, pair.value) for pair in end.failure.details] == [
        ("Message", "The task process exited with an unexpected exit code"),
        ("AdditionalErrorCode", "FailureExitCode"),
    ]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (
            "no-such-program --x",
            "CommandProgramNotFound",
            "batchyard: no-such-program: there is no program 'no-such-program' in the working directory or along /usr/local/sbin:",
        ),
        ("./no/such", "CommandProgramNotFound", "batchyard: ./no/such: there is no program './no/such'\n"),
        ("/etc/hostname", "CommandLaunchFailed", "batchyard: /etc/hostname: "),
        ("echo 'open", "CommandLaunchFailed", "batchyard: The command line cannot be split into words: the quote at character 6 is not"),
        ("", "CommandLaunchFailed", "batchyard: The command line is empty\n"),
        ("''", "CommandProgramNotFound", "batchyard: the command line names no program\n"),
        ("'' x", "CommandProgramNotFound", "batchyard: the command line names no program\n"),
    ],
)
async def test_what_cannot_be_started_fails_in_preprocessing_without_exit_code(
    node: Any, place: Path, command: str, code: str, said: str
) -> None:
    end = await node.result("task", command)
    assert (end.stage, end.exit_code, end.started) == ("preprocessing", None, None)
    assert (end.failure.category, end.failure.code) == (ErrorCategory.USER_ERROR, code)
    assert stdout(place, "task") == ""
    assert (place / "root/workitems/job/job-1/task/stderr.txt").read_text().startswith(said)


@needs_root
@pytest.mark.parametrize("identity", [{}, WITH_OWN_USER, AS_ADMIN])
async def test_logs_of_what_was_not_started_are_the_tasks_own_and_replace_what_lies_there(
    node: Any, place: Path, identity: dict[str, Any]
) -> None:
    (place / "outside").write_text("kept")
    (place / "outside").chmod(0o666)
    tricks = f"cd ..; rm stdout.txt stderr.txt; ln -s {place}/outside stderr.txt; mkfifo stdout.txt"
    await node.result("task.1", f"sh -c '{tricks}'", **identity)
    end = await node.result("task.2", "no-such-program", **identity)
    assert end.failure.code == "CommandProgramNotFound"
    task = place / "root/workitems/job/job-1/task"
    assert (place / "outside").read_text() == "kept"
    assert stdout(place, "task") == ""
    assert "'no-such-program'" in (task / "stderr.txt").read_text()
    assert not (task / "stderr.txt").is_symlink()
    assert {(task / name).stat().st_mode & 0o7777 for name in ("stdout.txt", "stderr.txt")} == {0o644}
    assert (task / "stderr.txt").stat().st_uid == (task / "wd").stat().st_uid
    head, body = await node.file("get", "stderr.txt", base="workitems/job/job-1/task")
    assert (head.error, body.startswith(b"batchyard: no-such-program: there is no program")) == (None, True)


async def test_the_wall_clock_is_a_server_error_with_137(node: Any) -> None:
    end = await node.result("slow", "sleep 1000", constraints={"maxWallClockTime": "PT0.1S"})
    assert end.exit_code == 137
    assert (end.failure.category, end.failure.code) == (ErrorCategory.SERVER_ERROR, "TaskEnded")


async def test_the_wall_clock_is_as_long_as_was_said(spawners_later: Callable[[float], None], node: Any, pipe: Any) -> None:
    node.order("hour", f"sh -c 'echo x > {pipe}; sleep 1000'", constraints={"maxWallClockTime": "PT1H"})
    await pipe.line()
    spawners_later(3600)
    for n in range(8):  # whichever spawner it is, it looks at the clock
        await node.result(f"wakes{n}", "true")
    end = await node.end_of("hour")
    assert (end.exit_code, end.failure.code) == (137, "TaskEnded")


async def test_the_environment(node: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [{"name": "MINE", "value": "task"}, {"name": "EMPTY"}]
    settings += [{"name": f"AZ_BATCH_{name}", "value": "forged"} for name in ("TASK_ID", "JOB_ID", "NODE_ID", "TASK_USER")]
    common = [{"name": "MINE", "value": "job"}, {"name": "COMMON", "value": "job"}]
    await node.result("env", "env -0", environmentSettings=settings, environment=common)
    found = dict(line.split("=", 1) for line in stdout(place, "env").rstrip("\0").split("\0"))
    root = str(place / "root")
    task = f"{root}/workitems/job/job-1/env"
    user = found.pop("USER")
    assert found == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": f"{task}/wd",
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        "MINE": "task",
        "COMMON": "job",
        "EMPTY": "",
        "AZ_BATCH_ACCOUNT_NAME": "account",
        "AZ_BATCH_ACCOUNT_URL": node.url + "/",
        "AZ_BATCH_POOL_ID": "pool",
        "AZ_BATCH_NODE_ID": "node",
        "AZ_BATCH_NODE_IS_DEDICATED": "true",
        "AZ_BATCH_NODE_ROOT_DIR": root,
        "AZ_BATCH_NODE_SHARED_DIR": f"{root}/shared",
        "AZ_BATCH_NODE_STARTUP_DIR": f"{root}/startup",
        "AZ_BATCH_NODE_MOUNTS_DIR": f"{root}/fsmounts",
        "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": str(512 << 20),
        "AZ_BATCH_JOB_ID": "job",
        "AZ_BATCH_TASK_ID": "env",
        "AZ_BATCH_TASK_DIR": task,
        "AZ_BATCH_TASK_WORKING_DIR": f"{task}/wd",
        "AZ_BATCH_TASK_USER": user,
        "AZ_BATCH_TASK_USER_IDENTITY": "PoolNonAdmin",
    }


async def test_jobs_of_a_schedule_have_directories_of_their_own(node: Any, place: Path) -> None:
    await node.result("task", "pwd", job="nightly:job-12")
    assert stdout(place, "task", "nightly/job-12").endswith("/root/workitems/nightly/job-12/task/wd\n")


@pytest.mark.parametrize("job", ["../up", "a/b", "s:job-x", "s:job-1/..", ""])
async def test_ids_cannot_leave_the_root(node: Any, job: str, place: Path) -> None:
    end = await node.result("task", "true", job=job)
    assert end.failure.code == "CommandLaunchFailed"
    assert not list((place / "root/workitems").iterdir())


async def test_what_is_not_wanted_any_more_is_killed_and_its_end_told(pipe: Any, node: Any, place: Path) -> None:
    node.order("long", f"sh -c 'echo x > {pipe}; sleep 1000'")
    await pipe.line()
    del node.wanted["long"]
    node.change()
    end = await node.end_of("long")
    assert end.exit_code == 137
    assert (end.failure.category, end.failure.code) == (ErrorCategory.USER_ERROR, "TaskEnded")


async def test_a_retry_takes_over_the_directory_with_new_logs(node: Any, place: Path) -> None:
    await node.result("task.1", "sh -c 'echo first and longer; echo kept > kept'")
    end = await node.result("task.2", "cat kept")
    assert end.exit_code == 0
    assert stdout(place, "task") == "kept\n"


async def test_a_retry_waits_for_the_former_attempt_in_its_directory(node: Any, place: Path) -> None:
    node.order("task.1", "sh -c 'sleep 1000'")
    await node.until(lambda: "task.1" in node.syncs[-1].has)
    del node.wanted["task.1"]
    end = await node.result("task.2", "true")
    first = await node.end_of("task.1")
    assert end.exit_code == 0
    assert first.ended <= end.ended


async def test_a_wrecked_directory_does_not_stop_the_next_attempt(node: Any, place: Path) -> None:
    (place / "outside").mkdir()
    script = f"cd ..; rm -rf wd; ln -s {place}/outside wd; mkfifo stderr.txt.x; mv stderr.txt.x stderr.txt; ln -sf /etc/passwd stdout.txt"
    await node.result("task.1", f"sh -c '{script}'")
    end = await node.result("task.2", "sh -c 'echo x > made; pwd'")
    assert end.exit_code == 0
    assert stdout(place, "task").endswith("/task/wd\n")
    assert not list((place / "outside").iterdir())


async def test_ends_survive_errors_and_broken_connections(node: Any) -> None:
    node.fail = [500, 503, 0, 429]
    for name in ("a", "b"):
        node.order(name, "true")
    assert (await node.end_of("a")).exit_code == (await node.end_of("b")).exit_code == 0
    await node.until(lambda: not node.fail and node.syncs[-1].has == [])


async def test_tasks_run_on_while_the_server_is_away(pipe: Any, node: Any, place: Path) -> None:
    node.order("task", f"sh -c 'read line < {pipe}; exit $line'")
    await node.until(lambda: "task" in node.syncs[-1].has)
    node.fail = [500, 500]
    await asyncio.to_thread(pipe.path.write_text, "9\n")  # waits until the task reads
    assert (await node.end_of("task")).exit_code == 9


async def test_fenced_means_end_everything_and_join_again(pipe: Any, node: Any, place: Path, alive: Callable[[int], bool]) -> None:
    node.order("old", f"sh -c 'echo $$ > {pipe}; sleep 1000'")
    pid = int(await pipe.line())
    node.wanted.clear()
    node.session += 10
    node.change()
    await node.until(lambda: node.session == 12)
    assert not alive(pid)
    assert node.syncs[-1].has == []
    assert (await node.result("new", "true")).exit_code == 0
    assert "old" not in node.ends


async def test_a_refused_agent_ends_everything_and_leaves(
    pipe: Any, server: Any, settings: AgentSettings, place: Path, alive: Callable[[int], bool]
) -> None:
    agent = asyncio.create_task(run(settings))
    server.order("task", f"sh -c 'echo $$ > {pipe}; sleep 1000'")
    pid = int(await pipe.line())
    server.gone = True
    server.order("another", "true")
    await asyncio.wait_for(agent, 20)
    assert not alive(pid)


async def test_a_second_agent_gives_up_while_the_first_is_there(
    node: Any, settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.agent.main._LEAVE_S", 0.1)
    with pytest.raises(OSError, match="another agent uses"):
        await asyncio.to_thread(asyncio.run, run(settings))


async def test_removals_free_the_name_and_are_told(node: Any, place: Path) -> None:
    await node.result("task", "sh -c 'mkdir -p a/b; echo x > a/b/c; ln -s / out'")
    node.removals = [Removal(number=1, directory="workitems/job/job-1/task"), Removal(number=2, directory="workitems/never/job-1")]
    node.change()
    await node.until(lambda: not node.removals)
    assert not (place / "root/workitems/job/job-1/task").exists()
    node.removals = [
        Removal(number=3, directory="workitems/job/job-1"),
        Removal(number=4, directory="../token"),
        Removal(number=5, directory=""),
    ]
    node.change()
    await node.until(lambda: not node.removals)
    assert not (place / "root/workitems/job").exists()
    assert (place / "token").exists()
    assert (await node.result("task", "true")).exit_code == 0


async def test_a_removal_that_fails_is_tried_again_and_not_told_before(node: Any, place: Path) -> None:
    await node.result("task", "true")
    await node.result("other", "true")
    trash = place / "root/volatile/removed"
    trash.rmdir() if trash.exists() else None
    trash.touch()  # nothing can be moved there
    node.removals = [Removal(number=1, directory="workitems/job/job-1/task")]
    node.change()
    await node.result("next", "true")
    assert (place / "root/workitems/job/job-1/task").exists()
    assert node.removals
    trash.unlink()
    await node.until(lambda: not node.removals)
    assert not (place / "root/workitems/job/job-1/task").exists()


@needs_root
async def test_users_of_pool_task_and_admin_scope(node: Any, place: Path, settings: AgentSettings) -> None:
    base = settings.uid_base
    await node.result("pool", "id -u")
    await node.result("own", "id -u", **WITH_OWN_USER)
    await node.result("admin", "id -u", **AS_ADMIN)
    assert int(stdout(place, "pool")) == base
    assert base < int(stdout(place, "own")) < base + 1000
    assert int(stdout(place, "admin")) == 0
    end = await node.result("named", "true", userIdentity={"username": "alice"})
    assert end.failure.code == "CommandLaunchFailed"


@needs_root
async def test_a_task_with_its_own_user_cannot_read_what_others_left_or_run(pipe: Any, node: Any, place: Path) -> None:
    node.order("running", f"sh -c 'echo s > secret; echo x > {pipe}; sleep 1000'", **WITH_OWN_USER)
    await pipe.line()
    await node.result("ended", "sh -c 'echo s > secret'", **WITH_OWN_USER)
    for task in ("running", "ended"):
        for members in (WITH_OWN_USER, {}):
            end = await node.result(f"spy-{task}-{len(members)}", f"cat {place}/root/workitems/job/job-1/{task}/wd/secret", **members)
            assert end.exit_code == 1
    end = await node.result("dirs", f"sh -c 'ls {place}/root/volatile || ls {place}/root/workitems'", **WITH_OWN_USER)
    assert end.exit_code == 2
    assert (await node.result("ended.2", "cat secret", **WITH_OWN_USER)).exit_code == 0
    assert (await node.result("shared", f"touch {place}/root/shared/x", **WITH_OWN_USER)).exit_code == 0


async def test_files_of_a_running_task_can_be_read(node: Any, place: Path, entries: Callable[[bytes], list[FileEntry]]) -> None:
    await node.result("task", "sh -c 'mkdir ä; printf 0123456789 > ä/%41'")
    base = "workitems/job/job-1/task"
    head, body = await node.file("get", "wd/ä/%41", base=base, offset=2, length=5)
    assert (head.error, head.length, body) == (None, 5, b"23456")
    assert (head.entry.name, head.entry.size) == ("wd/ä/%41", 10)
    head, body = await node.file("list", "", base=base, recursive=True)
    assert [each.name for each in entries(body)] == ["stderr.txt", "stdout.txt", "wd", "wd/ä", "wd/ä/%41"]
    head, body = await node.file("properties", "wd", base=base)
    assert head.entry.is_directory
    assert body == b""
    assert (await node.file("get", "missing", base=base))[0].error == "FileNotFound"
    assert (await node.file("delete", "wd", base=base, recursive=True))[0].error is None
    assert not (place / "root" / base / "wd").exists()


async def test_a_large_file_arrives_whole(node: Any, place: Path) -> None:
    await node.result("task", "true")
    data = os.urandom(3_000_001)
    (place / "root/shared/big").write_bytes(data)
    answers = await asyncio.gather(*(node.file("get", "/shared/big", offset=n) for n in (0,)))
    assert answers[0][1] == data


def as_nobody() -> list[str]:
    """How a Python starts as another user; `env` makes sure that it is not root's rights that find it."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root with setpriv can become nobody")
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env"]
    for python in (sys.executable, "/usr/bin/python3.11", "/usr/bin/python3"):
        if not subprocess.run(
            [*drop, python, "-c", "import httptools, httpx, msgspec, structlog"], env=PATHS, capture_output=True
        ).returncode:
            return [*drop, python]
    pytest.skip("no Python here that nobody can run with the packages of these tests")


@pytest.mark.parametrize("how", ["root", "nobody"])
async def test_the_program_runs_tasks_and_ends_them_at_sigterm(
    pipe: Any, server: Any, settings: AgentSettings, place: Path, alive: Callable[[int], bool], how: str
) -> None:
    python = as_nobody() if how == "nobody" else [sys.executable]
    command = [*python, "-m", "batchyard.agent.main", "--server", server.url, "--root", f"{place}/root", "--token-file", f"{place}/token"]
    place.chmod(0o777)
    process = await asyncio.create_subprocess_exec(*command, env=PATHS, stderr=asyncio.subprocess.PIPE)
    server.order("task", f"sh -c 'setsid sleep 1000 & echo $! > {pipe}; id -u; exec sleep 1000'")
    child = int(await pipe.line())
    if how == "nobody":
        assert not server.facts.switches_users
        assert any("agent's user" in sentence for sentence in server.facts.not_isolated)
        assert (await server.result("bad", "sh -c 'exit 3'")).exit_code == 3
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, log.decode()
    assert b"process_control" in next(logs.between(iter(log.splitlines()), 0, time.time_ns() // 1000))
    assert not alive(child)


@pytest.mark.parametrize("both", [False, True])
async def test_sigkill_of_the_agent_ends_its_tasks(
    pipe: Any, server: Any, settings: AgentSettings, place: Path, alive: Callable[[int], bool], both: bool
) -> None:
    """When the agent dies its spawner ends everything; when both die the next agent does."""
    command = [
        sys.executable,
        "-m",
        "batchyard.agent.main",
        "--server",
        server.url,
        "--root",
        settings.root,
        "--token-file",
        settings.token_file,
    ]
    process = await asyncio.create_subprocess_exec(*map(str, command), env=PATHS, stderr=asyncio.subprocess.DEVNULL)
    server.order("task", f"sh -c 'setsid sleep 1000 & echo $! $PPID > {pipe}; exec sleep 1000'")
    child, spawner = map(int, (await pipe.line()).split())
    gone = [os.pidfd_open(pid) for pid in (child, spawner)]
    if both:
        os.kill(spawner, signal.SIGSTOP)
    process.kill()
    await process.wait()
    if both:
        os.kill(spawner, signal.SIGKILL)
        server.wanted.clear()
        session = server.session
        agent = asyncio.create_task(run(settings))
        await server.until(lambda: server.session > session)
        agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await agent
    loop = asyncio.get_running_loop()
    for fd in gone:
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        await asyncio.wait_for(ended.wait(), 20)
        loop.remove_reader(fd)
        os.close(fd)
    assert not alive(child)


def test_unknown_members_of_a_task_are_ignored() -> None:
    from batchyard.agent.run.runner import Work

    work = msgspec.json.decode(b'{"id": "a", "commandLine": "b", "newMember": {"x": 1}, "requiredSlots": 2}', type=Work)
    assert work.command_line == "b"
