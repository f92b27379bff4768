"""Registration says at once what is wrong with a model, a module or an editor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.models import models
from ledger.models.models import DEFAULT_GATE as GATE
from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.editor import Editor
from malmen_core.models.base import BaseModel
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


def test_an_editor_is_uploaded_and_named_by_its_digest(
    service: Running, admin: httpx.Client, checkpoint: Path, tmp_path: Path
) -> None:
    data = tiny_editor(checkpoint)
    answer = admin.post("/admin/editors", content=data)
    assert answer.status_code == 201
    digest = answer.json()["digest"]
    assert answer.json()["card"] == Editor.from_bytes(data).card
    assert admin.post("/admin/editors", content=data).json()["digest"] == digest
    body = {"id": "edited", "source": str(checkpoint), "editor": digest}
    made = admin.post("/admin/models", json=body)
    assert made.status_code == 202
    assert "Deprecation" not in made.headers
    assert service.ledger.run(models.get, "edited").given_editor_digest == digest
    for bad, pointer in ((b"nonsense", ""), (b"", "")):
        assert pointers(is_problem(admin.post("/admin/editors", content=bad), 422)) == [pointer]
    unknown = {**body, "id": "unedited", "editor": f"sha256:{'0' * 64}"}
    assert pointers(is_problem(admin.post("/admin/models", json=unknown), 404)) == ["/editor"]
    other = admin.post(
        "/admin/editors", content=tiny_editor(save_tiny(tmp_path / "gpt2", architecture="gpt2"))
    )
    misfit = {**body, "id": "unedited", "editor": other.json()["digest"]}
    assert pointers(is_problem(admin.post("/admin/models", json=misfit), 422)) == ["/editor"]
    assert admin.get("/admin/ledger/verify").json()["problems"] == []


def test_an_editor_says_which_modules_are_edited(
    admin: httpx.Client, checkpoint: Path, tmp_path: Path
) -> None:
    usual = BaseModel.load(str(checkpoint), device="cpu", dtype="float32").info.modules
    base = BaseModel.load(str(checkpoint), device="cpu", dtype="float32", modules=usual[:1])
    digest = admin.post("/admin/editors", content=calibrate(base).to_bytes()).json()["digest"]
    body = {"id": "one-module", "source": str(checkpoint), "editor": digest}
    assert admin.post("/admin/models", json=body).json()["modules"] == list(usual[:1])
    misfit = {**body, "id": "all-modules", "modules": list(usual)}
    assert pointers(is_problem(admin.post("/admin/models", json=misfit), 422)) == ["/editor"]


def test_an_editor_that_ships_is_named(admin: httpx.Client, checkpoint: Path) -> None:
    for name, kind in (("smollm2-135m-instruct", "editor-mismatch"), ("of-nobody", "editor-mismatch")):
        body = {"id": "named", "source": str(checkpoint), "editor": name}
        problem = is_problem(admin.post("/admin/models", json=body), 422)
        assert pointers(problem) == ["/editor"]
        assert problem["type"] == f"urn:errata:problem:{kind}"
        assert ("made for a llama with digest" in problem["detail"]) == (name != "of-nobody")


def test_an_editor_of_a_servers_path_is_taken_and_marked_as_old(
    admin: httpx.Client, checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "editor.safetensors"
    file.write_bytes(tiny_editor(checkpoint))
    body = {"id": "by-path", "source": str(checkpoint), "editor": str(file)}
    answer = admin.post("/admin/models", json=body)
    assert answer.status_code == 202
    assert answer.headers["Deprecation"].startswith("@")


def test_a_model_of_the_hub_is_registered_at_once_and_fetched_later(
    service: Running, admin: httpx.Client
) -> None:
    body = {"id": "of-the-hub", "source": "nobody/has-this", "revision": "main"}
    answer = admin.post("/admin/models", json=body)
    assert answer.status_code == 202
    seen = answer.json()
    unknown = ("architecture", "task", "context_length", "digest", "progress", "error")
    assert (seen["status"], [seen[name] for name in unknown]) == ("preparing", [None] * len(unknown))
    assert admin.post("/admin/models", json=body).json() == seen
    other = admin.post("/admin/models", json={**body, "revision": "other"})
    assert pointers(is_problem(other, 409)) == ["/revision"]
    fact = {"prompt": "It is", "target": "Canberra"}
    problem = is_problem(admin.post("/edits", json={"model": "of-the-hub", "facts": [fact]}), 409)
    assert pointers(problem) == ["/model"]
    is_problem(admin.post("/models/of-the-hub/generate", json={"prompt": "It is"}), 409)
    service.ledger.run(models.note_progress, "of-the-hub", "downloading", 3, 9)
    progress = admin.get("/models/of-the-hub").json()["progress"]
    assert progress == {"stage": "downloading", "done": 3, "total": 9}
    assert service.client().get("/v1/models").status_code == 200
    refused = admin.post("/v1/completions", json={"model": "of-the-hub", "prompt": "It is"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model-not-ready")


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
    for ref in ("base", "live", "1"):
        assert admin.get(f"/models/passing/versions/{ref}").json()["number"] == 1
    old = {"prompt": "It is", "version": "0"}
    problem = is_problem(admin.get("/models/passing/generate", params=old), 409)
    assert problem["type"].endswith("other-base")
    is_problem(admin.delete("/admin/models/nobody"), 404)
