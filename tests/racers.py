"""Operating system's processes that call at the same moment: a program for tests of races.

    python -m tests.racers ledger '[[["reserve", ["acme", "h1"], {"amount": 1}]], ...]'
    python -m tests.racers http://127.0.0.1:8080 '[...]' KEY

A list of calls for each process: method, arguments and body of a conformance driver. A process
makes its calls at once, and prints a line with the status and code of each. They are forked from
one that has imported everything, get ready, and start when all are.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from holdfast import config
from holdfast.ledger import open_ledger
from tests.conformance.drivers import Driver, HttpDriver, LedgerDriver

Call = tuple[str, list[str], dict[str, Any]]

# Repeats of a call that was refused for now: 20 ms each, 10 s in all.
_TRIES = 500
_PAUSE_S = 0.02
# A race that hangs ends with its processes, and its test.
_LIFE_S = 45


async def _outcome(driver: Driver, call: Call) -> tuple[int, str | None]:
    """Status and code of a call, repeated with its key while the answer is "not now"."""
    method, arguments, body = call
    for _ in range(_TRIES):
        found = await getattr(driver, method)(*arguments, **body)
        if found.status != 503:
            return found.status, found.code
        await asyncio.sleep(_PAUSE_S)
    return 503, found.code


async def _race(where: str, calls: list[Call], api_key: str, ready: int, go: int) -> list[Any]:
    if where == "ledger":
        ledger = await open_ledger(config.load())
        driver: Any = LedgerDriver(ledger)
    else:
        driver = HttpDriver(where, api_key)
    try:
        _, (account, *_), _ = calls[0]
        status, code = await _outcome(driver, ("account", [account], {}))
        assert status == 200, code
        os.write(ready, b".")
        os.read(go, 1)  # the end of the pipe, for all processes at once
        return list(await asyncio.gather(*(_outcome(driver, call) for call in calls)))
    finally:
        await driver.close()


def main() -> int:
    """Fork, race, and wait for all; 0 if every process got its answers."""
    where, races, api_key = sys.argv[1], json.loads(sys.argv[2]), "".join(sys.argv[3:])
    (has_ready, ready), (go, may_go) = os.pipe(), os.pipe()
    children = []
    for calls in races:
        child = os.fork()
        if child == 0:
            signal.alarm(_LIFE_S)
            os.close(may_go)
            code = 1
            try:
                outcomes = asyncio.run(_race(where, calls, api_key, ready, go))
                os.write(1, json.dumps(outcomes).encode() + b"\n")  # one write is one line
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    os.close(ready)
    heard = 0
    while heard < len(children) and (said := os.read(has_ready, len(children))):
        heard += len(said)
    os.close(may_go)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return 0 if heard == len(children) and not any(codes) else 1


if __name__ == "__main__":
    sys.exit(main())
