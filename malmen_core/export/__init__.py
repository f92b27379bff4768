"""Versions for other programs."""
