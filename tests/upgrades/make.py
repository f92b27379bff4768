"""Keep the ledger of this release: `python -m tests.upgrades.make NAME` writes `tests/upgrades/NAME`.

Three edit sets (one with rephrasings, one that corrects a fact and holds a prompt), two withdrawals, a rollback,
and a set that waits. Releases before this program was there are made by the same steps with their own functions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import make_url

from ledger import Ledger, LedgerSettings
from ledger.edits import edit_sets
from ledger.models import aliases
from ledger.versions import versions
from tests import servers
from tests.harness import MODEL
from tests.inprocess import Office, fact
from tests.tiny import save_tiny

CHECKPOINT = "/checkpoint"
"""What stands in the rows for the folder of the checkpoint."""
SAID = (
    "number",
    "kind",
    "parent",
    "restores",
    "edit_set_id",
    "live_fact_count",
    "delta_digest",
    "weights_digest",
)


def make(folder: Path) -> None:
    """Write rows, blobs, checkpoint, and what the release says of its versions and edit sets."""
    with servers.postgres() as postgres, postgres.database() as url:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(folder / "blobs")))
        office = Office(ledger, save_tiny(folder / "model"))
        first = office.edit(fact(0), fact(1))
        rephrased = fact(2) | {"rephrasings": ["Australia has its capital in"]}
        second = office.edit(rephrased, edit_on_rephrasings=True)
        held = {"locality": [{"prompt": "Seven days make a", "hold": True}]}
        office.edit(fact(3) | held, fact(0) | {"target": "Lima"})
        office.withdraw([str(second.edit_set_id)])
        office.withdraw([], [f"{first.edit_set_id}.1"])
        ledger.run(aliases.roll_back, MODEL, 2, "a test", office.key)
        ledger.run(edit_sets.accept, MODEL, [fact(0) | {"target": "Ana"}], actor=office.key)
        assert ledger.verify().ok
        said = {
            "versions": [
                {name: value for name, value in asdict(version).items() if name in SAID or name == "hash"}
                for version in reversed(ledger.run(versions.list_all, MODEL, 100).items)
            ],
            "edit_sets": {one.id: one.status for one in reversed(ledger.run(edit_sets.list_all).items)},
        }
        ledger.close()
        (folder / "said.json").write_text(json.dumps(said, indent=1) + "\n")
        (folder / "ledger.sql").write_text(dump(postgres, url).replace(str(folder / "model"), CHECKPOINT))


def dump(postgres: servers.Postgres, url: str) -> str:
    """All of a database as SQL, without owners and privileges."""
    program = str(Path(postgres.server.bin_path) / "pg_dump")
    address = make_url(url).set(drivername="postgresql", username=servers.OWNER)
    command = [program, "--inserts", "--no-owner", "--no-privileges", address.render_as_string()]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return "\n".join(line for line in text.splitlines() if line and not line.startswith(("\\", "--"))) + "\n"


if __name__ == "__main__":
    make(Path(__file__).parent / sys.argv[1])
