"""Nodes through their life, as a client of the newer SDK sees them: start task, tasks, reboot, reimage, deallocate, preemption, removal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from azure.batch import models
from azure.batch.models._models import (  # not exported by 15.1.0
    BatchNodeDeallocateOptions,
    BatchNodeDisableSchedulingOptions,
    BatchNodeRebootOptions,
    BatchNodeReimageOptions,
)
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from tests.api.conftest import Json, Raw, Sdk, Still, Yard, pool_body, sh, task, unique
from tests.conftest import Server, wait_for

from batchyard.model.states import NodeState
from batchyard.model.sync import NodeFacts
from batchyard.rules.transitions import NODE, NodeHappened


def add_pool(raw: Raw, **more: object) -> str:
    pool_id = unique("nodes")
    added = raw("POST", "/pools", pool_body(pool_id, **{"targetDedicatedNodes": 1, "taskSlotsPerNode": 2, **more}))
    assert added.status == 201, added.body
    return pool_id


def node_of(raw: Raw, pool_id: str, *states: str) -> Json:
    """The pool's only node once it is in one of the states."""

    def look() -> Json | None:
        nodes = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
        return nodes[0] if nodes and nodes[0]["state"] in states else None

    return wait_for(look, f"the node of {pool_id} to be {' or '.join(states)}")


def about(raw: Raw, pool_id: str, node_id: str) -> Json:
    return raw("GET", f"/batchyard/pools/{pool_id}/nodes/{node_id}").json


def went_through(raw: Raw, pool_id: str, node_id: str) -> list[str]:
    """States of the node from its first on; every step is one of the table's."""
    events = [event for event in about(raw, pool_id, node_id)["events"] if event.get("new")]
    for event in events[1:]:
        assert NODE.after(NodeState(event["old"]), NodeHappened(event["happened"])) == event["new"], event
    return [event["new"] for event in events]


@pytest.fixture
def own(raw: Raw) -> Iterator[Yard]:
    """Jobs on a pool with one node of this test's own, without a start task."""
    pool_id = add_pool(raw)
    node_of(raw, pool_id, "idle")
    made = Yard(raw, pool_id)
    yield made
    for job_id in made.jobs:
        raw("DELETE", f"/jobs/{job_id}", query="force=true")
    raw("DELETE", f"/pools/{pool_id}")
    made.gone(f"/pools/{pool_id}")


class Gate:
    """A start task that waits until the test lets it go, and notes each of its starts in a file that stays on the node."""

    script = "echo started >>$AZ_BATCH_NODE_SHARED_DIR/starts; until test -e $AZ_BATCH_NODE_SHARED_DIR/go; do sleep 0.02; done"

    def __init__(self, server: Server, raw: Raw) -> None:
        start = {"commandLine": sh(self.script), "userIdentity": {"autoUser": {"elevationLevel": "admin"}}}
        self.raw, self.pool_id = raw, add_pool(raw, startTask=start)
        self.node_id = node_of(raw, self.pool_id, "waitingforstarttask")["id"]
        self.shared = server.directory / "nodes" / self.node_id / "root" / "shared"

    def open(self) -> None:
        """Let the start task that runs end."""
        node_of(self.raw, self.pool_id, "waitingforstarttask")
        go = self.shared / "go"
        go.touch()
        node_of(self.raw, self.pool_id, "idle", "running")
        go.unlink()

    def starts(self) -> int:
        """How often the start task was started since the node was set up."""
        return len((self.shared / "starts").read_text().split())


def test_a_node_from_its_start_task_to_its_removal(server: Server, raw: Raw, sdk: Sdk) -> None:
    """Each state that lasts until the test goes on is read by the SDK; the log has all of them, in order."""
    batch, gate = sdk.client, Gate(server, raw)
    pool_id, node_id = gate.pool_id, gate.node_id
    job_id = Yard(raw, pool_id).job(task("a"))
    node = batch.get_node(pool_id, node_id)
    assert (node.state, node.scheduling_state) == ("waitingforstarttask", "enabled")
    assert node.start_task is not None
    assert node.start_task.command_line == sh(gate.script)
    assert node.start_task_info is not None
    assert (node.start_task_info.state, node.start_task_info.retry_count) == ("running", 0)
    assert batch.get_task(job_id, "a").state == "active"
    gate.open()
    Yard(raw, pool_id).reached(job_id, "a")
    info = batch.get_node(pool_id, node_id).start_task_info
    assert info is not None
    assert (info.state, info.exit_code, info.result) == ("completed", 0, "success")
    node_of(raw, pool_id, "idle")
    _restarts(gate, sdk)
    first, again = ["creating", "starting", "waitingforstarttask", "idle"], ["starting", "waitingforstarttask", "idle"]
    assert went_through(raw, pool_id, node_id) == [
        *first,
        "running",
        "idle",
        "rebooting",
        *again,
        "reimaging",
        *again,
        "deallocating",
        "deallocated",
        *again,
    ]
    batch.begin_resize_pool(pool_id, models.BatchPoolResizeOptions(target_dedicated_nodes=0), polling_interval=0).wait()
    with pytest.raises(ResourceNotFoundError):
        batch.get_node(pool_id, node_id)
    raw("DELETE", f"/jobs/{job_id}", query="force=true")
    raw("DELETE", f"/pools/{pool_id}")


def _restarts(gate: Gate, sdk: Sdk) -> None:
    batch, pool_id, node_id = sdk.client, gate.pool_id, gate.node_id
    batch.begin_reboot_node(pool_id, node_id, BatchNodeRebootOptions(node_reboot_kind="requeue"), polling_interval=0).wait()
    gate.open()
    assert gate.starts() == 2, "what it has stays over a reboot"
    batch.begin_reimage_node(pool_id, node_id, BatchNodeReimageOptions(node_reimage_option="requeue"), polling_interval=0).wait()
    gate.open()
    assert gate.starts() == 1, "nothing stays over a reimage"
    options = BatchNodeDeallocateOptions(node_deallocate_option="terminate")
    batch.begin_deallocate_node(pool_id, node_id, options, polling_interval=0).wait()
    assert batch.get_node(pool_id, node_id).state == "deallocated"
    with pytest.raises(ResourceExistsError) as refused:
        batch.begin_reboot_node(pool_id, node_id, BatchNodeRebootOptions(node_reboot_kind="requeue"))
    assert refused.value.error is not None
    assert refused.value.error.code == "OperationInvalidForCurrentState"
    batch.begin_start_node(pool_id, node_id, polling_interval=0).wait()
    gate.open()


def test_a_start_task_that_fails(raw: Raw, sdk: Sdk) -> None:
    start = {"commandLine": sh("echo try >>tries; test $(wc -l <tries) -gt 3; exit 7"), "maxTaskRetryCount": 2}
    pool_id = add_pool(raw, startTask=start)
    node_id = node_of(raw, pool_id, "starttaskfailed")["id"]
    node = sdk.client.get_node(pool_id, node_id)
    info = node.start_task_info
    assert info is not None
    assert (info.state, info.result, info.exit_code, info.retry_count) == ("completed", "failure", 7, 2)
    assert info.last_retry_time is not None
    assert info.failure_info is not None
    assert (info.failure_info.code, info.failure_info.category) == ("FailureExitCode", "usererror")
    tries = raw("GET", f"/pools/{pool_id}/nodes/{node_id}/files/startup%2Fwd%2Ftries")
    assert tries.body == b"try\n" * 3
    yard = Yard(raw, pool_id)
    job_id = yard.job(task("a"))
    explained = raw("GET", f"/batchyard/explain/jobs/{job_id}/tasks/a").json["reasons"][0]
    assert explained["code"] == "StartTaskFailed"
    assert "exit code 7" in explained["sentence"]
    raw("DELETE", f"/jobs/{job_id}", query="force=true")
    raw("DELETE", f"/pools/{pool_id}")


def test_scheduling_off_and_on(own: Yard, sdk: Sdk) -> None:
    batch, pool_id = sdk.client, own.pool_id
    node_id = node_of(own.raw, pool_id, "idle")["id"]
    job_id = own.job(task("a", "sleep 60"))
    own.reached(job_id, "a", "running")
    batch.disable_node_scheduling(pool_id, node_id, BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="requeue"))
    node = batch.get_node(pool_id, node_id)
    assert (node.state, node.scheduling_state, node.running_tasks_count) == ("offline", "disabled", 0)
    waiting = own.task(job_id, "a")
    assert (waiting["state"], waiting["executionInfo"]["requeueCount"]) == ("active", 1)
    with pytest.raises(HttpResponseError) as refused:
        batch.disable_node_scheduling(pool_id, node_id, BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="requeue"))
    assert refused.value.error is not None
    assert refused.value.error.code == "NodeAlreadyInTargetSchedulingState"
    batch.enable_node_scheduling(pool_id, node_id)
    own.reached(job_id, "a", "running")
    recent = batch.get_node(pool_id, node_id).recent_tasks
    assert recent is not None
    assert [(each.job_id, each.task_id, each.task_state) for each in recent] == [(job_id, "a", "running")]


def test_login_and_endpoints(own: Yard, sdk: Sdk) -> None:
    node_id = node_of(own.raw, own.pool_id, "idle")["id"]
    settings = sdk.client.get_node_remote_login_settings(own.pool_id, node_id)
    node = sdk.client.get_node(own.pool_id, node_id)
    assert (settings.remote_login_ip_address, settings.remote_login_port) == (node.ip_address, 22)
    assert node.endpoint_configuration is not None
    [endpoint] = node.endpoint_configuration.inbound_endpoints
    assert (endpoint.name, endpoint.protocol, endpoint.frontend_port, endpoint.backend_port) == ("SSHRule.0", "tcp", 22, 22)
    found = about(own.raw, own.pool_id, node_id)
    assert found["machineCores"] >= 1
    assert found["events"][0]["new"] == "creating"


def test_a_log_goes_wherever_a_url_says_and_a_failure_is_among_the_events(own: Yard, sdk: Sdk, server: Server) -> None:
    """As in the service: accepted with the number of files, uploaded afterwards (contract 4.9)."""
    node_id = node_of(own.raw, own.pool_id, "idle")["id"]
    path = f"/pools/{own.pool_id}/nodes/{node_id}"
    wanted = models.UploadBatchServiceLogsOptions(
        container_url=f"{server.endpoint}/{server.storage_account}?sig=SECRET", start_time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    told = sdk.client.upload_node_logs(own.pool_id, node_id, wanted)
    assert told.number_of_files_uploaded == 1

    def failed() -> list[Json]:
        return [event for event in about(own.raw, own.pool_id, node_id)["events"] if event["happened"] == "service log not uploaded"]

    [event] = wait_for(failed, "the failure to be told")
    assert told.virtual_directory_name in event["cause"]
    assert "SECRET" not in event["cause"]
    for url in ("nonsense", "ftp://x/y", "http://[", "/logs", ""):
        body = {"containerUrl": url, "startTime": "2020-01-01T00:00:00Z"}
        refused = own.raw("POST", f"{path}/uploadbatchservicelogs", body)
        refused.assert_error(400, "InvalidPropertyValue", PropertyName="containerUrl", PropertyValue="")


def test_endpoints_of_the_pool_come_first_and_as_soon_as_it_is_steady(raw: Raw, yard: Yard, sdk: Sdk) -> None:
    """In the service's shape, as the SDKs' own tests read it: each node has a number of its own in names and ports."""
    udp = {"name": "TestEndpoint", "protocol": "udp", "backendPort": 64444, "frontendPortRangeStart": 60000, "frontendPortRangeEnd": 61000}
    web = {"name": "web", "protocol": "tcp", "backendPort": 80, "frontendPortRangeStart": 100, "frontendPortRangeEnd": 139}
    body = pool_body(unique("doors"), targetDedicatedNodes=2)
    body["networkConfiguration"] = {"endpointConfiguration": {"inboundNATPools": [udp, web]}}
    assert raw("POST", "/pools", body).status == 201
    yard.steady(body["id"])
    nodes = list(sdk.client.list_nodes(body["id"]))
    found = {}
    for node in nodes:
        assert node.ip_address
        assert node.endpoint_configuration is not None
        first, second, ssh = node.endpoint_configuration.inbound_endpoints
        assert {each.public_ip_address for each in (first, second, ssh)} == {node.ip_address}
        assert (first.protocol, second.protocol, ssh.protocol) == ("udp", "tcp", "tcp")
        assert [each.backend_port for each in (first, second, ssh)] == [64444, 80, 22]
        found[first.name] = [second.name, ssh.name, first.frontend_port, second.frontend_port, ssh.frontend_port]
    assert found == {
        "TestEndpoint.0": ["web.0", "SSHRule.0", 60000, 100, 22],
        "TestEndpoint.1": ["web.1", "SSHRule.1", 60001, 101, 22],
    }
    raw("DELETE", f"/pools/{body['id']}")


async def test_where_a_node_is_before_its_agent_has_spoken(still: Still) -> None:
    await still.node("creating")
    shown = (await still("GET", "/pools/p/nodes/n")).json()
    assert {"ipAddress", "ipv6Address", "endpointConfiguration"} & set(shown) == set(), "it has no machine yet"
    assert (await still("GET", "/pools/p/nodes/n/remoteloginsettings")).status_code == 409
    await still.put("node", state="starting", handle="there")
    shown = (await still("GET", "/pools/p/nodes/n")).json()
    assert (shown["ipAddress"], shown.get("ipv6Address")) == ("10.9.8.7", None)
    [ssh] = shown["endpointConfiguration"]["inboundEndpoints"]
    assert (ssh["name"], ssh["publicIPAddress"], ssh["publicFQDN"]) == ("SSHRule.0", "10.9.8.7", "here")
    login = (await still("GET", "/pools/p/nodes/n/remoteloginsettings")).json()
    assert {name: login.get(name) for name in ("remoteLoginIPAddress", "remoteLoginPort", "ipv6RemoteLoginIPAddress")} == {
        "remoteLoginIPAddress": "10.9.8.7",
        "remoteLoginPort": 22,
        "ipv6RemoteLoginIPAddress": None,
    }
    await still.put("node", provider="elsewhere")
    shown = (await still("GET", "/pools/p/nodes/n")).json()
    assert "ipAddress" not in shown, "who has the machine has not said"
    assert [each["name"] for each in shown["endpointConfiguration"]["inboundEndpoints"]] == ["SSHRule.0"]


@pytest.mark.parametrize(("families", "shown"), [(["IPv4", "IPv6"], True), (["ipv6"], True), (["IPv4"], False), ([], False)], ids=str)
async def test_ipv6_is_for_pools_that_ask_for_it(still: Still, families: list[str], shown: bool) -> None:
    body = pool_body("six", networkConfiguration={"publicIPAddressConfiguration": {"ipFamilies": families}})
    assert (await still("POST", "/pools", body)).status_code == 201
    await still.node("starting")
    await still.put("node", handle="there", pool_pk=2)
    node = (await still("GET", "/pools/six/nodes/n")).json()
    login = (await still("GET", "/pools/six/nodes/n/remoteloginsettings")).json()
    wanted = ("2001:db8::7", "2001:db8::7", 22) if shown else (None, None, None)
    assert (node.get("ipv6Address"), login.get("ipv6RemoteLoginIPAddress"), login.get("ipv6RemoteLoginPort")) == wanted
    facts = NodeFacts(
        agent_version="1", host_name="x", ip_address="10.0.0.1", cores=1, memory_bytes=1, process_control="session", switches_users=False
    )
    await still.put("node", facts=msgspec.json.encode(facts))
    node = (await still("GET", "/pools/six/nodes/n")).json()
    assert (node["ipAddress"], node.get("ipv6Address")) == ("10.0.0.1", None), "the machine has none"


async def test_an_extension_of_the_services_name_is_the_users(still: Still) -> None:
    body = pool_body("named")
    extension = {"name": "BATCHNODEEXTENSION", "publisher": "p", "type": "t"}
    body["virtualMachineConfiguration"]["extensions"] = [extension]
    assert (await still("POST", "/pools", body)).status_code == 201
    await still.node("idle")
    assert (await still("GET", "/pools/p/nodes/n/extensions")).json()["value"] == [], "a pool without any has none at all"
    await still.put("node", pool_pk=2)
    [listed] = (await still("GET", "/pools/named/nodes/n/extensions")).json()["value"]
    assert (listed["vmExtension"], listed["provisioningState"]) == (extension, "NotInstalled")


def test_extensions_are_kept_and_said_not_to_be_installed(raw: Raw, sdk: Sdk) -> None:
    body = pool_body(unique("extended"), targetDedicatedNodes=1)
    extension = {"name": "Agent", "publisher": "p", "type": "t", "settings": {"a": "b"}, "protectedSettings": {"key": "secret"}}
    body["virtualMachineConfiguration"]["extensions"] = [extension]
    assert raw("POST", "/pools", body).status == 201
    pool_id = body["id"]
    node_id = node_of(raw, pool_id, "idle")["id"]
    listed, own = sdk.client.list_node_extensions(pool_id, node_id, max_results=1)
    got = sdk.client.get_node_extension(pool_id, node_id, "agent")
    assert own.vm_extension == sdk.client.get_node_extension(pool_id, node_id, "BatchNodeExtension").vm_extension
    assert own.vm_extension is not None
    assert (own.vm_extension.name, own.vm_extension.publisher, own.vm_extension.type, own.provisioning_state) == (
        "batchNodeExtension",
        "Microsoft.Azure.Extensions",
        "CustomScript",
        "Succeeded",
    )
    for found in (listed, got):
        assert found.provisioning_state == "NotInstalled"
        assert found.vm_extension is not None
        assert (found.vm_extension.name, found.vm_extension.settings) == ("Agent", {"a": "b"})
        assert found.vm_extension.protected_settings is None
    with pytest.raises(ResourceNotFoundError):
        sdk.client.get_node_extension(pool_id, node_id, "other")
    raw("DELETE", f"/pools/{pool_id}")
