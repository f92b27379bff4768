"""From facts to a delta."""
