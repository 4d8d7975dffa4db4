"""Stores in memory and in files, and a few rows to fill them with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.store.db import MEMORY, Database

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def memory() -> Iterator[Database]:
    db = Database(MEMORY)
    yield db
    db.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(tmp_path / "batchyard.db")
    yield db
    db.close()
