"""Where the ledger's database and blobs are."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from problems.settings import ErrataSettings

DRIVER = "postgresql+psycopg://"


class LedgerSettings(ErrataSettings):
    """Settings of the ledger, read from `ERRATA_*` variables."""

    database_url: SecretStr = Field(
        default=...,
        description="PostgreSQL to keep the ledger in, as postgresql://user:password@host:port/database",
    )
    migration_database_url: SecretStr | None = Field(
        default=None,
        description="The same database as its owner, for migrations and imports alone; then the role of "
        "ERRATA_DATABASE_URL is made if need be, and can only do what the services do.",
    )
    blob_url: str = Field(
        default=...,
        description="Where deltas, statistics and editors are kept: a folder, file:///folder, "
        "or an object store's address such as s3://bucket/prefix, gs://… or az://…, with its vendor's "
        "variables (AWS_*)",
    )
    blob_grace_s: float = Field(
        default=86400.0,
        gt=0,
        description="Seconds after which a blob that nothing names is removed; longer than any job may take.",
    )

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def normalise_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        """Accept the usual spellings of a PostgreSQL address and name the driver in use."""
        return None if value is None else SecretStr(normalise_database_url(value.get_secret_value()))

    @property
    def owner_url(self) -> str:
        """Address of the role that owns the tables."""
        return (self.migration_database_url or self.database_url).get_secret_value()


def normalise_database_url(url: str) -> str:
    """Return the address with the psycopg driver named.

    Raises:
        ValueError: the address is not PostgreSQL's.
    """
    for prefix in (DRIVER, "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return DRIVER + url.removeprefix(prefix)
    raise ValueError("the ledger needs PostgreSQL: an address begins with postgresql://")
