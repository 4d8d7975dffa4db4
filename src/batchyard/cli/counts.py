"""What a running server holds, asked as any client would ask: signed reads of the public API."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import Request, urlopen

API_VERSION = "2025-06-01"


def signature(account: str, key: str, url: str, date: str) -> str:
    """Authorization of a GET without body: the shared key rule of Azure Batch."""
    parts = urlsplit(url)
    query = "".join(f"\n{name}:{value}" for name, value in sorted(parse_qsl(parts.query)))
    text = "GET" + "\n" * 12 + f"ocp-date:{date}\n/{account}{parts.path}{query}"
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return f"SharedKey {account}:{base64.b64encode(digest).decode()}"


def listed(url: str, account: str, key: str, what: str) -> Iterator[dict[str, Any]]:
    """All entries of a list operation, page by page. Raises OSError."""
    page: str | None = f"{url}/{what}?" + urlencode({"api-version": API_VERSION})
    while page:
        date = formatdate(usegmt=True)
        request = Request(
            page, headers={"ocp-date": date, "Authorization": signature(account, key, page, date), "Accept": "application/json"}
        )
        with urlopen(request, timeout=5) as answer:
            body = json.load(answer)
        yield from body.get("value", ())
        page = body.get("odata.nextLink")


def summary(url: str, account: str, key: str) -> dict[str, int] | None:
    """Numbers of pools, nodes and jobs that are not completed; None when the server does not say."""
    try:
        pools = list(listed(url, account, key, "pools"))
        jobs = [job for job in listed(url, account, key, "jobs") if job.get("state") != "completed"]
    except (URLError, OSError, ValueError):
        return None
    nodes = sum(pool.get("currentDedicatedNodes", 0) + pool.get("currentLowPriorityNodes", 0) for pool in pools)
    return {"pools": len(pools), "nodes": nodes, "open jobs": len(jobs)}
