"""Nothing of one account is reachable with what belongs to another: every operation, every wrong credential, each way to name the account,
over plain HTTP and over TLS."""

from __future__ import annotations

import hashlib
import http.client
import json
import sqlite3
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import NamedTuple

import pytest
from tests.api.conftest import Answer, Raw, Yard, pool_body, task, unique
from tests.conftest import Server, wait_for

from batchyard.api.operations import OPERATIONS, Op

ACCOUNTS = "/batchyard/v1/accounts"
IDS = {
    "pool_id": "p",
    "job_id": "j",
    "schedule_id": "s",
    "task_id": "t",
    "node_id": "tvm",
    "file_path": "stdout.txt",
    "user_name": "u",
    "extension_name": "x",
    "account": "{account}",
    "key_name": "primary",
    "token_id": "jt",
    "container": "c",
    "application_id": "a",
    "version": "1",
}


class Line(Raw):
    """Requests over one connection that is kept, with TLS or without."""

    def __init__(self, server: Server, account: str, key: str) -> None:
        super().__init__(server.endpoint, account, key)
        self._trust = None
        if server.endpoint.startswith("https:"):
            self._trust = ssl.create_default_context(cafile=str(server.directory / "tls" / "ca.pem"))
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        for last in (self._connection is None, True):  # one that the server has closed is made anew
            if self._connection is None:
                make = partial(http.client.HTTPSConnection, context=self._trust) if self._trust else http.client.HTTPConnection
                self._connection = make(*self.address, timeout=60)
            try:
                self._connection.request(method, target, body or None, {name: value for name, value in headers.items() if value})
                answer = self._connection.getresponse()
                return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
            except (http.client.HTTPException, OSError):
                self.close()
                if last:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Half(NamedTuple):
    """An account, a job of it, a task's token that is good for another job of it, the token of its node, and its join tokens."""

    raw: Line
    task_token: str
    node_token: str
    join: Mapping[str, str]
    """Join tokens that are active, expired, used."""


class Two(NamedTuple):
    """A server with two accounts that have the same ids."""

    server: Server
    halves: tuple[Half, Half]


NAME = json.dumps({"name": "0a" * 16}).encode()


def join_tokens(raw: Line) -> dict[str, str]:
    assert raw("POST", "/pools", pool_body("q", targetDedicatedNodes=0)).status == 201
    path = "/batchyard/v1/pools/q/jointokens"
    made = [raw("POST", path, body).json for body in ({}, {"expiresInSeconds": 1}, {})]
    active, expired, used = (each["token"] for each in made)
    assert raw.send("POST", "/agent/join", {"authorization": f"Bearer {used}", "content-length": str(len(NAME))}, NAME).status == 200

    def states() -> list[str]:
        found = {each["id"]: each["state"] for each in raw("GET", path).json["value"]}
        return [found[each["id"]] for each in made]

    wait_for(lambda: states() == ["active", "expired", "used"], "a token to expire")
    return {"active": active, "expired": expired, "used": used}


def half(server: Server, raw: Line) -> Half:
    assert raw("POST", "/pools", pool_body("p", targetDedicatedNodes=1)).status == 201
    yard = Yard(raw, "p")
    node = wait_for(lambda: [node for node in yard.get("/pools/p/nodes")["value"] if node["state"] == "idle"], "the node")[0]
    assert raw("PUT", "/batchyard/v1/applications/a", {}).status == 201
    assert raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "none"}}).status == 201
    assert raw("POST", "/jobs/j/tasks", task("t")).status == 201
    plan = {"id": "s", "schedule": {"doNotRunUntil": "2090-01-01T00:00:00Z"}, "jobSpecification": {"poolInfo": {"poolId": "none"}}}
    assert raw("POST", "/jobschedules", plan).status == 201
    other = yard.job(task("holder", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 3000", authenticationTokenSettings={"access": ["job"]}))
    path = f"/jobs/{other}/tasks/holder/files/stdout.txt"
    token = wait_for(lambda: raw("GET", path).body.decode().strip() if raw("GET", path).status == 200 else "", "the task's token")
    home = server.directory if raw.account == server.account else server.directory / "accounts" / raw.account
    return Half(raw, token, (home / "nodes" / node["id"] / "token").read_text(), join_tokens(raw))


@pytest.fixture(scope="module", params=["http", "https"])
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    server = Server(*(("--tls", "auto") if request.param == "https" else ()), nodes=2)
    lines = [Line(server, "$operator", (server.directory / "operator.key").read_text().strip())]
    try:
        assert lines[0]("POST", ACCOUNTS, {"name": "other"}).status == 201
        key = lines[0]("GET", f"{ACCOUNTS}/other/keys").json["primary"]
        lines += [Line(server, server.account, server.key), Line(server, "other", key)]
        yield Two(server, (half(server, lines[1]), half(server, lines[2])))
    finally:
        for line in lines:
            line.close()
        server.stop()


BEATS = {"node": {"last_seen", "version", "facts", "errors"}}
"""Columns that change because a node is alive."""


def state(server: Server) -> dict[str, str]:
    """A hash of each table of both worlds, their blobs and the registry, and of their keys; but for leases, and for what beats."""
    found: dict[str, str] = {}
    for path in sorted(server.directory.glob("**/*.db")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
            for (table,) in tables.fetchall():
                names = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] not in BEATS.get(table, ())]
                if table != "lease":
                    rows = database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {', '.join(names)}").fetchall()
                    found[f"{path} {table}"] = hashlib.sha256(repr(rows).encode()).hexdigest()
    for path in sorted([*server.directory.glob("**/account.json"), server.directory / "operator.key"]):
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


WRONG_KEY = "YSBrZXkgb2Ygbm9ib2R5IGF0IGFsbA=="
KEYS = {"wrong key": lambda mine, theirs: WRONG_KEY, "other's key": lambda mine, theirs: theirs.raw.key}
TOKENS = {
    "other's node token": lambda mine, theirs: theirs.node_token,
    "other job's task token": lambda mine, theirs: mine.task_token,
    "other account's task token": lambda mine, theirs: theirs.task_token,
    "own join token": lambda mine, theirs: mine.join["active"],
    "own join token, expired": lambda mine, theirs: mine.join["expired"],
    "own join token, used": lambda mine, theirs: mine.join["used"],
    "other's join token": lambda mine, theirs: theirs.join["active"],
    "other's join token, expired": lambda mine, theirs: theirs.join["expired"],
    "other's join token, used": lambda mine, theirs: theirs.join["used"],
}
CASES = (*KEYS, *TOKENS)


def refused(op: Op, mine: Half, theirs: Half, case: str, prefix: str) -> tuple[int, str]:
    """How the account of `mine` answers to that."""
    path = prefix + op.path.format(**{**IDS, "account": mine.raw.account, "storage_account": f"{mine.raw.account}storage"})
    key = KEYS[case](mine, theirs) if case in KEYS else None
    headers = {"authorization": f"Bearer {TOKENS[case](mine, theirs)}"} if case in TOKENS else {}
    version = "2018-12-01.8.0" if op.until else "2025-06-01"
    body = {} if op.method in ("POST", "PUT", "PATCH") else None
    answer = mine.raw(op.method, path, body, headers=headers, key=key, version=version)
    return answer.status, "" if op.method == "HEAD" else answer.json["code"]


KEY_REFUSED = (403, "AuthenticationFailed")
TOKEN_REFUSED = (401, "InvalidAuthenticationInfo")
NOT_ITS_JOB = (403, "InsufficientAccountPermissions")


def both_ways(two: Two) -> Iterator[tuple[Half, Half, str]]:
    """Each account before the other, without and with the prefix."""
    for mine, theirs in (two.halves, two.halves[::-1]):
        for prefix in ("", f"/accounts/{mine.raw.account}"):
            yield mine, theirs, prefix


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: f"{op.method} {op.path}")
def test_every_operation_refuses_what_is_not_its_own_and_changes_nothing(two: Two, op: Op) -> None:
    """A token of the other account says so, and is refused for that below this one's path."""
    before = state(two.server)
    for mine, theirs, prefix in both_ways(two):
        for case in CASES:
            wanted = _wanted(two, mine, theirs, case, prefix)
            found = refused(op, mine, theirs, case, prefix)
            assert found == (wanted if op.method != "HEAD" else (wanted[0], "")), (case, mine.raw.account, prefix)
    assert state(two.server) == before


def _wanted(two: Two, mine: Half, theirs: Half, case: str, prefix: str) -> tuple[int, str]:
    if case in KEYS:
        return KEY_REFUSED
    if "join token" in case:  # which says its account, and is for machines: no operation knows it
        return KEY_REFUSED if prefix and case.startswith("other") else TOKEN_REFUSED
    marked = theirs.raw.account != two.server.account
    if case == "other's node token":  # no task has a node's token, wherever that is good
        return KEY_REFUSED if prefix and marked else TOKEN_REFUSED
    if case == "other job's task token":
        return NOT_ITS_JOB
    if prefix:
        return KEY_REFUSED if marked else TOKEN_REFUSED
    return NOT_ITS_JOB  # it names its own account, in which the job of that name is not its own


AGENTS = ("/agent/join", "/agent/sync", "/agent/files/x")


@pytest.mark.parametrize("path", AGENTS)
def test_what_agents_ask_for_is_refused_to_whoever_has_no_part_in_it_and_changes_nothing(two: Two, path: str) -> None:
    before = state(two.server)
    for mine, theirs, prefix in both_ways(two):
        for case, token in TOKENS.items():
            if (case.endswith("join token") and path == "/agent/join") or (case == "other's node token" and not prefix):
                continue  # each is good there, for what it was made: see below
            another = json.dumps({"name": "0b" * 16}).encode()
            headers = {"authorization": f"Bearer {token(mine, theirs)}", "content-length": str(len(another))}
            found = mine.raw.send("POST", prefix + path, headers, another)
            assert found.status in (401, 403, 404), (case, mine.raw.account, prefix, found)
    assert state(two.server) == before


def test_a_join_token_opens_its_own_account_only(two: Two) -> None:
    """Used up or not, under another account's name it is refused, and the machine gets a node where the token says."""
    for mine, theirs in (two.halves, two.halves[::-1]):
        token = theirs.raw("POST", "/batchyard/v1/pools/p/jointokens", {}).json["token"]
        body = b'{"name": "' + b"0a" * 16 + b'"}'
        headers = {"authorization": f"Bearer {token}", "content-length": str(len(body))}
        for path in (f"/accounts/{mine.raw.account}/agent/join", f"/accounts/{mine.raw.account}/agent/sync"):
            assert mine.raw.send("POST", path, headers, body).status == 403, path
        renamed = {**headers, "authorization": f"Bearer {token.replace(theirs.raw.account, mine.raw.account)}"}
        assert mine.raw.send("POST", "/agent/join", renamed, body).status in (401, 403)
        for prefix in ("", f"/accounts/{mine.raw.account}"):
            answer = mine.raw("GET", f"{prefix}/pools", headers={"authorization": f"Bearer {token}"})
            assert answer.status in (401, 403), prefix


def test_a_node_is_heard_in_its_own_account_only(two: Two) -> None:
    for mine, theirs in (two.halves, two.halves[::-1]):
        headers = {"authorization": f"Bearer {theirs.node_token}", "content-length": "2"}
        assert mine.raw.send("POST", f"/accounts/{mine.raw.account}/agent/sync", headers, b"{}").status == 403
        stripped = {**headers, "authorization": f"Bearer {theirs.node_token.rpartition('~')[2]}"}
        assert mine.raw.send("POST", f"/accounts/{mine.raw.account}/agent/sync", stripped, b"{}").status == 403
        marked = {**headers, "authorization": f"Bearer {mine.raw.account}~{theirs.node_token.rpartition('~')[2]}"}
        assert mine.raw.send("POST", "/agent/sync", marked, b"{}").status == 403
        assert mine.raw.send("POST", f"/agent/files/{unique()}", marked, b"").status == 403
