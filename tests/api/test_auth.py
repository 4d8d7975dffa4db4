"""SharedKey against the vectors that real clients produced (clients.md 2.2, contract 8.3), and against what others send."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.api.wire import auth
from batchyard.api.wire.auth import Account, Signed
from batchyard.model import times
from batchyard.model.errors import BatchError

KEY = base64.b64encode(bytes(range(64))).decode()
OTHER = base64.b64encode(b"another key of the account").decode()
ACCOUNT = Account("myacct", [OTHER, KEY])
DATE = "Tue, 02 Jan 2024 03:04:05 GMT"
NOW = times.from_http_date(DATE)
JSON = "application/json; odata=minimalmetadata"
TAG = '"0x8D4BCC2E4835CD0"'

VECTORS = {
    "V1": (
        Signed("GET", "/pools", "api-version=2025-06-01&timeOut=7&maxresults=3&$filter=state%20eq%20%27active%27&$select=id,state", {}),
        "+wqtiXSXkmWJ4azX251oFIOV6unvl6OCH/j3DXDWsqs=",
    ),
    "V2": (
        Signed("POST", "/jobs", "api-version=2025-06-01", {"content-type": JSON, "content-length": "45"}),
        "5fznhG9/iE9frOuUDAlXfWCZf6l8wDk7S+zbRZpu7dQ=",
    ),
    "V3": (
        Signed("POST", "/pools/any/stopresize", "api-version=2025-06-01", {"content-length": "0"}),
        "tKRmhJe0tpVGrcLogzMHGajvlYvBluJEeUnn0/TxcSY=",
    ),
    "V4": (
        Signed("GET", "/jobs/job-1/tasks/t1/files/wd%2Fout%20put.txt", "api-version=2025-06-01", {"ocp-range": "bytes=0-1023"}),
        "62aKvCZ74jiBqYeSgxQMjzw8osHIabahkiGhx5JmMsk=",
    ),
    "V5": (
        Signed(
            "PUT",
            "/jobs/any",
            "api-version=2025-06-01",
            {"content-type": JSON, "content-length": "45", "if-match": TAG, "if-unmodified-since": DATE},
        ),
        "G3fcjAj0mD7F9dC+Rd/OCQa3HPXNODadFEzzVlNJms0=",
    ),
    "V6": (
        Signed(
            "POST",
            "/jobs/any/terminate",
            "api-version=2024-02-01.19.0&timeout=30",
            {"content-type": JSON + "; charset=utf-8", "content-length": "0"},
        ),
        "JX7W0tMGxuh4bqM55T4eJ3EqSXxYtpkPVmD2vZv66mw=",
    ),
    "V7": (
        Signed("DELETE", "/jobs/job-1/tasks/t1", "api-version=2022-10-01.16.0", {"content-type": "application/json; charset=utf-8"}),
        "9+98+PunFDEbk7DswYDrGO4rivdlidz6DKF+uhasAVc=",
    ),
}


def shown(request: Signed, signature: str, *, account: str = "myacct", date: str | None = DATE) -> Signed:
    """The request as it arrives: dated and with its Authorization header."""
    dated = {} if date is None else {"ocp-date": date}
    return changed(request, headers={**dated, **request.headers, "authorization": f"SharedKey {account}:{signature}"})


def changed(
    request: Signed, method: str | None = None, path: str | None = None, query: str | None = None, headers: Mapping[str, str] | None = None
) -> Signed:
    """The same request but for what is named."""
    return Signed(
        method or request.method,
        path or request.raw_path,
        request.raw_query if query is None else query,
        request.headers if headers is None else headers,
    )


def refusal(request: Signed, *, now: int = NOW, account: Account = ACCOUNT) -> BatchError:
    """The error that the request is answered with."""
    with pytest.raises(BatchError) as refused:
        auth.verify(account, request, now)
    return refused.value


def signature(text: str) -> str:
    """What a client computes over a string."""
    return base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_real_clients(name: str) -> None:
    request, value = VECTORS[name]
    arrived = shown(request, value)
    auth.verify(ACCOUNT, arrived, NOW)

    assert refusal(arrived, account=Account("myacct", [OTHER])).code == "AuthenticationFailed"
    assert refusal(changed(arrived, query=request.raw_query + "&recursive=true")).code == "AuthenticationFailed"
    assert refusal(changed(arrived, path=request.raw_path + "x")).code == "AuthenticationFailed"
    assert refusal(changed(arrived, method="HEAD")).code == "AuthenticationFailed"
    for header, new in {
        "ocp-date": "Tue, 02 Jan 2024 03:04:06 GMT",
        "content-type": "text/plain",
        "if-match": "*",
        "range": "bytes=0-1",
    }.items():
        assert refusal(changed(arrived, headers={**arrived.headers, header: new})).code == "AuthenticationFailed", header


def test_vector_of_the_contract() -> None:
    account = Account("acct", [base64.b64encode(b"k" * 32).decode()])
    date = "Sat, 21 Nov 2026 01:50:07 GMT"
    request = shown(
        Signed("GET", "/jobs/j1", "api-version=2025-06-01", {}), "TWvfK8TJ75Lfm8SjIR09aSHneJWYlfYKyLFMG9XOJb8=", account="acct", date=date
    )
    auth.verify(account, request, times.from_http_date(date))
    assert auth.sign("acct", account.keys[0], request) == request.headers["authorization"]


def lines(verb: str, resource: str, *, length: str = "", content_type: str = "", date: str = "", ocp_date: str | None = DATE) -> str:
    """The string to sign of clients.md 2.1."""
    dated = "" if ocp_date is None else f"ocp-date:{ocp_date}\n"
    return f"{verb}\n\n\n{length}\n\n{content_type}\n{date}\n\n\n\n\n\n{dated}{resource}"


def test_npm_signs_an_empty_length_for_a_body_that_is_empty() -> None:
    for wire in ({}, {"content-length": "0"}):
        request = Signed("POST", "/jobs/j/terminate", "api-version=1", wire)
        auth.verify(ACCOUNT, shown(request, signature(lines("POST", "/myacct/jobs/j/terminate\napi-version:1"))), NOW)


def test_java_and_net_sign_lower_case_query_names() -> None:
    request = Signed("GET", "/pools", "timeOut=7&api-version=1&maxResults=2", {})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools\napi-version:1\nmaxresults:2\ntimeout:7"))), NOW)


def test_java_signs_the_date_header_and_a_lower_case_account() -> None:
    request = Signed("GET", "/pools", "api-version=1", {"date": DATE})
    value = signature(lines("GET", "/myacct/pools\napi-version:1", date=DATE, ocp_date=None))
    auth.verify(ACCOUNT, shown(request, value, account="MyAcct", date=None), NOW)


def test_java_collapses_leading_slashes() -> None:
    request = Signed("GET", "//pools", "api-version=1", {})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools\napi-version:1"))), NOW)


def test_the_date_line_is_empty_beside_ocp_date() -> None:
    request = Signed("GET", "/pools", "api-version=1", {"date": "Mon, 01 Jan 2024 00:00:00 GMT"})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools\napi-version:1"))), NOW)


@pytest.mark.parametrize("signed", ["\napi-version:1", "\n$filter:\napi-version:1"], ids=["dropped", "kept"])
def test_a_blank_value_may_be_signed_or_not(signed: str) -> None:
    request = Signed("GET", "/pools", "$filter=&api-version=1", {})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools" + signed))), NOW)


def test_the_first_of_repeated_names_counts() -> None:
    request = Signed("GET", "/pools", "a=1&a=2&api-version=1", {})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools\na:1\napi-version:1"))), NOW)


def test_a_plus_in_the_query_is_a_plus() -> None:
    request = Signed("GET", "/pools", "a=1+2%2B3&api-version=1", {})
    auth.verify(ACCOUNT, shown(request, signature(lines("GET", "/myacct/pools\na:1+2+3\napi-version:1"))), NOW)


@pytest.mark.parametrize("name", ["a&b", "a=b", "a+b", "a~b", "wd/a&b=c d+é", "100%", "ü"])
def test_aiohttp_decodes_parts_of_the_path_behind_the_signature(name: str) -> None:
    signed, wire = quote(name, safe=""), quote(name, safe="&=+~")
    request = Signed("GET", f"/jobs/j/tasks/t/files/{wire.replace('/', '%2F')}", "api-version=1", {})
    value = signature(lines("GET", f"/myacct/jobs/j/tasks/t/files/{signed}\napi-version:1"))
    auth.verify(ACCOUNT, shown(request, value), NOW)


def test_any_key_of_the_account_opens() -> None:
    request, value = VECTORS["V1"]
    auth.verify(Account("MYACCT", [KEY]), shown(request, value), NOW)
    auth.verify(Account("myacct", [KEY, OTHER]), shown(request, value), NOW)


@pytest.mark.parametrize("minutes", [-15, 0, 15])
def test_fifteen_minutes_of_skew_are_allowed(minutes: int) -> None:
    request, value = VECTORS["V1"]
    auth.verify(ACCOUNT, shown(request, value), NOW + minutes * 60_000_000)


@pytest.mark.parametrize("skew_us", [15 * 60_000_000 + 1, -15 * 60_000_000 - 1, 10**15])
def test_stale_and_future_dates(skew_us: int) -> None:
    request, value = VECTORS["V1"]
    error = refusal(shown(request, value), now=NOW + skew_us)
    assert (error.code, error.status) == ("AuthenticationFailed", 403)
    assert DATE in error.values["AuthenticationErrorDetail"]


@pytest.mark.parametrize(
    "date",
    [None, "", "yesterday", "2024-01-02T03:04:05Z", "Tue, 99 Jan 2024 03:04:05 GMT", "Tue, 02 Jan 99999 03:04:05 GMT", "²", "\xff" * 5000],
)
def test_missing_and_malformed_dates(date: str | None) -> None:
    request, value = VECTORS["V1"]
    error = refusal(shown(request, value, date=date))
    assert (error.code, error.status) == ("AuthenticationFailed", 403)
    assert "ate header" in error.values["AuthenticationErrorDetail"]
    assert len(error.values["AuthenticationErrorDetail"]) < 300


@pytest.mark.parametrize(
    "header",
    [
        "",
        "SharedKey",
        "SharedKey ",
        "SharedKey myacct",
        "Bearer abc",
        "Bearer a:b",
        "sharedkeylite myacct:x",
        "Basic bXlhY2N0Ong=",
        "\xff\xfe",
        "x" * 10**6,
    ],
)
def test_headers_that_cannot_be_read(header: str) -> None:
    error = refusal(changed(VECTORS["V1"][0], headers={"ocp-date": DATE, "authorization": header}))
    assert (error.code, error.status) == ("InvalidAuthenticationInfo", 401)


@pytest.mark.parametrize(
    "value", ["", "x", "not base64!", "AAAA", "é", "\xff" * 44, "=" * 44, "A" * 10**6, "+wqtiXSXkmWJ4azX251oFIOV6unvl6OCH/j3DXDWsqs"]
)
def test_garbage_for_a_signature(value: str) -> None:
    error = refusal(shown(VECTORS["V1"][0], value))
    assert (error.code, error.status) == ("AuthenticationFailed", 403)
    assert set(error.values) == {"AuthenticationErrorDetail"}


def test_an_unknown_account() -> None:
    request, value = VECTORS["V1"]
    assert refusal(shown(request, value, account="other")).code == "AuthenticationFailed"
    assert refusal(shown(request, value, account="myacct:x")).code == "AuthenticationFailed"


def test_the_refusal_says_what_was_signed_but_no_key() -> None:
    detail = refusal(shown(VECTORS["V1"][0], signature("x"))).values["AuthenticationErrorDetail"]
    assert "/myacct/pools\n$filter:state eq 'active'\n$select:id,state\napi-version:2025-06-01" in detail
    assert KEY not in detail
    assert OTHER not in detail


_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
_segment = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10).map(lambda text: quote(text, safe=""))
_pairs = st.lists(st.tuples(_segment, _segment | st.just("")), max_size=5)
_header_names = st.sampled_from(
    [
        "content-encoding",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "range",
        "ocp-range",
        "ocp-anything",
    ]
)


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    path=st.lists(_segment, max_size=5).map(lambda parts: "/" + "/".join(parts)),
    pairs=_pairs,
    headers=st.dictionaries(_header_names, _text),
)
def test_what_sign_signs_verify_accepts(method: str, path: str, pairs: list[tuple[str, str]], headers: dict[str, str]) -> None:
    request = Signed(method, path, "&".join(f"{name}={value}" for name, value in pairs), {**headers, "ocp-date": DATE})
    header = auth.sign("myacct", KEY, request)
    arrived = changed(request, headers={**request.headers, "authorization": header})
    auth.verify(ACCOUNT, arrived, NOW)
    assert refusal(arrived, account=Account("myacct", [OTHER])).code == "AuthenticationFailed"
