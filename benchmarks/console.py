"""How fast the console's pages answer: `python -m benchmarks.console --source FOLDER`.

Starts PostgreSQL and Valkey from their wheels and the real application on a socket, fills the ledger with facts
that are live, each with a report as a worker would have made it, and prints one JSON object with the median and
the slowest time of each page in milliseconds. No model is loaded: statistics and deltas are a few bytes.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from benchmarks.post_edits import KEY, servers, serving
from broker.settings import BrokerSettings
from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.db.migrate import upgrade
from ledger.edits import edit_sets
from ledger.jobs import commit, jobs
from ledger.models import models, ready
from ledger.records import FactReport, NewVersion
from malmen_core.models.base import inspect_source
from service.app import create_app
from service.settings import ServiceSettings

MODEL = "measured"
REPORT: dict[str, Any] = {
    "edit_success": 1.0,
    "generation_success": True,
    "exact_success": True,
    "generated": " Newtown. It lies",
    "rephrasings": [1.0, 0.5],
    "unchanged_prompts": [1.0, 1.0],
    "locality_prompts": [1.0, 1.0],
    "edit": {"keys": "given", "margin": 3.2, "known": False, "reason": None},
}
SUMMARY = {"edit_success": 1.0, "generation_success": 1.0, "locality": 1.0, "perplexity_ratio": 1.001}
FORM = re.compile(r'name="csrf" value="(\w+)"')


def fill(ledger: Ledger, source: str, sets: int, size: int) -> str:
    """Apply edit sets to a model that is never loaded, and return the id of the last."""
    info = inspect_source(source, None, None)
    names = ("architecture", "context_length", "modules", "digest")
    shown = {name: getattr(info, name) for name in names} | {"modules": list(info.modules)}
    ledger.run(models.register, MODEL, source, None, shown, actor="benchmark")
    ledger.run(ready.mark_ready, MODEL, b"editor", {}, {}, "sha256:" + "7" * 64, actor="benchmark")
    key, _ = ledger.run(keys.create, "benchmark", {"edit"}, actor="benchmark")
    for number in range(sets):
        facts = [
            {
                "prompt": f"Town {n} of region {number} is called",
                "target": f"Newtown {n}",
                "subject": f"region {number}, town {n}",
                "rephrasings": ["It bears the name", "People call it"],
                "locality": [{"prompt": "The river is called"}, {"prompt": "The capital of Peru is"}],
                "author": f"author {n % 7}",
                "ticket": f"T-{number}",
            }
            for n in range(size)
        ]
        accepted, _ = ledger.run(edit_sets.accept, MODEL, facts, actor=key)
        _apply(ledger, accepted.id, accepted.job_id, size)
    return accepted.id


def _apply(ledger: Ledger, ident: str, job_id: str, size: int) -> None:
    """Commit the version of an edit set without computing it."""
    claim = ledger.run(jobs.claim, job_id, "benchmark", 60)
    assert claim is not None
    parent = ledger.run(commit.load, claim).live.number
    ledger.run(jobs.verifying, claim)
    made = NewVersion(
        kind="edit",
        parent_number=parent,
        statistics_digest=ledger.blobs.put(f"statistics {ident}".encode()),
        delta_digest=ledger.blobs.put(f"delta {ident}".encode()),
        weights_digest="sha256:" + "7" * 64,
        report=SUMMARY,
        gate_met=True,
        fact_reports=tuple(FactReport(ident, at, REPORT) for at in range(size)),
    )
    ledger.run(commit.commit, claim, made)


def measure(source: str, sets: int, size: int, requests: int) -> dict[str, Any]:
    """Fill a ledger, sign in, and time each page."""
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as (database_url, redis_url):
        upgrade(database_url)
        app = create_app(
            ServiceSettings(admin_key=SecretStr(KEY), admin_key_file=Path(name) / "admin.key"),
            LedgerSettings(database_url=database_url, blob_url=f"{name}/blobs"),
            BrokerSettings(redis_url=redis_url),
        )
        last = fill(app.state.services.ledger, source, sets, size)
        pages = {
            "models": "/models",
            "edits": "/edits",
            "new edit": "/edits/new",
            "edit set": f"/edits/{last}",
            "edit set, filtered": f"/edits/{last}?lacking=generalisation",
            "versions": f"/models/{MODEL}",
            "version": f"/models/{MODEL}/versions/live",
            "versions compared": f"/models/{MODEL}/compare?version=live&since=0",
            "facts": "/facts",
            "facts searched": "/facts?q=town+77+of&author=author&live=yes",
            "fact": f"/facts/{last}.0",
            "playground": "/playground",
            "ledger": "/ledger",
            "keys": "/keys",
        }
        with serving(app) as url, httpx.Client(base_url=f"{url}/console", trust_env=False) as client:
            client.follow_redirects = True
            form = FORM.search(client.get("/sign-in").text)
            assert form is not None
            client.post("/sign-in", data={"csrf": form.group(1), "key": KEY}).raise_for_status()
            times = {page: _times(client, path, requests) for page, path in pages.items()}
    shown = {page: {"median_ms": statistics.median(each), "max_ms": each[-1]} for page, each in times.items()}
    return {"facts": sets * size, "requests": requests, "pages": shown}


def _times(client: httpx.Client, path: str, requests: int) -> list[float]:
    """Sorted milliseconds of a page, once it has been asked for."""
    client.get(path).raise_for_status()
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        client.get(path).raise_for_status()
        times.append(round(1000 * (time.perf_counter() - started), 1))
    return sorted(times)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", required=True, help="hub id or folder of the model")
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--size", type=int, default=500, help="facts of a set")
    parser.add_argument("--requests", type=int, default=20)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(json.dumps(measure(given.source, given.sets, given.size, given.requests)))


if __name__ == "__main__":
    main()
