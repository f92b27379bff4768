"""Registered base models: registration, version 0, aliases."""
