"""What tracing adds to a turn, every span and measurement taken in by the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Sequence

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


@contextlib.contextmanager
def recording() -> Iterator[Tracing]:
    """Give a `Tracing` whose spans and measurements are really recorded, and then thrown away."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Nowhere()))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    try:
        yield Tracing(tracer_provider=provider, meter_provider=meters)
    finally:
        provider.shutdown()
        meters.shutdown()


async def _seconds(turns: int, tracing: Tracing | bool) -> tuple[float, float]:
    began = used = 0.0

    def on_event(event: Event) -> None:
        nonlocal began, used
        if isinstance(event, RunStarted):
            began, used = time.perf_counter(), time.process_time()

    result = await solve(
        "Count.",
        model=InstantModel(),
        executor=FakeExecutor(lambda block: "12345\n" * 10),
        max_turns=turns,
        on_event=on_event,
        tracing=tracing,
    )
    assert result.turns == turns
    return time.perf_counter() - began, time.process_time() - used


def overhead_ms(turns: int, *, traced: bool = True, rounds: int = 3) -> tuple[float, float]:
    """Return the median milliseconds per turn, and the CPU time of them."""
    figures = []
    with recording() as tracing:
        for _ in range(rounds):
            gc.collect()
            wall, cpu = asyncio.run(_seconds(turns, tracing if traced else False))
            figures.append((wall * 1000 / turns, cpu * 1000 / turns))
    return statistics.median(wall for wall, _ in figures), statistics.median(cpu for _, cpu in figures)


def loop_with_tracing() -> list[Row]:
    """Framework time per turn with an instant model; the store comes on top of it in `kept_loop`."""
    floor, _ = overhead_ms(50, traced=False)
    few, cpu = overhead_ms(50)
    many, _ = overhead_ms(5000, rounds=1)
    return [
        Row("loop per turn with tracing, 50 turns", few, "ms", floor, most=1.0),
        Row("  CPU time of it", cpu, "ms"),
        Row("loop per turn with tracing, 5,000 turns", many, "ms", most=1.0),
        Row("  5,000 over 50 turns", many / few, "x", most=1.2),
    ]


MEASURES = (loop_with_tracing,)
