"""Adapters for vLLM: a folder of them, and the request that loads one, as vLLM documents both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from errata.cli.app import assemble
from ledger import Ledger, LedgerSettings
from ledger.versions import versions
from tests.inprocess import Office, fact
from tests.servers import Postgres
from tests.tiny import save_tiny

Given = tuple[Office, Path, dict[str, str]]


@pytest.fixture(scope="module")
def office(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """Two edit sets: versions 1 and 2, of which 2 is live."""
    work = tmp_path_factory.mktemp("office")
    folder = save_tiny(work / "model")
    with postgres_server.database() as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(work / "blobs")))
        made = Office(ledger, folder)
        made.edit(fact(0))
        made.edit(fact(1))
        settings = {"ERRATA_DATABASE_URL": url, "ERRATA_BLOB_URL": str(work / "blobs")}
        yield made, folder, {**settings, "ERRATA_DEVICE": "cpu"}
        ledger.close()


class Vllm(ThreadingHTTPServer):
    """Answers as vLLM does to `load_lora_adapter`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.loaded: dict[str, str] = {}
        self.keys: list[str | None] = []
        self.allows = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Vllm

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.append(self.headers.get("Authorization"))
        name = body["lora_name"]
        if self.path != "/v1/load_lora_adapter" or not self.server.allows:
            self.answer(404, '{"detail": "Not Found"}')
        elif name in self.server.loaded:
            message = f"The lora adapter '{name}' has already been loaded."
            self.answer(400, json.dumps({"object": "error", "message": message, "code": 400}))
        elif not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            self.answer(400, json.dumps({"object": "error", "message": "No adapter found"}))
        else:
            self.server.loaded[name] = body["lora_path"]
            self.answer(200, f"Success: LoRA adapter '{name}' added successfully.")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    with Vllm() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def run(office: Given, *arguments: str | Path) -> Result:
    return CliRunner().invoke(assemble(), list(map(str, arguments)), env=office[2])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_folder_has_an_adapter_for_each_alias(office: Given, tmp_path: Path) -> None:
    made, model, _ = office
    done = run(office, "serve-adapters", tmp_path, "--once", "--json")
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["tiny@2"]
    before = (tmp_path / "tiny@2" / "adapter_model.safetensors").stat().st_mtime_ns
    assert run(office, "serve-adapters", tmp_path, "--once").exit_code == 0
    assert (tmp_path / "tiny@2" / "adapter_model.safetensors").stat().st_mtime_ns == before
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "tiny@2"))
    ids = torch.tensor([made.resident.base.tokenizer("The capital of Peru is")["input_ids"]])
    version = made.ledger.run(versions.get, "tiny", 2)
    with torch.inference_mode():
        found = adapted(ids).logits[0, -1]
        with made.resident.version(version.delta_digest).active():
            expected = made.resident.base.model(ids).logits[0, -1]
    assert torch.allclose(found, expected, atol=1e-4)


def test_an_adapter_is_pushed_by_name(office: Given, vllm: Vllm, tmp_path: Path) -> None:
    given = ("--folder", tmp_path, "--json")
    done = run(office, "push", vllm.url, "tiny@1", *given, "--key", "secret")
    assert done.exit_code == 0, done.output
    assert vllm.loaded == {"tiny@1": str(tmp_path / "tiny@1")}
    assert vllm.keys == ["Bearer secret"]
    assert json.loads(run(office, "push", vllm.url, "tiny@1", *given).stdout)["loaded"] is False
    assert run(office, "push", vllm.url, "tiny@live", *given).exit_code == 0
    assert set(vllm.loaded) == {"tiny@1", "tiny@2"}


@pytest.mark.parametrize(
    ("name", "says"),
    [("tiny", "names no version"), ("tiny@base", "untouched"), ("tiny@0", "untouched"), ("tiny@9", "9")],
)
def test_what_cannot_be_pushed(office: Given, vllm: Vllm, tmp_path: Path, name: str, says: str) -> None:
    done = run(office, "push", vllm.url, name, "--folder", tmp_path)
    assert done.exit_code == 1
    assert says in done.stderr
    assert vllm.loaded == {}


def test_what_vllm_refuses_is_said(office: Given, vllm: Vllm, tmp_path: Path) -> None:
    vllm.allows = False
    refused = run(office, "push", vllm.url, "tiny@1", "--folder", tmp_path)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in refused.stderr
    away = run(office, "push", "http://127.0.0.1:9", "tiny@1", "--folder", tmp_path)
    assert "No answer" in away.stderr
