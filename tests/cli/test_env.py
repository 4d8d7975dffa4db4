"""`batchyard env` points other clients at a server, and the shell's completion knows what the server has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
from azure.storage.queue import QueueClient
from tests.cli.conftest import Cli

from batchyard.cli import completion, env, table


class Server(Protocol):
    """What these tests need of the fixture `server`."""

    directory: Path
    endpoint: str
    storage_account: str
    storage_key: str


def told(cli: Cli, server: Server, client: str) -> tuple[dict[str, str], list[str]]:
    """(variables, lines to paste) as a shell takes them."""
    done = cli("env", "--dir", server.directory, "--for", client)
    assert done.returncode == 0, done.stderr
    bare = {"PATH": os.environ["PATH"]}
    dumped = subprocess.run(
        ["sh", "-c", 'eval "$1"; exec "$2" -c "import json, os; print(json.dumps(dict(os.environ)))"', "sh", done.stdout, sys.executable],
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    head, *lines = [line.removeprefix("# ") for line in done.stdout.splitlines() if line.startswith("#")]
    assert head.startswith(f"{client}: ")
    return json.loads(dumped.stdout), lines


def run_python(python: str, lines: list[str], variables: dict[str, str], end: str) -> str:
    return subprocess.run([python, "-c", "\n".join([*lines, end])], env=variables, capture_output=True, text=True, check=True).stdout


def test_the_lines_for_azure_batch_15_work(cli: Cli, server: Server, shared_pool: str) -> None:
    variables, lines = told(cli, server, "sdk15")
    assert shared_pool in run_python(sys.executable, lines, variables, "print(*[pool.id for pool in batch.list_pools()])").split()


@pytest.mark.skipif("BATCHYARD_SDK14_PYTHON" not in os.environ, reason="BATCHYARD_SDK14_PYTHON is not set (make test sets it)")
def test_the_lines_for_azure_batch_14_work(cli: Cli, server: Server, shared_pool: str) -> None:
    variables, lines = told(cli, server, "sdk14")
    end = "print(*[pool.id for pool in batch.pool.list()])"
    assert shared_pool in run_python(os.environ["BATCHYARD_SDK14_PYTHON"], lines, variables, end).split()


def test_the_storage_variables_work(cli: Cli, server: Server) -> None:
    variables, _ = told(cli, server, "az")
    code = (
        "import os; from azure.storage.blob import BlobServiceClient\n"
        "names = ('AZURE_STORAGE_ACCOUNT', 'AZURE_STORAGE_KEY'); account, key = (os.environ[name] for name in names)\n"
        "client = BlobServiceClient(os.environ['AZURE_STORAGE_BLOB_ENDPOINT'], {'account_name': account, 'account_key': key})\n"
        "print(len(list(client.list_containers())))"
    )
    assert int(run_python(sys.executable, [code], variables, "")) >= 0


@pytest.mark.parametrize("name", sorted(env.HINTS))
def test_every_client_gets_two_lines(cli: Cli, server: Server, name: str) -> None:
    variables, lines = told(cli, server, name)
    assert len(lines) == 2
    assert variables["AZURE_BATCH_ENDPOINT"] == server.endpoint
    assert variables["AZURE_STORAGE_KEY"] == server.storage_key
    assert "{" not in "".join(lines).replace("{ env }", "").replace("{ BatchServiceClient, BatchSharedKeyCredentials }", "")


def test_airflows_connection_is_json(cli: Cli, server: Server) -> None:
    variables, _ = told(cli, server, "airflow")
    assert json.loads(variables["AIRFLOW_CONN_AZURE_BATCH_DEFAULT"])["extra"] == {"account_url": server.endpoint}


def test_what_was_not_run_is_marked(cli: Cli, server: Server) -> None:
    for name in ("dotnet", "java", "nextflow", "snakemake", "airflow"):
        assert f"# {name}: untested" in cli("env", "--dir", server.directory, "--for", name).stdout


def test_the_names_are_those_of_the_table() -> None:
    [flag] = [flag for flag in next(verb for verb in table.COMMANDS if verb.name == "env").flags if flag.name == "for_"]
    assert set(flag.kind.choices) == set(env.HINTS)


def test_completion_knows_what_the_server_has(cli: Cli, shared_pool: str, own_job: str) -> None:
    def answers(*words: str) -> list[str]:
        return cli(completion.ASK, *words).stdout.split()

    assert shared_pool in answers("pool", "show", "sh")
    assert answers("tasks", own_job[:-2]) == [own_job]
    assert own_job in answers("submit", "--job", "own-")
    cli("task", "create", own_job, "--id", "the-task", "--", "true")
    assert answers("logs", f"{own_job}/the") == [f"{own_job}/the-task"]
    assert answers("logs", "nothing/x") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(cli: Cli, tmp_path: Path) -> None:
    batchyard = tmp_path / "batchyard"
    batchyard.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m batchyard.cli.main "$@"\n')
    batchyard.chmod(0o755)
    script = 'eval "$(batchyard completion bash)"; COMP_WORDS=(batchyard pool res); COMP_CWORD=2; _batchyard; echo "${COMPREPLY[@]}"'
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True, check=True).stdout == "resize\n"
    for shell in ("zsh", "fish"):
        assert "batchyard __complete" in cli("completion", shell).stdout
        if shutil.which(shell):
            assert subprocess.run([shell, "-n"], input=cli("completion", shell).stdout, text=True, check=False).returncode == 0


def test_no_storage_service_is_left_to_the_public_cloud(cli: Cli, server: Server) -> None:
    variables, _ = told(cli, server, "sdk15")
    said = dict(part.split("=", 1) for part in variables["AZURE_STORAGE_CONNECTION_STRING"].split(";") if part)
    wanted = f"{server.endpoint}/{server.storage_account}"
    assert {said[f"{service}Endpoint"] for service in ("Blob", "File")} == {wanted}
    assert said["TableEndpoint"] == f"{server.endpoint}/table/{server.storage_account}"
    assert said["QueueEndpoint"] == f"{server.endpoint}/queue/{server.storage_account}"
    assert not any("EndpointSuffix" in name for name in said)


def test_queues_of_the_server_are_used_with_its_connection_string(cli: Cli, server: Server) -> None:
    variables, _ = told(cli, server, "sdk15")
    queue = QueueClient.from_connection_string(variables["AZURE_STORAGE_CONNECTION_STRING"], "orders", retry_total=0)
    queue.create_queue()
    queue.send_message("hello")
    got = queue.receive_message()
    assert got is not None
    assert got.content == "hello"
    queue.delete_message(got)
    assert queue.peek_messages() == []
    queue.delete_queue()
