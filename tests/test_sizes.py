"""The benchmark of sizes: what it computes from shapes is what facts really take up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.sizes import computed, measured
from tests.malmen_core.support import FACTS, tiny_base, tiny_editor


def test_computed_is_measured_but_for_the_files_headers() -> None:
    base = tiny_base(dtype=torch.float32)
    facts = 25 * [fact for fact in FACTS if fact.subject is not None]
    found = measured(base, tiny_editor(base, anchors=4, facts=facts), facts)
    expected = found.pop("computed")
    assert set(found) == set(expected)
    assert found["facts"] == expected["facts"] == 100
    for name in ("statistics_bytes", "delta_bytes", "bytes_per_fact"):
        assert expected[name] == pytest.approx(found[name], rel=0.1)


def test_sizes_grow_with_the_facts_until_the_delta_is_dense() -> None:
    few, many, more = (computed(6, 1536, 576, facts, 17) for facts in (90, 100, 200))
    assert few["delta_bytes"] == 6 * 4 * 90 * (1536 + 576)
    assert many["delta_bytes"] == more["delta_bytes"] == 6 * 4 * 1536 * 576
    assert more["statistics_bytes"] == pytest.approx(2 * many["statistics_bytes"])
    assert many["statistics_bytes"] == pytest.approx(100 * 17 * 6 * 1536 * 2, rel=0.1)
