"""From views to HTML: templates, their filters, and where a form leads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ledger.auth import keys
from service.guard import GuardedRoute
from service.routes.health import release

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
WORDS = re.compile(r"\s*\S+|\s+")


def router() -> APIRouter:
    """A router of pages, which check session and scope first."""
    return APIRouter(route_class=GuardedRoute)


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """A page, or a part of one, from a template."""
    key = getattr(request.state, "key", None)
    shown |= {
        "root": root(request),
        "path": request.url.path.removeprefix(root(request)),
        "key": key,
        "may": lambda scope: key is not None and keys.grants(key, scope),
        "csrf": getattr(request.state, "csrf", ""),
        "partial": "HX-Request" in request.headers,
    }
    return HTMLResponse(TEMPLATES.get_template(template).render(shown), status, headers=HEADERS)


def root(request: Request) -> str:
    """The path that the console is mounted at."""
    return str(request.scope.get("root_path", ""))


def go(request: Request, path: str) -> Response:
    """Lead the browser to a page of the console, from a plain form or from one that htmx sent."""
    address = root(request) + path
    if "HX-Request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": address, **HEADERS})
    return RedirectResponse(address, status_code=303, headers=HEADERS)


def marked(texts: Sequence[str]) -> list[Markup]:
    """Some texts, with the words marked in which each differs from the first, and the first from the others."""
    words = [WORDS.findall(text) for text in texts]
    differing: list[set[int]] = [set() for _ in words]
    for at in range(1, len(words)):
        for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, words[0], words[at]).get_opcodes():
            if tag != "equal":
                differing[0].update(range(a1, a2))
                differing[at].update(range(b1, b2))
    return [_marked(each, found) for each, found in zip(words, differing, strict=True)]


def _marked(words: Sequence[str], differing: set[int]) -> Markup:
    shown = (
        Markup("<mark>{}</mark>").format(w) if n in differing else escape(w) for n, w in enumerate(words)
    )
    return Markup("").join(shown).replace(Markup("</mark><mark>"), Markup(""))


def when(at: datetime | str | None) -> Markup | str:
    """A time as people read it, in UTC."""
    if at is None:
        return "–"
    moment = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M} UTC</time>').format(moment.isoformat(), moment)


def share(value: float | bool | None) -> str:
    """A share as per cent; a dash where there was nothing to measure."""
    return "–" if value is None else f"{100 * float(value):.4g} %"


def digest(value: str | None) -> Markup | str:
    """The beginning of a digest, with the whole of it on request."""
    if not value:
        return "–"
    return Markup('<code title="{}">{}…</code>').format(value, value.removeprefix("sha256:")[:12])


def said(probe: Mapping[str, Any]) -> str:
    """What a prompt that must stay says: its text, or the turns of its conversation."""
    return probe.get("prompt") or " / ".join(turn["content"] for turn in probe["messages"])


def query(parameters: Mapping[str, Any], **changed: Any) -> str:
    """A query with what is given, and some of it changed; what is empty is left out."""
    return urlencode({name: value for name, value in {**parameters, **changed}.items() if value})


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("service.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": when, "share": share, "digest": digest, "said": said}
    made.globals |= {"query": query, "release": release()}
    return made


TEMPLATES = _environment()
