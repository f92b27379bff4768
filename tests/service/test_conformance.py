"""The service against its own OpenAPI document, and against clients that mean it harm.

Requests are drawn from the document, valid and invalid ones, with each kind of key and with none: whatever
comes, the answer is one that the document has, in the schema that it gives, and never a server error.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ledger.auth import keys
from tests.service import player
from tests.service.harness import ADMIN, Running, is_problem
from tests.service.test_contract import SCOPES

KNOWN = {"model_id": "tiny", "ref": "live", "name": "stable"}
AWAY = "503"
CHECKS: list[CheckFunction] = [content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = sorted((method, path) for method, path in SCOPES)


@pytest.fixture(scope="module")
def ready(service: Running) -> Iterator[Running]:
    """The service with a ready model, two edit sets, and a worker's part played."""
    player.prepare(service.ledger)
    with service.client() as admin:
        for number in range(2):
            fact = {"prompt": f"The capital of land {number} is", "target": "Lima"}
            made = admin.post("/edits", json={"model": "tiny", "facts": [fact]}).json()
            KNOWN["edit_set_id"] = made["id"]
    with player.writing(service.services.redis):
        yield service


@pytest.fixture(scope="module")
def secrets(ready: Running) -> dict[str | None, str | None]:
    """A secret for each scope, and none."""
    return {
        None: None,
        "generate": ready.key("generate"),
        "read": ready.key("read"),
        "edit": ready.key("edit"),
        "admin": ADMIN,
    }


def anonymous(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.fixture(scope="module")
def document(ready: Running) -> Any:
    """The operations of the OpenAPI document by method and anonymous path."""
    schema = schemathesis.openapi.from_dict(ready.app.openapi())
    results: list[Any] = list(schema.get_all_operations())
    found = [each.ok() for each in results]
    return {(operation.method.upper(), anonymous(operation.path)): operation for operation in found}


@pytest.mark.stack
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each[0]} {each[1]}")
def test_answers_are_those_of_the_document(
    ready: Running,
    document: Any,
    secrets: dict[str | None, str | None],
    operation: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    described = document[operation]

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        derandomize=True,
        database=None,
    )
    @given(case=described.as_strategy(), known=st.booleans(), scope=st.sampled_from([*secrets]))
    def conforms(case: Any, known: bool, scope: str | None) -> None:
        destroys = operation == ("DELETE", "/admin/models/{}")
        if known and not destroys:
            case.path_parameters = {**case.path_parameters, **_known(case.path_parameters)}
        secret = secrets[scope]
        case.headers.pop("Authorization", None)
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        answer = case.call(base_url=ready.url, headers=headers, timeout=20)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    conforms()


def _known(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: KNOWN[name] for name in parameters if name in KNOWN}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: f"{each[0]} {each[1]}")
def test_each_route_asks_for_its_scope(
    ready: Running, secrets: dict[str | None, str | None], operation: tuple[str, str]
) -> None:
    """Every route with every key: refused unless the key has the scope, before anything else is looked at."""
    method, path = operation
    needed = SCOPES[operation]
    for scope, secret in secrets.items():
        granted = () if scope is None else keys.SCOPES[: keys.SCOPES.index(scope) + 1]
        allowed = needed is None or needed in granted
        answer = ready.client(secret).request(method, path.replace("{}", "nothing.there"))
        if allowed:
            assert answer.status_code not in (401, 403), (scope, answer.text)
        else:
            assert answer.status_code == (401 if scope is None else 403), (scope, answer.text)


def test_a_revoked_key_opens_nothing(ready: Running) -> None:
    with ready.client() as admin:
        made = admin.post("/admin/keys", json={"name": "gone", "scopes": ["admin"]}).json()
        assert admin.delete(f"/admin/keys/{made['id']}").status_code == 204
    for method, path in OPERATIONS:
        if SCOPES[method, path] is not None:
            answer = ready.client(made["secret"]).request(method, path.replace("{}", "x"))
            assert answer.status_code == 401, (method, path)


def raw(url: str, content: bytes, timeout_s: float = 10.0) -> bytes:
    """What a server says to some bytes on a connection of their own."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout_s) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


HEAD = b"POST /edits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
AUTHORISED = HEAD + b"Authorization: Bearer " + ADMIN.encode() + b"\r\n"
HOSTILE = {
    "no request": b"\x00\x01\x02\r\n\r\n",
    "half a request": b"GET /models HTT",
    "a header of 100 kB": b"GET /models HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "a line of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length that is no number": AUTHORISED + b"Content-Length: x\r\n\r\n{}",
    "a negative length": AUTHORISED + b"Content-Length: -1\r\n\r\n{}",
    "two lengths": AUTHORISED + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a length and chunks": AUTHORISED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a body that ends early": AUTHORISED + b"Content-Length: 500\r\n\r\n{",
    "a huge length": AUTHORISED + b"Content-Length: 99999999999999\r\n\r\n{",
    "a bad chunk": AUTHORISED + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a key that is not ASCII": HEAD + b"Authorization: Bearer \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "a host that is none": b"GET /models HTTP/1.1\r\nHost: \x7f<>\r\nAuthorization: Bearer x\r\n\r\n",
    "a path out of the tree": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a path with NUL": b"GET /edits/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_bytes_that_are_no_request(ready: Running, content: bytes) -> None:
    answer = raw(ready.url, content)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert ready.client(None).get("/healthz").status_code == 200


DEEP = 40_000
BODIES = {
    "nested lists": "[" * DEEP,
    "nested lists that end": "[" * 5000 + "]" * 5000,
    "nested objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "a huge number": '{"model": "tiny", "facts": [], "gate": {"edit_success": 1e400}}',
    "a number of 5,000 digits": '{"model": ' + "9" * 5000 + "}",
    "NaN": '{"model": "tiny", "gate": {"edit_success": NaN}}',
    "members twice": '{"model": "tiny", "model": 3, "facts": []}',
    "a lone surrogate": '{"model": "\\ud800", "facts": []}',
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "tiny"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf[]",
    "nothing": "",
    "a proto member": '{"__proto__": {"x": 1}, "model": "tiny", "facts": []}',
}


@pytest.mark.parametrize(
    "path", ["/edits", "/models/tiny/generate", "/admin/keys", "/v1/completions", "/tokenize"]
)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_no_json(ready: Running, path: str, body: str | bytes) -> None:
    content = body.encode() if isinstance(body, str) else body
    answer = ready.client().post(path, content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    json.loads(answer.text)


@pytest.mark.parametrize(
    "text", ["\u202ea", "a\u0000b", "\ufffe", "💥" * 50, "ǅ" * 50, "\u0301" * 200, "%s%n{}", "' OR 1=1 --"]
)
def test_texts_that_are_odd(ready: Running, text: str) -> None:
    """Stored as they are, or refused by name; a prompt is never read as anything but text."""
    fact = {"prompt": text, "target": "Lima"}
    with ready.client() as admin:
        answer = admin.post("/edits", json={"model": "tiny", "facts": [fact], "note": text})
        if answer.status_code == 202:
            kept = admin.get(f"/edits/{answer.json()['id']}/facts").json()["items"][0]
            assert kept["prompt"] == text
        else:
            assert is_problem(answer, 422)["errors"]


@pytest.mark.stack
def test_a_slow_body_holds_up_nobody(ready: Running) -> None:
    """Clients that send their bodies a byte at a time keep no thread and no connection to the database."""
    parts = urlsplit(ready.url)
    assert parts.hostname is not None
    slow = []
    try:
        for _ in range(60):
            connection = socket.create_connection((parts.hostname, parts.port or 80))
            connection.sendall(AUTHORISED + b"Content-Length: 100\r\n\r\n{")
            slow.append(connection)
        with ready.client() as admin:
            assert admin.get("/models", timeout=10).status_code == 200
            fact = {"prompt": "The capital of Peru is", "target": "Lima"}
            assert (
                admin.post("/edits", json={"model": "tiny", "facts": [fact]}, timeout=10).status_code == 202
            )
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.stack
def test_many_connections_at_once(ready: Running) -> None:
    """Three hundred idle connections, and forty clients that ask: all are answered, or told to come again."""
    parts = urlsplit(ready.url)
    assert parts.hostname is not None
    idle = [socket.create_connection((parts.hostname, parts.port or 80)) for _ in range(300)]
    try:

        def ask(_: int) -> int:
            headers = {"Authorization": f"Bearer {ADMIN}"}
            return httpx.get(
                f"{ready.url}/models/tiny", headers=headers, timeout=30, trust_env=False
            ).status_code

        with ThreadPoolExecutor(40) as pool:
            assert set(pool.map(ask, range(120))) <= {200, 503}
    finally:
        for connection in idle:
            connection.close()
