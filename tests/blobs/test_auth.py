"""Who calls and what he may do, without a server: what is signed, in the documentation's words, and what each grant opens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from batchyard.blobs.base import AccessPolicy, BlobError, ContainerRef
from batchyard.blobs.edge import sas
from batchyard.blobs.edge.auth import authenticate, shared_key_text
from batchyard.blobs.edge.grants import Grant, Level, Need, Scope
from batchyard.blobs.edge.request import Request
from batchyard.model.times import http_date, micros

KEY, OLD_KEY = "Zmlyc3Q=", "c2Vjb25k"
ACCOUNTS = {"mine": (KEY, OLD_KEY)}
NOW = micros(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
LATER, EARLIER = "2026-01-02T03:04:06Z", "2026-01-02T03:04:05Z"


def request(
    *,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    blob: str | None = "x",
    container: str | None = "box",
    account: str = "mine",
    scheme: str = "https",
    peer: str | None = "10.0.0.7",
) -> Request:
    async def receive() -> Any:
        raise AssertionError("nobody reads the body of a caller who is not known")

    path = "".join(f"/{part}" for part in (account, container, blob) if part is not None)
    return Request(
        method="PUT",
        scheme=scheme,
        peer=peer,
        raw_path=path,
        account=account,
        container=container,
        blob=blob,
        query=query or {},
        headers=headers or {},
        metadata_names={},
        accounts=ACCOUNTS,
        receive=receive,
        now_us=NOW,
    )


def policies(ref: ContainerRef) -> Mapping[str, AccessPolicy]:
    if ref != ContainerRef("mine", "box"):
        raise BlobError("ContainerNotFound")
    return {
        "full": AccessPolicy(EARLIER, LATER, "rw"),
        "letters": AccessPolicy(permissions="r"),
        "my policy": AccessPolicy(permissions="r"),
        "empty": AccessPolicy(),
    }


def answer(asked: Request) -> Grant | str:
    """The grant, or the code of the refusal."""
    try:
        return authenticate(asked, ACCOUNTS, policies)
    except BlobError as error:
        return error.code


# Shared key

STANDARD = {
    "range": "bytes=0-1",
    "if-unmodified-since": "unmodified",
    "if-none-match": "none",
    "if-match": "match",
    "if-modified-since": "modified",
    "date": "a date",
    "content-type": "text/plain",
    "content-md5": "md5",
    "content-length": "3",
    "content-language": "de",
    "content-encoding": "gzip",
}
IN_ORDER = "gzip\nde\n3\nmd5\ntext/plain\na date\nmodified\nmatch\nnone\nunmodified\nbytes=0-1"


def key_text(**headers: str) -> str:
    """The text to sign of a request with these headers more, their names with underscores."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = request(query={"restype": "container", "comp": "list"}, headers={**STANDARD, **more, "user-agent": "any", "x-other": "1"})
    return shared_key_text(asked, ignore_hyphens=False)


def test_the_text_that_a_shared_key_signs() -> None:
    end = "/mine/mine/box/x\ncomp:list\nrestype:container"
    assert key_text() == f"PUT\n{IN_ORDER}\n{end}"
    assert key_text(content_length="0") == f"PUT\n{IN_ORDER}\n{end}".replace("\n3\n", "\n\n"), "no length for no body"
    ours = key_text(x_ms_version="2021-12-02", x_ms_date="now", x_ms_meta_b="2", x_ms_meta_a="1")
    without_date = IN_ORDER.replace("a date", "")
    assert ours == f"PUT\n{without_date}\nx-ms-date:now\nx-ms-meta-a:1\nx-ms-meta-b:2\nx-ms-version:2021-12-02\n{end}"
    assert shared_key_text(request(), ignore_hyphens=False) == "PUT\n" + "\n" * 11 + "/mine/mine/box/x"


# As their characters stand, and as the culture's rules have them (hyphens count last, the underscore comes before digits and letters).
BY_CODE = ["x-ms-a", "x-ms-a-b", "x-ms-a1", "x-ms-a_b", "x-ms-aa", "x-ms-ab"]
BY_CULTURE = ["x-ms-a", "x-ms-a_b", "x-ms-a1", "x-ms-aa", "x-ms-ab", "x-ms-a-b"]


@pytest.mark.parametrize("key", [KEY, OLD_KEY])
@pytest.mark.parametrize("order", [BY_CODE, BY_CULTURE, BY_CODE[::-1]], ids=["code", "culture", "neither"])
def test_header_names_may_be_sorted_by_either_rule(order: list[str], key: str) -> None:
    values = {name: f"value of {name}" for name in order}
    date = http_date(NOW)
    lines = "\n".join(f"{name}:{values[name]}" for name in order)
    text = f"PUT\n\n\n\n\n\n{date}\n\n\n\n\n\n{lines}\n/mine/mine/box/x"
    headers = {**dict(sorted(values.items(), reverse=True)), "date": date, "authorization": f"SharedKey mine:{sas.signature(key, text)}"}
    assert answer(request(headers=headers)) == (Grant(Scope.KEY) if order != BY_CODE[::-1] else "AuthenticationFailed")


def test_a_signature_is_of_a_key_of_its_account() -> None:
    headers = {"date": http_date(NOW)}
    text = shared_key_text(request(headers=headers), ignore_hyphens=False)
    for key, expected in ((KEY, Grant(Scope.KEY)), ("dGhpcmQ=", "AuthenticationFailed")):
        assert answer(request(headers={**headers, "authorization": f"SharedKey mine:{sas.signature(key, text)}"})) == expected
    other = request(headers=headers, account="other")
    signed = sas.signature(KEY, shared_key_text(other, ignore_hyphens=False))
    assert answer(request(headers={**headers, "authorization": f"SharedKey other:{signed}"}, account="other")) == "AuthenticationFailed"
    assert answer(request()) == "NoAuthenticationInformation"


MINUTE_US = 60_000_000
SKEWED, UNKNOWN = "Request date header too old or in the future.", "The Date header in the request is missing or incorrect."
DATES: dict[str, tuple[dict[str, str], str]] = {
    "now": ({"date": http_date(NOW)}, ""),
    "old": ({"date": http_date(NOW - 15 * MINUTE_US)}, ""),
    "too old": ({"date": http_date(NOW - 15 * MINUTE_US - 1_000_000)}, SKEWED),
    "ahead": ({"date": http_date(NOW + 15 * MINUTE_US)}, ""),
    "too far ahead": ({"date": http_date(NOW + 15 * MINUTE_US + 1_000_000)}, SKEWED),
    "its own header": ({"x-ms-date": http_date(NOW)}, ""),
    "its own goes before": ({"x-ms-date": http_date(NOW), "date": http_date(0)}, ""),
    "its own alone counts": ({"x-ms-date": http_date(0), "date": http_date(NOW)}, SKEWED),
    "none": ({}, UNKNOWN),
    "no date": ({"date": "yesterday"}, UNKNOWN),
}


@pytest.mark.parametrize("case", DATES)
def test_a_signed_request_is_good_for_a_quarter_of_an_hour_around_its_date(case: str) -> None:
    headers, message = DATES[case]
    text = shared_key_text(request(headers=headers), ignore_hyphens=False)
    asked = request(headers={**headers, "authorization": f"SharedKey mine:{sas.signature(KEY, text)}"})
    if message:
        with pytest.raises(BlobError) as refused:
            authenticate(asked, ACCOUNTS, policies)
        assert (refused.value.code, refused.value.message) == ("AuthenticationFailed", message)
    else:
        assert authenticate(asked, ACCOUNTS, policies) == Grant(Scope.KEY)


def test_a_signature_counts_for_the_scheme_it_names() -> None:
    headers = {"date": http_date(NOW)}
    signed = sas.signature(KEY, shared_key_text(request(headers=headers), ignore_hyphens=False))
    for said in ("SharedKeyLite mine:", "sharedkey mine:", "SharedKey other:", "SharedKey :", "mine:"):
        assert answer(request(headers={**headers, "authorization": said + signed})) == "AuthenticationFailed"
    with pytest.raises(BlobError) as unsaid:
        authenticate(request(headers=headers), ACCOUNTS, policies)
    assert unsaid.value.headers == {"www-authenticate": "SharedKey"}


# Shared access signatures


def form(names: str, **values: str) -> str:
    """Fields one to a line, those without a value empty."""
    return "\n".join(values.get(name, "") if name != "-" else "" for name in names.split())


SERVICE = {
    "2015-04-05": "sp st se resource si sip spr sv rscc rscd rsce rscl rsct",
    "2018-11-08": "sp st se resource si sip spr sv rscc rscd rsce rscl rsct",
    "2018-11-09": "sp st se resource si sip spr sv sr snapshot rscc rscd rsce rscl rsct",
    "2020-12-05": "sp st se resource si sip spr sv sr snapshot rscc rscd rsce rscl rsct",
    "2020-12-06": "sp st se resource si sip spr sv sr snapshot ses rscc rscd rsce rscl rsct",
    "2026-02-06": "sp st se resource si sip spr sv sr snapshot ses rscc rscd rsce rscl rsct",
}
ACCOUNT = {
    "2015-04-05": "account sp ss srt st se sip spr sv -",
    "2020-12-05": "account sp ss srt st se sip spr sv -",
    "2020-12-06": "account sp ss srt st se sip spr sv ses -",
    "2026-02-06": "account sp ss srt st se sip spr sv ses -",
}
FIELDS = {name: f"value of {name}" for name in sas._FIELDS}


@pytest.mark.parametrize("sv", SERVICE)
def test_the_text_that_a_service_sas_signs(sv: str) -> None:
    query = {**FIELDS, "sv": sv, "sr": "bs"}
    assert sas.service_text(query, "/blob/mine/box") == form(SERVICE[sv], resource="/blob/mine/box", **query)
    of_version = {**query, "sr": "bv"}
    assert sas.service_text(of_version, "/r") == form(SERVICE[sv].replace("snapshot", "versionid"), resource="/r", **of_version)
    of_neither = {**query, "sr": "b"}
    assert sas.service_text(of_neither, "/r") == form(SERVICE[sv].replace("snapshot", "-"), resource="/r", **of_neither)
    assert sas.service_text({"sv": sv}, "/r") == form(SERVICE[sv], resource="/r", sv=sv)


@pytest.mark.parametrize("sv", ACCOUNT)
def test_the_text_that_an_account_sas_signs(sv: str) -> None:
    query = {**FIELDS, "sv": sv}
    assert sas.account_text(query, "mine") == form(ACCOUNT[sv], account="mine", **query)
    assert sas.account_text({"sv": sv}, "mine") == form(ACCOUNT[sv], account="mine", sv=sv)


def service(resource: str = "/blob/mine/box", key: str = KEY, **fields: str) -> dict[str, str]:
    """A signed service SAS; a field of None is left out."""
    query = {"sv": "2021-12-02", "sr": "c", "sp": "r", "se": LATER, **fields}
    query = {name: value for name, value in query.items() if value}
    return {**query, "sig": sas.signature(key, sas.service_text(query, resource))}


def account(key: str = KEY, **fields: str) -> dict[str, str]:
    query = {"sv": "2021-12-02", "ss": "b", "srt": "co", "sp": "rl", "se": LATER, **fields}
    query = {name: value for name, value in query.items() if value}
    return {**query, "sig": sas.signature(key, sas.account_text(query, "mine"))}


BOX, BLOB, NO = Grant(Scope.CONTAINER, "r"), Grant(Scope.BLOB, "r"), "AuthenticationFailed"
GRANTS: dict[str, tuple[dict[str, str], Grant | str]] = {
    "container": (service(), BOX),
    "a space in a name": (service(si="my policy", sp=""), BOX),
    "old key": (service(key=OLD_KEY), BOX),
    "other key": (service(key="dGhpcmQ="), NO),
    "blob": (service("/blob/mine/box/x", sr="b"), BLOB),
    "other blob": (service("/blob/mine/box/y", sr="b"), NO),
    "blob signed as the container": (service(sr="b"), NO),
    "container signed as the blob": (service("/blob/mine/box/x"), NO),
    "other container": (service("/blob/mine/other"), NO),
    "other account": (service("/blob/other/box"), NO),
    "odd resource": (service(sr="d"), NO),
    "no resource": (service(sr=""), NO),
    "no letters": (service(sp=""), Grant(Scope.CONTAINER)),
    "no end": (service(se=""), NO),
    "at its end": (service(se=EARLIER), NO),
    "at its start": (service(st=EARLIER), BOX),
    "before its start": (service(st=LATER, se="2027-01-01"), NO),
    "whole days": (service(st="2026-01-02", se="2026-01-03"), BOX),
    "minutes": (service(se="2026-01-02T03:05Z"), BOX),
    "fractions": (service(se="2026-01-02T03:04:05.0000010Z"), BOX),
    "oldest version": (service(sv="2015-04-05"), BOX),
    "older version": (service(sv="2015-04-04"), NO),
    "no version": (service(sv=""), NO),
    "odd version": (service(sv="2021-12-02x"), NO),
    "user delegation": (service(skoid="somebody"), NO),
    "policy": (service(si="full", sp="", se=""), Grant(Scope.CONTAINER, "rw")),
    "letters of a policy": (service(si="letters", sp=""), BOX),
    "letters in both": (service(si="letters"), NO),
    "end in both": (service(si="full", sp=""), NO),
    "start in both": (service(si="full", sp="", se="", st=EARLIER), NO),
    "empty policy": (service(si="empty"), BOX),
    "no such policy": (service(si="none", sp=""), NO),
    "http alone": (service(spr="http"), "AuthorizationProtocolMismatch"),
    "https": (service(spr="https"), BOX),
    "both": (service(spr="https,http"), BOX),
    "its address": (service(sip="10.0.0.7"), BOX),
    "first of a range": (service(sip="10.0.0.7-10.0.0.9"), BOX),
    "last of a range": (service(sip="10.0.0.1-10.0.0.7"), BOX),
    "below a range": (service(sip="10.0.0.8-10.0.0.9"), "AuthorizationSourceIPMismatch"),
    "above a range": (service(sip="10.0.0.1-10.0.0.6"), "AuthorizationSourceIPMismatch"),
    "other address": (service(sip="10.0.0.8"), "AuthorizationSourceIPMismatch"),
    "no address": (service(sip="here"), "AuthorizationSourceIPMismatch"),
    "account": (account(), Grant(Scope.ACCOUNT, "rl", "co")),
    "account, old key": (account(key=OLD_KEY), Grant(Scope.ACCOUNT, "rl", "co")),
    "account, other key": (account(key="dGhpcmQ="), NO),
    "account, of several services": (account(ss="qbf"), Grant(Scope.ACCOUNT, "rl", "co")),
    "account, of other services": (account(ss="qf"), "AuthorizationServiceMismatch"),
    "account, no letters": (account(sp="", srt=""), Grant(Scope.ACCOUNT)),
    "account, at its end": (account(se=EARLIER), NO),
    "account, no end": (account(se=""), NO),
    "account, at its start": (account(st=EARLIER), Grant(Scope.ACCOUNT, "rl", "co")),
    "account, before its start": (account(st=LATER, se="2027-01-01"), NO),
    "account, http alone": (account(spr="http"), "AuthorizationProtocolMismatch"),
    "account, other address": (account(sip="10.0.0.8"), "AuthorizationSourceIPMismatch"),
    "account dictates no headers": ({**account(), "rsct": "text/html"}, Grant(Scope.ACCOUNT, "rl", "co")),
}


@pytest.mark.parametrize("case", GRANTS)
def test_a_sas_is_worth_what_it_says(case: str) -> None:
    query, expected = GRANTS[case]
    assert answer(request(query=query)) == expected


@pytest.mark.parametrize("name", [*sas._FIELDS])
@pytest.mark.parametrize("character", ["\n", "\x1f", "\0"])
def test_no_field_holds_the_seam_of_two(name: str, character: str) -> None:
    assert answer(request(query=service(**{name: f"a{character}b"}))) == NO


def test_what_is_named_in_the_path_is_signed() -> None:
    assert answer(request(query=service(), blob=None)) == BOX
    assert answer(request(query=service("/blob/mine/box/None", sr="b"), blob=None)) == NO
    assert answer(request(query=service("/blob/mine/None"), blob=None, container=None)) == NO
    assert answer(request(query=service("/blob/mine/gone", si="full", sp="", se=""), container="gone")) == NO, "no such container"
    assert answer(request(query=service(sip="10.0.0.7"), peer=None)) == "AuthorizationSourceIPMismatch"
    assert answer(request(query=service(spr="https"), scheme="http")) == "AuthorizationProtocolMismatch"


def test_a_service_sas_dictates_headers_that_are_plain_text() -> None:
    told = {"rscc": "no-cache", "rscd": "inline", "rsce": "gzip", "rscl": "de", "rsct": "text/html"}
    meant = ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type"]
    found = answer(request(query=service(**told)))
    assert isinstance(found, Grant)
    assert found.overrides == dict(zip(meant, told.values(), strict=True))
    for name, value in itertools.product(told, ("a\x7fb", "größe")):
        assert answer(request(query=service(**{name: value}))) == "InvalidQueryParameterValue"


def test_a_signature_that_is_none() -> None:
    for text in ("", "AAAA", "nonsense", "ü", service()["sig"][:-1], service()["sig"] + "\n"):
        assert answer(request(query={**service(), "sig": text})) == NO
        assert not sas.signed_by((), "text", text)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 5, 6, 7, 8, 9, 999_999, tzinfo=UTC), "2026-05-06T07%3A08%3A09Z"),
        (datetime(2027, 1, 1, tzinfo=UTC), "2027-01-01T00%3A00%3A00Z"),
    ],
)
def test_what_is_made_here(moment: datetime, text: str) -> None:
    """Times are cut to the second, letters come in the service's order; and it opens what it says."""
    made = sas.container_sas("mine", KEY, "box", "lw", moment)
    assert made.rpartition("&sig=")[0] == f"sv=2021-12-02&se={text}&sr=c&sp=wl"
    every = sas.container_sas("mine", KEY, "box", "ldwcarx", moment, start=moment, https_only=True)
    assert every.rpartition("&sig=")[0] == f"sv=2021-12-02&spr=https&st={text}&se={text}&sr=c&sp=racwdl"


def test_what_is_made_here_is_a_query_whatever_its_signature() -> None:
    for number in range(20):
        made = sas.container_sas("mine", KEY, f"box-{number}", "r", datetime(2027, 1, 1, tzinfo=UTC))
        query = dict(parse_qsl(made, strict_parsing=True))
        assert query["sig"] == sas.signature(KEY, sas.service_text(query, f"/blob/mine/box-{number}"))
        assert re.fullmatch(r"[A-Za-z0-9%&=._~-]+", made), "nothing in it means anything in a URL or a shell's double quotes"


def test_who_comes_at_the_wrong_time_is_told_so() -> None:
    for query in (service(se=EARLIER), service(st=LATER, se="2027-01-01"), service(se="")):
        with pytest.raises(BlobError) as refused:
            authenticate(request(query=query), ACCOUNTS, policies)
        assert refused.value.message == "Signature not valid in the specified time frame."


# What a grant opens

OPENS: list[tuple[Grant, Callable[[Need], str | None]]] = [
    (Grant(Scope.KEY), lambda need: None),
    (
        Grant(Scope.CONTAINER, "r"),
        lambda need: None if need.level is Level.OBJECT or need.by_service_sas else "AuthorizationFailure",
    ),
    (Grant(Scope.BLOB, "r"), lambda need: None if need.level is Level.OBJECT else "AuthorizationFailure"),
    *[
        (
            Grant(Scope.ACCOUNT, "r", types),
            lambda need, types=types: None if need.level in types else "AuthorizationResourceTypeMismatch",  # type: ignore[misc]
        )
        for types in ("", "s", "c", "o", "co", "sco")
    ],
]


@pytest.mark.parametrize(("grant", "refusal"), OPENS)
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("by_service_sas", [False, True])
@pytest.mark.parametrize("letters", ["r", "wr", "w", ""])
def test_what_a_grant_opens(grant: Grant, refusal: Callable[[Need], str | None], level: Level, by_service_sas: bool, letters: str) -> None:
    need = Need(level, letters, by_service_sas)
    lacking = None if grant.scope is Scope.KEY or "r" in letters else "AuthorizationPermissionMismatch"
    expected = refusal(need) or lacking
    try:
        grant.require(need)
        found = None
    except BlobError as error:
        found = error.code
    assert found == expected
    assert grant.allows(letters) == (lacking is None)
