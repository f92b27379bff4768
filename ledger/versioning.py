"""The part of the ledger that looks at versions and goes back: aliases, rollbacks, withdrawals, proof."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ledger.blobs.store import Blobs
from ledger.db import queries
from ledger.db.engine import Database
from ledger.db.tables import EditSet
from ledger.edits import edit_sets, facts, withdrawals
from ledger.integrity import verify
from ledger.jobs import jobs
from ledger.models import aliases
from ledger.records import (
    Actor,
    EditSetRecord,
    FactRecord,
    LedgerCheck,
    Member,
    Page,
    VersionRecord,
    WithdrawalRecord,
)
from ledger.versions import members, versions
from ledger.versions.members import Change


class Versioning:
    """Methods on versions and on taking things back; each is one transaction."""

    database: Database
    blobs: Blobs

    def cancel(self, edit_set_id: str, actor: Actor) -> EditSetRecord:
        """Cancel an edit set that has not been applied; IllegalTransition if it is finished."""
        with self.database.transaction() as session:
            jobs.cancel(session, queries.find(session, EditSet, edit_set_id, "edit set"), actor)
            return edit_sets.get(session, edit_set_id)

    def get_version(self, model_id: str, ref: int | str) -> VersionRecord:
        """Return a version by number, `base` or alias; NotFound if there is none."""
        with self.database.transaction() as session:
            return versions.get(session, model_id, ref)

    def number_of(self, model_id: str, ref: int | str) -> int:
        """Return the number that a reference names, without reading its members; NotFound as above."""
        with self.database.transaction() as session:
            return versions.find(session, model_id, ref).number

    def list_versions(self, model_id: str, limit: int = 50, cursor: str | None = None) -> Page[VersionRecord]:
        """Return a page of a model's versions, newest first."""
        with self.database.transaction() as session:
            return versions.list_all(session, model_id, limit, cursor)

    def facts_of(self, model_id: str, number: int) -> tuple[FactRecord, ...]:
        """Return all facts that a version holds; see `facts.of_version`."""
        with self.database.transaction() as session:
            return facts.of_version(session, model_id, number)

    def members(self, model_id: str, ref: int | str) -> dict[str, Member]:
        """Return the members of a version by edit set; NotFound if there is no such version."""
        with self.database.transaction() as session:
            return members.at(session, model_id, versions.find(session, model_id, ref).number)

    def member_changes(self, model_id: str, since: int | None, number: int) -> Change:
        """Return what to change in one version's members to have another's; see `members.changes`."""
        with self.database.transaction() as session:
            return members.changes(session, model_id, since, number)

    def list_members(
        self, model_id: str, ref: int | str, limit: int = 50, cursor: str | None = None
    ) -> tuple[int, Page[Member]]:
        """Return a version's number and a page of its members; see `members.page`."""
        with self.database.transaction() as session:
            number = versions.find(session, model_id, ref).number
            return number, members.page(session, model_id, number, limit, cursor)

    def held_facts(
        self, model_id: str, ref: int | str, limit: int = 50, cursor: str | None = None
    ) -> tuple[int, Page[FactRecord]]:
        """Return a version's number, and a page of the facts that it holds; see `facts.held`."""
        with self.database.transaction() as session:
            number = versions.find(session, model_id, ref).number
            return number, facts.held(session, model_id, number, limit, cursor)

    def changes(
        self,
        model_id: str,
        ref: int | str,
        since: int | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[VersionRecord, VersionRecord, Page[tuple[bool, FactRecord]]]:
        """Return two versions, and a page of the facts that differ between them; see `facts.differing`.

        Args:
            model_id: the model.
            ref: the one version, by number or alias.
            since: the other; None for the parent of the first, or version 0 itself.
            limit: facts of a page.
            cursor: of the page before, or None.

        Raises:
            NotFound: there is no such version.
            InvalidCursor: the cursor is not one of this list.
        """
        with self.database.transaction() as session:
            version = versions.get(session, model_id, ref)
            other = versions.get(session, model_id, (version.parent or 0) if since is None else since)
            page = facts.differing(session, model_id, version.number, other.number, limit, cursor)
            return version, other, page

    def facts_at(self, places: Sequence[tuple[str, int]]) -> tuple[FactRecord, ...]:
        """Return facts by edit set and position, in that order, with reports; see `facts.at`."""
        with self.database.transaction() as session:
            return facts.at(session, places)

    def set_alias(
        self,
        model_id: str,
        name: str,
        number: int | str,
        actor: Actor,
        *,
        force: bool = False,
        reason: str | None = None,
    ) -> VersionRecord:
        """Point an alias at a version; see `aliases.set_alias`. For `live`, its delta is read first."""
        if name == versions.LIVE:
            with self.database.transaction() as session:
                delta_digest = versions.find(session, model_id, number).delta_digest
            aliases.check_delta(self.blobs, delta_digest)
        with self.database.transaction() as session:
            at = versions.find(session, model_id, number).number
            return aliases.set_alias(session, model_id, name, at, actor, force, reason)

    def remove_alias(self, model_id: str, name: str, actor: Actor) -> None:
        """Remove an alias other than `live`; see `aliases.remove_alias`."""
        with self.database.transaction() as session:
            aliases.remove_alias(session, model_id, name, actor)

    def roll_back(self, model_id: str, to_version: int | str, reason: str, actor: Actor) -> VersionRecord:
        """Make a version with an earlier one's delta, checked, and make it live; see `aliases.roll_back`."""
        target = self.get_version(model_id, to_version)
        with ThreadPoolExecutor(1) as beside, self.database.transaction() as session:
            checked = beside.submit(aliases.check_delta, self.blobs, target.delta_digest)
            made = aliases.roll_back(session, model_id, target, reason, actor)
            checked.result()  # before the commit: what it raises undoes the rest
            return made

    def request_withdrawal(
        self,
        model_id: str,
        edit_set_ids: Sequence[str],
        fact_ids: Sequence[str],
        reason: str,
        actor: Actor,
    ) -> WithdrawalRecord:
        """Ask for a live version without these edit sets and facts; see `withdrawals.request`."""
        with self.database.transaction() as session:
            return withdrawals.request(session, model_id, edit_set_ids, fact_ids, reason, actor)

    def get_withdrawal(self, withdrawal_id: str) -> WithdrawalRecord:
        """Return a withdrawal; NotFound if there is none."""
        with self.database.transaction() as session:
            return withdrawals.get(session, withdrawal_id)

    def verify(self) -> LedgerCheck:
        """Walk every chain and read every blob that is named; problems are returned, not raised.

        The rows are read in one transaction that sees one moment; the blobs after it.
        """
        with self.database.snapshot() as session:
            findings = verify.walk(session)
        return verify.read_blobs(self.blobs, findings)
