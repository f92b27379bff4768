"""Versions and what each of them holds."""
