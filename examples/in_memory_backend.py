"""An `Executor` of one's own, without any sandbox: a tiny language that is interpreted in this process.

For a service that has its own idea of running code, this is the other depth: implement the contract itself. Files
live in a dictionary; time, output and disk are held to their limits here; `unenforced` names the rest, so that asking
for it is an error. `test_custom_backends.py` shows that it keeps the contract.
"""

import asyncio
import hashlib
import time
from pathlib import Path

from sandboxes import (
    CodeBlock,
    Executor,
    FileTooLarge,
    Isolation,
    LimitNotEnforceable,
    Limits,
    OnOutput,
    Result,
    SandboxClosedError,
    UnknownLanguage,
    WorkspaceFile,
    WorkspaceFileNotFound,
    workspace_path,
)
from sandboxes.types import Stream, Verdict

ISOLATION = Isolation(
    tier="interpreter",
    mechanisms={
        "wall_time": "asyncio",
        "output": "counted",
        "disk": "counted",
        "file_size": "counted",
        **dict.fromkeys(
            ("processes", "open_files", "network", "filesystem", "kill"), "the language has no word for it"
        ),
    },
    unenforced=("cpu_time", "memory"),
)


class Full(Exception):
    """A file does not fit."""


class Refused(Exception):
    """The listener raised."""


class Program:
    """One run of a block: its variables, and what it has written."""

    def __init__(self, files: dict[str, bytes], limits: Limits, on_output: OnOutput | None) -> None:
        self.files, self.limits, self.on_output = files, limits, on_output
        self.variables: dict[str, float] = {}
        self.output: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    def write(self, stream: Stream, text: str) -> None:
        self.output[stream] += text.encode()
        if self.on_output is not None:
            try:
                self.on_output(stream, text.encode())
            except Exception as error:
                raise Refused from error

    def save(self, name: str, data: bytes) -> None:
        used = sum(len(data) for path, data in self.files.items() if path != name)
        if len(data) > self.limits.file_size or used + len(data) > self.limits.disk:
            raise Full(name)
        self.files[name] = data

    async def execute(self, code: str) -> None:
        for line in code.splitlines():
            await asyncio.sleep(0)  # so that it can be ended between any two lines
            word, _, rest = line.strip().partition(" ")
            await self.step(word, rest)

    async def step(self, word: str, rest: str) -> None:
        first, _, second = rest.partition(" ")
        match word:
            case "say" | "warn":
                self.write("stdout" if word == "say" else "stderr", rest + "\n")
            case "repeat":
                self.write("stdout", second * int(first))
            case "add":  # add NAME NUMBER
                self.variables[first] = self.variables.get(first, 0) + float(second)
            case "show":
                self.write("stdout", f"{self.variables[first]:g}\n")
            case "save":
                self.save(workspace_path(first), second.encode())
            case "load":
                self.write("stdout", self.files[workspace_path(first)].decode("utf-8", "replace"))
            case "sleep":
                await asyncio.sleep(float(first))
            case _:
                raise ValueError(f"what is {word!r}?")


class CalculatorExecutor(Executor):
    """Runs blocks in the language `calc`."""

    def __init__(self, limits: Limits | None = None, workspace: Path | None = None) -> None:
        self._limits = limits or Limits()
        self._files: dict[str, bytes] = {}
        self._open = False
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def isolation(self) -> Isolation:
        return ISOLATION

    async def start(self) -> None:
        if asked := self._limits.model_fields_set.intersection(ISOLATION.unenforced):
            raise LimitNotEnforceable(f"nothing can enforce {', '.join(sorted(asked))} here; leave it out")
        self._open = True

    def _check_open(self) -> None:
        if not self._open:
            raise SandboxClosedError("the executor is not open; use it inside 'async with'")

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        if block.language != "calc":
            raise UnknownLanguage(f"unknown language {block.language!r}; known is calc")
        name = None if block.filename is None else workspace_path(block.filename)
        async with self._lock:
            self._check_open()
            if name is not None:
                self._files[name] = block.code.encode()
            before, started = dict(self._files), time.monotonic()
            program = Program(self._files, self._limits, on_output)
            self._task = asyncio.create_task(program.execute(block.code))
            try:
                done, _ = await asyncio.wait({self._task}, timeout=self._limits.wall_time)
            finally:
                await self.cancel()
            return self._result(program, self._task, bool(done), before, time.monotonic() - started)

    def _result(
        self, program: Program, task: asyncio.Task[None], ended: bool, before: dict[str, bytes], duration: float
    ) -> Result:
        verdict: Verdict = "ok"
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Refused) and error.__cause__ is not None:
            raise error.__cause__
        if task.cancelled():
            verdict = "cancelled" if ended else "timeout"
        elif error is not None:
            verdict = "disk" if isinstance(error, Full) else "failed"
        out, err = program.output["stdout"], program.output["stderr"]
        return Result(
            verdict=verdict,
            exit_code={"ok": 0, "failed": 1}.get(verdict),
            stdout=self._keep(out),
            stderr=self._keep(err),
            stdout_bytes=len(out),
            stderr_bytes=len(err),
            truncated=max(len(out), len(err)) > self._limits.output,
            duration=duration,
            files=tuple(listed(name, data) for name, data in self._files.items() if before.get(name) != data),
            isolation=ISOLATION,
            message=repr(error) if error is not None else "",
        )

    def _keep(self, data: bytes) -> str:
        half, most = self._limits.output // 2, self._limits.output
        if len(data) <= most:
            return data.decode("utf-8", "replace")
        note = f"\n[... {len(data) - most} of {len(data)} bytes left out ...]\n".encode()
        return (data[:half] + note + data[len(data) - (most - half) :]).decode("utf-8", "replace")

    async def cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def put(self, path: str, data: bytes) -> None:
        name = workspace_path(path)
        async with self._lock:
            self._check_open()
            if len(data) > self._limits.file_size:
                raise FileTooLarge(f"{path!r} has {len(data)} bytes; file_size allows {self._limits.file_size}")
            self._files[name] = data

    async def get(self, path: str, *, max_bytes: int = 256 << 20) -> bytes:
        name = workspace_path(path)
        async with self._lock:
            self._check_open()
            if name not in self._files:
                raise WorkspaceFileNotFound(f"no file {name!r} in the workspace")
            if len(self._files[name]) > max_bytes:
                raise FileTooLarge(f"{name!r} has {len(self._files[name])} bytes; max_bytes is {max_bytes}")
            return self._files[name]

    async def restart(self) -> None:
        self._check_open()
        await self.cancel()  # nothing else lasts from block to block

    async def reset(self) -> None:
        await self.restart()
        self._files.clear()

    async def close(self) -> None:
        self._open = False
        await self.cancel()


def listed(name: str, data: bytes) -> WorkspaceFile:
    digest = hashlib.sha256(data).hexdigest()
    return WorkspaceFile(path=name, size=len(data), sha256=digest, media_type="text/plain")


async def main() -> None:
    async with CalculatorExecutor(Limits(wall_time=5)) as executor:
        result = await executor.run(CodeBlock("add x 40\nadd x 2\nshow x", language="calc"))
        print(result.verdict, result.stdout, end="")


if __name__ == "__main__":
    asyncio.run(main())
