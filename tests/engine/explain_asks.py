"""How tests ask why something does not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine_world import Agent, World

from batchyard.engine import lookup
from batchyard.engine.explain import explain
from batchyard.engine.work import jobs
from batchyard.model.explain import Code, Explanation, Reason
from batchyard.model.words import DisableJobOption

MANAGER = {"id": "manager", "commandLine": "true"}


def task(world: World, task_id: str, job_id: str = "job") -> list[Reason]:
    return world.run(explain.task, job_id, task_id, world.now).reasons


def first(world: World, task_id: str, job_id: str = "job") -> Reason:
    return task(world, task_id, job_id)[0]


def job(world: World, job_id: str = "job") -> Explanation:
    return world.run(explain.job, job_id, world.now)


def pool(world: World, pool_id: str = "pool") -> Explanation:
    return world.run(explain.pool, pool_id, world.now)


def codes(reasons: Sequence[Reason]) -> list[Code]:
    return [reason.code for reason in reasons]


def chain(reason: Reason) -> list[Code]:
    """Codes along the first links."""
    return [reason.code, *(chain(reason.because[0]) if reason.because else [])]


def after(task_id: str, *ids: str, ranges: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    spans = [{"start": low, "end": high} for low, high in ranges]
    return {"id": task_id, "dependsOn": {"taskIds": [*ids], "taskIdRanges": spans}}


def disable(world: World, option: DisableJobOption = DisableJobOption.REQUEUE, job_id: str = "job") -> None:
    world.run(lambda tx: jobs.disable(tx, lookup.open_job(tx, job_id), option, world.now))


def run_all(world: World, agents: Sequence[Agent], **how: Any) -> None:
    world.schedule()
    for agent in agents:
        agent.end_all(**how)
