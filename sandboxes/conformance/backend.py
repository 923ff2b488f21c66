"""What the author of a backend says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from sandboxes.executor import Executor
from sandboxes.types import CodeBlock, Isolation, Limits


@dataclass(frozen=True)
class Programs:
    r"""The contract's few programs, in the language of an executor. None: it cannot say that.

    Attributes:
        language: The language of all of them, as `CodeBlock` takes it.
        hello: Prints `hello\n`.
        fail: Ends other than by success.
        warn: Prints `warned\n` on stderr.
        wait: Prints `up\n` at once, then waits for an hour.
        nap: Prints `up\n` at once, then ends `ok` a quarter of a second later.
        flood: Prints the letter x 100,000 times, and nothing else.
        write: Writes `made` into the file `made.txt`.
        read: Prints what is in the file `given.txt`.
        remember: Sets a variable.
        recall: Prints the variable; without it, does not end `ok`.
    """

    language: str
    hello: str
    fail: str | None = None
    warn: str | None = None
    wait: str | None = None
    nap: str | None = None
    flood: str | None = None
    write: str | None = None
    read: str | None = None
    remember: str | None = None
    recall: str | None = None


PYTHON = Programs(
    language="python",
    hello="print('hello')",
    fail="raise SystemExit(3)",
    warn="import sys; print('warned', file=sys.stderr)",
    wait="import time\nprint('up', flush=True)\ntime.sleep(3600)",
    nap="import time\nprint('up', flush=True)\ntime.sleep(0.25)",
    flood="print('x' * 100_000, end='')",
    write="with open('made.txt', 'w') as file: file.write('made')",
    read="print(open('given.txt').read(), end='')",
    remember="remembered = 'yes'",
    recall="print(remembered)",
)


@dataclass(frozen=True)
class Backend:
    """An executor to be tested, and what is known of it.

    Attributes:
        open: Makes an executor that is not started yet; called with limits and with a directory of this
            machine to work in, or None for one that the executor makes and throws away.
        name: For reports, where one test class tests several.
        programs: What it runs.
        capabilities: What has to be enforced: names of fields of `Limits`, and aspects such as `filesystem`.
            None: whatever the executor claims.
        host_workspace: Whether a directory that is given is where blocks work, so that this machine sees their files
            at once. If not, `open` is always called with None.
        languages: Names of further languages that are installed in it.
        lose: Ends the sandbox of an open executor as an accident would, e.g. by killing its first process. None: cannot
            be done, and the tests of what happens then are skipped.
        grace: Seconds beyond a block's `wall_time` within which its call must have returned.
        patience: Seconds that one test may take.
        exceptions: Name of a test, with or without its parameters in brackets, to the reason why it fails.
    """

    open: Callable[[Limits, Path | None], Executor]
    name: str = ""
    programs: Programs = PYTHON
    capabilities: Set[str] | None = None
    host_workspace: bool = True
    languages: tuple[str, ...] = ()
    lose: Callable[[Executor], None] | None = None
    grace: float = 2.0
    patience: float = 60.0
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def hello(self) -> CodeBlock:
        """The simplest block."""
        return CodeBlock(self.programs.hello, language=self.programs.language)


def claims(isolation: Isolation) -> frozenset[str]:
    """Return all that an executor says is enforced."""
    return frozenset({*Limits.model_fields, *isolation.mechanisms} - {*isolation.unenforced})
