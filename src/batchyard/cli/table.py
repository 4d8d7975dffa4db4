"""The command line as one table: nouns, verbs, words and options. Parser, help, completion and docs/cli.md are made from it."""

from __future__ import annotations

from batchyard.cli.grammar import FLAG, PATH, TEXT, Flag, Kind, Noun, Verb, Word, number, one_of, whole
from batchyard.settings import FILE as SETTINGS_FILE
from batchyard.settings import SETTINGS, Setting

FORMATS = one_of("table", "wide", "json", "jsonl", "yaml", "id", "name")
TREES = one_of("tree", "json")

DIRECTORY = Flag("directory", ("--dir",), "State directory: accounts, jobs, files.", PATH, "DIR", shown="$BATCHYARD_DIR")
HELP = Flag("help", ("-h", "--help"), "Say what the command does.", FLAG)
CONNECTION = (
    Flag("endpoint", ("--endpoint",), "URL of the server.", TEXT, "URL", shown="$AZURE_BATCH_ENDPOINT", group="connection"),
    Flag("account", ("--account",), "Batch account.", TEXT, "NAME", shown="$AZURE_BATCH_ACCOUNT", group="connection"),
    Flag("key", ("--key",), "Key of the account.", TEXT, "KEY", shown="$AZURE_BATCH_ACCESS_KEY", group="connection"),
    Flag("directory", ("--dir",), "State directory of a local server.", PATH, "DIR", shown="$BATCHYARD_DIR", group="connection"),
)
_OUTPUT = Flag("output", ("-o", "--output"), "How the answer is printed.", FORMATS, default="table", group="shown")
_QUERY = Flag("query", ("--query",), "JMESPath that chooses from the answer.", TEXT, "PATH", group="shown")
_WATCH = Flag("watch", ("-w", "--watch"), "Go on, and print again what changes.", FLAG, group="shown")
SHOWN = (_OUTPUT._replace(default="yaml"), _QUERY)
LISTED = (_OUTPUT, _QUERY, _WATCH)
PICK = (
    Flag("state", ("--state",), "Only those in these states, as running,preparing.", TEXT, "STATE", group="pick"),
    Flag("since", ("--since",), "Only those whose state changed since: 90s, 5m, 1h, 2d or a time.", TEXT, "TIME", group="pick"),
    Flag("limit", ("--limit",), "At most so many.", whole(1), "N", group="pick"),
    Flag(
        "where",
        ("--where",),
        "Query words, as 'state:failed exit:137 node:tvm* took:>10m sort:-ended'.",
        TEXT,
        "WORDS",
        many=True,
        group="pick",
    ),
)
PICK_TASKS = (
    Flag("failed", ("--failed",), "Only those that failed.", FLAG, group="pick"),
    Flag("exit", ("--exit",), "Only those with these exit codes, as 1,137 or 64-78.", TEXT, "CODE", group="pick"),
    *PICK,
)
YES = Flag("yes", ("-y", "--yes"), "Ask nothing.", FLAG)
FILE = Flag("file", ("-f", "--file"), "The service's own JSON, or YAML, for all that has no option; - is stdin.", TEXT, "FILE|-")
DRY = Flag("dry_run", ("--dry-run",), "Check what would be sent, print it, send nothing.", FLAG)
JOB = Flag("job", ("--job",), "Job of the tasks that are named without one.", TEXT, "JOB", names="jobs")
FOLLOW = Flag("follow", ("-f", "--follow"), "Go on while it is written.", FLAG)

_JOB = Word("job", "JOB", "id of a job", names="jobs")
_SCHEDULE = Word("schedule", "SCHEDULE", "id of a job schedule", names="jobschedules")
_SCHEDULES = Word("schedules", "SCHEDULE", "id, several, or a glob", "+", names="jobschedules")
_JOBS = Word("jobs", "JOB", "id, several, a glob, or last", "+", names="jobs")
_POOL = Word("pool", "POOL", "id of a pool", names="pools")
_POOLS = Word("pools", "POOL", "id, several, or a glob", "+", names="pools")
_TASK = Word("task", "TASK", "TASK or JOB/TASK", names="tasks")
_TASKS = Word("tasks", "TASK", "JOB/TASK, TASK, ranges as JOB/1-10,15, globs as JOB/x*, last", "+", names="tasks")
_NODE = Word("node", "NODE", "POOL/NODE, NODE, or as much of it as no other shares", names="nodes")
_NODES = Word("nodes", "NODE", "POOL/NODE, NODE, a part of it that no other shares, or POOL/*", "+", names="nodes")
_ALL_JOBS = _JOBS._replace(times="*", help="ids or globs; all when none is named")
_ALL_POOLS = _POOLS._replace(times="*", help="ids or globs; all when none is named")
_COMMAND = Word("command", "-- COMMAND...", "program and arguments; no shell reads them", "rest")
_ID = Word("name", "ID", "id of the new one, unless the file says it", "?")

_WANTED = Flag("wanted", ("--when",), "What becomes of running tasks.", one_of("requeue", "terminate", "taskcompletion"))
_NODE_ACTION = (_WANTED, YES)
_SIZE = (
    Flag("nodes", ("--nodes",), "Dedicated nodes.", whole(0), "N"),
    Flag("low_priority", ("--low-priority",), "Low-priority nodes, which may be taken away.", whole(0), "N"),
)
_POOL_FLAGS = (
    *_SIZE,
    Flag("size", ("--size",), "Size of a node, as standard_d2s_v3.", TEXT, "VMSIZE"),
    Flag("slots", ("--slots",), "Tasks that a node runs at once.", whole(1), "N"),
)
_START_TASK = Flag("start_task", ("--start-task",), "Command that each node runs when it joins.", TEXT, "COMMAND")
_METADATA = Flag("metadata", ("--metadata",), "Something to remember with it.", TEXT, "N=V", many=True)
_PRIORITY = Flag("priority", ("--priority",), "From -1000 to 1000; higher goes first.", whole(-1000, 1000), "N")
_PARALLEL = Flag("parallel", ("--parallel",), "At most so many of its tasks at once; -1: no limit.", whole(-1), "N")
_RETRIES = Flag("retries", ("--retries",), "How often to run a failing task again; -1: always.", whole(-1), "N")
_SLOTS = Flag("slots", ("--slots",), "Slots of a node that the task takes.", whole(1), "N")
_ENV = Flag("env", ("--env",), "Environment variable.", TEXT, "N=V", many=True)
_STDERR = Flag("stderr", ("--stderr",), "What it wrote to stderr.", FLAG)
_FILE_PATH = Word("path", "PATH", "path of a file or directory; the list of files without one", "?")
_INTO = Flag("into", ("--into",), "Directory to write to.", PATH, "DIR", default=".")

_TIMES = (
    Flag("every", ("--every",), "Run it again and again, first now: 90s, 5m, 1h, 2d.", TEXT, "SPAN"),
    Flag("cron", ("--cron",), "Run it at these times, as '30 2 * * mon-fri'.", TEXT, "CRON"),
    Flag("time_zone", ("--time-zone",), "Zone that --cron is meant in, as Europe/Berlin; UTC without it.", TEXT, "ZONE"),
)

SUBMIT = Verb(
    "submit",
    "run:submit",
    "Run a command as a task, or as many tasks.",
    (_COMMAND._replace(times="rest*"),),
    (
        Flag("pool", ("--pool",), "Pool; one named default is made when none is named.", TEXT, "POOL", names="pools"),
        JOB._replace(help="Job; the default one when none is named."),
        Flag("id", ("--id",), "Id of the task, start of the ids of several.", TEXT, "ID"),
        Flag("name", ("--name",), "Name to show with it.", TEXT, "TEXT"),
        _SLOTS,
        _RETRIES,
        Flag("instances", ("--instances",), "Nodes on which each task runs at once.", whole(1), "N"),
        Flag("coordination", ("--coordination",), "Command that all its instances run before it.", TEXT, "CMD"),
        Flag("after", ("--after",), "Run after this task succeeded.", TEXT, "TASK", many=True, names="tasks"),
        Flag("inputs", ("--in",), "File or directory that the task gets.", PATH, "FILE", many=True),
        Flag("out", ("--out",), "Files to keep when it succeeded.", TEXT, "GLOB", many=True),
        _ENV,
        Flag("cwd", ("--cwd",), "Directory to run in, below the task's own or absolute.", TEXT, "DIR"),
        Flag("stdin", ("--stdin",), "File that it reads as stdin; - is this command's.", TEXT, "FILE|-"),
        Flag("each_line", ("--each-line",), "A task per line, which replaces {}; - is stdin.", TEXT, "FILE|-"),
        Flag("array", ("--array",), "A task per number, which replaces {}; as 1-10,15.", TEXT, "RANGE"),
        *_TIMES,
        Flag("matrix", ("--matrix",), "A task per value, which replaces {NAME}; several make all pairs.", TEXT, "N=A,B", many=True),
        Flag("script", ("--script",), "Script to run, whose #BATCHYARD lines are options.", PATH, "FILE"),
        *_SIZE[:1],
        Flag("size", ("--size",), "Size of the nodes of a pool that --nodes makes.", TEXT, "VMSIZE"),
        FOLLOW._replace(help="Show the output while it is written."),
        Flag("wait", ("--wait",), "Wait for the end; return the task's exit code.", FLAG),
        Flag("out_dir", ("--out-dir",), "Where --out files go after --wait or -f.", PATH, "DIR", default="."),
        DRY,
    ),
    serves=(
        "POST /jobs/{job_id}/addtaskcollection",
        "POST /jobs",
        "POST /jobschedules",
        "POST /pools",
        "POST /batchyard/jobs/{job_id}/outputs",
    ),
)
LOGS = Verb(
    "logs",
    "logs:logs",
    "Print what tasks wrote.",
    (_TASKS,),
    (
        JOB,
        FOLLOW,
        _STDERR,
        Flag("prefix", ("--prefix",), "Begin every line with the task's name.", FLAG),
        Flag("tail", ("--tail",), "Only the last lines of each.", whole(0), "N"),
        *PICK_TASKS,
    ),
    serves=("GET /jobs/{job_id}/tasks/{task_id}/files/{file_path}",),
)
WAIT = Verb(
    "wait",
    "daily:wait",
    "Wait for a task, or for all tasks of a job; return the task's exit code, or 1 when any failed.",
    (Word("names", "JOB|TASK", "JOB, TASK or JOB/TASK", "+", names="tasks"),),
    (JOB,),
    serves=("GET /jobs/{job_id}/taskcounts",),
)
CANCEL = Verb(
    "cancel",
    "daily:cancel",
    "End tasks, or a job and all its tasks.",
    (Word("job", "JOB", "JOB, or JOB/TASK", names="jobs"), Word("tasks", "TASK", "tasks of the job", "*")),
    (*PICK_TASKS, YES),
    serves=("POST /jobs/{job_id}/tasks/{task_id}/terminate",),
)
RETRY = Verb(
    "retry",
    "daily:retry",
    "Run tasks again that ended.",
    (Word("job", "JOB", "JOB, or JOB/TASK", names="jobs"), Word("tasks", "TASK", "tasks of the job", "*")),
    PICK_TASKS,
    serves=("POST /jobs/{job_id}/tasks/{task_id}/reactivate",),
)
GET = Verb(
    "get",
    "fetch:get",
    "Fetch the files that --out kept, and files of tasks.",
    (
        Word("what", "JOB[/TASK]", "a job, or tasks of one", names="tasks"),
        Word("globs", "GLOB", "files of the task's directory too, as '*.csv' or stdout.txt", "*"),
    ),
    (JOB, _INTO, *PICK_TASKS),
    serves=("POST /batchyard/v1/storage/{storage_account}/{container}/contents",),
)
EXPLAIN = Verb(
    "explain",
    "explain:explain",
    "Say why a task, a job, a schedule, a pool or a node does not run, and what to do.",
    (
        Word("kind", "job|task|schedule|pool|node", "what to explain", kind=one_of("job", "task", "schedule", "pool", "node")),
        Word("name", "ID", "its id; that of a task may be JOB/TASK, of a node POOL/NODE", names="tasks"),
    ),
    (JOB, Flag("output", ("-o", "--output"), "tree, or json as the service gives it.", TREES, default="tree")),
    serves=(
        "GET /batchyard/explain/jobs/{job_id}",
        "GET /batchyard/explain/jobs/{job_id}/tasks/{task_id}",
        "GET /batchyard/explain/jobschedules/{schedule_id}",
        "GET /batchyard/explain/pools/{pool_id}",
        "GET /batchyard/explain/pools/{pool_id}/nodes/{node_id}",
    ),
)
LIST_JOBS = Verb("list", "lists:jobs", "List the jobs with their task counts.", (_ALL_JOBS,), (*LISTED, *PICK), serves=("GET /jobs",))
LIST_TASKS = Verb(
    "list",
    "lists:tasks",
    "List the tasks of a job.",
    (_JOB, Word("tasks", "TASK", "ids, ranges or globs; all when none is named", "*")),
    (*LISTED, *PICK_TASKS),
    serves=("GET /jobs/{job_id}/tasks",),
)
LIST_NODES = Verb(
    "list",
    "lists:nodes",
    "List the nodes of a pool, or of all.",
    (_POOL._replace(times="?"),),
    (*LISTED, *PICK),
    serves=("GET /pools/{pool_id}/nodes",),
)
LIST_POOLS = Verb("list", "lists:pools", "List the pools.", (_ALL_POOLS,), (*LISTED, *PICK), serves=("GET /pools",))


_KINDS = {"text": TEXT, "path": PATH, "switch": FLAG}


def _kind(setting: Setting) -> Kind:
    if setting.kind == "choice":
        return one_of(*setting.choices)
    return _KINDS.get(setting.kind) or Kind(setting.kind, setting.choices, setting.low, setting.high)


def _option(setting: Setting) -> Flag:
    """The option of a setting; without a default of its own, because what was not given may stand in the file."""
    off = (setting.off,) if setting.kind == "switch" else ()
    said = setting.shown or ("" if setting.default in (None, False) else f"{setting.default}")
    return Flag(
        setting.name,
        (setting.flag, *off),
        setting.help,
        _kind(setting),
        setting.metavar,
        many=setting.many,
        shown=said,
        group="options",
        off=off,
    )


OPTIONS = tuple(map(_option, SETTINGS))
_CONFIG = Flag(
    "file",
    ("--config",),
    "TOML file with settings, sizes and quotas; see docs/configuration.md.",
    PATH,
    "FILE",
    shown=f"$BATCHYARD_CONFIG, else {SETTINGS_FILE} of the state directory",
)


def _server(name: str, help_: str) -> Verb:
    return Verb(name, f"server:{name}", help_, (), (DIRECTORY, _CONFIG, *OPTIONS), server=False)


DOCTOR = Verb(
    "doctor",
    "doctor:doctor",
    "Check this machine and say how to mend what is wrong; exit code 1 when the server cannot work.",
    (),
    (
        DIRECTORY._replace(help="State directory to look at."),
        Flag("host", ("--host",), "Address that the server is to listen on.", TEXT, "ADDRESS", default="127.0.0.1"),
        Flag("port", ("--port",), "Port that the server is to listen on.", whole(0, 65535), "N", default=8777),
        Flag("output", ("-o", "--output"), "table or json.", one_of("table", "json"), default="table"),
    ),
    server=False,
)
CHAOS = Verb(
    "chaos",
    "chaos:chaos",
    "Disturb a node, if the server was started with --chaos.",
    (
        Word(
            "kind",
            "KIND",
            "preempt, kill, slow, disk-full, or heal to end slow and disk-full",
            kind=one_of("preempt", "kill", "slow", "disk-full", "heal"),
        ),
        Word("node", "NODE", "its id, or as much of it as no other node shares", names="nodes"),
    ),
    (Flag("seconds", ("--seconds",), "preempt: the notice, 30 when none is given; slow: the delay of every start.", number(0), "N"),),
    serves=("POST /batchyard/chaos/nodes/{node_id}",),
)
ENV = Verb(
    "env",
    "env:env",
    'Print shell exports for the Azure SDKs and az batch: eval "$(batchyard env)".',
    (),
    (
        DIRECTORY,
        Flag("account", ("--account",), "Another account than the server's first one; the operator's key is used.", TEXT, "NAME"),
        Flag(
            "for_",
            ("--for",),
            "The values and lines for this client.",
            one_of("sdk14", "sdk15", "dotnet", "java", "javascript", "az", "nextflow", "snakemake", "airflow"),
        ),
    ),
    server=False,
)
_IN_DATABASE = (
    Flag("database", ("--database",), "PostgreSQL database that the accounts are in, as the server was told.", TEXT, "URL"),
    Flag("blobs", ("--blobs",), "Directory of all accounts' blobs with a database, as the server was told.", PATH, "DIR"),
)
COMPLETION = Verb(
    "completion",
    "completion:script",
    'Print the completion of a shell: eval "$(batchyard completion bash)".',
    (Word("shell", "SHELL", "bash, zsh or fish", kind=one_of("bash", "zsh", "fish")),),
    server=False,
)
MAN = Verb(
    "man",
    "man:show",
    "Show a page of the manual.",
    (Word("word", "COMMAND|NOUN", "what it is about; all commands without one", "?", names="commands"),),
    server=False,
)

COMMANDS: tuple[Verb, ...] = (
    SUBMIT,
    LOGS,
    WAIT,
    CANCEL,
    RETRY,
    GET,
    EXPLAIN,
    Verb(
        "top",
        "daily:top",
        "Watch pools, nodes and running tasks.",
        (),
        (Flag("once", ("--once",), "Print one picture and end.", FLAG, default=False),),
    ),
    LIST_JOBS._replace(name="jobs"),
    LIST_TASKS._replace(name="tasks"),
    LIST_NODES._replace(name="nodes"),
    LIST_POOLS._replace(name="pools"),
    _server("up", "Start a server in the background."),
    Verb("down", "server:down", "End the server and its local nodes; the state stays.", (), (DIRECTORY,), server=False),
    Verb("status", "server:status", "Say whether the server runs and what it holds.", (), (DIRECTORY,), server=False),
    ENV,
    Verb(
        "ca",
        "trust:ca",
        "Print what clients need to believe a server with a certificate authority of its own.",
        (),
        (DIRECTORY, Flag("pem", ("--pem",), "The authority itself, to be copied to other machines.", FLAG, default=False)),
        server=False,
    ),
    _server("serve", "Run a server in the foreground."),
    Verb(
        "config",
        "server:config",
        "Print what a server would be told by the file, the variables and these options, and where each value comes from.",
        (),
        (DIRECTORY, _CONFIG, Flag("output", ("-o", "--output"), "table or json.", one_of("table", "json"), default="table"), *OPTIONS),
        server=False,
    ),
    Verb(
        "backup",
        "server:backup",
        "Write all that a state directory holds but its nodes to one new file, while the server works.",
        (Word("archive", "FILE", "tar, or tar.gz, to be made; it holds all keys"),),
        (DIRECTORY, Flag("no_blobs", ("--no-blobs",), "Leave the blobs of the storage accounts out.", FLAG), *_IN_DATABASE),
        server=False,
    ),
    Verb(
        "restore",
        "server:restore",
        "Fill a new state directory from a backup.",
        (Word("archive", "FILE", "what `batchyard backup` wrote"),),
        (DIRECTORY,),
        server=False,
    ),
    Verb(
        "migrate",
        "server:migrate",
        "Move an account, or all, into PostgreSQL or into a directory, while no server works.",
        (Word("account", "ACCOUNT", "name of the account; none with --all", "?"),),
        (
            DIRECTORY,
            Flag("everything", ("--all",), "All accounts and what is known of them.", FLAG, default=False),
            Flag("to", ("--to",), "Where to: the URL of a schema of PostgreSQL, or a directory that is not there yet.", TEXT, "PLACE"),
            *_IN_DATABASE,
            Flag("force", ("--force",), "Also while tasks run; they go on, or run again.", FLAG, default=False),
            Flag("remove_old", ("--remove-old",), "Remove what was there before, once the new one holds all of it.", FLAG, default=False),
        ),
        server=False,
    ),
    Verb(
        "agent",
        "server:agent",
        "Run a compute node on this machine; `batchyard agent --help` says how.",
        (Word("given", "ARGUMENTS", "", "*"),),
        server=False,
        raw=True,
    ),
    Verb(
        "join",
        "joining:join",
        "Make this machine a node of a pool elsewhere, or go on as the node that it is.",
        (Word("server", "SERVER", "URL of the server, as https://host:8777, or several with commas; not needed once it has joined", "?"),),
        (
            Flag("token", ("--token",), "What `batchyard pool join-token` prints; - reads it from stdin.", TEXT, "TOKEN|-"),
            Flag(
                "home",
                ("--home",),
                "The node's directory.",
                PATH,
                "DIR",
                shown="/var/lib/batchyard-node, or ~/.local/share/batchyard-node",
            ),
            Flag("pool", ("--pool",), "Refuse a token of any other pool.", TEXT, "POOL"),
            Flag("ca_file", ("--ca-file",), "Authority of the server, instead of that of the token.", PATH, "FILE"),
            Flag("insecure", ("--insecure",), "Allow plain HTTP to another machine.", FLAG, default=False),
            Flag("systemd", ("--systemd",), "Join, and print a systemd unit instead of running the node.", FLAG, default=False),
            Flag("install", ("--install",), "Join, and write that unit to a file, or into a directory.", PATH, "PATH"),
        ),
        server=False,
    ),
    CHAOS,
    DOCTOR,
    COMPLETION,
    MAN,
)
"""The daily words, and those that have no noun."""

_TRACE = Verb(
    "trace",
    "autoscale:trace",
    "Show the last evaluations of a pool's formula: what it saw, its variables, what was decided.",
    (_POOL,),
    (
        Flag("runs", ("-n", "--runs"), "How many of the last evaluations.", whole(1), "N", default=5),
        Flag("output", ("-o", "--output"), "tree, or json as the service gives it.", TREES, default="tree"),
        Flag("samples", ("--samples",), "Print the recorded samples instead, as a history file.", FLAG, default=False),
    ),
    serves=("GET /batchyard/autoscale/pools/{pool_id}",),
)
_AUTOSCALE = Noun(
    "autoscale",
    "See how pools are scaled by their formulas, and try formulas out.",
    (
        _TRACE,
        Verb(
            "test",
            "autoscale:try_out",
            "Run a formula over recorded samples, without any server.",
            (Word("formula", "FORMULA_FILE", "file with the formula", kind=PATH),),
            (
                Flag("history", ("--history",), "Recorded samples, as `trace --samples` prints them.", PATH, "FILE"),
                Flag("at", ("--at",), "When to evaluate it; the time of the last sample.", TEXT, "TIME"),
                Flag("every", ("--every",), "Evaluate it at this interval from the first sample on, as PT5M.", TEXT, "DURATION"),
                Flag("dedicated", ("--dedicated",), "Target of dedicated nodes to begin with.", whole(0), "N", default=0),
                Flag("low_priority", ("--low-priority",), "Target of low-priority nodes to begin with.", whole(0), "N", default=0),
            ),
            server=False,
        ),
    ),
)


def _create(run: str, what: str, flags: tuple[Flag, ...], serves: str, words: tuple[Word, ...] = (_ID,)) -> Verb:
    return Verb("create", run, f"Add {what}.", words, (*flags, FILE, DRY), serves=(serves,), aliases=("add",))


def _delete(run: str, what: str, words: tuple[Word, ...], serves: str, flags: tuple[Flag, ...] = ()) -> Verb:
    return Verb("delete", run, f"Delete {what}.", words, (*flags, YES), serves=(serves,), aliases=("remove", "rm"))


_WHOLE = Flag("replace", ("--replace",), "The file is all of it: what it leaves out is reset.", FLAG, default=False)

POOL = Noun(
    "pool",
    "Pools of nodes.",
    (
        _create(
            "pools:create",
            "a pool",
            (
                *_POOL_FLAGS,
                _START_TASK,
                _METADATA,
                Flag("autoscale", ("--autoscale",), "Formula that decides its size.", TEXT, "FORMULA"),
                Flag("inter_node", ("--inter-node",), "Its nodes may talk to each other, for multi-instance tasks.", FLAG),
            ),
            "POST /pools",
        ),
        LIST_POOLS,
        Verb("show", "pools:show", "Show pools.", (_POOLS,), SHOWN, serves=("GET /pools/{pool_id}",)),
        Verb(
            "update",
            "pools:update",
            "Change a pool.",
            (_POOL,),
            (_START_TASK, _METADATA, _WHOLE, FILE, DRY),
            serves=("PATCH /pools/{pool_id}", "POST /pools/{pool_id}/updateproperties"),
        ),
        _delete("pools:delete", "pools and their nodes", (_POOLS,), "DELETE /pools/{pool_id}"),
        Verb(
            "resize",
            "pools:resize",
            "Change how many nodes a pool has.",
            (_POOL,),
            (*_SIZE, *_NODE_ACTION),
            serves=("POST /pools/{pool_id}/resize",),
        ),
        Verb(
            "stop-resize",
            "pools:stop_resize",
            "Leave a pool at the size that it has.",
            (_POOL,),
            serves=("POST /pools/{pool_id}/stopresize",),
        ),
        Verb(
            "autoscale",
            "pools:autoscale",
            "Let a formula decide the size of a pool, or no longer.",
            (_POOL, Word("formula", "FORMULA", "text, or @FILE", "?")),
            (
                Flag("every", ("--every",), "How often to evaluate it, as PT5M.", TEXT, "DURATION"),
                Flag("off", ("--off",), "The size is a number again.", FLAG, default=False),
            ),
            serves=("POST /pools/{pool_id}/enableautoscale", "POST /pools/{pool_id}/disableautoscale"),
        ),
        Verb(
            "evaluate",
            "pools:evaluate",
            "Say what a formula would decide now.",
            (_POOL, Word("formula", "FORMULA", "text, or @FILE; the pool's own without one", "?")),
            serves=("POST /pools/{pool_id}/evaluateautoscale",),
        ),
        _TRACE,
        Verb(
            "start-task",
            "pools:start_task",
            "Show, set or take away the command that each node runs when it joins.",
            (_POOL, _COMMAND._replace(times="rest*")),
            (Flag("off", ("--off",), "Take it away.", FLAG, default=False),),
        ),
        Verb(
            "join-token",
            "joining:make",
            "Make a token by which machines join a pool, and print the line for them.",
            (_POOL,),
            (
                Flag("uses", ("--uses",), "How many machines may join with it.", whole(1, 10_000), "N", default=1),
                Flag("expires", ("--expires",), "How long it is good: 30m, 1h, 2d; at most 30d.", TEXT, "SPAN", default="1h"),
                *LISTED[:2],
            ),
            serves=("POST /batchyard/v1/pools/{pool_id}/jointokens",),
        ),
        Verb(
            "join-tokens",
            "joining:tokens",
            "List the join tokens of a pool.",
            (_POOL,),
            LISTED,
            serves=("GET /batchyard/v1/pools/{pool_id}/jointokens",),
        ),
        Verb(
            "revoke-token",
            "joining:revoke",
            "Have join tokens be good for nothing; nodes that joined stay.",
            (_POOL, Word("tokens", "ID", "ids, as join-tokens lists them", "+")),
            serves=("DELETE /batchyard/v1/pools/{pool_id}/jointokens/{token_id}",),
        ),
        Verb("counts", "pools:counts", "Count the nodes of pools by state.", (), LISTED, serves=("GET /nodecounts",)),
        Verb("usage", "pools:usage", "Core hours of pools.", (), LISTED, serves=("GET /poolusagemetrics",)),
        Verb("images", "pools:images", "List the images that pools may name.", (), LISTED, serves=("GET /supportedimages",)),
        Verb(
            "why",
            "explain:pool",
            "Say why a pool does not run what it should.",
            (_POOL,),
            (Flag("output", ("-o", "--output"), "tree or json.", TREES, default="tree"),),
        ),
    ),
)

_REASON = Flag("reason", ("--reason",), "A word that is kept with it.", TEXT, "TEXT")
_FORCE = Flag("force", ("--force",), "Also when it is not in the state for it.", FLAG, default=False)
JOB_NOUN = Noun(
    "job",
    "Jobs: what tasks belong to.",
    (
        _create(
            "jobs:create",
            "a job",
            (
                Flag("pool", ("--pool",), "Pool that it runs on.", TEXT, "POOL", names="pools"),
                _PRIORITY,
                _PARALLEL,
                _RETRIES,
                _METADATA,
                Flag("no_dependencies", ("--no-dependencies",), "Its tasks wait for no others.", FLAG, default=False),
            ),
            "POST /jobs",
        ),
        LIST_JOBS,
        Verb("show", "jobs:show", "Show jobs.", (_JOBS,), SHOWN, serves=("GET /jobs/{job_id}",)),
        Verb(
            "update",
            "jobs:update",
            "Change a job.",
            (_JOB,),
            (
                Flag("pool", ("--pool",), "Pool that it runs on.", TEXT, "POOL", names="pools"),
                _PRIORITY,
                _PARALLEL,
                _RETRIES,
                _METADATA,
                _WHOLE,
                FILE,
                DRY,
            ),
            serves=("PATCH /jobs/{job_id}", "PUT /jobs/{job_id}"),
        ),
        _delete("jobs:delete", "jobs and their tasks", (_JOBS,), "DELETE /jobs/{job_id}", (_FORCE,)),
        Verb("enable", "jobs:enable", "Let the tasks of a job start again.", (_JOBS,), serves=("POST /jobs/{job_id}/enable",)),
        Verb(
            "disable",
            "jobs:disable",
            "Let no task of a job start.",
            (_JOBS,),
            (Flag("wanted", ("--when",), "What becomes of running tasks.", one_of("requeue", "terminate", "wait"), default="requeue"), YES),
            serves=("POST /jobs/{job_id}/disable",),
        ),
        Verb(
            "terminate",
            "jobs:terminate",
            "End jobs and all their tasks.",
            (_JOBS,),
            (_REASON, _FORCE, YES),
            serves=("POST /jobs/{job_id}/terminate",),
            aliases=("cancel",),
        ),
        Verb("wait", "jobs:wait", "Wait for all tasks of a job; 1 when any failed.", (_JOB,)),
        Verb("retry", "jobs:retry", "Run all failed tasks of a job again.", (_JOB,)),
        Verb("progress", "jobs:progress", "Say how far jobs have come.", (_ALL_JOBS,), LISTED, serves=("GET /jobs/{job_id}/taskcounts",)),
        Verb(
            "preparation",
            "jobs:preparation",
            "Show how preparation and release tasks went, per node.",
            (_JOB,),
            LISTED,
            serves=("GET /jobs/{job_id}/jobpreparationandreleasetaskstatus",),
        ),
        Verb(
            "why",
            "explain:job",
            "Say why a job does not run.",
            (_JOB,),
            (Flag("output", ("-o", "--output"), "tree or json.", TREES, default="tree"),),
        ),
    ),
)

_SCHEDULE_FLAGS = (
    Flag("pool", ("--pool",), "Pool that its jobs run on.", TEXT, "POOL", names="pools"),
    _TIMES[0]._replace(help="Make a job this often: 90s, 5m, 1h, 2d; only one without it."),
    _TIMES[1]._replace(help="Make a job at these times, as '30 2 * * mon-fri'."),
    _TIMES[2],
    Flag("start", ("--start",), "No job before this time.", TEXT, "TIME"),
    Flag("end", ("--end",), "No job from this time on.", TEXT, "TIME"),
    Flag("window", ("--window",), "How late a job may be made: 5m, 1h; however late without it.", TEXT, "SPAN"),
    _METADATA,
)
SCHEDULE = Noun(
    "schedule",
    "Job schedules: they make jobs when these are due.",
    (
        _create("schedules:create", "a job schedule", _SCHEDULE_FLAGS, "POST /jobschedules"),
        Verb(
            "list",
            "schedules:listed",
            "List the job schedules.",
            (_SCHEDULES._replace(times="*", help="ids or globs; all when none is named"),),
            (*LISTED, *PICK),
            serves=("GET /jobschedules",),
        ),
        Verb("show", "schedules:show", "Show job schedules.", (_SCHEDULES,), SHOWN, serves=("GET /jobschedules/{schedule_id}",)),
        Verb(
            "update",
            "schedules:update",
            "Change a job schedule, for the jobs that it makes from now on.",
            (_SCHEDULE,),
            (*_SCHEDULE_FLAGS, _WHOLE, FILE, DRY),
            serves=("PATCH /jobschedules/{schedule_id}", "PUT /jobschedules/{schedule_id}"),
        ),
        _delete("schedules:delete", "job schedules with all their jobs", (_SCHEDULES,), "DELETE /jobschedules/{schedule_id}", (_FORCE,)),
        Verb(
            "enable",
            "schedules:enable",
            "Have job schedules make jobs again.",
            (_SCHEDULES,),
            serves=("POST /jobschedules/{schedule_id}/enable",),
        ),
        Verb(
            "disable",
            "schedules:disable",
            "Have job schedules make no jobs; what runs runs on.",
            (_SCHEDULES,),
            serves=("POST /jobschedules/{schedule_id}/disable",),
        ),
        Verb(
            "terminate",
            "schedules:terminate",
            "End job schedules and the jobs of them that are active.",
            (_SCHEDULES,),
            (_FORCE, YES),
            serves=("POST /jobschedules/{schedule_id}/terminate",),
            aliases=("cancel",),
        ),
        Verb(
            "jobs",
            "schedules:jobs",
            "List the jobs of a job schedule with their task counts.",
            (_SCHEDULE,),
            LISTED,
            serves=("GET /jobschedules/{schedule_id}/jobs",),
        ),
        Verb(
            "why",
            "explain:schedule",
            "Say why a job schedule makes no job.",
            (_SCHEDULE,),
            (Flag("output", ("-o", "--output"), "tree or json.", TREES, default="tree"),),
        ),
    ),
)

TASK = Noun(
    "task",
    "Tasks: commands that nodes run.",
    (
        _create(
            "tasks:create",
            "tasks",
            (Flag("id", ("--id",), "Id of the task.", TEXT, "ID"), _SLOTS, _RETRIES, _ENV),
            "POST /jobs/{job_id}/tasks",
            (_JOB, _COMMAND._replace(times="rest*", help="program and arguments, unless the file says them")),
        ),
        LIST_TASKS,
        Verb(
            "show",
            "tasks:show",
            "Show tasks, with their subtasks.",
            (_TASKS,),
            (JOB, *SHOWN),
            serves=("GET /jobs/{job_id}/tasks/{task_id}",),
        ),
        Verb(
            "update",
            "tasks:update",
            "Change the constraints of a task.",
            (_TASK,),
            (JOB, _RETRIES, FILE, DRY),
            serves=("PUT /jobs/{job_id}/tasks/{task_id}",),
        ),
        _delete("tasks:delete", "tasks and their files", (_TASKS,), "DELETE /jobs/{job_id}/tasks/{task_id}", (JOB, *PICK_TASKS)),
        Verb(
            "cancel",
            "tasks:cancel",
            "End tasks.",
            (_TASKS,),
            (JOB, *PICK_TASKS, YES),
            serves=("POST /jobs/{job_id}/tasks/{task_id}/terminate",),
            aliases=("terminate",),
        ),
        Verb(
            "retry",
            "tasks:retry",
            "Run tasks again that ended.",
            (_TASKS,),
            (JOB, *PICK_TASKS),
            serves=("POST /jobs/{job_id}/tasks/{task_id}/reactivate",),
            aliases=("reactivate",),
        ),
        LOGS,
        Verb(
            "files",
            "files:of_task",
            "List the files of a task, or those below a path; with --delete, remove them.",
            (_TASK, _FILE_PATH),
            (JOB, Flag("delete", ("--delete",), "Remove the path.", FLAG, default=False), *LISTED[:2], YES),
            serves=("GET /jobs/{job_id}/tasks/{task_id}/files", "DELETE /jobs/{job_id}/tasks/{task_id}/files/{file_path}"),
        ),
        Verb(
            "cp",
            "files:copy_from_task",
            "Copy files of a task here; - is stdout.",
            (_TASK, Word("path", "PATH", "a file or a directory"), Word("into", "TO", "a file, a directory, or -", "?")),
            (JOB,),
        ),
        Verb(
            "exec",
            "inside:run",
            "Run a command inside of a running task: as its user, in its directory, environment and limits; return its exit code.",
            (_TASK, _COMMAND),
            (JOB, Flag("time_limit", ("--time-limit",), "When it is ended: 90s, 5m, 1h; an hour by itself.", TEXT, "TIME")),
            serves=("POST /batchyard/jobs/{job_id}/tasks/{task_id}/exec",),
        ),
        Verb(
            "why",
            "explain:task",
            "Say why a task does not run.",
            (_TASK,),
            (JOB, Flag("output", ("-o", "--output"), "tree or json.", TREES, default="tree")),
        ),
        Verb(
            "subtasks",
            "tasks:subtasks",
            "List the subtasks of a multi-instance task.",
            (_TASK,),
            (JOB, *LISTED[:2]),
            serves=("GET /jobs/{job_id}/tasks/{task_id}/subtasksinfo",),
        ),
    ),
)


def _act(name: str, help_: str, operation: str, flags: tuple[Flag, ...] = (), aliases: tuple[str, ...] = ()) -> Verb:
    run = f"nodes:{name.replace('-', '_')}"
    return Verb(name, run, help_, (_NODES,), flags, serves=(f"POST /pools/{{pool_id}}/{operation}",), aliases=aliases)


_USER = Word("user", "USER", "name of the account")
NODE = Noun(
    "node",
    "Nodes: the machines of a pool.",
    (
        LIST_NODES,
        Verb(
            "show",
            "nodes:show",
            "Show nodes.",
            (_NODES,),
            SHOWN,
            serves=("GET /pools/{pool_id}/nodes/{node_id}", "GET /batchyard/pools/{pool_id}/nodes/{node_id}"),
        ),
        _act("reboot", "Start nodes anew.", "nodes/{node_id}/reboot", _NODE_ACTION),
        _act("reimage", "Set nodes back to their image; their files are lost.", "nodes/{node_id}/reimage", _NODE_ACTION),
        _act("drain", "Let nodes end what they run and start nothing more.", "nodes/{node_id}/disablescheduling"),
        _act("offline", "Let nodes start nothing, and put back what they run.", "nodes/{node_id}/disablescheduling", _NODE_ACTION),
        _act("enable", "Let nodes start tasks again.", "nodes/{node_id}/enablescheduling", (), ("online",)),
        _act(
            "stop", "Give back the machine of nodes; start brings them back.", "nodes/{node_id}/deallocate", _NODE_ACTION, ("deallocate",)
        ),
        _act("start", "Bring stopped nodes back.", "nodes/{node_id}/start"),
        _act("delete", "Take nodes out of their pool, which becomes smaller.", "removenodes", _NODE_ACTION, ("remove", "rm")),
        Verb(
            "files",
            "files:of_node",
            "List the files of a node, or those below a path; with --delete, remove them.",
            (_NODE, _FILE_PATH),
            (Flag("delete", ("--delete",), "Remove the path.", FLAG, default=False), *LISTED[:2], YES),
            serves=("GET /pools/{pool_id}/nodes/{node_id}/files", "DELETE /pools/{pool_id}/nodes/{node_id}/files/{file_path}"),
        ),
        Verb(
            "cp",
            "files:copy_from_node",
            "Copy files of a node here; - is stdout.",
            (_NODE, Word("path", "PATH", "a file or a directory"), Word("into", "TO", "a file, a directory, or -", "?")),
            serves=("GET /pools/{pool_id}/nodes/{node_id}/files/{file_path}",),
        ),
        Verb(
            "logs",
            "nodes:logs",
            "Print what a node's start task wrote; with --service, send the node's own logs to the storage.",
            (_NODE,),
            (FOLLOW, _STDERR, Flag("service", ("--service",), "The logs of the node's agent.", FLAG, default=False)),
            serves=("POST /pools/{pool_id}/nodes/{node_id}/uploadbatchservicelogs",),
        ),
        Verb(
            "why",
            "explain:node",
            "Say why a node takes no tasks.",
            (_NODE,),
            (Flag("output", ("-o", "--output"), "tree or json.", TREES, default="tree"),),
        ),
        Verb(
            "login",
            "nodes:login",
            "Say where to reach a node by SSH.",
            (_NODES,),
            SHOWN,
            serves=("GET /pools/{pool_id}/nodes/{node_id}/remoteloginsettings",),
        ),
        Verb(
            "extensions",
            "nodes:extensions",
            "List the extensions of a node.",
            (_NODE,),
            LISTED[:2],
            serves=("GET /pools/{pool_id}/nodes/{node_id}/extensions",),
        ),
        Verb(
            "user",
            "nodes:user",
            "Add, change or delete an account on a node.",
            (
                Word("action", "create|update|delete", "what to do", kind=one_of("create", "update", "delete", "add", "remove")),
                _NODE,
                _USER,
            ),
            (
                Flag("admin", ("--admin",), "It may do everything there.", FLAG, default=False),
                Flag("key_file", ("--ssh-key",), "File with its public key.", PATH, "FILE"),
                Flag("expires", ("--expires",), "When it ends.", TEXT, "TIME"),
                Flag("password_file", ("--password-file",), "File with its password; - is stdin.", TEXT, "FILE|-"),
            ),
            serves=(
                "POST /pools/{pool_id}/nodes/{node_id}/users",
                "PUT /pools/{pool_id}/nodes/{node_id}/users/{user_name}",
                "DELETE /pools/{pool_id}/nodes/{node_id}/users/{user_name}",
            ),
        ),
    ),
)

_CONTAINER = Word("container", "CONTAINER", "name of a container")
STORAGE = Noun(
    "storage",
    "The account's storage: containers and blobs.",
    (
        Verb(
            "list",
            "storage_commands:list_",
            "List the containers, or the blobs of one.",
            (_CONTAINER._replace(times="?"), Word("prefix", "PREFIX", "start of the names", "?")),
            LISTED[:2],
        ),
        Verb("create", "storage_commands:create", "Make a container.", (_CONTAINER,), aliases=("add",)),
        Verb(
            "delete",
            "storage_commands:delete",
            "Delete a container, or blobs of one.",
            (_CONTAINER, Word("blobs", "BLOB", "names or globs; all of it without", "*")),
            (YES,),
            aliases=("remove", "rm"),
        ),
        Verb(
            "cp",
            "storage_commands:copy",
            "Copy a file into a container, or blobs out of it.",
            (Word("source", "FROM", "a path, or CONTAINER:BLOB"), Word("target", "TO", "a path, or CONTAINER:BLOB")),
        ),
    ),
)

_QUEUE = Word("queue", "QUEUE", "name of a queue")
_HIDDEN = Flag("hidden", ("--hidden",), "How long nobody else sees it: 90s, 5m, 1h.", TEXT, "SPAN")
_NUMBER = Flag("number", ("-n", "--number"), "At most so many.", whole(1), "N", default=1)
QUEUE = Noun(
    "queue",
    "The account's storage: queues and their messages.",
    (
        Verb("list", "queues:list_", "List the queues.", (Word("prefix", "PREFIX", "start of the names", "?"),), LISTED[:2]),
        Verb("create", "queues:create", "Make a queue.", (_QUEUE,), aliases=("add",)),
        Verb("show", "queues:show", "Say how many messages queues hold.", (_QUEUE._replace(name="queues", times="+"),), SHOWN),
        Verb(
            "delete",
            "queues:delete",
            "Delete queues and their messages.",
            (_QUEUE._replace(name="queues", times="+"),),
            (YES,),
            aliases=("remove", "rm"),
        ),
        Verb(
            "put",
            "queues:put",
            "Add messages.",
            (_QUEUE, Word("texts", "TEXT", "texts; - is stdin", "+")),
            (Flag("lives", ("--lives",), "How long it is kept: 90s, 5m, 1h, 2d; 7 days by itself.", TEXT, "SPAN"), _HIDDEN),
        ),
        Verb("peek", "queues:peek", "Show the first messages, which stay where they are.", (_QUEUE,), (_NUMBER, *LISTED[:2])),
        Verb(
            "get",
            "queues:get",
            "Take messages, and delete them when they are printed.",
            (_QUEUE,),
            (
                _NUMBER,
                _HIDDEN._replace(help="With --keep: when they come back: 90s, 5m, 1h; after 30 s by itself."),
                Flag("keep", ("--keep",), "Delete nothing: they come back after their time.", FLAG, default=False),
                *LISTED[:2],
            ),
        ),
        Verb("clear", "queues:clear", "Delete all messages of a queue.", (_QUEUE,), (YES,)),
    ),
)

_OPERATOR = Flag("operator_key", ("--operator-key",), "File with the operator's key.", PATH, "FILE", shown="$BATCHYARD_OPERATOR_KEY")
_AS_OPERATOR = (*CONNECTION, _OPERATOR)
_ACCOUNT = Word("name", "ACCOUNT", "name of an account")
_OWN_ACCOUNT = _ACCOUNT._replace(times="?", help="another one than that of the key, for its operator")
_LIMITS = (
    Flag("pools", ("--pools",), "Most pools; none: the server's own limit.", TEXT, "N"),
    Flag("jobs", ("--jobs",), "Most active jobs and schedules.", TEXT, "N"),
    Flag("cores", ("--cores",), "Most cores of dedicated nodes.", TEXT, "N"),
    Flag("spot_cores", ("--spot-cores",), "Most cores of spot nodes.", TEXT, "N"),
)
_V1 = "/batchyard/v1/accounts"
ACCOUNT = Noun(
    "account",
    "Accounts: worlds of their own on one server.",
    (
        Verb(
            "create",
            "accounts:create",
            "Make an account, and print what points clients at it.",
            (_ACCOUNT._replace(help="3 to 24 lower-case letters and digits"),),
            (
                Flag("location", ("--location",), "Directory for its state, on the server's machine.", PATH, "DIR"),
                *_LIMITS,
                *_AS_OPERATOR,
            ),
            server=False,
            serves=(f"POST {_V1}",),
            aliases=("add",),
        ),
        Verb("list", "accounts:list_", "List all accounts.", (), (*LISTED, *_AS_OPERATOR), server=False, serves=(f"GET {_V1}",)),
        Verb(
            "show",
            "accounts:show",
            "Show an account and its quotas; itself, also what it takes of them.",
            (_OWN_ACCOUNT,),
            (*SHOWN, *_AS_OPERATOR),
            server=False,
            serves=(f"GET {_V1}/{{account}}",),
        ),
        Verb(
            "keys",
            "accounts:keys",
            "Print both keys of an account.",
            (_OWN_ACCOUNT,),
            _AS_OPERATOR,
            server=False,
            serves=(f"GET {_V1}/{{account}}/keys",),
        ),
        Verb(
            "renew-key",
            "accounts:renew_key",
            "Put a new key in the place of one of the two; the other keeps working.",
            (Word("which", "primary|secondary", "which one", kind=one_of("primary", "secondary")), _OWN_ACCOUNT),
            _AS_OPERATOR,
            server=False,
            serves=(f"POST {_V1}/{{account}}/keys/{{key_name}}/renew",),
        ),
        Verb(
            "quota",
            "accounts:quota",
            "Limit an account.",
            (_ACCOUNT,),
            (*_LIMITS, *SHOWN, *_AS_OPERATOR),
            server=False,
            serves=(f"PATCH {_V1}/{{account}}/quotas",),
        ),
        Verb(
            "delete",
            "accounts:delete",
            "Delete accounts with all they have and run.",
            (_ACCOUNT._replace(name="names", times="+"),),
            (YES, *_AS_OPERATOR),
            server=False,
            serves=(f"DELETE {_V1}/{{account}}",),
            aliases=("remove", "rm"),
        ),
    ),
)

_APPLICATION = Word("application", "NAME", "id of an application")
_VERSION = Word("version", "VERSION", "version of it")
_STORAGE = Word("name", "STORAGE", "name of a storage account")
_V1_STORAGE = "/batchyard/v1/storageaccounts"
STORAGE_ACCOUNT = Noun(
    "storage-account",
    "Storage accounts: several on one server, each with keys of its own.",
    (
        Verb(
            "create",
            "storage_accounts:create",
            "Make a storage account, and print what points clients at it.",
            (_STORAGE._replace(help="3 to 24 lower-case letters and digits"),),
            (Flag("lies_with", ("--in",), "Account whose state it is part of; the first one without.", TEXT, "ACCOUNT"), *_AS_OPERATOR),
            server=False,
            serves=(f"POST {_V1_STORAGE}",),
            aliases=("add",),
        ),
        Verb(
            "list",
            "storage_accounts:list_",
            "List all storage accounts.",
            (),
            (*LISTED, *_AS_OPERATOR),
            server=False,
            serves=(f"GET {_V1_STORAGE}",),
        ),
        Verb(
            "show",
            "storage_accounts:show",
            "Show a storage account and where its services are.",
            (_STORAGE,),
            (*SHOWN, *_AS_OPERATOR),
            server=False,
            serves=(f"GET {_V1_STORAGE}/{{storage_account}}",),
        ),
        Verb(
            "keys",
            "storage_accounts:keys",
            "Print both keys of a storage account.",
            (_STORAGE,),
            _AS_OPERATOR,
            server=False,
            serves=(f"GET {_V1_STORAGE}/{{storage_account}}/keys",),
        ),
        Verb(
            "renew-key",
            "storage_accounts:renew_key",
            "Put a new key in the place of one of the two; the other keeps working.",
            (Word("which", "primary|secondary", "which one", kind=one_of("primary", "secondary")), _STORAGE),
            _AS_OPERATOR,
            server=False,
            serves=(f"POST {_V1_STORAGE}/{{storage_account}}/keys/{{key_name}}/renew",),
        ),
        Verb(
            "delete",
            "storage_accounts:delete",
            "Delete storage accounts with all they hold.",
            (_STORAGE._replace(name="names", times="+"),),
            (YES, *_AS_OPERATOR),
            server=False,
            serves=(f"DELETE {_V1_STORAGE}/{{storage_account}}",),
            aliases=("remove", "rm"),
        ),
    ),
)
_V1_APPLICATION = "/batchyard/v1/applications/{application_id}"
APP = Noun(
    "app",
    "Application packages: programs and data that nodes unpack.",
    (
        Verb(
            "add",
            "applications:add",
            "Upload a version of an application, which is made when it is new.",
            (_APPLICATION, _VERSION, Word("source", "FILE|DIR", "zip file, or a directory to make one of", kind=PATH)),
            (Flag("default", ("--default",), "Make it the version that is meant where none is named.", FLAG, default=False),),
            serves=("PUT " + _V1_APPLICATION + "/versions/{version}", "PATCH " + _V1_APPLICATION),
            aliases=("create",),
        ),
        Verb(
            "list",
            "applications:list_",
            "List the applications and their versions.",
            (),
            LISTED,
            serves=("GET /batchyard/v1/applications",),
        ),
        Verb(
            "show",
            "applications:show",
            "Show applications.",
            (_APPLICATION._replace(name="applications", times="+"),),
            SHOWN,
            serves=("GET " + _V1_APPLICATION,),
        ),
        Verb(
            "default",
            "applications:default",
            "Say which version is meant where none is named.",
            (_APPLICATION, _VERSION._replace(times="?")),
            (Flag("off", ("--off",), "None is.", FLAG, default=False),),
            serves=("PATCH " + _V1_APPLICATION,),
        ),
        Verb(
            "delete",
            "applications:delete",
            "Delete versions of an application, or all of it.",
            (_APPLICATION, _VERSION._replace(name="versions", times="*")),
            (YES,),
            serves=("DELETE " + _V1_APPLICATION, "DELETE " + _V1_APPLICATION + "/versions/{version}"),
            aliases=("remove", "rm"),
        ),
    ),
)

NOUNS: tuple[Noun, ...] = (
    POOL,
    JOB_NOUN,
    SCHEDULE,
    TASK,
    NODE,
    STORAGE,
    QUEUE,
    _AUTOSCALE,
    ACCOUNT,
    STORAGE_ACCOUNT,
    APP,
    *(Noun(name, "", (), later=True) for name in ("trigger", "run", "event")),
)

NOT_REACHABLE = {
    "GET /nodeagentskus": "gone since API version 2018-12-01.8.0; `pool images` lists them",
    "HEAD /pools/{pool_id}": "`pool show` says whether it is there",
    "HEAD /jobschedules/{schedule_id}": "`schedule show` says whether it is there",
    "HEAD /pools/{pool_id}/nodes/{node_id}/files/{file_path}": "`node files` shows size and time",
    "HEAD /jobs/{job_id}/tasks/{task_id}/files/{file_path}": "`task files` shows size and time",
    "GET /pools/{pool_id}/nodes/{node_id}/extensions/{extension_name}": "`node extensions` shows all of each",
    "GET /applications": "`app list` lists them, with those that have no package",
    "GET /applications/{application_id}": "`app show` shows more of it",
    "PUT /batchyard/v1/applications/{application_id}": "`app add` makes it",
    "POST /batchyard/clock": "for tests of the service; no person wants it",
}
"""Operations that no command is there for, with the reason."""
