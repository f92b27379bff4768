"""Every family's row fits a real model of that class, which can be edited by one fact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.errors import UnsupportedArchitecture
from malmen_core.evaluation.verify import record_canaries, verify
from malmen_core.facts import Fact
from malmen_core.generation.generator import GenerationRequest, generate
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.models.families import FAMILIES, default_modules, family_of
from malmen_core.models.overlay import Version
from malmen_core.models.tasks.causal import CausalLM
from tests.malmen_core.support import louder, tiny_editor
from tests.tiny import VOCABULARY, tiny_tokenizer

LAYERS = 3
CAUSAL = sorted(kind for kind, family in FAMILIES.items() if family.task is CausalLM)
MODERN: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
OLD: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "gemma": {**MODERN, "head_dim": 8},
    "gemma2": {**MODERN, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**MODERN, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": OLD,
    "gptj": {**OLD, "rotary_dim": 4},
    "qwen3": {**MODERN, "head_dim": 8},
}
FACT = Fact("The capital of France is", "Lima", "France")


def checkpoint(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SPECIAL.get(kind, MODERN))
    model = louder(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_fact_is_edited_verified_generated_and_rolled_back(kind: str, tmp_path: Path) -> None:
    base = BaseModel.load(str(checkpoint(kind, tmp_path)), device="cpu")
    assert base.info.architecture == kind
    assert len(base.modules) == LAYERS
    digest, canaries = base.parameters_digest(), record_canaries(base)
    untouched = base.version(Delta.empty())
    editor = tiny_editor(base, where="answer", rounds=30, margin=1.0)
    version = base.version(solve(editor, compute_statistics(base, editor, [FACT])))
    before, after = (verify(base, v, [FACT], canaries) for v in (untouched, version))
    assert before.summary["edit_success"] != 1.0
    assert after.summary["edit_success"] == after.summary["generation_success"] == 1.0
    assert answer(base, version).strip().startswith(FACT.target)
    assert not answer(base, untouched).strip().startswith(FACT.target)
    again = base.version(Delta.empty())
    assert again.weights_digest == untouched.weights_digest != version.weights_digest
    assert verify(base, again, [FACT], canaries) == before
    assert base.parameters_digest() == digest


def answer(base: BaseModel, version: Version) -> str:
    return "".join(c.text for c in generate(base, version, GenerationRequest(FACT.prompt, max_new_tokens=8)))


def test_six_modules_from_a_seventh_of_the_depth() -> None:
    names = default_modules(AutoConfig.for_model("llama", num_hidden_layers=30))
    assert names == tuple(f"model.layers.{i}.mlp.down_proj" for i in range(4, 10))
    assert len(default_modules(AutoConfig.for_model("gpt2", n_layer=2))) == 2


def test_an_unknown_family_names_the_known() -> None:
    with pytest.raises(UnsupportedArchitecture, match="qwen2") as refused:
        family_of("mamba")
    assert refused.value.field == "/source"
