"""A backend of one's own: Python blocks in a process that is started by any command, here plain `python3`.

A `Sandbox` has to do one thing: start the given command somewhere and return its stdin and stdout as a stream.
Blocks, limits, live output, files and verdicts then work as everywhere. Over SSH it would be
`ProcessStream.spawn(["ssh", host, shlex.join(argv)])`.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from typing import Any

from sandboxes import ByteStream, CodeBlock, Isolation, Limits, ProcessStream, Sandbox, ScriptExecutor


class PlainSandbox(Sandbox):
    """Somewhere to run code, with no protection at all."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        return await ProcessStream.spawn(argv, cwd=self.directory.name)

    def runner_options(self) -> dict[str, Any]:
        return {"workspace": self.directory.name}

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(tier="plain", unenforced=("network",))

    async def close(self) -> None:
        self.directory.cleanup()


async def main() -> None:
    async with ScriptExecutor(PlainSandbox(), Limits(wall_time=10)) as executor:
        await executor.put("name.txt", b"world")
        result = await executor.run(CodeBlock("print('hello', open('name.txt').read())"))
        print(result.verdict, result.stdout, end="")


if __name__ == "__main__":
    asyncio.run(main())
