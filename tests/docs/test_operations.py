"""The table of operations in the docs is the table that the server goes by."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from batchyard.api.operations import OPERATIONS


@pytest.fixture(scope="module")
def printer() -> ModuleType:
    """scripts/operations.py."""
    spec = importlib.util.spec_from_file_location("operations_table", Path(__file__).parents[2] / "scripts" / "operations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_docs_equals_the_servers(printer: ModuleType) -> None:
    assert printer.PAGE.read_text(encoding="utf-8") == printer.page(), "run scripts/operations.py --write"


def test_every_operation_is_in_it_once(printer: ModuleType) -> None:
    rows = [line for line in printer.page().splitlines() if line.startswith("| ") and "`/" in line]
    assert len(rows) == len(set(rows)) == len(OPERATIONS)
