"""Names of applications and of their packages, and what tasks are told of them (contract 4.6)."""

from __future__ import annotations

import re

MOST_APPLICATIONS, MOST_VERSIONS = 20, 40
"""Applications of an account, and packages of an application."""
MOST_REFERENCES = 10
"""Of a pool, of a task."""
_APPLICATION = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_FULL = re.compile(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Batch/batchAccounts/[^/]+/applications/([^/]+)", re.I)
_SIGNS = str.maketrans(".-#", "___")


def is_application(name: str) -> bool:
    """True for what an application may be called."""
    return _APPLICATION.fullmatch(name) is not None


def is_version(name: str) -> bool:
    """True for what a version may be called."""
    return _VERSION.fullmatch(name) is not None


def application_of(reference: str) -> str:
    """The application that a reference names, which may be the full path that the management plane knows it by."""
    full = _FULL.fullmatch(reference)
    return full[1] if full else reference


def variables(application: str, version: str | None) -> list[str]:
    """Names of the variables with the directory of a package; the documentation spells ids both as they are and in lower case."""
    name = application if version is None else f"{application}_{version}"
    return list(dict.fromkeys(f"AZ_BATCH_APP_PACKAGE_{each.translate(_SIGNS)}" for each in (name, name.lower())))
