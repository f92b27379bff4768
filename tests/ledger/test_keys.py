from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ledger import Ledger
from ledger.db import cursors
from ledger.errors import InvalidCursor, InvalidName, NotFound, RevokedSecret, UnstorableText, WeakSecret
from ledger.records import Page
from tests.ledger.work import Bench


def test_a_key_authenticates_until_it_is_revoked(ledger: Ledger) -> None:
    record, secret = ledger.create_key("ci", {"edit", "read"}, actor="system")
    assert secret.startswith(f"errata_{record.id}_")
    assert ledger.authenticate(secret) == record
    assert record.scopes == {"read", "edit"}
    revoked = ledger.revoke_key(record.id, "system")
    assert revoked.revoked_at is not None
    assert ledger.authenticate(secret) is None
    assert ledger.revoke_key(record.id, "system") == revoked
    with pytest.raises(NotFound):
        ledger.revoke_key("none", "system")


def test_secrets_are_not_stored(bench: Bench) -> None:
    _, secret = bench.ledger.create_key("ci", {"read"}, actor=bench.key)
    tables = bench.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        assert secret.rpartition("_")[2] not in str(bench.rows(f"SELECT to_jsonb(t) FROM {table} AS t"))


@pytest.mark.parametrize(
    "secret", ["", "errata_", "errata__", "errata_\0_x", "errata_é_x", "x" * 99, "\ud800"]
)
def test_wrong_secrets(ledger: Ledger, secret: str) -> None:
    ledger.create_key("ci", {"read"}, actor="system")
    ledger.ensure_admin_key("0123456789abcdef")
    assert ledger.authenticate(secret) is None


def test_another_secret_of_the_same_key_is_refused(ledger: Ledger) -> None:
    record, secret = ledger.create_key("ci", {"read"}, actor="system")
    assert ledger.authenticate(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    assert ledger.authenticate(f"errata_{record.id}_") is None


def test_the_admin_key_is_made_once_and_replaced_by_another(ledger: Ledger) -> None:
    first = ledger.ensure_admin_key("first secret of many")
    assert ledger.ensure_admin_key("first secret of many") == first
    assert first.scopes == {"admin"}
    assert ledger.authenticate("first secret of many") == first
    second = ledger.ensure_admin_key("second secret of many")
    assert ledger.authenticate("first secret of many") is None
    assert ledger.authenticate("second secret of many") == second
    assert ledger.ensure_admin_key("second secret of many") == second


@pytest.mark.parametrize(
    "secret", ["short", "a secret with an umlaut: ü", "a secret with an end \n", " a secret with a margin"]
)
def test_a_secret_that_cannot_be_used_is_refused(ledger: Ledger, secret: str) -> None:
    kept = ledger.ensure_admin_key("first secret of many")
    with pytest.raises(WeakSecret, match="printable"):
        ledger.ensure_admin_key(secret)
    assert ledger.authenticate("first secret of many") == kept


def test_a_revoked_admin_key_stays_revoked(ledger: Ledger) -> None:
    secret = "first secret of many"
    ledger.revoke_key(ledger.ensure_admin_key(secret).id, "system")
    other = ledger.ensure_admin_key("second secret of many")
    with pytest.raises(RevokedSecret):
        ledger.ensure_admin_key(secret)
    assert ledger.authenticate(secret) is None
    assert ledger.authenticate("second secret of many") == other


def test_scopes_must_exist(ledger: Ledger) -> None:
    for scopes in (set(), {"write"}, {"read", "root"}):
        with pytest.raises(InvalidName):
            ledger.create_key("ci", scopes, actor="system")
    with pytest.raises(UnstorableText):
        ledger.create_key("\0", {"read"}, actor="system")


def test_keys_are_paged_newest_first(ledger: Ledger) -> None:
    made = [ledger.create_key(f"k{n}", {"read"}, actor="system")[0].id for n in range(3)]
    first = ledger.list_keys(2)
    second = ledger.list_keys(2, first.next_cursor)
    assert [key.id for page in (first, second) for key in page.items] == made[::-1]
    assert second.next_cursor is None
    with pytest.raises(InvalidCursor):
        ledger.list_models(2, first.next_cursor)


@pytest.mark.parametrize("key", [-1, 2**31, 2**63, True])
def test_forged_cursors_are_refused(bench: Bench, key: int) -> None:
    ledger, ident = bench.ledger, bench.post(1)
    lists: dict[str, Callable[[str], Page[Any]]] = {
        "versions tiny": lambda cursor: ledger.list_versions("tiny", cursor=cursor),
        f"facts {ident}": lambda cursor: ledger.get_facts(ident, cursor=cursor),
        "edit_sets": lambda cursor: ledger.list_edit_sets(cursor=cursor),
        "models": lambda cursor: ledger.list_models(cursor=cursor),
        "keys": lambda cursor: ledger.list_keys(cursor=cursor),
    }
    for name, read in lists.items():
        if key == 2**31 and " " not in name:
            assert read(cursors.encode(name, key)).items
            continue
        with pytest.raises(InvalidCursor):
            read(cursors.encode(name, key))
