"""The models of a run, as settings name them: one for all, or one of its own for an agent."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentexec.cli.options import USAGE, fail
from agentexec.errors import ModelError, SettingsError
from agentexec.models import Model, make_model
from agentexec.settings import Settings

Role = Literal["planner", "coder", "reviewer"]


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who speaks.

    Attributes:
        model: For every agent that has no model of its own.
        models: Agents' own.
    """

    model: Model
    models: dict[Role, Model]

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
    made: dict[str, Model] = {}
    for name in dict.fromkeys(given):
        made[name] = _make(name, settings)
    if record is not None:
        made = _recorded(made, record)
    return Speakers(
        made[settings.model or given[0]], {role: made[name] for role, name in named.items() if name is not None}
    )


def _make(name: str, settings: Settings) -> Model:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    try:
        return make_model(
            name,
            base_url=settings.base_url,
            api_key=key,
            timeout=settings.model_timeout,
            images=settings.images,
            context_window=settings.context_window,
        )
    except (SettingsError, ModelError) as error:
        fail(str(error), USAGE)


def _recorded(models: dict[str, Model], record: str) -> dict[str, Model]:
    from agentexec.models import RecordingModel

    try:
        Path(record).touch()
    except OSError as error:
        fail(f"--record {record}: {error.strerror}", USAGE)
    recorders: dict[str, RecordingModel] = {}
    for name, model in models.items():
        recorders[name] = RecordingModel(model, next(iter(recorders.values()), None) or record)
    return dict(recorders)
