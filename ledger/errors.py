"""The ledger's typed errors: each says what went wrong, with which input, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from ledger.states import told
from problems import RETRY_LATER, RETRY_SOON, ErrataError


class LedgerError(ErrataError):
    """Base of all ledger errors."""

    code, status, title = "ledger-error", 500, "The ledger failed"


class LedgerUnavailable(LedgerError):
    """PostgreSQL cannot be reached, or dropped the connection; the outcome of a commit may be unknown."""

    code, status, title = "ledger-unavailable", 503, "The ledger cannot be reached"
    headers = RETRY_SOON

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"The ledger's database did not answer: {cause}",
            remedy="Check that PostgreSQL runs and that ERRATA_DATABASE_URL is right, then try again.",
        )


class PrivilegeMissing(LedgerError):
    """PostgreSQL refuses something to the role in use."""

    code, status, title = "privilege-missing", 500, "The database refuses the service's role"

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"The database refuses this to the role in use: {cause}.",
            remedy="Run `errata migrate`, which admits the services' role; for migrations and imports, name "
            "the tables' owner in ERRATA_MIGRATION_DATABASE_URL, and one who may make roles if one is to be "
            "made.",
        )


class RoleTooStrong(LedgerError):
    """The services' role could do all that the tables' owner can."""

    code, status, title = "role-too-strong", 409, "The services' role is too strong"

    def __init__(self, service: str, owner: str) -> None:
        super().__init__(
            f"The role {service!r} is a superuser or a member of {owner!r}, which owns the ledger's tables.",
            remedy="Name another role in ERRATA_DATABASE_URL; one that is not there is made.",
        )


class SchemaMissing(LedgerError):
    """The database lacks tables or columns that this release needs."""

    code, status, title = "schema-missing", 503, "The ledger has not been migrated"

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"The ledger's database has not the schema of this release: {cause}",
            remedy="Run `errata migrate` on it.",
        )


class NotFound(LedgerError):
    """No object of this kind has this id."""

    code, status, title = "not-found", 404, "Not found"

    def __init__(self, kind: str, ident: str | int) -> None:
        super().__init__(
            f"There is no {kind} {str(ident)!r}.",
            remedy=f"Check the {kind}'s id; the list of them names those that exist.",
        )
        self.kind = kind
        self.ident = ident


class AlreadyExists(LedgerError):
    """The id is taken by something different."""

    code, status, title = "already-exists", 409, "It exists already"

    def __init__(self, kind: str, ident: str, field: str) -> None:
        super().__init__(
            f"A {kind} {ident!r} exists already, and differs from this one in {field}.",
            remedy="Choose another id, or send exactly what was sent the first time.",
            field=field,
        )
        self.kind = kind
        self.ident = ident


class InvalidName(LedgerError):
    """A model id, alias or scope that is not allowed."""

    code, status, title = "invalid-name", 422, "The name is not allowed"

    def __init__(self, kind: str, name: str, rule: str, field: str) -> None:
        super().__init__(f"The {kind} {name!r} is not allowed.", remedy=f"Use {rule}.", field=field)


class UnstorableText(LedgerError):
    """A string with a NUL character or half of a surrogate pair, which PostgreSQL's text cannot hold."""

    code, status, title = "unstorable-text", 422, "The text cannot be stored"

    def __init__(self, field: str) -> None:
        super().__init__(
            f"The text at {field or '/'} holds a NUL character or a lone surrogate.",
            remedy="Remove that character and send the text as valid UTF-8.",
            field=field,
        )


class NotANumber(LedgerError):
    """A measure that is not finite, or a value that JSON does not know."""

    code, status, title = "not-json", 422, "The value cannot be recorded"

    def __init__(self, field: str, value: object) -> None:
        super().__init__(
            f"The value {value!r} at {field or '/'} cannot be recorded.",
            remedy="Record finite numbers, strings, booleans, null, lists and objects only.",
            field=field,
        )


class IdempotencyConflict(LedgerError):
    """One idempotency key, two different bodies."""

    code, status, title = "idempotency-conflict", 422, "The Idempotency-Key was used with another body"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key {key!r} was used before with another body.",
            remedy="Send the first body again, or use a new key for a new request.",
        )


class IllegalTransition(LedgerError):
    """A status that cannot follow the present one."""

    code, status, title = "illegal-transition", 409, "The status does not allow it"

    def __init__(self, kind: str, ident: str, old: str, new: str) -> None:
        super().__init__(
            f"The {kind} {ident!r} is {told(old)} and cannot become {told(new)}.",
            remedy="Read its present status; nothing was changed.",
        )
        self.old = old
        self.new = new


class ModelNotReady(LedgerError):
    """The model failed to load, or has not got as far as this needs."""

    code, status, title = "model-not-ready", 409, "The model is not ready"

    def __init__(self, model_id: str, status: str, why: str = "") -> None:
        super().__init__(
            f"The model {model_id!r} is {status}{': ' + why if why else '.'}",
            remedy="Wait until it is ready; if it failed, read its error and register it again.",
        )


class LeaseLost(LedgerError):
    """The job's fence has moved: another worker holds it, or it is finished."""

    code, status, title = "lease-lost", 409, "The job is held by another worker"

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(
            f"The claim with fence {fence} on job {job_id!r} is no longer valid.",
            remedy="Stop working on this job; whoever holds it now finishes it.",
        )


class JobCancelled(LedgerError):
    """The job was cancelled while a worker held it."""

    code, status, title = "job-cancelled", 409, "The job was cancelled"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id!r} was cancelled.", remedy="Stop working on it; nothing is recorded.")


class HeadMoved(LedgerError):
    """The live version is no longer the one on which the new version was computed."""

    code, status, title = "head-moved", 409, "The live version has changed meanwhile"

    def __init__(self, model_id: str, expected: int, live: int) -> None:
        super().__init__(
            f"The version was computed on version {expected} of {model_id!r}, but live is now {live}.",
            remedy="Solve and verify again on the live version, then commit.",
        )
        self.expected = expected
        self.live = live


class SolveLocked(LedgerError):
    """Another job solves for the model, verifies and commits."""

    code, status, title = "solve-locked", 409, "Another job makes the next version"

    def __init__(self, job_id: str, other: str) -> None:
        super().__init__(
            f"Job {job_id!r} waits for job {other!r}, which makes the model's next version.",
            remedy="Ask again in a moment.",
        )


class InconsistentVersion(LedgerError):
    """The members of a new version do not follow from those of its parent."""

    code, status, title = "inconsistent-version", 500, "The version does not follow from its parent"

    def __init__(self, model_id: str, detail: str) -> None:
        super().__init__(
            f"The new version of {model_id!r} does not follow from its parent: {detail}.",
            remedy="Compute the members from the job's live version again.",
        )


class BlobMissing(LedgerError):
    """A blob is named but not in the store."""

    code, status, title = "blob-missing", 500, "A blob is missing"

    def __init__(self, digest: str, place: str) -> None:
        super().__init__(
            f"The blob {digest} is not at {place}.",
            remedy="Restore it from a backup of ERRATA_BLOB_URL; nothing was applied.",
        )
        self.digest = digest


class BlobCorrupt(LedgerError):
    """A blob's bytes do not have the digest by which it is named."""

    code, status, title = "blob-corrupt", 500, "A blob is corrupt"

    def __init__(self, digest: str, found: str, place: str) -> None:
        super().__init__(
            f"The blob at {place} should be {digest} but its bytes hash to {found}.",
            remedy="Restore it from a backup of ERRATA_BLOB_URL; nothing was applied.",
        )
        self.digest = digest
        self.found = found


class BlobStoreUnavailable(LedgerError):
    """The blob store cannot be read or written."""

    code, status, title = "blob-store-unavailable", 503, "The blob store cannot be reached"
    headers = RETRY_SOON

    def __init__(self, place: str, cause: str) -> None:
        super().__init__(
            f"The blob store at {place} failed: {cause}",
            remedy="Check ERRATA_BLOB_URL, its permissions and free space, then try again.",
        )


class GateNotMet(LedgerError):
    """A version that its gate refused cannot become live without force and a reason."""

    code, status, title = "gate-not-met", 409, "The version did not meet its gate"

    def __init__(self, model_id: str, number: int) -> None:
        super().__init__(
            f"Version {number} of {model_id!r} did not meet its gate.",
            remedy="Read its report; to make it live all the same, PUT it as the alias `live` (/admin/models/"
            f"{model_id}/aliases/live) with force and a reason.",
        )


class StaleParent(LedgerError):
    """A version that was never live was computed on a version that is live no longer."""

    code, status, title = "stale-parent", 409, "The live version has moved on"

    def __init__(self, model_id: str, number: int, parent: int | None, live: int) -> None:
        super().__init__(
            f"Version {number} of {model_id!r} was computed on version {parent}, but live is {live}: "
            "making it live would drop what was applied since.",
            remedy="Post the edit set again, or say force and give a reason.",
        )


class AliasMoved(LedgerError):
    """An alias that does not point where it was said to."""

    code, status, title = "alias-moved", 412, "The alias points elsewhere"

    def __init__(self, name: str, expected: str, number: int | None) -> None:
        points = "is not there" if number is None else f"points at version {number}"
        message = f"The alias {name!r} {points}, and If-Match asks for {expected}."
        super().__init__(message, remedy="Read it again, and send its ETag, or leave If-Match out.")


class NotLive(LedgerError):
    """An edit set or fact that is not part of the live version cannot be withdrawn from it."""

    code, status, title = "not-live", 409, "Not part of the live version"

    def __init__(self, idents: list[str], model_id: str, field: str) -> None:
        super().__init__(
            f"Not in the live version of {model_id!r}: {', '.join(idents)}.",
            remedy="Withdraw only edit sets and facts that the live version lists.",
            field=field,
        )
        self.idents = idents


class FactConflict(LedgerError):
    """Facts that answer what live facts do, in an edit set that asked for conflicts to be rejected."""

    code, status, title = "fact-conflict", 409, "A fact answers what a live one does"

    def __init__(self, live: Mapping[int, str]) -> None:
        named = ", ".join(f"/facts/{position} (live: {ident})" for position, ident in sorted(live.items()))
        super().__init__(
            f"These facts answer what live facts do: {named}.",
            remedy="Leave them out, withdraw the live ones, or say on_conflict: replace.",
            field=f"/facts/{min(live)}",
        )
        self.live = dict(live)


class TooManyEdits(LedgerError):
    """As many edit sets as may wait do."""

    code, status, title = "too-many-edits", 429, "Too many edit sets wait"
    headers = RETRY_LATER

    def __init__(self, whose: str, waiting: int, setting: str) -> None:
        super().__init__(
            f"{waiting} edit sets of {whose} wait already or are worked on.",
            remedy=f"Post again once some are done, or ask the operator to raise {setting}.",
        )


class EditTooLarge(LedgerError):
    """An edit set that would be given up before it is done."""

    code, status, title = "edit-too-large", 422, "The edit set cannot be done in time"

    def __init__(self, facts: int, seconds: float, limit: float, fitting: int) -> None:
        super().__init__(
            f"{facts} facts would take about {seconds:.0f} s, as long as this model's last sets took by the "
            f"fact; a job is given up after {limit:.0f} s.",
            remedy=f"Post at most {fitting} facts at once, or ask the operator to raise "
            "ERRATA_JOB_TIMEOUT_S.",
            field="/facts",
        )


class OtherBase(LedgerError):
    """A version of a checkpoint that was archived."""

    code, status, title = "other-base", 409, "The version is of an archived checkpoint"

    def __init__(self, model_id: str, number: int, first: int) -> None:
        super().__init__(
            f"Version {number} of {model_id!r} was made on a checkpoint that was archived since.",
            remedy=f"Name version {first} or a later one.",
        )


class WrongModel(LedgerError):
    """An object of one model was named where one of another belongs."""

    code, status, title = "wrong-model", 422, "It belongs to another model"

    def __init__(self, kind: str, ident: str, model_id: str, expected: str) -> None:
        super().__init__(
            f"The {kind} {ident!r} belongs to model {model_id!r}, not {expected!r}.",
            remedy="Name the model to which it belongs.",
        )
        self.ident = ident


class InvalidCursor(LedgerError):
    """A cursor that this list did not hand out."""

    code, status, title = "invalid-cursor", 422, "The cursor is not valid"

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"The cursor {cursor!r} does not belong to this list.",
            remedy="Pass next_cursor of the same list unchanged, or leave the cursor out to start again.",
            field="/cursor",
        )
