"""Signing in, the cookie, the tokens of forms, and what a key may not do."""

from __future__ import annotations

import re

import httpx
import pytest

from ledger.auth import keys
from tests.service import player
from tests.service.console.browsing import Browser, sign_in, text_of
from tests.service.harness import ADMIN, Running


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


PAGES = (
    "/models",
    "/models/tiny",
    "/models/tiny/versions/0",
    "/edits",
    "/facts",
    "/playground",
    "/ledger",
)
FORMS = (
    "/sign-out",
    "/models",
    "/models/tiny/archive",
    "/models/tiny/aliases",
    "/models/tiny/rollback",
    "/edits",
    "/edits/preview",
    "/playground",
    "/playground/stream",
    "/ledger/verify",
    "/keys",
)


def cookies(answer: httpx.Response) -> dict[str, str]:
    return {line.partition("=")[0]: line for line in answer.headers.get_list("set-cookie")}


def test_a_key_begins_a_session_that_scripts_and_other_sites_cannot_use(service: Running) -> None:
    client = service.client(None)
    client.follow_redirects = False
    asked = client.get("/console/models")
    assert (asked.status_code, asked.headers["location"]) == (303, "/console/sign-in?next=/console/models")
    form = client.get(asked.headers["location"])
    found = re.search(r'name="csrf" value="(\w+)"', form.text)
    assert found is not None
    fields = {"csrf": found.group(1), "next": "/console/models", "key": ADMIN}
    answer = client.post("/console/sign-in", data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/models")
    cookie = cookies(answer)["errata_console"]
    assert {"HttpOnly", "SameSite=strict", "Path=/console"} <= set(cookie.split("; "))
    assert ADMIN not in cookie
    page = client.get("/console/models")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_the_cookie_is_for_encrypted_connections_where_there_is_one(service: Running) -> None:
    import asyncio

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://errata.example") as client:
            return await client.get("/console/sign-in")

    assert "Secure" in cookies(asyncio.run(ask()))["errata_sign_in"]


def test_another_site_is_not_led_to(service: Running) -> None:
    browser = Browser(service)
    browser.get("/sign-in")
    browser.post("/sign-in", key=ADMIN, next="https://elsewhere.example/")
    assert browser.address == "/models"


@pytest.mark.parametrize("secret", ["", "wrong", "errata_0_0", "ключ"])
def test_a_wrong_key_is_refused(service: Running, secret: str) -> None:
    browser = Browser(service)
    browser.get("/sign-in")
    assert "unknown, was revoked, or has expired" in browser.post("/sign-in", 401, key=secret)
    browser.get("/models")
    assert browser.address == "/sign-in"


def test_sign_in_needs_the_form_of_the_same_browser(service: Running) -> None:
    stranger = Browser(service)
    stranger.get("/sign-in")
    victim = Browser(service)
    assert "not made for this session" in text_of(victim.post("/sign-in", 403, key=ADMIN, csrf=stranger.csrf))
    victim.get("/sign-in")
    victim.post("/sign-in", 403, key=ADMIN, csrf=stranger.csrf)


@pytest.mark.parametrize("path", FORMS)
def test_every_form_needs_the_token_of_its_session(service: Running, path: str) -> None:
    browser, other = sign_in(service), sign_in(service)
    before = service.counts()
    browser.post(path, 403, csrf="")
    browser.post(path, 403, csrf=other.csrf)
    assert service.counts() == before
    browser.get("/models")
    assert browser.address == "/models"


def test_signing_out_ends_the_session(service: Running) -> None:
    browser = sign_in(service)
    stolen = dict(browser.client.cookies)
    browser.post("/sign-out")
    assert browser.address == "/sign-in"
    again = Browser(service)
    again.client.cookies.update(stolen)
    again.get("/models")
    assert again.address == "/sign-in"


def test_a_revoked_key_ends_its_sessions(service: Running) -> None:
    record, secret = service.ledger.run(keys.create, "leaver", {"read"}, actor="system")
    browser = sign_in(service, secret)
    browser.get("/models")
    assert browser.address == "/models"
    service.ledger.run(keys.revoke, record.id, "system")
    browser.get("/models")
    assert browser.address == "/sign-in"


def test_a_reader_sees_all_and_is_offered_nothing(service: Running) -> None:
    browser = sign_in(service, service.key("read"))
    for path in PAGES:
        page = browser.get(path)
        offered = set(re.findall(r'<form method="post" action="/console([^"]+)"', page))
        assert offered <= {"/sign-out"}, path
        assert "New edit" not in page
        assert "/console/keys" not in page
    for path in FORMS:
        if path not in ("/sign-out", "/playground", "/playground/stream"):
            assert "lacks the scope" in browser.post(path, 403)
    for path in ("/edits/new", "/keys"):
        assert "lacks the scope" in browser.get(path, 403)


def test_an_editor_is_offered_edits_alone(service: Running) -> None:
    browser = sign_in(service, service.key("read", "edit"))
    assert "New edit" in browser.get("/models/tiny")
    assert "Archive" not in browser.get("/models/tiny")
    assert "Roll back" not in browser.get("/models/tiny/versions/0")
    assert "Who did what" not in browser.get("/ledger")


def test_htmx_is_led_by_a_header(service: Running) -> None:
    client = service.client(None)
    answer = client.get("/console/models", headers={"HX-Request": "true"})
    assert answer.status_code == 204
    assert answer.headers["hx-redirect"] == "/console/sign-in?next=/console/models"


def test_pages_load_nothing_from_elsewhere(service: Running) -> None:
    browser = sign_in(service)
    for path in PAGES:
        loaded = re.findall(r'(?:src|(?<=<link )[^>]*href)="([^"]+)"', browser.get(path))
        assert loaded
        for address in loaded:
            answer = browser.client.get(address)
            assert answer.status_code == 200, address
            assert address.startswith("/console/static/")
