"""What a webhook is, for whoever registers endpoints and whoever sends: kinds, URLs, addresses.

Pure. Deliveries follow Standard Webhooks (https://www.standardwebhooks.com): three headers, of
which one is the HMAC-SHA256 of the event's id, the time of the attempt and the body.
"""

from __future__ import annotations

import ipaddress
import secrets
from base64 import b64encode
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

KINDS: Final[Mapping[str, str]] = {
    "balance.low": "an account's balance fell below the limit that it set for this",
    "balance.critical": "an account's balance is nearly used up",
    "balance.empty": "an account has nothing left to spend",
    "hold.expired": "a hold ended at its deadline, and what it held went back",
    "grant.expired": "credits were forfeited because their grant had expired",
    "incident.opened": "the service met what an operator must look at",
}
"""Every kind of event that happens by itself, and what it means."""

TEST_KIND: Final = "endpoint.test"
"""The kind of the event that an operator sends to one endpoint to see it arrive."""

ALL: Final = "*"
"""Stands for all kinds, those of later releases too."""

MAX_ENDPOINTS: Final = 16
"""Endpoints of one service. Each has room of its own in every worker, which bounds all of it; who
needs more receivers puts a relay of their own behind one of them."""

MAX_URL: Final = 2048
_PORTS = range(1, 65_536)
# Addresses of IPv6 that carry one of IPv4 behind the first 96 bits: a gateway sends it there.
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
# Of IPv6, all that is routed in the internet; the rest is local, or carries other addresses.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_SECRET_BYTES: Final = 32  # Standard Webhooks: 24 to 64


def make_secret() -> str:
    """A new signing secret: `whsec_` and the base64 of 32 random bytes."""
    return "whsec_" + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def check_kinds(kinds: Collection[str]) -> list[str]:
    """The kinds of an endpoint, in order and each once. Raises ValueError for an unknown one."""
    unknown = sorted(set(kinds) - KINDS.keys() - {ALL})
    if unknown or not kinds:
        raise ValueError(f"must be one or more of {', '.join(KINDS)}, or {ALL} for all of them")
    return [ALL] if ALL in kinds else sorted(set(kinds))


def check_url(url: str, *, private: bool) -> None:
    """Whether events may be sent there at all. Raises ValueError, saying why not.

    `private` allows http and addresses of this machine and of private networks. Where a host is a
    name, what it resolves to is looked at before every attempt (`is_public`).
    """
    if len(url) > MAX_URL or any(ord(sign) <= 32 or ord(sign) >= 127 for sign in url):
        raise ValueError(f"must be at most {MAX_URL} printable ASCII characters, without spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from error
    if "@" in parts.netloc:
        raise ValueError("must not carry a user or a password: events are signed instead")
    if not host or (port is not None and port not in _PORTS):
        raise ValueError("must name a host, and a port from 1 to 65535 if any")
    if parts.fragment or url.endswith("#"):
        raise ValueError("must not have a fragment")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise ValueError("must begin with https://")
    if not private and not _may_be_public(host):
        raise ValueError("must not be on this machine or in a private network")


def _may_be_public(host: str) -> bool:
    """False for a host that tells by itself that it is not: an address, or a name of here."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return False
    try:
        return is_public(host)
    except ValueError:
        return True  # a name


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet. Raises ValueError for what is none.

    Loopback, private, link-local (also of cloud metadata), shared, reserved and multicast ones are
    not, nor those of IPv6 that lead to one of them.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)))
        if found.sixtofour is not None or found.teredo is not None:
            return False  # tunnels that nobody offers any more, whose ends are hidden in them
        if found not in _UNICAST:
            return False
    return found.is_global and not found.is_multicast
