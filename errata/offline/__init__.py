"""Work on the ledger and its versions without the service."""
