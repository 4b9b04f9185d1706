"""Configuration: one frozen object, and the one place that reads the environment.

Every setting is `HOLDFAST_<NAME>`; `REDIS_URL` and `DATABASE_URL` are understood as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Durability = Literal["memory", "local", "settled"]


class Config(BaseSettings):
    """What a holdfast process is told from outside. Times and sizes carry their units."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("HOLDFAST_REDIS_URL", "REDIS_URL")
    )
    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("HOLDFAST_DATABASE_URL", "DATABASE_URL")
    )
    data: Path = Field(default=Path(".data"), description="where `holdfast dev` keeps its data")
    url: str | None = Field(default=None, description="service that CLI commands over HTTP call")
    api_key: str | None = Field(default=None, description="API key that CLI commands use")

    prefix: str = Field(default="hf", pattern=r"^[a-z0-9_-]{1,16}$")
    shards: int = Field(default=64, ge=1, le=1000, description="fixed when the database is created")
    durability: Durability = "local"
    redis_vouched: bool = Field(
        default=False,
        description="the operator vouches for a managed Redis that forbids CONFIG; "
        "acknowledgements then promise `memory` at most",
    )
    key_window_s: int = Field(default=86_400, ge=60, le=30 * 86_400)

    call_timeout_ms: int = Field(default=2000, ge=50, le=10_000)
    settled_wait_ms: int = Field(default=2000, ge=50, le=30_000)
    max_in_flight: int = Field(default=4096, ge=16, le=65_536)
    pool_size: int = Field(default=8, ge=2, le=64, description="Postgres connections a process")

    finish_grace_s: int = Field(
        default=120,
        ge=0,
        le=3600,
        description="how long authorised work may finish while Postgres is away; 0 = not at all",
    )
    settle_batch: int = Field(default=2000, ge=1, le=10_000)
    stream_retention_s: int = Field(default=600, ge=0, le=86_400)
    evict_idle_s: int = Field(default=86_400, ge=1)
    evict_above_mb: int = Field(default=1024, ge=1, description="no account is evicted below this")
    api_key_cache_s: int = Field(default=3600, ge=1, le=86_400)
    event_retention_s: int = Field(
        default=30 * 86_400,
        ge=4 * 86_400,  # longer than all attempts of a delivery take
        le=366 * 86_400,
        description="how long events and their deliveries are kept when they are over",
    )
    endpoints_private: bool = Field(
        default=False,
        description="events may go to http URLs, this machine and private networks; for tests and"
        " development",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics_dir: Path | None = Field(
        default=None, description="shared by API workers; a temporary folder if unset"
    )
    proxies: str | None = Field(
        default=None, description="whose X-Forwarded-For is believed; * for everybody's"
    )
    stripe_webhook_secret: SecretStr | None = Field(
        default=None, description="`whsec_…` of the endpoint that Stripe sends its events to"
    )
    test_clock: bool = Field(
        default=False, description="run the test build of the scripts; never in production"
    )
    test_failpoint: str | None = Field(
        default=None,
        description="<point>:<n>: a worker kills itself there; <point>:<n>:stop: it stops there;"
        " never in production",
    )


@cache
def load() -> Config:
    """The configuration of this process. Raises pydantic.ValidationError, naming the variable."""
    return Config()
