"""Nouns and verbs, selectors and formats, as processes against a live server."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import secrets
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from tests.cli.conftest import Cli, Server, command
from tests.conftest import wait_for

from batchyard.cli.client import Client, Refused


def gone(client: Client, *path: str) -> bool:
    """It is not there, or no longer for long."""
    try:
        return client.get(*path)["state"] == "deleting"
    except Refused as refused:
        return refused.error.endswith("NotFound")


def test_a_pool_from_beginning_to_end(cli: Cli, client: Client, tmp_path: Path) -> None:
    name = f"pool-{secrets.token_hex(4)}"
    more = ("--nodes", "0", "--slots", "3", "--metadata", "team=red", "--start-task", "true")
    assert cli("pool", "create", name, *more).stdout == f"{name}\n"
    made = client.get("pools", name)
    assert (made["taskSlotsPerNode"], made["metadata"], made["startTask"]["commandLine"]) == (3, [{"name": "team", "value": "red"}], "true")
    assert cli("pool", "update", name, "--metadata", "team=blue").returncode == 0
    assert client.get("pools", name)["metadata"] == [{"name": "team", "value": "blue"}]
    assert cli("pool", "start-task", name, "--off").returncode == 0
    changed = client.get("pools", name)
    assert ("startTask" in changed, changed["metadata"]) == (False, [{"name": "team", "value": "blue"}])
    cli("pool", "start-task", name, "--", "sh", "-c", "echo on")
    assert "echo on" in cli("pool", "start-task", name).stdout
    (tmp_path / "formula").write_text("$TargetDedicatedNodes = 0;")
    assert "decides" in cli("pool", "autoscale", name, "@formula", "--every", "PT10M").stdout
    assert client.get("pools", name)["autoScaleEvaluationInterval"] == "PT10M"
    assert "$TargetDedicatedNodes=0" in cli("pool", "evaluate", name).stdout
    wrong = cli("pool", "evaluate", name, "$a=b")
    assert (wrong.returncode, "Undefined symbol" in wrong.stderr) == (1, True)
    assert cli("pool", "autoscale", name, "--off").returncode == 0
    wait_for(lambda: client.get("pools", name)["allocationState"] == "steady", "the pool to be steady")
    assert cli("pool", "resize", name, "--low-priority", "0").stdout == f"the pool {name} becomes 0 low-priority nodes\n"
    assert re.search(rf"^{name} +\d", cli("pool", "counts").stdout, re.MULTILINE)
    assert f"{name}\n" in cli("pool", "list", f"{name[:-1]}*", "-o", "id").stdout
    assert cli("pool", "replace", name).returncode == 2
    assert cli("pool", "delete", name).returncode == 0
    wait_for(lambda: gone(client, "pools", name), "the pool to go")


def test_a_job_from_beginning_to_end(cli: Cli, client: Client, shared_pool: str) -> None:
    name = f"job-{secrets.token_hex(4)}"
    assert cli("job", "create", name, "--pool", shared_pool, "--priority", "7", "--retries", "2").stdout == f"{name}\n"
    made = client.get("jobs", name)
    assert (made["priority"], made["constraints"]["maxTaskRetryCount"], made["usesTaskDependencies"]) == (7, 2, True)
    cli("job", "update", name, "--priority", "-3", "--parallel", "2")
    made = client.get("jobs", name)
    assert (made["priority"], made["maxParallelTasks"]) == (-3, 2)
    assert cli("job", "disable", name).returncode == 0
    wait_for(lambda: client.get("jobs", name)["state"] == "disabled", "the job to be disabled")
    assert cli("job", "enable", name).returncode == 0
    assert cli("job", "terminate", name, "--reason", "enough").returncode == 0
    wait_for(lambda: client.get("jobs", name)["state"] == "completed", "the job to end")
    assert client.get("jobs", name)["executionInfo"]["terminateReason"] == "enough"
    assert cli("job", "delete", name).returncode == 0
    wait_for(lambda: gone(client, "jobs", name), "the job to go")


def test_a_task_from_beginning_to_end(cli: Cli, client: Client, own_job: str, tmp_path: Path) -> None:
    body = {"id": "t", "commandLine": "sh -c 'echo out > out.txt; echo said; exit $CODE'"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**body, "environmentSettings": [{"name": "CODE", "value": "3"}]}))
    assert cli("task", "create", own_job, "-f", "task.yaml", "--retries", "0").stdout == "t\n"
    assert cli("wait", f"{own_job}/t").returncode == 3
    shown = yaml.safe_load(cli("task", "show", f"{own_job}/t").stdout)
    assert (shown["executionInfo"]["exitCode"], "odata.metadata" in shown) == (3, False)
    assert {"wd/out.txt", "stdout.txt"} <= set(cli("task", "files", f"{own_job}/t", "-o", "name").stdout.split())
    assert cli("task", "cp", f"{own_job}/t", "wd/out.txt", "-").stdout == "out\n"
    cli("task", "cp", f"{own_job}/t", "wd/out.txt", "here.txt")
    cli("task", "cp", f"{own_job}/t", "wd", "there")
    assert [(tmp_path / name).read_text() for name in ("here.txt", "there/wd/out.txt")] == ["out\n"] * 2
    assert cli("task", "files", f"{own_job}/t", "wd/out.txt", "--delete").returncode == 0
    assert "wd/out.txt" not in cli("task", "files", f"{own_job}/t").stdout
    assert "TaskCompleted" in cli("task", "update", f"{own_job}/t", "--retries", "4").stderr
    assert cli("task", "why", f"{own_job}/t").stdout.startswith("task t is completed")
    assert cli("task", "retry", f"{own_job}/t").stdout == "t\n"
    cli("wait", f"{own_job}/t")
    assert cli("task", "delete", f"{own_job}/t").stdout == "t\n"
    with pytest.raises(Refused, match="TaskNotFound"):
        client.get("jobs", own_job, "tasks", "t")


def test_a_start_task_and_the_agents_log(cli: Cli, client: Client) -> None:
    name = f"start-{secrets.token_hex(4)}"
    cli("pool", "create", name, "--nodes", "1", "--start-task", "sh -c 'echo one; echo two; echo aside >&2'")
    wait_for(lambda: cli("node", "list", name, "--where", "state:idle", "-o", "id").stdout, "a node")
    assert cli("node", "logs", f"{name}/*", "-f").stdout == "one\ntwo\n"
    assert cli("node", "logs", f"{name}/*", "--stderr").stdout == "aside\n"
    assert f"pool='{name}'" in cli("node", "logs", f"{name}/*", "--service").stdout
    assert cli("pool", "why", name).stdout.startswith(f"pool {name} is active")
    client.delete("pools", name)


def test_many_tasks_of_a_file(cli: Cli, client: Client, idle_job: str) -> None:
    many = json.dumps([{"id": f"t{number}", "commandLine": "true"} for number in range(120)])
    assert len(cli("task", "create", idle_job, "-f", "-", input=many).stdout.split()) == 120
    assert client.get("jobs", idle_job, "taskcounts")["taskCounts"]["active"] == 120


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pool", "create", "p", "--dry-run", "-f", "-"], "unknown field `what`"),
        (["job", "create", "j", "--pool", "p", "--dry-run", "-f", "-"], "unknown field `what`"),
        (["task", "create", "j", "--dry-run", "-f", "-", "--", "true"], "unknown field `what`"),
    ],
)
def test_a_dry_run_finds_what_is_wrong_and_sends_nothing(cli: Cli, words: list[str], said: str) -> None:
    wrong = cli(*words, input='{"what": 1}')
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert said in wrong.stderr
    good = cli(*words, input="{}")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)


def test_nodes(cli: Cli, client: Client, shared_pool: str) -> None:
    def idle() -> str:
        return next((str(one["id"]) for one in client.listed("pools", shared_pool, "nodes") if one["state"] == "idle"), "")

    node = wait_for(idle, "a node")

    def state() -> str:
        return str(client.get("pools", shared_pool, "nodes", node)["state"])

    assert cli("node", "drain", node[:20]).stdout == f"{node} of {shared_pool} starts nothing more\n"
    wait_for(lambda: state() == "offline", "the node to be offline")
    assert cli("node", "enable", f"{shared_pool}/{node}").returncode == 0
    wait_for(lambda: state() == "idle", "the node to be idle")
    assert json.loads(cli("node", "show", node, "-o", "json").stdout)["batchyard"]["provider"] == "local"
    assert "workitems" in cli("node", "files", node).stdout
    assert cli("node", "list", shared_pool, "-o", "id").stdout == f"{node}\n"
    assert cli("node", "list", "--where", "state:idle", "--limit", "1").stdout.splitlines()[0].startswith("POOL  ")
    assert cli("node", "reboot", "no-such-node").stderr == "batchyard: there is no node no-such-node\n"
    cli("node", "reboot", f"{shared_pool}/*", "--when", "taskcompletion")
    wait_for(lambda: state() in ("rebooting", "starting", "creating"), "the node to reboot")
    wait_for(lambda: state() == "idle", "the node to come back")


@pytest.fixture(scope="module")
def twelve(client: Client, shared_pool: str, server: Server) -> str:
    """A job with twelve tasks of different ends."""
    name = f"twelve-{secrets.token_hex(4)}"
    client.post("jobs", body={"id": name, "poolInfo": {"poolId": shared_pool}})
    script = "echo line {}a; echo line {}b; exit $(({} % 4))"
    words = command("submit", "--job", name, "--id", "x", "--array", "1-12", "--name", "the {}.", "--wait", "--", "sh", "-c", script)
    subprocess.run(words, env=server.environment, capture_output=True, check=False, timeout=90)
    return name


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("1-3", "x-1 x-2 x-3"),
        ("x-10,12", "x-10 x-12"),
        ("x-1*", "x-1 x-10 x-11 x-12"),
        ("*2", "x-2 x-12"),
        ("x-4 x-6", "x-4 x-6"),
        ("x-6,x-4", "x-4 x-6"),
        ("x-1* 2 x-1 --limit 4", "x-1 x-2 x-10 x-11"),
        ("x-1* X-9 --where sort:-id", "x-9 x-12 x-11 x-10 x-1"),
        ("--failed --limit 2", "x-1 x-2"),
        ("--exit 3", "x-3 x-7 x-11"),
        ("--exit 0,3 1-5", "x-3 x-4"),
        ("--state completed --since 1h --where id:x-9", "x-9"),
        ("--since 2037-01-01", ""),
        ("--where sort:-exit --limit 3", "x-3 x-7 x-11"),
        ("--where exit:2 --where node:tvm*", "x-2 x-6 x-10"),
        ("--where 1", "x-1 x-10 x-11 x-12"),
    ],
)
def test_which_tasks(cli: Cli, twelve: str, words: str, ids: str) -> None:
    done = cli("task", "list", twelve, *words.split(), "-o", "id")
    assert (done.returncode, done.stdout.split()) == (0, ids.split()), done.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("{job}/1-2", ["line 1a", "line 1b", "line 2a", "line 2b"]),
        ("{job}/x-1 {job}/x-3 --tail 1", ["line 1b", "line 3b"]),
        ("{job}/last --prefix", ["{job}/x-12: line 12a", "{job}/x-12: line 12b"]),
        ("{job} --exit 3 --tail 1 --prefix", ["{job}/x-3: line 3b", "{job}/x-7: line 7b", "{job}/x-11: line 11b"]),
        ("x-5 --job {job}", ["line 5a", "line 5b"]),
        ("{job}/x-5 --stderr", []),
        ("{job}/1-2 -f --prefix", None),
    ],
)
def test_logs_of_many(cli: Cli, twelve: str, words: str, shown: list[str] | None) -> None:
    done = cli("logs", *words.format(job=twelve).split())
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    if shown is None:
        assert sorted(lines) == [f"{twelve}/x-{number}: line {number}{end}" for number in (1, 2) for end in "ab"]
    else:
        assert lines == [line.format(job=twelve) for line in shown]


def test_formats(cli: Cli, twelve: str) -> None:
    def listed(*words: str) -> str:
        done = cli("task", "list", twelve, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ids = [f"x-{number}" for number in range(1, 13)]
    assert [one["id"] for one in json.loads(listed("-o", "json"))] == ids
    assert [json.loads(line)["id"] for line in listed("-o", "jsonl").splitlines()] == ids
    assert [one["id"] for one in yaml.safe_load(listed("-o", "yaml"))] == ids
    assert listed("-o", "name").splitlines()[0] == "the 1."
    assert listed("-o", "json", "1-2", "--query", "[].executionInfo.exitCode") == "[\n  1,\n  2\n]\n"
    assert listed("-o", "jsonl", "1-2", "--query", "id") == '"x-1"\n"x-2"\n'
    assert listed("1", "--query", "[].{id: id, code: executionInfo.exitCode}") == "ID   CODE\nx-1  1\n"
    assert "RETRIES" in listed("-o", "wide").splitlines()[0]
    assert listed("-o", "json", "--where", "id:nothing") == "[]\n"
    wrong = cli("task", "list", twelve, "--query", "[")
    assert (wrong.returncode, "--query is no JMESPath" in wrong.stderr) == (2, True)


def test_names_that_a_locale_does_not_know(cli: Cli, client: Client, server: Server, idle_job: str) -> None:
    client.post("jobs", idle_job, "tasks", body={"id": "t", "commandLine": "echo ünï", "displayName": "grün"})
    ascii_only = {**server.environment, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    assert "echo \\xfcn\\xef" in cli("tasks", idle_job, env=ascii_only).stdout
    for output in ("json", "jsonl"):
        assert "grün" in cli("tasks", idle_job, "-o", output, env=ascii_only, text=False).stdout.decode()  # type: ignore[attr-defined]
    assert cli("task", "show", f"{idle_job}/t", env=ascii_only).returncode == 0


def test_a_reader_that_goes_ends_a_list_quietly(client: Client, server: Server, idle_job: str) -> None:
    for start in range(0, 2000, 100):
        tasks = [{"id": f"t{start + number}", "commandLine": "x" * 200} for number in range(100)]
        client.post("jobs", idle_job, "addtaskcollection", body={"value": tasks})
    for output in ("table", "json", "jsonl", "id"):
        listing = subprocess.Popen(
            command("tasks", idle_job, "-o", output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=server.environment
        )
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.readline()
        listing.stdout.close()
        assert (listing.wait(60), listing.stderr.read()) in ((130, b""), (0, b"")), output
        listing.stderr.close()


def test_watching_prints_what_changes(client: Client, server: Server, own_job: str) -> None:
    words = command("task", "list", own_job, "-w", "-o", "jsonl", "--query", "[id, state]")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=server.environment) as watching:
        assert watching.stdout is not None
        client.post("jobs", own_job, "tasks", body={"id": "t", "commandLine": "true"})
        lines = []
        while not lines or json.loads(lines[-1]) != ["t", "completed"]:
            lines.append(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130


def on_a_terminal(words: list[str], environment: dict[str, str], columns: int, answer: bytes = b"") -> tuple[int, str]:
    """Exit code and output of a command on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    measured = {name: value for name, value in environment.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=measured, close_fds=True)
    os.close(theirs)
    os.write(ours, answer)
    text = b""
    try:
        while more := os.read(ours, 65536):
            text += more
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return process.wait(60), text.decode()


def test_a_narrow_terminal_shows_id_and_state(server: Server, twelve: str) -> None:
    plain = {**server.environment, "NO_COLOR": "1"}
    code, text = on_a_terminal(command("task", "list", twelve, "1-2"), plain, 24)
    assert code == 0
    lines = text.replace("\r", "").splitlines()
    assert re.match(r"x-1 +completed", lines[1])
    assert max(map(len, lines)) <= 24
    assert "\x1b" not in text
    coloured = on_a_terminal(command("task", "list", twelve, "1-2"), server.environment, 80)[1]
    assert "\x1b[" in coloured


@pytest.mark.parametrize(("answer", "ended"), [(b"n\n", False), (b"\n", False), (b"y\n", True)])
def test_a_question_before_something_is_lost(client: Client, server: Server, idle_job: str, answer: bytes, ended: bool) -> None:
    for number in range(3):
        client.post("jobs", idle_job, "tasks", body={"id": f"t{number}", "commandLine": "true"})
    code, text = on_a_terminal(command("cancel", idle_job), server.environment, 100, answer)
    assert f"End the job {idle_job} with 0 running and 3 waiting tasks? [y/N]" in text
    assert code == (0 if ended else 1)
    assert (client.get("jobs", idle_job)["state"] != "active") is ended


def test_no_question_with_yes_or_without_a_terminal(cli: Cli, client: Client, server: Server, idle_job: str) -> None:
    client.post("jobs", idle_job, "tasks", body={"id": "t", "commandLine": "true"})
    assert cli("task", "delete", f"{idle_job}/t", stdin=subprocess.DEVNULL).returncode == 0
    client.post("jobs", idle_job, "tasks", body={"id": "u", "commandLine": "true"})
    code, text = on_a_terminal(command("task", "delete", f"{idle_job}/u", "--yes"), server.environment, 100)
    assert (code, "?" in text) == (0, False)


def test_waiting_for_tasks_that_somebody_deletes_ends(cli: Cli, client: Client, server: Server, idle_job: str) -> None:
    words = command("submit", "--job", idle_job, "--id", "x", "--array", "1-3", "--wait", "--", "true")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=server.environment) as waiting:
        wait_for(lambda: client.get("jobs", idle_job, "taskcounts")["taskCounts"]["active"] == 3, "the tasks")
        assert cli("task", "delete", f"{idle_job}/*").returncode == 0
        assert waiting.wait(60) == 1
        assert waiting.stderr is not None
        assert "TaskNotFound" in waiting.stderr.read()


def test_progress_does_not_get_into_the_lines(server: Server, idle_job: str) -> None:
    words = command("submit", "--job", idle_job, "--id", "p", "--array", "1-3000", "--", "true")
    code, text = on_a_terminal(words, server.environment, 100)
    assert code == 0
    lines = [line.rpartition("\x1b[K")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line] == [f"p-{number}" for number in range(1, 3001)]
    assert re.search(r"adding  \[[#.]{24}\]  [\d,]+ of 3,000  ", text)


def test_ctrl_c_while_adding_says_how_far_it_came(cli: Cli, server: Server, idle_job: str, tmp_path: Path) -> None:
    words = command("submit", "--job", idle_job, "--id", "many", "--array", "1-100000", "--", "true")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=server.environment) as adding:
        assert adding.stdout is not None
        assert adding.stderr is not None
        adding.stdout.readline()
        adding.send_signal(signal.SIGINT)
        adding.stdout.read()
        told = adding.stderr.read()
        assert adding.wait(60) == 130
    said = re.fullmatch(
        rf"batchyard: ([\d,]+) of 100,000 tasks added to {idle_job}; batchyard cancel {idle_job} 'many-\*' ends them\n", told
    )
    assert said, told
    count = len(cli("task", "list", idle_job, "-o", "id").stdout.split())
    assert int(said[1].replace(",", "")) <= count < 100_000


def test_storage(cli: Cli, tmp_path: Path) -> None:
    name = f"box-{secrets.token_hex(4)}"
    (tmp_path / "d" / "e").mkdir(parents=True)
    for file in ("d/a.txt", "d/e/b.txt"):
        (tmp_path / file).write_text(file)
    assert cli("storage", "create", name).stdout == f"{name}\n"
    assert cli("storage", "cp", "d", f"{name}:").returncode == 0
    assert cli("storage", "cp", "d/a.txt", f"{name}:single").returncode == 0
    assert cli("storage", "list", name, "-o", "name").stdout.split() == ["d/a.txt", "d/e/b.txt", "single"]
    assert name in cli("storage", "list").stdout
    assert cli("storage", "cp", f"{name}:d/*", "back").returncode == 0
    assert (tmp_path / "back" / "d" / "e" / "b.txt").read_text() == "d/e/b.txt"
    assert cli("storage", "cp", f"{name}:single", "one.txt").returncode == 0
    assert (tmp_path / "one.txt").read_text() == "d/a.txt"
    assert cli("storage", "delete", name, "d/*").stdout.split() == ["d/a.txt", "d/e/b.txt"]
    assert cli("storage", "delete", name).returncode == 0
    assert "ContainerNotFound" in cli("storage", "list", name).stderr
