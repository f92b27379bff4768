"""Health checks of containers: ``python -m errata.health api`` or ``… worker``; exit code 0 means healthy."""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request

ROLES = ("api", "worker")
TIMEOUT_S = 4.0
HEALTHY, UNHEALTHY, USAGE = 0, 1, 2


def api_healthy(port: str) -> bool:
    """Whether the API of this container answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def worker_healthy(model_id: str, host: str) -> bool:
    """Whether a worker of this host has announced itself lately and has not failed."""
    from redis.exceptions import RedisError

    from broker.connection import connect
    from broker.presence import workers
    from broker.settings import BrokerSettings

    try:
        found = workers(connect(BrokerSettings()), model_id)
    except RedisError:
        return False
    own = [worker for worker in found if worker.worker_id.startswith(f"{host}-")]
    return any(not worker.state.startswith("failed") for worker in own)


def main(arguments: list[str]) -> int:
    """Check one role; returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in ROLES:
        sys.stderr.write(f"usage: python -m errata.health {'|'.join(ROLES)}\n")
        return USAGE
    if arguments[0] == "api":
        healthy = api_healthy(os.environ.get("ERRATA_PORT", "8000"))
    else:
        healthy = worker_healthy(os.environ.get("ERRATA_MODEL", ""), socket.gethostname())
    return HEALTHY if healthy else UNHEALTHY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
