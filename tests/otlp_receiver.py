"""A collector's receiving end: OTLP over HTTP with protobuf bodies, on loopback."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.loopback import HttpServer, LoopbackServer


class OtlpReceiver(LoopbackServer):
    """Takes what exporters send.

    Attributes:
        traces: Every request with spans.
        metrics: Every request with metrics.
        status: What is answered.
        hang: Whether nothing is answered before the end.
    """

    def __init__(self, *, status: int = 200, hang: bool = False) -> None:
        super().__init__()
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.status, self.hang = status, hang

    def spans(self) -> list[Span]:
        """Return all spans."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metric_names(self) -> set[str]:
        """Return the names of all metrics."""
        return {
            metric.name
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes(span: Span) -> dict[str, Any]:
    """Return a span's attributes as Python values."""
    return {each.key: _value(each.value) for each in span.attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""

    def do_POST(self) -> None:
        owner: OtlpReceiver = self.server.owner
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.headers["Content-Type"] == "application/x-protobuf"
        if owner.hang:
            owner.closing.wait(30)
        elif self.path == "/v1/traces":
            owner.traces.append(ExportTraceServiceRequest.FromString(body))
        elif self.path == "/v1/metrics":
            owner.metrics.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(owner.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


OtlpReceiver.handler = _Handler
