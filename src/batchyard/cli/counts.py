"""What a running server holds, asked as any client would ask: signed reads of the public API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from batchyard.api.wire import auth

API_VERSION = "2025-06-01"


def listed(url: str, account: str, key: str, what: str) -> Iterator[dict[str, Any]]:
    """All entries of a list operation, page by page. Raises OSError."""
    page: str | None = f"{url}/{what}?" + urlencode({"api-version": API_VERSION})
    while page:
        parts, headers = urlsplit(page), {"ocp-date": formatdate(usegmt=True)}
        headers["Authorization"] = auth.sign(account, key, auth.Signed("GET", parts.path, parts.query, headers))
        request = Request(page, headers=headers)
        with urlopen(request, timeout=5) as answer:
            body = json.load(answer)
        yield from body.get("value", ())
        page = body.get("odata.nextLink")


def summary(url: str, account: str, key: str) -> dict[str, int] | None:
    """Numbers of pools, nodes and jobs that are not completed; None when the server does not say."""
    try:
        pools = list(listed(url, account, key, "pools"))
        jobs = [job for job in listed(url, account, key, "jobs") if job.get("state") != "completed"]
    except (OSError, ValueError):
        return None
    nodes = sum(pool.get("currentDedicatedNodes", 0) + pool.get("currentLowPriorityNodes", 0) for pool in pools)
    return {"pools": len(pools), "nodes": nodes, "open jobs": len(jobs)}
