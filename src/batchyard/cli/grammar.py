"""What commands are made of, and how their words are read: the rows of `table`, and one parser for all of them.

Nothing is imported here that takes time, and only the row of the command that was called is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batchyard.cli.problem import Usage


class Kind(NamedTuple):
    """What a value may be."""

    name: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


TEXT, PATH, FLAG = Kind("text"), Kind("path"), Kind("flag")


def whole(low: int | None = None, high: int | None = None) -> Kind:
    """A whole number between two bounds."""
    return Kind("whole number", (), low, high)


def number(low: float | None = None) -> Kind:
    """A number."""
    return Kind("number", (), low)


def one_of(*choices: str) -> Kind:
    """One of some words."""
    return Kind("choice", choices)


class Word(NamedTuple):
    """A word that is known by its place."""

    name: str
    metavar: str
    help: str = ""
    times: str = "1"
    """`1`, `?` at most one, `*` any number, `+` at least one, `rest` or `rest*`: it and all words behind it, options too."""
    kind: Kind = TEXT
    names: str = ""
    """What the server is asked for when the shell completes it: jobs, tasks, pools, nodes."""


class Flag(NamedTuple):
    """An option."""

    name: str
    words: tuple[str, ...]
    help: str
    kind: Kind = TEXT
    metavar: str = ""
    many: bool = False
    default: Any = None
    shown: str = ""
    """What the help says of the default."""
    group: str = ""
    """The values of a group's options reach the command as one mapping of that name."""
    names: str = ""
    off: tuple[str, ...] = ()
    """Those of its words that turn it off."""


class Verb(NamedTuple):
    """A command: what it is called, the function that does it, and its words."""

    name: str
    run: str
    """`module:function` below `batchyard.cli`."""
    help: str
    words: tuple[Word, ...] = ()
    flags: tuple[Flag, ...] = ()
    server: bool = True
    """The function's first argument is a client of the server that the options or the environment name."""
    serves: tuple[str, ...] = ()
    """The operations of the API that this is there for, as `POST /pools`."""
    aliases: tuple[str, ...] = ()
    raw: bool = False
    """All words are handed on as they are."""


class Noun(NamedTuple):
    """A thing that there are commands for."""

    name: str
    help: str
    verbs: tuple[Verb, ...] = ()
    later: bool = False
    """Its place is kept; the service does not have it yet."""


def parse(verb: Verb, given: Sequence[str], common: Sequence[Flag] = ()) -> dict[str, Any]:
    """The values of a command's words and options by name, those of groups together. Raises Usage."""
    flags = (*verb.flags, *common)
    found: dict[str, Any] = {flag.name: [] if flag.many else flag.default for flag in flags}
    places = _split({word: flag for flag in flags for word in flag.words}, verb, given, found)
    if not found.get("help"):
        found.update(_placed(verb, places))
    for group in {flag.group for flag in flags if flag.group}:
        found[group] = {flag.name: found.pop(flag.name) for flag in flags if flag.group == group}
    return found


def _split(known: Mapping[str, Flag], verb: Verb, given: Sequence[str], found: dict[str, Any]) -> list[str]:
    """Put the options' values into `found`; the words that are left. Raises Usage."""
    places: list[str] = []
    at = 0
    rest = next((number for number, word in enumerate(verb.words) if word.times.startswith("rest")), None)
    while at < len(given):
        text = given[at]
        at += 1
        if text == "--":
            return [*places, *given[at:]]
        if len(text) < 2 or not text.startswith("-") or (text[1].isdecimal() and text[:2] not in known):
            places.append(text)
            if rest is not None and len(places) > rest:
                return [*places, *given[at:]]
            continue
        for name, value in _options(text, known):
            flag = known[name]
            if flag.kind is FLAG:
                if value is not None:
                    raise Usage(f"{name} takes no value; it got {value!r}")
                found[flag.name] = name not in flag.off
                continue
            if value is None:
                if at == len(given):
                    raise Usage(f"{name} wants a value: {name} {flag.metavar or flag.name.upper()}")
                value, at = given[at], at + 1
            if flag.kind.name == "tls" and value not in flag.kind.choices:
                found[flag.name], at = _pair(name, value, given[at : at + 1]), at + 1
                continue
            read = _read(flag.kind, name, value)
            if flag.many:
                found[flag.name].append(read)
            else:
                found[flag.name] = read
    return places


def _pair(name: str, first: str, more: Sequence[str]) -> Any:
    """Two paths. Raises Usage."""
    from pathlib import Path

    if not more or more[0].startswith("-"):
        raise Usage(f"{name} is auto, off, or two paths: certificate and key; it got only {first!r}")
    return Path(first), Path(more[0])


def _options(text: str, known: Mapping[str, Flag]) -> Iterator[tuple[str, str | None]]:
    """(option, value that is written onto it) of a word: `--x`, `--x=1`, `-x`, `-x1`, `-xyz`. Raises Usage."""
    if text.startswith("--"):
        name, equals, value = text.partition("=")
        if name not in known:
            raise Usage(f"there is no option {name}{_close(name, known)}")
        yield name, value if equals else None
        return
    for place in range(1, len(text)):
        name = f"-{text[place]}"
        if name not in known:
            raise Usage(f"there is no option {name if place == 1 else f'{name} (in {text})'}{_close(text, known)}")
        if known[name].kind is not FLAG:
            yield name, text[place + 1 :].removeprefix("=") or None
            return
        yield name, None


def _close(name: str, known: Mapping[str, Flag]) -> str:
    if likely := close(name, known):
        return f"; did you mean {likely}?"
    return "; a command's own options stand behind --" if name == "--" else ""


def close(name: str, known: Mapping[str, object] | Sequence[str]) -> str | None:
    """The known name that is most like a mistyped one."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), 1)), None)


def _placed(verb: Verb, places: Sequence[str]) -> dict[str, Any]:
    """The words by the names of their places. Raises Usage."""
    found: dict[str, Any] = {}
    left = list(places)
    for place, word in enumerate(verb.words):
        if word.times in "1?":
            if not left and word.times == "1":
                raise Usage(f"{word.metavar} is missing: {word.help or verb.help}")
            found[word.name] = _read(word.kind, word.metavar, left.pop(0)) if left else None
            continue
        behind = sum(later.times == "1" for later in verb.words[place + 1 :])
        taken, left = (left[:-behind], left[-behind:]) if behind else (left, [])
        if not taken and word.times in ("+", "rest"):
            raise Usage(f"{word.metavar} is missing: {word.help or verb.help}")
        found[word.name] = [_read(word.kind, word.metavar, text) for text in taken]
    if left:
        raise Usage(f"there is one word too many: {left[0]!r}")
    return found


def _read(kind: Kind, name: str, text: str) -> Any:
    """The value of a text. Raises Usage."""
    if kind.choices:
        return _choice(kind, name, text)
    if kind.name == "path":
        from pathlib import Path

        return Path(text)
    if kind.name == "text":
        return text
    try:
        value: float = int(text) if kind.name == "whole number" else float(text)
    except ValueError:
        raise Usage(f"{name} wants a {kind.name}; it got {text!r}") from None
    if value != value or (kind.low is not None and value < kind.low) or (kind.high is not None and value > kind.high):
        bounds = f"from {kind.low} to {kind.high}" if kind.high is not None else f"of at least {kind.low}"
        raise Usage(f"{name} wants a {kind.name} {bounds}; it got {text}")
    return value


def _choice(kind: Kind, name: str, text: str) -> str:
    if text not in kind.choices:
        raise Usage(f"{name} is one of {', '.join(kind.choices)}; it got {text!r}")
    return text


def usage(noun: str, verb: Verb) -> str:
    """The line that says how a command is written."""
    shapes = {"1": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}...", "rest": "{}", "rest*": "[{}]"}
    words = [shapes[word.times].format(word.metavar) for word in verb.words]
    return " ".join(["batchyard", *([noun] if noun else []), verb.name, *(["[OPTIONS]"] if verb.flags else []), *words])


def option(flag: Flag) -> str:
    """An option as it is written."""
    value = "" if flag.kind is FLAG else f" {flag.metavar or '|'.join(flag.kind.choices) or flag.name.upper()}"
    return ", ".join(flag.words) + value


def explained(flag: Flag) -> str:
    """What an option means, with its default."""
    default = flag.shown or ("" if flag.default in (None, "", False) else str(flag.default))
    return f"{flag.help}{' May be repeated.' if flag.many else ''}{f' [{default}]' if default else ''}"
