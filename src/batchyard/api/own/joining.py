"""Join tokens of pools: made, listed and revoked with an account key; a task's token never comes this far."""

from __future__ import annotations

from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.engine.pools import joining
from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.model.joining import JoinToken, JoinTokenCreate, JoinTokenInfo
from batchyard.store.joining import TokenRow


async def add(call: Call) -> Response:
    """POST /batchyard/v1/pools/{poolId}/jointokens"""
    _refuse_tasks(call)
    wish = call.decode(JoinTokenCreate, empty=JoinTokenCreate())
    pool, token, secret = await call.db.run(joining.add_token, call.ids["pool_id"], wish, call.now)
    info = _info(pool.id, token, call.now)
    info.token = str(JoinToken(call.services.account.name, token.id, secret, call.services.authority_fingerprint))
    info.server = call.services.public_url or call.base
    response = wire.element(call.base, "jointokens", wire.encode(info))
    response.status_code = 201
    return response


async def list_(call: Call) -> Response:
    """GET /batchyard/v1/pools/{poolId}/jointokens"""
    _refuse_tasks(call)
    pool, tokens = await call.db.read(joining.tokens, call.ids["pool_id"])
    return wire.listing(call.base, "jointokens", [wire.encode(_info(pool.id, token, call.now)) for token in tokens], None)


async def revoke(call: Call) -> Response:
    """DELETE /batchyard/v1/pools/{poolId}/jointokens/{tokenId}"""
    _refuse_tasks(call)
    await call.db.run(joining.revoke, call.ids["pool_id"], call.ids["token_id"], call.now)
    return wire.nothing(204)


def _refuse_tasks(call: Call) -> None:
    if call.by_task:
        raise BatchError("InsufficientAccountPermissions")


def _info(pool_id: str, token: TokenRow, now: int) -> JoinTokenInfo:
    return JoinTokenInfo(
        id=token.id,
        pool_id=pool_id,
        state=joining.state(token, now),
        uses=token.uses,
        uses_left=token.uses_left,
        creation_time=times.iso(token.created),
        expiry_time=times.iso(token.expires),
    )
