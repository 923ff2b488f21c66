"""What a run reads besides its workspace: a team as data, and kept answers, never from where code in it can write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentexec.errors import SettingsError
from agentexec.models import Model
from agentexec.parts import Parts
from agentexec.team import Team
from agentexec.teamspec import TeamSpec, load_team


def read_team_file(name: str | None, workspace: Path | None) -> TeamSpec | None:
    """Return the team that a setting names; None if none does.

    Args:
        name: Path of the file.
        workspace: Directory that code works in, if it is known already.

    Raises:
        SettingsError: it cannot be read, is no team, or lies within the workspace.
    """
    if name is None:
        return None
    check_outside("--team", name, workspace)
    return load_team(name)


def team_maker(
    name: str | None, workspace: Path | None, make: Callable[[str], Model]
) -> Callable[[Parts], Team] | None:
    """Return what makes the team that a setting names of a run's parts; None if none is named.

    Args:
        name: Path of the file.
        workspace: Directory that code works in.
        make: Makes the models that the team names.

    Raises:
        SettingsError: as `read_team_file`.
    """
    spec = read_team_file(name, workspace)
    return None if spec is None else lambda parts: spec(replace(parts, make=make))


def check_outside(flag: str, name: str | None, workspace: Path | None) -> None:
    """Refuse a path that lies in the workspace.

    Raises:
        SettingsError: it does.
    """
    if name is not None and workspace is not None and Path(name).resolve().is_relative_to(workspace.resolve()):
        raise SettingsError(f"{flag} {name} lies in the workspace, where code can write; put it somewhere else")
