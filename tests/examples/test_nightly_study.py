"""The parameter study of examples/, three nights of it, with a clock that is moved from one to the next."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from tests.api.conftest import Json, Later
from tests.conftest import Server, wait_for

STUDY = Path(__file__).parents[2] / "examples" / "nightly_study.py"


@pytest.fixture
def moved() -> Iterator[Server]:
    """A server whose clock can be moved."""
    running = Server("--test-clock", nodes=2)
    try:
        yield running
    finally:
        running.stop()


def test_every_night_a_pool_comes_and_goes_with_the_study(moved: Server) -> None:
    clock = Later(moved.endpoint, moved.account, moved.key)
    done = subprocess.run([sys.executable, STUDY], capture_output=True, text=True, env={**os.environ, **moved.environment}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    nights = []
    for number in range(1, 4):
        due = clock("GET", "/jobschedules/nightly-study").json["executionInfo"]["nextRunTime"]
        nights.append(datetime.fromisoformat(due))
        assert clock("GET", "/pools").json["value"] == []
        now = datetime.fromisoformat(clock("POST", "/batchyard/clock", {"advance": "PT0S"}).json["now"])
        clock.advance(f"PT{(nights[-1] - now).total_seconds() + 1:.0f}S")

        def ended(job: str = f"nightly-study:job-{number}") -> Json | None:
            found = clock("GET", f"/jobs/{job}").json
            return found if found.get("state") == "completed" else None

        job = wait_for(ended, "the night's job to end")
        assert job["executionInfo"]["terminateReason"] == "AllTasksComplete"
        counts = clock("GET", f"/jobs/{job['id']}/taskcounts").json["taskCounts"]
        assert (counts["succeeded"], counts["failed"]) == (9, 0)
        pool = job["executionInfo"]["poolId"]
        assert pool.startswith("nightly-study_")
        wait_for(lambda gone=pool: clock("GET", f"/pools/{gone}").status == 404, "the night's pool to be gone")  # type: ignore[misc]
    assert all(night.weekday() < 5 for night in nights)
    assert len({night.date() for night in nights}) == 3
