"""Small tokenizers of every kind that models come with, trained on the tests' corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import CORPUS, VOCABULARY, tiny_tokenizer

TEXTS = CORPUS * 3


def closing() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a begin token in front of every text, and an end token behind it."""
    made = tiny_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A <eos>", special_tokens=[("<eos>", 0)]
    )
    return made


def unigram(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    """SentencePiece-like Unigram with a word mark (Metaspace), as in T5 (``$A </s>``) and Gemma."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<s>", "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    return _wrapped(tokenizer, template, specials, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """Llama 2's way: a word mark put in front by the normaliser, BPE, and bytes for unknown characters."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    splitting = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    splitting.normalizer = tokenizer.normalizer
    splitting.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    splitting.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    )
    tokenizer.model = splitting.model
    return _wrapped(tokenizer, "<s> $A", specials, eos_token="</s>", unk_token="<unk>", bos_token="<s>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, words in pieces, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    return _wrapped(tokenizer, "[CLS] $A [SEP]", specials, pad_token="[PAD]", unk_token="[UNK]")


def _wrapped(
    tokenizer: Tokenizer, template: str, specials: Sequence[str], **named: str
) -> PreTrainedTokenizerFast:
    used = [(token, tokenizer.token_to_id(token)) for token in specials if token in template.split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    options: dict[str, Any] = {**named}
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
    return made


CONTINUING: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level BPE": tiny_tokenizer,
    "byte-level BPE with an end token": closing,
    "Unigram with a word mark": unigram,
    "BPE with byte fallback": byte_fallback,
}
