"""One round with a storage client of Python, by its name: prints "ok" and nothing else.

Run by test_storage.py, with the path of that client.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

URL, ACCOUNT, KEY, CONNECTION = (os.environ[f"TOUR_{name}"] for name in ("URL", "ACCOUNT", "KEY", "CONNECTION"))
HOST = URL.split("//")[1].split("/")[0]
PORT = HOST.rpartition(":")[2]
BIG = os.urandom(5 << 20)


def blob_2() -> None:
    """azure-storage-blob 2.1: the service classes of before 12."""
    from azure.storage.blob import AppendBlobService, BlockBlobService, ContainerPermissions, Include, PageBlobService

    service = BlockBlobService(connection_string=CONNECTION)
    service.create_container("blob2")
    service.create_blob_from_bytes("blob2", "big", BIG, metadata={"k": "v"})
    assert service.get_blob_to_bytes("blob2", "big").content == BIG
    assert [blob.metadata for blob in service.list_blobs("blob2", include=Include(metadata=True))] == [{"k": "v"}]
    snapshot = service.snapshot_blob("blob2", "big").snapshot
    lease = service.acquire_blob_lease("blob2", "big", 15)
    service.set_blob_metadata("blob2", "big", {"k": "2"}, lease_id=lease)
    service.release_blob_lease("blob2", "big", lease)
    assert service.copy_blob("blob2", "copy", service.make_blob_url("blob2", "big")).status == "success"
    token = service.generate_container_shared_access_signature("blob2", ContainerPermissions.READ, datetime.now(UTC) + timedelta(hours=1))
    reader = BlockBlobService(ACCOUNT, sas_token=token, custom_domain=URL)
    assert reader.get_blob_to_bytes("blob2", "copy").content == BIG
    assert service.get_blob_to_bytes("blob2", "big", snapshot=snapshot).content == BIG
    appends = AppendBlobService(connection_string=CONNECTION)
    appends.create_blob("blob2", "log")
    appends.append_block("blob2", "log", b"x")
    pages = PageBlobService(connection_string=CONNECTION)
    pages.create_blob("blob2", "disk", 1024)
    pages.update_page("blob2", "disk", b"p" * 512, 512, 1023)
    assert [(page.start, page.end) for page in pages.get_page_ranges("blob2", "disk")] == [(512, 1023)]
    service.delete_container("blob2")


def blob_12(name: str = "blob12") -> None:
    """azure-storage-blob 12.0, and any later one."""
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(CONNECTION)
    box = service.get_container_client(name)
    box.create_container()
    box.upload_blob("big", BIG, metadata={"k": "v"}, length=len(BIG), overwrite=True)
    blob = box.get_blob_client("big")
    assert blob.get_blob_properties().metadata == {"k": "v"}
    data = blob.download_blob()
    assert (data.readall() if hasattr(data, "readall") else data.content_as_bytes()) == BIG
    snapshot = blob.create_snapshot()
    copy = box.get_blob_client("copy")
    assert copy.start_copy_from_url(blob.url)["copy_status"] == "success"
    lease = copy.acquire_lease(15)
    copy.set_blob_metadata({"n": "1"}, lease=lease)
    lease.release()
    assert sorted(found.name for found in box.list_blobs()) == ["big", "copy"]
    pages = box.get_blob_client("disk")
    pages.create_page_blob(512)
    assert snapshot["snapshot"]
    assert service.get_service_properties() is not None
    service.delete_container(name)


def blob_aio() -> None:
    """The newest azure-storage-blob, asynchronous."""

    async def tour() -> None:
        from azure.storage.blob.aio import BlobServiceClient

        async with BlobServiceClient.from_connection_string(CONNECTION) as service:
            box = await service.create_container("aio")
            await asyncio.gather(*(box.upload_blob(str(number), BIG[:number], overwrite=True) for number in range(20)))
            assert sorted([blob.size async for blob in box.list_blobs()]) == list(range(20))
            await box.upload_blob("big", BIG)
            assert await (await box.download_blob("big")).readall() == BIG
            await service.delete_container("aio")

    asyncio.run(tour())


def queue_2() -> None:
    """azure-storage-queue 2.1."""
    from azure.storage.queue import QueueService

    service = QueueService(connection_string=CONNECTION)
    service.create_queue("queue2")
    service.put_message("queue2", "hello")
    [message] = service.get_messages("queue2")
    assert message.content == "hello"
    service.update_message("queue2", message.id, message.pop_receipt, 0, "again")
    [message] = service.get_messages("queue2")
    service.delete_message("queue2", message.id, message.pop_receipt)
    service.delete_queue("queue2")


def queue_12() -> None:
    """azure-storage-queue 12.1, the first of the new kind that still runs."""
    from azure.storage.queue import QueueServiceClient

    queue = QueueServiceClient.from_connection_string(CONNECTION).create_queue("queue12")
    (queue.send_message if hasattr(queue, "send_message") else queue.enqueue_message)("hello")
    [message] = list(queue.receive_messages())
    assert message.content == "hello"
    queue.delete_message(message)
    queue.delete_queue()


def adlfs() -> None:
    """fsspec over adlfs."""
    from adlfs import AzureBlobFileSystem

    files = AzureBlobFileSystem(connection_string=CONNECTION)
    files.mkdir("adlfs")
    with files.open("adlfs/a/b/one.bin", "wb") as stream:
        stream.write(BIG)
    files.pipe({"adlfs/a/two": b"2", "adlfs/c/three": b"3"})
    assert files.cat("adlfs/a/b/one.bin") == BIG
    assert sorted(files.find("adlfs")) == ["adlfs/a/b/one.bin", "adlfs/a/two", "adlfs/c/three"]
    assert sorted(files.ls("adlfs/a", detail=False)) == ["adlfs/a/b", "adlfs/a/two"]
    assert files.isdir("adlfs/a")
    files.mv("adlfs/a/two", "adlfs/a/moved")
    files.cp("adlfs/c", "adlfs/d", recursive=True)
    assert files.cat("adlfs/d/three") == b"3"
    files.rm("adlfs/a", recursive=True)
    assert not files.exists("adlfs/a")
    files.rmdir("adlfs")


def obstore() -> None:
    """obstore: put, get, ranges, offset lists, copy, rename, delete, create only."""
    import obstore
    from azure.storage.blob import BlobServiceClient
    from obstore.exceptions import AlreadyExistsError
    from obstore.store import AzureStore

    BlobServiceClient.from_connection_string(CONNECTION).create_container("obstore")
    store = AzureStore(container_name="obstore", account_name=ACCOUNT, account_key=KEY, endpoint=URL, client_options={"allow_http": True})
    for number in range(5):
        obstore.put(store, f"n/{number}", str(number).encode())
    obstore.put(store, "big", BIG, chunk_size=1 << 20)
    assert bytes(obstore.get(store, "big").bytes()) == BIG
    assert bytes(obstore.get_range(store, "big", start=5, length=10)) == BIG[5:15]
    listed = [entry["path"] for page in obstore.list(store, "n", offset="n/2") for entry in page]
    assert listed == ["n/3", "n/4"]
    obstore.copy(store, "n/0", "n/copy")
    obstore.rename(store, "n/1", "n/renamed")
    try:
        obstore.put(store, "n/0", b"x", mode="create")
        raise AssertionError("it was there")
    except AlreadyExistsError:
        pass
    obstore.delete(store, ["n/0", "n/2", "n/copy"])
    assert [entry["path"] for page in obstore.list(store, "n") for entry in page] == ["n/3", "n/4", "n/renamed"]


def deltalake() -> None:
    """Delta Lake: appends at the same time, vacuum."""
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow as pa
    from azure.storage.blob import BlobServiceClient
    from deltalake import DeltaTable, write_deltalake

    BlobServiceClient.from_connection_string(CONNECTION).create_container("delta")
    options = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": URL, "allow_http": "true"}

    def append(number: int) -> None:
        write_deltalake("az://delta/table", pa.table({"n": [number]}), mode="append", storage_options=options)

    append(0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(1, 9)))
    table = DeltaTable("az://delta/table", storage_options=options)
    assert sorted(table.to_pyarrow_table()["n"].to_pylist()) == list(range(9))
    write_deltalake("az://delta/table", pa.table({"n": [1]}), mode="overwrite", storage_options=options)
    table = DeltaTable("az://delta/table", storage_options=options)
    assert len(table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)) == 9
    assert table.to_pyarrow_table()["n"].to_pylist() == [1]


def pyarrow() -> None:
    """pyarrow's own file system: flat, then hierarchical with move, on host names."""
    from azure.storage.blob import AccountSasPermissions, BlobServiceClient, ResourceTypes, generate_account_sas
    from pyarrow import fs

    def files(authorities: tuple[str, str]) -> fs.AzureFileSystem:
        blob, dfs = authorities
        names = {"blob_storage_authority": blob, "dfs_storage_authority": dfs, "blob_storage_scheme": "http", "dfs_storage_scheme": "http"}
        return fs.AzureFileSystem(ACCOUNT, account_key=KEY, **names)

    def fill(arrow: fs.AzureFileSystem, box: str) -> None:
        service.create_container(box)
        arrow.create_dir(f"{box}/d/e", recursive=True)
        with arrow.open_output_stream(f"{box}/d/e/f") as stream:
            stream.write(b"hello")
        arrow.copy_file(f"{box}/d/e/f", f"{box}/d/e/g")
        kinds = [info.type for info in arrow.get_file_info([f"{box}/d", f"{box}/d/e/g", f"{box}/none"])]
        assert kinds == [fs.FileType.Directory, fs.FileType.File, fs.FileType.NotFound]
        assert sorted(info.path for info in arrow.get_file_info(fs.FileSelector(box, recursive=True))) == [
            f"{box}/d",
            f"{box}/d/e",
            f"{box}/d/e/f",
            f"{box}/d/e/g",
        ]

    service = BlobServiceClient.from_connection_string(CONNECTION)
    flat = files((HOST, HOST))
    fill(flat, "arrow-flat")
    flat.delete_dir("arrow-flat/d")
    everything = AccountSasPermissions.from_string("rwdlac")
    soon = datetime.now(UTC) + timedelta(hours=1)
    token = generate_account_sas(ACCOUNT, KEY, ResourceTypes(service=True), everything, soon)
    for value in ("true", "false"):
        body = f"<StorageServiceProperties><IsHnsEnabled>{value}</IsHnsEnabled></StorageServiceProperties>".encode()
        request = urllib.request.Request(f"{URL}/?restype=service&comp=properties&{token}", data=body, method="PUT")
        urllib.request.urlopen(request).close()
        if value == "true":
            deep = files((f".blob.localhost:{PORT}", f".dfs.localhost:{PORT}"))
            fill(deep, "arrow-deep")
            deep.move("arrow-deep/d/e/g", "arrow-deep/d/e/h")
            deep.move("arrow-deep/d/e", "arrow-deep/d/moved")
            assert deep.open_input_stream("arrow-deep/d/moved/h").read() == b"hello"
            deep.delete_dir_contents("arrow-deep/d/moved")
            deep.delete_dir("arrow-deep/d")


def datalake() -> None:
    """azure-storage-file-datalake."""
    from azure.storage.filedatalake import DataLakeServiceClient

    lake = DataLakeServiceClient(URL, credential={"account_name": ACCOUNT, "account_key": KEY}).create_file_system("lake")
    lake.create_directory("d").create_file("f").upload_data(BIG, overwrite=True)
    lake.get_directory_client("d").rename_directory("lake/e")
    assert lake.get_file_client("e/f").download_file().readall() == BIG
    lake.delete_directory("e")
    lake.delete_file_system()


TOURS: dict[str, Callable[[], None]] = {
    "azure-storage-blob 2.1.0": blob_2,
    "azure-storage-blob 12.0.0": blob_12,
    "azure-storage-blob": lambda: blob_12("newest"),
    "azure-storage-blob (aio)": blob_aio,
    "azure-storage-queue 2.1.0": queue_2,
    "azure-storage-queue 12.1.0": queue_12,
    "azure-storage-file-datalake": datalake,
    "adlfs": adlfs,
    "obstore": obstore,
    "deltalake": deltalake,
    "pyarrow": pyarrow,
}

if __name__ == "__main__":
    assert base64.b64decode(KEY)
    TOURS[sys.argv[1]]()
    print("ok")
