"""Job schedules: due times, at most one active job, changes, ends (contract 2.5, 3.11)."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from engine_world import START, World

from batchyard.engine.schedules import schedules
from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.model.states import JobScheduleState

HOUR_US = 3_600_000_000
STAYS: dict[str, Any] = {"onAllTasksComplete": "noaction"}


def at(row: Any) -> tuple[int, int | None]:
    """How many jobs a schedule made, and how many hours after the start of the world the next is due."""
    return row.jobs, None if row.due is None else (row.due - START) // HOUR_US


def settle(world: World) -> None:
    """Upkeep ends what ends, the loop of schedules sees to that."""
    world.upkeep()
    world.plans()


def test_the_first_job_exists_at_once_and_the_next_is_due_an_interval_later(world: World) -> None:
    row = world.plan()
    assert at(row) == (1, 1)
    assert row.recent == "plan:job-1"
    assert [name for name, _ in world.jobs_of()] == ["plan:job-1"]
    world.advance(3599)
    settle(world)
    assert at(world.plan_row()) == (1, 1)
    world.advance(1)
    world.plans()
    assert at(world.plan_row()) == (2, 2)


def test_a_hundred_recurrences_are_exact_whatever_is_restarted_in_between(lasting: World) -> None:
    lasting.plan(schedule={"recurrenceInterval": "PT7M"})
    for number in range(1, 101):
        lasting.upkeep()
        lasting.plans()
        if number % 9 == 0:
            lasting.crash()
        lasting.advance(419)
        lasting.plans()
        assert lasting.plan_row().jobs == number
        lasting.advance(1 + (number % 5))  # late by up to four seconds, which no later time shows
        lasting.plans()
        lasting.plans()
        row = lasting.plan_row()
        assert (row.jobs, row.due) == (number + 1, START + (number + 1) * 420_000_000)
        lasting.clock.advance(-(number % 5) * 1_000_000)
    lasting.upkeep()
    assert [name for name, _ in lasting.jobs_of()] == [f"plan:job-{n}" for n in range(1, 102)]


def test_a_later_start_makes_no_job_before_it(world: World) -> None:
    row = world.plan(schedule={"doNotRunUntil": times.iso(START + 2 * HOUR_US), "recurrenceInterval": "PT1H"})
    assert at(row) == (0, 2)
    assert row.recent is None
    world.advance(7199)
    world.plans()
    assert at(world.plan_row()) == (0, 2)
    world.advance(1)
    world.plans()
    assert at(world.plan_row()) == (1, 3)


def test_a_start_in_the_past_is_now(world: World) -> None:
    assert at(world.plan(schedule={"doNotRunUntil": "2001-01-01T00:00:00Z", "recurrenceInterval": "PT1H"})) == (1, 1)


def test_without_recurrence_there_is_one_job_and_the_schedule_is_completed_with_it(world: World) -> None:
    row = world.plan(schedule={})
    assert at(row) == (1, None)
    assert world.plan_row().state == JobScheduleState.ACTIVE
    world.advance(1)
    settle(world)
    row = world.plan_row()
    assert (row.state, row.jobs, row.ended) == (JobScheduleState.COMPLETED, 1, world.now)
    world.advance(86_400)
    settle(world)
    assert world.plan_row().jobs == 1


def test_a_job_that_runs_on_holds_the_next_one_up_until_it_ends(world: World) -> None:
    world.plan(spec=STAYS)
    world.advance(3600 + 600)
    settle(world)
    row = world.plan_row()
    assert at(row) == (1, 1)
    world.end_job("plan:job-1")
    settle(world)
    row = world.plan_row()
    assert at(row) == (2, 2), "made for the time that is past, and the next one is not moved by that"
    assert row.newest_due == START + HOUR_US


def test_a_time_that_passed_its_window_is_lost(world: World) -> None:
    world.plan(spec=STAYS, schedule={"recurrenceInterval": "PT1H", "startWindow": "PT5M"})
    world.advance(3600 + 299)
    settle(world)
    assert at(world.plan_row()) == (1, 1)
    world.advance(1)
    settle(world)
    row = world.plan_row()
    assert at(row) == (1, 2)
    assert (row.missed, row.missed_why) == (START + HOUR_US, "BUSY")
    world.end_job("plan:job-1")
    settle(world)
    assert at(world.plan_row()) == (1, 2)
    world.advance(3300)
    settle(world)
    assert at(world.plan_row()) == (2, 3)


@pytest.mark.parametrize("window", [None, "PT3H"])
def test_a_due_time_is_never_carried_into_the_next_interval(world: World, window: str | None) -> None:
    more = {} if window is None else {"startWindow": window}
    world.plan(spec=STAYS, schedule={"recurrenceInterval": "PT1H", **more})
    world.advance(3 * 3600 + 60)
    settle(world)
    world.end_job("plan:job-1")
    settle(world)
    settle(world)
    row = world.plan_row()
    assert at(row) == (2, 4), "one job for the present interval, none for those before"
    assert row.newest_due == START + 3 * HOUR_US
    assert row.missed_why == "BUSY"


def test_times_that_passed_while_the_server_was_down_are_made_up_for_once(lasting: World) -> None:
    lasting.plan(schedule={"recurrenceInterval": "PT1H"})
    lasting.upkeep()
    lasting.advance(5 * 3600 + 1800)
    lasting.crash()
    lasting.loops()
    row = lasting.plan_row()
    assert at(row) == (2, 6)
    assert (row.newest_due, row.missed, row.missed_why) == (START + 5 * HOUR_US, START + HOUR_US, "LATE")


def test_no_job_is_made_from_the_end_on_and_the_schedule_is_completed_when_none_is_active(world: World) -> None:
    world.plan(spec=STAYS, schedule={"recurrenceInterval": "PT1H", "doNotRunAfter": times.iso(START + 90 * 60_000_000)})
    world.advance(2 * 3600)
    settle(world)
    row = world.plan_row()
    assert (row.jobs, row.state) == (1, JobScheduleState.ACTIVE)
    world.end_job("plan:job-1")
    settle(world)
    settle(world)
    row = world.plan_row()
    assert (row.jobs, row.state) == (1, JobScheduleState.COMPLETED)


def test_the_end_completes_a_schedule_that_has_nothing_active_at_that_moment(world: World) -> None:
    world.plan(schedule={"recurrenceInterval": "PT1H", "doNotRunAfter": times.iso(START + 90 * 60_000_000)})
    settle(world)
    world.advance(3600)
    settle(world)
    world.advance(1799)
    settle(world)
    assert world.plan_row().state == JobScheduleState.ACTIVE
    world.advance(1)
    settle(world)
    assert (world.plan_row().state, world.plan_row().jobs) == (JobScheduleState.COMPLETED, 2)


def test_what_is_due_while_it_is_disabled_is_lost_and_the_job_runs_on(world: World) -> None:
    world.plan(spec=STAYS)
    before = world.plan_row().modified
    world.advance(60)
    row = world.change_plan(schedules.disable)
    assert (row.modified, row.state_time) == (world.now, world.now)
    assert row.modified > before
    assert world.job_state("plan:job-1") == "active"
    world.end_job("plan:job-1")
    world.advance(3600)
    settle(world)
    row = world.plan_row()
    assert at(row) == (1, 2)
    assert row.missed_why == "DISABLED"
    row = world.change_plan(schedules.enable)
    assert at(row) == (1, 2)
    world.advance(3600)
    settle(world)
    assert at(world.plan_row()) == (2, 3)


def test_enabling_a_schedule_makes_nothing_up_for_even_before_the_loop_has_looked(world: World) -> None:
    world.plan()
    world.change_plan(schedules.disable)
    world.upkeep()
    world.advance(3601)
    assert at(world.change_plan(schedules.enable)) == (1, 2)


def test_the_only_job_of_a_schedule_waits_while_it_is_disabled(world: World) -> None:
    world.plan(schedule={"doNotRunUntil": times.iso(START + HOUR_US)})
    world.change_plan(schedules.disable)
    world.advance(7200)
    settle(world)
    assert world.plan_row().jobs == 0
    assert world.change_plan(schedules.enable).jobs == 1


CLOSED = {
    "terminating": "JobScheduleBeingTerminated",
    "completed": "JobScheduleCompleted",
    "deleting": "JobScheduleBeingDeleted",
}
USES: dict[str, Any] = {
    "patch": lambda world: world.patch_plan(metadata=[{"name": "a", "value": "b"}]),
    "put": lambda world: world.put_plan(jobSpecification={"poolInfo": {"poolId": "pool"}}),
    "disable": lambda world: world.change_plan(schedules.disable),
    "enable": lambda world: world.change_plan(schedules.enable),
    "terminate": lambda world: world.change_plan(schedules.terminate),
    "delete": lambda world: world.delete_plan(),
}
REFUSED = {
    ("active", "enable"): "OperationInvalidForCurrentState",
    ("disabled", "disable"): "JobScheduleDisabled",
    **{(state, use): code for state, code in CLOSED.items() for use in USES if use != "delete"},
    ("deleting", "delete"): "JobScheduleBeingDeleted",
}


@pytest.mark.parametrize(("state", "use"), [*itertools.product(["active", "disabled", *CLOSED], USES)])
def test_every_use_in_every_state(world: World, state: str, use: str) -> None:
    world.plan(spec=STAYS)
    if state == "disabled":
        world.change_plan(schedules.disable)
    if state in ("terminating", "completed"):
        world.change_plan(schedules.terminate)
    if state == "completed":
        settle(world)
    if state == "deleting":
        world.delete_plan()
    assert world.plan_row().state == state
    if (state, use) not in REFUSED:
        USES[use](world)
        return
    with pytest.raises(BatchError) as refusal:
        USES[use](world)
    assert refusal.value.code == REFUSED[state, use]


def test_terminating_ends_the_active_job_with_its_reason(world: World) -> None:
    world.plan(spec=STAYS)
    row = world.change_plan(schedules.terminate)
    assert (row.state, row.look) == (JobScheduleState.TERMINATING, None)
    job = world.job_row("plan:job-1")
    assert job is not None
    assert (job.state, job.terminate_reason) == ("terminating", "TerminateJobSchedule")
    settle(world)
    assert world.plan_row().state == JobScheduleState.COMPLETED
    world.advance(7200)
    settle(world)
    assert world.jobs_of() == [("plan:job-1", "completed")]


def test_terminating_without_an_active_job_completes_it_at_once(world: World) -> None:
    world.plan()
    settle(world)
    assert world.change_plan(schedules.terminate).state == JobScheduleState.COMPLETED


def test_force_reaches_the_job(world: World) -> None:
    world.plan(spec=STAYS)
    world.change_plan(schedules.terminate, force=True)
    assert world.rows("SELECT forced FROM job") == [(1,)]


def test_deleting_removes_all_jobs_with_their_tasks(world: World) -> None:
    [agent] = world.working_pool()
    world.plan(spec={"onAllTasksComplete": "noaction", "jobManagerTask": {"id": "boss", "commandLine": "true"}})
    for _ in range(4):
        world.schedule()
        agent.end_all()
        settle(world)
        world.advance(3600)
        settle(world)
    assert len(world.jobs_of()) == 5
    world.delete_plan()
    assert {state for _, state in world.jobs_of()} == {"deleting"}
    world.finish()
    assert world.rows("SELECT 1 FROM job_schedule UNION ALL SELECT 1 FROM job UNION ALL SELECT 1 FROM task") == []
    assert [new for _, _, new in world.events("job_schedule", 1)][-1] is None


def test_many_jobs_are_marked_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.engine.schedules.advance.JOBS_PER_STEP", 3)
    world.plan()
    for _ in range(7):
        settle(world)
        world.advance(3600)
        world.plans()
    settle(world)
    world.delete_plan()
    assert [state for _, state in world.jobs_of()].count("deleting") == 3
    world.plans()
    assert [state for _, state in world.jobs_of()].count("deleting") == 8
    world.finish()
    assert world.rows("SELECT 1 FROM job_schedule") == []


def test_a_change_of_the_specification_is_for_later_jobs(world: World) -> None:
    world.plan(spec={"onAllTasksComplete": "noaction", "priority": 1})
    world.patch_plan(jobSpecification={"poolInfo": {"poolId": "other"}, "priority": 5})
    job = world.job_row("plan:job-1")
    assert job is not None
    assert (job.priority, job.pool_key) == (1, "pool")
    world.end_job("plan:job-1")
    settle(world)
    world.advance(3600)
    settle(world)
    job = world.job_row("plan:job-2")
    assert job is not None
    assert (job.priority, job.pool_key) == (5, "other")


def test_another_interval_counts_from_the_newest_job(world: World) -> None:
    world.plan()
    settle(world)
    world.advance(600)
    row = world.patch_plan(schedule={"recurrenceInterval": "PT3H"})
    assert at(row) == (1, 3)
    row = world.patch_plan(schedule={"recurrenceInterval": "PT5M"})
    assert (row.jobs, row.due) == (2, START + 900_000_000), "two of five minutes have passed, the second is made now"


def test_what_says_nothing_new_changes_nothing(world: World) -> None:
    world.plan(spec=STAYS, schedule={"recurrenceInterval": "PT1H", "startWindow": "PT5M"})
    world.advance(3600 + 600)
    settle(world)
    before = world.plan_row()
    row = world.put_plan(
        schedule={"recurrenceInterval": "PT60M", "startWindow": "PT05M00S"}, jobSpecification={"poolInfo": {"poolId": "pool"}, **STAYS}
    )
    assert (row.due, row.jobs, row.missed) == (before.due, before.jobs, before.missed)
    assert row.modified > before.modified


def test_a_put_without_schedule_makes_one_job_and_completes(world: World) -> None:
    world.plan()
    settle(world)
    world.advance(60)
    row = world.put_plan(jobSpecification={"poolInfo": {"poolId": "pool"}, "onAllTasksComplete": "terminatejob"})
    assert at(row) == (2, None)
    assert b'"schedule"' not in row.body
    settle(world)
    assert world.plan_row().state == JobScheduleState.COMPLETED


def test_the_only_job_is_made_once_whatever_is_changed_afterwards(world: World) -> None:
    world.plan(spec=STAYS, schedule={"startWindow": "PT1H"})
    row = world.patch_plan(schedule={"doNotRunUntil": times.iso(START + HOUR_US)})
    assert at(row) == (1, None)


def test_ids_are_shared_with_jobs(world: World) -> None:
    world.job("one")
    world.plan("two")
    for name, what, code in (
        ("ONE", world.plan, "JobWithSameIdExists"),
        ("TWO", world.plan, "JobScheduleExists"),
        ("Two", world.job, "JobScheduleWithSameIdExists"),
    ):
        with pytest.raises(BatchError) as refusal:
            what(name)
        assert refusal.value.code == code


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        ({"recurrenceInterval": "PT59S"}, "recurrenceInterval"),
        ({"startWindow": "PT59.9S"}, "startWindow"),
        ({"doNotRunUntil": "9999-12-31T23:59:59-10:00"}, "doNotRunUntil"),
        ({"doNotRunUntil": "2030-01-01T00:00:00Z", "doNotRunAfter": "2030-01-01T00:00:00Z"}, "doNotRunAfter"),
        ({"doNotRunAfter": "2020-01-01T00:00:00Z"}, "doNotRunAfter"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(world: World, schedule: dict[str, str], name: str) -> None:
    with pytest.raises(BatchError) as refusal:
        world.plan(schedule=schedule)
    assert (refusal.value.code, refusal.value.values["PropertyName"]) == ("InvalidPropertyValue", name)
    assert world.rows("SELECT 1 FROM job_schedule UNION ALL SELECT 1 FROM job") == []


def test_an_interval_beyond_all_years_is_the_last(world: World) -> None:
    assert at(world.plan(schedule={"recurrenceInterval": "P9000000D"})) == (1, None)
    settle(world)
    assert world.plan_row().state == JobScheduleState.ACTIVE


def test_the_specification_is_checked_and_its_defaults_are_shown(world: World) -> None:
    row = world.plan(spec={"onAllTasksComplete": "noaction"})
    spec = msgspec.json.decode(row.body)["jobSpecification"]
    assert spec["priority"] == 0
    assert spec["usesTaskDependencies"] is False
    assert spec["constraints"] == {"maxWallClockTime": times.INFINITE, "maxTaskRetryCount": 0}
    with pytest.raises(BatchError) as refusal:
        world.plan("bad", spec={"priority": 2000})
    assert refusal.value.values["PropertyName"] == "priority"


def cron(text: str, zone: str | None = None) -> list[dict[str, str]]:
    return [{"name": "batchyard.cron", "value": text}] + ([{"name": "batchyard.timeZone", "value": zone}] if zone else [])


def iso(us: int | None) -> str:
    assert us is not None
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()


def test_a_calendar_says_when_jobs_are_due_and_the_interval_only_that_they_recur(world: World) -> None:
    row = world.plan(schedule={}, metadata=cron("30 2 * * mon-fri", "W. Europe Standard Time"))  # the world starts on Tuesday, 22:13:20 UTC
    assert row.jobs == 0
    assert iso(row.due) == "2023-11-15T01:30:00+00:00"
    assert msgspec.json.decode(row.body)["schedule"] == {"recurrenceInterval": "P1D"}
    seen = []
    for _ in range(4):
        world.clock.advance((world.plan_row().due or 0) - world.now)
        settle(world)
        settle(world)
        seen.append(iso(world.plan_row().due))
    assert seen == [f"2023-11-{day}T01:30:00+00:00" for day in (16, 17, 20, 21)]
    assert world.plan_row().jobs == 4


def test_a_calendar_that_was_missed_for_long_is_made_up_for_once(lasting: World) -> None:
    lasting.plan(metadata=cron("*/7 * * * *"))
    lasting.advance(86_400 * 400)
    lasting.crash()
    lasting.plans()
    row = lasting.plan_row()
    assert row.jobs == 1
    assert row.due is not None
    assert row.newest_due is not None
    assert 0 < row.due - lasting.now <= 420_000_000
    assert 0 <= lasting.now - row.newest_due < 420_000_000


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (cron("* * * *"), "5 fields"),
        (cron("61 * * * *"), "minute"),
        (cron("0 0 31 2 *"), "no such day"),
        (cron("0 0 * * *", "Mars/Olympus"), "no time zone"),
        (cron("0 0 * * *", "../../etc/passwd"), "no time zone"),
        (cron("0 0 * * *", "x" * 5000), "no time zone"),
        (cron("0 0 * * *")[:0] + cron("", "UTC")[1:], "missing"),
        (cron("0 0 * * *") * 2, "twice"),
    ],
)
def test_a_calendar_that_cannot_be_read_is_refused(world: World, metadata: list[dict[str, str]], reason: str) -> None:
    with pytest.raises(BatchError) as refusal:
        world.plan(metadata=metadata)
    assert refusal.value.values["PropertyName"] == "metadata"
    assert reason in refusal.value.values["Reason"]


def test_a_schedule_that_fails_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        world.plan(name)
    world.upkeep()
    world.plans()
    world.advance(3600)
    from batchyard.engine.schedules import advance

    real = advance._fire

    def fails(tx: Any, row: Any, *rest: Any) -> Any:
        if row.id == "b":
            raise RuntimeError("broken")
        return real(tx, row, *rest)

    monkeypatch.setattr(advance, "_fire", fails)
    world.plans()
    assert [world.plan_row(name).jobs for name in ("a", "b", "c")] == [2, 1, 2]
    monkeypatch.undo()
    world.advance(60)
    world.plans()
    assert world.plan_row("b").jobs == 2


def test_a_quota_holds_a_job_up_until_there_is_room(world: World) -> None:
    world.offer = msgspec.structs.replace(world.offer, quotas=msgspec.structs.replace(world.offer.quotas, active_jobs=3))
    world.plan()
    settle(world)
    world.job("x")
    world.job("y")
    with pytest.raises(BatchError) as refusal:
        world.job("z")
    assert refusal.value.code == "ActiveJobAndScheduleQuotaReached"
    with pytest.raises(BatchError) as refusal:
        world.plan("z")
    assert refusal.value.code == "ActiveJobAndScheduleQuotaReached"
    world.advance(3600)
    world.plans()
    row = world.plan_row()
    assert at(row) == (1, 1)
    assert (row.missed, row.missed_why) == (row.due, "QUOTA")
    world.end_job("x")
    world.upkeep()
    world.advance(15)
    world.plans()
    row = world.plan_row()
    assert (at(row), row.missed) == ((2, 2), None), "it was late and not lost"
