"""The environment of a task's process, built from nothing (contract 4.3).

What comes later wins: the user's login variables with whom to trust, the job's common settings, the task's own, the service's.
HOME is the working directory; no TMPDIR is set, so temporary files go where the system puts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchyard.agent.health.health import RESERVED_BYTES
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.users import User, kind
from batchyard.model.common import EnvironmentSetting, UserIdentity
from batchyard.model.sync import Gang, NodeSetup

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASTER_PORT = 6000
"""What AZ_BATCH_MASTER_NODE names (contract 4.3); nobody listens there unless the task does."""


def account_url(server: str) -> str:
    """How tasks are told of the server: with a final slash."""
    return server.rstrip("/") + "/"


def of_node(setup: NodeSetup, layout: Layout) -> dict[str, str]:
    """Service variables that are the same for every task of the node."""
    return {
        "AZ_BATCH_ACCOUNT_NAME": setup.account_name,
        "AZ_BATCH_ACCOUNT_URL": account_url(setup.account_url),
        "AZ_BATCH_POOL_ID": setup.pool_id,
        "AZ_BATCH_NODE_ID": setup.node_id,
        "AZ_BATCH_NODE_IS_DEDICATED": "true" if setup.is_dedicated else "false",
        "AZ_BATCH_NODE_ROOT_DIR": layout.root,
        "AZ_BATCH_NODE_SHARED_DIR": layout.shared,
        "AZ_BATCH_NODE_STARTUP_DIR": layout.startup,
        "AZ_BATCH_NODE_MOUNTS_DIR": layout.mounts,
        "AZ_BATCH_TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES": str(RESERVED_BYTES),
    }


def of_gang(gang: Gang, place: TaskPlace) -> dict[str, str]:
    """What every instance of a multi-instance task is told of the others; the primary comes first."""
    slots = " ".join(f"{address} 1" for address in gang.addresses)
    return {
        "AZ_BATCH_TASK_SHARED_DIR": place.shared,
        "AZ_BATCH_TASK_WORKING_DIR": place.shared + "/wd",
        "AZ_BATCH_NODE_LIST": ";".join(gang.addresses),
        "AZ_BATCH_HOST_LIST": ",".join(gang.addresses),
        "AZ_BATCH_MASTER_NODE": f"{gang.addresses[0]}:{MASTER_PORT}",
        "AZ_BATCH_IS_CURRENT_NODE_MASTER": "true" if gang.number == 0 else "false",
        "CCP_NODES": f"{len(gang.addresses)} {slots}",
    }


def of_task(
    node: dict[str, str],
    place: TaskPlace,
    user: User,
    identity: UserIdentity | None,
    common: Sequence[EnvironmentSetting],
    own: Sequence[EnvironmentSetting],
    *,
    trusted: Mapping[str, str] | None = None,
    preparation: TaskPlace | None = None,
    token: str | None = None,
    packages: Mapping[str, str] | None = None,
    gang: Gang | None = None,
) -> dict[str, str]:
    """All variables of one attempt."""
    home = place.working if gang is None else place.shared + "/wd"
    variables = {"PATH": PATH, "HOME": home, "USER": user.name, "LOGNAME": user.name, "LANG": "C.UTF-8", **(trusted or {})}
    for setting in (*common, *own):
        variables[setting.name] = setting.value or ""
    variables.update(node)
    variables.update(packages or {})
    for name, value in (("AZ_BATCH_JOB_ID", place.job_id), ("AZ_BATCH_TASK_ID", place.task_id)):
        if value:
            variables[name] = value
        else:
            variables.pop(name, None)  # a start task has neither
    variables["AZ_BATCH_TASK_DIR"] = place.directory
    variables["AZ_BATCH_TASK_WORKING_DIR"] = place.working
    variables["AZ_BATCH_TASK_USER"] = user.name
    variables["AZ_BATCH_TASK_USER_IDENTITY"] = kind(identity)
    if preparation is not None:
        variables["AZ_BATCH_JOB_PREP_DIR"] = preparation.directory
        variables["AZ_BATCH_JOB_PREP_WORKING_DIR"] = preparation.working
    if gang is not None:
        variables.update(of_gang(gang, place))
    if token is not None:
        variables["AZ_BATCH_AUTHENTICATION_TOKEN"] = token
    return variables
