"""Storage accounts beside the linked ones: made and removed by the operator, reached in every way, with all of their own."""

from __future__ import annotations

import base64
import hmac
import secrets
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobSasPermissions,
    BlobServiceClient,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
)
from azure.storage.filedatalake import DataLakeServiceClient
from azure.storage.queue import QueueServiceClient
from tests.api.conftest import Raw, pages
from tests.conftest import Server, wait_for

from batchyard.blobs.edge import server as blob_endpoint
from batchyard.blobs.queues import edge as queue_endpoint
from batchyard.cli import daemon
from batchyard.model.endpoints import Endpoints, connection_string

STORAGE = "/batchyard/v1/storageaccounts"
LARGE = b"x" * 100_000


def fresh() -> str:
    return f"s{secrets.token_hex(5)}"


class Account(NamedTuple):
    """A storage account as its clients know it."""

    name: str
    keys: tuple[str, str]
    found: Endpoints

    def blobs(self, number: int = 0, **more: Any) -> BlobServiceClient:
        return BlobServiceClient.from_connection_string(connection_string(self.found, self.name, self.keys[number]), retry_total=0, **more)

    def queues(self, number: int = 0) -> QueueServiceClient:
        return QueueServiceClient.from_connection_string(connection_string(self.found, self.name, self.keys[number]), retry_total=0)

    def sas(self, container: str, blob: str, letters: str = "r", number: int = 0, **more: Any) -> str:
        until = datetime.now(UTC) + timedelta(hours=1)
        allowed = BlobSasPermissions.from_string(letters)
        return generate_blob_sas(self.name, container, blob, account_key=self.keys[number], permission=allowed, expiry=until, **more)


class Shop:
    """A server, and its operator."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.operator = Raw(server.endpoint, "$operator", (server.directory / "operator.key").read_text().strip())
        self.default = Raw(server.endpoint, server.account, server.key)

    def make(self, name: str | None = None, **more: str) -> Account:
        name = name or fresh()
        made = self.operator("POST", STORAGE, {"name": name, **more})
        assert made.status == 201, made.body
        return self.known(name)

    def known(self, name: str) -> Account:
        keys = self.operator("GET", f"{STORAGE}/{name}/keys").json
        shown = self.operator("GET", f"{STORAGE}/{name}").json
        return Account(name, (keys["primary"], keys["secondary"]), Endpoints(**shown["endpoints"]))

    def gone(self, name: str) -> None:
        assert self.operator("DELETE", f"{STORAGE}/{name}").status == 202
        wait_for(lambda: self.operator("GET", f"{STORAGE}/{name}").status == 404, "the storage account to be gone")


@pytest.fixture(scope="module", autouse=True)
def names() -> Iterator[None]:
    """All names below localhost are this machine, as with libnss-myhostname."""
    asked = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda host, *more, **named: asked(_here(host), *more, **named))
        yield


def _here(host: Any) -> Any:
    text = host.decode() if isinstance(host, bytes) else host
    return "127.0.0.1" if isinstance(text, str) and text.endswith(".localhost") else host


@pytest.fixture(scope="module", params=[(), ("--domain", "localhost")], ids=["by path", "by host"])
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    running = Server("--queue-port", "0", "--table-port", "0", *request.param, nodes=1)
    yield Shop(running)
    running.stop()


@pytest.fixture(scope="module")
def one(shop: Shop) -> Account:
    return shop.make()


def test_blobs_files_and_queues_of_its_own(shop: Shop, one: Account) -> None:
    blobs, linked = one.blobs(), BlobServiceClient.from_connection_string(shop.server.storage_connection_string)
    box = blobs.create_container("own")
    box.upload_blob("small", b"small")
    box.upload_blob("large", LARGE)
    assert box.download_blob("large").readall() == LARGE
    assert "own" not in [each.name for each in linked.list_containers()]
    words = connection_string(one.found, one.name, one.keys[0])
    files = DataLakeServiceClient.from_connection_string(words)
    assert {path.name for path in files.get_file_system_client("own").get_paths()} == {"small", "large"}
    queue = one.queues().create_queue("own")
    queue.send_message("hello")
    assert [each.content for each in queue.receive_messages()] == ["hello"]
    assert [each.name for each in one.queues().list_queues()] == ["own"]


def test_names_that_are_taken_or_are_paths_are_refused(shop: Shop, one: Account) -> None:
    for name in (one.name, shop.server.storage_account):
        shop.operator("POST", STORAGE, {"name": name}).assert_error(409, "StorageAccountExists")
    for name in ("pools", "jobs", "queue", "table", "agent", "accounts", "batchyard", "jobschedules", "applications", "healthz"):
        shop.operator("POST", STORAGE, {"name": name}).assert_error(400, "InvalidPropertyValue", PropertyName="name")
    for name in ("ab", "UPPER", "a-b", "../etc", "x" * 25):
        shop.operator("POST", STORAGE, {"name": name}).assert_error(400, "InvalidPropertyValue", PropertyName="name")
    shop.operator("POST", STORAGE, {"name": fresh(), "account": "nobody"}).assert_error(400, "InvalidPropertyValue", PropertyName="account")
    shop.operator("GET", f"{STORAGE}/nobody").assert_error(404, "StorageAccountNotFound")


def test_only_the_operator_makes_and_removes_and_an_account_has_its_linked_one(shop: Shop, one: Account) -> None:
    linked = shop.server.storage_account
    for method, path, body in (
        ("POST", STORAGE, {"name": fresh()}),
        ("GET", STORAGE, None),
        ("GET", f"{STORAGE}/{one.name}", None),
        ("GET", f"{STORAGE}/{one.name}/keys", None),
        ("POST", f"{STORAGE}/{one.name}/keys/primary/renew", {}),
        ("GET", f"{STORAGE}/nobody/keys", None),
        ("DELETE", f"{STORAGE}/{one.name}", None),
        ("DELETE", f"{STORAGE}/{linked}", None),
    ):
        shop.default(method, path, body).assert_error(403, "InsufficientAccountPermissions")
    assert shop.default("GET", f"{STORAGE}/{linked}").json["linked"] is True
    assert shop.default("GET", f"{STORAGE}/{linked}/keys").json["primary"] == shop.server.storage_key
    shop.operator("DELETE", f"{STORAGE}/{linked}").assert_error(403, "Forbidden")
    shop.operator("POST", f"{STORAGE}/{one.name}/keys/third/renew", {}).assert_error(400, "InvalidPropertyValue", PropertyName="keyName")


def test_they_are_listed_in_pages(shop: Shop, one: Account) -> None:
    made = [shop.make().name for _ in range(3)]
    listed = [each["name"] for page in pages(shop.operator, STORAGE) for each in page]
    assert [each for each in listed if each in {one.name, *made, shop.server.storage_account}] == [
        shop.server.storage_account,
        one.name,
        *made,
    ]
    for name in made:
        shop.gone(name)


@pytest.mark.parametrize("number", [0, 1], ids=["primary", "secondary"])
@pytest.mark.parametrize("linked", [False, True], ids=["beside", "linked"])
def test_renewing_one_key_leaves_the_other(shop: Shop, number: int, linked: bool) -> None:
    before = shop.known(shop.server.storage_account) if linked else shop.make()
    caller = shop.default if linked else shop.operator
    container = fresh()
    before.blobs().create_container(container).upload_blob("b", b"1")
    sas = [before.sas(container, "b", number=each) for each in (0, 1)]

    def reads(client: BlobServiceClient) -> bool:
        try:
            return client.get_blob_client(container, "b").download_blob().readall() == b"1"
        except ClientAuthenticationError:
            return False

    def signed(number: int) -> BlobServiceClient:
        return BlobServiceClient(before.found.blob, credential=sas[number], retry_total=0)

    assert [reads(before.blobs(each)) for each in (0, 1)] == [reads(signed(each)) for each in (0, 1)] == [True, True]
    assert caller("POST", f"{STORAGE}/{before.name}/keys/{('primary', 'secondary')[number]}/renew", {}).status == 200
    after = shop.known(before.name)
    assert after.keys[1 - number] == before.keys[1 - number]
    assert after.keys[number] != before.keys[number]
    wanted = [each != number for each in (0, 1)]
    assert [reads(before.blobs(each)) for each in (0, 1)] == [reads(signed(each)) for each in (0, 1)] == wanted
    assert [reads(after.blobs(each)) for each in (0, 1)] == [True, True]
    assert sum(1 for _ in after.queues(number).list_queues()) >= 0
    if linked and number == 0:
        shop.server.storage_key = after.keys[0]


def test_nothing_of_one_is_reachable_with_what_belongs_to_another(shop: Shop, one: Account) -> None:
    other = shop.make()
    for account in (one, other):
        account.blobs().create_container("same").upload_blob("b", account.name.encode())
        account.queues().create_queue("same").send_message(account.name)
    linked = shop.known(shop.server.storage_account)
    for mine, theirs in ((one, other), (other, one), (one, linked), (linked, one)):
        until = datetime.now(UTC) + timedelta(hours=1)
        whole = generate_account_sas(
            mine.name,
            mine.keys[0],
            ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions.from_string("rwdl"),
            until,
        )
        for credential in (
            {"account_name": mine.name, "account_key": mine.keys[0]},
            {"account_name": theirs.name, "account_key": mine.keys[1]},
            mine.sas("same", "b", "rwd"),
            whole,
        ):
            blobs = BlobServiceClient(theirs.found.blob, credential=credential, retry_total=0)
            queues = QueueServiceClient(theirs.found.queue, credential=credential, retry_total=0)
            for wrong in (
                lambda c=blobs: c.get_blob_client("same", "b").download_blob().readall(),
                lambda c=blobs: c.get_blob_client("same", "b").upload_blob(b"theirs", overwrite=True),
                lambda c=blobs: list(c.list_containers()),
                lambda c=queues: list(c.get_queue_client("same").peek_messages()),
                lambda c=queues: c.get_queue_client("same").send_message("theirs"),
            ):
                with pytest.raises(HttpResponseError) as refused:
                    wrong()
                assert refused.value.status_code == 403
    for account in (one, other):
        assert account.blobs().get_blob_client("same", "b").download_blob().readall() == account.name.encode()
        assert [each.content for each in account.queues().get_queue_client("same").peek_messages()] == [account.name]


def _signed(mine: Account, account: str, method: str, target: str, headers: dict[str, str]) -> dict[str, str]:
    """Headers of a request that is signed in the name of an account with a key of `mine`."""
    sent = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02", **headers}
    path, _, query = target.partition("?")
    lines = [method, *[""] * 11, *(f"{name}:{sent[name]}" for name in sorted(sent) if name.startswith("x-ms-")), f"/{account}{path}"]
    lines += [f"{name}:{value}" for name, value in sorted(parse_qsl(query))]
    digest = hmac.digest(base64.b64decode(mine.keys[0]), "\n".join(lines).encode(), "sha256")
    return {**sent, "authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}


def _targets(account: str) -> Iterator[tuple[str, str]]:
    """Method and target of every operation on blobs, files and queues of an account."""
    below = {blob_endpoint.Level.SERVICE: "/", blob_endpoint.Level.CONTAINER: "/same", blob_endpoint.Level.OBJECT: "/same/b"}
    for row in (*blob_endpoint.OPERATIONS, *blob_endpoint.PATH_OPERATIONS):
        words = {"resource": row.restype} if row in blob_endpoint.PATH_OPERATIONS else {"restype": row.restype, "comp": row.comp}
        for method in row.methods.split():
            yield method, f"/{account}{below[row.level]}?{urlencode({name: word for name, word in words.items() if word})}"
    for each in queue_endpoint.OPERATIONS:
        path = {"service": "/", "queue": "/same", "messages": "/same/messages", "message": "/same/messages/x"}[each.place]
        for method in each.methods.split():
            yield method, f"/queue/{account}{path}?{'comp=list' if each.query == 'list' else ''}"


def test_every_operation_refuses_keys_and_signatures_of_other_storage_accounts(shop: Shop, one: Account) -> None:
    other, linked = shop.make(), shop.known(shop.server.storage_account)
    raw = Raw(shop.server.endpoint, "", "")
    empty = {"content-length": "0"}
    until = datetime.now(UTC) + timedelta(hours=1)
    for mine, theirs in ((one, other), (linked, one), (one, linked)):
        kinds, letters = ResourceTypes(service=True, container=True, object=True), AccountSasPermissions.from_string("rwdlacupxtfy")
        whole = generate_account_sas(mine.name, mine.keys[0], kinds, letters, until)
        found = set()
        for method, target in _targets(theirs.name):
            for account in (mine.name, theirs.name):
                found.add(raw.send(method, target, _signed(mine, account, method, target, empty)).status)
            for sas in (whole, mine.sas("same", "b", "racwd")):
                found.add(raw.send(method, f"{target}{'' if target.endswith('?') else '&'}{sas}", empty).status)
        assert found == {403}


def test_copies_between_them_by_signature_of_the_source(shop: Shop, one: Account) -> None:
    other = shop.make()
    source, target = fresh(), fresh()
    one.blobs().create_container(source).upload_blob("b", LARGE, metadata={"kept": "yes"})
    box = other.blobs().create_container(target)
    url = f"{one.found.blob}/{source}/b"
    copy = box.get_blob_client("copy")
    copy.start_copy_from_url(f"{url}?{one.sas(source, 'b')}")
    wait_for(lambda: copy.get_blob_properties().copy.status == "success", "the copy")
    assert copy.download_blob().readall() == LARGE
    assert copy.get_blob_properties().metadata == {"kept": "yes"}
    assert copy.get_blob_properties().copy.source == url
    whole = box.get_blob_client("whole")
    whole.upload_blob_from_url(f"{url}?{one.sas(source, 'b', number=1)}")
    assert whole.download_blob().readall() == LARGE
    blocks = box.get_blob_client("blocks")
    blocks.stage_block_from_url("MQ==", f"{url}?{one.sas(source, 'b')}", source_offset=10, source_length=20)
    blocks.commit_block_list(["MQ=="])
    assert blocks.download_blob().readall() == LARGE[10:30]
    for wrong in ("", f"?{one.sas(source, 'b', 'w')}", f"?{other.sas(source, 'b')}", f"?{one.sas(source, 'b', ip='203.0.113.7')}"):
        with pytest.raises(HttpResponseError) as refused:
            box.get_blob_client("none").upload_blob_from_url(url + wrong)
        assert refused.value.status_code in (401, 403), wrong
    for beside in ("agent/health", "batchyard/v1/storageaccounts", "pools"):
        with pytest.raises(HttpResponseError):
            box.get_blob_client("none").upload_blob_from_url(f"{shop.server.endpoint}/{beside}")
    assert not box.get_blob_client("none").exists()


def test_one_that_is_deleted_is_gone_with_its_bytes_and_its_name_begins_anew(shop: Shop) -> None:
    first = shop.make()
    first.blobs().create_container("box").upload_blob("b", LARGE)
    first.queues().create_queue("box")
    [place] = shop.server.directory.glob(f"blobs.{first.name}.*")
    shop.gone(first.name)
    assert not list(shop.server.directory.glob(f"*{first.name}*"))
    assert not place.exists()
    with pytest.raises(HttpResponseError) as refused:
        list(first.blobs().list_containers())
    assert refused.value.status_code == 403
    again = shop.make(first.name)
    assert again.keys[0] not in first.keys
    assert list(again.blobs().list_containers()) == []
    with pytest.raises(ResourceNotFoundError):
        again.blobs().get_blob_client("box", "b").download_blob()


def test_one_in_the_world_of_another_account_outlives_its_rest_and_goes_with_it(shop: Shop) -> None:
    name = fresh()
    assert shop.operator("POST", "/batchyard/v1/accounts", {"name": name}).status == 201
    made = shop.make(account=name)
    made.blobs().create_container("box").upload_blob("b", LARGE)
    assert made.queues().create_queue("box") is not None
    assert shop.operator("GET", f"{STORAGE}/{made.name}").json["account"] == name
    assert shop.operator("DELETE", f"/batchyard/v1/accounts/{name}").status == 202
    wait_for(lambda: shop.operator("GET", f"{STORAGE}/{made.name}").status == 404, "it to be gone with the account")
    assert not list(shop.server.directory.glob(f"**/*{made.name}*"))


def test_queues_on_a_port_of_their_own_and_tables_refused_in_their_own_words(shop: Shop, one: Account) -> None:
    running = daemon.running(shop.server.directory)
    assert running is not None
    assert running.queue
    assert running.table
    credential = {"account_name": one.name, "account_key": one.keys[1]}
    queue = fresh()
    one.queues().create_queue(queue)
    for root in (f"{running.queue}/{one.name}", f"{shop.server.endpoint}/queue/{one.name}", one.found.queue):
        client = QueueServiceClient(root, credential=credential, retry_total=0).get_queue_client(queue)
        client.send_message("x")
    assert client.get_queue_properties().approximate_message_count == 3
    nobody = QueueServiceClient(f"{running.queue}/pools", credential={"account_name": "pools", "account_key": one.keys[0]}, retry_total=0)
    with pytest.raises(HttpResponseError) as refused:
        list(nobody.list_queues())
    assert refused.value.status_code == 403
    for root in (f"{running.table}/{one.name}", f"{shop.server.endpoint}/table/{one.name}"):
        address = Raw(root.partition(f"/{one.name}")[0].replace("/table", ""), one.name, one.keys[0])
        path = root.removeprefix(address.endpoint) + "/Tables"
        answer = address.send("GET", path, {})
        assert (answer.status, answer.json["odata.error"]["code"]) == (501, "NotImplemented")


def test_a_crash_at_any_time_leaves_what_was_acknowledged_and_ends_what_was_begun() -> None:
    shop = Shop(Server(nodes=0))
    try:
        kept, lost = shop.make(), shop.make()
        kept.blobs().create_container("box").upload_blob("b", LARGE)
        for number in range(300):
            if not number:
                lost.blobs().create_container("box")
            lost.blobs().get_blob_client("box", str(number)).upload_blob(LARGE)
        assert shop.operator("DELETE", f"{STORAGE}/{lost.name}").status == 202
        shop.server.process.send_signal(signal.SIGKILL)
        shop.server.process.wait()
        shop.server.start()
        wait_for(lambda: shop.operator("GET", f"{STORAGE}/{lost.name}").status == 404, "the removal to go on")
        assert not list(shop.server.directory.glob(f"*{lost.name}*"))
        assert kept.blobs(1).get_blob_client("box", "b").download_blob().readall() == LARGE
    finally:
        shop.server.stop()
