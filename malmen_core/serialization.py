"""Tensors and a JSON card as safetensors bytes that are the same for the same content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from malmen_core.errors import DeltaCorrupt


def digest(data: bytes) -> str:
    """SHA-256 of bytes as ``sha256:…``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(kind: str, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors with a card.

    The header's members are sorted, so equal content gives equal bytes and a digest names a content.

    Args:
        kind: what this is, checked by `unpack`.
        card: JSON-able facts about it.
        tensors: by name, on any device.
    """
    metadata = {"kind": kind, "card": json.dumps(card, sort_keys=True, separators=(",", ":"))}
    data = save({name: tensors[name].detach().contiguous().cpu() for name in sorted(tensors)}, metadata)
    return _sorted_header(data)


def unpack(kind: str, data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `pack` wrote: the card and the tensors (on the CPU).

    Raises:
        DeltaCorrupt: not safetensors, or of another kind.
    """
    try:
        tensors = load(data)
        metadata = _header(data)["__metadata__"]
        card = json.loads(metadata["card"])
        if not isinstance(card, dict):
            raise TypeError("its card is not an object")
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise DeltaCorrupt(
            f"These bytes are not a stored {kind}: {error}", "Restore them from a backup."
        ) from error
    if metadata.get("kind") != kind:
        raise DeltaCorrupt(f"These bytes are a {metadata.get('kind')}, not a {kind}.", "Name the right file.")
    return card, tensors


def _header(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def _sorted_header(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(_header(data), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
