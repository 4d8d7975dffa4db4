"""Changes of pools over the wire: patch, update properties, stop resize, remove nodes; no secret ever comes back (contract 1.6, 1.7)."""

from __future__ import annotations

import pytest
from azure.batch import BatchClient, models
from azure.core.exceptions import HttpResponseError
from tests.api.conftest import Json, Raw, Yard, machine, pool_body, unique

OTHER_TAG = "0x8D4BCC2E4835CD0"
METADATA = [{"name": "a", "value": "b"}]


def add(raw: Raw, **more: object) -> str:
    """A pool without nodes."""
    pool_id = unique("pool")
    added = raw("POST", "/pools", pool_body(pool_id, **more))
    assert added.status == 201, added.body
    return pool_id


def test_secrets_are_taken_and_never_served(raw: Raw) -> None:
    users = [{"name": "ada", "password": "p4ss-w0rd", "linuxUserConfiguration": {"uid": 5, "gid": 6, "sshPrivateKey": "k3y-of-ada"}}]
    extension = {"name": "e", "publisher": "p", "type": "t", "protectedSettings": {"a": "pr0tected"}}
    vm = pool_body("x")["virtualMachineConfiguration"] | {"extensions": [extension]}
    pool_id = add(raw, userAccounts=users, virtualMachineConfiguration=vm)
    assert raw("PATCH", f"/pools/{pool_id}", {"userAccounts": users}).status == 200
    for path in (f"/pools/{pool_id}", "/pools"):
        body = raw("GET", path).body
        assert b'"name":"ada"' in body
        assert b'"uid":5' in body
        for secret in (b"p4ss-w0rd", b"k3y-of-ada", b"pr0tected"):
            assert secret not in body


def test_a_patch_answers_with_the_new_tag(raw: Raw, yard: Yard) -> None:
    pool_id = add(raw)
    before = yard.steady(pool_id)
    answer = raw("PATCH", f"/pools/{pool_id}", {"metadata": METADATA, "taskSlotsPerNode": "3", "vmSize": "STANDARD_A1_v2"})
    assert (answer.status, answer.body) == (200, b"")
    after = yard.get(f"/pools/{pool_id}")
    changed = {"metadata": METADATA, "taskSlotsPerNode": 3, "vmSize": "standard_a1_v2"}
    assert after == before | changed | {"eTag": answer.headers["etag"], "lastModified": after["lastModified"]}
    assert after["eTag"] != before["eTag"]
    assert answer.headers["dataserviceid"] == f"{raw.endpoint}/pools/{pool_id}"


def test_update_properties_removes_what_is_absent(raw: Raw, yard: Yard) -> None:
    pool_id = add(raw, startTask={"commandLine": "true"}, metadata=METADATA)
    answer = raw("POST", f"/pools/{pool_id}/updateproperties", {"applicationPackageReferences": [], "metadata": []})
    assert (answer.status, answer.body) == (204, b"")
    pool = yard.get(f"/pools/{pool_id}")
    assert not {"startTask", "metadata", "applicationPackageReferences"} & set(pool)
    assert pool["eTag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "", {"metadata": METADATA}),
        ("POST", "/removenodes", {"nodeList": ["n"]}),
        ("POST", "/stopresize", None),
        ("POST", "/resize", {"targetDedicatedNodes": 0}),
    ],
)
def test_a_change_whose_condition_fails_changes_nothing(raw: Raw, yard: Yard, method: str, path: str, body: Json | None) -> None:
    pool_id = add(raw)
    before = yard.steady(pool_id)
    for headers in ({"If-Match": OTHER_TAG}, {"If-None-Match": "*"}, {"If-Unmodified-Since": "Tue, 02 Jan 2024 03:04:05 GMT"}):
        raw(method, f"/pools/{pool_id}{path}", body, headers=headers).assert_error(412, "ConditionNotMet")
    assert yard.get(f"/pools/{pool_id}") == before


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ({"vmSize": "standard_d3_v3"}, "InvalidPropertyValue", "vmSize"),
        ({"targetDedicatedNodes": 1}, "InvalidRequestBody", "targetDedicatedNodes"),
        ({"id": "x"}, "InvalidRequestBody", "id"),
        ({"startTask": {}}, "MissingRequiredProperty", "startTask.commandLine"),
        ({"mountConfiguration": [{}]}, "UnsupportedProperty", "mountConfiguration"),
        ({"metadata": 5}, "InvalidRequestBody", "metadata"),
    ],
)
def test_what_a_patch_may_not_say(raw: Raw, yard: Yard, change: Json, code: str, name: str) -> None:
    pool_id = add(raw)
    before = yard.steady(pool_id)
    values = raw("PATCH", f"/pools/{pool_id}", change).assert_error(400, code, PropertyName=name)
    assert values["Reason"]
    assert yard.get(f"/pools/{pool_id}") == before


@pytest.mark.parametrize("path", ["", "/updateproperties", "/stopresize", "/removenodes"])
def test_an_unknown_pool(raw: Raw, path: str) -> None:
    body = {"nodeList": ["n"]} if path == "/removenodes" else {}
    raw("POST" if path else "PATCH", f"/pools/{unique()}{path}", body).assert_error(404, "PoolNotFound")


@pytest.mark.parametrize(
    ("body", "code", "name"),
    [
        ({}, "MissingRequiredProperty", "nodeList"),
        ({"nodeList": []}, "InvalidPropertyValue", "nodeList"),
        ({"nodeList": ["n"] * 101}, "InvalidPropertyValue", "nodeList"),
        ({"nodeList": [5]}, "InvalidRequestBody", "nodeList[0]"),
        ({"nodeList": ["n"], "nodeDeallocationOption": "gently"}, "InvalidPropertyValue", "nodeDeallocationOption"),
    ],
)
def test_removals_that_are_refused(raw: Raw, yard: Yard, body: Json, code: str, name: str) -> None:
    pool_id = add(raw)
    yard.steady(pool_id)
    raw("POST", f"/pools/{pool_id}/removenodes", body).assert_error(400, code, PropertyName=name)
    raw("POST", f"/pools/{pool_id}/removenodes", {"nodeList": ["n"]}).assert_error(404, "NodeNotFound", NodeId="n")


def test_windows_gets_the_services_allocation_error(batch: BatchClient, yard: Yard) -> None:
    image = models.BatchVmImageReference(publisher="microsoftwindowsserver", offer="windowsserver", sku="2022-datacenter", version="latest")
    windows = models.VirtualMachineConfiguration(
        image_reference=image,
        node_agent_sku_id="batch.node.windows amd64",
        windows_configuration=models.WindowsConfiguration(enable_automatic_updates=False),
    )
    pool_id = unique("pool")
    batch.create_pool(
        models.BatchPoolCreateOptions(
            id=pool_id,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=windows,
            target_dedicated_nodes=1,
            user_accounts=[models.UserAccount(name="ada", password="x")],
        )
    )
    yard.steady(pool_id)
    pool = batch.get_pool(pool_id)
    [error] = pool.resize_errors or []
    assert error.code == "AllocationFailed"
    assert "Windows" in {detail.name: detail.value or "" for detail in error.error_values or []}["ProviderErrorJson"]
    [user] = pool.user_accounts or []
    assert user.password is None
    assert user.windows_user_configuration is not None
    assert user.windows_user_configuration.login_mode == "batch"
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()


def test_a_pool_with_everything_comes_back_through_the_sdk(batch: BatchClient) -> None:
    pool_id = unique("pool")
    rich = machine()
    rich.data_disks = [models.DataDisk(logical_unit_number=0, disk_size_gb=5)]
    rich.extensions = [models.VMExtension(name="e", publisher="p", type="t", settings={"a": "b"})]
    batch.create_pool(
        models.BatchPoolCreateOptions(
            id=pool_id,
            vm_size="standard_e4-2s_v5",
            virtual_machine_configuration=rich,
            target_low_priority_nodes=0,
            start_task=models.BatchStartTask(command_line="true", max_task_retry_count=2, wait_for_success=False),
            user_accounts=[
                models.UserAccount(
                    name="ada", password="x", elevation_level="admin", linux_user_configuration=models.LinuxUserConfiguration(uid=7, gid=8)
                )
            ],
            network_configuration=models.NetworkConfiguration(subnet_id="/subscriptions/s"),
            enable_inter_node_communication=True,
            upgrade_policy=models.UpgradePolicy(mode="manual"),
            task_slots_per_node=8,
        )
    )
    pool = batch.get_pool(pool_id)
    assert pool.start_task is not None
    assert (pool.start_task.max_task_retry_count, pool.start_task.wait_for_success) == (2, False)
    assert pool.user_accounts is not None
    assert pool.user_accounts[0].linux_user_configuration == models.LinuxUserConfiguration(uid=7, gid=8)
    assert pool.network_configuration == models.NetworkConfiguration(subnet_id="/subscriptions/s")
    assert pool.virtual_machine_configuration is not None
    assert pool.virtual_machine_configuration.data_disks == rich.data_disks
    assert pool.virtual_machine_configuration.extensions == rich.extensions
    assert (pool.upgrade_policy, pool.enable_inter_node_communication) == (models.UpgradePolicy(mode="manual"), True)
    patch = models.BatchPoolUpdateOptions(start_task=models.BatchStartTask(command_line="false"), display_name="x", task_slots_per_node=1)
    batch.update_pool(pool_id, patch)
    pool = batch.get_pool(pool_id)
    assert pool.start_task is not None
    assert (pool.start_task.command_line, pool.start_task.max_task_retry_count, pool.display_name) == ("false", 0, "x")
    packages = [models.BatchApplicationPackageReference(application_id="blender")]
    with pytest.raises(HttpResponseError) as refused:
        batch.update_pool(pool_id, models.BatchPoolUpdateOptions(application_package_references=packages))
    assert refused.value.error is not None
    assert "InvalidApplicationPackageReferences" in str(refused.value)
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()
