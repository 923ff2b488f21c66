"""Code as tool calls: `execute_code` beside fences.

A message holds a call as a fence like any other, so that everybody else reads, runs, stores and replays it as such;
all that is kept of the call itself is its id (`Message.calls`). The last fences of such a message are its calls. When
it goes back to the model, they become calls again, and what the executor said of each block becomes its result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from agentexec.events import Message
from agentexec.markdown import parse_fences
from agentexec.models.base import ChatMessage, Tool, ToolCall

EXECUTE_CODE = Tool(
    name="execute_code",
    description="Run code on the isolated computer. Returns what it printed, how it ended, and the files it left.",
    parameters={
        "type": "object",
        "properties": {
            "language": {"type": "string", "description": "python, bash, or another language"},
            "code": {"type": "string", "description": "The whole program, as it would stand in a file"},
            "filename": {"type": "string", "description": "Path in the workspace to keep the code as; optional"},
        },
        "required": ["language", "code"],
        "additionalProperties": False,
    },
)

_LANGUAGE = re.compile(r"[A-Za-z][\w+#.-]*")
_FILENAME = re.compile(r"[\w./ +@-]+")
_NOT_RUN = "It was not run. See the next message."
_BLOCK_TITLE = re.compile(r"## Block (\d+) of \d+ ")


class MalformedCall(ValueError):
    """A tool call that does not say what to run."""


def message_of(sender: str, text: str, calls: Sequence[ToolCall], *, cut: bool = False) -> Message:
    """Return a message that holds calls as fences after the text.

    Code that the text fences is shown there and not run as well: the calls say what runs.

    Raises:
        MalformedCall: a call is to another tool, or its arguments are not as the tool's schema has them.
    """
    fences = [_fence(call) for call in calls]
    shown = _disarm(text).rstrip() if calls else text
    return Message(
        sender=sender,
        content="\n\n".join([*([shown] if shown else []), *fences]),
        cut=cut,
        calls=tuple(call.id for call in calls),
    )


def calls_of(message: Message) -> tuple[str, tuple[ToolCall, ...]]:
    """Return a message's text without its calls, and the calls."""
    if not message.calls:
        return message.content, ()
    fences = parse_fences(message.content)[-len(message.calls) :]
    text = "\n".join(message.content.split("\n")[: fences[0].lines[0]]).rstrip()
    calls = []
    for call_id, fence in zip(message.calls, fences, strict=True):
        arguments = {"language": fence.language, "code": fence.code}
        if fence.filename is not None:
            arguments["filename"] = fence.filename
        calls.append(ToolCall(call_id, EXECUTE_CODE.name, json.dumps(arguments, ensure_ascii=False)))
    return text, tuple(calls)


def results_of(calls: Sequence[ToolCall], heard: Sequence[Message]) -> tuple[list[ChatMessage], list[Message]]:
    """Return the results of calls, and what else was heard after them.

    Args:
        calls: What the last message called.
        heard: What the others said since.
    """
    found = [(message, _sections(message.content, len(calls))) for message in heard]
    report, sections = next(((each, parts) for each, parts in found if parts), (None, [_NOT_RUN] * len(calls)))
    results = [ChatMessage("tool", section, call_id=call.id) for call, section in zip(calls, sections, strict=True)]
    rest = [message for message in heard if message is not report]
    if report is not None and report.pictures:  # results of tools are text
        rest.insert(0, report.model_copy(update={"content": "The pictures of these results."}))
    return results, rest


def _sections(report: str, count: int) -> list[str]:
    """Return what an executor's report says of each block, what else it says with the last; empty if it is none."""
    if not report.startswith("## Block 1 of "):
        return []
    lines = report.split("\n")
    quoted = {number for fence in parse_fences(report) for number in range(*fence.lines)}
    starts: list[int] = []
    for number, line in enumerate(lines):
        title = None if number in quoted else _BLOCK_TITLE.match(line)
        if title is not None and int(title[1]) == len(starts) + 1:
            starts.append(number)
    if len(starts) != count:
        return []
    return ["\n".join(lines[a:b]).strip() for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _fence(call: ToolCall) -> str:
    language, code, filename = _arguments(call)
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    name = f' filename="{filename}"' if filename else ""
    return f"{fence}{language}{name}\n{code}{'' if code.endswith(chr(10)) else chr(10)}{fence}"


def _arguments(call: ToolCall) -> tuple[str, str, str]:
    if call.name != EXECUTE_CODE.name:
        raise MalformedCall(f"it called {call.name[:80]!r}, and there is only {EXECUTE_CODE.name!r}")
    try:
        values: Any = json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"the arguments of its call are not JSON: {error}") from None
    if not isinstance(values, dict):
        raise MalformedCall("the arguments of its call are not an object")
    language = values.get("language") or "python"
    code, filename = values.get("code"), values.get("filename") or ""
    if not isinstance(code, str) or not code.strip():
        raise MalformedCall("its call holds no code")
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise MalformedCall("the language of its call is none")
    if not isinstance(filename, str) or (filename and not _FILENAME.fullmatch(filename)):
        raise MalformedCall("the file name of its call has characters that are not taken")
    return language, code, filename


def _disarm(text: str) -> str:
    """Return a text whose runnable fences are `text` fences, and whose last fence ends."""
    lines = text.split("\n")
    for fence in parse_fences(text):
        opening = lines[fence.lines[0]]
        mark = re.search("`{3,}|~{3,}", opening)
        assert mark is not None
        if fence.runnable:
            lines[fence.lines[0]] = opening[: mark.end()] + "text"
        if fence.ended_by == "text":  # else what follows would be part of it
            lines.append(mark[0])
    return "\n".join(lines)
