"""Outputs that a message shows only in part are kept whole in the workspace, where the coder can read them.

They lie in `.agentexec/outputs/`, put there between blocks, so that no block's `files` lists them. What the executor
itself had to drop (`Limits.output`) is missing there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentexec.agents.report import Outcome, Ran
from agentexec.context import OLD_OUTPUT_CHARS
from sandboxes.errors import SandboxError
from sandboxes.executor import Executor

OUTPUTS = ".agentexec/outputs"
"""Directory in the workspace."""

LONG = 2 * OLD_OUTPUT_CHARS
"""Characters from which on an output may be shortened later, and is therefore kept."""


PART_OF_DISK = 64
"""An output of more than the disk limit divided by this is not kept: the room is the blocks'."""


async def keep_outputs(executor: Executor, turn: int, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Write long outputs to files, and return the outcomes with a note of where they are.

    A workspace that takes no more files costs the note, not the run.

    Args:
        executor: Where the blocks ran.
        turn: Turn of the message that holds the blocks.
        outcomes: What came of them.
    """
    return [await _keep(executor, f"{OUTPUTS}/{turn}-{index}", each) for index, each in enumerate(outcomes, 1)]


async def _keep(executor: Executor, name: str, outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Ran):
        return outcome
    result, notes = outcome.result, [outcome.note] if outcome.note else []
    if max(len(result.stdout), len(result.stderr)) <= LONG:
        return outcome
    for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if len(text) <= LONG:
            continue
        path, data = f"{name}.{stream}.txt", text.encode("utf-8", "replace")
        if len(data) > executor.limits.disk // PART_OF_DISK:
            continue
        try:
            await executor.put(path, data)
        except (SandboxError, OSError):
            continue
        what = "What was kept" if result.truncated else "All"
        notes.append(f"{what} of {stream} ({len(text):,} characters) is in {path}.")
    return replace(outcome, note="\n\n".join(notes))
