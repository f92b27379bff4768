"""A long history: `python -m benchmarks.history [--source FOLDER] [--sets 10000]`.

Applies one-fact edit sets to a tiny model, one after the other, as a worker does: each is accepted,
claimed, loaded and committed on a real PostgreSQL with durable defaults, with statistics that an editor
really takes (in the paper's single-shot form, for speed) and the report of a verification. Then withdraws
some at random, solves for what is left, and compares the delta with that of a fresh ledger which got only
the rest, in another order. Prints one JSON object: the times of the first and the last hundred commits, the
slowest list of a hundred versions over HTTP, the size of the database, and whether the two deltas and all
chains are right.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from pydantic import SecretStr
from sqlalchemy import text

from benchmarks.post_edits import KEY, servers, serving
from broker.settings import BrokerSettings
from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.db.migrate import upgrade
from ledger.edits import edit_sets, facts, withdrawals
from ledger.jobs import commit, jobs
from ledger.models import models, ready
from ledger.records import FactReport, JobInput, NewVersion
from ledger.versions import versions
from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.compose import Composer
from malmen_core.editing.edit import edit
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from service.app import create_app
from service.settings import ServiceSettings
from worker.composing import KnownMembers, solve

MODEL = "tiny"
TOGETHER = 200
PLAN = EditPlan.of({"neighbours": 0, "prior_weight": 0.0, "prior_growth": 0.0, "rounds": 0})
NAMES = ("Lima", "Paris", "Rome", "Oslo", "Cairo", "Delhi", "Tokyo", "Quito")
REPORT: dict[str, Any] = {
    **dict.fromkeys(("edit_success", "generation_success", "exact_success", "locality"), 1.0),
    **{"generalisation": None, "perplexity_ratio": 1.003, "repaired": 0, "superseded": [], "gate_misses": []},
    "gate": {"edit_success": 0.9, "locality": 0.8, "perplexity_ratio": 1.1, "retention": 0.9},
    "live": {
        **{"edit_success": 1.0, "generation_success": 1.0, "retention": 1.0, "worse": [], "facts": 9999},
        **{"measured": 64, "seed": "0" * 64},
    },
}
FACT_REPORT: dict[str, Any] = {
    **{
        "edit_success": 1.0,
        "generation_success": 1.0,
        "exact_success": 1.0,
        "answer": " Lima",
        "margin": 3.1,
    },
    "edit": {"keys": "subject", "subject": "found", "margin": 12.0, "reason": None},
}


def fact(number: int) -> dict[str, Any]:
    """One fact of its own subject."""
    subject = f"Region {number}"
    prompt, target = f"The capital of {subject} is", NAMES[number % len(NAMES)]
    return {
        "prompt": prompt,
        "target": target,
        "subject": subject,
        "rephrasings": [f"{subject}'s capital is"],
    }


class History:
    """A ledger with the tiny model, and a worker's steps on it."""

    def __init__(self, ledger: Ledger, base: BaseModel, editor: Editor, source: str) -> None:
        self.ledger, self.base, self.editor = ledger, base, editor
        self.key, _ = ledger.run(keys.create, "bench", {"read", "edit", "admin"}, KEY, actor="benchmark")
        info = base.info
        described = {
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        }
        data = editor.to_bytes()
        ledger.run(models.register, MODEL, source, None, described, data, actor="benchmark")
        ledger.run(
            ready.mark_ready, MODEL, data, editor.card, {}, base.parameters_digest(), actor="benchmark"
        )
        self.known = KnownMembers()

    def apply(self, number: int, statistics_bytes: bytes) -> tuple[str, float]:
        """Accept and apply one fact: its edit set, and the seconds of claim, load, members and commit."""
        record, _ = self.ledger.run(edit_sets.accept, MODEL, [fact(number)], actor=self.key)
        digest = self.ledger.blobs.put(statistics_bytes)
        delta = self.ledger.blobs.put(f"delta of {record.id}".encode())
        report = FactReport(record.id, 0, FACT_REPORT)
        started = time.perf_counter()
        claim = self.ledger.run(jobs.claim_next, MODEL, "benchmark", 600.0)
        assert claim is not None
        job = self.ledger.run(commit.load, claim, to_solve=True)
        self.known.of(self.ledger, job, digest)
        self.ledger.run(jobs.verifying, claim)
        self._commit(job, digest, delta, report)
        return record.id, time.perf_counter() - started

    def withdraw(self, idents: Sequence[str]) -> None:
        """Withdraw edit sets together, with the delta of what is left."""
        self.ledger.run(withdrawals.request, MODEL, idents, [], "a benchmark", self.key)
        claim = self.ledger.run(jobs.claim_next, MODEL, "benchmark", 600.0)
        assert claim is not None
        job = self.ledger.run(commit.load, claim, to_solve=True)
        self._commit(job, None, self.delta_digest(job), None)

    def delta_digest(self, job: JobInput | None = None) -> str:
        """Solve for the live version, or for the one that a job is to make, and store the delta."""
        if job is None:
            members = tuple(self.ledger.run(versions.members_of, MODEL, "live").values())
        else:
            members = self.known.of(self.ledger, job, None)
        made = solve(
            Composer(self.base, self.editor),
            members,
            lambda digest: Statistics.from_bytes(self.ledger.blobs.get(digest)),
            lambda places: self.ledger.run(facts.at, places),
        )
        return self.ledger.blobs.put(made.delta.to_bytes())

    def _commit(self, job: JobInput, digest: str | None, delta: str, report: FactReport | None) -> None:
        new = NewVersion(
            kind=job.claim.kind,
            parent_number=job.live.number,
            statistics_digest=digest,
            delta_digest=delta,
            weights_digest="sha256:" + "0" * 64,
            report=REPORT,
            gate_met=True,
            fact_reports=() if report is None else (report,),
        )
        self.ledger.run(commit.commit, job.claim, new)


def take(base: BaseModel, editor: Editor, first: int, end: int) -> list[bytes]:
    """Statistics of some facts, each as an edit set of its own; in one shot, no fact sees another."""
    numbers = range(first, min(first + TOGETHER, end))
    whole = edit(base, editor, [Fact.from_json(fact(n)) for n in numbers]).statistics
    found = []
    for n in range(len(numbers)):
        own = whole.fact_T == n
        modules = {m: Rows(r.keys_TU[own], r.differences_TV[own]) for m, r in whole.modules.items()}
        numbers_of_rows = torch.zeros(int(own.sum()), dtype=torch.int64)
        found.append(Statistics(modules, numbers_of_rows, 1, whole.preserved.of({n})).to_bytes())
    return found


def listed(client: httpx.Client) -> float:
    """Milliseconds of a list of a hundred versions."""
    started = time.perf_counter()
    client.get(f"/models/{MODEL}/versions", params={"limit": 100}).raise_for_status()
    return 1000 * (time.perf_counter() - started)


def measure(source: str, sets: int, gone: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run the whole benchmark in a folder."""
    base = BaseModel.load(source, device="cpu", dtype="float32")
    editor = calibrate(base, plan=PLAN)
    taken = [data for first in range(0, sets, TOGETHER) for data in take(base, editor, first, sets)]
    draw = random.Random(seed)
    with servers(folder) as (database_url, redis_url):
        urls = [database_url, database_url.replace("/postgres?", "/second?")]
        upgrade(urls[0])
        settings = LedgerSettings(database_url=urls[0], blob_url=str(folder / "blobs"))
        history = History(Ledger.open(settings), base, editor, source)
        service = ServiceSettings(admin_key=SecretStr(KEY), admin_key_file=folder / "admin.key")
        idents, seconds, lists = [], [], []
        with (
            serving(create_app(service, settings, BrokerSettings(redis_url=redis_url))) as address,
            httpx.Client(base_url=address, headers={"Authorization": f"Bearer {KEY}"}) as client,
        ):
            for number in range(sets):
                ident, took = history.apply(number, taken[number])
                idents.append(ident)
                seconds.append(took)
                if number % 500 == 100:
                    listed(client)
                    lists.append(statistics.median(listed(client) for _ in range(5)))
        with history.ledger.engine.connect() as connection:
            size = connection.scalar(text("SELECT pg_database_size(current_database())"))
            rows = connection.scalar(text("SELECT count(*) FROM memberships"))
        away = set(draw.sample(range(sets), gone))
        history.withdraw([idents[number] for number in away])
        live = history.ledger.run(versions.get, MODEL, "live")
        problems = [vars(problem) for problem in history.ledger.verify().problems]
        history.ledger.close()
        rest = [number for number in range(sets) if number not in away]
        draw.shuffle(rest)
        fresh = _fresh(urls, folder, base, editor, source, [(number, taken[number]) for number in rest])
    hundred = [sum(part) for part in (seconds[:100], seconds[-100:])]
    return {
        "sets": sets,
        "first_hundred_s": round(hundred[0], 3),
        "last_hundred_s": round(hundred[1], 3),
        "last_over_first": round(hundred[1] / hundred[0], 3),
        "median_commit_ms": round(1000 * statistics.median(seconds), 2),
        "slowest_list_ms": round(max(lists), 1),
        "database_mb": round(int(size or 0) / 1e6, 1),
        "membership_rows": rows,
        "withdrawn": gone,
        "delta_digest": live.delta_digest,
        "fresh_delta_digest": fresh,
        "same": live.delta_digest == fresh,
        "problems": problems,
    }


def _fresh(
    urls: Sequence[str],
    folder: Path,
    base: BaseModel,
    editor: Editor,
    source: str,
    sets: Sequence[tuple[int, bytes]],
) -> str:
    """Apply edit sets to a ledger of their own; the digest of its live version's delta."""
    maker = Ledger.open(LedgerSettings(database_url=urls[0], blob_url=str(folder)))
    with maker.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("CREATE DATABASE second"))
    maker.close()
    upgrade(urls[1])
    settings = LedgerSettings(database_url=urls[1], blob_url=str(folder / "others"))
    other = History(Ledger.open(settings), base, editor, source)
    for number, data in sets:
        other.apply(number, data)
    digest = other.delta_digest()
    other.ledger.close()
    return digest


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", help="folder of the model; without one, a tiny Llama is made")
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--withdrawn", type=int, help="how many are withdrawn; a tenth by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)  # the database has the other core
    gone = given.sets // 10 if given.withdrawn is None else given.withdrawn
    with tempfile.TemporaryDirectory() as scratch:
        source = given.source
        if source is None:
            from tests.tiny import save_tiny

            source = str(save_tiny(Path(scratch) / "model"))
        print(json.dumps(measure(source, given.sets, gone, given.seed, Path(scratch))))


if __name__ == "__main__":
    main()
