"""Everything that touches Redis: edit queue, generation channel, worker presence, outbox relay.

Redis is a doorbell here, never the truth: all of its contents can be lost, and the relay rings again for
whatever the ledger has accepted and nobody has finished. See `docs/decisions/0001-broker-package.md`.
"""
