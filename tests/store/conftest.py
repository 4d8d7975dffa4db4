"""Stores in memory and in files, and a few rows to fill them with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.store.db import MEMORY, Database

sys.path.insert(0, str(Path(__file__).parent))

import databases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc, both=True)


@pytest.fixture
def memory(driver: str) -> Iterator[Database]:
    db = Database(databases.place(MEMORY))
    yield db
    db.close()


@pytest.fixture
def db(driver: str, tmp_path: Path) -> Iterator[Database]:
    db = Database(databases.place(tmp_path / "batchyard.db"))
    yield db
    db.close()
