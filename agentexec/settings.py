"""What a user has set, merged into one frozen object: defaults < `agentexec.toml` < environment < flags.

The file is the one in the current directory. It may not set what would let a file that somebody else wrote
there send the user's key elsewhere or loosen the sandbox (`FILE_MAY_NOT_SET`), and it is not read at all
where it lies inside the workspace, since code in the sandbox can write there.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from agentexec.errors import SettingsError
from sandboxes.types import Seconds, Size

FILE_NAME = "agentexec.toml"
ENV_PREFIX = "AGENTEXEC_"
FILE_MAY_NOT_SET = frozenset({"api_key", "base_url", "cache", "isolation", "network", "store"})
_HOW_TO_WRITE = {
    "bool": "write true or false",
    "int": "write a whole number, such as 20",
    "float": "write a number, such as 2.5",
    "decimal": "write USD, such as 1.50",
    "string": 'write text in quotes, such as "local"',
}
"""By the first word of Pydantic's types of errors."""
_OPENAI_ENV = {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL"}
_file_values: ContextVar[Mapping[str, Any]] = ContextVar("file_values")

Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings. Flags have the same names, with dashes; variables are `AGENTEXEC_` and the name.

    Attributes:
        model: Model to ask, or `replay:FILE`.
        planner_model: Model of the planner, if another than `model`; likewise the next two.
        coder_model: Model of the coder.
        reviewer_model: Model of the reviewer.
        fallback_model: Model to ask where one fails.
        model_retries: How often a failed call of a model is tried again.
        requests_per_minute: To all models of a run together; None does not limit them.
        tokens_per_minute: Likewise, input and output.
        cache: Directory in which answers of models are kept, so that nothing is asked twice.
        code_mode: How the coder's model sends code: `fences`, or `tools`.
        context_window: Tokens of a model's request and reply together; None takes what the price list says.
        base_url: Server of the model (`OPENAI_BASE_URL`).
        api_key: Its key (`OPENAI_API_KEY`); masked wherever it is shown.
        model_timeout: Seconds the server may stay silent.
        images: Whether pictures that code shows are sent to the model: until the server refuses, or never.
        sandbox: Executor spec, e.g. `local`.
        image: Image of the Docker sandbox where `sandbox` names none.
        isolation: Which isolation the local sandbox must use; None leaves it to the sandbox.
        timeout: Wall-clock seconds of a block; this and the following are `Limits`, None where not set.
        cpu_time: See `Limits`.
        memory: See `Limits`.
        processes: See `Limits`.
        disk: See `Limits`.
        file_size: See `Limits`.
        open_files: See `Limits`.
        output: See `Limits`.
        network: `on` lets blocks reach the network.
        max_turns: Turns after which a run stops.
        max_tokens: Tokens after which a run stops.
        max_cost: USD after which a run stops.
        deadline: Seconds after which a run stops.
        approve: Before which blocks a person is asked: `never`, `always`, or `risky`.
        review_plan: Whether a person is asked about the plan.
        answer_timeout: Seconds that a person has for an answer; then the run stops.
        team: File with a team, which takes the place of planner, coder and reviewer; see `agentexec.teamspec`.
        plan: Whether a planner starts.
        review: Whether a reviewer judges.
        store: Directory in which runs are kept; None is the one in the user's data directory.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_ignore_empty=True, populate_by_name=True
    )

    model: str | None = None
    planner_model: str | None = None
    coder_model: str | None = None
    reviewer_model: str | None = None
    fallback_model: str | None = None
    model_retries: Annotated[int, Field(ge=0, le=100)] = 4
    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    cache: str | None = None
    code_mode: Literal["fences", "tools"] = "fences"
    context_window: Count | None = None
    base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    model_timeout: Seconds = 300.0
    images: Literal["auto", "off"] = "auto"

    sandbox: str = "local"
    image: str | None = None
    isolation: Literal["auto", "bwrap", "landlock", "none"] | None = None
    timeout: Seconds | None = None
    cpu_time: Seconds | None = None
    memory: Size | None = None
    processes: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    disk: Size | None = None
    file_size: Size | None = None
    open_files: Annotated[int, Field(ge=16, le=1 << 20)] | None = None
    output: Size | None = None
    network: Literal["off", "on"] | None = None

    max_turns: Count | None = None
    max_tokens: Count | None = None
    max_cost: Annotated[Decimal, Field(gt=0)] | None = None
    deadline: Seconds | None = None
    approve: Literal["never", "always", "risky"] = "never"
    review_plan: bool = False
    answer_timeout: Seconds = 3600.0
    team: str | None = None
    plan: bool = True
    review: bool = True
    store: str | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file; no `.env` and no secrets directory."""
        file = InitSettingsSource(settings_cls, init_kwargs=dict(_file_values.get({})))
        return init_settings, env_settings, file


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    directory: Path | None = None,
    workspace: Path | None = None,
) -> Settings:
    """Merge all sources.

    Args:
        flags: Setting to value; None counts as not given.
        directory: Where `agentexec.toml` is looked for; None is the current directory.
        workspace: Where blocks will write, if that is known already.

    Raises:
        SettingsError: a value is wrong; the message names the setting, where it was set and what it may be. Or the name
            of a variable is all but that of a setting, which without it would be weaker or dearer than was meant.
    """
    _refuse_misspelt_variables()
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    file = read_file(directory or Path(), workspace)
    token = _file_values.set(file)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem, given, file) for problem in error.errors())) from None
    finally:
        _file_values.reset(token)


@dataclass(frozen=True, slots=True)
class Sourced:
    """A setting, and where its value comes from.

    Attributes:
        name: Of the setting.
        value: For people and JSON; secrets are masked.
        source: Which kind of source won.
        where: The flag, the variable, or the path of the file; empty for a default.
    """

    name: str
    value: object
    source: Literal["default", "file", "variable", "flag"]
    where: str = ""


def explain_settings(
    flags: Mapping[str, Any] | None = None, *, directory: Path | None = None, workspace: Path | None = None
) -> list[Sourced]:
    """Merge all sources as `load_settings` does, and tell of each setting where it comes from.

    Raises:
        SettingsError: as `load_settings`.
    """
    place = directory or Path()
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    settings = load_settings(given, directory=place, workspace=workspace)
    file = read_file(place, workspace)
    variables = {name.upper(): name for name, value in os.environ.items() if value}
    explained = []
    for name, value in settings.model_dump(mode="json").items():
        shown = _masked_url(value) if name == "base_url" else value
        if name in given:
            explained.append(
                Sourced(name, shown, "flag", ("--no-" if value is False else "--") + name.replace("_", "-"))
            )
        elif _variable(name) in variables:
            explained.append(Sourced(name, shown, "variable", variables[_variable(name)]))
        elif name in file:
            explained.append(Sourced(name, shown, "file", str((place / FILE_NAME).resolve())))
        else:
            explained.append(Sourced(name, shown, "default"))
    return explained


def unknown_variables() -> list[str]:
    """Return variables that begin as ours do and set nothing: misspelt ones, most likely."""
    known = {_variable(name) for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)


def _refuse_misspelt_variables() -> None:
    for variable in unknown_variables():
        name = variable.upper().removeprefix(ENV_PREFIX).lower()
        for close in difflib.get_close_matches(name, Settings.model_fields, 1, cutoff=0.8):
            raise SettingsError(
                f"{variable} is set, but there is no such setting: did you mean {_variable(close)}? If it is not for "
                f"agentexec, type 'unset {variable}'"
            )


def _masked_url(url: str | None) -> str | None:
    """Return a URL without the password that may be in it."""
    return url and re.sub(r"(?<=://)[^/@]*@", "**********@", url)


def read_file(directory: Path, workspace: Path | None = None) -> dict[str, Any]:
    """Return what `agentexec.toml` in a directory sets; nothing if code in the sandbox could have written it.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or sets what a file may not set.
    """
    path = directory / FILE_NAME
    try:
        if workspace is not None and path.resolve().is_relative_to(workspace.resolve()):
            return {}
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # or the current directory is gone
        return {}
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    for name in FILE_MAY_NOT_SET & values.keys():
        instead = _variable(name)
        raise SettingsError(
            f"{path} may not set {name!r}, since a file found in a directory could send your key or your "
            f"data elsewhere or weaken the sandbox; set {instead}, or use the flag"
        )
    return values


def _variable(name: str) -> str:
    return _OPENAI_ENV.get(name, ENV_PREFIX + name.upper())


def _explain(problem: Mapping[str, Any], flags: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0])
    name = next((setting for setting, variable in _OPENAI_ENV.items() if variable == name), name)
    if name in flags:
        source = "--" + name.replace("_", "-")
    elif name not in Settings.model_fields:
        known = ", ".join(sorted(Settings.model_fields.keys() - FILE_MAY_NOT_SET))
        close = difflib.get_close_matches(name, Settings.model_fields, 1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{FILE_NAME} sets {name!r}, which is no setting{meant}; it may set {known}"
    elif os.environ.get(_variable(name)):
        source = _variable(name)
    else:
        source = FILE_NAME if name in file else "default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    kind = str(problem["type"])
    hint = _HOW_TO_WRITE.get(kind.split("_")[0], "") if kind.endswith(("_type", "_parsing", "_from_float")) else ""
    why = hint or f"{message[:1].lower()}{message[1:]}"
    return f"{source}: {name} cannot be {_shown(name, problem['input'])}: {why}"


def _shown(name: str, value: object) -> str:
    return "what it is" if name == "api_key" else repr(value)[:80]
