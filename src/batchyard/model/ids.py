"""Ids of resources: case is kept, compared without (contract 7.1)."""

from __future__ import annotations

import re

ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
NODE_AFFINITY_PREFIX = "TVM:"


def is_valid(text: str) -> bool:
    """True for 1 to 64 letters, digits, hyphens and underscores."""
    return ID.fullmatch(text) is not None


def key(text: str) -> str:
    """Form in which two ids are compared."""
    return text.lower()


def number_of(task_id: str) -> int | None:
    """Number that an id stands for in `taskIdRanges`, leading zeros ignored; None when it is not one (contract 3.7)."""
    if not task_id.isascii() or not task_id.isdigit():
        return None
    number = int(task_id)
    return number if number <= 2**31 - 1 else None
