from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, text

from ledger import Ledger
from ledger.auth import keys
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from ledger.errors import (
    AlreadyExists,
    IdempotencyConflict,
    InvalidCursor,
    InvalidName,
    LedgerError,
    ModelNotReady,
    NotFound,
    UnstorableText,
)
from ledger.models import models
from ledger.records import KeyRecord
from tests.ledger.work import INFO, facts


@pytest.fixture
def model(ledger: Ledger) -> str:
    return ledger.run(models.register, "tiny", "/models/tiny", None, INFO, actor="system").id


def rows(ledger: Ledger, query: str) -> list[Any]:
    with ledger.engine.connect() as connection:
        return list(connection.execute(text(query)))


def test_everything_of_an_edit_set_is_written_at_once(
    ledger: Ledger, model: str, editor_key: KeyRecord
) -> None:
    gate = {"edit_success": 0.5}
    accepted, replayed = ledger.run(
        edit_sets.accept, model, facts(3), "manual", gate, True, "a note", actor=editor_key
    )
    assert not replayed
    assert ledger.run(edit_sets.get, accepted.id) == accepted
    assert (accepted.status, accepted.promote, accepted.gate) == ("queued", "manual", gate)
    assert (accepted.fact_count, accepted.note, accepted.edit_on_rephrasings) == (3, "a note", True)
    assert accepted.created_by == editor_key.id
    page = ledger.run(ledger_facts.list_of, accepted.id)
    assert [fact.id for fact in page.items] == [f"{accepted.id}.{n}" for n in range(3)]
    assert page.items[1].target == "City 1"
    assert page.items[1].locality == ({"prompt": "The capital of New Zealand is"},)
    assert not page.items[1].live
    assert rows(ledger, "SELECT id FROM jobs") == [(accepted.job_id,)]
    events = rows(ledger, "SELECT actor FROM audit_events WHERE action = 'edit_set.accept'")
    assert events == [(editor_key.id,)]


def test_refused_edit_sets_leave_nothing(ledger: Ledger, model: str, editor_key: KeyRecord) -> None:
    bad = facts(2)
    bad[1]["locality"] = [{"prompt": "nul \0"}]
    with pytest.raises(UnstorableText) as caught:
        ledger.run(edit_sets.accept, model, bad, actor=editor_key, idempotency_key="k", body_digest="d")
    assert caught.value.field == "/facts/1/locality/0/prompt"
    with pytest.raises(UnstorableText):
        ledger.run(edit_sets.accept, model, facts(1), note="half \ud800", actor=editor_key)
    with pytest.raises(NotFound, match="'other'"):
        ledger.run(edit_sets.accept, "other", facts(1), actor=editor_key)
    ledger.run(models.fail, model, {"code": "model-not-loadable"})
    with pytest.raises(ModelNotReady):
        ledger.run(edit_sets.accept, model, facts(1), actor=editor_key)
    for table in ("edit_sets", "facts", "jobs", "idempotency_keys"):
        assert rows(ledger, f"SELECT count(*) FROM {table}") == [(0,)]


def test_repetition_returns_the_first_answer(ledger: Ledger, model: str, editor_key: KeyRecord) -> None:
    def post(key: KeyRecord, body: str) -> tuple[str, bool]:
        accepted, replayed = ledger.run(
            edit_sets.accept, model, facts(2), actor=key, idempotency_key="mine", body_digest=body
        )
        return accepted.id, replayed

    first, replayed = post(editor_key, "a")
    assert not replayed
    assert post(editor_key, "a") == (first, True)
    with pytest.raises(IdempotencyConflict, match="mine"):
        post(editor_key, "b")
    other = ledger.run(keys.create, "other", {"edit"}, actor="system")[0]
    assert post(other, "b")[1] is False
    assert len(ledger.run(edit_sets.list_all).items) == 2
    ledger.run(models.fail, model, {"code": "model-not-loadable"})
    assert post(editor_key, "a") == (first, True)


def test_two_posts_at_once_with_one_key_make_one_edit_set(
    ledger: Ledger, model: str, editor_key: KeyRecord
) -> None:
    def post(_: int) -> tuple[str, bool]:
        accepted, replayed = ledger.run(
            edit_sets.accept, model, facts(5), actor=editor_key, idempotency_key="same", body_digest="d"
        )
        return accepted.id, replayed

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(24)))
    assert len({ident for ident, _ in answers}) == 1
    assert sorted(replayed for _, replayed in answers) == [False] + [True] * 23
    assert rows(ledger, "SELECT count(*) FROM jobs") == [(1,)]


def test_hundred_facts_take_as_many_statements_as_one(
    ledger: Ledger, model: str, editor_key: KeyRecord
) -> None:
    said: list[str] = []

    def note(*arguments: Any) -> None:
        said.append(arguments[2])

    event.listen(ledger.engine, "before_cursor_execute", note)
    counts = []
    for number in (1, 100):
        said.clear()
        ledger.run(edit_sets.accept, model, facts(number), actor=editor_key)
        counts.append(len(said))
    assert any("INSERT INTO facts" in each for each in said)
    assert counts[0] == counts[1] > 3


def test_pages_are_stable_while_rows_are_added(ledger: Ledger, model: str, editor_key: KeyRecord) -> None:
    made = [ledger.run(edit_sets.accept, model, facts(1), actor=editor_key)[0].id for _ in range(5)]
    first = ledger.run(edit_sets.list_all, 2)
    ledger.run(edit_sets.accept, model, facts(1), actor=editor_key)
    second = ledger.run(edit_sets.list_all, 2, first.next_cursor)
    third = ledger.run(edit_sets.list_all, 2, second.next_cursor)
    assert [item.id for page in (first, second, third) for item in page.items] == made[::-1]
    assert third.next_cursor is None
    assert ledger.run(edit_sets.list_all, status="applied").items == ()
    assert len(ledger.run(edit_sets.list_all, model_id=model).items) == 6
    with pytest.raises(NotFound):
        ledger.run(edit_sets.list_all, model_id="other")


def test_facts_are_paged_in_order(ledger: Ledger, model: str, editor_key: KeyRecord) -> None:
    accepted, _ = ledger.run(edit_sets.accept, model, facts(5), actor=editor_key)
    positions: list[int] = []
    cursor = None
    while True:
        page = ledger.run(ledger_facts.list_of, accepted.id, 2, cursor)
        positions += [fact.position for fact in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert positions == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "bm9uZQ", "WyJrZXlzIiwzXQ", "WyJlZGl0X3NldHMiLHRydWVd", "\0"]
)
def test_foreign_cursors_are_refused(ledger: Ledger, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        ledger.run(edit_sets.list_all, 10, cursor)


@pytest.mark.parametrize("ident", ["none", "", "\0", "\ud800", "é"])
def test_unknown_ids_are_not_found(ledger: Ledger, ident: str) -> None:
    for look in (edit_sets.get, models.get, ledger_facts.list_of):
        with pytest.raises(NotFound):
            ledger.run(look, ident)


def test_registering_again_changes_nothing(ledger: Ledger, model: str) -> None:
    again = ledger.run(models.register, model, "/models/tiny", None, INFO, actor="system")
    assert again == ledger.run(models.get, model)
    assert (again.status, again.live_version, again.modules) == ("preparing", None, tuple(INFO["modules"]))
    assert again.gate["edit_success"] == 0.9
    with pytest.raises(AlreadyExists):
        ledger.run(models.register, model, "/models/other", None, INFO, actor="system")
    ledger.run(models.fail, model, {"code": "model-not-loadable"})
    assert ledger.run(models.get, model).status == "failed"
    other = ledger.run(models.register, model, "/models/other", None, INFO, b"editor", actor="system")
    assert (other.status, other.source, other.error) == ("preparing", "/models/other", None)
    assert other.given_editor_digest is not None
    assert ledger.blobs.get(other.given_editor_digest) == b"editor"
    with pytest.raises(InvalidName):
        ledger.run(models.register, "a/b", "/models/tiny", None, INFO, actor="system")
    assert len(ledger.run(models.list_all).items) == 1


def test_errors_say_what_to_do_and_pickle(ledger: Ledger) -> None:
    import pickle

    with pytest.raises(LedgerError) as caught:
        ledger.run(models.get, "none")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, copy.message, copy.remedy) == ("not-found", caught.value.message, caught.value.remedy)
    assert copy.kind == "model"
