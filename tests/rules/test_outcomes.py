"""What follows from the end of an attempt: contract 3.3 and 3.8 as tables."""

from __future__ import annotations

import pytest

from batchyard.model.states import TaskResult
from batchyard.model.task import ExitCodeMapping, ExitCodeRangeMapping, ExitConditions, ExitOptions
from batchyard.model.words import DependencyAction, JobAction
from batchyard.rules.outcomes import RETRY, STOPPED, Stage, Verdict, after_end
from batchyard.rules.transitions import TaskHappened

SATISFY, BLOCK = DependencyAction.SATISFY, DependencyAction.BLOCK
NONE, TERMINATE, DISABLE = JobAction.NONE, JobAction.TERMINATE, JobAction.DISABLE

END = {  # how it ended: (exit code, stage, failed, may be tried again)
    "exit 0": (0, "run", False, False),
    "exit 1": (1, "run", True, True),
    "exit 7": (7, "run", True, True),
    "killed by a signal": (137, "run", True, True),
    "program not found": (None, "preprocessing", True, False),
    "resource file missing": (None, "preprocessing", True, False),
    "wall clock": (137, "run", True, False),
    "upload failed": (0, "upload", True, False),
    "upload failed after exit 7": (7, "upload", True, False),
    "node cannot tell": (None, "run", True, False),
}


def verdict(
    end: str, conditions: ExitConditions | None = None, *, retries: int = 0, max_retries: int = 0, stopped: bool = False
) -> Verdict:
    code, stage, failed, retryable = END[end]
    return after_end(
        exit_code=code,
        stage=_stage(stage),
        failed=failed,
        retryable=retryable,
        retries=retries,
        max_retries=max_retries,
        conditions=conditions,
        stopped=stopped,
    )


def _stage(text: str) -> Stage:
    stages: dict[str, Stage] = {"run": "run", "upload": "upload", "preprocessing": "preprocessing"}
    return stages[text]


@pytest.mark.parametrize("end", END)
def test_without_conditions_only_exit_0_satisfies(end: str) -> None:
    ok = end == "exit 0"
    assert verdict(end) == Verdict(
        TaskHappened.ENDED, TaskResult.SUCCESS if ok else TaskResult.FAILURE, satisfies=ok, job_action=NONE if ok else TERMINATE
    )


@pytest.mark.parametrize(
    ("end", "retries", "max_retries", "again"),
    [
        ("exit 1", 0, 0, False),
        ("exit 1", 0, 1, True),
        ("exit 1", 1, 1, False),
        ("exit 1", 4, 5, True),
        ("exit 1", 5, 5, False),
        ("exit 1", 6, 5, False),
        ("exit 1", 0, -1, True),
        ("exit 1", 10_000, -1, True),
        ("killed by a signal", 0, 1, True),
        ("exit 0", 0, 5, False),
        ("exit 0", 0, -1, False),
        *[(end, 0, limit, False) for end, (_, _, _, retryable) in END.items() if not retryable for limit in (1, -1)],
    ],
)
def test_only_a_bad_exit_is_tried_again_so_many_times(end: str, retries: int, max_retries: int, again: bool) -> None:
    found = verdict(end, retries=retries, max_retries=max_retries)
    assert (found == RETRY) == again
    assert found.happened is (TaskHappened.RETRY_DUE if again else TaskHappened.ENDED)


def options(job_action: JobAction | None = None, dependency_action: DependencyAction | None = None) -> ExitOptions:
    return ExitOptions(job_action=job_action, dependency_action=dependency_action)


def code(number: int, chosen: ExitOptions) -> ExitCodeMapping:
    return ExitCodeMapping(code=number, exit_options=chosen)


def span(start: int, end: int, chosen: ExitOptions) -> ExitCodeRangeMapping:
    return ExitCodeRangeMapping(start=start, end=end, exit_options=chosen)


YES, NO = options(NONE, SATISFY), options(DISABLE, BLOCK)
ALL = ExitConditions(
    exit_codes=[code(7, YES)], exit_code_ranges=[span(5, 9, NO)], pre_processing_error=YES, file_upload_error=YES, default=NO
)
CONDITIONS: list[tuple[str, ExitConditions, bool, JobAction]] = [
    # the exact code, before a range that holds it, before what failed, before the default
    ("exit 7", ALL, True, NONE),
    ("upload failed after exit 7", ALL, True, NONE),
    ("exit 1", ALL, False, DISABLE),
    ("program not found", ALL, True, NONE),
    ("upload failed", ALL, True, NONE),
    ("exit 0", ALL, True, NONE),
    # ranges include both their ends and win over a failed upload
    ("exit 7", ExitConditions(exit_code_ranges=[span(7, 9, YES)]), True, NONE),
    ("exit 7", ExitConditions(exit_code_ranges=[span(1, 7, YES)]), True, NONE),
    ("exit 7", ExitConditions(exit_code_ranges=[span(1, 6, YES), span(8, 9, YES)]), False, TERMINATE),
    ("upload failed after exit 7", ExitConditions(exit_code_ranges=[span(7, 7, NO)], file_upload_error=YES), False, DISABLE),
    ("exit 7", ExitConditions(exit_codes=[code(7, NO)], exit_code_ranges=[span(0, 9, YES)]), False, DISABLE),
    # exit 0 can be listed, with an upload that failed too
    ("exit 0", ExitConditions(exit_codes=[code(0, NO)]), False, DISABLE),
    ("exit 0", ExitConditions(exit_code_ranges=[span(0, 0, NO)]), False, DISABLE),
    ("upload failed", ExitConditions(exit_codes=[code(0, YES)], file_upload_error=NO), True, NONE),
    ("exit 0", ExitConditions(default=NO), True, NONE),
    # what is absent falls back to the default, and then to what is built in
    ("program not found", ExitConditions(default=YES), True, NONE),
    ("upload failed", ExitConditions(default=YES), True, NONE),
    ("upload failed after exit 7", ExitConditions(default=YES), True, NONE),
    ("exit 1", ExitConditions(default=YES), True, NONE),
    ("exit 1", ExitConditions(pre_processing_error=YES, file_upload_error=YES), False, TERMINATE),
    ("program not found", ExitConditions(file_upload_error=YES), False, TERMINATE),
    ("wall clock", ExitConditions(exit_codes=[code(137, YES)]), True, NONE),
    # each half of the options has a default of its own
    ("exit 1", ExitConditions(default=options(dependency_action=SATISFY)), True, TERMINATE),
    ("exit 1", ExitConditions(default=options(job_action=NONE)), False, NONE),
    ("exit 0", ExitConditions(exit_codes=[code(0, options(job_action=TERMINATE))]), True, TERMINATE),
    ("exit 0", ExitConditions(exit_codes=[code(0, options(dependency_action=BLOCK))]), False, NONE),
    ("exit 1", ExitConditions(exit_codes=[], exit_code_ranges=[]), False, TERMINATE),
]


@pytest.mark.parametrize(("end", "conditions", "satisfies", "job_action"), CONDITIONS)
def test_exit_conditions(end: str, conditions: ExitConditions, satisfies: bool, job_action: JobAction) -> None:
    found = verdict(end, conditions)
    assert (found.satisfies, found.job_action) == (satisfies, job_action)
    assert found.result is (TaskResult.SUCCESS if end == "exit 0" else TaskResult.FAILURE)


@pytest.mark.parametrize("end", ["exit 1", "exit 7"])
def test_conditions_wait_for_the_last_try(end: str) -> None:
    assert verdict(end, ALL, retries=0, max_retries=2) == RETRY
    assert verdict(end, ALL, retries=2, max_retries=2).happened is TaskHappened.ENDED


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("conditions", [None, ALL], ids=["", "conditions"])
def test_a_run_that_the_service_stopped_says_nothing_unless_it_exits_with_0(end: str, conditions: ExitConditions | None) -> None:
    found = verdict(end, conditions, max_retries=1, stopped=True)
    assert found == (verdict(end, conditions, max_retries=1) if END[end][0] == 0 else STOPPED)
