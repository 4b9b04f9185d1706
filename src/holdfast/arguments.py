"""What the ledger takes and hands on: arguments checked by name, then as the scripts want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from holdfast.errors import InvalidRequest
from holdfast.keys import is_id, is_model
from holdfast.model import MAX_AMOUNT, Context
from holdfast.shards import Argument

MAX_TTL_S = 86_400
MAX_MODELS_BYTES = 512
"""Of the names of an account's models, a space between two: it is a field of a hash in Redis."""
# What each integer of a request may be, both ends included.
_RANGES = {
    "amount": (1, MAX_AMOUNT),
    "min_amount": (1, MAX_AMOUNT),
    "add_amount": (1, MAX_AMOUNT),
    "ttl_seconds": (1, MAX_TTL_S),
    "priority": (0, 1_000_000),
    "daily_limit": (0, MAX_AMOUNT),
    "monthly_limit": (0, MAX_AMOUNT),
    "max_hold": (0, MAX_AMOUNT),
}
_ON_SHORTFALL = ("reject", "cap", "debt")


def check(
    sent: Mapping[str, Any], *, lowest_amount: int = 1, required: str = "", **ids: str | None
) -> None:
    """Refuse, by name, what no script should see. Ids become parts of Redis keys.

    A value that is None was left out. A bool is no integer here.
    """
    for name, value in ids.items():
        if value is not None and not (isinstance(value, str) and is_id(value)):
            raise InvalidRequest.of_field(name, "must be 1 to 128 of A-Z a-z 0-9 _ . : -")
    if required and sent[required] is None:
        raise InvalidRequest.of_field(required, "is required")
    for name, value in sent.items():
        if value is None or name not in _RANGES:
            continue
        low, high = _RANGES[name]
        if name == "amount":
            low = lowest_amount
        if type(value) is not int or not low <= value <= high:
            raise InvalidRequest.of_field(name, f"must be an integer from {low} to {high}")
    least = sent.get("min_amount")
    if least is not None and least > sent["amount"]:
        raise InvalidRequest.of_field("min_amount", "must not be more than amount")
    if sent.get("on_shortfall") not in (None, *_ON_SHORTFALL):
        raise InvalidRequest.of_field("on_shortfall", "must be reject, cap or debt")


def usage_of(model: str | None) -> dict[str, str] | None:
    """The `usage` of a request that names a model, or None. Raises InvalidRequest."""
    if model is None:
        return None
    if not (isinstance(model, str) and is_model(model)):
        raise InvalidRequest.of_field("model", "must be 1 to 128 of A-Z a-z 0-9 _ . : / @ + -")
    return {"model": model}


def models_text(models: Sequence[str]) -> str:
    """Names of models as an account's hash has them. Raises InvalidRequest."""
    wrong = [name for name in models if not (isinstance(name, str) and is_model(name))]
    if isinstance(models, str) or not models or wrong:
        why = "must be a list of names, each 1 to 128 of A-Z a-z 0-9 _ . : / @ + -; null allows all"
        raise InvalidRequest.of_field("models", why)
    if len(set(models)) < len(models):
        raise InvalidRequest.of_field("models", "names a model twice")
    text = " ".join(models)
    if len(text) > MAX_MODELS_BYTES:
        raise InvalidRequest.of_field(
            "models", f"must be at most {MAX_MODELS_BYTES} characters in all, is {len(text)}"
        )
    return text


def setting(name: str, value: Any) -> Argument:
    """A setting of an account as the scripts take it; nothing clears it."""
    if value is None:
        return ""
    if name == "metadata":
        return as_json(value)
    text: Argument = models_text(value) if name == "models" else value
    return text


def or_empty(value: Argument | None) -> Argument:
    """As a script takes what may be left out."""
    return "" if value is None else value


def as_json(value: Any) -> bytes:
    """JSON text, or nothing for None."""
    return b"" if value is None else orjson.dumps(value)


def given(pairs: list[Argument]) -> list[Argument]:
    """The settings that are set; an account opens with the others clear."""
    kept: list[Argument] = []
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        if value not in ("", b""):
            kept += [name, value]
    return kept


def context_text(context: Context, metadata: dict[str, Any] | None = None) -> bytes:
    """The caller's words for the entry, as the JSON text that the script puts in."""
    words: dict[str, Any] = {"request_id": context.request_id, "actor": context.actor}
    if context.address is not None:
        words["address"] = context.address
    if context.traceparent is not None:
        words["traceparent"] = context.traceparent
    if context.description is not None:
        words["description"] = context.description
    if context.reason is not None:
        words["reason"] = context.reason
    if metadata is None:
        metadata = context.metadata
    if metadata is not None:
        words["metadata"] = metadata
    return orjson.dumps(words)
