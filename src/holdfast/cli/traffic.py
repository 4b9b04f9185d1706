"""Load: a trace of LLM calls replayed and audited, and benchmarks."""

from __future__ import annotations

import gc
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from holdfast.cli.arguments import Durability, Shortfall, amount_option
from holdfast.cli.output import (
    DONE,
    USAGE,
    Failure,
    facts,
    note,
    show,
    show_json,
    table,
    undecided,
)
from holdfast.cli.places import ApiKey, Json, Url, address

if TYPE_CHECKING:
    from holdfast.bench import LoadReport

bench = typer.Typer(help="Measure what the service does a second.", no_args_is_help=True)

Connections = Annotated[int, typer.Option("--connections", min=1, help="Callers at once.")]
Seconds = Annotated[float, typer.Option("--seconds", help="How long it is measured.")]
Accounts = Annotated[
    int, typer.Option("--accounts", min=1, help="Accounts that it is spread over.")
]
Seed = Annotated[int, typer.Option("--seed", help="One seed, one load.")]
Zipf = Annotated[
    float, typer.Option("--zipf", help="How unevenly: account k gets a share of k^-this.")
]


Trace = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A CSV trace, .gz too. [one is drawn]"),
]
Rows = Annotated[int | None, typer.Option("--limit", min=1, help="Rows, at most.")]
Speed = Annotated[
    str, typer.Option("--speed", help="real, max, or so many times as fast: 10x, 0.5x.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", help="Calls at once.")]
InputPrice = Annotated[int, typer.Option("--input-price", help="Microcredits an input token.")]
OutputPrice = Annotated[int, typer.Option("--output-price", help="Microcredits an output token.")]
Estimate = Annotated[
    int | None,
    typer.Option(
        "--estimated-output",
        help="Output tokens that a hold counts on. [what 88 % of the calls stay within]",
    ),
]
Failures = Annotated[
    float, typer.Option("--failures", help="Share of calls that fail and are released.")
]
Ttl = Annotated[int, typer.Option("--ttl", help="Seconds that a hold lives.")]
Grant = Annotated[
    Any, amount_option("--grant", "What each account gets. [what its calls can need]")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds for one answer.")]
Patience = Annotated[
    float, typer.Option("--patience", help="Seconds that a call without an outcome is repeated.")
]
JournalWait = Annotated[
    float, typer.Option("--journal-wait", help="Seconds that the journal may take to catch up.")
]


def replay(
    file: Trace = None,
    *,
    limit: Rows = None,
    seed: Seed = 1,
    accounts: Accounts = 100,
    zipf: Zipf = 1.1,
    speed: Speed = "max",
    concurrency: Concurrency = 64,
    input_price: InputPrice = 150,
    output_price: OutputPrice = 600,
    estimated_output: Estimate = None,
    failures: Failures = 0.02,
    ttl: Ttl = 900,
    on_shortfall: Shortfall = None,
    grant: Grant = None,
    durability: Durability = None,
    timeout: Timeout = 10.0,
    patience: Patience = 60.0,
    journal_wait: JournalWait = 30.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Replay a trace of LLM calls as load, then compare the service's books with its answers.

    Every row reserves an estimate and commits the cost. Exits with 1 where balances or journal
    differ from what was acknowledged, with 2 where that could not be compared.
    """
    from holdfast.replay import ReplayOptions  # noqa: PLC0415
    from holdfast.replay_report import replay_and_show  # noqa: PLC0415

    where, key = address(url, api_key)
    try:
        options = ReplayOptions(
            url=where,
            api_key=key,
            file=file,
            limit=limit,
            seed=seed,
            accounts=accounts,
            zipf_exponent=zipf,
            speed=speed,
            concurrency=concurrency,
            input_price=input_price,
            output_price=output_price,
            estimated_output_tokens=estimated_output,
            failure_share=failures,
            ttl_seconds=ttl,
            on_shortfall=on_shortfall or "cap",
            grant=grant,
            durability=durability,
            timeout_s=timeout,
            patience_s=patience,
            journal_wait_s=journal_wait,
        )
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    return replay_and_show(options, as_json=as_json, out=sys.stdout, notes=sys.stderr)


# ── bench ────────────────────────────────────────────────────────────────────────────────────────


@bench.command("http")
def bench_http(
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100)] = 5,
    seconds: Seconds = 5.0,
    connections: Connections = 64,
    accounts: Accounts = 1000,
    as_json: Json = False,
) -> int:
    """What one API process serves, beside the ceiling of this machine, on stores of its own.

    Starts its own Valkey, Postgres and workers in a temporary directory, and ends them.
    """
    from holdfast.bench_http import BenchOptions, run_bench  # noqa: PLC0415
    from holdfast.children import ChildError  # noqa: PLC0415

    options = BenchOptions(
        rounds=rounds, seconds=seconds, connections=connections, accounts=accounts
    )
    try:
        report = run_bench(options, note)
    except (RuntimeError, ChildError) as error:
        raise undecided(str(error)) from None
    if as_json:
        show_json(report)
        return DONE
    names = ("holdfast", "ceiling")
    rows = [
        (what.replace("_", " "), *(_spread(report[name].get(what)) for name in names))
        for what in dict.fromkeys((*report["holdfast"], *report["ceiling"]))
    ]
    show(table(("median (lowest to highest)", *names), rows, numbers=names), "")
    low, high = report["ratio_lowest"], report["ratio_highest"]
    show(f"holdfast serves {report['ratio']:.3f} of the ceiling ({low:.3f} to {high:.3f})")
    return DONE


def _spread(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    return f"{value['median']:,.1f} ({value['lowest']:,.1f} to {value['highest']:,.1f})"


@bench.command("drive")
def bench_drive(
    *,
    connections: Connections = 64,
    seconds: Seconds = 10.0,
    warm_up: Annotated[
        float, typer.Option("--warm-up", help="Seconds of load before it is measured.")
    ] = 1.0,
    accounts: Accounts = 1000,
    zipf: Zipf = 1.1,
    seed: Seed = 1,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Load a running service with reserves and commits, and say what it did."""
    import uvloop  # noqa: PLC0415

    from holdfast.bench import Mix, drive  # noqa: PLC0415
    from holdfast.client import HoldfastError  # noqa: PLC0415

    where, key = address(url, api_key)
    # Nothing the load makes is cyclic, and a collection in between would show as latency.
    gc.disable()
    try:
        mix = Mix(accounts=accounts, zipf_exponent=zipf, seed=seed)
        load = drive(
            where, key, connections=connections, seconds=seconds, mix=mix, warm_up_s=warm_up
        )
        report = uvloop.run(load)
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    except HoldfastError as error:
        raise undecided(f"the accounts cannot be opened: {error}") from None
    if as_json:
        show_json(asdict(report))
    else:
        _show_load(report)
    return DONE


_LATENCIES: Final = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def _show_load(report: LoadReport) -> None:
    show(
        facts(
            {
                "requests/s": f"{report.requests_per_s:,.0f}",
                "requests": f"{report.requests:,} in {report.elapsed_s:.1f} s on"
                f" {report.connections} connections, {report.accounts:,} accounts",
                "reserved": f"{report.reserved:,}",
                "committed": f"{report.committed:,}, {report.over_estimate:,} over their estimate",
                "load generator": f"{report.cpu_share:.0%} of a core",
            }
        ),
        "",
    )
    rows = [
        (name, *(f"{getattr(summary, each):,.2f}" for each in _LATENCIES))
        for name, summary in (("reserve", report.reserve), ("commit", report.commit))
    ]
    columns = ("ms", "p50", "p99", "p99.9", "max")
    show(table(columns, rows, numbers=columns[1:]))
    if report.errors:
        pairs = [(code, f"{count:,}") for code, count in report.errors.items()]
        show("", table(("error", "answers"), pairs, numbers={"answers"}))
