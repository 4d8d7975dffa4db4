"""Clients that put, claim, prolong and remove messages of a few queues at the same time, and what each message's history was."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from tests.histories.checker import Op, stuck
from tests.histories.clients import Answer, Caller, told
from tests.histories.queue_model import MODEL, Claim, Miss, Put, Remove, Update

QUEUES = ("one", "two")
HIDDEN_S = (1, 2, 6)
"""For how long claims hide: some until after the next kill."""
_SECOND_US = 1_000_000
_MESSAGE = re.compile(
    rb"<QueueMessage><MessageId>([^<]+)</MessageId>.*?<PopReceipt>([^<]+)</PopReceipt>.*?"
    rb"(?:<DequeueCount>(\d+)</DequeueCount><MessageText>([^<]*)</MessageText>)?</QueueMessage>",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Given:
    """A message that a client was given."""

    id: str
    receipt: str
    claims: int
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client wrote down: an operation on one message, or with `text` empty a get, and which messages that gave."""

    queue: str
    op: Op
    text: str = ""
    gave: frozenset[str] = field(default_factory=frozenset)
    short: bool = False
    """The get was asked for more messages."""


def messages(body: bytes) -> list[Given]:
    return [Given(a.decode(), b.decode(), int(c or 0), (d or b"").decode()) for a, b, c, d in _MESSAGE.findall(body)]


class Client:
    """What one client does, by chance."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.seen: list[Seen] = []
        self.held: list[tuple[str, Given]] = []

    def work(self, rounds: int) -> list[Seen]:
        chances = {self.put: 35, self.get: 35, self.remove: 24, self.update: 6}
        for act in self._caller.random.choices(list(chances), list(chances.values()), k=rounds):
            act(self._caller.random.choice(QUEUES))
        return self.seen

    def let_go(self) -> list[Seen]:
        """Give back what is still claimed."""
        for queue, given in self.held:
            self.change(queue, given, 0)
        self.held.clear()
        return self.seen

    def drain(self, queue: str) -> bool:
        """Take what there is to get; whether the queue says that it is empty."""
        while self.get(queue, 30, 32):
            while self.held:
                self.remove(queue)
        return self._count(queue) == 0

    def put(self, queue: str) -> None:
        text = self._caller.name()
        body = f"<QueueMessage><MessageText>{text}</MessageText></QueueMessage>".encode()
        self._note(queue, text, Put(), self._caller.ask("POST", self._path(queue), "", body))

    def get(self, queue: str, hidden_s: int | None = None, most: int | None = None) -> int:
        seconds = hidden_s or self._caller.random.choice(HIDDEN_S)
        most = most or self._caller.random.choice((1, 1, 2, 8))
        answer = self._caller.ask("GET", self._path(queue), f"numofmessages={most}&visibilitytimeout={seconds}")
        assert answer.code in ("ok", None), answer.code
        found = messages(answer.body)
        for given in found:
            self._note(queue, given.text, Claim(seconds * _SECOND_US, given.receipt, given.claims), answer)
            self.held.append((queue, given))
        assert len({given.text for given in found}) == len(found), "a get gave a message twice"
        op = Op(answer.begun_us, answer.ended_us, Claim(seconds * _SECOND_US), answer.code)
        self.seen.append(Seen(queue, op, "", frozenset(given.text for given in found), len(found) < most))
        return len(found)

    def remove(self, queue: str) -> None:
        """Remove what was claimed last but one, or first: the claim of that may be over."""
        if self.held:
            queue, given = self.held.pop(self._caller.random.choice((0, -1)))
            query = f"popreceipt={quote(given.receipt, safe='')}"
            self._note(queue, given.text, Remove(given.receipt), self._caller.ask("DELETE", self._path(queue, given.id), query))

    def update(self, queue: str) -> None:
        if self.held:
            queue, given = self.held.pop(self._caller.random.randrange(len(self.held)))
            self.change(queue, given, self._caller.random.choice((0, 1)))

    def change(self, queue: str, given: Given, seconds: int) -> None:
        """Have a message seen again after so long."""
        query = f"popreceipt={quote(given.receipt, safe='')}&visibilitytimeout={seconds}"
        answer = self._caller.ask("PUT", self._path(queue, given.id), query)
        self._note(queue, given.text, Update(seconds * _SECOND_US, given.receipt, answer.headers.get("x-ms-popreceipt", "")), answer)

    def clear(self, queue: str) -> None:
        """Take everything away."""
        assert self._caller.ask("DELETE", self._path(queue)).code == "ok"

    def _count(self, queue: str) -> int:
        answer = self._caller.ask("GET", f"{self._caller.base}/{queue}", "comp=metadata")
        return int(answer.headers["x-ms-approximate-messages-count"])

    def _path(self, queue: str, message: str = "") -> str:
        return f"{self._caller.base}/{queue}/messages{'/' if message else ''}{message}"

    def _note(self, queue: str, text: str, call: object, answer: Answer) -> None:
        self.seen.append(Seen(queue, Op(answer.begun_us, answer.ended_us, call, answer.code), text))


def check(seen: Iterable[Seen]) -> None:
    """Raise AssertionError unless each message's history can be put into one order."""
    own: dict[tuple[str, str], list[Op]] = defaultdict(list)
    gets: dict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        if each.text:
            own[each.queue, each.text].append(each.op)
        else:
            gets[each.queue].append(each)
    for (queue, text), ops in own.items():
        assert any(isinstance(op.call, Put) for op in ops), f"{text} was given in {queue} and put nowhere"
        left = stuck([*ops, *_of_gets(text, ops, gets[queue])], MODEL)
        assert not left, f"no order for message {text} in {queue}; where the longest ends none of these can come next:\n{told(left)}"


def _of_gets(text: str, ops: Iterable[Op], gets: Iterable[Seen]) -> Iterable[Op]:
    """What gets mean for a message that they did not give, while it may have been there."""
    put = next(op for op in ops if isinstance(op.call, Put))
    gone = min((op.ended_us for op in ops if isinstance(op.call, Remove) and op.answer == "ok"), default=None)
    for get in gets:
        if get.op.ended_us < put.begun_us or (gone is not None and get.op.begun_us > gone):
            continue
        if get.op.answer is None:
            yield get.op
        elif get.short and text not in get.gave:
            yield Op(get.op.begun_us, get.op.ended_us, Miss(), "ok")
