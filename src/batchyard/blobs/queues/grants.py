"""Who may do what with a queue: the account key, a service SAS of one queue, an account SAS with the queue service in it.

Source: https://learn.microsoft.com/rest/api/storageservices/create-service-sas, string-to-sign of queues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from batchyard.blobs.base import AccessPolicy, BlobError
from batchyard.blobs.edge import sas
from batchyard.blobs.edge.auth import verify_shared_key
from batchyard.blobs.edge.grants import Grant, Level, Need, Scope
from batchyard.blobs.edge.request import Request
from batchyard.blobs.queues.base import QueueRef

Policies = Callable[[QueueRef], Mapping[str, AccessPolicy]]


def authenticate(request: Request, accounts: Mapping[str, Sequence[str]], policies: Policies) -> Grant:
    """Grant of the caller; raises a 401 or 403 that is the same whatever the store holds."""
    keys = accounts.get(request.account, ())
    if "authorization" in request.headers:
        verify_shared_key(request, keys)
        return Grant(Scope.KEY)
    if "sig" not in request.query:
        raise BlobError("NoAuthenticationInformation", headers={"www-authenticate": "SharedKey"})
    sas.check_form(request.query)
    grant = sas.account_grant(request, keys, "q") if "ss" in request.query else _service_grant(request, keys, policies)
    sas.check_caller(request)
    return grant


def require(grant: Grant, need: Need) -> None:
    """Raise unless the caller may; a SAS of a queue opens what has letters, in this queue."""
    if grant.scope is Scope.CONTAINER and (need.level is Level.SERVICE or not need.letters):
        raise BlobError("AuthorizationFailure")
    if grant.scope is Scope.CONTAINER and not grant.allows(need.letters):
        raise BlobError("AuthorizationPermissionMismatch")
    if grant.scope is not Scope.CONTAINER:
        grant.require(need)


def _service_grant(request: Request, keys: Sequence[str], policies: Policies) -> Grant:
    query = request.query
    if request.container is None:
        raise BlobError("AuthenticationFailed")
    names = ("sp", "st", "se", None, "si", "sip", "spr", "sv")
    resource = f"/queue/{request.account}/{request.container}"
    if not sas.signed_by(keys, "\n".join(resource if name is None else query.get(name, "") for name in names), query["sig"]):
        raise BlobError("AuthenticationFailed")
    policy = AccessPolicy()
    if "si" in query:
        try:
            policy = policies(QueueRef(request.account, request.container))[query["si"]]
        except (BlobError, KeyError):
            raise BlobError("AuthenticationFailed") from None
    return Grant(Scope.CONTAINER, sas.permissions_of(query, policy, request.now_us))
