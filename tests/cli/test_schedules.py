"""`batchyard schedule` and `submit --every`, as processes against a live server."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.conftest import wait_for

from batchyard.cli import schedules
from batchyard.cli.client import Client, Refused
from batchyard.cli.problem import Usage

FAR = "2090-01-01T00:00:00+00:00"


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """Id of a schedule, which is deleted behind the test."""
    made = f"plan-{secrets.token_hex(4)}"
    yield made
    with contextlib.suppress(Refused):  # it is gone, or goes
        client.delete("jobschedules", made, force="true")


def test_a_schedule_from_beginning_to_end(cli: Cli, client: Client, name: str) -> None:
    times = ("--start", FAR, "--end", "2091-01-01T00:00:00+00:00", "--window", "5m")
    assert cli("schedule", "create", name, "--pool", "none", "--every", "1h", *times, "--metadata", "team=red").stdout == f"{name}\n"
    made = client.get("jobschedules", name)
    assert made["schedule"] == {
        "doNotRunUntil": "2090-01-01T00:00:00Z",
        "doNotRunAfter": "2091-01-01T00:00:00Z",
        "startWindow": "PT5M",
        "recurrenceInterval": "PT1H",
    }
    assert cli("schedule", "update", name, "--window", "10m", "--pool", "other").returncode == 0
    changed = client.get("jobschedules", name)
    assert changed["schedule"] == {**made["schedule"], "startWindow": "PT10M"}
    assert changed["jobSpecification"] == {**made["jobSpecification"], "poolInfo": {"poolId": "other"}}
    assert changed["metadata"] == [{"name": "team", "value": "red"}]
    cli("schedule", "update", name, "--cron", "30 2 * * mon-fri", "--time-zone", "Europe/Berlin")
    assert client.get("jobschedules", name)["executionInfo"] == {"nextRunTime": "2090-01-02T01:30:00Z"}
    listed = cli("schedule", "list", f"{name[:-1]}*").stdout
    assert all(text in listed for text in (name, "active", "30 2 * * mon-fri (Europe/Berlin)", "2090-01-02T01:30:00Z"))
    assert cli("schedule", "list", "--where", f"id:{name} next:>2089-01-01", "-o", "id").stdout == f"{name}\n"
    cli("schedule", "update", name, "--every", "2h")
    again = client.get("jobschedules", name)
    assert (again["metadata"], again["executionInfo"]["nextRunTime"]) == ([{"name": "team", "value": "red"}], "2090-01-01T00:00:00Z")
    assert cli("schedule", "disable", name).stdout == f"the schedule {name} is disabled\n"
    why = cli("explain", "schedule", name).stdout
    assert "ScheduleDisabled" in why
    assert f"batchyard schedule enable {name}" in why
    assert cli("schedule", "why", name).stdout == why
    assert cli("schedule", "enable", name).returncode == 0
    assert cli("schedule", "terminate", name).stdout == f"the schedule {name} ends\n"
    assert json.loads(cli("schedule", "show", name, "-o", "json").stdout)["state"] == "completed"
    assert cli("schedule", "delete", name).stdout == f"the schedule {name} is being deleted\n"


def test_a_command_is_run_again_and_again(cli: Cli, client: Client, name: str, shared_pool: str, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello\n")
    done = cli("submit", "--pool", shared_pool, "--id", name, "--every", "1h", "--in", "greeting", "--env", "A=b", "--", "cat", "greeting")
    assert done.stdout == f"{name}\n", done.stderr
    job = f"{name}:job-1"
    wait_for(lambda: client.get("jobs", job)["state"] == "completed", "the job to end by itself")
    assert client.get("jobs", job)["executionInfo"]["terminateReason"] == "JMComplete"
    assert cli("logs", f"{job}/main").stdout == "hello\n"
    assert job in cli("schedule", "jobs", name).stdout
    assert cli("schedule", "jobs", name, "-o", "id").stdout == f"{job}\n"
    spec = client.get("jobschedules", name)["jobSpecification"]["jobManagerTask"]
    assert (spec["killJobOnCompletion"], spec["environmentSettings"]) == (True, [{"name": "A", "value": "b"}])
    assert cli("schedule", "delete", "--yes", name).returncode == 0


def test_a_dry_run_says_what_would_be_sent(cli: Cli, client: Client) -> None:
    body = json.loads(cli("submit", "--id", "dry", "--cron", "0 3 * * *", "--time-zone", "Europe/Paris", "--dry-run", "--", "true").stdout)
    assert body["metadata"] == [{"name": "batchyard.cron", "value": "0 3 * * *"}, {"name": "batchyard.timeZone", "value": "Europe/Paris"}]
    assert body["jobSpecification"]["jobManagerTask"]["commandLine"] == "true"
    with pytest.raises(Refused):
        client.get("jobschedules", "dry")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--every", "1h", "--cron", "0 0 * * *"), "--every and --cron"),
        (("--time-zone", "UTC"), "--cron"),
        (("--every", "soon"), "a span of time"),
        (("--every", "1h", "--array", "1-3"), "--array does not go with"),
        (("--every", "1h", "--out", "x"), "--out does not go with"),
        (("--every", "1h", "--wait"), "--wait does not go with"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Cli, words: tuple[str, ...], told: str) -> None:
    done = cli("submit", *words, "--", "true")
    assert done.returncode == 2
    assert told in done.stderr


def test_the_service_says_what_is_wrong_with_an_expression(cli: Cli, name: str) -> None:
    done = cli("schedule", "create", name, "--pool", "none", "--cron", "0 25 * * *")
    assert done.returncode == 1
    assert "hour" in done.stderr


def test_spans() -> None:
    said = {"90s": "PT90S", "1h": "PT3600S", "2d": "PT172800S", "PT7M": "PT7M", "1.5m": "PT90S"}
    assert {text: schedules.duration(text, "--every") for text in said} == said
    with pytest.raises(Usage):
        schedules.duration("1y", "--every")
