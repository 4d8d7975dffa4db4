"""Application packages from the upload to the task that uses them: raw HTTP, both SDKs, real nodes (contract 4.6)."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient, models
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from tests.api.conftest import Answer, Json, Raw, Sdk, Yard, machine, pages, pool_body, sh, task, unique
from tests.conftest import Server, wait_for

SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
SCRIPT = Path(__file__).with_name("sdk14_applications.py")
OWN = "/batchyard/v1/applications"
CONTAINER = "batchyard-applications"


def packed(**files: str) -> bytes:
    """A zip file; `_` in a name stands for a slash."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("_", "/"), content)
    return made.getvalue()


def upload(raw: Raw, application: str, version: str, content: bytes | None = None, **more: str) -> Answer:
    content = packed(**more) if content is None else content
    return raw("PUT", f"{OWN}/{application}/versions/{version}", content, headers={"content-type": "application/zip"})


@pytest.fixture
def application(raw: Raw) -> Iterator[str]:
    """An application with the versions 1.0 and 2.0-b, of which the first is the default one."""
    name = unique("App")
    for version in ("1.0", "2.0-b"):
        assert upload(raw, name, version, say=f"{name} {version}", bin_deep_f="deep").status == 201
    assert raw("PATCH", f"{OWN}/{name}", {"defaultVersion": "1.0"}).status == 200
    yield name
    raw("DELETE", f"{OWN}/{name}")


def blobs(server: Server, prefix: str = "") -> list[str]:
    """Names of the packages' blobs."""
    service = BlobServiceClient.from_connection_string(server.storage_connection_string)
    return list(service.get_container_client(CONTAINER).list_blob_names(name_starts_with=prefix))


def directories(server: Server, prefix: str) -> list[str]:
    """Packages that are on any node."""
    return sorted(path.name for path in server.directory.glob(f"**/applications/{prefix}*"))


def test_both_planes_list_what_was_uploaded(raw: Raw, application: str) -> None:
    found = raw("GET", f"{OWN}/{application.upper()}").json
    assert (found["id"], found["defaultVersion"], found["allowUpdates"]) == (application, "1.0", True)
    assert [package["version"] for package in found["packages"]] == ["1.0", "2.0-b"]
    assert all(package["contentLength"] > 100 for package in found["packages"])
    seen = raw("GET", f"/applications/{application}")
    assert seen.headers["etag"].startswith("0x")
    assert {name: value for name, value in seen.json.items() if name != "odata.metadata"} == {
        "id": application,
        "displayName": application,
        "versions": ["1.0", "2.0-b"],
    }
    assert seen.json["odata.metadata"].endswith("#getapplicationsummaryresponse/@Element")
    assert application in [one["id"] for page in pages(raw, "/applications", "maxresults=1") for one in page]
    assert application in [one["id"] for page in pages(raw, OWN, "maxresults=1") for one in page]


def test_an_application_without_packages_is_ours_alone(raw: Raw) -> None:
    name = unique("empty")
    made = raw("PUT", f"{OWN}/{name}", {"displayName": "Nothing yet", "allowUpdates": False})
    assert (made.status, made.json["displayName"], made.json["allowUpdates"], made.json["packages"]) == (201, "Nothing yet", False, [])
    assert raw("PUT", f"{OWN}/{name}", {}).status == 200
    raw("GET", f"/applications/{name}").assert_error(404, "ApplicationNotFound")
    assert name not in [one["id"] for page in pages(raw, "/applications") for one in page]
    assert raw("DELETE", f"{OWN}/{name}").status == 204
    raw("GET", f"{OWN}/{name}").assert_error(404, "ApplicationNotFound")


def test_sdk_15_lists_gets_and_runs(batch: BatchClient, yard: Yard, raw: Raw, application: str) -> None:
    found = batch.get_application(application)
    assert (found.id, found.display_name, found.versions) == (application, application, ["1.0", "2.0-b"])
    assert application in [one.id for one in batch.list_applications()]
    with pytest.raises(ResourceNotFoundError) as missing:
        batch.get_application("not-there")
    assert "ApplicationNotFound" in str(missing.value)
    job_id = yard.job()
    named = application.replace("-", "_")
    script = f"cat $AZ_BATCH_APP_PACKAGE_{named}/say $AZ_BATCH_APP_PACKAGE_{named.lower()}_2_0_b/bin/deep/f; env | grep -c APP_PACKAGE"
    references = [
        models.BatchApplicationPackageReference(application_id=application),
        models.BatchApplicationPackageReference(application_id=application, version="2.0-b"),
    ]
    options = models.BatchTaskCreateOptions(id="t", command_line=sh(script), application_package_references=references)
    batch.create_task(job_id, options)
    assert yard.reached(job_id, "t")["executionInfo"]["result"] == "success"
    assert raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt").body == f"{application} 1.0deep4\n".encode()
    kept = batch.get_task(job_id, "t").application_package_references
    assert [(each.application_id, each.version) for each in kept or []] == [(application, None), (application, "2.0-b")]


def test_sdk_14_lists_gets_and_runs(server: Server, pool_id: str, application: str) -> None:
    interpreter = os.environ.get(SDK14_PYTHON)
    if not interpreter:
        pytest.skip(f"{SDK14_PYTHON} is not set (make test sets it)")
    words = [interpreter, str(SCRIPT), unique("apps"), pool_id, application]
    done = subprocess.run(words, env={**os.environ, **server.environment}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["listed"]
    assert said["versions"] == ["1.0", "2.0-b"]
    assert said["missing"] == "ApplicationNotFound"
    assert said["refused"] == "InvalidApplicationPackageReferences"
    assert said["references"] == [[application, "2.0-b"]]
    assert said["out"] == f"{application} 2.0-b"


def test_a_missing_package_fails_the_task_before_it_runs(yard: Yard, application: str) -> None:
    references = [{"applicationId": application, "version": "3"}]
    action = {"exitConditions": {"preProcessingError": {"jobAction": "terminate"}}}
    job_id = yard.job(task("t", applicationPackageReferences=references, **action), onTaskFailure="performexitoptionsjobaction")
    done = yard.reached(job_id, "t")["executionInfo"]
    assert (done["result"], done["failureInfo"]["category"], done["failureInfo"]["code"]) == (
        "failure",
        "usererror",
        "ApplicationPackageError",
    )
    assert "exitCode" not in done
    assert {"name": "Version", "value": "3"} in done["failureInfo"]["details"]
    yard.job_reached(job_id, "completed")


def test_pools_refuse_what_is_not_there(raw: Raw, batch: BatchClient, application: str) -> None:
    references = [models.BatchApplicationPackageReference(application_id="not-there", version="1")]
    options = models.BatchPoolCreateOptions(
        id=unique("apps"), vm_size="standard_d2s_v3", virtual_machine_configuration=machine(), application_package_references=references
    )
    with pytest.raises(HttpResponseError) as refused:
        batch.create_pool(options)
    assert refused.value.status_code == 409
    pool_id = unique("apps")
    assert raw("POST", "/pools", pool_body(pool_id)).status == 201
    body = {"applicationPackageReferences": [{"applicationId": application, "version": "9"}]}
    values = {application: "The specified application package does not exist."}
    raw("PATCH", f"/pools/{pool_id}", body).assert_error(409, "InvalidApplicationPackageReferences", **values)
    raw("POST", f"/pools/{pool_id}/updateproperties", {**body, "metadata": []}).assert_error(
        409, "InvalidApplicationPackageReferences", **values
    )
    body = {"applicationPackageReferences": [{"applicationId": application}]}
    assert raw("PATCH", f"/pools/{pool_id}", body).status == 200
    assert raw("GET", f"/pools/{pool_id}").json["applicationPackageReferences"] == body["applicationPackageReferences"]
    raw("DELETE", f"/pools/{pool_id}")


def node_of(raw: Raw, pool_id: str, state: str = "idle") -> Json:
    def look() -> Json | None:
        found: list[Json] = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
        return found[0] if found and found[0]["state"] == state else None

    return wait_for(look, f"the node of {pool_id} to be {state}")


def test_a_pools_packages_are_there_for_the_start_task_and_change_at_a_reboot(raw: Raw, server: Server, application: str) -> None:
    pool_id, job_id, named = unique("apps"), unique("apps"), application.replace("-", "_")
    start = {"commandLine": sh(f"cat $AZ_BATCH_APP_PACKAGE_{named}/say"), "waitForSuccess": True}
    references = [{"applicationId": application}]
    body = pool_body(pool_id, targetDedicatedNodes=1, startTask=start, applicationPackageReferences=references)
    assert raw("POST", "/pools", body).status == 201
    node = node_of(raw, pool_id)
    assert node["startTaskInfo"]["result"] == "success"
    at = f"/pools/{pool_id}/nodes/{node['id']}"
    assert raw("GET", at + "/files/startup%2Fstdout.txt").body == f"{application} 1.0".encode()
    assert raw("PATCH", f"{OWN}/{application}", {"defaultVersion": "2.0-b"}).status == 200
    assert raw("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}}).status == 201
    assert raw("POST", f"/jobs/{job_id}/tasks", task("before", f"cat $AZ_BATCH_APP_PACKAGE_{named}/say")).status == 201
    wait_for(lambda: raw("GET", f"/jobs/{job_id}/tasks/before").json["state"] == "completed", "the task to be completed")
    assert raw("GET", f"/jobs/{job_id}/tasks/before/files/stdout.txt").body == f"{application} 1.0".encode()
    assert raw("POST", at + "/reboot", {"nodeRebootOption": "requeue"}).status == 202

    def restarted() -> bool:
        return raw("GET", at + "/files/startup%2Fstdout.txt").body == f"{application} 2.0-b".encode()

    wait_for(restarted, "the start task to run with the other package")
    node_of(raw, pool_id)
    assert [name.rpartition("-")[0] for name in directories(server, application.lower())] == [f"{application.lower()}-2.0-b"], (
        "what nothing refers to is gone"
    )
    raw("DELETE", f"/jobs/{job_id}")
    raw("DELETE", f"/pools/{pool_id}")


def test_a_node_that_lacks_its_pools_packages_is_unusable_and_says_why(raw: Raw, application: str) -> None:
    pool_id = unique("apps")
    references = [{"applicationId": application, "version": "1.0"}]
    assert raw("POST", "/pools", pool_body(pool_id, applicationPackageReferences=references)).status == 201
    assert raw("DELETE", f"{OWN}/{application}/versions/1.0").status == 204
    wait_for(lambda: raw("GET", f"/pools/{pool_id}").json["allocationState"] == "steady", "the pool to be steady")
    assert raw("POST", f"/pools/{pool_id}/resize", {"targetDedicatedNodes": 1}).status == 202
    [error] = node_of(raw, pool_id, "unusable")["errors"]
    assert error["code"] == "ApplicationPackageError"
    assert {"name": "ApplicationId", "value": application} in error["errorDetails"]
    raw("DELETE", f"/pools/{pool_id}")


def test_a_task_package_goes_with_the_job(yard: Yard, raw: Raw, server: Server, application: str) -> None:
    prefix = f"{application.lower()}-1.0-"
    job_id = yard.job(task("t", applicationPackageReferences=[{"applicationId": application}]))
    yard.reached(job_id, "t")
    assert len(directories(server, prefix)) == 1
    other = yard.job(task("t", applicationPackageReferences=[{"applicationId": application, "version": "1.0"}]))
    yard.reached(other, "t")
    assert len(directories(server, prefix)) == 1, "both share it"
    raw("DELETE", f"/jobs/{job_id}")
    yard.gone(f"/jobs/{job_id}")
    last = yard.job(task("t", "true"))
    yard.reached(last, "t")
    assert len(directories(server, prefix)) == 1, "the other job still refers to it"
    raw("DELETE", f"/jobs/{other}")
    wait_for(lambda: not directories(server, prefix), "the package to be gone")


def test_content_that_is_replaced_is_fetched_anew(yard: Yard, raw: Raw, server: Server, application: str) -> None:
    named, references = application.replace("-", "_"), [{"applicationId": application}]
    job_id = yard.job(task("a", f"cat $AZ_BATCH_APP_PACKAGE_{named}/say", applicationPackageReferences=references))
    yard.reached(job_id, "a")
    before = blobs(server, application)
    assert upload(raw, application, "1.0", say="other words").status == 201
    yard.add(job_id, task("b", f"cat $AZ_BATCH_APP_PACKAGE_{named}/say", applicationPackageReferences=references))
    yard.reached(job_id, "b")
    assert raw("GET", f"/jobs/{job_id}/tasks/b/files/stdout.txt").body == b"other words"
    after = blobs(server, application)
    assert len(after) == len(before) == 2
    assert len(set(after) - set(before)) == 1, "what was replaced is no longer kept"


@pytest.mark.parametrize("content", [b"", b"no zip", packed(**{"..up": ""}).replace(b"..up", b"../p")], ids=["nothing", "no zip", "above"])
def test_what_no_node_would_unpack_is_refused_and_leaves_nothing(raw: Raw, server: Server, application: str, content: bytes) -> None:
    before = blobs(server)
    said = upload(raw, application, "bad", content).assert_error(400, "InvalidRequestBody")
    assert said["Reason"].startswith("The body is no application package: ")
    assert upload(raw, unique("bad"), "1", content).status == 400
    assert blobs(server) == before
    assert "bad" not in raw("GET", f"/applications/{application}").json["versions"]


def test_names_and_lengths_are_looked_at_before_anything_comes(raw: Raw, application: str) -> None:
    for path in ("a.b/versions/1", "a/versions/%2E%2E%2Fx", "a%2Fb/versions/1"):
        raw("PUT", f"{OWN}/{path}", packed(a="")).assert_error(400, "InvalidPropertyValue")
    large = {"content-length": str(5 << 30)}
    raw("PUT", f"{OWN}/{application}/versions/3", b"", headers=large).assert_error(413, "RequestBodyTooLarge", MaxLimit=str(4 << 30))
    assert raw("PATCH", f"{OWN}/{application}", {"allowUpdates": False}).status == 200
    upload(raw, application, "1.0", a="").assert_error(409, "OperationInvalidForCurrentState")
    raw("DELETE", f"{OWN}/{application}").assert_error(409, "OperationInvalidForCurrentState")
    raw("PATCH", f"{OWN}/{application}", {"defaultVersion": "9"}).assert_error(400, "InvalidPropertyValue")
    assert raw("PATCH", f"{OWN}/{application}", {"allowUpdates": True}).status == 200


def test_a_tasks_token_neither_reads_nor_changes_applications(yard: Yard, raw: Raw, application: str) -> None:
    job_id = yard.job(task("t", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 600", authenticationTokenSettings={"access": ["job"]}))
    file = f"/jobs/{job_id}/tasks/t/files/stdout.txt"
    wait_for(lambda: raw("GET", file).status == 200 and raw("GET", file).body.endswith(b"\n"), "the token")
    bearer = {"authorization": f"Bearer {raw('GET', file).body.decode().strip()}"}
    assert raw("GET", f"/jobs/{job_id}", headers=bearer).status == 200
    for method, path in (
        ("GET", "/applications"),
        ("GET", OWN),
        ("PUT", f"{OWN}/{application}/versions/9"),
        ("PATCH", f"{OWN}/{application}"),
        ("DELETE", f"{OWN}/{application}"),
        ("DELETE", f"{OWN}/{application}/versions/1.0"),
    ):
        raw(method, path, None if method in ("GET", "DELETE") else b"{}", headers=bearer).assert_error(
            403, "InsufficientAccountPermissions"
        )
    assert raw("GET", f"/applications/{application}").json["versions"] == ["1.0", "2.0-b"]


def test_no_signature_is_shown(yard: Yard, raw: Raw, server: Server, sdk: Sdk, application: str) -> None:
    job_id = yard.job(task("t", "env", applicationPackageReferences=[{"applicationId": application}]))
    yard.reached(job_id, "t")
    assert b"sig=" not in raw("GET", f"/jobs/{job_id}/tasks/t").body + raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt").body
    assert "sig=" not in server.log()


def test_two_hundred_tasks_on_eight_nodes_fetch_and_unpack_it_eight_times() -> None:
    """Each node once for the pool's and once for the tasks' package, which all of its tasks share."""
    server = Server(nodes=8)
    try:
        raw = Raw(server.endpoint, server.account, server.key)
        for name in ("shared", "own"):
            assert upload(raw, name, "1", packed(data=secrets.token_hex(1 << 20))).status == 201
        references = [{"applicationId": "own", "version": "1"}]
        of_pool = [{"applicationId": "shared", "version": "1"}]
        body = pool_body("p", targetDedicatedNodes=8, taskSlotsPerNode=4, applicationPackageReferences=of_pool)
        assert raw("POST", "/pools", body).status == 201
        wait_for(lambda: len([1 for node in raw("GET", "/pools/p/nodes").json["value"] if node["state"] == "idle"]) == 8, "eight nodes")
        assert raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}}).status == 201
        script = "test -s $AZ_BATCH_APP_PACKAGE_own_1/data && test -s $AZ_BATCH_APP_PACKAGE_shared_1/data"
        tasks = [task(f"t{n}", script, applicationPackageReferences=references) for n in range(200)]
        for at in (0, 100):
            assert raw("POST", "/jobs/j/addtaskcollection", {"value": tasks[at : at + 100]}).status == 200

        def counts() -> Json | None:
            found: Json = raw("GET", "/jobs/j/taskcounts").json["taskCounts"]
            return found if found["completed"] == 200 else None

        assert wait_for(counts, "all tasks to end")["succeeded"] == 200
        unpacked = [line for line in server.log().splitlines() if "application package unpacked" in line]
        ran = {one["nodeInfo"]["nodeId"] for page in pages(raw, "/jobs/j/tasks", "maxresults=100") for one in page}
        assert len(ran) == 8
        for name in ("shared", "own"):
            assert len([line for line in unpacked if f"directory='{name}-1-" in line]) == 8
    finally:
        server.stop()


def test_a_blob_that_somebody_deleted_is_missed_by_tasks_alone(raw: Raw, server: Server, yard: Yard, application: str) -> None:
    """Its key opens it: what is taken from there is missed by tasks, and nothing else comes to harm."""
    service = BlobServiceClient.from_connection_string(server.storage_connection_string)
    [lost] = [name for name in blobs(server, application) if "/1.0/" in name]
    service.get_blob_client(CONTAINER, lost).delete_blob()
    job_id = yard.job(task("t", applicationPackageReferences=[{"applicationId": application}]))
    failure = yard.reached(job_id, "t")["executionInfo"]["failureInfo"]
    assert failure["code"] == "ApplicationPackageError"
    assert "sig=" not in str(failure)
    assert upload(raw, application, "1.0", say="again").status == 201
    yard.add(job_id, task("u", applicationPackageReferences=[{"applicationId": application}]))
    assert yard.reached(job_id, "u")["executionInfo"]["result"] == "success"
