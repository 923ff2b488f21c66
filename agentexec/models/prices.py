"""What a call costs, by the price list that genai-prices brings along. Nothing here uses the network."""

from __future__ import annotations

from decimal import Decimal

from agentexec.models.base import Usage

_ONE_PRICE = frozenset({"anthropic", "google", "openai", "x-ai"})
"""Providers whose closed models cost the same through any gateway; open weights cost what the host asks."""


def cost_of(model: str, usage: Usage | None, *, base_url: str | None = None) -> Decimal | None:
    """Return the price of a call in USD, or None where it is not known. Never 0 for want of knowledge.

    Args:
        model: As the server named it.
        usage: Tokens; None gives None.
        base_url: The server. At a known one its own prices count; elsewhere only models that cost the
            same everywhere have a price.
    """
    if usage is None:
        return None
    # Imported here: the list takes 160 ms. Its updater (`UpdatePrices`) is a thread that we never start.
    import genai_prices

    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens) or None,
    )
    if base_url is not None:
        try:
            return genai_prices.calc_price(tokens, model, provider_api_url=base_url).total_price
        except LookupError:
            pass
    try:
        # "litellm" makes it understand gateway names such as `openai/gpt-5-mini`.
        price = genai_prices.calc_price(tokens, model, provider_id="litellm")
    except LookupError:
        return None
    if price.provider.id not in _ONE_PRICE or "oss" in price.model.id:
        return None
    return price.total_price


def window_of(model: str, base_url: str | None = None) -> int | None:
    """Return a model's context window in tokens as the price list has it, or None.

    Args:
        model: As users name it.
        base_url: The server. Elsewhere than at a known one, only models that are the same everywhere count: what
            serves open weights sets a window of its own.
    """
    import genai_prices

    nothing = genai_prices.Usage()
    if base_url is not None:
        try:
            return genai_prices.calc_price(nothing, model, provider_api_url=base_url).model.context_window
        except LookupError:
            pass
    try:
        price = genai_prices.calc_price(nothing, model, provider_id="litellm")
    except LookupError:
        return None
    return price.model.context_window if price.provider.id in _ONE_PRICE and "oss" not in price.model.id else None
