"""One configuration of three sources: the file is weakest, options are strongest; `batchyard config` says where each value comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchyard import effective
from batchyard.cli import daemon, grammar, table
from batchyard.cli.client import Client
from batchyard.config import Misconfigured
from batchyard.settings import SETTINGS, Setting


def batchyard(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)


def told(*words: str | Path, **environment: str) -> dict[str, tuple[str, str]]:
    """(value, origin) by setting."""
    done = batchyard("config", *words, "-o", "json", **environment)
    assert done.returncode == 0, done.stderr
    return {name: (one["value"], one["from"]) for name, one in json.loads(done.stdout).items()}


def test_options_are_stronger_than_variables_and_these_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "batchyard.toml"
    file.write_text("nodes = 1\nport = 1\nhost = '127.0.0.2'\nchaos = true\n\n[quotas]\npools = 7\n")
    found = told("--dir", tmp_path, "--nodes", "3", "--no-chaos", BATCHYARD_NODES="2", BATCHYARD_PORT="2")
    assert found["nodes"] == ("3", "option --nodes")
    assert found["port"] == ("2", "variable BATCHYARD_PORT")
    assert found["host"] == ("127.0.0.2", f"{file} line 3")
    assert found["chaos"] == ("false", "option --no-chaos")
    assert found["provider"] == ("local", "default")
    assert found["quotas.pools"] == ("7", f"{file} line 7")


def test_the_file_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    for name, port in (("batchyard.toml", 1), ("second.toml", 2), ("third.toml", 3)):
        (tmp_path / name).write_text(f"port = {port}\nprobes = 'fit'\n")
    assert told("--dir", tmp_path)["port"][0] == "1"
    assert told("--dir", tmp_path, BATCHYARD_CONFIG=str(tmp_path / "second.toml"))["port"][0] == "2"
    found = told("--dir", tmp_path, "--config", tmp_path / "third.toml", BATCHYARD_CONFIG=str(tmp_path / "second.toml"))
    assert found["port"][0] == "3"
    assert found["probes"][0] == str(tmp_path / "fit")


EXAMPLES: dict[str, Any] = {
    "whole number": 3,
    "number": 4.5,
    "switch": True,
    "text": "127.0.0.9",
    "path": Path("/somewhere"),
    "tls": "auto",
}


OWN: dict[str, str] = {
    "database": "postgresql://nobody@127.0.0.9/accounts?schema=one",
    "advertise": "https://127.0.0.9:1",
    "metrics": "127.0.0.9:1",
    "network_range": "10.9.0.0/20",
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_means_the_same_wherever_it_stands(setting: Setting, tmp_path: Path) -> None:
    value = setting.choices[-1] if setting.kind == "choice" else EXAMPLES[setting.kind]
    value = tmp_path if setting.name == "probes" else OWN.get(setting.name, value)
    text = str(value) if isinstance(value, Path) else str(value).lower()
    file = tmp_path / "batchyard.toml"
    written = f'"{text}"' if isinstance(value, (str, Path)) else text
    file.write_text(f"{setting.name} = {f'[{written}]' if setting.many else written}\n")
    by_file = effective.resolve(tmp_path, None, {}, {})
    file.unlink()
    by_variable = effective.resolve(tmp_path, None, {}, {setting.variable: text})
    words = [setting.flag] if setting.kind == "switch" else [setting.flag, text]
    given = grammar.parse(next(verb for verb in table.COMMANDS if verb.name == "serve"), words)
    by_option = effective.resolve(tmp_path, None, given["options"], {})
    assert by_file.config == by_variable.config == by_option.config != effective.resolve(tmp_path, None, {}, {}).config


def test_the_password_of_a_database_is_shown_to_nobody(tmp_path: Path) -> None:
    for url in ("postgresql://me:secret@h/d", "postgresql://me@h/d?password=secret&schema=s"):
        file = tmp_path / "batchyard.toml"
        file.write_text(f'database = "{url}"\n')
        assert effective.resolve(tmp_path, None, {}, {}).config.database == url
        for done in (batchyard("config", "--dir", tmp_path), batchyard("config", "--dir", tmp_path, "-o", "json")):
            assert "postgresql://me" in done.stdout
            assert "secret" not in done.stdout + done.stderr
        file.unlink()
        for command in ("up", "serve", "config"):
            done = batchyard(command, "--dir", tmp_path / "state", "--database", url)
            assert (done.returncode, "no password there" in done.stderr, "secret" in done.stderr) == (1, True, False)
    for wrong in ("mysql://me:secret@h/d", "postgresql://h/d?schema=No", "postgresql://h/d?schema=a&schema=b", "postgresql:/secret"):
        with pytest.raises(Misconfigured) as refused:
            effective.resolve(tmp_path, None, {}, {"BATCHYARD_DATABASE": wrong})
        assert "secret" not in str(refused.value)
        assert "variable BATCHYARD_DATABASE" in str(refused.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BATCHYARD_NODE": "3"}, "BATCHYARD_NODE in the environment is no setting; did you mean BATCHYARD_NODES?"),
        ({"BATCHYARD_NODES": "many"}, "BATCHYARD_NODES in the environment wants a whole number; it got 'many'"),
        ({"BATCHYARD_CHAOS": "perhaps"}, "BATCHYARD_CHAOS in the environment is on or off; it got 'perhaps'"),
        ({"BATCHYARD_TRUSTED_PROXY": "10.0.0.1,me"}, "variable BATCHYARD_TRUSTED_PROXY: --trusted-proxy takes an IP address"),
    ],
)
def test_a_wrong_variable_is_refused_in_a_sentence(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured) as wrong:
        effective.resolve(tmp_path, None, {}, environment)
    assert said in str(wrong.value)
    for command in ("up", "serve", "config"):
        done = batchyard(command, "--dir", tmp_path / "state", **environment)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert said in done.stderr
    assert not (tmp_path / "state").exists()


def test_variables_of_others_are_mentioned_and_a_service_of_a_cluster_is_left_alone(tmp_path: Path) -> None:
    environment = {"BATCHYARD_SERVICE_HOST": "10.0.0.1", "BATCHYARD_PORT": "tcp://10.0.0.1:8777", "BATCHYARD_PORT_8777_TCP_PORT": "8777"}
    found = effective.resolve(tmp_path, None, {}, environment)
    assert found.config.port == 8777
    assert found.unread == ("BATCHYARD_PORT_8777_TCP_PORT", "BATCHYARD_SERVICE_HOST")
    assert "Nothing reads" in batchyard("config", "--dir", tmp_path, **environment).stdout


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert effective.shown("database", "postgres://me:se:cr@et@host/db") == "postgres://me:***@host/db"
    secret = Setting("password", "A secret.", secret=True)
    monkeypatch.setitem(effective._BY_NAME, "password", secret)
    assert effective.shown("password", "open sesame") == "***"


def test_up_hands_on_what_it_was_told_however_it_was_told(tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    (tmp_path / "mine.toml").write_text("nodes = 0\n[quotas]\npools = 0\n")
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", "up", "--dir", "state", "--port", "0"]
    environment = {**os.environ, "BATCHYARD_CONFIG": "mine.toml", "BATCHYARD_PROBES": "fit", "BATCHYARD_TEST_CLOCK": "on"}
    try:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "room for 0 local nodes" in done.stdout
        server, account = daemon.running(tmp_path / "state"), daemon.account(tmp_path / "state")
        assert server is not None
        with Client(server.url, account.name, account.keys[0]) as batch:
            batch.post("batchyard", "clock", body={"advance": "PT1S"})  # only a server with the test clock knows it
    finally:
        daemon.stop(tmp_path / "state")
