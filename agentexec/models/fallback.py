"""Another model where one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from agentexec.errors import ModelError
from agentexec.models.base import (
    CallOptions,
    ChatMessage,
    Completion,
    Feature,
    Model,
    ModelRetry,
    OnRetry,
    OnText,
)


class FallbackModel(Model):
    """Asks models in order until one answers.

    A model that failed is not asked again for a while, as long as another one answers. Any `ModelError`
    counts, since a refused key or a window that is too small for one model means nothing for the next.

    Args:
        first: The model to prefer; its name is the name of the whole.
        others: The models to ask instead, in order.
        pause: Seconds for which a model that failed is left alone.
        clock: Seconds from any origin.
    """

    def __init__(
        self, first: Model, *others: Model, pause: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.models = (first, *others)
        self.name = first.name
        self.pause = pause
        self._clock = clock
        self._paused = [float("-inf")] * len(self.models)

    def __repr__(self) -> str:
        return f"FallbackModel({', '.join(map(repr, self.models))})"

    @property
    def supports(self) -> frozenset[Feature]:
        """What all of them do."""
        return frozenset.intersection(*(model.supports for model in self.models))

    @property
    def context_window(self) -> int | None:
        """The first one's: a smaller one that cannot take a conversation is passed over like any that fails."""
        return self.models[0].context_window

    @property
    def identity(self) -> str:
        return " | ".join(model.identity for model in self.models)

    @property
    def secrets(self) -> Sequence[str]:
        return tuple(secret for model in self.models for secret in model.secrets)

    def skip(self, played: Mapping[str, int]) -> None:
        for model in self.models:
            model.skip(played)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        """Answer as the first model does that can.

        Raises:
            ModelError: none could; it is the preferred one's error, and its notes tell of the others.
        """
        errors: list[tuple[Model, ModelError]] = []
        now = self._clock()
        # Those that failed lately come last: better a paused model than none.
        order = sorted(range(len(self.models)), key=lambda number: self._paused[number] > now)
        for position, number in enumerate(order):
            model = self.models[number]
            try:
                answer = await model.complete(messages, on_text=on_text, on_retry=on_retry, options=options)
            except ModelError as error:
                errors.append((model, error))
                self._paused[number] = self._clock() + self.pause
                if on_retry is not None and position + 1 < len(order):
                    instead = self.models[order[position + 1]].name
                    on_retry(ModelRetry(position + 1, 0.0, f"{model.name}: {error}; {instead} is asked instead"))
            else:
                self._paused[number] = float("-inf")
                return answer
        chosen = next(failure for model, failure in errors if model is self.models[0])
        for model, failure in errors:
            if failure is not chosen:
                chosen.add_note(f"{model.name} failed too: {failure}")
        raise chosen

    async def close(self) -> None:
        """Close all of them, also if one fails to."""
        async with contextlib.AsyncExitStack() as stack:
            for model in self.models:
                stack.push_async_callback(model.close)
