"""Tasks in containers, by real containers on a real node (contract 4.8)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.api.conftest import Json, Raw, Yard, task
from tests.conftest import Server, wait_for
from tests.containers.conftest import PASSWORD, Registry

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


ESCAPES = 'id -u; grep -E "^Cap(Eff|Bnd)|^NoNewPrivs" /proc/self/status; cat /host/etc/shadow; ls /host/root; exit 0'


def test_a_task_without_elevation_is_nobody_on_the_host(boxes: Yard, image: str) -> None:
    job_id = boxes.job(boxed(image, "t", ESCAPES, settings={"containerRunOptions": "-v /:/host"}))
    assert boxes.reached(job_id, "t")["executionInfo"]["exitCode"] == 0
    said = output(boxes, job_id, "t")
    assert int(said.split()[0]) >= 70_000
    assert "NoNewPrivs:\t1" in said, "a setuid program of the image must not make it root"
    assert said.count("0000000000000000") == 2, said
    assert "root:" not in said
    assert output(boxes, job_id, "t", "stderr.txt").count("ermission denied") == 2


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


def test_an_image_is_pulled_once_for_fifty_tasks(boxes: Yard, registry: Registry) -> None:
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
