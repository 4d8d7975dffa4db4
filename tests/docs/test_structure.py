"""docs/architecture.md tells the structure as the imports have it: the tables of drawers, and a walk through each main flow."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
WALK = re.compile(r"^- .*→.*$", re.M)


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    """scripts/structure.py."""
    spec = importlib.util.spec_from_file_location("structure", ROOT / "scripts" / "structure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def walks() -> list[str]:
    return WALK.findall((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))


def test_the_tables_of_drawers_are_those_of_the_imports(structure: ModuleType) -> None:
    text = structure.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- drawers of {package} -->" in text for package in structure.OPENED)
    assert structure.page() == text, "run scripts/structure.py --write"


def test_there_is_a_walk_for_each_main_flow() -> None:
    assert len(walks()) >= 6


@pytest.mark.parametrize("walk", walks(), ids=lambda walk: walk[2:40])
def test_every_step_of_a_walk_is_an_import(structure: ModuleType, walk: str) -> None:
    """`a` → `b` says that a imports b; what crosses a process is written `a` ⇢ `b`."""
    used = structure.imports()
    for chain in walk.split("⇢"):
        steps = [name.replace("/", ".") for name in re.findall(r"`([\w/]+)`", chain)]
        assert [name for name in steps if name not in used] == []
        assert [(a, b) for a, b in itertools.pairwise(steps) if b not in used[a]] == []
