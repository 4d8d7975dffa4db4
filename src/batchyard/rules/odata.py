"""`$filter`: what may be asked of each list (contract 5.3), and what was asked as a checked form.

A checked filter names only properties, operators and values that its list knows, is bounded in length and depth, and means the same
to `matches` here as to the SQL that `store/filters.py` makes of it. A property that an item does not have makes a comparison false,
and `ne` true. `not` stands at comparisons only: what was written around parentheses is taken into them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec
from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedInput, UnexpectedToken

from batchyard.model import times
from batchyard.model.errors import BatchError, invalid_query
from batchyard.model.states import (
    AllocationState,
    JobScheduleState,
    JobState,
    NodeState,
    PoolState,
    SpecialTaskState,
    TaskResult,
    TaskState,
    Word,
)
from batchyard.model.words import ImageVerificationType, OSType

LONGEST = 8_192
"""Characters of a filter."""
DEEPEST = 32
"""Parentheses within each other."""
MOST_COMPARISONS = 250


class Kind(Enum):
    """What the values of a property are, and how they are compared."""

    ID = "id"
    """Text without regard to case."""
    TEXT = "text"
    WORD = "word"
    """One of the words of an enumeration, without regard to case."""
    TIME = "time"
    NUMBER = "whole number"
    FLAG = "true or false"


class Property(msgspec.Struct, frozen=True):
    """What may be asked of a property."""

    kind: Kind
    operators: tuple[str, ...]
    words: tuple[str, ...] = ()


Properties: TypeAlias = Mapping[str, Property]


class Comparison(msgspec.Struct, frozen=True):
    """A property beside a value: text (small letters unless the kind is TEXT), microseconds since 1970, a number or a flag."""

    name: str
    operator: str
    value: str | int | bool
    kind: Kind
    negated: bool = False
    """True when everything else is asked for, what is absent included; never with `eq` and `ne`, which are each other's."""


class And(msgspec.Struct, frozen=True):
    """All of these."""

    parts: tuple[Filter, ...]


class Or(msgspec.Struct, frozen=True):
    """One of these at least."""

    parts: tuple[Filter, ...]


Filter: TypeAlias = Comparison | And | Or

# The lists (contract 5.3).

_EQUAL = ("eq", "ne")
_ORDERED = (*_EQUAL, "gt", "ge", "lt", "le")
_ID, _TIME, _NUMBER = Property(Kind.ID, (*_ORDERED, "startswith")), Property(Kind.TIME, _ORDERED), Property(Kind.NUMBER, _ORDERED)
_NAME, _FLAG = Property(Kind.ID, _EQUAL), Property(Kind.FLAG, _EQUAL)


def _word(words: type[Word]) -> Property:
    return Property(Kind.WORD, _EQUAL, tuple(words))


def _of_run(prefix: str) -> dict[str, Property]:
    """What is asked of a start, preparation or release task."""
    return {
        f"{prefix}/state": _word(SpecialTaskState),
        f"{prefix}/startTime": _TIME,
        f"{prefix}/endTime": _TIME,
        f"{prefix}/exitCode": _NUMBER,
        f"{prefix}/result": _word(TaskResult),
    }


POOLS: Properties = MappingProxyType({
    "id": _ID, "state": _word(PoolState), "allocationState": _word(AllocationState), "stateTransitionTime": _TIME,
    "allocationStateTransitionTime": _TIME, "creationTime": _TIME, "lastModified": _TIME, "enableAutoScale": _FLAG,
    "enableInterNodeCommunication": _FLAG, "vmSize": _NAME,
})  # fmt: skip
JOBS: Properties = MappingProxyType({
    "id": _ID, "state": _word(JobState), "stateTransitionTime": _TIME, "creationTime": _TIME, "lastModified": _TIME,
    "executionInfo/startTime": _TIME, "executionInfo/endTime": _TIME, "executionInfo/poolId": _ID,
})  # fmt: skip
JOBS_OF_SCHEDULE: Properties = MappingProxyType({name: kind for name, kind in JOBS.items() if name != "id"})
SCHEDULES: Properties = MappingProxyType({
    "id": _ID, "state": _word(JobScheduleState), "stateTransitionTime": _TIME, "creationTime": _TIME, "lastModified": _TIME,
    "executionInfo/endTime": _TIME, "schedule/doNotRunUntil": _TIME, "schedule/doNotRunAfter": _TIME,
})  # fmt: skip
TASKS: Properties = MappingProxyType({
    "id": _ID, "state": _word(TaskState), "stateTransitionTime": _TIME, "creationTime": _TIME, "lastModified": _TIME,
    "lastModifiedTime": _TIME, "executionInfo/startTime": _TIME, "executionInfo/endTime": _TIME, "executionInfo/exitCode": _NUMBER,
    "executionInfo/result": _word(TaskResult),
})  # fmt: skip
NODES: Properties = MappingProxyType({
    "state": _word(NodeState), "stateTransitionTime": _TIME, "lastBootTime": _TIME, "allocationTime": _TIME,
    **_of_run("startTaskInfo"),
})  # fmt: skip
FILES: Properties = MappingProxyType({"name": Property(Kind.TEXT, ("startswith",))})
NODE_COUNTS: Properties = MappingProxyType({"poolId": _NAME})
SPECIAL_TASKS: Properties = MappingProxyType({
    "poolId": _NAME, "nodeId": _NAME, **_of_run("jobPreparationTaskExecutionInfo"), **_of_run("jobReleaseTaskExecutionInfo"),
})  # fmt: skip
IMAGES: Properties = MappingProxyType({
    "osType": _word(OSType), "verificationType": _word(ImageVerificationType), "nodeAgentSKUId": _NAME,
})  # fmt: skip
NODE_AGENTS: Properties = MappingProxyType({"osType": _word(OSType)})
USAGE_METRICS: Properties = MappingProxyType({"poolId": _ID})

LISTS: Mapping[str, Properties] = MappingProxyType({
    "pools": POOLS, "nodes": NODES, "jobs": JOBS, "jobs of a schedule": JOBS_OF_SCHEDULE, "job schedules": SCHEDULES, "tasks": TASKS,
    "preparation and release status": SPECIAL_TASKS, "files of a task or node": FILES, "node counts of pools": NODE_COUNTS,
    "usage metrics of pools": USAGE_METRICS, "supported images": IMAGES,
    "node agents (up to 2018-12)": NODE_AGENTS,
})  # fmt: skip

# The language.

_GRAMMAR = r"""
?any: all (_OR all)*
?all: _term (_AND _term)*
_term: comparison | starts | "(" any ")" | negation
negation: _NOT _term
comparison: NAME OPERATOR _value
starts: _STARTSWITH "(" NAME "," STRING ")"
_value: STRING | TIME | PLAIN_TIME | NUMBER | FLAG
_OR.2: /or\b/i
_AND.2: /and\b/i
_NOT.2: /not(?![A-Za-z0-9\/])/i
_STARTSWITH.2: /startswith(?=\s*\()/i
OPERATOR: /(eq|ne|gt|ge|lt|le)\b/i
NAME: /[A-Za-z][A-Za-z0-9]{0,63}(\/[A-Za-z][A-Za-z0-9]{0,63})*/
STRING: /'([^']|'')*'/
TIME.2: /[Dd]ate[Tt]ime'[^']*'/
PLAIN_TIME.2: /\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)?/
NUMBER: /[+-]?\d{1,18}/
FLAG: "true"i | "false"i
%ignore /[ \t\r\n]+/
"""


class _Raw(msgspec.Struct):
    """A comparison as it was written."""

    name: str
    operator: str
    value: Token


class _Shapes(Transformer[Token, Any]):
    """Makes the tree while it is parsed."""

    def comparison(self, found: list[Token]) -> _Raw:
        name, operator, value = found
        return _Raw(str(name), operator.lower(), value)

    def starts(self, found: list[Token]) -> _Raw:
        name, value = found
        return _Raw(str(name), "startswith", value)

    def negation(self, found: list[Any]) -> Any:
        [part] = found
        twice = isinstance(part, tuple) and part[0] == "not"
        return part[1][0] if twice else ("not", found)

    def all(self, found: list[Any]) -> tuple[str, list[Any]]:
        return "and", found

    def any(self, found: list[Any]) -> tuple[str, list[Any]]:
        return "or", found


_parser = Lark(_GRAMMAR, start="any", parser="lalr", transformer=_Shapes())
_LITERAL = re.compile(r"'[^']*'?")


def _wrong(text: str, reason: str) -> BatchError:
    return invalid_query("$filter", text[:200], reason)


def parse(text: str, properties: Properties) -> Filter | None:
    """The checked form of a filter on a list with these properties, None when it is blank. Raises InvalidQueryParameterValue."""
    return _parse(text, tuple(properties.items())) if text.strip() else None


@lru_cache(maxsize=128)
def _parse(text: str, items: tuple[tuple[str, Property], ...]) -> Filter:
    """Remembered, because every page of a list comes with the same filter."""
    if len(text) > LONGEST:
        raise _wrong(text, f"The filter has more than {LONGEST} characters")
    depth = deepest = 0
    for letter in _LITERAL.sub("", text):
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise _wrong(text, f"More than {DEEPEST} parentheses within each other")
    try:
        raw = _parser.parse(text)
    except UnexpectedInput as error:
        at: int | None = getattr(error, "pos_in_stream", None)  # declared as None in the library
        ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        where = "at its end" if ended or at is None else f"at character {at + 1}: {text[at : at + 20]!r}"
        raise _wrong(text, f"The filter cannot be read {where}") from None
    return _Check(text, dict(items)).filter(raw)


class _Check:
    """Holds what was written against what the list knows."""

    def __init__(self, text: str, properties: Properties) -> None:
        self._text, self._properties, self._left = text, properties, MOST_COMPARISONS

    def filter(self, raw: Any, *, negated: bool = False) -> Filter:
        """The checked form, of the opposite when negated."""
        if isinstance(raw, _Raw):
            checked = self._comparison(raw)
            return _opposite(checked) if negated else checked
        joined, parts = raw
        if joined == "not":
            return self.filter(parts[0], negated=not negated)
        checked_parts = tuple(self.filter(part, negated=negated) for part in parts)
        return And(checked_parts) if (joined == "and") != negated else Or(checked_parts)

    def _comparison(self, raw: _Raw) -> Comparison:
        self._left -= 1
        if self._left < 0:
            raise _wrong(self._text, f"The filter has more than {MOST_COMPARISONS} comparisons")
        found = self._properties.get(raw.name)
        if found is None:
            raise _wrong(self._text, f"{raw.name[:100]} cannot be filtered by here; known are {', '.join(self._properties)}")
        if raw.operator not in found.operators:
            raise _wrong(self._text, f"{raw.name} does not know {raw.operator}, only {', '.join(found.operators)}")
        value = _value(raw.value, found)
        if value is None:
            wanted = f"one of {', '.join(found.words)}" if found.words else f"a value of kind {found.kind.value}"
            raise _wrong(self._text, f"{raw.name} is compared with {wanted}")
        return Comparison(raw.name, raw.operator, value, found.kind)


_OPPOSITE = {"eq": "ne", "ne": "eq"}


def _opposite(found: Comparison) -> Comparison:
    """All that the comparison does not ask for."""
    if found.operator in _OPPOSITE:
        return msgspec.structs.replace(found, operator=_OPPOSITE[found.operator])
    return msgspec.structs.replace(found, negated=True)


def _value(token: Token, wanted: Property) -> str | int | bool | None:
    """The value of a literal, None when it is of another kind."""
    match wanted.kind, token.type:
        case Kind.NUMBER, "NUMBER":
            return int(token)
        case Kind.FLAG, "FLAG":
            return token.lower() == "true"
        case Kind.TIME, "TIME" | "PLAIN_TIME" | "STRING":
            return _time(token.partition("'")[2][:-1] if "'" in token else str(token))
        case Kind.TEXT | Kind.ID | Kind.WORD, "STRING":
            text = token[1:-1].replace("''", "'")
            if wanted.kind is Kind.TEXT:
                return text
            text = folded(text)
            return text if wanted.kind is Kind.ID or text in wanted.words else None
    return None


def _time(text: str) -> int | None:
    """Microseconds since 1970 of ISO 8601 or RFC 1123 text."""
    for read in (times.from_iso, times.from_http_date):
        try:
            return read(text)
        except (ValueError, OverflowError):
            continue
    return None


_FOLD = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def folded(text: str) -> str:
    """Text as it is compared without regard to case: A to Z become small, as in SQL."""
    return text.translate(_FOLD)


# What a filter says.


def matches(found: Filter | None, value_of: Callable[[str], object]) -> bool:
    """True when an item is asked for; `value_of` gives its properties by name: text, microseconds, numbers, flags, None when absent."""
    if found is None:
        return True
    if isinstance(found, And):
        return all(matches(part, value_of) for part in found.parts)
    if isinstance(found, Or):
        return any(matches(part, value_of) for part in found.parts)
    value = value_of(found.name)
    if value is None:
        return found.operator == "ne" or found.negated
    return _compare(found, value) != found.negated


def _compare(found: Comparison, value: Any) -> bool:
    wanted: Any = found.value
    if found.kind in (Kind.ID, Kind.WORD):
        value = folded(value)
    match found.operator:
        case "eq":
            return bool(value == wanted)
        case "ne":
            return bool(value != wanted)
        case "gt":
            return bool(value > wanted)
        case "ge":
            return bool(value >= wanted)
        case "lt":
            return bool(value < wanted)
        case "le":
            return bool(value <= wanted)
        case _:
            return bool(value.startswith(wanted))


def possible(found: Filter | None, name: str, every: frozenset[str] | None = None) -> frozenset[str] | None:
    """The only values of a property that what is asked for can have, of all its values `every` if they are known; None for any value."""
    if found is None:
        return every
    if isinstance(found, And):
        known = [each for part in found.parts if (each := possible(part, name, every)) is not None]
        return frozenset.intersection(*known) if known else None
    if isinstance(found, Or):
        known = [each for part in found.parts if (each := possible(part, name, every)) is not None]
        return frozenset[str]().union(*known) if len(known) == len(found.parts) else None
    if found.name != name or not isinstance(found.value, str):
        return every
    if found.operator == "eq":
        return frozenset({found.value})
    if found.operator == "ne" and every is not None:
        return every - {found.value}
    return every
