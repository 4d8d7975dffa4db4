"""`batchyard task exec`: a command inside of a running task, with real processes at both ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from tests.cli.conftest import Cli, command
from tests.conftest import Server, wait_for

from batchyard.cli import processes
from batchyard.cli.client import Client


@pytest.fixture
def running(client: Client, own_job: str) -> str:
    """A task that runs until the test is over, as JOB/TASK."""
    script = "echo $$ > pid; export INNER=1; while :; do sleep 0.1; done"
    settings = [{"name": "COLOUR", "value": "blue"}]
    client.post("jobs", own_job, "tasks", body={"id": "long", "commandLine": f"sh -c '{script}'", "environmentSettings": settings})
    wait_for(lambda: client.get("jobs", own_job, "tasks", "long")["state"] == "running", "the task")
    wait_for(lambda: pid_of(client, own_job) or None, "its command")
    return f"{own_job}/long"


def pid_of(client: Client, job: str) -> int:
    with contextlib.suppress(Exception):
        return int(client.read("jobs", job, "tasks", "long", "files", "wd/pid") or 0)
    return 0


def parent_groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@contextlib.contextmanager
def started(server: Server, *words: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    process = subprocess.Popen(command(*words), env=server.environment, **given)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return stream.readline().strip()


def gone(pid: int) -> bool:
    return processes.start_time(pid) is None


def test_it_runs_where_the_task_runs_and_returns_the_commands_exit_code(cli: Cli, running: str, client: Client) -> None:
    job = running.partition("/")[0]
    script = "pwd; id -u; echo $COLOUR $AZ_BATCH_TASK_ID $INNER; echo loud >&2; exit 7"
    done = cli("task", "exec", running, "--", "sh", "-c", script)
    pid = pid_of(client, job)
    where, uid, words = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (7, "loud\n")
    assert where == os.readlink(f"/proc/{pid}/cwd")
    assert int(uid) == Path(f"/proc/{pid}").stat().st_uid
    assert words == "blue long"
    assert cli("task", "exec", running, "--", "true").returncode == 0


def test_it_is_in_the_tasks_group_of_processes(cli: Cli, running: str, client: Client) -> None:
    own = cli("task", "exec", running, "--", "cat", "/proc/self/cgroup").stdout.splitlines()
    pid = pid_of(client, running.partition("/")[0])
    for mine, theirs in zip(own, parent_groups(pid).splitlines(), strict=True):
        assert mine == theirs or mine.startswith(f"{theirs}/inside-")


def test_what_cannot_run_says_why(cli: Cli, running: str) -> None:
    none = cli("task", "exec", running, "--", "no-such-program")
    assert (none.returncode, none.stdout) == (127, "")
    assert "there is no program 'no-such-program'" in none.stderr
    refused = cli("task", "exec", running, "--", "/etc/passwd")
    assert (refused.returncode, refused.stderr) == (126, "batchyard: Permission denied\n")


def test_a_signal_and_a_time_limit(cli: Cli, running: str) -> None:
    assert cli("task", "exec", running, "--", "sh", "-c", "kill -9 $$").returncode == 137
    late = cli("task", "exec", running, "--time-limit", "100ms", "--", "sleep", "1000")
    assert (late.returncode, late.stderr) == (137, "batchyard: it ran longer than its time limit\n")


def test_what_it_leaves_behind_ends_with_it(cli: Cli, running: str) -> None:
    left = cli("task", "exec", running, "--", "sh", "-c", "setsid sleep 1000 & echo $!")
    assert left.returncode == 0
    assert gone(int(left.stdout))


def test_a_task_that_does_not_run(cli: Cli, client: Client, own_job: str) -> None:
    client.post("jobs", own_job, "tasks", body={"id": "short", "commandLine": "true"})
    wait_for(lambda: client.get("jobs", own_job, "tasks", "short")["state"] == "completed", "the task")
    refused = cli("task", "exec", f"{own_job}/short", "--", "true")
    assert refused.returncode == 1
    assert "The task is completed; a command can be run inside of a task only while that is running" in refused.stderr
    assert "OperationInvalidForCurrentState" in refused.stderr


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"command": []}, "InvalidPropertyValue"),
        ({"command": [""]}, "InvalidPropertyValue"),
        ({"command": ["a\0b"]}, "InvalidPropertyValue"),
        ({"command": ["x" * 100_001]}, "InvalidPropertyValue"),
        ({"command": ["true"], "timeLimit": "P2D"}, "InvalidPropertyValue"),
        ({"command": ["true"], "timeLimit": "soon"}, "InvalidPropertyValue"),
        ({"command": "true"}, "InvalidRequestBody"),
        ({"command": ["true"], "user": "root"}, "InvalidRequestBody"),
        ({}, "MissingRequiredProperty"),
    ],
)
def test_what_is_no_command(client: Client, own_job: str, body: dict[str, Any], error: str) -> None:
    from batchyard.cli.client import Refused

    client.post("jobs", own_job, "tasks", body={"id": "t", "commandLine": "true"})
    with pytest.raises(Refused) as refused:
        list(client.stream("batchyard", "jobs", own_job, "tasks", "t", "exec", body=body))
    assert refused.value.error == error


def test_it_ends_with_the_task(server: Server, client: Client, running: str) -> None:
    job, _, task = running.partition("/")
    with started(server, "task", "exec", running, "--", "sh", "-c", "echo $$; exec sleep 1000") as process:
        pid = int(first_line(process.stdout))
        client.post("jobs", job, "tasks", task, "terminate")
        _, told = process.communicate(timeout=30)
        assert (process.returncode, told) == (137, b"batchyard: the task ended\n")
        assert gone(pid)


def test_it_ends_when_the_client_goes_and_the_task_goes_on(server: Server, client: Client, running: str) -> None:
    with started(server, "task", "exec", running, "--", "sh", "-c", "setsid sleep 1000 & echo $! $$; wait") as process:
        pids = [int(word) for word in first_line(process.stdout).split()]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        wait_for(lambda: all(gone(pid) for pid in pids), "the command to end")
    assert not gone(pid_of(client, running.partition("/")[0]))


def test_a_token_of_a_task_is_not_good_for_it(server: Server, client: Client, own_job: str, cli: Cli) -> None:
    body = {"id": "long", "commandLine": "sh -c 'echo 1 > pid; sleep 1000'", "authenticationTokenSettings": {"access": ["job"]}}
    client.post("jobs", own_job, "tasks", body=body)
    wait_for(lambda: pid_of(client, own_job) or None, "its command")
    token = cli("task", "exec", f"{own_job}/long", "--", "printenv", "AZ_BATCH_AUTHENTICATION_TOKEN").stdout.strip()
    import httpx

    url = f"{server.endpoint}/batchyard/jobs/{own_job}/tasks/long/exec?api-version=2025-06-01"
    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{server.endpoint}/jobs/{own_job}?api-version=2025-06-01", headers=headers).status_code == 200
    answer = httpx.post(url, headers=headers, json={"command": ["true"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "InsufficientAccountPermissions")


def test_fifty_megabytes_arrive_whole_and_a_slow_reader_costs_no_memory(server: Server, running: str) -> None:
    size = 50 << 20
    agent = server.agents()
    with started(server, "task", "exec", running, "--", "head", "-c", str(size), "/dev/zero") as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        watched = [server.process.pid, *agent.values()]
        before = {pid: resident(pid) for pid in watched}
        rest = len(first)
        while piece := process.stdout.read(1 << 16):
            rest += len(piece)
        assert (rest, process.wait(30)) == (size, 0)
        assert all(resident(pid) - before[pid] < 16 << 20 for pid in watched)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_at_once(server: Server, running: str) -> None:
    with contextlib.ExitStack() as stack:
        all_ = [stack.enter_context(started(server, "task", "exec", running, "--", "sh", "-c", f"echo {n}; exit {n}")) for n in range(12)]
        assert [(first_line(one.stdout), one.wait(60)) for one in all_] == [(b"%d" % n, n) for n in range(12)]


def test_an_event_records_the_program_and_not_its_arguments(server: Server, cli: Cli, running: str) -> None:
    import sqlite3

    cli("task", "exec", running, "--", "echo", "secret")
    with contextlib.closing(sqlite3.connect(f"file:{server.directory}/batchyard.db?mode=ro", uri=True)) as rows:
        found = rows.execute("SELECT * FROM event WHERE happened = 'command inside'").fetchall()
    assert any("echo" in row for row in found)
    assert "secret" not in json.dumps(found, default=str)


def test_the_agent_dies_meanwhile(own_server: Server) -> None:
    with Client(own_server.endpoint, own_server.account, own_server.key) as batch:
        from tests.cli.conftest import MACHINE

        pool = {"id": "p", "virtualMachineConfiguration": MACHINE, "vmSize": "standard_d2s_v3", "targetDedicatedNodes": 1}
        batch.post("pools", body=pool)
        batch.post("jobs", body={"id": "j", "poolInfo": {"poolId": "p"}})
        batch.post("jobs", "j", "tasks", body={"id": "long", "commandLine": "sh -c 'echo 1 > pid; sleep 1000'"})
        wait_for(lambda: pid_of(batch, "j") or None, "its command")
        with started(own_server, "task", "exec", "j/long", "--", "sh", "-c", "echo $$; exec sleep 1000") as process:
            pid = int(first_line(process.stdout))
            own_server.kill_agent(next(iter(own_server.agents())))
            _, told = process.communicate(timeout=30)
            assert process.returncode == 1
            assert b"broke" in told
            wait_for(lambda: gone(pid), "the command to end")
