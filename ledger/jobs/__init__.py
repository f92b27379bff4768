"""Jobs: who may work on what, and the transaction that commits a version."""
