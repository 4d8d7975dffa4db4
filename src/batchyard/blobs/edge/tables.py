"""The Table service, which is not served: whoever asks for it is told so in its own words, and told nothing else."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

_CODE = "NotImplemented"
_SENTENCE = "The Table service is not served here; blobs, files and queues are."


def refusal(method: str) -> Response:
    """The answer to every request."""
    headers = {"x-ms-error-code": _CODE, "dataserviceversion": "3.0"}
    if method == "HEAD":
        return Response(status_code=501, headers=headers)
    body = {"odata.error": {"code": _CODE, "message": {"lang": "en-US", "value": _SENTENCE}}}
    return Response(msgspec.json.encode(body), 501, headers, media_type="application/json;odata=minimalmetadata")
