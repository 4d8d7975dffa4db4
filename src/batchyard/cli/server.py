"""The commands for a server of this machine: up, serve, down, status; and `agent`, a node of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchyard.cli import daemon, streams
from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    from batchyard.rules.offer import Offer


def up(
    *,
    directory: Path | None,
    host: str,
    port: int,
    nodes: int,
    test_clock: bool,
    insecure: bool,
    chaos: bool,
    probes: Path | None,
    provider: str,
    config: Path | None,
    autoscale_min_interval: float,
    autoscale_on_demand: bool,
    trusted_proxy: Sequence[str],
) -> None:
    """Start a server in the background."""
    place = state_directory(directory)
    flags = {"--test-clock": test_clock, "--insecure": insecure, "--chaos": chaos, "--autoscale-on-demand": autoscale_on_demand}
    more = [flag for flag, given in flags.items() if given] + ["--provider", provider]
    more += ["--probes", str(probes.resolve())] if probes else []
    if config is not None:
        _offer(config)
        more += ["--config", str(config.resolve())]
    more += ["--autoscale-min-interval", str(autoscale_min_interval)]
    more += [word for proxy in _proxies(trusted_proxy) for word in ("--trusted-proxy", proxy)]
    server = daemon.start(place, host, port, nodes, more)
    given = option(place)
    print(f"Batchyard runs at {server.url} with room for {nodes} local nodes (process {server.pid}).")
    print(f"Its state is in {place}, its log in {place / 'server.log'}.")
    if closed := daemon.not_passable(place):
        _warn(f"Tasks run as users of their own, and these may not enter {closed}: chmod o+x it, or choose another --dir.")
    print("\nWhat next:")
    print(f'  eval "$(batchyard env{given})"    point the Azure SDKs and az batch at it')
    print(f"  batchyard submit{given} -f -- echo hello   run a command on a node")
    print(f"  batchyard status{given}           see what it holds")
    print(f"  batchyard down{given}             end it and its nodes; the state stays")


def down(*, directory: Path | None) -> None:
    """End the server and its local nodes; the state stays."""
    place = state_directory(directory)
    stopped = daemon.stop(place)
    if stopped.agents:
        print(f"Nodes ended without their server: {stopped.agents}.")
    if stopped.server is None:
        raise Problem(f"no server of {place} is running")
    if not stopped.willing:
        _warn(f"The server did not end within {daemon.PATIENCE_S:.0f} s and was killed; nothing acknowledged is lost.")
    print(f"Batchyard at {stopped.server.url} has ended; its state stays in {place}.")


def status(*, directory: Path | None) -> None:
    """Say whether the server runs and what it holds."""
    from batchyard.cli import counts

    place = state_directory(directory)
    server = running(place)
    account = daemon.account(place)
    print(f"Batchyard runs at {server.url} (process {server.pid}), account {account.name}, state in {place}.")
    if held := counts.summary(server.url, account.name, account.keys[0]):
        print(", ".join(f"{number} {what}" for what, number in held.items()))
    else:
        _warn("It does not answer at the moment.")


def serve(
    *,
    directory: Path | None,
    host: str,
    port: int,
    nodes: int,
    test_clock: bool,
    insecure: bool,
    chaos: bool,
    probes: Path | None,
    provider: str,
    config: Path | None,
    autoscale_min_interval: float,
    autoscale_on_demand: bool,
    trusted_proxy: Sequence[str],
) -> None:
    """Run a server in the foreground."""
    place = state_directory(directory)
    offer, proxies = _offer(config), _proxies(trusted_proxy)
    daemon.prepare(place)
    with daemon.sole_server(place):
        daemon.check_port(host, port)
        from batchyard.app import serve as run
        from batchyard.config import Config
        from batchyard.server.refusals import Refused

        settings = Config(
            directory=place,
            host=host,
            port=port,
            former_port=daemon.former_port(place),
            max_nodes=nodes,
            test_clock=test_clock,
            insecure=insecure,
            chaos=chaos,
            probes=None if probes is None else probes.resolve(),
            external_nodes=provider == "external",
            offer=offer,
            autoscale_min_interval_s=autoscale_min_interval,
            autoscale_on_demand=autoscale_on_demand,
            proxies=proxies,
        )
        try:
            run(settings)
        except Refused as refused:
            raise Problem(str(refused)) from None


def agent(given: Sequence[str]) -> int:
    """Run a compute node on this machine."""
    from batchyard.agent.main import main as run

    return int(run(list(given)))


def state_directory(given: Path | None) -> Path:
    """The state directory that is meant."""
    return (given or daemon.default_directory()).resolve()


def running(directory: Path) -> daemon.Server:
    """The running server. Raises Problem when there is none."""
    server = daemon.running(directory)
    if server is None:
        raise Problem(f"no server of {directory} is running; start it with: batchyard up{option(directory)}")
    return server


def option(directory: Path) -> str:
    """The --dir to repeat in a hint, if it is needed."""
    return "" if directory == daemon.default_directory().resolve() else f" --dir {shlex.quote(str(directory))}"


def _offer(path: Path | None) -> Offer:
    """Sizes and quotas of a configuration file, Azure's sizes without one. Raises Problem."""
    from batchyard import config
    from batchyard.rules.offer import Offer

    try:
        return Offer() if path is None else config.load(path)
    except config.Misconfigured as error:
        raise Problem(str(error)) from None


def _proxies(given: Sequence[str]) -> tuple[str, ...]:
    """Addresses of trusted proxies. Raises Problem."""
    if not given:
        return ()
    from batchyard import config

    try:
        return tuple(config.proxy(text) for text in given)
    except config.Misconfigured as error:
        raise Problem(str(error)) from None


def _warn(text: str) -> None:
    print(streams.paint(text, "yellow"))
