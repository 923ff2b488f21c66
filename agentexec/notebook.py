"""A run as a Jupyter notebook: task, plan, messages, code with its outputs, and the answer, in order.

The notebook opens in stock Jupyter and can be run again there: Python is in plain cells, other languages are in
cells with the magics that every IPython has, and what never ran is text. What models and code said is in it as they
said it: untrusted, as in any notebook from elsewhere, and Jupyter treats it so until its user runs it.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import nbformat.v4
from nbformat import NotebookNode

from agentexec.events import (
    BlockFinished,
    BlockRefused,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    Picture,
    RunFinished,
    RunStarted,
)
from agentexec.markdown import Fence, before_answer, is_finished, parse_fences, quote, read_reply, visible
from sandboxes.errors import UnknownLanguage, UnsafePath
from sandboxes.languages import find_language
from sandboxes.paths import workspace_path
from sandboxes.types import CodeBlock, Display, Result

v4: Any = nbformat.v4  # its functions have no types

RAISES = "raises-exception"
"""Tag of a cell that may fail: Jupyter then goes on with the next one."""
SKIP = "skip-execution"
"""Tag of a cell that nbclient does not run: what ended at a limit here may have none elsewhere."""

_READ_STDIN = {"bash": "bash", "sh": "sh", "javascript": "script node", "perl": "perl", "ruby": "ruby"}
"""Languages whose interpreter takes a program from standard input, and the cell magic for it."""

_NEEDS_A_PROCESS = re.compile(r"\basyncio\.run\(|\b__file__\b|\bsys\.argv\b|\bargparse\b|\bmultiprocessing\b")
"""What does not work in a kernel as it does in a program."""

_OWN_PROCESS = '%%script {__import__("sys").executable}'

_PROGRAM = """%%bash -s {{__import__("sys").executable}}
"$1" '{}' </dev/null"""

_Outcome = BlockStarted | BlockFinished | BlockRefused


def notebook_of(events: Iterable[Event]) -> NotebookNode:
    """Return a run as a notebook in format 4.5.

    Args:
        events: The log of a run, or as much of it as there is.
    """
    return _Export(tuple(events)).notebook()


class _Export:
    """One run on its way into a notebook."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self._started = next((event for event in events if isinstance(event, RunStarted)), None)
        self._finished = next((event for event in events if isinstance(event, RunFinished)), None)
        self._messages = [event.message for event in events if isinstance(event, MessageAdded)]
        self._outcomes: dict[tuple[int, int], _Outcome] = {
            (event.turn, event.index): event
            for event in events
            if isinstance(event, BlockStarted | BlockFinished | BlockRefused)
        }
        self._turns = {turn for turn, _ in self._outcomes}
        self._kernel = _kernel(self._started.executor if self._started is not None else "")
        coders = [message for message in self._messages if message.sender == "coder"]
        self._last = coders[-1] if coders else None
        self._cells: list[NotebookNode] = []
        self._executions = 0
        self._ran = False

    def notebook(self) -> NotebookNode:
        if self._started is not None:
            self._text(_heading(self._started))
        for message in self._messages:
            self._message(message)
        self._text(_ending(self._finished))
        kernel = self._kernel or "python3"
        language = "python" if kernel == "python3" else kernel
        spec = {"name": kernel, "display_name": "Python 3" if kernel == "python3" else kernel, "language": language}
        metadata: dict[str, Any] = {"kernelspec": spec, "language_info": {"name": language}}
        if self._started is not None:
            metadata["agentexec"] = {"run_id": self._started.run_id}
        notebook: NotebookNode = v4.new_notebook(cells=self._cells, metadata=metadata)
        return notebook

    def _text(self, text: str, pictures: Iterable[Picture] = ()) -> None:
        if not text.strip():
            return
        cell = v4.new_markdown_cell(_valid(text), id=f"cell-{len(self._cells)}")
        attachments = {f"picture-{n}": {p.media_type: _base64(p.data)} for n, p in enumerate(pictures, 1)}
        if attachments:
            cell.attachments = attachments
        self._cells.append(cell)

    def _message(self, message: Message) -> None:
        if message.sender == "task" and self._started is not None:
            return
        holds_code = message.sender == "coder" and bool(read_reply(message.content, cut=message.cut).blocks)
        if message.turn in self._turns or holds_code:
            self._ran = message.turn in self._turns
            self._code_message(message)
            return
        if message.sender == "executor" and self._ran:
            self._ran = False
            return  # it tells what the cells show
        content = message.content
        if message is self._last and self._finished is not None and self._finished.answer:
            content = before_answer(content)  # the answer has a cell of its own
            if not content:
                return
        pictures = "".join(
            f"\n\n![{visible(p.name, keep='')}](attachment:picture-{n})" for n, p in enumerate(message.pictures, 1)
        )
        self._text(f"**{message.sender.capitalize()}**\n\n{content}{pictures}", message.pictures)

    def _code_message(self, message: Message) -> None:
        """Split a message at its blocks into text and cells."""
        lines = message.content.replace("\r\n", "\n").split("\n")
        blocks = [f for f in parse_fences(message.content) if f.runnable and is_finished(f, cut=message.cut)]
        said, at = f"**{message.sender.capitalize()}**\n\n", 0
        for index, fence in enumerate(blocks):
            first, end = fence.lines
            before = "\n".join(lines[at:first]).strip()
            if before or said:
                self._text(f"{said}{before}")
            said, at = "", end
            self._block(fence, self._outcomes.get((message.turn, index)))
        self._text("\n".join(lines[at:]).strip())

    def _block(self, fence: Fence, outcome: _Outcome | None) -> None:
        if outcome is None or isinstance(outcome, BlockRefused):
            why = "not run" if outcome is None else f"refused, not run: {visible(outcome.reason, keep='')}"
            code = quote(fence.code, budget=len(fence.code) + 1, info=fence.language)
            self._text(f"*This block was {why}.*\n\n{code}")
            return
        sources = self._sources(outcome.block)
        if sources is None:  # of an executor that knows languages of its own
            self._text(quote(fence.code, budget=len(fence.code) + 1, info=fence.language))
            sources = []
        result = outcome.result if isinstance(outcome, BlockFinished) else Result(verdict="cancelled")
        for source in sources:
            self._cells.append(v4.new_code_cell(_valid(source), id=f"cell-{len(self._cells)}"))
        if sources:
            self._executions = result.execution_count or self._executions + 1
            cell = self._cells[-1]
            cell.outputs, cell.execution_count = outputs_of(result), self._executions
            if not result.ok:
                cell.metadata["tags"] = [RAISES if result.verdict == "failed" else SKIP]
        self._text(_judgement(result))

    def _sources(self, block: CodeBlock) -> list[str] | None:
        """Return the cells that run a block again; the last one is what shows its output."""
        if self._kernel:  # another language's, which knows none of the magics
            return [block.code]
        try:
            language = find_language(block.language)
            path = workspace_path(block.filename) if block.filename is not None else ""
        except (UnknownLanguage, UnsafePath):
            return None
        if not path and language.name == "python":
            own = self._kernel is None and _NEEDS_A_PROCESS.search(block.code)
            return [f"{_OWN_PROCESS}\n{block.code}" if own else block.code]
        if not path and language.name in _READ_STDIN:
            return [f"%%{_READ_STDIN[language.name]}\n{block.code}"]
        if not re.fullmatch(r"[\w./+ -]+", path):  # what magics and shells read in their own ways
            path = f"block-{len(self._cells)}{language.suffix}"
        directory = posixpath.dirname(path)
        make = [f"%%bash\nmkdir -p '{directory}'"] if directory else []
        write = f"%%writefile {_word(path)}\n{block.code}"
        if language.name == "python":
            return [*make, write, block.code if self._kernel is not None else _PROGRAM.format(path)]
        command = shlex.join(part.replace("{file}", path) for part in language.command)
        return [*make, write, f"%%bash\n{command}"]


def _kernel(spec: str) -> str | None:
    """Return which kernel ran the blocks: None for none, an empty string for IPython's, else another one's name."""
    name, _, arg = spec.partition(":")
    if name == "jupyter":
        return arg
    return "" if name in ("jupyter+docker", "KernelExecutor") else None


def _word(path: str) -> str:
    """Return a path as one argument of a magic."""
    return f'"{path}"' if " " in path else path


def outputs_of(result: Result) -> list[NotebookNode]:
    """Return what came of a block as the outputs of a cell."""
    outputs = [
        v4.new_output("stream", name=name, text=_valid(text))
        for name, text in (("stdout", result.stdout), ("stderr", result.stderr))
        if text
    ]
    outputs += [_shown(display) for display in result.displays]
    if result.error is not None:
        trace = result.error.coloured or result.error.traceback
        outputs.append(
            v4.new_output(
                "error",
                ename=result.error.name,
                evalue=result.error.message,
                traceback=trace.split("\n") if trace else [],
            )
        )
    return outputs


def _shown(display: Display) -> NotebookNode:
    data = {kind: _representation(kind, text) for kind, text in display.data.items()}
    count = {} if display.execution_count is None else {"execution_count": display.execution_count}
    kind = "execute_result" if count else "display_data"
    output: NotebookNode = v4.new_output(kind, data=data, metadata=dict(display.metadata), **count)
    return output


def _representation(kind: str, text: str) -> Any:
    """Return JSON types as what they are, as the format wants it; all others are text."""
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _judgement(result: Result) -> str:
    """Say what outputs do not show: why a block did not end well, and the files it left."""
    notes = []
    if not result.ok:
        how = f", exit status {result.exit_code}" if result.exit_code is not None else ""
        why = f": {visible(result.message, keep='')}" if result.message else ""
        notes.append(f"*{result.verdict}{how}{why}*")
    if result.files:
        names = [visible(file.path, keep="") for file in result.files[:50]]
        names += [f"and {len(result.files) - 50:,} more"] if len(result.files) > 50 else []
        notes.append(f"Files created or changed:\n\n{quote(chr(10).join(names))}")
    return "\n\n".join(notes)


def _heading(started: RunStarted) -> str:
    parts = [f"# Task\n\n{started.task.strip()}"]
    parts.append(
        f"Run `{started.run_id}` of {visible(started.model, keep='')} in `{visible(started.executor, keep='')}`."
    )
    if started.files:
        names = quote("\n".join(visible(name, keep="") for name in started.files))
        parts.append(f"Files that the run was given; to run it again, put them beside this notebook:\n\n{names}")
    return "\n\n".join(parts)


def _ending(finished: RunFinished | None) -> str:
    if finished is None:
        return "*The record of the run ends here.*"
    if finished.answer is not None:
        return f"# Answer\n\n{finished.answer}"
    return f"# Not solved\n\n{finished.status}, {visible(finished.stop_reason, keep='')}: {visible(finished.message)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _valid(text: str) -> str:
    """Return text that a file can hold: lone surrogates cannot be encoded."""
    return text.encode("utf-8", "replace").decode()


def tags_of(cell: Mapping[str, Any]) -> Iterator[str]:
    """Yield a cell's tags."""
    tags = cell.get("metadata", {}).get("tags", ())
    yield from (tag for tag in tags if isinstance(tag, str))
