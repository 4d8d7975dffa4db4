"""All checks in the order in which their findings are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batchyard.cli.checks import isolation, machine, service, storage
from batchyard.cli.checks.finding import Check, Finding, Place, note

CHECKS: Sequence[Check] = (
    machine.python,
    machine.kernel,
    machine.system,
    machine.cores,
    machine.memory,
    machine.open_files,
    storage.directory,
    storage.disk,
    storage.fsync,
    isolation.cgroups,
    isolation.limits,
    isolation.users,
    isolation.accounts,
    isolation.networks,
    service.port,
    service.server,
    service.clock,
    machine.containers,
)


def findings(place: Place, checks: Iterable[Check] = CHECKS) -> Iterable[Finding]:
    """What all checks find; one that breaks is a finding itself."""
    for check in checks:
        try:
            yield from check(place)
        except Exception as error:
            yield note(check.__name__, f"this could not be looked at ({type(error).__name__}: {error})", "Please report it.")
