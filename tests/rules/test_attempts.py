"""Names of attempts and directories of tasks, which server and agent read alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules import attempts, places


@given(st.integers(0, 10**8), st.integers(0, 10**7), st.booleans())
def test_a_name_is_read_as_it_was_given(pk: int, run: int, special: bool) -> None:
    assert attempts.parse(attempts.name(pk, run, special=special)) == (special, pk, run, None)


@given(st.integers(0, 10**8), st.integers(0, 10**7), st.integers(0, 10**6 - 1))
def test_so_is_that_of_an_instance(pk: int, run: int, number: int) -> None:
    assert attempts.parse(attempts.name(pk, run, number)) == (False, pk, run, number)


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.", ".1", "s.1", "ss1.1", "1.1s", "-1.1", "1.1.", "s1.1.1", "1.1.1.1", "1.1.-1", "²1.1", "1" * 10 + "." + "1" * 9, " 1.1"],
)
def test_what_no_server_ever_called_a_run_is_none(text: str) -> None:
    assert attempts.parse(text) is None


def test_directories() -> None:
    assert places.task_directory("job", "task") == "workitems/job/job-1/task"
    assert places.task_directory("nightly:job-12", "task") == "workitems/nightly/job-12/task"
