"""The commands of daily work, as processes, against a live server."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from batchyard.cli.client import Client, Refused

POOL = "daily"
ALL_WORDS = ["two words", "", "it's", '"quoted"', "$HOME", "*", "a\\b", "line\nbreak", "-f", "--", "{}", "ü"]


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    endpoint: str
    account: str
    key: str
    directory: Path
    environment: dict[str, str]
    storage_connection_string: str


class Restartable(Server, Protocol):
    """What these tests need of the fixture `own_server`."""

    def kill(self) -> None: ...
    def start(self) -> None: ...


class Done(Protocol):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    """A command that runs to its end, in the test's own directory."""

    def run(*words: str | Path, **more: Any) -> Done:
        given = {"env": server.environment, "cwd": tmp_path, **more}
        return subprocess.run(command(*words), capture_output=True, text=True, timeout=90, check=False, **given)

    return run


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A command that goes on; it is ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str | Path) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(
            subprocess.Popen(
                command(*words),
                **pipes,
                text=True,
                env=server.environment,
                cwd=tmp_path,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def batch(server: Server) -> Iterator[Client]:
    """The commands' own client, to look behind them."""
    with Client(server.endpoint, server.account, server.key, server.storage_connection_string) as client:
        yield client


@pytest.fixture(scope="module")
def pool(batch: Client) -> Iterator[str]:
    """A pool of one node with four slots."""
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
    machine = {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
    size = {"vmSize": "standard_d2s_v3", "targetDedicatedNodes": 1, "taskSlotsPerNode": 4}
    batch.post("pools", body={"id": POOL, "virtualMachineConfiguration": machine, **size})
    yield POOL
    batch.delete("pools", POOL)


@pytest.fixture
def job(batch: Client, pool: str) -> Iterator[str]:
    """A job of the test's own, which ends with it."""
    name = f"daily-{secrets.token_hex(4)}"
    batch.post("jobs", body={"id": name, "poolInfo": {"poolId": pool}, "usesTaskDependencies": True})
    yield name
    batch.delete("jobs", name)


@pytest.fixture
def gate(server: Server, job: str) -> Iterator[Path]:
    """A file that tasks wait for."""
    yield server.directory / f"gate-{job}"
    (server.directory / f"gate-{job}").unlink(missing_ok=True)


def until_open(gate: Path) -> str:
    return f"while [ ! -e {gate} ]; do sleep 0.05; done"


def state(batch: Client, job: str, task: str) -> str:
    return str(batch.get("jobs", job, "tasks", task)["state"])


def sentence(done: Done, code: int = 1) -> str:
    """The one sentence of a command that could not do what was asked."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("batchyard: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_the_task_gets_the_words_as_they_were_given(run: Run, job: str) -> None:
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    done = run("submit", "--job", job, "-f", "--", "python3", "-c", show, *ALL_WORDS)
    assert (done.returncode, json.loads(done.stdout)) == (0, ALL_WORDS), done.stderr
    assert re.fullmatch(r"([a-z][2-9]){3}\n", done.stderr)


def test_wait_returns_the_exit_code_and_says_why(run: Run, job: str) -> None:
    done = run("submit", "--job", job, "--id", "t", "--wait", "--", "sh", "-c", "exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, "t\n", "batchyard: t failed with exit code 42\n")
    assert run("wait", f"{job}/t").returncode == 42
    missing = run("submit", "--job", job, "--id", "m", "--wait", "--", "no-such-program-here")
    assert missing.returncode != 0
    assert "batchyard: m failed" in missing.stderr


def test_output_is_shown_while_the_task_runs(start: Callable[..., Any], batch: Client, job: str, gate: Path) -> None:
    script = f"echo first; echo aside >&2; {until_open(gate)}; echo last; exit 5"
    following = start("submit", "--job", job, "--id", "t", "-f", "--", "sh", "-c", script)
    assert following.stdout.readline() == "first\n"
    assert state(batch, job, "t") == "running"
    again = start("logs", "-f", f"{job}/t")
    assert again.stdout.readline() == "first\n"
    gate.touch()
    assert following.stdout.read() == "last\n"
    assert following.wait(60) == 5
    assert following.stderr.read() == "t\naside\nbatchyard: t failed with exit code 5\n"
    assert again.stdout.read() == "last\n"
    assert again.wait(60) == 0


def test_ctrl_c_leaves_the_task_running_and_says_so(run: Run, start: Callable[..., Any], batch: Client, job: str) -> None:
    following = start("submit", "--job", job, "--id", "t", "-f", "--", "sh", "-c", "echo started; exec sleep 1000")
    assert following.stdout.readline() == "started\n"
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == 130
    told = following.stderr.read()
    assert "the task t goes on" in told
    assert f"batchyard cancel {job} t" in told
    assert state(batch, job, "t") == "running"
    assert run("cancel", job, "t").returncode == 0
    waited = run("wait", "t", "--job", job)
    assert waited.returncode != 0
    assert "TaskEnded" in waited.stderr
    assert "already" in sentence(run("cancel", f"{job}/t"))


def test_a_reader_that_goes_leaves_the_task_running(start: Callable[..., Any], batch: Client, job: str) -> None:
    following = start("submit", "--job", job, "--id", "t", "-f", "--", "sh", "-c", "while echo on; do sleep 0.05; done")
    assert following.stdout.readline() == "on\n"
    following.stdout.close()
    following.stdout = None
    assert following.wait(60) == 130
    assert following.stderr.read().startswith("t\nbatchyard: the task t goes on")
    assert state(batch, job, "t") == "running"


def test_long_output_arrives_whole(run: Run, job: str) -> None:
    script = "import sys; sys.stdout.write('x' * 3_000_001); sys.stderr.write('y' * 7)"
    done = run("submit", "--job", job, "--id", "t", "--wait", "--", "python3", "-c", script)
    assert done.returncode == 0, done.stderr
    assert run("logs", "t", "--job", job).stdout == "x" * 3_000_001
    assert run("logs", f"{job}/t", "--stderr").stdout == "y" * 7
    followed = run("logs", "-f", f"{job}/t")
    assert (followed.returncode, followed.stdout) == (0, "x" * 3_000_001)


def test_files_go_in_and_come_out(run: Run, job: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "words.txt").write_text("pear\napple\n")
    (tmp_path / "tool.sh").write_text("#!/bin/sh\nmkdir -p made/deep\nsort data/words.txt > made/deep/sorted.txt\necho log > run.log\n")
    (tmp_path / "tool.sh").chmod(0o755)
    options = ("--in", "data", "--in", "tool.sh", "--out", "made/**/*.txt", "--out", "run.log", "--out-dir", "results")
    done = run("submit", "--job", job, "--id", "t", "--wait", *options, "--", "./tool.sh")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "made" / "deep" / "sorted.txt").read_text() == "apple\npear\n"
    assert (tmp_path / "results" / "run.log").read_text() == "log\n"


def test_a_failed_task_leaves_no_outputs(run: Run, job: str, tmp_path: Path) -> None:
    done = run("submit", "--job", job, "--wait", "--out", "*", "--", "sh", "-c", "echo x > x; exit 1")
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_a_task_per_line(run: Run, job: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("two words\n\nit's;x\n")
    done = run(
        "submit",
        "--job",
        job,
        "--id",
        "l",
        "--each-line",
        "lines",
        "-f",
        "--out",
        "{}.out",
        "--",
        "sh",
        "-c",
        'echo "$1" | tee "$1.out"',
        "sh",
    )
    assert (done.returncode, done.stdout) == (0, "two words\nit's;x\n"), done.stderr
    assert (tmp_path / "l-1" / "two words.out").read_text() == "two words\n"
    assert (tmp_path / "l-2" / "it's;x.out").read_text() == "it's;x\n"
    from_stdin = run("submit", "--job", job, "--id", "i", "--each-line", "-", "--", "echo", input="a\nb\n")
    assert from_stdin.stdout.split() == ["i-1", "i-2"]


def test_a_task_per_number_and_1_when_any_failed(run: Run, batch: Client, job: str) -> None:
    done = run(
        "submit", "--job", job, "--id", "n", "--array", "1-120", "--env", "N={}", "--wait", "--", "sh", "-c", "exit $((N == 70 ? 9 : 0))"
    )
    assert (done.returncode, done.stderr) == (1, "batchyard: n-70 failed with exit code 9\n")
    assert sorted(done.stdout.split()) == sorted(f"n-{number}" for number in range(1, 121))
    waited = run("wait", job)
    assert (waited.returncode, waited.stdout) == (1, "119 tasks succeeded, 1 failed\n")


def test_after_waits_for_all_that_are_named(run: Run, start: Callable[..., Any], batch: Client, job: str, gate: Path) -> None:
    first = run("submit", "--job", job, "--id", "a", "--array", "1-2", "--", "sh", "-c", f"{until_open(gate)}; true {{}}").stdout
    assert run("submit", "--job", job, "--id", "b", "--after", first, "--", "true").returncode == 0
    waiting = start("wait", "b", "--job", job)
    assert state(batch, job, "b") == "active"
    gate.touch()
    assert waiting.wait(60) == 0
    assert {state(batch, job, task) for task in ("a-1", "a-2")} == {"completed"}
    assert run("wait", job).stdout == "3 tasks succeeded, 0 failed\n"


def test_who_waits_behind_a_failed_task_is_told(run: Run, start: Callable[..., Any], job: str) -> None:
    run("submit", "--job", job, "--id", "a", "--wait", "--", "false")
    waiting = start("submit", "--job", job, "--id", "b", "--after", "a", "-f", "--", "true")
    assert waiting.stderr.readline() == "b\n"
    assert waiting.stderr.readline() == f"batchyard: b waits for a, which failed; run it again with: batchyard retry {job} a\n"


def test_retries_show_as_new_attempts(run: Run, batch: Client, job: str, tmp_path: Path) -> None:
    script = "echo attempt; exit 1"
    done = run("submit", "--job", job, "--id", "t", "--retries", "1", "--slots", "2", "--wait", "--", "sh", "-c", script)
    assert done.returncode == 1
    task = batch.get("jobs", job, "tasks", "t")
    assert (task["executionInfo"]["retryCount"], task["requiredSlots"]) == (1, 2)


def test_retry_runs_failed_tasks_again(run: Run, batch: Client, job: str, gate: Path) -> None:
    run("submit", "--job", job, "--id", "t", "--array", "1-3", "--wait", "--", "sh", "-c", f"test {{}} = 2 || test -e {gate}")
    gate.touch()
    done = run("retry", job, "--failed")
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["t-1", "t-3"]), done.stderr
    assert run("wait", job).stdout == "3 tasks succeeded, 0 failed\n"
    again = run("retry", job, "--failed")
    assert (again.returncode, again.stdout) == (0, "")
    assert "no task" in again.stderr
    assert "TaskSucceeded" in sentence(run("retry", job, "t-2"))


def test_retry_wants_to_know_which(run: Run) -> None:
    assert "--failed" in sentence(run("retry", "any-job"), 2)


def test_cancelling_a_job_ends_its_tasks(run: Run, batch: Client, job: str) -> None:
    run("submit", "--job", job, "--id", "t", "--array", "1-2", "--", "sleep", "1000")
    assert run("cancel", job).returncode == 0
    assert run("wait", job).returncode == 1
    assert "JobCompleted" in sentence(run("submit", "--job", job, "--", "true")) or batch.get("jobs", job)["state"] == "terminating"


def test_lists_as_tables_and_json(run: Run, batch: Client, pool: str, job: str) -> None:
    run("submit", "--job", job, "--id", "t", "--wait", "--", "sh", "-c", "exit 3")
    shown = {what: run(*what.split()).stdout.splitlines() for what in ("pools", f"nodes {pool}", "jobs", f"tasks {job}")}
    assert any(re.match(rf"{pool} +active +steady +1 +1 +4 ", line) for line in shown["pools"])
    assert re.match(r"tvmps_\w+ +\w+ +enabled +\d/4 ", shown[f"nodes {pool}"][1])
    assert any(re.match(rf"{job} +active +{pool} +0 +0 +0 +0 +1 ", line) for line in shown["jobs"])
    assert re.match(r"t +completed +failure +3 +tvmps_\S+ +\S+ +\S+ +sh -c 'exit 3'$", shown[f"tasks {job}"][1])
    listed = {what: json.loads(run(*what.split(), "-o", "json").stdout) for what in shown if what != "pools"}
    assert listed[f"nodes {pool}"][0]["isDedicated"] is True
    assert next(one for one in listed["jobs"] if one["id"] == job)["taskCounts"]["failed"] == 1
    assert [(one["id"], one["executionInfo"]["exitCode"]) for one in listed[f"tasks {job}"]] == [("t", 3)]


def test_top_shows_what_runs(run: Run, start: Callable[..., Any], batch: Client, pool: str, job: str) -> None:
    following = start("submit", "--job", job, "--id", "t", "-f", "--", "sh", "-c", "echo on; exec sleep 1000")
    assert following.stdout.readline() == "on\n"
    picture = run("top", "--once").stdout
    assert re.search(rf"^{pool} +active ", picture, re.MULTILINE)
    assert re.search(rf"^{pool} +tvmps_\S+ +running +1/4 ", picture, re.MULTILINE)
    assert re.search(rf"^{job} +t +running +tvmps_.*sh -c 'echo on; exec sleep 1000'$", picture, re.MULTILINE)
    watching = start("top")
    assert watching.stdout.readline().startswith("POOL ")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 0


def test_a_missing_job_is_made_on_the_pool(run: Run, batch: Client, pool: str) -> None:
    name = f"daily-{secrets.token_hex(4)}"
    assert run("submit", "--pool", pool, "--job", name, "--wait", "--", "true").returncode == 0
    made = batch.get("jobs", name)
    assert (made["poolInfo"]["poolId"], made["usesTaskDependencies"]) == (pool, True)
    assert f"runs on the pool {pool}, not on other" in sentence(run("submit", "--pool", "other", "--job", name, "--", "true"))
    batch.delete("jobs", name)


def test_an_ended_default_job_is_followed_by_another(run: Run, batch: Client, pool: str) -> None:
    assert run("submit", "--pool", pool, "--wait", "--", "true").returncode == 0
    assert batch.get("jobs", pool)["state"] == "active"
    run("cancel", pool)
    assert run("submit", "--pool", pool, "--id", "t", "--wait", "--", "true").returncode == 0
    assert state(batch, f"{pool}-2", "t") == "completed"
    for name in (pool, f"{pool}-2"):
        batch.delete("jobs", name)


def test_what_is_not_there_is_said(run: Run, job: str, tmp_path: Path) -> None:
    assert "PoolNotFound" in sentence(run("submit", "--pool", "no-such-pool", "--", "true"))
    assert "PoolNotFound" in sentence(run("nodes", "no-such-pool"))
    assert "JobNotFound" in sentence(run("tasks", "no-such-job"))
    assert "no job has a task no-such-task" in sentence(run("logs", "no-such-task"))
    assert "there is no job nothing" in sentence(run("wait", "nothing"))
    assert "TaskNotFound" in sentence(run("cancel", job, "no-such-task"))
    assert "there is no file nope" in sentence(run("submit", "--job", job, "--in", "nope", "--", "true"))
    run("submit", "--job", job, "--id", "later", "--after", "never", "--", "true")
    assert "which is active" in sentence(run("logs", f"{job}/later"))
    assert run("submit", "--job", job).returncode == 2
    (tmp_path / "binary").write_bytes(b"\xff\n")
    assert "not UTF-8" in sentence(run("submit", "--job", job, "--each-line", "binary", "--", "true"))


def test_the_server_may_be_named_by_options_or_by_its_directory(run: Run, server: Server, job: str) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    named = ("--endpoint", server.endpoint, "--account", server.account, "--key", server.key)
    for where in (named, ("--dir", server.directory)):
        assert run("submit", "--job", job, *where, "--wait", "--", "true", env=bare).returncode == 0
    assert "storage" in sentence(run("submit", "--job", job, *named, "--out", "x", "--", "true", env=bare))
    done = run("submit", "--job", job, "--dir", server.directory, "--id", "f", "--wait", "--out", "x", "--", "touch", "x", env=bare)
    assert done.returncode == 0, done.stderr


def test_a_server_that_is_not_there_is_said(run: Run, server: Server, tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    assert "no server of" in sentence(run("jobs", "--dir", tmp_path))
    assert "account and key" in sentence(run("jobs", "--endpoint", server.endpoint, env=bare))
    assert "cannot reach the server" in sentence(run("jobs", "--endpoint", "http://127.0.0.1:1"))
    assert "does not accept this key (AuthenticationFailed)" in sentence(run("jobs", "--key", "AAAA"))
    assert "base64" in sentence(run("jobs", "--key", "no key!"))


def test_following_outlives_the_server(own_server: Restartable, tmp_path: Path) -> None:
    gate = own_server.directory / "gate"
    script = f"echo first; {until_open(gate)}; echo last; exit 5"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    following = subprocess.Popen(
        command("submit", "-f", "--id", "t", "--", "sh", "-c", script), **pipes, text=True, env=own_server.environment, cwd=tmp_path
    )
    try:
        assert following.stdout is not None
        assert following.stdout.readline() == "first\n"
        own_server.kill()
        own_server.start()
        gate.touch()
        assert following.communicate(timeout=90) == ("last\n", "t\nbatchyard: t failed with exit code 5\n")
        assert following.returncode == 5
    finally:
        following.kill()
        following.communicate()


def test_errors_are_refusals_with_their_code(batch: Client) -> None:
    with pytest.raises(Refused) as caught:
        batch.get("jobs", "no/such job")
    assert caught.value.code == 1
    assert caught.value.error
