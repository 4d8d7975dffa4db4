"""Why does a job schedule make no job now? The deciding reason first, then what was missed last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from batchyard.model import times
from batchyard.model.explain import Code, Reason
from batchyard.model.states import JobScheduleState
from batchyard.rules.facts import ScheduleFacts
from batchyard.rules.reasons import reason

_STATES: Mapping[JobScheduleState, Code] = MappingProxyType(
    {
        JobScheduleState.DISABLED: Code.SCHEDULE_DISABLED,
        JobScheduleState.TERMINATING: Code.SCHEDULE_TERMINATING,
        JobScheduleState.COMPLETED: Code.SCHEDULE_COMPLETED,
        JobScheduleState.DELETING: Code.SCHEDULE_DELETING,
    }
)


def why(facts: ScheduleFacts, because: Sequence[Reason] = ()) -> list[Reason]:
    """Why a job schedule is where it is; `because` says why its active job is where that is."""
    return [*_now(facts, because), *_missed(facts)]


def _now(facts: ScheduleFacts, because: Sequence[Reason]) -> list[Reason]:
    if facts.state in _STATES:
        since = times.iso(facts.since)
        return [reason(_STATES[facts.state], because, job_schedule_id=facts.id, since=since, job_id=facts.job_id or "its job")]
    if facts.due is None:
        return [reason(Code.NEVER_DUE, because, job_schedule_id=facts.id)]
    due = times.iso(facts.due)
    if facts.due > facts.now:
        return [reason(Code.SCHEDULE_WAITS, because, job_schedule_id=facts.id, due=due)]
    if facts.job_id is not None:
        until = "it is made when that ends" if facts.closes is None else f"it is made when that ends before {times.iso(facts.closes)}"
        since = times.iso(facts.job_since)
        return [reason(Code.PREVIOUS_JOB_ACTIVE, because, due=due, job_id=facts.job_id, state=facts.job_state, since=since, until=until)]
    if facts.full:
        return [reason(Code.ACTIVE_JOB_QUOTA, due=due, retry=facts.retry_s)]
    return [reason(Code.SCHEDULE_WAITS, job_schedule_id=facts.id, due=due)]


def _missed(facts: ScheduleFacts) -> list[Reason]:
    if facts.missed is None or facts.missed_why is None or facts.missed == facts.due:
        return []
    return [reason(Code.DUE_TIME_MISSED, due=times.iso(facts.missed), why=facts.missed_why.value, job_schedule_id=facts.id)]
