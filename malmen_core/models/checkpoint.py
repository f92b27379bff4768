"""A checkpoint's files: where they lie, whether they are whole, and their digest."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from malmen_core.errors import ModelNotLoadable

COMPANIONS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Config and tokenizer."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Forms, in the order in which they are looked for. PyTorch's own is read as weights alone, never as code."""
FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""How safetensors names them."""
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def is_folder(source: str) -> bool:
    """Whether a source can only be a folder, or is one; it is a hub id otherwise."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    return is_path or os.path.isdir(source)  # Path.is_dir raises where a text is too long for a path


def check_hub_id(source: str) -> None:
    """Refuse what cannot be an id of the hub.

    Raises:
        ModelNotLoadable: it cannot.
    """
    if not HUB_ID.fullmatch(source):
        raise ModelNotLoadable(
            f"{source!r} is neither a folder nor an id of the hub.",
            "Give a folder, or an id such as name/model.",
            "/source",
        )


def commit_of(folder: Path) -> str | None:
    """The commit of the hub whose copy a folder is; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def checkpoint_folder(
    source: str, revision: str | None, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The folder that holds a checkpoint's files: the source itself, or the hub's local copy.

    Args:
        source: hub id or folder.
        revision: hub revision.
        progress: told how much is fetched, and of how much; may raise to abort.

    Raises:
        ModelNotLoadable: there is no such folder, and the hub has it not.
    """
    folder = Path(os.path.expanduser(source))
    if os.path.isdir(folder):
        return folder
    if is_folder(source):
        raise ModelNotLoadable(f"There is no folder {source!r}.", "Give a folder or a hub id.", "/source")
    try:
        for form in WEIGHTS:
            patterns, bar = [form, *COMPANIONS], None if progress is None else _bar(progress)
            folder = Path(
                snapshot_download(source, revision=revision, allow_patterns=patterns, tqdm_class=bar)
            )
            if weight_files(folder):
                break
        return folder
    except (OSError, ValueError) as error:
        raise ModelNotLoadable(
            f"{source!r} is neither a folder nor to be had from the hub: {error}",
            "Give a folder, or check the id, the revision and the network.",
            "/source",
        ) from error


def _bar(progress: Callable[[int, int], None]) -> Any:
    """A progress bar of the hub's client that shows nothing and tells."""
    tqdm: Any = importlib.import_module("tqdm.auto").tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> Any:
            told = super().update(n)
            if self.unit == "B":  # another bar counts files
                progress(int(self.n), int(self.total or 0))
            return told

    return Bar


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights, by name: safetensors, or PyTorch's own where there are none."""
    for form in WEIGHTS:
        files = sorted(folder.glob(form))
        if files:
            return files
    return []


def check_weights(folder: Path, source: str) -> None:
    """Check that a checkpoint's weights are all there, as far as that can be told without reading them.

    Raises:
        ModelNotLoadable: there are none, one is missing, or one is damaged.
    """
    files = weight_files(folder)
    if not files:
        raise ModelNotLoadable(
            f"{source!r} holds no weights: no *.safetensors, no pytorch_model*.bin.",
            "Save it with save_pretrained first.",
            "/source",
        )
    index = folder / INDICES[0 if files[0].suffix == ".safetensors" else 1]
    if index.exists():
        try:
            named = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelNotLoadable(
                f"{index.name} of {source!r} is damaged: {error}", "Fetch it again.", "/source"
            ) from error
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise ModelNotLoadable(
                f"{source!r} lacks {', '.join(missing)}.", "Fetch the whole checkpoint.", "/source"
            )
    for file in files:
        try:
            next(stored_dtypes(file), None)
        except Exception as error:
            raise ModelNotLoadable(
                f"{file.name} of {source!r} is damaged, or holds more than weights: {error}",
                "Fetch it again, or save it as safetensors.",
                "/source",
            ) from error


def stored_dtypes(file: Path) -> Iterator[str]:
    """Names of the dtypes of the tensors in a file of weights, such as ``float32``; they are not read."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                stored = tensors.get_slice(name).get_dtype()
                yield FLOATS.get(stored, stored)
    else:
        state = torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file) or None)
        yield from (str(tensor.dtype).removeprefix("torch.") for tensor in state.values())


def files_digest(folder: Path) -> str:
    """SHA-256 over the names and digests of a checkpoint's weight files: ``sha256:…``."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"
