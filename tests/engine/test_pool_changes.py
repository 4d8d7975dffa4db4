"""Pools: what is kept of what a client sends, patch, update properties, quotas, images, older names (contract 1.7, 4.4, 7.2, A.1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import MACHINE, OFFER, World

from batchyard.engine.pools import pools
from batchyard.model.errors import BatchError
from batchyard.model.pool import PoolPatch, PoolUpdateProperties
from batchyard.rules.offer import Offer, Quotas

USER = {"name": "ada", "password": "very-secret", "elevationLevel": "admin"}
WINDOWS = {"imageReference": {"publisher": "MicrosoftWindowsServer", "offer": "WindowsServer", "sku": "2022-datacenter"},
           "nodeAgentSKUId": "batch.node.windows amd64"}  # fmt: skip


def body(world: World, pool_id: str = "pool") -> dict[str, Any]:
    row = world.pool_row(pool_id)
    assert row is not None
    found: dict[str, Any] = msgspec.json.decode(row.body)
    return found


def patch(world: World, **changes: Any) -> None:
    sent = msgspec.convert(changes, PoolPatch)
    world.run(lambda tx: pools.patch(tx, pools.open_pool(tx, "pool"), sent, world.now, world.offer))


def update(world: World, **changes: Any) -> None:
    sent = msgspec.convert(changes, PoolUpdateProperties)
    world.run(lambda tx: pools.update_properties(tx, pools.open_pool(tx, "pool"), sent, world.now, world.offer))


def refusal(call: Any, *args: Any, **more: Any) -> BatchError:
    with pytest.raises(BatchError) as refused:
        call(*args, **more)
    return refused.value


class TestWhatIsKept:
    """Everything that is accepted comes back, but for secrets."""

    def test_all_that_a_pool_may_say(self, world: World) -> None:
        machine = MACHINE | {
            "dataDisks": [{"lun": 0, "diskSizeGB": 10, "caching": "readonly"}, {"lun": 63, "diskSizeGB": 1}],
            "osDisk": {"ephemeralOSDiskSettings": {"placement": "cachedisk"}},
            "licenseType": "none", "nodePlacementConfiguration": {"policy": "zonal"},
            "diskEncryptionConfiguration": {"targets": ["osdisk"]}, "securityProfile": {"encryptionAtHost": True},
            "extensions": [{"name": "e", "publisher": "p", "type": "t", "settings": {"a": 1}, "protectedSettings": {"key": "very-secret"}}],
        }  # fmt: skip
        nat = {"name": "web", "protocol": "tcp", "backendPort": 80, "frontendPortRangeStart": 1, "frontendPortRangeEnd": 40,
               "networkSecurityGroupRules": [{"priority": 150, "access": "allow", "sourceAddressPrefix": "*"}]}  # fmt: skip
        given: dict[str, Any] = {
            "displayName": "all of it", "resourceTags": {"cost": "centre"}, "applicationLicenses": ["maya"],
            "targetNodeCommunicationMode": "simplified", "enableInterNodeCommunication": True,
            "networkConfiguration": {"subnetId": "/subscriptions/s", "dynamicVNetAssignmentScope": "none",
                                     "endpointConfiguration": {"inboundNATPools": [nat]}, "enableAcceleratedNetworking": True},
            "upgradePolicy": {"mode": "rolling", "rollingUpgradePolicy": {"maxBatchInstancePercent": 20}},
            "metadata": [{"name": "a", "value": "b"}], "taskSchedulingPolicy": {"nodeFillType": "pack", "jobDefaultOrder": "creationtime"},
        }  # fmt: skip
        world.pool("pool", virtualMachineConfiguration=machine, **given)
        kept = body(world)
        assert {name: kept[name] for name in given} == given
        del machine["extensions"][0]["protectedSettings"]
        image = machine.pop("imageReference") | {"version": "latest"}
        assert kept["virtualMachineConfiguration"] == machine | {"imageReference": image}

    def test_secrets_are_not_stored_and_what_agents_need_is(self, world: World) -> None:
        linux = {"uid": 2000, "gid": 2001, "sshPrivateKey": "very-secret"}
        world.pool("pool", userAccounts=[USER | {"linuxUserConfiguration": linux}, {"name": "bob", "password": "very-secret"}])
        assert body(world)["userAccounts"] == [
            {"name": "ada", "elevationLevel": "admin", "linuxUserConfiguration": {"uid": 2000, "gid": 2001}},
            {"name": "bob", "elevationLevel": "nonadmin"},
        ]
        assert "very-secret" not in str(world.rows("SELECT * FROM pool")) + str(world.rows("SELECT * FROM event"))
        patch(world, userAccounts=[USER])
        assert body(world)["userAccounts"] == [{"name": "ada", "elevationLevel": "admin"}]
        patch(world, metadata=[{"name": "a", "value": "b"}])
        assert body(world)["userAccounts"] == [{"name": "ada", "elevationLevel": "admin"}], "its password need not be said again"

    def test_a_start_task_gets_its_defaults(self, world: World) -> None:
        world.pool("pool", startTask={"commandLine": "true"})
        assert body(world)["startTask"] == {
            "commandLine": "true", "maxTaskRetryCount": 0, "waitForSuccess": True,
            "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
        }  # fmt: skip

    def test_empty_collections_are_left_out(self, world: World) -> None:
        names = ("metadata", "userAccounts", "applicationPackageReferences", "certificateReferences", "mountConfiguration")
        world.pool("pool", **{name: [] for name in names})
        assert not set(names) & set(body(world))

    def test_the_smallest_ids_of_linux(self, world: World) -> None:
        world.pool("pool", userAccounts=[USER | {"linuxUserConfiguration": {"uid": 1, "gid": 1}}])
        assert body(world)["userAccounts"][0]["linuxUserConfiguration"] == {"uid": 1, "gid": 1}

    def test_windows_users(self, world: World) -> None:
        world.pool("pool", virtualMachineConfiguration=WINDOWS, userAccounts=[USER])
        assert body(world)["userAccounts"][0]["windowsUserConfiguration"] == {"loginMode": "batch"}


def rules(*priorities: int) -> dict[str, Any]:
    return {"networkSecurityGroupRules": [{"priority": one, "access": "deny", "sourceAddressPrefix": "*"} for one in priorities]}


def nat(*pools: dict[str, Any]) -> dict[str, Any]:
    first = {"protocol": "tcp", "backendPort": 80, "frontendPortRangeStart": 100, "frontendPortRangeEnd": 200}
    made = [first | {"name": f"n{number}"} | one for number, one in enumerate(pools)]
    return {"networkConfiguration": {"endpointConfiguration": {"inboundNATPools": made}}}


def machine(**more: Any) -> dict[str, Any]:
    return {"virtualMachineConfiguration": MACHINE | more}


def image(**reference: Any) -> dict[str, Any]:
    return machine(imageReference=reference)


NAMED = {"publisher": "a", "offer": "b", "sku": "c"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"vmSize": "standard_d3_v3"}, "vmSize"),
    ({"vmSize": "standard_d2s_v3", "taskSlotsPerNode": 9}, "taskSlotsPerNode"),
    (machine(nodeAgentSKUId="batch.node.beos 5"), "nodeAgentSKUId"),
    (image(**NAMED, virtualMachineImageId="x"), "imageReference"),
    (image(virtualMachineImageId="x", sharedGalleryImageId="y"), "imageReference"),
    (image(), "imageReference"),
    (image(publisher="a", offer="b"), "imageReference.sku"),
    (image(**NAMED, exactVersion="1"), "imageReference.exactVersion"),
    (machine(windowsConfiguration={}), "windowsConfiguration"),
    (machine(dataDisks=[{"lun": 64, "diskSizeGB": 1}]), "dataDisks.lun"),
    (machine(dataDisks=[{"lun": 1, "diskSizeGB": 1}] * 2), "dataDisks.lun"),
    (machine(dataDisks=[{"lun": 1, "diskSizeGB": 0}]), "dataDisks.diskSizeGB"),
    (machine(extensions=[{"name": "a", "publisher": "p", "type": "t"}] * 2), "extensions.name"),
    (machine(containerConfiguration={"type": "dockerCompatible", "containerImageNames": ["No Image"]}), "containerImageNames"),
    ({"cloudServiceConfiguration": {"osFamily": "4"}}, "cloudServiceConfiguration"),
    ({"certificateReferences": [{"thumbprint": "a", "thumbprintAlgorithm": "sha1"}]}, "certificateReferences"),
    ({"mountConfiguration": [{"nfsMountConfiguration": {"source": "a", "relativeMountPath": "b"}}]}, "mountConfiguration"),
    ({"startTask": {"commandLine": " "}}, "commandLine"),
    ({"startTask": {"commandLine": "true", "maxTaskRetryCount": -2}}, "maxTaskRetryCount"),
    ({"startTask": {"commandLine": "x" * 33_000}}, "startTask"),
    ({"startTask": {"commandLine": "true", "containerSettings": {"imageName": "a"}}}, "startTask.containerSettings"),
    ({"startTask": {"commandLine": "true", "resourceFiles": [{"httpUrl": "u", "filePath": "../x"}]}}, "filePath"),
    ({"startTask": {"commandLine": "true", "environmentSettings": [{"name": "a=b"}]}}, "environmentSettings"),
    ({"userAccounts": [USER, USER | {"name": "ADA"}]}, "userAccounts.name"),
    ({"userAccounts": [USER | {"name": "x" * 21}]}, "userAccounts.name"),
    ({"userAccounts": [USER | {"name": "../ada"}]}, "userAccounts.name"),
    ({"userAccounts": [{"name": "ada"}]}, "userAccounts.password"),
    ({"userAccounts": [USER | {"linuxUserConfiguration": {"uid": 5}}]}, "userAccounts.linuxUserConfiguration"),
    ({"userAccounts": [USER | {"linuxUserConfiguration": {"uid": 0, "gid": 5}}]}, "userAccounts.linuxUserConfiguration.uid"),
    ({"userAccounts": [USER | {"windowsUserConfiguration": {}}]}, "userAccounts.windowsUserConfiguration"),
    (nat(*[{}] * 6), "inboundNATPools"),
    (nat({"name": "x" * 78}), "inboundNATPools.name"),
    (nat({"name": "a"}, {"name": "A", "backendPort": 81}), "inboundNATPools.name"),
    (nat({}, {}), "inboundNATPools.backendPort"),
    (nat({"backendPort": 29876}), "inboundNATPools.backendPort"),
    (nat({"backendPort": 0}), "inboundNATPools.backendPort"),
    (nat({"frontendPortRangeStart": 0}), "inboundNATPools.frontendPortRangeStart"),
    (nat({"frontendPortRangeEnd": 65_535}), "inboundNATPools.frontendPortRangeEnd"),
    (nat({"frontendPortRangeStart": 49_000, "frontendPortRangeEnd": 50_000}), "inboundNATPools.frontendPortRangeStart"),
    (nat({"frontendPortRangeEnd": 138}), "inboundNATPools.frontendPortRangeEnd"),
    (nat({}, {"backendPort": 81, "frontendPortRangeStart": 200, "frontendPortRangeEnd": 300}), "inboundNATPools.frontendPortRangeStart"),
    (nat(rules(149)), "networkSecurityGroupRules.priority"),
    (nat(rules(150, 150)), "networkSecurityGroupRules.priority"),
    (nat(rules(*range(150, 176))), "networkSecurityGroupRules"),
    ({"upgradePolicy": {"mode": "rolling", "rollingUpgradePolicy": {"maxBatchInstancePercent": 4}}},
     "rollingUpgradePolicy.maxBatchInstancePercent"),
    ({"upgradePolicy": {"mode": "automatic", "automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True}},
      "virtualMachineConfiguration": WINDOWS | {"windowsConfiguration": {"enableAutomaticUpdates": True}}},
     "automaticOSUpgradePolicy.enableAutomaticOSUpgrade"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "name"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_refused_names_the_property_and_adds_nothing(world: World, sent: dict[str, Any], name: str) -> None:
    error = refusal(world.pool, **sent)
    assert (error.status, error.values["PropertyName"]) == (400, name)
    assert error.values["Reason"]
    assert world.pool_row() is None


def test_packages_that_do_not_exist(world: World) -> None:
    references = [{"applicationId": "message", "version": "1"}, {"applicationId": "blender"}]
    error = refusal(world.pool, applicationPackageReferences=references)
    assert (error.status, error.code) == (409, "InvalidApplicationPackageReferences")
    assert error.values == dict.fromkeys(("message", "blender"), "The specified application package does not exist.")
    assert refusal(world.pool, applicationPackageReferences=references * 6).code == "InvalidPropertyValue"


class TestPatch:
    """What is named is replaced whole, what is not named stays."""

    def test_in_every_state(self, world: World) -> None:
        world.working_pool(metadata=[{"name": "a", "value": "b"}])
        world.advance(1)
        patch(world, startTask={"commandLine": "one", "maxTaskRetryCount": 3})
        kept = body(world)
        assert (kept["startTask"]["maxTaskRetryCount"], kept["metadata"]) == (3, [{"name": "a", "value": "b"}])
        row = world.pool_row()
        assert row is not None
        assert row.modified == world.now
        patch(world, startTask={"commandLine": "two"}, metadata=None)
        assert body(world)["startTask"]["maxTaskRetryCount"] == 0, "unspecified members fall to their defaults"
        assert "metadata" in body(world), "null is as absent"
        patch(world, metadata=[])
        assert "metadata" not in body(world)
        assert body(world)["startTask"]["commandLine"] == "two"

    def test_what_nodes_are_made_from_changes_only_without_nodes(self, world: World) -> None:
        world.working_pool(slots=2)
        changes: dict[str, Any] = {
            "displayName": "other", "vmSize": "Standard_D4s_v3", "virtualMachineConfiguration": MACHINE, "taskSlotsPerNode": 16,
            "taskSchedulingPolicy": {"nodeFillType": "pack"}, "networkConfiguration": {"enableAcceleratedNetworking": True},
            "userAccounts": [USER], "enableInterNodeCommunication": True, "upgradePolicy": {"mode": "manual"},
            "targetNodeCommunicationMode": "classic",
        }  # fmt: skip
        before = body(world)
        for name, value in changes.items():
            error = refusal(patch, world, **{name: value})
            assert (error.status, error.code) == (409, "OperationNotValidOnPool")
            assert name in error.values["Reason"]
        assert body(world) == before
        world.resize(0)
        world.capacity(3)
        patch(world, **changes)
        row = world.pool_row()
        assert row is not None
        assert (row.slots_per_node, row.pack) == (16, 1)
        kept = body(world)
        assert (kept["vmSize"], kept["displayName"], kept["targetNodeCommunicationMode"]) == ("standard_d4s_v3", "other", "classic")
        assert kept["userAccounts"] == [{"name": "ada", "elevationLevel": "admin"}]
        world.resize(1)
        world.capacity(2)
        [node] = world.nodes()
        assert node.slots == 16
        patch(world, targetNodeCommunicationMode="classic")

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"vmSize": "standard_d2s_v3", "taskSlotsPerNode": 9}, "taskSlotsPerNode"),
            ({"vmSize": "none"}, "vmSize"),
            ({"userAccounts": [{"name": "ada"}]}, "userAccounts.password"),
            ({"startTask": {"commandLine": ""}}, "commandLine"),
            ({"certificateReferences": [{"thumbprint": "a", "thumbprintAlgorithm": "sha1"}]}, "certificateReferences"),
        ],
    )
    def test_what_is_refused_changes_nothing(self, world: World, change: dict[str, Any], name: str) -> None:
        world.pool()
        before = world.rows("SELECT * FROM pool")
        assert refusal(patch, world, **change).values["PropertyName"] == name
        assert world.rows("SELECT * FROM pool") == before

    def test_a_size_that_is_no_longer_offered_hinders_only_its_own_change(self, world: World) -> None:
        world.pool()
        world.offer = Offer()
        patch(world, metadata=[{"name": "a", "value": "b"}])
        assert refusal(patch, world, taskSlotsPerNode=2).values["PropertyName"] == "vmSize"


def test_update_properties_replaces_all_three(world: World) -> None:
    world.pool("pool", startTask={"commandLine": "a"}, metadata=[{"name": "a", "value": "b"}], targetNodeCommunicationMode="simplified")
    update(world, metadata=[{"name": "c", "value": "d"}], applicationPackageReferences=[], certificateReferences=[])
    kept = body(world)
    assert (kept["metadata"], kept["targetNodeCommunicationMode"]) == ([{"name": "c", "value": "d"}], "simplified")
    assert not {"startTask", "applicationPackageReferences", "certificateReferences"} & set(kept)
    update(world)
    assert "metadata" not in body(world)


def test_the_pool_quota() -> None:
    world = World(offer=msgspec.structs.replace(OFFER, quotas=Quotas(pools=2)))
    try:
        world.pool("one")
        world.pool("two")
        assert refusal(world.pool, "three").code == "PoolQuotaReached"
        assert refusal(world.pool, "one").code == "PoolExists"
        world.delete_pool("one")
        assert refusal(world.pool, "three").code == "PoolQuotaReached", "until it is gone"
        world.capacity(2)
        world.pool("three")
    finally:
        world.close()


def test_the_quota_of_active_jobs(world: World) -> None:
    def add(job_id: str) -> None:
        world.offer = msgspec.structs.replace(OFFER, quotas=Quotas(active_jobs=2))
        world.job(job_id)

    add("a")
    add("b")
    assert refusal(add, "c").code == "ActiveJobAndScheduleQuotaReached"
    assert refusal(add, "a").code == "JobExists"
    world.end_job("a")
    world.upkeep()
    add("c")


def test_administrators_are_the_users_with_that_elevation(world: World) -> None:
    world.job()
    assert world.run(pools.administrators_of, "job") == frozenset(), "its pool is not there yet"
    others = [{"name": "bob", "password": "p"}, {"name": "cy", "password": "p", "elevationLevel": "nonadmin"}]
    world.pool(userAccounts=[USER, *others, {"name": "Dee", "password": "p", "elevationLevel": "admin"}])
    assert world.run(pools.administrators_of, "JOB") == {"ada", "Dee"}
    world.pool("other")
    world.job("second", pool_id="other")
    assert world.run(pools.administrators_of, "second") == frozenset()
    assert refusal(world.run, pools.administrators_of, "none").code == "JobNotFound"
