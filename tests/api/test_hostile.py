"""Hostile input: each gets the contract's error, never a 500, and changes nothing; the server lives on and logs no traceback.

Bytes that are no HTTP are answered by the HTTP layer with a plain 400, as contract 8.1 has it for what cannot be routed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import http.client
import json
import socket
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import NODE_KEY, VERSION, Answer, Json, Raw, Still, Yard, escaped, pool_body, task, unique
from tests.conftest import Server, wait_for

from batchyard.engine.nodes import nodes
from batchyard.model.sync import FileRequest

MEBIBYTE = 1_048_576


@pytest.fixture(scope="module", autouse=True)
def _server_is_well(server: Server) -> Iterator[None]:
    """What the server logged during this module holds no traceback and no key, and it still answers."""
    before = len(server.log())
    yield
    raw = Raw(server.endpoint, server.account, server.key)
    assert raw("GET", "/pools").status == 200
    logged = server.log()[before:]
    assert "Traceback" not in logged
    for secret in (server.key, server.storage_key, "SECRETSIG"):
        assert secret not in logged


@pytest.fixture
def job_id(raw: Raw) -> str:
    """A job whose tasks stay active, because its pool does not exist."""
    made = unique("job")
    body = {"id": made, "poolInfo": {"poolId": "none"}, "usesTaskDependencies": True, "onTaskFailure": "performexitoptionsjobaction"}
    assert raw("POST", "/jobs", body).status == 201
    return made


def wire(raw: Raw, data: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    with socket.create_connection(raw.address, 30) as connection:
        with contextlib.suppress(OSError):  # it may hang up before it has read everything
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: _received(connection), b""))


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


def assert_refused(answer: Answer, *codes: str) -> None:
    """400 with one of these codes."""
    answer.assert_error(400, answer.json["code"])
    assert answer.json["code"] in codes, answer.body


class TestBodies:
    """What is not the JSON that an operation asks for."""

    CALLS = (
        ("POST", "/pools"),
        ("POST", "/jobs"),
        ("PATCH", "/jobs/{job}"),
        ("POST", "/jobs/{job}/tasks"),
        ("POST", "/jobs/{job}/terminate"),
    )

    @pytest.mark.parametrize("method_path", CALLS, ids=" ".join)
    @pytest.mark.parametrize(
        "body",
        [
            b"{", b"}", b"nonsense", b"{'id': 'x'}", b'{"id": "x",}', b'{"id": "x"} {"id": "x"}', b'{"id": NaN}', b"[]", b"1", b'"x"',
            b"null",
            b"\xff\xfe{\x00}\x00", b'{"id": "\xff"}', b'{"id": "\\ud800"}', b'{"\xff": 1}', b"\0", b'{"id": "a\x00b"}', b"\xef\xbb\xbf{}x",
            b"[" * 100_000, b'{"id":' * 50_000, b"[" * 400 + b"]" * 400, b'{"id": "x", "metadata": ' + b"[" * 2000 + b"]" * 2000 + b"}",
            b'{"priority": ' + b"9" * 10_000 + b"}", b'{"priority": 1e999}',
        ],
        ids=lambda body: repr(body[:12]),
    )  # fmt: skip
    def test_no_json(self, raw: Raw, job_id: str, method_path: tuple[str, str], body: bytes) -> None:
        before = raw("GET", f"/jobs/{job_id}").body
        answer = raw(method_path[0], method_path[1].format(job=job_id), body)
        assert_refused(answer, "InvalidRequestBody", "InvalidPropertyValue", "MissingRequiredProperty")
        assert raw("GET", f"/jobs/{job_id}").body == before
        assert raw("GET", f"/jobs/{job_id}/tasks").json["value"] == []

    def test_a_byte_order_mark_is_no_obstacle(self, raw: Raw, job_id: str) -> None:
        """Editors and .NET programs begin UTF-8 with one."""

        def marked(body: Json) -> bytes:
            return b"\xef\xbb\xbf" + json.dumps(body).encode()

        pool_id, other_id = unique("pool"), unique("job")
        job = f"/jobs/{job_id}"
        for method, path, body, status in [
            ("POST", "/pools", pool_body(pool_id), 201), ("PATCH", f"/pools/{pool_id}", {"metadata": []}, 200),
            ("POST", "/jobs", {"id": other_id, "poolInfo": {"poolId": pool_id}}, 201), ("PATCH", job, {"priority": 3}, 200),
            ("POST", f"{job}/tasks", {"id": "marked", "commandLine": "true"}, 201),
            ("POST", f"{job}/addtaskcollection", {"value": [{"id": "too", "commandLine": "true"}]}, 200),
        ]:  # fmt: skip
            assert raw(method, path, marked(body)).status == status, (method, path)
        assert raw("GET", job).json["priority"] == 3
        assert {item["id"] for item in raw("GET", f"{job}/tasks").json["value"]} == {"marked", "too"}
        assert raw("POST", f"/jobs/{other_id}/terminate", b"\xef\xbb\xbf").status == 202, "a mark alone is an empty body"
        twice = raw("POST", f"{job}/tasks", b"\xef\xbb\xbf" + marked({"id": "twice", "commandLine": "true"}))
        twice.assert_error(400, "InvalidRequestBody")
        raw("DELETE", f"/pools/{pool_id}")

    def test_a_number_too_many(self, raw: Raw, job_id: str) -> None:
        answer = raw("PATCH", f"/jobs/{job_id}", b'{"priority": 99999999999999999999999999}')
        answer.assert_error(400, "InvalidPropertyValue", PropertyName="priority")

    @pytest.mark.parametrize("size", [MEBIBYTE + 1, 4 * MEBIBYTE])
    @pytest.mark.parametrize("path", ["/pools", "/jobs", "/jobs/{job}/addtaskcollection"])
    def test_too_large(self, raw: Raw, job_id: str, path: str, size: int) -> None:
        values = raw("POST", path.format(job=job_id), b"x" * size).assert_error(413, "RequestBodyTooLarge")
        assert values == {"MaxLimit": str(MEBIBYTE)}

    def test_a_mebibyte_is_read(self, raw: Raw) -> None:
        assert_refused(raw("POST", "/pools", b" " * MEBIBYTE), "InvalidRequestBody")
        assert_refused(raw("POST", "/pools", b'"' + b"x" * (MEBIBYTE - 2) + b'"'), "InvalidRequestBody")

    def test_a_length_without_the_bytes(self, raw: Raw) -> None:
        pool_id = unique("pool")
        body = json.dumps(pool_body(pool_id)).encode()
        head = f"POST /pools?api-version={VERSION} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 10}\r\n\r\n"
        wire(raw, head.encode() + body)
        assert raw("GET", f"/pools/{pool_id}").status == 404

    @pytest.mark.parametrize("length", ["abc", "-1", "1e3", "0x10", "99999999999999999999999999", "1, 2", ""])
    def test_a_length_that_is_none(self, raw: Raw, length: str) -> None:
        answer = wire(raw, f"POST /pools HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 4")

    def test_two_lengths(self, raw: Raw) -> None:
        answer = wire(raw, b"POST /pools HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x")
        assert answer.startswith(b"HTTP/1.1 400")

    def test_without_a_length(self, raw: Raw, job_id: str) -> None:
        for headers in ({"content-length": ""}, {"content-length": "", "transfer-encoding": "chunked"}):
            body = b"" if len(headers) == 1 else b"2\r\n{}\r\n0\r\n\r\n"
            answer = raw("POST", f"/jobs/{job_id}/terminate", body or None, headers=headers)
            answer.assert_error(411, "MissingContentLengthHeader")
        assert raw("GET", f"/jobs/{job_id}").json["state"] == "active"


POOL = pool_body(
    "x", displayName="d", resizeTimeout="PT10M", targetLowPriorityNodes=0, enableAutoScale=False, enableInterNodeCommunication=False,
    taskSlotsPerNode=2, taskSchedulingPolicy={"nodeFillType": "pack"}, metadata=[{"name": "a", "value": "b"}],
)  # fmt: skip
JOB: Json = {
    "id": "x", "displayName": "d", "priority": 5, "maxParallelTasks": 2, "allowTaskPreemption": False, "usesTaskDependencies": True,
    "constraints": {"maxWallClockTime": "PT1H", "maxTaskRetryCount": 1}, "poolInfo": {"poolId": "none"}, "onAllTasksComplete": "noaction",
    "onTaskFailure": "performexitoptionsjobaction", "commonEnvironmentSettings": [{"name": "a", "value": "b"}],
    "metadata": [{"name": "a", "value": "b"}],
}  # fmt: skip
TASK: Json = {
    "id": "x", "commandLine": "true", "displayName": "d", "requiredSlots": 1, "affinityInfo": {"affinityId": "TVM:x"},
    "exitConditions": {
        "exitCodes": [{"code": 1, "exitOptions": {"jobAction": "none", "dependencyAction": "satisfy"}}],
        "exitCodeRanges": [{"start": 1, "end": 2, "exitOptions": {"jobAction": "none"}}], "default": {"jobAction": "terminate"},
    },
    "resourceFiles": [{"httpUrl": "http://127.0.0.1:1/x?sig=SECRETSIG", "filePath": "a", "fileMode": "0770"}],
    "outputFiles": [{
        "filePattern": "*", "uploadOptions": {"uploadCondition": "tasksuccess"},
        "destination": {"container": {"containerUrl": "http://127.0.0.1:1/c?sig=SECRETSIG", "path": "p"}},
    }],
    "environmentSettings": [{"name": "a", "value": "b"}], "userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}},
    "constraints": {"maxWallClockTime": "PT1H", "retentionTime": "P1D", "maxTaskRetryCount": 1},
    "dependsOn": {"taskIds": ["never"], "taskIdRanges": [{"start": 1, "end": 2}]},
}  # fmt: skip
WRONG: tuple[Any, ...] = (None, True, -1, 1e300, 10**30, -(2**63), "", "\0", "9" * 5000, [], {}, [None], [{}], {"x": 1}, "P", "../x", "é")


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for at in range(len(value)):
            yield from places(value[at], (*path, at))


def with_wrong(body: Json, path: tuple[str | int, ...], wrong: object) -> Any:
    """The body with something wrong in one place."""
    if not path:
        return wrong
    changed: Any = copy.deepcopy(body)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    return changed


@pytest.mark.parametrize(("kind", "body"), [("pools", POOL), ("jobs", JOB), ("tasks", TASK)], ids=["pools", "jobs", "tasks"])
def test_wrong_types_everywhere(raw: Raw, job_id: str, kind: str, body: Json) -> None:
    path = f"/jobs/{job_id}/tasks" if kind == "tasks" else f"/{kind}"
    refused = []
    for place in places(body):
        for wrong in WRONG:
            sent = with_wrong(body, place, wrong)
            if place != ("id",) and isinstance(sent, dict):
                sent["id"] = unique("w")
            answer = raw("POST", path, json.dumps(sent).encode())
            if answer.status == 201:
                continue
            assert answer.status == 400, (place, wrong, answer.body[:500])
            values = answer.assert_error(400, answer.json["code"])
            if answer.json["code"] != "EmptyMetadataKey":
                assert values["Reason"], (place, wrong, values)
                assert "PropertyName" in values, (place, wrong, values)
            if answer.json["code"] == "InvalidPropertyValue":
                assert set(values) == {"PropertyName", "PropertyValue", "Reason"}, (place, wrong, values)
                assert values["PropertyName"], (place, wrong, values)
            if isinstance(sent, dict) and isinstance(sent["id"], str) and sent["id"].startswith("w-"):
                refused.append(sent["id"])
    assert len(refused) > 100
    if kind == "tasks":
        listed = {item["id"] for item in raw("GET", path, query="maxresults=1000").json["value"]}
        assert not listed & set(refused)
    else:
        assert all(raw("GET", f"{path}/{name}").status == 404 for name in refused[::10])


class TestAuthentication:
    """Who may not in changes nothing; keys and signatures never show."""

    def test_wrong_keys(self, raw: Raw, job_id: str) -> None:
        wrong = base64.b64encode(b"x" * 64).decode()
        for method, path, body in [
            ("GET", "/pools", None), ("POST", "/pools", pool_body(unique())), ("DELETE", f"/jobs/{job_id}", None),
            ("POST", f"/jobs/{job_id}/terminate", None), ("GET", f"/jobs/{job_id}/tasks/x/files/a", None), ("GET", "/nowhere", None),
        ]:  # fmt: skip
            values = raw(method, path, body, key=wrong).assert_error(403, "AuthenticationFailed")
            assert raw.key not in values["AuthenticationErrorDetail"]
        missing = raw("HEAD", "/pools/x", key=wrong)
        assert (missing.status, missing.body) == (403, b"")
        assert raw("GET", f"/jobs/{job_id}").json["state"] == "active"

    @pytest.mark.parametrize("date", ["Tue, 02 Jan 2024 03:04:05 GMT", "Tue, 02 Jan 2124 03:04:05 GMT", "soon", formatdate(0), "²"])
    def test_dates(self, raw: Raw, date: str) -> None:
        raw("GET", "/pools", headers={"ocp-date": date}).assert_error(403, "AuthenticationFailed")

    @pytest.mark.parametrize("header", ["Bearer x", "SharedKey", "SharedKey a", "Basic YTpi", "\xff", "x" * 60_000])
    def test_other_schemes(self, raw: Raw, header: str) -> None:
        answer = raw.send("GET", f"/pools?api-version={VERSION}", {"authorization": header, "ocp-date": formatdate(usegmt=True)})
        answer.assert_error(401, "InvalidAuthenticationInfo")

    @pytest.mark.parametrize("signature", ["x", "\xe9", "AAAA", "=" * 10, "A" * 60_000])
    def test_garbage_signatures(self, raw: Raw, signature: str) -> None:
        header = f"SharedKey {raw.account}:{signature}"
        answer = raw.send("GET", f"/pools?api-version={VERSION}", {"authorization": header, "ocp-date": formatdate(usegmt=True)})
        answer.assert_error(403, "AuthenticationFailed")

    def test_no_header(self, raw: Raw) -> None:
        raw.send("GET", f"/pools?api-version={VERSION}", {}).assert_error(401, "InvalidAuthenticationInfo")

    def test_a_signature_for_another_path(self, raw: Raw, job_id: str) -> None:
        date = formatdate(usegmt=True)
        signed = raw("GET", "/pools", headers={"ocp-date": date})
        assert signed.status == 200
        other = raw.send(
            "GET", f"/jobs/{job_id}?api-version={VERSION}", {"authorization": f"SharedKey {raw.account}:AAAA", "ocp-date": date}
        )
        other.assert_error(403, "AuthenticationFailed")


class TestTargets:
    """Versions, paths, verbs and options that are not served."""

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("", "MissingRequiredQueryParameter"),
            ("api-version=2031-01-01", "UnsupportedRequestVersion"),
            ("api-version=2025-06-01.99.0", "UnsupportedRequestVersion"),
            ("api-version=newest", "InvalidQueryParameterValue"),
            ("api-version=", "InvalidQueryParameterValue"),
            ("api-version=%00%ff", "InvalidQueryParameterValue"),
            ("api-version=2025-06-01&api-version=x&colour=red", "UnsupportedQueryParameter"),
            ("api-version=2025-06-01&%ff=1", "UnsupportedQueryParameter"),
            ("api-version=2025-06-01&" + "x" * 5000, "UnsupportedQueryParameter"),
        ],
    )
    def test_versions_and_options(self, raw: Raw, query: str, code: str) -> None:
        raw("GET", "/pools", query=query, version=None).assert_error(400, code)

    @pytest.mark.parametrize(
        "query", ["API-VERSION=2025-06-01", "api-version=2024-02-01.19.0&TIMEOUT=5", "api-version=2018-12-01.8.0&timeOut=99"]
    )
    def test_names_in_any_case(self, raw: Raw, query: str) -> None:
        assert raw("GET", "/pools", query=query, version=None).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/", "//", "/nowhere", "/Pools", "/pools/a/b", "/pools/a/nodes/b/c", "/jobs/a/tasks/b/c", "/jobs/a/b", "/pools/%ff",
            "/jobs/%ed%a0%80",
            "/jobs/a/tasks/b/files/c/d", "/pools/a/nodes/b/files/c/d", "/pools/a%2Fresize/x/y", "/../pools/a/b", "/jobs/a/never",
            "/jobs/a/nothing", "/jobschedules/a/b", "/jobschedules/a/jobs/b", "/applications/a/b", "/lifetimepoolstats",
            "/pools/a/nodes/b/upgrade", "/jobs/a/tasks/b/subtasks", "/certificates", "/" + "a/" * 2000, "/%2e%2e/pools/a/b/c",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_unknown_paths(self, raw: Raw, method: str, path: str) -> None:
        raw(method, path).assert_error(400, "InvalidUri")

    @pytest.mark.parametrize(
        "path", ["/pools/..", "/pools/%2e%2e", "/pools/%00", "/pools/%2F", "/pools/a%20b", "/pools/" + "x" * 5000, "/pools/*"]
    )
    def test_odd_ids(self, raw: Raw, path: str) -> None:
        raw("GET", path).assert_error(404, "PoolNotFound")
        raw("DELETE", path).assert_error(404, "PoolNotFound")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/pools"), ("PUT", "/pools/a"), ("OPTIONS", "/pools"), ("TRACE", "/jobs"), ("POST", "/jobs/a"),
            ("GET", "/jobs/a/terminate"), ("PROPFIND", "/jobs"), ("DELETE", "/jobs"), ("GET",
            "/pools/a/resize"),
        ],
    )  # fmt: skip
    def test_unknown_verbs(self, raw: Raw, method: str, path: str) -> None:
        raw(method, path).assert_error(405, "UnsupportedHttpVerb")

    @pytest.mark.parametrize("path", ["/jobs", "/pools", "/jobs/a", "/nowhere"])
    def test_head_where_there_is_none(self, raw: Raw, path: str) -> None:
        answer = raw("HEAD", path)
        assert answer.status == (400 if path == "/nowhere" else 405)
        assert (answer.body, answer.headers["content-length"]) == (b"", "0")

    @pytest.mark.parametrize(
        "line",
        [
            b"OPTIONS * HTTP/1.1", b"CONNECT a:80 HTTP/1.1", b"GET pools HTTP/1.1", b"GET \xff HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1",
            b"GET /pools?\xff HTTP/1.1", b"G\0T /pools HTTP/1.1", b"FOO /pools HTTP/1.1", b"GET ?x HTTP/1.1", b"GET /%zz HTTP/1.1",
            b"\x16\x03\x01",
            b"GET http://other/pools HTTP/1.1", b"GET /pools HTTP/1.0", b"GET /pools HTTP/9.9", b"GET",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
        ],
        ids=lambda line: repr(line[:20]),
    )  # fmt: skip
    def test_odd_request_lines(self, raw: Raw, line: bytes) -> None:
        answer = wire(raw, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]

    def test_huge_headers(self, raw: Raw) -> None:
        for count, size in ((1, 1 << 20), (2000, 100)):
            headers = b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))
            answer = wire(raw, b"GET /pools HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n")
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), answer[:200]

    def test_a_header_without_end_is_broken_off(self, raw: Raw) -> None:
        with socket.create_connection(raw.address, 30) as connection:
            connection.sendall(b"GET /pools HTTP/1.1\r\nHost: x\r\nX-Long: ")
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 64 << 20:
                    connection.sendall(b"a" * 65536)
                    sent += 65536
            assert sent < 64 << 20

    def test_many_requests_on_one_connection_are_no_long_header(self, raw: Raw) -> None:
        connection = http.client.HTTPConnection(*raw.address, timeout=30)
        for _ in range(40):
            connection.request("GET", "/pools", headers={"X-Long": "a" * 4096})
            response = connection.getresponse()
            assert response.status == 401
            response.read()
        connection.close()

    @pytest.mark.parametrize("name", ["If-Modified-Since", "If-Unmodified-Since"])
    @pytest.mark.parametrize("value", ["yesterday", "²", "Tue, 99 Jan 2024 03:04:05 GMT", "x" * 5000])
    def test_conditions_that_are_no_dates(self, raw: Raw, job_id: str, name: str, value: str) -> None:
        raw("GET", f"/jobs/{job_id}", headers={name: value}).assert_error(400, "InvalidHeaderValue")
        raw("DELETE", f"/jobs/{job_id}", headers={name: value}).assert_error(400, "InvalidHeaderValue")
        assert raw("GET", f"/jobs/{job_id}").json["state"] == "active"

    def test_a_host_that_is_another(self, raw: Raw) -> None:
        answer = raw("GET", "/pools/never", headers={"host": 'x"<script>'})
        answer.assert_error(404, "PoolNotFound")


class TestFiles:
    """Paths and links that lead out of the task's or the node's directory."""

    PATHS = (
        "../../../../../../../../etc/passwd", "..", "../", "./..", "wd/../../x", "/etc/passwd", "//etc/passwd", "/../etc/passwd",
        "wd/../stdout.txt",
        "..\\stdout.txt", "wd\\..\\x", "%2e%2e", "\0", "stdout.txt\0", "a\0/../x", "x" * 300, "a/" * 3000, "~", "~root", "$HOME", "*",
        "wd/.//..//x",
    )  # fmt: skip

    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_paths(self, raw: Raw, yard: Yard, node_id: str, method: str) -> None:
        job_id = yard.job(task("t"))
        yard.reached(job_id, "t")
        for base in (f"/jobs/{job_id}/tasks/t/files", f"/pools/{yard.pool_id}/nodes/{node_id}/files"):
            for path in self.PATHS:
                for segment in (escaped(path), escaped(path).replace(".", "%2e"), escaped(path).replace("%2F", "%2f")):
                    answer = raw(method, f"{base}/{segment}", query="recursive=true" if method == "DELETE" else "")
                    assert answer.status in (403, 404), (path, answer)
                    assert (answer.body == b"") == (method == "HEAD")
                    assert b"root:" not in answer.body
            raw(method, f"{base}/%ff") if method == "HEAD" else raw(method, f"{base}/%ff").assert_error(400, "InvalidUri")
        assert raw("HEAD", f"/jobs/{job_id}/tasks/t/files/stdout.txt").status == 200
        assert Path("/etc/passwd").exists()

    def test_planted_links(self, raw: Raw, yard: Yard, node_id: str, server: Server) -> None:
        account = server.directory / "account.json"
        assert server.key in account.read_text()
        links = {
            "passwd": "/etc/passwd", "shadow": "/etc/shadow", "top": "/", "account": str(account), "state": str(server.directory),
            "proc": "/proc/self/root", "up": "../../../../../../..", "loop": "loop", "environ": "/proc/self/environ",
        }  # fmt: skip
        planted = "; ".join(f"ln -s {target} {name}; ln -s {target} ../{name}" for name, target in links.items())
        job_id = yard.job(task("t", planted + "; mkfifo fifo; ln -s wd/in ../in; echo in > in"))
        assert yard.reached(job_id, "t")["executionInfo"]["exitCode"] == 0
        files, node = f"/jobs/{job_id}/tasks/t/files", f"/pools/{yard.pool_id}/nodes/{node_id}/files"
        in_node = f"workitems/{job_id}/job-1/t/wd/"
        for name in (*links, "top/etc/passwd", "state/account.json", "proc/etc/passwd", "up/etc/passwd", "fifo"):
            for path in (f"{files}/{escaped('wd/' + name)}", f"{files}/{escaped(name)}", f"{node}/{escaped(in_node + name)}"):
                for headers in ({}, {"ocp-range": "bytes=0-10"}):
                    answer = raw("GET", path, headers=headers)
                    assert (answer.status, answer.json["code"]) in ((404, "FileNotFound"), (403, "IOError")), (path, answer)
                    assert name == "loop" or answer.status == 404
                if name != "fifo":
                    assert raw("HEAD", path).status in (403, 404), path
        assert raw("GET", f"{files}/in").body == b"in\n", "a link that stays inside is followed"
        for base in (files, node):
            listed = [item["name"] for item in raw("GET", base, query="recursive=true&maxresults=1000").json["value"]]
            assert not [name for name in listed if name.rpartition("/")[2] in links]
        raw("DELETE", f"{files}/wd", query="recursive=true")
        assert account.exists(), "a removal follows no link"
        assert Path("/etc/passwd").exists()


class TestAgents:
    """The agents' endpoint: a token speaks for its node and for no other."""

    @pytest.mark.parametrize("token", ["", "x", "1", "1.", ".x", "1.abc", "1.\xe9", "²." + "0" * 64, "-1.x", "9" * 30 + ".x", "x" * 60_000])
    @pytest.mark.parametrize("path", ["/agent/sync", "/agent/files/x", "/agent", "/agent/../pools", "/agent/nowhere"])
    def test_without_a_token(self, raw: Raw, path: str, token: str) -> None:
        body = b'{"session":0,"number":1}'
        for header in (f"Bearer {token}", f"Basic {token}", token):
            answer = raw.send("POST", path, {"authorization": header, "content-length": str(len(body))}, body)
            assert answer.status == 403
            assert answer.body == b""
        assert raw.send("GET", path, {}).status == 403

    def test_the_account_key_is_no_token(self, raw: Raw) -> None:
        assert raw("POST", "/agent/sync", {"session": 0, "number": 1}).status == 403

    @staticmethod
    async def _post(still: Still, path: str, token: str, body: object = None) -> tuple[int, Any]:
        answer = await still.http.post(path, json=body, headers={"authorization": f"Bearer {token}"})
        return answer.status_code, answer.json() if answer.content and answer.status_code == 200 else None

    async def test_a_node_joins_as_itself_and_its_older_self_is_fenced_off(self, still: Still) -> None:
        await still.node("starting", "n1")
        await still.node("starting", "n2")
        for pk, name in ((1, "n1"), (2, "n2")):
            status, orders = await self._post(still, "/agent/sync", nodes.token(NODE_KEY, pk), {"session": 0, "number": 1})
            assert (status, orders["setup"]["nodeId"]) == (200, name)
        status, again = await self._post(still, "/agent/sync", nodes.token(NODE_KEY, 1), {"session": 0, "number": 1})
        assert again["session"] > orders["session"]
        status, old = await self._post(still, "/agent/sync", nodes.token(NODE_KEY, 1), {"session": orders["session"], "number": 2})
        assert (status, old["fenced"]) == (200, True)

    async def test_foreign_and_forged_tokens(self, still: Still) -> None:
        await still.node("idle", "n1")
        for token in (
            nodes.token(b"another key", 1),
            nodes.token(NODE_KEY, 2),
            nodes.token(NODE_KEY, 1)[:-1],
            nodes.token(NODE_KEY, 1) + "0",
        ):
            status, _ = await self._post(still, "/agent/sync", token, {"session": 0, "number": 1})
            assert status == 403
        await still.put("node", state="leavingpool")
        status, _ = await self._post(still, "/agent/sync", nodes.token(NODE_KEY, 1), {"session": 0, "number": 1})
        assert status == 403

    async def test_a_file_request_is_answered_by_its_node_alone(self, still: Still) -> None:
        await still.node("idle", "n1")
        await still.node("idle", "n2")
        asking = asyncio.create_task(still.relay.ask(1, FileRequest(id="", operation="properties", base="", path="a")))
        await asyncio.sleep(0)
        [request] = still.relay.waiting(1)
        assert still.relay.waiting(2) == []
        status, _ = await self._post(still, f"/agent/files/{request.id}", nodes.token(NODE_KEY, 2))
        assert status == 410
        assert not asking.done()
        exchange = await still.http.post(
            f"/agent/files/{request.id}", headers={"authorization": f"Bearer {nodes.token(NODE_KEY, 1)}", "x-batchyard-file": "%7B%7D"}
        )
        assert exchange.status_code == 204
        assert (await asking).request.path == "a"
        status, _ = await self._post(still, f"/agent/files/{request.id}", nodes.token(NODE_KEY, 1))
        assert status == 410, "once"

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"session": "x", "number": 1}', b"\xff", b"[" * 5000, b'{"session": 1}'])
    async def test_a_sync_that_is_none(self, still: Still, body: bytes) -> None:
        await still.node("idle", "n1")
        answer = await still.http.post("/agent/sync", content=body, headers={"authorization": f"Bearer {nodes.token(NODE_KEY, 1)}"})
        assert answer.status_code == 400

    async def test_reports_of_tasks_of_another_node(self, still: Still) -> None:
        await still.node("running", "n1")
        await still.node("running", "n2")
        await still.put("task", state="running", ready=0, node_pk=1, run=1, started=1)
        token = nodes.token(NODE_KEY, 2)
        _, joined = await self._post(still, "/agent/sync", token, {"session": 0, "number": 1})
        ended = [{"attempt": name, "ended": 1, "exitCode": 0} for name in ("1.1", "1.2", "x", "1.", "²", "9" * 400 + ".1")]
        status, _ = await self._post(still, "/agent/sync", token, {"session": joined["session"], "number": 2, "ended": ended})
        assert status == 200
        assert (await still("GET", "/jobs/j/tasks/t")).json()["state"] == "running"


def test_secrets_stay_out_of_logs_and_failures(raw: Raw, yard: Yard, server: Server) -> None:
    url = f"{raw.endpoint}/{server.storage_account}/c"
    output = {
        "filePattern": "../std*.txt",
        "destination": {"container": {"containerUrl": f"{url}?sig=SECRETSIG"}},
        "uploadOptions": {"uploadCondition": "taskcompletion"},
    }
    resource = {"httpUrl": f"{url}/x?sig=SECRETSIG", "filePath": "x"}
    job_id = yard.job(task("in", resourceFiles=[resource]), task("out", outputFiles=[output]), {"id": "nul", "commandLine": "a\0b"})
    for name in ("in", "out", "nul"):
        info = yard.reached(job_id, name)["executionInfo"]
        assert info["result"] == "failure"
        assert "SECRETSIG" not in json.dumps(info)
    wait_for(lambda: yard.get("/pools")["value"], "the server to answer")
    assert "SECRETSIG" not in server.log()
