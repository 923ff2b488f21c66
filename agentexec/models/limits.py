"""Limits that several models, agents and runs share: a rate, and a budget."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal

from agentexec.errors import ModelBudgetSpent
from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Model,
    ModelWrapper,
    OnRetry,
    OnText,
    Usage,
)
from agentexec.models.tokens import count_tokens

_MINUTE = 60.0


class RateLimit:
    """Requests and tokens per minute. One object may serve any number of models, event loops and threads.

    A bucket for each that fills evenly (a token bucket), so a full minute's worth may go at once, and
    whoever asks first is served first. Tokens of a reply are known only afterwards: they are then charged to
    whoever comes next.

    Args:
        requests: Per minute; None does not limit them.
        tokens: Per minute, input and output together; None does not limit them.
        clock: Seconds from any origin.
    """

    def __init__(
        self,
        *,
        requests: float | None = None,
        tokens: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("requests", requests), ("tokens", tokens)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        self._per_minute = (requests, tokens)
        self._clock = clock
        self._lock = threading.Lock()
        self._left = [requests or 0.0, tokens or 0.0]
        self._counted_at = clock()

    def take(self, tokens: float) -> float:
        """Charge one request of so many tokens, and return the seconds to wait before it is sent."""
        return self._charge(1, tokens)

    def settle(self, requests: float, tokens: float) -> None:
        """Charge what a call took beyond what was charged for it; give back if that is negative."""
        self._charge(requests, tokens)

    def _charge(self, *amounts: float) -> float:
        with self._lock:
            now = self._clock()
            passed, self._counted_at = now - self._counted_at, now
            wait = 0.0
            for index, (rate, amount) in enumerate(zip(self._per_minute, amounts, strict=True)):
                if rate is None:
                    continue
                # What does not fit is owed: the bucket goes below zero, and the wait is until it is level.
                self._left[index] = min(rate, self._left[index] + passed * rate / _MINUTE) - amount
                wait = max(wait, -self._left[index] * _MINUTE / rate)
            return wait


class RateLimitedModel(ModelWrapper):
    """Waits before a call as long as a rate limit asks for.

    Put it inside of `RetryingModel` and around `OpenAIModel(retries=Retries(attempts=1))` where attempts
    are to be counted too.

    Args:
        model: The model that answers.
        limit: Shared by all that it limits.
    """

    def __init__(self, model: Model, limit: RateLimit) -> None:
        super().__init__(model)
        self.limit = limit

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer as the wrapped model does, when its time has come."""
        expected = float(sum(map(count_tokens, messages)))
        wait = self.limit.take(expected)
        if wait > 0:
            try:
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self.limit.settle(-1, -expected)  # nothing was sent
                raise
        answer = await super().complete(messages, on_text=on_text, on_retry=on_retry, options=options)
        if answer.cached:
            self.limit.settle(-1, -expected)
        elif answer.usage is not None:
            self.limit.settle(0, answer.usage.total_tokens - expected)
        return answer


class Budget:
    """Tokens and USD that several models, agents and runs may use together.

    Args:
        max_tokens: Input and output; None does not limit them.
        max_cost: USD; None does not limit it.

    Attributes:
        usage: Tokens used so far.
        cost: USD spent so far, as far as prices are known.
    """

    def __init__(self, *, max_tokens: int | None = None, max_cost: Decimal | float | None = None) -> None:
        self.max_tokens = max_tokens
        self.max_cost = None if max_cost is None else Decimal(str(max_cost))
        for name, value in (("max_tokens", self.max_tokens), ("max_cost", self.max_cost)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        self.usage = Usage()
        self.cost = Decimal(0)
        self._unknown = ""

    def charge(self, answer: Completion) -> None:
        """Count what a call used."""
        if answer.usage is not None:
            self.usage += answer.usage
        elif self.max_tokens is not None:
            self._unknown = f"the server of {answer.model!r} does not report tokens, so the budget cannot be kept"
        if answer.cost is not None:
            self.cost += answer.cost
        elif self.max_cost is not None:
            self._unknown = f"the price of {answer.model!r} is unknown, so the budget cannot be kept"

    def check(self) -> None:
        """Raise if there is nothing left.

        Raises:
            ModelBudgetSpent: it is used up, or what was used could not be counted.
        """
        if self._unknown:
            raise ModelBudgetSpent(self._unknown)
        if self.max_tokens is not None and self.usage.total_tokens >= self.max_tokens:
            raise ModelBudgetSpent(
                f"the budget of {self.max_tokens:,} tokens is used up ({self.usage.total_tokens:,} were used)"
            )
        if self.max_cost is not None and self.cost >= self.max_cost:
            raise ModelBudgetSpent(f"the budget of {self.max_cost} USD is used up ({self.cost} were spent)")


class BudgetedModel(ModelWrapper):
    """Answers as long as a budget lasts. Checked before each call, so the last one may go over.

    Args:
        model: The model that answers.
        budget: Shared by all that may use it.
    """

    def __init__(self, model: Model, budget: Budget) -> None:
        super().__init__(model)
        self.budget = budget

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer as the wrapped model does, if there is something left.

        Raises:
            ModelBudgetSpent: there is not.
        """
        self.budget.check()
        answer = await super().complete(messages, on_text=on_text, on_retry=on_retry, options=options)
        self.budget.charge(answer)
        return answer
