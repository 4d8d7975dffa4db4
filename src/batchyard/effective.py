"""What a server is really told: the file, stronger than it the variables, stronger than these the options; and where each value came from.

What nobody knows, or what has the wrong type, is refused with the place where it stands; nothing is guessed and nothing is ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batchyard import config, settings
from batchyard.config import Config, Misconfigured
from batchyard.settings import SETTINGS, Setting

DEFAULT = "default"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_OFFER = ("quotas", "sizes", "enforce_sizes")
_PORT_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://.*")
"""BATCHYARD_PORT as a Kubernetes cluster sets it in every container, when a service of it is called batchyard."""
_TYPO = 0.75
"""A variable that is so like one of ours is meant to be it; others may be somebody else's."""
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")
_PASSWORD_BEHIND = re.compile(r"([?&](?:ssl)?password)=[^&]*")
_SEEN_BY_ALL = (
    "every user of the machine can read the options of a process, so no password there: say it in BATCHYARD_DATABASE, in the"
    " configuration file or in ~/.pgpass"
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}


class Effective(NamedTuple):
    """A configuration, and how it came about."""

    config: Config
    values: Mapping[str, Any]
    """By setting; those of quotas and sizes as in the file."""
    origins: Mapping[str, str]
    """`default`, an option, a variable, or a file with its line."""
    unread: tuple[str, ...]
    """Variables that begin like ours and that nothing here reads."""


class _Told(NamedTuple):
    value: Any
    origin: str


def resolve(directory: Path, file: Path | None, options: Mapping[str, Any], environment: Mapping[str, str]) -> Effective:
    """The configuration of a server. Raises Misconfigured; `options` are those that were given, read by their kinds already."""
    path, found, text = _file(directory, file, environment)
    told = {setting.name: _Told(setting.default, DEFAULT) for setting in SETTINGS}
    if path is not None:
        told |= dict(_of_file(path, found, text))
    told |= dict(_of_variables(environment))
    for name, value in options.items():
        if value is not None and value != []:
            told[name] = _Told(value, f"option {_BY_NAME[name].word(value)}")
    values = {name: _checked(_BY_NAME[name], one) for name, one in told.items()}
    offer = config.offer(path, found, text)
    origins = {name: one.origin for name, one in told.items()}
    for key in _OFFER:
        for name, value in found.get(key, {}).items() if key == "quotas" else [("", found[key])] if key in found else []:
            full = f"{key}.{name}" if name else key
            values[full] = value if key != "sizes" else ", ".join(size["name"] for size in value)
            origins[full] = _at(path, config.line(text, key, name))
    return Effective(config.of(directory, values, offer), values, origins, tuple(sorted(_strangers(environment))))


def shown(setting: str, value: Any) -> str:
    """A value as `batchyard config` prints it: what is secret never, and no password within a URL."""
    known = _BY_NAME.get(setting)
    if value is None or value == () or value == []:
        return ""
    if known is not None and known.secret:
        return "***"
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return _PASSWORD_BEHIND.sub(r"\1=***", _PASSWORD.sub(r"\1:***", text))


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that starts in another directory: paths are made whole."""
    names = [setting.variable for setting in SETTINGS if setting.kind in ("path", "tls")] + [f"{settings.PREFIX}CONFIG"]
    whole = {name: environment[name] for name in names if environment.get(name)}
    kinds = {name: _BY_VARIABLE[name].kind if name in _BY_VARIABLE else "path" for name in whole}
    return {**environment, **{name: _whole(text) if kinds[name] == "path" else _whole_pair(text) for name, text in whole.items()}}


def _whole(text: str) -> str:
    return str(Path(text).resolve())


def _whole_pair(text: str) -> str:
    return ",".join(_whole(part) for part in text.split(",")) if "," in text else text


def _file(directory: Path, file: Path | None, environment: Mapping[str, str]) -> tuple[Path | None, dict[str, Any], str]:
    """(path, content, text) of the file that was named, or of the directory's own; nothing where there is none."""
    named = file or (Path(environment["BATCHYARD_CONFIG"]) if environment.get("BATCHYARD_CONFIG") else None)
    path = named or directory / settings.FILE
    if named is None and not path.exists():
        return None, {}, ""
    return path, *config.read(path)


def _of_file(path: Path, found: Mapping[str, Any], text: str) -> Iterator[tuple[str, _Told]]:
    for key, value in found.items():
        where = _at(path, config.line(text, "", key))
        if key in _OFFER:
            continue
        if key not in _BY_NAME:
            raise Misconfigured(f"{where}: there is no setting {key}{_close(key, [*_BY_NAME, *_OFFER])}")
        setting = _BY_NAME[key]
        try:
            read = _typed(setting, value)
        except ValueError as error:
            raise Misconfigured(f"{where}: {key} {error}") from None
        yield key, _Told(_beside(path, setting, read), where)


def _beside(path: Path, setting: Setting, value: Any) -> Any:
    """Paths of the file are meant from where it is."""
    if setting.kind == "path":
        return path.resolve().parent / value
    if setting.kind == "tls" and not isinstance(value, str):
        return tuple(path.resolve().parent / part for part in value)
    return value


def _strangers(environment: Mapping[str, str]) -> set[str]:
    ours = {*_BY_VARIABLE, *(settings.PREFIX + name for name in settings.ELSEWHERE)}
    return {name for name in environment if name.startswith(settings.PREFIX)} - ours


def _of_variables(environment: Mapping[str, str]) -> Iterator[tuple[str, _Told]]:
    for name in sorted(_strangers(environment)):
        key = name.removeprefix(settings.PREFIX).lower()
        if likely := difflib.get_close_matches(key, list(_BY_NAME), 1, _TYPO):
            raise Misconfigured(f"{name} in the environment is no setting; did you mean {_BY_NAME[likely[0]].variable}?")
    for setting in SETTINGS:
        text = environment.get(setting.variable)
        if text is None or (setting.name == "port" and _PORT_OF_A_SERVICE.fullmatch(text)):
            continue
        try:
            yield setting.name, _Told(_read(setting, text.strip()), f"variable {setting.variable}")
        except ValueError as error:
            raise Misconfigured(f"{setting.variable} in the environment {error}") from None


def _read(setting: Setting, text: str) -> Any:
    """The value of a text. Raises ValueError."""
    if setting.many:
        return [part.strip() for part in text.split(",") if part.strip()]
    if setting.kind == "tls":
        return _typed(setting, [part.strip() for part in text.split(",")] if "," in text else text)
    if setting.kind == "switch":
        if text.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(f"is on or off; it got {text!r}")
        return text.lower() in _TRUE
    if setting.kind not in ("whole number", "number"):
        return _typed(setting, text)
    try:
        number: float = int(text) if setting.kind == "whole number" else float(text)
    except ValueError:
        raise ValueError(f"wants a {setting.kind}; it got {text!r}") from None
    return _typed(setting, number)


def _typed(setting: Setting, value: Any) -> Any:
    """A value of the setting's type, within its bounds. Raises ValueError."""
    if setting.many:
        return _each(value, "a list of texts")
    if setting.kind == "tls":
        return _certificate(setting, value)
    if setting.kind == "choice" and value not in setting.choices:
        raise ValueError(f"is one of {', '.join(setting.choices)}; it got {value!r}{_close(str(value), setting.choices)}")
    kinds: dict[str, tuple[type, ...]] = {"switch": (bool,), "whole number": (int,), "number": (int, float)}
    wanted = kinds.get(setting.kind, (str, Path))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise ValueError(f"wants {_article(setting.kind)}; it got {value!r}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _bounded(setting, value)
    if setting.kind == "path":
        return Path(str(value))
    return float(str(value)) if setting.kind == "number" else value


def _certificate(setting: Setting, value: Any) -> Any:
    """auto, off, or two paths. Raises ValueError."""
    wanted = "'auto', 'off', or two paths: certificate and key"
    if isinstance(value, str) and value not in setting.choices:
        raise ValueError(f"is {wanted}; it got {value!r}{_close(value, setting.choices)}")
    if isinstance(value, str):
        return value
    if len(_each(value, wanted)) != 2:
        raise ValueError(f"is {wanted}; it got {value!r}")
    return tuple(map(Path, value))


def _each(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError(f"wants {what}; it got {value!r}")
    return value


def _bounded(setting: Setting, value: float) -> None:
    low, high = setting.low, setting.high
    if value != value or (low is not None and value < low) or (high is not None and value > high) or value == float("inf"):
        bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ValueError(f"wants a {setting.kind} {bounds}; it got {value}")


def _article(kind: str) -> str:
    return {"switch": "true or false", "choice": "a text"}.get(kind, f"a {kind}")


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "trusted_proxy": config.proxy,
    "database": config.database,
    "advertise": config.url,
    "metrics": config.address,
    "name": config.host_name,
    "domain": config.domain,
    "region": config.domain,
    "network_range": config.network_range,
}
"""What a text has to be besides; each one of a list."""


def _checked(setting: Setting, told: _Told) -> Any:
    check = _CHECKS.get(setting.name)
    try:
        if setting.name == "database" and told.origin.startswith("option ") and config.has_password(told.value):
            raise Misconfigured(_SEEN_BY_ALL)
        if setting.many:
            return tuple(map(check or str, told.value or ()))
        return check(told.value) if check and told.value is not None else told.value
    except Misconfigured as error:
        raise Misconfigured(f"{told.origin}: {error}") from None


def _at(path: Path | None, line: int) -> str:
    return f"{path} line {line}" if line else str(path)


def _close(name: str, known: Iterable[str]) -> str:
    likely = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {likely[0]}?" if likely else ""
