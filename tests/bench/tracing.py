"""What a turn costs with a store and tracing on."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agentexec.events import Event, RunStarted
from agentexec.solving import solve
from agentexec.telemetry import Tracing
from sandboxes.fake import FakeExecutor
from tests.bench.loop_bench import InstantModel
from tests.bench.measure import Row


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _seconds(turns: int, tracing: Tracing, store: str | None) -> float:
    began = 0.0

    def on_event(event: Event) -> None:
        nonlocal began
        if isinstance(event, RunStarted):
            began = time.perf_counter()

    options: dict[str, Any] = {} if store is None else {"store": store}
    result = await solve(
        "Count.",
        model=InstantModel(),
        executor=FakeExecutor(lambda block: "12345\n" * 10),
        max_turns=turns,
        on_event=on_event,
        tracing=tracing,
        **options,
    )
    assert result.turns == turns
    return time.perf_counter() - began


def overhead_ms(turns: int, *, kept: bool, rounds: int = 3) -> float:
    """Return the median milliseconds per turn, with tracing on and, if `kept`, the store too."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    tracing = Tracing(tracer_provider=provider, meter_provider=meters)
    figures = []
    with tempfile.TemporaryDirectory() as store:
        for _ in range(rounds):
            gc.collect()
            figures.append(asyncio.run(_seconds(turns, tracing, store if kept else None)) * 1000 / turns)
    provider.shutdown()
    meters.shutdown()
    return statistics.median(figures)


def loop_with_tracing_and_store() -> list[Row]:
    """Framework time per turn with an instant model, every span recorded and every event committed."""
    few, many = overhead_ms(50, kept=True), overhead_ms(5000, kept=True, rounds=1)
    return [
        Row("loop per turn, store and tracing, 50 turns", few, "ms", most=1.5),
        Row("loop per turn, store and tracing, 5,000 turns", many, "ms", most=1.5),
        Row("  5,000 over 50 turns", many / few, "x", most=1.2),
        Row("  tracing alone, 50 turns", overhead_ms(50, kept=False), "ms"),
    ]


MEASURES = (loop_with_tracing_and_store,)
