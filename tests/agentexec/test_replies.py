"""What models write, as a corpus: `replies/NAME.md` is a reply, `NAME.json` how it is to be read.

`blocks` are language, code and file name of each block; `answer` the final answer; `asks` what the coder is asked back,
each a part of it. A message without blocks and answer always gets the nudge.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentexec.agents.report import nudge
from agentexec.events import BlockRefused
from agentexec.markdown import read_reply
from agentexec.models import Completion
from agentexec.solving import solve
from agentexec.unclear import doubt_about, hints
from sandboxes.fake import FakeExecutor
from tests.agentexec.doubles import ScriptedModel, run

REPLIES = sorted((Path(__file__).parent / "replies").glob("*.md"))


@pytest.mark.parametrize("path", REPLIES, ids=lambda path: path.stem)
def test_a_reply_is_read_as_expected(path: Path) -> None:
    text = path.read_bytes().decode()
    expected = json.loads(path.with_suffix(".json").read_text())
    reply = read_reply(text)
    assert [[block.language, block.code, block.filename] for block in reply.blocks] == expected["blocks"]
    assert reply.answer == expected["answer"]
    doubts = [doubt[1] for doubt in map(doubt_about, reply.blocks) if doubt is not None]
    asked = doubts if reply.blocks else hints(text, reply) if reply.idle else []
    assert bool(asked) == bool(expected["asks"]), asked
    for part in expected["asks"]:
        assert part in "\n".join(asked)
    if reply.idle:
        told = nudge(reply, text)
        assert told.endswith("end with a line that starts with FINAL ANSWER:")
        assert all(hint in told for hint in asked)


def test_the_corpus_is_whole() -> None:
    assert len(REPLIES) >= 50
    assert {path.with_suffix(".json") for path in REPLIES} == set(REPLIES[0].parent.glob("*.json"))


PLACEHOLDER = run("key = 'your_key_here'\nprint(key)")


async def test_what_is_in_doubt_is_asked_back_once_and_then_runs() -> None:
    model = ScriptedModel([PLACEHOLDER, PLACEHOLDER, "FINAL ANSWER: x"])
    executor = FakeExecutor(lambda block: "ran\n")
    result = await solve("x", model=model, executor=executor, plan=False, review=False)
    assert result.solved
    refused = [event for event in result.events if isinstance(event, BlockRefused)]
    assert [event.turn for event in refused] == [1]
    assert "the placeholder `your_key_here`; put in the real value" in refused[0].reason
    assert [block.turn for block in result.blocks] == [3]
    assert "your_key_here" in model.asked("coder")[1][-1].content


async def test_a_nudge_says_what_to_send() -> None:
    model = ScriptedModel(["import os\nprint(os.listdir())", run("import os\nprint(os.listdir())"), "FINAL ANSWER: x"])
    result = await solve("x", model=model, executor=FakeExecutor(lambda block: ""), plan=False, review=False)
    assert result.solved
    assert "Code outside of a fence is not run" in model.asked("coder")[1][-1].content


@pytest.mark.parametrize("text", ["<think>" * 20_000, "a" * 200_000, "#" * 100_000, "your_" * 40_000, "# ..." * 40_000])
def test_reading_takes_time_in_proportion(text: str) -> None:
    reply = read_reply(text)
    hints(text, reply)
    for block in read_reply(f"```python\n{text}\n```").blocks:
        doubt_about(block)
    assert Completion(text).text == text
