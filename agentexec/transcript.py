"""A run as text for people: lines for a terminal, or Markdown. What models and sandboxes said is made harmless."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal

from agentexec.events import (
    BlockFinished,
    BlockRefused,
    BlockStarted,
    Event,
    MessageAdded,
    ModelCalled,
    ModelRetried,
    QuestionAnswered,
    QuestionAsked,
    RunFinished,
    RunResumed,
    RunStarted,
    WorkspaceNotSaved,
)
from agentexec.markdown import quote, visible
from agentexec.store.codec import UnknownEvent
from sandboxes.types import CodeBlock, Result

WIDTH = 80
SHOWN_LINES = 40
"""Lines of output shown of one stream of one block: half from its head, half from its tail."""


def transcript_of(events: Iterable[Event], *, width: int = WIDTH, times: bool = True) -> Iterator[str]:
    """Yield a run as lines of at most `width` characters.

    Args:
        events: The log of a run, or as much of it as there is.
        width: Characters.
        times: Whether to say how long things took, which differs between runs that do the same.
    """
    for event in _calls_below(events):
        for line in _lines(event, width, times):
            yield from _folded(line, width)


def _calls_below(events: Iterable[Event]) -> Iterator[Event]:
    """Yield what a model's call took below the message that came of it, and not below the one before."""
    calls: list[ModelCalled] = []
    for event in events:
        if isinstance(event, ModelCalled):
            calls.append(event)
            continue
        below: list[ModelCalled] = []
        if isinstance(event, (MessageAdded, RunFinished, RunResumed)):
            sender = event.message.sender if isinstance(event, MessageAdded) else None
            below = [call for call in calls if call.agent == sender]
            yield from (call for call in calls if call.agent != sender)  # of one that chooses who speaks, say
            calls = []
        yield event
        yield from below
    yield from calls


def _lines(event: Event, width: int, times: bool) -> Iterator[str]:
    where = f"{visible(event.team, keep='')}: " if event.team else ""
    if isinstance(event, MessageAdded):
        message = event.message
        yield ""
        yield f"── {where}{message.turn} {visible(message.sender, keep='')} ".ljust(width, "─")
        # What the executor says repeats the results, which are shown as they are.
        if message.sender != "executor":
            yield from visible(message.content).split("\n")
            if message.cut:
                yield "[the reply was cut off at its length limit]"
    elif isinstance(event, ModelRetried):
        yield f"! {event.agent} asked again: {visible(event.reason, keep='')}"
    elif isinstance(event, ModelCalled) and times:
        yield f"  ({visible(event.agent, keep='')} · {describe_call(event)})"
    elif isinstance(event, BlockStarted):
        yield f"▷ {where}{event.turn}.{event.index + 1} {_named(event.block)}"
    elif isinstance(event, BlockFinished):
        yield from _indented(event.result.stdout)
        yield from _indented(event.result.stderr)
        yield f"▶ {where}{event.turn}.{event.index + 1} {_judgement(event.result, times)}"
        yield from (f"  wrote {visible(file.path, keep='')} ({file.size:,} bytes)" for file in event.result.files)
    elif isinstance(event, BlockRefused):
        yield f"▷ {where}{event.turn}.{event.index + 1} {_named(event.block)} was not run"
        yield f"  {visible(event.reason, keep='')}"
    elif isinstance(event, QuestionAsked):
        yield f"? {visible(event.question.text, keep='')}"
        yield from _indented(event.question.block.code if event.question.block is not None else "")
    elif isinstance(event, QuestionAnswered):
        text = f": {event.answer.text}" if event.answer.text else ""
        yield f"! {event.answer.decision}{visible(text, keep='')}"
    elif isinstance(event, WorkspaceNotSaved):
        yield f"! the workspace was not saved: {visible(event.reason, keep='')}"
    elif isinstance(event, RunResumed):
        yield f"── resumed {moment(event.time) if times else ''} ".ljust(width, "─")
    elif isinstance(event, RunFinished):
        yield ""
        yield f"── {event.status.replace('_', ' ')}: {event.stop_reason} ".ljust(width, "─")
        yield from visible(event.answer if event.answer is not None else event.message).split("\n")
    elif isinstance(event, UnknownEvent):
        yield f"· {visible(event.name, keep='')} (of a newer version)"


def markdown_of(events: Iterable[Event]) -> str:
    """Return a run as Markdown: task, messages, what came of each block, answer."""
    kept = tuple(events)
    parts = []
    for event in kept:
        parts += _markdown(event)
    return "\n\n".join(parts) + "\n"


def _markdown(event: Event) -> list[str]:
    if isinstance(event, RunStarted):
        return [
            f"# Run {event.run_id}",
            f"- began: {moment(event.time)}\n- model: {_inline(event.model)}\n- sandbox: {_inline(event.executor)}",
        ]
    if isinstance(event, MessageAdded) and event.message.sender != "executor":
        message = event.message
        return [f"## {message.turn}. {_inline(message.sender)}", visible(message.content)]
    if isinstance(event, BlockFinished):
        title = f"## {event.turn}. executor: {_inline(event.block.language)} block {event.index + 1}"
        output = [
            f"{name}:\n\n{quote(text)}"
            for name, text in (("stdout", event.result.stdout), ("stderr", event.result.stderr))
            if text
        ]
        files = [f"- wrote {_inline(file.path)} ({file.size:,} bytes)" for file in event.result.files]
        return [title, _judgement(event.result, True), *output, *(["\n".join(files)] if files else [])]
    if isinstance(event, BlockRefused):
        return [f"## {event.turn}. executor: block {event.index + 1} was not run", _inline(event.reason)]
    if isinstance(event, QuestionAnswered):
        return [f"> **{event.answer.decision}** {_inline(event.answer.text)}"]
    if isinstance(event, RunFinished):
        said = event.answer if event.answer is not None else event.message
        return [f"## {event.status.replace('_', ' ')}: {event.stop_reason}", visible(said)]
    return []


def describe_call(event: ModelCalled) -> str:
    """Return what a call of a model took."""
    usage = "tokens unknown"
    if event.usage is not None:
        usage = f"{event.usage.input_tokens:,} tokens in, {event.usage.output_tokens:,} out"
    return f"{visible(event.model, keep='')} · {usage} · {price(event.cost)} · {event.duration:.1f} s"


def price(cost: Decimal | None) -> str:
    """Return a cost for people."""
    return "cost unknown" if cost is None else f"${cost:.4f}"


def moment(seconds: float) -> str:
    """Return a time for people, in their own zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _named(block: CodeBlock) -> str:
    name = "" if block.filename is None else f" {visible(block.filename, keep='')}"
    return f"{visible(block.language, keep='')}{name}"


def _judgement(result: Result, times: bool) -> str:
    parts: list[str] = [result.verdict]
    if result.exit_code:
        parts.append(f"exit status {result.exit_code}")
    if result.signal is not None:
        parts.append(f"signal {result.signal}")
    if result.message:
        parts.append(visible(result.message, keep=""))
    if times:
        parts.append(f"{result.duration:.2f} s")
        if result.peak_memory is not None:
            parts.append(f"{result.peak_memory / 1e6:,.0f} MB")
    return " · ".join(parts)


def _indented(text: str) -> Iterator[str]:
    lines = visible(text).rstrip("\n").split("\n") if text else []
    if len(lines) > SHOWN_LINES:
        half = SHOWN_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half:,} lines more …", *lines[-half:]]
    return (f"  │ {line}" for line in lines)


def _inline(text: str) -> str:
    return visible(text, keep="").replace("`", "'").replace("<", "&lt;")


def _folded(line: str, width: int) -> Iterator[str]:
    """Yield a line in pieces that fit; prose between words, and what has no words wherever it must."""
    line = line.rstrip().expandtabs(4)
    if len(line) <= width:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip(" │"))]
    yield from textwrap.wrap(
        line,
        width,
        subsequent_indent=indent[: width // 2],
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
