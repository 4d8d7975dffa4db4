"""Which tests run through the lines that a change changes: those that could notice it.

The lines of every test, and how long it takes, are recorded once (`scripts/mutants_plugin.py`), and again when the code or the test has
changed. A change of a line that no record knows (a parameter's default) could be noticed by whatever runs through its function.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

MUTANTS = Path(__file__).resolve().parent.parent / "mutants"
LINES, FRESH = MUTANTS / "lines.json", MUTANTS / "lines-of-some.json"
_AT_ONCE = 10
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Reach:
    """The record: the tests of each line by file, and the seconds of each test that passes."""

    def __init__(self, record: Callable[[list[str], Path], None]) -> None:
        """Look which test files have changed since they were recorded, and have `record` write those down, a few at a time.

        A change of the code has all of them recorded again, a change of what tests share none: they run through the same lines then.
        What was recorded stays when the rest is broken off.
        """
        known = json.loads(LINES.read_text()) if LINES.exists() else {}
        code, files = _digest(*sorted((MUTANTS / "src").rglob("*.py"))), _test_files()
        if known.get("code") != code:
            known = {"code": code, "files": {}, "lines": {}, "seconds": {}}
        stale = [file for file, digest in files.items() if known["files"].get(file) != digest]
        for some in (stale[nth : nth + _AT_ONCE] for nth in range(0, len(stale), _AT_ONCE)):
            record(some, FRESH)
            fresh = json.loads(FRESH.read_text())
            FRESH.unlink()
            known["seconds"] = {test: s for test, s in known["seconds"].items() if _file_of(test) not in some} | fresh["seconds"]
            _merge(known["lines"], fresh["lines"], some)
            known["files"] |= {file: files[file] for file in some}
            LINES.write_text(json.dumps(known))
        self.seconds: dict[str, float] = known["seconds"]
        self._lines: dict[str, dict[str, list[str]]] = known["lines"]

    def tests(self, name: str) -> set[str]:
        """Those that pass and run through what a change changes."""
        module, _, mangled = name.rpartition(".")
        file = _file(module)
        functions = _functions(file)
        (function, original), (_, changed) = functions[f"{mangled.rpartition('__mutmut_')[0]}__mutmut_orig"], functions[mangled]
        lines = self._lines.get(str(file.relative_to(MUTANTS)), {})
        found = self._of(lines, _touched(function, original, changed))
        return found or self._of(lines, range(function.lineno, function.lineno + len(original)))

    def _of(self, lines: dict[str, list[str]], numbers: Iterable[int]) -> set[str]:
        return {test for number in numbers for test in lines.get(str(number), ()) if test in self.seconds}


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _test_files() -> dict[str, str]:
    """Every file of tests, and what tells its present content from another."""
    return {str(file.relative_to(MUTANTS)): _digest(file) for file in sorted((MUTANTS / "tests").rglob("test_*.py"))}


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _merge(known: dict[str, dict[str, list[str]]], fresh: dict[str, dict[str, list[str]]], stale: Collection[str]) -> None:
    """Put what was recorded of some test files in the place of what was known of them."""
    for lines in known.values():
        for line, tests in lines.items():
            lines[line] = [test for test in tests if _file_of(test) not in stale]
    for file, lines in fresh.items():
        for line, tests in lines.items():
            known.setdefault(file, {}).setdefault(line, []).extend(tests)


def _file(module: str) -> Path:
    base = MUTANTS / "src" / module.replace(".", "/")
    return base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"


@cache
def _functions(file: Path) -> dict[str, tuple[_Function, list[str]]]:
    """Every function of a file of mutmut's, with its lines; one of a class has the class in its name."""
    text = file.read_text()
    lines = text.splitlines()
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, _Function))
    return {node.name: (node, lines[node.lineno - 1 : node.end_lineno]) for node in nodes}


def _touched(function: _Function, original: list[str], changed: list[str]) -> Iterator[int]:
    """The lines of the statements that differ, in numbers of the file; the first one differs by the name alone."""
    for tag, begin, end, _, _ in SequenceMatcher(None, original, changed, autojunk=False).get_opcodes():
        if tag != "equal":
            for line in range(max(begin, 1), end):
                yield from _statement(function, function.lineno + line)


def _statement(function: _Function, line: int) -> Iterator[int]:
    """The lines that run when a line's statement does; of one that holds others, the line alone."""
    inner: Any = None
    for node in ast.walk(function):  # breadth first: the last that holds the line is the innermost
        if isinstance(node, ast.stmt) and node is not function and node.lineno <= line <= (node.end_lineno or node.lineno):
            inner = node
    if inner is not None and not hasattr(inner, "body"):
        yield from range(inner.lineno, inner.end_lineno + 1)
    else:
        yield line
