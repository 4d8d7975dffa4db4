"""Pools: defaults, what is refused, versions and conditions, resizing, pages (contract 1.6, 2.1, A.1)."""

from __future__ import annotations

import pytest
from azure.batch import BatchClient, models
from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from tests.api.conftest import Json, Raw, Sdk, Still, Yard, machine, pages, pool_body, unique

from batchyard.model import times

OTHER_TAG = "0x8D4BCC2E4835CD0"


def add(raw: Raw, **more: object) -> str:
    """A pool without nodes."""
    pool_id = unique("pool")
    assert raw("POST", "/pools", pool_body(pool_id, **more)).status == 201
    return pool_id


def get(raw: Raw, pool_id: str) -> Json:
    return raw("GET", f"/pools/{pool_id}").json


def test_a_new_pool_has_all_defaults(raw: Raw) -> None:
    pool_id = add(raw)
    answer = raw("GET", f"/pools/{pool_id}")
    pool = answer.json
    at = pool["creationTime"]
    assert pool.pop("allocationState") in ("resizing", "steady")
    assert pool.pop("allocationStateTransitionTime") >= at
    assert pool == {
        "odata.metadata": f"{raw.endpoint}/$metadata#pools/@Element",
        "id": pool_id,
        "url": f"{raw.endpoint}/pools/{pool_id}",
        "eTag": answer.headers["etag"],
        "lastModified": at,
        "creationTime": at,
        "state": "active",
        "stateTransitionTime": at,
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": {
            "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"},
            "nodeAgentSKUId": "batch.node.ubuntu 24.04",
        },
        "resizeTimeout": "PT15M",
        "currentDedicatedNodes": 0,
        "targetDedicatedNodes": 0,
        "currentLowPriorityNodes": 0,
        "targetLowPriorityNodes": 0,
        "enableAutoScale": False,
        "enableInterNodeCommunication": False,
        "taskSlotsPerNode": 1,
        "taskSchedulingPolicy": {"nodeFillType": "spread"},
    }
    assert answer.headers["last-modified"] == times.http_date(times.from_iso(at))


def test_what_is_given_comes_back_in_the_services_spelling(raw: Raw) -> None:
    given = {"displayName": "Höf ✓", "metadata": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}
    pool_id = add(raw, **given, taskSlotsPerNode="3", resizeTimeout="PT00H10M00S", taskSchedulingPolicy={"nodeFillType": "Pack"})
    pool = get(raw, pool_id)
    assert {name: pool[name] for name in given} == given
    assert (pool["taskSlotsPerNode"], pool["resizeTimeout"], pool["taskSchedulingPolicy"]) == (3, "PT10M", {"nodeFillType": "pack"})


def test_the_tag_is_the_ticks_of_the_last_modification(raw: Raw) -> None:
    pool = get(raw, add(raw))
    assert int(pool["eTag"], 16) == times.from_iso(pool["lastModified"]) * 10 + 621_355_968_000_000_000
    assert pool["eTag"] == pool["eTag"].upper().replace("X", "x")


def test_add_answers_with_location_and_an_empty_body(raw: Raw) -> None:
    pool_id = unique("pool")
    answer = raw("POST", "/pools", pool_body(pool_id))
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["location"] == answer.headers["dataserviceid"] == f"{raw.endpoint}/pools/{pool_id}"
    assert answer.headers["etag"] == get(raw, pool_id)["eTag"]


def test_ids_are_compared_without_case_and_kept_with_it(raw: Raw) -> None:
    pool_id = unique("MiXed")
    raw("POST", "/pools", pool_body(pool_id))
    assert get(raw, pool_id.upper())["id"] == pool_id
    raw("POST", "/pools", pool_body(pool_id.lower())).assert_error(409, "PoolExists")


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ({"id": "no blanks"}, "InvalidPropertyValue", "id"),
        ({"id": ""}, "InvalidPropertyValue", "id"),
        ({"id": "x" * 65}, "InvalidPropertyValue", "id"),
        ({"id": 5}, "InvalidRequestBody", "id"),
        ({"vmSize": None}, "InvalidRequestBody", "vmSize"),
        ({"vmSize": " "}, "InvalidPropertyValue", "vmSize"),
        ({"displayName": "x" * 1025}, "InvalidPropertyValue", "displayName"),
        ({"taskSlotsPerNode": 0}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"taskSlotsPerNode": 257}, "InvalidPropertyValue", "taskSlotsPerNode"),
        ({"targetDedicatedNodes": -1}, "InvalidPropertyValue", "targetDedicatedNodes"),
        ({"targetDedicatedNodes": "many"}, "InvalidRequestBody", "targetDedicatedNodes"),
        ({"targetDedicatedNodes": 10**30}, "InvalidPropertyValue", "targetDedicatedNodes"),
        ({"resizeTimeout": "PT4M59S"}, "InvalidPropertyValue", "resizeTimeout"),
        ({"resizeTimeout": "15 minutes"}, "InvalidPropertyValue", "resizeTimeout"),
        ({"taskSchedulingPolicy": {"nodeFillType": "loose"}}, "InvalidPropertyValue", "taskSchedulingPolicy.nodeFillType"),
        ({"metadata": {"name": "a"}}, "InvalidRequestBody", "metadata"),
        ({"colour": "red"}, "InvalidRequestBody", "colour"),
        ({"virtualMachineConfiguration": {"imageReference": {}}}, "MissingRequiredProperty", "virtualMachineConfiguration.nodeAgentSKUId"),
        ({"enableAutoScale": True, "autoScaleFormula": "x"}, "InvalidAutoScalingSettings", "targetDedicatedNodes"),
        ({"autoScaleFormula": "$x=1"}, "InvalidAutoScalingSettings", "autoScaleFormula"),
        ({"autoScaleEvaluationInterval": "PT5M"}, "InvalidAutoScalingSettings", "autoScaleEvaluationInterval"),
    ],
)
def test_what_is_refused_names_property_and_reason(raw: Raw, change: Json, code: str, name: str) -> None:
    body = pool_body(unique("pool")) | change
    values = raw("POST", "/pools", body).assert_error(400, code)
    assert values["PropertyName"] == name
    assert values["Reason"]
    if isinstance(body["id"], str) and body["id"].startswith("pool-"):
        raw("GET", f"/pools/{body['id']}").assert_error(404, "PoolNotFound")


@pytest.mark.parametrize("name", ["id", "vmSize", "virtualMachineConfiguration"])
def test_required_properties(raw: Raw, name: str) -> None:
    body = pool_body(unique("pool"))
    del body[name]
    assert raw("POST", "/pools", body).assert_error(400, "MissingRequiredProperty", PropertyName=name)["Reason"]


def test_a_pool_without_any_target_has_no_nodes(raw: Raw, yard: Yard, batch: BatchClient) -> None:
    """As the tests of both SDK generations add pools (contract A.1)."""
    pool_id = unique("pool")
    bare = pool_body(pool_id)
    del bare["targetDedicatedNodes"]
    machine = models.VirtualMachineConfiguration(
        image_reference=models.BatchVmImageReference(publisher="canonical", offer="ubuntu-24_04-lts", sku="server"),
        node_agent_sku_id="batch.node.ubuntu 24.04",
    )
    assert raw("POST", "/pools", bare).status == 201
    batch.create_pool(models.BatchPoolCreateOptions(id=f"{pool_id}-sdk", vm_size="standard_d2s_v3", virtual_machine_configuration=machine))
    for each in (pool_id, f"{pool_id}-sdk"):
        pool = yard.steady(each)
        assert [pool[name] for name in ("targetDedicatedNodes", "targetLowPriorityNodes", "currentDedicatedNodes")] == [0, 0, 0]
        assert "resizeErrors" not in pool
        assert yard.get(f"/pools/{each}/nodes")["value"] == []
        assert raw("DELETE", f"/pools/{each}").status == 202


def test_an_empty_metadata_name(raw: Raw) -> None:
    raw("POST", "/pools", pool_body(unique(), metadata=[{"name": "", "value": ""}])).assert_error(400, "EmptyMetadataKey")


class TestConditions:
    """If-Match and its kin on reading and on changing calls (contract 1.2)."""

    def test_reading(self, raw: Raw, yard: Yard) -> None:
        path = f"/pools/{add(raw)}"
        pool = yard.get(path)
        tag, date = pool["eTag"], times.http_date(times.from_iso(pool["lastModified"]))
        earlier, later = "Tue, 02 Jan 2024 03:04:05 GMT", "Tue, 02 Jan 2124 03:04:05 GMT"
        for headers, status in [
            ({"If-Match": tag}, 200),
            ({"If-Match": f'"{tag}"'}, 200),
            ({"If-Match": f'W/"{tag}"'}, 200),
            ({"If-Match": "*"}, 200),
            ({"If-Match": f'"{OTHER_TAG}", "{tag}"'}, 200),
            ({"If-Match": OTHER_TAG}, 412),
            ({"If-None-Match": OTHER_TAG}, 200),
            ({"If-None-Match": tag}, 304),
            ({"If-None-Match": f'"{tag}"'}, 304),
            ({"If-None-Match": "*"}, 412),
            ({"If-Modified-Since": earlier}, 200),
            ({"If-Modified-Since": date}, 304),
            ({"If-Modified-Since": later}, 304),
            ({"If-Unmodified-Since": later}, 200),
            ({"If-Unmodified-Since": date}, 200),
            ({"If-Unmodified-Since": earlier}, 412),
        ]:
            for method in ("GET", "HEAD"):
                answer = raw(method, path, headers=headers)
                assert answer.status == status, (method, headers)
                assert answer.body or method == "HEAD" or status == 304
                assert not answer.body or (method == "GET" and status != 304)
        raw("GET", path, headers={"If-Match": OTHER_TAG}).assert_error(412, "ConditionNotMet")
        raw("GET", path, headers={"If-Modified-Since": "yesterday"}).assert_error(400, "InvalidHeaderValue", HeaderName="if-modified-since")

    @pytest.mark.parametrize(
        "headers",
        [
            {"If-Match": OTHER_TAG},
            {"If-Match": f'"{OTHER_TAG}"'},
            {"If-None-Match": "*"},
            {"If-Modified-Since": "Tue, 02 Jan 2124 03:04:05 GMT"},
            {"If-Unmodified-Since": "Tue, 02 Jan 2024 03:04:05 GMT"},
        ],
    )
    def test_a_change_whose_condition_fails_changes_nothing(self, raw: Raw, yard: Yard, headers: dict[str, str]) -> None:
        pool_id = add(raw)
        before = yard.steady(pool_id)
        raw("DELETE", f"/pools/{pool_id}", headers=headers).assert_error(412, "ConditionNotMet")
        raw("POST", f"/pools/{pool_id}/resize", {"targetDedicatedNodes": 0}, headers=headers).assert_error(412, "ConditionNotMet")
        assert get(raw, pool_id) == before

    def test_through_the_sdk(self, batch: BatchClient, raw: Raw) -> None:
        pool_id = add(raw)
        tag = batch.get_pool(pool_id).etag
        assert batch.get_pool(pool_id, etag=tag, match_condition=MatchConditions.IfNotModified).id == pool_id
        with pytest.raises(ResourceModifiedError):
            batch.get_pool(pool_id, etag=OTHER_TAG, match_condition=MatchConditions.IfNotModified)
        with pytest.raises(ResourceModifiedError):
            batch.get_pool(pool_id, etag=tag, match_condition=MatchConditions.IfModified)
        assert batch.get_pool(pool_id, match_condition=MatchConditions.IfPresent).id == pool_id
        with pytest.raises(ResourceNotFoundError):
            batch.get_pool(pool_id, match_condition=MatchConditions.IfMissing)


class TestResize:
    """Resizing: the transitional state is there before the answer (contract 2.8)."""

    async def test_the_first_poll_sees_it(self, still: Still) -> None:
        """In process, because a node on this machine may be there before the next request."""
        await still.put("pool", allocation_state="steady")
        answer = await still("POST", "/pools/p/resize", {"targetDedicatedNodes": 1})
        during = (await still("GET", "/pools/p")).json()
        assert (during["allocationState"], during["eTag"]) == ("resizing", answer.headers["etag"])
        again = await still("POST", "/pools/p/resize", {"targetDedicatedNodes": 0})
        assert (again.status_code, again.json()["code"]) == (409, "PoolBeingResized")

    def test_the_tag_moves_once(self, raw: Raw, yard: Yard) -> None:
        pool_id = add(raw)
        before = yard.steady(pool_id)
        answer = raw("POST", f"/pools/{pool_id}/resize", {"targetLowPriorityNodes": "1", "resizeTimeout": "PT05M00S"})
        assert (answer.status, answer.body) == (202, b"")
        during = get(raw, pool_id)
        assert during["eTag"] == answer.headers["etag"] != before["eTag"]
        assert during["resizeTimeout"] == "PT5M", "that of the latest resize"
        after = yard.steady(pool_id)
        assert (after["targetDedicatedNodes"], after["targetLowPriorityNodes"], after["currentLowPriorityNodes"]) == (0, 1, 1)
        assert after["eTag"] == during["eTag"]
        assert after["lastModified"] == during["lastModified"]
        assert after["allocationStateTransitionTime"] >= during["allocationStateTransitionTime"]
        [node] = yard.get(f"/pools/{pool_id}/nodes")["value"]
        assert node["isDedicated"] is False
        assert node["id"].endswith("_p")
        assert raw("DELETE", f"/pools/{pool_id}").status == 202
        yard.gone(f"/pools/{pool_id}")

    def test_it_can_be_stopped_after_it_is_done(self, raw: Raw, yard: Yard, batch: BatchClient) -> None:
        """A resize to no nodes is over at once; a program that stops it does not know (contract 2.1)."""
        pool_id = add(raw)
        yard.steady(pool_id)
        resize = models.BatchPoolResizeOptions(target_dedicated_nodes=0, target_low_priority_nodes=0)
        batch.begin_resize_pool(pool_id, resize, polling_interval=0).wait()
        before = yard.steady(pool_id)
        stopped = raw("POST", f"/pools/{pool_id}/stopresize")
        assert (stopped.status, stopped.headers["etag"]) == (202, before["eTag"])
        batch.begin_stop_pool_resize(pool_id, polling_interval=0).wait()
        assert get(raw, pool_id) == before
        assert raw("DELETE", f"/pools/{pool_id}").status == 202

    @pytest.mark.parametrize(
        ("body", "code", "name"),
        [
            ({}, "MissingRequiredProperty", "targetDedicatedNodes"),
            ({"targetDedicatedNodes": -1}, "InvalidPropertyValue", "targetDedicatedNodes"),
            ({"targetDedicatedNodes": 1, "resizeTimeout": "PT1M"}, "InvalidPropertyValue", "resizeTimeout"),
            ({"targetDedicatedNodes": 1, "nodeDeallocationOption": "gently"}, "InvalidPropertyValue", "nodeDeallocationOption"),
        ],
    )
    def test_what_is_refused(self, raw: Raw, yard: Yard, body: Json, code: str, name: str) -> None:
        pool_id = add(raw)
        before = yard.steady(pool_id)
        raw("POST", f"/pools/{pool_id}/resize", body).assert_error(400, code, PropertyName=name)
        assert get(raw, pool_id) == before

    def test_more_nodes_than_there_are_ends_with_an_error(self, raw: Raw, yard: Yard) -> None:
        pool_id = add(raw, targetDedicatedNodes=100_000)
        pool = yard.steady(pool_id)
        assert pool["resizeErrors"][0]["code"] == "AllocationFailed"
        assert pool["targetDedicatedNodes"] == 100_000
        raw("DELETE", f"/pools/{pool_id}")
        yard.gone(f"/pools/{pool_id}")

    def test_the_sdks_poller_waits_for_steady(self, batch: BatchClient, raw: Raw, yard: Yard) -> None:
        pool_id = add(raw)
        yard.steady(pool_id)
        options = models.BatchPoolResizeOptions(target_dedicated_nodes=1, target_low_priority_nodes=0)
        batch.begin_resize_pool(pool_id, options, polling_interval=0).result()
        pool = batch.get_pool(pool_id)
        assert (pool.allocation_state, pool.current_dedicated_nodes) == ("steady", 1)
        batch.begin_delete_pool(pool_id, polling_interval=0).wait()
        assert raw("HEAD", f"/pools/{pool_id}").status == 404


class TestDelete:
    """Deleting: refused twice, gone in the end."""

    def test_an_unknown_pool(self, raw: Raw) -> None:
        for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/nodes"), ("GET", "/nodes/x"), ("GET", "/nodes/x/files")]:
            raw(method, f"/pools/{unique()}{path}").assert_error(404, "PoolNotFound")
        raw("POST", f"/pools/{unique()}/resize", {"targetDedicatedNodes": 0}).assert_error(404, "PoolNotFound")
        missing = raw("HEAD", f"/pools/{unique()}")
        assert (missing.status, missing.body) == (404, b"")
        assert missing.headers["request-id"]

    def test_its_jobs_stay(self, batch: BatchClient, raw: Raw, yard: Yard) -> None:
        pool_id = add(raw)
        job_id = yard.job({"id": "t", "commandLine": "true"}, poolInfo={"poolId": pool_id})
        answer = raw("DELETE", f"/pools/{pool_id}")
        assert (answer.status, answer.body) == (202, b"")
        yard.gone(f"/pools/{pool_id}")
        assert yard.get(f"/jobs/{job_id}")["state"] == "active"
        assert yard.task(job_id, "t")["state"] == "active"


def test_pages(raw: Raw, sdk: Sdk) -> None:
    ids = [add(raw) for _ in range(3)]
    found = pages(raw, "/pools")
    assert all(len(page) == 2 for page in found[:-1])
    seen = [pool["id"] for page in found for pool in page]
    assert [pool_id for pool_id in seen if pool_id in ids] == ids
    assert len(seen) == len(set(seen))
    assert {pool.id for pool in sdk.client.list_pools(max_results=2)} >= set(ids)


@pytest.mark.parametrize(
    ("query", "code", "name"),
    [
        ("maxresults=0", "InvalidQueryParameterValue", "maxresults"),
        ("maxresults=-5", "InvalidQueryParameterValue", "maxresults"),
        ("maxresults=many", "InvalidQueryParameterValue", "maxresults"),
        ("maxresults=", "InvalidQueryParameterValue", "maxresults"),
        ("maxresults=1001", "OutOfRangeQueryParameterValue", "maxresults"),
        ("maxresults=" + "9" * 5000, "InvalidQueryParameterValue", "maxresults"),
        ("$skiptoken=nonsense", "InvalidQueryParameterValue", "$skiptoken"),
        ("$skiptoken=", "InvalidQueryParameterValue", "$skiptoken"),
        ("$skiptoken=" + "f" * 16, "InvalidQueryParameterValue", "$skiptoken"),
        ("$skiptoken=%00", "InvalidQueryParameterValue", "$skiptoken"),
        ("colour=red", "UnsupportedQueryParameter", "colour"),
    ],
)
@pytest.mark.parametrize("path", ["/pools", "/jobs"])
def test_bad_query_options(raw: Raw, path: str, query: str, code: str, name: str) -> None:
    values = raw("GET", path, query=query).assert_error(400, code, QueryParameterName=name)
    assert values["Reason"]


def test_a_pool_of_the_newer_sdk(sdk: Sdk, raw: Raw) -> None:
    pool = models.BatchPoolCreateOptions(
        id=unique("pool"),
        vm_size="standard_a1_v2",
        virtual_machine_configuration=machine(),
        target_dedicated_nodes=0,
        task_slots_per_node=2,
        metadata=[models.BatchMetadataItem(name="a", value="b")],
        task_scheduling_policy=models.BatchTaskSchedulingPolicy(node_fill_type=models.BatchNodeFillType.PACK),
    )
    sdk.client.create_pool(pool)
    assert sdk.last.status == 201
    read = sdk.client.get_pool(pool.id)
    assert read.task_scheduling_policy is not None
    assert read.task_scheduling_policy.node_fill_type == models.BatchNodeFillType.PACK
    assert (read.state, read.task_slots_per_node, read.etag) == ("active", 2, get(raw, pool.id)["eTag"])
    with pytest.raises(ResourceExistsError):
        sdk.client.create_pool(pool)


def test_settings_that_are_too_deep_are_refused(raw: Raw) -> None:
    """What is read has to be written again, from whatever depth of the stack."""
    for levels, status in ((64, 201), (65, 400), (900, 400)):
        body = pool_body(unique("deep"))
        value: object = "x"
        for _ in range(levels - 1):
            value = [value]
        extension = {"name": "e", "publisher": "p", "type": "t", "settings": {"a": value}}
        body["virtualMachineConfiguration"]["extensions"] = [extension]
        answer = raw("POST", "/pools", body)
        assert answer.status == status, (levels, answer.body[:200])
        if status == 201:
            assert raw("GET", f"/pools/{body['id']}/nodes").status == 200
            raw("DELETE", f"/pools/{body['id']}")
        else:
            answer.assert_error(400, "InvalidPropertyValue", PropertyName="extensions.settings")
