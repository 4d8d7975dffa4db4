"""What follows when an attempt of a task ends: success, retry or failure, and what its dependants may do (contract 3.3, 3.8)."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchyard.model.states import TaskResult
from batchyard.model.task import ExitConditions, ExitOptions
from batchyard.model.words import DependencyAction, JobAction
from batchyard.rules.transitions import TaskHappened

UNLIMITED = -1

Stage = Literal["preprocessing", "run", "upload"]


class Verdict(msgspec.Struct, frozen=True):
    """What an ended attempt means for its task."""

    happened: TaskHappened
    result: TaskResult | None = None
    satisfies: bool = False
    """True when tasks that depend on it may start."""
    job_action: JobAction = JobAction.NONE


RETRY = Verdict(TaskHappened.RETRY_DUE)
STOPPED = Verdict(TaskHappened.NODE_LOST)
"""The attempt says nothing about its task, which waits again without a counter that moves (contract 2.4, 3.4)."""


def is_interrupted(*, exit_code: int | None, stopped: bool) -> bool:
    """True when the service stopped an attempt that would have gone on; one that exits with 0 all the same has done its work."""
    return stopped and exit_code != 0


def after_end(
    *,
    exit_code: int | None,
    stage: Stage,
    failed: bool,
    retryable: bool,
    retries: int,
    max_retries: int,
    conditions: ExitConditions | None,
    stopped: bool,
) -> Verdict:
    """Verdict on an attempt that ended.

    Only a non-zero exit is tried again: `max_retries` times after the first run, without end for -1. A program that
    could not be started, a file that could not be fetched or handed up and a spent wall clock are final (contract 3.3);
    `retryable` is False for these. Exit conditions count only when nothing is tried again. None of this holds for an
    attempt that the service `stopped`, unless it exits with 0.
    """
    if is_interrupted(exit_code=exit_code, stopped=stopped):
        return STOPPED
    if retryable and exit_code and (max_retries == UNLIMITED or retries < max_retries):
        return RETRY
    options = _options(exit_code, stage, conditions) if conditions else None
    satisfies = not failed and exit_code == 0
    job_action = JobAction.TERMINATE if failed else JobAction.NONE
    if options is not None:
        if options.dependency_action is not None:
            satisfies = options.dependency_action == DependencyAction.SATISFY
        if options.job_action is not None:
            job_action = options.job_action
    return Verdict(TaskHappened.ENDED, TaskResult.FAILURE if failed else TaskResult.SUCCESS, satisfies, job_action)


def _options(exit_code: int | None, stage: Stage, conditions: ExitConditions) -> ExitOptions | None:
    """The condition that applies: the exact code, a range, the stage that failed, the default (contract 3.8)."""
    if exit_code is not None:
        for mapping in conditions.exit_codes or ():
            if mapping.code == exit_code:
                return mapping.exit_options
        for span in conditions.exit_code_ranges or ():
            if span.start <= exit_code <= span.end:
                return span.exit_options
    if stage == "preprocessing":
        return conditions.pre_processing_error or conditions.default
    if stage == "upload":
        return conditions.file_upload_error or conditions.default
    return conditions.default if exit_code != 0 else None
