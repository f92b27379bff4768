"""A browser without scripts: it keeps cookies, follows redirects, and sends the forms of pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx

from tests.service.harness import ADMIN, Running

CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')


class Browser:
    """One visitor of the console."""

    def __init__(self, service: Running) -> None:
        self.client = service.client(None)
        self.client.follow_redirects = True
        self.csrf = ""

    def get(self, path: str, status: int = 200, /, **parameters: Any) -> str:
        """The text of a page, whose forms are then at hand."""
        return self._seen(self.client.get(f"/console{path}", params=parameters), status)

    def post(self, path: str, status: int = 200, /, **fields: Any) -> str:
        """Send a form, and return the page that it leads to."""
        files = fields.pop("files", None)
        data = {"csrf": self.csrf, **fields}
        return self._seen(self.client.post(f"/console{path}", data=data, files=files), status)

    def _seen(self, answer: httpx.Response, status: int) -> str:
        assert answer.status_code == status, answer.text
        self.address = answer.url.path.removeprefix("/console")
        found = CSRF.search(answer.text)
        self.csrf = found.group(1) if found else self.csrf
        return answer.text


def sign_in(service: Running, secret: str = ADMIN) -> Browser:
    """A visitor who has signed in."""
    browser = Browser(service)
    browser.get("/sign-in")
    browser.post("/sign-in", key=secret)
    return browser


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(html: str) -> str:
    """The words of a page."""
    parser = _Text()
    parser.feed(html)
    return " ".join(" ".join(parser.parts).split())
