"""Connections to Redis that fail soon and recover by themselves."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from broker.settings import BrokerSettings

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


def connect(settings: BrokerSettings) -> Redis:
    """Make a client with its own pool; it connects at its first command.

    One quick retry hides a dropped idle connection; anything longer is left to the caller, who knows whether
    to wait.
    """
    return Redis.from_url(
        settings.redis_url.get_secret_value(), retry=Retry(ConstantBackoff(0.1), 1), **_options(settings)
    )


def connect_async(settings: BrokerSettings) -> AsyncRedis:
    """The same for asynchronous programs; the client belongs to the event loop that uses it first."""
    retry = AsyncRetry(ConstantBackoff(0.1), 1)
    return AsyncRedis.from_url(settings.redis_url.get_secret_value(), retry=retry, **_options(settings))


def _options(settings: BrokerSettings) -> dict[str, Any]:
    local = settings.redis_url.get_secret_value().startswith("unix:")  # a Unix socket has no keepalive to set
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "health_check_interval": 15,
        **({} if local else {"socket_keepalive": True}),
    }
