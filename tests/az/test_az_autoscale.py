"""`az batch pool autoscale`, unmodified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = [pytest.mark.az, pytest.mark.timeout(120)]

NOTHING = "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}


class Done(Protocol):
    """How a command ended."""

    code: int
    err: str


class Az(Protocol):
    """What these tests need of the fixture `az`."""

    def __call__(self, *words: str | Path) -> Any: ...
    def run(self, *words: str | Path) -> Done: ...
    def until(self, wanted: object, *words: str) -> None: ...


@pytest.fixture
def pool(az: Az, tmp_path: Path) -> Iterator[str]:
    """A pool with autoscale; `az batch pool create --auto-scale-formula` breaks in azure-cli itself, a file goes."""
    body = {
        "id": "az-scaled",
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": MACHINE,
        "enableAutoScale": True,
        "autoScaleFormula": "$TargetDedicatedNodes=0;",
    }
    (tmp_path / "pool.json").write_text(json.dumps(body))
    az("pool", "create", "--json-file", tmp_path / "pool.json")
    yield "az-scaled"
    az("pool", "delete", "--pool-id", "az-scaled", "--yes")


def test_evaluate_disable_enable(az: Az, pool: str) -> None:
    shown = az("pool", "show", "--pool-id", pool)
    assert (shown["enableAutoScale"], shown["autoScaleEvaluationInterval"], shown["autoScaleRun"]["results"]) == (True, "PT15M", NOTHING)
    tried = az("pool", "autoscale", "evaluate", "--pool-id", pool, "--auto-scale-formula", "something_useless")
    assert (tried["results"], tried["error"]["code"]) == (NOTHING, "AutoScalingFormulaEvaluationError")
    refused = az.run("pool", "resize", "--pool-id", pool, "--target-dedicated-nodes", "1")
    assert refused.code != 0
    assert "OperationNotValidOnPool" in refused.err
    az("pool", "autoscale", "disable", "--pool-id", pool)
    assert az("pool", "show", "--pool-id", pool)["enableAutoScale"] is False
    az.until("steady", "pool", "show", "--pool-id", pool, "--query", "allocationState")
    az(
        "pool",
        "autoscale",
        "enable",
        "--pool-id",
        pool,
        "--auto-scale-formula",
        "$TargetDedicatedNodes=0;",
        "--auto-scale-evaluation-interval",
        "PT10M",
    )
    assert az("pool", "show", "--pool-id", pool)["autoScaleEvaluationInterval"] == "PT10M"
