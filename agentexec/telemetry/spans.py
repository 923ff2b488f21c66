"""The listener that turns the events of one run into spans and measurements."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags

from agentexec.events import (
    BlockFinished,
    BlockRefused,
    BlockStarted,
    Event,
    Message,
    MessageAdded,
    ModelCalled,
    ModelRetried,
    ModelText,
    RunFinished,
    RunResumed,
    RunStarted,
    TraceStarted,
    TurnStarted,
    WorkspaceNotSaved,
)
from agentexec.log import EventLog
from agentexec.telemetry.attributes import (
    cut,
    end_span,
    error_attributes,
    limit_attributes,
    message_json,
    ns,
    result_attributes,
    usage_attributes,
)

if TYPE_CHECKING:
    from agentexec.telemetry import Tracing

WORKFLOW = "solve"
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

_logger = logging.getLogger(__name__)


def last_trace(log: EventLog) -> SpanContext | None:
    """Return the context of the last trace that a log tells of, to link to; None if it was never traced."""
    for event in reversed(log):
        if isinstance(event, TraceStarted):
            match = _TRACEPARENT.fullmatch(event.traceparent)
            if match is not None:
                flags = TraceFlags(int(match[3], 16))
                context = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
                return context if context.is_valid else None
    return None


class _Turn:
    """An agent's turn that is not over."""

    def __init__(self, span: Span, agent: str, began: float) -> None:
        self.span, self.agent, self.began = span, agent, began
        self.context = trace.set_span_in_context(span)
        self.retries: list[ModelRetried] = []
        self.first_text: float | None = None
        self.chat: tuple[Span, float, str] | None = None
        """A reply's span, when it ended, and why; open until its text comes as a message."""
        self.called = False


class RunTrace:
    """The listener: spans that are open, by where they are."""

    def __init__(self, tracing: Tracing, log: EventLog) -> None:
        self._tracing, self._log = tracing, log
        self._tracer = tracing.tracer
        self._outside = otel_context.get_current()
        self._previous = last_trace(log)
        self._root: Span | None = None
        self._context = self._outside
        self._began = 0.0
        self._model = ""
        self._limits: dict[str, Any] = {}
        self._turns: dict[str, _Turn] = {}
        self._blocks: dict[tuple[int, int], tuple[Span, float]] = {}
        self._heard: dict[str, list[Message]] = {}
        self._spoke: dict[tuple[str, str], int] = {}
        for event in log:
            self._learn(event)
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            TurnStarted: self._turn_started,
            ModelText: self._model_text,
            ModelRetried: self._model_retried,
            ModelCalled: self._model_called,
            MessageAdded: self._message,
            BlockStarted: self._block_started,
            BlockFinished: self._block_finished,
            BlockRefused: self._block_refused,
            WorkspaceNotSaved: self._not_saved,
            RunFinished: self._run_finished,
        }
        self._failed = False

    def __call__(self, event: Event) -> None:
        if self._failed:
            return
        try:
            if self._root is None and not event.transient and not isinstance(event, TraceStarted | RunFinished):
                self._start(event)
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(event)
        except Exception:
            # A defect of the tracing, or of a span processor, must not cost the run.
            self._failed = True
            _logger.warning("tracing of run %s ends here", self._log.run_id, exc_info=True)

    def _learn(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._model = event.model
        if isinstance(event, RunStarted | RunResumed) and event.limits is not None:
            self._limits = limit_attributes(event.limits)

    def _start(self, event: Event) -> None:
        self._learn(event)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": WORKFLOW,
            "gen_ai.conversation.id": self._log.run_id,
            "agentexec.resumed": not isinstance(event, RunStarted),
        }
        if isinstance(event, RunStarted):
            attributes["agentexec.sandbox"] = event.executor
            if self._tracing.capture_content:
                attributes["gen_ai.input.messages"] = message_json([("user", event.task, "")])
        self._began = event.time
        self._root = self._tracer.start_span(
            f"invoke_workflow {WORKFLOW}",
            self._outside,
            SpanKind.INTERNAL,
            attributes,
            links=[Link(self._previous, {"agentexec.link": "resumed"})] if self._previous is not None else (),
            start_time=ns(event.time),
        )
        self._context = trace.set_span_in_context(self._root, self._outside)
        here = self._root.get_span_context()
        if here.is_valid:
            parent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"
            self._log.append(TraceStarted(traceparent=parent))

    def _around(self, team: str) -> otel_context.Context:
        """Return the context in which a team's turns are: the turn around it, or the run."""
        while team:
            team = team.rpartition("/")[0]
            if team in self._turns:
                return self._turns[team].context
        return self._context

    def _turn_started(self, event: TurnStarted) -> None:
        span = self._tracer.start_span(
            f"invoke_agent {event.agent}",
            self._around(event.team),
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": event.agent,
                "gen_ai.conversation.id": self._log.run_id,
                "agentexec.turn": event.turn,
                **({"agentexec.team": event.team} if event.team else {}),
            },
            start_time=ns(event.time),
        )
        self._turns[event.team] = _Turn(span, event.agent, event.time)

    def _end_turn(self, team: str, time: float, error: str = "") -> None:
        turn = self._turns.pop(team, None)
        if turn is None:
            return
        self._end_chat(turn)
        end_span(turn.span, time, error)
        self._tracing.agent_seconds.record(
            max(0.0, time - turn.began), {"gen_ai.agent.name": turn.agent, **error_attributes(error)}
        )

    def _model_text(self, event: ModelText) -> None:
        turn = self._turns.get(event.team)
        if turn is not None and turn.first_text is None:
            turn.first_text = event.time

    def _model_retried(self, event: ModelRetried) -> None:
        turn = self._turns.get(event.team)
        if turn is not None:
            turn.retries.append(event)
            turn.first_text = None

    def _model_called(self, event: ModelCalled) -> None:
        began = event.time - event.duration
        turn = self._turns.get(event.team)
        attributes = {
            "gen_ai.response.model": event.model,
            "gen_ai.response.finish_reasons": [event.finish_reason],
            **usage_attributes(event.usage),
        }
        if event.cost is not None:
            attributes["agentexec.cost.usd"] = float(event.cost)
        if turn is not None and turn.first_text is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = max(0.0, turn.first_text - began)
        span = self._chat(turn, event.agent, began, attributes)
        measured = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": event.model,
            **self._tracing.called,
        }
        self._tracing.model_seconds.record(event.duration, measured)
        if event.usage is not None:
            self._tracing.tokens.record(event.usage.input_tokens, {**measured, "gen_ai.token.type": "input"})
            self._tracing.tokens.record(event.usage.output_tokens, {**measured, "gen_ai.token.type": "output"})
        if turn is None:
            end_span(span, event.time)
        else:
            turn.chat = span, event.time, event.finish_reason

    def _chat(self, turn: _Turn | None, agent: str, began: float, attributes: Mapping[str, Any]) -> Span:
        """Start the span of a model's reply, with what failed before it."""
        if turn is not None:
            self._end_chat(turn)
            turn.called = True
        span = self._tracer.start_span(
            f"chat {self._model}",
            self._context if turn is None else turn.context,
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": self._model,
                "gen_ai.agent.name": agent,
                "gen_ai.conversation.id": self._log.run_id,
                **self._tracing.called,
                **attributes,
            },
            start_time=ns(began),
        )
        for retry in turn.retries if turn is not None else ():
            said = {"agentexec.retry.reason": cut(retry.reason)} if self._tracing.capture_content else {}
            attempt: dict[str, Any] = {"agentexec.retry.attempt": retry.attempt, "agentexec.retry.delay": retry.delay}
            span.add_event("agentexec.model.retried", {**attempt, **said}, ns(retry.time))
        if turn is not None:
            turn.retries.clear()
            turn.first_text = None
        return span

    def _end_chat(self, turn: _Turn, said: Message | None = None) -> None:
        if turn.chat is None:
            return
        (span, time, reason), turn.chat = turn.chat, None
        if said is not None and self._tracing.capture_content:
            span.set_attribute("gen_ai.output.messages", message_json([("assistant", said.content, reason)]))
        end_span(span, time)

    def _message(self, event: MessageAdded) -> None:
        message = event.message
        team = event.team
        if self._tracing.capture_content:
            # What the agent had not heard yet: with all of it, a run's spans would grow with the square of its turns.
            heard, place = self._heard.setdefault(team, []), (team, message.sender)
            turn = self._turns.get(team)
            if turn is not None and turn.chat is not None:
                news = [("user", each.content, "") for each in heard[self._spoke.get(place, 0) :]]
                turn.chat[0].set_attribute("gen_ai.input.messages", message_json(news))
            heard.append(message)
            self._spoke[place] = len(heard)
        if team in self._turns:
            self._end_chat(self._turns[team], message)
            self._end_turn(team, event.time)

    def _block_started(self, event: BlockStarted) -> None:
        self._blocks[event.turn, event.index] = self._tool(event), event.time

    def _block(self, event: BlockFinished | BlockRefused) -> tuple[Span, float]:
        """Return the span of a block that is over, and when it began."""
        key = event.turn, event.index
        return self._blocks.pop(key) if key in self._blocks else (self._tool(event), event.time)

    def _tool(self, event: BlockStarted | BlockFinished | BlockRefused) -> Span:
        turn = self._turns.get(event.team)
        block = event.block
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": block.language,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": f"{self._log.run_id}.{event.turn}.{event.index}",
            "gen_ai.agent.name": "executor" if turn is None else turn.agent,
            "gen_ai.conversation.id": self._log.run_id,
            "agentexec.turn": event.turn,
            "agentexec.block": event.index,
            **self._limits,
        }
        if self._tracing.capture_content:
            arguments = {"code": cut(block.code), **({"filename": block.filename} if block.filename else {})}
            attributes["gen_ai.tool.call.arguments"] = json.dumps(arguments)
        name = f"execute_tool {block.language}"
        context = self._context if turn is None else turn.context
        return self._tracer.start_span(name, context, SpanKind.INTERNAL, attributes, start_time=ns(event.time))

    def _block_finished(self, event: BlockFinished) -> None:
        span, began = self._block(event)
        result = event.result
        if span.is_recording():
            span.set_attributes(result_attributes(result))
            if self._tracing.capture_content:
                output = {"stdout": cut(result.stdout), "stderr": cut(result.stderr), "message": result.message}
                span.set_attribute("gen_ai.tool.call.result", json.dumps(output))
        error = "" if result.ok else result.verdict
        end_span(span, event.time, error)
        self._measure_tool(event, event.time - began, error)

    def _block_refused(self, event: BlockRefused) -> None:
        span, _ = self._block(event)
        said = {"agentexec.refusal.reason": cut(event.reason)} if self._tracing.capture_content else None
        span.add_event("agentexec.block.refused", said, ns(event.time))
        end_span(span, event.time, "refused")

    def _measure_tool(self, event: BlockFinished, seconds: float, error: str) -> None:
        turn = self._turns.get(event.team)
        attributes = {
            "gen_ai.tool.name": event.block.language,
            "gen_ai.tool.type": "function",
            "gen_ai.agent.name": "executor" if turn is None else turn.agent,
            **error_attributes(error),
        }
        self._tracing.tool_seconds.record(max(0.0, seconds), attributes)

    def _not_saved(self, event: WorkspaceNotSaved) -> None:
        if self._root is not None:
            self._root.add_event("agentexec.workspace.not_saved", timestamp=ns(event.time))

    def _run_finished(self, event: RunFinished) -> None:
        if self._root is None:
            return
        failed = event.status not in ("solved", "not_solved", "waiting")
        error = event.stop_reason if failed else ""
        for span, _ in self._blocks.values():
            end_span(span, event.time, error or event.stop_reason)
        self._blocks.clear()
        for team in sorted(self._turns, reverse=True):  # the inner ones first
            turn = self._turns[team]
            if event.status == "model_failed" and not turn.called and team == max(self._turns):
                self._model_failed(turn, event.time, error)
            self._end_turn(team, event.time, error or event.stop_reason)
        self._root.set_attributes({"agentexec.status": event.status, "agentexec.stop_reason": event.stop_reason})
        if self._tracing.capture_content and event.answer is not None:
            self._root.set_attribute("gen_ai.output.messages", message_json([("assistant", event.answer, "stop")]))
        end_span(self._root, event.time, error)
        seconds = max(0.0, event.time - self._began)
        self._tracing.workflow_seconds.record(seconds, {"gen_ai.workflow.name": WORKFLOW, **error_attributes(error)})
        self._root = None

    def _model_failed(self, turn: _Turn, time: float, error: str) -> None:
        end_span(self._chat(turn, turn.agent, turn.began, {}), time, error)
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": self._model, **self._tracing.called}
        self._tracing.model_seconds.record(max(0.0, time - turn.began), {**attributes, **error_attributes(error)})
