"""Whose a token is: what nodes and tasks show says its account, but for those of the default account, whose tokens are older than this."""

from __future__ import annotations

_MARK = "~"


def marked(account: str, token: str) -> str:
    """A token that says its account; `account` is empty for the default one."""
    return f"{account}{_MARK}{token}" if account else token


def parted(token: str) -> tuple[str, str]:
    """The account that a token says, empty when it says none, and the token as its world knows it."""
    account, mark, rest = token.partition(_MARK)
    return (account, rest) if mark else ("", token)
