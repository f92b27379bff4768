"""The part of the ledger that workers use: preparing models, jobs, commits."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.blobs import gc
from ledger.blobs.store import Blobs
from ledger.db.engine import Database
from ledger.edits import expiry
from ledger.jobs import commit, jobs
from ledger.models import ready
from ledger.records import (
    Actor,
    Claim,
    EditSetRecord,
    FactReport,
    JobInput,
    Json,
    ModelRecord,
    NewVersion,
    Space,
    Usage,
    VersionRecord,
    WithdrawalRecord,
)

MAX_ATTEMPTS = 3


class Working:
    """Methods on the way from an accepted job to a committed version; each is one transaction."""

    database: Database
    blobs: Blobs
    blob_grace_s: float

    def complete_model(
        self,
        model_id: str,
        editor_bytes: bytes,
        editor_card: Json,
        canaries: Json,
        base_parameters_digest: str,
        *,
        actor: Actor,
        weights_digest: str | None = None,
    ) -> ModelRecord:
        """Make a model ready, with version 0 live; see `ready.mark_ready`. Idempotent.

        `weights_digest` is that of the base's weights of the edited modules, for version 0.
        """
        digest = self.blobs.put(editor_bytes)
        with self.database.transaction() as session:
            return ready.mark_ready(
                session,
                self.blobs,
                model_id,
                digest,
                editor_card,
                canaries,
                base_parameters_digest,
                weights_digest,
                actor,
            )

    def claim(
        self, job_id: str, holder: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS
    ) -> Claim | None:
        """Take a job, or return None if there is nothing to take; see `jobs.claim`."""
        with self.database.transaction() as session:
            return jobs.claim(session, job_id, holder, lease_s, max_attempts)

    def claim_next(
        self, model_id: str, holder: str, lease_s: float, max_attempts: int = MAX_ATTEMPTS
    ) -> Claim | None:
        """Take the model's next job, or return None; see `jobs.claim_next`."""
        with self.database.transaction() as session:
            return jobs.claim_next(session, model_id, holder, lease_s, max_attempts)

    def waiting_jobs(self) -> dict[str, int]:
        """Return how many jobs wait, by model."""
        with self.database.transaction() as session:
            return jobs.waiting(session)

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Extend a claim's lease; LeaseLost or JobCancelled if it no longer holds."""
        with self.database.transaction() as session:
            jobs.renew(session, claim, lease_s)

    def progress(self, claim: Claim, stage: str, done: int, total: int) -> None:
        """Note how far a job is; LeaseLost or JobCancelled if the claim no longer holds."""
        with self.database.transaction() as session:
            jobs.progress(session, claim, stage, done, total)

    def verifying(self, claim: Claim) -> None:
        """Note that a candidate is being measured; LeaseLost or JobCancelled as above."""
        with self.database.transaction() as session:
            jobs.verifying(session, claim)

    def release(self, claim: Claim, *, counted: bool = True, delay_s: float = 0.0) -> None:
        """Give a job back; see `jobs.release`. A worker that merely stops says `counted=False`."""
        with self.database.transaction() as session:
            jobs.release(session, claim, counted, delay_s)

    def fail_job(self, claim: Claim, error: Json) -> None:
        """End a job without a version; `error` is a problem object."""
        with self.database.transaction() as session:
            jobs.fail(session, claim, error)

    def load_job(self, claim: Claim, *, to_solve: bool = False) -> JobInput:
        """Return what a claimed job starts from; `to_solve` keeps others from it, or raises SolveLocked."""
        with self.database.transaction() as session:
            if to_solve:
                jobs.begin_solving(session, claim)
            return commit.load(session, claim)

    def commit_version(self, claim: Claim, new: NewVersion) -> VersionRecord:
        """Commit a job's version, once; see `commit.commit`."""
        with self.database.transaction() as session:
            return commit.commit(session, self.blobs, claim, new)

    def conclude_trial(self, claim: Claim, report: Json, fact_reports: Sequence[FactReport]) -> EditSetRecord:
        """End a dry run with what was measured; see `commit.conclude_trial`."""
        with self.database.transaction() as session:
            return commit.conclude_trial(session, claim, report, fact_reports)

    def withdraw_expired(
        self, model_id: str, looked: expiry.Looked | None = None
    ) -> tuple[WithdrawalRecord | None, expiry.Looked | None]:
        """Ask for a live version without the facts that have expired; see `expiry.withdraw`."""
        with self.database.transaction() as session:
            return expiry.withdraw(session, model_id, looked)

    def collect(self) -> Space:
        """Remove blobs that nothing names and that are past the grace period; see `gc.collect`."""
        return gc.collect(self.database, self.blobs, self.blob_grace_s)

    def usage(self) -> Usage:
        """Return what blobs take up; see `gc.usage`."""
        return gc.usage(self.database, self.blobs, self.blob_grace_s)
