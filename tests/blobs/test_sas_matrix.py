"""Every operation with every signature that does not let it: the right code, and nothing happens. Made from the operations' table."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.storage.blob import (
    AccessPolicy,
    ContainerClient,
    ContainerSasPermissions,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)
from tests.blobs.conftest import ACCOUNT, KEY, OLD_KEY
from tests.blobs.test_sas import ACTIONS

from batchyard.blobs.edge.server import OPERATIONS, PATH_OPERATIONS

HOUR = timedelta(hours=1)
LETTERS = "racwdxltfi"
STRANGER = base64.b64encode(b"a key that is not the account's").decode()
MakeToken = Callable[[str, "Action"], str]


class Action:
    """An operation on what is there, and what an account SAS has to have for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.method, self.path, self.query, self.headers, self.body, _ = (FILES | ACTIONS)[name]
        given = dict(part.split("=", 1) for part in self.query.split("&") if part)
        self.level = "o" if self.path else "c"
        word = "rename" if "x-ms-rename-source" in self.headers else given.get("resource", given.get("action", "").lower())
        wanted = (word, "") if name in FILES else (given.get("restype", ""), given.get("comp", ""))
        table = PATH_OPERATIONS if name in FILES else OPERATIONS
        same = (op for op in table if (op.level.value, op.restype, op.comp) == (self.level, *wanted))
        [row] = [op for op in same if self.method in op.methods.split()]
        self.letters = row.letters


DFS = {"host": f"{ACCOUNT}.dfs.localhost"}
FILES: dict[str, tuple[str, str, str, dict[str, str], str, str]] = {
    "list paths": ("GET", "", "resource=filesystem&recursive=true", DFS, "", ""),
    "file": ("PUT", "/new", "resource=file", DFS, "", ""),
    "directory": ("PUT", "/new", "resource=directory", DFS, "", ""),
    "rename": ("PUT", "/new", "", {**DFS, "x-ms-rename-source": "/SOURCE/there"}, "", ""),
    "append to file": ("PATCH", "/there", "action=append&position=0", DFS, "x", ""),
    "flush": ("PATCH", "/there", "action=flush&position=3", DFS, "", ""),
    "properties of file": ("PATCH", "/there", "action=setProperties", DFS, "", ""),
    "delete file": ("DELETE", "/there", "recursive=true", DFS, "", ""),
    "status": ("HEAD", "/there", "action=getStatus", DFS, "", ""),
    "rights": ("HEAD", "/there", "action=getAccessControl", DFS, "", ""),
}
"""Operations on files, on the host name of theirs; all but those of whole file systems, which are those of containers."""


def box(name: str, **more: Any) -> str:
    return generate_container_sas(ACCOUNT, name, **{"account_key": KEY, "permission": LETTERS, "expiry": soon(), **more})


def account(**more: Any) -> str:
    given: dict[str, Any] = {"account_key": KEY, "resource_types": "sco", "permission": LETTERS, "expiry": soon(), **more}
    token = generate_account_sas(ACCOUNT, **given)
    return str(token)


def soon() -> datetime:
    return datetime.now(UTC) + HOUR


def other_types(action: Action) -> str:
    return "sco".replace(action.level, "")


def other_letters(action: Action) -> str:
    return "".join(letter for letter in "rwdlacutf" if letter not in action.letters) or "r"


def by_policy(policy: str) -> MakeToken:
    return lambda name, action: box(name, permission=None, expiry=None, policy_id=policy)


FAULTS: dict[str, tuple[MakeToken, int, str]] = {
    "nothing": (lambda name, action: "", 401, "NoAuthenticationInformation"),
    "another key": (lambda name, action: box(name, account_key=STRANGER), 403, "AuthenticationFailed"),
    "another key, account": (lambda name, action: account(account_key=STRANGER), 403, "AuthenticationFailed"),
    "not yet": (lambda name, action: box(name, start=soon(), expiry=soon() + HOUR), 403, "AuthenticationFailed"),
    "not yet, account": (lambda name, action: account(start=soon(), expiry=soon() + HOUR), 403, "AuthenticationFailed"),
    "over": (lambda name, action: box(name, expiry=datetime.now(UTC)), 403, "AuthenticationFailed"),
    "over, account": (lambda name, action: account(expiry=datetime.now(UTC)), 403, "AuthenticationFailed"),
    "elsewhere": (lambda name, action: box(name, ip="10.1.2.3"), 403, "AuthorizationSourceIPMismatch"),
    "elsewhere, account": (lambda name, action: account(ip="10.1.2.3-10.1.2.9"), 403, "AuthorizationSourceIPMismatch"),
    "https": (lambda name, action: box(name, protocol="https"), 403, "AuthorizationProtocolMismatch"),
    "https, account": (lambda name, action: account(protocol="https"), 403, "AuthorizationProtocolMismatch"),
    "another container": (lambda name, action: box(f"{name}-2"), 403, "AuthenticationFailed"),
    "another blob": (
        lambda name, action: generate_blob_sas(ACCOUNT, name, "another", account_key=KEY, permission=LETTERS, expiry=soon()),
        403,
        "AuthenticationFailed",
    ),
    "no such policy": (lambda name, action: box(name, permission=None, expiry=None, policy_id="none"), 403, "AuthenticationFailed"),
    "a policy that is over": (by_policy("over"), 403, "AuthenticationFailed"),
    "a policy that has not begun": (by_policy("not yet"), 403, "AuthenticationFailed"),
    "what both say, policy and signature": (
        lambda name, action: box(name, permission="rwd", expiry=None, policy_id="whole"),
        403,
        "AuthenticationFailed",
    ),
    "another service": (lambda name, action: account().replace("ss=b", "ss=q"), 403, "AuthenticationFailed"),
    "other resource types": (lambda name, action: account(resource_types=other_types(action)), 403, "AuthorizationResourceTypeMismatch"),
    "other letters": (lambda name, action: account(permission=other_letters(action)), 403, "AuthorizationPermissionMismatch"),
    "no letter": (lambda name, action: account(permission="i"), 403, "AuthorizationPermissionMismatch"),
}


@pytest.fixture
def there(container: ContainerClient) -> ContainerClient:
    """A container with what the operations are about."""
    container.upload_blob("there", b"old")
    container.get_blob_client("log").create_append_blob()
    container.get_blob_client("disk").create_page_blob(512)
    everything = ContainerSasPermissions.from_string(LETTERS)
    policies = {
        "whole": AccessPolicy(everything, soon()),
        "over": AccessPolicy(everything, datetime.now(UTC)),
        "not yet": AccessPolicy(everything, soon() + HOUR, soon()),
    }
    container.set_container_access_policy(policies)
    return container


def ask(endpoint: Any, http: httpx.Client, container: ContainerClient, action: Action, token: str) -> tuple[int, str]:
    query = "&".join(filter(None, (action.query, token)))
    headers = {name: value.replace("SOURCE", container.container_name) for name, value in action.headers.items()}
    base = f"http://{endpoint.host}:{endpoint.port}" if "host" in headers else endpoint.url
    url = f"{base}/{container.container_name}{action.path}?{query}"
    answer = http.request(action.method, url, headers=headers, content=action.body)
    return answer.status_code, answer.headers.get("x-ms-error-code", "")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_signature_does_not_let_is_refused(endpoint: Any, http: httpx.Client, there: ContainerClient, fault: str) -> None:
    make, status, code = FAULTS[fault]
    before = {blob.name: blob.etag for blob in there.list_blobs(include=["uncommittedblobs"])}
    for name in FILES | ACTIONS:
        action = Action(name)
        told = ask(endpoint, http, there, action, make(there.container_name, action))
        assert told == (status, code), name
    assert {blob.name: blob.etag for blob in there.list_blobs(include=["uncommittedblobs"])} == before


@pytest.mark.parametrize("make", [box, lambda name, **times: account(**times)], ids=["container", "account"])
def test_times_hold_to_the_second(endpoint: Any, http: httpx.Client, there: ContainerClient, make: Callable[..., str]) -> None:
    """Open from the start on, shut from the expiry on."""
    start = datetime.now(UTC).replace(microsecond=0) + HOUR
    token = make(there.container_name, start=start, expiry=start + timedelta(seconds=1))
    tick = timedelta(microseconds=1)
    for name in FILES | ACTIONS:
        action = Action(name)
        for at, is_open in ((start - tick, False), (start, True), (start + 10**6 * tick - tick, True), (start + 10**6 * tick, False)):
            endpoint.clock.stopped = at
            if is_open and name != "get":
                continue  # it would change what the next ones are about
            status, code = ask(endpoint, http, there, action, token)
            assert (status == 200) if is_open else (status, code) == (403, "AuthenticationFailed"), (name, at)


def test_each_permission_opens_just_what_is_listed_for_it(endpoint: Any, http: httpx.Client, there: ContainerClient) -> None:
    """An account SAS of one letter: what it does not open is refused for the permission, and what it opens for nothing of the signature."""
    for letter in "rwdlacutf":
        for name in FILES | ACTIONS:
            action = Action(name)
            if letter in action.letters:
                continue
            told = ask(endpoint, http, there, action, account(permission=letter))
            assert told == (403, "AuthorizationPermissionMismatch"), (letter, name)
    assert there.get_blob_client("there").download_blob().readall() == b"old"


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
@pytest.mark.parametrize("name", FILES | ACTIONS)
def test_what_a_signature_of_either_key_lets_is_done(
    endpoint: Any, http: httpx.Client, there: ContainerClient, name: str, key: str
) -> None:
    """Or fails for another reason than the signature: what is undeleted must have been deleted."""
    action = Action(name)
    status, code = ask(endpoint, http, there, action, account(account_key=key, permission="rwdxlacutfi"))
    if not action.letters:
        assert (status, code) == (403, "AuthorizationPermissionMismatch")
    else:
        assert status not in (401, 403), code


def test_a_signature_for_a_snapshot_opens_that_alone(endpoint: Any, http: httpx.Client, there: ContainerClient) -> None:
    blob = there.get_blob_client("there")
    first = blob.create_snapshot()["snapshot"]
    blob.upload_blob(b"new", overwrite=True)
    second = blob.create_snapshot()["snapshot"]
    given: dict[str, Any] = {"account_key": KEY, "permission": "r", "expiry": soon()}
    token = generate_blob_sas(ACCOUNT, there.container_name, "there", snapshot=first, **given)
    rest = "&".join(part for part in token.split("&") if not part.startswith("snapshot="))

    def get(query: str, token: str = rest) -> tuple[int, bytes]:
        answer = http.get(f"{blob.url}?{query}{'&' if query else ''}{token}")
        return answer.status_code, answer.content if answer.is_success else answer.headers["x-ms-error-code"].encode()

    assert get(f"snapshot={first}") == (200, b"old")
    assert get(f"snapshot={second}") == (403, b"AuthenticationFailed")
    assert get("") == (403, b"AuthenticationFailed")
    whole = generate_blob_sas(ACCOUNT, there.container_name, "there", **given)
    assert get("", whole) == (200, b"new")
    assert get(f"snapshot={first}", whole) == (403, b"AuthenticationFailed")
    assert get(f"snapshot={first}", box(there.container_name)) == (200, b"old")


def test_a_signature_for_a_directory_opens_what_is_below(endpoint: Any, http: httpx.Client, container: ContainerClient) -> None:
    from azure.storage.filedatalake import generate_directory_sas

    for name in ("d/e/x", "d/ex", "d/e2/x", "x"):
        container.upload_blob(name, name.encode())
    token = generate_directory_sas(ACCOUNT, container.container_name, "d/e", KEY, "r", soon())

    def get(name: str, token: str = token) -> int:
        return http.get(f"{endpoint.url}/{container.container_name}/{name}?{token}").status_code

    assert [get(name) for name in ("d/e/x", "d/ex", "d/e2/x", "x", "d")] == [200, 403, 403, 403, 403]
    assert get("d/e/x", token.replace("sdd=2", "sdd=1")) == 403
    assert get("d/e/x", token.replace("sdd=2", "sdd=9")) == 403
