"""`batchyard completion`: a shell asks the command line itself, which answers from the table and, for names, from the server."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

from batchyard.cli import table
from batchyard.cli.grammar import FLAG, PATH, Verb
from batchyard.cli.problem import Problem

ASK = "__complete"
"""The hidden command: the words so far, the last of them unfinished."""
PATIENCE_S = 1.0
"""How long a server may take, in seconds; somebody waits with a finger on the key."""
_MOST = 200
_SCRIPTS = {
    "bash": """_batchyard() {{
    local IFS=$'\\n'
    COMPREPLY=($(batchyard {ask} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _batchyard batchyard
""",
    "zsh": """#compdef batchyard
_batchyard() {{
    local -a found
    found=(${{(f)"$(batchyard {ask} "${{(@)words[2,CURRENT]}}" 2>/dev/null)"}})
    if (( ${{#found}} )); then compadd -a found; else _files; fi
}}
if [[ ${{funcstack[1]}} == _batchyard ]]; then _batchyard; else compdef _batchyard batchyard; fi
""",
    "fish": """function __batchyard
    batchyard {ask} (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c batchyard -a '(__batchyard)'
""",
}


def script(*, shell: str) -> None:
    """Print the completion of a shell."""
    print(text(shell), end="")


def text(shell: str) -> str:
    """The completion of a shell, to be read by it or found among its own."""
    return _SCRIPTS[shell].format(ask=ASK)


def answers(words: Sequence[str]) -> list[str]:
    """What the last word may become."""
    *before, last = words or [""]
    return sorted({one for one in _candidates(before, last) if one.startswith(last)})[:_MOST]


def _candidates(before: Sequence[str], last: str) -> Iterator[str]:
    if not before:
        yield from _first_words()
        return
    noun = next((noun for noun in table.NOUNS if noun.name == before[0]), None)
    if noun is not None and len(before) == 1:
        yield from (verb.name for verb in noun.verbs)
        return
    given = before[2:] if noun else before[1:]
    verbs = (
        [verb for verb in noun.verbs if before[1] in (verb.name, *verb.aliases)]
        if noun
        else [v for v in table.COMMANDS if v.name == before[0]]
    )
    for verb in verbs:
        yield from _of_verb(verb, given, last)


def _first_words() -> Iterator[str]:
    yield from (verb.name for verb in table.COMMANDS)
    yield from (noun.name for noun in table.NOUNS if not noun.later)


def _of_verb(verb: Verb, given: Sequence[str], last: str) -> Iterator[str]:
    flags = (*verb.flags, *(table.CONNECTION if verb.server else ()), table.HELP)
    known = {word: flag for flag in flags for word in flag.words}
    if given and given[-1] in known and known[given[-1]].kind is not FLAG:
        flag = known[given[-1]]
        yield from flag.kind.choices
        yield from _names(flag.names, last, given)
    elif last.startswith("-"):
        yield from known
    else:
        places = sum(
            not word.startswith("-") and (not at or known.get(given[at - 1], table.HELP).kind is FLAG) for at, word in enumerate(given)
        )
        if verb.words:
            word = verb.words[min(places, len(verb.words) - 1)]
            yield from word.kind.choices
            yield from _names(word.names, last, given)


def _names(what: str, last: str, given: Sequence[str]) -> Iterator[str]:
    """Names of commands, or those that the server knows; none when it is not there, and those that came when it is slow."""
    if what == "commands":
        yield from _first_words()
    elif what:
        signal.signal(signal.SIGALRM, _too_late)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        try:
            yield from _asked(what, last, given)
        except Problem:
            return
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _too_late(*_: object) -> None:
    raise Problem("the server takes its time")


def _asked(what: str, last: str, given: Sequence[str]) -> Iterator[str]:
    """Names that the server knows, at most as many as are shown. Raises Problem."""
    from itertools import islice

    from batchyard.cli import connect, where
    from batchyard.cli.client import Client

    address = connect.find(**_connection(given))
    with Client(address.url, address.account, address.key) as batch:
        if what == "nodes":
            found = (node["id"] for pool in batch.listed("pools", select_="id") for node in batch.listed("pools", pool["id"], "nodes"))
        elif what == "tasks" and "/" in last:
            job, _, start = last.rpartition("/")
            filter_ = f"startswith(id,{where.quoted(start)})" if start else ""
            found = (f"{job}/{one['id']}" for one in batch.listed("jobs", job, "tasks", select_="id", filter_=filter_))
        else:
            filter_ = f"startswith(id,{where.quoted(last)})" if last else ""
            kind = what if what in ("pools", "jobschedules") else "jobs"
            found = (one["id"] for one in batch.listed(kind, select_="id", filter_=filter_))
        yield from islice((name for name in found if name.startswith(last)), _MOST)


def _connection(given: Sequence[str]) -> dict[str, Any]:
    """The server that the words so far name, as `connect.find` takes it."""
    from pathlib import Path

    found: dict[str, Any] = dict.fromkeys(flag.name for flag in table.CONNECTION)
    for flag in table.CONNECTION:
        for at, word in enumerate(given):
            name, equals, value = word.partition("=")
            if name in flag.words:
                text = value if equals else next(iter(given[at + 1 :]), "")
                found[flag.name] = Path(text).expanduser() if flag.kind is PATH else text
    return found
