"""Mixed load without faults: `python -m tests.soak --minutes M`; ends with 1 if something grows.

Memory, open files, threads and connections of each process are looked at every few seconds, and the time that each
kind of call takes is compared between the start and the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.nemesis import checker
from tests.nemesis.__main__ import settle
from tests.nemesis.clients import Client, History
from tests.nemesis.stand import Member, Stand, stand

EVERY_S = 5.0
GREATEST_GROWTH = {"rss_mb": 1.15, "files": 1.2, "threads": 1.2, "connections": 1.2}
"""Of the last third over the middle third; what a process has after its start is warming up."""
Sample = dict[str, float]


def look(member: Member) -> Sample:
    """What one process takes up now."""
    assert member.child is not None
    process = psutil.Process(member.child.pid)
    with process.oneshot():
        return {
            "rss_mb": round(process.memory_info().rss / 2**20, 1),
            "files": process.num_fds(),
            "threads": process.num_threads(),
        }


def sessions(url: str) -> int:
    """How many sessions PostgreSQL has."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(url) as connection:
        return int(connection.execute(query).fetchone()[0])  # type: ignore[index]


def run(soaked: Stand, seconds: float, clients: int, history: History) -> dict[str, list[Sample]]:
    """Load a stand for a while and return the samples of each process."""
    ending, samples = threading.Event(), defaultdict[str, list[Sample]](list)
    url = soaked.owner_url.replace("+psycopg", "")
    crowd = [Client(soaked, history, 0, number, ending) for number in range(clients)]
    for client in crowd:
        client.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(EVERY_S)
        for member in soaked.members:
            with suppress(psutil.NoSuchProcess):
                samples[member.name].append(look(member))
        samples["postgres"].append({"connections": sessions(url)})
    ending.set()
    for client in crowd:
        client.join(60)
        if client.failure is not None:
            raise client.failure
    return samples


def grown(samples: dict[str, list[Sample]]) -> list[str]:
    """What has grown from the middle third to the last."""
    found = []
    for name, each in samples.items():
        third = max(1, len(each) // 3)
        for what in each[0]:
            middle = statistics.median(sample[what] for sample in each[third : 2 * third] or each)
            last = statistics.median(sample[what] for sample in each[-third:])
            if last > GREATEST_GROWTH[what] * middle:
                found.append(f"{what} of {name} grew from {middle:g} to {last:g}")
    return found


def latencies(entries: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Median and 99th percentile in ms of each kind of call, in the first and the last third."""
    answered = [entry for entry in entries if "op" in entry and 200 <= entry["status"] < 300]
    begin, end = answered[0]["t0"], answered[-1]["t1"]
    parts: dict[str, defaultdict[str, list[float]]] = {"start": defaultdict(list), "end": defaultdict(list)}
    for entry in answered:
        share = (entry["t0"] - begin) / (end - begin)
        if share < 1 / 3 or share > 2 / 3:
            parts["start" if share < 0.5 else "end"][entry["op"]].append(1000 * (entry["t1"] - entry["t0"]))
    return {
        part: {op: _percentiles(times) for op, times in sorted(found.items())}
        for part, found in parts.items()
    }


def _percentiles(times: list[float]) -> list[float]:
    ordered = sorted(times)
    return [
        round(ordered[len(ordered) // 2], 1),
        round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
    ]


def main() -> int:
    """Soak, judge, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    history = History(work / "history.jsonl")
    with stand(work) as soaked:
        samples = run(soaked, 60 * options.minutes, options.clients, history)
        settle(soaked)
        history.close()
        for member in soaked.members:
            member.signal(signal.SIGTERM)
        soaked.collect()
        url = soaked.owner_url.replace("+psycopg", "")
        verdict = checker.judge(work / "history.jsonl", url, soaked.blobs, soaked.checkpoint)
    entries = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
    wrong = grown(samples) + verdict.lost + verdict.doubled + verdict.unexplained
    figures = {
        "minutes": options.minutes,
        "requests": verdict.requests,
        "acknowledged_writes": verdict.acknowledged,
        "versions": verdict.versions,
        "processes": {name: {"first": each[0], "last": each[-1]} for name, each in samples.items()},
        "median_and_p99_ms": latencies(entries),
        "wrong": wrong,
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
