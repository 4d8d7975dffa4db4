"""The commands for a server of this machine: up, serve, config, down, status; and `agent`, a node of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchyard.cli import daemon, streams
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import many
from batchyard.settings import SETTINGS

if TYPE_CHECKING:
    from batchyard.effective import Effective


def up(*, directory: Path | None, file: Path | None, options: Mapping[str, Any]) -> None:
    """Start a server in the background."""
    from batchyard import effective

    place = state_directory(directory)
    config = _effective(place, file, options).config
    words = [*(["--config", str(file.resolve())] if file else []), *_words(options)]
    server = daemon.start(place, (config.host, config.port), words, effective.variables(os.environ))
    given = option(place)
    room = many(config.max_nodes, "node" if config.external_nodes else "local node")
    joining = ", whose agents you start" if config.external_nodes else ""
    print(f"Batchyard runs at {server.url} with room for {room}{joining} (process {server.pid}).")
    print(f"Its state is in {place}, its log in {place / 'server.log'}.")
    if closed := daemon.not_passable(place):
        _warn(f"Tasks run as users of their own, and these may not enter {closed}: chmod o+x it, or choose another --dir.")
    print("\nWhat next:")
    if config.external_nodes:
        print(f"  batchyard pool create{given} default       a pool for machines that join")
        print(f"  batchyard pool join-token{given} default   print the line that makes a machine a node of it, and run that there:")
        print(f"  batchyard join {server.public} --token TOKEN")
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
    daemon.trust(place, server)
    print(f"Batchyard runs at {server.url} (process {server.pid}), account {account.name}, state in {place}.")
    if held := counts.summary(server.url, account.name, account.keys[0]):
        print(", ".join(f"{number} {what}" for what, number in held.items()))
    else:
        _warn("It does not answer at the moment.")


def serve(*, directory: Path | None, file: Path | None, options: Mapping[str, Any]) -> None:
    """Run a server in the foreground."""
    place = state_directory(directory)
    settings = _effective(place, file, options).config
    daemon.prepare(place)
    with daemon.sole_server(place):
        daemon.check_port(settings.host, settings.port)
        from dataclasses import replace

        from batchyard.app import serve as run
        from batchyard.server.refusals import Refused

        try:
            run(replace(settings, former_port=daemon.former_port(place)))
        except Refused as refused:
            raise Problem(str(refused)) from None


def config(*, directory: Path | None, file: Path | None, output: str, options: Mapping[str, Any]) -> None:
    """Print the effective configuration."""
    import json

    from batchyard import effective
    from batchyard.cli import layout

    found = _effective(state_directory(directory), file, options)
    rows = [(name, effective.shown(name, value), found.origins[name]) for name, value in found.values.items()]
    if output == "json":
        print(json.dumps({name: {"value": value, "from": origin} for name, value, origin in rows}, indent=2))
        return
    columns = [layout.Column(head, lambda row, now: row) for head in ("SETTING", "VALUE", "FROM")]
    print("\n".join(layout.lines(columns, rows)))
    if found.unread:
        _warn(f"Nothing reads {', '.join(found.unread)}.")


def backup(*, archive: str, directory: Path | None, no_blobs: bool, database: str | None, blobs: Path | None) -> None:
    """Write a state directory to one file."""
    from batchyard.drivers import of_database
    from batchyard.server import backup as work
    from batchyard.server.moving import Unmovable
    from batchyard.server.relocation import Wish

    place, file = state_directory(directory), Path(archive).resolve()
    wish = Wish(place, "", database, None if blobs is None else blobs.resolve())
    try:
        count = work.backup(place, file, blobs=not no_blobs) if database is None else work.of_database(wish, file, blobs=not no_blobs)
    except (work.Unusable, Unmovable, OSError, RuntimeError) as error:
        raise Problem(f"no backup of {place}: {error}") from None
    except Exception as error:
        if not of_database(error):
            raise
        raise Problem(f"no backup of {place}: {str(error).strip()}") from None
    print(f"{file} holds {count} files, {file.stat().st_size:,} bytes. It opens every account: keep it where only you can read it.")


def restore(*, archive: str, directory: Path | None) -> None:
    """Fill a new state directory from a backup."""
    from batchyard.server import backup as work

    place = state_directory(directory)
    try:
        count = work.restore(Path(archive).resolve(), place)
    except (work.Unusable, OSError) as error:
        raise Problem(f"nothing was restored: {error}") from None
    print(f"{place} holds what was backed up, {count} files. Go on with: batchyard up{option(place)}")


def migrate(
    *,
    account: str | None,
    everything: bool,
    to: str | None,
    database: str | None,
    blobs: Path | None,
    force: bool,
    remove_old: bool,
    directory: Path | None,
) -> None:
    """Move accounts to another database or directory."""
    if (account is None) != everything:
        raise Usage("name one account, or say --all")
    if to is None:
        raise Usage("say where to: --to postgresql://host/database?schema=NAME, or --to DIRECTORY")
    from batchyard.drivers import of_database
    from batchyard.drivers.copying import Differs
    from batchyard.server import moving, relocation
    from batchyard.server.account_file import Unusable

    place = state_directory(directory)
    daemon.prepare(place)
    wish = relocation.Wish(place, to, database, None if blobs is None else blobs.resolve(), force, remove_old)
    with daemon.sole_server(place):
        try:
            done = relocation.all_accounts(wish) if account is None else [relocation.account(wish, account)]
        except (moving.Unmovable, Differs, Unusable, OSError) as error:
            raise Problem(f"not moved: {error}") from None
        except Exception as error:
            if not of_database(error):
                raise
            raise Problem(f"not moved to the end: {str(error).strip()}; the same command goes on with it") from None
    for moved in done:
        if moved.sums is None:
            print(f"{moved.account} lies in {moved.place.shown}.")
            continue
        rows = ", ".join(f"{sum(each.rows for each in found.values()):,} of {name}" for name, found in moved.sums.items())
        print(f"{moved.account} lies in {moved.place.shown} now; rows, compared table by table: {rows}.")
    if not remove_old:
        print("What was there before is left; the same command with --remove-old removes it.")


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


def _effective(place: Path, file: Path | None, options: Mapping[str, Any]) -> Effective:
    """What a server is told. Raises Problem."""
    from batchyard import effective
    from batchyard.config import Misconfigured

    try:
        return effective.resolve(place, file, options, os.environ)
    except Misconfigured as error:
        raise Problem(str(error)) from None


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """The options that were given, as the words of a command that starts in another directory."""
    for setting in SETTINGS:
        value = options[setting.name]
        if value is None or value == []:
            continue
        if setting.kind == "switch":
            yield setting.word(value)
            continue
        if isinstance(value, tuple):
            yield from (setting.flag, *(str(path.resolve()) for path in value))
            continue
        for one in value if setting.many else [value]:
            yield from (setting.flag, str(one.resolve() if isinstance(one, Path) else one))


def _warn(text: str) -> None:
    print(streams.paint(text, "yellow"))
