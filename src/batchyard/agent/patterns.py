"""File patterns of output files (contract 4.7): which files below a directory one means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

_WILD = re.compile(r"[*?\[]")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}|%(\w+)%", re.ASCII)


def expand(pattern: str, variables: Mapping[str, str]) -> str:
    """The pattern with `$NAME`, `${NAME}` and `%NAME%` replaced; unknown names stay."""
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2] or match[3], match[0]), pattern)


def split(pattern: str, directory: str) -> tuple[str, list[str]]:
    """Directory where the search begins, and the components below it from the first wildcard on.

    Without any wildcard the list holds the file's name alone. `..` behind a wildcard is refused with ValueError.
    """
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
    """Expression for one component: `*`, `?`, `[abc]`, `[!x]`; a leading dot must be asked for."""
    text = "" if name.startswith(".") else r"(?!\.)"
    at = 0
    while at < len(name):
        letter = name[at]
        end = name.find("]", at + 2 + (name[at + 1 : at + 2] == "!")) if letter == "[" else -1
        if letter == "*":
            text += ".*"
        elif letter == "?":
            text += "."
        elif end > 0:
            inside = name[at + 1 : end].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^").replace("]", r"\]")
            text += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
            at = end
        else:
            text += re.escape(letter)
        at += 1
    try:
        return re.compile(text, re.DOTALL)
    except re.error:  # such as [z-a]
        return re.compile(re.escape(name))


def find(base: str, below: list[str]) -> Iterator[str]:
    """Paths relative to base of the files that match, sorted within each directory; each once."""
    seen: set[str] = set()
    for path in _walk(base, "", below):
        if path not in seen:
            seen.add(path)
            yield path


def _walk(base: str, at: str, below: list[str]) -> Iterator[str]:
    if not below:
        return
    name, rest = below[0], below[1:]
    if not is_wild(name):
        yield from _step(base, at + name, rest)
        return
    for entry in _entries(os.path.join(base, at)):
        if name == "**":
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(base, f"{at}{entry.name}/", below)
            elif not rest:
                yield at + entry.name
        elif matcher(name).fullmatch(entry.name):
            yield from _step(base, at + entry.name, rest)
    if name == "**" and rest:
        yield from _walk(base, at, rest)


def _step(base: str, path: str, rest: list[str]) -> Iterator[str]:
    if rest:
        yield from _walk(base, path + "/", rest)
    elif os.path.isfile(os.path.join(base, path)):
        yield path


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []
