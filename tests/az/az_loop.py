"""Runs many `az` commands in one process: this file is started with the interpreter of azure-cli.

A line on stdin is a JSON list of words; the answer is a line of JSON with exit code, stdout and stderr. What runs is what
`python -m azure.cli` runs, but the imports, half a second a command, are paid once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

from azure.cli.core import get_default_cli


def run(words: list[str]) -> int:
    try:
        return int(get_default_cli().invoke(words) or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        answers.write(json.dumps([code, *texts]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
