"""Job schedules: when jobs are made, and from what."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from batchyard.model.common import Change, Duration, MetadataItem, Shape, Timestamp
from batchyard.model.job import JobSpecification, JobStatistics
from batchyard.model.states import JobScheduleState


class Schedule(Shape):
    """When jobs are made; without recurrence only once."""

    do_not_run_until: Timestamp | None = None
    do_not_run_after: Timestamp | None = None
    start_window: Duration | None = None
    """How late a job may still be made."""
    recurrence_interval: Duration | None = None


class JobScheduleContent(Shape, kw_only=True):
    """What clients have set of a job schedule; a PUT may remove `schedule`."""

    id: str
    schedule: Schedule | None = None
    job_specification: JobSpecification
    display_name: str | None = None
    metadata: list[MetadataItem] | None = None


class JobScheduleCreateContent(JobScheduleContent, kw_only=True):
    """What a client may set when adding a job schedule."""

    schedule: Schedule


class JobSchedulePatch(Shape):
    """What a PATCH may change, for the jobs made afterwards."""

    schedule: Change[Schedule] = UNSET
    job_specification: Change[JobSpecification] = UNSET
    metadata: Change[list[MetadataItem]] = UNSET


class JobScheduleUpdate(Shape):
    """What a PUT replaces; what is absent is removed."""

    job_specification: JobSpecification
    schedule: Schedule | None = None
    metadata: list[MetadataItem] | None = None
    odata_metadata: str | None = msgspec.field(name="odata.metadata", default=None)
    """15.x sends it back as it read it; it says nothing."""


class RecentJob(Shape):
    """Newest job of a schedule."""

    id: str | None = None
    url: str | None = None


class JobScheduleExecutionInformation(Shape):
    """Where a schedule stands."""

    next_run_time: Timestamp | None = None
    recent_job: RecentJob | None = None
    end_time: Timestamp | None = None


class JobScheduleStatistics(JobStatistics):
    """Resources that all jobs of a schedule used."""


class JobScheduleServed(Shape, kw_only=True):
    """What the service knows of a job schedule; served behind its JobScheduleContent."""

    url: str
    e_tag: str
    last_modified: Timestamp
    creation_time: Timestamp
    state: JobScheduleState
    state_transition_time: Timestamp
    previous_state: JobScheduleState | None = None
    previous_state_transition_time: Timestamp | None = None
    execution_info: JobScheduleExecutionInformation | None = None
    stats: JobScheduleStatistics | None = None
