"""The account of a state directory: names and keys, made at the first start and readable by its owner only.

What grants access is validated here, when it is read: a key that decodes to nothing would let everybody in. At a first start the account
stands in `account.new` until the databases are there too, so that an account without them is one that has lost them.
"""

from __future__ import annotations

import binascii
import hmac
import os
import re
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

import msgspec

NAME, UNFINISHED = "account.json", "account.new"
_SHORTEST_KEY = 16
"""Bytes of a key."""
_SECOND = b"second key of the storage account"
_LEGAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)


class AccountFile(msgspec.Struct, rename="camel"):
    """Names and keys."""

    name: str
    keys: list[str]
    storage_name: str
    """The storage account that is linked to it."""
    storage_key: str
    node_key: str
    """What the tokens of nodes are made from."""
    storage_second_key: str = ""
    storage: dict[str, list[str]] = {}
    """Both keys of each further storage account in the account's world, by what its row is called by (`slot`)."""

    def __post_init__(self) -> None:
        if not self.storage_second_key:  # of an earlier release; all that read it have to find the same
            self.storage_second_key = b64encode(hmac.digest(self.node_key.encode(), _SECOND, "sha512")).decode()

    def storage_keys(self, slot: str | None = None) -> list[str]:
        """Both keys of a storage account, those of the linked one without a slot; none of one that has gone."""
        return [self.storage_key, self.storage_second_key] if slot is None else self.storage.get(slot, [])


class Unusable(Exception):
    """The file grants access to nobody or to everybody; the message is a sentence that says why."""


def read(path: Path) -> AccountFile | None:
    """The account in a file, None when there is no file. Raises Unusable."""
    try:
        return decoded(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"{path} cannot be read ({error.strerror})") from None


def decoded(text: bytes | str, where: str) -> AccountFile:
    """The account that a text holds. Raises Unusable."""
    try:
        account = msgspec.json.decode(text, type=AccountFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unusable(f"{where} is damaged ({error}); put a copy of it back, for clients and nodes know its keys") from None
    for problem in _problems(account):
        raise Unusable(f"{where} cannot be used: {problem}")
    return account


def encoded(account: AccountFile) -> bytes:
    """The text of an account."""
    return msgspec.json.format(msgspec.json.encode(account))


def fresh(name: str = "batchyard", storage: str = "batchyardstorage") -> AccountFile:
    """A new account with random keys."""
    return AccountFile(name, [new_key(), new_key()], storage, new_key(), new_key(32), new_key())


def renewed(account: AccountFile, number: int) -> AccountFile:
    """The account with another key in the place of its first or second; the other one stays."""
    keys = [*account.keys]
    keys[number : number + 1] = [new_key()]
    return msgspec.structs.replace(account, keys=keys)


def with_storage(account: AccountFile, slot: str) -> AccountFile:
    """The account with new keys of one more storage account."""
    return msgspec.structs.replace(account, storage={**account.storage, slot: [new_key(), new_key()]})


def without_storage(account: AccountFile, slot: str) -> AccountFile:
    """The account without the keys of a storage account that is not its linked one."""
    return msgspec.structs.replace(account, storage={other: keys for other, keys in account.storage.items() if other != slot})


def renewed_storage(account: AccountFile, slot: str | None, number: int) -> AccountFile:
    """The account with another first or second key of a storage account, the linked one without a slot."""
    keys = [*account.storage_keys(slot)]
    keys[number : number + 1] = [new_key()]
    if slot is None:
        return msgspec.structs.replace(account, storage_key=keys[0], storage_second_key=keys[1])
    return msgspec.structs.replace(account, storage={**account.storage, slot: keys})


def store(path: Path, account: AccountFile) -> None:
    """Write an account, all of it or nothing."""
    write_private(path, encoded(account))


def operator_key(path: Path) -> str:
    """The operator's key, made when there is none. Raises Unusable."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        key = new_key()
        write_private(path, f"{key}\n".encode())
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read ({error})") from None
    if problem := _key_problem(key):
        raise Unusable(f"{path} cannot be used: the key {problem}; take the file away for a new one")
    return key


def valid_key(key: str, where: str) -> str:
    """The operator's key, once it was looked at. Raises Unusable."""
    if problem := _key_problem(key):
        raise Unusable(f"{where} cannot be used: the key {problem}")
    return key


def finish(directory: Path) -> None:
    """The databases are there: make a new account the directory's."""
    (directory / UNFINISHED).replace(directory / NAME)
    _sync(directory)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, all of it or nothing."""
    new = path.with_name(path.name + ".part")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync(path.parent)


def _problems(account: AccountFile) -> list[str]:
    """Why an account must not be served; no key is shown."""
    found = [
        f"{name} {value[:64]!r} is no account name (1 to 63 letters, digits and hyphens)"
        for name, value in (("name", account.name), ("storageName", account.storage_name))
        if _LEGAL.fullmatch(value) is None
    ]
    if not 1 <= len(account.keys) <= 2:
        found.append(f"keys holds {len(account.keys)} keys, and an account has one or two")
    named = [(f"keys[{at}]", key) for at, key in enumerate(account.keys)]
    named += [("storageKey", account.storage_key), ("storageSecondKey", account.storage_second_key), ("nodeKey", account.node_key)]
    named += [(f"storage.{name[:64]}", key) for name, keys in account.storage.items() for key in keys]
    found += [f"storage.{name[:64]} has not two keys" for name, keys in account.storage.items() if len(keys) != 2]
    for name, key in named:
        if problem := _key_problem(key):
            found.append(f"{name} {problem}")
    return found


def _key_problem(key: str) -> str | None:
    try:
        length = len(b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        return "is not base64"
    return f"has {length} bytes, and a key has at least {_SHORTEST_KEY}" if length < _SHORTEST_KEY else None


def new_key(size: int = 64) -> str:
    """A random key of so many bytes in base64."""
    return b64encode(secrets.token_bytes(size)).decode()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
