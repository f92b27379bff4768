"""The ledger as a few dictionaries: what it must say after every step, in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Place = tuple[str, int]
Members = Mapping[str, frozenset[int]]
MAX_ATTEMPTS = 3


def contradict(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two facts answer one question; the machine's texts need no folding."""
    if one["prompt"] == other["prompt"]:
        return True
    same = one["subject"] is not None and one["subject"] == other["subject"]
    return same and (one["prompt"] in other["rephrasings"] or other["prompt"] in one["rephrasings"])


@dataclass
class Work:
    """A job of an edit set or a withdrawal; when its lease is over, it stays held until another takes it."""

    status: str = "queued"
    attempts: int = 0
    fence: int = 0
    leased: bool = False
    held: bool = False

    @property
    def open(self) -> bool:
        return self.status in ("queued", "running", "verifying")

    def back(self, status: str) -> None:
        self.status, self.leased, self.held = status, False, False


@dataclass
class Set:
    """An edit set."""

    order: int
    facts: tuple[Mapping[str, Any], ...]
    promote: str
    on_conflict: str
    dry_run: bool
    work: Work = field(default_factory=Work)
    version: int | None = None


@dataclass
class Withdrawal:
    """A withdrawal that waits for its worker, or has had one."""

    sets: frozenset[str]
    facts: frozenset[Place]
    work: Work = field(default_factory=Work)
    expiry: bool = False


@dataclass(frozen=True)
class Version:
    """A version: its members with the positions that were withdrawn from them."""

    kind: str
    parent: int | None
    members: Members
    gate_met: bool = True
    restores: int | None = None


@dataclass
class Ledger:
    """One model's ledger."""

    sets: dict[str, Set] = field(default_factory=dict)
    withdrawals: dict[str, Withdrawal] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=lambda: [Version("base", None, {})])
    aliases: dict[str, int] = field(default_factory=lambda: {"live": 0})

    @property
    def live(self) -> Version:
        return self.versions[self.aliases["live"]]

    def work(self, ident: str) -> Work:
        return (self.sets.get(ident) or self.withdrawals[ident]).work

    def held(self, members: Members) -> set[Place]:
        """The facts of a version, dormant ones too."""
        return {
            (ident, position)
            for ident, withdrawn in members.items()
            for position in range(len(self.sets[ident].facts))
            if position not in withdrawn
        }

    def newer(self, place: Place, among: Iterable[Place]) -> set[Place]:
        """The facts among some that supersede one."""
        own = self.sets[place[0]]
        return {
            (ident, position)
            for ident, position in among
            if self.sets[ident].order > own.order
            and contradict(own.facts[place[1]], self.sets[ident].facts[position])
        }

    def facts(self, members: Members) -> set[Place]:
        """The facts that a version answers with."""
        held = self.held(members)
        return {place for place in held if not self.newer(place, held)}

    def conflicts(self, facts: Iterable[Mapping[str, Any]]) -> set[int]:
        """Positions of facts that answer what a live one does."""
        live = self.facts(self.live.members)
        return {
            position
            for position, fact in enumerate(facts)
            if any(contradict(fact, self.sets[ident].facts[at]) for ident, at in live)
        }

    def expired(self) -> frozenset[Place]:
        """Facts of the live version whose time is over."""
        held = self.held(self.live.members)
        return frozenset(place for place in held if self.sets[place[0]].facts[place[1]]["expires_at"])

    def append(self, version: Version) -> int:
        self.versions.append(version)
        return len(self.versions) - 1

    def point(self, name: str, number: int) -> None:
        before = set(self.live.members)
        self.aliases[name] = number
        if name != "live":
            return
        after = set(self.live.members)
        for ident in before - after:
            if self.sets[ident].work.status == "applied":
                self.sets[ident].work.status = "withdrawn"
        for ident in after - before:
            if self.sets[ident].work.status in ("withdrawn", "rejected"):
                self.sets[ident].work.status = "applied"

    def apply(self, ident: str, gate_met: bool) -> int:
        """Commit an edit set on the live version."""
        own = self.sets[ident]
        members = {**self.live.members, ident: frozenset[int]()}
        own.version = self.append(Version("edit", self.aliases["live"], members, gate_met))
        own.work.back("applied" if gate_met else "rejected")
        if gate_met and own.promote == "auto":
            self.point("live", own.version)
        return own.version

    def without(self, members: Members, withdrawal: Withdrawal) -> Members:
        left = {}
        for ident, withdrawn in members.items():
            gone = withdrawn | {position for owner, position in withdrawal.facts if owner == ident}
            if ident not in withdrawal.sets and len(gone) < len(self.sets[ident].facts):
                left[ident] = gone
        return left

    def withdraw(self, ident: str) -> int:
        """Commit a withdrawal on the live version."""
        withdrawal = self.withdrawals[ident]
        members = self.without(self.live.members, withdrawal)
        number = self.append(Version("withdraw", self.aliases["live"], members))
        withdrawal.work.back("applied")
        self.point("live", number)
        return number

    def roll_back(self, number: int) -> int:
        target = self.versions[number]
        made = replace(target, kind="rollback", parent=self.aliases["live"], restores=number)
        self.point("live", self.append(made))
        return len(self.versions) - 1

    def lineage(self, number: int | None) -> set[int]:
        line = set()
        while number is not None:
            line.add(number)
            number = self.versions[number].parent
        return line

    def related(self, number: int) -> bool:
        """Whether making a version live drops nothing that came beside it."""
        live = self.aliases["live"]
        return number in self.lineage(live) or live in self.lineage(number)
