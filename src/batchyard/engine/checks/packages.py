"""References to application packages: their form, and for pools that there is such a package (contract 4.6)."""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.model.common import ApplicationPackageReference
from batchyard.model.errors import BatchError, invalid_property
from batchyard.rules import packages
from batchyard.store import applications as rows
from batchyard.store.applications import PackageRow
from batchyard.store.reader import Reader

_NAME = "applicationPackageReferences"


def check(references: Sequence[ApplicationPackageReference] | None) -> None:
    """References that could be satisfied one day. Raises InvalidPropertyValue."""
    if not references:
        return
    if len(references) > packages.MOST_REFERENCES:
        raise invalid_property(_NAME, len(references), f"There are at most {packages.MOST_REFERENCES} references")
    seen = set[tuple[str, str | None]]()
    for reference in references:
        application, version = packages.application_of(reference.application_id), reference.version
        if not packages.is_application(application):
            raise invalid_property(f"{_NAME}.applicationId", reference.application_id[:100], "The value is not the id of an application")
        if version is not None and not packages.is_version(version):
            raise invalid_property(f"{_NAME}.version", version[:100], "The value is not a version of an application")
        if (key := (application.lower(), version and version.lower())) in seen:
            raise invalid_property(_NAME, reference.application_id[:100], "The package is named twice")
        seen.add(key)


def check_there(reader: Reader, references: Sequence[ApplicationPackageReference] | None) -> None:
    """Refuse references to packages that are not there. Raises InvalidApplicationPackageReferences."""
    missing = [reference for reference in references or () if find(reader, reference) is None]
    if missing:
        error = BatchError("InvalidApplicationPackageReferences")
        error.values = {reference.application_id[:300]: "The specified application package does not exist." for reference in missing}
        raise error


def find(reader: Reader, reference: ApplicationPackageReference) -> PackageRow | None:
    """The package that a reference names now, which without a version is the default one; None when there is none."""
    application = rows.find(reader, packages.application_of(reference.application_id))
    version = None if application is None else reference.version or application.default_version
    return None if application is None or version is None else rows.package(reader, application.pk, version)
