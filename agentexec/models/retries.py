"""Trying again: when, how often, and for which failures."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agentexec.errors import ModelError, ModelRateLimited
from agentexec.models.base import CallOptions, ChatMessage, Completion, Model, ModelRetry, ModelWrapper, OnRetry, OnText

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how soon a failed call is tried again.

    Attributes:
        attempts: Calls in all; 1 tries nothing again.
        first_delay: Seconds before the second attempt; doubled for each further one, with jitter.
        longest_delay: Seconds at which the doubling ends.
        longest_wait: Seconds of a server's Retry-After that are waited; a longer one ends the call.
    """

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 30.0
    longest_wait: float = 60.0

    def delay(self, attempt: int, after: float | None) -> float | None:
        """Return the seconds to wait after a failed attempt (from 1), or None to give up."""
        if attempt >= self.attempts or (after is not None and after > self.longest_wait):
            return None
        # Jitter keeps many clients from coming back at the same moment; never before the server's word.
        backoff = min(self.first_delay * 2 ** (attempt - 1), self.longest_delay)
        return after * random.uniform(1.0, 1.1) if after is not None else backoff * random.uniform(0.75, 1.25)  # noqa: S311


class RetryingModel(ModelWrapper):
    """Tries calls again that failed in passing (`ModelError.retryable`), with backoff and Retry-After.

    `OpenAIModel` does so by itself; this is for models that do not.

    Args:
        model: The model that answers.
        retries: How often and how soon.
    """

    def __init__(self, model: Model, retries: Retries | None = None) -> None:
        super().__init__(model)
        self.retries = retries or Retries()

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer as the wrapped model does, sooner or later."""
        ask = super().complete
        return await with_retries(
            lambda: ask(messages, on_text=on_text, on_retry=on_retry, options=options), self.retries, on_retry
        )


async def with_retries(call: Callable[[], Awaitable[T]], retries: Retries, on_retry: OnRetry | None) -> T:
    """Return what a call gives, trying again what fails in passing.

    Raises:
        ModelError: the last failure; its message says how often the call was tried.
    """
    attempt = 1
    while True:
        try:
            return await call()
        except ModelError as error:
            delay = retries.delay(attempt, error.retry_after) if error.retryable else None
            if delay is None:
                raise _final(error, attempt) from error.__cause__
            reason = str(error)
        if on_retry is not None:
            on_retry(ModelRetry(attempt, delay, reason))
        await asyncio.sleep(delay)
        attempt += 1


def _final(error: ModelError, attempts: int) -> ModelError:
    notes = [f"tried {attempts} times"] if attempts > 1 else []
    if error.retry_after is not None and isinstance(error, ModelRateLimited):
        notes.append(f"the server asks to wait {error.retry_after:.0f} s")
    if not notes:
        return error
    final = type(error)(f"{error} ({', '.join(notes)})")
    final.retryable, final.retry_after = error.retryable, error.retry_after
    return final
