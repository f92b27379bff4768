"""Withdrawals: look, follow, cancel. They are asked for as a rollback is."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from fastapi.responses import StreamingResponse

from ledger.edits import withdrawals
from service import views
from service.context import ServicesDep, Tx
from service.following import EVENTS, follow
from service.guard import EditKey, ReadKey, Repeatable
from service.routes import OBJECT_ID, problems, router
from service.schemas.base import Paged
from service.schemas.models import WithdrawalsQuery, WithdrawalView

routes = router("withdrawals")
WithdrawalId = Annotated[str, Path(pattern=OBJECT_ID, description="Id of a withdrawal.")]


@routes.get("/withdrawals", responses=problems(404, 422))
def list_withdrawals(
    asked: Annotated[WithdrawalsQuery, Query()], tx: Tx, _: ReadKey
) -> Paged[WithdrawalView]:
    """Withdrawals, newest first."""
    page = withdrawals.list_all(
        tx, asked.limit, asked.cursor, model_id=asked.model, status=asked.ledger_statuses
    )
    return Paged(items=[views.withdrawal(item) for item in page.items], next_cursor=page.next_cursor)


@routes.get("/withdrawals/{withdrawal_id}", responses=problems(404))
def get_withdrawal(withdrawal_id: WithdrawalId, tx: Tx, _: ReadKey) -> WithdrawalView:
    """One withdrawal: status, progress, version."""
    return views.withdrawal(withdrawals.get(tx, withdrawal_id))


@routes.get(
    "/withdrawals/{withdrawal_id}/events",
    response_class=StreamingResponse,
    responses={**problems(404, 429), **EVENTS},
)
async def follow_withdrawal(
    withdrawal_id: WithdrawalId, services: ServicesDep, _: ReadKey
) -> StreamingResponse:
    """Progress as server-sent events, from the present state to the final one; a lost database ends none."""
    return await follow(
        services, lambda: views.withdrawal(services.ledger.run(withdrawals.get, withdrawal_id))
    )


@routes.post("/withdrawals/{withdrawal_id}/cancel", responses=problems(404, 409, 422))
def cancel_withdrawal(withdrawal_id: WithdrawalId, tx: Tx, key: EditKey, _: Repeatable) -> WithdrawalView:
    """Cancel a withdrawal whose version has not been made; cancelling twice is fine."""
    return views.withdrawal(withdrawals.cancel(tx, withdrawal_id, key))
