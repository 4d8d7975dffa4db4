"""What a node is told, word for word: its setup, the tasks that it should run, and what each shows as its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from engine_world import EXIT_1, SETTING, Agent, World

from batchyard.blobs.edge import sas
from batchyard.engine.nodes import linked_storage, nodes
from batchyard.engine.nodes.linked_storage import LinkedStorage
from batchyard.engine.nodes.nodes import NotThisNode
from batchyard.engine.nodes.orders import task_token
from batchyard.model.errors import BatchError
from batchyard.model.sync import NodeAccount, NodeSetup, Order, Orders, Sync
from batchyard.model.task import TaskCreateContent

KEY = SETTING.key
TOKEN = {"authenticationTokenSettings": {"access": ["job"]}}
IDENTITY = {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}}


def ask(world: World, agent: Agent, **said: Any) -> Orders:
    """The answer to an agent that holds nothing."""
    answer = agent.sync(**said)
    assert answer is not None
    return answer


def by_name(answer: Orders) -> dict[str, Order]:
    return {order.attempt: order for order in answer.orders}


def task_of(order: Order) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(order.task)
    return found


class TestSetup:
    """What an agent learns when it joins."""

    def test_of_a_node_with_users(self, world: World) -> None:
        users = [
            {"name": "ada", "password": "p", "elevationLevel": "admin", "linuxUserConfiguration": {"uid": 2000, "gid": 2001}},
            {"name": "bob", "password": "p"},
        ]
        world.pool("Pool", 1, taskSlotsPerNode=3, userAccounts=users)
        world.capacity(2)
        [node] = world.nodes()
        answer = world.run(nodes.hear, node.pk, Sync(number=1, root="r"), SETTING, world.now)
        assert answer is not None
        assert (answer.session, answer.number, answer.setup) == (
            node.session + 1,
            1,
            NodeSetup(
                pool_id="Pool",
                node_id=node.id,
                is_dedicated=True,
                account_name="account",
                account_url="",
                slots=3,
                cores=node.cores,
                memory_bytes=node.memory,
                task_disk_bytes=node.task_disk,
                accounts=[NodeAccount("ada", True, 2000, 2001), NodeAccount("bob")],
            ),
        )
        joined = world.node(node.pk)
        assert (joined.root, joined.booted, joined.last_seen) == ("r", world.now, world.now)

    def test_of_a_low_priority_node_without_users(self, world: World) -> None:
        world.pool("pool", 0, targetLowPriorityNodes=1)
        world.capacity(2)
        [node] = world.nodes()
        answer = world.run(nodes.hear, node.pk, Sync(number=1), SETTING, world.now)
        assert answer is not None
        assert answer.setup is not None
        assert (answer.setup.is_dedicated, answer.setup.accounts) == (False, [])


class TestOrders:
    """A task as it was sent, with what its job says to all of its tasks."""

    def test_of_a_task(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job("Job", commonEnvironmentSettings=[{"name": "A", "value": "1"}])
        sent = {"commandLine": "echo $A", "resourceFiles": [{"httpUrl": "http://x/y", "filePath": "y"}],
                "environmentSettings": [{"name": "B", "value": "2"}]}  # fmt: skip
        world.add({"id": "T", **sent}, job_id="Job")
        world.schedule()
        name = world.attempt("T", "Job")
        [order] = ask(world, agent).orders
        assert (order.attempt, order.job_id, order.preparation_id, order.token) == (name, "Job", None, None)
        assert (order.after_others, order.start) == (False, False)
        assert msgspec.json.decode(order.environment) == [{"name": "A", "value": "1"}]
        told = task_of(order)
        assert {key: told[key] for key in ("id", *sent)} == {"id": "T", **sent}
        assert ask(world, agent).orders == [], "what it has, it is not told again"
        assert agent.has == [name]

    def test_of_special_tasks(self, world: World) -> None:
        [agent] = world.working_pool(startTask={"commandLine": "start", "environmentSettings": [{"name": "S", "value": "0"}]})
        special = {"resourceFiles": [{"httpUrl": "http://x/y", "filePath": "y"}], "environmentSettings": [{"name": "B", "value": "2"}]}
        prepare = {"id": "Before", "commandLine": "prepare", "constraints": {"maxTaskRetryCount": 2, "maxWallClockTime": "PT1H"}, **special}
        release = {"id": "After", "commandLine": "release", "maxWallClockTime": "PT5M", "retentionTime": "PT2H", **special}
        world.job("Job", commonEnvironmentSettings=[{"name": "A", "value": "1"}], jobPreparationTask=prepare, jobReleaseTask=release)
        agent.has = []
        [start] = ask(world, agent).orders
        assert (start.start, start.job_id, start.after_others, task_of(start)["commandLine"]) == (True, "", False, "start")
        agent.end(start.attempt)
        world.add("t", job_id="Job")
        world.schedule()
        [before] = (order for order in ask(world, agent).orders if not order.start)
        assert (before.job_id, before.preparation_id, before.after_others, before.start) == ("Job", None, False, False)
        assert msgspec.json.decode(before.environment) == [{"name": "A", "value": "1"}]
        constraints = {"maxTaskRetryCount": 2, "maxWallClockTime": "PT1H", "retentionTime": "P7D"}
        told = {"id": "Before", "commandLine": "prepare", **special, "userIdentity": IDENTITY, "constraints": constraints}
        assert task_of(before) == told
        answer = agent.end(before.attempt)
        assert answer is not None
        [task] = answer.orders
        assert (task.attempt, task.preparation_id) == (world.attempt("t", "Job"), "Before")
        agent.end(task.attempt)
        world.end_job("Job")
        world.upkeep()
        [after] = ask(world, agent).orders
        assert (after.job_id, after.preparation_id, after.after_others, after.start) == ("Job", "Before", True, False)
        constraints = {"maxWallClockTime": "PT5M", "retentionTime": "PT2H"}
        told = {"id": "After", "commandLine": "release", **special, "userIdentity": IDENTITY, "constraints": constraints}
        assert task_of(after) == told

    def test_a_node_that_waits_is_told_the_same_as_one_that_speaks(self, world: World) -> None:
        [agent] = world.working_pool(slots=2)
        world.job()
        world.add({"id": "a", **TOKEN}, "b")
        world.schedule()
        said = Sync(session=agent.session, number=agent.number + 1)
        waiting = world.run(nodes.present_orders, agent.node_pk, said, KEY)
        assert waiting is not None
        assert len(waiting.orders) == 2
        assert waiting == world.run(nodes.hear, agent.node_pk, said, SETTING, world.now)
        other = Sync(session=agent.session + 1, number=agent.number + 1)
        assert world.run(nodes.present_orders, agent.node_pk, other, KEY) is None
        with pytest.raises(NotThisNode):
            world.run(nodes.present_orders, agent.node_pk + 1, said, KEY)
        world.delete_pool()
        world.capacity()
        with pytest.raises(NotThisNode):
            world.run(nodes.present_orders, agent.node_pk, said, KEY)


class TestTokens:
    """What a node or a run of a task shows is good for that one; everything else opens nothing."""

    def test_a_nodes_token_is_good_for_that_node_alone(self) -> None:
        shown = nodes.token(KEY, 12)
        assert nodes.identify(KEY, shown) == 12
        assert nodes.identify(KEY, nodes.token(KEY, 10**18 - 1)) == 10**18 - 1
        signature = shown.partition(".")[2]
        others = [f"{pk}.{signature}" for pk in ("", "13", "²2", "+12", "012", "12.")]
        changed = ["", ".", "12", "12.", shown[:-1], f"{shown}0", f" {shown}", shown.upper()]
        for wrong in (*others, *changed, nodes.token(b"another", 12), nodes.token(KEY, 10**18)):
            with pytest.raises(NotThisNode):
                nodes.identify(KEY, wrong)

    def test_a_tasks_token_is_good_for_its_job_while_its_run_runs(self, world: World) -> None:
        [agent] = world.working_pool(slots=2)
        world.job("Job")
        world.add({"id": "t", "constraints": {"maxTaskRetryCount": 1}, **TOKEN}, "plain", job_id="Job")
        task, plain = world.task("t", "Job"), world.task("plain", "Job")

        def job_of(shown: str) -> tuple[str, int] | None:
            return world.run(nodes.job_of_token, KEY, shown)

        assert job_of(task_token(KEY, task.pk, 0)) is None
        assert job_of(task_token(KEY, task.pk, 1)) is None, "it waits"
        world.schedule()
        told = by_name(ask(world, agent))
        shown = told[world.attempt("t", "Job")].token
        assert shown is not None
        assert job_of(shown) == ("Job", task.pk)
        assert told[world.attempt("plain", "Job")].token is None
        assert job_of(task_token(KEY, plain.pk, 1)) is None, "it did not ask for one"
        kind, pk, run, signature = shown.split(".")
        heads = (f"node.{pk}.{run}", f"{kind}.{plain.pk}.{run}", f"{kind}.{pk}.2", f"{kind}.{pk}.", f"{kind}.x.{run}", f"{kind}.{pk}.²")
        others = [f"{head}.{signature}" for head in (*heads, f"{kind}.{'1' * 19}.{run}")]
        for wrong in (*others, "", "task", f"{kind}.{pk}.{run}.", f"{shown}0", shown[:-1], task_token(b"another", task.pk, 1)):
            assert job_of(wrong) is None, wrong
        agent.end(world.attempt("t", "Job"), **EXIT_1)
        world.schedule()
        assert job_of(shown) is None, "that run is over"
        again = by_name(ask(world, agent))[world.attempt("t", "Job")].token
        assert again is not None
        assert job_of(again) == ("Job", task.pk)
        agent.end(world.attempt("t", "Job"))
        assert job_of(again) is None, "the task is completed"
        world.delete("t", "Job")
        assert job_of(again) is None, "it is not there any more"

    def test_a_task_that_waits_for_its_node_has_none_yet(self, world: World) -> None:
        world.working_pool()
        world.job(jobPreparationTask={"commandLine": "true"})
        world.add({"id": "t", **TOKEN})
        world.schedule()
        task = world.task("t")
        assert task.state == "preparing"
        assert world.run(nodes.job_of_token, KEY, task_token(KEY, task.pk, task.run)) is None


class TestLinkedStorage:
    """Nodes get a URL that opens the one container that a task names; a task's token opens no more than its job does."""

    STORAGE = LinkedStorage("linked", "a2V5")
    FILES = ({"autoStorageContainerName": "data", "blobPrefix": "in/", "filePath": "d", "fileMode": "0700"},)

    def test_a_container_becomes_a_signed_url(self, world: World) -> None:
        [agent] = world.working_pool(slots=2)
        world.job()
        world.add({"id": "t", "resourceFiles": [*self.FILES, {"httpUrl": "http://x/y", "filePath": "y"}]}, "plain")
        world.schedule()
        answer = ask(world, agent)
        before = by_name(answer)[world.attempt("plain")]
        plain = bytes(before.task)
        linked_storage.open_to_node(answer.orders, self.STORAGE, "https://yard.example/", 1_700_000_000_000_000)
        told = task_of(by_name(answer)[world.attempt("t")])
        signed, other = told["resourceFiles"]
        url = urlsplit(signed.pop("storageContainerUrl"))
        assert signed == {"blobPrefix": "in/", "filePath": "d", "fileMode": "0700"}
        assert other == {"httpUrl": "http://x/y", "filePath": "y"}
        assert (url.scheme, url.netloc, url.path) == ("https", "yard.example", "/linked/data")
        query = {name: value for name, [value] in parse_qs(url.query).items()}
        assert (query["sr"], query["sp"], query["se"]) == ("c", "rl", "2023-11-15T22:13:20Z")
        made = sas.container_sas(
            "linked", "a2V5", "data", "rl", linked_storage.times.moment(1_700_000_000_000_000) + linked_storage.READABLE
        )
        assert query == {name: value for name, [value] in parse_qs(made).items()}
        assert bytes(by_name(answer)[world.attempt("plain")].task) == plain

    def test_a_token_opens_what_its_own_task_and_its_job_name(self, world: World) -> None:
        def of(container: str, prefix: str | None = None) -> dict[str, Any]:
            file = {"autoStorageContainerName": container, "filePath": "x"}
            return {"resourceFiles": [file if prefix is None else {**file, "blobPrefix": prefix}]}

        row = world.job(
            jobManagerTask={"id": "m", "commandLine": "true", **of("manager")},
            jobPreparationTask={"commandLine": "true", **of("prepares", "a/")},
            jobReleaseTask={"commandLine": "true", **of("releases")},
        )
        world.add({"id": "own", **of("own", "in/")}, {"id": "other", **of("other")}, "plain")
        parts = world.run(linked_storage.parts_for_task, row, world.task("own").pk)
        assert parts == {("manager", ""), ("prepares", "a/"), ("releases", ""), ("own", "in/")}
        assert ("own", "in/") not in world.run(linked_storage.parts_for_task, row, world.task("plain").pk)

        def check(container: str, prefix: str | None = None) -> None:
            sent = {"id": "new", "commandLine": "true", **of(container, prefix)}
            linked_storage.check_parts(msgspec.convert(sent, TaskCreateContent), parts)

        for allowed in (("manager", None), ("manager", "x"), ("prepares", "a/"), ("prepares", "a/b"), ("own", "in/c")):
            check(*allowed)
        for container, prefix in (("other", None), ("own", None), ("own", "i"), ("own", "out/"), ("prepares", "b"), ("x" * 70, None)):
            with pytest.raises(BatchError) as refused:
                check(container, prefix)
            assert (refused.value.code, refused.value.status) == ("Forbidden", 403)
            assert refused.value.values["PropertyName"] == "resourceFiles.autoStorageContainerName"
            assert refused.value.values["PropertyValue"] == container[:64]
            assert refused.value.values["Reason"].startswith("A task's token")
        linked_storage.check_parts(msgspec.convert({"id": "n", "commandLine": "true"}, TaskCreateContent), frozenset())
