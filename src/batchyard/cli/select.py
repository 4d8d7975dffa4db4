"""Which pools, jobs, tasks and nodes a person means: ids, several, `JOB/TASK`, ranges, globs, `last`, and the options that choose."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from batchyard.cli import names, tables, where
from batchyard.cli.client import Client, Refused
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.where import Query

Found = dict[str, Any]
Pick = Mapping[str, Any]
NO_PICK: Pick = {"state": None, "since": None, "limit": None, "where": [], "failed": False, "exit": None}
_RANGE = re.compile(r"(?P<start>(?:[\w-]*?-)??)(?P<parts>\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)")
_GLOB = re.compile(r"[*?\[]")
MOST_AT_ONCE = 1000
MOST_ALTERNATIVES = 50
"""Ids that the server is asked for in one filter; of more, the list is looked through here."""


class Range(NamedTuple):
    """Numbered tasks: the start that their ids share, if one was given, and the spans of their numbers."""

    start: str
    spans: tuple[tuple[int, int], ...]

    def takes(self, id_: str) -> bool:
        """Whether a task is one of them."""
        found = re.fullmatch(r"(.*?)(\d+)", id_, re.DOTALL)
        if found is None:
            return False
        fits = found[1].lower() == self.start.lower() or (not self.start and found[1].endswith("-"))
        return fits and any(low <= int(found[2]) <= high for low, high in self.spans)


def numbers(text: str) -> Range | None:
    """A range as 1-10,15 or x-1-10,15; None when it is none. Raises Usage."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    spans = []
    for part in found["parts"].split(","):
        low, _, high = part.partition("-")
        if int(high or low) < int(low):
            raise Usage(f"the range {part} goes down; write {high}-{low}")
        spans.append((int(low), int(high or low)))
    return Range(found["start"], tuple(spans))


def query(noun: str, pick: Pick) -> Query:
    """The query that options and words mean. Raises Usage."""
    now = tables.now()
    words = list(pick["where"])
    words += [f"state:{pick['state']}"] if pick["state"] else []
    words += ["state:failed"] if pick.get("failed") else []
    words += [f"exit:{pick['exit']}"] if pick.get("exit") else []
    words += [f"changed:{pick['since']}"] if pick["since"] else []
    return where.parse(noun, words, now)._replace(limit=pick["limit"])


def chosen(pick: Pick) -> bool:
    """Whether any option chooses."""
    return any(pick.get(name) for name in ("state", "since", "where", "failed", "exit"))


def pages(batch: Client, wanted: Query, *path: str, **query: str) -> Iterator[Sequence[msgspec.Raw]]:
    """A list page by page, as much of it as is wanted. Raises Refused."""
    if wanted.filter:
        query["filter_"] = wanted.filter
    if wanted.limit and not wanted.tests and wanted.sort is None:
        query["maxresults"] = str(min(wanted.limit, MOST_AT_ONCE))
    found = batch.raw(*path, **query)
    if wanted.tests:
        found = ([one for one in page if wanted.takes(msgspec.json.decode(one))] for page in found)
    if wanted.sort is not None:
        yield _sorted(wanted, (one for page in found for one in page))
    elif wanted.limit is None:
        yield from found
    else:
        left = wanted.limit
        for page in found:
            yield page[:left]
            left -= len(page)
            if left <= 0:
                return


def _sorted(wanted: Query, found: Iterator[msgspec.Raw]) -> list[msgspec.Raw]:
    """In the order that was asked for; entries without the value come last."""
    now = tables.now()

    def key(one: msgspec.Raw) -> Any:
        return where.measured(msgspec.json.decode(one), wanted.sort or "", now)

    keyed = [(key(one), number, one) for number, one in enumerate(found)]
    have = [(value, number if not wanted.descending else -number, one) for value, number, one in keyed if value is not None]
    most = len(have) if wanted.limit is None else wanted.limit
    best = (heapq.nlargest if wanted.descending else heapq.nsmallest)(most, have, key=lambda row: row[:2])
    rest = [one for value, _, one in keyed if value is None]
    return [one for _, _, one in best][:most] + rest[: max(0, (wanted.limit or len(keyed)) - len(best))]


def listed(batch: Client, wanted: Query, *path: str, **query: str) -> Iterator[Found]:
    """The entries of a list that are wanted. Raises Refused."""
    for page in pages(batch, wanted, *path, **query):
        for one in page:
            yield msgspec.json.decode(one)


def pattern(wanted: Query, text: str) -> Query:
    """The query with the condition that the id matches a glob."""
    start, low = _GLOB.split(text, maxsplit=1)[0], text.lower()
    filter_ = f"startswith(id,{where.quoted(start)})" if start else ""
    return wanted.and_(filter_, None if text == f"{start}*" else lambda found: fnmatchcase(found["id"].lower(), low))


def exactly(wanted: Query, id_: str) -> Query:
    """The query with the condition that it is this one."""
    return wanted.and_(f"id eq {where.quoted(id_)}")


def named(wanted: Query, words: Sequence[str], *, ranges: bool = False) -> Query:
    """The query with the condition that the id is one that words mean: ids, globs and, of tasks, ranges; all without words."""
    parts = _parts(words, ranges)
    if len(parts) == 1 and not (ranges and numbers(parts[0])):
        return pattern(wanted, parts[0]) if is_glob(parts[0]) else exactly(wanted, parts[0])
    conditions = [_condition(part, numbers(part) if ranges else None) for part in parts]
    if not conditions:
        return wanted
    filters = [filter_ for filter_, _ in conditions]
    short = all(filters) and len(filters) <= MOST_ALTERNATIVES
    return wanted.and_(f"({' or '.join(filters)})" if short else "", lambda found: any(test(found["id"]) for _, test in conditions))


def _parts(words: Sequence[str], ranges: bool) -> list[str]:
    return [part for word in words for part in ([word] if ranges and numbers(word) else word.split(",")) if part]


def with_last(batch: Client, words: Sequence[str], *path: str) -> list[str]:
    """The words with the id of what was added last for `last`, unless something is called so. Raises Problem."""
    return [newest(batch, *path) if word == "last" and not _there(batch, *path, word) else word for word in words]


class Sought:
    """Whether a list has what each of some words means; `nothing` makes the sentence about one that it has not."""

    def __init__(self, words: Sequence[str], nothing: Callable[[str], str], *, ranges: bool = False) -> None:
        self._nothing, self._any = nothing, False
        self._left = {part: _condition(part, numbers(part) if ranges else None)[1] for part in _parts(words, ranges)}

    def seen(self, pages: Iterator[Sequence[msgspec.Raw]]) -> Iterator[Sequence[msgspec.Raw]]:
        """The pages as they come. Raises Problem at the end of a list that has nothing at all, before that is printed."""
        for page in pages:
            self._any = self._any or bool(page)
            if self._left and page:
                found = [msgspec.json.decode(one, type=_Id).id for one in page]
                self._left = {part: test for part, test in self._left.items() if not any(map(test, found))}
            yield page
        if not self._any:
            self.check()

    def check(self) -> None:
        """Raises Problem for the first word that nothing was found for."""
        if self._left:
            raise Problem(self._nothing(next(iter(self._left))))


class _Id(msgspec.Struct):
    id: str


def _condition(text: str, span: Range | None) -> tuple[str, Callable[[str], bool]]:
    """($filter or nothing, test of an id) of one word."""
    low = text.lower()
    if span is not None:
        start = f"startswith(id,{where.quoted(span.start)})" if span.start else ""
        return start, lambda id_: id_.lower() == low or span.takes(id_)
    if is_glob(text):
        return pattern(Query(), text).filter, lambda id_: fnmatchcase(id_.lower(), low)
    return f"id eq {where.quoted(text)}", lambda id_: id_.lower() == low


def is_glob(text: str) -> bool:
    """Whether a word stands for many."""
    return _GLOB.search(text) is not None


def ids(batch: Client, what: str, given: Sequence[str]) -> list[str]:
    """Ids of the jobs or pools that words mean. Raises Problem when a glob finds none."""
    found: dict[str, None] = {}
    for text in (part for word in given for part in word.split(",") if part):
        if is_glob(text):
            matched = [one["id"] for one in listed(batch, pattern(Query(), text), what, select_="id")]
            if not matched:
                raise Problem(f"none of the {what} is called {text}")
            found |= dict.fromkeys(matched)
        elif text == "last" and not _there(batch, what, text):
            found[newest(batch, what)] = None
        else:
            found[text] = None
    return list(found)


def _there(batch: Client, *path: str) -> bool:
    try:
        batch.get(*path, select_="id")
    except Refused as refused:
        if refused.error.endswith("NotFound"):
            return False
        raise
    return True


def newest(batch: Client, *path: str) -> str:
    """Id of what was added last. Raises Problem when there is nothing."""
    last: tuple[str, str] | None = None
    now = tables.now()
    for age in ("2m", "2h", "2d", ""):  # a list cannot be read from its end, so a short one is tried first
        wanted = where.parse("job", [f"created:<{age}"] if age else [], now)
        for one in listed(batch, wanted, *path, select_="id,creationTime"):
            if last is None or one["creationTime"] >= last[0]:  # those of one call share a time, and stand in their order
                last = (one["creationTime"], one["id"])
        if last:
            return last[1]
    raise Problem(f"there are no {path[-1]}{f' in {path[1]}' if len(path) > 1 else ''}")


def tasks(batch: Client, given: Sequence[str], job: str | None, pick: Pick = NO_PICK) -> Iterator[tuple[str, str]]:
    """(job, task) of the tasks that words and options mean. Raises Problem."""
    wanted = query("task", pick)
    found = (pair for word in given for pair in _of_word(batch, word, job, wanted, chosen(pick)))
    return islice(found, pick["limit"])


def _of_word(batch: Client, word: str, job: str | None, wanted: Query, choosing: bool) -> Iterator[tuple[str, str]]:
    front, slash, back = word.rpartition("/")
    if slash or job:
        for where_ in ids(batch, "jobs", [front if slash else job or ""]):
            yield from ((where_, task) for task in in_job(batch, where_, back if slash else word, wanted, choosing))
    elif choosing or word in ("*", "last"):
        for where_ in ids(batch, "jobs", [word]):
            yield from (
                (where_, task) for task in in_job(batch, where_, "last" if word == "last" and not choosing else "*", wanted, choosing)
            )
    else:
        yield names.the_task(batch, word, None)


def in_job(batch: Client, job: str, text: str, wanted: Query, choosing: bool) -> Iterator[str]:
    """Ids of the tasks of a job that a word means. Raises Problem."""
    path = ("jobs", job, "tasks")
    span = numbers(text)
    if span and not _there(batch, *path, text):
        yield from _numbered(batch, job, span, wanted, text, choosing)
    elif "," in text and not span:
        for part in filter(None, text.split(",")):
            yield from in_job(batch, job, part, wanted, choosing)
    elif is_glob(text) or text == "":
        found = [one["id"] for one in listed(batch, pattern(wanted, text or "*"), *path, select_=_fields(wanted))]
        if not found and not choosing:
            raise Problem(f"no task of {job} is called {text}" if text not in ("", "*") else f"{job} has no tasks")
        yield from found
    elif text == "last" and not _there(batch, *path, text):
        yield newest(batch, *path)
    elif choosing:
        yield from (one["id"] for one in listed(batch, exactly(wanted, text), *path, select_=_fields(wanted)))
    else:
        yield text


def _numbered(batch: Client, job: str, span: Range, wanted: Query, text: str, choosing: bool) -> Iterator[str]:
    start = f"startswith(id,{where.quoted(span.start)})" if span.start else ""
    query = wanted.and_(start, lambda found: span.takes(found["id"]))
    found = False
    for one in listed(batch, query, "jobs", job, "tasks", select_=_fields(wanted)):
        found = True
        yield one["id"]
    if not found and not choosing:
        raise Problem(f"{job} has no tasks {text}")


def _fields(wanted: Query) -> str:
    """What is asked for of a task whose id is wanted: all where words look at more."""
    return "" if wanted.tests or wanted.sort is not None else "id"


def nodes(batch: Client, given: Sequence[str]) -> list[tuple[str, str]]:
    """(pool, node) of the nodes that words mean. Raises Problem."""
    found: dict[tuple[str, str], None] = {}
    for word in given:
        front, slash, back = word.replace("…", "*").rpartition("/")  # as tables shorten them
        pools = ids(batch, "pools", [front]) if slash else [one["id"] for one in batch.listed("pools", select_="id")]
        seen = [(pool, str(node["id"])) for pool in pools for node in batch.listed("pools", pool, "nodes", select_="id")]
        if is_glob(back):
            matched = [pair for pair in seen if fnmatchcase(pair[1].lower(), back.lower())]
        else:
            matched = [pair for pair in seen if pair[1].lower() == back.lower()]
            matched = matched or [pair for pair in seen if back and back.lower() in pair[1].lower()]
            if len(matched) > 1:
                raise Problem(f"several nodes are called {back}: {', '.join(f'{pool}/{node}' for pool, node in matched[:5])}")
        if not matched:
            raise Problem(f"there is no node {word}")
        found |= dict.fromkeys(matched)
    return list(found)
