"""Query words, ranges and layouts, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.cli import layout, logs, progress, select, where
from batchyard.cli.layout import Column
from batchyard.cli.problem import Usage
from batchyard.rules import odata

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR_AGO = "DateTime'2030-01-01T11:00:00.000000Z'"


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ("state:running", "state eq 'running'"),
        ("state:failed", "executionInfo/result eq 'failure'"),
        ("state:failed,running", "(executionInfo/result eq 'failure' or state eq 'running')"),
        ("exit:137", "executionInfo/exitCode eq 137"),
        ("exit:>=2 exit:<5", "executionInfo/exitCode ge 2 and executionInfo/exitCode lt 5"),
        ("exit:64-78,137", "((executionInfo/exitCode ge 64 and executionInfo/exitCode le 78) or executionInfo/exitCode eq 137)"),
        ("id:render*", "startswith(id,'render')"),
        ("id:it's", "id eq 'it''s'"),
        ("ended:1h", f"executionInfo/endTime ge {HOUR_AGO}"),
        ("ended:<1h", f"executionInfo/endTime gt {HOUR_AGO}"),
        ("ended:>1h", f"executionInfo/endTime lt {HOUR_AGO}"),
        ("created:<2030-01-01T11:00+00:00", f"creationTime lt {HOUR_AGO}"),
        ("node:n3", ""),
        ("part", ""),
        ("took:>10m", ""),
        ("id:a*b", ""),
    ],
)
def test_what_the_server_filters(words: str, sent: str) -> None:
    made = where.parse("task", [words], NOW)
    assert made.filter == sent
    assert bool(made.tests) == (not sent)
    if sent:
        assert odata.parse(sent, odata.TASKS) is not None


TASK = {
    "id": "Render-7",
    "state": "completed",
    "commandLine": "blender x",
    "nodeInfo": {"nodeId": "tvm_n3"},
    "executionInfo": {
        "exitCode": 3,
        "retryCount": 2,
        "startTime": "2030-01-01T11:00:00Z",
        "endTime": "2030-01-01T11:20:00Z",
        "failureInfo": {"code": "FailureExitCode"},
    },
}


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ("node:*n3", True),
        ("node:n3", False),
        ("der-", True),
        ("retries:2", True),
        ("retries:>2", False),
        ("retries:1-2", True),
        ("took:20m", True),
        ("took:>20m", False),
        ("took:<30m", True),
        ("command:blender*", True),
        ("failure:failure*", True),
        ("slots:1", False),
        ("node:a,*n3", True),
        ("node:*n3 retries:9", False),
        ("ID:x", None),
        ("id:*der*", True),
    ],
)
def test_what_is_looked_at_here(words: str, takes: bool | None) -> None:
    if takes is None:
        with pytest.raises(Usage, match="no query word 'ID'"):
            where.parse("task", [words], NOW)
    else:
        assert where.parse("task", [words], NOW).takes(TASK) is takes


@pytest.mark.parametrize("words", ["exit:x", "exit:>", "state:", "took:5", "ended:soon", "sort:what", "what:1"])
def test_words_that_make_no_sense(words: str) -> None:
    with pytest.raises(Usage):
        where.parse("task", [words], NOW)


def test_sort() -> None:
    made = where.parse("task", ["sort:-ended"], NOW)
    assert (made.sort, made.descending) == ("executionInfo/endTime", True)
    assert where.parse("task", ["sort:took"], NOW).sort == ""
    assert where.measured(TASK, "", NOW) == 1200


@given(st.sampled_from(sorted(where.TERMS)), st.text(max_size=20))
def test_no_words_are_a_crash(noun: str, text: str) -> None:
    try:
        made = where.parse(noun, [text, f"id:{text}", f"state:{text}"], NOW)
    except Usage:
        return
    made.takes(TASK)


@pytest.mark.parametrize(
    ("text", "takes", "leaves"),
    [
        ("1-3", ["1", "3", "x-2", "a-b-3"], ["4", "x-4", "x2", "x-12", "x-2-5"]),
        ("1-2,15", ["x-15", "x-1"], ["x-3"]),
        ("sq-7-9", ["sq-7", "SQ-9"], ["7", "x-sq-7", "sq-10", "sq-7-8"]),
        ("a-2-1-3", ["a-2-1", "a-2-3"], ["a-1", "a-2"]),
        ("7", ["7", "x-7"], ["17", "x-17"]),
        ("x-7", ["x-7", "x-07"], ["7"]),
    ],
)
def test_ranges(text: str, takes: list[str], leaves: list[str]) -> None:
    span = select.numbers(text)
    assert span is not None
    assert [one for one in takes if not span.takes(one)] == []
    assert [one for one in leaves if span.takes(one)] == []


@pytest.mark.parametrize("text", ["a", "a-b", "a*", "1-", "-", "1-2-x", "a,1", ""])
def test_what_is_no_range(text: str) -> None:
    assert select.numbers(text) is None


@pytest.mark.parametrize(
    ("words", "sent", "takes", "leaves"),
    [
        ([], "", ["a"], []),
        (["a"], "id eq 'a'", [], []),
        (["a*"], "startswith(id,'a')", [], []),
        (["a*", "b"], "(startswith(id,'a') or id eq 'b')", ["A1", "b"], ["b1"]),
        (["a,b"], "(id eq 'a' or id eq 'b')", ["a", "B"], ["c"]),
        (["x-1-2", "y"], "(startswith(id,'x-') or id eq 'y')", ["x-1", "y", "x-1-2"], ["x-3"]),
        (["1-2"], "", ["x-1", "2"], ["x-3"]),
        ([f"t{number}" for number in range(60)], "", ["t59"], ["t60"]),
    ],
)
def test_names_become_one_query(words: list[str], sent: str, takes: list[str], leaves: list[str]) -> None:
    made = select.named(where.Query(), words, ranges=True)
    assert made.filter == sent
    assert not sent or odata.parse(sent, odata.TASKS) is not None
    assert [made.takes({"id": one}) for one in [*takes, *leaves]] == [True] * len(takes) + [False] * len(leaves)


def test_a_range_that_goes_down() -> None:
    with pytest.raises(Usage, match="write 3-5"):
        select.numbers("5-3")


COLUMNS = (
    Column("ID", lambda found, now: "", keep=9),
    Column("STATE", lambda found, now: "", keep=9),
    Column("NODE", lambda found, now: "", keep=1),
    Column("EXIT", lambda found, now: "", number=True, keep=5),
    Column("COMMAND", lambda found, now: ""),
)
ROWS: list[list[Any]] = [["render-1", "completed", "tvm_abcdef", 0, "sh -c 'make all the things'"], ["r-2", "active", "", "", "two\nlines"]]


def shown(room: int | None) -> list[str]:
    return list(layout.lines(COLUMNS, ROWS, room))


def test_nothing_is_cut_without_a_limit() -> None:
    assert shown(None) == [
        "ID        STATE      NODE        EXIT  COMMAND",
        "render-1  completed  tvm_abcdef     0  sh -c 'make all the things'",
        "r-2       active                       two lines",
    ]


def test_columns_shrink_and_go_id_and_state_last() -> None:
    assert shown(50)[1] == "render-1  completed  tvm_abcdef     0  sh -c 'mak…"
    assert shown(40)[1] == "render-1  completed  tvm_abcdef     0"
    assert shown(30)[1] == "render-1  completed     0"
    assert shown(19)[0] == "ID        STATE"
    for room in range(4, 80):
        assert max(len(line) for line in shown(room)) <= room


def test_rows_begin_before_the_last_is_known() -> None:
    def endless() -> Any:
        while True:
            yield ROWS[0]

    lines = layout.lines(COLUMNS, endless(), None)
    assert [next(lines) for _ in range(3)][1:] == [shown(None)[1]] * 2


@given(st.binary(), st.integers(0, 5))
def test_the_last_lines_of_a_file(text: bytes, lines: int) -> None:
    found = logs.last(lines, len(text), lambda offset, most: text[offset : offset + most])
    assert text.endswith(found)
    assert len(found.splitlines()) <= lines


def test_the_last_lines_are_read_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CHUNK", 4)
    text = b"one\ntwo\nthree\nfour"
    asked: list[int] = []

    def read(offset: int, most: int) -> bytes:
        asked.append(offset)
        return text[offset : offset + most]

    assert logs.last(2, len(text), read) == b"three\nfour"
    assert min(asked) > 0


def test_a_line_of_progress() -> None:
    assert progress.line("adding", 500, 2000, 10) == "adding  [######..................]  500 of 2,000  50/s  30s left"
    assert progress.line("waiting", 7, None, 0) == "waiting  7  0/s"
