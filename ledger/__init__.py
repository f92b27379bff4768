"""The ledger: what was asked, what was done, and the proof of it, in PostgreSQL and in blobs by digest."""

from ledger.ledger import Ledger
from ledger.settings import LedgerSettings

__all__ = ["Ledger", "LedgerSettings"]
