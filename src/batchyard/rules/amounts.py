"""Amounts of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]{1,3})", re.ASCII)
SMALLEST = 1024**2
AMOUNT = "an amount of at least 1 MiB such as '4 GiB'"


def amount_bytes(text: str) -> int:
    """Bytes of `4 GiB` or `512MB`. Raises ValueError for what is no such text, or less than one MiB."""
    match = _AMOUNT.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < SMALLEST:
        raise ValueError(f"{AMOUNT}, not {text!r}")
    return size
