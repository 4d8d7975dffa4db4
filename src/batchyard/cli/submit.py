"""What `batchyard submit` sends: tasks made of a command and its options."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from math import prod
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from batchyard.cli.client import Client
from batchyard.cli.problem import Problem, Usage

MOST_PER_CALL = 100
MOST_BYTES_PER_CALL = 900_000
NO_COORDINATION = "/bin/true"
"""What instances run first when nothing is to be done."""
_LETTERS = "abcdefghjkmnpqrstuvwxyz"
_DIGITS = "23456789"

Body = dict[str, Any]


class Wish(NamedTuple):
    """What all tasks of a submission have in common; `{}` in words, variables and patterns stands for a task's value."""

    words: Sequence[str]
    slots: int | None = None
    retries: int | None = None
    after: Sequence[str] = ()
    env: Mapping[str, str] = MappingProxyType({})
    inputs: Sequence[Body] = ()
    patterns: Sequence[str] = ()
    drop_box: str | None = None
    """URL for outputs."""
    name: str | None = None
    cwd: str | None = None
    stdin: str | None = None
    """Path of a file on the node."""
    instances: int | None = None
    """Nodes on which each task runs at once."""
    coordination: str | None = None
    """Command line that all instances run first."""


def new_id() -> str:
    """A short id that is easy to read and to type."""
    import secrets

    return "".join(secrets.choice(letters) for letters in (_LETTERS, _DIGITS, _LETTERS, _DIGITS, _LETTERS, _DIGITS))


Value = tuple[str, Mapping[str, str]]
"""End of a task's id, and what is put in its command for `{}` (under the empty name) and for `{NAME}`."""


class Values:
    """A value for every task, made when it is asked for: there may be many millions."""

    def __init__(self, lines: Sequence[str] | None, spans: Sequence[tuple[int, int]], axes: Sequence[tuple[str, list[str]]]) -> None:
        self._lines, self._spans, self._axes = lines, spans, axes
        self.plain = lines is not None or bool(spans)
        """`{}` stands for something."""

    def __len__(self) -> int:
        first = len(self._lines) if self._lines is not None else sum(high - low + 1 for low, high in self._spans)
        return prod([first if self.plain else 1, *(len(choices) for _, choices in self._axes)])

    def __iter__(self) -> Iterator[Value]:
        numbered = [list(enumerate(choices, 1)) for _, choices in self._axes]
        names = [name for name, _ in self._axes]
        for end, known in self._first():
            for chosen in product(*numbered):
                ends = "".join(f"-{number}" for number, _ in chosen)
                yield end + ends, {**known, **dict(zip(names, (one for _, one in chosen), strict=True))}

    def _first(self) -> Iterator[Value]:
        if self._lines is not None:
            yield from ((f"-{number}", {"": line}) for number, line in enumerate(self._lines, 1))
        elif self._spans:
            yield from ((f"-{number}", {"": str(number)}) for low, high in self._spans for number in range(low, high + 1))
        else:
            yield "", {}


def values(array: str | None, lines: Sequence[str] | None, matrix: Sequence[str] = ()) -> Values:
    """A value for every task; one without any for a single task. Raises Usage."""
    if array is not None and lines is not None:
        raise Usage("--array and --each-line do not go together")
    kept = None if lines is None else [line for line in lines if line.strip()]
    if kept is not None and not kept:
        raise Usage("the file of --each-line has no lines")
    axes = [_axis(text) for text in matrix]
    names = [name for name, _ in axes]
    if len(set(names)) < len(names):
        raise Usage(f"--matrix has {next(name for name in names if names.count(name) > 1)} twice")
    return Values(kept, [] if array is None else _spans(array), axes)


def _spans(array: str) -> list[tuple[int, int]]:
    found = []
    for part in array.split(","):
        span = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if span is None or int(span[1]) > int(span[2] or span[1]) or (span[2] is None and "," not in array):
            raise Usage(f"--array wants two numbers, as in 1-10, or several spans, as in 1-10,15; it got {array!r}")
        found.append((int(span[1]), int(span[2] or span[1])))
    if any(later[0] <= earlier[1] for earlier, later in pairwise(sorted(found))):
        raise Usage(f"--array {array} has a number twice")
    return found


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, choices = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name) or not choices:
        raise Usage(f"--matrix wants NAME=VALUE,VALUE; it got {text!r}")
    return name, choices.split(",")


def filled(text: str, known: Mapping[str, str]) -> str:
    """A text with a task's values in place of `{}` and `{NAME}`; other braces stay."""
    return re.sub(r"\{(\w*)\}", lambda name: known.get(name[1], name[0]), text) if known else text


def placed(cwd: str | None, stdin: str | None) -> list[str]:
    """Words that let the command behind them run in a directory, with a file as stdin."""
    steps = (('exec <"$1" || exit; shift; ', stdin), ('cd "$1" || exit; shift; ', cwd))
    script = "".join(step for step, given in steps if given is not None)
    return ["/bin/sh", "-c", f'{script}exec "$@"', "sh", *(given for _, given in steps if given is not None)] if script else []


def tasks(wish: Wish, base: str, many: Values, folder: str) -> Iterator[Body]:
    """The tasks as the service takes them; outputs go below `folder`/id."""
    words = list(wish.words)
    if many.plain and not any("{}" in word for word in words):
        words.append("{}")
    for end, known in many:
        name = base + end
        own = [filled(word, known) for word in words]
        body: Body = {"id": name, "commandLine": shlex.join([*placed(wish.cwd, wish.stdin), *own])}
        if wish.name is not None:
            body["displayName"] = filled(wish.name, known)
        if wish.slots is not None:
            body["requiredSlots"] = wish.slots
        if wish.instances is not None or wish.coordination is not None:
            body["multiInstanceSettings"] = {
                "numberOfInstances": wish.instances or 1,
                "coordinationCommandLine": filled(wish.coordination or NO_COORDINATION, known),
            }
        if wish.retries is not None:
            body["constraints"] = {"maxTaskRetryCount": wish.retries}
        if wish.after:
            body["dependsOn"] = {"taskIds": list(wish.after)}
        env = {key: value for key, value in known.items() if key} | {key: filled(text, known) for key, text in wish.env.items()}
        if env:
            body["environmentSettings"] = [{"name": key, "value": value} for key, value in env.items()]
        if wish.inputs:
            body["resourceFiles"] = list(wish.inputs)
        if wish.drop_box:
            body["outputFiles"] = [_output(filled(pattern, known), wish.drop_box, f"{folder}/{name}") for pattern in wish.patterns]
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


def existing(path: Path) -> Path:
    """The path of a file or directory that is there. Raises Problem."""
    if not path.exists():
        raise Problem(f"there is no file {path}")
    return path


def input_files(given: Sequence[Path]) -> dict[str, Path]:
    """Local files by the path that they get on the node: the same relative one, else the name. Raises Problem."""
    found: dict[str, Path] = {}
    for start in given:
        existing(start)
        above = start.parent if start.is_absolute() or ".." in start.parts else Path()
        for file in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if file.is_file():
                name = file.relative_to(above).as_posix()
                if found.setdefault(name, file) != file:
                    raise Problem(f"{found[name]} and {file} would both be {name} on the node")
    return found


def variables(given: Sequence[str], option: str = "--env") -> dict[str, str]:
    """NAME=VALUE pairs. Raises Usage."""
    wrong = next((pair for pair in given if not re.match(r"[^=]+=", pair)), None)
    if wrong is not None:
        raise Usage(f"{option} wants NAME=VALUE; it got {wrong!r}")
    return dict(pair.split("=", 1) for pair in given)


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
