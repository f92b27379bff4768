"""What the ledger hands out: frozen copies of rows, detached from any transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from ledger.states import (
    EditSetStatus,
    FactState,
    JobKind,
    Joiner,
    ModelStatus,
    OnConflict,
    Promote,
    VersionKind,
)

T = TypeVar("T")
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True)
class KeyRecord:
    """An API key, without its secret. `scopes` are of generate, read, edit, admin; each holds those before it."""

    id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


Actor = KeyRecord | str
"""Who asks for a change: an authenticated key, or a name such as "system"."""


@dataclass(frozen=True)
class AuditRecord:
    """Who did what to which object, and when. `actor` is a key's id, or a name such as "system"."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    detail: Json


@dataclass(frozen=True)
class ModelRecord:
    """A registered base model, its editor and its aliases (name to version number).

    `architecture` and `digest` are empty until its checkpoint has been read. `progress` has stage, done and total
    while it is prepared.
    """

    id: str
    source: str
    revision: str | None
    architecture: str
    context_length: int
    modules: tuple[str, ...]
    digest: str
    gate: Json
    status: ModelStatus
    editor_digest: str | None
    editor_card: Json | None
    given_editor_digest: str | None
    canaries: Json | None
    base_parameters_digest: str | None
    error: Json | None
    asked: Json | None
    progress: Json | None
    aliases: Mapping[str, int]
    created_at: datetime
    created_by: str

    @property
    def live_version(self) -> int | None:
        """The number that the alias live points at; None until the model is ready."""
        return self.aliases.get("live")


@dataclass(frozen=True)
class Progress:
    """How far a job is: `done` of `total` steps of a named stage."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class EditSetRecord:
    """An edit set: the facts of one request and what became of them; `live` if the live version holds it.

    `merged` names facts of the request that said the same as an earlier one, and are kept as that one.
    """

    id: str
    model_id: str
    job_id: str
    status: EditSetStatus
    promote: Promote
    gate: Json | None
    edit_on_rephrasings: bool
    on_conflict: OnConflict
    dry_run: bool
    note: str | None
    fact_count: int
    facts_digest: str
    merged: tuple[Json, ...]
    statistics_digest: str | None
    version: int | None
    live: bool
    progress: Progress | None
    report: Json | None
    error: Json | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None


@dataclass(frozen=True)
class Provenance:
    """Where a fact comes from, all of it optional; at `expires_at` it is withdrawn by itself."""

    source: str | None = None
    author: str | None = None
    ticket: str | None = None
    note: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class FactRecord:
    """One fact of an edit set, at `position` from 0; `live` says whether the live version holds it.

    `superseded_by` and `supersedes` are ids of facts of the live version that answer the same question and
    were accepted later and earlier.
    """

    id: str
    edit_set_id: str
    position: int
    prompt: str
    target: str
    subject: str | None
    rephrasings: tuple[str, ...]
    locality: tuple[Json, ...]
    question: str | None = None
    joiner: Joiner = "auto"
    provenance: Provenance = Provenance()
    live: bool = False
    superseded_by: tuple[str, ...] = ()
    supersedes: tuple[str, ...] = ()
    report: Json | None = None


@dataclass(frozen=True)
class FoundFact:
    """A fact that a search found, with what its edit set says of it."""

    fact: FactRecord
    state: FactState
    model_id: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, order=True)
class Member:
    """An edit set in a version: its statistics, and the positions of its facts that are left out.

    A fact is left out because it was withdrawn, or because a newer one in the version supersedes it. What is
    known of the edit set itself takes no part in comparisons.
    """

    edit_set_id: str
    statistics_digest: str
    withdrawn: tuple[int, ...] = ()
    superseded: tuple[int, ...] = ()
    fact_count: int = field(default=0, compare=False)
    facts_digest: str = field(default="", compare=False)
    edited_on_rephrasings: bool = field(default=False, compare=False)

    @property
    def left_out(self) -> tuple[int, ...]:
        """The positions that the version does not hold."""
        return tuple(sorted((*self.withdrawn, *self.superseded)))

    @property
    def live_fact_count(self) -> int:
        """How many facts the version holds of it."""
        return self.fact_count - len(self.left_out)


@dataclass(frozen=True)
class FactReport:
    """What was measured for one fact when a version was verified."""

    edit_set_id: str
    position: int
    report: Json


@dataclass(frozen=True)
class VersionRecord:
    """One version of a model. Nothing in it changes but `aliases`, which are those that point at it now.

    `members_digest` is that of the set of its members; None of a version that an older release made, whose
    hash covers the members themselves. `delta_digest` is None for the empty delta. `previous_hash` is that of
    the version numbered one less; `parent` is the version that was live when this one was made. `restores` is
    the number rolled back to.
    """

    model_id: str
    number: int
    kind: VersionKind
    parent: int | None
    restores: int | None
    edit_set_id: str | None
    members_digest: str | None
    edit_set_count: int
    live_fact_count: int
    base_digest: str
    editor_digest: str
    delta_digest: str | None
    weights_digest: str | None
    statistics_digest: str | None
    fact_reports_digest: str
    report: Json | None
    gate_met: bool
    reason: str | None
    created_at: datetime
    created_by: str
    previous_hash: str | None
    hash: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class WithdrawalRecord:
    """A request to take edit sets and single facts out of the live version, which a worker solves."""

    id: str
    model_id: str
    job_id: str
    status: EditSetStatus
    edit_set_ids: tuple[str, ...]
    fact_ids: tuple[str, ...]
    reason: str
    version: int | None
    progress: Progress | None
    report: Json | None
    error: Json | None
    created_at: datetime
    created_by: str
    finished_at: datetime | None


@dataclass(frozen=True)
class Limits:
    """How many edit sets of one key and of one model may be unfinished, and how long one may take."""

    of_key: int
    of_model: int
    seconds: float


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, while its fence stands in the database."""

    job_id: str
    model_id: str
    kind: JobKind
    holder: str
    fence: int
    attempt: int


@dataclass(frozen=True)
class JobInput:
    """All that a worker needs for a claimed job.

    `edit_set` and `facts` are set for kind edit; `withdrawal` for kind withdraw. `change` is what the new
    version's members differ in from those of `live`, by edit set: the member from there on, None where it
    goes; the edit set's own has no statistics yet, which the worker makes. `supersedes` are the live facts
    that the edit set replaces, each with its own. `gate` is the model's with the edit set's over it.
    """

    claim: Claim
    model: ModelRecord
    live: VersionRecord
    change: Mapping[str, Member | None]
    gate: Json
    edit_set: EditSetRecord | None = None
    facts: tuple[FactRecord, ...] = ()
    supersedes: tuple[tuple[str, str], ...] = ()
    withdrawal: WithdrawalRecord | None = None


@dataclass(frozen=True)
class NewVersion:
    """A computed and verified version, to be committed.

    Its members are those of its parent with the job's change. Blobs that it names must be in the store
    already; `statistics_digest` is the edit set's own, for kind edit. `delta_digest` None means the empty
    delta.
    """

    kind: JobKind
    parent_number: int
    statistics_digest: str | None
    delta_digest: str | None
    weights_digest: str
    report: Json
    gate_met: bool
    fact_reports: tuple[FactReport, ...] = ()


@dataclass(frozen=True)
class LedgerProblem:
    """One thing that is wrong in the ledger: which kind, in which object, and how."""

    kind: str
    object: str
    detail: str


@dataclass(frozen=True)
class LedgerCheck:
    """The result of walking every chain and every blob."""

    versions: int
    edit_sets: int
    blobs: int
    problems: tuple[LedgerProblem, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Space:
    """Some blobs, and their bytes together."""

    blobs: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class ModelUsage:
    """What the facts of a model's live version take up: their statistics, and the delta made of them."""

    model: str
    live_facts: int
    statistics_bytes: int
    delta_bytes: int

    @property
    def bytes_per_fact(self) -> float | None:
        """Bytes of statistics and delta for each live fact; None without any."""
        return (self.statistics_bytes + self.delta_bytes) / self.live_facts if self.live_facts else None


@dataclass(frozen=True)
class Usage:
    """What blobs take up.

    `kinds` are those that something names, each counted once; `named_bytes` counts a blob as often as it is
    named. `unnamed` are stored and named by nothing, and `collectable` those of them past the grace period.
    """

    kinds: Mapping[str, Space]
    named_bytes: int
    unnamed: Space
    collectable: Space
    models: tuple[ModelUsage, ...]
