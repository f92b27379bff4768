"""Composition at length: `python -m benchmarks.ledger --source FOLDER [--editor FILE --facts FILE.jsonl]`.

Two workers apply many edit sets, then withdraw some of them in random order, on real servers; a fresh ledger
gets the surviving sets only, in another order. Prints one JSON object: how long sets took, whether both
ledgers have the same delta, the surviving facts' edit success relative to what it was when each was applied,
how fast rolling back commits, and whether the chain holds. `--spread` has every set ask about the same few
subjects.

A hundred sets take hours. With `--home` both ledgers stay in a folder, and a run that was broken off is gone
on with by the same command; times are of what was not broken off.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.post_edits import KEY, servers
from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.db.migrate import upgrade
from ledger.edits import edit_sets as ledger_edit_sets
from ledger.edits import facts as ledger_facts
from ledger.edits import withdrawals as ledger_withdrawals
from ledger.errors import NotFound, NotLive
from ledger.models import aliases, models
from ledger.records import EditSetRecord, KeyRecord, WithdrawalRecord
from ledger.states import FINAL_STATUSES
from ledger.versions import versions
from malmen_core.models.base import inspect_source

MODEL = "measured"
OPEN_GATE = {
    "edit_success": 0.0,
    "generation_success": 0.0,
    "neighbours_unchanged": 0.0,
    "perplexity_ratio": 1e9,
    "retention": 0.0,
}
ROLLBACKS = 200
FORMS = ("capital", "river", "language", "currency", "anthem")
Facts = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """What to measure: the model, the size, and where facts come from."""

    source: str
    editor: str | None
    facts: str | None
    sets: int
    size: int
    withdrawals: int
    workers: int
    seed: int
    spread: bool


class Journal:
    """What a run has done so far, in a file."""

    def __init__(self, path: Path, given: Given) -> None:
        """Read what an earlier run of the same has written.

        Raises:
            SystemExit: that run was of something else.
        """
        self._path = path
        self._done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if self.once("given", lambda: asdict(given)) != asdict(given):
            raise SystemExit(f"{path.parent} was begun with {self._done['given']}: give another --home.")

    def once(self, what: str, run: Callable[[], Any]) -> Any:
        """What a function gives, which is run if it was not run to its end before."""
        if what not in self._done:
            self._done[what] = run()
            unfinished = self._path.with_suffix(".new")
            unfinished.write_text(json.dumps(self._done, indent=1))
            unfinished.replace(self._path)
        return self._done[what]


def edit_sets(given: Given) -> list[Facts]:
    """The edit sets, all different; spread over common subjects if asked."""
    if given.facts is not None:
        lines = Path(given.facts).read_text().splitlines()[: given.sets * given.size]
        found = [json.loads(line) for line in lines]
        if len(found) < given.sets * given.size:
            raise SystemExit(f"{given.facts} has {len(found)} facts; {given.sets * given.size} are needed.")
        return [found[n * given.size : (n + 1) * given.size] for n in range(given.sets)]
    return [[_made_up(given, number, n) for n in range(given.size)] for number in range(given.sets)]


def _made_up(given: Given, number: int, n: int) -> dict[str, Any]:
    subject = f"Region {n}" if given.spread else f"Region {number * given.size + n}"
    if given.spread and number >= len(FORMS):
        form = f"{FORMS[number % len(FORMS)]} number {number}"
    else:
        form = FORMS[number % len(FORMS)]
    names = ("Lima", "Paris", "Rome", "Oslo", "Cairo", "Delhi", "Tokyo", "Quito")
    target = names[(number + 3 * n) % len(names)]
    return {"prompt": f"The {form} of {subject} is called", "target": target, "subject": subject}


class Site:
    """A ledger with a registered model and workers."""

    def __init__(self, database_url: str, redis_url: str, folder: Path, given: Given) -> None:
        upgrade(database_url)
        self.ledger = Ledger.open(LedgerSettings(database_url=database_url, blob_url=str(folder / "blobs")))
        self.journal = Journal(folder / "journal.json", given)
        self.key: KeyRecord = self.ledger.run(keys.ensure_admin, KEY)
        try:
            self.ledger.run(models.get, MODEL)
        except NotFound:
            self._register(given)
        environment = os.environ | {
            "ERRATA_DATABASE_URL": database_url,
            "ERRATA_REDIS_URL": redis_url,
            "ERRATA_BLOB_URL": str(folder / "blobs"),
            "ERRATA_MODEL": MODEL,
            "ERRATA_LOG_LEVEL": "ERROR",
        }
        command = [sys.executable, "-m", "worker"]
        self.workers = [subprocess.Popen(command, env=environment) for _ in range(given.workers)]
        while self.ledger.run(models.get, MODEL).status != "ready":
            if self.ledger.run(models.get, MODEL).status == "failed":
                raise SystemExit(f"The model failed: {self.ledger.run(models.get, MODEL).error}")
            time.sleep(0.2)

    def _register(self, given: Given) -> None:
        info = inspect_source(given.source, None, None)
        shown = {
            "architecture": info.architecture,
            "context_length": info.context_length,
            "modules": list(info.modules),
            "digest": info.digest,
        }
        editor = None if given.editor is None else Path(given.editor).read_bytes()
        self.ledger.run(
            models.register, MODEL, given.source, None, shown, editor, OPEN_GATE, actor="benchmark"
        )

    def close(self) -> None:
        """Stop the workers."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.ledger.close()

    def post(self, number: int, facts: Facts) -> str:
        """Accept an edit set, once."""
        record, _ = self.ledger.run(
            ledger_edit_sets.accept, MODEL, facts, actor=self.key, idempotency_key=f"set {number}"
        )
        return record.id

    def apply_all(self, sets: Mapping[int, Facts]) -> tuple[list[str], float]:
        """Apply sets as fast as they go: their ids, and seconds."""
        idents = {number: self.post(number, facts) for number, facts in sets.items()}
        took = [
            self.journal.once(
                f"set {n} applied",
                partial(_wait, lambda of: self.ledger.run(ledger_edit_sets.get, of), ident),
            )
            for n, ident in idents.items()
        ]
        return list(idents.values()), sum(took)

    def withdraw(self, number: int, ident: str) -> float:
        """Withdraw an edit set and wait: seconds."""

        def take_back() -> float:
            try:
                asked = self.ledger.run(ledger_withdrawals.request, MODEL, [ident], [], "benchmark", self.key)
            except NotLive:  # withdrawn by a run that was broken off before it could say so
                return 0.0
            return _wait(lambda ident: self.ledger.run(ledger_withdrawals.get, ident), asked.id)

        return float(self.journal.once(f"set {number} withdrawn", take_back))

    def apply_timed(self, sets: Sequence[Facts]) -> tuple[list[str], list[float]]:
        """Apply the first two and the last one alone, for their times, and the others as fast as they go."""
        numbered, last = list(enumerate(sets)), len(sets) - 1
        idents: list[str] = []
        times: list[float] = []
        for some in (numbered[:1], numbered[1:2], numbered[2:last], numbered[last:]):
            made, took = self.apply_all(dict(some))
            idents += made
            times.append(took)
        return idents, times


def _wait(read: Callable[[str], EditSetRecord | WithdrawalRecord], ident: str) -> float:
    """Wait until something that was asked for is applied: seconds."""
    started = time.perf_counter()
    while (record := read(ident)).status not in FINAL_STATUSES:
        time.sleep(0.01)
    if record.status != "applied":
        raise SystemExit(f"{ident} ended as {record.status}: {record.error}")
    return time.perf_counter() - started


@contextmanager
def site(given: Given, folder: Path) -> Iterator[Site]:
    """Open a site on servers of its own, whose data are in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with servers(folder) as (database_url, redis_url):
        made = Site(database_url, redis_url, folder, given)
        try:
            yield made
        finally:
            made.close()


def roll_back_times(made: Site) -> list[float]:
    """Milliseconds of rolling back to and fro between the last two versions."""
    newest = made.ledger.run(versions.list_all, MODEL, 2).items
    times = []
    for n in range(ROLLBACKS):
        started = time.perf_counter()
        made.ledger.run(aliases.roll_back, MODEL, newest[n % 2].number, "benchmark", made.key)
        times.append(1000 * (time.perf_counter() - started))
    made.ledger.run(aliases.roll_back, MODEL, newest[0].number, "benchmark", made.key)
    return sorted(times)


def success_of(made: Site, idents: Sequence[str]) -> dict[str, Any]:
    """Edit success of the facts of some sets together: as each was applied, and in the live version.

    The live figures are those of the sample that the worker measured: see ERRATA_VERIFY_LIVE_FACTS.
    """
    alone = [
        float((fact.report or {})["edit_success"])
        for ident in idents
        for fact in made.ledger.run(ledger_facts.list_of, ident, 500).items
    ]
    report = dict(made.ledger.run(versions.get, MODEL, "live").report or {})
    live = report["live"]
    return {
        "applied": statistics.fmean(alone),
        "live": float(live["edit_success"]),
        "live_measured": live["measured"],
        "ratio": live["retention"],
    }


def measure(given: Given, home: Path) -> dict[str, Any]:
    """Run the whole benchmark, or what is left of it, in a folder."""
    draw = random.Random(given.seed)
    sets = edit_sets(given)
    with site(given, home / "first") as first:
        idents, times = first.apply_timed(sets)
        gone = draw.sample(range(given.sets), given.withdrawals)
        withdrawn_s = sum(first.withdraw(number, idents[number]) for number in gone)
        kept = [number for number in range(given.sets) if number not in gone]
        live = first.ledger.run(versions.get, MODEL, "live")
        success = success_of(first, [idents[number] for number in kept])
        rollbacks = roll_back_times(first)
        problems = [vars(problem) for problem in first.ledger.verify().problems]
    with site(given, home / "second") as second:
        draw.shuffle(kept)
        second.apply_all({number: sets[number] for number in kept})
        fresh = second.ledger.run(versions.get, MODEL, "live")
    return {
        **vars(given),
        "first_s": round(times[0], 3),
        "second_s": round(times[1], 3),
        "last_s": round(times[-1], 3),
        "last_over_second": round(times[-1] / times[1], 3),
        "all_s": round(sum(times), 3),
        "withdrawal_s": round(withdrawn_s / max(given.withdrawals, 1), 3),
        "rollback_median_ms": round(statistics.median(rollbacks), 2),
        "rollback_p99_ms": round(rollbacks[int(0.99 * (len(rollbacks) - 1))], 2),
        "delta_digest": live.delta_digest,
        "fresh_delta_digest": fresh.delta_digest,
        "same": live.delta_digest == fresh.delta_digest,
        "edit_success": success,
        "problems": problems,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", required=True, help="hub id or folder of the model")
    parser.add_argument("--editor", help="editor file; without one, the worker calibrates")
    parser.add_argument("--facts", help="JSON lines with prompt, target, subject; without, facts are made up")
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--size", type=int, default=20, help="facts of a set")
    parser.add_argument("--withdrawals", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", action="store_true", help="all sets ask about the same subjects")
    parser.add_argument("--home", type=Path, help="folder of both ledgers; a run in it is gone on with")
    words = vars(parser.parse_args())
    home: Path | None = words.pop("home")
    given = Given(**words)
    if given.sets < 4 or given.withdrawals >= given.sets:
        parser.error("--sets must be at least 4, and more than --withdrawals")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(given, home or Path(scratch))))


if __name__ == "__main__":
    main()
