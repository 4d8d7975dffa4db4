"""What a caller may do, as its signature says; decided for one operation by `require`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from batchyard.blobs.base import BlobError


class Scope(StrEnum):
    """What a signature reaches."""

    KEY = "key"  # holder of the account key: everything
    ACCOUNT = "account"
    CONTAINER = "container"
    BLOB = "blob"
    PUBLIC = "public"  # nobody signed: a container that is open to readers


class Level(StrEnum):
    """What an operation is about, in the letters of an account SAS (`srt`)."""

    SERVICE = "s"
    CONTAINER = "c"
    OBJECT = "o"


def unsigned() -> BlobError:
    """The answer to who did not sign."""
    return BlobError("NoAuthenticationInformation", headers={"www-authenticate": "SharedKey"})


@dataclass(frozen=True, slots=True)
class Need:
    """What an operation asks for: any one of the `letters`; `by_service_sas` also lets a SAS of the container in."""

    level: Level
    letters: str
    by_service_sas: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """An authenticated caller; `overrides` are response headers that a service SAS dictates."""

    scope: Scope
    permissions: str = ""
    resource_types: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)

    def require(self, need: Need) -> None:
        """Raise unless the caller may; operations without letters are for holders of the key."""
        if self.scope is Scope.KEY:
            return
        if self.scope is Scope.PUBLIC:
            self._require_reading(need)
        if self.scope is Scope.ACCOUNT and need.level not in self.resource_types:
            raise BlobError("AuthorizationResourceTypeMismatch")
        if self.scope is Scope.CONTAINER and need.level is not Level.OBJECT and not need.by_service_sas:
            raise BlobError("AuthorizationFailure")
        if self.scope is Scope.BLOB and need.level is not Level.OBJECT:
            raise BlobError("AuthorizationFailure")
        if not self.allows(need.letters):
            raise BlobError("AuthorizationPermissionMismatch")

    def _require_reading(self, need: Need) -> None:
        """Who did not sign may read blobs, and with the letter l lists and the container; the refusal is that of a closed container."""
        if need.letters not in ("r", "l") or need.level is Level.SERVICE or (need.level is Level.CONTAINER and "l" not in self.permissions):
            raise unsigned()

    def allows(self, letters: str) -> bool:
        """Whether any one of the letters is granted."""
        return self.scope is Scope.KEY or any(letter in self.permissions for letter in letters)


PUBLIC = Grant(Scope.PUBLIC, "r")
