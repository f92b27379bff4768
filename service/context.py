"""What every request needs: settings, ledger, Redis, doorbell, tokenizers and metrics of one application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from sqlalchemy import event

from broker.queue import Doorbell
from broker.settings import BrokerSettings
from ledger import Ledger
from ledger.db.engine import Transaction
from service.changes import Changes
from service.last_known import LastKnown
from service.metrics import Metrics
from service.settings import ServiceSettings
from service.tokenizers import TokenizerCache


@dataclass(frozen=True)
class Services:
    """The parts of one application.

    `generations` bounds the calls whose answers are waited for; each holds a place as long as it lasts.
    """

    settings: ServiceSettings
    broker_settings: BrokerSettings
    ledger: Ledger
    redis: Redis
    async_redis: AsyncRedis
    doorbell: Doorbell
    changes: Changes
    generations: CapacityLimiter
    last_known: LastKnown
    tokenizers: TokenizerCache = field(default_factory=TokenizerCache)
    metrics: Metrics = field(default_factory=Metrics)


async def services_of(request: Request) -> Services:
    """The parts of the application that answers this request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


async def transaction_of(request: Request) -> Transaction:
    """The transaction of this request, which commits before it is answered; see `guard.GuardedRoute`."""
    tx = request.state.tx
    assert isinstance(tx, Transaction)
    return tx


def ring_after(tx: Transaction, services: Services, model_id: str) -> None:
    """Wake a worker of a model once a transaction has committed."""
    event.listen(tx, "after_commit", lambda _: services.doorbell.ring(model_id), once=True)


ServicesDep = Annotated[Services, Depends(services_of)]
Tx = Annotated[Transaction, Depends(transaction_of)]
