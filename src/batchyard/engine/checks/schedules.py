"""What a client may say of a job schedule, and what the service fills in (contract 3.11, A.6).

Two names in its metadata are ours: `batchyard.cron` says when jobs are due, `batchyard.timeZone` in which zone that is meant, UTC without
it. `recurrenceInterval` then only says that the schedule recurs; the shortest distance between two due times is put there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from functools import lru_cache

from batchyard.engine.checks import demands, zones
from batchyard.engine.checks import jobs as job_checks
from batchyard.engine.checks.auto_pools import Demand
from batchyard.model import times
from batchyard.model.common import MetadataItem
from batchyard.model.errors import invalid_property
from batchyard.model.jobschedule import JobScheduleContent, Schedule
from batchyard.rules import cron as crons
from batchyard.rules.schedules import Calendar, Timing

CRON, TIME_ZONE = "batchyard.cron", "batchyard.timeZone"
SHORTEST_US = 60_000_000


def check(given: JobScheduleContent, demand: Demand) -> Timing:
    """Refuse what the contract refuses, fill the defaults in, and say when jobs are due."""
    demands.an_id("id", given.id)
    demands.a_display_name(given.display_name)
    job_checks.check_specification(given.job_specification, demand)
    return check_timing(given)


def check_timing(given: JobScheduleContent) -> Timing:
    """The same for schedule and metadata alone."""
    demands.metadata(given.metadata)
    given.metadata = given.metadata or None
    schedule = given.schedule
    calendar = _calendar(given.metadata or ())
    if calendar is not None:
        schedule = given.schedule = schedule or Schedule()
        schedule.recurrence_interval = times.duration_text(crons.shortest_us(calendar.cron))
    if schedule is None:
        return Timing()
    window = _span("startWindow", schedule.start_window)
    interval = _span("recurrenceInterval", schedule.recurrence_interval)
    schedule.start_window = None if schedule.start_window is None else times.duration_text(window)
    schedule.recurrence_interval = None if schedule.recurrence_interval is None else times.duration_text(interval)
    until, end = _time("doNotRunUntil", schedule.do_not_run_until), _time("doNotRunAfter", schedule.do_not_run_after)
    schedule.do_not_run_until = None if until is None else times.iso(until)
    schedule.do_not_run_after = None if end is None else times.iso(end)
    if until is not None and end is not None and end <= until:
        raise invalid_property("doNotRunAfter", schedule.do_not_run_after, "The time must be later than doNotRunUntil")
    return Timing(until, end, window, None if calendar is not None else interval, calendar)


def _span(name: str, given: str | None) -> int | None:
    return None if given is None else demands.duration_us(name, given, minimum_us=SHORTEST_US)


def _time(name: str, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        return times.from_iso(given)
    except (ValueError, OverflowError):
        raise invalid_property(name, given[:100], "The value is not an ISO 8601 time within the years 1 to 9999") from None


def _calendar(metadata: Sequence[MetadataItem]) -> Calendar | None:
    """The calendar that metadata describe. Raises InvalidPropertyValue."""
    found = {name: [item.value for item in metadata if item.name == name] for name in (CRON, TIME_ZONE)}
    for name, values in found.items():
        if len(values) > 1:
            raise invalid_property("metadata", values[1][:100], f"The name {name} is given twice")
    if not found[CRON]:
        if found[TIME_ZONE]:
            reason = f"The item {TIME_ZONE} says in which zone {CRON} is meant, which is missing"
            raise invalid_property("metadata", found[TIME_ZONE][0][:100], reason)
        return None
    return _understood(found[CRON][0], *found[TIME_ZONE])


@lru_cache(maxsize=4096)
def _understood(text: str, zone_name: str = "UTC") -> Calendar:
    """Remembered, because a schedule is read at each of its due times."""
    try:
        cron = crons.parse(text)
    except crons.BadCron as error:
        raise invalid_property("metadata", text[:100], f"The value of {CRON} is no cron expression: {error}") from None
    zone = UTC if zone_name == "UTC" else zones.zone(zone_name)
    if zone is None:
        reason = f"The value of {TIME_ZONE} names no time zone, neither of IANA's nor of Windows'"
        raise invalid_property("metadata", zone_name[:100], reason)
    return Calendar(cron, zone)
