"""Service properties and CORS through the unmodified SDK and as a browser asks; which versions of the service are answered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    BlobAnalyticsLogging,
    BlobServiceClient,
    ContainerClient,
    CorsRule,
    Metrics,
    RetentionPolicy,
)

from batchyard.blobs import services
from batchyard.blobs.edge import sas
from batchyard.blobs.edge.request import NEWEST_VERSION, OLDEST_VERSION
from batchyard.blobs.services import Properties

PAGE = "https://page.example"


@pytest.fixture(autouse=True)
def _nothing_set(endpoint: Any) -> Iterator[None]:
    yield
    endpoint.store.set_properties(endpoint.account, lambda before: Properties())


def allow(service: BlobServiceClient, **more: Any) -> None:
    given: dict[str, Any] = {"allowed_headers": ["x-ms-*", "Content-Type"], "exposed_headers": ["x-ms-meta-*"], "max_age_in_seconds": 60}
    service.set_service_properties(cors=[CorsRule([PAGE], ["GET", "PUT"], **{**given, **more})])


def asking(method: str, headers: str = "", origin: str = PAGE) -> dict[str, str]:
    said = {"origin": origin, "access-control-request-method": method}
    return said | ({"access-control-request-headers": headers} if headers else {})


def test_what_is_set_comes_back_and_what_is_not_named_stays(service: BlobServiceClient) -> None:
    fresh = service.get_service_properties()
    assert (fresh["cors"], fresh["delete_retention_policy"].enabled, fresh["static_website"].enabled) == ([], False, False)
    service.set_service_properties(
        analytics_logging=BlobAnalyticsLogging(write=True, retention_policy=RetentionPolicy(enabled=True, days=3)),
        hour_metrics=Metrics(enabled=True, include_apis=True, retention_policy=RetentionPolicy(enabled=True, days=5)),
        cors=[
            CorsRule(["*"], ["GET"]),
            CorsRule([PAGE, "http://other"], ["PUT", "DELETE"], allowed_headers=["a", "b*"], max_age_in_seconds=7),
        ],
        target_version="2019-12-12",
    )
    service.set_service_properties(delete_retention_policy=RetentionPolicy(enabled=True, days=9))
    found = service.get_service_properties()
    assert (found["analytics_logging"].write, found["analytics_logging"].retention_policy.days) == (True, 3)
    assert (found["hour_metrics"].include_apis, found["minute_metrics"].enabled) == (True, False)
    assert [(rule.allowed_origins, rule.allowed_methods, rule.max_age_in_seconds) for rule in found["cors"]] == [
        ("*", "GET", 0),
        (f"{PAGE},http://other", "PUT,DELETE", 7),
    ]
    assert (found["delete_retention_policy"].days, found["target_version"]) == (9, "2019-12-12")
    service.set_service_properties(cors=[])
    assert service.get_service_properties()["cors"] == []


WRONG = {
    "<StorageServiceProperties><Nonsense/></StorageServiceProperties>": "UnsupportedXmlNode",
    "<Other/>": "InvalidXmlDocument",
    "<StorageServiceProperties>": "InvalidXmlDocument",
    "<StorageServiceProperties><DeleteRetentionPolicy><Enabled>true</Enabled></DeleteRetentionPolicy></StorageServiceProperties>": (
        "InvalidXmlNodeValue"
    ),
    "<StorageServiceProperties><DeleteRetentionPolicy><Enabled>true</Enabled><Days>366</Days></DeleteRetentionPolicy>"
    "</StorageServiceProperties>": "InvalidXmlNodeValue",
    "<StorageServiceProperties><Cors><CorsRule><AllowedOrigins>*</AllowedOrigins></CorsRule></Cors></StorageServiceProperties>": (
        "MissingRequiredXmlNode"
    ),
    "<StorageServiceProperties><DefaultServiceVersion>new</DefaultServiceVersion></StorageServiceProperties>": "InvalidXmlNodeValue",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_cannot_be_set_is_refused_and_changes_nothing(endpoint: Any, body: str) -> None:
    before = endpoint.store.properties(endpoint.account)
    answer = endpoint.send("PUT", "/?restype=service&comp=properties", body.encode())
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, WRONG[body])
    assert endpoint.store.properties(endpoint.account) == before


def test_no_more_than_five_rules(service: BlobServiceClient) -> None:
    with pytest.raises(HttpResponseError):
        service.set_service_properties(cors=[CorsRule(["*"], ["GET"])] * 6)
    service.set_service_properties(cors=[CorsRule(["*"], ["GET"])] * 5)


def test_a_browser_asks_first(endpoint: Any, http: httpx.Client, service: BlobServiceClient, container: ContainerClient) -> None:
    target = f"{endpoint.url}/{container.container_name}/x?comp=block"
    assert refused(http.options(target, headers=asking("GET"))) == (403, "CorsPreflightFailure")
    allow(service)
    answer = http.options(target, headers=asking("PUT", "x-ms-blob-type,content-type"))
    assert answer.status_code == 200
    assert {name: value for name, value in answer.headers.items() if name.startswith("access-control")} == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "PUT",
        "access-control-allow-headers": "x-ms-blob-type,content-type",
        "access-control-allow-credentials": "true",
        "access-control-max-age": "60",
    }
    for wrong in (
        asking("DELETE"),
        asking("PUT", "x-other"),
        asking("GET", origin="https://page.example.evil"),
        asking("GET", origin="null"),
    ):
        assert refused(http.options(target, headers=wrong)) == (403, "CorsPreflightFailure")
    assert refused(http.options(target)) == (400, "InvalidHeaderValue")
    assert refused(http.options(target.replace(endpoint.account, "stranger"), headers=asking("GET"))) == (403, "CorsPreflightFailure")


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.headers["x-ms-error-code"]


def test_answers_to_a_page(endpoint: Any, http: httpx.Client, service: BlobServiceClient, container: ContainerClient) -> None:
    container.upload_blob("x", b"content", metadata={"k": "v"})
    allow(service)
    token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "r", datetime.now(UTC) + timedelta(hours=1))
    target = f"{endpoint.url}/{container.container_name}/x?{token}"
    answer = http.get(target, headers={"origin": PAGE})
    assert (answer.content, answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (b"content", PAGE, "Origin")
    assert answer.headers["access-control-expose-headers"] == "x-ms-meta-k"
    failed = http.get(f"{endpoint.url}/{container.container_name}/x", headers={"origin": PAGE})
    assert (failed.status_code, failed.headers["access-control-allow-origin"]) == (401, PAGE)
    assert "access-control-allow-origin" not in http.get(target).headers
    assert "access-control-allow-origin" not in http.get(target, headers={"origin": "https://other"}).headers
    allow(service)
    service.set_service_properties(cors=[CorsRule(["*"], ["GET"])])
    any_page = http.get(target, headers={"origin": "https://other"}).headers
    assert any_page["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in any_page


def test_rules_are_looked_at_in_their_order() -> None:
    first = services.CorsRule([PAGE], ["GET"], 1, (), ["x-ms-meta-a*"])
    second = services.CorsRule(["*"], ["GET"], 2, (), ["*"])
    assert services.rule_for([first, second], PAGE, "GET") is first
    assert services.rule_for([first, second], PAGE, "GET", ["X-MS-Meta-AB"]) is first
    assert services.rule_for([first, second], PAGE, "GET", ["x-ms-meta-b"]) is second
    assert services.rule_for([first], PAGE, "GET", ["x-ms-meta-b"]) is None


@pytest.mark.parametrize(
    ("asked", "answered"),
    [(OLDEST_VERSION, OLDEST_VERSION), ("2019-02-02", "2019-02-02"), (NEWEST_VERSION, NEWEST_VERSION), ("2031-01-01", NEWEST_VERSION)],
)
def test_versions(endpoint: Any, http: httpx.Client, asked: str, answered: str) -> None:
    answer = http.get(f"{endpoint.url}/?comp=list", headers={"x-ms-version": asked})
    assert (answer.status_code, answer.headers["x-ms-version"]) == (401, answered)


def test_versions_that_are_too_old_or_none(endpoint: Any, http: httpx.Client) -> None:
    for version in ("2014-02-14", "2009-09-19", "latest"):
        assert refused(http.get(f"{endpoint.url}/?comp=list", headers={"x-ms-version": version})) == (400, "InvalidHeaderValue")


def test_the_newest_version_is_the_newest_that_the_sdk_sends() -> None:
    from azure.storage.blob._serialize import _SUPPORTED_API_VERSIONS  # type: ignore[import-untyped, unused-ignore]

    assert max(_SUPPORTED_API_VERSIONS) <= NEWEST_VERSION
