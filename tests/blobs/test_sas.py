"""Shared access signatures: those of the SDK are understood, permissions and times hold, nothing can be bent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    AccessPolicy,
    BlobLeaseClient,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

from batchyard.blobs.edge import sas
from batchyard.blobs.edge.grants import Level
from batchyard.blobs.edge.server import OPERATIONS

HOUR = timedelta(hours=1)
Call = Callable[..., httpx.Response]
MakeSas = Callable[..., str]


def soon() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + HOUR


@pytest.fixture
def box_sas(endpoint: Any, container: ContainerClient) -> MakeSas:
    def make(permission: str | None, **options: Any) -> str:
        given = {"expiry": soon(), **options}
        return generate_container_sas(endpoint.account, container.container_name, endpoint.key, permission=permission, **given)

    return make


@pytest.fixture
def call(endpoint: Any, http: httpx.Client, container: ContainerClient) -> Call:
    def send(method: str, path: str, token: str, **options: Any) -> httpx.Response:
        extra = options.pop("query", "")
        url = f"{endpoint.url}/{container.container_name}{path}?{extra}{'&' if extra else ''}{token}"
        return http.request(method, url, **options)

    return send


def code_of(answer: httpx.Response) -> str:
    return answer.headers.get("x-ms-error-code", "")


PUT = {"x-ms-blob-type": "BlockBlob"}
BLOCKS = "<BlockList></BlockList>"
# name: (method, path, query, headers, body, letters that open it)
ACTIONS: dict[str, tuple[str, str, str, dict[str, str], str, str]] = {
    "get": ("GET", "/there", "", {}, "", "r"),
    "head": ("HEAD", "/there", "", {}, "", "r"),
    "get metadata": ("GET", "/there", "comp=metadata", {}, "", "r"),
    "get block list": ("GET", "/there", "comp=blocklist", {}, "", "r"),
    "list": ("GET", "", "restype=container&comp=list", {}, "", "l"),
    "create": ("PUT", "/new", "", PUT, "x", "cw"),
    "overwrite": ("PUT", "/there", "", PUT, "x", "w"),
    "create append": ("PUT", "/new", "", {"x-ms-blob-type": "AppendBlob"}, "", "cw"),
    "put block": ("PUT", "/new", "comp=block&blockid=AAAA", {}, "x", "w"),
    "put block list": ("PUT", "/new", "comp=blocklist", {}, BLOCKS, "w"),
    "append": ("PUT", "/log", "comp=appendblock", {}, "x", "aw"),
    "set metadata": ("PUT", "/there", "comp=metadata", {}, "", "w"),
    "set headers": ("PUT", "/there", "comp=properties", {}, "", "w"),
    "delete": ("DELETE", "/there", "", {}, "", "d"),
    "tagged": ("PUT", "/new", "", {**PUT, "x-ms-tags": "a=b"}, "x", "-"),
    "lease": ("PUT", "/there", "comp=lease", {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "15"}, "", "wd"),
    "snapshot": ("PUT", "/there", "comp=snapshot", {}, "", "cw"),
    "tier": ("PUT", "/there", "comp=tier", {"x-ms-access-tier": "Cool"}, "", "w"),
    "get tags": ("GET", "/there", "comp=tags", {}, "", "t"),
    "set tags": ("PUT", "/there", "comp=tags", {}, "<Tags><TagSet></TagSet></Tags>", "t"),
    "find": ("GET", "", "restype=container&comp=blobs&where=a%3D'b'", {}, "", "f"),
    "list with tags": ("GET", "", "restype=container&comp=list&include=tags", {}, "", "-"),
    "put page": ("PUT", "/disk", "comp=page", {"x-ms-page-write": "clear", "x-ms-range": "bytes=0-511"}, "", "w"),
    "page ranges": ("GET", "/disk", "comp=pagelist", {}, "", "r"),
    "undelete": ("PUT", "/there", "comp=undelete", {}, "", "w"),
    "expiry": ("PUT", "/there", "comp=expiry", {"x-ms-expiry-option": "NeverExpire"}, "", "w"),
    "seal": ("PUT", "/log", "comp=seal", {}, "", "aw"),
    "container lease": ("PUT", "", "restype=container&comp=lease", {"x-ms-lease-action": "break"}, "", ""),
    "container properties": ("GET", "", "restype=container", {}, "", ""),
    "container metadata": ("PUT", "", "restype=container&comp=metadata", {}, "", ""),
    "container delete": ("DELETE", "", "restype=container", {}, "", ""),
    "container undelete": ("PUT", "", "restype=container&comp=undelete", {}, "", ""),
    "container acl": ("GET", "", "restype=container&comp=acl", {}, "", ""),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_each_letter_opens_what_it_should_and_nothing_else(container: ContainerClient, box_sas: MakeSas, call: Call, action: str) -> None:
    method, path, query, headers, body, letters = ACTIONS[action]
    for letter in "racwdltf":
        with suppress(HttpResponseError):
            BlobLeaseClient(container.get_blob_client("there")).break_lease(0)
        container.delete_blobs("there", delete_snapshots="include", raise_on_any_failure=False)
        container.upload_blob("there", b"old")
        if container.get_blob_client("new").exists():
            container.delete_blob("new")
        container.get_blob_client("log").create_append_blob()
        container.get_blob_client("disk").create_page_blob(512)
        answer = call(method, path, box_sas(letter), query=query, headers=headers, content=body)
        assert answer.is_success == (letter in letters), (letter, answer.status_code, answer.text)
        if not answer.is_success:
            assert answer.status_code == 403
            assert container.get_blob_client("there").download_blob().readall() == b"old"


def test_every_operation_on_a_blob_or_container_has_its_row() -> None:
    tried = set()
    for method, path, query, *_ in ACTIONS.values():
        given = dict(part.split("=", 1) for part in query.split("&") if part)
        tried.add((method, "o" if path else "c", given.get("restype", ""), given.get("comp", "")))
    elsewhere = {"batch", "copy", "properties", "batchyard-contents"}
    # test_copy.py has the first two, the third says nothing that is secret, test_together.py has the last
    served = {(op.methods.split()[0], op.level.value, op.restype, op.comp) for op in OPERATIONS if op.level is not Level.SERVICE}
    left = {row for row in served - tried if row[3] not in elsewhere}
    assert left == {
        ("PUT", "c", "container", ""),
        ("GET", "c", "container", "metadata"),
        ("PUT", "c", "container", "acl"),
    }, "for the holder of the key, as the rows of containers that are here"


def test_two_letters_tag_a_new_blob(container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    for letters, opens in (("c", False), ("t", False), ("ct", True)):
        answer = call("PUT", f"/{letters}", box_sas(letters), headers={**PUT, "x-ms-tags": "a=b"}, content="x")
        assert (answer.is_success, code_of(answer)) == (opens, "" if opens else "AuthorizationPermissionMismatch")


def test_times(endpoint: Any, container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    container.upload_blob("there", b"x")
    now = datetime.now(UTC)
    good = box_sas("r", start=now - HOUR, expiry=now + HOUR)
    assert call("GET", "/there", good).status_code == 200
    for token in (box_sas("r", expiry=now - HOUR), box_sas("r", start=now + HOUR, expiry=now + 2 * HOUR)):
        answer = call("GET", "/there", token)
        assert (answer.status_code, code_of(answer)) == (403, "AuthenticationFailed")
    endpoint.clock.ahead = 2 * HOUR
    assert call("GET", "/there", good).status_code == 403
    assert call("GET", "/there", box_sas("r", expiry=(now + timedelta(days=2)).strftime("%Y-%m-%d"))).status_code == 200


def test_to_the_microsecond(endpoint: Any, container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    """It opens from its start on and at its expiry no more; so does one whose times are those of a stored policy."""
    container.upload_blob("there", b"x")
    start, expiry, tick = soon(), soon() + HOUR, timedelta(microseconds=1)
    policy = AccessPolicy(permission=ContainerSasPermissions(read=True), start=start, expiry=expiry)
    container.set_container_access_policy({"p": policy})
    account_sas = generate_account_sas(endpoint.account, endpoint.key, "o", "r", expiry, start)
    for token in (box_sas("r", start=start, expiry=expiry), box_sas(None, policy_id="p", expiry=None), account_sas):
        for moment, opens in ((start - tick, False), (start, True), (expiry - tick, True), (expiry, False)):
            endpoint.clock.stopped = moment
            answer = call("GET", "/there", token)
            assert (answer.status_code, code_of(answer)) == ((200, "") if opens else (403, "AuthenticationFailed")), (token, moment)


@pytest.mark.parametrize("field", ["sp", "se", "st", "sr", "sv", "spr", "sip", "sig", "rscd", "si", "extra-path"])
def test_tampering_is_seen(container: ContainerClient, box_sas: MakeSas, call: Call, field: str) -> None:
    container.upload_blob("there", b"x")
    query = {name: values[0] for name, values in parse_qs(box_sas("rl", start=datetime.now(UTC) - HOUR)).items()}
    assert call("GET", "/there", urlencode(query)).status_code == 200
    other = {
        "sp": "racwdl",
        "se": "2099-01-01T00:00:00Z",
        "st": "2000-01-01",
        "sr": "b",
        "sv": "2018-11-09",
        "spr": "http",
        "sip": "127.0.0.1",
    }
    other |= {"sig": query["sig"][::-1], "rscd": "attachment", "si": "policy"}
    if field in other:
        answer = call("GET", "/there", urlencode({**query, field: other[field]}))
    else:
        answer = call("GET", "-other/there", urlencode(query))
    assert (answer.status_code, code_of(answer)) == (403, "AuthenticationFailed")


def test_a_doubled_parameter_is_refused(container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    container.upload_blob("there", b"x")
    assert call("GET", "/there", box_sas("r") + "&sp=racwdl").status_code == 400


def test_protocol_and_address(container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    container.upload_blob("there", b"x")
    cases = [
        ({"protocol": "https"}, "AuthorizationProtocolMismatch"),
        ({"protocol": "https,http"}, ""),
        ({"ip": "10.0.0.1"}, "AuthorizationSourceIPMismatch"),
        ({"ip": "127.0.0.1"}, ""),
        ({"ip": "127.0.0.0-127.0.0.255"}, ""),
        ({"ip": "nonsense"}, "AuthorizationSourceIPMismatch"),
    ]
    for options, code in cases:
        assert code_of(call("GET", "/there", box_sas("r", **options))) == code


def test_blob_sas_opens_one_blob(endpoint: Any, container: ContainerClient, call: Call) -> None:
    for name in ("a b/ü+%", "other"):
        container.upload_blob(name, b"x")
    token = generate_blob_sas(
        endpoint.account,
        container.container_name,
        "a b/ü+%",
        account_key=endpoint.key,
        permission="racwd",
        expiry=soon(),
        content_type="text/fancy",
        content_disposition="attachment; filename=a",
    )
    answer = call("GET", "/" + quote("a b/ü+%"), token)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/fancy")
    assert answer.headers["content-disposition"] == "attachment; filename=a"
    assert call("GET", "/other", token).status_code == 403
    assert call("GET", "", token, query="restype=container&comp=list").status_code == 403


def test_a_header_cannot_be_smuggled_in(endpoint: Any, container: ContainerClient, call: Call) -> None:
    container.upload_blob("a", b"x")
    token = generate_blob_sas(
        endpoint.account,
        container.container_name,
        "a",
        account_key=endpoint.key,
        permission="r",
        expiry=soon(),
        content_type="a\r\nx-evil: 1",
    )
    assert call("GET", "/a", token).status_code in (400, 403)


def test_account_sas(endpoint: Any, http: httpx.Client, container: ContainerClient) -> None:
    def client(types: str, permission: str, services: str = "b") -> BlobServiceClient:
        made: BlobServiceClient = endpoint.client(
            generate_account_sas(endpoint.account, endpoint.key, types, permission, expiry=soon(), services=services)
        )
        return made

    name = container.container_name
    client("sco", "rwdlac").get_container_client(name).upload_blob("x", b"1")
    assert [b.name for b in client("c", "l").get_container_client(name).list_blobs()] == ["x"]
    assert name in [c.name for c in client("s", "l").list_containers(name)]
    client("c", "c").create_container(name + "-2")
    client("c", "d").delete_container(name + "-2")
    refused = [
        (lambda: client("s", "r").get_blob_client(name, "x").download_blob(), "AuthorizationResourceTypeMismatch"),
        (lambda: client("o", "l").get_container_client(name).list_blobs().next(), "AuthorizationResourceTypeMismatch"),
        (lambda: client("sco", "l").get_blob_client(name, "x").download_blob(), "AuthorizationPermissionMismatch"),
        (lambda: client("sco", "rwdlac", "q").get_blob_client(name, "x").download_blob(), "AuthorizationServiceMismatch"),
        (lambda: client("sco", "rwdlac").get_container_client(name).get_container_access_policy(), "AuthorizationPermissionMismatch"),
        (lambda: client("o", "c").get_blob_client(name, "x").upload_blob(b"2", overwrite=True), "UnauthorizedBlobOverwrite"),
    ]
    for attempt, code in refused:
        with pytest.raises(HttpResponseError) as caught:
            attempt()
        assert str(getattr(caught.value.error_code, "value", caught.value.error_code)) == code
    unsigned = generate_account_sas(endpoint.account, endpoint.key, "o", "r", expiry=soon()) + "&rsct=text/html"
    answer = http.get(f"{endpoint.url}/{name}/x?{unsigned}")
    assert answer.headers["content-type"] == "application/octet-stream"


def test_stored_access_policy(container: ContainerClient, box_sas: MakeSas, call: Call) -> None:
    container.upload_blob("there", b"x")
    token = box_sas(None, policy_id="mine", expiry=None)
    assert call("GET", "/there", token).status_code == 403
    policy = AccessPolicy(ContainerSasPermissions(read=True), expiry=soon())
    container.set_container_access_policy({"mine": policy})
    assert container.get_container_access_policy()["signed_identifiers"][0].id == "mine"
    assert call("GET", "/there", token).status_code == 200
    assert code_of(call("DELETE", "/there", token)) == "AuthorizationPermissionMismatch"
    assert call("GET", "/there", box_sas("rw", policy_id="mine", expiry=None)).status_code == 403
    container.set_container_access_policy({})
    assert call("GET", "/there", token).status_code == 403


def test_our_own(endpoint: Any, container: ContainerClient, call: Call) -> None:
    token = sas.container_sas(endpoint.account, endpoint.old_key, container.container_name, "wrl", soon())
    assert "sp=rwl" in token
    ContainerClient.from_container_url(f"{container.url}?{token}", retry_total=0).upload_blob("x", b"1")
    assert call("GET", "/x", token).content == b"1"
    assert call("DELETE", "/x", token).status_code == 403
    secure = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "r", soon(), https_only=True)
    assert code_of(call("GET", "/x", secure)) == "AuthorizationProtocolMismatch"


# The forms of the string-to-sign as the documentation gives them, written out by hand.
FORMS = {
    "2015-04-05": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n\n\n\n\n",
    "2017-11-09": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n\n\n\n\n",
    "2018-11-09": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n{sr}\n\n\n\n\n\n",
    "2020-02-10": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n{sr}\n\n\n\n\n\n",
    "2020-12-06": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n{sr}\n\n\n\n\n\n\n",
    "2025-11-05": "{sp}\n\n{se}\n{resource}\n\n\n\n{sv}\n{sr}\n\n\n\n\n\n\n",
}


@pytest.mark.parametrize("sv", FORMS)
@pytest.mark.parametrize("sr", ["b", "c"])
def test_versions_of_the_form(endpoint: Any, container: ContainerClient, call: Call, sv: str, sr: str) -> None:
    container.upload_blob("x", b"1")
    query = {"sp": "r", "se": "2099-01-01T00:00Z", "sv": sv, "sr": sr}
    resource = f"/blob/{endpoint.account}/{container.container_name}" + ("/x" if sr == "b" else "")
    query["sig"] = sas.signature(endpoint.key, FORMS[sv].format(resource=resource, **query))
    assert call("GET", "/x", urlencode(query)).content == b"1"


@pytest.mark.parametrize("sv", ["2012-02-12", "", "latest", "2018-11-09\n"])
def test_other_versions_are_refused(box_sas: MakeSas, call: Call, sv: str) -> None:
    query = {name: values[0] for name, values in parse_qs(box_sas("r")).items()}
    assert code_of(call("GET", "/x", urlencode({**query, "sv": sv}))) == "AuthenticationFailed"


@pytest.mark.parametrize("se", ["", "tomorrow", "2099-13-01", "2099-01-01T00:00:00+01:00", "20990101", "2099-01-01 00:00"])
def test_times_that_are_none(endpoint: Any, container: ContainerClient, call: Call, se: str) -> None:
    query = {"sp": "r", "se": se, "sv": sas.VERSION, "sr": "c"}
    query["sig"] = sas.signature(endpoint.key, sas.service_text(query, f"/blob/{endpoint.account}/{container.container_name}"))
    assert code_of(call("GET", "/x", urlencode(query))) == "AuthenticationFailed"
