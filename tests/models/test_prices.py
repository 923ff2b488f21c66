from __future__ import annotations

import socket
from decimal import Decimal

import pytest

from agentexec.models import Usage
from agentexec.models.prices import cost_of

USAGE = Usage(input_tokens=1_000_000, output_tokens=100_000)


def test_known_model_has_a_price() -> None:
    assert cost_of("gpt-4o", USAGE) == Decimal("3.5")


def test_cached_tokens_cost_less() -> None:
    cached = USAGE.model_copy(update={"cached_tokens": 900_000})
    less, full = cost_of("gpt-4o", cached), cost_of("gpt-4o", USAGE)
    assert less is not None
    assert full is not None
    assert 0 < less < full


def test_gateway_names_are_understood() -> None:
    assert cost_of("openai/gpt-4o", USAGE, base_url="http://localhost:4000/v1") == Decimal("3.5")


@pytest.mark.parametrize("model", ["my-own-model", "llama-3.1-8b", "openai/gpt-oss-20b", ""])
def test_unknown_is_none_and_not_zero(model: str) -> None:
    assert cost_of(model, USAGE, base_url="http://localhost:8000/v1") is None


def test_no_usage_no_price() -> None:
    assert cost_of("gpt-4o", None) is None


def test_prices_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket, "socket", refuse)
    assert cost_of("gpt-4o", USAGE) is not None
