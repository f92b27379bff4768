"""Tiny checkpoints of the tasks other than causal language modelling: T5, BERT and RoBERTa."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.tiny import VOCABULARY, tiny_tokenizer
from tests.tokenizer_kinds import unigram, word_piece

LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
LOUDER = 4.0
ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: number for number, label in enumerate(LABELS)},
}


def save_tiny_task(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny ``t5``, ``bert`` or ``roberta`` with random weights and its kind of tokenizer."""
    torch.manual_seed(seed)
    model, tokenizer = {"t5": _t5, "bert": _bert, "roberta": _roberta}[kind](changes)
    with torch.no_grad():
        for parameter in {id(p): p for p in model.parameters() if p.dim() > 1}.values():
            parameter.mul_(LOUDER if kind != "t5" else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _t5(changes: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerFast]:
    config: dict[str, Any] = {
        "vocab_size": 200,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**(config | changes))), unigram("$A </s>")


def _bert(changes: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerFast]:
    config = BertConfig(**(ENCODER | {"max_position_embeddings": 64} | changes))
    return BertForSequenceClassification(config), word_piece()


def _roberta(changes: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerFast]:
    config = RobertaConfig(**(ENCODER | {"max_position_embeddings": 130, "pad_token_id": 1} | changes))
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A <eos>", special_tokens=[("<eos>", 0)]
    )
    return RobertaForSequenceClassification(config), tokenizer
