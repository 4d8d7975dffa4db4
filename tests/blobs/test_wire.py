"""Requests that no well-behaved client sends, over raw sockets; and what an unknown caller may learn (nothing)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from azure.storage.blob import ContainerClient

from batchyard.blobs.edge import sas
from batchyard.blobs.edge.server import application
from batchyard.blobs.store.files import Incoming
from batchyard.model.times import http_date, micros


@pytest.fixture
def url(endpoint: Any, container: ContainerClient) -> Callable[[str], str]:
    """URL path and query of a blob, open to everything a container SAS can give."""
    token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "racwdl", datetime.now(UTC) + timedelta(hours=1))

    def make(path: str, query: str = "") -> str:
        return f"/{endpoint.account}/{container.container_name}{path}?{query}{'&' if query else ''}{token}"

    return make


@pytest.fixture
def send(endpoint: Any) -> Callable[..., tuple[int, str, bytes]]:
    """Send bytes as they are and read the answer: (status, error code, everything)."""

    def exchange(head: str, body: bytes = b"", *, vanish: bool = False) -> tuple[int, str, bytes]:
        with socket.create_connection((endpoint.host, endpoint.port)) as connection:
            connection.sendall(head.encode("latin-1") + b"\r\nhost: x\r\nconnection: close\r\n\r\n" + body)
            if vanish:
                connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        status = int(answer.split(b" ", 2)[1]) if answer else 0
        code = re.search(rb"x-ms-error-code: (\w+)", answer)
        return status, code[1].decode() if code else "", answer

    return exchange


PUT = "\r\nx-ms-blob-type: BlockBlob"


def test_nobody_learns_what_there_is(endpoint: Any, http: httpx.Client, container: ContainerClient) -> None:
    container.upload_blob("there", b"x")
    forged = sas.container_sas(
        endpoint.account, base64.b64encode(b"guess").decode(), container.container_name, "r", datetime(2099, 1, 1, tzinfo=UTC)
    )
    callers: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        (forged, {}),
        (forged + "&si=policy", {}),
        ("", {"authorization": f"SharedKey {endpoint.account}:AAAA"}),
        ("", {"authorization": "Bearer token"}),
        ("", {"authorization": "SharedKey other:AAAA"}),
        ("", {"authorization": "nonsense"}),
    ]
    for query, headers in callers:
        answers = set()
        for path in (f"{container.container_name}/there", f"{container.container_name}/none", "no-such-box/none", "Bad_Name/x"):
            answer = http.get(f"{endpoint.url}/{path}?{query}", headers=headers)
            answers.add((answer.status_code, answer.headers["x-ms-error-code"], answer.text))
        assert len(answers) == 1
        assert answers.pop()[0] in (401, 403)
    assert http.get(endpoint.url.replace(endpoint.account, "unknown") + "/x/y").status_code == 401


def signed(
    endpoint: Any, method: str, path: str, date: datetime, extra: dict[str, str] | None = None, key: str | None = None
) -> dict[str, str]:
    headers = {"x-ms-date": http_date(micros(date)), "x-ms-version": "2021-12-02", **(extra or {})}
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers) if name.startswith("x-ms-"))
    text = f"{method}\n{chr(10) * 11}{lines}/{endpoint.account}{path}"
    digest = hmac.new(base64.b64decode(key or endpoint.key), text.encode(), hashlib.sha256).digest()
    return {**headers, "authorization": f"SharedKey {endpoint.account}:{base64.b64encode(digest).decode()}"}


def test_shared_key_times_and_tampering(endpoint: Any, http: httpx.Client, container: ContainerClient) -> None:
    container.upload_blob("x", b"1")
    path = f"/{endpoint.account}/{container.container_name}/x"
    target = f"http://{endpoint.host}:{endpoint.port}{path}"
    now = datetime.now(UTC)

    def status(headers: dict[str, str], url: str = target) -> int:
        return http.get(url, headers=headers).status_code

    assert status(signed(endpoint, "GET", path, now)) == 200
    for minutes, expected in ((-14, 200), (14, 200), (-16, 403), (16, 403)):
        assert status(signed(endpoint, "GET", path, now + timedelta(minutes=minutes))) == expected
    good = signed(endpoint, "GET", path, now)
    assert status({**good, "x-ms-extra": "1"}) == 403
    assert status(good, target + "2") == 403
    assert status(good, target + "?comp=metadata") == 403
    assert status({k: v for k, v in good.items() if k != "x-ms-date"}) == 403
    assert status(signed(endpoint, "GET", path, now, key=endpoint.old_key)) == 200
    assert status(signed(endpoint, "GET", path, now, key=base64.b64encode(b"revoked").decode())) == 403


def test_the_time_of_a_signed_request(endpoint: Any, http: httpx.Client, container: ContainerClient) -> None:
    """It stands in either header, counts to the second, and x-ms-date wins; without one nobody knows how old the request is."""
    container.upload_blob("x", b"1")
    path = f"/{endpoint.account}/{container.container_name}/x"

    def status(sent: datetime | None, **more: str) -> tuple[int, str, str]:
        date = "" if sent is None else http_date(micros(sent))
        text = f"GET\n{chr(10) * 5}{date}\n{chr(10) * 5}x-ms-version:2021-12-02\n/{endpoint.account}{path}"
        digest = hmac.new(base64.b64decode(endpoint.key), text.encode(), hashlib.sha256).digest()
        headers = {"x-ms-version": "2021-12-02", "authorization": f"SharedKey {endpoint.account}:{base64.b64encode(digest).decode()}"}
        answer = http.get(f"http://{endpoint.host}:{endpoint.port}{path}", headers={**headers, **({"date": date} if date else {}), **more})
        return answer.status_code, answer.headers.get("x-ms-error-code", ""), answer.text

    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    endpoint.clock.stopped = now
    minute = timedelta(minutes=1)
    for sent in (now, now - 15 * minute, now + 15 * minute):
        assert status(sent)[0] == 200
    for sent in (now - 15 * minute - timedelta(seconds=1), now + 15 * minute + timedelta(seconds=1)):
        code, error, text = status(sent)
        assert (code, error) == (403, "AuthenticationFailed")
        assert "Request date header too old or in the future." in text
    code, error, text = status(None)
    assert (code, error) == (403, "AuthenticationFailed")
    assert "The Date header in the request is missing or incorrect." in text
    good = signed(endpoint, "GET", path, now)
    for other in ("nonsense", http_date(micros(now - 60 * minute))):
        answer = http.get(f"http://{endpoint.host}:{endpoint.port}{path}", headers={**good, "date": other})
        assert answer.status_code == 200, "the other one is not even signed"


def test_who_does_not_say_who_he_is_learns_how_to(http: httpx.Client, endpoint: Any) -> None:
    answer = http.get(f"{endpoint.url}/box/x")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "SharedKey")
    unknown = f"http://{endpoint.host}:{endpoint.port}/unknown/box/x"
    signature = base64.b64encode(b"x" * 32).decode()
    assert http.get(unknown, headers={"authorization": f"SharedKey unknown:{signature}"}).status_code == 403


@pytest.mark.parametrize(
    "said", ["SharedKeyLite storage1:", "sharedkey storage1:", "SharedKey other:", "SharedKey :", "SharedKey storage12:"]
)
def test_a_signature_counts_only_for_what_it_says(endpoint: Any, http: httpx.Client, container: ContainerClient, said: str) -> None:
    container.upload_blob("x", b"1")
    path = f"/{endpoint.account}/{container.container_name}/x"
    good = signed(endpoint, "GET", path, datetime.now(UTC))
    signature = good["authorization"].partition(":")[2]
    url = f"http://{endpoint.host}:{endpoint.port}{path}"
    assert http.get(url, headers=good).status_code == 200
    answer = http.get(url, headers={**good, "authorization": said + signature})
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")


@pytest.mark.parametrize("order", [["x-ms-meta-a_b", "x-ms-meta-ab", "x-ms-meta-a1"], ["x-ms-a", "x-ms-a-b", "x-ms-ab"]])
def test_shared_key_header_order_of_the_sdk(endpoint: Any, container: ContainerClient, order: list[str]) -> None:
    name = container.container_name
    client = endpoint.client().get_container_client(name)
    client.upload_blob("x", b"1", headers=dict.fromkeys(order, "v"))
    assert client.get_blob_client("x").exists()


@pytest.mark.parametrize(
    "path", ["/../../../etc/passwd", "/..", "/a/../b", "//x", "/%2e%2e/%2e%2e/x", "/a%2Fb", "/%5c..%5c", "/%F0%9F%98%80", "/a+b", "/."]
)
def test_hostile_paths_are_names(send: Any, url: Any, container: ContainerClient, path: str) -> None:
    put = send(f"PUT {url(path)} HTTP/1.1{PUT}\r\ncontent-length: 3", b"abc")
    assert put[0] == 201
    assert [blob.name for blob in container.list_blobs()] == [unquote(path)[1:]]
    assert send(f"GET {url(path)} HTTP/1.1")[2].endswith(b"\r\n\r\nabc")


REFUSED: dict[str, tuple[str, str, str, str, bytes, int, str]] = {
    # name: (method, path, query, headers, body, status, code)
    "no length": ("PUT", "/x", "", PUT, b"", 411, "MissingContentLengthHeader"),
    "chunked": ("PUT", "/x", "", PUT + "\r\ntransfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", 411, "MissingContentLengthHeader"),
    "too long": ("PUT", "/x", "", PUT + "\r\ncontent-length: 5242880001", b"", 413, "RequestBodyTooLarge"),
    "no type": ("PUT", "/x", "", "\r\ncontent-length: 0", b"", 400, "MissingRequiredHeader"),
    "page": ("PUT", "/x", "", "\r\nx-ms-blob-type: PageBlob\r\ncontent-length: 0", b"", 400, "MissingRequiredHeader"),
    "odd type": ("PUT", "/x", "", "\r\nx-ms-blob-type: Odd\r\ncontent-length: 0", b"", 400, "InvalidHeaderValue"),
    "append with body": ("PUT", "/x", "", "\r\nx-ms-blob-type: AppendBlob\r\ncontent-length: 1", b"x", 400, "InvalidHeaderValue"),
    "tier": ("PUT", "/x", "", PUT + "\r\nx-ms-access-tier: Lukewarm\r\ncontent-length: 0", b"", 400, "InvalidHeaderValue"),
    "bad md5": ("PUT", "/x", "", PUT + "\r\ncontent-md5: zz\r\ncontent-length: 0", b"", 400, "InvalidMd5"),
    "wrong md5": ("PUT", "/x", "", PUT + "\r\ncontent-md5: AAAAAAAAAAAAAAAAAAAAAA==\r\ncontent-length: 1", b"x", 400, "Md5Mismatch"),
    "wrong blob md5": (
        "PUT",
        "/x",
        "",
        PUT + "\r\nx-ms-blob-content-md5: AAAAAAAAAAAAAAAAAAAAAA==\r\ncontent-length: 1",
        b"x",
        400,
        "Md5Mismatch",
    ),
    "long name": ("PUT", "/" + "n" * 1025, "", PUT + "\r\ncontent-length: 0", b"", 400, "InvalidResourceName"),
    "nul in name": ("PUT", "/a%00b", "", PUT + "\r\ncontent-length: 0", b"", 400, "InvalidResourceName"),
    "no utf-8": ("GET", "/%ff", "", "", b"", 400, "InvalidUri"),
    "empty metadata name": ("PUT", "/x", "", PUT + "\r\nx-ms-meta-: v\r\ncontent-length: 0", b"", 400, "EmptyMetadataKey"),
    "bad metadata name": ("PUT", "/x", "", PUT + "\r\nx-ms-meta-a-b: v\r\ncontent-length: 0", b"", 400, "InvalidMetadata"),
    "much metadata": ("PUT", "/x", "", PUT + f"\r\nx-ms-meta-a: {'v' * 8192}\r\ncontent-length: 0", b"", 400, "MetadataTooLarge"),
    "huge header": ("GET", "/x", "", f"\r\nx-big: {'v' * 40_000}", b"", 431, "RequestHeadersTooLarge"),
    "doubled header": ("GET", "/x", "", "\r\nx-ms-range: bytes=0-1\r\nx-ms-range: bytes=0-2", b"", 400, "InvalidHeaderValue"),
    "version": ("GET", "/x", "", "\r\nx-ms-version: latest", b"", 400, "InvalidHeaderValue"),
    "bad condition": ("GET", "/x", "", "\r\nif-modified-since: yesterday", b"", 400, "InvalidHeaderValue"),
    "lease": ("PUT", "/x", "comp=metadata", "\r\nx-ms-lease-id: 1\r\ncontent-length: 0", b"", 400, "InvalidHeaderValue"),
    "snapshot": ("GET", "/x", "snapshot=2020", "", b"", 400, "InvalidQueryParameterValue"),
    "version id": ("GET", "/x", "versionid=2020", "", b"", 400, "InvalidQueryParameterValue"),
    "odd comp": ("GET", "/x", "comp=odd", "", b"", 400, "UnsupportedQueryParameter"),
    "odd verb": ("PATCH", "/x", "", "", b"", 405, "UnsupportedHttpVerb"),
    "block without id": ("PUT", "/x", "comp=block", "\r\ncontent-length: 1", b"x", 400, "MissingRequiredQueryParameter"),
    "block id no base64": ("PUT", "/x", "comp=block&blockid=%25", "\r\ncontent-length: 1", b"x", 400, "InvalidBlockId"),
    "block id long": ("PUT", "/x", f"comp=block&blockid={'A' * 88}", "\r\ncontent-length: 1", b"x", 400, "InvalidBlockId"),
    "empty block": ("PUT", "/x", "comp=block&blockid=AAAA", "\r\ncontent-length: 0", b"", 400, "InvalidHeaderValue"),
    "append to none": ("PUT", "/x", "comp=appendblock", "\r\ncontent-length: 1", b"x", 404, "BlobNotFound"),
    "marker": ("GET", "", "restype=container&comp=list&marker=~", "", b"", 400, "InvalidQueryParameterValue"),
    "zero results": ("GET", "", "restype=container&comp=list&maxresults=0", "", b"", 400, "OutOfRangeQueryParameterValue"),
    "odd results": ("GET", "", "restype=container&comp=list&maxresults=-1", "", b"", 400, "InvalidQueryParameterValue"),
    "copy of elsewhere": ("PUT", "/x", "", "\r\nx-ms-copy-source: http://else/a/b/c\r\ncontent-length: 0", b"", 400, "UnsupportedHeader"),
    **{
        f"copy of {source}": ("PUT", "/x", "", f"\r\nx-ms-copy-source: {source}\r\ncontent-length: 0", b"", 400, code)
        for source, code in (
            ("http://[", "InvalidHeaderValue"),
            ("http://[::1/a/b", "InvalidHeaderValue"),
            ("//[x]/a/b", "InvalidHeaderValue"),
            ("http://x/%ff/b/c", "InvalidUri"),
            ("http://x:99999/a/b/c", "InvalidHeaderValue"),
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(send: Any, url: Any, container: ContainerClient, name: str) -> None:
    method, path, query, headers, body, status, code = REFUSED[name]
    answer = send(f"{method} {url(path, query)} HTTP/1.1{headers}", body)
    assert answer[:2] == (status, code)
    assert b"<Code>" + code.encode() in answer[2]
    assert list(container.list_blobs()) == []


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><BlockList><Latest>&b;</Latest></BlockList>'
DOCUMENTS = {
    "bomb": (BOMB, "InvalidXmlDocument"),
    "doctype": ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><BlockList/>", "InvalidXmlDocument"),
    "not xml": ("{}", "InvalidXmlDocument"),
    "empty": ("", "InvalidXmlDocument"),
    "cut": ("<BlockList><Latest>AAAA", "InvalidXmlDocument"),
    "deep": ("<BlockList>" + "<a>" * 5000, "InvalidXmlDocument"),
    "odd tag": ("<BlockList><Oldest>AAAA</Oldest></BlockList>", "InvalidXmlDocument"),
    "odd root": ("<Blocks><Latest>AAAA</Latest></Blocks>", "InvalidXmlDocument"),
    "unknown entity": ("<BlockList><Latest>&x;</Latest></BlockList>", "InvalidXmlDocument"),
    "odd encoding": ("<?xml version='1.0' encoding='x-odd'?><BlockList/>", "InvalidXmlDocument"),
    "too many": ("<BlockList>" + "<Latest>AAAA</Latest>" * 50_001 + "</BlockList>", "BlockListTooLong"),
    "not staged": ("<BlockList><Latest>AAAA</Latest></BlockList>", "InvalidBlockList"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_refused_block_lists(send: Any, url: Any, name: str) -> None:
    text, code = DOCUMENTS[name]
    answer = send(f"PUT {url('/x', 'comp=blocklist')} HTTP/1.1\r\ncontent-length: {len(text)}", text.encode())
    assert answer[:2] == (400, code)


def test_a_block_list_that_is_too_large_is_not_read(send: Any, url: Any) -> None:
    assert send(f"PUT {url('/x', 'comp=blocklist')} HTTP/1.1\r\ncontent-length: 9000000")[:2] == (413, "RequestBodyTooLarge")


@pytest.mark.parametrize("query", ["", "comp=block&blockid=AAAA"])
def test_a_client_that_vanishes_leaves_nothing(
    endpoint: Any, send: Any, url: Any, container: ContainerClient, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    real = Incoming.discard

    def discard(self: Incoming) -> None:
        real(self)
        over.set()

    monkeypatch.setattr(Incoming, "discard", discard)
    before = sorted(p.name for p in data_files(endpoint))
    status, _, _ = send(f"PUT {url('/x', query)} HTTP/1.1{PUT}\r\ncontent-length: 5000000", b"x" * 3_000_000, vanish=True)
    assert status == 0
    assert over.wait(30)
    assert list(container.list_blobs()) == []
    assert not container.get_blob_client("x").exists()
    assert sorted(p.name for p in data_files(endpoint)) == before


def data_files(endpoint: Any) -> list[Any]:
    return [path for path in endpoint.store._files._directory.rglob("*") if path.is_file()]


def test_errors_have_the_form_of_the_service(send: Any, url: Any) -> None:
    head = "\r\nx-ms-client-request-id: mine-1\r\nx-ms-version: 2099-01-01"
    status, _, answer = send(f"GET {url('/none')} HTTP/1.1{head}")
    assert status == 404
    for wanted in (b"x-ms-client-request-id: mine-1", b"x-ms-version: 2026-10-06", b"x-ms-request-id: ", b"content-type: application/xml"):
        assert wanted in answer
    error = b"<Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.</Message></Error>"
    assert answer.split(b"\r\n\r\n", 1)[1] == b'<?xml version="1.0" encoding="utf-8"?>' + error
    assert send(f"HEAD {url('/none')} HTTP/1.1{head}")[2].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("asked", "status", "content", "answered"),
    [
        ("bytes=2-4", 206, b"cde", "bytes 2-4/10"),
        ("bytes=8-99", 206, b"ij", "bytes 8-9/10"),
        ("bytes=9-", 206, b"j", "bytes 9-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=4-2", 200, b"abcdefghij", None),
        ("bytes=-3", 200, b"abcdefghij", None),
        ("bytes=0-1,3-4", 200, b"abcdefghij", None),
        ("lines=1-2", 200, b"abcdefghij", None),
    ],
)
def test_ranges(
    endpoint: Any,
    http: httpx.Client,
    url: Any,
    container: ContainerClient,
    asked: str,
    status: int,
    content: bytes | None,
    answered: str | None,
) -> None:
    container.upload_blob("x", b"abcdefghij")
    for header in ("range", "x-ms-range"):
        target = f"http://{endpoint.host}:{endpoint.port}{url('/x')}"
        answer = http.get(target, headers={header: asked, "x-ms-range-get-content-md5": "true"})
        assert (answer.status_code, answer.headers.get("content-range")) == (status, answered)
        if content is not None:
            assert answer.content == content
            assert answer.headers["content-md5"] == base64.b64encode(hashlib.md5(content).digest()).decode()


def test_names_that_xml_cannot_say(endpoint: Any, http: httpx.Client, url: Any, container: ContainerClient) -> None:
    name = "a\x01\n<&>\uffff"
    target = f"http://{endpoint.host}:{endpoint.port}{url('/' + quote(name))}"
    assert http.put(target, headers={"x-ms-blob-type": "BlockBlob"}, content=b"").status_code == 201
    assert [blob.name for blob in container.list_blobs()] == [name]


def test_keep_alive_survives_a_refused_upload(endpoint: Any, url: Any) -> None:
    base = f"http://{endpoint.host}:{endpoint.port}"
    with httpx.Client(trust_env=False) as client:
        refused = client.put(base + url("/x"), content=b"x" * 3_000_000, headers={"x-ms-blob-type": "OtherBlob"})
        assert refused.status_code == 400
        assert client.put(base + url("/x"), content=b"abc", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
        assert client.get(base + url("/x")).content == b"abc"


async def test_a_body_shorter_than_it_says_is_never_stored(endpoint: Any, url: Any, container: ContainerClient) -> None:
    """HTTP servers see to this themselves; the endpoint does not count on it."""
    path, _, query = url("/x").partition("?")
    headers = [(b"x-ms-blob-type", b"BlockBlob"), (b"content-length", b"10")]
    scope = {"type": "http", "method": "PUT", "raw_path": path.encode(), "query_string": query.encode(), "headers": headers}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"short", "more_body": False}

    async def send_on(message: Any) -> None:
        sent.append(message)

    await application(endpoint.store, {endpoint.account: [endpoint.key]}, endpoint.clock)(scope, receive, send_on)
    assert sent == []
    assert not container.get_blob_client("x").exists()
