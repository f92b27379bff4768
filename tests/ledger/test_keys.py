from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ledger import Ledger
from ledger.auth import keys
from ledger.auth.keys import RevokedSecret, WeakSecret
from ledger.db import cursors
from ledger.edits import edit_sets, facts
from ledger.errors import InvalidCursor, InvalidName, NotFound, UnstorableText
from ledger.models import models
from ledger.records import Page
from ledger.versions import versions
from tests.ledger.work import Bench


def test_a_key_authenticates_until_it_is_revoked(ledger: Ledger) -> None:
    record, secret = ledger.run(keys.create, "ci", {"edit", "read"}, actor="system")
    assert secret.startswith(f"errata_{record.id}_")
    assert ledger.run(keys.authenticate, secret) == record
    assert record.scopes == {"read", "edit"}
    revoked = ledger.run(keys.revoke, record.id, "system")
    assert revoked.revoked_at is not None
    assert ledger.run(keys.authenticate, secret) is None
    assert ledger.run(keys.revoke, record.id, "system") == revoked
    with pytest.raises(NotFound):
        ledger.run(keys.revoke, "none", "system")


def test_secrets_are_not_stored(bench: Bench) -> None:
    _, secret = bench.ledger.run(keys.create, "ci", {"read"}, actor=bench.key)
    tables = bench.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        assert secret.rpartition("_")[2] not in str(bench.rows(f"SELECT to_jsonb(t) FROM {table} AS t"))


@pytest.mark.parametrize(
    "secret", ["", "errata_", "errata__", "errata_\0_x", "errata_é_x", "x" * 99, "\ud800"]
)
def test_wrong_secrets(ledger: Ledger, secret: str) -> None:
    ledger.run(keys.create, "ci", {"read"}, actor="system")
    ledger.run(keys.ensure_admin, "0123456789abcdef")
    assert ledger.run(keys.authenticate, secret) is None


def test_another_secret_of_the_same_key_is_refused(ledger: Ledger) -> None:
    record, secret = ledger.run(keys.create, "ci", {"read"}, actor="system")
    assert ledger.run(keys.authenticate, secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    assert ledger.run(keys.authenticate, f"errata_{record.id}_") is None


def test_the_admin_key_is_made_once_and_replaced_by_another(ledger: Ledger) -> None:
    first = ledger.run(keys.ensure_admin, "first secret of many")
    assert ledger.run(keys.ensure_admin, "first secret of many") == first
    assert first.scopes == {"admin"}
    assert ledger.run(keys.authenticate, "first secret of many") == first
    second = ledger.run(keys.ensure_admin, "second secret of many")
    assert ledger.run(keys.authenticate, "first secret of many") is None
    assert ledger.run(keys.authenticate, "second secret of many") == second
    assert ledger.run(keys.ensure_admin, "second secret of many") == second


@pytest.mark.parametrize(
    "secret", ["short", "a secret with an umlaut: ü", "a secret with an end \n", " a secret with a margin"]
)
def test_a_secret_that_cannot_be_used_is_refused(ledger: Ledger, secret: str) -> None:
    kept = ledger.run(keys.ensure_admin, "first secret of many")
    with pytest.raises(WeakSecret, match="printable"):
        ledger.run(keys.ensure_admin, secret)
    assert ledger.run(keys.authenticate, "first secret of many") == kept


def test_a_revoked_admin_key_stays_revoked(ledger: Ledger) -> None:
    secret = "first secret of many"
    ledger.run(keys.revoke, ledger.run(keys.ensure_admin, secret).id, "system")
    other = ledger.run(keys.ensure_admin, "second secret of many")
    with pytest.raises(RevokedSecret):
        ledger.run(keys.ensure_admin, secret)
    assert ledger.run(keys.authenticate, secret) is None
    assert ledger.run(keys.authenticate, "second secret of many") == other


def test_scopes_must_exist(ledger: Ledger) -> None:
    for scopes in (set(), {"write"}, {"read", "root"}):
        with pytest.raises(InvalidName):
            ledger.run(keys.create, "ci", scopes, actor="system")
    with pytest.raises(UnstorableText):
        ledger.run(keys.create, "\0", {"read"}, actor="system")


def test_keys_are_paged_newest_first(ledger: Ledger) -> None:
    made = [ledger.run(keys.create, f"k{n}", {"read"}, actor="system")[0].id for n in range(3)]
    first = ledger.run(keys.list_all, 2)
    second = ledger.run(keys.list_all, 2, first.next_cursor)
    assert [key.id for page in (first, second) for key in page.items] == made[::-1]
    assert second.next_cursor is None
    with pytest.raises(InvalidCursor):
        ledger.run(models.list_all, 2, first.next_cursor)


@pytest.mark.parametrize("key", [-1, 2**31, 2**63, True])
def test_forged_cursors_are_refused(bench: Bench, key: int) -> None:
    ledger, ident = bench.ledger, bench.post(1)
    lists: dict[str, Callable[[str], Page[Any]]] = {
        "versions tiny": lambda cursor: ledger.run(versions.list_all, "tiny", cursor=cursor),
        f"facts {ident}": lambda cursor: ledger.run(facts.list_of, ident, cursor=cursor),
        "edit_sets": lambda cursor: ledger.run(edit_sets.list_all, cursor=cursor),
        "models": lambda cursor: ledger.run(models.list_all, cursor=cursor),
        "keys": lambda cursor: ledger.run(keys.list_all, cursor=cursor),
    }
    for name, read in lists.items():
        if key == 2**31 and " " not in name:
            assert read(cursors.encode(name, key)).items
            continue
        with pytest.raises(InvalidCursor):
            read(cursors.encode(name, key))
