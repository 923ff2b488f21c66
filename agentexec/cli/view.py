"""What a person sees of a run: a listener of its events. Plain lines here; `live.py` has the terminal's view.

Whatever came out of a sandbox or a model is shown with its control characters written out.
"""

from __future__ import annotations

import abc
import codecs
import os
from collections.abc import Iterator
from decimal import Decimal
from types import TracebackType
from typing import Self, TextIO

from agentexec.events import (
    Answer,
    BlockFinished,
    BlockOutput,
    BlockRefused,
    BlockStarted,
    ContextTrimmed,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    ModelRetried,
    PlanUpdated,
    QuestionAnswered,
    QuestionAsked,
    RunFinished,
    RunResumed,
    RunStarted,
    StateRestored,
    WorkspaceNotSaved,
)
from agentexec.models import REPLAY_PREFIX
from agentexec.models.base import Usage
from agentexec.visible import visible
from sandboxes.types import CodeBlock, Result, Stream

SHOWN_BYTES = 8 << 10
"""How much of one block's output is shown; a flood would only scroll away what matters."""


class View(abc.ABC):
    """A listener of events that shows them; a context manager, since a terminal must be put back in order."""

    def __init__(self) -> None:
        self._totals = Totals()

    @abc.abstractmethod
    def __call__(self, event: Event) -> None:
        """Show an event."""

    def count(self, event: Event) -> None:
        """Count an event of a resumed run that was shown earlier."""
        self._totals.add(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""


def make_view(target: TextIO) -> View:
    """Return the live view for a terminal, and plain lines for anything else."""
    if target.isatty() and os.environ.get("TERM", "") not in ("dumb", ""):
        from agentexec.cli.live import LiveView

        return LiveView(target)
    return PlainView(target)


class PlainView(View):
    """One line per thing that happens, for logs, pipes and simple terminals."""

    def __init__(self, target: TextIO) -> None:
        super().__init__()
        self._target = target
        self._output = BlockText()

    def __call__(self, event: Event) -> None:
        """Write an event's lines."""
        self._totals.add(event)
        for line in self._lines(event):
            self._target.write(line + "\n")
        self._target.flush()

    def _lines(self, event: Event) -> Iterator[str]:
        if isinstance(event, RunStarted):
            sandbox = visible(event.executor, keep="")
            yield f"run {event.run_id}: {describe_model(event.model)}, sandbox {sandbox}"
        elif isinstance(event, MessageAdded):
            if is_model_message(event.message):
                yield f"[{event.message.turn}] {event.message.sender}:"
                yield from _indented(event.message.content)
        elif isinstance(event, ModelRetried):
            yield f"{event.agent}: {describe_retry(event)}"
        elif isinstance(event, ContextTrimmed):
            yield f"{event.agent}: {describe_trim(event)}"
        elif isinstance(event, BlockStarted):
            self._output = BlockText()
            yield f"[{event.turn}] running {describe_block(event.block)}"
        elif isinstance(event, BlockOutput):
            yield from ("  | " + line for line in self._output.feed(event.stream, event.data))
        elif isinstance(event, BlockFinished):
            yield from ("  | " + line for line in self._output.finish())
            yield f"[{event.turn}] {describe_result(event.result)}"
        elif isinstance(event, BlockRefused):
            yield f"[{event.turn}] not run: {visible(event.reason, keep='')}"
        elif isinstance(event, QuestionAsked):
            block = event.question.block
            if block is not None:  # a plan, or a message to answer, has been shown already
                yield from _indented(block.code)
        elif isinstance(event, QuestionAnswered):
            yield f"{event.id}: {describe_answer(event.answer)}"
        elif isinstance(event, StateRestored):
            yield describe_restored(event)
        elif isinstance(event, WorkspaceNotSaved):
            yield describe_not_saved(event)
        elif isinstance(event, RunResumed):
            yield "resumed"
        elif isinstance(event, PlanUpdated):
            yield from ("  " + line for line in describe_plan(event))
        elif isinstance(event, RunFinished):
            yield f"{event.status.replace('_', ' ')}: {self._totals}"


class Totals:
    """What a run has used so far; its text is for people."""

    def __init__(self) -> None:
        self.turns = 0
        self.blocks = 0
        self.usage = Usage()
        self.cost = Decimal(0)
        self._calls = 0
        self._uncounted = False
        self._unpriced = False
        self._replayed = False

    def add(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, RunStarted):
            self._replayed = event.model.startswith(REPLAY_PREFIX)
        elif isinstance(event, MessageAdded):
            self.turns += event.message.sender != "task"
        elif isinstance(event, BlockFinished):
            self.blocks += 1
        elif isinstance(event, ModelCalled):
            self._calls += 1
            if event.usage is None:
                self._uncounted = True
            else:
                self.usage += event.usage
            if event.cost is None:
                self._unpriced = True
            else:
                self.cost += event.cost

    @property
    def short(self) -> str:
        """Turns, tokens and cost in a few words."""
        tokens = "? tokens" if self._uncounted else f"{self.usage.total_tokens:,} tokens"
        return f"{_count(self.turns, 'turn')} · {tokens} · {self._price}"

    @property
    def _price(self) -> str:
        return "cost unknown" if self._unpriced else f"${self.cost:.4f}"

    def __str__(self) -> str:
        parts = [_count(self.turns, "turn"), _count(self.blocks, "block")]
        if self._calls:
            tokens = f"{self.usage.input_tokens:,} tokens in, {self.usage.output_tokens:,} out"
            tokens = "tokens unknown" if self._uncounted else tokens
            parts.append(f"when recorded: {tokens}" if self._replayed else tokens)
            parts.append(self._price)
        return " · ".join(parts)


class BlockText:
    """A block's output as lines that are safe to show, as far as they are shown."""

    def __init__(self, shown_bytes: int = SHOWN_BYTES) -> None:
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in ("stdout", "stderr")}
        self._open: dict[str, str] = {"stdout": "", "stderr": ""}
        self._left = shown_bytes
        self.hidden = 0

    def feed(self, stream: Stream, data: bytes) -> list[str]:
        """Take a piece of output and return the lines that it completes."""
        shown = data[: self._left]
        self._left -= len(shown)
        self.hidden += len(data) - len(shown)
        if not shown:
            return []
        text = self._open[stream] + self._decoders[stream].decode(shown)
        *lines, self._open[stream] = text.split("\n")
        return [visible(line) for line in lines]

    def finish(self) -> list[str]:
        """Return what did not end in a line break, and how much was not shown."""
        rest = [visible(line) for line in self._open.values() if line]
        if self.hidden:
            rest.append(f"… {self.hidden:,} bytes more, not shown")
        return rest


def describe_model(name: str) -> str:
    """Return a model's name; a recorded run is always called one."""
    shown = visible(name, keep="")
    if name.startswith(REPLAY_PREFIX):
        return f"replayed model (recorded run {shown.removeprefix(REPLAY_PREFIX)})"
    return f"model {shown}"


def describe_block(block: CodeBlock) -> str:
    """Return a block's language and, if it has one, file name."""
    name = "" if block.filename is None else f" {visible(block.filename, keep='')}"
    return f"{visible(block.language, keep='')}{name}"


def describe_result(result: Result) -> str:
    """Return a verdict with what explains it."""
    parts: list[str] = [result.verdict]
    if result.verdict == "failed" and result.exit_code is not None:
        parts.append(f"exit status {result.exit_code}")
    if result.verdict != "ok" and result.message:
        parts.append(visible(result.message, keep=""))
    parts.append(f"{result.duration:.2f} s")
    if result.files:
        names = ", ".join(visible(file.path, keep="") for file in result.files[:5])
        more = len(result.files) - 5
        parts.append(f"wrote {names}" + (f" and {more} more" if more > 0 else ""))
    return " · ".join(parts)


def describe_answer(answer: Answer) -> str:
    """Return a person's decision, and its text in one line."""
    words = [answer.decision, *(["always"] if answer.always else [])]
    if answer.text and answer.decision in ("reject", "answer"):
        words.append(f"({visible(answer.text, keep='')[:200]})")
    return " ".join(words)


def describe_restored(event: StateRestored) -> str:
    """Return how a kernel got its state back."""
    times = "1 block was" if event.blocks == 1 else f"{event.blocks} blocks were"
    failed = f"; {event.failed} of them failed this time" if event.failed else ""
    return f"the kernel has its state again: {times} run once more{failed}"


def describe_not_saved(event: WorkspaceNotSaved) -> str:
    """Return what it means that the workspace was not saved."""
    return f"the workspace was not saved, so that no branch can begin with it: {visible(event.reason, keep='')}"


def describe_plan(event: PlanUpdated) -> list[str]:
    """Return a plan as a checked list, a step a line; nothing for a new one, which has just been shown."""
    if not any(step.done for step in event.steps):
        return []
    return [f"[{'x' if step.done else ' '}] {visible(step.text, keep='')[:200]}" for step in event.steps]


def describe_retry(event: ModelRetried) -> str:
    """Return why a call is tried again, and when."""
    return f"{visible(event.reason, keep='')}; trying again in {event.delay:.1f} s"


def describe_trim(event: ContextTrimmed) -> str:
    """Return what was cut from what a model is sent."""
    return (
        f"conversation trimmed for the model, from about {event.tokens_before:,} to {event.tokens_after:,} tokens "
        f"({event.shortened} messages shortened, {event.dropped} left out)"
    )


def is_model_message(message: Message) -> bool:
    """Whether a message was written by a model (the task and the executor's reports are not)."""
    return message.sender not in ("task", "executor")


def _indented(text: str) -> Iterator[str]:
    return ("    " + line for line in visible(text).split("\n"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
