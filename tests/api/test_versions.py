"""Older API versions speak the form of their time, both ways; the newest form is served beside it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, task, unique

from batchyard.api.app import VERSIONS
from batchyard.api.wire.deviations import DEVIATIONS

SLOTS = "2020-09-01.12.0"
ADDRESSES = "2020-03-01.11.0"
ADDRESS_IDS = ["/subscriptions/s/publicIPAddresses/a"]
ALL = sorted(VERSIONS)


@pytest.fixture
def made(raw: Raw) -> Iterator[str]:
    """An id for a pool, which is removed behind the test."""
    pool_id = unique("pool")
    yield pool_id
    raw("DELETE", f"/pools/{pool_id}")


def get(raw: Raw, path: str, version: str, query: str = "") -> Json:
    """What is answered to an API version."""
    answer = raw("GET", path, version=version, query=query)
    assert answer.status == 200, answer.body
    assert int(answer.headers["content-length"]) == len(answer.body)
    return answer.json


@pytest.mark.parametrize("version", ALL)
def test_slots_of_a_node_have_the_name_of_the_version(raw: Raw, made: str, version: str) -> None:
    name, other = ("maxTasksPerNode", "taskSlotsPerNode") if version < SLOTS else ("taskSlotsPerNode", "maxTasksPerNode")
    assert raw("POST", "/pools", pool_body(made, **{name: 3}), version=version).status == 201
    assert get(raw, f"/pools/{made}", "2025-06-01")["taskSlotsPerNode"] == 3
    one = get(raw, f"/pools/{made}", version)
    [listed] = get(raw, "/pools", version, f"$filter={quote(f'id eq {made!r}')}")["value"]
    assert one["odata.metadata"].endswith("/$metadata#pools/@Element")
    assert set(one) - {"odata.metadata"} == set(listed)
    assert listed[name] == 3
    assert other not in listed
    [chosen] = get(raw, "/pools", version, f"$filter={quote(f'id eq {made!r}')}&$select=id,{name}")["value"]
    assert chosen == {"id": made, name: 3}


def test_a_page_of_selected_older_names_goes_on(raw: Raw, made: str) -> None:
    assert raw("POST", "/pools", pool_body(made, maxTasksPerNode=2), version="2019-08-01.10.0").status == 201
    assert raw("POST", "/pools", pool_body(made + "-2", maxTasksPerNode=2), version="2019-08-01.10.0").status == 201
    wanted = f"$filter={quote(f'startswith(id,{made!r})')}&$select=maxTasksPerNode&maxresults=1"
    first = get(raw, "/pools", "2019-08-01.10.0", wanted)
    link = urlsplit(first["odata.nextLink"])
    second = raw("GET", link.path, query=link.query, version=None).json
    raw("DELETE", f"/pools/{made}-2")
    assert first["value"] == second["value"] == [{"maxTasksPerNode": 2}]


@pytest.mark.parametrize("version", ALL)
def test_task_counts_are_flat_before_there_were_slots(raw: Raw, yard: Yard, version: str) -> None:
    job_id = yard.job(task("a"), task("b", "exit 1"))
    yard.reached(job_id, "a")
    yard.reached(job_id, "b")
    counts = get(raw, f"/jobs/{job_id}/taskcounts", version)
    five = {"active": 0, "running": 0, "completed": 2, "succeeded": 1, "failed": 1}
    kind = counts.pop("odata.metadata").partition("#")[2]
    if version < SLOTS:
        assert (kind, counts) == ("taskcounts/@Element", five)
    else:
        assert (kind, counts) == ("taskcountsresult/@Element", {"taskCounts": five, "taskSlotCounts": five})


@pytest.mark.parametrize("version", ALL)
def test_public_addresses_are_a_plain_list_before_2020_03(raw: Raw, made: str, version: str) -> None:
    older, newer = {"publicIPs": ADDRESS_IDS}, {"publicIPAddressConfiguration": {"provision": "usermanaged", "ipAddressIds": ADDRESS_IDS}}
    form = older if version < ADDRESSES else newer
    sent = pool_body(made, networkConfiguration={"subnetId": "/s", **form})
    assert raw("POST", "/pools", sent, version=version).status == 201
    assert get(raw, f"/pools/{made}", version)["networkConfiguration"] == {"subnetId": "/s", **form}
    assert get(raw, f"/pools/{made}", "2025-06-01")["networkConfiguration"] == {"subnetId": "/s", **newer}


def test_addresses_that_the_list_cannot_say_are_left_out(raw: Raw, made: str) -> None:
    network = {"publicIPAddressConfiguration": {"provision": "nopublicipaddresses"}}
    assert raw("POST", "/pools", pool_body(made, networkConfiguration=network)).status == 201
    assert get(raw, f"/pools/{made}", "2019-08-01.10.0")["networkConfiguration"] == {}


@pytest.mark.parametrize("version", ["2019-08-01.10.0", "2025-06-01"])
def test_older_names_are_taken_from_every_version(raw: Raw, made: str, version: str) -> None:
    body = pool_body(made, maxTasksPerNode=3, targetDedicated=0)
    del body["targetDedicatedNodes"]
    assert raw("POST", "/pools", body, version=version).status == 201
    found = get(raw, f"/pools/{made}", "2025-06-01")
    assert (found["taskSlotsPerNode"], found["targetDedicatedNodes"]) == (3, 0)
    assert not {"maxTasksPerNode", "targetDedicated"} & set(found)


def test_an_older_name_resizes(raw: Raw, yard: Yard, made: str) -> None:
    assert raw("POST", "/pools", pool_body(made), version="2018-12-01.8.0").status == 201
    yard.steady(made)
    assert raw("POST", f"/pools/{made}/resize", {"targetDedicated": 0}, version="2018-12-01.8.0").status == 202


class TestRefused:
    """What is wrong in the older form is refused by its older name and changes nothing."""

    @pytest.mark.parametrize(
        ("more", "code", "name"),
        [
            ({"maxTasksPerNode": 3, "taskSlotsPerNode": 2}, "InvalidPropertyValue", "maxTasksPerNode"),
            ({"maxTasksPerNode": 100_000}, "InvalidPropertyValue", "maxTasksPerNode"),
            ({"maxTasksPerNode": "many"}, "InvalidRequestBody", "maxTasksPerNode"),
            ({"maxTasksPerNode": [3]}, "InvalidRequestBody", "maxTasksPerNode"),
            ({"targetDedicated": 1}, "InvalidPropertyValue", "targetDedicated"),
            ({"networkConfiguration": {"publicIPs": "a"}}, "InvalidRequestBody", "networkConfiguration.publicIPs"),
            ({"networkConfiguration": ["publicIPs"]}, "InvalidRequestBody", "networkConfiguration"),
            (
                {"networkConfiguration": {"publicIPs": [], "publicIPAddressConfiguration": {}}},
                "InvalidPropertyValue",
                "networkConfiguration.publicIPs",
            ),
        ],
    )
    def test_pools(self, raw: Raw, more: Json, code: str, name: str) -> None:
        pool_id = unique("pool")
        answer = raw("POST", "/pools", pool_body(pool_id, **more), version="2019-08-01.10.0")
        answer.assert_error(400, code, PropertyName=name)
        assert raw("GET", f"/pools/{pool_id}").status == 404

    @pytest.mark.parametrize("body", [b'{"maxTasksPerNode":', b'"maxTasksPerNode"', b'["maxTasksPerNode"]', b'\xff"maxTasksPerNode"'])
    def test_bodies_that_are_no_pool(self, raw: Raw, body: bytes) -> None:
        for path in ("/pools", "/jobs"):
            raw("POST", path, body, version="2019-08-01.10.0").assert_error(400, "InvalidRequestBody")

    def test_a_name_where_it_never_was(self, raw: Raw, yard: Yard) -> None:
        answer = raw("POST", f"/jobs/{yard.job()}/tasks", task("t", maxTasksPerNode=1), version="2019-08-01.10.0")
        answer.assert_error(400, "InvalidRequestBody", PropertyName="maxTasksPerNode")

    def test_selecting_a_name_that_the_version_does_not_have(self, raw: Raw) -> None:
        answer = raw("GET", "/pools", query="$select=maxTasksPerNode", version="2025-06-01")
        answer.assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$select")

    @pytest.mark.parametrize("version", ["2018-08-01.7.0", "2018-03-01.6.1", "2017-05-01.5.0"])
    def test_versions_of_azure_batch_5_and_4(self, raw: Raw, version: str) -> None:
        raw("GET", "/pools", version=version).assert_error(400, "UnsupportedRequestVersion", QueryParameterValue=version)


class TestNodeAgentSkus:
    def test_agents_have_the_verified_images(self, raw: Raw) -> None:
        images = get(raw, "/supportedimages", "2025-06-01")["value"]
        agents = get(raw, "/nodeagentskus", "2018-12-01.8.0")
        assert agents["odata.metadata"].endswith("/$metadata#nodeagentskus")
        expected: dict[str, list[Json]] = {image["nodeAgentSKUId"]: [] for image in images}
        for image in images:
            if image["verificationType"] == "verified":
                expected[image["nodeAgentSKUId"]].append(image["imageReference"])
        assert {agent["id"]: agent["verifiedImageReferences"] for agent in agents["value"]} == expected
        assert {agent["osType"] for agent in agents["value"] if agent["verifiedImageReferences"]} == {"linux"}

    def test_pages_and_filter(self, raw: Raw) -> None:
        first = get(raw, "/nodeagentskus", "2018-12-01.8.0", "maxresults=1")
        link = urlsplit(first["odata.nextLink"])
        second = raw("GET", link.path, query=link.query, version=None).json
        assert first["value"] != second["value"]
        windows = get(raw, "/nodeagentskus", "2018-12-01.8.0", "$filter=osType%20eq%20'windows'")["value"]
        assert [agent["verifiedImageReferences"] for agent in windows] == [[]]

    @pytest.mark.parametrize("version", [version for version in ALL if version > "2018-12-01.8.0"])
    def test_later_versions_do_not_have_it(self, raw: Raw, version: str) -> None:
        raw("GET", "/nodeagentskus", version=version).assert_error(400, "InvalidUri")


def test_every_deviation_is_of_a_version_that_is_served_or_only_taken() -> None:
    for row in DEVIATIONS:
        assert row.outward is None or min(VERSIONS) < row.before <= max(VERSIONS), row.older
