"""Exporting a version: written beside its place, loaded again, compared, and only then put there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from transformers.utils.logging import disable_progress_bar

from errata.offline.atomic_write import arriving
from errata.offline.offline_model import Served, load_served
from ledger import Ledger
from ledger.edits import facts as ledger_facts
from ledger.records import ModelRecord, VersionRecord
from malmen_core.errors import ExportRefused
from malmen_core.export.adapter import check_exportable, checkpoint_dtype, write_adapter, write_checkpoint
from malmen_core.export.fidelity import (
    TOLERANCES,
    Fidelity,
    coarser,
    compare,
    dtype_name,
    load_adapter,
    load_checkpoint,
)
from malmen_core.models.base import BaseModel
from malmen_core.models.checkpoint import checkpoint_folder
from malmen_core.models.tokenization import Encoded, encode_prompt, load_tokenizer

Format = Literal["hf", "peft"]
NOTE = "errata.json"


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, and how closely it is looked at.

    Attributes:
        form: `hf`, a whole checkpoint, or `peft`, a LoRA adapter.
        dtype: Of a checkpoint; None for that of the base's files.
        probes: Most facts to compare on; the canary prompts come on top.
        largest_rank: Of an adapter's modules.
        truncation: Greatest relative error of a change that is cut to a lower rank.
        tolerance: Of the comparison; None for that of the dtype.
    """

    form: Format
    dtype: str | None
    probes: int
    largest_rank: int
    truncation: float
    tolerance: float | None


def export(
    ledger: Ledger,
    model: ModelRecord,
    record: VersionRecord,
    target: Path,
    wanted: Wanted,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write a version's files to a folder that is not there yet, or empty; returns what was done.

    Raises:
        ExportTarget: Something is there already.
        CoreError: The model cannot be loaded; or the version cannot be written so, or what was written does
            not answer as the version does. Nothing is left behind.
        LedgerError: The delta cannot be read.
    """
    disable_progress_bar()
    with arriving(target) as folder:
        say(f"Loading {model.id}")
        served = load_served(ledger, model, record)
        check_exportable(served.base)
        say(f"Writing version {record.number} to {target}")
        written = _write(served, folder, wanted)
        say("Loading what was written, and comparing")
        sequences, facts = probes(ledger, record, model, served.base, wanted.probes)
        loaded_with, fidelity = _check(served, folder, wanted, sequences)
        result = {
            "model": model.id,
            "version": record.number,
            "hash": record.hash,
            "format": wanted.form,
            "base_digest": record.base_digest,
            "delta_digest": record.delta_digest,
            "weights_digest": served.version.weights_digest,
            "served_dtype": dtype_name(served.base),
            "served_weights_are_those_recorded": served.exact,
            **written,
            "loaded_with": loaded_with,
            "probes": {"facts": facts, "of": record.live_fact_count, **asdict(fidelity)},
        }
        (folder / NOTE).write_text(json.dumps(result, indent=2) + "\n")
    return {**result, "folder": str(target)}


def probes(
    ledger: Ledger, record: VersionRecord, model: ModelRecord, base: BaseModel, most: int
) -> tuple[list[Encoded], int]:
    """Sequences to compare on: a sample of the version's facts, drawn by its hash, and the model's canaries.

    Returns:
        the sequences, and how many of them are facts.
    """
    facts = ledger.run(ledger_facts.of_version, record.model_id, record.number)
    if len(facts) > most:
        facts = tuple(Random(record.hash).sample(facts, most))
    sequences = [base.encode(fact.prompt, fact.target) for fact in facts]
    for prompt, answer in (model.canaries or {}).get("continuations", {}).items():
        if answer:
            ids = encode_prompt(base.tokenizer, prompt)
            sequences.append(Encoded((*ids, *answer), len(ids)))
    return sequences, len(facts)


def _write(served: Served, folder: Path, wanted: Wanted) -> dict[str, Any]:
    if wanted.form == "peft":
        adapter = write_adapter(
            served.base,
            served.delta,
            folder,
            largest_rank=wanted.largest_rank,
            truncation=wanted.truncation,
        )
        return {"dtype": "float32", **asdict(adapter)}
    info = served.base.info
    dtype = wanted.dtype or checkpoint_dtype(checkpoint_folder(info.source, info.revision))
    if dtype == dtype_name(served.base):
        write_checkpoint(served.base, served.version, folder)
    else:
        own = BaseModel.load(
            info.source, revision=info.revision, modules=info.modules, device="cpu", dtype=dtype
        )
        write_checkpoint(own, own.version(served.delta), folder)
    return {"dtype": dtype}


def _check(
    served: Served, folder: Path, wanted: Wanted, sequences: Sequence[Encoded]
) -> tuple[str, Fidelity]:
    """Load what was written as its users will, and compare; returns what loaded it, and the comparison."""
    loaded: Any
    if wanted.form == "peft":
        loaded, loaded_with = load_adapter(served.base, folder)
        dtype = dtype_name(served.base)
    else:
        _check_tokenizer(served.base, folder, sequences)
        loaded, loaded_with = load_checkpoint(folder, served.base.device), "transformers"
        dtype = coarser(dtype_name(served.base), str(loaded.dtype).removeprefix("torch."))
    tolerance = TOLERANCES[dtype] if wanted.tolerance is None else wanted.tolerance
    fidelity = compare(served.base, served.version, loaded, sequences, tolerance)
    fidelity.check()
    return loaded_with, fidelity


def _check_tokenizer(base: BaseModel, folder: Path, sequences: Sequence[Encoded]) -> None:
    written = load_tokenizer(str(folder))
    for sequence in sequences:
        text = base.tokenizer.decode(list(sequence.ids))
        if encode_prompt(written, text) != encode_prompt(base.tokenizer, text):
            raise ExportRefused(
                f"The tokenizer that was written splits {text!r} otherwise than the base's.",
                "Check the tokenizer's files beside the base's weights.",
            )
