"""Any server answers any request of any account, and says what another one was told a moment ago."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from azure.batch import models
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from several_servers import Cluster, client, idle, make_pool, sdk, unique
from tests.conftest import Server, wait_for

from batchyard.cli.client import Client, Refused


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_what_one_server_has_acknowledged_every_server_shows(pair: Cluster) -> None:
    one, two = pair.servers
    pool, job = unique("pool"), unique("job")
    with sdk(one) as first, sdk(two) as second:
        make_pool(client(two), pool, 0)
        first.create_job(models.BatchJobCreateOptions(id=job, pool_info=models.BatchPoolInfo(pool_id=pool)))
        for n in range(20):
            to, by = (first, second) if n % 2 else (second, first)
            to.create_task(job, models.BatchTaskCreateOptions(id=str(n), command_line="true"))
            assert by.get_task(job, str(n)).state == models.BatchTaskState.ACTIVE
            by.update_job(job, models.BatchJobUpdateOptions(priority=n))
            assert to.get_job(job).priority == n
        assert {task.id for task in first.list_tasks(job)} == {task.id for task in second.list_tasks(job)} == set(map(str, range(20)))
        client(two).post("jobs", job, "terminate", body={})
        wait_for(lambda: first.get_job(job).state == models.BatchJobState.COMPLETED, "the job's end")


def test_tasks_that_two_servers_add_at_the_same_time_run_once_each(pair: Cluster) -> None:
    """Writers on both at once: each task is there once and ran once, and the counters agree."""
    pool, job = unique("pool"), unique("job")
    with client(pair.servers[0]) as batch:
        make_pool(batch, pool, 1, taskSlotsPerNode=2)
        batch.post("jobs", body={"id": job, "poolInfo": {"poolId": pool}})
        idle(batch, pool, 1)

        def add(n: int) -> None:
            with client(pair.servers[n % 2]) as adds:
                tasks = [{"id": f"{n}-{each}", "commandLine": "true"} for each in range(10)]
                answer = adds.post("jobs", job, "addtaskcollection", body={"value": tasks})
                assert {each["status"].lower() for each in answer["value"]} == {"success"}

        with ThreadPoolExecutor(4) as several:
            list(several.map(add, range(8)))
        wait_for(lambda: all(task["state"] == "completed" for task in batch.listed("jobs", job, "tasks")), "all tasks")
        ((pk,),) = pair.ask("SELECT pk FROM job WHERE id = %s", job)
        rows = pair.ask(
            "SELECT count(*), count(DISTINCT lower(id)), max(run), min(exit_code), max(exit_code) FROM task WHERE job_pk = %s", pk
        )
        assert rows == [(80, 80, 1, 0, 0)]
        counts = batch.get("jobs", job, "taskcounts")["taskCounts"]
        assert (counts["completed"], counts["succeeded"], counts["active"], counts["running"]) == (80, 80, 0, 0)
        batch.delete("pools", pool)


def test_a_file_comes_from_a_node_that_asks_at_another_server(pair: Cluster) -> None:
    """The node polls at the first server; lists, small and large files, commands inside of a task and logs are asked for at the second."""
    one, two = pair.servers
    pool, job = unique("pool"), unique("job")
    with client(one) as here, client(two) as there:
        make_pool(here, pool, 1)
        here.post("jobs", body={"id": job, "poolInfo": {"poolId": pool}})
        command = "bash -c 'echo small; head -c 3000000 /dev/zero > large; touch begun; until [ -e go ]; do sleep 0.05; done'"
        here.post("jobs", job, "tasks", body={"id": "t", "commandLine": command})

        def files() -> set[str] | None:
            if there.get("jobs", job, "tasks", "t")["state"] != "running":
                return None
            found = {file["name"] for file in there.listed("jobs", job, "tasks", "t", "files", recursive="true")}
            return found if "wd/begun" in found else None

        assert wait_for(files, "the task's files") >= {"stdout.txt", "wd/large"}
        assert there.read("jobs", job, "tasks", "t", "files", "stdout.txt") == b"small\n"
        assert there.read("jobs", job, "tasks", "t", "files", "wd/large", most=4_000_000) == bytes(3_000_000)
        run = batchyard("task", "exec", "--dir", two.directory, "--job", job, "t", "--", "echo", "inside")
        assert (run.returncode, run.stdout) == (0, "inside\n"), run.stderr
        batchyard("task", "exec", "--dir", two.directory, "--job", job, "t", "--", "touch", "go")  # which may end with the task
        wait_for(lambda: here.get("jobs", job, "tasks", "t")["state"] == "completed", "the task's end")
        node = here.get("jobs", job, "tasks", "t")["nodeInfo"]["nodeId"]
        there.delete("jobs", job, "tasks", "t", "files", "wd/large")
        assert "wd/large" not in {file["name"] for file in here.listed("jobs", job, "tasks", "t", "files", recursive="true")}
        there.post("pools", pool, "nodes", node, "reboot", body={})
        before = pair.ask("SELECT session FROM node WHERE id = %s", node)
        wait_for(lambda: pair.ask("SELECT session FROM node WHERE id = %s AND state = 'idle'", node) not in ([], before), "the reboot")
        there.delete("pools", pool)


def test_strangers_are_no_servers(pair: Cluster) -> None:
    two = pair.servers[1]
    body = {"id": "0" * 16 + "-" + "0" * 32, "operation": "list"}
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic 00"}):
        for path in ("wanted", "answers/x"):
            answer = httpx.post(f"{two.endpoint}/cluster/{two.account}/1/{path}", json=body, headers=headers)
            assert (answer.status_code, answer.content) == (403, b"")


def test_an_account_is_the_same_everywhere(pair: Cluster) -> None:
    """Made, opened, renewed, limited and removed at one server or the other: keys, quotas and the end hold at both."""
    one, two = pair.servers
    name = unique("acct")[:12]
    assert batchyard("account", "create", name, "--dir", one.directory, "--pools", "1").returncode == 0

    def opens(server: Server, key: str) -> bool:
        with Client(f"{server.endpoint}/accounts/{name}", name, key) as batch:
            try:
                list(batch.listed("pools"))
            except Refused:
                return False
        return True

    def known() -> list[str]:
        """By the operator's key, which is the same at both."""
        return batchyard("account", "keys", name, "--dir", two.directory).stdout.split()[1::2]

    primary, secondary = known()
    assert opens(one, primary)
    assert opens(two, primary)
    assert batchyard("account", "renew-key", "primary", name, "--dir", one.directory).returncode == 0
    renewed = known()[0]
    assert renewed != primary
    for server in (one, two):
        wait_for(lambda server=server: opens(server, renewed), "the new key")
        wait_for(lambda server=server: not opens(server, primary), "the old key's end")
        assert opens(server, secondary)
    assert batchyard("account", "delete", name, "--dir", two.directory, "--yes").returncode == 0
    wait_for(lambda: not pair.ask("SELECT 1 FROM {registry}.account WHERE name = %s", name), "the account's end")
    assert not opens(one, renewed)
    assert not opens(two, renewed)
    assert not pair.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE %s", f"{pair.schema}_account_{name}%")


def test_a_storage_account_is_the_same_everywhere(pair: Cluster) -> None:
    """Made, written, renewed and removed at one server or the other: bytes, keys and the end hold at both."""
    one, two = pair.servers
    name = unique("store")
    assert batchyard("storage-account", "create", name, "--dir", one.directory).returncode == 0

    def blobs(server: Server, key: str) -> BlobServiceClient:
        return BlobServiceClient(f"{server.endpoint}/{name}", credential={"account_name": name, "account_key": key}, retry_total=0)

    def opens(server: Server, key: str) -> bool:
        try:
            return [each.name for each in blobs(server, key).list_containers()] == ["box"]
        except HttpResponseError as error:
            if error.status_code != 403:
                raise
            return False

    def known() -> list[str]:
        return batchyard("storage-account", "keys", name, "--dir", two.directory).stdout.split()[1::2]

    primary, secondary = known()
    blobs(two, primary).create_container("box").upload_blob("b", b"x" * 100_000)
    assert blobs(one, secondary).get_blob_client("box", "b").download_blob().readall() == b"x" * 100_000
    assert batchyard("storage-account", "renew-key", "secondary", name, "--dir", one.directory).returncode == 0
    renewed = known()[1]
    for server in (one, two):
        wait_for(lambda server=server: opens(server, renewed), "the new key")
        wait_for(lambda server=server: not opens(server, secondary), "the old key's end")
        assert opens(server, primary)
    assert batchyard("storage-account", "delete", name, "--dir", two.directory, "--yes").returncode == 0
    wait_for(lambda: not pair.ask("SELECT 1 FROM {registry}.storage WHERE name = %s", name), "the storage account's end")
    for server in (one, two):
        wait_for(lambda server=server: not opens(server, renewed), "nobody to be let in")
    assert not pair.ask("SELECT 1 FROM pg_namespace WHERE nspname LIKE %s", f"{pair.schema}_s%")
    assert not list((pair.place / "blobs").glob(f"*{name}*"))
