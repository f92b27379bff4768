"""Clients that use Errata while it is attacked, and note what they asked and what was answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.harness import MODEL
from tests.nemesis.stand import Stand

LANDS = 30
TARGETS = ("Lima", "Paris", "Canberra", "Rome", "England")
PROMPTS = tuple(f"The capital of land {number} is" for number in range(6))
OPENED = {
    "generate": ("GET", f"/models/{MODEL}/generate?version=base&max_new_tokens=1&prompt=The"),
    "read": ("GET", f"/models/{MODEL}"),
    "edit": ("POST", "/edits/none/cancel"),
    "admin": ("GET", "/admin/keys?limit=1"),
}
"""A call for each scope, the least first; a key opens those up to its own."""
PATIENCE = 12
PAUSE_S = 0.15


class History:
    """What was asked, answered and done, a JSON object a line. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._lock = threading.Lock()

    def note(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        with self._lock:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        """End it."""
        self._file.close()


class Client(threading.Thread):
    """One client: does what its seed says until told to stop."""

    def __init__(self, stand: Stand, history: History, seed: int, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._stand, self._history, self._stop_asked = stand, history, stop
        self._random = Random(f"client {seed} {number}")
        self._tokens = (f"{seed}-{number}-{count}" for count in range(10**9))
        self._http = stand.client()
        self._sets: list[str] = []
        self._withdrawals: list[str] = []
        self._newest = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Do one thing after the other."""
        wanted = list(self.OPERATIONS)
        weights = [self.OPERATIONS[each] for each in wanted]
        try:
            while not self._stop_asked.is_set():
                self._random.choices(wanted, weights)[0](self, next(self._tokens))
                self._stop_asked.wait(self._random.expovariate(1 / PAUSE_S))
        except BaseException as failure:
            self.failure = failure
            raise
        finally:
            self._http.close()

    def _ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Ask one of the APIs: the status and the body; 0 where there was no answer."""
        url = self._random.choice(self._stand.urls) + path
        try:
            answer = self._http.request(
                method,
                url,
                json=body,
                headers={name.replace("_", "-"): text for name, text in headers.items()},
            )
            found = answer.json() if answer.content else {}
        except (httpx.HTTPError, ValueError) as error:
            return 0, {"no_answer": f"{type(error).__name__}: {error}"}
        found["away_s"] = int(answer.headers.get("errata-ledger-away", 0))
        return answer.status_code, found

    def _note(
        self, op: str, token: str, begun: float, status: int, found: dict[str, Any], **more: Any
    ) -> None:
        entry = {"op": op, "token": token, "t0": begun, "t1": time.time(), "status": status, **more}
        entry["away_s"] = found.get("away_s", 0)
        if status == 0 or status >= 400:
            entry["problem"] = found.get("no_answer") or found.get("type")
        self._history.note(entry)

    def _once(self, op: str, token: str, method: str, path: str, body: Any, keep: str, **more: Any) -> Any:
        """Ask, note it with one member of the answer, and return that member if it was granted.

        A POST is sent under an idempotency key until it is answered; anything else once.
        """
        begun, answers = time.time(), []
        for attempt in range(PATIENCE if method == "POST" else 1):
            keyed = {"Idempotency_Key": token} if method == "POST" else {}
            status, found = self._ask(method, path, body, **keyed)
            got = found.get(keep) if 200 <= status < 300 else None
            answers.append([status, got])
            if method != "POST" or 0 < status < 500 or self._stop_asked.is_set():
                break
            time.sleep(min(0.1 * 2**attempt, 2.0))
        self._note(op, token, begun, status, found, got=got, answers=answers, **more)
        return got

    def post(self, token: str) -> None:
        """Post an edit set."""
        lands = self._random.sample(range(LANDS), self._random.choice((1, 1, 1, 2, 3)))
        facts = [
            {
                "prompt": f"The capital of land {land} is",
                "target": self._random.choice(TARGETS),
                "subject": f"land {land}",
            }
            for land in lands
        ]
        body = {
            "model": MODEL,
            "facts": facts,
            "note": token,
            "promote": self._random.choice(("auto", "auto", "auto", "manual")),
            "dry_run": self._random.random() < 0.05,
        }
        if made := self._once("post", token, "POST", "/edits", body, "id", facts=facts):
            self._sets.append(made)

    def _recent(self) -> str | None:
        """The path of one of the latest edit sets, or now and then of a withdrawal."""
        kind = "withdrawals" if self._withdrawals and self._random.random() < 0.25 else "edits"
        made = (self._withdrawals if kind == "withdrawals" else self._sets)[-6:]
        return f"/{kind}/{self._random.choice(made)}" if made else None

    def cancel(self, token: str) -> None:
        """Cancel an edit set or a withdrawal."""
        if path := self._recent():
            ident = path.rpartition("/")[2]
            self._once("cancel", token, "POST", f"{path}/cancel", None, "status", object=ident)

    def read(self, token: str) -> None:
        """Look at an edit set or a withdrawal that was accepted."""
        if path := self._recent():
            begun = time.time()
            status, found = self._ask("GET", path)
            seen = {"got": found.get("status"), "live": found.get("live")} if status == 200 else {"got": None}
            self._note("read", token, begun, status, found, object=path.rpartition("/")[2], **seen)

    def look(self, token: str) -> None:
        """Learn which versions there are."""
        begun = time.time()
        status, found = self._ask("GET", f"/models/{MODEL}/versions?limit=1")
        if status == 200:
            self._newest = found["items"][0]["number"]
        self._note("look", token, begun, status, found, got=self._newest)

    def _version(self) -> int:
        return self._random.randint(max(0, self._newest - 8), self._newest)

    def roll_back(self, token: str) -> None:
        """Roll back to a version."""
        number = self._version()
        body = {"to_version": number, "reason": token, "cancel_queued": self._random.random() < 0.1}
        path = f"/admin/models/{MODEL}/rollback"
        self._once("roll_back", token, "POST", path, body, "number", to=number, cancels=body["cancel_queued"])

    def withdraw(self, token: str) -> None:
        """Withdraw an edit set that is live."""
        begun = time.time()
        status, found = self._ask("GET", f"/edits?model={MODEL}&live=true&limit=10")
        self._note("look", token, begun, status, found)
        if status == 200 and found["items"]:
            ident = self._random.choice(found["items"])["id"]
            body = {"withdraw": {"edit_sets": [ident], "facts": []}, "reason": token}
            path = f"/admin/models/{MODEL}/rollback"
            if made := self._once("withdraw", token, "POST", path, body, "id", edit_set=ident):
                self._withdrawals.append(made)

    def promote(self, token: str) -> None:
        """Point live or another alias at a version."""
        name = self._random.choice(("live", "stable", "next"))
        number = self._version()
        body = {"version": number, "force": True, "reason": token}
        path = f"/admin/models/{MODEL}/aliases/{name}"
        self._once("promote", token, "PUT", path, body, "version", name=name, number=number)

    def remove_alias(self, token: str) -> None:
        """Remove an alias."""
        path = f"/admin/models/{MODEL}/aliases/next"
        self._once("remove_alias", token, "DELETE", path, None, "none", name="next")

    def make_key(self, token: str) -> None:
        """Make a key of some scope, use it, revoke it, and use it again."""
        scope = self._random.choice(list(OPENED))
        begun = time.time()
        body = {"name": token, "scopes": [scope]}
        status, found = self._ask("POST", "/admin/keys", body, Idempotency_Key=token)
        self._note("make_key", token, begun, status, found, got=found.get("id"), scope=scope)
        if status != 201:
            return
        self._use_key(token, found, scope, revoked=False)
        begun = time.time()
        gone, answer = self._ask("DELETE", f"/admin/keys/{found['id']}")
        self._note("revoke_key", token, begun, gone, answer, key=found["id"])
        if gone == 204:
            self._use_key(token, found, scope, revoked=True)

    def _use_key(self, token: str, key: dict[str, Any], scope: str, *, revoked: bool) -> None:
        needs = self._random.choice(list(OPENED))
        begun = time.time()
        status, answer = self._ask(*OPENED[needs], Authorization=f"Bearer {key['secret']}")
        about = {"key": key["id"], "scope": scope, "needs": needs, "revoked": revoked}
        self._note("use_key", token, begun, status, answer, **about)

    def register(self, token: str) -> None:
        """Register another model, which no worker serves, and remove it."""
        ident = f"other-{token}"
        body = {"id": ident, "source": str(self._stand.checkpoint)}
        if self._once("register", token, "POST", "/admin/models", body, "id", model=ident):
            self._once("remove", token, "DELETE", f"/admin/models/{ident}", None, "status", model=ident)

    def generate(self, token: str) -> None:
        """Ask a version, by number or alias, to go on with a prompt."""
        version: int | str = self._random.choice(("live", "live", "live", self._version()))
        body = {"prompt": self._random.choice(PROMPTS), "version": version, "max_new_tokens": 6}
        begun = time.time()
        status, found = self._ask("POST", f"/models/{MODEL}/generate", body)
        got = (
            {name: found.get(name) for name in ("version", "text", "weights_digest")}
            if status == 200
            else None
        )
        self._note("generate", token, begun, status, found, got=got, asked=version, prompt=body["prompt"])

    OPERATIONS: dict[Callable[[Client, str], None], int] = {  # noqa: RUF012
        post: 22,
        cancel: 5,
        read: 8,
        look: 8,
        roll_back: 5,
        withdraw: 6,
        promote: 12,
        remove_alias: 4,
        make_key: 6,
        register: 2,
        generate: 22,
    }
