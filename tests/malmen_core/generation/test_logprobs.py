"""Scores of tokens are those of the whole text in one forward pass."""

from __future__ import annotations

import pytest
import torch

from malmen_core.generation import logprobs
from malmen_core.generation.generator import BatchGenerator, GenerationRequest, generate
from malmen_core.generation.logprobs import TokenScore, score, token_texts
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version
from malmen_core.models.tokenization import encode_prompt
from tests.malmen_core.models.test_overlay import delta
from tests.malmen_core.support import tiny_base

PROMPTS = ("The capital of France is", "Mount Etna is a mountain in Italy. He plays", "a")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base(dtype=torch.float32)


@pytest.fixture(scope="module")
def version(base: BaseModel) -> Version:
    return base.version(delta(base, 1))


def expected(base: BaseModel, version: Version, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode(), version.active():
        logits: torch.Tensor = base.model(torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(-1)


def scores_of(base: BaseModel, version: Version, request: GenerationRequest) -> list[TokenScore]:
    return [each for chunk in generate(base, version, request) for each in chunk.scores]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("count", [0, 1, 6])
def test_prompt_and_answer_are_scored(base: BaseModel, version: Version, prompt: str, count: int) -> None:
    found = scores_of(base, version, GenerationRequest(prompt, count, logprobs=2, echo=True))
    ids = encode_prompt(base.tokenizer, prompt)
    tokens = [each.token for each in found]
    assert tokens[: len(ids)] == ids
    assert (found[0].logprob, found[0].top) == (None, ())
    logprobs_LX = expected(base, version, tokens)
    for at, each in enumerate(found[1:]):
        assert each.logprob == pytest.approx(float(logprobs_LX[at, each.token]), abs=1e-4)
        assert [value for _, value in each.top] == pytest.approx(
            logprobs_LX[at].topk(2).values.tolist(), abs=1e-4
        )
    alone = scores_of(base, version, GenerationRequest(prompt, count, logprobs=2))
    assert [each.token for each in alone] == tokens[len(ids) :]


def test_answers_that_share_a_batch_are_scored_alike(base: BaseModel, version: Version) -> None:
    versions = [version, base.version(Delta.empty()), version]
    asked = [
        GenerationRequest(PROMPTS[0], 4, logprobs=1, echo=True),
        GenerationRequest(PROMPTS[1], 5),
        GenerationRequest(PROMPTS[2], 6, logprobs=0),
    ]
    writer, found = BatchGenerator(base, together=3), dict[int, list[TokenScore]]()
    for at, (own, request) in enumerate(zip(versions, asked, strict=True)):
        writer.add(at, own, request)
    while writer:
        for key, chunk in writer.step():
            assert not isinstance(chunk, Exception)
            assert isinstance(key, int)
            found.setdefault(key, []).extend(chunk.scores)
    for at, (own, request) in enumerate(zip(versions, asked, strict=True)):
        alone = scores_of(base, own, request)
        assert [each.token for each in found[at]] == [each.token for each in alone]
        for one, other in zip(found[at], alone, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_long_texts_are_scored_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_LX, tokens = torch.randn(7, 11), [3, 1, 4, 1, 5, 9, 2]
    whole = score(logits_LX, tokens, 20)
    monkeypatch.setattr(logprobs, "POSITIONS", 2)
    assert score(logits_LX, tokens, 20) == whole
    assert len(whole[0].top) == 11


def test_texts_of_tokens_make_up_the_text(base: BaseModel) -> None:
    text = "The capital of Peru is Lima 😀, é."
    texts = token_texts(base.tokenizer, encode_prompt(base.tokenizer, text))
    assert "".join(texts) == text
    assert "" in texts
