"""Files on their way to tasks and back: one container of the account's storage, reached by nodes through signed URLs.

Inputs are named by their content, so that the same file is sent once; outputs lie below a name of the submission's own.
"""

from __future__ import annotations

import base64
import hashlib
import io
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchyard.blobs.edge.sas import container_sas
from batchyard.cli.boxes import Box
from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient, ContainerClient

    from batchyard.cli.client import Client

CONTAINER = "batchyard-submit"
VALID = timedelta(days=30)
"""How long signed URLs are good: tasks may wait, and may be run again."""


FOR_YEARS = timedelta(days=3653)
"""Those of what a schedule runs again and again."""


def account(connection_string: str | None) -> BlobServiceClient:
    """The storage account. Raises Problem when it is not known."""
    from azure.storage.blob import BlobServiceClient

    if not connection_string:
        raise Problem("files need a storage account; set AZURE_STORAGE_CONNECTION_STRING")
    try:
        return BlobServiceClient.from_connection_string(connection_string)
    except ValueError as error:
        raise Problem(f"AZURE_STORAGE_CONNECTION_STRING is not a connection string ({error})") from None


class Known(NamedTuple):
    """What a connection string says."""

    name: str
    key: str
    endpoint: str
    queues: str
    """Where its queues are."""


def known(connection_string: str | None) -> Known:
    """Read a connection string; the SDK, which takes long to import, is left to those who need more than a signature. Raises Problem."""
    parts = dict(part.split("=", 1) for part in (connection_string or "").split(";") if "=" in part)
    named = {name.lower(): value for name, value in parts.items()}
    suffix, protocol = named.get("endpointsuffix", "core.windows.net"), named.get("defaultendpointsprotocol", "https")
    try:
        name, key = named["accountname"], named["accountkey"]
        base64.b64decode(key, validate=True)
    except (KeyError, ValueError):
        account(connection_string)  # has a better sentence for most
        raise Problem("AZURE_STORAGE_CONNECTION_STRING has no AccountName and AccountKey, which files need") from None
    blobs, queues = (named.get(f"{what}endpoint", f"{protocol}://{name}.{what}.{suffix}").rstrip("/") for what in ("blob", "queue"))
    return Known(name, key, blobs, queues)


class Storage:
    """The container that submissions share. Raises Problem where the storage account refuses or is away."""

    def __init__(self, connection_string: str | None, valid: timedelta = VALID) -> None:
        self._given, self._account, self._valid = connection_string, known(connection_string), valid

    @property
    def url(self) -> str:
        """The account's address."""
        return self._account.endpoint

    @cached_property
    def _container(self) -> ContainerClient:
        return account(self._given).get_container_client(CONTAINER)

    def prepare(self) -> None:
        """Make the container unless it is there."""
        if self._reading(CONTAINER, None).is_there():
            return
        from azure.core.exceptions import AzureError, ResourceExistsError

        try:
            self._container.create_container()
        except ResourceExistsError:
            pass
        except AzureError as error:
            raise _problem(error) from None

    def bring(self, file: Path | bytes) -> str:
        """Upload a file unless its content is there already; the URL that a node reads it by."""
        from azure.core.exceptions import AzureError
        from azure.storage.blob import generate_blob_sas

        try:
            with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as source:
                name = "in/" + hashlib.file_digest(source, "sha256").hexdigest()
                source.seek(0)
                blob = self._container.get_blob_client(name)
                if not blob.exists():
                    blob.upload_blob(source, overwrite=True)
        except OSError as error:
            raise Problem(f"cannot read {file!s:.200} ({error.strerror})") from None
        except AzureError as error:
            raise _problem(error) from None
        allowed: dict[str, Any] = {"account_key": self._account.key, "expiry": datetime.now(UTC) + self._valid}
        return f"{blob.url}?{generate_blob_sas(self._account.name, CONTAINER, name, permission='r', **allowed)}"

    def drop_box(self) -> str:
        """The URL by which nodes put outputs into the container."""
        return f"{self.url}/{CONTAINER}?{self._signature(CONTAINER, 'cw')}"

    def reader(self, batch: Client, container: str = CONTAINER) -> Box:
        """The blobs of a container, to be read."""
        return self._reading(container, batch)

    def _reading(self, container: str, batch: Client | None) -> Box:
        return Box(f"{self.url}/{container}", self._signature(container, "rl"), batch)

    def _signature(self, container: str, permissions: str) -> str:
        return container_sas(self._account.name, self._account.key, container, permissions, datetime.now(UTC) + self._valid)


def _problem(error: Exception) -> Problem:
    text = str(error).split("\n", 1)[0].rstrip(".")
    return Problem(f"the storage account does not take part ({text}); is AZURE_STORAGE_CONNECTION_STRING right?")
