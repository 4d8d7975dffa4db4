"""Nodes, and the files of tasks and nodes: lists, ranges, properties, escapes, removal (contract 1.8, A.7)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest
from azure.batch import BatchClient
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from tests.api.conftest import Answer, Raw, Sdk, Yard, escaped, pages, pool_body, task, unique
from tests.conftest import Server, wait_for

SCRIPT = """
echo hello
echo trouble >&2
mkdir -p deep/er
printf 0123456789 > "deep/er/a b&c=d+e~ü%.txt"
printf 1 > one
: > empty
"""
ODD = "wd/deep/er/a b&c=d+e~ü%.txt"
LISTED = ["stderr.txt", "stdout.txt", "wd", "wd/deep", "wd/deep/er", ODD, "wd/empty", "wd/one"]


@pytest.fixture(scope="module")
def made(server: Server, pool_id: str) -> str:
    """A job with one completed task, `t`, that left files behind."""
    yard = Yard(Raw(server.endpoint, server.account, server.key), pool_id)
    job_id = yard.job(task("t", SCRIPT))
    assert yard.reached(job_id, "t")["executionInfo"]["exitCode"] == 0
    return job_id


@pytest.fixture
def files(made: str) -> str:
    """Path of the task's files."""
    return f"/jobs/{made}/tasks/t/files"


@pytest.fixture
def node_files(yard: Yard, node_id: str) -> str:
    """Path of the node's files."""
    return f"/pools/{yard.pool_id}/nodes/{node_id}/files"


class TestNodes:
    """What a node says of itself."""

    def test_a_node(self, raw: Raw, yard: Yard, node_id: str, made: str) -> None:
        path = f"/pools/{yard.pool_id}/nodes/{node_id}"
        node = wait_for(lambda: found if (found := yard.get(path))["state"] == "idle" else None, "the node to be idle")
        assert node["odata.metadata"] == f"{raw.endpoint}/$metadata#nodes/@Element"
        assert (node["id"], node["url"], node["affinityId"]) == (node_id, raw.endpoint + path, f"TVM:{node_id}")
        assert node_id.startswith("tvmps_")
        assert node_id.endswith("_d")
        assert len(node_id) == len("tvmps_") + 64 + len("_d")
        assert (node["schedulingState"], node["isDedicated"], node["vmSize"]) == ("enabled", True, "standard_d2s_v3")
        assert (node["runningTasksCount"], node["runningTaskSlotsCount"]) == (0, 0)
        assert node["totalTasksRun"] >= node["totalTasksSucceeded"] >= 1
        assert node["allocationTime"] <= node["lastBootTime"] <= node["stateTransitionTime"]
        assert node["ipAddress"]
        assert node["nodeAgentInfo"]["version"]
        assert node["virtualMachineInfo"]["imageReference"]["publisher"] == "canonical"
        [listed] = yard.get(f"/pools/{yard.pool_id}/nodes")["value"]
        del node["odata.metadata"]
        assert listed == node

    def test_a_busy_node(self, raw: Raw, yard: Yard, node_id: str) -> None:
        path = f"/pools/{yard.pool_id}/nodes/{node_id}"
        before = wait_for(lambda: found if (found := yard.get(path))["runningTasksCount"] == 0 else None, "the node to be idle")
        job_id = yard.job(task("t", "sleep 300", requiredSlots=3))
        yard.reached(job_id, "t", "running")
        busy = yard.get(path)
        assert (busy["state"], busy["runningTasksCount"], busy["runningTaskSlotsCount"]) == ("running", 1, 3)
        raw("POST", f"/jobs/{job_id}/tasks/t/terminate")
        after = yard.get(path)
        assert (after["state"], after["runningTasksCount"], after["runningTaskSlotsCount"]) == ("idle", 0, 0)
        assert after["totalTasksRun"] == before["totalTasksRun"] + 1
        assert after["totalTasksSucceeded"] == before["totalTasksSucceeded"]

    def test_unknown_nodes(self, raw: Raw, yard: Yard) -> None:
        for name in ("x", "tvmps_" + "0" * 64 + "_d"):
            raw("GET", f"/pools/{yard.pool_id}/nodes/{name}").assert_error(404, "NodeNotFound")
            raw("GET", f"/pools/{yard.pool_id}/nodes/{name}/files").assert_error(404, "NodeNotFound")
            assert raw("HEAD", f"/pools/{yard.pool_id}/nodes/{name}/files/a").status == 404

    @pytest.mark.parametrize("expires", ["9999-12-31T23:59:59-23:00", "2026-13-01T00:00:00Z"])
    def test_a_users_expiry_is_a_time_that_can_be_written(self, raw: Raw, yard: Yard, expires: str) -> None:
        path = f"/pools/{yard.pool_id}/nodes/never/users"  # the node is asked for afterwards
        body = {"name": unique("u")[:20], "password": "A long secret 1", "expiryTime": expires}
        raw("POST", path, body).assert_error(400, "InvalidPropertyValue", PropertyName="expiryTime", PropertyValue=expires)
        raw("PUT", f"{path}/u", {"expiryTime": expires}).assert_error(400, "InvalidPropertyValue", PropertyName="expiryTime")

    def test_pages(self, raw: Raw, yard: Yard, batch: BatchClient) -> None:
        pool_id = unique("pool")
        raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=2, targetLowPriorityNodes=1))
        yard.steady(pool_id)
        found = pages(raw, f"/pools/{pool_id}/nodes")
        assert [len(page) for page in found] == [2, 1]
        seen = [node["id"] for page in found for node in page]
        assert len(set(seen)) == 3
        assert sorted(name[-2:] for name in seen) == ["_d", "_d", "_p"]
        assert [node.id for node in batch.list_nodes(pool_id, max_results=1)] == seen
        raw("DELETE", f"/pools/{pool_id}")
        yard.gone(f"/pools/{pool_id}")


class TestLists:
    """Listing files: direct children, or the whole tree."""

    def test_not_recursive(self, raw: Raw, files: str) -> None:
        for query in ("", "recursive=false", "Recursive=False"):
            answer = raw("GET", files, query=query)
            assert answer.json["odata.metadata"] == f"{raw.endpoint}/$metadata#files"
            items = answer.json["value"]
            assert [item["name"] for item in items] == ["stderr.txt", "stdout.txt", "wd"]
            assert "odata.nextLink" not in answer.json
            properties = items[1]["properties"]
            assert items[1] == {
                "name": "stdout.txt",
                "url": f"{raw.endpoint}{files}/stdout.txt",
                "isDirectory": False,
                "properties": properties,
            }
            assert set(properties) == {"lastModified", "contentLength", "contentType", "fileMode"}
            assert (properties["contentLength"], properties["contentType"]) == ("6", "application/octet-stream")
            assert properties["fileMode"].startswith("0o100")
            assert items[2] == {"name": "wd", "url": f"{raw.endpoint}{files}/wd", "isDirectory": True}

    def test_recursive(self, raw: Raw, files: str, batch: BatchClient, made: str) -> None:
        items = raw("GET", files, query="recursive=true").json["value"]
        assert sorted(item["name"] for item in items) == sorted(LISTED)
        assert sorted(item.name or "" for item in batch.list_task_files(made, "t", recursive=True)) == sorted(LISTED)

    def test_pages(self, raw: Raw, files: str, batch: BatchClient, made: str) -> None:
        found = pages(raw, files, "recursive=true&maxresults=3")
        assert [len(page) for page in found] == [3, 3, 2]
        assert sorted(item["name"] for page in found for item in page) == sorted(LISTED)
        assert sorted(item.name or "" for item in batch.list_task_files(made, "t", recursive=True, max_results=1)) == sorted(LISTED)
        some = [name for name in sorted(LISTED) if name.startswith("wd")]
        found = pages(raw, files, "recursive=true&maxresults=1&$filter=startswith(name,'wd')")
        assert [item["name"] for page in found for item in page] == some
        raw("GET", files, query="$skiptoken=x").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$skiptoken")
        raw("GET", files, query="maxresults=-5").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="maxresults")

    def test_of_the_node(self, raw: Raw, node_files: str, made: str) -> None:
        names = [item["name"] for item in raw("GET", node_files).json["value"]]
        assert names == ["applications", "fsmounts", "shared", "startup", "volatile", "workitems"]
        everything = {item["name"] for item in raw("GET", node_files, query="recursive=true").json["value"]}
        assert f"workitems/{made}/job-1/t/{ODD}" in everything


class TestContents:
    """Reading files, whole and in part."""

    def test_the_whole_file(self, raw: Raw, files: str) -> None:
        answer = raw("GET", f"{files}/stdout.txt", headers={"Accept": "application/octet-stream"})
        assert (answer.status, answer.body) == (200, b"hello\n")
        assert answer.headers["content-length"] == "6"
        assert raw("GET", f"{files}/{escaped('wd/empty')}").body == b""

    @pytest.mark.parametrize(
        ("given", "body"),
        [
            ("bytes=0-0", b"0"),
            ("bytes=2-4", b"234"),
            ("bytes=8-", b"89"),
            ("bytes=0-9", b"0123456789"),
            ("bytes=5-1000000", b"56789"),
            ("bytes=0-999999999999999999", b"0123456789"),
        ],
    )
    def test_a_range_is_answered_with_200(self, raw: Raw, files: str, given: str, body: bytes) -> None:
        answer = raw("GET", f"{files}/{escaped(ODD)}", headers={"ocp-range": given})
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["content-length"] == str(len(body))
        assert "content-range" not in answer.headers

    @pytest.mark.parametrize(
        "given", ["bytes=10-", "bytes=100-200", "bytes=4-2", "bytes=-5", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "²"]
    )
    def test_a_range_that_is_none(self, raw: Raw, files: str, given: str) -> None:
        raw("GET", f"{files}/{escaped(ODD)}", headers={"ocp-range": given}).assert_error(416, "InvalidRange")

    def test_ranges_through_the_sdk(self, batch: BatchClient, sdk: Sdk, made: str) -> None:
        assert b"".join(batch.download_task_file(made, "t", ODD, ocp_range="bytes=3-5")) == b"345"
        assert sdk.last.status == 200

    def test_a_file_that_grows(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "echo first; while test ! -e go; do sleep 0.02; done; echo second; sleep 300"))
        yard.reached(job_id, "t", "running")
        path = f"/jobs/{job_id}/tasks/t/files/stdout.txt"
        wait_for(lambda: raw("GET", path).body == b"first\n", "the first line")
        raw("GET", path, headers={"ocp-range": "bytes=6-"}).assert_error(416, "InvalidRange")
        assert raw("HEAD", path).headers["content-length"] == "6"
        assert yard.task(job_id, "t")["state"] == "running"

    def test_what_is_no_file(self, raw: Raw, files: str) -> None:
        for path in ("never", "wd", "wd/never", "wd/deep/er", "stdout.txt/x"):
            raw("GET", f"{files}/{escaped(path)}").assert_error(404, "FileNotFound")

    def test_a_missing_file_through_the_sdk(self, batch: BatchClient, made: str) -> None:
        with pytest.raises(ResourceNotFoundError):
            batch.download_task_file(made, "t", "never")
        with pytest.raises(HttpResponseError):
            batch.get_task_file_properties(made, "t", "never")

    def test_dates(self, raw: Raw, files: str) -> None:
        path = f"{files}/stdout.txt"
        date = raw("HEAD", path).headers["last-modified"]
        earlier = "Tue, 02 Jan 2024 03:04:05 GMT"
        for method in ("GET", "HEAD"):
            assert raw(method, path, headers={"If-Modified-Since": date}).status == 304
            assert raw(method, path, headers={"If-Modified-Since": earlier}).status == 200
            assert raw(method, path, headers={"If-Unmodified-Since": date}).status == 200
            assert raw(method, path, headers={"If-Unmodified-Since": earlier}).status == 412

    def test_a_slash_in_front_is_the_directory_of_the_task(self, raw: Raw, files: str) -> None:
        assert raw("GET", f"{files}/%2Fstdout.txt").body == b"hello\n"
        assert raw("GET", f"{files}/%2fstderr.txt").body == b"trouble\n"

    def test_of_the_node(self, raw: Raw, node_files: str, made: str) -> None:
        answer = raw("GET", f"{node_files}/{escaped(f'workitems/{made}/job-1/t/{ODD}')}", headers={"ocp-range": "bytes=1-2"})
        assert (answer.status, answer.body) == (200, b"12")


class TestProperties:
    """HEAD of a file: all six headers, and no body when it is missing."""

    def assert_properties(self, answer: Answer, url: str, length: int) -> None:
        assert (answer.status, answer.body) == (200, b"")
        headers = answer.headers
        assert headers["content-length"] == str(length)
        assert headers["content-type"] == "application/octet-stream"
        assert headers["ocp-batch-file-isdirectory"] == "False"
        assert headers["ocp-batch-file-url"] == url
        assert headers["ocp-batch-file-mode"].startswith("0o100")
        assert parsedate_to_datetime(headers["last-modified"]) <= parsedate_to_datetime(headers["date"])
        assert parsedate_to_datetime(headers["ocp-creation-time"]) <= parsedate_to_datetime(headers["date"])

    def test_of_a_task(self, raw: Raw, files: str) -> None:
        path = f"{files}/{escaped(ODD)}"
        self.assert_properties(raw("HEAD", path), raw.endpoint + path, 10)

    def test_of_a_node(self, raw: Raw, node_files: str, made: str) -> None:
        path = f"{node_files}/{escaped(f'workitems/{made}/job-1/t/stdout.txt')}"
        self.assert_properties(raw("HEAD", path), raw.endpoint + path, 6)

    def test_of_a_directory(self, raw: Raw, files: str) -> None:
        assert raw("HEAD", f"{files}/wd").headers["ocp-batch-file-isdirectory"] == "True"

    def test_through_the_sdk(self, batch: BatchClient, raw: Raw, files: str, made: str) -> None:
        properties = batch.get_task_file_properties(made, "t", ODD)
        assert properties.content_length == 10
        assert properties.is_directory is False
        assert properties.url == f"{raw.endpoint}{files}/{escaped(ODD)}"
        assert properties.file_mode == "0o100644"
        assert properties.last_modified is not None
        assert properties.creation_time is not None

    def test_missing(self, raw: Raw, files: str) -> None:
        answer = raw("HEAD", f"{files}/never")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (404, b"", "0")
        assert answer.headers["request-id"]


class TestRemoval:
    """Deleting files and directories, of which a full one only with recursive."""

    def test_of_a_task(self, raw: Raw, yard: Yard) -> None:
        job_id = yard.job(task("t", "mkdir d; touch d/f; ln -s /etc/passwd l; touch g"))
        yard.reached(job_id, "t")
        files = f"/jobs/{job_id}/tasks/t/files"
        raw("DELETE", f"{files}/wd%2Fd").assert_error(409, "OperationInvalidForCurrentState")
        assert raw("HEAD", f"{files}/wd%2Fd%2Ff").status == 200
        for path, query in [("wd%2Fg", ""), ("wd%2Fd", "recursive=true"), ("wd%2Fl", "")]:
            answer = raw("DELETE", f"{files}/{path}", query=query)
            assert (answer.status, answer.body) == (200, b"")
        assert [item["name"] for item in raw("GET", files, query="recursive=true").json["value"]] == ["stderr.txt", "stdout.txt", "wd"]
        raw("DELETE", f"{files}/wd%2Fg").assert_error(404, "FileNotFound")
        for path in ("..%2Ft%2Fstdout.txt", "%2E%2E", "wd%2F..%2Fstdout.txt"):
            raw("DELETE", f"{files}/{path}", query="recursive=true").assert_error(404, "FileNotFound")
        raw("DELETE", f"{files}/.", query="recursive=true").assert_error(409, "OperationInvalidForCurrentState")
        assert raw("HEAD", f"{files}/stdout.txt").status == 200

    def test_of_a_node(self, raw: Raw, yard: Yard, node_files: str) -> None:
        job_id = yard.job(task("t"))
        yard.reached(job_id, "t")
        path = f"{node_files}/{escaped(f'workitems/{job_id}/job-1/t/stdout.txt')}"
        assert raw("DELETE", path).status == 200
        assert raw("HEAD", path).status == 404


def test_a_task_that_has_not_run(raw: Raw) -> None:
    job_id = unique("job")
    raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": "none"}})
    raw("POST", f"/jobs/{job_id}/tasks", task("t"))
    files = f"/jobs/{job_id}/tasks/t/files"
    raw("GET", files).assert_error(409, "TaskFilesUnavailable")
    raw("GET", f"{files}/stdout.txt").assert_error(409, "TaskFilesUnavailable")
    raw("DELETE", f"{files}/stdout.txt").assert_error(409, "TaskFilesUnavailable")
    assert raw("HEAD", f"{files}/stdout.txt").status == 409
    raw("POST", f"/jobs/{job_id}/tasks/t/terminate")
    raw("GET", files).assert_error(409, "TaskFilesUnavailable")
    raw("GET", f"/jobs/{job_id}/tasks/never/files").assert_error(404, "TaskNotFound")


def test_a_large_file(raw: Raw, yard: Yard) -> None:
    job_id = yard.job(task("t", "seq 1 2000000"))
    yard.reached(job_id, "t")
    path = f"/jobs/{job_id}/tasks/t/files/stdout.txt"
    whole = raw("GET", path)
    assert whole.body == "".join(f"{number}\n" for number in range(1, 2_000_001)).encode()
    assert whole.headers["content-length"] == str(len(whole.body))
    assert raw("GET", path, headers={"ocp-range": "bytes=5000000-5999999"}).body == whole.body[5_000_000:6_000_000]
