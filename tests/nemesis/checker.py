"""Decides from a history, the database and the blobs whether Errata kept its promises.

It shares no code with Errata: SQL, hashes and file formats are written down here once more. What it is given is a
stand that was left to finish its work, with every fault undone and unnamed blobs collected.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import torch
from psycopg.rows import dict_row
from safetensors.torch import load, load_file

MODEL = "tiny"
PRIME = 2**3072 - 1103717
ENDED = {"applied", "rejected", "failed", "cancelled", "withdrawn", "verified"}
BAD_BLOB = {"blob-corrupt", "blob-missing"}
WRITES = {"post", "cancel", "roll_back", "withdraw", "promote", "remove_alias"}
WRITES |= {"make_key", "revoke_key", "register", "remove"}
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


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def plain(value: Any) -> Any:
    """A number as it is hashed: whole ones without a fraction, large ones as floats."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, int):
        return float(value) if abs(value) >= 2**53 else value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value]


def canonical(value: Any) -> bytes:
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class Checker:
    """One judgement. `judge` is called once."""

    def __init__(self, history: list[Row], url: str, blobs: Path, checkpoint: Path) -> None:
        self.history = history
        self.blobs = blobs
        self.checkpoint = checkpoint
        self.verdict = Verdict()
        self.ops: defaultdict[str, list[Row]] = defaultdict(list)
        for entry in history:
            if "op" in entry:
                self.ops[entry["op"]].append(entry)
        with psycopg.connect(url, row_factory=dict_row) as connection:
            self._read(connection)

    def _read(self, connection: psycopg.Connection[Row]) -> None:
        def rows(query: str) -> list[Row]:
            return connection.execute(query).fetchall()

        self.sets = {row["id"]: row for row in rows("SELECT * FROM edit_sets ORDER BY seq")}
        self.facts: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows("SELECT * FROM facts ORDER BY edit_set_id, position"):
            self.facts[row["edit_set_id"]].append(row)
        self.withdrawals = {row["id"]: row for row in rows("SELECT * FROM withdrawals")}
        self.versions = rows(f"SELECT * FROM versions WHERE model_id = '{MODEL}' ORDER BY number")
        self.memberships = rows(f"SELECT * FROM memberships WHERE model_id = '{MODEL}'")
        self.supersessions = rows("SELECT * FROM supersessions")
        self.reports: defaultdict[int, list[Row]] = defaultdict(list)
        for row in rows(f"SELECT * FROM fact_reports WHERE model_id = '{MODEL}'"):
            self.reports[row["number"]].append(row)
        self.audit = rows("SELECT * FROM audit_events ORDER BY id")
        self.aliases = {
            row["name"]: row["number"] for row in rows(f"SELECT * FROM aliases WHERE model_id = '{MODEL}'")
        }
        self.heads = {row["model_id"]: row for row in rows("SELECT * FROM heads")}
        self.models = {row["id"]: row for row in rows("SELECT * FROM models")}
        self.keys = {row["id"]: row for row in rows("SELECT * FROM keys")}
        self.named = {row["digest"]: row for row in rows("SELECT * FROM blobs")}
        self.jobs = rows("SELECT * FROM jobs")
        self.idempotency = rows("SELECT * FROM idempotency_keys")

    def judge(self) -> Verdict:
        """Check everything and return the verdict."""
        self._count()
        self._check_posts()
        self._check_statuses()
        self._check_cancels()
        self._check_withdrawals()
        self._check_rollbacks()
        self._check_aliases()
        self._check_keys()
        self._check_models()
        self._check_order()
        self._check_members()
        self._check_chain()
        self._check_blobs()
        self._check_weights()
        self._check_answers()
        return self.verdict

    # what is counted

    def lost(self, what: str) -> None:
        self.verdict.lost.append(what)

    def doubled(self, what: str) -> None:
        self.verdict.doubled.append(what)

    def unexplained(self, what: str) -> None:
        self.verdict.unexplained.append(what)

    def _count(self) -> None:
        """Count, and see that every answer is a grant, a named refusal, or none at all."""
        for entry in self.history:
            if "fault" in entry:
                self.verdict.faults += 1
                self.verdict.faults_not_done += entry["not_done"] is not None
            if "op" not in entry:
                continue
            self.verdict.requests += 1
            status, problem = entry["status"], entry.get("problem")
            if 200 <= status < 300:
                self.verdict.acknowledged += entry["op"] in WRITES
            elif status == 0:
                self.verdict.refusals["no answer"] += 1
            else:
                self.verdict.refusals[f"{status} {problem}"] += 1
                known = str(problem).startswith("urn:errata:problem:")
                expected = status == 500 and str(problem).rpartition(":")[2] in BAD_BLOB
                if not known or (status >= 500 and status != 503 and not expected):
                    self.unexplained(f"{entry['op']} {entry['token']} was answered {status} {problem}")

    # what was asked, and is there

    def _check_posts(self) -> None:
        by_note: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.sets.values():
            by_note[row["note"]].append(row)
        tokens = {entry["token"]: entry for entry in self.ops["post"]}
        for note in by_note.keys() - tokens.keys():
            self.unexplained(f"an edit set with the note {note} that nobody posted")
        for token, entry in tokens.items():
            found = by_note.get(token, [])
            if len(found) > 1:
                self.doubled(f"post {token} made {[row['id'] for row in found]}")
            answered = {ident for status, ident, *_ in entry["answers"] if status == 202}
            if answered and not found:
                self.lost(f"post {token}, acknowledged as {answered}")
            if answered and {row["id"] for row in found} != answered:
                self.unexplained(f"post {token} was answered with {answered}")
            for row in found:
                said = [(fact["prompt"], fact["target"], fact["subject"]) for fact in entry["facts"]]
                kept = [(fact["prompt"], fact["target"], fact["subject"]) for fact in self.facts[row["id"]]]
                if said != kept or row["fact_count"] != len(said):
                    self.lost(f"facts of {row['id']}: {said} were posted, {kept} are kept")
                if self._facts_digest(row["id"]) != row["facts_digest"]:
                    self.unexplained(f"the facts of {row['id']} do not hash to their digest")
        for entry in self.ops["read"]:
            if entry["status"] == 404:
                self.lost(f"{entry['edit_set']} was acknowledged, and not found by read {entry['token']}")
        keys = Counter(row["edit_set_id"] for row in self.idempotency)
        if any(count > 1 for count in keys.values()) or keys.keys() - self.sets.keys():
            self.unexplained("an idempotency key without its edit set")

    def _facts_digest(self, ident: str) -> str:
        content = []
        for fact in self.facts[ident]:
            row = [fact["prompt"], fact["target"], fact["subject"], fact["rephrasings"], fact["locality"]]
            content.append(row)
        return sha256(canonical(content))

    def _check_statuses(self) -> None:
        made = Counter(row["edit_set_id"] for row in self.versions if row["edit_set_id"])
        damaged = any(entry.get("kind") == "flip-blob" for entry in self.history)
        for row in (*self.sets.values(), *self.withdrawals.values()):
            if row["status"] not in ENDED:
                self.lost(f"{row['id']} was left {row['status']}")
        for row in self.sets.values():
            ident, status, count = row["id"], row["status"], made[row["id"]]
            wanted = int(status in ("applied", "rejected", "withdrawn"))
            if count != wanted:
                (self.doubled if count > wanted else self.lost)(
                    f"{ident} is {status} and has {count} versions"
                )
            code = str((row["error"] or {}).get("type", "")).rpartition(":")[2]
            if status == "failed" and not (damaged and code in BAD_BLOB):
                self.unexplained(f"{ident} failed of {code}: {(row['error'] or {}).get('detail')}")
        for job in self.jobs:
            if job["finished_at"] is None or job["lease_expires_at"] is not None:
                self.unexplained(f"job {job['id']} is unfinished or leased")

    def _check_cancels(self) -> None:
        asked = {entry["edit_set"] for entry in self.ops["cancel"]}
        mass = any(entry["cancels"] for entry in self.ops["roll_back"])
        for entry in self.ops["cancel"]:
            if entry["status"] == 200 and self.sets[entry["edit_set"]]["status"] != "cancelled":
                self.lost(f"the cancellation of {entry['edit_set']}")
        for ident, row in self.sets.items():
            if row["status"] == "cancelled" and ident not in asked and not mass:
                self.unexplained(f"{ident} was cancelled, and nobody asked for it")

    def _check_withdrawals(self) -> None:
        by_reason: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.withdrawals.values():
            by_reason[row["reason"]].append(row)
        asked = {entry["token"]: entry for entry in self.ops["withdraw"]}
        for reason in by_reason.keys() - asked.keys():
            self.unexplained(f"a withdrawal for the reason {reason} that nobody asked for")
        damaged = any(entry.get("kind") == "flip-blob" for entry in self.history)
        for token, entry in asked.items():
            found = by_reason.get(token, [])
            if len(found) > 1:
                self.doubled(f"withdrawal {token}")
            if entry["status"] == 202 and [row["id"] for row in found] != [entry["got"]]:
                self.lost(f"withdrawal {token}, acknowledged as {entry['got']}")
            for row in found:
                made = [
                    v
                    for v in self.versions
                    if v["kind"] == "withdraw" and v["number"] == row["version_number"]
                ]
                if (row["status"] == "applied") != (len(made) == 1):
                    self.unexplained(f"{row['id']} is {row['status']} with {len(made)} versions")
                code = str((row["error"] or {}).get("type", "")).rpartition(":")[2]
                if row["status"] == "failed" and not (damaged and code in BAD_BLOB):
                    self.unexplained(f"{row['id']} failed of {code}")

    def _check_rollbacks(self) -> None:
        by_reason: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.versions:
            if row["kind"] == "rollback":
                by_reason[row["reason"]].append(row)
        asked = {entry["token"]: entry for entry in self.ops["roll_back"]}
        for reason in by_reason.keys() - asked.keys():
            self.unexplained(f"a rollback for the reason {reason} that nobody asked for")
        for token, entry in asked.items():
            found = by_reason.get(token, [])
            if len(found) > 1:
                self.doubled(f"rollback {token}")
            if entry["status"] == 200 and [row["number"] for row in found] != [entry["got"]]:
                self.lost(f"rollback {token}, acknowledged as version {entry['got']}")
            if any(row["restores"] != entry["to"] for row in found):
                self.unexplained(f"rollback {token} restored another version")

    def _check_aliases(self) -> None:
        set_by = defaultdict(list)
        removed = 0
        for event in self.audit:
            if event["action"] == "alias.set":
                set_by[event["detail"]["reason"]].append(event)
            removed += event["action"] == "alias.remove"
        for entry in self.ops["promote"]:
            events = set_by.pop(entry["token"], [])
            if len(events) > 1:
                self.doubled(f"promotion {entry['token']}")
            if entry["status"] == 200 and not events:
                self.lost(f"promotion {entry['token']}")
            for event in events:
                place = f"models/{MODEL}/aliases/{entry['name']}"
                if event["object"] != place or event["detail"]["number"] != entry["number"]:
                    self.unexplained(f"promotion {entry['token']} did something else")
        if set_by:
            self.unexplained(f"promotions that nobody asked for: {sorted(map(str, set_by))}")
        asked = self.ops["remove_alias"]
        granted = sum(entry["status"] == 204 for entry in asked)
        open_ended = sum(entry["status"] in (0, 503) for entry in asked)
        if removed < granted:
            self.lost(f"{granted - removed} removals of aliases")
        if removed > granted + open_ended:
            self.doubled(f"{removed - granted - open_ended} removals of aliases")

    def _check_keys(self) -> None:
        names = Counter(row["name"] for row in self.keys.values())
        for entry in self.ops["make_key"]:
            if names[entry["token"]] > 1:
                self.doubled(f"key {entry['token']}")
            if entry["status"] == 201 and entry["got"] not in self.keys:
                self.lost(f"key {entry['token']}, acknowledged as {entry['got']}")
        for entry in self.ops["revoke_key"]:
            if entry["status"] == 204 and self.keys[entry["key"]]["revoked_at"] is None:
                self.lost(f"the revocation of {entry['key']}")
        for entry in self.ops["use_key"]:
            if entry["revoked"] and entry["status"] == 200:
                self.lost(f"the revocation of {entry['key']}, which was used afterwards")
            if not entry["revoked"] and entry["status"] in (401, 403):
                self.lost(f"key {entry['key']}, which was refused")

    def _check_models(self) -> None:
        asked = {entry["model"]: entry for entry in self.ops["register"]}
        for entry in asked.values():
            if entry["status"] in (200, 202) and entry["model"] not in self.models:
                self.lost(f"model {entry['model']}")
        for entry in self.ops["remove"]:
            if entry["status"] == 200 and self.models[entry["model"]]["status"] != "archived":
                self.lost(f"the removal of {entry['model']}")
        for ident in self.models.keys() - asked.keys() - {MODEL}:
            self.unexplained(f"model {ident}, which nobody registered")

    # one order explains all versions

    def _moves(self) -> Iterator[tuple[Row, int | None]]:
        """The events that touch the chain or live, in the order of the audit log, with where live was before."""
        live: int | None = None
        for event in self.audit:
            place, detail = str(event["object"]), event["detail"]
            if event["action"] == "model.complete" and place == f"models/{MODEL}":
                yield event, live
                live = 0
            elif event["action"] == "version.commit" and place.startswith(f"models/{MODEL}/versions/"):
                yield event, live
                live = int(place.rpartition("/")[2]) if detail["live"] else live
            elif event["action"] == "model.roll_back" and place.startswith(f"models/{MODEL}/versions/"):
                yield event, live
                live = int(place.rpartition("/")[2])
            elif event["action"] == "alias.set" and place == f"models/{MODEL}/aliases/live":
                yield event, live
                live = detail["number"]
        self.live_at_end = live

    def _check_order(self) -> None:
        numbers = [row["number"] for row in self.versions]
        if numbers != list(range(len(numbers))):
            self.unexplained(f"the versions are numbered {numbers}")
        self.verdict.versions = len(numbers)
        self.live_moves: list[tuple[int, datetime, Row]] = []
        explained = 0
        for event, live in self._moves():
            place, detail = str(event["object"]), event["detail"]
            if event["action"] == "alias.set":
                self.live_moves.append((detail["number"], event["at"], event))
                continue
            number = 0 if event["action"] == "model.complete" else int(place.rpartition("/")[2])
            row = self.versions[number]
            if number != explained or row["parent"] != live or row["hash"] != detail["hash"]:
                self.unexplained(f"version {number} with parent {row['parent']} came when live was {live}")
            explained += 1
            if event["action"] != "version.commit" or detail["live"]:
                self.live_moves.append((number, event["at"], event))
        if explained != len(numbers):
            self.unexplained(f"{len(numbers) - explained} versions without an event")
        if self.aliases.get("live") != self.live_at_end:
            self.unexplained(f"live is {self.aliases.get('live')}, by its events {self.live_at_end}")

    def _held(self, number: int) -> dict[str, Row]:
        return {
            row["edit_set_id"]: row
            for row in self.memberships
            if row["from_version"] <= number and (row["to_version"] is None or row["to_version"] > number)
        }

    def _check_members(self) -> None:
        """Derive again which edit sets and facts each version holds, from its kind and its parent."""
        newer: defaultdict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
        for pair in self.supersessions:
            newer[pair["older_edit_set_id"], pair["older_position"]].add(
                (pair["newer_edit_set_id"], pair["newer_position"])
            )
        by_version = {
            row["version_number"]: row for row in self.withdrawals.values() if row["version_number"]
        }
        holds: dict[int, set[str]] = {}
        for row in self.versions:
            number, parent = row["number"], holds.get(row["parent"], set())
            if row["kind"] == "edit":
                wanted = parent | {row["edit_set_id"]}
            elif row["kind"] == "rollback":
                wanted = holds[row["restores"]]
            elif row["kind"] == "withdraw":
                wanted = parent - set(by_version[number]["edit_set_ids"])
            else:
                wanted = set()
            holds[number] = wanted
            held = self._held(number)
            if held.keys() != wanted:
                self.unexplained(f"version {number} holds {sorted(held)}, {sorted(wanted)} explains it")
            places = {(ident, n) for ident in held for n in range(self.sets[ident]["fact_count"])}
            live = 0
            for ident, member in held.items():
                own = range(self.sets[ident]["fact_count"])
                if list(member["superseded"]) != [n for n in own if newer[ident, n] & places]:
                    self.unexplained(f"{ident} in version {number} has superseded {member['superseded']}")
                live += len(own) - len(member["superseded"])
            if (row["edit_set_count"], row["live_fact_count"]) != (len(held), live):
                self.unexplained(f"version {number} counts {row['edit_set_count']}, {row['live_fact_count']}")

    def _member(self, row: Row) -> list[Any]:
        facts = self.sets[row["edit_set_id"]]["facts_digest"]
        return [row["edit_set_id"], facts, row["statistics_digest"], row["withdrawn"], row["superseded"]]

    def _check_chain(self) -> None:
        previous, product = None, 1
        for row in self.versions:
            number = row["number"]
            opened = [self._member(m) for m in self.memberships if m["from_version"] == number]
            closed = [self._member(m) for m in self.memberships if m["to_version"] == number]
            for member in opened:
                product = product * _expanded(member) % PRIME
            for member in closed:
                product = product * pow(_expanded(member), -1, PRIME) % PRIME
            if sha256(product.to_bytes(384, "big")) != row["members_digest"]:
                self.unexplained(f"the members of version {number} do not hash to their digest")
            reports = sorted((r["edit_set_id"], r["position"], r["report"]) for r in self.reports[number])
            if sha256(canonical([list(each) for each in reports])) != row["fact_reports_digest"]:
                self.unexplained(f"the reports of version {number} do not hash to their digest")
            if self._hash(row, opened, closed) != row["hash"] or row["previous_hash"] != previous:
                self.unexplained(f"version {number} breaks the chain")
            previous = row["hash"]
        head = self.heads[MODEL]
        if (head["number"], head["hash"]) != (len(self.versions) - 1, previous):
            self.unexplained("the head is not the newest version")

    def _hash(self, row: Row, opened: list[list[Any]], closed: list[list[Any]]) -> str:
        same = ["previous_hash", "number", "kind", "parent", "restores", "live_fact_count", "base_digest"]
        same += [
            "editor_digest",
            "delta_digest",
            "weights_digest",
            "statistics_digest",
            "fact_reports_digest",
        ]
        same += ["report", "gate_met", "reason", "created_by", "members_digest", "edit_set_count"]
        content = {name: row[name] for name in same} | {
            "model": row["model_id"],
            "edit_set": row["edit_set_id"],
            "created_at": moment(row["created_at"]),
            "format": 2,
            "closed": sorted(member[0] for member in closed),
            "opened": sorted(opened, key=lambda member: str(member[0])),
        }
        return sha256(canonical(content))

    # blobs, weights and answers

    def _check_blobs(self) -> None:
        stored = {f"sha256:{path.name}": path for path in self.blobs.glob("sha256/??/*")}
        for digest in self.named.keys() - stored.keys():
            self.lost(f"blob {digest}")
        for digest, path in stored.items():
            if digest not in self.named:
                self.unexplained(f"blob {path.name} is left, and nothing names it")
            elif sha256(path.read_bytes()) != digest:
                self.lost(f"blob {digest}, whose bytes are others")
        for path in self.blobs.glob("incoming/*"):
            self.unexplained(f"{path.name} is left half written")
        used = {row["delta_digest"] for row in self.versions} | {
            row["statistics_digest"] for row in self.memberships
        }
        for digest in used - {None} - self.named.keys():
            self.unexplained(f"blob {digest} is used without being named")

    def _check_weights(self) -> None:
        """Add each version's delta to the checkpoint again, and hash the sum."""
        base = load_file(self.checkpoint / "model.safetensors")
        modules = self.models[MODEL]["modules"]
        seen: dict[str | None, str] = {}
        by_members: dict[bytes, set[str]] = defaultdict(set)
        for row in self.versions:
            digest = row["delta_digest"]
            if digest not in seen:
                path = None if digest is None else self._path(digest)
                if path is not None and not path.exists():
                    continue
                seen[digest] = _weights_digest(base, modules, {} if path is None else load(path.read_bytes()))
            if seen[digest] != row["weights_digest"]:
                self.unexplained(f"the weights of version {row['number']} are not base + delta")
            members = sorted((self._member(m) for m in self._held(row["number"]).values()), key=str)
            by_members[canonical(members)].add(row["weights_digest"])
        for held, weights in by_members.items():
            if len(weights) > 1:
                self.unexplained(f"the same facts gave different weights: {sorted(weights)}, {held[:200]!r}")

    def _path(self, digest: str) -> Path:
        value = digest.removeprefix("sha256:")
        return self.blobs / "sha256" / value[:2] / value

    def _check_answers(self) -> None:
        weights = {row["number"]: row["weights_digest"] for row in self.versions}
        texts: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        moved = (*self.ops["roll_back"], *self.ops["promote"])
        sure = {entry["token"]: entry["t1"] for entry in moved if entry["got"] is not None}
        for entry in self.ops["generate"]:
            got = entry["got"]
            if got is None:
                continue
            self.verdict.answers += 1
            number, asked = got["version"], entry["asked"]
            if asked not in ("live", number):
                self.unexplained(f"answer {entry['token']} is of version {number}, asked was {asked}")
            if weights.get(number) != got["weights_digest"]:
                self.unexplained(f"answer {entry['token']} is not of the weights of version {number}")
            texts[got["weights_digest"], entry["prompt"]].add(got["text"])
            if asked == "live" and not self._was_live(number, entry, sure):
                self.unexplained(f"answer {entry['token']} is of version {number}, which was not live")
        for (digest, prompt), found in texts.items():
            if len(found) > 1:
                self.unexplained(f"the weights {digest} answer {prompt!r} with {sorted(found)}")

    def _was_live(self, number: int, entry: Row, sure: dict[str, float]) -> bool:
        """Whether a version may have been live at some time between a request and its answer."""
        moves = [
            (moved, at.timestamp(), event["detail"].get("reason")) for moved, at, event in self.live_moves
        ]
        first = max(
            (i for i, (_, _, why) in enumerate(moves) if sure.get(why, entry["t0"]) < entry["t0"]), default=0
        )
        last = max((i for i, (_, at, _) in enumerate(moves) if at <= entry["t1"]), default=0)
        return number in {moved for moved, _, _ in moves[first : last + 1]}


def _expanded(member: list[Any]) -> int:
    return int.from_bytes(hashlib.shake_256(canonical(member)).digest(384), "big")


def _weights_digest(base: dict[str, torch.Tensor], modules: list[str], delta: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in modules:
        weight = base[f"{name}.weight"].T
        if f"{name}:dense" in delta:
            change = delta[f"{name}:dense"].double()
        elif f"{name}:left" in delta:
            change = delta[f"{name}:left"].double() @ delta[f"{name}:right"].double()
        else:
            change = None
        total = weight if change is None else (weight.double() + change).float()
        found.update(f"{name} {tuple(total.shape)} {total.dtype}\n".encode())
        found.update(total.contiguous().numpy().tobytes())
    return f"sha256:{found.hexdigest()}"


def judge(history: Path, url: str, blobs: Path, checkpoint: Path) -> Verdict:
    """Judge a run by its history, its database, its blobs and the checkpoint that was registered."""
    entries = [json.loads(line) for line in history.read_text().splitlines()]
    return Checker(entries, url, blobs, checkpoint).judge()
