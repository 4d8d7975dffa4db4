"""Shapes of applications: what the data plane lists of them, and what our own operations take and give."""

from __future__ import annotations

from msgspec import UNSET

from batchyard.model.common import Change, Shape


class ApplicationSummary(Shape):
    """An application as the data plane lists it."""

    id: str
    display_name: str
    versions: list[str]


class ApplicationPut(Shape):
    """What an application is made with."""

    display_name: str | None = None
    allow_updates: bool | None = None
    """False: packages are neither replaced nor deleted."""


class ApplicationPatch(Shape):
    """What of an application changes; null clears."""

    display_name: Change[str] = UNSET
    allow_updates: Change[bool] = UNSET
    default_version: Change[str] = UNSET


class PackageInfo(Shape):
    """A version of an application."""

    version: str
    content_length: int
    """Bytes of the zip file."""
    creation_time: str


class ApplicationInfo(Shape):
    """An application as our own operations give it."""

    id: str
    allow_updates: bool
    creation_time: str
    last_modified: str
    packages: list[PackageInfo]
    display_name: str | None = None
    default_version: str | None = None
