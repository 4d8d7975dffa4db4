"""What applications may be called, and what tasks are told of their packages (contract 4.6)."""

from __future__ import annotations

import pytest

from batchyard.rules import packages

FULL = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Batch/batchAccounts/a/applications/Blender"


@pytest.mark.parametrize(
    ("application", "version", "names"),
    [
        ("agent_linux-x64", "1.1.46.0", ["AZ_BATCH_APP_PACKAGE_agent_linux_x64_1_1_46_0"]),
        ("blender", None, ["AZ_BATCH_APP_PACKAGE_blender"]),
        ("Blender", "2.7-b", ["AZ_BATCH_APP_PACKAGE_Blender_2_7_b", "AZ_BATCH_APP_PACKAGE_blender_2_7_b"]),
        ("FFmpeg", None, ["AZ_BATCH_APP_PACKAGE_FFmpeg", "AZ_BATCH_APP_PACKAGE_ffmpeg"]),
    ],
)
def test_the_variables_of_a_package(application: str, version: str | None, names: list[str]) -> None:
    assert packages.variables(application, version) == names


def test_a_reference_may_be_the_full_path_of_the_management_plane() -> None:
    assert packages.application_of(FULL) == "Blender"
    assert packages.application_of(FULL.lower()) == "blender"
    assert packages.application_of("blender") == "blender"
    for other in (FULL + "/versions/1", FULL[1:], "/applications/blender"):
        assert not packages.is_application(packages.application_of(other))


def test_names_are_letters_digits_and_a_few_signs() -> None:
    for name in ("a", "A-b_9", "x" * 64):
        assert packages.is_application(name)
        assert packages.is_version(name)
    for name in ("", "x" * 65, "a b", "a/b", "ä", "a\n", "a\0"):
        assert not packages.is_application(name)
        assert not packages.is_version(name)
    assert packages.is_version("1.0.0-rc.1")
    assert not packages.is_application("1.0")
