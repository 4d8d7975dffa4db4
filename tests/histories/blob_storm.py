"""Clients that overwrite, copy, lease and delete a few blobs at the same time, and what each blob's history was."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.histories.blob_model import MODEL, Delete, Lease, Read, Write
from tests.histories.checker import Op, stuck
from tests.histories.clients import Answer, Caller, told

from batchyard.blobs.store.files import INLINE_BYTES

BOX = "histories"
BLOBS = ("a", "b", "c")
SMALL, LARGE = 100, INLINE_BYTES + 100
"""Sizes that versions have: in the catalogue, and in a data file."""
_ABSENT = Read(frozenset([""]))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client wrote down: an operation on a blob; of a read, what the content was, of a copy, what its source was."""

    blob: str
    op: Op
    content: str = ""
    source: str = ""


def content_of(version: str) -> bytes:
    """The content that a version was put with, which tells its name."""
    size = LARGE if int(version.rpartition("-")[2]) % 2 else SMALL
    return (f"{version}|".encode() * size)[:size]


class Client:
    """What one client does, by chance."""

    def __init__(self, caller: Caller, box: str = BOX) -> None:
        self._caller, self._box = caller, box
        self.seen: list[Seen] = []

    def work(self, rounds: int) -> list[Seen]:
        chances = {self.put: 28, self.read: 28, self.swap: 12, self.copy: 14, self.delete: 6, self.create: 4, self.lease: 6, self.part: 2}
        for act in self._caller.random.choices(list(chances), list(chances.values()), k=rounds):
            act(self._caller.random.choice(BLOBS))
        return self.seen

    def read(self, blob: str) -> tuple[str, str]:
        """Version and entity tag of what is there."""
        answer = self._caller.ask("GET", self._path(blob))
        if answer.status is None:
            return "", ""
        if answer.status == 404:
            self._note(blob, _ABSENT, answer)
            return "", ""
        assert answer.status == 200, (answer.status, answer.code)
        content = answer.body.split(b"|", 1)[0].decode()
        assert answer.body == content_of(content), f"a mix was read: {answer.body[:200]!r}"
        version = answer.headers["x-ms-meta-version"]
        self._note(blob, Read(frozenset([version])), answer, content)
        return version, answer.headers["etag"]

    def put(self, blob: str, lease: str = "", match: tuple[str, str] = ("", ""), new: str = "") -> None:
        version = self._caller.name()
        headers = {"x_ms_blob_type": "BlockBlob", "x_ms_lease_id": lease, "if_match": match[1], "if_none_match": new}
        answer = self._caller.ask("PUT", self._path(blob), "", content_of(version), x_ms_meta_version=version, **headers)
        self._note(blob, Write(version, lease, match[0], bool(new)), answer)

    def create(self, blob: str) -> None:
        self.put(blob, new="*")

    def swap(self, blob: str) -> None:
        """Overwrite just what was read."""
        found = self.read(blob)
        if found[0]:
            self.put(blob, match=found)

    def delete(self, blob: str, lease: str = "") -> None:
        self._note(blob, Delete(lease), self._caller.ask("DELETE", self._path(blob), x_ms_lease_id=lease))

    def copy(self, blob: str, source: str = "") -> None:
        version = self._caller.name()
        source = source or self._caller.random.choice([other for other in BLOBS if other != blob])
        url = f"http://{self._caller.host}{self._caller.signed(self._path(source))}"
        answer = self._caller.ask("PUT", self._path(blob), x_ms_copy_source=url, x_ms_meta_version=version)
        if answer.code == "CannotVerifyCopySource":
            self._note(source, _ABSENT, answer)
        else:
            self._note(blob, Write(version), answer, source=source)

    def lease(self, blob: str) -> None:
        """Hold the blob for a few operations; who is not told that it holds it tries to let go of it all the same."""
        held = str(uuid.UUID(int=self._caller.random.getrandbits(128)))
        if self.leasing(blob, "acquire", held, x_ms_proposed_lease_id=held, x_ms_lease_duration="-1") not in ("ok", None):
            return
        self.put(blob, held)
        self.read(blob)
        self.put(blob, held)
        if self._caller.random.random() < 0.2:
            self.delete(blob, held)
        while self.leasing(blob, "release", held, x_ms_lease_id=held) is None:
            pass

    def part(self, blob: str) -> None:
        """End whatever lease there is."""
        self.leasing(blob, "break", "", x_ms_lease_break_period="0")

    def leasing(self, blob: str, action: str, held: str, **headers: str) -> str | None:
        """Ask for a change of a lease; what was answered."""
        answer = self._caller.ask("PUT", self._path(blob), "comp=lease", x_ms_lease_action=action, **headers)
        self._note(blob, Lease(action, held), answer)
        return answer.code

    def _path(self, blob: str) -> str:
        return f"{self._caller.base}/{self._box}/{blob}"

    def _note(self, blob: str, call: object, answer: Answer, content: str = "", source: str = "") -> None:
        code = "ok" if isinstance(call, Read) else answer.code
        self.seen.append(Seen(blob, Op(answer.begun_us, answer.ended_us, call, code), content, source))


def check(seen: Iterable[Seen]) -> None:
    """Raise AssertionError unless each blob's history can be put into one order, and every version holds what it was written with."""
    written = list(seen)
    contents = _contents(written)
    unseen = {each.op.call.version for each in written if each.source} - contents.keys()
    histories = defaultdict(list)
    for each in written:
        histories[each.blob].append(each.op)
        if each.source and (kept := contents.get(each.op.call.version)) is not None:
            same = {version for version, content in contents.items() if content == kept}
            histories[each.source].append(Op(each.op.begun_us, each.op.ended_us, Read(frozenset(same | unseen)), "ok"))
    for blob, history in histories.items():
        left = stuck(history, MODEL)
        assert not left, f"no order for {blob}; where the longest ends none of these can come next:\n{told(left)}"


def _contents(seen: Iterable[Seen]) -> Mapping[str, str]:
    """What each version holds, as far as anybody saw it; a put holds what it was put with."""
    contents: dict[str, str] = {}
    for each in seen:
        call = each.op.call
        if isinstance(call, Write) and not each.source:
            contents[call.version] = call.version
    for each in seen:
        if each.content:
            [version] = each.op.call.versions
            kept = contents.setdefault(version, each.content)
            assert kept == each.content, f"version {version} was read as {kept} and as {each.content}"
    return contents
