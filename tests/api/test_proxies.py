"""Whose word counts on who calls: the connection's, and that of proxies that the operator named."""

from __future__ import annotations

import http.client
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import BlobServiceClient, generate_container_sas
from tests.conftest import Server

from batchyard import config

FORGED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
LIMITS = {"sip": {"ip": "203.0.113.7"}, "spr=https": {"protocol": "https"}}


def answers(server: Server) -> dict[tuple[str, bool], int]:
    """Status of a listing by a signature with each limit, without and with forged headers."""
    BlobServiceClient.from_connection_string(server.storage_connection_string).create_container("box")
    found = {}
    for name, limit in LIMITS.items():
        sas = generate_container_sas(
            server.storage_account, "box", server.storage_key, permission="l", expiry=datetime.now(UTC) + timedelta(hours=1), **limit
        )
        for forged in (False, True):
            connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=30)
            path = f"/{server.storage_account}/box?restype=container&comp=list&{sas}"
            connection.request("GET", path, headers=FORGED if forged else {})
            found[name, forged] = connection.getresponse().status
            connection.close()
    return found


@pytest.mark.parametrize(
    ("options", "believed"),
    [((), False), (("--trusted-proxy", "192.0.2.1"), False), (("--trusted-proxy", "192.0.2.1", "--trusted-proxy", "127.0.0.0/8"), True)],
    ids=["none", "another", "this"],
)
def test_forwarded_headers_count_only_from_proxies_that_were_named(
    options: tuple[str, ...], believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    server = Server(*options, nodes=0)
    try:
        status = 200 if believed else 403
        assert answers(server) == {(name, forged): status if forged else 403 for name in LIMITS for forged in (False, True)}
    finally:
        server.stop()


@pytest.mark.parametrize("text", ["*", "proxy.example", "", "10.0.0.1/8", "127.0.0.1,127.0.0.2"])
def test_a_proxy_is_an_address_or_a_network(text: str) -> None:
    with pytest.raises(config.Misconfigured, match="IP address or a network"):
        config.proxy(text)
