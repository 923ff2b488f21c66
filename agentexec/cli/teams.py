"""`--team FILE`: a team as data, from where settings come, never from where code in a sandbox can write."""

from __future__ import annotations

from pathlib import Path

from agentexec.errors import SettingsError
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
    path = Path(name)
    if workspace is not None and path.resolve().is_relative_to(workspace.resolve()):
        raise SettingsError(f"--team {name} lies in the workspace, where code can write; put it somewhere else")
    return load_team(path)
