"""What operators watch: requests, edit sets, queues and generation, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GENERATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("errata_http_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "errata_http_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            labels,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._generation = Histogram(
            "errata_generation_seconds",
            "Seconds that a generation took, queueing included.",
            ("model", "outcome"),
            buckets=GENERATION_BUCKETS,
            registry=self.registry,
        )
        self._edit_sets = Gauge(
            "errata_edit_sets", "Edit sets in the ledger.", ("status",), registry=self.registry
        )
        self._queue = Gauge(
            "errata_queue_depth", "What waits for workers.", ("model", "queue"), registry=self.registry
        )
        self._up = Gauge(
            "errata_dependency_up", "Whether a server answers.", ("dependency",), registry=self.registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route, str(status)).observe(seconds)

    def generation(self, model_id: str, outcome: str, seconds: float) -> None:
        """Count one generation; outcome is stop, length, cancelled or the code of a problem."""
        self._generation.labels(model_id, outcome).observe(seconds)

    def edit_sets(self, counts: Mapping[str, int]) -> None:
        """Set how many edit sets have each status."""
        self._edit_sets.clear()
        for status, count in counts.items():
            self._edit_sets.labels(status).set(count)

    def queues(self, depths: Mapping[tuple[str, str], int]) -> None:
        """Set how much waits, by model and queue (edits, generation)."""
        self._queue.clear()
        for (model_id, queue), depth in depths.items():
            self._queue.labels(model_id, queue).set(depth)

    def dependency(self, name: str, *, up: bool) -> None:
        """Set whether a server answers."""
        self._up.labels(name).set(1 if up else 0)

    def render(self) -> bytes:
        """All metrics as text."""
        return generate_latest(self.registry)
