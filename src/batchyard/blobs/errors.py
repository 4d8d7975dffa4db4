"""The error catalogue of the storage endpoint: codes, statuses and sentences of the Blob service.

Source: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and common-rest-api-error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class BlobError(Exception):
    """An answer, not a crash: the server turns it into the XML error body.

    `message` and `status` replace the catalogue's; `headers` are added to the answer.
    """

    def __init__(
        self, code: str, message: str | None = None, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        usual, sentence = CATALOGUE[code]
        self.status = status or usual
        self.message = message or sentence
        self.headers = dict(headers or {})


class Unavailable(Exception):
    """The catalogue cannot be read or written for now; what was to be written may be stored or not."""


class Fenced(Unavailable):
    """The other servers took this one for dead, and may have removed the files that it was about to name; nothing is stored."""


CATALOGUE: MappingProxyType[str, tuple[int, str]] = MappingProxyType(
    {
        # requests
        "ConditionNotMet": (412, "The condition specified using HTTP conditional header(s) is not met."),
        "NotModified": (304, "The condition specified using HTTP conditional header(s) is not met."),
        "MissingRequiredHeader": (400, "An HTTP header that's mandatory for this request is not specified."),
        "InvalidHeaderValue": (400, "The value for one of the HTTP headers is not in the correct format."),
        "UnsupportedHeader": (400, "One of the HTTP headers specified in the request is not supported."),
        "RequestHeadersTooLarge": (431, "The headers of the request are larger than permitted."),
        "MissingRequiredQueryParameter": (400, "A query parameter that's mandatory for this request is not specified."),
        "InvalidQueryParameterValue": (400, "Value for one of the query parameters specified in the request URI is invalid."),
        "OutOfRangeQueryParameterValue": (400, "A query parameter specified in the request URI is outside the permissible range."),
        "UnsupportedQueryParameter": (400, "One of the query parameters specified in the request URI is not supported."),
        "UnsupportedHttpVerb": (405, "The resource doesn't support the specified Http Verb."),
        "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
        "InvalidResourceName": (400, "The specified resource name contains invalid characters."),
        "OutOfRangeInput": (400, "One of the request inputs is out of range."),
        "InvalidInput": (400, "One of the request inputs is not valid."),
        "InvalidXmlDocument": (400, "XML specified is not syntactically valid."),
        "UnsupportedXmlNode": (400, "One of the XML nodes specified in the request body is not supported."),
        "InvalidXmlNodeValue": (400, "The value provided for one of the XML nodes in the request body was not in the correct format."),
        "MissingRequiredXmlNode": (400, "A required XML node was not specified in the request body."),
        "InvalidMd5": (400, "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64 encoded."),
        "Md5Mismatch": (400, "The MD5 value specified in the request did not match with the MD5 value calculated by the server."),
        "InvalidCrc64": (400, "The CRC64 value specified in the request is invalid. It must be 64 bits and base64 encoded."),
        "Crc64Mismatch": (400, "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server."),
        "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
        "InvalidMetadata": (400, "The metadata specified is invalid. It has characters that are not permitted."),
        "MetadataTooLarge": (400, "The metadata specified exceeds the maximum permissible limit (8KB)."),
        "MissingContentLengthHeader": (411, "Content-Length HTTP header was not specified."),
        "RequestBodyTooLarge": (413, "The request body is too large and exceeds the maximum permissible limit."),
        "InternalError": (500, "The server encountered an internal error. Please retry the request."),
        "ServerBusy": (503, "The server is currently unable to receive requests. Please retry your request."),
        # who may call
        "NoAuthenticationInformation": (401, "Server failed to authenticate the request. It carries no authentication information."),
        "AuthenticationFailed": (
            403,
            "Server failed to authenticate the request. "
            "Make sure the value of Authorization header is formed correctly including the signature.",
        ),
        "AuthorizationFailure": (403, "This request is not authorized to perform this operation."),
        "AuthorizationPermissionMismatch": (403, "This request is not authorized to perform this operation using this permission."),
        "AuthorizationProtocolMismatch": (403, "This request is not authorized to perform this operation using this protocol."),
        "AuthorizationResourceTypeMismatch": (403, "This request is not authorized to perform this operation using this resource type."),
        "AuthorizationServiceMismatch": (403, "This request is not authorized to perform this operation using this service."),
        "AuthorizationSourceIPMismatch": (403, "This request is not authorized to perform this operation using this source IP."),
        "UnauthorizedBlobOverwrite": (403, "This request is not authorized to perform blob overwrites."),
        "CorsPreflightFailure": (403, "CORS not enabled or no matching rule found for this request."),
        "PublicAccessNotPermitted": (409, "Public access is not permitted on this storage account."),
        # containers
        "ContainerAlreadyExists": (409, "The specified container already exists."),
        "ContainerBeingDeleted": (409, "The specified container is being deleted."),
        "ContainerNotFound": (404, "The specified container does not exist."),
        # queues
        "QueueAlreadyExists": (409, "The specified queue already exists."),
        "QueueNotFound": (404, "The specified queue does not exist."),
        "MessageNotFound": (404, "The specified message does not exist."),
        "PopReceiptMismatch": (400, "The specified pop receipt did not match the pop receipt for a dequeued message."),
        # blobs
        "BlobAlreadyExists": (409, "The specified blob already exists."),
        "BlobNotFound": (404, "The specified blob does not exist."),
        "OperationNotAllowedOnRootBlob": (403, "This operation is not allowed on the current version of a blob."),
        "BlobContentLost": (410, "The content of the blob is lost."),
        "InvalidBlobType": (409, "The blob type is invalid for this operation."),
        "InvalidBlobOrBlock": (400, "The specified blob or block content is invalid."),
        "InvalidBlockId": (400, "The specified block ID is invalid. The block ID must be Base64-encoded."),
        "InvalidBlockList": (400, "The specified block list is invalid."),
        "BlockListTooLong": (400, "The block list may not contain more than 50,000 blocks."),
        "BlockCountExceedsLimit": (409, "The committed block count cannot exceed the maximum limit of 50,000 blocks."),
        "UncommittedBlockCountExceedsLimit": (409, "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks."),
        "AppendPositionConditionNotMet": (412, "The append position condition specified was not met."),
        "MaxBlobSizeConditionNotMet": (412, "The max blob size condition specified was not met."),
        "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
        "PathNotFound": (404, "The specified path does not exist."),
        "FilesystemNotFound": (404, "The specified filesystem does not exist."),
        "PathAlreadyExists": (409, "The specified path already exists."),
        "DirectoryNotEmpty": (409, "The recursive query parameter value must be true to delete a non-empty directory."),
        "SourcePathNotFound": (404, "The source path for a rename operation does not exist."),
        "InvalidSourceOrDestination": (409, "The source or destination of a rename operation is invalid."),
        "InvalidSourceUri": (400, "The source URI is invalid."),
        "InvalidFlushPosition": (400, "The uploaded data is not contiguous or the position query parameter value is not equal to its end."),
        "HierarchicalNamespaceNotEnabled": (400, "This operation is only supported on a hierarchical namespace account."),
        "InvalidPageRange": (416, "The page range specified is invalid."),
        "SequenceNumberConditionNotMet": (412, "The sequence number condition specified was not met."),
        "PreviousSnapshotNotFound": (409, "The previous snapshot is not found."),
        "LeaseNotPresentWithBlobOperation": (412, "There is currently no lease on the blob."),
        "LeaseNotPresentWithContainerOperation": (412, "There is currently no lease on the container."),
        "LeaseNotPresentWithLeaseOperation": (409, "There is currently no lease on the resource."),
        "LeaseIdMissing": (412, "There is currently a lease on the resource and no lease ID was specified in the request."),
        "LeaseIdMismatchWithBlobOperation": (412, "The lease ID specified did not match the lease ID for the blob."),
        "LeaseIdMismatchWithContainerOperation": (412, "The lease ID specified did not match the lease ID for the container."),
        "LeaseIdMismatchWithLeaseOperation": (409, "The lease ID specified did not match the lease ID for the resource."),
        "LeaseAlreadyPresent": (409, "There is already a lease present."),
        "LeaseIsBreakingAndCannotBeAcquired": (409, "The lease is being broken and cannot be acquired until it is broken."),
        "LeaseIsBreakingAndCannotBeChanged": (409, "The lease is being broken and cannot be changed."),
        "LeaseIsBrokenAndCannotBeRenewed": (409, "The lease is broken and cannot be renewed."),
        "LeaseLost": (412, "A lease ID was specified, but the lease for the resource has expired."),
        "InvalidTag": (400, "The tag specified is invalid. It contains characters that are not permitted."),
        "TagsTooLarge": (400, "The tags specified exceed the maximum permissible limit."),
        "SnapshotsPresent": (409, "This operation is not permitted while the blob has snapshots."),
        "BlobArchived": (409, "This operation is not permitted on an archived blob."),
        "BlobIsSealed": (409, "The specified blob is sealed and its contents can't be modified unless the blob is re-created."),
        "SourceConditionNotMet": (412, "The source condition specified using HTTP conditional header(s) is not met."),
        "NoPendingCopyOperation": (409, "There is currently no pending copy operation."),
        "PendingCopyOperation": (409, "There is currently a pending copy operation."),
        "CopyIdMismatch": (409, "The specified copy ID did not match the copy ID for the pending copy operation."),
        "CannotVerifyCopySource": (404, "The copy source does not exist or may not be read."),
    }
)


def of_source(error: BlobError) -> BlobError:
    """What an error in reading the source of a copy is to the client."""
    if error.code in ("ConditionNotMet", "NotModified"):
        return BlobError("SourceConditionNotMet")
    return BlobError("CannotVerifyCopySource") if error.status == 404 else error
