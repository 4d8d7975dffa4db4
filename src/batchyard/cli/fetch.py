"""Bringing files back: what `--out` kept, while tasks end or any time later, and files of the tasks' directories."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchyard.cli import select
from batchyard.cli.boxes import Blob, Box, download, inside
from batchyard.cli.client import Client, Refused
from batchyard.cli.follow import NOT_THERE
from batchyard.cli.problem import Interrupted, Problem
from batchyard.cli.progress import Progress
from batchyard.cli.streams import say

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Found = dict[str, Any]
_AT_ONCE = 8
_TURNS = 16
"""In so many turns the outputs of a quick submission are fetched: fewer ends than that part of all wait for others, though not for long."""
_PATIENCE_S = 1.0


class Outputs:
    """Outputs of one submission, fetched as its tasks end, each task's into a directory of its own when there are several."""

    def __init__(self, box: Box, folder: str, patterns: Mapping[str, Sequence[str]], into: Path) -> None:
        self._box, self._folder, self._patterns = box, folder, patterns
        self._into = into.resolve()
        self._pool: ThreadPoolExecutor | None = None
        self._running: list[Future[object]] = []
        self._missing: list[str] = []
        self._ended: list[str] = []
        self._fetched = 0.0

    def ended(self, tasks: Sequence[str]) -> None:
        """These ended well since this was called last, perhaps none."""
        self._ended += tasks
        if len(self._ended) * _TURNS >= len(self._patterns) or monotonic() >= self._fetched + _PATIENCE_S:
            self._flush()

    def _flush(self) -> None:
        if self._ended:
            self._fetched = monotonic()
            self._begin(self._fetch, self._ended)
            self._ended = []

    def _begin(self, do: Callable[..., object], *given: object) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE)
        with contextlib.suppress(RuntimeError):  # a pool that was shut down takes nothing more
            self._running.append(self._pool.submit(do, *given))

    def _fetch(self, tasks: Sequence[str]) -> None:
        prefixes = {task: f"{self._folder}/{task}/" for task in tasks}
        found = self._box.below([*prefixes.values()])
        for task, prefix in prefixes.items():
            names = {blob.name.removeprefix(prefix): blob for blob in found[prefix]}
            self._missing += [
                f"--out {pattern!r} of {task} matched nothing" for pattern in self._patterns[task] if not matched(pattern, names)
            ]
            into = self._into if len(self._patterns) == 1 else self._into / task
            for name, blob in names.items():
                read = partial(self._box.read, blob.name)
                if blob.content is not None:
                    save(blob, into, name, read)
                else:
                    self._begin(save, blob, into, name, read)

    def finish(self) -> Iterator[str]:
        """Return when all is there; sentences about what is not. Raises Problem."""
        self._flush()
        for one in self._running:  # what lists adds what downloads before it ends, so none is missed
            one.result()
        yield from self._missing

    def stop(self) -> None:
        """Begin nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def save(blob: Blob, into: Path, name: str, read: Callable[[int, int], bytes]) -> Path:
    """Write a blob, or a file of a node, below a directory. Raises Problem."""
    target = inside(into, name)
    try:
        download(blob, target, read)
    except OSError as error:
        raise Problem(f"cannot write to {target} ({error.strerror})") from None
    return target


def matched(pattern: str, names: Iterable[str]) -> bool:
    """Whether an --out pattern has brought any of the files."""
    steps = PurePosixPath(pattern).parts
    if {"/", ".."} & set(steps):  # from elsewhere: only what is below the first wildcard keeps its path
        pattern = f"*{steps[-1]}"
    wanted = pattern.replace("**/", "*")
    return any(fnmatchcase(name, wanted) for name in names)


def get(batch: Client, *, what: str, globs: Sequence[str], job: str | None, into: str | Path, pick: select.Pick) -> int:
    """Fetch the files that --out kept, and with globs files of the tasks' directories."""
    from concurrent.futures import ThreadPoolExecutor

    pairs, single = _meant(batch, what, job, pick)
    if not pairs:
        raise Problem(f"no task of {what} is meant")
    root = Path(into).resolve()
    fetched = Fetched(batch, globs)
    problems: list[str] = []
    written = 0
    with ThreadPoolExecutor(_AT_ONCE) as several, Progress("fetching", len(pairs)) as progress:
        try:
            for pair, paths in zip(
                pairs, several.map(lambda pair: fetched.of(pair[0], pair[1], root if single else root / pair[1]), pairs), strict=True
            ):
                progress.add()
                written += len(paths) if isinstance(paths, list) else 0
                problems += [f"{pair[0]}/{pair[1]}: {paths}"] if isinstance(paths, Problem) else []
                for path in paths if isinstance(paths, list) else ():
                    progress.print(_shown(path))
        except KeyboardInterrupt:
            several.shutdown(wait=False, cancel_futures=True)
            raise Interrupted(f"{progress.done:,} of {len(pairs):,} tasks fetched; the same command goes on from there") from None
    for problem in problems[:10]:
        say(f"batchyard: {problem}")
    if not written and not problems:
        say(f"batchyard: nothing of {what} matches {' '.join(globs) or 'what --out named'}")
    return int(bool(problems) or not written)


def _meant(batch: Client, where: str, job: str | None, pick: select.Pick) -> tuple[list[tuple[str, str]], bool]:
    """(job, task) of those that are meant, and whether it is one that was named."""
    if "/" in where or job:
        pairs = list(select.tasks(batch, [where], job, pick))
        return pairs, len(pairs) == 1 and not select.is_glob(where)
    from batchyard.cli import names

    job_, task = names.job_or_task(batch, where, None) if not (select.is_glob(where) or where == "last") else (where, None)
    return ([(job_, task)], True) if task else (list(select.tasks(batch, [f"{job_}/*"], None, pick)), False)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class Fetched:
    """Fetches the files of tasks."""

    def __init__(self, batch: Client, globs: Sequence[str]) -> None:
        self._batch, self._globs = batch, globs
        self._boxes: dict[str, Box] = {}

    def of(self, job: str, task: str, into: Path) -> list[Path] | Problem:
        """The files of a task that were written; why not."""
        try:
            found = self._batch.get("jobs", job, "tasks", task)
            kept = list(self._kept(found, into))
            return [*kept, *self._own(job, found, into, set(kept))] if self._globs or not kept else kept
        except Problem as problem:
            return problem

    def _kept(self, task: Found, into: Path) -> Iterator[Path]:
        """What its output files were sent as."""
        outputs = (destination(one) for one in task.get("outputFiles") or ())
        for url, base in dict.fromkeys((url, _base(path, task["id"])) for url, path in outputs if url):
            box = self._box(url)
            for blob in box.below([base])[base]:
                name = blob.name.removeprefix(base).lstrip("/") or PurePosixPath(base).name
                if blob.name in (base, f"{base}/{name}") and (not self._globs or any(_fits(name, glob) for glob in self._globs)):
                    yield save(blob, into, name, partial(box.read, blob.name))

    def _box(self, url: str) -> Box:
        from batchyard.cli.storage import Storage

        if url not in self._boxes:
            account, _, container = url.rstrip("/").rpartition("/")
            storage = Storage(self._batch.storage)
            if account != storage.url:
                raise Problem(f"its outputs are in another storage account, {urlsplit(url).netloc}; this command knows {storage.url}")
            self._boxes[url] = storage.reader(self._batch, container)
        return self._boxes[url]

    def _own(self, job: str, task: Found, into: Path, known: set[Path]) -> Iterator[Path]:
        """Files of its directory, as far as its node has it: what the globs name, else what it wrote to stdout and stderr."""
        globs = self._globs or ("stdout.txt", "stderr.txt")
        path = ("jobs", job, "tasks", task["id"], "files")
        try:
            names = [one for one in self._batch.listed(*path, recursive="true") if not one.get("isDirectory")]
        except Refused as refused:
            if refused.error not in NOT_THERE:
                raise
            if known:  # what --out kept is enough
                return
            raise Problem(f"its files are gone, or are not there yet ({refused.error})") from None
        for one in names:
            name = str(one["name"]).removeprefix("wd/")
            target = inside(into, name)
            if target not in known and any(_fits(name, glob) for glob in globs):
                yield save(as_blob(one), into, name, partial(read_part, self._batch, (*path, one["name"])))


def as_blob(file: Found) -> Blob:
    """A file of a node's list, with its time as its version."""
    properties = file.get("properties") or {}
    modified = datetime.fromisoformat(properties["lastModified"]).timestamp() if properties.get("lastModified") else 0.0
    return Blob(str(file["name"]), int(properties.get("contentLength") or 0), f"{modified}", modified)


def read_part(batch: Client, path: Sequence[str], start: int, most: int) -> bytes:
    """A part of a file of a node. Raises Refused."""
    return batch.read(*path, offset=start, most=most)


def destination(output: Found) -> tuple[str, str]:
    """(container's URL, path) of an output file."""
    container = (output.get("destination") or {}).get("container") or {}
    return str(container.get("containerUrl", "")).partition("?")[0], str(container.get("path", ""))


def _base(path: str, task: str) -> str:
    """The part of a path up to the task's own directory, or all of it."""
    front, found, _ = f"{path}/".partition(f"/{task}/")
    return f"{front}/{task}" if found else path


def _fits(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(PurePosixPath(name).name, glob)
