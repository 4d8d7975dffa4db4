"""An agent is killed while it unpacks an application package: the next one begins anew, and no task ever sees half of one."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from tests.api.conftest import Raw, machine
from tests.conftest import wait_for

FILES = 8_000


class Server(Protocol):
    """What these tests need of the fixture `own_server`."""

    directory: Path
    endpoint: str
    account: str
    key: str

    def agents(self) -> dict[str, int]: ...
    def kill_agent(self, node_id: str) -> None: ...
    def log(self) -> str: ...


@pytest.fixture
def batch(own_server: Server) -> Iterator[BatchClient]:
    """A client, with an application of very many files, a pool of one node and a job."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for n in range(FILES):
            file.writestr(f"{n % 100}/{n}", "x")
    raw = Raw(own_server.endpoint, own_server.account, own_server.key)
    assert raw("PUT", "/batchyard/v1/applications/many/versions/1", made.getvalue()).status == 201
    with BatchClient(own_server.endpoint, AzureNamedKeyCredential(own_server.account, own_server.key)) as client:
        options = models.BatchPoolCreateOptions(
            id="p", vm_size="standard_d2s_v3", virtual_machine_configuration=machine(), target_dedicated_nodes=1
        )
        client.create_pool(options)
        client.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="p")))
        yield client


@pytest.mark.timeout(180)
def test_an_agent_that_is_killed_while_it_unpacks_leaves_nothing_half(own_server: Server, batch: BatchClient) -> None:
    references = [models.BatchApplicationPackageReference(application_id="many", version="1")]
    command = "/bin/sh -c 'find $AZ_BATCH_APP_PACKAGE_many_1 -type f | wc -l; ls $AZ_BATCH_NODE_ROOT_DIR/applications | wc -l'"
    batch.create_task("j", models.BatchTaskCreateOptions(id="t", command_line=command, application_package_references=references))
    [begun] = wait_for(lambda: [*own_server.directory.glob("nodes/**/volatile/unpacking/*/content/0")], "the package to be unpacked")
    root = begun.parents[4]
    [node] = own_server.agents()
    own_server.kill_agent(node)
    wait_for(lambda: batch.get_task("j", "t").state == models.BatchTaskState.COMPLETED, "the task to be completed")
    info = batch.get_task("j", "t").execution_info
    assert info is not None
    assert info.result == "success", info
    said = Raw(own_server.endpoint, own_server.account, own_server.key)("GET", "/jobs/j/tasks/t/files/stdout.txt").body
    assert said.split() == [str(FILES).encode(), b"1"]
    assert own_server.log().count("application package unpacked") == 1, "only the second agent came so far"
    assert [*(root / "volatile" / "unpacking").iterdir()] == [], "what the first had begun is gone"
