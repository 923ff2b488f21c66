"""The executor agent: runs the blocks that the coder wrote, and says what came of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from agentexec.agents.outputs import keep_outputs
from agentexec.agents.pictures import Gallery
from agentexec.agents.report import (
    EDITED,
    RERUN,
    RESTARTED,
    Answered,
    Outcome,
    Ran,
    Refused,
    goes_on,
    nudge,
    report,
)
from agentexec.conversation import Conversation
from agentexec.events import BlockFinished, BlockOutput, BlockRefused, BlockStarted, Message
from agentexec.human import Gate
from agentexec.markdown import quote, read_reply
from agentexec.unclear import doubt_about
from sandboxes.errors import FileTooLarge, SandboxLostError, UnknownLanguage, UnsafePath
from sandboxes.executor import Executor
from sandboxes.paths import workspace_path
from sandboxes.types import CodeBlock, Result, Stream

NAME = "executor"

KEPT_OF_INTERRUPTED = 64 << 10
"""Bytes kept of each stream of a block that is interrupted, for which the executor returns no result."""

INTERRUPTED = "the run ended while the block ran"
"""`Result.message` of such a block. If the run is resumed, the block runs again."""


class ExecutorAgent:
    """Runs the coder's blocks in order, up to the first that does not end `ok`.

    Only blocks in messages of `author` run, whatever the other agents or a program's output may hold.

    Args:
        executor: Where they run; already started.
        author: Whose blocks.
        gate: Decides about each block before it runs; None lets everything run.
        name: Sender of the agent's messages.
    """

    def __init__(
        self, executor: Executor, *, author: str = "coder", gate: Gate | None = None, name: str = NAME
    ) -> None:
        self.name = name
        self.executor = executor
        self.author = author
        self.gate = gate or Gate()

    async def reply(self, conversation: Conversation) -> str | Message:
        """Run the blocks of the author's last message and tell what happened, with the pictures they showed.

        In a turn that was interrupted and is resumed, only what has not run yet is asked about and run.

        Raises:
            SandboxError: the sandbox failed, and did so again after it was restarted.
            Suspended: the answer to whether a block may run comes later.
            HumanSilent: it did not come in time.
        """
        message, mine = conversation.latest(self.author), conversation.latest(self.name)
        if message is None:
            return f"Nothing was run: the {self.author} has written nothing yet."
        if mine is not None and mine.turn > message.turn:
            return (
                f"Nothing was run: the {self.author} has written nothing new. See above for what came of the last code."
            )
        reply = read_reply(message.content, cut=message.cut)
        if not reply.blocks:
            return nudge(reply, message.content)
        outcomes: list[Outcome] = []
        for index, block in enumerate(reply.blocks):
            await conversation.log.settled()
            outcome = await _Turn(self, conversation, message.turn, index, block).outcome()
            outcomes.append(outcome)
            if not goes_on(outcome):
                break
        gallery = Gallery()
        outcomes = await keep_outputs(self.executor, message.turn, outcomes)
        await conversation.log.settled()
        text = report(reply, outcomes, gallery=gallery)
        return Message(sender=self.name, content=text, pictures=gallery.pictures)


class _Turn:
    """One block on its way: checked, approved, run, and every step of that an event."""

    def __init__(
        self, agent: ExecutorAgent, conversation: Conversation, turn: int, index: int, block: CodeBlock
    ) -> None:
        self._gate, self._executor, self._author = agent.gate, agent.executor, agent.author
        self._conversation, self._log = conversation, conversation.log
        self._turn, self._index, self._block = turn, index, block
        self._notes: list[str] = []
        self._output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}

    async def outcome(self) -> Outcome:
        earlier = self._earlier()
        if earlier is not None:
            return earlier
        try:
            if self._block.filename is not None:
                # Also checked by executors; here it holds for third-party ones, and before anybody is asked.
                workspace_path(self._block.filename)
            doubt = self._doubt()
            if doubt is not None:
                return self._refuse(doubt)
            answer = await self._gate.decide(self._block, self._turn, self._index, self._conversation)
            if answer.decision == "answer":
                return Answered(self._block, answer.text)
            if answer.decision == "reject":
                return self._refuse(f"not approved: {answer.text}" if answer.text else "not approved")
            if answer.decision == "edit":
                self._edit(answer.text)
            return await self._run()
        except (UnsafePath, UnknownLanguage, FileTooLarge) as error:
            return self._refuse(str(error))

    def _doubt(self) -> str | None:
        """Return why the block is asked back: what it holds cannot be meant so, and was not sent before."""
        doubt = doubt_about(self._block)
        if doubt is None:
            return None
        sent = (message for message in self._conversation if message.sender == self._author)
        return None if any(doubt[0] in each.content for each in sent if each.turn < self._turn) else doubt[1]

    def _earlier(self) -> Outcome | None:
        """Return what came of the block before the run was interrupted in this turn, if it came to an end."""
        for event in self._conversation.resumed:
            if not isinstance(event, BlockStarted | BlockFinished | BlockRefused):
                continue
            if (event.turn, event.index) != (self._turn, self._index):
                continue
            if isinstance(event, BlockRefused):
                return Refused(self._block, event.reason)
            if isinstance(event, BlockStarted):
                self._notes = [RERUN]
            elif event.result.message != INTERRUPTED:
                self._notes = []
                if event.block != self._block:
                    self._edit(event.block.code)
                return self._ran(event.result)
        return None

    def _edit(self, code: str) -> None:
        self._block = replace(self._block, code=code if code.endswith("\n") else code + "\n")
        self._notes.append(f"{EDITED}\n{quote(self._block.code, info=self._block.language)}")

    def _refuse(self, reason: str) -> Refused:
        self._log.append(BlockRefused(turn=self._turn, index=self._index, block=self._block, reason=reason))
        return Refused(self._block, reason)

    async def _run(self) -> Ran:
        self._log.append(BlockStarted(turn=self._turn, index=self._index, block=self._block))
        began = time.monotonic()
        try:
            try:
                result = await self._executor.run(self._block, on_output=self._on_output)
            except SandboxLostError:
                # It died while nothing ran, so this block has done nothing yet.
                self._notes.append(RESTARTED)
                await self._executor.restart()
                result = await self._executor.run(self._block, on_output=self._on_output)
        except asyncio.CancelledError:
            self._finished(self._interrupted(time.monotonic() - began))
            raise
        self._finished(result)
        if result.verdict == "lost":
            await self._executor.restart()
        return self._ran(result)

    def _ran(self, result: Result) -> Ran:
        if result.verdict == "lost":
            self._notes.append(RESTARTED)
        return Ran(self._block, result, "\n\n".join(dict.fromkeys(self._notes)))

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
            message=INTERRUPTED,
        )
