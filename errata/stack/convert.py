"""Turn a GGUF file into a safetensors folder: ``python -m errata.stack.convert FILE.gguf FOLDER``.

A process of its own, so that its memory (several times the model's) is given back at once.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF checkpoint to float32 and save it, with its tokenizer, as a Hugging Face folder.

    Args:
        gguf: A GGUF file of a causal language model.
        target: The folder to write.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: transformers does not know the architecture.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantized = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    config = quantized.config
    # A model that was read from GGUF refuses to be saved as "quantized"; a fresh one of its shape does not.
    config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantized.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantized.generation_config
    plain.save_pretrained(str(target))
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    tokenizer.save_pretrained(str(target))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
