"""Many small Put Blobs in one request: each is what it would have been alone, and all are durable in one commit."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobSasPermissions, ContainerClient, generate_blob_sas

from batchyard.blobs.base import AccessPolicy, BlobError, BlobRef, Conditions, ContainerRef
from batchyard.blobs.edge.sas import container_sas, service_text, signature
from batchyard.disk import sqlite
from batchyard.model.together import COMP, HEADER, LARGEST, MOST, Put

HOUR = timedelta(hours=1)
PLAIN = {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-12-02"}


class Box:
    """The container, and what is sent to it."""

    def __init__(self, endpoint: Any, http: httpx.Client, client: ContainerClient) -> None:
        self._endpoint, self._http, self.client = endpoint, http, client
        self.path = f"/{endpoint.account}/{client.container_name}"

    def sas(self, permissions: str = "cw", *, key: str | None = None, expiry: datetime | None = None, **more: Any) -> str:
        name = self.client.container_name
        return container_sas(
            self._endpoint.account, key or self._endpoint.key, name, permissions, expiry or datetime.now(UTC) + HOUR, **more
        )

    def part(self, name: str, content: bytes = b"x", sas: str | None = None, path: str | None = None, **headers: str) -> Put:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return Put(f"{path or self.path}/{name}?{self.sas() if sas is None else sas}", PLAIN | more, content)

    def together(self, *parts: Put, sas: str | None = None) -> httpx.Response:
        return self.raw(msgspec.msgpack.encode(parts), sas)

    def raw(self, body: bytes, sas: str | None = None) -> httpx.Response:
        query = f"restype=container&comp={COMP}&{self.sas() if sas is None else sas}"
        return self._http.post(f"{self._endpoint.url}/{self.client.container_name}?{query}", content=body)

    def alone(self, part: Put) -> int:
        target = f"http://{self._endpoint.host}:{self._endpoint.port}{part.target}"
        return self._http.put(target, content=part.content, headers=part.headers).status_code

    def statuses(self, *parts: Put) -> list[int]:
        answer = self.together(*parts)
        assert answer.status_code == 200, answer.text
        return msgspec.msgpack.decode(answer.content, type=list[int])

    def held(self) -> dict[str, bytes]:
        return {one.name: self.client.download_blob(one.name).readall() for one in self.client.list_blobs()}


@pytest.fixture
def box(endpoint: Any, http: httpx.Client, container: ContainerClient) -> Box:
    return Box(endpoint, http, container)


def test_all_are_there_with_all_they_say_of_themselves(box: Box) -> None:
    large = bytes(range(256)) * 256
    telling = box.part("e", x_ms_meta_Mixed="a b", x_ms_blob_content_type="text/x", x_ms_access_tier="Cool")
    assert box.statuses(box.part("a", b"one"), box.part("b", b""), box.part("d/%C3%A9", large), telling) == [201] * 4
    assert box.held() == {"a": b"one", "b": b"", "d/é": large, "e": b"x"}
    found = box.client.get_blob_client("e").get_blob_properties()
    assert (found.metadata, found.content_settings.content_type, found.blob_tier) == ({"Mixed": "a b"}, "text/x", "Cool")


@pytest.mark.sqlite
def test_one_commit_brings_all_to_the_disk(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = []
    real = sqlite.Journal.commit
    monkeypatch.setattr(sqlite.Journal, "commit", lambda self, topics: (commits.append(1), real(self, topics))[1])
    assert box.statuses(*(box.part(f"{number}", b"x") for number in range(MOST))) == [201] * MOST
    assert len(commits) == 1


def test_of_two_of_one_name_the_later_stays(box: Box) -> None:
    assert box.statuses(*(box.part("a", b"%d" % number) for number in range(9))) == [201] * 9
    assert box.held() == {"a": b"8"}


def test_a_storage_says_that_it_takes_them(box: Box, http: httpx.Client, endpoint: Any) -> None:
    answer = http.put(f"http://{endpoint.host}:{endpoint.port}{box.part('a').target}", content=b"x", headers=PLAIN)
    assert answer.headers[HEADER] == str(MOST)


Make = Callable[[Box, Any], Put]
REFUSED: dict[str, Make] = {
    "only reading": lambda box, _: box.part("bad", sas=box.sas("rl")),
    "no signature": lambda box, _: box.part("bad", sas=""),
    "another's key": lambda box, _: box.part("bad", sas=box.sas(key=base64.b64encode(b"guess").decode())),
    "too late": lambda box, _: box.part("bad", sas=box.sas(expiry=datetime.now(UTC) - HOUR)),
    "not yet": lambda box, _: box.part("bad", sas=box.sas(start=datetime.now(UTC) + HOUR / 2)),
    "only by TLS": lambda box, _: box.part("bad", sas=box.sas(https_only=True)),
    "from elsewhere": lambda box, endpoint: box.part("bad", sas=_from(box, endpoint, "10.1.2.3")),
    "another blob's": lambda box, endpoint: box.part("bad", sas=_of_blob(box, endpoint, "good")),
    "creation of what is there": lambda box, _: box.part("there", b"new", sas=box.sas("c")),
    "a policy that is not there": lambda box, endpoint: box.part("bad", sas=_by_policy(box, endpoint, "none")),
    "a forged account key": lambda box, endpoint: box.part("bad", sas="", authorization=f"SharedKey {endpoint.account}:AAAA"),
    "another entity tag": lambda box, _: box.part("there", b"new", if_match='"0x1"'),
    "none may be there": lambda box, _: box.part("there", b"new", if_none_match="*"),
    "a lease": lambda box, _: box.part("leased", b"new"),
    "another content": lambda box, _: box.part("bad", content_md5=base64.b64encode(bytes(16)).decode()),
    "a sum that is none": lambda box, _: box.part("bad", content_md5="x"),
    "no type": lambda box, _: Put(f"{box.path}/bad?{box.sas()}", {}, b"x"),
    "metadata that cannot be": lambda box, _: box.part("bad", x_ms_meta_1="x"),
    "tags without a permission": lambda box, _: box.part("bad", x_ms_tags="k=v"),
    "an operation that is not served": lambda box, _: box.part("bad", x_ms_encryption_scope="x"),
    "too long a name": lambda box, _: box.part("b" * 1025),
}


def _from(box: Box, endpoint: Any, address: str) -> str:
    query = {"sv": "2021-12-02", "se": "2099-01-01T00:00:00Z", "sr": "c", "sp": "cw", "sip": address}
    return _signed(box, endpoint, query)


def _by_policy(box: Box, endpoint: Any, name: str) -> str:
    return _signed(box, endpoint, {"sv": "2021-12-02", "sr": "c", "si": name})


def _signed(box: Box, endpoint: Any, query: dict[str, str]) -> str:
    query["sig"] = signature(endpoint.key, service_text(query, f"/blob{box.path}"))
    return str(httpx.QueryParams(query))


def _of_blob(box: Box, endpoint: Any, name: str) -> str:
    permission = BlobSasPermissions(create=True, write=True)
    expiry = datetime.now(UTC) + HOUR
    return generate_blob_sas(
        endpoint.account, box.client.container_name, name, account_key=endpoint.key, permission=permission, expiry=expiry
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_refused_alone_is_refused_in_company_and_touches_no_other(box: Box, endpoint: Any, case: str) -> None:
    box.client.upload_blob("there", b"old")
    box.client.upload_blob("leased", b"old")
    box.client.get_blob_client("leased").acquire_lease()
    part = REFUSED[case](box, endpoint)
    alone = box.alone(part)
    assert 400 <= alone < 500
    assert box.statuses(box.part("first"), part, box.part("last")) == [201, alone, 201]
    assert box.held() == {"there": b"old", "leased": b"old", "first": b"x", "last": b"x"}


def test_what_is_let_in_alone_is_let_in_in_company(box: Box, endpoint: Any) -> None:
    ref = ContainerRef(endpoint.account, box.client.container_name)
    endpoint.store.set_policies(ref, {"p": AccessPolicy("2000-01-01", "2099-01-01", "cw")}, Conditions(), 1)
    box.client.upload_blob("leased", b"old")
    lease = box.client.get_blob_client("leased").acquire_lease()
    by_policy = _by_policy(box, endpoint, "p")
    parts = (
        box.part("policy", sas=by_policy),
        box.part("blob", sas=_of_blob(box, endpoint, "blob")),
        box.part("leased", b"new", x_ms_lease_id=lease.id),
        box.part("new", if_none_match="*"),
        box.part("created", sas=box.sas("c")),
    )
    assert box.statuses(*parts) == [201] * 5
    assert set(box.held()) == {"policy", "blob", "leased", "new", "created"}
    assert box.held()["leased"] == b"new"
    endpoint.store.set_policies(ref, {}, Conditions(), 2)
    assert box.statuses(box.part("revoked", sas=by_policy), box.part("other")) == [403, 201]


def test_what_is_overwritten_is_kept_where_that_is_wanted(box: Box, endpoint: Any) -> None:
    service = endpoint.client()
    before = service.get_service_properties()["delete_retention_policy"]
    before.enabled, before.days = True, 3
    service.set_service_properties(delete_retention_policy=before)
    try:
        box.client.upload_blob("a", b"old")
        assert box.statuses(box.part("a", b"new"), box.part("b")) == [201, 201]
        kept = [one for one in box.client.list_blobs(include=["deleted", "snapshots"]) if one.name == "a" and one.deleted]
        assert len(kept) == 1
    finally:
        before.enabled, before.days = False, None
        service.set_service_properties(delete_retention_policy=before)


ILL: dict[str, Callable[[Box], bytes]] = {
    "no list": lambda box: b"\xc1nonsense",
    "nothing": lambda box: msgspec.msgpack.encode([]),
    "too many": lambda box: msgspec.msgpack.encode([box.part(f"{number}") for number in range(MOST + 1)]),
    "too large": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", bytes(LARGEST + 1))]),
    "too large in all": lambda box: bytes(9 << 20),
    "no strings": lambda box: msgspec.msgpack.encode([[1, {}, b""]]),
    "more fields": lambda box: msgspec.msgpack.encode([[box.part("a").target, {}, b"", 1]]),
    "another container": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", path=f"{box.path}2")]),
    "another account": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", path=f"/x{box.path}")]),
    "the container": lambda box: msgspec.msgpack.encode([box.part("a"), Put(f"{box.path}?{box.sas()}", PLAIN, b"")]),
    "another operation": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", sas=f"comp=metadata&{box.sas()}")]),
    "a batch": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", sas=f"restype=container&comp={COMP}&{box.sas()}")]),
    "a copy": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", x_ms_copy_source="http://127.0.0.1/")]),
    "a host": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", host="other.blob.x.y")]),
    "a length": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", content_length="0")]),
    "a header twice": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", x_ms_meta_a="1", X_ms_meta_a="2")]),
    "a line break": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", x_ms_meta_a="1\r\nx: y")]),
    "a space in a name": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b", **{"x y": "1"})]),
    "a space in the path": lambda box: msgspec.msgpack.encode([box.part("a"), box.part("b c")]),
}


@pytest.mark.parametrize("case", ILL)
def test_a_request_that_cannot_be_meant_does_nothing(box: Box, case: str) -> None:
    answer = box.raw(ILL[case](box))
    assert answer.status_code in (400, 413), answer.text
    assert answer.headers["x-ms-error-code"] in ("InvalidInput", "RequestBodyTooLarge", "InvalidUri")
    assert box.held() == {}


@pytest.mark.parametrize("permissions", ["rl", "d"])
def test_who_may_not_write_cannot_even_ask(box: Box, permissions: str) -> None:
    assert box.together(box.part("a"), sas=box.sas(permissions)).status_code == 403
    assert box.together(box.part("a"), sas="").status_code == 401
    assert box.held() == {}


@pytest.mark.sqlite
def test_a_full_disk_refuses_each(box: Box, monkeypatch: pytest.MonkeyPatch, endpoint: Any) -> None:
    real = sqlite.Journal.commit

    def full(self: Any, topics: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sqlite.Journal, "commit", full)
    assert box.statuses(box.part("a"), box.part("b")) == [503, 503]
    monkeypatch.setattr(sqlite.Journal, "commit", real)
    assert box.held() == {}
    with pytest.raises(BlobError):
        endpoint.store.blob(BlobRef(endpoint.account, box.client.container_name, "a"))
    with pytest.raises(HttpResponseError):
        box.client.download_blob("b")
