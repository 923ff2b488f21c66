"""`agentexec run NOTEBOOK.ipynb`: its cells in one kernel, and the notebook written back with their outputs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentexec.cli.options import SANDBOX_FAILED, USAGE, Place, fail, make_executor, read_place
from agentexec.cli.output import CannotWrite, Output, say
from agentexec.cli.run import exit_status, report, show_displays
from agentexec.cli.signals import INTERRUPTED, Interrupted, Interrupts, stopped_by_signals
from agentexec.notebook import RAISES, SKIP, outputs_of, tags_of
from sandboxes.errors import SandboxError, UnknownLanguage
from sandboxes.executor import Executor
from sandboxes.types import CodeBlock, Result, Stream

_ONE_KERNEL = ("jupyter", "jupyter+docker")


def notebook_command(file: str, flags: Mapping[str, Any], workspace: Path | None, *, json: bool) -> int:
    """Run a notebook and return the exit status of the command.

    Args:
        file: Path of the notebook, which is written back with the outputs, whatever came of it.
        flags: Values of the flags by their names, None where not given.
        workspace: Directory to work in; None takes one that is thrown away.
        json: Whether to write one `Result`, of all cells together, as JSON instead of their output.
    """
    path = Path(file)
    data, notebook = read_notebook(path)
    place = _place(read_place(flags, workspace), notebook, named=flags.get("sandbox") is not None)
    executor = make_executor(place, workspace, bar=True)
    if not executor.keeps_state:
        fail(
            f"a notebook's cells share one kernel, and the sandbox {place.sandbox!r} has none: "
            "say -s jupyter, or -s jupyter+docker",
            USAGE,
        )
    run = NotebookRun(notebook, json=json)
    try:
        interrupted = asyncio.run(run.run(executor))
        result = run.result(executor)
        # What cells showed is written already.
        report(result if json else result.model_copy(update={"displays": (), "error": None}), json=json)
        return INTERRUPTED if interrupted and not result.ok else exit_status(result)
    except CannotWrite as error:
        if not error.quiet:
            say(str(error))
        return error.status
    except UnknownLanguage as error:
        fail(str(error), SANDBOX_FAILED)
    except SandboxError as error:
        fail(f"the sandbox failed: {error or type(error).__name__}", SANDBOX_FAILED)
    finally:
        if run.started:
            write_back(path, data, notebook)


def read_notebook(path: Path) -> tuple[bytes, Any]:
    """Read a notebook of any version as one of version 4; ends the command with status 2 where it is none."""
    import nbformat

    library: Any = nbformat  # its functions have no types
    try:
        data = path.read_bytes()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", USAGE)
    if not os.access(path.resolve().parent, os.W_OK):
        fail(f"{path} could not be written back: its directory is not writable; copy it to one that is", USAGE)
    try:
        notebook = library.reader.reads(data.decode())
        if not isinstance(notebook, dict) or "nbformat" not in notebook:
            fail(f"{path} is not a notebook: it has no field 'nbformat'", USAGE)
        notebook = library.convert(notebook, 4)
        _, notebook = library.validator.normalize(notebook)
        library.validate(notebook)
    except UnicodeDecodeError as error:
        fail(f"{path} is not a notebook: it is not UTF-8 text (byte {error.start})", USAGE)
    except library.reader.NotJSONError as error:
        fail(f"{path} is not a notebook: it is not JSON ({error.__cause__})", USAGE)
    except (library.ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        first = str(error).partition("\n")[0][:300] or type(error).__name__
        fail(f"{path} is not a valid notebook: {first}", USAGE)
    return data, notebook


def _place(place: Place, notebook: Any, *, named: bool) -> Place:
    """Choose the kernel that the notebook names, where nobody has named one."""
    spec = notebook.metadata.get("kernelspec", {})
    language = spec.get("language") or notebook.metadata.get("language_info", {}).get("name") or "python"
    name = "" if str(language).lower() in ("python", "ipython") else str(spec.get("name") or "")
    sandbox = place.sandbox
    if sandbox == "local" and not named:  # a kernel in the same sandbox
        sandbox = "jupyter"
    if not name or sandbox not in _ONE_KERNEL:
        return dataclasses.replace(place, sandbox=sandbox)
    if sandbox != "jupyter":
        fail(f"the notebook wants the kernel {name!r}, and jupyter+docker has Python's: say -s jupyter:{name}", USAGE)
    return dataclasses.replace(place, sandbox=f"jupyter:{name}")


class NotebookRun:
    """One run of a notebook's cells, up to the first that fails, as Jupyter does it.

    Args:
        notebook: In format 4; outputs and execution counts of its code cells are replaced.
        json: Whether nothing is shown while it runs.

    Attributes:
        started: Whether a cell has run.
    """

    def __init__(self, notebook: Any, *, json: bool) -> None:
        self._notebook = notebook
        self._json = json
        self._results: list[Result] = []
        self._failed = ""
        self.started = False

    async def run(self, executor: Executor) -> bool:
        """Run the cells; return whether a signal came."""
        async with stopped_by_signals(executor) as state:
            try:
                async with executor:
                    state.running = True
                    await self._run_cells(executor, state.signals)
                    state.running = False
            except (asyncio.CancelledError, Interrupted):
                if not state.signals:
                    raise
                stopped = Result(verdict="cancelled", isolation=executor.isolation, message="interrupted")
                self._results.append(stopped)
        return bool(state.signals)

    async def _run_cells(self, executor: Executor, signals: Interrupts) -> None:
        streams = {"stdout": Output(1, signals), "stderr": Output(2, signals)}

        def show(stream: Stream, data: bytes) -> None:
            heard[stream] += data[: executor.limits.output - len(heard[stream])]
            if not self._json:
                streams[stream].write(data)

        self.started = True
        language = getattr(executor, "language", "") or "python"  # of the kernel, which may be another than Python's
        cells = [cell for cell in self._notebook.cells if cell.cell_type == "code"]
        for cell in cells:
            cell.outputs, cell.execution_count = [], None
        for number, cell in enumerate(cells, 1):
            tags = set(tags_of(cell))
            if not cell.source.strip() or SKIP in tags:
                continue
            heard: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
            try:
                result = await executor.run(CodeBlock(cell.source, language=language), on_output=show)
            except BaseException:  # then there is no result, but what it has written is kept
                texts = {stream: data.decode(errors="replace") for stream, data in heard.items()}
                cell.outputs = outputs_of(Result(verdict="cancelled", stdout=texts["stdout"], stderr=texts["stderr"]))
                raise
            self._results.append(result)
            cell.outputs, cell.execution_count = outputs_of(result), result.execution_count
            if not self._json:
                show_displays(result)
            if result.verdict == "failed" and RAISES in tags:
                continue
            if not result.ok:
                self._failed = f"code cell {number} of {len(cells)}"
                break
        for output in () if self._json else streams.values():
            output.close()

    def result(self, executor: Executor) -> Result:
        """Return all cells' results as one: the last one's verdict, and all that was written and left."""
        if not self._results:
            return Result(verdict="ok", exit_code=0, isolation=executor.isolation, message="it has no code to run")
        *_, last = results = self._results
        tolerated = last.verdict == "failed" and not self._failed
        ending: dict[str, Any] = {"verdict": "ok", "exit_code": 0, "signal": None, "error": None} if tolerated else {}
        message = ": ".join(filter(None, (self._failed, last.message)))
        return last.model_copy(
            update={
                "stdout": "".join(each.stdout for each in results),
                "stderr": "".join(each.stderr for each in results),
                "stdout_bytes": sum(each.stdout_bytes for each in results),
                "stderr_bytes": sum(each.stderr_bytes for each in results),
                "truncated": any(each.truncated for each in results),
                "duration": sum(each.duration for each in results),
                "cpu_time": _total([each.cpu_time for each in results]),
                "peak_memory": max((each.peak_memory or 0 for each in results), default=0) or None,
                "files": tuple({file.path: file for each in results for file in each.files}.values()),
                "displays": tuple(display for each in results for display in each.displays),
                "message": "" if tolerated else message,
                **ending,
            }
        )


def _total(seconds: Sequence[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def write_back(path: Path, read: bytes, notebook: Any) -> None:
    """Put the notebook in the place of the file, at once or not at all; ends the command where that cannot be done.

    Args:
        path: The file; where it is a link, what that leads to.
        read: What the file held; if it no longer does, somebody has saved it, and it is written beside it.
        notebook: What to write.
    """
    import nbformat

    library: Any = nbformat
    target = path.resolve()
    try:
        text = library.writes(notebook) + "\n"
        if not target.exists() or target.read_bytes() != read:
            target = target.with_name(f"{target.stem}.executed.ipynb")
            say(f"{path} was changed meanwhile, so it is left as it is; the outputs are in {target}")
        _replace(target, text.encode("utf-8", "replace"))
    except OSError as error:
        fail(f"cannot write {target}: {error.strerror}", 1)


def _replace(target: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileNotFoundError):
            info = target.stat()
            os.chmod(name, info.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):
                os.chown(name, info.st_uid, info.st_gid)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
