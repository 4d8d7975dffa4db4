"""Bodies of requests: from a file of the service's own JSON or of YAML, with options laid over it, checked before they are sent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from batchyard.cli.client import Client
from batchyard.cli.problem import Problem, Usage

Body = dict[str, Any]
_SHAPES = {
    "pool": "pool:PoolCreateContent",
    "pool update": "pool:PoolPatch",
    "pool replace": "pool:PoolUpdateProperties",
    "job": "job:JobCreateContent",
    "job update": "job:JobPatch",
    "job replace": "job:JobUpdate",
    "schedule": "jobschedule:JobScheduleCreateContent",
    "schedule update": "jobschedule:JobSchedulePatch",
    "schedule replace": "jobschedule:JobScheduleUpdate",
    "task": "task:TaskCreateContent",
    "task update": "task:TaskUpdate",
}
"""What the service takes, by what is done."""


def given(file: str | None) -> Any:
    """The content of a file, `-` for stdin; an empty body without one. Raises Problem."""
    if file is None:
        return {}
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Problem(f"cannot read {file} ({error.strerror})") from None
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        if file.endswith(".json"):
            raise Problem(f"{file} is no JSON: {_no_json(data)}") from None
        found = _yaml(data, file)
    if not isinstance(found, dict | list):
        raise Problem(f"{file} has no JSON object, nor one in YAML")
    return found


def _yaml(data: bytes, file: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(data)
        # YAML reads times and dates as such; the service wants them as text.
        return msgspec.json.decode(msgspec.json.encode(found))
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark
        place = "" if where is None else f"line {where.line + 1}, column {where.column + 1}: "
        raise Problem(f"{file} is neither JSON ({_no_json(data)}) nor YAML ({place}{error.problem})") from None
    except (yaml.YAMLError, msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, TypeError) as error:
        reason = "it is nested too deep, or holds itself" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise Problem(f"{file} is neither JSON ({_no_json(data)}) nor YAML ({reason})") from None


def _no_json(data: bytes) -> str:
    """Why it is none, with line and column."""
    import json

    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        return "it is nested too deep"
    except UnicodeError:
        return "it is no UTF-8"
    return "some text in it is no Unicode"


def laid(file: str | None, *overs: Mapping[str, Any]) -> Body:
    """A file's body with what options say, deep; `None` says nothing. Raises Problem."""
    body = given(file)
    if not isinstance(body, dict):
        raise Problem(f"{file} wants one JSON object")
    for one in overs:
        _lay(body, one)
    return body


def over(body: Mapping[str, Any], more: Mapping[str, Any]) -> Body:
    """A body with what options say, deep."""
    made = dict(body)
    _lay(made, more)
    return made


def _lay(body: Body, over: Mapping[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, Mapping):
            inner = body.get(name)
            inner = dict(inner) if isinstance(inner, Mapping) else {}
            _lay(inner, value)
            if inner:
                body[name] = inner
        elif value is not None:
            body[name] = value


def pairs(given: list[str], option: str) -> list[dict[str, str]] | None:
    """NAME=VALUE options as the service has them; nothing when there are none. Raises Usage."""
    from batchyard.cli import submit

    return [{"name": name, "value": value} for name, value in submit.variables(given, option).items()] or None


def check(what: str, body: object) -> None:
    """Raises Problem where the body is not of the service's shape."""
    from importlib import import_module

    module, _, name = _SHAPES[what].partition(":")
    shape = getattr(import_module(f"batchyard.model.{module}"), name)
    try:
        msgspec.convert(body, shape)
    except msgspec.MsgspecError as error:
        raise Problem(f"the {what.partition(' ')[0]} is not as the service takes it: {error}") from None


def send(batch: Client, what: str, body: Body, *path: str, method: str = "POST", dry: bool = False) -> bool:
    """Send a body, or print it when only that is wanted; was it sent? Raises Problem."""
    if dry:
        from batchyard.cli import output

        check(what, body)
        output.document(body, "json")
        return False
    if method == "POST":
        batch.post(*path, body=body)
    else:
        batch.change(method, *path, body=body)
    return True


def named(body: Body, name: str | None, what: str) -> Body:
    """The body with its id. Raises Usage when nothing says it."""
    if name is not None:
        body["id"] = name
    if not isinstance(body.get("id"), str):
        raise Usage(f"the {what} has no id: give it, or a file that says it")
    return body
