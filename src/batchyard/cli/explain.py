"""`batchyard explain`: why a task, a job or a pool does not run what it should, as a tree for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchyard.cli import names, tables
from batchyard.cli.client import Client
from batchyard.cli.connect import connected

if TYPE_CHECKING:
    from rich.tree import Tree

Found = Mapping[str, Any]


class Kind(StrEnum):
    """What can be explained."""

    JOB = "job"
    TASK = "task"
    POOL = "pool"


class Output(StrEnum):
    """How the answer is printed."""

    TREE = "tree"
    JSON = "json"


def explain(
    batch: Client,
    kind: Annotated[Kind, typer.Argument(help="job, task or pool")],
    name: Annotated[str, typer.Argument(metavar="ID", help="Its id; that of a task may be JOB/TASK.")],
    job: Annotated[str | None, typer.Option("--job", metavar="JOB", help="Job of the task.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="tree, or json as the service gives it.")] = Output.TREE,
) -> None:
    """Say why a task, a job or a pool does not run, and what to do."""
    found = batch.get("batchyard", "explain", *_path(batch, kind, name, job))
    if output is Output.JSON:
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        tables.console().print(tree(found))


def _path(batch: Client, kind: Kind, name: str, job: str | None) -> Sequence[str]:
    if kind is not Kind.TASK:
        return (f"{kind}s", name)
    where, task = names.the_task(batch, name, job)
    return ("jobs", where, "tasks", task)


def tree(found: Found) -> Tree:
    """The answer as a tree: reasons, below each what to do and the links that follow, then what the tasks of a job wait for."""
    from rich.text import Text
    from rich.tree import Tree

    made = Tree(Text.assemble((f"{found['kind']} {found['id']}", "bold"), f" is {found['state']}"))
    for reason in found["reasons"]:
        _add(made, reason)
    groups = found.get("groups") or ()
    if groups:
        looked = made.add(Text(f"of {found['lookedAt']} waiting tasks that were looked at ({found['waiting']} wait in all)", "bold"))
        for line in _summary(groups):
            looked.add(Text(line))
    return made


def _summary(groups: Sequence[Found]) -> Iterator[str]:
    for group in groups:
        yield f"{group['tasks']} {group['code']}, as {group['jobId']}/{group['example']}: {group['reason']['sentence']}"


def _add(branch: Tree, reason: Found) -> None:
    from rich.text import Text

    link = branch.add(Text.assemble((reason["code"], "yellow"), f"  {reason['sentence']}"))
    link.add(Text(f"→ {reason['action']}", "green"))
    for following in reason.get("because") or ():
        _add(link, following)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(connected(explain))
