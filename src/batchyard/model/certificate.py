"""Certificates, which only clients up to 14.x know."""

from __future__ import annotations

from batchyard.model.common import NameValuePair, Secret, Shape, Timestamp
from batchyard.model.words import CertificateFormat, CertificateState, CertificateStoreLocation, CertificateVisibility


class CertificateReference(Shape):
    """Certificate that a pool installs on its nodes."""

    thumbprint: str
    thumbprint_algorithm: str
    store_location: CertificateStoreLocation | None = None
    store_name: str | None = None
    visibility: list[CertificateVisibility] | None = None


class CertificateCreateContent(Shape):
    """What a client sends to add a certificate."""

    thumbprint: str
    thumbprint_algorithm: str
    """Always `sha1`."""
    data: Secret
    """Base64 of the certificate with its key, or of the certificate alone."""
    certificate_format: CertificateFormat | None = None
    password: Secret | None = None


class DeleteCertificateError(Shape):
    """Why a certificate could not be deleted: who still uses it."""

    code: str | None = None
    message: str | None = None
    values: list[NameValuePair] | None = None


class Certificate(Shape):
    """A certificate as it is served."""

    thumbprint: str | None = None
    thumbprint_algorithm: str | None = None
    url: str | None = None
    state: CertificateState | None = None
    state_transition_time: Timestamp | None = None
    previous_state: CertificateState | None = None
    previous_state_transition_time: Timestamp | None = None
    public_data: str | None = None
    """Base64 of the part without the key."""
    delete_certificate_error: DeleteCertificateError | None = None
