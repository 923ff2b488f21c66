"""Events as text: what another version of the package wrote is read, or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from agentexec.errors import StoreDamaged
from agentexec.events import AnyEvent, BlockFinished, MessageAdded
from agentexec.store.codec import UnknownEvent, read_event, write_event
from sandboxes.types import CodeBlock, Display, Result
from tests.agentexec.store.events import message


def test_fields_of_a_newer_version_are_left_out() -> None:
    data = json.loads(write_event(message(1, "hello")))
    data["shade"] = "blue"
    data["message"]["mood"] = {"of": "the day"}
    event = read_event(json.dumps(data))
    assert isinstance(event, MessageAdded)
    assert event.message.content == "hello"


def test_types_of_a_newer_version_are_kept_as_they_are() -> None:
    event = read_event('{"type": "dream_seen", "time": 5, "sheep": [1, 2]}')
    assert event == UnknownEvent(name="dream_seen", data={"type": "dream_seen", "time": 5, "sheep": [1, 2]}, time=5.0)


def test_fields_that_older_versions_did_not_have_have_defaults() -> None:
    event = read_event('{"type": "message", "time": 1, "message": {"sender": "coder", "content": "hi"}}')
    assert isinstance(event, MessageAdded)
    assert (event.message.turn, event.message.cut) == (0, False)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"type": "message"}', '{"type": "message", "message": 3}', "{}"])
def test_what_is_no_event_is_named(text: str) -> None:
    with pytest.raises(StoreDamaged, match="an event cannot be read"):
        read_event(text)


@pytest.mark.parametrize("text", ["", "\ud800", "a\udfffb", "\0\x1b[2J", "é😀", "\u2028", '"\\', "x" * 100_000])
def test_any_text_survives(text: str) -> None:
    event = read_event(write_event(message(1, text)))
    assert isinstance(event, MessageAdded)
    assert event.message.content == text.encode("utf-8", "replace").decode()


def test_secrets_are_masked_in_values_and_not_in_structure() -> None:
    result = Result(
        verdict="failed",
        stdout="key=message",
        displays=(Display(data={"text/plain": "message"}, metadata={"type": "message", "deep": [{"message": 1}]}),),
    )
    event = BlockFinished(turn=1, index=0, block=CodeBlock("print('message')"), result=result)
    read = read_event(write_event(event, ["message"]))
    assert isinstance(read, BlockFinished)
    assert read.block.code == "print('***')"
    assert read.result.stdout == "key=***"
    assert read.result.displays[0].metadata == {"type": "***", "deep": [{"message": 1}]}
    by_key = event.model_copy(update={"result": Result(verdict="ok", displays=(Display(data={"sk-123456": "a"}),))})
    assert "123456" not in write_event(by_key, ["sk-123456"])
    unmasked = write_event(message(1, "a message"), ["message"])
    assert json.loads(unmasked)["type"] == "message", "the type is what it is read by"


# Events as version 1 of the store wrote them, one of each type. Lines are only ever added: an event that this package
# has written must stay readable. A new type of event needs a line, a new field a default.
WRITTEN = Path(__file__).with_name("events_1.jsonl").read_text("utf-8").split("\n")[:-1]


def test_every_type_that_is_kept_has_been_written() -> None:
    kinds = get_args(get_args(AnyEvent)[0])
    kept = {kind.model_fields["type"].default for kind in kinds if not kind.transient}
    assert {json.loads(line)["type"] for line in WRITTEN} == kept


@pytest.mark.parametrize("line", WRITTEN, ids=[json.loads(line)["type"] for line in WRITTEN])
def test_what_was_written_stays_readable(line: str) -> None:
    def holds(now: object, then: object) -> bool:
        """Whether everything that was written is there still; there may be more."""
        if isinstance(then, dict) and isinstance(now, dict):
            return all(key in now and holds(now[key], value) for key, value in then.items())
        return now == then

    event = read_event(line)
    assert not isinstance(event, UnknownEvent)
    assert holds(json.loads(write_event(event)), json.loads(line))
