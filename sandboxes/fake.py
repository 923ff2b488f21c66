r"""A test double: an executor that runs nothing and answers what the test says.

fake = FakeExecutor({"print(1)": "1\n"}, default=Result(verdict="failed", exit_code=1))
async with fake as executor:
    result = await executor.run(CodeBlock("print(1)"))
assert fake.blocks == [CodeBlock("print(1)")]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sandboxes.errors import FileTooLarge, SandboxClosedError, WorkspaceFileNotFound
from sandboxes.executor import DEFAULT_GET_BYTES, Executor, expect_block, expect_bytes
from sandboxes.languages import find_language
from sandboxes.paths import workspace_path
from sandboxes.types import CodeBlock, Isolation, Limits, OnOutput, Result

Answer = Result | str
Answers = Mapping[str, Answer] | Iterable[Answer] | Callable[[CodeBlock], Answer]


_NOTHING_HOLDS = Isolation(tier="fake", unenforced=tuple(Limits.model_fields))


class FakeExecutor(Executor):
    """Answers blocks from a table, a sequence or a function, and records what it was asked.

    Args:
        answers: Code to answer; or answers in order; or a function of the block. A string is the stdout of
            a block that ends `ok`.
        default: The answer where a table has no entry, or a sequence is used up.
        limits: Reported, not enforced.

    Attributes:
        blocks: The blocks that were run, in order.
        workspace: Path to content of the files put so far; a block with a filename adds its code.
        restarts: How often `restart` was called.
    """

    def __init__(self, answers: Answers = (), *, default: Answer = "", limits: Limits | None = None) -> None:
        self._answers = iter(()) if isinstance(answers, Mapping) or callable(answers) else iter(answers)
        self._table = answers if isinstance(answers, Mapping) else {}
        self._function = answers if callable(answers) else None
        self._default = default
        self._limits = limits or Limits()
        self._open = False
        self.blocks: list[CodeBlock] = []
        self.workspace: dict[str, bytes] = {}
        self.restarts = 0

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def isolation(self) -> Isolation:
        return _NOTHING_HOLDS

    async def start(self) -> None:
        self._open = True

    def _check_open(self) -> None:
        if not self._open:
            raise SandboxClosedError("the executor is not open; use it inside 'async with'")

    async def run(self, block: CodeBlock, *, on_output: OnOutput | None = None) -> Result:
        expect_block(block)
        self._check_open()
        find_language(block.language)
        if block.filename is not None:
            self.workspace[workspace_path(block.filename)] = block.code.encode("utf-8", "surrogatepass")
        self.blocks.append(block)
        result = self._answer(block)
        if on_output is not None:
            if result.stdout:
                on_output("stdout", result.stdout.encode())
            if result.stderr:
                on_output("stderr", result.stderr.encode())
        return result

    def _answer(self, block: CodeBlock) -> Result:
        if self._function is not None:
            answer = self._function(block)
        else:
            answer = self._table[block.code] if block.code in self._table else next(self._answers, self._default)
        if isinstance(answer, str):
            answer = Result(verdict="ok", exit_code=0, stdout=answer, stdout_bytes=len(answer.encode()))
        return answer.model_copy(update={"isolation": self.isolation})

    async def cancel(self) -> None:
        self._check_open()

    async def put(self, path: str, data: bytes) -> None:
        expect_bytes(data)
        self._check_open()
        if len(data) > self._limits.file_size:
            raise FileTooLarge(f"{path!r} is {len(data)} bytes; file_size allows {self._limits.file_size}")
        self.workspace[workspace_path(path)] = data

    async def get(self, path: str, *, max_bytes: int = DEFAULT_GET_BYTES) -> bytes:
        self._check_open()
        name = workspace_path(path)
        if name not in self.workspace:
            raise WorkspaceFileNotFound(f"no file {name!r} in the workspace")
        if len(self.workspace[name]) > max_bytes:
            raise FileTooLarge(f"{name!r} is {len(self.workspace[name])} bytes; max_bytes is {max_bytes}")
        return self.workspace[name]

    async def reset(self) -> None:
        self._check_open()
        self.workspace.clear()

    async def restart(self) -> None:
        self._check_open()
        self.restarts += 1

    async def close(self) -> None:
        self._open = False


def fake_executor(arg: str | None, *, limits: Limits, workspace: Path | None, **options: Any) -> FakeExecutor:
    """Entry point `fake`: every block ends `ok` with `arg` as its stdout."""
    return FakeExecutor(default=arg or "", limits=limits, **options)
