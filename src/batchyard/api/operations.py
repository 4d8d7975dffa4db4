"""Every operation that is served, a row each (contract 1.6). What is not here answers as unknown, never with a pretended success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import unquote

import msgspec
from starlette.responses import Response

from batchyard.api.batch import account, applications, autoscale, files, jobs, nodes, pools, schedules, tasks
from batchyard.api.own import about, accounts, chaos, clock, contents, explain, inside, joining, outputs, packages, storage
from batchyard.api.wire.call import Call
from batchyard.model.errors import BatchError

Handler = Callable[[Call], Awaitable[Response]]

_PAGED = frozenset({"maxresults", "$skiptoken"})
_EVERYWHERE = frozenset({"api-version", "timeout"})


class Op(msgspec.Struct, frozen=True):
    """An operation: verb, path with `{ids}`, handler, the query options it knows."""

    method: str
    path: str
    handler: Handler
    query: frozenset[str] = frozenset()
    until: str | None = None
    """The last API version that has the operation, where the service has given it up."""
    adds: bool = False
    """It brings new work, which is refused while the server's disk is nearly full."""
    streams: bool = False
    """Its body is not read before it is called, and may be as large as it likes."""
    operator: bool = False
    """The operator's key is good for it."""


_FILTERED = _PAGED | {"$filter"}
_SELECT = frozenset({"$select"})
_EXPAND = frozenset({"$expand"})
_FORCE = frozenset({"force"})
_RECURSIVE = frozenset({"recursive"})
_SCHEDULE = "/jobschedules/{schedule_id}"
_NODE = "/pools/{pool_id}/nodes/{node_id}"
_TASK_FILE = "/jobs/{job_id}/tasks/{task_id}/files/{file_path}"
_NODE_FILE = "/pools/{pool_id}/nodes/{node_id}/files/{file_path}"
_APPLICATION = "/batchyard/v1/applications/{application_id}"
_ACCOUNTS = "/batchyard/v1/accounts"
_STORAGE = "/batchyard/v1/storageaccounts"

OPERATIONS = (
    Op("GET", "/supportedimages", account.supported_images, _FILTERED),
    Op("GET", "/nodeagentskus", account.node_agent_skus, _FILTERED, until="2018-12-01.8.0"),
    Op("GET", "/nodecounts", account.node_counts, _FILTERED),
    Op("GET", "/poolusagemetrics", account.usage_metrics, _FILTERED | {"starttime", "endtime"}),
    Op("GET", "/applications", applications.list_, _PAGED),
    Op("GET", "/applications/{application_id}", applications.get),
    Op("POST", "/pools", pools.add, adds=True),
    Op("GET", "/pools", pools.list_, _FILTERED | _SELECT | _EXPAND),
    Op("GET", "/pools/{pool_id}", pools.get, _SELECT | _EXPAND),
    Op("HEAD", "/pools/{pool_id}", pools.exists),
    Op("DELETE", "/pools/{pool_id}", pools.delete),
    Op("PATCH", "/pools/{pool_id}", pools.patch),
    Op("POST", "/pools/{pool_id}/updateproperties", pools.update_properties),
    Op("POST", "/pools/{pool_id}/enableautoscale", autoscale.enable),
    Op("POST", "/pools/{pool_id}/disableautoscale", autoscale.disable),
    Op("POST", "/pools/{pool_id}/evaluateautoscale", autoscale.evaluate),
    Op("POST", "/pools/{pool_id}/resize", pools.resize),
    Op("POST", "/pools/{pool_id}/stopresize", pools.stop_resize),
    Op("POST", "/pools/{pool_id}/removenodes", pools.remove_nodes),
    Op("GET", "/pools/{pool_id}/nodes", nodes.list_, _FILTERED | _SELECT),
    Op("GET", "/pools/{pool_id}/nodes/{node_id}", nodes.get, _SELECT),
    Op("POST", _NODE + "/reboot", nodes.reboot),
    Op("POST", _NODE + "/reimage", nodes.reimage),
    Op("POST", _NODE + "/start", nodes.start),
    Op("POST", _NODE + "/deallocate", nodes.deallocate),
    Op("POST", _NODE + "/disablescheduling", nodes.disable_scheduling),
    Op("POST", _NODE + "/enablescheduling", nodes.enable_scheduling),
    Op("GET", _NODE + "/remoteloginsettings", nodes.remote_login_settings),
    Op("POST", _NODE + "/uploadbatchservicelogs", nodes.upload_service_logs),
    Op("POST", _NODE + "/users", nodes.add_user),
    Op("PUT", _NODE + "/users/{user_name}", nodes.update_user),
    Op("DELETE", _NODE + "/users/{user_name}", nodes.delete_user),
    Op("GET", _NODE + "/extensions", nodes.list_extensions, _PAGED | _SELECT),
    Op("GET", _NODE + "/extensions/{extension_name}", nodes.get_extension, _SELECT),
    Op("GET", "/pools/{pool_id}/nodes/{node_id}/files", files.list_node_files, _FILTERED | _RECURSIVE),
    Op("GET", _NODE_FILE, files.get_node_file),
    Op("HEAD", _NODE_FILE, files.node_file_properties),
    Op("DELETE", _NODE_FILE, files.delete_node_file, _RECURSIVE),
    Op("POST", "/jobs", jobs.add, adds=True),
    Op("GET", "/jobs", jobs.list_, _FILTERED | _SELECT | _EXPAND),
    Op("GET", "/jobs/{job_id}", jobs.get, _SELECT | _EXPAND),
    Op("PATCH", "/jobs/{job_id}", jobs.patch),
    Op("PUT", "/jobs/{job_id}", jobs.update),
    Op("DELETE", "/jobs/{job_id}", jobs.delete, _FORCE),
    Op("POST", "/jobs/{job_id}/disable", jobs.disable),
    Op("POST", "/jobs/{job_id}/enable", jobs.enable),
    Op("POST", "/jobs/{job_id}/terminate", jobs.terminate, _FORCE),
    Op("GET", "/jobs/{job_id}/jobpreparationandreleasetaskstatus", jobs.special_task_status, _FILTERED | _SELECT),
    Op("GET", "/jobs/{job_id}/taskcounts", jobs.task_counts),
    Op("POST", "/jobschedules", schedules.add, adds=True),
    Op("GET", "/jobschedules", schedules.list_, _FILTERED | _SELECT | _EXPAND),
    Op("GET", _SCHEDULE, schedules.get, _SELECT | _EXPAND),
    Op("HEAD", _SCHEDULE, schedules.exists),
    Op("PATCH", _SCHEDULE, schedules.patch),
    Op("PUT", _SCHEDULE, schedules.update),
    Op("DELETE", _SCHEDULE, schedules.delete, _FORCE),
    Op("POST", _SCHEDULE + "/disable", schedules.disable),
    Op("POST", _SCHEDULE + "/enable", schedules.enable),
    Op("POST", _SCHEDULE + "/terminate", schedules.terminate, _FORCE),
    Op("GET", _SCHEDULE + "/jobs", schedules.jobs, _FILTERED | _SELECT | _EXPAND),
    Op("POST", "/jobs/{job_id}/tasks", tasks.add, adds=True),
    Op("POST", "/jobs/{job_id}/addtaskcollection", tasks.add_collection, adds=True),
    Op("GET", "/jobs/{job_id}/tasks", tasks.list_, _FILTERED | _SELECT | _EXPAND),
    Op("GET", "/jobs/{job_id}/tasks/{task_id}", tasks.get, _SELECT | _EXPAND),
    Op("PUT", "/jobs/{job_id}/tasks/{task_id}", tasks.update),
    Op("DELETE", "/jobs/{job_id}/tasks/{task_id}", tasks.delete),
    Op("POST", "/jobs/{job_id}/tasks/{task_id}/reactivate", tasks.reactivate, adds=True),
    Op("GET", "/jobs/{job_id}/tasks/{task_id}/subtasksinfo", tasks.subtasks, _SELECT),
    Op("POST", "/jobs/{job_id}/tasks/{task_id}/terminate", tasks.terminate),
    Op("GET", "/jobs/{job_id}/tasks/{task_id}/files", files.list_task_files, _FILTERED | _RECURSIVE),
    Op("GET", _TASK_FILE, files.get_task_file),
    Op("HEAD", _TASK_FILE, files.task_file_properties),
    Op("DELETE", _TASK_FILE, files.delete_task_file, _RECURSIVE),
    Op("POST", "/batchyard/chaos/nodes/{node_id}", chaos.disturb),
    Op("POST", "/batchyard/clock", clock.advance),
    Op("GET", "/batchyard" + _NODE, about.node),
    Op("POST", "/batchyard/jobs/{job_id}/tasks/{task_id}/exec", inside.run),
    Op("POST", "/batchyard/jobs/{job_id}/outputs", outputs.read),
    Op("POST", "/batchyard/v1/storage/{storage_account}/{container}/contents", contents.read),
    Op("GET", "/batchyard/v1/applications", packages.list_, _PAGED),
    Op("PUT", _APPLICATION, packages.put, adds=True),
    Op("GET", _APPLICATION, packages.get),
    Op("PATCH", _APPLICATION, packages.patch),
    Op("DELETE", _APPLICATION, packages.delete),
    Op("PUT", _APPLICATION + "/versions/{version}", packages.upload, adds=True, streams=True),
    Op("DELETE", _APPLICATION + "/versions/{version}", packages.delete_version),
    Op("POST", "/batchyard/v1/pools/{pool_id}/jointokens", joining.add),
    Op("GET", "/batchyard/v1/pools/{pool_id}/jointokens", joining.list_),
    Op("DELETE", "/batchyard/v1/pools/{pool_id}/jointokens/{token_id}", joining.revoke),
    Op("GET", "/batchyard/explain/jobs/{job_id}", explain.job),
    Op("GET", "/batchyard/explain/jobs/{job_id}/tasks/{task_id}", explain.task),
    Op("GET", "/batchyard/explain/jobschedules/{schedule_id}", explain.schedule),
    Op("GET", "/batchyard/explain/pools/{pool_id}", explain.pool),
    Op("GET", "/batchyard/explain" + _NODE, explain.node),
    Op("POST", _ACCOUNTS, accounts.create, adds=True, operator=True),
    Op("GET", _ACCOUNTS, accounts.list_, _PAGED, operator=True),
    Op("GET", _ACCOUNTS + "/{account}", accounts.get, operator=True),
    Op("DELETE", _ACCOUNTS + "/{account}", accounts.delete, operator=True),
    Op("PATCH", _ACCOUNTS + "/{account}/quotas", accounts.limit, operator=True),
    Op("GET", _ACCOUNTS + "/{account}/keys", accounts.keys, operator=True),
    Op("POST", _ACCOUNTS + "/{account}/keys/{key_name}/renew", accounts.renew_key, operator=True),
    Op("POST", _STORAGE, storage.create, adds=True, operator=True),
    Op("GET", _STORAGE, storage.list_, _PAGED, operator=True),
    Op("GET", _STORAGE + "/{storage_account}", storage.get, operator=True),
    Op("DELETE", _STORAGE + "/{storage_account}", storage.delete, operator=True),
    Op("GET", _STORAGE + "/{storage_account}/keys", storage.keys, operator=True),
    Op("POST", _STORAGE + "/{storage_account}/keys/{key_name}/renew", storage.renew_key, operator=True),
    Op("GET", "/batchyard/autoscale/pools/{pool_id}", autoscale.report, frozenset({"samples"})),
)


class _Place(msgspec.Struct):
    """A segment of the path tree."""

    literal: dict[str, _Place] = {}
    named: _Place | None = None
    name: str = ""
    methods: dict[str, Op] = {}


def _tree(operations: Iterable[Op]) -> _Place:
    root = _Place()
    for op in operations:
        place = root
        for segment in op.path.strip("/").split("/"):
            if segment.startswith("{"):
                if place.named is None:
                    place.named = _Place(name=segment.strip("{}"))
                place = place.named
            else:
                place = place.literal.setdefault(segment, _Place())
        place.methods[op.method] = op
    return root


_ROOT = _tree(OPERATIONS)


def match(method: str, raw_path: str, version: str) -> tuple[Op, dict[str, str]]:
    """Operation and ids of a still encoded path; a `%2F` does not part segments. Raises InvalidUri, UnsupportedHttpVerb."""
    place = _ROOT
    ids: dict[str, str] = {}
    for segment in raw_path.strip("/").split("/"):
        following = place.literal.get(segment)
        if following is None and place.named is not None:
            following = place.named
            ids[following.name] = _decoded(segment)
        if following is None:
            raise BatchError("InvalidUri")
        place = following
    if not place.methods:
        raise BatchError("InvalidUri")
    if method not in place.methods:
        raise BatchError("UnsupportedHttpVerb")
    op = place.methods[method]
    if op.until is not None and version > op.until:
        raise BatchError("InvalidUri")
    return op, ids


def _decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise BatchError("InvalidUri") from None


def check_query(op: Op, names: Iterable[str]) -> None:
    """Refuse query options that the operation does not know."""
    for name in names:
        if name not in op.query and name not in _EVERYWHERE:
            raise BatchError("UnsupportedQueryParameter", QueryParameterName=name[:100], Reason="The operation does not know the option")
