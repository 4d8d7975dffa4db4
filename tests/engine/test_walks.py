"""Random walks through everything at once; after every step all rows agree, and with healthy nodes everything ends."""

from __future__ import annotations

from typing import Any

from engine_world import EXIT_1, Agent, Steady, World, ended
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState, TaskState

NAMES = [*(f"t{n}" for n in range(6)), *(f"f{n}" for n in range(3)), *map(str, range(1, 7)), "01", "002"]
names = st.sampled_from(NAMES)
some = st.lists(names, max_size=3)
spans = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda span: (span[0], span[0] + span[1])), max_size=2)
picks = st.integers(0, 100)


class Walk(RuleBasedStateMachine):
    """Two nodes with three slots, one job, and whatever can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.agents = {agent.node_pk: agent for agent in self.world.working_pool(nodes=2, slots=3)}
        self.world.job(constraints={"maxTaskRetryCount": 1})
        self.done: dict[int, tuple[Any, ...]] = {}
        self.parents: dict[int, tuple[list[str], list[tuple[int, int]]]] = {}
        self.satisfied: set[str] = set()
        self.reported: list[tuple[int, str]] = []

    def _agent(self, pick: int) -> Agent:
        return self.agents[sorted(self.agents)[pick % len(self.agents)]]

    @rule(name=names, ids=some, ranges=spans, slots=st.integers(1, 3))
    def add(self, name: str, ids: list[str], ranges: list[tuple[int, int]], slots: int) -> None:
        spec = {"taskIds": ids, "taskIdRanges": [{"start": low, "end": high} for low, high in ranges]}
        [(_, outcome)] = self.world.add({"id": name, "dependsOn": spec, "requiredSlots": slots})
        if not isinstance(outcome, BatchError):
            self.parents[self.world.task(name).pk] = (ids, ranges)

    @rule()
    def schedule(self) -> None:
        self.world.schedule()

    @rule(pick=picks, fails=st.booleans())
    def report(self, pick: int, fails: bool) -> None:
        agent = self._agent(pick)
        if agent.sync() is not None and agent.has:
            attempt = agent.has[pick % len(agent.has)]
            self.reported.append((agent.node_pk, attempt))
            agent.end(attempt, **(EXIT_1 if fails else {}))

    @precondition(lambda self: self.reported)
    @rule(pick=picks, fails=st.booleans(), elsewhere=st.booleans())
    def report_again(self, pick: int, fails: bool, elsewhere: bool) -> None:
        node, attempt = self.reported[pick % len(self.reported)]
        agent = self._agent(pick) if elsewhere else self.agents[node]
        agent.sync(ended(attempt, **(EXIT_1 if fails else {})))

    @rule(pick=picks)
    def join(self, pick: int) -> None:
        self._agent(pick).join()

    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        provider = self.world.provider
        assert isinstance(provider, Steady)
        node = self.world.node(self._agent(pick).node_pk)
        provider.gone.add(node.handle or "")
        self.world.capacity()

    @rule(name=names)
    def terminate(self, name: str) -> None:
        self._try(self.world.terminate, name)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self._try(self.world.delete, name)

    def _try(self, what: Any, name: str) -> None:
        try:
            what(name)
        except BatchError as error:
            if error.code not in ("TaskNotFound", "TaskCompleted"):
                raise

    @invariant()
    def all_rows_agree(self) -> None:
        self.world.check()

    @invariant()
    def what_is_completed_stays_so(self) -> None:
        now = {row[0]: row for row in self.world.rows("SELECT * FROM task WHERE state = 'completed'")}
        alive = {pk for (pk,) in self.world.rows("SELECT pk FROM task")}
        for pk, row in self.done.items():
            assert pk not in alive or now.get(pk) == row
        self.done = now

    @invariant()
    def nothing_runs_before_what_it_depends_on(self) -> None:
        for name, number in self.world.rows("SELECT lower(id), number FROM task WHERE satisfied = 1"):
            self.satisfied |= {name, f"#{number}"}
        for (pk,) in self.world.rows("SELECT pk FROM task WHERE run > 0"):
            ids, ranges = self.parents[pk]
            needed = {name.lower() for name in ids} | {f"#{number}" for low, high in ranges for number in range(low, high + 1)}
            assert needed <= self.satisfied, f"task {pk} ran before {needed - self.satisfied}"

    def teardown(self) -> None:
        try:
            self.world.finish()
            self.world.check()
            left = self.world.rows("SELECT id, state, unmet FROM task WHERE state <> 'completed'")
            assert all(state == TaskState.ACTIVE and unmet > 0 for _, state, unmet in left), left
            assert {node.state for node in self.world.nodes()} == {NodeState.IDLE}
        finally:
            self.world.close()


def test_random_walks() -> None:
    bounds = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(Walk, settings=bounds)
