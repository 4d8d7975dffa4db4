"""What a blob store is: the protocol the HTTP layer speaks, and its value types.

Every write method returns only after the change would survive a crash. Methods are plain `def` and thread-safe;
the HTTP layer calls them in threads. Times are microseconds since 1970 (UTC), entity tags are unquoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from batchyard.blobs.conditions import ALWAYS, Conditions
from batchyard.blobs.errors import BlobError
from batchyard.blobs.leases import Lease
from batchyard.blobs.services import Properties
from batchyard.blobs.tags import Matches

__all__ = [
    "ALWAYS",
    "ARCHIVE",
    "CURRENT",
    "DIRECTORY",
    "MAX_BLOCKS",
    "AccessPolicy",
    "Blob",
    "BlobDraft",
    "BlobError",
    "BlobKind",
    "BlobPage",
    "BlobReader",
    "BlobRef",
    "BlobStore",
    "Block",
    "BlockSource",
    "Conditions",
    "Container",
    "ContainerPage",
    "ContainerRef",
    "ContentHeaders",
    "Copied",
    "CopyDraft",
    "Deleted",
    "Extras",
    "Fetch",
    "Lease",
    "ListQuery",
    "PageRange",
    "SequenceConditions",
    "Upload",
]


T = TypeVar("T", covariant=True)

MAX_BLOCKS = 50_000  # of a block list, and appends of an append blob


DIRECTORY = "hdi_isfolder"
"""Metadata of a blob that is a directory, as Azure's tools write them."""
CURRENT = "~"
"""The slot of a blob that is no snapshot and no earlier version; it comes behind all times, so a blob follows those."""
ARCHIVE = "Archive"
"""The tier whose blobs cannot be read."""


class BlobKind(StrEnum):
    """Blob types."""

    BLOCK = "BlockBlob"
    APPEND = "AppendBlob"
    PAGE = "PageBlob"


class BlockSource(StrEnum):
    """Where Put Block List looks for a block."""

    COMMITTED = "Committed"
    UNCOMMITTED = "Uncommitted"
    LATEST = "Latest"


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """Address of a container."""

    account: str
    container: str


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Address of a blob; the name is any text, never a path."""

    account: str
    container: str
    name: str
    snapshot: str | None = None
    version: str | None = None

    @property
    def parent(self) -> ContainerRef:
        """Address of the container."""
        return ContainerRef(self.account, self.container)


@dataclass(frozen=True, slots=True)
class ContentHeaders:
    """What a download answers besides the bytes; `md5` is base64 of the whole content."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Stored access policy; what is None must come from the SAS. Times are texts as the client sent them."""

    start: str | None = None
    expiry: str | None = None
    permissions: str | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """When something was deleted that is kept for a while, and until when; a container has a version then."""

    at_us: int
    until_us: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """Properties of a container."""

    name: str
    etag: str
    modified_us: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, AccessPolicy] = field(default_factory=dict)
    lease: Lease | None = None
    access: str | None = None
    """What readers without a key see: `blob` (blobs whose names they know), `container` (lists too), None for nothing."""
    deleted: Deleted | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """The last copy that made a blob what it is; `progress` is "bytes copied/bytes in all"."""

    id: str
    source: str
    status: str
    progress: str
    completed_us: int | None = None
    description: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A copy from elsewhere that is under way, and what its source said it is."""

    id: str
    url: str
    etag: str


@dataclass(frozen=True, slots=True)
class Extras:
    """What few blobs have."""

    copied: Copied | None = None
    lease: Lease | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    tier: str | None = None
    tier_changed_us: int | None = None
    sealed: bool = False
    sequence: int = 0
    """Sequence number of a page blob."""
    expires_us: int | None = None
    """From when on it is gone."""


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class BlobDraft:
    """What a client says about a blob that it makes."""

    kind: BlobKind = BlobKind.BLOCK
    headers: ContentHeaders = ContentHeaders()
    metadata: Mapping[str, str] = field(default_factory=dict)
    extras: Extras = NO_EXTRAS
    size: int | None = None
    """Bytes of a page blob."""


@dataclass(frozen=True, slots=True)
class PageRange:
    """Bytes begin..end (exclusive) of a page blob; `cleared` where there was something before."""

    begin: int
    end: int
    cleared: bool = False

    def cut(self, begin: int, end: int) -> PageRange:
        """What of it lies between."""
        return PageRange(max(self.begin, begin), min(self.end, end), self.cleared)


@dataclass(frozen=True, slots=True)
class SequenceConditions:
    """What must hold for the sequence number of a page blob."""

    at_most: int | None = None
    less_than: int | None = None
    equal: int | None = None

    def hold(self, number: int) -> bool:
        """Whether they do."""
        fits = self.equal is None or number == self.equal
        return fits and (self.at_most is None or number <= self.at_most) and (self.less_than is None or number < self.less_than)


@dataclass(frozen=True, slots=True)
class CopyDraft:
    """What a client says about a copy: None keeps what the source has."""

    copied: Copied
    metadata: Mapping[str, str] | None = None
    headers: ContentHeaders | None = None
    tags: Mapping[str, str] | None = None
    tier: str | None = None
    must_be: BlobKind | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """Properties of a committed blob; `block_count` counts the committed appends of an append blob."""

    name: str
    kind: BlobKind
    length: int
    etag: str
    modified_us: int
    created_us: int
    headers: ContentHeaders
    metadata: Mapping[str, str]
    block_count: int = 0
    extras: Extras = NO_EXTRAS
    snapshot: str | None = None
    """When it was taken, as clients name it; None for the blob itself."""
    version: str | None = None
    """The id of the version, where versions are kept."""
    deleted: Deleted | None = None
    slot: str = CURRENT
    """Where it stands among all that have its name."""

    @property
    def is_directory(self) -> bool:
        """Whether it stands for a directory."""
        return not self.length and any(name.lower() == DIRECTORY and value.lower() == "true" for name, value in self.metadata.items())

    @property
    def is_current(self) -> bool:
        """Whether it is what its name leads to."""
        return self.slot == CURRENT


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a block blob; `id` is the client's base64 text, `length` in bytes."""

    id: str
    length: int


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One page of a listing; `start` is the smallest name wanted (from the page before), not an opaque marker."""

    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    limit: int = 5000
    snapshots: bool = False
    uncommitted: bool = False
    versions: bool = False
    deleted: bool = False
    only_versions: bool = False
    """Also the newest version of blobs that were deleted."""

    directories: bool = False
    """With a delimiter: blobs that are directories are shown as prefixes."""

    @property
    def many(self) -> bool:
        """Whether a name may be listed more than once."""
        return self.snapshots or self.versions or self.deleted or self.only_versions


@dataclass(frozen=True, slots=True)
class BlobPage:
    """Blobs and (with a delimiter) common prefixes in name order; `next` starts the following page."""

    entries: Sequence[Blob | str]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerPage:
    """Containers in name order; `next` starts the following page."""

    entries: Sequence[Container]
    next: str | None = None


class Upload(Protocol[T]):
    """Content on its way in; nothing is visible until commit, nothing is left after abort."""

    @property
    def length(self) -> int:
        """Bytes written so far."""

    def write(self, chunk: bytes) -> None:
        """Add bytes at the end."""

    def md5(self) -> bytes:
        """MD5 of what was written so far."""

    def commit(self, now_us: int) -> T:
        """Make the content durable and visible in one step."""

    def abort(self) -> None:
        """Forget the content; harmless after commit and when repeated."""


class BlobReader(Protocol):
    """Content of one version of a blob, unaffected by later overwrites and deletes."""

    blob: Blob
    begin: int
    length: int

    def read(self, size: int) -> bytes:
        """Up to `size` next bytes, empty at the end."""

    def close(self) -> None:
        """Let go of the version; harmless when repeated."""


class BlobStore(Protocol):
    """Containers and blobs of any number of storage accounts. Every method may raise BlobError."""

    def properties(self, account: str) -> Properties: ...
    def set_properties(self, account: str, change: Callable[[Properties], Properties]) -> None: ...

    def create_container(self, ref: ContainerRef, metadata: Mapping[str, str], now_us: int, access: str | None = None) -> Container: ...
    def container(self, ref: ContainerRef) -> Container: ...
    def set_container_metadata(self, ref: ContainerRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Container: ...
    def set_policies(
        self, ref: ContainerRef, policies: Mapping[str, AccessPolicy], conditions: Conditions, now_us: int, access: str | None = None
    ) -> Container: ...
    def delete_container(self, ref: ContainerRef, conditions: Conditions) -> None: ...
    def list_containers(self, account: str, query: ListQuery) -> ContainerPage: ...
    def list_blobs(self, ref: ContainerRef, query: ListQuery) -> BlobPage: ...

    def blob(self, ref: BlobRef) -> Blob: ...
    def read(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> BlobReader:
        """Open bytes begin..end (exclusive; None: to the end) of one version.

        InvalidRange when `begin` > 0 is past the content, BlobContentLost when the bytes are not all there.
        """

    def put(self, ref: BlobRef, draft: BlobDraft, conditions: Conditions) -> Upload[Blob]:
        """Begin a new version; a block blob without an MD5 in its draft gets that of its content."""

    def commit_all(self, uploads: Sequence[Upload[Blob]], now_us: int) -> Sequence[Blob | BaseException]:
        """Commit what `put` began, in one step and in this order; in the place of a blob why there is none, which touches no other."""

    def stage(self, ref: BlobRef, block_id: str, conditions: Conditions = ALWAYS) -> Upload[None]: ...
    def append(self, ref: BlobRef, conditions: Conditions, position: int | None, max_size: int | None) -> Upload[tuple[Blob, int]]:
        """Add to an append blob; commit gives the blob and the offset at which the content went in."""

    def write_pages(self, ref: BlobRef, begin: int, conditions: Conditions, sequence: SequenceConditions) -> Upload[Blob]:
        """Write into a page blob from that byte on."""

    def clear_pages(self, ref: BlobRef, pages: PageRange, conditions: Conditions, sequence: SequenceConditions, now_us: int) -> Blob: ...
    def set_page_properties(
        self, ref: BlobRef, size: int | None, sequence: tuple[str, int] | None, headers: ContentHeaders | None, conditions: Conditions
    ) -> Blob: ...
    def page_ranges(self, ref: BlobRef, conditions: Conditions, begin: int, end: int | None) -> tuple[Blob, Sequence[PageRange]]: ...
    def page_changes(
        self, ref: BlobRef, previous: str, conditions: Conditions, begin: int, end: int | None
    ) -> tuple[Blob, Sequence[PageRange]]: ...

    def commit_blocks(
        self, ref: BlobRef, blocks: Sequence[tuple[BlockSource, str]], draft: BlobDraft, conditions: Conditions, now_us: int
    ) -> Blob: ...
    def blocks(self, ref: BlobRef) -> tuple[Blob | None, Sequence[Block], Sequence[Block]]:
        """The blob (None when nothing is committed), its committed and its uncommitted blocks."""

    def copy(self, source: BlobRef, ref: BlobRef, draft: CopyDraft, given: tuple[Conditions, Conditions], now_us: int) -> Blob:
        """Make `ref` the same as one version of `source`; `given` are the conditions of each. CannotVerifyCopySource without a source."""

    def begin_fetch(self, ref: BlobRef, draft: BlobDraft, source: tuple[str, str], conditions: Conditions, most: int) -> Blob: ...
    def fetches(self) -> Sequence[str]: ...
    def fetch(self, copy: str) -> Fetch | None: ...
    def note_progress(self, copy: str, progress: str) -> bool: ...
    def fetched(self, copy: str) -> Upload[Blob]: ...
    def end_fetch(self, copy: str, status: str, why: str, now_us: int) -> bool: ...
    def abort_copy(self, ref: BlobRef, copy: str, lease_id: str | None, now_us: int) -> None: ...
    def snapshot(self, ref: BlobRef, metadata: Mapping[str, str] | None, conditions: Conditions, now_us: int) -> Blob: ...
    def lease_blob(self, ref: BlobRef, conditions: Conditions, act: Callable[[Lease | None], Lease | None]) -> Blob: ...
    def lease_container(self, ref: ContainerRef, conditions: Conditions, act: Callable[[Lease | None], Lease | None]) -> Container: ...
    def set_tags(self, ref: BlobRef, tags: Mapping[str, str], conditions: Conditions) -> Blob: ...
    def set_tier(self, ref: BlobRef, tier: str, conditions: Conditions, now_us: int) -> tuple[Blob, bool]: ...
    def set_expiry(self, ref: BlobRef, expiry: Callable[[int], int | None], conditions: Conditions) -> Blob: ...
    def seal(self, ref: BlobRef, conditions: Conditions, position: int | None, now_us: int) -> Blob: ...
    def find_tagged(
        self, account: str, container: str | None, wanted: Matches, start: str, limit: int
    ) -> tuple[list[tuple[str, Blob]], str | None]:
        """One page of blobs whose tags are as wanted, each with its container, and where the next page starts."""

    def path(self, ref: BlobRef) -> Blob | None: ...
    def make_directory(self, ref: BlobRef, draft: BlobDraft, conditions: Conditions, now_us: int) -> Blob: ...
    def rename(self, source: BlobRef, ref: BlobRef, given: tuple[Conditions, Conditions], now_us: int) -> Blob | None: ...
    def delete_tree(self, ref: BlobRef, conditions: Conditions, limit: int, *, recursive: bool) -> bool: ...
    def flush(self, ref: BlobRef, blocks: Sequence[str], end: int, conditions: Conditions, now_us: int) -> Blob: ...

    def set_headers(self, ref: BlobRef, headers: ContentHeaders, conditions: Conditions, now_us: int) -> Blob: ...
    def set_metadata(self, ref: BlobRef, metadata: Mapping[str, str], conditions: Conditions, now_us: int) -> Blob: ...
    def delete_blob(self, ref: BlobRef, conditions: Conditions, snapshots: str | None = None) -> bool: ...
    def undelete_blob(self, ref: BlobRef) -> None: ...
    def restore_container(self, ref: ContainerRef, name: str, version: str) -> Container: ...
