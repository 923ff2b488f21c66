"""Runs as spans and metrics, taken in by the real SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import TypeAdapter

from agentexec.errors import ModelUnreachable
from agentexec.events import (
    AnyEvent,
    BlockFinished,
    BlockStarted,
    Event,
    MessageAdded,
    ModelCalled,
    RunFinished,
    RunResumed,
    RunStarted,
    TraceStarted,
    TurnStarted,
    WorkspaceNotSaved,
)
from agentexec.log import EventLog
from agentexec.models.base import ChatMessage, Completion, ModelRetry, OnRetry, OnText, Usage
from agentexec.result import SolveResult
from agentexec.solving import solve
from agentexec.telemetry import Tracing, last_trace
from sandboxes.fake import FakeExecutor
from sandboxes.types import CodeBlock, Limits, Result
from tests.agentexec.doubles import ScriptedModel, SilentModel, run

SECRET = "hunter2"


class Recorded:
    """A `Tracing` into memory."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracing = Tracing(tracer_provider=self.provider, meter_provider=meters, **options)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return tuple(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def points(self) -> dict[str, list[HistogramDataPoint]]:
        found: dict[str, list[HistogramDataPoint]] = {}
        data = self.reader.get_metrics_data()
        assert data is not None
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [p for p in metric.data.data_points if isinstance(p, HistogramDataPoint)]
        return found

    def tree(self) -> dict[str, list[str]]:
        """Return the names of spans to those of their children, in the order in which these began."""
        spans = sorted(self.spans, key=lambda span: span.start_time or 0)
        names = {span.context.span_id: span.name for span in spans if span.context is not None}
        found: dict[str, list[str]] = {}
        for span in spans:
            parent = "" if span.parent is None else names[span.parent.span_id]
            found.setdefault(parent, []).append(span.name)
        return found


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def solved(recorded: Recorded, model: ScriptedModel | None = None, **options: Any) -> SolveResult:
    model = model or ScriptedModel([run(f"print('{SECRET}')"), f"FINAL ANSWER: {SECRET}."])
    executor = FakeExecutor(
        lambda block: Result(verdict="ok", stdout=SECRET, duration=0.5, cpu_time=0.25, peak_memory=1 << 20),
        limits=Limits(memory="64M", wall_time=5),
    )
    return await solve(
        f"Find {SECRET}", model=model, executor=executor, tracing=recorded.tracing, **{"review": False, **options}
    )


async def test_a_run_is_a_tree_of_spans(recorded: Recorded) -> None:
    result = await solved(recorded)
    assert result.solved
    assert recorded.tree() == {
        "": ["invoke_workflow solve"],
        "invoke_workflow solve": [
            "invoke_agent planner",
            "invoke_agent coder",
            "invoke_agent executor",
            "invoke_agent coder",
        ],
        "invoke_agent planner": ["chat scripted"],
        "invoke_agent coder": ["chat scripted", "chat scripted"],
        "invoke_agent executor": ["execute_tool python"],
    }
    root = attributes(recorded.one("invoke_workflow solve"))
    assert root["gen_ai.operation.name"] == "invoke_workflow"
    assert root["gen_ai.conversation.id"] == result.run_id
    assert (root["agentexec.status"], root["agentexec.stop_reason"]) == ("solved", "final_answer")
    chat = recorded.named("chat scripted")[0]
    assert chat.kind is SpanKind.CLIENT
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "scripted-1",
        "gen_ai.agent.name": "planner",
        "gen_ai.conversation.id": result.run_id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.time_to_first_chunk": attributes(chat)["gen_ai.response.time_to_first_chunk"],
        "agentexec.cost.usd": 0.01,
    }
    tool = recorded.one("execute_tool python")
    found = attributes(tool)
    assert found["gen_ai.operation.name"] == "execute_tool"
    assert (found["gen_ai.tool.name"], found["gen_ai.tool.type"]) == ("python", "function")
    assert found["agentexec.verdict"] == "ok"
    assert (found["agentexec.duration"], found["agentexec.cpu_time"]) == (0.5, 0.25)
    assert found["agentexec.peak_memory"] == 1 << 20
    assert (found["agentexec.limit.memory"], found["agentexec.limit.wall_time"]) == (64 << 20, 5.0)
    assert tool.status.status_code is StatusCode.UNSET
    assert all(span.end_time and span.start_time and span.end_time >= span.start_time for span in recorded.spans)


async def test_content_is_left_out_unless_asked_for(recorded: Recorded) -> None:
    await solved(recorded)
    assert SECRET not in "".join(span.to_json() for span in recorded.spans)


@pytest.mark.parametrize("how", ["argument", "true", "SPAN_ONLY", "span_and_event"])
async def test_content_by_argument_or_by_the_variable_of_the_conventions(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "argument":
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", how)
    recorded = Recorded(capture_content=True if how == "argument" else None)
    await solved(recorded)
    chat = attributes(recorded.named("chat scripted")[-1])
    (said,) = json.loads(chat["gen_ai.output.messages"])
    assert said == {
        "role": "assistant",
        "parts": [{"type": "text", "content": f"FINAL ANSWER: {SECRET}."}],
        "finish_reason": "stop",
    }
    heard = json.loads(chat["gen_ai.input.messages"])
    assert [each["role"] for each in heard] == ["user"]  # what the executor said; the rest it had heard before
    tool = attributes(recorded.one("execute_tool python"))
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"code": f"print('{SECRET}')\n"}
    assert json.loads(tool["gen_ai.tool.call.result"])["stdout"] == SECRET
    root = attributes(recorded.one("invoke_workflow solve"))
    assert SECRET in root["gen_ai.input.messages"]
    assert SECRET in root["gen_ai.output.messages"]


@pytest.mark.parametrize("value", ["", "false", "NO_CONTENT", "EVENT_ONLY", "1"])
async def test_other_values_of_the_variable_capture_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value)
    recorded = Recorded()
    await solved(recorded)
    assert SECRET not in "".join(span.to_json() for span in recorded.spans)


async def test_metrics_have_the_recommended_names_units_and_boundaries(recorded: Recorded) -> None:
    await solved(recorded)
    points = recorded.points()
    assert set(points) == {
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.duration",
        "gen_ai.invoke_agent.duration",
        "gen_ai.execute_tool.duration",
        "gen_ai.workflow.duration",
    }
    tokens = {str((p.attributes or {})["gen_ai.token.type"]): p for p in points["gen_ai.client.token.usage"]}
    assert (tokens["input"].sum, tokens["input"].count, tokens["output"].sum) == (30, 3, 15)
    assert tokens["input"].explicit_bounds == tuple(4**power for power in range(14))
    (duration,) = points["gen_ai.client.operation.duration"]
    assert duration.explicit_bounds == tuple(round(0.01 * 2**power, 2) for power in range(14))
    assert dict(duration.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "scripted-1",
    }
    agents = {str((p.attributes or {})["gen_ai.agent.name"]): p.count for p in points["gen_ai.invoke_agent.duration"]}
    assert agents == {"planner": 1, "coder": 2, "executor": 1}


@pytest.mark.parametrize("verdict", ["failed", "timeout", "memory"])
async def test_a_block_that_fails_is_an_error_with_its_verdict(recorded: Recorded, verdict: Any) -> None:
    model = ScriptedModel([run("1/0"), "FINAL ANSWER: no."])
    executor = FakeExecutor(lambda block: Result(verdict=verdict, exit_code=1, message=SECRET))
    await solve("x", model=model, executor=executor, tracing=recorded.tracing, review=False)
    tool = recorded.one("execute_tool python")
    assert tool.status.status_code is StatusCode.ERROR
    assert attributes(tool)["error.type"] == attributes(tool)["agentexec.verdict"] == verdict
    assert SECRET not in tool.to_json()
    assert recorded.one("invoke_agent executor").status.status_code is StatusCode.UNSET
    (point,) = recorded.points()["gen_ai.execute_tool.duration"]
    assert (point.attributes or {})["error.type"] == verdict


async def test_a_block_that_is_refused_says_so(recorded: Recorded) -> None:
    await solved(recorded, approve=lambda block: f"because of {SECRET}")
    tool = recorded.one("execute_tool python")
    assert [event.name for event in tool.events] == ["agentexec.block.refused"]
    assert attributes(tool)["error.type"] == "refused"
    assert SECRET not in tool.to_json()


class Flaky(ScriptedModel):
    """Fails once before each answer."""

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        on_text: OnText | None = None,
        on_retry: OnRetry | None = None,
        **options: Any,
    ) -> Completion:
        if on_retry is not None:
            on_retry(ModelRetry(1, 0.5, f"503 {SECRET}"))
        return await super().complete(messages, on_text=on_text, on_retry=on_retry, **options)


def test_a_workspace_that_could_not_be_saved_is_an_event_of_the_run(recorded: Recorded) -> None:
    log = EventLog("r")
    recorded.tracing.follow(log)
    log.append(RunResumed())
    log.append(WorkspaceNotSaved(reason="/secret is full"))
    log.append(RunFinished(status="not_solved", stop_reason="max_turns"))
    (root,) = recorded.spans
    assert [event.name for event in root.events] == ["agentexec.workspace.not_saved"]
    assert "/secret" not in root.to_json()


async def test_attempts_that_failed_are_events_of_the_reply(recorded: Recorded) -> None:
    await solved(recorded, Flaky(["FINAL ANSWER: 1"]), plan=False)
    chat = recorded.one("chat scripted")
    (event,) = chat.events
    assert event.name == "agentexec.model.retried"
    assert dict(event.attributes or {}) == {"agentexec.retry.attempt": 1, "agentexec.retry.delay": 0.5}
    assert chat.status.status_code is StatusCode.UNSET


async def test_a_model_that_fails_is_an_error_all_the_way_up(recorded: Recorded) -> None:
    await solved(recorded, ScriptedModel([ModelUnreachable(f"no connection with {SECRET}")]), plan=False)
    for name in ("chat scripted", "invoke_agent coder", "invoke_workflow solve"):
        span = recorded.one(name)
        assert (span.status.status_code, attributes(span)["error.type"]) == (StatusCode.ERROR, "model_failed")
        assert SECRET not in span.to_json()
    (point,) = recorded.points()["gen_ai.client.operation.duration"]
    assert (point.attributes or {})["error.type"] == "model_failed"


async def test_a_run_that_is_cancelled_leaves_no_span_open(recorded: Recorded) -> None:
    task = asyncio.create_task(
        solve("x", model=SilentModel(), executor=FakeExecutor(), tracing=recorded.tracing, plan=False)
    )
    while not recorded.provider or not task.done():
        await asyncio.sleep(0.02)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attributes(recorded.one("invoke_workflow solve"))["error.type"] == "interrupted"
    assert recorded.one("invoke_agent coder").end_time is not None


async def test_runs_at_the_same_time_do_not_mix(recorded: Recorded) -> None:
    results = await asyncio.gather(*(solved(recorded) for _ in range(5)))
    assert len(recorded.spans) == 5 * 9
    for result in results:
        mine = [span for span in recorded.spans if attributes(span)["gen_ai.conversation.id"] == result.run_id]
        assert len(mine) == 9
        assert len({span.context.trace_id for span in mine if span.context is not None}) == 1


async def test_a_run_belongs_to_the_span_around_it(recorded: Recorded) -> None:
    with recorded.provider.get_tracer("app").start_as_current_span("request"):
        await solved(recorded)
    assert recorded.tree()[""] == ["request"]
    assert recorded.tree()["request"] == ["invoke_workflow solve"]


async def test_nothing_is_recorded_and_nothing_set_up_without_a_provider() -> None:
    before = trace.get_tracer_provider()
    result = await solve(
        "x",
        model=ScriptedModel(["FINAL ANSWER: 1"]),
        executor=FakeExecutor(),
        tracing=True,
        plan=False,
        review=False,
    )
    assert result.solved
    assert trace.get_tracer_provider() is before
    assert not any(isinstance(event, TraceStarted) for event in result.events)


async def test_the_providers_of_the_application_are_used() -> None:
    program = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
from agentexec import solve
from sandboxes.fake import FakeExecutor
from tests.agentexec.doubles import ScriptedModel
model = ScriptedModel(["FINAL ANSWER: 1"])
asyncio.run(solve("x", model=model, executor=FakeExecutor(), tracing=True, plan=False, review=False))
print(sorted(span.name for span in exporter.get_finished_spans()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stdout.strip() == "['chat scripted', 'invoke_agent coder', 'invoke_workflow solve']", done.stderr


def started() -> RunStarted:
    return RunStarted(run_id="r", task="t", model="m", executor="fake", limits=Limits())


def test_a_resumed_run_links_to_the_trace_that_its_log_tells_of(recorded: Recorded) -> None:
    log = EventLog("r")
    recorded.tracing.follow(log)
    log.append(started())
    log.append(RunFinished(status="interrupted", stop_reason="interrupted"))
    (first,) = recorded.spans
    assert first.context is not None
    # what a store keeps and gives back
    adapter: TypeAdapter[Event] = TypeAdapter(AnyEvent)
    stored = [adapter.validate_json(event.model_dump_json()) for event in log]
    again = EventLog("r")
    for event in stored:
        again.append(event)
    context = last_trace(again)
    assert context is not None
    assert (context.trace_id, context.span_id) == (first.context.trace_id, first.context.span_id)
    recorded.tracing.follow(again)
    again.append(BlockStarted(turn=1, index=0, block=CodeBlock("1")))
    again.append(BlockFinished(turn=1, index=0, block=CodeBlock("1"), result=Result(verdict="ok")))
    again.append(RunFinished(status="solved", stop_reason="final_answer"))
    second = recorded.named("invoke_workflow solve")[-1]
    assert second.context is not None
    assert second.context.trace_id != first.context.trace_id
    (link,) = second.links
    assert (link.context.trace_id, link.context.span_id) == (first.context.trace_id, first.context.span_id)
    assert attributes(second)["agentexec.resumed"]
    assert attributes(recorded.one("execute_tool python"))["agentexec.limit.wall_time"] == 60.0
    newest = last_trace(again)
    assert newest is not None
    assert newest.span_id == second.context.span_id


def test_a_block_that_never_ended_is_ended_with_the_run(recorded: Recorded) -> None:
    log = EventLog("r")
    recorded.tracing.follow(log)
    log.append(started())
    log.append(BlockStarted(turn=1, index=0, block=CodeBlock("1")))
    log.append(RunFinished(status="sandbox_failed", stop_reason="sandbox_failed"))
    assert attributes(recorded.one("execute_tool python"))["error.type"] == "sandbox_failed"


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "01-" + "a" * 32 + "-" + "b" * 16]
)
def test_a_trace_context_that_makes_no_sense_costs_nothing(recorded: Recorded, traceparent: str) -> None:
    log = EventLog("r")
    log.append(started())
    log.append(TraceStarted(traceparent=traceparent))
    recorded.tracing.follow(log)
    log.append(RunFinished(status="solved", stop_reason="final_answer"))
    log.append(BlockStarted(turn=1, index=0, block=CodeBlock("1")))
    log.append(RunFinished(status="solved", stop_reason="final_answer"))
    assert recorded.one("invoke_workflow solve").links == ()


class Broken(SimpleSpanProcessor):
    """Raises."""

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no")


async def test_a_processor_that_raises_does_not_cost_the_run(caplog: pytest.LogCaptureFixture) -> None:
    recorded = Recorded()
    recorded.provider.add_span_processor(Broken(recorded.exporter))
    result = await solved(recorded)
    assert result.solved
    assert len([each for each in caplog.records if "tracing of run" in each.message]) == 1


async def test_the_server_is_named() -> None:
    recorded = Recorded(server="https://models.example/v1", provider="mistral_ai")
    await solved(recorded)
    chat = attributes(recorded.named("chat scripted")[0])
    assert (chat["server.address"], chat["server.port"]) == ("models.example", 443)
    assert chat["gen_ai.provider.name"] == "mistral_ai"


async def test_unknown_usage_and_cost_are_left_out(recorded: Recorded) -> None:
    await solved(recorded, ScriptedModel([Completion("FINAL ANSWER: 1")]), plan=False)
    chat = attributes(recorded.one("chat scripted"))
    assert not [name for name in chat if "usage" in name or "cost" in name]
    assert "gen_ai.client.token.usage" not in recorded.points()


async def test_reasoning_and_cached_tokens(recorded: Recorded) -> None:
    usage = Usage(input_tokens=9, output_tokens=8, cached_tokens=7, reasoning_tokens=6)
    model = ScriptedModel([Completion("FINAL ANSWER: 1", usage=usage, cost=Decimal("0.5"))])
    await solved(recorded, model, plan=False)
    chat = attributes(recorded.one("chat scripted"))
    assert chat["gen_ai.usage.cache_read.input_tokens"] == 7
    assert chat["gen_ai.usage.reasoning.output_tokens"] == 6


def test_it_listens_to_nothing_but_events() -> None:
    """The loop knows of no tracing: an event log that is played again makes the same spans."""
    recorded = Recorded()
    log = EventLog("r")
    recorded.tracing.follow(log)
    for event in (started(), MessageAdded.model_validate({"message": {"sender": "task", "content": "t"}})):
        log.append(event)
    assert recorded.named("invoke_workflow solve") == []
    log.append(RunFinished(status="solved", stop_reason="final_answer"))
    assert [span.name for span in recorded.spans] == ["invoke_workflow solve"]


def test_agents_of_teams_at_the_same_time_have_the_right_parents(recorded: Recorded) -> None:
    log = EventLog("r")
    recorded.tracing.follow(log)
    log.append(started())
    log.append(TurnStarted(turn=1, agent="research"))
    for team in ("left#1", "right#1"):
        log.append(TurnStarted(turn=2, agent=f"coder of {team}", team=team))
        log.append(TurnStarted(turn=3, agent=f"helper in {team}", team=f"{team}/deep#2"))
    for team in ("left#1", "right#1"):  # interleaved: each ends while the other is not over
        log.append(ModelCalled(agent="coder", model=f"model of {team}", team=f"{team}/deep#2"))
        log.append(BlockStarted(turn=3 if team == "left#1" else 4, index=0, block=CodeBlock("1"), team=team))
    for team in ("right#1", "left#1"):
        block = CodeBlock("1")
        ok = Result(verdict="ok")
        log.append(BlockFinished(turn=3 if team == "left#1" else 4, index=0, block=block, result=ok, team=team))
        for place in (f"{team}/deep#2", team):
            log.append(MessageAdded.model_validate({"message": {"sender": "x", "content": "t"}, "team": place}))
    log.append(MessageAdded.model_validate({"message": {"sender": "research", "content": "t"}}))
    log.append(RunFinished(status="solved", stop_reason="final_answer"))
    by_id = {span.context.span_id: span for span in recorded.spans if span.context is not None}

    def parent(span: ReadableSpan) -> str:
        return "" if span.parent is None else by_id[span.parent.span_id].name

    for team in ("left#1", "right#1"):
        coder, helper = f"invoke_agent coder of {team}", f"invoke_agent helper in {team}"
        assert parent(recorded.one(coder)) == "invoke_agent research"
        assert parent(recorded.one(helper)) == coder
        chat = next(s for s in recorded.named("chat m") if attributes(s)["gen_ai.response.model"] == f"model of {team}")
        assert parent(chat) == helper
    assert {parent(tool) for tool in recorded.named("execute_tool python")} == {
        "invoke_agent coder of left#1",
        "invoke_agent coder of right#1",
    }
    assert len(recorded.spans) == 1 + 1 + 2 + 2 + 2 + 2
