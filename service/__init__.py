"""The HTTP service: routes, schemas, keys and errors over the ledger, the broker and the algorithm."""
