"""The contract: paths, envelopes, settings."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from broker import errors as broker_errors
from ledger import errors as ledger_errors
from malmen_core import errors as core_errors
from problems import KINDS, ErrataError
from service.app import NOUNS
from service.guard import GuardedRoute
from service.settings import ServiceSettings
from tests.service.harness import Running, is_problem

SCOPES = {
    ("POST", "/edits"): "edit",
    ("GET", "/edits"): "read",
    ("GET", "/edits/{}"): "read",
    ("GET", "/edits/{}/facts"): "read",
    ("GET", "/edits/{}/events"): "read",
    ("POST", "/edits/{}/cancel"): "edit",
    ("GET", "/withdrawals"): "read",
    ("GET", "/withdrawals/{}"): "read",
    ("GET", "/withdrawals/{}/events"): "read",
    ("POST", "/withdrawals/{}/cancel"): "edit",
    ("GET", "/facts"): "read",
    ("GET", "/models"): "read",
    ("GET", "/models/{}"): "read",
    ("GET", "/models/{}/versions"): "read",
    ("GET", "/models/{}/versions/{}"): "read",
    ("GET", "/models/{}/versions/{}/changes"): "read",
    ("GET", "/models/{}/versions/{}/edit_sets"): "read",
    ("GET", "/models/{}/facts"): "read",
    ("GET", "/models/{}/generate"): "generate",
    ("POST", "/models/{}/generate"): "generate",
    ("POST", "/admin/editors"): "admin",
    ("POST", "/admin/models"): "admin",
    ("DELETE", "/admin/models/{}"): "admin",
    ("POST", "/admin/models/{}/rollback"): "admin",
    ("GET", "/admin/models/{}/aliases/{}"): "admin",
    ("PUT", "/admin/models/{}/aliases/{}"): "admin",
    ("DELETE", "/admin/models/{}/aliases/{}"): "admin",
    ("GET", "/admin/ledger/verify"): "admin",
    ("GET", "/admin/audit"): "admin",
    ("POST", "/admin/keys"): "admin",
    ("GET", "/admin/keys"): "admin",
    ("GET", "/admin/keys/{}"): "admin",
    ("DELETE", "/admin/keys/{}"): "admin",
    ("GET", "/v1/models"): "generate",
    ("GET", "/v1/models/{}"): "generate",
    ("POST", "/v1/completions"): "generate",
    ("POST", "/v1/chat/completions"): "generate",
    ("GET", "/tokenizer_info"): "generate",
    ("POST", "/tokenize"): "generate",
    ("POST", "/detokenize"): "generate",
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/status"): "read",
    ("GET", "/metrics"): "read",
}


def anonymous(path: str) -> str:
    """A path with its parameters' names left out."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


def test_paths(service: Running) -> None:
    document = service.app.openapi()
    found = {
        (method.upper(), anonymous(path))
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert found == set(SCOPES)


def test_scopes() -> None:
    found: dict[tuple[str, str], str | None] = {}
    for noun in NOUNS:
        for route in noun.routes.routes:
            assert isinstance(route, GuardedRoute)
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                found[method, anonymous(route.path)] = route.guard.scope if route.guard else None
    assert found == SCOPES | {("HEAD", "/healthz"): None, ("HEAD", "/readyz"): None}


def test_bodies_have_examples_and_errors_are_problems(service: Running) -> None:
    document = service.client(None).get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                if kind == "application/x-ndjson":
                    assert content["example"]
                if kind != "application/json":
                    continue
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert schemas[name]["examples"], name
                assert schemas[name]["additionalProperties"] is False
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    kind = (
                        "application/json" if operation["tags"] == ["openai"] else "application/problem+json"
                    )
                    assert list(answer["content"]) == [kind]
            assert operation["summary"]
    references = json.dumps(document).split('"#/components/schemas/')[1:]
    assert {reference.split('"')[0] for reference in references} <= set(schemas)


def test_every_post_that_changes_something_takes_an_idempotency_key(service: Running) -> None:
    asking = {path for method, path in SCOPES if SCOPES[method, path] == "generate"}
    for path, operations in service.app.openapi()["paths"].items():
        if "post" not in operations or anonymous(path) in asking:
            continue
        named = {parameter["name"].lower() for parameter in operations["post"].get("parameters", ())}
        assert "idempotency-key" in named, path


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_documentation_pages_load_nothing_from_elsewhere(service: Running, page: str) -> None:
    client = service.client(None)
    html = client.get(page).text
    assert "://" not in html
    loaded = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert any(path.endswith(".js") for path in loaded)
    assert "/openapi.json" in html
    for path in loaded:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert len(answer.content) > 1000


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())


def descendants(kind: type[Any]) -> set[type[Any]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_every_typed_error_has_a_status() -> None:
    kinds = [ledger_errors.LedgerError, core_errors.CoreError, broker_errors.BrokerError]
    found = {error for kind in kinds for error in descendants(kind)}
    assert {error.code for error in found} <= set(KINDS)
    for error in found:
        if issubclass(error, ErrataError):
            assert (error.status, error.title) == (KINDS[error.code].status, KINDS[error.code].title)
            assert "code" in vars(error), "each class has a code of its own"


def test_lists_refuse_unknown_parameters(service: Running, admin: httpx.Client) -> None:
    made = {"model": "tiny", "facts": [{"prompt": "The capital of Australia is", "target": "Canberra"}]}
    ident = admin.post("/edits", json=made).json()["id"]
    lists = ("/edits", f"/edits/{ident}/facts", "/facts", "/withdrawals", "/models", "/models/tiny/versions")
    for path in (*lists, "/admin/keys", "/admin/audit"):
        assert admin.get(path, params={"limit": 1}).status_code == 200
        problem = is_problem(admin.get(path, params={"bogus": 1}), 422)
        assert problem["errors"] == [{"pointer": "/bogus", "detail": "is not a known field", "in": "query"}]


def test_unknown_paths_and_methods(admin: httpx.Client) -> None:
    is_problem(admin.get("/nothing/here"), 404)
    is_problem(admin.get("/edits/"), 404)
    for path, allowed in (
        ("/edits", "GET, POST"),
        ("/admin/keys/x", "DELETE, GET"),
        ("/readyz", "GET, HEAD"),
    ):
        answer = admin.put(path, json={})
        problem = is_problem(answer, 405)
        assert answer.headers["allow"] == allowed
        assert problem["detail"].endswith(f"Use {allowed}.")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_may_ask_for_the_head(service: Running, path: str) -> None:
    client = service.client(None)
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (client.get(path).status_code, b"")


def test_request_ids(admin: httpx.Client) -> None:
    assert admin.get("/healthz").headers["X-Request-ID"] != admin.get("/healthz").headers["X-Request-ID"]
    given = admin.get("/healthz", headers={"X-Request-ID": "trace-1"})
    assert given.headers["X-Request-ID"] == "trace-1"
    refused = admin.get("/healthz", headers={"X-Request-ID": "a b\tc"})
    assert refused.headers["X-Request-ID"] != "a b\tc"


def test_a_bug_is_a_problem_without_traceback(service: Running, admin: httpx.Client) -> None:
    async def bug() -> None:
        raise RuntimeError("secret detail")

    service.app.add_api_route("/bug", bug, include_in_schema=False)
    answer = admin.get("/bug")
    is_problem(answer, 500)
    assert "secret" not in answer.text


def test_access_log(admin: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "errata.access"):
        admin.get("/models", headers={"X-Request-ID": "logged"})
        admin.get("/models")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "errata.access"]
    (line,) = [line for line in lines if line["request_id"] == "logged"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/models", 200)
    assert line["ms"] >= 0
    assert line["key"]
