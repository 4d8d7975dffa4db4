"""The tables as SQLAlchemy sees them; a test holds them against the migrated schema.

Booleans are 0/1 and times are integers, so no value needs conversion on its way to a driver.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()


def _table(name: str, /, *, key: str | None = "pk", **columns: type) -> Table:
    kinds = {str: Text, int: BigInteger, bytes: LargeBinary, bool: Integer}
    return Table(name, metadata, *(Column(column, kinds[kind], primary_key=column == key) for column, kind in columns.items()))


sequence = _table("sequence", key="name", name=str, next=int)
lease = _table("lease", key="name", name=str, holder=str, until=int, fence=int)
pool = _table(
    "pool",
    pk=int, id=str, state=str, version=int, state_time=int, allocation_state=str, allocation_time=int, created=int, modified=int,
    target_dedicated=int, target_low_priority=int, slots_per_node=int, pack=bool, resize_timeout=int, deallocation_option=str,
    resize_errors=bytes, body=bytes, autoscale_formula=str, autoscale_interval=int, autoscale_next=int, autoscale_run=bytes,
    autoscale_enabled=int, autoscale_pending=int, oldest_first=bool,
)  # fmt: skip
node = _table(
    "node",
    pk=int, pool_pk=int, id=str, state=str, version=int, state_time=int, scheduling_state=str, dedicated=bool, slots=int, slots_used=int,
    tasks_running=int, tasks_run=int, tasks_succeeded=int, session=int, last_seen=int, allocated=int, booted=int, launches=int, handle=str,
    facts=bytes, errors=bytes, action=str, action_option=str, action_since=int, action_after=int, start_task=bytes, recent=str, cores=int,
    memory=int, provider=str, launch_error=str, blocked=bool, tried=int, task_disk=int, root=str, number=int,
)  # fmt: skip
node_usage = _table(
    "node_usage", pk=int, node_pk=int, pool_pk=int, pool_id=str, vm_size=str, dedicated=bool, cores=int, allocated=int, released=int
)  # fmt: skip
job = _table(
    "job",
    pk=int, id=str, state=str, version=int, state_time=int, previous_state=str, previous_time=int, created=int, modified=int, started=int,
    ended=int, deadline=int, pool_key=str, priority=int, max_parallel=int, max_retries=int, uses_dependencies=bool, ends_when_complete=bool,
    acts_on_failure=bool, terminate_reason=str, environment=bytes, body=bytes, disable_option=str, forced=bool,
    ends_with_manager=bool, preemptible=bool, preparation_id=str, release_id=str,
)  # fmt: skip
job_counts = _table(
    "job_counts", key="job_pk",
    job_pk=int, ready=int, active=int, running=int, completed=int, succeeded=int, failed=int, active_slots=int, running_slots=int,
    completed_slots=int, succeeded_slots=int, failed_slots=int, retries=int, user_us=int, kernel_us=int, wall_us=int, smallest=int,
    pool_key=str, priority=int, max_parallel=int, open=bool, preemptible=bool, prepares=bool, looked=int,
    restarted=bool,
)  # fmt: skip
task = _table(
    "task",
    pk=int, job_pk=int, id=str, number=int, state=str, version=int, ready=bool, unmet=int, satisfied=bool, slots=int, max_retries=int,
    conditions=bytes, run=int, retries=int, requeues=int, losses=int, created=int, modified=int, state_time=int, previous_state=str,
    previous_time=int, node_pk=int, started=int, ended=int, last_retry=int, last_requeue=int, exit_code=int, result=str, failure=bytes,
    manager=bool, exclusive=bool, dedicated_only=bool, wants_token=bool, affinity=str, held=int, retention=int, expires=int, user_us=int,
    kernel_us=int, wall_us=int, holds=bool,
)  # fmt: skip
task_body = _table("task_body", pk=int, body=bytes)
dependency = _table("dependency", key=None, job_pk=int, parent=str, child=int)
dependency_range = _table("dependency_range", pk=int, job_pk=int, low=int, high=int, remaining=int, child=int)
leftover = _table("leftover", key=None, job_pk=int, task_pk=int, node_pk=int)
removal = _table("removal", pk=int, node_pk=int, directory=str)
special_task = _table(
    "special_task",
    pk=int, job_pk=int, node_pk=int, kind=str, node_id=str, pool_id=str, state=str, version=int, run=int, retries=int, started=int,
    ended=int, last_retry=int, exit_code=int, result=str, failure=bytes, stale=bool, losses=int,
)  # fmt: skip
autoscale_sample = _table(
    "autoscale_sample", key=None,
    pool_pk=int, at=int, active_tasks=int, running_tasks=int, succeeded_tasks=int, failed_tasks=int, active_task_slots=int,
    running_task_slots=int, task_slots_per_node=int, current_dedicated_nodes=int, current_low_priority_nodes=int,
    preempted_node_count=int, usable_node_count=int, sample_node_count=int,
)  # fmt: skip
autoscale_run = _table("autoscale_run", pk=int, pool_pk=int, body=bytes)
event = _table("event", pk=int, at=int, what=str, subject=int, until=int, happened=str, old=str, new=str, cause=str)
