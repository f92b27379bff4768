"""The console in a real browser, over a real worker with a tiny model: a fact's whole life."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests import servers
from tests.harness import Backend, backend, tiny_editor
from tests.service.harness import ADMIN, Running, running
from tests.service.test_openai import with_template
from tests.tiny import save_tiny

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium"),
]
WIDTHS = (1280, 360)
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
Site = tuple[Running, Backend]


@pytest.fixture(scope="module")
def site(postgres_server: servers.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The application and a worker."""
    work = tmp_path_factory.mktemp("console")
    folder = with_template(save_tiny(work / "tiny"))
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, work) as service,
        backend(url, valkey.connection_url, work, folder) as made,
    ):
        made.register(tiny_editor(folder))
        made.start_worker()
        made.wait_ready()
        yield service, made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def is_fault(said: ConsoleMessage) -> bool:
    """Whether the browser complains of something else than a refusal, which a test may want."""
    return said.type == "error" and not said.text.startswith("Failed to load resource")


@pytest.fixture
def page(site: Site, browser: Browser) -> Iterator[Page]:
    """A page of an administrator; what the browser refuses, or a script throws, fails the test."""
    context = browser.new_context(base_url=f"{site[0].url}/console/", viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if is_fault(said) else None)
    opened.goto("models")
    opened.get_by_label("Key").fill(ADMIN)
    opened.get_by_role("button", name="Sign in").click()
    expect(opened.get_by_role("heading", name="Models")).to_be_visible()
    yield opened
    context.close()
    assert complaints == []


def keep(page: Page, name: str) -> None:
    """Look at a page for barriers in light and dark and, if a folder is named, keep its picture at two widths."""
    folder = os.environ.get("SCREENSHOTS")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert found.violations_count == 0, f"{name}, {scheme}: {found.generate_report()}"
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            body = page.evaluate("document.documentElement.scrollWidth")
            assert body <= width, f"{name} is {body} pixels wide in {width}"
            if folder is not None:
                page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png", full_page=True)
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})


def press(page: Page, name: str | re.Pattern[str]) -> None:
    page.get_by_role("button", name=name, exact=isinstance(name, str)).click()


def visit(page: Page, name: str) -> None:
    """Follow a link of the navigation."""
    page.get_by_label("Pages").get_by_role("link", name=name).click()


def test_a_facts_life(page: Page, site: Site) -> None:
    keep(page, "models")
    page.get_by_role("link", name="New edit").click()
    page.get_by_label(re.compile("^Statement")).fill("The capital of Peru is")
    page.get_by_label(re.compile("^Target")).fill("Paris")
    page.get_by_label(re.compile("^Subject")).fill("Peru")
    page.get_by_label(re.compile("^Question")).fill("Who governs Peru?")
    page.get_by_label(re.compile("^Rephrasings")).fill("Peru is governed from")
    page.get_by_label(re.compile("measured")).fill("The capital of France is")
    keep(page, "new-edit")
    press(page, "Dry run")
    expect(page.get_by_role("heading", name="Dry run")).to_be_visible()
    expect(page.get_by_text("The gate would be met")).to_be_visible()  # once its events have ended
    sides = page.locator("table.sides")
    expect(sides.locator("tbody tr")).to_have_count(4)
    expect(sides.get_by_text("The capital of Peru is").first).to_be_visible()
    expect(page.locator("td.answer .before")).not_to_be_empty()
    keep(page, "dry-run")
    assert site[0].client().get("/models/tiny").json()["live_version"] == 0

    press(page, "Apply")
    expect(page.get_by_role("heading", name="Edit set")).to_be_visible()
    expect(page.get_by_text("The gate was met")).to_be_visible()
    expect(page.get_by_text("became version 1")).to_be_visible()
    expect(page.locator("table.sides tbody tr")).to_have_count(4)
    keep(page, "edit-set")

    visit(page, "Edits")
    expect(page.get_by_text("dry run")).to_be_visible()
    keep(page, "edits")

    visit(page, "Playground")
    page.get_by_label("Prompt").fill("The capital of Peru is")
    keep(page, "playground-empty")
    press(page, "Ask")
    expect(page.locator(".pane")).to_have_count(2)
    expect(page.get_by_text(re.compile("answers (differ|are the same)"))).to_be_visible()
    for at in (0, 1):
        answer = page.locator(".pane").nth(at).locator(".answer")
        expect(answer).to_contain_text(re.compile("The capital of Peru is."))
    press(page, "Which fact caused this?")
    expect(page.locator(".touched li").first).to_contain_text("Paris")
    keep(page, "playground")

    visit(page, "Models")
    page.get_by_role("link", name="Versions").click()
    page.get_by_label("Compare").select_option("0")
    press(page, "Compare")
    expect(page.locator(".badge.added")).to_be_visible()
    press(page, "Ask both versions")
    expect(page.get_by_text("of 1 prompts are answered differently")).to_be_visible()
    keep(page, "version")

    page.get_by_text("Roll back to version 0").click()
    press(page, "Dry run")
    expect(page.get_by_text("1 fact would leave")).to_be_visible()
    expect(page.get_by_text("Nothing is queued")).to_be_visible()
    press(page, "Roll back")
    expect(page.get_by_text("must not be empty or blank").first).to_be_visible()  # it asks for a reason
    page.locator("details[open]").get_by_label("Reason").fill("The source was retracted")
    press(page, "Roll back")
    expect(page.get_by_role("heading", name="Version 2")).to_be_visible()
    expect(page.get_by_text("The source was retracted")).to_be_visible()
    page.locator(".crumbs").get_by_role("link", name="tiny").click()
    expect(page.get_by_role("heading", name="Versions")).to_be_visible()
    keep(page, "versions")

    visit(page, "Facts")
    page.get_by_label("Text").fill("peru")
    press(page, "Search")
    keep(page, "facts")
    page.locator("tbody tr").first.get_by_role("link").first.click()
    keep(page, "fact")


def test_faults_are_shown_beside_their_facts(page: Page) -> None:
    page.goto("edits/new?many=true")
    page.get_by_label("Facts").fill(
        '{"prompt": "The capital of Peru is", "target": "Lima"}\n{"prompt": "One is"}'
    )
    press(page, "Preview")
    expect(page.locator("tr.faulty")).to_contain_text("is required")
    expect(page.get_by_label("Facts").first).to_have_value(re.compile("One is"))
    keep(page, "preview")


def test_withdrawal_by_the_keyboard(page: Page, site: Site) -> None:
    fact = {"prompt": "The capital of Australia is", "target": "Lima", "subject": "Australia"}
    ident = site[1].post(facts=[fact])
    site[1].wait_for(ident)
    page.goto(f"facts/{ident}.0")
    page.get_by_text("Withdraw this fact").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("It was wrong")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("is live without what follows"))).to_be_visible()
    keep(page, "withdrawal")


def test_ledger_and_keys(page: Page) -> None:
    visit(page, "Ledger")
    press(page, "Verify")
    expect(page.get_by_text("Nothing is wrong")).to_be_visible()
    keep(page, "ledger")
    visit(page, "Keys")
    page.get_by_label(re.compile("^Name")).fill("newsroom")
    press(page, "Make it")
    expect(page.locator("code.secret")).to_contain_text("errata_")
    page.locator("code.secret").evaluate("node => node.textContent = 'errata_' + '0'.repeat(56)")
    keep(page, "keys")


def test_signing_in_and_out(page: Page) -> None:
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    keep(page, "sign-in")
