"""Connections to Redis that fail soon and recover by themselves."""

from __future__ import annotations

from redis import Redis
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
    local = settings.redis_url.startswith("unix:")  # a Unix socket has no keepalive to set
    return Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=ANSWER_TIMEOUT_S,
        health_check_interval=15,
        retry=Retry(ConstantBackoff(0.1), 1),
        **({} if local else {"socket_keepalive": True}),
    )
