"""What a user can do something about: one sentence and an exit code."""

from __future__ import annotations


class Problem(Exception):
    """The command cannot do what was asked; the message says why and what helps."""

    code = 1
    """The exit code of the command that meets it."""


class Usage(Problem):
    """The words on the command line make no sense; the message says which, and what would."""

    code = 2


class Interrupted(Problem):
    """Ctrl-C while something was under way; the message says what goes on, and how to go on or undo it."""

    code = 130
