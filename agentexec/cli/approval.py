"""Asking a person whether a block may run."""

from __future__ import annotations

import asyncio
from typing import TextIO

from agentexec.markdown import visible
from sandboxes.types import CodeBlock


class Approver:
    """Asks on the terminal. The block itself has been shown by the view.

    Args:
        source: Where the answer is typed.
        target: Where the question is shown.
    """

    def __init__(self, source: TextIO, target: TextIO) -> None:
        self._source = source
        self._target = target

    async def ask(self, block: CodeBlock) -> bool | str:
        """Return True if the block may run, else the reason why not."""
        saved = "" if block.filename is None else f", saved as {visible(block.filename, keep='')}"
        while True:
            self._target.write(f"Run this {visible(block.language, keep='')} block{saved}? [y/n] ")
            self._target.flush()
            answer = (await self._line()).strip().lower()
            if answer in ("y", "yes"):
                return True
            if answer in ("n", "no", ""):
                return "the user said no"

    async def _line(self) -> str:
        # Not a thread: one that waits for a key would keep the process from ending after Ctrl-C.
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._source, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._source)
        return self._source.readline()
