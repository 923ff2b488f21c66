"""A stored run is shown again at its own times, or faster."""

from __future__ import annotations

import math

import pytest

from agentexec.events import (
    BlockFinished,
    BlockOutput,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    ModelText,
)
from agentexec.playback import LONGEST_PAUSE, playback
from sandboxes import CodeBlock, Isolation, Result

RESULT = Result(verdict="ok", stdout="out", stderr="err", isolation=Isolation(tier="none"))


def log() -> list[Event]:
    said = Message(sender="coder", content="one two three", turn=1)
    return [
        MessageAdded(message=Message(sender="task", content="x", turn=0), time=100.0),
        ModelCalled(agent="coder", model="m", time=103.0),
        MessageAdded(message=said, time=103.0),
        BlockStarted(turn=1, index=0, block=CodeBlock("1"), time=103.5),
        BlockFinished(turn=1, index=0, block=CodeBlock("1"), result=RESULT, time=104.5),
        MessageAdded(message=said, time=104.5 + 3600),
    ]


def waits(speed: float) -> list[tuple[str, float]]:
    return [(type(event).__name__, round(seconds, 3)) for seconds, event in playback(log(), speed=speed)]


def test_each_event_comes_after_its_own_time() -> None:
    assert waits(1.0) == [
        ("MessageAdded", 0.0),
        ("ModelText", 1.0),  # the reply comes word by word, over the time of its call
        ("ModelText", 1.0),
        ("ModelText", 1.0),
        ("ModelCalled", 0.0),
        ("MessageAdded", 0.0),
        ("BlockStarted", 0.5),
        ("BlockOutput", 1.0),
        ("BlockOutput", 0.0),
        ("BlockFinished", 0.0),
        ("MessageAdded", LONGEST_PAUSE),
    ]


@pytest.mark.parametrize("speed", [0.5, 4.0, math.inf])
def test_speed_divides_all_waits(speed: float) -> None:
    assert [seconds for _, seconds in waits(speed)] == [round(seconds / speed, 3) for _, seconds in waits(1.0)]


def test_what_was_shown_in_pieces_is_whole_again() -> None:
    shown = [event for _, event in playback(log())]
    assert "".join(event.text for event in shown if isinstance(event, ModelText)) == "one two three"
    assert [(event.stream, event.data) for event in shown if isinstance(event, BlockOutput)] == [
        ("stdout", b"out"),
        ("stderr", b"err"),
    ]
    assert [event for event in shown if not isinstance(event, (ModelText, BlockOutput))] == log()
