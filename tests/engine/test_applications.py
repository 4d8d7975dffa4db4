"""Applications and their packages: rows, references of pools and tasks, and which package a node is told of (contract 4.6)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import World
from msgspec import UNSET

from batchyard.engine.pools import pools
from batchyard.engine.work import applications
from batchyard.model.application import ApplicationPatch, ApplicationPut
from batchyard.model.errors import BatchError
from batchyard.model.pool import PoolPatch
from batchyard.model.sync import Package


def add(world: World, application: str, version: str, blob: str | None = None) -> str | None:
    """Add a package; the blob that it replaced."""
    blob = blob or f"{application}/{version}/0123.zip"
    return world.run(applications.add_package, application, version, blob, 7, world.now)[1]


def patch(world: World, application: str, **changes: Any) -> None:
    world.run(applications.patch, application, ApplicationPatch(**changes), world.now)


def refused(world: World, use: Any, *args: Any) -> BatchError:
    with pytest.raises(BatchError) as error:
        world.run(use, *args)
    return error.value


def ordered(world: World, references: list[dict[str, str]], task_id: str = "t") -> list[Package]:
    """The packages that the order of a task names."""
    [agent] = world.working_pool(pool_id=f"pool-{task_id}")
    world.job(f"job-{task_id}", pool_id=f"pool-{task_id}")
    world.add({"id": task_id, "applicationPackageReferences": references}, job_id=f"job-{task_id}")
    world.schedule()
    answer = agent.sync()
    assert answer is not None
    [order] = answer.orders
    return order.packages


def test_an_application_is_made_with_its_first_package_and_has_no_default_by_itself(world: World) -> None:
    assert add(world, "Blender", "2.7") is None
    assert add(world, "BLENDER", "2.8") is None
    row, packages = world.run(applications.get, "blender")
    assert (row.id, row.default_version, [each.name for each in packages]) == ("Blender", None, ["2.7", "2.8"])
    patch(world, "blender", default_version="2.8")
    assert world.run(applications.get, "blender")[0].default_version == "2.8"
    patch(world, "blender", display_name="The Blender")
    assert world.run(applications.get, "blender")[0].default_version == "2.8", "what is not sent is kept"
    patch(world, "blender", default_version=None)
    assert world.run(applications.get, "blender")[0].default_version is None


def test_a_package_is_replaced_unless_the_application_forbids_it(world: World) -> None:
    add(world, "a", "1", "first")
    assert add(world, "a", "1", "second") == "first"
    patch(world, "a", allow_updates=False)
    for use in ((applications.add_package, "a", "1", "third", 1, world.now), (applications.delete_package, "a", "1", world.now)):
        assert refused(world, *use).code == "OperationInvalidForCurrentState"
    assert refused(world, applications.delete, "a", world.now).code == "OperationInvalidForCurrentState"
    assert add(world, "a", "2") is None, "another version may still be added"
    assert [each.blob for each in world.run(applications.get, "a")[1]] == ["second", "a/2/0123.zip"]


def test_what_is_deleted_is_gone_with_its_packages_and_is_no_default_any_more(world: World) -> None:
    add(world, "a", "1", "one")
    add(world, "a", "2", "two")
    patch(world, "a", default_version="2")
    assert world.run(applications.delete_package, "a", "2", world.now) == "two"
    assert world.run(applications.get, "a")[0].default_version is None
    assert refused(world, applications.delete_package, "a", "2", world.now).code == "ResourceNotFound"
    assert world.run(applications.delete, "a", world.now) == ["one"]
    for use in (applications.get, applications.usable):
        assert refused(world, use, "a").code == "ApplicationNotFound"


def test_there_are_so_many_applications_and_packages(world: World) -> None:
    for n in range(40):
        add(world, "a", str(n))
    assert (
        refused(world, applications.add_package, "a", "40", "b", 1, world.now).values["Reason"].startswith("An application has at most 40")
    )
    assert add(world, "a", "39", "again"), "one that is there may still be replaced"
    for n in range(19):
        world.run(applications.put, f"b{n}", ApplicationPut(), world.now)
    assert refused(world, applications.put, "c", ApplicationPut(), world.now).values["Reason"].startswith("An account has at most 20")
    assert refused(world, applications.add_package, "c", "1", "b", 1, world.now).code == "OperationInvalidForCurrentState"


@pytest.mark.parametrize(("application", "version"), [("a/b", "1"), ("..", "1"), ("", "1"), ("a", "1/2"), ("a", "x" * 65), ("a.b", "1")])
def test_names_that_none_may_have(world: World, application: str, version: str) -> None:
    assert refused(world, applications.add_package, application, version, "b", 1, world.now).code == "InvalidPropertyValue"


def test_the_default_must_be_there(world: World) -> None:
    add(world, "a", "1")
    error = refused(world, applications.patch, "a", ApplicationPatch(default_version="2", display_name=UNSET), world.now)
    assert (error.code, error.values["PropertyName"]) == ("InvalidPropertyValue", "defaultVersion")


def test_the_data_plane_lists_only_what_has_a_package(world: World) -> None:
    world.run(applications.put, "empty", ApplicationPut(display_name="Nothing yet"), world.now)
    add(world, "full", "1")
    assert [row.id for row, _ in world.run(applications.page, 0, 10, usable=True)] == ["full"]
    assert [row.id for row, _ in world.run(applications.page, 0, 10, usable=False)] == ["empty", "full"]
    assert refused(world, applications.usable, "empty").code == "ApplicationNotFound"


def test_a_pool_may_name_only_packages_that_are_there(world: World) -> None:
    add(world, "a", "1")
    there = [{"applicationId": "A", "version": "1"}]
    full = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/x/applications/a"
    for missing in ([{"applicationId": "b"}], [{"applicationId": "a"}], [{"applicationId": "a", "version": "2"}]):
        with pytest.raises(BatchError) as error:
            world.pool("p", applicationPackageReferences=missing)
        assert (error.value.status, error.value.code) == (409, "InvalidApplicationPackageReferences")
        assert error.value.values == {missing[0]["applicationId"]: "The specified application package does not exist."}
    world.pool("p", applicationPackageReferences=there)
    world.pool("q", applicationPackageReferences=[{"applicationId": full, "version": "1"}])
    patch(world, "a", default_version="1")
    world.pool("r", applicationPackageReferences=[{"applicationId": "a"}])


def test_a_node_that_joins_is_told_of_its_pools_packages(world: World) -> None:
    add(world, "A", "1", "A/1/77.zip")
    patch(world, "a", default_version="1")
    [agent] = world.working_pool(applicationPackageReferences=[{"applicationId": "a"}, {"applicationId": "a", "version": "1"}])
    agent.join()
    assert agent.setup is not None
    first, second = agent.setup.packages
    assert (first.application, first.asked, first.directory, first.blob, first.bytes) == ("a", None, "a-1-77", "A/1/77.zip", 7)
    assert (second.asked, second.directory) == ("1", "a-1-77"), "the same content is one directory"


def test_the_default_version_is_that_of_the_moment_in_which_the_node_is_told(world: World) -> None:
    add(world, "a", "1", "a/1/x1.zip")
    add(world, "a", "2", "a/2/x2.zip")
    patch(world, "a", default_version="1")
    assert [each.directory for each in ordered(world, [{"applicationId": "a"}], "s")] == ["a-1-x1"]
    patch(world, "a", default_version="2")
    both = ordered(world, [{"applicationId": "a"}, {"applicationId": "a", "version": "1"}])
    assert [each.directory for each in both] == ["a-2-x2", "a-1-x1"]


def test_a_package_that_is_not_there_is_no_secret_of_the_order(world: World) -> None:
    [missing] = ordered(world, [{"applicationId": "nobody", "version": "1"}])
    assert (missing.application, missing.asked, missing.directory, missing.blob) == ("nobody", "1", "", "")
    assert ordered(world, [], "u") == []


def test_a_job_manager_has_packages_too(world: World) -> None:
    add(world, "a", "1", "a/1/x.zip")
    [agent] = world.working_pool()
    world.job(jobManagerTask={"id": "m", "commandLine": "c", "applicationPackageReferences": [{"applicationId": "a", "version": "1"}]})
    world.schedule()
    answer = agent.sync()
    assert answer is not None
    assert [each.directory for each in answer.orders[0].packages] == ["a-1-x"]
    assert msgspec.json.decode(answer.orders[0].task)["applicationPackageReferences"] == [{"applicationId": "a", "version": "1"}]


def test_a_pool_keeps_what_it_named_and_what_it_names_anew_is_looked_at(world: World) -> None:
    add(world, "a", "1")
    row = world.pool("p", applicationPackageReferences=[{"applicationId": "a", "version": "1"}])
    world.run(applications.delete, "a", world.now)
    world.run(pools.patch, row, PoolPatch(metadata=[]), world.now)
    fresh = world.pool_row("p")
    assert fresh is not None
    again = msgspec.convert({"applicationPackageReferences": [{"applicationId": "a", "version": "1"}]}, PoolPatch)
    with pytest.raises(BatchError, match="InvalidApplicationPackageReferences"):
        world.run(pools.patch, fresh, again, world.now)
