from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.blobs.store import LocalBlobs
from ledger.edits import edit_sets, withdrawals
from ledger.edits import facts as ledger_facts
from ledger.errors import (
    BlobCorrupt,
    BlobMissing,
    GateNotMet,
    HeadMoved,
    InvalidCursor,
    InvalidName,
    JobCancelled,
    ModelNotReady,
    NotFound,
    NotLive,
    OtherBase,
    StaleParent,
    WrongModel,
)
from ledger.jobs import commit
from ledger.models import aliases, archive, models
from ledger.versions import versions as ledger_versions
from tests.ledger.work import INFO, Bench, ready_model


def path_of(bench: Bench, digest: str | None) -> str:
    assert isinstance(bench.ledger.blobs, LocalBlobs)
    assert digest is not None
    return str(bench.ledger.blobs.root / bench.ledger.blobs.place(digest))


def test_rolling_back_and_forth(bench: Bench) -> None:
    first, one = bench.edit()
    second, two = bench.edit()
    back = bench.ledger.run(aliases.roll_back, "tiny", 1, "second was wrong", bench.key)
    assert (back.number, back.kind, back.parent, back.restores) == (3, "rollback", 2, 1)
    assert (back.delta_digest, back.weights_digest) == (one.delta_digest, one.weights_digest)
    assert (back.members_digest, back.live_fact_count) == (one.members_digest, one.live_fact_count)
    assert (back.aliases, back.reason, back.created_by) == (("live",), "second was wrong", bench.key.id)
    assert (bench.status(first), bench.status(second)) == ("applied", "withdrawn")
    forth = bench.ledger.run(aliases.roll_back, "tiny", "2", "it was right after all", bench.key)
    assert (forth.number, forth.delta_digest) == (4, two.delta_digest)
    assert (bench.status(first), bench.status(second)) == ("applied", "applied")
    empty = bench.ledger.run(aliases.roll_back, "tiny", "base", "start over", bench.key)
    assert (empty.delta_digest, empty.live_fact_count) == (None, 0)
    assert (bench.status(first), bench.status(second)) == ("withdrawn", "withdrawn")
    third, five = bench.edit()
    assert (five.parent, bench.edit_sets(five)) == (5, (third,))


def test_rolling_back_needs_an_intact_delta(bench: Bench) -> None:
    _, one = bench.edit()
    bench.edit()
    path = path_of(bench, one.delta_digest)
    with open(path, "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(BlobCorrupt):
        bench.ledger.run(aliases.roll_back, "tiny", 1, "r", bench.key)
    with pytest.raises(BlobCorrupt):
        bench.ledger.run(aliases.set_alias, "tiny", "live", 1, bench.key)
    os.unlink(path)
    with pytest.raises(BlobMissing):
        bench.ledger.run(aliases.roll_back, "tiny", 1, "r", bench.key)
    assert bench.ledger.run(models.get, "tiny").live_version == 2
    assert len(bench.ledger.run(ledger_versions.list_all, "tiny").items) == 3


def test_what_cannot_be_rolled_back_to(bench: Bench) -> None:
    bench.finish(bench.post(), gate_met=False)
    with pytest.raises(GateNotMet):
        bench.ledger.run(aliases.roll_back, "tiny", 1, "r", bench.key)
    for ref in (2, -1, 2**40, "7", "nowhere", "99999999999999", "", "\0"):
        with pytest.raises(NotFound):
            bench.ledger.run(aliases.roll_back, "tiny", ref, "r", bench.key)
    with pytest.raises(NotFound, match="model"):
        bench.ledger.run(aliases.roll_back, "other", 0, "r", bench.key)


def test_aliases(bench: Bench) -> None:
    bench.edit()
    assert bench.ledger.run(aliases.set_alias, "tiny", "stable", 0, bench.key).aliases == ("stable",)
    assert bench.ledger.run(aliases.set_alias, "tiny", "stable", 1, bench.key).aliases == ("live", "stable")
    assert bench.ledger.run(ledger_versions.get, "tiny", "stable").number == 1
    assert bench.ledger.run(models.get, "tiny").aliases == {"live": 1, "stable": 1}
    for name in ("base", "3", "a b", "", "x" * 65, "é"):
        with pytest.raises(InvalidName):
            bench.ledger.run(aliases.set_alias, "tiny", name, 0, bench.key)
    with pytest.raises(NotFound):
        bench.ledger.run(aliases.set_alias, "tiny", "stable", 9, bench.key)


def test_removing_an_alias_is_audited(bench: Bench) -> None:
    bench.ledger.run(aliases.set_alias, "tiny", "stable", 0, bench.key)
    bench.ledger.run(aliases.remove_alias, "tiny", "stable", bench.key)
    assert bench.ledger.run(models.get, "tiny").aliases == {"live": 0}
    with pytest.raises(NotFound, match="alias"):
        bench.ledger.run(aliases.remove_alias, "tiny", "stable", bench.key)
    with pytest.raises(InvalidName):
        bench.ledger.run(aliases.remove_alias, "tiny", "live", bench.key)
    event = bench.rows("SELECT actor, object, detail FROM audit_events WHERE action = 'alias.remove'")
    assert event == [(bench.key.id, "models/tiny/aliases/stable", {"number": 0})]
    assert bench.ledger.verify().problems == ()
    bench.ledger.run(aliases.set_alias, "tiny", "stable", 0, bench.key)
    assert bench.ledger.verify().problems == ()


def test_making_a_refused_version_live_takes_force_and_a_reason(bench: Bench) -> None:
    ident = bench.post()
    bench.finish(ident, gate_met=False)
    for force, reason in ((False, "r"), (True, None), (True, " ")):
        with pytest.raises(GateNotMet):
            bench.ledger.run(aliases.set_alias, "tiny", "live", 1, bench.key, force=force, reason=reason)
    bench.ledger.run(aliases.set_alias, "tiny", "live", 1, bench.key, force=True, reason="we accept the loss")
    assert bench.status(ident) == "applied"
    event = bench.rows("SELECT actor, detail FROM audit_events WHERE action = 'alias.set'")
    assert event == [(bench.key.id, {"number": 1, "force": True, "reason": "we accept the loss"})]


def test_promoting_late_does_not_drop_what_was_applied_since(bench: Bench) -> None:
    waiting = bench.post(promote="manual")
    bench.finish(waiting)
    applied, _ = bench.edit()
    assert [found.live for found in bench.ledger.run(edit_sets.list_all).items] == [True, False]
    with pytest.raises(StaleParent):
        bench.ledger.run(aliases.set_alias, "tiny", "live", 1, bench.key)
    assert bench.status(applied) == "applied"
    bench.ledger.run(aliases.set_alias, "tiny", "live", 0, bench.key)
    assert bench.status(applied) == "withdrawn"
    bench.ledger.run(aliases.set_alias, "tiny", "live", 1, bench.key)
    assert bench.status(waiting) == "applied"
    assert [found.live for found in bench.ledger.run(edit_sets.list_all).items] == [False, True]


def test_withdrawing_a_set_and_a_fact(bench: Bench) -> None:
    first, _ = bench.edit(2)
    second, _ = bench.edit(3)
    asked = bench.ledger.run(withdrawals.request, "tiny", [first], [f"{second}.1"], "disputed", bench.key)
    assert (asked.status, asked.edit_set_ids, asked.fact_ids) == ("queued", (first,), (f"{second}.1",))
    claim = bench.claim(asked.id)
    assert claim.kind == "withdraw"
    job = bench.ledger.run(commit.load, claim)
    assert job.edit_set is None
    gone, left = job.change[first], job.change[second]
    assert gone is None
    assert left is not None
    assert left.withdrawn == (1,)
    made = bench.ledger.run(commit.commit, claim, bench.solve(job))
    assert (made.kind, made.live_fact_count, made.reason) == ("withdraw", 2, "disputed")
    assert (made.aliases, made.created_by) == (("live",), bench.key.id)
    done = bench.ledger.run(withdrawals.get, asked.id)
    assert (done.status, done.version) == ("applied", made.number)
    assert (bench.status(first), bench.status(second)) == ("withdrawn", "applied")
    assert [fact.live for fact in bench.ledger.run(ledger_facts.list_of, second).items] == [True, False, True]
    rest = bench.ledger.run(ledger_facts.of_version, "tiny", made.number)
    assert [fact.id for fact in rest] == [f"{second}.0", f"{second}.2"]
    for facts in ([f"{second}.1"], [f"{first}.0"]):
        with pytest.raises(NotLive):
            bench.ledger.run(withdrawals.request, "tiny", [], facts, "again", bench.key)
    last = bench.ledger.run(withdrawals.request, "tiny", [], [f"{second}.0", f"{second}.2"], "all", bench.key)
    empty = bench.finish(last.id)
    assert (empty.edit_set_count, empty.delta_digest, bench.status(second)) == (0, None, "withdrawn")


def test_what_cannot_be_withdrawn(bench: Bench) -> None:
    ready_model(bench.ledger, "other")
    queued = bench.post()
    with pytest.raises(NotLive) as caught:
        bench.ledger.run(withdrawals.request, "tiny", [queued], [], "r", bench.key)
    assert caught.value.idents == [queued]
    live, _ = bench.edit()
    with pytest.raises(WrongModel):
        bench.ledger.run(withdrawals.request, "other", [live], [], "r", bench.key)
    for facts in (["none"], [f"{live}.9"], [f"{live}.01"], [f"{live}.²"], ["none.0"]):
        with pytest.raises(NotFound, match="fact"):
            bench.ledger.run(withdrawals.request, "tiny", [], facts, "r", bench.key)
    with pytest.raises(NotFound):
        bench.ledger.run(withdrawals.get, "wd_none")
    assert bench.rows("SELECT count(*) FROM withdrawals") == [(0,)]
    bench.ledger.run(models.register, "raw", "/models/raw", None, INFO, actor="system")
    with pytest.raises(ModelNotReady):
        bench.ledger.run(withdrawals.request, "raw", ["es_none"], [], "r", bench.key)


def test_a_withdrawal_of_what_left_in_the_meantime_still_ends(bench: Bench) -> None:
    first, _ = bench.edit()
    asked = bench.ledger.run(withdrawals.request, "tiny", [first], [], "r", bench.key)
    bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key)
    assert bench.finish(asked.id).edit_set_count == 0
    assert bench.status(first) == "withdrawn"


def test_a_rollback_racing_commits_gives_a_serial_order(bench: Bench) -> None:
    bench.edit()
    idents = [bench.post() for _ in range(6)]
    start = threading.Barrier(3)

    def work(mine: list[str]) -> None:
        start.wait()
        for ident in mine:
            claim = bench.claim(ident)
            while True:
                job = bench.ledger.run(commit.load, claim)
                try:
                    bench.ledger.run(commit.commit, claim, bench.solve(job))
                    break
                except HeadMoved:
                    continue

    def roll_back() -> None:
        start.wait()
        for _ in range(4):
            bench.ledger.run(aliases.roll_back, "tiny", 1, "race", bench.key)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work, idents[:3]), pool.submit(work, idents[3:]), pool.submit(roll_back)]:
            future.result()
    versions = bench.ledger.run(ledger_versions.list_all, "tiny", 100).items[::-1]
    assert [version.number for version in versions] == list(range(12))
    for version in versions[1:]:
        assert version.parent == version.number - 1, "each was computed on what was live just before"
        held = bench.members(versions[version.number - 1])
        if version.kind == "edit":
            assert set(held) < set(bench.members(version))
            assert version.edit_set_count == len(held) + 1
        else:
            assert version.members_digest == versions[1].members_digest
    live = bench.ledger.run(ledger_versions.get, "tiny", "live")
    assert live.number == 11
    for ident in idents:
        assert bench.status(ident) == ("applied" if ident in bench.edit_sets(live) else "withdrawn")
    assert bench.ledger.verify().problems == ()


def test_versions_are_paged_newest_first(bench: Bench) -> None:
    for _ in range(3):
        bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key)
    first = bench.ledger.run(ledger_versions.list_all, "tiny", 2)
    bench.ledger.run(aliases.roll_back, "tiny", 0, "r", bench.key)
    second = bench.ledger.run(ledger_versions.list_all, "tiny", 2, first.next_cursor)
    assert [version.number for page in (first, second) for version in page.items] == [3, 2, 1, 0]
    ready_model(bench.ledger, "other")
    with pytest.raises(InvalidCursor):
        bench.ledger.run(ledger_versions.list_all, "other", 2, first.next_cursor)


def test_an_archived_model_keeps_its_ledger_and_gives_its_id_back(bench: Bench) -> None:
    applied, _ = bench.edit()
    withdrawal = bench.ledger.run(withdrawals.request, "tiny", [applied], [], "over", bench.key).id
    queued, held = bench.post(), bench.post()
    claim = bench.claim(held)
    for _ in range(2):
        gone = bench.ledger.run(archive.archive, "tiny", bench.key)
        assert (gone.status, gone.aliases) == ("archived", {})
    assert {bench.status(ident) for ident in (withdrawal, queued, held)} == {"cancelled"}
    with pytest.raises(JobCancelled):
        bench.ledger.run(commit.load, claim)
    with pytest.raises(ModelNotReady):
        bench.post()
    assert bench.ledger.run(models.list_all).items == ()
    assert bench.ledger.run(ledger_versions.get, "tiny", 1).edit_set_id == applied
    assert bench.ledger.verify().problems == ()
    other = {**INFO, "digest": "sha256:" + "1" * 64}
    made = bench.ledger.run(models.register, "tiny", "elsewhere", None, other, actor="system")
    assert (made.status, made.editor_digest) == ("preparing", None)
    assert bench.ledger.verify().problems == ()
    ready_model(bench.ledger, info=other, source="elsewhere")
    base = bench.ledger.run(ledger_versions.live, "tiny")
    assert (base.number, base.kind, base.parent, base.base_digest) == (2, "base", 1, other["digest"])
    assert (base.live_fact_count, base.edit_set_count) == (0, 0)
    assert bench.ledger.run(ledger_versions.get, "tiny", "base").number == 2
    for refused in (
        lambda: bench.ledger.run(aliases.roll_back, "tiny", 1, "back", bench.key),
        lambda: bench.ledger.run(aliases.set_alias, "tiny", "old", 0, bench.key),
        lambda: bench.ledger.run(ledger_versions.served_number, "tiny", 1),
    ):
        with pytest.raises(OtherBase):
            refused()
    _, version = bench.edit()
    assert (version.number, version.edit_set_count) == (3, 1)
    assert bench.ledger.verify().problems == ()


def test_what_is_not_there_cannot_be_archived(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.ledger.run(archive.archive, "nobody", bench.key)
