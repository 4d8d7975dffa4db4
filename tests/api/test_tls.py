"""TLS: unmodified clients over https, certificates that are renewed and read anew while connections live, and who believes whom."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from tests.conftest import Server, wait_for

from batchyard.agent.talk.link import Broken, Link
from batchyard.agent.talk.trust import of_server
from batchyard.cli.client import Client
from batchyard.config import Config
from batchyard.server import authority, tls
from batchyard.server.authority import Authority
from batchyard.server.refusals import Refused
from batchyard.server.tls import Tls

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COMMAND = [sys.executable, "-P", "-m", "batchyard.cli.main"]


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def shown(url: str) -> bytes:
    """The certificate that a new connection gets to see."""
    parts = urlsplit(url)
    return ssl.get_server_certificate((str(parts.hostname), parts.port or 0), timeout=10).encode()


def pair(directory: Path, name: str, *names: str) -> tuple[Path, Path, Path]:
    """Files of a certificate, its key and their authority."""
    own = directory / name
    own.mkdir()
    now = datetime.now(UTC)
    Authority(own, now).ensure(names or ("localhost", "127.0.0.1"), now)
    text = (own / authority.SERVER).read_text()
    at = text.index("-----BEGIN PRIVATE")
    (own / "cert.pem").write_text(text[:at])
    (own / "key.pem").write_text(text[at:])
    return own / "cert.pem", own / "key.pem", own / authority.CERTIFICATE


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    """A server with an authority of its own, and host names below localhost."""
    server = Server("--tls", "auto", "--domain", "localhost", nodes=1)
    yield server
    server.stop()


def environment(server: Server) -> dict[str, str]:
    """What `batchyard env` gives a client, and nothing of this process but the path."""
    told = subprocess.run([*COMMAND, "env", "--dir", str(server.directory)], capture_output=True, text=True, check=True).stdout
    script = f'{told}\nexec "{sys.executable}" -c "import os; print(*map(repr, os.environ.items()), sep=chr(10))"'
    bare = {"PATH": os.environ["PATH"], "HOME": str(server.directory)}
    lines = subprocess.run(["sh", "-c", script], env=bare, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(eval(line) for line in lines)


@pytest.fixture
def hosts_line(secure: Server) -> Iterator[None]:
    """An address for the storage account's host name, as a line in /etc/hosts where nothing else gives one."""
    name = f"{secure.storage_account}.blob.localhost"
    with contextlib.suppress(OSError):
        socket.getaddrinfo(name, None)
        yield
        return
    hosts = Path("/etc/hosts")
    if os.geteuid() != 0 or not os.access(hosts, os.W_OK):
        pytest.skip(f"{name} has no address, and only root may give it one")
    line = f"127.0.0.1 {name}\n"
    with hosts.open("a") as file:
        file.write(line)
    try:
        yield
    finally:
        hosts.write_text(hosts.read_text().replace(line, "", 1))


SDK15 = """
import os
from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
given = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
print(len(list(BatchClient(os.environ["AZURE_BATCH_ENDPOINT"], given).list_supported_images())))
"""
SDK14 = """
import os
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
given = SharedKeyCredentials(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
print(len(list(BatchServiceClient(given, batch_url=os.environ["AZURE_BATCH_ENDPOINT"]).account.list_supported_images())))
"""
STORAGE = """
import os
from azure.storage.blob import BlobServiceClient, BlobClient, generate_blob_sas
from datetime import datetime, timedelta, timezone
service = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
assert service.url.startswith("https://batchyardstorage.blob.localhost:"), service.url
box = service.create_container("by-host")
box.upload_blob("a/b c.txt", b"content")
assert [blob.name for blob in box.list_blobs()] == ["a/b c.txt"]
assert "by-host" in [found.name for found in service.list_containers()]
sas = generate_blob_sas(service.account_name, "by-host", "a/b c.txt", account_key=os.environ["AZURE_STORAGE_KEY"], permission="r",
                        expiry=datetime.now(timezone.utc) + timedelta(hours=1))
url = box.get_blob_client("a/b c.txt").url
assert BlobClient.from_blob_url(f"{url}?{sas}").download_blob().readall() == b"content"
box.get_blob_client("copy").start_copy_from_url(url)
assert box.download_blob("copy").readall() == b"content"
box.delete_container()
print("done")
"""


def python(program: str, code: str, variables: dict[str, str]) -> str:
    done = subprocess.run([program, "-c", code], env=variables, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_azure_batch_15_works_with_its_configuration_changed(secure: Server) -> None:
    assert int(python(sys.executable, SDK15, environment(secure))) > 0


@pytest.mark.skipif("BATCHYARD_SDK14_PYTHON" not in os.environ, reason="BATCHYARD_SDK14_PYTHON is not set (make test sets it)")
def test_azure_batch_14_works_with_its_configuration_changed(secure: Server) -> None:
    assert int(python(os.environ["BATCHYARD_SDK14_PYTHON"], SDK14, environment(secure))) > 0


def test_azure_storage_blob_works_by_the_account_s_host_name(secure: Server, hosts_line: None) -> None:
    assert python(sys.executable, STORAGE, environment(secure)) == "done"


def test_a_task_s_programs_believe_the_server_and_a_setting_of_its_own_wins(secure: Server) -> None:
    given = environment(secure)
    code = "import os, urllib.request as u; print(u.urlopen(os.environ['AZ_BATCH_ACCOUNT_URL'] + 'agent/health').read())"
    asks = f'python3 -c "{code}"; echo $NODE_EXTRA_CA_CERTS $REQUESTS_CA_BUNDLE'

    def said(*words: str) -> str:
        command = [*COMMAND, "submit", "-f", *words, "--", "sh", "-c", asks]
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=90, check=False)
        return done.stdout + done.stderr

    assert "b'ok'" in said()
    refused = said("--env", "SSL_CERT_FILE=/dev/null", "--env", "REQUESTS_CA_BUNDLE=mine")
    assert "CERTIFICATE_VERIFY_FAILED" in refused
    assert "authorities.pem mine" in refused


def test_this_machine_s_server_is_believed_when_only_its_url_is_named(secure: Server) -> None:
    given = environment(secure)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        del given[name]
    here = {**given, "BATCHYARD_DIR": str(secure.directory)}
    assert subprocess.run([*COMMAND, "pools"], env=here, capture_output=True, timeout=60, check=False).returncode == 0
    elsewhere = subprocess.run([*COMMAND, "pools"], env=given, capture_output=True, text=True, timeout=60, check=False)
    assert (elsewhere.returncode, "export SSL_CERT_FILE=FILE" in elsewhere.stderr) == (1, True)


@pytest.mark.az
def test_az_works_with_its_configuration_changed(secure: Server, hosts_line: None) -> None:
    program = os.environ.get("BATCHYARD_AZ")
    if not program:
        pytest.skip("BATCHYARD_AZ is not set (make test-az sets it)")
    for words in (["batch", "pool", "list"], ["storage", "container", "list"]):
        done = subprocess.run([program, *words], env=environment(secure), capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr


def test_without_the_authority_a_client_refuses_the_server(secure: Server) -> None:
    variables = {name: value for name, value in environment(secure).items() if "CA" not in name and "CERT" not in name}
    done = subprocess.run([sys.executable, "-c", SDK15], env=variables, capture_output=True, text=True, timeout=90, check=False)
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_a_task_runs_and_its_files_go_over_tls(secure: Server) -> None:
    (secure.directory / "in.txt").write_text("sent by TLS\n")
    words = ["submit", "--dir", str(secure.directory), "--in", str(secure.directory / "in.txt"), "-f", "--", "cat", "in.txt"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["sent by TLS"]), done.stderr


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_versions_before_tls_1_2_and_plain_http_get_nothing(secure: Server) -> None:
    parts = urlsplit(secure.endpoint)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2):
        old.minimum_version = old.maximum_version = version
        with socket.create_connection((parts.hostname, parts.port), 10) as plain:
            if version == ssl.TLSVersion.TLSv1_2:
                with old.wrap_socket(plain) as encrypted:
                    assert encrypted.version() == "TLSv1.2"
            else:
                with pytest.raises((ssl.SSLError, OSError)):
                    old.wrap_socket(plain)
    with socket.create_connection((parts.hostname, parts.port), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")


def test_handshakes_that_never_end_count_as_connections() -> None:
    with contextlib.ExitStack() as stack:
        server = Server("--tls", "auto", nodes=0)
        stack.callback(server.stop)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (160, 160))
        parts = urlsplit(server.endpoint)
        most = 160 - 128  # a quarter, at least 128, is kept
        silent = [stack.enter_context(socket.create_connection((parts.hostname, parts.port), 10)) for _ in range(most)]
        refused = stack.enter_context(socket.create_connection((parts.hostname, parts.port), 10))
        refused.settimeout(5)  # sooner than a handshake runs out
        assert refused.recv(1) == b""
        for one in silent:
            one.close()
        wait_for(lambda: _answers(server), "the server to answer again", 20)


def _answers(server: Server) -> bool:
    try:
        return bool(shown(server.endpoint))
    except OSError:
        return False


def test_the_certificate_is_renewed_without_a_restart_when_its_time_comes() -> None:
    server = Server("--tls", "auto", "--test-clock", nodes=0)
    try:
        ca = server.directory / "tls" / "ca.pem"
        parts, trusting = urlsplit(server.endpoint), ssl.create_default_context(cafile=str(ca))
        before = x509.load_pem_x509_certificate(shown(server.endpoint))
        kept = http.client.HTTPSConnection(str(parts.hostname), parts.port, timeout=20, context=trusting)
        kept.request("GET", "/agent/health")
        assert kept.getresponse().read() == b"ok"
        first = kept.sock
        words = {"SSL_CERT_FILE": str(ca), "REQUESTS_CA_BUNDLE": str(ca)}
        with pytest.MonkeyPatch.context() as patch, Client(server.endpoint, server.account, server.key) as batch:
            for name, value in words.items():
                patch.setenv(name, value)
            batch.post("batchyard", "clock", body={"advance": "P70D"})

        def after() -> x509.Certificate | None:
            found = x509.load_pem_x509_certificate(shown(server.endpoint))
            return found if found.serial_number != before.serial_number else None

        assert wait_for(after, "the new certificate").not_valid_after_utc > before.not_valid_after_utc + timedelta(days=60)
        kept.request("GET", "/agent/health")
        assert kept.getresponse().read() == b"ok"
        assert kept.sock is first
        with trusting.wrap_socket(socket.create_connection((parts.hostname, parts.port), 10), server_hostname=parts.hostname) as newer:
            assert newer.version() == "TLSv1.3"  # believed as the one before
    finally:
        server.stop()


def test_a_server_s_certificate_fits_this_machine_and_is_made_anew_for_other_names(tmp_path: Path) -> None:
    own = Authority(tmp_path / "tls", NOW)
    assert stat.S_IMODE((tmp_path / "tls" / authority.KEY).stat().st_mode) == 0o600
    names = tls.wanted_names(Config(tmp_path, host="0.0.0.0", names=("batch.example.com",), domain="example.com", region="north"))
    assert names >= {
        "localhost",
        "127.0.0.1",
        "::1",
        "batch.example.com",
        "*.north.example.com",
        "*.blob.example.com",
        socket.gethostname(),
    }
    assert own.ensure(names, NOW)
    server = tmp_path / "tls" / authority.SERVER
    assert stat.S_IMODE(server.stat().st_mode) == 0o600
    assert set(authority.names_of(certificate(server))) == names
    certificate(server).verify_directly_issued_by(own.certificate)
    again = Authority(tmp_path / "tls", NOW)
    assert again.certificate == own.certificate
    assert not again.ensure(names, NOW + timedelta(days=59))
    assert again.ensure(names, NOW + timedelta(days=61))
    assert not again.ensure(names, NOW + timedelta(days=61))
    assert again.ensure({*names, "other.example.com"}, NOW + timedelta(days=61))
    server.write_bytes(server.read_bytes()[:100])
    assert again.ensure(names, NOW + timedelta(days=61))


def test_an_authority_that_cannot_sign_is_said_in_a_sentence(tmp_path: Path) -> None:
    Authority(tmp_path / "a", NOW)
    Authority(tmp_path / "b", NOW)
    with pytest.raises(Refused, match="has ended on"):
        Authority(tmp_path / "a", NOW + timedelta(days=3651))
    shutil.copy(tmp_path / "b" / authority.KEY, tmp_path / "a" / authority.KEY)
    with pytest.raises(Refused, match=r"is not the key of .*ca\.pem"):
        Authority(tmp_path / "a", NOW)
    (tmp_path / "a" / authority.KEY).unlink()
    with pytest.raises(Refused, match="cannot be used"):
        Authority(tmp_path / "a", NOW)


def test_a_given_certificate_is_read_anew_while_connections_live(tmp_path: Path) -> None:
    cert, key, ca = pair(tmp_path, "first")
    newer_cert, newer_key, newer_ca = pair(tmp_path, "second")
    server = Server("--tls", str(cert), str(key), "--tls-authority", str(ca), nodes=0)
    try:
        parts = urlsplit(server.endpoint)
        trusting = ssl.create_default_context(cafile=str(ca))
        kept = http.client.HTTPSConnection(str(parts.hostname), parts.port, timeout=20, context=trusting)
        kept.request("GET", "/agent/health")
        assert kept.getresponse().read() == b"ok"
        first = kept.sock
        cert.write_bytes(newer_cert.read_bytes())  # between the two files they do not fit, and the earlier ones stay
        wait_for(lambda: "the key is not that of the certificate" in server.log(), "the server to see it")
        assert x509.load_pem_x509_certificate(shown(server.endpoint)) != certificate(newer_cert)
        key.write_bytes(newer_key.read_bytes())
        wait_for(lambda: x509.load_pem_x509_certificate(shown(server.endpoint)) == certificate(newer_cert), "the new certificate")
        kept.request("GET", "/agent/health")
        assert kept.getresponse().read() == b"ok"
        assert kept.sock is first
        newer = http.client.HTTPSConnection(
            str(parts.hostname), parts.port, timeout=20, context=ssl.create_default_context(cafile=str(newer_ca))
        )
        newer.request("GET", "/agent/health")
        assert newer.getresponse().read() == b"ok"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda cert, key: cert.write_text("no"), "no certificate and key in PEM"),
        (lambda cert, key: key.unlink(), "cannot be read (No such file or directory)"),
        (lambda cert, key: key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "no certificate and key in PEM"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_said_at_the_start(tmp_path: Path, harm: object, said: str) -> None:
    cert, key, _ = pair(tmp_path, "own")
    harm(cert, key)  # type: ignore[operator]
    with pytest.raises(Refused) as refused:
        Tls(Config(tmp_path, tls=(cert, key)), lambda: NOW)
    assert said in str(refused.value)


async def test_an_agent_refuses_a_server_of_another_authority_in_a_sentence(secure: Server, tmp_path: Path) -> None:
    _, _, other = pair(tmp_path, "other")
    async with Link(secure.endpoint, "token", of_server(secure.endpoint, str(other))) as link:
        with pytest.raises(Broken, match=r"is not one of the authority that this node trusts \(unable to get local issuer certificate\)"):
            await link.post("/agent/sync", b"{}", 10)
    async with Link(secure.endpoint, "token", of_server(secure.endpoint, str(secure.directory / "tls" / "ca.pem"))) as link:
        assert (await link.post("/agent/sync", b"{}", 10)).status == 403


def test_ca_says_what_clients_need(secure: Server, server: Server) -> None:
    told = subprocess.run([*COMMAND, "ca", "--dir", str(secure.directory)], capture_output=True, text=True, check=True).stdout
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "keytool -importcert"):
        assert name in told
    pem = subprocess.run([*COMMAND, "ca", "--pem", "--dir", str(secure.directory)], capture_output=True, text=True, check=True).stdout
    assert x509.load_pem_x509_certificate(pem.encode()) == certificate(secure.directory / "tls" / "ca.pem")
    plain = subprocess.run([*COMMAND, "ca", "--dir", str(server.directory)], capture_output=True, text=True, check=False)
    assert "speaks plain HTTP" in plain.stderr


def test_others_get_plain_http_only_when_that_is_meant(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "serve", "--dir", tmp_path / "a", "--host", "0.0.0.0", "--port", "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "--tls auto, or --insecure" in done.stderr
    server = Server("--host", "0.0.0.0", "--tls", "auto", nodes=0)
    try:
        assert urlsplit(server.endpoint).hostname == "127.0.0.1"
        assert shown(server.endpoint)
    finally:
        server.stop()
