"""`batchyard account` against a live server, with the operator's key of its state directory."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

from azure.storage.blob import BlobServiceClient
from tests.conftest import Server, wait_for


def batchyard(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})


def test_an_account_from_its_making_to_its_end(server: Server) -> None:
    at = ("--dir", str(server.directory))
    made = batchyard("account", "create", "cliacct", "--pools", "1", "--spot-cores", "0", *at)
    assert made.returncode == 0, made.stderr
    exports = dict(word.split("=", 1) for line in made.stdout.splitlines() for word in shlex.split(line)[1:])
    assert exports["AZURE_BATCH_ENDPOINT"] == f"{server.endpoint}/accounts/cliacct"
    again = batchyard("env", "--account", "CliAcct", *at)
    assert again.stdout == made.stdout, again.stderr
    with BlobServiceClient.from_connection_string(exports["AZURE_STORAGE_CONNECTION_STRING"]) as blobs:
        assert blobs.account_name == "cliacctstorage"
        assert list(blobs.list_containers()) == []
    rows = batchyard("account", "list", "-o", "json", *at)
    found = {row["name"]: row for row in json.loads(rows.stdout)}
    assert found["cliacct"]["quotas"] == {"poolQuota": 1, "lowPriorityCoreQuota": 0}
    assert batchyard("pool", "create", "p", "--size", "standard_d2s_v3", env=exports).returncode == 0
    full = batchyard("pool", "create", "q", "--size", "standard_d2s_v3", env=exports)
    assert "PoolQuotaReached" in full.stderr
    assert json.loads(batchyard("account", "show", "-o", "json", env=exports).stdout)["used"]["poolQuota"] == 1
    assert batchyard("account", "quota", "cliacct", "--pools", "none", *at).returncode == 0
    assert batchyard("pool", "list", "-o", "id", "--account", "cliacct", *at).stdout == "p\n"
    renewed = batchyard("account", "renew-key", "primary", "cliacct", *at)
    assert renewed.stdout.split()[1] != exports["AZURE_BATCH_ACCESS_KEY"]
    assert "does not accept this key" in batchyard("pool", "list", env=exports).stderr
    assert batchyard("account", "keys", "cliacct", *at).stdout == renewed.stdout
    assert batchyard("account", "delete", "cliacct", "--yes", *at).returncode == 0
    wait_for(lambda: "AccountNotFound" in batchyard("account", "show", "cliacct", *at).stderr, "the account to be gone")


def test_who_is_not_the_operator_is_told_so(server: Server) -> None:
    env = {**server.environment, "BATCHYARD_OPERATOR_KEY": "/dev/null"}
    refused = batchyard("account", "list", env=env)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    missing = batchyard("account", "create", "other", "--operator-key", "/no/such/file", "--dir", str(server.directory))
    assert "name it with --operator-key" in missing.stderr
    wrong = batchyard("account", "quota", "other", "--pools", "many", "--dir", str(server.directory))
    assert (wrong.returncode, "whole number" in wrong.stderr) == (2, True)
