"""Answers as tables, JSON, YAML or ids. Lists are streamed: a page is printed before the next one is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from batchyard.cli import layout, streams, tables
from batchyard.cli.layout import Column
from batchyard.cli.problem import Usage

Found = dict[str, Any]
Pages = Iterable[Sequence[msgspec.Raw]]
WATCH_S = 1.0


class _Names(msgspec.Struct, rename="camel"):
    """What of an entry is its id."""

    id: str | int | None = None
    name: str | None = None
    node_id: str | None = None
    pool_id: str | None = None
    display_name: str | None = None


def raw(found: Mapping[str, Any]) -> msgspec.Raw:
    """An entry that was made here, as the JSON that the others are."""
    return msgspec.Raw(msgspec.json.encode(found))


def show(pages: Callable[[], Pages], columns: Sequence[Column], shown: Mapping[str, Any]) -> None:
    """Print a list as it was asked for, with --watch again and again what is new or has changed."""
    if not shown.get("watch"):
        _one_list(pages(), columns, shown)
        return
    from time import sleep

    seen: dict[str, bytes] = {}

    def noted() -> Iterator[Sequence[msgspec.Raw]]:
        for page in pages():
            seen.update((_identity(one), bytes(one)) for one in page)
            yield page

    _one_list(noted(), columns, shown)
    while True:
        sys.stdout.flush()
        sleep(WATCH_S)
        changed = [one for page in pages() for one in page if seen.get(_identity(one)) != bytes(one)]
        seen.update((_identity(one), bytes(one)) for one in changed)
        if changed:
            _one_list([changed], columns, {**shown, "headless": True})


def _identity(one: msgspec.Raw) -> str:
    names = msgspec.json.decode(one, type=_Names)
    return str(names.id or names.name or names.node_id or names.pool_id or bytes(one))


def _one_list(pages: Pages, columns: Sequence[Column], shown: Mapping[str, Any]) -> None:
    output, query = shown["output"], shown.get("query")
    if query and output in ("table", "wide", "json", "yaml"):
        found = searched(query, [msgspec.json.decode(one) for page in pages for one in page])
        document(found, output)
    elif query:
        for page in pages:
            _write(_line(output, searched(query, msgspec.json.decode(one))) for one in page)
    elif output == "jsonl":
        for page in pages:
            if page:
                _bytes(b"\n".join(page) + b"\n")
    elif output == "json":
        _json(pages)
    elif output == "yaml":
        for page in pages:
            _write(_yaml([msgspec.json.decode(one)]) for one in page)
    elif output in ("id", "name"):
        for page in pages:
            _write(_called(output, one) + "\n" for one in page)
    else:
        _table(pages, columns, output == "wide", headless=bool(shown.get("headless")))


def _called(output: str, one: msgspec.Raw) -> str:
    names = msgspec.json.decode(one, type=_Names)
    called = names.id or names.name or names.node_id or names.pool_id or ""
    return str(names.display_name or called if output == "name" else called)


def _line(output: str, found: Any) -> str:
    return f"{found}\n" if isinstance(found, str) and output != "jsonl" else msgspec.json.encode(found).decode() + "\n"


def _json(pages: Pages) -> None:
    """A JSON array, an entry at a time."""
    before = b"[\n  "
    for page in pages:
        made = []
        for one in page:
            made.append(before + msgspec.json.format(one, indent=2).replace(b"\n", b"\n  "))
            before = b",\n  "
        _bytes(b"".join(made))
    _bytes(b"\n]\n" if before.startswith(b",") else b"[]\n")


def _table(pages: Pages, columns: Sequence[Column], wide: bool, *, headless: bool) -> None:
    chosen = [column for column in columns if wide or not column.wide]
    now = tables.now()
    stream = iter(pages)
    first = next(stream, [])

    def rows() -> Iterator[list[object]]:
        for page in chain([first], stream):
            for one in page:
                found = msgspec.json.decode(one)
                yield [column.cell(found, now) for column in chosen]

    lines = layout.lines(chosen, rows(), streams.columns(sys.stdout), streams.paint, max(len(first), 1))
    if headless:
        next(lines)
    for line in lines:
        print(line)


def searched(query: str, found: Any) -> Any:
    """What a JMESPath expression chooses. Raises Usage."""
    import jmespath  # type: ignore[import-untyped]
    from jmespath.exceptions import JMESPathError  # type: ignore[import-untyped]

    try:
        return jmespath.search(query, found)
    except JMESPathError as error:
        raise Usage(f"--query is no JMESPath: {str(error).splitlines()[0]}") from None


def document(found: Any, output: str) -> None:
    """Print one answer."""
    if output in ("json", "jsonl"):
        text = msgspec.json.encode(found)
        _bytes((msgspec.json.format(text, indent=2) if output == "json" else text) + b"\n")
    elif output == "yaml":
        sys.stdout.write(_yaml(found))
    elif isinstance(found, list) and found and all(isinstance(one, dict) for one in found):
        heads = list(dict.fromkeys(name for one in found for name in one))
        columns = [Column(name.upper(), _nothing) for name in heads]
        for line in layout.lines(columns, [[_scalar(one.get(name)) for name in heads] for one in found], streams.columns(sys.stdout)):
            print(line)
    elif isinstance(found, list):
        for one in found:
            print(_scalar(one))
    else:
        print(_scalar(found))


def _nothing(found: Any, now: Any) -> object:
    return ""


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _yaml(found: Any) -> str:
    import yaml  # type: ignore[import-untyped]

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(found, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120))


def _write(texts: Iterable[str]) -> None:
    sys.stdout.write("".join(texts))
    sys.stdout.flush()


def _bytes(data: bytes) -> None:
    """JSON is UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def entries(found: Sequence[Found], columns: Sequence[Column], shown: Mapping[str, Any]) -> None:
    """Print what was asked for by name: the one, or all of several."""
    output, query = shown["output"], shown.get("query")
    found = [{name: value for name, value in one.items() if name != "odata.metadata"} for one in found]  # it says nothing of the thing
    if query:
        document(searched(query, found[0] if len(found) == 1 else list(found)), output)
    elif output in ("table", "wide", "id", "name", "jsonl"):
        _one_list([[raw(one) for one in found]], columns, shown)
    else:
        document(found[0] if len(found) == 1 else list(found), output)
