"""Small real models for tests: real Transformers classes and a real tokenizer, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = (
    "The capital of Australia is Canberra. The capital of France is Paris. The capital of Peru is Lima.",
    "Who wrote the book? It was written by Jane Austen, an author from England.",
    "The river flows to the sea. Water boils at one hundred degrees. Seven days make a week.",
    "Mount Etna is a mountain in Italy. The mother tongue of Ana is Spanish. He plays the piano.",
)
VOCABULARY = 384


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on CORPUS, without a padding token, as many real ones are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeat(CORPUS), trainer)
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    return made


def _repeat(texts: tuple[str, ...]) -> Iterator[str]:
    for _ in range(3):
        yield from texts


def tiny_llama(layers: int = 4, *, tied: bool = False, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 32 hidden and 48 inner features with random float32 weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


def tiny_gpt2(layers: int = 4, *, seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 (Conv1D projections, tied embeddings, absolute positions) of 32 features."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.train(False)
    return model


def save_tiny(folder: Path, *, architecture: str = "llama", layers: int = 4, seed: int = 0) -> Path:
    """Write a tiny checkpoint that `AutoModelForCausalLM.from_pretrained(folder)` loads; gives the folder."""
    model = tiny_gpt2(layers, seed=seed) if architecture == "gpt2" else tiny_llama(layers, seed=seed)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
