"""XML bodies of the Queue service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge.documents import HEAD, element, leaves, to_marker
from batchyard.blobs.queues.base import MOST_TEXT_BYTES, NEVER_US, Message, QueuePage
from batchyard.model import times


def queue_list(endpoint: str, asked: Mapping[str, str], limit: int, page: QueuePage, *, metadata: bool) -> str:
    """Body of List Queues; `asked` is the query, of which prefix and marker are repeated."""
    echo = "".join(element(tag, asked[name]) for tag, name in (("Prefix", "prefix"), ("Marker", "marker")) if asked.get(name))
    entries = ""
    for queue in page.entries:
        pairs = "".join(element(name, value) for name, value in queue.metadata.items())
        entries += f"<Queue>{element('Name', queue.name)}{f'<Metadata>{pairs}</Metadata>' if metadata else ''}</Queue>"
    return (
        f"{HEAD}<EnumerationResults ServiceEndpoint={quoteattr(endpoint)}>{echo}{element('MaxResults', limit)}"
        f"<Queues>{entries}</Queues>{element('NextMarker', to_marker(page.next))}</EnumerationResults>"
    )


def message_list(messages: Sequence[Message], *, receipts: bool, texts: bool) -> str:
    """Body of Put (no texts), Get (all) and Peek Messages (no receipts)."""
    return f"{HEAD}<QueueMessagesList>{''.join(_message(found, receipts, texts) for found in messages)}</QueueMessagesList>"


def _message(message: Message, receipts: bool, texts: bool) -> str:
    expires = NEVER_US if message.expires_us is None else message.expires_us
    said = element("MessageId", message.id) + element("InsertionTime", times.http_date(message.inserted_us))
    said += element("ExpirationTime", times.http_date(expires))
    if receipts:
        said += element("PopReceipt", message.receipt) + element("TimeNextVisible", times.http_date(message.visible_us))
    if texts:
        said += element("DequeueCount", message.dequeue_count) + element("MessageText", message.text)
    return f"<QueueMessage>{said}</QueueMessage>"


def parse_message(body: bytes) -> str:
    """Text of a message; raises InvalidXmlDocument or RequestBodyTooLarge."""
    for path, text in leaves(body, 4):
        if path == ("QueueMessage", "MessageText"):
            if len(text.encode()) > MOST_TEXT_BYTES:
                raise BlobError("RequestBodyTooLarge")
            return text
    raise BlobError("InvalidXmlDocument")
