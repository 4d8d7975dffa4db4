"""Time zones by name: those of IANA, and what Windows calls them."""

from __future__ import annotations

from datetime import tzinfo
from functools import cache
from types import MappingProxyType
from zoneinfo import ZoneInfo

from tzlocal.windows_tz import win_tz

_OF_WINDOWS = MappingProxyType({name.lower(): iana for name, iana in win_tz.items()})
_LONGEST = 64


@cache
def _zone(name: str) -> tzinfo:
    return ZoneInfo(name)


def zone(name: str) -> tzinfo | None:
    """The zone of that name, such as `Europe/Berlin` or `W. Europe Standard Time`; None when there is none."""
    try:
        return None if len(name) > _LONGEST else _zone(_OF_WINDOWS.get(name.lower(), name))
    except (OSError, ValueError, LookupError):  # what is no name of a file of the database
        return None
