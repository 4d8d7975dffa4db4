"""Multi-instance tasks from the command line: submit, show, explain."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Cli

from batchyard.cli.client import Client


def test_submit_says_how_many_instances_and_what_they_run_first(cli: Cli) -> None:
    said = cli("submit", "--instances", "3", "--coordination", "prepare {N}", "--matrix", "N=a,b", "--dry-run", "--", "run", "{N}").stdout
    found = [json.loads(line)["multiInstanceSettings"] for line in said.splitlines()]
    assert found == [{"numberOfInstances": 3, "coordinationCommandLine": f"prepare {name}"} for name in "ab"]
    plain = json.loads(cli("submit", "--instances", "2", "--dry-run", "--", "run").stdout)
    assert plain["multiInstanceSettings"] == {"numberOfInstances": 2, "coordinationCommandLine": "/bin/true"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--coordination", "c", "--", "run"], "--coordination wants a command, and --instances N"),
        (["--instances", "2", "--coordination", " ", "--", "run"], "--coordination wants a command"),
        (["--instances", "0", "--", "run"], "--instances"),
        (["--instances", "2", "--every", "1h", "--", "run"], "--instances does not go with --every"),
    ],
)
def test_what_makes_no_sense_is_refused(cli: Cli, words: list[str], said: str) -> None:
    done = cli("submit", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_one_that_waits_is_shown_with_its_subtasks_and_explained(cli: Cli, client: Client) -> None:
    cli("pool", "create", "alone", "--inter-node")
    assert client.get("pools", "alone")["enableInterNodeCommunication"] is True
    cli("job", "create", "several", "--pool", "alone")
    made = {"id": "t", "commandLine": "true", "multiInstanceSettings": {"numberOfInstances": 2, "coordinationCommandLine": "true"}}
    client.post("jobs", "several", "tasks", body=made)
    shown = json.loads(cli("task", "show", "several/t", "-o", "json").stdout)
    assert (shown["multiInstanceSettings"]["numberOfInstances"], shown["subtasks"]) == (2, [])
    assert "no nodes" in cli("explain", "task", "several/t").stdout
    cli("job", "delete", "--yes", "several")
    cli("pool", "delete", "--yes", "alone")
