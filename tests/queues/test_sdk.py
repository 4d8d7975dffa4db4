"""Queues through the unmodified SDK: what it sends is understood, what it reads is right, errors are the service's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.queue import (
    AccessPolicy,
    CorsRule,
    QueueClient,
    QueueSasPermissions,
    QueueServiceClient,
    TextBase64DecodePolicy,
    TextBase64EncodePolicy,
    generate_account_sas,
    generate_queue_sas,
)
from tests.blobs.conftest import ACCOUNT, KEY, OLD_KEY
from tests.queues.conftest import Endpoint, soon

from batchyard.blobs.queues.base import QueueRef
from batchyard.model.times import micros

HOUR = timedelta(hours=1)


def code(call: Callable[[], object]) -> tuple[int | None, str]:
    """Status and code of the error that a call gets."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    assert caught.value.response is not None
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


def test_a_message_goes_round(queue: QueueClient) -> None:
    sent = queue.send_message("<first> & Ünïcode\n\t")
    [peeked] = queue.peek_messages(5)
    assert (peeked.id, peeked.content, peeked.dequeue_count, peeked.pop_receipt) == (sent.id, "<first> & Ünïcode\n\t", 0, None)
    got = queue.receive_message()
    assert got is not None
    assert (got.id, got.content, got.dequeue_count) == (sent.id, sent.content, 1)
    assert got.expires_on - got.inserted_on == timedelta(days=7)
    assert queue.receive_message() is None
    assert queue.peek_messages() == []
    assert queue.get_queue_properties().approximate_message_count == 1
    queue.delete_message(got)
    assert queue.get_queue_properties().approximate_message_count == 0
    assert code(lambda: queue.delete_message(got)) == (404, "MessageNotFound")


def test_a_message_that_is_not_removed_comes_again(queue: QueueClient, endpoint: Endpoint) -> None:
    queue.send_message("x")
    first = queue.receive_message(visibility_timeout=10)
    endpoint.clock.ahead = timedelta(seconds=9)
    assert queue.receive_message() is None
    endpoint.clock.ahead = timedelta(seconds=11)
    second = queue.receive_message(visibility_timeout=10)
    assert (second.dequeue_count, second.id) == (2, first.id)
    assert code(lambda: queue.delete_message(first)) == (400, "PopReceiptMismatch")
    endpoint.clock.ahead = timedelta(seconds=30)
    queue.delete_message(second)  # visible again, but nobody has got it since


def test_update_hides_and_rewrites(queue: QueueClient, endpoint: Endpoint) -> None:
    queue.send_message("old")
    got = queue.receive_message(visibility_timeout=5)
    changed = queue.update_message(got, content="new", visibility_timeout=60)
    assert changed.content == "new"
    endpoint.clock.ahead = timedelta(seconds=30)
    assert queue.receive_message() is None
    assert code(lambda: queue.delete_message(got.id, got.pop_receipt)) == (400, "PopReceiptMismatch")
    kept = queue.update_message(changed, visibility_timeout=0)
    assert kept.pop_receipt
    again = queue.receive_message()
    assert (again.content, again.dequeue_count) == ("new", 2)


def test_messages_come_in_their_order_and_in_batches(queue: QueueClient) -> None:
    for number in range(40):
        queue.send_message(str(number))
    pages = list(queue.receive_messages(messages_per_page=32, max_messages=40).by_page())
    assert [[message.content for message in page] for page in pages] == [[str(n) for n in range(32)], [str(n) for n in range(32, 40)]]


def test_messages_that_are_sent_for_later_and_for_a_while(queue: QueueClient, endpoint: Endpoint) -> None:
    queue.send_message("later", visibility_timeout=60)
    queue.send_message("short", time_to_live=30)
    for_ever = queue.send_message("ever", time_to_live=-1)
    assert for_ever.expires_on.year == 9999
    assert [m.content for m in queue.peek_messages(5)] == ["short", "ever"]
    endpoint.clock.ahead = timedelta(seconds=61)
    assert [m.content for m in queue.peek_messages(5)] == ["ever", "later"]
    assert queue.get_queue_properties().approximate_message_count == 3
    assert not endpoint.store.expire(100, micros(endpoint.clock()))
    assert queue.get_queue_properties().approximate_message_count == 2
    hence = micros(endpoint.clock()) + 4000 * 86_400_000_000
    assert [m.text for m in endpoint.store.peek(QueueRef(ACCOUNT, queue.queue_name), 5, hence)] == ["ever"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"visibility_timeout": -1}, "OutOfRangeQueryParameterValue"),
        ({"visibility_timeout": 7 * 86_400 + 1, "time_to_live": -1}, "OutOfRangeQueryParameterValue"),
        ({"time_to_live": 0}, "OutOfRangeQueryParameterValue"),
        ({"time_to_live": -2}, "OutOfRangeQueryParameterValue"),
    ],
)
def test_times_that_may_not_be(queue: QueueClient, options: dict[str, int], wanted: str) -> None:
    assert code(lambda: queue.send_message("x", **options)) == (400, wanted)
    assert queue.peek_messages() == []


def test_a_text_of_64_kib_is_the_largest(queue: QueueClient) -> None:
    queue.send_message("ä" * 32 * 1024)
    assert code(lambda: queue.send_message("ä" * 32 * 1024 + "x")) == (413, "RequestBodyTooLarge")
    assert queue.receive_message().content == "ä" * 32 * 1024


def test_base64_policies(endpoint: Endpoint, queue: QueueClient) -> None:
    coded = QueueClient.from_connection_string(
        endpoint.connection_string,
        queue.queue_name,
        message_encode_policy=TextBase64EncodePolicy(),
        message_decode_policy=TextBase64DecodePolicy(),
    )
    coded.send_message("héllo")
    assert queue.peek_messages()[0].content == "aMOpbGxv"
    assert coded.receive_message().content == "héllo"


def test_queues_are_made_listed_and_removed(endpoint: Endpoint, queue: QueueClient) -> None:
    service = endpoint.client()
    name = queue.queue_name
    assert code(lambda: service.create_queue(name, metadata={"a": "b"})) == (409, "QueueAlreadyExists")
    with pytest.raises(ResourceExistsError):
        service.create_queue(name)  # which the service answers with 204, and the SDK makes an error of
    queue.set_queue_metadata({"CamelCase": "1"})
    assert queue.get_queue_properties().metadata == {"CamelCase": "1"}
    for number in range(3):
        service.create_queue(f"{name}-list-{number}", metadata={"n": str(number)})
    found = [(q.name, q.metadata) for q in service.list_queues(f"{name}-list", include_metadata=True)]
    assert found == [(f"{name}-list-{number}", {"n": str(number)}) for number in range(3)]
    pages = service.list_queues(f"{name}-list", results_per_page=2).by_page()
    assert [len(list(page)) for page in pages] == [2, 1]
    queue.send_message("x")
    queue.delete_queue()
    assert code(queue.get_queue_properties) == (404, "QueueNotFound")
    assert code(lambda: queue.send_message("x")) == (404, "QueueNotFound")
    queue.create_queue()
    assert queue.peek_messages() == [], "of the queue of that name before"
    while endpoint.store.purge(1):
        pass
    for wrong in ("ab", "A" * 5, "a--b", "-ab", "a_b", "a" * 64):
        assert code(lambda wrong=wrong: service.get_queue_client(wrong).create_queue())[0] == 400


def test_clear_takes_all(queue: QueueClient) -> None:
    for number in range(5):
        queue.send_message(str(number), visibility_timeout=number)
    got = queue.receive_message()
    queue.clear_messages()
    assert queue.get_queue_properties().approximate_message_count == 0
    assert code(lambda: queue.delete_message(got)) == (404, "MessageNotFound")
    queue.send_message("after")
    assert [m.content for m in queue.peek_messages(5)] == ["after"]


def test_policies_and_signatures(endpoint: Endpoint, queue: QueueClient) -> None:
    def client(token: str) -> QueueClient:
        return QueueClient(endpoint.url, queue.queue_name, credential=token, retry_total=0)

    def sas(permission: str | None = None, **options: Any) -> str:
        given = {"expiry": soon(), **options}
        return generate_queue_sas(ACCOUNT, queue.queue_name, KEY, permission=permission, **given)

    queue.send_message("x")
    calls: dict[str, Callable[[QueueClient], object]] = {
        "r": lambda c: c.peek_messages(),
        "a": lambda c: c.send_message("y"),
        "p": lambda c: c.receive_message(visibility_timeout=1),
        "u": lambda c: c.update_message("no-id", "no-receipt", visibility_timeout=1),
    }
    for letter in "raup":
        for needed, call in calls.items():
            if letter == needed and letter != "u":
                call(client(sas(letter)))
            else:
                wanted = (404, "MessageNotFound") if letter == needed else (403, "AuthorizationPermissionMismatch")
                assert code(lambda call=call, letter=letter: call(client(sas(letter)))) == wanted, (letter, needed)
        assert code(lambda letter=letter: client(sas(letter)).delete_queue()) == (403, "AuthorizationPermissionMismatch")
        assert code(lambda letter=letter: client(sas(letter)).get_queue_access_policy()) == (403, "AuthorizationFailure")
    assert code(lambda: client(sas("r", expiry=soon() - 2 * HOUR)).peek_messages()) == (403, "AuthenticationFailed")
    assert code(lambda: client(sas("r") + "x").peek_messages())[0] == 403
    assert code(lambda: client(sas("r", ip="10.0.0.1")).peek_messages()) == (403, "AuthorizationSourceIPMismatch")
    other = endpoint.client().create_queue(queue.queue_name + "-other")
    foreign = QueueClient(endpoint.url, other.queue_name, credential=sas("raup"), retry_total=0)
    assert code(lambda: foreign.peek_messages()) == (403, "AuthenticationFailed")
    policy = AccessPolicy(permission=QueueSasPermissions(read=True), expiry=soon())
    queue.set_queue_access_policy({"reader": policy})
    assert set(queue.get_queue_access_policy()) == {"reader"}
    named = sas(policy_id="reader", expiry=None)
    client(named).peek_messages()
    queue.set_queue_access_policy({})
    assert code(lambda: client(named).peek_messages()) == (403, "AuthenticationFailed")


def test_account_signatures_and_keys(endpoint: Endpoint, queue: QueueClient) -> None:
    def client(**options: Any) -> QueueServiceClient:
        given = {"resource_types": "sco", "permission": "rwdlacup", "expiry": soon(), **options}
        return QueueServiceClient(endpoint.url, credential=generate_account_sas(ACCOUNT, KEY, **given), retry_total=0)

    assert endpoint.client(OLD_KEY).get_queue_client(queue.queue_name).peek_messages() == []
    name = queue.queue_name
    client().get_queue_client(name).send_message("x")
    assert [q.name for q in client().list_queues(name)] == [name]
    assert code(lambda: client(resource_types="o").get_queue_client(name).get_queue_properties()) == (
        403,
        "AuthorizationResourceTypeMismatch",
    )
    assert code(lambda: list(client(permission="r").list_queues())) == (403, "AuthorizationPermissionMismatch")
    nobody = httpx.get(f"{endpoint.url}/{name}/messages?peekonly=true")
    assert (nobody.status_code, nobody.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")
    assert endpoint.client().get_service_properties()["cors"] == []


def test_service_properties_and_pages(endpoint: Endpoint, queue: QueueClient) -> None:
    service = endpoint.client()
    assert service.get_service_properties()["cors"] == []
    service.set_service_properties(cors=[CorsRule(["https://page.example"], ["POST"], max_age_in_seconds=5)])
    try:
        [rule] = service.get_service_properties()["cors"]
        assert (rule.allowed_origins, rule.allowed_methods, rule.max_age_in_seconds) == ("https://page.example", "POST", 5)
        asking = {"origin": "https://page.example", "access-control-request-method": "POST"}
        answer = httpx.options(f"{endpoint.url}/{queue.queue_name}/messages", headers=asking)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://page.example")
        assert httpx.options(f"{endpoint.url}/x", headers={**asking, "access-control-request-method": "PUT"}).status_code == 403
        failed = httpx.post(f"{endpoint.url}/x/messages", headers={"origin": "https://page.example"})
        assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (401, "https://page.example")
    finally:
        service.set_service_properties(cors=[])
