"""Command lines: split into words as a POSIX shell does, and nothing else that a shell does (contract 4.2)."""

from __future__ import annotations

import re

from batchyard.agent.transfer.failures import USER, Failed, failure
from batchyard.model.common import ContainerSettings

_PIECE = re.compile(
    r"""(?P<blank>[ \t\r\n]+) | (?P<plain>[^ \t\r\n'"\\]+) | '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" | \\(?P<escaped>.?)""",
    re.VERBOSE | re.DOTALL,
)
"""One piece of a command line. No two alternatives begin alike, so the time goes with the length."""
_ESCAPE = re.compile(r'\\([$`"\\\n])')
_SPECIAL = re.compile(r"['\"\\]")
_WORD = re.compile(r"[^ \t\r\n]+")
_CONTINUATION = "\n"


def words(command_line: str) -> list[str]:
    """Words as a POSIX shell splits them, without any expansion. Raises ValueError for an open quote.

    Inside double quotes a backslash escapes `$`, backquote, `"`, itself and a newline; backslash and newline together vanish.
    """
    if not _SPECIAL.search(command_line):
        return _WORD.findall(command_line)  # the same and ten times as fast
    found: list[str] = []
    word: list[str] = []
    at = 0
    while at < len(command_line):
        piece = _PIECE.match(command_line, at)
        if piece is None:
            raise ValueError(f"the quote at character {at + 1} is not closed")
        at = piece.end()
        if piece.lastgroup != "blank":
            word += _meaning(piece)
        elif word:
            found.append("".join(word))
            word = []
    return [*found, "".join(word)] if word else found


def _meaning(piece: re.Match[str]) -> list[str]:
    """What a piece adds to its word: an empty text makes a word too, nothing at all does not."""
    if piece.lastgroup == "double":
        return [_ESCAPE.sub(lambda escape: escape[1].replace(_CONTINUATION, ""), piece["double"])]
    if piece.lastgroup == "escaped":
        return [] if piece["escaped"] == _CONTINUATION else [piece["escaped"] or "\\"]
    return [piece[piece.lastgroup or 0]]


def program(command_line: str) -> tuple[list[str], Failed | None]:
    """Words to start, and why they cannot be: the spawner is then given what it writes into the task's logs (`spawner.find`)."""
    try:
        argv = words(command_line)
    except ValueError as error:
        message = f"The command line cannot be split into words: {error}"
    else:
        if argv:
            return argv if argv[0] else ["", "the command line names no program"], None
        message = "The command line is empty"
    return ["", message], not_launched("CommandLaunchFailed", message, command_line)


def of_container(command_line: str, settings: ContainerSettings) -> tuple[list[str], list[str]]:
    """What a container is to run, nothing for the entry point of its image, and its run options. Raises Failed."""
    try:
        argv = words(command_line)
    except ValueError as error:
        raise not_launched("CommandLaunchFailed", f"The command line cannot be split into words: {error}", command_line) from error
    try:
        return argv, words(settings.container_run_options or "")
    except ValueError as error:
        text = f"The container run options cannot be split into words: {error}"
        raise Failed("preprocessing", failure("ContainerInvalidSettings", text)) from error


def not_launched(code: str, message: str, command_line: str, reason: str = "") -> Failed:
    """Why a command never ran, as its task's failure."""
    details = {"CommandLine": command_line} | ({"Message": reason} if reason else {})
    return Failed("preprocessing", failure(code, message, USER, **details))
