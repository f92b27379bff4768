from __future__ import annotations

import pytest

from broker.settings import BrokerSettings


def test_every_setting_is_described_and_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(field.description for field in BrokerSettings.model_fields.values())
    monkeypatch.setenv("ERRATA_GENERATION_QUEUE_LIMIT", "7")
    assert BrokerSettings().generation_queue_limit == 7
