"""Mistakes get one clear sentence on stderr, nothing on stdout, and 2 when the words make no sense, 1 when it cannot be done."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.cli.conftest import Cli, Server, a_job_without_nodes, command

from batchyard.cli.client import Client

MISTAKES = """
2 | jbos | there is no command 'jbos'; did you mean jobs?
2 | pool creat x | pool has no 'creat'; did you mean create?
2 | trigger list | there is no trigger yet
2 | --dir x jobs | options stand behind the command
2 | down now | there is one word too many: 'now'
2 | submit | the command is missing
2 | submit --arry 1-2 -- true | there is no option --arry; did you mean --array?
2 | submit --array 5 -- true | --array wants two numbers
2 | submit --array 9-8 -- true | --array wants two numbers
2 | submit --array 1-5,3-7 -- true | --array 1-5,3-7 has a number twice
2 | submit --array 1-2 --each-line lines -- true | do not go together
2 | submit --each-line empty -- true | has no lines
2 | submit --matrix a -- true | --matrix wants NAME=VALUE,VALUE
2 | submit --matrix a=1 --matrix a=2 -- true | --matrix has a twice
2 | submit --env X -- true | --env wants NAME=VALUE; it got 'X'
2 | submit --retries x -- true | --retries wants a whole number; it got 'x'
2 | submit --slots 0 -- true | --slots wants a whole number of at least 1; it got 0
2 | submit --nodes 2 -- true | --nodes makes a pool: name it with --pool
2 | submit --pool p --size big -- true | say how many with --nodes
2 | submit --pool | --pool wants a value: --pool POOL
2 | wait | JOB|TASK is missing
2 | logs | TASK is missing
2 | logs --tail x j/t | --tail wants a whole number
2 | retry any-job | --failed
2 | tasks | JOB is missing
2 | tasks {job} -o xml | -o is one of table, wide, json, jsonl, yaml, id, name; it got 'xml'
2 | tasks {job} --query [ | --query is no JMESPath
2 | tasks {job} --where what:1 | tasks have no query word 'what'
2 | tasks {job} --exit x | 'x' is no number
2 | tasks {job} --since soon | 'soon' is no time
2 | tasks {job} 5-3 | write 3-5
2 | tasks {job} --limit 0 | --limit wants a whole number of at least 1
2 | pool create | the pool has no id
2 | pool create p --nodes -1 | --nodes wants a whole number of at least 0
2 | pool resize {job} | say how many nodes
2 | pool autoscale {job} | say the formula
2 | pool evaluate {job} | has no formula of its own
2 | pool update {job} | say what to change
2 | job create j | say on which pool it runs
2 | job update {job} | say what to change
2 | job disable {job} --when never | --when is one of requeue, terminate, wait
2 | task create {job} | say what to run
2 | task create {job} -f many.json --id x | options say something of one only
2 | storage cp a b | one of the two is CONTAINER:BLOB
2 | explain jobs x | job|task|schedule|pool|node is one of job, task, schedule, pool, node
2 | env --for cobol | --for is one of
2 | up --port 99999 | from 0 to 65535
2 | chaos melt x | KIND is one of
2 | completion tcsh | SHELL is one of bash, zsh, fish
2 | autoscale test formula | --history is missing
2 | jobs --wat | there is no option --wat
2 | submit '' | the command is missing
2 | agent | the following arguments are required: --server, --root, --token-file; see: batchyard agent --help
2 | agent --server x --root y --token-file z --spawners many | argument --spawners: invalid int value: 'many'
2 | agent --server x --root y --token-file z --what | unrecognized arguments: --what
2 | submit --out '' -- true | --out wants a value
2 | tasks {job} --where sort:nothing | tasks have no query word 'nothing'
2 | tasks {job} --where took:>soon | '>soon' is no span of time
2 | job update {job} --priority 5000 | from -1000 to 1000
1 | pool create p -f bad.json | bad.json is no JSON: line 2, column 12: Expecting value
1 | pool create p -f bad.yaml | nor YAML (line 3, column 2: expected ',' or ']', but got ':')
1 | pool create p -f text.json | text.json has no JSON object
1 | pool create p -f deep.json | deep.json is no JSON: it is nested too deep
1 | pool create p -f itself.yaml | holds itself
1 | pool create p -f halves.json | no Unicode
1 | pool create p -f binary | is neither JSON (it is no UTF-8) nor YAML
1 | pool create p -f . | cannot read . (Is a directory)
1 | pool create p -f odd.json | targetDedicatedNode; The property is not known; did you mean targetDedicatedNodes?
1 | task create {job} -f odd-task.json | constraints.maxTaskRetryCnt; The property is not known; did you mean maxTaskRetryCount?
1 | tasks {job} --state running,nope | state is compared with one of active
1 | pool create p --autoscale '$x =' | Line 1, Col 5
1 | pool create p --slots 9999 | taskSlotsPerNode
1 | job create {job} --pool x | JobExists
1 | job show zz* | none of the jobs is called zz*
1 | logs {job}/1-5 | has no tasks 1-5
1 | get {job}/x* | x*
1 | storage create Bad_Name | InvalidResourceName
1 | up --config missing | missing cannot be read
1 | up --config broken --dir x | broken is not TOML
1 | up --probes missing --dir x | missing is no directory
1 | up --host 0.0.0.0 --port 0 --dir x | say --tls auto, or --insecure if that is meant
1 | up --dir broken --port 0 | cannot write to
1 | up --dir /proc/no-such --port 0 | cannot write to /proc/no-such
1 | up --port 1 --host 192.0.2.1 --insecure --dir x | 192.0.2.1
1 | down --dir missing | no server of
2 | account create | ACCOUNT is missing: 3 to 24 lower-case letters and digits
2 | account creat x | account has no 'creat'; did you mean create?
2 | account create abc --pools many | --pools takes a whole number, or none for the server's own
2 | account quota nobody | say what to limit: --pools, --jobs, --cores, --spot-cores
2 | account renew-key third | is one of primary, secondary; it got 'third'
1 | account create Bad_Name --dir {dir} | name; Bad_Name; A name has 3 to 24 lower-case letters and digits
1 | account delete nobody --yes --dir {dir} | AccountNotFound
1 | account list --operator-key missing | the operator's key missing cannot be read (No such file or directory); name it with --operator-key
1 | env --account nobody --dir {dir} | AccountNotFound
1 | env --dir missing | there is no account in
1 | jobs --account other | AuthenticationFailed
1 | jobs --endpoint https://{address} | is it running?
1 | submit --each-line missing -- true | cannot read missing (No such file or directory)
1 | submit --in missing -- true | there is no file missing
1 | submit --stdin missing -- cat | there is no file missing
1 | submit --script missing | cannot read missing
1 | submit --pool no-such-pool -- true | PoolNotFound
1 | wait nothing | there is no job nothing, and no job has a task nothing
1 | logs nothing/x | JobNotFound
1 | logs {job}/x* | no task of {job} is called x*
1 | tasks {job} nothing* | no task of {job} is called nothing*
1 | tasks {job} nothing -o json | no task of {job} is called nothing
1 | tasks {job} 5-9 | no task of {job} is called 5-9
1 | tasks {job} last | there are no tasks in {job}
1 | task list {job}/x* | no task of {job} is called x*
1 | jobs zz* | none of the jobs is called zz*
1 | pools zz* | none of the pools is called zz*
1 | nodes zz* | none of the pools is called zz*
1 | job progress zz* | none of the jobs is called zz*
1 | cancel {job} zz* | no task of {job} is called zz*
1 | retry {job} zz* | no task of {job} is called zz*
1 | node show zz* | there is no node zz*
1 | cancel nothing | JobNotFound
1 | tasks nothing | JobNotFound
1 | jobs --state wrong | InvalidQueryParameterValue
1 | nodes nothing | PoolNotFound
1 | node reboot nothing | there is no node nothing
1 | pool create p -f missing | cannot read missing
1 | pool create p -f broken | broken is neither JSON
1 | pool create not/good | InvalidPropertyValue
1 | pool create p --size nonsense | vmSize
1 | pool resize nothing --nodes 1 | PoolNotFound
1 | pool autoscale {job} @missing | cannot read missing
1 | pool delete nothing | PoolNotFound
1 | pool delete none* | none of the pools is called none*
1 | pool start-task {job} | has no start task
1 | job delete nothing | JobNotFound
1 | job enable {job} | OperationInvalidForCurrentState
1 | task show {job}/nothing | TaskNotFound
1 | task create {job} --id not/good -- true | InvalidPropertyValue
1 | get nothing | there is no job nothing
1 | explain job nothing | JobNotFound
1 | storage list no-such-box | ContainerNotFound
1 | storage cp missing box-x:y | there is no file missing
1 | jobs --endpoint http://127.0.0.1:1 | cannot reach the server
1 | jobs --endpoint ftp://x | is no URL of a server
1 | jobs --key AAAA | does not accept this key
1 | jobs --dir missing | no server of
"""

WRONG_FILES = {
    "bad.json": b'{"id": "p",\n "vmSize": oops}\n',
    "bad.yaml": b"id: p\nvmSize: [a\nb: c\n",
    "text.json": b'"x"',
    "deep.json": b"[" * 100_000,
    "itself.yaml": b"a: &a [*a]\n",
    "halves.json": b'{"id": "\\ud800"}',
    "binary": bytes(range(128, 256)),
    "odd.json": b'{"id": "p", "vmSize": "standard_d2s_v3", "targetDedicatedNode": 1}',
    "odd-task.json": b'{"id": "t", "commandLine": "true", "constraints": {"maxTaskRetryCnt": 2}}',
}


def rows() -> list[tuple[int, str, str]]:
    found = [line.split(" | ", 2) for line in MISTAKES.strip().splitlines()]
    return [(int(code), words, said) for code, words, said in found]


def everything(client: Client) -> set[str]:
    """Pools and jobs that there are."""
    return {f"{kind}/{one['id']}" for kind in ("pools", "jobs") for one in client.listed(kind)}


@pytest.fixture(scope="module")
def still_job(client: Client) -> Iterator[str]:
    """A job, and a pool of its name, that no mistake changes."""
    with a_job_without_nodes(client) as name:
        before = everything(client)
        yield name
        assert everything(client) <= before
        assert client.get("jobs", name)["state"] == "active"
        assert client.get("jobs", name, "taskcounts")["taskCounts"]["active"] == 0


@pytest.mark.parametrize(("code", "words", "said"), rows())
def test_a_mistake_gets_one_sentence(cli: Cli, still_job: str, server: Server, tmp_path: Path, code: int, words: str, said: str) -> None:
    (tmp_path / "lines").write_text("a\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "broken").write_text('{"id": ')
    for name, text in WRONG_FILES.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "formula").write_text("$a = 1;")
    (tmp_path / "many.json").write_text('[{"id": "a", "commandLine": "true"}]')
    done = cli(*shlex.split(words.format(job=still_job, address=urlsplit(server.endpoint).netloc, dir=server.directory)))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("batchyard: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said.format(job=still_job) in done.stderr


@pytest.mark.parametrize("words", ["jobs {job} zz -o id", "pools {job} zz -o id", "job progress {job} zz -o id"])
def test_what_is_there_is_listed_beside_what_is_not(cli: Cli, still_job: str, words: str) -> None:
    done = cli(*words.format(job=still_job).split())
    assert (done.returncode, done.stdout) == (1, f"{still_job}\n")
    assert done.stderr == f"batchyard: none of the {words.split()[0].replace('job', 'jobs').replace('jobss', 'jobs')} is called zz\n"


def test_options_that_choose_nothing_are_no_mistake(cli: Cli, still_job: str) -> None:
    for words in (("tasks", still_job, "--failed"), ("tasks", still_job, "x*", "--failed"), ("jobs", "zz", "--state", "active")):
        done = cli(*words, "-o", "jsonl")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", ["jobs", "pools -o jsonl", "completion bash", "--help", "env", "status"])
def test_an_output_that_cannot_be_written_is_one_sentence(server: Server, cli: Cli, still_job: str, words: str) -> None:
    given = [words, "--dir", str(server.directory)] if words in ("env", "status") else words.split()
    with open("/dev/full", "w") as full:
        done = cli(*given, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "batchyard: cannot go on (No space left on device)\n")


def test_streams_that_are_closed_are_no_mistake(server: Server, still_job: str) -> None:
    script = '"$@" >&- && "$@" <&- >/dev/null && "$@" 2>&- >/dev/null'
    done = subprocess.run(["sh", "-c", script, "sh", *command("jobs")], env=server.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_key_that_is_given_counts_for_a_local_server_too(server: Server, tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    words = command("jobs", "--dir", server.directory, "--key", "QUJD")
    done = subprocess.run(words, env=bare, capture_output=True, text=True, check=False)
    assert (done.returncode, "does not accept this key" in done.stderr) == (1, True)
