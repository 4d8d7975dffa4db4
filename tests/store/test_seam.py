"""What the store knows of databases is behind one interface, and the group commit is written once."""

from __future__ import annotations

import re
from pathlib import Path

import batchyard

SOURCE = Path(batchyard.__file__).parent


def naming(pattern: str) -> set[str]:
    """Modules whose text has it."""
    return {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if re.search(pattern, path.read_text(), re.MULTILINE)}


def test_no_module_of_the_store_and_the_catalogues_knows_a_database_but_the_drivers() -> None:
    knowing = {
        name for name in naming(r"^\s*(import|from) (sqlite3|psycopg)\b") if name.split("/")[0] in ("store", "engine", "rules", "blobs")
    }
    assert knowing == {"store/soundness.py"}


def test_savepoints_of_units_are_made_in_one_place_for_each_database() -> None:
    assert naming(r"SAVEPOINT unit\b") <= {"disk/sqlite.py", "drivers/postgres.py"}
