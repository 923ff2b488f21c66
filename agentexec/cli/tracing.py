"""Spans and metrics of the command, sent where OpenTelemetry's own variables say."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from agentexec.cli.output import say

if TYPE_CHECKING:
    from agentexec.telemetry import Tracing

FLUSH_SECONDS = 3.0
"""How long the end of the command may wait for a collector."""

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SIGNALS = ("TRACES", "METRICS")


def _wanted(signal: str) -> str:
    """Return the variable that asks for a signal; empty if none does."""
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return ""
    names = (f"OTEL_{signal}_EXPORTER", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", _ENDPOINT)
    return next((name for name in names if os.environ.get(name, "").strip()), "")


@contextlib.contextmanager
def tracing(server: str | None = None) -> Iterator[Tracing | None]:
    """Give what traces the command, or None where no variable asks for that; send what is left at the end.

    What cannot be sent costs a line on stderr and at most `FLUSH_SECONDS`, never the run.

    Args:
        server: Base URL of the models' server.
    """
    wanted = {signal: variable for signal in _SIGNALS if (variable := _wanted(signal))}
    if not wanted or not _supported(wanted):
        yield None
        return
    try:
        from agentexec.cli.exporting import Exporting
    except ImportError:
        say(
            f"{next(iter(wanted.values()))} asks for traces, and what sends them is not installed: "
            "type pip install 'agentexec-toolkit[otel]'; going on without"
        )
        yield None
        return
    # The SDK tells of every failed attempt in a log that nobody set up, in the middle of the view.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    exporting = Exporting(traces="TRACES" in wanted, metrics="METRICS" in wanted)
    try:
        yield exporting.tracing(server)
    finally:
        if not _within(FLUSH_SECONDS, exporting.close):
            exporting.failed = exporting.failed or f"no answer within {FLUSH_SECONDS:g} s"
        if exporting.failed:
            say(f"traces were not delivered to {exporting.endpoint}: {exporting.failed}")


def _supported(wanted: dict[str, str]) -> bool:
    for signal in wanted:
        exporter = os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() or "otlp"
        if exporter != "otlp":
            say(f"OTEL_{signal}_EXPORTER={exporter} is not supported; set it to otlp or none. Going on without traces")
            return False
        names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        for name in names:
            if os.environ.get(name, "http/protobuf") not in ("", "http/protobuf"):
                say(f"{name}: only http/protobuf is supported. Going on without traces")
                return False
    return True


def _within(seconds: float, call: Callable[[], None]) -> bool:
    """Make a call in a thread that does not keep the process from ending; return whether it came back in time."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
