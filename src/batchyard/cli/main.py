"""The command line. Heavy imports stand inside the commands, so that `--help`, `env` and `status` answer at once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchyard.cli import autoscale, daemon, daily, doctor, explain
from batchyard.cli import chaos as disturbances
from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    from batchyard.rules.offer import Offer

app = typer.Typer(
    help="Azure Batch on machines you own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[
    Path,
    typer.Option(
        "--dir", help="State directory: accounts, jobs, files.", default_factory=daemon.default_directory, show_default="$BATCHYARD_DIR"
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Nodes = Annotated[int, typer.Option(min=0, help="How many local nodes there may be at once.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow plain HTTP on an address that others can reach.")]
Proxies = Annotated[
    list[str] | None,
    typer.Option("--trusted-proxy", metavar="ADDRESS", help="Proxy whose X-Forwarded headers count: an IP address or network. Repeatable."),
]
AutoscaleMinInterval = Annotated[
    float,
    typer.Option(
        "--autoscale-min-interval", min=1, metavar="SECONDS", help="Shortest interval between evaluations that a pool may ask for."
    ),
]
AutoscaleOnDemand = Annotated[
    bool, typer.Option("--autoscale-on-demand", help="Evaluate autoscale formulas also as soon as tasks come or go.")
]
TestClock = Annotated[bool, typer.Option("--test-clock", help="Let a test move the server's clock.")]
Chaos = Annotated[bool, typer.Option("--chaos", help="Let `batchyard chaos` disturb nodes; for trials only.")]
Probes = Annotated[Path | None, typer.Option(metavar="DIR", help="Programs that say whether a local node is fit for tasks.")]


class Provider(StrEnum):
    """Where nodes come from."""

    LOCAL = "local"
    EXTERNAL = "external"


NodesFrom = Annotated[Provider, typer.Option("--provider", help="local: agents on this machine; external: you start the agents.")]

Configuration = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with sizes and quotas; see docs/configuration.md.")
]


@app.command()
def up(
    directory: Directory,
    host: Host = "127.0.0.1",
    port: Port = 8777,
    nodes: Nodes = 8,
    test_clock: TestClock = False,
    insecure: Insecure = False,
    chaos: Chaos = False,
    probes: Probes = None,
    provider: NodesFrom = Provider.LOCAL,
    config: Configuration = None,
    autoscale_min_interval: AutoscaleMinInterval = 300,
    autoscale_on_demand: AutoscaleOnDemand = False,
    trusted_proxy: Proxies = None,
) -> None:
    """Start a server in the background."""
    directory = directory.resolve()
    flags = {"--test-clock": test_clock, "--insecure": insecure, "--chaos": chaos, "--autoscale-on-demand": autoscale_on_demand}
    more = [flag for flag, given in flags.items() if given] + ["--provider", provider]
    more += ["--probes", str(probes.resolve())] if probes else []
    if config is not None:
        _offer(config)
        more += ["--config", str(config.resolve())]
    more += ["--autoscale-min-interval", str(autoscale_min_interval)]
    more += [word for proxy in _proxies(trusted_proxy) for word in ("--trusted-proxy", proxy)]
    server = daemon.start(directory, host, port, nodes, more)
    given = _given(directory)
    say(f"Batchyard runs at {server.url} with room for {nodes} local nodes (process {server.pid}).")
    say(f"Its state is in {directory}, its log in {directory / 'server.log'}.")
    if closed := daemon.not_passable(directory):
        say(f"Tasks run as users of their own, and these may not enter {closed}: chmod o+x it, or choose another --dir.", style="yellow")
    say("\nWhat next:")
    say(f'  eval "$(batchyard env{given})"    point the Azure SDKs and az batch at it')
    say(f"  batchyard submit{given} -f -- echo hello   run a command on a node")
    say(f"  batchyard status{given}           see what it holds")
    say(f"  batchyard down{given}             end it and its nodes; the state stays")


@app.command()
def down(directory: Directory) -> None:
    """End the server and its local nodes; the state stays."""
    directory = directory.resolve()
    stopped = daemon.stop(directory)
    if stopped.agents:
        say(f"Nodes ended without their server: {stopped.agents}.")
    if stopped.server is None:
        raise Problem(f"no server of {directory} is running")
    if not stopped.willing:
        say(f"The server did not end within {daemon.PATIENCE_S:.0f} s and was killed; nothing acknowledged is lost.", style="yellow")
    say(f"Batchyard at {stopped.server.url} has ended; its state stays in {directory}.")


@app.command()
def status(directory: Directory) -> None:
    """Say whether the server runs and what it holds."""
    from batchyard.cli import counts

    directory = directory.resolve()
    server = _running(directory)
    account = daemon.account(directory)
    say(f"Batchyard runs at {server.url} (process {server.pid}), account {account.name}, state in {directory}.")
    if held := counts.summary(server.url, account.name, account.keys[0]):
        say(", ".join(f"{number} {what}" for what, number in held.items()))
    else:
        say("It does not answer at the moment.", style="yellow")


@app.command()
def env(directory: Directory) -> None:
    """Print shell exports for the Azure SDKs and az batch: eval "$(batchyard env)"."""
    directory = directory.resolve()
    account, url = daemon.account(directory), _running(directory).url
    exports = {
        "AZURE_BATCH_ACCOUNT": account.name,
        "AZURE_BATCH_ACCESS_KEY": account.keys[0],
        "AZURE_BATCH_ENDPOINT": url,
        "AZURE_STORAGE_CONNECTION_STRING": daemon.storage_connection_string(account, url),
    }
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def serve(
    directory: Directory,
    host: Host = "127.0.0.1",
    port: Port = 8777,
    nodes: Nodes = 8,
    test_clock: TestClock = False,
    insecure: Insecure = False,
    chaos: Chaos = False,
    probes: Probes = None,
    provider: NodesFrom = Provider.LOCAL,
    config: Configuration = None,
    autoscale_min_interval: AutoscaleMinInterval = 300,
    autoscale_on_demand: AutoscaleOnDemand = False,
    trusted_proxy: Proxies = None,
) -> None:
    """Run a server in the foreground."""
    directory = directory.resolve()
    offer, proxies = _offer(config), _proxies(trusted_proxy)
    daemon.prepare(directory)
    with daemon.sole_server(directory):
        daemon.check_port(host, port)
        from batchyard.app import serve as run
        from batchyard.config import Config
        from batchyard.server.refusals import Refused

        settings = Config(
            directory=directory, host=host, port=port, former_port=daemon.former_port(directory), max_nodes=nodes,
            test_clock=test_clock, insecure=insecure, chaos=chaos, probes=None if probes is None else probes.resolve(),
            external_nodes=provider is Provider.EXTERNAL, offer=offer, autoscale_min_interval_s=autoscale_min_interval,
            autoscale_on_demand=autoscale_on_demand, proxies=proxies,
        )  # fmt: skip
        try:
            run(settings)
        except Refused as refused:
            raise Problem(str(refused)) from None


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def agent(context: typer.Context) -> None:
    """Run a compute node on this machine; `batchyard agent --help` says how."""
    from batchyard.agent.main import main as run

    raise typer.Exit(run(context.args))


daily.add_to(app)
explain.add_to(app)
disturbances.add_to(app)
doctor.add_to(app)
autoscale.add_to(app)


def _offer(path: Path | None) -> Offer:
    """Sizes and quotas of a configuration file, Azure's sizes without one. Raises Problem."""
    from batchyard import config
    from batchyard.rules.offer import Offer

    try:
        return Offer() if path is None else config.load(path)
    except config.Misconfigured as error:
        raise Problem(str(error)) from None


def _proxies(given: Sequence[str] | None) -> tuple[str, ...]:
    """Addresses of trusted proxies. Raises Problem."""
    from batchyard import config

    try:
        return tuple(config.proxy(text) for text in given or ())
    except config.Misconfigured as error:
        raise Problem(str(error)) from None


def say(text: str, style: str | None = None) -> None:
    """Print for a person: coloured on a terminal, plain and unwrapped elsewhere."""
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(text, style=style)


def _running(directory: Path) -> daemon.Server:
    """The running server. Raises Problem when there is none."""
    server = daemon.running(directory)
    if server is None:
        raise Problem(f"no server of {directory} is running; start it with: batchyard up{_given(directory)}")
    return server


def _given(directory: Path) -> str:
    """The --dir to repeat in a hint, if it is needed."""
    return "" if directory == daemon.default_directory().resolve() else f" --dir {shlex.quote(str(directory))}"


def main() -> None:
    """Entry point: a Problem is one sentence on stderr and an exit code, mostly 1."""
    try:
        app()
    except Problem as problem:
        print(f"batchyard: {problem}", file=sys.stderr)
        sys.exit(problem.code)


if __name__ == "__main__":
    main()
