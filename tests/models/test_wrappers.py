"""Models made of models: each wrapper alone, and several around each other, in front of a real server."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from agentexec.errors import ModelAuthError, ModelBudgetSpent, ModelError, ModelRateLimited, ModelUnreachable
from agentexec.models import (
    Budget,
    BudgetedModel,
    CachingModel,
    CallOptions,
    ChatMessage,
    Completion,
    FallbackModel,
    Model,
    ModelRetry,
    OnRetry,
    OnText,
    OpenAIModel,
    RateLimit,
    RateLimitedModel,
    RecordingModel,
    ReplayModel,
    ReplyFormat,
    Retries,
    RetryingModel,
    Tool,
    ToolCall,
    Usage,
)
from agentexec.pictures import Picture
from tests.openai_server import Fault, OpenAIServer

HELLO = [ChatMessage("system", "You are the coder."), ChatMessage("user", "Say hello.")]
ONCE = Retries(attempts=1)
FAST = Retries(first_delay=0.001, longest_delay=0.002)
RETRYABLE = ModelRateLimited("slow down")
RETRYABLE.retryable = True


class Script(Model):
    """Gives its lines in order, the last one for ever; an error among them is raised."""

    def __init__(self, *lines: str | Completion | ModelError, name: str = "script") -> None:
        self.name = name
        self.lines = lines
        self.asked: list[Sequence[ChatMessage]] = []
        self.closed = 0

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        options: CallOptions | None = None,
    ) -> Completion:
        line = self.lines[min(len(self.asked), len(self.lines) - 1)]
        self.asked.append(messages)
        if isinstance(line, ModelError):
            raise line
        if isinstance(line, str):
            line = Completion(line, Usage(input_tokens=10, output_tokens=5), Decimal("0.01"), model=self.name)
        if on_text is not None:
            on_text(line.text)
        return line

    async def close(self) -> None:
        self.closed += 1


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class TestRetrying:
    async def test_what_passes_is_tried_again_and_told(self) -> None:
        retries: list[ModelRetry] = []
        model = RetryingModel(Script(RETRYABLE, RETRYABLE, "yes"), FAST)
        assert (await model.complete(HELLO, on_retry=retries.append)).text == "yes"
        assert [retry.attempt for retry in retries] == [1, 2]

    async def test_what_lasts_is_not(self) -> None:
        inner = Script(ModelAuthError("no key"))
        with pytest.raises(ModelAuthError):
            await RetryingModel(inner, FAST).complete(HELLO)
        assert len(inner.asked) == 1

    async def test_it_is_bounded_and_waits_as_long_as_the_server_asks(self) -> None:
        patient = ModelRateLimited("wait")
        patient.retryable, patient.retry_after = True, 0.05
        waited: list[ModelRetry] = []
        with pytest.raises(ModelRateLimited, match="tried 2 times"):
            await RetryingModel(Script(patient), Retries(attempts=2)).complete(HELLO, on_retry=waited.append)
        assert 0.05 <= waited[0].delay < 0.06

    async def test_errors_of_a_server_say_whether_to_try_again(self, server: OpenAIServer) -> None:
        server.faults = [Fault("status", status=503, headers={"Retry-After": "0.01"})]
        model = RetryingModel(OpenAIModel("gpt-4o-mini", base_url=server.url, retries=ONCE), FAST)
        assert (await model.complete(HELLO)).text == "Hello from the server."
        await model.close()
        assert len(server.requests) == 2


class TestFallback:
    async def test_the_next_one_answers_and_the_first_is_left_alone_for_a_while(self) -> None:
        clock = Clock()
        first, second = Script(ModelUnreachable("down"), "first"), Script("second", name="other")
        model = FallbackModel(first, second, pause=60, clock=clock)
        told: list[ModelRetry] = []
        assert (await model.complete(HELLO, on_retry=told.append)).text == "second"
        assert "other is asked instead" in told[0].reason
        assert (await model.complete(HELLO)).text == "second"
        assert len(first.asked) == 1
        clock.now += 61
        assert (await model.complete(HELLO)).text == "first"

    async def test_a_paused_model_is_better_than_none(self) -> None:
        first, second = Script(ModelUnreachable("down"), "back"), Script("second", ModelUnreachable("down too"))
        model = FallbackModel(first, second)
        await model.complete(HELLO)
        assert (await model.complete(HELLO)).text == "back"

    async def test_all_down_is_the_preferred_ones_error(self) -> None:
        model = FallbackModel(Script(ModelUnreachable("one")), Script(ModelAuthError("two"), name="other"))
        with pytest.raises(ModelUnreachable, match="one") as caught:
            await model.complete(HELLO)
        assert caught.value.__notes__ == ["other failed too: two"]

    async def test_a_real_server_that_is_down(self, server: OpenAIServer) -> None:
        dead = OpenAIModel("gpt-5", base_url="http://127.0.0.1:9/v1", retries=ONCE)
        model = FallbackModel(dead, OpenAIModel("gpt-4o-mini", base_url=server.url))
        assert (await model.complete(HELLO)).model == "gpt-4o-mini"
        assert model.name == "gpt-5"
        await model.close()

    async def test_closing_closes_all_even_if_one_fails_to(self) -> None:
        class Stuck(Script):
            async def close(self) -> None:
                raise OSError("stuck")

        first, last = Script(""), Script("")
        with pytest.raises(OSError, match="stuck"):
            await FallbackModel(first, Stuck(""), last).close()
        assert (first.closed, last.closed) == (1, 1)


PICTURE = Picture(name="a.png", media_type="image/png", data=b"1")
ASKED = [
    (HELLO, None),
    ([HELLO[0], ChatMessage("user", "Say hallo.")], None),
    ([ChatMessage("user", "Say hello."), HELLO[0]], None),
    ([HELLO[0], ChatMessage("user", "Say hello.", pictures=(PICTURE,))], None),
    ([HELLO[0], ChatMessage("user", "Say hello.", pictures=(PICTURE.model_copy(update={"data": b"2"}),))], None),
    ([*HELLO, ChatMessage("assistant", "", calls=(ToolCall("1", "f", "{}"),))], None),
    ([*HELLO, ChatMessage("assistant", "", calls=(ToolCall("1", "f", "{} "),))], None),
    (HELLO, CallOptions(format=ReplyFormat("a", {"type": "object"}))),
    (HELLO, CallOptions(tools=(Tool("a", "b", {"type": "object"}),))),
]


class TestCaching:
    async def test_the_same_request_is_answered_from_disk_and_costs_nothing(self, tmp_path: Path) -> None:
        inner = Script("hello")
        first = await CachingModel(inner, tmp_path / "cache").complete(HELLO)
        pieces: list[str] = []
        again = await CachingModel(inner, tmp_path / "cache").complete(HELLO, on_text=pieces.append)
        assert len(inner.asked) == 1
        assert again.text == first.text == "".join(pieces)
        assert (first.cached, again.cached) == (False, True)
        assert (again.usage, again.cost) == (Usage(), Decimal(0))
        assert again.model == first.model

    async def test_every_part_of_a_request_counts(self, tmp_path: Path) -> None:
        inner = Script(*(f"answer {number}" for number in range(len(ASKED))))
        model = CachingModel(inner, tmp_path)
        for _ in range(2):
            texts = [(await model.complete(messages, options=options)).text for messages, options in ASKED]
            assert texts == list(inner.lines)
        assert (model.hits, model.misses) == (len(ASKED), len(ASKED))

    async def test_models_servers_and_parameters_count(self, server: OpenAIServer, tmp_path: Path) -> None:
        server.replies = {"*": [f"answer {number}" for number in range(4)]}
        with OpenAIServer({"*": ["another server"]}) as other:
            models = [
                OpenAIModel("gpt-4o-mini", base_url=server.url),
                OpenAIModel("gpt-4o", base_url=server.url),
                OpenAIModel("gpt-4o-mini", base_url=server.url, parameters={"temperature": 0}),
                OpenAIModel("gpt-4o-mini", base_url=server.url, images="off"),
                OpenAIModel("gpt-4o-mini", base_url=other.url),
            ]
            texts = []
            for model in models:
                texts.append((await CachingModel(model, tmp_path).complete(HELLO)).text)
                await model.close()
        assert texts == ["answer 0", "answer 1", "answer 2", "answer 3", "another server"]
        assert server.requests[2]["temperature"] == 0

    async def test_tool_calls_are_kept(self, tmp_path: Path) -> None:
        calls = (ToolCall("c1", "execute_code", '{"code": "1"}'),)
        inner = Script(Completion("", calls=calls, finish_reason="tool_calls"))
        for _ in range(2):
            assert (await CachingModel(inner, tmp_path).complete(HELLO)).calls == calls
        assert len(inner.asked) == 1

    @pytest.mark.parametrize(
        "answer",
        [Completion(" \n"), Completion("no", refusal=True), Completion("cut off", finish_reason="content_filter")],
    )
    async def test_what_is_no_answer_is_not_kept(self, tmp_path: Path, answer: Completion) -> None:
        model = CachingModel(Script(answer, "better"), tmp_path)
        await model.complete(HELLO)
        assert (await model.complete(HELLO)).text == "better"

    @pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"text": 7}'])
    async def test_a_damaged_file_counts_as_missing_and_is_mended(self, tmp_path: Path, damage: bytes) -> None:
        inner = Script("one", "two")
        model = CachingModel(inner, tmp_path)
        await model.complete(HELLO)
        (path,) = tmp_path.iterdir()
        path.write_bytes(damage)
        assert (await model.complete(HELLO)).text == "two"
        assert (await model.complete(HELLO)).text == "two"

    async def test_a_directory_that_cannot_be_made_costs_no_answer(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        model = CachingModel(Script("yes"), tmp_path / "file" / "cache")
        assert (await model.complete(HELLO)).text == "yes"
        assert "could not be kept" in caplog.text

    async def test_the_directory_is_bounded_and_what_was_used_last_stays(self, tmp_path: Path) -> None:
        inner = Script("x" * 1000)
        model = CachingModel(inner, tmp_path, max_bytes=20_000)
        asked = [[HELLO[0], ChatMessage("user", str(number))] for number in range(60)]
        for number, messages in enumerate(asked):
            await model.complete(messages)
            if number == 0:
                (first,) = tmp_path.iterdir()
            os.utime(first, (4e9, 4e9))  # as if it were used all the time
        files = list(tmp_path.iterdir())
        assert sum(path.stat().st_size for path in files) <= 20_000
        assert 10 < len(files) < 20
        await model.complete(asked[0])
        assert model.hits == 1

    async def test_files_of_others_in_the_directory_stay(self, tmp_path: Path) -> None:
        for name in ("mine.json", "mine.tmp", "0" * 64 + ".txt"):
            (tmp_path / name).write_text("x" * 50_000)
        model = CachingModel(Script("x" * 1000), tmp_path, max_bytes=2_000)
        for number in range(5):
            await model.complete([HELLO[0], ChatMessage("user", str(number))])
        files = sorted(path.name for path in tmp_path.iterdir())
        assert {"mine.json", "mine.tmp", "0" * 64 + ".txt"} < set(files)
        assert len(files) == 4

    async def test_files_are_for_their_owner_and_nothing_half_written_is_left(self, tmp_path: Path) -> None:
        directory = tmp_path / "deep" / "cache"
        await CachingModel(Script("yes"), directory).complete(HELLO)
        assert directory.stat().st_mode & 0o077 == 0
        assert [path.suffix for path in directory.iterdir()] == [".json"]


class TestRateLimit:
    def test_requests_go_at_once_up_to_a_minutes_worth_and_then_evenly(self) -> None:
        clock = Clock()
        limit = RateLimit(requests=60, clock=clock)
        assert [limit.take(0) for _ in range(60)] == [0] * 60
        assert [round(limit.take(0), 3) for _ in range(3)] == [1, 2, 3]
        clock.now += 3
        assert round(limit.take(0), 3) == 1
        clock.now += 3600
        assert [limit.take(0) for _ in range(60)] == [0] * 60
        assert limit.take(0) > 0

    def test_tokens_are_charged_and_settled(self) -> None:
        clock = Clock()
        limit = RateLimit(tokens=6000, clock=clock)
        assert limit.take(3000) == 0
        limit.settle(0, 4000)  # the reply was longer than expected
        assert round(limit.take(1000), 3) == 20
        limit.settle(0, -2000)
        assert limit.take(0) == 0

    async def test_it_is_shared_between_models_and_a_cancelled_wait_gives_back(self) -> None:
        limit = RateLimit(requests=1)
        one, other = RateLimitedModel(Script("one"), limit), RateLimitedModel(Script("other"), limit)
        await one.complete(HELLO)
        waiting = asyncio.create_task(other.complete(HELLO))
        await asyncio.sleep(0)
        assert limit.take(0) > 100
        limit.settle(-1, 0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert 50 < limit.take(0) <= 60

    async def test_calls_really_wait(self) -> None:
        model = RateLimitedModel(Script("yes"), RateLimit(requests=6000))
        model.limit.take(0)
        model.limit.settle(6000, 0)
        began = time.monotonic()
        await asyncio.gather(*(model.complete(HELLO) for _ in range(10)))
        assert time.monotonic() - began >= 0.08

    async def test_answers_from_a_cache_are_free(self, tmp_path: Path) -> None:
        limit = RateLimit(requests=2)
        model = RateLimitedModel(CachingModel(Script("yes"), tmp_path), limit)
        for _ in range(20):
            await model.complete(HELLO)
        assert limit.take(0) == 0

    def test_a_rate_is_more_than_nothing(self) -> None:
        with pytest.raises(ValueError, match="requests must be more than 0"):
            RateLimit(requests=0)
        with pytest.raises(ValueError, match="tokens must be more than 0"):
            RateLimit(tokens=-1)


class TestBudget:
    async def test_it_is_shared_and_ends(self) -> None:
        budget = Budget(max_tokens=40)
        one, other = BudgetedModel(Script("one"), budget), BudgetedModel(Script("other"), budget)
        for model in (one, other, one):
            await model.complete(HELLO)
        assert budget.usage.total_tokens == 45
        with pytest.raises(ModelBudgetSpent, match=r"40 tokens is used up \(45 were used\)"):
            await other.complete(HELLO)

    async def test_money(self) -> None:
        budget = Budget(max_cost=0.02)
        model = BudgetedModel(Script("one"), budget)
        await model.complete(HELLO)
        await model.complete(HELLO)
        assert budget.cost == Decimal("0.02")
        with pytest.raises(ModelBudgetSpent, match=r"0\.02 USD"):
            await model.complete(HELLO)

    @pytest.mark.parametrize("budget", [Budget(max_tokens=10), Budget(max_cost=1)])
    async def test_what_cannot_be_counted_is_not_kept(self, budget: Budget) -> None:
        model = BudgetedModel(Script(Completion("free?", model="m")), budget)
        await model.complete(HELLO)
        with pytest.raises(ModelBudgetSpent, match="cannot be kept"):
            await model.complete(HELLO)

    async def test_answers_from_a_cache_cost_nothing(self, tmp_path: Path) -> None:
        budget = Budget(max_tokens=20)
        model = BudgetedModel(CachingModel(Script("yes"), tmp_path), budget)
        for _ in range(5):
            await model.complete(HELLO)
        assert budget.usage.total_tokens == 15


WRAPPERS: dict[str, Callable[[Model, Path], Model]] = {
    "retry": lambda model, path: RetryingModel(model, FAST),
    "fallback": lambda model, path: FallbackModel(model),
    "cache": lambda model, path: CachingModel(model, path / "cache"),
    "rate": lambda model, path: RateLimitedModel(model, RateLimit(requests=1000, tokens=1e6)),
    "budget": lambda model, path: BudgetedModel(model, Budget(max_tokens=10**6, max_cost=100)),
    "record": lambda model, path: RecordingModel(model, path / "run.jsonl"),
}
FORMAT = CallOptions(format=ReplyFormat("answer", {"type": "object", "properties": {}}))


@pytest.mark.parametrize("order", [*itertools.permutations(WRAPPERS, 2), tuple(WRAPPERS), tuple(WRAPPERS)[::-1]])
async def test_wrappers_compose_in_any_order(server: OpenAIServer, tmp_path: Path, order: Sequence[str]) -> None:
    inner = OpenAIModel("gpt-4o-mini", base_url=server.url, context_window=5000)
    model: Model = inner
    for name in order:
        model = WRAPPERS[name](model, tmp_path)
    pieces: list[str] = []
    answer = await model.complete(HELLO, on_text=pieces.append, options=FORMAT)
    assert answer.text == "".join(pieces) == "Hello from the server."
    assert answer.usage is not None
    assert "response_format" in server.requests[0]
    assert (model.name, model.supports, model.context_window) == (inner.name, inner.supports, 5000)
    assert model.identity == inner.identity
    await model.close()
    await model.close()
    assert inner._client is None
    if "record" in order:
        replayed = await ReplayModel(tmp_path / "run.jsonl", strict=True).complete(HELLO)
        assert replayed.text == answer.text


async def test_two_models_record_one_run(tmp_path: Path) -> None:
    coder = RecordingModel(Script("code"), tmp_path / "run.jsonl")
    reviewer = RecordingModel(Script("APPROVE"), coder)
    asked = [ChatMessage("system", "You are the reviewer.")]
    await coder.complete(HELLO)
    await reviewer.complete(asked)
    await coder.complete(HELLO)
    replay = ReplayModel(tmp_path / "run.jsonl")
    assert (await replay.complete(asked)).text == "APPROVE"
    assert [(await replay.complete(HELLO)).text for _ in range(2)] == ["code", "code"]
