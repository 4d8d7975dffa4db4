"""File systems that a pool mounts on its nodes. Keys and passwords are required from the client and never served."""

from __future__ import annotations

from batchyard.model.common import ComputeNodeIdentityReference, Secret, Shape


class AzureBlobFileSystemConfiguration(Shape):
    """Blob container mounted by blobfuse; opened by a key, a SAS or an identity."""

    account_name: str
    container_name: str
    relative_mount_path: str
    account_key: Secret | None = None
    sas_key: Secret | None = None
    blobfuse_options: str | None = None
    identity_reference: ComputeNodeIdentityReference | None = None


class NFSMountConfiguration(Shape):
    """NFS export."""

    source: str
    relative_mount_path: str
    mount_options: str | None = None


class CIFSMountConfiguration(Shape):
    """SMB share of any server."""

    username: str
    source: str
    relative_mount_path: str
    mount_options: str | None = None
    password: Secret | None = None
    """Required from the client (the engine checks), absent when served."""


class AzureFileShareConfiguration(Shape):
    """Share of Azure Files."""

    account_name: str
    azure_file_url: str
    relative_mount_path: str
    account_key: Secret | None = None
    """Required from the client (the engine checks), absent when served."""
    mount_options: str | None = None


class MountConfiguration(Shape):
    """One file system of exactly one kind."""

    azure_blob_file_system_configuration: AzureBlobFileSystemConfiguration | None = None
    nfs_mount_configuration: NFSMountConfiguration | None = None
    cifs_mount_configuration: CIFSMountConfiguration | None = None
    azure_file_share_configuration: AzureFileShareConfiguration | None = None
