"""Nothing but `engine.changes` writes a state (decision D19): what the code says, what the store refuses, and a fresh row that is right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_world import World

from batchyard.engine.changes.tasks import change_task
from batchyard.model.states import TaskState
from batchyard.rules.transitions import IllegalChange, TaskHappened
from batchyard.store import instances, jobs, nodes, pools, schedules, special_tasks, tasks
from batchyard.store.tx import Conflict, Tx

SOURCE = Path(tasks.__file__).parents[1]
CHANGES = "engine/changes/"
STORE_STATES = re.compile(
    r"UPDATE\s+(task|instance|job|node|pool|special_task|job_schedule)"
    r"\s+SET\s+(?:(?!WHERE).)*?(?:(?<=SET )|(?<=, ))(?:allocation_)?state\s*=",
    re.IGNORECASE | re.DOTALL,
)
ROWS = {
    "task": tasks,
    "instance": instances,
    "job": jobs,
    "node": nodes,
    "pool": pools,
    "special_task": special_tasks,
    "job_schedule": schedules,
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def called(tree: ast.AST) -> Iterator[str]:
    """Names of all that is called, and of what is handed on to be called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text as far as it is written down, joined where Python joins it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)


def test_only_changes_and_the_row_modules_set_a_state() -> None:
    allowed = {
        f"store/{name}.py"
        for name in ("tx", "tasks", "instances", "jobs", "nodes", "pools", "special_tasks", "accounts", "schedules", "storage")
    }
    users = {name for name, tree in modules() if {"set_state", "set_states"} & set(called(tree))}
    registry = {
        "store/accounts.py",
        "store/storage.py",
    }  # which accounts there are lies in a database of its own, of which the engine knows nothing
    written = {f"{CHANGES}{name}.py" for name in ("tasks", "instances", "jobs", "nodes", "pools", "special_tasks", "schedules")}
    assert users - allowed - registry == written


def test_only_one_statement_changes_a_state_beside_the_guarded_one_and_changes_alone_runs_it() -> None:
    found = [(name, text) for name, tree in modules() for text in texts(tree) if STORE_STATES.search(text)]
    assert [name for name, _ in found] == ["store/tasks.py"], found
    assert found[0][1] == tasks._START.sql
    users = [
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "start" and isinstance(node.value, ast.Name) and node.value.id == "task_rows"
    ]
    assert users == [f"{CHANGES}tasks.py"]
    assert STORE_STATES.search("UPDATE job SET x = 1, state = :s WHERE pk = 1")
    assert not STORE_STATES.search("UPDATE task SET holds = 1 WHERE state = 'active'")


def test_only_changes_asks_which_state_follows() -> None:
    users = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "after"
        and ast.unparse(node.func.value).rpartition(".")[2]
        in ("TASK", "JOB", "NODE", "POOL", "ALLOCATION", "SUBTASK", "SPECIAL_TASK", "JOB_SCHEDULE")
    }
    assert users == {f"{CHANGES}{name}.py" for name in ("tasks", "instances", "jobs", "nodes", "pools", "special_tasks", "schedules")}


@pytest.mark.parametrize("name", ROWS)
def test_the_store_refuses_a_state_in_any_other_change(world: World, name: str) -> None:
    rows: Any = ROWS[name]
    for state in rows.ROWS.states:
        with pytest.raises(TypeError, match=f"a state of {name} changes by engine.changes alone"):
            world.run(lambda tx, state=state: rows.move(tx, msgspec.UNSET, **{state: "completed"}))


def test_a_change_gives_the_row_as_it_is_and_the_old_one_is_worth_nothing(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job("job")
    world.add({"id": "t"})
    world.schedule()
    old = world.task("t")

    def twice(tx: Tx) -> None:
        first = change_task(tx, old, TaskHappened.REQUEUED, world.now)
        assert first == tasks.get(tx, old.pk)
        with pytest.raises(IllegalChange):
            change_task(tx, first, TaskHappened.REQUEUED, world.now)
        change_task(tx, old, TaskHappened.REQUEUED, world.now)

    with pytest.raises(Conflict):
        world.run(twice)
    assert (world.task("t").state, world.task("t").version) == (TaskState.RUNNING, old.version)
    agent.end_all()
    world.check()
