"""Typed errors of the broker: what went wrong, with which model, and what to do."""

from __future__ import annotations

from problems import RETRY_LATER, RETRY_SOON, ErrataError


class BrokerError(ErrataError):
    """Base of the broker's errors."""

    code, status, title = "broker-error", 503, "The queue failed"
    headers = RETRY_SOON


class QueueFull(BrokerError):
    """More generation calls wait for this model than the limit allows."""

    code, status, title = "generation-queue-full", 429, "Too many generations wait"
    headers = RETRY_SOON

    def __init__(self, model_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} generation calls already wait for model '{model_id}'.",
            "Ask again shortly, start another worker, or raise ERRATA_GENERATION_QUEUE_LIMIT.",
        )


class NoWorker(BrokerError):
    """No worker that serves this model is alive."""

    code, status, title = "no-worker", 503, "No worker serves the model"
    headers = RETRY_SOON

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"No worker serves model '{model_id}'.",
            f"Start one with `errata worker --model {model_id}`, or wait for one to come back.",
        )


class ModelNotServed(BrokerError):
    """The workers of this model are alive, and none can serve it."""

    code, status, title = "model-not-served", 503, "No worker can serve the model"
    headers = RETRY_LATER

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"No worker can serve model '{model_id}': {reason.rstrip('.')}.",
            f"GET /models/{model_id} says the same; once it is cured, workers go on by themselves.",
        )


class WorkerLost(BrokerError):
    """The worker that had taken a generation call is gone."""

    code, status, title = "worker-lost", 503, "The worker is gone"
    headers = RETRY_SOON

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"The worker that was answering for model '{model_id}' is gone.",
            "Generation is not kept: ask again.",
        )


class MalformedAnswer(BrokerError):
    """What stands in an answer's place in Redis is no part of an answer."""

    code, status, title = "malformed-answer", 503, "The answer cannot be read"
    headers = RETRY_SOON

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"What came as an answer of model '{model_id}' cannot be read.",
            "Give API and workers the same release, and a Redis that nobody else writes to; then ask again.",
        )


class GenerationTimeout(BrokerError):
    """No end of the answer came in time."""

    code, status, title = "generation-timeout", 503, "No worker answered in time"
    headers = RETRY_SOON

    def __init__(self, model_id: str, timeout_s: float) -> None:
        super().__init__(
            f"No complete answer came from model '{model_id}' within {timeout_s:g} s.",
            "Ask for fewer tokens, ask again, or raise ERRATA_GENERATION_TIMEOUT_S.",
        )
