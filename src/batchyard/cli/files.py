"""Files of tasks and nodes: listed, copied here, deleted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from batchyard.cli import fetch, names, nodes, output, tables
from batchyard.cli.client import CHUNK, Client
from batchyard.cli.problem import Problem
from batchyard.cli.progress import Progress
from batchyard.cli.streams import confirmed

Shown = Mapping[str, Any]
Found = dict[str, Any]


def of_task(batch: Client, *, task: str, path: str | None, job: str | None, delete: bool, shown: Shown, yes: bool | None) -> None:
    """List the files of a task, or delete a path."""
    where, id_ = names.the_task(batch, task, job)
    _files(batch, ("jobs", where, "tasks", id_, "files"), path, shown, delete=delete, yes=bool(yes))


def of_node(batch: Client, *, node: str, path: str | None, delete: bool, shown: Shown, yes: bool | None) -> None:
    """List the files of a node, or delete a path."""
    pool, id_ = nodes.the_node(batch, node)
    _files(batch, ("pools", pool, "nodes", id_, "files"), path, shown, delete=delete, yes=bool(yes))


def _files(batch: Client, base: Sequence[str], path: str | None, shown: Shown, *, delete: bool, yes: bool) -> None:
    if not delete:
        output.show(lambda: [[output.raw(one) for one in _below(batch, base, path)]], tables.FILES, shown)
        return
    if path is None:
        raise Problem("say which path to delete")
    lost = [one for one in _below(batch, base, path) if not one.get("isDirectory")]
    confirmed(f"Delete {path}, {len(lost):,} files?", yes=yes)
    batch.delete(*base, path, recursive="true")
    print(f"{path} is deleted")


def _below(batch: Client, base: Sequence[str], path: str | None) -> Iterator[Found]:
    """What lies at a path and below, or all that there is."""
    for one in batch.listed(*base, recursive="true"):
        if path is None or one["name"] == path.rstrip("/") or one["name"].startswith(f"{path.rstrip('/')}/"):
            yield one


def copy_from_task(batch: Client, *, task: str, path: str, into: str | None, job: str | None) -> None:
    """Copy files of a task here."""
    where, id_ = names.the_task(batch, task, job)
    _copy(batch, ("jobs", where, "tasks", id_, "files"), path, into)


def copy_from_node(batch: Client, *, node: str, path: str, into: str | None) -> None:
    """Copy files of a node here."""
    pool, id_ = nodes.the_node(batch, node)
    _copy(batch, ("pools", pool, "nodes", id_, "files"), path, into)


def _copy(batch: Client, base: Sequence[str], path: str, into: str | None) -> None:
    """A file becomes the named one, or one in the named directory; a directory becomes a directory there. Raises Problem."""
    if into == "-":
        offset = 0
        while data := batch.read(*base, path, offset=offset, most=CHUNK):
            sys.stdout.buffer.write(data)
            offset += len(data)
        return
    found = [one for one in _below(batch, base, path) if not one.get("isDirectory")]
    if not found:
        raise Problem(f"there is no file {path}")
    target = Path(into or ".").resolve()
    with Progress("copying", len(found)) as progress:
        for one in found:
            name = str(one["name"])
            if name == path.rstrip("/") and into is not None and not target.is_dir() and not into.endswith("/"):
                place, name = target.parent, target.name
            else:
                place, name = target, str(PurePosixPath(name).relative_to(PurePosixPath(path).parent))
            fetch.save(fetch.as_blob(one), place, name, partial(fetch.read_part, batch, (*base, one["name"])))
            progress.add()
