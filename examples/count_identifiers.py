"""Count the identifiers of Python sources. Runs on the nodes; the client imports it to check their result.

python3 count_identifiers.py count ARCHIVE.zip RESULT.json     one archive, a map task
python3 count_identifiers.py merge DIRECTORY TABLE.tsv         all results of a directory, the reduce task

One regular expression decides what counts, not the running Python's own tokenizer, so every version of Python agrees.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

TOKEN = re.compile(
    r"""
      \# [^\n]*                                     # comments, strings and numbers are taken whole, so nothing inside them counts
    | [rbfu]{0,2} \"{3} (?: \\. | [^\\] )*? \"{3}
    | [rbfu]{0,2} '{3}  (?: \\. | [^\\] )*? '{3}
    | [rbfu]{0,2} "     (?: \\. | [^\\"\n] )* "
    | [rbfu]{0,2} '     (?: \\. | [^\\'\n] )* '
    | \d \w* \.? \w*
    | ( [a-z_\x80-\U0010ffff] [\w\x80-\U0010ffff]* )
    """,
    re.ASCII | re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
KEYWORDS = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally for from global if import in is"
    " lambda nonlocal not or pass raise return try while with yield".split()
)


def identifiers(source: bytes) -> Counter[str]:
    """How often each identifier occurs in one file."""
    names = Counter(match[1] for match in TOKEN.finditer(source.decode("utf-8-sig", "replace")) if match[1])
    return Counter({name: count for name, count in names.items() if name not in KEYWORDS})


def table(total: Counter[str]) -> str:
    """The result as text: one line per identifier, the most frequent first."""
    return "".join(f"{name}\t{count}\n" for name, count in sorted(total.items(), key=lambda item: (-item[1], item[0])))


def main(action: str, source: str, target: str) -> None:
    total: Counter[str] = Counter()
    if action == "count":
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                total.update(identifiers(archive.read(name)))
        Path(target).write_text(json.dumps(total))
        print(f"{len(archive.namelist())} files, {total.total()} identifiers, {len(total)} different ones")
    else:
        partials = sorted(Path(source).rglob("*.json"))
        for partial in partials:
            total.update(json.loads(partial.read_text()))
        Path(target).write_text(table(total), "utf-8")
        print(f"{len(partials)} partial results, {total.total()} identifiers, {len(total)} different ones")


if __name__ == "__main__":
    main(*sys.argv[1:])
