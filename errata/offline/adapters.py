"""Versions as PEFT adapters for vLLM: a folder of them that its filesystem resolver reads, or loaded by name.

An adapter is called as its version (`ID@7`) and never changes, since vLLM may go on using what it has cached
under a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from errata.errors import ExportTarget, InputFileError, NoStack, StackError
from errata.offline.export import Wanted, export
from ledger import Ledger
from ledger.models import models
from ledger.records import ModelRecord
from ledger.versions import versions

CONFIG = "adapter_config.json"
LOAD = "/v1/load_lora_adapter"
Say = Callable[[str], None]


def find(ledger: Ledger, name: str) -> tuple[ModelRecord, int]:
    """The model and the number of the version that a name such as `ID@7` or `ID@live` means.

    Raises:
        InputFileError: The name has no version, or the base's, which has nothing to adapt.
        LedgerError: There is no such model or version.
    """
    ident, _, ref = name.partition("@")
    if not ref:
        raise InputFileError(f"{name} names no version.", f"Write {ident}@7 or {ident}@live.")
    record = ledger.run(models.get, ident)
    number = ledger.run(versions.number_of, ident, int(ref) if ref.isdecimal() else ref)
    if number == 0:
        raise InputFileError(f"{name} is the untouched base.", "It needs no adapter: ask the base itself.")
    return record, number


def aliased(ledger: Ledger, model: ModelRecord) -> Iterator[int]:
    """The numbers of the versions that a model's aliases point at, but for the base."""
    yield from sorted({number for number in ledger.run(models.get, model.id).aliases.values() if number})


def write(ledger: Ledger, model: ModelRecord, number: int, folder: Path, wanted: Wanted, say: Say) -> Path:
    """The folder of a version's adapter, written unless it is there.

    Raises:
        ExportTarget: Something else is there.
        CoreError: The version cannot be exported.
    """
    target = folder / f"{model.id}@{number}"
    if (target / CONFIG).is_file():
        return target
    if target.exists():
        raise ExportTarget(f"{target} is there, and is no adapter.", "Remove it, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    export(ledger, model, ledger.run(versions.get, model.id, number), target, wanted, say)
    return target


def push(url: str, key: str | None, name: str, folder: Path) -> dict[str, Any]:
    """Have vLLM load an adapter from a folder that it can read, too.

    Raises:
        NoStack: Nothing answers at the address.
        StackError: It does not load the adapter, or does not load any.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"lora_name": name, "lora_path": str(folder.absolute())}
    try:
        answer = httpx.post(
            url.rstrip("/") + LOAD, json=body, headers=headers, timeout=120.0, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoStack(f"No answer from {url} ({error}).", "Give the address of a vLLM server.") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise StackError(
            f"{url} has no {LOAD}.",
            "Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.",
        )
    if answer.status_code >= 400:
        if "already been loaded" in answer.text:
            return {"name": name, "folder": str(folder), "loaded": False}
        raise StackError(
            f"vLLM does not load {name}: {answer.text[:300]}", "See its log, and --max-lora-rank."
        )
    return {"name": name, "folder": str(folder), "loaded": True}
