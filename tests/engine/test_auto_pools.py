"""Pools that are made for jobs and job schedules: they come and go with them, whatever dies in between (contract 3.12)."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_world import AUTO_POOL, MACHINE, World

from batchyard.engine.explain import explain
from batchyard.engine.schedules import schedules
from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.model.explain import Code
from batchyard.model.job import JobUpdate
from batchyard.model.states import JobScheduleState, PoolState
from batchyard.rules.offer import Quotas
from batchyard.store.jobs import JobRow

USERS = [{"name": "ann", "password": "secret", "elevationLevel": "admin"}]


def spec(*, lifetime: str = "job", keep: bool | None = None, prefix: str | None = None, **pool: Any) -> dict[str, Any]:
    """poolInfo with a pool to be made."""
    wanted = {"vmSize": "small", "virtualMachineConfiguration": MACHINE, "targetDedicatedNodes": 1, **pool}
    made: dict[str, Any] = {"poolLifetimeOption": lifetime, "pool": wanted}
    made |= {} if keep is None else {"keepAlive": keep}
    made |= {} if prefix is None else {"autoPoolIdPrefix": prefix}
    return {"autoPoolSpecification": made}


def job(world: World, job_id: str = "job", poolinfo: dict[str, Any] | None = None, **more: Any) -> JobRow:
    return world.job(job_id, poolInfo=poolinfo or spec(), **more)


def pools(world: World) -> list[tuple[str, str]]:
    return world.rows("SELECT id, state FROM pool ORDER BY pk")


def error(row: JobRow | None) -> dict[str, Any]:
    assert row is not None
    assert row.scheduling_error is not None
    found = msgspec.json.decode(row.scheduling_error)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("prefix", "begin"), [(None, ""), ("night-", "night-_")])
def test_the_pool_comes_with_its_job_and_goes_with_it(world: World, prefix: str | None, begin: str) -> None:
    row = job(world, poolinfo=spec(prefix=prefix), jobManagerTask={"id": "boss", "commandLine": "true"})
    [(pool_id, state)] = pools(world)
    assert re.fullmatch(begin + "[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", pool_id)
    assert (row.auto_pool, row.pool_key, state) == (pool_id, pool_id.lower(), "active")
    world.finish()
    assert world.job_state() == "completed"
    assert pools(world) == []


def test_what_was_asked_is_shown_with_the_defaults_of_a_pool_and_without_secrets(world: World) -> None:
    row = job(
        world,
        poolinfo=spec(userAccounts=USERS, autoScaleFormula="$TargetDedicatedNodes=1", enableAutoScale=True, targetDedicatedNodes=None),
    )
    shown = msgspec.json.decode(row.body)["poolInfo"]["autoPoolSpecification"]
    assert shown["keepAlive"] is False
    assert shown["pool"].items() >= {"taskSlotsPerNode": 1, "resizeTimeout": "PT15M", "enableInterNodeCommunication": False}.items()
    assert shown["pool"]["taskSchedulingPolicy"] == {"nodeFillType": "spread"}
    assert shown["pool"]["autoScaleEvaluationInterval"] == "PT15M"
    assert b"secret" not in row.body


@pytest.mark.parametrize("end", ["end_job", "delete_job"])
def test_a_pool_that_is_kept_alive_outlives_its_job(world: World, end: str) -> None:
    row = job(world, poolinfo=spec(keep=True, targetDedicatedNodes=0))
    world.kept_alive.add(row.auto_pool or "")
    getattr(world, end)()
    world.finish()
    assert pools(world) == [(row.auto_pool, "active")]


def test_a_deleted_job_takes_its_pool_along(world: World) -> None:
    job(world)
    world.capacity()
    world.delete_job()
    world.finish()
    assert pools(world) == []
    assert world.rows("SELECT 1 FROM job UNION ALL SELECT 1 FROM node") == []


def test_the_pool_stays_until_release_tasks_have_run_there(world: World) -> None:
    job(
        world,
        jobManagerTask={"id": "boss", "commandLine": "true"},
        jobPreparationTask={"commandLine": "true"},
        jobReleaseTask={"commandLine": "true"},
    )
    world.finish()
    assert [event for event, _, _ in world.events("release", world.rows("SELECT pk FROM special_task WHERE kind = 'release'")[0][0])] != []
    assert pools(world) == []


FAILURES: list[tuple[dict[str, Any], str]] = [
    ({"applicationPackageReferences": [{"applicationId": "none"}]}, "InvalidApplicationPackageReferencesInAutoPool"),
    ({"enableAutoScale": True, "autoScaleFormula": "$x = ", "targetDedicatedNodes": None}, "InvalidAutoScaleFormulaInAutoPool"),
    ({"enableAutoScale": True, "autoScaleFormula": "1;" * 9000, "targetDedicatedNodes": None}, "InvalidAutoScaleFormulaInAutoPool"),
    ({"certificateReferences": [{"thumbprint": "ab", "thumbprintAlgorithm": "sha1"}]}, "InvalidCertificatesInAutoPool"),
]


@pytest.mark.parametrize(("wish", "code"), FAILURES)
def test_a_pool_that_cannot_be_made_completes_the_job_at_once_and_says_why(world: World, wish: dict[str, Any], code: str) -> None:
    row = job(world, poolinfo=spec(**wish), jobManagerTask={"id": "boss", "commandLine": "true"})
    assert (row.state, row.ended) == ("completed", world.now)
    assert error(row).items() >= {"category": "usererror", "code": code}.items()
    assert row.auto_pool is not None
    assert AUTO_POOL.search(row.auto_pool)
    assert world.rows("SELECT 1 FROM pool UNION ALL SELECT 1 FROM task") == []
    found = world.run(explain.job, "job", world.now)
    assert [reason.code for reason in found.reasons] == [Code.AUTO_POOL_FAILED]
    assert code in found.reasons[0].sentence


def test_a_quota_of_pools_completes_the_job(world: World) -> None:
    world.offer = msgspec.structs.replace(world.offer, quotas=Quotas(pools=1))
    world.pool("other")
    assert error(job(world))["code"] == "AutoPoolCreationFailedWithQuotaReached"


def test_a_pool_without_room_for_nodes_is_explained_at_the_job(world: World) -> None:
    world.offer = msgspec.structs.replace(world.offer, quotas=Quotas(dedicated_cores=1))
    world.open_loops()
    job(world)
    world.add({"id": "t"})
    world.capacity(2)
    reasons = world.run(explain.job, "job", world.now).reasons
    assert [reason.code for reason in reasons] == [Code.ALLOCATION_FAILED]
    assert "AccountCoreQuotaReached" in reasons[0].sentence


@pytest.mark.parametrize(
    ("poolinfo", "code"),
    [
        (spec(lifetime="jobschedule"), "InvalidPropertyValue"),
        (spec(prefix="x" * 21), "InvalidPropertyValue"),
        (spec(prefix="a b"), "InvalidPropertyValue"),
        (spec(vmSize="no_such_size"), "InvalidPropertyValue"),
        (spec(virtualMachineConfiguration=None), "MissingRequiredProperty"),
        (spec(enableAutoScale=True), "InvalidAutoScalingSettings"),
        ({"autoPoolSpecification": {"poolLifetimeOption": "job"}}, "MissingRequiredProperty"),
        ({**spec(), "poolId": "pool"}, "InvalidPropertyValue"),
        ({}, "InvalidPropertyValue"),
    ],
)
def test_what_is_wrong_in_itself_is_refused(world: World, poolinfo: dict[str, Any], code: str) -> None:
    with pytest.raises(BatchError) as refusal:
        world.job("job", poolInfo=poolinfo)
    assert refusal.value.code == code
    assert world.rows("SELECT 1 FROM pool UNION ALL SELECT 1 FROM job") == []


def test_only_keep_alive_can_be_changed(world: World) -> None:
    row = job(world, poolinfo=spec(prefix="p", userAccounts=USERS, targetDedicatedNodes=0))
    world.patch(poolInfo={"autoPoolSpecification": {"poolLifetimeOption": "job", "keepAlive": True}})
    read = msgspec.json.decode((world.job_row() or row).body)["poolInfo"]
    assert read["autoPoolSpecification"]["keepAlive"] is True
    assert read["autoPoolSpecification"]["autoPoolIdPrefix"] == "p"
    kept = read["autoPoolSpecification"]
    for other in (
        {"poolId": "other"},
        {"autoPoolSpecification": {**kept, "autoPoolIdPrefix": "q"}},
        {"autoPoolSpecification": {**kept, "pool": {**kept["pool"], "taskSlotsPerNode": 2}}},
    ):
        with pytest.raises(BatchError) as refusal:
            world.patch(poolInfo=other)
        assert refusal.value.code == "InvalidPropertyValue"
    read["autoPoolSpecification"]["pool"]["resizeTimeout"] = "PT00H15M00S"  # as the newer SDK writes what it read
    sent = msgspec.convert({"poolInfo": read, "priority": 3}, JobUpdate)
    from batchyard.engine import lookup
    from batchyard.engine.work import jobs

    fresh = world.run(lambda tx: jobs.update(tx, lookup.open_job(tx, "job"), sent, world.now, world.demand))
    assert fresh.priority == 3
    world.kept_alive.add(row.auto_pool or "")
    world.end_job()
    world.finish()
    assert pools(world) == [(row.auto_pool, "active")]


def test_a_job_on_a_pool_of_others_gets_none_of_its_own(world: World) -> None:
    world.job("job")
    world.disable()
    world.upkeep()
    with pytest.raises(BatchError):
        world.patch(poolInfo=spec())


MANAGED = {"jobManagerTask": {"id": "boss", "commandLine": "true"}, "onAllTasksComplete": "noaction"}


def test_a_schedule_whose_jobs_share_a_pool_has_it_until_it_ends(world: World) -> None:
    world.plan(spec={"poolInfo": spec(lifetime="jobschedule", userAccounts=USERS), **MANAGED})
    [(shared, _)] = pools(world)
    for number in range(2, 5):
        world.finish()
        assert world.job_state(f"plan:job-{number - 1}") == "completed"
        world.clock.advance((world.plan_row().due or 0) - world.now)
        world.plans()
        assert world.plan_row().jobs == number
        assert pools(world) == [(shared, "active")]
    assert {row for (row,) in world.rows("SELECT auto_pool FROM job")} == {shared}
    world.change_plan(schedules.terminate)
    assert pools(world) == [(shared, "active")], "its job still runs there"
    world.finish()
    assert world.plan_row().state == JobScheduleState.COMPLETED
    assert pools(world) == []


def test_a_schedule_whose_jobs_have_pools_of_their_own_makes_one_each_time(world: World) -> None:
    world.plan(spec={"poolInfo": spec(prefix="n"), **MANAGED})
    seen = set()
    for _ in range(3):
        [(pool_id, _)] = pools(world)
        seen.add(pool_id)
        world.finish()
        assert pools(world) == []
        world.clock.advance((world.plan_row().due or 0) - world.now)
        world.plans()
    assert len(seen) == 3


@pytest.mark.parametrize("lifetime", ["job", "jobschedule"])
def test_a_deleted_schedule_leaves_no_pool(world: World, lifetime: str) -> None:
    world.plan(spec={"poolInfo": spec(lifetime=lifetime), "onAllTasksComplete": "noaction"})
    world.capacity()
    world.delete_plan()
    world.finish()
    assert world.rows("SELECT 1 FROM pool UNION ALL SELECT 1 FROM job UNION ALL SELECT 1 FROM job_schedule") == []


def test_another_specification_gives_the_later_jobs_another_pool(world: World) -> None:
    world.plan(spec={"poolInfo": spec(lifetime="jobschedule"), **MANAGED})
    [(first, _)] = pools(world)
    world.patch_plan(jobSpecification={"poolInfo": spec(lifetime="jobschedule", taskSlotsPerNode=3), **MANAGED})
    assert pools(world) == [(first, "active")], "the active job stays where it is"
    world.finish()
    assert world.job_state("plan:job-1") == "completed"
    world.clock.advance((world.plan_row().due or 0) - world.now)
    world.plans()
    assert [state for _, state in pools(world)] == ["deleting", "active"]
    world.finish()
    [(second, _)] = pools(world)
    assert second != first


def test_what_was_read_and_is_sent_back_is_the_same_pool(world: World) -> None:
    row = world.plan(spec={"poolInfo": spec(lifetime="jobschedule", userAccounts=USERS), **MANAGED})
    read = msgspec.json.decode(row.body)
    world.put_plan(schedule=read["schedule"], jobSpecification={**read["jobSpecification"], "priority": 7})
    assert world.plan_row().pool_stale == 0


def test_a_shared_pool_that_somebody_deleted_is_made_anew(world: World) -> None:
    row = world.plan(spec={"poolInfo": spec(lifetime="jobschedule"), "onAllTasksComplete": "terminatejob"})
    world.delete_pool(row.pool_id or "")
    world.finish()
    world.advance(3600)
    world.plans()
    [(again, state)] = pools(world)
    assert (again == row.pool_id, state) == (False, "active")


def test_a_schedule_that_moves_to_a_pool_of_others_gives_up_the_shared_one(world: World) -> None:
    world.plan(spec={"poolInfo": spec(lifetime="jobschedule"), "onAllTasksComplete": "terminatejob"})
    world.pool("pool")
    world.patch_plan(jobSpecification={"poolInfo": {"poolId": "pool"}, "onAllTasksComplete": "terminatejob"})
    world.upkeep()
    world.plans()
    world.advance(3600)
    world.plans()
    world.finish()
    assert [name for name, _ in pools(world)] == ["pool"]


def test_a_recurrence_whose_pool_cannot_be_made_is_lost_and_the_next_one_tries_again(world: World) -> None:
    world.offer = msgspec.structs.replace(world.offer, quotas=Quotas(pools=1))
    world.pool("other")
    row = world.plan(spec={"poolInfo": spec(lifetime="jobschedule"), **MANAGED})
    assert row.jobs == 1
    assert error(world.job_row("plan:job-1"))["code"] == "AutoPoolCreationFailedWithQuotaReached"
    world.delete_pool("other")
    world.finish()
    world.advance(3600)
    world.plans()
    assert world.job_state("plan:job-2") == "active"
    assert len(pools(world)) == 1


def test_the_only_job_that_could_not_begin_completes_its_schedule(world: World) -> None:
    world.offer = msgspec.structs.replace(world.offer, quotas=Quotas(pools=0))
    world.plan(spec={"poolInfo": spec(), **MANAGED}, schedule={})
    world.plans()
    assert world.plan_row().state == JobScheduleState.COMPLETED


STEPS: dict[str, Any] = {
    "capacity": World.capacity,
    "upkeep": World.upkeep,
    "plans": World.plans,
    "schedule": World.schedule,
}


@pytest.mark.parametrize("lifetime", ["job", "jobschedule"])
@pytest.mark.parametrize("ends", ["terminate", "delete", "exhausted"])
def test_no_pool_is_left_behind_whenever_the_server_is_killed(lasting: World, lifetime: str, ends: str) -> None:
    """Killed after every unit of work: each step of every loop is done once, then the server dies and another one goes on."""
    world = lasting
    end = {"doNotRunAfter": times.iso(world.now + 2 * 3_600_000_000)} if ends == "exhausted" else {}
    world.plan(spec={"poolInfo": spec(lifetime=lifetime, targetDedicatedNodes=0), "onAllTasksComplete": "terminatejob"},
               schedule={"recurrenceInterval": "PT1H", **end})  # fmt: skip
    kills = 0

    def step(name: str) -> None:
        nonlocal kills
        STEPS[name](world)
        world.check()
        if kills < 12:
            world.crash()
            kills += 1
        world.check()

    for round_ in range(8):
        for name in STEPS:
            step(name)
        if round_ == 3:
            world.advance(3600)
            step("plans")
            if ends == "terminate":
                world.change_plan(schedules.terminate)
            elif ends == "delete":
                world.delete_plan()
            world.crash()
            world.check()
        if ends == "exhausted" and round_ == 5:
            world.advance(3600)
    world.advance(1)
    world.loops()
    world.loops()
    assert pools(world) == []
    left = world.rows("SELECT state FROM job_schedule")
    assert left == ([] if ends == "delete" else [("completed",)])
    assert {state for (state,) in world.rows("SELECT state FROM job")} <= {"completed"}


class Killed(BaseException):
    """The server died before it could commit."""


def die_before(world: World, unit: int) -> None:
    """Have the world's server die before its unit of work of this number."""
    real, done = world.db.submit, itertools.count()

    def submit(*args: Any, **kwargs: Any) -> Any:
        if next(done) >= unit:
            raise Killed
        return real(*args, **kwargs)

    world.db.submit = submit  # type: ignore[method-assign]


def terminate_plan(world: World) -> None:
    world.change_plan(schedules.terminate)


@pytest.mark.sqlite
@pytest.mark.parametrize(("lifetime", "ends"), [("job", World.delete_plan), ("jobschedule", terminate_plan)])
def test_no_pool_is_left_behind_before_whichever_commit_the_server_dies(tmp_path: Path, lifetime: str, ends: Any) -> None:
    for unit in itertools.count():
        world = World(tmp_path / f"{unit}.db")
        die_before(world, unit)
        try:
            world.plan(spec={"poolInfo": spec(lifetime=lifetime), "onAllTasksComplete": "terminatejob"})
            for _ in range(2):
                world.capacity(2)
                world.upkeep()
                world.plans()
                world.advance(3600)
                world.plans()
            ends(world)
            for _ in range(2):
                world.upkeep()
                world.plans()
                world.capacity()
            died = False
        except Killed:
            died = True
        world.crash()
        world.check()
        for (name,) in world.rows("SELECT id FROM job_schedule WHERE state IN ('active', 'disabled')"):
            assert died, "the story has its end"
            assert name == "plan"
            world.change_plan(schedules.terminate)
        world.finish()
        assert pools(world) == []
        assert world.rows("SELECT 1 FROM job WHERE state <> 'completed' UNION ALL SELECT 1 FROM node") == []
        assert world.rows("SELECT 1 FROM job_schedule WHERE state <> 'completed'") == []
        world.check()
        world.close()
        if not died:
            assert unit > 30, "it died too seldom"
            return


def test_a_deleting_pool_is_no_pool(world: World) -> None:
    row = job(world)
    world.delete_pool(row.auto_pool or "")
    assert [state for _, state in pools(world)] == [PoolState.DELETING]
    world.end_job()
    world.finish()
    assert pools(world) == []
