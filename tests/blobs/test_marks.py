"""Leases, tags, tiers, seals and snapshots, through the SDK."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, BlobLeaseClient, BlobServiceClient, ContainerClient, StandardBlobTier

from batchyard.model.times import http_date, micros

OTHER = "11111111-2222-3333-4444-555555555555"


def code(call: Callable[[], object]) -> tuple[int | None, str]:
    """Status and code of the error that a call gets."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    assert caught.value.response is not None
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


@pytest.fixture
def blob(container: ContainerClient) -> BlobClient:
    return container.upload_blob("blob", b"content")


WRITES: dict[str, Callable[[BlobClient, Any], object]] = {
    "overwrite": lambda blob, lease: blob.upload_blob(b"new", overwrite=True, lease=lease),
    "metadata": lambda blob, lease: blob.set_blob_metadata({"a": "b"}, lease=lease),
    "headers": lambda blob, lease: blob.set_http_headers(lease=lease),
    "block": lambda blob, lease: blob.stage_block("YQ==", b"x", lease=lease),
    "block list": lambda blob, lease: blob.commit_block_list([], lease=lease),
    "copy": lambda blob, lease: blob.start_copy_from_url(blob.url, destination_lease=lease),
    "delete": lambda blob, lease: blob.delete_blob(lease=lease),
}


@pytest.mark.parametrize("write", WRITES)
def test_only_the_holder_of_a_lease_writes(blob: BlobClient, write: str) -> None:
    lease = blob.acquire_lease(15)
    assert code(lambda: WRITES[write](blob, None)) == (412, "LeaseIdMissing")
    assert code(lambda: WRITES[write](blob, OTHER)) == (412, "LeaseIdMismatchWithBlobOperation")
    assert blob.download_blob().readall() == b"content"
    WRITES[write](blob, lease)


def test_a_lease_outlives_an_overwrite_and_is_shown(container: ContainerClient, blob: BlobClient) -> None:
    lease = blob.acquire_lease(-1)
    blob.upload_blob(b"new", overwrite=True, lease=lease)
    seen = blob.get_blob_properties(lease=lease).lease
    assert (seen.status, seen.state, seen.duration) == ("locked", "leased", "infinite")
    [listed] = container.list_blobs()
    assert (listed.lease.status, listed.lease.state, listed.lease.duration) == ("locked", "leased", "infinite")
    assert code(lambda: blob.download_blob(lease=OTHER)) == (412, "LeaseIdMismatchWithBlobOperation")
    held = lease.id
    lease.release()
    assert blob.get_blob_properties().lease.state == "available"
    assert code(lambda: blob.set_blob_metadata({}, lease=held)) == (412, "LeaseNotPresentWithBlobOperation")


def test_leases_go_through_their_states(blob: BlobClient, endpoint: Any) -> None:
    first = blob.acquire_lease(15, lease_id=OTHER)
    assert first.id == OTHER
    assert code(lambda: blob.acquire_lease(15)) == (409, "LeaseAlreadyPresent")
    first.change("99999999-2222-3333-4444-555555555555")
    assert code(lambda: BlobLeaseClient(blob, OTHER).renew()) == (409, "LeaseIdMismatchWithLeaseOperation")
    first.renew()
    assert first.break_lease(5) in range(6)
    assert blob.get_blob_properties().lease.state == "breaking"
    assert code(lambda: first.renew()) == (409, "LeaseIsBrokenAndCannotBeRenewed")
    assert first.break_lease() in range(6)
    endpoint.clock.ahead += timedelta(seconds=6)
    assert blob.get_blob_properties().lease.state == "broken"
    second = blob.acquire_lease(15)
    endpoint.clock.ahead += timedelta(seconds=16)
    assert blob.get_blob_properties().lease.state == "expired"
    assert code(lambda: blob.set_blob_metadata({}, lease=second)) == (412, "LeaseLost")
    second.renew()
    assert blob.get_blob_properties().lease.state == "leased"
    endpoint.clock.ahead += timedelta(seconds=16)
    blob.set_blob_metadata({})  # somebody else's write ends what has run out
    assert blob.get_blob_properties().lease.state == "available"
    assert code(lambda: second.renew()) == (409, "LeaseNotPresentWithLeaseOperation")
    assert code(lambda: BlobLeaseClient(blob).break_lease()) == (409, "LeaseNotPresentWithLeaseOperation")


@pytest.mark.parametrize("seconds", [0, 14, 61, -2])
def test_a_lease_lasts_a_quarter_of_a_minute_to_a_minute_or_for_ever(blob: BlobClient, seconds: int) -> None:
    assert code(lambda: blob.acquire_lease(seconds)) == (400, "InvalidHeaderValue")


def test_a_leased_container_is_deleted_by_its_holder_only(container: ContainerClient) -> None:
    lease = container.acquire_lease(-1)
    container.upload_blob("inside", b"x")  # what is in it is not leased
    assert container.get_container_properties().lease.state == "leased"
    assert code(lambda: container.set_container_metadata({"a": "b"}, lease=OTHER)) == (412, "LeaseIdMismatchWithContainerOperation")
    assert code(lambda: container.delete_container()) == (412, "LeaseIdMissing")
    container.delete_container(lease=lease)


def test_tags(service: BlobServiceClient, container: ContainerClient, blob: BlobClient) -> None:
    blob.set_blob_tags({"project": "x", "run": "07"})
    assert blob.get_blob_tags() == {"project": "x", "run": "07"}
    assert blob.get_blob_properties().tag_count == 2
    container.upload_blob("tagged", b"", tags={"project": "y z", "run": "08"})
    container.upload_blob("none", b"")
    listed = {found.name: found.tags for found in container.list_blobs(include=["tags"])}
    assert listed == {"blob": {"project": "x", "run": "07"}, "none": None, "tagged": {"project": "y z", "run": "08"}}
    here = f"@container = '{container.container_name}'"
    for wanted, names in {
        "project = 'x'": ["blob"],
        "\"run\" >= '07'": ["blob", "tagged"],
        "run > '07' AND project = 'y z'": ["tagged"],
        "run > '08'": [],
    }.items():
        assert [found.name for found in service.find_blobs_by_tags(f"{here} AND {wanted}")] == names
        assert [found.name for found in container.find_blobs_by_tags(wanted)] == names
    pages = service.find_blobs_by_tags(f"{here} AND run > '0'", results_per_page=1).by_page()
    assert [[found.name for found in page] for page in pages][:2] == [["blob"], ["tagged"]]
    for wrong in ("", "run", "run = 7", "run = '7' OR run = '8'", "run = '7' AND", "(run = '7'", "run = '7' x", "§ = '1'"):
        assert code(lambda wrong=wrong: list(container.find_blobs_by_tags(wrong))) == (400, "InvalidQueryParameterValue"), wrong
    blob.upload_blob(b"new", overwrite=True)
    assert blob.get_blob_tags() == {}


def test_conditions_on_tags(container: ContainerClient, blob: BlobClient) -> None:
    blob.set_blob_tags({"state": "done"})
    yes, no = "state = 'done' OR state = 'x'", "(state <> 'done') AND state > ''"
    assert blob.download_blob(if_tags_match_condition=yes).readall() == b"content"
    assert code(lambda: blob.download_blob(if_tags_match_condition=no)) == (412, "ConditionNotMet")
    assert code(lambda: blob.set_blob_metadata({"a": "b"}, if_tags_match_condition=no)) == (412, "ConditionNotMet")
    assert code(lambda: blob.set_blob_tags({}, if_tags_match_condition=no)) == (412, "ConditionNotMet")
    blob.delete_blob(if_tags_match_condition=yes)


@pytest.mark.parametrize("tags", [{"": "x"}, {"k" * 129: ""}, {"k": "v" * 257}, {"ä": "x"}, {"k": "<"}, {str(n): "" for n in range(11)}])
def test_what_may_not_be_a_tag(blob: BlobClient, tags: dict[str, str]) -> None:
    assert code(lambda: blob.set_blob_tags(tags))[0] == 400
    assert blob.get_blob_tags() == {}


def test_tiers_are_stored_and_shown(container: ContainerClient, blob: BlobClient) -> None:
    seen = blob.get_blob_properties()
    assert (seen.blob_tier, seen.blob_tier_inferred) == ("Hot", True)
    blob.set_standard_blob_tier("Cool")
    seen = blob.get_blob_properties()
    assert (seen.blob_tier, seen.blob_tier_inferred) == ("Cool", None)
    assert seen.blob_tier_change_time is not None
    container.upload_blob("cold", b"", standard_blob_tier=StandardBlobTier.COLD)
    assert {found.name: found.blob_tier for found in container.list_blobs()} == {"blob": "Cool", "cold": "Cold"}
    blob.set_standard_blob_tier("Archive")
    assert code(lambda: blob.download_blob()) == (409, "BlobArchived")
    blob.set_standard_blob_tier("Hot")
    assert blob.download_blob().readall() == b"content"
    assert code(lambda: blob.set_standard_blob_tier("Warm")) == (400, "InvalidHeaderValue")


def test_snapshots(container: ContainerClient, blob: BlobClient) -> None:
    blob.set_blob_metadata({"Who": "me"})
    taken = [blob.create_snapshot()["snapshot"] for _ in range(2)]
    blob.upload_blob(b"new" * 100_000, overwrite=True)
    old = container.get_blob_client("blob", snapshot=taken[0])
    assert old.download_blob().readall() == b"content"
    assert old.get_blob_properties().metadata == {"Who": "me"}
    listed = [(found.name, found.snapshot) for found in container.list_blobs(include=["snapshots"])]
    assert listed == [("blob", taken[0]), ("blob", taken[1]), ("blob", None)]
    pages = container.list_blobs(include=["snapshots"], results_per_page=1).by_page()
    assert [(found.name, found.snapshot) for page in pages for found in page] == listed
    assert [found.name for found in container.list_blobs()] == ["blob"]
    blob.start_copy_from_url(old.url)
    assert blob.download_blob().readall() == b"content"
    assert code(lambda: blob.delete_blob()) == (409, "SnapshotsPresent")
    assert code(lambda: old.set_blob_metadata({})) == (400, "UnsupportedQueryParameter")
    old.delete_blob()
    assert code(lambda: old.download_blob()) == (404, "BlobNotFound")
    blob.delete_blob(delete_snapshots="only")
    assert [(found.name, found.snapshot) for found in container.list_blobs(include=["snapshots"])] == [("blob", None)]
    blob.create_snapshot()
    blob.delete_blob(delete_snapshots="include")
    assert list(container.list_blobs(include=["snapshots"])) == []


def test_a_sealed_append_blob_takes_no_more(container: ContainerClient) -> None:
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block(b"one")
    assert code(lambda: log.seal_append_blob(appendpos_condition=5)) == (412, "AppendPositionConditionNotMet")
    assert log.seal_append_blob()["blob_sealed"]
    assert code(lambda: log.append_block(b"two")) == (409, "BlobIsSealed")
    assert log.get_blob_properties().is_append_blob_sealed
    log.create_append_blob()
    log.append_block(b"again")


def test_uncommitted_blobs_are_listed_when_asked_for(container: ContainerClient, blob: BlobClient) -> None:
    for name in ("a", "c"):
        container.get_blob_client(name).stage_block("YQ==", b"x")
    blob.stage_block("YQ==", b"x")
    assert [(found.name, found.size) for found in container.list_blobs(include=["uncommittedblobs"])] == [("a", 0), ("blob", 7), ("c", 0)]
    pages = container.list_blobs(include=["uncommittedblobs"], results_per_page=1).by_page()
    assert [found.name for page in pages for found in page] == ["a", "blob", "c"]
    assert [found.name for found in container.list_blobs()] == ["blob"]


def test_names_of_metadata_keep_their_case(container: ContainerClient, blob: BlobClient) -> None:
    wanted = {"CamelCase": "1", "lower": "2", "UPPER": "3"}
    blob.set_blob_metadata(wanted)
    assert blob.get_blob_properties().metadata == wanted
    assert blob.download_blob().properties.metadata == wanted
    assert blob.download_blob(offset=1, length=2).properties.metadata == wanted
    assert next(iter(container.list_blobs(include=["metadata"]))).metadata == wanted
    container.set_container_metadata(wanted)
    assert container.get_container_properties().metadata == wanted


def test_empty_optional_headers_count_as_absent(container: ContainerClient, blob: BlobClient) -> None:
    names = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "x-ms-lease-id", "x-ms-tags", "x-ms-access-tier")
    headers = dict.fromkeys((*names, "Content-MD5", "x-ms-blob-content-md5", "x-ms-if-tags", "x-ms-copy-source"), "")
    blob.upload_blob(b"new", overwrite=True, headers=headers)
    assert blob.download_blob(headers=dict.fromkeys((*names, "x-ms-range"), "")).readall() == b"new"
    blob.delete_blob(headers=dict.fromkeys(names, ""))


def test_a_blob_that_expires(endpoint: Any, container: ContainerClient, blob: BlobClient) -> None:
    def expire(option: str, time: str = "") -> tuple[int, str]:
        path = f"/{container.container_name}/{blob.blob_name}?comp=expiry"
        answer = endpoint.send("PUT", path, x_ms_expiry_option=option, x_ms_expiry_time=time)
        return answer.status_code, answer.headers.get("x-ms-error-code", "")

    now = datetime.now(UTC)
    for option, time in (("Never", ""), ("RelativeToNow", "soon"), ("Absolute", "soon"), ("Absolute", http_date(micros(now) - 10_000_000))):
        assert expire(option, time) == (400, "InvalidHeaderValue")
    endpoint.clock.stopped = now
    assert expire("RelativeToNow", "60000") == (200, "")
    shown = endpoint.send("HEAD", f"/{container.container_name}/{blob.blob_name}").headers["x-ms-expiry-time"]
    assert shown == http_date(micros(now) + 60_000_000)
    endpoint.clock.stopped = now + timedelta(seconds=59)
    assert blob.exists()
    endpoint.clock.stopped = now + timedelta(seconds=60)
    assert not blob.exists()
    assert code(blob.download_blob) == (404, "BlobNotFound")
    endpoint.clock.stopped = now
    assert expire("NeverExpire") == (200, "")
    endpoint.clock.stopped = now + timedelta(seconds=61)
    assert blob.exists()
    assert expire("RelativeToCreation", "1") == (200, "")
    endpoint.store.expire_deleted(10, micros(now) + 70_000_000)
    assert list(container.list_blobs()) == []
