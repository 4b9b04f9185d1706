"""What must still be there after a fault: an open hold, a charge, and their keys.

They are made, and settled, before the fault. Afterwards the same calls with the same keys must
answer what they did, and the hold must be good for what it was made for. The client may repeat what
is refused for a moment: on a busy machine a lease may lapse at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast.client import AsyncClient
from holdfast.client.results import Hold, Posting

_FUNDS = 1_000_000
# Each answers after 2 s, settled or not; on a busy machine it may take longer to settle.
_WAITS = 10


@dataclass(slots=True)
class Keepsake:
    """An account that no load touches, with a hold and a charge that are settled."""

    client: AsyncClient
    account: str
    hold: Hold
    charge: Posting

    @classmethod
    async def make(cls, client: AsyncClient, account: str = "keepsake") -> Keepsake:
        """Open the account, and wait until the journal has all of it."""
        await client.put_account(account)
        await client.grant(account, _FUNDS, source="promo", key=f"{account}-grant")
        charge = await client.charge(account, 70_000, key=f"{account}-charge")
        for _ in range(_WAITS):
            hold = await client.reserve(
                account, 50_000, key=f"{account}-hold", durability="settled"
            )
            if hold.durability == "settled":
                break
        assert hold.durability == "settled", hold
        return cls(client, account, hold, charge)

    async def assert_kept(self) -> None:
        """The keys answer what they did; then the hold is committed, and is worth what it was."""
        charge = await self.client.charge(self.account, 70_000, key=self.charge.id)
        assert charge.replayed, f"a key was forgotten, and the charge made again: {charge}"
        assert _same(charge, self.charge), f"another answer: {charge}, not {self.charge}"
        hold = await self.client.get_hold(self.account, self.hold.id)
        assert hold.state == "held" and hold.remaining == 50_000, f"the hold is gone: {hold}"
        again = await self.client.reserve(self.account, 50_000, key=self.hold.id)
        assert again.replayed and again.id == self.hold.id, f"a key was forgotten: {again}"
        taken = await self.client.commit(self.account, self.hold.id, 20_000)
        assert (taken.state, taken.committed, taken.late) == ("committed", 20_000, False), taken
        assert taken.available == _FUNDS - 70_000 - 20_000 and taken.held == 0, taken


def _same(one: Posting, other: Posting) -> bool:
    """Whether two answers say the same, but for how they came about."""
    return _plain(one) == _plain(other)


def _plain(answer: Posting) -> Posting:
    return replace(answer, replayed=False, created=False, request_id=None, durability=None)
