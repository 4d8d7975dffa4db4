"""The starts of files of many tasks in one answer, over raw signed HTTP."""

from __future__ import annotations

import pytest
from tests.api.conftest import Raw, Yard, task

from batchyard.model import frames


def outputs(raw: Raw, job_id: str, tasks: list[str], files: list[str]) -> list[tuple[int, bytes]]:
    answer = raw("POST", f"/batchyard/jobs/{job_id}/outputs", {"tasks": tasks, "files": files})
    assert answer.status == 200, answer.body
    return list(frames.Frames().feed(answer.body))


def test_files_come_in_the_order_of_the_request(yard: Yard, raw: Raw) -> None:
    large = "head -c 40000 /dev/zero; echo error >&2"
    job_id = yard.job(task("a", "echo a"), task("b", large), task("c", "true"))
    for one in "abc":
        yard.reached(job_id, one)
    found = outputs(raw, job_id, ["c", "b", "nobody", "A", "a"], ["stdout.txt", "stderr.txt"])
    assert found == [
        (frames.WHOLE, b""),
        (frames.WHOLE, b""),
        (frames.START, bytes(32 << 10)),
        (frames.WHOLE, b"error\n"),
        (frames.MISSING, b""),
        (frames.MISSING, b""),
        (frames.WHOLE, b"a\n"),
        (frames.WHOLE, b""),
        (frames.WHOLE, b"a\n"),
        (frames.WHOLE, b""),
    ]


def test_nothing_outside_of_a_tasks_directory_is_read(yard: Yard, raw: Raw) -> None:
    job_id = yard.job(task("a", "ln -s /etc/passwd link; echo x > own"))
    yard.reached(job_id, "a")
    wanted = ["../../../shared", "/etc/passwd", "wd/link", "wd/own"]
    assert [kind for kind, _ in outputs(raw, job_id, ["a"], wanted)] == [frames.MISSING] * 3 + [frames.WHOLE]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"tasks": [], "files": ["x"]}, "InvalidPropertyValue"),
        ({"tasks": ["a"] * 51, "files": ["x"]}, "InvalidPropertyValue"),
        ({"tasks": ["a"], "files": ["x"] * 5}, "InvalidPropertyValue"),
        ({"tasks": ["a"]}, "MissingRequiredProperty"),
        ({"tasks": ["a"], "files": ["x"], "most": 1}, "InvalidRequestBody"),
    ],
)
def test_what_is_refused(yard: Yard, raw: Raw, body: dict[str, object], error: str) -> None:
    raw("POST", f"/batchyard/jobs/{yard.job()}/outputs", body).assert_error(400, error)


def test_a_job_that_is_not_there(raw: Raw) -> None:
    raw("POST", "/batchyard/jobs/none/outputs", {"tasks": ["a"], "files": ["x"]}).assert_error(404, "JobNotFound")
