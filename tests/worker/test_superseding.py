from __future__ import annotations

from ledger.records import Member
from worker.superseding import Prompts, supersede

STORED = {"a": ["The capital of Peru is", "Water boils at"], "b": ["Seven days make"]}


def test_older_facts_that_are_asked_again_are_left_out() -> None:
    members = (Member("a", "sha256:1", (1,)), Member("b", "sha256:2"))
    asked = ["the  capital of PERU is", "Another"]
    assert supersede(members, Prompts(STORED.__getitem__), asked) == (
        Member("a", "sha256:1", (0, 1)),
        Member("b", "sha256:2"),
    )


def test_prompts_are_read_once() -> None:
    read: list[str] = []

    def reader(edit_set_id: str) -> list[str]:
        read.append(edit_set_id)
        return STORED[edit_set_id]

    prompts = Prompts(reader)
    for _ in range(3):
        supersede((Member("a", "sha256:1"), Member("b", "sha256:2")), prompts, ["x"])
    assert read == ["a", "b"]
