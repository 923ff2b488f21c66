from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentexec.models import sse
from agentexec.models.sse import EventReader, EventSizeError

LINE = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


def read(data: bytes, cuts: list[int]) -> list[str]:
    reader = EventReader()
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    chunks = [data[start:end] for start, end in itertools.pairwise(places)]
    found = [event for chunk in chunks for event in reader.feed(chunk)]
    return found + list(reader.finish())


@given(
    st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(events: list[list[str]], end: str, cuts: list[int]) -> None:
    text = "".join("".join(f"data: {line}{end}" for line in lines) + end for lines in events)
    assert read(text.encode(), cuts) == ["\n".join(lines) for lines in events]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_are_read_or_refused(data: bytes, cuts: list[int]) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        read(data, cuts)


def test_comments_and_other_fields_are_ignored() -> None:
    assert read(b": ping\n\nevent: x\nid: 7\ndata:{}\n\n", []) == ["{}"]


def test_last_event_without_a_blank_line_counts() -> None:
    assert read(b"data: a\n\ndata: b", []) == ["a", "b"]


@pytest.mark.parametrize(
    "piece", [f"data: {'x' * 50}", f"data: {'x' * 50}\n", "data:\n" * 20], ids=["line", "lines", "empty lines"]
)
def test_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()

    def flood() -> None:
        for _ in range(100):
            list(reader.feed(piece.encode()))

    with pytest.raises(EventSizeError):
        flood()
