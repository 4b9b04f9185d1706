"""The courier: POSTs one event to one endpoint, signed, and says how that ended.

    check the URL ─▶ resolve its host ─▶ refuse addresses inside ─▶ sign ─▶ POST ─▶ status

It connects to the very address that it looked at, so that a name cannot lead elsewhere between the
look and the connection. A redirect is not followed, a proxy of the environment is not asked, the
body of an answer is not read. Every attempt has a connection of its own, which costs a handshake
and saves the guess whether a kept one is still good.

Signatures: https://github.com/standard-webhooks/standard-webhooks (webhook-id, webhook-timestamp,
webhook-signature: `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`, one a secret).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx2
from standardwebhooks import Webhook

from holdfast.webhooks import check_url, is_public

CONNECT_S: Final = 2.0
TOTAL_S: Final = 10.0
# Of the addresses that a name has, so many are tried: one of each family, and a second of each.
_ADDRESSES: Final = 4
_ERROR_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent: to where, signed with which secrets, under which id."""

    url: str
    secrets: Sequence[str]
    id: str
    body: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: the status that was answered, or why there was none."""

    status: int | None
    error: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it: any 2xx says so."""
        return self.status is not None and 200 <= self.status < 300


class Courier:
    """Sends letters, as many at once as it is asked. `room` is how many that is at most."""

    def __init__(self, *, private: bool, room: int) -> None:
        """`private` allows http and addresses of this machine and of private networks."""
        self._private = private
        # Resolvers block, some for longer than an attempt lasts: threads of our own, so that one
        # endpoint's name server keeps nobody else waiting, least of all the stores' connections.
        self._resolvers = ThreadPoolExecutor(room, thread_name_prefix="resolve")
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(TOTAL_S, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "holdfast", "content-type": "application/json"},
        )

    async def close(self) -> None:
        """Let go of what is under way."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    async def post(self, letter: Letter) -> Ending:
        """One attempt, of at most 10 s; whatever goes wrong is an ending, not an exception."""
        try:
            async with asyncio.timeout(TOTAL_S):
                return await self._post(letter)
        except TimeoutError:
            return Ending(None, f"no answer within {TOTAL_S:.0f} s")
        except (ValueError, OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Ending(None, f"{type(error).__name__}: {error}"[:_ERROR_MAX])

    async def _post(self, letter: Letter) -> Ending:
        check_url(letter.url, private=self._private)
        url = httpx2.URL(letter.url)
        body = letter.body.encode()
        headers = {**signed(letter, datetime.now(UTC)), "host": url.netloc.decode()}
        failure: httpx2.TransportError | None = None
        for address in await self._resolve(url):
            try:
                async with self._client.stream(
                    "POST",
                    url.copy_with(host=address),
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": _name(url)},
                ) as answer:
                    return Ending(answer.status_code)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error  # nothing was sent: another address may do
        return Ending(None, f"cannot connect: {failure}"[:_ERROR_MAX])

    async def _resolve(self, url: httpx2.URL) -> list[str]:
        """The addresses of a host, none twice. Raises OSError, ValueError for one inside."""
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers,
            lambda: socket.getaddrinfo(_name(url), port, type=socket.SOCK_STREAM),
        )
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        for address in addresses:
            if not self._private and not is_public(address):
                raise ValueError(f"{url.host} leads to {address}, which is not a public address")
        return addresses[:_ADDRESSES]


def _name(url: httpx2.URL) -> str:
    """The host as it is looked up and verified: in the letters of its URL. Whoever is given other
    letters encodes them anew, by rules of 2003, by which they can name another host."""
    return url.raw_host.decode("ascii").strip("[]")


def signed(letter: Letter, now: datetime) -> dict[str, str]:
    """The headers that let a receiver see who sent this, and when."""
    signatures = [Webhook(secret).sign(letter.id, now, letter.body) for secret in letter.secrets]
    return {
        "webhook-id": letter.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
