"""A client of the HTTP API that waits for each answer."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from errata.client import model_requests, requests
from errata.client.errors import ApiError, Unreachable
from errata.client.names import only_model
from errata.client.request import Request
from errata.client.resources import EditSet, Model, Version, Withdrawal
from errata.client.transport import Retries, SyncTransport
from errata.client.waiting import (
    AGAIN_S,
    POLL_S,
    Deadline,
    State,
    Waiting,
    Watch,
    WatchWithdrawal,
    id_of,
    text_of,
    where,
)

P = ParamSpec("P")
T = TypeVar("T")


class _Group:
    """Requests about one kind of object; `bound` stands before the arguments of each."""

    def __init__(self, transport: SyncTransport, *bound: str) -> None:
        self._transport, self._bound = transport, bound


def _sends(build: Callable[P, Request[T]]) -> Callable[Concatenate[_Group, P], T]:
    """A method that sends what a function of `requests` builds."""

    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> T:
        return group._transport.send(build(*args, **options))

    return method


def _sends_bound(build: Callable[Concatenate[str, P], Request[T]]) -> Callable[Concatenate[_Group, P], T]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> T:
        return group._transport.send(build(group._bound[0], *args, **options))

    return method


def _lists(build: Callable[P, Request[T]]) -> Callable[Concatenate[_Group, P], Iterator[T]]:
    """A method that walks a list, page by page."""

    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        return group._transport.pages(build(*args, **options))

    return method


def _lists_bound(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[_Group, P], Iterator[T]]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        return group._transport.pages(build(group._bound[0], *args, **options))

    return method


class Edits(_Group):
    """Edit sets."""

    create = _sends(requests.create_edit)
    upload = _sends(requests.upload_edit)
    get = _sends(requests.get_edit)
    cancel = _sends(requests.cancel_edit)
    list = _lists(requests.list_edits)
    facts = _lists(requests.edit_facts)

    def events(self, edit_set: str, *, timeout: float | None = None) -> Iterator[EditSet]:
        """The states of an edit set from the present to the final one; a lost connection is made again.

        Args:
            edit_set: Its id.
            timeout: Seconds after which no more is waited for.

        Raises:
            WaitTimeout: The time is over.
            ApiError: There is no such edit set.
            Unreachable: The service has gone for good.
        """
        return _states(self._transport, requests.edit_events(edit_set), Waiting(EditSet, edit_set, timeout))

    def wait(
        self, edit_set: str | EditSet, *, on_progress: Watch | None = None, timeout: float | None = None
    ) -> EditSet:
        """The final state of an edit set.

        Args:
            edit_set: It, or its id.
            on_progress: Told of each state.
            timeout: Seconds after which no more is waited for.

        Raises:
            WaitTimeout: The time is over; the edit set goes on.
        """
        for state in self.events(id_of(edit_set), timeout=timeout):
            if on_progress is not None:
                on_progress(state)
        return state


def _states(transport: SyncTransport, request: Request[State], waiting: Waiting[State]) -> Iterator[State]:
    while True:
        try:
            with transport.events(request) as events:
                for event in events:
                    yield waiting.state(event)
                    if event.name == "final":
                        return
            waiting.again(None)
        except Unreachable as error:
            waiting.again(error)
        time.sleep(AGAIN_S)


class Withdrawals(_Group):
    """Withdrawals, which are asked for with `models[…].withdraw`."""

    get = _sends(requests.get_withdrawal)
    cancel = _sends(requests.cancel_withdrawal)
    list = _lists(requests.list_withdrawals)

    def events(self, withdrawal: str, *, timeout: float | None = None) -> Iterator[Withdrawal]:
        """The states of a withdrawal, as `Edits.events` has those of an edit set."""
        waiting = Waiting(Withdrawal, withdrawal, timeout)
        return _states(self._transport, requests.withdrawal_events(withdrawal), waiting)

    def wait(
        self,
        withdrawal: str | Withdrawal,
        *,
        on_progress: WatchWithdrawal | None = None,
        timeout: float | None = None,
    ) -> Withdrawal:
        """The final state of a withdrawal; raises as `Edits.wait`."""
        for state in self.events(id_of(withdrawal), timeout=timeout):
            if on_progress is not None:
                on_progress(state)
        return state


class Facts(_Group):
    """Facts of all models."""

    search = _lists(requests.search_facts)


class OneModel(_Group):
    """One model: what it says, its versions, and what administrators do with it."""

    get = _sends_bound(model_requests.get_model)
    generate = _sends_bound(model_requests.generate)
    compare = _sends_bound(model_requests.compare)
    versions = _lists_bound(model_requests.list_versions)
    version = _sends_bound(model_requests.get_version)
    changes = _lists_bound(model_requests.list_changes)
    facts = _lists_bound(model_requests.list_facts)
    nearest_facts = _sends_bound(model_requests.nearest_facts)
    rollback = _sends_bound(model_requests.roll_back)
    withdraw = _sends_bound(model_requests.withdraw)
    set_alias = _sends_bound(model_requests.set_alias)
    delete_alias = _sends_bound(model_requests.delete_alias)
    archive = _sends_bound(model_requests.archive_model)

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """The text that follows a prompt as it is written; options as of `generate`."""
        request = model_requests.generate(self._bound[0], prompt, **options, stream=True)
        with self._transport.events(request) as events:
            for event in events:
                yield text_of(event)

    def wait(
        self,
        withdrawal: Withdrawal,
        *,
        on_progress: WatchWithdrawal | None = None,
        timeout: float | None = None,
    ) -> Version:
        """The version that a withdrawal makes.

        Raises:
            WaitTimeout: The time is over.
            ApiError: The withdrawal made none.
        """
        deadline = Deadline(withdrawal.id, timeout)
        while isinstance(found := self._transport.send(model_requests.version_of(withdrawal)), Withdrawal):
            if on_progress is not None:
                on_progress(found)
            deadline.check()
            time.sleep(POLL_S)
        return found


class Models(_Group):
    """Registered models; `models[id]` is one of them."""

    get = _sends(model_requests.get_model)
    list = _lists(model_requests.list_models)
    register = _sends(model_requests.register_model)

    def __getitem__(self, model: str) -> OneModel:
        return OneModel(self._transport, model)


class Editors(_Group):
    """Editors that models are registered with."""

    upload = _sends(model_requests.upload_editor)


class Audit(_Group):
    """The audit trail."""

    list = _lists(requests.list_audit)


class Keys(_Group):
    """API keys."""

    create = _sends(requests.create_key)
    list = _lists(requests.list_keys)
    revoke = _sends(requests.revoke_key)


class Ledger(_Group):
    """The ledger."""

    verify = _sends(requests.verify_ledger)


class Client:
    """Calls the service; every method raises ApiError for a problem and Unreachable when nothing answers.

    Requests that failed on the way are sent again where that is safe: those that change something under an
    idempotency key.

    Args:
        url: Address of the service; by default ERRATA_URL, or http://127.0.0.1:8000.
        key: API key; by default ERRATA_KEY.
        max_retries: How often a request is sent again.
        options: Of `httpx.Client`, such as ``timeout`` and ``transport``.

    Raises:
        NoStack: The address or the key cannot be one.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, *, max_retries: int = 3, **options: Any
    ) -> None:
        self._transport = SyncTransport(*where(url, key), Retries(max_retries), **options)
        self.url = self._transport.url
        self.edits = Edits(self._transport)
        self.withdrawals = Withdrawals(self._transport)
        self.models = Models(self._transport)
        self.facts = Facts(self._transport)
        self.editors = Editors(self._transport)
        self.audit = Audit(self._transport)
        self.keys = Keys(self._transport)
        self.ledger = Ledger(self._transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """GET a JSON object, from any path."""
        return self._transport.send(Request("GET", path, dict, params or {}))

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """POST a JSON object to any path, and get one."""
        return self._transport.send(
            Request("POST", path, dict, body=body, headers=headers or {}, repeatable=False)
        )

    def answers(self) -> bool:
        """Whether the service is alive."""
        try:
            return self._transport.http.get("/healthz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def find_model(self, model: str) -> Model | None:
        """One model, or None if it is not registered."""
        try:
            return self.models.get(model)
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def only_model(self, wanted: str | None = None) -> str:
        """The model to talk about: the one that is named, or the only one that is registered.

        Raises:
            NoStack: None is registered, or several are.
        """
        return wanted if wanted is not None else only_model([model.id for model in self.models.list()])
