"""The ledger's proof."""

from __future__ import annotations

from service import views
from service.context import ServicesDep
from service.guard import AdminKey
from service.routes import problems, router
from service.schemas.health import LedgerCheckView

routes = router("ledger")


@routes.get("/admin/ledger/verify", responses=problems())
def verify_ledger(services: ServicesDep, _: AdminKey) -> LedgerCheckView:
    """Walk every hash chain and every blob; say what is wrong, if anything."""
    return views.ledger_check(services.ledger.verify())
