"""Answers that are written together are those that each request gets alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from malmen_core.errors import AnswerNotFinite, PromptTooLong
from malmen_core.generation.batch import Sequences
from malmen_core.generation.generator import Chunk, GenerationRequest, Writer, generate
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import ByRow, Version, Weights, intercepting
from malmen_core.models.tasks.causal import CausalLM
from malmen_core.models.tokenization import encode_prompt
from tests.malmen_core.support import assert_untouched, snapshot
from tests.malmen_core.test_families import CAUSAL, checkpoint
from tests.malmen_core.test_overlay import delta

TURNS = {"gemma2", "gemma3_text", "mistral"}
Asked = list[tuple[Version, GenerationRequest]]


def some(base: BaseModel) -> Asked:
    """Requests of several lengths and versions, greedy and sampled."""
    versions = [base.version(Delta.empty()), base.version(delta(base, 1)), base.version(delta(base, 2))]
    long = "Mount Etna is a mountain in Italy. He plays"
    return [
        (versions[1], GenerationRequest("The capital of France is", 9)),
        (versions[0], GenerationRequest(long, 3)),
        (versions[2], GenerationRequest("The river", 14)),
        (versions[0], GenerationRequest("The capital of France is", 9)),
        (versions[1], GenerationRequest("a", 6, temperature=1.0, seed=5)),
        (versions[2], GenerationRequest(long, 11, temperature=0.7, top_p=0.9, seed=6)),
        (versions[0], GenerationRequest("The river", 0)),
    ]


def alone(base: BaseModel, asked: Asked) -> list[tuple[str, Chunk]]:
    return [whole(list(generate(base, version, request))) for version, request in asked]


def whole(chunks: list[Chunk]) -> tuple[str, Chunk]:
    """The text of an answer, and how it ended."""
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    last = chunks[-1]
    return "".join(c.text for c in chunks), Chunk("", last.finish_reason, last.usage, last.labels)


def said(writer: Writer) -> list[tuple[Hashable, Chunk]]:
    """What the next step writes; none of it has failed."""
    written = []
    for key, chunk in writer.step():
        assert isinstance(chunk, Chunk)
        written.append((key, chunk))
    return written


def together(writer: Writer, asked: Asked, begin: dict[int, int]) -> list[tuple[str, Chunk]]:
    """Answers to requests that are added at the steps which `begin` names; the others at the first."""
    chunks: dict[Any, list[Chunk]] = {i: [] for i in range(len(asked))}
    number = 0
    while writer or number <= max(begin.values(), default=0):
        for i, (version, request) in enumerate(asked):
            if begin.get(i, 0) == number:
                writer.add(i, version, request)
        for key, chunk in said(writer):
            chunks[key].append(chunk)
        number += 1
    return [whole(some) for some in chunks.values()]


@pytest.mark.parametrize("begin", [{}, {1: 2, 2: 1, 5: 4}, {0: 12, 3: 20}], ids=str)
def test_answers_are_those_alone_whenever_they_join(base: BaseModel, begin: dict[int, int]) -> None:
    before, asked = snapshot(base), some(base)
    expected = alone(base, asked)
    assert together(Writer(base, together=16), asked, begin) == expected
    assert len({text for text, _ in expected}) > 4  # negative control: they do differ
    assert_untouched(base, before)


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_family_writes_together_or_by_turns(kind: str, tmp_path: Path) -> None:
    base = BaseModel.load(str(checkpoint(kind, tmp_path)), device="cpu")
    assert base.shares_cache == (kind not in TURNS)
    asked = some(base)
    assert together(Writer(base, together=16), asked, {2: 1, 4: 3}) == alone(base, asked)


def test_sequence_to_sequence_models_answer_by_turns(t5: BaseModel) -> None:
    assert not t5.shares_cache
    asked = some(t5)
    assert together(Writer(t5, together=16), asked, {2: 1}) == alone(t5, asked)


def test_classifiers_answer_with_labels(bert: BaseModel) -> None:
    asked = some(bert)[:4]
    found = together(Writer(bert, together=16), asked, {2: 1})
    assert found == alone(bert, asked)
    assert all(last.labels and last.usage for _, last in found)


def passes(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what the model is given, as it is given it."""
    shapes, forward = [], base.model.forward

    def spy(*args: Any, **options: Any) -> Any:
        shapes.append(options["input_ids"].shape)
        return forward(*args, **options)

    spy.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(base.model, "forward", spy)
    return shapes


def test_one_pass_serves_all(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = passes(llama, monkeypatch)
    version = llama.version(Delta.empty())
    asked = [(version, GenerationRequest("The river", 5))] * 4
    together(Writer(llama, together=16), asked, {3: 2})
    assert [shape[0] for shape in shapes] == [3, 3, 3, 1, 4, 4, 1, 1]


def test_the_cache_keeps_no_padding_that_nobody_needs(llama: BaseModel) -> None:
    version, writer = llama.version(Delta.empty()), Writer(llama, together=16)
    writer.add("long", version, GenerationRequest("a" + " is" * 40, 2))
    writer.add("short", version, GenerationRequest("a", 30))
    writer.step()
    (batch,) = writer._running
    assert batch.sequences._cache.layers[0].keys.shape[2] == max(batch.sequences.lengths) > 40
    writer.step()
    writer.step()
    assert batch.sequences.lengths == [3]
    assert batch.sequences._cache.layers[0].keys.shape[2] == 3


@pytest.mark.parametrize(("together", "tokens", "rows"), [(2, 9999, 2), (9, 33, 3), (1, 9999, 1), (9, 1, 1)])
def test_no_more_are_written_at_once_than_there_is_room_for(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, together: int, tokens: int, rows: int
) -> None:
    shapes, version = passes(llama, monkeypatch), llama.version(Delta.empty())
    writer = Writer(llama, together=together, tokens=tokens)
    request = GenerationRequest("The river", 8)
    for key in range(5):
        assert writer.has_room == (key < together)
        writer.add(key, version, request)
    ended = []
    while writer:
        ended += [key for key, chunk in said(writer) if chunk.finish_reason]
    assert ended == [0, 1, 2, 3, 4]
    assert max(shape[0] for shape in shapes) == rows
    assert shapes[0][1] + 8 == 11  # so three fit into 33 tokens


def test_what_joins_counts_as_long_as_the_longest_that_runs(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, version = passes(llama, monkeypatch), llama.version(Delta.empty())
    writer = Writer(llama, together=16, tokens=60)
    writer.add("long", version, GenerationRequest("a" + " is" * 27, 4))
    writer.step()
    writer.add("short", version, GenerationRequest("a", 4))
    ended = [key for _ in range(12) for key, chunk in said(writer) if chunk.finish_reason]
    assert ended == ["long", "short"]
    assert {shape[0] for shape in shapes} == {1}


def test_prompts_beyond_a_pass_are_read_one_after_the_other(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = some(llama)
    expected = alone(llama, asked)
    shapes = passes(llama, monkeypatch)
    monkeypatch.setattr(llama.room, "tokens", 3)
    assert together(Writer(llama, together=16), asked, {}) == expected
    assert all(rows == 1 or rows * length <= llama.room.forward_tokens for rows, length in shapes[:4])


def test_a_dropped_request_is_left_and_the_others_are_not(llama: BaseModel) -> None:
    asked = some(llama)[:4]
    expected = alone(llama, asked)
    writer = Writer(llama, together=3)
    for key, (version, request) in enumerate(asked):
        writer.add(key, version, request)
    chunks: dict[Any, list[Chunk]] = {key: [] for key in range(4)}
    for number in range(40):
        if number == 2:
            writer.drop(2)
            writer.drop("never there")
        for which, chunk in said(writer):
            chunks[which].append(chunk)
    assert not writer
    assert all(chunk.finish_reason is None for chunk in chunks.pop(2))
    assert [whole(some) for some in chunks.values()] == expected[:2] + expected[3:]


def test_a_request_that_waits_can_be_dropped(llama: BaseModel) -> None:
    version, writer = llama.version(Delta.empty()), Writer(llama, together=16)
    writer.add(1, version, GenerationRequest("The river"))
    writer.drop(1)
    assert len(writer) == 0
    assert writer.step() == []


def test_a_refused_prompt_leaves_the_others(llama: BaseModel) -> None:
    (asked,) = some(llama)[:1]
    writer = Writer(llama, together=16)
    writer.add(0, *asked)
    with pytest.raises(PromptTooLong):
        writer.add(1, asked[0], GenerationRequest("a" + " is" * 4000))
    assert len(writer) == 1


def test_each_row_has_its_versions_weights(base: BaseModel) -> None:
    versions = [base.version(Delta.empty()), base.version(delta(base, 1)), base.version(delta(base, 2))]
    rows = [1, 0, 1, 2]
    ids_BL = torch.tensor([[3, 14, 15], [9, 2, 6], [5, 3, 5], [8, 9, 7]])
    with torch.inference_mode(), intercepting(ByRow([versions[i] for i in rows])):
        found = base.model(input_ids=ids_BL).logits
    for row, i in enumerate(rows):
        with torch.inference_mode(), intercepting(Weights(versions[i].weights)):
            expected = base.model(input_ids=ids_BL[row : row + 1]).logits[0]
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)
    assert isinstance(base.task, CausalLM)


def break_passes(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch, fails: Callable[[torch.Tensor], bool]
) -> None:
    """Have the model run out of memory on some inputs."""
    forward = base.model.forward

    def scarce(*args: Any, **options: Any) -> Any:
        if fails(options["input_ids"]):
            raise torch.OutOfMemoryError("the device is full")
        return forward(*args, **options)

    scarce.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(base.model, "forward", scarce)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_where_a_pass_over_several_fails_each_goes_on_by_itself(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    asked, begin = some(llama), {1: 2, 2: 3, 5: 4}
    expected = alone(llama, asked)
    shapes = passes(llama, monkeypatch)
    break_passes(llama, monkeypatch, lambda ids_BL: len(ids_BL) > most)
    assert together(Writer(llama, together=16), asked, begin) == expected
    assert max(shape[0] for shape in shapes) == most


@pytest.mark.parametrize("place", ["keep", "join"])
def test_a_failure_between_passes_loses_nothing(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    asked, begin = some(llama), {1: 2, 2: 3, 5: 4}
    expected = alone(llama, asked)
    whole_one = getattr(Sequences, place)
    failures: list[str] = []

    def half(sequences: Sequences, given: Any) -> None:
        if len(failures) < 2:
            failures.append(place)
            sequences._cache.layers[0].keys = sequences._cache.layers[0].keys[:1]
            raise torch.OutOfMemoryError("the device is full")
        whole_one(sequences, given)

    monkeypatch.setattr(Sequences, place, half)
    assert together(Writer(llama, together=16), asked, begin) == expected
    assert len(failures) == 2


def test_what_fails_by_itself_fails_for_nobody_else(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = some(llama)
    expected = alone(llama, asked)
    (poison,) = encode_prompt(llama.tokenizer, "7")[-1:]
    break_passes(llama, monkeypatch, lambda ids_BL: bool((ids_BL == poison).any()))
    writer, failed = Writer(llama, together=16), []
    chunks: dict[Hashable, list[Chunk]] = {i: [] for i in range(len(asked))}
    for i, (version, request) in enumerate(asked):
        writer.add(i, version, request)
    writer.add("poison", asked[0][0], GenerationRequest("Route 7", 9))
    for _ in range(40):
        for key, chunk in writer.step():
            if isinstance(chunk, Exception):
                failed.append((key, type(chunk)))
            else:
                chunks[key].append(chunk)
    assert not writer
    assert failed == [("poison", torch.OutOfMemoryError)]
    assert [whole(own) for own in chunks.values()] == expected


def test_a_version_without_finite_answers_is_refused_and_the_others_are_answered(llama: BaseModel) -> None:
    broken = llama.version(delta(llama, 1))
    broken = replace(broken, weights={name: w * torch.nan for name, w in broken.weights.items()})
    sound = llama.version(Delta.empty())
    writer = Writer(llama, together=16)
    writer.add(("ends", 0.0), sound, GenerationRequest("The river", 1))
    for name, version in (("broken", broken), ("sound", sound)):
        for temperature in (0.0, 1.0):
            writer.add((name, temperature), version, GenerationRequest("The river", 4, temperature, seed=3))
    refused: list[Any] = []
    ended: list[Any] = []
    for _ in range(40):
        for key, chunk in writer.step():
            if isinstance(chunk, Exception):
                refused.append((key, type(chunk)))
            elif chunk.finish_reason:
                ended.append(key)
    assert not writer
    assert refused == [(("broken", t), AnswerNotFinite) for t in (0.0, 1.0)]
    assert ended == [("ends", 0.0), ("sound", 0.0), ("sound", 1.0)]
    with pytest.raises(AnswerNotFinite, match="Ask another version"):
        list(generate(llama, broken, GenerationRequest("The river", 4)))


def test_requests_whose_pass_failed_can_be_dropped(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    break_passes(llama, monkeypatch, lambda ids_BL: len(ids_BL) > 1)
    writer, version = Writer(llama, together=16), llama.version(Delta.empty())
    for key in ("stays", "leaves"):
        writer.add(key, version, GenerationRequest("The river", 4))
    assert said(writer) == []
    assert len(writer) == 2
    writer.drop("leaves")
    assert {key for _ in range(4) for key, _ in said(writer)} == {"stays"}
    assert not writer
