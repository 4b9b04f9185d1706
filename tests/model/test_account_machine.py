"""The scripts against the model: random histories of one account, with time that moves.

Hypothesis draws calls and moments; after each one the real ledger (real Valkey, test build of the
scripts) and the model must agree on what was answered and on every balance. What is due is expired
in both at once after each move of the clock; that answers do not need this is for conformance.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.codes import Code
from holdfast.ledger import Ledger, open_ledger
from tests.conformance.drivers import LedgerDriver, Outcome
from tests.conformance.world import World
from tests.model.account_model import ModelAccount
from tests.stack import Stack

amounts = st.integers(1, 60) | st.sampled_from([1, 2, 9 * 10**15])
ttls_s = st.integers(1, 30)
holds = st.sampled_from([f"h{i}" for i in range(6)])
shortfalls = st.sampled_from(["reject", "cap", "debt"])


@dataclass
class Bench:
    """The real side, and the loop that drives it."""

    loop: asyncio.AbstractEventLoop
    world: World
    ledger: Ledger

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)


@pytest.fixture(scope="module")
def bench(valkey_server: Any, postgres_server: Any) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    stack = Stack(
        valkey_server.url,
        postgres_server.url,
        shards=1,
        leases=False,
        test_clock=True,
        call_timeout_ms=10_000,
    )
    loop.run_until_complete(stack.__aenter__())
    world = World(stack)
    loop.run_until_complete(world.start())
    ledger = loop.run_until_complete(open_ledger(stack.config))
    yield Bench(loop, world, ledger)
    loop.run_until_complete(ledger.close())
    loop.run_until_complete(world.close())
    loop.run_until_complete(stack.__aexit__(None, None, None))
    loop.close()


class AccountMachine(RuleBasedStateMachine):
    """One account, in the model and for real."""

    bench: Bench

    @initialize(
        overdraft=st.sampled_from([0, 25]),
        amount=st.integers(0, 100),
        lives_s=st.none() | st.integers(5, 60),
    )
    def open(self, overdraft: int, amount: int, lives_s: int | None) -> None:
        self.account = f"m-{secrets.token_hex(6)}"
        self.api = LedgerDriver(self.bench.ledger)
        self.model = ModelAccount(overdraft_limit=overdraft)
        self.used = 0
        self.call(self.api.open(self.account, overdraft_limit=overdraft))
        self.model.now = self.bench.run(self.bench.world.freeze(self.account))
        if amount:
            self.grant(amount, lives_s, 0)

    def teardown(self) -> None:
        self.bench.run(self.bench.world.thaw())

    def call(self, call: Coroutine[Any, Any, Outcome]) -> Outcome:
        # A lease lives 2 s of real time; renewing it here keeps slow examples out of trouble.
        assert self.bench.run(self.bench.world.lease(0)) is Code.OK
        outcome = self.bench.run(call)
        assert isinstance(outcome, Outcome)
        return outcome

    def key(self) -> str:
        self.used += 1
        return f"k{self.used}"

    def agree(self, outcome: Outcome, expected: str) -> None:
        assert (outcome.code or "ok") == expected, outcome

    # ── rules ────────────────────────────────────────────────────────────────────────────────────

    @rule(amount=amounts, lives_s=st.none() | st.integers(1, 40), priority=st.integers(0, 2))
    def grant(self, amount: int, lives_s: int | None, priority: int) -> None:
        key = self.key()
        expires = None if lives_s is None else self.model.now + lives_s * 1000
        body = {} if expires is None else {"expires_ms": expires, "priority": priority}
        expected = self.model.grant(key, amount, expires, priority)
        self.agree(self.call(self.api.grant(self.account, amount, key, **body)), expected)

    @rule(amount=st.integers(-40, 40).filter(bool))
    def adjust(self, amount: int) -> None:
        expected = self.model.adjust(amount)
        outcome = self.call(self.api.adjust(self.account, self.key(), amount=amount, reason="test"))
        self.agree(outcome, expected)

    @rule(hold=holds, amount=amounts, least=st.none() | st.integers(1, 20), ttl_s=ttls_s)
    def reserve(self, hold: str, amount: int, least: int | None, ttl_s: int) -> None:
        if hold in self.model.holds or (least is not None and least > amount):
            return
        body = {"amount": amount, "ttl_seconds": ttl_s}
        if least is not None:
            body["min_amount"] = least
        expected = self.model.reserve(hold, amount, least, ttl_s * 1000)
        outcome = self.call(self.api.reserve(self.account, hold, **body))
        self.agree(outcome, expected)
        if outcome.ok:
            assert outcome.amount == self.model.holds[hold].amount
            assert self.call(self.api.reserve(self.account, hold, **body)).replayed

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), ttl_s=st.none() | ttls_s, add=st.none() | amounts)
    def extend(self, data: st.DataObject, ttl_s: int | None, add: int | None) -> None:
        hold = data.draw(st.sampled_from(sorted(self.model.holds)))
        body: dict[str, Any] = {}
        if ttl_s is not None:
            body["ttl_seconds"] = ttl_s
        if add is not None:
            body["add_amount"] = add
        expected = self.model.extend(hold, None if ttl_s is None else ttl_s * 1000, add)
        key = self.key()
        outcome = self.call(self.api.extend(self.account, hold, key, **body))
        self.agree(outcome, expected)
        if outcome.ok:
            again = self.call(self.api.extend(self.account, hold, key, **body))
            assert (again.replayed, again.version) == (True, outcome.version)

    @precondition(lambda self: self.model.holds)
    @rule(
        data=st.data(),
        amount=st.none() | st.integers(0, 80),
        on_shortfall=shortfalls,
        final=st.booleans(),
    )
    def commit(
        self, data: st.DataObject, amount: int | None, on_shortfall: str, final: bool
    ) -> None:
        hold = data.draw(st.sampled_from(sorted(self.model.holds)))
        body: dict[str, Any] = {"on_shortfall": on_shortfall, "final": final}
        if amount is not None:
            body["amount"] = amount
        expected = self.model.commit(hold, amount, on_shortfall, final)
        key = self.key()
        outcome = self.call(self.api.commit(self.account, hold, key, **body))
        self.agree(outcome, expected)
        if outcome.ok:
            again = self.call(self.api.commit(self.account, hold, key, **body))
            assert again.replayed
            assert again.funds == outcome.funds

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        hold = data.draw(st.sampled_from(sorted(self.model.holds)))
        expected = self.model.release(hold)
        self.agree(self.call(self.api.release(self.account, hold, self.key())), expected)

    @rule(amount=amounts, on_shortfall=shortfalls)
    def charge(self, amount: int, on_shortfall: str) -> None:
        if amount > 10**6 and on_shortfall == "debt":
            return  # leaves the range that the model keeps an eye on
        expected, taken = self.model.charge(amount, on_shortfall)
        body = {"amount": amount, "on_shortfall": on_shortfall}
        outcome = self.call(self.api.charge(self.account, self.key(), **body))
        self.agree(outcome, expected)
        if outcome.ok:
            assert (outcome.amount, outcome.uncollected) == (taken, amount - taken)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), amount=st.none() | st.integers(1, 40))
    def refund(self, data: st.DataObject, amount: int | None) -> None:
        hold = data.draw(st.sampled_from(sorted(self.model.holds)))
        body: dict[str, Any] = {"of": hold}
        if amount is not None:
            body["amount"] = amount
        expected = self.model.refund(hold, amount)
        self.agree(self.call(self.api.refund(self.account, self.key(), **body)), expected)

    @rule(by_ms=st.integers(1, 20_000) | st.sampled_from([999, 1000, 1001]))
    def pass_time(self, by_ms: int) -> None:
        self.model.now = self.bench.run(self.bench.world.advance(self.account, by_ms))
        self.model.expire_due()
        self.call(self.api.account(self.account))  # a read expires what is due first

    # ── what always holds ────────────────────────────────────────────────────────────────────────

    @invariant()
    def balances_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        real = self.call(self.api.account(self.account))
        model = self.model
        assert real.funds == (model.available, model.held)
        for name in ("debt", "granted", "refunded", "spent", "forfeited"):
            assert real.body[name] == getattr(model, name), name
        grants = [(g["id"], g["remaining"]) for g in real.grants]
        assert grants == [(g.id, g.remaining) for g in model._live()]
        sums = real.granted + real.refunded - real.spent - real.forfeited
        assert real.available + real.held == sums

    @invariant()
    def holds_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        for id, hold in self.model.holds.items():
            real = self.call(self.api.hold(self.account, id))
            seen = (real.state, real.amount, real.committed, real.remaining, real.uncollected)
            assert seen == (
                hold.state,
                hold.amount,
                hold.committed,
                hold.remaining,
                hold.uncollected,
            )
            assert real.deadline_ms == hold.deadline
            assert real.late == hold.late


def test_scripts_agree_with_the_model(bench: Bench) -> None:
    AccountMachine.bench = bench
    run_state_machine_as_test(
        AccountMachine,
        settings=settings(
            max_examples=100,
            phases=[Phase.generate],
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
