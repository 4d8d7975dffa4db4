"""`batchyard queue`: queues of the account's storage and their messages, over the Queue service's own protocol."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import msgspec

from batchyard.agent.http import Answer, Http, Unreachable
from batchyard.blobs.edge.sas import VERSION, account_text, signature
from batchyard.cli import output, storage, where
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import confirmed, many

Shown = Mapping[str, Any]
_MOST = 32
"""Messages that one call gives."""
_VALID = timedelta(hours=1)
_QUEUES = (Column("QUEUE", lambda found, now: found["name"], keep=9),)
_SHOWN = (*_QUEUES, Column("MESSAGES", lambda found, now: found["messages"], number=True, keep=8))
_MESSAGES = (
    Column("ID", lambda found, now: found["id"], keep=9),
    Column("ADDED", lambda found, now: found["insertionTime"]),
    Column("TAKEN", lambda found, now: found["dequeueCount"], number=True),
    Column("TEXT", lambda found, now: found["text"], keep=8),
)


class _Service:
    """The queues of a storage account. Raises Problem where they refuse or are away."""

    def __init__(self, connection_string: str | None) -> None:
        account = storage.known(connection_string)
        expiry = (datetime.now(UTC) + _VALID).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {"sv": VERSION, "ss": "q", "srt": "sco", "sp": "rwdlacup", "se": expiry}
        self._signed = urlencode({**query, "sig": signature(account.key, account_text(query, account.name))})
        self._path = urlsplit(account.queues).path.rstrip("/")
        try:
            self._http = Http(account.queues)
        except Unreachable as error:
            raise Problem(f"AZURE_STORAGE_CONNECTION_STRING names no queues: {error}") from None

    def ask(self, method: str, *path: str, body: bytes | None = None, **query: object) -> Answer:
        """An answer that counts."""
        asked = urlencode({name: value for name, value in query.items() if value not in (None, "")})
        target = "/".join((self._path, *(quote(part, safe="") for part in path))) + f"?{asked}{'&' if asked else ''}{self._signed}"
        headers = {"host": self._http.name, "x-ms-version": VERSION}
        if method in ("PUT", "POST"):
            body = body or b""
            headers["content-length"] = str(len(body))
        try:
            answer = self._http.send(method, target if path else target.replace("?", "/?", 1), headers, body)
        except Unreachable as error:
            raise Problem(f"the queues cannot be reached ({error}); is AZURE_STORAGE_CONNECTION_STRING right?") from None
        if answer.status >= 300:
            raise _refusal(answer)
        return answer

    def taken(self, queue: str, count: int, hidden: int | None) -> Iterator[list[dict[str, Any]]]:
        """So many messages, as far as there are, as many at a time as one call gives."""
        while count > 0:
            found = _messages(self.ask("GET", queue, "messages", numofmessages=min(count, _MOST), visibilitytimeout=hidden).body)
            yield found
            count = count - len(found) if len(found) == _MOST else 0


def _refusal(answer: Answer) -> Problem:
    try:
        page = ElementTree.fromstring(answer.body)
        text = (page.findtext("Message") or "").split("\n", 1)[0].rstrip(".")
        return Problem(f"{text} ({page.findtext('Code')})")
    except ElementTree.ParseError:
        return Problem(f"the queues answered with HTTP {answer.status}; is AZURE_STORAGE_CONNECTION_STRING right?")


def _messages(body: bytes) -> list[dict[str, Any]]:
    return [
        {
            "id": one.findtext("MessageId") or "",
            "insertionTime": _time(one.findtext("InsertionTime")),
            "expirationTime": _time(one.findtext("ExpirationTime")),
            "dequeueCount": int(one.findtext("DequeueCount") or 0),
            "text": one.findtext("MessageText") or "",
            **({"popReceipt": receipt} if (receipt := one.findtext("PopReceipt")) else {}),
        }
        for one in ElementTree.fromstring(body).iter("QueueMessage")
    ]


def _time(text: str | None) -> str:
    return parsedate_to_datetime(text).strftime("%Y-%m-%dT%H:%M:%SZ") if text else ""


def list_(batch: Client, *, prefix: str | None, shown: Shown) -> None:
    """List the queues."""
    service = _Service(batch.storage)

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        marker: str | None = ""
        while marker is not None:
            page = ElementTree.fromstring(service.ask("GET", comp="list", prefix=prefix, marker=marker).body)
            yield [output.raw({"name": one.findtext("Name") or ""}) for one in page.iter("Queue")]
            marker = page.findtext("NextMarker") or None

    output.show(pages, _QUEUES, shown)


def create(batch: Client, *, queue: str) -> None:
    """Make a queue."""
    _Service(batch.storage).ask("PUT", queue)
    print(queue)


def _held(service: _Service, queue: str) -> int:
    return int(service.ask("GET", queue, comp="metadata").headers.get("x-ms-approximate-messages-count") or 0)


def show(batch: Client, *, queues: Sequence[str], shown: Shown) -> None:
    """Say how many messages queues hold."""
    service = _Service(batch.storage)
    output.entries([{"name": queue, "messages": _held(service, queue)} for queue in queues], _SHOWN, shown)


def delete(batch: Client, *, queues: Sequence[str], yes: bool | None) -> None:
    """Delete queues and their messages."""
    service = _Service(batch.storage)
    lost = sum(_held(service, queue) for queue in queues)
    called = f"the queue {queues[0]}" if len(queues) == 1 else many(len(queues), "queue")
    confirmed(f"Delete {called} with {many(lost, 'message')}?", yes=bool(yes))
    for queue in queues:
        service.ask("DELETE", queue)
        print(f"the queue {queue} is deleted")


def clear(batch: Client, *, queue: str, yes: bool | None) -> None:
    """Delete all messages of a queue."""
    service = _Service(batch.storage)
    confirmed(f"Delete {many(_held(service, queue), 'message')} of {queue}?", yes=bool(yes))
    service.ask("DELETE", queue, "messages")
    print(f"the queue {queue} is empty")


def put(batch: Client, *, queue: str, texts: Sequence[str], lives: str | None, hidden: str | None) -> None:
    """Add messages, and print their ids."""
    service = _Service(batch.storage)
    lives_s, hidden_s = _seconds("--lives", lives), _seconds("--hidden", hidden)
    for text in texts:
        wanted = sys.stdin.read() if text == "-" else text
        body = f"<QueueMessage><MessageText>{escape(wanted)}</MessageText></QueueMessage>".encode()
        answer = service.ask("POST", queue, "messages", body=body, messagettl=lives_s, visibilitytimeout=hidden_s)
        for made in _messages(answer.body):
            print(made["id"], flush=True)


def peek(batch: Client, *, queue: str, number: int, shown: Shown) -> None:
    """Show the first messages, which stay where they are."""
    if number > _MOST:
        raise Usage(f"--number of peek is {_MOST} at most")
    found = _messages(_Service(batch.storage).ask("GET", queue, "messages", numofmessages=number, peekonly="true").body)
    output.show(lambda: [[output.raw(one) for one in found]], _MESSAGES, shown)


def get(batch: Client, *, queue: str, number: int, hidden: str | None, keep: bool, shown: Shown) -> None:
    """Take messages: they are deleted once they are printed, or with --keep come back after their time."""
    service, hidden_s = _Service(batch.storage), _seconds("--hidden", hidden)
    taken: list[dict[str, Any]] = []

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for found in service.taken(queue, number, hidden_s):
            taken.extend(found)
            yield [output.raw(one) for one in found]

    output.show(pages, _MESSAGES, shown)
    sys.stdout.flush()
    for one in () if keep else taken:
        service.ask("DELETE", queue, "messages", one["id"], popreceipt=one["popReceipt"])


def _seconds(option: str, span: str | None) -> int | None:
    if span is None:
        return None
    seconds = where.seconds(span)
    if seconds is None:
        raise Usage(f"{option} is a span of time as 90s, 30m, 1h or 2d; it got {span!r}")
    return int(seconds)
