"""What a client may say of containers, for pools and for tasks (contract 4.8)."""

from __future__ import annotations

from collections.abc import Sequence

from batchyard.engine.checks import demands
from batchyard.model.common import ContainerRegistry, ContainerSettings
from batchyard.model.errors import BatchError, invalid_property
from batchyard.model.pool import PoolCreateContent
from batchyard.model.virtual_machine import ContainerConfiguration
from batchyard.rules import containers

MOST_IMAGES = 100
MOST_OPTIONS = 4_096
_NONE = "The pool that runs the task has no containerConfiguration"
_NEEDED = "The pool that runs the task has a containerConfiguration: its tasks and job managers run in containers"


def configuration(given: ContainerConfiguration | None) -> None:
    """Images and registries of a pool."""
    if given is None:
        return
    names = given.container_image_names or []
    if len(names) > MOST_IMAGES:
        raise invalid_property("containerImageNames", len(names), f"A pool has at most {MOST_IMAGES} of them")
    for name in names:
        _image("containerImageNames", name)
    _registries("containerConfiguration.containerRegistries", given.container_registries or [])
    given.container_image_names = given.container_image_names or None
    given.container_registries = given.container_registries or None


def settings(given: ContainerSettings | None) -> None:
    """The container of a task, whatever its pool is."""
    if given is None:
        return
    _image("containerSettings.imageName", given.image_name)
    if given.registry is not None:
        _registries("containerSettings.registry", [given.registry])
    run_options = given.container_run_options or ""
    if len(run_options) > MOST_OPTIONS or "\0" in run_options:
        reason = f"Run options have at most {MOST_OPTIONS} characters"
        raise invalid_property("containerSettings.containerRunOptions", run_options[:100], reason)
    for mount in given.container_host_batch_bind_mounts or ():
        if mount.source is None:
            raise BatchError(
                "MissingRequiredProperty", PropertyName="containerHostBatchBindMounts.source", Reason="The property is required"
            )


def command_line(value: str, given: ContainerSettings | None) -> None:
    """Not empty, but in a container, whose image may have an entry point."""
    if given is None:
        demands.a_command_line(value)


def fits(given: ContainerSettings | None, pool: PoolCreateContent | None, name: str = "containerSettings") -> None:
    """Refuse a container on a pool without, and a task or manager without one on a pool with them; a pool may be made later."""
    if pool is None:
        return
    if not has_containers(pool):
        if given is not None:
            raise invalid_property(name, given.image_name[:100], _NONE)
    elif given is None:
        raise BatchError("MissingRequiredProperty", PropertyName=name, Reason=_NEEDED)


def has_containers(pool: PoolCreateContent) -> bool:
    """True for a pool whose tasks run in containers."""
    machine = pool.virtual_machine_configuration
    return machine is not None and machine.container_configuration is not None


def _image(name: str, value: str) -> None:
    try:
        containers.reference(value)
    except ValueError as error:
        raise invalid_property(name, value[:100], str(error)) from None


def _registries(name: str, registries: Sequence[ContainerRegistry]) -> None:
    for registry in registries:
        demands.no_identity(f"{name}.identityReference", registry.identity_reference)
        if (registry.username is None) != (registry.password is None):
            raise invalid_property(name, registry.registry_server or containers.HUB, "username and password must be given together")
