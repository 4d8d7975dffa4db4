"""Query words, as `state:failed exit:137 job:render* node:n3 sort:-ended`: what the server filters, and what is left to look at here.

Pure: the present time is an argument. A word is NAME:VALUE; values with commas are alternatives, `*` stands for any text, numbers and
times may be compared (`exit:>3`, `took:>10m`, `ended:<1h` is less than an hour ago). A word without a name is a part of the id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from batchyard.cli.problem import Usage

Found = Mapping[str, Any]
Test = Callable[[Found], bool]

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_COMPARED = re.compile(r"(>=|<=|>|<|)(.*)", re.DOTALL)
_OPERATORS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "": ("eq", lambda seen, wanted: bool(seen == wanted)),
    ">": ("gt", lambda seen, wanted: bool(seen > wanted)),
    ">=": ("ge", lambda seen, wanted: bool(seen >= wanted)),
    "<": ("lt", lambda seen, wanted: bool(seen < wanted)),
    "<=": ("le", lambda seen, wanted: bool(seen <= wanted)),
}
_TURNED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "": ">="}
"""An age that is less than an hour is a time that is later than an hour ago."""


class Term(NamedTuple):
    """What a query word's name stands for."""

    path: str
    kind: str
    """word, text, number, time or took."""
    served: bool = False
    """The server filters by it."""


_TIMES = {"created": "creationTime", "changed": "stateTransitionTime"}
_RUN = {"started": "executionInfo/startTime", "ended": "executionInfo/endTime"}


def _times(names: Mapping[str, str]) -> dict[str, Term]:
    return {name: Term(path, "time", True) for name, path in names.items()}


TERMS: Mapping[str, Mapping[str, Term]] = {
    "task": {
        "id": Term("id", "text", True),
        "state": Term("state", "word", True),
        "result": Term("executionInfo/result", "word", True),
        "exit": Term("executionInfo/exitCode", "number", True),
        "node": Term("nodeInfo/nodeId", "text"),
        "pool": Term("nodeInfo/poolId", "text"),
        "retries": Term("executionInfo/retryCount", "number"),
        "slots": Term("requiredSlots", "number"),
        "command": Term("commandLine", "text"),
        "name": Term("displayName", "text"),
        "failure": Term("executionInfo/failureInfo/code", "text"),
        "took": Term("", "took"),
        **_times(_TIMES | _RUN),
    },
    "job": {
        "id": Term("id", "text", True),
        "state": Term("state", "word", True),
        "pool": Term("poolInfo/poolId", "text"),
        "priority": Term("priority", "number"),
        "name": Term("displayName", "text"),
        **_times(_TIMES | _RUN),
    },
    "schedule": {
        "id": Term("id", "text", True),
        "state": Term("state", "word", True),
        "pool": Term("jobSpecification/poolInfo/poolId", "text"),
        "name": Term("displayName", "text"),
        "next": Term("executionInfo/nextRunTime", "time"),
        **_times(_TIMES | {"ended": "executionInfo/endTime"}),
    },
    "pool": {
        "id": Term("id", "text", True),
        "state": Term("state", "word", True),
        "allocation": Term("allocationState", "word", True),
        "size": Term("vmSize", "text"),
        "nodes": Term("currentDedicatedNodes", "number"),
        "name": Term("displayName", "text"),
        **_times(_TIMES),
    },
    "node": {
        "id": Term("id", "text"),
        "state": Term("state", "word", True),
        "scheduling": Term("schedulingState", "word"),
        "address": Term("ipAddress", "text"),
        "run": Term("totalTasksRun", "number"),
        "size": Term("vmSize", "text"),
        **_times({"changed": "stateTransitionTime", "booted": "lastBootTime"}),
    },
}
"""Names of query words by noun."""
_SAID = {
    ("task", "failed"): ("result", "failure"),
    ("task", "succeeded"): ("result", "success"),
    ("task", "waiting"): ("state", "active"),
}
"""Words for states that the service calls otherwise."""


class Query(NamedTuple):
    """What a list is to have."""

    filter: str = ""
    """For the server's `$filter`."""
    tests: tuple[Test, ...] = ()
    """What the server cannot do."""
    sort: str | None = None
    descending: bool = False
    kind: str = ""
    limit: int | None = None

    def takes(self, found: Found) -> bool:
        """Whether an entry passes the tests that are made here."""
        return all(test(found) for test in self.tests)

    def and_(self, filter_: str = "", test: Test | None = None) -> Query:
        """The query with one more condition."""
        both = " and ".join(part for part in (self.filter, filter_) if part)
        return self._replace(filter=both, tests=(*self.tests, *([test] if test else ())))


def parse(noun: str, texts: Sequence[str], now: datetime) -> Query:
    """The query that words mean for pools, jobs, tasks or nodes. Raises Usage."""
    made = Query()
    for word in (word for text in texts for word in text.split()):
        name, colon, value = word.partition(":")
        if not colon:
            name, value = "id", f"*{word}*"
        if name == "sort":
            term = _term(noun, value.removeprefix("-"))
            made = made._replace(sort=term.path, kind=term.kind, descending=value.startswith("-"))
        else:
            made = made.and_(*_condition(noun, name, value, now))
    return made


def _term(noun: str, name: str) -> Term:
    terms = TERMS[noun]
    if name not in terms:
        raise Usage(f"{noun}s have no query word {name!r}; they have {', '.join(terms)} and sort")
    return terms[name]


def _condition(noun: str, name: str, value: str, now: datetime) -> tuple[str, Test | None]:
    """($filter, test) of a word; one of them."""
    if not value:
        raise Usage(f"the query word {name}: has no value")
    served, tests = [], []
    for one in value.split(","):
        name_, one_ = _SAID.get((noun, one), (name, one)) if name == "state" else (name, one)
        term = _term(noun, name_)
        served.append(_served(term, one_, now) if term.served else "")
        tests.append(_test(term, one_, now))
    if all(served):
        return (served[0] if len(served) == 1 else f"({' or '.join(served)})"), None
    return "", lambda found: any(test(found) for test in tests)


def _served(term: Term, value: str, now: datetime) -> str:
    """The condition in the language of `$filter`; empty where that cannot say it."""
    if term.kind in ("word", "text"):
        if "*" not in value and "?" not in value:
            return f"{term.path} eq {quoted(value)}"
        start = re.split(r"[*?\[]", value, maxsplit=1)[0]
        return f"startswith({term.path},{quoted(start)})" if term.kind == "text" and value == f"{start}*" and start else ""
    if term.kind == "number":
        if span := re.fullmatch(r"(\d+)-(\d+)", value):
            return f"({term.path} ge {int(span[1])} and {term.path} le {int(span[2])})"
        sign, wanted = _number(value)
        return f"{term.path} {_OPERATORS[sign][0]} {wanted:g}"
    sign, moment = _moment(value, now)
    return f"{term.path} {_OPERATORS[sign][0]} DateTime'{iso(moment)}'"


def quoted(text: str) -> str:
    """A text for `$filter`."""
    return "'" + text.replace("'", "''") + "'"


def iso(moment: datetime) -> str:
    """A time for `$filter`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _test(term: Term, value: str, now: datetime) -> Test:
    if term.kind in ("word", "text"):
        wanted_text = value.lower()
        return lambda found: fnmatchcase(str(at(found, term.path) or "").lower(), wanted_text)
    if term.kind == "number" and (span := re.fullmatch(r"(\d+)-(\d+)", value)):
        low, high = int(span[1]), int(span[2])
        return lambda found: (seen := at(found, term.path)) is not None and low <= seen <= high
    if term.kind == "time":
        sign, moment = _moment(value, now)
        compare = _OPERATORS[sign][1]
        return lambda found: (seen := at(found, term.path)) is not None and compare(datetime.fromisoformat(seen), moment)
    sign, wanted = _number(value) if term.kind == "number" else _duration(value)
    compare = _OPERATORS[sign][1]
    return lambda found: (seen := measured(found, term.path, now)) is not None and compare(seen, wanted)


def measured(found: Found, path: str, now: datetime) -> Any:
    """A value of an entry; without a path how long a task ran, in seconds."""
    if path:
        return at(found, path)
    info = found.get("executionInfo") or {}
    if not info.get("startTime"):
        return None
    end = datetime.fromisoformat(info["endTime"]) if info.get("endTime") else now
    return (end - datetime.fromisoformat(info["startTime"])).total_seconds()


def at(found: Found, path: str) -> Any:
    """The value of a property, as executionInfo/exitCode; None where there is none."""
    seen: Any = found
    for step in path.split("/"):
        seen = seen.get(step) if isinstance(seen, Mapping) else None
    return seen


def _number(value: str) -> tuple[str, float]:
    [(sign, text)] = [_COMPARED.fullmatch(value).groups()]  # type: ignore[union-attr]
    try:
        return sign, int(text)
    except ValueError:
        raise Usage(f"{value!r} is no number; numbers are written 137, >3, <=3 or 1-5") from None


def seconds(text: str) -> float | None:
    """A span of time as 90s, 5m, 1h, 2d; None when it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhdw])", text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _duration(value: str) -> tuple[str, float]:
    [(sign, text)] = [_COMPARED.fullmatch(value).groups()]  # type: ignore[union-attr]
    span = seconds(text)
    if span is None:
        raise Usage(f"{value!r} is no span of time; they are written 90s, >10m or <1h")
    return sign or ">=", span


def _moment(value: str, now: datetime) -> tuple[str, datetime]:
    """(comparison, time) of 1h, <1h, >1h, >2024-01-01 or 2024-01-01T10:00."""
    [(sign, text)] = [_COMPARED.fullmatch(value).groups()]  # type: ignore[union-attr]
    span = seconds(text)
    if span is not None:
        return _TURNED[sign], now - timedelta(seconds=span)
    return sign or ">=", moment(text)


def moment(text: str) -> datetime:
    """A time that a person wrote; without a zone it is this machine's. Raises Usage."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"{text!r} is no time; they are written 5m, 1h, 2d, 2024-12-31 or 2024-12-31T18:00") from None
    return found.astimezone(UTC)
