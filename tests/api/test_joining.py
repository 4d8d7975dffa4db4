"""Machines that join over HTTP and TLS: with a token and no other way, once however often they ask, and no further than their pool."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.conftest import Server, wait_for

from batchyard.api.operations import OPERATIONS
from batchyard.cli.client import Client
from batchyard.model.joining import JOIN_PATH
from batchyard.model.sync import SYNC_PATH

COMMAND = [sys.executable, "-P", "-m", "batchyard.cli.main"]
IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
MACHINE = {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
A, B = "a" * 48, "b" * 48


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for a node, which tasks of other users may pass through."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o711)
        yield Path(place) / "node"


@contextlib.contextmanager
def trusting(server: Server) -> Iterator[Client]:
    """A client that knows the server's authority."""
    with pytest.MonkeyPatch.context() as patch:
        bundle = server.directory / "tls" / "bundle.pem"
        if bundle.exists():
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
                patch.setenv(name, str(bundle))
        with Client(server.endpoint, server.account, server.key) as client:
            yield client


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=90, check=False)


@contextlib.contextmanager
def node(home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The agent of a joined machine, its log in `home.log`."""
    with home.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen([*COMMAND, "join", *words, "--home", str(home)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def pool(batch: Client, name: str, nodes: int) -> None:
    size = {"vmSize": "standard_d2s_v3", "targetDedicatedNodes": nodes, "taskSlotsPerNode": 1}
    batch.post("pools", body={"id": name, "virtualMachineConfiguration": MACHINE, **size})


def idle(batch: Client, name: str, count: int) -> Any:
    def look() -> Any:
        found = [one for one in batch.listed("pools", name, "nodes") if one["state"] == "idle"]
        return found if len(found) == count else None

    return wait_for(look, f"{count} idle nodes")


def ask(server: Server, path: str, token: str, body: object, method: str = "POST") -> tuple[int, dict[str, Any]]:
    parts = urlsplit(server.endpoint)
    with contextlib.closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)) as line:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "ocp-date": formatdate(usegmt=True)}
        line.request(method, path, json.dumps(body), headers)
        answer = line.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content.startswith(b"{") else {}


def test_a_machine_joins_over_tls_and_works_beside_local_nodes_and_comes_back_without_the_token(home: Path) -> None:
    server, other = Server("--tls", "auto", "--name", "localhost", nodes=1), Server("--tls", "auto", nodes=0)
    try:
        with trusting(server) as batch:
            pool(batch, "mixed", 1)
            made = batchyard("pool", "join-token", "mixed", "--dir", server.directory, "--expires", "10m")
            assert made.returncode == 0, made.stderr
            words = made.stdout.split()
            assert words[:2] == ["batchyard", "join"]
            assert words[2].startswith("https://localhost:")
            stranger = batchyard("join", other.endpoint, *words[3:], "--home", home.with_name("never"))
            assert "is not the server of this token: it has another authority. Nothing was told to it" in stranger.stderr
            with node(home, *words[2:]) as agent:
                nodes = idle(batch, "mixed", 2)
                batch.post("jobs", body={"id": "both", "poolInfo": {"poolId": "mixed"}})
                for name in ("one", "two"):  # each waits until both run
                    both = f"[ -e {home.parent}/one -a -e {home.parent}/two ]"
                    command = f"sh -c 'touch {home.parent}/$AZ_BATCH_TASK_ID; until {both}; do sleep 0.1; done'"
                    home.parent.chmod(0o777)
                    batch.post("jobs", "both", "tasks", body={"id": name, "commandLine": command})
                wait_for(lambda: all(one["state"] == "completed" for one in batch.listed("jobs", "both", "tasks")), "the tasks")
                ran = {one["nodeInfo"]["nodeId"] for one in batch.listed("jobs", "both", "tasks")}
                assert ran == {one["id"] for one in nodes}
                assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
                assert words[4] not in "".join(path.read_text() for path in home.iterdir() if path.is_file())
                agent.kill()
                agent.wait()
            with node(home):
                wait_for(lambda: home.with_suffix(".log").read_text().count("'joined'") == 2, "the node to be back")
                idle(batch, "mixed", 2)
            again = batchyard("join", *words[2:], "--home", home.with_name("second"))
            assert (again.returncode, again.stderr) == (
                1,
                "batchyard: The join token was used as often as it may be (AuthenticationFailed)\n",
            )
            unit = batchyard("join", "--home", home, "--systemd").stdout
            assert f"--home {home}" in unit
            assert "ExecStart=" in unit
            assert words[4] not in unit
    finally:
        server.stop()
        other.stop()


def test_a_join_whose_answer_was_lost_with_its_server_is_one_node(home: Path) -> None:
    server = Server("--provider", "external", nodes=4)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            pool(batch, "lost", 0)
            token = batch.post("batchyard", "v1", "pools", "lost", "jointokens", body={})["token"]
        status, first = ask(server, JOIN_PATH, token, {"name": A})
        assert status == 200
        server.kill()  # what it said is taken as not heard
        server.start()
        assert ask(server, JOIN_PATH, token, {"name": A}) == (200, first)
        status, refused = ask(server, JOIN_PATH, token, {"name": B})
        assert (status, refused["code"]) == (403, "AuthenticationFailed")
        with Client(server.endpoint, server.account, server.key) as batch:
            assert [one["id"] for one in batch.listed("pools", "lost", "nodes")] == [first["nodeId"]]
    finally:
        server.stop()


def test_a_node_that_waits_for_an_agent_is_taken_before_another_is_made() -> None:
    server = Server("--provider", "external", nodes=4)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            pool(batch, "waits", 1)
            token = batch.post("batchyard", "v1", "pools", "waits", "jointokens", body={"uses": 2})["token"]
            [waiting] = wait_for(lambda: [one for one in batch.listed("pools", "waits", "nodes") if one["state"] == "starting"], "it")
            assert ask(server, JOIN_PATH, token, {"name": A})[1]["nodeId"] == waiting["id"]
            assert ask(server, JOIN_PATH, token, {"name": B})[1]["nodeId"] != waiting["id"]
    finally:
        server.stop()


def test_tokens_are_listed_and_revoked(server: Server) -> None:
    with Client(server.endpoint, server.account, server.key) as batch:
        pool(batch, "listed", 0)
        made = batch.post("batchyard", "v1", "pools", "listed", "jointokens", body={"uses": 3})
        table = batchyard("pool", "join-tokens", "listed", "--dir", server.directory).stdout
        assert made["id"] in table
        assert "3 of 3" in table
        assert made["token"].split(".")[3] not in table
        assert batchyard("pool", "revoke-token", "listed", made["id"], "--dir", server.directory).returncode == 0
        [found] = batch.listed("batchyard", "v1", "pools", "listed", "jointokens")
        assert (found["state"], "token" in found) == ("revoked", False)
        status, refused = ask(server, JOIN_PATH, made["token"], {"name": A})
        assert (status, refused) == (403, {"code": "AuthenticationFailed", "message": "The join token was revoked"})


@pytest.mark.parametrize(
    ("token", "body", "status", "code"),
    [
        ("none", {"name": A}, 401, "InvalidAuthenticationInfo"),
        ("byj1.nobody.a.b.", {"name": A}, 403, "AuthenticationFailed"),
        ("byj1.batchyard.a.b.", {"name": A}, 403, "AuthenticationFailed"),
        ("byj1.batchyard.a.b.", {"name": "x"}, 400, "InvalidRequestBody"),
        ("byj1.batchyard.a.b.", [], 400, "InvalidRequestBody"),
        ("byj1.batchyard.a.b.", {"name": A, "pool": "x" * 5000}, 413, "RequestBodyTooLarge"),
    ],
)
def test_what_is_no_join_is_refused(server: Server, token: str, body: object, status: int, code: str) -> None:
    found = ask(server, JOIN_PATH, token, body)
    assert (found[0], found[1]["code"]) == (status, code)


def test_a_join_token_is_good_for_nothing_else(server: Server) -> None:
    with Client(server.endpoint, server.account, server.key) as batch:
        pool(batch, "only", 0)
        token = batch.post("batchyard", "v1", "pools", "only", "jointokens", body={})["token"]
        for op in OPERATIONS:
            path = op.path
            for name in ("pool_id", "job_id", "task_id", "node_id"):
                path = path.replace(f"{{{name}}}", "only")
            version = "2018-12-01.8.0" if op.until else "2025-06-01"
            status, _ = ask(server, f"{path}?api-version={version}", token, {}, op.method)
            assert status in (401, 403), op.path
        assert ask(server, SYNC_PATH, token, {"session": 0, "number": 1})[0] == 403
        assert ask(server, "/agent/files/x", token, {})[0] == 403
        assert ask(server, f"/{server.storage_account}?comp=list", token, {}, "GET")[0] == 403
        assert batch.get("pools", "only")["currentDedicatedNodes"] == 0
        [found] = batch.listed("batchyard", "v1", "pools", "only", "jointokens")
        assert found["usesLeft"] == 1


def test_a_token_that_is_asked_for_wrongly_is_refused(server: Server) -> None:
    for body in ({"uses": 0}, {"uses": "many"}, {"expiresInSeconds": 10**9}, {"more": 1}):
        with (
            Client(server.endpoint, server.account, server.key) as batch,
            pytest.raises(Exception, match=r"InvalidPropertyValue|InvalidRequestBody"),
        ):
            batch.post("batchyard", "v1", "pools", "none", "jointokens", body=body)


def test_a_unit_is_installed_at_a_place_and_takes_the_place_of_its_own_only(server: Server, home: Path) -> None:
    units = home.parent / "units"
    units.mkdir()
    with Client(server.endpoint, server.account, server.key) as batch:
        name = f"unit-{home.parent.name}"
        pool(batch, name, 0)
        token = batch.post("batchyard", "v1", "pools", name, "jointokens", body={})["token"]
        done = batchyard("join", server.endpoint, "--token", token, "--home", home, "--install", units)
        batch.delete("pools", name)
    unit = units / "batchyard-node.service"
    assert (done.returncode, done.stdout) == (0, f"{unit}\n"), done.stderr
    assert "systemctl daemon-reload && systemctl enable --now batchyard-node" in done.stderr
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    assert token not in unit.read_text()
    packaged = (Path(__file__).parents[2] / "packaging/agent/batchyard-agent.service").read_text()
    own = re.compile(r"^(?!ExecStart|EnvironmentFile|StateDirectory|Description)\w+=.*", re.M)
    assert own.findall(unit.read_text()) == own.findall(packaged), "a crash costs no task there either"
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")
    [line] = [line.removeprefix("ExecStart=") for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    gone = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60, check=False)
    assert "the node is gone" in gone.stdout + gone.stderr, "the line runs the node, whose pool is no more"
    assert batchyard("join", "--home", home, "--install", units).returncode == 0
    unit.write_text("[Unit]\nDescription=another\n")
    refused = batchyard("join", "--home", home, "--install", unit)
    assert (refused.returncode, refused.stderr) == (
        1,
        f"batchyard: {unit} is there and not a unit of this command; remove it, or name another file\n",
    )
    assert "another" in unit.read_text()
    assert f"cannot write {units}/no/such" in batchyard("join", "--home", home, "--install", units / "no/such").stderr
    assert [path.name for path in units.iterdir()] == ["batchyard-node.service"]


def test_a_node_says_when_the_server_s_keys_were_made_anew(home: Path) -> None:
    server = Server("--provider", "external", nodes=1)
    try:
        with Client(server.endpoint, server.account, server.key) as batch:
            pool(batch, "keys", 0)
            token = batch.post("batchyard", "v1", "pools", "keys", "jointokens", body={})["token"]
        assert "Joined pool keys" in batchyard("join", server.endpoint, "--token", token, "--home", home, "--systemd").stderr
        account = json.loads((server.directory / "account.json").read_bytes())
        server.kill()
        (server.directory / "account.json").write_text(json.dumps({**account, "nodeKey": account["storageKey"]}))
        server.start()
        said = batchyard("join", "--home", home)
        assert "its keys were made anew, or it is another server; join again with a new join token" in said.stderr + said.stdout
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["http://192.0.2.1:1", "--token", "byj1.a.b.c."], "is plain HTTP, so anybody on the way could read the token"),
        (["ftp://localhost", "--token", "byj1.a.b.c."], "is no URL of a server"),
        (["--token", "byj1.a.b.c."], "SERVER is missing"),
        (["http://localhost", "--token", "nothing"], "--token is no join token"),
        ([], "is no node yet; join with"),
    ],
)
def test_what_cannot_be_a_join_is_said_before_anything_is_sent(home: Path, words: list[str], said: str) -> None:
    done = batchyard("join", *words, "--home", home)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_up_prints_how_a_machine_joins(home: Path) -> None:
    try:
        done = batchyard("up", "--dir", home, "--port", "0", "--provider", "external")
        assert "batchyard pool join-token --dir" in done.stdout
        assert "batchyard join http://127.0.0.1:" in done.stdout
    finally:
        batchyard("down", "--dir", home)
    assert os.path.exists(home)
