"""The account as a whole: images, node counts, usage metrics, statistics of pools (contract 1.6, 5.4, 7.3, 9.3, 9.6)."""

from __future__ import annotations

import platform
from typing import Any

import pytest
from azure.batch import BatchClient
from tests.api.conftest import Json, Raw, Still, Yard, pages, pool_body, unique

from batchyard.model import times
from batchyard.model.states import NodeState
from batchyard.rules.usage import INTERVAL_US, floor
from batchyard.store.reader import Change
from batchyard.store.tx import Tx

ALL_STATES = {
    "creating", "idle", "leavingPool", "offline", "preempted", "rebooting", "reimaging", "running", "starting", "startTaskFailed",
    "unknown", "unusable", "waitingForStartTask", "upgradingOS", "deallocated", "deallocating", "total",
}  # fmt: skip


class TestImages:
    """What this machine is comes first; what clients look for is there."""

    def test_this_machine_first(self, raw: Raw) -> None:
        first, *others = raw("GET", "/supportedimages").json["value"]
        ours = platform.freedesktop_os_release()
        assert first["verificationType"] == "verified"
        assert first["nodeAgentSKUId"].split()[0].endswith(ours["ID"]) or first["nodeAgentSKUId"].startswith("batch.node.el ")
        for image in (first, *others):
            assert set(image) == {"nodeAgentSKUId", "imageReference", "osType", "verificationType"}
            assert set(image["imageReference"]) == {"publisher", "offer", "sku", "version"}
            assert (image["osType"] == "linux") == (image["verificationType"] == "verified")

    @pytest.mark.parametrize(
        ("publisher", "offer", "sku", "agent"),
        [
            ("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
            ("Canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
            ("almalinux", "almalinux", "9-gen2", "batch.node.el 9"),
            ("microsoft-azure-batch", "ubuntu-server-container", "20-04-lts", "batch.node.ubuntu 20.04"),
            ("microsoft-dsvm", "ubuntu-hpc", "2404", "batch.node.ubuntu 24.04"),
        ],
    )
    def test_a_program_finds_the_image_it_names_among_the_verified(
        self, batch: BatchClient, publisher: str, offer: str, sku: str, agent: str
    ) -> None:
        """As samples and schedulers choose: verified, by name, then its node agent."""
        found = [
            image.node_agent_sku_id
            for image in batch.list_supported_images(filter="verificationType eq 'verified'")
            if image.image_reference.publisher == publisher.lower()
            and (image.image_reference.offer, image.image_reference.sku) == (offer, sku)
        ]
        assert found == [agent]

    def test_pages(self, raw: Raw) -> None:
        whole = raw("GET", "/supportedimages").json
        assert whole["odata.metadata"] == f"{raw.endpoint}/$metadata#supportedimages"
        found = pages(raw, "/supportedimages", "maxresults=7")
        assert [image for page in found for image in page] == whole["value"]
        assert [len(page) for page in found[:-1]] == [7] * (len(found) - 1)

    def test_filters(self, raw: Raw) -> None:
        whole = raw("GET", "/supportedimages").json["value"]
        for text, keep in [
            ("osType%20eq%20%27linux%27", lambda image: image["osType"] == "linux"),
            ("osType%20ne%20%27linux%27", lambda image: image["nodeAgentSKUId"] == "batch.node.windows amd64"),
            ("verificationType%20eq%20%27verified%27", lambda image: image["verificationType"] == "verified"),
            ("nodeAgentSKUId%20eq%20%27batch.node.el%209%27", lambda image: image["nodeAgentSKUId"] == "batch.node.el 9"),
        ]:
            found = pages(raw, "/supportedimages", f"maxresults=2&$filter={text}")
            assert [image for page in found for image in page] == [image for image in whole if keep(image)], text
        raw("GET", "/supportedimages", query="$filter=sku%20eq%20%27x%27").assert_error(400, "InvalidQueryParameterValue")

    def test_every_listed_image_makes_a_pool(self, raw: Raw) -> None:
        for image in raw("GET", "/supportedimages").json["value"]:
            machine = {"imageReference": image["imageReference"], "nodeAgentSKUId": image["nodeAgentSKUId"]}
            pool_id = unique("image")
            assert raw("POST", "/pools", pool_body(pool_id, virtualMachineConfiguration=machine)).status == 201
            raw("DELETE", f"/pools/{pool_id}")


class TestNodeCounts:
    """Every pool with both kinds of nodes in every state."""

    async def test_all_states(self, still: Still) -> None:
        assert (await still("POST", "/pools", pool_body("empty"))).status_code == 201
        for number, state in enumerate(NodeState):
            for copy in range(number + 1):
                await still.node(state, f"{state}{copy}")
        await still.node("idle", "spot")
        await still.db.run(_make_spot)
        answer = (await still("GET", "/nodecounts")).json()
        assert answer["odata.metadata"].endswith("/$metadata#poolnodecounts")
        pool, empty = answer["value"]
        assert (pool["poolId"], empty["poolId"]) == ("p", "empty")
        assert set(pool["dedicated"]) == set(pool["lowPriority"]) == set(empty["dedicated"]) == set(empty["lowPriority"]) == ALL_STATES
        by_state = {name.lower(): count for name, count in pool["dedicated"].items()}
        assert by_state.pop("total") == sum(by_state.values()) == len(NodeState) * (len(NodeState) + 1) // 2
        assert by_state == {state.value: number + 1 for number, state in enumerate(NodeState)}
        assert pool["lowPriority"] == dict.fromkeys(ALL_STATES, 0) | {"idle": 1, "total": 1}
        assert set(empty["dedicated"].values()) == {0}

    def test_pages(self, raw: Raw) -> None:
        made = [unique("pool") for _ in range(3)]
        for pool_id in made:
            raw("POST", "/pools", pool_body(pool_id))
        found = pages(raw, "/nodecounts", "maxresults=1")
        assert [item["poolId"] for page in found for item in page if item["poolId"] in made] == made
        assert {len(page) for page in found} == {1}
        [one] = raw("GET", "/nodecounts", query=f"$filter=poolId%20eq%20%27{made[1]}%27").json["value"]
        assert one["poolId"] == made[1]


def _make_spot(tx: Tx) -> None:
    tx.change(Change("UPDATE node SET dedicated = 0 WHERE id = 'spot'"))


class TestUsage:
    """Core hours by pool and half hour; only intervals that are fully counted."""

    async def _lives(self, still: Still, *lives: dict[str, Any]) -> int:
        """Lifetimes, in intervals before the newest counted one; the begin of that one."""
        now = times.from_iso((await still("GET", "/pools/p")).json()["creationTime"])
        newest = floor(now - 4 * INTERVAL_US) - INTERVAL_US

        def unit(tx: Tx) -> None:
            for life in lives:
                start, end = (None if at is None else newest + int(at * INTERVAL_US) for at in (life["start"], life["end"]))
                pool = life.get("pool", 1)
                tx.insert(
                    "node_usage", node_pk=1, pool_pk=pool, pool_id=f"p{pool}", vm_size="standard_d2s_v3", dedicated=1, cores=2,
                    allocated=start, released=end,
                )  # fmt: skip

        await still.db.run(unit)
        return newest

    async def test_the_newest_interval(self, still: Still) -> None:
        newest = await self._lives(
            still, {"start": -3, "end": None}, {"start": 0.5, "end": 9, "pool": 2}, {"start": -5, "end": -4, "pool": 3}
        )
        answer = (await still("GET", "/poolusagemetrics")).json()
        assert answer["odata.metadata"].endswith("/$metadata#poolusagemetrics")
        common = {"startTime": times.iso(newest), "endTime": times.iso(newest + INTERVAL_US), "vmSize": "standard_d2s_v3"}
        assert answer["value"] == [{"poolId": "p1", "totalCoreHours": 1.0, **common}, {"poolId": "p2", "totalCoreHours": 0.5, **common}]
        filtered = await still("GET", "/poolusagemetrics", query="$filter=startswith%28poolId%2C%27p2%27%29")
        assert filtered.json()["value"] == answer["value"][1:]

    async def test_a_span_in_pages(self, still: Still) -> None:
        newest = await self._lives(still, {"start": -200, "end": -197.5}, {"start": -2, "end": None, "pool": 2}, {"start": -1, "end": 0})
        span = f"&starttime={times.iso(newest - 300 * INTERVAL_US)}&endTime={times.iso(newest + INTERVAL_US)}"
        found: list[Json] = []
        query = f"maxresults=2{span}"
        while query:
            page = await still("GET", "/poolusagemetrics", query=query)
            assert page.status_code == 200, page.text
            found += page.json()["value"]
            link = page.json().get("odata.nextLink")
            query = (
                "" if link is None else "&".join(part for part in link.partition("?")[2].split("&") if not part.startswith("api-version"))
            )
        seen = [((times.from_iso(item["startTime"]) - newest) // INTERVAL_US, item["poolId"], item["totalCoreHours"]) for item in found]
        assert seen == [
            (-200, "p1", 1.0), (-199, "p1", 1.0), (-198, "p1", 0.5), (-2, "p2", 1.0), (-1, "p1", 1.0), (-1, "p2", 1.0), (0, "p2", 1.0),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("starttime=yesterday", "starttime"),
            ("endtime=2020-13-01T00:00:00Z", "endtime"),
            ("starttime=2999-01-01T00:00:00Z", "starttime"),
            ("endtime=2999-01-01T00:00:00Z", "endtime"),
            ("starttime=2021-01-01T00:00:00Z&endtime=2020-01-01T00:00:00Z", "starttime"),
            ("$skiptoken=x", "$skiptoken"),
        ],
    )
    def test_what_is_refused(self, raw: Raw, query: str, name: str) -> None:
        assert raw("GET", "/poolusagemetrics", query=query).assert_error(400, "InvalidQueryParameterValue", QueryParameterName=name)[
            "Reason"
        ]

    def test_any_span_of_the_past_is_answered(self, raw: Raw) -> None:
        for query in ("starttime=0001-01-01T00:00:00Z", "endtime=0001-01-01T00:00:00Z", "starttime=2020-01-01T00:00:00.123%2B02:00"):
            assert raw("GET", "/poolusagemetrics", query=query).json["value"] == []


class TestPoolStatistics:
    """$expand=stats: core time, and nothing that is not measured."""

    def test_only_when_asked(self, raw: Raw, yard: Yard, node_id: str) -> None:
        assert node_id
        path = f"/pools/{yard.pool_id}"
        assert "stats" not in raw("GET", path).json
        stats = raw("GET", path, query="$expand=stats").json["stats"]
        assert set(stats) == {"url", "startTime", "lastUpdateTime", "usageStats"}
        assert stats["url"] == f"{raw.endpoint}{path}"
        assert set(stats["usageStats"]) == {"startTime", "lastUpdateTime", "dedicatedCoreTime"}
        assert (times.duration(stats["usageStats"]["dedicatedCoreTime"]) or 0) > 0
        listed = raw("GET", "/pools", query="$expand=stats").json["value"]
        assert all("usageStats" in pool["stats"] for pool in listed)
        raw("GET", path, query="$expand=nodes").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$expand")
