"""The ceiling that `holdfast bench http` compares with: the least a service could do per call.

A bare ASGI route over the same wire: no key, no validation, no checked answer; the account and the
hold come out of the path, the amount out of the body, and a script that checks nothing makes the
same writes and the same entry (lua/unchecked/). Everything else (opening accounts, grants) goes to
the real application. It has stores and a worker of its own, whose journal must balance as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from hashlib import sha1
from typing import TYPE_CHECKING, Final

import orjson
import uvicorn

from holdfast import scripts
from holdfast.collector import spare_what_lives_long
from holdfast.config import Config, load
from holdfast.http.app import build_app
from holdfast.keys import shard_of
from holdfast.ledger import Ledger, open_ledger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_CONTEXT: Final = b'{"request_id":"r-0123456789abcdef","actor":"key:0123456789ab"}'
# As long as the answer of the real route for the same call.
_BODY: Final = orjson.dumps({"id": "h1234567", "filler": "x" * 300})
_HEADERS: Final = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_BODY)),
    (b"x-request-id", b"r-0123456789abcdef"),
]
_TTL_MS: Final = 900_000
_WINDOW_MS: Final = 86_400_000


class Ceiling:
    """The two hot routes, bare; all other calls go on to `app`."""

    def __init__(self, config: Config) -> None:
        self._app: ASGIApp = build_app(config, ledger_opener=self._open)
        self._ledger: Ledger | None = None
        self._names: dict[str, bytes] = {}

    async def _open(self, config: Config) -> Ledger:
        self._ledger = await open_ledger(config)
        for name in ("reserve", "commit"):
            text = scripts.template(f"unchecked/{name}")
            for node in self._ledger.shards.wire.nodes():
                await node.call(b"SCRIPT", b"LOAD", text)
            self._names[name] = sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
        return self._ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[str] = scope["path"].split("/") if scope["type"] == "http" else []
        if len(parts) < 5 or parts[4] != "holds" or self._ledger is None:
            await self._app(scope, receive, send)
            return
        body = (await receive())["body"]
        account, amount = parts[3], orjson.loads(body)["amount"]
        shards = self._ledger.shards
        shard = shards.keys[shard_of(account, shards.count)]
        if len(parts) == 5:
            name, last = "reserve", _TTL_MS
            key = dict(scope["headers"])[b"idempotency-key"].decode()
        else:
            name, last, key = "commit", _WINDOW_MS, parts[5]
        keys = [*shard.of_account(account), shard.record(account, key)]
        args = (account, _CONTEXT, amount, last, key)
        await shards.wire.send(shard.slot, b"EVALSHA", self._names[name], len(keys), *keys, *args)
        status = 201 if name == "reserve" else 200
        await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _BODY})


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m holdfast.ceiling --port N`: serves it, configured as `holdfast serve` is."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.ceiling", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args(arguments).port
    ceiling = Ceiling(load())
    spare_what_lives_long()
    uvicorn.run(ceiling, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
