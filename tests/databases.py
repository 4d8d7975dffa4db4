"""Which database a test's stores lie in: SQLite or PostgreSQL, by `--driver`.

A test says `place(path)` or `place(MEMORY)` and gets a location of the driver that it runs on: the same schema for the same path.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import postgres
from batchyard import drivers
from batchyard.store.db import MEMORY

SQLITE, POSTGRES, REST = "sqlite", "postgres", "rest"
_driver = SQLITE
_places: dict[Path, str] = {}
_made: list[str] = []


def add_option(parser: pytest.Parser) -> None:
    """`--driver`: without it, SQLite for all tests and PostgreSQL for those that say so; `rest` is PostgreSQL for all others."""
    parser.addoption("--driver", choices=[SQLITE, POSTGRES, "both", REST], help="the database under tests of store and engine")


def parametrize(metafunc: pytest.Metafunc, *, both: bool) -> None:
    """Run a test of the fixture `driver` on one database, or on each."""
    if "driver" not in metafunc.fixturenames:
        return
    asked = metafunc.config.getoption("--driver")
    chosen = [SQLITE, POSTGRES] if asked == "both" or (asked is None and both) else [asked or SQLITE]
    if asked == REST:
        chosen = [SQLITE if both else POSTGRES]
    if metafunc.definition.get_closest_marker("sqlite"):  # what it tests is SQLite's
        chosen = [SQLITE]
    metafunc.parametrize("driver", chosen, indirect=True)


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `rest`, what runs without it too, and what knows no driver."""
    if config.getoption("--driver") == REST:
        driven = [item for item in items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
        kept = [item for item in driven if item.callspec.params.get("driver") == POSTGRES]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def choose(driver: str) -> None:
    """What `place` gives from now on."""
    global _driver
    _driver = driver


def on_postgres() -> bool:
    """True while the test that runs is one on PostgreSQL."""
    return _driver == POSTGRES


def place(path: Path) -> Path | str:
    """The location of a store for a path."""
    if _driver == SQLITE:
        return path
    if path != MEMORY and path in _places:
        return _places[path]
    _made.append(postgres.fresh())
    if path != MEMORY:
        _places[path] = _made[-1]
    return _made[-1]


def last() -> str:
    """What `place` gave last."""
    return _made[-1]


def clear() -> None:
    """Remove what the test that ends has made."""
    while _made:
        drivers.drop(_made.pop())
    _places.clear()
