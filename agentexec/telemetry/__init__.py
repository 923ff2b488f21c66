"""OpenTelemetry spans and metrics of a run, by the semantic conventions for generative AI: a listener on its log.

    result = await solve(task, model=model, tracing=Tracing())

    invoke_workflow solve                      a run, from its start or resumption to its end
    ├── invoke_agent coder                     a turn
    │   └── chat gpt-5-mini                    a model's reply; failed attempts are events on it
    └── invoke_agent executor
        └── execute_tool python                a block, with its verdict, limits, time, CPU time and memory

The turns of a nested team are below the turn that they are part of. A run that is resumed is a new trace with a link to
the one before, which the log remembers (`TraceStarted`). Spans carry no content (task, messages, code, output, what
servers and people said) unless that is asked for.

Names are those of https://github.com/open-telemetry/semantic-conventions-genai as of October 2026, whose status is
"development"; what it has no name for is `agentexec.*`. Only `opentelemetry-api` is needed here, and nothing is set
up: without an SDK that the application configures, or providers that are passed, nothing is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace

from agentexec.log import EventLog
from agentexec.telemetry.spans import RunTrace, last_trace

__all__ = ["Tracing", "last_trace"]

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Variable of the conventions that asks for content; `true`, `SPAN_ONLY` and `SPAN_AND_EVENT` put it on spans."""
SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

# The boundaries that the conventions recommend for each.
_TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_AGENT_SECONDS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6]
_WORKFLOW_SECONDS = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200]


def _captures_by_environment() -> bool:
    return os.environ.get(CAPTURE, "").strip().lower() in ("true", "span_only", "span_and_event")


class Tracing:
    """What `solve(tracing=...)` takes; one may serve any number of runs, also at the same time.

    Args:
        tracer_provider: Where spans go; None is the application's, `opentelemetry.trace.get_tracer_provider()`.
        meter_provider: Where metrics go; None is the application's.
        capture_content: Whether spans carry task, messages, code and output; None leaves it to the variable
            `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`, which is off by default.
        provider: `gen_ai.provider.name`: whose protocol the models speak.
        server: Base URL of the models' server, for `server.address` and `server.port`.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        capture_content: bool | None = None,
        provider: str = "openai",
        server: str | None = None,
    ) -> None:
        own = "agentexec", version("agentexec-toolkit")
        self.tracer = trace.get_tracer(*own, tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        self.capture_content = _captures_by_environment() if capture_content is None else capture_content
        self.called: dict[str, Any] = {"gen_ai.provider.name": provider, **_server(server)}
        meter = metrics.get_meter(*own, meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip

        def durations(name: str, what: str, buckets: Sequence[float]) -> metrics.Histogram:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=buckets)

        self.model_seconds = durations("gen_ai.client.operation.duration", "GenAI operation duration.", _SECONDS)
        self.agent_seconds = durations("gen_ai.invoke_agent.duration", "Duration of an agent's turn.", _AGENT_SECONDS)
        self.tool_seconds = durations("gen_ai.execute_tool.duration", "Duration of a block.", _SECONDS)
        self.workflow_seconds = durations("gen_ai.workflow.duration", "Duration of a run.", _WORKFLOW_SECONDS)

    def follow(self, log: EventLog) -> None:
        """Listen to a run, new or resumed; its spans are below the span that is current now."""
        log.subscribe(RunTrace(self, log))


def _server(url: str | None) -> dict[str, Any]:
    parts = urlsplit(url or "")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": port or (80 if parts.scheme == "http" else 443)}
