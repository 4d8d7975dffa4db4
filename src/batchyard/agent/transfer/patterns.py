"""File patterns of output files (contract 4.7): which files below a directory one means. Pure.

Bounds: a name is matched in time proportional to its length times its part of the pattern's, and every name of a tree is
looked at once, however many `*` and `**` there are. A pattern is at most as long as a path can be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

LONGEST = 4_096
_WILD = re.compile(r"[*?\[]")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}|%(\w+)%", re.ASCII)


def expand(pattern: str, variables: Mapping[str, str]) -> str:
    """The pattern with `$NAME`, `${NAME}` and `%NAME%` replaced; unknown names stay."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2] or match[3], match[0]), pattern)


def split(pattern: str, directory: str) -> tuple[str, list[str]]:
    """Directory where the search begins, and the components below it from the first wildcard on.

    Without any wildcard the list holds the file's name alone. Raises ValueError for `..` behind a wildcard and for what no path can be.
    """
    if len(pattern) > LONGEST or "\0" in pattern:
        raise ValueError(f"no path has more than {LONGEST} characters or a NUL: {pattern[:100]!r}")
    names = os.path.join(directory, pattern).split("/")
    first = next((at for at, name in enumerate(names) if _WILD.search(name)), len(names) - 1)
    below = [name for name in names[first:] if name not in ("", ".")]
    if ".." in below:
        raise ValueError(f"`..` cannot follow a wildcard: {pattern!r}")
    return os.path.normpath("/".join(names[:first]) or "/"), below


def is_wild(pattern: str) -> bool:
    """True when a pattern may mean several files."""
    return _WILD.search(pattern) is not None


def matcher(name: str) -> re.Pattern[str]:
    """Expression for one component: `*`, `?`, `[abc]`, `[!x]`; a leading dot must be asked for.

    What stands between two stars has a fixed length, so its first place is as good as any: nothing is tried twice.
    """
    first, *rest = _pieces(name)
    text = ("" if name.startswith(".") else r"(?!\.)") + first
    if rest:
        text += "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece) + ".*" + rest[-1]
    return re.compile(text, re.DOTALL)


def _pieces(name: str) -> list[str]:
    """Expressions for what stands before, between and behind the stars."""
    found, at = [""], 0
    while at < len(name):
        letter = name[at]
        end = name.find("]", at + 2 + (name[at + 1 : at + 2] == "!")) if letter == "[" else -1
        if letter == "*":
            found.append("")
        elif letter == "?":
            found[-1] += "."
        elif end > 0:
            found[-1] += _set(name[at + 1 : end])
            at = end
        else:
            found[-1] += re.escape(letter)
        at += 1
    return found


def _set(inside: str) -> str:
    """Expression for a set; a range that ends before it begins means nothing."""
    negated, inside = inside.startswith("!"), inside.removeprefix("!")
    text, at = "", 0
    while at < len(inside):
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            low, high = inside[at], inside[at + 2]
            text += f"{re.escape(low)}-{re.escape(high)}" if low <= high else ""
            at += 3
        else:
            text += re.escape(inside[at])
            at += 1
    if not text:
        return "." if negated else "(?!)"
    return f"[^{text}]" if negated else f"[{text}]"


class Matching:
    """Matches the paths below a directory one name at a time: a state is the parts of the pattern that may come next."""

    def __init__(self, below: list[str]) -> None:
        self._parts = [name for at, name in enumerate(below) if name != "**" or below[at - 1 : at] != ["**"]]
        self._matchers = [matcher(name) if is_wild(name) and name != "**" else None for name in self._parts]
        self.start = self._with_empty({0})

    def _with_empty(self, state: set[int]) -> frozenset[int]:
        """`**` may also stand for no directory at all."""
        return frozenset(state | {at + 1 for at in state if at < len(self._parts) - 1 and self._parts[at] == "**"})

    def names(self, state: frozenset[int]) -> set[str] | None:
        """The only names that can come next; None when the directory has to be read."""
        found = {self._parts[at] for at in state}
        return None if any(is_wild(name) for name in found) else found

    def after(self, state: frozenset[int], name: str) -> tuple[frozenset[int], bool]:
        """The state in a directory of that name, empty when nothing below it matches, and whether a file of that name does."""
        further: set[int] = set()
        matches = False
        for at in state:
            part, expression, last = self._parts[at], self._matchers[at], at == len(self._parts) - 1
            if part == "**":
                if not name.startswith("."):
                    further.add(at)
                    matches |= last
            elif expression.fullmatch(name) if expression is not None else part == name:
                if last:
                    matches = True
                else:
                    further.add(at + 1)
        return self._with_empty(further), matches
