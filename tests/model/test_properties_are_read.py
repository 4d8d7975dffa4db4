"""Every property that a client may set is acted upon, or stands in docs/properties.md with the reason.

Acted upon means: some code outside the shapes and outside what only checks requests reads it. mypy says of which shape an attribute is, so
that the `name` of one shape does not count for another's. Below a property of the list nothing more is asked.
"""

from __future__ import annotations

import ast
import re
import sys
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from mypy import build
from mypy.modulefinder import BuildSource
from mypy.nodes import MemberExpr
from mypy.options import Options
from mypy.types import Instance, Type, TypeVarType, UnionType, get_proper_type

from batchyard.model import job, jobschedule, node, pool, task
from batchyard.model.common import Shape

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src"
PAGE = ROOT / "docs" / "properties.md"
REQUESTS: tuple[type[Shape], ...] = (
    pool.PoolCreateContent,
    pool.PoolPatch,
    pool.PoolUpdateProperties,
    pool.PoolEnableAutoScale,
    pool.PoolEvaluateAutoScale,
    pool.PoolResize,
    pool.NodeRemove,
    job.JobCreateContent,
    job.JobPatch,
    job.JobUpdate,
    job.JobDisable,
    job.JobTerminate,
    jobschedule.JobScheduleCreateContent,
    jobschedule.JobSchedulePatch,
    jobschedule.JobScheduleUpdate,
    task.TaskCreateContent,
    task.TaskUpdate,
    node.NodeReboot,
    node.NodeReimage,
    node.NodeDeallocate,
    node.NodeDisableScheduling,
    node.NodeUserCreate,
    node.NodeUserUpdate,
    node.UploadBatchServiceLogs,
)
_ONLY_CHECKS = re.compile(r"batchyard\.engine\.checks\.(auto_pools|jobs|tasks|pools|demands)")
BECOMES: dict[type[Shape], type[Shape]] = {
    pool.PoolPatch: pool.PoolCreateContent,
    pool.PoolUpdateProperties: pool.PoolCreateContent,
    job.JobPatch: job.JobCreateContent,
    job.JobUpdate: job.JobCreateContent,
    jobschedule.JobSchedulePatch: jobschedule.JobScheduleContent,
    jobschedule.JobScheduleUpdate: jobschedule.JobScheduleContent,
    task.TaskUpdate: task.TaskCreateContent,
    job.JobManagerTask: task.TaskCreateContent,
}
"""Shapes whose properties are copied by name to those of another, and are acted upon there."""
TAKEN_BY_AGENTS = "batchyard.agent.run.runner.Work"
"""What an agent takes from a task as the client sent it, by the same names."""

Property = tuple[str, str]
"""Name of a class, and of an attribute of it."""


def _modules() -> Iterator[tuple[str, Path]]:
    for path in SOURCES.rglob("*.py"):
        yield ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__"), path


def _options() -> Options:
    options = Options()
    options.python_executable, options.python_version = sys.executable, (3, 11)
    options.mypy_path, options.explicit_package_bases = [str(SOURCES)], True
    options.incremental, options.cache_dir, options.follow_imports = False, "/dev/null", "skip"
    options.export_types = True
    return options


def _classes(found: Type | None) -> Iterator[str]:
    """Names of the classes that a type stands for, with those that they are made from; the base of all declares nothing."""
    if found is None:
        return
    proper = get_proper_type(found)
    if isinstance(proper, UnionType):
        for item in proper.items:
            yield from _classes(item)
    elif isinstance(proper, TypeVarType):
        yield from _classes(proper.upper_bound)
    elif isinstance(proper, Instance):
        yield from (base.fullname for base in proper.type.mro if base.fullname.startswith("batchyard.") and base.fullname != _full(Shape))


@pytest.fixture(scope="module")
def reads() -> dict[Property, set[str]]:
    """Modules beside the shapes that read an attribute of a class."""
    places: dict[tuple[object, ...], set[str]] = defaultdict(set)
    modules = dict(_modules())
    for module, path in modules.items():
        if not module.startswith("batchyard.model."):
            for at in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(at, ast.Attribute) and isinstance(at.ctx, ast.Load):
                    places[at.attr, at.lineno, at.col_offset, at.end_lineno, at.end_col_offset].add(module)
    known = build.build([BuildSource(str(path), module, None) for module, path in modules.items()], _options())
    found: dict[Property, set[str]] = defaultdict(set)
    for expression in known.types:
        if isinstance(expression, MemberExpr):
            at = expression
            where = places.get((at.name, at.line, at.column, at.end_line, at.end_column), set())
            for name in _classes(known.types.get(at.expr)):
                found[name, at.name] |= where
    return found


def _shapes(hint: object) -> Iterator[type[Shape]]:
    if isinstance(hint, type) and issubclass(hint, Shape):
        yield hint
    for inner in typing.get_args(hint):
        yield from _shapes(inner)


def _full(shape: type) -> str:
    return f"{shape.__module__}.{shape.__name__}"


def _acts(reads: dict[Property, set[str]], shape: type[Shape], attribute: str) -> bool:
    """True when something that is no check reads the attribute of the shape, or of what the shape becomes."""
    names = [_full(base) for base in shape.__mro__ if base.__module__.startswith("batchyard.")]
    if shape in (task.TaskCreateContent, pool.StartTask):
        names.append(TAKEN_BY_AGENTS)
    if any(_ONLY_CHECKS.fullmatch(module) is None for name in names for module in reads.get((name, attribute), ())):
        return True
    other = BECOMES.get(shape)
    return other is not None and attribute in other.__struct_fields__ and _acts(reads, other, attribute)


def _walk(reads: dict[Property, set[str]]) -> tuple[set[Property], set[Property]]:
    """(Properties that nothing acts upon, all properties that were looked at), by shape and name on the wire."""
    unread, seen = set[Property](), set[Property]()
    waiting, done = list(REQUESTS), set[type[Shape]]()
    while waiting:
        shape = waiting.pop()
        if shape in done:
            continue
        done.add(shape)
        hints = typing.get_type_hints(shape, include_extras=True)
        for field in msgspec.structs.fields(shape):
            seen.add((shape.__name__, field.encode_name))
            if _acts(reads, shape, field.name):
                waiting += _shapes(hints[field.name])
            else:
                unread.add((shape.__name__, field.encode_name))
    return unread, seen


def listed() -> dict[Property, str]:
    """Shape and property to reason, as the page has them."""
    rows = re.findall(r"^\| (\w+) \| (.+?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return {(shape, name): why for shape, names, why in rows for name in re.findall(r"`([^`]+)`", names)}


def test_every_property_is_acted_upon_or_listed_with_its_reason(reads: dict[Property, set[str]]) -> None:
    unread, _ = _walk(reads)
    assert unread - set(listed()) == set()


def test_the_list_names_only_what_nothing_acts_upon(reads: dict[Property, set[str]]) -> None:
    unread, _ = _walk(reads)
    assert set(listed()) - unread == set()


def test_what_is_surely_read_is_found(reads: dict[Property, set[str]]) -> None:
    unread, seen = _walk(reads)
    surely = {("TaskCreateContent", "commandLine"), ("TaskCreateContent", "outputFiles"), ("PoolCreateContent", "taskSlotsPerNode")}
    assert surely <= seen - unread
    assert ("PoolCreateContent", "resourceTags") in unread
