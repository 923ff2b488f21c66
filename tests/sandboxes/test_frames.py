"""The frame protocol, and a host that believes nothing of what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxes import (
    ByteStream,
    CodeBlock,
    Isolation,
    Limits,
    Result,
    Sandbox,
    SandboxError,
    SandboxLostError,
    SandboxProtocolError,
    SandboxStartError,
    ScriptExecutor,
)
from sandboxes import link as link_module
from sandboxes.runner.capture import HeadTail
from sandboxes.runner.frames import (
    CHUNK,
    CONTROL,
    DATA,
    HEADER,
    KEPT_STDERR,
    KEPT_STDOUT,
    LIVE_STDERR,
    LIVE_STDOUT,
    MAX_PAYLOAD,
    Decoder,
    FrameError,
    decode_control,
    encode,
    encode_chunks,
    encode_control,
)

KINDS = st.integers(CONTROL, DATA)
FRAMES = st.lists(st.tuples(KINDS, st.binary(max_size=300)), max_size=20)
FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck), database=None)

HELLO = {"op": "hello", "python": "3.11.7", "pid_namespace": True, "uid": 1000}
REPORT: dict[str, Any] = {
    "op": "result",
    "verdict": "ok",
    "exit_code": 0,
    "signal": None,
    "stdout_bytes": 2,
    "stderr_bytes": 0,
    "stdout_head": 2,
    "stderr_head": 0,
    "duration": 0.1,
    "cpu_time": 0.1,
    "peak_memory": 1000,
    "message": "",
    "files": [],
}
GOOD = encode(KEPT_STDOUT, b"1\n") + encode_control(REPORT)


# The frames themselves


@given(FRAMES, st.lists(st.integers(1, 400), min_size=1))
@FUZZ
def test_frames_survive_any_way_of_cutting_the_stream(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(kind, payload) for kind, payload in frames)
    decoder, start = Decoder(), 0
    received: list[tuple[int, bytes]] = []
    for cut in cuts * (len(stream) // sum(cuts) + 1):
        received += decoder.feed(stream[start : start + cut])
        start += cut
    assert received == frames


@given(st.binary(max_size=2000))
@FUZZ
def test_any_bytes_are_frames_or_a_frame_error(data: bytes) -> None:
    decoder = Decoder()
    try:
        size = sum(HEADER.size + len(payload) for _, payload in decoder.feed(data))
    except FrameError:
        return
    assert size <= len(data)


@given(st.binary(max_size=200_000), st.integers(1, 6))
@FUZZ
def test_chunks_join_to_what_was_cut(data: bytes, kind: int) -> None:
    frames = list(Decoder().feed(b"".join(encode_chunks(kind, data))))
    assert b"".join(payload for _, payload in frames) == data
    assert all(0 < len(payload) <= CHUNK for _, payload in frames)


@given(st.binary(max_size=500) | st.text(max_size=200).map(str.encode))
@FUZZ
def test_a_control_frame_is_an_object_or_a_frame_error(payload: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert isinstance(decode_control(payload), dict)


@pytest.mark.parametrize("payload", [b"[" * 200_000, b'{"a":' * 100_000, b"1" * 100_000, b"\xff", b"", b"[]", b"NaN"])
def test_a_hostile_control_frame_is_a_frame_error(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode_control(payload)


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_is_refused_before_anything_of_it_is_allocated(length: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="over the limit"):
            list(Decoder().feed(HEADER.pack(length, DATA) + b"x"))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.binary(max_size=50), max_size=60), st.integers(1, 300))
@FUZZ
def test_head_and_tail_are_the_beginning_and_the_end(pieces: list[bytes], limit: int) -> None:
    kept = HeadTail(limit)
    for piece in pieces:
        kept.feed(piece)
    whole = b"".join(pieces)
    assert kept.total == len(whole)
    if len(whole) <= limit:
        assert kept.head() + kept.tail() == whole
    else:
        assert kept.head() == whole[: limit - limit // 2]
        assert kept.tail() == whole[len(whole) - limit // 2 :]


def test_output_that_comes_in_tiny_pieces_takes_no_more_memory() -> None:
    kept = HeadTail(1 << 18)
    tracemalloc.start()
    try:
        for number in range(100_000):
            kept.feed(b"%02d" % (number % 100) + b"xy")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# A hostile runner


class HostileStream(ByteStream):
    """Says what it likes once it has heard the token, and again after each request.

    Args:
        before: What comes before the token.
        start: What follows it.
        answers: What it says after the first request, piece by piece; nothing more then.
        endless: It repeats the last answer for ever.
        deaf: It takes nothing after the start.
        hangs_up: It is gone after the start.
    """

    def __init__(
        self, before: bytes, start: bytes, answers: Sequence[bytes], endless: bool, deaf: bool, hangs_up: bool
    ) -> None:
        self.before, self.start, self.answers = before, start, answers
        self.endless, self.deaf, self.hangs_up = endless, deaf, hangs_up
        self.outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard = 0
        self.closed = False

    async def send(self, data: bytes) -> None:
        self.heard += 1
        if self.heard == 1:
            token = re.search(rb'\\?"token\\?": \\?"([0-9a-f]{32})', data)
            assert token is not None
            for at in range(0, len(self.before), 1 << 14):
                self.outbox.put_nowait(self.before[at : at + (1 << 14)])
            self.outbox.put_nowait(token[1] + self.start)
            if self.hangs_up:
                self.outbox.put_nowait(b"")
        elif self.heard == 2:
            for answer in self.answers:
                self.outbox.put_nowait(answer)
            if not self.endless:
                self.outbox.put_nowait(b"")
        if self.deaf and self.heard > 1:
            await asyncio.Event().wait()

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        if self.closed:
            return b""
        if self.endless and self.heard > 1 and self.outbox.empty():
            return self.answers[-1]
        return await self.outbox.get()

    async def close(self) -> None:
        self.closed = True
        self.outbox.put_nowait(b"")


class HostileSandbox(Sandbox):
    def __init__(
        self,
        *answers: bytes,
        start: bytes = encode_control(HELLO),
        before: bytes = b"",
        endless: bool = False,
        deaf: bool = False,
        hangs_up: bool = False,
    ) -> None:
        self.stream = HostileStream(before, start, answers, endless, deaf, hangs_up)

    async def launch(self, argv: Sequence[str], limits: Limits) -> ByteStream:
        return self.stream

    def isolation(self, limits: Limits) -> Isolation:
        return Isolation(tier="hostile")


async def run(sandbox: HostileSandbox, wall_time: float = 1.0, **options: Any) -> Result:
    """Start, run one block and close; every one of these must come to an end."""
    async with asyncio.timeout(20):
        async with ScriptExecutor(sandbox, Limits(wall_time=wall_time, output="64k")) as executor:
            return await executor.run(CodeBlock("print(1)"), **options)


async def test_a_well_behaved_runner_passes() -> None:
    result = await run(HostileSandbox(GOOD))
    assert (result.verdict, result.stdout) == ("ok", "1\n")


def mutations(good: bytes) -> st.SearchStrategy[bytes]:
    """Return `good` with bytes changed, cut out, doubled or put in."""

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for at, removed, added in edits:
            at %= len(data) + 1
            data = data[:at] + added + data[at + removed :]
        return data

    edit = st.tuples(st.integers(0, len(good)), st.integers(0, 12), st.binary(max_size=12))
    return st.lists(edit, min_size=1, max_size=4).map(mutate)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("9" * 5000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*REPORT, "kind", "x"]), inner),
    max_leaves=8,
)
CONTROLS = st.dictionaries(st.sampled_from([*REPORT, "kind", "path"]), JUNK).map(
    lambda changes: encode_control({**REPORT, **changes})
)
ANSWERS = st.one_of(
    st.binary(max_size=400),
    mutations(GOOD),
    CONTROLS,
    JUNK.map(lambda junk: encode(CONTROL, json.dumps(junk).encode())),
    FRAMES.map(lambda frames: b"".join(encode(*frame) for frame in frames)),
)


@given(st.lists(ANSWERS, max_size=4))
@FUZZ
def test_whatever_a_runner_answers_the_host_has_a_result_or_says_what_is_wrong(answers: list[bytes]) -> None:
    pieces: list[bytes] = []
    try:
        result = asyncio.run(run(HostileSandbox(*answers), on_output=lambda _, data: pieces.append(data)))
    except SandboxError:
        return
    assert isinstance(result, Result)
    assert len(result.stdout.encode()) <= 3 * (2 << 20)


@given(st.one_of(ANSWERS, mutations(encode_control(HELLO))), st.binary(max_size=50))
@FUZZ
def test_whatever_a_runner_says_first_the_start_fails_clearly_or_goes_on(start: bytes, before: bytes) -> None:
    # Having greeted it is gone; what it said beyond the greeting counts as its answer.
    with contextlib.suppress(SandboxError):
        asyncio.run(run(HostileSandbox(start=start, before=before, hangs_up=True)))


@given(st.lists(ANSWERS, min_size=1, max_size=3), st.booleans())
@FUZZ
def test_whatever_a_runner_says_of_files_the_host_goes_on_or_says_what_is_wrong(
    answers: list[bytes], getting: bool
) -> None:
    async def transfer() -> None:
        async with asyncio.timeout(20), ScriptExecutor(HostileSandbox(*answers)) as executor:
            if getting:
                assert len(await executor.get("a", max_bytes=100)) <= 100
            else:
                await executor.put("a", b"x")

    with contextlib.suppress(SandboxError):
        asyncio.run(transfer())


@pytest.mark.parametrize(
    "change",
    [
        {"stdout_bytes": -1},
        {"stdout_bytes": 1 << 70},
        {"stdout_bytes": "2"},
        {"stdout_bytes": 2.5},
        {"stdout_bytes": True},
        {"duration": float("nan")},
        {"cpu_time": float("inf")},
        {"duration": -1},
        {"verdict": "lost"},
        {"verdict": "fine"},
        {"verdict": ["ok"]},
        {"exit_code": 256},
        {"exit_code": -1},
        {"signal": 0},
        {"message": "x" * 3000},
        {"message": None},
        {"files": [{"path": "a", "size": 1, "sha256": None}] * 1001},
        {"files": [{"path": "a", "size": 1, "sha256": "../../etc"}]},
        {"files": [{"path": "a" * 30_000, "size": 1, "sha256": None}]},
        {"files": [{"path": 3, "size": 1, "sha256": None}]},
        {"files": [{"path": "a", "size": -1, "sha256": None}]},
        {"files": {"a": 1}},
        {"extra": 1},
        {"op": "done"},
    ],
    ids=lambda change: str(change)[:40],
)
async def test_a_report_with_a_wrong_value_is_refused_and_the_sandbox_given_up(
    change: dict[str, Any],
) -> None:
    sandbox = HostileSandbox(encode_control({**REPORT, **change}))
    with pytest.raises(SandboxProtocolError):
        await run(sandbox)
    assert sandbox.stream.closed


async def test_a_report_without_a_field_is_refused() -> None:
    for name in REPORT:
        with pytest.raises(SandboxProtocolError):
            await run(HostileSandbox(encode_control({key: value for key, value in REPORT.items() if key != name})))


@pytest.mark.parametrize(
    "answer",
    [
        encode(DATA, b"x"),
        encode(7, b"x") + GOOD,
        encode(0, b"x") + GOOD,
        HEADER.pack(1 << 31, KEPT_STDOUT),
        encode(CONTROL, b"[" * 500_000),
        encode(CONTROL, b"not JSON"),
        encode(KEPT_STDOUT, b"x" * (64 << 10)) + encode(KEPT_STDOUT, b"x"),
    ],
    ids=["data", "kind 7", "kind 0", "2 GiB", "deep", "no JSON", "more output than the limit"],
)
async def test_frames_that_have_no_place_there_are_refused(answer: bytes) -> None:
    with pytest.raises(SandboxProtocolError):
        await run(HostileSandbox(answer))


async def test_a_second_result_is_not_taken_for_the_next_blocks() -> None:
    forged = encode_control({**REPORT, "verdict": "failed", "exit_code": 1})
    async with ScriptExecutor(HostileSandbox(GOOD + forged)) as executor:
        assert (await executor.run(CodeBlock("1"))).verdict == "ok"
        with pytest.raises(SandboxProtocolError, match="an answer to no question"):
            await executor.run(CodeBlock("2"))


@pytest.mark.parametrize("cut", range(1, len(GOOD), 7))
async def test_an_end_in_the_middle_of_a_frame_is_a_lost_block(cut: int) -> None:
    result = await run(HostileSandbox(encode(LIVE_STDOUT, b"so far"), GOOD[:cut]))
    assert (result.verdict, result.stdout) == ("lost", "so far")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        encode_control({"op": "fatal", "message": "no workspace"}),
        encode_control({"message": "x" * 100_000}),
        encode(LIVE_STDOUT, b"x"),
        encode(CONTROL, b"[" * 500_000),
        b"\xff" * 100,
    ],
)
async def test_a_runner_that_does_not_greet_fails_the_start(start: bytes) -> None:
    sandbox = HostileSandbox(start=start, hangs_up=True)
    with pytest.raises(SandboxStartError) as raised:
        await run(sandbox)
    assert len(str(raised.value)) < 3000
    assert sandbox.stream.closed


async def test_a_banner_before_the_token_is_skipped() -> None:
    banner = b"Welcome to Example OS\r\n" * 1000
    assert (await run(HostileSandbox(GOOD, before=banner))).verdict == "ok"


async def test_a_banner_without_end_fails_the_start() -> None:
    with pytest.raises(SandboxStartError, match="too much output"):
        await run(HostileSandbox(GOOD, before=b"x" * (1 << 17)))


# A runner that does not come to an end


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "LAST_WORDS", 0.3)
    monkeypatch.setattr(link_module, "GRACE", 0.2)
    monkeypatch.setattr(link_module, "FILE_TIMEOUT", 0.3)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    "flood",
    [
        encode(LIVE_STDOUT, b"x" * 10_000),
        encode(LIVE_STDERR, b"x"),
        encode(LIVE_STDOUT, b"") * 1000,
        encode(KEPT_STDOUT, b"") * 1000,
        encode(KEPT_STDERR, b""),
    ],
    ids=["live", "live byte by byte", "empty live", "empty kept", "empty kept one by one"],
)
async def test_a_runner_that_talks_for_ever_is_lost_soon_after_wall_time(flood: bytes) -> None:
    await is_lost_for_talking(flood)


@pytest.mark.usefixtures("short_patience")
async def test_a_runner_that_never_ends_a_frame_is_lost_soon_after_wall_time() -> None:
    await is_lost_for_talking(HEADER.pack(MAX_PAYLOAD, LIVE_STDOUT), b"x")


async def is_lost_for_talking(*answers: bytes) -> None:
    tracemalloc.start()
    started = time.monotonic()
    try:
        result = await run(HostileSandbox(*answers, endless=True), wall_time=0.2)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert result.verdict == "lost"
    assert "does not come to an end" in result.message
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("deaf", [True, False])
async def test_a_runner_that_does_not_answer_is_lost_soon_after_wall_time(deaf: bool) -> None:
    sandbox = HostileSandbox(deaf=deaf)
    sandbox.stream.receive = _first_then_silence(sandbox.stream)  # type: ignore[method-assign]
    result = await run(sandbox, wall_time=0.2)
    assert (result.verdict, sandbox.stream.closed) == ("lost", True)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("deaf", [True, False])
async def test_cancelling_a_block_ends_a_runner_that_does_not_answer(deaf: bool) -> None:
    sandbox = HostileSandbox(deaf=deaf)
    sandbox.stream.receive = _first_then_silence(sandbox.stream)  # type: ignore[method-assign]
    executor = ScriptExecutor(sandbox)
    await executor.start()
    task = asyncio.create_task(executor.run(CodeBlock("1")))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    with pytest.raises(SandboxLostError):  # not a `lost` result: this block never ran
        await executor.run(CodeBlock("2"))
    await executor.close()


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    "sandbox",
    [
        HostileSandbox(deaf=True),
        HostileSandbox(encode(DATA, b""), endless=True),
        HostileSandbox(encode(DATA, b"") * 1000, endless=True),
    ],
    ids=["deaf", "empty data", "much empty data"],
)
@pytest.mark.parametrize("getting", [True, False])
async def test_a_file_that_does_not_arrive_is_given_up(sandbox: HostileSandbox, getting: bool) -> None:
    sandbox = HostileSandbox(*sandbox.stream.answers, endless=sandbox.stream.endless, deaf=sandbox.stream.deaf)
    async with asyncio.timeout(10), ScriptExecutor(sandbox) as executor:
        with pytest.raises((SandboxLostError, SandboxProtocolError)):
            await (executor.get("a", max_bytes=100) if getting else executor.put("a", b"x"))


def _first_then_silence(stream: HostileStream) -> Callable[[], Any]:
    async def receive() -> bytes:
        if stream.heard == 1 and not stream.outbox.empty():
            return stream.outbox.get_nowait()
        while not stream.closed:
            await asyncio.sleep(0.01)
        return b""

    return receive
