"""The daily words for what was submitted: wait, cancel, retry, top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from batchyard.cli import follow, select, waiting
from batchyard.cli import names as meant
from batchyard.cli.client import Client, Refused
from batchyard.cli.problem import Interrupted, Problem, Usage
from batchyard.cli.progress import Progress
from batchyard.cli.streams import confirmed, many, say

Pairs = Iterator[tuple[str, str]]


def wait(batch: Client, *, names: Sequence[str], job: str | None) -> int:
    """Wait for tasks, or for all tasks of jobs; return the task's exit code, or 1 when any failed."""
    return follow.overall([_wait(batch, name, job) for name in names])


def _wait(batch: Client, name: str, job: str | None) -> int:
    _, slash, back = name.rpartition("/")
    if (slash and (select.is_glob(back) or back == "last")) or name == "last":
        pairs = list(select.tasks(batch, [name], job))
        return waiting.await_(batch, pairs[0][0], [task for _, task in pairs])
    where, task = meant.job_or_task(batch, name, job)
    if task is not None:
        return waiting.await_(batch, where, [task])
    return wait_for_job(batch, where)


def wait_for_job(batch: Client, where: str) -> int:
    """Wait for all tasks of a job; 1 when any failed."""
    with waiting.unharmed(where):
        counts = waiting.all_ended(batch, where)
    print(f"{many(counts['succeeded'], 'task')} succeeded, {counts['failed']} failed")
    return int(counts["failed"] > 0)


def cancel(batch: Client, *, job: str, tasks: Sequence[str], pick: select.Pick, yes: bool | None) -> None:
    """End tasks, or a job and all its tasks."""
    if tasks or "/" in job or select.chosen(pick):
        cancel_tasks(batch, _meant(batch, job, tasks, pick), yes=bool(yes))
        return
    for where in select.ids(batch, "jobs", [job]):
        end_job(batch, where, "cancelled", force=False, yes=bool(yes))


def end_job(batch: Client, job: str, reason: str | None, *, force: bool, yes: bool) -> None:
    """End a job; its tasks are lost."""
    counts = batch.get("jobs", job, "taskcounts")["taskCounts"]
    lost = counts["active"] + counts["running"]
    if lost:
        confirmed(f"End the job {job} with {counts['running']:,} running and {counts['active']:,} waiting tasks?", yes=yes)
    batch.post("jobs", job, "terminate", body={"terminateReason": reason} if reason else {}, force="true" if force else "")
    print(f"the job {job} ends")


def cancel_tasks(batch: Client, pairs: Pairs, *, yes: bool) -> None:
    """End tasks; those of several that have ended already are no failure."""
    known = list(pairs)
    if len(known) > 1:
        confirmed(f"End {many(len(known), 'task')}?", yes=yes)
    each(known, "ended", partial(act, batch, "terminate"), "the task {task} of {job} ends", passing=("TaskCompleted",))


def act(batch: Client, verb: str, job: str, task: str) -> None:
    """Post a verb to a task. Raises Refused."""
    batch.post("jobs", job, "tasks", task, verb)


def retry(batch: Client, *, job: str, tasks: Sequence[str], pick: select.Pick) -> None:
    """Run tasks again that ended."""
    if not tasks and "/" not in job and not select.chosen(pick):
        raise Usage("say which tasks to run again: --failed, or their ids")
    retry_tasks(batch, _meant(batch, job, tasks, pick), job)


def retry_tasks(batch: Client, pairs: Pairs, what: str) -> None:
    """Run tasks again."""
    if not each(list(pairs), "run again", partial(act, batch, "reactivate"), "{task}"):
        say(f"batchyard: no task of {what} has failed")


def _meant(batch: Client, job: str, tasks: Sequence[str], pick: select.Pick) -> Pairs:
    """The tasks of a job that words name; where options choose and nothing is named, all of it."""
    where, slash, _ = job.rpartition("/")
    if slash:
        return select.tasks(batch, [job, *(f"{where}/{one}" for one in tasks)], None, pick)
    return select.tasks(batch, tasks or ["*"], job, pick)


def each(pairs: Sequence[tuple[str, str]], done_: str, do: Callable[[str, str], None], said: str, passing: Sequence[str] = ()) -> int:
    """Do something to tasks, several at once and in order; how many there were. Raises Problem after the last for those refused."""
    from concurrent.futures import ThreadPoolExecutor

    def one(pair: tuple[str, str]) -> Problem | None:
        try:
            do(*pair)
        except Problem as problem:
            return problem
        return None

    refused: list[Problem] = []
    done = 0
    with ThreadPoolExecutor(8) as several, Progress(done_, len(pairs)) as progress:
        try:
            for pair, problem in zip(pairs, several.map(one, pairs), strict=True):
                if problem is None:
                    done += 1
                    progress.print(said.format(job=pair[0], task=pair[1]))
                elif len(pairs) == 1 or not (isinstance(problem, Refused) and problem.error in passing):
                    refused.append(problem)
                progress.add()
        except KeyboardInterrupt:
            several.shutdown(wait=False, cancel_futures=True)
            raise Interrupted(f"{done:,} of {len(pairs):,} tasks {done_}; the same command goes on with the others") from None
    if refused:
        more = f"; {len(refused) - 1} more were refused" if len(refused) > 1 else ""
        raise Problem(f"{refused[0]}{more}")
    return len(pairs)


def top(batch: Client, *, once: bool) -> None:
    """Watch pools, nodes and running tasks."""
    import contextlib

    from batchyard.cli import top as view

    show: Callable[..., None] = view.show
    with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
        show(batch, once=once)
