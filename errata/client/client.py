"""A client of the HTTP API, for the command line and the demo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import httpx

from errata.client.names import only_model
from errata.errors import NoStack, StackError

DONE = ("applied", "rejected", "failed", "cancelled", "withdrawn", "verified")
TIMEOUT_S = 150.0
POLL_S = 0.2


class Refused(StackError):
    """The service answered with a problem.

    Attributes:
        problem: The problem object (RFC 9457).
        status: The HTTP status.
    """

    code = "refused"

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        errors = problem.get("errors") or []
        details = tuple(f"{entry.get('pointer', '')}: {entry.get('detail', '')}" for entry in errors)
        title, detail = str(problem.get("title", "")), str(problem.get("detail", ""))
        message = detail if detail.startswith(title) else f"{title}: {detail}" if detail else title
        super().__init__(f"{message} (HTTP {status})", "", details)
        self.problem = dict(problem)
        self.status = status


class Client:
    """Calls the service; every method raises Refused for a problem and NoStack when nothing answers.

    Args:
        url: Address of the service, such as http://127.0.0.1:8000.
        key: API key; None sends none.

    Raises:
        NoStack: The address or the key cannot be one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        if key and not (key.isascii() and key.isprintable()):
            raise NoStack("The key holds a character that no key has.", "Check --key (ERRATA_KEY).")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:  # the environment's proxies are not for a service that is mostly on this machine
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise NoStack(
                f"{url} is no address: {error}.", "Check --url (ERRATA_URL), such as http://127.0.0.1:8000."
            ) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request; the answer is a success.

        Raises:
            Refused: The service answered with a problem.
            NoStack: Nothing answers at the address.
            StackError: Path or headers cannot be sent.
        """
        try:
            response = self._http.request(method, path, **arguments)
        except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError) as error:
            raise StackError(
                f"{method} {path} cannot be sent: {error}.", "Check --model, --url and --idempotency-key."
            ) from error
        except httpx.HTTPError as error:
            raise NoStack(
                f"No answer from {self.url} ({type(error).__name__}: {error}).",
                "Is the service running? Start one with `errata up`, or give --url.",
            ) from error
        if response.status_code >= 400:
            raise Refused(_problem(response), response.status_code)
        return response

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET a JSON object."""
        return _object(self.call("GET", path, params=params))

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """POST a JSON object and get one."""
        # In ASCII, so that text which is not UTF-8 arrives, and is refused by the name of its field.
        kind = {"Content-Type": "application/json"}
        return _object(self.call("POST", path, content=json.dumps(body), headers={**kind, **(headers or {})}))

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        items: list[dict[str, Any]] = []
        query = dict(params or {})
        while True:
            page = self.get(path, query)
            items += page["items"]
            if page.get("next_cursor") is None:
                return items
            query["cursor"] = page["next_cursor"]

    def answers(self) -> bool:
        """Whether the service is alive."""
        try:
            return self._http.get("/healthz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """All registered models."""
        return self.pages("/models")

    def find_model(self, model_id: str) -> dict[str, Any] | None:
        """One model, or None if it is not registered."""
        try:
            return self.get(f"/models/{model_id}")
        except Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def only_model(self, wanted: str | None) -> str:
        """The model to talk about: the one that is named, or the only one that is registered.

        Raises:
            NoStack: None is registered, or several are.
        """
        if wanted is not None:
            return wanted
        return only_model([str(model["id"]) for model in self.models()])

    def wait_for(self, path: str, watch: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Poll an edit set until its final state, or a withdrawal until its version.

        ``watch`` sees each answer.
        """
        while True:
            answer = self.get(path)
            watch(answer)
            if answer.get("status") in (None, *DONE):  # a version has none
                return answer
            time.sleep(POLL_S)


def _object(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    return body if isinstance(body, dict) else {"items": body}


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    return {"title": response.reason_phrase, "detail": response.text[:200], "status": response.status_code}
