"""A backend of one's own: Python blocks in a process that is started by any command, here plain `python3`.

A `Sandbox` has to do one thing: start the given command somewhere and return its stdin and stdout as a stream.
Blocks, limits, live output, files and verdicts then work as everywhere. Over SSH it would be
`ProcessStream.spawn(["ssh", host, shlex.join(argv)])`.
"""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandboxes import ByteStream, CodeBlock, Isolation, Limits, ProcessStream, Sandbox, ScriptExecutor


class PlainSandbox(Sandbox):
    """Somewhere to run code, with no protection at all."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.gettempdir(), f"plain-{secrets.token_hex(8)}")

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        self.directory.mkdir(mode=0o700, exist_ok=True)  # it is there already at a restart
        return await ProcessStream.spawn(argv, cwd=self.directory, env={})

    def runner_options(self) -> dict[str, Any]:
        return {"workspace": str(self.directory)}

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(tier="plain", unenforced=("network",))

    async def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


async def main() -> None:
    async with ScriptExecutor(PlainSandbox(), Limits(wall_time=10)) as executor:
        await executor.put("name.txt", b"world")
        result = await executor.run(CodeBlock("print('hello', open('name.txt').read())"))
        print(result.verdict, result.stdout, end="")


if __name__ == "__main__":
    asyncio.run(main())
