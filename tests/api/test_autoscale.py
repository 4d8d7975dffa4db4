"""Autoscale as clients see it: through the newer SDK, over raw HTTP, and on a live server that grows and shrinks a pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.batch import BatchClient, models
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError
from tests.api.conftest import Json, Raw, Sdk, Yard, machine, pool_body, task, unique
from tests.conftest import Server, wait_for

FORMULA = "$TargetDedicatedNodes=min(2,$PendingTasks.GetSample(1));$NodeDeallocationOption=taskcompletion;"
NOTHING = "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption="


def scaled_body(pool_id: str, formula: str = FORMULA, **more: object) -> Json:
    body = pool_body(pool_id, enableAutoScale=True, autoScaleFormula=formula, **more)
    del body["targetDedicatedNodes"]
    return body


@pytest.fixture
def scaled(raw: Raw) -> Iterator[str]:
    """A pool with autoscale and without nodes."""
    pool_id = unique("scaled")
    assert raw("POST", "/pools", scaled_body(pool_id)).status == 201
    yield pool_id
    raw("DELETE", f"/pools/{pool_id}")


def test_a_new_pool_shows_its_first_run(batch: BatchClient) -> None:
    pool_id = unique("scaled")
    pool = models.BatchPoolCreateOptions(
        id=pool_id, vm_size="standard_d2s_v3", virtual_machine_configuration=machine(), enable_auto_scale=True, auto_scale_formula=FORMULA
    )
    batch.create_pool(pool)
    read = batch.get_pool(pool_id)
    assert (read.enable_auto_scale, read.auto_scale_formula) == (True, FORMULA)
    assert str(read.auto_scale_evaluation_interval) == "0:15:00"
    assert (read.target_dedicated_nodes, read.target_low_priority_nodes) == (0, 0)
    assert read.auto_scale_run is not None
    assert read.auto_scale_run.results == NOTHING + "taskcompletion"
    assert read.auto_scale_run.timestamp == read.last_modified
    assert read.auto_scale_run.error is None
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()


def test_enable_try_out_disable(sdk: Sdk, raw: Raw) -> None:
    batch, pool_id = sdk.client, unique("scaled")
    assert raw("POST", "/pools", pool_body(pool_id)).status == 201
    wait_for(lambda: batch.get_pool(pool_id).allocation_state == "steady", "the pool to be steady")
    with pytest.raises(HttpResponseError, match="OperationNotValidOnPool"):
        batch.evaluate_pool_auto_scale(pool_id, models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=FORMULA))
    before = batch.get_pool(pool_id)
    wanted = models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes=0;", auto_scale_evaluation_interval="PT6M")
    with pytest.raises(ResourceModifiedError):
        batch.enable_pool_auto_scale(pool_id, wanted, etag="0x8D4BCC2E4835CD0", match_condition=MatchConditions.IfNotModified)
    batch.enable_pool_auto_scale(pool_id, wanted, etag=before.etag, match_condition=MatchConditions.IfNotModified)
    on = batch.get_pool(pool_id)
    assert sdk.calls[-2].headers["etag"] == on.etag != before.etag
    assert on.auto_scale_run is not None
    assert on.auto_scale_run.timestamp == on.last_modified

    trial = batch.evaluate_pool_auto_scale(pool_id, models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula="something_useless"))
    assert trial.results == NOTHING + "requeue"
    assert trial.error is not None
    assert trial.error.code == "AutoScalingFormulaEvaluationError"
    assert trial.error.message == "The specified auto-scaling formula has evaluation error"
    assert trial.error["values"] == [{"name": "Message", "value": "Line 1, Col 1: Undefined symbol: something_useless"}]
    ordered = "$b=1;$a=$b+1;$TargetLowPriorityNodes=3;$NodeDeallocationOption=terminate;$TargetDedicatedNodes=2.5;"
    trial = batch.evaluate_pool_auto_scale(pool_id, models.BatchPoolEvaluateAutoScaleOptions(auto_scale_formula=ordered))
    assert trial.results == "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=3;$NodeDeallocationOption=terminate;$a=2;$b=1"

    with pytest.raises(HttpResponseError, match="OperationNotValidOnPool") as refused:
        batch.begin_resize_pool(pool_id, models.BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=0)
    assert refused.value.status_code == 409
    with pytest.raises(HttpResponseError, match="TooManyEnableAutoScaleRequests") as refused:
        batch.enable_pool_auto_scale(pool_id, wanted)
    assert refused.value.status_code == 503

    batch.disable_pool_auto_scale(pool_id)
    off = batch.get_pool(pool_id)
    assert (off.enable_auto_scale, off.auto_scale_formula, off.auto_scale_evaluation_interval) == (False, None, None)
    assert off.auto_scale_run is None
    assert off.etag != on.etag, "what is shown has changed"
    batch.disable_pool_auto_scale(pool_id)
    batch.begin_resize_pool(pool_id, models.BatchPoolResizeOptions(target_dedicated_nodes=0), polling_interval=0).result()
    batch.begin_delete_pool(pool_id, polling_interval=0).wait()


@pytest.mark.parametrize(
    ("change", "code", "values"),
    [
        ({"autoScaleFormula": None}, "MissingRequiredProperty", {"PropertyName": "autoScaleFormula"}),
        ({"autoScaleFormula": "$a=\n1 2"}, "AutoScalingFormulaSyntaxError", {"Message": "Line 2, Col 3: Unexpected '2'"}),
        ({"autoScaleFormula": "1" * 8193}, "AutoScalingFormulaTooLong", {"MaxLimit": "8192"}),
        ({"autoScaleEvaluationInterval": "PT4M"}, "InvalidPropertyValue", {"PropertyName": "autoScaleEvaluationInterval"}),
        ({"autoScaleEvaluationInterval": "P8D"}, "InvalidPropertyValue", {"PropertyName": "autoScaleEvaluationInterval"}),
        ({"autoScaleEvaluationInterval": "often"}, "InvalidPropertyValue", {"PropertyName": "autoScaleEvaluationInterval"}),
        ({"targetLowPriorityNodes": 0}, "InvalidAutoScalingSettings", {"PropertyName": "targetLowPriorityNodes"}),
    ],
)
def test_what_a_new_pool_may_not_say(raw: Raw, change: Json, code: str, values: dict[str, str]) -> None:
    pool_id = unique("scaled")
    raw("POST", "/pools", scaled_body(pool_id) | change).assert_error(400, code, **values)
    raw("GET", f"/pools/{pool_id}").assert_error(404, "PoolNotFound")


def test_pools_with_autoscale_are_found(raw: Raw, scaled: str) -> None:
    """`$filter` and `$select` know what autoscale adds to a pool."""
    chosen = "%24select=id,enableAutoScale,autoScaleFormula,autoScaleRun&%24filter="
    [found] = raw("GET", "/pools", query=f"{chosen}id%20eq%20%27{scaled}%27%20and%20enableAutoScale%20eq%20true").json["value"]
    assert set(found) == {"id", "enableAutoScale", "autoScaleFormula", "autoScaleRun"}
    assert raw("GET", "/pools", query=f"{chosen}id%20eq%20%27{scaled}%27%20and%20enableAutoScale%20eq%20false").json["value"] == []


@pytest.mark.parametrize("action", ["enableautoscale", "disableautoscale", "evaluateautoscale"])
def test_a_pool_that_is_not_there(raw: Raw, action: str) -> None:
    raw("POST", f"/pools/none/{action}", {"autoScaleFormula": "$a=1"}).assert_error(404, "PoolNotFound")


def test_answers_over_the_wire(raw: Raw, scaled: str) -> None:
    path = f"/pools/{scaled}"
    raw("POST", f"{path}/evaluateautoscale", {}).assert_error(400, "MissingRequiredProperty", PropertyName="autoScaleFormula")
    refused = raw("POST", f"{path}/evaluateautoscale", {"autoScaleFormula": "$a="})
    refused.assert_error(400, "AutoScalingFormulaSyntaxError", Message="Line 1, Col 4: Unexpected end of the formula")
    tried = raw("POST", f"{path}/evaluateautoscale", {"autoScaleFormula": "$a=1"})
    assert tried.json["odata.metadata"].endswith("/$metadata#Microsoft.Azure.Batch.Protocol.Entities.AutoScaleRun")
    assert set(tried.json) == {"odata.metadata", "timestamp", "results"}
    assert tried.headers["dataserviceid"] == f"{raw.endpoint}{path}/evaluateautoscale"
    wait_for(lambda: raw("GET", path).json["allocationState"] == "steady", "the pool to be steady")
    assert raw("POST", f"{path}/enableautoscale", {}).status == 200, "what is not given stays"
    again = raw("POST", f"{path}/enableautoscale")
    again.assert_error(503, "TooManyEnableAutoScaleRequests")
    assert again.headers["retry-after"] == "30"
    listed = next(item for item in raw("GET", "/pools").json["value"] if item["id"] == scaled)
    assert listed["autoScaleFormula"] == FORMULA
    assert listed["autoScaleEvaluationInterval"] == "PT15M"


def test_the_report(raw: Raw, scaled: str) -> None:
    path = f"/batchyard/autoscale/pools/{scaled}"
    found = raw("GET", path).json
    assert (found["poolId"], found["enableAutoScale"], found["autoScaleFormula"]) == (scaled, True, FORMULA)
    [run] = found["runs"]
    assert (run["cause"], run["formula"], run["variables"]) == ("added", FORMULA, {})
    assert run["decision"]["nodeDeallocationOption"] == "taskcompletion"
    assert "samples" not in found
    assert len(raw("GET", path, query="samples=true").json["samples"]) >= 1
    raw("GET", path, query="samples=some").assert_error(400, "InvalidQueryParameterValue")
    raw("GET", "/batchyard/autoscale/pools/none").assert_error(404, "PoolNotFound")
    raw("GET", path, headers={"authorization": "SharedKey x:y"}).assert_error(403, "AuthenticationFailed")


def test_a_task_may_not_touch_autoscale(yard: Yard) -> None:
    """The token of a task is good for its job only."""
    script = (
        'python3 -c "import os,sys,urllib.request as u,urllib.error as e\n'
        'r=u.Request(os.environ[\\"AZ_BATCH_ACCOUNT_URL\\"].rstrip(chr(47))+sys.argv[1]+\\"?api-version=2025-06-01\\",'
        'headers=dict(Authorization=\\"Bearer \\"+os.environ[\\"AZ_BATCH_AUTHENTICATION_TOKEN\\"]))\n'
        'try: print(u.urlopen(r).status)\nexcept e.HTTPError as x: print(x.code)" '
    )
    pool = yard.pool_id
    job_id = yard.job(task("t", f"{script} /batchyard/autoscale/pools/{pool}", authenticationTokenSettings={"access": ["job"]}))
    yard.reached(job_id, "t")
    answer = yard.raw("GET", f"/jobs/{job_id}/tasks/t/files/stdout.txt")
    assert answer.body.strip() == b"403", yard.raw("GET", f"/jobs/{job_id}/tasks/t/files/stderr.txt").body


@pytest.fixture
def quick() -> Iterator[Server]:
    """A server that evaluates often, and as soon as tasks come or go."""
    running = Server("--autoscale-min-interval", "1", "--autoscale-on-demand", nodes=2)
    yield running
    running.stop()


def test_a_pool_grows_with_its_tasks_and_shrinks_to_nothing(quick: Server) -> None:
    raw = Raw(quick.endpoint, quick.account, quick.key)
    assert raw("POST", "/pools", scaled_body("p", autoScaleEvaluationInterval="PT1S")).status == 201
    wait_for(lambda: raw("GET", "/pools/p").json["allocationState"] == "steady", "the pool to be steady")
    assert raw("POST", "/jobs", {"id": "j", "poolInfo": {"poolId": "p"}}).status == 201
    added = raw("POST", "/jobs/j/addtaskcollection", {"value": [task(f"t{number}") for number in range(3)]})
    assert added.status == 200
    wait_for(lambda: raw("GET", "/jobs/j/taskcounts").json["taskCounts"]["succeeded"] == 3, "the tasks to end")
    wait_for(lambda: raw("GET", "/pools/p/nodes").json["value"] == [], "the nodes to be gone")
    pool = raw("GET", "/pools/p").json
    assert (pool["targetDedicatedNodes"], pool["currentDedicatedNodes"]) == (0, 0)
    sizes = [run["decision"]["targetDedicatedNodes"] for run in raw("GET", "/batchyard/autoscale/pools/p").json["runs"]]
    assert 2 in sizes
    assert (sizes[0], sizes[-1]) == (0, 0)
