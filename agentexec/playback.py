"""A stored run as it was shown: its events at their times, with the pieces that only listeners of then saw."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agentexec.events import BlockFinished, BlockOutput, Event, MessageAdded, ModelCalled, ModelText

LONGEST_PAUSE = 5.0
"""Seconds: nobody watches a person think, or a run that was resumed a day later."""

_PIECE = re.compile(r"\s*\S+\s*|\s+")
_PIECES = 200


def playback(events: Iterable[Event], *, speed: float = 1.0) -> Iterator[tuple[float, Event]]:
    """Yield each event with the seconds to wait before it.

    Transient events are not in a log; they are made again from what came of them: a reply comes word by word over
    the time that its call took, a block's output when the block ends.

    Args:
        events: The log of a run, or as much of it as there is.
        speed: 2 is twice as fast; `inf` does not wait.
    """
    kept = list(events)
    clock: float | None = None
    for number, event in enumerate(kept):
        pause = 0.0 if clock is None else min(max(event.time - clock, 0.0), LONGEST_PAUSE)
        clock = event.time
        for seconds, piece in _pieces(event, kept[number + 1 : number + 2], pause):
            yield seconds / speed, piece


def _pieces(event: Event, following: list[Event], pause: float) -> Iterator[tuple[float, Event]]:
    if isinstance(event, ModelCalled) and following and isinstance(said := following[0], MessageAdded):
        words = _PIECE.findall(said.message.content)
        size = max(1, -(-len(words) // _PIECES))
        texts = ["".join(words[start : start + size]) for start in range(0, len(words), size)]
        for text in texts:
            yield pause / len(texts), ModelText(agent=event.agent, text=text, time=event.time)
        yield 0.0 if texts else pause, event
        return
    yield pause, event if not isinstance(event, BlockFinished) else _output(event, "stdout")
    if isinstance(event, BlockFinished):
        yield 0.0, _output(event, "stderr")
        yield 0.0, event


def _output(event: BlockFinished, stream: str) -> BlockOutput:
    name, text = ("stdout", event.result.stdout) if stream == "stdout" else ("stderr", event.result.stderr)
    return BlockOutput.model_validate(
        {"turn": event.turn, "index": event.index, "stream": name, "data": text.encode(), "time": event.time}
    )
