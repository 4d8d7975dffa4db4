"""Checks that many use cases share: ids, durations, ranges; each raises the contract's error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from batchyard.model import ids, times
from batchyard.model.common import EnvironmentSetting, MetadataItem, OutputFile, ResourceFile, UserIdentity
from batchyard.model.errors import BatchError, invalid_property

DISPLAY_NAME_LENGTH = 1024
DEEPEST = 64
UNLIMITED = -1
_USUAL_LENGTH = 40
"""Longer durations are legal; they are not worth remembering."""
LARGEST_INTEGER = 2**31 - 1
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$root|\$logs", re.ASCII)


def an_id(name: str, value: str) -> None:
    """An id of 1 to 64 letters, digits, hyphens and underscores (contract 7.1)."""
    if not ids.is_valid(value):
        raise invalid_property(name, value[:100], "An id is 1 to 64 letters, digits, hyphens and underscores")


def a_display_name(value: str | None) -> None:
    """At most 1,024 characters."""
    if value is not None and len(value) > DISPLAY_NAME_LENGTH:
        raise invalid_property("displayName", value[:100], f"A display name has at most {DISPLAY_NAME_LENGTH} characters")


def within(name: str, value: int, low: int, high: int) -> None:
    """An integer from low to high."""
    if not low <= value <= high:
        raise invalid_property(name, value, f"The value must be between {low} and {high}")


def a_number(name: str, value: int) -> None:
    """An integer of 32 bits."""
    within(name, value, -LARGEST_INTEGER - 1, LARGEST_INTEGER)


def a_retry_count(value: int) -> None:
    """-1 (no limit), 0 or more."""
    within("maxTaskRetryCount", value, UNLIMITED, LARGEST_INTEGER)


def duration_us(name: str, value: str, *, minimum_us: int = 0) -> int | None:
    """Microseconds of a duration, None for infinite; refuses one below the minimum."""
    try:
        us = times.duration(value)
    except (ValueError, OverflowError):
        raise invalid_property(name, value, "The value is not an ISO 8601 duration") from None
    if us is not None and us < minimum_us:
        raise invalid_property(name, value, f"The value must be at least {times.duration_text(minimum_us)}")
    return us


def canonical(name: str, value: str | None, default: str) -> str:
    """The duration as the service writes it, or the default."""
    if value is None:
        return default
    return _canonical(name, value) if len(value) <= _USUAL_LENGTH else _canonical.__wrapped__(name, value)


@lru_cache(maxsize=1024)
def _canonical(name: str, value: str) -> str:
    """Remembered, because thousands of tasks share a few durations and reading one takes 5 µs."""
    return times.duration_text(duration_us(name, value))


def a_command_line(value: str) -> None:
    """Not empty; containers are the exception (`containers.command_line`)."""
    if not value.strip():
        raise invalid_property("commandLine", value, "The command line must not be empty")


def an_identity(identity: UserIdentity | None) -> None:
    """A named user or an automatic one, not both (contract 4.4)."""
    if identity is not None and (identity.username is None) == (identity.auto_user is None):
        raise invalid_property("userIdentity", "", "Exactly one of username and autoUser must be given")


def resource_files(files: Sequence[ResourceFile] | None) -> None:
    """Each names exactly one source, and a target inside the working directory (contract 4.5)."""
    for file in files or ():
        sources = (file.http_url, file.storage_container_url, file.auto_storage_container_name)
        if sum(source is not None for source in sources) != 1:
            raise invalid_property(
                "resourceFiles", "", "Exactly one source must be given: httpUrl, storageContainerUrl or autoStorageContainerName"
            )
        linked = file.auto_storage_container_name
        if linked is not None and _CONTAINER.fullmatch(linked) is None:
            raise invalid_property("autoStorageContainerName", linked[:100], "The value is not the name of a container")
        if file.http_url is not None and not file.file_path:
            raise invalid_property("filePath", "", "filePath is required with httpUrl")
        if file.file_path is not None and (".." in file.file_path.split("/") or file.file_path.startswith("/") or "\0" in file.file_path):
            raise invalid_property("filePath", file.file_path, "The path must stay inside the task's working directory")
        if file.file_mode is not None and not (file.file_mode.isdigit() and all(digit in "01234567" for digit in file.file_mode)):
            raise invalid_property("fileMode", file.file_mode, "The mode must be octal")
        no_identity("resourceFiles.identityReference", file.identity_reference)


def output_files(files: Sequence[OutputFile] | None) -> None:
    """Each goes to a URL that says itself who may write."""
    for file in files or ():
        if file.destination.container is not None:
            no_identity("outputFiles.destination.container.identityReference", file.destination.container.identity_reference)


def no_identity(name: str, reference: object) -> None:
    """Refuse a managed identity: a machine of one's own has none, and a transfer without it would only fail later."""
    retired(name, reference, "Nodes have no managed identity; give the URL a SAS")


def environment(settings: Sequence[EnvironmentSetting] | None) -> None:
    """Names that a process can have."""
    for setting in settings or ():
        name = setting.name
        if not name or "=" in name or "\0" in name or (setting.value and "\0" in setting.value):
            raise invalid_property("environmentSettings", name, "The name of a variable must not be empty nor hold '='")


def metadata(items: Sequence[MetadataItem] | None) -> None:
    """No empty names."""
    if any(not item.name for item in items or ()):
        raise BatchError("EmptyMetadataKey")


def own_metadata(items: Sequence[MetadataItem] | None, name: str) -> str | None:
    """The value of a name that is ours, None without it. Raises InvalidPropertyValue when it is given twice."""
    values = [item.value for item in items or () if item.name == name]
    if len(values) > 1:
        raise invalid_property("metadata", values[1][:100], f"The name {name} is given twice")
    return values[0] if values else None


def retired(name: str, value: object, reason: str) -> None:
    """Refuse a property that the service itself has given up."""
    if value:
        raise BatchError("UnsupportedProperty", PropertyName=name, Reason=reason)


def shallow(name: str, value: object) -> None:
    """At most DEEPEST levels of lists and objects in each other: what is read has to be written again, by whoever shows it."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
    if level:
        raise invalid_property(name, "", f"The value has more than {DEEPEST} levels")


def _members(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def not_served(**properties: object) -> None:
    """Refuse properties that this release does not act upon, rather than pretend."""
    for name, value in properties.items():
        if value is not None:
            raise BatchError("UnsupportedProperty", PropertyName=name, Reason="This release of Batchyard does not serve the property")
