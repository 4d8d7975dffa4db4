"""Index tags of blobs: what may be one, and the conditions that ask for them.

Source: https://learn.microsoft.com/rest/api/storageservices/set-blob-tags and find-blobs-by-tags.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import unquote_plus

from batchyard.blobs.errors import BlobError

CONTAINER = "@container"
_MOST = 10
_LONGEST_KEY, _LONGEST_VALUE = 128, 256
_ALLOWED = re.compile(r"[A-Za-z0-9 +\-./:=_]*")
_TOKEN = re.compile(r"""\s*(?:"([^"]*)"|([A-Za-z_@][A-Za-z0-9_]*)|'((?:[^']|'')*)'|(<>|<=|>=|=|<|>|\(|\)))""")
_COMPARE: Mapping[str, Callable[[str, str], bool]] = MappingProxyType(
    {"=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
_DEEPEST = 10

Matches = Callable[[Mapping[str, str]], bool]
"""Whether tags (with CONTAINER among them) are as a condition wants them."""


def checked(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that a blob may have; raises InvalidTag."""
    if len(tags) > _MOST:
        raise BlobError("TagsTooLarge")
    for key, value in tags.items():
        if not 0 < len(key) <= _LONGEST_KEY or len(value) > _LONGEST_VALUE or not (_ALLOWED.fullmatch(key) and _ALLOWED.fullmatch(value)):
            raise BlobError("InvalidTag", f"The tag {key[:_LONGEST_KEY]!r} has a key or a value that tags may not have.")
    return dict(tags)


def from_header(text: str | None) -> dict[str, str]:
    """Tags of `x-ms-tags`, which are written like a query."""
    found: dict[str, str] = {}
    for part in filter(None, (text or "").split("&")):
        key, _, value = part.partition("=")
        if unquote_plus(key) in found:
            raise BlobError("InvalidTag")
        found[unquote_plus(key)] = unquote_plus(value)
    return checked(found)


def condition(text: str, *, may_or: bool = True) -> Matches:
    """A condition such as `"project" = 'x' AND "n" > '5'`; raises InvalidQueryParameterValue."""
    reader = _Reader(text, may_or)
    found = reader.either(0)
    reader.expect_end()
    return found


class _Reader:
    """Reads a condition from left to right; AND binds more than OR."""

    def __init__(self, text: str, may_or: bool) -> None:
        self._tokens, self._at, self._may_or = _tokens(text), 0, may_or

    def either(self, depth: int) -> Matches:
        sides = [self._all(depth)]
        while self._take_word("or"):
            if not self._may_or:
                raise _wrong("OR is not supported here")
            sides.append(self._all(depth))
        return sides[0] if len(sides) == 1 else lambda tags: any(side(tags) for side in sides)

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise _wrong(f"{self._tokens[self._at][1]!r} is not expected")

    def _all(self, depth: int) -> Matches:
        sides = [self._one(depth)]
        while self._take_word("and"):
            sides.append(self._one(depth))
        return sides[0] if len(sides) == 1 else lambda tags: all(side(tags) for side in sides)

    def _one(self, depth: int) -> Matches:
        if self._next("sign") == "(":
            if depth >= _DEEPEST:
                raise _wrong("it is too deep")
            self._at += 1
            inner = self.either(depth + 1)
            if self._next("sign") != ")":
                raise _wrong("a parenthesis is not closed")
            self._at += 1
            return inner
        key = self._need("key", "word")
        compare = _COMPARE.get(self._need("sign"))
        if compare is None:
            raise _wrong("a comparison is expected")
        value = self._need("value")
        return lambda tags: key in tags and compare(tags[key], value)

    def _next(self, *kinds: str) -> str | None:
        if self._at < len(self._tokens) and self._tokens[self._at][0] in kinds:
            return self._tokens[self._at][1]
        return None

    def _need(self, *kinds: str) -> str:
        found = self._next(*kinds)
        if found is None:
            raise _wrong(f"a {kinds[0]} is expected")
        self._at += 1
        return found

    def _take_word(self, word: str) -> bool:
        found = (self._next("word") or "").lower() == word
        self._at += found
        return found


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at, text = 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(f"{text[at : at + 10]!r} cannot be read")
        at = match.end()
        for kind, value in zip(("key", "word", "value", "sign"), match.groups(), strict=True):
            if value is not None:
                found.append((kind, value.replace("''", "'") if kind == "value" else value))
    return found


def _wrong(why: str) -> BlobError:
    return BlobError("InvalidQueryParameterValue", f"The condition on tags cannot be read: {why}.")
