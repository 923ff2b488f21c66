"""Asking a person on the terminal: may this block run, is this plan good, what do you say?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import TextIO

from agentexec.events import Answer, Question
from agentexec.visible import visible
from sandboxes.languages import find_language

END = "."
"""A line that ends a text of several lines."""


class Terminal:
    """Asks on the terminal. The block or plan itself has been shown by the view.

    Args:
        source: Where the answer is typed.
        target: Where the question is shown.
    """

    def __init__(self, source: TextIO, target: TextIO) -> None:
        self._source = source
        self._target = target

    async def ask(self, question: Question) -> Answer:
        """Return what the person decides. The end of the input is a rejection."""
        if question.kind == "input":
            return Answer(decision="answer", text=await self._text(question.text))
        kinds = "[y/n/e/a/always/never]" if question.kind == "block" else "[y/n/e]"
        while True:
            typed = await self._line(f"{visible(question.text, keep='')} {kinds} ")
            word, _, rest = (typed or "").strip().partition(" ")
            answer = await self._decide(word.lower(), rest.strip(), question)
            if answer is not None or typed is None:
                return answer or Answer(decision="reject", text="the user left")
            self._say(
                "y: yes; n [REASON]: no; e: edit it first"
                + ("; a [TEXT]: answer in place of the result; always, never: for all of this kind"
                   if question.kind == "block" else "")
            )  # fmt: skip

    async def _decide(self, word: str, rest: str, question: Question) -> Answer | None:
        always = word in ("always", "never")
        if always and question.kind != "block":
            return None
        if word in ("y", "yes", "always"):
            return Answer(decision="approve", always=always)
        if word in ("n", "no", "never"):
            return Answer(decision="reject", text=rest or "the user said no", always=always)
        if word in ("e", "edit"):
            return await self._edited(question)
        if word in ("a", "answer") and "answer" in question.options:
            return Answer(decision="answer", text=rest or await self._text("What is the result?"))
        return None

    async def _edited(self, question: Question) -> Answer | None:
        """Have the code or plan edited; None if it was left as it is, or could not be edited."""
        before, suffix = question.content, ".md"
        if question.block is not None:
            before, suffix = question.block.code, find_language(question.block.language).suffix
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not editor:
            after = await self._text("The new text (set EDITOR to edit the old one):")
        else:
            edited = await self._run_editor(editor, before, suffix)
            if edited is None:
                return None
            after = edited
        if after == before or not after.strip():
            self._say("nothing was changed")
            return None
        return Answer(decision="edit", text=after)

    async def _run_editor(self, editor: str, text: str, suffix: str) -> str | None:
        with tempfile.TemporaryDirectory(prefix="agentexec-") as directory:
            path = Path(directory) / f"edit{suffix}"
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
            try:
                process = await asyncio.create_subprocess_exec(*shlex.split(editor), str(path))
            except (OSError, ValueError) as error:
                self._say(f"cannot start the editor {editor!r}: {error}")
                return None
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
            if status:
                self._say(f"the editor ended with status {status}; nothing was changed")
                return None
            return path.read_text(encoding="utf-8", errors="replace")

    async def _text(self, prompt: str) -> str:
        """Return what is typed up to a line that holds nothing but `END`."""
        self._say(f"{visible(prompt, keep='')} (end with a line that holds only {END})")
        lines = []
        while (line := await self._line("> ")) is not None and line.rstrip("\r\n") != END:
            lines.append(line)
        return "".join(lines).rstrip("\n")

    def _say(self, text: str) -> None:
        self._target.write(text + "\n")
        self._target.flush()

    async def _line(self, prompt: str) -> str | None:
        """Return a line as typed; None at the end of the input."""
        self._target.write(prompt)
        self._target.flush()
        # Not a thread: one that waits for a key would keep the process from ending after Ctrl-C.
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._source, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._source)
        return self._source.readline() or None
