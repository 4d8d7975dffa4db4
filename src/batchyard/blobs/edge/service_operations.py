"""Operations on the blob service of an account."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs.base import BlobError, BlobStore
from batchyard.blobs.edge import service_documents, transfers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.blobs.services import Properties


async def get_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Get Blob Service Properties."""
    found = await run_in_threadpool(store.properties, request.account)
    return Response(service_documents.document(found, blobs=True), media_type="application/xml")


async def set_properties(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Set Blob Service Properties: what the body does not name stays."""
    body = await transfers.body(request, service_documents.MOST_BYTES)

    def change(before: Properties) -> Properties:
        after = service_documents.changed(body, before, blobs=True)
        if after.website.enabled and not request.may_publish:
            raise BlobError("PublicAccessNotPermitted")
        return after

    await run_in_threadpool(store.set_properties, request.account, change)
    return Response(status_code=202)
