"""`$filter`: what is understood, what is refused and why, and what it means (contract 5.3)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import filters

from batchyard.model.errors import BatchError
from batchyard.rules import odata
from batchyard.rules.odata import And, Comparison, Kind, Or, Properties

NOON = 1_704_110_400_000_000
LISTS = sorted(odata.LISTS)


def refused(text: str, properties: Properties) -> str:
    """Why a filter is refused."""
    with pytest.raises(BatchError) as error:
        odata.parse(text, properties)
    assert (error.value.status, error.value.code) == (400, "InvalidQueryParameterValue")
    values = error.value.values
    assert set(values) == {"QueryParameterName", "QueryParameterValue", "Reason"}
    assert values["QueryParameterName"] == "$filter"
    assert text.startswith(values["QueryParameterValue"])
    return values["Reason"]


STATE = Comparison("state", "eq", "active", Kind.WORD)
ID = Comparison("id", "startswith", "n20", Kind.ID)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("state eq 'active'", STATE),
        ("  state  eq\t'ACTIVE' ", STATE),
        ("((state eq 'active'))", STATE),
        ("startswith(id,'N20')", ID),
        ("startswith( id , 'n20' )", ID),
        ("executionInfo/exitCode lt 0", Comparison("executionInfo/exitCode", "lt", 0, Kind.NUMBER)),
        ("executionInfo/exitCode eq -9", Comparison("executionInfo/exitCode", "eq", -9, Kind.NUMBER)),
        ("id eq 'it''s'", Comparison("id", "eq", "it's", Kind.ID)),
        ("id ge 'a and (b'", Comparison("id", "ge", "a and (b", Kind.ID)),
        ("creationTime gt DateTime'2024-01-01T12:00:00Z'", Comparison("creationTime", "gt", NOON, Kind.TIME)),
        ("creationTime gt datetime'2024-01-01T12:00:00.0000009Z'", Comparison("creationTime", "gt", NOON, Kind.TIME)),
        ("creationTime gt DateTime'2024-01-01T14:00:00+02:00'", Comparison("creationTime", "gt", NOON, Kind.TIME)),
        ("creationTime gt DateTime'Mon, 01 Jan 2024 12:00:00 GMT'", Comparison("creationTime", "gt", NOON, Kind.TIME)),
        ("creationTime gt 2024-01-01T12:00:00Z", Comparison("creationTime", "gt", NOON, Kind.TIME)),
        ("state eq 'active' or startswith(id,'n20') and state eq 'active'", Or((STATE, And((ID, STATE))))),
        ("(state eq 'active' or startswith(id,'n20')) and state eq 'active'", And((Or((STATE, ID)), STATE))),
        ("executionInfo/exitCode ne 0", Comparison("executionInfo/exitCode", "ne", 0, Kind.NUMBER)),
        ("state eq 'active' AND startswith(id,'n20') OR state EQ 'active'", Or((And((STATE, ID)), STATE))),
        ("NOT (state ne 'active' Or not startswith(id,'n20'))", And((STATE, ID))),
        ("not state ne 'active' and startswith(id,'n20')", And((STATE, ID))),
        ("not not not state ne 'active'", STATE),
        ("not StartsWith(id,'n20')", Comparison("id", "startswith", "n20", Kind.ID, negated=True)),
        ("not (executionInfo/exitCode gt 0)", Comparison("executionInfo/exitCode", "gt", 0, Kind.NUMBER, negated=True)),
    ],
)
def test_what_clients_write(text: str, found: odata.Filter) -> None:
    assert odata.parse(text, odata.TASKS) == found


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_a_blank_filter_asks_for_everything(text: str) -> None:
    assert odata.parse(text, odata.TASKS) is None
    assert odata.matches(None, lambda name: pytest.fail("nothing is looked at"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not", "cannot be read at its end"),
        ("state not eq 'active'", "cannot be read at character 7"),
        ("notstate eq 'active'", "notstate cannot be filtered by here"),
        ("state eq 'active' andid eq 'x'", "cannot be read at character 19"),
        ("state eq", "cannot be read at its end"),
        ("(state eq 'active'", "cannot be read at its end"),
        ("state eq 'active", "cannot be read at character 10"),
        ("state eq 'active' xor id eq 'x'", "cannot be read at character 19"),
        ("'active' eq state", "cannot be read at character 1"),
        ("contains(id,'x')", "cannot be read"),
        ("id in ('a','b')", "cannot be read"),
        ("id eq null", "cannot be read"),
        ("priority eq 3", "priority cannot be filtered by here; known are id, state, "),
        ("State eq 'active'", "State cannot be filtered by here"),
        ("state gt 'active'", "state does not know gt, only eq, ne"),
        ("not state gt 'active'", "state does not know gt, only eq, ne"),
        ("startswith(state,'a')", "state does not know startswith"),
        ("state eq 'bogus'", "state is compared with one of active, preparing, running, completed"),
        ("executionInfo/exitCode eq '5'", "is compared with a value of kind whole number"),
        ("executionInfo/exitCode eq 1.5", "cannot be read"),
        ("executionInfo/exitCode eq 99999999999999999999", "cannot be read"),
        ("creationTime gt DateTime'yesterday'", "is compared with a value of kind time"),
        ("creationTime gt 5", "is compared with a value of kind time"),
        ("id eq 5", "is compared with a value of kind id"),
        ("not (" * 33 + "id eq 'x'" + ")" * 33, "More than 32 parentheses within each other"),
        ("(" * 33 + "id eq 'x'" + ")" * 33, "More than 32 parentheses within each other"),
        ("id eq '" + "x" * 8_200 + "'", "more than 8192 characters"),
        (" or ".join(["id eq 'x'"] * 251), "more than 250 comparisons"),
    ],
)
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    assert reason in refused(text, odata.TASKS)


def test_the_largest_filter_is_read_in_no_time() -> None:
    text = " or ".join(f"(id eq 'a-task-{n:03}')" for n in range(250))
    assert len(text) < odata.LONGEST
    begun = time.process_time()
    found = odata.parse(text, odata.TASKS)
    assert time.process_time() - begun < 1
    assert isinstance(found, Or)
    assert len(found.parts) == 250


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("executionInfo/exitCode lt 1", False),
        ("executionInfo/exitCode ge 0 or executionInfo/exitCode lt 0", False),
        ("executionInfo/result eq 'success'", False),
        ("executionInfo/exitCode ne 0", True),
        ("not executionInfo/exitCode eq 0", True),
        ("not executionInfo/exitCode gt 0", True),
        ("not executionInfo/exitCode ne 0", False),
        ("executionInfo/endTime ne DateTime'2024-01-01T00:00:00Z'", True),
        ("executionInfo/result ne 'success'", True),
        ("executionInfo/result ne 'success' and executionInfo/result ne 'failure'", True),
    ],
)
def test_what_is_absent_is_only_unequal(text: str, meant: bool) -> None:
    assert odata.matches(odata.parse(text, odata.TASKS), {}.get) == meant


@pytest.mark.parametrize("name", LISTS)
def test_whatever_can_be_compared_can_be_unequal(name: str) -> None:
    for known in odata.LISTS[name].values():
        assert ("ne" in known.operators) == ("eq" in known.operators)


@given(st.sampled_from(LISTS).flatmap(lambda name: st.tuples(st.just(odata.LISTS[name]), filters.trees(odata.LISTS[name]))), st.data())
def test_a_filter_means_what_it_says(case: tuple[Properties, filters.Tree], data: st.DataObject) -> None:
    properties, tree = case

    def draw(choices: Sequence[str]) -> str:
        return data.draw(st.sampled_from(choices))

    found = odata.parse(filters.text(tree, properties, draw), properties)
    assert found is not None
    row = {name: data.draw(st.none() | st.sampled_from(filters.values(known)), label=name) for name, known in properties.items()}
    assert odata.matches(found, row.get) == filters.wanted(tree, properties, row)
    for name, known in properties.items():
        only = odata.possible(found, name, frozenset(known.words) or None)
        if only is not None and row[name] is not None and odata.matches(found, row.get):
            assert odata.folded(row[name]) in only


def outcome(text: str) -> str:
    """What becomes of a filter on tasks."""
    try:
        odata.parse(text, odata.TASKS)
    except BatchError as error:
        return error.code
    return "read"


WORDS = [
    "state",
    "id",
    "eq",
    "ne",
    "and",
    "or",
    "not",
    "(",
    ")",
    ",",
    "'",
    "'a'",
    "startswith",
    "DateTime'",
    "9",
    "-",
    "/",
    " ",
    "\x00",
    "é",
    "null",
]


@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join) | st.lists(st.sampled_from(WORDS)).map("".join))
def test_garbage_is_refused_and_nothing_else_happens(text: str) -> None:
    assert outcome(text) in ("read", "InvalidQueryParameterValue")


@given(st.text(max_size=40))
def test_no_time_breaks_it(text: str) -> None:
    assert outcome(f"creationTime gt DateTime'{text}'") in ("read", "InvalidQueryParameterValue")
