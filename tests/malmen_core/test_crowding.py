"""Crowding: how near facts are to their neighbours, and that those in crowded places are pushed less far."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

from malmen_core.editing import repair
from malmen_core.editing.capture import Captured, capture, keys_everywhere
from malmen_core.editing.crowding import crowding
from malmen_core.editing.edit import edit
from malmen_core.editing.gauss_newton import Goal, least_change
from malmen_core.editing.group import GOAL
from malmen_core.editing.parts import Part
from malmen_core.editing.preserved import Anchors, anchored, neighbours, renumbered
from malmen_core.editing.prompts import EditPrompts, edit_prompts
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, random_statistics, tiny_editor


def test_what_arrives_at_a_neighbour_is_the_share_that_a_solution_gives_there(llama: BaseModel) -> None:
    """One row at the fact's key, no anchors: the shift at a neighbour's key over that at the fact's own."""
    editor = tiny_editor(llama)
    draw = torch.Generator().manual_seed(5)
    captured, named = {}, {}
    fact_T, fact_N = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    for name, (inputs, outputs) in editor.network.shapes.items():
        captured[name] = Captured(torch.randn(3, inputs, generator=draw), torch.zeros(3, outputs))
        named[name] = torch.randn(3, inputs, generator=draw)
    anchors = Anchors({}, torch.zeros(0, dtype=torch.int64), named, fact_N)
    found_F = crowding(captured, fact_T, 2, anchors, editor.regularisers)
    square_N = torch.zeros(3, dtype=torch.float64)
    for name, named_NU in named.items():
        keys_FU = captured[name].keys_TU[[0, 1]].double()
        for number, fact in enumerate(fact_N.tolist()):
            key_U = keys_FU[fact]
            left_U = torch.linalg.solve(
                editor.regularisers[name].matrix_UU + torch.outer(key_U, key_U), key_U
            )
            share = named_NU[number].double() @ left_U / (key_U @ left_U)
            square_N[number] += share.square() / len(named)
    expected = [float(square_N[:2].mean().sqrt()), float(square_N[2].sqrt())]
    assert found_F.tolist() == pytest.approx(expected)


def test_a_neighbour_of_the_same_key_gets_all_and_without_any_nothing_is_known(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    captured, _ = capture(llama, edit_prompts(llama, FACTS[:2]).sequences, "subject")
    named = {name: each.keys_TU[:1] for name, each in captured.items()}
    anchors = Anchors({}, torch.zeros(0, dtype=torch.int64), named, torch.tensor([0]))
    found_F = crowding(captured, torch.tensor([0, 1]), 2, anchors, editor.regularisers)
    assert found_F.tolist() == pytest.approx([1.0, 0.0])
    absent = next(iter(captured))
    captured[absent].keys_TU[0], named[absent] = 0.0, torch.zeros_like(named[absent])  # of another stack
    assert crowding(captured, torch.tensor([0, 1]), 2, anchors, editor.regularisers)[0] == pytest.approx(1.0)
    lonely = Anchors({}, anchors.fact_T, {name: each[:0] for name, each in named.items()}, anchors.fact_T)
    assert crowding(captured, torch.tensor([0, 1]), 2, lonely, {}).tolist() == [0.0, 0.0]


def test_a_number_is_looked_at_beside_others_that_hold_nothing(llama: BaseModel) -> None:
    assert renumbered("96th Academy Awards") == [f"{n}th Academy Awards" for n in (94, 95, 97, 98)]
    assert renumbered("Apollo 1") == ["Apollo 0", "Apollo 2", "Apollo 3"]
    assert renumbered("Agent 007") == [f"Agent {n}" for n in ("005", "006", "008", "009")]
    assert renumbered("Peru") == renumbered("9" * 5000) == []
    around = neighbours("The capital of Peru 7 is", "Peru 7", None, 8)
    plain = [each for each in around if each.held]
    assert [each.name for each in around[len(plain) :]] == ["Peru 5", "Peru 6", "Peru 8", "Peru 9"]
    assert around[len(plain)].prompt == "The capital of Peru 5 is"
    every, held = (anchored(llama, [[], some], 3) for some in (around, plain))
    for name, keys_TU in every.keys.items():
        torch.testing.assert_close(keys_TU.T @ keys_TU, held.keys[name].T @ held.keys[name])
        assert len(every.named[name]) == len(around) == len(held.named[name]) + 4
    assert every.fact_T.tolist() == [1] * 3
    assert every.fact_N.tolist() == [1] * len(around)


def test_neighbours_are_looked_at_where_their_names_end(llama: BaseModel) -> None:
    around = neighbours("The capital of Peru is", "Peru", None, 4)
    named = anchored(llama, [around], 3).named
    for number, each in enumerate(around):
        until = each.prompt[: each.prompt.index(each.name) + len(each.name)]
        ids = llama.tokenizer(until)["input_ids"]
        for name, keys_NU in keys_everywhere(llama, [Encoded(tuple(ids), len(ids))]).items():
            torch.testing.assert_close(named[name][number], keys_NU[-1].cpu())


@pytest.mark.parametrize("group", [32, 2])
def test_each_fact_is_brought_to_the_margin_of_its_own_neighbourhood(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """In its group, in the set, and in what is said of it."""
    own = [0.63, 0.25, 0.63, 0.25]  # 1 over the cube root of 4, and half of it over the square root
    facts = [Fact(fact.prompt, fact.target) for fact in FACTS[:4]]
    number = {each.ids: i for i, each in enumerate(edit_prompts(llama, facts).sequences)}
    asked: dict[str, list[dict[int, float]]] = {"group": [], "repair": []}
    for module in asked:

        def spy(base: BaseModel, goal: Goal, *rest: Any, told: list[dict[int, float]] = asked[module]) -> Any:
            margins = [float(each) / (GOAL if goal.whole else 1.0) for each in goal.margin_Q]
            told.append({number[each.ids]: m for each, m in zip(rest[1], margins, strict=True)})
            return least_change(base, goal, *rest)

        monkeypatch.setattr(f"malmen_core.editing.{module}.least_change", spy)
    crowdings = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr("malmen_core.editing.group.crowding", lambda *args: crowdings[: args[2]])
    editor = tiny_editor(llama, where="answer", rounds=30, margin=0.5, lone_margin=1.0)
    outcomes = edit(llama, replace(editor, plan=replace(editor.plan, group=group)), facts).outcomes
    assert all((found.margin or 0.0) >= wanted - 1e-2 for found, wanted in zip(outcomes, own, strict=True))
    assert [found.reason for found in outcomes] == [None] * 4
    assert len(asked["group"]) == {32: 1, 2: 4}[group]
    for found in (*asked["group"], *asked["repair"]):
        assert found == pytest.approx({i: own[i] for i in found}, abs=1e-2)
    assert {*chain.from_iterable(asked["repair"])} & {1, 3}


def test_repair_asks_only_for_what_a_fact_is_to_have(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    part = Part.of(editor, random_statistics(0, editor.network.shapes), edit_on_rephrasings=False)
    table = repair._Table({("a", ()): part}, torch.tensor([3.0, -3.0, 3.0]))
    sequences = edit_prompts(llama, FACTS[:3]).sequences
    still = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in editor.network.shapes.items()}
    short, known_Q = repair._short(llama, table, EditPrompts(sequences, (0, 1, 2)), still)
    assert all(-3.0 < table.margins[("a", ()), number] < 3.0 for number in range(3))
    assert short.fact_of == (0, 2)
    assert known_Q.tolist() == [table.margins[("a", ()), number] for number in (0, 2)]
