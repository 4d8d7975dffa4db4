"""The manual's pages, made from the table: one for each command and each noun, and one that names them all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batchyard import __version__
from batchyard.cli import grammar, table
from batchyard.cli.grammar import Flag, Noun, Verb
from batchyard.cli.problem import Usage

EXIT_CODES = (
    ("0", "It was done."),
    ("1", "It was refused or failed; one sentence on stderr says why."),
    ("2", "The words on the command line make no sense."),
    ("130", "It was interrupted."),
    ("the command's", "Of task exec."),
    ("the task's", "Of commands that wait for one task."),
)
_ENVIRONMENT = (
    ("BATCHYARD_DIR", "State directory of the local server, when no --dir names one."),
    ("AZURE_BATCH_ENDPOINT, AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY", "The server that commands talk to, as az batch reads them."),
    ("AZURE_STORAGE_CONNECTION_STRING", "The account's storage."),
    ("NO_COLOR", "No colours."),
)
_FILES = (("/var/lib/batchyard", "State directory of root."), ("~/.local/share/batchyard", "State directory of anybody else."))

Rows = Iterable[tuple[str, str]]


def show(*, word: str | None) -> None:
    """Print a page, for `man -l -`; on a terminal that has a `man`, show it."""
    import shutil
    import subprocess
    import sys

    name = f"batchyard-{word}.1" if word else "batchyard.1"
    known = dict(pages())
    if name not in known:
        likely = grammar.close(str(word), [page.removeprefix("batchyard-").removesuffix(".1") for page in known])
        raise Usage(f"there is no page for {word!r}{f'; did you mean {likely}?' if likely else '; see: batchyard man'}")
    if sys.stdout.isatty() and (viewer := shutil.which("man")):
        subprocess.run([viewer, "-l", "-"], input=known[name], text=True, check=False)
    else:
        print(known[name], end="")


def pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of every page."""
    nouns = [noun for noun in table.NOUNS if not noun.later]
    yield "batchyard.1", "".join(_overview(nouns))
    for verb in table.COMMANDS:
        yield f"batchyard-{verb.name}.1", "".join(_of_command(verb))
    for noun in nouns:
        yield f"batchyard-{noun.name}.1", "".join(_of_noun(noun))


def _overview(nouns: Sequence[Noun]) -> Iterator[str]:
    yield _head("batchyard", "Azure Batch on machines you own")
    yield _section("SYNOPSIS", "batchyard COMMAND [OPTIONS] [WORDS]\n.br\nbatchyard NOUN VERB [OPTIONS] [WORDS]")
    yield _section("DESCRIPTION", _text("A server, its nodes and the commands that use them speak the REST API of Azure Batch."))
    yield _section("COMMANDS", _list((f"batchyard-{verb.name}(1)", verb.help) for verb in table.COMMANDS))
    yield _section("NOUNS", _list((f"batchyard-{noun.name}(1)", f"{noun.help} {_verbs(noun)}") for noun in nouns))
    yield _section("COMMON OPTIONS", _text("Every command knows -h, and those that ask a server:") + "\n" + _options(table.CONNECTION))
    yield _section("EXIT STATUS", _list(EXIT_CODES))
    yield _section("ENVIRONMENT", _list(_ENVIRONMENT))
    yield _section("FILES", _list(_FILES))


def _of_command(verb: Verb) -> Iterator[str]:
    yield _head(f"batchyard-{verb.name}", verb.help.removesuffix("."))
    yield _section("SYNOPSIS", _text(grammar.usage("", verb)))
    for title, body in _parts(verb):
        yield _section(title, body)
    yield _section("SEE ALSO", _text("batchyard(1)"))


def _of_noun(noun: Noun) -> Iterator[str]:
    yield _head(f"batchyard-{noun.name}", noun.help.removesuffix("."))
    yield _section("SYNOPSIS", "\n.br\n".join(_text(grammar.usage(noun.name, verb)) for verb in noun.verbs))
    yield '.SH "VERBS"\n'
    for verb in noun.verbs:
        also = f" Also {', '.join(verb.aliases)}." if verb.aliases else ""
        yield f'.SS "{_text(grammar.usage(noun.name, verb))}"\n{_text(verb.help + also)}\n'
        yield from (f".PP\n{body}\n" for title, body in _parts(verb) if title != "COMMON OPTIONS")
    yield _section("COMMON OPTIONS", _options((*table.CONNECTION, table.HELP)))
    yield _section("SEE ALSO", _text("batchyard(1)"))


def _parts(verb: Verb) -> Iterator[tuple[str, str]]:
    words = [(word.metavar, word.help) for word in verb.words if word.help]
    if words:
        yield "WORDS", _list(words)
    if verb.flags:
        yield "OPTIONS", _options(verb.flags)
    yield "COMMON OPTIONS", _options((*(table.CONNECTION if verb.server else ()), table.HELP))


def _verbs(noun: Noun) -> str:
    return ", ".join(verb.name for verb in noun.verbs)


def _head(name: str, help_: str) -> str:
    return f'.TH "{_text(name.upper())}" 1 "" "batchyard {__version__}" "Batchyard"\n.SH "NAME"\n{_text(name)} \\- {_text(help_)}\n'


def _section(title: str, body: str) -> str:
    return f'.SH "{title}"\n{body}\n'


def _options(flags: Iterable[Flag]) -> str:
    return _list((grammar.option(flag), grammar.explained(flag)) for flag in flags)


def _list(rows: Rows) -> str:
    return "\n".join(f".TP\n\\fB{_text(name)}\\fR\n{_text(text)}" for name, text in rows)


def _text(text: str) -> str:
    """Text as roff takes it: nothing in it is a command."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
