"""The executor agent: runs the blocks that the coder wrote, and says what came of them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

from agentexec.agents.pictures import Gallery
from agentexec.agents.report import RESTARTED, Outcome, Ran, Refused, nudge, report
from agentexec.conversation import Conversation
from agentexec.events import (
    ApprovalAsked,
    ApprovalGiven,
    BlockFinished,
    BlockOutput,
    BlockRefused,
    BlockStarted,
    Message,
)
from agentexec.log import EventLog
from agentexec.markdown import read_reply
from sandboxes.errors import FileTooLarge, SandboxLostError, UnknownLanguage, UnsafePath
from sandboxes.executor import Executor
from sandboxes.paths import workspace_path
from sandboxes.types import CodeBlock, Result, Stream

Approve = Callable[[CodeBlock], Awaitable[bool | str] | bool | str]
"""Asked before a block runs: True lets it, False or a string (the reason) does not. May be async."""

NAME = "executor"

KEPT_OF_INTERRUPTED = 64 << 10
"""Bytes kept of each stream of a block that is interrupted, for which the executor returns no result."""


class ExecutorAgent:
    """Runs the coder's blocks in order, up to the first that does not end `ok`.

    Only blocks in messages of `author` run, whatever the other agents or a program's output may hold.

    Args:
        executor: Where they run; already started.
        author: Whose blocks.
        approve: Asked before each block; None lets everything run.
    """

    name = NAME

    def __init__(self, executor: Executor, *, author: str = "coder", approve: Approve | None = None) -> None:
        self.executor = executor
        self.author = author
        self.approve = approve

    async def reply(self, conversation: Conversation) -> str | Message:
        """Run the blocks of the author's last message and tell what happened, with the pictures they showed.

        Raises:
            SandboxError: the sandbox failed, and did so again after it was restarted.
        """
        message = conversation.latest(self.author)
        if message is None:
            raise ValueError(f"the executor was asked to speak before the {self.author}")
        reply = read_reply(message.content, cut=message.cut)
        if not reply.blocks:
            return nudge(reply)
        outcomes: list[Outcome] = []
        for index, block in enumerate(reply.blocks):
            outcome = await _Turn(self, conversation.log, message.turn, index, block).outcome()
            outcomes.append(outcome)
            if isinstance(outcome, Refused) or not outcome.result.ok:
                break
        gallery = Gallery()
        text = report(reply, outcomes, gallery=gallery)
        return Message(sender=self.name, content=text, pictures=gallery.pictures)


class _Turn:
    """One block on its way: checked, approved, run, and every step of that an event."""

    def __init__(self, agent: ExecutorAgent, log: EventLog, turn: int, index: int, block: CodeBlock) -> None:
        self._agent, self._executor = agent, agent.executor
        self._log, self._turn, self._index, self._block = log, turn, index, block
        self._output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}

    async def outcome(self) -> Outcome:
        try:
            if self._block.filename is not None:
                # Also checked by executors; here it holds for third-party ones, and before anybody is asked.
                workspace_path(self._block.filename)
            refusal = await self._rejection()
            return await self._run() if refusal is None else self._refuse(refusal)
        except (UnsafePath, UnknownLanguage, FileTooLarge) as error:
            return self._refuse(str(error))

    async def _rejection(self) -> str | None:
        """Ask whether the block may run; return why not, or None if it may."""
        if self._agent.approve is None:
            return None
        self._log.append(ApprovalAsked(turn=self._turn, index=self._index, block=self._block))
        answer = self._agent.approve(self._block)
        if inspect.isawaitable(answer):
            answer = await answer
        # Only True approves: a callback that forgets to return must not let code run.
        approved = answer is True
        reason = answer if isinstance(answer, str) else ""
        self._log.append(ApprovalGiven(turn=self._turn, index=self._index, approved=approved, reason=reason))
        if approved:
            return None
        return f"not approved: {reason}" if reason else "not approved"

    def _refuse(self, reason: str) -> Refused:
        self._log.append(BlockRefused(turn=self._turn, index=self._index, block=self._block, reason=reason))
        return Refused(self._block, reason)

    async def _run(self) -> Ran:
        self._log.append(BlockStarted(turn=self._turn, index=self._index, block=self._block))
        began, note = time.monotonic(), ""
        try:
            try:
                result = await self._executor.run(self._block, on_output=self._on_output)
            except SandboxLostError:
                # It died while nothing ran, so this block has done nothing yet.
                note = RESTARTED
                await self._executor.restart()
                result = await self._executor.run(self._block, on_output=self._on_output)
        except asyncio.CancelledError:
            self._finished(self._interrupted(time.monotonic() - began))
            raise
        self._finished(result)
        if result.verdict == "lost":
            note = RESTARTED
            await self._executor.restart()
        return Ran(self._block, result, note)

    def _finished(self, result: Result) -> None:
        self._log.append(BlockFinished(turn=self._turn, index=self._index, block=self._block, result=result))

    def _on_output(self, stream: Stream, data: bytes) -> None:
        kept = self._output[stream]
        kept += data[: KEPT_OF_INTERRUPTED - len(kept)]
        self._sizes[stream] += len(data)
        self._log.append(BlockOutput(turn=self._turn, index=self._index, stream=stream, data=data))

    def _interrupted(self, duration: float) -> Result:
        return Result(
            verdict="cancelled",
            stdout=self._output["stdout"].decode(errors="replace"),
            stderr=self._output["stderr"].decode(errors="replace"),
            stdout_bytes=self._sizes["stdout"],
            stderr_bytes=self._sizes["stderr"],
            truncated=max(self._sizes.values()) > KEPT_OF_INTERRUPTED,
            duration=duration,
            isolation=self._executor.isolation,
            message="the run ended while the block ran",
        )
