"""The embedded stack: PostgreSQL, Valkey, API and workers in one data directory."""
