"""Preparation and release tasks: where they run, what waits for them, what becomes of them (contract 3.6)."""

from __future__ import annotations

from typing import Any

from engine_world import EXIT_1, Agent, Steady, World

from batchyard.engine.settling.special_tasks import RELEASE_PATIENCE_US

PREPARED: dict[str, Any] = {"jobPreparationTask": {"commandLine": "true"}}
BOTH: dict[str, Any] = {**PREPARED, "jobReleaseTask": {"commandLine": "true"}}
LOST = {"failure": {"category": "servererror", "code": "Unknown", "message": "?"}}


def special(agent: Agent) -> list[str]:
    """Special tasks that the node should run now."""
    return [name for name in agent.sync_all() if name.startswith("s")]


def ends_of(world: World, kind: str = "preparation", job_id: str = "job") -> list[tuple[str, str | None]]:
    return [(row.state, row.result) for row in world.special(kind, job_id)]


def prepared(world: World, **more: Any) -> Agent:
    """A node with two slots that prepares for a job of two tasks."""
    [agent] = world.working_pool(slots=2)
    world.job(**{**BOTH, **more})
    world.add("a", "b")
    world.schedule()
    return agent


def test_tasks_wait_for_one_preparation(world: World) -> None:
    agent = prepared(world)
    assert world.states("a", "b") == ["preparing", "preparing"]
    assert (world.counts().running, world.node(agent.node_pk).slots_used) == (2, 2)
    assert agent.sync_all() == ["s1.1"], "nothing else runs yet"
    world.advance(1)
    agent.end("s1.1")
    assert world.states("a", "b") == ["running", "running"]
    assert world.task("a").started == world.now
    agent.end_all()
    world.add("c")
    world.schedule()
    assert world.state("c") == "running", "once per node"


def test_a_failure_closes_the_node_and_frees_its_slots(world: World) -> None:
    agent = prepared(world)
    world.job("other")
    agent.end("s1.1", **EXIT_1)
    assert world.states("a", "b") == ["active", "active"]
    causes = "SELECT DISTINCT cause FROM event WHERE what = 'task' AND old = 'preparing' AND new = 'active'"
    assert world.rows(causes) == [("JobPreparationTaskFailed",)]
    assert world.schedule() == 0
    world.add("o", job_id="other")
    assert world.schedule() == 1
    world.upkeep()
    assert world.job_state() == "active", "it waits for another node for ever"
    world.resize(2)
    world.capacity(2)
    for node in world.nodes():
        if node.state != "idle" and node.tasks_running == 0:
            Agent(world, node.pk).join()
    world.schedule()
    assert {world.task(name).node_pk for name in "ab"} == {agent.node_pk + 1}


def test_a_failure_is_ignored_when_nobody_waits_for_success(world: World) -> None:
    agent = prepared(world, jobPreparationTask={"commandLine": "true", "waitForSuccess": False})
    assert world.states("a", "b") == ["running", "running"]
    agent.end("s1.1", **EXIT_1)
    agent.end_all()
    world.add("late")
    world.schedule()
    assert world.state("late") == "running"


def test_how_it_ended_is_kept_until_it_begins_anew(world: World) -> None:
    agent = prepared(world, jobPreparationTask={"commandLine": "true", "constraints": {"maxTaskRetryCount": 1}})
    [row] = world.special()
    assert (row.started, row.ended, row.exit_code, row.failure, row.result, row.last_retry) == (world.now, None, None, None, None, None)
    world.advance(1)
    agent.end("s1.1", **EXIT_1)
    [row] = world.special()
    assert (row.started, row.last_retry, row.retries, row.ended) == (world.now, world.now, 1, None)
    world.advance(1)
    agent.end("s1.2", **EXIT_1)
    [row] = world.special()
    assert (row.started, row.ended, row.exit_code, row.result) == (world.now - 1_000_000, world.now, 1, "failure")
    assert row.failure is not None
    assert b"FailureExitCode" in row.failure


def test_retries_and_runs_that_nobody_saw_end(world: World) -> None:
    agent = prepared(world, jobPreparationTask={"commandLine": "true", "constraints": {"maxTaskRetryCount": 1}})
    agent.end("s1.1", **LOST)
    assert special(agent) == ["s1.2"]
    agent.end("s1.2", **EXIT_1)
    agent.end("s1.2", **EXIT_1)  # said twice
    assert special(agent) == ["s1.3"]
    assert world.special()[0].retries == 1
    agent.end("s1.3", **EXIT_1)
    assert ends_of(world) == [("completed", "failure")]
    for stale in ("s1.3", "s1.1", "s9.1", "s", "s.", "s1", "sx.y", "s²." + "1", "s" + "9" * 30 + ".1"):
        agent.end(stale)
    assert ends_of(world) == [("completed", "failure")]


def test_keys_are_never_used_again(world: World) -> None:
    """A node that still kills the preparation of a deleted job must not take it for that of a new one."""
    agent = prepared(world)
    assert special(agent) == ["s1.1"]
    world.delete_job(force=True)
    world.upkeep()
    world.job("new", **BOTH)
    world.add("n", job_id="new")
    world.schedule()
    assert special(agent) == ["s2.1"]
    agent.end("s1.1")
    assert world.state("n", "new") == "preparing"


def test_release_runs_once_and_the_job_waits(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    world.end_job()
    world.upkeep()
    assert world.states("a", "b") == ["completed", "completed"]
    assert special(agent) == ["s2.1"]
    world.upkeep()
    assert world.job_state() == "terminating"
    assert world.node(agent.node_pk).slots_used == 0, "it takes no slot"
    agent.end("s2.1", **EXIT_1)
    world.upkeep()
    assert world.job_state() == "completed"
    world.delete_job()
    world.upkeep()
    assert world.job_row() is None
    assert special(agent) == [], "not a second time"


def test_deleting_an_open_job_releases_first(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    world.delete_job()
    world.upkeep()
    assert world.job_state() == "deleting"
    agent.end(*special(agent))
    world.upkeep()
    assert world.job_row() is None


def test_what_prepares_ends_with_its_job(world: World) -> None:
    for number, more in enumerate((PREPARED, BOTH)):
        job_id = f"job{number}"
        if number == 0:
            [agent] = world.working_pool(slots=2)
        world.job(job_id, **more)
        world.add("a", job_id=job_id)
        world.schedule()
        assert len(special(agent)) == 1
        world.end_job(job_id, force=more is BOTH)
        world.upkeep()
        assert world.job_state(job_id) == "completed"
        assert special(agent) == []
        assert ends_of(world, job_id=job_id) == [("completed", "failure")]


def test_force_stays_when_the_job_is_deleted_next(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    world.end_job(force=True)
    world.delete_job()
    world.upkeep()
    assert world.job_row() is None


def test_a_lost_node_prepares_again_and_releases_when_it_is_back(world: World) -> None:
    agent = prepared(world)
    agent.sync()
    agent.join()
    assert world.states("a", "b") == ["active", "active"]
    assert world.special() == []
    world.schedule()
    assert special(agent) == ["s2.1"]
    agent.end("s2.1")
    world.end_job()
    world.upkeep()
    assert special(agent) == ["s3.1"]
    agent.join()
    assert special(agent) == ["s3.2"]
    agent.end("s3.2")
    world.upkeep()
    assert world.job_state() == "completed"


def test_a_node_that_leaves_releases_nothing(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    world.end_job()
    world.upkeep()
    world.resize(0)
    world.capacity(3)
    world.upkeep()
    assert world.job_state() == "completed"
    assert ends_of(world, "release") == [("completed", "failure")]


def test_a_node_that_is_gone_before_the_end_is_not_waited_for(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    agent.end_all()
    world.resize(0)
    world.capacity(3)
    world.end_job()
    world.upkeep()
    assert world.job_state() == "completed"
    assert ends_of(world) == [("completed", "success")], "the status list still has it"


def test_a_silent_node_is_waited_for_so_long(world: World) -> None:
    agent = prepared(world)
    agent.end("s1.1")
    world.end_job()
    world.upkeep()
    world.advance(RELEASE_PATIENCE_US / 1e6 - 1)
    world.upkeep()
    assert world.job_state() == "terminating"
    world.advance(1)
    world.upkeep()
    assert world.job_state() == "completed"


def test_terminated_while_it_prepares(world: World) -> None:
    agent = prepared(world)
    world.terminate("a")
    world.delete("b")
    assert world.node(agent.node_pk).slots_used == 0
    agent.end("s1.1")
    world.add("c")
    world.schedule()
    assert world.state("c") == "running"


def test_disabled_while_it_prepares(world: World) -> None:
    agent = prepared(world)
    world.disable()
    world.upkeep()
    assert (world.job_state(), world.states("a", "b")) == ("disabled", ["active", "active"])
    agent.end("s1.1")
    world.enable()
    world.upkeep()
    world.schedule()
    assert world.states("a", "b") == ["running", "running"]


def test_directories_go_with_the_job(world: World) -> None:
    """Also from a node that only prepared, whose task is deleted or ran elsewhere in the end."""
    agent = prepared(world)
    agent.end("s1.1", **EXIT_1)
    for name in "ab":
        world.delete(name)
    assert isinstance(world.provider, Steady)
    world.delete_job(force=True)
    world.upkeep()
    answer = agent.sync()
    assert answer is not None
    assert "workitems/job/job-1" in [removal.directory for removal in answer.removals]


def removals(world: World) -> list[str]:
    found = [directory for (directory,) in world.rows("SELECT directory FROM removal ORDER BY directory")]
    return [directory for directory in found if directory.endswith(("/before", "/after"))]


def retained(world: World, before: str, after: str) -> Agent:
    """A node on which a preparation and a release task ran, each with its retention time; the job is completed."""
    agent = prepared(
        world,
        jobPreparationTask={"id": "before", "commandLine": "true", "constraints": {"retentionTime": before}},
        jobReleaseTask={"id": "after", "commandLine": "true", "retentionTime": after},
    )
    agent.end("s1.1")
    agent.end_all()
    world.advance(3_600)
    agent.sync()
    world.upkeep()
    assert removals(world) == [], "tasks of the job may read what the preparation made"
    world.end_job()
    world.upkeep()
    agent.end("s2.1")
    world.upkeep()
    assert world.job_state() == "completed"
    return agent


def test_directories_go_when_their_retention_is_over_and_no_task_needs_them(world: World) -> None:
    agent = retained(world, before="PT30M", after="PT2H")
    world.upkeep()
    assert removals(world) == ["workitems/job/job-1/before"]
    world.advance(7_199)
    agent.sync()
    world.upkeep()
    assert len(removals(world)) == 1
    world.advance(1)
    agent.sync()
    world.upkeep()
    assert removals(world) == ["workitems/job/job-1/after", "workitems/job/job-1/before"]
    answer = agent.sync()
    assert answer is not None
    agent.sync(removed=[removal.number for removal in answer.removals])
    world.upkeep()
    assert removals(world) == [], "once"


def test_directories_may_be_kept_for_ever_and_for_a_week_without_a_word(world: World) -> None:
    agent = retained(world, before="P10675199DT2H48M5.4775807S", after="P7D")
    world.advance(7 * 86_400 - 1)
    agent.sync()
    world.upkeep()
    assert removals(world) == []
    world.advance(1)
    agent.sync()
    world.upkeep()
    assert removals(world) == ["workitems/job/job-1/after"]
