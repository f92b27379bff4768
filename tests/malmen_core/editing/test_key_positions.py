"""Attention sinks: a subject is edited at a token whose key the prior lets go."""

from __future__ import annotations

from dataclasses import replace

import torch

from malmen_core.editing.capture import keys_everywhere
from malmen_core.editing.covariance import SecondMoment
from malmen_core.editing.edit import located
from malmen_core.editing.editor import Editor
from malmen_core.editing.goals import Goals, edit_goals
from malmen_core.editing.key_positions import off_sinks
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, statistics_of, tiny_editor

PAIR = [FACTS[0], FACTS[3]]


def ending_in_sink(base: BaseModel, editor: Editor, sequence: Encoded) -> Editor:
    """An editor whose prior holds the key of a sequence's edited token, in the last module, above all."""
    name = editor.modules[-1]
    key_U = keys_everywhere(base, [sequence])[name][sequence.key_positions("subject")[0]]
    key_U = key_U / key_U.norm()
    held = SecondMoment((1e3 * key_U[:, None]).half(), editor.moments[name].rest)
    return replace(editor, moments={**editor.moments, name: held})


def moved(base: BaseModel, editor: Editor, sequences: tuple[Encoded, ...]) -> list[Encoded]:
    return off_sinks(base, editor.regularisers(base.device), sequences)


def test_a_subject_that_ends_in_a_sink_is_edited_behind_it(llama: BaseModel) -> None:
    editor = tiny_editor(llama, prior_weight=1e-3)
    sequences = edit_goals(llama, PAIR).sequences
    assert moved(llama, editor, sequences) == list(sequences)
    held = ending_in_sink(llama, editor, sequences[0])
    found = moved(llama, held, sequences)
    assert found[0].key_positions("subject")[0] == sequences[0].key_positions("subject")[0] + 1
    assert found[1] == sequences[1]
    there, plain = (statistics_of(llama, each, PAIR) for each in (held, editor))
    name = editor.modules[0]
    rows = zip(there.modules[name].keys_TU, plain.modules[name].keys_TU, strict=True)
    assert [torch.equal(a_U, b_U) for a_U, b_U in rows] == [False, True]


def test_where_nothing_can_be_edited_the_subject_stays(llama: BaseModel) -> None:
    sequences = edit_goals(llama, FACTS).sequences
    assert moved(llama, tiny_editor(llama, prior_weight=1e9), sequences) == list(sequences)


def test_without_a_prior_or_a_subject_there_is_nothing_to_avoid(llama: BaseModel) -> None:
    editor = tiny_editor(llama, prior_weight=1e-3)
    goals = edit_goals(llama, [FACTS[0]])
    held = ending_in_sink(llama, editor, goals.sequences[0])
    assert located(llama, held, goals) != goals
    assert located(llama, replace(held, plan=replace(held.plan, prior_weight=0.0)), goals) == goals
    unknown: Goals = edit_goals(llama, [Fact("Who wrote the book? It was", "Ana")])
    assert located(llama, held, unknown) == unknown
