"""Calls that have no method in the client, and answers that are shown as they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from holdfast.cli.output import DONE, moment, more, show, show_json, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.client import Client

Document = dict[str, Any]


def ask(
    connected: Client,
    op: str,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Document | None = None,
) -> Document:
    """The document that one call answers. Raises what the client raises."""
    from holdfast.client.call import Call  # noqa: PLC0415

    def read(document: Document, **_: Any) -> Document:
        return document

    call: Call[Document] = Call(
        op=op, method=method, path=path, read=read, query=query or {}, body=body
    )
    return connected.send(call)


def show_documents(
    page: Document,
    columns: Sequence[str],
    row: Callable[[Document], Sequence[Any]],
    *,
    numbers: Collection[str],
    folds: Collection[str],
    as_json: bool,
) -> int:
    """A page of a list; `row` gives the cells of one document, in the order of the columns."""
    if as_json:
        show_json(page)
        return DONE
    rows = [row(each) for each in page["data"]]
    show(table(columns, rows, numbers=numbers, folds=folds))
    more(page["next"])
    return DONE


def utc(text: str | None) -> str:
    """A time of an answer; nothing for none."""
    return "" if text is None else moment(datetime.fromisoformat(text))
