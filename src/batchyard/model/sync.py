"""The one conversation between server and agent: a full picture both ways.

The agent says all it runs, the server all it should run; each side computes the difference, so a lost or
repeated message loses nothing. An *attempt* is one run of a task and its name is opaque to the agent.
A *session* is one life of an agent process on a node: whoever speaks with an older session is fenced off.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from batchyard.model.common import ContainerRegistry
from batchyard.model.task import TaskFailureInformation
from batchyard.model.tokens import parted

SYNC_PATH = "/agent/sync"
FILES_PATH = "/agent/files/{request_id}"
STARTS_PATH = "/agent/starts"
FILE_HEADER = "x-batchyard-file"
"""Response head of a file request (JSON of FileHead) on the agent's POST to FILES_PATH."""


def gone(token: str) -> bytes:
    """What a server that knows a node's token answers, with 403, when the node is no more: a stranger at its address never says it."""
    return f"node {parted(token)[1].partition('.')[0]} is gone".encode()


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """Base of what server and agent exchange: unknown members are ignored so that versions may differ."""


class NodeFacts(Message):
    """What the agent found out about its machine at start."""

    agent_version: str
    host_name: str
    ip_address: str
    cores: int
    memory_bytes: int
    process_control: str
    """How everything a task started is ended: `cgroup2`, `freezer` or `session`."""
    switches_users: bool
    """True when tasks run as users of their own; False when they share the agent's user."""
    not_isolated: list[str] = []
    """Sentences for the operator: what could not be isolated on this node and why."""
    disk_bytes: int = 0
    """Size of the file system that holds the node's root."""
    system: str = ""
    """Name and version of the operating system, such as `Debian GNU/Linux 12`."""
    limits: list[str] = []
    """What the agent can hold tasks to: `memory`, `cpu`."""
    ipv6_address: str = ""
    """Empty when the machine has none."""
    engines: list[str] = []
    """Container engines that the machine has, such as `podman`; which one runs is tried when a pool asks for containers."""


class NodeProblem(Message):
    """Something wrong with the node that its agent found (disk nearly full, a probe that fails)."""

    code: str
    message: str
    details: dict[str, str] = {}
    blocking: bool = False
    """True when no task should start there: the node is unusable until this is gone."""


class NodeNews(Message):
    """Something that happened on the node and that whoever looks at it should know of."""

    happened: str
    cause: str
    """What and why, in words that no other of the node's news has."""


FAILURE_EXIT_CODE = "FailureExitCode"
"""Code of a command line that exited with another code than 0 (contract 8.6)."""
UNKNOWN = "Unknown"
"""Code of a run of which nobody knows how it ended (contract 8.6)."""


class Outcome(StrEnum):
    """What the end of an attempt is to the server."""

    DONE = "done"
    BAD_EXIT = "bad exit"
    """The one failure that may be tried again (contract 3.3)."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The node cannot tell, because what watched the run died: as good as a lost node."""


class Ended(Message, kw_only=True):
    """How an attempt ended. Times are microseconds since 1970 by the node's clock."""

    attempt: str
    started: int | None = None
    ended: int
    exit_code: int | None = None
    """Exit code of the command line; 128 + n when signal n ended it; None when it never ran."""
    failure: TaskFailureInformation | None = None
    """Present unless the command line exited with 0 and every output file was uploaded."""
    stage: Literal["preprocessing", "run", "upload"] = "run"
    """Where it failed; tells which exit condition applies."""
    stopped: bool = False
    """True when the service had begun to stop it before it ended: it was let know that the machine goes, or the agent went."""
    user_cpu_us: int = 0
    kernel_cpu_us: int = 0

    @property
    def outcome(self) -> Outcome:
        """What it is to the server."""
        if self.failure is None:
            return Outcome.DONE
        if self.failure.code == FAILURE_EXIT_CODE:
            return Outcome.BAD_EXIT
        return Outcome.UNKNOWN if self.failure.code == UNKNOWN else Outcome.FAILED


class Sync(Message, kw_only=True):
    """What the agent says: its full picture."""

    session: int = 0
    """0 to join: the server answers with a new session and NodeSetup."""
    number: int
    """Grows with every sync of a session; the answer repeats it and only the newest answer counts."""
    has: list[str] = []
    """Attempts that the agent holds in any stage, ended ones that were not yet acknowledged included."""
    ended: list[Ended] = []
    """Acknowledged by any answer to this sync that is not fenced."""
    ready: list[str] = []
    """Instances of multi-instance tasks whose coordination command has succeeded; acknowledged by any answer that is not fenced."""
    removed: list[int] = []
    """Numbers of the removals that are done."""
    facts: NodeFacts | None = None
    root: str | None = None
    """With a join: tells the agent's root directory from every other one, on this machine and on others."""
    clock: int | None = None
    """The node's time in microseconds since 1970 as it sends this; the server compares it with its own."""
    unwatched: bool = False
    """At a join: what an earlier agent of the node ran may have run on, with nobody watching, until just before this."""
    leaving: bool = False
    """The agent was told to stop and has ended what it ran: the last word of the session, with the ends that were not told yet."""
    problems: list[NodeProblem] | None = None
    """All that is wrong now; None says that nothing changed since the last list of the session."""
    news: list[NodeNews] = []
    """Acknowledged by any answer to this sync that is not fenced."""
    wait_s: float = 0
    """How long the server may hold the answer when there is nothing new, in seconds."""


class Package(Message):
    """An application package that a node or an attempt needs."""

    application: str
    asked: str | None = None
    """The version that was asked for; None for the default one."""
    directory: str = ""
    """Name below the node's `applications`, the same for the same content only; empty when there is no such package."""
    blob: str = ""
    """Name of its zip file in the container of the packages; a node needs the URL only."""
    url: str = ""
    """Of the zip file, signed."""
    bytes: int = 0
    """Of the zip file."""


class Gang(Message):
    """What an attempt of a multi-instance task is told of all instances (contract 3.10, 4.3)."""

    number: int
    """Of this instance; 0 is the primary."""
    addresses: list[str]
    """IP address of the node of each instance, by number."""
    within: str | None = None
    """The attempt of the primary's own instance, in whose directory and as whose user the task's command line runs.

    None for an instance: it brings the common files, runs the coordination command, says that it is ready and stays until it is ended."""


class Order(Message):
    """An attempt that the node should make."""

    attempt: str
    job_id: str
    task: msgspec.Raw
    """The stored TaskCreateContent as JSON, defaults filled in."""
    environment: msgspec.Raw = msgspec.Raw(b"[]")
    """The job's commonEnvironmentSettings as JSON (a list of EnvironmentSetting)."""
    preparation_id: str | None = None
    """The job's preparation task, whose directory the attempt is told of."""
    token: str | None = None
    """What the attempt may show to the server as its own; goes into AZ_BATCH_AUTHENTICATION_TOKEN."""
    after_others: bool = False
    """True for a release task: it begins once no other attempt of the job is left on the node."""
    start: bool = False
    """True for the node's start task, which has no job: `job_id` is empty, its directory is `startup`."""
    packages: list[Package] = []
    """Of the task itself; those of the pool came with NodeSetup."""
    gang: Gang | None = None
    """Present for an instance of a multi-instance task, and for its command line."""


class FileRequest(Message):
    """Something that a client asks of a node and waits for, mostly of its files; answered by a POST to FILES_PATH."""

    id: str
    operation: str
    """get, properties, list, delete, starts (files); add_user, update_user, delete_user; upload_logs; chaos; exec. There may be others."""
    base: str = ""
    """Directory below the node's root that the path may not leave, `` for the root itself."""
    path: str = ""
    """Relative to base; `` is base itself."""
    content: msgspec.Raw = msgspec.Raw(b"{}")
    """What the operation needs beyond a path, as JSON: NodeUserCreate, NodeUserUpdate, LogUpload, Chaos, Execution, Starts."""
    recursive: bool = False
    after: str = ""
    """A list goes on behind this name; an agent of an older release begins with the first."""
    limit: int | None = None
    """Entries of a list at most."""
    offset: int = 0
    length: int | None = None
    """Bytes wanted from offset; None means to the end."""


class FileEntry(Message):
    """A file or directory as the node sees it."""

    name: str
    """Path relative to base, separated by `/`."""
    is_directory: bool
    size: int = 0
    modified: int = 0
    """Microseconds since 1970."""
    mode: int = 0
    """The permission and type bits of stat."""


class FileHead(Message):
    """How a file request went; the body of the POST carries the bytes (get) or a JSON list of FileEntry (list)."""

    error: str | None = None
    """Code of the contract's catalogue: FileNotFound, IOError, InvalidRange …"""
    reason: str | None = None
    """What a client is told beyond the code."""
    entry: FileEntry | None = None
    offset: int = 0
    length: int = 0
    """Bytes that follow."""


class Removal(Message):
    """A directory below the node's root that nobody needs any more; repeated until it was reported as removed."""

    number: int
    directory: str


class NodeAccount(Message):
    """A named user of the pool that tasks may run as (contract 4.4)."""

    name: str
    admin: bool = False
    uid: int | None = None
    gid: int | None = None


class LogUpload(Message):
    """Which of the agent's logs go where; times are microseconds since 1970."""

    container_url: str
    directory: str
    """Prefix of the blobs' names."""
    start: int
    end: int | None = None


class Execution(Message):
    """A command that runs inside of an attempt; the answer is a stream of `frames`."""

    attempt: str
    command: list[str]
    limit_s: float
    """When it is ended, in seconds; negative: with the attempt only."""
    name: str = ""
    """Of a command that goes on when the line to the server breaks: who names it again has the rest of its output."""


class RemoteStart(Message):
    """What an attempt of a multi-instance task asks of its agent, and this of the server: a command on the node of another instance.

    POSTed to STARTS_PATH; the answer is a stream of `frames`.
    """

    attempt: str
    """Who asks."""
    host: str
    """Address, host name or node id of the other node."""
    command: str
    """Words for a shell."""
    name: str
    """Tells this start from all others, for when it is asked for again because the line to the server broke."""


class Starts(Message):
    """Files of several directories of which the first bytes are wanted; the answer has a frame for each, in this order."""

    directories: list[str]
    files: list[str]
    most: int
    """Bytes of each."""


class Chaos(Message):
    """A disturbance on demand, only on a server that was started with `--chaos`."""

    kind: Literal["kill", "slow", "disk-full", "heal"]
    seconds: float = 0.0
    """By how much `slow` delays every start."""


class NodeContainers(Message):
    """What the pool says of containers."""

    images: list[str] = []
    """There before the node takes tasks."""
    registries: list[ContainerRegistry] = []


class NodeSetup(Message):
    """What an agent has to know about its node, given once when it joins."""

    pool_id: str
    node_id: str
    is_dedicated: bool
    account_name: str
    account_url: str
    slots: int
    cores: int = 0
    """Cores that all tasks of the node may use together; 0 for no limit."""
    memory_bytes: int = 0
    """Memory that all tasks of the node may use together; 0 for no limit."""
    task_disk_bytes: int = 0
    """Room on the disk that the directory of each task may take; 0 for no limit."""
    accounts: list[NodeAccount] = []
    packages: list[Package] = []
    """Of the pool: there before any task starts."""
    package_bytes: int = 4 << 30
    """Most that the content of a package may take on the disk."""
    package_entries: int = 100_000
    """Most files, directories and links of a package."""
    input_cache_bytes: int = 0
    """Room for inputs that tasks share; 0 when the pool wants no such cache."""
    containers: NodeContainers | None = None
    """None for a pool whose tasks do not run in containers."""


class Orders(Message):
    """What the server answers: all that the node should run."""

    session: int
    number: int
    ends: bool = False
    """This server ends: another one is to be asked, by who knows one."""
    fenced: bool = False
    """The session is over: end everything, forget everything, join again."""
    wanted: list[str] = []
    """All attempts that the node should hold; what it holds beyond these is to be ended."""
    orders: list[Order] = []
    """The wanted attempts that `Sync.has` did not name."""
    files: list[FileRequest] = []
    removals: list[Removal] = []
    notice_s: float | None = None
    """The machine will be taken away in so many seconds: running tasks get SIGTERM, once (contract 2.2, preempted)."""
    setup: NodeSetup | None = None
