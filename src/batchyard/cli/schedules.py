"""`batchyard schedule`: jobs that are made when they are due; and `submit --every`, which makes one of a command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from batchyard.cli import bodies, homes, lists, output, select, tables, where
from batchyard.cli.client import Client
from batchyard.cli.names import DEFAULT
from batchyard.cli.problem import Usage
from batchyard.cli.streams import confirmed

Shown = Mapping[str, Any]
Given = Mapping[str, Any]
CRON, TIME_ZONE = "batchyard.cron", "batchyard.timeZone"
NOT_ALONE = ("instances", "coordination", "job", "after", "each_line", "array", "matrix", "out", "follow", "wait")
"""Options of submit that mean nothing for a command that is run again and again."""


def when(every: str | None, cron: str | None, time_zone: str | None) -> bodies.Body:
    """`schedule` and `metadata` of these options; nothing where none is given. Raises Usage."""
    if every is not None and cron is not None:
        raise Usage("--every and --cron do not go together")
    if time_zone is not None and cron is None:
        raise Usage("--time-zone says in which zone --cron is meant; give --cron too")
    if every is not None:
        return {"schedule": {"recurrenceInterval": duration(every, "--every")}}
    if cron is None:
        return {}
    items = [{"name": CRON, "value": cron}, *([{"name": TIME_ZONE, "value": time_zone}] if time_zone is not None else [])]
    return {"schedule": {}, "metadata": items}


def duration(text: str, option: str) -> str:
    """A span as the service writes it, of 90s, 5m, 1h, 2d or its own PT1H. Raises Usage."""
    if text.startswith("P"):
        return text
    seconds = where.seconds(text)
    if seconds is None:
        raise Usage(f"{option} wants a span of time, as 90s, 5m, 1h, 2d or PT1H; it got {text!r}")
    return f"PT{seconds:g}S" if seconds < 1e6 else f"PT{int(seconds)}S"


def _schedule(given: Given) -> bodies.Body:
    """What options say of when. Raises Usage."""
    body = when(given["every"], given["cron"], given["time_zone"])
    start, end, window = (given[name] for name in ("start", "end", "window"))
    times = {
        "doNotRunUntil": None if start is None else where.iso(where.moment(start)),
        "doNotRunAfter": None if end is None else where.iso(where.moment(end)),
        "startWindow": None if window is None else duration(window, "--window"),
    }
    return bodies.over(body, {"schedule": times})


def _laid(file: str | None, given: Given) -> bodies.Body:
    body = bodies.laid(file, {"jobSpecification": {"poolInfo": {"poolId": given["pool"]}}})
    timed = _schedule(given)
    more = [*timed.pop("metadata", ()), *(bodies.pairs(given["metadata"], "--metadata") or ())]
    if more:
        names = {item["name"] for item in more}
        body["metadata"] = [item for item in body.get("metadata") or () if item["name"] not in names] + more
    return bodies.over(body, timed)


def create(batch: Client, *, name: str | None, file: str | None, dry_run: bool | None, **given: Any) -> None:
    """Add a job schedule."""
    body = bodies.named(_laid(file, given), name, "schedule")
    if not (body.get("jobSpecification") or {}).get("poolInfo"):
        raise Usage("say on which pool its jobs run: --pool POOL, or a file with jobSpecification")
    body.setdefault("schedule", {})
    if bodies.send(batch, "schedule", body, "jobschedules", dry=bool(dry_run)):
        print(body["id"])


def listed(batch: Client, *, schedules: Sequence[str], shown: Shown, pick: select.Pick) -> None:
    """List the job schedules."""
    wanted = select.named(select.query("schedule", pick), schedules)
    output.show(lambda: select.pages(batch, wanted, "jobschedules"), tables.SCHEDULES, shown)


def show(batch: Client, *, schedules: Sequence[str], shown: Shown) -> None:
    """Show job schedules."""
    output.entries([batch.get("jobschedules", one) for one in select.ids(batch, "jobschedules", schedules)], tables.SCHEDULES, shown)


def update(batch: Client, *, schedule: str, replace: bool, file: str | None, dry_run: bool | None, **given: Any) -> None:
    """Change a job schedule, for the jobs that it makes from now on."""
    body = _laid(file, given)
    if not body:
        raise Usage("say what to change, with options or with a file")
    if not replace and not dry_run:
        _keep(batch, schedule, body)
    what, method = ("schedule replace", "PUT") if replace else ("schedule update", "PATCH")
    bodies.send(batch, what, body, "jobschedules", schedule, method=method, dry=bool(dry_run))


def _keep(batch: Client, schedule: str, body: bodies.Body) -> None:
    """The service replaces whole objects; what options do not name stays, but a calendar whose place an interval takes."""
    known = batch.get("jobschedules", schedule)
    if "jobSpecification" in body:
        kept = {name: value for name, value in known["jobSpecification"].items() if name != "poolInfo"}
        body["jobSpecification"] = bodies.over(kept, body["jobSpecification"])
    over = {item["name"] for item in body.get("metadata", ())}
    if "recurrenceInterval" in body.get("schedule", {}):
        over |= {CRON, TIME_ZONE}
    notes = [item for item in known.get("metadata") or () if item["name"] not in over]
    if over:
        body["metadata"] = notes + body.get("metadata", [])
    if "schedule" in body:
        body["schedule"] = bodies.over(known.get("schedule") or {}, body["schedule"])


def delete(batch: Client, *, schedules: Sequence[str], force: bool, yes: bool | None) -> None:
    """Delete job schedules with all their jobs."""
    found = select.ids(batch, "jobschedules", schedules)
    jobs = sum(1 for one in found for _ in batch.listed("jobschedules", one, "jobs", select_="id"))
    if jobs:
        called = f"the schedule {found[0]}" if len(found) == 1 else f"{len(found):,} schedules"
        confirmed(f"Delete {called} with {jobs:,} jobs, their tasks and files?", yes=bool(yes))
    for one in found:
        batch.delete("jobschedules", one, force="true" if force else "")
        print(f"the schedule {one} is being deleted")


def enable(batch: Client, *, schedules: Sequence[str]) -> None:
    """Have job schedules make jobs again."""
    for one in select.ids(batch, "jobschedules", schedules):
        batch.post("jobschedules", one, "enable")
        print(f"the schedule {one} is enabled")


def disable(batch: Client, *, schedules: Sequence[str]) -> None:
    """Have job schedules make no jobs; what runs runs on."""
    for one in select.ids(batch, "jobschedules", schedules):
        batch.post("jobschedules", one, "disable")
        print(f"the schedule {one} is disabled")


def terminate(batch: Client, *, schedules: Sequence[str], force: bool, yes: bool | None) -> None:
    """End job schedules and the jobs of them that are active."""
    for one in select.ids(batch, "jobschedules", schedules):
        active = [job["id"] for job in batch.listed("jobschedules", one, "jobs", select_="id,state") if job["state"] != "completed"]
        if active:
            confirmed(f"End the schedule {one} and its job {active[-1]}?", yes=bool(yes))
        batch.post("jobschedules", one, "terminate", force="true" if force else "")
        print(f"the schedule {one} ends")


def jobs(batch: Client, *, schedule: str, shown: Shown) -> None:
    """List the jobs of a job schedule with their task counts."""
    [one] = select.ids(batch, "jobschedules", [schedule])
    bare = shown["output"] in ("id", "name")

    def pages() -> Iterator[Sequence[msgspec.Raw]]:
        for page in batch.raw("jobschedules", one, "jobs"):
            yield page if bare else lists.counted(batch, page)

    output.show(pages, tables.JOBS, shown)


def refuse(given: Given) -> None:
    """Raises Usage for options of submit that do not go with each other, or not with a command that is run again and again."""
    wrong = next((name for name in NOT_ALONE if given[name]), None)
    if wrong is not None:
        raise Usage(f"--{wrong.replace('_', '-')} does not go with --every and --cron: each run is a job of its own with one task")
    when(given["every"], given["cron"], given["time_zone"])


def submit(batch: Client, name: str, manager: bodies.Body, given: Given) -> None:
    """Add a schedule whose jobs run one command and end with it, or print it when only that is wanted."""
    timed = when(given["every"], given["cron"], given["time_zone"])
    called = manager.pop("displayName", None)
    task = {**manager, "id": "main", "killJobOnCompletion": True, "runExclusive": False}
    dry = bool(given["dry_run"])
    pool = given["pool"] or DEFAULT if dry else homes.find_pool(batch, given["pool"], given["nodes"], given["size"])
    spec = {"poolInfo": {"poolId": pool}, "jobManagerTask": task}
    body = {"id": name, "jobSpecification": spec, **({"displayName": called} if called else {}), **timed}
    if bodies.send(batch, "schedule", body, "jobschedules", dry=dry):
        print(name)
