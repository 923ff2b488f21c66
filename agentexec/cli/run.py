"""`agentexec run`: one program in a sandbox, with its output and its exit status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentexec.cli.options import SANDBOX_FAILED, USAGE, fail, make_executor, read_place
from agentexec.cli.output import CannotWrite, Output, say, say_lines, write_stdout
from agentexec.cli.signals import INTERRUPTED, Interrupted, stopped_by_signals
from agentexec.visible import visible
from sandboxes.errors import SandboxError, UnknownLanguage, UnsafePath
from sandboxes.executor import Executor
from sandboxes.languages import find_language, language_of_file
from sandboxes.paths import workspace_path
from sandboxes.types import CodeBlock, Result, Stream

_STATUS = {
    "ok": 0,
    "timeout": 124,
    "cpu_time": 124,
    "memory": 137,
    "disk": 137,
    "cancelled": INTERRUPTED,
    "lost": SANDBOX_FAILED,
}


def run_command(
    file: str | None, language: str | None, flags: Mapping[str, Any], workspace: Path | None, *, json: bool
) -> int:
    """Run a program file and return the exit status of the command.

    Args:
        file: Path of the program; `-` reads standard input.
        language: Its language; None tells it by the file's ending.
        flags: Values of the flags by their names, None where not given.
        workspace: Directory to work in; None takes one that is thrown away.
        json: Whether to write one `Result` as JSON instead of the program's output.
    """
    if file is not None and language is None and file.lower().endswith(".ipynb"):
        from agentexec.cli.notebook import notebook_command

        return notebook_command(file, flags, workspace, json=json)
    block = read_block(file, language)
    if workspace is None and file is not None:  # in a directory of the user's it could take the place of another file
        block = replace(block, filename=_own_name(file, block.language))
    executor = make_executor(read_place(flags, workspace), workspace, bar=True)
    try:
        result, interrupted = asyncio.run(_run(executor, block, json=json))
        made = tuple(each for each in result.files if each.path != block.filename)
        result = result.model_copy(update={"files": made})
        report(result, json=json)
        return INTERRUPTED if interrupted and not result.ok else exit_status(result)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
        return error.status
    except UnknownLanguage as error:
        fail(str(error), SANDBOX_FAILED)
    except SandboxError as error:
        fail(f"the sandbox failed: {error or type(error).__name__}", SANDBOX_FAILED)


def read_block(file: str | None, language: str | None) -> CodeBlock:
    """Read the program and tell its language; ends the command with status 2 where that cannot be done."""
    if file is None and sys.stdin.isatty():
        fail("nothing to run: give a FILE, or - to read the program from standard input", USAGE)
    piped = file in (None, "-")
    if not piped and Path(str(file)).is_dir():
        fail(f"{file} is a directory; give a program in it, and the directory with --workspace", USAGE)
    try:
        if language is not None:
            name = find_language(language).name
        else:
            name = "python" if piped else language_of_file(str(file)).name
    except UnknownLanguage as error:
        fail(f"{error}; say which with --language" if language is None else str(error), USAGE)
    try:
        data = sys.stdin.buffer.read() if piped else Path(str(file)).read_bytes()
        return CodeBlock(data.decode(), name)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", USAGE)
    except UnicodeDecodeError as error:
        shown = "standard input" if piped else file
        fail(f"{shown} is not UTF-8 text (byte {error.start}): give a source file", USAGE)


def _own_name(file: str, language: str) -> str | None:
    """Return the name that tracebacks are to show; None where the interpreter or the workspace would not take it."""
    name = Path(file).name
    try:
        fits = name.isprintable() and language_of_file(name).name == language
        return workspace_path(name) if fits else None
    except (UnknownLanguage, UnsafePath):
        return None


async def _run(executor: Executor, block: CodeBlock, *, json: bool) -> tuple[Result, bool]:
    """Run a block; return what came of it, and whether a signal came."""
    async with stopped_by_signals(executor) as state:
        outputs = {"stdout": Output(1, state.signals), "stderr": Output(2, state.signals)}

        def show(stream: Stream, data: bytes) -> None:
            outputs[stream].write(data)

        try:
            async with executor:
                state.running = True
                result = await executor.run(block, on_output=None if json else show)
                state.running = False
                if state.signals and result.verdict == "cancelled":
                    result = result.model_copy(update={"message": "interrupted"})
                for output in () if json else outputs.values():
                    output.close()
        except (asyncio.CancelledError, Interrupted):
            if not state.signals:
                raise
            result = Result(verdict="cancelled", isolation=executor.isolation, message="interrupted")
    return result, bool(state.signals)


def report(result: Result, *, json: bool) -> None:
    """Write what came of a block: all of it as JSON, or what it did not write itself."""
    if json:
        write_stdout(result.model_dump_json())
        return
    show_displays(result)
    if result.verdict != "ok" and result.message:
        say(f"{result.verdict}: {result.message}")


def show_displays(result: Result) -> None:
    """Write what a kernel's cell showed, and the exception that ended it."""
    for display in result.displays:  # of a kernel; what has no text is a picture, or the like
        write_stdout(visible(display.data.get("text/plain", f"<{', '.join(display.data)}>")))
    if result.error is not None:
        say_lines(result.error.traceback or f"{result.error.name}: {result.error.message}")


def exit_status(result: Result) -> int:
    """Return the exit status that stands for a result."""
    if result.verdict != "failed":
        return _STATUS[result.verdict]
    if result.signal is not None:
        return 128 + result.signal
    return result.exit_code or 1
