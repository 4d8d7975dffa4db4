"""`batchyard app`: directories and zip files become versions of applications, with all that a program needs to run."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest


class Cli(Protocol):
    """A command that runs to its end."""

    def __call__(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]: ...


def done(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    """Id of an application that is deleted behind the test."""
    made = f"app-{secrets.token_hex(4)}"
    yield made
    cli("app", "delete", made, "-y")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with a program, a link to it, an old file and an empty directory."""
    top = tmp_path / "program"
    (top / "bin").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "bin" / "hello").write_text("#!/bin/sh\necho hello from $(basename $0)\n")
    (top / "bin" / "hello").chmod(0o755)
    (top / "bin" / "salute").symlink_to("hello")
    (top / "latest").symlink_to("bin")
    (top / "old.txt").write_text("old")
    os.utime(top / "old.txt", (0, 0))
    return top


def test_a_directory_is_added_and_its_programs_run(cli: Cli, name: str, program: Path, shared_pool: str, tmp_path: Path) -> None:
    assert done(cli("app", "add", name, "1.0", program, "--default")) == f"{name} 1.0\n"
    job = f"{name}-job"
    done(cli("job", "create", job, "--pool", shared_pool))
    variable = f"AZ_BATCH_APP_PACKAGE_{name.replace('-', '_')}"
    script = f"cd ${variable} && bin/hello && latest/salute && cat old.txt && ls -d empty"
    body = {"id": "t", "commandLine": f"/bin/sh -c '{script}'", "applicationPackageReferences": [{"applicationId": name}]}
    (tmp_path / "task.json").write_text(json.dumps(body))
    done(cli("task", "create", job, "-f", tmp_path / "task.json"))
    done(cli("wait", f"{job}/t"))
    assert done(cli("logs", f"{job}/t")) == "hello from hello\nhello from salute\noldempty\n"
    done(cli("job", "delete", job, "-y"))


def test_list_show_default_and_delete(cli: Cli, name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a", "a")
    for version in ("1", "2"):
        done(cli("app", "add", name, version, tmp_path / "a.zip"))
    assert f"{name}" in done(cli("app", "list"))
    assert done(cli("app", "default", name, "2")) == f"{name} 2 is the default version\n"
    shown = json.loads(done(cli("app", "show", name, "-o", "json")))
    shown = shown[0] if isinstance(shown, list) else shown
    assert (shown["defaultVersion"], [package["version"] for package in shown["packages"]]) == ("2", ["1", "2"])
    assert done(cli("app", "default", name, "--off")) == f"{name} has no default version\n"
    assert done(cli("app", "delete", name, "1", "-y")) == f"{name} 1 is deleted\n"
    assert done(cli("app", "delete", name, "-y")) == f"{name} is deleted\n"
    assert "ApplicationNotFound" in cli("app", "show", name).stderr


def test_mistakes_are_told(cli: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no zip")
    for words, said in (
        ((name, "1", tmp_path / "text"), "is no zip file; name a directory"),
        ((name, "1", tmp_path / "nothing"), "No such file"),
        ((name, "1/2", tmp_path), "InvalidPropertyValue"),
    ):
        run = cli("app", "add", *words)
        assert run.returncode != 0
        assert said in run.stderr, run.stderr
    assert cli("app", "default", name).returncode == 2
    assert "ApplicationNotFound" in cli("app", "show", name).stderr
