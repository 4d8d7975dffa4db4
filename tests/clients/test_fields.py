"""Every field of every model of the older clients is one of our shapes', but for what the table of deviations says."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.clients.test_clients import CLIENTS, PYTHON, ROOT
from tests.model.test_shapes import NAMES_14, NOT_SERVED, PARTS, SHAPES, WORDS, kinds

from batchyard.api.wire.deviations import DEVIATIONS

pytestmark = pytest.mark.clients

RENAMED = {row.older: row.newer for row in DEVIATIONS if row.inward is not None}
SERVED = [wish.replace("==", " ") for wish in PYTHON if not wish.endswith(("4.1.3", "5.1.1"))]
OTHER_KINDS = {
    "TaskAddCollectionParameter.value": "each task is decoded alone, because a wrong one is refused alone",
    "InstanceViewStatus.time": "these versions do not parse the time",
    "ContainerConfiguration.type": "these versions leave the words to the client, the service does not",
    "NetworkConfiguration.publicIPs": "its newer form is an object",
}


@pytest.mark.parametrize("name", SERVED)
def test_every_field_of_an_older_client_is_served(name: str) -> None:
    client = CLIENTS[name]
    environment = {**os.environ, **client.environment}
    command = [client.command[0], "-W", "ignore", str(ROOT / "tests" / "model" / "sdk_fields.py")]
    sdk = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    missing, differing = [], []
    for model, fields in sdk["models"].items():
        if model.endswith(tuple(NOT_SERVED)):
            continue
        ours = NAMES_14.get(model, model)
        shapes = [SHAPES[part] for part in PARTS.get(ours, (ours,)) if part in SHAPES]
        served = {field: kind for shape in shapes for field, kind in kinds(shape).items()}
        for field, kind in fields.items():
            listed, space, item = kind.rpartition(" ")
            wanted = "str" if kind == "long" else listed + space + NAMES_14.get(item, item)
            found = served.get(field) or served.get(RENAMED.get(field, ""))
            if found is None:
                missing.append(f"{model}.{field}")
            elif found != wanted and f"{model}.{field}" not in OTHER_KINDS:
                differing.append((f"{model}.{field}", found, wanted))
    assert (missing, differing) == ([], [])
    unknown = {(word, value) for word, values in sdk["enums"].items() for value in values} - {
        (word, value) for word in sdk["enums"] for value in {member.value for member in WORDS[NAMES_14.get(word, word)]}
    }
    assert {value for _, value in unknown} <= {"CacheDisk"}
