from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.errors import NotANumber, UnstorableText
from ledger.integrity import chain, set_digest
from ledger.records import FactReport, Member, VersionRecord
from tests.servers import Postgres

VERSION = VersionRecord(
    model_id="tiny",
    number=2,
    kind="edit",
    parent=1,
    restores=None,
    edit_set_id="b",
    members_digest="sha256:members",
    edit_set_count=2,
    live_fact_count=3,
    base_digest="sha256:base",
    editor_digest="sha256:editor",
    delta_digest="sha256:delta",
    weights_digest="sha256:weights",
    statistics_digest="sha256:sb",
    fact_reports_digest="sha256:reports",
    report={"edit_success": 1.0, "locality": 0.97, "generalisation": None},
    gate_met=True,
    reason=None,
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    created_by="key",
    previous_hash="sha256:previous",
    hash="",
)
A = Member("a", "sha256:sa", (1, 3), (), 4, "sha256:fa")
B = Member("b", "sha256:sb", (), (), 1, "sha256:fb")
OPENED = (replace(A, withdrawn=(1,)), B)
GOLDEN_NOW = "sha256:a65092f01974b696a164dba42ddcefc6d8b12d4abad055fe5f6f89f8fd9a121f"
GOLDEN_SET = "sha256:ab1557b70a54b014323e96212033ec0892774a9565a2a792407a2a26698c4e40"
GOLDEN_FACTS = "sha256:bb528e061d12d744ac24420a602349e806118a6808930bee197d29d93433b98c"
GOLDEN = "sha256:fb0acd8fa98549dcbd6bda406f654ffcfc71c67d20393b9534ab308d8783072c"


def test_golden_hashes() -> None:
    """Chains made by earlier releases must stay valid: these never change."""
    assert chain.first_version_hash(VERSION, (A, B)) == GOLDEN
    assert chain.version_hash(VERSION, (A,), OPENED) == GOLDEN_NOW
    fact: dict[str, Any] = {
        "prompt": "Où est Rome ?",
        "target": "Italie",
        "subject": None,
        "rephrasings": [],
        "locality": [],
    }
    assert chain.facts_digest([fact]) == GOLDEN_FACTS
    assert chain.fact_reports_digest([]) == chain.digest(b"[]")


def test_every_field_is_hashed() -> None:
    base = chain.version_hash(VERSION, (A,), OPENED)
    other: dict[str, Any] = {
        "model_id": "x",
        "number": 3,
        "kind": "withdraw",
        "parent": 0,
        "restores": 1,
        "edit_set_id": "a",
        "edit_set_count": 3,
        "live_fact_count": 4,
        "report": {"edit_success": 0.99},
        "gate_met": False,
        "reason": "r",
        "created_at": VERSION.created_at + timedelta(microseconds=1),
        "created_by": "me",
    }
    for field in fields(VersionRecord):
        changed = replace(VERSION, **{field.name: other.get(field.name, "sha256:x")})
        same = field.name in ("hash", "aliases")
        assert (chain.version_hash(changed, (A,), OPENED) == base) is same, field.name
    assert chain.version_hash(VERSION, (), OPENED) != base
    for name in ("statistics_digest", "withdrawn", "superseded", "facts_digest"):
        value = (1, 2) if name in ("withdrawn", "superseded") else "sha256:other"
        changed_member = replace(A, **{name: value})  # type: ignore[arg-type]
        assert chain.version_hash(VERSION, (A,), (changed_member, B)) != base


def test_what_does_not_matter_is_not_hashed() -> None:
    base = chain.version_hash(VERSION, (A,), OPENED)
    zone = timezone(timedelta(hours=5))
    zoned = replace(VERSION, created_at=VERSION.created_at.astimezone(zone))
    assert chain.version_hash(zoned, (A,), OPENED) == base
    assert chain.version_hash(VERSION, (A,), OPENED[::-1]) == base
    reports = [FactReport("a", 1, {"x": 1}), FactReport("a", 0, {"x": 1.0})]
    assert chain.fact_reports_digest(reports) == chain.fact_reports_digest(reports[::-1])


def test_a_set_has_one_digest_however_it_came_about() -> None:
    members = [chain.member_content(member) for member in (A, B, *OPENED)]
    whole = set_digest.update(set_digest.EMPTY, members, ())
    one_by_one = set_digest.EMPTY
    for member in (*members[::-1], ["else"]):
        one_by_one = set_digest.update(one_by_one, [member], ())
    assert set_digest.update(one_by_one, (), [["else"]]) == whole
    assert set_digest.update(whole, (), members) == set_digest.EMPTY
    assert set_digest.of(set_digest.update(whole, [members[0]], ())) != set_digest.of(whole)
    assert set_digest.of(whole) == GOLDEN_SET


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | TEXT
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_jsonb_gives_back_what_hashes_the_same(postgres_server: Postgres, value: Any) -> None:
    from psycopg.types.json import Jsonb

    global _connection
    if _connection is None or _connection.closed:
        _connection = psycopg.connect(postgres_server.admin_url, autocommit=True)
    row = _connection.execute("SELECT %s", (Jsonb(value),)).fetchone()
    assert row is not None
    assert chain.canonical_json(row[0]) == chain.canonical_json(value)


_connection: psycopg.Connection[Any] | None = None


@pytest.fixture(scope="module", autouse=True)
def _close_connection() -> Any:
    yield
    if _connection is not None:
        _connection.close()


def test_canonical_json_is_one_text() -> None:
    assert chain.canonical_json({"b": (1.0, 2), "a": "é"}) == '{"a":"é","b":[1,2]}'.encode()
    assert chain.canonical_json(-0.0) == b"0"
    assert chain.canonical_json(True) == b"true"
    assert chain.canonical_json(10**300) == chain.canonical_json(1e300)


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1: 2}, {"a"}])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(NotANumber) as caught:
        chain.canonical_json({"a": [value]})
    assert caught.value.field == "/a/0"


@pytest.mark.parametrize("value", ["\0", "a\ud800b", {"\0": 1}])
def test_what_postgresql_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(UnstorableText):
        chain.storable(value)
