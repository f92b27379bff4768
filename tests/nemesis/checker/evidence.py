"""What is judged: the history and the database, read once, and the verdict on them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

MODEL = "tiny"
Row = dict[str, Any]


@dataclass
class Verdict:
    """What was found: how much was acknowledged, and what is wrong, by kind."""

    faults: int = 0
    faults_not_done: int = 0
    requests: int = 0
    acknowledged: int = 0
    versions: int = 0
    answers: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.unexplained)


class Evidence:
    """The history by operation, and the rows of each table that say what was kept."""

    def __init__(self, history: Path, url: str, blobs: Path, checkpoint: Path) -> None:
        self.history: list[Row] = [json.loads(line) for line in history.read_text().splitlines()]
        self.blobs, self.checkpoint = blobs, checkpoint
        self.ops: defaultdict[str, list[Row]] = defaultdict(list)
        for entry in self.history:
            if "op" in entry:
                self.ops[entry["op"]].append(entry)
        self.blobs_were_damaged = any(entry.get("kind") == "flip-blob" for entry in self.history)
        with psycopg.connect(url, row_factory=dict_row) as connection:
            self._read(connection)
        self.held = cache(self._held)

    def _read(self, connection: psycopg.Connection[Row]) -> None:
        def rows(query: str) -> list[Row]:
            return connection.execute(query).fetchall()

        of_model = f"WHERE model_id = '{MODEL}'"
        self.sets = {row["id"]: row for row in rows("SELECT * FROM edit_sets ORDER BY seq")}
        self.facts: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows("SELECT * FROM facts ORDER BY edit_set_id, position"):
            self.facts[row["edit_set_id"]].append(row)
        self.withdrawals = {row["id"]: row for row in rows("SELECT * FROM withdrawals")}
        self.versions = rows(f"SELECT * FROM versions {of_model} ORDER BY number")
        self.memberships = rows(f"SELECT * FROM memberships {of_model}")
        self.supersessions = rows("SELECT * FROM supersessions")
        self.reports: defaultdict[int, list[Row]] = defaultdict(list)
        for row in rows(f"SELECT * FROM fact_reports {of_model}"):
            self.reports[row["number"]].append(row)
        self.audit = rows("SELECT * FROM audit_events ORDER BY id")
        self.aliases = {row["name"]: row["number"] for row in rows(f"SELECT * FROM aliases {of_model}")}
        self.head = rows(f"SELECT * FROM heads {of_model}")[0]
        self.models = {row["id"]: row for row in rows("SELECT * FROM models")}
        self.keys = {row["id"]: row for row in rows("SELECT * FROM keys")}
        self.named = {row["digest"]: row for row in rows("SELECT * FROM blobs")}
        self.jobs = rows("SELECT * FROM jobs")
        self.idempotency = rows("SELECT * FROM idempotency_keys")

    def _held(self, number: int) -> dict[str, Row]:
        """The memberships of a version, by edit set."""
        return {
            row["edit_set_id"]: row
            for row in self.memberships
            if row["from_version"] <= number and (row["to_version"] is None or row["to_version"] > number)
        }

    def member(self, row: Row) -> list[Any]:
        """What a digest covers of a membership."""
        facts = self.sets[row["edit_set_id"]]["facts_digest"]
        return [row["edit_set_id"], facts, row["statistics_digest"], row["withdrawn"], row["superseded"]]


def by_mark(rows: list[Row], column: str) -> defaultdict[str, list[Row]]:
    """Rows by the mark that a client put into a text that is kept with them."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return found
