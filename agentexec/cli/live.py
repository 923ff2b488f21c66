"""The view of a run on a terminal: what has happened scrolls by, what happens now is at the bottom."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from agentexec.cli.view import (
    BlockText,
    View,
    describe_answer,
    describe_block,
    describe_model,
    describe_not_saved,
    describe_plan,
    describe_restored,
    describe_result,
    describe_retry,
    describe_trim,
    is_model_message,
)
from agentexec.events import (
    BlockFinished,
    BlockOutput,
    BlockRefused,
    BlockStarted,
    ContextTrimmed,
    Event,
    Message,
    MessageAdded,
    ModelRetried,
    ModelText,
    PlanUpdated,
    QuestionAnswered,
    QuestionAsked,
    RunFinished,
    RunResumed,
    RunStarted,
    StateRestored,
    TurnStarted,
    WorkspaceNotSaved,
)
from agentexec.markdown import parse_fences, visible
from sandboxes.languages import find_language, is_runnable

TAIL_LINES = 8
"""Lines of a growing reply that are shown while it grows."""
_VERDICT_STYLE = {"ok": "bold green"}


class LiveView(View):
    """Shows messages with their code highlighted, output as it comes, verdicts, and a running total.

    NO_COLOR is honoured (by rich). Nothing is ever read as markup.

    Args:
        target: The terminal.
    """

    def __init__(self, target: TextIO) -> None:
        super().__init__()
        self._console = Console(file=target, markup=False, highlight=False, emoji=False, soft_wrap=False)
        self._spinner = Spinner("dots")
        self._activity = "starting"
        self._growing = ""
        self._output = BlockText()
        self._label = ""
        self._began = time.monotonic()
        self._live = Live(
            get_renderable=self._now,
            console=self._console,
            refresh_per_second=10,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bottom line away and show the cursor again."""
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._totals.add(event)
        if isinstance(event, ModelText):
            self._growing = (self._growing + event.text)[-4000:]
        elif isinstance(event, BlockOutput):
            self._show_output(self._output.feed(event.stream, event.data), event.stream)
        elif isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, TurnStarted):
            verb = "is at work" if event.agent == "executor" else "is writing"
            self._activity, self._growing = f"{event.agent} {verb}", ""
        elif isinstance(event, ModelRetried):
            self._growing = ""
            self._print(Text(f"  {describe_retry(event)}", "yellow"))
        elif isinstance(event, ContextTrimmed):
            self._print(Text(f"  {describe_trim(event)}", "dim"))
        elif isinstance(event, MessageAdded):
            self._growing = ""
            if is_model_message(event.message):
                self._show_message(event.message)
        else:
            self._show_block_event(event)

    def _show_block_event(self, event: Event) -> None:
        if isinstance(event, BlockStarted):
            self._output = BlockText()
            self._activity = f"running {describe_block(event.block)}"
            self._print(Text(f"▶ {describe_block(event.block)}", "bold blue"))
        elif isinstance(event, BlockFinished):
            self._show_output(self._output.finish(), "stdout")
            style = _VERDICT_STYLE.get(event.result.verdict, "bold red")
            self._print(Text(f"■ {describe_result(event.result)}", style))
        elif isinstance(event, BlockRefused):
            self._print(Text(f"■ not run: {visible(event.reason, keep='')}", "bold yellow"))
        elif isinstance(event, QuestionAsked):
            self._live.stop()  # the question needs the bottom line
            if (block := event.question.block) is not None:
                self._print(Text(f"▷ {describe_block(block)}", "bold"), _code(block.code, block.language))
        elif isinstance(event, QuestionAnswered):
            self._print(Text(f"◇ {describe_answer(event.answer)}", "dim"))
            self._live.start()
        elif isinstance(event, StateRestored):
            self._print(Text(describe_restored(event), "dim"))
        elif isinstance(event, WorkspaceNotSaved):
            self._print(Text(describe_not_saved(event), "yellow"))
        elif isinstance(event, PlanUpdated):
            if lines := describe_plan(event):
                self._print(*(Text(f"  {line}", "green" if line.startswith("[x]") else "dim") for line in lines))
        elif isinstance(event, RunResumed):
            self._print(Text("resumed", "dim"))
            self._live.start()
        elif isinstance(event, RunFinished):
            self._live.stop()
            style = "bold green" if event.status == "solved" else "bold red"
            status = event.status.replace("_", " ")
            label = f" · {self._label}" if self._label.startswith("replayed") else ""
            self._print(Text.assemble((status, style), (f" · {self._totals}{label}", "dim")))

    def _start(self, event: RunStarted) -> None:
        self._label = describe_model(event.model)
        style = "bold magenta" if self._label.startswith("replayed") else "dim"
        sandbox = visible(event.executor, keep="")
        self._print(Text.assemble((self._label, style), (f" · sandbox {sandbox} · run {event.run_id}", "dim")))
        self._live.start()

    def _show_message(self, message: Message) -> None:
        self._print(Text(f"\n{message.turn} {message.sender}", "bold cyan"), *_message(message.content))

    def _show_output(self, lines: list[str], stream: str) -> None:
        if lines:
            style = "red" if stream == "stderr" else ""
            self._print(*(Padding(Text(line, style), (0, 0, 0, 2), expand=False) for line in lines))

    def _print(self, *parts: RenderableType) -> None:
        self._console.print(Group(*parts))

    def _now(self) -> RenderableType:
        seconds = time.monotonic() - self._began
        line = f"{self._activity} · {self._totals.short} · {seconds:.0f} s"
        self._spinner.text = Text(line, "dim", no_wrap=True, overflow="ellipsis")
        if not self._growing:
            return self._spinner
        tail = visible(self._growing).split("\n")[-TAIL_LINES:]
        grid = Table.grid()
        for line in tail:
            grid.add_row(Text(line, "dim", no_wrap=True, overflow="ellipsis"))
        return Group(Padding(grid, (0, 0, 0, 2), expand=False), self._spinner)


def _message(content: str) -> list[RenderableType]:
    """Return a message with its fenced code highlighted."""
    lines = content.split("\n")
    parts: list[RenderableType] = []
    at = 0
    for fence in parse_fences(content):
        first, end = fence.lines
        if first > at:
            parts.append(Padding(Text(visible("\n".join(lines[at:first])).strip("\n")), (0, 0, 0, 2), expand=False))
        parts.append(_code(fence.code, fence.language))
        at = end
    rest = visible("\n".join(lines[at:])).strip("\n")
    if rest:
        parts.append(Padding(Text(rest), (0, 0, 0, 2), expand=False))
    return parts


def _code(code: str, language: str) -> RenderableType:
    lexer = find_language(language).name if is_runnable(language) else "text"
    shown = Syntax(visible(code).rstrip("\n"), lexer, theme="ansi_dark", background_color="default", word_wrap=True)
    return Padding(shown, (0, 0, 0, 4), expand=False)
