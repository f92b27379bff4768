"""Settings of the HTTP service, read from `ERRATA_*` variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from ledger.auth.keys import MINIMUM_GIVEN_LENGTH
from problems.settings import ErrataSettings


class ServiceSettings(ErrataSettings):
    """What the HTTP service can be told; every field is the variable `ERRATA_<FIELD>`."""

    host: str = Field("127.0.0.1", description="Address that the HTTP service listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP service; 0 takes a free one.")
    admin_key: SecretStr | None = Field(
        None,
        description="The first admin key, at least 16 characters; one that was revoked stays so. "
        "Without it, one is made at first start and printed once.",
    )
    admin_key_file: Path = Field(
        Path(".errata/admin.key"),
        description="Where the admin key is read from; one that is made at first start is kept there, readable "
        "by its owner only.",
    )
    max_facts: int = Field(10_000, ge=1, description="Most facts of one edit set.")
    max_body_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="Largest request body in bytes, checked before it is parsed."
    )
    max_stream_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024,
        description="Largest body of facts that are streamed as application/x-ndjson, in bytes.",
    )
    max_prompt_chars: int = Field(8192, ge=1, description="Longest prompt, rephrasing or locality prompt.")
    max_target_chars: int = Field(2048, ge=1, description="Longest target or subject of a fact.")
    max_note_chars: int = Field(4000, ge=1, description="Longest note, reason or name.")
    max_rephrasings: int = Field(32, ge=0, description="Most rephrasings of one fact.")
    max_locality: int = Field(32, ge=0, description="Most locality prompts of one fact.")
    max_new_tokens: int = Field(1024, ge=1, description="Most tokens that one generation may ask for.")
    max_compared_versions: int = Field(8, ge=1, description="Most versions that one generation may compare.")
    max_generations: int = Field(
        64, ge=1, description="Generations that one API process waits for at once; more are answered 429."
    )
    request_threads: int = Field(
        20, ge=1, description="Threads of the API process that answer requests, each with a connection."
    )
    max_followers: int = Field(
        256, ge=1, description="Most that follow edit sets through one API process; more are answered 429."
    )
    max_waiting_of_key: int = Field(
        1000, ge=1, description="Most edit sets of one key that may wait or be worked on; more get 429."
    )
    max_waiting_of_model: int = Field(
        5000, ge=1, description="Most edit sets of one model that may wait or be worked on; more get 429."
    )
    job_timeout_s: float = Field(
        3600.0, gt=0, description="Seconds after which a worker that is still at one job ends itself."
    )
    source_roots: str = Field(
        "",
        description="Folders that models and editors may be registered from, with colons between; none: any.",
    )
    ledger_away_s: float = Field(
        120.0,
        ge=0,
        description="Seconds for which keys, models and aliases are taken as they last were, to generate text "
        "while PostgreSQL does not answer.",
    )
    metrics_public: bool = Field(False, description="Whether GET /metrics answers without a key.")

    @field_validator("admin_key")
    @classmethod
    def is_long(cls, given: SecretStr | None) -> SecretStr | None:
        """Refuse a key that is too short to be a secret.

        Raises:
            ValueError: it has fewer than 16 characters.
        """
        if given is not None and len(given) < MINIMUM_GIVEN_LENGTH:
            raise ValueError(f"give at least {MINIMUM_GIVEN_LENGTH} characters, or none to have one made")
        return given
