"""`agentexec config`: what is set, where that was done, and whether it makes sense."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_origin

from agentexec.cli.options import LIMIT_FIELDS, USAGE, fail, place_of
from agentexec.cli.output import say, write_stdout
from agentexec.defaults import MAX_TURNS
from agentexec.errors import SettingsError
from agentexec.settings import FILE_NAME, Settings, Sourced, explain_settings, load_settings, unknown_variables
from agentexec.visible import visible
from sandboxes.registry import executor_names
from sandboxes.types import Limits

_SIZES = frozenset({"memory", "disk", "file_size", "output"})
_SHORT = {"-m": "--model", "-s": "--sandbox"}


def config_command(arguments: Sequence[str], workspace: str | None, *, json: bool) -> int:
    """Print every setting with its source, and return the exit status of the command.

    Args:
        arguments: Flags of `run` and `solve`, as they were typed.
        workspace: The directory that code would work in.
        json: Whether stdout is one JSON object.
    """
    flags = read_flags(arguments)
    place = None if workspace is None else Path(workspace)
    try:
        settings = [_in_force(each) for each in explain_settings(flags, workspace=place)]
        values = load_settings(flags, workspace=place)
    except SettingsError as error:
        fail(str(error), USAGE)
    place_of(values.model_dump())  # limits that make no sense together
    status = _check(values)
    write_stdout(_as_json(settings) if json else _as_table(settings))
    file = Path(FILE_NAME)
    if place is not None and file.exists() and file.resolve().is_relative_to(place.resolve()):
        say(f"{file.resolve()} is not read: it lies in the workspace, where code can write to it")
    return status


def _in_force(setting: Sourced) -> Sourced:
    """Put what holds where nothing is set in place of None."""
    if setting.value is not None:
        return setting
    value: object = None
    if setting.name == "network":
        value = "on" if Limits().network else "off"
    elif setting.name in LIMIT_FIELDS:
        value = getattr(Limits(), LIMIT_FIELDS[setting.name])
    elif setting.name == "isolation":
        value = "auto"
    elif setting.name == "max_turns":
        value = MAX_TURNS
    return replace(setting, value=value)


def _check(settings: Settings) -> int:
    """Say what is probably not meant; return the exit status for that."""
    status = 0
    for name in unknown_variables():
        say(f"{name} is set, but there is no such setting")
        status = USAGE
    name = settings.sandbox.partition(":")[0]
    if name not in executor_names():
        say(f"sandbox: no executor is called {name!r}; known are {', '.join(executor_names())}")
        status = USAGE
    return status


def read_flags(arguments: Sequence[str]) -> dict[str, object]:
    """Read flags that are settings; ends the command with status 2 at anything else.

    By the settings alone, so that a flag for a new one is known here too.
    """
    flags: dict[str, object] = {}
    rest = list(arguments)
    while rest:
        given, equals, value = rest.pop(0).partition("=")
        flag = _SHORT.get(given, given)
        name = flag.removeprefix("--").replace("-", "_")
        negated = name.removeprefix("no_")
        if not flag.startswith("--") or not {name, negated} & Settings.model_fields.keys():
            fail(f"{given} is no setting; there are {', '.join(sorted(map(_flag, Settings.model_fields)))}", USAGE)
        if name not in Settings.model_fields:
            flags[negated] = False
        elif _is_switch(name):
            flags[name] = True
        elif equals or rest:
            flags[name] = value if equals else rest.pop(0)
        else:
            fail(f"{given} needs a value", USAGE)
    return flags


def _flag(name: str) -> str:
    return ("--no-" if Settings.model_fields[name].default is True else "--") + name.replace("_", "-")


def _is_switch(name: str) -> bool:
    annotation = Settings.model_fields[name].annotation
    return annotation is bool or (get_origin(annotation) is not None and bool in get_args(annotation))


def _as_json(settings: Sequence[Sourced]) -> str:
    return json_module.dumps(
        {each.name: {"value": each.value, "source": each.source, "where": each.where or None} for each in settings},
        indent=2,
    )


def _as_table(settings: Sequence[Sourced]) -> str:
    rows = [(each.name, _shown(each), visible(each.where or each.source, keep="")) for each in settings]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{wide[0]}}  {value:<{wide[1]}}  {where}" for name, value, where in rows)


def _shown(setting: Sourced) -> str:
    value = setting.value
    if value is None:
        return "-"
    if isinstance(value, int) and setting.name in _SIZES:
        return _as_size(value)
    return visible(str(value).lower() if isinstance(value, bool) else str(value), keep="")


def _as_size(number: int) -> str:
    """Write bytes as flags take them, such as `512M`, where that is exact."""
    for unit in ("", "k", "M", "G"):
        if number < 1024 or number % 1024:
            return f"{number}{unit}"
        number //= 1024
    return f"{number}T"
