"""`batchyard node`: nodes are restarted, drained, taken out, and looked into."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchyard.cli import follow as reading
from batchyard.cli import lists, output, select, tables
from batchyard.cli.client import Client, Refused
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import confirmed, many

Shown = Mapping[str, Any]


def show(batch: Client, *, nodes: Sequence[str], shown: Shown) -> None:
    """Show nodes, with what only this service knows of them."""
    found = [_known(batch, pool, node) for pool, node in select.nodes(batch, nodes)]
    output.entries(found, tables.NODES, shown)


def _known(batch: Client, pool: str, node: str) -> dict[str, Any]:
    found = batch.get("pools", pool, "nodes", node)
    try:
        about = batch.get("batchyard", "pools", pool, "nodes", node)
    except Refused:  # another service
        return found
    return {**found, "batchyard": {name: value for name, value in about.items() if not name.startswith("odata.")}}


def _each(batch: Client, given: Sequence[str], verb: str, said: str, body: Mapping[str, Any], lost: str, *, yes: bool | None) -> None:
    """Do something to nodes, after a question when the work of running tasks is lost."""
    found = select.nodes(batch, given)
    if lost:
        running = sum(batch.get("pools", pool, "nodes", node).get("runningTasksCount", 0) for pool, node in found)
        nodes = f"the node {found[0][1]}" if len(found) == 1 else many(len(found), "node")
        if running or lost == "files":
            confirmed(f"{verb.capitalize()} {nodes}, with {many(running, 'running task')}?", yes=bool(yes))
    for pool, node in found:
        batch.post("pools", pool, "nodes", node, verb, body={name: value for name, value in body.items() if value is not None})
        print(f"{node} of {pool} {said}")


def reboot(batch: Client, *, nodes: Sequence[str], wanted: str | None, yes: bool | None) -> None:
    """Start nodes anew."""
    _each(batch, nodes, "reboot", "starts anew", {"nodeRebootOption": wanted}, _lost(wanted), yes=yes)


def reimage(batch: Client, *, nodes: Sequence[str], wanted: str | None, yes: bool | None) -> None:
    """Set nodes back to their image; their files are lost."""
    _each(batch, nodes, "reimage", "goes back to its image", {"nodeReimageOption": wanted}, "files", yes=yes)


def drain(batch: Client, *, nodes: Sequence[str]) -> None:
    """Let nodes end what they run and start nothing more."""
    body = {"nodeDisableSchedulingOption": "taskcompletion"}
    _each(batch, nodes, "disablescheduling", "starts nothing more", body, "", yes=True)


def offline(batch: Client, *, nodes: Sequence[str], wanted: str | None, yes: bool | None) -> None:
    """Let nodes start nothing, and put back what they run."""
    body = {"nodeDisableSchedulingOption": wanted or "requeue"}
    _each(batch, nodes, "disablescheduling", "starts nothing more", body, _lost(wanted), yes=yes)


def enable(batch: Client, *, nodes: Sequence[str]) -> None:
    """Let nodes start tasks again."""
    _each(batch, nodes, "enablescheduling", "takes tasks again", {}, "", yes=True)


def stop(batch: Client, *, nodes: Sequence[str], wanted: str | None, yes: bool | None) -> None:
    """Give back the machine of nodes."""
    _each(batch, nodes, "deallocate", "gives its machine back", {"nodeDeallocateOption": wanted}, _lost(wanted), yes=yes)


def start(batch: Client, *, nodes: Sequence[str]) -> None:
    """Bring stopped nodes back."""
    _each(batch, nodes, "start", "comes back", {}, "", yes=True)


def _lost(wanted: str | None) -> str:
    return "" if wanted == "taskcompletion" else "work"


def delete(batch: Client, *, nodes: Sequence[str], wanted: str | None, yes: bool | None) -> None:
    """Take nodes out of their pool, which becomes smaller."""
    found = select.nodes(batch, nodes)
    confirmed(f"Take {many(len(found), 'node')} out of {'its' if len(found) == 1 else 'their'} pool?", yes=bool(yes))
    for pool in dict.fromkeys(pool for pool, _ in found):
        those = [node for where, node in found if where == pool]
        for at in range(0, len(those), 100):  # what one call takes
            body = {"nodeList": those[at : at + 100], **({"nodeDeallocationOption": wanted} if wanted else {})}
            batch.post("pools", pool, "removenodes", body=body)
        print(f"{many(len(those), 'node')} leave{'s' if len(those) == 1 else ''} {pool}")


def the_node(batch: Client, given: str) -> tuple[str, str]:
    """(pool, node) of one node. Raises Problem."""
    found = select.nodes(batch, [given])
    if len(found) > 1:
        raise Problem(f"{given} are several nodes; name one")
    return found[0]


def logs(batch: Client, *, node: str, follow: bool | None, stderr: bool | None, service: bool) -> None:
    """Print what a node's start task wrote, or send its own logs to the storage and print them."""
    pool, id_ = the_node(batch, node)
    if service:
        _service_logs(batch, pool, id_)
        return
    path = ("pools", pool, "nodes", id_, "files", f"startup/{'stderr' if stderr else 'stdout'}.txt")
    offset, pace = 0, reading.Pace()
    while True:
        data = batch.read(*path, offset=offset)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        offset += len(data)
        if not data:
            info = batch.get("pools", pool, "nodes", id_).get("startTaskInfo") or {}
            if not follow or info.get("state") == "completed":
                return
            pace.rest()


def _service_logs(batch: Client, pool: str, node: str) -> None:
    from datetime import UTC, datetime

    from batchyard.cli.storage import Storage

    storage = Storage(batch.storage)
    storage.prepare()
    body = {"containerUrl": storage.drop_box(), "startTime": datetime(2000, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    sent = batch.post("pools", pool, "nodes", node, "uploadbatchservicelogs", body=body)
    box, pace = storage.reader(batch), reading.Pace()
    while len(found := list(box.blobs(f"{sent['virtualDirectoryName']}/"))) < sent["numberOfFilesUploaded"]:
        pace.rest()
    for blob in found:
        at = 0
        while at < blob.size and (data := box.read(blob.name, at, 1 << 20)):
            sys.stdout.buffer.write(data)
            at += len(data)


def login(batch: Client, *, nodes: Sequence[str], shown: Shown) -> None:
    """Say where to reach nodes by SSH."""
    found = [{"id": node, **batch.get("pools", pool, "nodes", node, "remoteloginsettings")} for pool, node in select.nodes(batch, nodes)]
    columns = (
        Column("NODE", lambda one, now: one["id"], keep=9),
        Column("ADDRESS", lambda one, now: one["remoteLoginIPAddress"], keep=9),
        Column("PORT", lambda one, now: one["remoteLoginPort"], number=True, keep=9),
    )
    output.entries(found, columns, shown)


_EXTENSIONS = (
    Column("EXTENSION", lambda found, now: (found.get("vmExtension") or {}).get("name", ""), keep=9),
    Column("STATE", lambda found, now: found.get("provisioningState", ""), keep=9),
)


def extensions(batch: Client, *, node: str, shown: Shown) -> None:
    """List the extensions of a node."""
    pool, id_ = the_node(batch, node)
    lists.simple(batch, _EXTENSIONS, shown, "pools", pool, "nodes", id_, "extensions")


def user(
    batch: Client,
    *,
    action: str,
    node: str,
    user: str,
    admin: bool,
    key_file: Path | None,
    expires: str | None,
    password_file: str | None,
) -> None:
    """Add, change or delete an account on a node."""
    pool, id_ = the_node(batch, node)
    path = ("pools", pool, "nodes", id_, "users")
    if action in ("delete", "remove"):
        batch.delete(*path, user)
        print(f"{user} is gone from {id_}")
        return
    body: dict[str, Any] = {"sshPublicKey": _secret(key_file), "password": _secret(password_file), "expiryTime": expires}
    body = {name: value for name, value in body.items() if value is not None}
    if "sshPublicKey" not in body and "password" not in body:
        raise Usage("say how it logs in: --ssh-key FILE or --password-file FILE")
    if action == "update":
        batch.change("PUT", *path, user, body=body)
    else:
        batch.post(*path, body={"name": user, **({"isAdmin": True} if admin else {}), **body})
    print(f"{user} may log in to {id_}")


def _secret(file: Path | str | None) -> str | None:
    """The content of a file, so that no secret stands on a command line. Raises Problem."""
    if file is None:
        return None
    try:
        return (sys.stdin.read() if str(file) == "-" else Path(file).read_text("utf-8")).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {file} ({error})") from None
