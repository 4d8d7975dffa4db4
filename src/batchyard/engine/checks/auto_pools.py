"""What a client may say of the pool that is made for a job or for a job schedule (contract 3.12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from batchyard.engine.checks import autoscale, pools
from batchyard.model import times
from batchyard.model.common import NameValuePair
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.job import AutoPoolSpecification, JobSchedulingError
from batchyard.model.pool import PoolCreateContent, PoolSpecification
from batchyard.model.redact import shown, without_secrets
from batchyard.model.states import ErrorCategory
from batchyard.model.words import PoolLifetimeOption
from batchyard.rules.offer import AZURE, Offer

LONGEST_PREFIX = 20
_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,20}", re.ASCII)
_SHARED = "Only the jobs of a job schedule can share a pool; the pool of a job has the lifetime job"
_CODES: Mapping[str, str] = MappingProxyType(
    {
        "PoolQuotaReached": "AutoPoolCreationFailedWithQuotaReached",
        "InvalidApplicationPackageReferences": "InvalidApplicationPackageReferencesInAutoPool",
        "AutoScalingFormulaSyntaxError": "InvalidAutoScaleFormulaInAutoPool",
        "AutoScalingFormulaTooLong": "InvalidAutoScaleFormulaInAutoPool",
    }
)
"""What keeps a pool from being made without being wrong in the request itself, and what the job says of it (contract 8.6)."""
_CERTIFICATES = "InvalidCertificatesInAutoPool"


class Demand(msgspec.Struct, frozen=True):
    """What the account demands of a pool that is made for a job."""

    offer: Offer = AZURE
    shortest_interval_us: int = autoscale.SHORTEST_INTERVAL_US
    of_schedule: bool = False
    """Jobs of a job schedule are spoken of."""
    checked: bool = False
    """The pool was checked before its secrets were taken out of it, and kept."""


PLAIN = Demand()
_specification = msgspec.json.Decoder(AutoPoolSpecification)


def check(spec: AutoPoolSpecification, demand: Demand) -> None:
    """Refuse what is wrong in itself, and fill the defaults in; what only the making of the pool can tell is told by the job then."""
    prefix = spec.auto_pool_id_prefix
    if prefix is not None and _PREFIX.fullmatch(prefix) is None:
        reason = f"A prefix is at most {LONGEST_PREFIX} letters, digits, hyphens and underscores"
        raise invalid_property("autoPoolIdPrefix", prefix[:100], reason)
    if spec.pool_lifetime_option is PoolLifetimeOption.JOB_SCHEDULE and not demand.of_schedule:
        raise invalid_property("poolLifetimeOption", spec.pool_lifetime_option, _SHARED)
    if spec.pool is None:
        raise BatchError("MissingRequiredProperty", PropertyName="autoPoolSpecification.pool", Reason="The property is required")
    spec.keep_alive = bool(spec.keep_alive)
    pool = content(spec.pool, "auto")
    try:
        scaling = autoscale.of_new_pool(pool, demand.shortest_interval_us)
        (pools.check_again if demand.checked else pools.check)(pool, demand.offer)
    except BatchError as error:
        if code(error) is None:
            raise
    else:
        if scaling is not None:
            pool.auto_scale_evaluation_interval = times.duration_text(scaling.interval_us)
        for name in PoolSpecification.__struct_fields__:
            setattr(spec.pool, name, getattr(pool, name))


def changed(sent: AutoPoolSpecification, kept: AutoPoolSpecification, demand: Demand) -> bool:
    """True unless a client sends back what it read, which lacks secrets and may spell durations its own way; keepAlive is left out."""
    same = _specification.decode(shown(msgspec.json.encode(without_secrets(sent))))
    kept = _specification.decode(shown(msgspec.json.encode(kept)))
    if msgspec.structs.replace(same, keep_alive=kept.keep_alive) == kept:
        return False
    try:
        check(same, msgspec.structs.replace(demand, checked=True))
    except BatchError:
        return True
    same.keep_alive = kept.keep_alive
    return same != kept


def content(spec: PoolSpecification, pool_id: str) -> PoolCreateContent:
    """The pool that is made."""
    return PoolCreateContent(id=pool_id, **{name: getattr(spec, name) for name in PoolSpecification.__struct_fields__})


def code(error: BatchError) -> str | None:
    """What a job says when its pool could not be made for this; None when the request itself was wrong."""
    if error.code == "UnsupportedProperty" and error.values.get("PropertyName") == "certificateReferences":
        return _CERTIFICATES
    return _CODES.get(error.code)


def scheduling_error(error: BatchError) -> JobSchedulingError:
    """Why a job has no pool, for the job to show."""
    details = [NameValuePair(name=name, value=value) for name, value in error.values.items()]
    known = code(error) or "InvalidAutoPoolSettings"
    return JobSchedulingError(category=ErrorCategory.USER_ERROR, code=known, message=error.message, details=details or None)
