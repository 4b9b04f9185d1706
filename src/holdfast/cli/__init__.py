"""The `holdfast` command.

services   dev, serve, settle, migrate
accounts   account, member: over HTTP, with an API key
holds      hold, charge, grant, refund, adjust: likewise; debts (debt)
plans      plan, allowance, trials (trial): likewise
statistics usage, and `account forecast`: likewise
stores     reconcile, inspect, rebuild, doctor: straight at the stores; likewise
journal, archive, incidents (incident, quarantine), payments (payment, outbox), audit,
clocks (clock), api_keys (key), endpoints (endpoint, delivery), compensations (compensation)
traffic    replay, bench

Every module imports what it needs inside its commands, so that `--help` and completion are quick. A
command returns its exit code, or raises `output.Failure`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli import (
    accounts,
    api_keys,
    archive,
    audit,
    clocks,
    compensations,
    debts,
    endpoints,
    holds,
    incidents,
    journal,
    payments,
    plans,
    services,
    statistics,
    stores,
    traffic,
    trials,
)
from holdfast.cli.output import BUG, EXIT_CODES, USAGE, Failure, note

app = typer.Typer(
    name="holdfast",
    help="A credit service for LLM and chat backends.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

PROGRAMS = "Programs"
SERVICE = "Accounts and credits, through the service"
STORES = "Operations, straight at the stores"
TRAFFIC = "Load"

for program in (services.dev, services.serve, services.settle, services.migrate):
    app.command(rich_help_panel=PROGRAMS)(program)
app.add_typer(accounts.account, name="account", rich_help_panel=SERVICE)
app.add_typer(accounts.member, name="member", rich_help_panel=SERVICE)
app.add_typer(holds.hold, name="hold", rich_help_panel=SERVICE)
for movement in (holds.charge, holds.grant, holds.refund):
    app.command(rich_help_panel=SERVICE)(movement)
app.add_typer(plans.plan, name="plan", rich_help_panel=SERVICE)
app.add_typer(plans.allowance, name="allowance", rich_help_panel=SERVICE)
app.add_typer(trials.trial, name="trial", rich_help_panel=SERVICE)
# -1.5cr is an amount, not an option.
app.command(rich_help_panel=SERVICE, context_settings={"ignore_unknown_options": True})(
    holds.adjust
)
app.add_typer(debts.debt, name="debt", rich_help_panel=SERVICE)
app.command(rich_help_panel=SERVICE)(statistics.usage)
app.add_typer(journal.journal, name="journal", rich_help_panel=STORES)
app.add_typer(archive.archive, name="archive", rich_help_panel=STORES)
for operation in (stores.reconcile, stores.inspect, stores.rebuild, stores.doctor):
    app.command(rich_help_panel=STORES)(operation)
app.add_typer(incidents.incident, name="incident", rich_help_panel=STORES)
app.add_typer(incidents.quarantine, name="quarantine", rich_help_panel=STORES)
app.add_typer(payments.payment, name="payment", rich_help_panel=STORES)
app.add_typer(payments.outbox, name="outbox", rich_help_panel=STORES)
app.command(rich_help_panel=STORES)(audit.audit)
app.add_typer(clocks.clock, name="clock", rich_help_panel=STORES)
app.add_typer(compensations.compensation, name="compensation", rich_help_panel=STORES)
app.add_typer(api_keys.key, name="key", rich_help_panel=STORES)
app.add_typer(endpoints.endpoint, name="endpoint", rich_help_panel=STORES)
app.add_typer(endpoints.delivery, name="delivery", rich_help_panel=STORES)
app.command(rich_help_panel=TRAFFIC)(traffic.replay)
app.add_typer(traffic.bench, name="bench", rich_help_panel=TRAFFIC)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"holdfast {__version__}\n")
        raise typer.Exit


@app.callback()
def _holdfast(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the release."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `EXIT_CODES` says what each means."""
    try:
        code = app(args=arguments, prog_name="holdfast", standalone_mode=False)
    except Failure as failure:
        note(f"holdfast: {failure}")
        return failure.code
    except typer.TyperException as error:  # of its own kinds, all are wrong usage
        error.show()  # type: ignore[attr-defined]
        return USAGE
    except Exception:  # so that a bug is not taken for an answer, which 1 would be
        traceback.print_exc()
        return BUG
    return code if isinstance(code, int) else 0
