"""Every field of every model of both SDK generations is served, or listed here with a reason."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchyard import model as package
from batchyard.model.common import Duration, Shape, Timestamp
from batchyard.model.states import Word

# sync holds what server and agent say to each other, explain what Batchyard alone answers: no SDK sees them.
MODULES = [
    importlib.import_module(f"batchyard.model.{found.name}")
    for found in pkgutil.iter_modules(package.__path__)
    if found.name not in ("sync", "explain")
]
SHAPES: dict[str, type[Shape]] = {
    name: found
    for module in MODULES
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, Shape) and found is not Shape
}
# Resources that are served in two parts: what the client set, what the service knows.
PARTS = {name: (f"{name}CreateContent", f"{name}Served") for name in ("Pool", "Job", "JobSchedule", "Task")}
WORDS: dict[str, type[Word]] = {
    name: found
    for module in MODULES
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, Word) and found is not Word
}

# SDK class -> ours, where the names differ.
NAMES_14 = {
    "ApplicationSummary": "Application",
    "BatchError": "BatchErrorBody",
    "BatchErrorDetail": "ErrorDetail",
    "BatchPoolIdentity": "PoolIdentity",
    "CertificateAddParameter": "CertificateCreateContent",
    "CloudJob": "Job",
    "CloudJobSchedule": "JobSchedule",
    "CloudPool": "Pool",
    "CloudTask": "Task",
    "CloudTaskListSubtasksResult": "SubtaskList",
    "ComputeNode": "Node",
    "ComputeNodeDeallocationOption": "NodeDeallocationOption",
    "ComputeNodeFillType": "NodeFillType",
    "ComputeNodeGetRemoteLoginSettingsResult": "RemoteLoginSettings",
    "ComputeNodeRebootOption": "NodeRebootOption",
    "ComputeNodeReimageOption": "NodeReimageOption",
    "ComputeNodeState": "NodeState",
    "ComputeNodeUser": "NodeUserCreate",
    "DisableComputeNodeSchedulingOption": "NodeDisableSchedulingOption",
    "HttpHeader": "OutputFileUploadHeader",
    "ImageInformation": "SupportedImage",
    "JobAddParameter": "JobCreateContent",
    "JobDisableParameter": "JobDisable",
    "JobPatchParameter": "JobPatch",
    "JobPreparationTaskState": "SpecialTaskState",
    "JobReleaseTaskState": "SpecialTaskState",
    "JobScheduleAddParameter": "JobScheduleCreateContent",
    "JobSchedulePatchParameter": "JobSchedulePatch",
    "JobScheduleUpdateParameter": "JobScheduleUpdate",
    "JobTerminateParameter": "JobTerminate",
    "JobUpdateParameter": "JobUpdate",
    "NodeDisableSchedulingParameter": "NodeDisableScheduling",
    "NodeRebootParameter": "NodeReboot",
    "NodeReimageParameter": "NodeReimage",
    "NodeRemoveParameter": "NodeRemove",
    "NodeUpdateUserParameter": "NodeUserUpdate",
    "PoolAddParameter": "PoolCreateContent",
    "PoolEnableAutoScaleParameter": "PoolEnableAutoScale",
    "PoolEvaluateAutoScaleParameter": "PoolEvaluateAutoScale",
    "PoolPatchParameter": "PoolPatch",
    "PoolResizeParameter": "PoolResize",
    "PoolUpdatePropertiesParameter": "PoolUpdateProperties",
    "ResourceStatistics": "PoolResourceStatistics",
    "SecurityTypes": "SecurityType",
    "StartTaskState": "SpecialTaskState",
    "StatusLevelTypes": "StatusLevel",
    "SubtaskInformation": "Subtask",
    "TaskAddCollectionParameter": "TaskAddCollection",
    "TaskAddParameter": "TaskCreateContent",
    "TaskContainerSettings": "ContainerSettings",
    "TaskExecutionResult": "TaskResult",
    "TaskUpdateParameter": "TaskUpdate",
    "UploadBatchServiceLogsConfiguration": "UploadBatchServiceLogs",
    "UsageStatistics": "PoolUsageStatistics",
    "VerificationType": "ImageVerificationType",
}
NAMES_15 = {
    "AutomaticOsUpgradePolicy": "AutomaticOSUpgradePolicy",
    "BatchAffinityInfo": "AffinityInformation",
    "BatchAllTasksCompleteMode": "OnAllTasksComplete",
    "BatchApplication": "Application",
    "BatchApplicationPackageReference": "ApplicationPackageReference",
    "BatchAutoPoolSpecification": "AutoPoolSpecification",
    "BatchContainerConfiguration": "ContainerConfiguration",
    "BatchCreateTaskCollectionResult": "TaskAddCollectionResult",
    "BatchDiffDiskSettings": "DiffDiskSettings",
    "BatchError": "BatchErrorBody",
    "BatchErrorDetail": "ErrorDetail",
    "BatchErrorMessage": "ErrorMessage",
    "BatchErrorSourceCategory": "ErrorCategory",
    "BatchInboundNatPool": "InboundNATPool",
    "BatchJob": "Job",
    "BatchJobActionKind": "JobAction",
    "BatchJobConstraints": "JobConstraints",
    "BatchJobCreateOptions": "JobCreateContent",
    "BatchJobDefaultOrder": "JobDefaultOrder",
    "BatchJobDisableOptions": "JobDisable",
    "BatchJobExecutionInfo": "JobExecutionInformation",
    "BatchJobManagerTask": "JobManagerTask",
    "BatchJobNetworkConfiguration": "JobNetworkConfiguration",
    "BatchJobPreparationAndReleaseTaskStatus": "JobPreparationAndReleaseTaskExecutionInformation",
    "BatchJobPreparationTask": "JobPreparationTask",
    "BatchJobPreparationTaskExecutionInfo": "JobPreparationTaskExecutionInformation",
    "BatchJobPreparationTaskState": "SpecialTaskState",
    "BatchJobReleaseTask": "JobReleaseTask",
    "BatchJobReleaseTaskExecutionInfo": "JobReleaseTaskExecutionInformation",
    "BatchJobReleaseTaskState": "SpecialTaskState",
    "BatchJobSchedule": "JobSchedule",
    "BatchJobScheduleConfiguration": "Schedule",
    "BatchJobScheduleCreateOptions": "JobScheduleCreateContent",
    "BatchJobScheduleExecutionInfo": "JobScheduleExecutionInformation",
    "BatchJobScheduleState": "JobScheduleState",
    "BatchJobScheduleStatistics": "JobScheduleStatistics",
    "BatchJobScheduleUpdateOptions": "JobSchedulePatch",
    "BatchJobSchedulingError": "JobSchedulingError",
    "BatchJobSpecification": "JobSpecification",
    "BatchJobState": "JobState",
    "BatchJobStatistics": "JobStatistics",
    "BatchJobTerminateOptions": "JobTerminate",
    "BatchJobUpdateOptions": "JobPatch",
    "BatchMetadataItem": "MetadataItem",
    "BatchNode": "Node",
    "BatchNodeAgentInfo": "NodeAgentInformation",
    "BatchNodeCounts": "NodeCounts",
    "BatchNodeDeallocateOption": "NodeDeallocateOption",
    "BatchNodeDeallocateOptions": "NodeDeallocate",
    "BatchNodeDeallocationOption": "NodeDeallocationOption",
    "BatchNodeDisableSchedulingOption": "NodeDisableSchedulingOption",
    "BatchNodeDisableSchedulingOptions": "NodeDisableScheduling",
    "BatchNodeEndpointConfiguration": "ComputeNodeEndpointConfiguration",
    "BatchNodeError": "ComputeNodeError",
    "BatchNodeFile": "NodeFile",
    "BatchNodeFillType": "NodeFillType",
    "BatchNodeIdentityReference": "ComputeNodeIdentityReference",
    "BatchNodeInfo": "ComputeNodeInformation",
    "BatchNodePlacementConfiguration": "NodePlacementConfiguration",
    "BatchNodePlacementPolicyType": "NodePlacementPolicyType",
    "BatchNodeRebootKind": "NodeRebootOption",
    "BatchNodeRebootOptions": "NodeReboot",
    "BatchNodeReimageOption": "NodeReimageOption",
    "BatchNodeReimageOptions": "NodeReimage",
    "BatchNodeRemoteLoginSettings": "RemoteLoginSettings",
    "BatchNodeRemoveOptions": "NodeRemove",
    "BatchNodeState": "NodeState",
    "BatchNodeUserCreateOptions": "NodeUserCreate",
    "BatchNodeUserReplaceOptions": "NodeUserUpdate",
    "BatchNodeVMExtension": "NodeVMExtension",
    "BatchOsDisk": "OSDisk",
    "BatchPool": "Pool",
    "BatchPoolCreateOptions": "PoolCreateContent",
    "BatchPoolEnableAutoScaleOptions": "PoolEnableAutoScale",
    "BatchPoolEndpointConfiguration": "PoolEndpointConfiguration",
    "BatchPoolEvaluateAutoScaleOptions": "PoolEvaluateAutoScale",
    "BatchPoolIdentity": "PoolIdentity",
    "BatchPoolIdentityReference": "PoolIdentityReference",
    "BatchPoolIdentityType": "PoolIdentityType",
    "BatchPoolInfo": "PoolInformation",
    "BatchPoolLifetimeOption": "PoolLifetimeOption",
    "BatchPoolNodeCounts": "PoolNodeCounts",
    "BatchPoolReplaceOptions": "PoolUpdateProperties",
    "BatchPoolResizeOptions": "PoolResize",
    "BatchPoolResourceStatistics": "PoolResourceStatistics",
    "BatchPoolSpecification": "PoolSpecification",
    "BatchPoolState": "PoolState",
    "BatchPoolStatistics": "PoolStatistics",
    "BatchPoolUpdateOptions": "PoolPatch",
    "BatchPoolUsageMetrics": "PoolUsageMetrics",
    "BatchPoolUsageStatistics": "PoolUsageStatistics",
    "BatchPublicIpAddressConfiguration": "PublicIPAddressConfiguration",
    "BatchStartTask": "StartTask",
    "BatchStartTaskInfo": "StartTaskInformation",
    "BatchStartTaskState": "SpecialTaskState",
    "BatchSubtask": "Subtask",
    "BatchSubtaskState": "SubtaskState",
    "BatchSupportedImage": "SupportedImage",
    "BatchTask": "Task",
    "BatchTaskAddStatus": "TaskAddStatus",
    "BatchTaskConstraints": "TaskConstraints",
    "BatchTaskContainerExecutionInfo": "TaskContainerExecutionInformation",
    "BatchTaskContainerSettings": "ContainerSettings",
    "BatchTaskCounts": "TaskCounts",
    "BatchTaskCountsResult": "TaskCountsResult",
    "BatchTaskCreateOptions": "TaskCreateContent",
    "BatchTaskCreateResult": "TaskAddResult",
    "BatchTaskDependencies": "TaskDependencies",
    "BatchTaskExecutionInfo": "TaskExecutionInformation",
    "BatchTaskExecutionResult": "TaskResult",
    "BatchTaskFailureInfo": "TaskFailureInformation",
    "BatchTaskFailureMode": "OnTaskFailure",
    "BatchTaskGroup": "TaskAddCollection",
    "BatchTaskIdRange": "TaskIdRange",
    "BatchTaskInfo": "TaskInformation",
    "BatchTaskSchedulingPolicy": "TaskSchedulingPolicy",
    "BatchTaskSlotCounts": "TaskSlotCounts",
    "BatchTaskState": "TaskState",
    "BatchTaskStatistics": "TaskStatistics",
    "BatchUefiSettings": "UefiSettings",
    "BatchUserAssignedIdentity": "UserAssignedIdentity",
    "BatchVmDiskSecurityProfile": "VMDiskSecurityProfile",
    "BatchVmImageReference": "ImageReference",
    "CifsMountConfiguration": "CIFSMountConfiguration",
    "ContainerRegistryReference": "ContainerRegistry",
    "DisableBatchJobOption": "DisableJobOption",
    "HostEndpointSettingsModeTypes": "HostEndpointSettingsMode",
    "IpAddressProvisioningType": "IPAddressProvisioningType",
    "NfsMountConfiguration": "NFSMountConfiguration",
    "OutputFileUploadConfiguration": "OutputFileUploadOptions",
    "RecentBatchJob": "RecentJob",
    "SecurityEncryptionTypes": "SecurityEncryptionType",
    "SecurityTypes": "SecurityType",
    "StatusLevelTypes": "StatusLevel",
    "UploadBatchServiceLogsOptions": "UploadBatchServiceLogs",
}
NAMES = {"14": NAMES_14, "15": NAMES_15}

# SDK classes without a shape of ours: why.
NOT_SERVED = {
    "Paged": "the envelope of a list is written by the API around items that are already JSON",
}
# SDK field -> why our kind differs from the SDK's.
OTHER_KINDS = {
    ("14", "ContainerConfiguration.type"): "14.x leaves the words to the client, the service does not",
    ("14", "InstanceViewStatus.time"): "14.x does not parse the time",
    ("14", "TaskAddCollectionParameter.value"): "each task is decoded alone, because a wrong one is refused alone",
    ("15", "BatchTaskGroup.value"): "each task is decoded alone, because a wrong one is refused alone",
}
# Values that one SDK spells otherwise: what we write instead.
OTHER_SPELLINGS = {("14", "DiffDiskPlacement"): {"CacheDisk": "cachedisk"}}

VERSIONS = ("14", "15")
HERE = Path(__file__).parent


def interpreter(version: str) -> str:
    """Path of a Python that has the SDK of this generation; fails the test when there is none."""
    if version == "15":
        return sys.executable
    python = os.environ.get("BATCHYARD_SDK14_PYTHON") or str(HERE.parents[1] / ".venv-sdk14" / "bin" / "python")
    if not Path(python).exists():
        pytest.fail(f"No Python with azure-batch 14.2.0 at {python}: run `make setup`, or set BATCHYARD_SDK14_PYTHON.")
    return python


@pytest.fixture(scope="module", params=VERSIONS)
def sdk(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Models and enums of one SDK generation, with its `version`."""
    # Without PYTHONPATH, which would lend one environment's packages to the other.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [interpreter(request.param), str(HERE / "sdk_fields.py")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, f"{command} failed:\n{run.stderr}"
    return {"version": request.param, **json.loads(run.stdout)}


def ours(sdk: dict[str, Any], name: str) -> str:
    """Our name for an SDK class or kind."""
    listed, space, item = name.rpartition(" ")
    renamed: str = NAMES[sdk["version"]].get(item, item)
    return listed + space + renamed


def kind(hint: Any) -> str:
    """Kind of one of our fields, in the words of sdk_fields.py."""
    if hint in (Duration, Timestamp):
        return "duration" if hint == Duration else "time"
    if typing.get_origin(hint) is typing.Annotated:
        return kind(typing.get_args(hint)[0])
    if typing.get_origin(hint) is list:
        return f"list {kind(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "map"
    arguments = [a for a in typing.get_args(hint) if a not in (type(None), msgspec.UnsetType)]
    return kind(arguments[0]) if arguments else str(hint.__name__)


def kinds(shape: type[Shape]) -> dict[str, str]:
    """Wire names and kinds of a shape of ours."""
    hints = typing.get_type_hints(shape, include_extras=True)
    return {field.encode_name: kind(hints[field.name]) for field in msgspec.structs.fields(shape)}


def test_every_sdk_field_is_served(sdk: dict[str, Any]) -> None:
    missing, differing = [], []
    for model, fields in sdk["models"].items():
        if model.endswith(tuple(NOT_SERVED)):
            continue
        name = ours(sdk, model)
        shapes = [SHAPES[part] for part in PARTS.get(name, (name,)) if part in SHAPES]
        if not shapes:
            missing.append(model)
            continue
        served = {field: found for shape in shapes for field, found in kinds(shape).items()}
        missing += [f"{model}.{name}" for name in fields if name not in served]
        for name, sdk_kind in fields.items():
            wanted = "str" if sdk_kind == "long" else ours(sdk, sdk_kind)
            if name in served and served[name] != wanted:
                differing.append((sdk["version"], f"{model}.{name}"))
    assert missing == []
    assert differing == [field for field in OTHER_KINDS if field[0] == sdk["version"]]


def test_enum_values_are_those_of_the_sdk(sdk: dict[str, Any]) -> None:
    for name, values in sdk["enums"].items():
        spelt = OTHER_SPELLINGS.get((sdk["version"], name), {})
        word = WORDS[ours(sdk, name)]
        expected = {spelt.get(value, value) for value in values}
        if sdk["version"] == "15":
            assert {w.value for w in word} == expected, name
        else:
            assert {w.value for w in word} >= expected, name


def test_tables_name_only_what_exists(sdk: dict[str, Any]) -> None:
    version = sdk["version"]
    assert set(NAMES[version]) <= {*sdk["models"], *sdk["enums"]}
    assert set(NAMES[version].values()) <= {*SHAPES, *WORDS, *PARTS}
