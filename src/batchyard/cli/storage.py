"""Files on their way to tasks and back: one container of the account's storage, reached by nodes through signed URLs.

Inputs are named by their content, so that the same file is sent once; outputs lie below a name of the submission's own.
"""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchyard.cli.boxes import Box
from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient, ContainerClient

CONTAINER = "batchyard-submit"
VALID = timedelta(days=30)
"""How long signed URLs are good: tasks may wait, and may be run again."""


def account(connection_string: str | None) -> BlobServiceClient:
    """The storage account. Raises Problem when it is not known."""
    from azure.storage.blob import BlobServiceClient

    if not connection_string:
        raise Problem("files need a storage account; set AZURE_STORAGE_CONNECTION_STRING")
    try:
        return BlobServiceClient.from_connection_string(connection_string)
    except ValueError as error:
        raise Problem(f"AZURE_STORAGE_CONNECTION_STRING is not a connection string ({error})") from None


class Storage:
    """The container that submissions share. Raises Problem where the storage account refuses or is away."""

    def __init__(self, connection_string: str | None) -> None:
        known = account(connection_string)
        self._container: ContainerClient = known.get_container_client(CONTAINER)
        self._account = str(known.account_name)

    @property
    def url(self) -> str:
        """The account's address."""
        return str(self._container.url.removesuffix(f"/{CONTAINER}"))

    def prepare(self) -> None:
        """Make the container unless it is there."""
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
        signature = generate_blob_sas(self._account, CONTAINER, name, permission="r", **self._allowed())
        return f"{blob.url}?{signature}"

    def drop_box(self) -> str:
        """The URL by which nodes put outputs into the container."""
        from azure.storage.blob import generate_container_sas

        return f"{self._container.url}?{generate_container_sas(self._account, CONTAINER, permission='cw', **self._allowed())}"

    def reader(self, container: str = CONTAINER) -> Box:
        """The blobs of a container, to be read."""
        from azure.storage.blob import generate_container_sas

        url = f"{self.url}/{container}"
        return Box(url, generate_container_sas(self._account, container, permission="rl", **self._allowed()))

    def _allowed(self) -> dict[str, Any]:
        return {"account_key": self._container.credential.account_key, "expiry": datetime.now(UTC) + VALID}


def _problem(error: Exception) -> Problem:
    text = str(error).split("\n", 1)[0].rstrip(".")
    return Problem(f"the storage account does not take part ({text}); is AZURE_STORAGE_CONNECTION_STRING right?")
