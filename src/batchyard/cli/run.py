"""`batchyard submit`: a command becomes a task, or many; its files go to the storage, its outputs come from there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchyard.cli import grammar, homes, table, waiting
from batchyard.cli import submit as sent
from batchyard.cli.client import Client
from batchyard.cli.problem import Interrupted, Problem, Usage
from batchyard.cli.progress import Progress

if TYPE_CHECKING:
    from batchyard.cli.fetch import Outputs
    from batchyard.cli.storage import Storage

_DIRECTIVE = "#BATCHYARD "


def submit(batch: Client, **given: Any) -> int:
    """Run a command as a task, or as many tasks."""
    if given["script"] is not None:
        given = with_directives(given, _read(given["script"], "--script"))
    elif not any(given["command"][:1]):
        raise Usage("the command is missing: batchyard submit [OPTIONS] -- PROGRAM [ARGUMENTS]")
    if empty := next((option for option in ("out", "cwd") if "" in (given[option] if option != "cwd" else [given[option]])), None):
        raise Usage(f"--{empty} wants a value; it got nothing")
    again = _again(given)
    lines = None if given["each_line"] is None else _read(given["each_line"], "--each-line").split("\n")
    many = sent.values(given["array"], lines, given["matrix"])
    base, folder = given["id"] or sent.new_id(), f"out/{sent.new_id()}{sent.new_id()}"
    wish = _wish(given)
    if again:
        wish = wish if given["dry_run"] else _with_files(batch, wish, given, years=True)[0]
        from batchyard.cli import schedules

        schedules.submit(batch, base, next(sent.tasks(wish, base, many, folder)), given)
        return 0
    if given["dry_run"]:
        return _dry(given, sent.tasks(wish, base, many, folder))
    wish, storage = _with_files(batch, wish, given)
    where = homes.find_job(batch, given["job"], given["pool"], given["nodes"], given["size"])
    ids = _send(batch, where, wish, base, many, folder, aside=bool(given["follow"]))
    if not (given["follow"] or given["wait"]):
        return 0
    taken = set(ids)
    ordered = [base + end for end, _ in many if base + end in taken]
    streams = (("stdout.txt", sys.stdout.buffer), ("stderr.txt", sys.stderr.buffer)) if given["follow"] else ()
    patterns = {base + end: [sent.filled(pattern, known) for pattern in wish.patterns] for end, known in many if base + end in taken}
    outputs = _outputs(batch, storage, folder, patterns, Path(given["out_dir"])) if wish.drop_box and storage else None
    return waiting.await_(batch, where, ordered, streams, outputs)


def _again(given: Mapping[str, Any]) -> bool:
    """Whether it is to be run again and again. Raises Usage for what does not go with that."""
    if not (given["every"] or given["cron"] or given["time_zone"]):
        return False
    from batchyard.cli import schedules

    schedules.refuse(given)
    return True


def _send(batch: Client, job: str, wish: sent.Wish, base: str, many: sent.Values, folder: str, *, aside: bool) -> list[str]:
    """Add the tasks, saying their ids; those that the server took. Raises Interrupted."""
    ids: list[str] = []
    with Progress("adding", len(many), least=1000) as progress:
        try:
            for one in sent.send(batch, job, sent.tasks(wish, base, many, folder)):
                ids.append(one)
                progress.add()
                progress.print(one, sys.stderr if aside else sys.stdout, flush=len(ids) % 100 == 1)
        except (KeyboardInterrupt, BrokenPipeError):
            undo = f"{job} '{base}-*'" if len(many) > 1 else f"{job} {base}"
            raise Interrupted(f"{len(ids):,} of {len(many):,} tasks added to {job}; batchyard cancel {undo} ends them") from None
    sys.stdout.flush()
    return ids


def _outputs(batch: Client, storage: Storage, folder: str, patterns: Mapping[str, Sequence[str]], into: Path) -> Outputs:
    from batchyard.cli.fetch import Outputs

    return Outputs(storage.reader(batch), folder, patterns, into)


def _read(path: str | Path, option: str) -> str:
    """A text file; `-` is stdin. Raises Problem."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise Problem(f"cannot read {path} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise Problem(f"the file of {option} is not UTF-8 text ({error})") from None


def with_directives(given: Mapping[str, Any], script: str) -> dict[str, Any]:
    """The options with those of a script's #BATCHYARD lines; the command line's own come first. Raises Usage."""
    words = [
        word for line in script.splitlines() if line.startswith(_DIRECTIVE) for word in shlex.split(line[len(_DIRECTIVE) :], comments=True)
    ]
    try:
        found = grammar.parse(table.SUBMIT, words)
    except Usage as wrong:
        raise Usage(f"in the #BATCHYARD lines of {given['script']}: {wrong}") from None
    if found["command"] or found["script"]:
        raise Usage(f"the #BATCHYARD lines of {given['script']} may have options only")
    merged = dict(given)
    for flag in table.SUBMIT.flags:
        if flag.many:
            merged[flag.name] = [*found[flag.name], *given[flag.name]]
        elif given[flag.name] == flag.default:
            merged[flag.name] = found[flag.name]
    name = Path(given["script"]).name
    start = [f"./{name}"] if script.startswith("#!") else ["/bin/sh", name]
    return {**merged, "command": [*start, *given["command"]], "script": given["script"]}


def _wish(given: Mapping[str, Any]) -> sent.Wish:
    """What all tasks have in common, without their files. Raises Usage."""
    if given["coordination"] is not None and (given["instances"] is None or not given["coordination"].strip()):
        raise Usage("--coordination wants a command, and --instances N: how many nodes run it")
    after = [one for text in given["after"] for one in text.replace(",", " ").split()]
    return sent.Wish(
        given["command"],
        given["slots"],
        given["retries"],
        after,
        sent.variables(given["env"]),
        patterns=given["out"],
        name=given["name"],
        cwd=given["cwd"],
        stdin=None if given["stdin"] is None else _stdin_name(given["stdin"]),
        instances=given["instances"],
        coordination=given["coordination"],
    )


def _stdin_name(given: str) -> str:
    return ".stdin" if given == "-" else f".stdin-{Path(given).name}"


def _dry(given: Mapping[str, Any], bodies: Any) -> int:
    """Print what would be sent. Raises Problem where the service would not take it."""
    from batchyard.cli import bodies as checks
    from batchyard.cli import output

    sent.input_files(given["inputs"])
    for body in bodies:
        checks.check("task", body)
        output.document(body, "jsonl")
    return 0


def _with_files(batch: Client, wish: sent.Wish, given: Mapping[str, Any], *, years: bool = False) -> tuple[sent.Wish, Storage | None]:
    """The wish with its files; the storage if any is needed. `years` is for what is run again and again. Raises Problem."""
    files: dict[str, Path | bytes] = dict(sent.input_files(given["inputs"]))
    if given["script"] is not None:
        files[Path(given["script"]).name] = given["script"]
    if wish.stdin is not None:
        files[wish.stdin] = sys.stdin.buffer.read() if given["stdin"] == "-" else sent.existing(Path(given["stdin"]))
    if not files and not wish.patterns:
        return wish, None
    from concurrent.futures import ThreadPoolExecutor

    from batchyard.cli.storage import FOR_YEARS, VALID, Storage

    storage = Storage(batch.storage, FOR_YEARS if years else VALID)
    storage.prepare()
    brought: list[sent.Body] = []
    with ThreadPoolExecutor(8) as several, Progress("uploading", len(files)) as progress:
        for (path, file), url in zip(files.items(), several.map(storage.bring, files.values()), strict=True):
            runs = path == (given["script"] and Path(given["script"]).name) or (isinstance(file, Path) and file.stat().st_mode & 0o100)
            brought.append({"httpUrl": url, "filePath": path, "fileMode": "0755" if runs else "0644"})
            progress.add()
    return wish._replace(inputs=brought, drop_box=storage.drop_box() if wish.patterns else None), storage
