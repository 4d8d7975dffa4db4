"""Outputs and files of tasks come back, at once or later; many ways to make many tasks."""

from __future__ import annotations

import os
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, Server

from batchyard.agent.http import Http, Unreachable
from batchyard.cli import boxes, fetch
from batchyard.cli.boxes import Blob
from batchyard.cli.client import Client
from batchyard.cli.problem import Problem
from batchyard.cli.storage import Storage


def tree(root: Path) -> dict[str, str]:
    """Files below a directory with their content."""
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_outputs_are_fetched_later(cli: Cli, own_job: str, tmp_path: Path) -> None:
    script = "mkdir -p sub; echo {} > sub/{}.csv; echo more > {}.log; echo said"
    cli("submit", "--job", own_job, "--id", "o", "--array", "1-3", "--out", "sub/*.csv", "--", "sh", "-c", script)
    assert cli("wait", own_job).returncode == 0
    one = cli("get", f"{own_job}/o-2", "--into", "one")
    assert (one.returncode, one.stdout) == (0, "one/sub/2.csv\n"), one.stderr
    assert cli("get", own_job, "--into", "all").returncode == 0
    assert tree(tmp_path / "all") == {f"o-{number}/sub/{number}.csv": f"{number}\n" for number in (1, 2, 3)}
    assert cli("get", f"{own_job}/1,3", "*.log", "stdout.txt", "--into", "some").returncode == 0
    assert tree(tmp_path / "some") == {
        f"o-{number}/{name}": text for number in (1, 3) for name, text in ((f"{number}.log", "more\n"), ("stdout.txt", "said\n"))
    }
    nothing = cli("get", own_job, "*.none")
    assert (nothing.returncode, "nothing of" in nothing.stderr) == (1, True)


def test_small_outputs_of_many_tasks_come_with_their_list(cli: Cli, client: Client, own_job: str, tmp_path: Path) -> None:
    script = "mkdir sub; echo {} > sub/a; head -c 100000 /dev/zero > large"
    words = ("--array", "1-120", "--wait", "--out", "sub/*", "--out", "large", "--out-dir", "here")
    done = cli("submit", "--job", own_job, "--id", "o", *words, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(tree(tmp_path / "here")) == 240
    assert (tmp_path / "here/o-120/sub/a").read_text() == "120\n"
    place = client.get("jobs", own_job, "tasks", "o-1")["outputFiles"][0]["destination"]["container"]
    folder = place["path"].partition("/o-1/")[0]
    prefixes = [f"{folder}/o-{number}/" for number in range(1, 121)]
    storage = Storage(client.storage)
    together = storage.reader(client).below(prefixes)
    assert {blob.name.rpartition("/")[2]: blob.content for blob in together[prefixes[6]]} == {"a": b"7\n", "large": None}
    alone = storage.reader(Client("http://127.0.0.1:1", "other", "a2V5")).below(prefixes)
    assert {prefix: [blob._replace(content=None, modified=0) for blob in blobs] for prefix, blobs in together.items()} == {
        prefix: [blob._replace(modified=0) for blob in blobs] for prefix, blobs in alone.items()
    }
    pairs = zip(together[prefixes[0]], alone[prefixes[0]], strict=True)
    assert all(int(one.modified) == int(other.modified) for one, other in pairs)


def test_outputs_need_no_sdk(cli: Cli, server: Server, own_job: str, tmp_path: Path) -> None:
    words = ("submit", "--job", own_job, "--wait", "--out", "x", "--", "sh", "-c", "echo there > x")
    assert cli(*words).returncode == 0
    (tmp_path / "x").unlink()
    done = cli(*words, env={**server.environment, "PYTHONPROFILEIMPORTTIME": "1"})
    assert (done.returncode, (tmp_path / "x").read_text()) == (0, "there\n")
    assert "batchyard.cli.fetch" in done.stderr
    assert "azure" not in done.stderr


def test_what_is_there_is_not_fetched_again(cli: Cli, own_job: str, tmp_path: Path) -> None:
    cli("submit", "--job", own_job, "--id", "o", "--wait", "--out", "x", "--", "sh", "-c", "echo first > x")
    seconds = int((tmp_path / "x").stat().st_mtime)
    (tmp_path / "x").write_text("fIRST\n")
    os.utime(tmp_path / "x", (seconds, seconds))
    assert cli("get", f"{own_job}/o").returncode == 0
    assert (tmp_path / "x").read_text() == "first\n"  # the time in seconds does not tell versions apart
    inode = (tmp_path / "x").stat().st_ino
    assert cli("get", f"{own_job}/o").returncode == 0
    assert (tmp_path / "x").stat().st_ino == inode


def test_outputs_after_a_retry_are_the_new_ones(cli: Cli, own_job: str, tmp_path: Path) -> None:
    flag = f"/tmp/batchyard-test-{secrets.token_hex(6)}"
    script = f"test -e {flag} && echo good > x || {{ touch {flag}; exit 5; }}"
    assert cli("submit", "--job", own_job, "--id", "o", "--wait", "--out", "x", "--", "sh", "-c", script).returncode == 5
    assert not (tmp_path / "x").exists()
    cli("retry", own_job, "o")
    assert cli("wait", f"{own_job}/o").returncode == 0
    assert cli("get", f"{own_job}/o").returncode == 0
    assert (tmp_path / "x").read_text() == "good\n"


def test_patterns_that_match_nothing_are_said(cli: Cli, own_job: str) -> None:
    done = cli(
        "submit",
        "--job",
        own_job,
        "--id",
        "o",
        "--array",
        "1-2",
        "--wait",
        "--out",
        "*.a",
        "--out",
        "{}.b",
        "--",
        "sh",
        "-c",
        "touch 1.a {}.b",
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = cli(
        "submit",
        "--job",
        own_job,
        "--id",
        "p",
        "--wait",
        "--out",
        "deep/**/*.a",
        "--out",
        "no*",
        "--",
        "sh",
        "-c",
        "mkdir deep; touch deep/x.a",
    )
    assert (done.returncode, done.stderr) == (0, "batchyard: --out 'no*' of p matched nothing\n")


@pytest.mark.parametrize(
    ("pattern", "names", "found"),
    [
        ("a.txt", ["a.txt"], True),
        ("*.txt", ["a.txt"], True),
        ("sub/**/*.txt", ["sub/deep/a.txt"], True),
        ("sub/**/*.txt", ["sub/a.txt"], True),
        ("*.txt", [], False),
        ("b*", ["a"], False),
        ("../stdout.txt", ["stdout.txt"], True),
        ("/tmp/x/*.log", ["y.log"], True),
    ],
)
def test_what_a_pattern_matches(pattern: str, names: list[str], found: bool) -> None:
    assert fetch.matched(pattern, names) is found


def test_a_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content, asked = b"0123456789", []

    def read(start: int, most: int) -> bytes:
        asked.append(start)
        if start == 4 and len(asked) == 2:
            raise OSError("cut off")
        return content[start : start + min(most, 4)]

    blob = Blob("x", len(content), "0xETAG", 1_000_000_000.0)
    with pytest.raises(OSError, match="cut off"):
        boxes.download(blob, tmp_path / "x", read)
    assert not (tmp_path / "x").exists()
    assert boxes.download(blob, tmp_path / "x", read)
    assert ((tmp_path / "x").read_bytes(), asked) == (content, [0, 4, 4, 8])
    assert not boxes.download(blob, tmp_path / "x", read)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(Problem, match="changed while"):
        boxes.download(blob._replace(size=20, etag="other"), tmp_path / "x", read)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", ".", ""])
def test_nothing_is_written_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(Problem, match="outside"):
        boxes.inside(tmp_path / "into", name)
    assert boxes.inside(tmp_path / "into", "/a/b") == tmp_path / "into" / "a" / "b"


def test_a_matrix_makes_all_combinations(cli: Cli, own_job: str) -> None:
    options = ("--matrix", "a=1,2", "--matrix", "b=x,y")
    done = cli("submit", "--job", own_job, "--id", "m", *options, "-f", "--", "sh", "-c", 'echo "{a} {b} $a$b {c}"')
    assert done.stdout.splitlines() == [f"{a} {b} {a}{b} {{c}}" for a in (1, 2) for b in "xy"], done.stderr
    assert done.stderr.split() == ["m-1-1", "m-1-2", "m-2-1", "m-2-2"]


def test_a_script_says_its_options(cli: Cli, client: Client, own_job: str, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(
        "#!/bin/sh\n#BATCHYARD --slots 2 --retries 3  # why\n#BATCHYARD --env 'X=a b'\n#BATCHYARD --out res.txt\necho \"$X $*\" > res.txt\n"
    )
    done = cli("submit", "--job", own_job, "--id", "s", "--retries", "1", "--script", "job.sh", "--wait", "--", "one", "two words")
    assert done.returncode == 0, done.stderr
    task = client.get("jobs", own_job, "tasks", "s")
    assert (task["requiredSlots"], task["constraints"]["maxTaskRetryCount"]) == (2, 1)
    assert (tmp_path / "res.txt").read_text() == "a b one two words\n"
    (tmp_path / "plain").write_text("#BATCHYARD --slotz 2\n")
    wrong = cli("submit", "--script", "plain")
    assert (wrong.returncode, "in the #BATCHYARD lines of plain: there is no option --slotz; did you mean --slots?" in wrong.stderr) == (
        2,
        True,
    )


def test_stdin_cwd_and_name(cli: Cli, client: Client, own_job: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from a file\n")
    done = cli("submit", "--job", own_job, "--id", "f", "--stdin", "in.txt", "--name", "shown", "-f", "--", "cat")
    assert done.stdout == "from a file\n", done.stderr
    assert client.get("jobs", own_job, "tasks", "f")["displayName"] == "shown"
    assert (
        cli("submit", "--job", own_job, "--stdin", "-", "--cwd", "/", "-f", "--", "sh", "-c", "pwd; cat", input="piped").stdout
        == "/\npiped"
    )
    assert cli("submit", "--job", own_job, "--cwd", "no such", "--wait", "--", "true").returncode != 0


def test_a_pool_on_the_fly(cli: Cli, client: Client) -> None:
    name = f"fly-{secrets.token_hex(4)}"
    words = ("submit", "--pool", name, "--nodes", "0", "--size", "standard_d4s_v3", "--", "true")
    assert cli(*words).returncode == 0
    made = client.get("pools", name)
    assert (made["vmSize"], made["targetDedicatedNodes"], client.get("jobs", name)["poolInfo"]["poolId"]) == ("standard_d4s_v3", 0, name)
    again = cli(*words)
    assert again.returncode == 0
    assert f"the pool {name} is there and stays as it is" in again.stderr
    cli("cancel", name)
    moved = cli("submit", "--pool", name, "--", "true")
    assert (moved.returncode, f"the job {name} has ended, or runs elsewhere; these go to {name}-2" in moved.stderr) == (0, True)
    for job in (name, f"{name}-2"):
        client.delete("jobs", job)
    client.delete("pools", name)


class Closes(BaseHTTPRequestHandler):
    """Answers once a connection and closes it without saying so."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    http = Http(f"http://127.0.0.1:{server.server_port}")
    try:
        for _ in range(5):
            assert http.send("GET", "/", {}, None).body == b"ok"
    finally:
        http.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port", "nothing"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(Unreachable):
        Http(url)


def test_an_address_of_version_6_stays_in_its_brackets() -> None:
    http = Http("http://user@[::1]:8777/account")
    assert (http.name, http.host) == ("[::1]:8777", "::1")


def test_a_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "local.invalid")
    try:
        assert Http("http://far.invalid").send("GET", "/", {}, None).body == b"ok"
        with pytest.raises(Unreachable):
            Http("http://local.invalid").send("GET", "/", {}, None)
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert Http(f"http://127.0.0.1:{server.server_port}").send("GET", "/", {}, None).body == b"ok"
    finally:
        server.shutdown()
        server.server_close()
