"""The application packages that a node has to have, for all its tasks or for one: which they are is found when it is told of them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from batchyard.engine.checks.packages import find
from batchyard.model.common import ApplicationPackageReference
from batchyard.model.sync import Package
from batchyard.model.task import TaskCreateContent
from batchyard.rules import packages
from batchyard.store.reader import Reader

_task = msgspec.json.Decoder(TaskCreateContent)
_NAMED = b'"applicationPackageReferences"'


def of_task(reader: Reader, body: bytes) -> list[Package]:
    """The packages of a task."""
    return of_references(reader, _task.decode(body).application_package_references or ()) if _NAMED in body else []


def of_references(reader: Reader, references: Iterable[ApplicationPackageReference]) -> list[Package]:
    """The packages that are meant now; those that are not there have no blob."""
    return [_package(reader, reference) for reference in references]


def _package(reader: Reader, reference: ApplicationPackageReference) -> Package:
    application, found = packages.application_of(reference.application_id), find(reader, reference)
    if found is None:
        return Package(application=application, asked=reference.version)
    content = found.blob.rpartition("/")[2].removesuffix(".zip")
    directory = f"{application.lower()}-{found.name}-{content}"
    return Package(application=application, asked=reference.version, directory=directory, blob=found.blob, bytes=found.bytes)
