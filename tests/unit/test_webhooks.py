"""Where events may be sent, and how they are signed: without a network."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from holdfast.telemetry import _clean
from holdfast.webhooks import ALL, KINDS, check_kinds, check_url, is_public, make_secret
from settlement.courier import Letter, signed


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://hooks.example.com:8443/a/b?token=x",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
    ],
)
def test_an_https_url_of_the_internet_is_taken(url: str) -> None:
    check_url(url, private=False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("file:///etc/passwd", "host"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("example.com/hook", "host"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "no URL"),
        ("https://ann:secret@example.com/", "password"),
        ("https://@example.com/", "password"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/a b", "printable"),
        ("https://example.com/\n", "printable"),
        ("https://exämple.com/", "printable"),
        ("https://example.com/" + "x" * 2048, "at most"),
        ("https://[::1", "no URL"),
        ("https://localhost/", "private"),
        ("https://LOCALHOST./", "private"),
        ("https://hooks.localhost/", "private"),
        ("https://127.0.0.1/", "private"),
        ("https://10.1.2.3/", "private"),
        ("https://169.254.169.254/latest/meta-data", "private"),
        ("https://[::1]/", "private"),
        ("https://[fd00::1]/", "private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
    ],
)
def test_other_urls_are_refused(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_url(url, private=False)


def test_the_switch_allows_http_and_addresses_inside_and_no_more() -> None:
    for url in ("http://127.0.0.1:8099/", "http://localhost/", "https://10.0.0.7/"):
        check_url(url, private=True)
    for url in ("ftp://127.0.0.1/", "http://ann:secret@127.0.0.1/", "http:///"):
        with pytest.raises(ValueError):
            check_url(url, private=True)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("100.64.0.1", "169.254.169.254", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fd12::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1"),
        *("2002:7f00:1::", "2001:0:7f00:1::", "fec0::3", "::7f00:1", "::ffff:0:7f00:1"),
        "64:ff9b:1::7f00:1",
    ],
)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


def test_what_is_no_address_is_neither() -> None:
    with pytest.raises(ValueError):
        is_public("example.com")


def test_kinds_are_known_each_once_or_all() -> None:
    assert check_kinds(["hold.expired", "balance.low", "hold.expired"]) == [
        "balance.low",
        "hold.expired",
    ]
    assert check_kinds([*KINDS, ALL]) == [ALL]
    wrong: Any
    for wrong in ([], ["surprise"], ["hold.expired", ""], ["endpoint.test"]):
        with pytest.raises(ValueError, match="one or more of"):
            check_kinds(wrong)


def test_a_signature_is_the_one_of_the_specification() -> None:
    """By the text of the specification, not by the library that made it."""
    secrets = [make_secret(), make_secret()]
    assert secrets[0] != secrets[1]
    body, now = '{"ä": 1}', datetime(2026, 11, 20, 8, 15, 0, 999_000, tzinfo=UTC)

    headers = signed(Letter("https://example.com", secrets, "evt_1", body), now)

    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(int(now.timestamp()))
    wanted = []
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        assert 24 <= len(key) <= 64
        text = f"evt_1.{headers['webhook-timestamp']}.{body}".encode()
        digest = hmac.new(key, text, hashlib.sha256).digest()
        wanted.append("v1," + base64.b64encode(digest).decode())
    assert headers["webhook-signature"].split(" ") == wanted


def test_a_body_is_verified_by_the_bytes_that_are_sent() -> None:
    secret, body = make_secret(), '{"a":"ä"}'
    headers = signed(Letter("https://example.com", [secret], "evt_1", body), datetime.now(UTC))
    assert Webhook(secret).verify(body.encode(), headers) == {"a": "ä"}


def test_no_log_has_a_secret() -> None:
    assert _clean(f"it is {make_secret()}!") == "it is ***!"
