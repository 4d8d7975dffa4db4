"""`az batch application summary`, which reads what was uploaded here, and a task that refers to it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.api.conftest import Raw

pytestmark = [pytest.mark.az, pytest.mark.timeout(120)]


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    endpoint: str
    account: str
    key: str


class Az(Protocol):
    """What these tests need of the fixture `az`."""

    def __call__(self, *words: str | Path) -> Any: ...


def test_summaries(az: Az, server: Server) -> None:
    raw, made = Raw(server.endpoint, server.account, server.key), io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("hello", "hello")
    assert raw("PUT", "/batchyard/v1/applications/az-app/versions/1.0", made.getvalue()).status == 201
    try:
        shown = az("application", "summary", "show", "--application-id", "az-app")
        assert (shown["id"], shown["displayName"], shown["versions"]) == ("az-app", "az-app", ["1.0"])
        assert "az-app" in [each["id"] for each in az("application", "summary", "list")]
    finally:
        assert raw("DELETE", "/batchyard/v1/applications/az-app").status == 204
