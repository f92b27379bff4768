"""Around every request: an id, a line in the access log, a count in the metrics, and no traceback outside."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.failures import METHODS, internal_problem
from service.metrics import Metrics

logger = logging.getLogger(__name__)
access_log = logging.getLogger("errata.access")

GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_CLOSED = 499


class AccessMiddleware:
    """Outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens below."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_CLOSED
        except Exception:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:
                raise
            await internal_problem().to_response(scope["path"])(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status or CLIENT_CLOSED, time.perf_counter() - started)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        above = scope.get("app_root_path")  # of a path below a mounted application
        if above is not None and route != "unmatched":
            route = scope["root_path"].removeprefix(above) + route
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self.metrics.request(method, route, status, seconds)
        key = scope.get("state", {}).get("key")
        client = scope.get("client")
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "key": getattr(key, "id", None),
            "client": client[0] if client else None,
        }
        access_log.info(json.dumps(line))


def log_to_stdout() -> None:
    """Write the access log to standard output, one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.handlers[:] = [handler]
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
