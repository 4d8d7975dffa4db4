"""XML bodies: written by hand with escaping, read by a parser that knows no document types and no entities."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import quote
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from batchyard.blobs import leases
from batchyard.blobs.base import (
    MAX_BLOCKS,
    AccessPolicy,
    Blob,
    BlobError,
    BlobKind,
    BlobPage,
    Block,
    BlockSource,
    Container,
    ContainerPage,
    Deleted,
    Lease,
    ListQuery,
    PageRange,
)
from batchyard.model import times

HEAD = '<?xml version="1.0" encoding="utf-8"?>'
_SOURCES = {source.value: source for source in BlockSource}
_MAX_BLOCK_ID_BYTES = 64
_MAX_POLICIES = 5
_DAY_US = 86_400_000_000
_MOST_TAG_LEAVES = 100


def element(tag: str, content: object) -> str:
    """Element with escaped text; control characters that XML cannot say are left out."""
    text = str(content)
    if _SPECIAL.search(text) is not None:
        text = escape(_UNSAYABLE.sub("", text), _REFERENCES)
    return f"<{tag}>{text}</{tag}>"


# Without references a parser turns CR into LF, and a value would come back changed.
_REFERENCES = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
_SAYABLE = " -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff"
_UNSAYABLE, _UNNAMEABLE = re.compile(f"[^\t\n\r{_SAYABLE}]"), re.compile(f"[^{_SAYABLE}]")
_SPECIAL = re.compile(f"[&<>]|[^{_SAYABLE}]")


def error(code: str, message: str) -> str:
    """Body of a failed request."""
    return f"{HEAD}<Error>{element('Code', code)}{element('Message', message)}</Error>"


def container_list(endpoint: str, query: ListQuery, marker: str, page: ContainerPage, now_us: int, *, metadata: bool) -> str:
    """Body of List Containers."""
    entries = "".join(_container(entry, now_us, metadata=metadata) for entry in page.entries)
    return (
        f"{HEAD}<EnumerationResults ServiceEndpoint={quoteattr(endpoint)}>{_echo(query, marker)}"
        f"<Containers>{entries}</Containers>{element('NextMarker', to_marker(page.next))}</EnumerationResults>"
    )


def blob_list(endpoint: str, container: str, query: ListQuery, marker: str, page: BlobPage, now_us: int, include: Collection[str]) -> str:
    """Body of List Blobs."""
    entries = "".join(_prefix(entry) if isinstance(entry, str) else _blob(entry, now_us, include) for entry in page.entries)
    return (
        f"{HEAD}<EnumerationResults ServiceEndpoint={quoteattr(endpoint)} ContainerName={quoteattr(container)}>{_echo(query, marker)}"
        f"<Blobs>{entries}</Blobs>{element('NextMarker', to_marker(page.next))}</EnumerationResults>"
    )


def block_list(committed: Sequence[Block] | None, uncommitted: Sequence[Block] | None) -> str:
    """Body of Get Block List; None leaves a list out."""
    parts = [("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted)]
    lists = "".join(f"<{tag}>{''.join(map(_block, blocks))}</{tag}>" for tag, blocks in parts if blocks is not None)
    return f"{HEAD}<BlockList>{lists}</BlockList>"


def page_list(ranges: Sequence[PageRange], following: str | None) -> str:
    """Body of Get Page Ranges; ends are those of the last byte."""
    entries = "".join(
        f"<{tag}>{element('Start', one.begin)}{element('End', one.end - 1)}</{tag}>"
        for one in ranges
        for tag in ("ClearRange" if one.cleared else "PageRange",)
    )
    return f"{HEAD}<PageList>{entries}{element('NextMarker', to_marker(following)) if following is not None else ''}</PageList>"


def policy_list(policies: Mapping[str, AccessPolicy]) -> str:
    """Body of Get Container ACL."""
    items = "".join(
        f"<SignedIdentifier>{element('Id', name)}<AccessPolicy>"
        + "".join(
            element(tag, value)
            for tag, value in (("Start", policy.start), ("Expiry", policy.expiry), ("Permission", policy.permissions))
            if value is not None
        )
        + "</AccessPolicy></SignedIdentifier>"
        for name, policy in policies.items()
    )
    return f"{HEAD}<SignedIdentifiers>{items}</SignedIdentifiers>"


def parse_block_list(body: bytes) -> list[tuple[BlockSource, str]]:
    """Entries of Put Block List; raises InvalidXmlDocument, BlockListTooLong or InvalidBlockId."""
    if body.count(b"</") > MAX_BLOCKS + 1:  # one for each entry and one for the list: that many need not be read to be counted
        raise BlobError("BlockListTooLong")
    entries = []
    for path, text in leaves(body, MAX_BLOCKS + 1):
        if path == ("BlockList",):
            continue
        if len(path) != 2 or path[0] != "BlockList" or path[1] not in _SOURCES:
            raise BlobError("InvalidXmlDocument")
        entries.append((_SOURCES[path[1]], checked_block_id(text.strip())))
    if len(entries) > MAX_BLOCKS:
        raise BlobError("BlockListTooLong")
    return entries


def parse_policies(body: bytes) -> dict[str, AccessPolicy]:
    """Body of Set Container ACL; raises InvalidXmlDocument."""
    fields: list[dict[str, str]] = []
    for path, text in leaves(body, 100):
        if path[-1] == "Id":
            fields.append({"Id": text})
        elif path[-1] in ("Start", "Expiry", "Permission") and fields:
            fields[-1][path[-1]] = text.strip()
    policies = {f["Id"]: AccessPolicy(f.get("Start") or None, f.get("Expiry") or None, f.get("Permission") or None) for f in fields}
    if len(policies) != len(fields) or len(fields) > _MAX_POLICIES or any(not 0 < len(name) <= 64 for name in policies):
        raise BlobError("InvalidXmlDocument")
    return policies


def checked_block_id(text: str) -> str:
    """A block id as sent; raises InvalidBlockId unless it is base64 of 1 to 64 bytes."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BlobError("InvalidBlockId") from None
    if not 0 < len(value) <= _MAX_BLOCK_ID_BYTES:
        raise BlobError("InvalidBlockId")
    return text


def to_marker(name: str | None) -> str:
    """Opaque continuation marker of the name that the next page starts with."""
    return "" if name is None else base64.urlsafe_b64encode(name.encode()).decode()


def from_marker(text: str) -> str:
    """Name in a marker; raises InvalidQueryParameterValue for one that was not made here."""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise BlobError("InvalidQueryParameterValue", "The marker is not one that this service gave out.") from None


def leaves(body: bytes, most: int, too_many: str = "BlockListTooLong") -> list[tuple[tuple[str, ...], str]]:
    """(path, text) of every element without children, at most `most` of them; no recursion, no entities."""
    found: list[tuple[tuple[str, ...], str]] = []
    path: list[str] = []
    texts: list[list[str]] = []
    is_leaf = False

    def start(tag: str, _: object) -> None:
        nonlocal is_leaf
        path.append(tag)
        texts.append([])
        is_leaf = True
        if len(path) > 8:
            raise BlobError("InvalidXmlDocument")

    def end(_: str) -> None:
        nonlocal is_leaf
        text = "".join(texts.pop())
        if is_leaf:
            found.append((tuple(path), text))
            if len(found) > most:
                raise BlobError(too_many)
        path.pop()
        is_leaf = False

    def refuse(*_: object) -> None:
        raise BlobError("InvalidXmlDocument")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = lambda text: texts[-1].append(text) if texts else None
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise BlobError("InvalidXmlDocument") from None
    return found


def _echo(query: ListQuery, marker: str) -> str:
    given = [("Prefix", query.prefix), ("Marker", marker), ("Delimiter", query.delimiter)]
    return "".join(element(tag, value) for tag, value in given if value) + element("MaxResults", query.limit)


def _container(entry: Container, now_us: int, *, metadata: bool) -> str:
    properties = element("Last-Modified", times.http_date(entry.modified_us)) + element("Etag", f'"{entry.etag}"')
    state = _lease(entry.lease, now_us) + ("" if entry.access is None else element("PublicAccess", entry.access))
    extra = _metadata(entry.metadata) if metadata else ""
    properties += _deleted(entry.deleted, now_us)
    name = element("Name", entry.name)
    name += "" if entry.deleted is None else element("Deleted", "true") + element("Version", entry.deleted.version)
    return f"<Container>{name}<Properties>{properties}{state}</Properties>{extra}</Container>"


def _blob(entry: Blob, now_us: int, include: Collection[str]) -> str:
    headers = entry.headers
    fields: Iterable[tuple[str, object]] = (
        ("Creation-Time", times.http_date(entry.created_us)),
        ("Last-Modified", times.http_date(entry.modified_us)),
        ("Etag", entry.etag),
        ("Content-Length", entry.length),
        ("Content-Type", headers.content_type or "application/octet-stream"),
        ("Content-Encoding", headers.content_encoding or ""),
        ("Content-Language", headers.content_language or ""),
        ("Content-MD5", headers.md5 or ""),
        ("Cache-Control", headers.cache_control or ""),
        ("Content-Disposition", headers.content_disposition or ""),
        ("BlobType", entry.kind.value),
    )
    properties = "".join(element(tag, value) for tag, value in fields) + _state(entry, now_us, include)
    extra = _metadata(entry.metadata) if "metadata" in include else ""
    if "tags" in include and entry.extras.tags:
        extra += f"<Tags>{_tag_set(entry.extras.tags)}</Tags>"
    place = element("Snapshot", entry.snapshot) if entry.snapshot is not None else ""
    if entry.version is not None and ("versions" in include or "deletedwithversions" in include):
        place += element("VersionId", entry.version) + (element("IsCurrentVersion", "true") if entry.is_current else "")
    place += element("Deleted", "true") if entry.deleted is not None else ""
    properties += _deleted(entry.deleted, now_us)
    if "deletedwithversions" in include and not entry.is_current and entry.snapshot is None and entry.deleted is None:
        extra += element("HasVersionsOnly", "true")
    return f"<Blob>{_name(entry.name)}{place}<Properties>{properties}</Properties>{extra}</Blob>"


def _deleted(deleted: Deleted | None, now_us: int) -> str:
    if deleted is None:
        return ""
    days = max(0, -(-(deleted.until_us - now_us) // _DAY_US))
    return element("DeletedTime", times.http_date(deleted.at_us)) + element("RemainingRetentionDays", days)


def _state(entry: Blob, now_us: int, include: Collection[str]) -> str:
    """Properties that change without a new version of the blob."""
    extras = entry.extras
    said = _lease(extras.lease, now_us) if entry.is_current else ""
    said += element("ServerEncrypted", "false")
    if entry.kind is BlobKind.BLOCK:
        said += element("AccessTier", extras.tier or "Hot")
        if extras.tier is None:
            said += element("AccessTierInferred", "true")
        if extras.tier_changed_us is not None:
            said += element("AccessTierChangeTime", times.http_date(extras.tier_changed_us))
    if entry.kind is BlobKind.PAGE:
        said += element("x-ms-blob-sequence-number", extras.sequence)
    if extras.tags:
        said += element("TagCount", len(extras.tags))
    if extras.expires_us is not None:
        said += element("Expiry-Time", times.http_date(extras.expires_us))
    if extras.sealed:
        said += element("Sealed", "true")
    if "copy" in include and (copied := extras.copied) is not None:
        said += element("CopyId", copied.id) + element("CopyStatus", copied.status) + element("CopySource", copied.source)
        said += element("CopyProgress", copied.progress)
        if copied.description is not None:
            said += element("CopyStatusDescription", copied.description)
        if copied.completed_us is not None:
            said += element("CopyCompletionTime", times.http_date(copied.completed_us))
    return said


def _lease(lease: Lease | None, now_us: int) -> str:
    """LeaseStatus, LeaseState and LeaseDuration, from the headers that say the same."""
    names = (("LeaseStatus", "x-ms-lease-status"), ("LeaseState", "x-ms-lease-state"), ("LeaseDuration", "x-ms-lease-duration"))
    said = leases.headers(lease, now_us)
    return "".join(element(tag, said[name]) for tag, name in names if name in said)


def tag_set(tags: Mapping[str, str]) -> str:
    """Body of Get Blob Tags."""
    return f"{HEAD}<Tags>{_tag_set(tags)}</Tags>"


def _tag_set(tags: Mapping[str, str]) -> str:
    pairs = (element("Key", key) + element("Value", value) for key, value in tags.items())
    return f"<TagSet>{''.join(f'<Tag>{pair}</Tag>' for pair in pairs)}</TagSet>"


def parse_tags(body: bytes) -> dict[str, str]:
    """Body of Set Blob Tags; raises InvalidXmlDocument or InvalidTag."""
    found: dict[str, str] = {}
    key: str | None = None
    for path, text in leaves(body, _MOST_TAG_LEAVES):
        if path[-1] == "Key":
            key = text
        elif path[-1] == "Value" and key is not None:
            if key in found:
                raise BlobError("InvalidTag")
            found[key], key = text, None
    return found


def tagged_list(endpoint: str, where: str, found: Sequence[tuple[str, Blob]], following: str | None) -> str:
    """Body of Find Blobs by Tags."""
    entries = "".join(
        f"<Blob>{_name(blob.name)}{element('ContainerName', container)}<Tags>{_tag_set(blob.extras.tags)}</Tags></Blob>"
        for container, blob in found
    )
    return (
        f"{HEAD}<EnumerationResults ServiceEndpoint={quoteattr(endpoint)}>{element('Where', where)}"
        f"<Blobs>{entries}</Blobs>{element('NextMarker', to_marker(following))}</EnumerationResults>"
    )


def _prefix(text: str) -> str:
    return f"<BlobPrefix>{_name(text)}</BlobPrefix>"


def _name(text: str) -> str:
    """Name, percent-encoded and marked so when XML cannot carry it (as the service does since 2021-02-12)."""
    if _UNNAMEABLE.search(text) is None:
        return element("Name", text)
    return f'<Name Encoded="true">{quote(text, safe="/")}</Name>'


def _metadata(metadata: Mapping[str, str]) -> str:
    return f"<Metadata>{''.join(element(name, value) for name, value in metadata.items())}</Metadata>"


def _block(block: Block) -> str:
    return f"<Block>{element('Name', block.id)}{element('Size', block.length)}</Block>"
