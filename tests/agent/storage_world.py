"""A storage endpoint for tests of transfers."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from azure.storage.blob import ContainerClient

from batchyard.blobs.edge.sas import container_sas

KEY = base64.b64encode(b"key").decode()


@dataclass
class Container:
    """A container of the storage endpoint: the SDK with all rights, and URLs with some."""

    client: ContainerClient
    url: str

    def sas(self, permissions: str = "racwdl", name: str = "data") -> str:
        return f"{self.url}/{name}?{container_sas('account', KEY, name, permissions, datetime.now(UTC) + timedelta(hours=1))}"

    def read(self, name: str) -> bytes:
        return self.client.download_blob(name).readall()

    def names(self) -> list[str]:
        return sorted(self.client.list_blob_names())
