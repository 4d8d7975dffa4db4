"""Steps of the models run on SQLite, and on PostgreSQL by `--driver`."""

from __future__ import annotations

import pytest

import databases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc, both=False)
