"""The models of a run, as settings name them: one for all, or one of its own for an agent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentexec.cli.options import USAGE, fail
from agentexec.errors import ModelError, SettingsError
from agentexec.models import (
    REPLAY_PREFIX,
    CachingModel,
    FallbackModel,
    Model,
    RateLimit,
    RateLimitedModel,
    RecordingModel,
    Retries,
    RetryingModel,
    make_model,
)
from agentexec.settings import Settings

Role = Literal["planner", "coder", "reviewer"]


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks.

    Attributes:
        model: For every agent that has no model of its own.
        models: Agents' own.
        make: Makes further ones by name, such as those that a team names; ends the command where that cannot be done.
    """

    model: Model
    models: dict[Role, Model]
    make: Callable[[str], Model]

    @property
    def name(self) -> str:
        """The coder's model."""
        return self.models.get("coder", self.model).name

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys of all of them."""
        return tuple(secret for model in (self.model, *self.models.values()) for secret in model.secrets)

    async def close(self) -> None:
        """Close all models."""
        async with contextlib.AsyncExitStack() as stack:
            for model in (self.model, *self.models.values()):
                stack.push_async_callback(model.close)


def make_speakers(settings: Settings, record: str | None) -> Speakers:
    """Make the models that settings name; ends the command where that cannot be done.

    Args:
        settings: Names, server, key.
        record: File to record the run in.
    """
    named: dict[Role, str | None] = {
        "planner": settings.planner_model,
        "coder": settings.coder_model,
        "reviewer": settings.reviewer_model,
    }
    given = [name for name in (settings.model, settings.coder_model, *named.values()) if name is not None]
    # Nobody needs a model for all where each agent that takes part has its own.
    needed = [role for role in named if role == "coder" or getattr(settings, "plan" if role == "planner" else "review")]
    if not given or (settings.model is None and any(named[role] is None for role in needed)):
        fail(
            "no model: give -m MODEL or set AGENTEXEC_MODEL, with OPENAI_API_KEY and, for a server of your "
            "own, OPENAI_BASE_URL; -m replay:FILE plays a recorded run",
            USAGE,
        )
    make = _Maker(settings, record)
    made = {name: make(name) for name in dict.fromkeys(given)}
    own = {role: made[name] for role, name in named.items() if name is not None}
    return Speakers(made[settings.model or given[0]], own, make)


class _Maker:
    """Makes models by name, each with what settings ask for around it: retries, rate limit, fallback, cache, recording.

    A recorded run is played back as it is: it costs nothing and fails only where it has to.
    """

    def __init__(self, settings: Settings, record: str | None) -> None:
        self._settings = settings
        rates = (settings.requests_per_minute, settings.tokens_per_minute)
        self._limit = None if rates == (None, None) else RateLimit(requests=rates[0], tokens=rates[1])
        self._record: RecordingModel | str | None = record
        if settings.cache is not None:
            try:
                Path(settings.cache).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                fail(f"--cache {settings.cache}: {error.strerror}", USAGE)
        if record is not None:
            try:
                Path(record).touch()
            except OSError as error:
                fail(f"--record {record}: {error.strerror}", USAGE)

    def __call__(self, name: str) -> Model:
        settings = self._settings
        model = self._asked(name)
        if not name.startswith(REPLAY_PREFIX):
            if settings.fallback_model is not None:
                model = FallbackModel(model, self._asked(settings.fallback_model))
            if settings.cache is not None:
                model = CachingModel(model, settings.cache)
        if self._record is not None:
            model = self._record = RecordingModel(model, self._record)
        return model

    def _asked(self, name: str) -> Model:
        settings = self._settings
        retries = Retries(attempts=settings.model_retries + 1)
        limited = self._limit is not None and not name.startswith(REPLAY_PREFIX)
        try:
            model = make_model(
                name,
                base_url=settings.base_url,
                api_key=settings.api_key.get_secret_value() if settings.api_key is not None else None,
                timeout=settings.model_timeout,
                # Where a rate is limited, each attempt has to wait for its turn.
                retries=Retries(attempts=1) if limited else retries,
                images=settings.images,
                context_window=settings.context_window,
            )
        except (SettingsError, ModelError) as error:
            fail(str(error), USAGE)
        if self._limit is None or not limited:
            return model
        return RetryingModel(RateLimitedModel(model, self._limit), retries)
