"""Accounts as worlds of their own on a live server: made and limited by the operator, reached in every way, gone without a trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient
from tests.api.conftest import Json, Raw, Sdk, Yard, pages, pool_body, task, unique
from tests.conftest import Server, wait_for

SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
ACCOUNTS = "/batchyard/v1/accounts"


class House:
    """A server, and its operator."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.operator = Raw(server.endpoint, "$operator", (server.directory / "operator.key").read_text().strip())
        self.default = Raw(server.endpoint, server.account, server.key)

    def account(self, name: str | None = None, **more: object) -> Raw:
        """A new account, signed for at the server's own URL."""
        name = name or unique("a").replace("-", "")
        made = self.operator("POST", ACCOUNTS, {"name": name, **more})
        assert made.status == 201, made.body
        return Raw(self.server.endpoint, name, self.keys(name)[0])

    def keys(self, name: str) -> tuple[str, str]:
        found = self.operator("GET", f"{ACCOUNTS}/{name}/keys").json
        return found["primary"], found["secondary"]

    def storage(self, raw: Raw) -> str:
        return str(raw("GET", f"{ACCOUNTS}/{raw.account}").json["storageAccount"])

    def storage_key(self, raw: Raw) -> str:
        import json

        return str(json.loads((self.server.directory / "accounts" / raw.account / "account.json").read_text())["storageKey"])


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    running = Server("--test-clock", nodes=3)
    yield House(running)
    running.stop()


@pytest.fixture(scope="module")
def alpha(house: House) -> Raw:
    return house.account("alpha")


def prefixed(raw: Raw) -> str:
    return f"{raw.endpoint}/accounts/{raw.account}"


def test_accounts_share_ids_and_nothing_else(house: House, alpha: Raw) -> None:
    beta = house.account()
    for raw in (alpha, beta, house.default):
        assert raw("POST", "/pools", pool_body("same")).status == 201
        assert raw("POST", "/jobs", {"id": "same", "poolInfo": {"poolId": "same"}}).status == 201
    assert alpha("DELETE", "/jobs/same").status == 202
    wait_for(lambda: alpha("GET", "/jobs/same").status == 404, "the job to be gone")
    assert [raw("GET", "/jobs/same").status for raw in (alpha, beta, house.default)] == [404, 200, 200]
    for raw in (alpha, beta, house.default):
        raw("DELETE", "/pools/same")


def test_only_the_operator_makes_limits_and_removes(house: House, alpha: Raw) -> None:
    name = unique("b").replace("-", "")
    for caller in (alpha, house.default):
        caller("POST", ACCOUNTS, {"name": name}).assert_error(403, "InsufficientAccountPermissions")
        caller("GET", ACCOUNTS).assert_error(403, "InsufficientAccountPermissions")
        caller("DELETE", f"{ACCOUNTS}/alpha").assert_error(403, "InsufficientAccountPermissions")
        caller("PATCH", f"{ACCOUNTS}/alpha/quotas", {"poolQuota": 9}).assert_error(403, "InsufficientAccountPermissions")
    house.default("GET", f"{ACCOUNTS}/alpha/keys").assert_error(403, "InsufficientAccountPermissions")
    house.default("GET", f"{ACCOUNTS}/nobody").assert_error(403, "InsufficientAccountPermissions")
    house.operator("GET", "/pools").assert_error(403, "InsufficientAccountPermissions")
    house.operator("GET", ACCOUNTS, key=house.server.key).assert_error(403, "AuthenticationFailed")
    assert (house.server.directory / "operator.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"name": "UPPER"}, "name"),
        ({"name": "a"}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"name": "x" * 25}, "name"),
        ({"name": "relative", "location": "somewhere"}, "location"),
        ({"name": "nowhere", "location": "/no/such/place/at/all"}, "location"),
        ({"name": "climbs", "location": "/tmp/../etc/x"}, "location"),
        ({"name": "taken", "location": "/etc"}, "location"),
    ],
)
def test_what_is_no_account_is_refused(house: House, body: Json, named: str) -> None:
    house.operator("POST", ACCOUNTS, body).assert_error(400, "InvalidPropertyValue", PropertyName=named)
    house.operator("GET", f"{ACCOUNTS}/{body['name'].replace('/', '%2F')}").assert_error(404, "AccountNotFound")


def test_a_name_is_given_once(house: House, alpha: Raw) -> None:
    house.operator("POST", ACCOUNTS, {"name": "alpha"}).assert_error(409, "AccountExists")
    house.operator("POST", ACCOUNTS, {"name": house.server.account}).assert_error(409, "AccountExists")
    house.operator("POST", ACCOUNTS, {"name": "beta", "quotas": {"poolQuota": -1}}).assert_error(400, "InvalidRequestBody")


def test_accounts_are_listed_in_pages(house: House, alpha: Raw) -> None:
    names = [house.account().account for _ in range(3)]
    listed = [item["name"] for page in pages(house.operator, ACCOUNTS) for item in page]
    assert [name for name in listed if name in {house.server.account, "alpha", *names}] == [house.server.account, "alpha", *names]


def test_a_location_of_its_own(house: House, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    raw = house.account(location=str(place))
    assert raw("POST", "/pools", pool_body("p")).status == 201
    assert {"account.json", "batchyard.db", "blobs"} <= {path.name for path in place.iterdir()}
    inside = house.server.directory / "blobs" / "x"
    house.operator("POST", ACCOUNTS, {"name": "inner", "location": str(inside)}).assert_error(
        400, "InvalidPropertyValue", PropertyName="location"
    )
    house.operator("POST", ACCOUNTS, {"name": "same", "location": str(place)}).assert_error(400, "InvalidPropertyValue")
    assert house.operator("DELETE", f"{ACCOUNTS}/{raw.account}").status == 202
    wait_for(lambda: not place.exists(), "the place to be gone")


def test_the_newer_sdk_by_prefix(house: House, alpha: Raw) -> None:
    """Every address in an answer has the prefix, pages go on."""
    sdk = Sdk(prefixed(alpha), "alpha", alpha.key)
    for number in range(3):
        sdk.client.create_job({"id": f"by-prefix-{number}", "poolInfo": {"poolId": "none"}})  # type: ignore[arg-type]
        assert sdk.last.headers["location"] == sdk.last.headers["dataserviceid"] == f"{prefixed(alpha)}/jobs/by-prefix-{number}"
    job = sdk.client.get_job("by-prefix-0")
    assert job.url == f"{prefixed(alpha)}/jobs/by-prefix-0"
    found = [job.id for job in sdk.client.list_jobs(max_results=2) if job.id.startswith("by-prefix")]
    assert found == ["by-prefix-0", "by-prefix-1", "by-prefix-2"]
    assert sdk.last.url.startswith(prefixed(alpha) + "/jobs?")
    assert "skiptoken" in sdk.last.url.lower()


@pytest.mark.skipif(SDK14_PYTHON not in os.environ, reason=f"{SDK14_PYTHON} is not set (make test sets it)")
def test_the_older_sdk_by_prefix(house: House, alpha: Raw) -> None:
    script = f"""
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch import models
batch = BatchServiceClient(SharedKeyCredentials("alpha", "{alpha.key}"), batch_url="{prefixed(alpha)}")
for number in range(3):
    batch.job.add(models.JobAddParameter(id=f"older-{{number}}", pool_info=models.PoolInformation(pool_id="none")))
jobs = list(batch.job.list(models.JobListOptions(max_results=2)))
print([job.id for job in jobs if job.id.startswith("older")], jobs[0].url)
"""
    told = subprocess.run([os.environ[SDK14_PYTHON], "-c", script], capture_output=True, text=True, check=False)
    assert told.stdout.startswith(f"['older-0', 'older-1', 'older-2'] {prefixed(alpha)}/jobs/"), told.stderr


def test_by_host_name(house: House, alpha: Raw) -> None:
    """The first label of a name of three is the account; the default one's is nobody's alone, for a machine may be called so."""
    port = alpha.endpoint.rpartition(":")[2]
    named = {"host": f"alpha.here.batch.example:{port}"}
    assert alpha("POST", "/pools", pool_body("hosted"), headers=named).status == 201
    found = alpha("GET", "/pools/hosted", headers=named).json
    assert found["url"] == f"http://alpha.here.batch.example:{port}/pools/hosted"
    house.default("GET", "/pools", headers=named).assert_error(403, "AuthenticationFailed")
    at_default = {"host": f"{house.server.account}.here.batch.example:{port}"}
    assert alpha("GET", "/pools/hosted", headers=at_default).status == 200
    alpha("DELETE", "/pools/hosted")


def test_a_name_that_says_two_accounts_is_refused(house: House, alpha: Raw) -> None:
    by_prefix = "/accounts/alpha/pools"
    house.default("GET", by_prefix).assert_error(403, "AuthenticationFailed")
    alpha("GET", f"/accounts/{house.server.account}/pools").assert_error(403, "AuthenticationFailed")
    alpha("GET", "/accounts/nobody/pools").assert_error(403, "AuthenticationFailed")
    house.default("GET", "/accounts/nobody/pools").assert_error(403, "AuthenticationFailed")
    house.operator("GET", f"/accounts/alpha{ACCOUNTS}").assert_error(403, "AuthenticationFailed")
    assert alpha("GET", by_prefix).status == 200
    assert house.default("GET", f"/accounts/{house.server.account}/pools").status == 200


def test_storage_of_its_own(house: House, alpha: Raw) -> None:
    name, key = house.storage(alpha), house.storage_key(alpha)
    service = BlobServiceClient(f"{alpha.endpoint}/{name}", credential={"account_name": name, "account_key": key}, retry_total=0)
    service.create_container("mine").upload_blob("b", b"of alpha")
    assert service.get_blob_client("mine", "b").download_blob().readall() == b"of alpha"
    theirs = BlobServiceClient(
        f"{alpha.endpoint}/{name}", credential={"account_name": name, "account_key": house.server.storage_key}, retry_total=0
    )
    with pytest.raises(Exception, match="AuthenticationFailed"):
        theirs.get_blob_client("mine", "b").download_blob()
    default = BlobServiceClient.from_connection_string(house.server.storage_connection_string)
    assert "mine" not in [container.name for container in default.list_containers()]


def test_keys_are_renewed_one_at_a_time(house: House) -> None:
    raw = house.account()
    first, second = house.keys(raw.account)
    renewed = raw("POST", f"{ACCOUNTS}/{raw.account}/keys/primary/renew")
    assert renewed.status == 200
    fresh = renewed.json["primary"]
    assert renewed.json["secondary"] == second
    raw("GET", "/pools", key=first).assert_error(403, "AuthenticationFailed")
    assert [raw("GET", "/pools", key=key).status for key in (second, fresh)] == [200, 200]
    again = raw("POST", f"{ACCOUNTS}/{raw.account}/keys/secondary/renew", key=fresh).json["secondary"]
    assert [raw("GET", "/pools", key=key).status for key in (fresh, again, second)] == [200, 200, 403]
    raw("POST", f"{ACCOUNTS}/{raw.account}/keys/third/renew", key=fresh).assert_error(400, "InvalidPropertyValue")


def test_quotas_hold_at_once_and_are_told(house: House) -> None:
    raw = house.account(quotas={"poolQuota": 1})
    own = f"{ACCOUNTS}/{raw.account}"
    assert raw("POST", "/pools", pool_body("p")).status == 201
    raw("POST", "/pools", pool_body("q")).assert_error(409, "PoolQuotaReached")
    told = raw("GET", own).json
    assert (told["quotas"], told["used"]["poolQuota"]) == ({"poolQuota": 1}, 1)
    changed = house.operator("PATCH", f"{own}/quotas", {"poolQuota": 2, "activeJobAndJobScheduleQuota": 0, "dedicatedCoreQuota": 0})
    assert changed.json["quotas"] == {"poolQuota": 2, "activeJobAndJobScheduleQuota": 0, "dedicatedCoreQuota": 0}
    assert raw("POST", "/pools", pool_body("q", targetDedicatedNodes=1)).status == 201
    errors = wait_for(lambda: raw("GET", "/pools/q").json.get("resizeErrors"), "the pool to say why")
    assert [error["code"] for error in errors] == ["AccountCoreQuotaReached"]
    raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}}).assert_error(409, "ActiveJobAndScheduleQuotaReached")
    assert house.operator("PATCH", f"{own}/quotas", {"activeJobAndJobScheduleQuota": None}).json["quotas"] == {
        "poolQuota": 2,
        "dedicatedCoreQuota": 0,
    }
    assert raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}}).status == 201
    house.operator("PATCH", f"{own}/quotas", {"dedicatedCoreQuota": -1}).assert_error(400, "InvalidRequestBody")


@pytest.fixture(scope="module")
def place(house: House, alpha: Raw) -> Yard:
    """A node of alpha."""
    pool_id = unique("pool")
    assert alpha("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=1, taskSlotsPerNode=4)).status == 201
    yard = Yard(alpha, pool_id)
    wait_for(lambda: [node["state"] for node in yard.get(f"/pools/{pool_id}/nodes")["value"]] == ["idle"], "the node")
    return yard


def test_tasks_run_and_their_tokens_say_the_account(place: Yard, house: House, alpha: Raw) -> None:
    script = "echo $AZ_BATCH_ACCOUNT_NAME $AZ_BATCH_ACCOUNT_URL $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 300"
    job_id = place.job(task("t", script, authenticationTokenSettings={"access": ["job"]}))
    place.reached(job_id, "t", "running")
    path = f"/jobs/{job_id}/tasks/t/files/stdout.txt"
    name, url, token = wait_for(lambda: alpha("GET", path).body.decode().split() if alpha("GET", path).status == 200 else [], "its words")
    assert (name, url) == ("alpha", f"{prefixed(alpha)}/")
    assert token.startswith("alpha~task.")
    bearer = {"authorization": f"Bearer {token}"}
    for at in ("", "/accounts/alpha"):
        assert alpha("GET", f"{at}/jobs/{job_id}", headers=bearer).status == 200
        alpha("GET", f"{at}/pools", headers=bearer).assert_error(403, "InsufficientAccountPermissions")
    alpha("GET", f"/accounts/{house.server.account}/jobs/{job_id}", headers=bearer).assert_error(403, "AuthenticationFailed")
    unmarked = {"authorization": f"Bearer {token.partition('~')[2]}"}
    alpha("GET", f"/jobs/{job_id}", headers=unmarked).assert_error(401, "InvalidAuthenticationInfo")
    alpha("GET", f"{ACCOUNTS}/alpha/keys", headers=bearer).assert_error(403, "InsufficientAccountPermissions")
    alpha("POST", f"/jobs/{job_id}/terminate")


def test_files_of_the_linked_storage_reach_its_tasks(place: Yard, house: House, alpha: Raw) -> None:
    name, key = house.storage(alpha), house.storage_key(alpha)
    service = BlobServiceClient(f"{alpha.endpoint}/{name}", credential={"account_name": name, "account_key": key})
    service.create_container("inputs").upload_blob("in.txt", b"from alpha")
    job_id = place.job(task("reads", "cat in.txt", resourceFiles=[{"autoStorageContainerName": "inputs"}]))
    assert place.reached(job_id, "reads")["executionInfo"]["exitCode"] == 0
    assert alpha("GET", f"/jobs/{job_id}/tasks/reads/files/stdout.txt").body == b"from alpha"


def test_local_nodes_are_counted_over_all_accounts(place: Yard, house: House) -> None:
    """Three fit on this server; alpha has one."""
    other = house.account()
    assert other("POST", "/pools", pool_body("p", targetDedicatedNodes=3)).status == 201
    wait_for(lambda: [node["state"] for node in other("GET", "/pools/p/nodes").json["value"]] == ["idle"] * 2, "two of them")
    [error] = wait_for(lambda: other("GET", "/pools/p").json.get("resizeErrors"), "the pool to say why there are no more")
    assert error["values"][1]["value"] == "this machine is set to run 3 nodes at most"
    assert house.operator("DELETE", f"{ACCOUNTS}/{other.account}").status == 202
    gone(house, other)


def gone(house: House, raw: Raw) -> None:
    wait_for(lambda: house.operator("GET", f"{ACCOUNTS}/{raw.account}").status == 404, "the account to be gone")
    assert not (house.server.directory / "accounts" / raw.account).exists()


def agents_of(server: Server, name: str) -> list[int]:
    from batchyard.cli import processes

    return [pid for pid, _ in processes.agents_below(server.directory / "accounts" / name)]


def test_a_deleted_account_ends_its_nodes_and_leaves_nothing(house: House) -> None:
    raw = house.account()
    assert raw("POST", "/pools", pool_body("p", targetDedicatedNodes=1)).status == 201
    wait_for(lambda: [node["state"] for node in raw("GET", "/pools/p/nodes").json["value"]] == ["idle"], "the node")
    assert len(agents_of(house.server, raw.account)) == 1
    assert house.operator("DELETE", f"{ACCOUNTS}/{raw.account}").status == 202
    raw("GET", "/pools").assert_error(403, "AuthenticationFailed")
    gone(house, raw)
    assert agents_of(house.server, raw.account) == []
    raw("GET", "/pools").assert_error(403, "AuthenticationFailed")
    house.operator("DELETE", f"{ACCOUNTS}/{raw.account}").assert_error(404, "AccountNotFound")
    house.operator("DELETE", f"{ACCOUNTS}/{house.server.account}").assert_error(403, "Forbidden")
    assert house.account(raw.account)("GET", "/pools").json["value"] == [], "a new world under the old name"


def test_a_killed_server_finishes_what_it_had_begun(own_server: Server) -> None:
    """Accounts that are there stay; one that was to be deleted is, with the node that lived on."""
    house = House(own_server)
    kept, doomed = house.account("kept"), house.account("doomed")
    for raw in (kept, doomed):
        assert raw("POST", "/pools", pool_body("p", targetDedicatedNodes=1)).status == 201
        wait_for(lambda raw=raw: [node["state"] for node in raw("GET", "/pools/p/nodes").json["value"]] == ["idle"], "the node")  # type: ignore[misc]
    assert house.operator("DELETE", f"{ACCOUNTS}/doomed").status == 202
    own_server.kill()
    own_server.start()
    gone(house, doomed)
    assert agents_of(own_server, "doomed") == []
    assert kept("GET", "/pools/p").status == 200
    job_id = unique("job")
    assert kept("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "p"}}).status == 201
    assert kept("POST", f"/jobs/{job_id}/tasks", task("t")).status == 201
    Yard(kept, "p").reached(job_id, "t")
