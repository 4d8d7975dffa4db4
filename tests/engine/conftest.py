"""Worlds for tests of the engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_world import World


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
