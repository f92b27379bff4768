"""A version's manifest: all that its hash rests on, so that a third party can check it without the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.db import queries
from ledger.db.tables import Blob, EditSet, Model, Version
from ledger.edits import facts
from ledger.integrity import chain
from ledger.records import Member, VersionRecord
from ledger.versions import versions

FORMAT = "errata-manifest/1"
RULES = {
    "canonical": "JSON: keys sorted, no spaces, UTF-8 unescaped, whole numbers below 2^53 without fraction",
    "digest": "'sha256:' + SHA-256 of the canonical form of this manifest without its digest",
    "chain": "each hash is 'sha256:' + SHA-256 of the canonical form of its content; previous_hash is the "
    "hash of the version before, null for version 0; a member is [edit set, facts digest, statistics digest, "
    "positions of facts that are withdrawn..., and last, if newer facts of the version supersede any, "
    "{'superseded': [positions of these...]}]",
    "facts": "each digest is 'sha256:' + SHA-256 of the canonical form of its content, [prompt, target, "
    "subject, rephrasings, locality, and last, if any of them is known, {source, author, ticket, note, "
    "expires_at: UTC to the microsecond}]; an edit set's facts digest is that of the list of the contents of "
    "all its facts, by position",
    "blobs": "each digest is 'sha256:' + SHA-256 of the file's bytes",
    "base_digest": "'sha256:' + SHA-256 of a line 'NAME HEX\\n' for each *.safetensors file of the "
    "checkpoint, sorted by name, HEX being the SHA-256 of its bytes",
    "weights_digest": "'sha256:' + SHA-256 over the modules in order, of 'NAME (U, V) torch.DTYPE\\n' and "
    "the elements in row-major order of base + delta, input features first, summed in float64 and rounded "
    "once to the dtype that is served",
}


def make(session: Session, model_id: str, ref: int | str) -> dict[str, Any]:
    """Return the manifest of a version, with its digest.

    Raises:
        NotFound: there is no such model or version.
    """
    wanted = versions.get(session, model_id, ref)
    model = session.get_one(Model, model_id)
    links = list(_chain(session, wanted))
    content = {
        "format": FORMAT,
        "rules": RULES,
        "model": {
            "id": model.id,
            "source": model.source,
            "revision": model.revision,
            "architecture": model.architecture,
            "modules": model.modules,
            "base_digest": model.digest,
            "base_parameters_digest": model.base_parameters_digest,
        },
        "version": wanted.number,
        "hash": wanted.hash,
        "chain": links,
        "facts": _facts(session, wanted),
        "blobs": _blobs(session, wanted),
    }
    return {**content, "digest": chain.digest(chain.canonical_json(content))}


def _chain(session: Session, wanted: VersionRecord) -> Iterator[dict[str, Any]]:
    """Yield what each version covers, from version 0 to the wanted one."""
    query = select(Version).where(Version.model_id == wanted.model_id, Version.number <= wanted.number)
    found = versions.records(session, session.scalars(query.order_by(Version.number)).all())
    digests = _digests(session, {member.edit_set_id for version in found for member in version.members})
    for version in found:
        yield {"hash": version.hash, "content": chain.version_content(version, digests)}


def _digests(session: Session, edit_set_ids: Collection[str]) -> dict[str, str]:
    query = select(EditSet.id, EditSet.facts_digest).where(queries.one_of(EditSet.id, edit_set_ids))
    return {row.id: row.facts_digest for row in session.execute(query)}


def _facts(session: Session, wanted: VersionRecord) -> list[dict[str, Any]]:
    """Return all facts of the version's edit sets by edit set and position, and whether it holds each."""
    left_out = {member.edit_set_id: {*member.left_out} for member in wanted.members}
    whole = [Member(member.edit_set_id, member.statistics_digest) for member in sorted(wanted.members)]
    found = []
    for fact in facts.of_members(session, whole):
        content = chain.fact_content({**vars(fact), **vars(fact.provenance)})
        found.append(
            {
                "edit_set": fact.edit_set_id,
                "position": fact.position,
                "live": fact.position not in left_out[fact.edit_set_id],
                "digest": chain.digest(chain.canonical_json(content)),
                "content": content,
            }
        )
    return found


def _blobs(session: Session, wanted: VersionRecord) -> list[dict[str, Any]]:
    """Return the blobs from which the version can be made again, by digest."""
    named = {wanted.editor_digest, wanted.delta_digest, *(m.statistics_digest for m in wanted.members)}
    found = session.scalars(
        select(Blob).where(queries.one_of(Blob.digest, named - {None})).order_by(Blob.digest)
    )
    return [{"digest": row.digest, "kind": row.kind, "size": row.size, "place": row.place} for row in found]
