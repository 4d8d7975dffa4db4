"""The commands of daily work. All of them use only the public HTTP API, so the server may be anywhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from batchyard.cli import follow, names, submit, tables
from batchyard.cli.client import Client, Refused
from batchyard.cli.connect import connected
from batchyard.cli.problem import Interrupted, Problem


class Output(StrEnum):
    """How lists are printed."""

    TABLE = "table"
    JSON = "json"


JobOption = Annotated[str | None, typer.Option("--job", metavar="JOB", help="Job; the default one when none is named.")]
AsOutput = Annotated[Output, typer.Option("--output", "-o", help="table, or json as the service gives it.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="TASK or JOB/TASK")]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Show the output while it is written.")]


def submit_(
    batch: Client,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Program and arguments; no shell reads them.")],
    pool: Annotated[str | None, typer.Option(help="Pool; one named default is made when none is named.")] = None,
    job: JobOption = None,
    name: Annotated[str | None, typer.Option("--id", help="Id of the task, start of the ids of several.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Slots of a node that the task takes.")] = None,
    retries: Annotated[int | None, typer.Option(min=-1, help="How often to run it again when it fails; -1: always.")] = None,
    after: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Run after this task succeeded.")] = None,
    inputs: Annotated[list[Path] | None, typer.Option("--in", metavar="FILE", help="File or directory that the task gets.")] = None,
    out: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Files to keep when it succeeded.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="N=V", help="Environment variable.")] = None,
    each_line: Annotated[typer.FileText | None, typer.Option(metavar="FILE", help="A task per line, which replaces {}.")] = None,
    array: Annotated[str | None, typer.Option(metavar="A-B", help="A task per number, which replaces {}.")] = None,
    follow_: Follow = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; return the task's exit code.")] = False,
    out_dir: Annotated[Path, typer.Option(metavar="DIR", help="Where --out files go after --wait or -f.")] = Path(),
) -> None:
    """Run a command as a task, or as many tasks."""
    many = submit.values(array, None if each_line is None else _lines(each_line))
    wish = submit.Wish(command, slots, retries, [one for text in after or () for one in text.replace(",", " ").split()])
    base, folder = name or submit.new_id(), f"out/{submit.new_id()}{submit.new_id()}"
    wish, storage = _with_files(batch, wish, inputs or (), out or (), submit.variables(env or ()))
    where = submit.find_job(batch, job, pool)
    ids = []
    for one in submit.send(batch, where, submit.tasks(wish, base, many, folder)):
        ids.append(one)
        print(one, file=sys.stderr if follow_ else sys.stdout, flush=True)
    if follow_ or wait:
        ordered = [one for one in (base + end for end, _ in many) if one in set(ids)]
        streams = (("stdout.txt", sys.stdout.buffer), ("stderr.txt", sys.stderr.buffer)) if follow_ else ()
        raise typer.Exit(_await(batch, where, ordered, streams, storage, folder, out_dir))


def _lines(file: typer.FileText) -> list[str]:
    try:
        return file.read().split("\n")
    except ValueError as error:
        raise Problem(f"the file of --each-line is not UTF-8 text ({error})") from None


def _with_files(
    batch: Client, wish: submit.Wish, inputs: Sequence[Path], out: Sequence[str], env: dict[str, str]
) -> tuple[submit.Wish, Any]:
    """The wish with its files and variables; the storage when outputs are to be fetched from it."""
    from dataclasses import replace

    files = submit.input_files(inputs)
    if not files and not out:
        return replace(wish, env=env), None
    from batchyard.cli.storage import Storage

    storage = Storage(batch.storage)
    storage.prepare()
    with ThreadPoolExecutor(8) as several:
        urls = list(several.map(storage.bring, files.values()))
    brought = []
    for (path, file), url in zip(files.items(), urls, strict=True):
        mode = "0755" if file.stat().st_mode & 0o100 else "0644"
        brought.append({"httpUrl": url, "filePath": path, "fileMode": mode})
    box = storage.drop_box() if out else None
    return replace(wish, inputs=brought, patterns=out, drop_box=box, env=env), storage if out else None


def _await(batch: Client, job: str, ids: Sequence[str], streams: follow.Streams, storage: Any, folder: str, out_dir: Path) -> int:
    """Wait for tasks in their order, showing what they write, and fetch what they leave; the exit code."""
    codes = []
    for one in ids:
        with _unharmed(job, one):
            ended = follow.until_end(batch, job, one, streams)
        codes.append(follow.exit_code(ended))
        if why := follow.verdict(ended):
            follow.note(f"batchyard: {why}")
        elif storage is not None:
            storage.fetch(f"{folder}/{one}/", out_dir if len(ids) == 1 else out_dir / one)
    return follow.overall(codes)


@contextlib.contextmanager
def _unharmed(job: str, task: str | None) -> Iterator[None]:
    """Ctrl-C, or a reader of the output that goes, ends the waiting and nothing else, and that is said."""
    try:
        yield
    except (KeyboardInterrupt, BrokenPipeError) as end:
        if isinstance(end, BrokenPipeError):  # what is still buffered has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what, named = (f"the task {task}", f"{job} {task}") if task else (f"the job {job}", job)
        again = f"batchyard logs -f {task} --job {job}" if task else f"batchyard wait {job}"
        raise Interrupted(f"{what} goes on; see it with: {again}; end it with: batchyard cancel {named}") from None


def logs(
    batch: Client,
    task: TaskArgument,
    job: JobOption = None,
    follow_: Follow = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="What it wrote to stderr.")] = False,
) -> None:
    """Print what a task wrote to stdout."""
    where, task = names.the_task(batch, task, job)
    file = "stderr.txt" if stderr else "stdout.txt"
    if not follow_:
        for part in follow.contents(batch, where, task, file):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    with _unharmed(where, task):
        follow.until_end(batch, where, task, [(file, sys.stdout.buffer)])


def jobs(batch: Client, output: AsOutput = Output.TABLE) -> None:
    """List the jobs with their task counts."""
    found = list(batch.listed("jobs"))
    with ThreadPoolExecutor(8) as several:
        for job, counts in zip(found, several.map(lambda job: _counts(batch, job["id"]), found), strict=True):
            job["taskCounts"] = counts
    _print(output, tables.JOBS, found, tables.job)


def _counts(batch: Client, job: str) -> dict[str, Any]:
    try:
        counts: dict[str, Any] = batch.get("jobs", job, "taskcounts")["taskCounts"]
    except Refused:  # it went meanwhile, or is being deleted
        counts = {}
    return counts


def tasks(batch: Client, job: JobArgument, output: AsOutput = Output.TABLE) -> None:
    """List the tasks of a job."""
    _print(output, tables.TASKS, list(batch.listed("jobs", job, "tasks")), tables.task)


def nodes(batch: Client, pool: Annotated[str, typer.Argument(metavar="POOL")], output: AsOutput = Output.TABLE) -> None:
    """List the nodes of a pool."""
    slots = batch.get("pools", pool).get("taskSlotsPerNode", 1)
    _print(output, tables.NODES, list(batch.listed("pools", pool, "nodes")), lambda node, now: tables.node(node, slots, now))


def pools(batch: Client, output: AsOutput = Output.TABLE) -> None:
    """List the pools."""
    _print(output, tables.POOLS, list(batch.listed("pools")), tables.pool)


def _print(output: Output, heads: Sequence[str], found: list[dict[str, Any]], row: Callable[..., tables.Row]) -> None:
    if output is Output.JSON:
        tables.print_json(found)
    else:
        now = tables.now()
        tables.print_table(heads, [row(one, now) for one in found])


def wait(
    batch: Client, name: Annotated[str, typer.Argument(metavar="JOB|TASK", help="JOB, TASK or JOB/TASK")], job: JobOption = None
) -> None:
    """Wait for a task, or for all tasks of a job; return the task's exit code, or 1 when any failed."""
    where, task = names.job_or_task(batch, name, job)
    if task is not None:
        raise typer.Exit(_await(batch, where, [task], (), None, "", Path()))
    with _unharmed(where, None):
        counts = follow.all_ended(batch, where)
    print(f"{counts['succeeded']} tasks succeeded, {counts['failed']} failed")
    raise typer.Exit(int(counts["failed"] > 0))


def cancel(
    batch: Client,
    job: Annotated[str, typer.Argument(metavar="JOB", help="JOB or JOB/TASK")],
    task: Annotated[str | None, typer.Argument(metavar="[TASK]")] = None,
) -> None:
    """End a task, or a job and all its tasks."""
    if task is None and "/" in job:
        job, _, task = job.rpartition("/")
    if task is None:
        batch.post("jobs", job, "terminate", body={"terminateReason": "cancelled"})
        print(f"the job {job} ends")
    else:
        batch.post("jobs", job, "tasks", task, "terminate")
        print(f"the task {task} of {job} ends")


def retry(
    batch: Client,
    job: JobArgument,
    which: Annotated[list[str] | None, typer.Argument(metavar="[TASK]...")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All tasks that failed.")] = False,
) -> None:
    """Run tasks again that failed."""
    if bool(which) == failed:
        raise Problem("say which tasks to run again: --failed, or their ids")
    again = which or [task["id"] for task in batch.listed("jobs", job, "tasks") if follow.has_failed(task)]
    for task in again:
        batch.post("jobs", job, "tasks", task, "reactivate")
        print(task, flush=True)
    if not again:
        follow.note(f"batchyard: no task of {job} has failed")


def top(batch: Client, once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False) -> None:
    """Watch pools, nodes and running tasks."""
    from batchyard.cli import top as view

    with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
        view.show(batch, once=once)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    words_stay = {"allow_interspersed_args": False}  # options behind the first word belong to the command
    app.command("submit", context_settings=words_stay)(connected(submit_))
    for command in (logs, jobs, tasks, nodes, pools, wait, cancel, retry, top):
        app.command()(connected(command))
