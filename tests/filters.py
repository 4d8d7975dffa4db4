"""Filters made at random: as a tree, as a client may write it, and what it means, told by other code than the one under test."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from hypothesis import strategies as st

from batchyard.rules.odata import Kind, Properties, Property

Tree = tuple[Any, ...]
"""("and" | "or", tree, …), ("not", tree) or (operator, property, value)."""
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "startswith": str.startswith,
}
EPOCH = 1_700_000_000_000_000
VALUES: Mapping[Kind, Sequence[Any]] = {
    Kind.ID: ["t", "T1", "t10", "task-7", "a", "it's", ""],
    Kind.TEXT: ["wd", "wd/", "WD/x", "std", "it's", "é", "%", "_"],
    Kind.TIME: [EPOCH + n * 1_000_000 for n in range(-2, 3)] + [EPOCH + 123_456],
    Kind.NUMBER: [-1, 0, 1, 137, 2**31],
    Kind.FLAG: [True, False],
}


def values(known: Property) -> Sequence[Any]:
    """Values that rows and filters have."""
    return known.words or VALUES[known.kind]


def trees(properties: Properties) -> st.SearchStrategy[Tree]:
    """Filters on a list."""
    by_sign = {sign: [name for name, known in properties.items() if sign in known.operators] for sign in _COMPARE}

    def comparison(sign: str) -> st.SearchStrategy[Tree]:
        names = st.sampled_from(by_sign[sign])
        return names.flatmap(lambda name: st.tuples(st.just(sign), st.just(name), st.sampled_from(values(properties[name]))))

    leaves = st.sampled_from([sign for sign, names in by_sign.items() if names]).flatmap(comparison)

    def joined(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        lists = st.lists(parts, min_size=2, max_size=4)
        several = st.builds(lambda word, each: (word, *each), st.sampled_from(["and", "or"]), lists)
        return several | st.tuples(st.just("not"), parts)

    return st.recursive(leaves, joined, max_leaves=8)


def text(tree: Tree, properties: Properties, draw: Callable[[Sequence[str]], str]) -> str:
    """The filter as one of its spellings; `draw` chooses."""
    sign, *parts = tree
    shown = draw([sign, sign.upper(), sign.title()])
    if sign == "not":
        inner = text(parts[0], properties, draw)
        return f"{shown} ({inner})" if parts[0][0] in ("and", "or") else f"{shown} {inner}"
    if sign in ("and", "or"):
        each = [text(part, properties, draw) for part in parts]
        if sign == "and":
            each = [f"({one})" if part[0] == "or" else one for one, part in zip(each, parts, strict=True)]
        found = f" {draw(['', '  '])}{shown} ".join(each)
        return f"({found}{draw(['', ' '])})" if draw(["bare", "wrapped"]) == "wrapped" else found
    name, value = parts
    written = _literal(properties[name].kind, value, draw)
    if sign == "startswith":
        return f"{shown}({name},{draw(['', ' '])}{written})"
    return f"{name} {shown} {written}"


def _literal(kind: Kind, value: Any, draw: Callable[[Sequence[str]], str]) -> str:
    if kind is Kind.NUMBER:
        return str(value)
    if kind is Kind.FLAG:
        return draw(["true", "True"] if value else ["false", "FALSE"])
    if kind is Kind.TIME:
        moment = datetime.fromtimestamp(value // 1_000_000, UTC).replace(microsecond=value % 1_000_000)
        iso = moment.isoformat().replace("+00:00", "Z")
        forms = [f"DateTime'{iso}'", f"datetime'{iso}'", iso, f"'{iso}'"]
        return draw(forms if value % 1_000_000 else [*forms, f"DateTime'{format_datetime(moment, usegmt=True)}'"])
    quoted = str(value).replace("'", "''")
    return f"'{draw([quoted, quoted.upper()]) if kind is not Kind.TEXT else quoted}'"


def wanted(tree: Tree, properties: Properties, row: Mapping[str, Any]) -> bool:
    """True when a row is asked for."""
    sign, *parts = tree
    if sign == "not":
        return not wanted(parts[0], properties, row)
    if sign in ("and", "or"):
        return (all if sign == "and" else any)(wanted(part, properties, row) for part in parts)
    name, value = parts
    has = row.get(name)
    if has is None:
        return bool(sign == "ne")
    if properties[name].kind in (Kind.ID, Kind.WORD):
        has, value = has.lower(), value.lower()
    return _COMPARE[sign](has, value)
