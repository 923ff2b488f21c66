"""What the executor agent says: what came of each block, with everything from the sandbox quoted as data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentexec.agents.pictures import Gallery
from agentexec.markdown import FINAL_ANSWER, QUOTE_CHARS, Reply, quote, visible
from agentexec.unclear import hints
from sandboxes.types import CodeBlock, Result, WorkspaceFile

LISTED_FILES = 50
"""Files named after a block; of more, the rest is counted."""

SHORT_CHARS = 500
"""Characters of a reason or a message that go into a heading line."""

RESTARTED = "The sandbox was lost and has been restarted: files in the workspace are kept, everything else is gone."

RERUN = "The run was interrupted while this block ran, so it ran again from its beginning."
EDITED = "A human edited this block before it ran. What ran:"


@dataclass(frozen=True, slots=True)
class Ran:
    """A block that was run, and anything to add to its result."""

    block: CodeBlock
    result: Result
    note: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A block that was not run, and why."""

    block: CodeBlock
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A block that was not run, since a human said instead what comes of it."""

    block: CodeBlock
    text: str


Outcome = Ran | Refused | Answered


def goes_on(outcome: Outcome) -> bool:
    """Whether the next block of the message is run after this outcome."""
    return isinstance(outcome, Ran) and outcome.result.ok


def report(
    reply: Reply, outcomes: Sequence[Outcome], *, budget: int = QUOTE_CHARS, gallery: Gallery | None = None
) -> str:
    """Return what happened as Markdown, block by block.

    Args:
        reply: The coder's message.
        outcomes: One for each block up to the first that did not end `ok`.
        budget: Characters shown of each stream of each block.
        gallery: Takes the pictures that blocks showed, of which the text says what became.
    """
    gallery = gallery or Gallery()
    total = len(reply.blocks)
    parts = [_outcome(number, total, outcome, budget, gallery) for number, outcome in enumerate(outcomes, 1)]
    for number in range(len(outcomes) + 1, total + 1):
        title = _title(number, total, reply.blocks[number - 1])
        parts.append(f"{title}: not run, since block {len(outcomes)} did not end ok")
    parts += _remarks(reply)
    if reply.claimed:
        parts.append(
            f"Your {FINAL_ANSWER[:-1]} does not count, since it came in one message with code. "
            "Look at the results first, then give it in a message without code."
        )
    return "\n\n".join(parts)


def nudge(reply: Reply, text: str = "") -> str:
    """Return what to say to a coder's message that holds neither code to run nor a final answer.

    Args:
        reply: What was read in the message.
        text: The message, for what it seems to mean.
    """
    return "\n\n".join(
        [
            *_remarks(reply),
            *hints(text, reply),
            "Nothing was run: your message held no complete block of runnable code and no final answer. "
            "Either write code in a fence that names its language, such as ```python, or, if the task is "
            f"done, end with a line that starts with {FINAL_ANSWER}",
        ]
    )


def _remarks(reply: Reply) -> list[str]:
    remarks = []
    for fence in reply.unfinished:
        why = (
            "your message was cut off at its length limit. Write less at once, such as one file per message"
            if fence.ended_by == "text"
            else "its lines are not indented like the fence, so its end is unclear. Start fences and code at "
            "the beginning of the line"
        )
        remarks.append(f"The {visible(fence.language)} block in line {fence.lines[0] + 1} was not run: {why}.")
    for name in reply.unrun_files:
        remarks.append(
            f"The fence for {_inline(name)} is not in a runnable language, so that file was not written. "
            "Write files from code."
        )
    return remarks


def _title(number: int, total: int, block: CodeBlock) -> str:
    name = f", {_inline(block.filename)}" if block.filename is not None else ""
    return f"## Block {number} of {total} ({block.language}{name})"


def _inline(text: str) -> str:
    """Return untrusted text for the middle of a line: visible, short, and without backticks."""
    shown = visible(text, keep="").replace("`", "'")
    return shown if len(shown) <= SHORT_CHARS else f"{shown[:SHORT_CHARS]} [...]"


def _outcome(number: int, total: int, outcome: Outcome, budget: int, gallery: Gallery) -> str:
    title = _title(number, total, outcome.block)
    if isinstance(outcome, Refused):
        return f"{title}: refused, not run\n\n{_inline(outcome.reason)}"
    if isinstance(outcome, Answered):
        return f"{title}: not run. A human answers instead:\n\n{visible(outcome.text)}"
    result = outcome.result
    parts = [f"{title}: {_judgement(result)}"]
    if outcome.note:
        parts.append(outcome.note)
    if result.stdout:
        parts.append(_stream("stdout", result.stdout, result.stdout_bytes, result.truncated, budget))
    if result.stderr:
        parts.append(_stream("stderr", result.stderr, result.stderr_bytes, result.truncated, budget))
    if not result.stdout and not result.stderr and not result.displays:
        parts.append("No output.")
    parts += _error(result, budget)
    parts += _displays(result, budget, gallery)
    if result.files:
        parts.append(_files(result.files))
    return "\n\n".join(parts)


def _judgement(result: Result) -> str:
    words: list[str] = [result.verdict]
    if result.exit_code is not None:
        words.append(f"exit status {result.exit_code}")
    if result.signal is not None:
        words.append(f"ended by signal {result.signal}")
    if result.message:
        words.append(_inline(result.message))
    return ", ".join(words)


def _stream(name: str, text: str, total: int, truncated: bool, budget: int) -> str:
    size = f" ({total:,} bytes in all, partly dropped)" if truncated and total > len(text) else ""
    return f"{name}{size}:\n{quote(text, budget=budget)}"


def _error(result: Result, budget: int) -> list[str]:
    if result.error is None:
        return []
    text = result.error.traceback or f"{result.error.name}: {result.error.message}"
    return [] if text in result.stderr else [f"error:\n{quote(text, budget=budget)}"]


def _displays(result: Result, budget: int, gallery: Gallery) -> list[str]:
    parts = []
    pictures = gallery.add(result)
    for display, picture in zip(result.displays[:LISTED_FILES], pictures, strict=False):
        kinds = ", ".join(_inline(kind) for kind in list(display.data)[:LISTED_FILES])
        text = display.data.get("text/plain")
        shown = f":\n{quote(text, budget=budget // 4)}" if text else ""
        parts.append(f"display ({kinds}){', ' + picture if picture else ''}{shown}")
    if len(result.displays) > LISTED_FILES:
        parts.append(f"... and {len(result.displays) - LISTED_FILES:,} more displays")
    return parts


def _files(files: Sequence[WorkspaceFile]) -> str:
    lines = [f"{visible(file.path, keep='')} ({file.size:,} bytes)" for file in files[:LISTED_FILES]]
    if len(files) > LISTED_FILES:
        lines.append(f"... and {len(files) - LISTED_FILES:,} more")
    return f"Files created or changed:\n{quote(chr(10).join(lines))}"


_HEADING = re.compile(r"^## Block \d+ of \d+ \([^\n]*\): (\w+)", re.MULTILINE)


def all_failed(text: str) -> bool:
    """Whether a report tells of no block that ended `ok`; so does a nudge, which tells of none."""
    return "ok" not in _HEADING.findall(text)
