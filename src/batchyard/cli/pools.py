"""`batchyard pool`: pools are made, sized, scaled and deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from batchyard.cli import bodies, homes, lists, output, select, tables
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import confirmed, many

Shown = Mapping[str, Any]
_LISTS = ("certificateReferences", "applicationPackageReferences", "metadata")
"""What an update of all properties has to name."""


def create(
    batch: Client,
    *,
    name: str | None,
    nodes: int | None,
    low_priority: int | None,
    size: str | None,
    slots: int | None,
    start_task: str | None,
    metadata: list[str],
    autoscale: str | None,
    inter_node: bool | None,
    file: str | None,
    dry_run: bool | None,
) -> None:
    """Add a pool."""
    body = bodies.laid(file, {"vmSize": size, "taskSlotsPerNode": slots, "metadata": bodies.pairs(metadata, "--metadata")})
    body = bodies.named(body, name, "pool")
    body.setdefault("vmSize", homes.SIZE)
    body.setdefault("virtualMachineConfiguration", homes.MACHINE)
    if start_task is not None:
        body["startTask"] = {"commandLine": start_task, "waitForSuccess": True}
    if inter_node:
        body["enableInterNodeCommunication"] = True
    if autoscale is not None:
        body |= {"enableAutoScale": True, "autoScaleFormula": _formula(autoscale)}
    elif not body.get("enableAutoScale"):
        body.setdefault("targetDedicatedNodes", 0)
    wanted = {"targetDedicatedNodes": nodes, "targetLowPriorityNodes": low_priority}
    body |= {key: value for key, value in wanted.items() if value is not None}
    if bodies.send(batch, "pool", body, "pools", dry=bool(dry_run)):
        print(body["id"])


def _formula(given: str) -> str:
    """A formula, or with @ in front the file that has it. Raises Problem."""
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {given[1:]} ({error})") from None


def show(batch: Client, *, pools: Sequence[str], shown: Shown) -> None:
    """Show pools."""
    output.entries([batch.get("pools", one) for one in select.ids(batch, "pools", pools)], tables.POOLS, shown)


def update(
    batch: Client,
    *,
    pool: str,
    start_task: str | None,
    metadata: list[str],
    replace: bool,
    file: str | None,
    dry_run: bool | None,
) -> None:
    """Change a pool."""
    body = bodies.laid(file, {"metadata": bodies.pairs(metadata, "--metadata")})
    if start_task is not None:
        body["startTask"] = {"commandLine": start_task, "waitForSuccess": True}
    _something(body)
    if replace:
        whole = {**{name: [] for name in _LISTS}, **body}
        bodies.send(batch, "pool replace", whole, "pools", pool, "updateproperties", dry=bool(dry_run))
    else:
        bodies.send(batch, "pool update", body, "pools", pool, method="PATCH", dry=bool(dry_run))


def _something(body: Mapping[str, Any]) -> None:
    if not body:
        raise Usage("say what to change, with options or with a file")


def delete(batch: Client, *, pools: Sequence[str], yes: bool | None) -> None:
    """Delete pools and their nodes."""
    found = [batch.get("pools", one) for one in select.ids(batch, "pools", pools)]
    nodes = sum(pool.get("currentDedicatedNodes", 0) + pool.get("currentLowPriorityNodes", 0) for pool in found)
    confirmed(f"Delete {_called(found)} with {many(nodes, 'node')}?", yes=bool(yes))
    for pool in found:
        batch.delete("pools", pool["id"])
        print(f"the pool {pool['id']} is being deleted")


def _called(found: Sequence[Mapping[str, Any]]) -> str:
    return f"the pool {found[0]['id']}" if len(found) == 1 else many(len(found), "pool")


def resize(batch: Client, *, pool: str, nodes: int | None, low_priority: int | None, wanted: str | None, yes: bool | None) -> None:
    """Change how many nodes a pool has."""
    if nodes is None and low_priority is None:
        raise Usage("say how many nodes: --nodes, --low-priority or both")
    now = batch.get("pools", pool)
    goals = {"Dedicated": nodes, "LowPriority": low_priority}
    lost = sum(max(0, now.get(f"current{kind}Nodes", 0) - goal) for kind, goal in goals.items() if goal is not None)
    if lost:
        confirmed(f"Take {many(lost, 'node')} out of {pool}?", yes=bool(yes))
    body = {f"target{kind}Nodes": goal for kind, goal in goals.items() if goal is not None}
    batch.post("pools", pool, "resize", body={**body, **({"nodeDeallocationOption": wanted} if wanted else {})})
    words = (("dedicated", nodes), ("low-priority", low_priority))
    sizes = ", ".join(many(goal, f"{word} node") for word, goal in words if goal is not None)
    print(f"the pool {pool} becomes {sizes}")


def stop_resize(batch: Client, *, pool: str) -> None:
    """Leave a pool at the size that it has."""
    batch.post("pools", pool, "stopresize")
    print(f"the resize of {pool} ends")


def autoscale(batch: Client, *, pool: str, formula: str | None, every: str | None, off: bool) -> None:
    """Let a formula decide the size of a pool, or no longer."""
    if off == (formula is not None or every is not None):
        raise Usage("say the formula, or how often with --every, or --off")
    if off:
        batch.post("pools", pool, "disableautoscale")
        print(f"the size of {pool} is a number again")
        return
    body = {"autoScaleFormula": None if formula is None else _formula(formula), "autoScaleEvaluationInterval": every}
    batch.post("pools", pool, "enableautoscale", body={name: value for name, value in body.items() if value is not None})
    print(f"a formula decides the size of {pool}")


def evaluate(batch: Client, *, pool: str, formula: str | None) -> int:
    """Say what a formula would decide now."""
    text = batch.get("pools", pool).get("autoScaleFormula") if formula is None else _formula(formula)
    if not text:
        raise Usage(f"the pool {pool} has no formula of its own; say one")
    found = batch.post("pools", pool, "evaluateautoscale", body={"autoScaleFormula": text})
    for part in str(found.get("results") or "").split(";"):
        print(part) if part else None
    error = found.get("error")
    if error:
        details = "; ".join(str(value.get("value")) for value in error.get("values") or ())
        raise Problem(f"{error.get('message')} ({error.get('code')}){f': {details}' if details else ''}")
    return 0


def start_task(batch: Client, *, pool: str, command: Sequence[str], off: bool) -> None:
    """Show, set or take away the command that each node runs when it joins."""
    if off:
        now = batch.get("pools", pool)  # the one call that takes it away sets all that it does not name back
        kept = {name: now[name] for name in ("targetNodeCommunicationMode",) if name in now}
        batch.post("pools", pool, "updateproperties", body={**{name: now.get(name, []) for name in _LISTS}, **kept})
        return
    if command:
        import shlex

        batch.change("PATCH", "pools", pool, body={"startTask": {"commandLine": shlex.join(command), "waitForSuccess": True}})
        return
    found = batch.get("pools", pool).get("startTask")
    if not found:
        raise Problem(f"the pool {pool} has no start task")
    output.document(found, "yaml")


def _sum(kind: str, name: str) -> Column:
    return Column(name.upper(), lambda found, now: (found.get(kind) or {}).get(name, ""), number=True)


def _property(name: str, found: Mapping[str, Any], now: Any) -> object:
    return found.get(name, "")


_COUNTS = (
    Column("POOL", lambda found, now: found["poolId"], keep=9),
    *(_sum("dedicated", name) for name in ("total", "idle", "running", "starting", "offline", "unusable", "preempted")),
    Column("LOW-PRIORITY", lambda found, now: (found.get("lowPriority") or {}).get("total", ""), number=True),
)
_USAGE = (
    Column("POOL", lambda found, now: found["poolId"], keep=9),
    *(
        Column(head, partial(_property, name), head == "CORE HOURS")
        for head, name in (("FROM", "startTime"), ("TO", "endTime"), ("SIZE", "vmSize"), ("CORE HOURS", "totalCoreHours"))
    ),
)
_IMAGES = (
    Column("PUBLISHER", lambda found, now: found["imageReference"].get("publisher", "")),
    Column("OFFER", lambda found, now: found["imageReference"].get("offer", ""), keep=9),
    Column("SKU", lambda found, now: found["imageReference"].get("sku", ""), keep=9),
    Column("NODE AGENT", lambda found, now: found["nodeAgentSKUId"], keep=5),
)


def counts(batch: Client, *, shown: Shown) -> None:
    """Count the nodes of pools by state."""
    lists.simple(batch, _COUNTS, shown, "nodecounts")


def usage(batch: Client, *, shown: Shown) -> None:
    """Core hours of pools."""
    lists.simple(batch, _USAGE, shown, "poolusagemetrics")


def images(batch: Client, *, shown: Shown) -> None:
    """List the images that pools may name."""
    lists.simple(batch, _IMAGES, shown, "supportedimages")
