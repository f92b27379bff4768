"""Registration says at once what is wrong with a model, a module or an editor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.models import models
from ledger.models.models import DEFAULT_GATE as GATE
from malmen_core.editing.calibrate import paper_editor
from malmen_core.models.base import BaseModel
from service.routes import admin_models
from tests.harness import tiny_editor
from tests.service import player
from tests.service.harness import Running, is_problem, pointers
from tests.tiny import save_tiny


def test_a_model_is_registered(service: Running, admin: httpx.Client, checkpoint: Path) -> None:
    body = {"id": "second", "source": str(checkpoint), "gate": {"locality": 0.5}}
    answer = admin.post("/admin/models", json=body)
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/models/second"
    seen = admin.get("/models/second").json()
    assert (seen["status"], seen["gate"], seen["live_version"]) == (
        "preparing",
        {**GATE, "locality": 0.5},
        None,
    )
    assert seen["modules"]
    assert admin.post("/admin/models", json=body).status_code == 202
    other = {**body, "gate": {"locality": 0.9}}
    problem = is_problem(admin.post("/admin/models", json=other), 409)
    assert "second" in problem["detail"]
    assert pointers(problem) == ["/gate"]
    assert pointers(is_problem(admin.post("/admin/models", json={**body, "revision": "x"}), 409)) == [
        "/revision"
    ]
    assert "second" in [item["id"] for item in admin.get("/models").json()["items"]]


@pytest.mark.parametrize("given", [None, {}, {"locality": None}])
def test_a_gate_has_defaults(admin: httpx.Client, checkpoint: Path, given: dict[str, Any] | None) -> None:
    answer = admin.post("/admin/models", json={"id": "gated", "source": str(checkpoint), "gate": given})
    assert answer.json()["gate"] == GATE


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"source": "/nowhere/at/all"}, "/source", "model-not-loadable"),
        ({"source": "a" * 300}, "/source", "model-not-loadable"),
        ({"source": "~nobody-of-this-name"}, "/source", "model-not-loadable"),
        ({"modules": ["model.layers.0.nonsense"]}, "/modules", "unknown-module"),
        ({"modules": []}, "/modules", "invalid-request"),
        ({"editor": "/nowhere/editor.safetensors"}, "/editor", None),
        ({"id": "with space"}, "/id", "invalid-request"),
        ({"id": ""}, "/id", "invalid-request"),
        ({"gate": {"locality": 2}}, "/gate/locality", "invalid-request"),
        ({"weights": "x"}, "/weights", "invalid-request"),
    ],
)
def test_bad_registrations(
    service: Running,
    admin: httpx.Client,
    checkpoint: Path,
    change: dict[str, Any],
    pointer: str,
    code: str | None,
) -> None:
    before = service.counts()
    body = {"id": "third", "source": str(checkpoint), **change}
    problem = is_problem(admin.post("/admin/models", json=body), 422)
    assert any(found.startswith(pointer) for found in pointers(problem))
    assert code is None or problem["type"] == f"urn:errata:problem:{code}"
    assert service.counts() == before


def test_a_folder_without_a_model(service: Running, admin: httpx.Client, tmp_path: Path) -> None:
    before = service.counts()
    problem = is_problem(admin.post("/admin/models", json={"id": "x", "source": str(tmp_path)}), 422)
    assert pointers(problem) == ["/source"]
    assert service.counts() == before


def test_an_editor_for_another_model(
    service: Running, admin: httpx.Client, checkpoint: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", architecture="gpt2")
    file = tmp_path / "editor.safetensors"
    file.write_bytes(tiny_editor(other))
    before = service.counts()
    body = {"id": "fourth", "source": str(checkpoint), "editor": str(file)}
    problem = is_problem(admin.post("/admin/models", json=body), 422)
    assert pointers(problem) == ["/editor"]
    assert problem["type"] == "urn:errata:problem:editor-mismatch"
    assert service.counts() == before


def test_a_packaged_editor_is_taken_by_name_and_brings_its_modules(
    service: Running,
    admin: httpx.Client,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"]
    base = BaseModel.load(str(checkpoint), modules=names, device="cpu", dtype="float32")
    editor = paper_editor(base, step=1.0, ridge=1.0)
    editor.save(tmp_path / "by-name.safetensors")
    monkeypatch.setattr(admin_models, "PACKAGED", tmp_path)
    body = {"id": "published", "source": str(checkpoint), "editor": "by-name"}
    assert admin.post("/admin/models", json=body).status_code == 202
    assert admin.get("/models/published").json()["modules"] == names
    given = service.ledger.run(models.get, "published").given_editor_digest
    assert given == editor.digest
    other = {**body, "id": "other", "modules": names[:1]}
    assert pointers(is_problem(admin.post("/admin/models", json=other), 422)) == ["/editor"]


def test_an_archived_model_is_served_no_more_and_its_id_is_free(
    service: Running, admin: httpx.Client, checkpoint: Path, tmp_path: Path
) -> None:
    body = {"id": "passing", "source": str(checkpoint)}
    admin.post("/admin/models", json=body)
    player.prepare(service.ledger, "passing")
    fact = {"prompt": "It is", "target": "Canberra"}
    queued = admin.post("/edits", json={"model": "passing", "facts": [fact]}).json()["id"]
    answer = admin.delete("/admin/models/passing")
    assert (answer.status_code, answer.json()["status"]) == (200, "archived")
    assert admin.delete("/admin/models/passing").json()["status"] == "archived"
    assert admin.get(f"/edits/{queued}").json()["status"] == "cancelled"
    assert admin.get("/models/passing").json()["status"] == "archived"
    assert "passing" not in [item["id"] for item in admin.get("/models").json()["items"]]
    is_problem(admin.post("/edits", json={"model": "passing", "facts": [fact]}), 409)
    is_problem(admin.get("/models/passing/generate", params={"prompt": "It is"}), 409)
    assert admin.get("/admin/ledger/verify").json()["problems"] == []
    other = {**body, "source": str(save_tiny(tmp_path / "other", seed=9))}
    assert admin.post("/admin/models", json=other).status_code == 202
    player.prepare(service.ledger, "passing")
    seen = admin.get("/models/passing").json()
    assert (seen["status"], seen["live_version"]) == ("ready", 1)
    old = {"prompt": "It is", "version": "0"}
    problem = is_problem(admin.get("/models/passing/generate", params=old), 409)
    assert problem["type"].endswith("other-base")
    is_problem(admin.delete("/admin/models/nobody"), 404)
