"""Blobs: the store, the rows that name them, and the removal of unnamed ones."""
