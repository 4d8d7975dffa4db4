"""Files of tasks and nodes as lists show them."""

from __future__ import annotations

from batchyard.model.common import Shape, Timestamp


class FileProperties(Shape):
    """Facts about a file."""

    last_modified: Timestamp
    content_length: str
    """Bytes; a 64-bit number, text on the wire."""
    creation_time: Timestamp | None = None
    content_type: str | None = None
    file_mode: str | None = None
    """Octal type and permission bits, Linux only."""


class NodeFile(Shape):
    """File or directory on a node."""

    name: str | None = None
    """Path relative to the task's or node's directory."""
    url: str | None = None
    is_directory: bool | None = None
    properties: FileProperties | None = None
    """Absent for directories."""
