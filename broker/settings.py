"""Settings of the broker: where Redis is and how much generation may wait in it."""

from __future__ import annotations

from pydantic import Field, SecretStr

from problems.settings import ErrataSettings


class BrokerSettings(ErrataSettings):
    """Read from `ERRATA_*` environment variables."""

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey; password and TLS go in the URL: redis://:password@host:6379/0, rediss://…",
    )
    generation_queue_limit: int = Field(
        default=64,
        ge=1,
        description="Generation calls of one model that may wait for a worker; more are answered 429.",
    )
    generation_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds after which a generation call is given up, by whoever waits and by the worker.",
    )
