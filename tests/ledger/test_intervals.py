"""A ledger that an older release made is carried over: its hashes stay, and new versions follow them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from ledger import Ledger, LedgerSettings
from ledger.auth import keys
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.db.migrate import prepare, upgrade
from ledger.integrity import chain
from ledger.records import Member, VersionRecord
from ledger.versions import versions
from tests.ledger.work import Bench
from tests.servers import SERVICE, Postgres, as_role

BEFORE = "0005_no_seals"
BASE = "sha256:" + "0" * 64
FACT: dict[str, Any] = {"target": "t", "subject": None, "rephrasings": [], "locality": []}
A, B, C = (Member(f"es_{name}", "", (), (), 2) for name in "abc")
HISTORY: list[tuple[str, int | None, tuple[Member, ...]]] = [
    ("base", None, ()),
    ("edit", 0, (A,)),
    ("edit", 1, (A, B)),  # rejected
    ("edit", 1, (replace(A, superseded=(1,)), C)),
    ("withdraw", 3, (replace(A, withdrawn=(0,), superseded=(1,)), C)),
    ("rollback", 4, (A,)),
]


def made_before(engine: Engine, blobs: LocalBlobs) -> None:
    """Write the history as an older release did: every version with all its members."""
    editor, statistics = blobs.put(b"editor"), blobs.put(b"statistics")
    with engine.begin() as connection:

        def add(table: str, **values: Any) -> None:
            names, holes = ", ".join(values), ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({holes})"), values)

        connection.execute(text("SET session_replication_role = replica"))
        for digest, kind in ((editor, "editor"), (statistics, "statistics")):
            add("blobs", digest=digest, kind=kind, size=1, place=blobs.place(digest))
        connection.execute(text("INSERT INTO editors (digest, card) VALUES (:d, '{}')"), {"d": editor})
        connection.execute(
            text(
                "INSERT INTO models (id, source, architecture, context_length, modules, digest, gate, status,"
                " editor_digest, created_by) VALUES ('tiny', '/m', 'LlamaForCausalLM', 9, '{m}', :base, '{}',"
                " 'ready', :editor, 'system')"
            ),
            {"base": BASE, "editor": editor},
        )
        digests = {}
        for member in (A, B, C):
            facts = [{**FACT, "prompt": f"{member.edit_set_id} {n}"} for n in range(2)]
            digests[member.edit_set_id] = chain.facts_digest(facts)
            connection.execute(
                text(
                    "INSERT INTO edit_sets (id, model_id, promote, edit_on_rephrasings, fact_count,"
                    " facts_digest, created_by, status) VALUES (:id, 'tiny', 'auto', false, 2, :digest, 'k',"
                    " 'applied')"
                ),
                {"id": member.edit_set_id, "digest": digests[member.edit_set_id]},
            )
            for position, fact in enumerate(facts):
                connection.execute(
                    text("INSERT INTO facts VALUES (:id, :position, :prompt, 't', NULL, '[]', '[]')"),
                    {"id": member.edit_set_id, "position": position, "prompt": fact["prompt"]},
                )
        previous = None
        for number, (kind, parent, members) in enumerate(HISTORY):
            known = [
                replace(m, statistics_digest=statistics, facts_digest=digests[m.edit_set_id]) for m in members
            ]
            own = {1: "es_a", 2: "es_b", 3: "es_c"}.get(number)
            version = VersionRecord(
                model_id="tiny",
                number=number,
                kind=kind,  # type: ignore[arg-type]
                parent=parent,
                restores=1 if kind == "rollback" else None,
                edit_set_id=own,
                members_digest=None,
                edit_set_count=0,
                live_fact_count=sum(member.live_fact_count for member in known),
                base_digest=BASE,
                editor_digest=editor,
                delta_digest=None,
                weights_digest=None,
                statistics_digest=None,
                fact_reports_digest=chain.fact_reports_digest(()),
                report=None,
                gate_met=number != 2,
                reason=None,
                created_at=datetime(2026, 1, 1, number, tzinfo=UTC),
                created_by="k",
                previous_hash=previous,
                hash="",
            )
            previous = chain.first_version_hash(version, known)
            values = {**vars(version), "hash": previous}
            for name in ("members_digest", "edit_set_count", "aliases"):
                del values[name]
            add("versions", **values)
            for member in known:
                add(
                    "version_edit_sets",
                    model_id="tiny",
                    number=number,
                    edit_set_id=member.edit_set_id,
                    statistics_digest=statistics,
                    withdrawn=list(member.withdrawn),
                    superseded=list(member.superseded),
                )
        add("heads", model_id="tiny", number=len(HISTORY) - 1, hash=previous)
        add("aliases", model_id="tiny", name="live", number=len(HISTORY) - 1, updated_by="k")
        # what es_a and es_c answer alike
        add(
            "supersessions",
            older_edit_set_id="es_a",
            older_position=1,
            newer_edit_set_id="es_c",
            newer_position=0,
        )


@pytest.fixture
def old(postgres_server: Postgres, tmp_path: Path) -> Iterator[tuple[str, LocalBlobs]]:
    blobs = LocalBlobs(tmp_path / "blobs")
    with postgres_server.database(template="template1") as url:
        upgrade(url, BEFORE)
        engine = create_engine(url)
        made_before(engine, blobs)
        engine.dispose()
        yield url, blobs


def test_an_old_ledger_is_carried_over_and_goes_on(old: tuple[str, LocalBlobs]) -> None:
    url, blobs = old
    service = as_role(url, SERVICE)
    prepare(LedgerSettings(database_url=service, migration_database_url=url, blob_url=""))
    ledger = Ledger(open_engine(service), blobs)
    found = ledger.verify().problems
    assert {problem.kind for problem in found} == {"questions-differ"}, "which this history has none of"
    bench = Bench(ledger, ledger.run(keys.create, "editor", {"edit"}, actor="system")[0])
    for number, (_, _, members) in enumerate(HISTORY):
        version = ledger.run(versions.get, "tiny", number)
        shown = [(m.edit_set_id, m.withdrawn, m.superseded) for m in bench.members(version)]
        assert shown == [(m.edit_set_id, m.withdrawn, m.superseded) for m in members]
        assert (version.edit_set_count, version.members_digest) == (len(members), None)
    assert bench.rows("SELECT count(*) FROM memberships")[0][0] == 6
    ident, made = bench.edit(1)
    assert bench.edit_sets(made) == (ident, "es_a")
    assert made.members_digest is not None
    assert {problem.kind for problem in ledger.verify().problems} == {"questions-differ"}
    ledger.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE version_edit_sets SET withdrawn = '{1}' WHERE number = 4 AND edit_set_id = 'es_a'",
        "UPDATE versions SET live_fact_count = 9 WHERE number = 3",
        "DELETE FROM versions WHERE number = 2",
    ],
)
def test_a_ledger_that_does_not_verify_is_left_as_it_is(old: tuple[str, LocalBlobs], damage: str) -> None:
    url, _ = old
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql(damage)
    with pytest.raises(RuntimeError, match=r"Version \d of 'tiny' does not verify before"):
        upgrade(url)
    with engine.connect() as connection:
        query = "SELECT version_num, to_regclass('memberships') FROM alembic_version"
        assert connection.exec_driver_sql(query).one() == (BEFORE, None)
    engine.dispose()
