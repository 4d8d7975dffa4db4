"""What a user can do something about: one sentence and exit code 1."""

from __future__ import annotations


class Problem(Exception):
    """The command cannot do what was asked; the message says why and what helps."""
