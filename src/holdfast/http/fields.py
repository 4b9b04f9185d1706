"""Kinds of fields that callers send, each with its bounds and what makes it acceptable."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from holdfast.arguments import MAX_MODELS_BYTES
from holdfast.keys import ID_PATTERN, MODEL_PATTERN
from holdfast.model import MAX_AMOUNT

MAX_METADATA_BYTES: Final = 2048


def _checked_text(text: str) -> str:
    # Postgres keeps no NUL; better to refuse it here than to have an entry that cannot settle.
    if "\0" in text:
        raise ValueError("must not contain the character U+0000")
    return text


def _check_json(value: Any) -> None:
    """Refuse what JSON has no word for, and NUL. As deep as the parser lets a body be: 200."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _checked_text(name)
            _check_json(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner)
    elif isinstance(value, str):
        _checked_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers only")


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        text = orjson.dumps(metadata)
    except TypeError as error:
        raise ValueError("must hold integers of at most 64 bits") from error
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes as JSON, is {len(text)}")
    if b"null" in text or b"\\u0000" in text:  # orjson writes null for NaN and infinity
        _check_json(metadata)
    return metadata


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What an offset moves beyond the last year that a time can be written in could not be answered.
_END_MS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH + timedelta(days=1)) // timedelta(
    milliseconds=1
)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def time_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time. Raises ValueError."""
    if _RFC3339.fullmatch(text) is None:
        raise ValueError("must be an RFC 3339 time with its zone, such as 2030-01-31T00:00:00Z")
    try:
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise ValueError("is no time of the calendar") from error


def time_at(text: str) -> datetime:
    """The moment of an RFC 3339 time, to the millisecond. Raises ValueError."""
    return _EPOCH + timedelta(milliseconds=time_ms(text))


def _checked_time(text: str) -> str:
    if not 0 <= time_ms(text) < _END_MS:
        raise ValueError("must be after 1970, and in UTC before the year 10000")
    return text


def _checked_day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("is no day of the calendar") from error
    return text


Amount = Annotated[
    int, Field(ge=1, le=MAX_AMOUNT, description="microcredits (1 credit = 1,000,000)")
]
AmountOrZero = Annotated[int, Field(ge=0, le=MAX_AMOUNT, description="microcredits; 0 is legal")]
Count = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]
Id = Annotated[str, StringConstraints(pattern=f"^{ID_PATTERN}$")]
Model = Annotated[
    str, StringConstraints(pattern=f"^{MODEL_PATTERN}$"), Field(examples=["openai/gpt-4o-mini"])
]
Models = Annotated[
    list[Model],
    Field(
        min_length=1,
        max_length=MAX_MODELS_BYTES // 2,
        description="reserves and charges must name one of these; null: any, or none",
    ),
]
TtlSeconds = Annotated[int, Field(ge=1, le=86_400, description="seconds; 900 if left out")]
OnShortfall = Annotated[
    Literal["reject", "cap", "debt"],
    Field(description="where more is taken than there is: refuse it, take what there is, or owe"),
]
Words = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_checked_text)]
Cursor = Annotated[str, StringConstraints(max_length=300), AfterValidator(_checked_text)]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128), AfterValidator(_checked_text)
]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_checked_metadata),
    Field(description=f"any JSON object of at most {MAX_METADATA_BYTES} bytes"),
]
Time = Annotated[
    str, AfterValidator(_checked_time), WithJsonSchema({"type": "string", "format": "date-time"})
]
Day = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$"),
    AfterValidator(_checked_day),
    WithJsonSchema({"type": "string", "format": "date"}),
]
NotYet = SkipJsonSchema[None]
"""A field of the contract that a later release takes; until then it is refused, not ignored."""
