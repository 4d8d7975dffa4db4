"""Conditional requests as a table (contract 1.2)."""

from __future__ import annotations

import pytest

from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.rules.conditions import NONE, Conditions

MODIFIED = 1_584_756_318_338_828
SECOND = MODIFIED // 1_000_000 * 1_000_000
TAG = times.etag(MODIFIED)
MET, REFUSED, UNCHANGED = None, "ConditionNotMet", "NotModified"

CASES: list[tuple[Conditions, str | None, str | None]] = [
    # conditions, answer to a change, answer to a read
    (NONE, MET, MET),
    (Conditions(if_match=TAG), MET, MET),
    (Conditions(if_match=f'"{TAG}"'), MET, MET),
    (Conditions(if_match=f'W/"{TAG}"'), MET, MET),
    (Conditions(if_match=TAG.lower()), MET, MET),
    (Conditions(if_match=f'"0x1", "{TAG}"'), MET, MET),
    (Conditions(if_match="*"), MET, MET),
    (Conditions(if_match='"0x1"'), REFUSED, REFUSED),
    (Conditions(if_match=""), REFUSED, REFUSED),
    (Conditions(if_none_match='"0x1"'), MET, MET),
    (Conditions(if_none_match=f'"{TAG}"'), REFUSED, UNCHANGED),
    (Conditions(if_none_match=TAG), REFUSED, UNCHANGED),
    (Conditions(if_none_match="*"), REFUSED, REFUSED),
    (Conditions(if_unmodified_since=SECOND), MET, MET),
    (Conditions(if_unmodified_since=SECOND + 1_000_000), MET, MET),
    (Conditions(if_unmodified_since=SECOND - 1_000_000), REFUSED, REFUSED),
    (Conditions(if_modified_since=SECOND - 1_000_000), MET, MET),
    (Conditions(if_modified_since=SECOND), REFUSED, UNCHANGED),
    (Conditions(if_modified_since=SECOND + 1_000_000), REFUSED, UNCHANGED),
    # an ETag that differs makes the time irrelevant; both of the first kind must hold
    (Conditions(if_none_match='"0x1"', if_modified_since=SECOND), MET, MET),
    (Conditions(if_match=TAG, if_unmodified_since=SECOND - 1_000_000), REFUSED, REFUSED),
    (Conditions(if_match='"0x1"', if_none_match='"0x1"'), REFUSED, REFUSED),
]


@pytest.mark.parametrize("reading", [False, True], ids=["change", "read"])
@pytest.mark.parametrize("case", CASES, ids=[repr(case[0])[10:] for case in CASES])
def test_condition(case: tuple[Conditions, str | None, str | None], reading: bool) -> None:
    conditions, change, read = case
    expected = read if reading else change
    if expected is None:
        conditions.check(MODIFIED, reading=reading)
        return
    with pytest.raises(BatchError) as refused:
        conditions.check(MODIFIED, reading=reading)
    assert refused.value.code == expected
    assert refused.value.status == {REFUSED: 412, UNCHANGED: 304}[expected]
