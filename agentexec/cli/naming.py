"""The names of commands, and what is told to somebody who typed something else in their place."""

from __future__ import annotations

import os
import shlex
from typing import Any

from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands of `agentexec`; a program's file in place of one is told how it is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names."""
        if args and self.get_command(ctx, args[0]) is None and os.path.isfile(args[0]):
            ctx.fail(f"No such command {args[0]!r}. To run this file, type 'agentexec run {shlex.quote(args[0])}'.")
        return super().resolve_command(ctx, args)
