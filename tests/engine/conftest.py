"""Worlds for tests of the engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_world import World

import databases

BOTH = ("test_changes", "test_guards", "test_crashes", "test_ends", "test_joins", "test_walks", "test_state_writers", "test_two_writers")
"""Modules whose tests run on each database in every run; of the others `make test-postgres` runs all on PostgreSQL too."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc, both=metafunc.module.__name__.rpartition(".")[2] in BOTH)


@pytest.fixture(autouse=True)
def _on_a_driver(driver: str) -> None:
    """Every test has one, whether it asks or not."""


@pytest.fixture
def world() -> Iterator[World]:
    """A world in memory; whatever a test does, its rows agree at the end."""
    made = World()
    yield made
    try:
        made.check()
    finally:
        made.close()


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[World]:
    """A world in a file, which can be reopened."""
    made = World(tmp_path / "batchyard.db")
    yield made
    try:
        made.check()
    finally:
        made.close()
