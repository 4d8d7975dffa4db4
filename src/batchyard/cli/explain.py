"""`batchyard explain`: why something does not run what it should, as a tree for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchyard.cli import names, tables
from batchyard.cli import output as documents
from batchyard.cli.client import Client
from batchyard.cli.nodes import the_node

if TYPE_CHECKING:
    from rich.tree import Tree

Found = Mapping[str, Any]


def explain(batch: Client, *, kind: str, name: str, job: str | None, output: str) -> None:
    """Say why a task, a job, a schedule, a pool or a node does not run, and what to do."""
    _print(batch.get("batchyard", "explain", *_path(batch, kind, name, job)), output)


def task(batch: Client, *, task: str, job: str | None, output: str) -> None:
    """Say why a task does not run."""
    explain(batch, kind="task", name=task, job=job, output=output)


def job(batch: Client, *, job: str, output: str) -> None:
    """Say why a job does not run."""
    explain(batch, kind="job", name=job, job=None, output=output)


def schedule(batch: Client, *, schedule: str, output: str) -> None:
    """Say why a job schedule makes no job."""
    explain(batch, kind="schedule", name=schedule, job=None, output=output)


def pool(batch: Client, *, pool: str, output: str) -> None:
    """Say why a pool does not run what it should."""
    explain(batch, kind="pool", name=pool, job=None, output=output)


def node(batch: Client, *, node: str, output: str) -> None:
    """Say why a node takes no tasks."""
    explain(batch, kind="node", name=node, job=None, output=output)


def _print(found: Found, output: str) -> None:
    if output == "json":
        documents.document(found, "json")
    else:
        tables.console().print(tree(found), soft_wrap=True)  # a command that is cut in two can be copied by nobody


def _path(batch: Client, kind: str, name: str, job: str | None) -> Sequence[str]:
    if kind == "node":
        pool_id, node_id = the_node(batch, name)
        return ("pools", pool_id, "nodes", node_id)
    if kind != "task":
        return ("jobschedules" if kind == "schedule" else f"{kind}s", name)
    where, task = names.the_task(batch, name, job)
    return ("jobs", where, "tasks", task)


def tree(found: Found) -> Tree:
    """The answer as a tree: reasons, below each what to do, commands and the links that follow; then what the tasks of a job wait for."""
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
    for word, name in (("look", "look"), ("run", "command")):
        if reason.get(name):
            link.add(Text.assemble((f"{word}: ", "dim"), reason[name]))
    for following in reason.get("because") or ():
        _add(link, following)
