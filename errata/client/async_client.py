"""A client of the HTTP API for an event loop; see `errata.client.client` for what each method does."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from errata.client import model_requests, requests
from errata.client.errors import Unreachable
from errata.client.names import only_model
from errata.client.request import Request
from errata.client.resources import EditSet, Version, Withdrawal
from errata.client.transport import AsyncTransport, Retries
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
    def __init__(self, transport: AsyncTransport, *bound: str) -> None:
        self._transport, self._bound = transport, bound


def _sends(build: Callable[P, Request[T]]) -> Callable[Concatenate[_Group, P], Coroutine[Any, Any, T]]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> Coroutine[Any, Any, T]:
        return group._transport.send(build(*args, **options))

    return method


def _sends_bound(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[_Group, P], Coroutine[Any, Any, T]]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> Coroutine[Any, Any, T]:
        return group._transport.send(build(group._bound[0], *args, **options))

    return method


def _lists(build: Callable[P, Request[T]]) -> Callable[Concatenate[_Group, P], AsyncIterator[T]]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> AsyncIterator[T]:
        return group._transport.pages(build(*args, **options))

    return method


def _lists_bound(
    build: Callable[Concatenate[str, P], Request[T]],
) -> Callable[Concatenate[_Group, P], AsyncIterator[T]]:
    @functools.wraps(build)
    def method(group: _Group, /, *args: P.args, **options: P.kwargs) -> AsyncIterator[T]:
        return group._transport.pages(build(group._bound[0], *args, **options))

    return method


class AsyncEdits(_Group):
    """Edit sets."""

    create = _sends(requests.create_edit)
    upload = _sends(requests.upload_edit)
    get = _sends(requests.get_edit)
    cancel = _sends(requests.cancel_edit)
    list = _lists(requests.list_edits)
    facts = _lists(requests.edit_facts)

    def events(self, edit_set: str, *, timeout: float | None = None) -> AsyncIterator[EditSet]:
        """As `Edits.events`."""
        return _states(self._transport, requests.edit_events(edit_set), Waiting(EditSet, edit_set, timeout))

    async def wait(
        self, edit_set: str | EditSet, *, on_progress: Watch | None = None, timeout: float | None = None
    ) -> EditSet:
        """As `Edits.wait`."""
        async for state in self.events(id_of(edit_set), timeout=timeout):
            if on_progress is not None:
                on_progress(state)
        return state


async def _states(
    transport: AsyncTransport, request: Request[State], waiting: Waiting[State]
) -> AsyncIterator[State]:
    while True:
        try:
            async with transport.events(request) as events:
                async for event in events:
                    yield waiting.state(event)
                    if event.name == "final":
                        return
            waiting.again(None)
        except Unreachable as error:
            waiting.again(error)
        await asyncio.sleep(AGAIN_S)


class AsyncWithdrawals(_Group):
    """As `Withdrawals`."""

    get = _sends(requests.get_withdrawal)
    cancel = _sends(requests.cancel_withdrawal)
    list = _lists(requests.list_withdrawals)

    def events(self, withdrawal: str, *, timeout: float | None = None) -> AsyncIterator[Withdrawal]:
        """As `Withdrawals.events`."""
        waiting = Waiting(Withdrawal, withdrawal, timeout)
        return _states(self._transport, requests.withdrawal_events(withdrawal), waiting)

    async def wait(
        self,
        withdrawal: str | Withdrawal,
        *,
        on_progress: WatchWithdrawal | None = None,
        timeout: float | None = None,
    ) -> Withdrawal:
        """As `Withdrawals.wait`."""
        async for state in self.events(id_of(withdrawal), timeout=timeout):
            if on_progress is not None:
                on_progress(state)
        return state


class AsyncFacts(_Group):
    """Facts of all models."""

    search = _lists(requests.search_facts)


class AsyncOneModel(_Group):
    """As `OneModel`."""

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

    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[str]:
        """As `OneModel.stream`."""
        request = model_requests.generate(self._bound[0], prompt, **options, stream=True)
        async with self._transport.events(request) as events:
            async for event in events:
                yield text_of(event)

    async def wait(
        self,
        withdrawal: Withdrawal,
        *,
        on_progress: WatchWithdrawal | None = None,
        timeout: float | None = None,
    ) -> Version:
        """As `OneModel.wait`."""
        deadline = Deadline(withdrawal.id, timeout)
        while isinstance(
            found := await self._transport.send(model_requests.version_of(withdrawal)), Withdrawal
        ):
            if on_progress is not None:
                on_progress(found)
            deadline.check()
            await asyncio.sleep(POLL_S)
        return found


class AsyncModels(_Group):
    """As `Models`."""

    get = _sends(model_requests.get_model)
    list = _lists(model_requests.list_models)
    register = _sends(model_requests.register_model)

    def __getitem__(self, model: str) -> AsyncOneModel:
        return AsyncOneModel(self._transport, model)


class AsyncEditors(_Group):
    """Editors that models are registered with."""

    upload = _sends(model_requests.upload_editor)


class AsyncAudit(_Group):
    """The audit trail."""

    list = _lists(requests.list_audit)


class AsyncKeys(_Group):
    """API keys."""

    create = _sends(requests.create_key)
    list = _lists(requests.list_keys)
    revoke = _sends(requests.revoke_key)


class AsyncLedger(_Group):
    """The ledger."""

    verify = _sends(requests.verify_ledger)


class AsyncClient:
    """As `Client`, in an event loop."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, max_retries: int = 3, **options: Any
    ) -> None:
        self._transport = AsyncTransport(*where(url, key), Retries(max_retries), **options)
        self.url = self._transport.url
        self.edits = AsyncEdits(self._transport)
        self.withdrawals = AsyncWithdrawals(self._transport)
        self.models = AsyncModels(self._transport)
        self.facts = AsyncFacts(self._transport)
        self.editors = AsyncEditors(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.ledger = AsyncLedger(self._transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def only_model(self, wanted: str | None = None) -> str:
        """As `Client.only_model`."""
        return wanted if wanted is not None else only_model([model.id async for model in self.models.list()])
