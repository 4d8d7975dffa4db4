"""Who may be a node: two agents with one token, on the same root and on others."""

from __future__ import annotations

import pytest
from engine_world import SECOND_US, SETTING, SILENCE_US, Agent, World

from batchyard.engine.nodes import node_changes, nodes
from batchyard.engine.nodes.nodes import Occupied, Setting
from batchyard.model.sync import Sync

QUIET = Setting("account", b"key", SILENCE_US)


def join(world: World, node_pk: int, root: str | None, setting: Setting = QUIET) -> Agent:
    """An agent on this root that has joined. Raises Occupied."""
    agent = Agent(world, node_pk)
    answer = world.run(nodes.hear, node_pk, Sync(session=0, number=1, root=root), setting, world.now)
    assert answer is not None
    agent.session, agent.number = answer.session, 1
    return agent


def running(world: World) -> Agent:
    """An agent on root `a` that runs the task `t`."""
    [first] = world.working_pool()
    agent = join(world, first.node_pk, "a")
    world.job()
    world.add("t")
    world.schedule()
    agent.sync()
    return agent


def test_an_agent_of_another_root_is_kept_away_while_the_first_speaks(world: World) -> None:
    agent = running(world)
    for _ in range(10):
        world.advance(SILENCE_US / SECOND_US / 2)
        assert agent.sync() is not None
        with pytest.raises(Occupied):
            join(world, agent.node_pk, "b")
    assert (world.state("t"), world.task("t").losses) == ("running", 0)
    assert agent.end(*agent.has) is not None
    assert world.state("t") == "completed"


def test_the_same_root_joins_at_once(world: World) -> None:
    agent = running(world)
    again = join(world, agent.node_pk, "a")
    assert agent.sync() is None
    assert again.sync() is not None
    assert (world.state("t"), world.task("t").losses) == ("active", 1)


def test_another_root_takes_over_once_the_first_was_silent_and_that_one_stays_away(world: World) -> None:
    agent = running(world)
    world.advance(SILENCE_US / SECOND_US)
    later = join(world, agent.node_pk, "b")
    assert agent.sync() is None, "fenced off"
    with pytest.raises(Occupied):
        join(world, agent.node_pk, "a")
    assert later.sync() is not None


def test_what_is_known_to_be_gone_keeps_nobody_away(world: World) -> None:
    for gone in (nodes.gone, nodes.silent):
        [agent] = world.working_pool(pool_id=gone.__name__)
        join(world, agent.node_pk, "a")
        world.run(gone, agent.node_pk, world.now)
        join(world, agent.node_pk, "b")


@pytest.mark.parametrize("change", [node_changes.reboot, node_changes.reimage])
def test_a_machine_that_was_changed_may_be_another_one(world: World, change: object) -> None:
    [agent] = world.working_pool()
    join(world, agent.node_pk, "a")
    world.change(change, agent.node_pk, None)  # type: ignore[arg-type]
    world.capacity(2)
    join(world, agent.node_pk, "b")


def test_time_in_which_the_server_was_away_is_no_silence(world: World) -> None:
    agent = running(world)
    world.advance(100 * SILENCE_US / SECOND_US)
    back = Setting("account", b"key", SILENCE_US, since=world.now)
    with pytest.raises(Occupied):
        join(world, agent.node_pk, "b", back)
    assert agent.sync() is not None
    assert world.task("t").losses == 0


def test_an_agent_that_names_no_root_is_an_older_one_and_joins(world: World) -> None:
    agent = running(world)
    join(world, agent.node_pk, None, SETTING)
    join(world, agent.node_pk, "b", SETTING)
