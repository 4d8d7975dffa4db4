"""Shapes that several resources share, and the base of all shapes.

A shape says which names and types are legal on the wire; ranges and rules between properties are the engine's.
Fields stand for both SDK generations; what an API version lacks is left out when answering, not here.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import UnsetType

from batchyard.model.words import (
    AccessScope,
    AutoUserScope,
    ContainerHostDataPath,
    ContainerWorkingDirectory,
    ElevationLevel,
    OutputFileUploadCondition,
)

_AMOUNT = r"\d+(?:\.\d+)?"

Duration: TypeAlias = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"\AP(?:{_AMOUNT}Y)?(?:{_AMOUNT}M)?(?:{_AMOUNT}W)?(?:{_AMOUNT}D)?"
        rf"(?:T(?=\d)(?:{_AMOUNT}H)?(?:{_AMOUNT}M)?(?:{_AMOUNT}S)?)?\Z"
    ),
]
"""ISO 8601 duration kept as text; the bare `P` of 15.x is legal and means zero (contract 1.4). `times.duration` reads all of these."""

Timestamp: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?\Z")]
"""ISO 8601 time kept as text. Only the form is checked: `times.from_iso` still raises for a 13th month."""

SECRET = msgspec.Meta(extra={"secret": True})
"""Marks what is taken from clients and never served or logged."""

Secret: TypeAlias = Annotated[str, SECRET]

KEPT = msgspec.Meta(extra={"secret": True, "kept": True})
"""Marks a secret that nodes need: it is stored, for them alone, and never served or logged (`redact.shown`)."""

_T = TypeVar("_T")
Change: TypeAlias = _T | UnsetType | None
"""Property of a PATCH: UNSET was not sent and keeps the value, None was sent as null."""


class Shape(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """Base of everything that goes over the wire: an unknown property is refused, an absent one is left out."""


class NameValuePair(Shape):
    """Detail of an error."""

    name: str | None = None
    value: str | None = None


class MetadataItem(Shape):
    """Note that a client attaches to a resource; names may repeat."""

    name: str
    value: str


class EnvironmentSetting(Shape):
    """Environment variable of a task."""

    name: str
    value: str | None = None


class ErrorMessage(Shape):
    """Sentence of an error with its language."""

    lang: str | None = None
    value: str | None = None


class ErrorDetail(Shape):
    """Named value that explains an error."""

    key: str | None = None
    value: str | None = None


class BatchErrorBody(Shape):
    """Body of every answer that is an error."""

    code: str | None = None
    message: ErrorMessage | None = None
    values: list[ErrorDetail] | None = None


class AutoUserSpecification(Shape):
    """User that the node makes for a task."""

    scope: AutoUserScope | None = None
    elevation_level: ElevationLevel | None = None


class UserIdentity(Shape):
    """User that a task runs as: a named one or an automatic one, not both."""

    username: str | None = None
    auto_user: AutoUserSpecification | None = None


class ComputeNodeIdentityReference(Shape):
    """Identity that the node uses towards storage or a registry."""

    resource_id: str | None = None


class ApplicationPackageReference(Shape):
    """Application package that the node installs; without version the default one."""

    application_id: str
    version: str | None = None


class AuthenticationTokenSettings(Shape):
    """Wish of a task for a token of its own (14.x)."""

    access: list[AccessScope] | None = None


class ResourceFile(Shape):
    """Input that is placed in the task's directory; exactly one of the three sources is given."""

    auto_storage_container_name: str | None = None
    storage_container_url: str | None = None
    http_url: str | None = None
    blob_prefix: str | None = None
    file_path: str | None = None
    """Relative to the working directory: a file for `httpUrl`, otherwise a directory."""
    file_mode: str | None = None
    """Octal permission bits, such as `0770`."""
    identity_reference: ComputeNodeIdentityReference | None = None


class OutputFileUploadHeader(Shape):
    """HTTP header that is sent along with an upload."""

    name: str
    value: str | None = None


class OutputFileBlobContainerDestination(Shape):
    """Blob container that receives output files."""

    container_url: str
    path: str | None = None
    """Blob name, or prefix when the pattern has a wildcard."""
    identity_reference: ComputeNodeIdentityReference | None = None
    upload_headers: list[OutputFileUploadHeader] | None = None


class OutputFileDestination(Shape):
    """Place where output files go."""

    container: OutputFileBlobContainerDestination | None = None


class OutputFileUploadOptions(Shape):
    """When output files are uploaded."""

    upload_condition: OutputFileUploadCondition


class OutputFile(Shape):
    """Files that the node uploads after the task has run."""

    file_pattern: str
    destination: OutputFileDestination
    upload_options: OutputFileUploadOptions


class ContainerRegistry(Shape):
    """Registry that images are pulled from, with its login."""

    username: str | None = None
    password: Annotated[str, KEPT] | None = None
    registry_server: str | None = None
    """Host name; Docker Hub when absent."""
    identity_reference: ComputeNodeIdentityReference | None = None


class ContainerHostBatchBindMountEntry(Shape):
    """Directory of the node that a container sees (15.x)."""

    source: ContainerHostDataPath | None = None
    is_read_only: bool | None = None


class ContainerSettings(Shape):
    """Container that a task runs in."""

    image_name: str
    container_run_options: str | None = None
    registry: ContainerRegistry | None = None
    working_directory: ContainerWorkingDirectory | None = None
    container_host_batch_bind_mounts: list[ContainerHostBatchBindMountEntry] | None = None
    """Since 15.x; absent means the whole node directory, an empty list nothing."""
