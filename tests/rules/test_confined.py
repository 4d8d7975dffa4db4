"""What of the host a container without elevation may have mounted, and where it may begin (contract 4.8)."""

from __future__ import annotations

import pytest

from batchyard.rules import confined
from batchyard.rules.containers import Bind, NotAllowed

TASK, SHARED = Bind("/n/workitems/j/job-1/t", "/n/workitems/j/job-1/t", False), Bind("/n/shared", "/n/shared", False)
GIVEN = (TASK, SHARED)


@pytest.mark.parametrize("source", ["/etc/ssl/certs", "/etc/pki/", "/etc/ssl/certs/ca-certificates.crt"])
def test_certificates_are_mounted_to_be_read(source: str) -> None:
    assert confined.of_everybody(Bind(source, "/x", False)) == Bind(source.rstrip("/"), "/x", True)


@pytest.mark.parametrize("source", ["/", "/etc", "/etc/ssl", "/etc/pki2", "/etc/pki/../shadow", "/root", "/n", "/n/shared/x"])
def test_nothing_else_of_the_host_is(source: str) -> None:
    with pytest.raises(NotAllowed, match="elevation level admin"):
        confined.of_everybody(Bind(source, "/x", True))


@pytest.mark.parametrize(
    ("targets", "empty"),
    [
        (["/n/shared/x"], []),
        (["/n"], []),
        (["/n/shared"], []),
        ([], ["/n/shared/x"]),
        ([], ["/n/workitems/j/job-1/t/wd"]),
        (["/a", "/a/b"], []),
        (["/a"], ["/a/b"]),
        (["//a"], ["/a//b/"]),
        (["/x/../n/shared/x"], []),
        (["/"], []),
        (["/etc"], []),
        (["/dev/shm"], []),
        (["/proc/self"], []),
    ],
)
def test_no_mount_point_is_made_in_another_mount(targets: list[str], empty: list[str]) -> None:
    with pytest.raises(NotAllowed):
        confined.mounts(GIVEN, [Bind("/etc/pki", target, True) for target in targets], empty)


def test_mounts_beside_each_other_are_taken() -> None:
    confined.mounts(GIVEN, [Bind("/etc/pki", "/etc/pki", True), Bind("/n/shared", "/data", False)], ["/tmp", "/run", "/n/shared2"])


@pytest.mark.parametrize(
    ("path", "relative"),
    [("/n/workitems/j/job-1/t/wd/a", "wd/a"), ("/n/workitems/j/job-1/t", "."), ("/data/a", "a"), ("/opt", None), ("/n/shared2", None)],
)
def test_a_command_begins_in_the_image_or_in_the_tasks_directory(path: str, relative: str | None) -> None:
    mounted = [*GIVEN, Bind(TASK.source, "/data", False)]
    assert confined.working(path, mounted, TASK.source) == relative


@pytest.mark.parametrize("path", ["/n/shared", "/n/shared/closed", "//n//shared/x", "/n/workitems/j/job-1/t/../../../../shared/x"])
def test_it_begins_nowhere_else_on_the_host(path: str) -> None:
    with pytest.raises(NotAllowed):
        confined.working(path, GIVEN, TASK.source)
