"""Every queue operation with every signature that does not let it: the right code, and nothing happens. Made from the operations' table."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.storage.queue import AccessPolicy, QueueClient, QueueSasPermissions, generate_account_sas, generate_queue_sas
from tests.blobs.conftest import ACCOUNT, KEY, OLD_KEY
from tests.queues.conftest import Endpoint, soon

from batchyard.blobs.queues.edge import OPERATIONS, Operation

pytestmark = pytest.mark.sqlite  # signatures are the edge's, whatever the messages lie in
HOUR = timedelta(hours=1)
LETTERS = "raup"
STRANGER = base64.b64encode(b"a key that is not the account's").decode()
MESSAGE = b"<QueueMessage><MessageText>new</MessageText></QueueMessage>"
ASKED = {"service&properties": "restype=service&comp=properties", "peek": "peekonly=true"}
ROWS = {f"{op.methods.split()[0]} {op.place} {op.query}".strip(): op for op in OPERATIONS}
HTTP = httpx.Client(trust_env=False)
MakeToken = Callable[[str, Operation], str]


def of_queue(name: str, **more: Any) -> str:
    return str(generate_queue_sas(ACCOUNT, name, **{"account_key": KEY, "permission": LETTERS, "expiry": soon(), **more}))


def account(**more: Any) -> str:
    given: dict[str, Any] = {"account_key": KEY, "resource_types": "sco", "permission": "rwdlacup", "expiry": soon(), **more}
    return str(generate_account_sas(ACCOUNT, **given))


def by_policy(policy: str) -> MakeToken:
    return lambda name, op: of_queue(name, permission=None, expiry=None, policy_id=policy)


def other_letters(op: Operation) -> str:
    return "".join(letter for letter in "rwdlacup" if letter not in op.letters)


OF_QUEUE: dict[str, tuple[MakeToken, int, str]] = {
    "another key": (lambda name, op: of_queue(name, account_key=STRANGER), 403, "AuthenticationFailed"),
    "not yet": (lambda name, op: of_queue(name, start=soon(), expiry=soon() + HOUR), 403, "AuthenticationFailed"),
    "over": (lambda name, op: of_queue(name, expiry=datetime.now(UTC)), 403, "AuthenticationFailed"),
    "elsewhere": (lambda name, op: of_queue(name, ip="10.1.2.3"), 403, "AuthorizationSourceIPMismatch"),
    "https": (lambda name, op: of_queue(name, protocol="https"), 403, "AuthorizationProtocolMismatch"),
    "another queue": (lambda name, op: of_queue(f"{name}-2"), 403, "AuthenticationFailed"),
    "no such policy": (by_policy("none"), 403, "AuthenticationFailed"),
    "a policy that is over": (by_policy("over"), 403, "AuthenticationFailed"),
    "a policy that has not begun": (by_policy("not yet"), 403, "AuthenticationFailed"),
}
OF_ACCOUNT: dict[str, tuple[MakeToken, int, str]] = {
    "nothing": (lambda name, op: "", 401, "NoAuthenticationInformation"),
    "another key": (lambda name, op: account(account_key=STRANGER), 403, "AuthenticationFailed"),
    "not yet": (lambda name, op: account(start=soon(), expiry=soon() + HOUR), 403, "AuthenticationFailed"),
    "over": (lambda name, op: account(expiry=datetime.now(UTC)), 403, "AuthenticationFailed"),
    "elsewhere": (lambda name, op: account(ip="10.1.2.3-10.1.2.9"), 403, "AuthorizationSourceIPMismatch"),
    "https": (lambda name, op: account(protocol="https"), 403, "AuthorizationProtocolMismatch"),
    "another service": (lambda name, op: account().replace("ss=q", "ss=b"), 403, "AuthenticationFailed"),
    "other resource types": (
        lambda name, op: account(resource_types="sco".replace(op.level.value, "")),
        403,
        "AuthorizationResourceTypeMismatch",
    ),
    "other letters": (lambda name, op: account(permission=other_letters(op)), 403, "AuthorizationPermissionMismatch"),
}


@pytest.fixture
def there(queue: QueueClient) -> QueueClient:
    """A queue with a message and policies."""
    queue.send_message("old")
    everything = QueueSasPermissions.from_string(LETTERS)
    queue.set_queue_access_policy(
        {"over": AccessPolicy(everything, datetime.now(UTC)), "not yet": AccessPolicy(everything, soon() + HOUR, soon())}
    )
    return queue


def ask(endpoint: Endpoint, queue: str, op: Operation, token: str) -> tuple[int, str]:
    path = {"service": "", "queue": f"/{queue}", "messages": f"/{queue}/messages", "message": f"/{queue}/messages/id"}[op.place]
    own = "popreceipt=x&visibilitytimeout=1" if op.place == "message" else ASKED.get(op.query, f"comp={op.query}" if op.query else "")
    body = MESSAGE if op.methods == "POST" else b""
    url = f"{endpoint.url}{path or '/'}?{'&'.join(filter(None, (own, token)))}"
    answer = HTTP.request(op.methods.split()[0], url, content=body)
    return answer.status_code, answer.headers.get("x-ms-error-code", "")


def test_the_table_names_each_operation_once() -> None:
    assert len(ROWS) == len(OPERATIONS)


@pytest.mark.parametrize("fault", OF_ACCOUNT)
def test_what_a_signature_of_the_account_does_not_let_is_refused(endpoint: Endpoint, there: QueueClient, fault: str) -> None:
    make, status, code = OF_ACCOUNT[fault]
    for name, op in ROWS.items():
        assert ask(endpoint, there.queue_name, op, make(there.queue_name, op)) == (status, code), name
    assert [message.content for message in there.peek_messages(5)] == ["old"]


@pytest.mark.parametrize("fault", OF_QUEUE)
def test_what_a_signature_of_a_queue_does_not_let_is_refused(endpoint: Endpoint, there: QueueClient, fault: str) -> None:
    make, status, code = OF_QUEUE[fault]
    for name, op in ROWS.items():
        wanted = (403, "AuthenticationFailed") if op.place == "service" else (status, code)
        assert ask(endpoint, there.queue_name, op, make(there.queue_name, op)) == wanted, name
    assert [message.content for message in there.peek_messages(5)] == ["old"]


def test_each_permission_opens_just_what_is_listed_for_it(endpoint: Endpoint, there: QueueClient) -> None:
    for letter in "rwdlacup":
        for name, op in ROWS.items():
            if letter not in op.letters:
                told = ask(endpoint, there.queue_name, op, account(permission=letter))
                assert told == (403, "AuthorizationPermissionMismatch"), (letter, name)
    assert [message.content for message in there.peek_messages(5)] == ["old"]


@pytest.mark.parametrize("make", [of_queue, lambda name, **times: account(**times)], ids=["queue", "account"])
def test_times_hold_to_the_second(endpoint: Endpoint, there: QueueClient, make: Callable[..., str]) -> None:
    """Open from the start on, shut from the expiry on."""
    start = datetime.now(UTC).replace(microsecond=0) + HOUR
    token, tick = make(there.queue_name, start=start, expiry=start + timedelta(seconds=1)), timedelta(microseconds=1)
    for at, is_open in ((start - tick, False), (start, True), (start + 10**6 * tick - tick, True), (start + 10**6 * tick, False)):
        endpoint.clock.stopped = at
        for name, op in ROWS.items():
            if is_open and op.query != "peek":
                continue  # it would change what the next ones are about
            told = ask(endpoint, there.queue_name, op, token)
            assert told == ((200, "") if is_open else (403, "AuthenticationFailed")), (name, at)


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
@pytest.mark.parametrize("name", ROWS)
def test_what_a_signature_of_either_key_lets_is_done(endpoint: Endpoint, there: QueueClient, name: str, key: str) -> None:
    """Or fails for another reason than the signature: there is no message of that id."""
    status, code = ask(endpoint, there.queue_name, ROWS[name], account(account_key=key))
    if not ROWS[name].letters:
        assert (status, code) == (403, "AuthorizationPermissionMismatch")
    else:
        assert status not in (401, 403), code
