"""What a user can do something about: one sentence and an exit code."""

from __future__ import annotations


class Problem(Exception):
    """The command cannot do what was asked; the message says why and what helps."""

    code = 1
    """The exit code of the command that meets it."""


class Interrupted(Problem):
    """Ctrl-C while waiting; the message says what goes on."""

    code = 130
