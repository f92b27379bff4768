"""Generation: Transformers' own greedy text, sampling by seed, stop strings and whole characters."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen_core.errors import PromptTooLong
from malmen_core.generation.generator import Chunk, GenerationRequest, generate
from malmen_core.generation.greedy import greedy_answers
from malmen_core.generation.sampling import choose
from malmen_core.generation.streaming import StreamedText
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version
from malmen_core.models.tokenization import encode_prompts
from tests.malmen_core.models.test_overlay import delta
from tests.malmen_core.support import assert_untouched, snapshot
from tests.tiny import save_tiny, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPT = "The capital of France is"


def base_version(base: BaseModel) -> Version:
    return base.version(Delta.empty())


def run(base: BaseModel, version: Version, **options: Any) -> tuple[str, Chunk]:
    chunks = list(generate(base, version, GenerationRequest(**{"prompt": PROMPT, **options})))
    assert all(c.finish_reason is None and c.usage is None and c.text for c in chunks[:-1])
    return "".join(c.text for c in chunks), chunks[-1]


def own(base: BaseModel, prompt: str, tokens: int) -> list[int]:
    """Transformers' greedy continuation under the active overlay."""
    ids = torch.tensor([TOKENIZER(prompt)["input_ids"]])
    out = base.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=0,
    )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_greedy_is_transformers_own(base: BaseModel, seed: int | None) -> None:
    before = snapshot(base)
    version = base_version(base) if seed is None else base.version(delta(base, seed))
    with version.active():
        ids = own(base, PROMPT, 20)
    text, last = run(base, version, max_new_tokens=20)
    assert text == TOKENIZER.decode(ids, skip_special_tokens=True)
    assert last.finish_reason == ("stop" if 0 in ids else "length")
    assert last.usage == {"prompt_tokens": len(TOKENIZER(PROMPT)["input_ids"]), "completion_tokens": len(ids)}
    assert_untouched(base, before)


def test_greedy_batches_are_as_one_by_one(base: BaseModel) -> None:
    prompts = [PROMPT, "The river", "Mount Etna is a mountain in Italy. He plays"]
    lengths = [7, 3, 5]
    with base.version(delta(base, 1)).active():
        expected = [own(base, p, n) for p, n in zip(prompts, lengths, strict=True)]
        found = greedy_answers(base, encode_prompts(base.tokenizer, prompts), lengths)
    assert found == [ids[: ids.index(0)] if 0 in ids else ids for ids in expected]
    assert greedy_answers(base, [], []) == []


def test_sampling_is_reproducible_by_seed(llama: BaseModel) -> None:
    version = base_version(llama)
    texts = [run(llama, version, temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    state = torch.random.get_rng_state()
    assert run(llama, version, temperature=1.0)[0] != run(llama, version, temperature=1.0)[0]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_narrow_nucleus_or_a_low_temperature_is_greedy(llama: BaseModel) -> None:
    version = base_version(llama)
    greedy = run(llama, version)[0]
    assert run(llama, version, temperature=1.0, top_p=1e-6, seed=3)[0] == greedy
    assert run(llama, version, temperature=1e-4, seed=3)[0] == greedy


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float, temperature: float = 1.0) -> Counter[int]:
        return Counter(choose(logits, temperature, top_p, generator) for _ in range(2000))

    assert set(drawn(0.45)) == {1}
    assert set(drawn(0.6)) == {1, 2}
    assert drawn(0.6)[1] / 2000 == pytest.approx(0.625, abs=0.04)
    assert set(drawn(1.0)) == {0, 1, 2, 3}
    assert drawn(1.0)[1] / 2000 == pytest.approx(0.5, abs=0.04)
    assert drawn(1.0, temperature=100.0)[1] / 2000 == pytest.approx(0.25, abs=0.04)


def test_stop_strings_end_the_answer_wherever_they_stand(llama: BaseModel) -> None:
    version = base_version(llama)
    whole = run(llama, version, max_new_tokens=16)[0]
    for start in range(len(whole)):
        for length in (1, 2, 5):
            stop = whole[start : start + length]
            if "\ufffd" in stop:
                continue
            text, last = run(llama, version, max_new_tokens=16, stop=("never there", stop))
            assert text == whole[: whole.find(stop)]
            assert last.finish_reason == "stop"


def stream(text: str, stops: tuple[str, ...], pieces: list[int]) -> tuple[list[str], bool]:
    """Push a text's tokens through, one token for each of `pieces` bytes or so."""
    ids: list[int] = []
    while text:
        size = max(1, pieces[len(ids) % len(pieces)])
        ids += TOKENIZER(text[:size])["input_ids"]
        text = text[size:]
    made, sent = StreamedText(TOKENIZER, stops), []
    for token in ids:
        piece, stopped = made.push(token)
        sent.append(piece)
        if stopped:
            return sent, True
    return [*sent, made.rest()], False


letters = st.text("ab\nĀ東🎹 ", max_size=14)


@given(
    letters,
    st.lists(st.text("ab\n東", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(1, 4), min_size=1),
)
def test_stop_strings_never_leak_nor_cut_short(text: str, stops: list[str], pieces: list[int]) -> None:
    sent, stopped = stream(text, tuple(stops), pieces)
    answer = "".join(sent)
    assert not any(stop in answer for stop in stops)
    assert text.startswith(answer)
    assert stopped == any(stop in text for stop in stops)
    if not stopped:
        assert answer == text
    else:
        assert any(text[len(answer) :].startswith(stop) for stop in stops)
    assert not any("\ufffd" in piece for piece in sent)


def test_characters_of_several_tokens_come_whole() -> None:
    sent, _ = stream("Zoë 東京🎹!", (), [1])
    assert "".join(sent) == "Zoë 東京🎹!"
    assert not any("\ufffd" in piece for piece in sent)
    assert "" in sent  # negative control: there were tokens that had to wait


def test_an_empty_stop_string_stops_nothing(llama: BaseModel) -> None:
    assert run(llama, base_version(llama), stop=("",))[0] == run(llama, base_version(llama))[0]


def test_the_end_token_stops_and_is_not_shown(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = own(llama, PROMPT, 8)
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", [0, ids[3]])
    text, last = run(llama, base_version(llama), max_new_tokens=8)
    first = ids.index(ids[3])
    assert text == TOKENIZER.decode(ids[:first])
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage["completion_tokens"] == first + 1
    held = run(llama, base_version(llama), max_new_tokens=8, stop=(text[-1] + "never there",))[0]
    assert held == text


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_no_more_tokens_than_asked_for(llama: BaseModel, tokens: int) -> None:
    _, last = run(llama, base_version(llama), max_new_tokens=tokens)
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage["completion_tokens"] == tokens


def test_the_context_is_the_limit(llama: BaseModel) -> None:
    width, version = llama.info.context_length, base_version(llama)
    _, last = run(llama, version, prompt="a" + " is" * (width - 3), max_new_tokens=50)
    assert last.usage == {"prompt_tokens": width - 2, "completion_tokens": 2}
    for prompt in ("a" + " is" * (width - 1), ""):
        with pytest.raises(PromptTooLong) as refused:
            run(llama, version, prompt=prompt)
        assert refused.value.field == "/prompt"


def test_two_generations_take_turns_on_one_thread(llama: BaseModel) -> None:
    versions = [base_version(llama), llama.version(delta(llama, 1))]
    alone = [run(llama, version)[0] for version in versions]
    streams = [generate(llama, version, GenerationRequest(PROMPT)) for version in versions]
    texts = ["", ""]
    for _ in range(40):
        for which, chunks in enumerate(streams):
            texts[which] += next(chunks, Chunk("")).text
    assert texts == alone
    assert alone[0] != alone[1]


def test_an_answer_ends_early_when_enough_is_known(base: BaseModel) -> None:
    """Each by its own number, however prompts were put into batches; the others go on."""
    prompts = encode_prompts(
        base.tokenizer, [PROMPT, "The river", "Mount Etna is a mountain in Italy. He plays"]
    )
    whole = greedy_answers(base, prompts, [6, 6, 6])
    asked: set[int] = set()

    def enough(number: int, ids: list[int]) -> bool:
        asked.add(number)
        return number == 1 and len(ids) >= 2

    found = greedy_answers(base, prompts, [6, 6, 6], enough)
    assert asked == {0, 1, 2}
    assert found[0] == whole[0]
    assert found[2] == whole[2]
    assert found[1][:2] == whole[1][:2]


def bent(folder: Path) -> BaseModel:
    """A checkpoint whose generation config asks for more than the largest logit."""
    save_tiny(folder, seed=3)
    config = {
        "eos_token_id": 0,
        "repetition_penalty": 1.1,
        "num_beams": 2,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 5,
        "suppress_tokens": [5, 6, 7],
        "no_repeat_ngram_size": 2,
        "stop_strings": ["the"],
    }
    (folder / "generation_config.json").write_text(json.dumps(config))
    return BaseModel.load(str(folder), device="cpu", dtype="float64")


def test_what_a_checkpoint_asks_for_bends_neither_verification_nor_serving(tmp_path: Path) -> None:
    """Both take the largest logit at every step, so what is verified is what is served."""
    base = bent(tmp_path)
    assert base.stop_ids == {0}
    prompts = [PROMPT, "The river", "Water boils at", "He plays"]
    ids = encode_prompts(base.tokenizer, prompts)
    verified = greedy_answers(base, ids, [24] * len(prompts))
    for prompt, own, answer in zip(prompts, ids, verified, strict=True):
        text, _ = run(base, base_version(base), prompt=prompt, max_new_tokens=24)
        assert text == base.task.text(base.tokenizer, answer)
        read = list(own)
        for token in answer:
            assert token == int(base.model(input_ids=torch.tensor([read])).logits[0, -1].argmax())
            read.append(token)
    assert any(len(set(answer)) < len(answer) for answer in verified), "a penalty would have shown"
