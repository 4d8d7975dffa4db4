"""Choices that a request or an answer carries besides the states, spelt exactly as they go over the wire (contract A.8)."""

from __future__ import annotations

from batchyard.model.states import Word


class AccessScope(Word):
    """What a task's own token opens (14.x)."""

    JOB = "job"


class AutoUserScope(Word):
    """Whether tasks share an automatic user."""

    TASK = "task"
    POOL = "pool"


class CachingType(Word):
    """Host caching of a disk."""

    NONE = "none"
    READ_ONLY = "readonly"
    READ_WRITE = "readwrite"


class CertificateFormat(Word):
    """Encoding of certificate data (14.x)."""

    PFX = "pfx"
    CER = "cer"


class CertificateState(Word):
    """Life of a certificate (14.x)."""

    ACTIVE = "active"
    DELETING = "deleting"
    DELETE_FAILED = "deletefailed"


class CertificateStoreLocation(Word):
    """Windows store that a certificate goes into (14.x)."""

    CURRENT_USER = "currentuser"
    LOCAL_MACHINE = "localmachine"


class CertificateVisibility(Word):
    """Who on the node may read a certificate (14.x)."""

    START_TASK = "starttask"
    TASK = "task"
    REMOTE_USER = "remoteuser"


class ContainerHostDataPath(Word):
    """Part of the node's directory that a container may be given."""

    SHARED = "Shared"
    STARTUP = "Startup"
    VFS_MOUNTS = "VfsMounts"
    TASK = "Task"
    JOB_PREP = "JobPrep"
    APPLICATIONS = "Applications"


class ContainerType(Word):
    """Interface of the container runtime."""

    DOCKER_COMPATIBLE = "dockerCompatible"
    CRI_COMPATIBLE = "criCompatible"


class ContainerWorkingDirectory(Word):
    """Where a container's command line starts."""

    TASK_WORKING_DIRECTORY = "taskWorkingDirectory"
    CONTAINER_IMAGE_DEFAULT = "containerImageDefault"


class DependencyAction(Word):
    """What an end means for the tasks that wait for this one."""

    SATISFY = "satisfy"
    BLOCK = "block"


class DiffDiskPlacement(Word):
    """Where an ephemeral system disk lives; 14.x writes it `CacheDisk`."""

    CACHE_DISK = "cachedisk"


class DisableJobOption(Word):
    """What happens to running tasks when their job is disabled."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    WAIT = "wait"


class DiskEncryptionTarget(Word):
    """Disk that is encrypted."""

    OS_DISK = "osdisk"
    TEMPORARY_DISK = "temporarydisk"


class DynamicVNetAssignmentScope(Word):
    """Whether jobs bring their own network."""

    NONE = "none"
    JOB = "job"


class ElevationLevel(Word):
    """Rights of a task's user."""

    NON_ADMIN = "nonadmin"
    ADMIN = "admin"


class HostEndpointSettingsMode(Word):
    """Whether a breach of an endpoint rule is only noted or stopped."""

    AUDIT = "Audit"
    ENFORCE = "Enforce"


class ImageVerificationType(Word):
    """Whether an image was tried out with its node agent."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


class InboundEndpointProtocol(Word):
    """Transport of an open port."""

    TCP = "tcp"
    UDP = "udp"


class IPAddressProvisioningType(Word):
    """Who provides a pool's public addresses."""

    BATCH_MANAGED = "batchmanaged"
    USER_MANAGED = "usermanaged"
    NO_PUBLIC_IP_ADDRESSES = "nopublicipaddresses"


class IPFamily(Word):
    """Generation of an address."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class JobAction(Word):
    """What the end of a task does to its job."""

    NONE = "none"
    DISABLE = "disable"
    TERMINATE = "terminate"


class JobDefaultOrder(Word):
    """Order among jobs of equal priority."""

    NONE = "none"
    CREATION_TIME = "creationtime"


class LoginMode(Word):
    """Kind of session a Windows user gets."""

    BATCH = "batch"
    INTERACTIVE = "interactive"


class NetworkSecurityGroupRuleAccess(Word):
    """Verdict of a network rule."""

    ALLOW = "allow"
    DENY = "deny"


class NodeCommunicationMode(Word):
    """How nodes of a pool talk to the service (14.x)."""

    DEFAULT = "default"
    CLASSIC = "classic"
    SIMPLIFIED = "simplified"


class NodeDeallocationOption(Word):
    """What happens to the tasks of a node that leaves the pool."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class NodeDeallocateOption(Word):
    """What happens to the tasks of a node that is deallocated."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class NodeDisableSchedulingOption(Word):
    """What happens to the tasks of a node that shall take no more."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"


class NodeFillType(Word):
    """Whether tasks are spread over nodes or packed on few."""

    SPREAD = "spread"
    PACK = "pack"


class NodePlacementPolicyType(Word):
    """Whether nodes are spread over zones."""

    REGIONAL = "regional"
    ZONAL = "zonal"


class NodeRebootOption(Word):
    """What happens to the tasks of a node that reboots."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class NodeReimageOption(Word):
    """What happens to the tasks of a node that is set up afresh."""

    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class OnAllTasksComplete(Word):
    """What a job does once all its tasks have completed."""

    NO_ACTION = "noaction"
    TERMINATE_JOB = "terminatejob"


class OnTaskFailure(Word):
    """Whether a job heeds the job actions in its tasks' exit conditions."""

    NO_ACTION = "noaction"
    PERFORM_EXIT_OPTIONS_JOB_ACTION = "performexitoptionsjobaction"


class OSType(Word):
    """Operating system of an image."""

    LINUX = "linux"
    WINDOWS = "windows"


class OutputFileUploadCondition(Word):
    """After which ends an output file is uploaded."""

    TASK_SUCCESS = "tasksuccess"
    TASK_FAILURE = "taskfailure"
    TASK_COMPLETION = "taskcompletion"


class PoolIdentityType(Word):
    """Kind of identity that a pool has."""

    USER_ASSIGNED = "UserAssigned"
    NONE = "None"


class PoolLifetimeOption(Word):
    """Whether an auto pool lives as long as one job or as its schedule."""

    JOB_SCHEDULE = "jobschedule"
    JOB = "job"


class SecurityEncryptionType(Word):
    """What of a confidential machine is encrypted."""

    DISK_WITH_VM_GUEST_STATE = "DiskWithVMGuestState"
    NON_PERSISTED_TPM = "NonPersistedTPM"
    VM_GUEST_STATE_ONLY = "VMGuestStateOnly"


class SecurityType(Word):
    """Protected kind of machine."""

    TRUSTED_LAUNCH = "trustedLaunch"
    CONFIDENTIAL_VM = "confidentialvm"


class StatusLevel(Word):
    """Weight of a status line."""

    ERROR = "Error"
    INFO = "Info"
    WARNING = "Warning"


class StorageAccountType(Word):
    """Kind of storage behind a disk."""

    STANDARD_LRS = "standard_lrs"
    PREMIUM_LRS = "premium_lrs"
    STANDARD_SSD_LRS = "standardssd_lrs"


class SubtaskState(Word):
    """Life of a subtask of a multi-instance task."""

    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"


class TaskAddStatus(Word):
    """How the addition of one task of a collection went."""

    SUCCESS = "success"
    CLIENT_ERROR = "clienterror"
    SERVER_ERROR = "servererror"


class UpgradeMode(Word):
    """Who starts upgrades of a pool's machines."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    ROLLING = "rolling"
