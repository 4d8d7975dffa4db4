"""Nothing of one account is reachable with what belongs to another: every operation, every wrong credential, both ways to name it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.api.conftest import Raw, Yard, pool_body, task, unique
from tests.conftest import Server, wait_for

from batchyard.api.operations import OPERATIONS, Op

ACCOUNTS = "/batchyard/v1/accounts"
IDS = {
    "pool_id": "p",
    "job_id": "j",
    "task_id": "t",
    "node_id": "tvm",
    "file_path": "stdout.txt",
    "user_name": "u",
    "extension_name": "x",
    "account": "{account}",
    "key_name": "primary",
    "token_id": "jt",
}


class Half(NamedTuple):
    """An account, a job of it, a task's token that is good for another job of it, and the token of its node."""

    raw: Raw
    task_token: str
    node_token: str


class Two(NamedTuple):
    """A server with two accounts that have the same ids."""

    server: Server
    halves: tuple[Half, Half]


def half(server: Server, raw: Raw) -> Half:
    assert raw("POST", "/pools", pool_body("p", targetDedicatedNodes=1)).status == 201
    yard = Yard(raw, "p")
    node = wait_for(lambda: [node for node in yard.get("/pools/p/nodes")["value"] if node["state"] == "idle"], "the node")[0]
    assert raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "none"}}).status == 201
    assert raw("POST", "/jobs/j/tasks", task("t")).status == 201
    other = yard.job(task("holder", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 3000", authenticationTokenSettings={"access": ["job"]}))
    path = f"/jobs/{other}/tasks/holder/files/stdout.txt"
    token = wait_for(lambda: raw("GET", path).body.decode().strip() if raw("GET", path).status == 200 else "", "the task's token")
    home = server.directory if raw.account == server.account else server.directory / "accounts" / raw.account
    return Half(raw, token, (home / "nodes" / node["id"] / "token").read_text())


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    server = Server(nodes=2)
    operator = Raw(server.endpoint, "$operator", (server.directory / "operator.key").read_text().strip())
    assert operator("POST", ACCOUNTS, {"name": "other"}).status == 201
    key = operator("GET", f"{ACCOUNTS}/other/keys").json["primary"]
    raws = (Raw(server.endpoint, server.account, server.key), Raw(server.endpoint, "other", key))
    yield Two(server, (half(server, raws[0]), half(server, raws[1])))
    server.stop()


def state(server: Server) -> str:
    """A hash of what both worlds and the registry hold, but for what beats: leases, and when nodes spoke."""
    found = hashlib.sha256()
    for path in sorted(Path(server.directory).glob("**/*.db")):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
            for (table,) in tables.fetchall():
                names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                kept = [name for name in names if name not in ("last_seen", "until", "version", "errors", "facts", "modified")]
                if table != "lease":
                    found.update(repr((table, database.execute(f"SELECT {', '.join(kept)} FROM {table}").fetchall())).encode())
        database.close()
    for path in sorted(Path(server.directory).glob("**/account.json")):
        found.update(path.read_bytes())
    return found.hexdigest()


WRONG_KEY = "YSBrZXkgb2Ygbm9ib2R5IGF0IGFsbA=="
CASES = ("wrong key", "other's key", "other's node token", "other job's task token", "other account's task token")


def refused(two: Two, op: Op, mine: Half, theirs: Half, case: str, prefix: str) -> tuple[int, str]:
    """How the account of `mine` answers to that."""
    ids = {**IDS, "account": mine.raw.account}
    path = prefix + op.path.format(**ids)
    headers, key = {}, mine.raw.key
    if case == "wrong key":
        key = WRONG_KEY
    elif case == "other's key":
        key = theirs.raw.key
    else:
        token = {CASES[2]: theirs.node_token, CASES[3]: mine.task_token, CASES[4]: theirs.task_token}[case]
        headers = {"authorization": f"Bearer {token}"}
    version = "2018-12-01.8.0" if op.until else "2025-06-01"
    body = {} if op.method in ("POST", "PUT", "PATCH") else None
    answer = mine.raw(op.method, path, body, headers=headers, key=key, version=version)
    return answer.status, "" if op.method == "HEAD" else answer.json["code"]


KEY_REFUSED = (403, "AuthenticationFailed")
TOKEN_REFUSED = (401, "InvalidAuthenticationInfo")
NOT_ITS_JOB = (403, "InsufficientAccountPermissions")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: f"{op.method} {op.path}")
def test_every_operation_refuses_what_is_not_its_own(two: Two, op: Op, case: str) -> None:
    """Both accounts, without and with the prefix. A token of the other account says so, and is refused for that below this one's path."""
    for mine, theirs in (two.halves, two.halves[::-1]):
        for prefix in ("", f"/accounts/{mine.raw.account}"):
            status, code = refused(two, op, mine, theirs, case, prefix)
            wanted = _wanted(two, mine, theirs, case, prefix)
            assert (status, code) in ({wanted} if op.method != "HEAD" else {(wanted[0], "")}), (case, mine.raw.account, prefix)


def _wanted(two: Two, mine: Half, theirs: Half, case: str, prefix: str) -> tuple[int, str]:
    if case in CASES[:2]:
        return KEY_REFUSED
    marked = theirs.raw.account != two.server.account
    if case == CASES[2]:  # no task has a node's token, wherever that is good
        return KEY_REFUSED if prefix and marked else TOKEN_REFUSED
    if case == CASES[3]:
        return NOT_ITS_JOB
    if prefix:
        return KEY_REFUSED if marked else TOKEN_REFUSED
    return NOT_ITS_JOB  # it names its own account, in which the job of that name is not its own


def test_nothing_of_all_that_changed_anything(two: Two) -> None:
    before = state(two.server)
    for op in OPERATIONS:
        for mine, theirs in (two.halves, two.halves[::-1]):
            for case in CASES:
                refused(two, op, mine, theirs, case, "")
                refused(two, op, mine, theirs, case, f"/accounts/{mine.raw.account}")
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
