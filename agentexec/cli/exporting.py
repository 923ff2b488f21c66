"""The SDK of OpenTelemetry, set up for one command; needs the extra `otel`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider as MeterProviderApi
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracerProvider
from opentelemetry.trace import TracerProvider as TracerProviderApi

from agentexec.telemetry import Tracing


class Exporting:
    """Providers of the command's own; nothing global is set.

    Attributes:
        endpoint: Where spans go, for people.
        failed: Why some of them did not arrive; empty if they did, or none were sent yet.
    """

    def __init__(self, *, traces: bool, metrics: bool) -> None:
        self.failed = ""
        named = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        self.endpoint = named or "http://localhost:4318"
        resource = Resource.create()  # which reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "agentexec"}))
        self._spans: TracerProvider | None = None
        self._meters: MeterProvider | None = None
        if traces:
            self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._spans.add_span_processor(BatchSpanProcessor(_Noting(OTLPSpanExporter(), self)))
        if metrics:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)

    def tracing(self, server: str | None) -> Tracing:
        """Return what traces runs into these providers."""
        spans: TracerProviderApi = self._spans or NoOpTracerProvider()
        meters: MeterProviderApi = self._meters or NoOpMeterProvider()
        return Tracing(tracer_provider=spans, meter_provider=meters, server=server)

    def close(self) -> None:
        """Send what is left. May take as long as the exporter waits for the collector."""
        if self._spans is not None:
            self._spans.force_flush()
            self._spans.shutdown()
        if self._meters is not None:
            self._meters.shutdown()


class _Noting(SpanExporter):
    """Exports, and remembers whether that worked."""

    def __init__(self, exporter: SpanExporter, owner: Exporting) -> None:
        self._exporter, self._owner = exporter, owner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._owner.failed = "the collector cannot be reached, or refuses them"
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
