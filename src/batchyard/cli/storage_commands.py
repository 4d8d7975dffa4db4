"""`batchyard storage`: containers and blobs of the account's storage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from batchyard.cli import fetch, output, select, storage
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.progress import Progress
from batchyard.cli.streams import confirmed, many

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

Shown = Mapping[str, Any]
_CONTAINERS = (Column("CONTAINER", lambda found, now: found["name"], keep=9), Column("CHANGED", lambda found, now: found["lastModified"]))
_BLOBS = (
    Column("BLOB", lambda found, now: found["name"], keep=9),
    Column("BYTES", lambda found, now: found["contentLength"], number=True, keep=5),
    Column("CHANGED", lambda found, now: found["lastModified"]),
)


def list_(batch: Client, *, container: str | None, prefix: str | None, shown: Shown) -> None:
    """List the containers, or the blobs of one."""
    account = storage.account(batch.storage)

    def containers() -> Iterator[Sequence[Any]]:
        for one in account.list_containers():
            yield [output.raw({"name": one.name, "lastModified": one.last_modified})]

    def blobs() -> Iterator[Sequence[Any]]:
        for one in account.get_container_client(container or "").list_blobs(name_starts_with=prefix):
            yield [output.raw({"name": one.name, "contentLength": one.size, "lastModified": one.last_modified, "eTag": one.etag})]

    with _refusals():
        output.show(blobs if container else containers, _BLOBS if container else _CONTAINERS, shown)


@contextmanager
def _refusals() -> Iterator[None]:
    from azure.core.exceptions import AzureError

    try:
        yield
    except AzureError as error:
        code = getattr(error, "error_code", None)
        text = str(error).split("\n", 1)[0].rstrip(".")
        raise Problem(f"{text} ({getattr(code, 'value', code)})" if code else text) from None


def create(batch: Client, *, container: str) -> None:
    """Make a container."""
    with _refusals():
        storage.account(batch.storage).create_container(container)
    print(container)


def delete(batch: Client, *, container: str, blobs: Sequence[str], yes: bool | None) -> None:
    """Delete a container, or blobs of one."""
    with _refusals():
        client = storage.account(batch.storage).get_container_client(container)
        names = list(client.list_blob_names())
        if not blobs:
            confirmed(f"Delete the container {container} with {many(len(names), 'blob')}?", yes=bool(yes))
            client.delete_container()
            print(f"the container {container} is deleted")
            return
        lost = [name for name in names if any(fnmatchcase(name, blob) for blob in blobs)]
        if not lost:
            raise Problem(f"{container} has no blob {' '.join(blobs)}")
        confirmed(f"Delete {many(len(lost), 'blob')} of {container}?", yes=bool(yes))
        for name in lost:
            client.delete_blob(name)
            print(name)


def copy(batch: Client, *, source: str, target: str) -> None:
    """Copy a file into a container, or blobs out of it."""
    account = storage.account(batch.storage)
    there, here = _place(source), _place(target)
    if (there is None) == (here is None):
        raise Usage("one of the two is CONTAINER:BLOB, the other a path")
    with _refusals():
        if here is not None:
            _upload(account, Path(source), *here)
        elif there is not None:
            _download(batch, *there, Path(target))


def _place(text: str) -> tuple[str, str] | None:
    """(container, blob) of CONTAINER:BLOB; a path that is there is a path."""
    container, colon, blob = text.partition(":")
    return (container, blob) if colon and "/" not in container and not Path(text).exists() else None


def _upload(account: BlobServiceClient, source: Path, container: str, blob: str) -> None:
    if not source.exists():
        raise Problem(f"there is no file {source}")
    files = sorted(one for one in source.rglob("*") if one.is_file()) if source.is_dir() else [source]
    client = account.get_container_client(container)
    with Progress("uploading", len(files)) as progress:
        for file in files:
            below = file.relative_to(source.parent).as_posix()
            name = blob if blob and not blob.endswith("/") and not source.is_dir() else str(PurePosixPath(blob) / below)
            with file.open("rb") as data:
                client.upload_blob(name, data, overwrite=True)
            progress.add()
            print(f"{container}:{name}")


def _download(batch: Client, container: str, blob: str, target: Path) -> None:
    box = storage.Storage(batch.storage).reader(batch, container)
    start = blob if not select.is_glob(blob) else ""
    found = [
        one for one in box.blobs(start) if one.name == blob or fnmatchcase(one.name, blob) or one.name.startswith(f"{blob.rstrip('/')}/")
    ]
    if not found:
        raise Problem(f"{container} has no blob {blob}")
    single = len(found) == 1 and found[0].name == blob and not target.is_dir()
    for one in found:
        into, name = (target.parent, target.name) if single else (target, one.name)
        print(fetch.save(one, into.resolve(), name, partial(box.read, one.name)))
