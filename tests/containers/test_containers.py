"""Tasks in containers, by real containers on a real node (contract 4.8)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.batch import models
from azure.storage.blob import BlobServiceClient, generate_container_sas
from tests.api.conftest import Json, Raw, Sdk, Yard, task, unique
from tests.conftest import Server, wait_for
from tests.containers.conftest import PASSWORD, USER, Registry, container_pool

pytestmark = pytest.mark.engines


def output(yard: Yard, job_id: str, task_id: str, name: str = "stdout.txt") -> str:
    """A file of a task."""
    answer = yard.raw("GET", f"/jobs/{job_id}/tasks/{task_id}/files/{name}")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def boxed(image: str, task_id: str, script: str = "true", *, settings: Json | None = None, **more: object) -> Json:
    """A task that runs a shell script in a container."""
    return task(task_id, script, containerSettings={"imageName": image, **(settings or {})}, **more)


def test_task_runs_in_its_image_with_its_directory_and_variables(boxes: Yard, image: str) -> None:
    script = "ls /bin/busybox; pwd; echo $AZ_BATCH_TASK_WORKING_DIR $GREETING; touch made; id -u; exit 7"
    job_id = boxes.job(boxed(image, "t", script, environmentSettings=[{"name": "GREETING", "value": "hello"}]))
    done = boxes.reached(job_id, "t")
    assert done["executionInfo"]["exitCode"] == 7, (done, output(boxes, job_id, "t", "stderr.txt"))
    lines = output(boxes, job_id, "t").splitlines()
    assert lines[0] == "/bin/busybox"
    assert lines[2] == f"{lines[1]} hello"
    assert lines[1].endswith("/t/wd")
    assert int(lines[3]) >= 70_000
    assert boxes.raw("GET", f"/jobs/{job_id}/tasks/t/files/wd%2Fmade").status == 200


def failed(yard: Yard, job_id: str, task_id: str) -> tuple[str, str]:
    """Code and message of a task's failure, with its details."""
    info = yard.reached(job_id, task_id)["executionInfo"]
    assert "exitCode" not in info, info
    found = info["failureInfo"]
    return found["code"], found["message"] + " " + " ".join(pair["value"] for pair in found.get("details", ()))


def test_what_is_not_to_be_had_fails_with_the_contracts_codes(boxes: Yard, image: str, registry: Registry) -> None:
    wrong = {"registry": {**registry.login, "password": "wrong"}}
    missing = image.replace(":1", ":none")
    job_id = boxes.job(
        boxed(missing, "missing"),
        boxed(registry.host + "/tests/other:1", "refused", settings=wrong),
        boxed("127.0.0.1:1/nowhere:1", "unreachable"),
        boxed(image, "option", settings={"containerRunOptions": "--privileged"}),
        boxed(image, "unknown", settings={"containerRunOptions": "--rm --no-such"}),
        {"id": "program", "commandLine": "no-such-program", "containerSettings": {"imageName": image}},
        boxed(image, "shell", "exit 127"),
    )
    assert failed(boxes, job_id, "missing")[0] == "ContainerInvalidImage"
    assert failed(boxes, job_id, "refused")[0] == "ContainerInvalidRegistry"
    assert failed(boxes, job_id, "unreachable")[0] == "ContainerMiscError"
    code, text = failed(boxes, job_id, "option")
    assert (code, "--privileged is for tasks with elevation level admin only" in text) == ("ContainerInvalidSettings", True)
    code, text = failed(boxes, job_id, "unknown")
    assert (code, "--no-such" in text) == ("ContainerInvalidSettings", True)
    assert failed(boxes, job_id, "program")[0] == "CommandProgramNotFound", output(boxes, job_id, "program", "stderr.txt")
    assert boxes.reached(job_id, "shell")["executionInfo"]["exitCode"] == 127


ESCAPES = 'id -u; grep -E "^Cap(Eff|Bnd)|^NoNewPrivs" /proc/self/status; ls $AZ_BATCH_NODE_ROOT_DIR; exit 0'


def test_a_task_without_elevation_is_nobody_on_the_host(boxes: Yard, image: str) -> None:
    job_id = boxes.job(boxed(image, "t", ESCAPES), boxed(image, "host", settings={"containerRunOptions": "-v /:/host"}))
    assert boxes.reached(job_id, "t")["executionInfo"]["exitCode"] == 0
    said = output(boxes, job_id, "t")
    assert int(said.split()[0]) >= 70_000
    assert "NoNewPrivs:\t1" in said, "a setuid program of the image must not make it root"
    assert said.count("0000000000000000") == 2, said
    assert set(said.splitlines()[4:]) <= {"applications", "fsmounts", "shared", "startup", "workitems"}
    code, text = failed(boxes, job_id, "host")
    assert (code, "elevation level admin" in text) == ("ContainerInvalidSettings", True)


def test_a_working_directory_opens_nothing_that_is_closed(boxes: Yard, registry: Registry, image: str, node_root: str) -> None:
    own = {"autoUser": {"scope": "task"}}
    script = "cd $AZ_BATCH_NODE_SHARED_DIR; mkdir -p closed/in; echo secret > closed/in/f; chmod 755 closed/in; chmod 700 closed"
    first = boxes.job(boxed(image, "victim", script, userIdentity=own))
    assert boxes.reached(first, "victim")["executionInfo"]["exitCode"] == 0, output(boxes, first, "victim", "stderr.txt")
    closed = f"{node_root}/shared/closed/in"
    image_inside = registry.image("tests/inside:1", f"WORKDIR {closed}")
    second = boxes.job(
        boxed(image, "given", "cat f", settings={"containerRunOptions": f"--workdir={closed}"}),
        boxed(image_inside, "images", "cat f", settings={"workingDirectory": "containerImageDefault"}),
    )
    assert failed(boxes, second, "given")[0] == "ContainerInvalidSettings"
    assert failed(boxes, second, "images")[0] == "CommandLaunchFailed"
    assert "secret" not in output(boxes, second, "images")


@pytest.mark.parametrize(
    "options",
    ["--pid=host", "--user 0", "-u0", "--cap-add=all", "--device /dev/vda", "--network=container:x", "-v /root/.ssh/none:/x", "-itd", "x"],
)
def test_options_that_lead_to_the_host_are_refused(boxes: Yard, image: str, options: str) -> None:
    job_id = boxes.job(boxed(image, "t", settings={"containerRunOptions": options}))
    assert failed(boxes, job_id, "t")[0] == "ContainerInvalidSettings"


def test_a_mount_does_not_open_what_is_closed_above_it(boxes: Yard, image: str, node_root: str) -> None:
    first = boxes.job(boxed(image, "secret", "echo secret > open; stat open", userIdentity={"autoUser": {"scope": "task"}}))
    boxes.reached(first, "secret")
    path = f"{node_root}/workitems/{first}/job-1/secret/wd/open"
    second = boxes.job(boxed(image, "thief", "cat /x", settings={"containerRunOptions": f"-v {path}:/x"}))
    code, text = failed(boxes, second, "thief")
    assert (code, "elevation level admin" in text) == ("ContainerInvalidSettings", True)


def test_no_mount_point_is_made_on_the_host(boxes: Yard, registry: Registry, image: str, node_root: str) -> None:
    volumes = registry.image("tests/volumes:1", f"VOLUME {node_root}/shared/volume")
    options = [f"--tmpfs {node_root}/shared/empty", f"-v /etc:/x -v /etc/pki:/x/nologin-{unique('x')}"]
    job_id = boxes.job(
        boxed(volumes, "volume", "ls $AZ_BATCH_NODE_SHARED_DIR"),
        *(boxed(image, f"option{n}", settings={"containerRunOptions": each}) for n, each in enumerate(options)),
    )
    assert boxes.reached(job_id, "volume")["executionInfo"]["exitCode"] == 0
    assert "volume" not in output(boxes, job_id, "volume").split()
    assert [failed(boxes, job_id, f"option{n}")[0] for n in range(2)] == ["ContainerInvalidSettings"] * 2
    assert not {"volume", "empty"} & set(os.listdir(f"{node_root}/shared"))


def test_limits_are_taken_as_far_as_the_agent_may_give_them(boxes: Yard, image: str) -> None:
    script = 'grep -E "open files|processes" /proc/self/limits'
    job_id = boxes.job(
        boxed(image, "plain", script),
        boxed(image, "more", script, settings={"containerRunOptions": "--ulimit nofile=99999999 --ulimit core=0"}),
        boxed(image, "locked", settings={"containerRunOptions": "--ulimit memlock=-1:-1"}),
    )
    for task_id in ("plain", "more"):
        assert boxes.reached(job_id, task_id)["executionInfo"].get("exitCode") == 0, boxes.task(job_id, task_id)
    assert output(boxes, job_id, "more") == output(boxes, job_id, "plain")
    assert failed(boxes, job_id, "locked")[0] == "ContainerInvalidSettings"


def test_admin_is_root_and_may_have_everything(boxes: Yard, image: str) -> None:
    admin = {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}
    options = "--privileged -v /:/host -v /tmp:/tmp:ro"
    script = "id -u; head -c 5 /host/etc/shadow; echo"
    job_id = boxes.job(boxed(image, "t", script, settings={"containerRunOptions": options}, userIdentity=admin))
    assert boxes.reached(job_id, "t")["executionInfo"].get("exitCode") == 0, boxes.task(job_id, "t")
    assert output(boxes, job_id, "t").splitlines()[:2] == ["0", "root:"]


def test_mounts_are_what_was_asked_for(boxes: Yard, image: str) -> None:
    script = "for d in $AZ_BATCH_NODE_SHARED_DIR $AZ_BATCH_TASK_WORKING_DIR $AZ_BATCH_NODE_STARTUP_DIR; do touch $d/x; echo $?; done; pwd"
    mounts = [{"source": "Task"}, {"source": "Shared", "isReadOnly": True}]
    job_id = boxes.job(
        boxed(image, "some", script, settings={"containerHostBatchBindMounts": mounts}),
        boxed(image, "none", script, settings={"containerHostBatchBindMounts": []}),
        boxed(image, "image", "pwd", settings={"workingDirectory": "containerImageDefault"}),
    )
    boxes.reached(job_id, "some")
    assert output(boxes, job_id, "some").split()[:3] == ["1", "0", "1"], output(boxes, job_id, "some", "stderr.txt")
    boxes.reached(job_id, "none")
    assert output(boxes, job_id, "none").split() == ["1", "1", "1", "/"]
    boxes.reached(job_id, "image")
    assert output(boxes, job_id, "image").split() == ["/"]


def test_an_image_is_pulled_once_for_all_tasks(boxes: Yard, registry: Registry) -> None:
    image = registry.image("tests/shared:1")
    job_id = boxes.job(*(boxed(image, f"t{n}") for n in range(12)))
    for n in range(12):
        assert boxes.reached(job_id, f"t{n}")["executionInfo"]["exitCode"] == 0
    assert registry.pulls(image) == 1


def test_output_is_there_while_it_runs_and_nothing_survives_its_end(boxes: Yard, image: str) -> None:
    mark = "4321.25"
    job_id = boxes.job(boxed(image, "t", f"echo begun; sleep {mark} & sleep {mark}"))

    def begun() -> bool:
        answer = boxes.raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt")
        return answer.status == 200 and answer.body == b"begun\n"

    wait_for(begun, "the output of a running task")
    assert boxes.raw("POST", f"/jobs/{job_id}/tasks/t/terminate").status == 204
    boxes.reached(job_id, "t")
    wait_for(lambda: not running(mark), "the container's processes to be gone")


def running(mark: str) -> list[int]:
    """Processes with a word in their command line that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if mark.encode() in words and (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(int(path.name))
    return found


def test_wrong_settings_are_refused_when_they_are_added(boxes: Yard, raw: Raw, image: str) -> None:
    job_id = boxes.job()
    path = f"/jobs/{job_id}/tasks"
    raw("POST", path, task("bare")).assert_error(400, "MissingRequiredProperty", PropertyName="containerSettings")
    raw("POST", path, boxed("Not An Image", "t")).assert_error(400, "InvalidPropertyValue", PropertyName="containerSettings.imageName")
    identity = {"registry": {"registryServer": "x.example", "identityReference": {"resourceId": "/x"}}}
    raw("POST", path, boxed(image, "t", settings=identity)).assert_error(400, "UnsupportedProperty")


def test_a_container_on_a_pool_without_is_refused(yard: Yard, raw: Raw, image: str) -> None:
    job_id = yard.job()
    answer = raw("POST", f"/jobs/{job_id}/tasks", boxed(image, "t"))
    answer.assert_error(400, "InvalidPropertyValue", PropertyName="containerSettings")


def test_passwords_are_kept_for_nodes_alone(boxes: Yard, raw: Raw, registry: Registry, image: str, server: Server) -> None:
    job_id = boxes.job(boxed(image, "t", settings={"registry": registry.login}))
    boxes.reached(job_id, "t")
    for path in (f"/pools/{boxes.pool_id}", f"/jobs/{job_id}/tasks/t", f"/jobs/{job_id}/tasks", "/pools"):
        body = raw("GET", path).body
        assert PASSWORD.encode() not in body
        assert registry.host.encode() in body
    assert PASSWORD not in server.log()


def test_nothing_survives_the_end_of_agent_or_helper(boxes: Yard, image: str, server: Server) -> None:
    mark = "5432.25"
    job_id = boxes.job(boxed(image, "t", f"sleep {mark}"), boxed(image, "helped", f"sleep {mark}5"))
    wait_for(lambda: running(mark), "the container to run")
    [node] = boxes.get(f"/pools/{boxes.pool_id}/nodes")["value"]
    [helper] = wait_for(lambda: helpers(f"{mark}5"), "the container of the other task")
    os.kill(helper, signal.SIGKILL)
    ended = boxes.reached(job_id, "helped")
    assert ended["executionInfo"]["result"] == "failure"
    assert not running(f"{mark}5")
    before = running(mark)
    server.kill_agent(node["id"])
    wait_for(lambda: not set(before) & set(running(mark)), "what the agent ran to be gone")
    wait_for(lambda: running(mark), "the task to run again by the next agent")
    boxes.raw("DELETE", f"/jobs/{job_id}")
    wait_for(lambda: not running(mark), "the task to be gone")


def helpers(mark: str) -> list[int]:
    """The process that watches the container of a command, conmon, which is the parent of its first process."""
    parents = [int((Path(f"/proc/{pid}/stat")).read_text().rpartition(")")[2].split()[1]) for pid in running(mark)]
    return [pid for pid in parents if b"conmon" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_all_kinds_of_tasks_run_in_containers(server: Server, raw: Raw, registry: Registry, image: str) -> None:
    settings = {"imageName": image}
    say = {"commandLine": "/bin/sh -c 'echo in a box > $AZ_BATCH_NODE_SHARED_DIR/$NAME'", "containerSettings": settings}
    kinds = {name: {**say, "environmentSettings": [{"name": "NAME", "value": name}]} for name in ("start", "prepare", "release", "manage")}
    pool_id = unique("kinds")
    body = container_pool(None, registry, pool_id, startTask={**kinds["start"], "waitForSuccess": True})
    assert raw("POST", "/pools", body).status == 201
    yard = Yard(raw, pool_id)
    try:
        more = {
            "jobManagerTask": {"id": "m", **kinds["manage"]},
            "jobPreparationTask": kinds["prepare"],
            "jobReleaseTask": kinds["release"],
        }
        job_id = yard.job(**more)
        yard.job_reached(job_id, "completed")
        [node] = yard.get(f"/pools/{pool_id}/nodes")["value"]
        for name in kinds:
            answer = raw("GET", f"/pools/{pool_id}/nodes/{node['id']}/files/shared%2F{name}")
            assert answer.body == b"in a box\n", (name, answer.body)
    finally:
        for made in yard.jobs:
            raw("DELETE", f"/jobs/{made}")
        raw("DELETE", f"/pools/{pool_id}")


def test_a_node_that_cannot_have_its_images_is_unusable_and_says_why(raw: Raw, registry: Registry) -> None:
    pool_id = unique("lacking")
    missing = f"{registry.host}/tests/none:1"
    assert raw("POST", "/pools", container_pool(missing, registry, pool_id)).status == 201
    try:

        def unusable() -> Json | None:
            nodes = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
            return nodes[0] if nodes and nodes[0]["state"] == "unusable" else None

        [error] = wait_for(unusable, "the node to be unusable")["errors"]
        assert error["code"] == "NodePreparationError"
        assert {pair["name"]: pair["value"] for pair in error["errorDetails"]}["ImageName"] == missing
    finally:
        raw("DELETE", f"/pools/{pool_id}")


def test_bodies_of_nextflow_run_unmodified(boxes: Yard, image: str, server: Server) -> None:
    """As its azurebatch executor sends them: run options that mount certificates, scripts as resource files, results as output files."""
    storage = BlobServiceClient.from_connection_string(server.storage_connection_string)
    bucket = storage.create_container(unique("work"))
    bucket.upload_blob("run.sh", b"cat input; echo done > result")
    bucket.upload_blob("input", b"given\n")
    sas = generate_container_sas(
        server.storage_account,
        bucket.container_name,
        account_key=server.storage_key,
        permission="rwl",
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    files = [{"httpUrl": f"{bucket.url}/{name}?{sas}", "filePath": name} for name in ("run.sh", "input")]
    outputs = [
        {
            "filePattern": pattern,
            "destination": {"container": {"containerUrl": f"{bucket.url}?{sas}", "path": "out"}},
            "uploadOptions": {"uploadCondition": "taskcompletion"},
        }
        for pattern in ("result", "../stdout.txt")
    ]
    body = {
        "id": "nf-1",
        "commandLine": "sh -c 'sh run.sh 2>&1'",
        "userIdentity": {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}},
        "containerSettings": {"imageName": image, "containerRunOptions": "-v /etc/ssl/certs:/etc/ssl/certs:ro -v /etc/pki:/etc/pki:ro "},
        "resourceFiles": files,
        "outputFiles": [
            {**outputs[0], "destination": {"container": {"containerUrl": f"{bucket.url}?{sas}", "path": "out/result"}}},
            {**outputs[1], "destination": {"container": {"containerUrl": f"{bucket.url}?{sas}", "path": "out/stdout.txt"}}},
        ],
        "requiredSlots": 1,
        "constraints": {"maxWallClockTime": "PT1H"},
    }
    job_id = boxes.job(body, onTaskFailure="noaction")
    done = boxes.reached(job_id, "nf-1")
    assert done["executionInfo"].get("exitCode") == 0, done
    assert bucket.download_blob("out/result").readall() == b"done\n"
    assert bucket.download_blob("out/stdout.txt").readall() == b"given\n"


SDK14 = """
import sys
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
url, account, key, job, image, host, user, password = sys.argv[1:]
client = BatchServiceClient(SharedKeyCredentials(account, key), batch_url=url)
registry = models.ContainerRegistry(registry_server=host, user_name=user, password=password)
settings = models.TaskContainerSettings(image_name=image, registry=registry, working_directory="taskWorkingDirectory")
client.task.add(job, models.TaskAddParameter(id="of14", command_line="cat /etc/passwd", container_settings=settings))
assert client.task.get(job, "of14").container_settings.registry.password is None
"""


def test_both_sdks_run_containers_from_a_private_registry(boxes: Yard, sdk: Sdk, server: Server, registry: Registry) -> None:
    image, job_id = registry.image("tests/private:1"), boxes.job()
    settings = models.BatchTaskContainerSettings(
        image_name=image,
        registry=models.ContainerRegistryReference(registry_server=registry.host, username=USER, password=PASSWORD),
    )
    sdk.client.create_task(job_id, models.BatchTaskCreateOptions(id="of15", command_line="cat /etc/passwd", container_settings=settings))
    words = [server.endpoint, server.account, server.key, job_id, image, registry.host, USER, PASSWORD]
    subprocess.run([os.environ["BATCHYARD_SDK14_PYTHON"], "-c", SDK14, *words], check=True)
    for name in ("of15", "of14"):
        assert boxes.reached(job_id, name)["executionInfo"].get("exitCode") == 0, boxes.task(job_id, name)
        assert output(boxes, job_id, name).startswith("root:x:0")
