"""The faults: a plan drawn from a seed, and what each does to a stand."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import psycopg
from redis import Redis
from redis.exceptions import RedisError

from tests import nursery
from tests.faults.proxy import Cut
from tests.nemesis.stand import STARTING, Member, Stand
from tests.tiny import tiny_llama

SQL_S = 5


@dataclass(frozen=True)
class Fault:
    """One fault of a plan.

    Attributes:
        at: seconds from the start of the attack.
        kind: a key of `KINDS`.
        target: which process, blob or connection; taken modulo how many there are.
        lasts: seconds for which it lasts, where it lasts at all.
    """

    at: float
    kind: str
    target: int
    lasts: float


def plan(seed: int, seconds: float, every_s: float) -> list[Fault]:
    """Draw the faults of an attack."""
    random, at, faults = Random(f"faults {seed}"), 0.0, []
    kinds, weights = list(KINDS), [KINDS[kind].weight for kind in KINDS]
    while (at := at + random.expovariate(1 / every_s)) < seconds:
        kind = random.choices(kinds, weights)[0]
        lasts = round(random.uniform(0.3, KINDS[kind].longest_s), 2)
        faults.append(Fault(round(at, 2), kind, random.randrange(1000), lasts))
    return faults


def attack(stand: Stand, faults: list[Fault], note: Callable[[dict[str, Any]], None]) -> None:
    """Do the faults of a plan, each at its time or as soon as the one before it is over."""
    started = time.monotonic()
    for number, fault in enumerate(faults):
        time.sleep(max(0.0, started + fault.at - time.monotonic()))
        begun, error = time.time(), None
        try:
            KINDS[fault.kind].do(stand, fault)
        except (psycopg.Error, RedisError, OSError, psutil.Error) as failed:
            error = f"{type(failed).__name__}: {failed}"
        note({"fault": number, **vars(fault), "t0": begun, "t1": time.time(), "not_done": error})


def heal(stand: Stand) -> None:
    """Undo whatever a fault may have left behind."""
    for member in stand.members:
        member.signal(signal.SIGCONT)
        member.proxy.cut, member.proxy.delay_s = None, 0.0
        member.proxy.set_down(False)
    stand.start_postgres()
    stand.start_valkey()


def _members(stand: Stand, fault: Fault) -> Member:
    return stand.members[fault.target % len(stand.members)]


def _worker(stand: Stand, fault: Fault) -> Member:
    return stand.workers[fault.target % len(stand.workers)]


def kill(stand: Stand, fault: Fault) -> None:
    """End a process at once; whoever watches starts it again."""
    _members(stand, fault).signal(signal.SIGKILL)


def terminate(stand: Stand, fault: Fault) -> None:
    """Ask a process to end."""
    _members(stand, fault).signal(signal.SIGTERM)


def pause(stand: Stand, fault: Fault) -> None:
    """Stop a process for longer than a lease, perhaps, and let it go on."""
    member = _members(stand, fault)
    member.signal(signal.SIGSTOP)
    time.sleep(fault.lasts)
    member.signal(signal.SIGCONT)


def cut_before(stand: Stand, fault: Fault) -> None:
    """Cut a connection before its next COMMIT arrives."""
    _members(stand, fault).proxy.cut = Cut.BEFORE_COMMIT


def cut_after(stand: Stand, fault: Fault) -> None:
    """Cut a connection after its next COMMIT is done, with the reply lost."""
    _members(stand, fault).proxy.cut = Cut.AFTER_COMMIT


def unreachable(stand: Stand, fault: Fault) -> None:
    """Keep PostgreSQL from one process."""
    proxy = _members(stand, fault).proxy
    proxy.set_down(True)
    time.sleep(fault.lasts)
    proxy.set_down(False)


def slow(stand: Stand, fault: Fault) -> None:
    """Hold back what one process sends to PostgreSQL."""
    proxy = _members(stand, fault).proxy
    proxy.delay_s = 0.15
    time.sleep(fault.lasts)
    proxy.delay_s = 0.0


def empty_redis(stand: Stand, fault: Fault) -> None:
    """Lose all that Redis holds."""
    with Redis.from_url(stand.valkey.connection_url, socket_timeout=SQL_S) as client:
        client.flushall()


def stop_redis(stand: Stand, fault: Fault) -> None:
    """End Redis, and start an empty one after a while."""
    stand.valkey.terminate()
    time.sleep(fault.lasts)
    stand.start_valkey()


def pause_redis(stand: Stand, fault: Fault) -> None:
    """Stop Redis for a while; connections stay open."""
    process = psutil.Process(stand.valkey._process.pid)
    process.suspend()
    time.sleep(fault.lasts)
    process.resume()


def kill_postgres(stand: Stand, fault: Fault) -> None:
    """End PostgreSQL at once, and start it after a while; it recovers from its log."""
    stand.postgres.kill()
    time.sleep(fault.lasts)
    stand.start_postgres()


def restart_postgres(stand: Stand, fault: Fault) -> None:
    """End PostgreSQL in good order but with its clients cut off, and start it after a while."""
    stand.postgres.stop()
    time.sleep(fault.lasts)
    stand.start_postgres()


@contextmanager
def _as_owner(stand: Stand) -> Iterator[psycopg.Connection[Any]]:
    url = stand.owner_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True, connect_timeout=SQL_S) as connection:
        yield connection


def end_backends(stand: Stand, fault: Fault) -> None:
    """End every session of PostgreSQL from within."""
    with _as_owner(stand) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def clock_steps(stand: Stand, fault: Fault) -> None:
    """Move leases as a step of the database's clock would: all of them are over, or last longer."""
    seconds = -60 if fault.target % 2 else 4
    with _as_owner(stand) as connection:
        connection.execute(
            "UPDATE jobs SET lease_expires_at = lease_expires_at + make_interval(secs => %s) "
            "WHERE finished_at IS NULL AND lease_expires_at IS NOT NULL",
            (seconds,),
        )


def full_disk(stand: Stand, fault: Fault) -> None:
    """Fill up the blob store's file system, or where it is not one of its own, refuse all writes."""
    if not stand.full_store:
        refuse_writes(stand, fault)
        return
    filler = stand.blobs.parent / "filler"
    try:
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
    finally:
        time.sleep(fault.lasts)
        filler.unlink()


def refuse_writes(stand: Stand, fault: Fault) -> None:
    """Put a file where the blob store wants its folder of unfinished blobs."""
    incoming, away = stand.blobs / "incoming", stand.blobs / "away"
    incoming.rename(away)
    incoming.touch()
    time.sleep(fault.lasts)
    incoming.unlink()
    try:
        away.rename(incoming)
    except OSError:  # a blob was begun in a new one
        shutil.rmtree(away)


def flip_blob(stand: Stand, fault: Fault) -> None:
    """Change one bit of a stored blob, and restore it after a while."""
    blobs = sorted(stand.blobs.glob("sha256/??/*"), key=lambda path: path.stat().st_mtime)
    _corrupt_for(blobs[-1 - fault.target % min(len(blobs), 12)], fault)


def _corrupt_for(path: Path, fault: Fault) -> None:
    """Change one bit in place, and put the right content there after a while, as `put` does itself."""
    content = path.read_bytes()
    at = fault.target * 7919 % len(content)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))
    time.sleep(fault.lasts)
    draft = path.with_name(f"{path.name}.restored")
    draft.write_bytes(content)
    draft.rename(path)


def replace_checkpoint(stand: Stand, fault: Fault) -> None:
    """Overwrite the checkpoint that is served, in place, and put the right one there after a while."""
    path = stand.checkpoint / "model.safetensors"
    content = path.read_bytes()
    other = stand.work / "other"
    if not other.exists():
        tiny_llama(seed=1).save_pretrained(other)
    path.write_bytes((other / "model.safetensors").read_bytes())
    time.sleep(fault.lasts)
    path.write_bytes(content)


def other_dtype(stand: Stand, fault: Fault) -> None:
    """Start a worker that would compute in another precision."""
    proxy = stand.workers[0].proxy
    environment = stand.environment(proxy, ERRATA_DTYPE="bfloat16")
    with STARTING:
        child = nursery.start(environment, stand.work / f"bfloat16-{fault.at:.2f}.log")
    time.sleep(fault.lasts)
    child.kill()
    child.wait(10)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what does it, how often it is drawn, and how long it may last."""

    do: Callable[[Stand, Fault], None]
    weight: int
    longest_s: float = 0.3


KINDS = {
    "kill": Kind(kill, 8),
    "terminate": Kind(terminate, 3),
    "pause": Kind(pause, 6, 12.0),
    "cut-before-commit": Kind(cut_before, 14),
    "cut-after-commit": Kind(cut_after, 14),
    "unreachable": Kind(unreachable, 4, 3.0),
    "slow": Kind(slow, 3, 3.0),
    "empty-redis": Kind(empty_redis, 6),
    "stop-redis": Kind(stop_redis, 3, 4.0),
    "pause-redis": Kind(pause_redis, 2, 4.0),
    "kill-postgres": Kind(kill_postgres, 2, 3.0),
    "restart-postgres": Kind(restart_postgres, 2, 3.0),
    "end-backends": Kind(end_backends, 4),
    "clock-steps": Kind(clock_steps, 4),
    "full-disk": Kind(full_disk, 2, 3.0),
    "refuse-writes": Kind(refuse_writes, 2, 3.0),
    "flip-blob": Kind(flip_blob, 4, 2.0),
    "replace-checkpoint": Kind(replace_checkpoint, 2, 4.0),
    "other-dtype": Kind(other_dtype, 1, 6.0),
}
DAMAGE = frozenset({"flip-blob"})
"""Kinds after which an edit set may fail of a blob that cannot be used."""
