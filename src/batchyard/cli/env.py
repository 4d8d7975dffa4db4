"""`batchyard env`: what points other clients at a server."""

from __future__ import annotations

import shlex
from pathlib import Path

from batchyard.cli import daemon, server


def env(*, directory: Path | None, for_: str | None) -> None:
    """Print shell exports for the Azure SDKs and az batch: eval "$(batchyard env)"."""
    place = server.state_directory(directory)
    account, url = daemon.account(place), server.running(place).url
    exports = {
        "AZURE_BATCH_ACCOUNT": account.name,
        "AZURE_BATCH_ACCESS_KEY": account.keys[0],
        "AZURE_BATCH_ENDPOINT": url,
        "AZURE_STORAGE_CONNECTION_STRING": daemon.storage_connection_string(account, url),
    }
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")
