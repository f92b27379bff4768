"""Balance: a sum gives, on average, what its sets gave alone."""

from __future__ import annotations

import pytest
import torch

from malmen_core.editing.balance import LARGEST_GAIN, balanced, gain
from malmen_core.editing.parts import Part, SetId
from malmen_core.editing.refinement import RefinementPlan
from malmen_core.editing.statistics import Statistics
from malmen_core.editing.systems import systems_of
from malmen_core.models.base import BaseModel
from tests.malmen_core.support import random_statistics, tiny_editor

STRONGER = RefinementPlan(margin=0.5, lone_margin=40.0)


@pytest.mark.parametrize("plan", [RefinementPlan(lone_margin=0.0), STRONGER], ids=["as kept", "stronger"])
@pytest.mark.parametrize("facts", [2, 40], ids=["dual", "primal"])
def test_a_balanced_sum_gives_what_its_sets_gave(llama: BaseModel, facts: int, plan: RefinementPlan) -> None:
    editor = tiny_editor(llama, prior_weight=20.0)
    sets = [random_statistics(seed, editor.network.shapes, facts) for seed in range(3)]
    parts: dict[SetId, Part] = {(f"{i}", ()): Part.of(editor, s, False) for i, s in enumerate(sets)}
    whole = balanced(parts, systems_of(Statistics.sum(sets).modules, editor.regularisers), plan)
    own, strength = plan.strength(facts), plan.strength(3 * facts)
    for name, system in whole.systems.items():
        keys_TU = torch.cat([p.modules[name].keys_TU for p in parts.values()]).double()
        alone_TV = torch.cat([p.modules[name].alone_TV for p in parts.values()])
        along = float((keys_TU @ system.shift_UV * alone_TV).sum() / alone_TV.square().sum())
        assert 1 < whole.gains[name] / strength < LARGEST_GAIN
        assert along == pytest.approx(strength)
        for ident, part in whole.parts.items():
            differences_TV = parts[ident].modules[name].differences_TV
            torch.testing.assert_close(part.modules[name].differences_TV, whole.gains[name] * differences_TV)
            held_TV = part.modules[name].alone_TV  # by repair
            torch.testing.assert_close(held_TV, own * parts[ident].modules[name].alone_TV)
        torch.testing.assert_close(
            system.change(None).dense(torch.float64), system.shift_UV, rtol=1e-5, atol=1e-6
        )


def test_one_set_gives_what_it_gave_at_its_strength(llama: BaseModel) -> None:
    editor = tiny_editor(llama)
    statistics = random_statistics(0, editor.network.shapes)
    systems = systems_of(statistics.modules, editor.regularisers)
    whole = balanced({("a", ()): Part.of(editor, statistics, False)}, systems, STRONGER)
    strength = STRONGER.strength(statistics.fact_count)
    assert set(whole.gains.values()) == {strength} != {1.0}
    for name, system in systems.items():
        given_TV = whole.parts[("a", ())].modules[name].keys_TU.double() @ (strength * system.shift_UV)
        torch.testing.assert_close(whole.systems[name].shift_UV, strength * system.shift_UV)
        torch.testing.assert_close(whole.parts[("a", ())].modules[name].alone_TV, given_TV)


def test_a_gain_is_bounded() -> None:
    wanted = torch.ones(2, 3)
    assert gain(wanted, wanted / 2) == 2.0
    assert gain(wanted, wanted * 3) == 1.0
    assert gain(wanted, wanted / 100) == gain(wanted, -wanted) == LARGEST_GAIN
    assert gain(torch.zeros(2, 3), wanted) == 1.0
