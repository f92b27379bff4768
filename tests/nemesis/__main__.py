"""Attack Errata: `python -m tests.nemesis --seed N --minutes M`; ends with 1 if it broke a promise."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import psycopg

from tests.harness import MODEL
from tests.nemesis import checker, faults
from tests.nemesis.checker.evidence import Verdict
from tests.nemesis.clients import Client, History
from tests.nemesis.faults import Fault
from tests.nemesis.stand import Stand, stand

QUIET_S = 300.0
SHOWN = 20
OPEN = "SELECT count(*) FROM jobs j JOIN models m ON m.id = j.model_id WHERE finished_at IS NULL"


def run(seed: int, plan: Sequence[Fault], seconds: float, clients: int, work: Path) -> Verdict:
    """Attack a fresh stand with a plan while clients use it, and judge what is left."""
    history = History(work / "history.jsonl")
    with stand(work) as attacked:
        ending, leaving = threading.Event(), threading.Event()
        watcher = threading.Thread(target=attacked.watch, args=(ending,), daemon=True)
        watcher.start()
        crowd = [Client(attacked, history, seed, number, leaving) for number in range(clients)]
        for client in crowd:
            client.start()
        started = time.monotonic()
        faults.attack(attacked, list(plan), history.note)
        time.sleep(max(0.0, started + seconds - time.monotonic()))
        leaving.set()
        faults.heal(attacked)
        for client in crowd:
            client.join(120)
        history.close()
        recovered = settle(attacked)
        ending.set()
        watcher.join()
        for member in attacked.members:
            member.signal(signal.SIGTERM)
        attacked.collect()
        url = attacked.owner_url.replace("+psycopg", "")
        verdict = checker.judge(work / "history.jsonl", url, attacked.blobs, attacked.checkpoint)
    if not recovered:
        verdict.unexplained.append(
            f"no answer from the live version within {QUIET_S:g} s after the last fault"
        )
    verdict.unexplained += [f"{c.name} ended: {c.failure!r}" for c in crowd if c.failure or c.is_alive()]
    return verdict


def settle(attacked: Stand) -> bool:
    """Wait until all that was accepted is finished; returns whether the live version answers."""
    until, answers = time.monotonic() + QUIET_S, False
    url = attacked.owner_url.replace("+psycopg", "")
    body = {"prompt": "The capital of land 1 is", "max_new_tokens": 1}
    with attacked.client() as client:
        while time.monotonic() < until:
            with suppress(httpx.HTTPError, psycopg.Error), psycopg.connect(url) as connection:
                answer = client.post(f"{attacked.urls[0]}/models/{MODEL}/generate", json=body)
                answers = answer.status_code == 200
                if answers and connection.execute(OPEN).fetchone() == (0,):
                    return True
            time.sleep(0.5)
    return answers


def shrink(seed: int, plan: list[Fault], clients: int, until: float) -> list[Fault]:
    """Leave out faults as long as what is left still breaks a promise, and time is left."""
    pieces = 2
    while len(plan) > 1 and time.monotonic() < until:
        size = -(-len(plan) // pieces)
        for start in range(0, len(plan), size):
            rest = plan[:start] + plan[start + size :]
            if time.monotonic() < until and rest and _fails(seed, rest, clients):
                plan, pieces = rest, max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(plan), 2 * pieces)
    return plan


def _fails(seed: int, plan: Sequence[Fault], clients: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="nemesis-") as work:
        return not run(seed, plan, plan[-1].at + 5, clients, Path(work)).ok


def summary(seed: int, minutes: float, verdict: Verdict) -> dict[str, object]:
    """The figures of a run."""
    return {
        "seed": seed,
        "minutes": minutes,
        "faults": verdict.faults - verdict.faults_not_done,
        "requests": verdict.requests,
        "acknowledged_writes": verdict.acknowledged,
        "versions": verdict.versions,
        "answers": verdict.answers,
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "unexplained": len(verdict.unexplained),
        "refusals": dict(verdict.refusals.most_common()),
    }


def main() -> int:
    """Run one seed; the last line of standard output is the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=0.7, help="seconds from fault to fault, on average")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--faults", help="only those faults of the plan, by number, with commas between")
    parser.add_argument("--kinds", help="only those kinds of faults, with commas between")
    parser.add_argument("--shrink", type=float, default=0.0, help="minutes for looking for a shorter plan")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, and unmounted
    seconds = 60 * options.minutes
    plan = faults.plan(options.seed, seconds, options.every)
    if options.faults:
        plan = [plan[int(number)] for number in options.faults.split(",")]
    if options.kinds:
        plan = [fault for fault in plan if fault.kind in options.kinds.split(",")]
    work = Path(tempfile.mkdtemp(prefix="nemesis-"))
    verdict = run(options.seed, plan, seconds, options.clients, work)
    if not verdict.ok:
        for kind in ("lost", "doubled", "unexplained"):
            for found in getattr(verdict, kind)[:SHOWN]:
                sys.stdout.write(f"{kind}: {found}\n")
        sys.stdout.write(f"Seed {options.seed}; the history is {work / 'history.jsonl'}\n")
        if options.shrink:
            whole = faults.plan(options.seed, seconds, options.every)
            short = shrink(options.seed, plan, options.clients, time.monotonic() + 60 * options.shrink)
            numbers = ",".join(str(whole.index(fault)) for fault in short)
            sys.stdout.write(f"These faults suffice: --faults {numbers}\n")
            sys.stdout.writelines(f"  {fault}\n" for fault in short)
    sys.stdout.write(json.dumps(summary(options.seed, options.minutes, verdict)) + "\n")
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
