"""Verification: walking every chain, hashing again what it covers, and reading every blob that is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.blobs.store import Blobs
from ledger.db.tables import (
    Blob,
    Editor,
    EditSet,
    Fact,
    FactReportRow,
    Head,
    Membership,
    Model,
    Question,
    Supersession,
    Version,
)
from ledger.edits.fact_keys import index_keys
from ledger.errors import LedgerError
from ledger.integrity import chain, schema_checks, set_digest
from ledger.records import FactReport, LedgerCheck, LedgerProblem, Member, VersionRecord
from ledger.versions import versions

BATCH = 100
Link = tuple[tuple[str, int], tuple[str, int]]


@dataclass
class Findings:
    """What a walk has seen so far: counts, problems, and the blobs that something names."""

    versions: int = 0
    edit_sets: int = 0
    problems: list[LedgerProblem] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    def wrong(self, kind: str, place: str, detail: str) -> None:
        """Note a problem."""
        self.problems.append(LedgerProblem(kind, place, detail))

    def name(self, digest: str | None, place: str) -> None:
        """Note that an object names a blob."""
        if digest is not None:
            self.named.setdefault(digest, place)


def walk(session: Session) -> Findings:
    """Check every row that a hash covers; the session must see one moment (repeatable read)."""
    findings = Findings(problems=list(schema_checks.problems(session)))
    digests = _check_facts(session, findings)
    _check_questions(session, findings)
    for model in session.scalars(select(Model).order_by(Model.seq)).all():
        findings.name(model.given_editor_digest, f"models/{model.id}")
        findings.name(model.editor_digest, f"models/{model.id}")
        _check_chain(session, model, digests, findings)
    for editor in session.scalars(select(Editor)):
        findings.name(editor.digest, f"editors/{editor.digest}")
    for blob in session.scalars(select(Blob)):
        findings.name(blob.digest, f"blobs/{blob.digest}")
    return findings


def _check_facts(session: Session, findings: Findings) -> dict[str, str]:
    """Hash the facts of every edit set again, and return the digest that each really has."""
    known = [getattr(Fact, name) for name in ("question", "joiner", *chain.PROVENANCE)]
    columns = (Fact.prompt, Fact.target, Fact.subject, Fact.rephrasings, Fact.locality, *known)
    query = select(Fact.edit_set_id, *columns).order_by(Fact.edit_set_id, Fact.position)
    streamed = session.execute(query.execution_options(yield_per=1000)).mappings()
    digests = {
        str(ident): chain.facts_digest([dict(fact) for fact in facts])
        for ident, facts in groupby(streamed, key=lambda fact: fact["edit_set_id"])
    }
    for edit_set in session.scalars(select(EditSet).order_by(EditSet.seq)):
        findings.edit_sets += 1
        place = f"edits/{edit_set.id}"
        findings.name(edit_set.statistics_digest, place)
        found = digests.setdefault(edit_set.id, chain.facts_digest([]))
        if found != edit_set.facts_digest:
            detail = f"the facts hash to {found}, recorded is {edit_set.facts_digest}"
            findings.wrong("facts-changed", place, detail)
    return digests


def _check_questions(session: Session, findings: Findings) -> None:
    """Derive again what the facts ask, of every edit set that was to be composed with others."""
    noted = select(Question.edit_set_id, Question.position, Question.digest).order_by(Question.edit_set_id)
    streamed = session.execute(noted.execution_options(yield_per=1000))
    found = {
        ident: _digest((position, text) for _, position, text in rows)
        for ident, rows in groupby(streamed, key=lambda row: str(row[0]))
    }
    composed = set(session.scalars(select(Membership.edit_set_id).distinct())) | found.keys()
    columns = (Fact.edit_set_id, Fact.position, Fact.prompt, Fact.subject, Fact.rephrasings)
    facts = session.execute(select(*columns).order_by(*columns[:2]).execution_options(yield_per=1000))
    for ident, rows in groupby(facts, key=lambda row: str(row[0])):
        asked = _digest((position, text) for _, position, *fact in rows for text in index_keys(*fact))
        if ident in composed and asked != found.get(ident):
            findings.wrong("questions-differ", f"edits/{ident}", "its questions are not those of its facts")


def _digest(questions: Iterable[tuple[int, str]]) -> str:
    return chain.digest("\n".join(f"{position} {text}" for position, text in sorted(questions)).encode())


def _versions(session: Session, model_id: str) -> Iterator[VersionRecord]:
    """Yield a model's versions in order, a batch at a time."""
    after = -1
    while True:
        query = select(Version).where(Version.model_id == model_id, Version.number > after)
        found = session.scalars(query.order_by(Version.number).limit(BATCH)).all()
        if not found:
            return
        yield from versions.records(session, found)
        after = found[-1].number
        session.expunge_all()


class Holdings:
    """The members of one model's versions, one version after the other, by what each changes."""

    def __init__(self, session: Session, model_id: str, digests: dict[str, str]) -> None:
        self.held: dict[str, Member] = {}
        self.opened: list[Member] = []
        self.closed: list[Member] = []
        self._state = set_digest.EMPTY
        self._facts = 0
        self._number = -1
        self._opens: defaultdict[int, list[Member]] = defaultdict(list)
        self._closes: defaultdict[int, set[str]] = defaultdict(set)
        self._links: defaultdict[str, set[Link]] = defaultdict(set)
        query = select(Membership, EditSet.fact_count).join(EditSet, EditSet.id == Membership.edit_set_id)
        for row, count in session.execute(query.where(Membership.model_id == model_id)):
            left_out = tuple(row.withdrawn), tuple(row.superseded)
            digest = digests.get(row.edit_set_id, "")
            member = Member(row.edit_set_id, row.statistics_digest, *left_out, count, digest)
            self._opens[row.from_version].append(member)
            if row.to_version is not None:
                self._closes[row.to_version].add(row.edit_set_id)
        for pair in session.scalars(select(Supersession)):
            older = (pair.older_edit_set_id, pair.older_position)
            newer = (pair.newer_edit_set_id, pair.newer_position)
            for ident in {older[0], newer[0]}:
                self._links[ident].add((older, newer))

    def advance(self, number: int) -> None:
        """Go on to a version; those that are missing in between are passed through."""
        while self._number < number - 1:
            self.advance(self._number + 1)
        self._number = number
        gone = self._closes[number]
        self.closed = [self.held.pop(ident) for ident in sorted(gone) if ident in self.held]
        self.opened = sorted(self._opens[number])
        self.held |= {member.edit_set_id: member for member in self.opened}
        self._facts += sum(member.live_fact_count for member in self.opened)
        self._facts -= sum(member.live_fact_count for member in self.closed)
        self._state = set_digest.update(
            self._state, map(chain.member_content, self.opened), map(chain.member_content, self.closed)
        )

    def version_hash(self, version: VersionRecord) -> str:
        """Return what a version should hash to, by what it holds; older releases hashed all members."""
        if version.members_digest is None:
            return chain.first_version_hash(version, self.held.values())
        return chain.version_hash(version, self.closed, self.opened)

    def counts(self) -> tuple[str, int, int]:
        """Return digest and number of the members, and how many facts they come to."""
        return set_digest.of(self._state), len(self.held), self._facts

    def arranged(self) -> Iterator[tuple[Member, tuple[int, ...]]]:
        """Yield members that a version may have superseded otherwise, and the positions that are."""
        touched = {member.edit_set_id for member in (*self.opened, *self.closed)}
        affected = touched | {older[0] for ident in touched for older, _ in self._links[ident]}
        for ident in sorted(affected & self.held.keys()):
            positions = {
                older[1]
                for older, newer in self._links[ident]
                if older[0] == ident and self._holds(older) and self._holds(newer)
            }
            yield self.held[ident], tuple(sorted(positions))

    def _holds(self, place: tuple[str, int]) -> bool:
        member = self.held.get(place[0])
        return member is not None and place[1] not in member.withdrawn


def _check_chain(session: Session, model: Model, digests: dict[str, str], findings: Findings) -> None:
    """Follow one model's chain from version 0 to its head."""
    expected, previous = 0, None
    registered, base_digest, model_id = model.digest, None, model.id
    whole = model.status not in ("preparing", "failed")
    head = session.get(Head, model_id)
    head_at = None if head is None else (head.number, head.hash)
    holdings = Holdings(session, model_id, digests)
    for version in _versions(session, model_id):
        findings.versions += 1
        place = f"models/{model_id}/versions/{version.number}"
        if version.number != expected:
            findings.wrong("version-missing", place, f"version {expected} should come before it")
        elif version.previous_hash != previous:
            findings.wrong("chain-broken", place, f"it follows {version.previous_hash}, not {previous}")
        if version.kind == "base":
            base_digest = version.base_digest
        if version.base_digest != base_digest:
            detail = f"it was made on {version.base_digest}, the model is {base_digest}"
            findings.wrong("base-changed", place, detail)
        holdings.advance(version.number)
        _check_version(session, version, holdings, place, findings)
        _check_superseding(holdings, place, findings)
        expected, previous = version.number + 1, version.hash
    if whole and base_digest not in (None, registered):
        detail = f"its versions were made on {base_digest}, it is {registered}"
        findings.wrong("base-changed", f"models/{model_id}", detail)
    if head_at is not None and head_at != (expected - 1, previous):
        detail = f"the head is version {head_at[0]} with {head_at[1]}, the chain ends at {expected - 1}"
        findings.wrong("head-differs", f"models/{model_id}", detail)
    if head_at is None and expected > 0:
        findings.wrong("head-differs", f"models/{model_id}", "there are versions, but no head")


def _check_version(
    session: Session, version: VersionRecord, holdings: Holdings, place: str, findings: Findings
) -> None:
    """Hash one version again, with the reports of its facts, and note the blobs that it names."""
    for digest in (version.delta_digest, version.statistics_digest, version.editor_digest):
        findings.name(digest, place)
    for member in holdings.opened:
        findings.name(member.statistics_digest, place)
    rows = session.scalars(
        select(FactReportRow).where(
            FactReportRow.model_id == version.model_id, FactReportRow.number == version.number
        )
    )
    found = chain.fact_reports_digest(FactReport(row.edit_set_id, row.position, row.report) for row in rows)
    if found != version.fact_reports_digest:
        detail = f"the reports of its facts hash to {found}, recorded is {version.fact_reports_digest}"
        findings.wrong("fact-reports-changed", place, detail)
    again = holdings.version_hash(version)
    if again != version.hash:
        findings.wrong("version-changed", place, f"it hashes to {again}, recorded is {version.hash}")
    digest, sets, facts = holdings.counts()
    recorded = (version.members_digest or digest, version.edit_set_count, version.live_fact_count)
    if recorded != (digest, sets, facts):
        detail = f"it holds {sets} edit sets and {facts} facts, with the digest {digest}"
        findings.wrong("members-differ", place, detail)


def _check_superseding(holdings: Holdings, place: str, findings: Findings) -> None:
    """Find again which facts are superseded, of the members that a version's change can have touched."""
    for member, again in holdings.arranged():
        if member.superseded != again:
            detail = (
                f"of {member.edit_set_id}, the facts {list(again)} are superseded, "
                f"recorded are {list(member.superseded)}"
            )
            findings.wrong("superseding-differs", place, detail)


def read_blobs(store: Blobs, findings: Findings) -> LedgerCheck:
    """Read every blob that something names, and return the whole result."""
    for digest, place in findings.named.items():
        try:
            store.check(digest)
        except LedgerError as error:
            findings.wrong(error.code, place, error.message)
    return LedgerCheck(
        versions=findings.versions,
        edit_sets=findings.edit_sets,
        blobs=len(findings.named),
        problems=tuple(findings.problems),
    )
