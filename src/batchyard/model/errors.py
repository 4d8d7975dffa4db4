"""The error catalogue: every code that a client may see, its status and its sentence (contract 8.5, 8.5b; clients 4.4).

Clients match on the code, some on the sentence, so both are fixed here and nowhere else.
"""

from __future__ import annotations

from types import MappingProxyType


class BatchError(Exception):
    """An answer, not a crash: api/wire/wire.py turns it into the error body.

    `values` become the `values` of the body; `message` replaces the catalogue's sentence.
    """

    def __init__(self, code: str, *, message: str | None = None, **values: object) -> None:
        super().__init__(code)
        self.code = code
        self.status, sentence = CATALOGUE[code]
        self.message = message or sentence
        self.values = {name: str(value) for name, value in values.items()}


def invalid_property(name: str, value: object, reason: str) -> BatchError:
    """400 InvalidPropertyValue with the three values that the service gives."""
    return BatchError("InvalidPropertyValue", PropertyName=name, PropertyValue=value, Reason=reason)


def invalid_query(name: str, value: object, reason: str) -> BatchError:
    """400 InvalidQueryParameterValue with the three values that the service gives."""
    return BatchError("InvalidQueryParameterValue", QueryParameterName=name, QueryParameterValue=value, Reason=reason)


CATALOGUE: MappingProxyType[str, tuple[int, str]] = MappingProxyType(
    {
        # requests
        "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not met."),
        "NotModified": (304, ""),
        "MissingRequiredHeader": (400, "A required HTTP header was not specified."),
        "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
        "MissingRequiredProperty": (400, "A required property was not specified in the request body."),
        "UnsupportedProperty": (400, "A property in the request body is not supported."),
        "InvalidPropertyValue": (400, "The value provided for one of the properties in the request body is invalid."),
        "MissingRequiredQueryParameter": (400, "A required query parameter was not specified for this request."),
        "UnsupportedQueryParameter": (400, "One of the query parameters specified in the request URI is not supported."),
        "InvalidQueryParameterValue": (400, "The value for one of the query parameters specified in the request URI is invalid."),
        "OutOfRangeQueryParameterValue": (400, "A query parameter specified in the request URI is outside the permissible range."),
        "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
        "InvalidHttpVerb": (400, "The HTTP verb specified was not recognized by the server."),
        "UnsupportedHttpVerb": (405, "The resource doesn't support the specified HTTP verb."),
        "InvalidRequestBody": (400, "The specified request body is not syntactically valid."),
        "OutOfRangeInput": (400, "One of the request inputs is out of range."),
        "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
        "MetadataTooLarge": (400, "The size of the specified metadata exceeds the maximum size permitted."),
        "MultipleConditionHeadersNotSupported": (400, "Multiple condition headers are not supported."),
        "InvalidAuthenticationInfo": (
            401,
            "The authentication information is not in the correct format. Verify the value of Authorization header.",
        ),
        "AuthenticationFailed": (
            403,
            "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly"
            " including the signature.",
        ),
        "InsufficientAccountPermissions": (
            403,
            "The account being accessed does not have sufficient permissions to execute this operation.",
        ),
        "Forbidden": (403, "The requested operation is not allowed."),
        "ResourceNotFound": (404, "The specified resource does not exist."),
        "MissingContentLengthHeader": (411, "Content-Length header was not specified."),
        "RequestBodyTooLarge": (413, "The size of the request body exceeds the maximum size permitted."),
        "RequestEntityTooLarge": (413, "The size of one of the request's entities exceeds the maximum size permitted."),
        "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
        "InternalError": (500, "Server encountered an internal error. Please try again after some time."),
        "OperationTimedOut": (500, "Operation could not be completed within the permitted time."),
        "ServerBusy": (503, "Server is busy. Please try again after some time."),
        "UnsupportedRequestVersion": (400, "The specified api version is not supported."),
        "OperationInvalidForCurrentState": (409, "The specified operation is not valid for the current state of the resource."),
        # accounts
        "AccountExists": (409, "The specified account already exists."),
        "AccountNotFound": (404, "The specified account does not exist."),
        "StorageAccountExists": (409, "The specified storage account already exists."),
        "StorageAccountNotFound": (404, "The specified storage account does not exist."),
        "AccountBeingDeleted": (409, "The specified account has been marked for deletion and is being reclaimed."),
        # applications
        "ApplicationNotFound": (404, "The specified application does not exist."),
        # pools
        "PoolExists": (409, "The specified pool already exists."),
        "PoolNotFound": (404, "The specified pool does not exist."),
        "PoolBeingDeleted": (409, "The specified pool has been marked for deletion and is being reclaimed."),
        "PoolBeingResized": (409, "The specified pool is being resized."),
        "PoolQuotaReached": (409, "The pool quota for the account has been reached."),
        "InvalidApplicationPackageReferences": (409, "One or more application package references could not be satisfied."),
        "InvalidAutoScalingSettings": (400, "The specified auto-scaling settings are invalid."),
        "AutoScalingFormulaSyntaxError": (400, "The specified auto-scaling formula has a syntax error."),
        "AutoScalingFormulaTooLong": (400, "The specified auto-scaling formula is longer than permitted."),
        "TooManyEnableAutoScaleRequests": (503, "There were too many requests to enable auto-scaling on the pool. Please try again later."),
        "OperationNotValidOnPool": (409, "The specified operation is not valid on the pool."),
        # nodes
        "OperationNotValidOnNode": (409, "The specified operation is not valid on the node."),
        "NodeNotFound": (404, "The specified node does not exist."),
        "NodeBeingCreated": (409, "The specified node is being created."),
        "NodeBeingStarted": (409, "The specified node is being started."),
        "NodeBeingRebooted": (409, "The specified node is being rebooted."),
        "NodeBeingReimaged": (409, "The specified node is being reimaged."),
        "NodeUserExists": (409, "The specified node user already exists."),
        "NodeUserNotFound": (404, "The specified node user does not exist."),
        "NodeStateUnusable": (409, "The specified node is unusable."),
        "NodeAlreadyInTargetSchedulingState": (409, "The specified node is already in the target scheduling state."),
        # files
        "FileNotFound": (404, "The specified file does not exist."),
        "TaskFilesUnavailable": (
            409,
            "The task files are unavailable: its node cannot be reached or it has not run yet.",
        ),
        "TaskFilesCleanedup": (409, "The task files are cleaned up."),
        "IOError": (403, "The node could not perform the file operation."),
        # jobs
        "JobExists": (409, "The specified job already exists."),
        "JobNotFound": (404, "The specified job does not exist."),
        "JobBeingTerminated": (409, "The specified job is being terminated."),
        "JobBeingDeleted": (409, "The specified job has been marked for deletion and is being garbage collected."),
        "JobCompleted": (409, "The specified job is already in a completed state."),
        "JobDisabled": (409, "The specified job is disabled."),
        "JobNotActive": (409, "The specified job is not active."),
        "ActiveJobAndScheduleQuotaReached": (409, "The active jobs and job schedules quota for the account has been reached."),
        "JobPreparationTaskOrReleaseTaskNotSpecified": (409, "The job has neither a job preparation nor a job release task."),
        "JobScheduleWithSameIdExists": (409, "A job schedule with the specified id already exists."),
        # job schedules
        "JobScheduleExists": (409, "The specified job schedule already exists."),
        "JobWithSameIdExists": (409, "A job with the specified id already exists."),
        "JobScheduleNotFound": (404, "The specified job schedule does not exist."),
        "JobScheduleDisabled": (409, "The specified job schedule is disabled."),
        "JobScheduleCompleted": (409, "The specified job schedule is already in a completed state."),
        "JobScheduleBeingTerminated": (409, "The specified job schedule is being terminated."),
        "JobScheduleBeingDeleted": (409, "The specified job schedule has been marked for deletion and is being garbage collected."),
        # tasks
        "TaskExists": (409, "The specified task already exists."),
        "TaskNotFound": (404, "The specified task does not exist."),
        "TaskCompleted": (409, "The specified task is already in completed state."),
        "TaskNotCompleted": (409, "The specified task is not in a completed state."),
        "TaskSucceeded": (409, "The specified task has succeeded."),
        "TaskIdSameAsJobPreparationTask": (409, "The specified task id is the same as that of the job preparation task."),
        "TaskIdSameAsJobReleaseTask": (409, "The specified task id is the same as that of the job release task."),
        "TaskDependencyListTooLong": (400, "The ids that the task depends on have more characters in all than permitted."),
        "TaskDependencyRangesTooLong": (400, "The task depends on more id ranges than permitted."),
    }
)


def let_go(error: BaseException) -> None:
    """Drop the traces of an answered error and of those that led to it.

    Their frames hold the request, and mostly a future that holds the error: such a cycle would wait for a collection, a megabyte each.
    """
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None:
            todo += each.__cause__, each.__context__
            each.__cause__ = each.__context__ = each.__traceback__ = None
