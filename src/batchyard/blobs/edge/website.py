"""The static website of an account: what lies in its container `$web`, at `ACCOUNT.web.DOMAIN`, for readers without a key.

Source: https://learn.microsoft.com/azure/storage/blobs/storage-blob-static-website. It is there when the account turned it on, on a
server whose operator lets containers be opened to such readers.
"""

from __future__ import annotations

from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from batchyard.blobs.base import BlobError, BlobStore
from batchyard.blobs.edge import blob_operations
from batchyard.blobs.edge.grants import PUBLIC
from batchyard.blobs.edge.request import WEB, Request
from batchyard.blobs.services import Website

_NOTHING = "<!DOCTYPE html><title>404</title><h1>The requested content does not exist.</h1>"


async def answer(store: BlobStore, request: Request) -> Response:
    """The page of a path, that of the folder it names, or the error page."""
    if request.method not in ("GET", "HEAD"):
        raise BlobError("UnsupportedHttpVerb")
    site = (await run_in_threadpool(store.properties, request.account)).website
    if not (site.enabled and request.may_publish):
        return _nothing(request)
    path = "/".join(filter(None, (request.container, request.blob)))
    for name in _names(site, path):
        try:
            return await _page(store, request, name)
        except BlobError as error:
            if error.status != 404:
                raise
    return await _missing(store, request, site)


def _names(site: Website, path: str) -> list[str]:
    """The blobs that may be what a path means, the likeliest first."""
    if not path:
        return [name for name in (site.index, (site.default_index or "").lstrip("/")) if name]
    if site.index is None:
        return [path]
    return [f"{path}{site.index}"] if path.endswith("/") else [path, f"{path}/{site.index}"]


async def _page(store: BlobStore, request: Request, name: str) -> Response:
    wanted = replace(request, container=WEB, blob=name, query={})
    return await (blob_operations.head if request.method == "HEAD" else blob_operations.get)(store, wanted, PUBLIC)


async def _missing(store: BlobStore, request: Request, site: Website) -> Response:
    if site.error is None:
        return _nothing(request)
    whole = {name: value for name, value in request.headers.items() if name not in ("range", "x-ms-range") and not name.startswith("if-")}
    try:
        response = await _page(store, replace(request, headers=whole), site.error.lstrip("/"))
    except BlobError:
        return _nothing(request)
    response.status_code = 404
    return response


def _nothing(request: Request) -> Response:
    return HTMLResponse("" if request.method == "HEAD" else _NOTHING, 404)
