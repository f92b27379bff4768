"""Every parser of what comes from outside, fed with noise: it reads it or refuses it by a typed error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from broker import generation, presence
from broker.errors import MalformedAnswer
from errata.client.facts_file import json_object, parse_columns, read_file
from errata.errors import InputFileError
from ledger.auth import keys
from ledger.db import cursors
from ledger.errors import InvalidCursor
from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.editor import Editor
from malmen_core.editing.preserved import Group, Preserved
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.errors import CoreError
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from tests import asking
from tests.tiny import save_tiny

MANY = settings(max_examples=150, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@cache
def delta() -> bytes:
    change = Change(left_UR=torch.ones(3, 1), right_RV=torch.ones(1, 2))
    return Delta({"a": change, "b": Change(dense_UV=torch.ones(2, 2))}).to_bytes()


@cache
def statistics() -> bytes:
    rows = Rows(torch.ones(2, 3), torch.ones(2, 2))
    preserved = Preserved({"a": torch.ones(1, 3)}, (Group("k", (0,), 1),))
    return Statistics({"a": rows}, torch.tensor([0, 1]), 2, preserved).to_bytes()


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    base = BaseModel.load(str(save_tiny(tmp_path_factory.mktemp("tiny"))), device="cpu", dtype="float32")
    return calibrate(base).to_bytes()


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_card(content: bytes, card: Any) -> bytes:
    """A stored file whose card says something else."""
    header, tensors = header_of(content)
    header["__metadata__"]["card"] = json.dumps(card)
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + tensors


def card_of(content: bytes) -> Any:
    return json.loads(header_of(content)[0]["__metadata__"]["card"])


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes near those of a stored file: flipped, cut off, doubled, or with another card."""
    match draw(st.integers(0, 4)):
        case 0:
            at = draw(st.integers(0, len(content) - 1))
            return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
        case 1:
            return content[: draw(st.integers(0, len(content)))]
        case 2:
            return draw(st.binary(max_size=64))
        case 3:
            return with_card(content, draw(JSON))
        case _:
            card = card_of(content)
            card[draw(st.sampled_from(sorted(card)))] = draw(JSON)
            return with_card(content, card)


def is_read_or_refused(read: Callable[[bytes], object], content: bytes) -> None:
    with suppress(CoreError):
        read(content)


@MANY
@given(st.data())
def test_deltas(data: st.DataObject) -> None:
    is_read_or_refused(Delta.from_bytes, data.draw(spoilt(delta())))


@MANY
@given(st.data())
def test_statistics(data: st.DataObject) -> None:
    is_read_or_refused(Statistics.from_bytes, data.draw(spoilt(statistics())))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_editors(editor: bytes, data: st.DataObject) -> None:
    is_read_or_refused(Editor.from_bytes, data.draw(spoilt(editor)))


NAMES = "prompt target subject rephrasings locality question joiner requested_rewrite src alt"
MEMBERS = st.sampled_from(NAMES.split())
FACT = st.dictionaries(MEMBERS | st.text(max_size=4), JSON, max_size=5)
LINES = st.lists(FACT | JSON, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())


@MANY
@given(
    content=LINES | st.binary(max_size=80),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]),
)
def test_facts_files(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"facts{suffix}"
    path.write_bytes(content)
    try:
        found = read_file(path)
    except InputFileError:
        return
    assert len(found.facts) == len(found.rows)
    for fact in found.facts:
        assert fact["prompt"]
        assert fact["target"]


@MANY
@given(st.text(max_size=30))
def test_words_of_the_command_line(text: str) -> None:
    for read in (lambda: json_object(text, "--gate", "{}"), lambda: parse_columns([text])):
        with suppress(InputFileError):
            read()


@MANY
@given(st.text(max_size=40), st.integers(1, 64))
def test_cursors(text: str, bits: int) -> None:
    with suppress(InvalidCursor):
        cursors.decode("versions tiny", text, bits)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_secrets_of_any_text_are_looked_up(database_url: str) -> None:
    from ledger import Ledger
    from ledger.blobs.store import open_blobs
    from ledger.db.engine import open_engine

    ledger = Ledger(open_engine(database_url), open_blobs("memory:///"))

    @settings(max_examples=50, deadline=None)
    @given(st.text(max_size=40) | st.text(max_size=10).map(lambda text: f"errata_{text}_x"))
    def unknown(secret: str) -> None:
        assert ledger.run(keys.authenticate, secret) is None

    unknown()
    ledger.close()


def make_call() -> generation.GenerationCall:
    request = generation.TextRequest(prompt="The capital of Peru is")
    return generation.GenerationCall(
        id="c", model_id="tiny", version=0, request=request, deadline=time.time() + 30
    )


NOISE = st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())


@pytest.mark.stack
def test_announcements_in_redis(redis: Redis) -> None:
    """What is no announcement is passed over; those of true workers are still found."""

    @settings(max_examples=80, deadline=None)
    @given(NOISE, st.binary(min_size=1, max_size=8).filter(lambda name: name != b"true"))
    def passed_over(value: bytes, name: bytes) -> None:
        redis.flushall()
        presence.announce(redis, "tiny", "true", "idle", 30)
        redis.sadd("errata:workers:tiny", name)
        redis.set(b"errata:worker:tiny:" + name, value)
        assert "true" in {worker.worker_id for worker in presence.workers(redis, "tiny")}

    passed_over()


@pytest.mark.stack
def test_calls_in_redis(redis: Redis) -> None:
    """A worker throws away what is no call, and takes the true one behind it."""

    @settings(max_examples=80, deadline=None)
    @given(NOISE)
    def thrown_away(message: bytes) -> None:
        redis.flushall()
        presence.announce(redis, "tiny", "w", "idle", 30)
        call = make_call()
        redis.rpush("errata:generation:text:tiny", message)
        asking.send(redis, call)
        assert generation.receive(redis, "tiny", "w", 2.0) == call

    thrown_away()


@pytest.mark.stack
def test_answers_in_redis(redis: Redis) -> None:
    """Whoever waits for an answer gets events, or a typed error for what is none."""

    @settings(max_examples=80, deadline=None)
    @given(NOISE)
    def typed(message: bytes) -> None:
        call = make_call()
        redis.flushall()
        redis.rpush(f"errata:reply:{call.id}", message, b'{"text": "", "finish_reason": "stop"}')
        with suppress(MalformedAnswer):
            assert asking.replies(redis, call, 5.0)

    typed()


def test_the_fuzz_reaches_files_that_are_whole(tmp_path: Path) -> None:
    assert list(Delta.from_bytes(delta()).modules) == ["a", "b"]
    assert Statistics.from_bytes(statistics()).fact_count == 2
    with pytest.raises(CoreError):
        Delta.from_bytes(with_card(delta(), {}))
