"""`autoStorageContainerName`: resource files out of the linked storage, for every kind of task, without a signature (contract 4.5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import parse_qs

import msgspec
import pytest
from azure.batch import BatchClient, models
from azure.storage.blob import BlobServiceClient
from tests.api.conftest import Json, Raw, Yard, machine, pool_body, sh, task, unique
from tests.conftest import Server, wait_for

from batchyard.engine.nodes.linked_storage import LinkedStorage, open_to_node
from batchyard.model.sync import Order


@pytest.fixture(scope="module")
def container(server: Server) -> Iterator[str]:
    """Name of a container of the linked account with three blobs."""
    service = BlobServiceClient.from_connection_string(server.storage_connection_string)
    name = unique("linked")
    made = service.create_container(name)
    for blob in ("in/a.txt", "in/deep/b.txt", "other.txt"):
        made.upload_blob(blob, blob.encode())
    yield name
    made.delete_container()


def test_files_come_from_the_linked_account(yard: Yard, raw: Raw, container: str) -> None:
    files = [
        {"autoStorageContainerName": container, "blobPrefix": "in/", "filePath": "data"},
        {"autoStorageContainerName": container, "blobPrefix": "other", "fileMode": "0700"},
    ]
    job_id = yard.job(task("t", "cat data/in/a.txt data/in/deep/b.txt other.txt; stat -c %a other.txt", resourceFiles=files))
    ended = yard.reached(job_id, "t")
    assert ended["executionInfo"].get("failureInfo") is None
    assert ended["resourceFiles"] == files, "what is served is what was sent: no URL, no signature"
    said = raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt").body
    assert said == b"in/a.txtin/deep/b.txtother.txt700\n"


def test_start_preparation_manager_and_release_tasks_read_it_too(raw: Raw, container: str) -> None:
    """All of one pool; `cat` fails where its file is missing."""
    files = [{"autoStorageContainerName": container, "blobPrefix": "in/a"}]
    special = {"commandLine": sh("cat in/a.txt"), "resourceFiles": files}
    pool_id, job_id = unique("linked"), unique("linked")
    assert raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=1, startTask=special)).status == 201
    job = {
        "id": job_id,
        "poolInfo": {"poolId": pool_id},
        "jobPreparationTask": special,
        "jobReleaseTask": special,
        "jobManagerTask": {"id": "manager", "killJobOnCompletion": True, **special},
    }
    assert raw("POST", "/jobs", job).status == 201
    wait_for(lambda: raw("GET", f"/jobs/{job_id}").json["state"] == "completed", "the job to be completed")
    assert raw("GET", f"/jobs/{job_id}/tasks/manager").json["executionInfo"]["result"] == "success"
    [status] = raw("GET", f"/jobs/{job_id}/jobpreparationandreleasetaskstatus").json["value"]
    assert status["jobPreparationTaskExecutionInfo"]["result"] == status["jobReleaseTaskExecutionInfo"]["result"] == "success"
    [node] = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
    assert node["startTaskInfo"]["result"] == "success"
    assert "sig=" not in raw("GET", f"/pools/{pool_id}/nodes/{node['id']}").body.decode()
    raw("DELETE", f"/jobs/{job_id}")
    raw("DELETE", f"/pools/{pool_id}")


def test_a_container_that_is_not_there_fails_the_task_alone(yard: Yard, batch: BatchClient) -> None:
    job_id = yard.job()
    file = models.ResourceFile(auto_storage_container_name="nobody-made-this")
    batch.create_task(job_id, models.BatchTaskCreateOptions(id="t", command_line="true", resource_files=[file]))
    failure = yard.reached(job_id, "t")["executionInfo"]["failureInfo"]
    assert (failure["category"], failure["code"]) == ("usererror", "BlobNotFound")
    assert "sig" not in str(failure)


def test_a_tasks_token_opens_only_what_its_own_task_or_its_job_names(yard: Yard, raw: Raw, server: Server, container: str) -> None:
    """Of containers and of prefixes in them; what other tasks and other jobs name stays theirs."""
    service = BlobServiceClient.from_connection_string(server.storage_connection_string)
    private = unique("private")
    service.create_container(private).upload_blob("secret.txt", b"secret")
    part = {"autoStorageContainerName": container, "blobPrefix": "in/"}
    holder = task(
        "holder", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 300", authenticationTokenSettings={"access": ["job"]}, resourceFiles=[part]
    )
    of_job = {"id": "prepare", "commandLine": "true", "resourceFiles": [{"autoStorageContainerName": container, "blobPrefix": "other"}]}
    job_id = yard.job(holder, task("sibling", "true", resourceFiles=[{"autoStorageContainerName": private}]), jobPreparationTask=of_job)
    yard.reached(job_id, "holder", "running")
    url = f"/jobs/{job_id}/tasks/holder/files/stdout.txt"
    shown = wait_for(lambda: raw("GET", url).body.decode().strip() if raw("GET", url).status == 200 else None, "the token")
    headers = {"authorization": f"Bearer {shown}"}
    for name, prefix in ((private, ""), (container, ""), (container, "i"), (container, "xin/"), (container.upper(), "in/")):
        thief = task("thief", "cat secret.txt", resourceFiles=[part, {"autoStorageContainerName": name, "blobPrefix": prefix}])
        refused = raw("POST", f"/jobs/{job_id}/tasks", thief, headers=headers)
        refused.assert_error(403, "Forbidden")
        assert "autoStorageContainerName" in refused.body.decode()
        [result] = raw("POST", f"/jobs/{job_id}/addtaskcollection", {"value": [thief]}, headers=headers).json["value"]
        assert (result["status"], result["error"]["code"]) == ("clienterror", "Forbidden")
    raw("GET", f"/jobs/{job_id}/tasks/thief").assert_error(404, "TaskNotFound")
    own = [
        part,
        {"autoStorageContainerName": container, "blobPrefix": "in/deep/"},
        {"autoStorageContainerName": container, "blobPrefix": "other"},
    ]
    assert raw("POST", f"/jobs/{job_id}/tasks", task("fine", "cat in/a.txt other.txt", resourceFiles=own), headers=headers).status == 201
    assert yard.reached(job_id, "fine")["executionInfo"]["result"] == "success"
    raw("POST", f"/jobs/{job_id}/terminate")
    service.delete_container(private)


def test_what_a_node_is_told_opens_that_container_for_reading_for_a_day() -> None:
    body: Json = {
        "id": "t",
        "commandLine": "true",
        "resourceFiles": [{"autoStorageContainerName": "data", "filePath": "in"}, {"httpUrl": "http://x/y", "filePath": "y"}],
    }
    plain: Json = {"id": "u", "commandLine": "echo autoStorageContainerName"}
    orders = [Order(attempt=f"{n}.1", job_id="j", task=msgspec.Raw(msgspec.json.encode(one))) for n, one in enumerate((body, plain))]
    open_to_node(orders, LinkedStorage("linked", "a2V5"), "https://yard.example/", 1_700_000_000_000_000)
    first, second = msgspec.json.decode(orders[0].task)["resourceFiles"]
    url, _, query = first["storageContainerUrl"].partition("?")
    assert (url, first["filePath"], "autoStorageContainerName" in first) == ("https://yard.example/linked/data", "in", False)
    signed = parse_qs(query)
    assert (signed["sr"], signed["sp"], signed["se"]) == (["c"], ["rl"], ["2023-11-15T22:13:20Z"])
    assert second == {"httpUrl": "http://x/y", "filePath": "y"}
    assert msgspec.json.decode(orders[1].task) == plain


def test_what_a_deleted_container_held_goes_behind_the_answer(server: Server) -> None:
    def kept() -> set[str]:
        return {path.name for path in (server.directory / "blobs" / "data").glob("*/*")}

    before = kept()
    made = BlobServiceClient.from_connection_string(server.storage_connection_string).create_container(unique("gone"))
    for number in range(5):
        made.upload_blob(f"b{number}", b"x" * 100_000)
    held = kept() - before
    assert held
    made.delete_container()
    wait_for(lambda: not held & kept(), "the data files of the container to be gone")


SHARED = "batchyard.inputCache"


def test_inputs_are_shared_where_the_pool_wants_it_and_out_of_reach_of_its_tasks(
    batch: BatchClient, raw: Raw, container: str, server: Server
) -> None:
    pool_id, job_id = unique("shared"), unique("shared")
    pool = models.BatchPoolCreateOptions(
        id=pool_id,
        vm_size="standard_d2_v3",
        target_dedicated_nodes=1,
        virtual_machine_configuration=machine(),
        metadata=[models.BatchMetadataItem(name=SHARED, value="64 MiB")],
    )
    batch.create_pool(pool)
    batch.create_job(models.BatchJobCreateOptions(id=job_id, pool_info=models.BatchPoolInfo(pool_id=pool_id)))
    files = [models.ResourceFile(auto_storage_container_name=container, blob_prefix="in/")]
    look = sh('cat in/a.txt; echo spoilt > in/a.txt; ls "$AZ_BATCH_NODE_ROOT_DIR/volatile/inputs" 2>&1 | grep -c denied')
    for name in ("one", "two"):
        batch.create_task(job_id, models.BatchTaskCreateOptions(id=name, command_line=look, resource_files=files))
        wait_for(lambda name=name: batch.get_task(job_id, name).state == "completed", f"the end of {name}")
        said = b"".join(batch.download_task_file(job_id, name, "stdout.txt"))
        assert said.startswith(b"in/a.txt")
        if os.geteuid() == 0:
            assert said == b"in/a.txt1\n"
    [node] = batch.list_nodes(pool_id)
    there = [file.name for file in batch.list_node_files(pool_id, node.id, recursive=True) if file.name.startswith("volatile/inputs/")]
    assert len(there) == 4, "two blobs, each with a note"
    batch.begin_delete_job(job_id)
    batch.begin_delete_pool(pool_id)


@pytest.mark.parametrize("values", [["much"], ["-1GB"], ["10"], [""], ["1GB", "2GB"], ["1" * 400]])
def test_a_cache_of_no_size_is_refused(raw: Raw, values: list[str]) -> None:
    metadata = [{"name": SHARED, "value": value} for value in values]
    raw("POST", "/pools", pool_body(unique("shared"), metadata=metadata)).assert_error(400, "InvalidPropertyValue")
