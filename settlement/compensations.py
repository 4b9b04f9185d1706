"""The service that gives what is owed (holdfast/compensator.py), on the stores of a worker.

States of a compensation: pending (due, or waiting for its next try), claimed (somebody is at it,
for a minute at most), applied, failed (until an operator tries it anew). Every worker looks for
rows that are due, twice a second, and at once where there may be more; rows are shared out by their
claims, and two workers that both think a row theirs do no harm: its key decides.

Failures. Postgres away: the service ends and is started again (services.py). Redis away or closed:
the attempt is counted, and made again later. A worker that dies: its claims run out.
"""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from holdfast.compensator import Compensator
from holdfast.ledger import Ledger
from holdfast.postgres import Pool
from holdfast.telemetry import METRICS
from settlement import failpoints

# Nobody waits for a compensation: it comes within a second.
_PAUSE_S: Final = 0.5


class Compensations:
    """The service of one worker."""

    def __init__(self, pool: Pool, ledger: Ledger) -> None:
        self._compensator = Compensator(pool, ledger, failpoints.hit)
        name = "holdfast_compensation_retries_total"
        self.retries = Counter(name, METRICS[name].meaning, registry=CollectorRegistry())

    async def run(self) -> None:
        """Rounds until cancelled. Raises StoreUnavailable where Postgres is away."""
        while True:
            tally = await self._compensator.round()
            self.retries.inc(tally.retries)
            if not tally.tried:
                await asyncio.sleep(_PAUSE_S)
