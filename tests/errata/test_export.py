"""`errata export`: what it writes loads elsewhere and answers alike, and nothing else is ever left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import malmen_core.export.adapter
from errata.cli.app import assemble
from ledger import Ledger, LedgerSettings
from ledger.models import models
from ledger.versions import versions
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from tests.inprocess import CAPITALS, Office, fact
from tests.servers import Postgres
from tests.tiny import save_tiny

Given = tuple[Office, dict[str, str]]
"""An office, and the settings that name its ledger."""


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.stack)])
def office(
    request: pytest.FixtureRequest, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Given]:
    """Two edit sets, three facts."""
    work = tmp_path_factory.mktemp("office")
    folder = save_tiny(work / "model", architecture=request.param)
    with postgres_server.database() as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(work / "blobs")))
        made = Office(ledger, folder)
        made.edit(fact(0), fact(1))
        made.edit(fact(2))
        yield made, {"ERRATA_DATABASE_URL": url, "ERRATA_BLOB_URL": str(work / "blobs")}
        ledger.close()


def run(
    office: Given,
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str | Path,
    code: int = 0,
) -> dict[str, Any]:
    for name, value in {**office[1], "ERRATA_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(assemble(), ["export", *map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def served_logits(office: Office, number: int, prompt: str) -> torch.Tensor:
    resident = office.desk.resident
    version = office.ledger.run(versions.get, "tiny", number)
    ids = torch.tensor([resident.base.tokenizer(prompt)["input_ids"]])
    with resident.version(version.delta_digest).active(), torch.inference_mode():
        logits: torch.Tensor = resident.base.model(input_ids=ids).logits[0, -1]
    return logits


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_checkpoint_answers_as_the_version(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    done = run(office, monkeypatch, str(number), tmp_path / "out")
    version = office[0].ledger.run(versions.get, "tiny", number)
    assert done["hash"] == version.hash
    assert done["served_weights_are_those_recorded"] is True
    assert done["probes"]["facts"] == done["probes"]["of"] == version.live_fact_count
    assert done["probes"]["sequences"] > done["probes"]["facts"], "canaries too"
    assert done["probes"]["error"] == 0.0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / "errata.json").read_text())["hash"] == version.hash
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    base = BaseModel.load(str(tmp_path / "out"), device="cpu")
    for prompt, _, _ in CAPITALS:
        ids = torch.tensor([base.tokenizer(prompt)["input_ids"]])
        assert torch.equal(loaded(input_ids=ids).logits[0, -1], served_logits(office[0], number, prompt))
    assert base.version(Delta.empty()).weights_digest == version.weights_digest


def test_an_adapter_answers_as_the_version(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    done = run(office, monkeypatch, "live", out, "--format", "peft")
    assert 0 < done["rank"] <= 512
    assert done["probes"]["error"] <= done["probes"]["tolerance"] == 1e-4
    assert {path.name for path in out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "errata.json",
    }
    config = json.loads((out / "adapter_config.json").read_text())
    architecture = office[0].ledger.run(models.get, "tiny").architecture
    assert config["fan_in_fan_out"] is (architecture == "gpt2")
    assert config["lora_alpha"] == config["r"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_another_dtype_is_held_to_what_it_can_do(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = run(office, monkeypatch, "2", tmp_path / "out", "--dtype", "bfloat16", "--tolerance", "1")
    assert done["served_dtype"] == "float32"
    assert 0 < done["probes"]["error"] <= 1
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert written.dtype == torch.bfloat16
    error = run(
        office, monkeypatch, "2", tmp_path / "two", "--dtype", "bfloat16", "--tolerance", "1e-9", code=1
    )["error"]
    assert error["code"] == "export-refused"
    assert "--dtype" in error["remedy"]
    error = run(office, monkeypatch, "2", tmp_path / "two", "--dtype", "int3", code=1)["error"]
    assert "int3" in error["message"]


def test_a_checkpoint_in_half_precision_is_exported_as_it_is_and_without_its_manifest(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a CPU it is served in float32; it is written, and compared, in what its files have."""
    folder = save_tiny(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(folder)
    (folder / "errata-manifest.json").write_text("{}")
    with postgres_server.database() as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(tmp_path / "blobs")))
        made = Office(ledger, folder)
        made.edit(fact(0))
        half = made, {"ERRATA_DATABASE_URL": url, "ERRATA_BLOB_URL": str(tmp_path / "blobs")}
        for version in ("base", "live"):
            done = run(half, monkeypatch, version, tmp_path / version)
            assert done["probes"]["error"] <= done["probes"]["tolerance"]
            written = AutoModelForCausalLM.from_pretrained(tmp_path / version, dtype="auto")
            assert written.dtype == torch.bfloat16
            assert not (tmp_path / version / "errata-manifest.json").exists()
        ledger.close()


def test_the_sample_is_bounded_and_stated(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = run(office, monkeypatch, "2", tmp_path / "out", "--probes", "1")
    assert (done["probes"]["facts"], done["probes"]["of"]) == (1, 3)


def test_what_is_there_is_not_overwritten(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "file/below"):
        error = run(office, monkeypatch, "2", tmp_path / name, code=1)["error"]
        assert error["code"] == "export-target"
        assert name in error["message"]
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("base", "--format", "peft"), "export-refused"),
        (("2", "--format", "peft", "--max-rank", "1", "--truncation", "0"), "export-refused"),
        (("2", "--format", "peft", "--tolerance", "0"), "export-refused"),
        (("9",), "not-found"),
        (("nobody",), "not-found"),
        (("2", "--model", "other"), "not-found"),
    ],
)
def test_what_is_refused_leaves_nothing(
    office: Given,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: str,
) -> None:
    number, *options = arguments
    error = run(office, monkeypatch, number, tmp_path / "out", *options, code=1)["error"]
    assert error["code"] == code
    assert error["remedy"]
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checkpoint_is_refused_and_gone(
    office: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The base written in the version's place: what is loaded again is what decides."""
    monkeypatch.setattr("errata.offline.export.write_checkpoint", forgetful)
    error = run(office, monkeypatch, "2", tmp_path / "out", "--tolerance", "1e-6", code=1)["error"]
    assert error["code"] == "export-refused"
    assert "does not answer" in error["message"]
    assert list(tmp_path.iterdir()) == []


def forgetful(base: BaseModel, version: object, folder: Path) -> None:
    malmen_core.export.adapter.write_checkpoint(base, base.version(Delta.empty()), folder)
