"""What the wheel has besides the package, made from the command line's table while it is built: manual pages, completions of shells.

The files go below `share` of the environment, where `man` and bash find them by the PATH, fish and zsh when they are told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_COMPLETIONS = {
    "bash": "share/bash-completion/completions/batchyard",
    "zsh": "share/zsh/site-functions/_batchyard",
    "fish": "share/fish/vendor_completions.d/batchyard.fish",
}
_UNIT = "packaging/batchyard.service"


class SharedFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Adds them to the wheel; an editable installation has none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the files."""
        self._made = TemporaryDirectory(prefix="batchyard-share-")
        if version == "editable":
            return
        for number, (place, text) in enumerate(self._texts()):
            path = Path(self._made.name, str(number))
            path.write_text(text, "utf-8")
            path.chmod(0o644)
            build_data["shared_data"][str(path)] = place
        build_data["shared_data"][str(Path(self.root, _UNIT))] = "share/batchyard/batchyard.service"

    def _texts(self) -> Iterator[tuple[str, str]]:
        sys.path.insert(0, str(Path(self.root, "src")))
        from batchyard.cli import completion, man

        for name, text in man.pages():
            yield f"share/man/man1/{name}", text
        for shell, place in _COMPLETIONS.items():
            yield place, completion.text(shell)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove them."""
        self._made.cleanup()
