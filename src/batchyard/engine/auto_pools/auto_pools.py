"""Jobs are added, each with the pool that is made for it: both in one transaction, so neither is ever there without the other.

The other end is `engine.settling.job_ends`, where the pool goes in the transaction in which its job ends.
"""

from __future__ import annotations

import uuid

from batchyard.engine.checks import auto_pools as checks
from batchyard.engine.checks import containers
from batchyard.engine.checks import jobs as job_checks
from batchyard.engine.checks.auto_pools import PLAIN, Demand
from batchyard.engine.pools import pools
from batchyard.engine.settling.job_ends import refuse_pool
from batchyard.engine.work import jobs
from batchyard.model.errors import BatchError
from batchyard.model.job import AutoPoolSpecification, JobCreateContent, JobManagerTask
from batchyard.model.pool import PoolCreateContent
from batchyard.store import pools as pool_rows
from batchyard.store.jobs import JobRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx


def add(tx: Tx, job: JobCreateContent, now: int, demand: Demand = PLAIN) -> JobRow:
    """Add a job and queue its manager; the pool that it names need not exist (contract 3.1).

    Raises JobExists, JobScheduleWithSameIdExists, ActiveJobAndScheduleQuotaReached.
    """
    job_checks.check(job, demand)
    jobs.free_id(tx, job.id)
    if not jobs.has_room(tx, demand.offer.quotas.active_jobs):
        raise BatchError("ActiveJobAndScheduleQuotaReached")
    spec = job.pool_info.auto_pool_specification
    if job.job_manager_task is not None:
        _check_container(tx, job, job.job_manager_task)
    if spec is None:
        return jobs.begin(tx, jobs.insert(tx, job, now), job, now)
    return with_pool(tx, job, new_id(spec), now, demand)


def _check_container(reader: Reader, job: JobCreateContent, manager: JobManagerTask) -> None:
    """A manager runs in a container exactly where its pool's tasks do."""
    spec, pool_id = job.pool_info.auto_pool_specification, job.pool_info.pool_id
    if spec is not None and spec.pool is not None:
        content: PoolCreateContent | None = checks.content(spec.pool, "auto")
    else:
        pool = pool_rows.find(reader, pool_id or "")
        content = None if pool is None else pool_rows.content(pool.body)
    containers.fits(manager.container_settings, content, "jobManagerTask.containerSettings")


def with_pool(tx: Tx, job: JobCreateContent, pool_id: str, now: int, demand: Demand, *, schedule_pk: int | None = None) -> JobRow:
    """Add a job that was checked, and make the pool for it; without that the job is completed at once and says why (contract 3.12)."""
    spec = job.pool_info.auto_pool_specification
    assert spec is not None, f"job {job.id} has no pool to be made"
    row = jobs.insert(tx, job, now, auto_pool=pool_id, schedule_pk=schedule_pk)
    try:
        make(tx, spec, pool_id, now, demand)
    except BatchError as error:
        return refuse_pool(tx, row, checks.scheduling_error(error), now)
    return jobs.begin(tx, row, job, now)


def make(tx: Tx, spec: AutoPoolSpecification, pool_id: str, now: int, demand: Demand) -> None:
    """Make the pool; what is refused is so before anything is written. Raises what the addition of a pool raises."""
    assert spec.pool is not None, "no pool is specified"
    content, shortest_us = checks.content(spec.pool, pool_id), demand.shortest_interval_us
    pools.add(tx, content, now, demand.offer, shortest_interval_us=shortest_us, checked=demand.checked)


def new_id(spec: AutoPoolSpecification) -> str:
    """An id that no pool ever had (contract 3.12)."""
    unique = str(uuid.uuid4()).upper()
    return f"{spec.auto_pool_id_prefix}_{unique}" if spec.auto_pool_id_prefix else unique
