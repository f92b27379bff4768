"""Sinks: a subject is edited at a token whose value the prior lets go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing import key_positions as sinks
from malmen_core.editing.capture import keys_everywhere
from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.edit import compute_statistics
from malmen_core.editing.editor import Editor
from malmen_core.editing.gauss_newton import Goal, least_change
from malmen_core.editing.key_positions import off_sinks
from malmen_core.editing.prompts import edit_prompts
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, tiny_editor

HELD = 1e6


def ending_in_sink(base: BaseModel, editor: Editor, sequence: Encoded) -> Editor:
    """An editor whose prior holds the key of a sequence's edited token, in the last module, above all."""
    name = editor.modules[-1]
    key_U = keys_everywhere(base, [sequence])[name][sequence.key_positions("subject")[0]]
    key_U = key_U / key_U.norm()
    held = SecondMoment((HELD**0.5 * key_U[:, None]).half(), editor.moments[name].rest)
    return replace(editor, moments={**editor.moments, name: held})


def test_a_subject_that_ends_in_a_sink_is_edited_behind_it(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [FACTS[0], FACTS[3]]
    editor = tiny_editor(llama, prior_weight=1e-3)
    sequences = edit_prompts(llama, facts).sequences
    assert off_sinks(llama, editor, sequences) == sequences
    held = ending_in_sink(llama, editor, sequences[0])
    moved = off_sinks(llama, held, sequences)
    assert moved[0].key_positions("subject")[0] == sequences[0].key_positions("subject")[0] + 1
    assert moved[1] == sequences[1]
    monkeypatch.setattr(sinks, "AT_ONCE", 1)
    assert off_sinks(llama, held, sequences) == moved

    found = compute_statistics(llama, held, facts)
    there = compute_statistics(llama, editor, facts)
    name = editor.modules[0]
    rows = zip(found.modules[name].keys_TU, there.modules[name].keys_TU, strict=True)
    assert [torch.equal(a_U, b_U) for a_U, b_U in rows] == [False, True]


def test_repair_moves_a_fact_where_it_was_edited(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tiny_editor(llama, rounds=1, margin=50.0, prior_weight=1e-3)
    sequences = edit_prompts(llama, [FACTS[0]]).sequences
    held = ending_in_sink(llama, editor, sequences[0])
    pushed: list[Encoded] = []

    def spy(base: BaseModel, goal: Goal, rows: Any, asked: Sequence[Encoded], *rest: Any) -> Any:
        pushed.extend(asked)
        return least_change(base, goal, rows, asked, *rest)

    monkeypatch.setattr("malmen_core.editing.repair.least_change", spy)
    compute_statistics(llama, held, [FACTS[0]])
    assert set(pushed) == set(off_sinks(llama, held, sequences)) != set(sequences)


def test_where_nothing_can_be_edited_the_subject_stays(llama: BaseModel) -> None:
    sequences = edit_prompts(llama, FACTS).sequences
    editor = tiny_editor(llama, prior_weight=1e9)
    assert off_sinks(llama, editor, sequences) == sequences


def test_without_a_prior_or_a_subject_there_is_nothing_to_avoid(llama: BaseModel) -> None:
    editor = tiny_editor(llama, prior_weight=1e-3)
    sequences = edit_prompts(llama, [FACTS[0]]).sequences
    held = ending_in_sink(llama, editor, sequences[0])
    plain = replace(held, plan=replace(held.plan, prior_weight=0.0))
    assert off_sinks(llama, plain, sequences) == sequences
    unknown = edit_prompts(llama, [Fact("Who wrote the book? It was", "Ana")]).sequences
    assert off_sinks(llama, held, unknown) == unknown
