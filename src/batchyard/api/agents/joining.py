"""Where machines join: the authority of the server for everybody, and a node for who shows a join token."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from batchyard.api.wire.call import Services, decode
from batchyard.engine.nodes import nodes
from batchyard.engine.pools import joining
from batchyard.model.errors import BatchError
from batchyard.model.joining import Join, Joined, JoinRefused, read
from batchyard.model.tokens import marked

LARGEST = 4096
_JSON = "application/json"


def authority(services: Services) -> Response:
    """The server's authority as PEM, for machines that know its fingerprint; there is nothing secret in it."""
    if services.authority is None:
        return Response(status_code=404)
    return Response(services.authority, media_type="application/x-pem-file")


async def join(request: Request, services: Services) -> Response:
    """A node for a machine, or why it gets none. Raises StoreUnavailable, ClientDisconnect."""
    try:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        token = read(shown.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise BatchError("InvalidAuthenticationInfo", AuthenticationErrorDetail="That is no join token")
        if token.account.lower() != services.account.name.lower():
            raise BatchError("AuthenticationFailed", AuthenticationErrorDetail="The join token is for another account")
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 6) or int(length) > LARGEST:
            raise BatchError("RequestBodyTooLarge", MaxLimit=LARGEST)
        wish = decode(await request.body(), Join)
        node, pool = await services.db.run(
            joining.join, (token.id, token.secret), wish, services.outside, services.offer, services.clock.now()
        )
    except BatchError as error:
        return _refused(error)
    joined = Joined(marked(services.named, nodes.token(services.node_key, node.pk)), node.id, pool.id, services.account.name)
    return Response(msgspec.json.encode(joined), media_type=_JSON)


def _refused(error: BatchError) -> Response:
    detail = next((error.values[name] for name in ("AuthenticationErrorDetail", "Reason") if name in error.values), error.message)
    return Response(msgspec.json.encode(JoinRefused(error.code, detail)), status_code=error.status, media_type=_JSON)
