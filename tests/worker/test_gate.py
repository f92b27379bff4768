from __future__ import annotations

import math

from worker.gate import GateMiss, finite, judge

GATE = {"edit_success": 0.9, "locality": 0.8, "perplexity_ratio": 1.1}


def test_thresholds_are_met_at_equality() -> None:
    assert judge({"edit_success": 0.9, "locality": 0.8, "perplexity_ratio": 1.1}, GATE) == ()


def test_each_miss_is_named_with_what_was_measured() -> None:
    misses = judge({"edit_success": 0.5, "locality": 0.9, "perplexity_ratio": 1.2}, GATE)
    assert misses == (GateMiss("edit_success", 0.9, 0.5), GateMiss("perplexity_ratio", 1.1, 1.2))


def test_what_did_not_apply_is_passed_over_but_what_was_not_measured_misses() -> None:
    assert judge({"edit_success": 1.0, "locality": None, "perplexity_ratio": 1.0}, GATE) == ()
    assert judge({"edit_success": 1.0, "locality": None}, GATE) == (GateMiss("perplexity_ratio", 1.1, None),)


def test_a_measure_that_is_not_finite_misses() -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert judge({"perplexity_ratio": value}, {"perplexity_ratio": 1.1}) == (
            GateMiss("perplexity_ratio", 1.1, None),
        )


def test_finite_makes_json() -> None:
    assert finite({"a": math.nan, "b": (1, math.inf, "x"), 3: {"c": 0.5}}) == {
        "a": None,
        "b": [1, None, "x"],
        "3": {"c": 0.5},
    }
