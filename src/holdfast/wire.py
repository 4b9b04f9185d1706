"""All of one Redis: its primaries, a connection to each, and the way from a slot to its primary.

`link.py` is one connection and draws the tree of errors, `topology.py` reads URLs and slots.
Nothing here repeats a command: what a caller is told is what became of its one attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from holdfast.link import (
    Argument,
    Link,
    OutcomeUnknown,
    Overloaded,
    RedisUnavailable,
    ServerError,
    Traffic,
    WireError,
)
from holdfast.topology import SLOTS, Address, SlotRange, parse_url, read_slots, slot_of

__all__ = [
    "Node",
    "OutcomeUnknown",
    "Overloaded",
    "RedisUnavailable",
    "ServerError",
    "Traffic",
    "Wire",
    "WireError",
    "slot_of",
]

# Dialling again: the first attempt at once, then after 50, 100, … 1,000 ms, each shortened at
# random by up to half. A connection must have lived as long as the longest pause for the next loss
# to start anew: a server that accepts and hangs up is not dialled in a tight loop.
_BACKOFF_FIRST_S = 0.05
_BACKOFF_LAST_S = 1.0


def _backoff_s(failures: int) -> float:
    if not failures:
        return 0.0
    # 50 ms · 2⁵ is beyond the longest pause.
    pause_s = min(_BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 5), _BACKOFF_LAST_S)
    return pause_s * random.uniform(0.5, 1.0)


# One process reads the map of a cluster at most ten times a second: CLUSTER SLOTS costs the server
# some 50 µs, and the callers of a slot that moved are refused for about one such pause.
_MAP_PAUSE_S = 0.1


class Node:
    """One primary of this Redis and the one connection to it.

    connected ──loss──▶ dialling ──greeted──▶ connected. While it is dialled, every call fails at
    once with RedisUnavailable. Dialling goes on until it succeeds, or the node is closed or retired
    (its slots were given away); the back-off bounds its rate.
    """

    def __init__(self, wire: Wire, address: Address) -> None:
        self.address = address
        self.slots: list[SlotRange] = []
        """The slots that it serves, both ends included."""
        self._wire = wire
        self.link = self._new_link()
        self._wanted = True
        self._attempts = 0
        self._dialling: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self.link.bound > 0

    @property
    def gone(self) -> bool:
        """Whether a retired node has lost its connection too."""
        return self.link.lost is None or self.link.lost.done()

    async def call(self, *args: Argument) -> Any:
        """Send one command to this node, whatever its keys are. Raises as `Wire.send` does."""
        return await self.link.send(args)

    def _new_link(self) -> Link:
        wire = self._wire
        return Link(
            str(self.address),
            timeout_s=wire.timeout_s,
            max_in_flight=wire.max_in_flight,
            traffic=wire.traffic,
            on_lost=self._link_lost,
            on_stale_map=lambda: wire.map_is_stale(self),
        )

    async def dial(self) -> None:
        """Connect and greet; raises RedisUnavailable."""
        wire, link = self._wire, self._new_link()
        try:
            async with asyncio.timeout(wire.connect_timeout_s):
                await wire.open_transport(link, self.address)
                await self._greet(link)
            if not link.bound:
                raise RedisUnavailable(link.cause)
        except (OSError, WireError) as error:
            cause = self._cause(link, error)
            link.close(cause)
            self.link.cause = cause
            raise RedisUnavailable(f"redis {self.address}: {cause}") from error
        except BaseException:
            link.close("the attempt was given up")
            raise
        self.link = link

    async def _greet(self, link: Link) -> None:
        greeting = self._wire.greeting
        answers = await asyncio.gather(*map(link.send, greeting), return_exceptions=True)
        for (word, *_), answer in zip(greeting, answers, strict=True):
            # The name of a connection is a courtesy: an ACL may well forbid CLIENT.
            if isinstance(answer, ServerError) and word == "CLIENT":
                continue
            if isinstance(answer, BaseException):
                raise answer

    def _cause(self, link: Link, error: Exception) -> str:
        if link.lost is not None and not link.bound:
            return link.cause
        if isinstance(error, TimeoutError):
            return f"no connection within {self._wire.connect_timeout_s:g} s"
        return str(error)

    async def dial_or_redial(self) -> None:
        """One attempt now; where it fails, more in the background."""
        if self.connected or self._dialling is not None:
            return
        try:
            await self.dial()
        except RedisUnavailable:
            self.redial()

    def redial(self) -> None:
        """Connect in the background, with as many attempts as it takes."""
        if self._dialling is None or self._dialling.done():
            self._dialling = asyncio.get_running_loop().create_task(self._redial())

    def _link_lost(self, link: Link) -> None:
        if link is not self.link or not self._wanted:
            return
        if asyncio.get_running_loop().time() - link.made_at >= _BACKOFF_LAST_S:
            self._attempts = 0
        self.redial()

    async def _redial(self) -> None:
        connected = False
        while not connected:
            if self._attempts:
                await asyncio.sleep(_backoff_s(self._attempts))
            self._attempts += 1
            try:
                await self.dial()
                connected = True
            except RedisUnavailable:
                self._wire.map_is_stale(self)
        self._wire.announce(self)

    def retire(self) -> None:
        """Take no more commands; what is in flight is still answered."""
        self._give_up()
        self.link.retire("it serves no slots any more")

    async def close(self) -> None:
        """Close the connection; what is unanswered fails with OutcomeUnknown."""
        self._give_up()
        if self._dialling is not None:
            await asyncio.gather(self._dialling, return_exceptions=True)
        self.link.close("closed by this process")
        if self.link.lost is not None:
            await self.link.lost

    def _give_up(self) -> None:
        self._wanted = False
        if self._dialling is not None:
            self._dialling.cancel()


class Wire:
    """All primaries of one Redis, single server or cluster, with one connection to each.

    `timeout_ms` bounds the wait for an answer; a connection that is silent for twice as long is
    given up. `connect_timeout_ms` bounds connecting and logging in, `max_in_flight` the unanswered
    commands of one node; all three are 1 or more. `name` is what CLIENT LIST shows.
    `on_reconnect`, if set, is called with the node when a connection was made after `connect` has
    returned or failed.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int = 2000,
        connect_timeout_ms: int = 1000,
        max_in_flight: int = 4096,
        name: str = "holdfast",
    ) -> None:
        if min(timeout_ms, connect_timeout_ms, max_in_flight) < 1:
            raise ValueError("timeout_ms, connect_timeout_ms and max_in_flight are at least 1")
        self.timeout_s = timeout_ms / 1000
        self.connect_timeout_s = connect_timeout_ms / 1000
        self.max_in_flight = max_in_flight
        self.traffic = Traffic()
        self.on_reconnect: Callable[[Node], None] | None = None
        self._target = parse_url(url)
        self.greeting = self._target.greeting(name)
        self._nodes: dict[Address, Node] = {}
        self._nowhere = Node(self, self._target.address)
        self._route = [self._nowhere] * SLOTS
        self._retired: list[Node] = []
        self._closed = False
        self._map_stale = False
        self._witness: Node | None = None
        self._mapping: asyncio.Task[None] | None = None

    # Calls

    def send(self, slot: int, *args: Argument) -> asyncio.Future[Any]:
        """Queue a command for the node that serves `slot` (0 to 16,383); it leaves with this tick.

        Raises RedisUnavailable or Overloaded, and then nothing was queued. The future gets the
        reply (strings as bytes; a str argument goes as UTF-8) or fails with OutcomeUnknown,
        RedisUnavailable or ServerError. Cancelling it does not take the command back.
        """
        return self._route[slot].link.send(args)

    async def call(self, slot: int, *args: Argument) -> Any:
        """`send`, and wait for the reply."""
        return await self._route[slot].link.send(args)

    def nodes(self) -> list[Node]:
        """The primaries, connected or not."""
        return list(self._nodes.values())

    def node_of(self, slot: int) -> Node:
        """The primary that serves `slot`; raises RedisUnavailable if the cluster names none."""
        node = self._route[slot]
        if node is self._nowhere:
            raise RedisUnavailable(f"slot {slot}: {node.link.cause}")
        return node

    @property
    def in_flight(self) -> int:
        """Unanswered commands, over all nodes."""
        return sum(node.link.in_flight for node in self._nodes.values())

    # Life

    async def connect(self) -> None:
        """Make the first connections and learn the nodes; close the wire whatever becomes of it.

        Raises RedisUnavailable, and goes on trying in the background: calls are refused until that
        succeeds. Of a cluster it is enough that the node in the URL answers.
        """
        await self._end_mapping()
        self._closed = False
        if not self._nodes:
            try:
                new = await self._ask_url()
            except WireError as error:
                self.map_is_stale(None)
                raise RedisUnavailable(str(error)) from error
            await asyncio.gather(*(node.dial_or_redial() for node in new))
        elif not any(node.connected for node in self._nodes.values()):
            raise RedisUnavailable(f"none of {', '.join(map(str, self._nodes))} is connected")
        if self._nowhere in self._route:
            self.map_is_stale(None)

    async def close(self) -> None:
        """Close every connection; what is unanswered fails with OutcomeUnknown."""
        self._closed = True
        await self._end_mapping()
        nodes = (*self._nodes.values(), *self._retired)
        self._nodes, self._retired = {}, []
        self._route = [self._nowhere] * SLOTS
        self._nowhere.link.cause = "closed by this process"
        await asyncio.gather(*(node.close() for node in nodes))

    async def open_transport(self, link: Link, address: Address) -> None:
        """Connect `link` to an address; raises OSError."""
        loop = asyncio.get_running_loop()
        if address.path:
            await loop.create_unix_connection(lambda: link, address.path)
        else:
            await loop.create_connection(
                lambda: link, address.host, address.port, ssl=self._target.tls
            )

    def announce(self, node: Node) -> None:
        """A connection was made in the background."""
        self.traffic.reconnects += 1
        if self.on_reconnect is not None:
            asyncio.get_running_loop().call_soon(self.on_reconnect, node)

    # The map: one reader, which asks the witness first, then the other nodes, then the URL

    def map_is_stale(self, witness: Node | None) -> None:
        """Read the map again, in the background."""
        self._map_stale = True
        self._witness = witness
        if self._mapping is None and not self._closed:
            self._mapping = asyncio.get_running_loop().create_task(self._remap())

    async def _end_mapping(self) -> None:
        mapping = self._mapping
        if mapping is not None:
            mapping.cancel()
            await asyncio.gather(mapping, return_exceptions=True)
            if self._mapping is mapping:  # it was cancelled before it began
                self._mapping = None

    async def _remap(self) -> None:
        failures = 0
        try:
            while self._map_stale:
                self._map_stale = False
                try:
                    new = await self._read_map()
                    failures = 0
                except WireError:
                    new = []
                    failures += 1
                for node in new:
                    if node.connected:
                        self.announce(node)
                    else:
                        node.redial()
                await asyncio.sleep(max(_MAP_PAUSE_S, _backoff_s(failures)))
                # A slot that nobody serves has no caller's MOVED to bring its map up to date.
                self._map_stale |= self._nowhere in self._route
        finally:
            self._mapping = None

    async def _read_map(self) -> list[Node]:
        """The nodes that a new map adds; raises RedisUnavailable if nobody tells."""
        known = (self._witness, *self._nodes.values())
        for node in [node for node in known if node is not None and node.connected]:
            try:
                return await self._learn(node)
            except WireError:
                continue
        if self._target.address in self._nodes:
            return []  # it is being dialled
        return await self._ask_url()

    async def _ask_url(self) -> list[Node]:
        """Ask whoever answers at the URL; that node stays if it is on the map itself."""
        seed = Node(self, self._target.address)
        try:
            await seed.dial()
            return await self._learn(seed)
        except WireError as error:
            self._nowhere.link.cause = str(error).removeprefix(f"redis {seed.address}: ")
            raise
        finally:
            if self._nodes.get(seed.address) is not seed:
                await seed.close()

    async def _learn(self, witness: Node) -> list[Node]:
        """Read the map from one node and route by it; returns the nodes that are new."""
        try:
            # HELLO tells the mode and, unlike INFO, is granted by holdfast's own ACL.
            hello = await witness.call("HELLO")
            mode = dict(zip(hello[::2], hello[1::2], strict=True))[b"mode"]
            primaries = {witness.address: [(0, SLOTS - 1)]}
            if mode == b"cluster":
                primaries = read_slots(await witness.call("CLUSTER", "SLOTS"), witness.address)
        except ServerError as error:
            raise RedisUnavailable(f"redis {witness.address}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise RedisUnavailable(f"redis {witness.address}: it hides what it is") from error
        if mode == b"sentinel":
            raise RedisUnavailable(f"redis {witness.address}: a Sentinel; name a server instead")
        if not primaries:
            raise RedisUnavailable(f"redis {witness.address}: its cluster has no slots assigned")
        return self._adopt(primaries, witness)

    def _adopt(self, primaries: dict[Address, list[SlotRange]], witness: Node) -> list[Node]:
        """Route by a new map: keep the nodes that stay, retire those that serve nothing now."""
        before, nodes = self._nodes, {}
        available = {witness.address: witness} | before
        route = [self._nowhere] * SLOTS
        for address, slots in primaries.items():
            node = nodes[address] = available.get(address) or Node(self, address)
            node.slots = slots
            for first, last in slots:
                route[first : last + 1] = [node] * (last - first + 1)
        self._nodes, self._route = nodes, route
        self._nowhere.link.cause = "no primary serves this slot"
        self._retired = [node for node in self._retired if not node.gone]
        for address, node in before.items():
            if address not in nodes:
                node.retire()
                self._retired.append(node)
        return [node for address, node in nodes.items() if address not in before]
