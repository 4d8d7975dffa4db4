"""What `batchyard submit` sends: tasks made of a command and its options, and a pool and a job when none is there."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from batchyard.cli.client import Client, Refused
from batchyard.cli.problem import Problem

DEFAULT = "default"
"""Id of the pool and the job of those who name none."""
MOST_PER_CALL = 100
MOST_BYTES_PER_CALL = 900_000
_LETTERS = "abcdefghjkmnpqrstuvwxyz"
_DIGITS = "23456789"
_MOST_SLOTS = 256
_SLOTS_PER_CORE = 4
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}

Body = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What all tasks of a submission have in common; `{}` in words, variables and patterns stands for a task's value."""

    words: Sequence[str]
    slots: int | None = None
    retries: int | None = None
    after: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Body] = ()
    patterns: Sequence[str] = ()
    drop_box: str | None = None
    """URL for outputs."""


def new_id() -> str:
    """A short id that is easy to read and to type."""
    return "".join(secrets.choice(letters) for letters in (_LETTERS, _DIGITS, _LETTERS, _DIGITS, _LETTERS, _DIGITS))


def values(array: str | None, lines: Sequence[str] | None) -> list[tuple[str, str]]:
    """(end of the id, value) of every task; one without either for a single task. Raises Problem."""
    if array is not None and lines is not None:
        raise Problem("--array and --each-line do not go together")
    if lines is not None:
        wanted = [line for line in lines if line.strip()]
        if not wanted:
            raise Problem("the file of --each-line has no lines")
        return [(f"-{number}", line) for number, line in enumerate(wanted, 1)]
    if array is None:
        return [("", "")]
    span = re.fullmatch(r"(\d{1,9})-(\d{1,9})", array)
    if span is None or int(span[1]) > int(span[2]):
        raise Problem(f"--array wants two numbers, as in 1-10; it got {array!r}")
    return [(f"-{number}", str(number)) for number in range(int(span[1]), int(span[2]) + 1)]


def tasks(wish: Wish, base: str, many: Sequence[tuple[str, str]], folder: str) -> Iterator[Body]:
    """The tasks as the service takes them; outputs go below `folder`/id."""
    single = many == [("", "")]
    words = list(wish.words)
    if not single and not any("{}" in word for word in words):
        words.append("{}")
    for end, value in many:

        def filled(text: str, value: str = value) -> str:
            return text if single else text.replace("{}", value)

        name = base + end
        body: Body = {"id": name, "commandLine": shlex.join(filled(word) for word in words)}
        if wish.slots is not None:
            body["requiredSlots"] = wish.slots
        if wish.retries is not None:
            body["constraints"] = {"maxTaskRetryCount": wish.retries}
        if wish.after:
            body["dependsOn"] = {"taskIds": list(wish.after)}
        if wish.env:
            body["environmentSettings"] = [{"name": key, "value": filled(text)} for key, text in wish.env.items()]
        if wish.inputs:
            body["resourceFiles"] = list(wish.inputs)
        if wish.drop_box:
            body["outputFiles"] = [_output(filled(pattern), wish.drop_box, f"{folder}/{name}") for pattern in wish.patterns]
        yield body


def _output(pattern: str, url: str, folder: str) -> Body:
    """Upload what matches, under the path that it has below the working directory."""
    steps = PurePosixPath(pattern).parts
    wild = next((number for number, step in enumerate(steps) if re.search(r"[*?\[]", step)), None)
    fixed = steps[: len(steps) if wild is None else wild]
    if {"/", ".."} & set(fixed):  # from elsewhere: only its name is kept
        fixed = fixed[-1:] if wild is None else ()
    path = "/".join([folder, *fixed])
    return {
        "filePattern": pattern,
        "destination": {"container": {"containerUrl": url, "path": path}},
        "uploadOptions": {"uploadCondition": "taskSuccess"},
    }


def input_files(given: Sequence[Path]) -> dict[str, Path]:
    """Local files by the path that they get on the node: the same relative one, else the name. Raises Problem."""
    found: dict[str, Path] = {}
    for start in given:
        if not start.exists():
            raise Problem(f"there is no file {start}")
        above = start.parent if start.is_absolute() or ".." in start.parts else Path()
        for file in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if file.is_file():
                name = file.relative_to(above).as_posix()
                if found.setdefault(name, file) != file:
                    raise Problem(f"{found[name]} and {file} would both be {name} on the node")
    return found


def variables(given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs. Raises Problem."""
    wrong = next((pair for pair in given if not re.match(r"[^=]+=", pair)), None)
    if wrong is not None:
        raise Problem(f"--env wants NAME=VALUE; it got {wrong!r}")
    return dict(pair.split("=", 1) for pair in given)


def find_job(batch: Client, job: str | None, pool: str | None) -> str:
    """The job to add tasks to, made when it is not there, with its pool. Raises Problem."""
    names = [job] if job else [pool or DEFAULT, *(f"{pool or DEFAULT}-{number}" for number in range(2, 100))]
    for name in names:
        found = _job(batch, name) or _new_job(batch, name, pool)
        where = found["poolInfo"].get("poolId")
        if job and pool and where != pool:
            raise Problem(f"the job {job} runs on the pool {where}, not on {pool}; name another job, or leave --pool out")
        if job or (found["state"] in ("active", "disabled", "enabling", "disabling") and where == (pool or DEFAULT)):
            return name
    raise Problem("the default jobs have all ended; name another with --job, or delete some")


def _job(batch: Client, name: str) -> Body | None:
    try:
        return batch.get("jobs", name)
    except Refused as refused:
        if refused.error != "JobNotFound":
            raise
        return None


def _new_job(batch: Client, name: str, pool: str | None) -> Body:
    if pool:
        batch.get("pools", pool)  # the service takes jobs of pools that are not there; a person who types a name does not mean that
    else:
        _default_pool(batch)
    _add(batch, "jobs", {"id": name, "poolInfo": {"poolId": pool or DEFAULT}, "usesTaskDependencies": True}, "JobExists")
    return batch.get("jobs", name)


def _default_pool(batch: Client) -> None:
    """One node with a slot for each core of this machine, unless the pool is there."""
    try:
        batch.get("pools", DEFAULT)
    except Refused as refused:
        if refused.error != "PoolNotFound":
            raise
        slots = min(_MOST_SLOTS, len(os.sched_getaffinity(0)))
        cores = next(cores for cores in (2, 4, 8, 16, 32, 48, 64) if cores * _SLOTS_PER_CORE >= slots)
        size = {"targetDedicatedNodes": 1, "taskSlotsPerNode": slots}
        pool = {"id": DEFAULT, "vmSize": f"standard_d{cores}s_v3", "virtualMachineConfiguration": _MACHINE, **size}
        _add(batch, "pools", pool, "PoolExists")


def _add(batch: Client, what: str, body: Body, exists: str) -> None:
    """Add it; somebody else may have been quicker."""
    try:
        batch.post(what, body=body)
    except Refused as refused:
        if refused.error != exists:
            raise


def send(batch: Client, job: str, bodies: Iterator[Body]) -> Iterator[str]:
    """Add tasks, as many at once as the service takes; ids of those that it took. Raises Problem after the last for those it refused."""
    refused: list[str] = []
    for chunk in _chunks(bodies):
        for result in batch.post("jobs", job, "addtaskcollection", body={"value": chunk})["value"]:
            if result["status"].lower() == "success":
                yield result["taskId"]
            else:
                reason = str(result["error"]["message"]["value"]).split("\n", 1)[0].rstrip(".")
                refused.append(f"{result['taskId']}: {reason} ({result['error']['code']})")
    if refused:
        more = f"; {len(refused) - 1} more were refused" if len(refused) > 1 else ""
        raise Problem(f"the server refused the task {refused[0]}{more}")


def _chunks(bodies: Iterator[Body]) -> Iterator[list[Body]]:
    chunk: list[Body] = []
    size = 0
    for body in bodies:
        length = len(json.dumps(body, ensure_ascii=False).encode())
        if chunk and (len(chunk) == MOST_PER_CALL or size + length > MOST_BYTES_PER_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += length
    if chunk:
        yield chunk
