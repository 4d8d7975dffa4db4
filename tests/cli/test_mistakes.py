"""Mistakes get one clear sentence on stderr, nothing on stdout, and 2 when the words make no sense, 1 when it cannot be done."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, a_job_without_nodes

from batchyard.cli.client import Client

MISTAKES = """
2 | jbos | there is no command 'jbos'; did you mean jobs?
2 | pool creat x | pool has no 'creat'; did you mean create?
2 | schedule list | there is no schedule yet
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
2 | explain jobs x | job|task|pool is one of job, task, pool
2 | env --for cobol | --for is one of
2 | up --port 99999 | from 0 to 65535
2 | chaos melt x | KIND is one of
2 | completion tcsh | SHELL is one of bash, zsh, fish
2 | autoscale test formula | --history is missing
2 | jobs --wat | there is no option --wat
1 | submit --each-line missing -- true | cannot read missing (No such file or directory)
1 | submit --in missing -- true | there is no file missing
1 | submit --stdin missing -- cat | there is no file missing
1 | submit --script missing | cannot read missing
1 | submit --pool no-such-pool -- true | PoolNotFound
1 | wait nothing | there is no job nothing, and no job has a task nothing
1 | logs nothing/x | JobNotFound
1 | logs {job}/x* | no task of {job} is called x*
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


def rows() -> list[tuple[int, str, str]]:
    found = [line.split(" | ", 2) for line in MISTAKES.strip().splitlines()]
    return [(int(code), words, said) for code, words, said in found]


@pytest.fixture(scope="module")
def still_job(client: Client) -> Iterator[str]:
    """A job, and a pool of its name, that no mistake changes."""
    with a_job_without_nodes(client) as name:
        yield name
        assert client.get("jobs", name)["state"] == "active"
        assert client.get("jobs", name, "taskcounts")["taskCounts"]["active"] == 0


@pytest.mark.parametrize(("code", "words", "said"), rows())
def test_a_mistake_gets_one_sentence(cli: Cli, still_job: str, tmp_path: Path, code: int, words: str, said: str) -> None:
    (tmp_path / "lines").write_text("a\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "broken").write_text('{"id": ')
    (tmp_path / "formula").write_text("$a = 1;")
    (tmp_path / "many.json").write_text('[{"id": "a", "commandLine": "true"}]')
    done = cli(*shlex.split(words.format(job=still_job)))
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("batchyard: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said.format(job=still_job) in done.stderr
