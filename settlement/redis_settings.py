"""What a Redis node is, and what about its settings would lose or falsify money.

Vetting asks this before it closes anything; `holdfast doctor` prints all of it. A finding that
`refuses` keeps the node closed; the others are risks that an operator should know of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.config import Durability
from holdfast.wire import Node, ServerError

Promise = Literal["memory", "local"]
"""What an acknowledgement of a node can promise by itself (docs: durability)."""

_OLDEST = (7, 0)
_CONFIG_NAMES = (
    "maxmemory-policy",
    "maxmemory",
    "appendonly",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "min-replicas-to-write",
)


@dataclass(frozen=True, slots=True)
class Boot:
    """Which run of which Redis process, in which history of replication. Both empty: none yet."""

    run_id: str = ""
    replid: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting that is wrong, why that matters, and how to mend it."""

    setting: str
    problem: str
    mend: str
    refuses: bool = True

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}; {self.mend}"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node says about itself. `promise` holds only while nothing in it refuses."""

    address: str
    boot: Boot
    version: str
    promise: Promise
    appends: bool
    """Whether it writes an append-only file."""
    started_ahead: bool
    """Whether it tells an earlier time than when it started: if it is right now, it was ahead."""
    findings: tuple[Finding, ...]

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.refuses)


def parse_info(reply: bytes) -> dict[str, str]:
    """The `name:value` lines of INFO and CLUSTER INFO."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


async def read_info(node: Node, *section: str) -> dict[str, str]:
    """INFO of a node, of one section or of all that are usual. Raises wire.WireError."""
    return parse_info(await node.call("INFO", *section))


def boot_of(info: Mapping[str, str]) -> Boot:
    """The boot that INFO (sections server and replication) tells."""
    return Boot(info.get("run_id", ""), info.get("master_replid", ""))


async def inspect(node: Node, durability: Durability, vouched: bool) -> NodeReport:
    """Look at one node: what it can promise, and what is wrong with it.

    `durability` is what acknowledgements are configured to promise; `vouched` says that the
    operator answers for the settings of a Redis that forbids CONFIG. Raises wire.WireError where
    the node does not answer at all.
    """
    info = await read_info(node)
    config = await _read_config(node)
    findings = [*_nature(info), *_memory(info, config), *_replicas(info, config)]
    if info.get("cluster_enabled") == "1":
        findings += _cluster(parse_info(await node.call("CLUSTER", "INFO")))
    if config is None:
        findings.append(_unreadable(durability, vouched))
    else:
        findings += _persistence(info, config, durability)
    return NodeReport(
        address=str(node.address),
        boot=boot_of(info),
        version=_version(info),
        promise="memory" if config is None or _unsynced(config) else "local",
        appends=info.get("aof_enabled") == "1",
        # It counts by the clock on the wall; a second may be the rounding.
        started_ahead=int(info.get("uptime_in_seconds", "0")) < -1,
        findings=tuple(findings),
    )


async def _read_config(node: Node) -> dict[str, str] | None:
    """The settings that matter here, or None where CONFIG is forbidden."""
    found: dict[str, str] = {}
    for name in _CONFIG_NAMES:
        try:
            reply: list[Any] | dict[Any, Any] = await node.call("CONFIG", "GET", name)
        except ServerError as error:
            # A managed Redis renames CONFIG away, an ACL denies it; anything else is an outage.
            if error.code in ("NOPERM", "ERR"):
                return None
            raise
        flat = list(reply)
        found |= {k.decode(): v.decode() for k, v in zip(flat[::2], flat[1::2], strict=True)}
    return found


def _version(info: Mapping[str, str]) -> str:
    """Valkey counts on from Redis 7.2 and keeps `redis_version` at that for old clients."""
    return info.get("valkey_version") or info.get("redis_version", "")


def _nature(info: Mapping[str, str]) -> list[Finding]:
    findings = []
    version = _version(info)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers or (int(numbers[1]), int(numbers[2])) < _OLDEST:
        findings.append(
            Finding(
                "version",
                f"this is {version or 'unknown'}; the scripts need what Redis 7.0 brought",
                "run Redis 7.0 or newer, or any Valkey",
            )
        )
    if info.get("role") != "master":
        findings.append(
            Finding(
                "role",
                f"this node is a {info.get('role', 'node of unknown role')}, not a primary",
                "name the primary in HOLDFAST_REDIS_URL",
            )
        )
    return findings


def _memory(info: Mapping[str, str], config: Mapping[str, str] | None) -> list[Finding]:
    findings = []
    # INFO tells the policy too, so that a Redis which forbids CONFIG is not believed blindly.
    policy = (config or {}).get("maxmemory-policy") or info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        findings.append(
            Finding(
                "maxmemory-policy",
                f"it is {policy}: Redis would throw balances away when memory is short",
                "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
            )
        )
    if info.get("maxmemory", "0") == "0":
        findings.append(
            Finding(
                "maxmemory",
                "there is no limit: holdfast cannot stop new spending before memory runs out",
                "CONFIG SET maxmemory <bytes>, well below what the machine has",
                refuses=False,
            )
        )
    return findings


def _replicas(info: Mapping[str, str], config: Mapping[str, str] | None) -> list[Finding]:
    attached = int(info.get("connected_slaves", "0"))
    needed = int((config or {}).get("min-replicas-to-write", "0"))
    if not attached or needed >= 1 or config is None:
        return []
    return [
        Finding(
            "min-replicas-to-write",
            "it is 0 with replicas attached: a primary that is cut off acknowledges commits",
            "CONFIG SET min-replicas-to-write 1, and the same in redis.conf",
            refuses=False,
        )
    ]


def _cluster(state: Mapping[str, str]) -> list[Finding]:
    if state.get("cluster_state") == "ok":
        return []
    return [
        Finding(
            "cluster_state",
            f"it is {state.get('cluster_state', 'unknown')}: slots lack a primary",
            "bring the missing primaries back; CLUSTER INFO and CLUSTER SHARDS name them",
            # The other primaries may serve on with cluster-require-full-coverage no; where they may
            # not, Redis itself refuses the scripts.
            refuses=False,
        )
    ]


def _unreadable(durability: Durability, vouched: bool) -> Finding:
    if not vouched:
        return Finding(
            "CONFIG",
            "this Redis forbids it, so that its persistence cannot be checked",
            "allow `+config|get` to holdfast's user, or vouch with HOLDFAST_REDIS_VOUCHED=true",
        )
    promises = "" if durability == "memory" else f", though `{durability}` is configured"
    return Finding(
        "CONFIG",
        f"this Redis forbids it and is vouched for: it promises `memory` at most{promises}",
        "allow `+config|get` to holdfast's user where the provider lets you",
        refuses=False,
    )


def _unsynced(config: Mapping[str, str]) -> list[Finding]:
    """What keeps an acknowledged write from being on disk."""
    findings = []
    if config.get("appendonly") != "yes":
        findings.append(
            Finding(
                "appendonly",
                "there is no append-only file: a restart loses what was not settled",
                "CONFIG SET appendonly yes, and the same in redis.conf",
            )
        )
    if config.get("appendfsync") != "always":
        findings.append(
            Finding(
                "appendfsync",
                f"it is {config.get('appendfsync', '?')}: a power cut loses what was acknowledged",
                "CONFIG SET appendfsync always, and the same in redis.conf",
            )
        )
    if config.get("no-appendfsync-on-rewrite") != "no":
        findings.append(
            Finding(
                "no-appendfsync-on-rewrite",
                "it is yes: while the file is rewritten nothing is synced",
                "CONFIG SET no-appendfsync-on-rewrite no, and the same in redis.conf",
            )
        )
    return findings


def _persistence(
    info: Mapping[str, str], config: Mapping[str, str], durability: Durability
) -> list[Finding]:
    findings = []
    if durability != "memory":
        findings += _unsynced(config)
    elif config.get("appendonly") != "yes":
        findings.append(
            Finding(
                "appendonly",
                "there is no append-only file: a restart loses what was not settled",
                "CONFIG SET appendonly yes, and the same in redis.conf",
                refuses=False,
            )
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        findings.append(
            Finding(
                "aof_last_write_status",
                "the last write to the append-only file failed",
                "look at the disk of this node: space, quota, errors in its log",
            )
        )
    return findings
