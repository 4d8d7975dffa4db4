"""Tasks in containers, by real containers on a real node (contract 4.8)."""

from __future__ import annotations

import pytest
from tests.api.conftest import Json, Yard, sh, task
from tests.containers.conftest import Registry

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
    script = "ls /bin/rooted; pwd; echo $AZ_BATCH_TASK_WORKING_DIR $GREETING; touch made; id -u; exit 7"
    job_id = boxes.job(boxed(image, "t", script, environmentSettings=[{"name": "GREETING", "value": "hello"}]))
    done = boxes.reached(job_id, "t")
    assert done["executionInfo"]["exitCode"] == 7, (done, output(boxes, job_id, "t", "stderr.txt"))
    lines = output(boxes, job_id, "t").splitlines()
    assert lines[0] == "/bin/rooted"
    assert lines[2] == f"{lines[1]} hello"
    assert lines[1].endswith("/t/wd")
    assert int(lines[3]) >= 70_000
    assert boxes.raw("GET", f"/jobs/{job_id}/tasks/t/files/wd%2Fmade").status == 200
