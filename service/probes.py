"""What readiness and metrics ask of the servers."""

from __future__ import annotations

from collections import Counter

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from broker import generation, presence
from ledger.db.migrate import current_revision, head_revision, is_older
from ledger.errors import LedgerError
from ledger.jobs import jobs
from ledger.models import models
from ledger.records import ModelRecord
from ledger.states import told
from service.context import Services
from service.paging import every
from service.schemas.health import Check

COUNT_EDIT_SETS = text("SELECT status, count(*) FROM edit_sets GROUP BY status")


def every_model(session: Session) -> list[ModelRecord]:
    """All models."""
    return list(every(session, models.list_all))


def readiness(services: Services) -> list[Check]:
    """What the service needs to answer at all: the database, and its schema."""
    database = _database(services)
    return [database, _migrations(services)] if database.ok else [database]


def status(services: Services) -> list[Check]:
    """Everything that the service needs to do all of its work, each with a reason if it is missing."""
    checks, redis = readiness(services), _redis(services)
    if all(check.ok for check in (*checks, redis)):
        ready = [model for model in services.ledger.run(every_model) if model.status == "ready"]
        return [*checks, redis, *(_worker(services, model) for model in ready)]
    return [*checks, redis]


def _database(services: Services) -> Check:
    try:
        with services.ledger.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, LedgerError):
        reason = "PostgreSQL does not answer; check that it runs and that ERRATA_DATABASE_URL is right"
        return Check(name="database", ok=False, reason=reason)
    return Check(name="database", ok=True)


def _migrations(services: Services) -> Check:
    """Whether the schema is as new as this release; a newer one, during an upgrade, will do."""
    with services.ledger.engine.connect() as connection:
        current = current_revision(connection)
    if is_older(current):
        reason = f"the schema is at {current}, this release needs {head_revision()}; run `errata migrate`"
        return Check(name="migrations", ok=False, reason=reason)
    return Check(name="migrations", ok=True)


def _redis(services: Services) -> Check:
    try:
        services.redis.ping()
    except RedisError:
        reason = "Redis does not answer; check that it runs and that ERRATA_REDIS_URL is right"
        return Check(name="redis", ok=False, reason=reason)
    return Check(name="redis", ok=True)


def _worker(services: Services, model: ModelRecord) -> Check:
    name = f"worker:{model.id}"
    try:
        found = presence.workers(services.redis, model.id)
    except RedisError:
        return Check(name=name, ok=False, reason="Redis does not answer")
    if not found:
        reason = f"no worker serves the model; start one with `errata worker --model {model.id}`"
        return Check(name=name, ok=False, reason=reason)
    if all(worker.state.startswith("failed") for worker in found):
        return Check(name=name, ok=False, reason=f"its workers failed: {found[0].state}")
    return Check(name=name, ok=True)


def measure(services: Services) -> None:
    """Set the metrics that are read from the servers at each scrape; those that are away are marked down."""
    metrics = services.metrics
    registered: list[ModelRecord] = []
    waiting: dict[str, int] = {}
    try:
        with services.ledger.engine.connect() as connection:
            counts: Counter[str] = Counter()
            for name, count in connection.execute(COUNT_EDIT_SETS):
                counts[told(name)] += int(count)
            metrics.edit_sets(counts)
        registered = services.ledger.run(every_model)
        waiting = services.ledger.run(jobs.waiting)
        metrics.dependency("database", up=True)
    except (SQLAlchemyError, LedgerError):
        metrics.dependency("database", up=False)
    try:
        services.redis.ping()
        depths = {(model.id, "edits"): waiting.get(model.id, 0) for model in registered}
        depths |= {
            (model.id, "generation"): generation.waiting(services.redis, model.id) for model in registered
        }
        metrics.queues(depths)
        metrics.dependency("redis", up=True)
    except RedisError:
        metrics.dependency("redis", up=False)
